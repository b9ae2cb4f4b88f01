"""What cameras do in the field: wrong QoS, old stamps, bursts, faults of depth and calibration, unplugging."""

import time

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from ros_graph import OK, OPTICAL, WARN, FakeCamera, picture, until
from sensor_msgs.msg import CompressedImage

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.node import messages


@pytest.fixture(scope="module")
def running(shared_graph):
    shared_graph.start_node("instant")
    camera = FakeCamera(shared_graph).matched()
    heard = shared_graph.results()
    until(lambda: camera.shoot() and heard["generation"], what="the first answer")
    return shared_graph, camera, heard


def problems(values) -> str:
    """Of several, one is the message."""
    return "; ".join(text for name, text in values.items() if name.startswith("problem: "))


def diagnosed_while(graph, camera, words, level=WARN, **how):
    """Shoot until /diagnostics says so; level None: at any level but OK."""
    camera.stream(20, **how)
    try:
        return graph.diagnosed(
            lambda s, v: (
                (s.level == level if level else s.level != OK) and (words in s.message or words in problems(v))
            ),
            what=f"{words!r} in /diagnostics",
        )
    finally:
        camera.stop()


def out_of_step(image, depth, info):
    """By more than anybody waits: a slow machine's pictures are any fraction of a second apart."""
    depth.header = messages.header_of(stamp_ns(depth.header) - 2_000_000_000, OPTICAL)


@pytest.mark.parametrize(
    "name, how, words",
    [
        ("no calibration", dict(info_K=np.zeros((3, 3))), "not calibrated"),
        (
            "calibration of another shape",
            dict(edit=lambda i, d, c: setattr(c, "width", 90)),
            "90x120 but the image is 160x120",
        ),
        (
            "unknown lens",
            dict(edit=lambda i, d, c: (setattr(c, "distortion_model", "fish"), setattr(c, "d", [0.1] * 5))),
            "'fish'",
        ),
        ("unregistered size", dict(depth_m=picture()[1][::2, ::2].copy()), "not registered"),
        (
            "unregistered frame",
            dict(edit=lambda i, d, c: setattr(d.header, "frame_id", "depth_optical")),
            "not registered",
        ),
        ("depth encoding", dict(edit=lambda i, d, c: setattr(d, "encoding", "8UC1")), "8UC1"),
        ("depth out of step", dict(edit=out_of_step), "sync_slop"),
    ],
)
def test_a_fault_of_depth_or_calibration_leaves_2d_and_says_why(running, name, how, words):
    graph, camera, heard = running
    diagnosed_while(graph, camera, words, **how)
    answer = camera.answered(heard, **how)
    assert answer["detections_2d"].detections and not answer["detections_3d"].detections
    diagnosed_while(graph, camera, "active", OK)


def test_waiting_for_depth_never_makes_an_image_too_old(graph):
    """An image is worth waiting 0.5 s for its depth, which is all the time that this one has."""
    graph.start_node("instant", sync_slop=1.0, max_age=0.5)
    diagnosed_while(graph, FakeCamera(graph).matched(), "sync_slop", edit=out_of_step)


@pytest.mark.parametrize(
    "name, depth",
    [
        ("NaN", np.full_like(picture()[1], np.nan)),
        ("zero", np.zeros_like(picture()[1])),
        ("infinite", np.full_like(picture()[1], np.inf)),
        ("negative", -picture()[1]),
    ],
)
def test_depth_without_readings_leaves_2d(running, name, depth):
    graph, camera, heard = running
    answer = camera.answered(heard, depth_m=depth)
    assert answer["detections_2d"].detections and not answer["detections_3d"].detections


def test_holes_in_depth_do_not_stop_the_lifting(running):
    graph, camera, heard = running
    depth = picture()[1]
    depth[np.random.default_rng(1).random(depth.shape) < 0.3] = np.nan
    assert camera.answered(heard, solid=True, depth_m=depth)


def test_millimetres_and_metres_give_the_same_place(running):
    graph, camera, heard = running
    millimetres = np.round(picture()[1] * 1000).astype(np.uint16)
    answers = [camera.answered(heard, solid=True, depth_m=depth) for depth in (picture()[1], millimetres)]
    boxes = [answer["detections_3d"].detections[0].bbox.center.position.z for answer in answers]
    assert boxes[0] == pytest.approx(boxes[1], abs=0.002) and 0.7 < boxes[0] < 0.8


@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("bgr8", picture()[0][..., ::-1]),
        ("rgba8", np.dstack([picture()[0], picture()[0][..., :1]])),
        ("mono8", picture()[0][..., 0]),
    ],
)
def test_usual_encodings_are_read(running, encoding, pixels):
    graph, camera, heard = running
    pixels = np.ascontiguousarray(pixels)

    def edit(image, depth, info):
        image.encoding, image.step, image.data = encoding, pixels.strides[0], pixels.tobytes()

    assert camera.answered(heard, edit=edit)["detections_2d"].detections


def test_an_unknown_encoding_is_reported_and_the_next_image_works(running):
    graph, camera, heard = running
    diagnosed_while(graph, camera, "bayer_rggb12", edit=lambda i, d, c: setattr(i, "encoding", "bayer_rggb12"))
    diagnosed_while(
        graph,
        camera,
        "16x9 rgb8",
        edit=lambda i, d, c: (setattr(i, "width", 16), setattr(i, "height", 9), setattr(i, "data", b"short")),
    )
    assert camera.answered(heard)["detections_2d"].detections


def test_an_image_older_than_max_age_is_dropped_counted_and_reported(running):
    graph, camera, heard = running
    assert graph.set_parameter("max_age", 1.0).successful
    stamp = camera.shoot(age_s=3.0)
    status = diagnosed_while(graph, camera, "older than max_age", age_s=3.0)
    assert int({v.key: v.value for v in status.values}["dropped: stale"]) > 0
    assert not [m for m in heard["detections_2d"] if stamp_ns(m.header) == stamp]
    future = graph.detect(["cube"], 0.3)
    until(future.done)
    assert not future.result().success
    assert graph.set_parameter("max_age", 30.0).successful


def test_images_from_the_future_and_unstamped_ones_are_reported(running):
    graph, camera, heard = running
    diagnosed_while(graph, camera, "in the future", age_s=-2.0)

    def unstamp(image, depth, info):
        for message in (image, depth, info):
            message.header.stamp.sec = message.header.stamp.nanosec = 0

    diagnosed_while(graph, camera, "stamped 0", edit=unstamp)


def test_a_camera_unplugged_and_back_needs_no_restart(running):
    graph, camera, heard = running
    diagnosed_while(graph, camera, "active", OK)
    camera.unplug()
    graph.diagnosed(lambda s, v: "no image for" in s.message and "0 publishers" in v["image topic"], what="STALE")
    assert graph.set_parameter("max_age", 0.5).successful
    future = graph.detect(["cube"], 0.3)
    until(future.done)
    assert not future.result().success and "newest is" in future.result().message
    assert graph.set_parameter("max_age", 30.0).successful
    back = FakeCamera(graph).matched()
    stamps = []
    until(
        lambda: (
            stamps.append(back.shoot())
            or [m for m in heard["detections_3d"] if m.detections and stamp_ns(m.header) in stamps]
        ),
        what="3D again",
    )
    camera.image, camera.depth, camera.info = back.image, back.depth, back.info


def test_a_burst_of_200_at_100_hz_newest_wins_and_memory_is_flat(graph):
    """With an engine slower than the camera, the answers are to recent images, and nothing piles up."""
    process = graph.start_node("quick_for_mugs", targets=["cube"], max_age=10.0)
    camera = FakeCamera(graph).matched()
    heard = graph.results()
    rgb = np.full((480, 640, 3), 120, np.uint8)
    depth = np.full((480, 640), 0.8, np.float32)

    def burst(count):
        next_s, stamps = time.monotonic(), []
        for _ in range(count):
            next_s += 0.01
            stamps.append(camera.shoot(rgb=rgb, depth_m=depth, apart_s=0))
            time.sleep(max(0.0, next_s - time.monotonic()))
        return stamps

    def replaced() -> int:
        status = graph.diagnosed(lambda s, v: int(v["images"]) > 0)
        return int({v.key: v.value for v in status.values}["dropped: replaced by a newer"])

    burst(50)
    before_mib, before = process.rss_mib(), replaced()
    stamps = burst(200)
    # A busy machine loses images, and takes up the prompt before the last ones: of what comes after the burst more is taken up than
    # any queue holds.
    until(lambda: burst(20) and replaced() > before + 100, what="a hundred images that were replaced by a newer")
    until(lambda after=replaced(): burst(20) and replaced() > after + 10, what="images of after the burst")
    assert graph.set_prompt("mug").success
    said = until(lambda: heard["generation"], what="an answer after the burst")[0]
    assert stamp_ns(said.header) >= stamps[-10], "the newest image, not the backlog"
    assert process.rss_mib() - before_mib < 150, "70 captures of more than 200, where 16 may wait for their depth"


def test_no_depth_publisher_at_all_gives_2d_with_a_warning(graph):
    graph.start_node("instant", sync_slop=1.0)  # for which half a second is waited, where there is depth
    camera = FakeCamera(graph, depth=False).matched()
    heard = graph.results()
    diagnosed_while(graph, camera, "no depth image has been received")
    until(
        lambda: camera.shoot(apart_s=0.2) and min((m.latency_s for m in heard["generation"]), default=1.0) < 0.5,
        what="an answer that did not wait for depth that never came",
    )


def test_a_missing_calibration_gives_2d_with_a_warning_until_it_comes(graph):
    graph.start_node("instant")
    camera = FakeCamera(graph, info=False)
    for publisher in (camera.image, camera.depth):
        until(publisher.get_subscription_count)
    heard = graph.results()
    diagnosed_while(graph, camera, "no camera_info has been received")
    assert camera.answered(heard)["detections_2d"].detections
    late = FakeCamera(graph)
    camera.info = late.info
    camera.matched()
    diagnosed_while(graph, camera, "active", OK)
    assert camera.answered(heard, solid=True), "3D once calibrated"


def test_without_use_depth_nothing_is_missing(graph):
    graph.start_node("instant", use_depth=False)
    camera = FakeCamera(graph, depth=False).matched()
    diagnosed_while(graph, camera, "active", OK)


def test_compressed_images_are_read(graph):
    graph.start_node("instant", image_transport="compressed")
    camera = FakeCamera(graph)
    camera.image = graph.node.create_publisher(
        CompressedImage, "/qwen3vl/image_raw/compressed", qos_profile_sensor_data
    )
    camera.matched()
    heard = graph.results()
    jpeg = cv2.imencode(".jpg", picture()[0][..., ::-1])[1].tobytes()

    class Compressing:
        topic_name = camera.image.topic_name
        real = camera.image

        def publish(self, image):
            self.real.publish(CompressedImage(header=image.header, format="jpeg", data=jpeg))

    camera.image = Compressing()
    until(
        lambda: camera.shoot() and [m for m in heard["detections_3d"] if m.detections], what="3D from compressed images"
    )
    assert heard["detections_2d"][0].header.frame_id == OPTICAL


@pytest.mark.parametrize("asked, offered, policy", [("reliable", ReliabilityPolicy.BEST_EFFORT, "RELIABILITY")])
def test_qos_that_does_not_fit_is_reported_with_the_parameter_to_set(graph, asked, offered, policy):
    process = graph.start_node("instant", image_qos=asked)
    camera = FakeCamera(graph, QoSProfile(depth=5, reliability=offered))
    status = diagnosed_while(graph, camera, "offers QoS that does not fit", level=None)
    for words in ("/qwen3vl/", policy, "image_qos"):
        assert words in status.message
    assert "/qwen3vl/image_raw offers QoS that does not fit" in process.log


@pytest.mark.parametrize("qos", ["sensor_data", "system_default", "default", "reliable", "best_effort"])
def test_every_name_of_image_qos_hears_a_reliable_camera(graph, qos):
    graph.start_node("instant", image_qos=qos)
    camera = FakeCamera(graph, QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)).matched()
    heard = graph.results()
    until(lambda: camera.shoot() and heard["detections_2d"], what="an answer")


def test_ages_are_told_by_the_node_s_clock(graph):
    """In simulated time an image of second 1000 is new, whatever the wall says."""
    from rosgraph_msgs.msg import Clock as ClockMessage

    clock = graph.node.create_publisher(ClockMessage, "/clock", 10)
    now = ClockMessage()
    now.clock.sec = 1000
    graph.start_node("instant", "-p", "use_sim_time:=true", max_age=0.2)
    camera = FakeCamera(graph).matched()
    heard = graph.results()

    def simulated(image, depth, info):
        for message in (image, depth, info):
            message.header.stamp.sec, message.header.stamp.nanosec = 999, 900_000_000
        clock.publish(now)

    until(lambda: camera.shoot(edit=simulated) and heard["generation"], what="an answer in simulated time")
    assert heard["generation"][-1].header.stamp.sec == 999
    assert heard["generation"][-1].latency_s == pytest.approx(0.1)
