"""Answers held to a schema: whatever the network says, all of it can be read; what was right stays as it was."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import pytest
from asking import ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from qwen3vl_ros.config import from_flat
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine import load_engine
from qwen3vl_ros.engine.base import Limits
from qwen3vl_ros.engine.checkpoint import embedded_model_dir
from qwen3vl_ros.engine.decoding import grammar
from qwen3vl_ros.engine.decoding.grammar import Grammar
from qwen3vl_ros.engine.decoding.loop import Decoded, Sampling, decode
from qwen3vl_ros.engine.decoding.transcript import transcribe
from qwen3vl_ros.engine.prompt.tokens import ChatTokens
from qwen3vl_ros.questions import Ask, Detect, Detect3D, Point, Question, ReadText
from qwen3vl_ros.questions.parsing.objects import Answer
from qwen3vl_ros.questions.schemas import MAX_OBJECTS
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import (
    EngineError,
    Generation,
    InvalidInput,
    MalformedAnswer,
    View,
    WrongModel,
)

pytest.importorskip("llguidance", reason="guided answers need llguidance")
SIZE_PX = (640, 480)
EMBEDDED_SLOTS = json.loads((embedded_model_dir() / "config.json").read_text())["text_config"]["vocab_size"]
SLOTS = {"embedded": EMBEDDED_SLOTS, "padded": 151936, "thinking": 512}
CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ASKED = Detect(("cube", "red mug"))
BOXES = [(100, 200, 300, 400, "red mug"), (7, 0, 88, 1000, "cube")]


def written(boxes) -> dict[str, str]:
    """One answer in the layouts that models of this family use."""
    rows = [f'{{"bbox_2d": [{a}, {b}, {c}, {d}], "label": "{label}"}}' for a, b, c, d, label in boxes]
    tabbed, spaced = "[\n\t" + ",\n\t".join(rows) + "\n]", "[" + ", ".join(rows) + "]"
    return {
        "fenced": f"```json\n{tabbed}\n```",
        "bare": tabbed,
        "indented": "[\n  " + ",\n  ".join(rows) + "\n]",
        "fenced and spaced": f"```json\n{spaced}\n```",
        "spaced": spaced,
        "compact": spaced.replace(": ", ":").replace(", ", ","),
    }


@dataclass(frozen=True, repr=False)
class Case:
    """A tokenizer with its grammar, for a network with more slots than the tokenizer has tokens."""

    chat: ChatTokens
    tokenizer: Tokenizer
    grammar: Grammar

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def write_small(directory: Path, prompt_end: str = "") -> Path:
    """A checkpoint's text side of Qwen's kind: bytes, merges across the borders of JSON, digits one by one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = len(alphabet) + 80
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(list(written(BOXES).values()) * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    tokenizer.save(str(directory / "tokenizer.json"))
    template = (embedded_model_dir() / "chat_template.jinja").read_text()
    template = template.replace("assistant\\n' }}", f"assistant\\n{prompt_end}' }}}}")
    (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    directories = {
        "embedded": embedded_model_dir(),
        "padded": write_small(tmp_path_factory.mktemp("padded")),
        "thinking": write_small(tmp_path_factory.mktemp("thinking"), "<think>\\n"),
    }
    made = {}
    for name, directory in directories.items():
        chat, path = ChatTokens(directory), directory / "tokenizer.json"
        grammar = Grammar(path, chat.stop_ids, SLOTS[name], chat.thinking)
        made[name] = Case(chat, Tokenizer.from_file(str(path)), grammar)
    assert made["thinking"].chat.thinking and not made["padded"].chat.thinking
    return made


class Babbler:
    """A network that says anything: logits are random, and depend on the answer so far and on nothing else."""

    def __init__(self, case: Case, slots: int, seed: int):
        self.case, self.slots, self.seed, self.said, self.passes = case, slots, seed, [], 0

    def row(self) -> np.ndarray:
        seed = [self.seed, len(self.said), *self.said[-8:]]
        return np.random.default_rng(seed).normal(0, 4, self.slots).astype(np.float32)

    def prefill(self, draft: Sequence[int]):
        return self._scores(None, draft)

    def step(self, ids: Sequence[int]):
        return self._scores(ids[0], ids[1:])

    def _scores(self, chosen: int | None, draft: Sequence[int]):
        self.passes += 1
        rows = []
        for token in [chosen, *draft]:
            self.said += [] if token is None else [token]
            rows.append(self.row())
        return Rows(np.stack(rows))

    def rollback(self, count: int) -> None:
        assert 0 < count <= len(self.said)
        del self.said[len(self.said) - count :]

    def answer(self, constraint, most: int = 6000, **options) -> Decoded:
        return decode(
            self.prefill,
            self.step,
            self.rollback,
            stop_ids=self.case.chat.stop_ids,
            bytes_of=self.case.chat.bytes_of,
            limits=Limits(most, 600.0, 10**9),
            control=Control(),
            **{"longest_step": 16, "constraint": constraint, **options},
        )


class Rows:
    def __init__(self, logits: np.ndarray):
        self._logits = logits

    def best(self):
        ids = self._logits.argmax(-1)
        top = self._logits.max(-1)
        logprobs = -np.log(np.exp(self._logits - top[:, None]).sum(-1))
        return ids.tolist(), logprobs.tolist()

    def logits(self) -> np.ndarray:
        return self._logits


def read(run: Decoded, request: Question, thinking: bool = False) -> Answer:
    said = transcribe(run.pieces, thinking)
    tokens = slice(said.first_token, said.last_token)
    logprobs = np.array(run.logprobs[tokens], np.float32)
    generation = Generation(
        said.text, tuple(run.token_ids[tokens]), logprobs, tuple(said.token_ends), run.finish_reason
    )
    return request.read(generation, (View(SIZE_PX),))


def objects_of(run: Decoded) -> list[dict]:
    return objects_in(b"".join(run.pieces).decode())


def objects_in(text: str) -> list[dict]:
    return json.loads(text.removeprefix("```json\n").removesuffix("\n```"))


def in_a_prompt(targets: list[str]) -> bool:
    try:
        return bool(Detect(tuple(targets)).prompt()) and all(map(str.isprintable, targets))
    except InvalidInput:
        return False


words = st.sampled_from(["cube", "the red mug", "红色的杯子", "20 °C", "it's", "none", "a\\b"])
phrases = st.lists(words | st.text(min_size=1, max_size=12), min_size=1, max_size=3).filter(in_a_prompt)
requests = st.builds(
    lambda targets, question: ReadText() if question is ReadText else question(tuple(targets)),
    phrases,
    st.sampled_from([Detect, Point, Detect3D, ReadText]),
)
babbling = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@babbling
@given(requests, st.integers(0, 2**32), st.sampled_from([None, 0.7, 2.0]))
def test_whatever_the_network_says_every_object_is_read(cases, request_, seed, temperature):
    """Nothing is malformed or dropped but boxes whose corners fall together, which no schema can forbid."""
    case = cases["embedded"]
    sampling = None if temperature is None else Sampling(temperature, 1.0, 0, seed=seed)
    babbler = Babbler(case, SLOTS["embedded"], seed)
    run = babbler.answer(case.grammar.constraint(request_.schema()), sampling=sampling)
    assert run.finish_reason == "stop"
    objects = objects_of(run)
    assert len(objects) <= MAX_OBJECTS
    boxes = [o["bbox_2d"] for o in objects if "bbox_2d" in o]
    flat = sum(x1 == x2 or y1 == y2 for x1, y1, x2, y2 in boxes)
    if flat and flat == len(objects):
        with pytest.raises(MalformedAnswer, match="box without area"):
            read(run, request_)
        return
    answer = read(run, request_)
    assert answer.dropped == flat
    found = [*answer.detections, *answer.points, *answer.boxes_3d]
    assert len(found) + answer.repeats + flat >= len(objects) > 0 or objects == found == []


@babbling
@given(st.sampled_from(sorted(SLOTS)), requests, st.integers(0, 2**32))
def test_forced_tokens_are_the_only_ones_allowed(cases, name, request_, seed):
    """So taking them without asking the network changes nothing."""
    case, rng, forced_seen = cases[name], np.random.default_rng(seed), 0
    constraint = case.grammar.constraint(request_.schema())
    if name == "thinking":
        constraint.accept(case.encode("Hm.\n</think>\n\n"))
    for _ in range(150):
        forced, allowed = constraint.forced(), constraint.allowed()
        assert allowed.shape == (SLOTS[name],) and allowed.any()
        assert not allowed[case.tokenizer.get_vocab_size() :].any(), "padding of the vocabulary"
        if forced and forced[0] in case.chat.stop_ids:
            assert set(np.flatnonzero(allowed)) <= case.chat.stop_ids
            break
        assert not allowed[sorted(case.chat.stop_ids)].any()
        for token in forced:
            assert np.flatnonzero(constraint.allowed()).tolist() == [token]
            constraint.accept([token])
        forced_seen += len(forced)
        if not forced:
            constraint.accept([int(rng.choice(np.flatnonzero(allowed)))])


class Unforced:
    """The same constraint, which asks the network about every token."""

    def __init__(self, constraint):
        self.allowed, self.accept = constraint.allowed, constraint.accept

    def forced(self) -> list[int]:
        return []


class Guesser:
    """Drafts that are right for a while, if they are right at all."""

    def __init__(self, truth: list[int], seed: int):
        self.truth, self.rng = truth, np.random.default_rng(seed)

    def propose(self, token_ids: Sequence[int], most: int) -> list[int]:
        guess = list(self.truth[len(token_ids) :][: int(self.rng.integers(0, 8))])
        if guess and self.rng.random() < 0.5:
            guess[-1] = int(self.rng.integers(0, 400))
        return guess[:most]

    def judged(self, proposed: Sequence[int], accepted: int) -> None:
        assert accepted <= len(proposed)


@babbling
@given(st.sampled_from(["embedded", "padded"]), requests, st.integers(0, 2**32))
def test_jumps_and_drafts_save_passes_and_change_no_token(cases, name, request_, seed):
    case, schema = cases[name], request_.schema()
    jumping, plain, drafting = (Babbler(case, EMBEDDED_SLOTS, seed) for _ in range(3))
    jumped = jumping.answer(case.grammar.constraint(schema), most=120)
    asked = plain.answer(Unforced(case.grammar.constraint(schema)), most=120, longest_step=1)
    guesser = Guesser(asked.token_ids, seed)
    drafted = drafting.answer(case.grammar.constraint(schema), most=120, drafter=guesser)
    assert jumped.token_ids == asked.token_ids == drafted.token_ids
    assert np.allclose([jumped.logprobs, drafted.logprobs], asked.logprobs, atol=1e-4)
    assert jumping.passes <= plain.passes and drafting.passes <= jumping.passes
    assert jumped.finish_reason == asked.finish_reason == drafted.finish_reason or len(asked.token_ids) == 120


def test_what_leaves_no_choice_and_the_end_cost_no_pass(cases):
    case = cases["padded"]
    babbler, schema = Babbler(case, SLOTS["padded"], 5), ASKED.schema() | {"minItems": 5, "maxItems": 5}
    schema["items"]["properties"]["label"] = {"enum": ["cylinder"]}
    run = babbler.answer(case.grammar.constraint(schema))
    assert run.finish_reason == "stop" and len(objects_of(run)) == 5
    assert babbler.passes < 0.7 * len(run.token_ids), "braces, keys and the only label there is"
    assert babbler.said == run.token_ids[: len(babbler.said)], "and no pass asks for the end"


@pytest.mark.parametrize("name", ["embedded", "padded"])
@pytest.mark.parametrize("layout", sorted(written(BOXES)))
def test_every_layout_the_models_use_is_allowed_and_kept(cases, name, layout):
    case = cases[name]
    constraint, other = case.grammar.constraint(ASKED.schema()), case.grammar.constraint(ASKED.schema())
    for token in case.encode(written(BOXES)[layout]):
        assert constraint.forced()[:1] in ([], [token]), "forced tokens are those the tokenizer writes"
        constraint.accept([token])
    assert set(constraint.forced()) <= case.chat.stop_ids
    text = written(BOXES)[layout]
    mixed = text.replace("}, {", "},{") if "spaced" in layout else text + " "
    with pytest.raises(EngineError, match="none that the schema allows"):
        for token in case.encode(mixed):
            other.accept([token])


@pytest.mark.parametrize("text", ["[]", "```json\n[]\n```"])
def test_nothing_seen_can_be_said(cases, text):
    for name in ("embedded", "padded"):
        constraint = cases[name].grammar.constraint(ASKED.schema())
        constraint.accept(cases[name].encode(text))
        assert set(constraint.forced()) <= cases[name].chat.stop_ids


@pytest.mark.parametrize(
    "text",
    [
        "There is",
        " [",
        "```python",
        "{",
        "[{}]",
        '[{"label"',
        '[{"bbox_2d": [1, 2, 3]',
        '[{"bbox_2d": [1, 2, 3, 1001',
        '[{"bbox_2d": [1, 2, 3, 4], "label": ""',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "cube"}]]',
        "[[",
        "[]\n",
        '[{"bbox_2d": [-1',
        '[{"bbox_2d": [1.5',
        '[{"bbox_2d": [01',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "cube"}, {"label',
    ],
)
def test_what_is_no_answer_cannot_be_said(cases, text):
    for name in ("embedded", "padded"):
        with pytest.raises(EngineError, match="none that the schema allows"):
            cases[name].grammar.constraint(ASKED.schema()).accept(cases[name].encode(text))


def test_a_refused_token_leaves_the_answer_as_it_was(cases):
    case = cases["embedded"]
    constraint = case.grammar.constraint(ASKED.schema())
    start = case.encode('```json\n[\n\t{"bbox_2d": [345')
    constraint.accept(start)
    with pytest.raises(EngineError):
        constraint.accept(case.encode(", x"))
    assert constraint.forced() == case.encode(", ")


def test_stop_and_control_tokens_and_padding_never_come_before_the_end(cases):
    for name in ("embedded", "padded"):
        case = cases[name]
        for token in (*case.chat.stop_ids, case.chat.image_id, SLOTS[name] - 1):
            with pytest.raises(EngineError):
                case.grammar.constraint(ASKED.schema()).accept([token])


def test_an_answer_cut_short_is_the_beginning_of_a_whole_one(cases):
    case, schema = cases["embedded"], ASKED.schema() | {"minItems": 4}
    whole = Babbler(case, EMBEDDED_SLOTS, 3).answer(case.grammar.constraint(schema))
    for most in range(1, len(whole.token_ids), 9):
        cut = Babbler(case, EMBEDDED_SLOTS, 3).answer(case.grammar.constraint(schema), most=most)
        assert cut.finish_reason == "length" and cut.token_ids == whole.token_ids[:most]
    with pytest.raises(MalformedAnswer, match="cut short"):
        read(Babbler(case, EMBEDDED_SLOTS, 3).answer(case.grammar.constraint(schema), most=6), ASKED)


def test_a_thinking_model_thinks_freely_and_then_answers(cases):
    case = cases["thinking"]
    constraint = case.grammar.constraint(ASKED.schema())
    for token in case.encode('Hm, "[{" is how it begins.\n é <b>'):
        assert constraint.forced() == [] and constraint.allowed()[token]
        constraint.accept([token])
    allowed = constraint.allowed()
    assert allowed[case.tokenizer.token_to_id("</think>")] and not allowed[sorted(case.chat.stop_ids)].any()
    thought, text = case.encode("Hm.\n</think>\n\n"), written(BOXES)["fenced"]
    fresh = case.grammar.constraint(ASKED.schema())
    for token in [*thought, *case.encode(text)]:
        assert fresh.allowed()[token]
        fresh.accept([token])
    assert set(fresh.forced()) <= case.chat.stop_ids


def test_other_schemas_hold_too(cases):
    case = cases["embedded"]
    gauge = {
        "type": "object",
        "properties": {"value": {"type": "number"}, "unit": {"enum": ["bar", "°C"]}},
        "required": ["value", "unit"],
        "additionalProperties": False,
    }
    for text in ('{"value": 3.5, "unit": "bar"}', '```json\n{"value":12,"unit":"°C"}\n```'):
        constraint = case.grammar.constraint(gauge)
        constraint.accept(case.encode(text))
        assert set(constraint.forced()) <= case.chat.stop_ids


@pytest.mark.parametrize(
    "schema, says",
    [
        ({"type": "bogus"}, "Invalid type: bogus"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 1}}, r"minimum \(3\) is greater than"),
        ({"type": "array", "items": {}, "minItems": 3, "maxItems": 1}, r"minItems \(3\) is greater than maxItems"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "http://example.com/schema"}, "http://example.com/schema"),
        ({"enum": {1}}, "no JSON"),
        ({"minimum": float("nan")}, "no JSON"),
        ([1], "list, not a dict"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_with_the_reason(cases, schema, says):
    with pytest.raises(InvalidInput, match=says):
        cases["embedded"].grammar.constraint(schema)


def test_what_does_not_belong_together_is_refused(tmp_path, cases, monkeypatch):
    path = embedded_model_dir() / "tokenizer.json"
    with pytest.raises(WrongModel, match="300 slots.*vocab size too small"):
        Grammar(path, [420], 300)
    with pytest.raises(WrongModel, match="out of range"):
        Grammar(path, [EMBEDDED_SLOTS - 1], EMBEDDED_SLOTS)
    with pytest.raises(WrongModel, match="no token </think>"):
        Grammar(path, [420], EMBEDDED_SLOTS, thinking=True)
    with pytest.raises(WrongModel, match="No such file"):
        Grammar(tmp_path / "tokenizer.json", [420], EMBEDDED_SLOTS)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WrongModel, match="copy tokenizer.json"):
        Grammar(tmp_path / "tokenizer.json", [420], EMBEDDED_SLOTS)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(EngineError, match="pip install llguidance"):
        Grammar(path, [420], EMBEDDED_SLOTS)


def test_prose_has_no_schema():
    assert Ask("What is this?").schema() is None


def test_a_label_nobody_asked_for_can_be_said(cases):
    """Held to the targets, a model would have to give what else it sees one of their names."""
    for task, place in ((Detect, '"bbox_2d": [1, 2, 3, 4]'), (Point, '"point_2d": [1, 2]')):
        constraint = cases["embedded"].grammar.constraint(task(("red cube", "mug")).schema())
        constraint.accept(cases["embedded"].encode(f'[{{{place}, "label": "black cube"}}]'))


def test_the_embedded_models_own_answers_stay_token_for_token():
    with SimCamera(*SIZE_PX, quality="fast") as camera:
        views = [camera.render(sample_scene(seed)).rgb for seed in range(930, 932)]
    engine, same = load_engine(), 0
    for rgb in views:
        for request in (
            Detect(("cube", "ball", "cylinder", "mug", "bowl")),
            Detect(("the red cube",)),
            Point(("ball",)),
            Detect(("red cube", "blue mug")),
        ):
            plain = ask(engine, [rgb], request.prompt())
            guided = ask(engine, [rgb], request.prompt(), schema=request.schema())
            assert guided.finish_reason == "stop" and request.read(guided, (View(SIZE_PX),)).dropped == 0
            try:
                whole = plain.finish_reason == "stop" and not request.read(plain, (View(SIZE_PX),)).dropped
            except MalformedAnswer:
                whole = False
            if whole:
                assert guided.token_ids == plain.token_ids
                assert np.allclose(guided.logprobs, plain.logprobs, atol=1e-3)
                assert guided.forward_passes < plain.forward_passes or not objects_in(guided.text)
                same += 1
    engine.close()
    assert same >= 6, "the model's own answers are the test's subject"


# -- at load -------------------------------------------------------------------------------------------------------------


def test_the_grammar_is_made_at_load_and_not_in_the_first_answers_time(monkeypatch):
    engine = load_engine(from_flat({"device": "cpu", "generation.guided": True}))
    monkeypatch.setattr(grammar, "Grammar", lambda *_: pytest.fail("the grammar was made within an answer"))
    said = ask(engine, [np.zeros((64, 64, 3), np.uint8)], Detect(("cube",)).prompt(), schema=Detect(("cube",)).schema())
    engine.close()
    assert said.text


def test_a_machine_that_cannot_guide_says_so_at_load(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(EngineError, match="pip install llguidance"):
        load_engine(from_flat({"device": "cpu", "engine": "onnxruntime", "generation.guided": True}))
