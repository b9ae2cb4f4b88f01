"""Loads a bundle for TensorRT: which GPU, and why. Knows nothing of prompts and answers."""

from __future__ import annotations

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import EngineInfo
from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.local import GPU_PASS_COST, LocalEngine
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.engine.tensorrt.bundle import read_bundle
from qwen3vl_ros.engine.tensorrt.runtime import TensorrtRuntime
from qwen3vl_ros.types import EngineError


def load_tensorrt(checkpoint: Checkpoint, config: Config) -> LocalEngine:
    """The model on the engines of its bundle. Raises WrongModel for a directory that is none, OutOfMemory, EngineError."""
    kind, _, number = config.device.partition(":")
    if kind not in ("auto", "cuda") or (number and not number.isdigit()):
        raise EngineError(
            f"device {config.device!r} was asked for and TensorRT runs on GPUs only; use auto, cuda or cuda:N, or "
            "another engine"
        )
    bundle = read_bundle(checkpoint.path)
    if config.dtype not in ("auto", bundle.dtype):
        raise EngineError(
            f"dtype {config.dtype} was asked for and the engines in {bundle.path} compute in {bundle.dtype}; set "
            "dtype to auto, or build them with another --precision"
        )
    generation, limits, merge = config.generation, bundle.limits, bundle.sizes.vision.merge
    patch = int(bundle.config["vision_config"]["patch_size"])
    # What the engines can see at all, where nobody asked for more: that would be refused picture by picture.
    seen = min(limits.max_patches, limits.max_visual * merge**2) * patch**2
    most_area = 0 if generation.max_pixels else seen
    preparation = Preparation(checkpoint.path, generation.min_pixels, generation.max_pixels, most_area)
    runtime = TensorrtRuntime(bundle, int(number or 0))
    why = f"{bundle.module} {bundle.version}; engines of {bundle.precision} for SM {', '.join(map(str, bundle.sms))}"
    info = EngineInfo(
        "tensorrt",
        str(checkpoint.path),
        checkpoint.architecture,
        f"cuda:{number or 0}",
        bundle.dtype,
        bundle.parameters,
        preparation.tokens.thinking,
        why,
    )
    return LocalEngine(checkpoint, preparation, runtime, info, pass_cost=GPU_PASS_COST)
