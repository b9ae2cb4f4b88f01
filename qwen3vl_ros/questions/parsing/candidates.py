"""The objects of an answer -> candidates: the right number of coordinates, a label, and where both were said.

Decides which keys name coordinates and labels, which label belongs to which box when braces are lost, and counts what
is begun and cannot be saved. Knows nothing of pixels, scales or images.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Iterable

from qwen3vl_ros.questions.parsing.tolerant_json import EMPTY_WORDS, Field, Number, Object, Reading
from qwen3vl_ros.questions.parsing.wanted import Wanted

_GEOMETRY_KEY = re.compile(
    r"(?:bbox|box|boundingbox|bndbox|point|keypoint|coordinate|coord)(?:e?s)?(?:[23]d)?(?:e?s)?"
    r"(?:xyxy)?"
)
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"), ("x", "y"))
_DENIES = re.compile(r"\b(?:no|not|none|nothing|cannot|without|unable)\b|n['’]t\b|没有|未|无|不", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"(?:point|object|label|category|bbox|box)?[ _]?\d*", re.IGNORECASE)


@dataclass(eq=False)
class Candidate:
    """An object with the right number of coordinates, in the answer's own scale."""

    numbers: list[Number]
    label: str
    label_span: tuple[int, int] | None

    def __post_init__(self):
        self.values = tuple(n.value for n in self.numbers)


@lru_cache(maxsize=1024)
def _plain(key: str) -> tuple[str, str]:
    """(key without case, separators and trailing index, that index): "BBox_2D-3" -> ("bbox2d", "3")."""
    key = re.sub(r"[\W_]", "", key[:48].lower())
    match = re.fullmatch(r"(.*?(?:[23]d)?)(\d*)", key)
    return match.group(1), match.group(2)


@lru_cache(maxsize=1024)
def _names_geometry(key: str) -> bool:
    return _GEOMETRY_KEY.fullmatch(_plain(key)[0]) is not None


class Candidates:
    """Sorts fields into candidates, and counts what is lost."""

    def __init__(self, text: str, wanted: Wanted):
        self.text, self.wanted = text, wanted
        self.arity = wanted.numbers
        self.targets = {" ".join(t.lower().split()): t for t in wanted.targets}
        self.label_keys = wanted.label_keys
        self.found: list[Candidate] = []
        self.reasons: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.absent = 0

    @property
    def dropped(self) -> int:
        return sum(self.reasons.values())

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{n} x {why}" for counter in (self.reasons, self.mended) for why, n in counter.items())

    def take(self, reading: Reading) -> None:
        """Every object with keys."""
        for obj in reading.objects:
            for f in obj.fields:
                if f.kind == "text" and f.text.strip().lower() in EMPTY_WORDS and _names_geometry(f.key):
                    f.kind = "empty"  # a box that is "none"; a label or a line of text may well be "None"
            self._lift_corners(obj)
        for obj in reading.objects:
            self._take_object(obj)
        self.found.sort(key=lambda c: c.numbers[0].start)

    def take_bare(self, reading: Reading) -> None:
        """Lists of numbers without keys, unless the prose around them denies something."""
        if _DENIES.search(self.text):
            return
        for group in reading.bare:
            if len(group) in self.arity:
                self._add(group, None, None, closed=True)
                self.mended["list of numbers without a key"] += 1
            elif len(group) > 1:
                self.reasons[f"{len(group)} numbers where {self._asked()} were asked"] += 1

    def _asked(self) -> str:
        return " or ".join(map(str, self.arity))

    def _lift_corners(self, obj: Object) -> None:
        """Give {"x1": …, "y1": …} to the field it is the value of, or make it a field of its own object."""
        values = {
            _plain(f.key)[0] + _plain(f.key)[1]: f.groups[0]
            for f in obj.fields
            if f.kind == "numbers" and len(f.groups) == 1 and len(f.groups[0]) == 1
        }
        names = next((c for c in _CORNERS if len(c) in self.arity and all(n in values for n in c)), None)
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
            self._take_without_geometry(obj)
            return
        fitting_keys = {_plain(f.key)[0] for f in geometry if self._fits(f)}
        inherited = self._inherited(obj)
        for f, label_field in self._pair(geometry, obj):
            if f.kind == "empty" and not f.cut:
                self.absent += 1
            elif self._fits(f):
                label, span = self._said_label(label_field) if label_field else (None, None)
                for group in self._groups(f):
                    self._add(group, label or inherited, span, obj.closed)
            elif not fitting_keys - {_plain(f.key)[0]}:  # no other key of the object says what was asked
                self._lose(f)

    def _take_without_geometry(self, obj: Object) -> None:
        """{"mug": [...]} names its boxes by key; anything else that was begun is lost, but wrappers are no objects."""
        by_target = [(f, label) for f in obj.fields if f.kind == "numbers" and (label := self._named_by_key(f, obj))]
        for f, label in by_target:
            if self._fits(f):
                for group in self._groups(f):
                    self._add(group, label, None, closed=True)
            elif obj.braced and not self.wanted.prose:
                self._lose(f)
        if by_target:
            return
        empty = [f.kind == "empty" and not f.cut and _plain(f.key)[0] not in self.label_keys for f in obj.fields]
        if empty and all(empty):
            self.absent += 1  # {"objects": []}, {"mug": null}
        elif (
            obj.braced
            and not obj.children
            and obj.within is None
            and (obj.fields or not obj.closed)
            and not self.wanted.prose
        ):
            self.reasons["object without coordinates" if obj.closed else "object cut short"] += 1

    def _inherited(self, obj: Object) -> str | None:
        """The label that an enclosing object gives: {"mug": [{…}]} or {"label": "mug", "instances": [{…}]}."""
        if obj.within is not None and self._target(obj.within.key):
            return self._target(obj.within.key)
        if obj.parent is None or any(self._is_geometry(f) for f in obj.parent.fields[:8]):
            return None
        found = next(
            (f for f in obj.parent.fields[:8] if f.kind == "text" and _plain(f.key)[0] in self.label_keys), None
        )
        return self._said_label(found)[0] if found else None

    def _pair(self, geometry: list[Field], obj: Object) -> Iterable[tuple[Field, Field | None]]:
        """Coordinates and labels of one pair of braces, which after a lost brace may hold several objects."""
        present = {_plain(f.key)[0] for f in obj.fields if f.kind != "open"}
        key = next((k for k in self.label_keys if k in present), None)
        labels = [f for f in obj.fields if _plain(f.key)[0] == key and not self._is_geometry(f)]
        if len(labels) == len(geometry):
            return list(zip(geometry, labels))
        if len({_plain(f.key)[0] for f in geometry}) == len(geometry):  # bbox_2d and point_2d of one object
            return [(f, labels[0] if labels else None) for f in geometry]
        pairs = []
        before = bool(labels) and labels[0].key_start < geometry[0].key_start
        starts = [f.key_start for f in labels]
        for i, f in enumerate(geometry):
            low = (geometry[i - 1].key_start if i else -1) if before else f.key_start
            high = f.key_start if before else geometry[i + 1].key_start if i + 1 < len(geometry) else math.inf
            nearest = bisect_right(starts, low)
            pairs.append((f, labels[nearest] if nearest < len(labels) and starts[nearest] < high else None))
        return pairs

    def _fits(self, f: Field) -> bool:
        return f.kind == "numbers" and not f.cut and bool(self._groups(f))

    def _groups(self, f: Field) -> list[list[Number]]:
        """The coordinate lists in f: each of its lists, or all its numbers together ([[x1, y1], [x2, y2]])."""
        if all(len(g) in self.arity for g in f.groups):
            return f.groups
        joined = [n for g in f.groups for n in g]
        return [joined] if len(joined) in self.arity else []

    def _lose(self, f: Field) -> None:
        n = sum(len(g) for g in f.groups)
        self.reasons[
            "object cut short"
            if f.cut
            else "coordinates that are not numbers"
            if f.kind != "numbers"
            else f"{n} numbers where {self._asked()} were asked"
        ] += 1

    def _target(self, label: str) -> str | None:
        return self.targets.get(" ".join(label.lower().split()).strip("\"'`. "))

    def _named_by_key(self, f: Field, obj: Object) -> str | None:
        """The target that is the key of f: {"red cube": [...]}, or, without braces, `the red cube: [...]`."""
        if obj.braced:
            return self._target(f.key)
        before = self.text[max(0, f.key_start - 200) : f.key_start + len(f.key)].lower()
        return next((self.targets[t] for t in sorted(self.targets, key=len, reverse=True) if before.endswith(t)), None)

    def _said_label(self, f: Field) -> tuple[str | None, tuple[int, int] | None]:
        """The label in f and its characters; None when there is none, or it is cut and could be several targets."""
        label = _clean(f.text)
        if not label or f.kind == "empty":
            return None, None
        span = (f.start, f.end)
        if self.wanted.labels == "text":
            return (None if f.cut else label), span
        if f.cut:
            whole = [t for key, t in self.targets.items() if key.startswith(label.strip("` ").lower())]
            return (whole[0] if len(whole) == 1 else None), span
        if len(self.targets) == 1 and _PLACEHOLDER.fullmatch(label):
            return self.wanted.targets[0], span
        return self._target(label) or label, span

    def _add(self, numbers: list[Number], label: str | None, span: tuple[int, int] | None, closed: bool) -> None:
        """Keep an object. Without a label it takes the only target, or, when there are several, stays unnamed: the
        box is what was measured, and a guessed name would send a gripper to the wrong thing."""
        if label is None and self.wanted.labels == "text":
            self.reasons["line without its text" if closed else "object cut short"] += 1
            return
        if label is None and len(self.targets) == 1:
            label, span = self.wanted.targets[0], None
            self.mended["label missing, the only target taken"] += 1
        if label is None and not closed:
            self.reasons["object cut short"] += 1
            return
        if label is None:
            label, span = "", None
            self.mended["label missing"] += 1
        self.found.append(Candidate(numbers, label, span))


def _clean(label: str) -> str:
    """One line of printable characters, which UTF-8 can always encode."""
    printable = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in label)
    return " ".join(printable.split())
