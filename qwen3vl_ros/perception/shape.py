"""The whole object behind its visible side: an oriented box, and the points nobody has seen.

The camera sees the front of a thing, so the middle of what is measured lies too near. A thing that stands on a plane
reaches from its top down to that plane; its footprint is completed to a circle where the surface normals meet in one
vertical axis (balls, cups, bowls, bottles), and otherwise by the rectangle its top and sides span. No completion may
fill space that the camera has seen to be empty. Works in a local frame with z up. Knows nothing of images or labels.

Sources: surface-of-revolution axis from normals after Pottmann and Wallner, "Computational Line Geometry", 2001;
rectangle search after Zhang et al., "Efficient L-shape fitting for vehicle detection", IV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import cv2
import numpy as np

_TRIM_PERCENT = 0.2
_TOP_PERCENT = 99.5
_MIN_COMPLETE_RADIUS_M = 0.004
_AXIS_POINTS = 600

# Metres by which the camera saw past each local point; NaN where it does not know.
LookBehind = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class SolidBox:
    """local_T_box 4x4 (centre, axes), size_m full extents, hidden_m: Nx3 assumed points of the unseen side (local)."""

    local_T_box: np.ndarray
    size_m: np.ndarray
    hidden_m: np.ndarray


@dataclass(frozen=True, eq=False)
class Revolution:
    """A vertical axis at axis_xy_m; radius_m is the largest, at height rim_m. agreement: share of normals that meet it."""

    axis_xy_m: np.ndarray
    radius_m: float
    rim_m: float
    agreement: float


def upright_box(points_m: np.ndarray, normals: np.ndarray, bottom_m: float, eye_m: np.ndarray,
                look_behind: LookBehind) -> SolidBox:
    """Box with one vertical axis around local points Nx3 with unit normals Nx3 (NaN rows where unknown).

    bottom_m: height of the underside. eye_m: the camera's centre, local. look_behind: see LookBehind.
    """
    top, = order_statistics(points_m[:, 2], _TOP_PERCENT)
    top = max(top, bottom_m + 1e-3)
    footprint = points_m[:, :2]
    resting = _resting_ball(points_m, normals, bottom_m)
    turned = resting or revolution(points_m, normals)
    hidden = np.empty((0, 3))
    if turned is not None and not _sticks_out(turned, look_behind, eye_m):
        circle = turned.axis_xy_m + turned.radius_m * _unit_circle(72)
        yaw, low, high = _rectangle(footprint, circle, _handle_yaw(footprint, turned))
        hidden = _turned_points(points_m, turned, eye_m)
    else:
        resting = turned = None
        yaw, low, high = _rectangle(footprint)
        low, high = _deepen(yaw, low, high, top, bottom_m, eye_m, look_behind)
    axes = np.array(((np.cos(yaw), -np.sin(yaw), 0), (np.sin(yaw), np.cos(yaw), 0), (0, 0, 1.0)))
    pose = np.eye(4)
    pose[:3, :3] = axes
    pose[:3, 3] = axes @ (*((low + high) / 2), 0.0)
    pose[2, 3] = (top + bottom_m) / 2
    size = np.maximum((*(high - low), top - bottom_m), 1e-3)  # a line of points is still a thing
    if resting is not None:
        hidden = _far_half(np.append(resting.axis_xy_m, resting.rim_m), resting.radius_m, eye_m)
    elif turned is None:
        hidden = _mirrored_points(points_m, pose)
    hidden = hidden[~(look_behind(hidden) > 0.004)] if len(hidden) else hidden
    return SolidBox(pose, size, hidden)


def _resting_ball(points_m: np.ndarray, normals: np.ndarray, bottom_m: float) -> Revolution | None:
    """A ball that lies on its underside; its fit bears more noise than normals do."""
    ball = _ball(points_m, normals)
    if ball is None or abs(ball[0][2] - bottom_m - ball[1]) > 0.12 * ball[1]:
        return None
    return Revolution(ball[0][:2], ball[1], float(ball[0][2]), 1.0)


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
    radius, = order_statistics(distance[agreeing], 98)
    if radius < _MIN_COMPLETE_RADIUS_M or float(np.median(miss[agreeing])) > 0.06 * radius:
        return None
    widest = agreeing & (distance > 0.96 * radius)
    return Revolution(axis, radius, float(np.median(p[widest, 2])), agreement)


def _sticks_out(turned: Revolution, look_behind: LookBehind, eye_m: np.ndarray) -> bool:
    """Whether the completed circle would fill space that is known to be empty."""
    circle = np.empty((48, 3))
    circle[:, :2] = turned.axis_xy_m + 0.97 * turned.radius_m * _unit_circle(48)
    circle[:, 2] = turned.rim_m
    empty = look_behind(circle) > 0.004 + 0.05 * turned.radius_m
    return float(empty.mean()) > 0.2


def _handle_yaw(footprint: np.ndarray, turned: Revolution) -> float | None:
    """Direction in which something sticks out of a round body, None if nothing does."""
    from_axis = footprint - turned.axis_xy_m
    outer = from_axis[np.linalg.norm(from_axis, axis=1) > 1.06 * turned.radius_m + 0.002]
    if len(outer) < max(10, 0.01 * len(footprint)):
        return None
    along = outer.mean(0)
    return float(np.arctan2(along[1], along[0]))


def _rectangle(footprint: np.ndarray, extra: np.ndarray | None = None,
               yaw: float | None = None) -> tuple[float, np.ndarray, np.ndarray]:
    """yaw and the extents (low, high), along the turned axes, of the rectangle around points Nx2.

    The smallest area wins; among equals (a triangle, which two seen sides make) the one whose sides carry the points.
    extra: points that count for the extents only. yaw: the one to take, if it is known.
    """
    core = _without_strays(footprint)
    hull_of = core if extra is None else np.concatenate((core, extra))
    hull = cv2.convexHull(hull_of.astype(np.float32))[:, 0].astype(float)
    sample = core[:: max(1, len(core) // 400)]
    edges = np.roll(hull, -1, 0) - hull
    long_enough = np.linalg.norm(edges, axis=1) > 1e-6
    angles = np.concatenate((np.deg2rad(np.arange(0, 90, 3.0)), np.arctan2(edges[long_enough, 1], edges[long_enough, 0])))
    angles = np.mod(angles, np.pi / 2) if yaw is None else np.array((yaw,))
    axes = np.stack((np.stack((np.cos(angles), np.sin(angles)), -1), np.stack((-np.sin(angles), np.cos(angles)), -1)), 1)
    along = axes @ hull.T  # angles x 2 x hull
    low, high = along.min(-1), along.max(-1)
    area = np.prod(np.maximum(high - low, 1e-4), axis=1)
    inner = axes @ sample.T
    to_side = np.minimum(inner - low[..., None], high[..., None] - inner).min(1).mean(-1)
    best = int((area * (1.0 + to_side / np.sqrt(area))).argmin())
    return float(angles[best]), low[best], high[best]


def _without_strays(footprint: np.ndarray) -> np.ndarray:
    """Points without the outermost half percent in each of eight directions."""
    keep = np.ones(len(footprint), bool)
    for direction in _unit_circle(16)[:4]:
        along = footprint @ direction
        low, high = order_statistics(along, _TRIM_PERCENT / 2, 100 - _TRIM_PERCENT / 2)
        keep &= (along >= low) & (along <= high)
    return footprint[keep] if keep.sum() >= 3 else footprint


def _deepen(yaw, low, high, top, bottom, eye_m, look_behind) -> tuple[np.ndarray, np.ndarray]:
    """Give depth to a single flat side whose top the camera cannot see, as far as that space is hidden."""
    axes = np.array(((np.cos(yaw), np.sin(yaw)), (-np.sin(yaw), np.cos(yaw))))
    sight = np.append(axes @ eye_m[:2] - (low + high) / 2, eye_m[2] - top)
    looks_down = sight[2] > np.tan(np.deg2rad(8.0)) * np.linalg.norm(sight[:2])
    size = high - low
    thin = int(size.argmin())
    wanted = min(size.max(), top - bottom) / 2
    if looks_down or size[thin] > wanted or abs(sight[thin]) < abs(sight[1 - thin]):
        return low, high
    low, high = low.copy(), high.copy()
    for depth in (wanted, wanted / 2, wanted / 4):
        far = (low[thin] + depth) if sight[thin] < 0 else (high[thin] - depth)
        if depth <= size[thin]:
            break
        edge = np.empty((20, 3))
        across = np.linspace(low[1 - thin], high[1 - thin], 10)
        corner = np.empty((10, 2))
        corner[:, thin], corner[:, 1 - thin] = far, across
        edge[:, :2] = np.tile(corner @ axes, (2, 1))
        edge[:, 2] = np.repeat((bottom + 0.1 * (top - bottom), bottom + 0.9 * (top - bottom)), 10)
        if (look_behind(edge) > 0.004).mean() < 0.1:
            (high if sight[thin] < 0 else low)[thin] = far
            break
    return low, high


def _turned_points(points_m, turned: Revolution, eye_m) -> np.ndarray:
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


def _mirrored_points(points_m, pose) -> np.ndarray:
    """Visible points turned by half a turn about the box's vertical axis."""
    sample = points_m[:: max(1, len(points_m) // 1000)].copy()
    sample[:, :2] = 2 * pose[:2, 3] - sample[:, :2]
    return sample


def order_statistics(values: np.ndarray, *percents: float) -> list[float]:
    """The values at these percents of the sorted array, without interpolation: np.percentile costs ten times as much."""
    ranks = [round(p / 100 * (len(values) - 1)) for p in percents]
    parted = np.partition(values, sorted(set(ranks)))
    return [float(parted[rank]) for rank in ranks]


def _unit_circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack((np.cos(angle), np.sin(angle)), 1)


def free_box(points_m: np.ndarray, normals: np.ndarray, eye_m: np.ndarray) -> SolidBox:
    """Box around points Nx3 that stand on nothing known: a ball's, or along the largest flat side, or along the spread.

    Only what is seen, and the whole of a ball, is inside: without gravity nothing says how deep a thing is.
    """
    ball = _ball(points_m, normals)
    if ball is not None:
        centre, radius = ball
        pose = np.eye(4)
        pose[:3, 3] = centre
        return SolidBox(pose, np.full(3, 2 * radius), _far_half(centre, radius, eye_m))
    up = _largest_side(normals)
    if up is None:
        up = np.linalg.eigh(np.cov(points_m.T))[1][:, 0]
    local = level_axes(up)
    turned = points_m @ local.T
    yaw, low, high = _rectangle(turned[:, :2])
    floor, top = order_statistics(turned[:, 2], _TRIM_PERCENT, 100 - _TRIM_PERCENT)
    axes = local.T @ np.array(((np.cos(yaw), -np.sin(yaw), 0), (np.sin(yaw), np.cos(yaw), 0), (0, 0, 1.0)))
    pose = np.eye(4)
    pose[:3, :3] = axes
    pose[:3, 3] = axes @ (*((low + high) / 2), (floor + top) / 2)
    return SolidBox(pose, np.maximum((*(high - low), top - floor), 1e-3), np.empty((0, 3)))


def _far_half(centre: np.ndarray, radius: float, eye_m: np.ndarray) -> np.ndarray:
    """Points on the side of a ball that the eye does not see, and a little of its rim."""
    k = np.arange(1000) + 0.5
    z, angle = 1 - 2 * k / 1000, np.pi * (1 + 5**0.5) * k  # a sunflower's order covers a sphere evenly
    ring = np.sqrt(1 - z * z)
    outward = np.stack((ring * np.cos(angle), ring * np.sin(angle), z), 1)
    sight = (eye_m - centre) / np.linalg.norm(eye_m - centre)
    return centre + radius * outward[outward @ sight < 0.2]


def level_axes(up: np.ndarray) -> np.ndarray:
    """3x3 rotation whose rows are a right-handed frame with z along `up`; x is the camera's x as far as it can be."""
    up = up / np.linalg.norm(up)
    x = np.array((1.0, 0, 0)) if abs(up[0]) < 0.9 else np.array((0, 1.0, 0))
    x = x - (x @ up) * up
    x /= np.linalg.norm(x)
    return np.stack((x, np.cross(up, x), up))


def _ball(points_m, normals) -> tuple[np.ndarray, float] | None:
    known = np.isfinite(normals[:, 0])
    if known.sum() < 30 or np.linalg.eigvalsh(np.cov(normals[known].T))[0] < 0.02:  # too flat a cap to tell its size
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


def _largest_side(normals) -> np.ndarray | None:
    """Mean normal of the largest flat side, None if no direction has a third of the normals."""
    known = normals[np.isfinite(normals[:, 0])]
    if len(known) < 30:
        return None
    known = known[:: max(1, len(known) // 800)]
    close = known @ known[:: max(1, len(known) // 100)].T > np.cos(np.deg2rad(12.0))
    best = int(close.sum(0).argmax())
    if close[:, best].mean() < 0.33:
        return None
    mean = known[close[:, best]].mean(0)
    return mean / np.linalg.norm(mean)
