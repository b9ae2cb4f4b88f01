"""The same thing said again is one object, moved by a thousandth or two; neighbours stay two."""

import json

import pytest
from answers import BOTH, BOX_3D, MUG, POINT, SIZE, TEXT, said
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.types import View


def answer(question, key, *objects):
    said_objects = [{key: numbers, "label": label} for numbers, label in objects]
    return question.read(said(json.dumps(said_objects)), (View(SIZE),))


AGAIN = {
    "word for word": ([100, 200, 300, 400], "mug"),
    "one edge by one": ([100, 200, 301, 400], "mug"),
    "all edges by two": ([102, 202, 302, 402], "mug"),
    "smaller by two": ([102, 202, 298, 398], "mug"),
    "by a fraction": ([100.5, 200.25, 300, 400], "mug"),
    "corners in reverse": ([300, 400, 100, 200], "mug"),
    "in capitals": ([101, 200, 300, 400], "Mug"),
    "with an article": ([101, 200, 300, 400], "the mug"),
}


@pytest.mark.parametrize("numbers, label", AGAIN.values(), ids=AGAIN.keys())
def test_a_box_said_again_is_one(numbers, label):
    found = answer(BOTH, "bbox_2d", ([100, 200, 300, 400], "mug"), (numbers, label))
    assert (len(found.detections), found.repeats) == (1, 1)
    assert found.detections[0].box_xyxy_px == (64.0, 96.0, 192.0, 192.0), "as it was said first"


TWO = {
    "moved by three": ([103, 200, 303, 400], "mug"),
    "twins side by side": ([300, 200, 500, 400], "mug"),
    "twins a thousandth apart": ([301, 200, 501, 400], "mug"),
    "one above the other": ([100, 400, 300, 600], "mug"),
    "another name at the same place": ([100, 200, 300, 400], "red cube"),
    "one inside the other": ([150, 250, 250, 350], "mug"),
    "unnamed at the same place": ([100, 200, 300, 400], ""),
}


@pytest.mark.parametrize("numbers, label", TWO.values(), ids=TWO.keys())
def test_two_neighbours_stay_two(numbers, label):
    found = answer(BOTH, "bbox_2d", ([100, 200, 300, 400], "mug"), (numbers, label))
    assert (len(found.detections), found.repeats) == (2, 0)


def test_small_neighbours_stay_two_where_a_large_thing_would_be_one():
    screws = answer(MUG, "bbox_2d", ([100, 200, 103, 203], "mug"), ([102, 200, 105, 203], "mug"))
    assert (len(screws.detections), screws.repeats) == (2, 0)


def test_a_loop_that_drifts_is_one_thing():
    found = answer(MUG, "bbox_2d", *[([100 + i, 200, 300 + i, 400], "mug") for i in range(40)])
    assert (len(found.detections), found.repeats) == (1, 39)


def test_points_and_3d_boxes_and_lines_said_again_are_one():
    points = answer(POINT, "point_2d", ([100, 200], "mug"), ([101, 202], "mug"), ([104, 202], "mug"))
    assert (len(points.points), points.repeats) == (2, 1)
    car, moved, next_to = (
        [0, 0, 1, 1, 1, 1, 0, 0, 0],
        [0.001, 0, 1.002, 1, 1, 1, 0, 0, 0],
        [1.0, 0, 1, 1, 1, 1, 0, 0, 0],
    )
    cars = answer(BOX_3D, "bbox_3d", (car, "car"), (moved, "car"), (next_to, "car"))
    assert (len(cars.boxes_3d), cars.repeats) == (2, 1)
    lines = answer(TEXT, "bbox_2d", ([1, 2, 300, 40], "EXIT"), ([1, 3, 300, 40], "EXIT"), ([1, 2, 300, 40], "12 V"))
    assert ([d.label for d in lines.detections], lines.repeats) == (["EXIT", "12 V"], 1)


def test_tiny_things_in_space_stay_two():
    screw, beside = [0, 0, 1, 0.002, 0.002, 0.002, 0, 0, 0], [0.002, 0, 1, 0.002, 0.002, 0.002, 0, 0, 0]
    assert len(answer(BOX_3D, "bbox_3d", (screw, "car"), (beside, "car")).boxes_3d) == 2


@given(
    corner=st.tuples(*[st.integers(0, 700)] * 2),
    size=st.tuples(*[st.integers(12, 290)] * 2),
    moves=st.lists(st.tuples(*[st.integers(-1, 1)] * 4), max_size=6),
    gap=st.integers(3, 9),
)
def test_whatever_is_said_around_one_place_is_one_and_its_neighbour_another(corner, size, moves, gap):
    (x, y), (width, height) = corner, size
    box, neighbour = [x, y, x + width, y + height], [x + width + gap, y, x + 2 * width + gap, y + height]
    again = [[a + move for a, move in zip(box, by)] for by in moves]
    found = answer(MUG, "bbox_2d", *[(numbers, "mug") for numbers in (box, *again, neighbour) if max(numbers) <= 1050])
    assert len(found.detections) == (2 if neighbour[2] <= 1050 else 1)
