"""A deadline is a deadline: where time ran out before anything could be read, no answer is called malformed."""

import numpy as np
import pytest
from answers import A_PX, BOTH, MUG, A, boxes, said

from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Ask, Gauge, Question
from qwen3vl_ros.types import DeadlinePassed, Frame, MalformedAnswer, View

FRAME = Frame(0, "camera", np.zeros((480, 640, 3), np.uint8))
CUT = {
    "nothing at all": (MUG, ""),
    "in the first object": (MUG, '[{"bbox_2d": [100, 2'),
    "in a denial": (MUG, "There are no mugs"),
    "in a call of a tool": (MUG, '<tool_call>{"name": "zoom", "argu'),
    "in a gauge's reading": (Gauge(), '{"value": 1.'),
    "before a word": (Ask("What is it?"), " "),
}


def interpreted(question: Question, text: str, finish_reason: str):
    return Perception(None).interpret(FRAME, question, said(text, finish_reason))


@pytest.mark.parametrize("question, text", CUT.values(), ids=CUT.keys())
def test_time_that_ran_out_is_the_error(question, text):
    with pytest.raises(DeadlinePassed, match="deadline passed before an object could be read") as caught:
        interpreted(question, text, "deadline")
    assert not isinstance(caught.value, MalformedAnswer) and "max_new_tokens" not in str(caught.value)
    with pytest.raises(MalformedAnswer):
        interpreted(question, text, "length")


def test_what_was_read_before_the_deadline_is_the_answer():
    scene = interpreted(BOTH, f'[{A}, {{"bbox_2d": [5', "deadline")
    assert [d.label for d in scene.detections_2d] == ["mug"] and scene.truncated and scene.dropped == 1
    assert boxes(BOTH.read(said(f"[{A}, ", "deadline"), (View(FRAME.size_px),))) == [A_PX]


def test_the_parsers_advise_time_for_a_deadline_and_tokens_for_a_length():
    for finish_reason, advice, other in (("deadline", "timeout", "tokens"), ("length", "max_new_tokens", "deadline")):
        with pytest.raises(MalformedAnswer, match=advice) as caught:
            MUG.read(said('[{"bbox_2d": [100, 2', finish_reason), (View(FRAME.size_px),))
        assert other not in str(caught.value)
