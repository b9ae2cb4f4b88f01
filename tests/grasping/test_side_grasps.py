"""Grasps from any side: contact first, the approach turned about the closing axis, several an object."""

from __future__ import annotations

import math
from dataclasses import replace

import depth_scenes as ds
import numpy as np
import pytest

from qwen3vl_ros.config import GripperConfig, LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.types import Detection2D, GraspTarget

GRIPPER = GripperConfig()
TALL = ds.box((0.05, 0.06, 0.14), yaw=0.3)
FROM_THE_SIDE = ds.look_from(30, 20)


def several(scene: ds.Scene, gripper: GripperConfig = GRIPPER, most: int = 8) -> list[GraspTarget]:
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D("thing", scene.box_px(0), 0.9, "0")])
    return list(plan_grasps(cloud, lifted.detections, gripper, most=most))


def pose(scene: ds.Scene, target: GraspTarget) -> np.ndarray:
    return scene.world_T_camera @ target.frame_T_gripper


def tilt_deg(scene: ds.Scene, target: GraspTarget) -> float:
    return math.degrees(math.acos(np.clip(-pose(scene, target)[2, 2], -1, 1)))


@pytest.mark.parametrize("solid", (TALL, ds.cylinder(0.06, 0.14), ds.box((0.12, 0.05, 0.2))))
def test_a_tall_thing_is_held_from_above_and_from_the_side(solid):
    scene = ds.Scene([solid], FROM_THE_SIDE)
    tilts = [tilt_deg(scene, t) for t in several(scene)]
    assert min(tilts) < 1 and max(tilts) > 80, tilts


def test_the_best_is_first_and_no_two_are_the_same():
    scene = ds.Scene([TALL], FROM_THE_SIDE)
    targets = several(scene)
    assert 4 <= len(targets) <= 8 and all(t.feasible for t in targets)
    quality = [t.quality for t in targets]
    assert quality == sorted(quality, reverse=True)
    assert several(scene, most=1)[0].quality == pytest.approx(quality[0], abs=0.1), "one alone is as good as the first"
    for k, a in enumerate(targets):
        for b in targets[:k]:
            A, B = a.frame_T_gripper, b.frame_T_gripper
            turned = min(abs(A[:3, 1] @ B[:3, 1]), A[:3, 2] @ B[:3, 2]) < math.cos(math.radians(20))
            assert turned or np.linalg.norm(A[:3, 3] - B[:3, 3]) > 0.02


@pytest.mark.parametrize("limit", (0.0, 40.0, 70.0))
def test_none_leans_farther_than_allowed(limit):
    scene = ds.Scene([TALL], FROM_THE_SIDE)
    tilts = [tilt_deg(scene, t) for t in several(scene, replace(GRIPPER, max_tilt_deg=limit))]
    assert max(tilts) < limit + 0.1 and (limit == 0 or max(tilts) > 25)


def test_a_low_thing_leaves_no_room_for_a_level_hand():
    scene = ds.Scene([ds.box((0.05, 0.06, 0.045))], FROM_THE_SIDE)
    for target in several(scene):
        R, at = pose(scene, target)[:3, :3], pose(scene, target)[:3, 3]
        palm = at[2] - R[2, 2] * GRIPPER.finger_length
        palm -= abs(R[2, 0]) * GRIPPER.palm_width / 2 + abs(R[2, 1]) * GRIPPER.palm_length / 2
        assert palm > 0, "the palm would be in the table"
        half = target.opening_m / 2 + GRIPPER.finger_thickness
        assert at[2] - abs(R[2, 0]) * GRIPPER.finger_width / 2 - abs(R[2, 1]) * half > 0, "and so would an open finger"


def test_what_stands_beside_is_not_touched_from_the_side():
    wall = ds.box((0.02, 0.3, 0.2), (0.09, 0.0))
    scene = ds.Scene([ds.box((0.05, 0.06, 0.14)), wall], ds.look_from(45, 100))
    for target in several(scene):
        p = pose(scene, target)
        back = p[:3, 3] - p[:3, 2] * np.linspace(0, 0.15, 40)[:, None]  # the way of the hand's middle
        assert not ((np.abs(back[:, 0] - 0.09) < 0.01) & (np.abs(back[:, 1]) < 0.15) & (back[:, 2] < 0.2)).any()


def test_grasps_from_the_side_hold_in_the_physical_world():
    pytest.importorskip("mujoco")
    from qwen3vl_ros.sim.hand import FreeHand, furnish_hand
    from qwen3vl_ros.sim.physics import PhysicalWorld
    from qwen3vl_ros.sim.specs import ObjectSpec, SceneSpec

    cylinder, box = ds.cylinder(0.06, 0.13), ds.box((0.05, 0.06, 0.13), yaw=0.3)
    tried = held = 0
    for kind, solid, size, yaw in (
        ("cylinder", cylinder, (0.06, 0.06, 0.13), 0.0),
        ("cube", box, (0.05, 0.06, 0.13), 0.3),
    ):
        scene = ds.Scene([solid], FROM_THE_SIDE)
        spec = ObjectSpec(kind, "red", size, (0.0, 0.0, 0.065), yaw, (0.8, 0.1, 0.1))
        world = PhysicalWorld(SceneSpec(1, (spec,)), furnish_hand(GRIPPER, 0.8))
        hand = FreeHand(world, GRIPPER, 1)
        for target in several(scene):
            if tilt_deg(scene, target) > 50:
                tried += 1
                held += hand.grasp(pose(scene, target), target.width_m, target.opening_m, target.approach_m, 0).held
    assert tried >= 4 and held >= 0.75 * tried, (held, tried)
