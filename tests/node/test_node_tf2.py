"""The adapter to tf2_ros, which the wheels do not have: a stand-in with its interface plays the late
transform.
"""

import sys
import types

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped

from qwen3vl_ros.node.perception.tf import BufferedTransforms, StaticTransforms, TransformUnavailable, transforms_for


class TransformException(Exception):
    """As tf2_ros.TransformException."""


@pytest.fixture
def tf2(monkeypatch):
    """A module tf2_ros whose buffer fails `late` times before it knows the transform."""
    module = types.ModuleType("tf2_ros")
    module.TransformException, module.late, module.asked, module.listening = TransformException, 0, [], 0
    module.cleared = 0

    class Buffer:
        def clear(self):
            module.cleared += 1

        def lookup_transform(self, target, source, stamp):
            module.asked.append((target, source, stamp.nanoseconds))
            if len(module.asked) <= module.late:
                raise TransformException("Lookup would require extrapolation into the future")
            found = TransformStamped()
            found.transform.translation.x = 2.0
            found.transform.rotation.w = 1.0
            return found

    class TransformListener:
        def __init__(self, buffer, node, spin_thread):
            module.listening += 1

        def unregister(self):
            module.listening -= 1

    module.Buffer, module.TransformListener = Buffer, TransformListener
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    return module


def test_the_pose_is_asked_at_the_stamp_and_waited_for_a_little(tf2):
    tf2.late = 3
    transforms = transforms_for(None)
    assert isinstance(transforms, BufferedTransforms)
    pose = transforms.lookup("/map", "camera", 123_000_000_456)
    assert np.allclose(pose[:3, 3], (2, 0, 0)) and np.allclose(pose[:3, :3], np.eye(3))
    assert tf2.asked == [("map", "camera", 123_000_000_456)] * 4
    transforms.close()
    assert tf2.listening == 0


def test_a_transform_that_does_not_come_is_a_reason_not_a_hang(tf2):
    tf2.late = 10**9
    with pytest.raises(TransformUnavailable, match="extrapolation into the future"):
        transforms_for(None).lookup("map", "camera", 1)


def test_a_jump_of_the_clock_empties_the_buffer(tf2):
    """tf2 drops what is older than its newest: the second round of a bag would have no transforms."""
    transforms_for(None).clear()
    assert tf2.cleared == 1


def test_without_tf2_ros_the_static_tree_answers(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    transforms = transforms_for(graph.node)
    assert isinstance(transforms, StaticTransforms)
    transforms.close()
