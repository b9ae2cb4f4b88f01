"""What an export leaves where the disk fills up, where it was broken off, or where its files were damaged later."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from small_disk import disk

from qwen3vl_ros import files
from qwen3vl_ros.cli import main
from qwen3vl_ros.config import Config
from qwen3vl_ros.doctor import examine
from qwen3vl_ros.engine import embedded_model_dir, load_engine

pytest.importorskip("onnx", reason="graphs are written with onnx")

EMBEDDED = str(embedded_model_dir())
WAYS = pytest.mark.parametrize("precision", [(), ("--precision", "int8")], ids=["as stored", "int8"])


def export(model, out, *options) -> int:
    return main(["export", str(model), "--out", str(out), "--no-parity", *options])


def damage(path: Path) -> None:
    """The values of some weights, not their layout."""
    data = bytearray(path.read_bytes())
    data[-50_000:] = bytes(50_000)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The embedded model in 8 bits."""
    out = tmp_path_factory.mktemp("int8") / "model"
    assert export(EMBEDDED, out, "--precision", "int8") == 0
    return out


@pytest.fixture
def bundle(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))


@WAYS
def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, capfd, precision):
    with disk(tmp_path / "small", "size=4m") as place:
        assert export(EMBEDDED, place / "model", *precision) == 2
        assert not any((place / "model").iterdir())
    told = capfd.readouterr().err
    assert "out of disk space" in told and "MB free" in told and "another disk" in told and "Traceback" not in told


@WAYS
def test_a_disk_that_fills_up_on_the_way_is_left_with_no_part_and_the_export_can_be_made_again(
    tmp_path, capfd, monkeypatch, precision
):
    with disk(tmp_path / "small", "size=4m") as place:
        with monkeypatch.context() as promised:
            promised.setattr(files, "require_room", lambda *_: None)
            for module in ("graphs", "weight_only"):
                promised.setattr(f"qwen3vl_ros.export.{module}.require_room", lambda *_: None)
            assert export(EMBEDDED, place / "model", *precision) == 2
        assert "out of disk space" in capfd.readouterr().err
        left = {file.name for file in (place / "model").iterdir()}
        assert not left & {"model.safetensors", "config.json", "manifest.json"}
        assert not any(name.startswith(".") for name in left)
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        assert export(EMBEDDED, place / "model", *precision) == 0
        load_engine(Config(model=str(place / "model"), engine="onnxruntime")).close()


def test_graphs_of_few_bits_are_written_again_without_the_original(bundle, capsys):
    for name in ("manifest.json", "decoder.onnx"):
        (bundle / name).unlink()
    told = next(f for f in examine(Config(model=str(bundle)), quick=True) if f.what == "onnxruntime").detail
    assert told.endswith(f"qwen3vl export {bundle}")  # the command that it is told is the one that helps
    assert main(["export", str(bundle)]) == 0
    engine = load_engine(Config(model=str(bundle)))
    assert engine.info.dtype == "float32, int8 weights"
    engine.close()
    assert main(["export", str(bundle), "--dtype", "float16"]) == 2
    assert "holds int8 weights, whose graphs compute in float32" in capsys.readouterr().err


def test_damaged_weights_of_few_bits_are_found_out(bundle, capsys):
    assert not [f for f in examine(Config(model=str(bundle))) if f.what == "weights"]
    damage(bundle / "model.safetensors")
    found = [f for f in examine(Config(model=str(bundle))) if f.what == "weights"]
    assert [f.state for f in found] == ["missing"] and "model.safetensors" in found[0].detail
    assert "--precision int8" in found[0].way_out
    assert main(["export", str(bundle)]) == 2 and "not the weights that were written" in capsys.readouterr().err
