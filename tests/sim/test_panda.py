"""All postures of a Panda, in closed form: each brings its last link where it should be, and the one that made the pose is among them."""

import numpy as np
import pytest

from qwen3vl_ros.sim.panda import postures

LIMITS = np.array(
    ((-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698))
    + ((-2.8973, 2.8973), (-0.0175, 3.7525), (-2.8973, 2.8973))
)
# Each joint's frame in the one before it, at angle 0, after Franka's own table: (turn about x in quarters, x, y, z).
JOINTS = (
    (0, 0, 0, 0.333),
    (-1, 0, 0, 0),
    (1, 0, -0.316, 0),
    (1, 0.0825, 0, 0),
    (-1, -0.0825, 0.384, 0),
    (1, 0, 0, 0),
    (1, 0.088, 0, 0),
)


def link7(q):
    """base_T_link7."""
    pose = np.eye(4)
    for (quarters, *at), angle in zip(JOINTS, q):
        joint, turn = np.eye(4), np.eye(4)
        joint[:3, 3] = at
        if quarters:
            joint[1:3, 1:3] = ((0, -quarters), (quarters, 0))
        turn[:2, :2] = ((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle)))
        pose = pose @ joint @ turn
    return pose


@pytest.mark.parametrize("seed", range(5))
def test_every_posture_is_one_of_the_pose_and_the_one_that_made_it_is_there(seed):
    rng = np.random.default_rng(seed)
    for q in rng.uniform(*LIMITS.T, (20, 7)):
        q[3] = min(q[3], -0.5)  # an arm that is stretched farther is not looked for: it reaches nothing more
        pose = link7(q)
        found = postures(pose, np.append(np.linspace(-2.8, 2.8, 15), q[6]), LIMITS)
        assert all(np.abs(link7(p) - pose).max() < 1e-9 for p in found)
        assert np.abs(found - q).max(1).min() < 1e-6
        assert ((found > LIMITS[:, 0]) & (found < LIMITS[:, 1])).all()


def test_out_of_reach_is_no_posture():
    pose = link7(np.zeros(7))
    pose[:3, 3] = 0.9, 0.4, 0.3
    assert len(postures(pose, np.linspace(-2.8, 2.8, 58), LIMITS)) == 0
