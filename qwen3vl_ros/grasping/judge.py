"""Poses of the jaws measured on the points: width, collisions, contacts, quality.

Works in the local frame of a `Site` (z up); a pose may lean as it likes. Knows nothing of how poses are found.

Source of the contact test: Nguyen, "Constructing force-closure grasps", IJRR 1988 (two contacts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.grasping.contacts import contact_tilt
from qwen3vl_ros.grasping.poses import ERRORS, Poses, in_jaws, missed
from qwen3vl_ros.grasping.quality import (
    ANTIPODALITY,
    CENTREDNESS,
    EVIDENCE,
    ROOM,
    antipodality,
    bite,
    contact_area,
    steadiness,
)
from qwen3vl_ros.grasping.site import Site, top_of
from qwen3vl_ros.grasping.slips import RIDGE_M, on_a_ridge, on_a_sheet

_CONTACT_M = 0.004
_CORNER_M = 0.012  # how deep the sides of a corner are looked for
_MIN_HOLD = 0.25  # of the finger's width
_RAGGED = 0.3  # of the distance between pixels: how far an outline is from where it seems
_STRAYS = 2  # points that may lie where the hand shall be
_ROOM_M = 0.020
_TOUCH_M = 0.0005
# Twelve places in two fingers, side, share of the finger's width across and of its length up; and nine in the hand behind them,
# shares of the palm's extents across and along the closing direction, metres behind it.
_SIDES, _SHARES_ACROSS, _SHARES_UP = np.array(
    [(side, across, up) for side in (-1.0, 1.0) for across in (-1 / 3, 1 / 3) for up in (0.05, 0.35, 0.65)]
).T
_HAND_ACROSS, _HAND_ALONG, _HAND_BEHIND_M = np.array(
    [(across, along, behind) for across, along in ((0, 0), (0.4, 0.4), (0.4, -0.4), (-0.4, 0.4), (-0.4, -0.4)) for behind in (0.01, 0.06)]
).T  # fmt: skip
_STEEP = math.cos(math.radians(20.0))
_WAY_SEEN = 0.5  # of the hand's own space: less was seen empty, and a leaning approach goes where nobody has looked


@dataclass(frozen=True, eq=False)
class Judged:
    """A pose measured exactly; fault is empty when the grasp holds and collides with nothing. local_R_jaws, at_m: as Poses.

    crowded: it is room that it lacks. facing: which sign of the closing direction has room for what is behind the palm, 1 or -1;
    0: either.
    """

    site: Site
    local_R_jaws: np.ndarray
    at_m: np.ndarray
    width_m: float
    rating: float = 0.0
    fault: str = ""
    opening_m: float = math.nan
    crowded: bool = False
    facing: int = 0


def judge(cloud: SceneCloud, site: Site, poses: Poses, gripper: GripperConfig, best: int = 1) -> list[Judged]:
    """Measure poses on the points, test and rate them, until the `best` best are known: those that cannot be among them have no entry.

    centredness: 1 where the approach goes through the middle of the object's box, 0 past its corner.
    evidence: half the share of contacts that was measured, not assumed, and half the share of the fingers' space that the camera
    saw empty. The rest: quality.py.

    What is cheap is measured at all poses at once; the normals, which are not, only where the rest leaves a chance.
    """
    seen = in_jaws(site.points, poses.local_R_jaws, poses.at_m)
    grips = _grips(site, poses, seen, gripper)
    held = np.array([k for k, g in enumerate(grips) if not g.fault], np.intp)
    # The jaws have moved along y since, to the middle of what is between them.
    moved = np.array([(grips[k].at_m - poses.at_m[k]) @ grips[k].axes[:, 1] for k in held], np.float32)[:, None]
    x, y, z = seen if len(held) == len(grips) else (of.take(held, 0) for of in seen)
    y -= moved
    held = [grips[k] for k in held]
    _collide(site, held, (x, y, z), gripper)
    free = [g for g in held if not g.fault]
    for grip, empty, way in zip(free, *_seen_empty(cloud, site, free, gripper)):
        across, along, _ = _in_axes(site.centre_m - grip.at_m, grip.axes)
        centred = max(0.0, 1.0 - math.hypot(across, along) / site.half_m)
        evidence = 0.5 * grip.measured_share + 0.5 * empty
        grip.rating = CENTREDNESS * centred + ROOM * _room(grip, gripper) + EVIDENCE * evidence
        # Of what was tried level on tuning seeds half failed, of what leant by 60 degrees a tenth.
        leaning = min(0.75 + 0.25 * grip.steepness, 0.5 + 1.1 * max(grip.steepness, 0.0))
        grip.firmness = _firmness(site, grip, gripper) * leaning
        if grip.steepness < _STEEP and way < _WAY_SEEN:
            grip.fault = (
                f"the hand would come from where nobody has looked: {100 * way:.0f} % of its space was seen empty"
            )
    ratings, rated = [0.0] * best, [g for g in grips if g.fault]
    for grip in sorted((g for g in free if not g.fault), key=lambda g: -g.firmness * (g.rating + ANTIPODALITY)):
        if grip.firmness * (grip.rating + ANTIPODALITY) <= ratings[0]:
            break
        _hold(site, grip, gripper)
        rated.append(grip)
        if not grip.fault:
            ratings = sorted([*ratings, grip.rating])[1:]  # from the least
    order = {id(g): k for k, g in enumerate(grips)}
    rated.sort(key=lambda g: order[id(g)])
    return [
        Judged(
            site,
            g.axes,
            g.at_m,
            g.width_m,
            0.0 if g.fault else g.rating,
            g.fault,
            g.opening_m,
            g.crowded,
            g.facing,
        )
        for g in rated
    ]


@dataclass(eq=False)
class _Grip:
    """A pose while it is being measured. axes: local_R_jaws. points: Mx3, what is between the fingers, in the jaws' frame:
    across, along the closing direction, against the approach. measured_share: of the contacts
    that was measured. span_m: of the finger's width that touches, where it is less. noise_m: of the points along y.
    """

    axes: np.ndarray
    at_m: np.ndarray
    width_m: float
    points: tuple[np.ndarray, np.ndarray, np.ndarray]
    contacts: tuple[np.ndarray, ...] = ()
    measured_share: float = 0.0
    rating: float = 0.0
    fault: str = ""
    noise_m: float = 0.0
    opening_m: float = math.nan
    firmness: float = 1.0
    span_m: float = 0.0
    crowded: bool = False
    facing: int = 0

    @property
    def steepness(self) -> float:
        """Cosine of the angle between the approach and straight down."""
        return float(self.axes[2, 2])


def _grips(site: Site, poses: Poses, seen: tuple[np.ndarray, ...], gripper: GripperConfig) -> list[_Grip]:
    """What the fingers would close on at each pose, and how wide it is there. seen: the site's points, `in_jaws`."""
    x, y, z = seen
    reach = (poses.width_m / 2 + _CONTACT_M).astype(np.float32)[:, None]
    between = (np.abs(x) < gripper.finger_width / 2) & (np.abs(y) < reach) & (z > 0)
    # All that is between the fingers of all poses at once; each pose has its part.
    flat = np.flatnonzero(between)
    ends = np.searchsorted(flat, np.arange(1, len(poses) + 1) * between.shape[1]).tolist()
    among = [of.ravel().take(flat) for of in (x, y, z)]
    measured_there = site.measured.take(flat % between.shape[1])
    sight = site.centre_m - site.eye_m
    sight /= max(float(np.linalg.norm(sight)), 1e-9)
    seen_along = (
        poses.local_R_jaws[:, :, 1] @ sight
    ).tolist()  # how much of the noise lies along the closing direction
    grips = []
    for k, (axes, start, end) in enumerate(zip(poses.local_R_jaws, [0, *ends], ends)):
        held = np.s_[start:end]
        points = tuple(of[held] for of in among)
        grip = _Grip(axes, poses.at_m[k], float(poses.width_m[k]), points)
        grips.append(grip)
        if end - start < 10:
            grip.fault = f"only {end - start} points between the fingers, 10 are needed"
            continue
        ordered, strays = np.sort(points[1]), (end - start) // 200
        low, high = float(ordered[strays]), float(ordered[-1 - strays])
        grip.width_m, grip.at_m = high - low, grip.at_m + (low + high) / 2 * axes[:, 1]
        if grip.width_m + 2 * gripper.clearance > gripper.max_width:
            grip.fault = too_wide(grip.width_m, gripper)
            continue
        grip.noise_m = math.hypot(site.noise_m * seen_along[k], _RAGGED * site.pitch_m)
        depth = min(max(_CONTACT_M, 2.5 * grip.noise_m), 0.35 * grip.width_m)
        grip.contacts = (points[1] <= low + depth).nonzero()[0], (points[1] >= high - depth).nonzero()[0]
        measured = measured_there[held]
        grip.measured_share = sum(np.count_nonzero(measured.take(c)) / len(c) for c in grip.contacts) / 2
    return grips


def _room(grip: _Grip, gripper: GripperConfig) -> float:
    """0..1: how far beyond what is needed the jaws may open, up to twenty millimetres."""
    return min(1.0, max(0.0, grip.opening_m - grip.width_m - 2 * gripper.clearance) / _ROOM_M)


def _firmness(site: Site, grip: _Grip, gripper: GripperConfig) -> float:
    """0..1: bite, area, and the weight's lever against what the contacts hold; and a fault where these do not face each other."""
    lows, middles, highs, spans = [], [], [], []
    for contact in grip.contacts:
        across, heights = grip.points[0].take(contact), grip.points[2].take(contact)
        across.sort()  # of so few quicker than to look for the least and the greatest
        heights.sort()
        spans.append(float(across[-1]) - float(across[0]))
        few = len(heights) // 20
        lows.append(float(heights[few]))
        middles.append(float(heights[len(heights) // 2]))
        highs.append(float(heights[-1 - few]))
    depth, grip.span_m = min(highs), min(spans)
    area = grip.span_m * min(highs[0] - lows[0], highs[1] - lows[1])
    grip.fault = on_a_sheet(lows, middles, highs, grip.width_m)
    axes, centre, at = grip.axes.tolist(), site.centre_m.tolist(), grip.at_m.tolist()
    lever = [(centre[k] - at[k] - depth / 2 * axes[k][2]) * site.weight_n for k in (0, 1)]
    across, closing, approach = (lever[1] * a - lever[0] * b for a, b in zip(*axes[:2]))  # lever x up, in the jaws
    unseen = site.weight_n * site.missing_m / 2  # its middle may be so far off
    torque = (abs(closing) + unseen, abs(across) + unseen, abs(approach) + unseen)
    return bite(depth) * contact_area(area) * steadiness(torque, grip.span_m, depth, gripper.friction, gripper.force)


def _in_axes(vector: Sequence[float], axes: np.ndarray) -> tuple[float, ...]:
    """vector @ axes of three numbers and a 3x3, for which NumPy takes longer."""
    a, b, c = map(float, vector)
    return tuple(a * x + b * y + c * z for x, y, z in zip(*axes.tolist()))


def _hold(site: Site, grip: _Grip, gripper: GripperConfig) -> None:
    """Completes a grip's rating by how its contacts hold, or says why they do not."""
    x, y, z = grip.points
    cone = math.atan(gripper.friction)
    needed = _MIN_HOLD * gripper.finger_width
    if grip.span_m < needed:
        grip.fault = f"a finger would hold {grip.span_m:.3f} m of an edge, {needed:.3f} m are needed"
        return
    if grip.width_m < RIDGE_M:
        x_all, y_all, z_all = (of[0] for of in in_jaws(site.points, grip.axes[None], grip.at_m[None]))
        grip.fault = on_a_ridge(y_all, z_all, np.abs(x_all) < gripper.finger_width / 2, grip.width_m)
        if grip.fault:
            return
    angle, top_m = 0.0, top_of(z)
    for outward, contact in zip((-1, 1), grip.contacts):
        out = outward * y
        touching = out.take(contact)
        deep = (out > np.maximum.reduce(touching) - min(_CORNER_M, grip.width_m / 3)).nonzero()[0]
        touched = x.take(contact), touching, z.take(contact), top_m, grip.noise_m
        angle = max(angle, contact_tilt(*touched, (x.take(deep), out.take(deep))))
    if angle > cone:
        grip.fault = (
            f"the contact normal is {math.degrees(angle):.0f} degrees off the closing axis, "
            f"friction {gripper.friction:g} holds up to {math.degrees(cone):.0f}"
        )
    grip.rating = grip.firmness * (grip.rating + ANTIPODALITY * antipodality(angle, gripper.friction))


def _seen_empty(
    cloud: SceneCloud, site: Site, grips: list[_Grip], gripper: GripperConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the open fingers' space, and of the hand's behind them, sampled, that the camera saw to be empty at each grip."""
    if not grips:
        return np.empty(0), np.empty(0)
    width, beside = np.array([[g.width_m] for g in grips]), gripper.clearance + gripper.finger_thickness / 2
    fingers = np.empty((len(grips), len(_SIDES), 3))
    fingers[..., 0], fingers[..., 1] = _SHARES_ACROSS * gripper.finger_width, _SIDES * (width / 2 + beside)
    fingers[..., 2] = _SHARES_UP * gripper.finger_length
    hand = np.stack(
        (
            _HAND_ACROSS * gripper.palm_width,
            _HAND_ALONG * gripper.palm_length,
            gripper.finger_length + _HAND_BEHIND_M,
        ),
        1,
    )
    jaws = np.concatenate((fingers, np.broadcast_to(hand, (len(grips), *hand.shape))), 1)
    axes, at_m = np.array([g.axes for g in grips]), np.array([g.at_m for g in grips])
    local = jaws @ axes.transpose(0, 2, 1) + at_m[:, None]
    points = local.reshape(-1, 3) @ site.camera_T_local[:3, :3].T + site.camera_T_local[:3, 3]
    empty = (cloud.look_behind(points) > 0).reshape(len(grips), -1)
    return empty[:, : len(_SIDES)].mean(1), empty[:, len(_SIDES) :].mean(1)


def _collide(site: Site, grips: list[_Grip], seen: tuple[np.ndarray, ...], gripper: GripperConfig) -> None:
    """How far the jaws may open at each grip, and what fingers or palm would touch, the object itself included.

    seen: the site's points in the jaws' frames; they are written to.
    """
    if not grips:
        return
    for grip in grips:
        grip.opening_m = gripper.max_width
    _touch("the object itself", seen, grips, 0.0, gripper)
    free = [g for g in grips if not g.fault]
    if free and len(site.rest):
        rest = in_jaws(site.rest, np.array([g.axes for g in free]), np.array([g.at_m for g in free]))
        _touch("something beside it", rest, free, gripper.clearance, gripper)
    if site.stands:
        _meet_the_support(grips, gripper)
    if gripper.wrist_width > 0:
        _turn_the_wrist(site, [g for g in grips if not g.fault], gripper)
    for grip in grips:
        grip.crowded = bool(grip.fault)
        grip.opening_m = max(grip.opening_m, grip.width_m + 2 * gripper.clearance)


def _touch(name: str, seen: tuple[np.ndarray, ...], grips: list[_Grip], spare: float, gripper: GripperConfig) -> None:
    """What fingers or palm would touch of points in the jaws' frames, and how far the jaws may open for them; seen is written to.

    spare: how much wider than it is the hand counts.
    """
    x, y, z = seen
    width = np.array([[g.width_m] for g in grips])
    inner = (width / 2 + gripper.clearance).astype(np.float32)
    palm = (gripper.finger_length + gripper.tip_advance * (1 - width / gripper.max_width)).astype(np.float32)
    np.abs(x, out=x)
    np.abs(y, out=y)
    beside = (y > inner) & (x < gripper.finger_width / 2 + spare) & (z > -spare)
    finger = beside & (y < inner + np.float32(gripper.finger_thickness + spare))
    under = z > palm
    if under.any():
        under &= (y < gripper.palm_length / 2 + spare) & (x < gripper.palm_width / 2 + spare)
    in_fingers, under_palm = _counts(finger), _counts(under)
    for k, grip in enumerate(grips):
        if grip.fault:
            continue
        if in_fingers[k] > _STRAYS:
            grip.fault = f"a finger would touch {name}: {in_fingers[k]} points reach into it"
        elif under_palm[k] > _STRAYS:
            above = float(z[k][under[k]].max() - palm[k, 0])
            grip.fault = f"the palm would touch {name}, {above:.3f} m higher than it may be"
        else:
            away = y[k][beside[k]]
            if len(away) > _STRAYS:
                nearest = float(np.partition(away, _STRAYS)[_STRAYS])
                grip.opening_m = min(grip.opening_m, 2 * (nearest - gripper.finger_thickness - spare))


def _counts(of_each: np.ndarray) -> list[int]:
    """How many are set in each row of KxN booleans."""
    if not of_each.size:
        return [0] * len(of_each)
    return cv2.reduce(of_each.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0].tolist()


def _meet_the_support(grips: list[_Grip], gripper: GripperConfig) -> None:
    """Fingers and palm of grips that lean stay above z = 0, too, and open no farther than that."""
    for grip in (g for g in grips if not g.fault):
        (across, along, steep), tip_m = map(abs, grip.axes[2].tolist()), float(grip.at_m[2])
        needed = min(gripper.clearance, tip_m) - _TOUCH_M  # fingertips may have been asked to go lower
        finger = tip_m - across * gripper.finger_width / 2 - along * gripper.finger_thickness - needed
        palm = tip_m + steep * gripper.finger_length - needed
        palm -= across * gripper.palm_width / 2 + along * gripper.palm_length / 2
        short = max(along * (grip.width_m / 2 + gripper.clearance) - finger, -palm)
        if short > 0:
            grip.fault = f"the hand would touch the support: it would have to be {short:.3f} m higher"
        elif along > 1e-6:
            grip.opening_m = min(grip.opening_m, 2 * finger / along)


def _turn_the_wrist(site: Site, grips: list[_Grip], gripper: GripperConfig) -> None:
    """Which way round each grip's hand has room for what is mounted behind its palm; a fault where neither way has."""
    behind = gripper.wrist_behind + gripper.tip_advance
    half = np.array((gripper.wrist_width, gripper.wrist_length)) / 2
    for grip in grips:
        start = behind - gripper.tip_advance * grip.width_m / gripper.max_width
        x, y, z = np.concatenate([(points - grip.at_m) @ grip.axes for points in (site.points, site.rest)]).T
        deep = (z > start) & (np.abs(y) < half[1] + gripper.clearance)
        room = {}
        for facing in (1, -1):
            middle = -facing * gripper.wrist_offset  # the jaws' x is the gripper's -x while +y is its +y
            room[facing] = np.count_nonzero(np.abs(x[deep] - middle) < half[0] + gripper.clearance) <= _STRAYS
            if site.stands:
                lowest = (
                    grip.at_m[2] + start * grip.axes[2, 2] + middle * grip.axes[2, 0] - half @ np.abs(grip.axes[2, :2])
                )
                room[facing] &= lowest >= min(gripper.clearance, float(grip.at_m[2])) - _TOUCH_M
        if not any(room.values()):
            grip.fault = "what is mounted behind the palm (gripper.wrist_*) would touch something, either way round"
        elif gripper.wrist_offset:
            grip.facing = int(room[1]) - int(room[-1])


def too_wide(width_m: float, gripper: GripperConfig) -> str:
    return (
        f"width {width_m:.3f} m with {gripper.clearance:.3f} m clearance on each side exceeds the gripper's "
        f"{gripper.max_width:.3f} m"
    )


def on_average(cloud: SceneCloud, site: Site, grasps: list[Judged], gripper: GripperConfig) -> list[Judged]:
    """Good grasps with the rating that they have when the arm misses by a few millimetres and degrees, or hits."""
    if not grasps:
        return []
    poses = Poses(*(np.array(of) for of in zip(*((g.local_R_jaws, g.at_m, g.width_m + _CONTACT_M) for g in grasps))))
    tried = judge(cloud, site, missed(poses), gripper, best=len(grasps) * ERRORS)
    mean = np.array([j.rating for j in tried]).reshape(len(grasps), ERRORS).mean(1)
    return [replace(g, rating=(g.rating + ERRORS * float(m)) / (ERRORS + 1)) for g, m in zip(grasps, mean)]
