"""Where a flat finger touches: the angle between the closing axis and the surface, as far as the noise lets it be told.

The outermost points in bins of two millimetres are an outline; a line, a corner or a curve is fitted to it. A slope counts
by what it is more than noise alone would give, and a corner only where it explains clearly more than a line. Knows nothing of
grippers or scenes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_BIN_M = 0.002
_SLOPE_M = 0.007
_LINE, _CORNER, _CURVE = 0, 1, 2
_CLEARLY = 9.0  # squared standard deviations that a corner must explain beyond a line


def contact_tilt(x, y, z, top: float, noise_m: float = 0.0, around=None) -> float:
    """Angle between the closing axis (y, outward) and the normal where a flat finger first touches, radians.

    Across (x), a sloping face counts with its slope and a corner with the slope of its sides, for the object would turn about
    it; a round side touches squarely. Along the approach (z, up) only a fingertip on a slope slips. noise_m: of y. around: x, y of all that the finger is wide enough for, for the sides of a corner
    soon lie deeper than what it touches.
    """
    nearly_level = np.ptp(z) < _BIN_M and z.max() < top - _BIN_M  # the floor of a bowl, not a rim seen from above
    if len(x) < 4 or nearly_level:
        return math.pi / 2
    bins, outer = _outline(*((x, y) if around is None else around))
    level = _level_slope(bins - bins[outer.argmax()], outer, noise_m)
    bins, outer = _outline(z, y)
    steep = 0.0
    if bins[outer.argmax()] < 0.25 * bins[-1]:
        low = np.count_nonzero(bins * _BIN_M < max(_SLOPE_M, 6 * noise_m))
        line, _ = _fit(bins[:low], outer[:low], _LINE)
        steep = max(0.0, _beyond_noise(-line[1], bins[:low], noise_m))
    return math.atan(math.hypot(level, steep))


def _level_slope(bins, outer, noise_m: float) -> float:
    (line, line_miss), (corner, corner_miss), (curve, curve_miss) = (
        _fit(bins, outer, kind) for kind in (_LINE, _CORNER, _CURVE)
    )
    if line_miss - min(corner_miss, curve_miss) <= _CLEARLY * noise_m**2:
        return abs(_beyond_noise(line[1], bins, noise_m))
    if curve_miss <= 1.21 * corner_miss:
        return abs(_beyond_noise(curve[1], bins, noise_m))
    return abs(corner[1]) + max(-corner[2], 0.0)


def _beyond_noise(slope: float, bins, noise_m: float) -> float:
    """What is left of a fitted slope without what noise contributes to it on average."""
    spread = float(np.square(bins - bins.mean()).sum()) * _BIN_M**2
    error = noise_m / math.sqrt(spread) if spread > 0 else math.inf
    return math.copysign(math.sqrt(max(slope * slope - 2 * error * error, 0.0)), slope) if noise_m > 0 else float(slope)


def _outline(t, y) -> tuple[np.ndarray, np.ndarray]:
    """The outermost y in bins of t that have any, in order: which bins, counted from the first, and the values."""
    bins = ((t - t.min()) * (1 / _BIN_M)).astype(np.intp)
    outer = np.full(int(bins.max()) + 1, -np.inf)
    np.maximum.at(outer, bins, y.astype(float))
    filled = np.flatnonzero(outer > -np.inf)
    return filled, outer[filled]


def _fit(bins: np.ndarray, outer: np.ndarray, kind: int) -> tuple[np.ndarray, float]:
    """Coefficients of the line, corner or curve nearest to an outline, and the sum of its squared misses."""
    system, inverse = _system(tuple(bins), kind)
    coefficients = inverse @ outer
    miss = system @ coefficients - outer
    return coefficients, float(miss @ miss)


@lru_cache(maxsize=4096)
def _system(bins: tuple[int, ...], kind: int) -> tuple[np.ndarray, np.ndarray]:
    """What an outline is fitted by: columns 1, t, and the third term of the kind, at its bins; and the pseudo-inverse, which
    leaves zero what the bins leave open. Fingers meet the same few bins over and over.
    """
    t = np.array(bins) * _BIN_M
    system = np.stack((np.ones_like(t), t, *((), (np.abs(t),), (t * t,))[kind]), 1)
    return system, np.linalg.pinv(system, rcond=1e-6)
