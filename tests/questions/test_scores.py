"""How sure the model was of what it said, from the log-probabilities of an object's own tokens."""

import math

import numpy as np
import pytest
from answers import BOTH, SIZE, A, said
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.questions.parsing import tolerant_json
from qwen3vl_ros.questions.parsing.scores import TokenLogprobs, box_score
from qwen3vl_ros.types import Generation, View


def with_doubt(text, at, n):
    """A generation that is sure of everything but the n characters at `at`."""
    generation = said(text, logprob=0.0)
    generation.logprobs[at : at + n] = -2.0
    return generation


def score(generation, request=BOTH):
    return request.read(generation, (View(SIZE),)).detections[0].score


def test_score_is_not_a_number_without_log_probabilities():
    assert math.isnan(score(said(f"[{A}]", logprob=None)))


def test_score_is_one_when_sure_and_falls_with_doubt_where_it_matters():
    text = '[{"bbox_2d": [123, 245, 367, 489], "label": "mug"}]'
    hundreds, tens, units = (score(with_doubt(text, text.index("367") + i, 1)) for i in range(3))
    assert score(said(text, logprob=0.0)) == 1.0
    assert hundreds < tens < units < 1.0
    assert units > 0.98  # a unit is a thousandth of the image
    assert score(with_doubt(text, text.index("mug"), 3)) == pytest.approx(math.exp(-2.0))
    assert score(with_doubt(text, text.index("bbox"), 7)) == 1.0  # the frame of the answer says nothing of the object


def test_score_doubts_the_same_digit_more_on_a_small_box():
    small, large = '[{"bbox_2d": [100, 100, 140, 140]}]', '[{"bbox_2d": [100, 100, 940, 940]}]'
    assert score(with_doubt(small, small.index("140") + 1, 1)) < score(with_doubt(large, large.index("940") + 1, 1))


def test_score_counts_a_token_of_several_digits_once():
    text = '[{"bbox_2d": [123, 245, 367, 489], "label": "mug"}]'
    ends, at = [], 0
    for part in ('[{"bbox_2d": [', "123", ", ", "245", ", ", "367", ", ", "489", '], "label": "', "mug", '"}]'):
        ends.append(at := at + len(part))
    logprobs = np.zeros(len(ends), np.float32)
    logprobs[5] = -1.0
    generation = Generation(text, (0,) * len(ends), logprobs, tuple(ends), "stop")
    assert score(generation) == pytest.approx(math.exp(-0.25 * 200 / 244))


def test_score_of_a_text_longer_than_its_tokens_is_unknown_not_an_error():
    generation = Generation(f"[{A}]", (0,), np.zeros(1, np.float32), (3,), "stop")
    assert math.isnan(score(generation))


@given(st.lists(st.floats(-30, 0), min_size=40, max_size=40))
def test_score_is_between_0_and_1(logprobs):
    text = "[-12.5e1, 7, 0.25, 1000]" + " " * 16
    numbers = tolerant_json.read(text).bare[0]
    value = box_score(TokenLogprobs(text, tuple(range(1, 41)), logprobs), numbers, (1.0, 50.0, 0.0, 900.0), (20, 30))
    assert 0.0 <= value <= 1.0
