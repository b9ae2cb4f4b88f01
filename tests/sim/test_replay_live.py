"""Recordings through the simulated camera, over DDS: their own times, frames and depth, judged by the node as if live."""

import signal
import time

import bags
import numpy as np
import pytest
from bags import START_NS, camera, depth_mm, image, info, number_of, picture, png
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_graph import START_PATIENCE_S, Process, until
from sensor_msgs.msg import CameraInfo, Image

from qwen3vl_ros.convert import depth_of, rgb_of, stamp_ns

CAMERA = "qwen3vl_ros.node.sim_camera"
MS = 1_000_000


def start(graph, **parameters) -> Process:
    parameters = {"qos": "reliable", **parameters}
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return graph.start("-m", CAMERA, "--ros-args", *arguments, name="camera")


def subscribe(graph):
    """Before the camera is there, so that nothing of a recording is missed."""
    heard = {"image": [], "depth": [], "info": []}
    qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)  # a busy machine loses what may be lost
    graph.node.create_subscription(Image, "/qwen3vl/depth/image_raw", heard["depth"].append, qos)
    graph.node.create_subscription(CameraInfo, "/qwen3vl/camera_info", heard["info"].append, qos)
    graph.node.create_subscription(Image, "/qwen3vl/image_raw", heard["image"].append, qos)
    return heard


def numbers(heard):
    return [number_of(rgb_of(m)) for m in heard["image"]]


def gapped(gaps_ms):
    """A recording whose pictures are this far apart."""
    ns = START_NS
    for i, gap in enumerate((0, *gaps_ms)):
        ns += gap * MS
        yield "/color/image_raw", ns, image(ns, picture(i), "rgb8")


GAPS_MS = [100, 100, 600, 100, 300, 100]


@pytest.mark.parametrize("rate", [0.0, 1.0, 2.0, 0.5])
def test_a_recording_plays_whole_with_its_own_gaps_times_the_rate(graph, tmp_path, rate):
    heard = subscribe(graph)
    process = start(graph, source=bags.write(tmp_path / "b", gapped(GAPS_MS)), rate=rate, loop="false")
    assert process.status() == 0 and "the recording is over: 7 pictures" in process.log
    until(lambda: len(heard["image"]) == 7, what="every picture")
    assert numbers(heard) == list(range(7))
    gaps_ms = np.diff([stamp_ns(m.header) for m in heard["image"]]) / MS
    # Late pictures shift those behind them, never closer together than they were by more than the tolerance.
    assert np.all(gaps_ms > np.array(GAPS_MS) / (rate or 1.0) - 25)
    assert np.min(gaps_ms / np.array(GAPS_MS)) * (rate or 1.0) < 1.5, "and one of them at least in time"


def test_a_recording_waits_for_its_subscriber_and_says_so(graph, tmp_path):
    process = start(graph, source=bags.write(tmp_path / "b", camera(20)), loop="false", wait=240.0)
    process.logged("waiting up to 240 s for a subscriber of /qwen3vl/image_raw")
    heard = subscribe(graph)
    assert process.status() == 0
    until(lambda: len(heard["image"]) == 20, what="every picture")
    assert numbers(heard) == list(range(20))
    until(lambda: len(heard["depth"]) == 20, what="all depth")


def test_a_recording_that_nobody_wants_to_see_ends_all_the_same(graph, tmp_path):
    process = start(graph, source=bags.write(tmp_path / "b", camera(3)), loop="false", wait=0.5)
    assert process.status() == 0 and "nobody has subscribed" in process.log


def test_depth_keeps_its_distance_in_time_and_a_lost_one_is_nobody_elses(graph, tmp_path):
    heard = subscribe(graph)
    lost = {3, 4, 9}
    path = bags.write(tmp_path / "b", camera(14, lost_depth=lost, depth_late_ns=4 * MS))
    assert start(graph, source=path, loop="false").status() == 0
    until(lambda: len(heard["image"]) == 14 and len(heard["depth"]) == 11, what="everything")
    pictures = {number_of(rgb_of(m)): stamp_ns(m.header) for m in heard["image"]}
    depths = {round(float(depth_of(m)[0, 0]) * 1000) - 500: stamp_ns(m.header) for m in heard["depth"]}
    assert set(depths) == set(range(14)) - lost
    assert all(depths[i] - pictures[i] == 4 * MS for i in depths)


UNREGISTERED = {
    "another frame": lambda ns, i: image(ns, depth_mm(i), "16UC1", "depth_optical"),
    "another size": lambda ns, i: image(ns, depth_mm(i)[::2, ::2], "16UC1"),
}


@pytest.mark.parametrize("depth", UNREGISTERED.values(), ids=UNREGISTERED)
def test_unaligned_depth_is_refused_by_the_node_as_it_would_be_live(graph, tmp_path, depth):
    messages = [
        (topic, ns, depth(ns, i // 3) if "depth" in topic else message)
        for i, (topic, ns, message) in enumerate(camera(30))
    ]
    graph.start_node("instant")
    results = graph.results()
    process = start(graph, source=bags.write(tmp_path / "b", messages))
    graph.diagnosed(lambda s, v: "not registered" in s.message, START_PATIENCE_S, "the reason")
    until(lambda: len(results["detections_2d"]) > 5, what="answers")
    assert not any(m.detections for m in results["detections_3d"])
    assert "not registered" in process.log


def test_an_uncalibrated_recording_plays_as_2d(graph, tmp_path):
    heard = subscribe(graph)
    path = bags.write(tmp_path / "b", camera(6, calibration=lambda ns: info(ns, K=np.zeros((3, 3)))))
    process = start(graph, source=path, loop="false")
    assert process.status() == 0 and "not calibrated" in process.log and "2D" in process.log
    until(lambda: len(heard["image"]) == 6, what="every picture")
    until(lambda: len(heard["depth"]) == 6, what="all depth")
    assert not heard["info"]


def test_damage_is_skipped_counted_and_said_and_the_rest_is_played(graph, tmp_path):
    path = bags.write(tmp_path / "b", camera(40), "sqlite3")
    file = bags.storage(path)
    file.write_bytes(file.read_bytes()[: int(0.6 * file.stat().st_size)])
    heard = subscribe(graph)
    process = start(graph, source=path, loop="false")
    assert process.status() == 0, process.log
    assert "Traceback" not in process.log and "pieces left out" in process.log
    assert f"`sqlite3 {file} .recover | sqlite3 mended.db3` repairs it" in process.log
    until(lambda: len(heard["image"]) > 15, what="what is whole")
    assert numbers(heard) == list(range(len(heard["image"])))


def test_one_bad_file_in_a_folder_is_skipped(graph, tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png(picture(i)) if i != 2 else b"no picture")
    heard = subscribe(graph)
    process = start(graph, source=tmp_path, loop="false")
    assert process.status() == 0 and "2.png cannot be read" in process.log and "Traceback" not in process.log
    until(lambda: len(heard["image"]) == 4, what="the others")
    assert numbers(heard) == [0, 1, 3, 4]


def test_what_holds_no_picture_at_all_ends_with_status_2_and_the_reason(graph, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    subscribe(graph)
    process = start(graph, source=tmp_path)
    assert process.status() == 2 and "no picture that can be played" in process.log and "Traceback" not in process.log


# -- a process that was stopped for a while -----------------------------------------------------------------------


def stopped_for(process, seconds):
    process.interrupt(signal.SIGSTOP)
    time.sleep(seconds)
    again_ns = time.time_ns()
    process.interrupt(signal.SIGCONT)
    return again_ns


def test_a_stopped_recording_goes_on_from_where_it_was(graph, tmp_path):
    """Nothing is left out, nothing comes in a heap, and the picture after the silence is as new as it arrives."""
    heard = subscribe(graph)
    process = start(graph, source=bags.write(tmp_path / "b", gapped([100] * 39)))
    until(lambda: len(heard["image"]) > 5, START_PATIENCE_S, "pictures")
    again_ns = stopped_for(process, 4.0)
    shown = lambda: [stamp_ns(m.header) for m in heard["image"]]  # noqa: E731
    until(lambda: sum(stamp >= again_ns for stamp in shown()) > 15, what="pictures after the silence")
    process.interrupt()
    assert process.status() == 0
    stamps_ns = np.array(shown())
    assert numbers(heard) == [k % 40 for k in range(len(stamps_ns))]
    gaps_ms = np.diff(stamps_ns[1:]) / MS  # after the first one it is waited until the other side has it
    after = 2 + int(np.argmax(gaps_ms))
    assert np.sum(gaps_ms > 2000) == 1 and stamps_ns[after] >= again_ns, "one silence"
    assert np.min(gaps_ms) > 60, "and no heap after it"


STOPS_WHILE_DRAWING = """
import os, pathlib, signal, subprocess, sys
from qwen3vl_ros.node.sim_camera import main
from qwen3vl_ros.sim.stream import SimStream

draw, asked = SimStream.frame_at, pathlib.Path(sys.argv.pop(1))

def frame_at(self, t_s):
    if asked.exists():
        asked.unlink()
        subprocess.Popen(["sh", "-c", f"sleep 6; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
    return draw(self, t_s)

SimStream.frame_at = frame_at
sys.exit(main(["-c", *sys.argv[1:]]))
"""


def test_a_simulated_camera_that_was_stopped_while_drawing_is_not_silent_as_long_again(graph, tmp_path):
    heard, stop = subscribe(graph), tmp_path / "stop"
    small = [part for p in ("rate:=10.0", "qos:=reliable", "width:=32", "height:=24") for part in ("-p", p)]
    graph.start("-c", STOPS_WHILE_DRAWING, str(stop), "--ros-args", *small)
    until(lambda: len(heard["image"]) > 5, START_PATIENCE_S, "pictures before")
    stop.touch()
    gaps_s = lambda: np.diff([stamp_ns(m.header) for m in heard["image"]]) / 1e9  # noqa: E731
    until(lambda: np.any(gaps_s()[:-5] > 5.5), START_PATIENCE_S, "pictures after six seconds")
    assert gaps_s()[1 + int(np.argmax(gaps_s()))] < 3, "not the six again"
