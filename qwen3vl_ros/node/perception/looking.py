"""How an instruction looks: a planner for whoever is on another thread than the engine's.

Every look is a call of the agenda, so that streams, questions and alarms go on while an arm moves. Knows nothing of goals and arms.
"""

from __future__ import annotations

import hashlib
import math
import time
from concurrent.futures import Future as Waiting
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from qwen3vl_ros.asking.finding import Found, Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.perform import looked_again
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import Plan, PlanStep
from qwen3vl_ros.instructions.reach import Reaching, within_reach
from qwen3vl_ros.node.perception.agenda import Call, Job
from qwen3vl_ros.node.perception.asking import Asking, told_errors
from qwen3vl_ros.node.perception.channel import Channel
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.types import Cancelled, DeadlinePassed, PerceptionError, StaleFrame

POLL_S = 0.02


class Eyes:
    """A Planner to whom looks at it from another thread: every look is a call of the agenda, done on the engine's thread.

    A picture is never older than its asking: what moved before is still in it where it came to rest.
    """

    def __init__(self, node, asking: Asking, channel: Channel, control: Control):
        self._node, self._asking, self._channel, self._control = node, asking, channel, control
        self._last, self._shot = b"", None

    def see(self) -> Shot:
        """Raises StaleFrame, also where the camera shows the very picture it showed before."""
        now_ns = self._node.get_clock().now().nanoseconds
        shot = self.call(lambda planner, snapshot, _: self._asking.shot(self._channel, snapshot), True, now_ns)
        if shot.frame.depth_m is not None:  # no two of a real sensor's are alike
            seen = hashlib.blake2b(shot.frame.depth_m.tobytes()).digest()
            if seen == self._last:
                raise StaleFrame("two depth images in turn are the same to the last bit: the camera is frozen")
            self._last = seen
        self._shot = fresh(shot)
        return self._shot

    def plan_of(self, instruction: str, held: PlanStep | None, before: Sequence[Step], arm: Reaching) -> Plan:
        return self._looked(arm, lambda planner, shot, c: planner.plan(shot, instruction, c, held, before))

    def edited(self, plan: Plan, steps: Sequence[Step], held: PlanStep | None, arm: Reaching) -> Plan:
        return self._looked(arm, lambda planner, shot, c: planner.edited(plan, steps, shot, c, held))

    def _looked(self, arm: Reaching, made: Callable[[Planner, Shot, Control], Plan]) -> Plan:
        def look() -> Plan:
            shot = self.see()
            return within_reach(self.call(lambda planner, _, c: made(planner, shot, c)), arm, self._control)

        return looked_again(look, self._control)

    def ground(self, plan: Plan, shot: Shot, control: Control) -> Plan:
        return self.call(lambda planner, _, c: planner.ground(plan, shot, c))

    def find(
        self,
        shot: Shot,
        names: Sequence[str],
        control: Control,
        expected: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Found:
        return self.call(lambda planner, _, c: planner.find(shot, names, c, expected))

    def seen_ns(self) -> int:
        """Stamp of the last picture."""
        return self._shot.frame.stamp_ns if self._shot else 0

    def robot_moved(self) -> str:
        """How the robot's base has moved since the last picture; "" where it has not, or nobody knows."""
        shot = self._shot
        if shot is None or shot.frame_T_robot is None:
            return ""
        now_ns = self._node.get_clock().now().nanoseconds
        now = self._asking.robot_at(shot.frame.target_frame or shot.frame.frame_id, now_ns)
        if now is None:
            return ""
        apart_m = float(math.dist(now[:3, 3], shot.frame_T_robot[:3, 3]))
        turn = float(((now[:3, :3].T @ shot.frame_T_robot[:3, :3]).trace() - 1) / 2)
        turn_deg = math.degrees(math.acos(max(-1.0, min(1.0, turn))))
        return (
            ""
            if apart_m < 0.01 and turn_deg < 1.0
            else f"the robot's base has moved {apart_m:.3f} m and {turn_deg:.1f} degrees"
        )

    def call(self, do: Callable[[Planner, Any, Control], Any], pictured: bool = False, newer_than_ns: int = 0) -> Any:
        """do(planner, snapshot, control) on the engine's thread. Raises what that raises, Cancelled, DeadlinePassed."""
        waiting: Waiting = Waiting()

        def answer(result: Any, error: Exception | None) -> None:
            error = result if error is None and isinstance(result, PerceptionError) else error
            waiting.set_exception(error) if error else waiting.set_result(result)

        def perform(perception: Perception, job: Job, control: Control) -> Any:
            with survivable("while following an instruction"):
                perception.config = self._channel.config()
                return do(Planner(perception), job.snapshot, control)

        timeout_s, deadline_s = self._node.config.request_timeout, self._control.deadline_monotonic_s
        if deadline_s is not None:
            timeout_s = min(timeout_s, deadline_s - time.monotonic())
        if timeout_s <= 0:
            raise DeadlinePassed("the time for the instruction is over")
        call = Call(
            self._channel.name,
            None,
            timeout_s,
            answer,
            newer_than_ns=newer_than_ns,
            pictured=pictured,
            perform=told_errors(perform),
        )
        thread = self._node.engine_thread
        if thread is None:
            raise Cancelled("the node was deactivated")
        thread.submit(call)
        while True:
            try:
                return waiting.result(POLL_S)
            except NotYet:
                if self._control.cancelled:
                    thread.cancel(call, self._control.reason)
            except Cancelled as why:
                if not self._control.cancelled and time.monotonic() >= call.deadline_s:
                    raise DeadlinePassed(str(why)) from None
                raise


def fresh(shot: Shot) -> Shot:
    """Nothing is taken from what was known before: things may have been moved since."""
    return replace(shot, known=(), answered=())
