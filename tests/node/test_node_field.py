"""What the field sends to the node over DDS: odd encodings, turned and broken pictures, calibrations said once, clocks
that start again. Nothing of it ends the node, and the next good image is answered.
"""

import struct
import zlib

import cv2
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from ros_graph import OPTICAL, FakeCamera, K, picture, publish_static, until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.node import messages

RGB = picture()[0]
HEIGHT, WIDTH = RGB.shape[:2]


@pytest.fixture(scope="module")
def running(shared_graph):
    shared_graph.start_node("instant", max_image_pixels=1_000_000)
    camera = FakeCamera(shared_graph).matched()
    heard = shared_graph.results()
    until(lambda: camera.shoot() and heard["generation"], what="the first answer")
    return shared_graph, camera, heard


def diagnosed_while(graph, camera, words, **how):
    camera.stream(20, **how)
    try:
        return graph.diagnosed(lambda s, v: words in s.message or words in v["last error"], what=repr(words))
    finally:
        camera.stop()


def replaced(encoding, pixels, step=None):
    """An edit that sends these bytes as the image."""

    def edit(image, depth, info):
        image.encoding, image.data = encoding, np.ascontiguousarray(pixels).tobytes()
        image.step = step or len(image.data) // HEIGHT

    return edit


def packed_yuv(first_is_chroma):
    y, u, v = cv2.split(cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV))
    chroma = np.where(np.arange(WIDTH) % 2, v, u)
    return np.dstack((chroma, y) if first_is_chroma else (y, chroma))


NV12 = np.vstack((RGB[..., 1], np.full((HEIGHT // 2, WIDTH), 128, np.uint8)))


@pytest.mark.parametrize(
    "encoding, pixels, step",
    [
        ("yuv422", packed_yuv(True), None),
        ("uyvy", packed_yuv(True), None),
        ("yuv422_yuy2", packed_yuv(False), None),
        ("yuyv", packed_yuv(False), None),
        ("nv12", NV12, WIDTH),
        ("nv21", NV12, WIDTH),
        ("bayer_rggb8", RGB[..., 0], None),
        ("bayer_gbrg8", RGB[..., 0], None),
        ("bayer_bggr16", RGB[..., 0].astype(np.uint16) * 256, None),
        ("rgb16", RGB.astype(np.uint16) * 256, None),
    ],
)
def test_images_of_every_usual_encoding_are_answered(running, encoding, pixels, step):
    graph, camera, heard = running
    answer = camera.answered(heard, edit=replaced(encoding, pixels, step))
    assert answer["detections_2d"].detections and answer["detections_3d"].header.frame_id == OPTICAL


@pytest.mark.parametrize(
    "encoding, pixels, words",
    [
        ("yuv422", packed_yuv(True)[:, :10], "says 160x120 yuv422"),
        ("nv12", NV12[:HEIGHT], "says 160x180 nv12"),
        ("bayer_rggb16", RGB[..., 0], "says 160x120 bayer_rggb16"),
        ("32SC4", RGB, "32SC4"),
        ("x" * 1_000_000, RGB, "(1000000 characters)"),
        ("\n\x00\x1b[31m", RGB, "\\n"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_is_no_image_is_a_line_of_reason_and_the_next_one_is_answered(running, encoding, pixels, words):
    graph, camera, heard = running
    status = diagnosed_while(graph, camera, words, edit=replaced(encoding, pixels))
    assert len(status.message) < 1500 and max(len(value.value) for value in status.values) < 1500
    assert camera.answered(heard)["detections_2d"].detections
    assert max(map(len, graph.processes[0].log.splitlines())) < 2000


def test_a_long_name_of_a_frame_is_cut_where_it_is_shown(running):
    graph, camera, heard = running

    def edit(image, depth, info):
        depth.header = messages.header_of(stamp_ns(image.header), "f" * 1_000_000)

    status = diagnosed_while(graph, camera, "ff'... (1000000 characters) but the image in", edit=edit)
    assert len(status.message) < 1500
    assert not camera.answered(heard, edit=edit)["detections_3d"].detections
    assert max(map(len, graph.processes[0].log.splitlines())) < 2000


def test_an_image_above_the_limit_is_refused_with_the_parameter(running):
    graph, camera, heard = running
    large = np.zeros((1001, 1000, 3), np.uint8)
    diagnosed_while(graph, camera, "max_image_pixels", rgb=large, depth_m=np.zeros((1001, 1000), np.float32))
    assert camera.answered(heard)["detections_2d"].detections


@pytest.mark.parametrize(
    "name, edit, words",
    [
        ("centre far away", lambda i, d, c: c.k.__setitem__(2, 1e9), "no lens"),
        ("focal length of a grain", lambda i, d, c: c.k.__setitem__(0, 1e-9), "no lens"),
        ("no last row", lambda i, d, c: c.k.__setitem__(8, 0.0), "0 0 1"),
        ("distortion that is no number", lambda i, d, c: setattr(c, "d", [float("nan")] * 5), "finite"),
        ("a long model", lambda i, d, c: (setattr(c, "distortion_model", "m" * 10**6), setattr(c, "d", [1.0])), "'mmm"),
        ("a region elsewhere", lambda i, d, c: (setattr(c.roi, "x_offset", 2**32 - 1), setattr(c.roi, "width", 160),
                                                setattr(c.roi, "height", 120)), "no lens"),
    ],
)  # fmt: skip
def test_absurd_calibrations_leave_2d_and_say_why(running, name, edit, words):
    graph, camera, heard = running
    diagnosed_while(graph, camera, words, edit=edit)
    answer = camera.answered(heard, edit=edit)
    assert answer["detections_2d"].detections and not answer["detections_3d"].detections


@pytest.mark.parametrize(
    "model, d",
    [
        ("plumb_bob", [0.01, 0.0, 0.0, 0.0]),
        ("plumb_bob", [0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("rational_polynomial", [0.01] * 2 + [0.0] * 12),
        ("rational_polynomial", [0.01] * 12),
        ("fisheye", [0.01, 0.0, 0.0, 0.0]),
        ("equidistant", [0.01, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_lenses_by_every_name_and_length_give_space(running, model, d):
    graph, camera, heard = running

    def edit(image, depth, info):
        info.distortion_model, info.d = model, d

    assert camera.answered(heard, solid=True, edit=edit)


def test_frames_with_a_leading_slash_are_the_same_frames(running):
    graph, camera, heard = running

    def edit(image, depth, info):
        depth.header = messages.header_of(stamp_ns(image.header), OPTICAL)
        image.header.frame_id = "/" + OPTICAL

    answer = camera.answered(heard, solid=True, edit=edit)
    assert {message.header.frame_id for message in answer.values()} == {OPTICAL}


# -- compressed ---------------------------------------------------------------------------------------------------


class Compressing:
    """Stands in the place of a publisher of Image; `data` is what the next pictures are."""

    def __init__(self, graph):
        topic = "/qwen3vl/image_raw/compressed"
        self.real = graph.node.create_publisher(CompressedImage, topic, qos_profile_sensor_data)
        self.topic_name, self.format, self.data = topic, "jpeg", b""
        self.get_subscription_count = self.real.get_subscription_count

    def publish(self, image):
        self.real.publish(CompressedImage(header=image.header, format=self.format, data=self.data))


def jpeg_turned(orientation):
    plain = cv2.imencode(".jpg", RGB[..., ::-1])[1].tobytes()
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def png_bomb():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 3 * 30_000) * 300)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_compressed_pictures_are_read_as_the_sensor_saw_them_or_refused_before_they_are_decoded(graph):
    process = graph.start_node("instant", image_transport="compressed")
    camera = FakeCamera(graph)
    camera.image = Compressing(graph)
    camera.matched()
    heard = graph.results()
    camera.image.data = jpeg_turned(6)  # turned, 120x160 pixels would fit neither depth nor calibration
    assert camera.answered(heard, solid=True)
    before_mib = process.rss_mib()
    whole = cv2.imencode(".png", RGB)[1].tobytes()
    refused = {
        "half a JPEG": (jpeg_turned(1)[:-500], "cut short"),
        "half a PNG": (whole[: len(whole) // 2], "cut short"),
        "900 megapixels": (png_bomb(), "max_image_pixels"),
        "no picture": (b"<html>", "JPEG or PNG"),
    }
    for data, words in refused.values():
        camera.image.data = data
        diagnosed_while(graph, camera, words)
    assert process.rss_mib() - before_mib < 100
    camera.image.data = whole  # another picture: depth that stayed the same to the bit would be a frozen one
    assert camera.answered(heard, solid=True, depth_m=picture()[1] + np.float32(0.001))


# -- rectified ----------------------------------------------------------------------------------------------------


def rectified_info(image, depth, info):
    """The camera's own K is quite another, as for raw images of the same camera."""
    info.k = [150.0, 0.0, 70.0, 0.0, 150.0, 50.0, 0.0, 0.0, 1.0]
    info.distortion_model, info.d = "plumb_bob", [-0.4, 0.1, 0.0, 0.0, 0.0]
    info.p = [float(v) for v in np.column_stack((K, np.zeros(3))).ravel()]


@pytest.mark.parametrize(
    "arguments, parameters",
    [(("-r", "image_raw:=/qwen3vl/image_rect"), {}), ((), {"rectification": "rectified"})],
    ids=["by the topic", "by the parameter"],
)
def test_rectified_images_are_placed_by_the_projection(graph, arguments, parameters):
    graph.start_node("instant", *arguments, **parameters)
    camera = FakeCamera(graph)
    if arguments:
        graph.node.destroy_publisher(camera.image)
        camera.image = graph.node.create_publisher(messages.Image, "/qwen3vl/image_rect", qos_profile_sensor_data)
    camera.matched()
    heard = graph.results()
    answer = camera.answered(heard, solid=True, edit=rectified_info)
    place = answer["detections_3d"].detections[0].bbox.center.position
    assert abs(place.x) < 0.02 and abs(place.y) < 0.02, "the cube stands on the optical axis"


# -- calibrations said once, latched or late ----------------------------------------------------------------------

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)


def calibration(stamp=0):
    return messages.camera_info(messages.header_of(stamp, OPTICAL), K, (WIDTH, HEIGHT))


def test_a_latched_calibration_of_before_the_node_is_heard(graph):
    latched = graph.node.create_publisher(CameraInfo, "/qwen3vl/camera_info", LATCHED)
    latched.publish(calibration())
    graph.start_node("instant")
    camera = FakeCamera(graph, info=False)
    for publisher in (camera.image, camera.depth):
        until(publisher.get_subscription_count)
    assert camera.answered(graph.results(), solid=True)


def test_a_latched_calibration_that_comes_late_is_heard(graph):
    graph.start_node("instant")
    camera = FakeCamera(graph, info=False)
    heard = graph.results()
    assert not camera.answered(heard)["detections_3d"].detections
    latched = graph.node.create_publisher(CameraInfo, "/qwen3vl/camera_info", LATCHED)
    latched.publish(calibration())
    assert camera.answered(heard, solid=True)


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_a_calibration_said_once_holds(graph, reliability):
    graph.start_node("instant")
    once = graph.node.create_publisher(CameraInfo, "/qwen3vl/camera_info", QoSProfile(depth=1, reliability=reliability))
    camera = FakeCamera(graph, info=False)
    for publisher in (once, camera.image, camera.depth):
        until(publisher.get_subscription_count)
    heard = graph.results()
    none = calibration()
    none.k = np.zeros(9)
    # The reader's side of DDS may know the writer later than the writer knows it: it does once it has heard this.
    diagnosed_while(graph, camera, "not calibrated", edit=lambda *_: once.publish(none))
    once.publish(calibration(1))
    for _ in range(3):
        assert camera.answered(heard, solid=True)


# -- clocks that start again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length_s", [0.3, 30.0])
def test_a_bag_that_loops_under_simulated_time_is_answered_in_every_round(graph, length_s):
    """A short bag jumps back by less than a restarted camera does; the calibration is said in the first round only."""
    clock = graph.node.create_publisher(Clock, "/clock", 10)
    static = publish_static(graph, "base", OPTICAL, np.eye(4))
    process = graph.start_node("instant", "-p", "use_sim_time:=true", "-p", "target_frame:=base")
    camera = FakeCamera(graph).matched()
    heard = graph.results()
    said_once = camera.info

    def play(from_ns, to_ns):
        """Pictures at 20 Hz of the bag; its clock runs as fast as we do."""
        for stamp in range(from_ns, to_ns, 50_000_000):

            def stamped(image, depth, info, stamp=stamp):
                for message in (image, depth, info):
                    message.header = messages.header_of(stamp, OPTICAL)
                now = Clock()
                now.clock.sec, now.clock.nanosec = divmod(stamp, 10**9)
                clock.publish(now)

            camera.shoot(edit=stamped)

    start_ns, length_ns = 1000 * 10**9, int(length_s * 1e9)
    for _ in range(3):
        answers = len(heard["detections_3d"])
        until(
            lambda answers=answers: (
                play(start_ns, start_ns + min(length_ns, 10**9)) or play(start_ns + length_ns, start_ns + length_ns + 1)
                or [m for m in heard["detections_3d"][answers:] if m.detections and m.header.frame_id == "base"]
            ),
            what="3D in the target frame, in this round",
        )  # fmt: skip
        camera.info = None
    assert "the clock jumped back" in process.log
    first, last = ({d.id for d in m.detections} for m in (heard["detections_2d"][0], heard["detections_2d"][-1]))
    assert first and last and not first & last, (
        "what stands there in a later round is not what stood there in the first"
    )
    camera.info, _ = said_once, static
