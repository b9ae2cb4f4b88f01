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
from dataclasses import dataclass, replace
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
_MIN_BITE_M = 0.003
_MIN_HOLD = 0.25  # of the finger's width
_OTHER_CELL_M = 0.0025
_BIN_M = 0.002
_SLOPE_M = 0.007
_MAX_POINTS = 2500


@dataclass(frozen=True, eq=False)
class _Site:
    """One object in a local frame whose z is against the approach: camera_T_local 4x4, points Nx3 (float32).

    measured: N bool, False for the assumed unseen side. rest: Mx3 of other things. floor: (a, b, c), the support's height
    at x, y is a x + b y + c, None when there is no support. top_m: highest point. middle_xy_m: middle of the points;
    centre_xy_m, half_m: of the box's footprint. box_yaw_rad: direction of the box's x axis.
    """

    camera_T_local: np.ndarray
    points: np.ndarray
    measured: np.ndarray
    rest: np.ndarray
    floor: tuple[float, float, float] | None
    top_m: float
    middle_xy_m: np.ndarray
    centre_m: np.ndarray
    half_m: float
    box_yaw_rad: float
    tilt_rad: float = 0.0


@dataclass(frozen=True, eq=False)
class _Judged:
    """A place measured exactly; fault is empty when the grasp holds and collides with nothing."""

    site: _Site
    yaw_rad: float
    xy_m: np.ndarray
    tip_m: float
    width_m: float
    quality: float = 0.0
    fault: str = ""


def plan_grasps(cloud: SceneCloud, detections: Sequence[Detection3D], gripper: GripperConfig) -> tuple[GraspTarget, ...]:
    """One GraspTarget for each detection with measured points, in the detection's frame; none for the model's guesses.

    The approach is straight down; where fingers or palm find no room that way it leans by gripper.max_tilt_deg. Quality
    is 0.30 antipodality + 0.25 centredness + 0.15 room + 0.30 evidence, each 0..1 and described at `_judge`, times the
    cosine of the tilt. An infeasible target has quality 0, the best pose that was tried, and a reason.
    """
    measured = [d for d in detections if d.source == "depth" and len(d.points_camera_m)]
    return tuple(_plan(cloud, d, [o for o in measured if o is not d], gripper) for d in measured)


def _plan(cloud: SceneCloud, detection: Detection3D, others: Sequence[Detection3D], gripper: GripperConfig) -> GraspTarget:
    upright = _site(cloud, detection, others, gripper)
    best, crowded = _best_on(cloud, upright, gripper)
    if best.fault and crowded and gripper.max_tilt_deg > 0:
        for direction in upright.box_yaw_rad + np.arange(4) * np.pi / 2:
            leaning, _ = _best_on(cloud, _leaning(upright, direction, math.radians(gripper.max_tilt_deg)), gripper)
            if not leaning.fault and leaning.quality > best.quality:
                best = leaning
    return _target(cloud, detection, gripper, best)


def _best_on(cloud: SceneCloud, site: _Site, gripper: GripperConfig) -> tuple[_Judged, bool]:
    """The best grasp along the site's approach, or the best failure; and whether lack of room was what failed."""
    lowest = float(site.points[:, 2].max()) - gripper.finger_length + gripper.clearance
    if site.floor is not None:
        support = site.floor[0] * site.middle_xy_m[0] + site.floor[1] * site.middle_xy_m[1] + site.floor[2]
        lowest = max(lowest, support + gripper.clearance)
    bite = site.top_m - lowest
    if bite < _MIN_BITE_M:
        fault = (f"too flat: fingertips {gripper.clearance:.3f} m above the support would hold {max(bite, 0.0):.3f} m of "
                 f"its {max(bite, 0.0) + gripper.clearance:.3f} m, {_MIN_BITE_M:.3f} m are needed")
        return _across_the_box(site, lowest, fault), False
    yaws = site.box_yaw_rad + np.arange(_YAWS) * np.pi / _YAWS
    ground = terrain(site.points, site.rest, site.middle_xy_m, site.floor, gripper)
    places, failures = find_places(ground, gripper, site.top_m, lowest, yaws, _JUDGED)
    judged = [_judge(cloud, site, places, k, gripper) for k in range(len(places.yaw_rad))]
    good = [j for j in judged if not j.fault]
    if good:
        return max(good, key=lambda j: j.quality), False
    if judged:
        obvious = _across_the_box(site, lowest, "")
        fault = judged[0].fault
        if obvious.width_m + 2 * gripper.clearance > gripper.max_width:
            fault = f"{_too_wide(obvious.width_m, gripper)}; where it is narrower, {fault}"
        return replace(judged[0], fault=fault), any("would touch" in j.fault for j in judged)
    return _no_place(site, failures, gripper, lowest), failures.no_room + failures.palm > 0


# -- the object and what surrounds it ------------------------------------------------------------------------------

def _site(cloud: SceneCloud, detection: Detection3D, others: Sequence[Detection3D], gripper: GripperConfig) -> _Site:
    camera_T_box = np.linalg.inv(cloud.frame_T_camera) @ detection.frame_T_box
    up, offset = _up_at(cloud, camera_T_box)
    axes = level_axes(up)
    stride = max(1, math.ceil(len(detection.points_camera_m) / _MAX_POINTS))
    own = detection.points_camera_m[::stride]
    # Heights count from the support, or from the object's lowest point.
    offset_m = offset if offset is not None else -float((own @ up.astype(np.float32)).min())
    camera_T_local = np.eye(4)
    camera_T_local[:3, :3], camera_T_local[:3, 3] = axes.T, -offset_m * up
    turn, shift = axes.T.astype(np.float32), np.array((0, 0, offset_m), np.float32)
    points = np.concatenate((own, detection.hidden_camera_m)) @ turn + shift
    middle = np.array([(points[:, k].min() + points[:, k].max()) / 2 for k in (0, 1)], float)
    centre = axes @ camera_T_box[:3, 3] + shift
    corners = np.abs(axes @ camera_T_box[:3, :3]) @ detection.size_m / 2
    half = float(np.hypot(*corners[:2]))
    top = _top_of(points[: len(own)])
    reach = half + gripper.max_width + gripper.finger_thickness
    rest = [_surroundings(cloud, detection, camera_T_local, centre, reach, top)]
    rest += [o.hidden_camera_m for o in others]
    rest = np.concatenate(rest) @ turn + shift
    near = (np.abs(rest[:, 0] - centre[0]) < reach) & (np.abs(rest[:, 1] - centre[1]) < reach)
    near &= rest[:, 2] > (gripper.clearance if offset is not None else 0.0)  # lower is the support or as flat as it
    along = axes @ camera_T_box[:3, 0]
    return _Site(camera_T_local, points, np.arange(len(points)) < len(own), rest[near],
                 None if offset is None else (0.0, 0.0, 0.0), top, middle, centre, half, math.atan2(along[1], along[0]))


def _top_of(points: np.ndarray) -> float:
    heights = np.sort(points[:, 2])
    return float(heights[-1 - len(heights) // 200])


def _leaning(site: _Site, direction_rad: float, tilt_rad: float) -> _Site:
    """The site seen along an approach that leans by tilt_rad towards direction_rad, turned about the object's centre."""
    axis = np.array((-math.sin(direction_rad), math.cos(direction_rad), 0.0))
    turn = cv2.Rodrigues(axis * tilt_rad)[0]  # new_R_old
    shift = site.centre_m - turn @ site.centre_m
    points, rest = ((p @ turn.T + shift).astype(np.float32) for p in (site.points, site.rest))
    old_T_new = np.eye(4)
    old_T_new[:3, :3], old_T_new[:3, 3] = turn.T, -turn.T @ shift
    floor = None
    if site.floor is not None:  # the old z = 0 in the new frame: n . (p - shift) = 0 with n the turned z axis
        normal = turn[:, 2]
        floor = (-normal[0] / normal[2], -normal[1] / normal[2], float(normal @ shift) / normal[2])
    middle = np.array([(points[:, k].min() + points[:, k].max()) / 2 for k in (0, 1)], float)
    return replace(site, camera_T_local=site.camera_T_local @ old_T_new, points=points, rest=rest, floor=floor,
                   top_m=_top_of(points[site.measured]), middle_xy_m=middle, tilt_rad=tilt_rad)


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
    low, high = np.zeros(2, int), np.array((width, height))
    if np.isfinite(pixels).all():
        low = np.clip(np.floor(pixels.min(0)), 0, high).astype(int)
        high = np.clip(np.ceil(pixels.max(0)) + 1, 0, high).astype(int)
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
    return cloud.window_points_m(*grid)[cloud.valid[grid] & (own[grid] == 0)]


# -- judging a place -----------------------------------------------------------------------------------------------

def _judge(cloud: SceneCloud, site: _Site, places: Places, k: int, gripper: GripperConfig) -> _Judged:
    """Measure place k on the points, test it, rate it.

    antipodality: 1 where both contact normals lie on the closing axis, 0 at the border of the friction cone.
    centredness: 1 in the middle of the object's box, 0 at its corner. room: see Places. evidence: half the share of
    contacts that was measured, not assumed, and half the share of the fingers' space that the camera saw empty.
    """
    yaw, across, along, tip, rough = (float(v[k]) for v in (places.yaw_rad, places.across_m, places.along_m,
                                                            places.tip_m, places.width_m))
    closing, sideways = np.array((math.cos(yaw), math.sin(yaw))), np.array((-math.sin(yaw), math.cos(yaw)))
    xy = site.middle_xy_m + across * sideways + along * closing
    x, y = _jaw_axes(site.points, xy, closing)
    held = (np.abs(x) < gripper.finger_width / 2) & (site.points[:, 2] > tip) & (np.abs(y) < rough / 2 + _CONTACT_M)
    if np.count_nonzero(held) < 10:
        return _Judged(site, yaw, xy, tip, rough,
                       fault=f"only {np.count_nonzero(held)} points between the fingers, 10 are needed")
    x, y, z, seen = x[held], y[held], site.points[held, 2], site.measured[held]
    ordered = np.sort(y)
    low, high = float(ordered[len(y) // 200]), float(ordered[-1 - len(y) // 200])
    width, xy = high - low, xy + (low + high) / 2 * closing
    if width + 2 * gripper.clearance > gripper.max_width:
        return _Judged(site, yaw, xy, tip, width, fault=_too_wide(width, gripper))
    touched = _collision(site, xy, closing, tip, width, gripper)
    if touched:
        return _Judged(site, yaw, xy, tip, width, fault=touched)
    angles, real, spans = [], [], []
    for outward, face in ((-1, -low), (1, high)):
        contact = outward * y >= face - min(_CONTACT_M, 0.35 * width)
        spans.append(float(np.ptp(x[contact])))
        angles.append(_contact_tilt(x[contact], outward * y[contact], z[contact]))
        real.append(float(np.count_nonzero(seen[contact])) / np.count_nonzero(contact))
    cone = math.atan(gripper.friction)
    if min(spans) < _MIN_HOLD * gripper.finger_width:
        return _Judged(site, yaw, xy, tip, width, fault=(
            f"a finger would hold {min(spans):.3f} m of an edge, {_MIN_HOLD * gripper.finger_width:.3f} m are needed"))
    if max(angles) > cone:
        return _Judged(site, yaw, xy, tip, width, fault=(
            f"the contact normal is {math.degrees(max(angles)):.0f} degrees off the closing axis, friction "
            f"{gripper.friction:g} holds up to {math.degrees(cone):.0f}"))
    centred = max(0.0, 1.0 - float(np.linalg.norm(xy - site.centre_m[:2])) / site.half_m)
    evidence = 0.5 * np.mean(real) + 0.5 * _seen_empty(cloud, site, xy, closing, tip, width, gripper)
    quality = 0.30 * (1.0 - max(angles) / cone) + 0.25 * centred + 0.15 * float(places.room[k]) + 0.30 * float(evidence)
    return _Judged(site, yaw, xy, tip, width, quality * math.cos(site.tilt_rad))


def _jaw_axes(points: np.ndarray, xy: np.ndarray, closing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of local points across and along the closing direction, from the jaws' middle."""
    dx, dy = points[:, 0] - np.float32(xy[0]), points[:, 1] - np.float32(xy[1])
    c, s = np.float32(closing[0]), np.float32(closing[1])
    return dy * c - dx * s, dx * c + dy * s


def _seen_empty(cloud: SceneCloud, site: _Site, xy, closing, tip, width, gripper) -> float:
    """Share of the open fingers' space, sampled, that the camera saw to be empty."""
    along = width / 2 + gripper.clearance + gripper.finger_thickness / 2
    local = np.array([(*(xy + side * along * closing + across * np.array((-closing[1], closing[0]))), tip + height)
                      for side in (-1, 1) for across in (-gripper.finger_width / 3, gripper.finger_width / 3)
                      for height in np.array((0.05, 0.35, 0.65)) * gripper.finger_length])
    behind = cloud.look_behind(local @ site.camera_T_local[:3, :3].T + site.camera_T_local[:3, 3])
    return float((behind > 0).mean())


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


def _collision(site: _Site, xy, closing, tip, width, gripper) -> str:
    """What the open gripper would touch, empty if nothing: fingers and palm against the rest and the object itself."""
    inner = width / 2 + gripper.clearance
    palm = tip + gripper.finger_length
    for name, points, spare in (("the object itself", site.points, 0.0),
                                ("something beside it", site.rest, gripper.clearance)):
        x, y = (np.abs(v) for v in _jaw_axes(points, xy, closing))
        z = points[:, 2]
        in_finger = (y > inner) & (y < inner + gripper.finger_thickness + spare) & \
            (x < gripper.finger_width / 2 + spare) & (z > tip - spare)
        if np.count_nonzero(in_finger) > 2:
            return f"a finger would touch {name}: {np.count_nonzero(in_finger)} points reach into it"
        in_palm = (z > palm) & (y < gripper.max_width / 2 + gripper.finger_thickness) & (x < gripper.palm_width / 2)
        if np.count_nonzero(in_palm) > 2:
            return f"the palm would touch {name}, {float(z[in_palm].max()) - palm:.3f} m higher than the palm may be"
    return ""


# -- the answer ----------------------------------------------------------------------------------------------------

def _too_wide(width_m: float, gripper: GripperConfig) -> str:
    return (f"width {width_m:.3f} m with {gripper.clearance:.3f} m clearance on each side exceeds the gripper's "
            f"{gripper.max_width:.3f} m")


def _across_the_box(site: _Site, tip: float, fault: str) -> _Judged:
    """The obvious pose: jaws across the middle of the object, along its box's narrower side."""
    yaws = site.box_yaw_rad + np.array((0.0, np.pi / 2))
    spans = [float(np.ptp(_jaw_axes(site.points, site.middle_xy_m, np.array((math.cos(a), math.sin(a))))[1])) for a in yaws]
    k = int(np.argmin(spans))
    return _Judged(site, float(yaws[k]), site.middle_xy_m, tip, spans[k], fault=fault)


def _no_place(site: _Site, failures: Failures, gripper: GripperConfig, lowest: float) -> _Judged:
    if failures.narrowest is None:
        return _across_the_box(site, lowest, "no line through the object is covered by its points")
    width, yaw, across, along, tip = failures.narrowest
    xy = site.middle_xy_m + across * np.array((-math.sin(yaw), math.cos(yaw))) \
        + along * np.array((math.cos(yaw), math.sin(yaw)))
    if not failures.palm + failures.no_room:
        fault = _too_wide(width, gripper)
    elif failures.palm:
        fault = (f"the palm would touch something higher than {tip + gripper.finger_length:.3f} m above the support at "
                 f"each of the {failures.palm} places where the fingers fit")
    else:
        fault = (f"fingers need {gripper.finger_thickness + gripper.clearance:.3f} m of free space beside the object; none "
                 f"of {failures.no_room} places has it")
    if failures.too_wide and failures.palm + failures.no_room:
        fault += f"; {failures.too_wide} other places are wider than the gripper's {gripper.max_width:.3f} m"
    return _Judged(site, yaw, xy, tip, width, fault=fault)


def _target(cloud: SceneCloud, detection: Detection3D, gripper: GripperConfig, grasp: _Judged) -> GraspTarget:
    closing = np.array((math.cos(grasp.yaw_rad), math.sin(grasp.yaw_rad), 0.0))
    down = np.array((0.0, 0.0, -1.0))
    camera_T_local = grasp.site.camera_T_local
    if (camera_T_local[:3, :3] @ closing)[0] < 0:  # either sign closes the same jaws: take the camera's right
        closing = -closing
    local_T_gripper = np.eye(4)
    local_T_gripper[:3, :3] = np.stack((np.cross(closing, down), closing, down), 1)
    local_T_gripper[:3, 3] = (*grasp.xy_m, grasp.tip_m)
    return GraspTarget(detection.id, detection.label, detection.frame_id,
                       cloud.frame_T_camera @ camera_T_local @ local_T_gripper, grasp.width_m, gripper.standoff,
                       min(1.0, grasp.quality), not grasp.fault, grasp.fault)
