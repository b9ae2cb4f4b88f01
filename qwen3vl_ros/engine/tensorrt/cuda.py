"""One GPU through cuda-python's runtime API: memory, copies, one stream, captured graphs. Knows no networks."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Callable

import numpy as np

from qwen3vl_ros.types import EngineError, OutOfMemory

ALIGNED = 256  # bytes; TensorRT asks for it at every address


class Cuda:
    """One GPU through cuda-python's runtime API; failures become EngineError, lack of memory OutOfMemory.

    driver: stands for the module cuda.bindings.runtime, in tests.
    """

    def __init__(self, device: int, driver: Any = None):
        self.device = device
        self._driver = driver or import_or_refuse("cuda.bindings.runtime", "pip install cuda-python")
        count = self.call("cudaGetDeviceCount")
        if device >= count:
            raise EngineError(f"device cuda:{device} does not exist, there are {count}; use cuda:0 to cuda:{count - 1}")
        self.use()
        self.stream = self.call("cudaStreamCreate")
        self._blocks: dict[int, str] = {}  # address -> the function that frees it

    def use(self) -> None:
        """Make this the device of the calling thread."""
        self.call("cudaSetDevice", self.device)

    @property
    def sm(self) -> int:
        """Compute capability, 89 being 8.9."""
        major, minor = (
            self.call(
                "cudaDeviceGetAttribute",
                self._kind("cudaDeviceAttr", f"cudaDevAttrComputeCapability{part}"),
                self.device,
            )
            for part in ("Major", "Minor")
        )
        return 10 * major + minor

    def call(self, name: str, *arguments: Any) -> Any:
        """The function's result; raises what it reports."""
        status, *result = getattr(self._driver, name)(*arguments)
        if int(status):
            text = _text(self._driver.cudaGetErrorString(status))
            if getattr(status, "name", "") == "cudaErrorMemoryAllocation":
                raise OutOfMemory(
                    f"the GPU has no room for {name}{arguments}: {text}; use a smaller model, or "
                    "build the bundle with fewer --cache-slots"
                )
            raise EngineError(
                f"{name} failed: {text}; the runtime 'tensorrt' needs a working NVIDIA GPU and driver "
                "(nvidia-smi says more), choose engine onnxruntime without one"
            )
        return result[0] if len(result) == 1 else result or None

    def allocate(self, size: int) -> int:
        """Address of so many zeroes on the GPU."""
        address = int(self.call("cudaMalloc", max(size, ALIGNED)))
        self._blocks[address] = "cudaFree"
        self.call("cudaMemsetAsync", address, 0, max(size, ALIGNED), self.stream)
        return address

    def pinned(self, size: int) -> np.ndarray:
        """size bytes of host memory that the GPU reads and writes directly."""
        address = int(self.call("cudaMallocHost", size))
        self._blocks[address] = "cudaFreeHost"
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)

    def free(self, address: int) -> None:
        """What was freed already stays so."""
        if address in self._blocks:
            self.call(self._blocks.pop(address), address)

    def close(self) -> None:
        """Free everything that was allocated."""
        self.wait()
        for address in list(self._blocks):
            self.free(address)

    def copy(self, target: int, source: int, size: int, way: str) -> None:
        """way: "HostToDevice", "DeviceToHost" or "DeviceToDevice"; queued behind what runs."""
        kind = self._kind("cudaMemcpyKind", f"cudaMemcpy{way}")
        self.call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def wait(self) -> None:
        self.call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """What `work` queues, as one graph to launch; nothing runs yet."""
        self.call(
            "cudaStreamBeginCapture",
            self.stream,
            self._kind("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal"),
        )
        try:
            work()
        finally:  # a stream left capturing would refuse everything after
            captured = self.call("cudaStreamEndCapture", self.stream)
        return self.call("cudaGraphInstantiate", captured, 0)

    def launch(self, captured: Any) -> None:
        self.call("cudaGraphLaunch", captured, self.stream)

    def _kind(self, group: str, name: str) -> Any:
        return getattr(getattr(self._driver, group), name)


def import_or_refuse(module: str, way_out: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineError(
            f"the runtime 'tensorrt' needs the module {module}, which cannot be imported ({error}); "
            f"{way_out}, or choose engine onnxruntime"
        ) from error


def _text(result: Any) -> str:
    text = result[1] if isinstance(result, tuple) else result
    return text.decode() if isinstance(text, bytes) else str(text)
