"""The fused step against the plain one, run by Triton's interpreter on a CPU."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: the extra `test` brings it, for x86-64", allow_module_level=True)
if not torch.cuda.is_available():
    from triton_on_cpu import interpret

    interpret()

from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.torch.fused import FusedStep
from qwen3vl_ros.engine.torch.load import _fused
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime
from qwen3vl_ros.export.random_weights import config_of
from qwen3vl_ros.types import EngineError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(**text) -> Network:
    """Few weights, no size a multiple of a kernel's tile."""
    config = config_of("toy", layers=2)
    sizes = dict(vocab_size=75, hidden_size=24, intermediate_size=40, head_dim=16, num_attention_heads=6)
    config["text_config"] |= {**sizes, **text}
    config["text_config"]["rope_scaling"]["mrope_section"] = [config["text_config"]["head_dim"] // 2 - 4, 2, 2]
    config["vision_config"] |= dict(depth=2, out_hidden_size=24)
    config |= dict(image_token_id=3, video_token_id=4)
    torch.manual_seed(0)
    found = Network(Sizes.read(config)).to(DEVICE)
    for weight in found.parameters():
        weight.data.normal_(1.0 if weight.dim() == 1 else 0.0, 0.3)
    return found.eval().requires_grad_(False)


# Of the largest number. Not bfloat16: the interpreter multiplies its bits as whole numbers.
ERROR = {torch.float32: 1e-5, torch.float16: 5e-3}


@pytest.mark.parametrize(
    "before, dtype", [(1, torch.float32), (31, torch.float32), (65, torch.float32), (31, torch.float16)], ids=str
)
def test_a_fused_step_is_a_step(before, dtype):
    """Logits, choice and cache, at both ends of a block of slots; then after a rollback, and behind a plain step of two."""
    small, error = network().to(dtype), ERROR[dtype]
    plain, fused = TorchRuntime(small, 80), TorchRuntime(small, 80)
    fused._fused = FusedStep(small.text)
    words = np.random.default_rng(before).integers(5, 75, before).tolist()
    for runtime in (plain, fused):
        runtime.prefill(words)

    def both(ids: list[int]) -> None:
        ours, expected = fused.step(ids), plain.step(ids)
        logits = expected.logits()
        assert np.abs(ours.logits() - logits).max() <= error * np.abs(logits).max()
        assert ours.best()[0] == expected.best()[0]
        assert ours.best()[1] == pytest.approx(expected.best()[1], abs=float(error * np.abs(logits).max()))

    both([7])
    both([8])
    for runtime in (plain, fused):
        runtime.rollback(1)
    both([9, 10])
    both([11])
    for ours, expected in zip(fused._cache, plain._cache):
        assert ours.dtype == dtype and (ours - expected).abs().max() <= error * expected.abs().max()


@pytest.mark.parametrize("dtype", [*ERROR], ids=str)
def test_kernels_are_proved_before_they_are_used(dtype, monkeypatch):
    runtime = TorchRuntime(network(num_attention_heads=2, num_hidden_layers=1).to(dtype), 40)
    assert runtime.fuse() > 0 and runtime._fused is not None and runtime.length == 0
    correct = FusedStep.__call__
    monkeypatch.setattr(FusedStep, "__call__", lambda *a: tuple(-x for x in correct(*a)))
    with pytest.raises(EngineError, match="are off by"):
        runtime.fuse()
    assert runtime._fused is None and runtime.length == 0
    runtime.step([5])


def test_a_model_that_the_kernels_do_not_compute_runs_without_them_and_says_so(caplog):
    runtime = TorchRuntime(network(head_dim=24), 40)
    why = _fused(runtime)
    assert why.startswith("steps are not fused") and "heads of 24 numbers" in why
    assert why in caplog.text and runtime._fused is None
    runtime.prefill([5, 6])
    assert len(runtime.step([7]).best()[0]) == 1
