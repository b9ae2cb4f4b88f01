"""The engine's tokens beside those of `transformers.generate`'s own network, where that is installed and fits.

Equal tokens say that a wrong answer is the model's and not the engine's.
"""

from __future__ import annotations

import importlib.util
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Sequence

from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine import load_engine
from qwen3vl_ros.engine.base import EngineInfo, Limits, Prompt
from qwen3vl_ros.selftest.checks import Check
from qwen3vl_ros.types import EngineError, Generation

if TYPE_CHECKING:
    from qwen3vl_ros.selftest.run import Outcome

_ANSWERS = 4
_LEAST_S = 20.0  # that must be left: the reference alone takes seconds to import
_LARGEST_ON_CPU = 100_000_000  # weights; a larger one computes for minutes there
_TIE = 0.55  # probability up to which the chosen token had a rival


def compare(
    info: EngineInfo, config: Config, checks: Sequence[Check], outcomes: Sequence[Outcome], end_s: float
) -> tuple[str, str, str]:
    """(verdict, what was found, why) for the first answers that were not guided."""
    asked = [(c, o.generation) for c, o in zip(checks, outcomes) if o.generation is not None and not c.guided]
    asked = [(c, g) for c, g in asked if g.finish_reason == "stop"][:_ANSWERS]
    if reason := _not_compared(info, asked, end_s):
        return "explained", "not compared", reason
    dtype = info.dtype if info.dtype in ("float32", "bfloat16", "float16") else "auto"
    device = info.device.split()[0]
    try:
        reference = load_engine(replace(config, engine="transformers", device=device, dtype=dtype))
    except EngineError as error:
        return "explained", "not compared", f"the reference does not load: {error}"
    equal, ties, differences = 0, 0, []
    try:
        for check, ours in asked:
            prompt = Prompt(check.question.prompt(), [check.picture.rgb], text_first=config.generation.text_first)
            theirs = reference.generate(prompt, Limits.of(config.generation), Control(end_s - time.monotonic()))
            if theirs.finish_reason == "deadline":
                break
            same, tie, difference = _difference(ours, theirs)
            equal, ties = equal + same, ties + tie
            differences += [f"{check.name}: {difference}"] * (not same)
    finally:
        reference.close()
    count = equal + len(differences)
    found = f"{equal} of {count} answers" + "; " * bool(differences) + "; ".join(differences)
    if not count:
        return "explained", "not compared", "the time of the test was over"
    if equal == count:
        return "passed", found, ""
    if equal + ties == count:
        return "explained", found, f"two tokens were nearly as likely, and {info.dtype} decides otherwise"
    return "failed", found, ""


def _not_compared(info: EngineInfo, asked: Sequence, end_s: float) -> str:
    if info.runtime == "remote":
        return "a server does not tell its tokens"
    if info.runtime == "transformers":
        return "this is the reference"
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    if info.device == "cpu" and info.parameters > _LARGEST_ON_CPU:
        return "the reference would compute for minutes on this CPU"
    if end_s - time.monotonic() < _LEAST_S:
        return "the time of the test was over"
    return "" if asked else "no answer to compare"


def _difference(ours: Generation, theirs: Generation) -> tuple[bool, bool, str]:
    """Whether they are equal; if not, whether at the first difference two tokens were nearly as likely; where that is."""
    if ours.token_ids == theirs.token_ids:
        return True, False, ""
    pairs = zip(ours.token_ids, theirs.token_ids)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours.token_ids), len(theirs.token_ids)))
    chosen = [math.exp(g.logprobs[at]) for g in (ours, theirs) if g.logprobs is not None and at < len(g.token_ids)]
    likely = ", ".join(f"{p:.2f}" for p in chosen)
    return False, bool(chosen) and max(chosen) <= _TIE, f"token {at + 1} differs (probabilities {likely})"
