"""Whether what a step promised is true, by newer pictures alone.

What cannot be told is looked at again, and is then neither success nor failure. Knows nothing of motions or ROS.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Callable, Mapping, Sequence

import numpy as np

from qwen3vl_ros.asking.finding import Found, Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.layout import Layout, same_name
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import PlanStep
from qwen3vl_ros.types import (
    Cancelled,
    DeadlinePassed,
    Detection3D,
    Fact,
    GraspTarget,
    MalformedAnswer,
    PlaceTarget,
    Verdict,
)

LOOKS = 3  # at what cannot be told, before giving up
_MOVED_M = 0.03  # nearer than this to where it was, a thing has not been taken
_HELD_M = 0.002  # jaws that are closed farther hold nothing
# Nearer than this to where it was put, by its middle seen from above and its top, a thing lies where it was promised to: on or in what
# carries it, and beside something.
_AT_REST_M, _AT_REST_BESIDE_M = 0.02, 0.012
_RISEN_M = 0.04  # a thing whose top is so much higher has been lifted
_WIDTH_M = 0.025  # jaws that stand so much wider or narrower than what was to be taken may hold something else


@dataclass
class Checker:
    """Looks by a planner, at pictures of see(): taken after everything that moved so far has stopped. tell: as of a Performer; k, wherever
    it is an argument, is the step that it is told of. Raises Cancelled, DeadlinePassed, and what looking raises.
    """

    planner: Planner
    see: Callable[[], Shot]
    tell: Callable[[int, str, str], None]
    control: Control

    def moved_reference(self, k: int, step: PlanStep) -> str:
        """What is no longer where it was when the places were chosen, in all of several looks; "" for nothing."""
        wanted, moved = {label: at for label, at in step.around}, ""
        for _ in range(LOOKS if wanted else 0):
            self.tell(k, "looking", "")
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

    def _find(self, names: Sequence[str], expected: Mapping[str, np.ndarray] = MappingProxyType({})) -> Found | None:
        """What these names mean now; None where the model's answer could not be read, which tells nothing."""
        go_on(self.control)
        try:
            return self.planner.find(self.see(), names, self.control, expected)
        except MalformedAnswer:
            return None

    def picked(self, k: int, step: PlanStep, grasp: GraspTarget, opening_m: float) -> tuple[Verdict, str]:
        """Whether the gripper holds the target: its jaws stand opening_m apart on something, and it is no longer where it was."""
        if opening_m < _HELD_M:
            return Verdict.FALSE, f"the jaws closed on nothing where the {step.told.object} was"
        name, there = step.told.object, step.target
        wanted_m, odd = grasp.width_m, ""
        # A thing may have turned in the jaws: then it must be seen to have risen.
        if abs(opening_m - wanted_m) > _WIDTH_M:
            odd = f"the jaws stand {opening_m:.3f} m apart, and the {name} is {wanted_m:.3f} m wide there: nobody can tell what they hold"
        for _ in range(LOOKS):
            self.tell(k, "checking", "")
            if (found := self._find((name,))) is None:
                continue
            now = [d for d in found.detections_3d if same_name(d.label, name)]
            apart = [np.linalg.norm(d.frame_T_box[:3, 3] - there.frame_T_box[:3, 3]) for d in now]
            if any(a < _MOVED_M for a in apart):
                return Verdict.FALSE, f"the {name} is still where it was"
            if any(_risen_m(found, d, there) > _RISEN_M for d in now) if odd else math.isfinite(opening_m) or now:
                return Verdict.TRUE, f"the gripper holds the {name}"
        return Verdict.UNKNOWN, odd or f"nobody can tell whether the gripper holds the {name}"

    def placed(self, k: int, step: PlanStep, place: PlaceTarget) -> tuple[Verdict, str]:
        """Whether what was promised of the place is true now.

        What is seen to lie where it was put is as right as the place was, whose facts were chosen with room to spare. Those of a picture
        that sees half of a small top, or of a foot, are often too close to tell, or take the carrier for a part of the thing.
        """
        message, wrong = "the model's answers could not be read", False
        expected = {step.told.object: _corners(place.frame_T_box, step.target.size_m)}
        for _ in range(LOOKS):
            self.tell(k, "checking", "")
            if (found := self._find(tuple(n for _, n in step.names), expected)) is None:
                continue
            if not (measured := self._measured(found, step)):
                continue
            worst = min(measured, key=facts.standing)
            message = worst.reason
            if worst.verdict is Verdict.TRUE:
                return Verdict.TRUE, "; ".join(f.reason for f in measured)
            off_m, carried = self._off_m(found, step, place), worst.relation in ("on", "in")
            if (carried or worst.verdict is Verdict.UNKNOWN) and off_m < (_AT_REST_M if carried else _AT_REST_BESIDE_M):
                said = f"the {step.told.object} lies where it was put, within {100 * off_m:.1f} cm"
                return Verdict.TRUE, said
            if worst.verdict is Verdict.FALSE and wrong:  # two looks agree
                return Verdict.FALSE, f"it was put down, but {message}"
            wrong = wrong or worst.verdict is Verdict.FALSE
        return Verdict.UNKNOWN, f"it was put down, but nobody can tell whether it lies right: {message}"

    @staticmethod
    def _measured(found: Found, step: PlanStep) -> list[Fact]:
        """The facts after a place, measured in a new picture: names of things stand for the ids of the plan's picture."""
        names, layout = dict(step.names), _remembering(found.layout, step.hollow)
        return [_measure(layout, f, tuple(names.get(a, a) for a in f.arguments)) for f in step.after]

    @staticmethod
    def _off_m(found: Found, step: PlanStep, place: PlaceTarget) -> float:
        """How far what was put down is seen from where it was to lie, by middle and top, metres; infinite where it is not seen."""
        level_R_frame = found.layout.level_R_frame

        def spot(frame_T_box: np.ndarray, size_m: np.ndarray) -> np.ndarray:
            corners = _corners(frame_T_box, size_m) @ level_R_frame.T
            return np.array((*corners[:, :2].mean(0), corners[:, 2].max()))

        wanted = spot(place.frame_T_box, step.target.size_m)
        seen = [d for d in found.detections_3d if same_name(d.label, step.told.object)]
        return min((float(np.linalg.norm(spot(d.frame_T_box, d.size_m) - wanted)) for d in seen), default=math.inf)


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


def _risen_m(found: Found, now: Detection3D, before: Detection3D) -> float:
    """By how much the top of a thing is higher than it was; nan where nobody knows what up is. The top: a foot may be hidden."""
    frame = found.shot.frame
    if frame.up_camera is None:
        return math.nan
    up = (np.eye(4) if frame.target_T_camera is None else frame.target_T_camera)[:3, :3] @ frame.up_camera
    tops = [(_corners(d.frame_T_box, d.size_m) @ up).max() for d in (now, before)]
    return float(tops[0] - tops[1])
