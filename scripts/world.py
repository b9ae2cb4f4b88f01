"""The world around the project (Python, ROS, GPU), and how the project's environment is entered in it.

Two worlds: with a ROS 2 distribution sourced, its rclpy, messages, torch and OpenCV are used and only what
it lacks is added; without one, ROS 2 comes from wheels. Knows where things are, not how they get there.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from runner import ROOT, SetupError

VENV, WS = ROOT / ".venv", ROOT / ".ws"
OVERLAY = ROOT / "scripts" / "overlay"  # message packages for a ROS installation without them
PYTHON_VERSIONS = ((3, 10), (3, 14))  # Humble's to Lyrical's
ROS_WHEELS_UP_TO = (3, 13)
NVIDIA_DRIVERS = ("/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1")
SEARCH_PATHS = ("PATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


@dataclass(frozen=True)
class World:
    """What the machine offers, as far as it decides what is installed."""

    python: str  # the interpreter that .venv is made from
    ros_distro: str | None  # the sourced distribution
    gpu: bool  # an NVIDIA driver is loaded
    modules: tuple[str, ...]  # of numpy, torch and cv2: those that the interpreter already has
    missing_interfaces: tuple[str, ...]  # overlay packages that the sourced distribution lacks

    @property
    def system_site_packages(self) -> bool:
        return self.ros_distro is not None or "torch" in self.modules


def look_from_outside() -> None:
    """Starts again outside an entered environment of ours, with the interpreter that it was made from."""
    python, outside = os.path.realpath(getattr(sys, "_base_executable", sys.executable)), outside_environment()
    if sys.prefix != sys.base_prefix or any(outside.get(name) != os.environ.get(name) for name in SEARCH_PATHS):
        os.execve(python, [python, *sys.argv], outside)


def outside_environment() -> dict[str, str]:
    """The caller's variables, less what an entered environment of ours added to them."""
    ours = ("VIRTUAL_ENV", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", *SEARCH_PATHS)
    variables = {name: value for name, value in os.environ.items() if name not in ours}
    for name in SEARCH_PATHS:
        parts = filter(None, os.environ.get(name, "").split(os.pathsep))
        if kept := [p for p in parts if not any(Path(p).is_relative_to(place) for place in (ROOT, VENV, WS))]:
            variables[name] = os.pathsep.join(kept)
    return variables


def probe_world() -> World:
    """What is here, as seen by this interpreter. Raises SetupError where nothing can be set up."""
    python, version = os.path.realpath(sys.executable), platform.python_version()
    if not PYTHON_VERSIONS[0] <= sys.version_info[:2] <= PYTHON_VERSIONS[1]:
        supported = " to ".join(f"{major}.{minor}" for major, minor in PYTHON_VERSIONS)
        raise SetupError(
            f"Python {version} ({python}) is outside {supported}. Name another one: make PYTHON=python3.12"
        )
    distro = sourced_distro(python)
    if distro is None and sys.version_info[:2] > ROS_WHEELS_UP_TO:
        newest = ".".join(map(str, ROS_WHEELS_UP_TO))
        raise SetupError(
            f"ROS 2 wheels exist up to Python {newest}, and this is {version} ({python}). Name another one: make "
            f"PYTHON=python{newest}; or source a ROS 2 distribution of this Python: /opt/ros/lyrical/setup.bash"
        )
    if sys.platform != "linux" or (distro is None and platform.machine() != "x86_64"):
        raise SetupError(
            f"ROS 2 wheels exist for x86_64 Linux only, and this is {platform.machine()}, {sys.platform}. Install a "
            "ROS 2 distribution (docs.ros.org), then: source /opt/ros/<distribution>/setup.bash"
        )
    shares = [Path(prefix, "share") for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if distro]
    overlay = sorted(package.name for package in OVERLAY.iterdir())
    return World(
        python,
        distro,
        any(Path(path).exists() for path in NVIDIA_DRIVERS),
        tuple(name for name in ("numpy", "torch", "cv2") if importlib.util.find_spec(name)),
        tuple(name for name in overlay if not any((share / name / "package.xml").is_file() for share in shares)),
    )


def sourced_distro(python: str) -> str | None:
    """The name of the sourced ROS 2 distribution, checked to work with `python`; None without one."""
    distro = os.environ.get("ROS_DISTRO")
    if not distro or not os.environ.get("AMENT_PREFIX_PATH"):
        return None
    checked = subprocess.run([python, "-c", "import rclpy"], capture_output=True, text=True, cwd="/", check=False)
    if checked.returncode != 0:
        reason = (checked.stderr.strip() or "no message").splitlines()[-1]
        raise SetupError(
            f"ROS {distro} is sourced but {python} cannot import its rclpy ({reason}). Name the interpreter the "
            "distribution was built for (make PYTHON=/usr/bin/python3 ...), or use a shell without it."
        )
    return distro


def write_env_script(wheels: bool) -> None:
    """Writes .ws/env.sh, which puts the environment's places in front of the search paths.

    The source tree stands before the install space, so that an edit or a new module counts at once; the package's
    __init__.py extends its path over both, and the generated msg/ and srv/ are found in the latter.
    """
    install = WS / "install"
    generated = sorted(install.glob("**/qwen3vl_ros/msg/__init__.py"))
    libraries = [VENV / "lib", *sorted(VENV.glob("lib/python3*/site-packages/ros_*.libs"))]
    paths = {
        "PATH": [VENV / "bin", install / "bin"],
        "AMENT_PREFIX_PATH": [install, *[VENV] * wheels],
        "CMAKE_PREFIX_PATH": [install, *[VENV] * wheels],
        "LD_LIBRARY_PATH": [install / "lib", *libraries * wheels],
        "PYTHONPATH": [ROOT, *(path.parents[2] for path in generated[:1])],
    }
    lines = ["# Written by scripts/setup_env.py; source scripts/env.sh instead, which keeps it up to date."]
    for name, places in paths.items():
        # Already entered: leave the path alone, so that entering twice does not grow it.
        text = shlex.quote(os.pathsep.join(map(str, places)))
        lines.append(f'case ":${{{name}:-}}:" in *:{text}:*) ;; *) export {name}={text}"${{{name}:+:${name}}}" ;; esac')
    # The wheels restart each Python to set LD_LIBRARY_PATH, unless the second says that it is set.
    fixed = {"VIRTUAL_ENV": VENV} | ({"_ROS_WHEELS_BOOTSTRAP_COMPLETE": 1} if wheels else {})
    defaults = {"FASTDDS_DEFAULT_PROFILES_FILE": ROOT / "config/fastdds.xml", "MUJOCO_GL": "egl"}
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in fixed.items()]
    lines += [f'export {name}="${{{name}:-{value}}}"' for name, value in defaults.items()]
    (WS / "env.sh").write_text("\n".join(lines) + "\n")
