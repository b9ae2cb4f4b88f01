"""Instructions over real DDS, with the embedded model and the simulated robot: reviewed, carried out, seen to be done; and each fault
in its own code, with the next order carried out. Faults of the arm itself: tests/instructions/test_faults.py.
"""

from itertools import groupby

import pytest
from ros_graph import until
from workbench import LIFTED_M, MOTION_PATIENCE_S, Workbench

from qwen3vl_ros.action import ExecuteStep, FollowInstruction
from qwen3vl_ros.msg import Fact, PlanStep
from qwen3vl_ros.srv import FindPlace

Result = FollowInstruction.Result
DONE, FAILED, OPEN = PlanStep.DONE, PlanStep.FAILED, PlanStep.OPEN
ORDER = "put the yellow ball into the blue bowl"
BESIDE = "put the red box next to the blue bowl"


@pytest.fixture(scope="module")
def bench(shared_graph):
    return Workbench(shared_graph)


@pytest.fixture(autouse=True)
def _the_world_as_it_was_at_first(bench):
    bench.set("follow.step_timeout", 600.0)
    bench.set("follow.stop_timeout", 15.0)
    bench.reset()


TRIES = 4


def carried_out(bench, instruction):
    """The result of an instruction that was planned, reviewed and carried out."""
    return bench.carry_out(bench.plan(instruction)).result()


def until_it_is_so(bench, done, so):
    """done() -> a result, and whether it is so(result), again from the beginning where it is not: a real arm's grip may slip, and what
    a test does while something moves may come after it has moved, where the machine does much else.
    """
    for left in reversed(range(TRIES)):
        result = done()
        if so(result) or not left:
            return result
        bench.reset()


def stale_after_the_motion(bench, fault):
    """The result of an order during whose motion the camera fails."""

    def done():
        order = bench.carry_out(bench.plan(BESIDE)).reaches("executing")
        bench.fault(fault)
        return order.result()

    return until_it_is_so(bench, done, lambda r: r.code == Result.STALE and r.plan.steps[0].status == FAILED)


def test_nothing_moves_before_the_plan_was_reviewed_and_then_it_is_seen_to_be_done(bench):
    before = bench.where("red box")
    plan = bench.plan("把红色的盒子放到蓝色的碗旁边")
    assert [s.action for s in plan.steps] == ["pick", "place"] and plan.executable and plan.header.frame_id == "world"
    pick, place = plan.steps
    assert pick.grasps[0].feasible and place.places[0].feasible and place.after[0].relation == "next_to"
    at = pick.target.bbox.center.position
    assert abs(at.x - before[0]) < 0.02 and abs(at.y - before[1]) < 0.02
    until(lambda: bench.plans and bench.plans[-1].plan_id == plan.plan_id, what="the plan, for everybody")
    assert bench.where("red box") == pytest.approx(before, abs=1e-3)

    busy = []

    def follow():
        plan = bench.plan(BESIDE) if busy else first
        orders.append(bench.carry_out(plan).reaches("executing"))
        busy.append(bench.order(ORDER).result().code)
        return orders[-1].result()

    orders, first = [], plan
    done = until_it_is_so(bench, follow, lambda r: r.code == Result.OK and busy[-1] == Result.BUSY)
    order = orders[-1]
    assert busy[-1] == Result.BUSY
    assert done.code == Result.OK, done.message
    assert [s.status for s in done.plan.steps] == [DONE, DONE] and done.plan.revision > plan.revision
    states = [state for state, _ in groupby(s for step, s in order.heard if step == 0)]
    assert states == ["planning", "looking", "executing", "checking"]
    x, y, z = bench.where("red box")
    bowl = bench.where("blue bowl")
    assert 0.06 < ((x - bowl[0]) ** 2 + (y - bowl[1]) ** 2) ** 0.5 < 0.2 and z < 0.05

    again = bench.carry_out(done.plan).result()
    assert again.code == Result.REJECTED and "already" in again.message


@pytest.mark.parametrize(
    "fields, words",
    [
        ({}, "give an instruction"),
        ({"instruction": "go", "plan_id": 7}, "one of them"),
        ({"plan_id": 7, "execute": True}, "there is no plan 7"),
        ({"instruction": "pick up the red box", "timeout": -1.0}, "timeout"),
        ({"instruction": "pick up the red box", "camera": "moon"}, "camera 'moon' is unknown"),
        ({"steps": [PlanStep(action="look", object="red box")], "instruction": "look"}, "without the plan_id"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(bench, fields, words):
    result = bench.order(**fields).result()
    assert result.code == Result.REJECTED and words in result.message


def test_a_plan_that_is_stale_or_edited_into_nonsense_is_refused_and_an_edited_one_is_checked_anew(bench):
    plan = bench.plan("pick up the green cube")
    plan.revision += 1
    assert "revision" in bench.carry_out(plan).result().message
    plan.revision -= 1
    edited = list(plan.steps)
    edited[0].action = "throw"
    refused = bench.carry_out(plan, steps=edited).result()
    assert refused.code == Result.REJECTED and "'throw' is unknown" in refused.message
    edited[0].action, edited[0].object = "look", "purple elephant"
    absent = bench.order(plan_id=plan.plan_id, revision=plan.revision, steps=edited).result()
    assert absent.code == Result.NOT_FOUND and absent.plan.revision > plan.revision
    edited[0].object = "green cube"
    seen = bench.carry_out(absent.plan, steps=edited).result()
    assert seen.code == Result.OK and seen.plan.steps[0].status == DONE, seen.message


def test_a_question_back_cannot_be_carried_out(bench):
    result = bench.order("pick up the purple elephant", execute=True).result()
    assert result.code == Result.NOT_FOUND and "elephant" in result.plan.question and not result.plan.executable
    assert bench.carry_out(result.plan).result().code != Result.OK


def test_find_place_says_where_a_thing_can_go_with_the_grasp_that_is_given(bench):
    def find(**fields):
        asked = FindPlace.Request(object="green cube", relation="on", reference="table", **fields)
        return bench.graph.call(FindPlace, "/qwen3vl/perception/find_place", asked, MOTION_PATIENCE_S)

    found = find()
    assert found.success and found.places[0].feasible and found.header.frame_id == "world", found.message
    assert found.places[0].facts[0].verdict != Fact.FALSE
    held = find(held=True, grasp=found.grasps[0])
    assert held.success and held.places[0].grasp == 0
    nonsense = find(held=True)
    assert not nonsense.success and "quaternion" in nonsense.message or "width" in nonsense.message


def test_the_planner_never_answers_or_goes_away_and_the_next_order_works(bench):
    plan = bench.plan("pick up the green cube")
    bench.set("follow.step_timeout", 1.0)
    bench.set("follow.stop_timeout", 0.5)
    bench.fault("silent")
    result = bench.carry_out(plan).result()
    assert (result.code, result.execution) == (Result.EXECUTION, ExecuteStep.Result.NO_ANSWER), result.message
    assert [s.status for s in result.plan.steps] == [FAILED]
    bench.fault("dead")
    bench.set("follow.step_timeout", 300.0)
    gone = bench.order("pick up the red box", execute=True).result()
    assert (gone.code, gone.execution) == (Result.EXECUTION, ExecuteStep.Result.NO_SERVER), gone.message
    bench.fault("")
    assert carried_out(bench, "look at the red box").code == Result.OK


def test_a_camera_that_froze_after_the_motion_proves_nothing(bench):
    result = stale_after_the_motion(bench, "frozen")
    assert result.code == Result.STALE and "frozen" in result.message, result.message


def test_depth_that_stops_after_the_motion_while_colours_go_on_proves_nothing(bench):
    result = stale_after_the_motion(bench, "blind")
    assert result.code == Result.STALE and "depth" in result.message, result.message
    assert [s.status for s in result.plan.steps] == [FAILED, OPEN]
    bench.fault("")
    again = carried_out(bench, "look at the blue bowl")
    assert again.code == Result.OK, again.message


def test_what_is_so_already_is_done_without_a_motion(bench):
    before = bench.where("green cube")
    done = carried_out(bench, "put the green cube to the left of the blue bowl")
    assert done.code == Result.OK and "already" in done.message, done.message
    assert [s.status for s in done.plan.steps] == [DONE, DONE] and not done.plan.steps[0].grasps
    assert bench.where("green cube") == pytest.approx(before, abs=1e-3)


def test_a_cancel_stops_the_arm_and_the_next_order_works(bench):
    def cancelled():
        plan = bench.plan("put the green cube next to the blue bowl")
        return bench.carry_out(plan).reaches("executing", said="closing").cancel().result()

    of = lambda r: [s.status for s in r.plan.steps[-2:]]
    result = until_it_is_so(bench, cancelled, lambda r: r.code == Result.CANCELLED and of(r) == [FAILED, OPEN])
    assert result.code == Result.CANCELLED, (result.code, result.message)
    assert of(result) == [FAILED, OPEN]
    after = until_it_is_so(bench, lambda: carried_out(bench, "pick up the green cube"), lambda r: r.code == Result.OK)
    assert after.code == Result.OK, after.message
    *_, held = after.plan.steps
    assert held.action == "pick" and bench.where("green cube")[2] > LIFTED_M


def test_a_cancel_while_it_plans_and_a_node_that_is_deactivated_move_nothing_more(bench):
    cancel = lambda: bench.order(BESIDE, execute=True).reaches("planning").cancel().result()
    cancelled = until_it_is_so(bench, cancel, lambda r: r.code == Result.CANCELLED and not r.plan.steps)
    assert cancelled.code == Result.CANCELLED and not cancelled.plan.steps

    def deactivated():
        order = bench.order("pick up the red box", execute=True).reaches("executing")
        assert bench.graph.transition("deactivate")
        return order.result()

    stopped = until_it_is_so(bench, deactivated, lambda r: r.code == Result.CANCELLED)
    assert stopped.code == Result.CANCELLED and "deactivated" in stopped.message, stopped.message
    refused = bench.order("pick up the red box").result()
    assert refused.code == Result.ERROR and "not active" in refused.message
    assert bench.graph.transition("activate")
    assert carried_out(bench, "look at the blue bowl").code == Result.OK
