"""A camera for those who have none: the embedded RGB-D camera, or a recording, published as if live.

Publishes image_raw, depth/image_raw, camera_info (sensor-data QoS), the pose of the simulated camera on
/tf_static (on /tf where the camera itself moves), and the simulation's truth on ~/ground_truth_2d and
~/ground_truth_3d: `score` is the visible share of the object, boxes are around the visible pixels, poses are
in the camera's optical frame. As with a real camera, a stamp is the time at which the scene looked so, and a
picture for which there was no time is left out: the simulation's clock never waits. Of a recording every
picture is shown, as if taken now.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from dataclasses import dataclass
from typing import Callable, Iterator

import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from qwen3vl_ros import types
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.perception.camera import qos_of
from qwen3vl_ros.node.signals import StopSignals
from qwen3vl_ros.sim.specs import FOVY_DEG

WORLD_FRAME, CAMERA_FRAME = "world", "camera_color_optical_frame"
PARAMETERS = {
    # name: (default, doc)
    "source": ("sim", "sim, or the path of a recording: a folder of pictures, a video, a rosbag2."),
    "rate": (10.0, "Pictures a second; for a recording 0 keeps its own times."),
    "seed": (0, "Scene k of the simulation has seed + k."),
    "motion": ("static", "static, one_moving (an object slides) or all_moving (the camera orbits)."),
    "scene_every": (4.0, "A new scene after this many seconds; 0 keeps the first."),
    "objects": (0, "Objects in a scene, 1 to 6; 0 leaves it to chance."),
    "gauge": (False, "Stand a dial on the table."),
    "width": (640, "Width of the simulated picture, pixels."),
    "height": (480, "Height of the simulated picture, pixels."),
    "fovy_deg": (FOVY_DEG, "Vertical field of view of the simulated camera, degrees."),
    "quality": ("default", "default or fast rendering."),
    "depth_encoding": ("32FC1", "32FC1 (metres) or 16UC1 (millimetres)."),
    "qos": ("sensor_data", "QoS of the images, as the node's image_qos."),
    "loop": (True, "Start a recording again at its end; false ends the process there."),
    "image_topic": ("", "Topic in a rosbag2; empty chooses."),
    "depth_topic": ("", "Topic in a rosbag2; empty chooses."),
    "camera_info_topic": ("", "Topic in a rosbag2; empty chooses."),
}


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture to publish. due_s: when, after the start. world_T_camera and truths: of the simulation
    only.
    """

    due_s: float
    frame_id: str
    rgb: np.ndarray
    depth_m: np.ndarray | None = None
    K: np.ndarray | None = None
    distortion: np.ndarray | None = None
    distortion_model: str = "plumb_bob"
    world_T_camera: np.ndarray | None = None
    truths: tuple = ()


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
        """Publish every shot at its time, or at once if that has passed. The clock starts with the first;
        that of a recording starts anew with every late one.
        """
        simulated, start_s = self.settings["source"] == "sim", None
        for shot in self._simulated(lambda: time.monotonic() - start_s) if simulated else self._recorded():
            now_s = time.monotonic()
            if start_s is None or not simulated:
                start_s = max(start_s or 0.0, now_s - shot.due_s)
            if stop.wait(max(0.0, start_s + shot.due_s - now_s)):
                return
            late = Duration(seconds=time.monotonic() - start_s - shot.due_s)
            self._publish(shot, self.get_clock().now() - late)

    def _simulated(self, elapsed_s: Callable[[], float]) -> Iterator[Shot]:
        """Without end. elapsed_s(): the camera's clock, which the first shot starts."""
        from qwen3vl_ros.sim.camera import SimCameraError
        from qwen3vl_ros.sim.stream import SimStream

        p = self.settings
        try:
            stream = SimStream(
                p["seed"],
                p["motion"],
                p["scene_every"] or None,
                p["objects"] or None,
                p["rate"],
                gauge=p["gauge"],
                width=p["width"],
                height=p["height"],
                fovy_deg=p["fovy_deg"],
                quality=p["quality"],
            )
        except SimCameraError as error:
            raise types.PerceptionError(f"the simulated camera cannot draw here: {error}") from error
        with stream:
            self.get_logger().info(f"simulated camera, {p['width']}x{p['height']} at {p['rate']:g} Hz")
            stream.frame_at(0.0)  # the first picture has the shaders to wait for: before the clock starts
            k = 0
            while True:
                t_s, begun_s = k / p["rate"], time.monotonic()
                view, _ = stream.frame_at(t_s)
                drawing_s = time.monotonic() - begun_s
                yield Shot(
                    t_s,
                    CAMERA_FRAME,
                    view.rgb,
                    view.depth_m,
                    view.K,
                    world_T_camera=view.world_T_camera,
                    truths=view.truths,
                )
                # The next that can be drawn by its time, if drawing takes as long as it did.
                k = max(k + 1, math.ceil((elapsed_s() + drawing_s) * p["rate"]))

    def _recorded(self) -> Iterator[Shot]:
        from qwen3vl_ros.sim.replay import ReplaySource

        p = self.settings
        source = ReplaySource(
            p["source"],
            p["rate"] or None,
            p["loop"],
            image_topic=p["image_topic"] or None,
            depth_topic=p["depth_topic"] or None,
            camera_info_topic=p["camera_info_topic"] or None,
        )
        self.get_logger().info(f"playing {source.path}")
        first_ns = None
        for frame in source:
            first_ns = frame.stamp_ns if first_ns is None else first_ns
            yield Shot(
                (frame.stamp_ns - first_ns) / 1e9,
                frame.frame_id or CAMERA_FRAME,
                frame.rgb,
                frame.depth_m,
                frame.K,
                frame.distortion,
                frame.distortion_model,
            )

    def _publish(self, shot: Shot, stamp: Time) -> None:
        picture = messages.image(messages.header_of(stamp.nanoseconds, shot.frame_id), shot.rgb)
        depth = None if shot.depth_m is None else messages.image(picture.header, self._encoded(shot.depth_m))
        header = picture.header
        if shot.world_T_camera is not None:
            self._tell_pose(header, shot.world_T_camera)
            self._tell_truth(header, shot)
        if shot.K is not None:
            size_px = shot.rgb.shape[1], shot.rgb.shape[0]
            self._info.publish(messages.camera_info(header, shot.K, size_px, shot.distortion, shot.distortion_model))
        self._image.publish(picture)
        if depth is not None:
            self._depth.publish(depth)

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
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    stop = StopSignals()
    spinning = None
    try:
        node = SimCameraNode()
        spinning = threading.Thread(target=_spin, args=(node,), daemon=True)
        spinning.start()
        node.play(stop)
        return 0
    except (types.PerceptionError, ParameterException) as error:
        print(f"sim_camera: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
        if spinning:
            spinning.join(5.0)  # Python must not end while it is inside the middleware


def _spin(node: SimCameraNode) -> None:
    """Parameters and the clock need an executor."""
    try:
        rclpy.spin(node)
    except ExternalShutdownException:
        pass  # main ends the context when playing is over


if __name__ == "__main__":
    sys.exit(main())
