"""What the self-test asks of each picture, and how one answer is judged. Knows no engine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Sequence

from qwen3vl_ros.boxes import iou
from qwen3vl_ros.questions import Ask, Detect, Detect3D, Gauge, Point, Question, ReadText
from qwen3vl_ros.selftest.pictures import Picture, drawn_dial, drawn_shapes, drawn_text, rendered
from qwen3vl_ros.types import Scene

_SAME = 0.5  # IoU from which a box is the one that was drawn
_READS = 0.05  # of a scale: the largest error of a reading
KNOWLEDGE, GUIDED = "knowledge", "boxes held to a schema"


@dataclass(frozen=True, eq=False)
class Check:
    """One question about one picture. ability: what it shows; two kinds of picture may show the same. judge: (scene) ->
    (right, what was found, in words). guided: the answer is held to its JSON schema."""

    ability: str
    picture: Picture
    question: Question
    judge: Callable[[Scene], tuple[bool, str]]
    guided: bool = False

    @property
    def name(self) -> str:
        return f"{self.ability}, {self.picture.kind}"


def all_checks() -> list[Check]:
    """In the order in which they are asked: what shows most about engine and model first."""
    shapes, table = drawn_shapes(), rendered("table")
    checks = []
    for picture, several, one, absent in (
        (table, ("cylinder", "bowl", "ball"), "yellow cylinder", "red mug"),
        (shapes, ("red rectangle", "green triangle", "blue circle"), "red rectangle", "elephant"),
    ):
        checks += [
            Check("boxes", picture, Detect(several), _boxes(picture, several)),
            Check("box of one", picture, Detect((one,)), _boxes(picture, (one,))),
            Check("absent", picture, Detect((absent,)), _nothing),
            Check("point", picture, Point((one,)), _point(picture, one)),
        ]
    checks += [
        Check("count", table, Ask("How many balls are there in the image? Answer with a number."), _number(2)),
        Check("count", shapes, Ask("How many blue circles are there in the image? Answer with a number."), _number(3)),
        Check(GUIDED, table, Detect(("ball",)), _boxes(table, ("ball",)), guided=True),
        Check("dial", rendered("dial"), Gauge(), _reading(rendered("dial"))),
        Check("dial", drawn_dial(), Gauge(), _reading(drawn_dial())),
        Check("text", drawn_text(), ReadText(), _text(drawn_text())),
        Check("text", rendered("sign"), ReadText(), _text(rendered("sign"))),
        Check("box in 3D", table, Detect3D(("ball",)), _in_front),
        Check(KNOWLEDGE, shapes, Ask("What is the capital of France? Answer with one word."), _word("paris")),
    ]
    return checks


def _boxes(picture: Picture, wanted: Sequence[str]) -> Callable[[Scene], tuple[bool, str]]:
    """Each thing that was asked for has its box, under its name, and nothing else has one."""
    drawn = [(word, box) for word in wanted for box in picture.boxes_of(word)]

    def judge(scene: Scene) -> tuple[bool, str]:
        left, hits, ious = list(scene.detections_2d), 0, []
        for word, box in drawn:
            best = max(left, key=lambda d: (d.label == word) + iou(d.box_xyxy_px, box), default=None)
            if best is None:
                continue
            ious.append(iou(best.box_xyxy_px, box))
            if best.label == word and ious[-1] >= _SAME:
                hits += 1
                left.remove(best)
        said = f"{hits} of {len(drawn)} boxes right" + f", {len(left)} that are not there" * bool(left)
        return hits == len(drawn) and not left, said + (f", IoU {min(ious):.2f} and more" if hits == len(drawn) else "")

    return judge


def _nothing(scene: Scene) -> tuple[bool, str]:
    found = len(scene.detections_2d)
    return not found, f"{found} boxes of what is not there" if found else "said to be absent"


def _point(picture: Picture, word: str) -> Callable[[Scene], tuple[bool, str]]:
    (box,) = picture.boxes_of(word)

    def judge(scene: Scene) -> tuple[bool, str]:
        inside = [p for p in scene.points if box[0] <= p.xy_px[0] <= box[2] and box[1] <= p.xy_px[1] <= box[3]]
        return len(inside) == len(scene.points) == 1, f"{len(inside)} of {len(scene.points)} points on it"

    return judge


def _number(wanted: int) -> Callable[[Scene], tuple[bool, str]]:
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def judge(scene: Scene) -> tuple[bool, str]:
        said = re.findall(r"\d+|" + "|".join(rf"\b{w}\b" for w in words), scene.text.lower())
        numbers = [words.index(s) if s in words else int(s) for s in said]
        return numbers == [wanted], f"said {_short(scene.text)}, there are {wanted}"

    return judge


def _reading(picture: Picture) -> Callable[[Scene], tuple[bool, str]]:
    value, unit, low, high = picture.reading

    def judge(scene: Scene) -> tuple[bool, str]:
        said = scene.value
        right = abs(said.value - value) <= _READS * (high - low) and said.unit.lower() == unit.lower()
        return right, f"read {said.value:g} {_short(said.unit)}, it shows {value:g} {unit}"

    return judge


def _text(picture: Picture) -> Callable[[Scene], tuple[bool, str]]:
    word, box = picture.text

    def judge(scene: Scene) -> tuple[bool, str]:
        lines = [d for d in scene.detections_2d if word.lower() in d.label.lower()]
        right = any(iou(d.box_xyxy_px, box) >= _SAME / 2 for d in lines)  # a font's box is nobody's in particular
        said = ", ".join(_short(d.label) for d in scene.detections_2d[:3]) or "nothing"
        return right, f"read {said}, it says {word}" + ", elsewhere" * (bool(lines) and not right)

    return judge


def _in_front(scene: Scene) -> tuple[bool, str]:
    """Where it stands is a guess of the model's, in a camera of its own; that it can be read, and lies in front, is not."""
    guessed = [d for d in scene.detections_3d if d.source == "model"]
    ahead = [d for d in guessed if d.frame_T_box[2, 3] > 0]
    return bool(ahead) and ahead == guessed, f"{len(ahead)} of {len(guessed)} boxes in front of the camera"


def _word(wanted: str) -> Callable[[Scene], tuple[bool, str]]:
    return lambda scene: (wanted in scene.text.lower(), f"said {_short(scene.text)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "…")
