"""Answers held to a JSON schema: which tokens may come next, and which have to.

`Grammar` belongs to a tokenizer, a `SchemaConstraint` to one answer. The answer is the JSON value and nothing else,
fenced or bare, laid out in one of the ways these models write it; the first object decides which, so that after it
keys, braces and separators leave no choice and cost no pass. An answer that is cut short (length, deadline, cancelled)
is the beginning of a valid one, not a valid one. Knows no network, no task and no boxes.

Source: llguidance (https://github.com/guidance-ai/llguidance).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from qwen3vl_ros.engine.decoding.transcript import THINK_CLOSE
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

_SCHEMAS_KEPT = 32
SPACED, COMPACT = (", ", ": "), (",", ":")  # how JSON is laid out: between items, behind keys
ROWS = (  # inside the objects of a list; before, between and behind them
    (SPACED, "[\n\t", ",\n\t", "\n]"),
    (SPACED, "[", ", ", "]"),
    (SPACED, "[\n", ",\n", "\n]"),
    (SPACED, "[\n  ", ",\n  ", "\n]"),
    (SPACED, "[\n    ", ",\n    ", "\n]"),
    (COMPACT, "[", ",", "]"),
    (COMPACT, "[\n\t", ",\n\t", "\n]"),
)


class Grammar:
    """Compiles schemas for one tokenizer.

    stop_ids: tokens that end an answer. slots: width of the network's logits; those beyond the tokenizer's tokens are
    never allowed. thinking: the prompt opens a <think> part, which is free text up to its end.
    """

    def __init__(self, tokenizer_json: Path, stop_ids: Iterable[int], slots: int, thinking: bool = False):
        self._library = _library()
        self.stop_ids, self.slots, path = tuple(sorted(stop_ids)), slots, Path(tokenizer_json)
        try:
            self._tokenizer = self._library.LLTokenizer(
                path.read_text(encoding="utf-8"), n_vocab=slots, eos_token=list(self.stop_ids)
            )
        except (OSError, ValueError) as error:
            raise WrongModel(
                f"{path} cannot guide answers of {slots} slots that end with {self.stop_ids}: {error}; "
                "copy tokenizer.json and config.json from the same original model"
            ) from error
        self._before = ""
        if thinking:
            close = self._tokenizer.tokenize_str(THINK_CLOSE, parse_special=True)
            if len(close) != 1:
                raise WrongModel(
                    f"{path} has no token {THINK_CLOSE}, but the chat template opens a <think> part; copy "
                    "both from the same original model"
                )
            self._before = rf"/(?s:.*)/ <[{close[0]}]> /\n{{0,2}}/ "
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def constraint(self, schema: dict[str, Any]) -> SchemaConstraint:
        """A fresh constraint for one answer. A schema is compiled once, in milliseconds.

        Raises InvalidInput for a schema that is none, that llguidance does not know, or that can never be kept.
        """
        try:
            key = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"the schema is no JSON: {error}; build it of dicts, lists, strings and finite numbers"
            ) from error
        if key in self._compiled:
            self._compiled.move_to_end(key)
        else:
            self._compiled[key] = self._compile(schema)
            while len(self._compiled) > _SCHEMAS_KEPT:
                self._compiled.popitem(last=False)
        return SchemaConstraint(self._compiled[key].deep_copy(), self.slots, self.stop_ids)

    def _compile(self, schema: dict[str, Any]):
        matcher_type = self._library.LLMatcher
        if not isinstance(schema, dict):
            raise InvalidInput(f"the schema is {type(schema).__name__}, not a dict")
        self._check(matcher_type.grammar_from_json_schema(schema))
        grammar = matcher_type.grammar_from_lark(_lark(schema, self._before))
        self._check(grammar)
        return matcher_type(self._tokenizer, grammar, log_level=0)

    def _check(self, grammar: str) -> None:
        failed, messages = self._library.LLMatcher.validate_grammar_with_warnings(grammar, self._tokenizer)
        if failed:
            said = " ".join(messages[0].split())[:300]
            raise InvalidInput(f"llguidance cannot use the schema: {said}; change that part, or ask without a schema")


class SchemaConstraint:
    """What may come next in one answer (`Constraint` in loop.py)."""

    def __init__(self, matcher, slots: int, stop_ids: tuple[int, ...]):
        self._matcher, self._slots, self._stop_ids = matcher, slots, stop_ids

    def forced(self) -> list[int]:
        """The tokens that have to come next, as the tokenizer writes their text; a stop token behind a whole answer; []
        where there is a choice, be it only between two ways to cut the same text into tokens."""
        return [self._stop_ids[0]] if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

    def allowed(self) -> np.ndarray:
        """Bool, one for each slot: what may come next. At least one is True.

        Raises EngineError if llguidance gives up, as it does where a schema is too intricate.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise EngineError(
                f"llguidance gave up on the answer: {self._matcher.get_error()}; simplify the schema, or "
                "ask without one"
            )
        return np.unpackbits(bits, count=self._slots, bitorder="little").view(bool)

    def accept(self, token_ids: Sequence[int]) -> None:
        """The answer went on with these tokens. Raises EngineError, and accepts none, if one may not follow."""
        fitting = self._matcher.validate_tokens(list(token_ids))
        if fitting < len(token_ids):
            raise EngineError(
                f"token {token_ids[fitting]} is none that the schema allows there; choose among the allowed ones"
            )
        self._matcher.consume_tokens(list(token_ids))


def _lark(schema: dict[str, Any], before: str) -> str:
    """The grammar of the whole answer in llguidance's dialect of Lark.

    One alternative for each layout, complete, so that a layout once begun is kept to the end.
    """
    plain_list = is_plain_list(schema)
    inner = schema["items"] if plain_list else schema
    names = {SPACED: "spaced", COMPACT: "compact"}
    rules = [f"{name}: %json {json.dumps(inner | _separated(*style))}" for style, name in names.items()]
    values = [*names.values()]
    if plain_list:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        count = f"{{{max(least, 1) - 1},{'' if most is None else most - 1}}}"
        values = ['"[]"'] if not least else []
        for i, (style, *around) in enumerate(ROWS if most != 0 else ()):
            before_it, between, behind = map(json.dumps, around)
            rules.append(f"rows{i}: {before_it} {names[style]} ({between} {names[style]}){count} {behind}")
            values.append(f"rows{i}")
    return "\n".join(
        [f"start: {before}answer", r'answer: "```json\n" value "\n```" | value', f"value: {' | '.join(values)}", *rules]
    )


def _separated(item: str, key: str) -> dict[str, Any]:
    return {"x-guidance": {"whitespace_flexible": False, "item_separator": item, "key_separator": key}}


def is_plain_list(schema: dict[str, Any]) -> bool:
    return (
        schema.get("type") == "array"
        and isinstance(schema.get("items"), dict)
        and schema.keys() <= {"type", "items", "minItems", "maxItems"}
    )


def _library():
    try:
        import llguidance  # here, because only guided answers need it
    except ImportError as error:
        raise EngineError(
            "guided answers need the package llguidance, which is not installed: pip install llguidance, "
            "or set generation.guided to false"
        ) from error
    return llguidance
