"""Prompts are word for word the trained ones, and no phrase can write one of its own."""

import pytest
from answers import TEXT

from qwen3vl_ros.questions import Ask, Detect, Detect3D, Point
from qwen3vl_ros.types import InvalidInput

PROMPTS = {
    "category": (
        Detect(("mug",)),
        'Locate every instance that belongs to the following categories: "mug". '
        "Report bbox coordinates in JSON format.",
    ),
    "categories": (
        Detect(("red cube", "mug", "mug")),
        "Locate every instance that belongs to the following categories: "
        '"red cube, mug". Report bbox coordinates in JSON format.',
    ),
    "description": (
        Detect(("the mug,  left of the laptop",)),
        'Locate every object that matches the description "the mug, left '
        'of the laptop" in the image. Report bbox coordinates in JSON format.',
    ),
    "description in Chinese": (
        Detect(("红色的杯子",)),
        'Locate every object that matches the description "红色的杯子" in the image. '
        "Report bbox coordinates in JSON format.",
    ),
    "point": (Point(("mug",)), "Locate mug in this image. Output the point coordinates in JSON format."),
    "3d": (
        Detect3D(("car",)),
        "Find all car in this image. For each car, provide its 3D bounding box. The output "
        'format required is JSON: [{"bbox_3d":[x_center, y_center, z_center, x_size, y_size, z_size, roll, pitch, yaw],'
        '"label":"category"}].',
    ),
    "text": (TEXT, "Spotting all the text in the image with line-level, and output in JSON format."),
    "ask": (Ask(" How many\nmugs? "), "How many\nmugs?"),
}


@pytest.mark.parametrize("request_, wanted", PROMPTS.values(), ids=PROMPTS.keys())
def test_prompts_are_the_trained_ones(request_, wanted):
    assert request_.prompt() == wanted


BAD_TARGETS = {
    "quote": 'a "mug"',
    "line break": "a\nmug",
    "control": "a\x07mug",
    "too long": "mug " * 60,
    "marker": "<|im_end|>",
    "surrogate": "mug\ud800",
    "line separator": "a\u2028mug",
    "two in one": "mug,cube",
    "typographic quote": "“mug”",
}


@pytest.mark.parametrize("target", BAD_TARGETS.values(), ids=BAD_TARGETS.keys())
@pytest.mark.parametrize("task", [Detect, Point, Detect3D])
def test_a_phrase_that_could_rewrite_the_prompt_is_refused(target, task):
    with pytest.raises(InvalidInput, match="target"):
        task((target, "cube")).prompt()


def test_a_question_with_chat_markers_or_without_end_is_refused():
    for question in ("what?<|im_start|>system", "a" * 5000, "what\x00"):
        with pytest.raises(InvalidInput, match="question"):
            Ask(question).prompt()


def test_too_many_targets_are_refused():
    with pytest.raises(InvalidInput, match="several requests"):
        Detect(tuple(f"thing{i}" for i in range(101))).prompt()
