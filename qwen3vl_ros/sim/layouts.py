"""The embedded world as exact layouts: the scenes that the camera shows, as the meshes they are drawn from say they are.

Spatial facts measured on them are what depth should have said, and what a model should be taught to say. Knows nothing of
OpenGL, pictures or ROS.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Iterable, Sequence

import numpy as np

from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.things import Inside, Surface, Thing, Viewpoint
from qwen3vl_ros.sim.furniture import Part, box_corners, level_space, shelf_parts, sign_parts, world_T_shelf
from qwen3vl_ros.sim.household import catalogue
from qwen3vl_ros.sim.shapes import build_meshes
from qwen3vl_ros.sim.specs import GaugeSpec, ObjectSpec, SceneSpec, ShelfSpec
from qwen3vl_ros.sim.truth import dial_size_m, foot_size_m, world_T_case, world_T_foot, world_T_object
from qwen3vl_ros.sim.wide import TRAY_FLOOR

_UP = np.array((0.0, 0.0, 1.0))


def exact_layout(spec: SceneSpec, world_T_camera: np.ndarray, only: Iterable[int], **known) -> Layout:
    """The true layout of a scene in the world frame (z up, the table is z = 0). Ids are the numbers that truths have.

    only: numbers of the things that count: objects, dial, shelf, sign. known: as of Layout.
    """
    only = set(only)
    things = [exact_thing(spec, k) for k in range(len(spec.objects)) if k in only]
    if spec.gauge is not None and len(spec.objects) in only:
        things.append(_dial(spec.gauge, str(len(spec.objects))))
    surfaces = [_table(spec)]
    if spec.shelf is not None and spec.shelf_index in only:
        pose, size = world_T_shelf(spec.shelf), (*spec.shelf.size_m[::-1], spec.shelf.height_m)
        pose[2, 3] = spec.shelf.height_m / 2
        things.append(_of_boxes(str(spec.shelf_index), "shelf", shelf_parts(spec.shelf), pose, size))
        surfaces += _levels(spec.shelf, str(spec.shelf_index))
    if spec.sign is not None and spec.sign_index in only:
        parts = sign_parts(spec.sign)
        things.append(_of_boxes(str(spec.sign_index), "sign", parts, *parts[0]))
    return Layout(things, Viewpoint(world_T_camera, _UP), surfaces, **known)


def exact_thing(spec: SceneSpec, index: int) -> Thing:
    """One object with all the vertices of its mesh and, if it is hollow, its true inside."""
    thing = spec.objects[index]
    unit, pose, size = _vertices(thing), world_T_object(thing), np.asarray(thing.size_m)
    inside = None
    if thing.asset is None and thing.kind in ("mug", "bowl", "tray"):
        rim = unit[unit[:, 2] > 0.5 - 1e-6]
        axis = (rim.min(0) + rim.max(0)) / 2
        floor = unit[np.linalg.norm(unit[:, :2] - axis[:2], axis=1) < 0.02, 2]
        depth = 1 - TRAY_FLOOR if thing.kind == "tray" else 0.5 - floor.max()
        inside = Inside(_placed(rim, pose, size), float(depth * size[2]))
    return Thing(str(index), thing.label, _placed(unit, pose, size), pose, size, inside=inside)


@lru_cache(maxsize=1)
def _meshes() -> dict:
    return build_meshes()


def _vertices(thing: ObjectSpec) -> np.ndarray:
    """Of the unit mesh that an object is drawn from, or of the outline of a household object."""
    return catalogue()[thing.asset].outline.vertices if thing.asset else _meshes()[thing.kind].vertices


def _placed(unit: np.ndarray, pose: np.ndarray, size_m) -> np.ndarray:
    return (unit * np.asarray(size_m)) @ pose[:3, :3].T + pose[:3, 3]


def _of_boxes(name: str, label: str, parts: Sequence[Part], pose: np.ndarray, size_m) -> Thing:
    return Thing(name, label, np.concatenate([box_corners(part) for part in parts]), pose, np.asarray(size_m, float))


def _dial(gauge: GaugeSpec, name: str) -> Thing:
    case, size = world_T_case(gauge), dial_size_m(gauge)
    foot = box_corners((world_T_foot(gauge), foot_size_m(gauge)))
    points = np.concatenate((_placed(_meshes()["drum"].vertices, case, size), foot))
    return Thing(name, "gauge", points, case, np.asarray(size))


def _table(spec: SceneSpec) -> Surface:
    (hx, hy), yaw = spec.table.half_size_m, spec.table.yaw_rad
    turn = np.array(((np.cos(yaw), np.sin(yaw)), (-np.sin(yaw), np.cos(yaw))))
    border = np.array(((-hx, -hy), (hx, -hy), (hx, hy), (-hx, hy))) @ turn
    return Surface("table", "table", np.column_stack((border, np.zeros(4))), _UP)


def _levels(shelf: ShelfSpec, name: str) -> list[Surface]:
    levels = []
    for level in range(1, shelf.levels + 1):
        space = box_corners(level_space(shelf, level))
        board, room = space[space[:, 2] < space[:, 2].mean()], shelf.room_m(level) if level < shelf.levels else np.inf
        label = f"shelf level {level}"
        levels.append(Surface(f"{name}/level {level}", label, board, _UP, clear_m=room, level=level))
    return levels
