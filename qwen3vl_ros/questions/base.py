"""What a question is: a value that knows its prompt, the form of its answer, and how to read one.

The pipeline never asks which question it was. A new task is a new file beside this one ("adding a question" in
docs/architecture.md). Knows nothing of engines, geometry or ROS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Sequence

from qwen3vl_ros.types import Answer, Generation, View


class Question(ABC):
    """Base of all questions: frozen dataclasses, valid once made (InvalidInput from the constructor), equal by value.

    name: as parameters, messages and the command line call it. targets: the phrases looked for; () where there are none.
    pictured: whether it is asked of a picture, and not of words alone. zooms: whether it can be asked of a part of a picture.
    reads_text: its detections are lines of text, labelled by what is written, and no things: they get no id, place or grasp.
    """

    name: ClassVar[str]
    pictured: ClassVar[bool] = True
    zooms: ClassVar[bool] = True
    reads_text: ClassVar[bool] = False
    targets: tuple[str, ...] = ()

    @abstractmethod
    def prompt(self) -> str:
        """The text that stands beside the pictures."""

    def schema(self) -> dict[str, Any] | None:
        """The JSON schema its answer keeps, for engines that can hold a model to one; None for prose."""
        return None

    @abstractmethod
    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        """What the answer says of the pictures, of which `views` tells what the model was shown.

        Raises MalformedAnswer for an answer that cannot be read, which is not the same as "saw nothing".
        """
