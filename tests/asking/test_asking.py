"""From a question to a sentence without ROS: exact layouts, an engine that is told what to say, sessions with a clock of their own."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from depth_scenes import Scene, ball, box, cylinder, look_from
from scripted_node import said

from qwen3vl_ros.asking import Asker, Code, Session, Sessions, Shot, Who
from qwen3vl_ros.asking.finding import Finder
from qwen3vl_ros.asking.measuring import RELATION, conclude, is_measured
from qwen3vl_ros.engine.base import Turn
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.aliases import in_chinese, other_names
from qwen3vl_ros.questions.understand import ASKS, RELATIONS, Understood
from qwen3vl_ros.questions.wording import Said, contradiction, line, sentence
from qwen3vl_ros.types import Cancelled, Fact, InvalidInput, Verdict


class Oracle:
    """Finds the boxes it was given; says nothing else that can be used."""

    info = None

    def __init__(self, boxes, words="的bowl"):
        self.boxes, self.words, self.asked = boxes, words, []

    def generate(self, prompt, limits, control=None, on_text=None):
        self.asked.append(prompt)
        quoted = re.search(r'^Locate every .*?"([^"]*)"', prompt.text)
        if quoted is None:
            if on_text:
                on_text(self.words)
            return said(self.words)
        height, width = prompt.images[0].shape[:2]
        size = np.array((width, height) * 2)
        found = [
            {"bbox_2d": np.round(1000 * np.array(b) / size).astype(int).tolist(), "label": phrase}
            for phrase in quoted[1].split(", ")
            for b in self.boxes.get(phrase, ())
        ]
        return said(json.dumps(found))


SOLIDS = {
    "red box": box((0.06,) * 3, (-0.14, 0)),
    "ball": ball(0.06, (0.12, 0)),
    "can": cylinder(0.05, 0.09, (0, 0.15)),
}


def room(solids=SOLIDS, names=None, words="的bowl", **how):
    scene = Scene(list(solids.values()), look_from(40), **how)
    boxes = {}
    for k, name in enumerate(names or solids):
        boxes.setdefault(name, []).append(scene.box_px(k))
    engine = Oracle(boxes, words)
    return Asker(Perception(engine)), Shot(scene.frame()), engine


def test_the_words_of_questions_are_those_of_geometry():
    assert set(RELATION.values()) <= set(facts.RELATIONS)
    measured = {ask for ask in ASKS if is_measured(Understood(ask, ("a",)))}
    assert measured == set(ASKS) - {"colour", "reading", "text", "unknown"}


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_a_sentence_in_both_languages(relation):
    find = ("mug", "bowl", "tray")[: 3 if relation == "between" else 2]
    asked = Understood(relation, find)
    for truth, en, zh in ((True, "Yes,", "是的"), (False, "No,", "不"), (None, "I cannot tell", "无法")):
        assert sentence("en", asked, Said("yes_no", truth, reason="why" * (truth is None))).startswith(en)
        chinese = sentence("zh", asked, Said("yes_no", truth))
        assert chinese.startswith(zh) and "杯子" in chinese and all(in_chinese(n) in chinese for n in find)


def test_the_whole_path_measures_what_the_sentence_says():
    asker, shot, _ = room()
    told = asker.ask([shot], "How far is the red box from the ball?")
    assert told.code is Code.OK and told.worded_by is Who.RULES and told.understood_by is Who.RULES
    (fact,) = told.facts
    assert fact.value == pytest.approx(0.26 - 0.06, abs=0.01) and f"{100 * fact.value:.1f} cm" in told.answer


def test_a_thing_is_found_by_another_word_for_it():
    assert "mug" in other_names("cup") and "红色的杯子" in other_names("红茶杯")
    asker, shot, engine = room(names=["box", "ball", "mug"])
    assert asker.ask([shot], "How far is the cup?").code is Code.OK
    assert asker.ask([shot], "How far is the wrench?").code is Code.NOT_FOUND


def test_several_pictures_are_asked_and_the_one_that_decides_answers():
    asker, shot, engine = room()
    empty = Shot(Scene([], look_from(40)).frame(rgb=np.zeros((240, 320, 3), np.uint8)), "other", lacks="no depth here")
    told = asker.ask([empty, shot], "Is the red box left of the ball?")
    assert told.code is Code.OK and told.answer.startswith("Yes") and len(told.detections_2d) == 2


def test_garbage_for_a_parse_goes_to_the_model_as_it_is():
    asker, shot, engine = room(words="three blind mice")
    told = asker.ask([shot], "Wie viele Mäuse?")
    assert told.answer == "three blind mice" and told.understood_by is Who.NOBODY and told.worded_by is Who.MODEL
    assert not engine.asked[0].images and len(engine.asked[-1].images) == 1


def test_an_answer_that_rests_on_facts_is_heard_once_and_whole():
    asker, shot, _ = room()
    heard = []
    told = asker.ask([shot], "Where is the ball?", on_text=heard.append)
    assert heard == [told.answer]


def test_a_session_goes_on_where_it_was():
    asker, shot, engine = room()
    session = Session()
    asker.ask([shot], "How far is the red box from the ball?", session)
    assert asker.ask([shot], "And the can?", session).find == ("can", "ball")
    asker.ask([shot], "What do you think of that", session)
    assert [turn.role for turn in engine.asked[-1].history] == ["user", "assistant"] * 2


def test_the_same_thing_twice_is_refused_by_name():
    asker, shot, _ = room()
    with pytest.raises(InvalidInput, match="the same thing twice"):
        asker.ask([shot], "Is the ball left of the ball?")


def test_a_cancel_ends_it():
    asker, shot, engine = room()
    engine.generate = lambda *a, **k: said("", "cancelled")
    with pytest.raises(Cancelled):
        asker.ask([shot], "Where is the ball?")


def test_what_else_is_there_counts_where_the_relation_asks_for_it():
    asker, shot, engine = room()
    found = Finder(asker._perception).find(shot, ("ball",), anything=("red box", "can"))
    told = conclude(Understood("left of", ("object", "ball")), found)
    assert told.said.names == ("red box", "can") and told.facts[0].verdict is Verdict.TRUE


# -- whether the model's words say what was measured ---------------------------------------------------------------------------

YES = Said("yes_no", True)
FAR = Said("number", numbers_m=(0.234,))
PLACED = Said("place", names=("mug",), place="on", support="table", far_m=0.56)
SENTENCES = {
    "yes": ("Yes, the mug is left of the bowl.", "left of", YES, True, ""),
    "yes in Chinese": ("是的，杯子在碗左边。", "left of", YES, True, ""),
    "no": ("No, the mug is not left of the bowl.", "left of", YES, False, "it says no"),
    "no in Chinese": ("不，杯子不在碗左边。", "left of", YES, False, "it says no"),
    "yes and no": ("Yes, the mug is not left of the bowl.", "left of", YES, False, ""),
    "garbage": ("的bowl", "left of", YES, False, ""),
    "unsure": ("I cannot tell.", "left of", YES, False, "unsure"),
    "sure of what cannot be told": ("Yes, it is.", "left of", Said("yes_no", None), False, "cannot be told"),
    "unsure of what cannot be told": ("I cannot tell that.", "left of", Said("yes_no", None), True, ""),
    "the number": ("The mug is 23 cm from the bowl.", "distance", FAR, True, ""),
    "the number in metres": ("杯子离碗0.234米。", "distance", FAR, True, ""),
    "another number": ("The mug is 2.34 m away.", "distance", FAR, False, "it says 2.34 m"),
    "no number": ("The mug is far away.", "distance", FAR, False, ""),
    "a count": ("There are 3 mugs.", "count", Said("count", count=3), True, ""),
    "another count": ("There are 4 mugs.", "count", Said("count", count=3), False, "it says 4"),
    "another thing": ("The ball is nearest.", "nearest", Said("which", names=("mug",)), False, "it names ball"),
    "a place with its metres": ("The mug is on the table, 56 cm away.", "where", PLACED, True, ""),
    "a place without its metres": ("The mug is in the middle of the table.", "where", PLACED, False, ""),
    "the thing": ("The mug is nearest.", "nearest", Said("which", names=("mug",)), True, ""),
}


@pytest.mark.parametrize("text, ask, what, agrees, against", SENTENCES.values(), ids=SENTENCES.keys())
def test_words_are_held_against_facts(text, ask, what, agrees, against):
    told, why = contradiction(text, Understood(ask, ("mug", "bowl")), what, ("ball",))
    assert told is agrees and (against in why if against else not why)


def test_own_sentences_never_contradict_the_facts_they_are_made_of():
    cases = [(Understood("left of", ("mug", "bowl")), Said("yes_no", t)) for t in (True, False)]
    cases += [(Understood("distance", ("mug", "bowl")), FAR), (Understood("count", ("mug",)), Said("count", count=2))]
    cases += [(Understood("nearest", ("object",)), Said("which", names=("mug",), numbers_m=(0.5,), far_m=0.5))]
    for asked, what in cases:
        for language in ("en", "zh"):
            _, against = contradiction(sentence(language, asked, what), asked, what)
            assert against == "", sentence(language, asked, what)
        assert line(asked, what)


def test_what_nobody_can_say_it_stands_on_still_has_its_distance():
    said = Said("place", far_m=0.56, numbers_m=(0.56,), reason="too close to tell")
    for language, metres in (("en", "56.0 cm"), ("zh", "56.0厘米")):
        told = sentence(language, Understood("where", ("mug",)), said)
        assert metres in told and ("cannot tell" in told or "无法确定" in told)


# -- sessions ------------------------------------------------------------------------------------------------------------------


def talked(turns: int = 1, side: int = 100) -> Session:
    session = Session()
    for k in range(turns):
        session.add(f"question {k}", [np.zeros((side, side, 3), np.uint8)], "answer", None)
    return session


def test_a_session_left_alone_ends():
    now = [0.0]
    sessions = Sessions(lambda: 10.0, lambda: 10**9, lambda: now[0])
    sessions.keep("a", talked())
    now[0] = 9.0
    assert len(sessions.get("a").turns) == 2
    now[0] = 19.5
    assert not sessions.get("a").turns


def test_too_much_memory_ends_the_session_used_longest_ago_and_then_forgets_old_turns():
    now = [0.0]
    sessions = Sessions(lambda: 1e9, lambda: 80_000, lambda: now[0])
    for k, name in enumerate("abc"):
        now[0] = float(k)
        sessions.keep(name, talked())
    assert not sessions.get("a").turns and sessions.get("b").turns and sessions.get("c").turns
    sessions.keep("d", talked(turns=4))
    assert sessions.nbytes <= 80_000 and 0 < len(sessions.get("d").turns) < 8
    sessions.keep("huge", talked(side=1000))
    assert sessions.nbytes <= 80_000


def test_a_turn_without_a_name_is_kept_nowhere_and_turns_are_bounded():
    sessions = Sessions(lambda: 10.0, lambda: 10**9)
    sessions.keep("", talked())
    assert len(sessions) == 0
    assert len(talked(turns=50).turns) <= 12 and isinstance(talked().turns[0], Turn)


def test_measure_gives_facts_in_the_order_they_were_asked():
    asker, shot, engine = room()
    asked = [Fact("on", ("ball", "desk")), Fact("left_of", ("red box", "ball")), Fact("exists", ("spoon",))]
    told = asker.measure(shot, asked)
    assert [f.verdict for f in told.facts] == [Verdict.TRUE, Verdict.TRUE, Verdict.FALSE]
    assert {d.label for d in told.detections_3d} == {"ball", "red box"}
