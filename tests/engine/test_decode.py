"""The decode loop with a toy model that says what it is told, one byte a token; and the reading back of tokens. Drafts have
their own tests (test_drafts.py)."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from toy_network import END, Toy

from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Limits
from qwen3vl_ros.engine.decoding.guards import RepeatGuard
from qwen3vl_ros.engine.decoding.loop import Interrupted, Sampling, decode
from qwen3vl_ros.engine.decoding.transcript import transcribe
from qwen3vl_ros.types import EngineError


class Said(NamedTuple):
    """Scores of one token that leave no doubt."""

    token_id: int
    logprob: float

    def best(self):
        return [self.token_id], [self.logprob]

    def logits(self):
        raise AssertionError("greedy decoding needs no logits")


def say(
    text: str | bytes,
    control: Control | None = None,
    each_step=lambda n: None,
    max_new_tokens=10_000,
    repeat_limit=4,
    deadline_s=3600.0,
):
    """Decode a model that says `text`, byte by byte, then ends. each_step(n) runs inside the n-th pass, from 0."""
    script = list(text.encode() if isinstance(text, str) else text) + [END]
    passes = []

    def scores() -> Said:
        each_step(len(passes))
        passes.append(1)
        return Said(script[len(passes) - 1], -len(passes) / 1000)

    def step(token_ids: list[int]) -> Said:
        assert token_ids == [script[len(passes) - 1]], "the loop must feed back what was chosen"
        return scores()

    return decode(
        lambda draft: scores(),
        step,
        lambda count: pytest.fail("nothing was drafted"),
        stop_ids=[END],
        bytes_of=lambda token: bytes([token]),
        control=control or Control(),
        limits=Limits(max_new_tokens, deadline_s, repeat_limit),
    )


def text_of(run) -> str:
    return b"".join(run.pieces).decode()


def test_stops_at_the_end_token_and_keeps_it_out():
    run = say("hello")
    assert (text_of(run), run.finish_reason, run.forward_passes) == ("hello", "stop", 6)
    assert run.token_ids == list(b"hello") and run.logprobs == [-0.001, -0.002, -0.003, -0.004, -0.005]


def test_nothing_said_is_a_stop():
    run = say("")
    assert (run.token_ids, run.finish_reason, run.forward_passes) == ([], "stop", 1)


def test_length():
    run = say("hello", max_new_tokens=3)
    assert (text_of(run), run.finish_reason, run.forward_passes) == ("hel", "length", 3)


def test_cancel_stops_within_one_token():
    control = Control()
    run = say("hello world", control, each_step=lambda n: n == 4 and control.cancel())
    assert (text_of(run), run.finish_reason, run.forward_passes) == ("hello", "cancelled", 5)


def test_deadline_keeps_what_was_said():
    run = say("hello world", each_step=lambda n: time.sleep(0.05 if n == 4 else 0), deadline_s=0.04)
    assert run.finish_reason == "deadline" and "hello world".startswith(text_of(run)) and len(run.pieces) <= 5


def test_cancelled_before_it_began_runs_nothing():
    control = Control()
    control.cancel()
    run = say("hello", control)
    assert (run.token_ids, run.finish_reason, run.forward_passes) == ([], "cancelled", 0)


def test_interrupted_inside_a_pass():
    control = Control()

    def interrupt(n):
        if n == 0:
            control.cancel()
            raise Interrupted

    run = say("hello", control, each_step=interrupt)
    assert (run.token_ids, run.finish_reason) == ([], "cancelled") and run.prefill_s > 0 and run.decode_s == 0


def test_errors_of_the_model_are_not_swallowed():
    def fail(n):
        if n == 2:
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        say("hello", each_step=fail)


# -- repetition --------------------------------------------------------------------------------------------------------


def boxes(*values: int) -> str:
    return "[" + ", ".join(json.dumps({"bbox_2d": [v, v, v + 40, v + 9], "label": "cube"}) for v in values) + "]"


@pytest.mark.parametrize(
    "text, said",
    [
        (boxes(1, 2, 3, 3, 3, 3, 3, 3), boxes(1, 2, 3, 3, 3, 3)[:-1]),
        (boxes(*[1, 2] * 20), boxes(*[1, 2] * 4)[:-1]),
        (boxes(*[1, 2, 3] * 20), boxes(*[1, 2, 3] * 4)[:-1]),
        (boxes(7, 7, 7, 7), boxes(7, 7, 7, 7)[:-1]),
        ('{"a":  1}\n{ "a":1}\n{"a": 1}\n{"a": 1}\n', '{"a":  1}\n{ "a":1}\n{"a": 1}\n{"a": 1}'),
        ("ok" + "!" * 200, "ok" + "!" * 49),
        ("0, " * 100, "0, " * 17),
    ],
    ids=[
        "same object",
        "two in turn",
        "three in turn",
        "all the same",
        "white space differs",
        "one token",
        "three tokens",
    ],
)
def test_circles_are_left(text, said):
    run = say(text)
    assert run.finish_reason == "repeat" and text_of(run) == said


@pytest.mark.parametrize(
    "text",
    [
        boxes(*range(60)),
        boxes(1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1),
        boxes(*[1, 2, 3, 4] * 6),
        "-" * 40,
        "}{}}{{}{}",
        "{" * 30,
    ],
    ids=["60 objects", "three in a row", "four in turn", "a short rule", "stray braces", "only opened"],
)
def test_honest_answers_are_not_cut(text):
    assert say(text).finish_reason == "stop"


def test_repeat_limit_is_the_number_of_times():
    for limit in (2, 3, 7):
        run = say(boxes(*[5] * 30), repeat_limit=limit)
        assert text_of(run).count("bbox_2d") == limit


def test_guard_reads_objects_whatever_the_tokens():
    """The same text in tokens of other lengths, several braces in one of them included."""
    text = boxes(1, 2, 2, 2, 2, 2).encode()
    for size in (1, 2, 3, 7, 45, len(text)):
        guard = RepeatGuard(4)
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert "repeat" in [guard.add(i, piece) for i, piece in enumerate(pieces)]


# -- garbage and damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"!" * 300, b"!" * 24], ids=["for ever", "just enough"])
def test_an_answer_of_exclamation_marks_is_an_error(said):
    with pytest.raises(EngineError, match='nothing but "!".*FP8'):
        say(said)


@pytest.mark.parametrize("said", ["!" * 23, "a" + "!" * 40, "! " * 20])
def test_exclamation_marks_in_an_answer_are_none(said):
    assert text_of(say(said)) == said


@pytest.mark.parametrize("sampling", [None, Sampling()])
def test_scores_that_are_not_numbers(sampling):
    class Broken:
        def best(self):
            return [7], [float("nan")]

        def logits(self):
            return np.full((1, 9), np.nan, np.float32)

    with pytest.raises(EngineError, match="not a number"):
        decode(
            lambda draft: Broken(),
            None,
            None,
            stop_ids=[END],
            bytes_of=lambda t: b"x",
            control=Control(),
            limits=Limits(9, 3600.0, 4),
            sampling=sampling,
        )


# -- by chance -----------------------------------------------------------------------------------------------------------

LOGITS = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))


@pytest.mark.parametrize(
    "sampling, expected",
    [
        (Sampling(1.0, 1.0, 0), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(0.5, 1.0, 0), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampling(1.0, 1.0, 2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, 0.65, 0), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, 0.1, 0), [1, 0, 0, 0]),
        (Sampling(0.0, 1.0, 0), [1, 0, 0, 0]),
        (Sampling(1.0, 1.0, 0, presence_penalty=50.0), [0, 0, 2 / 3, 1 / 3]),
    ],
    ids=["as it is", "colder", "top k", "top p", "at least one", "greedy", "what was said is avoided"],
)
def test_sampling_shares(sampling, expected):
    """Evenly spread chances give each token its share."""
    drawn = [sampling.pick(LOGITS, [0, 1], (i + 0.5) / 3000) for i in range(3000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 3000, expected, atol=2e-3)


def test_impossible_sampling_is_refused():
    for wrong in (dict(temperature=-1.0), dict(top_p=0.0), dict(top_p=1.5), dict(top_k=-1)):
        with pytest.raises(ValueError, match="impossible"):
            Sampling(**wrong)


def test_a_seed_is_an_answer():
    def anything(said):
        return 1 + len(said) % 5

    one, same, other = (
        Toy(anything, vocabulary=9).decode(sampling=Sampling(5.0, 1.0, 0, seed=seed), max_new_tokens=50)
        for seed in (1, 1, 2)
    )
    assert one.token_ids == same.token_ids != other.token_ids
    assert all(p <= 0 for p in one.logprobs)


# -- held to a grammar ---------------------------------------------------------------------------------------------------


class Count:
    """`{"n": D}` with one digit D, or with two; by hand, what a grammar library does."""

    HEAD, TAIL, DIGITS = b'{"n": ', b"}", b"0123456789"

    def __init__(self, vocabulary: int = 256):
        self.said, self._vocabulary = b"", vocabulary

    def forced(self):
        if len(self.said) < len(self.HEAD):
            return list(self.HEAD[len(self.said) :])
        digits = self.said[len(self.HEAD) :]
        return [END] if digits.endswith(self.TAIL) else list(self.TAIL) if len(digits) == 2 else []

    def allowed(self):
        assert len(self.said) > len(self.HEAD) - 1, "what is forced is not asked for"
        mask = np.zeros(self._vocabulary, bool)
        mask[list(self.DIGITS + (self.TAIL if self.said[-1:].isdigit() else b""))] = True
        return mask

    def accept(self, token_ids):
        self.said += bytes(token_ids)


@pytest.mark.parametrize(
    "likes, said, passes",
    [
        (b"7}", b'{"n": 7}', 2),
        (b"42", b'{"n": 42}', 3),
        (b"zz", b'{"n": 00}', 3),
    ],
    ids=["one digit", "two digits", "nonsense"],
)
@pytest.mark.parametrize("longest_step", [1, 3, 100])
@pytest.mark.parametrize("drafted", [b"", b'{"n": 42}', b"7}", b"zz"])
def test_what_is_forced_costs_no_pass_and_the_rest_is_allowed(likes, said, passes, longest_step, drafted):
    class Once:
        def propose(self, token_ids, most):
            fits = drafted.startswith(bytes(token_ids))
            return list(drafted)[len(token_ids) if fits else 0 :][:most]

        def judged(self, proposed, accepted):
            assert accepted <= len(proposed)

    def model(so_far):
        place = len(so_far) - len(Count.HEAD)
        return likes[place] if 0 <= place < len(likes) else ord("x")

    toy, constraint = Toy(model, longest_step=longest_step), Count()
    run = toy.decode(Once() if drafted else None, constraint=constraint)
    assert bytes(run.token_ids) == said == constraint.said and run.finish_reason == "stop"
    if longest_step == 100:
        assert run.forward_passes <= passes
    if longest_step == 1:
        assert run.forward_passes == len(said), "the end is forced, so no pass is needed for it"
    assert all(p <= 0 for p in run.logprobs) and run.logprobs[0] < -3, "the network's own opinion, not the mask's"


def test_a_grammar_that_allows_nothing():
    class Nothing(Count):
        def allowed(self):
            return np.zeros(256, bool)

    with pytest.raises(EngineError, match="allows no token"):
        Toy.saying(b"x").decode(constraint=Nothing())


def test_limits_count_for_forced_tokens():
    run = Toy.saying(b"x" * 20).decode(constraint=Count(), max_new_tokens=4)
    assert (bytes(run.token_ids), run.finish_reason, run.forward_passes) == (b'{"n"', "length", 1)


# -- from tokens to text ----------------------------------------------------------------------------------------------

CUP = "杯".encode()


@pytest.mark.parametrize(
    "pieces, thinking, text, ends, reasoning, tokens",
    [
        ([b"ab", b"c"], False, "abc", [2, 3], "", (0, 2)),
        ([], False, "", [], "", (0, 0)),
        ([CUP[:1], CUP[1:2], CUP[2:], b"!"], False, "杯!", [0, 0, 1, 2], "", (0, 4)),
        ([b"a", CUP[:2], CUP[2:] + b"b"], False, "a杯b", [1, 1, 3], "", (0, 3)),
        ([b"a", CUP[:2]], False, "a\ufffd", [1, 2], "", (0, 2)),
        ([b"\xff", b"a"], False, "\ufffda", [1, 2], "", (0, 2)),
        ([b"\n", b" a", b"b \n", b"\n"], False, "ab", [1, 2], "", (1, 3)),
        ([b" ", b"\n"], False, "", [], "", (0, 0)),
        ([b"a", b"", b"b", b""], False, "ab", [1, 1, 2], "", (0, 3)),
        ([b"so", b"</think>", b"\n\n", b"[1", b"]"], True, "[1]", [2, 3], "so", (3, 5)),
        ([b"so", b"</thi", b"nk>[1]"], True, "[1]", [3], "so", (2, 3)),
        ([b"so it ", b"seems"], True, "", [], "so it seems", (0, 0)),
        ([b"</think>", b"a"], True, "a", [1], "", (1, 2)),
        ([b"<think>", b"\nhm\n", b"</think>", b"yes"], False, "yes", [3], "hm", (3, 4)),
        ([b"<think>", b"hm"], False, "", [], "hm", (0, 0)),
        ([b"<think>", b"hm", b"</think>", b"yes"], True, "yes", [3], "hm", (3, 4)),
        ([b"the tag ", b"</think>", b" ends it"], False, "the tag </think> ends it", [8, 16, 24], "", (0, 3)),
        ([b"a", b"</think>", b"b", b"</think>", b"c"], True, "b</think>c", [1, 9, 10], "a", (2, 5)),
    ],
    ids=[
        "plain",
        "nothing",
        "character over three tokens",
        "character over two tokens",
        "character cut off",
        "not UTF-8",
        "white space around",
        "only white space",
        "control tokens inside",
        "thinking",
        "tag over tokens",
        "thinking not closed",
        "thinking closed at once",
        "instruct thinks",
        "instruct thinks on",
        "opened twice",
        "instruct quotes the tag",
        "tag in the answer",
    ],
)
def test_transcripts(pieces, thinking, text, ends, reasoning, tokens):
    said = transcribe(pieces, thinking)
    assert (said.text, said.token_ends, said.reasoning) == (text, ends, reasoning)
    assert (said.first_token, said.last_token) == tokens


@example(" \x80", [2])  # its first byte comes with white space that is not of the answer
@example("a\u3000", [2])  # its last token begins white space that is not
@example("a\u3000b", [2, 3])
@given(st.text(max_size=40), st.lists(st.integers(0, 160), max_size=30))
def test_every_way_of_cutting_gives_the_same_text(text, cuts):
    raw = text.encode()
    edges = sorted({0, len(raw), *(c for c in cuts if c < len(raw))})
    pieces = [raw[a:b] for a, b in zip(edges, edges[1:])]
    said = transcribe(pieces, False)
    if not text.strip().startswith("<think>"):
        assert said.text == text.strip()
    assert said.token_ends == sorted(said.token_ends) and len(said.token_ends) == said.last_token - said.first_token
    if said.text:
        assert said.token_ends[-1] == len(said.text)
        spelt = b"".join(pieces[said.first_token : said.last_token]).decode(
            errors="ignore"
        )  # white space after it may be cut
        assert spelt.strip() == said.text
        for i, end in zip(range(said.first_token, said.last_token), said.token_ends):
            whole = b"".join(pieces[said.first_token : i + 1]).decode(errors="ignore")
            assert len(whole.lstrip()[: len(said.text)]) == end
