"""The model's own 3D boxes: a guess from one picture, in the camera's frame, before any depth is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

from qwen3vl_ros.questions import phrases, schemas
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.parsing.objects import read_objects
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, View


@dataclass(frozen=True)
class Detect3D(Question):
    """3D boxes of the targets. One or more phrases."""

    targets: tuple[str, ...]
    name: ClassVar[str] = "detect_3d"
    zooms: ClassVar[bool] = False  # its metres are those of the whole picture's lens

    def __post_init__(self):
        object.__setattr__(self, "targets", phrases.checked_targets(self.targets, self.name))

    def prompt(self) -> str:
        each = self.targets[0] if len(self.targets) == 1 else "object"
        return (
            f"Find all {phrases.as_list(self.targets)} in this image. For each {each}, provide its 3D bounding box. The "
            'output format required is JSON: [{"bbox_3d":[x_center, y_center, z_center, x_size, y_size, z_size, roll, '
            'pitch, yaw],"label":"category"}].'
        )

    def schema(self) -> dict[str, Any]:
        return schemas.objects("bbox_3d", schemas.BOX_3D, "label", schemas.PHRASE)

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        return read_objects(said, Wanted((9,), self.targets), views[0])
