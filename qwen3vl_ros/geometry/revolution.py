"""Round things: the vertical axis of a surface of revolution, balls, and the points on their unseen side.

Works on points and normals in a local frame with z up. Knows nothing of images or cameras.

Source: the axis from normals after Pottmann and Wallner, "Computational Line Geometry", 2001.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from qwen3vl_ros.geometry.order_statistics import order_statistics

_MIN_RADIUS_M = 0.004
_AXIS_POINTS = 600
_OFF, _NOISY = 0.08, 1.2  # of its radius, and of the noise, that a quadric's points may miss it by
_NARROWER, _WIDER = 0.5, 1.3  # of half its outline that its radius may be
_RIDGE = 1e-6 * np.eye(5)  # what is seen of a thing may lie in one plane
_FROM_ASIDE = 0.3  # level part of the direction of sight: less, and its whole outline is seen from above
_EVEN = 0.75  # of one side of its outline that the other one is
_CAP, _RESTING_CAP = 0.02, 0.008  # what is seen of a ball through noise has 0.012 to 0.03


@dataclass(frozen=True, eq=False)
class Revolution:
    """A vertical axis; radius_m is the largest, at height rim_m. agreement: share of normals that meet it."""

    axis_xy_m: np.ndarray
    radius_m: float
    rim_m: float
    agreement: float


def revolution(points_m: np.ndarray, normals: np.ndarray) -> Revolution | None:
    """The vertical axis that the normals of a surface of revolution meet in; None if these do not."""
    nx, ny = (np.ascontiguousarray(n, float) for n in normals.T[:2])
    lateral = np.sqrt(nx * nx + ny * ny)  # np.hypot, which cannot overflow, takes eight times as long
    chosen = np.flatnonzero(lateral > 0.35)  # not NaN
    if len(chosen) < 30:
        return None
    chosen = chosen[:: max(1, len(chosen) // _AXIS_POINTS)]
    at = np.ascontiguousarray(points_m[chosen, :2].T, float)
    across = np.stack((-ny[chosen], nx[chosen])) / lateral[chosen]  # the normals
    target = (across * at).sum(0)
    system, trust = np.vstack((across, target)), np.ones(len(target))
    last = None
    (at_x, at_y), (across_x, across_y) = at, across
    for _ in range(6):
        (uu, uv, tu), (_, vv, tv) = ((trust * across) @ system.T).tolist()
        # Eigenvalues in the ratio 0.04 or less: all normals point one way, a flat side, not a round one.
        determinant = uu * vv - uv * uv
        if determinant < 0.037 * (uu + vv) ** 2:
            return None
        axis = (vv * tu - uv * tv) / determinant, (uu * tv - uv * tu) / determinant
        miss = np.abs(axis[0] * across_x + axis[1] * across_y - target)
        dx, dy = at_x - axis[0], at_y - axis[1]
        distance = np.sqrt(dx * dx + dy * dy)
        scale = max(0.06 * order_statistics(distance, 90)[0], 1e-3)
        if last is not None and max(abs(axis[0] - last[0]), abs(axis[1] - last[1])) < 1e-6:
            break
        trust, last = 1.0 / (1.0 + np.square(miss * (1 / scale))), axis
    agreeing = miss < 2.0 * scale
    agreement = np.count_nonzero(agreeing) / len(agreeing)
    if agreement < 0.72:
        return None
    # Round means that normals turn with the angle about the axis, and not a few flat sides that face it.
    (radius,) = order_statistics(distance[agreeing], 98)
    if radius < _MIN_RADIUS_M or order_statistics(miss[agreeing], 50)[0] > 0.06 * radius:
        return None
    widest = agreeing & (distance > 0.96 * radius)
    return Revolution(np.array(axis), radius, order_statistics(points_m[chosen[widest], 2], 50)[0], agreement)


def round_from_the_side(
    footprint: np.ndarray, points_m: np.ndarray, eye_m: np.ndarray, noise_m: float
) -> Revolution | None:
    """The vertical axis of a quadric (a ball, a cylinder, a bowl's cone) through noisy points whose normals tell nothing, seen from the side:
    as wide as its outline is, and its front where the points are. None where none fits. footprint: Nx2 of all points, outline included.
    noise_m: of a single reading.
    """
    p = points_m.astype(float)
    middle, scale = p.mean(0), float(np.sqrt(p[:, :2].var(0).sum()))
    ahead = middle - eye_m
    ahead = ahead[:2] / max(float(np.linalg.norm(ahead)), 1e-9)
    if len(p) < 60 or scale < _MIN_RADIUS_M / 2 or np.linalg.norm(ahead) < _FROM_ASIDE:
        return None
    x, y, z = ((p - middle) / scale).T
    rows, target = np.stack((x, y, np.ones_like(x), z, z * z), 1), x * x + y * y
    trust = np.ones(len(p))
    for _ in range(4):
        weighed = (rows * np.square(trust)[:, None]).T
        solved = np.linalg.solve(weighed @ rows + _RIDGE, weighed @ target)
        cx, cy = solved[:2] / 2
        squared = rows[:, 2:] @ solved[2:] + cx * cx + cy * cy
        radius = np.sqrt(np.maximum(squared, 1e-6))
        miss = np.abs(np.hypot(x - cx, y - cy) - radius)
        trust = 1.0 / (1.0 + np.square(miss / max(2.5 * order_statistics(miss, 50)[0], 1e-6)))
    largest = order_statistics(radius, 95)[0] * scale
    if largest < _MIN_RADIUS_M or order_statistics(miss, 80)[0] * scale > max(_OFF * largest, _NOISY * noise_m):
        return None
    axis = np.array((cx, cy)) * scale + middle[:2]
    aside = np.array((-ahead[1], ahead[0])) / np.linalg.norm(ahead)
    low, high = order_statistics((footprint - axis) @ aside, 0.5, 99.5)
    outlined, shift = min(-low, high), 0.0  # the other side has a handle
    if outlined > _EVEN * max(-low, high):
        outlined, shift = (high - low) / 2, (high + low) / 2
    if not _NARROWER * outlined < largest < _WIDER * outlined:
        return None
    wide = max(largest, outlined)
    axis = axis + (wide - largest) * ahead + shift * aside
    widest = radius * scale > 0.96 * largest
    return Revolution(axis, wide, order_statistics(points_m[widest, 2], 50)[0], 1.0)


def resting_ball(points_m: np.ndarray, normals: np.ndarray, bottom_m: float, noise_m: float = 0.0) -> Revolution | None:
    """A ball that lies on its underside; its fit bears more noise than normals do, and its height vouches for a small cap."""
    ball = ball_through(points_m, normals, noise_m, _RESTING_CAP)
    if ball is None or abs(ball[0][2] - bottom_m - ball[1]) > 0.12 * ball[1] + 2 * noise_m:
        return None
    return Revolution(ball[0][:2], ball[1], float(ball[0][2]), 1.0)


def ball_through(
    points_m: np.ndarray, normals: np.ndarray, noise_m: float = 0.0, cap: float = _CAP
) -> tuple[np.ndarray, float] | None:
    """Centre and radius of the ball whose outside the points are; None for no ball or too flat a cap. noise_m: of the points.
    cap: the least spread of the normals, variance in the direction in which they spread least.
    """
    known = np.flatnonzero(np.isfinite(normals[:, 0]))
    if len(known) < 30:
        return None
    facing = np.ascontiguousarray((normals if len(known) == len(normals) else normals.take(known, 0)).T, float)
    sums = facing.sum(1)
    if not _all_above(facing @ facing.T - np.outer(sums, sums / len(known)), cap * (len(known) - 1)):
        return None
    p = np.ascontiguousarray(points_m.T, float)
    middle = p.mean(1)
    p -= middle[:, None]
    squares = p * p
    target = squares[0] + squares[1] + squares[2]
    level = float(
        target.mean()
    )  # the points are about their middle, so that this and the centre are found each by itself
    centre = cv2.solve(2 * (p @ p.T), (p @ target)[:, None], flags=cv2.DECOMP_SVD)[1][:, 0]
    radius = math.sqrt(max(level + centre @ centre, 0.0))
    away = p - centre[:, None]
    x, y, z = away * away
    miss = np.abs(np.sqrt(x + y + z) - radius)
    if order_statistics(miss, 80)[0] > max(0.05 * radius, 1e-3, 1.4 * noise_m):
        return None
    x, y, z = (away if len(known) == len(normals) else away[:, known]) * facing
    hollow = np.count_nonzero(x + y + z < 0)
    return None if hollow > 0.1 * len(known) else (centre + middle, radius)


def _all_above(matrix: np.ndarray, least: float) -> bool:
    """Whether no eigenvalue of a symmetric 3x3 matrix is less, by Sylvester's criterion: NumPy takes twenty times as long."""
    (a, b, c), (_, d, e), (_, _, f) = matrix.tolist()
    a, d, f = a - least, d - least, f - least
    return a > 0 and a * d > b * b and a * (d * f - e * e) - b * (b * f - c * e) + c * (b * e - c * d) >= 0


def handle_yaw(footprint: np.ndarray, turned: Revolution) -> float | None:
    """Direction in which something sticks out of a round body, None if nothing does."""
    x, y = (footprint[:, k] - turned.axis_xy_m[k] for k in (0, 1))
    outer = x * x + y * y > (1.06 * turned.radius_m + 0.002) ** 2
    if np.count_nonzero(outer) < max(10, 0.01 * len(footprint)):
        return None
    return math.atan2(y[outer].mean(), x[outer].mean())


def turned_points(points_m: np.ndarray, turned: Revolution) -> np.ndarray:
    """Visible points turned about the axis to the sides the camera does not see."""
    x, y, z = points_m[:: max(1, len(points_m) // 500)].T
    x, y = x - turned.axis_xy_m[0], y - turned.axis_xy_m[1]
    on_body = x * x + y * y < (1.03 * turned.radius_m) ** 2
    x, y, z = x[on_body], y[on_body], z[on_body]
    copies = np.empty((3, len(x), 3))
    for copy, (across, along) in zip(copies, ((-y, x), (-x, -y), (y, -x))):
        copy[:, 0], copy[:, 1], copy[:, 2] = across + turned.axis_xy_m[0], along + turned.axis_xy_m[1], z
    return copies.reshape(-1, 3)


def far_half(centre: np.ndarray, radius: float, eye_m: np.ndarray) -> np.ndarray:
    """Points on the side of a ball that the eye does not see, and a little of its rim."""
    sight = (eye_m - centre) / np.linalg.norm(eye_m - centre)
    return centre + radius * _SPHERE[_SPHERE @ sight < 0.2]


def _sunflower(count: int) -> np.ndarray:
    """Unit vectors spread evenly over the sphere, in a sunflower's order, Nx3."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - z * z)
    return np.stack((ring * np.cos(angle), ring * np.sin(angle), z), 1)


_SPHERE = _sunflower(1000)


@lru_cache
def unit_circle(count: int) -> np.ndarray:
    """So many unit vectors, Nx2, from the first axis on; not to be written to."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack((np.cos(angle), np.sin(angle)), 1)
