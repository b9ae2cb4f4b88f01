"""Every test gets a graph of its own: a free ROS_DOMAIN_ID, and no process left behind."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def graph(tmp_path):
    from ros_graph import Graph

    made = Graph(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_graph(tmp_path_factory):
    """One graph for tests that leave its node as they found it."""
    from ros_graph import Graph

    made = Graph(tmp_path_factory.mktemp("graph"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _forget_tries():
    os.environ.pop("TRIED", None)
