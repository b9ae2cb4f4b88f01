"""One place for the jaws, measured on the points: width, collisions, contacts, quality.

Works in the local frame of a `Site` (z against the approach). Knows nothing of how places are found.

Source of the contact test: Nguyen, "Constructing force-closure grasps", IJRR 1988 (two contacts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.grasping.jaws import Places
from qwen3vl_ros.grasping.site import Site

_CONTACT_M = 0.004
_MIN_HOLD = 0.25  # of the finger's width
_BIN_M = 0.002
_SLOPE_M = 0.007
_RAGGED = (
    0.43  # of a pixel on the object: so far readings lie off the straight border that they are of, and a half more
)
_LINE, _CORNER, _CURVE = 0, 1, 2
_ANTIPODALITY = 0.30  # its weight in the quality
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
        centred = max(0.0, 1.0 - math.dist(grip.xy_m, site.centre_m[:2]) / site.half_m)
        evidence = 0.5 * grip.measured_share + 0.5 * float(empty)
        grip.quality = 0.25 * centred + 0.15 * grip.room + 0.30 * evidence
    best, rated = -math.inf, [g for g in grips if g.fault]
    for grip in sorted(free, key=lambda g: -g.quality):
        if _hold(site, grip, best, gripper):
            rated.append(grip)
            best = best if grip.fault else max(best, grip.quality)
    order = {id(g): k for k, g in enumerate(grips)}
    rated.sort(key=lambda g: order[id(g)])
    tilted = math.cos(site.tilt_rad)
    return [
        Judged(site, g.yaw_rad, g.xy_m, g.tip_m, g.width_m, 0.0 if g.fault else g.quality * tilted, g.fault)
        for g in rated
    ]


@dataclass(eq=False)
class _Grip:
    """A place while it is being measured. points: what is between the fingers, in the jaws' frame: across, along the
    closing direction, height. contacts: which of them each finger touches. measured_share: of these.
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
        depth = min(_CONTACT_M, 0.35 * grip.width_m)
        grip.contacts = np.flatnonzero(points[1] <= low + depth), np.flatnonzero(points[1] >= high - depth)
        seen = site.measured.take(held)
        grip.measured_share = sum(np.count_nonzero(seen[c]) / len(c) for c in grip.contacts) / 2
    return grips


def _hold(site: Site, grip: _Grip, best: float, gripper: GripperConfig) -> bool:
    """Adds how well the contacts hold to a grip's quality, or says why they do not; False as soon as it cannot be the best."""
    x, y, z = grip.points
    cone, needed = math.atan(gripper.friction), _MIN_HOLD * gripper.finger_width
    span = min(float(np.ptp(x[contact])) for contact in grip.contacts)
    if span < needed:
        grip.fault = f"a finger would hold {span:.3f} m of an edge, {needed:.3f} m are needed"
        return True
    angle = 0.0
    for outward, contact in zip((-1, 1), grip.contacts):
        if grip.quality + _ANTIPODALITY * (1.0 - angle / cone) <= best:
            return False
        angle = max(angle, _contact_tilt(site, x[contact], outward * y[contact], z[contact]))
    if angle > cone:
        grip.fault = (
            f"the contact normal is {math.degrees(angle):.0f} degrees off the closing axis, "
            f"friction {gripper.friction:g} holds up to {math.degrees(cone):.0f}"
        )
        return True
    grip.quality += _ANTIPODALITY * (1.0 - angle / cone)
    return True


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


def _contact_tilt(site: Site, x, y, z) -> float:
    """Angle between the closing axis (y, outward) and the normal where a flat finger first touches.

    Across, a sloping face counts with its slope and a corner with the slope of its sides, for the object
    would turn about it; a round side touches squarely. What a line fits as well as pixels can show is a face and no corner. Along the approach only a fingertip on a slope slips.
    """
    nearly_level = (
        np.ptp(z) < _BIN_M and z.max() < site.top_m - _BIN_M
    )  # the floor of a bowl, not a rim seen from above
    if len(x) < 4 or nearly_level:
        return math.pi / 2
    bins, outer = _outline(x, y)
    bins -= bins[outer.argmax()]
    line, ragged = _fit(bins, outer, _LINE)
    level = abs(line[1])
    if ragged > len(bins) * (_RAGGED * site.pitch_m) ** 2:
        (corner, corner_miss), (curve, curve_miss) = _fit(bins, outer, _CORNER), _fit(bins, outer, _CURVE)
        level = abs(curve[1]) if curve_miss <= 1.21 * corner_miss else abs(corner[1]) + max(-corner[2], 0.0)
    bins, outer = _outline(z, y)
    steep = 0.0
    if bins[outer.argmax()] < 0.25 * bins[-1]:
        low = np.count_nonzero(bins * _BIN_M < _SLOPE_M)
        steep = max(0.0, -float(_fit(bins[:low], outer[:low], _LINE)[0][1]))
    return math.atan(math.hypot(level, steep))


def _outline(t, y) -> tuple[np.ndarray, np.ndarray]:
    """The outermost y in bins of t that have any, in order: which bins, counted from the first, and the values."""
    bins = ((t - t.min()) * (1 / _BIN_M)).astype(np.intp)
    outer = np.full(int(bins.max()) + 1, -np.inf)
    np.maximum.at(outer, bins, y.astype(float))
    filled = np.flatnonzero(outer > -np.inf)
    return filled, outer[filled]


def _fit(bins: np.ndarray, outer: np.ndarray, kind: int) -> tuple[np.ndarray, float]:
    """Coefficients of the line, corner or curve nearest to an outline, and the sum of its squared misses."""
    system, inverse = _system(tuple(bins), kind)
    coefficients = inverse @ outer
    miss = system @ coefficients - outer
    return coefficients, float(miss @ miss)


@lru_cache(maxsize=4096)
def _system(bins: tuple[int, ...], kind: int) -> tuple[np.ndarray, np.ndarray]:
    """What an outline is fitted by: columns 1, t, and the third term of the kind, at its bins; and the pseudo-inverse, which
    leaves zero what the bins leave open. Fingers meet the same few bins over and over.
    """
    t = np.array(bins) * _BIN_M
    system = np.stack((np.ones_like(t), t, *((), (np.abs(t),), (t * t,))[kind]), 1)
    return system, np.linalg.pinv(system, rcond=1e-6)


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
        under = np.zeros(finger.shape, bool)
        if len(z) and z.max() > palm.min():
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
