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
from qwen3vl_ros.grasping.contacts import contact_tilt
from qwen3vl_ros.grasping.jaws import Places
from qwen3vl_ros.grasping.quality import (
    ANTIPODALITY,
    CENTREDNESS,
    EVIDENCE,
    ROOM,
    antipodality,
    bite,
    share_that_holds,
    steadiness,
)
from qwen3vl_ros.grasping.site import Site

_CONTACT_M = 0.004
_MIN_HOLD = 0.25  # of the finger's width
_RAGGED = 0.3  # of the distance between pixels: how far an outline is from where it seems
_STRAYS = 2  # points that may lie where the hand shall be
_ROOM_M = 0.020
# Twelve places in two fingers: side, share of the finger's width across and of its length up.
_SIDES, _SHARES_ACROSS, _SHARES_UP = np.array(
    [(side, across, up) for side in (-1.0, 1.0) for across in (-1 / 3, 1 / 3) for up in (0.05, 0.35, 0.65)]
).T


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
    opening_m: float = math.nan


def judge(cloud: SceneCloud, site: Site, places: Places, gripper: GripperConfig) -> list[Judged]:
    """Measure places on the points, test and rate them, until the best is known: those that cannot be it have no entry.

    centredness: 1 in the middle of the object's box, 0 at its corner. evidence: half the share of contacts that was measured,
    not assumed, and half the share of the fingers' space that the camera saw empty. The rest: quality.py.

    What is cheap is measured at all places at once; the normals, which are not, only where the rest leaves a chance.
    """
    grips = _grips(site, places, gripper)
    held = [g for g in grips if not g.fault]
    _collide(site, held, gripper)
    free = [g for g in held if not g.fault]
    for grip, empty in zip(free, _seen_empty(cloud, site, free, gripper)):
        centred = max(0.0, 1.0 - float(np.linalg.norm(grip.xy_m - site.centre_m[:2])) / site.half_m)
        evidence = 0.5 * grip.measured_share + 0.5 * empty
        grip.quality = CENTREDNESS * centred + ROOM * _room(grip, gripper) + EVIDENCE * evidence
        grip.firmness = _firmness(site, grip, gripper) * (0.75 + 0.25 * math.cos(site.tilt_rad))
    best, rated = 0.0, [g for g in grips if g.fault]
    for grip in sorted(free, key=lambda g: -g.firmness * (g.quality + ANTIPODALITY)):
        if grip.firmness * (grip.quality + ANTIPODALITY) <= best:
            break
        _hold(site, grip, gripper)
        rated.append(grip)
        best = max(best, grip.quality)
    order = {id(g): k for k, g in enumerate(grips)}
    rated.sort(key=lambda g: order[id(g)])
    return [
        Judged(
            site,
            g.yaw_rad,
            g.xy_m,
            g.tip_m,
            g.width_m,
            0.0 if g.fault else share_that_holds(g.quality),
            g.fault,
            g.opening_m,
        )
        for g in rated
    ]


@dataclass(eq=False)
class _Grip:
    """A place while it is being measured. points: Mx3, what is between the fingers, in the jaws' frame: across, along the
    closing direction, height. measured_share: of the contacts that was measured. noise_m: of the points along y.
    """

    yaw_rad: float
    xy_m: np.ndarray
    tip_m: float
    width_m: float
    room: float
    points: tuple[np.ndarray, np.ndarray, np.ndarray]
    contacts: tuple[np.ndarray, ...] = ()
    measured_share: float = 0.0
    quality: float = 0.0
    fault: str = ""
    noise_m: float = 0.0
    opening_m: float = math.nan
    firmness: float = 1.0

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
    sight = site.centre_m - site.eye_m
    sight /= max(float(np.linalg.norm(sight)), 1e-9)
    grips = []
    for k in range(len(c)):
        held = np.flatnonzero(between[k])
        points = x[k].take(held), y[k].take(held), z.take(held)
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
        grip.noise_m = math.hypot(site.noise_m * float(sight[:2] @ grip.closing), _RAGGED * site.pitch_m)
        depth = min(max(_CONTACT_M, 2.5 * grip.noise_m), 0.35 * grip.width_m)
        grip.contacts = np.flatnonzero(points[1] <= low + depth), np.flatnonzero(points[1] >= high - depth)
        seen = site.measured.take(held)
        grip.measured_share = sum(np.count_nonzero(seen[c]) / len(c) for c in grip.contacts) / 2
    return grips


def _room(grip: _Grip, gripper: GripperConfig) -> float:
    """0..1: how far beyond what is needed the jaws may open, up to twenty millimetres."""
    return min(1.0, max(0.0, grip.opening_m - grip.width_m - 2 * gripper.clearance) / _ROOM_M)


def _firmness(site: Site, grip: _Grip, gripper: GripperConfig) -> float:
    """0..1: bite, and the weight's lever against what the contacts hold."""
    x, _, z = grip.points
    depth = min(float(np.sort(z[c])[-1 - len(c) // 20]) for c in grip.contacts) - grip.tip_m
    span = min(float(np.ptp(x[c])) for c in grip.contacts)
    torque = site.weight_n * np.cross(site.centre_m - np.array((*grip.xy_m, grip.tip_m + depth / 2)), site.up)
    c, s = grip.closing
    jaws = np.array(((c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)))  # closing, across, approach
    return bite(depth) * steadiness(jaws @ torque, span, depth, gripper.friction, gripper.force)


def _hold(site: Site, grip: _Grip, gripper: GripperConfig) -> None:
    """Completes a grip's rating by how its contacts hold, or says why they do not."""
    x, y, z = grip.points
    cone = math.atan(gripper.friction)
    needed = _MIN_HOLD * gripper.finger_width
    span = min(float(np.ptp(x[contact])) for contact in grip.contacts)
    if span < needed:
        grip.fault = f"a finger would hold {span:.3f} m of an edge, {needed:.3f} m are needed"
        return
    angle = max(
        contact_tilt(x[contact], outward * y[contact], z[contact], site.top_m, grip.noise_m)
        for outward, contact in zip((-1, 1), grip.contacts)
    )
    if angle > cone:
        grip.fault = (
            f"the contact normal is {math.degrees(angle):.0f} degrees off the closing axis, "
            f"friction {gripper.friction:g} holds up to {math.degrees(cone):.0f}"
        )
    grip.quality = grip.firmness * (grip.quality + ANTIPODALITY * antipodality(angle, gripper.friction))


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
    if not grips:
        return np.empty(0)
    c, s = (of[:, None] for of in np.array([g.closing for g in grips]).T)
    x0, y0, tip, width = (of[:, None] for of in np.array([(*g.xy_m, g.tip_m, g.width_m) for g in grips]).T)
    along = _SIDES * (width / 2 + gripper.clearance + gripper.finger_thickness / 2)
    across = _SHARES_ACROSS * gripper.finger_width
    local = np.stack(
        (x0 + along * c - across * s, y0 + along * s + across * c, tip + _SHARES_UP * gripper.finger_length), -1
    )
    points = local.reshape(-1, 3) @ site.camera_T_local[:3, :3].T + site.camera_T_local[:3, 3]
    return (cloud.look_behind(points) > 0).reshape(len(grips), -1).mean(1)


def _collide(site: Site, grips: list[_Grip], gripper: GripperConfig) -> None:
    """How far the jaws may open at each grip, and what fingers or palm would touch, the object itself included."""
    if not grips:
        return
    c, s = np.array([g.closing for g in grips]).T
    xy_m, tip = np.array([g.xy_m for g in grips]), np.array([[g.tip_m] for g in grips])
    width = np.array([[g.width_m] for g in grips])
    inner = (width / 2 + gripper.clearance).astype(np.float32)
    retracted = gripper.tip_advance * (1 - width / gripper.max_width)
    palm = (tip + gripper.finger_length + retracted).astype(np.float32)
    for grip in grips:
        grip.opening_m = gripper.max_width
    for name, points, spare in (
        ("the object itself", site.points, 0.0),
        ("something beside it", site.rest, gripper.clearance),
    ):
        x, y = (np.abs(v) for v in _jaw_frames(points, c, s, xy_m))
        z = points[:, 2]
        beside = (y > inner) & (x < gripper.finger_width / 2 + spare) & (z > (tip - spare).astype(np.float32))
        finger = beside & (y < inner + np.float32(gripper.finger_thickness + spare))
        under = np.zeros(finger.shape, bool)
        if len(z) and z.max() > palm.min():
            under = (z > palm) & (y < gripper.palm_length / 2) & (x < gripper.palm_width / 2)
        for k, grip in enumerate(grips):
            if grip.fault:
                continue
            in_finger = np.count_nonzero(finger[k])
            if in_finger > _STRAYS:
                grip.fault = f"a finger would touch {name}: {in_finger} points reach into it"
            elif np.count_nonzero(under[k]) > _STRAYS:
                above = float(z[under[k]].max() - palm[k, 0])
                grip.fault = f"the palm would touch {name}, {above:.3f} m higher than it may be"
            else:
                away = y[k][beside[k]]
                if len(away) > _STRAYS:
                    nearest = float(np.partition(away, _STRAYS)[_STRAYS])
                    grip.opening_m = min(grip.opening_m, 2 * (nearest - gripper.finger_thickness - spare))
    for grip in grips:
        grip.opening_m = max(grip.opening_m, grip.width_m + 2 * gripper.clearance)


def too_wide(width_m: float, gripper: GripperConfig) -> str:
    return (
        f"width {width_m:.3f} m with {gripper.clearance:.3f} m clearance on each side exceeds the gripper's "
        f"{gripper.max_width:.3f} m"
    )
