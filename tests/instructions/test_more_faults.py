"""Faults of what sees and of what moves that lie about it: none is taken for success, each has its code, and the next order is carried out."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.perform import Code, Performer
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import Done
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.rehearsal import Rehearsal
from qwen3vl_ros.sim.faults import Collision
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec
from qwen3vl_ros.sim.workcell import Workcell
from qwen3vl_ros.types import Generation

CUBE = ObjectSpec("cube", "red", (0.045,) * 3, (-0.10, -0.10, 0.0225), 0.2)
MUG = ObjectSpec("mug", "green", (0.109, 0.08, 0.09), (-0.10, 0.08, 0.045), 0.4)
BALL = ObjectSpec("ball", "yellow", (0.055,) * 3, (0.13, -0.06, 0.0275), 0.0)
ORDER = "Put the red cube to the right of the green mug"


@pytest.fixture(scope="module")
def planner():
    return Planner(Perception(load_tested_engine(), Config()))


class Robot(Rehearsal):
    """spoil(shot): what the camera shows after the first motion. lies: what is done and said instead of each motion, by its number."""

    def __init__(self, cell):
        super().__init__(cell)
        self.moves, self.spoil, self.lies = 0, None, {}

    def see(self):
        shot = super().see()
        return self.spoil(shot) if self.spoil and self.moves else shot

    def _move(self, control, motion):
        self.moves += 1
        return self.lies[self.moves]() if self.moves in self.lies else super()._move(control, motion)

    def at(self, k):
        return self.cell.world.pose(k)[:3, 3]


@pytest.fixture
def robot():
    base = np.eye(4)
    base[0, 3] = -0.48
    spec = SceneSpec(0, (CUBE, MUG, BALL), camera=CameraSpec((0.0, -0.50, 0.45), (0.0, 0.0, 0.03)))
    with Workcell(spec, base) as cell:
        yield Robot(cell)


def carry_out(planner, robot, order=ORDER, held=None, tell=lambda *_: None):
    plan = planner.plan(robot.see(), order, held=held)
    return Performer(planner, robot, robot.see, tell).perform(plan, Control(), held)


def the_next_order_works(planner, robot, failed):
    robot.spoil, robot.lies = None, {}
    again = carry_out(planner, robot, held=failed.held)
    assert again.code is Code.OK, again.message
    assert robot.at(0)[0] > robot.at(1)[0] + 0.04


def no_depth(shot):
    frame = replace(shot.frame, depth_m=None)
    return replace(shot, frame=frame, lacks="depth image stopped 5.0 s ago (depth/image_raw)", stale=True)


def no_pose(shot):
    frame = replace(shot.frame, target_T_camera=None, target_frame="")
    return replace(shot, frame=frame, lacks="target_frame 'world': no transform", no_pose=True)


def other_place(shot):
    near = np.full_like(shot.frame.depth_m, 0.35)
    return replace(shot, frame=replace(shot.frame, depth_m=near, rgb=np.roll(shot.frame.rgb, 200, 1)))


@pytest.mark.parametrize(
    "spoil, code, words",
    [
        (no_depth, Code.STALE, "depth image stopped"),
        (no_pose, Code.TF, "no transform"),
        (other_place, Code.STALE, "another place"),
    ],
)
def test_a_picture_that_proves_nothing_ends_it_in_its_own_code(planner, robot, spoil, code, words):
    robot.spoil = spoil
    failed = carry_out(planner, robot)
    assert failed.code is code and words in failed.message, failed.message
    assert [s.status for s in failed.plan.steps] == ["failed", ""] and failed.held is not None
    the_next_order_works(planner, robot, failed)


def test_colour_that_stands_still_while_depth_goes_on_is_noticed(planner, robot):
    old = robot.see().frame.rgb
    robot.spoil = lambda shot: replace(shot, frame=replace(shot.frame, rgb=old))
    failed = carry_out(planner, robot)
    assert failed.code is Code.STALE and "colour image is frozen" in failed.message
    the_next_order_works(planner, robot, failed)


def test_an_arm_that_says_at_once_that_it_did_is_not_believed(planner, robot):
    robot.lies = dict.fromkeys(range(1, 9), lambda: Done(True, "", False, 0.045, True))
    failed = carry_out(planner, robot)
    assert failed.code is Code.EXECUTION and "still where it was" in failed.message
    robot.cell.world.settle()
    assert np.linalg.norm(robot.at(0) - CUBE.position_m) < 0.01


def test_what_is_taken_out_of_the_jaws_on_the_way_is_not_put_down(planner, robot):
    def tell(step, state, message):
        if (step, state) == (1, "executing"):
            robot.cell.world.move(0, replace(CUBE, position_m=(0.16, 0.12, 0.0225)).pose())

    failed = carry_out(planner, robot, "Put the red cube behind the green mug", tell=tell)
    assert failed.code in (Code.EXECUTION, Code.POSTCONDITION), failed.message
    robot.cell.reset()
    the_next_order_works(planner, robot, failed)


def test_what_was_let_go_elsewhere_is_not_where_it_was_told_to_be(planner, robot):
    def elsewhere():
        robot.cell.arm.open(0.085)
        robot.cell.reset()
        robot.cell.world.move(0, replace(CUBE, position_m=(-0.25, -0.02, 0.0225)).pose())
        return Done(True, "", False, 0.085, False)

    robot.lies = {2: elsewhere}
    failed = carry_out(planner, robot)
    assert failed.code is Code.POSTCONDITION, failed.message
    the_next_order_works(planner, robot, failed)


@pytest.mark.parametrize(
    "lacks, at, code",
    [
        ("none", CUBE.position_m, Code.OK),
        ("no reach", CUBE.position_m, Code.OK),
        ("two", CUBE.position_m, Code.AMBIGUOUS),
        ("none", (0.05, -0.12, 0.0225), Code.NOT_FOUND),
        ("no place", (-0.10, -0.13, 0.0225), Code.NOT_FOUND),
    ],
)
def test_looks_that_miss_what_stands_where_it_stood_undo_no_plan(planner, robot, lacks, at, code):
    plan = planner.plan(robot.see(), ORDER)
    robot.cell.world.move(0, replace(CUBE, position_m=at).pose())
    missed = lambda plan, shot, control=None: replace(plan, question="I see no red cube.", lacks=lacks)  # noqa: E731
    eyes = SimpleNamespace(ground=missed, find=planner.find)  # all that whoever looks from another thread has, too
    done = Performer(eyes, robot, robot.see).perform(plan, Control())
    assert done.code is code, done.message


def test_two_things_that_changed_places_after_the_plan_are_known_again(planner, robot):
    plan = planner.plan(robot.see(), ORDER)
    robot.cell.world.move(0, replace(CUBE, position_m=(0.13, -0.06, 0.0225)).pose())
    robot.cell.world.move(2, replace(BALL, position_m=(-0.10, -0.10, 0.0275)).pose())
    done = Performer(planner, robot, robot.see).perform(plan, Control())
    assert done.code is Code.OK, done.message
    assert np.linalg.norm(robot.at(2)[:2] - CUBE.position_m[:2]) < 0.02, "the ball was left alone"
    assert robot.at(0)[0] > robot.at(1)[0] + 0.04


class Suggestible(Perception):
    """Boxes what it is asked for by the truth of a robot's picture, and what else is red for a red thing that it does not see."""

    def __init__(self, robot):
        super().__init__(None, Config())
        self._robot = robot

    def generate(self, frame, question, control=None, on_text=None, camera="", view=None):
        x0, y0, x1, y1 = view.region_xyxy_px if view and view.region_xyxy_px else (0, 0, *frame.size_px)
        shown = {t.label: np.array(t.box_xyxy_px) for t in self._robot.seen.truths if t.visibility > 0.1}
        said = []
        for phrase in question.targets if len(question.targets) == 1 else ():
            box = shown.get(phrase, shown.get("red box") if phrase.startswith("red") else None)
            if box is not None and (box[:2] >= (x0, y0)).all() and (box[2:] <= (x1, y1)).all():
                scaled = (box - (x0, y0, x0, y0)) * 1000 / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
                said.append({"bbox_2d": [round(float(v)) for v in scaled], "label": phrase})
        return Generation(json.dumps(said), (), None, (), "stop")


def test_what_stood_elsewhere_all_the_time_is_not_what_fell_out_of_sight(robot):
    other = ObjectSpec("box", "red", (0.05, 0.04, 0.045), (0.15, 0.10, 0.0225), 0.2)
    base, picks = np.eye(4), []
    base[0, 3] = -0.48
    with Workcell(replace(robot.cell.world.spec(), objects=(CUBE, MUG, other)), base) as cell:
        robot = Robot(cell)
        planner = Planner(Suggestible(robot))

        def tell(step, state, message):
            picks.extend([step] if (step, state) == (0, "executing") else [])

        def falls():
            if cell.holding and picks and not cell.world.pose(0)[2, 3] < 0:
                cell.world.move(0, replace(CUBE, position_m=(0.0, 2.0, -0.5)).pose())

        phases = [""]
        cell.phase = phases.append
        cell.tick = lambda: falls() if phases[-1] == "carrying" else None
        failed = carry_out(planner, robot, tell=tell)
        assert failed.code is Code.NOT_FOUND and "stood there already" in failed.message, failed.message
        assert len(picks) == 1 and np.linalg.norm(robot.at(2) - other.position_m) < 0.01


def test_an_arm_that_takes_the_wrong_thing_is_found_out(planner, robot):
    def wrong():
        robot.cell.world.move(2, replace(BALL, position_m=(-0.2, 0.1, 0.35)).pose())
        return Done(True, "", False, 0.045, True)

    robot.lies = dict.fromkeys(range(1, 9), wrong)
    failed = carry_out(planner, robot)
    assert failed.code is Code.EXECUTION and "still where it was" in failed.message


@pytest.mark.parametrize("when", ["closing", "lifting"])
@pytest.mark.parametrize("times", [1, 3])
def test_what_stays_in_the_jaws_where_it_stood_is_let_go_before_it_is_taken_again(planner, robot, when, times):
    """The arm is held up with its jaws about the thing, and cannot even back off."""
    stuck = []

    def held_up(state):
        if state == when and len(stuck) < times:
            stuck.append(state)
            if when == "closing":
                robot.cell.arm.close()
                robot.cell._hand.held = 0
            raise Collision("the arm is held up by something")

    backs_off = robot.cell._hand.back_off
    robot.cell._hand.back_off = lambda *args: None if robot.cell.holding else backs_off(*args)
    robot.cell.phase = held_up
    ended = carry_out(planner, robot)
    if times == 1:
        assert ended.code is Code.OK, ended.message
    else:
        assert ended.code is Code.EXECUTION and "holds something already" not in ended.message, ended.message
        assert ended.held is None and not robot.cell.holding
        the_next_order_works(planner, robot, ended)


def test_an_arm_that_says_it_holds_and_does_not_is_asked_again(planner, robot):
    robot.lies = {1: lambda: Done(True, "", False, 0.045, True)}
    done = carry_out(planner, robot)
    assert done.code is Code.OK, done.message


def test_what_cannot_be_put_back_ends_it_in_the_jaws_and_the_next_order_begins_with_it(planner, robot):
    def taken():
        robot.lies[2] = lambda: Done(False, "the arm is held up", True, 0.045, True)
        robot.cell.arm.open(0.085)
        return Done(False, "the arm is held up", True, 0.045, True)

    robot.lies = {1: taken}
    failed = carry_out(planner, robot)
    assert failed.code is Code.EXECUTION and "could not be put back" in failed.message and robot.moves == 2
    assert failed.held is not None and planner.plan(robot.see(), ORDER, held=failed.held).steps[0].remembered


@pytest.mark.parametrize(
    "number, at", [(0, (0.16, 0.10, 0.0225)), (1, (-0.24, 0.2, 0.045)), (0, (-0.2, -0.05, 0.0225))]
)
def test_what_a_later_step_undoes_is_not_said_to_be_done(planner, robot, number, at):
    def tell(step, state, message):
        if (step, state) == (2, "executing"):
            robot.cell.world.move(number, replace((CUBE, MUG)[number], position_m=at).pose())

    failed = carry_out(planner, robot, f"{ORDER} and then pick up the yellow ball", tell=tell)
    assert failed.code is Code.POSTCONDITION and "later motion" in failed.message, failed.message
    assert [s.status for s in failed.plan.steps] == ["done", "failed", "done"] and failed.held is not None


@pytest.mark.parametrize(
    "then", ["pick up the yellow ball", "put the green mug to the right of the yellow ball", "pick up the red cube"]
)
def test_what_a_later_step_moves_on_purpose_is_not_undone(planner, robot, then):
    done = carry_out(planner, robot, f"{ORDER} and then {then}")
    assert done.code is Code.OK, done.message


def test_a_way_to_hold_a_thing_stays_one_while_nothing_has_changed(planner, robot):
    """Noise alone makes other grasps of each picture; what the arm was asked about and approved is not lost to it."""
    plan = planner.plan(robot.see(), ORDER)
    best = plan.steps[0].grasps[plan.steps[1].places[0].grasp].frame_T_gripper

    def known(plan):
        return any(np.array_equal(g.frame_T_gripper, best) for g in plan.steps[0].grasps)

    again = planner.ground(plan, robot.see())
    assert known(again) and np.array_equal(again.steps[0].grasps[0].frame_T_gripper, best)
    assert all(p.grasp < len(again.steps[0].grasps) for p in again.steps[1].places)
    for k, at in ((0, (-0.08, -0.10, 0.0225)), (1, (-0.10, 0.13, 0.045)), (2, (-0.04, -0.12, 0.0275))):
        start = robot.cell.world.pose(k)
        robot.cell.world.move(k, replace((CUBE, MUG, BALL)[k], position_m=at).pose())
        assert not known(planner.ground(plan, robot.see())), "the scene is another"
        robot.cell.world.move(k, start)
    assert known(planner.ground(plan, robot.see())), "and again what it was"
