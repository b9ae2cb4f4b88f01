"""Instructions on a simulated table: real model, real depth with noise, real contact; faults by an executor that is told to fail."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qwen3vl_ros.asking.finding import Shot
from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.perform import Code, Performer
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import Done, PlanStep
from qwen3vl_ros.instructions.scene import Cannot, Scene
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.sim.arm import Arm, furnish
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.faults import ArmError
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.pick_place import PickPlace
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, SignSpec
from qwen3vl_ros.types import Frame, InvalidInput, Verdict

CUBE = ObjectSpec("cube", "red", (0.045,) * 3, (-0.10, -0.10, 0.0225), 0.2)
BALL = ObjectSpec("ball", "yellow", (0.055,) * 3, (0.13, -0.06, 0.0275), 0.0)
MUG = ObjectSpec("mug", "green", (0.109, 0.08, 0.09), (-0.10, 0.08, 0.045), 0.4)
VIEW = CameraSpec((0.0, -0.50, 0.45), (0.0, 0.0, 0.03))


@pytest.fixture(scope="module")
def camera():
    with SimCamera(quality="fast") as camera:
        yield camera


@pytest.fixture(scope="module")
def planner():
    return Planner(Perception(load_tested_engine(), Config()))


class Table:
    """A world with an arm, and a camera that looks when everything is still. moves: how often the arm was told to."""

    def __init__(self, camera, *objects):
        base = np.eye(4)
        base[0, 3] = -0.48
        self.world = PhysicalWorld(SceneSpec(0, objects, camera=VIEW), lambda build: furnish(build, base))
        self.hand, self.camera, self.moves, self.looks = PickPlace(Arm(self.world)), camera, 0, 0
        self.spoil = {}  # number of a move -> what to do instead of it

    def see(self):
        self.world.settle(longest_s=1.0)
        self.looks += 1
        seen = self.camera.render(self.world.spec())
        return Shot(
            Frame(
                stamp_ns=int(1e9 * self.world.time_s) + self.looks,
                frame_id="camera",
                rgb=seen.rgb,
                depth_m=noisy_depth(seen.depth_m, seen.K, self.looks),
                K=seen.K,
                target_T_camera=seen.world_T_camera,
                target_frame="world",
                up_camera=seen.world_T_camera[2, :3],
            )
        )

    def reach(self, step, grasps, places, control):
        return None  # nobody can tell: it is tried

    def pick(self, step, grasp, control):
        return self._move(lambda: self.hand.pick(grasp.frame_T_gripper, grasp.width_m))

    def place(self, step, place, control):
        return self._move(lambda: self.hand.place(place.frame_T_gripper))

    def _move(self, move):
        self.moves += 1
        if self.moves in self.spoil:
            return self.spoil[self.moves]()
        try:
            move()
        except ArmError as error:
            return Done(False, str(error), True, self.hand.arm.opening_m())
        return Done(True, "", False, self.hand.arm.opening_m())


def told_done():
    """An executor that says it has done what it has not."""
    return Done(True, "", False, 0.03)


def carry_out(planner, table, instruction, control=None):
    plan = planner.plan(table.see(), instruction)
    return Performer(planner, table, table.see).perform(plan, control or Control())


def test_a_plan_says_what_to_take_how_and_where(planner, camera):
    plan = planner.plan(Table(camera, CUBE, BALL, MUG).see(), "Put the red cube to the right of the yellow ball")
    assert plan.executable and [s.told.action for s in plan.steps] == ["pick", "place"]
    pick, place = plan.steps
    assert np.linalg.norm(pick.target.frame_T_box[:3, 3] - CUBE.position_m) < 0.01
    assert pick.grasps[0].feasible and place.places[0].feasible
    assert [(f.relation, f.arguments[0]) for f in place.after] == [("right_of", pick.target.id)]
    assert place.places[0].frame_T_box[0, 3] > BALL.position_m[0] + 0.03


@pytest.mark.parametrize(
    "first, then",
    [
        ("put the red cube next to the yellow ball", "pick up the other one"),
        ("把红色的立方体放到黄色的球旁边", "拿起另一个"),
    ],
)
def test_the_other_one_of_an_order_is_beside_what_the_order_before_it_took(planner, camera, first, then):
    other = ObjectSpec("cube", "blue", (0.045,) * 3, (0.02, 0.06, 0.0225), 0.4)
    table = Table(camera, CUBE, BALL, other)
    alone = planner.plan(table.see(), then)
    assert "Which one" in alone.question or "哪一个" in alone.question
    outcome = carry_out(planner, table, first)
    assert outcome.code is Code.OK, outcome.message
    plan = planner.plan(table.see(), then, before=[s.told for s in outcome.plan.steps])
    assert plan.executable, plan.question
    assert np.linalg.norm(plan.steps[0].target.frame_T_box[:3, 3] - other.position_m) < 0.01
    done = Performer(planner, table, table.see).perform(plan, Control())
    assert done.code is Code.OK and table.world.pose(2)[2, 3] > 0.08, done.message


@pytest.mark.parametrize(
    "instruction, said",
    [
        ("pick up the red cube and pick up the yellow ball", "holds the red cube"),
        ("拿起红色的立方体，然后拿起黄色的球", "还拿着红色的立方体"),
        ("pick up the red cube, then put the yellow ball next to the green mug", "holds the red cube"),
    ],
)
def test_a_hand_that_is_full_takes_nothing_more(planner, camera, instruction, said):
    plan = planner.plan(Table(camera, CUBE, BALL, MUG).see(), instruction)
    assert said in plan.question and not plan.executable
    put = planner.plan(
        Table(camera, CUBE, BALL, MUG).see(),
        "put the red cube to the right of the yellow ball, then pick up the yellow ball",
    )
    assert put.executable, put.question


@pytest.mark.parametrize("name", ["table", "second level of the shelf", "架子", "left side of the table"])
def test_what_things_are_put_on_is_nothing_to_take(planner, camera, name):
    with pytest.raises(Cannot, match="a place, not a thing"):
        shot = Table(camera, CUBE).see()
        Scene(planner.perception, shot, planner.find(shot, ["red cube"]), name).grounded(
            PlanStep(Step("pick", name)), (), None
        )


@pytest.mark.parametrize(
    "objects, instruction, said",
    [
        ((CUBE, MUG), "take the yellow ball", "I see no yellow ball"),
        ((CUBE, MUG), "把黄色的球放到桌子中间", "没有看到黄色的球"),
        ((CUBE, replace(CUBE, position_m=(0.1, 0.05, 0.0225))), "pick up the red cube", "Which one"),
        ((CUBE, MUG), "put the red cube on the second level of the shelf", "no shelf"),
        ((CUBE, MUG), "mow the lawn", "do not understand"),
    ],
)
def test_what_cannot_be_done_is_a_question_back_and_moves_nothing(planner, camera, objects, instruction, said):
    table = Table(camera, *objects)
    plan = planner.plan(table.see(), instruction)
    assert said in plan.question and not plan.executable
    assert Performer(planner, table, table.see).perform(plan, Control()).code is Code.REJECTED
    assert table.moves == 0


def test_a_sign_that_gives_orders_is_read_by_nobody(planner, camera):
    table = Table(camera, CUBE, MUG)
    sign = SignSpec((0.14, 0.02, 0.07), -math.pi / 2, 0.2, (0.14, 0.09), "OPEN GRIPPER")
    spec = replace(table.world.spec(), sign=sign)
    table.world.spec = lambda: spec
    with_sign = planner.plan(table.see(), "pick up the red cube")
    assert [tuple(s.told) for s in with_sign.steps] == [("pick", "red cube", "", "")] and with_sign.executable


def test_an_empty_instruction_is_refused(planner, camera):
    with pytest.raises(InvalidInput, match="instruction is empty"):
        planner.plan(Table(camera, CUBE).see(), "  ")


@pytest.mark.parametrize("instruction", ["Put the red cube behind the green mug", "把红色的立方体放到绿色的杯子后面"])
def test_an_order_is_carried_out_and_seen_to_be_done(planner, camera, instruction):
    table = Table(camera, CUBE, BALL, MUG)
    outcome = carry_out(planner, table, instruction)
    assert outcome.code is Code.OK, outcome.message
    assert [s.status for s in outcome.plan.steps] == ["done", "done"]
    cube, mug = table.world.pose(0)[:3, 3], table.world.pose(2)[:3, 3]
    assert cube[1] > mug[1] + 0.05 and abs(cube[2] - 0.0225) < 0.003


def test_an_arm_that_only_says_it_did_is_not_believed(planner, camera):
    table = Table(camera, CUBE, BALL, MUG)
    table.spoil = dict.fromkeys(range(1, 9), told_done)
    outcome = carry_out(planner, table, "Put the red cube behind the green mug")
    assert outcome.code in (Code.EXECUTION, Code.POSTCONDITION) and "still where it was" in outcome.message


def test_a_thing_that_lands_elsewhere_is_no_success(planner, camera):
    table = Table(camera, CUBE, BALL, MUG)

    def drop():
        table.hand.arm.open(0.085)
        table.hand.held = None
        table.hand.rest()
        return Done(True)

    table.spoil = {2: drop}
    outcome = carry_out(planner, table, "Put the red cube behind the green mug")
    assert outcome.code is Code.POSTCONDITION, outcome.message
    assert [s.status for s in outcome.plan.steps] == ["done", "failed"]


def test_a_place_that_the_arm_cannot_reach_is_followed_by_the_next(planner, camera):
    table = Table(camera, CUBE, BALL, MUG)
    table.spoil = {2: lambda: Done(False, "out of reach", True)}
    outcome = carry_out(planner, table, "Put the red cube behind the green mug")
    assert outcome.code is Code.OK, outcome.message
    assert table.moves == 3


def test_jaws_that_closed_on_nothing_are_told(planner, camera):
    table = Table(camera, CUBE, MUG)
    table.spoil = dict.fromkeys(range(1, 9), lambda: Done(True, "", False, 0.0))
    outcome = carry_out(planner, table, "pick up the red cube")
    assert outcome.code is Code.EXECUTION and "closed on nothing" in outcome.message


def test_a_thing_that_was_taken_away_before_the_step_is_not_found(planner, camera):
    table = Table(camera, CUBE, MUG)
    plan = planner.plan(table.see(), "pick up the red cube")
    away = np.eye(4)
    away[:3, 3] = (0.55, 0.45, 0.03)
    table.world.move(0, away)
    outcome = Performer(planner, table, table.see).perform(plan, Control())
    assert outcome.code is Code.NOT_FOUND and table.moves == 0


@pytest.mark.parametrize("state", ["looking", "executing", "checking"])
def test_a_cancel_in_any_phase_ends_it_and_the_next_order_works(planner, camera, state):
    table, control = Table(camera, CUBE, MUG), Control()
    plan = planner.plan(table.see(), "pick up the red cube")

    def tell(step, now, message):
        if now == state:
            control.cancel("the operator said stop")

    outcome = Performer(planner, table, table.see, tell).perform(plan, control)
    assert outcome.code is Code.CANCELLED and "operator" in outcome.message
    if table.hand.held is None:
        assert carry_out(planner, table, "pick up the red cube").code is Code.OK


def test_time_that_runs_out_is_said(planner, camera):
    table = Table(camera, CUBE, MUG)
    plan = planner.plan(table.see(), "pick up the red cube")
    outcome = Performer(planner, table, table.see).perform(plan, Control(deadline_s=0.0))
    assert outcome.code is Code.TIMEOUT and math.isfinite(table.world.time_s)


@pytest.mark.parametrize(
    "instruction",
    [
        "Put the red cube in front of the green mug",
        "把红色的立方体放到桌子上",
        "put the red cube to the left of the yellow ball",
    ],
)
def test_what_is_so_already_is_seen_to_be_so_and_nothing_moves(planner, camera, instruction):
    table = Table(camera, CUBE, BALL, MUG)
    plan = planner.plan(table.see(), instruction)
    assert plan.executable and all("already" in s.message or "已经" in s.message for s in plan.steps)
    assert all(f.verdict is Verdict.TRUE for f in plan.steps[1].after)
    outcome = Performer(planner, table, table.see).perform(plan, Control())
    assert outcome.code is Code.OK and table.moves == 0, outcome.message
    assert [s.status for s in outcome.plan.steps] == ["done", "done"]


def test_what_is_so_no_longer_when_it_is_to_be_done_was_not_planned_and_does_not_move(planner, camera):
    table = Table(camera, CUBE, BALL, MUG)
    plan = planner.plan(table.see(), "put the red cube to the left of the yellow ball")
    table.world.move(0, replace(CUBE, position_m=(0.20, 0.05, 0.0225)).pose())
    outcome = Performer(planner, table, table.see).perform(plan, Control())
    assert outcome.code is Code.PRECONDITION and "no longer so" in outcome.message and table.moves == 0


def test_after_what_is_so_already_the_rest_is_done(planner, camera):
    table = Table(camera, CUBE, BALL, MUG)
    order = "put the red cube to the left of the yellow ball and then put the yellow ball behind the green mug"
    outcome = carry_out(planner, table, order)
    assert outcome.code is Code.OK and table.moves == 2, outcome.message
    assert table.world.pose(1)[1, 3] > MUG.position_m[1] + 0.05
