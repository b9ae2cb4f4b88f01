"""2D boxes of categories, or of what fits one description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

from qwen3vl_ros.questions import phrases, schemas
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.parsing.objects import read_objects
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, View


@dataclass(frozen=True)
class Detect(Question):
    """Where are the targets? One or more phrases."""

    targets: tuple[str, ...]
    name: ClassVar[str] = "detect"

    def __post_init__(self):
        object.__setattr__(self, "targets", phrases.checked_targets(self.targets, self.name))

    def prompt(self) -> str:
        """One target that describes is located by description; one plain word, and several targets, go as categories."""
        if phrases.is_description(self.targets):
            return (
                f'Locate every object that matches the description "{self.targets[0]}" in the image. '
                "Report bbox coordinates in JSON format."
            )
        return (
            f'Locate every instance that belongs to the following categories: "{phrases.as_list(self.targets)}". '
            "Report bbox coordinates in JSON format."
        )

    def schema(self) -> dict[str, Any]:
        return schemas.objects("bbox_2d", schemas.BOX, "label", schemas.PHRASE)

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        return read_objects(said, Wanted((4,), self.targets), views[0])
