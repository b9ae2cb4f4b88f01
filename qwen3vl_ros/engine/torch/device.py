"""Where a model runs and how precisely: the device, the precision, and whether the memory suffices.

What was asked for is what runs, or an error says why not. Knows torch's devices and nothing of networks.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch

from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.types import EngineError, OutOfMemory

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_GIB = 1024**3


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """The device and why. Raises EngineError for one that is not there: a GPU asked for is never replaced by a CPU."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device()), "device auto: CUDA is available"
        return torch.device("cpu"), f"device auto: torch {torch.__version__} sees no CUDA device"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise EngineError(f"device {wanted!r} is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise EngineError(f"device {wanted!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            built = (
                "this torch was built for CPUs only: install one built for CUDA"
                if torch.version.cuda is None
                else f"torch was built for CUDA {torch.version.cuda} but finds no driver or GPU: check nvidia-smi"
            )
            raise EngineError(
                f"device {wanted!r} was asked for, but there is no CUDA device; {built}, or set device to auto or cpu"
            )
        index = device.index or 0
        if index >= count:
            raise EngineError(f"device {wanted!r} does not exist, there are {count}; use cuda:0 to cuda:{count - 1}")
        device = torch.device("cuda", index)
    return device, f"device {wanted} was asked for"


def choose_dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The precision and why: bfloat16 where the GPU has it, float16 on older GPUs, float32 on a CPU."""
    if wanted != "auto":
        return _DTYPES[wanted], f"dtype {wanted} was asked for"
    if device.type == "cpu":
        return torch.float32, "dtype auto: float32 on a CPU"
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16, "dtype auto: the GPU computes in bfloat16"
    return torch.float16, "dtype auto: the GPU has no bfloat16"


def refuse_quantization(checkpoint: Checkpoint, device: torch.device) -> None:
    """Raises EngineError for FP8 weights on a device that cannot compute with them."""
    if "fp8" not in checkpoint.quantization.lower():
        return
    why = "a CPU" if device.type == "cpu" else None
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        why = torch.cuda.get_device_name(device)
    if why:
        raise EngineError(
            f"{checkpoint.path} holds FP8 weights, which {why} cannot compute with (compute capability "
            "8.9 or later can); use the model without -FP8 in its name"
        )


def require_memory(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
    """Raises OutOfMemory if the weights alone exceed the free memory of the device."""
    needed = (
        sum(f.stat().st_size for f in checkpoint.weight_files)
        if checkpoint.quantization
        else checkpoint.parameters * dtype.itemsize
    )
    free = free_memory_bytes(device)
    if needed > free:
        raise OutOfMemory(
            f"the weights of {checkpoint.path} take {needed / _GIB:.1f} GiB as {str(dtype)[6:]} and "
            f"{device} has {free / _GIB:.1f} GiB free; use a smaller model"
            + (", or dtype bfloat16" if dtype == torch.float32 else "")
            + ", or free memory"
        )


def free_memory_bytes(device: torch.device) -> int:
    """What can still be allocated: CUDA's own figure; for a CPU, the kernel's, within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


@contextmanager
def memory_errors(doing: str, device: torch.device):
    """Turn torch's out-of-memory errors into ours."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU allocator raises the plain kind
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = str(error).split("\n")[0]
        if device.type == "cuda":
            torch.cuda.empty_cache()
        free = free_memory_bytes(device) / _GIB
        raise OutOfMemory(
            f"{device} ran out of memory while {doing} ({reason}); {free:.1f} GiB are free now: use a "
            "smaller model, a lower generation.max_pixels, or free memory"
        ) from error
