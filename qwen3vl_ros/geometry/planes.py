"""The planes of a scene that things may stand on, found by RANSAC and refined on their own noise.

Works on bare points in the camera frame. Knows nothing of images or objects.

Source: Fischler and Bolles, "Random sample consensus", CACM 1981.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_HYPOTHESES = 256
_SCREENED_POINTS = 1000
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
        return points_m @ self.normal.astype(points_m.dtype) + points_m.dtype.type(self.offset_m)

    def tolerance_at(self, depth_m: np.ndarray) -> np.ndarray:
        """The tolerance for readings at these depths."""
        return self.tolerance_m * _noise_growth(depth_m)


def find_planes(points_m: np.ndarray, tolerance_m: float, up: np.ndarray | None = None) -> tuple[Plane, ...]:
    """The largest planes of points Nx3, largest first, each turned towards the camera at the origin.

    up: only planes within 15 degrees of level, if given. Deterministic: the same points give the same planes.
    """
    rng = np.random.default_rng(0)
    planes: list[Plane] = []
    rest = points_m
    while len(planes) < _MAX_PLANES and len(rest) >= max(50, _MIN_PLANE_SHARE * len(points_m)):
        found = _best_plane(rest, tolerance_m, up, rng)
        if found is None:
            break
        normal, offset, tolerance, noise = found
        heights = rest @ normal.astype(np.float32) + np.float32(offset)
        # What follows must not be the fringe of this plane once more.
        on_it = np.abs(heights) < 2.0 * tolerance * _noise_growth(rest[:, 2])
        share = on_it.sum() / len(points_m)
        if share < _MIN_PLANE_SHARE:
            break
        planes.append(Plane(normal, offset, tolerance, noise, float(share)))
        rest = rest[~on_it]
    return tuple(sorted(planes, key=lambda plane: -plane.share))


def _best_plane(points_m, tolerance_m, up, rng) -> tuple[np.ndarray, float, float, float] | None:
    screened = points_m[rng.integers(0, len(points_m), min(len(points_m), _SCREENED_POINTS))]
    corners = screened[rng.integers(0, len(screened), (_HYPOTHESES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-9
    if up is not None:
        usable &= np.abs(normals @ up.astype(np.float32)) > _COS_UPRIGHT * lengths
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = -np.einsum("ij,ij->i", normals, corners[usable, 0])
    counts = (np.abs(screened @ normals.T + offsets) < tolerance_m * _noise_growth(screened[:, 2:])).sum(0)
    best = int(counts.argmax())
    normal, offset, sigma = normals[best].astype(float), float(offsets[best]), tolerance_m
    growth = _noise_growth(points_m[:, 2])
    for _ in range(3):
        heights = points_m @ normal.astype(np.float32) + np.float32(offset)
        near = np.abs(heights) < max(min(3.0 * sigma, tolerance_m), _TOLERANCE_FLOOR_M) * growth
        if near.sum() < 3:
            return None
        inliers, trust = points_m[near].astype(float), 1.0 / np.square(growth[near])  # far readings are worth less
        centre = trust @ inliers / trust.sum()
        normal = np.linalg.eigh((inliers - centre).T @ ((inliers - centre) * trust[:, None]))[1][:, 0]
        offset = -float(normal @ centre)
        sigma = 1.4826 * float(np.median(np.abs(inliers @ normal + offset) / growth[near]))
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
