"""The node's side of execute_step, where no other process is needed: a base that moved, and nobody who serves the action."""

from types import SimpleNamespace

import numpy as np
import pytest

from qwen3vl_ros.action import ExecuteStep
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.plans import PlanStep
from qwen3vl_ros.node.perception import moving
from qwen3vl_ros.node.perception.looking import Eyes
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.types import Detection3D, GraspTarget

GRASP = GraspTarget("1", "red cube", "world", np.eye(4), 0.04, 0.1, 0.9, True)
STEP = PlanStep(
    Step("pick", "red cube"), Detection3D("1", "red cube", 0.9, "world", np.eye(4), np.full(3, 0.04)), (GRASP,)
)


def pose(x=0.0, turn_deg=0.0):
    c, s, made = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg)), np.eye(4)
    made[:2, :2], made[0, 3] = ((c, -s), (s, c)), x
    return made


class NoServer:
    def server_is_ready(self):
        return False


def motions(robot_moved=""):
    node = SimpleNamespace(
        config=SimpleNamespace(follow=SimpleNamespace(step_timeout=1.0, stop_timeout=0.1)),
        resolve_topic_name=lambda name: f"/qwen3vl/{name}",
    )
    return moving.Motions(node, NoServer(), lambda *_: None, 7, lambda: 0, lambda: robot_moved, lambda *_: None)


@pytest.mark.parametrize(
    "now, moved", [(pose(), ""), (pose(0.005), ""), (pose(0.02), "0.020 m"), (pose(0, 2.0), "2.0 degrees"), (None, "")]
)
def test_a_base_that_moved_since_the_picture_is_told(now, moved):
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=5))
    asking = SimpleNamespace(robot_at=lambda frame, stamp_ns: now)
    eyes = Eyes(SimpleNamespace(get_clock=lambda: clock), asking, None, Control())
    eyes._shot = SimpleNamespace(frame_T_robot=pose(), frame=SimpleNamespace(target_frame="world", frame_id="camera"))
    told = eyes.robot_moved()
    assert moved in told and bool(told) == bool(moved)


def test_a_motion_from_where_the_robot_no_longer_is_is_not_even_sent():
    done = motions("the robot's base has moved").pick(STEP, GRASP, Control())
    assert not done.ok and done.retry and "base has moved" in done.message


def test_nobody_who_serves_the_action_is_said_with_its_name(monkeypatch):
    monkeypatch.setattr(moving, "FOUND_S", 0.05)
    done = motions().pick(STEP, GRASP, Control())
    assert done.code == ExecuteStep.Result.NO_SERVER and "/qwen3vl/execute_step" in done.message and not done.retry
