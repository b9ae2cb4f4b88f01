"""Finding for an arm looks again: in the other language, in parts of the picture, and where a thing should be; and only then."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qwen3vl_ros.asking import shapes
from qwen3vl_ros.asking.finding import Finder, Shot
from qwen3vl_ros.config import Config
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.aliases import in_chinese, in_english
from qwen3vl_ros.types import Frame, Generation, MalformedAnswer

K = np.array(((600.0, 0, 319.5), (0, 600.0, 239.5), (0, 0, 1)))
THING = np.array((400.0, 300.0, 440.0, 340.0))


class Shy(Perception):
    """Boxes THING only where it is asked as told. asked: (phrase, width of the part that was shown)."""

    def __init__(self, phrase: str, widest_px: float):
        super().__init__(None, Config())
        self._phrase, self._widest_px, self.asked = phrase, widest_px, []

    def generate(self, frame, question, control=None, on_text=None, camera="", view=None):
        x0, y0, x1, y1 = view.region_xyxy_px if view and view.region_xyxy_px else (0, 0, *frame.size_px)
        phrase = question.targets[0]
        if len(question.targets) == 1:
            self.asked.append((phrase, x1 - x0))
        seen = phrase == self._phrase and x1 - x0 <= self._widest_px
        seen = seen and x0 <= THING[0] and y0 <= THING[1] and x1 >= THING[2] and y1 >= THING[3]
        box = (THING - (x0, y0, x0, y0)) * 1000 / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
        said = [{"bbox_2d": [round(v) for v in box], "label": phrase}] if seen else []
        return Generation(json.dumps(said, ensure_ascii=False), (), None, (), "stop")


def shot() -> Shot:
    """A floor seen from 0.5 m above, looking down."""
    depth_m = np.full((480, 640), 0.5, np.float32)
    return Shot(Frame(1, "camera", np.zeros((480, 640, 3), np.uint8), depth_m, K))


@pytest.mark.parametrize(
    "phrase, asked_as, widest_px",
    [("red cube", "红色的立方体", 640), ("红色的立方体", "red cube", 640), ("red cube", "red cube", 400)],
)
def test_what_is_not_seen_at_once_is_looked_for_again(phrase, asked_as, widest_px):
    eyes = Shy(asked_as, widest_px)
    (found,) = Finder(eyes, closely=True).find(shot(), (phrase,)).detections_2d
    assert found.label == phrase
    assert np.abs(np.array(found.box_xyxy_px) - THING).max() < 1.5
    assert not Finder(Shy(asked_as, widest_px)).find(shot(), (phrase,)).detections_2d, (
        "a question does not look so closely"
    )


class Garbled(Shy):
    """Of the whole picture it says what nobody can use: `garbled`."""

    def __init__(self, garbled, widest_px):
        super().__init__("red cube", widest_px)
        self._garbled = garbled

    def generate(self, frame, question, control=None, on_text=None, camera="", view=None):
        said = super().generate(frame, question, control, on_text, camera, view)
        return said if view and view.region_xyxy_px else replace(said, text=self._garbled)


@pytest.mark.parametrize("garbled", ['[{"bbox_2d": [500, 500, 500, 500], "label": "red cube"}]', "[{", "a red cube"])
def test_an_answer_that_cannot_be_read_is_looked_past_but_never_taken_for_nothing(garbled):
    (found,) = Finder(Garbled(garbled, 400), closely=True).find(shot(), ("red cube",)).detections_2d
    assert np.abs(np.array(found.box_xyxy_px) - THING).max() < 1.5
    for eyes, closely in ((Garbled(garbled, 0), True), (Garbled(garbled, 400), False)):
        with pytest.raises(MalformedAnswer):
            Finder(eyes, closely=closely).find(shot(), ("red cube",))


def test_a_question_asks_once_for_what_it_sees_at_once():
    eyes = Shy("red cube", 640)
    assert Finder(eyes).find(shot(), ("red cube",)).detections_2d
    assert eyes.asked == [("red cube", 640)]


class Hasty(Shy):
    """Boxes another thing, and surely, where it sees the whole picture; and this one where it looks closer. twins: both everywhere."""

    def __init__(self, other, twins=False):
        super().__init__("red cube", 0.0)
        self._other, self._twins = np.array(other), twins

    def generate(self, frame, question, control=None, on_text=None, camera="", view=None):
        x0, y0, x1, y1 = view.region_xyxy_px if view and view.region_xyxy_px else (0, 0, *frame.size_px)
        if len(question.targets) == 1:
            self.asked.append((question.targets[0], x1 - x0))
        things = (THING, self._other) if self._twins else (self._other if x1 - x0 == 640 else THING,)
        seen = [t for t in things if t[0] >= x0 and t[1] >= y0 and t[2] <= x1 and t[3] <= y1]
        boxes = [(t - (x0, y0, x0, y0)) * 1000 / (x1 - x0, y1 - y0, x1 - x0, y1 - y0) for t in seen]
        said = [{"bbox_2d": [round(v) for v in box], "label": "red cube"} for box in boxes]
        return Generation(json.dumps(said), (), None, (), "stop")


def test_what_an_arm_shall_take_is_what_most_looks_agree_upon():
    near = THING + (-60, 0, -60, 0)
    eyes = Hasty(near)
    (found,) = Finder(eyes, closely=True).find(shot(), ("red cube",)).detections_2d
    assert np.abs(np.array(found.box_xyxy_px) - THING).max() < 1.5 and len(eyes.asked) == 3


def test_two_of_a_name_stay_two():
    found = Finder(Hasty(THING + (150, 60, 150, 60), twins=True), closely=True).find(shot(), ("red cube",))
    assert len(found.detections_2d) == 2


def test_what_should_be_somewhere_is_looked_for_there():
    ray = (THING[:2] + THING[2:]) / 2 + 0.5 - K[:2, 2]
    middle = np.array((*(ray / 600.0 * 0.5), 0.5))
    eyes = Shy("red cube", 150)
    expected = {"red cube": middle + 0.02 * np.array([(x, y, 0) for x in (-1, 1) for y in (-1, 1)])}
    (found,) = Finder(eyes).find(shot(), ("red cube",), expected=expected).detections_2d
    assert np.abs(np.array(found.box_xyxy_px) - THING).max() < 1.5
    assert (
        not Finder(Shy("red cube", 150))
        .find(shot(), ("red cube",), expected={"red cube": middle + (9, 9, 0) - np.zeros((4, 3))})
        .detections_2d
    )


def test_what_is_boxed_far_from_where_it_should_be_is_another_thing():
    far = {"red cube": np.array(((0.0, 0.0, 1.6), (0.1, 0.1, 1.7)))}
    assert not Finder(Shy("red cube", 640)).find(shot(), ("red cube",), expected=far).detections_2d


@pytest.mark.parametrize("name", ["red cube", "mug", "yellow box", "white cylinder", "tray", "black bowl"])
def test_a_name_comes_back_from_the_other_language(name):
    assert in_english(in_chinese(name)) == name


@pytest.mark.parametrize(
    "name, english", [("红球", "red ball"), ("水杯", "mug"), ("天空", "天空"), ("red cube", "red cube")]
)
def test_other_chinese_words_become_the_models_english_ones(name, english):
    assert in_english(name) == english


@pytest.mark.parametrize("called, looks", [("red cube", 0), ("orange cube", 1), ("ball", 1)])
def test_what_the_stream_saw_under_another_name_is_looked_for(called, looks):
    thing = Thing("7", called, np.array(((0.05, 0.05, 0.45),)), np.eye(4), np.full(3, 0.04))
    known = replace(shot(), known=(thing,), answered=("red cube",))
    eyes = Shy("red cube", 640)
    found = Finder(eyes).find(known, ("red cube",))
    assert len(eyes.asked) == looks and any(d.label == "red cube" for d in found.detections_2d)


@pytest.mark.parametrize(
    "name, size_m, hollow, contradicted",
    [
        ("red ball", (0.05, 0.05, 0.05), False, False),
        ("red ball", (0.05, 0.02, 0.044), False, False),  # half of it was seen
        ("红色的球", (0.14, 0.14, 0.06), True, True),
        ("white cube", (0.06, 0.05, 0.05), False, False),
        ("purple cube", (0.14, 0.13, 0.06), True, True),
        ("purple bowl", (0.24, 0.18, 0.02), True, True),
        ("紫色的碗", (0.14, 0.13, 0.06), False, False),
        ("cup", (0.11, 0.08, 0.09), True, False),
        ("yellow tray", (0.24, 0.18, 0.12), True, False),
        ("screwdriver", (0.24, 0.01, 0.01), False, False),
    ],
)
def test_what_has_clearly_another_form_than_its_name_says_is_not_it(name, size_m, hollow, contradicted):
    thing = SimpleNamespace(inside=object() if hollow else None)
    assert shapes.contradicts(name, thing, size_m) is contradicted
