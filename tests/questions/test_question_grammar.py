"""The grammar reads questions nobody listed, in the words of nobody in particular, and leaves alone what it does not understand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.questions import grammar
from qwen3vl_ros.questions.understand import ASKS, Understood

# Things and openings that no list of this package has.
THINGS = (
    "torque wrench",
    "blue oil filter",
    "left-hand glove",
    "big tin of paint",
    "M8 bolt",
    "coffee pot",
    "old lamp",
)
DINGE = ("扳手", "蓝色的滤芯", "旧台灯", "螺丝刀", "绿色的油桶", "咖啡壶")
OPENINGS = ("", "Please, ", "Hey robot, ", "Could you tell me: ", "I was wondering, ", "Sorry to ask, but ", "So, ")
ANFANG = ("", "请问，", "麻烦你告诉我", "我想知道", "机器人，")

ENGLISH = {
    "is the {a} to the left of the {b}": ("left of", "ab"),
    "is the {a} on the right hand side of the {b}": ("right of", "ab"),
    "is the {a} lying directly in front of the {b}": ("in front of", "ab"),
    "is the {a} behind the {b}": ("behind", "ab"),
    "does the {a} stand on top of the {b}": ("on", "ab"),
    "is the {a} inside of the {b}": ("in", "ab"),
    "is the {a} beneath the {b}": ("below", "ab"),
    "is the {a} anywhere near the {b}": ("next to", "ab"),
    "is the {a} between the {b} and the {c}": ("between", "abc"),
    "what is left of the {b}": ("left of", "*b"),
    "which objects are on the {b}": ("on", "*b"),
    "how far is the {a} from the {b}": ("distance", "ab"),
    "what is the distance between the {a} and the {b}": ("distance", "ab"),
    "how far away is the {a}": ("distance", "a"),
    "how tall is the {a}": ("height", "a"),
    "what is the width of the {a}": ("width", "a"),
    "how big is the {a}": ("size", "a"),
    "would the {a} fit into the {b}": ("fits", "ab"),
    "is there room for the {a} in the {b}": ("fits", "ab"),
    "which object is closest to the {b}": ("nearest", "*b"),
    "what is farthest from the {b}": ("farthest", "*b"),
    "where is the {a}": ("where", "a"),
    "where is the {a} in the view": ("where", "a"),
    "in which corner the {a} stands": ("where", "a"),
    "quick measurement: how wide is the {a}": ("width", "a"),
    "does the {b} contain the {a}": ("in", "ab"),
    "is there a {a}": ("exists", "a"),
    "what colour is the {a}": ("colour", "a"),
}
CHINESE = {
    "{a}在{b}的左边吗": ("left of", "ab"),
    "{a}是不是在{b}右侧": ("right of", "ab"),
    "{a}在{b}前面吗": ("in front of", "ab"),
    "{a}在{b}的后面吗": ("behind", "ab"),
    "{a}放在{b}上面吗": ("on", "ab"),
    "{a}在{b}里面吗": ("in", "ab"),
    "{a}在{b}旁边吗": ("next to", "ab"),
    "{a}在{b}和{c}之间吗": ("between", "abc"),
    "{b}左边有什么": ("left of", "*b"),
    "什么东西在{b}上面": ("on", "*b"),
    "{a}离{b}有多远": ("distance", "ab"),
    "{a}和{b}之间的距离是多少": ("distance", "ab"),
    "{a}离相机多远": ("distance", "a"),
    "{a}有多高": ("height", "a"),
    "{a}的宽度是多少": ("width", "a"),
    "{a}能放进{b}吗": ("fits", "ab"),
    "哪个物体离{b}最近": ("nearest", "*b"),
    "{a}在哪里": ("where", "a"),
    "有没有{a}": ("exists", "a"),
    "有几个{a}": ("count", "a"),
    "{a}是什么颜色": ("colour", "a"),
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(ENGLISH)),
    st.permutations(THINGS),
    st.sampled_from(OPENINGS),
    st.sampled_from(["?", "", " please?"]),
)
def test_english_in_any_words_for_things(form, things, opening, ending):
    a, b, c = things[:3]
    ask, names = ENGLISH[form]
    read = grammar.understood(opening + form.format(a=a, b=b, c=c) + ending)
    assert read is not None and read.ask == ask
    wanted = tuple({"a": a, "b": b, "c": c, "*": "object"}[n].lower() for n in names)
    assert read.find == wanted


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(CHINESE)), st.permutations(DINGE), st.sampled_from(ANFANG), st.sampled_from(["？", "?", ""])
)
def test_chinese_in_any_words_for_things(form, things, opening, ending):
    a, b, c = things[:3]
    ask, names = CHINESE[form]
    read = grammar.understood(opening + form.format(a=a, b=b, c=c) + ending)
    assert read is not None and read.ask == ask
    assert read.find == tuple({"a": a, "b": b, "c": c, "*": "物体"}[n] for n in names)


NOT_READ = (
    "Why is the mug on the table?",
    "Is the mug that stands left of the bowl red?",
    "Who put the mug there?",
    "Pick up the mug and put it into the box",
    "Is the mug left of the bowl and right of the box?",
    "Was the mug on the tray five minutes ago?",
    "Is the tea in the mug still hot?",
    "If I move it: how wide is the bowl?",
    "How many cm seperate the ball and the box?",
    "Steht die Tasse links von der Kiste?",
    "为什么杯子在桌子上？",
    "",
    "it",
    "???",
    "left of",
)


@pytest.mark.parametrize("question", NOT_READ)
def test_what_is_not_wholly_understood_is_left_to_the_model(question):
    assert grammar.understood(question) is None


VIEWS = {
    "From the robot's point of view, is the mug left of the bowl?": "robot",
    "Is the mug left of the bowl, seen from the camera?": "viewer",
    "Is the mug left of the bowl from the perspective of the shelf?": "object:shelf",
    "Is the bowl to the mug's left?": "object:mug",
    "从机器人的角度看，杯子在碗的左边吗？": "robot",
    "从架子的角度看，杯子在碗的左边吗？": "object:架子",
}


@pytest.mark.parametrize("question, view", VIEWS.items())
def test_whose_left_is_meant_is_read_and_taken_off(question, view):
    read = grammar.understood(question)
    assert read is not None and read.ask == "left of" and read.view == view and len(read.find) == 2


@pytest.mark.parametrize(
    "question", ["Where is the die in the view?", "Is the mug in full view?", "What is in the current view?"]
)
def test_a_view_that_is_nobodys_is_no_point_of_view(question):
    assert grammar.without_view(question) == (question, "")


def test_a_view_is_found_in_what_only_a_model_can_read():
    assert grammar.without_view("Steht die Tasse links, from the robot's point of view?")[1] == "robot"


def test_what_was_asked_before_is_meant():
    before = grammar.understood("How far is the wrench from the lamp?")
    assert grammar.understood("And the bolt?", before) == Understood("distance", ("bolt", "lamp"))
    assert grammar.understood("How tall is it?", before) == Understood("height", ("wrench",))
    assert grammar.understood("How tall is it?") is None
    davor = grammar.understood("扳手离台灯多远？")
    assert grammar.understood("它有多高？", davor) == Understood("height", ("扳手",))
    assert grammar.understood("那螺丝刀呢？", davor) == Understood("distance", ("螺丝刀", "台灯"))


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=60))
def test_no_text_breaks_it(text):
    read = grammar.understood(text)
    assert read is None or (read.ask in ASKS and all(name.strip() for name in read.find))
