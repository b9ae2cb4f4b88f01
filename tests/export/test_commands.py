"""`qwen3vl export` and `qwen3vl build` as a user types them, and the commands that messages tell a user to type."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3vl_ros.cli import _parser, main
from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_checkpoint, read_json
from qwen3vl_ros.engine.choice import survey
from qwen3vl_ros.engine.network.graph import Graphs, export_command
from qwen3vl_ros.engine.tensorrt.bundle import Bundle, ShapeLimits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path) -> Path:
    """The embedded model without its graphs."""
    ignore = shutil.ignore_patterns("*.onnx", "manifest.json")
    return Path(shutil.copytree(embedded_model_dir(), tmp_path / "model", ignore=ignore))


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_export_writes_graphs_beside_the_weights_and_says_what_and_where(model, capsys):
    pytest.importorskip("onnx")
    status, out, _ = run(capsys, "export", model, "--no-parity", "--slots", 256, "--dtype", "float16")
    graphs = Graphs.read(model)
    assert status == 0 and (graphs.dtype, graphs.slots, graphs.variant) == ("float16", 256, "attention")
    assert f"{model / 'vision.onnx'}: " in out and "not measured" in out and "model.safetensors" in out


def test_export_measures_the_error_and_writes_elsewhere_when_asked(model, tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    status, out, _ = run(capsys, "export", model, "--out", tmp_path / "out", "--decomposed")
    assert status == 0 and re.search(r"vision \d.\de-0\d, deep .*, logits ", out)
    assert Graphs.read(tmp_path / "out").variant == "decomposed" and not (model / "vision.onnx").exists()


def test_build_makes_a_bundle_of_random_weights(tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("tensorrt_rtx")
    sizes = ("--cache-slots", 512, "--prefill", 256, "--max-patches", 1200, "--max-visual", 300)
    status, out, _ = run(capsys, "build", "random:toy", "--out", tmp_path / "toy", "--sm", "89", *sizes)
    assert status == 0 and "writing random weights: random:toy" in out
    assert out.splitlines()[-1].startswith(f"{tmp_path / 'toy'}: SM 89, fp16, tensorrt_rtx ")


BAD = {
    "no such model": (["export", "{tmp}/nothing"], "neither an existing directory nor a hub id"),
    "a word for a number": (
        ["build", "{model}", "--out", "{tmp}/b", "--sm", "ada"],
        "'ada' is no list of .* e.g. 86,89",
    ),
    "limits that no engine has": (["build", "{model}", "--out", "{tmp}/b", "--sm", "89", "--draft", "0"], "1 <= draft"),
    "no such size": (["build", "random:3B", "--out", "{tmp}/b", "--sm", "89"], "'3B'; choose one of 2B, 4B"),
}


@pytest.mark.parametrize("arguments, named", BAD.values(), ids=BAD.keys())
def test_bad_input_ends_with_status_2_and_a_reason(model, tmp_path, capsys, arguments, named):
    pytest.importorskip("onnx")
    status, _, err = run(capsys, *(a.format(model=model, tmp=tmp_path) for a in arguments))
    assert status == 2 and re.search(named, err) and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [["export"], ["export", "--precision", "int4", "--out", "{tmp}/b"], ["build", "--sm", "89", "--out", "{tmp}/b"]],
)
def test_engines_without_weights_are_refused_with_what_they_were_built_from(model, tmp_path, capsys, arguments):
    pytest.importorskip("onnx")
    (model / "model.safetensors").unlink()
    (model / "manifest.json").write_text('{"tensorrt": {"model": "Qwen/Qwen3-VL-2B-Instruct"}}')
    (model / "decoder.sm89.engine").touch()
    status, _, err = run(capsys, *(a.format(tmp=tmp_path) for a in arguments), model)
    assert status == 2 and "no weights; give what they were built from: Qwen/Qwen3-VL-2B-Instruct" in err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "absent, arguments",
    [
        ("onnx", ["export", "{model}"]),
        ("onnx", ["build", "{model}", "--out", "{tmp}/b", "--sm", "89"]),
        ("torch", ["export", "{model}"]),
        ("onnxruntime", ["export", "{model}"]),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    model, tmp_path, monkeypatch, capsys, absent, arguments
):
    pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, absent, None)
    status, _, err = run(capsys, *(a.format(model=model, tmp=tmp_path) for a in arguments))
    assert status == 2 and f"needs {absent}, which is not installed; pip install {absent}" in err
    assert ("--no-parity" in err) == (absent != "onnx")


def test_a_package_that_is_there_and_broken_is_told_as_what_it_is(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "site" / "onnx").mkdir(parents=True)
    (tmp_path / "site" / "onnx" / "__init__.py").write_text("raise ImportError('libfoo.so: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in [name for name in sys.modules if name.split(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    status, _, err = run(capsys, "export", model)
    assert status == 2 and "onnx, which is installed and cannot be imported (libfoo.so: cannot open)" in err


def test_nothing_heavy_is_imported_before_a_command_runs():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'ml_dtypes', 'onnxruntime', 'tensorrt',\n"
        "'tensorrt_rtx', 'transformers')))\n"
        "import qwen3vl_ros.export\n"
        "from qwen3vl_ros.cli import main\n"
        "main(['build', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and "--timing-cache" in done.stdout, done.stderr


# -- what messages tell a user to type -------------------------------------------------------------------------------


def told(model: Path, origin: str) -> list[str]:
    """Commands as our own messages give them."""
    checkpoint = read_checkpoint(model)
    limits = ShapeLimits(cache_slots=512, prefill=256, max_visual=300)
    config = read_json(model / "config.json")
    of = (model, config, origin, "", 1, "tensorrt_rtx", "1.7", "int4", "float16", limits, {}, {})
    missing = "\n".join(option.missing for option in survey(checkpoint, "cpu"))
    return [
        export_command(model),
        Bundle(*of).rebuild_command(),
        Bundle(*of).rebuild_command(120, max_patches=5000),
        *re.findall(r"qwen3vl build .+? --out BUNDLE", missing),
        *re.findall(r"qwen3vl export .+$", missing, re.M),
    ]


@pytest.mark.parametrize("place", ["plain", "two words", "it's; $HOME", "模型"])
def test_every_command_that_a_message_gives_is_one_that_exists(model, place, tmp_path):
    model = shutil.copytree(model, tmp_path / place)
    commands = told(model, f"some/{place}")
    assert len(commands) == 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "qwen3vl"
        assert _parser().parse_args(arguments).model in (str(model), f"some/{place}")


def test_no_message_and_no_page_sends_a_user_to_a_script_that_is_not_installed():
    pages = [*(ROOT / "qwen3vl_ros").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    scripts = "|".join(path.stem for path in (ROOT / "qwen3vl_ros" / "export").glob("*.py"))
    for page in pages:
        text = page.read_text()
        assert "python model/" not in text, page
        assert not re.search(rf"model/({scripts}|export_onnx|quantize_onnx|build_engine|engine_builder)\.py", text), (
            page
        )
