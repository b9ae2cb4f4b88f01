"""Seeing the next picture while the answer to this one is said: on the embedded model, with every order of events forced and none timed.

A CPU gains nothing by it, and there it is off; what happens between the two threads is the same on every device.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import replace

import asking
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime that can see ahead")

from qwen3vl_ros.config import from_flat
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine import embedded_model_dir, find_checkpoint, load_engine
from qwen3vl_ros.engine.base import EngineInfo, Limits, Prompt
from qwen3vl_ros.engine.local import LocalEngine
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.sim.stream import SimStream
from qwen3vl_ros.types import Cancelled, InvalidInput

TEXT = Detect(("cube", "ball", "cylinder", "mug", "bowl")).prompt()
LIMITS = Limits(max_new_tokens=60, deadline_s=600.0, repeat_limit=100)
WAIT_S = 300.0  # for what must come; nothing is measured
ask = functools.partial(asking.ask, limits=LIMITS)


@pytest.fixture(scope="module")
def network():
    return Network.load(find_checkpoint(""), "cpu", torch.float32)


@pytest.fixture(scope="module")
def pictures():
    with SimStream(40, "all_moving", 2.0, 3, 2.0, width=320, height=240, quality="fast") as camera:
        return [view.rgb for _, view, _ in camera.frames(2.0)]


@pytest.fixture(scope="module")
def expected(network, pictures):
    """What is answered without it: one engine, one picture after the other."""
    engine = engine_on(network, see_ahead=False)
    said = [ask(engine, [rgb], TEXT).token_ids for rgb in pictures]
    assert all(said) and len(set(said)) > 1
    return said


def engine_on(network, see_ahead: bool = True) -> LocalEngine:
    checkpoint = find_checkpoint("")
    info = EngineInfo("torch", "", "", "cpu", "float32", 0, False, "")
    runtime = TorchRuntime(network, 900)
    return LocalEngine(checkpoint, Preparation(checkpoint.path), runtime, info, pass_cost=0.03, see_ahead=see_ahead)


@pytest.fixture
def engine(network):
    made = engine_on(network)
    yield made
    made.close()


class Coming:
    """`upcoming` of an engine: each prompt once, in turn; `prompts` may be filled at any time."""

    def __init__(self, *prompts: Prompt):
        self.prompts = list(prompts)

    def __call__(self):
        return functools.partial(lambda prompt: prompt, self.prompts.pop(0)) if self.prompts else None


class Events:
    """What happened, in order, on both threads; each may wait for what the other does."""

    def __init__(self):
        self.order: list[str] = []
        self._changed = threading.Condition()

    def note(self, what: str) -> int:
        """How many words there were before."""
        with self._changed:
            self.order.append(what)
            self._changed.notify_all()
            return self.order.count("word")

    def wait_for(self, what: str, times: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.order.count(what) >= times, WAIT_S), (what, self.order)


def encoded(engine, monkeypatch) -> list[str]:
    """Who sees from now on: "here" or "ahead", a word for each time."""
    runtime, seen = engine._runtime, []
    for name, word in (("encode", "here"), ("encode_ahead", "ahead")):
        real = getattr(runtime, name)
        monkeypatch.setattr(runtime, name, lambda *a, real=real, word=word: (seen.append(word), real(*a))[1])
    return seen


def all_seen(engine) -> None:
    """Nothing is being seen any more."""
    engine._ahead._thread.submit(lambda: None).result(WAIT_S)


# -- what it is for ----------------------------------------------------------------------------------------------------


def test_a_stream_seen_ahead_says_the_same_tokens(engine, pictures, expected, monkeypatch):
    """Every picture but the first is seen while the one before it is spoken about, and none twice."""
    seen = encoded(engine, monkeypatch)
    for number, rgb in enumerate(pictures):
        engine.upcoming = Coming(*(Prompt(TEXT, [later]) for later in pictures[number + 1 : number + 2]))
        assert ask(engine, [rgb], TEXT).token_ids == expected[number]
        all_seen(engine)
    assert seen == ["here"] + ["ahead"] * (len(pictures) - 1)
    assert engine.status()["seen ahead"].startswith(f"{len(pictures) - 1} prompts of {len(pictures) - 1}")


def test_the_picture_is_seen_between_two_tokens_of_the_running_answer(engine, network, pictures, expected):
    """Neither waits for the other's end: the answer goes on within the look, and the look within the answer."""
    events, blocks = Events(), network.vision.blocks
    engine.upcoming = Coming(Prompt(TEXT, [pictures[1]]))
    ours = threading.get_ident()

    def before_block(number: int):
        def hook(*_):
            if threading.get_ident() != ours:
                events.wait_for("word", times=events.note(f"block {number}") + 1)  # one more of the answer

        return hook

    def hear(part: str) -> None:
        if engine._ahead.begun and f"block {len(blocks) - 1}" not in events.order:
            blocks_begun = sum(e.startswith("block") for e in events.order)
            events.note("word")
            if blocks_begun < len(blocks):  # the next block waits for this word, this word for that block
                events.wait_for(f"block {blocks_begun}")

    hooks = [block.register_forward_pre_hook(before_block(i)) for i, block in enumerate(blocks)]
    try:
        first = ask(engine, [pictures[0]], TEXT, on_text=hear)
        events.note("word")
        all_seen(engine)
    finally:
        for hook in hooks:
            hook.remove()
    assert first.token_ids == expected[0]
    assert [e for e in events.order if e != "word"] == [f"block {i}" for i in range(len(blocks))]
    for i in range(len(blocks) - 1):
        between = events.order[events.order.index(f"block {i}") : events.order.index(f"block {i + 1}")]
        assert "word" in between, events.order
    assert ask(engine, [pictures[1]], TEXT).token_ids == expected[1]
    assert engine._ahead.used == 1


def test_the_next_prompt_waits_for_a_look_that_has_begun(engine, network, pictures, expected, monkeypatch):
    seen, begun, go_on = encoded(engine, monkeypatch), threading.Event(), threading.Event()
    hold_first_block(network, monkeypatch, begun, go_on)
    engine.upcoming = Coming(Prompt(TEXT, [pictures[1]]))
    ask(engine, [pictures[0]], TEXT)
    assert begun.wait(WAIT_S)
    waiting = engine._runtime
    monkeypatch.setattr(waiting, "rollback", lambda count, real=waiting.rollback: (go_on.set(), real(count))[1])
    assert ask(engine, [pictures[1]], TEXT).token_ids == expected[1]
    assert seen == ["here", "ahead"]


# -- what is not asked after all ---------------------------------------------------------------------------------------


def hold_first_block(network, monkeypatch, begun: threading.Event, go_on: threading.Event) -> None:
    """Whoever sees on another thread stops within its first block until it may go on."""
    ours, block = threading.get_ident(), network.vision.blocks[0]
    real = block.forward

    def held(*arguments):
        if threading.get_ident() != ours:
            begun.set()
            assert go_on.wait(WAIT_S)
        return real(*arguments)

    monkeypatch.setattr(block, "forward", held)


@pytest.mark.parametrize("asked", ["newer", "other size", "other words", "two pictures", "no picture"])
def test_another_prompt_than_was_thought_is_answered_as_ever(engine, network, pictures, asked, monkeypatch):
    prompts = {
        "newer": Prompt(TEXT, [pictures[2]]),
        "other size": Prompt(TEXT, [pictures[1][:200, :280].copy()]),
        "other words": Prompt("Locate the red ball.", [pictures[1]]),
        "two pictures": Prompt(TEXT, [pictures[1], pictures[2]]),
        "no picture": Prompt("What is a cup?"),
    }
    plain = engine_on(network, see_ahead=False)
    ask(plain, [pictures[0]], TEXT)
    expected = plain.generate(prompts[asked], LIMITS).token_ids
    seen = encoded(engine, monkeypatch)
    engine.upcoming = Coming(Prompt(TEXT, [pictures[1]]))
    ask(engine, [pictures[0]], TEXT)
    all_seen(engine)
    assert engine.generate(prompts[asked], LIMITS).token_ids == expected
    assert seen == ["here", "ahead"] + ["here"] * (asked != "no picture")
    assert engine._ahead._look is None and engine._ahead.used == 0


def test_one_picture_is_ahead_and_a_newer_one_takes_its_place(engine, network, pictures, expected, monkeypatch):
    """The first look is stopped within its first block; the second is of the newer picture; features of the first are gone."""
    begun, go_on, alive = threading.Event(), threading.Event(), []
    hold_first_block(network, monkeypatch, begun, go_on)
    coming = engine.upcoming = Coming(Prompt(TEXT, [pictures[1]]))
    real = engine._ahead._runtime.encode_ahead

    def counted(*arguments):
        alive.append("begun")
        found = real(*arguments)
        alive.append("whole")
        return found

    monkeypatch.setattr(engine._runtime, "encode_ahead", counted)

    def hear(part: str) -> None:
        if not go_on.is_set():
            assert begun.wait(WAIT_S)
            first = engine._ahead._look
            coming.prompts.append(Prompt(TEXT, [pictures[2]]))
            monkeypatch.setattr(first, "drop", lambda real=first.drop: (real(), go_on.set()))

    ask(engine, [pictures[0]], TEXT, on_text=lambda part: hear(part) if engine._ahead.begun == 1 else None)
    all_seen(engine)
    assert alive == ["begun", "begun", "whole"] and engine._ahead.begun == 2
    assert ask(engine, [pictures[2]], TEXT).token_ids == expected[2]
    assert engine._ahead.used == 1


@pytest.mark.parametrize("when", ["the first is", "the second is"])
def test_a_cancelled_answer_leaves_nothing_that_waits(engine, network, pictures, expected, when, monkeypatch):
    """A cancel of the running answer; or of the next one, while it waits for a look that never ends by itself."""
    begun, go_on, control = threading.Event(), threading.Event(), Control()
    hold_first_block(network, monkeypatch, begun, go_on)
    engine.upcoming = Coming(Prompt(TEXT, [pictures[1]]))

    def hear(part: str) -> None:
        if engine._ahead.begun and when == "the first is":
            assert begun.wait(WAIT_S)
            control.cancel("enough")

    first = ask(engine, [pictures[0]], TEXT, control if when == "the first is" else None, on_text=hear)
    assert begun.wait(WAIT_S)
    if when == "the second is":
        assert first.token_ids == expected[0]
        monkeypatch.setattr(
            engine._runtime, "rollback", lambda n, real=engine._runtime.rollback: (control.cancel("enough"), real(n))[1]
        )
        second = ask(engine, [pictures[1]], TEXT, control)
        assert second.finish_reason == "cancelled" and not second.token_ids
        monkeypatch.undo()
    else:
        assert first.finish_reason == "cancelled" and first.token_ids == expected[0][: len(first.token_ids)]
    go_on.set()
    assert ask(engine, [pictures[2]], TEXT).token_ids == expected[2]
    all_seen(engine)
    assert engine._ahead._look is None and not engine._ahead.off


def test_closing_ends_a_look_and_the_thread(network, pictures, monkeypatch):
    engine, begun, go_on = engine_on(network), threading.Event(), threading.Event()
    hold_first_block(network, monkeypatch, begun, go_on)
    engine.upcoming = Coming(Prompt(TEXT, [pictures[1]]))
    ask(engine, [pictures[0]], TEXT)
    assert begun.wait(WAIT_S)
    look, threads = engine._ahead._look, list(engine._ahead._thread._threads)
    monkeypatch.setattr(look, "drop", lambda real=look.drop: (real(), go_on.set()))
    engine.close()
    assert threads and not any(thread.is_alive() for thread in threads)
    assert look.features.exception() is not None
    engine.close()


# -- what fails --------------------------------------------------------------------------------------------------------


def test_a_look_that_fails_is_said_once_and_the_prompt_sees_for_itself(engine, pictures, expected, monkeypatch, caplog):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(engine._runtime, "encode_ahead", exhausted)
    asked = []
    for rgb, tokens in zip(pictures[:3], expected):
        coming = engine.upcoming = Coming(*(Prompt(TEXT, [rgb]) for rgb in pictures))
        assert ask(engine, [rgb], TEXT).token_ids == tokens
        all_seen(engine)
        asked.append(len(coming.prompts) < len(pictures))
    assert len([r for r in caplog.records if "no picture is seen ahead" in r.message]) == 1
    assert engine.status()["seen ahead"].startswith("off: OutOfMemoryError")
    assert asked == [True, False, False], "nothing is looked at again"


def test_a_picture_that_cannot_be_shown_is_refused_to_who_asks_it(engine, pictures, expected, caplog):
    strip = np.zeros((3, 900, 3), np.uint8)
    engine.upcoming = Coming(Prompt(TEXT, [strip]))
    ask(engine, [pictures[0]], TEXT)
    all_seen(engine)
    with pytest.raises(InvalidInput, match="thinner than"):
        ask(engine, [strip], TEXT)
    assert not engine._ahead.off and not caplog.records
    assert ask(engine, [pictures[1]], TEXT).token_ids == expected[1]


def test_who_makes_the_prompt_may_find_that_there_is_none(engine, pictures, expected):
    """A node that was deactivated meanwhile."""

    def gone():
        raise Cancelled("the node was deactivated")

    tellings = [gone]
    engine.upcoming = lambda: tellings.pop() if tellings else None
    ask(engine, [pictures[0]], TEXT)
    all_seen(engine)
    assert not engine._ahead.off
    assert ask(engine, [pictures[1]], TEXT).token_ids == expected[1]


# -- where -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_on_a_cpu_it_is_off(runtime, pictures):
    """Where seeing and decoding need the same cores, it would only make the answer wait."""
    engine = load_engine(from_flat({"engine": runtime, "device": "cpu", "see_ahead": True}))
    told = []
    engine.upcoming = lambda: told.append(1)
    engine.generate(Prompt(TEXT, [pictures[0]]), replace(LIMITS, max_new_tokens=5))
    assert not told and "seen ahead" not in engine.status()
    engine.close()
    assert embedded_model_dir().is_dir()
