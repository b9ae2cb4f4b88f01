"""From one frame's depth to a layout: lifted objects become things with their noise, planes become surfaces.

Knows nothing of relations or models.
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np

from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.hulls import outline, without_strays
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.planes import Plane
from qwen3vl_ros.geometry.shape import level_axes
from qwen3vl_ros.geometry.things import Surface, Thing, Viewpoint
from qwen3vl_ros.types import Detection3D, Refusal


def layout_of(
    cloud: SceneCloud,
    detections: Sequence[Detection3D],
    refusals: Sequence[Refusal] = (),
    frame_T_robot: np.ndarray | None = None,
    **known,
) -> Layout:
    """The layout of one frame, in cloud.frame_id: what was lifted from measured depth, and the planes it stands on.

    frame_T_robot: pose of the robot's base in that frame. known: looked_for, held, gripper_opening_m, now_ns of Layout.
    """
    measured = [d for d in detections if d.source == "depth" and len(d.points_camera_m)]
    guesses = [
        Refusal(d.id, d.label, "its box is the model's own, nobody measured it")
        for d in detections
        if d not in measured
    ]
    return Layout(
        [thing_of(cloud, d) for d in measured],
        viewpoint_of(cloud, frame_T_robot),
        surfaces_of(cloud) if cloud.usable else (),
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
        stamp_ns=cloud.frame.stamp_ns,
    )


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
    return tuple(
        _surface(cloud, plane, "table" if k == 0 else f"surface {k + 1}") for k, plane in enumerate(cloud.planes)
    )


def _surface(cloud: SceneCloud, plane: Plane, name: str) -> Surface:
    points = cloud.thinned_m.astype(float)
    on_it = points[np.abs(plane.height_m(points)) < plane.tolerance_at(points[:, 2])]
    axes = level_axes(plane.normal)
    flat = without_strays(on_it) @ axes.T
    border = outline(flat[:, :2])
    height = -plane.offset_m
    corners = np.column_stack((border, np.full(len(border), height))) @ axes
    turn, shift = cloud.frame_T_camera[:3, :3], cloud.frame_T_camera[:3, 3]
    return Surface(
        name,
        name,
        corners @ turn.T + shift,
        turn @ plane.normal,
        plane.noise_m,
        stamp_ns=cloud.frame.stamp_ns,
    )
