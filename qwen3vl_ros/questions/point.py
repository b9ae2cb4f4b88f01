"""One 2D point on each object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

from qwen3vl_ros.questions import phrases, schemas
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.parsing.objects import read_objects
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, View


@dataclass(frozen=True)
class Point(Question):
    """A point on each of the targets. One or more phrases."""

    targets: tuple[str, ...]
    name: ClassVar[str] = "point"

    def __post_init__(self):
        object.__setattr__(self, "targets", phrases.checked_targets(self.targets, self.name))

    def prompt(self) -> str:
        return f"Locate {phrases.as_list(self.targets)} in this image. Output the point coordinates in JSON format."

    def schema(self) -> dict[str, Any]:
        return schemas.objects("point_2d", schemas.POINT, "label", schemas.PHRASE)

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        return read_objects(said, Wanted((2,), self.targets), views[0])
