"""What servers really send over a socket: streams by the standard, errors told in any way, models that load, odd ends."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from asking import ask
from hypothesis import given
from hypothesis import strategies as st
from remote_server import RESET, ModelServer, RedFinder

from qwen3vl_ros.config import Config, RemoteConfig
from qwen3vl_ros.engine.remote.engine import RemoteEngine
from qwen3vl_ros.engine.remote.events import EventReader
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.types import EngineError, EngineUnavailable, InvalidInput, ModelNotFound

SSE = "text/event-stream"
RED = np.zeros((60, 100, 3), np.uint8)
RED[10:30, 20:70] = (220, 10, 10)


@pytest.fixture
def server():
    with ModelServer(RedFinder()) as served:
        yield served


def engine_of(server: ModelServer, max_pixels: int = 0, **values) -> RemoteEngine:
    return RemoteEngine(
        RemoteConfig(**{"url": server.url, "timeout": 120.0, "connect_timeout": 60.0} | values), max_pixels
    )


@pytest.fixture
def engine(server):
    """One whose server has answered before."""
    engine = engine_of(server)
    ask(engine, [RED], "?")
    server.requests.clear()
    yield engine
    engine.close()


def chunk(content: str = "", finish_reason=None, **delta) -> str:
    return json.dumps(
        {"choices": [{"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish_reason}]}
    )


HELLO, END = chunk("Hel"), chunk("lo", "stop")


def told(*lines: str, newline: str = "\n") -> bytes:
    return newline.join((*lines, "")).encode()


# -- streams by the standard -------------------------------------------------------------------------------------

PLAIN = told(f"data: {HELLO}", "", f"data: {END}", "", "data: [DONE]", "")
STREAMS = {
    "line feeds": (SSE, (PLAIN,)),
    "carriage returns": (SSE, (PLAIN.replace(b"\n", b"\r"),)),
    "both": (SSE, (PLAIN.replace(b"\n", b"\r\n"),)),
    "both, cut between them": (
        SSE,
        tuple(part + b"\r" for part in PLAIN.replace(b"\n", b"\r\n").split(b"\r"))[:-1] + (b"\n",),
    ),
    "byte by byte": (SSE, tuple(PLAIN[i : i + 1] for i in range(len(PLAIN)))),
    "byte order mark": (SSE, (b"\xef\xbb\xbf" + PLAIN,)),
    "byte order mark in pieces": (SSE, (b"\xef", b"\xbb", b"\xbf" + PLAIN)),
    "media type in capitals": ("Text/Event-Stream; Charset=UTF-8", (PLAIN,)),
    "media type with space": ("text/event-stream ;charset=utf-8", (PLAIN,)),
    "comments": (SSE, (b": keep-alive\n\n:\n\n" + PLAIN.replace(b"\n\n", b"\n: ping\n\n"),)),
    "empty data": (SSE, (b"data:\n\ndata\n\ndata: \n\n" + PLAIN,)),
    "other fields": (SSE, (b"id: 1\nevent: message\nretry: 300\n" + PLAIN,)),
    "unknown fields": (SSE, (b"token: x\nfoo\n" + PLAIN,)),
    "no space behind the colon": (SSE, (PLAIN.replace(b"data: ", b"data:"),)),
    "one event in several lines": (
        SSE,
        (told("data: " + HELLO.replace(", ", ",\ndata: "), "") + PLAIN[PLAIN.index(b"\n\n") + 2 :],),
    ),
    "no blank line at the end": (SSE, (told(f"data: {HELLO}", "", f"data: {END}")[:-1],)),
    "no DONE": (SSE, (told(f"data: {HELLO}", "", f"data: {END}", ""),)),
    "space around DONE": (SSE, (PLAIN.replace(b"[DONE]", b" [DONE] "),)),
}


@pytest.mark.parametrize("media_type, pieces", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_is_read_as_the_standard_says(server, engine, media_type, pieces):
    server.raw.append((media_type, pieces))
    said = ask(engine, [RED], "?")
    assert (said.text, said.finish_reason) == ("Hello", "stop")


@given(
    ending=st.sampled_from([b"\n", b"\r", b"\r\n"]),
    bom=st.booleans(),
    cuts=st.lists(st.integers(0, 200), max_size=8).map(sorted),
)
def test_events_do_not_depend_on_line_ends_and_cuts(ending, bom, cuts):
    raw = (
        b"\xef\xbb\xbf" * bom
        + b": ping\n\ndata: \xc3\xbc\ndata:two\nid: 3\nodd\n\ndata\n\nevent: x\ndata: [DONE]\n\n".replace(b"\n", ending)
    )
    reader, events = EventReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(raw)]):
        events += reader.feed(raw[start:end])
    assert events + reader.end() == ["ü\ntwo", "[DONE]"]


# -- errors told inside an answer --------------------------------------------------------------------------------

OVERFLOW = "the request exceeds the available context size (4096 tokens), try increasing it"
ERRORS = {  # what stands behind four tokens, or none: the pieces, the error, its words
    "a field": (
        told('error: {"code": 500, "message": "out of memory", "type": "server_error"}', ""),
        EngineUnavailable,
        "out of memory",
    ),
    "a field in words": (told("error: CUDA error", ""), EngineError, "CUDA error"),
    "an event": (told("event: error", "data: worker died", ""), EngineError, "worker died"),
    "an event with an object": (
        told("event: error", 'data: {"message": "worker died"}', ""),
        EngineError,
        "worker died",
    ),
    "data": (
        told('data: {"error": {"message": "worker died"}}', ""),
        EngineError,
        "failed while answering: worker died",
    ),
    "data of vLLM": (
        told('data: {"object": "error", "message": "worker died", "code": 400}', ""),
        EngineError,
        "worker died",
    ),
    "a line alone": (told('{"error": {"message": "worker died", "code": 502}}'), EngineUnavailable, "worker died"),
    "lines alone": (told("{", '  "error": {', '    "message": "worker died"', "  }", "}"), EngineError, "worker died"),
    "words alone": (told("Internal Server Error"), EngineError, "it holds 'Internal Server Error'"),
    "a line, then a broken connection": (told('{"detail": "worker died"}', "") + b"", EngineError, "worker died"),
    "overflow in a field": (told(f"error: {OVERFLOW}", ""), EngineError, "generation.max_pixels"),
    "overflow in data": (
        told(f'data: {{"error": {{"code": 400, "message": "{OVERFLOW}"}}}}', ""),
        EngineError,
        "generation.max_pixels",
    ),
    "overflow alone": (told(OVERFLOW), EngineError, "generation.max_pixels"),
    "overloaded": (
        told('data: {"error": {"code": 503, "message": "overloaded"}}', ""),
        EngineUnavailable,
        "overloaded",
    ),
}


@pytest.mark.parametrize("raw, error, words", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("breaks", [False, True], ids=["ends", "breaks"])
def test_what_the_server_said_last_is_its_error(server, engine, raw, error, words, breaks):
    server.raw.append((SSE, (told(f"data: {HELLO}", ""), raw, *([RESET] if breaks else []))))
    with pytest.raises(error, match=words) as caught:
        ask(engine, [RED], "?")
    assert type(caught.value) is error and len(server.requests) == 1
    assert ask(engine, [RED], "?").finish_reason == "stop"


def test_an_error_object_with_status_200_is_its_error(server, engine):
    server.raw.append(("application/json", (b'{"error": {"message": "the model crashed", "code": 500}}',)))
    with pytest.raises(EngineUnavailable, match="the model crashed"):
        ask(engine, [RED], "?")


def test_words_that_are_no_error_do_not_end_an_answer(server, engine):
    server.raw.append((SSE, (told("warning: slow", f"data: {HELLO}", "", "note", f"data: {END}", ""),)))
    assert ask(engine, [RED], "?").text == "Hello"


def test_the_key_is_in_no_words_of_the_server(server, monkeypatch):
    monkeypatch.setenv("KEY_OF_A_TEST", "secret-key")
    engine = engine_of(server, api_key_env="KEY_OF_A_TEST")
    for raw in (b"error: bad secret-key\n\n", b"bad secret-key\n", b'data: {"error": "bad secret-key"}\n\n'):
        server.raw.append((SSE, (told(f"data: {HELLO}", ""), raw)))
        with pytest.raises(EngineError) as caught:
            ask(engine, [RED], "?")
        assert "secret" not in str(caught.value) and "[key]" in str(caught.value)
    engine.close()


@pytest.mark.parametrize("status", [413, 400, 500])
def test_what_does_not_fit_names_the_parameter_that_makes_it_smaller(server, engine, status):
    words = {413: "<html>413 Request Entity Too Large</html>"}.get(status, OVERFLOW)
    server.statuses.append((status, words))
    with pytest.raises(EngineError, match="generation.max_pixels") as caught:
        ask(engine, [RED], "?")
    assert type(caught.value) is EngineError and len(server.requests) == 1
    assert engine.health.failures == 0, "a refusal is an answer"


# -- optional fields ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, words", [(500, "Internal Server Error"), (400, "bad request"), (422, "extra"), (501, "no")]
)
def test_where_nothing_has_worked_the_optional_fields_are_left_out_once(server, status, words):
    server.fails_at, engine = {"logprobs": (status, words)}, engine_of(server)
    for _ in range(3):
        assert ask(engine, [RED], "?").finish_reason == "stop"
    assert ["logprobs" in body for body in server.requests] == [True, False, False, False]
    assert engine.health.failures == 0 and engine.status()["logprobs"] == "no"
    engine.close()


def test_a_server_that_tells_its_dislike_of_a_field_inside_the_answer_is_asked_without(server):
    engine = engine_of(server)
    server.raw.append((SSE, (b'data: {"error": {"message": "logprobs is not supported", "code": 500}}\n\n',)))
    assert ask(engine, [RED], "?").finish_reason == "stop"
    assert ["logprobs" in body for body in server.requests] == [True, False]
    engine.close()


def test_a_server_that_fails_either_way_is_asked_twice_and_keeps_its_fields(server):
    engine = engine_of(server)
    server.faults.extend(["500", "500", "500"])
    for requests in (2, 3):
        with pytest.raises(EngineUnavailable, match="boom"):
            ask(engine, [RED], "?")
        assert len(server.requests) == requests
    assert ask(engine, [RED], "?").logprobs is not None, "the fields were not to blame"
    engine.close()


def test_where_something_has_worked_no_field_is_dropped(server, engine):
    server.faults.append("500")
    with pytest.raises(EngineUnavailable):
        ask(engine, [RED], "?")
    assert len(server.requests) == 1 and ask(engine, [RED], "?").logprobs is not None


# -- the start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [(503,) * 6, (200, 503, 503, 503, 503, 503)], ids=["models", "health"])
def test_a_server_that_is_loading_is_waited_for(server, looks):
    server.health.extend(looks)
    engine = engine_of(server, retries=0)
    assert engine.info.model == "embedded" and not server.health
    engine.close()


def test_a_server_that_lists_its_model_and_still_loads_it_is_waited_for(server):
    server.faults.extend(["503"] * 6)
    engine = load_tested_engine(Config(engine="remote", remote=RemoteConfig(url=server.url, retries=0)))
    assert engine.status()["self_test"] == "passed" and engine.health.failures == 0 and not server.faults
    engine.close()


@pytest.mark.parametrize("looks", [(503,) * 999, (200, *(503,) * 999)], ids=["models", "health"])
def test_a_server_that_loads_for_ever_is_waited_for_until_the_deadline(server, looks):
    server.health.extend(looks)
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match="503.*loading|503.*starting"):
        engine_of(server, start_timeout=1.0)
    assert time.monotonic() - started > 0.3


ENDLESS = ["/v1/models", "/health", "/v1/chat/completions"]  # the last one asked of a name that is not listed


@pytest.mark.parametrize("path", ENDLESS)
def test_a_body_that_trickles_for_ever_ends_with_the_time_of_the_start(server, path):
    server.aliases, server.endless[path] = ("other",), b"x"
    with pytest.raises(EngineUnavailable, match="end of its answer within remote.start_timeout = 1 s"):
        engine_of(server, model="other", start_timeout=1.0)


@pytest.mark.parametrize("path", ENDLESS)
def test_of_a_body_without_end_a_few_megabytes_are_read(server, path):
    server.aliases, server.endless[path] = ("other",), b"x" * (1 << 19)
    if path == ENDLESS[0]:
        with pytest.raises(EngineError, match="lists no models"):
            engine_of(server, model="other")
    else:  # what matters of these is their status
        engine_of(server, model="other").close()


@pytest.mark.parametrize("health", [404, 500, 401])
def test_a_server_without_a_sign_of_health_is_ready(server, health):
    server.health.extend([200, health])
    engine_of(server).close()


def test_a_name_that_is_not_listed_is_tried_with_a_warning(server, caplog):
    server.aliases = ("qwen-latest", "openai/*")
    with caplog.at_level(logging.WARNING):
        engine = engine_of(server, model="qwen-latest")
    assert engine.info.model == "qwen-latest" and ask(engine, [RED], "?").finish_reason == "stop"
    assert any("does not list remote.model = 'qwen-latest'" in r.getMessage() for r in caplog.records)
    engine.close()
    with pytest.raises(ModelNotFound, match="remote.model = 'other'; it serves: embedded"):
        engine_of(server, model="other")


# -- ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd", [None, "", "null", "None", "continue", "tool_calls", "content_filter", 0, False, {}, []], ids=repr
)
def test_an_odd_finish_reason_in_mid_stream_ends_nothing(server, engine, odd):
    server.raw.append((SSE, (told(f"data: {chunk('Hel', odd)}", "", f"data: {END}", "", "data: [DONE]", ""),)))
    said = ask(engine, [RED], "?")
    assert (said.text, said.finish_reason) == ("Hello", "stop")


@pytest.mark.parametrize("reason", ["STOP", "Stop", " stop", "eos", "LENGTH"])
def test_a_finish_reason_is_known_in_any_case(server, engine, reason):
    server.raw.append((SSE, (told(f"data: {HELLO}", "", f"data: {chunk('', reason)}", ""),)))
    assert ask(engine, [RED], "?").finish_reason == ("length" if reason == "LENGTH" else "stop")


@pytest.mark.parametrize("last", [("data: [DONE]", ""), ()], ids=["DONE", "end"])
@pytest.mark.parametrize(
    "reason, words",
    [("abort", "'abort'"), ("content_filter", "content_filter"), ("tool_calls", "parser of tool calls")],
)
def test_an_odd_finish_reason_at_the_end_is_named(server, engine, reason, words, last):
    server.raw.append((SSE, (told(f"data: {HELLO}", "", f"data: {chunk('', reason)}", "", *last),)))
    with pytest.raises(EngineError, match=f"finish_reason .*{words}"):
        ask(engine, [RED], "?")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_an_answer_that_stands_whole_in_the_reasoning_names_the_parser(server, engine, field):
    thoughts = [chunk("", None, **{field: part}) for part in ('[{"bbox_2d": ', "[1, 2, 3, 4]}]")]
    lines = [line for each in (*thoughts, chunk("", "stop")) for line in (f"data: {each}", "")]
    server.raw.append((SSE, (told(*lines),)))
    with pytest.raises(EngineError, match=r"reasoning \('\[\{\"bbox_2d.*reasoning parser"):
        ask(engine, [RED], "?")
    assert engine.health.failures == 0
    server.raw.append((SSE, (told(f"data: {thoughts[0]}", "", f"data: {chunk('[]', 'stop')}", ""),)))
    assert ask(engine, [RED], "?").text == "[]"


# -- pictures and closing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (27, 27), (1, 201), (2000, 9), (3, 700)], ids=str)
def test_tiny_and_very_thin_pictures_do_not_travel(server, engine, shape):
    with pytest.raises(InvalidInput, match=f"{shape[1]}x{shape[0]}.*(smaller|thinner)"):
        ask(engine, [RED, np.zeros((*shape, 3), np.uint8)], "?")
    assert not server.requests and engine.health.failures == 0


def test_a_picture_that_a_limit_makes_tiny_does_not_travel(server):
    engine = engine_of(server, max_pixels=100)
    with pytest.raises(InvalidInput, match="generation.max_pixels = 100"):
        ask(engine, [RED], "?")
    assert not server.requests
    engine.close()


CLOSING = """
import gc, sys, threading, time
sys.path[:0] = {path!r}
import numpy as np
from asking import ask
from qwen3vl_ros.config import RemoteConfig
from qwen3vl_ros.engine.remote.engine import RemoteEngine
from qwen3vl_ros.types import EngineError
engine = RemoteEngine(RemoteConfig(url={url!r}, timeout=120.0))
def asking():
    try:
        ask(engine, [np.zeros((40, 40, 3), np.uint8)], "?")
    except BaseException:
        pass
if {asks}:
    thread = threading.Thread(target=asking)
    thread.start()
    time.sleep(0.3)
{close}
if {asks}:
    thread.join(120)
    assert not thread.is_alive()
del engine
gc.collect()
"""
WAYS = {
    "after an answer": (False, "ask(engine, [np.zeros((40, 40, 3), np.uint8)], '?'); engine.close()"),
    "unused": (False, "engine.close()"),
    "twice": (False, "engine.close(); engine.close()"),
    "in the middle of an answer": (True, "engine.close()"),
    "never": (False, "ask(engine, [np.zeros((40, 40, 3), np.uint8)], '?')"),
}


@pytest.mark.parametrize("asks, close", WAYS.values(), ids=WAYS.keys())
def test_closing_leaves_nothing_on_stderr(server, asks, close):
    server.token_delay_s = 0.2 if asks else 0.0
    helpers = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]
    code = CLOSING.format(path=helpers, url=server.url, asks=asks, close=close)
    done = subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", "-c", code], capture_output=True, text=True, timeout=280
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_engine_that_could_not_start_leaves_no_thread(server):
    before = {thread.name for thread in threading.enumerate()}
    server.models = []
    with pytest.raises(ModelNotFound):
        engine_of(server)
    ended = time.monotonic() + 90.0  # the server's own thread ends when its connection is closed
    while (left := {thread.name for thread in threading.enumerate()} - before) and time.monotonic() < ended:
        time.sleep(0.02)
    assert left == set()
