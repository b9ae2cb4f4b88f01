"""A plan that leaves out what the order says, or adds what it does not, is none of that order."""

import pytest

from qwen3vl_ros.questions.grammar.faithful import expressible, faithful
from qwen3vl_ros.questions.grammar.orders import planned
from qwen3vl_ros.questions.plan import Step


def put(thing, relation, reference):
    return [Step("pick", thing), Step("place", thing, relation, reference)]


@pytest.mark.parametrize(
    "order",
    [
        "don't pick up the red cube",
        "never touch the blue bowl",
        "if the mug is red, take it",
        "put the mug on the tray or the box",
        "put the red cube anywhere but on the tray",
        "put the red cube between the mug and the bowl",
        "swap the mug and the bowl",
        "put all the mugs on the tray",
        "put two mugs on the tray",
        "take the red cube without moving the mug",
        "不要动杯子",
        "别把红色的杯子放到桌子上",
        "如果杯子是红色的，拿起它",
        "把方块放到杯子和碗之间",
        "把所有的杯子放到托盘上",
    ],
)
def test_what_steps_cannot_say_is_read_by_nobody(order):
    assert not expressible(order)


@pytest.mark.parametrize(
    "order",
    [
        "pick up the stainless cup and put it on level two of the shelf",
        "拿起不锈钢杯，放到别的盒子旁边",
        "Take the notebook to the corner of the table",
        "put the tallest can in the wallet box",
        "if you don't mind, take the red cube",
        "如果可以的话，拿起杯子",
    ],
)
def test_words_that_only_look_like_it_are_read(order):
    assert expressible(order)


@pytest.mark.parametrize(
    "order, steps",
    [
        ("remove the ball from the bowl", put("ball", "on", "bowl")),
        ("grab the blue mug for me", put("blue mug", "back", "")),
        ("把盒子和杯子放到架子第二层", put("盒子", "on", "杯子")),
        ("Put the red mug next to the blue mug, and the green one behind it", put("red mug", "next to", "blue mug")),
        ("put the mug left of the bowl", put("mug", "right of", "bowl")),
        ("put the red mug in the bowl", put("mug", "in", "bowl")),
        ("put the mug on the second level of the shelf", put("mug", "on", "first level of the shelf")),
        ("把红色的盒子放到碗旁边", put("盒子", "next to", "碗")),
        ("take the cup to the tray and the ball to the box", put("cup", "on", "tray")),
        ("把球放到架子第2层", put("球", "on", "架子第一层")),
        ("bring the ball in the right corner of the table", put("ball", "on", "top left corner of the table")),
    ],
)
def test_what_leaves_something_out_or_adds_something_is_not_believed(order, steps):
    assert not faithful(order, steps)


@pytest.mark.parametrize(
    "order, steps",
    [
        ("I'd like the blue mug to be on the tray", put("blue mug", "on", "tray")),
        ("the red cube, please, onto the shelf's 2nd level", put("red cube", "on", "second level of the shelf")),
        ("麻烦让红色的杯子待在货架第2层", put("红色的杯子", "on", "架子第二层")),
        ("the cup on the table has to stand beside the box", put("mug", "next to", "box")),
        ("give me the red cube", [Step("pick", "red cube")]),
        ("把红杯子摆到蓝色盒子左侧", put("红杯子", "left of", "蓝色盒子")),
        ("bring the ball in the bottom right corner", put("ball", "on", "bottom right corner of the table")),
        ("请把球放在桌面中央", put("球", "on", "桌子中间")),
        ("return the can, would you", put("can", "back", "")),
    ],
)
def test_what_says_the_same_in_other_words_is(order, steps):
    assert faithful(order, steps)


@pytest.mark.parametrize(
    "order",
    [
        "拿起画面中红色的盒子,放到架子第二层",
        "Take the red cube and then place the other one next to it",
        "move the mug to the far right corner of the desk",
        "put the cube next to the bowl and then put the ball into it",
        "请你把那个红色的盒子放到货架的第2层上。",
        "Could you set the red box on the shelf's 2nd level, please?",
    ],
)
def test_what_the_rules_read_is_faithful(order):
    assert expressible(order) and faithful(order, planned(order).steps)
