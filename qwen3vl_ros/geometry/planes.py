"""The planes of a scene that things may stand on, found by RANSAC and refined on their own noise.

Works on bare points in the camera frame. Knows nothing of images or objects.

Source: Fischler and Bolles, "Random sample consensus", CACM 1981.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from qwen3vl_ros.geometry.order_statistics import order_statistics

_ROUGHLY = 4  # one point in so many says where about a plane is
_WORTH_A_LOOK = 0.5  # of the points a plane must have: what fewer of a sample are near is no plane
# Where a sample of the points is taken, 0..1 of them, and which three of that each hypothesis goes through.
_RNG = np.random.default_rng(0)
_SCREENED, _CORNERS = _RNG.random(500), _RNG.integers(0, 500, (256, 3))
_MAX_PLANES = 3
_MIN_PLANE_SHARE = 0.06
_COS_UPRIGHT = float(np.cos(np.deg2rad(15.0)))
_TOLERANCE_FLOOR_M = 0.002
_MAX_SPREAD = 0.55  # of the tolerance: a real surface is denser in its middle


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane seen from its upper side: height of p = normal . p + offset_m, positive towards the camera.

    tolerance_m: points at 1 m range (or nearer) this close belong to it; it grows with the square of the
    range, as the noise of stereo depth does. noise_m: standard deviation of its readings, robust, likewise.
    share: part of the frame's valid readings that lie on it.
    """

    normal: np.ndarray
    offset_m: float
    tolerance_m: float
    noise_m: float
    share: float

    def height_m(self, points_m: np.ndarray) -> np.ndarray:
        """Signed distance of points (..., 3) from the plane."""
        flat = points_m.reshape(-1, 3) @ self.normal.astype(
            points_m.dtype
        )  # one product, not one for each row of a picture
        flat += points_m.dtype.type(self.offset_m)
        return flat.reshape(points_m.shape[:-1])

    def tolerance_at(self, depth_m: np.ndarray) -> np.ndarray:
        """The tolerance for readings at these depths."""
        return self.tolerance_m * _noise_growth(depth_m)


def find_planes(points_m: np.ndarray, tolerance_m: float, up: np.ndarray | None = None) -> tuple[Plane, ...]:
    """The largest planes of points Nx3, largest first, each turned towards the camera at the origin.

    up: only planes within 15 degrees of level, if given. Deterministic: the same points give the same planes.
    """
    planes: list[Plane] = []
    rest, enough = points_m.astype(float), max(50, _MIN_PLANE_SHARE * len(points_m))
    while len(planes) < _MAX_PLANES and len(rest) >= enough:
        found = _best_plane(rest, tolerance_m, up, enough)
        if found is None:
            break
        normal, offset, tolerance, noise = found
        # What follows must not be the fringe of this plane once more.
        on_it = np.abs(rest @ normal + offset) < 2.0 * tolerance * _noise_growth(rest[:, 2])
        if np.count_nonzero(on_it) < _MIN_PLANE_SHARE * len(points_m):
            break
        planes.append(Plane(normal, offset, tolerance, noise, np.count_nonzero(on_it) / len(points_m)))
        rest = np.compress(~on_it, rest, 0)
    return tuple(sorted(planes, key=lambda plane: -plane.share))


def _best_plane(points_m, tolerance_m, up, enough) -> tuple[np.ndarray, float, float, float] | None:
    growth = _noise_growth(points_m[:, 2])
    few = (_SCREENED * len(points_m)).astype(int)
    screened, limits = points_m[few].astype(np.float32), (tolerance_m * growth[few]).astype(np.float32)
    a, b, c = screened[_CORNERS].transpose(1, 2, 0)
    (px, py, pz), (qx, qy, qz) = b - a, c - a
    normals = np.stack((py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx), 1)
    lengths = np.sqrt(np.square(normals).sum(1))
    usable = lengths > 1e-9
    if up is not None:
        usable &= np.abs(normals @ up.astype(np.float32)) > _COS_UPRIGHT * lengths
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    hypotheses = np.column_stack((normals, -(normals * a.T[usable]).sum(1)))
    heights = hypotheses @ np.vstack((screened.T, np.ones(len(screened), np.float32)))
    near = (np.abs(heights, out=heights) < limits).view(np.uint8)
    counts = cv2.reduce(near, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    best = int(counts.argmax())
    if counts[best] * len(points_m) < _WORTH_A_LOOK * enough * len(few):
        return None
    normal, offset, sigma = normals[best].astype(float), float(hypotheses[best, 3]), tolerance_m
    few = slice(None, None, max(1, min(_ROUGHLY, len(points_m) // 200)))
    for some in (few, few, slice(None)):  # a part of the points says where about, all of them exactly where
        points, spread = points_m[some], growth[some]
        reach = max(min(3.0 * sigma, tolerance_m), _TOLERANCE_FLOOR_M)
        near = np.flatnonzero(np.abs(points @ normal + offset) < reach * spread)
        if len(near) < 3:
            return None
        points, spread = points.take(near, 0), spread.take(near)
        trust = 1.0 / np.square(spread)  # far readings are worth less
        centre = trust @ points / trust.sum()
        away = points - centre
        normal = np.linalg.eigh(away.T @ (away * trust[:, None]))[1][:, 0]
        offset = -float(normal @ centre)
        sigma = 1.4826 * order_statistics(np.abs(away @ normal) / spread, 50)[0]
    if sigma > _MAX_SPREAD * tolerance_m:  # as many points at the border of the slab as in it: clutter, no surface
        return None
    if offset < 0:
        normal, offset = -normal, -offset
    if up is not None and normal @ up < _COS_UPRIGHT:
        return None
    return (
        normal,
        offset,
        float(np.clip(4.0 * sigma, min(_TOLERANCE_FLOOR_M, tolerance_m), tolerance_m)),
        sigma,
    )


def _noise_growth(depth_m):
    return np.maximum(1.0, np.square(depth_m))
