"""The model's own 3D boxes, corrected for what it could not know: the lens and the range.

Knows nothing of prompts, of models or of grippers.
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np

from qwen3vl_ros.geometry.lens import lens_fault, pixel_rays, project_px
from qwen3vl_ros.geometry.lifted import Lifted, finite_or_reason
from qwen3vl_ros.types import Detection3D, Frame, ModelBox3D, Refusal

_MODEL_HALF_FOV_RAD = math.radians(30.0)  # the field of view the model assumes, 60 degrees on each axis
_MAX_RESCALE = 4.0


def place_model_boxes(frame: Frame, boxes_3d: Sequence[ModelBox3D]) -> Lifted:
    """The model's own 3D boxes in the frame's target frame, source "model", ids "m0", "m1", ..., or why not.

    Without intrinsics the model assumes a field of view of 60 degrees on each axis. With K the centre is
    moved to the ray of its pixel, and the range grows by the ratio of the true to the assumed focal length,
    so that the object keeps its size in metres and in the picture. With registered depth at the projected
    centre the whole box, range and size, is scaled so that its front meets the measured surface, unless they
    differ by more than a factor of 4. Without K, or with a lens model that is not known, the box stays as the
    model said. A box whose pixel has no ray through the lens, or that is not finite, is refused.
    """
    frame_id = frame.frame_id if frame.target_T_camera is None else frame.target_frame
    frame_T_camera = np.eye(4) if frame.target_T_camera is None else np.asarray(frame.target_T_camera, float)
    placed, refusals = [], []
    for index, box in enumerate(boxes_3d):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what comes of it is looked at
            result = finite_or_reason(_placed(frame, f"m{index}", box, frame_id, frame_T_camera))
        if isinstance(result, str):
            refusals.append(Refusal(f"m{index}", box.label, result))
        else:
            placed.append(result)
    return Lifted(tuple(placed), tuple(refusals))


def _placed(frame: Frame, box_id: str, box: ModelBox3D, frame_id: str, frame_T_camera: np.ndarray) -> Detection3D | str:
    centre, size = np.asarray(box.center_m, float), np.asarray(box.size_m, float)
    if frame.K is not None and not lens_fault(frame) and centre[2] > 0:
        centre = _on_true_ray(frame, centre)
        if isinstance(centre, str):
            return centre
        scale = _measured_scale(frame, centre, size, np.asarray(box.rotation, float))
        centre, size = centre * scale, size * scale
    camera_T_box = np.eye(4)
    camera_T_box[:3, :3], camera_T_box[:3, 3] = box.rotation, centre
    return Detection3D(box_id, box.label, box.score, frame_id, frame_T_camera @ camera_T_box, size, "model")


def _on_true_ray(frame: Frame, centre_m: np.ndarray) -> np.ndarray | str:
    half = np.array(frame.size_px) / 2
    assumed_focal = half / math.tan(_MODEL_HALF_FOV_RAD)
    pixel = half - 0.5 + assumed_focal * centre_m[:2] / centre_m[2]
    ray = pixel_rays(pixel[None], frame.K, frame.distortion, frame.distortion_model)[0]
    growth = math.sqrt(frame.K[0, 0] * frame.K[1, 1] / np.prod(assumed_focal))
    moved = centre_m[2] * growth * np.append(ray, 1.0)
    if not np.isfinite(moved).all():
        u, v = pixel
        return f"the lens has no ray through ({u:.4g}, {v:.4g}) px, where the model puts its centre; check camera_info"
    return moved


def _measured_scale(frame: Frame, centre_m: np.ndarray, size_m: np.ndarray, rotation: np.ndarray) -> float:
    """Factor that brings the box's front, on its centre's ray, to the measured surface; 1 without depth."""
    depth_m = frame.depth_m
    if depth_m is None or depth_m.shape != frame.rgb.shape[:2]:
        return 1.0
    distance = float(np.linalg.norm(centre_m))
    ray = centre_m / distance
    to_front = float(np.min(size_m / 2 / np.abs(rotation.T @ ray)))
    centre_px = project_px(centre_m, frame.K, frame.distortion, frame.distortion_model)[0]
    reach = max(1.0, 0.1 * float(size_m.min()) * frame.K[0, 0] / centre_m[2])
    edges = np.array((centre_px - reach, centre_px + reach + 1))
    if not np.isfinite(edges).all():
        return 1.0
    # Edges far outside are cut before they become integers.
    (left, top), (right, bottom) = np.clip(np.rint(edges), 0, (depth_m.shape[1], depth_m.shape[0])).astype(int)
    window = depth_m[top:bottom, left:right]
    readings = window[np.isfinite(window) & (window > 0)]
    if len(readings) < 3 or to_front >= distance:
        return 1.0
    scale = float(np.median(readings)) / ray[2] / (distance - to_front)
    return scale if 1 / _MAX_RESCALE <= scale <= _MAX_RESCALE else 1.0
