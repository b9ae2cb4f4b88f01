"""A question defined outside the package is asked like any other: guided, with drafts and scores, and nothing inside is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

import numpy as np
import pytest

from qwen3vl_ros.config import from_flat
from qwen3vl_ros.engine import load_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import LOOKING_FOR, Ask, Detect, Detect3D, Gauge, Point, Put, Question, ReadText
from qwen3vl_ros.questions.parsing.objects import read_objects
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import Answer, Frame, Generation, InvalidInput, MalformedAnswer, View


@dataclass(frozen=True)
class CountOf(Question):
    """How many of one kind? The boxes, and as value their number: an object question whose value is its own."""

    kind: str
    name: ClassVar[str] = "count_of"

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.kind,)

    def prompt(self) -> str:
        return (
            f'Locate every instance that belongs to the following categories: "{self.kind}". '
            "Report bbox coordinates in JSON format."
        )

    def schema(self) -> dict[str, Any]:
        coordinate = {"type": "integer", "minimum": 0, "maximum": 1000}
        each = {
            "type": "object",
            "properties": {
                "bbox_2d": {"type": "array", "items": coordinate, "minItems": 4, "maxItems": 4},
                "label": {"const": self.kind},
            },
            "required": ["bbox_2d", "label"],
            "additionalProperties": False,
        }
        return {"type": "array", "items": each, "maxItems": 20}

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        found = read_objects(said, Wanted((4,), self.targets), views[0])
        return Answer(found.detections, dropped=found.dropped, value=len(found.detections))


@pytest.fixture(scope="module")
def view():
    with SimCamera(640, 480, quality="fast") as camera:
        return camera.render(sample_scene(931))


@pytest.mark.parametrize("guided", [False, True])
def test_a_question_of_a_stranger_runs_with_guidance_drafts_and_scores(view, guided):
    config = from_flat({"generation.guided": guided})
    engine = load_engine(config)
    kind = max(t.kind for t in view.truths if t.visibility > 0.6 and t.kind != "gauge")
    K = np.array(view.K)
    scenes = []
    perception = Perception(engine, config)
    for stamp_ns in (1, 100_000_001):
        scenes.append(perception.look(Frame(stamp_ns, "camera", view.rgb, view.depth_m, K), CountOf(kind), prompt_id=5))
    engine.close()
    first, second = scenes
    assert first.value == len(first.detections_2d) > 0 and first.prompt_id == 5 and first.question == CountOf(kind)
    assert all(0 < d.score <= 1 for d in first.detections_2d)
    assert {d.label for d in first.detections_2d} == {kind}
    assert len(first.detections_3d) + len(first.refusals) == len(first.detections_2d)
    assert second.generation.text == first.generation.text and [d.id for d in second.detections_2d] == [
        d.id for d in first.detections_2d
    ]
    assert second.generation.accepted_tokens > 0 and second.generation.forward_passes < first.generation.forward_passes


def said(text: str) -> Generation:
    return Generation(text, (), None, (), "stop")


WHOLE = View((640, 480))


def test_coordinates_of_a_region_become_pixels_of_the_whole_picture():
    answer = said('[{"bbox_2d": [0, 500, 1000, 1000], "label": "mug"}]')
    region = View((640, 480), (320, 240, 420, 440))
    assert Detect(("mug",)).read(answer, (region,)).detections[0].box_xyxy_px == (320.0, 340.0, 420.0, 440.0)
    (point,) = Point(("mug",)).read(said('[{"point_2d": [500, 500], "label": "mug"}]'), (region,)).points
    assert point.xy_px == (370.0, 340.0)


@pytest.mark.parametrize("region", [(0, 0, 0, 10), (-1, 0, 5, 5), (0, 0, 641, 10), (5, 5, 4, 6)])
def test_a_region_outside_the_picture_is_refused(region):
    with pytest.raises(InvalidInput, match="region_xyxy_px"):
        View((640, 480), region)


def test_questions_are_values_and_valid_once_made():
    assert (
        Detect(("mug", "mug ")) == Detect(("mug",)) and len({Detect(("mug",)), Point(("mug",)), Detect(("mug",))}) == 2
    )
    for make in LOOKING_FOR.values():
        for bad in ((), ("",), ("a", "b, c"), ('a "mug"',)):
            with pytest.raises(InvalidInput, match="target"):
                make(bad)
    with pytest.raises(InvalidInput, match="question"):
        Ask("  ")


GAUGES = {
    "plain": ('{"value": 1.8, "unit": "MPa"}', 1.8, "MPa"),
    "fenced": ('```json\n{"value": 40, "unit": "°C"}\n```', 40.0, "°C"),
    "prose around": ('The gauge reads {"unit": "bar", "value": "2.5"} now.', 2.5, "bar"),
    "a correction": ('{"value": 3, "unit": "bar"} No, wait: {"value": 4, "unit": "bar"}', 4.0, "bar"),
}


@pytest.mark.parametrize("text, value, unit", GAUGES.values(), ids=GAUGES.keys())
def test_a_gauge_is_read_as_value_and_unit(text, value, unit):
    reading = Gauge().read(said(text), (WHOLE,)).value
    assert (reading.value, reading.unit) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.8 MPa",
        '{"value": "high", "unit": "bar"}',
        '{"value": NaN, "unit": "bar"}',
        '{"value": 1e999, "unit": "bar"}',
    ],
)
def test_a_gauge_answer_without_a_finite_value_and_a_unit_is_malformed(text):
    with pytest.raises(MalformedAnswer):
        Gauge().read(said(text), (WHOLE,))


def test_a_gauge_in_another_unit_than_asked_is_no_reading():
    with pytest.raises(MalformedAnswer, match="'psi'.*'bar'"):
        Gauge(unit="bar").read(said('{"value": 3, "unit": "psi"}'), (WHOLE,))


def test_put_names_what_to_take_and_where_it_goes():
    asked = Put("red cube", "in", "blue bowl")
    assert asked.prompt().startswith("Put the red cube in the blue bowl. Report the bbox")
    assert Put("红色的立方体", "next to", "碗", language="zh").prompt().startswith("把红色的立方体放在碗旁边。")
    text = '[{"bbox_2d": [0, 0, 100, 100], "label": "pick"}, {"bbox_2d": [500, 500, 700, 700], "label": "place"}]'
    assert [d.label for d in asked.read(said(text), (WHOLE,)).detections] == ["pick", "place"]
    for wrong in (("red cube", "under", "bowl"), ("", "in", "bowl"), ("a\nb", "in", "bowl")):
        with pytest.raises(InvalidInput):
            Put(*wrong)


def test_each_question_has_its_own_name_and_prompts_differ():
    asked = [
        Detect(("mug",)),
        Point(("mug",)),
        Detect3D(("mug",)),
        ReadText(),
        Ask("Why?"),
        Gauge(),
        Put("a", "in", "b"),
    ]
    assert len({q.name for q in asked}) == len({q.prompt() for q in asked}) == len(asked)
