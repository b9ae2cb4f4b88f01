"""From 2D boxes and measured depth to oriented 3D boxes.

`lift_boxes` finds the objects' pixels and what they stand on (standing.py), completes the unseen side (shape.py) and says
how well the depth supports the box. Every detection gets a box or a reason. Knows nothing of prompts, of models or of
grippers.
"""

from __future__ import annotations

import math
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.foreground import (
    SMOOTHED,
    Foreground,
    around,
    inverse_of,
    moved,
    surface_normals,
    without_flying,
)
from qwen3vl_ros.geometry.lifted import Lifted, finite_or_reason
from qwen3vl_ros.geometry.order_statistics import order_statistics
from qwen3vl_ros.geometry.planes import Plane
from qwen3vl_ros.geometry.revolution import resting_ball
from qwen3vl_ros.geometry.rim import lost_rim
from qwen3vl_ros.geometry.shape import SolidBox, free_box, level_axes, upright_box
from qwen3vl_ros.geometry.standing import FLOATS_ABOVE, Standing, inside_box, lower_side, standing_objects
from qwen3vl_ros.types import Detection2D, Detection3D, Refusal

_FLOATS_IF_ROUND = 0.6
_NORMALS = 1000  # of an object's points are asked for their normals
_MOST_HIDDEN = 2.0  # of what is seen of its height: so much of a thing may be hidden below that, and no more


def lift_boxes(cloud: SceneCloud, detections: Sequence[Detection2D]) -> Lifted:
    """A measured 3D box for each 2D detection, in cloud.frame_id, or a Refusal that says why not.

    The score is the detection's times `trust(support)`; trust(support) alone where the detection has none
    (NaN).
    """
    if cloud.reason:
        return Lifted((), tuple(Refusal(d.id, d.label, cloud.reason) for d in detections))
    boxes, refusals = [], []
    for detection, one in zip(detections, standing_objects(cloud, [d.box_xyxy_px for d in detections])):
        result = one if isinstance(one, str) else finite_or_reason(_complete(cloud, detection, one))
        if isinstance(result, str):
            refusals.append(Refusal(detection.id, detection.label, result))
        else:
            boxes.append(result)
    return Lifted(tuple(boxes), tuple(refusals))


def trust(support: float) -> float:
    """How far depth backs a box, 0..1: 1 - (1 - support)^2, mild until half the pixels disagree."""
    return 1.0 - (1.0 - support) ** 2


def _complete(cloud: SceneCloud, detection: Detection2D, standing: Standing) -> Detection3D:
    """The whole object behind its pixels."""
    found = standing.found
    camera_T_local, solid, points = _solid(cloud, found, standing.plane, detection.box_xyxy_px)
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
        _missing_px(standing, detection.box_xyxy_px)
        * order_statistics(points[:, 2], 50)[0]
        / float(cloud.frame.K[0, 0]),
        solid.angular,
    )


def _missing_px(standing: Standing, box_px) -> float:
    """How far the 2D box reaches beyond the object's pixels, on the side where it is most; its foot is not counted."""
    left, top, right, bottom = standing.found.window.extents_px(standing.found.mask)
    gaps = left - box_px[0], top - box_px[1], box_px[2] - right, box_px[3] - bottom
    foot = None if standing.plane is None else lower_side(standing.plane)
    return max(0.0, *(gap for side, gap in enumerate(gaps) if side != foot))


def _solid(
    cloud: SceneCloud, found: Foreground, plane: Plane | None, box_px
) -> tuple[np.ndarray, SolidBox, np.ndarray]:
    """camera_T_local 4x4, the box in that frame, and the object's points in the camera frame (float32)."""
    window, part = found.window, around(found.mask)
    keep = without_flying(found.mask[part])
    smooth = window.smoothed(keep, part)
    pixels = np.flatnonzero(keep)
    pixels = pixels[:: max(1, math.ceil(len(pixels) / cloud.config.max_points))]
    points, read = np.take(smooth.reshape(-1, 3), pixels, 0), len(pixels)
    valid = window.valid[part]
    if not valid.all():  # most outlines of exact depth have lost nothing
        rim, depth_m = lost_rim(keep, without_flying(valid & ~found.mask[part]), window.depth_m[part])
        lost = window.rays(part, rim) * depth_m[:, None]
        points = np.concatenate((points, lost[np.isfinite(lost[:, 0])]))  # a lens may have no ray for a pixel
    noise_m = cloud.noise_per_m2 * float(np.square(points[:, 2].mean()))
    few = slice(None, None, max(1, math.ceil(len(pixels) / _NORMALS)))
    normals = surface_normals(smooth, keep, pixels[few], 0.0 if plane is None else plane.noise_m)
    camera_T_local = np.eye(4)
    up = plane.normal if plane is not None else cloud.frame.up_camera
    if up is None:
        everything = (of.astype(float) for of in (points, points[:read][few], normals))
        return camera_T_local, free_box(*everything, np.zeros(3)), points[:read]
    camera_T_local[:3, :3] = level_axes(np.asarray(up, float)).T
    if plane is not None:
        camera_T_local[:3, 3] = -plane.offset_m * plane.normal
    local_T_camera = inverse_of(camera_T_local)
    local = moved(points, local_T_camera)
    sample, normals = local[:read][few], moved(normals, local_T_camera[:3, :3])
    eye = local_T_camera[:3, 3]

    def to_camera(p):
        return p @ camera_T_local[:3, :3].T + camera_T_local[:3, 3]

    (bottom,) = order_statistics(local[:read, 2], 0.5)
    carried = plane is not None and _stands_on_another(cloud, local, sample, normals, eye, to_camera, box_px, found.cut)
    if carried and resting_ball(sample, normals, 0.0, SMOOTHED * noise_m) is None:  # of a ball the foot is never seen
        foot = bottom + plane.tolerance_m  # what carries it is flat and seen around its foot
        above, sample_above = local[:, 2] > foot, sample[:, 2] > foot
        if np.count_nonzero(above) * window.step**2 >= cloud.config.min_points:
            points, local = points[above], local[above]
            read = np.count_nonzero(above[:read])
            sample, normals = sample[sample_above], normals[sample_above]
    elif plane is not None:
        bottom = 0.0
    solid = upright_box(local, sample, normals, bottom, eye, lambda p: cloud.look_behind(to_camera(p)), noise_m, read)
    return camera_T_local, solid, points[:read]  # an outline is assumed, and no finger's contact


def _stands_on_another(cloud, local, sample, normals, eye, to_camera, box_px, cut: bool) -> bool:
    """Whether the object ends far above the plane, and that end is seen: then something else carries it.

    sample, normals: some of its local points and the normals there.
    """
    low, high = order_statistics(local[:, 2], 0.5, 98)
    if low < FLOATS_ABOVE * high:
        return False
    # The lower edge towards the camera: the nearest of the lower points in each of twenty strips.
    towards = eye[:2] - local[:, :2].mean(0)
    if low > _MOST_HIDDEN * (high - low) and eye[2] - high < float(np.linalg.norm(towards)):
        return True  # its sides are in sight, and too little of them is seen for it to go on to the plane
    towards /= max(float(np.linalg.norm(towards)), 1e-9)
    strip = _ranks(sample[:, :2] @ np.array((-towards[1], towards[0])), 20)
    nearness = sample[:, :2] @ towards - sample[:, 2]
    edge = np.array([members[nearness[members].argmax()] for members in strip])
    sight = sample[edge] - eye
    facing = np.abs(np.einsum("ij,ij->i", normals[edge], sight)) / np.linalg.norm(sight, axis=1)
    rounds_away = np.isfinite(facing).any() and np.nanmedian(facing) < 0.45
    if rounds_away and low < _FLOATS_IF_ROUND * high:
        return False
    if cut:  # its surface goes on into what carries it
        return True
    below = sample[edge]
    below[:, 2] = 0.0
    below = to_camera(below)
    x0, y0, x1, y1 = box_px
    margin = 3.0 + 0.15 * min(x1 - x0, y1 - y0)  # less than that is too little of a side to have missed
    outside = ~inside_box(cloud.project_px(below), (x0 - margin, y0 - margin, x1 + margin, y1 + margin))
    return float((outside & (cloud.look_behind(below) > -0.01)).mean()) > 0.5


def _ranks(values: np.ndarray, count: int) -> list[np.ndarray]:
    """Indices of values in `count` groups of about equal size, by order."""
    return [group for group in np.array_split(np.argsort(values), count) if len(group)]


def _support(found: Foreground, camera_T_box: np.ndarray, size_m: np.ndarray) -> float:
    """Share of the box's foreground pixels on the object and inside its 3D box.

    Foreground: no reading, or above the support and not behind the object.
    """
    window = found.window
    inside, own = window.points_m[window.inside], found.mask[window.inside]
    local_T_camera = inverse_of(camera_T_box)[:3]
    reach = size_m / 2 + 0.003 + 0.05 * size_m.max()
    agrees = own & (cv2.inRange(cv2.transform(inside, local_T_camera), -reach, reach) > 0)  # 0 for NaN
    z = window.depth_m[window.inside]
    far_side = cv2.minMaxLoc(window.depth_m, found.mask.view(np.uint8))[1] + 0.25 * size_m.max()
    with np.errstate(invalid="ignore"):
        foreground_pixels = agrees | ~window.valid[window.inside] | (found.standing[window.inside] & (z < far_side))
    total = np.count_nonzero(foreground_pixels)
    return np.count_nonzero(agrees) / total if total else 0.0
