"""The free-flying hand: it lifts what it closes on, misses what it does not, and does the same again from the same world."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.sim.hand import FreeHand, furnish_hand
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.solids import convex_pieces
from qwen3vl_ros.sim.specs import ObjectSpec, SceneSpec

GRIPPER = GripperConfig()


@pytest.fixture(scope="module")
def hand() -> FreeHand:
    cube = ObjectSpec("cube", "red", (0.05,) * 3, (0.0, 0.0, 0.025), 0.0, (0.8, 0.1, 0.1))
    other = ObjectSpec("cube", "blue", (0.05,) * 3, (0.2, 0.0, 0.025), 0.0, (0.1, 0.1, 0.8))
    world = PhysicalWorld(SceneSpec(1, (cube, other)), furnish_hand(GRIPPER, 0.8))
    return FreeHand(world, GRIPPER, 2)


def down_at(x: float, z: float) -> np.ndarray:
    pose = np.diag((-1.0, 1.0, -1.0, 1.0))
    pose[:3, 3] = x, 0.0, z
    return pose


def test_a_cube_held_in_its_middle_is_lifted_and_kept(hand):
    assert hand.grasp(down_at(0.0, 0.02), 0.05, 0.08, 0.1, 0).held


def test_the_same_grasp_from_the_same_world_ends_the_same(hand):
    pose = down_at(0.012, 0.03)
    assert hand.grasp(pose, 0.05, 0.08, 0.1, 0) == hand.grasp(pose, 0.05, 0.08, 0.1, 0)


def test_air_is_not_lifted_and_another_object_is_the_wrong_one(hand):
    assert hand.grasp(down_at(0.1, 0.02), 0.05, 0.08, 0.1, 0).fault == "not lifted"
    wrong = hand.grasp(down_at(0.2, 0.02), 0.05, 0.08, 0.1, 0)
    assert wrong.wrong and not wrong.held


def test_fingers_that_come_down_on_the_object_do_not_hold_it(hand):
    assert not hand.grasp(down_at(0.0, 0.02), 0.02, 0.03, 0.1, 0).held


def box_mesh(low, high):
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    faces = [
        (0, 1, 3),
        (0, 3, 2),
        (4, 6, 7),
        (4, 7, 5),
        (0, 4, 5),
        (0, 5, 1),
        (2, 3, 7),
        (2, 7, 6),
        (0, 2, 6),
        (0, 6, 4),
    ]
    faces += [(1, 5, 7), (1, 7, 3)]
    return np.array(low) + corners * (np.array(high) - low), np.array(faces)


def test_a_box_is_one_piece_and_an_angle_is_two():
    assert len(convex_pieces(*box_mesh((0, 0, 0), (0.06, 0.05, 0.04)))) == 1
    (a, fa), (b, fb) = box_mesh((0, 0, 0), (0.08, 0.02, 0.03)), box_mesh((0, 0.02, 0), (0.02, 0.08, 0.03))
    pieces = convex_pieces(np.concatenate((a, b)), np.concatenate((fa, fb + len(a))))
    assert len(pieces) >= 2
    filled = [piece for piece in pieces if np.all(np.ptp(piece, axis=0) > (0.07, 0.07, 0.02))]
    assert not filled, "no piece spans the empty corner"


@pytest.mark.parametrize("gap_m", (0.0002, 0.0005, 0.001))
def test_what_is_off_both_pads_for_a_moment_is_held_and_what_falls_is_not(hand, gap_m):
    """Stiff contacts chatter: a heavy slab touches neither pad for a time step now and then, and stays where it is."""
    assert hand.grasp(down_at(0.0, 0.02), 0.05, 0.08, 0.1, 0).held
    data = hand.world.data
    data.qpos[hand._fingers] += gap_m
    mujoco.mj_forward(hand.world.model, data)
    assert hand._held() == {0}
    data.ctrl[hand._motors] = 40.0
    hand._wait(0.1)
    assert hand._held() == set()
