"""The opening of a hollow thing: its rim, and how deep one sees into it.

Where the camera sees a part of a thing through the level of its rim, nothing closes that rim: bowls, mugs and trays have
an inside, cubes and closed bottles have none, whatever they are called; where it sees a level top instead, something does. Works on points in a level frame (z up). Knows
nothing of images or labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.geometry.hulls import depth_inside, near, outline, signed_area, without_strays

_LEAST_DEPTH_M = 0.006
_RIM_SHARE = 0.08  # of a thing's height
_MIN_POINTS = 15
_MIN_SHARE = 0.02  # of its points that lie in the opening
_INNER, _TOPS = 0.4, 0.6  # of the half width of an outline, of its area
_LEVEL = 0.9  # of the points that are so far inside it


@dataclass(frozen=True, eq=False)
class Opening:
    """border Kx2: convex outline of the rim; rim_m its height; floor_m: the lowest that was seen through it."""

    border: np.ndarray
    rim_m: float
    floor_m: float

    def takes(self, point_xy: np.ndarray) -> bool:
        """Whether a point is over the opening."""
        return float(depth_inside(self.border, point_xy)[0]) > 0


def opening(
    points_m: np.ndarray, eye_m: np.ndarray, sigma_m: float, completed_m: np.ndarray = np.empty((0, 3))
) -> Opening | None:
    """The opening of a thing seen as points Nx3 from eye_m, None if it has none or none was seen. sigma_m: their noise.

    completed_m: Mx3, assumed on its unseen side: the rim goes on there.
    """
    points = without_strays(points_m)
    if len(points) < 4 * _MIN_POINTS:
        return None
    low, rim = np.percentile(points[:, 2], (1, 99))
    band = max(_RIM_SHARE * (rim - low), 3 * sigma_m)
    whole = np.concatenate((points, completed_m))
    border = outline(whole[whole[:, 2] >= rim - band, :2])
    deeper = points[points[:, 2] < rim - max(_LEAST_DEPTH_M, band, 4 * sigma_m)]
    if eye_m[2] <= rim or len(deeper) < _MIN_POINTS or signed_area(border) < 0.25 * signed_area(outline(points[:, :2])):
        return None
    # Where the sight to each deeper point meets the level of the rim.
    share = (eye_m[2] - rim) / (eye_m[2] - deeper[:, 2])
    crossing = eye_m[:2] + share[:, None] * (deeper[:, :2] - eye_m[:2])
    seen_through = deeper[near(border, crossing, -(0.003 + 2 * sigma_m)), 2]
    if len(seen_through) < max(_MIN_POINTS, _MIN_SHARE * len(points)):
        return None
    return Opening(border, float(rim), float(np.percentile(seen_through, 5)))


def closed(points_m: np.ndarray, sigma_m: float) -> bool:
    """Whether a thing seen as points Nx3 has a level top where an opening would be, all over its outline: nothing can be put into it."""
    points = without_strays(points_m)
    if len(points) < 4 * _MIN_POINTS or 3 * sigma_m > 2 * _LEAST_DEPTH_M:
        return False  # through so much noise a strip of a rim looks level, too
    foot = outline(points[:, :2])
    high = points[:, 2] > np.percentile(points[:, 2], 99) - max(_LEAST_DEPTH_M, 3 * sigma_m)
    inside_m = depth_inside(foot, points[:, :2])
    inner = inside_m > _INNER * inside_m.max()
    if np.count_nonzero(inner) < _MIN_POINTS or np.count_nonzero(high) < _MIN_POINTS or high[inner].mean() < _LEVEL:
        return False
    return signed_area(outline(points[high, :2])) > _TOPS * signed_area(foot)
