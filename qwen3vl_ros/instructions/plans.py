"""An instruction and the newest picture become a plan: steps with what to take, how, where to put it, and what must be true.

Understood by rules, else by the model; found by the model; measured by geometry. Where two things fit, or none does, the plan is a question
back and nothing in it can be executed. Knows nothing of arms or ROS.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Iterable, Mapping, Sequence

import numpy as np

from qwen3vl_ros.asking.finding import Finder, Found, Shot, canonical
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Limits, Prompt
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.layout import Layout, same_name
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.grasping.placing import find_places
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.grammar import language_of
from qwen3vl_ros.questions.grammar.orders import CORNERS, ORDINALS, planned
from qwen3vl_ros.questions.plan import Plan as PlanQuestion
from qwen3vl_ros.questions.plan import Planned, Step
from qwen3vl_ros.types import (
    Detection3D,
    Fact,
    GraspTarget,
    InvalidInput,
    MalformedAnswer,
    NotFound,
    PlaceTarget,
    Verdict,
)

_TOKENS = 256
_GRASPS = 8  # ways to hold a thing, for whoever puts it where not every hand fits
_PLACES = 10  # where to put it, each with every way to hold it that fits there
_DROP_M = 0.006  # above where a thing stood, when it is put back
_LEVEL_EN = re.compile(rf"({'|'.join(ORDINALS)}|top|bottom) level of the shelf")
_LEVEL_ZH = re.compile(r"架子(第[一二三]层|最上层|最下层)")
_CORNER = {f"{en} of the table": en for en in CORNERS} | {f"桌子{zh}": en for en, zh in CORNERS.items()}
_FACTS = {"on": "on", "in": "in", "next to": "next_to", "left of": "left_of", "right of": "right_of"} | {
    "in front of": "in_front_of",
    "behind": "behind",
}


@dataclass(frozen=True, eq=False)
class PlanStep:
    """One step. told: as the order says it. target: what is taken or looked at, in the picture of the plan, None until it is grounded.

    grasps: ways to hold it, best first. places: where it can rest, best first, each with one of the grasps. before, after: facts
    that must hold when the step begins and when it has ended. names: what the ids in the facts are called, so that they can be looked
    for again. stood_on: what carries a thing that is picked; up: away from it, a unit vector. around: names of what the places are
    beside or on, and where it was, 3 in the frame of the plan. remembered: of a thing in the gripper, which no picture can ground.
    hollow: what the facts name and could be looked into then; a full bowl cannot. status: "" until it is begun, then "running",
    "done" or "failed".
    """

    told: Step
    target: Detection3D | None = None
    grasps: tuple[GraspTarget, ...] = ()
    places: tuple[PlaceTarget, ...] = ()
    before: tuple[Fact, ...] = ()
    after: tuple[Fact, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    stood_on: Fact | None = None
    up: np.ndarray | None = None
    around: tuple[tuple[str, np.ndarray], ...] = ()
    remembered: bool = False
    hollow: tuple[Thing, ...] = ()
    status: str = ""
    message: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps for one instruction, or a question back (then it cannot be executed). stamp_ns: of the picture it rests on, frame_id: of
    all its poses. lacks: what kind of question that is: "unread", "asked" by the model, "two", "pose", "stale", "depth", or what _SAY calls it.
    """

    plan_id: int
    instruction: str
    steps: tuple[PlanStep, ...]
    question: str = ""
    stamp_ns: int = 0
    revision: int = 0
    understood_by: str = "rules"
    frame_id: str = ""
    lacks: str = ""

    @property
    def executable(self) -> bool:
        return bool(self.steps) and not self.question


@dataclass(frozen=True, eq=False)
class Placed:
    """Where a thing can be put, best first; each place counts one of the grasps. found: everything that was looked for."""

    target: Detection3D
    grasps: tuple[GraspTarget, ...]
    places: tuple[PlaceTarget, ...]
    found: Found


class Cannot(Exception):
    """Why a step cannot be grounded, as a question or a statement for whoever gave the order; never leaves the planner. lacks: as
    Plan's.
    """

    def __init__(self, lacks: str, message: str):
        super().__init__(message)
        self.lacks = lacks


@dataclass
class Planner:
    """Makes plans with a Perception. One thread at a time, as that."""

    perception: Perception
    _ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self):
        self._finder = Finder(self.perception, closely=True)

    def plan(self, shot: Shot, instruction: str, control: Control | None = None, held: PlanStep | None = None) -> Plan:
        """The plan of an instruction, grounded in one picture. held: the step that puts back what the gripper holds, which goes first.
        Raises InvalidInput for an empty one, and what finding raises.
        """
        if not instruction.strip():
            raise InvalidInput("the instruction is empty; say what to do, e.g. 'put the red cube into the bowl'")
        told, reader = self._understood(instruction, control)
        plan = Plan(next(self._ids), instruction, (), "", shot.frame.stamp_ns, 0, reader)
        if told is None:
            return replace(plan, question=_words(instruction, "unread"), lacks="unread")
        if told.question:
            return replace(plan, question=told.question, lacks="asked")
        first = () if held is None else (replace(held, status="", message=""),)
        return self.ground(replace(plan, steps=(*first, *(PlanStep(step) for step in told.steps))), shot, control)

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
        told = PlanQuestion.checked(steps)
        first = () if held is None else (replace(held, status="", message=""),)
        if first and told[:1] == (held.told,):
            told = told[1:]
        new = replace(plan, steps=(*first, *(PlanStep(s) for s in told)), question="", lacks="", understood_by="client")
        return self.ground(new, shot, control)

    def ground(self, plan: Plan, shot: Shot, control: Control | None = None) -> Plan:
        """The plan with its open steps grounded in a picture; done ones stay, and so does what is remembered."""
        open_steps = [s for s in plan.steps if s.status != "done" and not s.remembered]
        names = dict.fromkeys(n for s in open_steps for n in _names(s.told) if n)
        found = self._finder.find(shot, tuple(names), control)
        plan = replace(plan, stamp_ns=shot.frame.stamp_ns, revision=plan.revision + 1)
        steps: list[PlanStep] = []
        try:
            scene = _Scene(self.perception, shot, found, plan.instruction)
            for step in plan.steps:
                if step.status == "done" or step.remembered:
                    steps.append(step)
                    continue
                places_it = next((s.told for s in plan.steps[len(steps) + 1 :] if s.told.action == "place"), None)
                steps.append(scene.grounded(step, steps, places_it if step.told.action == "pick" else None))
        except Cannot as why:
            return replace(plan, question=str(why), lacks=why.lacks)
        return replace(plan, steps=tuple(steps), frame_id=scene.frame_id)

    def places(
        self, shot: Shot, told: Step, grasp: GraspTarget | None = None, control: Control | None = None
    ) -> Placed:
        """Where a thing that is seen can go, `told` being the step that puts it there; held with `grasp`, or with what is found. Raises
        NotFound with the reason why there is no such thing or nobody can measure it, InvalidInput, and what finding raises.
        """
        (told,) = PlanQuestion.checked((told,))
        if told.action != "place" or told.relation == "back":
            raise InvalidInput(
                f"{told.relation or told.action} is no place that can be looked for; on, in, next to ... are"
            )
        found = self._finder.find(shot, tuple(n for n in _names(told) if n), control)
        try:
            scene = _Scene(self.perception, shot, found, told.object)
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

    def _understood(self, instruction: str, control: Control | None) -> tuple[Planned | None, str]:
        if told := planned(instruction):
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
        return (told if known else None), "model"


def put_back(step: PlanStep, grasp: GraspTarget) -> PlanStep:
    """The step that puts back what `step` picked with `grasp`: of memory, since no picture shows what is in the gripper as it stood."""
    target = step.target
    place = PlaceTarget(
        target.id,
        step.stood_on.arguments[1] if step.stood_on else "",
        target.frame_id,
        target.frame_T_box,
        _raised(grasp.frame_T_gripper, step.up),
        0,
        grasp.approach_m,
        0.0,
        grasp.quality,
        True,
    )
    return PlanStep(
        Step("place", step.told.object, "back"),
        target,
        (grasp,),
        (place,),
        (Fact("holding", (target.id,)),),
        (step.stood_on or Fact("exists", (target.id,)),),
        step.names,
        remembered=True,
    )


def out_of_reach(plan: Plan, name: str, why: str) -> Plan:
    """The plan as the statement that no arm can do it here: of a thing of that name."""
    words = _SAY[language_of(plan.instruction)]["no reach"].format(name=name, more=why)
    return replace(plan, question=words, lacks="no reach")


def _raised(pose: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The jaws open a little above where the thing stood: what carries it must not be touched first."""
    raised = pose.copy()
    raised[:3, 3] += _DROP_M * up
    return raised


class _Scene:
    """What one picture says about the things that a plan names."""

    def __init__(self, perception: Perception, shot: Shot, found: Found, instruction: str):
        self._perception, self._found, self._language = perception, found, language_of(instruction)
        self._cloud = SceneCloud.of(shot.frame, perception.config.lift)
        if shot.lacks or not self._cloud.usable:
            raise Cannot(
                "pose" if shot.no_pose else "stale" if shot.stale else "depth", shot.lacks or self._cloud.reason
            )
        self.frame_id = self._cloud.frame_id
        self._layout: Layout = found.layout
        self._grasps = plan_grasps(self._cloud, found.detections_3d, perception.config.gripper, most=_GRASPS)

    def grounded(self, step: PlanStep, before: Sequence[PlanStep], goes: Step | None) -> PlanStep:
        told = step.told
        if any(s.remembered and s.status != "done" for s in before) and not self._all_seen(told):
            return step  # it may be what the gripper holds, and nobody sees that as it will stand
        if told.action == "look":
            target = self._one(told.object)
            return replace(step, target=target, after=(Fact("exists", (told.object,)),))
        target = self._one(told.object)
        if told.action == "pick":
            grasps = tuple(g for g in self._grasps if g.detection_id == target.id)
            feasible = tuple(g for g in grasps if g.feasible)
            if not feasible:
                why = grasps[0].reason if grasps else "it has no measured surface"
                raise self._cannot("no grasp", told.object, why)
            stood_on = facts.stands_on(self._layout, target.id)
            return replace(
                step,
                target=target,
                grasps=feasible,
                before=(Fact("exists", (told.object,)), Fact("holding", ())),
                after=(Fact("holding", (target.id,)),),
                names=self._names_of(stood_on.arguments),
                stood_on=stood_on if stood_on.verdict is not Verdict.FALSE else None,
                up=self._layout.level_R_frame[2],
            )
        asked = self._asked(target, told)
        named = {a for f in asked for a in f.arguments if a != target.id}
        around = tuple((d.label, d.frame_T_box[:3, 3]) for d in self._found.detections_3d if d.id in named)
        hollow = tuple(t for t in self._layout.things if t.id in named and t.inside is not None)
        names = self._names_of(a for f in asked for a in f.arguments)
        step = replace(step, names=names, around=around, hollow=hollow)
        picks = [s for s in before if s.told.action == "pick" and s.told.object == told.object]
        if not picks:
            raise self._cannot("not held", told.object, "")
        pick = picks[-1]
        earlier = [s for s in before if s.told.action == "place" and s.told.object == told.object and not s.status]
        held = (Fact("holding", (target.id,)),)
        if earlier or self._moved_before(told, before):  # of a picture to come
            return replace(step, target=target, before=held, after=asked)
        if told.relation == "back":
            return replace(step, target=target, before=held, after=asked, places=(self._home(picks[0], target, pick),))
        grasps = pick.grasps or tuple(g for g in self._grasps if g.detection_id == target.id)
        gripper = self._perception.config.gripper
        places = find_places(self._cloud, self._layout, target, asked, grasps, gripper, _PLACES, _GRASPS)
        if not places[0].feasible:
            raise self._cannot("no place", f"{told.relation} {told.reference}", places[0].reason)
        return replace(step, target=target, places=places, before=held, after=asked)

    def places(self, told: Step, grasp: GraspTarget | None) -> Placed:
        target = self._one(told.object)
        asked = self._asked(target, told)
        if grasp is not None:
            grasps: tuple[GraspTarget, ...] = (replace(grasp, detection_id=target.id, label=target.label),)
        else:
            grasps = tuple(g for g in self._grasps if g.detection_id == target.id)
        places = find_places(self._cloud, self._layout, target, asked, grasps, self._perception.config.gripper)
        return Placed(target, grasps, places, self._found)

    def _names_of(self, ids: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """What ids are called: things, and surfaces."""
        called = {d.id: d.label for d in self._found.detections_3d} | {s.id: s.label for s in self._layout.surfaces}
        return tuple((i, called[i]) for i in ids if i in called)

    def _home(self, first: PlanStep, target: Detection3D, pick: PlanStep) -> PlaceTarget:
        """Where the thing was when the plan first took it."""
        home, grasp = (first.target or target).frame_T_box, pick.grasps[0]
        release = home @ np.linalg.inv(target.frame_T_box) @ grasp.frame_T_gripper
        release = _raised(release, self._layout.level_R_frame[2])
        gripper, support = self._perception.config.gripper, facts.stands_on(self._layout, target.id).arguments[1]
        frame = self._cloud.frame_id
        return PlaceTarget(target.id, support, frame, home, release, 0, gripper.standoff, 0.0, grasp.quality, True)

    def _moved_before(self, told: Step, before: Sequence[PlanStep]) -> bool:
        """Whether an earlier step moves what this one refers to."""
        return any(s.told.action == "place" and s.told.object == told.reference and not s.status for s in before)

    def _all_seen(self, told: Step) -> bool:
        labels = [d.label for d in self._found.detections_3d]
        return all(any(same_name(label, name) for label in labels) for name in _names(told))

    def _one(self, name: str) -> Detection3D:
        """The one thing of that name. Raises Cannot with the question that would tell."""
        fitting = [d for d in self._found.detections_3d if same_name(d.label, name)]
        seen = [d for d in self._found.detections_2d if same_name(d.label, name)]
        if len(fitting) > 1 or len(seen) > 1:
            raise self._cannot("two", name, str(max(len(fitting), len(seen))))
        if not fitting:
            refused = next((r for r in self._layout.refused if same_name(r.label, name)), None)
            if refused:
                raise self._cannot("unmeasured", name, refused.reason)
            raise self._cannot("none", name, "")
        return fitting[0]

    def _asked(self, target: Detection3D, told: Step) -> tuple[Fact, ...]:
        """What shall be true of the target where it is put."""
        if told.relation == "back":
            return (facts.stands_on(self._layout, target.id),)
        if level := _LEVEL_EN.fullmatch(told.reference) or _LEVEL_ZH.fullmatch(told.reference):
            return (Fact("on", (target.id, self._level(level[1])), "gravity"),)
        if corner := _CORNER.get(told.reference):
            return Fact("on", (target.id, "table"), "gravity"), Fact("at", (target.id, "table", corner), "viewer")
        if canonical(told.reference) == "table":
            return (Fact("on", (target.id, "table"), "gravity"),)
        reference = self._one(told.reference)
        view = "gravity" if told.relation in ("on", "in") else "" if told.relation == "next to" else "viewer"
        return (Fact(_FACTS[told.relation], (target.id, reference.id), view),)

    def _level(self, word: str) -> str:
        levels = sorted((s.level, s.id) for s in self._layout.surfaces if s.level)
        if not levels:
            raise self._cannot("no shelf", word, "")
        if word in ("top", "最上层"):
            return levels[-1][1]
        number = (
            1
            if word in ("bottom", "最下层")
            else next(k for k, names in enumerate(zip(ORDINALS, ("第一层", "第二层", "第三层")), 1) if word in names)
        )
        if number > levels[-1][0]:
            raise self._cannot("no level", word, str(levels[-1][0]))
        return next(i for k, i in levels if k == number)

    def _cannot(self, what: str, name: str, more: str) -> Cannot:
        return Cannot(what, _SAY[self._language][what].format(name=name, more=more))


_SAY = {
    "en": {
        "unread": "I do not understand this order. Say what to take and where to put it.",
        "none": "I see no {name}. Which thing do you mean?",
        "two": "I see {more} of {name}. Which one do you mean?",
        "unmeasured": "I see the {name}, but it was not measured: {more}.",
        "no grasp": "I cannot take the {name}: {more}.",
        "no place": "I find no place {name}: {more}.",
        "no reach": "The arm cannot take the {name} as it would have to: {more}.",
        "not held": "The {name} must be picked up first.",
        "no shelf": "I see no shelf with levels.",
        "no level": "The shelf has {more} levels that I can see, no {name} one.",
    },
    "zh": {
        "unread": "我不明白这个指令。请说明拿什么、放到哪里。",
        "none": "我没有看到{name}。您指的是哪个？",
        "two": "我看到{more}个{name}。您指的是哪一个？",
        "unmeasured": "我看到{name}，但无法测量：{more}。",
        "no grasp": "我拿不起{name}：{more}。",
        "no place": "找不到可以放置的地方（{name}）：{more}。",
        "no reach": "机械臂无法按需要拿起{name}：{more}。",
        "not held": "要先拿起{name}。",
        "no shelf": "我没有看到有层的架子。",
        "no level": "架子只看得到{more}层，没有{name}。",
    },
}


def _speaks_of(question: str, said: str) -> bool:
    """Whether a question back names something of the order: one that does not is no question about it."""
    words = re.findall(r"[a-z]{3,}", question.lower()) or [question[k : k + 2] for k in range(len(question) - 1)]
    return len(question) < 160 and any(w in said for w in words if w not in ("the", "and"))


def _words(instruction: str, what: str) -> str:
    return _SAY[language_of(instruction)][what]


def _names(told: Step) -> tuple[str, ...]:
    """What must be found for a step."""
    if _LEVEL_EN.fullmatch(told.reference) or _LEVEL_ZH.fullmatch(told.reference):
        return told.object, "shelf"
    if told.reference in _CORNER or not told.reference or canonical(told.reference) == "table":
        return (told.object,)
    return told.object, told.reference
