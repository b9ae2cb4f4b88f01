"""The self-test of a server: where does it say that a rectangle is, which we drew and therefore know?

Qwen3-VL speaks 0..1000 of the image's own width and height. A server that resizes, pads or crops, or serves a
model of another family, answers on another scale, and every box would be wrong by it. Knows nothing of HTTP and engines.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Callable

import numpy as np

from qwen3vl_ros.boxes import iou
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import WrongModel

PROMPT = Detect(("red rectangle",)).prompt()
SIZE_PX = (640, 256)  # neither square nor close to 1000, so that no other scale looks like the right one
PLACES = ((580, 200, 820, 700), (150, 450, 350, 850))  # xyxy in 0..1000, one image each
_SAME = 0.75  # IoU from which a box is the rectangle: off by 4 % in scale is below it
_COARSE = 0.5  # IoU from which a model that sees badly still means the rectangle
_PRECISE = 12.0  # largest error, in 0..1000, of a model that sees well: another scale is then no slip
_NEAR = 30.0  # the same where the scale is off by GROSS, which nobody takes for a slip
_GROSS = 1.5
_BOX = re.compile(r"\[\s*(-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3})\s*\]")

Box = tuple[float, float, float, float]


def _scaled(x: float, y: float, dx: float = 0.0, dy: float = 0.0) -> Callable[[Box], Box]:
    return lambda b: ((b[0] - dx) * x, (b[1] - dy) * y, (b[2] - dx) * x, (b[3] - dy) * y)


_W, _H = SIZE_PX
# What was seen -> how an answer of that kind becomes 0..1000 of width and height.
_FAULTS: dict[str, Callable[[Box], Box]] = {
    "pixels of the image": _scaled(1000 / _W, 1000 / _H),
    "fractions 0..1": _scaled(1000, 1000),
    "per cent": _scaled(10, 10),
    "0..1000 of the longer side on both axes (wrong aspect)": _scaled(1, _W / _H),
    "0..1000 of the shorter side on both axes (wrong aspect)": _scaled(_H / _W, 1),
    "0..1000 of a square that the image was padded to (wrong aspect)": _scaled(1, _W / _H, 0, 500 * (_W - _H) / _W),
    "y before x": lambda b: (b[1], b[0], b[3], b[2]),
    "corner and size instead of two corners": lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]),
}


@dataclass(frozen=True)
class Picture:
    """An image with one red rectangle. box: where, xyxy in 0..1000 of width and height."""

    rgb: np.ndarray
    box: Box


def picture(box: Box) -> Picture:
    """Red on light grey, SIZE_PX."""
    rgb = np.full((_H, _W, 3), 225, np.uint8)
    x1, y1, x2, y2 = (round(v * side / 1000) for v, side in zip(box, (_W, _H) * 2))
    rgb[y1:y2, x1:x2] = (214, 22, 22)
    return Picture(rgb, box)


def self_test(ask: Callable[[np.ndarray, str], str]) -> str:
    """ "passed", "passed coarsely: …", or "inconclusive: …" where the answers show no scale. ask: (rgb,
    prompt) -> text.

    Raises WrongModel when the answers are on another scale, and names it.
    """
    answers: list[tuple[Box, list[Box]]] = []
    for place in PLACES:
        shown = picture(place)
        answers.append((place, boxes_in(ask(shown.rgb, PROMPT))))
        if len(answers) == 1 and _explains(_right, answers, _SAME):
            return "passed"
    if not all(boxes for _, boxes in answers):
        return "inconclusive: the model did not say where the drawn red rectangle is; its coordinates are unproven"
    seen = next((name for name, undo in _FAULTS.items() if _explains(undo, answers, _SAME)), "")
    seen = seen or _other_scale(answers)
    said = " and ".join(f"{[round(v, 3) for v in boxes[0]]} for {list(place)}" for place, boxes in answers)
    if seen:
        raise WrongModel(
            f"the server's coordinates are off: they are {seen}, not 0..1000 of width and "
            f"height (the self-test got {said}); serve a Qwen3-VL, and let nothing resize, pad "
            "or crop images on the way"
        )
    if _explains(_right, answers, _COARSE):
        return f"passed coarsely: the model said {said}"
    return f"inconclusive: the model said {said}, which no one scale explains; its coordinates are unproven"


def boxes_in(text: str) -> list[Box]:
    """Every list of four numbers in an answer."""
    return [tuple(map(float, found.split(","))) for found in _BOX.findall(text)]


def _right(box: Box) -> Box:
    return box


def _explains(undo: Callable[[Box], Box], answers: list[tuple[Box, list[Box]]], least: float) -> bool:
    return all(any(iou(undo(box), place) >= least for box in boxes) for place, boxes in answers)


def _other_scale(answers: list[tuple[Box, list[Box]]]) -> str:
    """The scale and offset that lead from the true boxes to the answers, in words; empty if no one pair
    does."""
    (place, boxes), (other, other_boxes) = answers
    for pair in itertools.product(boxes[:5], other_boxes[:5]):
        lines = [_line(place[i::2] + other[i::2], pair[0][i::2] + pair[1][i::2]) for i in (0, 1)]
        (sx, ox, x_error), (sy, oy, y_error) = lines
        gross = any(not 1 / _GROSS < s < _GROSS for s in (sx, sy))
        if min(sx, sy) <= 0 or max(x_error, y_error) > (_NEAR if gross else _PRECISE):
            continue
        if max(abs(ox / sx), abs(oy / sy)) <= _NEAR:
            return f"pixels of an image of about {1000 * sx:.0f}x{1000 * sy:.0f}"
        return f"0..1000 times ({sx:.3g}, {sy:.3g}) plus ({ox:.0f}, {oy:.0f}), as of a cropped image"
    return ""


def _line(true: tuple[float, ...], said: tuple[float, ...]) -> tuple[float, float, float]:
    """(slope, offset, largest error in true units) of the straight line said = slope * true + offset."""
    slope, offset = np.polyfit(true, said, 1)
    if slope <= 0:
        return slope, offset, math.inf
    return slope, offset, float(np.abs((np.array(said) - offset) / slope - true).max())
