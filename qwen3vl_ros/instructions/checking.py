"""Whether what a step promised is true, by newer pictures alone.

What cannot be told is looked at again, and is then neither success nor failure. Knows nothing of motions or ROS.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Callable, Mapping, Sequence

import numpy as np

from qwen3vl_ros.asking.finding import Found, Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.layout import Layout, same_name
from qwen3vl_ros.geometry.presence import UNTOLD, another_scene, changed, presence
from qwen3vl_ros.geometry.things import Surface, Thing
from qwen3vl_ros.grasping.placing import askew
from qwen3vl_ros.instructions.laid import ASIDE_M, Laid, aside
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import Done, PlanStep
from qwen3vl_ros.instructions.resting import come_onto, doubt, leans, only_it_went, took_another
from qwen3vl_ros.types import (
    Cancelled,
    DeadlinePassed,
    Detection3D,
    Fact,
    GraspTarget,
    MalformedAnswer,
    PerceptionError,
    PlaceTarget,
    Verdict,
)

LOOKS = 3  # at what cannot be told, before giving up
_MOVED_M = 0.03  # nearer than this to where it was, a thing has not been taken
_HELD_M = 0.002  # jaws that are closed farther hold nothing
# Nearer than this to where it was put, by its middle seen from above and its top, a thing lies where it was promised to: on or in what
# carries it, and beside something.
_AT_REST_M, _AT_REST_BESIDE_M = 0.021, 0.013
_LOOKED_FOR_M = 0.05  # so far about where it should lie
_MORE = 0.02  # of the rays: by so many more it lies farther aside
_BACK_M = 0.03  # farther from where it stood, a thing was not put back
_CARRIED_M = 0.035  # the same where it is seen on what carries it, but not clearly
_RESTS_M = 0.005  # of the margin with which what is let go is seen on what carries it
_SIGMAS = 1.75  # of the margin to the border of a corner or side
# A thing whose top is so much higher has been lifted, and one with so much room below it hangs in the jaws.
_RISEN_M = 0.04
_WIDTH_M = 0.025  # jaws that stand so much wider or narrower than what was to be taken may hold something else


class Unseen(PerceptionError):
    """No picture came in which anything could be checked. lacks: as Plan's."""

    def __init__(self, lacks: str, message: str):
        super().__init__(message)
        self.lacks = lacks


@dataclass
class Checker:
    """Looks by a planner, at pictures of see(): taken after everything that moved so far has stopped. tell: as of a Performer; k, wherever
    it is an argument, is the step that it is told of. Raises Cancelled, DeadlinePassed, Unseen, and what looking raises.

    What a look means is told by depth first (geometry/presence.py): whether a thing has gone from where it was, whether something of its
    form lies now where it was put, whether what it was put beside still stands. What the model boxes is believed where depth
    does not say otherwise: what stood there before a motion is not what was moved.
    """

    planner: Planner
    see: Callable[[], Shot]
    tell: Callable[[int, str, str], None]
    control: Control
    laid: Laid = field(default_factory=Laid)
    _last: Shot | None = None
    _before: Shot | None = None  # the last motion
    _before_cloud: SceneCloud | None = None  # its depth, once somebody has asked
    _lacks: tuple[str, str] = ("", "")

    def look(self) -> Shot:
        self._last = self.see()
        return self._last

    def moving(self) -> None:
        """A motion begins: what was seen last is what it was before."""
        self._before, self._before_cloud = self._last, None

    def moved_reference(self, k: int, step: PlanStep) -> str:
        """What is no longer where it was when the places were chosen, in all of several looks; "" for nothing."""
        moved, self._before = "", None
        for _ in range(LOOKS if step.around else 0):
            self.tell(k, "looking", "")
            if (seen := self._find(())) is None:
                continue
            if not (unsure := [t for t in step.around if not presence(seen.cloud, t).is_there]):
                return ""
            if (found := self._find([t.label for t in unsure if isinstance(t, Thing)])) is None:
                continue
            if not (moved := next((t.label for t in unsure if _elsewhere(found, t)), "")):
                return ""
        self._told_something()
        return f"the {moved} is no longer where it was when the place was chosen" if moved else ""

    def picked(self, k: int, step: PlanStep, grasp: GraspTarget, done: Done) -> tuple[Verdict, str]:
        """Whether the gripper holds the target: its jaws stand apart on something, and it is no longer where it was."""
        name, there, opening_m = step.told.object, step.target, done.opening_m
        if opening_m < _HELD_M:
            return Verdict.FALSE, f"the jaws closed on nothing where the {name} was"
        if done.holding is False:
            return Verdict.FALSE, f"the arm says that its jaws hold nothing where the {name} was"
        wanted_m, odd = grasp.width_m, ""
        # A thing may have turned in the jaws: then it must be seen to have risen.
        if abs(opening_m - wanted_m) > _WIDTH_M:
            odd = f"the jaws stand {opening_m:.3f} m apart, and the {name} is {wanted_m:.3f} m wide there: nobody can tell what they hold"
        for _ in range(LOOKS):
            self.tell(k, "checking", "")
            if (found := self._find((name,))) is None:
                continue
            left = presence(found.cloud, step.thing) if step.thing else UNTOLD
            new = {t.id for t in self._new_things(found, name)}
            now = [d for d in found.detections_3d if same_name(d.label, name)]
            here = [d for d in now if np.linalg.norm(d.frame_T_box[:3, 3] - there.frame_T_box[:3, 3]) < _MOVED_M]
            if left.is_there or (here and not left.is_gone):
                return Verdict.FALSE, f"the {name} is still where it was"
            risen = [d for d in now if d.id in new and _risen_m(found, d, there) > _RISEN_M]
            away = left.is_gone or (left.hidden <= left.gone and (new or math.isfinite(opening_m)))
            carried_by = [facts.stands_on(found.layout, i) for i in new]
            if not risen and any(on.verdict is Verdict.TRUE for on in carried_by):
                odd = f"the {name} lies elsewhere now: it was pushed aside, and nobody can tell what the jaws hold"
                continue
            hangs = any(on.verdict is Verdict.FALSE and on.margin_m < -_RISEN_M for on in carried_by)
            only = lambda: only_it_went(self._cloud_before(found), found.cloud, step.thing)
            risen = risen or (left.is_gone and (hangs or only()))
            if risen if odd else away:
                if step.thing and (other := took_another(self._cloud_before(found), found.cloud, step.thing)):
                    return Verdict.UNKNOWN, other
                return Verdict.TRUE, f"the gripper holds the {name}"
        self._told_something()
        return Verdict.UNKNOWN, odd or f"nobody can tell whether the gripper holds the {name}"

    def placed(self, k: int, step: PlanStep, place: PlaceTarget, done: Done) -> tuple[Verdict, str]:
        """Whether what was promised of the place is true now.

        What lies where it was put is as right as the place was, whose facts were chosen with room to spare. Those of a picture that sees
        half of a small top, or of a foot, are often too close to tell, or take the carrier for a part of the thing.
        """
        name, wrong, message = step.told.object, False, ""
        if done.holding:
            return Verdict.FALSE, f"the arm says that it still holds the {name}"
        expected = {name: _corners(place.frame_T_box, step.target.size_m)}
        rest = step.thing and step.thing.moved(place.frame_T_box @ np.linalg.inv(step.target.frame_T_box))
        for _ in range(LOOKS):
            self.tell(k, "checking", "")
            if (found := self._find(tuple(n for _, n in step.names), expected)) is None:
                continue
            new = self._new_things(found, name)
            lying, off_m = self._lying(found, rest)
            if not (lying or new) and done.holding is False:
                lying, off_m = self._rolled(found, step, place, rest), math.inf
            new = [lying] if lying else new
            off_m = off_m if lying else _off_m(found, new, step, place)
            layout = _known(found, [t for t in found.layout.things if not same_name(t.label, name)] + new, step.around)
            names = dict(step.names)
            measured = [_measure(layout, f, tuple(names.get(a, a) for a in f.arguments)) for f in step.after]
            if not measured:
                continue
            open_ = [f for f in measured if not _holds(f, off_m, bool(new) and done.holding is False)]
            if not open_ and not lying and new and (message := _amiss(layout, step, measured, new[0], off_m)):
                if wrong:
                    return Verdict.FALSE, f"it was put down, but {message}"
                wrong = True
                continue
            if not open_:
                lies = new[0] if new else rest
                if lies and (message := self._doubt(found, step, place, lies, rest)):
                    continue
                if lies:
                    self.laid.put(k, step.told, lies, step.around, found.layout.level_R_frame)
                told = "; ".join(f.reason for f in measured if f.verdict is Verdict.TRUE)
                return Verdict.TRUE, told or f"the {name} lies where it was put, within {100 * max(off_m, 0.01):.1f} cm"
            worst = min(open_, key=facts.standing)
            message = worst.reason
            if worst.verdict is Verdict.FALSE and wrong:  # two looks agree
                return Verdict.FALSE, f"it was put down, but {message}"
            wrong = wrong or worst.verdict is Verdict.FALSE
        self._told_something()
        message = message or "the model's answers could not be read"
        return Verdict.UNKNOWN, f"it was put down, but nobody can tell whether it lies right: {message}"

    def undone(self, last: int) -> tuple[int, str] | None:
        """The first step whose thing, or what it was put on or beside, no longer lies where it was seen to lie: a later motion moved it.
        last: the step that was just looked at.
        """
        told: dict[int, str] = {}
        for _ in range(LOOKS if self.laid.before(last) else 0):
            found = self._find(())
            if not (told := self.laid.undone(found and found.cloud, last)):
                return None
        return min(told.items()) if told else None

    def _doubt(self, found: Found, step: PlanStep, place: PlaceTarget, lies: Thing, rest: Thing | None) -> str:
        """Why nobody may say that it rests on what it was put on, as it was put, and is what it is called; "" where nothing speaks against it.
        rest: as it was put.
        """
        carrier = _carrier(found, step, place)
        before, level_R_frame = self._cloud_before(found), found.layout.level_R_frame
        if rest and step.told.relation != "in" and (why := leans(before, found.cloud, lies, rest, level_R_frame[2])):
            return why
        return doubt(before, found.cloud, lies, carrier, level_R_frame)

    def _rolled(self, found: Found, step: PlanStep, place: PlaceTarget, rest: Thing | None) -> Thing | None:
        """What was put on or into something, wherever it came to lie there."""
        carrier = _carrier(found, step, place) if step.told.relation in ("on", "in") else None
        if rest is None or carrier is None:
            return None
        return come_onto(self._cloud_before(found), found.cloud, rest, carrier, found.layout.level_R_frame)

    def _lying(self, found: Found, rest: Thing | None) -> tuple[Thing | None, float]:
        """What ends rays where a thing should lie and none ended before the motion, and how far aside it lies: there where most of them end,
        since those to a large thing end in it well aside, too. None where there is nothing, or it lies too far aside.
        """
        before, most, lies, far_m = self._cloud_before(found), -math.inf, None, math.inf
        if rest is None or before is None:
            return None, math.inf
        for moved, off_m in aside(rest, found.layout.level_R_frame, _LOOKED_FOR_M):
            told = presence(found.cloud, moved, before)
            share = told.there / max(1, told.there + told.gone)
            if told.is_there and share > most + _MORE:
                most, lies, far_m = share, moved, off_m
        return (replace(lies, id=f"{rest.id}, put down"), far_m) if far_m <= ASIDE_M else (None, math.inf)

    # -- looks ---------------------------------------------------------------------------------------------------------

    def _find(self, names: Sequence[str], expected: Mapping[str, np.ndarray] = MappingProxyType({})) -> Found | None:
        """What these names mean now; None where the model's answer could not be read, or the picture proves nothing."""
        go_on(self.control)
        shot = self.look()
        try:
            if shot.lacks:
                raise Unseen(shot.lacking, shot.lacks)
            found = self.planner.find(shot, names, self.control, expected)
            if (before := self._cloud_before(found)) is not None and (why := _not_after(before, found)):
                raise Unseen("stale", why)
        except MalformedAnswer:
            return None
        except Unseen as why:
            self._lacks = why.lacks, str(why)
            return None
        self._lacks = "", ""
        return found

    def _told_something(self) -> None:
        """Raises Unseen where the last picture proved nothing."""
        if self._lacks[0]:
            raise Unseen(*self._lacks)

    def _cloud_before(self, found: Found) -> SceneCloud | None:
        """The depth of before the last motion, as that of a look is read; None where there is none to compare with."""
        if self._before is None or found.cloud is None:
            return None
        if self._before_cloud is None:
            self._before_cloud = SceneCloud.of(self._before.frame, found.cloud.config)
        return self._before_cloud

    def _new_things(self, found: Found, name: str) -> list[Thing]:
        """What is seen of that name and did not stand there before the last motion."""
        before = self._cloud_before(found)
        named = [t for t in found.layout.things if same_name(t.label, name)]
        return [t for t in named if before is None or not presence(before, t).is_there]


def _not_after(before: SceneCloud, found: Found) -> str:
    """Why a picture is none of what came of a motion since another one."""
    if another_scene(before, found.cloud):
        return "the camera shows another place than before the motion"
    if np.array_equal(before.frame.rgb, found.shot.frame.rgb) and changed(before, found.cloud):
        return "the depth image has changed and the colour image not in the least: the colour image is frozen"
    return ""


def _elsewhere(found: Found, was: Thing | Surface) -> bool:
    """Whether a look sees elsewhere what it was, or sees that it is not there."""
    if isinstance(was, Surface):
        return presence(found.cloud, was).is_gone
    at = was.frame_T_box[:3, 3]
    now = [d.frame_T_box[:3, 3] for d in found.detections_3d if same_name(d.label, was.label)]
    return min(np.linalg.norm(n - at) for n in now) > _MOVED_M if now else presence(found.cloud, was).is_gone


def _carrier(found: Found, step: PlanStep, place: PlaceTarget) -> Thing | Surface | None:
    """What a thing was put on or into, as it was measured for that."""
    known = (*step.around, *found.layout.surfaces) if step.told.relation != "back" else ()
    return next((t for t in known if t.id == place.support_id), None)


def _known(found: Found, things: Sequence[Thing], around: Sequence[Thing | Surface]) -> Layout:
    """The layout with these things, and with what was known of what stands where it stood: the inside of a bowl that is full now, a board
    that is hidden by what was put on it."""
    things, surfaces = list(things), list(found.layout.surfaces)
    for was in around:
        here = presence(found.cloud, was)
        known: list = surfaces if isinstance(was, Surface) else things
        same = [t for t in known if same_name(t.label, was.label)]
        if here.is_there or (isinstance(was, Surface) and not same and not here.is_gone):
            known[:] = [t for t in known if t not in same] + [replace(was, id=f"{was.id}, as it was")]
        elif isinstance(was, Thing) and was.inside is not None:
            known[:] = [_with_inside(t, was) if t in same else t for t in known]
    return found.layout.with_things(things, surfaces)


def _with_inside(thing: Thing, was: Thing) -> Thing:
    moved = np.linalg.norm(thing.frame_T_box[:3, 3] - was.frame_T_box[:3, 3])
    return replace(thing, inside=was.inside) if thing.inside is None and moved < _MOVED_M else thing


def _amiss(layout: Layout, step: PlanStep, measured: Sequence[Fact], lies: Thing, off_m: float) -> str:
    """Why nobody would call that what was told, though its facts hold of a thing that lies elsewhere than where it was put; "" for nothing."""
    if step.told.relation == "back":
        return f"the {step.told.object} lies {100 * off_m:.0f} cm from where it was" if off_m > _BACK_M else ""
    if askew(layout, measured, lies.frame_T_box):
        return f"the {step.told.object} lies more aside of the {step.told.reference} than {step.told.relation} it, or far off"
    return ""


def _holds(fact: Fact, off_m: float, let_go: bool) -> bool:
    """Whether a fact that was promised of a place is true: it was measured so, or the thing lies off_m from where it was to lie and the
    measurement cannot tell better. let_go: it is seen, and nothing holds it any more.
    """
    unknown = fact.verdict is Verdict.UNKNOWN
    if fact.verdict is Verdict.TRUE:
        return True
    if fact.relation in ("on", "in"):
        if unknown and fact.margin_m > 0:  # only noise keeps it from being told
            resting = fact.relation == "on" and let_go and fact.margin_m > _RESTS_M
            return resting or off_m < _CARRIED_M
        return off_m < _AT_REST_M
    # How far a table reaches is known worse than where a thing lies on it.
    doubtful = fact.relation == "at" and fact.margin_m < _SIGMAS * fact.sigma_m
    return unknown and off_m < _AT_REST_BESIDE_M and not doubtful


def _off_m(found: Found, new: Sequence[Thing], step: PlanStep, place: PlaceTarget) -> float:
    """How far what was put down is seen from where it was to lie, by middle and top, metres; infinite where it is not seen."""
    level_R_frame = found.layout.level_R_frame

    def spot(frame_T_box: np.ndarray, size_m: np.ndarray) -> np.ndarray:
        corners = _corners(frame_T_box, size_m) @ level_R_frame.T
        return np.array((*corners[:, :2].mean(0), corners[:, 2].max()))

    wanted = spot(place.frame_T_box, step.target.size_m)
    return min((float(np.linalg.norm(spot(t.frame_T_box, t.size_m) - wanted)) for t in new), default=math.inf)


def go_on(control: Control) -> None:
    """Raises Cancelled or DeadlinePassed where the work has to stop."""
    if control.cancelled:
        raise Cancelled(control.reason)
    if control.expired:
        raise DeadlinePassed("the time for the instruction is over")


def _corners(frame_T_box: np.ndarray, size_m: np.ndarray) -> np.ndarray:
    """The corners of a box, 8x3."""
    unit = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    return (unit * size_m) @ frame_T_box[:3, :3].T + frame_T_box[:3, 3]


def _measure(layout: Layout, fact: Fact, arguments: tuple[str, ...]) -> Fact:
    return facts.measure(layout, fact.relation, arguments, fact.view or "viewer")


def _risen_m(found: Found, now: Detection3D, before: Detection3D) -> float:
    """By how much the top of a thing is higher than it was; nan where nobody knows what up is. The top: a foot may be hidden."""
    frame = found.shot.frame
    if frame.up_camera is None:
        return math.nan
    up = (np.eye(4) if frame.target_T_camera is None else frame.target_T_camera)[:3, :3] @ frame.up_camera
    tops = [(_corners(d.frame_T_box, d.size_m) @ up).max() for d in (now, before)]
    return float(tops[0] - tops[1])
