"""Engines on the GPU that is here, against our network in torch: features, logits, greedy tokens, captured steps and
rollback."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="what the engines are compared with")
pytest.importorskip("onnx", reason="graphs are written with onnx")

from qwen3vl_ros.engine.base import Prompt
from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_checkpoint
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.engine.tensorrt.bundle import ShapeLimits
from qwen3vl_ros.engine.tensorrt.runtime import TensorrtRuntime
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime
from qwen3vl_ros.export.bundles import build
from qwen3vl_ros.types import PerceptionError

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
MODULE = next((m for m in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(m)), "")
# Of float16 against float32, relative to the largest number; weights of few bits are further off.
TOLERANCE = {"fp16": 0.01, "fp8": 0.05, "int4": 0.2}


@pytest.fixture(scope="module")
def checkpoint():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    if not MODULE:
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    if not importlib.util.find_spec("cuda"):
        pytest.skip("cuda-python is not installed")
    return read_checkpoint(embedded_model_dir())


@pytest.fixture(scope="module", params=sorted(TOLERANCE))
def engines(request, checkpoint, tmp_path_factory):
    """(precision, runtime) on the embedded model; its limits make the prompt of the test go in parts."""
    major, minor = torch.cuda.get_device_capability()
    try:
        limits = ShapeLimits(cache_slots=512, prefill=64, max_patches=1200, max_visual=480)
        bundle = build(
            checkpoint,
            tmp_path_factory.mktemp(request.param) / "bundle",
            [10 * major + minor],
            request.param,
            MODULE,
            limits,
        )
    except PerceptionError as error:
        if "cannot build for SM" in str(error) or "has no FP8 arithmetic" in str(error):
            pytest.skip(str(error))  # Hopper with tensorrt_rtx; GPUs before Ada
        raise
    runtime = TensorrtRuntime(bundle)
    yield request.param, runtime
    runtime.close()


@pytest.fixture(scope="module")
def reference(checkpoint):
    return TorchRuntime(Network.load(checkpoint, "cpu", torch.float32), 512)


@pytest.fixture(scope="module")
def prompt(checkpoint):
    picture = np.full((96, 128, 3), 200, np.uint8)
    picture[30:70, 40:90] = (200, 30, 30)
    return Preparation(checkpoint.path)(Prompt("Locate the red cube.", [picture, picture[:64, ::-1].copy()]))


def _read(runtime, prompt, keep=8):
    runtime.rollback(runtime.length)
    features = runtime.encode(prompt.pixels, prompt.grid)
    return runtime.prefill(prompt.ids.tolist(), features, prompt.positions, keep=keep)


def _greedy(runtime, prompt, count):
    token, said = _read(runtime, prompt).best()[0][-1], []
    for _ in range(count):
        said.append(token)
        token = runtime.step([token]).best()[0][0]
    return said


def test_logits_are_those_of_torch(engines, reference, prompt):
    precision, runtime = engines
    ours, theirs = (_read(r, prompt).logits() for r in (runtime, reference))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE[precision] * np.abs(theirs).max()


def test_scores_on_the_gpu_are_those_of_the_logits(engines, prompt):
    _, runtime = engines
    scores = _read(runtime, prompt)
    logits = scores.logits().astype(np.float64)
    tokens, logprobs = scores.best()
    assert tokens == logits.argmax(1).tolist()
    np.testing.assert_allclose(logprobs, logits.max(1) - np.log(np.exp(logits).sum(1)), atol=1e-3)


def test_greedy_tokens_are_those_of_torch(engines, reference, prompt):
    precision, runtime = engines
    if precision != "fp16":
        pytest.skip("weights of few bits may choose other tokens")
    assert _greedy(runtime, prompt, 30) == _greedy(reference, prompt, 30)


def test_a_captured_step_says_what_the_first_one_said(engines, prompt):
    """Steps of each length run once plainly and are then captured; all must agree with steps of one token."""
    _, runtime = engines
    said = _greedy(runtime, prompt, 17)
    for length in (1, 2, 16):
        for _ in range(3):
            _read(runtime, prompt)
            tokens = runtime.step(said[:length]).best()[0]
            assert tokens == said[1 : length + 1]


def test_after_a_rollback_nothing_is_left(engines, prompt):
    _, runtime = engines
    said = _greedy(runtime, prompt, 6)
    _read(runtime, prompt)
    runtime.step([said[0], 5, 6, 7])
    runtime.rollback(3)
    assert [runtime.step([t]).best()[0][0] for t in said[1:5]] == said[2:6]


def test_a_text_after_an_image_does_not_see_its_features(engines, prompt):
    _, runtime = engines
    ids = list(range(5, 45))
    runtime.rollback(runtime.length)
    alone = runtime.prefill(ids, keep=4).logits()
    _read(runtime, prompt)
    runtime.rollback(runtime.length)
    np.testing.assert_array_equal(runtime.prefill(ids, keep=4).logits(), alone)
