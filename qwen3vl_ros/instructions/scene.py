"""What one picture says about the things that a plan names: what is meant, how it can be held, where it can go.

Where two things fit, or none does, nothing is chosen: the reason goes back to whoever gave the order. Knows nothing of arms or ROS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Iterable, Sequence

import numpy as np

from qwen3vl_ros.asking.finding import Found, Shot, canonical
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.layout import Layout, same_name
from qwen3vl_ros.geometry.presence import changed
from qwen3vl_ros.geometry.relations import cm
from qwen3vl_ros.geometry.things import Surface, Thing
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.grasping.placing import askew, find_places
from qwen3vl_ros.instructions.plans import SAY, PlanStep, raised
from qwen3vl_ros.instructions.resting import stands_off, stood_there
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.aliases import in_english, same_thing
from qwen3vl_ros.questions.grammar import language_of
from qwen3vl_ros.questions.grammar.orders import CORNERS, ORDINALS, ORDINALS_ZH
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.types import Detection3D, Fact, GraspTarget, InvalidInput, PlaceTarget, Verdict

_GRASPS = 24  # ways to hold a thing, for whoever puts it where not every hand fits
_PLACES, _WAYS, _PAIRS = 16, 24, 144  # where to put it, with how many of them each, and of both together
_BESIDE_M = 0.03  # from a thing, as far as the fingertips that hold it may be
_STILL = 6  # grasps of an earlier picture
_STILL_M = 0.01  # nearer than this to where it was measured then, a thing has not been moved
_LEVEL_EN = re.compile(rf"({'|'.join(ORDINALS)}|top|bottom|middle) level of the shelf")
_LEVEL_ZH = re.compile(rf"架子({'|'.join(ORDINALS_ZH)}|最上层|最下层|中间层)")
_CORNER = {f"{en} of the table": en for en in CORNERS} | {f"桌子{zh}": en for en, zh in CORNERS.items()}
_FACTS = {"on": "on", "in": "in", "next to": "next_to", "left of": "left_of", "right of": "right_of"} | {
    "in front of": "in_front_of",
    "behind": "behind",
}


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


class Scene:
    """What one picture says about the things that a plan names."""

    def __init__(
        self, perception: Perception, shot: Shot, found: Found, instruction: str, before: SceneCloud | None = None
    ):
        self._perception, self._found, self._language = perception, found, language_of(instruction)
        self.cloud = found.cloud or SceneCloud.of(shot.frame, perception.config.lift)
        if shot.lacks or not self.cloud.usable:
            raise Cannot(shot.lacking, shot.lacks or self.cloud.reason)
        self.frame_id, self._before = self.cloud.frame_id, before
        self._layout: Layout = found.layout
        self._grasps = plan_grasps(self.cloud, found.detections_3d, perception.config.gripper, most=_GRASPS)

    def grounded(self, step: PlanStep, before: Sequence[PlanStep], goes: Step | None) -> PlanStep:
        told, step = step.told, replace(step, already="", message="")
        held = next((s.told.object for s in before if s.remembered and s.status != "done"), "")
        if held and (_speaks_of(told, held) or not self._all_seen(told)):
            return step  # it is, or may be, what the gripper holds, and nobody sees that as it will stand
        if told.action == "look":
            target = self._one(told.object)
            return replace(step, target=target, after=(Fact("exists", (told.object,)),))
        if told.action == "pick" and _is_place(told.object):
            raise self._cannot("no grasp", told.object, "it is a place, not a thing")
        if told.action == "pick" and (full := _in_hand(before)):
            raise self._cannot("full", told.object, full)
        target = self._one(told.object)
        if step.target is not None and (away := self._stood_there(target, step.target)):
            raise self._cannot("another", told.object, away)
        if told.action == "pick":
            if goes is not None and (so := self._already(target, goes, before)):
                return replace(step, target=target, already=so, message=so)
            grasps = tuple(g for g in self._grasps if g.detection_id == target.id)
            feasible = (*self._still(step, target), *(g for g in grasps if g.feasible))
            if not feasible:
                why = grasps[0].reason if grasps else "it has no measured surface"
                raise self._cannot("no grasp", told.object, why)
            stood_on = facts.stands_on(self._layout, target.id)
            return replace(
                step,
                target=target,
                thing=self._thing(target.id),
                around=self._known(stood_on.arguments[1:]),
                grasps=feasible,
                before=(Fact("exists", (told.object,)), Fact("holding", ())),
                after=(Fact("holding", (target.id,)),),
                names=self._names_of(stood_on.arguments),
                stood_on=stood_on if stood_on.verdict is not Verdict.FALSE else None,
                up=self._layout.level_R_frame[2],
            )
        asked = self._asked(target, told)
        named = {a for f in asked for a in f.arguments if a != target.id}
        names = self._names_of(a for f in asked for a in f.arguments)
        step = replace(step, names=names, thing=self._thing(target.id), around=self._known(named))
        picks = [s for s in before if s.told.action == "pick" and s.told.object == told.object]
        if not picks:
            raise self._cannot("not held", told.object, "")
        pick = picks[-1]
        if pick.already:
            now = tuple(self._measured(asked))
            return replace(step, target=target, after=now, already=pick.already, message=pick.already)
        earlier = [
            s
            for s in before
            if s.told.action == "place" and s.told.object == told.object and not (s.status or s.already)
        ]
        held = (Fact("holding", (target.id,)),)
        if earlier or self._moved_before(told, before):  # of a picture to come
            return replace(step, target=target, before=held, after=asked)
        if told.relation == "back":
            places = tuple(self._home(picks[0], target, pick, k) for k in range(len(pick.grasps)))
            return replace(step, target=target, before=held, after=asked, places=places)
        grasps = pick.grasps or tuple(g for g in self._grasps if g.detection_id == target.id)
        gripper = self._perception.config.gripper
        places = find_places(self.cloud, self._layout, target, asked, grasps, gripper, _PLACES, _WAYS)[:_PAIRS]
        if not places[0].feasible:
            raise self._cannot("no place", f"{told.relation} {told.reference}", places[0].reason)
        return replace(step, target=target, places=places, before=held, after=asked)

    def places(self, told: Step, grasp: GraspTarget | None) -> Placed:
        target = self._one(told.object)
        asked = self._asked(target, told)
        if grasp is not None:
            apart_m = float(np.linalg.norm(grasp.frame_T_gripper[:3, 3] - target.frame_T_box[:3, 3]))
            if apart_m > np.linalg.norm(target.size_m) / 2 + _BESIDE_M:
                raise InvalidInput(
                    f"grasp.pose lies {apart_m:.3g} m from the middle of the {told.object}, which no hand holds so: it is of the "
                    f"fingertips, in {grasp.frame_id}, with the thing as it stands now"
                )
            grasps: tuple[GraspTarget, ...] = (replace(grasp, detection_id=target.id, label=target.label),)
        else:
            grasps = tuple(g for g in self._grasps if g.detection_id == target.id)
        places = find_places(self.cloud, self._layout, target, asked, grasps, self._perception.config.gripper)
        return Placed(target, grasps, places, self._found)

    def _already(self, target: Detection3D, goes: Step, before: Sequence[PlanStep]) -> str:
        """Why nothing need be moved to have a thing where it is to go; "" where it must be, or nobody can tell."""
        if goes.action != "place" or goes.relation == "back" or not same_name(goes.object, target.label):
            return ""
        if any(s.told.action == "place" and not s.already and s.status != "done" for s in before):
            return ""  # what is moved first may change it
        asked = self._asked(target, goes)
        measured = self._measured(asked)
        if any(f.verdict is not Verdict.TRUE for f in measured) or askew(self._layout, asked, target.frame_T_box):
            return ""
        thing, level_R_frame = self._thing(target.id), self._layout.level_R_frame
        carriers = self._known(f.arguments[1] for f in asked if f.relation == "on")
        if any(isinstance(c, Surface) and stands_off(self.cloud, thing, c, level_R_frame) for c in carriers):
            return ""
        return SAY[self._language]["already"].format(more="; ".join(f.reason for f in measured))

    def _stood_there(self, target: Detection3D, was: Detection3D) -> str:
        """How far from it a thing was in the picture before, if what is called so now stood where it stands in that picture too: then it is
        another one. "" where it did not, or nobody can tell.
        """
        apart_m = float(np.linalg.norm(target.frame_T_box[:3, 3] - was.frame_T_box[:3, 3]))
        thing = self._thing(target.id)
        if self._before is None or thing is None or apart_m < (max(target.size_m) + max(was.size_m)) / 2:
            return ""
        return cm(apart_m) if stood_there(self._before, self.cloud, thing) else ""

    def _still(self, step: PlanStep, target: Detection3D) -> tuple[GraspTarget, ...]:
        """The grasps of a pick as it was grounded before, best first, where nothing has changed since."""
        if self._before is None or step.target is None or not alike(self._before, self.cloud):
            return ()
        if np.linalg.norm(step.target.frame_T_box[:3, 3] - target.frame_T_box[:3, 3]) > _STILL_M:
            return ()
        return tuple(replace(g, detection_id=target.id) for g in step.grasps[:_STILL])

    def _measured(self, asked: Sequence[Fact]) -> list[Fact]:
        return [facts.measure(self._layout, f.relation, f.arguments, f.view or "viewer") for f in asked]

    def _thing(self, name: str) -> Thing | None:
        return next((t for t in self._layout.things if t.id == name), None)

    def _known(self, ids: Iterable[str]) -> tuple[Thing | Surface, ...]:
        ids = set(ids)
        return tuple(t for t in (*self._layout.things, *self._layout.surfaces) if t.id in ids)

    def _names_of(self, ids: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """What ids are called: things, and surfaces."""
        called = {d.id: d.label for d in self._found.detections_3d} | {s.id: s.label for s in self._layout.surfaces}
        return tuple((i, called[i]) for i in ids if i in called)

    def _home(self, first: PlanStep, target: Detection3D, pick: PlanStep, number: int) -> PlaceTarget:
        """Where the thing was when the plan first took it, held with the grasp of that number."""
        home, grasp = (first.target or target).frame_T_box, pick.grasps[number]
        release = home @ np.linalg.inv(target.frame_T_box) @ grasp.frame_T_gripper
        release = raised(release, self._layout.level_R_frame[2])
        gripper, support = self._perception.config.gripper, facts.stands_on(self._layout, target.id).arguments[1]
        frame = self.cloud.frame_id
        return PlaceTarget(target.id, support, frame, home, release, number, gripper.standoff, 0.0, grasp.quality, True)

    def _moved_before(self, told: Step, before: Sequence[PlanStep]) -> bool:
        """Whether an earlier step moves what this one refers to."""
        return any(s.told[:2] == ("place", told.reference) and not (s.status or s.already) for s in before)

    def _all_seen(self, told: Step) -> bool:
        labels = [d.label for d in self._found.detections_3d]
        return all(any(same_name(label, name) for label in labels) for name in names_of(told))

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
        if _is_shelf(told.reference):
            raise self._which_level()
        reference = self._one(told.reference)
        view = "gravity" if told.relation in ("on", "in") else "" if told.relation == "next to" else "viewer"
        return (Fact(_FACTS[told.relation], (target.id, reference.id), view),)

    def _which_level(self) -> Cannot:
        """What is asked where an order names a shelf, and none of its levels."""
        levels = sorted({s.level for s in self._layout.surfaces if s.level})
        return self._cannot("which level" if levels else "no shelf", "", ", ".join(map(str, levels)))

    def _level(self, word: str) -> str:
        levels = sorted((s.level, s.id) for s in self._layout.surfaces if s.level)
        if not levels:
            raise self._cannot("no shelf", word, "")
        if word in ("top", "最上层"):
            return levels[-1][1]
        if word in ("middle", "中间层"):
            number = 0 if len(levels) % 2 == 0 else levels[len(levels) // 2][0]
        elif word in ("bottom", "最下层"):
            number = 1
        else:
            number = next(k for k, names in enumerate(zip(ORDINALS, ORDINALS_ZH), 1) if word in names)
        level = next((i for k, i in levels if k == number), None)
        if level is None:
            raise self._cannot("no level", word, str(levels[-1][0]))
        return level

    def _cannot(self, what: str, name: str, more: str) -> Cannot:
        return Cannot(what, SAY[self._language][what].format(name=name, more=more))


def alike(before: SceneCloud, now: SceneCloud) -> bool:
    """Whether two pictures were taken from one place and differ by noise alone."""
    return (
        before.usable
        and now.usable
        and np.allclose(before.frame_T_camera, now.frame_T_camera, atol=1e-3)
        and not changed(before, now)
    )


def _in_hand(before: Sequence[PlanStep]) -> str:
    """What the gripper holds after these steps, "" for nothing."""
    name = ""
    for step in before:
        if step.told.action != "look":
            name = step.told.object if step.told.action == "pick" and not step.already else ""
    return name


def _speaks_of(told: Step, name: str) -> bool:
    """Whether a step names a thing, in whichever language."""
    return any(same_thing(n, name) or same_thing(in_english(n), in_english(name)) for n in names_of(told))


def _is_level(name: str) -> bool:
    return bool(_LEVEL_EN.fullmatch(name) or _LEVEL_ZH.fullmatch(name))


def _is_shelf(name: str) -> bool:
    return any(same_thing(name, shelf) for shelf in ("shelf", "架子"))


def _is_place(name: str) -> bool:
    """Whether a name is of what things are put on, which nobody takes, however well its edge could be held."""
    return _is_level(name) or _is_shelf(name) or name in _CORNER or canonical(name) == "table"


def names_of(told: Step) -> tuple[str, ...]:
    """What must be found for a step."""
    if _is_level(told.reference):
        return told.object, "shelf"
    if told.reference in _CORNER or not told.reference or canonical(told.reference) == "table":
        return (told.object,)
    return told.object, told.reference
