"""From 2D boxes and measured depth to oriented 3D boxes, and from the model's own 3D boxes to ours.

`lift_boxes` finds the object's pixels (foreground.py), completes the unseen side (shape.py) and says how well
the depth supports the box. `place_model_boxes` corrects what the model could not know: the lens and the
range. Every detection gets a box or a reason. Knows nothing of prompts, of models or of grippers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.foreground import Foreground, foreground, surface_normals, without_flying
from qwen3vl_ros.geometry.lens import lens_fault, pixel_rays, project_px
from qwen3vl_ros.geometry.order_statistics import order_statistics
from qwen3vl_ros.geometry.planes import Plane
from qwen3vl_ros.geometry.shape import SolidBox, free_box, level_axes, upright_box
from qwen3vl_ros.geometry.supports import LevelPatch, carries, level_patches
from qwen3vl_ros.types import Detection2D, Detection3D, Frame, ModelBox3D, Refusal

_MODEL_HALF_FOV_RAD = math.radians(30.0)  # the field of view the model assumes, 60 degrees on each axis
_MAX_RESCALE = 4.0
_TABLE_SHARE = 0.3
_PARALLEL = math.cos(math.radians(10.0))
_FLOATS_IF_ROUND = 0.6
_FLOATS_ABOVE = 0.4  # of its height: a thing seen no lower than this may stand on another thing


@dataclass(frozen=True)
class Lifted:
    """Boxes in the order of the detections they came from, and why the others have none."""

    detections: tuple[Detection3D, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def lift_boxes(cloud: SceneCloud, detections: Sequence[Detection2D]) -> Lifted:
    """A measured 3D box for each 2D detection, in cloud.frame_id, or a Refusal that says why not.

    The score is the detection's times `trust(support)`; trust(support) alone where the detection has none
    (NaN).
    """
    seen = [cloud.reason or _seen(cloud, detection) for detection in detections]
    _give_back_what_is_carried(cloud, [one for one in seen if not isinstance(one, str)])
    boxes, refusals = [], []
    for detection, one in zip(detections, seen):
        result = one if isinstance(one, str) else _finite(_complete(cloud, detection, one))
        if isinstance(result, str):
            refusals.append(Refusal(detection.id, detection.label, result))
        else:
            boxes.append(result)
    return Lifted(tuple(boxes), tuple(refusals))


def _finite(result: Detection3D | str) -> Detection3D | str:
    """The box, or why not even a finite one came out: nobody may be sent to a place that is no number."""
    if isinstance(result, str) or (np.isfinite(result.frame_T_box).all() and np.isfinite(result.size_m).all()):
        return result
    return "its pose or size is not finite: the depth, the calibration or the pose of the camera is not of this picture"


def trust(support: float) -> float:
    """How far depth backs a box, 0..1: 1 - (1 - support)^2, mild until half the pixels disagree."""
    return 1.0 - (1.0 - support) ** 2


@dataclass(eq=False)
class _Seen:
    """An object's pixels and what carries it; patch: the part of that which is seen around its foot, if it is no plane."""

    found: Foreground
    plane: Plane | None
    patch: LevelPatch | None = None


def _seen(cloud: SceneCloud, detection: Detection2D) -> _Seen | str:
    """The object in the detection's box over the highest surface under it, or why there is none."""
    found, plane = _above_a_plane(cloud, detection.box_xyxy_px)
    if isinstance(found, str):
        return found
    top = -math.inf if plane is None else order_statistics(plane.height_m(found.points_m[found.mask]), 98)[0]
    for patch in level_patches(found.points_m, found.standing, plane) if plane is not None else ():
        if plane.offset_m - patch.plane.offset_m > top - 3 * plane.tolerance_m:
            continue  # its own top
        higher = foreground(cloud, detection.box_xyxy_px, patch.plane)
        if isinstance(higher, Foreground) and carries(patch, higher, found):
            return _Seen(higher, patch.plane, patch)
    return _Seen(found, plane)


def _give_back_what_is_carried(cloud: SceneCloud, seen: Sequence[_Seen]) -> None:
    """Take the pixels of what stands on an object out of that object's own."""
    for upper in seen:
        if upper.patch is None:
            continue
        surface, carried = (_in_image(cloud, upper.found, mask) for mask in (upper.patch.mask, upper.found.mask))
        carried = cv2.dilate(carried, np.ones((5, 5), np.uint8))
        for lower in seen:
            window = lower.found.rows, lower.found.columns
            on_it = int((surface[window] & lower.found.mask).sum()) * lower.found.step**2
            if lower is upper or on_it < 0.5 * surface.sum():
                continue
            rest = lower.found.mask & (carried[window] == 0)
            if rest.sum() * lower.found.step**2 >= cloud.config.min_points:
                lower.found = replace(lower.found, mask=rest)


def _in_image(cloud: SceneCloud, found: Foreground, mask: np.ndarray) -> np.ndarray:
    """A mask of a window as a mask of the whole image, HxW uint8."""
    image = np.zeros(cloud.frame.depth_m.shape, np.uint8)
    rows, columns = (slice(s.start, s.stop) for s in (found.rows, found.columns))
    whole = np.repeat(np.repeat(mask, found.step, 0), found.step, 1)
    image[rows, columns] = whole[: rows.stop - rows.start, : columns.stop - columns.start]
    return image


def _complete(cloud: SceneCloud, detection: Detection2D, seen: _Seen) -> Detection3D:
    """The whole object behind its pixels."""
    found = seen.found
    camera_T_local, solid, points = _solid(cloud, found, seen.plane, detection.box_xyxy_px)
    camera_T_box = camera_T_local @ solid.local_T_box
    hidden = solid.hidden_m @ camera_T_local[:3, :3].T + camera_T_local[:3, 3]
    support = _support(found, camera_T_box, solid.size_m)
    score = trust(support) if math.isnan(detection.score) else detection.score * trust(support)
    return Detection3D(
        detection.id,
        detection.label,
        score,
        cloud.frame_id,
        cloud.frame_T_camera @ camera_T_box,
        solid.size_m,
        "depth",
        support,
        points,
        hidden.astype(np.float32),
    )


def _above_a_plane(cloud: SceneCloud, box_px) -> tuple[Foreground | str, Plane | None]:
    """The object's pixels over the largest plane that may carry it and is not its own side."""
    first: Foreground | str | None = None
    under: Plane | None = None
    for plane in cloud.planes:
        if _own_side(cloud, plane, box_px):
            continue
        if under is not None and abs(under.normal @ plane.normal) > _PARALLEL:
            continue  # another level: whether it carries the thing is seen around the foot
        found = foreground(cloud, box_px, plane)
        if isinstance(found, str):
            first = first or found
            continue
        heights = plane.height_m(found.points_m[found.mask])
        low, high = order_statistics(heights, 2, 98)
        if low < max(3 * plane.tolerance_m, _FLOATS_ABOVE * high):
            return found, plane
        if under is None:
            first, under = found, plane
    return (foreground(cloud, box_px, None) if first is None else first), under


def _own_side(cloud: SceneCloud, plane: Plane, box_px) -> bool:
    """Whether the plane is the object's side: denser in the box than around it, and no table seen in it."""
    points = cloud.thinned_m
    on_it = np.abs(plane.height_m(points)) < plane.tolerance_at(points[:, 2])
    inside = _inside(cloud.project_px(points), box_px)
    if not inside.any() or inside.all():
        return bool(inside.all())
    denser = float(on_it[inside].mean()) > float(on_it[~inside].mean())
    return denser and (plane.share < _TABLE_SHARE or on_it[inside].sum() > 0.5 * on_it.sum())


def _inside(pixels, box_px) -> np.ndarray:
    x0, y0, x1, y1 = box_px
    u, v = pixels[:, 0] + 0.5, pixels[:, 1] + 0.5
    return (u > x0) & (u < x1) & (v > y0) & (v < y1)


def _solid(
    cloud: SceneCloud, found: Foreground, plane: Plane | None, box_px
) -> tuple[np.ndarray, SolidBox, np.ndarray]:
    """camera_T_local 4x4, the box in that frame, and the object's points in the camera frame (float32)."""
    keep = without_flying(found.mask)
    normals = surface_normals(found.points_m, keep, 0.0 if plane is None else plane.noise_m)
    points, normals = found.points_m[keep], normals[keep]
    step = max(1, math.ceil(len(points) / cloud.config.max_points))
    points, normals = points[::step], normals[::step]
    camera_T_local = np.eye(4)
    up = plane.normal if plane is not None else cloud.frame.up_camera
    if up is None:
        return camera_T_local, free_box(points.astype(float), normals.astype(float), np.zeros(3)), points
    camera_T_local[:3, :3] = level_axes(np.asarray(up, float)).T
    if plane is not None:
        camera_T_local[:3, 3] = -plane.offset_m * plane.normal
    local_T_camera = np.linalg.inv(camera_T_local)
    local = points @ local_T_camera[:3, :3].T + local_T_camera[:3, 3]
    normals = normals @ local_T_camera[:3, :3].T
    eye = local_T_camera[:3, 3]

    def to_camera(p):
        return p @ camera_T_local[:3, :3].T + camera_T_local[:3, 3]

    (bottom,) = order_statistics(local[:, 2], 0.5)
    if plane is not None and _stands_on_another(cloud, local, normals, eye, to_camera, box_px, found.cut):
        above = local[:, 2] > bottom + plane.tolerance_m  # what carries it is flat and seen around its foot
        if above.sum() * found.step**2 >= cloud.config.min_points:
            points, local, normals = points[above], local[above], normals[above]
    elif plane is not None:
        bottom = 0.0
    solid = upright_box(local, normals, bottom, eye, lambda p: cloud.look_behind(to_camera(p)))
    return camera_T_local, solid, points


def _stands_on_another(cloud, local, normals, eye, to_camera, box_px, cut: bool) -> bool:
    """Whether the object ends far above the plane, and that end is seen: then something else carries it."""
    low, high = order_statistics(local[:, 2], 0.5, 98)
    if low < _FLOATS_ABOVE * high:
        return False
    # The lower edge towards the camera: the nearest of the lower points in each of twenty strips.
    towards = eye[:2] - local[:, :2].mean(0)
    towards /= max(float(np.linalg.norm(towards)), 1e-9)
    strip = _ranks(local[:, :2] @ np.array((-towards[1], towards[0])), 20)
    nearness = local[:, :2] @ towards - local[:, 2]
    edge = np.array([members[nearness[members].argmax()] for members in strip])
    sight = local[edge] - eye
    facing = np.abs(np.einsum("ij,ij->i", normals[edge], sight)) / np.linalg.norm(sight, axis=1)
    rounds_away = np.isfinite(facing).any() and np.nanmedian(facing) < 0.45
    if rounds_away and low < _FLOATS_IF_ROUND * high:
        return False
    if cut:  # its surface goes on into what carries it
        return True
    below = local[edge].copy()
    below[:, 2] = 0.0
    below = to_camera(below)
    x0, y0, x1, y1 = box_px
    margin = 3.0 + 0.15 * min(x1 - x0, y1 - y0)  # less than that is too little of a side to have missed
    outside = ~_inside(cloud.project_px(below), (x0 - margin, y0 - margin, x1 + margin, y1 + margin))
    return float((outside & (cloud.look_behind(below) > -0.01)).mean()) > 0.5


def _ranks(values: np.ndarray, count: int) -> list[np.ndarray]:
    """Indices of values in `count` groups of about equal size, by order."""
    return [group for group in np.array_split(np.argsort(values), count) if len(group)]


def _support(found: Foreground, camera_T_box: np.ndarray, size_m: np.ndarray) -> float:
    """Share of the box's foreground pixels on the object and inside its 3D box.

    Foreground: no reading, or above the support and not behind the object.
    """
    points = found.points_m
    local = (points - camera_T_box[:3, 3].astype(np.float32)) @ camera_T_box[:3, :3].astype(np.float32)
    with np.errstate(invalid="ignore"):
        agrees = found.mask & np.all(np.abs(local) < size_m / 2 + 0.003 + 0.05 * size_m.max(), axis=-1)
        far_side = np.nanmax(np.where(found.mask, points[..., 2], np.nan)) + 0.25 * size_m.max()
        foreground_pixels = found.box & (np.isnan(points[..., 2]) | (found.standing & (points[..., 2] < far_side)))
    total = int((foreground_pixels | (agrees & found.box)).sum())
    return float((agrees & found.box).sum() / total) if total else 0.0


# -- the model's own boxes -----------------------------------------------------------------------------------


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
            result = _finite(_placed(frame, f"m{index}", box, frame_id, frame_T_camera))
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
