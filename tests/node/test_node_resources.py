"""Running out of memory, threads, descriptors or disk is reported, and survived: the limits are the kernel's, set while the
node runs, and everything goes over DDS.
"""

import resource
from contextlib import contextmanager, suppress

import cv2
import numpy as np
import psutil
import pytest
from rclpy.qos import qos_profile_sensor_data
from ros_graph import OPTICAL, PATIENCE_S, START_PATIENCE_S, FakeCamera, until
from sensor_msgs.msg import CompressedImage
from small_disk import disk, fill

from qwen3vl_ros.node import messages

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


def reply(graph):
    future = graph.detect(["cube"], PATIENCE_S)
    until(future.done, START_PATIENCE_S, "a reply")
    return future.result()


def answered(graph) -> bool:
    """Whether one of a few calls succeeds: on a busy machine an image may be too old when its turn comes."""
    return any(reply(graph).success for _ in range(4))


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
        future = graph.detect(["cube"])
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
    assert graph.enable(False).success and answered(graph)  # nothing is in the engine's hands when the limit is set
    with limited(process, memory_mb=16):
        assert graph.enable(True).success
        graph.diagnosed(lambda s, v: "out of memory" in s.message)
    before = len(heard)
    until(lambda: len(heard) > before + 1, what="answers again")
    camera.stop()
    assert process.popen.poll() is None


def test_a_picture_that_finds_no_memory_when_it_is_decoded_is_lost_alone(graph):
    process = graph.start_node("instant", enabled=False, image_transport="compressed")
    publisher = graph.node.create_publisher(CompressedImage, "/qwen3vl/image_raw/compressed", qos_profile_sensor_data)
    until(publisher.get_subscription_count, START_PATIENCE_S, "a subscriber")

    def shoot(height, width):
        png = cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()
        for _ in range(4):  # a call is lost, too, where there is no memory to take it: who waits asks again
            header = messages.header_of(graph.node.get_clock().now().nanoseconds, OPTICAL)
            future = graph.detect(["cube"], 50.0)
            publisher.publish(CompressedImage(header=header, format="png", data=png))
            with suppress(AssertionError):
                until(future.done, 60.0)
                return future.result()
        raise AssertionError("none of four calls was answered")

    with limited(process, memory_mb=32):
        assert "OutOfResources: out of memory" in shoot(6000, 8000).message
    assert shoot(120, 160).success
    assert process.popen.poll() is None and "defect" not in process.log


def test_peers_that_come_when_there_are_no_descriptors_do_not_end_it(graph):
    process = graph.start_node("instant", enabled=False)
    camera = FakeCamera(graph).matched().stream(10)
    assert answered(graph)
    with limited(process, descriptors=0):
        peers = [graph.start_node("instant", "-r", f"__ns:=/peer_{i}", enabled=False) for i in range(2)]
        # Fast DDS may have lost the camera's segment by then: what counts is that the node is there and says so.
        assert reply(graph).success or "no image" in reply(graph).message
        for peer in peers:
            peer.interrupt()
            assert peer.status() == 0
    assert reply(graph).success or "no image" in reply(graph).message
    camera.stop()
    assert process.popen.poll() is None


def test_a_full_disk_under_the_logs_ends_nothing(graph, tmp_path, monkeypatch):
    with disk(tmp_path / "disk", "size=64k") as folder:
        fill(folder)
        graph.folder = folder  # standard output, too
        monkeypatch.setenv("ROS_LOG_DIR", str(folder))
        process = graph.start_node("garbage", ready=False)
        camera = FakeCamera(graph).matched().stream(10)
        graph.diagnosed(lambda s, v: int(v["malformed"]) > 20)
        camera.stop()
        process.interrupt()
        assert process.status() == 0
