"""What is named by what was named before: the other one, the blue one."""

import numpy as np
import pytest

from qwen3vl_ros.asking.colours import contradicts
from qwen3vl_ros.questions.grammar.orders import planned
from qwen3vl_ros.questions.others import kind_of, named_otherwise, parted, resolved
from qwen3vl_ros.questions.plan import Step


@pytest.mark.parametrize(
    "order, named",
    [
        ("take the red cube and then place the other one next to it", ["cube other than the red cube", "red cube"]),
        ("put the red mug on the tray, then put another mug next to it", ["mug other than the red mug", "red mug"]),
        ("put the red cube next to the other one", ["red cube", "cube other than the red cube"]),
        ("put the ball in the red mug and then put the cube in the other one", ["cube", "mug other than the red mug"]),
        (
            "put the ball on the tray and then put the other blue ball next to it",
            ["blue ball other than the ball", "ball"],
        ),
        ("take the red cube and then put the blue one on the tray", ["blue cube", "tray"]),
        ("把红色的方块放进碗里，再把另一个放到它旁边", ["红色的方块以外的方块", "红色的方块"]),
        ("把红色的杯子放到托盘上，然后把另一个杯子放到架子第二层", ["红色的杯子以外的杯子", "架子第二层"]),
        ("把红杯子放到桌子左边，再把另外那个放到它的右边", ["红杯子以外的杯子", "红杯子"]),
        ("把红色的方块放进碗里，再把蓝色的放到它旁边", ["蓝色的方块", "红色的方块"]),
    ],
)
def test_what_is_named_by_another_gets_a_name_that_stands_for_itself(order, named):
    last = resolved(planned(order).steps)[-1]
    assert [last.object, last.reference] == named


@pytest.mark.parametrize(
    "first, then, named",
    [
        ("put the red mug next to the bowl", "pick up the other one", ["mug other than the red mug", ""]),
        ("take the red mug", "put the other mug next to the ball", ["mug other than the red mug", "ball"]),
        ("take the red mug", "put it into the bowl", ["red mug", "bowl"]),
        ("look at the blue bowl", "put the ball into it", ["ball", "blue bowl"]),
        (
            "put the cube next to the bowl",
            "put the red ball next to the other one",
            ["red ball", "ball other than the red ball"],
        ),
        ("把红色的杯子放到碗旁边", "拿起另一个", ["红色的杯子以外的杯子", ""]),
        ("拿起红色的杯子", "把另一个放到架子第二层", ["红色的杯子以外的杯子", "架子第二层"]),
        ("拿起红色的盒子", "放到架子第二层", ["红色的盒子", "架子第二层"]),
        ("拿起红色的盒子", "把它放进蓝色的碗", ["红色的盒子", "蓝色的碗"]),
    ],
)
def test_what_an_order_leaves_open_the_order_before_it_tells_and_nothing_else(first, then, named):
    before = resolved(planned(first).steps)
    steps = (planned(then) or planned(then, before)).steps
    last = (resolved(steps) or resolved(steps, before))[-1]
    assert [last.object, last.reference] == named


@pytest.mark.parametrize(
    "steps",
    [
        [Step("pick", "other one")],
        [Step("pick", "blue one")],
        [Step("pick", "另一个")],
        [Step("pick", "ball"), Step("place", "ball", "in", "other mug")],
        [Step("pick", "red cube"), Step("pick", "first one")],
    ],
)
def test_what_no_step_names_is_asked_for(steps):
    assert resolved(steps) is None


def test_names_that_stand_for_themselves_stay():
    steps = planned("put the mother-of-pearl box on the table, then put the one-handled mug on the second shelf").steps
    assert resolved(steps) == steps


def test_a_name_that_excludes_says_its_kind_and_what_is_not_meant():
    for kind, but in (("mug", ("red mug",)), ("杯子", ("红色的杯子", "蓝杯子")), ("big mug", ("red mug", "mug"))):
        assert parted(named_otherwise(kind, but)) == (kind, but)
    assert parted("another mug") == ("another mug", ()) and kind_of("small red coffee mug") == "coffee mug"
    assert kind_of("红色的小杯子") == "杯子"


def test_the_colour_of_what_is_not_meant_is_none_of_what_is():
    blue = np.full((60, 60, 3), (20, 40, 200), np.uint8)
    assert contradicts(blue, (0, 0, 60, 60), "red mug")
    assert not contradicts(blue, (0, 0, 60, 60), named_otherwise("mug", ("red mug",)))
    assert contradicts(blue, (0, 0, 60, 60), named_otherwise("red mug", ("blue mug",)))
