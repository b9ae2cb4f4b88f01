"""Answers that a server holds to a grammar of ours: the grammar says what the schema says, and white space has its place.

llguidance reads the grammar here as it does in a server; tests/servers asks a real one.
"""

from __future__ import annotations

import json

import llguidance
import numpy as np
import pytest
from asking import ask
from remote_server import ModelServer, RedFinder

from qwen3vl_ros.config import RemoteConfig
from qwen3vl_ros.engine import embedded_model_dir
from qwen3vl_ros.engine.decoding.grammar import ROWS
from qwen3vl_ros.engine.remote.engine import RemoteEngine
from qwen3vl_ros.engine.remote.grammar import gbnf
from qwen3vl_ros.questions import Detect, Detect3D, Dial, Gauge, Holds, Plan, Point, ReadText, Understand
from qwen3vl_ros.types import EngineError, InvalidInput

RED = np.zeros((60, 100, 3), np.uint8)
RED[10:30, 20:70] = (220, 10, 10)
TOKENIZER = llguidance.LLTokenizer((embedded_model_dir() / "tokenizer.json").read_text())
BOX = {"bbox_2d": [0, 12, 345, 1000], "label": 'red "cube" \\ 杯\n'}
ANSWERS = {  # question -> answers that keep its schema
    Detect(("cube",)): [[], [BOX], [BOX] * 3],
    Point(("cube",)): [[{"point_2d": [1, 999], "label": "x"}]],
    Detect3D(("cube",)): [[{"bbox_3d": [-0.1, 0.2222, 1.5, 0.1, 0.1, 0.1, 0, -1.5, 0.25], "label": "x"}]],
    ReadText(): [[{"bbox_2d": [1, 2, 3, 4], "text_content": "EXIT 7"}]],
    Gauge(): [{"value": -12.5, "unit": "°C"}, {"value": 0, "unit": ""}],
    Plan("put the cube into the bowl"): [{"steps": [], "question": "which cube?"}],
    Understand("where is the cube?"): [{"ask": "where", "find": ["cube"]}, {"ask": "unknown", "find": []}],
    Dial(): [
        {"value": 1.5, "unit": "bar", "minimum": 0, "maximum": 10, "zone": "red"}
        | {name: [1, 2] for name in ("centre", "tip", "first", "last")}
    ],
}
STYLES = [(", ", ": "), (",", ":")]


def allows(grammar: str, text: str) -> bool:
    """Whether the whole text is one that the grammar ends with."""
    matcher = llguidance.LLMatcher(TOKENIZER, llguidance.grammar_from("grammar", grammar))
    assert not matcher.get_error(), matcher.get_error()
    tokens = TOKENIZER.tokenize_str(text)
    return matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()


def written(value, style) -> str:
    return json.dumps(value, ensure_ascii=False, separators=style)


@pytest.mark.parametrize("question", ANSWERS, ids=lambda q: q.name)
def test_the_grammar_takes_what_keeps_the_schema_in_the_layouts_of_the_models(question):
    grammar = gbnf(question.schema())
    for answer in ANSWERS[question]:
        plain = isinstance(answer, list)
        for style in STYLES:
            text = written(answer, style)
            assert plain or allows(grammar, text)
            assert plain or allows(grammar, f"```json\n{text}\n```")
        for style, before, between, behind in ROWS if plain and answer else ():
            rows = before + between.join(written(row, style) for row in answer) + behind
            assert allows(grammar, rows) and allows(grammar, f"```json\n{rows}\n```"), rows
    assert not ANSWERS[question][0] or not allows(grammar, "[]" if not isinstance(ANSWERS[question][0], list) else "{}")


def test_an_empty_list_is_an_answer_where_things_are_looked_for():
    assert allows(gbnf(Detect(("cube",)).schema()), "[]") and not allows(
        gbnf(Holds("it is on", (0.0, 1.0)).schema()), "[]"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[ ]",
        "[\n\n",
        '[{"bbox_2d": [1, 2, 3, 4],  "label": "x"}]',
        '[{"bbox_2d": [1, 2, 3], "label": "x"}]',
        '[{"bbox_2d": [01, 2, 3, 4], "label": "x"}]',
        '[{"bbox_2d": [1, 2, 3, 45678], "label": "x"}]',
        '[{"bbox_2d": [1, 2, 3, 4], "label": ""}]',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "x"}] ',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "x", "more": 1}]',
        "I see nothing",
    ],
)
def test_the_grammar_has_no_room_for_white_space_and_other_shapes(text):
    assert not allows(gbnf(Detect(("cube",)).schema()), text)


def test_thoughts_may_stand_before_the_answer_of_a_model_that_thinks():
    grammar = gbnf(Gauge().schema(), thinks=True)
    assert allows(grammar, 'a < b, so\n</think>\n\n{"value": 1, "unit": "bar"}')
    assert not allows(gbnf(Gauge().schema()), 'so</think>{"value": 1, "unit": "bar"}')


# -- how it travels ----------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    with ModelServer(RedFinder()) as served:
        yield served


def engine_of(server: ModelServer, **values) -> RemoteEngine:
    return RemoteEngine(RemoteConfig(url=server.url, timeout=120.0, connect_timeout=60.0, **values))


SENT = {
    "vllm": lambda body: body["structured_outputs"]["grammar"],
    "sglang": lambda body: body["ebnf"],
    "llamacpp": lambda body: body["grammar"],
}


@pytest.mark.parametrize("owner", SENT)
def test_a_server_known_to_take_a_grammar_gets_ours(server, owner):
    server.owner, schema = owner, Detect(("cube",)).schema()
    engine = engine_of(server)
    assert ask(engine, [RED], "?", schema=schema).finish_reason == "stop"
    assert SENT[owner](server.requests[-1]) == gbnf(schema) and "response_format" not in server.requests[-1]
    engine.close()


def test_a_schema_beyond_our_grammar_goes_as_it_is(server):
    server.owner, schema = "vllm", {"type": "array", "items": {"type": "object"}}
    engine = engine_of(server)
    ask(engine, [RED], "?", schema=schema)
    assert server.requests[-1]["response_format"]["json_schema"]["schema"] == schema
    engine.close()


def said(*parts: str, reason: str = "stop") -> tuple[str, tuple[bytes, ...]]:
    events = [{"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]} for part in parts]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return "text/event-stream", ("".join(f"data: {json.dumps(e)}\n\n" for e in events).encode() + b"data: [DONE]\n\n",)


@pytest.mark.parametrize("space", [" ", "\n", "\t", "\n  "])
def test_white_space_without_end_is_named_and_the_model_is_not_blamed(server, space):
    engine = engine_of(server)
    server.raw.append(said("[", *[space] * 80))
    with pytest.raises(EngineError, match="white space without end.*disable_any_whitespace.*generation.guided"):
        ask(engine, [RED], "?", schema=Detect(("cube",)).schema())
    server.raw.append(said("[", *[space] * 80))
    assert ask(engine, [RED], "?").finish_reason == "repeat", "without a schema it is the model's own"
    assert engine.health.failures == 0
    engine.close()


def test_a_server_that_ignores_the_schema_is_named(server):
    engine = engine_of(server)
    server.raw.append(said("There is a red thing."))
    with pytest.raises(EngineError, match="did not hold its answer to the schema.*'There is a red thing.'"):
        ask(engine, [RED], "?", schema=Detect(("cube",)).schema())
    engine.close()


WORDS = (
    "Cannot load local files without `--allowed-local-media-path`.",
    "The file path <path> must be a subpath of `--allowed-local-media-path <path>`.",
)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("status", [400, 500])
def test_files_that_a_server_may_not_read_are_an_input_error(server, tmp_path, words, status):
    engine = engine_of(server, image_transport="file", image_dir=str(tmp_path))
    server.statuses.append((status, words))
    with pytest.raises(InvalidInput, match="remote.image_transport.*allowed-local-media-path DIR.*base64"):
        ask(engine, [RED], "?")
    assert len(server.requests) == 1 and engine.health.failures == 0 and not list(tmp_path.iterdir())
    engine.close()
