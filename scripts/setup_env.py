"""Brings the project's environment up to date: .venv (Python), .ws (built ROS interfaces), .ws/env.sh (how to enter).

Each step has a digest of what it depends on, the digests of the steps before it included, and leaves a stamp with
that digest when it has succeeded; a step whose stamp is right is skipped, an interrupted one is done again. Knows
nothing of what the package does. Standard library only, since it runs before anything is installed.

Two worlds: with a ROS 2 distribution sourced, its rclpy, messages, torch and OpenCV are used and only what it lacks
is added; without one, ROS 2 comes from wheels.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import overlay

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
WS = ROOT / ".ws"
STAMPS = WS / "stamps"
LOGS = WS / "setup_logs"
REQUIREMENTS = ROOT / "requirements"

PYTHON_VERSIONS = ((3, 10), (3, 13))
TORCH_VERSION = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LOG_TAIL_LINES = 25
NVIDIA_DRIVERS = ("/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1")
PACKAGE_ENTRIES = ("package.xml", "CMakeLists.txt", "msg", "srv", "qwen3vl_ros", "launch", "config", "model")
# Files that are found in the install space: a new one must be linked, an edited one is seen through its link.
INSTALLED_DIRS = ("launch", "config", "model/embedded")


class SetupError(Exception):
    """A step failed; the message says what to do."""


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


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    action: Callable[[World], None]
    digest: str
    is_done: Callable[[], bool] = field(default=lambda: True)  # a second look, beside the stamp


# ---------------------------------------------------------------------------------------------- the world


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
    found = json.loads(outside.stdout.splitlines()[-1]) if outside.returncode == 0 else {}
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
            f"ROS {distro} is sourced but {python} cannot import its rclpy ({reason[0]}). Name the interpreter the "
            "distribution was built for (make PYTHON=/usr/bin/python3 ...) or use a shell without it sourced."
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


# ---------------------------------------------------------------------------------------------- running


class Progress:
    """One line per step with elapsed time: rewritten in place on a terminal, repeated every 30 s elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0
        self.title = ""
        self.tty = sys.stdout.isatty()
        self.step_start_s = self.last_print_s = 0.0

    def start(self, title: str) -> None:
        self.number += 1
        self.title = title
        self.step_start_s = self.last_print_s = time.monotonic()
        self._print("...", newline=not self.tty)

    def beat(self, log: Path) -> None:
        now_s = time.monotonic()
        if now_s - self.last_print_s < (1 if self.tty else 30):
            return
        self.last_print_s = now_s
        self._print(f"{now_s - self.step_start_s:4.0f} s  {last_line(log)}", newline=not self.tty)

    def note(self, text: str) -> None:
        self._print(text, newline=True)

    def done(self) -> None:
        self._print(f"done in {time.monotonic() - self.step_start_s:.0f} s", newline=True)

    def _print(self, text: str, newline: bool) -> None:
        line = f"[{self.number}/{self.total}] {self.title}: {text}"
        if self.tty:
            width = shutil.get_terminal_size().columns
            print("\r\x1b[K" + line[: width - 1], end="\n" if newline else "", flush=True)
        elif newline:
            print(line[:160], flush=True)


progress = Progress(total=0)


def last_line(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 2000))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip()[:90] for line in reversed(lines) if line.strip()), "")


def run(command: list[str], log_name: str, what_to_do: str, environment: dict[str, str] | None = None) -> None:
    """Runs `command` with its output in a log file; raises SetupError with the log's end and `what_to_do`."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{log_name}.log"
    with log.open("ab") as stream:
        stream.write(f"\n$ {shlex.join(command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    progress.beat(log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise SetupError(
            f"`{shlex.join(command[:4])} ...` ended with status {process.returncode}. The end of {log}:\n\n{tail}\n\n"
            f"What to do: {what_to_do}"
        )


# ---------------------------------------------------------------------------------------------- the steps


def missing_system_packages() -> list[str]:
    """Names of Debian packages to install: tools by what is on the path, libraries by dpkg where there is one."""
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
    libraries = ["libegl1", "libgl1-mesa-dri"]  # MuJoCo renders off-screen with EGL, on the CPU with Mesa
    if shutil.which("dpkg-query"):
        query = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *libraries],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
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
        raise SetupError(f"System packages are missing. Type this, then run make again:\n\n    sudo {shlex.join(command)}\n")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    hint = "check the network and apt's sources, then run make again."
    run(["apt-get", "update"], "system_packages", hint, environment)
    run(command, "system_packages", hint, environment)


def make_venv(world: World) -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    options = ["--system-site-packages"] if world.system_site_packages else []
    run(
        [world.python, "-m", "venv", *options, str(VENV)], "venv",
        "read the message above; a Python without venv support can be replaced: make PYTHON=...",
        outside_environment(),
    )  # fmt: skip


def pip_install(arguments: list[str], log_name: str) -> None:
    run(
        [str(VENV / "bin/python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
         "--progress-bar", "off", *arguments],
        log_name, "check the network and the free disk space (about 4 GB), then run make again.",
        outside_environment(),
    )  # fmt: skip


def constraint_arguments(world: World) -> list[str]:
    """Keeps the distribution's NumPy and torch: its compiled modules (cv_bridge, torch) are built for that NumPy."""
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
            f"This is a Jetson and {world.python} has no torch. Install the PyTorch that NVIDIA builds for this "
            "JetPack, system-wide, then run make again; it will be used as it is."
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
    for name in ("runtime", "sim", "test"):
        requirements = REQUIREMENTS / f"{name}.txt"
        if name == "runtime" and world.ros_distro is not None and world.system_opencv:
            kept = [line for line in requirements.read_text().splitlines() if not line.startswith("opencv")]
            requirements = WS / "runtime-without-opencv.txt"
            requirements.write_text("\n".join(kept) + "\n")
        arguments += ["-r", str(requirements)]
    pip_install(arguments, "python_packages")


def install_ros(world: World) -> None:
    if world.ros_distro is None:
        pip_install(["-r", str(REQUIREMENTS / "ros-wheels.txt")], "ros")
        patch_cmake_paths()
    elif shutil.which("colcon") is None:
        pip_install([*constraint_arguments(world), "colcon-common-extensions"], "ros")


def patch_cmake_paths() -> None:
    """Replaces the paths of the machine that built the ROS wheels in their CMake files. Idempotent."""
    asked = subprocess.run(
        [str(VENV / "bin/python"), "-c",
         "import sysconfig; print(sysconfig.get_path('include')); print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
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
    base_digest = STAMPS.joinpath("ros").read_text()
    if not made_for.is_file() or made_for.read_text() != base_digest:  # CMake caches of another Python or ROS
        shutil.rmtree(WS / "build", ignore_errors=True)
        shutil.rmtree(WS / "install", ignore_errors=True)
        shutil.rmtree(WS / "src", ignore_errors=True)
    for name in world.missing_interfaces:
        overlay.write_package(name, WS / "src")
    link_own_sources()
    (WS / "build").mkdir(parents=True, exist_ok=True)
    made_for.write_text(base_digest)
    environment = entered_environment(world)
    colcon = shutil.which("colcon", path=environment["PATH"])
    run(
        [colcon, "--log-base", str(WS / "colcon_logs"), "build", "--symlink-install", "--merge-install",
         "--base-paths", str(WS / "src"),
         "--packages-select", *world.missing_interfaces, "qwen3vl_ros",
         "--build-base", str(WS / "build"), "--install-base", str(WS / "install"),
         "--event-handlers", "console_direct+", "desktop_notification-",
         "--cmake-args", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={VENV}/bin/python", "--no-warn-unused-cli"],
        "interfaces", "read the compiler's message above; `make clean` and make again if the machine has changed.",
        environment,
    )  # fmt: skip
    write_env_script(world)


def link_own_sources() -> None:
    """Shows colcon this package as .ws/src/qwen3vl_ros, a folder of links.

    CMake refuses to export include paths below the source directory, and .venv with NumPy's headers is there.
    """
    view = WS / "src" / "qwen3vl_ros"
    view.mkdir(parents=True, exist_ok=True)
    for name in PACKAGE_ENTRIES:
        if (ROOT / name).exists() and not (view / name).is_symlink():
            (view / name).symlink_to(ROOT / name)


def entered_environment(world: World) -> dict[str, str]:
    variables = outside_environment()
    for name, entries in search_paths(world).items():
        variables[name] = os.pathsep.join([*entries, *filter(None, [variables.get(name)])])
    return variables | fixed_variables(world)


def search_paths(world: World) -> dict[str, list[str]]:
    """What is put in front of each search path.

    The source tree stands before the install space, so that an edit or a new module counts at once; the package's
    __init__.py extends its path over both, and the generated msg/ and srv/ are found in the install space.
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
    if world.ros_distro is None:
        paths["AMENT_PREFIX_PATH"].append(str(VENV))
        paths["CMAKE_PREFIX_PATH"].append(str(VENV))
        paths["LD_LIBRARY_PATH"] += [
            str(VENV / "lib"), *sorted(str(path) for path in VENV.glob("lib/python3*/site-packages/ros_*.libs"))
        ]  # fmt: skip
    return paths


def fixed_variables(world: World) -> dict[str, str]:
    variables = {"VIRTUAL_ENV": str(VENV)}
    if world.ros_distro is None:
        # The wheels restart each Python to set LD_LIBRARY_PATH, unless this says that it is set.
        variables["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    return variables


def write_env_script(world: World) -> None:
    lines = ["# Written by scripts/setup_env.py; source scripts/env.sh instead, which keeps it up to date."]
    for name, entries in search_paths(world).items():
        # Already entered: leave the path alone, so that entering twice does not grow it.
        lines += [
            f'case ":${{{name}:-}}:" in *":{entries[0]}:"*) ;; *)',
            f'    export {name}={shlex.quote(os.pathsep.join(entries))}"${{{name}:+:${name}}}" ;;',
            "esac",
        ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in fixed_variables(world).items()]
    defaults = {"FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds.xml"), "MUJOCO_GL": "egl"}
    lines += [f'export {name}="${{{name}:-{value}}}"' for name, value in defaults.items()]
    (WS / "env.sh").write_text("\n".join(lines) + "\n")


CHECK = """
import cv2, mujoco, numpy, rclpy, torch, transformers
import qwen3vl_ros.msg, qwen3vl_ros.srv, vision_msgs.msg, tf2_msgs.msg
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
print(f"torch {torch.__version__} on {device}, transformers {transformers.__version__}, numpy {numpy.__version__},",
      f"opencv {cv2.__version__}, mujoco {mujoco.__version__}")
mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 48, 64).render()  # needs EGL and a driver for it
"""


def check_environment(world: World) -> None:
    run(
        [str(VENV / "bin/python"), "-c", CHECK], "check",
        "a package that does not load is named above; `make clean` and make again.",
        {"MUJOCO_GL": "egl"} | entered_environment(world),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- the plan


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


def plan(world: World) -> list[Step]:
    me = contents(Path(__file__))
    system = digest("system packages")
    venv = digest(world.python, platform.python_version(), world.system_site_packages, VENV)
    torch = digest(venv, TORCH_VERSION, world.gpu, world.system_torch)
    packages = digest(torch, contents(*(REQUIREMENTS / f"{name}.txt" for name in ("runtime", "sim", "test"))))
    sourced = outside_environment().get("AMENT_PREFIX_PATH") if world.ros_distro else None
    ros = digest(venv, world.ros_distro, sourced, contents(REQUIREMENTS / "ros-wheels.txt"))
    interfaces = digest(
        ros, world.missing_interfaces, ROOT, contents(ROOT / "scripts/overlay.py"), me,
        contents(ROOT / "package.xml", ROOT / "CMakeLists.txt", *ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")),
        listing(*INSTALLED_DIRS),
    )  # fmt: skip
    check = digest(packages, ros, contents(ROOT / "package.xml"))
    ros_title = f"build tools for ROS {world.ros_distro}" if world.ros_distro else "ROS 2 wheels"
    torch_title = "PyTorch" + ("" if world.system_torch is None else f" {world.system_torch} (the system's)")
    return [
        Step("system", "system packages", install_system_packages, system,
             lambda: not missing_system_packages()),
        Step("venv", "virtual environment", make_venv, venv, (VENV / "bin/python").exists),
        Step("torch", torch_title, install_torch, torch),
        Step("packages", "Python packages", install_python_packages, packages),
        Step("ros", ros_title, install_ros, ros),
        Step("interfaces", "ROS interfaces (colcon build)", build_interfaces, interfaces,
             lambda: (WS / "env.sh").is_file() and (WS / "install/share/qwen3vl_ros/package.xml").is_file()),
        Step("check", "loading everything once", check_environment, check),
    ]  # fmt: skip


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
    steps = plan(world)
    due: list[Step] = []
    for step in steps:
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
        STAMPS.joinpath(step.name).unlink(missing_ok=True)
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
