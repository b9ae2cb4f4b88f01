"""What a plan is: steps with what to take, how, where to put it, and what must be true; or a question back.

Knows nothing of how one is made, carried out or checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.things import Surface, Thing
from qwen3vl_ros.questions.grammar import language_of
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.types import Detection3D, Fact, GraspTarget, PlaceTarget

DROP_M = 0.006  # above where a thing stood, when it is put back


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
    thing: Thing | None = None
    around: tuple[Thing | Surface, ...] = ()
    remembered: bool = False
    already: str = ""
    status: str = ""
    message: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps for one instruction, or a question back (then it cannot be executed). stamp_ns: of the picture it rests on, frame_id: of
    all its poses, picture: its depth, once it was grounded. lacks: what kind of question that is: "unread", "asked" by the model or "which" by the rules, "which level", "two", "pose", "stale", "depth", or what SAY calls it.
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
    picture: SceneCloud | None = None

    @property
    def executable(self) -> bool:
        return bool(self.steps) and not self.question


def put_back(step: PlanStep, grasp: GraspTarget) -> PlanStep:
    """The step that puts back what `step` picked with `grasp`: of memory, since no picture shows what is in the gripper as it stood."""
    target = step.target
    place = PlaceTarget(
        target.id,
        step.stood_on.arguments[1] if step.stood_on else "",
        target.frame_id,
        target.frame_T_box,
        raised(grasp.frame_T_gripper, step.up),
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
        thing=step.thing,
        around=step.around,
        remembered=True,
    )


def raised(pose: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The jaws open a little above where the thing stood: what carries it must not be touched first."""
    raised = pose.copy()
    raised[:3, 3] += DROP_M * up
    return raised


def out_of_reach(plan: Plan, name: str, why: str) -> Plan:
    """The plan as the statement that no arm can do it here: of a thing of that name."""
    words = SAY[language_of(plan.instruction)]["no reach"].format(name=name, more=why)
    return replace(plan, question=words, lacks="no reach")


SAY = {
    "en": {
        "unread": "I do not understand this order. Say what to take and where to put it.",
        "which": 'Which one do you mean? I do not know what "the other one" or "the ... one" is beside; name the thing itself.',
        "which level": "Which level of the shelf do you mean? I see {more}, counted from below.",
        "none": "I see no {name}. Which thing do you mean?",
        "two": "I see {more} of {name}. Which one do you mean?",
        "another": "What I see and would call the {name} stood there already while the {name} was {more} from it. Where is the {name}?",
        "unmeasured": "I see the {name}, but it was not measured: {more}.",
        "no grasp": "I cannot take the {name}: {more}.",
        "no place": "I find no place {name}: {more}.",
        "no reach": "The arm cannot take the {name} as it would have to: {more}.",
        "already": "Nothing to do, it is so already: {more}",
        "not held": "The {name} must be picked up first.",
        "full": "The gripper holds the {more} then. Where shall I put it before I take the {name}?",
        "no shelf": "I see no shelf with levels.",
        "no level": "The shelf has {more} levels that I can see, no {name} one.",
    },
    "zh": {
        "unread": "我不明白这个指令。请说明拿什么、放到哪里。",
        "which": "您指的是哪一个？指令里没有说是哪样东西，请直接说出它的名字。",
        "which level": "您指的是架子的哪一层？我看到第{more}层，从下往上数。",
        "none": "我没有看到{name}。您指的是哪个？",
        "two": "我看到{more}个{name}。您指的是哪一个？",
        "another": "我现在看到的、像是{name}的东西早就在那里了，而{name}当时离它有{more}。{name}在哪里？",
        "unmeasured": "我看到{name}，但无法测量：{more}。",
        "no grasp": "我拿不起{name}：{more}。",
        "no place": "找不到可以放置的地方（{name}）：{more}。",
        "no reach": "机械臂无法按需要拿起{name}：{more}。",
        "already": "已经如此，无需移动：{more}",
        "not held": "要先拿起{name}。",
        "full": "那时夹爪还拿着{more}。拿{name}之前，要把它放到哪里？",
        "no shelf": "我没有看到有层的架子。",
        "no level": "架子只看得到{more}层，没有{name}。",
    },
}


def words(instruction: str, what: str) -> str:
    """What is said where an order is not understood, in its language."""
    return SAY[language_of(instruction)][what]
