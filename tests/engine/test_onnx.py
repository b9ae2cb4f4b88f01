"""The exported graphs on ONNX Runtime against our network in torch, and what happens when files do not fit together."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the export needs onnx")
torch = pytest.importorskip("torch", reason="what the graphs are compared with")

from random_checkpoint import IMAGE, write_checkpoint
from safetensors.torch import load_file, save_file

from qwen3vl_ros.engine import embedded_model_dir
from qwen3vl_ros.engine.base import Prompt
from qwen3vl_ros.engine.checkpoint import Checkpoint, read_checkpoint
from qwen3vl_ros.engine.network import graph
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.onnx import runtime as onnx_runtime
from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime
from qwen3vl_ros.engine.prompt.prepare import Preparation, mrope_positions
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime
from qwen3vl_ros.export.graphs import export
from qwen3vl_ros.types import EngineError, InvalidInput, ModelNotFound, WrongModel

ROOT = Path(__file__).resolve().parents[2]
RELATIVE = 1e-4
VARIANTS = ("attention", "decomposed")
GRIDS = {
    "image": [(1, 6, 8)],
    "sizes mixed": [(1, 4, 10), (1, 12, 4), (1, 2, 2)],
    "clip": [(3, 4, 6)],
    "images and clip": [(1, 4, 4), (2, 6, 4)],
}


def given(sizes: Sizes, grid, seed: int = 0):
    """ids, positions, pixels and grid of a prompt: words, frames, words."""
    rng, ids = np.random.default_rng(seed), []
    for frames, rows, columns in grid:
        for _ in range(frames):
            ids += [*rng.integers(0, IMAGE, 3), *[IMAGE] * (rows * columns // sizes.vision.merge**2)]
    ids = np.array([*ids, *rng.integers(0, IMAGE, 5)])
    grid = np.array(grid).reshape(-1, 3)
    pixels = rng.uniform(-1, 1, (int(grid.prod(1).sum()), sizes.vision.patch_values)).astype(np.float32)
    return ids, mrope_positions(ids == IMAGE, grid, sizes.vision.merge), pixels, grid


def error(ours, reference) -> float:
    ours, reference = (np.asarray(x.logits() if hasattr(x, "best") else x, np.float64) for x in (ours, reference))
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def assert_equal(
    ours: OnnxRuntime, reference: TorchRuntime, prompt, relative: float = RELATIVE, longest: int = 16
) -> None:
    """Features, prompt logits, an answer in steps of 1 to `longest` tokens with half of them taken back."""
    ids, positions, pixels, grid = prompt
    seen, expected = ours.encode(pixels, grid), reference.encode(pixels, grid)
    assert error(seen.features[1:], expected.merged) <= relative
    for index, deep in enumerate(expected.deep):
        assert error(seen.deep[index, 1:], deep) <= relative
    assert not seen.features[0].any() and not seen.deep[:, 0].any()
    scores = ours.prefill(ids, seen, positions, keep=4), reference.prefill(ids, expected, positions, keep=4)
    assert error(*scores) <= relative
    rng, token = np.random.default_rng(1), scores[1].best()[0][-1]
    for count in range(1, longest + 1):
        tokens = [token, *rng.integers(0, IMAGE, count - 1).tolist()]
        scores = ours.step(tokens), reference.step(tokens)
        assert error(*scores) <= relative, f"a step of {count}"
        (chosen, logprobs), (expected_chosen, expected_logprobs) = (s.best() for s in scores)
        assert logprobs == pytest.approx(expected_logprobs, abs=10 * relative)
        if relative <= RELATIVE:
            assert chosen == expected_chosen
        back, token = count // 2, expected_chosen[count - 1 - count // 2]
        for runtime in (ours, reference):
            runtime.rollback(back)
        assert (ours.length, ours.next_position) == (reference.length, reference.next_position)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("small"), "small")


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    """(variant, dtype) -> a directory with the small model's graphs."""
    made = {}

    def of(variant: str = "attention", dtype: str = "float32", slots: int = 0) -> Path:
        key = variant, dtype, slots
        if key not in made:
            made[key] = tmp_path_factory.mktemp("graphs")
            export(small, made[key], dtype, variant, slots, measure=False)
        return made[key]

    return of


@pytest.fixture(scope="module")
def network(small) -> Network:
    return Network.load(small, "cpu", torch.float32)


def _tell(directory: Path, **values) -> None:
    """Change what the manifest says of the graphs."""
    file = directory / graph.MANIFEST
    told = json.loads(file.read_text())
    told["onnx"] |= values
    file.write_text(json.dumps(told))


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """A directory of graphs that a test may damage."""
    return Path(shutil.copytree(exported(), tmp_path / "copied"))


# -- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant, grid", [*itertools.product(VARIANTS, GRIDS)])
def test_equal_to_torch(exported, network, variant, grid):
    assert_equal(OnnxRuntime(exported(variant), 300), TorchRuntime(network, 300), given(network.sizes, GRIDS[grid]))


@pytest.mark.parametrize("layout", ["2B", "8B"])
def test_equal_to_torch_at_published_layouts(tmp_path, layout):
    checkpoint = write_checkpoint(tmp_path, layout)
    network = Network.load(checkpoint, "cpu", torch.float32)
    prompt = given(network.sizes, [(1, 6, 4), (2, 2, 4)])
    for variant in VARIANTS:
        export(checkpoint, tmp_path, "float32", variant, measure=False)
        ours = OnnxRuntime(tmp_path, 128)
        assert_equal(ours, TorchRuntime(network, 128), prompt, longest=4)
        ours.close()


@pytest.mark.parametrize("opset_24", [True, False])
def test_the_embedded_model_answers_as_in_torch(monkeypatch, opset_24):
    """Whether the installed ONNX Runtime has opset 24 or is taken for one that has not."""
    try:
        place = embedded_model_dir()
    except ModelNotFound:
        pytest.skip("model/embedded is not in this tree")
    monkeypatch.setattr(onnx_runtime, "_OPSET_24", onnx_runtime._OPSET_24 and opset_24)
    network = Network.load(read_checkpoint(place), "cpu", torch.float32)
    prompt = 'Locate every instance that belongs to the following categories: "cube, ball". Report bbox coordinates in JSON format.'
    gradient = np.indices((480, 640)).sum(0)[..., None].repeat(3, 2).astype(np.uint8)
    x = Preparation(place)(Prompt(prompt, [gradient]))
    runtimes = OnnxRuntime(place, 400), TorchRuntime(network, 400)
    assert_equal(*runtimes, (x.ids, x.positions, x.pixels, x.grid))
    answers = []
    for runtime in runtimes:
        runtime.rollback(runtime.length)
        answer = runtime.prefill(x.ids, runtime.encode(x.pixels, x.grid), x.positions).best()[0]
        while len(answer) < 60:
            answer += runtime.step(answer[-1:]).best()[0]
        answers.append(answer)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("stored, files", [(torch.float32, 1), (torch.bfloat16, 3)], ids=str)
def test_reads_weights_of_any_type_in_one_file_or_more(tmp_path, stored, files):
    checkpoint = write_checkpoint(tmp_path, "small", stored, files)
    export(checkpoint, tmp_path, measure=False)
    network = Network.load(checkpoint, "cpu", torch.float32)
    assert_equal(
        OnnxRuntime(tmp_path, 300), TorchRuntime(network, 300), given(network.sizes, GRIDS["image"]), longest=3
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_is_near(exported, network, variant):
    ours = OnnxRuntime(exported(variant, "float16"), 300)
    assert ours.encode(*given(network.sizes, GRIDS["image"])[2:]).features.dtype == np.float16
    assert_equal(ours, TorchRuntime(network, 300), given(network.sizes, GRIDS["image"]), relative=2e-2)


def test_a_cache_that_grows_keeps_what_it_holds(exported, network, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "_BUCKET", 16)
    ours = OnnxRuntime(exported(), 70)
    expected = TorchRuntime(network, 70)
    ids = np.random.default_rng(0).integers(0, IMAGE, 70).tolist()
    for start in range(0, 70, 7):
        scores = [runtime.prefill(ids[start : start + 7], keep=7) for runtime in (ours, expected)]
        assert error(*scores) <= RELATIVE
    with pytest.raises(EngineError, match="do not fit a cache of 70"):
        ours.step([1])


def test_passes_write_the_cache_in_place(exported):
    runtime = OnnxRuntime(exported(), 64)
    before = {name: (value.data_ptr(), value.numpy().copy()) for name, value in runtime._cache.items()}
    runtime.prefill([1, 2, 3])
    runtime.step([4])
    for name, (address, content) in before.items():
        value = runtime._cache[name]
        assert value.data_ptr() == address
        changed = (value.numpy() != content).any((0, 1, 3))
        assert changed[:4].all() and not changed[4:].any()


@pytest.mark.parametrize(
    "first",
    [lambda r: r.prefill([1, 2, 3], keep=2), lambda r: r.prefill([1, 2], keep=2), lambda r: r.step([1, 2])],
    ids=["prompt", "whole prompt", "step"],
)
def test_scores_of_a_pass_outlive_the_next(exported, first):
    runtime = OnnxRuntime(exported(), 64)
    scores = first(runtime)
    logits, best = scores.logits().copy(), scores.best()
    runtime.step([4, 5])
    runtime.step([6, 7])
    np.testing.assert_array_equal(scores.logits(), logits)
    assert scores.best() == best


def test_a_prompt_in_parts_is_the_whole_prompt(exported, network):
    """Prefix reuse: the words before an image stay, and another image follows."""
    first, second = (given(network.sizes, GRIDS["image"], seed) for seed in (1, 2))
    second[0][:3] = first[0][:3]
    fresh, reused = OnnxRuntime(exported(), 300), OnnxRuntime(exported(), 300)
    expected = fresh.prefill(second[0], fresh.encode(*second[2:]), second[1])
    nothing = reused.prefill(first[0], reused.encode(*first[2:]), first[1], keep=0)
    assert nothing.logits().shape == (0, 320) and nothing.best() == ([], [])
    reused.step([5, 6])
    reused.rollback(reused.length - 3)
    assert error(reused.prefill(second[0][3:], reused.encode(*second[2:]), second[1][:, 3:]), expected) <= RELATIVE
    assert reused.next_position == fresh.next_position


def test_numbers_that_are_none_are_told(small, tmp_path):
    """A damaged network must not look sure of itself."""
    export(small, tmp_path, measure=False)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.language_model.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata=None)
    assert np.isnan(OnnxRuntime(tmp_path, 16).prefill([1, 2]).best()[1]).all()


# -- interruption ----------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("calls_before", [0, 1])
def test_an_interrupted_pass_leaves_no_trace(exported, calls_before):
    """Before the pass, and in the middle of a long one."""
    runtime = OnnxRuntime(exported(), 3000)
    expected = runtime.prefill([1, 2, 3]).logits().copy()
    calls = itertools.count()

    def stop():
        if next(calls) >= calls_before:
            raise Stop

    runtime.between_layers = stop
    with pytest.raises(Stop):
        runtime.prefill(np.arange(2500) % IMAGE)
    assert runtime.length == runtime.next_position == 3
    with pytest.raises(Stop):
        calls = itertools.count()
        runtime.encode(np.zeros((64 * 64, 1536), np.float32), np.array([(1, 64, 64)]))
    runtime.between_layers = lambda: None
    runtime.rollback(1)
    assert error(runtime.step([3]), expected) <= RELATIVE


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage, why",
    [
        (
            lambda d: (d / "config.json").write_text((d / "config.json").read_text() + " "),
            "config.json is not the file",
        ),
        (lambda d: (d / graph.DECODER).write_bytes((d / graph.VISION).read_bytes()), "decoder.onnx is not the file"),
        (lambda d: save_file({"a": torch.zeros(1)}, d / "model.safetensors"), "model.safetensors is not the file"),
        (lambda d: (d / graph.MANIFEST).write_text("{"), "manifest.json cannot be read"),
        (
            lambda d: (d / graph.MANIFEST).write_text('{"onnx": {"format": 0}}'),
            "has format 0, and this version reads 1",
        ),
        (lambda d: _tell(d, slots="many"), "cannot be read .*slots 'many'"),
        (lambda d: _tell(d, dtype="float8"), "cannot be read .*dtype 'float8'"),
    ],
    ids=["config", "graph", "weights", "broken", "format", "slots", "dtype"],
)
def test_files_that_do_not_belong_together_are_refused(copied, damage, why):
    damage(copied)
    with pytest.raises(WrongModel, match=why) as caught:
        OnnxRuntime(copied, 16)
    assert f"qwen3vl export {copied}" in str(caught.value)


@pytest.mark.parametrize("name", [graph.DECODER, graph.VISION, graph.MANIFEST, "model.safetensors"])
def test_a_missing_file_is_named_with_the_command_that_writes_it(copied, name):
    (copied / name).unlink()
    with pytest.raises(ModelNotFound, match=f"has no {name}.*qwen3vl export"):
        OnnxRuntime(copied, 16)


def test_new_values_of_weights_need_no_new_graphs(small, copied, tmp_path):
    """Training the embedded model again does not change its graphs."""
    weights = {name: 0.5 * weight for name, weight in load_file(copied / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors")
    checkpoint = Checkpoint(
        copied, small.config, small.architecture, (copied / "model.safetensors",), small.parameters, ""
    )
    network = Network.load(checkpoint, "cpu", torch.float32)
    assert_equal(OnnxRuntime(copied, 300), TorchRuntime(network, 300), given(network.sizes, GRIDS["image"]), longest=2)


def test_a_cache_of_fixed_length(exported, network):
    place = exported(slots=64)
    assert_equal(OnnxRuntime(place, 60), TorchRuntime(network, 60), given(network.sizes, GRIDS["image"]), longest=4)
    with pytest.raises(EngineError, match="a cache of 64 slots, and 65 were asked for.*--slots 65"):
        OnnxRuntime(place, 65)


# -- the runtime -----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(exported, network):
    runtime = OnnxRuntime(exported(), 8)
    ids, positions, pixels, grid = given(network.sizes, GRIDS["image"])
    with pytest.raises(EngineError, match="do not fit a cache of 8"):
        runtime.prefill(range(9))
    with pytest.raises(InvalidInput, match="visual tokens and the features are of 0"):
        runtime.prefill(ids, None, positions)
    with pytest.raises(InvalidInput, match="needs 48 patches, got 47"):
        runtime.encode(pixels[:47], grid)
    with pytest.raises(InvalidInput, match="cannot take back 1 of 0"):
        runtime.rollback(1)
    with pytest.raises(InvalidInput, match="at least one token"):
        runtime.step([])
    with pytest.raises(InvalidInput, match="does not fit 2 tokens"):
        runtime.prefill([1, 2], keep=3)
    with pytest.raises(EngineError, match="onnxruntime .* failed in a pass"):
        runtime.prefill([9999])
    assert runtime.length == 0


def test_a_device_or_precision_that_is_not_there_is_an_error(exported, monkeypatch):
    monkeypatch.setattr(onnx_runtime.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="'cuda:0' was asked for.*onnxruntime-gpu"):
        OnnxRuntime(exported(), 8, "cuda:0")
    with pytest.raises(EngineError, match="'tpu' is unknown.*cpu, cuda or cuda:N"):
        OnnxRuntime(exported(), 8, "tpu")
    with pytest.raises(EngineError, match="bfloat16.*--dtype float16"):
        OnnxRuntime(exported(dtype="bfloat16"), 8)


def test_an_onnxruntime_that_is_too_old_is_told(exported, monkeypatch):
    def old(*_, **__):
        raise RuntimeError("ONNX Runtime only guarantees support for models stamped with official opset versions")

    monkeypatch.setattr(onnx_runtime.ort, "InferenceSession", old)
    with pytest.raises(
        EngineError, match=r"cannot load .*export the graphs again: qwen3vl export .*or update onnxruntime"
    ):
        OnnxRuntime(exported(), 8)


def test_runs_without_torch_and_onnx(exported):
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx')))\n"
        "import numpy as np\n"
        "from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime\n"
        "runtime = OnnxRuntime(sys.argv[1], 64)\n"
        "seen = runtime.encode(np.zeros((16, 1536), np.float32), np.array([(1, 4, 4)]))\n"
        f"scores = runtime.prefill([1, *[{IMAGE}] * 4, 2], seen)\n"
        "assert np.isfinite(runtime.step(scores.best()[0]).logits()).all()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(exported())], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
