"""The embedded world as exact layouts: the same scenes that its camera shows, from the meshes they are drawn from."""

from __future__ import annotations

from typing import Iterable

import numpy as np

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.observed import layout_of
from qwen3vl_ros.geometry.things import Inside, Surface, Thing, Viewpoint
from qwen3vl_ros.sim.camera import SimView
from qwen3vl_ros.sim.furniture import box_corners, level_space, shelf_parts, world_T_shelf
from qwen3vl_ros.sim.shapes import build_meshes
from qwen3vl_ros.sim.specs import SceneSpec
from qwen3vl_ros.sim.truth import world_T_object
from qwen3vl_ros.sim.wide import TRAY_FLOOR
from qwen3vl_ros.types import Detection2D, Frame

MESHES = build_meshes()
UP = np.array((0.0, 0.0, 1.0))


def exact_layout(spec: SceneSpec, world_T_camera: np.ndarray, only: Iterable[int], **known) -> Layout:
    """The true layout of a scene in the world frame (z up, the table is z = 0); ids are the objects' numbers.

    only: numbers of the objects that count; the shelf's is spec.shelf_index.
    """
    things = [exact_thing(spec, k) for k in only if k < len(spec.objects)]
    hx, hy = spec.table.half_size_m
    c, s = np.cos(spec.table.yaw_rad), np.sin(spec.table.yaw_rad)
    corners = np.array(((-hx, -hy), (hx, -hy), (hx, hy), (-hx, hy))) @ np.array(((c, s), (-s, c)))
    surfaces = [Surface("table", "table", np.column_stack((corners, np.zeros(4))), UP)]
    if spec.shelf is not None and spec.shelf_index in only:
        shelf, name, pose = spec.shelf, str(spec.shelf_index), world_T_shelf(spec.shelf)
        points = np.concatenate([box_corners(part) for part in shelf_parts(shelf)])
        pose[2, 3] = shelf.height_m / 2
        things.append(Thing(name, "shelf", points, pose, np.array((*shelf.size_m[::-1], shelf.height_m))))
        for level in range(1, shelf.levels + 1):
            board = box_corners(level_space(shelf, level))
            border = board[board[:, 2] < board[:, 2].mean()]
            room = shelf.room_m(level) if level < shelf.levels else np.inf
            surfaces.append(
                Surface(f"{name}/level {level}", f"shelf level {level}", border, UP, clear_m=room, level=level)
            )
    return Layout(things, Viewpoint(world_T_camera, UP), surfaces, **known)


def exact_thing(spec: SceneSpec, index: int) -> Thing:
    """One object with all the vertices of its mesh and, if it is hollow, its true inside."""
    thing = spec.objects[index]
    unit, pose, size = MESHES[thing.mesh].vertices, world_T_object(thing), np.asarray(thing.size_m)
    inside = None
    if thing.kind in ("mug", "bowl", "tray"):
        rim = unit[unit[:, 2] > 0.5 - 1e-6]
        axis = (rim.min(0) + rim.max(0)) / 2
        floor = unit[np.linalg.norm(unit[:, :2] - axis[:2], axis=1) < 0.02, 2]
        depth = 1 - TRAY_FLOOR if thing.kind == "tray" else 0.5 - floor.max()
        inside = Inside((rim * size) @ pose[:3, :3].T + pose[:3, 3], float(depth * size[2]))
    points = (unit * size) @ pose[:3, :3].T + pose[:3, 3]
    return Thing(str(index), thing.label, points, pose, size, inside=inside)


def noisy_frame(view: SimView, noise: float, seed: int, known_up: bool = True) -> Frame:
    """The picture as a depth camera gives it: noise grows with the square of the range, readings in whole millimetres."""
    rng = np.random.default_rng(seed)
    depth_m = view.depth_m + rng.normal(size=view.depth_m.shape) * noise * view.depth_m**2
    depth_m = np.where(view.depth_m > 0, np.round(depth_m, 3), 0).astype(np.float32)
    return Frame(
        stamp_ns=1,
        frame_id="camera",
        rgb=np.zeros((*depth_m.shape, 3), np.uint8),
        depth_m=depth_m,
        K=view.K,
        target_T_camera=view.world_T_camera,
        target_frame="world",
        up_camera=view.world_T_camera[2, :3] if known_up else None,
    )


def measured_layout(view: SimView, noise: float, seed: int, visible: float = 0.8) -> Layout:
    """What lifting makes of the view with true 2D boxes; things less visible than `visible` count as not found."""
    seen = [t for t in view.truths if t.kind != "sign" and t.kind != "gauge"]
    seen = [t for t in seen if t.visibility >= visible and (t.fully_in_view or t.kind == "shelf")]
    cloud = SceneCloud.of(noisy_frame(view, noise, seed), LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D(t.label, t.box_xyxy_px, 0.9, str(t.index)) for t in seen])
    return layout_of(cloud, lifted.detections, lifted.refusals)
