"""The objects of an answer -> candidates: coordinates of the asked kind, a label, and where both were said.

Joins what `shapes`, `labels` and `absence` say of one object, pairs fields where braces are lost, and counts what is begun
and cannot be saved. Knows nothing of pixels, scales or images.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import Sequence

from qwen3vl_ros.questions.parsing import absence, keys
from qwen3vl_ros.questions.parsing.denials import denies_something
from qwen3vl_ros.questions.parsing.fields import Field
from qwen3vl_ros.questions.parsing.labels import UNNAMED, Labels, Name, Said
from qwen3vl_ros.questions.parsing.shapes import CUT_SHORT, Shape, asked, chosen, gather, is_geometry, shape_of, shapes
from qwen3vl_ros.questions.parsing.tolerant_json import Object, Parsed
from qwen3vl_ros.questions.parsing.wanted import Wanted

_CORNERS_IN_WORDS = re.compile(r"corner|box|\bfrom\s*[\[(]|top[- ]left|bottom[- ]right|框|角|左上|右下", re.IGNORECASE)
# What a model says before it looks again, so that the numbers are a plan and no place.
_INTENTION = re.compile(r"\b(?:zoom(?:ing)?|crop(?:ping)?|closer look|look closer|take a look)\b|放大|裁剪|点击")


@dataclass(eq=False)
class Candidate:
    """An object with coordinates of the kind that was asked, in the answer's own scale."""

    shape: Shape
    label: str
    label_span: tuple[int, int] | None

    @property
    def values(self) -> tuple[float, ...]:
        return self.shape.values


class Candidates:
    """Sorts objects into candidates, and counts what is lost (reasons), what is mended, and what is said to be absent."""

    def __init__(self, text: str, wanted: Wanted):
        self.text, self.wanted = text, wanted
        self.found: list[Candidate] = []
        self.reasons: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.absent = 0
        self._denials: dict[str, str] = {}
        self._only_target = Name(wanted.targets[0]) if len(wanted.targets) == 1 else None

    @property
    def dropped(self) -> int:
        return sum(self.reasons.values())

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{n} x {why}" for counter in (self.reasons, self.mended) for why, n in counter.items())

    def take(self, objects: Sequence[Object]) -> None:
        """Every object with keys, parents before what they enclose."""
        for obj in objects:
            for f in obj.fields:
                if f.kind == "text" and keys.form_of(f.key) and absence.is_nothing(f.text):
                    f.kind = "empty"  # a box that is "none"; a label or a line of text may well be "None"
        gather(objects)
        self._labels = Labels(objects, self.wanted, self.mended)
        self._places = {id(obj): [f for f in obj.fields if is_geometry(f)] for obj in objects}
        self._is_placed: dict[int, bool] = {}
        self._absent_ids: set[int] = set()
        self._names_given: dict[int, list[Name | None]] = {}
        self._order: dict[int, int] = {}  # of an object with coordinates among those of the same parent
        self._siblings: Counter[int] = Counter()
        for obj in objects:
            if obj.parent is not None and self._places[id(obj)]:
                self._order[id(obj)] = self._siblings[id(obj.parent)]
                self._siblings[id(obj.parent)] += 1
        for obj in objects:
            self._take_object(obj)
        self.found.sort(key=lambda c: c.shape.numbers[0].start)

    def take_bare(self, reading: Parsed) -> None:
        """Lists of numbers without keys, unless the prose around them denies something, or says what to do next."""
        if denies_something(self.text, self.wanted) or _INTENTION.search(self.wanted.marked(self.text)):
            return
        for text, group in reading.rows:
            (name,) = self._labels.names([Said("", (text,))], 1)
            self._keep(shape_of(group, keys.PLACE, self.wanted) or self._too_many(group), name, closed=True)
        if reading.rows:
            return
        if self._may_be_corners(reading.bare):
            self.reasons["pairs of numbers that may be the corners of a box"] += 1
            return
        for group in reading.bare:
            shape = shape_of(group, keys.PLACE, self.wanted)
            if shape:
                self._keep(shape, None, closed=True)
                self.mended["list of numbers without a key"] += 1
            elif len(group) > 1:
                self.reasons[self._too_many(group)] += 1

    def _too_many(self, group: Sequence) -> str:
        return f"{len(group)} numbers where {asked(self.wanted)} were asked"

    def _may_be_corners(self, bare: Sequence[list]) -> bool:
        """Whether points were asked, and two pairs stand as a box is marked up: (100,200),(300,400)."""
        if 2 not in self.wanted.numbers or len(bare) != 2 or any(len(group) != 2 for group in bare):
            return False
        between = self.text[bare[0][-1].end : bare[1][0].start]
        return re.fullmatch(r"\s*\)\s*,?\s*\(\s*", between) is not None or bool(
            _CORNERS_IN_WORDS.search(self.wanted.marked(self.text))
        )

    # -- one object ---------------------------------------------------------------------------------------------------

    def _take_object(self, obj: Object) -> None:
        if self._labels.is_name(obj) or self._is_part_of_a_geometry(obj):
            return
        if self._is_absent(obj):
            self._absent_ids.add(id(obj))
            self.absent += 1
            return
        by_key = self._named_by_keys(obj)
        if by_key or not self._places[id(obj)]:
            self._take_without_geometry(obj, by_key)
            return
        places = chosen(self._places[id(obj)], self.wanted)
        names = [_beside(places, fields) for fields in self._labels.fields(obj)]
        denying = [_beside(places, fields) for fields in _denying(obj)]
        for i, place in enumerate(places):
            if any(fields[i] and absence.of_field(fields[i]) for fields in denying):
                self.absent += 1
            else:
                said = self._labels.said([fields[i] for fields in names if fields[i]])
                self._take_place(place, said, self._from_outside(obj), obj.closed)

    def _take_place(self, place: Field, said: list, inherited: Name | None, closed: bool) -> None:
        """All that one field of coordinates holds, each with its name."""
        found = shapes(place, self.wanted)
        for shape, name in zip(found, self._labels.names(said, len(found))):
            self._keep(shape, name or inherited, closed)

    def _keep(self, shape: Shape | str | None, name: Name | None, closed: bool) -> None:
        """Keep an object, or count why not.

        Without a label it takes the only target, or, when there are several, stays unnamed: the box is what was
        measured, and a guessed name would send a gripper to the wrong thing.
        """
        denial = self._of_label(name.said) if name and self.wanted.labels == "phrase" else absence.NAMES
        if shape is None or denial == absence.DENIES:
            self.absent += 1
        elif denial == absence.UNCLEAR:
            self.reasons["label that may say that there is none"] += 1
        elif isinstance(shape, str):
            self.reasons[shape] += 1
        elif self.wanted.labels == "text" and not (name and name.text):
            self.reasons["line without its text" if closed else CUT_SHORT] += 1
        elif name is None and not self._only_target and not closed:
            self.reasons[CUT_SHORT] += 1
        else:
            if name is None:
                self.mended["label missing, the only target taken" if self._only_target else "label missing"] += 1
            name = name or self._only_target or UNNAMED
            self.found.append(Candidate(shape, name.text, name.span))

    def _of_label(self, said: str) -> str:
        """absence.of_label; the objects of an answer have few labels between them."""
        if said not in self._denials:
            self._denials[said] = absence.of_label(said, self.wanted)
        return self._denials[said]

    def _take_without_geometry(self, obj: Object, by_key: list[tuple[Field, str]]) -> None:
        """{"mug": [...]} names its boxes by key; anything else that was begun is lost, but wrappers are no objects."""
        for f, target in by_key:
            if absence.of_value(f):
                self.absent += 1
                continue
            for shape in shapes(f, self.wanted, keys.PLACE):
                if isinstance(shape, Shape) or (obj.braced and not self.wanted.prose):
                    self._keep(shape, Name(target), closed=True)
        if by_key:
            return
        if self._says_nothing(obj):
            self.absent += 1
        elif obj.braced and not obj.children and not self.wanted.prose and (obj.fields or not obj.closed):
            if obj.within is None:
                self.reasons["object without coordinates" if obj.closed else CUT_SHORT] += 1
            elif keys.form_of(obj.within.key) and any(f.kind == "numbers" for f in obj.fields):
                self.reasons["coordinates that are not named as corners are"] += 1

    def _says_nothing(self, obj: Object) -> bool:
        """{"objects": []}, {"mug": null}, {"mug": "not found"}, {"label": "no mug"}."""
        labels = [same[0] for same in self._labels.fields(obj)]
        if labels:
            texts = [text for said in self._labels.said(labels) for text in said.texts if text]
            denies = all(absence.of_label(text.value, self.wanted) == absence.DENIES for text in texts)
            return bool(texts) and denies and self.wanted.labels == "phrase" and not obj.children
        denied = [self.wanted.target(f.key) for f in obj.fields if absence.of_value(f) or f.kind == "empty"]
        if not obj.braced and not set(self.wanted.targets) <= set(denied):
            return False  # lines of prose, of which each denies one
        return bool(obj.fields) and all(
            (f.kind == "empty" and not f.cut and keys.plain(f.key) not in self.wanted.label_keys)
            or (f.kind == "text" and absence.is_nothing(f.text) and keys.holds_all(f.key))
            or (self.wanted.target(f.key) is not None and absence.of_value(f))
            for f in obj.fields
        )

    def _is_absent(self, obj: Object) -> bool:
        """Whether a field beside the label says so, here or in an object around this one."""
        if id(obj.parent) in self._absent_ids:
            return True
        places = self._places[id(obj)]
        if len(places) > 1 or not (obj.braced or places) or not any(map(absence.of_field, obj.fields)):
            return False
        # A status alone may be a server's: {"status": "not found"}.
        return bool(places or self._labels.fields(obj)) or any(
            absence.of_field(f) and keys.denied_by(f.key) != "words" for f in obj.fields
        )

    def _is_part_of_a_geometry(self, obj: Object) -> bool:
        """Whether it stands in an object's coordinates of another form: {"keypoints": [{"name": "handle", "x": …}]}."""
        if obj.within is None or obj.parent is None:
            return False
        form, around = keys.form_of(obj.within.key), id(obj.parent)
        if form in (keys.OUTLINE, keys.KEYPOINT):
            return True
        if form and around not in self._is_placed:
            places = chosen(self._places[around], self.wanted)
            self._is_placed[around] = any(isinstance(s, Shape) for f in places for s in shapes(f, self.wanted))
        return bool(form) and self._is_placed[around]

    # -- what it is called --------------------------------------------------------------------------------------------

    def _named_by_keys(self, obj: Object) -> list[tuple[Field, str]]:
        """The fields whose key is a target, and that target: {"red cube": [...]}."""
        places = self._places[id(obj)]
        if places and (self._labels.fields(obj) or not any(self.wanted.target(f.key) for f in places)):
            return []
        numbers = [f for f in obj.fields if f.kind == "numbers"]
        return [(f, target) for f in numbers if (target := self._named_by_key(f, obj))]

    def _named_by_key(self, f: Field, obj: Object) -> str | None:
        """The target that is the key of f: {"red cube": [...]}, or, without braces, `the red cube: [...]`."""
        if obj.braced:
            return self.wanted.target(f.key) or self.wanted.target(re.sub(r"[\s_-]*\d+$", "", f.key))
        return self.wanted.target_ending(self.text[max(0, f.key_start - 200) : f.key_start + len(f.key)])

    def _from_outside(self, obj: Object) -> Name | None:
        """The label that an enclosing object gives: {"mug": [{…}]} or {"label": "mug", "instances": [{…}]}."""
        if obj.within is not None and (target := self.wanted.target(obj.within.key)):
            return Name(target)
        if obj.parent is None or self._places.get(id(obj.parent)):
            return None
        around = id(obj.parent)
        if around not in self._names_given:
            fields = [same[0] for same in self._labels.fields(obj.parent)]
            self._names_given[around] = self._labels.names(self._labels.said(fields), self._siblings[around])
        return self._names_given[around][self._order[id(obj)]]


def _denying(obj: Object) -> list[list[Field]]:
    """The fields that may say that an object is not there, those under one key together."""
    by_key: dict[str, list[Field]] = {}
    for f in obj.fields:
        if keys.denied_by(f.key):
            by_key.setdefault(keys.plain(f.key), []).append(f)
    return list(by_key.values())


def _beside(places: Sequence[Field], fields: Sequence[Field]) -> list[Field | None]:
    """For each place the field that says something of it: one pair of braces, some lost, may hold several objects."""
    if len(fields) == len(places):
        return list(fields)
    if len(places) == 1 or not fields:
        return [fields[0] if fields else None] * len(places)
    starts = [f.key_start for f in fields]
    places_start = [f.key_start for f in places]
    if starts[0] < places_start[0]:  # label, place, label, place
        spans = zip([-1, *places_start], places_start)
    else:
        spans = zip(places_start, [*places_start[1:], math.inf])
    firsts = [(bisect_right(starts, low), high) for low, high in spans]
    return [fields[i] if i < len(fields) and starts[i] < high else None for i, high in firsts]
