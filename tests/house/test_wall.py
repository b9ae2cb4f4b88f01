"""The wall between the core and ROS, and that imports run in one direction (docs/architecture.md).

ROS's libraries are for node/ alone. A front end, demo/ or web/, reaches ROS through node/client.py, and takes what it hears as
messages, which are data; the core knows neither.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "qwen3vl_ros"

# Part of the package -> the parts it may import. The shells on top may import everything below them.
ALLOWED = {
    "types": set(),
    "boxes": set(),
    "control": set(),
    "resources": {"types"},
    "domain": {"types"},
    "config": {"types"},
    "codec": {"config", "resources", "types"},
    "calibration": {"types"},
    "files": {"calibration", "codec", "types"},
    "convert": {"codec", "resources", "types"},
    "questions": {"boxes", "config", "types"},
    "engine": {"config", "control", "threads", "types"},
    "geometry": {"boxes", "config", "types"},
    "grasping": {"config", "geometry", "types"},
    "tracking": {"boxes", "config", "geometry", "types"},
    "zoom": {"types"},
    "pipeline": {
        "config",
        "control",
        "engine",
        "geometry",
        "grasping",
        "questions",
        "threads",
        "tracking",
        "types",
        "zoom",
    },
    "text": {"control", "pipeline", "questions", "types", "zoom"},
    "asking": {"boxes", "control", "engine", "geometry", "pipeline", "questions", "types", "zoom"},
    "instructions": {"asking", "control", "engine", "geometry", "grasping", "pipeline", "questions", "types"},
    "server_check": {"boxes", "questions", "types"},
    "loading": {"config", "control", "engine", "server_check", "types"},
    "inspection": {"config", "files", "geometry", "pipeline", "questions", "tracking", "types", "zoom"},
    "draw": {"config", "geometry", "grasping", "types"},
    "sim": {"calibration", "codec", "config", "convert", "files", "geometry", "types"},
    "rehearsal": {"asking", "control", "instructions", "sim", "types"},
    "export": {"engine", "files", "types"},
    "doctor": {"config", "control", "engine", "loading", "pipeline", "questions", "threads", "types"},
    "selftest": {"boxes", "types", "control", "config", "files", "questions", "engine", "loading", "pipeline", "sim"},
    "cli": {
        "asking",
        "config",
        "doctor",
        "draw",
        "engine",
        "export",
        "files",
        "geometry",
        "inspection",
        "loading",
        "pipeline",
        "questions",
        "resources",
        "selftest",
        "sim",
        "text",
        "types",
        "zoom",
    },
    "threads": set(),
}
FRONT_ENDS = {"demo", "tools", "web"}
# What the command line knows of a front end: its arguments. They load the rest when they are run.
COMMANDS_OF_FRONT_ENDS = {"qwen3vl_ros.tools", "qwen3vl_ros.tools.commands"}
SHELLS = {"node", *FRONT_ENDS}
# Reads messages by their fields alone, since bags hold the same ones; asks for cv_bridge when an encoding needs it.
ONLY_CV_BRIDGE = "convert"
ROS = (
    "rclpy",
    "tf2_ros",
    "tf2_py",
    "cv_bridge",
    "tensorrt",
    "message_filters",
    "launch",
    "launch_ros",
    "ament_index_python",
    "rosidl_runtime_py",
    "builtin_interfaces",
    "image_transport_py",
)


def is_message(module: str) -> bool:
    interfaces = ("qwen3vl_ros.msg", "qwen3vl_ros.srv", "qwen3vl_ros.action")
    return module.split(".")[0].endswith(("_msgs", "_srvs")) or module in interfaces


def is_ros(module: str) -> bool:
    return module.split(".")[0] in ROS or is_message(module)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of all modules a file imports, inside functions too; `from a import b` counts as a and a.b."""
    package = ["qwen3vl_ros", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_in_one_direction(path):
    part = part_of(path)
    assert part in ALLOWED or part in SHELLS, f"say in ALLOWED what the new part {part!r} may import"
    imported = imports(path)
    if part == "cli":
        imported -= COMMANDS_OF_FRONT_ENDS
    ours = {m.split(".")[1] for m in imported if m.startswith("qwen3vl_ros.")}
    if part not in SHELLS:
        assert ours <= ALLOWED[part] | {part}
    if part not in SHELLS:
        known = {m for m in imported if is_ros(m) and not (part == ONLY_CV_BRIDGE and m.startswith("cv_bridge"))}
        assert not known, "only node/ and the front ends may know ROS"
        assert not ours & SHELLS
    if part == "node":
        assert not ours & FRONT_ENDS, "what is driven does not know who drives it"


@pytest.mark.parametrize(
    "path", [p for p in FILES if part_of(p) in FRONT_ENDS], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_front_end_reaches_ros_through_the_client_alone(path):
    imported = imports(path)
    assert not {m for m in imported if is_ros(m) and not is_message(m)}
    client = "qwen3vl_ros.node.client"
    assert not {m for m in imported if m.startswith("qwen3vl_ros.node.") and m.partition(client)[1] != client}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_geometry_knows_no_torch_and_nothing_imports_the_tooling(path):
    tops = {m.split(".")[0] for m in imports(path)}
    if part_of(path) not in ("engine", "export"):
        assert not tops & {"torch", "transformers", "onnxruntime", "llguidance"}
    if part_of(path) != "web":
        assert not tops & {"viser", "websockets"}, "the page is web/'s alone"
    if part_of(path) != "export":
        assert not tops & {"onnx", "ml_dtypes"}, "models are written by export/ alone"
    assert not tops & {p.stem for p in (ROOT / "model").glob("*.py")}, "model/ imports the package, never the reverse"


def test_the_rules_find_what_they_look_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "engine").mkdir()
    sample = tmp_path / "engine" / "sample.py"
    sample.write_text(
        "def f():\n    from ..geometry import lift\n    import std_msgs.msg\n    from . import base\n"
        "    from qwen3vl_ros.msg import Generation\n    from rclpy.node import Node\n"
    )
    assert {"qwen3vl_ros.geometry", "qwen3vl_ros.geometry.lift", "qwen3vl_ros.engine.base"} <= imports(sample)
    assert {m for m in imports(sample) if is_ros(m)} >= {"std_msgs.msg", "qwen3vl_ros.msg", "rclpy.node"}


RUN_BEHIND_THE_WALL = '''
import importlib, pkgutil, sys
from pathlib import Path

class Wall:
    """Refuses every message package, installed or not."""
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].endswith("_msgs") or name in ("qwen3vl_ros.msg", "qwen3vl_ros.srv", "qwen3vl_ros.action"):
            raise ImportError("the core asked for " + name)

sys.meta_path.insert(0, Wall())
sys.modules.update(dict.fromkeys(%(ros)r))  # None: as if not installed, also for those who only look (torch does)
sys.path[:0] = [%(root)r, %(tests)r]
for name in ("rclpy", "tf2_ros", "sensor_msgs.msg"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    sys.exit("the wall has a hole: " + name)

import qwen3vl_ros
shells = ("qwen3vl_ros.node", "qwen3vl_ros.demo", "qwen3vl_ros.tools", "qwen3vl_ros.web")
walked = [m.name for m in pkgutil.walk_packages(qwen3vl_ros.__path__, "qwen3vl_ros.", onerror=lambda name: None)
          if not m.name.startswith(shells) and m.name not in ("qwen3vl_ros.msg", "qwen3vl_ros.srv", "qwen3vl_ros.action")]
import importlib.util
for name in walked:
    if name != "qwen3vl_ros.engine.torch.fused" or importlib.util.find_spec("triton"):  # which comes with torch for CUDA
        importlib.import_module(name)

import numpy as np
from tiny import tiny_checkpoint
from qwen3vl_ros.config import from_flat
from qwen3vl_ros.draw import draw_scene
from qwen3vl_ros.engine import load_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import Frame, Generation, MalformedAnswer

config = from_flat({"model": str(tiny_checkpoint(Path(sys.argv[1]))), "generation.max_new_tokens": 20})
engine = load_engine(config)
rgb = np.zeros((120, 160, 3), np.uint8)
try:
    Perception(engine, config).look(Frame(1, "camera", rgb), Detect(("cube",)))
except MalformedAnswer:
    pass  # random weights say nothing that can be read

class Told:
    info = engine.info
    def generate(self, prompt, limits, control=None, on_text=None):
        text = '[{"bbox_2d": [250, 250, 750, 750], "label": "cube"}]'
        return Generation(text, (1,), np.zeros(1, np.float32), (len(text),), "stop")

depth = np.full((120, 160), 1.0, np.float32)
depth[30:90, 40:120] = 0.8
frame = Frame(1, "camera", rgb, depth, np.array([[150.0, 0, 79.5], [0, 150, 59.5], [0, 0, 1]]))
scene = Perception(Told(), config).look(frame, Detect(("cube",)))
assert draw_scene(frame, scene).any()
loaded = sorted(m for m, module in sys.modules.items() if module and (m.split(".")[0] in %(ros)r or m.split(".")[0].endswith("_msgs")))
print(len(walked), len(scene.detections_2d), len(scene.detections_3d) + len(scene.refusals), loaded)
'''


def test_the_core_runs_where_no_ros_can_be_imported(tmp_path):
    script = RUN_BEHIND_THE_WALL % {"ros": ROS, "root": str(ROOT), "tests": str(ROOT / "tests" / "helpers")}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    modules, boxes, solids, loaded = done.stdout.splitlines()[-1].split(" ", 3)
    assert int(modules) >= 20 and (boxes, solids, loaded) == ("1", "1", "[]")
