"""The side of a thing that nobody has seen, by hypothesis: each is scored by what the camera saw, and the best one that fits stays.

Half a turn about the vertical, a reflection in a vertical plane along the box, a surface of revolution about an axis in any
direction, the sides of a box. A hypothesis is worth the surface that it puts where something hides it, and fails by what
it puts into space that was seen to be empty; where all fail nothing is assumed. Works in a local frame with z up. Knows
nothing of images or grippers.

Source: the axis from normals after Pottmann and Wallner, "Computational Line Geometry", 2001.
"""

from __future__ import annotations

import math
from typing import Callable, Iterator

import cv2
import numpy as np

from qwen3vl_ros.geometry.order_statistics import order_statistics

_SAMPLE = 800  # points that are completed
_SCORED = 200  # of the completed ones that are held against what was seen
_MOST_EMPTY = 0.3  # share of a hypothesis that may lie in empty space
_FAILS = 3.0  # how much more a share in empty space counts than one that is hidden
_FITS = 0.05  # share of half a turn that may lie in empty space for no other to be tried: most things bear it
_AGREE, _MISS = 0.72, 0.08  # share of normals that meet an axis, within that share of the radius
_FAR_OFF, _SOME = 0.25, 0.6  # of the points' spread: where fewer normals come so near, five rounds will not mend it
_TURNS = np.deg2rad(np.arange(45.0, 360.0, 45.0))
_ACROSS = 12  # points across a side of a box
_ON_FACES = 0.85  # share of what is seen that lies on the faces of a box


def completed(
    points_m: np.ndarray,
    sample_m: np.ndarray,
    normals: np.ndarray,
    local_T_box: np.ndarray,
    size_m: np.ndarray,
    look_behind: Callable[[np.ndarray], np.ndarray],
    noise_m: float = 0.0,
    axis: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Points Nx3 on the unseen side of a thing seen as local points Mx3 in its box; none where no hypothesis fits.

    sample_m, normals: Kx3, some of the points and the unit normals there (NaN where unknown). look_behind: metres by which the
    camera saw past local points, NaN where it does not know. noise_m: of a single reading.
    axis: of revolution, a point and its direction, where it was found before.
    """
    slack = max(0.004, 2.5 * noise_m)
    sample = points_m[:: max(1, len(points_m) // _SAMPLE)].astype(float)
    best, best_worth = np.empty((0, 3)), -math.inf
    for k, hidden in enumerate(_hypotheses(sample, sample_m, normals, local_T_box, noise_m, axis)):
        some = hidden[:: max(1, len(hidden) // _SCORED)]
        behind = look_behind(some)
        empty = float((behind > slack).mean())
        worth = float((behind < -slack).mean()) - _FAILS * empty
        if empty <= _MOST_EMPTY and worth > best_worth:
            best, best_worth = hidden, worth
        if k == 0 and empty < _FITS:
            break
    if is_a_box(sample, local_T_box, size_m, slack):
        best = np.concatenate((best, _sides(local_T_box, size_m)))
    return best


def _hypotheses(sample, sample_m, normals, local_T_box, noise_m: float, axis) -> Iterator[np.ndarray]:
    middle = local_T_box[:3, 3]
    yield np.column_stack((2 * middle[:2] - sample[:, :2], sample[:, 2]))
    for k in (0, 1):
        normal = local_T_box[:3, k]
        yield sample - 2 * ((sample - middle) @ normal)[:, None] * normal
    found = axis or axis_of_revolution(sample_m.astype(float), normals.astype(float), noise_m)
    if found is not None:
        point, direction = found
        few = sample[:: max(1, len(sample) // 250)] - point
        turned = [few @ cv2.Rodrigues(direction * angle)[0].T + point for angle in _TURNS]
        lowest = middle[2] - abs(float(sample[:, 2].max()) - middle[2])
        whole = np.concatenate(turned)
        yield whole[whole[:, 2] > lowest - 0.003]


def axis_of_revolution(
    points_m: np.ndarray, normals: np.ndarray, noise_m: float = 0.0
) -> tuple[np.ndarray, np.ndarray] | None:
    """A point of the axis that the normals of a surface of revolution meet, and its unit direction; None if these do not."""
    known = np.isfinite(normals[:, 0])
    p, n = points_m[known], normals[known]
    if len(p) < 40:
        return None
    p, n = p[:: max(1, len(p) // 400)], n[:: max(1, len(n) // 400)]
    centre, scale = p.mean(0), float(np.sqrt(p.var(0).sum()))
    p = (p - centre) / scale
    rows, trust = np.concatenate((_cross(p, n), n), 1), np.ones(len(p))
    for turn in range(5):
        m = (rows * trust[:, None]).T @ rows / len(rows)
        c = m[3:, 3:] + 1e-3 * np.eye(3)
        solved = np.linalg.solve(c, m[3:, :3])
        direction = np.linalg.eigh(m[:3, :3] - m[:3, 3:] @ solved)[1][:, 0]
        point = np.cross(direction, -solved @ direction)  # the nearest to the middle
        # Distance of each normal's line from the axis.
        across = _cross(n, direction)
        lean = np.sqrt(np.einsum("ij,ij->i", across, across))
        miss = np.abs(np.einsum("ij,ij->i", p - point, across)) / np.maximum(lean, 0.2)
        if turn and np.count_nonzero(miss < _FAR_OFF) < _SOME * len(miss):
            return None
        trust = 1.0 / (1.0 + np.square(miss / 0.1))
    away = p - point
    radial = away - np.outer(away @ direction, direction)
    radius = order_statistics(np.linalg.norm(radial, axis=1), 90)[0]
    flat = n - np.outer(n @ direction, direction)
    spread = np.sort(np.linalg.eigvalsh(flat.T @ flat))[1:]  # along the axis there is none
    turns = spread[0] * spread[1] > 0.037 * (spread[0] + spread[1]) ** 2  # else one flat side, or two seen edge to edge
    within = max(_MISS * radius, 1.2 * noise_m / scale)
    if radius < 0.05 or radius > 2.0 or not turns or float((miss < 2 * within).mean()) < _AGREE:
        return None
    if order_statistics(miss, 50)[0] > within:
        return None
    return point * scale + centre, direction


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross products of vectors Nx3 with Nx3 or 3, for which NumPy's own takes four times as long."""
    (x, y, z), (u, v, w) = a.T, b.T
    found = np.empty_like(a)
    found[:, 0], found[:, 1], found[:, 2] = y * w - z * v, z * u - x * w, x * v - y * u
    return found


def is_a_box(sample: np.ndarray, local_T_box: np.ndarray, size_m: np.ndarray, slack: float) -> bool:
    """Whether nearly all that is seen lies within slack of the faces of the box."""
    local = np.abs((sample - local_T_box[:3, 3]) @ local_T_box[:3, :3])
    return float(((size_m / 2 - local).min(1) < slack).mean()) > _ON_FACES


def _sides(local_T_box, size_m) -> np.ndarray:
    """Points on the upright sides of a box, five millimetres apart or more."""
    found = []
    for axis in (0, 1):
        counts = [max(2, min(_ACROSS, int(size_m[k] / 0.005))) for k in (1 - axis, 2)]
        u, v = np.meshgrid(*(np.linspace(-0.5, 0.5, count) for count in counts))
        for side in (-0.5, 0.5):
            face = np.empty((u.size, 3))
            face[:, axis], face[:, 1 - axis], face[:, 2] = side, u.ravel(), v.ravel()
            found.append(face * size_m)
    return np.concatenate(found) @ local_T_box[:3, :3].T + local_T_box[:3, 3]
