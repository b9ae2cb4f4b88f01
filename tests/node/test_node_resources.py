"""Running out of memory, threads, descriptors or disk is reported, and survived: the limits are the kernel's, set while the
node runs, and everything goes over DDS.
"""

import resource
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from ros_graph import START_PATIENCE_S, FakeCamera, until
from small_disk import disk, fill

IDLE = {"autostart": False}


@contextmanager
def limited(process, memory_mb=None, descriptors=None):
    """The process may have so much address space, or so many descriptors, more than it has now."""
    pid = process.popen.pid
    what, most = (
        (resource.RLIMIT_AS, psutil.Process(pid).memory_info().vms + int(memory_mb * 2**20))
        if memory_mb is not None
        else (resource.RLIMIT_NOFILE, psutil.Process(pid).num_fds() + descriptors)
    )
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


def answered(graph) -> bool:
    future = graph.detect(["cube"], 5.0)
    until(future.done, START_PATIENCE_S, "an answer")
    return future.result().success


@pytest.mark.parametrize(
    "lacks, limit",
    [("threads", {"memory_mb": 1}), ("memory", {"memory_mb": 40}), ("file descriptors", {"descriptors": 0})],
)
def test_a_model_for_which_there_is_no_room_is_not_configured_and_is_once_there_is(graph, lacks, limit):
    process = graph.start_node("with_weights", ready=False, **IDLE)
    assert graph.state() == "unconfigured"
    with limited(process, **limit):
        assert not graph.transition("configure")
        assert graph.state() == "unconfigured"
        status = graph.diagnosed(lambda s, v: "out of" in s.message)
    assert f"out of {lacks}" in status.message and "allow the process more" in status.message
    assert graph.transition("configure") and graph.state() == "inactive"
    assert process.popen.poll() is None and "defect" not in process.log


def test_a_look_for_which_there_is_no_memory_is_refused_and_the_next_is_answered(graph):
    process = graph.start_node("with_weights", enabled=False)
    camera = FakeCamera(graph).matched().stream(10)
    assert answered(graph)
    with limited(process, memory_mb=16):
        future = graph.detect(["cube"], 5.0)
        until(future.done)
        assert (
            not future.result().success and "OutOfResources: out of memory while answering" in future.result().message
        )
        graph.diagnosed(lambda s, v: "out of memory" in s.message and v["OutOfResources"])
    assert answered(graph)
    graph.diagnosed(lambda s, v: "out of memory" not in s.message)
    camera.stop()


def test_the_stream_goes_on_after_it_had_no_memory(graph):
    process = graph.start_node("with_weights")
    camera = FakeCamera(graph).matched().stream(10)
    heard = graph.results()["generation"]
    until(lambda: heard, what="an answer")
    with limited(process, memory_mb=16):
        graph.diagnosed(lambda s, v: "out of memory" in s.message)
    before = len(heard)
    until(lambda: len(heard) > before + 1, what="answers again")
    camera.stop()


def test_a_picture_that_finds_no_memory_when_it_arrives_is_lost_alone(graph):
    process = graph.start_node("instant", enabled=False)
    camera = FakeCamera(graph, depth=False).matched()
    camera.shoot()
    graph.diagnosed(lambda s, v: int(v["images"]) > 0)
    huge = np.zeros((3000, 4000, 3), np.uint8)
    with limited(process, memory_mb=4):
        for _ in range(5):
            camera.shoot(rgb=huge)
        assert not graph.set_prompt("x" * 500).success, "it still listens"
    camera.stream(10)
    assert answered(graph)
    camera.stop()
    assert process.popen.poll() is None and "defect" not in process.log


def test_peers_that_come_when_there_are_no_descriptors_do_not_end_it(graph):
    process = graph.start_node("instant", enabled=False)
    camera = FakeCamera(graph).matched().stream(10)
    assert answered(graph)
    with limited(process, descriptors=0):
        peers = [graph.start_node("instant", "-r", f"__ns:=/peer_{i}", enabled=False) for i in range(2)]
        assert answered(graph)
        for peer in peers:
            peer.interrupt()
            assert peer.status() == 0
    assert answered(graph)
    camera.stop()
    assert process.popen.poll() is None


def test_a_full_disk_under_the_logs_ends_nothing(graph, tmp_path):
    with disk(tmp_path / "disk", "size=64k") as folder:
        fill(folder)
        graph.folder = folder  # standard output, too
        process = graph.start_node("garbage", ready=False, env={"ROS_LOG_DIR": str(folder)})
        camera = FakeCamera(graph).matched().stream(10)
        graph.diagnosed(lambda s, v: int(v["malformed"]) > 20)
        camera.stop()
        process.interrupt()
        assert process.status() == 0
