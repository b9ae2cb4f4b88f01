"""Ground truth of a rendered scene: boxes, visibility and poses, from geometry and the segmentation picture.

Knows nothing of OpenGL or ROS. Boxes are xyxy in pixel EDGES (pixel i covers i..i+1, so maxima are exclusive);
K follows the ROS and OpenCV convention in which whole numbers are pixel CENTRES: an edge is a centre + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .scenes import GaugeSpec, ObjectSpec, SceneSpec
from .shapes import Mesh

_OVERSAMPLING = 4
_MAX_RASTER_PX = 4096


@dataclass(frozen=True)
class ObjectTruth:
    """What is true of one object in one picture.

    box_xyxy_px: around the visible pixels (all zero when none is). amodal_box_xyxy_px: around the whole
    outline, cut at the picture's border. visibility: visible pixels over the pixels of the whole outline,
    including what lies outside the picture. camera_T_object: 4x4, optical frame from object frame (origin in
    the centre of its box, z up). size_m: extents in the object's frame.
    """

    index: int
    kind: str
    colour: str
    label: str
    box_xyxy_px: tuple[float, float, float, float]
    amodal_box_xyxy_px: tuple[float, float, float, float]
    visibility: float
    fully_in_view: bool
    camera_T_object: np.ndarray
    size_m: tuple[float, float, float]


@dataclass(frozen=True)
class GaugeTruth:
    """What the dial says; needle_fraction is 0 at the minimum and 1 at the maximum."""

    index: int
    value: float
    minimum: float
    maximum: float
    unit: str
    needle_fraction: float


def world_T_object(spec: ObjectSpec) -> np.ndarray:
    """4x4 pose of the object's box frame in the world."""
    c, s = np.cos(spec.yaw_rad), np.sin(spec.yaw_rad)
    pose = np.eye(4)
    pose[:2, :2] = ((c, -s), (s, c))
    pose[:3, 3] = spec.position_m
    return pose


def world_T_dial(gauge: GaugeSpec) -> np.ndarray:
    """4x4 pose of the dial: x to the dial's right, y up along the face, z out of the face."""
    c, s = np.cos(gauge.yaw_rad), np.sin(gauge.yaw_rad)
    ct, st = np.cos(gauge.tilt_rad), np.sin(gauge.tilt_rad)
    pose = np.eye(4)
    pose[:3, 2] = (ct * c, ct * s, st)
    pose[:3, 0] = (-s, c, 0.0)
    pose[:3, 1] = np.cross(pose[:3, 2], pose[:3, 0])
    pose[:3, 3] = gauge.position_m
    return pose


def dial_size_m(gauge: GaugeSpec) -> tuple[float, float, float]:
    """Extents of the dial's box in its own frame."""
    return 2 * gauge.radius_m, 2 * gauge.radius_m, 0.30 * gauge.radius_m


def scene_truths(spec: SceneSpec, meshes: dict[str, Mesh], segmentation: np.ndarray, k: np.ndarray,
                 world_T_camera: np.ndarray) -> tuple[ObjectTruth, ...]:
    """One ObjectTruth an object in the scene's order, the dial last."""
    camera_T_world = np.linalg.inv(world_T_camera)
    boxes, counts = _visible_boxes(segmentation, len(spec.objects) + (spec.gauge is not None))
    truths = []
    for index, thing in enumerate(spec.objects):
        pose = camera_T_world @ world_T_object(thing)
        truths.append(_truth(index, thing.kind, thing.colour, thing.label, meshes[thing.kind], pose, thing.size_m,
                             segmentation.shape, k, boxes[index], counts[index]))
    if spec.gauge is not None:
        index = len(spec.objects)
        pose, size = camera_T_world @ world_T_dial(spec.gauge), dial_size_m(spec.gauge)
        # The case lies behind the face; its box is centred half a depth back.
        pose = pose @ np.block([[np.eye(3), np.array([[0], [0], [-size[2] / 2]])], [np.zeros((1, 3)), np.ones((1, 1))]])
        truths.append(_truth(index, "gauge", spec.gauge.colour, "gauge", meshes["drum"], pose, size,
                             segmentation.shape, k, boxes[index], counts[index]))
    return tuple(truths)


def _truth(index, kind, colour, label, mesh: Mesh, camera_T_object, size_m, shape, k, box, visible) -> ObjectTruth:
    height, width = shape
    points = (mesh.vertices * size_m) @ camera_T_object[:3, :3].T + camera_T_object[:3, 3]
    if points[:, 2].min() <= 1e-3:  # partly behind the camera: no outline can be drawn
        outline, area, inside = (0.0, 0.0, float(width), float(height)), np.inf, False
    else:
        pixels = points[:, :2] / points[:, 2:] * (k[0, 0], k[1, 1]) + (k[0, 2] + 0.5, k[1, 2] + 0.5)
        (x0, y0), (x1, y1) = pixels.min(0), pixels.max(0)
        inside = bool(x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height)
        outline = tuple(float(v) for v in (np.clip(x0, 0, width), np.clip(y0, 0, height),
                                           np.clip(x1, 0, width), np.clip(y1, 0, height)))
        area = _silhouette_px(pixels, mesh.parts)
    return ObjectTruth(index, kind, colour, label, box, outline, float(min(1.0, visible / area)), inside,
                       camera_T_object, tuple(size_m))


def _silhouette_px(pixels: np.ndarray, parts: tuple[np.ndarray, ...]) -> float:
    """Area in pixels of the union of the parts' convex hulls."""
    hulls = [cv2.convexHull(pixels[part].astype(np.float32)) for part in parts]
    if len(hulls) == 1:
        return max(float(cv2.contourArea(hulls[0])), 1e-6)
    low = pixels.min(0)
    span = (pixels.max(0) - low).max()
    scale = min(_OVERSAMPLING, _MAX_RASTER_PX / max(span, 1.0))
    canvas = np.zeros(np.ceil((pixels.max(0) - low) * scale + 2).astype(int)[::-1], np.uint8)
    for hull in hulls:
        # fillConvexPoly paints every pixel the border touches; half a cell inwards undoes that on average.
        cv2.fillConvexPoly(canvas, np.round((hull - low) * scale * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    fat = cv2.countNonZero(canvas)
    contour = max(cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    return max((fat - 0.5 * cv2.arcLength(contour, True)) / scale ** 2, 1e-6)


def _visible_boxes(segmentation: np.ndarray, n: int):
    """Box of the visible pixels and their number, for each of n labels."""
    boxes, counts = [], []
    for index in range(n):
        mask = (segmentation == index).view(np.uint8)
        counts.append(int(cv2.countNonZero(mask)))
        x, y, w, h = cv2.boundingRect(mask)
        boxes.append((float(x), float(y), float(x + w), float(y + h)))
    return boxes, counts
