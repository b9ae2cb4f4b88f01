"""The live page in a real browser, over the simulated camera, the node and the embedded model."""

from __future__ import annotations

import pytest

pytest.importorskip("viser")
pytest.importorskip("playwright")

from browser import FLAGS, FOUND, PATIENCE_MS, Tab, free_port, needs_browser
from follower import Follower
from playwright.sync_api import expect, sync_playwright

pytestmark = needs_browser
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


@pytest.fixture(scope="module")
def room(shared_graph, tmp_path_factory):
    """The camera, the node and the page: the page's address."""
    points = tmp_path_factory.mktemp("inspection") / "points.yaml"
    points.write_text(POINTS)
    scene = {"seed": 13, "scene_every": 0.0, "rate": 5.0}
    inspected = {"inspection.file": points, "inspection.directory": points.parent, "inspection.after": 0.0}
    start(shared_graph, "sim_camera", **scene)
    node = start(
        shared_graph, "perception.main", diagnostics_period=0.5, max_age=20.0, target_frame="world", **inspected
    )
    url = start_page(shared_graph)
    node.logged("active: ", 120)
    return url


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
    made = Tab(chromium, room)
    yield made
    made.close()


@pytest.fixture
def open_tab(chromium, room):
    made = []

    def opened(**how):
        made.append(Tab(chromium, room, **how))
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
    drawn, picture = (tab.page.locator(css).first.bounding_box() for css in (".boxes", "img[src^=blob]"))
    assert all(abs(drawn[side] - picture[side]) <= 2 for side in ("x", "y", "width", "height")), (drawn, picture)


def test_a_question_is_answered_with_the_facts_beside_it(tab):
    tab.enter("question", "Where is the mug?")
    turn = tab.part("answers", "Where is the mug?").locator(".turn").first
    turn.locator(".facts", has_text="distance(").wait_for()
    assert "mug" in turn.locator(".answer").inner_text()
    tab.enter("question", "杯子在哪里？")
    turn = tab.part("answers", "杯子在哪里？").locator(".turn").first
    turn.locator(".facts", has_text="true").wait_for()
    assert "杯子" in turn.locator(".answer").inner_text()


def test_an_alarm_is_acknowledged_and_the_other_browser_sees_it(tab, open_tab):
    other = open_tab()
    tab.part("alarm", "cup_place/seen")
    tab.part("alarm", "ACTIVE")
    tab.press("acknowledge")
    tab.part("alarm", "acknowledged")
    other.part("alarm", "acknowledged")
    tab.part("readings", "cup_place")
    tab.press("shelve")
    other.part("alarm", "shelved")


def test_of_two_who_approve_a_plan_one_is_told(shared_graph, chromium):
    follower = Follower(shared_graph, "contested", contested=True)
    tabs = [Tab(chromium, start_page(shared_graph, "--namespace", "contested"))]
    tabs.append(Tab(chromium, tabs[0].page.url))
    tabs[0].enter("instruction", "拿起红色的盒子,放到架子第二层")
    for tab in tabs:
        assert "<b>红色的盒子</b>" in tab.part("plan", "plan 7, revision 1").inner_text()
    for tab in tabs:
        tab.press("Approve and do it")
    for tab in tabs:
        tab.part("plan", "running")
        tab.part("plan", "closing")
        assert not tab.page.get_by_role("button", name="Approve and do it").is_visible()
    told = [tab.page.get_by_text("another instruction is being carried out").count() for tab in tabs]
    assert sorted(told) == [0, 1], told
    follower.finish()
    for tab in tabs:
        tab.part("plan", "done")
        tab.close()
    assert follower.done == 1


def test_the_stop_button_stops_what_somebody_else_began(shared_graph, chromium):
    follower = Follower(shared_graph, "stopped")
    begun, stopped = (Tab(chromium, start_page(shared_graph, "--namespace", "stopped")) for _ in range(2))
    begun.enter("instruction", "pick up the red box")
    begun.press("Approve and do it")
    stopped.part("plan", "running")
    stopped.press("Stop the arm")
    stopped.see("the arm is told to stop")
    begun.part("plan", "CANCELLED")
    begun.part("plan", "the arm stands still")
    assert follower.done == 0
    begun.close(), stopped.close()
