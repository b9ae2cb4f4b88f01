"""The camera's topics: subscriptions that only store, QoS that reports misfits, and one capture as a Frame.

Callbacks put messages into the mailbox and return; `frame_of` runs on the engine's thread, so that only
images which get an answer are ever converted.
"""

from __future__ import annotations

import time

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
    qos_profile_system_default,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from qwen3vl_ros.calibration import intrinsics_of, is_rectified, why_unregistered
from qwen3vl_ros.config import Config
from qwen3vl_ros.convert import depth_of, frame_id_of, rgb_of, stamp_ns
from qwen3vl_ros.node.perception.diagnostics import Health, Level
from qwen3vl_ros.node.perception.frozen import FrozenDepth
from qwen3vl_ros.node.perception.mailbox import Mailbox, Snapshot
from qwen3vl_ros.node.perception.tf import TransformUnavailable
from qwen3vl_ros.types import Frame, InvalidInput

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

TOPICS = ("image_raw", "image_raw/compressed", "depth/image_raw", "camera_info")
QUEUE = 15  # messages of a topic that wait while the processor does something else: half a second of one camera
FUTURE_TOLERANCE_S = 0.05
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
LOOK_FOR_LATCHED_S = 0.5


def qos_of(name: str) -> QoSProfile:
    """The profile of parameter image_qos."""
    kept = {"history": HistoryPolicy.KEEP_LAST, "depth": QUEUE}
    return {
        "sensor_data": QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, **kept),
        "system_default": qos_profile_system_default,
        "default": QoSProfile(depth=QUEUE),
        "reliable": QoSProfile(reliability=ReliabilityPolicy.RELIABLE, **kept),
        "best_effort": QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, **kept),
    }[name]


class Camera:
    """Subscribed from its making to close(). All of it but `frame_of` runs on the executor's thread. prefix: of the
    topics, "front/" or nothing.
    """

    def __init__(self, node, config: Config, mailbox: Mailbox, health: Health, prefix: str = ""):
        self._node, self._config, self._mailbox, self._health = node, config, mailbox, health
        self._prefix = prefix
        self._misfits: set[str] = set()
        self._bad_clock = False
        self._frozen = FrozenDepth()
        self.depth_is_frozen = False  # in the capture that was taken last
        compressed = config.image_transport == "compressed"
        self._topics = [
            ("image_raw/compressed", CompressedImage, self._on_image)
            if compressed
            else ("image_raw", Image, self._on_image),
            ("camera_info", CameraInfo, self._on_info),
        ]
        if config.use_depth:
            self._topics.append(("depth/image_raw", Image, self._on_depth))
        self.image_topic, self.depth_topic = self._full(self._topics[0][0]), self._full("depth/image_raw")
        self._hears_latched, self._looked_s = False, 0.0
        self._subscriptions = []
        for (
            topic,
            kind,
            callback,
        ) in self._topics:  # last: from the first one on, messages come on the executor's thread
            heard = SubscriptionEventCallbacks(incompatible_qos=self._misfit_on(topic))
            qos = qos_of(config.image_qos)
            self._subscriptions.append(
                node.create_subscription(kind, prefix + topic, callback, qos, event_callbacks=heard)
            )
        self._rectified = is_rectified(config.rectification, self.image_topic)
        health.fact("calibration", "P of camera_info, rectified" if self._rectified else "K and D of camera_info, raw")

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _full(self, topic: str) -> str:
        return self._node.resolve_topic_name(self._prefix + topic)

    # -- arrivals ----------------------------------------------------------------------------------

    def _on_image(self, message) -> None:
        stamp = stamp_ns(message.header)
        self._health.image_arrived()
        self._check_clock(stamp)
        self._received("image_raw", "image_raw/compressed")
        if not self._hears_latched and time.monotonic() - self._looked_s > LOOK_FOR_LATCHED_S:
            self._look_for_latched_info()
        self._mailbox.put_image(stamp, message)

    def _on_depth(self, message) -> None:
        self._received("depth/image_raw")
        self._mailbox.put_depth(stamp_ns(message.header), message)

    def _on_info(self, message) -> None:
        self._received("camera_info")
        self._mailbox.put_info(stamp_ns(message.header), message)

    def _look_for_latched_info(self) -> None:
        """A calibration published once and kept for late comers is sent only to who asks for it, and asking all
        publishers for it would hear nothing of the others: so there are two subscriptions where it is offered.
        """
        self._looked_s = time.monotonic()
        offers = self._node.get_publishers_info_by_topic(self._full("camera_info"))
        if any(offer.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers):
            quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
            self._subscriptions.append(
                self._node.create_subscription(
                    CameraInfo, self._prefix + "camera_info", self._on_info, LATCHED, event_callbacks=quiet
                )
            )
            self._hears_latched = True

    def _check_clock(self, stamp: int) -> None:
        ahead_s = (stamp - self._node.get_clock().now().nanoseconds) / 1e9
        if ahead_s > FUTURE_TOLERANCE_S:
            self._bad_clock = True
            self._health.count("images from the future")
            self._warn(
                "clock",
                f"{self.image_topic} is stamped {ahead_s:.2f} s in the future; synchronise the clocks, or "
                "set use_sim_time alike for the camera and this node",
            )
        elif stamp == 0:
            self._bad_clock = True
            self._warn(
                "clock",
                f"{self.image_topic} is stamped 0, so its age is unknown and it is dropped as stale; fix "
                "the camera driver",
            )
        elif self._bad_clock:
            self._bad_clock = False
            self._health.well("clock")

    def _warn(self, topic: str, message: str) -> None:
        self._health.problem(topic, Level.WARN, message)
        self._node.get_logger().warning(message, throttle_duration_sec=5.0)

    def _received(self, *topics: str) -> None:
        if self._misfits:
            for topic in self._misfits.intersection(topics):
                self._misfits.discard(topic)
                self._health.well(f"QoS of {topic}")

    def _misfit_on(self, topic: str):
        def report(event) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            advice = "sensor_data" if self._config.image_qos in ("reliable", "default") else "best_effort"
            message = (
                f"a publisher of {self._full(topic)} offers QoS that does not fit (policy {policy}): nothing "
                f"will be received from it. Parameter image_qos is {self._config.image_qos!r}; set it to "
                f"{advice!r}, or change the publisher"
            )
            self._misfits.add(topic)
            self._health.problem(f"QoS of {topic}", Level.WARN, message, lasting=True)
            self._node.get_logger().warning(message)

        return report

    # -- one capture -------------------------------------------------------------------------------

    def frame_of(self, snapshot: Snapshot, transforms) -> tuple[Frame, str]:
        """The capture as a Frame, and why it allows no measured 3D (empty if it does).

        transforms: where `lookup(target, source, stamp_ns)` is, used when target_frame is set. A frame whose
        pose is not known carries neither depth nor intrinsics, so that nothing in the wrong frame can come of
        it. Raises InvalidInput for an image that cannot be read.
        """
        rgb = rgb_of(snapshot.image, self._config.max_image_pixels)
        camera_frame, size_px = frame_id_of(snapshot.image.header), (rgb.shape[1], rgb.shape[0])
        what: dict = {}
        reasons: list[str] = []
        if snapshot.info is None:
            reasons.append(f"{snapshot.info_reason} ({self._full('camera_info')})")
        else:
            try:
                what["K"], what["distortion"], what["distortion_model"] = intrinsics_of(
                    snapshot.info, size_px, self._rectified
                )
            except InvalidInput as error:
                reasons.append(str(error))
        if snapshot.depth is None:
            if self._config.use_depth:
                reasons.append(f"{snapshot.depth_reason} ({self.depth_topic})")
        else:
            frozen_s = self._frozen.since_s(snapshot.stamp_ns, snapshot.depth, rgb)
            self.depth_is_frozen = frozen_s is not None
            try:
                if self.depth_is_frozen:
                    raise InvalidInput(
                        f"the depth image has been the same for {frozen_s:.1f} s while the colour image changed "
                        f"({self.depth_topic}); restart the camera's depth stream"
                    )
                what["depth_m"] = self._registered_depth(snapshot.depth, camera_frame, size_px)
            except InvalidInput as error:
                reasons.append(str(error))
        target = self._config.target_frame.lstrip("/")
        if target:
            try:
                what["target_T_camera"] = transforms.lookup(target, camera_frame, snapshot.stamp_ns)
                what["target_frame"] = target
            except TransformUnavailable as error:
                what = {}
                reasons.append(f"target_frame {target!r}: {error}")
        return Frame(snapshot.stamp_ns, camera_frame, rgb, **what), "; ".join(reasons)

    def _registered_depth(self, message: Image, camera_frame: str, size_px: tuple[int, int]):
        depth_size_px = message.width, message.height
        if fault := why_unregistered(depth_size_px, frame_id_of(message.header), size_px, camera_frame):
            raise InvalidInput(fault)
        return depth_of(message, self._config.max_image_pixels)
