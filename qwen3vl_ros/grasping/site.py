"""One object and what surrounds it, in a frame whose z is up: what a grasp search looks at.

"Down" is against the normal of the plane the object stands on, else against frame.up_camera, else along the
camera's ray to the object. Knows nothing of contacts or quality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.foreground import SMOOTHED, chosen, inverse_of, moved
from qwen3vl_ros.geometry.order_statistics import order_statistics
from qwen3vl_ros.geometry.shape import level_axes
from qwen3vl_ros.grasping.quality import weight_n
from qwen3vl_ros.types import Detection3D

_CELL_M = 0.0025
_MAX_POINTS = 2500
_HIGHEST_M = 1e3
_MISSING = 0.25  # of its largest extent: so much unseen is a side that is missing
_ROUNDING_M = 1e-4  # more than heights differ by that are computed in two ways
_AROUND_PX = 8  # wider than what is done to an object's pixels


@dataclass(frozen=True, eq=False)
class Site:
    """One object in a local frame whose z is up: camera_T_local 4x4, points Nx3 (float32).

    measured: N bool, False for the assumed unseen side. rest: Mx3 of other things. stands: whether the object's support is known;
    it is z = 0. top_m: highest point. middle_xy_m: middle of the points; centre_m, half_m: of the box and its footprint.
    missing_m: how much of it may lie beyond what was seen, where that is a good part of it.
    box_yaw_rad: direction of the box's x axis. noise_m: standard deviation of the depth there; pitch_m: distance of neighbouring
    pixels there; eye_m: the camera. weight_n: estimated from the box and a density.
    """

    camera_T_local: np.ndarray
    points: np.ndarray
    measured: np.ndarray
    rest: np.ndarray
    stands: bool
    top_m: float
    middle_xy_m: np.ndarray
    centre_m: np.ndarray
    half_m: float
    box_yaw_rad: float
    pitch_m: float
    noise_m: float = 0.0
    eye_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    weight_n: float = 0.0
    missing_m: float = 0.0


def site_of(
    cloud: SceneCloud,
    detection: Detection3D,
    others: Sequence[Detection3D],
    gripper: GripperConfig,
    sideways: bool = False,
) -> Site:
    """The detection's object with its surroundings. sideways: as far around as a hand needs that comes from the side."""
    camera_T_box = inverse_of(cloud.frame_T_camera) @ detection.frame_T_box
    up, offset = _up_at(cloud, camera_T_box, float(detection.size_m[2]))
    axes = level_axes(up)
    stride = max(1, math.ceil(len(detection.points_camera_m) / _MAX_POINTS))
    own = detection.points_camera_m[::stride]
    # Heights count from the support, or from the object's lowest point.
    offset_m = offset if offset is not None else -float((own @ up.astype(np.float32)).min())
    camera_T_local = np.eye(4)
    camera_T_local[:3, :3], camera_T_local[:3, 3] = axes.T, -offset_m * up
    local_T_camera = np.eye(4)
    local_T_camera[:3, :3], local_T_camera[2, 3] = axes, offset_m
    points = moved(np.concatenate((own, detection.hidden_camera_m)), local_T_camera)
    middle = np.array([(points[:, k].min() + points[:, k].max()) / 2 for k in (0, 1)], float)
    centre = local_T_camera[:3, :3] @ camera_T_box[:3, 3] + local_T_camera[:3, 3]
    corners = np.abs(axes @ camera_T_box[:3, :3]) @ detection.size_m / 2
    half = math.hypot(*corners[:2])
    top = top_of(points[: len(own), 2])
    pitch_m = order_statistics(detection.points_camera_m[:, 2], 50)[0] / cloud.frame.K[0, 0]
    reach = half + max(gripper.max_width + gripper.finger_thickness, gripper.palm_length / 2 + gripper.clearance)
    if gripper.wrist_width > 0:
        aside = abs(gripper.wrist_offset) + gripper.wrist_width / 2
        reach = max(reach, half + math.hypot(aside, gripper.wrist_length / 2) + gripper.clearance)
    if sideways:
        reach = max(reach, half + gripper.finger_length + gripper.standoff)
    noise = cloud.noise_per_m2 * float(np.square(own[:, 2].mean()))
    # Lower is the support or as flat as it, or its noise.
    lowest_m = 0.0 if offset is None else max(gripper.clearance, 3 * noise)
    room = (*(centre[:2] - reach), lowest_m), (*(centre[:2] + reach), _HIGHEST_M)
    rest = [_surroundings(cloud, detection, camera_T_local, local_T_camera, room, top, pitch_m)]
    for other in others:
        if len(other.hidden_camera_m):
            hidden = moved(other.hidden_camera_m, local_T_camera)
            rest.append(chosen(hidden, cv2.inRange(hidden[:, None], *room)))
    along = axes @ camera_T_box[:3, 0]
    largest = float(detection.size_m.max())
    missing = detection.edge_m if detection.edge_m > _MISSING * largest else 0.0
    return Site(
        camera_T_local,
        points,
        np.arange(len(points)) < len(own),
        np.concatenate(rest),
        offset is not None,
        top,
        middle,
        centre,
        half,
        math.atan2(along[1], along[0]),
        pitch_m,
        noise_m=SMOOTHED * noise,
        eye_m=local_T_camera[:3, 3].copy(),
        weight_n=weight_n(detection.size_m, gripper.density) * (1 + missing / largest),
        missing_m=missing,
    )


def top_of(heights: np.ndarray) -> float:
    """The highest but for a few strays."""
    heights = np.sort(heights)
    return float(heights[-1 - len(heights) // 200])


def _up_at(cloud: SceneCloud, camera_T_box: np.ndarray, height_m: float) -> tuple[np.ndarray, float | None]:
    """What is up at this object, and the offset of the plane below it if there is one."""
    below = []
    for plane in cloud.planes:
        if abs(camera_T_box[:3, 2] @ plane.normal) > 0.9999:
            bottom_m = float(plane.height_m(camera_T_box[:3, 3])) - height_m / 2
            if bottom_m > -0.5 * height_m:
                below.append((abs(bottom_m), plane))
    if below:
        plane = min(below, key=lambda pair: pair[0])[1]
        return plane.normal, plane.offset_m
    if cloud.frame.up_camera is not None:
        return np.asarray(cloud.frame.up_camera, float) / np.linalg.norm(cloud.frame.up_camera), None
    return -camera_T_box[:3, 3] / np.linalg.norm(camera_T_box[:3, 3]), None


def _surroundings(
    cloud, detection: Detection3D, camera_T_local, local_T_camera, room, top: float, pitch_m: float
) -> np.ndarray:
    """Local points in the room (its lowest and highest corner) that are not the object's, as dense as the height map needs."""
    (x0, y0, _), (x1, y1, _) = room
    corners = np.array([(x, y, z) for x in (x0, x1) for y in (y0, y1) for z in (0.0, top + 0.1)])
    pixels = cloud.project_px(moved(corners, camera_T_local))
    height, width = cloud.frame.depth_m.shape
    (left, top_row), (right, bottom) = (0, 0), (width, height)
    if np.isfinite(pixels).all():
        left, top_row = np.clip(np.floor(pixels.min(0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(pixels.max(0)) + 1, 0, (width, height)).astype(int)
    if left >= right or top_row >= bottom:
        return np.empty((0, 3), np.float32)
    step = max(1, int(_CELL_M / pitch_m))
    window = slice(top_row, bottom, step), slice(left, right, step)
    least_m = room[0][2] - local_T_camera[2, 3] - _ROUNDING_M
    row, column, points = cloud.points_above(*window, local_T_camera[2, :3], least_m)
    if not len(points):
        return points
    local = moved(points, local_T_camera)
    own, (u, v) = _own_pixels(cloud, detection)
    row, column = np.clip(row - v, 0, own.shape[0] - 1), np.clip(column - u, 0, own.shape[1] - 1)  # its border is empty
    wanted = (cv2.inRange(local[:, None], *room)[:, 0] > 0) & (own[row, column] == 0)
    return local.take(np.flatnonzero(wanted), 0)


def _own_pixels(cloud: SceneCloud, detection: Detection3D) -> tuple[np.ndarray, tuple[int, int]]:
    """Which pixels are the object's, 1 in a part of the image; and the (column, row) where that begins."""
    column, row = np.rint(cloud.project_px(detection.points_camera_m).T).astype(int)
    u, v = int(column.min()) - _AROUND_PX, int(row.min()) - _AROUND_PX
    own = np.zeros((int(row.max()) + _AROUND_PX + 1 - v, int(column.max()) + _AROUND_PX + 1 - u), np.uint8)
    own[row - v, column - u] = 1
    # Thinned points leave holes, and the pixels at its outline may show either side; between two rows that were looked at it is anywhere.
    rows = np.flatnonzero(own.any(1))
    step = min(int(np.diff(rows).min()), _AROUND_PX - 1) if len(rows) > 1 else 1
    own = cv2.morphologyEx(own, cv2.MORPH_CLOSE, np.ones((5, 11), np.uint8), borderType=cv2.BORDER_CONSTANT)
    return cv2.dilate(own, np.ones((2 * step + 1, 2 * step + 1), np.uint8)), (u, v)
