"""Brings the environment up to date: .venv (Python), .ws (built ROS interfaces), .ws/env.sh (how to enter).

Each step has a digest of what it depends on, the digests of the steps before it included, and leaves a stamp
with that digest when it has succeeded; a step whose stamp is right is skipped, an interrupted one is done
again. Knows nothing of what the package does. Standard library only: nothing is installed when it runs.

EXTRAS in the environment names what more to install, e.g. EXTRAS="reference test": files of requirements/.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import steps
from environment import ROOT, VENV, WS, World, outside_environment, probe_world
from runner import LOGS, SetupError, progress
from steps import REQUIREMENTS, TORCH_VERSION

STAMPS = WS / "stamps"
# Files that are found in the install space: a new one must be linked, an edited one is seen through its link.
INSTALLED_DIRS = ("launch", "config", "model/embedded")


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    action: Callable[[World], None]
    digest: str
    is_done: Callable[[], bool] = field(default=lambda: True)  # a second look, beside the stamp


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def contents(*paths: Path) -> str:
    return digest(*(path.read_bytes() for path in sorted(paths)))


def listing(*directories: str) -> str:
    found = []
    for directory in directories:
        for parent, folders, files in os.walk(ROOT / directory):
            folders[:] = [name for name in folders if name != "__pycache__"]
            found += [os.path.join(parent, name) for name in files]
    return digest(*sorted(found))


# Beside what everything needs. reference: transformers; model: writing model directories (export, training, engines).
EXTRAS = ("reference", "model", "test", "bench")
NEED_TORCH = {"reference", "model"}


def wanted_extras() -> list[str]:
    """The names in $EXTRAS, in the order of EXTRAS. Raises SetupError for one that does not exist."""
    wanted = os.environ.get("EXTRAS", "").replace(",", " ").split()
    unknown = sorted(set(wanted) - set(EXTRAS))
    if unknown:
        raise SetupError(f"EXTRAS names {', '.join(unknown)}; there are: {', '.join(EXTRAS)}.")
    return [name for name in EXTRAS if name in wanted]


def plan(world: World, extras: list[str]) -> list[Step]:
    me = contents(*(ROOT / "scripts").glob("*.py"))
    system = digest("system packages")
    venv = digest(world.python, platform.python_version(), world.system_site_packages, VENV)
    packages = digest(venv, contents(*(REQUIREMENTS / f"{name}.txt" for name in ("runtime", "sim"))))
    torch = digest(packages, TORCH_VERSION, world.gpu, world.system_torch)
    sourced = outside_environment().get("AMENT_PREFIX_PATH") if world.ros_distro else None
    ros = digest(venv, world.ros_distro, sourced, contents(REQUIREMENTS / "ros-wheels.txt"))
    interfaces = digest(
        ros,
        world.missing_interfaces,
        ROOT,
        me,
        contents(ROOT / "package.xml", ROOT / "CMakeLists.txt", *ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")),
        listing(*INSTALLED_DIRS),
    )
    check = digest(packages, ros, contents(ROOT / "package.xml"))
    ros_title = f"build tools for ROS {world.ros_distro}" if world.ros_distro else "ROS 2 wheels"
    torch_title = "PyTorch" + ("" if world.system_torch is None else f" {world.system_torch} (the system's)")
    more = [Step("torch", torch_title, steps.install_torch, torch)] if NEED_TORCH & set(extras) else []
    more += [
        Step(
            f"extra_{name}",
            f"extra packages: {name}",
            steps.install_extra(name),
            digest(torch, contents(REQUIREMENTS / f"{name}.txt")),
        )
        for name in extras
    ]
    return [
        Step(
            "system",
            "system packages",
            steps.install_system_packages,
            system,
            lambda: not steps.missing_system_packages(),
        ),
        Step("venv", "virtual environment", steps.make_venv, venv, (VENV / "bin/python").exists),
        Step("packages", "Python packages", steps.install_python_packages, packages),
        Step("ros", ros_title, steps.install_ros, ros),
        Step(
            "interfaces",
            "ROS interfaces (colcon build)",
            steps.build_interfaces,
            interfaces,
            lambda: (WS / "env.sh").is_file() and (WS / "install/share/qwen3vl_ros/package.xml").is_file(),
        ),
        Step("check", "loading everything once", steps.check_environment, check),
        *more,
    ]


def main() -> int:
    try:
        WS.mkdir(exist_ok=True)
        with (WS / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("Another set-up of this checkout is running; waiting for it.", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            bring_up_to_date()
    except SetupError as error:
        print(f"\n\nSet-up stopped. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up interrupted; the next make goes on from the step it was in.", file=sys.stderr)
        return 130
    return 0


def bring_up_to_date() -> None:
    world = probe_world()
    due: list[Step] = []
    for step in plan(world, wanted_extras()):
        emptied = any(earlier.name == "venv" for earlier in due)  # a new .venv has nothing in it
        if emptied or stamp_of(step) != step.digest or not step.is_done():
            due.append(step)
    if not due:
        return
    start_s = time.monotonic()
    if STAMPS.joinpath("venv").is_file() and due[0].name == "venv":
        print("The environment here was made with another Python or ROS than this shell's; making it anew.")
    source = f"ROS {world.ros_distro}" if world.ros_distro else "ROS 2 from wheels"
    print(f"Setting up: {world.python} ({platform.python_version()}), {source}, logs in {LOGS}", flush=True)
    progress.total = len(due)
    STAMPS.mkdir(parents=True, exist_ok=True)
    for step in due:
        stale = [STAMPS / step.name]
        if step.name == "venv":  # a new one has none of the extras either, those not asked for today included
            stale = [stamp for stamp in STAMPS.iterdir() if stamp.name != "system"]
        for stamp in stale:
            stamp.unlink(missing_ok=True)
        progress.start(step.title)
        step.action(world)
        STAMPS.joinpath(step.name).write_text(step.digest)
        progress.done()
    print(f"Set-up done in {time.monotonic() - start_s:.0f} s.", flush=True)


def stamp_of(step: Step) -> str | None:
    path = STAMPS / step.name
    return path.read_text() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
