"""Where points went from one picture to another, and the motion that most of them agree on. Knows pixels; nothing of boxes or depth.

Pyramidal Lucas-Kanade, there and back (forward-backward error: Kalal, Mikolajczyk, Matas, ICPR 2010).
"""

from __future__ import annotations

import cv2
import numpy as np

from qwen3vl_ros.tracking.glimpse import Glimpse, median

MIN_POINTS = 4  # fewer agreeing ones say nothing
MAX_RETURN_PX = 1.0  # forward-backward error, small pixels
MAX_RESIDUAL_PX = 1.5
SAME_WAY_M = 0.012  # points of one thing went the same way, within this
_LK = dict(
    winSize=(11, 11),
    maxLevel=2,
    criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 7, 0.03),
    flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
)


def flow(before: Glimpse, now: Glimpse, starts: np.ndarray, guesses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels Nx2 of one picture are in another, and which of them lead back to where they came from."""
    later = _as_bright(now, before)
    p = starts.astype(np.float32)
    moved, there, _ = cv2.calcOpticalFlowPyrLK(before.grey, later, p, guesses.astype(np.float32), **_LK)
    back, here, _ = cv2.calcOpticalFlowPyrLK(later, before.grey, moved, p.copy(), **{**_LK, "maxLevel": 1})
    height, width = now.grey.shape
    good = (there[:, 0] & here[:, 0]).astype(bool) & (np.abs(back - p).max(1) < MAX_RETURN_PX)
    good &= ((moved >= 0) & (moved < (width, height))).all(1)
    return moved.astype(float), good


def _as_bright(now: Glimpse, before: Glimpse) -> np.ndarray:
    """The greys as they would be in the light and exposure of the picture before: flow assumes that they do not change."""
    (mean, deviation), (wanted, spread) = now.brightness, before.brightness
    gain = spread / deviation
    if abs(gain - 1.0) < 0.04 and abs(mean - wanted) < 4.0:
        return now.grey
    return cv2.convertScaleAbs(now.grey, alpha=gain, beta=wanted - gain * mean)


def common_way(ways_m: np.ndarray, good: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Median of most points' ways (3 metres) and the indices of the points that agree; None where too few do."""
    usable = np.flatnonzero(good & (ways_m[:, 2] == ways_m[:, 2]))
    if len(usable) < MIN_POINTS:
        return None, usable
    ways_m = ways_m[usable]
    off = ways_m - median(ways_m)
    off = np.sqrt((off * off).sum(1))
    agree = off < min(max(SAME_WAY_M, 2.0 * np.sort(off)[len(off) // 2]), 3 * SAME_WAY_M)
    if np.count_nonzero(agree) < max(MIN_POINTS, 0.4 * len(usable)):
        return None, usable
    return median(ways_m[agree]), usable[agree]


def similarity(before: np.ndarray, now: np.ndarray, good: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """2x3 similarity that most of the good points agree on and the indices of those; None where too few do."""
    usable = np.flatnonzero(good)
    if len(usable) < MIN_POINTS:
        return None, usable
    transform, inliers = cv2.estimateAffinePartial2D(
        before[usable],
        now[usable],
        method=cv2.RANSAC,
        ransacReprojThreshold=MAX_RESIDUAL_PX,
        maxIters=100,
        confidence=0.99,
    )
    keep = usable[np.flatnonzero(inliers)]
    if transform is None or len(keep) < max(MIN_POINTS, 0.4 * len(usable)):
        return None, keep
    return (transform, keep) if 0.4 < np.hypot(*transform[:, 0]) < 2.5 else (None, keep)


def moved_box(box: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """An upright box under a similarity: its middle moves, its sides are scaled."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    middle = transform[:, :2] @ (middle - 0.5) + transform[:, 2] + 0.5  # edges are centres + 0.5
    half = half * np.hypot(*transform[:, 0])
    return np.concatenate((middle - half, middle + half))
