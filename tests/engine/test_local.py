"""The engine around a runtime: what it reads again and what not, on a runtime that gives every difference away; and, on the
embedded model, drafted answers beside plain ones over streams of pictures."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import threading
from contextlib import contextmanager
from functools import lru_cache
from zlib import crc32

import asking
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_network import ToyScores

from qwen3vl_ros.config import Config, from_flat
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine import embedded_model_dir, find_checkpoint, load_engine
from qwen3vl_ros.engine.base import EngineInfo, Limits, Prompt, Turn
from qwen3vl_ros.engine.decoding.loop import Sampling
from qwen3vl_ros.engine.local import LocalEngine, cache_tokens
from qwen3vl_ros.engine.network.sequence import TokenSequence, visual_places
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import EngineError, InvalidInput

SLOTS = json.loads((embedded_model_dir() / "config.json").read_text())["text_config"]["vocab_size"]
LIMITS = Limits(max_new_tokens=30, deadline_s=3600.0, repeat_limit=100)
ask = functools.partial(asking.ask, limits=LIMITS)
PROMPT = Detect(("cube", "ball", "cylinder", "mug", "bowl")).prompt()


@lru_cache
def preparation() -> Preparation:
    return Preparation(embedded_model_dir(), 1024, 16384)


class Ledger(TokenSequence):
    """A runtime (base.Runtime) that writes down what it is fed; what it says depends on every entry, so that anything
    reused wrongly changes the answer."""

    longest_step = 8

    def __init__(self, capacity: int = 400):
        super().__init__(capacity)
        self.entries: list[tuple] = []
        self.encoded: list[int] = []  # images in each call
        self.fed: list[int] = []  # tokens in each pass

    def encode(self, pixels: np.ndarray, grid: np.ndarray):
        assert grid.prod(1).sum() == len(pixels)
        self.between_layers()
        self.encoded.append(len(grid))
        images = np.split(pixels, np.cumsum(grid.prod(1))[:-1])
        return [
            (crc32(image.tobytes()), *map(int, cells), i)
            for image, cells in zip(images, grid)
            for i in range(cells.prod() // 4)
        ]

    def prefill(self, ids, features=None, positions=None, keep=1):
        places = visual_places(ids, (preparation().tokens.image_id, -1), len(features or ()))
        seen = dict(zip(places.tolist(), features or ()))
        self.between_layers()
        return self._pass(ids, self._places(len(ids), positions), keep, seen)

    def step(self, token_ids):
        return self._pass(token_ids, self._places(len(token_ids)), len(token_ids), {})

    def rollback(self, count):
        super().rollback(count)
        del self.entries[len(self.entries) - count :]

    def close(self):
        self.entries = None

    def _pass(self, ids, positions, keep, seen):
        self._append(np.asarray(positions))
        self.fed.append(len(ids))
        self.entries += [(int(t), *map(int, p), seen.get(i)) for i, (t, p) in enumerate(zip(ids, positions.T))]
        first = len(self.entries) - keep + 1
        return ToyScores([self._next(self.entries[: first + i]) for i in range(keep)], SLOTS)

    def _next(self, entries):
        said = crc32(repr(entries).encode())
        return min(preparation().tokens.stop_ids) if said % 40 == 0 else 100 + said % 7


def engine_on(runtime, **options) -> LocalEngine:
    info = EngineInfo("ledger", "", "", "cpu", "float32", 0, False, "")
    checkpoint = find_checkpoint("")
    return LocalEngine(checkpoint, preparation(), runtime, info, pass_cost=0.01, **options)


def picture(seed: int, width: int = 64, height: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


GREY, TALL_GREY = np.full((32, 64, 3), 128, np.uint8), np.full((64, 32, 3), 128, np.uint8)
PICTURES = [picture(1), picture(2), GREY, TALL_GREY, picture(3, 96, 64)]
requests = st.tuples(
    st.lists(st.integers(0, len(PICTURES) - 1), max_size=3),
    st.sampled_from(["a", "b", "a b c"]),
    st.sampled_from(["", "left", "right"]),
    st.booleans(),
    st.sampled_from([None, None, 0, 1, 2]),
)


# -- what is read again ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(requests, min_size=2, max_size=8))
def test_an_engine_that_remembers_answers_as_a_fresh_one(asked):
    """Any pictures, prompts, cameras and orders of prompt and image, some answers cut off: nothing shows."""
    runtime = Ledger()
    engine = engine_on(runtime)
    for which, prompt, stream, text_first, cut in asked:
        pictures = [PICTURES[i] for i in which]
        fresh = engine_on(Ledger())
        if cut is not None:
            control = Control()
            with cancelled_inside(runtime, control, cut):
                ask(engine, pictures, prompt, control, stream=stream, text_first=text_first)
            continue
        ours = ask(engine, pictures, prompt, stream=stream, text_first=text_first)
        theirs = ask(fresh, pictures, prompt, text_first=text_first)
        assert ours.token_ids == theirs.token_ids and ours.text == theirs.text
        assert ours.finish_reason == theirs.finish_reason and ours.prompt_tokens == theirs.prompt_tokens
        held = ours.prompt_tokens + ours.generated_tokens - 1
        assert runtime.entries[:held] == fresh._runtime.entries[:held]
        assert ours.forward_passes <= theirs.forward_passes


@contextmanager
def cancelled_inside(runtime: Ledger, control: Control, after: int):
    """The runtime looks for a cancel before each encode and prefill; it finds one after so many looks."""
    looks, encode, prefill = [], runtime.encode, runtime.prefill

    def with_look(call):
        def called(*arguments, **options):
            looks.append(1)
            if len(looks) > after:
                control.cancel()
            return call(*arguments, **options)

        return called

    runtime.encode, runtime.prefill = with_look(encode), with_look(prefill)
    try:
        yield
    finally:
        runtime.encode, runtime.prefill = encode, prefill


def test_another_question_about_the_same_image_sees_it_no_more():
    runtime = Ledger()
    engine = engine_on(runtime)
    first = ask(engine, [PICTURES[0]], "what is this?")
    second = ask(engine, [PICTURES[0].copy()], "where is it?")
    visual = 2
    assert runtime.encoded == [1] and first.reused_tokens == 0
    assert second.reused_tokens > visual and second.reused_tokens < second.prompt_tokens
    third = ask(engine, [PICTURES[1]], "where is it?")
    assert runtime.encoded == [1, 1] and 0 < third.reused_tokens < second.reused_tokens


def test_words_before_the_image_are_read_once():
    runtime = Ledger()
    engine = engine_on(runtime)
    ask_words_first = functools.partial(ask, engine, text_first=True)
    ask_words_first([PICTURES[0]], "a long question about the image")
    prefill = runtime.fed[0]
    before = len(runtime.fed)
    second = ask_words_first([PICTURES[1]], "a long question about the image")
    words = len(preparation().tokens._tokenizer.encode("a long question about the image").ids)
    assert second.reused_tokens >= words and runtime.fed[before] == prefill - second.reused_tokens
    again = ask_words_first([PICTURES[1]], "another question")
    assert runtime.encoded == [1, 1], "the features of the last image are kept"
    assert again.reused_tokens < second.reused_tokens


def test_the_same_picture_twice_is_two_images():
    runtime = Ledger()
    engine = engine_on(runtime)
    twice = ask(engine, [GREY, GREY], "a")
    once = ask(engine, [GREY], "a")
    assert once.prompt_tokens < twice.prompt_tokens
    assert once.token_ids == ask(engine_on(Ledger()), [GREY], "a").token_ids


@pytest.mark.parametrize("images, text_first", [(0, True), (1, True), (2, True), (2, False)])
def test_the_prompt_stands_where_it_should(images, text_first):
    prepared = preparation()(Prompt("who?", PICTURES[:images], text_first=text_first))
    tokens = preparation().tokens
    said = b"".join(map(tokens.bytes_of, prepared.ids.tolist()))
    assert said == b"user\nwho?\nassistant\n"
    visual = np.flatnonzero(prepared.ids == tokens.image_id)
    question = next(i for i, t in enumerate(prepared.ids.tolist()) if tokens.bytes_of(t).startswith(b"w"))
    assert len(visual) == 2 * images and all((visual > question) == text_first)
    assert prepared.positions.shape == (3, len(prepared.ids))


# -- chats -------------------------------------------------------------------------------------------------------------

turns = st.tuples(
    st.sampled_from(["begin", "go on", "go on", "again"]),
    st.lists(st.integers(0, len(PICTURES) - 1), max_size=2),
    st.sampled_from(["a", "b", "a b c"]),
    st.sampled_from(["", "left"]),
    st.sampled_from([None, None, None, 0, 1, 4]),
)


class Gone(Exception):
    """Of a listener that has heard enough."""


@settings(deadline=None, max_examples=60)
@given(st.lists(turns, min_size=2, max_size=7), st.booleans())
def test_a_chat_is_answered_as_by_an_engine_that_hears_it_for_the_first_time(spoken, text_first):
    """It goes on, begins anew or asks the same again, with further pictures, drafted or not; listeners leave early."""
    runtime = Ledger()
    engine, history = engine_on(runtime), ()
    for how, which, text, stream, leaves_after in spoken:
        history = () if how == "begin" else history[: -2 * (how == "again")] if history else ()
        prompt = Prompt(text, [PICTURES[i] for i in which], history=history, stream=stream, text_first=text_first)
        heard: list[str] = []

        def listen(part: str) -> None:
            heard.append(part)
            if len(heard) - 1 == leaves_after:
                raise Gone

        plain = dataclasses.replace(prompt, stream="")
        fresh = engine_on(Ledger(1000))
        theirs = fresh.generate(plain, LIMITS)
        try:
            ours = engine.generate(prompt, LIMITS, None, listen)
        except Gone:
            assert theirs.text.startswith("".join(heard))
            continue
        assert ours.token_ids == theirs.token_ids and "".join(heard) == ours.text == theirs.text
        assert ours.prompt_tokens == theirs.prompt_tokens > ours.reused_tokens
        held = ours.prompt_tokens + ours.generated_tokens - 1
        assert runtime.entries[:held] == fresh._runtime.entries[:held]
        history = (*prompt.turns, Turn("assistant", ours.text))


def test_a_chat_that_goes_on_reads_only_what_is_new():
    engine = load_engine(from_flat({"engine": "onnxruntime", "device": "cpu"}))
    first = asking.ask(engine, [picture(7, 320, 224)], PROMPT)
    assert first.finish_reason == "stop"
    history = [Turn("user", PROMPT, [picture(7, 320, 224)]), Turn("assistant", first.text)]
    second = asking.ask(engine, [], "And the mug?", history=history)
    assert second.reused_tokens == first.prompt_tokens + first.generated_tokens
    other = asking.ask(engine, [picture(8, 320, 224)], "cube")
    again = asking.ask(engine, [], "And the mug?", history=history)
    assert again.reused_tokens < 5 < other.prompt_tokens, "one sequence lives in the cache"
    assert again.text == second.text
    np.testing.assert_allclose(again.logprobs, second.logprobs, atol=1e-3)
    engine.close()


def test_a_history_is_seen_again_only_after_something_else_ran():
    runtime = Ledger(1000)
    engine = engine_on(runtime)
    said = ask(engine, [PICTURES[0]], "what is this?")
    history = (Turn("user", "what is this?", [PICTURES[0]]), Turn("assistant", said.text))
    ask(engine, [PICTURES[1]], "and this?", history=history)
    assert runtime.encoded == [1, 1], "only the new picture"
    ask(engine, [PICTURES[4]], "and that?")
    ask(engine, [PICTURES[1]], "and this?", history=history)
    assert runtime.encoded == [1, 1, 1, 2], "both, because another question had the cache"


# -- while the answer grows --------------------------------------------------------------------------------------------


def test_a_listener_is_called_by_the_thread_that_asks_and_between_tokens():
    most = 0
    for text in "abcdef":  # what the ledger says is anything, and may end at once
        runtime, heard = Ledger(), []
        listen = lambda part: heard.append((threading.get_ident(), len(runtime.fed), part))  # noqa: B023, E731
        said = ask(engine_on(runtime), [PICTURES[4]], text, on_text=listen)
        assert {thread for thread, _, _ in heard} <= {threading.get_ident()}
        assert "".join(part for _, _, part in heard) == said.text
        most = max(most, len({passes for _, passes, _ in heard}))
    assert most > 3, "not all at the end"


def test_a_cancel_by_the_listener_ends_the_answer_within_a_token():
    runtime, control, heard = Ledger(), Control(), []

    def listen(part: str) -> None:
        heard.append(part)
        control.cancel()

    engine = engine_on(runtime)
    said = ask(engine, [PICTURES[4]], "a", control, on_text=listen)
    passes = len(runtime.fed)
    assert said.finish_reason == "cancelled" and said.text == "".join(heard) and said.forward_passes == passes
    assert ask(engine, [PICTURES[4]], "a").text.startswith(said.text)


@pytest.mark.parametrize(
    "error", [Gone("left"), RuntimeError("a defect"), EngineError("of another engine"), KeyboardInterrupt()]
)
def test_what_a_listener_raises_comes_out_as_it_is_and_the_engine_answers_on(error):
    engine = engine_on(Ledger())
    expected = ask(engine, [PICTURES[4]], "a", stream="left")

    def listen(part: str) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ask(engine, [PICTURES[4]], "a", stream="left", on_text=listen)
    assert caught.value is error
    again = ask(engine, [PICTURES[4]], "a", stream="left")
    assert again.token_ids == expected.token_ids and again.accepted_tokens > 0


# -- errors and limits ---------------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_leaves_an_engine_that_answers():
    runtime = Ledger()
    engine = engine_on(runtime)
    expected = ask(engine, [PICTURES[0]], "a")

    def exhausted(*_, **__):
        raise MemoryError("no more")

    for name in ("encode", "prefill", "step"):
        real = getattr(runtime, name)
        setattr(runtime, name, exhausted)
        with pytest.raises(MemoryError):
            ask(engine, [PICTURES[1]], "b")
        setattr(runtime, name, real)
        assert ask(engine, [PICTURES[0]], "a").token_ids == expected.token_ids


def test_the_device_s_errors_are_turned_into_ours():
    @contextmanager
    def around(doing):
        try:
            yield
        except MemoryError as error:
            raise EngineError(f"no memory while {doing}") from error

    engine = engine_on(Ledger(), around=around)
    engine._runtime.encode = lambda *_: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(EngineError, match="while answering with 1 images"):
        ask(engine, [PICTURES[0]], "a")


def test_a_cut_answer_is_no_draft():
    engine = engine_on(Ledger())
    whole = ask(engine, [PICTURES[0]], "a", stream="left")
    control = Control()
    control.cancel()
    assert ask(engine, [PICTURES[0]], "a", control, stream="left").finish_reason == "cancelled"
    again = ask(engine, [PICTURES[0]], "a", stream="left")
    assert again.token_ids == whole.token_ids and again.accepted_tokens > 0


def test_drafts_are_counted():
    engine = engine_on(Ledger())
    first = ask(engine, [PICTURES[4]], "a", stream="left")
    second = ask(engine, [PICTURES[4]], "a", stream="left")
    other = ask(engine, [PICTURES[4]], "a", stream="right")
    assert (first.drafted_tokens, first.accepted_tokens) == (other.drafted_tokens, other.accepted_tokens)
    assert second.generated_tokens + (second.finish_reason == "stop") == second.forward_passes + second.accepted_tokens
    assert second.forward_passes < first.forward_passes
    unnamed = ask(engine, [PICTURES[4]], "a")
    assert unnamed.drafted_tokens == 0, "without a name nothing is known to follow"


def test_a_prompt_that_does_not_fit():
    engine = engine_on(Ledger(capacity=20))
    with pytest.raises(EngineError, match="the model holds 20; shorten the text, lower generation.max_pixels"):
        ask(engine, [PICTURES[0]], "a" * 100)
    assert ask(engine, [], "a").generated_tokens + ask(engine, [], "a").prompt_tokens <= 20


def test_closed_twice():
    engine = engine_on(Ledger())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        ask(engine, [], "a")


def test_chance_repeats_itself():
    engine = engine_on(Ledger())
    engine.sampling = Sampling(temperature=5.0, top_k=0, top_p=1.0, seed=3)
    first, again = (ask(engine, [], "a", stream="left") for _ in range(2))
    assert first.token_ids == again.token_ids and again.accepted_tokens
    engine.sampling = dataclasses.replace(engine.sampling, seed=4)
    assert ask(engine, [], "a").token_ids != first.token_ids


def test_the_cache_has_room_for_what_is_configured():
    checkpoint = find_checkpoint("")
    assert cache_tokens(checkpoint, Config(), 32) == checkpoint.max_positions == 4096
    large = dataclasses.replace(checkpoint, config={**checkpoint.config, "text_config": {}})
    assert cache_tokens(large, Config(), 32) == 8192
    wide = from_flat({"generation.max_pixels": 16777216, "generation.max_new_tokens": 4096})
    assert cache_tokens(large, wide, 32) == 16384 + 1024 + 4096


# -- the embedded model, drafted and plain -------------------------------------------------------------------------------


def needs(runtime: str) -> None:
    for module in {"torch": ["torch"], "onnxruntime": ["onnxruntime"], "transformers": ["torch", "transformers"]}[
        runtime
    ]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


SMALL_AREA = 160 * 128  # pixels; a fourth of what the model is used to, and still answered with boxes


@lru_cache
def stream_of_pictures() -> list[np.ndarray]:
    """300 pictures at 5 Hz, a third at rest, a third with an object moving, a third with the camera moving; a new scene
    every five seconds, and a sensor's noise, because no camera sends the same picture twice."""
    pytest.importorskip("mujoco")
    from qwen3vl_ros.sim.stream import SimStream

    noise, pictures = np.random.default_rng(0), []
    for motion in ("static", "one_moving", "all_moving"):
        with SimStream(
            70, motion, scene_every_s=5.0, rate_hz=5.0, n_objects=3, width=160, height=128, quality="fast"
        ) as camera:
            for _, view, _ in camera.frames(20.0):
                pictures.append(np.clip(view.rgb + noise.normal(0, 2, view.rgb.shape), 0, 255).astype(np.uint8))
    return pictures


@pytest.mark.parametrize("runtime, every", [("onnxruntime", 1), ("torch", 2), ("transformers", 10)])
def test_drafted_answers_are_the_plain_ones(runtime, every):
    """Token for token. The plain one is given second, on the image that the cache already holds."""
    needs(runtime)
    engine = load_engine(
        from_flat(
            {
                "engine": runtime,
                "device": "cpu",
                "generation.min_pixels": SMALL_AREA,
                "generation.max_pixels": SMALL_AREA,
            }
        )
    )
    drafted_passes = plain_passes = 0
    answers: set[str] = set()
    pictures = stream_of_pictures()[::every]
    for number, rgb in enumerate(pictures):
        drafted = asking.ask(engine, [rgb], PROMPT, stream="camera")
        plain = asking.ask(engine, [rgb], PROMPT)
        assert drafted.token_ids == plain.token_ids and drafted.text == plain.text, f"picture {number}"
        assert drafted.finish_reason == plain.finish_reason
        np.testing.assert_allclose(drafted.logprobs, plain.logprobs, atol=1e-3)
        assert plain.reused_tokens == plain.prompt_tokens - 1 and plain.drafted_tokens == 0
        answers.add(plain.text)
        drafted_passes, plain_passes = drafted_passes + drafted.forward_passes, plain_passes + plain.forward_passes
    engine.close()
    assert len(pictures) * every >= 300 and len(answers) > len(pictures) / 3, "answers worth comparing"
    assert drafted_passes < plain_passes / (3 if every == 1 else 1.2)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch", "transformers"])
def test_reading_on_gives_what_reading_anew_gives(runtime):
    """The same answers and log-probabilities, whatever was asked before."""
    needs(runtime)
    config, limits = from_flat({"engine": runtime, "device": "cpu"}), Limits(12, 3600.0, 4)
    used = load_engine(config)
    pictures = [picture(7, 320, 224), picture(8, 160, 120)]
    for images, prompt in [
        ((0,), "cube"),
        ((0,), "ball"),
        ((1,), "ball"),
        ((0, 1), "ball"),
        ((0, 1), "cube"),
        ((), "ball"),
    ]:
        fresh = load_engine(config)
        ours, theirs = (ask(e, [pictures[i] for i in images], prompt, stream="s", limits=limits) for e in (used, fresh))
        assert ours.token_ids == theirs.token_ids and theirs.reused_tokens <= 5
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-3)
        fresh.close()


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch", "transformers"])
def test_every_runtime_answers_a_chat_with_pictures_and_is_heard_while_it_does(runtime):
    needs(runtime)
    engine, fresh = (load_engine(from_flat({"engine": runtime, "device": "cpu"})) for _ in range(2))
    shown, heard = np.full((480, 640, 3), 170, np.uint8), []
    shown[200:300, 250:350] = (200, 30, 30)
    first = asking.ask(engine, [shown, picture(8, 96, 64)], PROMPT, on_text=heard.append)
    history = [Turn("user", PROMPT, [shown, picture(8, 96, 64)]), Turn("assistant", first.text)]
    parts: list[str] = []
    second = asking.ask(engine, [picture(9, 128, 96)], "And here?", history=history, on_text=parts.append)
    assert "".join(heard) == first.text and "".join(parts) == second.text and len(heard) > 2
    assert second.reused_tokens >= first.prompt_tokens
    anew = asking.ask(fresh, [picture(9, 128, 96)], "And here?", history=history)
    assert second.token_ids == anew.token_ids and anew.reused_tokens < 10
    np.testing.assert_allclose(second.logprobs, anew.logprobs, atol=1e-3)


def test_answers_held_to_a_schema():
    pytest.importorskip("llguidance")
    needs("onnxruntime")
    engine = load_engine(from_flat({"engine": "onnxruntime", "device": "cpu"}))
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["count"],
        "additionalProperties": False,
    }
    guided = [asking.ask(engine, [picture(1, 320, 224)], "How many?", schema=schema, stream=s) for s in ("", "c", "c")]
    for g in guided:
        assert g.finish_reason == "stop" and '"count"' in g.text and np.all(g.logprobs <= 0)
        assert g.token_ids == guided[0].token_ids
    assert guided[0].accepted_tokens > 0, "what the schema forces costs no pass"
    assert guided[2].forward_passes <= guided[0].forward_passes
    with pytest.raises(InvalidInput):
        ask(engine, [], "a", schema={"type": "nonsense"})
