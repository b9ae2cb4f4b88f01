"""Brings the environment up to date: .venv (Python), .ws (built ROS interfaces), .ws/env.sh (how to enter).

Each step leaves a stamp with the digest of what it depends on, earlier steps included; one whose stamp is right is
skipped, an interrupted one is done again. Standard library only: nothing is installed when it runs.
EXTRAS in the environment names what more to install, e.g. EXTRAS="reference test": extras of pyproject.toml.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import steps
from runner import LOGS, SetupError
from world import ROOT, VENV, WS, World, look_from_outside, probe_world

STAMPS = VENV / "stamps"  # a new .venv has none
# reference: transformers; model: writing model directories (export, training, engines); arm: the simulated one; mcp: its SDK; web: the page.
EXTRAS = ("reference", "model", "arm", "mcp", "web", "test", "bench")


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    digest: str
    action: Callable[[], None]
    is_there: Callable[[], bool] = lambda: True  # a second look, beside the stamp

    def is_due(self) -> bool:
        stamp = STAMPS / self.name
        return not (stamp.is_file() and stamp.read_text() == self.digest and self.is_there())

    def perform(self) -> None:
        start_s = time.monotonic()
        (STAMPS / self.name).unlink(missing_ok=True)
        print(self.title, flush=True)
        self.action()
        STAMPS.mkdir(exist_ok=True)
        (STAMPS / self.name).write_text(self.digest)
        print(f"        done in {time.monotonic() - start_s:.0f} s", flush=True)


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def files(*patterns: str) -> list[Path]:
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.suffix != ".pyc")  # those come and go as Python runs


def contents(*patterns: str) -> list[str]:
    return [path.read_text() for path in files(*patterns)]


def wanted_extras() -> list[str]:
    """The names in $EXTRAS, in the order of EXTRAS. Raises SetupError for one that does not exist."""
    wanted = os.environ.get("EXTRAS", "").replace(",", " ").split()
    if unknown := sorted(set(wanted) - set(EXTRAS)):
        raise SetupError(f"EXTRAS names {', '.join(unknown)}; there are: {', '.join(EXTRAS)}.")
    return [name for name in EXTRAS if name in wanted]


def plan(world: World, extras: list[str]) -> list[Step]:
    """The steps in this world, in order, each with what it depends on."""
    venv = digest(world.python, platform.python_version(), world.system_site_packages, VENV)
    (declared,) = contents("pyproject.toml" if world.system_site_packages else "requirements/lock.txt")
    packages = digest(venv, declared, world.ros_distro)
    extra = digest(packages, world.gpu)
    wheels = [line for line in declared.splitlines() if line.lstrip(' "').startswith("ros-")]
    ros = digest(venv, world.ros_distro or wheels, os.environ.get("AMENT_PREFIX_PATH") if world.ros_distro else "")
    built = contents("package.xml", "CMakeLists.txt", "msg/*", "srv/*", "action/*", "scripts/**/*.*")
    linked = files("launch/*.py", "config/*", "model/embedded/*")  # an edited one is seen through its link
    interfaces = digest(ros, world.missing_interfaces, *built, *linked)
    group = () if world.ros_distro else ("--group", "ros")
    install = partial(steps.install_packages, world, "packages", "--extra", "sim", *group)
    build = partial(steps.build_interfaces, world, ros)
    slow = "ROS interfaces: they are compiled, which takes a minute or two"
    return [
        Step("venv", "virtual environment", venv, partial(steps.make_venv, world), (VENV / "bin/uv").exists),
        Step("packages", "Python packages" + " and ROS 2" * bool(group), packages, install),
        Step("interfaces", slow, interfaces, build, (WS / "install/bin/qwen3vl").exists),
        *(Step(f"extra_{n}", f"extra packages: {n}", extra, partial(steps.install_extra, world, n)) for n in extras),
        *(
            Step("browser", "a browser, for the tests of the page", venv, steps.install_browser)
            for n in extras
            if n == "test"
        ),
    ]


def bring_up_to_date(world: World, planned: list[Step]) -> None:
    start_s = time.monotonic()
    source = f"ROS {world.ros_distro}" if world.ros_distro else "ROS 2 from wheels"
    print(f"Setting up: {world.python} ({platform.python_version()}), {source}, logs in {LOGS}", flush=True)
    for step in planned:
        if step.is_due():
            step.perform()
    print(f"Set-up done in {time.monotonic() - start_s:.0f} s.", flush=True)


def main() -> int:
    look_from_outside()
    try:
        world, extras = probe_world(), wanted_extras()
        planned = plan(world, extras)
        steps.install_system_packages(extras)
        if not any(step.is_due() for step in planned):
            return 0
        WS.mkdir(exist_ok=True)
        with (WS / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("Another set-up of this checkout is running; waiting for it.", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if any(step.is_due() for step in planned):
                bring_up_to_date(world, planned)
    except (SetupError, OSError) as error:
        where = f" It writes about 2 GB into {ROOT}; use a copy where that works." * isinstance(error, OSError)
        print(f"\nSet-up stopped. {error}{where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up interrupted; the next make goes on from the step it was in.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
