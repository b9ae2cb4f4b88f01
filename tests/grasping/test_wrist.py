"""What is mounted behind the palm: a camera on one side of the hand turns it by half, or its grasp is refused."""

from __future__ import annotations

from dataclasses import replace

import depth_scenes as ds
import numpy as np
import pytest

from qwen3vl_ros.config import GripperConfig, LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.types import Detection2D

BARE = GripperConfig(max_tilt_deg=0.0)
CAMERA = replace(BARE, wrist_width=0.025, wrist_length=0.09, wrist_offset=0.07, wrist_behind=0.08)
THING = ds.box((0.05, 0.09, 0.05))


def wall(side: float):
    """Taller than where the camera begins, 65 mm beside the middle of the hand: the palm passes, the camera does not."""
    return ds.box((0.16, 0.02, 0.22), (0.0, side * 0.08))


def planned(solids, gripper, azimuth=0.0, **how):
    scene = ds.Scene([THING, *solids], ds.look_from(60, azimuth))
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D("thing", scene.box_px(0), 0.9, "0")])
    return scene, plan_grasps(cloud, lifted.detections, gripper, **how)


@pytest.mark.parametrize("thorough", (False, True))
@pytest.mark.parametrize("side", (1.0, -1.0))
def test_the_camera_is_turned_away_from_the_wall(side, thorough):
    scene, (target,) = planned([wall(side)], CAMERA, thorough=thorough)
    assert target.feasible, target.reason
    across = (scene.world_T_camera @ target.frame_T_gripper)[:3, 0]
    assert across[1] * side < -0.9, "the camera is at the gripper's +x"


@pytest.mark.parametrize("side", (1.0, -1.0))
def test_a_camera_on_the_other_side_of_the_hand_turns_it_the_other_way(side):
    scene, (target,) = planned([wall(side)], replace(CAMERA, wrist_offset=-0.07))
    assert (scene.world_T_camera @ target.frame_T_gripper)[1, 0] * side > 0.9


def test_between_two_walls_the_camera_has_no_room_and_that_is_said():
    walls = [wall(1.0), wall(-1.0)]
    assert planned(walls, BARE)[1][0].feasible
    (target,) = planned(walls, CAMERA)[1]
    assert not target.feasible and "behind the palm" in target.reason


def test_a_flange_wider_than_the_palm_keeps_off_a_wall_beside_it():
    flange = replace(BARE, wrist_width=0.25, wrist_length=0.09, wrist_behind=0.08)
    (target,) = planned([wall(1.0)], flange)[1]
    assert not target.feasible and "behind the palm" in target.reason
    assert planned([wall(1.0)], replace(flange, wrist_behind=0.25))[1][0].feasible, "it begins above the wall"


def test_from_the_side_the_camera_is_above_the_hand():
    scene = ds.Scene([ds.box((0.05, 0.06, 0.14), yaw=0.3)], ds.look_from(30, 20))
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D("thing", scene.box_px(0), 0.9, "0")])
    targets = plan_grasps(cloud, lifted.detections, replace(CAMERA, max_tilt_deg=90.0, wrist_offset=0.12), most=8)
    poses = [scene.world_T_camera @ t.frame_T_gripper for t in targets if t.feasible]
    level = [p for p in poses if p[2, 2] > -0.3]
    assert level and all(p[2, 0] > 0 for p in level), "its +x, where the camera is, points up"
    assert all(np.isclose(np.linalg.det(p[:3, :3]), 1) for p in poses)
