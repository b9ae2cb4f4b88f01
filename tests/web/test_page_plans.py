"""Plans, and who approves them, in real browsers; and what others say and do not say. The arm is the simulated one, and then somebody
who says what the test has it say.
"""

from __future__ import annotations

import itertools
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("viser")
pytest.importorskip("playwright")

from browser import PATIENCE_MS, Tab, needs_browser, start, start_page
from follower import Follower
from playwright.sync_api import expect
from ros_graph import until
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3D, Detection3DArray, ObjectHypothesisWithPose

from qwen3vl_ros.msg import Event, EventArray, Generation, Plan, PlanStep, Reading
from qwen3vl_ros.node.client import LATCHED
from qwen3vl_ros.node.messages import header_of, image

pytestmark = needs_browser


def test_a_plan_is_changed_and_approved_and_what_the_simulated_arm_makes_of_it_is_told_as_the_node_tells_it(
    graph, chromium
):
    start(graph, "sim_robot", pace=4.0, rate=3.0)
    seen = {"enabled": "false", "max_age": 60.0, "use_sim_time": "true"}
    node = start(graph, "perception.main", target_frame="world", robot_frame="arm_link0", **seen)
    tab = Tab(chromium, start_page(graph))
    node.logged("active: ")
    plans = graph.listen("/qwen3vl/perception/plan", Plan, LATCHED)
    tab.part("seen", "640x480")
    tab.enter("instruction", "把红色的盒子放到蓝色的碗后面")
    tab.part("plan", "place 红色的盒子 behind")
    tab.press("Change the steps")
    tab.choose("2. where", "next to")
    tab.press("Check the steps")
    tab.part("plan", "place 红色的盒子 next to 蓝色的碗")
    until(lambda: plans and plans[-1].revision == 2, what="the second revision")
    assert plans[-1].understood_by == Plan.CLIENT and plans[-1].steps[1].places
    tab.press("Change the steps")
    tab.choose("2. do", "leave out")
    tab.press("Check the steps")
    tab.part("plan", "revision 3")
    until(lambda: plans[-1].revision == 3, what="the third revision")
    (step,) = plans[-1].steps
    assert step.grasps and step.status == PlanStep.OPEN, "nothing moves before it was approved"
    tab.press("Approve and do it")
    tab.part("plan", "executing")
    end = tab.page.locator(".plan .progress b")
    expect(end).to_have_text(re.compile("done|EXECUTION|CONDITION|STALE"), timeout=PATIENCE_MS)
    words = {PlanStep.OPEN: "open", PlanStep.RUNNING: "running", PlanStep.DONE: "done", PlanStep.FAILED: "failed"}
    said = lambda: [words[step.status] for step in plans[-1].steps]
    shown = tab.page.locator(".plan > table > tbody > tr > td:last-child")
    until(lambda: shown.all_inner_texts() == said() != ["running"], what="what the node tells on the page")
    assert (end.inner_text() == "done") == (said() == ["done"])
    tab.close()


@pytest.fixture(scope="module")
def told(shared_graph):
    """A page of a node that says what the test has it say."""
    return SimpleNamespace(follower=Follower(shared_graph, "told"), url=start_page(shared_graph, "--namespace", "told"))


@pytest.fixture(scope="module")
def pair(chromium, told):
    """Two browsers of those who watch what is told."""
    made = [Tab(chromium, told.url) for _ in range(2)]
    yield made
    for each in made:
        each.close()


def test_what_a_scene_or_a_model_says_is_shown_and_never_read_as_html(told, shared_graph, pair):
    node, tab = shared_graph.node, pair[0]
    evil = "<img src=//evil.example/x onerror=alert(1)><a href='//evil.example'>杯子</a><script>alert(2)</script>"
    best = ObjectHypothesisWithPose()
    best.hypothesis.class_id = evil
    flat, solid = Detection2D(id="1", results=[best]), Detection3D(id=evil, results=[best])
    flat.bbox.center.position.x = flat.bbox.center.position.y = flat.bbox.size_x = flat.bbox.size_y = 40.0
    event = Event(name=evil, unit=evil, message=evil, after=Event.ACTIVE, limit=float("nan"))
    rgb = image(header_of(0, evil), np.full((120, 160, 3), 90, np.uint8))
    said = {
        "image_raw": rgb,
        "perception/detections_2d": Detection2DArray(header=rgb.header, detections=[flat]),
        "perception/detections_3d": Detection3DArray(header=rgb.header, detections=[solid]),
        "perception/readings": Reading(point=evil, unit=evil, zone=evil, value=1.0),
        "perception/alarms": EventArray(events=[event]),
        "perception/generation": Generation(error=evil),
    }
    publishers = [(node.create_publisher(type(m), f"/told/{topic}", LATCHED), m) for topic, m in said.items()]
    tab.page.get_by_text("Engine", exact=True).click()

    def shown():
        for publisher, message in publishers:
            publisher.publish(message)
        return [name for name in ("boxes", "frame", "readings", "alarm", "engine")
                if not tab.page.locator(f".qwen.{name}", has_text="onerror=alert(1)").count()]  # fmt: skip

    until(lambda: not shown(), what=f"the words in {shown()}")
    assert tab.page.locator(".qwen a, .qwen script, .qwen img, .qwen [onerror]").count() == 0
    assert [m for m in tab.said if "dialog" in m or "evil" in m] == []
    assert [r for r in tab.requests if not r.startswith((told.url, "blob:", "data:"))] == []
    for publisher, _ in publishers:
        node.destroy_publisher(publisher)


def test_of_two_who_approve_a_plan_one_is_told_and_the_other_sees_it_done(told, pair):
    told.follower.contest()
    tabs = pair
    tabs[0].enter("instruction", "拿起红色的盒子,放到架子第二层")
    for tab in tabs:
        assert "<b>红色的盒子</b>" in tab.part("plan", "revision 1").inner_text()
    for tab in tabs:
        tab.press("Approve and do it")
    for tab in tabs:
        tab.part("plan", "running")
        tab.part("plan", "closing")
        expect(tab.page.get_by_role("button", name="Approve and do it")).not_to_be_visible(timeout=PATIENCE_MS)
    refused = lambda: [tab.page.get_by_text("another instruction is being carried out").count() for tab in tabs]
    until(lambda: sorted(refused()) == [0, 1], what="that one of them is told")
    told.follower.finish()
    for tab in tabs:
        tab.part("plan", "done")
    assert told.follower.done == 1

    # And what one of them begins the other one stops.
    tabs[0].enter("instruction", "pick up the red box")
    tabs[0].part("plan", "pick up the red box")
    tabs[0].press("Approve and do it")
    tabs[1].part("plan", "running")
    tabs[1].press("Stop the arm")
    tabs[1].see("the arm is told to stop")
    for tab in tabs:
        tab.part("plan", "CANCELLED")
        tab.part("plan", "the arm stands still")
    assert told.follower.done == 1


def test_steps_are_changed_before_they_are_approved_and_what_others_change_is_of_no_plan(told, pair):
    one, other = tabs = pair
    one.enter("instruction", "拿起红色的盒子,放到架子第二层")
    for tab in tabs:
        tab.part("plan", "revision 1")
        tab.part("plan", "pick <b>红色的盒子</b>")
        tab.press("Change the steps")
    one.write("1. thing", "绿色的盒子")
    one.choose("2. where", "left of")
    one.write("2. of", "<i>碗</i>")
    one.press("Check the steps")
    for tab in tabs:
        tab.part("plan", "revision 2")
        assert "place 红色的盒子 left of <i>碗</i>" in tab.part("plan", "pick 绿色的盒子").inner_text()
        expect(tab.page.get_by_text("2. where", exact=True)).to_have_count(0, timeout=PATIENCE_MS)
    other.press("Change the steps")
    other.choose("1. do", "leave out")
    other.choose("2. do", "leave out")
    other.press("Check the steps")
    other.see("no step is left")
    other.choose("1. do", "look")
    other.press("Check the steps")
    for tab in tabs:
        assert "place" not in tab.part("plan", "revision 3").inner_text()
        tab.part("plan", "look 绿色的盒子")
    other.press("Change the steps")
    other.press("Leave them as they were")
    expect(other.page.get_by_text("1. do", exact=True)).to_have_count(0, timeout=PATIENCE_MS)
    done = told.follower.done
    one.press("Approve and do it")
    other.part("plan", "running")
    expect(other.page.get_by_role("button", name="Change the steps")).to_have_count(0, timeout=PATIENCE_MS)
    told.follower.finish()
    one.part("plan", "done")
    assert told.follower.done == done + 1


def test_a_camera_that_stops_and_one_that_never_was_are_told(pair, shared_graph, chromium):
    tab = pair[0]
    never = Tab(chromium, start_page(shared_graph, "--namespace", "nobody"))
    never.part("seen", "waiting for the camera")
    never.enter("things", "mug")
    never.part("looking", "refused: ")
    never.enter("instruction", "pick up the mug")
    never.see("nobody follows instructions now")
    never.press("Stop the arm")
    never.see("nobody answers to stop")
    never.close()
    publisher = shared_graph.node.create_publisher(Image, "/told/image_raw", 1)
    until(lambda: is_shown(tab, publisher, 160, time.time_ns()), what="the picture on the page")
    tab.part("seen", "no picture for")
    shared_graph.node.destroy_publisher(publisher)


def test_pictures_go_on_where_none_comes_that_the_boxes_were_found_in(pair, shared_graph):
    """A recording that begins anew, a camera without a clock, a picture that was lost, a model that is slower than the page remembers."""
    node, tab = shared_graph.node, pair[0]
    pictures = node.create_publisher(Image, "/told/image_raw", 1)
    for number, (topic, boxes_s, clock) in enumerate(
        [
            ("tracks_2d", 1_000, itertools.count()),
            ("detections_2d", 1_000, itertools.count(10**9, 10**9)),
            ("tracks_2d", 0, itertools.repeat(1)),
            ("tracks_2d", 5, itertools.count(10**10)),
        ]
    ):
        boxes = node.create_publisher(Detection2DArray, f"/told/perception/{topic}", LATCHED)
        boxes.publish(Detection2DArray(header=header_of(boxes_s * 10**9, "camera"), detections=[Detection2D()]))
        width = 100 + number
        until(lambda: is_shown(tab, pictures, width, next(clock)), what=f"pictures beside {topic} of {boxes_s} s")  # noqa: B023
        node.destroy_publisher(boxes)
    boxes = node.create_publisher(Detection2DArray, "/told/perception/tracks_2d", LATCHED)
    clock = itertools.count(10**12, 10**8)

    def late():
        now = next(clock)
        boxes.publish(Detection2DArray(header=header_of(now - 3 * 10**9 - 1, "camera"), detections=[Detection2D()]))
        return is_shown(tab, pictures, 120, now)

    until(late, what="pictures beside boxes that come one after the other, seconds late")
    node.destroy_publisher(boxes)
    node.destroy_publisher(pictures)


def is_shown(tab, publisher, width: int, stamp_ns: int) -> bool:
    """Publish a picture of that width; whether one is on the page."""
    publisher.publish(image(header_of(stamp_ns, "camera"), np.full((90, width, 3), 90, np.uint8)))
    return tab.page.locator(".seen", has_text=f"{width}x90").count() > 0
