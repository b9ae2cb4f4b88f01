"""The whole object behind its visible side: an oriented box, and the points nobody has seen.

The camera sees the front of a thing, so the middle of what is measured lies too near. A thing that stands on
a plane reaches from its top down to that plane; its footprint is completed to a circle where the surface
normals meet in one vertical axis (balls, cups, bowls, bottles), and otherwise by the rectangle its top and
sides span, and what else is behind it is assumed by hypothesis (completion.py). No completion may fill space that the camera has seen to be empty. Works in a local frame with z
up. Knows nothing of images or labels.

Source of the rectangle search: Zhang et al., "Efficient L-shape fitting for vehicle detection", IV 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Callable

import numpy as np

from qwen3vl_ros.geometry.completion import axis_of_revolution, completed, is_a_box
from qwen3vl_ros.geometry.foreground import SMOOTHED
from qwen3vl_ros.geometry.hulls import outline
from qwen3vl_ros.geometry.order_statistics import order_statistics
from qwen3vl_ros.geometry.revolution import (
    Revolution,
    ball_through,
    far_half,
    handle_yaw,
    resting_ball,
    revolution,
    round_from_the_side,
    turned_points,
    unit_circle,
)

_TRIM_PERCENT = 0.2
_TOP_PERCENT = 99.5
_MIRRORED_EMPTY = 0.1  # share of the assumed side that may be seen to be empty
_LIES = 0.5  # sine of the angle between an axis of revolution and the vertical
_CAP, _NARROW = 0.08, 0.7  # shares of a thing's height and width
_UPRIGHT, _SIDES = 0.6, 40  # level part of the normals of a thing's sides, and how many of these tell its form
_ROUND = 0.3  # as angular as what is round looks through noise at most
_FACE = 5.0  # standard deviations that a face is thick through noise
_EVERY_3_DEGREES = np.deg2rad(np.arange(0, 90, 3.0))
_CIRCLE = unit_circle(72)
_FOUR_WAYS = unit_circle(16)[:4].astype(np.float32)

# Metres by which the camera saw past each local point; NaN where it does not know.
LookBehind = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class SolidBox:
    """local_T_box 4x4 (centre, axes), size_m full extents, hidden_m: Nx3 points assumed unseen, angular: as in Detection3D."""

    local_T_box: np.ndarray
    size_m: np.ndarray
    hidden_m: np.ndarray
    angular: float = math.nan


def upright_box(
    points_m: np.ndarray,
    sample_m: np.ndarray,
    normals: np.ndarray,
    bottom_m: float,
    eye_m: np.ndarray,
    look_behind: LookBehind,
    noise_m: float = 0.0,
    read: int | None = None,
) -> SolidBox:
    """Box with one vertical axis around local points Nx3.

    sample_m, normals: Mx3, some of the points and the unit normals there (NaN rows where unknown). bottom_m: height of the
    underside. eye_m: the camera's centre, local. look_behind: see LookBehind. noise_m: of a single reading. read: how many of the
    points are readings, the first ones; the others are their outline (rim.py). None: all.
    """
    heights = points_m[:read, 2]
    (top,) = order_statistics(heights, _TOP_PERCENT)
    sight = points_m[:: max(1, len(points_m) // 400)].mean(0) - eye_m
    spread = SMOOTHED * noise_m * np.abs(sight) / np.linalg.norm(sight)  # of the points, along the axes
    top = max(top - _too_far(heights, top, spread[2], 1 - _TOP_PERCENT / 100), bottom_m + 1e-3)
    footprint = points_m[:, :2]
    resting = resting_ball(sample_m, normals, bottom_m, SMOOTHED * noise_m)
    turned, angular = resting or revolution(sample_m, normals), _angular(normals)
    if turned is None or _sticks_out(turned, look_behind, noise_m):
        resting = turned = None  # through noise the front of a bowl may look like a ball's
        if angular < _ROUND:
            turned = round_from_the_side(footprint, sample_m, eye_m, noise_m)
        if turned is not None and _sticks_out(turned, look_behind, noise_m):
            turned = None
    hidden, axis = np.empty((0, 3)), None
    if turned is not None:
        yaw, low, high = _rectangle(footprint, turned)
        hidden = turned_points(points_m[:read], turned)
    else:
        yaw, low, high = _rectangle(footprint)
        if not is_a_box(sample_m, *_box(yaw, low, high, top, bottom_m), max(0.002, 2.5 * SMOOTHED * noise_m)):
            whole = _turned_about_the_top(points_m, heights, max(high - low), top, bottom_m, look_behind, noise_m)
            if whole is None:
                axis = axis_of_revolution(sample_m.astype(float), normals.astype(float), noise_m)
                whole = None if axis is None else _other_half(points_m, *axis, look_behind, noise_m)
            if whole is not None:
                yaw, low, high = _rectangle(whole)
        low, high = _without_noise(footprint, yaw, low, high, SMOOTHED * noise_m * sight[:2] / np.linalg.norm(sight))
        low, high = _deepen(yaw, low, high, top, bottom_m, eye_m, look_behind)
    pose, size = _box(yaw, low, high, top, bottom_m)
    if resting is not None:
        hidden = far_half(np.append(resting.axis_xy_m, resting.rim_m), resting.radius_m, eye_m)
    elif turned is None:
        hidden = completed(points_m[:read], sample_m, normals, pose, size, look_behind, noise_m, axis)
    if len(hidden):
        hidden = hidden.take(np.flatnonzero(~(look_behind(hidden) > max(0.004, 2.5 * noise_m))), 0)
    return SolidBox(pose, size, hidden, angular)


def _box(yaw: float, low, high, top: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
    """local_T_box and the extents of an upright box around a rectangle."""
    c, s = math.cos(yaw), math.sin(yaw)
    pose = np.array(((c, -s, 0, 0), (s, c, 0, 0), (0, 0, 1, (top + bottom) / 2), (0, 0, 0, 1.0)))
    pose[:2, 3] = pose[:2, :2] @ ((low + high) / 2)
    return pose, np.maximum((*(high - low), top - bottom), 1e-3)  # a line of points is still a thing


def _angular(normals: np.ndarray) -> float:
    """How alike the directions of level normals are but for right angles: the length of the mean of their fourth powers."""
    level = normals[:, 0] + 1j * normals[:, 1]
    length = np.abs(level)
    sides = length > _UPRIGHT  # not NaN
    if np.count_nonzero(sides) < _SIDES:
        return math.nan
    return float(np.abs(np.power(level[sides] / length[sides], 4).mean()))


def _turned_about_the_top(
    points_m, heights, width: float, top: float, bottom: float, look_behind: LookBehind, noise_m: float
) -> np.ndarray | None:
    """The footprint, with its half turn about the middle of what is highest where that is narrow, as a bottle's cap, and where the
    turned points are not seen to be empty: of a tall thing only the near side is seen, but of its cap all. width: of its footprint.
    """
    if width > top - bottom:
        return None
    cap = points_m[: len(heights)][heights > top - _CAP * (top - bottom), :2]
    if len(cap) < 12:
        return None
    low, high = np.array([order_statistics(cap[:, k], 2, 98) for k in (0, 1)]).T
    if max(high - low) > _NARROW * width:
        return None
    turned = points_m[:: max(1, len(points_m) // 400)].astype(float)
    turned[:, :2] = low + high - turned[:, :2]
    empty = look_behind(turned) > max(0.004, 2.5 * noise_m)
    if float(empty.mean()) > _MIRRORED_EMPTY:
        return None
    return np.concatenate((points_m[:, :2], turned[~empty, :2]))


def _other_half(points_m, point, direction, look_behind: LookBehind, noise_m: float) -> np.ndarray | None:
    """The footprint of a lying body of revolution with that on the other side of its axis, where that is not seen to be empty."""
    across = np.array((-direction[1], direction[0], 0.0))
    lean = float(np.linalg.norm(across))
    if lean < _LIES:
        return None
    across /= lean
    mirrored = points_m[:: max(1, len(points_m) // 400)].astype(float)
    mirrored -= 2 * ((mirrored - point) @ across)[:, None] * across
    empty = look_behind(mirrored) > max(0.004, 2.5 * noise_m)
    return None if float(empty.mean()) > _MIRRORED_EMPTY else np.concatenate((points_m[:, :2], mirrored[~empty, :2]))


def _too_far(values: np.ndarray, end: float, spread: float, beyond: float) -> float:
    """By how much noise has moved the upper end of some values: that of a face by over two standard deviations, that of a surface
    that runs out there by hardly any. end: beyond it lies a share `beyond` of the values. spread: their standard deviation.
    """
    if spread <= 0:
        return 0.0
    near = np.count_nonzero(values > end - _FACE * spread) / len(values)
    face = min(near, 3 * near * near)
    return spread * max(0.0, NormalDist().inv_cdf(1 - beyond / face)) if face > 2 * beyond else 0.0


def _without_noise(footprint: np.ndarray, yaw: float, low, high, spread_xy) -> tuple[np.ndarray, np.ndarray]:
    """The extents of a rectangle without what noise along the line of sight has added."""
    axes = np.array(((np.cos(yaw), np.sin(yaw)), (-np.sin(yaw), np.cos(yaw))))
    along, spread = footprint @ axes.T, np.abs(axes @ spread_xy)
    beyond = _TRIM_PERCENT / 200
    low = low + [_too_far(-along[:, k], -low[k], spread[k], beyond) for k in (0, 1)]
    high = high - [_too_far(along[:, k], high[k], spread[k], beyond) for k in (0, 1)]
    return low, high


def _sticks_out(turned: Revolution, look_behind: LookBehind, noise_m: float) -> bool:
    """Whether the completed circle would fill space that is known to be empty."""
    circle = np.empty((48, 3))
    circle[:, :2] = turned.axis_xy_m + 0.97 * turned.radius_m * unit_circle(48)
    circle[:, 2] = turned.rim_m
    empty = look_behind(circle) > max(0.004, 2 * noise_m) + 0.05 * turned.radius_m
    return np.count_nonzero(empty) > 0.2 * len(empty)


def _rectangle(footprint: np.ndarray, turned: Revolution | None = None) -> tuple[float, np.ndarray, np.ndarray]:
    """yaw and the extents (low, high), along the turned axes, of the rectangle around points Nx2.

    The smallest area wins; among equals (a triangle, which two seen sides make) the one whose sides carry the
    points. turned: the round body that the points are of, whose whole circle the rectangle holds.
    """
    core = _without_strays(footprint)
    if turned is None:
        hull = outline(core.T)
        edges = np.roll(hull, -1, 0) - hull
        edges = edges[np.abs(edges).max(1) > 1e-6]
        angles = np.mod(np.concatenate((_EVERY_3_DEGREES, np.arctan2(edges[:, 1], edges[:, 0]))), np.pi / 2)
    else:
        x, y = (of - at for of, at in zip(core, turned.axis_xy_m))
        beyond = core.take(np.flatnonzero(x * x + y * y > turned.radius_m**2), 1)
        hull = np.concatenate((turned.axis_xy_m + turned.radius_m * _CIRCLE, beyond.T))
        yaw = handle_yaw(footprint, turned)
        angles = _EVERY_3_DEGREES if yaw is None else np.array((yaw,))
    c, s = np.cos(angles), np.sin(angles)
    axes = np.stack((c, s, -s, c), 1).reshape(-1, 2, 2)

    def along_axes(points, k):  # len(k) x 2 x points
        return (axes[k].reshape(-1, 2) @ points).reshape(-1, 2, points.shape[1])

    along = along_axes(hull.T, slice(None))
    low, high = along.min(-1), along.max(-1)
    area = np.maximum(high - low, 1e-4).prod(1)
    if len(angles) == 1:
        return float(angles[0]), low[0], high[0]
    sample = np.array(core[:, :: max(1, core.shape[1] // 200)], float)

    def worth(k):  # the less the better; never less than the area
        inner = along_axes(sample, k)
        to_low, to_high = inner - low[k, :, None], np.subtract(high[k, :, None], inner, out=inner)
        across, along = np.minimum(to_low, to_high, out=to_low).swapaxes(0, 1)
        return area[k] + np.minimum(across, along).sum(-1) / sample.shape[1] * np.sqrt(area[k])

    # Around what is round all rectangles are about as large, and none falls out by its area.
    candidates = np.arange(len(angles)) if turned else np.flatnonzero(area <= worth(np.array((area.argmin(),))))
    best = candidates[worth(candidates).argmin()] if len(candidates) > 1 else candidates[0]
    return float(angles[best]), low[best], high[best]


def _without_strays(footprint: np.ndarray) -> np.ndarray:
    """Points Nx2 without the outermost half percent in each of eight directions, 2xM."""
    points = np.ascontiguousarray(footprint.T)
    along = _FOUR_WAYS @ points
    ordered, first = np.sort(along, axis=1), round(_TRIM_PERCENT / 200 * (len(footprint) - 1))
    keep = np.flatnonzero(((along >= ordered[:, [first]]) & (along <= ordered[:, [-1 - first]])).all(0))
    return points.take(keep, 1) if len(keep) >= 3 else points


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


def free_box(points_m: np.ndarray, sample_m: np.ndarray, normals: np.ndarray, eye_m: np.ndarray) -> SolidBox:
    """Box around points Nx3 that stand on nothing known: a ball's, or along a flat side, or the spread.

    sample_m, normals: as for upright_box. Only what is seen, and the whole of a ball, is inside: without gravity nothing says how deep a thing is.
    """
    ball = ball_through(sample_m, normals)
    if ball is not None:
        centre, radius = ball
        pose = np.eye(4)
        pose[:3, 3] = centre
        return SolidBox(pose, np.full(3, 2 * radius), far_half(centre, radius, eye_m))
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


def level_axes(up: np.ndarray) -> np.ndarray:
    """3x3 rotation, rows a right-handed frame with z along `up` and x near the camera's x."""
    a, b, c = (float(of) for of in up)  # three numbers: NumPy would take ten times as long
    length = math.sqrt(a * a + b * b + c * c)
    a, b, c = a / length, b / length, c / length
    if abs(a) < 0.9:
        x, y, z = 1.0 - a * a, -a * b, -a * c
    else:
        x, y, z = -b * a, 1.0 - b * b, -b * c
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    return np.array(((x, y, z), (b * z - c * y, c * x - a * z, a * y - b * x), (a, b, c)))


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
