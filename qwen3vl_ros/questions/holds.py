"""In which of a few pictures of one camera a statement holds: the model says it picture by picture, code decides when.

The pictures stand before the prompt in the order of their times. Knows nothing of pictures, windows or alarms.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.types import Answer, Generation, InvalidInput, MalformedAnswer, View

MAX_PICTURES = 8
SAID = {"yes": True, "no": False, "unknown": None}
TAKEN, ASKED = (
    "The pictures were taken at ",
    " seconds. Say for each of them in their order, as a JSON list of yes, no or unknown, whether this holds: ",
)


@dataclass(frozen=True)
class Holds(Question):
    """Does `statement` hold in each picture? times_s: when they were taken, ascending. Answer.value: a bool or None each."""

    statement: str
    times_s: tuple[float, ...]
    name: ClassVar[str] = "holds"

    def __post_init__(self):
        object.__setattr__(self, "statement", phrases.checked_question(self.statement))
        times = tuple(float(t) for t in self.times_s)
        if not 1 <= len(times) <= MAX_PICTURES:
            raise InvalidInput(f"times_s has {len(times)} times; ask of 1 to {MAX_PICTURES} pictures, with a time each")
        if not all(map(math.isfinite, times)) or any(late < early for early, late in zip(times, times[1:])):
            raise InvalidInput(f"times_s is {times}; it must be finite seconds in the order of the pictures")
        object.__setattr__(self, "times_s", times)

    def prompt(self) -> str:
        return f"{TAKEN}{', '.join(f'{t:.1f}' for t in self.times_s)}{ASKED}{self.statement}"

    def schema(self) -> dict[str, Any]:
        count = len(self.times_s)
        each = {"type": "string", "enum": list(SAID)}
        return {"type": "array", "items": each, "minItems": count, "maxItems": count}

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        text = said.text.strip()
        try:
            found = json.loads(text[text.index("[") : text.rindex("]") + 1])
            held = tuple(SAID[word] for word in found)
        except (ValueError, KeyError, TypeError):
            raise MalformedAnswer(f"the answer is no JSON list of yes, no and unknown: {text[:80]!r}", text) from None
        if len(held) != len(self.times_s):
            raise MalformedAnswer(f"{len(held)} answers for {len(self.times_s)} pictures: {text[:80]!r}", text)
        return Answer(value=held)
