"""What goes wrong while an instruction is carried out, over real DDS: faults of the arm, a hand that moves things, a cancel in the later
phases. Each ends in its own code, the world is left safe, and the next order works. Others: test_node_instructions.py.
"""

import math

import pytest
from geometry_msgs.msg import Point, Pose
from vision_msgs.msg import BoundingBox3D, Detection3D
from workbench import LIFTED_M, Workbench

from qwen3vl_ros.action import ExecuteStep, FollowInstruction
from qwen3vl_ros.msg import Fact, GraspTarget, PlaceTarget, PlanStep
from qwen3vl_ros.srv import CheckReach, FindPlace

Result, Motion = FollowInstruction.Result, ExecuteStep.Result
DONE, FAILED, OPEN = PlanStep.DONE, PlanStep.FAILED, PlanStep.OPEN
ORDER = "put the green cube next to the blue bowl"
CUBE = (-0.02, -0.08, 0.0225)


@pytest.fixture(scope="module")
def bench(shared_graph):
    made = Workbench(shared_graph)
    made.hand = shared_graph.node.create_publisher(Detection3D, "/qwen3vl/sim_robot/move", 10)
    return made


@pytest.fixture(autouse=True)
def _the_world_as_it_was_at_first(bench):
    bench.reset()


def by_hand(bench, label, x, y, z):
    """A hand puts a thing there, after the motion that is under way."""
    message = Detection3D(id=label, bbox=BoundingBox3D(center=Pose(position=Point(x=x, y=y, z=z))))
    message.header.frame_id = "world"
    bench.hand.publish(message)


def holding(bench):
    return bench.graph.call(CheckReach, "/qwen3vl/check_reach", timeout_s=400.0).holding


def carried_out(bench, instruction):
    """A grip may slip by itself, which is told as such, and the order after it works again."""
    for _ in range(3):
        result = bench.order(instruction, execute=True).result()
        if (result.code, result.execution) != (Result.EXECUTION, Motion.SLIPPED):
            break
    assert result.code == Result.OK, (result.code, result.message)
    return result


@pytest.mark.parametrize(
    "fault, execution",
    [("slip", Motion.SLIPPED), ("unreachable", Motion.UNREACHABLE), ("collision", Motion.COLLISION)],
)
def test_an_arm_that_fails_says_how_and_the_next_order_works(bench, fault, execution):
    bench.fault(fault)
    failed = bench.order("pick up the green cube", execute=True).result()
    assert (failed.code, failed.execution) == (Result.EXECUTION, execution), failed.message
    assert [s.status for s in failed.plan.steps] == [FAILED] and failed.plan.steps[0].message
    assert not holding(bench) and math.dist(bench.where("green cube"), CUBE) < 0.05
    bench.fault("")
    carried_out(bench, "pick up the red box")
    assert holding(bench) and bench.where("red box")[2] > LIFTED_M


def test_what_a_hand_moved_between_plan_and_step_is_taken_from_where_it_is(bench):
    plan = bench.plan("pick up the green cube")
    by_hand(bench, "green cube", 0.10, -0.22, 0.0225)
    done = bench.carry_out(plan).result()
    assert done.code == Result.OK, done.message
    at = done.plan.steps[0].target.bbox.center.position
    assert math.hypot(at.x - 0.10, at.y + 0.22) < 0.02 and bench.where("green cube")[2] > LIFTED_M


def test_a_reference_that_a_hand_moved_after_the_pick_is_no_place_and_the_next_order_puts_back_first(bench):
    order = bench.carry_out(bench.plan(ORDER)).reaches("executing")
    by_hand(bench, "blue bowl", 0.17, -0.26, 0.03)
    failed = order.result()
    assert failed.code == Result.PRECONDITION and "no longer where it was" in failed.message, failed.message
    assert [s.status for s in failed.plan.steps] == [DONE, FAILED] and holding(bench)
    again = carried_out(bench, "look at the blue bowl")
    assert [(s.action, s.relation) for s in again.plan.steps] == [("place", "back"), ("look", "")]
    assert math.dist(bench.where("green cube"), CUBE) < 0.02 and not holding(bench)


def test_what_a_hand_took_out_of_the_jaws_is_put_down_only_where_it_was_taken_again(bench):
    order = bench.carry_out(bench.plan(ORDER)).reaches("executing")
    by_hand(bench, "green cube", 0.02, -0.02, 0.0225)
    done = order.result()
    bowl, cube = bench.where("blue bowl"), bench.where("green cube")
    if done.code == Result.OK:
        assert 0.06 < math.dist(bowl[:2], cube[:2]) < 0.2 and cube[2] < 0.05
    else:  # it was not seen to be gone before the arm went to put it down
        assert done.code in (Result.EXECUTION, Result.PRECONDITION, Result.POSTCONDITION), done.message
        assert math.dist(cube[:2], (0.02, -0.02)) < 0.03 or cube[2] > LIFTED_M
    carried_out(bench, "look at the green cube")


@pytest.mark.parametrize("step, state, said", [(0, "looking", ""), (0, "checking", ""), (1, "executing", "carrying")])
def test_a_cancel_in_a_later_phase_ends_it_and_the_next_order_works(bench, step, state, said):
    order = bench.carry_out(bench.plan(ORDER)).reaches(state, said=said).cancel()
    result = order.result()
    assert result.code == Result.CANCELLED, (result.code, result.message)
    statuses = [s.status for s in result.plan.steps]
    assert statuses in ([FAILED, OPEN], [DONE, FAILED])[step:], statuses  # it may have gone on before it heard
    held = holding(bench)
    assert ("; the gripper holds the green cube" in result.message) == held == (bench.where("green cube")[2] > LIFTED_M)
    after = carried_out(bench, "look at the red box")
    assert [s.action for s in after.plan.steps] == ["place", "look"][not held :] and not holding(bench)


def nonsense():
    """Steps whose measured fields say what cannot be; only their words are read."""
    nan = math.nan
    there = Pose(position=Point(x=nan, y=math.inf, z=1e300))
    step = PlanStep(action="look", object="red box", after=[Fact(relation="zzz", arguments=["1"] * 1000)])
    step.target = Detection3D(bbox=BoundingBox3D(center=there))
    step.target.header.frame_id = "nowhere"
    step.grasps = [GraspTarget(pose=there, width=nan, approach_distance=math.inf)] * 500
    step.places = [PlaceTarget(grasp=2**32 - 1, release=there)] * 500
    return step


def test_nonsense_is_answered_by_name_and_the_node_lives(bench):
    plan = bench.plan("look at the red box")
    edited = bench.order(plan_id=plan.plan_id, revision=plan.revision, steps=[nonsense()]).result()
    assert edited.code == Result.OK and edited.plan.steps[0].target.header.frame_id == "world", edited.message
    plan = edited.plan
    for words, fields in (
        ("instruction", {"instruction": " \n"}),
        ("4000", {"instruction": "put the red box on the table " * 500}),
        ("control character", {"instruction": "pick up\x07 the red box"}),
        ("timeout", {"instruction": "pick up the red box", "timeout": math.nan}),
        ("revision", {"plan_id": plan.plan_id, "revision": 2**32 - 1, "execute": True}),
        ("17 steps", {"plan_id": plan.plan_id, "revision": plan.revision, "steps": [nonsense()] * 17}),
        ("100000 characters", {"instruction": "look", "camera": "x" * 100_000}),
        *(
            (words, {"plan_id": plan.plan_id, "revision": plan.revision, "steps": [PlanStep(**step)]})
            for words, step in (
                ("no object", {"action": "look"}),
                ("100000 characters", {"action": "x" * 100_000, "object": "red box"}),
                ("no step names", {"action": "pick", "object": "the other one"}),
            )
        ),
    ):
        refused = bench.order(**fields).result()
        assert refused.code == Result.REJECTED and words in refused.message and len(refused.message) < 400, words
    find = {"object": "green cube", "relation": "on", "reference": "table"}
    far = GraspTarget(pose=Pose(position=Point(x=1e300)), width=0.04, approach_distance=0.1)
    for words, fields in (
        ("no object", {}),
        ("no step names", find | {"object": "the other one"}),
        ("timeout", find | {"timeout": math.nan}),
        ("finite", find | {"held": True, "grasp": nonsense().grasps[0]}),
        ("from the middle of the green cube", find | {"held": True, "grasp": far}),
    ):
        told = bench.graph.call(FindPlace, "/qwen3vl/perception/find_place", FindPlace.Request(**fields))
        assert not told.success and words in told.message, (words, told.message)
    assert bench.node.popen.poll() is None and carried_out(bench, "look at the red box")


def test_a_hand_that_cannot_be_moves_nothing_and_the_robot_lives(bench):
    by_hand(bench, "purple elephant", 0.0, 0.0, 0.1)
    by_hand(bench, "green cube", 1e9, 0.0, 0.1)
    by_hand(bench, "green cube", math.nan, 0.0, 0.1)
    by_hand(bench, "green cube", 0.10, -0.22, 0.0225)
    x, y, _ = bench.where("green cube")
    assert math.hypot(x - 0.10, y + 0.22) < 0.01
    assert "'purple elephant' is not" in bench.robot.log and "2 m" in bench.robot.log and "finite" in bench.robot.log
