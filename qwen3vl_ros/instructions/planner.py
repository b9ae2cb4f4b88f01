"""An instruction and the newest picture become a plan.

Understood by rules, else by the model; found by the model; measured by geometry (scene.py). Knows nothing of arms or ROS.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Mapping, Sequence

import numpy as np

from qwen3vl_ros.asking.finding import Finder, Found, Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Limits, Prompt
from qwen3vl_ros.instructions.plans import Plan, PlanStep, words
from qwen3vl_ros.instructions.scene import Cannot, Placed, Scene, names_of
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.grammar.faithful import expressible, faithful
from qwen3vl_ros.questions.grammar.orders import planned
from qwen3vl_ros.questions.others import resolved
from qwen3vl_ros.questions.plan import Plan as PlanQuestion
from qwen3vl_ros.questions.plan import Planned, Step
from qwen3vl_ros.types import GraspTarget, InvalidInput, MalformedAnswer, NotFound

_TOKENS = 256


@dataclass
class Planner:
    """Makes plans with a Perception. One thread at a time, as that."""

    perception: Perception
    _ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self):
        self._finder = Finder(self.perception, closely=True)

    def plan(
        self,
        shot: Shot,
        instruction: str,
        control: Control | None = None,
        held: PlanStep | None = None,
        before: Sequence[Step] = (),
    ) -> Plan:
        """The plan of an instruction, grounded in one picture. held: the step that puts back what the gripper holds, which goes first.
        before: steps of the instruction before, for "it" and "the other one" where this one does not say of what. Raises InvalidInput for
        an empty one, and what finding raises.
        """
        if not instruction.strip():
            raise InvalidInput("the instruction is empty; say what to do, e.g. 'put the red cube into the bowl'")
        told, reader = self._understood(instruction, control, before)
        plan = Plan(next(self._ids), instruction, (), "", shot.frame.stamp_ns, 0, reader)
        if told is None:
            return replace(plan, question=words(instruction, "unread"), lacks="unread")
        if told.question:
            return replace(plan, question=told.question, lacks="asked")
        if (steps := resolved(told.steps) or resolved(told.steps, before)) is None:
            return replace(plan, question=words(instruction, "which"), lacks="which")
        first = () if held is None else (replace(held, status="", message=""),)
        return self.ground(replace(plan, steps=(*first, *(PlanStep(step) for step in steps))), shot, control)

    def edited(
        self,
        plan: Plan,
        steps: Sequence[Step],
        shot: Shot,
        control: Control | None = None,
        held: PlanStep | None = None,
    ) -> Plan:
        """The plan with other steps, grounded anew. held: as of `plan`; it goes first whether it is among the steps or not. Raises
        InvalidInput for what is no step, and what finding raises.
        """
        told = _checked(steps)
        first = () if held is None else (replace(held, status="", message=""),)
        if first and told[:1] == (held.told,):
            told = told[1:]
        new = replace(plan, steps=(*first, *(PlanStep(s) for s in told)), question="", lacks="", understood_by="client")
        return self.ground(new, shot, control)

    def ground(self, plan: Plan, shot: Shot, control: Control | None = None) -> Plan:
        """The plan with its open steps grounded in a picture; done ones stay, and so does what is remembered. Where nothing has changed since the
        picture before, ways to hold a thing that were found then are ways still: another look, with other noise, may find none.
        """
        open_steps = [s for s in plan.steps if s.status != "done" and not s.remembered]
        names = dict.fromkeys(n for s in open_steps for n in names_of(s.told) if n)
        found = self._finder.find(shot, tuple(names), control)
        steps: list[PlanStep] = []
        plan = replace(plan, stamp_ns=shot.frame.stamp_ns, revision=plan.revision + 1)
        try:
            scene = Scene(self.perception, shot, found, plan.instruction, plan.picture)
            for step in plan.steps:
                if step.status == "done" or step.remembered:
                    steps.append(step)
                    continue
                later = plan.steps[len(steps) + 1 :] if step.told.action == "pick" else ()
                goes = next((s for s in later if s.told.action == "place"), None)
                if goes is not None and goes.places:  # of its grasps those that go with a place, in the order of these
                    used = dict.fromkeys(p.grasp for p in goes.places)
                    step = replace(step, grasps=tuple(step.grasps[k] for k in used if k < len(step.grasps)))
                steps.append(scene.grounded(step, steps, goes and goes.told))
        except Cannot as why:
            return replace(plan, question=str(why), lacks=why.lacks)
        return replace(plan, steps=tuple(steps), frame_id=scene.frame_id, picture=scene.cloud)

    def places(
        self, shot: Shot, told: Step, grasp: GraspTarget | None = None, control: Control | None = None
    ) -> Placed:
        """Where a thing that is seen can go, `told` being the step that puts it there; held with `grasp`, or with what is found. Raises
        NotFound with the reason why there is no such thing or nobody can measure it, InvalidInput, and what finding raises.
        """
        (told,) = _checked((told,))
        if told.action != "place" or told.relation == "back":
            raise InvalidInput(
                f"{told.relation or told.action} is no place that can be looked for; on, in, next to ... are"
            )
        found = self._finder.find(shot, tuple(n for n in names_of(told) if n), control)
        try:
            scene = Scene(self.perception, shot, found, told.object)
            return scene.places(told, grasp)
        except Cannot as why:
            raise NotFound(str(why)) from None

    def find(
        self,
        shot: Shot,
        names: Sequence[str],
        control: Control | None = None,
        expected: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Found:
        """What these names mean in a picture, measured. expected: as of Finder.find."""
        return self._finder.find(shot, names, control, expected=expected)

    def _understood(
        self, instruction: str, control: Control | None, before: Sequence[Step]
    ) -> tuple[Planned | None, str]:
        if not expressible(instruction):
            return None, "rules"
        if told := planned(instruction) or planned(instruction, before):
            return told, "rules"
        question = PlanQuestion(instruction)
        limits = replace(Limits.of(self.perception.config.generation), max_new_tokens=_TOKENS)
        prompt = Prompt(question.prompt(), (), schema=question.schema(), stream="orders")
        generation = self.perception.engine.generate(prompt, limits, control)
        try:
            told = question.read(generation, ()).value
        except MalformedAnswer:
            return None, "model"
        said = instruction.lower()
        if told.question and not _speaks_of(told.question, said):
            return None, "model"
        known = all(name.lower() in said for step in told.steps for name in (step.object,) if name)
        return (told if known and faithful(instruction, told.steps) else None), "model"


def _checked(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Steps that somebody wrote by hand, with names that stand for themselves. Raises InvalidInput."""
    if (told := resolved(PlanQuestion.checked(steps))) is None:
        said = next(s.object for s in steps)
        raise InvalidInput(
            f"the steps, from {said!r} on, name one thing by another that no step names; name the thing itself"
        )
    return told


def _speaks_of(question: str, said: str) -> bool:
    """Whether a question back names something of the order: one that does not is no question about it."""
    words = re.findall(r"[a-z]{3,}", question.lower()) or [question[k : k + 2] for k in range(len(question) - 1)]
    return len(question) < 160 and any(w in said for w in words if w not in ("the", "and"))
