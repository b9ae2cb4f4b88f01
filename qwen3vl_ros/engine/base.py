"""The engine's protocol: images and text in, text out. Knows no boxes and no ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Sequence

import numpy as np

from qwen3vl_ros.config import GenerationConfig
from qwen3vl_ros.types import Control, Generation


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, for logs, diagnostics and `qwen3vl doctor`; chosen values, never "auto"."""

    runtime: str           # "transformers"
    model: str             # path or hub id, as resolved
    architecture: str      # class name from config.json, e.g. Qwen3VLForConditionalGeneration
    device: str            # e.g. "cpu", "cuda:0 (NVIDIA Orin)"
    dtype: str             # e.g. "float32"
    parameters: int        # number of weights
    thinking: bool         # the chat template opens a <think> part
    why: str               # why this runtime, device and dtype were chosen


class Engine(Protocol):
    """One loaded model. Not thread-safe: one thread owns it; only `Control.cancel` may come from another.

    generation: the limits of the next answers; its owner may replace it between two of them. The image areas in it
    count only when the model is loaded.
    """

    info: EngineInfo
    generation: GenerationConfig  # may be replaced between two calls

    def generate(self, images: Sequence[np.ndarray], prompt: str, control: Control | None = None) -> Generation:
        """Greedy answer to `images` (each HxWx3 uint8 RGB) followed by `prompt`.

        Always returns what was generated so far with its finish_reason: cancellation and deadline are results here,
        not errors. Raises OutOfMemory and EngineError.
        """

    def close(self) -> None:
        """Free the device's memory; the engine cannot be used afterwards."""
