"""An answer in words that rests on measured facts, which stand in the prompt as text.

Knows nothing of how they were measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Iterable, Sequence

from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.types import Answer, Generation, InvalidInput, View

INSTRUCTION = (
    "Answer the question in one sentence and in its language, from the measured facts alone. Copy numbers as they stand. "
    "Say so where a fact is unknown.\nFacts:\n"
)
ASKED = "Question: "


def fact_line(relation: str, arguments: Iterable[str], value: str) -> str:
    """A fact as a prompt holds it: "left of (red mug; bowl) = true", "distance (red mug; bowl) = 0.23 m".

    value: true, false, unknown, a number with its unit, or words.
    """
    return f"{relation} ({'; '.join(arguments)}) = {value}"


@dataclass(frozen=True)
class Tell(Question):
    """Answer `question` with `facts`, lines as `fact_line` writes them. Answer.value is the sentence."""

    question: str
    facts: tuple[str, ...]
    name: ClassVar[str] = "tell"
    pictured: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "question", phrases.checked_question(self.question))
        if not self.facts:
            raise InvalidInput("facts is empty; ask without facts, or measure some first")
        for line in self.facts:
            phrases.refuse_control(line, f"fact {line[:60]!r}", allowed="")

    def prompt(self) -> str:
        return f"{INSTRUCTION}{''.join(f'- {line}' + chr(10) for line in self.facts)}{ASKED}{self.question}"

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        return Answer(value=said.text.strip())
