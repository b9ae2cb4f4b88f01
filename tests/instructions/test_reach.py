"""A plan promises what the arm can reach: grasps and places as pairs, before anything moves."""

from dataclasses import replace

import numpy as np
import pytest

from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.plans import Plan, PlanStep
from qwen3vl_ros.instructions.reach import within_reach
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.sim.specs import ObjectSpec, SceneSpec
from qwen3vl_ros.sim.workcell import Ending, Workcell
from qwen3vl_ros.types import Detection3D, GraspTarget, PlaceTarget

THING = Detection3D("1", "red cube", 0.9, "world", np.eye(4), np.full(3, 0.04))


def grasp(name):
    return GraspTarget("1", name, "world", np.eye(4), 0.04, 0.1, 0.9, True)


def place(name, number):
    return PlaceTarget("1", name, "world", np.eye(4), np.eye(4), number, 0.1, 0.02, 0.8, True)


GRASPS = tuple(map(grasp, "abc"))
PLACES = (place("p", 0), place("p", 1), place("q", 0), place("r", 2))
PICK = PlanStep(Step("pick", "red cube"), THING, GRASPS)
PUT = PlanStep(Step("place", "red cube", "on", "table"), THING, places=PLACES)


class Arm:
    """Answers what it was told to, and notes what it was asked."""

    def __init__(self, *refused):
        self.refused, self.asked = refused, []

    def reach(self, step, grasps, places, control):
        self.asked.append(([g.label for g in grasps], [(p.support_id, p.grasp) for p in places]))
        return None if self.refused == (None,) else self.refused


def reached(arm, *steps):
    return within_reach(Plan(1, "put the red cube on the table", steps), arm, Control())


def test_what_can_be_reached_goes_first_then_what_was_not_tried_and_what_was_refused_is_gone():
    plan = reached(Arm("too far", "", "in the way"), PICK, PUT)
    assert [(p.support_id, p.grasp) for p in plan.steps[1].places] == [("p", 1), ("r", 2)]
    assert plan.steps[0].grasps == GRASPS, "places count them"
    alone = reached(Arm("too far", "", ""), PICK)
    assert [g.label for g in alone.steps[0].grasps] == ["b", "c"]


def test_a_plan_of_which_the_arm_can_do_nothing_is_a_statement_and_no_promise():
    plan = reached(Arm(*["too far"] * 4), PICK, PUT)
    assert not plan.executable and "red cube" in plan.question and "too far" in plan.question
    chinese = within_reach(Plan(1, "拿起红色的盒子", (PICK,)), Arm(*["too far"] * 3), Control())
    assert "够不到" in chinese.question or "无法" in chinese.question


def test_where_nobody_can_tell_nothing_is_left_out():
    plan = reached(Arm(None), PICK, PUT)
    assert plan.steps[0] is PICK and plan.steps[1].places == PLACES


@pytest.mark.parametrize(
    "steps",
    [
        (replace(PUT, remembered=True), PICK, PUT),  # the gripper is full
        (replace(PICK, status="done"), PUT),  # it is in the gripper
        (PlanStep(Step("look", "red cube"), THING),),
    ],
)
def test_only_the_motion_that_is_next_is_asked_for(steps):
    arm = Arm("no")
    assert reached(arm, *steps).steps == steps and not arm.asked


# -- the simulated arm's answers ---------------------------------------------------------------------------------------------
CUBE = ObjectSpec("cube", "red", (0.045,) * 3, (-0.05, -0.10, 0.0225), 0.0)


def above(x, y, z):
    pose = np.diag((1.0, -1.0, -1.0, 1.0))
    pose[:3, 3] = x, y, z
    return pose


@pytest.fixture
def cell():
    base = np.eye(4)
    base[0, 3] = -0.45
    wall = ObjectSpec("box", "green", (0.05, 0.30, 0.25), (0.20, 0.05, 0.125), 0.0)
    with Workcell(SceneSpec(0, (CUBE, wall)), base) as cell:
        yield cell


def test_the_arm_does_what_it_said_it_could_and_moved_nothing_to_say_so(cell):
    before = cell.world.state()
    grasps = [(above(-0.05, -0.10, 0.015), 0.045, 0.1, 0.085), (above(0.9, 0.0, 0.02), 0.045, 0.1, 0.085)]
    places = [(0, above(0.20, 0.05, 0.019), 0.1), (1, above(0.0, 0.1, 0.019), 0.1), (0, above(0.0, 0.1, 0.019), 0.1)]
    told = cell.check(grasps, places)
    assert "object1" in told[0] and "no joint angles" in told[1] and told[2] == ""
    assert [bool(why) for why in cell.check(grasps)] == [False, True]
    assert all(np.array_equal(a, b) for a, b in zip(before, cell.world.state()))
    assert cell.pick(*grasps[0]).ending is Ending.OK
    assert cell.place(*places[0][1:]).ending is Ending.COLLISION and cell.holding
    assert cell.place(*places[2][1:]).ending is Ending.OK
    assert np.linalg.norm(cell.world.pose(0)[:2, 3] - (0.0, 0.1)) < 0.01


def test_a_reset_world_is_what_it_was_and_time_goes_on(cell):
    start, then = cell.world.state(), cell.time_s
    assert cell.pick(above(-0.05, -0.10, 0.015), 0.045, 0.1, 0.085).ending is Ending.OK
    cell.reset()
    assert not cell.holding and cell.time_s > then
    assert all(np.array_equal(a, b) for a, b in zip(start, cell.world.state()))
    assert cell.pick(above(-0.05, -0.10, 0.015), 0.045, 0.1, 0.085).ending is Ending.OK
