"""The decode loop with a toy model that says what it is told, one byte a token; and the reading back of tokens."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engine.decode import Interrupted, Limits, RepeatGuard, decode, transcribe
from qwen3vl_ros.types import Control

END = 0


class Said(NamedTuple):
    """Scores of one token that leave no doubt."""

    token_id: int
    logprob: float

    def best(self):
        return [self.token_id], [self.logprob]

    def logits(self):
        raise AssertionError("greedy decoding needs no logits")


def say(text: str | bytes, control: Control | None = None, each_step=lambda n: None, max_new_tokens=10_000, repeat_limit=4,
        deadline_s=3600.0):
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

    return decode(lambda draft: scores(), step, lambda count: pytest.fail("nothing was drafted"), stop_ids=[END],
                  bytes_of=lambda token: bytes([token]), control=control or Control(),
                  limits=Limits(max_new_tokens, time.monotonic() + deadline_s, repeat_limit))


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


@pytest.mark.parametrize("text, said", [
    (boxes(1, 2, 3, 3, 3, 3, 3, 3), boxes(1, 2, 3, 3, 3, 3)[:-1]),
    (boxes(*[1, 2] * 20), boxes(*[1, 2] * 4)[:-1]),
    (boxes(*[1, 2, 3] * 20), boxes(*[1, 2, 3] * 4)[:-1]),
    (boxes(7, 7, 7, 7), boxes(7, 7, 7, 7)[:-1]),
    ('{"a":  1}\n{ "a":1}\n{"a": 1}\n{"a": 1}\n', '{"a":  1}\n{ "a":1}\n{"a": 1}\n{"a": 1}'),
    ("ok" + "!" * 200, "ok" + "!" * 49),
    ("0, " * 100, "0, " * 17),
], ids=["same object", "two in turn", "three in turn", "all the same", "white space differs", "one token", "three tokens"])
def test_circles_are_left(text, said):
    run = say(text)
    assert run.finish_reason == "repeat" and text_of(run) == said


@pytest.mark.parametrize("text", [
    boxes(*range(60)), boxes(1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1), boxes(*[1, 2, 3, 4] * 6), "-" * 40, "}{}}{{}{}", "{" * 30,
], ids=["60 objects", "three in a row", "four in turn", "a short rule", "stray braces", "only opened"])
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
        pieces = [text[i:i + size] for i in range(0, len(text), size)]
        assert "repeat" in [guard.add(i, piece) for i, piece in enumerate(pieces)]


# -- from tokens to text ----------------------------------------------------------------------------------------------

CUP = "杯".encode()


@pytest.mark.parametrize("pieces, thinking, text, ends, reasoning, tokens", [
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
], ids=["plain", "nothing", "character over three tokens", "character over two tokens", "character cut off", "not UTF-8",
        "white space around", "only white space", "control tokens inside", "thinking", "tag over tokens", "thinking not closed",
        "thinking closed at once", "instruct thinks", "instruct thinks on", "opened twice", "instruct quotes the tag",
        "tag in the answer"])
def test_transcripts(pieces, thinking, text, ends, reasoning, tokens):
    said = transcribe(pieces, thinking)
    assert (said.text, said.token_ends, said.reasoning) == (text, ends, reasoning)
    assert (said.first_token, said.last_token) == tokens


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
        spelt = b"".join(pieces[said.first_token:said.last_token]).decode()
        assert spelt.strip() == said.text
        for i, end in zip(range(said.first_token, said.last_token), said.token_ends):
            whole = b"".join(pieces[said.first_token:i + 1]).decode(errors="ignore")
            assert len(whole.lstrip()[:len(said.text)]) == end
