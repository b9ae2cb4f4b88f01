"""A name's colour is held against the picture, and only what is clear contradicts it."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.asking.colours import contradicts, of_another, of_its_own

BOX = (10.0, 10.0, 50.0, 40.0)
PAINT = {
    "red": (200, 30, 30),
    "orange": (230, 120, 20),
    "yellow": (230, 210, 40),
    "green": (30, 150, 50),
    "blue": (30, 70, 200),
    "purple": (120, 40, 170),
    "black": (20, 20, 20),
    "white": (235, 235, 230),
}
CHINESE = dict(zip(PAINT, ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "黑色", "白色")))


def picture(rgb) -> np.ndarray:
    painted = np.full((60, 60, 3), 128, np.uint8)
    painted[10:40, 10:50] = rgb
    return painted


@pytest.mark.parametrize("colour", PAINT)
def test_what_has_its_colour_is_never_contradicted(colour):
    for name in (f"{colour} mug", f"the {colour} mug", f"{CHINESE[colour]}的杯子", f"{CHINESE[colour]}杯子"):
        assert not contradicts(picture(PAINT[colour]), BOX, name)


@pytest.mark.parametrize(
    "said, seen", [("green", "red"), ("green", "yellow"), ("blue", "orange"), ("red", "blue"), ("white", "green")]
)
def test_another_colour_is_seen_in_both_languages(said, seen):
    for name in (f"{said} box", f"{CHINESE[said]}的盒子", f"{CHINESE[said]}盒子"):
        assert contradicts(picture(PAINT[seen]), BOX, name)


@pytest.mark.parametrize(
    "name",
    ["box", "green tea box", "red mug on the tray", "hundred box", "redish box", "红酒", "绿色的杯子旁边的盒子", ""],
)
def test_a_name_that_says_no_colour_of_the_thing_contradicts_nothing(name):
    assert not any(contradicts(picture(rgb), BOX, name) for rgb in PAINT.values())


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_near_hues_and_greys_are_left_to_the_model(hue, saturation, value):
    rgb = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value)]
    off = abs((360 * hue - 120 + 180) % 360 - 180)
    if contradicts(picture(rgb), BOX, "green box"):
        assert off > 55 and saturation > 0.3 and value > 0.15


@pytest.mark.parametrize(
    "box", [(-5.0, -5.0, 3.0, 3.0), (58.0, 58.0, 90.0, 90.0), (20.0, 20.0, 20.0, 20.0), (100.0, 100.0, 120.0, 120.0)]
)
def test_a_box_that_shows_nothing_contradicts_nothing(box):
    assert not contradicts(picture(PAINT["red"]), box, "green box")


@pytest.mark.parametrize("colour", PAINT)
def test_the_pixels_of_another_thing_in_a_box_are_told_from_its_own(colour):
    painted = picture(PAINT[colour])
    for other in ("red", "green", "blue"):
        painted[20:30, 20:35] = PAINT[other]
        marked = of_another(painted, BOX, f"{colour} tray")
        assert not marked[10:20].any() and not marked[:, :10].any()
        if abs(HUES.get(colour, 999) - HUES[other]) > 65 or colour in ("black", "white"):
            assert marked[20:30, 20:35].all()
        own = of_its_own(painted, f"{other} cube")
        assert own[20:30, 20:35].all() and (colour == other or not own[10:20, 10:50].any())
    assert not of_another(painted, BOX, "tray").any() and not of_its_own(painted, "green tea box").any()


HUES = {"red": 0, "orange": 28, "yellow": 52, "green": 120, "blue": 220, "purple": 280}


def test_nothing_black_is_bright_and_nothing_white_dark_whatever_lies_between():
    for name, not_it, may_be in (("black", 235, (10, 40, 80)), ("white", 20, (60, 128, 250))):
        for said in (f"{name} mug", f"{CHINESE[name]}的杯子"):
            assert contradicts(picture((not_it,) * 3), BOX, said)
            assert not any(contradicts(picture((v,) * 3), BOX, said) for v in may_be)
    assert not any(contradicts(picture((v,) * 3), BOX, "grey mug") for v in (10, 128, 250))
