"""Where a flat finger touches: the angle between the closing axis and the surface, as far as the noise lets it be told.

The outermost points in bins of two millimetres are an outline; a line, a corner or a curve is fitted to it. A slope counts
by what it is more than noise alone would give, and a corner only where it explains clearly more than a line. Knows nothing of
grippers or scenes.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

_BIN_M = 0.002
_SLOPE_M = 0.007
_CLEARLY = 9.0  # squared standard deviations that a corner must explain beyond a line


def contact_tilt(x, y, z, top: float, noise_m: float = 0.0) -> float:
    """Angle between the closing axis (y, outward) and the normal where a flat finger first touches, radians.

    Across (x), a sloping face counts with its slope and a corner with the slope of its sides, for the object would turn about
    it; a round side touches squarely. Along the approach (z, up) only a fingertip on a slope slips. noise_m: of y.
    """
    nearly_level = np.ptp(z) < _BIN_M and z.max() < top - _BIN_M  # the floor of a bowl, not a rim seen from above
    if len(x) < 4 or nearly_level:
        return math.pi / 2
    t, outer = _outline(x, y)
    level = _level_slope(t - t[outer.argmax()], outer, noise_m)
    t, outer = _outline(z, y)
    steep = 0.0
    if t[outer.argmax()] - t[0] < 0.25 * (t[-1] - t[0]):
        low = t - t[0] < max(_SLOPE_M, 6 * noise_m)
        line, _ = _fit(np.column_stack((np.ones(low.sum()), t[low])), outer[low])
        steep = max(0.0, _beyond_noise(-line[1], t[low], noise_m))
    return math.atan(math.hypot(level, steep))


def _level_slope(t, outer, noise_m: float) -> float:
    ones = np.ones_like(t)
    line, line_miss = _fit(np.column_stack((ones, t)), outer)
    corner, corner_miss = _fit(np.column_stack((ones, t, np.abs(t))), outer)
    curve, curve_miss = _fit(np.column_stack((ones, t, t * t)), outer)
    if len(t) * (line_miss**2 - min(corner_miss, curve_miss) ** 2) <= _CLEARLY * noise_m**2:
        return abs(_beyond_noise(line[1], t, noise_m))
    if curve_miss <= 1.1 * corner_miss:
        return abs(_beyond_noise(curve[1], t, noise_m))
    return abs(corner[1]) + max(-corner[2], 0.0)


def _beyond_noise(slope: float, t, noise_m: float) -> float:
    """What is left of a fitted slope without what noise contributes to it on average."""
    spread = float(np.square(t - t.mean()).sum())
    error = noise_m / math.sqrt(spread) if spread > 0 else math.inf
    return math.copysign(math.sqrt(max(slope * slope - 2 * error * error, 0.0)), slope) if noise_m > 0 else float(slope)


def _outline(t, y) -> tuple[np.ndarray, np.ndarray]:
    """The outermost y in bins of t: bin positions and values, in order."""
    bins = ((t - t.min()) / _BIN_M).astype(int)
    outer = np.full(bins.max() + 1, -np.inf)
    np.maximum.at(outer, bins, y.astype(float))
    filled = np.flatnonzero(np.isfinite(outer))
    return filled * _BIN_M, outer[filled]


def _fit(system: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares coefficients, zero where the points leave them open, and the root mean square miss."""
    if len(values) < system.shape[1]:
        coefficients = np.linalg.lstsq(system, values, rcond=1e-6)[0]
    else:
        coefficients = cv2.solve(system, values[:, None], flags=cv2.DECOMP_SVD)[1][:, 0]
    return coefficients, math.sqrt(np.square(system @ coefficients - values).sum() / len(values))
