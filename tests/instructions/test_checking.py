"""A place is right when a newer picture shows it: by its facts, or by the thing lying where it was to lie. Exact layouts stand for pictures."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.checking import LOOKS, Checker
from qwen3vl_ros.instructions.plans import Done, PlanStep
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.sim.layouts import exact_layout
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec
from qwen3vl_ros.types import Detection3D, Fact, PlaceTarget, Verdict

CAN = ObjectSpec("cylinder", "purple", (0.05, 0.05, 0.08), (0.0, 0.0, 0.045 + 0.04), 0.0)
CUBE = ObjectSpec("cube", "red", (0.045,) * 3, (0.0, 0.0, 0.0225), 0.0)
SHOT = SimpleNamespace(lacks="")
VIEW = CameraSpec((0.0, -0.50, 0.45), (0.0, 0.0, 0.03))


def seen(can, taller_m=0.0):
    """What a picture shows of the can; taller_m: of the cube below it that was taken for a part of it."""
    spec = SceneSpec(0, (can, CUBE), camera=VIEW)
    layout = exact_layout(spec, VIEW.world_T_camera(), (0, 1))
    low = replace(
        can,
        size_m=(*can.size_m[:2], can.size_m[2] + taller_m),
        position_m=(*can.position_m[:2], can.position_m[2] - taller_m / 2),
    )
    if taller_m:
        drawn = exact_layout(SceneSpec(0, (low, CUBE), camera=VIEW), VIEW.world_T_camera(), (0, 1))
        layout = layout.with_things(drawn.things)
    boxes = [
        Detection3D(str(k), o.label, 0.9, "world", o.pose(), np.array(o.size_m)) for k, o in enumerate((low, CUBE))
    ]
    named = [replace(t, label=(CAN, CUBE)[int(t.id)].label) for t in layout.things]
    return SimpleNamespace(layout=layout.with_things(named), detections_3d=boxes, cloud=None)


def verdict(found, fact=Fact("on", ("0", "1"), "gravity"), goal=CAN):
    target = Detection3D("0", CAN.label, 0.9, "world", CAN.pose(), np.array(CAN.size_m))
    names = (("0", CAN.label), ("1", CUBE.label))
    step = PlanStep(Step("place", CAN.label, "on", CUBE.label), target, after=(fact,), names=names)
    place = PlaceTarget("0", "1", "world", goal.pose(), np.eye(4), 0, 0.1, 0.02, 0.8, True)
    pictures = iter((found,) * LOOKS)
    planner = SimpleNamespace(find=lambda *_: next(pictures))
    return Checker(planner, lambda: SHOT, lambda *_: None, Control()).placed(0, step, place, Done(True))


def test_what_stands_where_it_should_is_there():
    assert verdict(seen(CAN))[0] is Verdict.TRUE


def test_a_carrier_that_was_taken_for_a_part_of_the_thing_does_not_make_it_wrong():
    told, said = verdict(seen(CAN, taller_m=0.04))
    assert told is Verdict.TRUE and "lies where it was put" in said


@pytest.mark.parametrize("at", [(0.06, 0.0, 0.04), (0.3, 0.1, 0.04)])
def test_what_fell_off_is_not_there(at):
    assert verdict(seen(replace(CAN, position_m=at)))[0] is not Verdict.TRUE


def test_what_is_not_seen_is_not_told():
    nothing = SimpleNamespace(layout=seen(CAN).layout.with_things(()), detections_3d=[], cloud=None)
    assert verdict(nothing)[0] is Verdict.UNKNOWN


def test_beside_is_never_taken_from_the_place_where_a_look_says_no():
    right = replace(CAN, position_m=(0.12, 0.0, 0.04))
    assert verdict(seen(right), Fact("right_of", ("0", "1"), "viewer"), right)[0] is Verdict.TRUE
    assert verdict(seen(right), Fact("left_of", ("0", "1"), "viewer"), right)[0] is Verdict.FALSE


def taken(now, opening_m, up=(0.0, 0.0, 1.0), holding=None):
    """What is said of a pick of the can, 0.05 m wide there, that a picture then shows as `now`."""
    target = Detection3D("0", CAN.label, 0.9, "world", CAN.pose(), np.array(CAN.size_m))
    frame = SimpleNamespace(target_T_camera=None, up_camera=None if up is None else np.array(up))
    boxes = [Detection3D("0", CAN.label, 0.9, "world", now.pose(), np.array(now.size_m))] if now else []
    layout = seen(now or CAN).layout
    layout = layout.with_things([t for t in layout.things if now and t.id == "0"])
    found = SimpleNamespace(detections_3d=boxes, layout=layout, shot=SimpleNamespace(frame=frame), cloud=None)
    planner = SimpleNamespace(find=lambda *_: found)
    step = PlanStep(Step("pick", CAN.label), target, names=((CAN.label, CAN.label),))
    grasp = SimpleNamespace(width_m=0.05)
    checker = Checker(planner, lambda: SHOT, lambda *_: None, Control())
    return checker.picked(0, step, grasp, Done(True, opening_m=opening_m, holding=holding))[0]


RAISED = replace(CAN, position_m=(0.02, 0.0, 0.25))
ASIDE = replace(CAN, position_m=(0.15, 0.0, CAN.position_m[2]))


@pytest.mark.parametrize(
    "now, opening_m, verdict",
    [
        (RAISED, 0.05, Verdict.TRUE),
        (RAISED, 0.02, Verdict.TRUE),  # it turned in the jaws
        (ASIDE, 0.02, Verdict.UNKNOWN),  # pushed aside, with something else between the jaws
        (None, 0.02, Verdict.UNKNOWN),
        (CAN, 0.02, Verdict.FALSE),
        (RAISED, 0.0, Verdict.FALSE),
    ],
)
def test_what_the_jaws_hold_is_told_by_their_opening_or_by_what_has_risen(now, opening_m, verdict):
    assert taken(now, opening_m) is verdict


def test_where_nobody_knows_what_up_is_nothing_has_risen():
    assert taken(RAISED, 0.02, up=None) is Verdict.UNKNOWN


def test_an_arm_that_says_its_jaws_are_empty_holds_nothing_and_one_that_still_holds_put_nothing_down():
    assert taken(RAISED, 0.05, holding=False) is Verdict.FALSE
