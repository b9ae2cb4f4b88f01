"""No memory is left behind: Fast DDS reserves 64 MiB for each process, and /dev/shm is main memory."""

import os
import re
import signal
import subprocess
import sys

import pytest
from ros_graph import NEEDED_MIB, FakeCamera, Graph, lacking_room

from qwen3vl_ros.demo import shared_memory
from qwen3vl_ros.demo.shared_memory import FOLDER, free_abandoned


def owned_by(pid: int) -> set[str]:
    """The segments whose lock files the process holds open."""
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if os.path.islink(entry.path)]
    matches = [re.fullmatch(rf"{FOLDER}/(fastdds_[0-9a-f]{{16}})_el", link) for link in links]
    found = {match[1] for match in matches if match}
    if not found:
        pytest.skip("the middleware is not Fast DDS with shared memory")
    return found


def left(segments: set[str]) -> set[str]:
    return {name for name in segments if (FOLDER / name).exists() or (FOLDER / f"{name}_el").exists()}


def test_closing_the_graph_of_a_killed_node_frees_its_segments_and_no_living_one_s(graph, tmp_path):
    living = owned_by(os.getpid())  # of the fixture's graph, which stays open
    closing = Graph(tmp_path)
    try:
        node = closing.start_node()
        killed = owned_by(node.popen.pid)
        assert left(killed) == killed, "or there was nothing to free"
        node.kill()
    finally:
        closing.close()
    assert left(killed) == set()
    assert owned_by(os.getpid()) == left(living) == living


@pytest.mark.parametrize(
    "engine, number",
    [("instant", signal.SIGINT), ("instant", signal.SIGTERM), ("slow_load", signal.SIGINT), ("deaf", signal.SIGINT)],
)
def test_a_node_that_is_asked_to_end_frees_its_segments_itself(graph, engine, number):
    """Also when its engine does not listen, and the process ends without Python's cleaning up."""
    node = graph.start_node(engine, ready=False)
    node.logged("loading the model" if engine == "slow_load" else "active: ")
    if engine == "deaf":
        camera = FakeCamera(graph).matched().stream(20)
        graph.diagnosed(lambda s, v: int(v["images"]) > 3)
        camera.stop()
    segments = owned_by(node.popen.pid)
    node.interrupt(number)
    assert node.status() == 0
    assert left(segments) == set()


@pytest.mark.parametrize("held", [True, False])
def test_a_segment_is_abandoned_when_nobody_holds_its_lock(held, tmp_path, monkeypatch):
    """In a folder of its own: in the machine's, others free what is abandoned, too."""
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    name = f"fastdds_{os.urandom(8).hex()}"
    lock = tmp_path / f"{name}_el"
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    (tmp_path / name).write_bytes(b"segment")
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        if not held:
            process.kill()
            process.wait()
        assert (name in free_abandoned()) == (not held)
        assert len(list(tmp_path.iterdir())) == (2 if held else 0)
        process.kill()
    free_abandoned()
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_with_the_rule_and_the_way_out():
    assert lacking_room(NEEDED_MIB) == ""
    for words in ("100 MiB free", f"need {NEEDED_MIB}", "fastdds.xml", "fastdds shm clean", "--shm-size"):
        assert words in lacking_room(100)
