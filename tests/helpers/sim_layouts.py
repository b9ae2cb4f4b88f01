"""The embedded world as exact layouts: the same scenes that its camera shows, from the meshes they are drawn from."""

from __future__ import annotations

import numpy as np

from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.things import Inside, Surface, Thing, Viewpoint
from qwen3vl_ros.sim.shapes import build_meshes
from qwen3vl_ros.sim.specs import SceneSpec
from qwen3vl_ros.sim.truth import world_T_object

MESHES = build_meshes()
UP = np.array((0.0, 0.0, 1.0))


def exact_layout(
    spec: SceneSpec, world_T_camera: np.ndarray | None = None, only: set[int] | None = None, **known
) -> Layout:
    """The true layout of a scene in the world frame (z up, the table is z = 0); ids are the objects' numbers.

    only: numbers of the objects that count, all by default.
    """
    camera = spec.camera.world_T_camera() if world_T_camera is None else world_T_camera
    things = [exact_thing(spec, k) for k in range(len(spec.objects)) if only is None or k in only]
    hx, hy = spec.table.half_size_m
    c, s = np.cos(spec.table.yaw_rad), np.sin(spec.table.yaw_rad)
    corners = np.array(((-hx, -hy), (hx, -hy), (hx, hy), (-hx, hy))) @ np.array(((c, s), (-s, c)))
    table = Surface("table", "table", np.column_stack((corners, np.zeros(4))), UP)
    return Layout(things, Viewpoint(camera, UP), (table,), **known)


def exact_thing(spec: SceneSpec, index: int) -> Thing:
    thing = spec.objects[index]
    mesh, pose, size = MESHES[thing.mesh], world_T_object(thing), np.asarray(thing.size_m)
    unit = mesh.vertices
    inside = None
    if thing.kind in ("mug", "bowl"):
        rim = unit[unit[:, 2] > 0.5 - 1e-6]
        axis = (rim.min(0) + rim.max(0)) / 2
        floor = unit[np.linalg.norm(unit[:, :2] - axis[:2], axis=1) < 0.02, 2].max()
        inside = Inside((rim * size) @ pose[:3, :3].T + pose[:3, 3], float((0.5 - floor) * size[2]))
    points = (unit * size) @ pose[:3, :3].T + pose[:3, 3]
    return Thing(str(index), thing.label, points, pose, size, inside=inside)
