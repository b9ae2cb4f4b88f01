"""The set-up script: steps are skipped, redone and resumed as they should, and a failure says what to do."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """The modules in scripts/, working below tmp_path."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    modules = {name: importlib.import_module(name) for name in ("runner", "world", "steps", "setup_env")}
    folders = {"VENV": ".venv", "WS": ".ws", "STAMPS": ".venv/stamps", "LOGS": ".ws/setup_logs"}
    for module in modules.values():
        for name in folders.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, tmp_path / folders[name])
    yield SimpleNamespace(**modules)
    for name in modules:
        del sys.modules[name]


@pytest.fixture
def world(scripts):
    return scripts.world.World(
        python=sys.executable,
        ros_distro=None,
        gpu=False,
        modules=(),
        missing_interfaces=("tf2_msgs", "vision_msgs"),
    )


@pytest.fixture
def bring_up(scripts, world, monkeypatch):
    """run(digests, failing=...) -> the names of the steps that were done."""
    monkeypatch.delenv("EXTRAS", raising=False)  # make test sets it

    def run(failing: str | None = None, **digests: str) -> list[str]:
        done = []

        def step(name):
            def action():
                done.append(name)
                if name == "venv":
                    shutil.rmtree(scripts.world.VENV, ignore_errors=True)
                    scripts.world.VENV.mkdir()
                if name == failing:
                    raise scripts.runner.SetupError("broken")

            return scripts.setup_env.Step(name, name, digests.get(name, "same"), action)

        names = ("venv", "packages", "interfaces")
        try:
            scripts.setup_env.bring_up_to_date(world, [step(n) for n in (*names, *scripts.setup_env.wanted_extras())])
        except scripts.runner.SetupError:
            assert failing
        return done

    return run


def test_everything_is_done_once(bring_up):
    assert bring_up() == ["venv", "packages", "interfaces"]
    assert bring_up() == []


def test_a_failed_step_is_done_again_and_the_ones_before_it_are_not(bring_up):
    assert bring_up(failing="packages") == ["venv", "packages"]
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
    with pytest.raises(
        scripts.runner.SetupError, match="EXTRAS names gpu; there are: reference, model, arm, mcp, web, test, bench"
    ):
        scripts.setup_env.wanted_extras()


def test_the_demo_needs_no_torch_and_the_reference_does(scripts, world):
    names = [step.name for step in scripts.setup_env.plan(world, [])]
    assert names == ["venv", "packages", "interfaces"]
    assert [step.name for step in scripts.setup_env.plan(world, ["test"])][3:] == ["extra_test", "browser"]
    assert [step.name for step in scripts.setup_env.plan(world, ["model"])][3:] == ["extra_model"]


def test_torch_comes_with_the_extras_that_need_it_and_the_systems_stays(scripts, world, monkeypatch):
    calls = []
    monkeypatch.setattr(scripts.steps, "install_torch", lambda _: calls.append("torch"))
    monkeypatch.setattr(
        scripts.steps, "install_packages", lambda _, log_name, *options: calls.append((log_name, options))
    )
    for name in ("reference", "model", "test"):
        scripts.steps.install_extra(world, name)
    assert calls == [
        "torch",
        ("extra_reference", ("--extra", "reference", "--group", "torch")),
        "torch",
        ("extra_model", ("--extra", "model", "--group", "torch")),
        ("extra_test", ("--extra", "test")),
    ]
    calls.clear()
    scripts.steps.install_extra(scripts.world.World(**{**vars(world), "modules": ("torch",)}), "model")
    assert calls == [("extra_model", ("--extra", "model"))]


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
    monkeypatch.setattr(scripts.steps, "missing_system_packages", lambda extras: ["libegl1", "cmake"])
    monkeypatch.setattr(scripts.steps.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        scripts.runner.SetupError, match="sudo apt-get install -y --no-install-recommends libegl1 cmake"
    ):
        scripts.steps.install_system_packages([])


def test_a_distribution_that_lies_about_its_python_is_refused(scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "rclpy.py").write_text("raise ImportError('made for another Python')")
    with pytest.raises(scripts.runner.SetupError, match="made for another Python.*PYTHON=/usr/bin/python3"):
        scripts.world.sourced_distro(sys.executable)


@pytest.fixture
def uv_calls(scripts, monkeypatch):
    """What uv would be asked to install, and the names that it must leave alone."""
    scripts.world.WS.mkdir()
    calls = []
    monkeypatch.setattr(scripts.steps, "uv_install", lambda log_name, *arguments: calls.append(arguments))
    monkeypatch.setattr(scripts.steps, "patch_cmake_paths", lambda: None)
    return calls


def test_the_distributions_numpy_and_torch_stay(scripts, world, uv_calls):
    there = scripts.world.World(**{**vars(world), "ros_distro": "jazzy", "modules": ("numpy", "torch", "cv2")})
    scripts.steps.install_packages(there, "packages", "--extra", "sim")
    (arguments,) = uv_calls
    assert f"numpy~={metadata.version('numpy')}" in arguments and "--require-hashes" not in arguments
    excluded = Path(arguments[arguments.index("--excludes") + 1]).read_text().split()
    assert excluded == ["opencv-python-headless", "triton"], "torch is left out everywhere"


def test_a_distribution_without_torch_is_given_the_triton_of_ours(scripts, world, uv_calls):
    there = scripts.world.World(**{**vars(world), "ros_distro": "jazzy", "modules": ("numpy",)})
    scripts.steps.install_packages(there, "packages", "--extra", "test")
    (arguments,) = uv_calls
    assert not Path(arguments[arguments.index("--excludes") + 1]).read_text()


def test_without_a_distribution_everything_is_as_locked(scripts, world, uv_calls):
    scripts.steps.install_packages(world, "packages", "--extra", "sim", "--group", "ros")
    (arguments,) = uv_calls
    assert "--require-hashes" in arguments and str(scripts.steps.LOCK) in arguments
    assert arguments[:4] == ("-r", "pyproject.toml", "--extra", "sim")


def test_uv_looks_where_pip_does_and_where_the_user_says(scripts, monkeypatch):
    (scripts.world.VENV / "bin").mkdir(parents=True)
    (scripts.world.VENV / "bin" / "python").symlink_to(sys.executable)
    seen = []
    monkeypatch.setattr(scripts.steps, "run", lambda *_, **variables: seen.append(variables))
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # what this machine says
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://mirror.invalid/simple")
    scripts.steps.uv_install("log", "numpy")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://other.invalid/simple")
    scripts.steps.uv_install("log", "numpy")
    assert seen == [{"UV_DEFAULT_INDEX": "http://mirror.invalid/simple"}, {}]


@pytest.mark.parametrize(
    "failing, tried", [(0, ["pip +cpu"]), (1, ["pip +cpu", "uv cpu"]), (2, ["pip +cpu", "uv cpu", "pip"])]
)
def test_the_cpu_build_of_torch_is_looked_for_before_the_large_one(scripts, world, monkeypatch, failing, tried):
    calls = []

    def install(program):
        def called(log_name, *arguments):
            calls.append(
                f"{program} {'+cpu' if arguments[-1].endswith('+cpu') else ''}{'cpu' if 'cpu' in arguments else ''}".strip()
            )
            if len(calls) <= failing:
                raise scripts.runner.SetupError("not there")

        return called

    for program in ("pip", "uv"):
        monkeypatch.setattr(scripts.steps, f"{program}_install", install(program))
    scripts.steps.install_torch(world)
    assert calls == tried


def test_uv_truly_looks_for_torch_although_the_project_leaves_it_out(scripts, world, monkeypatch):
    """It once took "leave torch out" for "nothing to do", and a machine whose pip finds no CPU build got none at all."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(scripts.world.VENV)], check=True)
    (scripts.world.VENV / "bin" / "uv").symlink_to(Path(sys.executable).parent / "uv")
    tried = []

    def run(command, *_, **__):
        if Path(command[0]).name == "uv":
            done = subprocess.run(
                [*command, "--dry-run", "--offline"], cwd=SCRIPTS.parent, capture_output=True, text=True
            )
            tried.append(done.stderr)
        raise scripts.runner.SetupError("not there")

    monkeypatch.setattr(scripts.steps, "run", run)
    with pytest.raises(scripts.runner.SetupError):
        scripts.steps.install_torch(world)
    (said,) = tried
    assert "torch" in said and "no changes" not in said, said


def test_open3d_brings_what_it_loads_and_the_demo_does_not_ask_for_it(scripts, monkeypatch):
    monkeypatch.setattr(scripts.steps.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(scripts.steps.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="libegl1 installed\n"))
    assert scripts.steps.missing_system_packages([])[-2:] == ["libopengl0", "libgl1-mesa-dri"]
    assert "libusb-1.0-0" in scripts.steps.missing_system_packages(["bench"])


def test_an_entered_environment_is_not_seen_from_outside(scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}/.ws/install:{tmp_path}/.venv")
    monkeypatch.setenv("PYTHONPATH", f"{scripts.world.ROOT}:/elsewhere")
    monkeypatch.setenv("VIRTUAL_ENV", f"{tmp_path}/.venv")
    outside = scripts.world.outside_environment()
    assert "AMENT_PREFIX_PATH" not in outside and "VIRTUAL_ENV" not in outside
    assert outside["PYTHONPATH"] == "/elsewhere"


def test_cmake_paths_of_the_wheels_are_patched_once(scripts):
    site = scripts.world.VENV / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    cmake = scripts.world.VENV / "share" / "a" / "cmake" / "a.cmake"
    cmake.parent.mkdir(parents=True)
    cmake.write_text(
        'set(i "/opt/python/cp311-cp311/include/python3.11;/opt/python/cp313-cp313/lib/python3.13/site-packages/numpy")'
    )
    scripts.steps.patch_cmake_paths()
    first = cmake.read_text()
    scripts.steps.patch_cmake_paths()
    assert cmake.read_text() == first
    assert "/opt/python/cp3" not in first and sysconfig.get_path("include") in first and f"{site}/numpy" in first


def test_env_script_can_be_sourced_twice_and_keeps_what_the_user_set(scripts):
    scripts.world.WS.mkdir()
    scripts.world.write_env_script(wheels=True)
    script = scripts.world.WS / "env.sh"
    command = f'set -eu; . "{script}"; first=$PATH; . "{script}"; test "$first" = "$PATH"; echo "$MUJOCO_GL $PATH"'
    result = subprocess.run(
        ["bash", "-c", command],
        env={"PATH": "/usr/bin:/bin", "MUJOCO_GL": "osmesa"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == f"osmesa {scripts.world.VENV}/bin:{scripts.world.WS}/install/bin:/usr/bin:/bin"


def test_nothing_to_do_writes_nothing(scripts, world, monkeypatch, capsys):
    """So that a read-only checkout that was set up can be entered."""
    monkeypatch.setattr(scripts.setup_env, "look_from_outside", lambda: None)
    monkeypatch.setattr(scripts.setup_env, "probe_world", lambda: world)
    monkeypatch.setattr(scripts.setup_env, "plan", lambda *_: [])
    monkeypatch.setattr(scripts.steps, "missing_system_packages", lambda extras: [])
    assert scripts.setup_env.main() == 0
    assert not scripts.world.WS.exists() and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("reason", ["Read-only file system", "No space left on device", "Permission denied"])
def test_a_checkout_that_cannot_be_written_is_told_in_one_line(scripts, world, monkeypatch, capsys, reason):
    def refuse(*_, **__):
        raise OSError(30, reason, str(scripts.world.WS))

    monkeypatch.setattr(scripts.setup_env, "look_from_outside", lambda: None)
    monkeypatch.setattr(scripts.setup_env, "probe_world", lambda: world)
    monkeypatch.setattr(scripts.steps, "missing_system_packages", lambda extras: [])
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert scripts.setup_env.main() == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert reason in line and str(scripts.world.ROOT) in line and "use a copy" in line


def test_the_overlay_has_the_fields_of_the_real_messages():
    """Names and types are what a type hash covers; tests/node/test_interfaces.py compares the hashes of the built ones."""
    overlay = SCRIPTS / "overlay"
    assert "vision_msgs/Pose2D center" in (overlay / "vision_msgs/msg/BoundingBox2D.msg").read_text()
    for package in overlay.iterdir():
        fields = "\n".join(path.read_text() for path in package.glob("msg/*.msg"))
        used = set(re.findall(r"^(\w+)/", fields, re.MULTILINE)) - {package.name}
        listed = re.search(r"DEPENDENCIES ([\w ]+)\)", (package / "CMakeLists.txt").read_text())[1].split()
        declared = re.findall(r"<depend>(\w+)</depend>", (package / "package.xml").read_text())
        assert used == set(listed) == set(declared)


def test_a_link_into_a_cache_is_replaced_and_the_cache_stays(scripts, tmp_path):
    cached, cmake = tmp_path / "cached.cmake", scripts.world.VENV / "share" / "a.cmake"
    cmake.parent.mkdir(parents=True)
    (scripts.world.VENV / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    cached.write_text('set(i "/opt/python/cp311-cp311/include/python3.11")')
    cmake.hardlink_to(cached)
    scripts.steps.patch_cmake_paths()
    assert "/opt/python" not in cmake.read_text() and "/opt/python" in cached.read_text()
