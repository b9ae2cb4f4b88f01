"""Ground truth of a rendered scene: boxes, visibility and poses, from geometry and the segmentation picture.

Knows nothing of OpenGL or ROS. Boxes are xyxy in pixel EDGES (pixel i covers i..i+1, so maxima are exclusive);
K follows the ROS and OpenCV convention in which whole numbers are pixel CENTRES: an edge is a centre + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from qwen3vl_ros.sim.shapes import Mesh
from qwen3vl_ros.sim.specs import GaugeSpec, ObjectSpec, SceneSpec

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


def footprint_m(mesh: Mesh, world_T_thing: np.ndarray, size_m) -> np.ndarray:
    """Convex outline, Nx2 in the world, of what of a thing is within 1.5 cm of the table."""
    points = _place(mesh, world_T_thing, size_m)
    return cv2.convexHull(points[points[:, 2] < 0.015, :2].astype(np.float32))[:, 0]


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


def world_T_case(gauge: GaugeSpec) -> np.ndarray:
    """4x4 pose of the dial's box: as the dial, but centred in the case behind the face."""
    pose = world_T_dial(gauge)
    pose[:3, 3] -= pose[:3, 2] * dial_size_m(gauge)[2] / 2
    return pose


def world_T_foot(gauge: GaugeSpec) -> np.ndarray:
    """4x4 pose of the block that carries the dial, x along the view of the dial, z up."""
    c, s = np.cos(gauge.yaw_rad), np.sin(gauge.yaw_rad)
    pose, case = np.eye(4), world_T_case(gauge)
    lowest = case[:3, 3] - gauge.radius_m * case[:3, 1]
    pose[:2, :2] = ((c, -s), (s, c))
    pose[:3, 3] = (lowest[0], lowest[1], foot_size_m(gauge)[2] / 2)
    return pose


def foot_size_m(gauge: GaugeSpec) -> tuple[float, float, float]:
    """Extents of the foot in its own frame."""
    return 0.55 * gauge.radius_m, 1.0 * gauge.radius_m, 0.018


def dial_size_m(gauge: GaugeSpec) -> tuple[float, float, float]:
    """Extents of the dial's box in its own frame."""
    return 2 * gauge.radius_m, 2 * gauge.radius_m, 0.30 * gauge.radius_m


def face_side_m(gauge: GaugeSpec) -> float:
    """Side of the square picture on the dial, which leaves a rim."""
    return 1.78 * gauge.radius_m


def scene_truths(
    spec: SceneSpec, meshes: dict[str, Mesh], segmentation: np.ndarray, k: np.ndarray, world_T_camera: np.ndarray
) -> tuple[ObjectTruth, ...]:
    """One ObjectTruth an object in the scene's order, the dial last."""
    camera_T_world = np.linalg.inv(world_T_camera)
    boxes, counts = _visible_boxes(segmentation, len(spec.objects) + (spec.gauge is not None))
    truths = []
    for index, thing in enumerate(spec.objects):
        pose, mesh = camera_T_world @ world_T_object(thing), meshes[thing.mesh]
        points = _place(mesh, pose, thing.size_m)
        truths.append(
            _truth(
                index,
                thing.kind,
                thing.colour,
                thing.label,
                pose,
                thing.size_m,
                [points[part] for part in mesh.parts],
                segmentation.shape,
                k,
                boxes[index],
                counts[index],
            )
        )
    if spec.gauge is not None:
        index, gauge = len(spec.objects), spec.gauge
        pose, size = camera_T_world @ world_T_case(gauge), dial_size_m(gauge)
        pieces = [
            _place(meshes["drum"], pose, size),
            _place(meshes["cube"], camera_T_world @ world_T_foot(gauge), foot_size_m(gauge)),
        ]
        truths.append(
            _truth(
                index,
                "gauge",
                gauge.colour,
                "gauge",
                pose,
                size,
                pieces,
                segmentation.shape,
                k,
                boxes[index],
                counts[index],
            )
        )
    return tuple(truths)


def _place(mesh: Mesh, camera_T_object: np.ndarray, size_m) -> np.ndarray:
    return (mesh.vertices * size_m) @ camera_T_object[:3, :3].T + camera_T_object[:3, 3]


def _truth(
    index, kind, colour, label, camera_T_object, size_m, pieces: list[np.ndarray], shape, k, box, visible
) -> ObjectTruth:
    height, width = shape
    if min(piece[:, 2].min() for piece in pieces) <= 1e-3:  # partly behind the camera: no outline can be drawn
        outline, area, inside = (0.0, 0.0, float(width), float(height)), np.inf, False
    else:
        focal, centre = (k[0, 0], k[1, 1]), (k[0, 2] + 0.5, k[1, 2] + 0.5)
        pixels = [piece[:, :2] / piece[:, 2:] * focal + centre for piece in pieces]
        low = np.min([piece.min(0) for piece in pixels], axis=0)
        high = np.max([piece.max(0) for piece in pixels], axis=0)
        inside = bool((low >= 0).all() and (high <= (width, height)).all())
        outline = tuple(float(v) for v in np.clip((*low, *high), 0, (width, height, width, height)))
        area = _silhouette_px(pixels, low, high)
    return ObjectTruth(
        index,
        kind,
        colour,
        label,
        box,
        outline,
        float(min(1.0, visible / area)),
        inside,
        camera_T_object,
        tuple(size_m),
    )


def _silhouette_px(pieces: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> float:
    """Area in pixels of the union of the pieces' convex hulls (Nx2 pixels each, all within low..high)."""
    hulls = [cv2.convexHull(piece.astype(np.float32)) for piece in pieces]
    if len(hulls) == 1:
        return max(float(cv2.contourArea(hulls[0])), 1e-6)
    scale = min(_OVERSAMPLING, _MAX_RASTER_PX / max((high - low).max(), 1.0))
    canvas = np.zeros(np.ceil((high - low) * scale + 2).astype(int)[::-1], np.uint8)
    for hull in hulls:
        # fillConvexPoly paints every pixel the border touches; half a cell inwards undoes that on average.
        cv2.fillConvexPoly(canvas, np.round((hull - low) * scale * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    fat = cv2.countNonZero(canvas)
    contour = max(cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    return max((fat - 0.5 * cv2.arcLength(contour, True)) / scale**2, 1e-6)


def _visible_boxes(segmentation: np.ndarray, n: int):
    """Box of the visible pixels and their number, for each of n labels."""
    boxes, counts = [], []
    for index in range(n):
        mask = (segmentation == index).view(np.uint8)
        counts.append(int(cv2.countNonZero(mask)))
        x, y, w, h = cv2.boundingRect(mask)
        boxes.append((float(x), float(y), float(x + w), float(y + h)))
    return boxes, counts
