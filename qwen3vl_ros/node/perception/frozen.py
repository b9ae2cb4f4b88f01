"""Notices depth that stands still under new stamps while the colour image goes on, as cameras do whose depth stream has died.

Measured depth is never twice the same to the bit; simulated depth without noise is, while nothing changes. So depth is taken for
frozen only where it is bit for bit what it was and the colour image has changed meanwhile, by more than noise and in more than
a few places. A depth image of a still scene that stands still does no harm.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

EVERY_ROWS = 8  # of the depth image are compared
CELLS = (80, 60)  # width, height of the colour image as it is compared
CHANGED_LEVELS, CHANGED_SHARE = 12, 0.005  # of a cell's mean; of all cells


@dataclass(frozen=True)
class _First:
    """The first capture of this very depth image."""

    stamp_ns: int
    digest: int
    grey: np.ndarray


class FrozenDepth:
    """Of one camera. Threads may share it: at worst a change is noticed one capture later."""

    def __init__(self) -> None:
        self._first: _First | None = None

    def since_s(self, stamp_ns: int, depth: Any, rgb: np.ndarray) -> float | None:
        """Seconds for which depth (an Image message) has been the same although the colour image changed; None: it is alive."""
        digest = _digest(depth)
        if digest is None:
            return None
        grey = cv2.cvtColor(cv2.resize(rgb, CELLS, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        first = self._first
        if first is None or digest != first.digest or stamp_ns < first.stamp_ns:
            self._first = _First(stamp_ns, digest, grey)
            return None
        changed = cv2.absdiff(grey, first.grey) > CHANGED_LEVELS
        return (stamp_ns - first.stamp_ns) / 1e9 if changed.mean() >= CHANGED_SHARE else None


def _digest(depth: Any) -> int | None:
    """None for a picture without a reading, of which nothing can be told."""
    rows = np.frombuffer(depth.data, np.uint8)
    if rows.size == depth.step * depth.height:  # else it is refused as it is read
        rows = rows.reshape(depth.height, depth.step)[::EVERY_ROWS]
    return zlib.crc32(np.ascontiguousarray(rows)) if rows.size and np.ptp(rows) else None
