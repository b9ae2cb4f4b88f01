"""What a grasp's quality is made of, and what it means: the share of such grasps that hold.

A grasp is rated by what is known to make grasps fail: contact normals off the closing axis, jaws far from the middle, no room
beside the fingers, contacts and space that nobody saw, a short bite, a small contact, and a weight whose lever turns the object in the fingers
(soft-finger contacts: Ciocarlie, Lackner and Allen, "Soft finger model with adaptive contact geometry", 2007). The rating is
then turned into a share by a curve that was fitted to executed grasps (benchmarks/grasp_physics.py, tuning seeds). Knows
nothing of how places are found.
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np

ANTIPODALITY, CENTREDNESS, ROOM, EVIDENCE = 0.30, 0.25, 0.15, 0.30  # weights
_LADDER = (0.3, 0.45, 0.6, 0.8)  # frictions that may be met, as shares of twice the configured one
_FULL_BITE_M = 0.012
_FULL_AREA_M2 = (
    150e-6  # of grasps with less than 60 mm2 half failed, with 100 to 150 a twentieth, with more a hundredth
)
_FILLED = 0.55  # of its box that a thing fills, on average
_SHAKEN = 1.5  # of its weight, when the arm moves
_CURVE = (-1.0, 6.5)  # log-odds that a grasp holds: at rating 0, and how they grow
_CURVE_AVERAGED = (-0.5, 8.3)  # the same of a rating that is the mean over an arm's errors


def antipodality(angle_rad: float, friction: float) -> float:
    """1 where both normals lie on the closing axis; how far inside the cone they are, over frictions around the given one."""
    cones = [math.atan(2 * friction * step) for step in _LADDER]
    return sum(min(1.0, max(0.0, 1.0 - angle_rad / cone)) for cone in cones) / len(cones)


def bite(depth_m: float) -> float:
    """How much of a full hold there is: depth_m from the fingertips to the upper end of the contact."""
    return 0.4 + 0.6 * min(1.0, max(0.0, depth_m) / _FULL_BITE_M)


def contact_area(area_m2: float) -> float:
    """How much of a full hold the smaller of the two contacts gives: its extent across times that along the approach."""
    return 0.4 + 0.6 * min(1.0, max(0.0, area_m2) / _FULL_AREA_M2)


def weight_n(size_m: np.ndarray, density: float) -> float:
    """Of a thing with these extents; density in kg/m3."""
    return 9.81 * density * _FILLED * math.prod(map(float, size_m))


def steadiness(torque_nm: Sequence[float], span_m: float, depth_m: float, friction: float, force_n: float) -> float:
    """1 where the contacts hold the object's weight against turning, less where its middle is too far away.

    torque_nm: of the weight about the closing axis, across it and along the approach. span_m, depth_m: the contact's extents
    across and along the approach. About the closing axis friction holds, about the others the pads' pressure.
    """
    depth_m = min(depth_m, 2 * _FULL_BITE_M)
    holds = 2 * friction * math.hypot(span_m, depth_m) / 3, 0.8 * depth_m, 0.8 * span_m
    load = max(_SHAKEN * abs(of) / max(force_n * against, 1e-9) for of, against in zip(torque_nm, holds))
    return min(1.0, max(0.3, 1.0 - 0.5 * (load - 0.5)))


def share_that_holds(rating: float, averaged: bool = False) -> float:
    """Quality, 0..1: of grasps so rated, about so many hold. averaged: over an arm's errors (judge.on_average)."""
    at_zero, slope = _CURVE_AVERAGED if averaged else _CURVE
    return 1.0 / (1.0 + math.exp(-(at_zero + slope * rating)))
