"""What comes of a question: words, the facts they rest on, and how they came about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from qwen3vl_ros.types import Detection2D, Detection3D, Fact, Generation


class Code(IntEnum):
    """How a question ended; action/Ask.action says what each means."""

    OK = 0
    NOT_FOUND = 1
    AMBIGUOUS = 2
    STALE = 3
    NO_DEPTH = 4
    TF = 5
    TIMEOUT = 6
    CANCELLED = 7
    ERROR = 8


class Who(IntEnum):
    """Who read a question or wrote an answer: nobody, the rules of this package, or the model."""

    NOBODY = 0
    RULES = 1
    MODEL = 2


@dataclass(frozen=True, eq=False)
class Outcome:
    """The answer to a question; fields as in action/Ask.action. detections_2d, detections_3d: a tuple a picture."""

    answer: str
    code: Code = Code.OK
    message: str = ""
    understood_by: Who = Who.NOBODY
    asked: str = ""
    find: tuple[str, ...] = ()
    worded_by: Who = Who.NOBODY
    model_answer: str = ""
    disagreement: str = ""
    facts: tuple[Fact, ...] = ()
    detections_2d: tuple[tuple[Detection2D, ...], ...] = ()
    detections_3d: tuple[tuple[Detection3D, ...], ...] = ()
    generation: Generation | None = None


@dataclass(frozen=True, eq=False)
class Measurement:
    """Facts in the order they were asked, and what they rest on."""

    facts: tuple[Fact, ...]
    detections_2d: tuple[Detection2D, ...] = ()
    detections_3d: tuple[Detection3D, ...] = ()
