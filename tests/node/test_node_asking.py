"""~/measure and ~/ask over real DDS: facts and words, streams, sessions, cancels, and what is refused."""

import json

import numpy as np
import pytest
from asking_room import Room
from depth_scenes import Scene, ball, box, look_from
from ros_graph import OPTICAL, until

from qwen3vl_ros.action import Ask
from qwen3vl_ros.asking import Code
from qwen3vl_ros.msg import Fact
from qwen3vl_ros.node import messages

SIDE_BY_SIDE = Scene([box((0.06, 0.06, 0.06), (-0.12, 0)), ball(0.06, (0.10, 0.0))], look_from(45))


@pytest.fixture(scope="module")
def room(shared_graph, tmp_path_factory):
    made = Room(shared_graph, tmp_path_factory.mktemp("room"))
    made.show(SIDE_BY_SIDE, ["red box", "ball"])
    yield made
    made.camera.stop()


@pytest.fixture(autouse=True)
def _as_before(room):
    room.show(SIDE_BY_SIDE, ["red box", "ball"])


def heard_of(asked) -> str:
    return "".join(d.delta for d in sorted(asked.deltas, key=lambda d: d.offset))


# -- ~/measure -----------------------------------------------------------------------------------------------------------------


def test_facts_come_in_the_order_they_were_asked_with_the_boxes_they_rest_on(room):
    told = room.measure(
        ["left_of", "red box", "ball"], ["distance", "red box", "ball"], ["on", "ball", "table"], ["exists", "mug"]
    )
    assert told.success, told.message
    left, far, on, mug = told.facts
    assert (left.verdict, on.verdict, mug.verdict) == (Fact.TRUE, Fact.TRUE, Fact.FALSE)
    assert far.values[0].name == "surface" and far.values[0].value == pytest.approx(0.16, abs=0.01)
    assert left.margin > 3 * left.sigma > 0 and left.stamp == told.detections_3d.header.stamp
    assert {d.results[0].hypothesis.class_id for d in told.detections_3d.detections} == {"red box", "ball"}
    assert told.detections_2d.header.frame_id == OPTICAL


def test_a_picture_must_be_newer_than_asked(room):
    now = room.graph.node.get_clock().now()
    told = room.measure(["exists", "ball"], newer_than=now.to_msg())
    assert told.success and told.facts[0].stamp.sec * 10**9 + told.facts[0].stamp.nanosec > now.nanoseconds
    later = messages.header_of(now.nanoseconds + 3600 * 10**9, "").stamp
    refused = room.measure(["exists", "ball"], newer_than=later, timeout=0.5)
    assert not refused.success and "newer" in refused.message


@pytest.mark.parametrize(
    "asked, fields, words",
    [
        ([["under", "a", "b"]], {}, "relation 'under' is unknown"),
        ([["left_of", "a"]], {}, "takes 2 arguments"),
        ([], {}, "facts is empty"),
        ([["exists", "a"]], {"camera": "moon"}, "camera 'moon' is unknown"),
        ([["exists", 'a "b"']], {}, "quotation mark"),
        ([["exists", "a"]], {"timeout": -1.0}, "timeout"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(room, asked, fields, words):
    told = room.measure(*asked, **fields)
    assert not told.success and words in told.message


# -- ~/ask ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question, words",
    [
        ("Is the red box left of the ball?", "Yes, the red box is to the left of the ball"),
        ("球离相机有多远？", "球离相机"),
    ],
)
def test_an_answer_rests_on_facts_and_is_in_the_language_of_the_question(room, question, words):
    room.show(SIDE_BY_SIDE, ["red box", "球" if "球" in question else "ball"])
    asked = room.ask(question)
    result = asked.result()
    assert result.code == Code.OK and words in result.answer and result.facts[0].verdict == Fact.TRUE
    assert result.understood_by == result.worded_by == Ask.Result.RULES
    assert len(result.detections_3d) == 1 and result.detections_3d[0].detections
    until(lambda: heard_of(asked) == result.answer, what="the answer in parts")  # which may come after the whole


def test_the_models_sentence_counts_where_it_says_what_was_measured(room):
    room.show(SIDE_BY_SIDE, ["red box", "ball"], tell="Yes, certainly: the red box is on the left.")
    agreed = room.answer("Is the red box left of the ball?")
    assert (
        agreed.worded_by == Ask.Result.MODEL and agreed.answer.startswith("Yes, certainly") and not agreed.disagreement
    )
    room.show(SIDE_BY_SIDE, ["red box", "ball"], tell="No, the red box is not left of the ball.")
    against = room.answer("Is the red box left of the ball?")
    assert against.answer.startswith("Yes,") and against.worded_by == Ask.Result.RULES
    assert "measured was yes" in against.disagreement and against.model_answer.startswith("No,")
    room.show(SIDE_BY_SIDE, ["red box", "ball"], tell="The ball is 3.5 m away.")
    far = room.answer("How far is the ball?")
    assert "3.50 m" in far.disagreement and "3.5" not in far.answer


def test_a_question_the_rules_do_not_read_is_read_by_the_model(room):
    parsed = json.dumps({"ask": "left of", "find": ["Kiste", "ball"]})
    room.show(SIDE_BY_SIDE, ["Kiste", "ball"], understand=parsed, tell="Ja.")
    result = room.answer("Steht die Kiste links vom ball?")
    assert (
        result.understood_by == Ask.Result.MODEL and result.asked == "left of" and result.facts[0].verdict == Fact.TRUE
    )
    room.show(
        SIDE_BY_SIDE, ["ball"], understand=json.dumps({"ask": "left of", "find": ["mug", "shelf"]}), free="Ein Ball."
    )
    invented = room.answer("Was rollt hier herum?")
    assert invented.understood_by == Ask.Result.NOBODY and invented.answer == "Ein Ball.", (
        "it speaks of what nobody named"
    )


def test_a_free_answer_streams_in_parts_whose_offsets_have_no_gaps(room):
    text = " ".join(map(str, range(2000)))
    room.show(SIDE_BY_SIDE, [], free=text, pause_s=0.3)  # ten minutes
    asked = room.ask("Tell me a story", measure=False)
    until(lambda: len(asked.deltas) > 3, what="parts while it grows")
    asked.cancel()
    assert asked.result().code == Code.CANCELLED
    parts = sorted(asked.deltas, key=lambda d: d.offset)
    assert all(d.delta == text[d.offset : d.offset + len(d.delta)] for d in parts)
    room.show(SIDE_BY_SIDE, [], free=text)
    asked = room.ask("Tell me a story", measure=False)
    result = asked.result()
    assert result.answer == text and result.worded_by == Ask.Result.MODEL
    until(lambda: heard_of(asked) == text, what="all parts, without a gap")


def test_a_session_knows_what_was_asked_before_and_no_other_does(room):
    assert room.answer("Where is the red box?", session="a").code == Code.OK
    followed = room.answer("How far is it from the ball?", session="a")
    assert list(followed.find) == ["red box", "ball"] and followed.facts[0].verdict == Fact.TRUE
    room.show(SIDE_BY_SIDE, ["red box", "ball"], free="{history} turns")
    assert room.answer("Go on", session="a").answer == "4 turns"
    assert room.answer("Go on", session="b").answer == "0 turns"
    assert room.answer("Go on").answer == "0 turns"


def test_pictures_of_any_size_in_one_session(room):
    room.show(SIDE_BY_SIDE, [], free="{images} {history}")
    header = messages.header_of(1, "somewhere")
    wide, tall = (messages.image(header, np.zeros(shape, np.uint8)) for shape in ((48, 128, 3), (200, 60, 3)))
    first = room.answer("What is this?", images=[wide, tall], session="pictures")
    assert first.answer == "[(48, 128), (200, 60)] 0" and len(first.detections_2d) == 2
    assert first.detections_2d[0].header.frame_id == "somewhere"
    assert room.answer("And this?", images=[tall], session="pictures").answer == "[(200, 60)] 2"
    room.show(SIDE_BY_SIDE, ["ball"])
    plain = messages.image(header, np.zeros((*SIDE_BY_SIDE.depth_m.shape, 3), np.uint8))
    blind = room.answer("How far is the ball?", images=[plain])
    assert blind.code == Code.NO_DEPTH and "no depth" in blind.answer


@pytest.mark.parametrize("where", ["prefill", "decode"])
def test_a_cancel_takes_effect_within_a_token_and_nobody_else_notices(room, where):
    slow = {"prefill_s": 600.0} if where == "prefill" else {"pause_s": 1.5}  # ten minutes, whoever waits for it
    room.show(SIDE_BY_SIDE, ["ball"], free="word " * 400, **slow)
    begun = room.path.with_suffix(".begun")
    begun.unlink(missing_ok=True)
    asked = room.ask("Tell me a story", measure=False)
    until(lambda: begun.exists() and (asked.deltas or where == "prefill"), what="the beginning")
    other = room.ask("How far is the ball?")
    assert asked.cancel().goals_canceling
    result = asked.result()
    assert result.code == Code.CANCELLED and asked.status == 5
    told = other.result()
    assert told.code == Code.OK and told.facts[0].verdict == Fact.TRUE


def test_a_goal_that_waits_is_cancelled_at_once(room):
    room.show(SIDE_BY_SIDE, [], free="word " * 2000, pause_s=0.3)  # ten minutes
    first, second = (room.ask("Tell me a story", measure=False) for _ in range(2))
    second.cancel()
    assert second.result().code == Code.CANCELLED and not first.done
    heard = len(first.deltas)
    until(lambda: len(first.deltas) > heard + 1, what="more of the first")
    first.cancel()
    assert first.result().code == Code.CANCELLED


def test_time_that_is_over_is_told_with_what_there_was(room):
    room.show(SIDE_BY_SIDE, [], free="word " * 2000, pause_s=0.3)  # ten minutes
    for timeout in (1.0, 4.0, 16.0, 60.0):  # a slow machine takes longer to begin
        late = room.answer("Tell me a story", measure=False, timeout=timeout)
        assert late.code == Code.TIMEOUT
        if late.answer:
            break
    assert late.answer.startswith("word")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"question": "  "}, "question is empty"),
        ({"question": "Where is it?", "view": "moon"}, "view 'moon' is unknown"),
        ({"question": "Where?", "cameras": ["moon"]}, "camera 'moon' is unknown"),
        ({"question": "Where?", "session": "x" * 300}, "shorten it"),
        ({"question": "Where?", "timeout": -1.0}, "timeout"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(room, fields, words):
    result = room.answer(**fields)
    assert result.code == Code.ERROR and words in result.message and not result.answer


# -- what was just seen --------------------------------------------------------------------------------------------------------


def test_what_the_stream_just_saw_and_stands_still_is_not_looked_for_again(graph, tmp_path):
    room = Room(graph, tmp_path, targets=["red box", "ball"], enabled=True, track="always")
    room.show(SIDE_BY_SIDE, ["red box", "ball"])

    def told():
        answer = room.measure(["left_of", "red box", "ball"])
        both = len(answer.detections_2d.detections) == len(answer.detections_3d.detections) == 2
        return answer if answer.success and answer.facts[0].age > 0 and both else None

    def remembered():
        answer = told()
        return (
            answer and all(np.isnan(d.results[0].hypothesis.score) for d in answer.detections_3d.detections) and answer
        )

    answer = until(remembered, what="an answer from what is followed")
    assert answer.facts[0].verdict == Fact.TRUE
    for found, index in zip(sorted(answer.detections_2d.detections, key=lambda d: d.bbox.center.position.x), (0, 1)):
        x0, _, x1, _ = SIDE_BY_SIDE.box_px(index)
        assert found.bbox.center.position.x == pytest.approx((x0 + x1) / 2, abs=4)
    by_id = room.measure(["distance", *(d.id for d in answer.detections_3d.detections)])
    assert by_id.facts[0].values[0].value == pytest.approx(0.16, abs=0.02)
    assert room.measure(["exists", "mug"]).facts[0].verdict == Fact.FALSE, (
        "what the stream does not look for is looked for"
    )
    room.camera.stop()
