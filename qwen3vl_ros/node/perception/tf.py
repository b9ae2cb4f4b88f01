"""Where the camera was, in the user's frame, when it saw: tf2_ros where there is one, else the static tree.

The static tree answers from /tf_static alone and says so when a dynamic transform would be needed.
`StaticTree` is pure; the classes around it hold the subscriptions.
"""

from __future__ import annotations

import threading
import time
from typing import Callable

import numpy as np

from qwen3vl_ros.convert import matrix_of
from qwen3vl_ros.types import InvalidInput, PerceptionError, quoted

# TF of a moment often arrives just after the image of that moment.
PATIENCE_S = 0.1


class TransformUnavailable(PerceptionError):
    """The pose of the camera in the target frame is not known for this capture."""


class StaticTree:
    """Fixed transforms, child by child. Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self._parents: dict[str, tuple[str, np.ndarray]] = {}
        self._moving: set[str] = set()

    def add(self, parent: str, child: str, parent_T_child: np.ndarray) -> None:
        with self._lock:
            self._parents[child] = (parent, parent_T_child)

    def add_moving(self, child: str) -> None:
        """Frames that /tf moves are remembered by name only, to say why they cannot be used."""
        with self._lock:
            self._moving.add(child)

    def clear(self) -> None:
        """Forget what moved; fixed transforms are true at any time."""
        with self._lock:
            self._moving.clear()

    def lookup(self, target: str, source: str) -> np.ndarray:
        """target_T_source, 4x4. Raises TransformUnavailable with the reason."""
        with self._lock:
            chains = {frame: self._to_root(frame) for frame in (target, source)}
            for ancestor, target_T in chains[target].items():
                if ancestor in chains[source]:
                    return np.linalg.inv(target_T) @ chains[source][ancestor]
            raise TransformUnavailable(self._why(target, source, chains))

    def _to_root(self, frame: str) -> dict[str, np.ndarray]:
        """Every ancestor of frame, itself included, and ancestor_T_frame."""
        chain, pose = {frame: np.eye(4)}, np.eye(4)
        while frame in self._parents:
            frame, parent_T_child = self._parents[frame]
            if frame in chain:
                raise TransformUnavailable(f"/tf_static has a loop through frame {quoted(frame)}; fix its publishers")
            pose = parent_T_child @ pose
            chain[frame] = pose
        return chain

    def _why(self, target: str, source: str, chains: dict[str, dict[str, np.ndarray]]) -> str:
        moving = sorted(self._moving & (set(chains[target]) | set(chains[source])))
        if moving:
            return (
                f"{quoted(source)} to {quoted(target)} passes the dynamic transform of {_names(moving)}, "
                "which needs tf2_ros; source a ROS distribution, or choose a target_frame fixed to it"
            )
        known = set(self._parents) | {parent for parent, _ in self._parents.values()}
        unknown = [quoted(frame) for frame in (target, source) if frame not in known]
        if unknown:
            return (
                f"frame {' and '.join(unknown)} is not in /tf_static; publish it or correct target_frame "
                f"(known: {_names(sorted(known), str) or 'none'})"
            )
        return f"/tf_static does not connect {quoted(source)} to {quoted(target)}; publish the missing transform"


class StaticTransforms:
    """StaticTree fed from /tf_static, for environments without tf2_ros."""

    name = "static tree (no tf2_ros here)"

    def __init__(self, node):
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from tf2_msgs.msg import TFMessage

        self._node, self._tree = node, StaticTree()
        latched = QoSProfile(
            depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
        )
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf_static", self._on_static, latched),
            node.create_subscription(TFMessage, "/tf", self._on_moving, 10),
        ]

    def _on_static(self, message) -> None:
        for stamped in message.transforms:
            try:
                pose = matrix_of(stamped.transform)
            except InvalidInput as error:
                self._node.get_logger().error(f"/tf_static, {quoted(stamped.child_frame_id)} left out: {error}")
            else:
                self._tree.add(_bare(stamped.header.frame_id), _bare(stamped.child_frame_id), pose)

    def _on_moving(self, message) -> None:
        for stamped in message.transforms:
            self._tree.add_moving(_bare(stamped.child_frame_id))

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """target_T_source, 4x4: the same at any stamp. Raises TransformUnavailable."""
        return self._tree.lookup(_bare(target), _bare(source))

    def clear(self) -> None:
        """The clock jumped back."""
        self._tree.clear()

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


class BufferedTransforms:
    """tf2_ros's buffer, asked at the capture's stamp."""

    name = "tf2_ros"

    def __init__(self, node):
        import tf2_ros

        self._tf2 = tf2_ros
        self._buffer = tf2_ros.Buffer()  # given a node, it would leave a service behind on it
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """target_T_source at stamp_ns, 4x4. Waits PATIENCE_S for it; not on the executor's thread."""
        from rclpy.time import Time

        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                stamped = self._buffer.lookup_transform(_bare(target), _bare(source), Time(nanoseconds=stamp_ns))
                return matrix_of(stamped.transform)
            except self._tf2.TransformException as error:
                if time.monotonic() > give_up_s:
                    raise TransformUnavailable(f"tf2: {error}") from error
            time.sleep(0.005)

    def clear(self) -> None:
        """The clock jumped back: tf2 drops what is older than it knows, so it must know nothing. Fixed ones stay."""
        self._buffer.clear()

    def close(self) -> None:
        self._listener.unregister()


def transforms_for(node) -> StaticTransforms | BufferedTransforms:
    """The best source of transforms there is; made on configure, closed on cleanup."""
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        return StaticTransforms(node)
    return BufferedTransforms(node)


def _names(frames: list[str], shown: Callable[[str], str] = quoted) -> str:
    more = f" and {len(frames) - 20} more" if len(frames) > 20 else ""
    return ", ".join(shown(frame)[:100] for frame in frames[:20]) + more


def _bare(frame: str) -> str:
    return frame.lstrip("/")
