"""The coordinates of an object -> one shape of the kind that was asked for.

An object has one place, however many geometries of it are given: a box has neither its key points nor its outline as
further boxes, and a box where a point was asked is no two points. Knows nothing of labels, pixels and scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Sequence

from qwen3vl_ros.questions.parsing import keys
from qwen3vl_ros.questions.parsing.fields import Field, Numbers
from qwen3vl_ros.questions.parsing.tokens import Number
from qwen3vl_ros.questions.parsing.tolerant_json import Object
from qwen3vl_ros.questions.parsing.wanted import Wanted

CUT_SHORT = "object cut short"
_NOT_NUMBERS = "coordinates that are not numbers"
# Names of corners, and of what a box has instead where they are no corners.
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_SIZES = {"width", "height", "w", "h"}
# Words that say of which form the coordinates beside them are, and the keys that they stand under.
_OTHER = "other"
_DECLARED = {
    **dict.fromkeys(("rectangle", "rect", "boundingbox", "bbox", "box"), keys.BOX),
    **dict.fromkeys(("polygon", "polyline", "linestrip", "circle", "mask"), keys.OUTLINE),
    **dict.fromkeys(("xywh", "cxcywh", "ltwh", "tlwh", "xcycwh", "yxyx", "yolo", "coco"), _OTHER),
}
_DECLARING = set("shapetype shape geometrytype format bboxformat boxformat coordformat bboxmode mode".split())


@dataclass(frozen=True, eq=False)
class Shape:
    """Coordinates in the answer's own scale. kind: "box", "point", "box_3d"; "center" is a box whose centre is the point."""

    kind: str
    numbers: tuple[Number, ...]

    @cached_property
    def values(self) -> tuple[float, ...]:
        return tuple(n.value for n in self.numbers)


def asked(wanted: Wanted) -> str:
    return " or ".join(map(str, wanted.numbers))


def is_geometry(f: Field) -> bool:
    """Whether the key names coordinates; a word such as "box" with text behind it is a label, a lone number a rank."""
    form = keys.form_of(f.key)
    if f.kind in ("text", "open") or form in ("", keys.OUTLINE):
        return False
    return form != keys.PLACE or f.kind != "numbers" or sum(map(len, f.groups)) > 1


def chosen(fields: Sequence[Field], wanted: Wanted) -> list[Field]:
    """Of an object's geometries, the one that is read: the fields under one key, several where braces were lost."""
    by_key: dict[str, list[Field]] = {}
    for f in fields:
        by_key.setdefault(keys.plain(f.key), []).append(f)
    if len(by_key) < 2:
        return next(iter(by_key.values()), [])
    return min(by_key.values(), key=lambda same: _reluctance(same, wanted))


def _reluctance(same: list[Field], wanted: Wanted) -> tuple:
    """Sorts geometries: those that hold what was asked, said outright, before what only leads to it."""
    found = [shape for f in same for shape in shapes(f, wanted) if isinstance(shape, Shape)]
    order = (keys.BOX, keys.PLACE, keys.POINT, keys.KEYPOINT)
    if wanted.numbers == (2,):
        order = (keys.POINT, keys.PLACE, keys.BOX, keys.KEYPOINT)
    indirect = any(shape.kind == "center" for shape in found)
    empty = all(f.kind == "empty" and not f.cut for f in same)
    dimensions = "3d" if 9 in wanted.numbers else "2d"
    key = same[0].key
    return not found, indirect, empty, order.index(keys.form_of(key)), dimensions not in keys.plain(key)


def shapes(f: Field, wanted: Wanted, form: str = "") -> list[Shape | str | None]:
    """What each list of coordinates in f is: a shape, the reason why it is none, or None where it is said to be empty.

    form: of the coordinates, where the key does not say it.
    """
    if f.kind == "empty" and not f.cut:
        return [None]
    if f.kind == "other form":
        return ["box of another form than two corners"]
    if f.kind != "numbers":
        return [CUT_SHORT if f.cut else _NOT_NUMBERS]
    form = form or keys.form_of(f.key) or keys.PLACE
    found = [_each_alone(group, form, wanted, alone=len(f.groups) == 1) for group in f.groups]
    if f.cut and found and found[-1] == _NOT_NUMBERS:
        found[-1] = CUT_SHORT
    if any(isinstance(shape, Shape) for shape in found):
        return found
    return [_together(f, form, wanted) or _reason(f, form, wanted)]


def _each_alone(group: Numbers, form: str, wanted: Wanted, alone: bool) -> Shape | str | None:
    if not group.sound:
        return _NOT_NUMBERS
    if not group:
        return None
    pairs_of_one_thing = form in (keys.BOX, keys.KEYPOINT) and len(group) == 2 and not alone
    shape = None if pairs_of_one_thing else shape_of(group, form, wanted)
    return shape or f"{len(group)} numbers where {asked(wanted)} were asked"


def shape_of(numbers: Sequence[Number], form: str, wanted: Wanted) -> Shape | None:
    """The shape that so many numbers are in an answer to what was asked."""
    n, points = len(numbers), form in (keys.POINT, keys.KEYPOINT)
    if n == 2 and 2 in wanted.numbers:
        return Shape("point", tuple(numbers))
    if n == 4 and not points and (4 in wanted.numbers or 2 in wanted.numbers):
        return Shape("box" if 4 in wanted.numbers else "center", tuple(numbers))
    if n == 9 and not points and 9 in wanted.numbers:
        return Shape("box_3d", tuple(numbers))
    return None


def _together(f: Field, form: str, wanted: Wanted) -> Shape | None:
    """The shape of all lists in f: corners of a box, or the thirds of a 3D box, in lists of their own."""
    lengths = {len(group) for group in f.groups}
    if f.cut or len(lengths) != 1 or not all(group.sound for group in f.groups):
        return None
    if form == keys.KEYPOINT or (form == keys.POINT and lengths != {1}):
        return None
    return shape_of([n for group in f.groups for n in group], form, wanted)


def _reason(f: Field, form: str, wanted: Wanted) -> str:
    if f.cut:
        return CUT_SHORT
    if not all(group.sound for group in f.groups):
        return _NOT_NUMBERS
    n = sum(map(len, f.groups))
    if form == keys.KEYPOINT:
        return "key points, which are no objects"
    if form == keys.POINT and n in wanted.numbers:
        return f"points where {asked(wanted)} numbers of a box were asked"
    return f"{n} numbers where {asked(wanted)} were asked"


def has_geometry(obj: Object) -> bool:
    """Whether the object has coordinates of its own, as a list or by the names of corners."""
    return any(map(is_geometry, obj.fields)) or bool(_corners(obj))


def gather(objects: Sequence[Object]) -> None:
    """Makes coordinates that are written otherwise the lists of numbers that they mean. objects: parents first.

    {"x1": …, "y1": …, "x2": …, "y2": …} and {"top_left": […], "bottom_right": […]} go to the field they are the value of, or
    become a field of their own object. What is said to be of another form than its key says loses it.
    """
    for obj in reversed(objects):
        _by_declared_form(obj)
        _lift_corners(obj)


def _lift_corners(obj: Object) -> None:
    numbers = Numbers(_corners(obj))
    if not numbers:
        return
    if obj.within is not None and keys.form_of(obj.within.key):
        obj.within.kind = "numbers"
        obj.within.groups.insert(0, numbers)  # the last of a list comes first here
        obj.fields.clear()
        obj.closed = True
    elif not any(is_geometry(f) for f in obj.fields):
        first, key = obj.fields[0], "point" if len(numbers) == 2 else "bbox"
        obj.fields.append(Field(key, first.key_start, "numbers", [numbers], start=first.start, end=first.end))


def _corners(obj: Object) -> list[Number]:
    """The coordinates of an object that gives them by name; none where the names are not those of corners or a point."""
    lists = {
        "".join(keys.indexed(f.key)): f.groups[0] for f in obj.fields if f.kind == "numbers" and len(f.groups) == 1
    }
    values = {key: numbers[0] for key, numbers in lists.items() if len(numbers) == 1}
    sets = _CORNERS if _SIZES.intersection(values) else (*_CORNERS, ("x", "y"))  # x, y, width, height: of a box
    for names in sets:
        if all(name in values for name in names):
            return [values[name] for name in names]
    for pair in keys.OPPOSITE_CORNERS:
        if all(len(lists.get(corner, ())) == 2 for corner in pair):
            return [*lists[pair[0]], *lists[pair[1]]]
    return []


def _by_declared_form(obj: Object) -> None:
    """{"points": […], "shape_type": "rectangle"}, {"bbox": {"points": […]}}, {"bbox": […], "bbox_format": "xywh"}."""
    form = _declared_form(obj)
    for f in obj.fields:
        key_form = keys.form_of(f.key) if f.kind == "numbers" else ""
        several = len(f.groups) > 1 or sum(map(len, f.groups)) > 2  # one point may be the centre of either
        if several and form in (keys.BOX, keys.OUTLINE) and key_form in (keys.POINT, keys.KEYPOINT, keys.PLACE):
            f.key = "bbox" if form == keys.BOX else "polygon"
        elif form == _OTHER and key_form == keys.BOX:
            f.kind = "other form"


def _declared_form(obj: Object) -> str:
    """The form that the object says its coordinates have, in a word or by what it is the value of; "" without."""
    by_key = {keys.plain(f.key): keys.plain(f.text) if len(f.text) < 20 else "" for f in obj.fields}
    said = {_DECLARED.get(by_key[key], "") for key in _DECLARING & by_key.keys()}
    if by_key.get("type") in ("polygon", "multipolygon", "linestring") and "coordinates" in by_key:
        said.add(keys.OUTLINE)  # GeoJSON
    if "bbox" in by_key and not {"categoryid", "iscrowd", "imageid"}.isdisjoint(by_key):
        said.add(_OTHER)  # COCO: corner and size
    around = keys.form_of(obj.within.key) if obj.within is not None else ""
    return next((form for form in (_OTHER, keys.OUTLINE, keys.BOX) if form in said), around)
