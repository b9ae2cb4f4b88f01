"""~/find_place, ~/plan and ~/follow_instruction: plans are made, reviewed, and carried out by whoever serves `execute_step`.

One instruction at a time, on a thread of its own, which looks by calls of the agenda (looking.py) and moves by goals of the
planner (moving.py). Nothing moves that was not asked for with `execute`. What a goal names wrongly, its result says in words.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Callable, Mapping

from rclpy.action import CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from qwen3vl_ros.action import FollowInstruction
from qwen3vl_ros.asking.finding import Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.perform import Code, Outcome, Performer, code_of
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import Plan, PlanStep
from qwen3vl_ros.instructions.scene import Placed
from qwen3vl_ros.msg import Plan as PlanMessage
from qwen3vl_ros.node import messages, plan_messages
from qwen3vl_ros.node.perception.agenda import Call, Job
from qwen3vl_ros.node.perception.asking import Asking, headers_of, in_frame, serve_action, told_errors
from qwen3vl_ros.node.perception.camera import LATCHED
from qwen3vl_ros.node.perception.channel import Channel
from qwen3vl_ros.node.perception.looking import Eyes, fresh
from qwen3vl_ros.node.perception.moving import Motions, Mover
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.srv import FindPlace
from qwen3vl_ros.types import Cancelled, DeadlinePassed, InvalidInput, PerceptionError, StaleFrame, quoted

NAMES = ("find_place", "plan", "follow_instruction")
PLANS = 16  # that may be carried out; older ones are forgotten
MAX_STEPS_IN_GOAL = 16
_ANSWERS = (Code.OK, Code.NOT_FOUND, Code.AMBIGUOUS)  # that a plan alone may end with


class Busy(PerceptionError):
    """Another instruction is being carried out."""


class Rejected(PerceptionError):
    """What was asked for cannot be carried out as it is."""


@dataclass(frozen=True, eq=False)
class _Known:
    """A plan that was published. camera: whose. held: the step it begins with because the gripper was not empty. begun: it was carried
    out, or tried.
    """

    plan: Plan
    camera: str
    held: PlanStep | None
    begun: bool = False


class Instructing:
    """Of a PerceptionNode, from its making to close(). pending: goals and calls that were not answered yet."""

    def __init__(
        self,
        node,
        channels: Mapping[str, Channel],
        needs_active: Callable[[], None],
        channel_of: Callable[[str], Channel],
        asking: Asking,
        qos,
    ):
        self._node, self._channels, self._asking = node, channels, asking
        self._needs_active, self._channel_of = needs_active, channel_of
        self.pending = 0
        self._running: Control | None = None
        self._plans: OrderedDict[int, _Known] = OrderedDict()
        # An id is never that of a plan that a client reviewed before the node was started again.
        self._ids = itertools.count(int(time.time()) & 0x7FFFFFFF)
        self._held: PlanStep | None = None
        self._spoken: tuple[Step, ...] = ()  # what the last order that was understood speaks of
        self._mover = Mover(node)
        self._out = node.create_publisher(PlanMessage, "~/plan", LATCHED)
        group = ReentrantCallbackGroup()
        node.create_service(FindPlace, "~/find_place", self._on_find_place, qos_profile=qos, callback_group=group)
        self._server = serve_action(node, FollowInstruction, "~/follow_instruction", self._on_follow, self._on_cancel)
        self._controls: dict[bytes, Control] = {}

    def close(self) -> None:
        self.stop("the node is shutting down")
        self._server.destroy()
        self._mover.close()

    def stop(self, reason: str) -> None:
        """End what is being carried out; the arm is told to stop. Any thread."""
        if (running := self._running) is not None:
            running.cancel(reason)

    # -- ~/find_place --------------------------------------------------------------------------------------------------

    async def _on_find_place(self, asked, response):
        error, result = None, None
        self.pending += 1
        try:
            with survivable("while taking a call"):
                future, answer = self._asking.future()
                self._node.engine_thread.submit(self._place_call(asked, answer))
            result = await future
        except PerceptionError as refused:
            error = refused
        finally:
            self.pending -= 1
        response.success, response.message = error is None, f"{type(error).__name__}: {error}" if error else ""
        if result is not None:
            shot, placed = result
            _, header = headers_of(shot.frame, placed.target.frame_id)
            response.header, response.target = header, plan_messages.target(header, placed.target)
            response.grasps = messages.grasp_targets(header, placed.grasps, 0).targets
            response.places = [plan_messages.place(p, placed.target) for p in placed.places]
            solid = in_frame(placed.found.detections_3d, header)
            response.detections_3d = messages.detections_3d(header, solid)
            if not any(p.feasible for p in placed.places):
                response.success, response.message = False, placed.places[0].reason
        return response

    def _place_call(self, asked, answer) -> Call:
        self._needs_active()
        channel = self._channel_of(asked.camera)
        told = Step("place", *(getattr(asked, n).strip() for n in ("object", "relation", "reference")))

        def perform(perception: Perception, job: Job, control: Control) -> tuple[Shot, Placed]:
            with survivable("while looking for a place"):
                perception.config = channel.config()
                shot = fresh(self._asking.shot(channel, job.snapshot))
                frame_id = shot.frame.target_frame or shot.frame.frame_id
                grasp = plan_messages.read_grasp(asked.grasp, frame_id, told.object) if asked.held else None
                return shot, Planner(perception).places(shot, told, grasp, control)

        return Call(channel.name, None, self._asking.timeout_s(asked.timeout), answer, perform=told_errors(perform))

    # -- ~/follow_instruction ------------------------------------------------------------------------------------------

    def _on_cancel(self, goal) -> CancelResponse:
        if (control := self._controls.get(bytes(goal.goal_id.uuid))) is not None:
            control.cancel("the goal was cancelled")
        return CancelResponse.ACCEPT

    async def _on_follow(self, goal):
        key, result = bytes(goal.goal_id.uuid), None
        self.pending += 1
        try:
            if goal.is_cancel_requested:
                raise Cancelled("the goal was cancelled")
            control = self._begin(goal.request)
            self._controls[key] = control
            future, answer = self._asking.future()
            try:
                with survivable("while taking a goal"):
                    threading.Thread(
                        target=self._work, args=(goal, control, answer), name="instruction", daemon=True
                    ).start()
            except PerceptionError:
                self._running = None
                raise
            result = await future
        except PerceptionError as refused:
            result = _failed(refused)
        finally:
            self.pending -= 1
            self._controls.pop(key, None)
        if goal.is_cancel_requested and result.code == Code.CANCELLED:
            goal.canceled()
        elif result.code == Code.OK or (not goal.request.execute and result.code in _ANSWERS):
            goal.succeed()
        else:
            goal.abort()
        return result

    def _begin(self, asked) -> Control:
        """Refuses what need not be begun; from its return on no other goal is taken until this one has ended."""
        self._needs_active()
        if not 0 <= asked.timeout < math.inf:
            raise Rejected(f"timeout is {asked.timeout}; it must be 0 (none) or more seconds")
        if self._running is not None:
            raise Busy("another instruction is being planned or carried out; cancel that, or wait for its end")
        if bool(asked.instruction.strip()) == bool(asked.plan_id):
            raise Rejected("give an instruction, or plan_id and revision of a plan that was reviewed, one of them")
        if asked.instruction.strip():
            phrases.checked_question(asked.instruction)
        if asked.steps and not asked.plan_id:
            raise Rejected("steps were given without the plan_id and revision of the plan that they change")
        if len(asked.steps) > MAX_STEPS_IN_GOAL:
            raise Rejected(f"{len(asked.steps)} steps were given, more than {MAX_STEPS_IN_GOAL}")
        self._running = Control(asked.timeout or None)
        return self._running

    def _work(self, goal, control: Control, answer) -> None:
        """The instruction's thread."""
        result, error = None, None
        try:
            with survivable("while following an instruction"):
                result = self._followed(goal, control)
        except PerceptionError as refused:
            result = _failed(refused)
        except BaseException as defect:
            error = Cancelled(f"the instruction failed: {type(defect).__name__}: {defect}")
            self._node.die(defect)
        finally:
            self._running = None
            answer(result, error)

    def _followed(self, goal, control: Control) -> FollowInstruction.Result:
        asked = goal.request
        known = self._reviewed(asked) if asked.plan_id else None
        channel = self._channel_of(known.camera if known else asked.camera)
        eyes = Eyes(self._node, self._asking, channel, control)

        def tell(step: int, state: str, message: str) -> None:
            if not self._node.stopping.is_set():
                goal.publish_feedback(FollowInstruction.Feedback(step=step, state=state, message=message))

        tell(0, "planning", "")
        if self._held is not None and self._mover.empty(control):
            self._held = None  # somebody took it
        if known is None:
            held = self._held
            number = next(self._ids)
            plan = eyes.plan_of(asked.instruction, held, self._spoken, self._arm(number, eyes, tell))
            self._spoken = tuple(s.told for s in plan.steps if not s.remembered) or self._spoken
            known = self._keep(_Known(replace(plan, plan_id=number), channel.name, held))
        elif asked.steps:
            told, held = [plan_messages.told_step(s) for s in asked.steps], self._held
            plan = eyes.edited(known.plan, told, held, self._arm(known.plan.plan_id, eyes, tell))
            known = self._keep(_Known(plan, channel.name, held))
        code = code_of(known.plan)
        if code is not Code.OK or not asked.execute:
            return self._result(Outcome(code, known.plan.question, known.plan), channel)
        if known.held is not self._held:
            raise Rejected("what the gripper holds has changed since this plan was made; plan again")
        return self._result(self._carried_out(known, channel, eyes, control, tell), channel)

    def _arm(self, plan_id: int, eyes: Eyes, tell) -> Motions:
        return self._mover.during(plan_id, eyes.seen_ns, eyes.robot_moved, tell)

    def _carried_out(self, known: _Known, channel: Channel, eyes: Eyes, control: Control, tell) -> Outcome:
        changed = functools.partial(self._changed, known)
        arm = self._arm(known.plan.plan_id, eyes, tell)
        performer = Performer(eyes, arm, eyes.see, arm.tell, changed)
        outcome = performer.perform(known.plan, control, self._held)
        self._held = outcome.held
        if outcome.held is not None:
            said = f"the gripper holds the {outcome.held.told.object}; the next instruction begins by putting it back"
            outcome = replace(outcome, message=f"{outcome.message}; {said}" if outcome.message else said)
        self._node.get_logger().info(f"plan {known.plan.plan_id}: {outcome.code.name}, {outcome.message}")
        return outcome

    def _reviewed(self, asked) -> _Known:
        known = self._plans.get(asked.plan_id)
        if known is None:
            ids = ", ".join(map(str, self._plans)) or "none"
            raise Rejected(f"there is no plan {asked.plan_id}; of this node's life there are {ids}")
        if asked.camera not in ("", known.camera):
            raise Rejected(f"plan {asked.plan_id} is of camera {known.camera!r}, not of {quoted(asked.camera)}")
        if asked.revision != known.plan.revision:
            raise Rejected(
                f"plan {asked.plan_id} has revision {known.plan.revision}, not {asked.revision}; review it as it is now"
            )
        if known.begun:
            raise Rejected(f"plan {asked.plan_id} was carried out, or tried, already; plan again")
        return known

    def _keep(self, known: _Known) -> _Known:
        self._plans[known.plan.plan_id] = known
        self._plans.move_to_end(known.plan.plan_id)
        while len(self._plans) > PLANS:
            self._plans.popitem(last=False)
        self._out.publish(plan_messages.plan(known.plan, known.camera))
        return known

    def _changed(self, known: _Known, plan: Plan) -> None:
        newest = self._plans[plan.plan_id].plan if plan.plan_id in self._plans else plan
        plan = replace(plan, revision=max(plan.revision, newest.revision + 1))
        self._keep(replace(known, plan=plan, begun=True))

    def _result(self, outcome: Outcome, channel: Channel) -> FollowInstruction.Result:
        kept = self._plans.get(outcome.plan.plan_id)
        plan = kept.plan if kept else outcome.plan
        return FollowInstruction.Result(
            code=int(outcome.code),
            message=outcome.message,
            execution=outcome.execution,
            plan=plan_messages.plan(plan, channel.name),
        )


def _failed(error: PerceptionError) -> FollowInstruction.Result:
    codes = (
        (Busy, Code.BUSY),
        ((Rejected, InvalidInput), Code.REJECTED),
        (StaleFrame, Code.STALE),
        (DeadlinePassed, Code.TIMEOUT),
        (Cancelled, Code.CANCELLED),
    )
    code = next((code for kinds, code in codes if isinstance(error, kinds)), Code.ERROR)
    return FollowInstruction.Result(code=int(code), message=f"{type(error).__name__}: {error}")


assert all(getattr(FollowInstruction.Result, code.name) == code for code in Code)
