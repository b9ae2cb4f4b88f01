"""What goes wrong while an arm works: each fault ends in its own code, nothing is left in danger, and the next order is carried out."""

from dataclasses import replace

import numpy as np
import pytest

from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.perform import Code, Performer
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.rehearsal import NO_ANSWER, NO_SERVER, Rehearsal
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec
from qwen3vl_ros.sim.workcell import Ending, Workcell

CUBE = ObjectSpec("cube", "red", (0.045,) * 3, (-0.10, -0.10, 0.0225), 0.2)
MUG = ObjectSpec("mug", "green", (0.109, 0.08, 0.09), (-0.10, 0.08, 0.045), 0.4)
ORDER = "Put the red cube to the right of the green mug"


@pytest.fixture(scope="module")
def planner():
    return Planner(Perception(load_tested_engine(), Config()))


@pytest.fixture
def robot():
    base = np.eye(4)
    base[0, 3] = -0.48
    spec = SceneSpec(0, (CUBE, MUG), camera=CameraSpec((0.0, -0.50, 0.45), (0.0, 0.0, 0.03)))
    with Workcell(spec, base) as cell:
        yield Rehearsal(cell, patience_s=0.2)


def carry_out(planner, robot, order=ORDER, control=None, held=None, tell=lambda *_: None):
    plan = planner.plan(robot.see(), order, held=held)
    return Performer(planner, robot, robot.see, tell).perform(plan, control or Control(), held)


def stands_safe(robot):
    """Nothing lies in the jaws' way, hangs in the air or has left the table."""
    robot.cell.world.settle()
    things = [robot.cell.world.pose(k)[:3, 3] for k in range(2) if not robot.cell.arm.holds(k)]
    return all(0 < at[2] < 0.06 and np.abs(at[:2]).max() < 0.5 for at in things)


@pytest.mark.parametrize(
    "fault, execution",
    [
        ("slip", Ending.SLIPPED),
        ("unreachable", Ending.UNREACHABLE),
        ("collision", Ending.COLLISION),
        ("dead", NO_SERVER),
        ("silent", NO_ANSWER),
    ],
)
def test_an_arm_that_fails_says_how_and_the_next_order_works(planner, robot, fault, execution):
    robot.cell.fault = fault
    failed = carry_out(planner, robot)
    assert (failed.code, failed.execution) == (Code.EXECUTION, execution), failed.message
    assert failed.held is None and not robot.cell.holding and stands_safe(robot)
    assert "done" not in [s.status for s in failed.plan.steps]
    robot.cell.fault = ""
    again = carry_out(planner, robot)
    assert again.code is Code.OK, again.message
    cube, mug = robot.cell.world.pose(0)[:3, 3], robot.cell.world.pose(1)[:3, 3]
    assert cube[0] > mug[0] + 0.04


def test_a_camera_that_froze_after_the_motion_ends_it(planner, robot):
    plan = planner.plan(robot.see(), ORDER)
    robot.cell.fault = "frozen"
    failed = Performer(planner, robot, robot.see).perform(plan, Control())
    assert failed.code is Code.STALE and "frozen" in failed.message
    assert [s.status for s in failed.plan.steps] == ["failed", ""]
    robot.cell.fault = ""
    again = carry_out(planner, robot, held=failed.held)
    assert again.code is Code.OK, again.message


def test_what_a_hand_moved_between_plan_and_step_is_taken_from_where_it_is(planner, robot):
    plan = planner.plan(robot.see(), ORDER)
    robot.cell.world.move(0, replace(CUBE, position_m=(0.05, -0.12, 0.0225)).pose())
    done = Performer(planner, robot, robot.see).perform(plan, Control())
    assert done.code is Code.OK, done.message


def test_a_reference_that_a_hand_moved_after_the_pick_is_no_place(planner, robot):
    def tell(step, state, message):
        if step == 1 and state == "looking":
            robot.cell.world.move(1, replace(MUG, position_m=(0.12, 0.05, 0.045)).pose())

    failed = carry_out(planner, robot, tell=tell)
    assert failed.code is Code.PRECONDITION and "no longer where it was" in failed.message
    assert failed.held is not None and stands_safe(robot)
    again = carry_out(planner, robot, held=failed.held)
    assert again.code is Code.OK, again.message


def test_what_falls_on_the_way_is_taken_again_from_where_it_lies(planner, robot):
    picks, phases = [], [""]

    def tell(step, state, message):
        picks.extend([step] if (step, state) == (0, "executing") else [])

    def tick():
        if robot.cell.holding and len(picks) == 1 and phases[-1] == "carrying":
            robot.cell.world.move(0, replace(CUBE, position_m=(-0.12, -0.14, 0.0225)).pose())

    robot.cell.phase = phases.append
    robot.cell.tick = tick
    done = carry_out(planner, robot, tell=tell)
    assert done.code is Code.OK and len(picks) == 2, done.message
    assert robot.cell.world.pose(0)[0, 3] > robot.cell.world.pose(1)[0, 3] + 0.04


@pytest.mark.parametrize("when", [(0, "looking"), (0, "executing"), (0, "checking"), (1, "executing"), (1, "checking")])
def test_a_cancel_in_any_phase_ends_it_and_the_next_order_works(planner, robot, when):
    control, motions = Control(), []

    def tell(step, state, message):
        if (step, state) == when and state != "executing":
            control.cancel("the operator said stop")

    def tick():
        motions.append(robot.cell.time_s)
        if when[1] == "executing" and robot.cell.holding == bool(when[0]) and len(motions) > 60:
            control.cancel("the operator said stop")

    robot.cell.tick = tick
    stopped = carry_out(planner, robot, control=control, tell=tell)
    robot.cell.tick = lambda: None
    assert stopped.code is Code.CANCELLED and "operator" in stopped.message
    assert (stopped.held is not None) == robot.cell.holding and stands_safe(robot)
    again = carry_out(planner, robot, held=stopped.held)
    assert again.code is Code.OK, again.message
