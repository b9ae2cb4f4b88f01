"""A plan is carried out step by step, and a step is done only when a newer picture shows it.

Who moves the arm is an `Executor`: ours in simulation, a planner's on a robot. Before each step everything is grounded anew in a picture
taken after the last motion; after it the facts that were promised are measured. What cannot be told is looked at again and is
never taken for success, nor for a reason to pick again. Knows nothing of ROS.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Callable, Mapping, Protocol, Sequence

import numpy as np

from qwen3vl_ros.asking.finding import Found, Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.layout import Layout, same_name
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.instructions.plans import Plan, Planner, PlanStep, put_back
from qwen3vl_ros.instructions.reach import Reaching, within_reach
from qwen3vl_ros.types import (
    Cancelled,
    DeadlinePassed,
    Fact,
    GraspTarget,
    MalformedAnswer,
    PerceptionError,
    PlaceTarget,
    StaleFrame,
    Verdict,
)

LOOKS = 3  # at what cannot be told, before giving up
TRIES = 3  # of a step with another grasp or place
_MOVED_M = 0.03  # nearer than this to where it was, a thing has not been taken
_HELD_M = 0.002  # jaws that are closed farther hold nothing
_WIDTH_M = 0.025  # jaws that stand so much wider or narrower than what was to be taken may hold something else


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


@dataclass(frozen=True)
class Done:
    """What an executor says of a step. ok: as far as it knows. retry: whether another grasp or place may do what this one could
    not. opening_m: of the jaws now, NaN where nobody knows. holding: whether they hold something, None where nobody knows. code: of
    action/ExecuteStep.action, where the executor has one.
    """

    ok: bool
    message: str = ""
    retry: bool = False
    opening_m: float = math.nan
    holding: bool | None = None
    code: int = 0


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
        self.held, self._grasp, self._execution = held, 0, 0

    def run(self) -> Outcome:
        for k in range(len(self.plan.steps)):
            self._mark(k, "running", "")
            code, message = self._tried(k)
            self._mark(k, "done" if code is Code.OK else "failed", message)
            if code is not Code.OK:
                break
        else:
            message = "; ".join(s.message for s in self.plan.steps if s.message)
        return Outcome(code, message, self.plan, self._execution, self.held)

    def _tried(self, k: int) -> tuple[Code, str]:
        try:
            return self._step(k)
        except Cancelled as why:
            return Code.CANCELLED, str(why)
        except DeadlinePassed as why:
            return Code.TIMEOUT, str(why)
        except StaleFrame as why:
            return Code.STALE, str(why)
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
        _go_on(self._control)

    def _step(self, k: int) -> tuple[Code, str]:
        """One step to its end, with other grasps or places where one fails."""
        told, problem = self.plan.steps[k].told, "no grasp was found"
        if told.action == "place":
            return self._place(k)
        if told.action == "pick" and self.held is not None:
            return Code.PRECONDITION, f"the gripper holds the {self.held.told.object} already"
        for attempt in range(TRIES):
            code, message = self._ground(k)
            if code is not Code.OK:
                return code, message
            if told.action == "look":
                return Code.OK, f"the {told.object} is there"
            step, order = self.plan.steps[k], self._order(k)
            if attempt >= len(order):
                break
            self._grasp = order[attempt]
            self._p.tell(k, "executing", f"taking the {told.object}")
            _go_on(self._control)
            done = self._p.executor.pick(step, step.grasps[self._grasp], self._control)
            self._moved(done, put_back(step, step.grasps[self._grasp]))
            if not done.ok:
                problem = done.message
                if not done.retry:
                    break
                if not done.holding:
                    continue  # else it was held up with something in its jaws: looking decides
            verdict, problem = self._picked(k, step, done)
            if verdict is Verdict.TRUE:
                return Code.OK, problem
            self.held = None if done.holding is None else self.held
            if verdict is Verdict.UNKNOWN:
                return Code.POSTCONDITION, problem
        return Code.EXECUTION, problem

    def _order(self, k: int) -> list[int]:
        """Numbers of the grasps to try, first those with which the thing can be put where it goes next."""
        goes = next((s for s in self.plan.steps[k + 1 :] if s.told.action == "place"), None)
        wanted = [p.grasp for p in goes.places] if goes else []
        rest = [] if wanted else range(len(self.plan.steps[k].grasps))
        return list(dict.fromkeys([*wanted, *rest]))

    def _place(self, k: int) -> tuple[Code, str]:
        step, message = self.plan.steps[k], ""
        if self.held is None or self.held.told.object != step.told.object:
            return Code.PRECONDITION, f"the gripper does not hold the {step.told.object}"
        places = [p for p in step.places if step.remembered or p.grasp == self._grasp]
        if not places:
            return Code.PRECONDITION, f"no place was found for the {step.told.object}"
        if moved := self._moved_reference(k, step):
            return Code.PRECONDITION, moved
        for place in places[:TRIES]:
            self._p.tell(k, "executing", f"putting the {step.told.object} down")
            _go_on(self._control)
            done = self._p.executor.place(step, place, self._control)
            self._moved(done, None)
            message = done.message
            if done.ok:
                return self._placed(k, step, {step.told.object: _corners(place.frame_T_box, step.target.size_m)})
            if not done.retry:
                break
        return Code.EXECUTION, message

    def _moved_reference(self, k: int, step: PlanStep) -> str:
        """What is no longer where it was when the places were chosen, in all of several looks; "" for nothing."""
        wanted, moved = {label: at for label, at in step.around}, ""
        for _ in range(LOOKS if wanted else 0):
            self._p.tell(k, "looking", "")
            if not (moved := self._elsewhere(wanted)):
                return ""
        return f"the {moved} is no longer where it was when the place was chosen" if moved else ""

    def _elsewhere(self, wanted: dict[str, np.ndarray]) -> str:
        """What one look sees elsewhere than it was."""
        found = self._find(tuple(wanted))
        for label, at in wanted.items() if found else ():
            now = [d.frame_T_box[:3, 3] for d in found.detections_3d if same_name(d.label, label)]
            if now and min(np.linalg.norm(n - at) for n in now) > _MOVED_M:
                return label
        return ""

    # -- looking ------------------------------------------------------------------------------------------------------
    def _ground(self, k: int) -> tuple[Code, str]:
        """The open steps grounded in a picture of now."""
        self._p.tell(k, "looking", "")

        def look() -> Plan:
            grounded = self._p.planner.ground(self.plan, self._p.see(), self._control)
            return within_reach(grounded, self._p.executor, self._control)

        grounded = looked_again(look, self._control)
        if grounded.question:
            return code_of(grounded), grounded.question
        self._now(grounded)
        return Code.OK, ""

    def _find(self, names: Sequence[str], expected: Mapping[str, np.ndarray] = MappingProxyType({})) -> Found | None:
        """What these names mean now; None where the model's answer could not be read, which tells nothing."""
        _go_on(self._control)
        try:
            return self._p.planner.find(self._p.see(), names, self._control, expected)
        except MalformedAnswer:
            return None

    def _picked(self, k: int, step: PlanStep, done: Done) -> tuple[Verdict, str]:
        """Whether the gripper holds the target: its jaws stand open on something, and it is no longer where it was."""
        if done.opening_m < _HELD_M:
            return Verdict.FALSE, f"the jaws closed on nothing where the {step.told.object} was"
        name, there = step.told.object, step.target
        wanted_m = step.grasps[self._grasp].width_m
        if abs(done.opening_m - wanted_m) > _WIDTH_M:
            return Verdict.UNKNOWN, (
                f"the jaws stand {done.opening_m:.3f} m apart, and the {name} is {wanted_m:.3f} m wide there: nobody can tell what they hold"
            )
        for _ in range(LOOKS):
            self._p.tell(k, "checking", "")
            if (found := self._find((name,))) is None:
                continue
            now = [d for d in found.detections_3d if same_name(d.label, name)]
            apart = [np.linalg.norm(d.frame_T_box[:3, 3] - there.frame_T_box[:3, 3]) for d in now]
            if any(a < _MOVED_M for a in apart):
                return Verdict.FALSE, f"the {name} is still where it was"
            if math.isfinite(done.opening_m) or now:
                return Verdict.TRUE, f"the gripper holds the {name}"
        return Verdict.UNKNOWN, f"nobody can tell whether the gripper holds the {name}"

    def _placed(self, k: int, step: PlanStep, expected: Mapping[str, np.ndarray]) -> tuple[Code, str]:
        """Whether what was promised of the place is true now. expected: where what was put down should be, as of Finder.find."""
        message, wrong = "the model's answers could not be read", False
        for _ in range(LOOKS):
            self._p.tell(k, "checking", "")
            if not (measured := self._measured(step, expected)):
                continue
            worst = min(measured, key=_standing)
            message = worst.reason
            if worst.verdict is Verdict.TRUE:
                return Code.OK, "; ".join(f.reason for f in measured)
            if worst.verdict is Verdict.FALSE and wrong:  # two looks agree
                return Code.POSTCONDITION, f"it was put down, but {message}"
            wrong = wrong or worst.verdict is Verdict.FALSE
        if step.remembered:  # what it was for is an empty gripper
            return Code.OK, f"the {step.told.object} was put back, and nobody can tell how it lies: {message}"
        return Code.POSTCONDITION, f"it was put down, but nobody can tell whether it lies right: {message}"

    def _measured(self, step: PlanStep, expected: Mapping[str, np.ndarray]) -> list[Fact]:
        """The facts after a place, measured in a new picture: names of things stand for the ids of the plan's picture."""
        names = dict(step.names)
        found, told = self._find(tuple(names.values()), expected), []
        for fact in step.after if found else ():
            arguments = tuple(names.get(a, a) for a in fact.arguments)
            told.append(_measure(_remembering(found.layout, step.hollow), fact, arguments))
        return told


def looked_again(look: Callable[[], Plan], control: Control) -> Plan:
    """The first of a few plans, each of a picture of its own, that is executable, or asks what no other picture would tell.

    Raises MalformedAnswer where none of the model's answers could be read.
    """
    for left in reversed(range(LOOKS)):
        _go_on(control)
        try:
            plan = look()
        except MalformedAnswer:
            if not left:
                raise
            continue
        if not plan.question or plan.lacks in ("unread", "asked", "pose", "no level") or not left:
            return plan
    raise AssertionError("the last look returns or raises")


def code_of(plan: Plan) -> Code:
    """What a plan is worth before anything moves."""
    return _CODES.get(plan.lacks, Code.NOT_FOUND) if plan.question else Code.OK


_CODES = {
    "unread": Code.AMBIGUOUS,
    "two": Code.AMBIGUOUS,
    "asked": Code.AMBIGUOUS,
    "pose": Code.TF,
    "stale": Code.STALE,
    "depth": Code.ERROR,
}


def _go_on(control: Control) -> None:
    """Raises Cancelled or DeadlinePassed where the work has to stop."""
    if control.cancelled:
        raise Cancelled(control.reason)
    if control.expired:
        raise DeadlinePassed("the time for the instruction is over")


def _corners(frame_T_box: np.ndarray, size_m: np.ndarray) -> np.ndarray:
    """The corners of a box, 8x3."""
    unit = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    return (unit * size_m) @ frame_T_box[:3, :3].T + frame_T_box[:3, 3]


def _remembering(layout: Layout, hollow: Sequence[Thing]) -> Layout:
    """The layout with the insides that were seen before something lay in them, of things that stand where they stood."""

    def inside(thing: Thing) -> Thing:
        for known in hollow:
            moved = np.linalg.norm(thing.frame_T_box[:3, 3] - known.frame_T_box[:3, 3])
            if thing.inside is None and same_name(thing.label, known.label) and moved < _MOVED_M:
                return replace(thing, inside=known.inside)
        return thing

    return layout.with_things([inside(t) for t in layout.things]) if hollow else layout


def _measure(layout: Layout, fact: Fact, arguments: tuple[str, ...]) -> Fact:
    return facts.measure(layout, fact.relation, arguments, fact.view or "viewer")


def _standing(fact: Fact) -> tuple[bool, bool]:
    return fact.verdict is not Verdict.FALSE, fact.verdict is Verdict.TRUE
