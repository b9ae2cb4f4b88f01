"""docs/planners.md: its execute_step server answers every goal, over a real graph, and MoveIt's messages say what ours do."""

import math
import re
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
import rclpy
from moveit_standin import MoveIt, install
from rclpy.action import ActionClient
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from ros_graph import PATIENCE_S, START_PATIENCE_S, claim_domain
from std_msgs.msg import Header

from qwen3vl_ros.action import ExecuteStep
from qwen3vl_ros.msg import GraspTarget, PlaceTarget
from qwen3vl_ros.node import moveit
from qwen3vl_ros.node.goals import result_of, send_goal
from qwen3vl_ros.node.messages import pose_of
from qwen3vl_ros.types import InvalidInput

PAGE = Path(__file__).resolve().parents[2] / "docs" / "planners.md"
DOWN = np.array(((1.0, 0, 0, 0.4), (0, -1, 0, 0.1), (0, 0, -1, 0.05), (0, 0, 0, 1)))
Code = ExecuteStep.Result


def grasp(**more):
    fields = dict(
        detection_id="7", class_id="mug", width=0.05, opening=0.07, approach_distance=0.1, quality=0.9, feasible=True
    )
    return GraspTarget(pose=pose_of(DOWN), **(fields | more))


def place(**more):
    fields = dict(detection_id="7", support_id="table", approach_distance=0.12, quality=0.8, feasible=True)
    return PlaceTarget(release=pose_of(DOWN), **(fields | more))


# -- messages -------------------------------------------------------------------------------------------------------------
def test_a_grasp_of_moveit_is_of_the_hand_and_not_of_the_fingertips(monkeypatch):
    install(monkeypatch)
    made = moveit.grasp(Header(frame_id="base"), grasp())
    assert made.grasp_pose.header.frame_id == "base"
    assert np.allclose(moveit.matrix_of(made.grasp_pose.pose)[:3, 3], (0.4, 0.1, 0.05 + 0.1034))
    assert np.allclose(moveit.matrix_of(made.grasp_pose.pose) @ moveit.FRANKA_HAND.link_T_tip, DOWN)
    assert made.pre_grasp_posture.points[0].positions == pytest.approx([0.035, 0.035])
    assert made.pre_grasp_approach.direction.vector.z == pytest.approx(-1.0)
    assert made.pre_grasp_approach.desired_distance == pytest.approx(0.1)
    assert made.post_grasp_retreat.direction.vector.z == pytest.approx(1.0)
    assert made.post_place_retreat.direction.vector.z == pytest.approx(1.0)
    assert (made.id, made.grasp_quality) == ("7", pytest.approx(0.9)) and "7" in made.allowed_touch_objects


def test_a_link_that_is_turned_and_beside_the_fingers_is_found(monkeypatch):
    install(monkeypatch)
    c = math.sqrt(0.5)
    link_T_tip = np.array(((c, c, 0, 0.01), (-c, c, 0, 0), (0, 0, 1, 0.2), (0, 0, 0, 1)))
    tool = moveit.Tool("flange", link_T_tip, ("finger",), (1.0,))
    made = moveit.place_location(Header(frame_id="base"), place(), 0.06, tool)
    assert np.allclose(moveit.matrix_of(made.place_pose.pose) @ link_T_tip, DOWN, atol=1e-6)
    assert made.post_place_posture.points[0].positions == pytest.approx([0.06])
    assert "table" in made.allowed_touch_objects


def test_what_is_not_feasible_becomes_no_message(monkeypatch):
    install(monkeypatch)
    with pytest.raises(InvalidInput, match="not feasible: too wide"):
        moveit.grasp(Header(), grasp(feasible=False, reason="too wide"))
    with pytest.raises(InvalidInput, match="not feasible: no room"):
        moveit.place_location(Header(), place(feasible=False, reason="no room"), 0.06)


@pytest.mark.parametrize(
    "tip, joints, ratios, said",
    [
        (np.eye(3), ("a",), (1.0,), "4x4"),
        (2 * np.eye(4), ("a",), (1.0,), "4x4"),
        (np.eye(4), (), (), "at least one joint"),
    ],
)
def test_a_tool_that_cannot_be_is_refused(tip, joints, ratios, said):
    with pytest.raises(InvalidInput, match=said):
        moveit.Tool("link", tip, joints, ratios)


# -- the server -----------------------------------------------------------------------------------------------------------
class Graph:
    """The page's server and a client of it."""

    def __init__(self):
        self.context = rclpy.Context()
        domain, self._lock_file = claim_domain()
        self.context.init(domain_id=domain)
        self.robot, self._executor = MoveIt(), MultiThreadedExecutor(4, context=self.context)
        self.server = self._served()
        self.client_node = Node("planner_test", context=self.context)
        self.client = ActionClient(self.client_node, ExecuteStep, "execute_step")
        for node in (self.server, self.client_node):
            self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()
        assert self.client.wait_for_server(START_PATIENCE_S)

    def _served(self):
        text = re.search(r"```python\n(\"\"\"execute_step over.*?)```", PAGE.read_text(), re.S)[1]
        room = {"__name__": "page"}
        exec(compile(text, str(PAGE), "exec"), room)
        self.page = room
        inherited = room["Node"].__init__
        # The page's node lives in its own process; here it shares one with its client, in a context of their own.
        room["Steps"].__bases__ = (
            type("Node", (Node,), {"__init__": lambda node, name: inherited(node, name, context=self.context)}),
        )
        return room["Steps"](self.robot)

    def send(self, action, **fields):
        goal = ExecuteStep.Goal(header=Header(frame_id="base"), action=action, **fields)
        return came_of(send_goal(self.client_node, self.client, goal))

    def do(self, action, **fields):
        return self.result(self.send(action, **fields))

    def result(self, goal):
        return came_of(result_of(self.client_node, goal)).result

    def close(self):
        self._executor.shutdown()
        self._thread.join(PATIENCE_S)
        for node in (self.server, self.client_node):
            node.destroy_node()
        self.context.shutdown()
        self._lock_file.close()


def came_of(future):
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(PATIENCE_S), "no answer came"
    return future.result()


@pytest.fixture
def graph(monkeypatch):
    install(monkeypatch)
    graph = Graph()
    yield graph
    graph.close()


def test_a_pick_and_a_place_go_by_the_way_they_were_given(graph):
    picked = graph.do("pick", grasp=grasp())
    assert (picked.code, picked.holding, picked.opening) == (Code.OK, True, pytest.approx(0.05)), picked.message
    heights = [goal[1].pose.position.z for group, goal in graph.robot.went if group == "panda_arm"]
    assert heights == pytest.approx([0.05 + 0.1034 + 0.1, 0.05 + 0.1034, 0.05 + 0.1034 + 0.1])
    assert {goal[0] for group, goal in graph.robot.went if group == "panda_arm"} == {"panda_hand"}
    assert len(graph.robot.attached) == 1
    graph.robot.went.clear()
    put = graph.do("place", place=place())
    assert (put.code, put.holding) == (Code.OK, False), put.message
    *arm, last = [goal for group, goal in graph.robot.went if group == "panda_arm"]
    assert [goal[1].pose.position.z for goal in arm] == pytest.approx([0.2734, 0.1534, 0.2734]) and last == "ready"


def test_jaws_that_close_on_nothing_have_slipped_and_the_next_goal_works(graph):
    graph.robot.width_m = 0.0
    slipped = graph.do("pick", grasp=grasp())
    assert (slipped.code, slipped.retry, slipped.holding) == (Code.SLIPPED, True, False)
    graph.robot.width_m = 0.05
    assert graph.do("pick", grasp=grasp()).code == Code.OK


def test_what_fell_on_the_way_is_no_longer_held_and_the_next_goal_works(graph):
    assert graph.do("pick", grasp=grasp()).holding
    graph.robot.joints = dict.fromkeys(graph.robot.joints, 0.0)
    graph.robot.unreachable = (4,)  # the way to the place
    lost = graph.do("place", place=place())
    assert (lost.code, lost.holding) == (Code.UNREACHABLE, False), lost.message
    graph.robot.unreachable = ()
    assert graph.do("pick", grasp=grasp()).code == Code.OK


def test_where_no_way_leads_another_grasp_may_be_tried(graph):
    graph.robot.unreachable = (1,)
    told = graph.do("pick", grasp=grasp())
    assert (told.code, told.retry) == (Code.UNREACHABLE, True)
    assert graph.do("pick", grasp=grasp()).code == Code.OK


@pytest.mark.parametrize("action, said", [("dance", "no action"), ("place", "holds nothing")])
def test_what_cannot_be_done_is_answered_all_the_same(graph, action, said):
    told = graph.do(action)
    assert told.code == Code.REJECTED and said in told.message


def test_a_cancel_stops_the_arm_and_is_answered(graph):
    graph.robot.slow = True
    goal = graph.send("pick", grasp=grasp())
    assert graph.robot.begun.wait(PATIENCE_S)
    while ("panda_arm" not in [group for group, _ in graph.robot.went]) and not graph.robot.stopped.wait(0.01):
        pass
    came_of(goal.cancel_goal_async())
    assert graph.result(goal).code == Code.CANCELLED
    assert graph.robot.stopped.is_set()
