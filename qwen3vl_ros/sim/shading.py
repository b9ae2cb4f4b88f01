"""Soft shadows for a rendered picture, computed from its depth and a depth map seen from the lamp.

Percentage-closer soft shadows (Fernando, "Percentage-Closer Soft Shadows", SIGGRAPH 2005 sketches): the farther the
thing that blocks the lamp, the wider the blurred edge. And a contact shade where things stand on the table.
Knows numpy and OpenCV only.
"""

from __future__ import annotations

import cv2
import numpy as np

LAMP_MAP_HALF_M = 0.40  # of the work area; with a shelf on it, what casts shadows reaches farther
LAMP_MAP_HALF_SHELF_M = 0.75
LAMP_DISTANCE_M = 2.0
_CENTRE_M = np.array((0.0, 0.0, 0.04))
_LAMP_SPREAD = 0.16  # diameter of the lamp over its distance: how fast a shadow's edge widens
# On an object the neighbouring texels of a steep side lie far along the light and must not shade it.
_BIAS_TABLE_M, _BIAS_OBJECT_M = 0.004, 0.016
_TAPS = 16
_CONTACT_PX, _CONTACT_HALF_M, _CONTACT_SIGMA_M = 256, 0.45, 0.010


def lamp_pose(direction) -> np.ndarray:
    """world_T_lamp (4x4, optical: z along the light) of a parallel lamp above the work area."""
    forward = np.asarray(direction, float) / np.linalg.norm(direction)
    right = np.cross(forward, (0.0, 1.0, 0.0) if abs(forward[1]) < 0.9 else (1.0, 0.0, 0.0))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(forward, right), forward
    pose[:3, 3] = _CENTRE_M - LAMP_DISTANCE_M * forward
    return pose


def lit_fraction(
    depth_m: np.ndarray,
    k: np.ndarray,
    world_T_camera: np.ndarray,
    lamp_depth_m: np.ndarray,
    world_T_lamp: np.ndarray,
    on_object: np.ndarray,
    half_m: float = LAMP_MAP_HALF_M,
) -> np.ndarray:
    """How much of the lamp each pixel sees, HxW float32 in 0..1.

    on_object: HxW bool, the pixels of what casts shadows itself.
    lamp_depth_m: nxn orthographic depth of everything that casts shadows, 0 where there is nothing; half_m: half its side.
    """
    height, width = depth_m.shape
    n = lamp_depth_m.shape[0]
    texel_m = 2 * half_m / n
    lamp_T_camera = np.linalg.inv(world_T_lamp) @ world_T_camera
    x = ((np.arange(width) - k[0, 2]) / k[0, 0]).astype(np.float32)[None, :]
    y = ((np.arange(height) - k[1, 2]) / k[1, 1]).astype(np.float32)[:, None]

    def along(row: int) -> np.ndarray:
        a, b, c, d = lamp_T_camera[row].astype(np.float32)
        return depth_m * (a * x + (b * y + c)) + d

    u = along(0) * np.float32(1 / texel_m) + np.float32(n / 2 - 0.5)
    v = along(1) * np.float32(1 / texel_m) + np.float32(n / 2 - 0.5)
    casts = (lamp_depth_m > 0).astype(np.uint8)
    reach_px = int(np.ceil(0.5 * _LAMP_SPREAD * 0.18 / texel_m)) + 1
    near_caster = cv2.dilate(casts, np.ones((2 * reach_px + 1,) * 2, np.uint8))
    touched = np.flatnonzero(cv2.remap(near_caster, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT))
    lit = np.ones((height, width), np.float32)
    if len(touched) == 0:
        return lit
    u, v, z = u.ravel()[touched], v.ravel()[touched], along(2).ravel()[touched]
    pad = 2 * reach_px
    side = n + 2 * pad
    blockers = np.full((side, side), np.float32(1e3))
    blockers[pad:-pad, pad:-pad] = np.where(lamp_depth_m > 0, lamp_depth_m, np.float32(1e3))
    # The mean depth of what stands in the lamp's way nearby sets the width of the edge.
    weight = cv2.blur(casts.astype(np.float32), (2 * reach_px - 1,) * 2)
    mean = cv2.blur(lamp_depth_m, (2 * reach_px - 1,) * 2) / np.maximum(weight, 1e-6)
    at = np.clip(v, 0, n - 1).astype(np.int32) * n + np.clip(u, 0, n - 1).astype(np.int32)
    radius = np.clip(0.5 * _LAMP_SPREAD * (z - mean.ravel()[at]) / texel_m, 0.7, reach_px).astype(np.float32)
    flat, seen = blockers.ravel(), np.zeros(len(z), np.float32)
    z -= np.where(on_object.ravel()[touched], np.float32(_BIAS_OBJECT_M), np.float32(_BIAS_TABLE_M))
    u += np.float32(pad + 0.5)
    v += np.float32(pad + 0.5)
    for tap in range(_TAPS):  # a sunflower covers the disc evenly
        r, a = np.sqrt((tap + 0.5) / _TAPS), tap * np.pi * (3 - np.sqrt(5))
        column = (u + radius * np.float32(r * np.cos(a))).astype(np.int32)
        row = (v + radius * np.float32(r * np.sin(a))).astype(np.int32)
        seen += flat[row * side + column] >= z
    lit.ravel()[touched] = seen / _TAPS
    return cv2.blur(lit, (3, 3))


def contact_shade(
    footprints_m: list[np.ndarray], k: np.ndarray, world_T_camera: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """How close each point of the table plane is to a footprint (Nx2 world, convex), HxW float32 in 0..1."""
    scale = _CONTACT_PX / (2 * _CONTACT_HALF_M)
    top = np.zeros((_CONTACT_PX, _CONTACT_PX), np.float32)
    for points in footprints_m:
        if not len(points):  # it stands on something else
            continue
        cv2.fillConvexPoly(top, np.round((points + _CONTACT_HALF_M) * scale * 16).astype(np.int32), 1.0, cv2.LINE_AA, 4)
    top = cv2.GaussianBlur(top, (0, 0), _CONTACT_SIGMA_M * scale)
    camera_T_world = np.linalg.inv(world_T_camera)
    # Table pixels of `top` -> world (x, y, 1) -> image.
    to_world = np.array(((1 / scale, 0, -_CONTACT_HALF_M), (0, 1 / scale, -_CONTACT_HALF_M), (0, 0, 1.0)))
    homography = k @ camera_T_world[:3][:, (0, 1, 3)] @ to_world
    return cv2.warpPerspective(top, homography, shape[::-1], flags=cv2.INTER_LINEAR)
