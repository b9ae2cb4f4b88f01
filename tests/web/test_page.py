"""The live page in a real browser, over the simulated camera, the node and the embedded model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("viser")
pytest.importorskip("playwright")

from browser import PATIENCE_MS, PHONE, Tab, needs_browser, start, start_page
from playwright.sync_api import expect

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
        self.node.logged("active: ")

    def start_node(self):
        inspected = {
            "inspection.file": self._folder / "points.yaml",
            "inspection.directory": self._folder,
            "inspection.after": 0.0,
        }
        seen = {"diagnostics_period": 0.5, "max_age": 60.0, "target_frame": "world"}
        return start(self._graph, "perception.main", **seen, **inspected)


@pytest.fixture(scope="module")
def room(shared_graph, tmp_path_factory):
    return Room(shared_graph, tmp_path_factory.mktemp("inspection"))


@pytest.fixture(scope="module")
def tab(chromium, room):
    made = Tab(chromium, room.url)
    yield made
    made.close()


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
    expect(tab.page.locator(".given")).to_have_count(0, timeout=PATIENCE_MS)


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
