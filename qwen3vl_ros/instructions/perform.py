"""A plan is carried out step by step, and a step is done only when a newer picture shows it.

Who moves the arm is an `Executor`: ours in simulation, a planner's on a robot. Before each step everything is grounded anew in a picture
taken after the last motion; after it the facts that were promised are measured. What cannot be told is looked at again and is
never taken for success, nor for a reason to pick again. Knows nothing of ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Callable, Protocol

import numpy as np

from qwen3vl_ros.asking.finding import Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.instructions.checking import LOOKS, Checker, Unseen, go_on
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import Done, Plan, PlanStep, put_back
from qwen3vl_ros.instructions.reach import Reaching, within_reach
from qwen3vl_ros.instructions.scene import alike
from qwen3vl_ros.types import (
    Cancelled,
    DeadlinePassed,
    GraspTarget,
    MalformedAnswer,
    PerceptionError,
    PlaceTarget,
    StaleFrame,
    Verdict,
)

TRIES = 3  # of a step with another grasp or place
_ALIKE_M, _ALIKE_COS = 0.01, 0.96  # two grasps, where they are and as their axes point
_BY_CHANCE = {"none", "unmeasured", "no grasp", "no place", "no reach"}  # lacks that another look may not have
LOSSES = 1  # of what was held and fell on the way: so often it is taken again


class Code(IntEnum):
    """How an instruction ended; action/FollowInstruction.action says what each means."""

    OK = 0
    NOT_FOUND = 1
    AMBIGUOUS = 2
    STALE = 3
    TF = 4
    PRECONDITION = 5
    EXECUTION = 6
    POSTCONDITION = 7
    TIMEOUT = 8
    CANCELLED = 9
    REJECTED = 10
    BUSY = 11
    ERROR = 12


class Executor(Reaching, Protocol):
    """Moves the arm. Each call blocks until the motion has ended, or has stopped because `control` was cancelled; it may then raise
    Cancelled, or say what the jaws hold.
    """

    def pick(self, step: PlanStep, grasp: GraspTarget, control: Control) -> Done: ...

    def place(self, step: PlanStep, place: PlaceTarget, control: Control) -> Done: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """How it ended: the plan with the status of each step. execution: how the last motion did, a code of action/ExecuteStep.action.
    held: the step that would put back what the gripper holds, None where it holds nothing.
    """

    code: Code
    message: str
    plan: Plan
    execution: int = 0
    held: PlanStep | None = None


@dataclass
class Performer:
    """Carries plans out. see(): a picture taken after everything that moved so far has stopped; raises PerceptionError, DeadlinePassed.

    tell: called with (step index, state, message) as it goes on: "looking", "executing", "checking". changed: with the plan, whenever
    something in it does.
    """

    planner: Planner
    executor: Executor
    see: Callable[[], Shot]
    tell: Callable[[int, str, str], None] = lambda *_: None
    changed: Callable[[Plan], None] = lambda _: None

    def perform(self, plan: Plan, control: Control, held: PlanStep | None = None) -> Outcome:
        """Carry out an executable plan. held: as the Outcome before it said. Never raises for what a robot meets: the code says it."""
        if not plan.executable:
            return Outcome(Code.REJECTED, plan.question or "the plan has no steps", plan, held=held)
        return _Work(self, plan, control, held).run()


class _Work:
    """One plan being carried out. held: the step that would put back what the gripper holds, None where it holds nothing."""

    def __init__(self, performer: Performer, plan: Plan, control: Control, held: PlanStep | None):
        self._p, self.plan, self._control = performer, plan, control
        self._looks = Checker(performer.planner, performer.see, performer.tell, control)
        self.held, self._grasp, self._execution, self._losses = held, 0, 0, 0

    def run(self) -> Outcome:
        k = 0
        while k < len(self.plan.steps):
            self._mark(k, "running", "")
            code, message = self._tried(k)
            self._mark(k, "done" if code is Code.OK else "failed", message)
            if code is Code.OK:
                k += 1
            elif (taken := self._lost(k, code)) is not None:
                for open_again in range(taken, k + 1):
                    self._mark(open_again, "", "")
                k = taken
            else:
                break
        else:
            message = "; ".join(s.message for s in self.plan.steps if s.message)
            code, message = self._still(message)
        return Outcome(code, message, self.plan, self._execution, self.held)

    def _still(self, message: str) -> tuple[Code, str]:
        """Whether what each step did is still so at the end."""
        try:
            undone = self._looks.undone(len(self.plan.steps) - 1)
        except (Cancelled, DeadlinePassed, PerceptionError):
            undone = None  # the last picture showed that it was
        if undone is None:
            return Code.OK, message
        self._mark(undone[0], "failed", undone[1])
        return Code.POSTCONDITION, undone[1]

    def _lost(self, k: int, code: Code) -> int | None:
        """The step that took what is known to have fallen on the way to step k: it is taken again, from where it is seen now."""
        step = self.plan.steps[k]
        if code is not Code.EXECUTION or step.told.action != "place" or self.held is not None or self._losses == LOSSES:
            return None
        self._losses += 1
        same = (i for i in reversed(range(k)) if self.plan.steps[i].told.object == step.told.object)
        return next((i for i in same if self.plan.steps[i].told.action == "pick"), None)

    def _tried(self, k: int) -> tuple[Code, str]:
        try:
            return self._step(k)
        except Cancelled as why:
            return Code.CANCELLED, str(why)
        except DeadlinePassed as why:
            return Code.TIMEOUT, str(why)
        except StaleFrame as why:
            return Code.STALE, str(why)
        except Unseen as why:
            return _CODES[why.lacks], str(why)
        except PerceptionError as why:
            return Code.ERROR, f"{type(why).__name__}: {why}"

    def _mark(self, k: int, status: str, message: str) -> None:
        steps = [replace(s, status=status, message=message) if i == k else s for i, s in enumerate(self.plan.steps)]
        self._now(replace(self.plan, steps=tuple(steps)))

    def _now(self, plan: Plan) -> None:
        self.plan = plan
        self._p.changed(plan)

    def _moved(self, done: Done, held: PlanStep | None) -> None:
        """After a motion: held is what the gripper holds if it did what it should."""
        self._execution = done.code
        if done.holding is not None:
            self.held = (held or self.held) if done.holding else None
        elif done.ok:
            self.held = held
        go_on(self._control)

    def _step(self, k: int) -> tuple[Code, str]:
        """One step to its end, with other grasps or places where one fails."""
        told, problem = self.plan.steps[k].told, "no grasp was found"
        failed: list[np.ndarray] = []
        if told.action == "place":
            return self._place(k)
        reviewed = self.plan.steps[k].already
        if told.action == "pick" and self.held is not None:
            return Code.PRECONDITION, f"the gripper holds the {self.held.told.object} already"
        for _ in range(TRIES):
            code, message = self._ground(k, anew=bool(failed))
            if code is not Code.OK:
                return code, message
            if told.action == "look":
                return Code.OK, f"the {told.object} is there"
            step, order = self.plan.steps[k], self._order(k)
            if step.already:
                return Code.OK, step.already
            if reviewed:
                continue  # one look that cannot tell it is no proof
            if not order:
                break
            poses = {number: step.grasps[number].frame_T_gripper for number in order}
            self._grasp = next((n for n in order if not any(_alike(poses[n], f) for f in failed)), order[0])
            failed.append(poses[self._grasp])
            self._p.tell(k, "executing", f"taking the {told.object}")
            go_on(self._control)
            self._looks.moving()
            self._looks.laid.taken(told)
            done = self._p.executor.pick(step, step.grasps[self._grasp], self._control)
            self._moved(done, put_back(step, step.grasps[self._grasp]))
            if not done.ok:
                problem = done.message
                if not done.retry:
                    break
                if not done.holding:
                    continue  # else it was held up with something in its jaws: looking decides
            verdict, problem = self._looks.picked(k, step, step.grasps[self._grasp], done)
            if verdict is Verdict.TRUE:
                return Code.OK, problem
            self.held = None if done.holding is None else self.held
            if verdict is Verdict.UNKNOWN:
                return Code.POSTCONDITION, problem
            if self.held is not None and (stuck := self._let_go(k, self.held)):
                return Code.EXECUTION, f"{problem}; {stuck}"
        if reviewed:
            return Code.PRECONDITION, f"it is no longer so, and no motion was planned: {reviewed}"
        return Code.EXECUTION, problem

    def _let_go(self, k: int, held: PlanStep) -> str:
        """What the jaws hold although the thing is still where it was, put back where they took it, since they take nothing while they hold
        something; why it could not be, "" where it was.
        """
        self._p.tell(k, "executing", "putting back what the jaws hold")
        go_on(self._control)
        self._looks.moving()
        done = self._p.executor.place(held, held.places[0], self._control)
        self._moved(done, None)
        return "" if self.held is None else f"what the jaws hold could not be put back: {done.message}"

    def _order(self, k: int) -> list[int]:
        """Numbers of the grasps to try, first those with which the thing can be put where it goes next."""
        goes = next((s for s in self.plan.steps[k + 1 :] if s.told.action == "place"), None)
        wanted = [p.grasp for p in goes.places] if goes else []
        rest = [] if wanted else range(len(self.plan.steps[k].grasps))
        return list(dict.fromkeys([*wanted, *rest]))

    def _place(self, k: int) -> tuple[Code, str]:
        step, message = self.plan.steps[k], ""
        if step.already:
            return Code.OK, step.already
        if self.held is None or self.held.told.object != step.told.object:
            return Code.PRECONDITION, f"the gripper does not hold the {step.told.object}"
        places = [p for p in step.places if step.remembered or p.grasp == self._grasp]
        if not places:
            return Code.PRECONDITION, f"no place was found for the {step.told.object}"
        if moved := self._looks.moved_reference(k, step):
            return Code.PRECONDITION, moved
        for place in places[:TRIES]:
            self._p.tell(k, "executing", f"putting the {step.told.object} down")
            go_on(self._control)
            self._looks.moving()
            done = self._p.executor.place(step, place, self._control)
            self._moved(done, None)
            message = done.message
            if done.ok:
                return self._lies(k, step, place, done)
            if not done.retry or self.held is None:
                break
        return Code.EXECUTION, message

    def _lies(self, k: int, step: PlanStep, place: PlaceTarget, done: Done) -> tuple[Code, str]:
        verdict, message = self._looks.placed(k, step, place, done)
        empty = verdict is Verdict.UNKNOWN or (verdict is Verdict.FALSE and done.holding is False)
        if step.remembered and empty:  # what it was for is an empty gripper
            return Code.OK, f"the {step.told.object} was put back; {message}"
        return Code.OK if verdict is Verdict.TRUE else Code.POSTCONDITION, message

    def _ground(self, k: int, anew: bool) -> tuple[Code, str]:
        """The open steps grounded in a picture of now; where that fails, and the picture shows what they were grounded in, but for noise, they
        stay as they are. anew: without the grasps that are known of step k, since one of them failed.
        """
        self._p.tell(k, "looking", "")
        steps = [replace(s, grasps=()) if anew and i == k else s for i, s in enumerate(self.plan.steps)]
        plan = replace(self.plan, steps=tuple(steps))

        def look() -> Plan:
            shot = self._looks.look()
            grounded = within_reach(self._p.planner.ground(plan, shot, self._control), self._p.executor, self._control)
            missed = grounded.lacks in _BY_CHANCE and not anew
            return plan if missed and _still_shown(plan, shot) else grounded

        grounded = looked_again(look, self._control)
        if grounded.question:
            return code_of(grounded), grounded.question
        self._now(grounded)
        return Code.OK, ""


def _still_shown(plan: Plan, shot: Shot) -> bool:
    """Whether a picture shows what the open steps of a plan were grounded in, as far as depth can tell."""
    if shot.lacks or plan.picture is None or any(s.target is None for s in plan.steps):
        return False
    return alike(plan.picture, SceneCloud.of(shot.frame, plan.picture.config))


def looked_again(look: Callable[[], Plan], control: Control) -> Plan:
    """The first of a few plans, each of a picture of its own, that is executable, or asks what no other picture would tell.

    Raises MalformedAnswer where none of the model's answers could be read.
    """
    for left in reversed(range(LOOKS)):
        go_on(control)
        try:
            plan = look()
        except MalformedAnswer:
            if not left:
                raise
            continue
        if (
            not plan.question
            or plan.lacks in ("unread", "asked", "which", "which level", "pose", "no level", "not held", "full")
            or not left
        ):
            return plan
    raise AssertionError("the last look returns or raises")


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two poses of the gripper are nearly one: what failed in one would fail in the other, but a thing that rolled away is taken as before."""
    return bool(np.linalg.norm(a[:3, 3] - b[:3, 3]) < _ALIKE_M and (a[:3, :3] * b[:3, :3]).sum(0).min() > _ALIKE_COS)


def code_of(plan: Plan) -> Code:
    """What a plan is worth before anything moves."""
    return _CODES.get(plan.lacks, Code.NOT_FOUND) if plan.question else Code.OK


_CODES = {
    "unread": Code.AMBIGUOUS,
    "two": Code.AMBIGUOUS,
    "asked": Code.AMBIGUOUS,
    "which": Code.AMBIGUOUS,
    "which level": Code.AMBIGUOUS,
    "full": Code.AMBIGUOUS,
    "pose": Code.TF,
    "stale": Code.STALE,
    "depth": Code.ERROR,
}
