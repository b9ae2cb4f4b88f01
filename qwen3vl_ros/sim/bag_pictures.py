"""The pictures of a rosbag2: which of its topics they are, and which depth was recorded with which picture.

Knows the messages by their fields and nothing of how they are stored.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3vl_ros import convert
from qwen3vl_ros.calibration import intrinsics_of, is_rectified
from qwen3vl_ros.sim.bags import Bag
from qwen3vl_ros.sim.recorded import Depth, Losses, Recorded
from qwen3vl_ros.types import Frame, InvalidInput

_TOGETHER_NS = 50_000_000  # a depth picture farther away belongs to no picture
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_TRANSPORT = re.compile(r"/(compressedDepth|compressed)$")
# (image, depth or None, camera_info or None)
Topics = tuple[str, "str | None", "str | None"]


def choose_topics(bag: Bag, image: str | None, depth: str | None, info: str | None) -> Topics:
    """The given topics, and the only ones there are for what is None. Raises InvalidInput where that is not clear."""
    types = bag.topics
    for name, topic in (("image_topic", image), ("depth_topic", depth), ("camera_info_topic", info)):
        if topic is not None and topic not in types:
            raise InvalidInput(f"{name} {topic!r} is not in {bag.path}; it has {_names(types)}")
        if topic is not None and name != "camera_info_topic" and types[topic] not in _IMAGE_TYPES:
            raise InvalidInput(f"{name} {topic!r} is a {types[topic]}; it must be one of {', '.join(_IMAGE_TYPES)}")
    depths, images = [], []
    for topic, kind in types.items():
        if kind in _IMAGE_TYPES and (first := bag.first(topic)) is not None:
            (depths if convert.is_depth(first) else images).append(topic)
    image = image or _only(bag, "image_topic", "picture", images)
    if image is None:
        raise InvalidInput(f"{bag.path} has no colour pictures; it has {_names(types)}")
    infos = [topic for topic, kind in types.items() if kind == _INFO_TYPE]
    # The convention of ROS drivers: camera_info is published beside the image.
    beside = [t for t in infos if t.rsplit("/", 1)[0] in (image.rsplit("/", n)[0] for n in (1, 2))]
    depth = depth or _only(bag, "depth_topic", "depth", depths)
    return image, depth, info or _only(bag, "camera_info_topic", "calibration", beside or infos)


def _only(bag: Bag, argument: str, what: str, topics: list[str]) -> str | None:
    # Raw and compressed copies of one stream are one stream; the raw one is decoded faster and has lost nothing.
    streams: dict[str, str] = {}
    for topic in sorted(topics, key=lambda t: (bool(_TRANSPORT.search(t)), "compressedDepth" not in t)):
        streams.setdefault(_TRANSPORT.sub("", topic), topic)
    if len(streams) > 1:
        several = _names({topic: bag.topics[topic] for topic in streams.values()})
        raise InvalidInput(f"{bag.path} has several {what} topics, {several}; name one with {argument}")
    return next(iter(streams.values()), None)


def _names(types: dict[str, str]) -> str:
    return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(types.items())) or "nothing"


def pictures(bag: Bag, topics: Topics, rectification: str, max_pixels: int, losses: Losses) -> Iterator[Recorded]:
    """Every picture in its order. What cannot be decoded is lost; without a calibration a frame has no K."""
    image_topic, depth_topic, info_topic = topics
    rectified = is_rectified(rectification, image_topic)
    info = bag.first(info_topic) if info_topic else None
    pairs = _Pairs(depth_topic is not None)
    for topic, logged_ns, message in bag.messages([topic for topic in topics if topic]):
        if topic == info_topic:
            info = message
            continue
        stamp_ns = convert.stamp_ns(message.header) or logged_ns
        if topic == image_topic:
            pairs.put_picture(stamp_ns, logged_ns, (message, info))
        else:
            pairs.put_depth(stamp_ns, logged_ns, message)
        for stamp_ns, (image, its_info), depth in pairs.ready():
            yield from _recorded(stamp_ns, image, its_info, depth, rectified, max_pixels, losses)
    for stamp_ns, (image, its_info), depth in pairs.ready(at_end=True):
        yield from _recorded(stamp_ns, image, its_info, depth, rectified, max_pixels, losses)


def _recorded(
    stamp_ns: int,
    image: Any,
    info: Any | None,
    depth: tuple[int, Any] | None,
    rectified: bool,
    max_pixels: int,
    losses: Losses,
) -> Iterator[Recorded]:
    """None or one."""
    try:
        rgb = np.ascontiguousarray(convert.rgb_of(image, max_pixels))
    except InvalidInput as error:
        losses.lose(f"the picture of {stamp_ns / 1e9:.3f} s cannot be read: {error}")
        return
    lens = (None, None, "plumb_bob")
    if info is not None:
        try:
            lens = intrinsics_of(info, (rgb.shape[1], rgb.shape[0]), rectified)
        except InvalidInput as error:
            losses.note(f"{error}; without it there is no 3D, the pictures play as 2D")
    frame = Frame(stamp_ns, convert.frame_id_of(image.header), rgb, None, *lens)
    seen = None
    if depth is not None:
        depth_ns, message = depth
        try:
            seen = Depth(depth_ns, convert.frame_id_of(message.header), convert.depth_of(message, max_pixels))
        except InvalidInput as error:
            losses.lose(f"the depth of {depth_ns / 1e9:.3f} s cannot be read: {error}")
    recorded, fault = Recorded.of(frame, seen)
    if fault:
        losses.note(fault)
    yield recorded


class _Pairs:
    """Each picture with the depth picture to which it is the nearest, and which is the nearest to it.

    A picture waits until its depth and the next picture have come, or are too late to come: otherwise the depth of the
    next would do for one whose own was lost.
    """

    def __init__(self, expects_depth: bool):
        self._expects_depth = expects_depth
        self._waiting: deque[tuple[int, int, Any]] = deque()
        self._depths: deque[tuple[int, Any]] = deque(maxlen=64)
        self._previous_ns: int | None = None
        self._now_ns = 0

    def put_picture(self, stamp_ns: int, logged_ns: int, picture: Any) -> None:
        self._now_ns = logged_ns
        self._waiting.append((stamp_ns, logged_ns, picture))

    def put_depth(self, stamp_ns: int, logged_ns: int, depth: Any) -> None:
        self._now_ns = logged_ns
        self._depths.append((stamp_ns, depth))

    def ready(self, at_end: bool = False) -> Iterator[tuple[int, Any, tuple[int, Any] | None]]:
        """(stamp, picture, (stamp, depth) or None) of those that wait no longer."""
        while self._waiting and (at_end or not self._expects_depth or self._is_settled()):
            stamp_ns, _, picture = self._waiting.popleft()
            yield stamp_ns, picture, self._depth_of(stamp_ns)
            self._previous_ns = stamp_ns

    def _is_settled(self) -> bool:
        stamp_ns, logged_ns, _ = self._waiting[0]
        if self._now_ns - logged_ns > 2 * _TOGETHER_NS or any(depth_ns == stamp_ns for depth_ns, _ in self._depths):
            return True
        return len(self._waiting) > 1 and any(depth_ns >= stamp_ns for depth_ns, _ in self._depths)

    def _depth_of(self, stamp_ns: int) -> tuple[int, Any] | None:
        nearest = min(self._depths, key=lambda depth: abs(depth[0] - stamp_ns), default=None)
        if nearest is None or abs(nearest[0] - stamp_ns) > _TOGETHER_NS:
            return None
        others = [self._previous_ns, *(waiting[0] for waiting in list(self._waiting)[:1])]
        if any(other is not None and abs(nearest[0] - other) < abs(nearest[0] - stamp_ns) for other in others):
            return None
        self._depths.remove(nearest)
        return nearest
