"""Where the parts of the shelf and of the sign are, and the places they offer: levels and the plate's corners.

A part is a box: its pose in the world (4x4, origin in its centre) and its full extents. Knows nothing of meshes,
pictures or ROS.
"""

from __future__ import annotations

import numpy as np

from qwen3vl_ros.sim.specs import SHELF_BOARD_M, ShelfSpec, SignSpec

Part = tuple[np.ndarray, tuple[float, float, float]]
PANEL_M = 0.012  # thickness of the shelf's sides
_PLATE_M = 0.006  # thickness of the sign's plate


def world_T_shelf(shelf: ShelfSpec) -> np.ndarray:
    """4x4 pose of the shelf: x out of its front, y to its left, z up; origin in the centre of its footprint."""
    c, s = np.cos(shelf.yaw_rad), np.sin(shelf.yaw_rad)
    pose = np.eye(4)
    pose[:2, :2] = ((c, -s), (s, c))
    pose[:2, 3] = shelf.position_m
    return pose


def shelf_parts(shelf: ShelfSpec) -> list[Part]:
    """Its boards from below, then its two side panels."""
    width, depth = shelf.size_m
    parts = [
        _part(shelf, (0, 0, shelf.board_top_m(level) - SHELF_BOARD_M / 2), (depth, width - 2 * PANEL_M, SHELF_BOARD_M))
        for level in range(1, shelf.levels + 1)
    ]
    for side in (-1, 1):
        at = (0, side * (width - PANEL_M) / 2, shelf.height_m / 2)
        parts.append(_part(shelf, at, (depth, PANEL_M, shelf.height_m)))
    return parts


def level_space(shelf: ShelfSpec, level: int) -> Part:
    """The free space above a level's board, between the panels."""
    width, depth = shelf.size_m
    room = shelf.room_m(level)
    return _part(shelf, (0, 0, shelf.board_top_m(level) + room / 2), (depth, width - 2 * PANEL_M, room))


def _part(shelf: ShelfSpec, at, size) -> Part:
    pose = world_T_shelf(shelf)
    pose[:3, 3] = pose[:3, :3] @ at + pose[:3, 3]
    return pose, tuple(float(s) for s in size)


def world_T_sign(sign: SignSpec) -> np.ndarray:
    """4x4 pose of the sign's face: x to its right, y up along the plate, z out of it."""
    c, s = np.cos(sign.yaw_rad), np.sin(sign.yaw_rad)
    ct, st = np.cos(sign.tilt_rad), np.sin(sign.tilt_rad)
    pose = np.eye(4)
    pose[:3, 2] = (ct * c, ct * s, st)
    pose[:3, 0] = (-s, c, 0.0)
    pose[:3, 1] = np.cross(pose[:3, 2], pose[:3, 0])
    pose[:3, 3] = sign.position_m
    return pose


def sign_parts(sign: SignSpec) -> list[Part]:
    """The plate behind the face, and the foot it stands on."""
    face, (width, height) = world_T_sign(sign), sign.size_m
    plate = face.copy()
    plate[:3, 3] -= face[:3, 2] * _PLATE_M / 2
    lowest = plate[:3, 3] - face[:3, 1] * height / 2
    foot = np.eye(4)
    foot[:3, 0], foot[:3, 1] = face[:3, 0], np.cross((0, 0, 1.0), face[:3, 0])
    foot_height = float(max(lowest[2], 0.004)) + 0.006
    foot[:3, 3] = (lowest[0], lowest[1], foot_height / 2)
    return [(plate, (width, height, _PLATE_M)), (foot, (0.5 * width, 0.035, foot_height))]


def sign_corners_m(sign: SignSpec) -> np.ndarray:
    """4x3 corners of the face in the world: upper left, upper right, lower right, lower left as one reads it."""
    face, (w, h) = world_T_sign(sign), sign.size_m
    return (
        np.array([(x * w / 2, y * h / 2, 0) for x, y in ((-1, 1), (1, 1), (1, -1), (-1, -1))]) @ face[:3, :3].T
        + face[:3, 3]
    )


def box_corners(part: Part) -> np.ndarray:
    """8x3 corners in the world."""
    pose, size = part
    unit = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    return (unit * size) @ pose[:3, :3].T + pose[:3, 3]
