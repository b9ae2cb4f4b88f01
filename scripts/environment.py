"""The world around the project (Python, ROS, GPU) and the variables of the project's environment in it.

Two worlds: with a ROS 2 distribution sourced, its rclpy, messages, torch and OpenCV are used and only what
it lacks is added; without one, ROS 2 comes from wheels. Knows where things are, not how they get there.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import overlay
from runner import SetupError

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
WS = ROOT / ".ws"

PYTHON_VERSIONS = ((3, 10), (3, 13))
NVIDIA_DRIVERS = ("/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1")


@dataclass(frozen=True)
class World:
    """What the machine offers, as far as it decides what is installed."""

    python: str  # the interpreter that .venv is made from
    ros_distro: str | None  # the sourced distribution
    gpu: bool  # an NVIDIA driver is loaded
    system_torch: str | None  # version of a torch that the interpreter already has
    system_numpy: str | None
    system_opencv: bool
    missing_interfaces: tuple[str, ...]  # overlay packages that the sourced distribution lacks

    @property
    def system_site_packages(self) -> bool:
        return self.ros_distro is not None or self.system_torch is not None


def probe_world() -> World:
    low, high = PYTHON_VERSIONS
    if not low <= sys.version_info[:2] <= high:
        raise SetupError(
            f"Python {platform.python_version()} ({sys.executable}) is outside {low[0]}.{low[1]} to "
            f"{high[0]}.{high[1]}. Name another one: make PYTHON=python3.12 ..."
        )
    if sys.platform != "linux":
        raise SetupError(f"This set-up is for Linux; here sys.platform is {sys.platform!r}.")
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    distro = sourced_distro(python)
    if distro is None and platform.machine() != "x86_64":
        raise SetupError(
            f"ROS 2 wheels exist for x86_64 only, this machine is {platform.machine()}. Install a ROS 2 "
            "distribution (docs.ros.org), then: source /opt/ros/<distribution>/setup.bash"
        )
    outside = subprocess.run(
        [python, "-c", PROBE], capture_output=True, text=True, env=outside_environment(), cwd="/", check=False
    )
    if outside.returncode != 0:
        raise SetupError(f"{python} does not start properly:\n{outside.stderr}Name another one: make PYTHON=...")
    found = json.loads(outside.stdout.splitlines()[-1])
    missing = tuple(
        name for name in overlay.INTERFACES if distro is None or not in_ament_index(name, excluding=(WS, VENV))
    )
    return World(
        python=python,
        ros_distro=distro,
        gpu=any(Path(path).exists() for path in NVIDIA_DRIVERS),
        system_torch=found.get("torch"),
        system_numpy=found.get("numpy"),
        system_opencv=found.get("cv2") is not None,
        missing_interfaces=missing,
    )


# Run by the base interpreter. Versions come from metadata: importing torch takes seconds.
PROBE = """
import importlib.metadata, importlib.util, json
found = {}
for module in ("torch", "numpy", "cv2"):
    if importlib.util.find_spec(module):
        try:
            found[module] = importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            found[module] = "unknown"
print(json.dumps(found))
"""


def sourced_distro(python: str) -> str | None:
    """The name of the sourced ROS 2 distribution, checked to work with `python`; None without one."""
    distro = os.environ.get("ROS_DISTRO")
    if not distro or not os.environ.get("AMENT_PREFIX_PATH"):
        return None
    check = subprocess.run([python, "-c", "import rclpy"], capture_output=True, text=True, cwd="/", check=False)
    if check.returncode != 0:
        reason = check.stderr.strip().splitlines()[-1:] or ["no message"]
        raise SetupError(
            f"ROS {distro} is sourced but {python} cannot import its rclpy ({reason[0]}). Name the "
            "interpreter the distribution was built for (make PYTHON=/usr/bin/python3 ...), or use a shell "
            "without it."
        )
    return distro


def in_ament_index(package: str, excluding: tuple[Path, ...] = ()) -> bool:
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    return any(
        (prefix / "share" / package / "package.xml").is_file()
        for prefix in prefixes
        if not any(prefix.is_relative_to(root) for root in excluding)
    )


def outside_environment() -> dict[str, str]:
    """The caller's variables, less what an entered environment of ours added to them."""
    variables = dict(os.environ)
    ours = (ROOT, VENV, WS)
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "PATH"):
        parts = variables.get(name, "").split(os.pathsep)
        kept = [part for part in parts if part and not any(Path(part).is_relative_to(root) for root in ours)]
        if kept:
            variables[name] = os.pathsep.join(kept)
        else:
            variables.pop(name, None)
    for name in ("VIRTUAL_ENV", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
        variables.pop(name, None)
    return variables


def entered_environment(wheels: bool) -> dict[str, str]:
    variables = outside_environment()
    for name, entries in search_paths(wheels).items():
        variables[name] = os.pathsep.join([*entries, *filter(None, [variables.get(name)])])
    return variables | fixed_variables(wheels)


def search_paths(wheels: bool) -> dict[str, list[str]]:
    """What is put in front of each search path.

    The source tree stands before the install space, so that an edit or a new module counts at once; the
    package's __init__.py extends its path over both, and the generated msg/ and srv/ are found in the latter.
    """
    install = WS / "install"
    paths = {
        "PATH": [str(VENV / "bin")],
        "AMENT_PREFIX_PATH": [str(install)],
        "CMAKE_PREFIX_PATH": [str(install)],
        "LD_LIBRARY_PATH": [str(install / "lib")],
        "PYTHONPATH": [str(ROOT)],
    }
    generated = sorted(install.glob("**/qwen3vl_ros/msg/__init__.py"))
    paths["PYTHONPATH"] += [str(path.parent.parent.parent) for path in generated[:1]]
    if wheels:
        paths["AMENT_PREFIX_PATH"].append(str(VENV))
        paths["CMAKE_PREFIX_PATH"].append(str(VENV))
        paths["LD_LIBRARY_PATH"] += [
            str(VENV / "lib"),
            *sorted(str(path) for path in VENV.glob("lib/python3*/site-packages/ros_*.libs")),
        ]
    return paths


def fixed_variables(wheels: bool) -> dict[str, str]:
    variables = {"VIRTUAL_ENV": str(VENV)}
    if wheels:
        # The wheels restart each Python to set LD_LIBRARY_PATH, unless this says that it is set.
        variables["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    return variables


def write_env_script(wheels: bool) -> None:
    lines = ["# Written by scripts/setup_env.py; source scripts/env.sh instead, which keeps it up to date."]
    for name, entries in search_paths(wheels).items():
        # Already entered: leave the path alone, so that entering twice does not grow it.
        lines += [
            f'case ":${{{name}:-}}:" in *":{entries[0]}:"*) ;; *)',
            f'    export {name}={shlex.quote(os.pathsep.join(entries))}"${{{name}:+:${name}}}" ;;',
            "esac",
        ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in fixed_variables(wheels).items()]
    defaults = {"FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds.xml"), "MUJOCO_GL": "egl"}
    lines += [f'export {name}="${{{name}:-{value}}}"' for name, value in defaults.items()]
    (WS / "env.sh").write_text("\n".join(lines) + "\n")
