"""`qwen3vl export --precision int4` and int8: a checkpoint in few bits that loads like any other, on the CPU, near to what it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from asking import ask
from random_checkpoint import write_checkpoint

from qwen3vl_ros import threads
from qwen3vl_ros.cli import main
from qwen3vl_ros.config import Config, GenerationConfig
from qwen3vl_ros.engine import embedded_model_dir, find_checkpoint, load_engine, survey
from qwen3vl_ros.engine.checkpoint import read_checkpoint
from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime
from qwen3vl_ros.export import weight_only
from qwen3vl_ros.export.graphs import export, parity
from qwen3vl_ros.export.scheme import BITS, NBits, Scheme
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.selftest import pictures
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

EMBEDDED = embedded_model_dir()
TABLE = pictures.rendered("table").rgb


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The embedded model in 4 and 8 bits, as a user makes it."""
    out = tmp_path_factory.mktemp("int4") / "model"
    assert main(["export", str(EMBEDDED), "--precision", "int4", "--out", str(out), "--no-parity"]) == 0
    return out


@pytest.mark.parametrize(
    "bits, block, rows, columns", [(4, 32, 5, 64), (4, 128, 3, 100), (8, 32, 7, 96), (8, 64, 2, 33)]
)
def test_numbers_are_the_nearest_that_the_bits_have(bits, block, rows, columns):
    weight = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    packed, scale = weight_only.quantized(weight, NBits(bits, block, 4))
    blocks = -(-columns // block)
    assert packed.shape == (rows, blocks, block * bits // 8) and scale.shape == (rows, blocks)
    whole = packed if bits == 8 else np.stack([packed & 0xF, packed >> 4], -1)
    meant = (whole.reshape(rows, blocks, block).astype(np.float32) - (1 << bits - 1)) * scale[..., None]
    error = np.abs(meant.reshape(rows, -1)[:, :columns] - weight)
    assert (error <= np.repeat(np.abs(scale), block, 1)[:, :columns] * 1.01).all()


@pytest.mark.parametrize("layout, files", [("2B", 1), ("8B", 2)])
def test_the_graphs_of_few_bits_say_nearly_what_torch_says(tmp_path, layout, files):
    checkpoint = write_checkpoint(tmp_path / "model", layout, files=files)
    scheme = Scheme(decoder=8)  # eight everywhere, so that what is left is the graphs' own error
    written = export(checkpoint, tmp_path / "out", scheme=scheme)
    assert written["weights"] == scheme.as_dict()
    assert max(written["parity"].values()) < 0.05
    coarse = export(checkpoint, tmp_path / "out4", scheme=Scheme())["parity"]
    assert written["parity"]["logits"] < coarse["logits"] < 0.6
    assert coarse["vision"] == pytest.approx(written["parity"]["vision"], rel=0.2)


def test_the_model_loads_like_any_other_and_still_sees(small):
    checkpoint = read_checkpoint(small)
    original = find_checkpoint("")
    assert checkpoint.parameters == original.parameters and (checkpoint.quantization, checkpoint.weight_kind) == (
        "matmulnbits",
        "int4",
    )
    assert checkpoint.weight_files[0].stat().st_size < 0.6 * original.weight_files[0].stat().st_size
    engine = load_engine(Config(model=str(small)))
    assert engine.info.runtime == "onnxruntime" and "int4" in engine.info.dtype
    question = Detect(("blue ball",))
    said = ask(engine, [TABLE], question.prompt())
    engine.close()
    assert '"blue ball"' in said.text and said.finish_reason == "stop"


def test_the_other_runtimes_say_that_they_do_not_compute_it(small):
    told = {o.name: o.missing for o in survey(read_checkpoint(small), "cpu")}
    assert not told.pop("onnxruntime") and all("int4 weights" in reason for reason in told.values())
    for name in ("torch", "transformers"):
        with pytest.raises(WrongModel, match="use engine onnxruntime"):
            load_engine(Config(model=str(small), engine=name))


def test_no_linear_is_cast_and_the_head_least_of_all(small):
    for name, product in (("vision.onnx", "MatMulIntegerToFloat"), ("decoder.onnx", "MatMulNBits")):
        nodes = onnx.load(small / name, load_external_data=False).graph.node
        kinds = {node.op_type for node in nodes}
        assert product in kinds and "Gemm" not in kinds
    decoder = onnx.load(small / "decoder.onnx", load_external_data=False)
    weights = {t.name for t in decoder.graph.initializer}
    cast = {i for node in decoder.graph.node if node.op_type == "Cast" for i in node.input} & weights
    assert not cast, "weights that would be cast at each pass"
    assert all(t.data_location == onnx.TensorProto.EXTERNAL for t in decoder.graph.initializer if "model." in t.name)


def test_weights_are_read_in_slices_and_come_out_the_same(small, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_only, "_SLICE", 1000)
    again = weight_only.write_quantized(find_checkpoint(""), tmp_path / "again", Scheme(), say=lambda _: None)
    assert again.weight_files[0].read_bytes() == (small / "model.safetensors").read_bytes()


def test_what_cannot_be_is_refused_by_name(small, tmp_path, capsys):
    assert main(["export", str(EMBEDDED), "--precision", "int4"]) == 2 and "--out DIR" in capsys.readouterr().err
    assert main(["export", str(EMBEDDED), "--precision", "int4", "--out", str(tmp_path), "--dtype", "float16"]) == 2
    assert main(["export", str(EMBEDDED), "--precision", "int8", "--out", str(tmp_path), "--block", "64"]) == 2
    assert "--block 64 is of --precision int4" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="int4 weights already"):
        weight_only.write_quantized(read_checkpoint(small), tmp_path / "x", Scheme())
    with pytest.raises(InvalidInput, match="is the model itself"):
        weight_only.write_quantized(find_checkpoint(""), EMBEDDED, Scheme())
    other = tmp_path / "other"
    shutil.copytree(EMBEDDED, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"text_config": {}}))
    with pytest.raises(InvalidInput, match="holds another model"):
        weight_only.write_quantized(find_checkpoint(""), other, Scheme())
    with pytest.raises(EngineError, match="float32"):
        load_engine(Config(model=str(small), engine="onnxruntime", dtype="bfloat16"))


def test_an_export_can_be_made_again_in_its_place(small):
    assert main(["export", str(EMBEDDED), "--precision", "int4", "--out", str(small), "--no-parity"]) == 0
    load_engine(Config(model=str(small))).close()


@pytest.mark.parametrize("precision", BITS)
def test_the_length_of_a_pass_changes_no_digit(tmp_path, precision):
    out = tmp_path / "model"
    assert main(["export", str(EMBEDDED), "--precision", precision, "--out", str(out), "--no-parity"]) == 0
    runtime, rng = OnnxRuntime(out, 64), np.random.default_rng(0)
    said = rng.integers(3, 1000, 23).tolist()
    runtime.prefill(rng.integers(3, 1000, 40).tolist())
    one_by_one = np.concatenate([runtime.step([token]).logits() for token in said])
    for length in (2, 3, 7, 16, 23):
        runtime.rollback(len(said))
        passes = [runtime.step(said[i : i + length]).logits() for i in range(0, len(said), length)]
        np.testing.assert_array_equal(np.concatenate(passes), one_by_one)
    assert runtime.length == 63
    runtime.step([5])  # the last token that fits, and none behind it
    assert runtime.length == 64
    runtime.close()


@pytest.mark.parametrize("name", ["onnxruntime", "torch", "transformers"])
def test_a_large_model_on_a_cpu_is_shown_no_more_than_it_can_see_in_seconds(small, monkeypatch, name):
    monkeypatch.setattr(threads, "SMALL_MODEL", 1)
    model = str(small) if name == "onnxruntime" else str(EMBEDDED)
    engine = load_engine(Config(model=model, device="cpu", engine=name))
    assert "at most 786432 pixels (generation.max_pixels is 0" in engine.info.why
    engine.close()
    config = Config(model=model, device="cpu", engine=name, generation=GenerationConfig(max_pixels=1 << 22))
    engine = load_engine(config)
    assert "786432" not in engine.info.why
    engine.close()


def test_scores_are_the_natural_logarithms_of_the_likeliest(small):
    runtime, rng = OnnxRuntime(small, 64), np.random.default_rng(1)
    for scores in (
        runtime.prefill(rng.integers(3, 1000, 20).tolist()),
        runtime.step(rng.integers(3, 1000, 7).tolist()),
    ):
        logits = np.float64(scores.logits())
        exact = -np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1))
        tokens, logprobs = scores.best()
        assert tokens == logits.argmax(-1).tolist()
        np.testing.assert_allclose(logprobs, exact, atol=1e-5)
    runtime.close()


def test_parity_is_measured_against_the_original(small):
    found = parity(find_checkpoint(""), small)
    assert 0 < found["vision"] < 0.05 and 0 < found["logits"] < 0.5
