"""The camera's pictures that the node's answers are about, drawn on and encoded. Subscribes when somebody first wants one.

Answers carry stamps and no pixels, so the pictures of the last seconds are kept as they came, undecoded.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Iterable, Sequence

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage, Image

from qwen3vl_ros.convert import rgb_of, stamp_in
from qwen3vl_ros.draw import draw_scene
from qwen3vl_ros.node.client import IMAGES, Client, decoded
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import Detection2D, Frame, Generation, InvalidInput, PerceptionError, Scene

KEPT_BYTES, KEPT = 64_000_000, 60  # of each camera
ARRIVES_S = 3.0  # for a picture: the first, or the one that an answer is about
LONGEST_PX = 1280  # of a picture as it is handed out: hosts refuse megabytes
_ANYTHING, _SAID = Detect(("anything",)), Generation("", (), None, (), "stop")


@dataclass(frozen=True)
class Marked:
    """A box to draw, pixels of the whole picture, and what stands beside it."""

    label: str
    box_xyxy_px: Sequence[float]


class NoPicture(PerceptionError):
    """The picture is not to be had; the answer stands without it."""


class Pictures:
    """Of one perception node, which says in /diagnostics what topics it reads. node: its full name."""

    def __init__(self, client: Client, node: str):
        self._client, self._status = client, node.strip("/")
        self._topics: dict[str, str] = {}  # camera -> its colour images
        self._kept: dict[str, OrderedDict[int, tuple[bytes, type]]] = {}
        self._newest_ns: dict[str, int] = {}
        self._lock = threading.Lock()
        client.subscribe("/diagnostics", DiagnosticArray, self._on_diagnostics)

    def watch(self, camera: str) -> None:
        """Have the pictures of a camera from now on; waits for the first. Raises NoPicture."""
        if not self._client.find(lambda: camera in self._topics, lambda: bool(self._topics)):
            raise NoPicture(f"the node has not said in /diagnostics which topic its camera {camera!r} has")
        topic = self._topics[camera]
        if not self._client.find(lambda: bool(self._client.types_of(topic))):
            raise NoPicture(f"nobody publishes {topic}")
        with self._lock:
            if camera not in self._kept:
                self._kept[camera] = OrderedDict()
                kind = CompressedImage if "sensor_msgs/msg/CompressedImage" in self._client.types_of(topic) else Image
                self._client.subscribe(topic, kind, lambda cdr: self._keep(camera, cdr, kind), IMAGES)
        if not self._client.spin(ARRIVES_S, lambda: bool(self._kept[camera])):
            raise NoPicture(f"no picture came on {topic} within {ARRIVES_S:g} s")

    def comes(self, camera: str, stamp_ns: int) -> bool:
        """Whether the watched camera's picture of that stamp is here; waits for it, until a later one shows that it will not come."""
        kept = self._kept[camera]
        self._client.spin(ARRIVES_S, lambda: stamp_ns in kept or self._newest_ns[camera] > stamp_ns)
        return stamp_ns in kept

    def jpeg(self, camera: str, stamp_ns: int, marks: Iterable[Marked]) -> tuple[bytes, str]:
        """The picture of that stamp with the marks on it, and its size in words. Raises NoPicture."""
        found = self._kept.get(camera, {}).get(stamp_ns)
        if found is None:
            raise NoPicture("the picture that was looked at was not received here")
        try:
            rgb = rgb_of(decoded(*found))
        except InvalidInput as error:
            raise NoPicture(str(error)) from error
        boxes = tuple(Detection2D(m.label, tuple(m.box_xyxy_px), math.nan, str(i)) for i, m in enumerate(marks))
        drawn = draw_scene(Frame(stamp_ns, "camera", rgb), Scene(stamp_ns, "camera", _ANYTHING, _SAID, boxes))
        height, width = drawn.shape[:2]
        scale = min(1.0, LONGEST_PX / max(width, height))
        if scale < 1:
            drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        ok, data = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
        if not ok:
            raise NoPicture("the picture could not be encoded")
        shown = f"JPEG of {drawn.shape[1]}x{drawn.shape[0]}; the whole picture has {width}x{height} pixels"
        return data.tobytes(), shown

    def _keep(self, camera: str, cdr: bytes, kind: type) -> None:
        kept = self._kept[camera]
        self._newest_ns[camera] = stamp_ns = stamp_in(cdr)
        kept[stamp_ns] = (cdr, kind)
        while len(kept) > KEPT or (len(kept) > 1 and sum(len(c) for c, _ in kept.values()) > KEPT_BYTES):
            kept.popitem(last=False)

    def _on_diagnostics(self, cdr: bytes) -> None:
        for status in decoded(cdr, DiagnosticArray).status:
            name, _, camera = status.name.partition(": ")
            if name == self._status:
                for value in status.values:
                    if value.key == "image topic":
                        self._topics[camera] = value.value.split(",")[0]
