"""Lines of text with their boxes; an answer's detections are labelled by what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

from qwen3vl_ros.questions import schemas
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.parsing.objects import read_objects
from qwen3vl_ros.questions.parsing.wanted import TEXT_KEYS, Wanted
from qwen3vl_ros.types import Answer, Generation, View


@dataclass(frozen=True)
class ReadText(Question):
    """All the text in the picture."""

    name: ClassVar[str] = "read_text"
    reads_text: ClassVar[bool] = True

    def prompt(self) -> str:
        return "Spotting all the text in the image with line-level, and output in JSON format."

    def schema(self) -> dict[str, Any]:
        return schemas.objects("bbox_2d", schemas.BOX, "text_content", schemas.LINE)

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        return read_objects(said, Wanted((4,), label_keys=TEXT_KEYS, labels="text"), views[0])
