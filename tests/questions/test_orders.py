"""Orders that are read without a model mean what a person means by them; what is not wholly read is not read at all."""

import pytest

from qwen3vl_ros.questions.grammar.orders import planned
from qwen3vl_ros.questions.plan import Step

LEVEL, ZH_LEVEL = "second level of the shelf", "架子第二层"


def put(thing, relation, reference):
    return [Step("pick", thing), Step("place", thing, relation, reference)]


@pytest.mark.parametrize(
    "order, steps",
    [
        ("拿起画面中红色的盒子,放到架子第二层", put("红色的盒子", "on", ZH_LEVEL)),
        ("请你把那个红色的盒子放到货架的第2层上。", put("红色的盒子", "on", ZH_LEVEL)),
        ("把杯子放进碗里", put("杯子", "in", "碗")),
        ("将绿球移到托盘左边", put("绿球", "left of", "托盘")),
        ("麻烦把蓝色的方块放在桌面右上角，谢谢", put("蓝色的方块", "on", "桌子右上角")),
        ("先拿起杯子，再放到盒子旁边的空地", put("杯子", "next to", "盒子")),
        (
            "把杯子放到盒子后面，然后把它放回去",
            [*put("杯子", "behind", "盒子"), Step("pick", "杯子"), Step("place", "杯子", "back", "")],
        ),
        ("看看仪表", [Step("look", "仪表")]),
        ("Pick up the red box and put it on the second level of the shelf.", put("red box", "on", LEVEL)),
        ("Could you set the red box on the shelf's 2nd level, please?", put("red box", "on", LEVEL)),
        ("The can goes to the left of the bowl", put("can", "left of", "bowl")),
        ("move the mug to the far right corner of the desk", put("mug", "on", "top right corner of the table")),
        ("Drop the ball into the mug", put("ball", "in", "mug")),
        ("grab the green thing", [Step("pick", "green thing")]),
        (
            "Take the mug, then look at the dial, and then put the mug behind the box",
            [Step("pick", "mug"), Step("look", "dial"), Step("place", "mug", "behind", "box")],
        ),
        (
            "put the cube next to the bowl and then put the ball into it",
            [*put("cube", "next to", "bowl"), *put("ball", "in", "bowl")],
        ),
        ("take the ball out of the bowl and put it on the tray", put("ball", "on", "tray")),
        ("put the red cube on level two of the shelf", put("red cube", "on", LEVEL)),
        ("put the red cube on the fourth shelf", put("red cube", "on", "fourth level of the shelf")),
        ("把红色方块放到架子中间那层", put("红色方块", "on", "架子中间层")),
        ("拿起红色的盒子，放到第二层", put("红色的盒子", "on", ZH_LEVEL)),
        ("请把黄色的球拿到蓝色碗里去", put("黄色的球", "in", "蓝色碗")),
        ("把方块放到碗旁边，再把球放进去", [*put("方块", "next to", "碗"), *put("球", "in", "碗")]),
        ("把红色的盒子叠在绿色的方块上", put("红色的盒子", "on", "绿色的方块")),
        ("Return the mug", [Step("pick", "mug"), Step("place", "mug", "back", "")]),
    ],
)
def test_what_people_say(order, steps):
    assert list(planned(order).steps) == steps


@pytest.mark.parametrize(
    "order",
    [
        "open the door",
        "do not move the mug",
        "put the mug",
        "put it on the table",
        "put the mug on the mug",
        "if the mug is red, take it",
        "what is on the table?",
        "take the mug or the bowl",
        "不要动杯子",
        "如果杯子是红色的，拿起它",
        "把它放到桌子上",
        "桌子上有什么",
        "打开门",
        "put everything on the tray",
        "put the mug two centimetres left of the bowl",
        "move the cup a little to the left",
        "把所有的杯子放到托盘上",
        "把杯子移到左边",
        "把杯子往左移一点",
        "",
        "put the a on the b, put the c on the d, put the e on the f, put the g on the h",
    ],
)
def test_what_is_not_wholly_read_is_left_to_the_model(order):
    assert planned(order) is None
