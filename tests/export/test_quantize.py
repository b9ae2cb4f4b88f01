"""Graphs whose weights have fewer bits: what rounding does to them, and nothing else."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")

import ml_dtypes
from safetensors.numpy import load_file, save_file

from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_checkpoint, read_json
from qwen3vl_ros.engine.network import graph
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.export import quantize
from qwen3vl_ros.export.networks import decoder_model
from qwen3vl_ros.export.operators import Weights
from qwen3vl_ros.types import EngineError


def _decoder(directory, precision, source=None):
    """The decoder of the checkpoint `source`, the embedded model's if none, as a graph in `directory`; bytes by type."""
    checkpoint = read_checkpoint(source or embedded_model_dir())
    dtype = quantize.compute_dtype(precision)
    model = decoder_model(Sizes.read(checkpoint.config), Weights(checkpoint), dtype, "attention", 256)
    directory.mkdir(parents=True)
    shutil.copyfile(checkpoint.weight_files[0], directory / checkpoint.weight_files[0].name)
    return quantize.rewrite(model, checkpoint.path, directory / "decoder.onnx", precision)


def _logits(directory):
    onnxruntime = pytest.importorskip("onnxruntime")
    config = read_json(embedded_model_dir() / "config.json")
    sizes = Sizes.read(config)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 400, 40)
    feeds = graph.decoder_feeds(
        sizes.text, ids, np.broadcast_to(np.arange(40), (3, 40)), start=0, span=256, keep=8, dtype="float16"
    )
    feeds |= graph.no_rows(sizes, "float16")._asdict()
    cache = {
        v.name: np.zeros([256 if d == "S" else d for d in v.shape], np.float16)
        for v in graph.decoder_values(sizes)[0]
        if v.name.startswith(("keys", "values"))
    }
    session = onnxruntime.InferenceSession(directory / "decoder.onnx", providers=["CPUExecutionProvider"])
    return session.run(["logits"], {**feeds, **cache})[0].astype(np.float64)


def _quantized(precision, weight):
    return getattr(quantize, f"_to_{precision}")("w", weight, np.dtype(np.float16))


def _back(quantized, shape):
    """The weight that a quantised one stands for, float32."""
    scale = quantized.scale.astype(np.float32)
    if quantized.data.dtype != np.uint8:
        return quantized.data.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale[:, None]
    low, high = (quantized.data & 0xF).astype(np.int8), (quantized.data >> 4).astype(np.int8)
    whole = np.stack((low, high), 1).reshape(*scale.shape, 128)
    return (np.where(whole > 7, whole - 16, whole) * scale[..., None]).reshape(shape)


@pytest.mark.parametrize("precision", ["fp8", "int4"])
def test_a_quantised_graph_says_what_the_rounded_weights_say(tmp_path, precision):
    """How far rounding moves the logits is the checkpoint's matter; that nothing else moves them is the graph's."""
    shutil.copytree(embedded_model_dir(), tmp_path / "rounded")
    weights = load_file(tmp_path / "rounded" / "model.safetensors")
    for name, weight in weights.items():
        if name.startswith("model.language_model.layers.") and weight.ndim == 2:
            quantized = _quantized(precision, weight.astype(np.float32))
            weights[name] = _back(quantized, weight.shape).astype(np.float16)
    save_file(weights, tmp_path / "rounded" / "model.safetensors")
    _decoder(tmp_path / "plain", "fp16")
    _decoder(tmp_path / "expected", "fp16", tmp_path / "rounded")
    _decoder(tmp_path / "quantised", precision)
    plain, expected, said = (_logits(tmp_path / name) for name in ("plain", "expected", "quantised"))
    assert np.linalg.norm(said - expected) < 0.05 * np.linalg.norm(plain - expected)


def test_quantised_graphs_have_fewer_bytes(tmp_path):
    sizes = {p: _decoder(tmp_path / p, p) for p in ("fp16", "fp8", "int4")}
    linears = sizes["fp8"]["FLOAT8E4M3FN"]
    assert sizes["int4"]["INT4"] * 2 == linears
    plain, fp8, int4 = (sizes[p]["FLOAT16"] for p in ("fp16", "fp8", "int4"))
    assert plain - 2 * linears < fp8 < int4 < plain  # the scales, which INT4 has more of


@pytest.mark.parametrize("precision", ["fp8", "int4"])
def test_a_quantised_weight_is_off_by_half_a_step_at_most(precision):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((6, 256)) * np.geomspace(1e-3, 10, 6)[:, None]).astype(np.float32)
    weight[2] = 0
    quantized = _quantized(precision, weight)
    scale = quantized.scale.astype(np.float32)
    if precision == "int4":
        allowed = np.repeat(scale, 128, 1) * 0.51 * 1.01
    else:
        allowed = np.abs(weight) / 16 * 1.01 + scale[:, None] * 2**-10 * 1.01
    assert (np.abs(_back(quantized, weight.shape) - weight) <= allowed + 1e-9).all()


def test_int4_refuses_a_width_that_its_blocks_do_not_divide():
    with pytest.raises(EngineError, match="has 96 inputs and INT4 needs a multiple of 128; .*fp8 or fp16"):
        quantize._to_int4("w", np.ones((4, 96), np.float32), np.dtype(np.float16))
