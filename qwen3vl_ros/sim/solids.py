"""Meshes as convex pieces, for contact: what is solid is filled, what is hollow stays hollow.

The space that nothing from outside can reach is solid. A mesh is halved until the hull of each piece holds hardly any free
space; neighbours whose common hull holds none are one piece again. So a carton is one piece, and a bowl a ring of them. Also
samples surfaces with their normals. Knows nothing of physics or pictures.

Source of the idea: Mamou and Ghorbel, "A simple and efficient approach for 3D mesh approximate convex decomposition", ICIP 2009.
"""

from __future__ import annotations

import numpy as np

_VOXEL_M = 0.0025
_MOST_VOXELS = 72  # along the longest side
_SMALLEST_M = 0.012  # a piece is not halved further
_MOST_HALVED = 8  # nor one of this share of the whole
_FREE_SHARE = 0.03  # of a hull's space that may be free
_THINNEST_M = 0.0015


def surface_points(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` points evenly over a surface, and their unit normals: both count x 3."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    total = np.cumsum(area)
    chosen = np.minimum(
        np.searchsorted(total, (np.arange(count) + rng.random(count)) / count * total[-1]), len(area) - 1
    )
    u, v = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    a, b, c = corners[chosen].transpose(1, 0, 2)
    return (1 - u) * a + u * (1 - v) * b + u * v * c, normals[chosen] / np.maximum(area[chosen], 1e-15)[:, None]


def convex_pieces(vertices: np.ndarray, faces: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Points (Nx3 each, metres) whose convex hulls together are the solid with this surface."""
    rng = np.random.default_rng(seed)
    free, voxel = _free_space(vertices, faces, rng)
    corners = vertices[:: max(1, len(vertices) // 3000)]
    points = np.concatenate((surface_points(vertices, faces, 9000, rng)[0], corners))
    leaves: list[np.ndarray] = []
    todo = [points]
    smallest = max(_SMALLEST_M, float(np.ptp(points, axis=0).max()) / _MOST_HALVED)
    while todo:
        piece = todo.pop()
        extent = np.ptp(piece, axis=0)
        axis = int(extent.argmax())
        if extent[axis] < smallest or _is_solid(piece, free, voxel):
            leaves.append(piece)
            continue
        middle = (piece[:, axis].min() + piece[:, axis].max()) / 2
        seam = 0.0008  # both halves have the cut's border, so that no gap opens
        for half in (piece[piece[:, axis] < middle + seam], piece[piece[:, axis] > middle - seam]):
            if len(half) > 3:
                todo.append(half)
    merged: list[np.ndarray] = []
    for leaf in sorted(leaves, key=len, reverse=True):
        for k, other in enumerate(merged):
            apart = np.maximum(leaf.min(0) - other.max(0), other.min(0) - leaf.max(0)).max()
            if apart < 0.001:
                both = np.concatenate((leaf, other))
                if _is_solid(both, free, voxel):
                    merged[k] = both
                    break
        else:
            merged.append(leaf)
    return [_thickened(_outermost(piece)) for piece in merged]


def _free_space(vertices, faces, rng) -> tuple[np.ndarray, float]:
    """Centres (Nx3) of the voxels that can be reached from outside, and the voxels' side."""
    low, high = vertices.min(0), vertices.max(0)
    voxel = max(_VOXEL_M, float((high - low).max()) / _MOST_VOXELS)
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    dense, _ = surface_points(vertices, faces, int(np.clip(12 * area / voxel**2, 1000, 1_000_000)), rng)
    shape = np.ceil((high - low) / voxel).astype(int) + 5
    wall = np.zeros(shape, bool)
    wall[tuple(((dense - low) / voxel + 2).astype(int).T)] = True
    outside = np.zeros(shape, bool)
    outside[0] = True
    count = 0
    while count != (count := int(outside.sum())):
        for axis in range(3):
            for turn in (slice(None), slice(None, None, -1)):
                step = (slice(None),) * axis + (turn,)
                reached, blocked = outside[step], wall[step]
                place = np.arange(1, shape[axis] + 1, dtype=np.int16).reshape(
                    [-1 if k == axis else 1 for k in range(3)]
                )
                last = (np.maximum.accumulate(place * mask, axis=axis) for mask in (reached, blocked))
                reached |= np.greater(*last)  # from there nothing stands between
    return (np.argwhere(outside) - 1.5) * voxel + low, voxel


def _directions(points: np.ndarray) -> np.ndarray:
    """Unit vectors all round, along the points' own axes and the mesh's."""
    k = np.arange(48) + 0.5
    z, angle = 1 - k / 48, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - z * z)
    half = np.stack((ring * np.cos(angle), ring * np.sin(angle), z), 1)
    own = np.linalg.svd(points[:: max(1, len(points) // 500)] - points.mean(0), full_matrices=False)[2]
    return np.concatenate((half @ own, own, np.eye(3)))


def _is_solid(points: np.ndarray, free: np.ndarray, voxel: float) -> bool:
    """Whether hardly any free space lies in the hull, taken as what lies within the extents in many directions."""
    directions = _directions(points)
    along = points @ directions.T
    low, high = along.min(0), along.max(0)
    near = free[np.all((free > points.min(0)) & (free < points.max(0)), axis=1)]
    thinned = max(1, len(near) // 4000)
    near = near[::thinned]
    if not len(near):
        return True
    depth = np.minimum(near @ directions.T - low, high - near @ directions.T).min(1)
    space = float(np.prod((high - low)[48:51])) / voxel**3  # along the points' own axes
    return thinned * int((depth > 0.7 * voxel).sum()) <= max(1.0, _FREE_SHARE * space)


def _outermost(points: np.ndarray) -> np.ndarray:
    """The points that are farthest in some direction: their hull is the whole one, nearly."""
    directions = _directions(points)
    fine = np.concatenate(
        (directions, (directions + np.roll(directions, 1, 0)) / 2, directions - np.roll(directions, 7, 0))
    )
    along = points @ fine.T
    return points[np.unique(np.concatenate((along.argmax(0), along.argmin(0))))]


def _thickened(points: np.ndarray) -> np.ndarray:
    """A sheet gets a thickness, for a flat hull is none."""
    centred = points - points.mean(0)
    own = np.linalg.svd(centred, full_matrices=True)[2]
    extent = np.ptp(centred @ own.T, axis=0)
    for axis in np.flatnonzero(extent < _THINNEST_M):
        points = np.concatenate((points - own[axis] * _THINNEST_M / 2, points + own[axis] * _THINNEST_M / 2))
    return points
