"""One place for the jaws, measured on the points: width, collisions, contacts, quality.

Works in the local frame of a `Site` (z against the approach). Knows nothing of how places are found.

Source of the contact test: Nguyen, "Constructing force-closure grasps", IJRR 1988 (two contacts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.grasping.jaws import Places
from qwen3vl_ros.grasping.site import Site

_CONTACT_M = 0.004
_MIN_HOLD = 0.25  # of the finger's width
_BIN_M = 0.002
_SLOPE_M = 0.007


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


def judge(cloud: SceneCloud, site: Site, places: Places, k: int, gripper: GripperConfig) -> Judged:
    """Measure place k on the points, test it, rate it.

    antipodality: 1 where both contact normals lie on the closing axis, 0 at the border of the friction cone.
    centredness: 1 in the middle of the object's box, 0 at its corner. room: see Places. evidence: half the
    share of contacts that was measured, not assumed, and half the share of the fingers' space that the camera
    saw empty.
    """
    yaw, across, along, tip, rough = (
        float(v[k]) for v in (places.yaw_rad, places.across_m, places.along_m, places.tip_m, places.width_m)
    )
    closing, sideways = np.array((math.cos(yaw), math.sin(yaw))), np.array((-math.sin(yaw), math.cos(yaw)))
    xy = site.middle_xy_m + across * sideways + along * closing
    x, y = jaw_axes(site.points, xy, closing)
    held = (np.abs(x) < gripper.finger_width / 2) & (site.points[:, 2] > tip) & (np.abs(y) < rough / 2 + _CONTACT_M)
    if np.count_nonzero(held) < 10:
        fault = f"only {np.count_nonzero(held)} points between the fingers, 10 are needed"
        return Judged(site, yaw, xy, tip, rough, fault=fault)
    x, y, z, seen = x[held], y[held], site.points[held, 2], site.measured[held]
    ordered = np.sort(y)
    low, high = float(ordered[len(y) // 200]), float(ordered[-1 - len(y) // 200])
    width, xy = high - low, xy + (low + high) / 2 * closing
    if width + 2 * gripper.clearance > gripper.max_width:
        return Judged(site, yaw, xy, tip, width, fault=too_wide(width, gripper))
    touched = _collision(site, xy, closing, tip, width, gripper)
    if touched:
        return Judged(site, yaw, xy, tip, width, fault=touched)
    angles, real, spans = [], [], []
    for outward, face in ((-1, -low), (1, high)):
        contact = outward * y >= face - min(_CONTACT_M, 0.35 * width)
        spans.append(float(np.ptp(x[contact])))
        angles.append(_contact_tilt(x[contact], outward * y[contact], z[contact], site.top_m))
        real.append(float(np.count_nonzero(seen[contact])) / np.count_nonzero(contact))
    cone = math.atan(gripper.friction)
    if min(spans) < _MIN_HOLD * gripper.finger_width:
        needed = _MIN_HOLD * gripper.finger_width
        fault = f"a finger would hold {min(spans):.3f} m of an edge, {needed:.3f} m are needed"
        return Judged(site, yaw, xy, tip, width, fault=fault)
    if max(angles) > cone:
        fault = (
            f"the contact normal is {math.degrees(max(angles)):.0f} degrees off the closing axis, "
            f"friction {gripper.friction:g} holds up to {math.degrees(cone):.0f}"
        )
        return Judged(site, yaw, xy, tip, width, fault=fault)
    centred = max(0.0, 1.0 - float(np.linalg.norm(xy - site.centre_m[:2])) / site.half_m)
    evidence = 0.5 * np.mean(real) + 0.5 * _seen_empty(cloud, site, xy, closing, tip, width, gripper)
    quality = 0.30 * (1.0 - max(angles) / cone) + 0.25 * centred + 0.15 * float(places.room[k]) + 0.30 * float(evidence)
    return Judged(site, yaw, xy, tip, width, quality * math.cos(site.tilt_rad))


def jaw_axes(points: np.ndarray, xy: np.ndarray, closing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of local points across and along the closing direction, from the jaws' middle."""
    dx, dy = points[:, 0] - np.float32(xy[0]), points[:, 1] - np.float32(xy[1])
    c, s = np.float32(closing[0]), np.float32(closing[1])
    return dy * c - dx * s, dx * c + dy * s


def _seen_empty(cloud: SceneCloud, site: Site, xy, closing, tip, width, gripper) -> float:
    """Share of the open fingers' space, sampled, that the camera saw to be empty."""
    along = width / 2 + gripper.clearance + gripper.finger_thickness / 2
    local = np.array(
        [
            (*(xy + side * along * closing + across * np.array((-closing[1], closing[0]))), tip + height)
            for side in (-1, 1)
            for across in (-gripper.finger_width / 3, gripper.finger_width / 3)
            for height in np.array((0.05, 0.35, 0.65)) * gripper.finger_length
        ]
    )
    behind = cloud.look_behind(local @ site.camera_T_local[:3, :3].T + site.camera_T_local[:3, 3])
    return float((behind > 0).mean())


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
    np.maximum.at(outer, bins, y)
    filled = np.isfinite(outer)
    return np.flatnonzero(filled) * _BIN_M, outer[filled]


def _fit(system: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares coefficients, zero where the points leave them open, and the root mean square miss."""
    coefficients = np.linalg.lstsq(system, values, rcond=1e-6)[0]
    return coefficients, float(np.sqrt(np.mean(np.square(system @ coefficients - values))))


def _collision(site: Site, xy, closing, tip, width, gripper) -> str:
    """What fingers or palm of the open gripper would touch, the object itself included; empty if nothing."""
    inner = width / 2 + gripper.clearance
    palm = tip + gripper.finger_length
    for name, points, spare in (
        ("the object itself", site.points, 0.0),
        ("something beside it", site.rest, gripper.clearance),
    ):
        x, y = (np.abs(v) for v in jaw_axes(points, xy, closing))
        z = points[:, 2]
        in_finger = (
            (y > inner)
            & (y < inner + gripper.finger_thickness + spare)
            & (x < gripper.finger_width / 2 + spare)
            & (z > tip - spare)
        )
        if np.count_nonzero(in_finger) > 2:
            return f"a finger would touch {name}: {np.count_nonzero(in_finger)} points reach into it"
        in_palm = (z > palm) & (y < gripper.max_width / 2 + gripper.finger_thickness) & (x < gripper.palm_width / 2)
        if np.count_nonzero(in_palm) > 2:
            return f"the palm would touch {name}, {float(z[in_palm].max()) - palm:.3f} m higher than it may be"
    return ""


def too_wide(width_m: float, gripper: GripperConfig) -> str:
    return (
        f"width {width_m:.3f} m with {gripper.clearance:.3f} m clearance on each side exceeds the gripper's "
        f"{gripper.max_width:.3f} m"
    )
