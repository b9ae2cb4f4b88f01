"""Graphs as files: valid, small, those of their weights, and never written over another model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx", reason="the export needs onnx")
pytest.importorskip("torch", reason="what the graphs are compared with")

from random_checkpoint import write_checkpoint

from qwen3vl_ros.cli import main
from qwen3vl_ros.engine.checkpoint import Checkpoint, read_checkpoint
from qwen3vl_ros.engine.network import graph
from qwen3vl_ros.engine.network.graph import Graphs
from qwen3vl_ros.export.graphs import export
from qwen3vl_ros.export.networks import decoder_model, vision_model
from qwen3vl_ros.export.operators import OPSETS, Weights
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

ROOT = Path(__file__).resolve().parents[2]
RELATIVE = 1e-4
VARIANTS = ("attention", "decomposed")
COMMAND = "qwen3vl export model/embedded"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("small"), "small")


def test_the_error_measured_at_export_is_in_the_manifest(small, tmp_path):
    written = export(small, tmp_path)
    assert set(written["parity"]) == {"vision", "deep", "logits"} and max(written["parity"].values()) <= RELATIVE
    assert Graphs.read(tmp_path).parity == written["parity"]


@pytest.mark.parametrize("variant, dtype", [*itertools.product(VARIANTS, ("float32", "float16", "bfloat16"))])
def test_graphs_are_valid_onnx_and_small(small, tmp_path, variant, dtype):
    export(small, tmp_path, dtype, variant, measure=False)
    newer = {"Attention", "TensorScatter", "RMSNormalization", "RotaryEmbedding", "Gelu"}
    for name, values in ((graph.VISION, graph.vision_values), (graph.DECODER, graph.decoder_values)):
        path = tmp_path / name
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        found = {node.op_type for node in model.graph.node}
        assert found & newer == (
            set()
            if variant == "decomposed"
            else newer - ({"Gelu"} if name == graph.DECODER else {"TensorScatter", "RMSNormalization"})
        )
        assert model.opset_import[0].version == OPSETS[variant] and len(model.opset_import) == 1
        assert path.stat().st_size < 100_000
        expected = values(Graphs.read(path.parent).sizes)
        for ends, there in zip(expected, (model.graph.input, model.graph.output)):
            assert [v.name for v in ends] == [v.name for v in there]
            assert [v.shape for v in ends] == [
                tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in there
            ]


def test_the_embedded_models_graphs_are_those_of_its_weights():
    place = ROOT / "model" / "embedded"
    if not place.is_dir():
        pytest.skip("model/embedded is not in this tree")
    again = f"model/embedded has changed since its graphs were written; run: {COMMAND}"
    try:
        graphs = Graphs.read(place)
    except EngineError as error:
        pytest.fail(f"{error}\n{again}")
    manifest = json.loads((place / graph.MANIFEST).read_text())["onnx"]
    checkpoint = read_checkpoint(place)
    assert {f.name: graph.file_sha256(f) for f in checkpoint.weight_files} == manifest["weights_sha256"], again
    weights = Weights(checkpoint)
    for name, build in ((graph.VISION, vision_model), (graph.DECODER, decoder_model)):
        for file, variant in ((name, graphs.variant), (graph.OLDER[name], "decomposed")):
            written = onnx.load(place / file, load_external_data=False)
            assert build(graphs.sizes, weights, graphs.dtype, variant).graph == written.graph, again
    assert (graphs.dtype, graphs.variant, graphs.slots) == ("float32", "attention", 0), again
    assert max(graphs.parity.values()) <= RELATIVE


def test_what_the_export_cannot_write_is_refused(small, tmp_path, capsys):
    assert main(["export", str(tmp_path / "nothing")]) == 2
    assert "neither an existing directory nor a hub id" in capsys.readouterr().err
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(small.path / name)
    linked = Checkpoint(tmp_path, small.config, "", (tmp_path / "model.safetensors",), 1, "")
    with pytest.raises(InvalidInput, match="is a link.*--out"):
        export(linked, tmp_path)
    config = json.loads(json.dumps(small.config))
    config["text_config"]["intermediate_size"] = 7
    with pytest.raises(WrongModel, match=r"gate_proj.weight is \(160, 96\) and config.json asks for \(7, 96\)"):
        export(Checkpoint(small.path, config, "", small.weight_files, 1, ""), tmp_path / "out")
    config["text_config"] |= {"intermediate_size": 160, "num_hidden_layers": 4}
    with pytest.raises(WrongModel, match="has no weight model.language_model.layers.3"):
        export(Checkpoint(small.path, config, "", small.weight_files, 1, ""), tmp_path / "out")
    for slots in (-5, small.max_positions + 1):
        with pytest.raises(InvalidInput, match=f"--slots {slots} is no length of a cache"):
            export(small, tmp_path / "out", slots=slots)


def test_an_export_overwrites_no_other_model(small, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"another model's")
    for manifest in (None, "{}"):
        if manifest:
            (tmp_path / graph.MANIFEST).write_text(manifest)
        with pytest.raises(InvalidInput, match=f"--out {tmp_path} holds another model"):
            export(small, tmp_path, measure=False)
    assert (tmp_path / "model.safetensors").read_bytes() == b"another model's"
