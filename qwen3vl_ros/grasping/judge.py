"""One place for the jaws, measured on the points: width, collisions, contacts, quality.

Works in the local frame of a `Site` (z against the approach). Knows nothing of how places are found.

Source of the contact test: Nguyen, "Constructing force-closure grasps", IJRR 1988 (two contacts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.grasping.jaws import Places
from qwen3vl_ros.grasping.site import Site

_CONTACT_M = 0.004
_MIN_HOLD = 0.25  # of the finger's width
_BIN_M = 0.002
_SLOPE_M = 0.007
_ANTIPODALITY = 0.30  # its weight in the quality


@dataclass(frozen=True, eq=False)
class Judged:
    """A place measured exactly; fault is empty when the grasp holds and collides with nothing."""

    site: Site
    yaw_rad: float
    xy_m: np.ndarray
    tip_m: float
    width_m: float
    quality: float = 0.0
    fault: str = ""


def judge(cloud: SceneCloud, site: Site, places: Places, gripper: GripperConfig) -> list[Judged]:
    """Measure places on the points, test and rate them, until the best is known: those that cannot be it have no entry.

    antipodality: 1 where both contact normals lie on the closing axis, 0 at the border of the friction cone.
    centredness: 1 in the middle of the object's box, 0 at its corner. room: see Places. evidence: half the
    share of contacts that was measured, not assumed, and half the share of the fingers' space that the camera
    saw empty.

    What is cheap is measured at all places at once; the normals, which are not, only where the rest leaves a chance.
    """
    grips = _grips(site, places, gripper)
    held = [g for g in grips if not g.fault]
    _collide(site, held, gripper)
    free = [g for g in held if not g.fault]
    for grip, empty in zip(free, _seen_empty(cloud, site, free, gripper)):
        centred = max(0.0, 1.0 - float(np.linalg.norm(grip.xy_m - site.centre_m[:2])) / site.half_m)
        evidence = 0.5 * grip.measured_share + 0.5 * empty
        grip.quality = 0.25 * centred + 0.15 * grip.room + 0.30 * evidence
    cone, best = math.atan(gripper.friction), 0.0
    rated = [g for g in grips if g.fault]
    for grip in sorted(free, key=lambda g: -g.quality):
        if grip.quality + _ANTIPODALITY <= best:
            break
        _hold(site, grip, cone, gripper)
        rated.append(grip)
        best = max(best, grip.quality)
    order = {id(g): k for k, g in enumerate(grips)}
    rated.sort(key=lambda g: order[id(g)])
    tilted = math.cos(site.tilt_rad)
    return [
        Judged(site, g.yaw_rad, g.xy_m, g.tip_m, g.width_m, 0.0 if g.fault else g.quality * tilted, g.fault)
        for g in rated
    ]


@dataclass(eq=False)
class _Grip:
    """A place while it is being measured. points: Mx3, what is between the fingers, in the jaws' frame: across, along the
    closing direction, height. measured_share: of the contacts that was measured. faces: where the fingers touch along y.
    """

    yaw_rad: float
    xy_m: np.ndarray
    tip_m: float
    width_m: float
    room: float
    points: np.ndarray
    contacts: tuple[np.ndarray, ...] = ()
    measured_share: float = 0.0
    quality: float = 0.0
    fault: str = ""

    @property
    def closing(self) -> np.ndarray:
        return np.array((math.cos(self.yaw_rad), math.sin(self.yaw_rad)))


def _grips(site: Site, places: Places, gripper: GripperConfig) -> list[_Grip]:
    """What the fingers would close on at each place, and how wide it is there."""
    c, s = np.cos(places.yaw_rad), np.sin(places.yaw_rad)
    xy_m = site.middle_xy_m + np.stack(
        (places.along_m * c - places.across_m * s, places.along_m * s + places.across_m * c), 1
    )
    x, y = _jaw_frames(site.points, c, s, xy_m)
    z = site.points[:, 2]
    reach = (places.width_m / 2 + _CONTACT_M).astype(np.float32)[:, None]
    between = (np.abs(x) < gripper.finger_width / 2) & (np.abs(y) < reach) & (z > places.tip_m[:, None])
    grips = []
    for k in range(len(c)):
        held = np.flatnonzero(between[k])
        points = np.stack((x[k].take(held), y[k].take(held), z.take(held)))
        grip = _Grip(
            float(places.yaw_rad[k]),
            xy_m[k],
            float(places.tip_m[k]),
            float(places.width_m[k]),
            float(places.room[k]),
            points,
        )
        grips.append(grip)
        if len(held) < 10:
            grip.fault = f"only {len(held)} points between the fingers, 10 are needed"
            continue
        ordered = np.sort(points[1])
        low, high = float(ordered[len(held) // 200]), float(ordered[-1 - len(held) // 200])
        grip.width_m, grip.xy_m = high - low, grip.xy_m + (low + high) / 2 * grip.closing
        if grip.width_m + 2 * gripper.clearance > gripper.max_width:
            grip.fault = too_wide(grip.width_m, gripper)
            continue
        depth = min(_CONTACT_M, 0.35 * grip.width_m)
        grip.contacts = np.flatnonzero(points[1] <= low + depth), np.flatnonzero(points[1] >= high - depth)
        seen = site.measured.take(held)
        grip.measured_share = sum(np.count_nonzero(seen[c]) / len(c) for c in grip.contacts) / 2
    return grips


def _hold(site: Site, grip: _Grip, cone: float, gripper: GripperConfig) -> None:
    """Adds how well the contacts hold to a grip's quality, or says why they do not."""
    x, y, z = grip.points
    needed = _MIN_HOLD * gripper.finger_width
    span = min(float(np.ptp(x[contact])) for contact in grip.contacts)
    if span < needed:
        grip.fault = f"a finger would hold {span:.3f} m of an edge, {needed:.3f} m are needed"
        return
    tilts = (
        _contact_tilt(x[contact], outward * y[contact], z[contact], site.top_m)
        for outward, contact in zip((-1, 1), grip.contacts)
    )
    angle = max(tilts)
    if angle > cone:
        grip.fault = (
            f"the contact normal is {math.degrees(angle):.0f} degrees off the closing axis, "
            f"friction {gripper.friction:g} holds up to {math.degrees(cone):.0f}"
        )
    grip.quality += _ANTIPODALITY * (1.0 - angle / cone)


def _jaw_frames(points, c, s, xy_m) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates KxN of local points across and along the closing directions (c, s), from each of K middles."""
    across, along = np.stack((-s, c), 1), np.stack((c, s), 1)
    plan = np.ascontiguousarray(points[:, :2].T)
    x, y = (axes.astype(np.float32) @ plan for axes in (across, along))
    x -= (across * xy_m).sum(1).astype(np.float32)[:, None]
    y -= (along * xy_m).sum(1).astype(np.float32)[:, None]
    return x, y


def jaw_axes(points: np.ndarray, xy: np.ndarray, closing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of local points across and along the closing direction, from the jaws' middle."""
    dx, dy = points[:, 0] - np.float32(xy[0]), points[:, 1] - np.float32(xy[1])
    c, s = np.float32(closing[0]), np.float32(closing[1])
    return dy * c - dx * s, dx * c + dy * s


def _seen_empty(cloud: SceneCloud, site: Site, grips: list[_Grip], gripper: GripperConfig) -> np.ndarray:
    """Share of the open fingers' space at each grip, sampled, that the camera saw to be empty."""
    heights = np.array((0.05, 0.35, 0.65)) * gripper.finger_length
    across = np.array((-gripper.finger_width / 3, gripper.finger_width / 3))
    sides, across, heights = (of.ravel() for of in np.meshgrid((-1.0, 1.0), across, heights))
    local = np.empty((len(grips), len(sides), 3))
    for out, grip in zip(local, grips):
        along = sides * (grip.width_m / 2 + gripper.clearance + gripper.finger_thickness / 2)
        c, s = grip.closing
        out[:, 0], out[:, 1] = grip.xy_m[0] + along * c - across * s, grip.xy_m[1] + along * s + across * c
        out[:, 2] = grip.tip_m + heights
    points = local.reshape(-1, 3) @ site.camera_T_local[:3, :3].T + site.camera_T_local[:3, 3]
    return (cloud.look_behind(points) > 0).reshape(len(grips), -1).mean(1)


def _contact_tilt(x, y, z, top: float) -> float:
    """Angle between the closing axis (y, outward) and the normal where a flat finger first touches.

    Across, a sloping face counts with its slope and a corner with the slope of its sides, for the object
    would turn about it; a round side touches squarely. Along the approach only a fingertip on a slope slips.
    """
    nearly_level = np.ptp(z) < _BIN_M and z.max() < top - _BIN_M  # the floor of a bowl, not a rim seen from above
    if len(x) < 4 or nearly_level:
        return math.pi / 2
    t, outer = _outline(x, y)
    t = t - t[outer.argmax()]
    corner, corner_miss = _fit(np.column_stack((np.ones_like(t), t, np.abs(t))), outer)
    curve, curve_miss = _fit(np.column_stack((np.ones_like(t), t, t * t)), outer)
    level = abs(curve[1]) if curve_miss <= 1.1 * corner_miss else abs(corner[1]) + max(-corner[2], 0.0)
    t, outer = _outline(z, y)
    steep = 0.0
    if t[outer.argmax()] - t[0] < 0.25 * (t[-1] - t[0]):
        low = t - t[0] < _SLOPE_M
        steep = max(0.0, -_fit(np.column_stack((np.ones(low.sum()), t[low])), outer[low])[0][1])
    return math.atan(math.hypot(level, steep))


def _outline(t, y) -> tuple[np.ndarray, np.ndarray]:
    """The outermost y in bins of t: bin positions and values, in order."""
    bins = ((t - t.min()) / _BIN_M).astype(int)
    outer = np.full(bins.max() + 1, -np.inf)
    np.maximum.at(outer, bins, y.astype(float))
    filled = np.flatnonzero(np.isfinite(outer))
    return filled * _BIN_M, outer[filled]


def _fit(system: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares coefficients, zero where the points leave them open, and the root mean square miss."""
    if len(values) < system.shape[1]:
        coefficients = np.linalg.lstsq(system, values, rcond=1e-6)[0]
    else:
        coefficients = cv2.solve(system, values[:, None], flags=cv2.DECOMP_SVD)[1][:, 0]
    return coefficients, math.sqrt(np.square(system @ coefficients - values).sum() / len(values))


def _collide(site: Site, grips: list[_Grip], gripper: GripperConfig) -> None:
    """Says of each grip what fingers or palm of the open gripper would touch, the object itself included."""
    if not grips:
        return
    c, s = np.array([g.closing for g in grips]).T
    xy_m, tip = np.array([g.xy_m for g in grips]), np.array([[g.tip_m] for g in grips])
    inner = np.array([[g.width_m / 2 + gripper.clearance] for g in grips], np.float32)
    palm = (tip + gripper.finger_length).astype(np.float32)
    for name, points, spare in (
        ("the object itself", site.points, 0.0),
        ("something beside it", site.rest, gripper.clearance),
    ):
        x, y = (np.abs(v) for v in _jaw_frames(points, c, s, xy_m))
        z, reach = points[:, 2], gripper.finger_width / 2 + spare
        finger = (y > inner) & (y < inner + np.float32(gripper.finger_thickness + spare)) & (x < reach)
        finger &= z > (tip - spare).astype(np.float32)
        under = (z > palm) & (y < gripper.max_width / 2 + gripper.finger_thickness) & (x < gripper.palm_width / 2)
        for k, grip in enumerate(grips):
            in_finger = np.count_nonzero(finger[k])
            if grip.fault or (in_finger <= 2 and np.count_nonzero(under[k]) <= 2):
                continue
            if in_finger > 2:
                grip.fault = f"a finger would touch {name}: {in_finger} points reach into it"
            else:
                above = float(z[under[k]].max() - palm[k, 0])
                grip.fault = f"the palm would touch {name}, {above:.3f} m higher than it may be"


def too_wide(width_m: float, gripper: GripperConfig) -> str:
    return (
        f"width {width_m:.3f} m with {gripper.clearance:.3f} m clearance on each side exceeds the gripper's "
        f"{gripper.max_width:.3f} m"
    )
