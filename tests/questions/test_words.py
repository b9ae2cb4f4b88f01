"""Questions whose answer is JSON about words, not boxes: what a sentence asks for, what an order means, what a dial shows."""

import json
import re

import pytest

from qwen3vl_ros.questions import Ask, Dial, Holds, Plan, Tell, Understand, admissions, plan, understand
from qwen3vl_ros.questions.dial import DialSeen
from qwen3vl_ros.questions.plan import Planned, Step
from qwen3vl_ros.questions.tell import fact_line
from qwen3vl_ros.questions.understand import Understood
from qwen3vl_ros.types import Generation, InvalidInput, MalformedAnswer, View

WHOLE = (View((640, 480)),)
DIAL = dict(
    value=1.8,
    unit="MPa",
    minimum=0,
    maximum=2.5,
    zone="red",
    centre=[500, 500],
    tip=[700, 300],
    first=[200, 800],
    last=[800, 800],
)
PICK = dict(action="pick", object="red box", relation="", reference="")
PLACE = dict(action="place", object="red box", relation="on", reference="second level of the shelf")


def answer_of(text):
    return Generation(text, (), None, (), "stop")


def test_what_a_question_asks_for_is_read():
    said = 'Sure: {"ask": "left of", "find": ["red mug", " bowl "]}'
    assert Understand("Is it left?").read(answer_of(said), WHOLE).value == Understood("left of", ("red mug", "bowl"))
    assert Understand("Why?").read(answer_of('{"ask": "unknown", "find": []}'), WHOLE).value == Understood(
        "unknown", ()
    )


def test_an_order_becomes_steps_or_a_question_back():
    steps = Plan("x").read(answer_of(json.dumps(dict(steps=[PICK, PLACE], question=""))), WHOLE).value
    assert steps == Planned((Step("pick", "red box"), Step("place", "red box", "on", "second level of the shelf")))
    asked = Plan("x").read(answer_of('{"steps": [], "question": "Which mug?"}'), WHOLE).value
    assert asked == Planned((), "Which mug?")


def test_a_dial_is_read_in_pixels_of_the_whole_picture_from_a_part_of_it():
    part = (View((640, 480), (100, 60, 420, 300)),)
    seen = Dial().read(answer_of(json.dumps(DIAL)), part).value
    assert isinstance(seen, DialSeen) and (seen.value, seen.unit, seen.minimum, seen.maximum) == (1.8, "MPa", 0, 2.5)
    assert seen.points_px["centre"] == (260, 180) and seen.points_px["tip"] == (324, 132) and seen.zone == "red"


def test_a_statement_is_answered_picture_by_picture_and_open_where_it_cannot_be_told():
    asked = Holds("The mug is in the bowl.", (0, 1.5, 3))
    assert asked.prompt().startswith("The pictures were taken at 0.0, 1.5, 3.0 seconds.")
    assert asked.read(answer_of('["yes", "no", "unknown"]'), WHOLE).value == (True, False, None)


@pytest.mark.parametrize(
    "question, said",
    [
        (Understand("x"), ""),
        (Understand("x"), "left of"),
        (Understand("x"), '{"ask": "left of"}'),
        (Understand("x"), '{"ask": "left of", "find": "mug"}'),
        (Understand("x"), '{"ask": "left of", "find": [1]}'),
        (Understand("x"), '{"ask": "left of", "find": [""]}'),
        (Understand("x"), '{"ask": "beside", "find": ["mug"]}'),
        (Understand("x"), '{"ask": "left of", "find": ["mug"'),
        (Plan("x"), "I pick it up."),
        (Plan("x"), '{"steps": [], "question": ""}'),
        (Plan("x"), json.dumps(dict(steps=[PICK], question="Which?"))),
        (Plan("x"), json.dumps(dict(steps=[PICK | dict(action="throw")], question=""))),
        (Plan("x"), json.dumps(dict(steps=[PICK | dict(object=" ")], question=""))),
        (Plan("x"), json.dumps(dict(steps=[PICK | dict(relation="on")], question=""))),
        (Plan("x"), json.dumps(dict(steps=[PLACE | dict(relation="")], question=""))),
        (Plan("x"), json.dumps(dict(steps=[PLACE | dict(relation="near")], question=""))),
        (Plan("x"), '{"steps": ["pick"], "question": ""}'),
        (Holds("x", (0, 1)), "yes, no"),
        (Holds("x", (0, 1)), '["yes"]'),
        (Holds("x", (0, 1)), '["yes", "maybe"]'),
        (Holds("x", (0, 1)), '["yes", ["no"]]'),
        (Dial(), "1.8 MPa"),
        (Dial(), json.dumps(DIAL | dict(minimum=3))),
        (Dial(), json.dumps(DIAL | dict(value=float("nan")))),
        (Dial(), json.dumps(DIAL | dict(zone="blue"))),
        (Dial(), json.dumps(DIAL | dict(tip=[700]))),
        (Dial(), json.dumps(DIAL | dict(tip=[700, 1300]))),
        (Dial(), json.dumps({k: v for k, v in DIAL.items() if k != "last"})),
    ],
)
def test_what_cannot_be_read_is_malformed_and_never_empty(question, said):
    with pytest.raises(MalformedAnswer):
        question.read(answer_of(said), WHOLE)


def test_facts_stand_in_the_prompt_line_by_line():
    lines = (fact_line("distance", ("red mug", "bowl"), "0.23 m"), fact_line("left of", ("red mug", "bowl"), "unknown"))
    prompt = Tell("How far is the red mug from the bowl?", lines).prompt()
    assert "- distance (red mug; bowl) = 0.23 m\n- left of (red mug; bowl) = unknown\n" in prompt
    assert prompt.endswith("Question: How far is the red mug from the bowl?")
    assert Tell("x", lines).read(answer_of(" 0.23 m. "), WHOLE).value == "0.23 m."


def test_prompts_list_every_choice_of_their_schema():
    for question, text, choices in (
        (Understand("x"), understand.INSTRUCTION, understand.ASKS),
        (Plan("x"), plan.INSTRUCTION, plan.ACTIONS + plan.PLACES),
        (Dial(), Dial().prompt(), DIAL.keys() - {"minimum", "maximum"}),
    ):
        assert question.schema()["type"] == "object"
        assert all(re.search(rf"\b{choice}\b", text) for choice in choices)


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: Understand(" "), "is empty"),
        (lambda: Understand("a\x00b"), "control character"),
        (lambda: Understand("x", before="<|im_end|>"), "marker"),
        (lambda: Plan(""), "is empty"),
        (lambda: Plan("x", ("a mug", "")), "empty phrase"),
        (lambda: Tell("x", ()), "facts is empty"),
        (lambda: Holds("", (0,)), "is empty"),
        (lambda: Holds("x", ()), "has 0 times"),
        (lambda: Holds("x", range(9)), "has 9 times"),
        (lambda: Holds("x", (1, 0)), "in the order"),
        (lambda: Holds("x", (0, float("nan"))), "finite seconds"),
        (lambda: Tell("x", ("a\nb",)), "control character"),
    ],
)
def test_what_may_not_stand_in_a_prompt_is_refused_by_name(build, said):
    with pytest.raises(InvalidInput, match=said):
        build()


def test_an_admission_is_told_from_an_answer():
    assert all(admissions.admits(f" {s}\n") for s in (*admissions.BEYOND.values(), *admissions.UNMEASURED.values()))
    assert not admissions.admits("The mug is red.") and not admissions.admits("")
    assert Ask("Who?").read(answer_of(admissions.BEYOND["en"]), WHOLE).detections == ()
