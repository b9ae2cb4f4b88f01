"""Engines for GPUs that are not here: built for real, kept where they hold, and refused by name before they are built."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")

from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_checkpoint
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.tensorrt.bundle import ShapeLimits, read_bundle
from qwen3vl_ros.export import builder, bundles, random_weights
from qwen3vl_ros.types import EngineError, InvalidInput


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 has wheels for x86-64 alone")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.timeout(600)
def test_the_embedded_model_builds_for_three_gpus_none_of_which_is_here(trt, tmp_path):
    checkpoint, lines = read_checkpoint(embedded_model_dir()), []
    limits = ShapeLimits(cache_slots=512, prefill=256, max_patches=1200, max_visual=300)
    out = tmp_path / "bundle"

    def build(*sms):
        lines.clear()
        return bundles.build(checkpoint, out, sms, "int4", limits=limits, say=lines.append)

    assert build(89).sms == (89,)
    assert any("%" in line for line in lines)
    entry = read_bundle(out).engines["decoder.sm89.engine"]
    layers = json.loads((embedded_model_dir() / "config.json").read_text())["text_config"]["num_hidden_layers"]
    assert entry["weight_bytes"]["INT4"] > 1e6 and entry["layers"]["counts"]["CONSTANT"]["INT4"] == 7 * layers
    assert entry["layers"]["source"] in ("engine", "network")
    untouched = (out / "decoder.sm89.engine").stat().st_mtime_ns
    flip(out / "vision.sm89.engine")
    assert build(86, 89, 120).sms == (86, 89, 120)
    assert (
        "vision.sm89.engine is damaged: its sha256 is not the manifest's; it goes when the first new one is written"
        in lines
    )
    assert (out / "decoder.sm89.engine").stat().st_mtime_ns == untouched
    build(86, 89, 120)
    assert len(lines) == 3 and all("already built" in line for line in lines)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    for change, named in (
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is 'fp8'"),
        ({"architectures": ["Qwen3VLMoeForConditionalGeneration"]}, "num_experts"),
        ({"tie_word_embeddings": "yes"}, "holds engines of another model"),
    ):
        other = dataclasses.replace(checkpoint, config=checkpoint.config | change)
        with pytest.raises(EngineError, match=named):
            bundles.build(other, out, [89], "int4", limits=limits, say=lines.append)
        assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()} == before
    bundle = read_bundle(out)
    # Weights in 16 bits, and in 4: how far those move this checkpoint's logits is its own matter.
    assert 0 < bundle.parity["vision"] < 0.01 < bundle.parity["logits"] < 1
    assert bundle.version == trt.__version__ and bundle.precision == "int4" and bundle.dtype == "float16"
    with pytest.raises(EngineError, match="this GPU is SM 90"):
        bundle.require("tensorrt_rtx", trt.__version__, 90)


@pytest.mark.parametrize(
    "sms, precision, module, named",
    [
        (
            [87],
            "fp16",
            "tensorrt_rtx",
            "cannot build for SM 87, only for 75, 80, 86, 89, .*--module tensorrt on that machine",
        ),
        ([86], "fp8", "tensorrt_rtx", "no FP8 arithmetic for SM 86.*--precision int4 or fp16"),
        ([75], "bf16", "tensorrt_rtx", "no bfloat16 arithmetic for SM 75.*onnxruntime or torch"),
        ([75], "fp16", "tensorrt_rtx", "no float32 matrix products for SM 75.*onnxruntime or torch"),
    ],
    ids=["orin", "fp8", "bf16", "turing"],
)
def test_combinations_that_cannot_be_built_are_refused_before_building(trt, sms, precision, module, named):
    with pytest.raises(EngineError, match=named):
        builder.check(trt, module, sms, precision)


def test_a_missing_module_says_where_it_comes_from(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt cannot be imported.*JetPack.*--module tensorrt_rtx"):
        builder.import_module("tensorrt")


def test_tensorrt_builds_for_the_gpu_that_is_here_and_not_before_it_has_the_layers(monkeypatch):
    monkeypatch.setattr(builder, "current_sm", lambda: 90)
    builder.check(SimpleNamespace(__version__="10.16.1.2"), "tensorrt", [90], "fp8")
    with pytest.raises(EngineError, match="here SM 90, and --sm asks for 89.*--module tensorrt_rtx"):
        builder.check(SimpleNamespace(__version__="10.16.1.2"), "tensorrt", [89], "fp16")
    with pytest.raises(EngineError, match="10.3.0 has no cache and attention layers.*10.15.*onnxruntime"):
        builder.check(SimpleNamespace(__version__="10.3.0"), "tensorrt", [87], "fp16")


def test_other_directories_are_not_written_into(trt, tmp_path):
    (tmp_path / "precious.txt").write_text("!")
    for out, named in ((tmp_path, "holds other files"), (embedded_model_dir(), "model's own directory")):
        with pytest.raises(EngineError, match=named):
            bundles.build(read_checkpoint(embedded_model_dir()), out, [89])
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_random_weights_fill_a_network_and_no_two_are_alike(tmp_path):
    torch = pytest.importorskip("torch")
    from qwen3vl_ros.engine.torch.network import Network

    checkpoint = read_checkpoint(random_weights.write_checkpoint("toy", tmp_path / "toy"))
    layers = Network.load(checkpoint, "cpu", torch.float32).text.layers
    assert 0.015 < float(layers[0].down.weight.std()) < 0.025
    assert not torch.equal(layers[0].down.weight, layers[1].down.weight)
    with pytest.raises(InvalidInput, match="'3B'; choose one of 2B, 4B, 8B, toy"):
        random_weights.write_checkpoint("3B", tmp_path / "3B")


@pytest.mark.parametrize("size, text, vision", [("2B", 1.72e9, 0.41e9), ("4B", 4.02e9, 0.42e9), ("8B", 8.19e9, 0.58e9)])
def test_published_sizes_have_their_number_of_weights(size, text, vision):
    torch = pytest.importorskip("torch")
    from qwen3vl_ros.engine.torch.network import Network

    with torch.device("meta"):
        network = Network(Sizes.read(random_weights.config_of(size)))
    for part, wanted in ((network.text, text), (network.vision, vision)):
        assert sum(p.numel() for p in part.parameters()) == pytest.approx(wanted, rel=0.02)
