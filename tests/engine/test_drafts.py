"""Drafts: whatever is proposed, the answer is the one without; and the drafter finds its way in the last answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_network import END, Toy

from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.decoding.drafts import Drafts
from qwen3vl_ros.engine.decoding.loop import Sampling
from qwen3vl_ros.types import EngineError

GPU = 0.004  # what one more token costs there, in passes


def drafts(pass_cost: float = GPU, most: int = 64) -> Drafts:
    return Drafts(lambda token: 48 <= token < 58, pass_cost, most)


def answer_all(answers: list[bytes], memory: Drafts | None = None, **options) -> list:
    """Decode a stream of answers, byte by byte, each drafted from those before; they come out as they are."""
    memory, runs = memory or drafts(), []
    for text in answers:
        drafter = memory.drafter("camera", "prompt")
        toy = Toy.saying(text, **options)
        run = toy.decode(drafter)
        drafter.finished(run.token_ids)
        assert bytes(run.token_ids) == text and run.finish_reason == "stop"
        assert run.forward_passes + run.accepted == len(text) + 1, "each pass gives one token besides its accepted ones"
        assert run.drafted - run.accepted == sum(toy.rollbacks)
        assert toy.cache == list(text)
        runs.append(run)
    return runs


def boxes(*objects: tuple[str, int, int]) -> bytes:
    return json.dumps([{"bbox_2d": [x, y, x + 100, y + 90], "label": label} for label, x, y in objects]).encode()


TABLE = [("mug", 112, 345), ("red cube", 402, 233), ("ball", 655, 571), ("bowl", 820, 118), ("cylinder", 300, 700)]


# -- the answer is the one without drafts ------------------------------------------------------------------------------

tokens = st.integers(1, 12)


class Guesses:
    """Proposes what it is told to, and notes what it hears of that."""

    def __init__(self, proposals):
        self._proposals, self.heard = iter(proposals), []

    def propose(self, token_ids, most):
        return list(next(self._proposals, []))[:most]

    def judged(self, proposed, accepted):
        assert 0 <= accepted <= len(proposed)
        self.heard.append((list(proposed), accepted))


@settings(deadline=None)  # the machine may be busy
@given(
    st.integers(0, 2**32),
    st.lists(st.lists(tokens, max_size=6), max_size=12),
    st.integers(1, 9),
    st.integers(1, 40),
    st.booleans(),
)
def test_no_guess_changes_the_answer(seed, proposals, longest_step, most, by_chance):
    """A model that goes anywhere, guesses of anything."""

    def anywhere(said):
        return int(np.random.default_rng([seed, *said[-3:], len(said) // 3]).integers(0, 4))

    sampling = Sampling(temperature=2.0, top_k=5, presence_penalty=0.5, seed=seed) if by_chance else None
    plain = Toy(anywhere, vocabulary=16).decode(max_new_tokens=most, sampling=sampling)
    toy, guesses = Toy(anywhere, longest_step, vocabulary=16), Guesses(proposals)
    run = toy.decode(guesses, max_new_tokens=most, sampling=sampling)
    assert (run.token_ids, run.finish_reason) == (plain.token_ids, plain.finish_reason)
    np.testing.assert_allclose(run.logprobs, plain.logprobs)
    assert run.forward_passes <= plain.forward_passes and len(toy.passes) == run.forward_passes
    assert run.drafted == sum(len(p) for p, _ in guesses.heard) and run.accepted == sum(n for _, n in guesses.heard)
    assert len(run.token_ids) + (run.finish_reason == "stop") == run.forward_passes + run.accepted
    assert max(toy.passes) <= longest_step and toy.cache == run.token_ids[: len(toy.cache)]


@settings(deadline=None)
@given(
    st.lists(st.lists(tokens, max_size=30), min_size=1, max_size=6),
    st.sampled_from([0.0, GPU, 0.05, 1.0]),
    st.integers(1, 40),
)
def test_answers_of_any_kind_come_out_as_they_are(answers, pass_cost, longest_step):
    answer_all([bytes(a) for a in answers], drafts(pass_cost), longest_step=longest_step)


edits = st.lists(
    st.tuples(st.sampled_from(["move", "add", "drop", "swap", "rename"]), st.integers(0, 9), st.integers(-30, 200)),
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(edits, min_size=1, max_size=6))
def test_scenes_that_change_in_any_way(changes):
    table, answers = list(TABLE), []
    for change in changes:
        for kind, which, by in change:
            i = which % len(table) if table else 0
            if kind == "add" or not table:
                table.insert(i, ("toy", 5 * which, abs(by)))
            elif kind == "drop":
                del table[i]
            elif kind == "swap":
                table[i], table[0] = table[0], table[i]
            elif kind == "rename":
                table[i] = (f"box {which}", *table[i][1:])
            else:
                table[i] = (table[i][0], abs(table[i][1] + by), table[i][2])
        answers.append(boxes(*table))
    for text, run in zip(answers, answer_all(answers)):
        assert run.forward_passes <= len(text) + 1


# -- and needs fewer passes --------------------------------------------------------------------------------------------


def passes_after(before: list[tuple], after: list[tuple], **options) -> int:
    return answer_all([boxes(*before)] * 6 + [boxes(*after)], **options)[-1].forward_passes


def test_a_scene_that_stands_still_takes_one_pass():
    assert passes_after(TABLE, TABLE) == 1
    runs = answer_all([boxes(*TABLE)] * 3)
    assert [r.forward_passes for r in runs][1:] == [pytest.approx(3, abs=2), 1], "trust comes quickly"


def test_steps_of_limited_length_still_take_the_whole():
    length = len(boxes(*TABLE)) + 1
    assert passes_after(TABLE, TABLE, longest_step=16) == -(-length // 16)


@pytest.mark.parametrize(
    "after, most",
    [
        ([("mug", 113, 345), *TABLE[1:]], 5),
        ([("mug", 99, 345), *TABLE[1:]], 12),
        ([("mug", 1112, 345), *TABLE[1:]], 8),
        (TABLE[1:], 22),
        (TABLE[:2] + TABLE[3:], 22),
        (TABLE[:-1], 6),
        ([TABLE[1], TABLE[0], *TABLE[2:]], 40),
        ([*TABLE[:2], ("mug", 512, 512), *TABLE[2:]], 32),
        ([*TABLE, ("mug", 512, 512)], 32),
        ([("cup", 112, 345), *TABLE[1:]], 8),
    ],
    ids=[
        "moved a little",
        "fewer digits",
        "more digits",
        "first gone",
        "one in the middle gone",
        "last gone",
        "two change places",
        "a new one in the middle",
        "a new one at the end",
        "another name",
    ],
)
def test_it_finds_its_way_back(after, most):
    """Of some 300 passes, one a byte. What is new costs passes; what was said before costs few."""
    assert passes_after(TABLE, after) <= most


def test_what_always_moves_is_not_drafted_through_where_tokens_cost():
    moving = [boxes(("mug", 112 + 7 * i % 10, 345), *TABLE[1:]) for i in range(12)]
    dear, cheap = (answer_all(moving, drafts(cost))[-1] for cost in (0.05, GPU))
    assert dear.drafted - dear.accepted < 60 and dear.forward_passes <= 6
    assert cheap.forward_passes <= 3


def test_a_first_answer_drafts_from_its_own_words():
    assert answer_all([boxes(*TABLE)])[0].forward_passes < 0.7 * len(boxes(*TABLE))


def test_streams_and_prompts_are_apart_and_few():
    memory = drafts(most=2)
    for stream, prompt in (("a", "x"), ("b", "x"), ("a", "y")):
        drafter = memory.drafter(stream, prompt)
        assert drafter.propose([], 10) == []
        drafter.finished([1, 2, 3])
    assert memory.drafter("a", "y").propose([], 10) == [1, 2, 3]
    assert memory.drafter("a", "x").propose([], 10) == [], "the oldest was forgotten"


def test_same_history_same_drafts():
    answers = [boxes(("mug", x, 345), *TABLE[1:]) for x in (100, 105, 113, 113, 98)]
    first, second = ([(r.forward_passes, r.drafted) for r in answer_all(answers)] for _ in range(2))
    assert first == second


# -- limits count inside accepted drafts too -----------------------------------------------------------------------------


def with_and_without(said: bytes, draft: bytes, **options):
    plain = Toy.saying(said).decode(**options)
    return plain, Toy.saying(said).decode(Guesses([draft, draft[30:]]), **options)


@pytest.mark.parametrize("text", [boxes(*[("cube", 5, 5)] * 12), b"0, " * 100, b"ok" + b"!" * 200], ids=str)
def test_circles_are_left_at_the_same_token(text):
    plain, drafted = with_and_without(text, text, repeat_limit=4)
    assert plain.finish_reason == drafted.finish_reason == "repeat" and plain.token_ids == drafted.token_ids
    assert drafted.forward_passes == 1


def test_length_is_kept():
    plain, drafted = with_and_without(b"a" * 40, b"a" * 40, max_new_tokens=17)
    assert plain.finish_reason == drafted.finish_reason == "length" and len(drafted.token_ids) == 17 == len(
        plain.token_ids
    )
    assert drafted.drafted == 16, "no draft beyond the limit"


def test_garbage_is_garbage_in_a_draft_too():
    with pytest.raises(EngineError, match="nothing but"):
        with_and_without(b"!" * 100, b"!" * 100)


def test_cancel_stops_within_a_pass_while_drafting():
    control = Control()
    text = boxes(*TABLE)
    toy = Toy.saying(text, longest_step=8, each_pass=lambda n: n == 2 and control.cancel())
    memory = drafts()
    memory.drafter("c", "p").finished(list(text))
    run = toy.decode(memory.drafter("c", "p"), control=control)
    assert run.finish_reason == "cancelled" and len(toy.passes) == 3
    assert len(run.token_ids) == 17 and toy.cache == run.token_ids, "one token of the pass that was running, as without"
    assert END not in run.token_ids
