"""Round things: the vertical axis of a surface of revolution, balls, and the points on their unseen side.

Works on points and normals in a local frame with z up. Knows nothing of images or cameras.

Source: the axis from normals after Pottmann and Wallner, "Computational Line Geometry", 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.geometry.order_statistics import order_statistics

_MIN_RADIUS_M = 0.004
_AXIS_POINTS = 600


@dataclass(frozen=True, eq=False)
class Revolution:
    """A vertical axis; radius_m is the largest, at height rim_m. agreement: share of normals that meet it."""

    axis_xy_m: np.ndarray
    radius_m: float
    rim_m: float
    agreement: float


def revolution(points_m: np.ndarray, normals: np.ndarray) -> Revolution | None:
    """The vertical axis that the normals of a surface of revolution meet in; None if these do not."""
    lateral = np.linalg.norm(normals[:, :2], axis=1)
    usable = lateral > 0.35  # False for NaN
    if usable.sum() < 30:
        return None
    chosen = np.flatnonzero(usable)[:: max(1, int(usable.sum()) // _AXIS_POINTS)]
    p, n = points_m[chosen], normals[chosen, :2] / lateral[chosen, None]
    across = np.stack((-n[:, 1], n[:, 0]), 1)
    target = np.einsum("ij,ij->i", across, p[:, :2])
    trust = np.ones(len(p))
    for _ in range(6):
        weighted = across * trust[:, None]
        scatter = weighted.T @ across
        # Eigenvalues in the ratio 0.04 or less: all normals point one way, a flat side, not a round one.
        if np.linalg.det(scatter) < 0.037 * np.trace(scatter) ** 2:
            return None
        axis = np.linalg.solve(scatter, weighted.T @ target)
        miss = np.abs(across @ axis - target)
        distance = np.hypot(p[:, 0] - axis[0], p[:, 1] - axis[1])
        scale = max(0.06 * order_statistics(distance, 90)[0], 1e-3)
        trust = 1.0 / (1.0 + np.square(miss / scale))
    agreeing = miss < 2.0 * scale
    agreement = float(agreeing.mean())
    if agreement < 0.72:
        return None
    # Round means that normals turn with the angle about the axis, and not a few flat sides that face it.
    (radius,) = order_statistics(distance[agreeing], 98)
    if radius < _MIN_RADIUS_M or float(np.median(miss[agreeing])) > 0.06 * radius:
        return None
    widest = agreeing & (distance > 0.96 * radius)
    return Revolution(axis, radius, float(np.median(p[widest, 2])), agreement)


def resting_ball(points_m: np.ndarray, normals: np.ndarray, bottom_m: float) -> Revolution | None:
    """A ball that lies on its underside; its fit bears more noise than normals do."""
    ball = ball_through(points_m, normals)
    if ball is None or abs(ball[0][2] - bottom_m - ball[1]) > 0.12 * ball[1]:
        return None
    return Revolution(ball[0][:2], ball[1], float(ball[0][2]), 1.0)


def ball_through(points_m: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Centre and radius of the ball whose outside the points are; None for no ball or too flat a cap."""
    known = np.isfinite(normals[:, 0])
    if known.sum() < 30 or np.linalg.eigvalsh(np.cov(normals[known].T))[0] < 0.02:
        return None
    p = points_m - points_m.mean(0)
    system = np.column_stack((2 * p, np.ones(len(p))))
    solution = np.linalg.lstsq(system, np.square(p).sum(1), rcond=None)[0]
    radius = float(np.sqrt(max(solution[3] + solution[:3] @ solution[:3], 0.0)))
    miss = np.abs(np.linalg.norm(p - solution[:3], axis=1) - radius)
    if order_statistics(miss, 80)[0] > max(0.05 * radius, 1e-3):
        return None
    hollow = np.einsum("ij,ij->i", p[known] - solution[:3], normals[known]) < 0
    return None if hollow.mean() > 0.1 else (solution[:3] + points_m.mean(0), radius)


def handle_yaw(footprint: np.ndarray, turned: Revolution) -> float | None:
    """Direction in which something sticks out of a round body, None if nothing does."""
    from_axis = footprint - turned.axis_xy_m
    outer = from_axis[np.linalg.norm(from_axis, axis=1) > 1.06 * turned.radius_m + 0.002]
    if len(outer) < max(10, 0.01 * len(footprint)):
        return None
    along = outer.mean(0)
    return float(np.arctan2(along[1], along[0]))


def turned_points(points_m: np.ndarray, turned: Revolution) -> np.ndarray:
    """Visible points turned about the axis to the sides the camera does not see."""
    sample = points_m[:: max(1, len(points_m) // 500)]
    from_axis = sample[:, :2] - turned.axis_xy_m
    on_body = np.linalg.norm(from_axis, axis=1) < 1.03 * turned.radius_m
    copies = []
    for angle in np.deg2rad((90.0, 180.0, 270.0)):
        c, s = np.cos(angle), np.sin(angle)
        copy = sample[on_body].copy()
        copy[:, :2] = from_axis[on_body] @ np.array(((c, s), (-s, c))) + turned.axis_xy_m
        copies.append(copy)
    return np.concatenate(copies)


def far_half(centre: np.ndarray, radius: float, eye_m: np.ndarray) -> np.ndarray:
    """Points on the side of a ball that the eye does not see, and a little of its rim."""
    k = np.arange(1000) + 0.5
    z, angle = 1 - 2 * k / 1000, np.pi * (1 + 5**0.5) * k  # a sunflower's order covers a sphere evenly
    ring = np.sqrt(1 - z * z)
    outward = np.stack((ring * np.cos(angle), ring * np.sin(angle), z), 1)
    sight = (eye_m - centre) / np.linalg.norm(eye_m - centre)
    return centre + radius * outward[outward @ sight < 0.2]


def unit_circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack((np.cos(angle), np.sin(angle)), 1)
