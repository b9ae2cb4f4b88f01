"""What an engine is asked (`Prompt`, `Limits`), and the two protocols: `Engine`, a prompt in, text out; and `Runtime`, one
network fed token by token.

Knows no boxes and no ROS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Protocol, Sequence

import numpy as np

from qwen3vl_ros.config import GenerationConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.types import Generation, InvalidInput

# -- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Clip:
    """Pictures of one camera in order, each HxWx3 uint8 RGB, and the time of each in seconds from the clip's start."""

    pictures: Sequence[np.ndarray]
    times_s: Sequence[float]

    def __post_init__(self):
        object.__setattr__(self, "pictures", _pictures(self.pictures, "a picture of a clip"))
        object.__setattr__(self, "times_s", tuple(map(float, self.times_s)))
        if len(self.pictures) != len(self.times_s):
            raise InvalidInput(
                f"a clip of {len(self.pictures)} pictures has {len(self.times_s)} times; give one for each picture"
            )
        if len({picture.shape for picture in self.pictures}) > 1:
            raise InvalidInput(
                f"the pictures of a clip differ in size ({self.pictures[0].shape}, …); send pictures of one camera"
            )
        if not all(map(math.isfinite, self.times_s)):
            raise InvalidInput(f"the times of a clip are not all finite ({self.times_s[:8]}, …); give seconds")
        if any(late < early for early, late in zip(self.times_s, self.times_s[1:])):
            raise InvalidInput(f"the times of a clip run backwards ({self.times_s[:8]}, …); sort its pictures by time")


@dataclass(frozen=True, eq=False)
class Turn:
    """One message of a chat. role: "user" or "assistant". A user's images (each HxWx3 uint8 RGB) and clip stand before
    the text; an assistant has none. Valid once made, or InvalidInput."""

    role: str
    text: str
    images: Sequence[np.ndarray] = ()
    clip: Clip | None = None

    def __post_init__(self):
        if self.role not in ("user", "assistant"):
            raise InvalidInput(f"the role of a turn is {self.role!r}; it must be user or assistant")
        if not isinstance(self.text, str):
            raise InvalidInput(f"the text of a turn is {type(self.text).__name__}; give a string")
        if any("\ud800" <= c <= "\udfff" for c in self.text):
            raise InvalidInput("the text of a turn holds half of a character (a lone surrogate); leave it out")
        if self.clip is not None and not isinstance(self.clip, Clip):
            raise InvalidInput(f"the clip of a turn is {type(self.clip).__name__}; give a Clip of pictures and times")
        object.__setattr__(self, "images", _pictures(self.images, "an image"))
        if self.role == "assistant" and (self.images or self.clip):
            raise InvalidInput("a turn of the assistant has images; only the user's may, so put them there")


@dataclass(frozen=True, eq=False)
class Prompt:
    """What an engine is asked: images (each HxWx3 uint8 RGB), a clip and `text`, after the turns of `history`.

    history: turns of the user and the assistant in turn, the user's first; an assistant's text as its Generation has
    it. schema: a JSON schema that the answer has to keep. stream: a name for the camera these images follow each other
    on; the last answer to the same text there may be tried as a draft, which changes the time and not the tokens.
    text_first: the text of each turn before its images. Valid once made, or InvalidInput that names the rule.
    """

    text: str
    images: Sequence[np.ndarray] = ()
    clip: Clip | None = None
    history: Sequence[Turn] = ()
    schema: dict[str, Any] | None = None
    stream: str = ""
    text_first: bool = False

    def __post_init__(self):
        object.__setattr__(self, "images", Turn("user", self.text, self.images, self.clip).images)
        object.__setattr__(self, "history", tuple(self.history))
        for number, turn in enumerate(self.history):
            role = ("user", "assistant")[number % 2]
            if not isinstance(turn, Turn) or turn.role != role:
                found = turn.role if isinstance(turn, Turn) else type(turn).__name__
                raise InvalidInput(
                    f"turn {number + 1} of the history is of {found!r} and must be a Turn of {role!r}: user and "
                    "assistant take turns, the user begins"
                )
        if len(self.history) % 2:
            raise InvalidInput("the history ends with the user's turn; add the answer to it, or leave the turn out")
        if not (self.schema is None or isinstance(self.schema, dict)):
            raise InvalidInput(f"the schema of a prompt is {type(self.schema).__name__}; give a JSON schema as a dict")

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The whole chat: the history, and what is asked now."""
        return (*self.history, Turn("user", self.text, self.images, self.clip))


def _pictures(pictures: Sequence[np.ndarray], what: str) -> tuple[np.ndarray, ...]:
    for rgb in pictures:
        if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise InvalidInput(f"{what} must be HxWx3 uint8 RGB, got {found}; convert it first")
        if not rgb.size:
            raise InvalidInput(f"{what} must be HxWx3 uint8 RGB and is empty, {rgb.shape}; pass a decoded image")
    return tuple(pictures)


@dataclass(frozen=True)
class Limits:
    """When an answer has to end. deadline_s: from the call on, where the call's Control has no deadline of its own.
    repeat_limit: as in GenerationConfig."""

    max_new_tokens: int
    deadline_s: float
    repeat_limit: int

    def __post_init__(self):
        if not (self.max_new_tokens >= 1 and self.deadline_s > 0 and self.repeat_limit >= 2):
            raise InvalidInput(
                f"{self} cannot be kept: max_new_tokens must be 1 or more, deadline_s above 0, repeat_limit 2 or more"
            )

    @staticmethod
    def of(generation: GenerationConfig) -> Limits:
        """The configured ones."""
        return Limits(generation.max_new_tokens, generation.deadline, generation.repeat_limit)


# -- who answers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, for logs, diagnostics and `qwen3vl doctor`; chosen values, never "auto"."""

    runtime: str  # "transformers"
    model: str  # path or hub id, as resolved
    architecture: str  # class name from config.json, e.g. Qwen3VLForConditionalGeneration
    device: str  # e.g. "cpu", "cuda:0 (NVIDIA Orin)"
    dtype: str  # e.g. "float32"
    parameters: int  # number of weights; 0 where nobody says
    thinking: bool  # the chat template opens a <think> part
    why: str  # why this runtime, device and dtype were chosen

    @property
    def size(self) -> str:
        """The number of weights in words; empty where nobody says."""
        return f"{self.parameters / 1e6:.1f} M weights" if self.parameters else ""


# What will be asked next, as a function that makes the prompt (on a thread of the engine's); None while that is not known.
# What was returned once is not returned again.
Upcoming = Callable[[], "Callable[[], Prompt] | None"]


class Engine(Protocol):
    """One loaded model. Not thread-safe: one thread owns it; only `Control.cancel` may come from another.

    upcoming: set by the owner, where somebody knows; asked by `generate` between passes, on its thread, by an engine that can see the
    next prompt's pictures meanwhile. What was told is a guess: the answers are the same whatever is asked then.
    """

    info: EngineInfo
    upcoming: Upcoming | None

    def generate(
        self,
        prompt: Prompt,
        limits: Limits,
        control: Control | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Greedy answer to `prompt`.

        on_text: called by this thread between tokens with each new part of the answer, in whole characters; the parts
        together are the Generation's text. What it raises ends the answer and comes out of here.

        Always returns what was generated so far with its finish_reason: cancellation and deadline are results here,
        not errors. Raises InvalidInput for what this engine cannot be asked, OutOfMemory and EngineError.
        """

    def status(self) -> dict[str, str]:
        """What diagnostics should show beside `info`, by name; from any thread."""

    def close(self) -> None:
        """Free the device's memory; the engine cannot be used afterwards."""


class Scores(Protocol):
    """What a pass says about the token after each of its last k tokens."""

    def best(self) -> tuple[list[int], list[float]]:
        """k token ids and their natural log-probabilities; nan where the network's output is not a number."""

    def logits(self) -> np.ndarray:
        """k x vocabulary float32, on the host."""


class Runtime(Protocol):
    """One sequence of tokens on one loaded network. Not thread-safe.

    capacity: most tokens of the sequence. length: tokens in it now. longest_step: most tokens of one `step`.
    between_layers: called at least before each `encode` and `prefill`, between layers where a runtime can; what it
    raises ends the pass, and the sequence is as it was before the pass.
    """

    capacity: int
    longest_step: int
    between_layers: Callable[[], None]

    @property
    def length(self) -> int: ...

    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> Any:
        """Features of images and clips: pixels N x patch_values float32, grid M x 3 (frames, rows, columns of patches)."""

    def prefill(
        self, ids: Sequence[int], features: Any = None, positions: np.ndarray | None = None, keep: int = 1
    ) -> Scores:
        """Append a prompt, or a part of one; scores of its last `keep` tokens.

        features: of the visual tokens in `ids`. positions: 3 x len(ids), absolute (prepare.py); without them the
        tokens are text and go on from the last position.
        """

    def step(self, token_ids: Sequence[int]) -> Scores:
        """Append k text tokens, a chosen one and drafts behind it; scores of each."""

    def rollback(self, count: int) -> None:
        """Forget the last `count` tokens."""

    def close(self) -> None:
        """Free the memory."""


class RuntimeAhead(Runtime, Protocol):
    """A Runtime that can see while it decodes."""

    def encode_ahead(self, pixels: np.ndarray, grid: np.ndarray, between: Callable[[], None]) -> Callable[[], Any]:
        """As `encode`, on another thread than the sequence's and beside its passes, one at a time. between: in place of
        between_layers. Returns what gives the features to the sequence's thread, which calls it once."""
