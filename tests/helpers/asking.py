"""An engine asked as tests ask: pictures, words, and limits that need no saying."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from qwen3vl_ros.config import GenerationConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Engine, Limits, Prompt
from qwen3vl_ros.types import Generation


def ask(
    engine: Engine,
    images: Sequence[np.ndarray],
    text: str,
    control: Control | None = None,
    *,
    limits: Limits = Limits.of(GenerationConfig(deadline=3600.0)),  # a slow machine shall only be slow
    on_text: Callable[[str], None] | None = None,
    **prompt,
) -> Generation:
    """prompt: further fields of Prompt."""
    return engine.generate(Prompt(text, images, **prompt), limits, control, on_text)
