"""Antipodal grasps for a parallel-jaw gripper for each measured object, best first, or the reason for none.

`site.py` gathers the object and what surrounds it, `jaws.py` finds the places where fingers and palm fit from above and `pairs.py`
those from any side, `judge.py` measures each and `quality.py` rates it. Conventions, with a drawing, in
docs/grasping.md: the gripper's origin is between the fingertips, +z is the approach, +y the
closing direction, right-handed. Knows nothing of arms: reachability is the planner's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Sequence

import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.grasping.jaws import Failures, find_places, terrain
from qwen3vl_ros.grasping.judge import Judged, judge, on_average, too_wide
from qwen3vl_ros.grasping.pairs import opposed_poses
from qwen3vl_ros.grasping.poses import upright_axes
from qwen3vl_ros.grasping.quality import share_that_holds
from qwen3vl_ros.grasping.site import Site, site_of
from qwen3vl_ros.types import Detection3D, GraspTarget

_YAWS = 12
_JUDGED, _JUDGED_QUICKLY = 24, 16  # places from above that are measured
_PAIRED = 40  # and poses from any side
_MIN_BITE_M = 0.003
_GOOD = 0.6  # rating with which no other approach is looked for, where one grasp is enough
_LIKELY, _UNLIKELY = (
    0.5,
    "no grasp is likely to hold: most slip or touch something where the arm errs by 3 mm or 5 degrees",
)
_TRIED = 6  # of the best, so many are tried with an arm's errors
_BLIND = "nothing is assumed of its unseen side: no symmetry fits what was seen, or nothing tells which side is up"
_DIFFERENT_M, _DIFFERENT = 0.03, math.cos(math.radians(25.0))  # of the place, of approach and closing axis
_LEAN = math.radians(30.0)  # leans within so much of one another are of one kind
_AS_GOOD = 0.5  # of the best quality that another kind of lean must have to be kept before more of the same


def plan_grasps(
    cloud: SceneCloud, detections: Sequence[Detection3D], gripper: GripperConfig, thorough: bool = True, most: int = 1
) -> tuple[GraspTarget, ...]:
    """GraspTargets for each detection with measured points, in its frame; none for the model's guesses.

    At most `most` for each, in the detections' order, the best of each first, and then those that differ most from it: other
    leans of the approach, other places, other closing axes. The approach is straight down; where that lacks room it leans, by
    up to gripper.max_tilt_deg. thorough: it leans wherever that holds better, which takes several times as long: for calls and
    plans, not for every answer of a stream. Quality is the share of such grasps that hold (quality.py). An infeasible target
    stands alone; it has quality 0, the best pose that was tried, and a reason.
    """
    measured = [d for d in detections if d.source == "depth" and len(d.points_camera_m)]
    found = []
    for detection in measured:
        others = [o for o in measured if o is not detection]
        for grasp in _plan(cloud, detection, others, gripper, thorough or most > 1, most):
            found.append(_target(cloud, detection, gripper, grasp, thorough or most > 1))
    return tuple(found)


def _plan(cloud, detection, others, gripper: GripperConfig, thorough: bool, most: int) -> list[Judged]:
    site = site_of(cloud, detection, others, gripper, sideways=thorough)
    holds_n = 2 * gripper.friction * gripper.force
    if site.weight_n > holds_n:
        return [
            _refused(
                _across_the_box(
                    site, max(0.0, site.top_m - gripper.finger_length / 2), _too_heavy(site, holds_n, gripper)
                )
            )
        ]
    wanted = max(most, _TRIED) if thorough else 1
    good, failure, crowded = _from_above(cloud, site, gripper, wanted)
    if not thorough:
        if crowded and not good:
            good = _from_any_side(cloud, site, gripper, wanted)
        return [max(good, key=lambda j: j.rating)] if good else [_refused(failure)]
    few = wanted // 2 if most > 1 else wanted  # the other half come from the side
    good = on_average(cloud, site, _different(good, few), gripper)
    if most > 1 or not any(j.rating > _GOOD for j in good):
        every = max(_PAIRED, 4 * most) if most > 1 else 2 * wanted  # the best of each lean is among all of them
        turned = _different(_from_any_side(cloud, site, gripper, every), wanted)
        good = _different(good + on_average(cloud, site, turned, gripper), most)
    if not good:
        return [_refused(failure)]
    likely = [j for j in good if share_that_holds(j.rating, averaged=True) > _LIKELY]
    return _different(likely, most) or [_refused(replace(good[0], fault=_UNLIKELY))]


def _too_heavy(site: Site, holds_n: float, gripper: GripperConfig) -> str:
    return (
        f"too heavy: {site.weight_n / 9.81:.1f} kg by its volume and gripper.density {gripper.density:g} kg/m3, since nobody has "
        f"weighed it; two fingers of {gripper.force:g} N and friction {gripper.friction:g} hold {holds_n / 9.81:.1f} kg"
    )


def _refused(failure: Judged) -> Judged:
    """With what was not known when it was tried."""
    site, unknown = failure.site, []
    if site.measured.all():
        unknown.append(_BLIND)
    if site.missing_m:
        unknown.append(f"a side is missing: its 2D box reaches {site.missing_m:.3f} m beyond what was measured of it")
    return replace(failure, fault="; ".join((failure.fault, *unknown)))


def _from_any_side(cloud: SceneCloud, site: Site, gripper: GripperConfig, wanted: int) -> list[Judged]:
    turned = judge(cloud, site, opposed_poses(site, gripper, max(_PAIRED, wanted)), gripper, wanted)
    return [j for j in turned if not j.fault]


def _different(good: list[Judged], most: int) -> list[Judged]:
    """At most `most`: the best, then the best of the other leans that are nearly as good, then whatever is not the same again."""
    good = sorted(good, key=lambda j: -j.rating)
    kept, rest, leans = [], [], set()
    for grasp in good:
        lean = round(math.acos(min(1.0, float(grasp.local_R_jaws[2, 2]))) / _LEAN)
        if lean in leans or grasp.rating < _AS_GOOD * good[0].rating:
            rest.append(grasp)
        else:
            leans.add(lean)
            kept.append(grasp)
    kept = kept[:most]
    for grasp in rest:
        if len(kept) == most:
            break
        if not any(_alike(grasp, other) for other in kept):
            kept.append(grasp)
    return sorted(kept, key=lambda j: -j.rating)


def _alike(a: Judged, b: Judged) -> bool:
    axes = np.abs((a.local_R_jaws * b.local_R_jaws).sum(0))
    near = float(np.linalg.norm(a.at_m - b.at_m)) < _DIFFERENT_M
    return near and axes[1] > _DIFFERENT and float(a.local_R_jaws[:, 2] @ b.local_R_jaws[:, 2]) > _DIFFERENT


def _from_above(
    cloud: SceneCloud, site: Site, gripper: GripperConfig, wanted: int
) -> tuple[list[Judged], Judged | None, bool]:
    """Grasps straight down; where there are none the best failure, and whether room was what it lacked."""
    lowest = site.top_m - gripper.finger_length + gripper.clearance
    lowest = max(lowest, gripper.clearance) if site.stands else lowest
    bite = site.top_m - lowest
    if bite < _MIN_BITE_M:
        fault = (
            f"too flat: fingertips {gripper.clearance:.3f} m above the support would hold "
            f"{max(bite, 0.0):.3f} m of its {max(bite, 0.0) + gripper.clearance:.3f} m, "
            f"{_MIN_BITE_M:.3f} m are needed"
        )
        return [], _across_the_box(site, lowest, fault), False
    yaws = site.box_yaw_rad + np.arange(_YAWS) * np.pi / _YAWS
    ground = terrain(site.points, site.rest, site.middle_xy_m, site.stands, gripper)
    places, failures = find_places(
        ground, gripper, site.top_m, lowest, yaws, _JUDGED if wanted > 1 else _JUDGED_QUICKLY
    )
    judged = judge(cloud, site, places.poses(site.middle_xy_m), gripper, wanted)
    good = [j for j in judged if not j.fault]
    if good:
        return good, None, False
    if judged:
        obvious = _across_the_box(site, lowest, "")
        fault = judged[0].fault
        if obvious.width_m + 2 * gripper.clearance > gripper.max_width:
            fault = f"{too_wide(obvious.width_m, gripper)}; where it is narrower, {fault}"
        return [], replace(judged[0], fault=fault), any(j.crowded for j in judged)
    return [], _no_place(site, failures, gripper, lowest), failures.no_room + failures.palm > 0


def _across_the_box(site: Site, tip: float, fault: str) -> Judged:
    """The obvious pose: jaws across the middle of the object, along its box's narrower side."""
    yaws = site.box_yaw_rad + np.array((0.0, np.pi / 2))
    axes = upright_axes(yaws)
    spans = np.ptp(site.points @ axes[:, :, 1].T.astype(np.float32), axis=0)
    k = int(spans.argmin())
    return Judged(site, axes[k], np.array((*site.middle_xy_m, tip)), float(spans[k]), fault=fault)


def _no_place(site: Site, failures: Failures, gripper: GripperConfig, lowest: float) -> Judged:
    if failures.narrowest is None:
        return _across_the_box(site, lowest, "no line through the object is covered by its points")
    width, yaw, across, along, tip = failures.narrowest
    (axes,) = upright_axes(np.array((yaw,)))
    at_m = along * axes[:, 1] - across * axes[:, 0] + np.array((*site.middle_xy_m, tip))
    if not failures.palm + failures.no_room:
        fault = too_wide(width, gripper)
    elif failures.palm:
        fault = (
            f"the palm would touch something higher than {tip + gripper.finger_length:.3f} m above the "
            f"support at each of the {failures.palm} places where the fingers fit"
        )
    else:
        fault = (
            f"fingers need {gripper.finger_thickness + gripper.clearance:.3f} m of free space beside the "
            f"object; none of {failures.no_room} places has it"
        )
    if failures.too_wide and failures.palm + failures.no_room:
        fault += f"; {failures.too_wide} other places are wider than the gripper's {gripper.max_width:.3f} m"
    return Judged(site, axes, at_m, width, fault=fault)


def _target(
    cloud: SceneCloud, detection: Detection3D, gripper: GripperConfig, grasp: Judged, averaged: bool
) -> GraspTarget:
    camera_T_local = grasp.site.camera_T_local
    closing, approach = grasp.local_R_jaws[:, 1], -grasp.local_R_jaws[:, 2]
    right = 1 if (camera_T_local[:3, :3] @ closing)[0] >= 0 else -1
    closing = (grasp.facing or right) * closing  # either sign closes the same jaws: take the camera's right
    local_T_gripper = np.eye(4)
    (a, b, c), (p, q, r) = closing, approach
    across = b * r - c * q, c * p - a * r, a * q - b * p
    local_T_gripper[:3, :3] = np.array((across, closing, approach)).T
    local_T_gripper[:3, 3] = grasp.at_m
    return GraspTarget(
        detection.id,
        detection.label,
        detection.frame_id,
        cloud.frame_T_camera @ camera_T_local @ local_T_gripper,
        grasp.width_m,
        gripper.standoff,
        0.0 if grasp.fault else share_that_holds(grasp.rating, averaged),
        not grasp.fault,
        grasp.fault,
        grasp.opening_m
        if math.isfinite(grasp.opening_m)
        else min(gripper.max_width, grasp.width_m + 2 * gripper.clearance),
    )
