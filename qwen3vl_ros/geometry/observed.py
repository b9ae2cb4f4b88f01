"""From one frame's depth to a layout: lifted objects become things with their noise, planes become surfaces.

Knows nothing of relations or models.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.hulls import outline, without_strays
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.opening import opening
from qwen3vl_ros.geometry.planes import Plane
from qwen3vl_ros.geometry.shape import level_axes
from qwen3vl_ros.geometry.supports import level_patches
from qwen3vl_ros.geometry.things import Inside, Surface, Thing, Viewpoint
from qwen3vl_ros.types import Detection3D, Refusal

_COS_LEVEL = math.cos(math.radians(15.0))
_BOARD_SHARE = 0.3  # of a thing's footprint that a flat part of it must cover to be a level
_HIDDEN_SHARE, _SPANNED_SHARE = 0.06, 0.3  # or, where things hide much of it, cover and span
_HAND_M, _BOARD_M = 0.14, 0.01  # least room between two levels, least thickness of the upper one
_EDGE_M = np.array((-0.003, -0.003, 0.005))
_CELL_M = 0.02
_BOARD_M2, _OVER_SHARE = 0.02, 0.4  # of a board that is seen; of boards of one shelf, over each other
_GAP_M = 0.10  # between the pieces that are seen of one table
_WINDOW_PIXELS, _SURFACE_PIXELS = 40000, 30000


def layout_of(
    cloud: SceneCloud,
    detections: Sequence[Detection3D],
    refusals: Sequence[Refusal] = (),
    frame_T_robot: np.ndarray | None = None,
    known_things: Sequence[Thing] = (),
    shelf: str = "",
    **known,
) -> Layout:
    """The layout of one frame, in cloud.frame_id: what was lifted from measured depth, and the planes it stands on.

    frame_T_robot: pose of the robot's base in that frame. known_things: in that frame, from earlier looks. shelf: what one is called of
    which somebody speaks; where no thing shows levels, they are looked for in all of the picture. known: looked_for, held, gripper_opening_m, now_ns of Layout.
    """
    measured = [d for d in detections if d.source == "depth" and len(d.points_camera_m)]
    surfaces = [] if not cloud.usable else [*surfaces_of(cloud), *(s for d in measured for s in levels_of(cloud, d))]
    if shelf and cloud.usable and not any(s.level for s in surfaces):
        surfaces += levels_anywhere(cloud, shelf)
    guesses = [
        Refusal(d.id, d.label, "its box is the model's own, nobody measured it")
        for d in detections
        if d not in measured
    ]
    return Layout(
        [*(thing_of(cloud, d) for d in measured), *known_things],
        viewpoint_of(cloud, frame_T_robot),
        surfaces,
        (*refusals, *guesses),
        **known,
    )


def viewpoint_of(cloud: SceneCloud, frame_T_robot: np.ndarray | None = None) -> Viewpoint:
    """Where the frame was seen from; up is against gravity where that is known, else the support's normal."""
    up = cloud.frame.up_camera
    if up is None and cloud.usable and cloud.plane is not None:
        up = cloud.plane.normal
    return Viewpoint(cloud.frame_T_camera, None if up is None else cloud.frame_T_camera[:3, :3] @ up, frame_T_robot)


def thing_of(cloud: SceneCloud, detection: Detection3D) -> Thing:
    """A lifted object with the noise of its own readings and a foot that reaches down to the lower end of its box."""
    turn, shift = cloud.frame_T_camera[:3, :3], cloud.frame_T_camera[:3, 3]
    seen = detection.points_camera_m.astype(float) @ turn.T + shift
    hidden = detection.hidden_camera_m.astype(float) @ turn.T + shift
    noise = cloud.noise_m(detection.points_camera_m)
    pixel = float(np.median(detection.points_camera_m[:, 2]) / cloud.frame.K[0, 0])
    if math.isnan(noise):  # too few readings side by side: as uncertain as the thing is small
        noise = float(detection.size_m.min()) / 4
    return Thing(
        detection.id,
        detection.label,
        seen,
        detection.frame_T_box,
        detection.size_m,
        np.concatenate((hidden, _foot(seen, detection))),
        math.hypot(noise, pixel),
        edge_m=detection.edge_m,
        stamp_ns=cloud.frame.stamp_ns,
        inside=_inside(cloud, seen, hidden, viewpoint_of(cloud).up, noise),
    )


def _inside(cloud: SceneCloud, seen_m: np.ndarray, hidden_m: np.ndarray, up, noise_m: float) -> Inside | None:
    """The room in a thing seen as points Nx3, None where it shows no opening. All in cloud.frame_id."""
    if up is None:
        return None
    axes = level_axes(up)
    hollow = opening(seen_m @ axes.T, axes @ cloud.frame_T_camera[:3, 3], noise_m, hidden_m @ axes.T)
    if hollow is None:
        return None
    rim = np.column_stack((hollow.border, np.full(len(hollow.border), hollow.rim_m)))
    return Inside(rim @ axes, hollow.rim_m - hollow.floor_m)


def _foot(seen_m: np.ndarray, detection: Detection3D) -> np.ndarray:
    """The outline of the lowest quarter that was seen, put down where the box ends, Kx3."""
    pose, size = detection.frame_T_box, detection.size_m
    local = (seen_m - pose[:3, 3]) @ pose[:3, :3]
    low, high = np.percentile(local[:, 2], (0.5, 99.5))
    border = outline(without_strays(local[local[:, 2] < low + 0.25 * (high - low) + 1e-6])[:, :2])
    border = np.clip(border, -size[:2] / 2, size[:2] / 2)
    return np.column_stack((border, np.full(len(border), -size[2] / 2))) @ pose[:3, :3].T + pose[:3, 3]


def surfaces_of(cloud: SceneCloud) -> tuple[Surface, ...]:
    """The level planes of the scene with the outline that was seen of them; the largest is called the table."""
    points, surfaces = _all_points_m(cloud, _SURFACE_PIXELS), []
    for k, plane in enumerate(p for p in cloud.planes if abs(p.normal @ cloud.planes[0].normal) > _COS_LEVEL):
        with np.errstate(invalid="ignore"):
            mask = np.abs(plane.height_m(points)) < plane.tolerance_at(points[..., 2])
        # Strays stand alone in the picture. To leave out the outermost of all points would cut centimetres off each corner.
        alone = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) == 0
        on_it = points[mask & ~alone].astype(float)
        name = "table" if k == 0 else f"surface {k + 1}"
        on_it = on_it[_together(plane, on_it)]
        if len(on_it):
            surfaces.append(_surface(cloud, plane, on_it, name, name))
    return tuple(surfaces)


def _all_points_m(cloud: SceneCloud, pixels: int) -> np.ndarray:
    """Points hxwx3 of the whole picture, about so many."""
    rows, columns = cloud.frame.depth_m.shape
    step = max(1, int(np.sqrt(rows * columns / pixels)))
    return cloud.window_points_m(slice(0, rows, step), slice(0, columns, step))


def _together(plane: Plane, points_m: np.ndarray) -> np.ndarray:
    """Which points Nx3 of a plane are of its largest piece: a wall behind the table is at the table's height somewhere, too."""
    cells = np.floor(points_m @ level_axes(plane.normal)[:2].T / _GAP_M).astype(int)
    if not len(cells):
        return np.zeros(0, bool)
    cells -= cells.min(0)
    counts = np.zeros(cells.max(0) + 1, np.int32)
    np.add.at(counts, tuple(cells.T), 1)
    _, pieces = cv2.connectedComponents((counts > 0).astype(np.uint8))
    of_point = pieces[tuple(cells.T)]
    return of_point == np.bincount(of_point).argmax()


def levels_of(cloud: SceneCloud, detection: Detection3D) -> tuple[Surface, ...]:
    """The levels of a shelf, from below: what is flat and level in a thing and as wide as it; none for most things."""
    window = _window(cloud, detection)
    if cloud.plane is None or window is None:
        return ()
    points = cloud.window_points_m(*window)
    camera_T_box = np.linalg.inv(cloud.frame_T_camera) @ detection.frame_T_box
    local = (points - camera_T_box[:3, 3]) @ camera_T_box[:3, :3]
    plane = cloud.plane
    with np.errstate(invalid="ignore"):
        own = (np.abs(local) < detection.size_m / 2 + _EDGE_M).all(-1)  # not the floor around its foot
        own &= plane.height_m(points) > plane.tolerance_at(points[..., 2])
    boards: list[tuple[Plane, np.ndarray]] = []
    for patch in reversed(level_patches(points, own, plane)):
        on_it = points[patch.mask].astype(float)
        below = boards[-1][0].offset_m - patch.plane.offset_m if boards else math.inf
        footprint = float(np.prod(detection.size_m[:2]))
        share, spanned = (m2 / footprint for m2 in _covered_m2(patch.plane, on_it))
        if (share > _BOARD_SHARE or (share > _HIDDEN_SHARE and spanned > _SPANNED_SHARE)) and below > _HAND_M:
            boards.append((patch.plane, on_it))
    if len(boards) < 2 or _above_foot_m(boards[0][0], detection, camera_T_box) > _HAND_M:
        return ()  # with a level that nobody has seen below them they cannot be counted
    return _levels(cloud, boards, detection.id, detection.label)


def levels_anywhere(cloud: SceneCloud, label: str) -> tuple[Surface, ...]:
    """The levels of a shelf that nobody has boxed: level surfaces above one another, as large as boards, the lowest near the table.

    label: what the shelf is called, and the id that its levels are numbered under.
    """
    if cloud.plane is None:
        return ()
    points, plane = _all_points_m(cloud, _WINDOW_PIXELS), cloud.plane
    with np.errstate(invalid="ignore"):
        standing = plane.height_m(points) > plane.tolerance_at(points[..., 2])
    boards: list[tuple[Plane, np.ndarray]] = []
    for patch in reversed(level_patches(points, standing, plane)):
        on_it = points[patch.mask].astype(float)
        on_it = on_it[_together(patch.plane, on_it)]
        if _covered_m2(patch.plane, on_it)[0] < _BOARD_M2:
            continue
        if not boards and plane.offset_m - patch.plane.offset_m > _HAND_M:
            return ()
        above = boards[-1][0].offset_m - patch.plane.offset_m if boards else math.inf
        if above > _HAND_M and (not boards or _over(patch.plane, on_it, boards[0][1]) > _OVER_SHARE):
            boards.append((patch.plane, on_it))
    return _levels(cloud, boards, label, label) if len(boards) > 1 else ()


def _over(plane: Plane, points_m: np.ndarray, others_m: np.ndarray) -> float:
    """The share of the smaller of two outlines in plan that lies over the other."""
    axes = level_axes(plane.normal)[:2].T
    a, b = (cv2.convexHull((p @ axes).astype(np.float32)) for p in (points_m, others_m))
    both, _ = cv2.intersectConvexConvex(a, b)
    return both / max(1e-9, min(cv2.contourArea(a), cv2.contourArea(b)))


def _levels(
    cloud: SceneCloud, boards: Sequence[tuple[Plane, np.ndarray]], name: str, label: str
) -> tuple[Surface, ...]:
    """Boards from below as the levels of what is called so."""
    heights = [-board.offset_m for board, _ in boards] + [math.inf]
    return tuple(
        replace(
            _surface(cloud, board, without_strays(on_it), f"{name}/level {k + 1}", f"{label} level {k + 1}"),
            level=k + 1,
            clear_m=heights[k + 1] - heights[k] - _BOARD_M,
        )
        for k, (board, on_it) in enumerate(boards)
    )


def _above_foot_m(plane: Plane, detection: Detection3D, camera_T_box: np.ndarray) -> float:
    """Height of a level plane above the lower end of a thing."""
    foot = camera_T_box[:3, 3] - camera_T_box[:3, 2] * detection.size_m[2] / 2
    return -float(plane.height_m(foot))


def _covered_m2(plane: Plane, points_m: np.ndarray) -> tuple[float, float]:
    """Area in plan that points Nx3 on a level plane cover, in cells of 2 cm, and the area of their outline."""
    plan = points_m @ level_axes(plane.normal)[:2].T
    cells = np.unique(np.floor(plan / _CELL_M).astype(int), axis=0)
    border = cv2.convexHull((cells * _CELL_M).astype(np.float32))
    return len(cells) * _CELL_M**2, float(cv2.contourArea(border))


def _window(cloud: SceneCloud, detection: Detection3D) -> tuple[slice, slice] | None:
    """The rows and columns of the image that an object's points are in."""
    pixels = cloud.project_px(detection.points_camera_m)
    pixels = pixels[np.isfinite(pixels).all(1)]
    if not len(pixels):
        return None
    low, high = np.floor(pixels.min(0)).astype(int), np.ceil(pixels.max(0)).astype(int) + 1
    step = max(1, int(np.sqrt(np.prod(high - low) / _WINDOW_PIXELS)))
    return slice(max(0, low[1]), high[1], step), slice(max(0, low[0]), high[0], step)


def _surface(cloud: SceneCloud, plane: Plane, points_m: np.ndarray, name: str, label: str) -> Surface:
    """A plane with the outline of its points Nx3 (camera frame), in cloud.frame_id."""
    axes = level_axes(plane.normal)
    border = outline(points_m @ axes[:2].T)
    corners = np.column_stack((border, np.full(len(border), -plane.offset_m))) @ axes
    turn, shift = cloud.frame_T_camera[:3, :3], cloud.frame_T_camera[:3, 3]
    stamp_ns = cloud.frame.stamp_ns
    return Surface(name, label, corners @ turn.T + shift, turn @ plane.normal, plane.noise_m, stamp_ns=stamp_ns)
