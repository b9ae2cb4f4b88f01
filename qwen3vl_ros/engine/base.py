"""The two protocols: `Engine`, images and text in, text out; and `Runtime`, one network fed token by token.

Knows no boxes and no ROS.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Protocol, Sequence

import numpy as np

from qwen3vl_ros.config import GenerationConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.types import Generation


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, for logs, diagnostics and `qwen3vl doctor`; chosen values, never "auto"."""

    runtime: str  # "transformers"
    model: str  # path or hub id, as resolved
    architecture: str  # class name from config.json, e.g. Qwen3VLForConditionalGeneration
    device: str  # e.g. "cpu", "cuda:0 (NVIDIA Orin)"
    dtype: str  # e.g. "float32"
    parameters: int  # number of weights
    thinking: bool  # the chat template opens a <think> part
    why: str  # why this runtime, device and dtype were chosen


@dataclass(frozen=True)
class Limits:
    """When to stop. deadline_monotonic_s on time.monotonic()'s clock; repeat_limit as in GenerationConfig."""

    max_new_tokens: int
    deadline_monotonic_s: float
    repeat_limit: int

    @staticmethod
    def of(generation: GenerationConfig, control: Control) -> Limits:
        """The configured ones from now on; the control's own deadline goes before the configured one."""
        deadline = control.deadline_monotonic_s
        if deadline is None:
            deadline = time.monotonic() + generation.deadline
        return Limits(generation.max_new_tokens, deadline, generation.repeat_limit)

    def interruption(self, control: Control) -> str:
        """ "cancelled", "deadline", or "" to go on."""
        if control.cancelled:
            return "cancelled"
        return "deadline" if time.monotonic() >= self.deadline_monotonic_s else ""


class Engine(Protocol):
    """One loaded model. Not thread-safe: one thread owns it; only `Control.cancel` may come from another.

    generation: the limits of the next answers; its owner may replace it between two of them. The image areas in it
    count only when the model is loaded.
    """

    info: EngineInfo
    generation: GenerationConfig  # may be replaced between two calls

    def generate(
        self,
        images: Sequence[np.ndarray],
        prompt: str,
        control: Control | None = None,
        *,
        stream: str = "",
        schema: dict[str, Any] | None = None,
    ) -> Generation:
        """Greedy answer to `images` (each HxWx3 uint8 RGB) followed by `prompt`.

        stream: a name for the camera these images follow each other on; the last answer to the same prompt there may
        be tried as a draft, which changes the time and not the tokens. schema: a JSON schema the answer has to keep.

        Always returns what was generated so far with its finish_reason: cancellation and deadline are results here,
        not errors. Raises OutOfMemory and EngineError.
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
