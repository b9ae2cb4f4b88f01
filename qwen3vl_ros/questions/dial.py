"""A dial's face as a model names it: scale, unit, zone and key points; code computes the value from these.

Points are thousandths of what the model was shown. Knows nothing of how a value follows from them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Sequence

from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.types import Answer, Generation, MalformedAnswer, View

ZONES = ("none", "green", "yellow", "red")
POINTS = ("centre", "tip", "first", "last")  # of the dial and its needle; the scale's first and last mark
PROMPT = (
    "Read the dial in the image. Report in JSON format: value, unit, minimum and maximum of the scale, the zone that the needle "
    "is in (none, green, yellow or red), and the points centre, tip of the needle, first mark and last mark of the scale."
)


class DialSeen(NamedTuple):
    """value, minimum, maximum in `unit`; zone one of ZONES; points_px: POINTS in pixels of the whole picture."""

    value: float
    unit: str
    minimum: float
    maximum: float
    zone: str
    points_px: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Dial(Question):
    """What is on the dial's face? Answer.value is a DialSeen."""

    name: ClassVar[str] = "dial"

    def prompt(self) -> str:
        return PROMPT

    def schema(self) -> dict[str, Any]:
        number, point = (
            {"type": "number"},
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}},
        )
        point |= {"minItems": 2, "maxItems": 2}
        fields = {
            "value": number,
            "unit": {"type": "string", "maxLength": 20},
            "minimum": number,
            "maximum": number,
            "zone": {"type": "string", "enum": list(ZONES)},
        } | {name: point for name in POINTS}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        text = said.text.strip()
        try:
            found = json.loads(text[text.index("{") : text.rindex("}") + 1])
            value, low, high = (float(found[key]) for key in ("value", "minimum", "maximum"))
            points = {name: tuple(float(v) for v in found[name]) for name in POINTS}
            unit, zone = str(found["unit"]).strip(), str(found["zone"])
        except (ValueError, KeyError, TypeError):
            raise MalformedAnswer(f"the answer is no JSON object of a dial: {text[:80]!r}", text) from None
        flat = [v for p in points.values() for v in p]
        if len(flat) != 2 * len(POINTS) or not all(map(math.isfinite, (value, low, high, *flat))) or not low < high:
            raise MalformedAnswer(f"the dial's numbers are no scale and points: {text[:80]!r}", text)
        if zone not in ZONES or not all(0 <= v <= 1000 for v in flat):
            raise MalformedAnswer(f"the dial's zone or a point is none: {text[:80]!r}", text)
        (x0, y0), (w, h) = views[0].origin_px, views[0].shown_px
        placed = {name: (x0 + x * w / 1000, y0 + y * h / 1000) for name, (x, y) in points.items()}
        return Answer(value=DialSeen(value, unit, low, high, zone, placed))
