"""The simulated robot and the perception node with the embedded model in one graph, and somebody who gives orders."""

from __future__ import annotations

from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.parameter import Parameter as PythonParameter
from ros_graph import PATIENCE_S, START_PATIENCE_S, Graph, until
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection3DArray

from qwen3vl_ros.action import FollowInstruction
from qwen3vl_ros.msg import Plan
from qwen3vl_ros.node.client import LATCHED
from qwen3vl_ros.node.goals import result_of, send_goal

MOTION_PATIENCE_S = 400.0
LIFTED_M = (
    0.10  # higher than things stand on the table; where no way leads to its rest, the arm stays as high as it lifts
)


class Order:
    """A goal that was sent. heard: (step, state) in their order; said: the messages beside them."""

    def __init__(self, node: Node, client: ActionClient, **fields):
        self.heard: list[tuple[int, str]] = []
        self.said: list[str] = []
        self._node = node
        self._accepted = send_goal(node, client, FollowInstruction.Goal(**fields), self._on_feedback)

    def _on_feedback(self, message) -> None:
        self.heard.append((message.feedback.step, message.feedback.state))
        self.said.append(message.feedback.message)

    @property
    def handle(self):
        until(self._accepted.done, PATIENCE_S, "acceptance of the goal")
        return self._accepted.result()

    def reaches(self, state: str, said: str = "") -> Order:
        def reached():
            return any(s == state and said in (m, "") for (_, s), m in zip(self.heard, self.said))

        until(reached, MOTION_PATIENCE_S, f"state {state} {said}")
        return self

    def cancel(self) -> Order:
        self.handle.cancel_goal_async()
        return self

    def result(self) -> FollowInstruction.Result:
        result = result_of(self._node, self.handle)
        until(result.done, MOTION_PATIENCE_S, "the result")
        return result.result().result


class Workbench:
    """Started; parameters are the perception node's, by their names, with __ for a dot."""

    def __init__(self, graph: Graph, robot: dict | None = None, **parameters):
        self.graph = graph
        self.robot = self.start_robot(**(robot or {}))
        given = {
            "use_sim_time": True,
            "target_frame": "world",
            "robot_frame": "arm_link0",
            "targets": None,
            "request_timeout": 300.0,  # a slow machine shall only be slow
            "generation__deadline": 300.0,
        } | parameters
        given |= {
            "enabled": False,
            "max_age": 60.0,
        }  # of the simulation's time, which runs four times as fast where it can
        arguments = ["-m", "qwen3vl_ros.node.perception.main", "--ros-args"]
        for name, value in given.items():
            if value is not None:
                text = str(value).lower() if isinstance(value, bool) else value
                arguments += ["-p", f"{name.replace('__', '.')}:={text}"]
        self.node = graph.start(*arguments, name="perception")
        self._client = ActionClient(graph.node, FollowInstruction, "/qwen3vl/perception/follow_instruction")
        assert self._client.wait_for_server(MOTION_PATIENCE_S)
        self.node.logged("active: ", MOTION_PATIENCE_S)
        self.plans: list[Plan] = graph.messages["plans"]
        graph.node.create_subscription(Plan, "/qwen3vl/perception/plan", self.plans.append, LATCHED)
        self.truth = graph.listen("/qwen3vl/sim_robot/ground_truth_3d", Detection3DArray)
        until(lambda: self.truth, START_PATIENCE_S, "a picture")

    def start_robot(self, **parameters):
        # A picture costs a slow machine more than all that moves between two: at a higher rate it loses depth images.
        given = {"pace": 4.0, "rate": 1.0, "width": 640, "height": 480} | parameters
        arguments = [a for name, value in given.items() for a in ("-p", f"{name}:={value}")]
        robot = self.graph.start("-m", "qwen3vl_ros.node.sim_robot", "--ros-args", *arguments, name="robot")
        robot.logged("simulated arm", MOTION_PATIENCE_S)
        return robot

    def order(self, instruction: str = "", **fields) -> Order:
        return Order(self.graph.node, self._client, instruction=instruction, **fields)

    def plan(self, instruction: str) -> Plan:
        result = self.order(instruction).result()
        assert result.code == FollowInstruction.Result.OK, (result.code, result.message)
        return result.plan

    def carry_out(self, plan: Plan, **fields) -> Order:
        return self.order(plan_id=plan.plan_id, revision=plan.revision, execute=True, **fields)

    def fault(self, fault: str) -> None:
        self._set("/qwen3vl/sim_robot", "fault", fault)

    def set(self, name: str, value) -> None:
        self._set("/qwen3vl/perception", name, value)

    def reset(self) -> None:
        """A known world, whatever was done before: the node active, things where the scene has them, the gripper empty."""
        self.fault("")
        if self.graph.state() != "active":
            assert self.graph.transition("activate")
        until(lambda: not self._running(), MOTION_PATIENCE_S, "the end of the instruction before")
        answer = self.graph.call(Trigger, "/qwen3vl/sim_robot/reset", timeout_s=MOTION_PATIENCE_S)
        assert answer.success, answer.message
        self.where("red box")  # a picture of it

    def _running(self) -> bool:
        return self.order().result().code == FollowInstruction.Result.BUSY

    def _set(self, node: str, name: str, value) -> None:
        value = PythonParameter(name, value=value).to_parameter_msg().value
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        (result,) = self.graph.call(SetParameters, f"{node}/set_parameters", request).results
        assert result.successful, result.reason

    def where(self, label: str) -> tuple[float, float, float]:
        """The middle of an object, world, by the simulator, in a picture that is yet to come."""
        now = len(self.truth)
        until(lambda: len(self.truth) > now + 1, PATIENCE_S, "a picture")
        (thing,) = [d for d in self.truth[-1].detections if d.results[0].hypothesis.class_id == label]
        p = thing.bbox.center.position
        return p.x, p.y, p.z
