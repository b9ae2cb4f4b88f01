"""Antipodal grasps for a parallel-jaw gripper, one for each measured object, or the reason for none.

`site.py` gathers the object and what surrounds it, `jaws.py` finds the places where fingers and palm fit, `judge.py` measures
each and `quality.py` rates it; the best is the answer. Conventions, with a drawing, in
docs/grasping.md: the gripper's origin is between the fingertips, +z is the approach (into the table), +y the
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
from qwen3vl_ros.grasping.judge import Judged, jaw_axes, judge, too_wide
from qwen3vl_ros.grasping.site import Site, leaning_site, site_of
from qwen3vl_ros.types import Detection3D, GraspTarget

_YAWS = 12
_JUDGED = 24
_MIN_BITE_M = 0.003
_GOOD = 0.91  # quality with which no other approach is looked for
_TILTS_DEG = (25.0, 50.0, 75.0)


def plan_grasps(
    cloud: SceneCloud, detections: Sequence[Detection3D], gripper: GripperConfig, thorough: bool = True
) -> tuple[GraspTarget, ...]:
    """One GraspTarget for each detection with measured points, in its frame; none for the model's guesses.

    The approach is straight down; where that finds nothing it leans by up to gripper.max_tilt_deg. thorough: it leans too where
    something is found that is not likely to hold, which may take ten times as long: for calls and plans, not for every
    answer of a stream. Quality is the share of such grasps that hold (quality.py). An infeasible target has quality 0,
    the best pose that was tried, and a reason.
    """
    measured = [d for d in detections if d.source == "depth" and len(d.points_camera_m)]
    return tuple(_plan(cloud, d, [o for o in measured if o is not d], gripper, thorough) for d in measured)


def _plan(
    cloud: SceneCloud, detection: Detection3D, others: Sequence[Detection3D], gripper: GripperConfig, thorough: bool
) -> GraspTarget:
    upright = site_of(cloud, detection, others, gripper)
    best, crowded = _best_on(cloud, upright, gripper)
    if (best.fault and (crowded or thorough)) or (thorough and best.quality < _GOOD):
        for tilt in np.unique(np.minimum(_TILTS_DEG, gripper.max_tilt_deg)):
            for direction in upright.box_yaw_rad + np.arange(4) * np.pi / 2 if tilt > 0 else ():
                leaning, _ = _best_on(cloud, leaning_site(upright, direction, math.radians(tilt)), gripper)
                if not leaning.fault and leaning.quality > best.quality:
                    best = leaning
    return _target(cloud, detection, gripper, best)


def _best_on(cloud: SceneCloud, site: Site, gripper: GripperConfig) -> tuple[Judged, bool]:
    """The best grasp along the site's approach, or the best failure; and whether room was what it lacked."""
    lowest = float(site.points[:, 2].max()) - gripper.finger_length + gripper.clearance
    if site.floor is not None:
        support = site.floor[0] * site.middle_xy_m[0] + site.floor[1] * site.middle_xy_m[1] + site.floor[2]
        lowest = max(lowest, support + gripper.clearance)
    bite = site.top_m - lowest
    if bite < _MIN_BITE_M:
        fault = (
            f"too flat: fingertips {gripper.clearance:.3f} m above the support would hold "
            f"{max(bite, 0.0):.3f} m of its {max(bite, 0.0) + gripper.clearance:.3f} m, "
            f"{_MIN_BITE_M:.3f} m are needed"
        )
        return _across_the_box(site, lowest, fault), False
    yaws = site.box_yaw_rad + np.arange(_YAWS) * np.pi / _YAWS
    ground = terrain(site.points, site.rest, site.middle_xy_m, site.floor, gripper)
    places, failures = find_places(ground, gripper, site.top_m, lowest, yaws, _JUDGED)
    judged = judge(cloud, site, places, gripper)
    good = [j for j in judged if not j.fault]
    if good:
        return max(good, key=lambda j: j.quality), False
    if judged:
        obvious = _across_the_box(site, lowest, "")
        fault = judged[0].fault
        if obvious.width_m + 2 * gripper.clearance > gripper.max_width:
            fault = f"{too_wide(obvious.width_m, gripper)}; where it is narrower, {fault}"
        return replace(judged[0], fault=fault), any("would touch" in j.fault for j in judged)
    return _no_place(site, failures, gripper, lowest), failures.no_room + failures.palm > 0


def _across_the_box(site: Site, tip: float, fault: str) -> Judged:
    """The obvious pose: jaws across the middle of the object, along its box's narrower side."""
    yaws = site.box_yaw_rad + np.array((0.0, np.pi / 2))
    spans = [
        float(np.ptp(jaw_axes(site.points, site.middle_xy_m, np.array((math.cos(a), math.sin(a))))[1])) for a in yaws
    ]
    k = int(np.argmin(spans))
    return Judged(site, float(yaws[k]), site.middle_xy_m, tip, spans[k], fault=fault)


def _no_place(site: Site, failures: Failures, gripper: GripperConfig, lowest: float) -> Judged:
    if failures.narrowest is None:
        return _across_the_box(site, lowest, "no line through the object is covered by its points")
    width, yaw, across, along, tip = failures.narrowest
    xy = (
        site.middle_xy_m
        + across * np.array((-math.sin(yaw), math.cos(yaw)))
        + along * np.array((math.cos(yaw), math.sin(yaw)))
    )
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
    return Judged(site, yaw, xy, tip, width, fault=fault)


def _target(cloud: SceneCloud, detection: Detection3D, gripper: GripperConfig, grasp: Judged) -> GraspTarget:
    closing = np.array((math.cos(grasp.yaw_rad), math.sin(grasp.yaw_rad), 0.0))
    down = np.array((0.0, 0.0, -1.0))
    camera_T_local = grasp.site.camera_T_local
    if (camera_T_local[:3, :3] @ closing)[0] < 0:  # either sign closes the same jaws: take the camera's right
        closing = -closing
    local_T_gripper = np.eye(4)
    local_T_gripper[:3, :3] = np.stack((np.cross(closing, down), closing, down), 1)
    local_T_gripper[:3, 3] = (*grasp.xy_m, grasp.tip_m)
    return GraspTarget(
        detection.id,
        detection.label,
        detection.frame_id,
        cloud.frame_T_camera @ camera_T_local @ local_T_gripper,
        grasp.width_m,
        gripper.standoff,
        min(1.0, grasp.quality),
        not grasp.fault,
        grasp.fault,
        grasp.opening_m
        if math.isfinite(grasp.opening_m)
        else min(gripper.max_width, grasp.width_m + 2 * gripper.clearance),
    )
