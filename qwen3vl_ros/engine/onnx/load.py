"""Loads a model for ONNX Runtime: device, threads and precision, and why. Knows nothing of prompts and answers."""

from __future__ import annotations

import onnxruntime

from qwen3vl_ros import threads as cpu_threads
from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import EngineInfo
from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.local import GPU_PASS_COST, LocalEngine, cache_tokens, cpu_area
from qwen3vl_ros.engine.network.sizes import METHOD
from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.types import EngineError

_CPU_PASS_COST = 0.05  # of one more drafted token, in passes; measured on the embedded model


def load_onnxruntime(checkpoint: Checkpoint, config: Config) -> LocalEngine:
    """The model on the graphs beside its weights. Raises ModelNotFound, WrongModel, EngineError."""
    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    device = ("cuda" if gpu else "cpu") if config.device == "auto" else config.device
    why = [
        f"onnxruntime {onnxruntime.__version__}",
        f"device {config.device}"
        + f": onnxruntime has {'a' if gpu else 'no'} CUDA provider" * (config.device == "auto"),
    ]
    generation = config.generation
    threads = most_area = 0
    if device == "cpu":
        threads, why_threads = cpu_threads.of_model(checkpoint.parameters)
        why.append(why_threads)
        most_area, why_area = cpu_area(checkpoint, config)
        why += why_area
    preparation = Preparation(checkpoint.path, generation.min_pixels, generation.max_pixels, most_area)
    runtime = OnnxRuntime(
        checkpoint.path, cache_tokens(checkpoint, config, preparation.rule.token_side), device, threads
    )
    if config.dtype not in ("auto", runtime.dtype):
        raise EngineError(
            f"dtype {config.dtype} was asked for and the graphs in {checkpoint.path} compute in {runtime.dtype}; "
            f"set dtype to auto, or export them again with --dtype {config.dtype}"
        )
    why.append(f"{runtime.dtype}, as the graphs were exported")
    few = f", {checkpoint.weight_kind} weights" if checkpoint.quantization == METHOD else ""
    info = EngineInfo(
        "onnxruntime",
        str(checkpoint.path),
        checkpoint.architecture,
        device,
        f"{runtime.dtype}{few}",
        checkpoint.parameters,
        preparation.tokens.thinking,
        "; ".join(why),
    )
    return LocalEngine(
        checkpoint,
        preparation,
        runtime,
        info,
        pass_cost=_CPU_PASS_COST if device == "cpu" else GPU_PASS_COST,
    )
