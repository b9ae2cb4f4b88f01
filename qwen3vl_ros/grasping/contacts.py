"""Where a flat finger touches: the angle between the closing axis and the surface, as far as the noise lets it be told.

The outermost points in bins of two millimetres are an outline; a line, a corner or a curve is fitted to it. A slope counts
by what it is more than noise alone would give, and a corner only where it explains clearly more than a line. Knows nothing of
grippers or scenes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_BIN_M = 0.002
_SLOPE_M = 0.007
_CLEARLY = 9.0  # squared standard deviations that a corner must explain beyond a line


def contact_tilt(x, y, z, top: float, noise_m: float = 0.0, around=None) -> float:
    """Angle between the closing axis (y, outward) and the normal where a flat finger first touches, radians.

    Across (x), a sloping face counts with its slope and a corner with the slope of its sides, for the object would turn about
    it; a round side touches squarely. Along the approach (z, up) only a fingertip on a slope slips. noise_m: of y. around: x, y of all that the finger is wide enough for, for the sides of a corner
    soon lie deeper than what it touches.
    """
    highest = np.maximum.reduce(z)
    nearly_level = (
        highest - np.minimum.reduce(z) < _BIN_M and highest < top - _BIN_M
    )  # the floor of a bowl, not a rim seen from above
    if len(x) < 4 or nearly_level:
        return math.pi / 2
    bins, outer = _outline(*((x, y) if around is None else around))
    level = _level_slope(bins - bins[outer.argmax()], outer, noise_m)
    bins, outer = _outline(z, y)
    steep = 0.0
    if bins[outer.argmax()] < 0.25 * bins[-1]:
        low = np.count_nonzero(bins * _BIN_M < max(_SLOPE_M, 6 * noise_m))
        fits = _fits(bins[:low].tobytes())
        steep = max(0.0, _beyond_noise(-float(fits.coefficients[_SLOPE] @ outer[:low]), fits, noise_m))
    return math.atan(math.hypot(level, steep))


def _level_slope(bins, outer, noise_m: float) -> float:
    fits = _fits(bins.tobytes())
    misses = (fits.misses @ outer).reshape(3, -1)
    line_miss, corner_miss, curve_miss = np.square(misses, out=misses).sum(1).tolist()
    slope, corner, bend, curve = (fits.coefficients @ outer).tolist()
    if line_miss - min(corner_miss, curve_miss) <= _CLEARLY * noise_m**2:
        return abs(_beyond_noise(slope, fits, noise_m))
    if curve_miss <= 1.21 * corner_miss:
        return abs(_beyond_noise(curve, fits, noise_m))
    return abs(corner) + max(-bend, 0.0)


def _outline(t, y) -> tuple[np.ndarray, np.ndarray]:
    """The outermost y in bins of t that have any, in order: which bins, counted from the first, and the values."""
    bins = ((t - np.minimum.reduce(t)) * (1 / _BIN_M)).astype(np.intp)
    outer = np.full(int(np.maximum.reduce(bins)) + 1, -np.inf)
    np.maximum.at(outer, bins, y.astype(float))
    filled = (outer > -np.inf).nonzero()[0]
    return filled, outer[filled]


class _Fits(NamedTuple):
    """What fits outlines with values in the same bins: matrices that make of those values what is asked about them.

    coefficients 4xN: the slope of a line, those of a corner (slope, bend), the slope of a curve. misses 3NxN: by how much line,
    corner and curve miss each value. spread_m2: of the bins about their middle.
    """

    coefficients: np.ndarray
    misses: np.ndarray
    spread_m2: float


_SLOPE = 0


def _beyond_noise(slope: float, fits: _Fits, noise_m: float) -> float:
    """What is left of a fitted slope without what noise contributes to it on average."""
    if noise_m <= 0:
        return slope
    error = noise_m / math.sqrt(fits.spread_m2) if fits.spread_m2 > 0 else math.inf
    return math.copysign(math.sqrt(max(slope * slope - 2 * error * error, 0.0)), slope)


@lru_cache(maxsize=4096)
def _fits(bins: bytes) -> _Fits:
    """Fingers meet the same few bins over and over. bins: as np.intp.

    A line is 1 and t, a corner |t| besides, a curve t²; the pseudo-inverse leaves zero what the bins leave open.
    """
    t = np.frombuffer(bins, np.intp) * _BIN_M
    of_line, of_corner, of_curve = (np.stack((np.ones_like(t), t, *third), 1) for third in ((), (np.abs(t),), (t * t,)))
    line, corner, curve = (np.linalg.pinv(system, rcond=1e-6) for system in (of_line, of_corner, of_curve))
    misses = [
        system @ inverse - np.eye(len(t))
        for system, inverse in ((of_line, line), (of_corner, corner), (of_curve, curve))
    ]
    spread_m2 = float(np.square(t - t.mean()).sum()) if len(t) else 0.0
    return _Fits(np.stack((line[1], corner[1], corner[2], curve[1])), np.concatenate(misses), spread_m2)
