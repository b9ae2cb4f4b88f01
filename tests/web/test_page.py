"""The live page in a real browser, over the simulated camera, the node and the embedded model."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("viser")
pytest.importorskip("playwright")

from browser import FLAGS, FOUND, PATIENCE_MS, PHONE, Tab, free_port, needs_browser
from follower import Follower
from playwright.sync_api import expect, sync_playwright
from ros_graph import until
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3D, Detection3DArray, ObjectHypothesisWithPose

from qwen3vl_ros.msg import Event, EventArray, Generation, Plan, PlanStep, Reading
from qwen3vl_ros.node.client import LATCHED
from qwen3vl_ros.node.messages import header_of, image

pytestmark = needs_browser
TABLE = Path(__file__).parents[2] / "qwen3vl_ros" / "selftest" / "rendered" / "table.jpg"
# Of the first scene of seed 13: two purple cubes, an orange mug and a black cylinder.
POINTS = """points:
  cup_place:
    kind: presence
    look_for: mug
    states: [there, gone]
    alarms:
      seen: {when: there, on_delay: 0.5, off_delay: 0.5, severity: 700, latch: true, max_gap: 120}
    period: 1
"""


class Room:
    """The camera, the node and the page."""

    def __init__(self, graph, folder: Path):
        (folder / "points.yaml").write_text(POINTS)
        self._graph, self._folder = graph, folder
        start(graph, "sim_camera", seed=13, scene_every=0.0, rate=5.0)
        self.node = self.start_node()
        self.url = start_page(graph)
        self.node.logged("active: ", 120)

    def start_node(self):
        inspected = {
            "inspection.file": self._folder / "points.yaml",
            "inspection.directory": self._folder,
            "inspection.after": 0.0,
        }
        seen = {"diagnostics_period": 0.5, "max_age": 20.0, "target_frame": "world"}
        return start(self._graph, "perception.main", **seen, **inspected)


@pytest.fixture(scope="module")
def room(shared_graph, tmp_path_factory):
    return Room(shared_graph, tmp_path_factory.mktemp("inspection"))


@pytest.fixture(scope="module")
def told(shared_graph):
    """A page of a node that says what the test has it say."""
    return SimpleNamespace(follower=Follower(shared_graph, "told"), url=start_page(shared_graph, "--namespace", "told"))


def start(graph, module: str, **parameters):
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    arguments = ("--ros-args", "-r", "__ns:=/qwen3vl", *given)
    return graph.start("-m", f"qwen3vl_ros.node.{module}", *arguments, name=module.split(".")[0])


def start_page(graph, *arguments: str) -> str:
    port = free_port()
    page = graph.start("-m", "qwen3vl_ros.web", "--port", str(port), *arguments, name="page")
    page.logged("page: http://localhost:", 60)
    return f"http://localhost:{port}"


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(chromium, room):
    made = Tab(chromium, room.url)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pair(chromium, told):
    """Two browsers of those who watch what is told."""
    made = [Tab(chromium, told.url) for _ in range(2)]
    yield made
    for each in made:
        each.close()


@pytest.fixture
def open_tab(chromium, room):
    made = []

    def opened(**how):
        made.append(Tab(chromium, room.url, **how))
        return made[-1]

    yield opened
    for each in made:
        each.close()


def test_what_is_typed_is_looked_for_and_the_boxes_change(tab):
    tab.part("boxes", "cube")
    tab.enter("things", "orange mug")
    tab.part("looking", "orange mug")
    expect(tab.page.locator(".boxes")).not_to_contain_text("cube", timeout=PATIENCE_MS)
    tab.part("boxes", "orange mug")
    tab.enter("things", "紫色的方块，杯子")
    tab.part("looking", "紫色的方块, 杯子")
    tab.part("boxes", "紫色")
    tab.part("boxes", "杯子")
    tab.part("frame", "3D in world")


def test_the_boxes_lie_on_the_picture_that_they_are_of(tab):
    tab.part("boxes", "杯子")
    places = "(css) => { const b = document.querySelector(css).getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }"
    drawn, picture = (tab.page.evaluate(places, css) for css in (".boxes", "img[src^=blob]"))
    assert drawn == pytest.approx(picture, abs=2) and drawn[2] > 100


def test_a_question_is_answered_with_the_facts_beside_it(tab):
    tab.enter("question", "Where is the mug?")
    turn = tab.part("answers", "Where is the mug?").locator(".turn").first
    turn.locator(".facts", has_text="distance(").wait_for()
    assert "mug" in turn.locator(".answer").inner_text()
    tab.enter("question", "圆柱体在哪里？")
    turn = tab.part("answers", "圆柱体在哪里？").locator(".turn").first
    turn.locator(".facts", has_text="true").wait_for()
    assert "圆柱体" in turn.locator(".answer").inner_text()


def test_an_alarm_is_acknowledged_and_the_other_browser_sees_it(tab, open_tab):
    other = open_tab()
    tab.part("alarm", "cup_place/seen")
    tab.part("alarm", "ACTIVE")
    tab.press("acknowledge")
    for each in (tab, other):
        each.part("alarm", re.compile("(?<!not )acknowledged"))
    tab.part("readings", "cup_place")
    tab.press("shelve")
    other.part("alarm", "shelved")


def test_a_picture_of_ones_own_is_asked_about(tab, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    tab.page.locator("input[type=file]").set_input_files(broken)
    tab.see("broken.jpg is no picture and no video")
    tab.page.locator("input[type=file]").set_input_files(TABLE)
    tab.part("given", TABLE.name).locator("img").wait_for()
    tab.enter("question", "Is there a mug?")
    turn = tab.part("answers", f"({TABLE.name})").locator(".turn").first
    turn.locator(".facts", has_text="exists").wait_for()
    assert turn.locator(".answer").inner_text() and "NO_DEPTH" not in turn.inner_text()
    tab.press("Back to the camera")
    expect(tab.page.locator(".given")).to_have_count(0)


def test_a_reload_and_a_phone_show_what_was_there(tab, open_tab):
    tab.page.reload()
    for each in (tab, open_tab(viewport=PHONE)):
        each.part("answers", "Is there a mug?")
        each.part("looking", "prompt")
        assert each.page.get_by_role("button", name="Stop the arm").is_visible()
    each.page.get_by_role("button", name="Camera").click()
    each.part("boxes", "杯子")
    each.enter("things", "mug")
    tab.part("looking", ": mug")
    wide = "document.documentElement.scrollWidth"
    assert each.page.evaluate(f"() => {wide}") <= PHONE["width"]


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

    until(lambda: not shown(), 40, f"the words in {shown()}")
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
        assert not tab.page.get_by_role("button", name="Approve and do it").is_visible()
    refused = [tab.page.get_by_text("another instruction is being carried out").count() for tab in tabs]
    assert sorted(refused) == [0, 1], refused
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
        expect(tab.page.get_by_text("2. where", exact=True)).to_have_count(0)
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
    expect(other.page.get_by_text("1. do", exact=True)).to_have_count(0)
    done = told.follower.done
    one.press("Approve and do it")
    other.part("plan", "running")
    expect(other.page.get_by_role("button", name="Change the steps")).to_have_count(0)
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
    for shade in range(200):
        publisher.publish(image(header_of(shade, "camera"), np.full((90, 160, 3), shade, np.uint8)))
        tab.page.wait_for_timeout(50)
        if tab.page.locator(".seen", has_text="160x90").count():
            break
    tab.part("seen", "no picture for")
    shared_graph.node.destroy_publisher(publisher)


def test_a_plan_is_changed_and_approved_and_what_the_simulated_arm_makes_of_it_is_told_as_the_node_tells_it(
    graph, chromium
):
    start(graph, "sim_robot", pace=4.0, rate=3.0)
    seen = {"enabled": "false", "max_age": 5.0, "use_sim_time": "true"}
    node = start(graph, "perception.main", target_frame="world", robot_frame="arm_link0", **seen)
    tab = Tab(chromium, start_page(graph))
    node.logged("active: ", 120)
    plans = graph.listen("/qwen3vl/perception/plan", Plan, LATCHED)
    tab.part("seen", "640x480")
    tab.enter("instruction", "把红色的盒子放到蓝色的碗后面")
    tab.part("plan", "place 红色的盒子 behind")
    tab.press("Change the steps")
    tab.choose("2. where", "next to")
    tab.press("Check the steps")
    tab.part("plan", "place 红色的盒子 next to 蓝色的碗")
    assert plans[-1].understood_by == Plan.CLIENT and plans[-1].revision == 2 and plans[-1].steps[1].places
    tab.press("Change the steps")
    tab.choose("2. do", "leave out")
    tab.press("Check the steps")
    tab.part("plan", "revision 3")
    (step,) = plans[-1].steps
    assert step.grasps and step.status == PlanStep.OPEN, "nothing moves before it was approved"
    tab.press("Approve and do it")
    tab.part("plan", "executing")
    end = tab.page.locator(".plan .progress b")
    expect(end).to_have_text(re.compile("done|EXECUTION|CONDITION|STALE"), timeout=200_000)
    words = {PlanStep.OPEN: "open", PlanStep.RUNNING: "running", PlanStep.DONE: "done", PlanStep.FAILED: "failed"}
    said = [words[step.status] for step in plans[-1].steps]
    until(
        lambda: tab.page.locator(".plan > table > tbody > tr > td:last-child").all_inner_texts() == said,
        what=f"{said} on the page",
    )
    assert (end.inner_text() == "done") == (said == ["done"])
    tab.close()


def test_a_node_that_starts_again_is_taken_up_again(tab, room):
    tab.page.get_by_text("Engine", exact=True).click()
    room.node.interrupt()
    room.node.status()
    tab.part("engine", "the node does not answer")
    tab.enter("question", "Where is the cube?")
    tab.part("answers", "nobody answers questions now")
    room.start_node()
    tab.part("engine", "active")
    tab.enter("things", "bowl, cube")
    tab.part("looking", "bowl, cube")
    tab.part("boxes", "cube")
