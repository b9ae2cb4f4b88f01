"""The static tree composes transforms, and says why when it cannot."""

import numpy as np
import pytest

from qwen3vl_ros.convert import rotation_of_quaternion
from qwen3vl_ros.node.perception.tf import StaticTree, TransformUnavailable


def pose(x, y, z, q=(0, 0, 0, 1)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation_of_quaternion(q), (x, y, z)
    return matrix


TURN = (0, 0, np.sqrt(0.5), np.sqrt(0.5))


@pytest.fixture
def tree():
    tree = StaticTree()
    tree.add("map", "base", pose(1, 0, 0, TURN))
    tree.add("base", "camera", pose(0, 0, 2))
    tree.add("base", "arm", pose(0, 3, 0))
    return tree


def test_a_point_of_the_camera_is_found_in_the_map(tree):
    assert np.allclose(tree.lookup("map", "camera") @ (1, 0, 0, 1), (1, 1, 2, 1))


def test_siblings_meet_at_their_ancestor_and_both_ways_are_inverse(tree):
    assert np.allclose(tree.lookup("arm", "camera")[:3, 3], (0, -3, 2))
    assert np.allclose(tree.lookup("arm", "camera") @ tree.lookup("camera", "arm"), np.eye(4))


def test_a_frame_to_itself_is_identity_even_if_nobody_published_it(tree):
    assert np.allclose(tree.lookup("alone", "alone"), np.eye(4))


@pytest.mark.parametrize(
    "target, words",
    [("gripper", "gripper.*not in /tf_static.*known: arm, base, camera, map"), ("odom", "does not connect")],
)
def test_reasons_name_the_frames(tree, target, words):
    tree.add("odom", "wheel", np.eye(4))
    with pytest.raises(TransformUnavailable, match=words):
        tree.lookup(target, "camera")


def test_a_dynamic_transform_on_the_way_is_the_reason(tree):
    tree.add("world", "elsewhere", np.eye(4))
    tree.add_moving("map")
    with pytest.raises(TransformUnavailable, match="dynamic transform of 'map'.*tf2_ros"):
        tree.lookup("world", "camera")


def test_a_loop_is_reported(tree):
    tree.add("camera", "map", np.eye(4))
    with pytest.raises(TransformUnavailable, match="loop"):
        tree.lookup("nowhere", "camera")
