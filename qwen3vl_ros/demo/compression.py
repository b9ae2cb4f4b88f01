"""Pictures as a recording keeps them: colour as JPEG, depth as 16-bit PNG, under the names that image_transport gives them.

Raw, half a minute is hundreds of megabytes. Depth is nearly all noise, which no code shrinks: one picture a second is kept.
Source: compressed_image_transport, compressed_depth_image_transport (12 bytes before the PNG; millimetres need none of them).
"""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from qwen3vl_ros.convert import depth_of, is_depth, rgb_of, stamp_ns

JPEG_QUALITY = 75
DEPTH_PERIOD_NS = 1_000_000_000
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
_MOST_MM = 65535


def suffix_of(is_of_depth: bool) -> str:
    """What image_transport puts behind a topic's name."""
    return "/compressedDepth" if is_of_depth else "/compressed"


class Compression:
    """Of one topic's pictures, in their order."""

    def __init__(self) -> None:
        self._kept_ns: int | None = None  # the last depth that was

    def compressed(self, image: Image) -> CompressedImage | None:
        """The same picture, smaller; None for depth so soon after the last one. Raises InvalidInput."""
        return self._depth(image) if is_depth(image) else self._colour(image)

    @staticmethod
    def _colour(image: Image) -> CompressedImage:
        bgr = cv2.cvtColor(rgb_of(image), cv2.COLOR_RGB2BGR)
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        return CompressedImage(header=image.header, format="jpeg", data=data)

    def _depth(self, image: Image) -> CompressedImage | None:
        stamp = stamp_ns(image.header)
        if self._kept_ns is not None and 0 <= stamp - self._kept_ns < DEPTH_PERIOD_NS:
            return None
        self._kept_ns = stamp
        with np.errstate(invalid="ignore"):
            mm = np.round(depth_of(image) * 1000)
        mm = np.where((mm > 0) & (mm <= _MOST_MM), mm, 0).astype(np.uint16)
        data = bytes(12) + cv2.imencode(".png", mm, _PNG)[1].tobytes()
        return CompressedImage(header=image.header, format="16UC1; compressedDepth png", data=data)
