"""Every test gets a graph of its own: a free ROS_DOMAIN_ID, and no process left behind."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# What is drawn is the same each time, and a slow machine is no fault.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
# Threads of PyTorch that wait for one another in a loop take the processors from those they wait for, where others run beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when PyTorch is imported
# Hundreds of processes start. Where they may not write what they compile beside its source, each would compile all that it imports,
# which is more than half of its start.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(
        Path(__file__).parents[1] / ".pytest_cache" / "pycache"
    )
GRAPHS = {"graph", "shared_graph"}
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read once, when Triton is imported
if importlib.util.find_spec("triton") is not None:
    importlib.import_module("triton")  # after Mesa, which draws by the CPU, it ends the process: both bring an LLVM


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Two where there is one core as well, for half of the time processes start and nothing is computed; no more than four, and than
    have room in /dev/shm, as each has processes of its own. Where there is no room for one, this process runs the tests and says so.
    """
    workers = min(4, max(2, len(os.sched_getaffinity(0))))
    if importlib.util.find_spec("rclpy") is None or not Path("/dev/shm").is_dir():
        return workers
    from ros_graph import NEEDED_MIB

    return min(workers, shutil.disk_usage("/dev/shm").free // (NEEDED_MIB * 2**20))


def pytest_collection_finish(session):
    """End before the first test rather than be killed for memory in the middle."""
    shared = Path("/dev/shm")
    if importlib.util.find_spec("rclpy") is None:  # the core's tests, on a Python that ROS has no build for
        return
    if not shared.is_dir() or not any(GRAPHS & set(getattr(item, "fixturenames", ())) for item in session.items):
        return
    from ros_graph import lacking_room

    from qwen3vl_ros.demo.shared_memory import free_abandoned

    free_abandoned()
    if reason := lacking_room(shutil.disk_usage(shared).free / 2**20):
        pytest.exit(reason, returncode=1)


@pytest.fixture
def graph(tmp_path):
    pytest.importorskip("rclpy")
    from ros_graph import Graph

    made = Graph(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_graph(tmp_path_factory):
    """One graph for tests that leave its node as they found it."""
    pytest.importorskip("rclpy")
    from ros_graph import Graph

    made = Graph(tmp_path_factory.mktemp("graph"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _forget_tries():
    os.environ.pop("TRIED", None)
