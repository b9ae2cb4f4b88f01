"""Which runtime a model gets: what each one needs, whether that is here, and the order in which `auto` tries them.

Looks without importing: torch alone takes seconds and hundreds of megabytes. Knows nothing of what the runtimes do.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.network.graph import DECODER, VISION, export_command, typed
from qwen3vl_ros.engine.network.sizes import METHOD, Sizes
from qwen3vl_ros.engine.tensorrt.bundle import is_bundle, origin
from qwen3vl_ros.types import WrongModel

_DRIVERS = ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1")
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: of the compute capability
_FP8_FROM = (8, 9)
_DENSE = "use the model without -FP8 in its name, or a server that runs this one (engine remote)"


@dataclass(frozen=True)
class Option:
    """A runtime as the parameter `engine` names it. missing: what it lacks and how to get it; "" if it can be tried."""

    name: str
    missing: str = ""


def survey(checkpoint: Checkpoint, device: str) -> list[Option]:
    """Every runtime for this model on `device` (as in the parameter), the best first."""
    gpus = 0 if device == "cpu" else cuda_devices()
    names = ["tensorrt", "onnxruntime", "torch", "transformers"]
    damaged = "" if _foreign(checkpoint) and checkpoint.quantization != METHOD else _damaged(checkpoint)
    if gpus and _torch_computes_on_gpus():
        names = ["tensorrt", "torch", "transformers", "onnxruntime"]
    return [Option(name, damaged or _MISSING[name](checkpoint, gpus)) for name in names]


def _damaged(checkpoint: Checkpoint) -> str:
    """Why no network can be made of its config.json, if so."""
    try:
        Sizes.read(checkpoint.config)
    except WrongModel as error:
        return str(error)
    return ""


def refusal_of(device: str) -> str:
    """Why `device`, as in the parameter, cannot be had on this machine; "" if it can."""
    named = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d+)", device)
    if named is None:
        return f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N"
    count, wanted = cuda_devices(), device.startswith("cuda")
    if wanted and not count:
        return f"device {device!r} was asked for, and the NVIDIA driver offers no GPU; check nvidia-smi, or set device to auto or cpu"
    if wanted and int(named[2] or 0) >= count:
        return f"device {device!r} does not exist, there are {count}; use cuda:0 to cuda:{count - 1}"
    return ""


@cache
def compute_capabilities() -> tuple[tuple[int, int], ...]:
    """(major, minor) of each GPU that the NVIDIA driver offers."""
    for name in _DRIVERS:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return tuple(_capability(driver, index) for index in range(count.value))
    return ()


def _capability(driver: ctypes.CDLL, index: int) -> tuple[int, int]:
    found = ctypes.c_int(0), ctypes.c_int(0)
    for value, attribute in zip(found, (_MAJOR, _MINOR)):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
    return found[0].value, found[1].value


def cuda_devices() -> int:
    """GPUs that the NVIDIA driver offers; 0 without one."""
    return len(compute_capabilities())


def _torch_computes_on_gpus() -> bool:
    try:
        return "+cpu" not in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return _installed("torch")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _tensorrt(checkpoint: Checkpoint, gpus: int) -> str:
    if not is_bundle(checkpoint.path):
        if foreign := _foreign(checkpoint):
            return f"builds no engines of {foreign}"
        return f"no engines in {checkpoint.path}; qwen3vl build {typed(str(checkpoint.path))} --out BUNDLE builds them"
    if not gpus:
        return f"no NVIDIA driver with a GPU; check nvidia-smi{_without_gpu(checkpoint)}"
    if not (_installed("tensorrt") or _installed("tensorrt_rtx")):
        return "neither tensorrt nor tensorrt_rtx is installed; the first comes with JetPack, the second as tensorrt-rtx-cu13"
    return "" if _installed("cuda") else "cuda-python is not installed; pip install cuda-python"


def _onnxruntime(checkpoint: Checkpoint, gpus: int) -> str:
    if not checkpoint.weight_files:
        return f"no weights in {checkpoint.path}, only engines"
    if checkpoint.quantization != METHOD and (foreign := _foreign(checkpoint)):
        return f"computes no {foreign}"
    if not all((checkpoint.path / name).is_file() for name in (VISION, DECODER)):
        return f"no graphs in {checkpoint.path}; make them: {export_command(checkpoint.path)}"
    return "" if _installed("onnxruntime") else "not installed; pip install onnxruntime"


def _torch(checkpoint: Checkpoint, gpus: int) -> str:
    if not checkpoint.weight_files:
        return f"no weights in {checkpoint.path}, only engines"
    if foreign := _foreign(checkpoint):
        return f"computes no {foreign}"
    return "" if _installed("torch") else "not installed; pip install torch"


def _transformers(checkpoint: Checkpoint, gpus: int) -> str:
    if not checkpoint.weight_files:
        return f"no weights in {checkpoint.path}, only engines"
    if "fp8" in checkpoint.quantization.lower():
        if not gpus:
            return f"a CPU cannot compute with FP8 weights; {_DENSE}"
        if all(capability < _FP8_FROM for capability in compute_capabilities()):
            return f"no GPU here can compute with FP8 weights (compute capability 8.9 or later can); {_DENSE}"
    if checkpoint.quantization == METHOD:
        return f"computes no {checkpoint.weight_kind} weights"
    absent = [name for name in ("torch", "transformers") if not _installed(name)]
    return f"not installed; pip install {' '.join(absent)}" if absent else ""


def _foreign(checkpoint: Checkpoint) -> str:
    """What our network and its graphs do not compute; "" for a dense checkpoint in plain weights."""
    if "Moe" in checkpoint.architecture:
        return "mixture of experts"
    return f"{checkpoint.weight_kind} weights" if checkpoint.quantization else ""


def _without_gpu(checkpoint: Checkpoint) -> str:
    """What can run where engines cannot."""
    if checkpoint.weight_files:
        return ""
    model = origin(checkpoint.path)
    if model.startswith("random:"):
        return "; it was built for timing alone, and from nothing that could run elsewhere"
    absent = " (which is not on this machine)" * (Path(model).is_absolute() and not Path(model).is_dir())
    return (
        f", or give as the model what these engines were built from, {model}{absent}: it runs on a CPU with torch as it is, "
        f"and with onnxruntime after {export_command(model)}"
    )


_MISSING = {"tensorrt": _tensorrt, "onnxruntime": _onnxruntime, "torch": _torch, "transformers": _transformers}
