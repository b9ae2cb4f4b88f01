"""Models, names and addresses that are damaged in ways nobody foresaw: each is named, with its rule and the way out."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qwen3vl_ros import doctor, engine
from qwen3vl_ros.config import Config, RemoteConfig
from qwen3vl_ros.engine import checkpoint as checkpoints
from qwen3vl_ros.engine.checkpoint import embedded_model_dir, find_checkpoint, read_checkpoint
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.engine.remote.access import base_url
from qwen3vl_ros.types import InvalidInput, ModelNotFound, PerceptionError, WrongModel


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(embedded_model_dir(), folder)
    return folder


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    "values, named",
    [
        (dict(architectures=5), "architectures .* is 5 and no list of names"),
        (dict(architectures=[1, None]), "architectures .* no list of names"),
        (dict(architectures="Qwen3VLForConditionalGeneration"), "architectures .* no list of names"),
        (dict(architectures={"a": 1}), "architectures .* no list of names"),
        (dict(quantization_config={"quant_method": "fp8", "parameters": "many"}), "'many' and no number of weights"),
        (dict(quantization_config={"quant_method": "fp8", "parameters": -1}), "-1 and no number of weights"),
        (dict(quantization_config={"quant_method": "fp8", "parameters": True}), "True and no number of weights"),
    ],
)
def test_a_value_of_another_type_is_named(model, values, named):
    change(model / "config.json", **values)
    with pytest.raises(WrongModel, match=named):
        read_checkpoint(model)
    assert doctor.report(Config(model=str(model)), quick=True) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "\x00", "[1]"])
@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_what_is_no_object_of_json_is_named(model, name, text):
    (model / name).write_text(text)
    with pytest.raises(WrongModel, match=name):
        checkpoints.read_json(model / name)
    assert doctor.report(Config(model=str(model)), quick=True) == 1


@pytest.mark.parametrize("name", ["~nosuch/x", "x" * 5000, "Qwen/" + "x" * 200, "a\0b", "Qwen/a..b", "Qwen/a--b"])
def test_a_name_that_nothing_can_have_is_no_model(name, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="model '"):
        find_checkpoint(name)
    assert doctor.report(Config(model=name), quick=True) == 1
    assert max(map(len, capsys.readouterr().out.splitlines())) < 900


@pytest.mark.parametrize("url", ["http://[", "http://a℀b/v1", "http://[::1", "foo", "http://x:99999/v1", ""])
def test_an_address_that_is_none_is_refused_and_no_doctor_says_it_would_run(url):
    with pytest.raises(InvalidInput, match="remote.url"):
        base_url(url)
    assert doctor.report(Config(engine="remote", remote=RemoteConfig(url=url)), quick=True) == 1


@pytest.mark.parametrize("device", ["bla", "cuda:", "cuda:99", "mps", "CPU"])
def test_a_device_that_is_not_there_is_said_before_anything_loads(device, capsys):
    assert doctor.report(Config(device=device), quick=True) == 1
    assert f"device {device!r}" in capsys.readouterr().out


@pytest.mark.parametrize("key, value", [("hidden_size", 0), ("vocab_size", "x"), ("num_hidden_layers", -3)])
def test_a_network_that_cannot_be_made_would_not_run(model, key, value):
    config = json.loads((model / "config.json").read_text())
    config["text_config"][key] = value
    change(model / "config.json", **config)
    assert doctor.report(Config(model=str(model)), quick=True) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "decoder.onnx", "chat_template.jinja"])
def test_a_file_that_may_not_be_read_is_named(model, monkeypatch, name):
    real = type(model).open

    def refuse(path, *args, **kwargs):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(type(model), "open", refuse)
    with pytest.raises(PerceptionError, match=f"{name} cannot be read: Permission denied; let this user read it"):
        engine.load_engine(Config(model=str(model), engine="onnxruntime"))


def test_pictures_of_another_token_are_refused_at_load(model):
    change(model / "config.json", image_token_id=1000)
    with pytest.raises(WrongModel, match="image_token_id in .*config.json is 1000, and .*image_pad.*copy both"):
        Preparation(model)


def test_pictures_that_no_prompt_holds_are_refused_at_load(model):
    change(model / "preprocessor_config.json", size={"shortest_edge": 10**12, "longest_edge": 10**13})
    with pytest.raises(InvalidInput, match="976562500 tokens, and the model holds 4096"):
        Preparation(model)


@pytest.fixture
def export():
    pytest.importorskip("onnx")
    from qwen3vl_ros.export.graphs import export

    return export


def broken(folder, make):
    """The model's weights, with one tensor replaced."""
    weights = load_file(folder / "model.safetensors")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    save_file(weights | {name: make(weights[name])}, folder / "model.safetensors", {"format": "pt"})
    return name


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_that_are_no_numbers_are_not_made_numbers(model, export, tmp_path, value, precision):
    from qwen3vl_ros.export.scheme import Scheme

    broken(model, lambda w: np.where(np.arange(w.size).reshape(w.shape) == 7, value, w).astype(w.dtype))
    with pytest.raises(WrongModel, match=r"up_proj.* holds what is no number"):
        export(read_checkpoint(model), tmp_path / "out", measure=False, scheme=Scheme(decoder=int(precision[3:])))
    assert not (tmp_path / "out" / "config.json").exists()


def test_weights_in_whole_numbers_are_no_plain_weights(model, export):

    name = broken(model, lambda w: np.zeros(w.shape, np.int8))
    with pytest.raises(WrongModel, match=f"{name} is stored as I8"):
        export(read_checkpoint(model), model, measure=False)


@pytest.mark.parametrize("text", ["{bad", "[1]", "[" * 100_000])
def test_an_export_replaces_a_manifest_that_nothing_can_read(model, export, text):

    checkpoint = read_checkpoint(model)
    (model / "manifest.json").write_text(text)
    export(checkpoint, model, measure=False)
    assert json.loads((model / "manifest.json").read_text())["onnx"]["sha256"]
