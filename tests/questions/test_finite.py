"""Nothing that is not finite or of no size leaves an answer: it is refused with its reason."""

import math

import numpy as np
import pytest
from answers import BOTH, BOX_3D, POINT, SIZE, A, said
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.questions.parsing.places import angles_of, rotation_of_angles
from qwen3vl_ros.types import MalformedAnswer, View

BOXES = {
    "infinity by overflow": ("[0, 0, 1e400, 5]", "not finite"),
    "infinity by digits": (f"[0, 0, {'9' * 400}, 5]", "not finite"),
    "infinity in words": ("[0, 0, Infinity, 5]", "not numbers"),
    "not a number": ("[0, 0, NaN, 5]", "not numbers"),
    "absurd": ("[0, 0, 1e12, 5]", "not finite"),
    "no width in thousandths": ("[5, 5, 5.0000001, 500]", "without area"),
    "denormal": ("[0, 0, 1e-320, 500]", "without area"),
}


@pytest.mark.parametrize("numbers, reason", BOXES.values(), ids=BOXES.keys())
def test_a_box_that_is_not_finite_is_dropped_with_its_reason(numbers, reason):
    bad = f'{{"bbox_2d": {numbers}, "label": "mug"}}'
    answer = BOTH.read(said(f"[{A}, {bad}]"), (View(SIZE),))
    assert (len(answer.detections), answer.dropped) == (1, 1) and any(reason in note for note in answer.notes)
    with pytest.raises(MalformedAnswer, match=reason):
        BOTH.read(said(f"[{bad}]"), (View(SIZE),))


BOXES_3D = {
    "infinitely far": ("[0, 0, 1e400, 1, 1, 1, 0, 0, 0]", "not finite"),
    "absurdly far": ("[0, 0, 1e5, 1, 1, 1, 0, 0, 0]", "front"),
    "at the lens": ("[0, 0, 1e-300, 1, 1, 1, 0, 0, 0]", "front"),
    "of no size": ("[0, 0, 1, 1e-320, 1, 1, 0, 0, 0]", "volume"),
    "of absurd size": ("[0, 0, 1, 1e6, 1, 1, 0, 0, 0]", "volume"),
    "turned without end": ("[0, 0, 1, 1, 1, 1, 1e30, 0, 0]", "not finite"),
    "turned in degrees": ("[0, 0, 1, 1, 1, 1, 0, 45, 0]", "units of pi"),
}


@pytest.mark.parametrize("numbers, reason", BOXES_3D.values(), ids=BOXES_3D.keys())
def test_a_3d_box_that_is_not_finite_is_refused_with_its_reason(numbers, reason):
    with pytest.raises(MalformedAnswer, match=reason):
        BOX_3D.read(said(f'[{{"bbox_3d": {numbers}, "label": "car"}}]'), (View(SIZE),))


def test_a_point_that_is_not_finite_is_refused():
    for numbers in ("[1e400, 5]", "[5, 1e12]"):
        with pytest.raises(MalformedAnswer, match="not finite"):
            POINT.read(said(f'[{{"point_2d": {numbers}, "label": "mug"}}]'), (View(SIZE),))


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=9, max_size=9))
def test_every_3d_box_that_is_read_is_finite(numbers):
    text = f'[{{"bbox_3d": [{", ".join(map(repr, numbers))}], "label": "car"}}]'
    try:
        (box,) = BOX_3D.read(said(text), (View(SIZE),)).boxes_3d
    except MalformedAnswer:
        return
    assert np.all(np.isfinite(box.center_m)) and np.all(np.isfinite(box.rotation)) and box.center_m[2] > 0.0
    assert np.all(np.isfinite(1.0 / box.size_m)) and math.isfinite(1.0 / box.center_m[2])


@given(st.tuples(*[st.floats(-2, 2)] * 3))
def test_angles_are_those_of_the_rotation(angles):
    rotation = rotation_of_angles(np.array(angles))
    np.testing.assert_allclose(rotation_of_angles(np.array(angles_of(rotation))), rotation, atol=1e-6)
