"""Bundles of engines kept or refused by name, and engines run against a GPU that only takes notes."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_json
from qwen3vl_ros.engine.network import graph
from qwen3vl_ros.engine.tensorrt import bundle as bundles
from qwen3vl_ros.engine.tensorrt import cuda
from qwen3vl_ros.engine.tensorrt import runtime as tensorrt_runtime
from qwen3vl_ros.engine.tensorrt.bundle import Bundle, ShapeLimits, engine_name, is_bundle, read_bundle, write_manifest
from qwen3vl_ros.engine.tensorrt.cuda import Cuda
from qwen3vl_ros.engine.tensorrt.passes import Pass, chunks, lay_out
from qwen3vl_ros.engine.tensorrt.runtime import TensorrtRuntime
from qwen3vl_ros.types import EngineError, InvalidInput, OutOfMemory, WrongModel

VERSION = "1.7.1.116"


# -- bundles ---------------------------------------------------------------------------------------------------------


SLOTS = json.loads((embedded_model_dir() / "config.json").read_text())["text_config"]["vocab_size"]


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    """Of the embedded model for SM 86 and 89, with letters for engines."""
    shutil.copyfile(embedded_model_dir() / "config.json", tmp_path / "config.json")
    engines = {}
    for sm in (86, 89):
        for part in bundles.PARTS:
            (tmp_path / engine_name(part, sm)).write_text(f"{part} {sm}")
            known = bundles.describe(tmp_path / engine_name(part, sm))
            engines[engine_name(part, sm)] = {**known, "sm": sm, "part": part}
    written = Bundle(
        tmp_path,
        read_json(tmp_path / "config.json"),
        "some/model",
        "ab" * 32,
        7,
        "tensorrt_rtx",
        VERSION,
        "fp16",
        "float16",
        ShapeLimits(cache_slots=512, prefill=256, max_visual=480),
        engines,
        {"measured": False},
    )
    write_manifest(written, ["config.json"])
    return written


def test_a_bundle_reads_as_it_was_written(bundle):
    assert read_bundle(bundle.path) == bundle
    assert bundle.sms == (86, 89)
    assert bundle.require("tensorrt_rtx", VERSION, 89)["decoder"] == bundle.path / "decoder.sm89.engine"
    bundle.require_model("ab" * 32)
    bundle.require_patches([960, 960])


@pytest.mark.parametrize(
    "asked, named",
    [
        (("tensorrt", VERSION, 89), ["engines of tensorrt_rtx and tensorrt is", "--module tensorrt)"]),
        (("tensorrt_rtx", "1.8", 89), ["built with tensorrt_rtx 1.7.1.116 and 1.8 is installed"]),
        (("tensorrt_rtx", VERSION, 120), ["SM 86, 89", "this GPU is SM 120", "--sm 120"]),
    ],
    ids=["module", "version", "sm"],
)
def test_what_does_not_fit_this_machine_is_named_with_the_command_that_does(bundle, asked, named):
    with pytest.raises(EngineError) as error:
        bundle.require(*asked)
    for words in [*named, "qwen3vl build some/model --out", "--cache-slots 512 --prefill 256"]:
        assert words in str(error.value)


def test_another_model_and_too_large_images_are_refused(bundle):
    with pytest.raises(
        WrongModel, match="made from some/model with weights abababababab…, and the model asked for has cdcdcd"
    ):
        bundle.require_model("cd" * 32)
    with pytest.raises(InvalidInput, match=r"5000 patches exceeds the 4096 .*--max-patches 5000"):
        bundle.require_patches([5000])
    small = dataclasses.replace(bundle, limits=ShapeLimits(cache_slots=512, prefill=256, max_visual=300))
    with pytest.raises(InvalidInput, match=r"600 visual tokens .* the 300 .*--max-visual 600"):
        small.require_patches([1200, 1200])


def _flip(path: Path):
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda p: (p / "vision.sm86.engine").unlink(), "vision.sm86.engine is missing"),
        (
            lambda p: (p / "vision.sm86.engine").write_text("x"),
            "vision.sm86.engine has 1 bytes where the manifest says 9",
        ),
        (lambda p: _flip(p / "decoder.sm89.engine"), "decoder.sm89.engine is damaged"),
        (lambda p: _flip(p / "config.json"), "config.json is damaged"),
        (lambda p: (p / "manifest.json").write_text('{"tensorrt": {"format": 9}}'), "format 9"),
        (lambda p: (p / "manifest.json").write_text('{"tensorrt": {"format": 1}}'), "no usable 'files'"),
        (lambda p: (p / "manifest.json").write_text('{"tensorrt"'), "cannot be read as JSON"),
        (lambda p: (p / "manifest.json").write_text('{"onnx": {}}'), "no bundle"),
    ],
    ids=["missing", "short", "engine", "config", "format", "fields", "json", "graphs-only"],
)
def test_a_spoiled_bundle_is_refused_by_the_name_of_the_file(bundle, spoil, named):
    spoil(bundle.path)
    with pytest.raises(WrongModel) as error:
        read_bundle(bundle.path)
    assert named in str(error.value) and ("build" in str(error.value) or "copy the file again" in str(error.value))


def test_a_half_built_compute_capability_does_not_count(bundle):
    engines = {n: e for n, e in bundle.engines.items() if n != "vision.sm86.engine"}
    assert dataclasses.replace(bundle, engines=engines).sms == (89,)


def test_a_manifest_keeps_what_it_says_of_graphs(bundle):
    everything = json.loads((bundle.path / "manifest.json").read_text())
    (bundle.path / "manifest.json").write_text(json.dumps({"onnx": {"format": 1}, **everything}))
    write_manifest(bundle, ["config.json"])
    assert json.loads((bundle.path / "manifest.json").read_text())["onnx"] == {"format": 1}
    assert is_bundle(bundle.path) and not is_bundle(embedded_model_dir())


@pytest.mark.parametrize(
    "limits",
    [
        dict(draft=0),
        dict(draft=600),
        dict(prefill=4096),
        dict(max_patches=3),
        dict(max_patches=1201),
        dict(max_visual=2048),
    ],
    ids=str,
)
def test_limits_that_no_engine_can_have_are_refused(limits):
    with pytest.raises(InvalidInput):
        ShapeLimits(**limits)


# -- running, without a GPU ------------------------------------------------------------------------------------------


class Notes:
    """Stands for cuda.bindings.runtime on real host memory: notes calls, and does what is queued at once, or, while it
    captures, at each launch."""

    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="Major", cudaDevAttrComputeCapabilityMinor="Minor"
    )
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="HtoD", cudaMemcpyDeviceToHost="DtoH", cudaMemcpyDeviceToDevice="DtoD"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")

    def __init__(self):
        self.calls, self.memory, self.fails, self.capturing, self.graphs = [], {}, {}, None, []

    def queue(self, work):
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.fails:
                return (self.fails[name],)
            return (0, *self._result(name, arguments))

        return call

    def _result(self, name, arguments):
        if name in ("cudaMalloc", "cudaMallocHost"):
            block = np.zeros(arguments[0] + 256, np.uint8)
            address = block.ctypes.data + -block.ctypes.data % 256
            self.memory[address] = block
            return (address,)
        if name in ("cudaMemcpyAsync", "cudaMemsetAsync"):
            move = ctypes.memmove if name == "cudaMemcpyAsync" else ctypes.memset
            self.queue(lambda: move(*arguments[:3]))
            return ()
        if name == "cudaStreamBeginCapture":
            self.capturing = []
        if name == "cudaStreamEndCapture":
            self.graphs.append(self.capturing)
            self.capturing = None
            return (len(self.graphs) - 1,)
        if name == "cudaGraphInstantiate":
            return (arguments[0],)
        if name == "cudaGraphLaunch":
            for work in self.graphs[arguments[0]]:
                work()
        if name == "cudaDeviceGetAttribute":
            return ({"Major": 8, "Minor": 9}[arguments[0]],)
        return {
            "cudaGetDeviceCount": (1,),
            "cudaStreamCreate": (7,),
            "cudaGetErrorString": (b"the driver's words",),
        }.get(name, ())

    def names(self):
        return [c[0] for c in self.calls]


class Context:
    """Stands for an execution context: checks that every tensor has an address, and writes outputs by a rule."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.profile = engine, {}, {}, None

    def set_device_memory(self, address, size):
        assert address % 256 == 0 and size > 0

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def tensor(self, name, dtype, shape):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(self.addresses[name]), dtype).reshape(shape)

    def execute_async_v3(self, stream):
        assert stream == 7 and set(self.engine.names) <= set(self.addresses)
        self.engine.ran.append(self)
        self.engine.notes.queue(lambda: self.engine.rule(self))
        return True


class Engine:
    device_memory_size_v2 = 1000

    def __init__(self, notes, names, rule):
        self.notes, self.names, self.rule, self.ran = notes, names, rule, []

    def create_runtime_config(self):
        return RuntimeConfig()

    def create_execution_context(self, config):
        context = Context(self)
        context.config = config
        return context


class RuntimeConfig:
    """Of tensorrt_rtx, which compiles when it runs."""

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda data: data == b"kernels")

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


def _see(context):
    """merged: the patch's number; deep d: 100 (d + 1) more."""
    n, values = context.shapes["patches"]
    seen = context.tensor("patches", np.float32, (n, values))[::4, :1]
    context.tensor("merged", np.float16, (n // 4, 256))[...] = seen
    context.tensor("deep", np.float16, (2, n // 4, 256))[...] = seen + 100 * np.arange(1, 3)[:, None, None]


def _read(context):
    """token: the sum of what each query is given; keys_0 takes the ids, in place."""
    q, k = context.shapes["ids"][0], context.shapes["last"][0]
    r = context.shapes["features"][0]
    ids, rows, last, write = (
        context.tensor(name, np.int64, (size,)) for name, size in (("ids", q), ("rows", q), ("last", k), ("write", 1))
    )
    assert context.addresses["keys_0"] == context.addresses["keys_0_out"]
    mask = context.tensor("mask", np.float16, (q, 512))
    assert ((mask == 0).sum(1) == write[0] + 1 + np.arange(q)).all()
    context.tensor("keys_0", np.float16, (2, 512, 32))[:, write[0] : write[0] + q] = ids[:, None]
    features = context.tensor("features", np.float16, (r, 256))
    deep = context.tensor("deep", np.float16, (2, r, 256))
    given = np.where(rows > 0, features[rows, 0], ids) + deep[:, rows, 0].sum(0)
    context.tensor("token", np.int64, (k,))[...] = given[last]
    context.tensor("logprob", np.float32, (k,))[...] = -given[last]
    context.tensor("logits", np.float32, (k, SLOTS))[...] = given[last][:, None]


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def runtime(request, bundle, monkeypatch):
    """On a GPU that takes notes, with a module that is like one of the two."""
    sizes = bundle.sizes
    notes = Notes()
    engines = {
        part: Engine(notes, [v.name for side in ends(sizes) for v in side], rule)
        for part, ends, rule in (("vision", graph.vision_values, _see), ("decoder", graph.decoder_values, _read))
    }
    module = SimpleNamespace(__version__=VERSION, ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2))
    if request.param == "tensorrt_rtx":
        module.IRuntimeConfig = RuntimeConfig
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")
    monkeypatch.setenv("XDG_CACHE_HOME", str(bundle.path / "cache"))
    monkeypatch.setattr(cuda, "import_or_refuse", lambda name, way_out: notes)
    monkeypatch.setattr(tensorrt_runtime, "import_or_refuse", lambda name, way_out: module)
    monkeypatch.setattr(TensorrtRuntime, "_load", lambda self, file: engines[file.name.split(".")[0]])
    runtime = TensorrtRuntime(bundle, warm=False)
    runtime.notes, runtime.engines = notes, engines
    return runtime


def test_a_prompt_with_an_image_and_the_steps_behind_it(runtime):
    visual = runtime.sizes.image_id
    pixels = np.repeat(np.arange(16, dtype=np.float32)[:, None], runtime.sizes.vision.patch_values, 1)
    features = runtime.encode(pixels, np.array([[1, 4, 4]]))
    assert features.count == 4
    scores = runtime.prefill([5, visual, visual, visual, visual, 6], features, keep=3)
    assert scores.best() == ([8 + 100 + 200 + 16, 12 + 300 + 24, 6], [-324.0, -336.0, -6.0])
    assert scores.logits().shape == (3, SLOTS) and (scores.logits()[0] == 324).all()
    # The row of text tokens is zero in every layer, though the prompt's features stand there.
    assert runtime.step([9]).best() == ([9], [-9.0])
    assert runtime.step([7, 8, 9]).best() == ([7, 8, 9], [-7.0, -8.0, -9.0])
    assert runtime.length == 10
    with pytest.raises(EngineError, match="gone after the next one"):
        scores.logits()
    runtime.rollback(3)
    assert runtime.length == 7 and runtime.next_position == 7


def test_a_step_is_captured_at_its_second_run_and_then_one_launch(runtime):
    def one(token):
        runtime.notes.calls.clear()
        runtime.step([token])
        return [n for n in runtime.notes.names() if n != "cudaSetDevice"]

    assert one(1) == ["cudaMemcpyAsync", "cudaMemcpyAsync", "cudaStreamSynchronize"]
    assert one(2) == [
        "cudaStreamBeginCapture",
        "cudaMemcpyAsync",
        "cudaMemcpyAsync",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphLaunch",
        "cudaStreamSynchronize",
    ]
    assert one(3) == ["cudaGraphLaunch", "cudaStreamSynchronize"]
    assert not {"cudaMalloc", "cudaMallocHost"} & set(runtime.notes.names())


def test_loading_captures_every_length_of_a_step(runtime):
    runtime = TensorrtRuntime(runtime.bundle)
    assert runtime.length == 0
    runtime._cuda._driver.calls.clear()
    for count in range(1, 17):
        assert runtime.step([4] * count).best()[0] == [4] * count
    names = [n for n in runtime._cuda._driver.names() if n != "cudaSetDevice"]
    assert names == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 16


def test_the_runtime_knows_the_names_that_cuda_python_has(runtime):
    """The GPU that takes notes answers to any name; the real module has to have those that were called."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    runtime.step([1])
    runtime.step([1])
    runtime.prefill([1, 2])
    runtime.close()
    assert not [name for name in set(runtime.notes.names()) if not callable(getattr(real, name, None))]
    for group in ("cudaDeviceAttr", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        assert not [name for name in vars(getattr(Notes, group)) if not hasattr(getattr(real, group), name)]


def test_a_failed_capture_ends_it(runtime):
    runtime.step([1])
    context = runtime.engines["decoder"].ran[-1]
    context.execute_async_v3 = lambda stream: False
    with pytest.raises(EngineError, match="could not run a pass"):
        runtime.step([2])
    assert runtime.notes.names()[-1] == "cudaStreamEndCapture" and runtime.length == 1


def test_a_long_prompt_goes_in_parts_and_a_broken_one_leaves_nothing(runtime):
    runtime.limits = dataclasses.replace(runtime.limits, prefill=100)
    ids = list(range(1, 251))
    assert runtime.prefill(ids, keep=2).best()[0] == [249, 250]
    ran = runtime.engines["decoder"].ran
    assert len(ran) == 3 and all(c.profile == 1 for c in ran) and runtime.length == 250
    calls = iter([None, None])

    def cancel():
        if next(calls, "end") == "end":
            raise InterruptedError

    runtime.between_layers = cancel
    with pytest.raises(InterruptedError):
        runtime.prefill(ids)
    assert runtime.length == 250


def test_short_prompts_take_the_profile_of_steps(runtime):
    runtime.prefill([1, 2, 3])
    runtime.prefill(list(range(1, 18)))
    assert [c.profile for c in runtime.engines["decoder"].ran] == [0, 1]


def test_passes_outside_the_limits_are_refused(runtime):
    with pytest.raises(InvalidInput, match="--draft 17"):
        runtime.step(list(range(17)))
    with pytest.raises(InvalidInput, match="keep 17"):
        runtime.prefill(list(range(40)), keep=17)
    with pytest.raises(EngineError, match="do not fit a cache of 512"):
        runtime.prefill([1] * 513)
    with pytest.raises(InvalidInput, match="--max-patches 6400"):
        runtime.encode(np.zeros((6400, runtime.sizes.vision.patch_values), np.float32), np.array([[1, 80, 80]]))
    assert runtime.length == 0 and not runtime.engines["decoder"].ran


def test_what_is_compiled_for_captured_steps_is_not_left_to_the_background(runtime):
    runtime.step([1])
    runtime.prefill([1, 2, 3])
    step, prompt = (context.config for context in runtime.engines["decoder"].ran)
    runtime.close()
    kept = list((runtime.bundle.path / "cache" / "qwen3vl_ros").glob("*"))
    if not hasattr(runtime._trt, "IRuntimeConfig"):
        assert (step, prompt, kept) == (2, 2, [])
        return
    assert step.strategy == prompt.strategy == 2 and step.cache is prompt.cache
    assert step.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert prompt.dynamic_shapes_kernel_specialization_strategy == "lazy"
    assert [file.read_bytes() for file in kept] == [b"kernels"]


def test_close_frees_every_block_once(runtime):
    features = runtime.encode(np.zeros((16, runtime.sizes.vision.patch_values), np.float32), np.array([[1, 4, 4]]))
    runtime.close()
    del features
    freed = [c[1] for c in runtime.notes.calls if c[0] in ("cudaFree", "cudaFreeHost")]
    assert sorted(freed) == sorted(runtime.notes.memory)


def test_cuda_failures_say_what_failed():
    notes = Notes()
    cuda = Cuda(0, notes)
    assert cuda.sm == 89
    notes.fails["cudaMalloc"] = _Status(2, "cudaErrorMemoryAllocation")
    with pytest.raises(OutOfMemory, match="cudaMalloc.*the driver's words"):
        cuda.allocate(10)
    notes.fails["cudaGetDeviceCount"] = _Status(35, "cudaErrorInsufficientDriver")
    with pytest.raises(EngineError, match="cudaGetDeviceCount failed: the driver's words.*onnxruntime"):
        Cuda(0, notes)
    notes.fails.clear()
    with pytest.raises(EngineError, match="cuda:3 does not exist, there are 1"):
        Cuda(3, notes)


class _Status(int):
    def __new__(cls, value, name):
        self = super().__new__(cls, value)
        self.name = name
        return self


def test_places_are_aligned_and_do_not_overlap(bundle):
    values = graph.decoder_values(bundle.sizes)[0]
    places, end = lay_out(values, "bfloat16", {"Q": 3, "K": 2, "R": 5, "S": 512})
    inside = sorted((p.offset, p.offset + p.size) for p in places.values())
    assert all(begin % 256 == 0 for begin, _ in inside) and inside[-1][1] <= end
    assert all(end <= begin for (_, end), (begin, _) in zip(inside, inside[1:]))
    assert places["mask"].shape == (1, 1, 3, 512) and places["mask"].dtype.itemsize == 2
    block = np.zeros(end, np.uint8)
    places["cos"].view(block)[...] = 1.5
    assert (places["cos"].view(block) == 1.5).all() and not places["sin"].view(block).any()


@pytest.mark.parametrize("count, most", [(1, 4), (4, 4), (5, 4), (250, 100), (1025, 1024)])
def test_chunks_cover_everything_with_none_short(count, most):
    parts = chunks(count, most)
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) <= most and min(lengths) >= min(count, most // 2)


def test_a_shape_the_engine_was_not_built_for_is_refused(bundle):
    context = SimpleNamespace(set_input_shape=lambda name, shape: False)
    places, _ = lay_out(graph.vision_values(bundle.sizes)[0], "float16", {"N": 4})
    with pytest.raises(InvalidInput, match="not built for patches of shape"):
        Pass(SimpleNamespace(), context, places, {}, {})


# -- the benchmark that waits for a GPU ------------------------------------------------------------------------------


def test_the_benchmark_runs_here_at_toy_size():
    pytest.importorskip("transformers", reason="its peer")
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "engine_gpu.py"),
            "--sizes",
            "toy",
            "--rounds",
            "1",
            "--tokens",
            "4",
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = told["sizes"]["toy"]
    assert {"torch", "generate_eager"} <= set(found["runtimes"])
    assert told["copy_gb_s"] > 0
    for row in found["runtimes"].values():
        assert row["answer_ms"]["median"] > 0
        if row["decode_tok_s"] is None:  # three tokens may take less than the machine's noise
            assert "no longer than one" in row["decode_unknown"] and row["share_of_bandwidth"] is None
        else:
            assert row["decode_tok_s"]["median"] > 0 and row["decode_gb_s"] >= 0
    assert found["runtimes"]["torch"]["decode_tok_s"], "ours times its steps themselves"
    assert told["gpu"] or "There is no GPU here" in done.stdout


def test_a_speed_that_drowns_in_noise_is_not_told(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import engine_gpu

    def answered(*decode_ms: float) -> list[dict[str, float]]:
        return [{"first_token_ms": 5.0, "decode_ms": d, "answer_ms": 5.0 + d} for d in decode_ms]

    told = engine_gpu.summary(answered(2.0, 4.0, 8.0), tokens=5, read_bytes=1e9, bandwidth_gb_s=2000.0)
    assert told["decode_tok_s"]["median"] == 1000 and told["decode_gb_s"] == 1000 and told["share_of_bandwidth"] == 0.5
    lost = engine_gpu.summary(answered(2.0, -0.3, 0.0), tokens=5, read_bytes=1e9, bandwidth_gb_s=2000.0)
    assert lost["decode_tok_s"] is lost["decode_gb_s"] is lost["share_of_bandwidth"] is None
    assert "in 2 of 3 rounds 5 tokens took no longer than one" in lost["decode_unknown"]
    found = {
        "peak_bytes": None,
        "bytes_per_token": 1,
        "runtimes": {"peer": {**lost, "ratio_vs_eager": 1}},
    }
    assert "peer: no speed of decoding: in 2 of 3 rounds" in engine_gpu.table("toy", found)
