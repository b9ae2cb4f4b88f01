"""`qwen3vl detect` and `qwen3vl doctor` as a user types them; the answers come from a scripted engine where they matter."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from remote_server import ModelServer, RedFinder
from tiny import tiny_checkpoint

import qwen3vl_ros.engine
from qwen3vl_ros import doctor
from qwen3vl_ros.cli import main
from qwen3vl_ros.config import Config
from qwen3vl_ros.engine import choice
from qwen3vl_ros.engine.base import EngineInfo
from qwen3vl_ros.types import Generation, ModelNotFound

ROOT = Path(__file__).resolve().parents[2]
TWO = (
    '```json\n[{"bbox_2d": [250, 250, 500, 500], "label": "red cube"}, '
    '{"bbox_2d": [700, 100, 900, 300], "label": "mug"}]\n```'
)


class Scripted:
    """An engine that gives one answer and remembers what it was asked."""

    def __init__(self, text: str, finish_reason: str = "stop"):
        self.info = EngineInfo("scripted", "nowhere", "Scripted", "cpu", "float32", 7, False, "a test")
        self.text, self.finish_reason = text, finish_reason
        self.prompts, self.images, self.config, self.closed = [], [], None, False

    def generate(self, prompt, limits, control=None, on_text=None):
        self.prompts.append(prompt.text)
        self.images += prompt.images
        n = len(self.text)
        return Generation(
            self.text,
            tuple(range(n)),
            np.full(n, -0.01, np.float32),
            tuple(range(1, n + 1)),
            self.finish_reason,
            prompt=prompt.text,
            generated_tokens=n,
            decode_s=0.5,
        )

    def close(self):
        self.closed = True


@pytest.fixture
def says(monkeypatch):
    """says(text) makes every engine that is loaded give that answer."""

    def install(text: str, finish_reason: str = "stop") -> Scripted:
        engine = Scripted(text, finish_reason)

        def load(config=None):
            engine.config = config
            return engine

        monkeypatch.setattr(qwen3vl_ros.engine, "load_engine", load)
        return engine

    return install


@pytest.fixture
def photo(tmp_path) -> Path:
    rgb = np.full((240, 320, 3), (200, 120, 40), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), rgb[..., ::-1])
    return tmp_path / "photo.png"


@pytest.fixture
def depth(tmp_path) -> Path:
    """A table 0.8 m below the camera and a block of 13 cm where the answer TWO says red cube."""
    mm = np.full((240, 320), 800, np.uint16)
    mm[60:120, 80:160] = 670
    cv2.imwrite(str(tmp_path / "depth.png"), mm)
    return tmp_path / "depth.png"


@pytest.fixture
def calibration(tmp_path) -> Path:
    return write_calibration(tmp_path / "camera.yaml")


def write_calibration(path: Path, width=320, height=240, **changes) -> Path:
    values = {
        "image_width": width,
        "image_height": height,
        "camera_name": "test",
        "camera_matrix": {"rows": 3, "cols": 3, "data": [300.0, 0.0, 159.5, 0.0, 300.0, 119.5, 0.0, 0.0, 1.0]},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
    }
    path.write_text(yaml.safe_dump(values | changes))
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_table_of_boxes(says, photo, capsys):
    engine = says(TWO)
    status, out, _ = run(capsys, "detect", photo, "red cube, mug")
    assert status == 0 and engine.closed and '"red cube, mug"' in engine.prompts[0]
    np.testing.assert_array_equal(engine.images[0][0, 0], (200, 120, 40))
    cube, mug = (next(line for line in out.splitlines() if name in line) for name in ("red cube  ", "mug  "))
    assert "80 60 160 120" in cube and "224 24 288 72" in mug and "0." in cube
    assert "320x240" in out and "tokens/s" in out


def test_depth_and_calibration_give_space_and_grasps_or_reasons(says, photo, depth, calibration, capsys):
    says(TWO)
    status, out, _ = run(capsys, "detect", photo, "red cube, mug", "--depth", depth, "--camera-info", calibration)
    cube = next(line for line in out.splitlines() if "red cube" in line)
    assert status == 0 and "centre x y z, m" in out and "size, mm" in out
    assert "0.7" in cube and ("none: " in cube or "mm wide" in cube)
    assert "no 3D box for mug" in out


def test_json_is_whole_and_strict(says, photo, depth, calibration, capsys):
    says(TWO)
    status, out, err = run(
        capsys, "detect", photo, "red cube, mug", "--depth", depth, "--camera-info", calibration, "--json"
    )
    values = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert status == 0 and err == ""
    assert [d["label"] for d in values["detections_2d"]] == ["red cube", "mug"]
    assert values["detections_2d"][0]["box_xyxy_px"] == [80.0, 60.0, 160.0, 120.0]
    (solid,) = values["detections_3d"]
    assert np.shape(solid["frame_T_box"]) == (4, 4) and 0.6 < solid["frame_T_box"][2][3] < 0.8
    assert [r["label"] for r in values["refusals"]] == ["mug"] and values["refusals"][0]["reason"]
    assert len(values["grasps"]) == 1 and values["engine"]["runtime"] == "scripted"
    assert values["finish_reason"] == "stop" and values["times_s"]["decode"] == 0.5


def test_picture_is_written(says, photo, tmp_path, capsys):
    says(TWO)
    status, _, _ = run(capsys, "detect", photo, "red cube", "--output", tmp_path / "out.png")
    drawn = cv2.imread(str(tmp_path / "out.png"))
    assert status == 0 and drawn.shape == (240, 320, 3)
    different = (drawn != cv2.imread(str(photo))).any(2)
    assert different[60:120, 80].all() and not different[180:].any()


@pytest.mark.parametrize(
    "task, what, answer, expected",
    [
        ("point", "mug", '[{"point_2d": [500, 500], "label": "mug"}]', "160 120"),
        ("read_text", "", '[{"bbox_2d": [0, 0, 500, 100], "text_content": "EXIT 42"}]', "EXIT 42"),
        ("ask", "What is it?", "A red cube, and\na mug.", "A red cube, and\na mug."),
        ("detect_3d", "mug", '[{"bbox_3d": [0.1, 0.0, 1.0, 0.1, 0.1, 0.1, 0, 0, 0], "label": "mug"}]', "model's guess"),
        ("detect", "mug", "[]", "looked and saw nothing of mug"),
    ],
)
def test_every_task(says, photo, capsys, task, what, answer, expected):
    engine = says(answer)
    status, out, _ = run(capsys, "detect", photo, *filter(None, [what]), "--task", task)
    assert status == 0 and expected in out and len(engine.prompts) == 1


def test_incomplete_and_unreadable_answers_are_told_apart(says, photo, capsys):
    says(TWO[:90], "length")
    status, out, _ = run(capsys, "detect", photo, "red cube")
    assert status == 0 and "red cube" in out and "incomplete: it ended by 'length'" in out
    says("I am a teapot and will say no more of it")
    status, out, err = run(capsys, "detect", photo, "red cube")
    assert status == 1 and out == "" and "could not be read" in err and "teapot" in err


def test_parameters_reach_the_engine(says, photo, capsys):
    engine = says(TWO)
    status, out, _ = run(
        capsys,
        "detect",
        photo,
        "cube",
        "--model",
        "DIR",
        "--device",
        "cpu",
        "--set",
        "min_score=0.999",
        "--set",
        "generation.max_new_tokens=7",
        "--set",
        "dtype=bfloat16",
        "--set",
        "use_depth=false",
    )
    c = engine.config
    assert (c.model, c.device, c.dtype, c.generation.max_new_tokens, c.use_depth) == (
        "DIR",
        "cpu",
        "bfloat16",
        7,
        False,
    )
    assert status == 0 and "saw nothing" in out


BAD = {
    "no such image": (["nowhere.png", "cube"], "image nowhere.png does not exist"),
    "image is text": ([__file__, "cube"], "cannot be decoded"),
    "nothing asked": (["{photo}"], "needs at least one phrase"),
    "only commas": (["{photo}", " , "], "needs at least one phrase"),
    "no question": (["{photo}", "--task", "ask"], "needs a question"),
    "text with targets": (["{photo}", "sign", "--task", "read_text"], "leave WHAT out"),
    "a quote in a phrase": (["{photo}", 'the "mug"'], "quotation mark"),
    "too large": (
        ["{photo}", "cube", "--set", "max_image_pixels=1000"],
        "320x240 pixels, more than the 1000 of parameter",
    ),
    "depth alone": (["{photo}", "cube", "--depth", "{depth}"], "add --camera-info"),
    "no such depth": (
        ["{photo}", "cube", "--depth", "no.png", "--camera-info", "{camera}"],
        "depth no.png does not exist",
    ),
    "8-bit depth": (
        ["{photo}", "cube", "--depth", "{photo}", "--camera-info", "{camera}"],
        "16-bit grey PNG in millimetres",
    ),
    "integer npy": (
        ["{photo}", "cube", "--depth", "{tmp}/int.npy", "--camera-info", "{camera}"],
        "HxW floats in metres",
    ),
    "npy is no npy": (
        ["{photo}", "cube", "--depth", "{tmp}/text.npy", "--camera-info", "{camera}"],
        "cannot be read as .npy",
    ),
    "calibration is a picture": (["{photo}", "cube", "--camera-info", "{photo}"], "camera info .* cannot be read"),
    "calibration lacks K": (["{photo}", "cube", "--camera-info", "{tmp}/no_k.yaml"], "KeyError: 'k'"),
    "uncalibrated": (["{photo}", "cube", "--camera-info", "{tmp}/zero.yaml"], "not calibrated"),
    "other resolution": (["{photo}", "cube", "--camera-info", "{tmp}/large.yaml"], "for 640x480 pixels .* has 320x240"),
    "unknown ending": (["{photo}", "cube", "--output", "{tmp}/out.doc"], "end it in .png"),
    "no such folder": (["{photo}", "cube", "--output", "{tmp}/no/out.png"], "does not exist; make it first"),
    "unknown parameter": (["{photo}", "cube", "--set", "speed=9"], "unknown parameter 'speed'"),
    "not a number": (["{photo}", "cube", "--set", "generation.deadline=soon"], "must be a number"),
    "out of range": (["{photo}", "cube", "--set", "generation.deadline=-1"], "outside"),
    "no value": (["{photo}", "cube", "--set", "dtype"], "must be NAME=VALUE"),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_the_model_is_loaded(
    monkeypatch, photo, depth, calibration, tmp_path, capsys, arguments, message
):
    monkeypatch.setattr(qwen3vl_ros.engine, "load_engine", lambda config: pytest.fail("loaded the model"))
    np.save(tmp_path / "int.npy", np.ones((240, 320), np.int32))
    (tmp_path / "text.npy").write_text("depth")
    (tmp_path / "no_k.yaml").write_text("width: 320\nheight: 240\n")
    write_calibration(tmp_path / "zero.yaml", camera_matrix={"data": [0.0] * 9})
    write_calibration(tmp_path / "large.yaml", 640, 480)
    names = {"photo": photo, "depth": depth, "camera": calibration, "tmp": tmp_path}
    status, out, err = run(capsys, "detect", *(str(a).format(**names) for a in arguments))
    assert status == 2 and out == "" and re.search(message, err) and "Traceback" not in err


def test_calibration_as_ros_prints_it(says, photo, depth, tmp_path, capsys):
    says(TWO)
    (tmp_path / "echo.yaml").write_text(
        "header:\n  frame_id: camera\nheight: 240\nwidth: 320\ndistortion_model: plumb_bob\n"
        "d: []\nk: [300.0, 0.0, 159.5, 0.0, 300.0, 119.5, 0.0, 0.0, 1.0]\n---\n"
    )
    status, out, _ = run(capsys, "detect", photo, "red cube", "--depth", depth, "--camera-info", tmp_path / "echo.yaml")
    assert status == 0 and "centre x y z, m" in out


def test_depth_in_metres(says, photo, depth, calibration, tmp_path, capsys):
    says(TWO)
    np.save(tmp_path / "depth.npy", cv2.imread(str(depth), cv2.IMREAD_UNCHANGED).astype(np.float64) / 1000)
    tables = [
        run(capsys, "detect", photo, "red cube", "--depth", d, "--camera-info", calibration)[1].splitlines()[1:-1]
        for d in (depth, tmp_path / "depth.npy")
    ]
    assert tables[0] == tables[1]


def test_no_model_is_an_error_with_the_way_out(photo, capsys):
    status, out, err = run(capsys, "detect", photo, "cube", "--model", "/nowhere")
    assert status == 2 and out == "" and "neither an existing directory nor a hub id" in err


# -- doctor ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    "out", ["file", "file/below", "/proc/cannot"], ids=["a file", "below a file", "where nothing may be"]
)
def test_a_path_that_cannot_be_written_is_named(checkpoint, out, tmp_path, capsys):
    (tmp_path / "file").write_text("something")
    status, _, err = run(capsys, "export", checkpoint, "--no-parity", "--precision", "int8", "--out", tmp_path / out)
    assert status == 2 and str(tmp_path / out) in err and "give a path" in err and err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "something"


def test_doctor_runs_what_it_promises(checkpoint, capsys):
    status, out, _ = run(capsys, "doctor", "--model", checkpoint)
    assert status == 0 and "runs on this machine" in out
    for part in (
        "python",
        "torch",
        "transformers",
        "no graphs in",
        "Qwen3VLForConditionalGeneration",
        "loaded in",
        "torch, cpu, float32",
    ):
        assert part in out
    assert not any(line.startswith("missing") for line in out.splitlines())


def test_doctor_names_what_is_missing_and_how_to_get_it(checkpoint, monkeypatch, capsys):
    status, out, _ = run(capsys, "doctor", "--model", "/nowhere")
    assert status == 1 and "missing model" in out and "cannot run" in out and "loaded in" not in out
    with monkeypatch.context() as broken:
        (checkpoint / "manifest.json").write_text("{")
        broken.setattr(doctor, "_run", None)
        status, out, _ = run(capsys, "doctor", "--model", checkpoint)
        (checkpoint / "manifest.json").unlink()
    assert (
        status == 1 and "missing model" in out and "manifest.json cannot be read as JSON" in out and "cannot run" in out
    )
    status, out, _ = run(capsys, "doctor", "--model", checkpoint, "--device", "cuda:99")
    assert status == 1 and "missing device" in out and "cuda:99" in out
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "jinja2" else real(name))
    status, out, _ = run(capsys, "doctor", "--model", checkpoint)
    assert status == 1 and f"{sys.executable} -m pip install jinja2" in out
    absent = ("torch", "transformers")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    status, out, _ = run(capsys, "doctor", "--model", checkpoint)
    assert status == 1 and "missing torch" in out and "pip install torch transformers" in out


def test_doctor_shows_what_a_servers_self_test_found(capsys):
    with ModelServer(RedFinder()) as server:
        status, out, _ = run(capsys, "doctor", "--set", f"remote.url={server.url}")
        assert status == 0 and re.search(r"^ok +self-test +passed$", out, re.M) and "M weights" not in out
        off = ("--set", f"remote.url={server.url}", "--set", "remote.self_test=false")
        status, out, _ = run(capsys, "doctor", *off)
        assert status == 0 and re.search(r"^note +self-test +off$", out, re.M)
    with ModelServer(RedFinder(lambda box, width, height: [0, 0, 0, 0])) as server:
        status, out, _ = run(capsys, "doctor", "--set", f"remote.url={server.url}")
        assert status == 0 and re.search(r"^note +self-test +inconclusive: ", out, re.M)


class Pings:
    """The body of an answer that never comes, from a server that keeps the line."""

    def __iter__(self):
        while True:
            yield b": still here\n\n"
            time.sleep(0.05)


def test_doctor_ends_where_a_server_keeps_the_line_and_says_nothing(capsys):
    with ModelServer(RedFinder()) as server:
        server.raw.extend([("text/event-stream", Pings())] * 9)
        slow = ("--set", f"remote.url={server.url}", "--set", "remote.start_timeout=0.5")
        status, out, _ = run(capsys, "doctor", *slow)
    assert status == 1 and "the deadline passed before an object could be read" in out
    assert out.splitlines()[-1] == f"the model at {server.url} cannot run on this machine: see above"


def test_doctor_names_a_quantisation_that_is_no_object(checkpoint, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": "fp8"}))
    status, out, _ = run(capsys, "doctor", "--model", model)
    assert status == 1 and "quantization_config" in out and "is 'fp8' and no object" in out


def test_doctor_says_of_weights_and_engines_what_can_run_here(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choice, "compute_capabilities", lambda: ())
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    status, out, _ = run(capsys, "doctor", "--model", model)
    assert status == 1 and "a CPU cannot compute with FP8" in out and "qwen3vl export" not in out
    (model / "model.safetensors").unlink()
    (model / "decoder.sm89.engine").write_bytes(b"")
    for origin, way_out in (
        ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Instruct: it runs on a CPU"),
        ("''", "'': it runs on a CPU with torch as it is, and with onnxruntime after qwen3vl export ''"),
        ("/gone/it's here", "/gone/it's here (which is not on this machine): it runs on a CPU"),
        ("random:2B", "it was built for timing alone"),
    ):
        (model / "manifest.json").write_text(json.dumps({"tensorrt": {"model": origin}}))
        status, out, _ = run(capsys, "doctor", "--model", model)
        assert status == 1 and "engines of TensorRT, no weights" in out and "0.0 M" not in out
        assert way_out in out


def test_doctor_tells_the_worlds_apart(monkeypatch):
    real = doctor.importlib.util.find_spec
    ros = {"rclpy", "vision_msgs", "qwen3vl_ros.msg"}
    known = ros | {"tf2_ros"}

    def find(name, present):
        return (name in present or None) if name in known else real(name)

    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: find(name, set()))
    none = {f.what: f for f in doctor._ros()}
    assert none["ros"].state == "note" and "source" in none["ros"].way_out
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: find(name, ros))
    monkeypatch.setattr(doctor, "_has_distribution", lambda name: False)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    sourced = {f.what: f for f in doctor._ros()}
    assert "distribution jazzy" in sourced["ros"].detail and sourced["tf2_ros"].state == "note"
    assert sourced["vision_msgs"].state == sourced["qwen3vl_ros.msg"].state == "ok"


def test_embedded_model_passes_or_its_absence_is_told(capsys):
    status, out, _ = run(capsys, "doctor")
    try:
        qwen3vl_ros.engine.embedded_model_dir()
    except ModelNotFound:
        assert status == 1 and "the embedded model is missing" in out
    else:
        assert status == 0 and "the embedded model runs on this machine" in out


def test_commands_of_the_shell(photo, checkpoint):
    def shell(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "qwen3vl_ros.cli", *map(str, arguments)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=240,
        )

    assert shell("--help").returncode == 0
    nothing = shell()
    assert nothing.returncode == 2 and "usage" in nothing.stderr
    asked = shell(
        "detect", photo, "what?", "--task", "ask", "--model", checkpoint, "--set", "generation.max_new_tokens=5"
    )
    if asked.returncode == 0:
        assert "+ 5 tokens in" in asked.stdout and asked.stderr == ""
    else:  # random weights may say nothing a person could read
        assert asked.returncode == 1 and asked.stderr.startswith("qwen3vl: the answer could not be read")


def test_help_needs_no_network_stack():
    """`qwen3vl --help` and bad input must not wait for torch."""
    code = "import sys\nimport qwen3vl_ros.cli\nprint('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


def test_default_configuration_is_the_embedded_model():
    assert Config().model == ""


LINE = '[{"bbox_2d": [0, 0, 500, 100], "text_content": "EXIT 42"}]'


def test_text_is_read_with_its_language_and_a_translation_that_fails_says_why(says, photo, capsys):
    engine = says(LINE)
    status, out, err = run(capsys, "read-text", photo)
    assert status == 0 and "EXIT 42" in out and "und-Latn" in out and err == "" and len(engine.prompts) == 1
    engine = says(LINE)
    status, out, err = run(capsys, "read-text", photo, "--translate-to", "zh", "--json")
    told = json.loads(out)
    assert status == 0 and len(engine.prompts) == 2 and "EXIT 42" in engine.prompts[1]
    assert told["lines"] == [
        {
            "text": "EXIT 42",
            "box_xyxy_px": [0, 0, 160, 24],
            "language": "und-Latn",
            "score": pytest.approx(0.99, abs=0.02),
            "translation": "",
        }
    ]
    assert told["translate_to"] == "zh" and "no JSON array of strings" in told["note"] and told["note"] in err


def test_no_text_and_a_language_that_is_none_are_told(says, photo, capsys):
    says("[]")
    assert run(capsys, "read-text", photo, "--translate-to", "en")[:2] == (0, "looked and saw no text\n")
    engine = says(LINE)
    status, out, err = run(capsys, "read-text", photo, "--translate-to", "Klingon!")
    assert status == 2 and out == "" and "'Klingon!' is no BCP-47 language tag" in err and not engine.prompts
