"""The steps of the set-up: system packages, .venv and what goes into it, the ROS interfaces.

Each may be interrupted and repeated, and raises SetupError. Knows no order and no stamps.
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
from importlib import metadata
from pathlib import Path

from runner import ROOT, SetupError, run
from world import OVERLAY, VENV, WS, World, write_env_script

LOCK = ROOT / "requirements" / "lock.txt"
LINKED = ("package.xml", "CMakeLists.txt", "msg", "srv", "action", "launch", "config", "model")
# MuJoCo renders off-screen: EGL, OpenGL's entry points, and Mesa where no GPU does it. Open3D loads what it draws with.
LIBRARIES, OPEN3D = ("libegl1", "libopengl0", "libgl1-mesa-dri"), ("libgl1", "libusb-1.0-0", "libx11-6")
# The tests of the page drive it and read Chinese on it; where a distribution has none of these, they are skipped.
BROWSER, BROWSERS = (
    ("chromium-headless-shell", "fonts-wqy-microhei"),
    ("chromium-headless-shell", "chromium", "google-chrome"),
)
TORCH, NEED_TORCH = "torch==2.13.0", ("reference", "model")
NETWORK = "check the network and the free disk space (about 2 GB, with EXTRAS 4 GB), then run make again."
# The last line needs EGL and a driver for it.
CHECK = """import cv2, mujoco, onnxruntime, rclpy, qwen3vl_ros.msg, qwen3vl_ros.srv, vision_msgs.msg, tf2_msgs.msg
mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 48, 64).render()"""


def missing_system_packages(extras: list[str]) -> list[str]:
    """Debian packages to install: tools by what is on the path, libraries by dpkg where there is one."""
    python = "python{}.{}".format(*sys.version_info)
    there = {
        "build-essential": shutil.which("g++") and shutil.which("make"),
        "cmake": shutil.which("cmake"),
        f"{python}-dev": Path(sysconfig.get_path("include"), "Python.h").is_file(),
        f"{python}-venv": importlib.util.find_spec("ensurepip"),
    }
    if shutil.which("dpkg-query"):
        libraries = [*LIBRARIES, *(OPEN3D if "bench" in extras else ())]
        query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *libraries]
        listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
        there |= {name: f"{name} installed" in listed for name in libraries}
    return [name for name, found in there.items() if not found]


def install_system_packages(extras: list[str]) -> None:
    if not (packages := missing_system_packages(extras)):
        return
    command = shlex.join(["apt-get", "install", "-y", "--no-install-recommends", *packages])
    if shutil.which("apt-get") is None:
        raise SetupError("Install with your package manager what these Debian packages hold: " + " ".join(packages))
    if os.geteuid() != 0:
        raise SetupError(f"System packages are missing. Type this, then run make again:\n\n    sudo {command}\n")
    print(command, flush=True)
    hint = "check the network and apt's sources, then run make again."
    run(["sh", "-c", f"apt-get update && {command}"], "system_packages", hint, DEBIAN_FRONTEND="noninteractive")


def install_browser() -> None:
    """Tried once, and nobody stops where it cannot be: the tests that need a browser then say so and are skipped."""
    if any(map(shutil.which, BROWSERS)):
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *BROWSER]
    try:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise SetupError("apt-get is not here, or this is not root.")
        run(["sh", "-c", f"apt-get update && {shlex.join(command)}"], "browser", "", DEBIAN_FRONTEND="noninteractive")
    except SetupError:
        print(
            f"        no browser was installed: the page's own tests are skipped. By hand: sudo {shlex.join(command)}"
        )


def make_venv(world: World) -> None:
    if VENV.exists():
        print("        the one here is of another Python or ROS, or unfinished: made anew", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    options = ["--system-site-packages"] if world.system_site_packages else []
    hint = "read the message above; a Python without venv support can be replaced: make PYTHON=..."
    run([world.python, "-m", "venv", *options, str(VENV)], "venv", hint)
    pip_install("venv", "--ignore-installed", "--require-hashes", "-r", "requirements/uv.txt")


def pip_install(log_name: str, *arguments: str) -> None:
    pip = [f"{VENV}/bin/python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    run([*pip, "--progress-bar", "off", *arguments], log_name, NETWORK)


def uv_install(log_name: str, *arguments: str) -> None:
    """uv looks where pip does: the mirror or authority that only pip was told of may be the only one within reach."""
    pip = [f"{VENV}/bin/python", "-m", "pip", "config", "list"]
    told = subprocess.run(pip, capture_output=True, text=True, check=False).stdout
    variables = {}
    for name, option in (("UV_DEFAULT_INDEX", "index-url"), ("SSL_CERT_FILE", "cert")):
        found = re.findall(rf"^\S+\.{option}='(.+)'$", told, re.MULTILINE)
        if found and name not in os.environ:
            variables[name] = found[-1]
    uv = [f"{VENV}/bin/uv", "pip", "install", "--no-python-downloads", "--python", f"{VENV}/bin/python"]
    run([*uv, *arguments], log_name, NETWORK, **variables)


def install_packages(world: World, log_name: str, *wanted: str) -> None:
    """Packages of pyproject.toml, wanted by options of uv ("--extra", "sim"): as locked, or as the system's need it.

    The system's OpenCV and torch stay, with the Triton that torch is made for, and the series of its NumPy, which its
    compiled modules (cv_bridge) are made for.
    """
    fit = ["--constraints", str(LOCK), "--require-hashes"]
    if world.system_site_packages:
        theirs = {"cv2": "opencv-python-headless", "torch": "triton"}
        (WS / "excludes.txt").write_text("".join(f"{theirs[m]}\n" for m in theirs if m in world.modules))
        numpy = [f"numpy~={metadata.version('numpy')}"] if "numpy" in world.modules else []
        fit = ["--excludes", f"{WS}/excludes.txt", *numpy]
    uv_install(log_name, "-r", "pyproject.toml", *wanted, *fit)
    patch_cmake_paths()


def install_extra(world: World, name: str) -> None:
    wanted = ["--extra", name]
    if name in NEED_TORCH and "torch" not in world.modules:
        install_torch(world)
        wanted += ["--group", "torch"]
    install_packages(world, f"extra_{name}", *wanted)


def install_torch(world: World) -> None:
    """By pip and without the lock: one version has a build for CPUs and one for CUDA, and only pip may know where.

    uv, from elsewhere than here: pyproject.toml tells it to leave torch out, and it would, saying that all is well.
    """
    if Path("/etc/nv_tegra_release").exists():
        raise SetupError(
            f"This is a Jetson and {world.python} has no torch. Install the PyTorch that NVIDIA builds for "
            "this JetPack, system-wide, then run make again; it will be used as it is."
        )
    if not world.gpu:  # the default build would bring several GB of CUDA libraries for nothing
        for install, build in (
            (pip_install, [f"{TORCH}+cpu"]),
            (uv_install, [TORCH, "--torch-backend", "cpu", "--directory", "/"]),
        ):
            try:
                return install("torch", "--no-deps", *build)
            except SetupError:
                continue
        print(f"        no CPU build of {TORCH} within reach; taking the default build (several GB)", flush=True)
    pip_install("torch", TORCH)


def patch_cmake_paths() -> None:
    """Replaces the paths of the machine that built the ROS wheels in their CMake files. Idempotent."""
    places = {"include": sysconfig.get_path("include"), "lib": str(next(VENV.glob("lib/python3*/site-packages")))}
    builder = re.compile(r"/opt/python/cp3\d+-cp3\d+/(?:(include)/python3\.\d+|(lib)/python3\.\d+/site-packages)")
    for path in VENV.glob("share/**/*.cmake"):
        text = path.read_text()
        if (patched := builder.sub(lambda found: places[found[1] or found[2]], text)) != text:
            path.unlink()  # it may be a link into uv's cache
            path.write_text(patched)


def build_interfaces(world: World, made_for: str) -> None:
    """Builds the overlay and this package, linked: an edited file needs no new build. Then loads everything once.

    made_for: names the Python and the ROS that an earlier build's CMake caches have to be of.
    """
    build, install = WS / "build" / made_for, WS / "install"
    for old in (install, WS / "src", *([] if build.is_dir() else [WS / "build"])):
        shutil.rmtree(old, ignore_errors=True)
    write_env_script(world.ros_distro is None)
    # Linked, without its Python modules, which are found where they are; and elsewhere, since CMake refuses to export
    # include paths below the source directory, and .venv with NumPy's headers is there.
    own = WS / "src" / "qwen3vl_ros"
    (own / "qwen3vl_ros").mkdir(parents=True)
    for name in LINKED:
        (own / name).symlink_to(ROOT / name)
    options = [f"-DCMAKE_INSTALL_PREFIX={install}", f"-DPython3_EXECUTABLE={VENV}/bin/python", "-DBUILD_TESTING=OFF"]
    options += ["-DAMENT_CMAKE_SYMLINK_INSTALL=ON", f"-DCMAKE_PROJECT_INCLUDE={ROOT}/scripts/unity.cmake"]
    for source in (*(OVERLAY / name for name in world.missing_interfaces), own):
        place = f"{build}/{source.name}"
        run_inside("interfaces", "cmake", "-S", str(source), "-B", place, "--no-warn-unused-cli", *options)
        run_inside("interfaces", "cmake", "--build", place, "--target", "install", "-j", str(os.cpu_count()))
    write_env_script(world.ros_distro is None)
    run_inside("check", f"{VENV}/bin/python", "-c", CHECK)


def run_inside(log_name: str, *command: str) -> None:
    """Runs a command in the environment."""
    hint = "read the message above; `make clean` and make again if the machine has changed."
    run(["bash", "-c", f'. {shlex.quote(f"{WS}/env.sh")}; exec "$@"', "-", *command], log_name, hint)
