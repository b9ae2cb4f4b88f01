"""The TensorRT runtime (`Runtime` in base.py) on the engines of a bundle, through cuda-python: no torch, no copies of
the cache.

Everything a pass reads or writes has its address before the first pass. The cache's outputs are its inputs' memory;
all small inputs travel in one transfer and so do the tokens chosen; logits stay on the GPU until asked for. Each
length of a step has its own execution context and is captured once as a CUDA graph: transfer, network and transfer
back are then one launch. The modules `tensorrt` and `tensorrt_rtx` are alike here and imported only when a bundle is
loaded. Knows no text, stopping or drafts.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np

from qwen3vl_ros.engine import graph
from qwen3vl_ros.engine.bundle import PARTS, Bundle, engine_name, read_bundle
from qwen3vl_ros.engine.sequence import Sequence as TokenSequence
from qwen3vl_ros.engine.sequence import visual_places
from qwen3vl_ros.types import EngineError, InvalidInput, OutOfMemory

_ALIGNED = 256  # bytes; TensorRT asks for it at every address
_log = logging.getLogger(__name__)


class Cuda:
    """One GPU through cuda-python's runtime API; failures become EngineError, lack of memory OutOfMemory.

    driver: stands for the module cuda.bindings.runtime, in tests.
    """

    def __init__(self, device: int, driver: Any = None):
        self.device, self._driver = device, driver or _import("cuda.bindings.runtime", "pip install cuda-python")
        count = self.call("cudaGetDeviceCount")
        if device >= count:
            raise EngineError(f"device cuda:{device} does not exist, there are {count}; use cuda:0 to "
                              f"cuda:{count - 1}")
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
            self.call("cudaDeviceGetAttribute",
                      self._kind("cudaDeviceAttr", f"cudaDevAttrComputeCapability{part}"), self.device)
            for part in ("Major", "Minor"))
        return 10 * major + minor

    def call(self, name: str, *arguments: Any) -> Any:
        """The function's result; raises what it reports."""
        status, *result = getattr(self._driver, name)(*arguments)
        if int(status):
            text = _text(self._driver.cudaGetErrorString(status))
            if getattr(status, "name", "") == "cudaErrorMemoryAllocation":
                raise OutOfMemory(f"the GPU has no room for {name}{arguments}: {text}; use a smaller model, or "
                                  "build the bundle with fewer --cache-slots")
            raise EngineError(f"{name} failed: {text}; the runtime 'tensorrt' needs a working NVIDIA GPU and driver "
                              "(nvidia-smi says more), choose engine onnxruntime without one")
        return result[0] if len(result) == 1 else result or None

    def allocate(self, size: int) -> int:
        """Address of so many zeroes on the GPU."""
        address = int(self.call("cudaMalloc", max(size, _ALIGNED)))
        self._blocks[address] = "cudaFree"
        self.call("cudaMemsetAsync", address, 0, max(size, _ALIGNED), self.stream)
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
        self.call("cudaStreamBeginCapture", self.stream,
                  self._kind("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal"))
        try:
            work()
        finally:  # a stream left capturing would refuse everything after
            captured = self.call("cudaStreamEndCapture", self.stream)
        return self.call("cudaGraphInstantiate", captured, 0)

    def launch(self, captured: Any) -> None:
        self.call("cudaGraphLaunch", captured, self.stream)

    def _kind(self, group: str, name: str) -> Any:
        return getattr(getattr(self._driver, group), name)


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
        return block[self.offset:self.offset + self.size].view(self.dtype).reshape(self.shape)


def lay_out(values: Sequence[graph.Value], dtype: str, dimensions: Mapping[str, int]) -> tuple[dict[str, Place], int]:
    """Places of tensors one behind the other, and the bytes they take together. dimensions: sizes of the letters."""
    places, end = {}, 0
    for value in values:
        shape = tuple(dimensions[d] if isinstance(d, str) else d for d in value.shape)
        place = Place(end, graph.HOST_DTYPES[dtype if value.dtype == graph.COMPUTE else value.dtype], shape)
        places[value.name], end = place, end + -(-place.size // _ALIGNED) * _ALIGNED
    return places, end


def chunks(count: int, most: int) -> list[slice]:
    """`count` tokens in passes of at most `most`, of nearly equal length, so that the last is never short."""
    parts = -(-count // most)
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in zip(ends, ends[1:])]


# -- contexts and passes ----------------------------------------------------------------------------------------------------------

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
        if not context.set_optimization_profile_async(profile, self._cuda.stream):
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


class Network:
    """One engine and the memory its contexts share: inputs, outputs, and what is the same for all (`fixed`)."""

    def __init__(self, cuda: Cuda, contexts: Contexts, engine: Any, inputs: int, outputs: int,
                 fixed: dict[str, int]):
        self.cuda, self.engine, self.fixed, self._contexts = cuda, engine, fixed, contexts
        self.host_inputs, self.inputs = cuda.pinned(inputs), cuda.allocate(inputs)
        self.host_outputs, self.outputs = cuda.pinned(outputs), cuda.allocate(outputs)

    def context(self, profile: int, one_shape: bool = False) -> Any:
        return self._contexts.make(self.engine, profile, one_shape)


class Pass:
    """One network at one set of shapes: feeds in, chosen outputs back. `captured` ones become one CUDA graph."""

    def __init__(self, network: Network, context: Any, inputs: dict[str, Place], outputs: dict[str, Place],
                 shapes: dict[str, tuple[int, ...]], returned: Sequence[str] = (), captured: bool = False,
                 elsewhere: Mapping[str, int] = {}):
        """shapes: of inputs in fixed memory. returned: the first of `outputs`, copied to the host. elsewhere:
        addresses that differ from the network's fixed ones."""
        self._network, self._context, self._inputs, self._outputs = network, context, inputs, outputs
        self._returned, self._captured, self._graph, self._runs = tuple(returned), captured, None, 0
        for name, shape in {**{n: p.shape for n, p in inputs.items()}, **shapes}.items():
            if not context.set_input_shape(name, shape):
                raise InvalidInput(f"the engine was not built for {name} of shape {shape}; build the bundle with "
                                   "larger limits")
        for name, place in inputs.items():
            context.set_tensor_address(name, network.inputs + place.offset)
        for name, place in outputs.items():
            context.set_tensor_address(name, network.outputs + place.offset)
        for name, address in {**network.fixed, **elsewhere}.items():
            context.set_tensor_address(name, address)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs in `returned`, copied; the others stay on the GPU."""
        network, cuda = self._network, self._network.cuda
        for name, place in self._inputs.items():
            place.view(network.host_inputs)[...] = feeds[name]
        self._runs += 1
        if self._graph is None and self._captured and self._runs > 1:  # the first run may allocate and compile
            self._capture()
        if self._graph is not None:
            cuda.launch(self._graph)
        else:
            self._queue()
        cuda.wait()
        return {name: self._outputs[name].view(network.host_outputs).copy() for name in self._returned}

    def address_of(self, output: str) -> int:
        return self._network.outputs + self._outputs[output].offset

    def _capture(self) -> None:
        cuda, context = self._network.cuda, self._context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(cuda.stream)):
            _log.warning("TensorRT cannot capture a step of shapes %s as a CUDA graph; its kernels are launched one "
                         "by one",
                         {name: place.shape for name, place in self._inputs.items()})
            self._captured = False
            return
        self._graph = cuda.capture(self._queue)

    def _queue(self) -> None:
        network, cuda = self._network, self._network.cuda
        cuda.copy(network.inputs, network.host_inputs.ctypes.data, _end(self._inputs.values()), "HostToDevice")
        if not self._context.execute_async_v3(int(cuda.stream)):
            raise EngineError("TensorRT could not run a pass; its reason is in the log above")
        if self._returned:
            cuda.copy(network.host_outputs.ctypes.data, network.outputs,
                      _end(self._outputs[name] for name in self._returned), "DeviceToHost")


def _end(places) -> int:
    return max(place.offset + place.size for place in places)


# -- features --------------------------------------------------------------------------------------------------------

class DeviceFeatures:
    """Features of some images, which stay on the GPU: merged count x hidden, behind it deep D x count x hidden."""

    def __init__(self, cuda: Cuda, count: int, row_bytes: int, deep: int):
        self.count, self.row_bytes, self.layers, self._cuda = count, row_bytes, deep + 1, cuda
        self._address = cuda.allocate(count * row_bytes * self.layers)

    def layer(self, index: int) -> int:
        """Address of the merged features (0), or of those for decoder layer index - 1."""
        return self._address + index * self.count * self.row_bytes

    def __del__(self):
        if hasattr(self, "_address"):
            self._cuda.free(self._address)


class TensorrtScores:
    """What one pass said (base.Scores). The logits hold until the next pass."""

    def __init__(self, tokens: np.ndarray, logprobs: np.ndarray, read_logits: Callable[[], np.ndarray]):
        self._tokens, self._logprobs, self._read = tokens, logprobs, read_logits

    def best(self) -> tuple[list[int], list[float]]:
        return self._tokens.tolist(), self._logprobs.tolist()

    def logits(self) -> np.ndarray:
        return self._read()


# -- the runtime -----------------------------------------------------------------------------------------------------

class TensorrtRuntime:
    """One sequence on the engines of a bundle, on the GPU `device`.

    Raises WrongModel for a damaged bundle, EngineError for one of another module, version or GPU, naming the command
    that builds a fitting one; OutOfMemory.
    """

    def __init__(self, bundle: Bundle | Path | str, device: int = 0):
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        self._trt = _import(self.bundle.module, f"install {self.bundle.module} {self.bundle.version}")
        self._cuda = Cuda(device)
        files = self.bundle.require(self.bundle.module, self._trt.__version__, self._cuda.sm)
        self.sizes, self.dtype, self.limits = self.bundle.sizes, self.bundle.dtype, self.bundle.limits
        self.capacity, self.longest_step = self.limits.cache_slots, self.limits.draft
        self.between_layers: Callable[[], None] = lambda: None
        self._sequence, self._passes = TokenSequence(self.capacity), 0
        self._open({part: self._load(files[part]) for part in PARTS})

    @property
    def length(self) -> int:
        return len(self._sequence)

    @property
    def next_position(self) -> int:
        return self._sequence.next_position

    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> DeviceFeatures:
        vision, frames = self.sizes.vision, [h * w for count, h, w in np.asarray(grid).tolist() for _ in range(count)]
        feeds = graph.vision_feeds(self.sizes, pixels, grid)
        self.bundle.require_patches(frames)
        self._cuda.use()
        features = DeviceFeatures(self._cuda, sum(frames) // vision.merge**2, self._row_bytes, len(vision.deepstack))
        done = 0
        for feed, patches in zip(feeds, frames):
            self.between_layers()
            outputs, _ = lay_out(graph.vision_values(self.sizes)[1], self.dtype, {"V": patches // vision.merge**2})
            inputs, _ = lay_out(graph.vision_values(self.sizes)[0], self.dtype, {"N": patches})
            Pass(self._vision, self._seeing, inputs, outputs, {}).run(feed)
            rows = patches // vision.merge**2
            for layer in range(features.layers):
                source = self._vision.outputs + (outputs["merged"].offset if layer == 0 else
                                                 outputs["deep"].offset + (layer - 1) * rows * self._row_bytes)
                self._cuda.copy(features.layer(layer) + done * self._row_bytes, source, rows * self._row_bytes,
                                "DeviceToDevice")
            done += rows
        return features

    def prefill(self, ids: Sequence[int], features: DeviceFeatures | None = None, positions: np.ndarray | None = None,
                keep: int = 1) -> TensorrtScores:
        if not 0 <= keep <= min(len(ids), self.limits.draft):
            raise InvalidInput(f"keep {keep} does not fit {len(ids)} tokens on engines that give the scores of at "
                               f"most {self.limits.draft}")
        seen = 0 if features is None else features.count
        visual = visual_places(ids, (self.sizes.image_id, self.sizes.video_id), seen)
        positions, before = self._sequence.places(len(ids), positions), self.length
        rows = np.zeros(len(ids), np.int64)
        rows[visual] = 1 + np.arange(seen)
        self._cuda.use()
        self._place_features(features)
        try:
            for part in chunks(len(ids), self.limits.prefill):
                self.between_layers()
                scores = self._prompt(ids[part], positions[:, part], rows[part], seen + 1, max(keep, 1), keep)
        except BaseException:
            self._sequence.rollback(self.length - before)
            raise
        return scores

    def step(self, token_ids: Sequence[int]) -> TensorrtScores:
        count = len(token_ids)
        if count > self.longest_step:
            raise InvalidInput(f"a step of {count} tokens exceeds the {self.longest_step} that the engines were "
                               f"built for; build with a longer --draft: {self.bundle.rebuild_command(draft=count)}")
        positions = self._sequence.places(count)
        self._cuda.use()
        if count not in self._steps:
            self._steps[count] = self._pass(self._decoder.context(0, one_shape=True), count, count, 1, captured=True)
        scores = self._run(self._steps[count], self._feeds(token_ids, positions, count), count)
        self._sequence.append(positions)
        return scores

    def rollback(self, count: int) -> None:
        self._sequence.rollback(count)

    def close(self) -> None:
        """Keep what was compiled for the next start, and free the GPU's memory."""
        self._contexts.keep_compiled()
        self._steps, self._vision, self._decoder, self._seeing, self._prompts = {}, None, None, None, {}
        self._cuda.close()

    # -- inside --

    def _load(self, file: Path) -> Any:
        runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.WARNING))
        # Mapped: read into memory, gigabytes would stand there twice.
        engine = runtime.deserialize_cuda_engine(np.memmap(file, np.uint8, "r"))
        if engine is None:
            raise EngineError(f"{self._trt.__name__} {self._trt.__version__} cannot load {file}; its reason is in "
                              f"the log above. Build again: {self.bundle.rebuild_command()}")
        return engine

    def _open(self, engines: dict[str, Any]) -> None:
        cuda, sizes, limits = self._cuda, self.sizes, self.limits
        text, deep = sizes.text, len(sizes.vision.deepstack)
        self._row_bytes = text.hidden * graph.HOST_DTYPES[self.dtype].itemsize
        scratch = max(engine.device_memory_size_v2 for engine in engines.values())
        rows = (limits.max_visual + 1) * self._row_bytes
        cache = {v.name: lay_out([v], self.dtype, {"S": limits.cache_slots})[1] for v in graph.decoder_values(sizes)[0]
                 if v.name.startswith(("keys_", "values_"))}
        addresses = {name: cuda.allocate(size) for name, size in
                     {"features": rows, "deep": deep * rows, **cache}.items()}
        self._contexts = Contexts(cuda, self._trt, scratch, self._cache_file())
        self._zeroes = cuda.allocate(max(deep, 1) * self._row_bytes)
        addresses |= {f"{name}_out": addresses[name] for name in cache}
        most = {"N": limits.max_patches, "V": limits.max_patches // sizes.vision.merge**2}
        vision = [lay_out(values, self.dtype, most)[1] for values in graph.vision_values(sizes)]
        decoder = [lay_out(values, self.dtype, {"Q": limits.prefill, "S": limits.cache_slots, "K": limits.draft})[1]
                   for values in (self._fed, self._given)]
        self._vision = Network(cuda, self._contexts, engines["vision"], *vision, {})
        self._decoder = Network(cuda, self._contexts, engines["decoder"], *decoder, addresses)
        self._seeing, self._prompts = self._vision.context(0), {p: self._decoder.context(p) for p in (0, 1)}
        self._steps: dict[int, Pass] = {}

    def _cache_file(self) -> Path:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen3vl_ros"
        return caches / f"{self.bundle.engines[engine_name('decoder', self._cuda.sm)]['sha256'][:24]}.kernels"

    @property
    def _fed(self) -> list[graph.Value]:
        """Inputs of the decoder that the host writes at every pass."""
        fixed = ("features", "deep", "keys_", "values_")
        return [v for v in graph.decoder_values(self.sizes)[0] if not v.name.startswith(fixed)]

    @property
    def _given(self) -> list[graph.Value]:
        """Outputs of the decoder but the cache; those that go to the host first."""
        given = {v.name: v for v in graph.decoder_values(self.sizes)[1]}
        return [given[name] for name in ("token", "logprob", "logits")]

    def _pass(self, context: Any, count: int, keep: int, rows: int, captured: bool = False) -> Pass:
        dimensions = {"Q": count, "K": keep, "S": self.limits.cache_slots}
        inputs, outputs = (lay_out(values, self.dtype, dimensions)[0] for values in (self._fed, self._given))
        hidden, deep = self.sizes.text.hidden, len(self.sizes.vision.deepstack)
        # Without features the only row is row 0 of each layer: they stand together, where the last prompt's do not.
        elsewhere = {"features": self._zeroes, "deep": self._zeroes} if rows == 1 else {}
        return Pass(self._decoder, context, inputs, outputs, {"features": (rows, hidden), "deep": (deep, rows, hidden)},
                    ("token", "logprob"), captured, elsewhere)

    def _feeds(self, ids: Sequence[int], positions: np.ndarray, keep: int) -> dict[str, np.ndarray]:
        return graph.decoder_feeds(self.sizes.text, ids, positions, start=self.length, span=self.limits.cache_slots,
                                   keep=keep, dtype=self.dtype)

    def _prompt(self, ids: Sequence[int], positions: np.ndarray, rows: np.ndarray, row_count: int, computed: int,
                keep: int) -> TensorrtScores:
        computed = min(computed, len(ids))
        context = self._prompts[int(len(ids) > self.limits.draft)]
        feeds = self._feeds(ids, positions, computed) | {"rows": rows}
        scores = self._run(self._pass(context, len(ids), computed, row_count), feeds, keep)
        self._sequence.append(positions)
        return scores

    def _run(self, work: Pass, feeds: dict[str, np.ndarray], keep: int) -> TensorrtScores:
        given = work.run(feeds)
        self._passes += 1
        number, count, address = self._passes, len(given["token"]), work.address_of("logits")

        def read() -> np.ndarray:
            if number != self._passes:
                raise EngineError("the logits of a pass are gone after the next one; read them before")
            logits = np.empty((count, self.sizes.text.vocabulary), np.float32)
            self._cuda.copy(logits.ctypes.data, address, logits.nbytes, "DeviceToHost")
            self._cuda.wait()
            return logits[count - keep:]

        return TensorrtScores(given["token"][count - keep:], given["logprob"][count - keep:], read)

    def _place_features(self, features: DeviceFeatures | None) -> None:
        """Row 0 of what the decoder reads stays zero; the features follow it."""
        if features is None:
            return
        if features.count > self.limits.max_visual:
            raise InvalidInput(f"{features.count} visual tokens exceed the {self.limits.max_visual} that the "
                               "engines were built for; build again: "
                               f"{self.bundle.rebuild_command(max_visual=features.count)}")
        fixed, size = self._decoder.fixed, features.count * self._row_bytes
        for layer in range(features.layers):
            start = fixed["features"] if layer == 0 else fixed["deep"] + (layer - 1) * (size + self._row_bytes)
            self._cuda.call("cudaMemsetAsync", start, 0, self._row_bytes, self._cuda.stream)
            self._cuda.copy(start + self._row_bytes, features.layer(layer), size, "DeviceToDevice")


def _import(module: str, way_out: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineError(f"the runtime 'tensorrt' needs the module {module}, which cannot be imported ({error}); "
                          f"{way_out}, or choose engine onnxruntime") from error


def _text(result: Any) -> str:
    text = result[1] if isinstance(result, tuple) else result
    return text.decode() if isinstance(text, bytes) else str(text)
