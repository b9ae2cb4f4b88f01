"""Every test gets a graph of its own: a free ROS_DOMAIN_ID, and no process left behind."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

GRAPHS = {"graph", "shared_graph"}
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read once, when Triton is imported


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
