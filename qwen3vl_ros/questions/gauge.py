"""What a dial or display reads, as the model itself says it: a value and its unit."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Sequence

from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.parsing.tool_calls import without_calls
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, InvalidInput, MalformedAnswer, View

PROMPTS = {
    "en": "What does the gauge read? Answer in JSON format with value and unit.",
    "zh": "仪表的读数是多少？请以JSON格式回答value和unit。",
}
_OBJECT = re.compile(r"\{[^{}]*\}")


class Reading(NamedTuple):
    """value in `unit`, both as the model gave them."""

    value: float
    unit: str


@dataclass(frozen=True)
class Gauge(Question):
    """What does the gauge read? Answer.value is a Reading. unit: the one it must be in; "" takes the model's word."""

    unit: str = ""
    language: str = "en"
    name: ClassVar[str] = "gauge"

    def __post_init__(self):
        phrases.refuse_control(self.unit, "Gauge.unit", allowed="")
        if self.language not in PROMPTS:
            raise InvalidInput(f"Gauge.language {self.language!r} is not one of {', '.join(PROMPTS)}")

    def prompt(self) -> str:
        return PROMPTS[self.language]

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"value": {"type": "number"}, "unit": {"type": "string", "maxLength": 20}},
            "required": ["value", "unit"],
            "additionalProperties": False,
        }

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        text, *_ = without_calls(said.text, 0, Wanted(()))
        for match in reversed(_OBJECT.findall(text)):
            try:
                found = json.loads(match)
                reading = Reading(float(found["value"]), str(found["unit"]).strip())
            except (ValueError, KeyError, TypeError):
                continue
            if not math.isfinite(reading.value):
                break
            if self.unit and reading.unit != self.unit:
                raise MalformedAnswer(
                    f"the gauge was read in {reading.unit!r} where {self.unit!r} was asked for: {said.text[:80]!r}",
                    said.text,
                )
            return Answer(value=reading)
        raise MalformedAnswer(
            f"the answer holds no JSON object with a number `value` and a `unit`: {said.text[:80]!r}", said.text
        )
