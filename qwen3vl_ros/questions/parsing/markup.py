"""Places that an answer marks up: Qwen's own box tokens, and XML-like elements.

They become the objects that the same in JSON would be, and are blanked out of the text, every character of which stays in
its place. Knows nothing of targets, scales and pixels. Linear in the length of the text.

Source: the formats of the Qwen2-VL and Qwen2.5-VL notebooks; `<|box_start|>` is a token of Qwen3-VL's vocabulary too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwen3vl_ros.questions.parsing import keys
from qwen3vl_ros.questions.parsing.fields import Field, Numbers, lists_in
from qwen3vl_ros.questions.parsing.shapes import has_geometry
from qwen3vl_ros.questions.parsing.tokens import Quoted, blanked
from qwen3vl_ros.questions.parsing.tolerant_json import Object

_NUMERIC = r"[\s\d.,+\-()\[\]]"
_REFERENCE = re.compile(r"<\|object_ref_start\|>([^<]{1,400})<\|object_ref_end\|>[^<]{0,60}$")
_REFERENCE_LENGTH = 520
_TOKEN = re.compile(rf"<\|(box|quad|point)_start\|>({_NUMERIC}*)(<\|(?:box|quad|point)_end\|>|$)")
_KEYS = {"box": "bbox_2d", "quad": "quad", "point": "point_2d"}
_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>[A-Za-z][\w.-]*)(?P<attributes>(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'))*)\s*(?P<empty>/?)>"
)
_MAX_UNCLOSED = 100  # tags that a closing one may leave open
_ATTRIBUTE = re.compile(r"([\w:.-]+)\s*=\s*[\"']([^\"']*)[\"']")


def objects_of(text: str, start: int) -> tuple[str, list[Object]]:
    """The text without what is marked up in text[start:], and the objects that are."""
    by_token = _by_tokens(text, start)
    by_element, spans = _by_elements(text, start)
    spans += [(obj.start, obj.end) for obj in by_token]
    return blanked(text, spans), by_token + by_element


def _by_tokens(text: str, start: int) -> list[Object]:
    """<|object_ref_start|>mug<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>; a name holds for all that follow."""
    objects: list[Object] = []
    label, before = None, start
    for match in _TOKEN.finditer(text, start):
        reference = _REFERENCE.search(text, max(before, match.start() - _REFERENCE_LENGTH), match.start())
        if reference:
            label = Field(
                "label", reference.start(), "text", text=reference[1], start=reference.start(1), end=reference.end(1)
            )
        elif re.search(r"[^\s,，;；]", text[before : match.start()]):
            label = None
        place = Field(
            _KEYS[match[1]],
            match.start(),
            "numbers",
            lists_in(text, *match.span(2)),
            start=match.start(2),
            end=match.end(2),
        )
        if not match[3]:
            place.kind, place.cut = "bad", True
        obj = Object(match.start(), match.end(), closed=bool(match[3]), fields=[place] + [label] * bool(label))
        objects.append(obj)
        before = match.end()
    return objects


@dataclass(eq=False)
class _Element:
    """start, end: of the whole; inside: of what stands between its tags."""

    name: str
    start: int
    end: int
    inside: tuple[int, int]
    attributes: list[Field]
    parent: _Element | None
    children: int = 0
    closed: bool = False


def _elements(text: str, start: int) -> list[_Element]:
    """In the order they begin. A closing tag without its opening one is passed over."""
    elements: list[_Element] = []
    stack: list[_Element] = []
    quoted = Quoted(text, start)
    for tag in _TAG.finditer(text, start):
        if tag.start() in quoted:
            continue
        if tag["close"]:
            depth = next((i for i in range(1, min(len(stack), _MAX_UNCLOSED) + 1) if stack[-i].name == tag["name"]), 0)
            if depth:
                closing = stack[-depth]
                del stack[-depth:]
                closing.end, closing.inside, closing.closed = tag.end(), (closing.inside[0], tag.start()), True
            continue
        attributes = [_field(text, m[1], *m.span(2)) for m in _ATTRIBUTE.finditer(text, *tag.span("attributes"))]
        parent = stack[-1] if stack else None
        element = _Element(
            tag["name"], *tag.span(), (tag.end(), tag.end()), attributes, parent, closed=bool(tag["empty"])
        )
        elements.append(element)
        if parent:
            parent.children += 1
        if not tag["empty"]:
            stack.append(element)
    return elements


def _by_elements(text: str, start: int) -> tuple[list[Object], list[tuple[int, int]]]:
    """The objects that elements are, and the characters of those that hold coordinates or stand around such.

    Attributes, and elements that are only a value, are the fields of an object.
    """
    top = Object(start, len(text), braced=False)  # holds what stands in no other element
    objects: dict[int, Object] = {}
    of_top = []
    for element in _elements(text, start):
        outer = objects.get(id(element.parent), top)
        if element.children or element.attributes:
            objects[id(element)] = _object(text, element, outer, top)
        elif element.closed:
            outer.fields.append(_field(text, element.name, *element.inside))
            of_top += [(element.start, element.end)] * (outer is top)
    placing: set[int] = set()
    for obj in [*reversed(objects.values()), top]:  # those inside before those around them
        if id(obj) in placing or has_geometry(obj):
            placing |= {id(obj), id(obj.parent)}
    kept = [obj for obj in (*objects.values(), top) if id(obj) in placing]
    spans = [(obj.start, obj.end) for obj in kept if obj is not top]
    return kept, spans + (of_top if top in kept else [])


def _object(text: str, element: _Element, outer: Object, top: Object) -> Object:
    obj = Object(element.start, element.end, braced=False, closed=True, fields=element.attributes)
    if keys.form_of(element.name) == keys.POINT:
        _pair_up(obj, element.name)
    content = _field(text, element.name, *element.inside)
    if not element.children and content.kind in ("text", "numbers"):
        content.key = element.name if content.kind == "numbers" else "label"
        obj.fields.append(content)
    if outer is not top:
        obj.parent, obj.within = outer, Field(element.name, element.start, "open", start=element.start, end=element.end)
        outer.fields.append(obj.within)
        outer.children += 1
    return obj


def _pair_up(obj: Object, key: str) -> None:
    """<points x1="…" y1="…" x2="…" y2="…">: points by number, where a box has its corners."""
    numbers = {f.key: f.groups[0][0] for f in obj.fields if f.kind == "numbers" and f.groups and f.groups[0]}
    pairs = [
        Numbers((numbers[f"x{i}"], numbers[f"y{i}"]))
        for i in ("", *range(1, 100))
        if {f"x{i}", f"y{i}"} <= numbers.keys()
    ]
    if pairs:
        first = next(f for f in obj.fields if f.kind == "numbers")
        obj.fields = [f for f in obj.fields if f.kind != "numbers"]
        obj.fields.append(Field(key, first.key_start, "numbers", pairs, start=first.start, end=first.end))


def _field(text: str, key: str, begin: int, end: int) -> Field:
    """`key` with the value in text[begin:end]: one list of numbers, or text."""
    said = text[begin:end].strip()
    inner = said.lstrip("[(").rstrip(")]")
    if inner and re.fullmatch(r"[\s\d.,+-]*\d[\s\d.,+-]*", inner):
        return Field(key, begin, "numbers", lists_in(text, begin, end), text=said, start=begin, end=end)
    return Field(key, begin, "text" if said else "empty", text=said, start=begin, end=end)
