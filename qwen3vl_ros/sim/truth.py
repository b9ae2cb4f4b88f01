"""Ground truth of a rendered scene: boxes, visibility and poses, from geometry and the segmentation picture.

Knows nothing of OpenGL or ROS. Boxes are xyxy in pixel EDGES (pixel i covers i..i+1, so maxima are exclusive);
K follows the ROS and OpenCV convention in which whole numbers are pixel CENTRES: an edge is a centre + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from qwen3vl_ros.sim.furniture import (
    box_corners,
    level_space,
    shelf_parts,
    sign_corners_m,
    sign_parts,
    world_T_shelf,
)
from qwen3vl_ros.sim.shapes import Mesh
from qwen3vl_ros.sim.specs import GaugeSpec, ObjectSpec, SceneSpec, ShelfSpec
from qwen3vl_ros.sim.textures import MARK_REACH, NEEDLE_REACH, needle_angle_rad

_OVERSAMPLING = 4
_MAX_RASTER_PX = 4096


@dataclass(frozen=True)
class ObjectTruth:
    """What is true of one object in one picture.

    box_xyxy_px: around the visible pixels (all zero when none is). amodal_box_xyxy_px: around the whole
    outline, cut at the picture's border. visibility: visible pixels over the pixels of the whole outline,
    including what lies outside the picture. camera_T_object: 4x4, optical frame from object frame (origin in
    the centre of its box, z up). size_m: extents in the object's frame. on, level: what it stands on, as of ObjectSpec.
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
    on: int | None = None
    level: int = 0


@dataclass(frozen=True)
class LevelTruth:
    """A level of the shelf, counted from 1 below: its free space in the picture, cut at the border, and in 3D.

    box_xyxy_px: around the outline of the space above its board. camera_T_space, size_m: that space, x out of the front.
    """

    level: int
    box_xyxy_px: tuple[float, float, float, float]
    fully_in_view: bool
    camera_T_space: np.ndarray
    size_m: tuple[float, float, float]


@dataclass(frozen=True)
class SignTruth:
    """What the sign says; corners_px: 4x2, of its face, from the upper left as one reads it, clockwise."""

    index: int
    text: str
    corners_px: np.ndarray


@dataclass(frozen=True)
class GaugeTruth:
    """What the dial says; needle_fraction is 0 at the minimum and 1 at the maximum.

    zone: colour of the zone the needle is in, "" for none. points_px: where centre, tip, first and last mark of the
    scale are in the picture, pixel edges.
    """

    index: int
    value: float
    minimum: float
    maximum: float
    unit: str
    needle_fraction: float
    zone: str = ""
    points_px: dict[str, tuple[float, float]] = field(default_factory=dict)


def world_T_object(spec: ObjectSpec) -> np.ndarray:
    """4x4 pose of the object's box frame in the world."""
    return spec.pose()


def footprint_m(mesh: Mesh, world_T_thing: np.ndarray, size_m) -> np.ndarray:
    """Convex outline, Nx2 in the world, of what of a thing is within 1.5 cm of the table."""
    points = _place(mesh, world_T_thing, size_m)
    return hull_on_table_m(points)


def hull_on_table_m(points_m: np.ndarray) -> np.ndarray:
    """Convex outline, Nx2, of those of Nx3 points in the world that are within 1.5 cm of the table; empty for none."""
    low = points_m[points_m[:, 2] < 0.015, :2].astype(np.float32)
    return cv2.convexHull(low)[:, 0] if len(low) else low


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
    """One ObjectTruth an object in the scene's order, then the dial, the shelf and the sign."""
    camera_T_world = np.linalg.inv(world_T_camera)
    boxes, counts = _visible_boxes(segmentation, spec.sign_index + (spec.sign is not None))
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
                thing.on,
                thing.level,
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
    for index, kind, colour, pose, size, parts in _furniture(spec):
        pieces = [box_corners(part) @ camera_T_world[:3, :3].T + camera_T_world[:3, 3] for part in parts]
        pose = camera_T_world @ pose
        truths.append(
            _truth(index, kind, colour, kind, pose, size, pieces, segmentation.shape, k, boxes[index], counts[index])
        )
    return tuple(truths)


def _furniture(spec: SceneSpec):
    """(index, kind, colour, world pose of its box, extents, parts) of the shelf and the sign."""
    if (shelf := spec.shelf) is not None:
        pose = world_T_shelf(shelf)
        pose[2, 3] = shelf.height_m / 2
        yield spec.shelf_index, "shelf", "", pose, (*shelf.size_m[::-1], shelf.height_m), shelf_parts(shelf)
    if (sign := spec.sign) is not None:
        parts = sign_parts(sign)
        yield spec.sign_index, "sign", sign.colour, parts[0][0], parts[0][1], parts


def shelf_truths(
    shelf: ShelfSpec, k: np.ndarray, world_T_camera: np.ndarray, shape: tuple[int, int]
) -> tuple[LevelTruth, ...]:
    """The levels of the shelf, from below. shape: height, width of the picture."""
    camera_T_world = np.linalg.inv(world_T_camera)
    levels = []
    for level in range(1, shelf.levels + 1):
        pose, size = level_space(shelf, level)
        points = project(box_corners((pose, size)), k, world_T_camera)
        low, high = points.min(0), points.max(0)
        inside = bool((low >= 0).all() and (high <= shape[::-1]).all())
        box = np.clip((*low, *high), 0, (*shape[::-1], *shape[::-1]))
        levels.append(LevelTruth(level, tuple(float(v) for v in box), inside, camera_T_world @ pose, size))
    return tuple(levels)


def sign_truth(spec: SceneSpec, k: np.ndarray, world_T_camera: np.ndarray) -> SignTruth:
    return SignTruth(spec.sign_index, spec.sign.text, project(sign_corners_m(spec.sign), k, world_T_camera))


def gauge_truth(spec: SceneSpec, k: np.ndarray, world_T_camera: np.ndarray) -> GaugeTruth:
    g, face = spec.gauge, world_T_dial(spec.gauge)
    places = dict(centre=(0.0, 0.0)) | {
        name: (reach * np.cos(angle), reach * np.sin(angle))
        for name, reach, angle in (
            ("tip", NEEDLE_REACH, needle_angle_rad(g.needle_fraction)),
            ("first", MARK_REACH, needle_angle_rad(0.0)),
            ("last", MARK_REACH, needle_angle_rad(1.0)),
        )
    }
    half = face_side_m(g) / 2
    world = np.array([(x * half, y * half, 0.0) for x, y in places.values()]) @ face[:3, :3].T + face[:3, 3]
    points = {n: (float(u), float(v)) for n, (u, v) in zip(places, project(world, k, world_T_camera))}
    return GaugeTruth(len(spec.objects), g.value, g.minimum, g.maximum, g.unit, g.needle_fraction, g.zone, points)


def project(points_m: np.ndarray, k: np.ndarray, world_T_camera: np.ndarray) -> np.ndarray:
    """Nx2 pixel edges of Nx3 points in the world; what is behind the camera is pulled to just before it."""
    local = (points_m - world_T_camera[:3, 3]) @ world_T_camera[:3, :3]
    return local[:, :2] / np.maximum(local[:, 2:], 1e-3) * (k[0, 0], k[1, 1]) + (k[0, 2] + 0.5, k[1, 2] + 0.5)


def _place(mesh: Mesh, camera_T_object: np.ndarray, size_m) -> np.ndarray:
    return (mesh.vertices * size_m) @ camera_T_object[:3, :3].T + camera_T_object[:3, 3]


def _truth(
    index,
    kind,
    colour,
    label,
    camera_T_object,
    size_m,
    pieces: list[np.ndarray],
    shape,
    k,
    box,
    visible,
    on=None,
    level=0,
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
        on,
        level,
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
