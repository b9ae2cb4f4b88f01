"""The model's answer -> boxes, points, text lines and 3D boxes in the original image's pixels and the camera's metres.

Every complete object is saved and everything lost is counted: a broken answer is never an empty one. Coordinates
are 0..1000 of the original width and height, whatever the network saw, and become pixels in one place, `_to_px`.
Knows nothing of engines, depth or ROS.

Source: the answer formats of the Qwen3-VL notebooks and the malformations reported in its issues.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Iterable

import numpy as np

from qwen3vl_ros.perception.refusals import is_refusal
from qwen3vl_ros.perception.scores import TokenLogprobs, box_score
from qwen3vl_ros.perception.tolerant_json import Field, Number, Object, Reading, read
from qwen3vl_ros.types import Detection2D, Generation, MalformedAnswer, ModelBox3D, Point2D, Request, Task

FULL_SCALE = 1000.0
_SLACK = 50.0  # this far outside 0..1000 is a slip at the border, farther is another scale
_POINT_EXTENT = 100.0  # a point has no size of its own: a tenth of the image
_ANGLE_EXTENT = 0.5  # of pi: a quarter turn
_NUMBERS = {Task.DETECT: (4,), Task.READ_TEXT: (4,), Task.POINT: (2,), Task.DETECT_3D: (9,), Task.ASK: (4, 2)}

_GEOMETRY_KEY = re.compile(r"(?:bbox|box|boundingbox|bndbox|point|keypoint|coordinate|coord)(?:e?s)?(?:[23]d)?(?:e?s)?(?:xyxy)?")
_LABEL_KEYS = ("label", "name", "class", "classname", "category", "categoryname", "object", "objectname", "target",
               "ref", "phrase", "text", "textcontent", "description", "type", "title")
_TEXT_KEYS = ("textcontent", "text", "content", "transcription", "value", "label")
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"), ("x", "y"))
_PLACEHOLDER = re.compile(r"(?:point|object|label|category|bbox|box)?[ _]?\d*", re.IGNORECASE)
# Same length each, so that characters keep their places.
_REPAIRS = ((r"\"", ' "'), (r"\n", "  "), ("&quot;", '"     '), ("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"),
            ("：", ":"), ("，", ","), ("［", "["), ("］", "]"), ("【", "["), ("】", "]"), ("｛", "{"), ("｝", "}"))


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


@dataclass(eq=False)
class _Candidate:
    """An object with the right number of coordinates, in the answer's own scale."""

    numbers: list[Number]
    label: str
    label_span: tuple[int, int] | None

    def __post_init__(self):
        self.values = tuple(n.value for n in self.numbers)


def read_answer(generation: Generation, request: Request, size_px: tuple[int, int]) -> Answer:
    """Read the answer to `request` on an image of size_px (width, height).

    Raises MalformedAnswer when nothing can be read, or when the coordinates are of another scale. An answer to ASK
    is text first: the boxes and points it holds are returned, and it is malformed only when it says nothing.
    """
    text, start = generation.text, _end_of_reasoning(generation.text)
    task = request.task
    if task is Task.ASK and not _garbage(text[start:]):
        collected = _Collected(text, request)
        collected.take(read(text, start))
    else:
        collected = _collect(text, start, generation, request)
    return _Placed(collected, TokenLogprobs.of(generation), size_px).answer()


def _collect(text: str, start: int, generation: Generation, request: Request) -> _Collected:
    """The candidates in text[start:]. Raises MalformedAnswer if there are none and it does not say "nothing"."""
    for attempt in dict.fromkeys((text, _repaired(text))):
        reading = read(attempt, start)
        collected = _Collected(attempt, request)
        collected.take(reading)
        if not collected.found and not collected.seen:
            collected.take_bare(reading)
        if collected.found:
            break
    if collected.found:
        return collected
    if collected.dropped:
        reasons = "; ".join(collected.notes())
        raise MalformedAnswer(f"none of the {collected.dropped} objects in the answer could be read ({reasons}); "
                              f"{_way_out(generation)}", text, collected.dropped)
    if collected.absent or _says_nothing(text[start:], generation, request):
        return collected
    raise MalformedAnswer(f"{_garbage(text[start:]) or 'the answer holds no object and does not say that there is none'}"
                          f": {text[start:start + 80]!r}; {_way_out(generation)}", text)


def _way_out(generation: Generation) -> str:
    if generation.finish_reason in ("length", "deadline"):
        return (f"it was cut short ({generation.finish_reason}): raise generation.max_new_tokens or "
                "generation.deadline, or ask for less")
    return "see ~/generation for the whole text, and check the checkpoint and its precision if this repeats"


def _garbage(text: str) -> str:
    """Why the text says nothing at all, or an empty string."""
    if not text.strip():
        return "the answer is empty"
    if len(text.strip()) >= 4 and len(set(text.split())) <= 1 and len(set(text.strip())) <= 2 and not text.strip()[0].isalnum():
        return "the answer is one character repeated, as broken low-precision weights give it"
    return ""


def _says_nothing(text: str, generation: Generation, request: Request) -> bool:
    """Whether the text, in which no object was begun, clearly says that there is none."""
    if any(re.fullmatch(r"`*(?:json)?\s*(?:\[\s*\]|\{\s*\}|null|none)\s*`*[.;]?", line.strip(), re.IGNORECASE)
           for line in text.splitlines()):
        return True
    joined = "".join(text.split()).strip("`").removeprefix("json")
    if joined in ("[]", "{}"):
        return True
    return generation.finish_reason == "stop" and is_refusal(text, request)


def _end_of_reasoning(text: str) -> int:
    """Where the answer begins if remains of a <think> part stand before it; the reasoning is never read."""
    closing = text.rfind("</think>")
    if closing >= 0:
        return closing + len("</think>")
    opening = text.find("<think>")
    return len(text) if opening >= 0 and not text[:opening].strip() else 0


def _repaired(text: str) -> str:
    """The text with escaped and typographic quotes and brackets made plain, every character in its place."""
    for broken, plain in _REPAIRS:
        text = text.replace(broken, plain)
    return text


@lru_cache(maxsize=1024)
def _plain(key: str) -> tuple[str, str]:
    """(key without case, separators and trailing index, that index): "BBox_2D-3" -> ("bbox2d", "3")."""
    key = re.sub(r"[\W_]", "", key[:48].lower())
    match = re.fullmatch(r"(.*?(?:[23]d)?)(\d*)", key)
    return match.group(1), match.group(2)


@lru_cache(maxsize=1024)
def _names_geometry(key: str) -> bool:
    return _GEOMETRY_KEY.fullmatch(_plain(key)[0]) is not None


class _Collected:
    """Sorts fields into candidates, and counts what is lost."""

    def __init__(self, text: str, request: Request):
        self.text, self.request = text, request
        self.arity = _NUMBERS[request.task]
        self.targets = {" ".join(t.lower().split()): t for t in request.targets}
        self.label_keys = _TEXT_KEYS if request.task is Task.READ_TEXT else _LABEL_KEYS
        self.found: list[_Candidate] = []
        self.reasons: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.absent = 0

    @property
    def dropped(self) -> int:
        return sum(self.reasons.values())

    @property
    def seen(self) -> int:
        return self.dropped + self.absent

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{n} x {why}" for counter in (self.reasons, self.mended) for why, n in counter.items())

    def take(self, reading: Reading) -> None:
        """Every object with keys."""
        for obj in reading.objects:
            self._lift_corners(obj)
        for obj in reading.objects:
            self._take_object(obj)
        self.found.sort(key=lambda c: c.numbers[0].start)

    def take_bare(self, reading: Reading) -> None:
        """Lists of numbers without keys."""
        for group in reading.bare:
            if len(group) in self.arity:
                self._add(group, None, closed=True)
                self.mended["list of numbers without a key"] += 1
            elif len(group) > 1:
                self.reasons[f"{len(group)} numbers where {self._asked()} were asked"] += 1

    def _asked(self) -> str:
        return " or ".join(map(str, self.arity))

    def _lift_corners(self, obj: Object) -> None:
        """Give {"x1": …, "y1": …} to the field it is the value of, or make it a field of its own object."""
        values = {_plain(f.key)[0] + _plain(f.key)[1]: f.groups[0] for f in obj.fields
                  if f.kind == "numbers" and len(f.groups) == 1 and len(f.groups[0]) == 1}
        names = next((names for names in _CORNERS if len(names) in self.arity and all(n in values for n in names)), None)
        if names is None:
            return
        numbers = [values[name][0] for name in names]
        if obj.within is not None and _names_geometry(obj.within.key):
            obj.within.kind, obj.within.groups = "numbers", obj.within.groups + [numbers]
            obj.fields.clear()
            obj.closed = True
        elif not any(self._is_geometry(f) for f in obj.fields):
            first = obj.fields[0]
            obj.fields.append(Field("bbox", first.key_start, "numbers", [numbers], start=first.start, end=first.end))

    def _is_geometry(self, f: Field) -> bool:
        """A key that names coordinates; a word such as "box" with text behind it is a label."""
        return f.kind != "text" and f.kind != "open" and _names_geometry(f.key)

    def _take_object(self, obj: Object) -> None:
        geometry = [f for f in obj.fields if self._is_geometry(f)]
        if not geometry:
            by_target = [f for f in obj.fields if f.kind == "numbers" and self._named_by_key(f, obj) is not None]
            for f in by_target:
                for group in self._groups(f):
                    self._add(group, f, closed=True, label=self._named_by_key(f, obj))
            if obj.fields and all(f.kind == "empty" and _plain(f.key)[0] not in self.label_keys for f in obj.fields):
                self.absent += 1  # {"objects": []}, {"mug": null}
                return
            begun = obj.braced and not obj.children and (obj.fields or not obj.closed)
            if begun and not by_target and obj.within is None and self.request.task is not Task.ASK:
                self.reasons["object without coordinates" if obj.closed else "object cut short"] += 1
            return
        fits = [f for f in geometry if f.kind == "numbers" and self._fits(f)]
        for f, label in self._pair(geometry, obj):
            if f.kind == "empty":
                self.absent += 1
            elif f in fits:
                for group in self._groups(f):
                    self._add(group, label, obj.closed, enclosing=obj.within)
            elif not any(other is not f and _plain(other.key)[0] != _plain(f.key)[0] for other in fits):
                self._lose(f)

    def _pair(self, geometry: list[Field], obj: Object) -> Iterable[tuple[Field, Field | None]]:
        """Coordinates and labels of one pair of braces, which after a lost brace may hold several objects."""
        present = {_plain(f.key)[0] for f in obj.fields if f.kind in ("text", "numbers", "bad", "empty")}
        key = next((k for k in self.label_keys if k in present), None)
        labels = [f for f in obj.fields if _plain(f.key)[0] == key and f not in geometry]
        if len(labels) == len(geometry):
            return list(zip(geometry, labels))
        if len({_plain(f.key)[0] for f in geometry}) == len(geometry):  # bbox_2d and point_2d of one object
            return [(f, labels[0] if labels else None) for f in geometry]
        before = bool(labels) and labels[0].key_start < geometry[0].key_start
        pairs = []
        for i, f in enumerate(geometry):
            low = (geometry[i - 1].key_start if i else -1) if before else f.key_start
            high = f.key_start if before else geometry[i + 1].key_start if i + 1 < len(geometry) else math.inf
            pairs.append((f, next((l for l in labels if low < l.key_start < high), None)))
        return pairs

    def _fits(self, f: Field) -> bool:
        return not f.cut and bool(self._groups(f))

    def _groups(self, f: Field) -> list[list[Number]]:
        """The coordinate lists in f: each of its lists, or all its numbers together ([[x1, y1], [x2, y2]])."""
        if all(len(g) in self.arity for g in f.groups):
            return f.groups
        joined = [n for g in f.groups for n in g]
        return [joined] if len(joined) in self.arity else []

    def _lose(self, f: Field) -> None:
        n = sum(len(g) for g in f.groups)
        self.reasons["object cut short" if f.cut else "coordinates that are not numbers" if f.kind != "numbers" else
                     f"{n} numbers where {self._asked()} were asked"] += 1

    def _target(self, label: str) -> str | None:
        return self.targets.get(" ".join(label.lower().split()))

    def _named_by_key(self, f: Field, obj: Object) -> str | None:
        """The target that is the key of f: {"red cube": [...]}, or, without braces, `the red cube: [...]`."""
        if obj.braced:
            return self._target(f.key)
        before = self.text[max(0, f.key_start - 200):f.key_start + len(f.key)].lower()
        return next((self.targets[t] for t in sorted(self.targets, key=len, reverse=True) if before.endswith(t)), None)

    def _add(self, numbers: list[Number], label_field: Field | None, closed: bool, enclosing: Field | None = None,
             label: str | None = None) -> None:
        """Keep an object. Without a label it takes the only target, or, when there are several, stays unnamed: the
        box is what was measured, and a guessed name would send a gripper to the wrong thing."""
        only = self.request.targets[0] if len(self.targets) == 1 and self.request.task is not Task.READ_TEXT else None
        span = None
        if label is not None:
            span = None
        elif label_field is not None and label_field.text.strip() and label_field.kind != "empty":
            span = (label_field.start, label_field.end)
            label = _clean(label_field.text)
            if label_field.cut:
                whole = [t for key, t in self.targets.items() if key.startswith(label.strip("`").strip().lower())]
                label = whole[0] if len(whole) == 1 and self.request.task is not Task.READ_TEXT else None
            elif only is not None and _PLACEHOLDER.fullmatch(label):
                label = only
            else:
                label = self._target(label) or label
        elif enclosing is not None and self._target(enclosing.key):
            label = self._target(enclosing.key)
        if label is None and only is not None:
            label, span = only, None
            self.mended["label missing, the only target taken"] += 1
        if label is None and (not closed or self.request.task is Task.READ_TEXT):
            self.reasons["object cut short" if not closed else "line without its text"] += 1
            return
        if label is None:
            label = ""
            self.mended["label missing"] += 1
        self.found.append(_Candidate(numbers, label, span))


def _clean(label: str) -> str:
    """One line of printable characters, which UTF-8 can always encode."""
    printable = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in label)
    return " ".join(printable.split())


class _Placed:
    """Candidates -> values in pixels and metres."""

    def __init__(self, collected: _Collected, said: TokenLogprobs, size_px: tuple[int, int]):
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
            raise MalformedAnswer(f"none of the {dropped} objects in the answer could be used ({'; '.join(self.notes())})",
                                  self.said.text, dropped)
        return Answer(tuple(detections), tuple(points), tuple(boxes_3d), dropped, self.repeats, self.notes())

    def _finite(self, candidates: list[_Candidate]) -> list[_Candidate]:
        kept = [c for c in candidates if all(abs(v) < 1e9 for v in c.values)]
        if len(kept) < len(candidates):
            self.reasons["coordinates that are not finite"] += len(candidates) - len(kept)
        return kept

    def _once(self, candidates: list[_Candidate]) -> list[_Candidate]:
        first = {(c.label, c.values): c for c in reversed(candidates)}
        self.repeats = len(candidates) - len(first)
        if self.repeats:
            self.mended["exact repeat"] += self.repeats
        return [c for c in candidates if first[c.label, c.values] is c]

    def _of_our_scale(self, candidates: list[_Candidate]) -> list[_Candidate]:
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
        raise MalformedAnswer(f"coordinates are on another scale than 0..1000 ({what}, in {len(off) or len(candidates)} "
                              f"of {len(candidates)} objects, image {self.size_px[0]}x{self.size_px[1]}); check that the "
                              "checkpoint is a Qwen3-VL and what the server does to images",
                              self.said.text, len(candidates))

    def _to_px(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """x, y, x, y … in 0..1000 -> pixels of the original image, inside it."""
        if any(not 0.0 <= v <= FULL_SCALE for v in values):
            self.mended["coordinate just outside 0..1000, clamped"] += 1
        return tuple(min(max(v / FULL_SCALE, 0.0), 1.0) * self.size_px[i % 2] for i, v in enumerate(values))

    def _box(self, c: _Candidate) -> list[Detection2D]:
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

    def _point(self, c: _Candidate) -> list[Point2D]:
        score = box_score(self.said, c.numbers, (_POINT_EXTENT, _POINT_EXTENT), c.label_span)
        return [Point2D(c.label, self._to_px(c.values), score)]

    def _box_3d(self, c: _Candidate) -> list[ModelBox3D]:
        center, size, angles = (np.asarray(c.values[i:i + 3]) for i in (0, 3, 6))
        if not (np.all(size > 0.0) and np.all(size < 1000.0) and 0.0 < center[2] and np.all(np.abs(center) < 1000.0)):
            self.reasons["3D box without volume or not in front of the camera"] += 1
            return []
        if np.any(np.abs(angles) > 2.0):
            self.reasons["3D box whose angles are not in units of pi"] += 1
            return []
        extents = (*size, *size, *(_ANGLE_EXTENT,) * 3)
        return [ModelBox3D(c.label, center, size, rotation_of(angles), box_score(self.said, c.numbers, extents, c.label_span))]


def rotation_of(angles_pi: np.ndarray) -> np.ndarray:
    """3x3 R = Rz Ry Rx from rotations about the camera's X, Y, Z, which Qwen3-VL gives in units of pi rad."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.pi * np.asarray(angles_pi)), np.sin(np.pi * np.asarray(angles_pi))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
