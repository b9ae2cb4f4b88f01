"""The node's side of `execute_step` and `check_reach`: a step's motion is a goal of the planner, awaited, and cancelled where it has
to end; and before anything is promised a planner that can be asked says what it could do.

Called from the thread of an instruction, while the executor's thread takes what the planner answers. Whatever the planner does, or
does not, is told as a Done; nothing here raises for it.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Callable

from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup

from qwen3vl_ros.action import ExecuteStep
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.plans import Done, PlanStep
from qwen3vl_ros.instructions.reach import ENOUGH
from qwen3vl_ros.node import messages, plan_messages
from qwen3vl_ros.node.goals import result_of, send_goal
from qwen3vl_ros.node.joining import FOUND_S
from qwen3vl_ros.srv import CheckReach
from qwen3vl_ros.types import GraspTarget, PlaceTarget

ACTION, ASKED = "execute_step", "check_reach"
POLL_S = 0.02
GONE_S = 2.0  # a planner that nobody sees any more for so long has gone away


class Mover:
    """Of a PerceptionNode, from its making to close()."""

    def __init__(self, node):
        self._node = node
        self._client = ActionClient(node, ExecuteStep, ACTION, callback_group=ReentrantCallbackGroup())
        self._asks = node.create_client(CheckReach, ASKED, callback_group=ReentrantCallbackGroup())

    def close(self) -> None:
        self._client.destroy()
        self._node.destroy_client(self._asks)

    def empty(self, control: Control) -> bool:
        """Whether the planner says that the gripper holds nothing; False where it does not say."""
        told = self.asked(CheckReach.Request(), control)
        return told is not None and not told.holding

    def asked(self, request: CheckReach.Request, control: Control) -> CheckReach.Response | None:
        """What the planner could do; None where it cannot be asked, or does not know."""
        if not self._asks.service_is_ready():
            return None
        answer = self._asks.call_async(request)
        if not until(answer.done, self._node.config.follow.step_timeout, control):
            self._asks.remove_pending_request(answer)
            why = "it gave no answer"
        elif (told := answer.result()).success:
            return told
        else:
            why = told.message
        name = self._node.resolve_service_name(ASKED)
        self._node.get_logger().warning(f"{name} was asked what the arm can reach: {why}; nothing is known of it")
        return None

    def during(self, plan_id: int, seen_ns: Callable[[], int], robot_moved: Callable[[], str], tell) -> Motions:
        """The Executor of one instruction. seen_ns(): stamp of the last picture. robot_moved(): how the base has moved since, "" for
        not at all. tell: as of a Performer; it is told what the arm does.
        """
        return Motions(self._node, self._client, self.asked, plan_id, seen_ns, robot_moved, tell)


class Motions:
    """An Executor whose arm is behind the action."""

    def __init__(self, node, client: ActionClient, asked, plan_id: int, seen_ns, robot_moved, tell):
        self._node, self._client, self._asked, self._robot_moved = node, client, asked, robot_moved
        self._plan_id, self._seen_ns, self._tell, self._step = plan_id, seen_ns, tell, 0
        self._taken: GraspTarget | None = None
        self._moving: ExecuteStep.Goal | None = None

    def tell(self, step: int, state: str, message: str) -> None:
        """As of a Performer, on its way to whoever gave the order: it says which step the next motion is of."""
        self._step = step
        self._tell(step, state, message)

    def reach(self, step: PlanStep, grasps, places, control: Control) -> tuple[str, ...] | None:
        header = messages.header_of(self._seen_ns(), step.target.frame_id)
        request = CheckReach.Request(
            header=header,
            target=plan_messages.target(header, step.target),
            grasps=messages.grasp_targets(header, grasps, 0).targets,
            places=[plan_messages.place(p, step.target) for p in places],
            enough=ENOUGH,
        )
        told = self._asked(request, control)
        return None if told is None else tuple(told.refused)

    def pick(self, step: PlanStep, grasp: GraspTarget, control: Control) -> Done:
        self._taken = grasp
        return self._carried_out(self._goal(step, grasp), control)

    def place(self, step: PlanStep, place: PlaceTarget, control: Control) -> Done:
        grasp = step.grasps[0] if step.remembered else self._taken
        goal = self._goal(step, grasp)
        goal.place = plan_messages.place(place, step.target)
        return self._carried_out(goal, control)

    def _goal(self, step: PlanStep, grasp: GraspTarget) -> ExecuteStep.Goal:
        header = messages.header_of(self._seen_ns(), grasp.frame_id)
        return ExecuteStep.Goal(
            header=header,
            plan_id=self._plan_id,
            step=self._step,
            action=step.told.action,
            target=plan_messages.target(header, step.target),
            grasp=messages.grasp_targets(header, (grasp,), 0).targets[0],
            timeout=float(self._node.config.follow.step_timeout),
        )

    def _carried_out(self, goal: ExecuteStep.Goal, control: Control) -> Done:
        self._moving = goal
        try:
            return self._awaited(goal, control)
        finally:
            self._moving = None

    def _awaited(self, goal: ExecuteStep.Goal, control: Control) -> Done:
        if moved := self._robot_moved():
            return Done(False, f"{moved} since the picture in which this was measured", True)
        if not until(self._client.server_is_ready, FOUND_S, control):
            name = self._node.resolve_topic_name(ACTION)
            return _failed(
                ExecuteStep.Result.NO_SERVER,
                f"nobody serves the action {name}; start a planner that does (docs/planners.md)",
            )
        end_s = time.monotonic() + goal.timeout
        accepting = send_goal(self._node, self._client, goal, lambda m: self._hear(goal, m.feedback.state))
        if not until(accepting.done, end_s - time.monotonic(), control, self._gone()):
            accepting.add_done_callback(_cancel_late)
            return self._unanswered(control, "the planner did not even accept the step")
        handle = accepting.result()
        if not handle.accepted:
            return _failed(ExecuteStep.Result.REJECTED, "the planner did not accept the step")
        result = result_of(self._node, handle)
        if not until(result.done, end_s - time.monotonic(), control, self._gone()):
            handle.cancel_goal_async()
            stopped = until(result.done, self._node.config.follow.stop_timeout, Control(), self._gone())
            if not (control.cancelled and stopped):
                return self._unanswered(control, f"the planner did not end the step within {goal.timeout:g} s")
        return _done(result.result().result)

    def _hear(self, goal: ExecuteStep.Goal, state: str) -> None:
        """The executor's thread: what the arm does now."""
        if self._moving is goal:
            self._tell(goal.step, "executing", state)

    def _unanswered(self, control: Control, why: str) -> Done:
        if not self._client.server_is_ready():
            return _failed(ExecuteStep.Result.NO_SERVER, "the planner went away while it carried out a step")
        if control.cancelled:
            why = f"the planner was told to stop and has not said that it did within {self._node.config.follow.stop_timeout:g} s"
        return _failed(ExecuteStep.Result.NO_ANSWER, why)

    def _gone(self) -> Callable[[], bool]:
        """A function that says, once it is so, that nobody has served the action for GONE_S."""
        seen_s = time.monotonic()

        def gone() -> bool:
            nonlocal seen_s
            now_s = time.monotonic()
            if self._client.server_is_ready():
                seen_s = now_s
            return now_s > seen_s + GONE_S

        return gone


def until(done: Callable[[], bool], seconds: float, control: Control, gone: Callable[[], bool] = lambda: False) -> bool:
    """Whether it was done before the time was over, the instruction was, or the planner was gone."""
    end_s = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end_s or control.cancelled or control.expired or gone():
            return False
        time.sleep(POLL_S)
    return True


def _cancel_late(accepting) -> None:
    """A goal that is accepted when nobody waits any more."""
    if accepting.exception() is None and (handle := accepting.result()).accepted:
        handle.cancel_goal_async()


def _failed(code: int, message: str) -> Done:
    return Done(False, message, False, math.nan, None, code)


def _done(result: ExecuteStep.Result) -> Done:
    ok = result.code == ExecuteStep.Result.OK
    said = _name(result.code)
    return Done(
        ok,
        "" if ok else f"{said}: {result.message}" if result.message else said,
        bool(result.retry) and not ok,
        float(result.opening),
        bool(result.holding),
        int(result.code),
    )


@functools.lru_cache(maxsize=None)
def _name(code: int) -> str:
    """Of a code of ExecuteStep, in words."""
    names = [n for n in dir(ExecuteStep.Result) if n.isupper() and getattr(ExecuteStep.Result, n) == code]
    return names[0].lower().replace("_", " ") if names else f"code {code}"
