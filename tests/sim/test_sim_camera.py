"""The camera for those who have none: the simulation and its truth agree, recordings play as if live."""

import cv2
import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from ros_graph import START_PATIENCE_S, Process, until
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from qwen3vl_ros.calibration import intrinsics_of
from qwen3vl_ros.convert import depth_of, matrix_of, rgb_of, stamp_ns

CAMERA = "qwen3vl_ros.node.sim_camera"
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def start(graph, **parameters) -> Process:
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return graph.start("-m", CAMERA, "--ros-args", *arguments, name="camera")


def images(graph):
    return {
        "image": graph.listen("/qwen3vl/image_raw", Image, qos_profile_sensor_data),
        "depth": graph.listen("/qwen3vl/depth/image_raw", Image, qos_profile_sensor_data),
        "info": graph.listen("/qwen3vl/camera_info", CameraInfo, qos_profile_sensor_data),
    }


def of_one_stamp(*lists):
    """One message of each list, all of one capture; None while there is none."""
    common = set.intersection(*({stamp_ns(m.header) for m in heard} for heard in lists))
    return [next(m for m in heard if stamp_ns(m.header) == max(common)) for heard in lists] if common else None


def test_pictures_depth_intrinsics_pose_and_truth_belong_together(graph):
    still = dict(objects=4, scene_every=0.0, width=320, height=240, quality="fast")
    camera = start(graph, seed=5, depth_encoding="16UC1", depth_noise=False, **still)
    heard = images(graph)
    flat = graph.listen("/qwen3vl/sim_camera/ground_truth_2d", Detection2DArray)
    solid = graph.listen("/qwen3vl/sim_camera/ground_truth_3d", Detection3DArray)
    poses = graph.listen("/tf_static", TFMessage, LATCHED)
    image, depth, info, boxes, objects = until(
        lambda: of_one_stamp(*heard.values(), flat, solid), START_PATIENCE_S, "one whole capture"
    )
    until(lambda: poses, START_PATIENCE_S, "the pose of the camera")

    assert (image.encoding, depth.encoding) == ("rgb8", "16UC1")
    assert image.header == depth.header == info.header == boxes.header == objects.header
    rgb, metres = rgb_of(image), depth_of(depth)
    K, distortion, _ = intrinsics_of(info, (320, 240))
    assert rgb.shape == (240, 320, 3) and rgb.std() > 5 and distortion is None
    assert [d.id for d in boxes.detections] == [d.id for d in objects.detections] and 1 <= len(boxes.detections) <= 4
    for box, thing in zip(boxes.detections, objects.detections):
        centre, p = box.bbox.center.position, thing.bbox.center.position
        u, v, w = K @ (p.x, p.y, p.z) / p.z
        assert abs(u + 0.5 - centre.x) < box.bbox.size_x / 2 and abs(v + 0.5 - centre.y) < box.bbox.size_y / 2
        size = thing.bbox.size
        near = metres[int(v), int(u)]
        assert abs(near - p.z) < 0.75 * np.linalg.norm((size.x, size.y, size.z)), "its surface is about its centre"
        assert box.results[0].hypothesis.class_id == thing.results[0].hypothesis.class_id
    stamped = poses[-1].transforms[0]
    assert (stamped.header.frame_id, stamped.child_frame_id) == ("world", image.header.frame_id)
    world_T_camera = matrix_of(stamped.transform)
    p = objects.detections[0].bbox.center.position
    assert 0 < (world_T_camera @ (p.x, p.y, p.z, 1))[2] < 0.2, "objects stand on the table, which is z = 0"
    camera.interrupt()
    assert camera.status() == 0


def test_depth_comes_as_a_real_camera_measures_it_and_anew_in_each_picture(graph):
    start(graph, seed=5, scene_every=0.0, width=320, height=240, quality="fast", objects=4)
    heard = images(graph)["depth"]
    until(lambda: len(heard) >= 2, START_PATIENCE_S, "two depth pictures of a still scene")
    one, other = map(depth_of, heard[-2:])
    both = (one > 0) & (other > 0)
    assert 0.0005 < (one - other)[both].std() / np.sqrt(2) < 0.01 and 0.9 < both.mean() < 0.998


def test_a_camera_that_moves_tells_its_pose_as_it_moves(graph):
    start(graph, motion="all_moving", width=160, height=120, quality="fast")
    moving = graph.listen("/tf", TFMessage, 50)
    until(lambda: len(moving) > 5, START_PATIENCE_S, "poses")
    poses = [matrix_of(m.transforms[0].transform) for m in moving[:6]]
    assert not np.allclose(poses[0], poses[-1], atol=1e-4)


SLOW_CAMERA = """
import dataclasses, sys, time
import numpy as np
from qwen3vl_ros.node.sim_camera import main
from qwen3vl_ros.sim.stream import SimStream

draw = SimStream.frame_at

def frame_at(self, t_s):
    view, scene = draw(self, t_s)
    self.drawn = getattr(self, "drawn", 0) + 1
    time.sleep(0.05 if self.drawn % 2 else 0.3)
    return dataclasses.replace(view, rgb=view.rgb * 0 + np.uint8(divmod(round(t_s * self.rate_hz), 256) + (0,))), scene

SimStream.frame_at = frame_at
sys.exit(main(["-c", *sys.argv[1:]]))
"""


def test_a_camera_that_draws_too_slowly_leaves_pictures_out_and_stamps_the_others_rightly(graph):
    """Every other picture takes 6 periods, which cannot be foreseen; each shows its own number."""
    graph.start("-c", SLOW_CAMERA, "--ros-args", "-p", "rate:=20.0", "-p", "width:=32", "-p", "height:=24")
    shown = graph.listen("/qwen3vl/image_raw", Image, qos_profile_sensor_data)
    until(lambda: len(shown) >= 10, START_PATIENCE_S, "ten pictures")
    numbers = np.array([rgb_of(m)[0, 0].astype(int) @ (256, 1, 0) for m in shown])
    stamps_s = np.array([stamp_ns(m.header) for m in shown]) / 1e9
    assert np.all(np.diff(numbers) > 0) and np.max(np.diff(numbers)) >= 6, "there was no time for some"
    off_s = (
        stamps_s - numbers / 20
    )  # each other picture comes a quarter of a second later; a busy machine delays one or two as well
    assert np.percentile(np.abs(off_s - np.median(off_s)), 75) < 0.05, "the scene looked so at that time"


def recording(folder):
    """Five pictures with depth and calibration."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for i in range(5):
        cv2.imwrite(str(folder / "rgb" / f"{i:03}.png"), np.full((12, 16, 3), (10, 20, 40 * i), np.uint8))
        cv2.imwrite(str(folder / "depth" / f"{i:03}.png"), np.full((12, 16), 500 + i, np.uint16))
    (folder / "camera_info.yaml").write_text(
        "image_width: 16\nimage_height: 12\n"
        "camera_matrix: {rows: 3, cols: 3, data: [20, 0, 7.5, 0, 20, 5.5, 0, 0, 1]}\n"
        "distortion_model: plumb_bob\ndistortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}\n"
    )
    return folder


def test_a_recording_plays_as_if_live_again_and_again(graph, tmp_path):
    before = graph.node.get_clock().now().nanoseconds
    start(graph, source=recording(tmp_path / "rec"), rate=20.0)
    heard = images(graph)
    until(lambda: len(heard["image"]) > 12, START_PATIENCE_S, "more pictures than were recorded")
    image, depth, info = until(lambda: of_one_stamp(*heard.values()), what="one whole capture")
    assert stamp_ns(image.header) > before, "stamps are now"
    shade = int(rgb_of(image)[0, 0, 0]) // 40
    assert np.allclose(depth_of(depth), 0.5 + 0.001 * shade) and info.k[0] == 20
    stamps = [stamp_ns(m.header) for m in heard["image"]]
    assert 0 < min(np.diff(stamps)) / 1e9 < 0.1, "one at least in time"


def test_a_recording_that_does_not_loop_ends_in_peace(graph, tmp_path):
    camera = start(graph, source=recording(tmp_path / "rec"), rate=50.0, loop="false")
    assert camera.status() == 0, camera.log


def test_what_cannot_be_played_ends_with_status_2_and_the_reason(graph, tmp_path):
    wrong = {
        "no recording": dict(source=tmp_path / "nothing"),
        "motion": dict(motion="wild"),
        "rate": dict(rate=-1.0),
        "width": dict(width="wide"),
        "depth_encoding": dict(depth_encoding="8UC1"),
    }
    words = {"no recording": "does not exist"}
    started = [(name, start(graph, **parameters)) for name, parameters in wrong.items()]
    for name, process in started:
        assert process.status() == 2, process.log
        assert words.get(name, name) in process.log and "Traceback" not in process.log
