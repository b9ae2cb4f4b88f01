"""A free question, answered in words; boxes and points that the words hold are read as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Sequence

from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.parsing.objects import read_objects
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, View


@dataclass(frozen=True)
class Ask(Question):
    """`question` in anybody's words. Answer.value is the text."""

    question: str
    name: ClassVar[str] = "ask"

    def __post_init__(self):
        object.__setattr__(self, "question", phrases.checked_question(self.question))

    def prompt(self) -> str:
        return self.question

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        return read_objects(said, Wanted((4, 2), prose=True), views[0])
