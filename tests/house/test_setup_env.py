"""The set-up script: steps are skipped, redone and resumed as they should, and a failure says what to do."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """The modules in scripts/, working below tmp_path."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    modules = {
        name: importlib.import_module(name) for name in ("runner", "overlay", "environment", "steps", "setup_env")
    }
    folders = {"VENV": ".venv", "WS": ".ws", "STAMPS": ".ws/stamps", "LOGS": ".ws/setup_logs"}
    for module in modules.values():
        for name in folders.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, tmp_path / folders[name])
    yield SimpleNamespace(**modules)
    for name in modules:
        del sys.modules[name]


@pytest.fixture
def world(scripts):
    return scripts.environment.World(
        python=sys.executable,
        ros_distro=None,
        gpu=False,
        system_torch=None,
        system_numpy=None,
        system_opencv=False,
        missing_interfaces=("vision_msgs", "tf2_msgs"),
    )


@pytest.fixture
def bring_up(scripts, world, monkeypatch):
    """run(digests, failing=...) -> the names of the steps that were done."""
    monkeypatch.setattr(scripts.setup_env, "probe_world", lambda: world)
    monkeypatch.delenv("EXTRAS", raising=False)  # make test sets it

    def run(failing: str | None = None, **digests: str) -> list[str]:
        done = []

        def step(name):
            def action(_):
                done.append(name)
                if name == failing:
                    raise scripts.runner.SetupError("broken")

            return scripts.setup_env.Step(name, name, action, digests.get(name, "same"))

        monkeypatch.setattr(
            scripts.setup_env,
            "plan",
            lambda _, extras: [step(n) for n in ("system", "venv", "packages", "interfaces", *extras)],
        )
        try:
            scripts.setup_env.bring_up_to_date()
        except scripts.runner.SetupError:
            assert failing
        return done

    return run


def test_everything_is_done_once(bring_up):
    assert bring_up() == ["system", "venv", "packages", "interfaces"]
    assert bring_up() == []


def test_a_failed_step_is_done_again_and_the_ones_before_it_are_not(bring_up):
    assert bring_up(failing="packages") == ["system", "venv", "packages"]
    assert bring_up() == ["packages", "interfaces"]


def test_only_what_changed_is_done_again(bring_up):
    bring_up()
    assert bring_up(packages="edited") == ["packages"]
    assert bring_up(packages="edited") == []


def test_a_new_venv_is_filled_again(bring_up):
    bring_up()
    assert bring_up(venv="another python") == ["venv", "packages", "interfaces"]


def test_extras_are_added_and_a_new_venv_forgets_them(bring_up, monkeypatch):
    bring_up()
    monkeypatch.setenv("EXTRAS", "test reference")
    assert bring_up() == ["reference", "test"]
    monkeypatch.delenv("EXTRAS")
    assert bring_up(venv="another python") == ["venv", "packages", "interfaces"]
    monkeypatch.setenv("EXTRAS", "test,reference")
    assert bring_up(venv="another python") == ["reference", "test"]


def test_an_unknown_extra_is_refused_by_name(scripts, monkeypatch):
    monkeypatch.setenv("EXTRAS", "reference gpu")
    with pytest.raises(scripts.runner.SetupError, match="EXTRAS names gpu; there are: reference, model, test, bench"):
        scripts.setup_env.wanted_extras()


def test_the_demo_needs_no_torch_and_the_reference_does(scripts, world):
    names = [step.name for step in scripts.setup_env.plan(world, [])]
    assert names == ["system", "venv", "packages", "ros", "interfaces", "check"]
    assert [step.name for step in scripts.setup_env.plan(world, ["test"])][6:] == ["extra_test"]
    assert [step.name for step in scripts.setup_env.plan(world, ["model"])][6:] == ["torch", "extra_model"]


def test_a_step_that_was_right_but_broke_on_its_way_to_something_new_is_not_taken_for_done(bring_up):
    bring_up()
    bring_up(failing="interfaces", interfaces="edited")
    assert bring_up() == ["interfaces"]


def test_failure_shows_the_end_of_the_log_and_the_way_out(scripts):
    command = [
        sys.executable,
        "-c",
        "print('\\n'.join(map(str, range(100)))); print('the reason'); raise SystemExit(3)",
    ]
    with pytest.raises(scripts.runner.SetupError) as error:
        scripts.runner.run(command, "step", "do this.")
    message = str(error.value)
    assert "status 3" in message and "the reason" in message and "do this." in message
    assert str(scripts.runner.LOGS / "step.log") in message
    assert "\n10\n" not in message, "only the end"


def test_without_root_the_command_to_type_is_shown(scripts, world, monkeypatch):
    monkeypatch.setattr(scripts.steps, "missing_system_packages", lambda: ["libegl1", "cmake"])
    monkeypatch.setattr(scripts.steps.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        scripts.runner.SetupError, match="sudo apt-get install -y --no-install-recommends libegl1 cmake"
    ):
        scripts.steps.install_system_packages(world)


def test_a_distribution_that_lies_about_its_python_is_refused(scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "rclpy.py").write_text("raise ImportError('made for another Python')")
    with pytest.raises(scripts.runner.SetupError, match="made for another Python.*PYTHON=/usr/bin/python3"):
        scripts.environment.sourced_distro(sys.executable)


def test_the_distributions_numpy_and_torch_stay(scripts, world):
    scripts.environment.WS.mkdir()
    assert scripts.steps.constraint_arguments(world) == []
    there = scripts.environment.World(
        **{**vars(world), "ros_distro": "jazzy", "system_numpy": "1.26.4", "system_torch": "unknown"}
    )
    option, path = scripts.steps.constraint_arguments(there)
    assert option == "-c" and Path(path).read_text() == "numpy==1.26.4\n"


def test_an_entered_environment_is_not_seen_from_outside(scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}/.ws/install:{tmp_path}/.venv")
    monkeypatch.setenv("PYTHONPATH", f"{scripts.environment.ROOT}:/elsewhere")
    monkeypatch.setenv("VIRTUAL_ENV", f"{tmp_path}/.venv")
    outside = scripts.environment.outside_environment()
    assert "AMENT_PREFIX_PATH" not in outside and "VIRTUAL_ENV" not in outside
    assert outside["PYTHONPATH"] == "/elsewhere"


def test_cmake_paths_of_the_wheels_are_patched_once(scripts, monkeypatch):
    (scripts.environment.VENV / "bin").mkdir(parents=True)
    (scripts.environment.VENV / "bin" / "python").symlink_to(sys.executable)
    cmake = scripts.environment.VENV / "share" / "a" / "cmake" / "a.cmake"
    cmake.parent.mkdir(parents=True)
    cmake.write_text(
        'set(i "/opt/python/cp311-cp311/include/python3.11;/opt/python/cp313-cp313/lib/python3.13/site-packages/numpy")'
    )
    scripts.steps.patch_cmake_paths()
    first = cmake.read_text()
    scripts.steps.patch_cmake_paths()
    assert cmake.read_text() == first
    assert "/opt/python/cp3" not in first and sysconfig.get_path("include") in first


def test_env_script_can_be_sourced_twice_and_keeps_what_the_user_set(scripts):
    scripts.environment.WS.mkdir()
    scripts.environment.write_env_script(wheels=True)
    script = scripts.environment.WS / "env.sh"
    command = f'set -eu; . "{script}"; first=$PATH; . "{script}"; test "$first" = "$PATH"; echo "$MUJOCO_GL $PATH"'
    result = subprocess.run(
        ["bash", "-c", command],
        env={"PATH": "/usr/bin:/bin", "MUJOCO_GL": "osmesa"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == f"osmesa {scripts.environment.VENV}/bin:/usr/bin:/bin"


def test_overlay_sources_are_written_once(scripts, tmp_path):
    package = scripts.overlay.write_package("vision_msgs", tmp_path)
    assert "vision_msgs/Pose2D center" in (package / "msg/BoundingBox2D.msg").read_text()
    assert "DEPENDENCIES geometry_msgs std_msgs\n" in (package / "CMakeLists.txt").read_text()
    times = {path: path.stat().st_mtime_ns for path in package.rglob("*.*")}
    scripts.overlay.write_package("vision_msgs", tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in package.rglob("*.*")}
