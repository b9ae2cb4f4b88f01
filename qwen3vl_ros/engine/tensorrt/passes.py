"""What one pass of a TensorRT engine needs: places of its tensors, an execution context, and how it is run or captured.

Knows what graph.py says of names and shapes, and nothing of sequences, prompts and features.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

from qwen3vl_ros.engine.network import graph
from qwen3vl_ros.engine.tensorrt.cuda import ALIGNED, Cuda
from qwen3vl_ros.types import EngineError, InvalidInput, OutOfMemory

_log = logging.getLogger(__name__)


# -- shapes and places, without a GPU --------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a tensor stands in a block of memory: bytes from its start, type on the host, shape."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape))

    def view(self, block: np.ndarray) -> np.ndarray:
        return block[self.offset : self.offset + self.size].view(self.dtype).reshape(self.shape)


def lay_out(values: Sequence[graph.Value], dtype: str, dimensions: Mapping[str, int]) -> tuple[dict[str, Place], int]:
    """Places of tensors one behind the other, and the bytes they take together. dimensions: sizes of the letters."""
    places, end = {}, 0
    for value in values:
        shape = tuple(dimensions[d] if isinstance(d, str) else d for d in value.shape)
        place = Place(end, graph.HOST_DTYPES[dtype if value.dtype == graph.COMPUTE else value.dtype], shape)
        places[value.name], end = place, end + -(-place.size // ALIGNED) * ALIGNED
    return places, end


def chunks(count: int, most: int) -> list[slice]:
    """`count` tokens in passes of at most `most`, of nearly equal length, so that the last is never short."""
    parts = -(-count // most)
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in zip(ends, ends[1:])]


# -- contexts and passes ---------------------------------------------------------------------------------------------


class Contexts:
    """Makes execution contexts, all on one scratch memory: passes run one after the other on one stream.

    tensorrt_rtx compiles kernels for the GPU when they first run; what it compiled is kept in `cache_file`, so that
    the next start does not wait for it. tensorrt compiled them when it built.
    """

    def __init__(self, cuda: Cuda, trt: Any, scratch_bytes: int, cache_file: Path):
        self._cuda, self._trt, self._cache_file, self._compiled = cuda, trt, cache_file, None
        self._scratch = cuda.allocate(scratch_bytes), scratch_bytes

    def make(self, engine: Any, profile: int, one_shape: bool) -> Any:
        """one_shape: the context will be captured, and runs at no second shape."""
        user_managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._trt, "IRuntimeConfig") and hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(user_managed)
            # By default kernels made for a shape come later, from the background: too late for a captured graph.
            when = self._trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = when.EAGER if one_shape else when.LAZY
            config.set_runtime_cache(self._cache(config))
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(user_managed)
        if context is None:
            raise OutOfMemory("TensorRT could not make an execution context; its reason is in the log above")
        context.set_device_memory(*self._scratch)
        if not context.set_optimization_profile_async(profile, int(self._cuda.stream)):
            raise EngineError(f"the engine has no optimization profile {profile}; build the bundle again")
        return context

    def _cache(self, config: Any) -> Any:
        if self._compiled is None:
            self._compiled = config.create_runtime_cache()
            if self._cache_file.is_file() and not self._compiled.deserialize(self._cache_file.read_bytes()):
                _log.info("%s is of another driver or version: kernels are compiled again", self._cache_file)
        return self._compiled

    def keep_compiled(self) -> None:
        if self._compiled is None:
            return
        try:
            self._cache_file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._cache_file.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(self._compiled.serialize())
            temporary.replace(self._cache_file)
        except OSError as error:
            _log.warning("compiled kernels cannot be kept for the next start: %s", error)


class Part:
    """One engine and the memory its contexts share: inputs, outputs, and what is the same for all (`fixed`)."""

    def __init__(self, cuda: Cuda, contexts: Contexts, engine: Any, inputs: int, outputs: int, fixed: dict[str, int]):
        self.cuda, self.engine, self.fixed, self._contexts = cuda, engine, fixed, contexts
        self.host_inputs, self.inputs = cuda.pinned(inputs), cuda.allocate(inputs)
        self.host_outputs, self.outputs = cuda.pinned(outputs), cuda.allocate(outputs)

    def context(self, profile: int, one_shape: bool = False) -> Any:
        return self._contexts.make(self.engine, profile, one_shape)


class Pass:
    """One part at one set of shapes: feeds in, chosen outputs back. `captured` ones become one CUDA graph."""

    def __init__(
        self,
        part: Part,
        context: Any,
        inputs: dict[str, Place],
        outputs: dict[str, Place],
        shapes: dict[str, tuple[int, ...]],
        returned: Sequence[str] = (),
        captured: bool = False,
        elsewhere: Mapping[str, int] = {},
    ):
        """shapes: of inputs in fixed memory. returned: the first of `outputs`, copied to the host. elsewhere:
        addresses that differ from the part's fixed ones."""
        self._part, self._context, self._inputs, self._outputs = part, context, inputs, outputs
        self._returned, self._captured, self._graph, self._runs = tuple(returned), captured, None, 0
        for name, shape in {**{n: p.shape for n, p in inputs.items()}, **shapes}.items():
            if not context.set_input_shape(name, shape):
                raise InvalidInput(
                    f"the engine was not built for {name} of shape {shape}; build the bundle with larger limits"
                )
        for name, place in inputs.items():
            context.set_tensor_address(name, part.inputs + place.offset)
        for name, place in outputs.items():
            context.set_tensor_address(name, part.outputs + place.offset)
        for name, address in {**part.fixed, **elsewhere}.items():
            context.set_tensor_address(name, address)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs in `returned`, copied; the others stay on the GPU."""
        part, cuda = self._part, self._part.cuda
        for name, place in self._inputs.items():
            place.view(part.host_inputs)[...] = feeds[name]
        self._runs += 1
        if self._graph is None and self._captured and self._runs > 1:  # the first run may allocate and compile
            self._capture()
        if self._graph is not None:
            cuda.launch(self._graph)
        else:
            self._queue()
        cuda.wait()
        return {name: self._outputs[name].view(part.host_outputs).copy() for name in self._returned}

    def address_of(self, output: str) -> int:
        return self._part.outputs + self._outputs[output].offset

    def _capture(self) -> None:
        cuda, context = self._part.cuda, self._context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(cuda.stream)):
            _log.warning(
                "TensorRT cannot capture a step of shapes %s as a CUDA graph; its kernels are launched one by one",
                {name: place.shape for name, place in self._inputs.items()},
            )
            self._captured = False
            return
        self._graph = cuda.capture(self._queue)

    def _queue(self) -> None:
        part, cuda = self._part, self._part.cuda
        cuda.copy(part.inputs, part.host_inputs.ctypes.data, _end(self._inputs.values()), "HostToDevice")
        if not self._context.execute_async_v3(int(cuda.stream)):
            raise EngineError("TensorRT could not run a pass; its reason is in the log above")
        if self._returned:
            cuda.copy(
                part.host_outputs.ctypes.data,
                part.outputs,
                _end(self._outputs[name] for name in self._returned),
                "DeviceToHost",
            )


def _end(places) -> int:
    return max(place.offset + place.size for place in places)
