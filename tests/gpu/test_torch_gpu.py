"""Our network in torch on the GPU that is here: captured and fused steps against a CPU, and what a loaded engine says of them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="what is tested")

from qwen3vl_ros.config import from_flat
from qwen3vl_ros.engine import Limits, Prompt, load_engine
from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_checkpoint
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
WORDS = np.random.default_rng(0).integers(5, 1000, 300).tolist()


def runtime(device: str) -> TorchRuntime:
    network = Network.load(read_checkpoint(embedded_model_dir()), device, torch.float32)
    return TorchRuntime(network, 900)  # beyond one span of a graph


@pytest.fixture(scope="module")
def reference():
    return runtime("cpu")


def ways():
    return [
        pytest.param("captured"),
        pytest.param("fused", marks=needs_triton),
        pytest.param("overlapped", marks=needs_triton),
    ]


def made(way: str) -> TorchRuntime:
    found = runtime("cuda")
    if way == "fused":
        assert found.fuse() > 0
    if way == "overlapped":
        from qwen3vl_ros.engine.torch.fused import FusedStep

        if torch.cuda.get_device_capability() < (9, 0):
            pytest.skip("this GPU begins no kernel before the last one has ended")
        found._fused = FusedStep(found.network.text, overlap=True)
    return found


@pytest.mark.parametrize("way", ways())
def test_steps_say_what_they_say_on_a_cpu(reference, way):
    """Steps of one, two and sixteen tokens, each twice, over the border of a graph's span, and after a rollback."""
    ours = made(way)
    for r in (ours, reference):
        r.rollback(r.length)
        r.prefill(WORDS)
    for count in (1, 2, 1, 16, 1, 16, *[1] * 200):
        ids = WORDS[ours.length % 250 :][:count]
        scores, expected = ours.step(ids), reference.step(ids)
        assert scores.best()[0] == expected.best()[0]
        assert scores.best()[1] == pytest.approx(expected.best()[1], abs=1e-2)
        close = np.abs(scores.logits() - expected.logits()).max() / np.abs(expected.logits()).max()
        assert close < 2e-3
        if count == 16:
            for r in (ours, reference):
                r.rollback(7)
    assert ours.length > 512
    ours.close()


@needs_triton
def test_a_loaded_engine_says_whether_steps_are_fused():
    picture = np.full((96, 128, 3), 200, np.uint8)
    picture[30:70, 40:90] = (200, 30, 30)
    said = {}
    for fused in (True, False):
        engine = load_engine(from_flat({"engine": "torch", "dtype": "float32", "fused": fused}))
        assert ("steps of one token are fused" in engine.info.why) == fused, engine.info.why
        said[fused] = engine.generate(Prompt("Locate the red cube.", [picture]), Limits(40, 60.0, 4)).token_ids
        engine.close()
    assert said[True] == said[False]
