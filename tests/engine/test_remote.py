"""The remote engine against real servers: ours with every fault, and `transformers serve`, killed and started
again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import trustme
from asking import ask
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_server import ModelServer, RedFinder

from qwen3vl_ros.config import Config, GenerationConfig, RemoteConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine import embedded_model_dir, load_engine
from qwen3vl_ros.engine.base import Clip, Limits, Turn
from qwen3vl_ros.engine.remote import faults
from qwen3vl_ros.engine.remote import stream as remote_stream
from qwen3vl_ros.engine.remote.access import CircuitBreaker, base_url
from qwen3vl_ros.engine.remote.engine import RemoteEngine
from qwen3vl_ros.engine.remote.events import EventReader
from qwen3vl_ros.engine.remote.stream import StreamedAnswer
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import EngineError, EngineUnavailable, InvalidInput, ModelNotFound

PATIENCE_S = 90.0  # for what must come

PROMPT = Detect(("cube", "ball", "cylinder", "mug", "bowl")).prompt()
RED = np.zeros((60, 100, 3), np.uint8)
RED[10:30, 20:70] = (220, 10, 10)


@pytest.fixture(scope="module")
def local():
    engine = load_engine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    with SimCamera(320, 240, quality="fast") as camera:
        return camera.render(sample_scene(3), depth=False).rgb


@pytest.fixture
def server():
    with ModelServer(RedFinder()) as served:
        yield served


@pytest.fixture
def engine(server):
    engine = engine_of(server)
    yield engine
    engine.close()


@pytest.fixture
def proven(server, engine):
    """An engine whose server has answered before, so that its fields are beyond doubt."""
    ask(engine, [RED], "?")
    server.requests.clear()
    return engine


def engine_of(server: ModelServer, max_pixels: int = 0, **values) -> RemoteEngine:
    values = {"url": server.url, "timeout": 120.0, "connect_timeout": 60.0} | values
    return RemoteEngine(RemoteConfig(**values), max_pixels)


def limits(**values) -> Limits:
    return Limits.of(GenerationConfig(**{"deadline": 3600.0} | values))


def event(**choice) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {}, **choice}]})


# -- our engine behind a server is our engine ----------------------------------------------------------------


@pytest.mark.parametrize("tokens_per_event", [1, 7])
def test_the_remote_engine_says_what_the_served_engine_says(local, scene, tokens_per_event):
    enough = limits(max_new_tokens=200, repeat_limit=100)
    direct = ask(local, [scene], PROMPT, limits=enough)
    with ModelServer(local, tokens_per_event=tokens_per_event) as server:
        engine = engine_of(server)
        said = ask(engine, [scene], PROMPT, stream="front", limits=enough)
        engine.close()
    assert said.text == direct.text and len(said.text) > 30
    assert (said.finish_reason, said.token_ends) == (direct.finish_reason, direct.token_ends)
    np.testing.assert_allclose(said.logprobs, direct.logprobs, atol=1e-4)
    assert (said.prompt_tokens, said.generated_tokens) == (direct.prompt_tokens, direct.generated_tokens)
    assert said.prefill_s > 0 and said.decode_s >= 0 and said.prompt == PROMPT
    body = server.requests[0]
    assert body["temperature"] == 0 and body["max_tokens"] == 200 and "response_format" not in body


def test_max_new_tokens_is_the_servers_limit(local, scene):
    with ModelServer(local) as server:
        engine = engine_of(server)
        said = ask(engine, [scene], PROMPT, limits=limits(max_new_tokens=5))
        engine.close()
    assert (said.finish_reason, said.generated_tokens) == ("length", 5)


def test_a_server_without_logprobs_gives_none(server):
    server.logprobs = False
    engine = engine_of(server)
    said = ask(engine, [RED], "?")
    assert said.text.startswith("```json") and said.logprobs is None
    assert said.token_ends == () == said.token_ids
    assert engine.status()["logprobs"] == "no" and said.generated_tokens > 10
    engine.close()


@pytest.mark.parametrize("refused", [("logprobs",), ("stream_options",), ("logprobs", "stream_options")])
def test_fields_a_server_refuses_are_left_out_from_then_on(server, engine, refused):
    server.refuses = refused
    for _ in range(2):
        assert ask(engine, [RED], "?").finish_reason == "stop"
    assert len(server.requests) == 2 + len(refused) and not set(refused) & set(server.requests[-1])
    assert engine.status()["remote_retries"] == "0"


def test_a_schema_is_passed_on_and_its_refusal_explained(server, engine):
    schema = {"type": "array", "items": {"type": "object"}}
    ask(engine, [RED], "?", schema=schema)
    assert server.requests[-1]["response_format"]["json_schema"]["schema"] == schema
    server.refuses = ("response_format",)
    with pytest.raises(EngineError, match="JSON schema: ask without one"):
        ask(engine, [RED], "?", schema=schema)


def test_reasoning_of_the_server_is_no_part_of_the_answer(server):
    server.reasoning = "I see a red thing"
    engine = engine_of(server)
    said = ask(engine, [RED], "?")
    assert said.reasoning == "I see a red thing" and said.text.startswith("```json")
    assert said.logprobs is not None and said.token_ends[-1] == len(said.text)
    engine.close()


# -- images --------------------------------------------------------------------------------------------------


class Recorder(RedFinder):
    """Keeps what it was shown."""

    def generate(self, prompt, limits, control=None, on_text=None):
        self.images = prompt.images
        return super().generate(prompt, limits)


@pytest.mark.parametrize("transport", ["base64", "file"])
def test_images_arrive_lossless_and_in_order(tmp_path, transport):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((37, 53), (1, 200), (64, 8))]
    shared = tmp_path / "with space"
    shared.mkdir()
    with ModelServer(seen := Recorder()) as server:
        folder = str(shared) if transport == "file" else ""
        engine = engine_of(server, image_transport=transport, image_dir=folder)
        ask(engine, [*images, images[0][:, ::2]], "?")
        engine.close()
    for sent, arrived in zip([*images, images[0][:, ::2]], seen.images, strict=True):
        np.testing.assert_array_equal(sent, arrived)
    urls = [part["image_url"]["url"][:5] for part in server.requests[0]["messages"][0]["content"][:-1]]
    assert urls == [{"base64": "data:", "file": "file:"}[transport]] * 4
    assert list(shared.iterdir()) == []


def test_files_are_removed_also_when_the_answer_fails(server, tmp_path):
    engine = engine_of(server, image_transport="file", image_dir=str(tmp_path))
    server.faults.append("reset mid-stream")
    with pytest.raises(EngineUnavailable):
        ask(engine, [RED], "?")
    assert list(tmp_path.iterdir()) == []
    engine.close()


def test_max_pixels_makes_images_smaller_and_keeps_their_shape(tmp_path):
    with ModelServer(seen := Recorder()) as server:
        engine = engine_of(server, max_pixels=5000)
        ask(engine, [np.zeros((200, 400, 3), np.uint8), np.zeros((50, 100, 3), np.uint8)], "?")
        engine.close()
    assert [i.shape for i in seen.images] == [(50, 100, 3), (50, 100, 3)]


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), [1]])
def test_what_is_no_image_is_refused_before_it_is_sent(server, engine, bad):
    with pytest.raises(InvalidInput, match="HxWx3 uint8"):
        ask(engine, [bad], "?")
    assert not server.requests


# -- chats ---------------------------------------------------------------------------------------------------


class Listener(RedFinder):
    """Keeps what it was asked."""

    def generate(self, prompt, limits, control=None, on_text=None):
        self.prompt = prompt
        return super().generate(prompt, limits)


def test_a_history_arrives_with_its_pictures_at_their_turns():
    pictures = [np.full((20 + n, 30, 3), n, np.uint8) for n in range(4)]
    history = [
        Turn("user", "看这两张", pictures[:2]),
        Turn("assistant", "两个杯子"),
        Turn("user", "and this?", [pictures[2]]),
        Turn("assistant", "a bowl"),
    ]
    with ModelServer(served := Listener()) as server:
        engine = engine_of(server)
        ask(engine, [pictures[3]], "which is nearest?", history=history)
        engine.close()
    arrived = served.prompt.turns
    assert [(t.role, t.text) for t in arrived] == [(t.role, t.text) for t in history] + [("user", "which is nearest?")]
    for turn, sent in zip(arrived, [pictures[:2], [], [pictures[2]], [], [pictures[3]]], strict=True):
        for ours, theirs in zip(turn.images, sent, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert server.requests[0]["messages"][1] == {"role": "assistant", "content": "两个杯子"}


@pytest.mark.parametrize("where", ["now", "before"])
def test_a_clip_is_refused_by_name_and_not_sent(server, engine, where):
    clip = Clip([RED, RED], [0.0, 0.5])
    history = [Turn("user", "?", clip=clip), Turn("assistant", "!")] if where == "before" else []
    with pytest.raises(InvalidInput, match="'remote' cannot send a clip.*as images, or run the model here"):
        ask(engine, [RED], "?", clip=clip if where == "now" else None, history=history)
    assert not server.requests and engine.health.state == "closed"


# -- the answer while it grows -------------------------------------------------------------------------------


def test_the_parts_of_an_answer_come_to_the_thread_that_asked(server, engine):
    ask(engine, [RED], "?")  # after its first answer it is known that the model does not think
    heard = []
    said = ask(engine, [RED], "?", on_text=lambda part: heard.append((threading.get_ident(), part)))
    assert "".join(part for _, part in heard) == said.text and len(heard) > 20
    assert {thread for thread, _ in heard} == {threading.get_ident()}


def test_a_part_is_heard_before_the_server_says_the_next(server, engine):
    """This one never does: only a listener that was called can end the answer."""
    whole = ask(engine, [RED], "?").text
    server.faults.append("hang mid-stream")
    control, heard = Control(), []

    def listen(part: str) -> None:
        heard.append(part)
        control.cancel()

    said = ask(engine, [RED], "?", control, on_text=listen)
    assert said.finish_reason == "cancelled" and "".join(heard) == said.text and whole.startswith(said.text)


def test_the_first_answer_of_a_model_nobody_knows_comes_when_it_is_known_to_be_no_thought(server):
    for _ in range(2):
        engine, heard = engine_of(server), []
        said = ask(engine, [RED], "?", on_text=heard.append)
        assert heard == [said.text]
        heard.clear()
        ask(engine, [RED], "?", on_text=heard.append)
        assert len(heard) > 20 and "".join(heard) == said.text
        engine.close()


def test_an_answer_begins_at_once_where_the_server_takes_the_thoughts_apart(server):
    server.reasoning = "I see a red thing"
    engine, heard = engine_of(server), []
    said = ask(engine, [RED], "?", on_text=heard.append)
    assert "".join(heard) == said.text and len(heard) > 20
    engine.close()


THOUGHTS_FIRST = "It is red [3, 4, 5, 6].\n</think>\n\n"


class Thinker(RedFinder):
    """Writes its thoughts before its answer and into the same text, as a Thinking model behind a plain server does."""

    def generate(self, prompt, limits, control=None, on_text=None):
        said = super().generate(prompt, limits, control, on_text)
        text = THOUGHTS_FIRST + said.text
        text, reason = (
            (text, "stop") if len(text) <= limits.max_new_tokens else (text[: limits.max_new_tokens], "length")
        )
        ids, ends = (0,) * len(text), tuple(range(1, len(text) + 1))
        scores = np.zeros(len(text), np.float32)
        return dataclasses.replace(
            said, text=text, token_ids=ids, token_ends=ends, logprobs=scores, finish_reason=reason
        )


def test_a_thinking_model_behind_an_alias_is_known_by_its_answer():
    with ModelServer(Thinker(), models=("robot-brain",)) as server:
        engine = load_tested_engine(Config(engine="remote", remote=RemoteConfig(url=server.url)))
        assert engine.info.thinking and engine.status()["self_test"] == "passed"
        cut = ask(engine, [RED], "?", limits=limits(max_new_tokens=10))
        assert (cut.text, cut.reasoning, cut.finish_reason) == ("", "It is red", "length")
        engine.close()


def test_a_name_makes_no_thinking_model():
    with ModelServer(RedFinder(), models=("no-thinking-please",)) as server:
        engine = load_tested_engine(Config(engine="remote", remote=RemoteConfig(url=server.url)))
        assert not engine.info.thinking and engine.status()["self_test"] == "passed"
        heard: list[str] = []
        said = ask(engine, [RED], "?", on_text=heard.append)
        assert "".join(heard) == said.text and len(heard) > 20, "its answer is heard as it comes"
        engine.close()


def test_thoughts_that_a_server_takes_apart_are_told():
    with ModelServer(RedFinder()) as server:
        server.reasoning = "I see a red thing"
        engine = engine_of(server)
        assert not engine.info.thinking
        ask(engine, [RED], "?")
        assert engine.info.thinking
        engine.close()


class Stop(Exception):
    """Of a listener that has heard enough."""


@pytest.mark.parametrize("error", [Stop(), EngineError("of the listener"), KeyboardInterrupt()], ids=repr)
def test_what_a_listener_raises_ends_the_request_and_is_no_failure_of_the_server(server, engine, error):
    ask(engine, [RED], "?")
    server.token_delay_s = 0.03

    def listen(part: str) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ask(engine, [RED], "?", on_text=listen)
    assert caught.value is error and server.cut.wait(PATIENCE_S), "the server was not told"
    assert engine.health.failures == 0
    server.token_delay_s = 0
    assert ask(engine, [RED], "?").finish_reason == "stop"


def test_what_was_heard_before_a_failure_was_not_heard_twice(server, engine):
    """An answer that has begun is not asked for again."""
    whole = ask(engine, [RED], "?").text
    server.faults.append("end mid-stream")
    heard: list[str] = []
    with pytest.raises(EngineUnavailable):
        ask(engine, [RED], "?", on_text=heard.append)
    assert heard and whole.startswith("".join(heard)) and len(server.requests) == 2


# -- cancel and deadline -------------------------------------------------------------------------------------


def test_cancel_ends_the_answer_within_a_chunk_and_keeps_what_came(server, proven):
    whole = ask(proven, [RED], "?").generated_tokens
    server.token_delay_s = 0.3
    control, heard = Control(), []

    def hear(text):
        heard.append(text)
        if len(heard) == 3:
            control.cancel()

    said = ask(proven, [RED], "?", control, on_text=hear)
    assert said.finish_reason == "cancelled" and 3 <= said.generated_tokens < whole
    assert said.text == '```json\n[{"bbox_2d": [200, 166.667, 700, 500], "label": "red'[: len(said.text)]
    assert len(said.logprobs) == len(said.token_ends) and said.token_ends[-1] == len(said.text)
    assert server.cut.wait(PATIENCE_S), "the server was not told"
    assert proven.health.state == "closed" and proven.health.failures == 0
    server.token_delay_s = 0
    assert ask(proven, [RED], "?").finish_reason == "stop"


@pytest.mark.parametrize("fault", ["hang", "hang after headers", "hang mid-stream"])
def test_cancel_and_deadline_do_not_wait_for_a_silent_server(server, fault):
    engine = engine_of(server, timeout=600.0)  # the test would not end
    for reason in ("cancelled", "deadline"):
        server.cut.clear()
        server.faults.append(fault)
        begins = fault == "hang mid-stream"
        for seconds in (0.4, 2.0, 10.0, 50.0):  # a slow machine takes longer to begin
            control = Control(seconds if reason == "deadline" else None)
            if reason == "cancelled":
                threading.Timer(seconds, control.cancel).start()
            said = ask(engine, [RED], "?", control)
            assert said.finish_reason == reason
            if bool(said.text) == begins:
                break
            server.faults.append(fault)
        assert bool(said.text) == begins
        assert server.cut.wait(PATIENCE_S)
    engine.close()


def test_the_deadline_of_the_configuration_counts_without_one_of_the_caller(server):
    engine = engine_of(server)
    server.token_delay_s = 0.05
    assert ask(engine, [RED], "?", limits=limits(deadline=0.3)).finish_reason == "deadline"
    engine.close()


def test_a_request_that_is_over_is_not_sent(server, engine):
    control = Control()
    control.cancel()
    assert ask(engine, [RED], "?", control).finish_reason == "cancelled"
    assert ask(engine, [RED], "?", Control(0.0)).finish_reason == "deadline"
    assert not server.requests


# -- faults --------------------------------------------------------------------------------------------------

FAULTS = [  # fault, error, words of the message
    ("400 context", EngineError, "do not fit the server's context: lower generation.max_new_tokens"),
    ("400 odd", EngineError, "answered 400: no such thing"),
    ("401", EngineError, "answered 401.*remote.api_key_env"),
    ("403", EngineError, "answered 403.*remote.api_key_env"),
    ("404", ModelNotFound, "does not exist.*check remote.url and remote.model"),
    ("302", EngineError, "redirects are not followed"),
    ("garbage status", EngineError, "answered 418"),
    ("500", EngineUnavailable, "answered 500: boom"),
    ("hang", EngineUnavailable, "silent for more than remote.timeout = 2 s, 0 tokens"),
    ("hang mid-stream", EngineUnavailable, "silent for more than remote.timeout = 2 s, 4 tokens"),
    ("reset mid-stream", EngineUnavailable, "broke the connection 4 tokens into the answer"),
    ("end mid-stream", EngineUnavailable, "ended its answer after 4 tokens without saying why"),
    ("done early", EngineError, "after 4 tokens without a finish_reason"),
    ("abort", EngineError, "after 4 tokens with finish_reason 'abort'"),
    ("malformed", EngineError, "no event stream, it holds 'bogus'"),
    ("garbage JSON", EngineError, "no JSON: '{\"choices\": \\['"),
    ("no object", EngineError, "no JSON object: '7'"),
    ("odd choices", EngineError, "no list of choices"),
    ("odd content", EngineError, "text that is no string"),
    ("not UTF-8", EngineError, "not UTF-8"),
    ("error event", EngineError, "failed while answering: out of memory"),
    ("json", EngineError, "application/json instead of a stream"),
]


@pytest.mark.parametrize("fault, error, words", FAULTS, ids=[f[0] for f in FAULTS])
def test_a_fault_is_named_and_not_asked_for_again(server, fault, error, words):
    engine = engine_of(server, **({"timeout": 2.0} if fault.startswith("hang") else {}))
    ask(engine, [RED], "?")
    server.requests.clear()
    server.faults.append(fault)
    with pytest.raises(error, match=words) as caught:
        ask(engine, [RED], "?")
    assert type(caught.value) is error and len(server.requests) == 1
    assert ask(engine, [RED], "?").finish_reason == "stop", "one failure must not harm the next answer"
    engine.close()


@pytest.mark.parametrize("fault", ["reset", "closed", "503", "429", "503 later"])
def test_what_gave_no_answer_is_asked_again(server, engine, fault):
    retries = int(engine.status()["remote_retries"])
    server.faults.append(fault)
    started = time.monotonic()
    said = ask(engine, [RED], "?")
    assert said.finish_reason == "stop" and len(server.requests) == 2
    assert engine.status()["remote_retries"] == str(retries + 1)
    if fault == "503 later":
        assert time.monotonic() - started >= 0.7, "Retry-After was not honoured"
    assert engine.health.failures == 0


@pytest.mark.parametrize("retries, requests", [(0, 1), (2, 3)])
def test_retries_are_counted_and_end(server, retries, requests):
    engine = engine_of(server, retries=retries)
    server.faults.extend(["503"] * 9)
    with pytest.raises(EngineUnavailable, match="answered 503: loading"):
        ask(engine, [RED], "?")
    assert len(server.requests) == requests
    engine.close()


def retry_after_s(value):
    return faults.retry_after_s(httpx.Response(503, headers={"Retry-After": value}))


@pytest.mark.parametrize(
    "value, seconds", [("3", 3), ("0.5", 0.5), ("", 0), ("soon", 0), ("-5", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)]
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_s(value) == seconds


def test_retry_after_counts_from_now_to_its_date():
    assert 900 <= retry_after_s(email.utils.formatdate(time.time() + 1000, usegmt=True)) <= 1000


def test_no_attempt_is_made_past_the_deadline(server, engine):
    server.faults.append("503 much later")  # in an hour
    with pytest.raises(EngineUnavailable, match="503.*leaves no time for another attempt"):
        ask(engine, [RED], "?", Control(600.0))
    assert len(server.requests) == 1


def test_what_follows_the_end_of_an_answer_cannot_spoil_it(server):
    engine = engine_of(server, timeout=600.0)  # whoever waits for more does not come to an end
    for fault in ("hang after end", "reset after end"):
        server.faults.append(fault)
        said = ask(engine, [RED], "?")
        assert said.finish_reason == "stop" and said.text.endswith("```")
    engine.close()


def test_a_server_that_ignores_max_tokens_is_stopped():
    answer = StreamedAnswer(max_new_tokens=5, repeat_limit=4)
    for letter in "abcdef":
        answer.add(event(delta={"content": letter}))
    assert answer.complete and answer.finish_reason == "length"


def test_an_answer_of_exclamation_marks_names_the_broken_build():
    answer = StreamedAnswer(1000, 4)
    with pytest.raises(EngineError, match="broken FP8 build"):
        for _ in range(60):
            answer.add(event(delta={"content": "!"}))


@pytest.mark.parametrize("with_logprobs", [True, False])
def test_an_answer_that_goes_round_in_circles_is_stopped(with_logprobs):
    class Parrot(RedFinder):
        def generate(self, prompt, limits, control=None, on_text=None):
            said = super().generate(prompt, limits)
            text = "[" + '{"bbox_2d": [1, 2, 3, 4], "label": "cube"}, ' * 50
            n = len(text)
            return dataclasses.replace(
                said,
                text=text,
                token_ids=tuple(range(n)),
                token_ends=tuple(range(1, n + 1)),
                logprobs=np.zeros(n, np.float32),
            )

    with ModelServer(Parrot(), logprobs=with_logprobs) as server:
        engine = engine_of(server)
        said = ask(engine, [RED], "?", limits=limits(repeat_limit=4))
        engine.close()
    assert said.finish_reason == "repeat" and said.text.count("bbox_2d") in (4, 5)


# -- the breaker ---------------------------------------------------------------------------------------------


def test_the_breaker_opens_waits_longer_each_time_and_closes_with_the_first_answer():
    now = [100.0]
    breaker = CircuitBreaker(lambda: now[0])
    pauses = []
    for n in range(12):
        assert breaker.state == ("closed" if n < 3 else "half-open")
        breaker.failed(EngineError(f"failure {n}"))
        pauses.append(breaker.wait_s)
        now[0] += breaker.wait_s
    assert pauses[:6] == [0, 0, 1, 2, 4, 8] and max(pauses) == 30 and breaker.last_error == "failure 11"
    breaker.failed(EngineError("again"))
    assert breaker.state == "open"
    breaker.succeeded()
    assert breaker.state == "closed" and breaker.last_error == "again"


def test_an_open_breaker_answers_at_once_and_lets_one_attempt_through_later(server, proven, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(proven.health, "_clock", lambda: now[0])
    server.faults.extend(["500"] * 3 + ["503"])
    for _ in range(3):
        with pytest.raises(EngineUnavailable, match="500"):
            ask(proven, [RED], "?")
    assert proven.status()["circuit"] == "open" and "boom" in proven.status()["last_remote_error"]
    with pytest.raises(EngineUnavailable, match="not asked for another .* after 3 failures.*boom"):
        ask(proven, [RED], "?")
    assert len(server.requests) == 3
    now[0] += proven.health.wait_s
    assert proven.status()["circuit"] == "half-open"
    with pytest.raises(EngineUnavailable, match="503"):
        ask(proven, [RED], "?")
    assert len(server.requests) == 4, "half-open, one attempt is all"
    assert proven.health.state == "open" and proven.health.wait_s > 1.2
    now[0] += proven.health.wait_s
    assert ask(proven, [RED], "?").finish_reason == "stop" and proven.status()["circuit"] == "closed"


def test_refusals_do_not_open_the_breaker_but_nonsense_does(server, engine, monkeypatch):
    monkeypatch.setattr(engine.health, "_clock", lambda: 100.0)
    server.faults.extend(["401"] * 4 + ["malformed"] * 3)
    for _ in range(4):
        with pytest.raises(EngineError, match="401"):
            ask(engine, [RED], "?")
    assert engine.health.state == "closed"
    for _ in range(3):
        with pytest.raises(EngineError, match="bogus"):
            ask(engine, [RED], "?")
    assert engine.health.state == "open"


# -- the way there: models, key, TLS -------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineUnavailable, match=f"cannot connect to {url}/v1 .*is the server running"):
            RemoteEngine(RemoteConfig(url=url, retries=1))


def test_the_model_must_be_served():
    with ModelServer(RedFinder(), models=("a", "b/c")) as server:
        with pytest.raises(ModelNotFound, match="remote.model = 'c'; it serves: a, b/c"):
            engine_of(server, model="c")
        with pytest.raises(ModelNotFound, match="serves 2 models: a, b/c; name one"):
            engine_of(server)
        engine = engine_of(server, model="b/c")
        ask(engine, [RED], "?")
        assert engine.info.model == "b/c" == server.requests[-1]["model"] == engine.status()["remote_model"]
        engine.close()
        server.models = ["Qwen/Qwen3-VL-2B-Thinking"]
        engine = engine_of(server)
        assert engine.info.thinking and engine.info.runtime == "remote"
        assert engine.info.device.startswith("127.0.0.1:")
        engine.close()
        server.models_status = 404
        with pytest.raises(ModelNotFound, match="remote.model must name it"):
            engine_of(server)
        engine_of(server, model="b/c").close()


def test_an_address_that_is_no_api_says_so(tmp_path):
    with ModelServer(RedFinder()) as server:
        with pytest.raises(ModelNotFound, match="check remote.url"):
            RemoteEngine(RemoteConfig(url=server.url.replace("/v1", "/v2")))


@pytest.mark.parametrize(
    "url, base",
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("https://host/vllm/v1/", "https://host/vllm/v1"),
        (" http://[::1]:80/v1 ", "http://[::1]:80/v1"),
    ],
)
def test_the_base_of_an_address(url, base):
    assert base_url(url) == base


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:8000",
        "ftp://host/v1",
        "http://",
        "http://host:99999",
        "http://host/v1?x=1",
        "http://host/v1/chat/completions",
    ],
)
def test_an_address_that_cannot_be_is_refused(url):
    with pytest.raises(InvalidInput, match="remote.url"):
        RemoteEngine(RemoteConfig(url=url))


def test_credentials_in_the_address_are_refused_and_not_shown():
    with pytest.raises(InvalidInput, match="credentials") as caught:
        RemoteEngine(RemoteConfig(url="http://user:s3cret@host/v1"))
    assert "s3cret" not in str(caught.value)


def test_the_key_travels_in_a_header_and_appears_nowhere_else(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SERVER_KEY", " k3y-5ecret\n")
    with ModelServer(RedFinder(), api_key="k3y-5ecret") as server:
        engine = engine_of(server, api_key_env="SERVER_KEY")
        ask(engine, [RED], "?")
        assert server.headers[-1]["Authorization"] == "Bearer k3y-5ecret"
        texts = [repr(engine.__dict__["_client"].headers), str(engine.status()), str(engine.info)]
        for fault in ("401", "403"):
            server.faults.append(fault)
            with pytest.raises(EngineError, match=r"\[key\]") as caught:
                ask(engine, [RED], "?")
            texts.append(str(caught.value))
        engine.close()
        monkeypatch.setenv("SERVER_KEY", "wrong-k3y")
        with pytest.raises(EngineError, match=r"401.*\[key\].*remote.api_key_env") as caught:
            engine_of(server, api_key_env="SERVER_KEY")
        texts.append(str(caught.value))
    assert "k3y" not in " ".join(texts) + caplog.text


@pytest.mark.parametrize(
    "value, words", [(None, "is not set"), ("", "is not set"), ("a\x01b", "no key"), ("schlüssel", "no key")]
)
def test_a_key_that_cannot_be_is_refused_without_showing_it(monkeypatch, server, value, words):
    if value is None:
        monkeypatch.delenv("ODD_KEY", raising=False)
    else:
        monkeypatch.setenv("ODD_KEY", value)
    with pytest.raises(InvalidInput, match=words) as caught:
        engine_of(server, api_key_env="ODD_KEY")
    assert "ODD_KEY" not in str(caught.value), "somebody may have put the key itself there"
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]", "[::ffff:8.8.8.8]", "no-such-host.invalid"])
def test_a_key_does_not_go_unencrypted_into_a_public_network(monkeypatch, host):
    monkeypatch.setenv("SERVER_KEY", "k3y")
    with pytest.raises(InvalidInput, match="neither encrypted nor in a private network"):
        RemoteEngine(RemoteConfig(url=f"http://{host}:8000", api_key_env="SERVER_KEY"))


def test_nothing_unencrypted_goes_through_a_proxy_of_the_environment(monkeypatch, server):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    engine = engine_of(server)
    assert ask(engine, [RED], "?").finish_reason == "stop"
    engine.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str, str]:
    """Files: the server's certificate, its key, and the authority that signed it."""
    folder = tmp_path_factory.mktemp("tls")
    paths = str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "authority.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(paths[2])
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    return paths


def test_certificates_are_verified(monkeypatch, certificate, tmp_path):
    monkeypatch.setenv("SERVER_KEY", "k3y")
    with ModelServer(RedFinder(), certificate=certificate[:2], api_key="k3y") as server:
        with pytest.raises(EngineError, match="certificate of https.* not trusted.*remote.ca_file") as caught:
            engine_of(server, api_key_env="SERVER_KEY")
        assert not isinstance(caught.value, EngineUnavailable), "waiting does not help"
        engine = engine_of(server, api_key_env="SERVER_KEY", ca_file=certificate[2])
        assert ask(engine, [RED], "?").finish_reason == "stop"
        engine.close()
    for path in (tmp_path / "none.pem", Path(__file__)):
        with pytest.raises(InvalidInput, match="remote.ca_file"):
            engine_of(server, ca_file=str(path))


@pytest.mark.parametrize("folder", ["", "relative", "/no/such/folder"])
def test_files_need_a_shared_directory(server, folder):
    with pytest.raises(InvalidInput, match="remote.image_dir"):
        engine_of(server, image_transport="file", image_dir=folder)


def test_an_engine_that_nobody_closed_lets_its_process_end(server):
    code = (
        "from qwen3vl_ros.config import RemoteConfig; "
        "from qwen3vl_ros.engine.remote.engine import RemoteEngine; "
        f"engine = RemoteEngine(RemoteConfig(url={server.url!r})); print(engine.info.model)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (done.returncode, done.stdout) == (0, "embedded\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_the_engine_works_inside_somebody_elses_event_loop(server):
    async def ask_there():
        engine = engine_of(server)
        try:
            return ask(engine, [RED], "?").finish_reason
        finally:
            engine.close()

    assert asyncio.run(ask_there()) == "stop"


def test_a_closed_engine_says_so(server):
    engine = engine_of(server)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        ask(engine, [RED], "?")


# -- reading a stream ----------------------------------------------------------------------------------------

STREAM = (': ping\n\ndata: {"a": "ü"}\r\n\r\nevent: x\nid: 3\ndata: one\ndata: two\n\ndata:[DONE]\n\n').encode()


@given(st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_events_do_not_depend_on_how_the_bytes_were_cut(cuts):
    reader, events = EventReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(STREAM)]):
        events += reader.feed(STREAM[start:end])
    assert events == ['{"a": "ü"}', "one\ntwo", "[DONE]"]


def test_an_endless_line_is_no_event():
    reader = EventReader()
    with pytest.raises(EngineError, match="no stream of an answer"):
        for _ in range(6):
            reader.feed(b"data: " + b"x" * (1 << 20))


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), st.data())
def test_tokens_that_cut_characters_keep_their_places(text, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12, unique=True)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)]) if b > a]
    said = [(piece, -float(i)) for i, piece in enumerate(pieces)]
    # As servers show parts of characters:
    shown = [(p if _whole(p) else "\ufffd".encode(), v) for p, v in said]
    for offered in (said, said + [(b"<|im_end|>", -9.0)], shown):
        aligned = remote_stream._aligned(raw, offered)
        assert aligned is None or b"".join(aligned[0]) == raw and len(aligned[0]) == len(aligned[1])
        if offered is not shown and not text.endswith("<|im_end|>"):
            assert aligned == (pieces, [v for _, v in said])


def _whole(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


def test_a_character_over_two_tokens_whose_bytes_the_server_hides():
    answer = StreamedAnswer(100, 4)
    broken = {"token": "\ufffd", "bytes": list("\ufffd".encode()), "logprob": -0.5}
    first, last = {"token": "a", "logprob": -0.1, "bytes": None}, {"token": "b", "logprob": -0.2}
    for content, token in (("a", first), ("", broken), ("😀", broken), ("b", last)):
        answer.add(event(delta={"content": content}, logprobs={"content": [token]}))
    said = answer.generation("stop", "", (0, 0, 0))
    assert said.text == "a😀b" and said.token_ends == (1, 1, 2, 3)
    np.testing.assert_allclose(said.logprobs, [-0.1, -0.5, -0.5, -0.2])


def test_surrogates_over_two_events_are_one_character():
    answer = StreamedAnswer(100, 4)
    answer.add('{"choices": [{"delta": {"content": "a\\ud83d"}}]}')
    answer.add('{"choices": [{"delta": {"content": "\\ude00 \\ud83d"}, "finish_reason": "stop"}]}')
    assert answer.generation("stop", "", (0, 0, 0)).text == "a😀 \ufffd"


LOGPROBS = [
    ("missing in one chunk", None),
    ("not a number", [{"token": "b", "logprob": None}]),
    ("infinite", [{"token": "b", "logprob": float("-inf")}]),
    ("another text", [{"token": "x", "logprob": -1.0}]),
    ("no token", [{"logprob": -1.0}]),
    ("no objects", [7]),
]


@pytest.mark.parametrize("second", [s for _, s in LOGPROBS], ids=[n for n, _ in LOGPROBS])
def test_log_probabilities_that_do_not_fit_the_text_are_none(second):
    answer = StreamedAnswer(100, 4)
    answer.add(event(delta={"content": "a"}, logprobs={"content": [{"token": "a", "logprob": -0.1}]}))
    answer.add(event(delta={"content": "b"}, logprobs={"content": second} if second else None))
    said = answer.generation("stop", "", (0, 0, 0))
    assert said.text == "ab" and said.logprobs is None and said.token_ends == ()


THOUGHTS = [  # content, thinking model, finish, text, reasoning
    ("<think>hm</think>[]", None, "stop", "[]", "hm"),
    ("hm</think>\n[]", None, "stop", "[]", "hm"),
    ("hm", True, "length", "", "hm"),
    ("[]", True, "stop", "[]", ""),
    ("[]", None, "length", "[]", ""),
]


@pytest.mark.parametrize("content, thinking, finish, text, reasoning", THOUGHTS)
def test_thoughts_in_the_content_are_no_answer(content, thinking, finish, text, reasoning):
    answer = StreamedAnswer(100, 4, thinking)
    for letter in content:
        token = {"token": letter, "logprob": -0.1}
        answer.add(event(delta={"content": letter}, logprobs={"content": [token]}))
    said = answer.generation(finish, "", (0, 0, 0))
    assert (said.text, said.reasoning) == (text, reasoning) and len(said.logprobs) == len(text)


SPOKEN = st.lists(
    st.sampled_from(["<think>", "</think>", "</thi", "nk>", " ", "\n", "杯", "[1]", "\ud83d", "\ude00"])
    | st.text(st.characters(), max_size=4),
    max_size=10,
)


@settings(max_examples=300)
@given(SPOKEN, SPOKEN, st.sampled_from([None, True, False]), st.sampled_from(["stop", "length", "cancelled"]))
def test_the_parts_are_together_the_answer_however_it_was_cut(reasoning, content, thinks, finish):
    heard: list[str] = []
    answer, silent = StreamedAnswer(1000, 100, thinks, heard.append), StreamedAnswer(1000, 100, thinks)
    for each in (answer, silent):
        for piece in reasoning:
            each.add(event(delta={"reasoning_content": piece}))
        for piece in content:
            each.add(event(delta={"content": piece}))
    said, unheard = (each.generation(finish, "", (0, 0, 0)) for each in (answer, silent))
    assert "".join(heard) == said.text
    if thinks is not False:
        assert (said.text, said.reasoning) == (unheard.text, unheard.reasoning)
    assert answer.thinks in (thinks, True, False) and (thinks is None or answer.thinks is not None)


FIELDS = st.sampled_from(
    [
        "choices",
        "delta",
        "content",
        "logprobs",
        "usage",
        "error",
        "finish_reason",
        "token",
        "logprob",
        "bytes",
        "message",
        "object",
        "reasoning_content",
    ]
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda v: st.lists(v, max_size=3) | st.dictionaries(FIELDS, v, max_size=4),
        max_leaves=12,
    )
)
def test_an_event_is_taken_or_is_an_engine_error(value):
    answer = StreamedAnswer(100, 4)
    try:
        answer.add(json.dumps(value))
    except EngineError:
        return
    answer.generation("stop", "", (0, 0, 0))


# -- the reference's own server, killed and started again ----------------------------------------------------


def unused_port() -> int:
    """Of those that the system gives to nobody by itself, so that it is still unused when the server has started."""
    ports = list(range(20_000, 30_000))
    random.shuffle(ports)
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is unused")


class TransformersServe:
    """`transformers serve` with the embedded model, laid out as a hub cache so that it is listed."""

    MODEL = "qwen3vl/embedded"

    def __init__(self, folder: Path):
        self._folder = folder
        repository = folder / "hub" / f"models--{self.MODEL.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("1" * 40)
        for directory in (snapshot, repository / "refs", repository / "blobs"):
            directory.mkdir(parents=True)
        (repository / "refs" / "main").write_text("1" * 40)
        for file in embedded_model_dir().iterdir():
            (snapshot / file.name).symlink_to(file)
        self._port = unused_port()
        self.url = f"http://127.0.0.1:{self._port}/v1"
        environment = os.environ | {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
        with open(folder / "log", "a") as log:
            self._launcher = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).parents[1] / "helpers" / "serve_transformers.py"),
                    self.MODEL,
                    "--device",
                    "cpu",
                    "--dtype",
                    "float32",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(self._port),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        self.pid = 0

    def start(self) -> None:
        """A new process that serves; returns when it answers."""
        print("start", file=self._launcher.stdin, flush=True)
        line = self._launcher.stdout.readline()
        assert line, (self._folder / "log").read_text()[-3000:]
        self.pid = int(line)
        for _ in range(1200):
            try:
                if httpx.get(self.url.replace("/v1", "/health"), trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                if not psutil.pid_exists(self.pid):
                    break
                time.sleep(0.1)
        pytest.fail("transformers serve did not start: " + (self._folder / "log").read_text()[-3000:])

    def kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(self.pid, signal.SIGKILL)
            self.pid = 0

    def close(self) -> None:
        self.kill()
        self._launcher.kill()
        self._launcher.communicate()


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    running = TransformersServe(tmp_path_factory.mktemp("serve"))
    yield running
    running.close()


@pytest.fixture(scope="module", autouse=True)
def early(serve):
    """It takes half of all the time to start, so it starts beside the first tests."""


def test_transformers_serve_is_one_of_the_servers_and_survives_its_death(serve, local, scene, monkeypatch):
    serve.start()
    enough = limits(max_new_tokens=200, repeat_limit=100)
    direct = ask(local, [scene], PROMPT, limits=enough)
    config = RemoteConfig(url=serve.url, timeout=240.0, connect_timeout=60.0, retries=1)
    engine = load_tested_engine(Config(remote=config))
    assert engine.info.model == serve.MODEL
    assert engine.status()["self_test"].split(":")[0] in ("passed", "inconclusive")
    said = ask(engine, [scene], PROMPT, limits=enough)
    assert said.finish_reason == "stop" == direct.finish_reason and said.text == direct.text
    assert said.logprobs is None and engine.status()["logprobs"] == "no"
    assert (said.prompt_tokens, said.generated_tokens) == (direct.prompt_tokens, direct.generated_tokens + 1)
    with pytest.raises(ModelNotFound, match=f"it serves: {serve.MODEL}"):
        RemoteEngine(dataclasses.replace(config, model="Qwen/Qwen3-VL-2B-Instruct"))
    take, now = StreamedAnswer.add, [100.0]

    def take_slowly(answer, data):
        take(answer, data)
        time.sleep(0.05)

    with monkeypatch.context() as patch:  # a fast machine has answered before any deadline
        patch.setattr(StreamedAnswer, "add", take_slowly)
        assert ask(engine, [scene], PROMPT, Control(0.3)).finish_reason == "deadline"

    def take_and_kill(answer, data):
        take(answer, data)
        if answer.tokens == 5:
            serve.kill()

    with monkeypatch.context() as patch:
        patch.setattr(StreamedAnswer, "add", take_and_kill)
        with pytest.raises(EngineUnavailable, match=r"broke the connection \d+ tokens into the answer"):
            ask(engine, [scene], PROMPT)
    monkeypatch.setattr(
        engine.health, "_clock", lambda: now[0]
    )  # which stands still: the pause is not over before the test looks
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="cannot connect"):
            ask(engine, [scene], PROMPT)
    assert engine.status()["circuit"] == "open" and "cannot connect" in engine.status()["last_remote_error"]

    serve.start()
    now[0] += engine.health.wait_s
    assert engine.status()["circuit"] == "half-open"
    assert ask(engine, [scene], PROMPT).text == said.text
    assert engine.status()["circuit"] == "closed" and engine.status()["failures_in_a_row"] == "0"
    engine.close()
