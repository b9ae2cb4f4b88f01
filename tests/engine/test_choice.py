"""Which runtime `auto` takes, what it says about the others, and what a name that cannot run says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine import choice, find_checkpoint, load_engine, survey
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

EMBEDDED = find_checkpoint("")


def names(options) -> list[str]:
    return [option.name for option in options]


def test_without_a_gpu_the_graphs_come_first(monkeypatch):
    monkeypatch.setattr(choice, "cuda_devices", lambda: 0)
    options = survey(EMBEDDED, "auto")
    assert names(options) == ["tensorrt", "onnxruntime", "torch", "transformers"]
    assert "qwen3vl build" in options[0].missing and not options[1].missing


def test_with_a_gpu_torch_comes_before_the_graphs_unless_the_cpu_was_asked_for(monkeypatch):
    monkeypatch.setattr(choice, "cuda_devices", lambda: 1)
    monkeypatch.setattr(choice, "_torch_computes_on_gpus", lambda: True)
    assert names(survey(EMBEDDED, "auto")) == ["tensorrt", "torch", "transformers", "onnxruntime"]
    assert names(survey(EMBEDDED, "cpu"))[1] == "onnxruntime"


def test_what_a_model_cannot_run_on_is_told(monkeypatch):
    quantized = {o.name: o.missing for o in survey(replace(EMBEDDED, quantization="fp8"), "cpu")}
    assert "fp8" in quantized["torch"] and "fp8" in quantized["onnxruntime"] and "fp8" in quantized["tensorrt"]
    assert "a CPU cannot compute with FP8" in quantized["transformers"]
    experts = {
        o.name: o.missing for o in survey(replace(EMBEDDED, architecture="Qwen3VLMoeForConditionalGeneration"), "cpu")
    }
    for name in ("tensorrt", "onnxruntime", "torch"):
        assert "experts" in experts[name] and "qwen3vl" not in experts[name], "no exporter that would refuse it"
    assert not experts["transformers"]
    real = choice.importlib.util.find_spec
    monkeypatch.setattr(
        choice.importlib.util, "find_spec", lambda n: None if n in ("torch", "transformers") else real(n)
    )
    bare = {o.name: o.missing for o in survey(EMBEDDED, "cpu")}
    assert "pip install torch" in bare["torch"] and "pip install torch transformers" in bare["transformers"]


@pytest.mark.parametrize("capability, refused", [((8, 6), "8.9 or later"), ((8, 9), ""), ((12, 0), "")])
def test_fp8_needs_a_gpu_that_computes_with_it(monkeypatch, capability, refused):
    monkeypatch.setattr(choice, "compute_capabilities", lambda: (capability,))
    told = {o.name: o.missing for o in survey(replace(EMBEDDED, quantization="fp8"), "auto")}
    assert refused in told["transformers"] and bool(refused) == bool(told["transformers"])


def test_auto_says_what_it_took_and_why_not_the_ones_before():
    engine = load_engine(Config(device="cpu"))
    assert engine.info.runtime == "onnxruntime"
    assert (
        "engine auto: onnxruntime is the best that works" in engine.info.why
        and "not tensorrt: no engines" in engine.info.why
    )
    engine.close()


def test_auto_goes_on_when_one_is_there_and_does_not_work(tmp_path: Path, caplog):
    shutil.copytree(EMBEDDED.path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "decoder.onnx").write_bytes(b"no graph")
    engine = load_engine(Config(model=str(tmp_path), device="cpu"))
    assert engine.info.runtime == "torch" and "not onnxruntime: " in engine.info.why
    assert "onnxruntime is here and does not work" in caplog.text
    engine.close()
    with pytest.raises(EngineError, match="qwen3vl export"):
        load_engine(Config(model=str(tmp_path), engine="onnxruntime"))


@pytest.mark.parametrize("name", ["manifest.json", "decoder.opset18.onnx"])
def test_auto_goes_on_when_a_file_of_one_is_missing(tmp_path: Path, name):
    shutil.copytree(EMBEDDED.path, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    engine = load_engine(Config(model=str(tmp_path), device="cpu"))
    assert engine.info.runtime == "torch" and f"has no {name}" in engine.info.why
    engine.close()


def test_no_runtime_at_all_names_every_reason(tmp_path: Path, monkeypatch):
    real = choice.importlib.util.find_spec
    absent = ("torch", "transformers", "onnxruntime")
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda n: None if n in absent else real(n))
    with pytest.raises(EngineError, match="no runtime can run .*pip install onnxruntime.*pip install torch"):
        load_engine(Config())


def test_a_bundle_without_weights_is_for_tensorrt_alone(tmp_path: Path):
    shutil.copytree(EMBEDDED.path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "decoder.sm89.engine").write_bytes(b"")
    told = {o.name: o.missing for o in survey(find_checkpoint(str(tmp_path)), "cpu")}
    for name in ("onnxruntime", "torch", "transformers"):
        assert "only engines" in told[name]
        with pytest.raises(WrongModel, match=f"no weights for the runtime '{name}'; use engine tensorrt.*: MODEL"):
            load_engine(Config(model=str(tmp_path), engine=name))
    manifest = {"tensorrt": {"format": 1, "model": "Qwen/Qwen3-VL-2B-Instruct"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match="no NVIDIA driver.*from, Qwen/Qwen3-VL-2B-Instruct: it runs on a CPU"):
        load_engine(Config(model=str(tmp_path), device="cpu"))


def test_a_name_runs_or_fails():
    with pytest.raises(EngineError, match="GPUs only"):
        load_engine(Config(engine="tensorrt", device="cpu"))
    with pytest.raises(WrongModel, match=f"qwen3vl build {EMBEDDED.path} --out BUNDLE"):
        load_engine(Config(engine="tensorrt"))
    with pytest.raises(EngineError, match="compute in float32"):
        load_engine(Config(engine="onnxruntime", dtype="bfloat16"))
    with pytest.raises(EngineError, match="CUDAExecutionProvider|CUDA"):
        load_engine(Config(engine="onnxruntime", device="cuda"))
    with pytest.raises(InvalidInput, match="remote.url"):
        load_engine(Config(engine="remote"))
