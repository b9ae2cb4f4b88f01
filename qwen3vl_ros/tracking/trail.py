"""Where a thing was, picture by picture, for as long as pictures are kept: what late answers are matched with.

Knows boxes and ways; nothing of pictures, ids or labels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from qwen3vl_ros.tracking.followed import Followed
from qwen3vl_ros.tracking.glimpse import Glimpse

VELOCITY_NS = 500_000_000  # of its way is a velocity measured on


@dataclass(frozen=True, eq=False)
class Was:
    """Where a thing was in one picture: its box in small pixels, how far it had gone, the middle of what was seen of it.

    covered: the share of the box that something nearer hid, or that was outside the picture.
    """

    stamp_ns: int
    box: np.ndarray
    travel_m: np.ndarray
    centre_m: np.ndarray
    covered: float
    following: bool


def was_in(f: Followed, base_m: np.ndarray, now: Glimpse) -> Was:
    covered = max(f.covered, 1.0 - _share_in_picture(f.box, now))
    return Was(now.stamp_ns, f.box, base_m + f.moved_m, f.centre_m, covered, f.following)


def _share_in_picture(box: np.ndarray, glimpse: Glimpse) -> float:
    height, width = glimpse.grey.shape
    x0, y0, x1, y1 = box.tolist()
    inside = max(min(x1, width) - max(x0, 0), 0) * max(min(y1, height) - max(y0, 0), 0)
    return inside / max((x1 - x0) * (y1 - y0), 1e-9)


def at(trail: deque, stamp_ns: int) -> Was:
    """Where a thing was at a stamp, between the two nearest pictures."""
    stamps = [w.stamp_ns for w in trail]
    i = int(np.searchsorted(stamps, stamp_ns))
    if i == len(trail) or stamps[i] == stamp_ns or i == 0:
        return trail[min(i, len(trail) - 1)]
    a, b = trail[i - 1], trail[i]
    t = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
    mix = lambda x, y: (1 - t) * x + t * y
    return Was(
        stamp_ns,
        mix(a.box, b.box),
        mix(a.travel_m, b.travel_m),
        mix(a.centre_m, b.centre_m),
        mix(a.covered, b.covered),
        a.following and b.following,
    )


def velocity_m_s(trail: Sequence[Was]) -> np.ndarray:
    """Slope of the way along the last VELOCITY_NS of a trail, 3 metres a second; zeros where it is no way."""
    since_ns, recent = trail[-1].stamp_ns - VELOCITY_NS if trail else 0, []
    for was in reversed(trail):
        if was.stamp_ns < since_ns:
            break
        recent.append(was)
    recent = recent[::2]  # every second picture tells as much
    if len(recent) < 2:
        return np.zeros(3)
    t = np.array([w.stamp_ns - recent[0].stamp_ns for w in recent]) / 1e9
    t -= t.sum() / len(t)
    return t @ np.array([w.travel_m for w in recent]) / float(t @ t)
