"""Somebody who follows instructions by the node's contract, without a model or an arm: plans what it is told, does a plan once, and as
long as the test lets it.
"""

from __future__ import annotations

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from vision_msgs.msg import Detection3D

from qwen3vl_ros.action import FollowInstruction
from qwen3vl_ros.msg import Plan, PlanStep
from qwen3vl_ros.node.client import LATCHED

R = FollowInstruction.Result


class Follower:
    """done: how many plans were carried out. finish(): lets the one that is being done end."""

    def __init__(self, graph, namespace: str):
        self._plan, self._running, self.done = Plan(plan_id=6), None, 0
        self._second = None
        self._publisher = graph.node.create_publisher(Plan, f"/{namespace}/perception/plan", LATCHED)
        self._server = ActionServer(
            graph.node,
            FollowInstruction,
            f"/{namespace}/perception/follow_instruction",
            execute_callback=self._follow,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=self._cancel,
            callback_group=ReentrantCallbackGroup(),
        )
        self._node = graph.node

    def contest(self) -> None:
        """The next approval is taken up once a second one has come."""
        self._second = Future(executor=self._node.executor)

    def finish(self) -> None:
        self._running.set_result(R.OK)

    def _cancel(self, goal) -> CancelResponse:
        if self._running and not self._running.done():
            self._running.set_result(R.CANCELLED)
        return CancelResponse.ACCEPT

    async def _follow(self, goal):
        asked = goal.request
        is_newest = (asked.plan_id, asked.revision) == (self._plan.plan_id, self._plan.revision)
        if asked.steps:
            if not is_newest:
                return self._ended(goal, R.REJECTED, f"plan {asked.plan_id} has another revision now")
            self._plan.steps = list(asked.steps)
            self._tell(revision=self._plan.revision + 1)
            return self._ended(goal, R.OK, "")
        if not asked.execute:
            self._tell(plan_id=self._plan.plan_id + 1, instruction=asked.instruction, executable=True)
            self._plan.steps = [
                PlanStep(action="pick", object="<b>红色的盒子</b>", target=Detection3D(id="1")),
                PlanStep(action="place", object="红色的盒子", relation="on", reference="架子第二层"),
            ]
            self._tell(revision=1)
            return self._ended(goal, R.OK, "")
        if self._running is not None:
            if self._second is not None:
                self._second.set_result(None)
            return self._ended(goal, R.BUSY, "another instruction is being carried out")
        if not is_newest or not self._plan.executable:
            return self._ended(goal, R.REJECTED, f"plan {asked.plan_id} has another revision now")
        self._running = Future(executor=self._node.executor)
        if self._second is not None:
            await self._second
            self._second = None
        self._plan.steps[0].status = PlanStep.RUNNING
        self._tell(revision=self._plan.revision + 1, executable=False)
        goal.publish_feedback(FollowInstruction.Feedback(step=0, state="executing", message="closing"))
        code = await self._running
        self._running = None
        for step in self._plan.steps:
            step.status = PlanStep.DONE if code == R.OK else PlanStep.FAILED
        self.done += code == R.OK
        self._tell(revision=self._plan.revision + 1)
        return self._ended(goal, code, "the arm stands still" if code == R.CANCELLED else "")

    def _tell(self, **changed) -> None:
        for name, value in changed.items():
            setattr(self._plan, name, value)
        self._publisher.publish(self._plan)

    def _ended(self, goal, code: int, message: str) -> R:
        (goal.canceled if code == R.CANCELLED else goal.succeed if code == R.OK else goal.abort)()
        return R(code=code, message=message, plan=self._plan)
