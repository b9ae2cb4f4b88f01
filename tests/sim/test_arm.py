"""The simulated arm holds what contact holds, goes where it can go, and says what stopped it."""

import numpy as np
import pytest

from qwen3vl_ros.sim.arm import OPEN_M, REST, Arm, furnish
from qwen3vl_ros.sim.faults import ArmError, Collision, Slipped, Unreachable
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.pick_place import PickPlace
from qwen3vl_ros.sim.specs import ObjectSpec, SceneSpec, ShelfSpec

CUBE = ObjectSpec("cube", "red", (0.045,) * 3, (0.0, -0.10, 0.0225), 0.0)
MUG = ObjectSpec("mug", "blue", (0.109, 0.08, 0.09), (0.05, 0.12, 0.045), 0.4)
SHELF = ShelfSpec((0.05, 0.16), -np.pi / 2, (0.36, 0.2), 2, 0.24, (0.6, 0.5, 0.4))
BASE = np.eye(4)
BASE[0, 3] = -0.45


def arm_at(*objects, shelf=None) -> Arm:
    world = PhysicalWorld(SceneSpec(0, objects, shelf=shelf), lambda build: furnish(build, BASE))
    arm = Arm(world)
    world.settle()
    return arm


def above(x, y, z, yaw_deg=0.0):
    """world_T_gripper that looks straight down and closes along yaw from +y."""
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = ((c, s, 0), (s, -c, 0), (0, 0, -1)), (x, y, z)
    return pose


@pytest.mark.parametrize("opening", [0.0, 0.03, 0.06, OPEN_M])
def test_the_fingertips_are_where_they_shall_be_whatever_the_opening(opening):
    arm, goal = arm_at(CUBE), above(0.0, 0.1, 0.12, 30)
    arm.follow(arm.ways.way(arm.joints(), arm.reach(goal, opening)))
    arm.open(opening)
    assert arm.opening_m() == pytest.approx(opening, abs=0.003)
    assert np.linalg.norm(arm.gripper()[:3, 3] - goal[:3, 3]) < 0.002
    assert np.degrees(np.arccos(np.clip(arm.gripper()[:3, 2] @ goal[:3, 2], -1, 1))) < 1.0


def test_a_cube_is_picked_carried_and_put_down_where_it_was_told():
    arm = arm_at(CUBE, MUG)
    hand, mug = PickPlace(arm), arm.world.pose(1)
    hand.pick(above(0.0, -0.10, 0.015), 0.045)
    assert hand.held == 0 and arm.holds(0)
    assert arm.world.pose(0)[2, 3] > 0.0225 + 0.08
    hand.place(above(0.15, -0.05, 0.019, 90))
    arm.world.settle()
    assert hand.held is None and not arm.holds(0)
    assert np.linalg.norm(arm.world.pose(0)[:3, 3] - (0.15, -0.05, 0.0225)) < 0.008
    assert np.linalg.norm(arm.world.pose(1)[:3, 3] - mug[:3, 3]) < 0.002, "the mug was touched"
    assert np.abs(arm.joints() - REST).max() < 0.01


def test_jaws_that_close_on_nothing_say_so_and_the_next_pick_works():
    hand = PickPlace(arm_at(CUBE))
    with pytest.raises(Slipped, match="closed on nothing"):
        hand.pick(above(0.1, 0.1, 0.02), 0.04)
    hand.pick(above(0.0, -0.10, 0.015), 0.045)
    assert hand.held == 0


def test_what_is_taken_away_during_the_lift_has_slipped():
    arm = arm_at(CUBE)
    hand = PickPlace(arm)

    def pull():
        if arm.touched() == {0} and arm.world.pose(0)[2, 3] > 0.04:
            away = np.eye(4)
            away[:3, 3] = (0.25, 0.25, 0.0225)
            arm.world.move(0, away)

    arm.each_step = pull
    with pytest.raises(Slipped, match="slipped out of the jaws"):
        hand.pick(above(0.0, -0.10, 0.015), 0.045)
    assert hand.held is None


def test_out_of_reach_and_in_the_way_are_told_apart():
    arm = arm_at(CUBE, MUG, shelf=SHELF)
    hand = PickPlace(arm)
    with pytest.raises(Unreachable, match="no joint angles"):
        hand.pick(above(0.9, 0.0, 0.1), 0.04)
    with pytest.raises(Collision, match="would touch"):
        hand.pick(above(0.05, 0.16, 0.05), 0.04)  # straight down through the upper board
    with pytest.raises(ArmError, match="holds nothing"):
        hand.place(above(0.0, 0.0, 0.1))
    assert np.abs(arm.joints() - REST).max() < 0.01, "nothing moves that cannot be done"


def test_a_way_leads_around_what_stands_between():
    wall = ObjectSpec("box", "green", (0.03, 0.25, 0.30), (0.02, -0.05, 0.15), 0.0)
    arm = arm_at(CUBE.__class__("cube", "red", (0.04,) * 3, (-0.12, -0.05, 0.02), 0.0), wall)
    start, goal = (arm.reach(above(x, -0.05, 0.08), 0.04) for x in (-0.12, 0.16))
    path = arm.ways.way(start, goal)
    for a, b in zip(path, path[1:]):
        assert not any(arm.ways.blocked(a + (b - a) * s) for s in np.linspace(0, 1, 25))
    assert len(path) > 2


def test_the_same_world_does_the_same_twice():
    ends = []
    for _ in range(2):
        hand = PickPlace(arm_at(CUBE, MUG))
        hand.pick(above(0.0, -0.10, 0.015), 0.045)
        ends.append(hand.arm.world.pose(0))
    assert np.array_equal(*ends)


def test_what_stands_under_a_board_is_drawn_out_and_not_lifted_into_it():
    can = ObjectSpec("cylinder", "blue", (0.045, 0.045, 0.11), (0.05, 0.12, 0.02 + 0.055), 0.0)
    arm = arm_at(can, shelf=ShelfSpec((0.05, 0.16), -np.pi / 2, (0.36, 0.2), 2, 0.22, (0.6, 0.5, 0.4)))
    hand, lean = PickPlace(arm), np.radians(65)
    approach, closing = np.array((0.0, np.sin(lean), -np.cos(lean))), np.array((1.0, 0.0, 0.0))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack((np.cross(closing, approach), closing, approach), 1), (0.05, 0.12, 0.09)
    hand.pick(pose, 0.045)
    assert hand.held == 0 and arm.holds(0)
    at = arm.world.pose(0)[:3, 3]
    assert at[1] < 0.06 - 0.0225 + 0.02, "in front of the shelf"
    assert at[2] > 0.08


def test_what_jaws_would_close_on_is_what_lies_between_them_and_not_what_is_nearest():
    tray = ObjectSpec("tray", "white", (0.26, 0.19, 0.022), (0.03, -0.10, 0.011), 0.0)
    arm = arm_at(tray, ObjectSpec("ball", "blue", (0.046,) * 3, (0.0, -0.10, 0.03), 0.0))
    ball = arm.world.pose(1)[:3, 3]
    assert arm.between(above(*ball), 0.03) == 1
    assert arm.between(above(*ball + (0, 0, 0.1)), 0.03) is None


def test_jaws_count_as_they_would_stand_where_they_are_only_thought_of():
    arm, pose = (
        arm_at(CUBE, ObjectSpec("box", "green", (0.1, 0.02, 0.035), (0.0, -0.042, 0.0175), 0.0)),
        above(0.0, -0.10, 0.02),
    )
    hits = {}
    for opening in (0.055, OPEN_M):
        arm.would_open(opening)
        hits[opening] = arm.ways.blocked(arm.reach(pose, opening), frozenset({0}))
        arm.would_open(None)
    assert not hits[0.055] and "object1" in hits[OPEN_M]


def test_what_meets_its_support_a_little_early_is_let_go_there():
    hand = PickPlace(arm_at(CUBE))
    hand.pick(above(0.0, -0.10, 0.015), 0.045)
    hand.place(above(0.15, -0.05, 0.0115, 90))
    assert hand.held is None
    hand.arm.world.settle()
    assert np.linalg.norm(hand.arm.world.pose(0)[:3, 3] - (0.15, -0.05, 0.0225)) < 0.012


def test_an_arm_has_several_postures_for_one_pose_of_its_hand():
    arm = arm_at(CUBE)
    pose = above(0.1, 0.1, 0.15)
    found = arm.reaches(pose, 0.04)
    assert len(found) > 1
    assert min(np.abs(a - b).max() for k, a in enumerate(found) for b in found[:k]) > 0.2
    arm.open(0.04)
    for q in found[:3]:
        arm.world.data.qpos[arm._q] = arm.world.data.ctrl[arm._motors] = q
        arm.world.step(0.05)
        assert np.linalg.norm(arm.gripper()[:3, 3] - pose[:3, 3]) < 0.012
