"""The model's answer -> boxes, points, text lines and 3D boxes in the original image's pixels and the camera's metres.

Every complete object is saved and everything lost is counted: a broken answer is never an empty one. Coordinates
are 0..1000 of the original width and height, whatever the network saw, and become pixels in one place, `_to_px`.
Knows nothing of engines, depth or ROS.

Source: the answer formats of the Qwen3-VL notebooks and the malformations reported in its issues.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.questions.parsing.candidates import Candidate, Candidates
from qwen3vl_ros.questions.parsing.denials import is_refusal
from qwen3vl_ros.questions.parsing.scores import TokenLogprobs, box_score
from qwen3vl_ros.questions.parsing.tolerant_json import read
from qwen3vl_ros.types import Detection2D, Generation, MalformedAnswer, ModelBox3D, Point2D, Request, Task

FULL_SCALE = 1000.0
_SLACK = 50.0  # this far outside 0..1000 is a slip at the border, farther is another scale
_POINT_EXTENT = 100.0  # a point has no size of its own: a tenth of the image
_ANGLE_EXTENT = 0.5  # of pi: a quarter turn
# Same length each, so that characters keep their places.
_REPAIRS = (
    (r"\"", ' "'),
    (r"\n", "  "),
    ("&quot;", '"     '),
    ("“", '"'),
    ("”", '"'),
    ("‘", "'"),
    ("’", "'"),
    ("：", ":"),
    ("，", ","),
    ("［", "["),
    ("］", "]"),
    ("【", "["),
    ("】", "]"),
    ("｛", "{"),
    ("｝", "}"),
)
_END_OF_TURN = re.compile(r"<\|(?:im_end|im_start|endoftext)\|>")


@dataclass(frozen=True, eq=False)
class Answer:
    """What an answer says. All empty means "looked and saw nothing". READ_TEXT gives detections labelled by the text.

    dropped: objects that were begun and could not be read. repeats: exact repeats of an object, said once here.
    notes: what was mended or dropped, for logs.
    """

    detections: tuple[Detection2D, ...] = ()
    points: tuple[Point2D, ...] = ()
    boxes_3d: tuple[ModelBox3D, ...] = ()
    dropped: int = 0
    repeats: int = 0
    notes: tuple[str, ...] = ()


def read_answer(generation: Generation, request: Request, size_px: tuple[int, int]) -> Answer:
    """Read the answer to `request` on an image of size_px (width, height).

    Raises MalformedAnswer when nothing can be read, or when the coordinates are of another scale. An answer to ASK
    is text first: the boxes and points it holds are returned, and it is malformed only when it says nothing.
    """
    start, end = _answer_span(generation.text)
    text = generation.text[:end]
    if request.task is Task.ASK and not _garbage(text[start:]):
        collected = Candidates(text, request)
        collected.take(read(text, start))
    else:
        collected = _collect(text, start, generation, request)
    return _Placed(collected, TokenLogprobs.of(generation), size_px).answer()


def _collect(text: str, start: int, generation: Generation, request: Request) -> Candidates:
    """The candidates in text[start:]. Raises MalformedAnswer if there are none and it does not say "nothing"."""
    for attempt in dict.fromkeys((text, _repaired(text))):
        reading = read(attempt, start)
        collected = Candidates(attempt, request)
        collected.take(reading)
        if not collected.found and not collected.dropped and not collected.absent:
            collected.take_bare(reading)
        if collected.found:
            return collected
    if collected.dropped:
        why = f"none of the {collected.dropped} objects in the answer could be read ({'; '.join(collected.notes())})"
    elif collected.absent or _says_nothing(text[start:], generation, request):
        return collected
    else:
        why = _garbage(text[start:]) or "the answer holds no object and does not say that there is none"
    raise MalformedAnswer(
        f"{why}: {text[start : start + 80]!r}; {_way_out(generation)}", generation.text, collected.dropped
    )


def _way_out(generation: Generation) -> str:
    if generation.finish_reason in ("length", "deadline"):
        return (
            f"it was cut short ({generation.finish_reason}): raise generation.max_new_tokens or "
            "generation.deadline, or ask for less"
        )
    return "see ~/generation for the whole text, and check the checkpoint and its precision if this repeats"


def _garbage(text: str) -> str:
    """Why the text says nothing at all, or an empty string."""
    said = "".join(text.split())
    if not said:
        return "the answer is empty"
    if len(said) >= 4 and not said[0].isalnum() and said == said[0] * len(said):
        return "the answer is one character repeated, as broken low-precision weights give it"
    return ""


def _says_nothing(text: str, generation: Generation, request: Request) -> bool:
    """Whether the text, in which no object was begun, clearly says that there is none."""
    empty = re.compile(r"(?:`{3})?(?:json)?(?:\[\]|\{\})[.;]?(?:`{3})?", re.IGNORECASE)
    if any(empty.fullmatch("".join(part.split())) for part in (text, *text.splitlines())):
        return True
    return generation.finish_reason == "stop" and is_refusal(text, request)


def _answer_span(text: str) -> tuple[int, int]:
    """Where the answer begins, if remains of a <think> part stand before it, and where its turn ends. Neither the
    reasoning nor a next turn that the model imagines is ever read."""
    closing, opening = text.rfind("</think>"), text.find("<think>")
    start = closing + len("</think>") if closing >= 0 else 0
    if closing < opening and not text[:opening].strip():
        start = len(text)
    end = _END_OF_TURN.search(text, start)
    return start, end.start() if end else len(text)


def _repaired(text: str) -> str:
    """The text with escaped and typographic quotes and brackets made plain, every character in its place."""
    for broken, plain in _REPAIRS:
        text = text.replace(broken, plain)
    return text


class _Placed:
    """Candidates -> values in pixels and metres."""

    def __init__(self, collected: Candidates, said: TokenLogprobs, size_px: tuple[int, int]):
        self.request, self.said, self.size_px = collected.request, said, size_px
        self.reasons, self.mended = collected.reasons, collected.mended
        self.candidates, self.notes = collected.found, collected.notes
        self.repeats = 0

    def answer(self) -> Answer:
        candidates = self._once(self._finite(self.candidates))
        detections, points, boxes_3d = [], [], []
        if self.request.task is not Task.DETECT_3D:
            candidates = self._of_our_scale(candidates)
        for c in candidates:
            if len(c.numbers) == 4:
                detections += self._box(c)
            elif len(c.numbers) == 2:
                points += self._point(c)
            else:
                boxes_3d += self._box_3d(c)
        dropped = sum(self.reasons.values())
        if dropped and not (detections or points or boxes_3d) and self.request.task is not Task.ASK:
            raise MalformedAnswer(
                f"none of the {dropped} objects in the answer could be used ({'; '.join(self.notes())})",
                self.said.text,
                dropped,
            )
        return Answer(tuple(detections), tuple(points), tuple(boxes_3d), dropped, self.repeats, self.notes())

    def _finite(self, candidates: list[Candidate]) -> list[Candidate]:
        kept = [c for c in candidates if all(abs(v) < 1e9 for v in c.values)]
        if len(kept) < len(candidates):
            self.reasons["coordinates that are not finite"] += len(candidates) - len(kept)
        return kept

    def _once(self, candidates: list[Candidate]) -> list[Candidate]:
        first = {(c.label, c.values): c for c in reversed(candidates)}
        self.repeats = len(candidates) - len(first)
        if self.repeats:
            self.mended["exact repeat"] += self.repeats
        return [c for c in candidates if first[c.label, c.values] is c]

    def _of_our_scale(self, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates on the 0..1000 scale. Raises MalformedAnswer if the answer is on another one.

        A wrong scale makes every box wrong, also those that happen to lie below 1000, and a robot acts on them; so
        only a slip is forgiven: one object far outside among at least three, with numbers that are no pixels either.
        """
        if not candidates:
            return candidates
        off = [c for c in candidates if not all(-_SLACK <= v <= FULL_SCALE + _SLACK for v in c.values)]
        values = [v for c in candidates for v in c.values]
        unit = all(0.0 <= v <= 1.0 for v in values) and any(0.0 < v < 1.0 for v in values)
        as_pixels = any(all(-_SLACK <= v <= 1.05 * self.size_px[i % 2] for i, v in enumerate(c.values)) for c in off)
        if not (unit or off) or (off and len(off) == 1 and len(candidates) >= 3 and not as_pixels):
            if off:
                self.reasons["coordinates far outside 0..1000"] += 1
            return [c for c in candidates if c not in off]
        if self.request.task is Task.ASK:
            self.reasons["coordinates on another scale than 0..1000"] += len(candidates)
            return []
        what = "0..1" if unit else "up to %g" % max(v for c in off for v in c.values)
        raise MalformedAnswer(
            f"coordinates are on another scale than 0..1000 ({what}, in {len(off) or len(candidates)} of "
            f"{len(candidates)} objects, image {self.size_px[0]}x{self.size_px[1]}); check that the checkpoint is a "
            "Qwen3-VL and what the server does to images",
            self.said.text,
            len(candidates),
        )

    def _to_px(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """x, y, x, y … in 0..1000 -> pixels of the original image, inside it."""
        if any(not 0.0 <= v <= FULL_SCALE for v in values):
            self.mended["coordinate just outside 0..1000, clamped"] += 1
        return tuple(min(max(v / FULL_SCALE, 0.0), 1.0) * self.size_px[i % 2] for i, v in enumerate(values))

    def _box(self, c: Candidate) -> list[Detection2D]:
        (xa, ya, xb, yb) = c.values
        if xa > xb or ya > yb:
            self.mended["corners in reverse order, swapped"] += 1
        corners = min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)
        x1, y1, x2, y2 = self._to_px(corners)
        if not (x2 > x1 and y2 > y1):
            self.reasons["box without area inside the image"] += 1
            return []
        width, height = corners[2] - corners[0], corners[3] - corners[1]
        score = box_score(self.said, c.numbers, (width, height, width, height), c.label_span)
        return [Detection2D(c.label, (x1, y1, x2, y2), score)]

    def _point(self, c: Candidate) -> list[Point2D]:
        score = box_score(self.said, c.numbers, (_POINT_EXTENT, _POINT_EXTENT), c.label_span)
        return [Point2D(c.label, self._to_px(c.values), score)]

    def _box_3d(self, c: Candidate) -> list[ModelBox3D]:
        center, size, angles = (np.asarray(c.values[i : i + 3]) for i in (0, 3, 6))
        near = np.all(np.abs(center) < 1000.0) and np.all(size < 1000.0)
        if not (near and np.all(size > 0.0) and center[2] > 0.0):
            self.reasons["3D box without volume or not in front of the camera"] += 1
            return []
        if np.any(np.abs(angles) > 2.0):
            self.reasons["3D box whose angles are not in units of pi"] += 1
            return []
        extents = (*size, *size, *(_ANGLE_EXTENT,) * 3)
        score = box_score(self.said, c.numbers, extents, c.label_span)
        return [ModelBox3D(c.label, center, size, rotation_of(angles), score)]


def rotation_of(angles_pi: np.ndarray) -> np.ndarray:
    """3x3 R = Rz Ry Rx from rotations about the camera's X, Y, Z, which Qwen3-VL gives in units of pi rad."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.pi * np.asarray(angles_pi)), np.sin(np.pi * np.asarray(angles_pi))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
