"""Unit meshes of the kinds of objects and of the parts of dials and signs, and their silhouettes.

Every mesh fills the box [-0.5, 0.5]^3 exactly, so that an object is its mesh times `size_m`. Knows numpy
only. `parts` are vertex groups whose convex hulls together have the object's outline: a mug is its body and
a chain of handle links, a tray its floor and walls, everything else one convex piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MUG_HANDLE_RATIO = 1.36


@dataclass(frozen=True)
class Mesh:
    """vertices and normals Nx3, faces Mx3 (counter-clockwise from outside), uv Nx2 or None."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uv: np.ndarray | None = None
    parts: tuple[np.ndarray, ...] = ()


class Part(NamedTuple):
    """A rigid part of a robot, as it is drawn: the name of its mesh, its 4x4 pose in the world, its colour 0..1."""

    mesh: str
    pose: np.ndarray
    rgb: tuple[float, float, float]


def build_meshes() -> dict[str, Mesh]:
    """The meshes by name: the kinds of `specs`, `disc` (the dial's face), `drum` (its case) and `plate` (a sign's face)."""
    return {
        "cube": _rounded_cube(),
        "box": _rounded_cube(0.025),
        "tray": _tray(),
        "plate": _plate(),
        "ball": _ball(),
        "cylinder": _cylinder(0.04),
        "mug": _mug(),
        "bowl": _bowl(),
        "disc": _disc(),
        "drum": _cylinder(0.10),
    }


def _finish(vertices, faces, normals=None, uv=None, parts=None) -> Mesh:
    vertices, faces = np.asarray(vertices, float), np.asarray(faces, int)
    if normals is None:
        normals = _smooth_normals(vertices, faces)
    low, high = vertices.min(0), vertices.max(0)
    scale = 1.0 / np.where(high - low > 1e-9, high - low, 1.0)
    vertices = (vertices - (low + high) / 2) * scale
    normals = normals / scale
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(vertices, faces, normals, uv, parts or (np.arange(len(vertices)),))


def _smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    # Vertices that share a place share a normal, or every lathe would show its seam.
    _, same = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)
    same = same.reshape(-1)
    total = np.zeros((same.max() + 1, 3))
    for k in range(3):
        np.add.at(total, same[faces[:, k]], area)
    normals = total[same]
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (i * columns + j).ravel()
    b, c, d = a + 1, a + columns, a + columns + 1
    return np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def _lathe(profile: np.ndarray, segments: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Turn profile points (radius, z), listed bottom to top along the outside, about the z axis."""
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    r, z = profile[:, :1], profile[:, 1:]
    vertices = np.stack([r * np.cos(angle), r * np.sin(angle), np.broadcast_to(z, (len(profile), segments + 1))], -1)
    faces = _grid_faces(len(profile), segments + 1)
    vertices = vertices.reshape(-1, 3)
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return vertices, faces[area > 1e-12]


def _arc(centre, radius: float, start_deg: float, end_deg: float, n: int = 5) -> np.ndarray:
    a = np.deg2rad(np.linspace(start_deg, end_deg, n))
    return np.stack([centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a)], 1)


def _rounded_cube(radius: float = 0.06, steps: int = 3) -> Mesh:
    inner = 0.5 - radius
    edge = inner + radius * np.tan(np.linspace(0, np.pi / 4, steps + 1))
    u = np.concatenate([-edge[::-1], edge])
    n = len(u)
    a, b = (g.ravel() for g in np.meshgrid(u, u, indexing="ij"))
    vertices, faces = [], []
    for axis in range(3):
        for sign in (-1, 1):
            p = np.empty((n * n, 3))
            p[:, axis] = 0.5 * sign
            p[:, (axis + 1) % 3], p[:, (axis + 2) % 3] = a, b
            f = _grid_faces(n, n)
            faces.append((f[:, ::-1] if sign > 0 else f) + len(vertices) * n * n)
            vertices.append(p)
    p = np.concatenate(vertices)
    core = np.clip(p, -inner, inner)
    normals = (p - core) / np.linalg.norm(p - core, axis=1, keepdims=True)
    faces = np.concatenate(faces)
    points = core + radius * normals
    corners = points[faces]
    outward = np.einsum(
        "ij,ij->i", np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), corners.mean(1)
    )
    faces[outward < 0] = faces[outward < 0][:, ::-1]
    return _finish(points, faces, normals)


def _ball() -> Mesh:
    profile = _arc((0, 0), 0.5, -90, 90, 25)
    profile[[0, -1], 0] = 0
    vertices, faces = _lathe(profile, 40)
    return _finish(vertices, faces, vertices / 0.5)


def _cylinder(bevel: float) -> Mesh:
    profile = np.concatenate(
        [
            [(0, -0.5), (0.30, -0.5)],
            _arc((0.5 - bevel, -0.5 + bevel), bevel, -90, 0),
            _arc((0.5 - bevel, 0.5 - bevel), bevel, 0, 90),
            [(0.30, 0.5), (0, 0.5)],
        ]
    )
    return _finish(*_lathe(profile, 44))


def _bowl_wall(points: int) -> tuple[np.ndarray, np.ndarray]:
    """The wall's outer and inner outline (radius, z) from below, in units of the rim's radius."""
    t = np.linspace(0, np.pi / 2, points)
    outer = np.stack([0.45 + 0.55 * np.sin(t), 0.06 + 0.74 * (1 - np.cos(t))], 1)
    return outer, np.stack([0.40 + 0.53 * np.sin(t), 0.14 + 0.66 * (1 - np.cos(t))], 1)


def _bowl() -> Mesh:
    # The foot carries it, the wall is a flattened half circle.
    wall = 0.07
    outer, inner = _bowl_wall(12)
    inner = inner[::-1]
    lip = _arc((1 - wall / 2, 0.80), wall / 2, 0, 180, 6)
    profile = np.concatenate([[(0, 0), (0.40, 0), (0.44, 0.02)], outer, lip, inner, [(0.2, 0.13), (0, 0.13)]])
    return _finish(*_lathe(profile, 52))


_MUG_WALL, _MUG_FLOOR = 0.045, 0.055  # in units of its body's diameter and height


def _mug() -> Mesh:
    # Body of radius 0.5 and height 1 (both stretched at use), handle along +x.
    wall, lip = _MUG_WALL, 0.0225
    profile = np.concatenate(
        [
            [(0, -0.5), (0.36, -0.5)],
            _arc((0.44, -0.44), 0.06, -90, 0),
            [(0.5, 0.0)],
            _arc((0.5 - lip, 0.5 - lip), lip, 0, 180, 7),
            [(0.5 - wall, 0.0)],
            _arc((0.40, -0.39), 0.055, 0, -90),
            [(0.25, _MUG_FLOOR - 0.5), (0, _MUG_FLOOR - 0.5)],
        ]
    )
    body, faces = _lathe(profile, 44)
    reach = MUG_HANDLE_RATIO - 1.0
    links, sides, tube = 14, 10, 0.058
    t = np.linspace(-np.pi / 2, np.pi / 2, links)
    # The ends start inside the wall so that no gap shows.
    path = np.stack([0.46 + (reach + 0.04 - tube) * np.cos(t) ** 0.8, np.zeros(links), 0.02 + 0.27 * np.sin(t)], 1)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.array((0.0, 1.0, 0.0))
    outward = np.cross(across, tangent)
    a = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.cos(a)[None, :, None] * outward[:, None] + 1.25 * np.sin(a)[None, :, None] * across
    handle = (path[:, None] + tube * ring).reshape(-1, 3)
    handle_faces = _grid_faces(links, sides + 1)
    corners = handle[handle_faces]
    facing = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if np.einsum("ij,ij->", facing, corners.mean(1) - path[handle_faces[:, 0] // (sides + 1)]) < 0:
        handle_faces = handle_faces[:, ::-1]
    vertices = np.concatenate([body, handle])
    parts = [np.arange(len(body))]
    for k in range(links - 1):
        parts.append(len(body) + np.arange(k * (sides + 1), (k + 2) * (sides + 1)))
    return _finish(vertices, np.concatenate([faces, handle_faces + len(body)]), parts=tuple(parts))


def _disc(segments: int = 48) -> Mesh:
    """Flat face of radius 0.5 in the x-y plane, looking at +z; uv upright with x right and y up."""
    a = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rim = 0.5 * np.stack([np.cos(a), np.sin(a), np.zeros(segments)], 1)
    # MuJoCo refuses a mesh without volume, so the centre of the back sits a little behind.
    vertices = np.concatenate([[(0, 0, 0)], rim, [(0, 0, -0.02)], rim])
    i = np.arange(segments)
    j = (i + 1) % segments
    front = np.stack([np.zeros(segments, int), 1 + i, 1 + j], 1)
    back = np.stack([np.full(segments, segments + 1), segments + 2 + j, segments + 2 + i], 1)
    normals = np.repeat([(0, 0, 1.0), (0, 0, -1.0)], segments + 1, axis=0)
    uv = vertices[:, :2] + 0.5
    return Mesh(vertices, np.concatenate([front, back]), normals, uv, (np.arange(len(vertices)),))


def _tray(wall: float = 0.035, floor: float = 0.25) -> Mesh:
    """A floor with four walls, each a box."""
    boxes = [((0, 0, (floor - 1) / 2), (1, 1, floor))]
    for side in (-0.5, 0.5):
        boxes.append(((side - np.sign(side) * wall / 2, 0, 0), (wall, 1, 1)))
        boxes.append(((0, side - np.sign(side) * wall / 2, 0), (1 - 2 * wall, wall, 1)))
    vertices, faces, normals, parts = [], [], [], []
    for centre, size in boxes:
        start = sum(map(len, vertices))
        for axis in range(3):
            for sign in (-1.0, 1.0):
                corners = np.empty((4, 3))
                corners[:, axis] = 0.5 * sign
                corners[:, (axis + 1) % 3] = (-0.5, 0.5, 0.5, -0.5)
                corners[:, (axis + 2) % 3] = (-0.5, -0.5, 0.5, 0.5)
                order = np.array(((0, 1, 2), (0, 2, 3))) if sign > 0 else np.array(((0, 2, 1), (0, 3, 2)))
                faces.append(order + sum(map(len, vertices)))
                vertices.append(corners * size + centre)
                normals.append(np.tile(sign * np.eye(3)[axis], (4, 1)))
        parts.append(np.arange(start, sum(map(len, vertices))))
    return _finish(np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals), parts=tuple(parts))


def _plate() -> Mesh:
    """Flat square of side 1 in the x-y plane, looking at +z; uv upright with x right and y up."""
    front = np.array(((-0.5, -0.5, 0), (0.5, -0.5, 0), (0.5, 0.5, 0), (-0.5, 0.5, 0)), float)
    # MuJoCo refuses a mesh without volume, so the middle of the back sits a little behind.
    vertices = np.concatenate([front, front, [(0, 0, -0.02)]])
    faces = [(0, 1, 2), (0, 2, 3), (8, 5, 4), (8, 6, 5), (8, 7, 6), (8, 4, 7)]
    normals = np.repeat([(0, 0, 1.0), (0, 0, -1.0)], (4, 5), axis=0)
    return Mesh(vertices, np.array(faces), normals, vertices[:, :2] + 0.5, (np.arange(4),))


def solid_parts(kind: str, mesh: Mesh, sectors: int = 16) -> list[np.ndarray]:
    """Vertices of convex pieces (Nx3 each, in the unit box) that together fill what the mesh encloses; hollows stay hollow."""
    if kind == "bowl":
        outer, inner = _bowl_wall(4)
        height = outer[-1, 1] = inner[-1, 1] = 0.80 + 0.035  # with the lip
        pieces = []
        for low in range(3):
            ring = np.array((outer[low], inner[low], outer[low + 1], inner[low + 1]))
            pieces += [_wedge(ring, sectors, k) for k in range(sectors)]
        pieces.append(_turned(np.array(((0.44, 0.0), (0.45, 0.06), (0.40, 0.13))), sectors))
        return [p * (0.5, 0.5, 1 / height) - (0, 0, 0.5) for p in pieces]
    if kind == "mug":
        ring = np.array(((0.5, -0.5), (0.5 - _MUG_WALL, -0.5), (0.5, 0.5), (0.5 - _MUG_WALL, 0.5)))
        pieces = [_wedge(ring, sectors, k) for k in range(sectors)]
        pieces.append(_turned(np.array(((0.48, -0.5), (0.48, _MUG_FLOOR - 0.5))), sectors))
        body = mesh.vertices[mesh.parts[0]]
        low, high = body.min(0), body.max(0)
        return [p * (high - low) + (low + high) / 2 for p in pieces] + [mesh.vertices[part] for part in mesh.parts[1:]]
    return [mesh.vertices[part] for part in mesh.parts]


def _turned(profile: np.ndarray, sectors: int) -> np.ndarray:
    """Points (radius, z) turned about the z axis."""
    a = np.linspace(0, 2 * np.pi, sectors, endpoint=False)
    return np.concatenate([np.stack([r * np.cos(a), r * np.sin(a), np.full(sectors, z)], 1) for r, z in profile])


def _wedge(ring: np.ndarray, sectors: int, k: int) -> np.ndarray:
    """A sector of a ring whose cross-section has the corners (radius, z)."""
    a = 2 * np.pi / sectors * np.array((k, k + 1))
    return np.array([(r * np.cos(t), r * np.sin(t), z) for r, z in ring for t in a])
