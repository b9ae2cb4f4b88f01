"""Top-down antipodal grasps for a parallel-jaw gripper, one for each measured object, or the reason why there is none.

`jaws.py` finds the places where fingers and palm fit; here each is measured exactly on the points, tested against the
friction cone and rated. "Down" is against the support plane's normal, else against frame.up_camera, else along the
camera's ray to the object. Conventions, with a drawing, in docs/grasping.md: the gripper's origin is between the
fingertips, +z is the approach (into the table), +y the closing direction, right-handed.
Knows nothing of arms: reachability is the planner's.

Source of the contact test: Nguyen, "Constructing force-closure grasps", IJRR 1988 (two contacts with friction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.perception.cloud import SceneCloud
from qwen3vl_ros.perception.jaws import Failures, Places, find_places, terrain
from qwen3vl_ros.perception.shape import level_axes
from qwen3vl_ros.types import Detection3D, GraspTarget

_YAWS = 12
_JUDGED = 12
_CONTACT_M = 0.004
_PLENTY_POINTS = 40
_MIN_BITE_M = 0.003
_OTHER_CELL_M = 0.0025
_BIN_M = 0.002
_SLOPE_M = 0.007
_JUDGED_POINTS = 2000


@dataclass(frozen=True, eq=False)
class _Site:
    """One object in its local frame (z up): camera_T_local 4x4, points Nx3, measured Nx bool, rest Mx3 of other things.

    floor_m: height of the support, None when there is none. middle_xy_m: of the points; top_m, centre_xy_m, half_m:
    of its box.
    """

    camera_T_local: np.ndarray
    points: np.ndarray
    measured: np.ndarray
    rest: np.ndarray
    floor_m: float | None
    top_m: float
    centre_xy_m: np.ndarray
    half_m: float
    middle_xy_m: np.ndarray
    box_yaw_rad: float


@dataclass(frozen=True)
class _Judged:
    """A place measured exactly; fault is empty when the grasp holds and collides with nothing."""

    yaw_rad: float
    xy_m: tuple[float, float]
    tip_m: float
    width_m: float
    quality: float
    fault: str


def plan_grasps(cloud: SceneCloud, detections: Sequence[Detection3D], gripper: GripperConfig) -> tuple[GraspTarget, ...]:
    """One GraspTarget for each detection with measured points, in the detection's frame; none for the model's guesses.

    Quality is 0.30 antipodality + 0.25 centredness + 0.20 room + 0.25 evidence, each 0..1: how well the contact normals
    lie in the friction cone; how near the jaws are to the object's middle; the room beside the fingers; the share of
    contact points that was measured rather than assumed. An infeasible target has quality 0, the best pose that was
    tried, and a reason.
    """
    measured = [d for d in detections if d.source == "depth" and len(d.points_camera_m)]
    return tuple(_plan(cloud, d, [o for o in measured if o is not d], gripper) for d in measured)


def _plan(cloud: SceneCloud, detection: Detection3D, others: Sequence[Detection3D], gripper: GripperConfig) -> GraspTarget:
    site = _site(cloud, detection, others, gripper)
    height = site.top_m - (site.floor_m if site.floor_m is not None else float(site.points[:, 2].min()))
    deepest = site.top_m - gripper.finger_length + gripper.clearance
    if site.floor_m is not None:
        deepest = max(deepest, site.floor_m + gripper.clearance)
    if site.top_m - deepest < _MIN_BITE_M:
        reason = (f"the object is {height:.3f} m tall: fingertips {gripper.clearance:.3f} m above the support would hold "
                  f"{max(site.top_m - deepest, 0):.3f} m of it, {_MIN_BITE_M:.3f} m are needed")
        return _target(cloud, detection, site, gripper, _across_the_box(site, deepest), reason)
    yaws = site.box_yaw_rad + np.arange(_YAWS) * np.pi / _YAWS
    places, failures = find_places(terrain(site.points, site.rest, site.middle_xy_m, gripper), gripper, site.top_m, deepest, yaws, _JUDGED)
    judged = [_judge(site, places, k, gripper) for k in range(len(places.yaw_rad))]
    good = [j for j in judged if not j.fault]
    if good:
        return _target(cloud, detection, site, gripper, max(good, key=lambda j: j.quality), "")
    if judged:
        return _target(cloud, detection, site, gripper, judged[0], judged[0].fault)
    tried, reason = _no_place(site, failures, gripper, deepest)
    return _target(cloud, detection, site, gripper, tried, reason)


# -- the object and what surrounds it ------------------------------------------------------------------------------

def _site(cloud: SceneCloud, detection: Detection3D, others: Sequence[Detection3D], gripper: GripperConfig) -> _Site:
    camera_T_box = np.linalg.inv(cloud.frame_T_camera) @ detection.frame_T_box
    up, offset = _up_at(cloud, camera_T_box)
    axes = level_axes(up)
    camera_T_local = np.eye(4)
    camera_T_local[:3, :3] = axes.T
    if offset is not None:
        camera_T_local[:3, 3] = -offset * up
    origin = camera_T_local[:3, 3]

    def to_local(points):
        return (points - origin.astype(np.float32)) @ axes.T.astype(np.float32)

    own = to_local(detection.points_camera_m)
    points = np.concatenate((own, to_local(detection.hidden_camera_m)))
    middle = np.array([(points[:, k].min() + points[:, k].max()) / 2 for k in (0, 1)])
    centre = axes @ (camera_T_box[:3, 3] - origin)
    corners = np.abs(axes @ camera_T_box[:3, :3]) @ detection.size_m / 2
    top = float(np.percentile(own[:, 2], 99.5))
    reach = float(np.hypot(*corners[:2])) + gripper.max_width + gripper.finger_thickness
    rest = [to_local(_surroundings(cloud, detection, camera_T_local, centre, reach, top))]
    rest += [to_local(o.hidden_camera_m) for o in others]
    rest = np.concatenate(rest)
    near = np.abs(rest[:, :2] - centre[:2]).max(1) < reach
    if offset is not None:
        near &= rest[:, 2] > gripper.clearance  # lower things are the support or as flat as it
    along = axes @ camera_T_box[:3, 0]
    return _Site(camera_T_local, points, np.arange(len(points)) < len(own), rest[near],
                 None if offset is None else 0.0, top, centre[:2], float(np.hypot(*corners[:2])), middle,
                 math.atan2(along[1], along[0]))


def _up_at(cloud: SceneCloud, camera_T_box: np.ndarray) -> tuple[np.ndarray, float | None]:
    """What is up at this object, and the support plane's offset if it stands on one."""
    for plane in cloud.planes:
        if abs(camera_T_box[:3, 2] @ plane.normal) > 0.9999:
            return plane.normal, plane.offset_m
    if cloud.frame.up_camera is not None:
        return np.asarray(cloud.frame.up_camera, float) / np.linalg.norm(cloud.frame.up_camera), None
    return -camera_T_box[:3, 3] / np.linalg.norm(camera_T_box[:3, 3]), None


def _surroundings(cloud: SceneCloud, detection: Detection3D, camera_T_local, centre, reach, top) -> np.ndarray:
    """Camera-frame points near the object that are not its own, as dense as the height map needs."""
    corners = np.array([(x, y, z) for x in (-reach, reach) for y in (-reach, reach) for z in (0.0, top + 0.1)])
    corners[:, :2] += centre[:2]
    pixels = cloud.project_px(corners @ camera_T_local[:3, :3].T + camera_T_local[:3, 3])
    height, width = cloud.frame.depth_m.shape
    if not np.isfinite(pixels).all():
        low, high = np.zeros(2, int), np.array((width, height))
    else:
        low = np.clip(np.floor(pixels.min(0)), 0, (width, height)).astype(int)
        high = np.clip(np.ceil(pixels.max(0)) + 1, 0, (width, height)).astype(int)
    distance = float(np.median(detection.points_camera_m[:, 2]))
    step = max(1, int(_OTHER_CELL_M * cloud.frame.K[0, 0] / distance))
    grid = slice(low[1], high[1], step), slice(low[0], high[0], step)
    own = np.zeros((height, width), np.uint8)
    column, row = np.rint(cloud.project_px(detection.points_camera_m)).astype(int).T
    own[row, column] = 1
    window = own[low[1]: high[1], low[0]: high[0]]
    if window.size:
        # Thinned points leave holes, and the pixels at its outline may show either side.
        filled = cv2.morphologyEx(window, cv2.MORPH_CLOSE, np.ones((5, 11), np.uint8), borderType=cv2.BORDER_CONSTANT)
        own[low[1]: high[1], low[0]: high[0]] = cv2.dilate(filled, np.ones((3, 3), np.uint8))
    free = cloud.valid[grid] & (own[grid] == 0)
    return cloud.window_points_m(*grid)[free]


# -- judging a place -----------------------------------------------------------------------------------------------

def _judge(site: _Site, places: Places, k: int, gripper: GripperConfig) -> _Judged:
    yaw, across, along, tip = (float(v[k]) for v in (places.yaw_rad, places.across_m, places.along_m, places.tip_m))
    closing, sideways = np.array((math.cos(yaw), math.sin(yaw))), np.array((-math.sin(yaw), math.cos(yaw)))
    middle = site.middle_xy_m
    x, y = (site.points[:, :2] - (middle + across * sideways + along * closing)).T
    x, y = x * sideways[0] + y * sideways[1], x * closing[0] + y * closing[1]
    z = site.points[:, 2]
    slack = float(places.width_m[k]) / 2 + 0.004
    held = (np.abs(x) < gripper.finger_width / 2) & (z > tip) & (np.abs(y) < slack)
    if np.count_nonzero(held) < 10:
        return _Judged(yaw, tuple(middle + across * sideways + along * closing), tip, float(places.width_m[k]), 0.0,
                       f"only {np.count_nonzero(held)} points between the fingers, 10 are needed")
    low, high = (float(v) for v in np.percentile(y[held], (0.5, 99.5)))
    width, shift = high - low, (low + high) / 2
    xy = tuple(float(v) for v in middle + across * sideways + (along + shift) * closing)
    x, y, z, seen = x[held], y[held], z[held], site.measured[held]
    angles, real = [], []
    for outward, face in ((-1, -low), (1, high)):
        contact = np.abs(outward * y - face) < min(_CONTACT_M, 0.35 * width)
        angles.append(_contact_tilt(x[contact], outward * y[contact], z[contact]))
        real.append(min(1.0, float((contact & seen).sum()) / _PLENTY_POINTS))
    cone = math.atan(gripper.friction)
    fault = ""
    if width + 2 * gripper.clearance > gripper.max_width:
        fault = _too_wide(width, gripper)
    elif max(angles) > cone:
        fault = (f"the contact normal is {math.degrees(max(angles)):.0f} degrees off the closing axis, friction "
                 f"{gripper.friction:g} holds up to {math.degrees(cone):.0f}")
    else:
        fault = _collision(site, np.array(xy), closing, sideways, tip, width, gripper)
    antipodal = 1.0 - max(angles) / cone
    offset = float(np.linalg.norm(np.array(xy) - site.centre_xy_m))
    centred = max(0.0, 1.0 - offset / site.half_m)
    evidence = (max(real) + min(real)) / 2
    quality = 0.30 * max(antipodal, 0.0) + 0.25 * centred + 0.20 * float(places.room[k]) + 0.25 * evidence
    return _Judged(yaw, xy, tip, width, quality, fault)


def _contact_tilt(x, y, z) -> float:
    """Angle between the closing axis (y, outward) and the surface normal where a flat finger first touches the points.

    Across, the slopes on both sides of the touching place count alike, so that an edge is no flat side; along the
    approach a smooth surface touches squarely, unless the touching place is where the finger or the object ends.
    """
    if len(x) < 4:
        return math.pi / 2
    sideways = _slopes(*_outline(x, y))
    upright = _slopes(*_outline(z, y))
    level = np.mean(np.abs(sideways)) if len(sideways) else 0.0
    steep = abs(upright[0]) if len(upright) == 1 else 0.0
    return math.atan(math.hypot(level, steep))


def _outline(t, y) -> tuple[np.ndarray, np.ndarray]:
    """The outermost y in bins of t: bin middles and values."""
    bins = ((t - t.min()) / _BIN_M).astype(int)
    outer = np.full(bins.max() + 1, -np.inf)
    np.maximum.at(outer, bins, y)
    filled = np.isfinite(outer)
    return np.flatnonzero(filled) * _BIN_M, outer[filled]


def _slopes(t, y) -> list[float]:
    """Mean slopes dy/dt from the outermost place to the left and to the right, over 6 mm each; [] if there is no side."""
    k = int(y.argmax())
    sides = []
    for near in ((t < t[k]) & (t > t[k] - _SLOPE_M), (t > t[k]) & (t < t[k] + _SLOPE_M)):
        if near.any():
            sides.append(float(((y[k] - y[near]) / np.abs(t[k] - t[near])).mean()))
    return sides


def _collision(site: _Site, xy, closing, sideways, tip, width, gripper) -> str:
    """What the open gripper would touch, empty if nothing: fingers and palm against the rest and the object itself."""
    inner = width / 2 + gripper.clearance
    for name, points in (("the object", site.points), ("something beside it", site.rest)):
        dx, dy = points[:, 0] - xy[0], points[:, 1] - xy[1]
        x, y = np.abs(dx * sideways[0] + dy * sideways[1]), np.abs(dx * closing[0] + dy * closing[1])
        spare = 0.0 if name == "the object" else gripper.clearance
        in_finger = (y > inner) & (y < inner + gripper.finger_thickness + spare) & \
            (x < gripper.finger_width / 2 + spare) & (points[:, 2] > tip - spare)
        if np.count_nonzero(in_finger) > 2:
            return f"a finger would touch {name}: {np.count_nonzero(in_finger)} points reach into it"
        palm = tip + gripper.finger_length
        under = (y < gripper.max_width / 2 + gripper.finger_thickness) & (x < gripper.palm_width / 2) & (points[:, 2] > palm)
        if np.count_nonzero(under) > 2:
            return (f"the palm would touch {name}, which reaches {float(points[under, 2].max()):.3f} m; the palm is at "
                    f"{palm:.3f} m")
    return ""


# -- the answer ----------------------------------------------------------------------------------------------------

def _too_wide(width_m: float, gripper: GripperConfig) -> str:
    return (f"width {width_m:.3f} m and {gripper.clearance:.3f} m clearance on each side exceed the gripper's "
            f"{gripper.max_width:.3f} m")


def _across_the_box(site: _Site, tip: float) -> _Judged:
    """The pose tried first: jaws across the middle of the box's narrower side."""
    closing = site.box_yaw_rad + np.array((0.0, np.pi / 2))
    spans = [float(np.ptp(site.points[:, :2] @ (math.cos(a), math.sin(a)))) for a in closing]
    k = int(np.argmin(spans))
    return _Judged(float(closing[k]), tuple(site.centre_xy_m), tip, spans[k], 0.0, "")


def _no_place(site: _Site, failures: Failures, gripper: GripperConfig, tip: float) -> tuple[_Judged, str]:
    tried = _judged_from(site, failures.narrowest) if failures.narrowest else _across_the_box(site, tip)
    if not failures.palm + failures.no_room:
        return tried, _too_wide(tried.width_m, gripper)
    if failures.palm > failures.no_room:
        return tried, (f"the palm would touch something higher than {tried.tip_m + gripper.finger_length:.3f} m above the "
                       f"support at each of {failures.palm} places where the fingers fit")
    needed = gripper.finger_thickness + gripper.clearance
    reason = f"no {needed:.3f} m of free space for the fingers beside it at any of {failures.no_room} places"
    if failures.too_wide:
        reason += f"; {failures.too_wide} others are wider than the gripper's {gripper.max_width:.3f} m"
    return tried, reason


def _judged_from(site: _Site, row: tuple[float, ...]) -> _Judged:
    width, yaw, across, along, tip = row
    xy = site.middle_xy_m + across * np.array((-math.sin(yaw), math.cos(yaw))) \
        + along * np.array((math.cos(yaw), math.sin(yaw)))
    return _Judged(yaw, tuple(xy), tip, width, 0.0, "")


def _target(cloud: SceneCloud, detection: Detection3D, site: _Site, gripper: GripperConfig, grasp: _Judged,
            reason: str) -> GraspTarget:
    closing = np.array((math.cos(grasp.yaw_rad), math.sin(grasp.yaw_rad), 0.0))
    down = np.array((0.0, 0.0, -1.0))
    if (site.camera_T_local[:3, :3] @ closing)[0] < 0:  # either sign closes the same jaws: take the camera's right
        closing = -closing
    local_T_gripper = np.eye(4)
    local_T_gripper[:3, :3] = np.stack((np.cross(closing, down), closing, down), 1)
    local_T_gripper[:3, 3] = (*grasp.xy_m, grasp.tip_m)
    frame_T_gripper = cloud.frame_T_camera @ site.camera_T_local @ local_T_gripper
    return GraspTarget(detection.id, detection.label, detection.frame_id, frame_T_gripper, grasp.width_m,
                       gripper.standoff, 0.0 if reason else min(1.0, grasp.quality), not reason, reason)
