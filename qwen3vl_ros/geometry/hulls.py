"""Convex shapes as few points: extreme points, spans, outlines in plan, the distance between two hulls.

Works on bare points, metres, any frame; outlines are of a level frame (x, y). Knows nothing of cameras or objects.

Source of the distance: Wolfe, "Finding the nearest point in a polytope", Mathematical Programming 1976.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

_FEW = 512  # fewer points than this are kept as they are
_ONE_M = 1e-6  # corners nearer than this are one
_PULL = 0.01  # how much the middles weigh against the distance where many points are nearly as near
_TRIM = 0.003  # of the points of each end: readings that lie outside the thing


def _directions() -> np.ndarray:
    """Unit vectors all over the sphere, and closer together on its level equator, where most questions are asked."""
    k = np.arange(120) + 0.5
    z, angle = 1 - 2 * k / 120, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - z * z)
    level = np.arange(36) * np.pi / 18
    around = np.stack((np.cos(level), np.sin(level), np.zeros(36)), 1)
    ends = np.array(((0, 0, 1.0), (0, 0, -1.0)))
    return np.concatenate((np.stack((ring * np.cos(angle), ring * np.sin(angle), z), 1), around, ends))


_DIRECTIONS = _directions()
_AROUND = np.stack((np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)), 1).astype(np.float32)


def extreme_points(points_m: np.ndarray) -> np.ndarray:
    """The points of Nx3 that matter to the hull: all of few, the farthest in some 160 directions of many."""
    if len(points_m) <= _FEW:
        return points_m
    centred = (points_m - points_m.mean(0)).astype(np.float32)
    return points_m[np.unique((_DIRECTIONS.astype(np.float32) @ centred.T).argmax(1))]


def without_strays(points_m: np.ndarray) -> np.ndarray:
    """Measured points Nx3 without the outermost 0.3 % at each end of ten directions."""
    if len(points_m) < 100:
        return points_m
    low, high = int(_TRIM * len(points_m)), int((1 - _TRIM) * len(points_m)) - 1
    keep = np.ones(len(points_m), bool)
    for direction in (*_DIRECTIONS[120:156:4], _DIRECTIONS[156]):
        along = points_m @ direction
        ordered = np.sort(along)  # quicker than a partition by two
        keep &= (along >= ordered[low]) & (along <= ordered[high])
    return points_m[keep]


def outline(points_xy: np.ndarray) -> np.ndarray:
    """The convex outline of points Nx2, counter-clockwise, Kx2 (K may be 1 or 2 where they lie in a line)."""
    centred = (points_xy - points_xy[0]).astype(np.float32)
    outer = _outer(centred)
    order = outer[cv2.convexHull(centred[outer], clockwise=False, returnPoints=False).ravel()]
    hull = np.asarray(points_xy[order], float)
    return hull[::-1] if signed_area(hull) < 0 else hull


def _outer(points_xy: np.ndarray) -> np.ndarray:
    """Indices of those of points Nx2 that can be corners of their outline: not inside the polygon of the outermost ones.

    Source: Akl and Toussaint, "A fast convex hull algorithm", 1978.
    """
    if len(points_xy) <= _FEW:
        return np.arange(len(points_xy))
    corners = points_xy[(_AROUND @ points_xy.T).argmax(1)]
    edge = np.roll(corners, -1, 0) - corners
    normal = np.stack((edge[:, 1], -edge[:, 0]), 1)
    border = (normal * corners).sum(1) - 1e-6 * np.abs(normal).max()
    border[~edge.any(1)] = np.inf  # one corner, the outermost in two directions
    return np.flatnonzero((normal @ points_xy.T >= border[:, None]).any(0))


def signed_area(polygon: np.ndarray) -> float:
    """Of a polygon Kx2, positive when counter-clockwise."""
    ahead = np.roll(polygon, -1, 0)
    return float((polygon[:, 0] * ahead[:, 1] - polygon[:, 1] * ahead[:, 0]).sum() / 2)


def centroid(polygon: np.ndarray) -> np.ndarray:
    """Centre of area of a convex outline Kx2; the middle of its ends where it has no area."""
    origin = polygon.mean(0)
    p = polygon - origin
    ahead = np.roll(p, -1, 0)
    cross = p[:, 0] * ahead[:, 1] - p[:, 1] * ahead[:, 0]
    if abs(cross.sum()) < 1e-12:
        return (polygon.min(0) + polygon.max(0)) / 2
    return origin + ((p + ahead) * cross[:, None]).sum(0) / (3 * cross.sum())


def depth_inside(polygon: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Signed distance of points Nx2 to the border of a convex outline Kx2, N metres, positive inside."""
    points_xy = np.atleast_2d(points_xy)
    edge = np.roll(polygon, -1, 0) - polygon
    length2 = np.maximum(np.square(edge).sum(1), 1e-18)
    offset = points_xy[:, None] - polygon[None]
    along = np.clip((offset * edge).sum(-1) / length2, 0.0, 1.0)
    far = np.linalg.norm(offset - along[..., None] * edge, axis=-1).min(1)
    left = edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0]
    inside = (left >= 0) | (length2 < _ONE_M**2)  # a side between two corners that are one has no direction
    inside = inside.all(1) & (len(polygon) > 2)
    return np.where(inside, far, -far)


def near(polygon: np.ndarray, points_xy: np.ndarray, reach_m: float) -> np.ndarray:
    """Which of many points Nx2 lie in a convex outline whose sides were moved outwards by reach_m, N bool."""
    points_xy = points_xy.astype(np.float32)
    keep = ((points_xy >= polygon.min(0) - reach_m) & (points_xy <= polygon.max(0) + reach_m)).all(1)
    normal, along = outward(polygon)
    keep[keep] = (points_xy[keep] @ normal.T.astype(np.float32) <= (along + reach_m).astype(np.float32)).all(1)
    return keep


def outward(polygon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals Kx2 out of the sides of a convex outline, and how far out each side lies, K metres."""
    edge = np.roll(polygon, -1, 0) - polygon
    length = np.linalg.norm(edge, axis=1)
    normal = np.stack((edge[:, 1], -edge[:, 0]), 1)[length > 1e-9] / length[length > 1e-9, None]
    return normal, (polygon[length > 1e-9] * normal).sum(1)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """How far two convex outlines are apart, metres; negative: by how much one must move to leave the other."""
    widest = -np.inf
    for polygon, other in ((a, b), (b, a)):
        normal, along = outward(polygon)
        if len(normal):
            widest = max(widest, float(((other @ normal.T).min(0) - along).max()))
    if widest > 0 or not np.isfinite(widest):
        flat = [np.column_stack((polygon, np.zeros(len(polygon)))) for polygon in (a, b)]
        return closest_points(*flat).distance_m
    return widest


class Closest(NamedTuple):
    """Distance of two hulls, the nearest point of each, and which of their points span it (indices)."""

    distance_m: float
    on_a: np.ndarray
    on_b: np.ndarray
    corners_a: list[int]
    corners_b: list[int]


def closest_points(a: np.ndarray, b: np.ndarray) -> Closest:
    """Where the convex hulls of points Nx3 and Mx3 are nearest; distance 0 where they overlap.

    Of parallel faces many points are equally near: which of them are told hangs on rounding, their distance does not.
    """
    return _closest(a, b, a, b, 1e-9, 1e-5)


def middle_closest_points(a: np.ndarray, b: np.ndarray, middle_a: np.ndarray, middle_b: np.ndarray) -> Closest:
    """As `closest_points`, but of points about equally near those nearest to the hulls' middles (3): the same in every frame.

    Points p and q minimise |p - q|² + _PULL (|p - middle_a|² + |q - middle_b|²), which has one minimum and moves with the hulls
    without jumps. That is a nearest point, too, of hulls in nine dimensions.
    """
    pull = _PULL**0.5
    none_a, none_b = np.zeros_like(a), np.zeros_like(b)
    in_nine = np.hstack((a, pull * (a - middle_a), none_a)), np.hstack((b, none_b, pull * (middle_b - b)))
    return _closest(a, b, *in_nine, 0.0, 1e-12)


def _closest(a: np.ndarray, b: np.ndarray, p: np.ndarray, q: np.ndarray, least: float, share: float) -> Closest:
    """Of points a and b those that span the nearest points of the hulls of p and q, in any dimension, row for row the same points.

    least, share: how far the square of the distance may be from its least, absolute and as a share of it.
    """
    pairs = [(int((p @ (p[0] - q[0])).argmin()), 0)]
    weights, corners = np.ones(1), p[[pairs[0][0]]] - q[[0]]
    for _ in range(64):
        x = weights @ corners
        i, j = int((p @ x).argmin()), int((q @ x).argmax())
        corner = p[i] - q[j]
        if x @ x - x @ corner <= least + share * (x @ x) or (i, j) in pairs:
            break
        pairs, corners = [*pairs, (i, j)], np.vstack((corners, corner))
        keep, weights = _nearest_in_simplex(np.append(weights, 0.0), corners)
        pairs, corners = [pairs[k] for k in keep], corners[keep]
    corners_a, corners_b = ([pair[k] for pair in pairs] for k in (0, 1))
    on_a, on_b = weights @ a[corners_a], weights @ b[corners_b]
    distance = float(np.linalg.norm(on_a - on_b))
    return Closest(distance if distance > 1e-6 else 0.0, on_a, on_b, corners_a, corners_b)


def _nearest_in_simplex(weights: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which corners Kx3 span the hull's point nearest to the origin, and the weights that make it of them."""
    kept = np.arange(len(corners))
    while True:
        n = len(corners)
        gram = corners @ corners.T
        system = np.ones((n + 1, n + 1))
        system[0, 0] = 0.0
        system[1:, 1:] = gram + 1e-13 * (gram.trace() + 1e-12) * np.eye(n)
        wanted = np.linalg.solve(system, np.eye(n + 1)[0])[1:]
        if wanted.min() > 1e-12:
            return kept, wanted
        shrinking = wanted <= 1e-12
        step = min(1.0, float((weights[shrinking] / np.maximum(weights - wanted, 1e-15)[shrinking]).min()))
        weights = weights + step * (wanted - weights)
        stay = weights > 1e-12
        stay[weights.argmax()] = True
        kept, weights, corners = kept[stay], weights[stay] / weights[stay].sum(), corners[stay]
