"""Loads a model for the two runtimes that run on torch: ours (`torch`) and the reference (`transformers`).

Chooses device, precision and threads, checks the memory first, and says why. Knows nothing of prompts and answers.
"""

from __future__ import annotations

import importlib.metadata
import logging
from contextlib import contextmanager
from typing import Callable

import torch

from qwen3vl_ros import threads as cpu_threads
from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import EngineInfo, Runtime
from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.local import GPU_PASS_COST, LocalEngine, cache_tokens, cpu_area
from qwen3vl_ros.engine.network.sizes import METHOD, Sizes
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.engine.torch.device import (
    choose_device,
    choose_dtype,
    memory_errors,
    refuse_quantization,
    require_memory,
)
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime
from qwen3vl_ros.types import WrongModel

_log = logging.getLogger(__name__)
_CPU_PASS_COST = 0.03  # of one more drafted token, in passes; measured on the embedded model


def load_torch(checkpoint: Checkpoint, config: Config) -> LocalEngine:
    """The model on our own network. Raises WrongModel for one that it does not compute, OutOfMemory, EngineError."""
    Sizes.read(checkpoint.config)  # refused before its weights are read

    def load(device: torch.device, dtype: torch.dtype, capacity: int) -> Runtime:
        return TorchRuntime(Network.load(checkpoint, device, dtype), capacity)

    return _load("torch", checkpoint, config, load)


def load_transformers(checkpoint: Checkpoint, config: Config) -> LocalEngine:
    """The model on the reference, MoE and FP8 too. Raises WrongModel, OutOfMemory, EngineError."""
    # Here, because it takes seconds.
    from qwen3vl_ros.engine.torch.transformers_runtime import TransformersRuntime, load_model, require_version

    require_version()

    def load(device: torch.device, dtype: torch.dtype, capacity: int) -> Runtime:
        # Its cache grows with use.
        return TransformersRuntime(load_model(checkpoint, device, dtype), checkpoint.max_positions)

    return _load("transformers", checkpoint, config, load)


def _load(
    name: str, checkpoint: Checkpoint, config: Config, load: Callable[[torch.device, torch.dtype, int], Runtime]
) -> LocalEngine:
    if checkpoint.quantization == METHOD:
        raise WrongModel(
            f"{checkpoint.path} holds {checkpoint.weight_kind} weights for onnxruntime alone; use engine onnxruntime, or the model that it "
            "was exported from"
        )
    device, why_device = choose_device(config.device)
    dtype, why_dtype = choose_dtype(config.dtype, device)
    refuse_quantization(checkpoint, device)
    most_area, why_area = cpu_area(checkpoint, config) if device.type == "cpu" else (0, [])
    preparation = Preparation(checkpoint.path, config.generation.min_pixels, config.generation.max_pixels, most_area)
    require_memory(checkpoint, device, dtype)
    threads, why_threads = cpu_threads.of_model(checkpoint.parameters)
    why = [f"{name} {importlib.metadata.version(name)}", why_device, why_dtype, *why_area]
    if device.type == "cpu":
        why.append(why_threads)

    @contextmanager
    def around(doing: str):
        if device.type == "cpu" and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # per calling thread: the worker is not the thread that loaded
        with memory_errors(doing, device):
            yield

    with memory_errors(f"loading {checkpoint.path}", device):
        runtime = load(device, dtype, cache_tokens(checkpoint, config, preparation.rule.token_side))
    if name == "torch" and device.type == "cuda":
        with memory_errors("compiling fused steps", device):
            why.append(_fused(runtime) if config.fused else "fused steps are off")
    where = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    info = EngineInfo(
        name,
        str(checkpoint.path),
        checkpoint.architecture,
        where,
        str(dtype).removeprefix("torch."),
        checkpoint.parameters,
        preparation.tokens.thinking,
        "; ".join(why),
    )
    return LocalEngine(
        checkpoint,
        preparation,
        runtime,
        info,
        around=around,
        pass_cost=_CPU_PASS_COST if device.type == "cpu" else GPU_PASS_COST,
        # A processor that sees cannot decode meanwhile: there it would only make the answer wait.
        see_ahead=name == "torch" and device.type == "cuda" and config.see_ahead,
    )


def _fused(runtime: TorchRuntime) -> str:
    """What became of the fused steps. They are an addition: a model that runs without them runs."""
    # Where their kernels gain by overlapping was measured on one kind of GPU; on any other they do not.
    ways = (True, False) if _is_hopper(runtime.device) else (False,)
    for overlap in ways:
        try:
            text = f"steps of one token are fused{' and overlap' * overlap}, ready in {runtime.fuse(overlap):.1f} s"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler's: of any kind
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            text = f"steps are not fused, and slower for it: {reason}"
            if overlap:
                _log.warning("fused steps do not overlap here: %s; without that they may still work", reason)
        else:
            _log.info("%s", text)
            return text
    _log.warning("%s; parameter fused: false says so without trying", text)
    return text


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
