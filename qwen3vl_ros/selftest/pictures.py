"""The pictures of the self-test and what is true of them: drawn here, or rendered once and shipped with the package.

A model that has seen photographs knows both kinds; one of a small simulated world knows only the rendered ones. Needs
neither the simulator nor a model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from qwen3vl_ros.files import read_rgb

FOLDER = Path(__file__).parent / "rendered"
TRUTH = FOLDER / "truth.json"
SIZE_PX = (640, 480)
_MOST_PIXELS = SIZE_PX[0] * SIZE_PX[1]
_INK = (20, 20, 20)
_PAPER = (238, 236, 230)

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Picture:
    """kind: "drawn" or "rendered". rgb: HxWx3 uint8. boxes: (label, xyxy in pixels) of every thing in it. reading: (value,
    unit, minimum, maximum) of the dial in it; text: what is written in it, and where."""

    kind: str
    rgb: np.ndarray
    boxes: tuple[tuple[str, Box], ...] = ()
    reading: tuple[float, str, float, float] | None = None
    text: tuple[str, Box] | None = None

    def boxes_of(self, word: str) -> list[Box]:
        """Of the things whose label holds this word."""
        return [box for label, box in self.boxes if word in label.split() or word == label]


def rendered(name: str) -> Picture:
    """ "table", "dial" or "sign": as `python -m qwen3vl_ros.selftest.render` wrote it."""
    told = json.loads(TRUTH.read_text(encoding="utf-8"))[name]
    rgb = read_rgb(FOLDER / f"{name}.jpg", _MOST_PIXELS)
    boxes = tuple((label, tuple(box)) for label, box in told["boxes"])
    reading = tuple(told["reading"]) if told["reading"] else None
    text = (told["text"][0], tuple(told["text"][1])) if told["text"] else None
    return Picture("rendered", rgb, boxes, reading, text)


def drawn_shapes() -> Picture:
    """A rectangle, a triangle and three discs, plain colours on paper."""
    rgb = _paper()
    cv2.rectangle(rgb, (60, 70), (239, 189), (206, 24, 24), -1)
    corners = np.array([(480, 40), (400, 200), (560, 200)], np.int32)
    cv2.fillPoly(rgb, [corners], (24, 140, 50), cv2.LINE_AA)
    boxes = [("red rectangle", (60, 70, 240, 190)), ("green triangle", (400, 40, 561, 201))]
    for x, y, radius in ((130, 350, 60), (330, 340, 45), (510, 360, 70)):
        cv2.circle(rgb, (x, y), radius, (28, 70, 200), -1, cv2.LINE_AA)
        boxes.append(("blue circle", (x - radius, y - radius, x + radius + 1, y + radius + 1)))
    return Picture("drawn", rgb, tuple(boxes))


def drawn_dial() -> Picture:
    """A round gauge from 0 to 10 bar over 270 degrees, its needle on 6.5."""
    rgb, centre, radius = _paper(), (320, 240), 190
    cv2.circle(rgb, centre, radius + 14, (90, 90, 95), -1, cv2.LINE_AA)
    cv2.circle(rgb, centre, radius, (250, 250, 250), -1, cv2.LINE_AA)
    for value in range(11):
        cv2.line(rgb, _on_dial(value, 0.82), _on_dial(value, 0.97), _INK, 3, cv2.LINE_AA)
        _write(rgb, str(value), _on_dial(value, 0.66), 0.9, 2)
    _write(rgb, "bar", (centre[0], centre[1] + 100), 1.0, 2)
    value = 6.5
    cv2.line(rgb, _on_dial(value, -0.15), _on_dial(value, 0.8), (200, 20, 20), 6, cv2.LINE_AA)
    cv2.circle(rgb, centre, 12, _INK, -1, cv2.LINE_AA)
    return Picture("drawn", rgb, reading=(value, "bar", 0.0, 10.0))


def drawn_text() -> Picture:
    """One word in capitals."""
    rgb = _paper()
    (width, height), _ = cv2.getTextSize("VALVE", cv2.FONT_HERSHEY_DUPLEX, 4.0, 9)
    left, bottom = (SIZE_PX[0] - width) // 2, 280
    cv2.putText(rgb, "VALVE", (left, bottom), cv2.FONT_HERSHEY_DUPLEX, 4.0, _INK, 9, cv2.LINE_AA)
    return Picture("drawn", rgb, text=("VALVE", (left, bottom - height, left + width, bottom)))


def _paper() -> np.ndarray:
    return np.full((SIZE_PX[1], SIZE_PX[0], 3), _PAPER, np.uint8)


def _on_dial(value: float, reach: float) -> tuple[int, int]:
    angle = math.radians(225 - 27 * value)
    return round(320 + 190 * reach * math.cos(angle)), round(240 - 190 * reach * math.sin(angle))


def _write(rgb: np.ndarray, text: str, centre: tuple[int, int], size: float, thickness: int) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, size, thickness)
    place = centre[0] - width // 2, centre[1] + height // 2
    cv2.putText(rgb, text, place, cv2.FONT_HERSHEY_DUPLEX, size, _INK, thickness, cv2.LINE_AA)
