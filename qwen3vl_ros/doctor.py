"""`qwen3vl doctor`: what is installed, which device and model would run, what is missing and the command that gets it.

Looks for ROS without importing it. The one check that counts loads the model and answers a picture with it.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import platform
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import Iterator

from qwen3vl_ros import threads
from qwen3vl_ros.config import Config
from qwen3vl_ros.types import EngineError, InvalidInput, PerceptionError

# module, distribution, what it is for
_REQUIRED = (
    ("numpy", "numpy", "arrays"),
    ("cv2", "opencv-python-headless", "images"),
    ("yaml", "pyyaml", "calibrations"),
    ("jinja2", "jinja2", "chat templates"),
    ("tokenizers", "tokenizers", "tokens"),
    ("safetensors", "safetensors", "weights"),
    ("huggingface_hub", "huggingface_hub", "models by hub id"),
)
_OPTIONAL = (
    ("threadpoolctl", "threadpoolctl", "threads of NumPy's BLAS: a busy machine slows answers less"),
    ("llguidance", "llguidance", "answers held to a schema: generation.guided"),
    ("httpx", "httpx", "servers: engine remote"),
    ("mujoco", "mujoco", "the simulated camera"),
    ("rosbags", "rosbags", "replaying bags"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: "ok", "missing" (nothing runs without it) or "note"."""

    state: str
    what: str
    detail: str
    way_out: str = ""


def report(config: Config, quick: bool = False) -> int:
    """Print the report; 0 if the detection path with `config`'s model runs on this machine, else 1."""
    missing = 0
    for finding in examine(config, quick):
        missing += finding.state == "missing"
        print(f"{finding.state:<8}{finding.what:<18}{finding.detail}", flush=True)
        if finding.way_out:
            print(f"{'':<26}-> {finding.way_out}", flush=True)
    from qwen3vl_ros.engine.checkpoint import shortened

    name = f"the model at {config.remote.url}" if _served(config) else shortened(config.model) or "the embedded model"
    verdict = "cannot run" if missing else "would run" if quick else "runs"
    print(f"\n{name} {verdict} on this machine" + ": see above" * bool(missing))
    return 1 if missing else 0


def examine(config: Config, quick: bool = False) -> Iterator[Finding]:
    """Every check, cheap ones first; the later ones only where the earlier left something to check."""
    yield _python()
    packages = [_package(*p, "missing") for p in _REQUIRED]
    yield from packages
    yield from (_package(*p, "note") for p in _OPTIONAL)
    yield from _ros()
    if importlib.util.find_spec("mujoco"):
        yield _egl()
    if any(p.state == "missing" for p in packages):
        yield Finding("note", "model, runtimes", "not looked at: packages are missing")
        return
    yield Finding("ok", "threads", threads.settle())
    findings = list(_model_and_runtimes(config, quick))
    yield from findings
    if not quick and all(f.state != "missing" for f in findings):
        yield from _run(config)


def _python() -> Finding:
    good = (3, 10) <= sys.version_info[:2] <= (3, 14)
    return Finding(
        "ok" if good else "note",
        "python",
        f"{platform.python_version()} ({sys.executable})",
        "" if good else "3.10 to 3.14 are supported",
    )


def _package(module: str, distribution: str, purpose: str, if_absent: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(
            if_absent, module, f"not installed ({purpose})", f"{sys.executable} -m pip install {distribution}"
        )
    return Finding("ok", module, _version(module))


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _version(module: str) -> str:
    names = _distributions().get(module) or [module]
    try:
        return metadata.version(names[0])
    except metadata.PackageNotFoundError:
        return "installed, version unknown"


def _ros() -> Iterator[Finding]:
    """What the node would need; none of it is needed without ROS, so none of it can be missing."""
    distribution = os.environ.get("ROS_DISTRO", "")
    if importlib.util.find_spec("rclpy") is None:
        yield Finding(
            "note",
            "ros",
            "none; only the node needs it",
            "source /opt/ros/DISTRO/setup.bash, or in the source tree: source scripts/env.sh",
        )
        return
    wheels = [n for n in ("ros-rclpy", "ros-jazzy-rclpy") if _has_distribution(n)]
    yield Finding(
        "ok",
        "ros",
        f"Python wheels ({wheels[0]} {metadata.version(wheels[0])})"
        if wheels
        else f"distribution {distribution or 'unnamed'}",
    )
    for module, purpose in (
        ("vision_msgs", "detections"),
        ("qwen3vl_ros.msg", "our interfaces"),
        ("tf2_ros", "target_frame on moving robots"),
    ):
        found = importlib.util.find_spec(module) is not None
        way_out = {
            "tf2_ros": "the static tree of /tf_static still works; for moving frames use a ROS distribution",
        }.get(module, "colcon build and source install/setup.bash, or: source scripts/env.sh")
        yield Finding(
            "ok" if found else "note", module, "found" if found else f"not built ({purpose})", "" if found else way_out
        )


def _has_distribution(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _egl() -> Finding:
    found = ctypes.util.find_library("EGL")
    return Finding(
        "ok" if found else "note",
        "EGL",
        found or "no libEGL, so the simulated camera cannot draw",
        "" if found else "sudo apt-get install libegl1 libopengl0 libgl1-mesa-dri",
    )


def _served(config: Config) -> bool:
    return config.engine == "remote" or (config.engine == "auto" and bool(config.remote.url))


def _model_and_runtimes(config: Config, quick: bool) -> Iterator[Finding]:
    """The model, and each runtime there is for it in the order in which `auto` tries them."""
    from qwen3vl_ros.engine import find_checkpoint, survey
    from qwen3vl_ros.engine.checkpoint import shortened
    from qwen3vl_ros.engine.choice import refusal_of
    from qwen3vl_ros.engine.network.graph import changed_weights
    from qwen3vl_ros.engine.network.sizes import METHOD
    from qwen3vl_ros.engine.remote.access import base_url

    if _served(config):
        try:
            yield Finding("ok", "model", f"the one served at {base_url(config.remote.url)}")
        except InvalidInput as error:
            yield Finding("missing", "model", "a server's", str(error))
        return
    if refused := refusal_of(config.device):
        yield Finding("missing", "device", config.device, refused)
    try:
        checkpoint = find_checkpoint(config.model)
        options = survey(checkpoint, config.device)
    except EngineError as error:
        yield Finding("missing", "model", shortened(config.model) or "embedded", str(error))
        return
    held = (
        f"{checkpoint.parameters / 1e6:.1f} M weights" if checkpoint.weight_files else "engines of TensorRT, no weights"
    )
    kind = f" ({checkpoint.weight_kind})" * bool(checkpoint.quantization)
    yield Finding("ok", "model", f"{checkpoint.path}: {checkpoint.architecture}, {held}{kind}")
    # Plain weights may be replaced by others, weights in few bits are written with their graphs.
    if checkpoint.quantization == METHOD and not quick and (changed := changed_weights(checkpoint.path)):
        why = f"{', '.join(changed)}: not what was written there, so answers would be wrong"
        again = (
            f"copy the directory again, or export the original model again with --precision {checkpoint.weight_kind}"
        )
        yield Finding("missing", "weights", why, again)
    for option in options:
        wanted = config.engine in ("auto", option.name)
        useless = config.engine == option.name or not any(not o.missing for o in options)
        state = "ok" if not option.missing else "missing" if useless else "note"
        yield Finding(
            state, option.name, option.missing or ("can be tried" if wanted else "can be tried, not asked for")
        )


def _run(config: Config) -> Iterator[Finding]:
    import numpy as np

    from qwen3vl_ros.control import Control
    from qwen3vl_ros.loading import load_tested_engine
    from qwen3vl_ros.pipeline import Perception
    from qwen3vl_ros.questions import Detect
    from qwen3vl_ros.types import Frame, MalformedAnswer

    try:
        started = time.perf_counter()
        engine = load_tested_engine(replace(config, generation=replace(config.generation, max_new_tokens=64)))
        i, loaded_s = engine.info, time.perf_counter() - started
        loaded = f"{i.runtime}, {i.device}, {i.dtype}; loaded in {loaded_s:.1f} s"
        try:
            if i.runtime == "remote":
                yield _tested(engine.status()["self_test"])
            grey = Frame(0, "camera", np.full((480, 640, 3), 128, np.uint8))
            # A server that keeps the line and says nothing must not keep us; a model of ours may be slow and is not stuck.
            control = Control(config.remote.start_timeout) if _served(config) else None
            scene = Perception(engine, config).look(grey, Detect(("cube",)), control)
            said, g = f"{len(scene.detections_2d)} detections on a grey picture", scene.generation
            detail = f"answered in {g.total_s:.2f} s ({g.generated_tokens} tokens): {said}"
        except MalformedAnswer as error:
            detail = f"its answer to a grey picture could not be read: {error.text[:60]!r}"
        finally:
            engine.close()
    except PerceptionError as error:
        yield Finding("missing", "run", "the model does not run", str(error))
        return
    yield Finding("ok", "run", f"{loaded}, {detail}; {engine.info.why}")


def _tested(result: str) -> Finding:
    """What the server's self-test found: where it says that a drawn rectangle is."""
    if result == "off":
        return Finding("note", "self-test", "off", "its coordinates are unproven; set remote.self_test to true")
    return Finding("ok" if result.startswith("passed") else "note", "self-test", result)
