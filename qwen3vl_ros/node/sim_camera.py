"""A camera for those who have none: the embedded RGB-D camera, or a recording, published as if live.

Publishes image_raw, depth/image_raw, camera_info (sensor-data QoS), the pose of the simulated camera on
/tf_static (on /tf where the camera itself moves), and the simulation's truth on ~/ground_truth_2d and
~/ground_truth_3d, or of a plant panel on ~/ground_truth_readings: `score` is the visible share of the object, boxes are around the visible pixels, poses are
in the camera's optical frame. As with a real camera, a stamp is the time at which the scene looked so, and a
picture for which there was no time is left out: the simulation's clock never waits. Of a recording every
picture is shown, as if taken now, with its own gaps, frame and depth: the node judges it as it would have judged
the camera.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from qwen3vl_ros import types
from qwen3vl_ros.config import Config
from qwen3vl_ros.msg import Reading
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.perception.camera import qos_of
from qwen3vl_ros.node.playing import run
from qwen3vl_ros.node.signals import StopSignals
from qwen3vl_ros.sim.shots import CAMERA_FRAME, WORLD_FRAME, Shot, recorded, simulated
from qwen3vl_ros.sim.specs import FOVY_DEG

PARAMETERS = {
    # name: (default, doc)
    "source": ("sim", "sim, or the path of a recording: a folder of pictures, a video, a rosbag2."),
    "rate": (
        0.0,
        "Of the simulation: pictures a second, 0 is 10. Of a recording: how much faster than it was, 0 is 1.",
    ),
    "seed": (0, "Scene k of the simulation has seed + k."),
    "motion": ("static", "static, one_moving (an object slides) or all_moving (the camera orbits)."),
    "scene_every": (4.0, "A new scene after this many seconds; 0 keeps the first."),
    "objects": (0, "Objects in a scene, 1 to 6; 0 leaves it to chance."),
    "gauge": (False, "Stand a dial on the table."),
    "panel": (False, "Show a plant panel with dials in place of the table: no depth, no poses; width 960, height 720."),
    "wide": (
        False,
        "Scenes of the wider world: boxes, trays, shelves, signs, dials; objects and gauge are left to it.",
    ),
    "depth_noise": (True, "Depth with a real camera's noise, steps and holes; false gives exact depth."),
    "frame": (CAMERA_FRAME, "Frame of the simulated pictures, and of recorded ones that name none."),
    "width": (640, "Width of the simulated picture, pixels."),
    "height": (480, "Height of the simulated picture, pixels."),
    "fovy_deg": (FOVY_DEG, "Vertical field of view of the simulated camera, degrees."),
    "quality": ("default", "default or fast rendering."),
    "depth_encoding": ("32FC1", "32FC1 (metres) or 16UC1 (millimetres)."),
    "qos": ("sensor_data", "QoS of the images, as the node's image_qos."),
    "loop": (True, "Start a recording again at its end; false ends the process there."),
    "wait": (20.0, "Longest time that a recording waits for a subscriber of image_raw before it starts, seconds."),
    "rectification": (Config.rectification, "As the node's parameter: whether the recorded pictures are rectified."),
    "max_image_pixels": (Config.max_image_pixels, "As the node's parameter: larger recorded pictures are left out."),
    "image_topic": ("", "Topic in a rosbag2; empty chooses."),
    "depth_topic": ("", "Topic in a rosbag2; empty chooses."),
    "camera_info_topic": ("", "Topic in a rosbag2; empty chooses."),
}
LATE_S = 0.02  # a recording later than this goes on from where it is, with its own gaps
MATCHED_S = (
    0.5  # DDS tells a publisher of a subscriber before the subscriber hears it, and of one topic after the other
)
TAKEN_S = 10.0  # for which a reliable subscriber may be slow to take the last pictures of a recording
LAST_ONES_S = 0.5  # pictures still on their way when a recording is over


class SimCameraNode(Node):
    """Node `sim_camera`. play() runs until the recording ends or `stop` is set."""

    def __init__(self, **kwargs):
        super().__init__("sim_camera", **{"namespace": "qwen3vl", **kwargs})
        self.settings = {name: self._declared(name, default, doc) for name, (default, doc) in PARAMETERS.items()}
        if self.settings["depth_encoding"] not in ("32FC1", "16UC1"):
            raise types.InvalidInput(
                f"parameter depth_encoding is {self.settings['depth_encoding']!r}; it must be 32FC1 or 16UC1"
            )
        qos = qos_of(self.settings["qos"]) if self.settings["qos"] != "sensor_data" else qos_profile_sensor_data
        self._image = self.create_publisher(Image, "image_raw", qos)
        self._depth = self.create_publisher(Image, "depth/image_raw", qos)
        self._info = self.create_publisher(CameraInfo, "camera_info", qos)
        self._static_tf = self.create_publisher(
            TFMessage, "/tf_static", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        )
        self._tf = self.create_publisher(TFMessage, "/tf", 100)
        self._truth_2d = self.create_publisher(Detection2DArray, "~/ground_truth_2d", 10)
        self._truth_3d = self.create_publisher(Detection3DArray, "~/ground_truth_3d", 10)
        self._values = self.create_publisher(Reading, "~/ground_truth_readings", 50)
        self._pose_told: np.ndarray | None = None

    def _declared(self, name: str, default, doc: str):
        from rcl_interfaces.msg import ParameterDescriptor

        value = self.declare_parameter(
            name,
            default,
            ParameterDescriptor(description=doc, read_only=True, dynamic_typing=isinstance(default, float)),
        ).value
        if isinstance(default, float):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise types.InvalidInput(f"parameter {name} = {value!r} must be a number")
            value = float(value)
        return value

    def play(self, stop: StopSignals) -> None:
        """Publish every shot at its time, until `stop` is set or a recording is over."""
        if self.settings["source"] == "sim":
            self._play_simulation(stop)
        else:
            self._play_recording(stop)

    def _play_simulation(self, stop: StopSignals) -> None:
        """The clock starts with the first shot and never waits; a late one keeps the stamp of its time."""
        start_s = None
        for shot in simulated(self.settings, lambda: time.monotonic() - start_s, self.get_logger().info):
            start_s = time.monotonic() if start_s is None else start_s
            if stop.wait(max(0.0, start_s + shot.due_s - time.monotonic())):
                return
            late_ns = round((time.monotonic() - start_s - shot.due_s) * 1e9)
            self._publish(shot, self.get_clock().now().nanoseconds - late_ns)

    def _play_recording(self, stop: StopSignals) -> None:
        """The clock waits for whoever is late: a subscriber, the disk, a process that was stopped for a while."""
        start_s, count, rate = None, 0, self._recording_rate()
        for shot in recorded(self.settings, self.get_logger().info, self.get_logger().warning):
            if start_s is None:
                if not self._wait_for_subscriber(stop):
                    return
                start_s = time.monotonic()
            if stop.wait(max(0.0, start_s + shot.due_s / rate - time.monotonic())):
                return
            late_s = time.monotonic() - start_s - shot.due_s / rate
            start_s += late_s if late_s > LATE_S else 0.0
            self._publish(shot, self.get_clock().now().nanoseconds)
            count += 1
            if count == 1:  # which may be published before the other side knows of it
                self._until_taken(stop, self.settings["wait"])
        self._until_taken(stop, TAKEN_S)
        stop.wait(LAST_ONES_S)
        self.get_logger().info(f"the recording is over: {count} pictures")

    def _recording_rate(self) -> float:
        rate = self.settings["rate"] or 1.0
        if not 0.001 <= rate <= 1000:
            raise types.InvalidInput(f"parameter rate is {rate:g}; a recording plays 0.001 to 1000 times as fast")
        return rate

    def _wait_for_subscriber(self, stop: StopSignals) -> bool:
        """False if asked to stop meanwhile."""
        topic, longest_s, began_s = self._image.topic_name, self.settings["wait"], time.monotonic()
        if not self._image.get_subscription_count():
            self.get_logger().info(f"waiting up to {longest_s:g} s for a subscriber of {topic}")
        while not self._image.get_subscription_count():
            if stop.wait(0.02):
                return False
            if time.monotonic() - began_s > longest_s:
                self.get_logger().warning(f"nobody has subscribed to {topic}; the recording starts unseen")
                break
        return not stop.wait(MATCHED_S)

    def _until_taken(self, stop: StopSignals, longest_s: float) -> None:
        """Until every reliable subscriber has what was published; of the others nobody knows."""
        end_s = time.monotonic() + longest_s
        for publisher in (self._image, self._depth, self._info):
            while not publisher.wait_for_all_acked(Duration(seconds=0.05)):
                if stop.is_set() or time.monotonic() > end_s:
                    return

    def _publish(self, shot: Shot, stamp_ns: int) -> None:
        frame = shot.frame
        header = messages.header_of(stamp_ns, frame.frame_id or self.settings["frame"])
        picture = messages.image(header, frame.rgb)
        if frame.target_T_camera is not None:
            self._tell_pose(header, frame.target_T_camera)
            self._tell_truth(header, shot)
        if frame.K is not None:
            self._info.publish(
                messages.camera_info(header, frame.K, frame.size_px, frame.distortion, frame.distortion_model)
            )
        if shot.values is not None:
            self._tell_values(header, shot.values)
        self._image.publish(picture)
        if shot.depth is not None:
            # Played faster, pictures are closer together, and so is the depth between them.
            apart_ns = round((shot.depth.stamp_ns - frame.stamp_ns) / max(1.0, self.settings["rate"] or 1.0))
            depth_header = messages.header_of(stamp_ns + apart_ns, shot.depth.frame_id or header.frame_id)
            self._depth.publish(messages.image(depth_header, self._encoded(shot.depth.metres)))

    def _tell_values(self, header, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._values.publish(Reading(header=header, point=name, value=value, uncertainty=0.0))

    def _encoded(self, depth_m: np.ndarray) -> np.ndarray:
        if self.settings["depth_encoding"] == "32FC1":
            return depth_m.astype(np.float32, copy=False)
        return np.clip(np.nan_to_num(depth_m) * 1000 + 0.5, 0, 65535).astype(np.uint16)

    def _tell_pose(self, header, world_T_camera: np.ndarray) -> None:
        moving = self.settings["motion"] == "all_moving"
        if not moving and self._pose_told is not None and np.array_equal(self._pose_told, world_T_camera):
            return
        self._pose_told = world_T_camera
        stamped = TransformStamped(child_frame_id=header.frame_id, transform=messages.transform_msg(world_T_camera))
        stamped.header.stamp, stamped.header.frame_id = header.stamp, WORLD_FRAME
        (self._tf if moving else self._static_tf).publish(TFMessage(transforms=[stamped]))

    def _tell_truth(self, header, shot: Shot) -> None:
        seen = [t for t in shot.truths if t.visibility > 0]
        self._truth_2d.publish(
            messages.detections_2d(
                header, [types.Detection2D(t.label, t.box_xyxy_px, t.visibility, str(t.index)) for t in seen]
            )
        )
        self._truth_3d.publish(
            messages.detections_3d(
                header,
                [
                    types.Detection3D(
                        str(t.index),
                        t.label,
                        t.visibility,
                        header.frame_id,
                        t.camera_T_object,
                        np.asarray(t.size_m, float),
                    )
                    for t in seen
                ],
            )
        )


def main(args: list[str] | None = None) -> int:
    """Publish until told to stop or until the recording ends; returns the exit status."""
    return run(SimCameraNode, "sim_camera", args)


if __name__ == "__main__":
    sys.exit(main())
