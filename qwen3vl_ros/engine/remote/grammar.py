"""JSON schema -> a grammar in GBNF for servers that take one: the layouts these models write, and no white space beside.

What servers make of a bare schema lets white space stand anywhere and for ever, and models walk into it. Numbers are held to
their digits, not to their bounds: the readers of answers look at those. Knows no HTTP.

Source: GBNF as llama.cpp documents it (grammars/README.md); xgrammar and llguidance read the same.
"""

from __future__ import annotations

import json
import math
from typing import Any

from qwen3vl_ros.engine.decoding.grammar import COMPACT, ROWS, SPACED, is_plain_list

_CHARACTER = r'([^"\\\x00-\x1f\x7f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))'
_VISIBLE = r'[^"\\\x00-\x20\x7f]'
_STRING_MOST, _DIGITS, _DECIMALS = 1000, 12, 6  # where the schema names no bound: everything has to end
_FIELDS = {  # owner of a listed model -> the field that its server takes a grammar in
    "vllm": lambda grammar: {"structured_outputs": {"grammar": grammar}},
    "sglang": lambda grammar: {"ebnf": grammar},
    "llamacpp": lambda grammar: {"grammar": grammar},
}
GUIDES = {"response_format", "structured_outputs", "ebnf", "grammar"}  # what a field of the kind is called


class _Unknown(Exception):
    """A part of a schema that this knows no grammar for."""


def guidance(schema: dict[str, Any], owner: str, thinks: bool = False) -> dict[str, Any]:
    """The fields of a request that hold its answer to `schema`: a grammar for a server known to take one, else the schema.

    owner: `owned_by` of the served model. thinks: thoughts up to </think> stand before the answer, in the same text.
    """
    field = _FIELDS.get(owner.lower())
    try:
        if field is not None:
            return field(gbnf(schema, thinks))
    except _Unknown:
        pass
    json_schema = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def gbnf(schema: dict[str, Any], thinks: bool = False) -> str:
    """The grammar of the whole answer, fenced or bare. A layout once begun is kept to its end."""
    plain = is_plain_list(schema)
    inner = schema["items"] if plain else schema
    spaced, compact = (_value(inner, style) for style in (SPACED, COMPACT))
    rules, values = [f"spaced ::= {spaced}", f"compact ::= {compact}"], ["spaced", "compact"]
    if plain:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        values = [] if least else [_literal("[]")]
        names = {SPACED: "spaced", COMPACT: "compact"}
        for i, (style, *around) in enumerate(ROWS if most != 0 else ()):
            before, between, behind = map(_literal, around)
            more = _times(f"({between} {names[style]})", max(least, 1) - 1, None if most is None else most - 1)
            rules.append(f"rows{i} ::= {before} {names[style]} {more} {behind}")
            values.append(f"rows{i}")
    thoughts = r'([^<] | "<" [^/])* "</think>" [\n]{0,2} ' if thinks else ""
    fenced = rf"{_literal('```json' + chr(10))} value {_literal(chr(10) + '```')}"
    return "\n".join([f"root ::= {thoughts}({fenced} | value)", f"value ::= {' | '.join(values)}", *rules]) + "\n"


def _value(schema: dict[str, Any], style: tuple[str, str]) -> str:
    if "enum" in schema:
        return f"({' | '.join(_literal(json.dumps(v, ensure_ascii=False)) for v in schema['enum'])})"
    kinds = {
        "object": _object,
        "array": _array,
        "string": _string,
        "integer": _integer,
        "number": _number,
        "boolean": lambda *_: '("true" | "false")',
    }
    if schema.get("type") not in kinds:
        raise _Unknown
    return kinds[schema["type"]](schema, style)


def _object(schema: dict[str, Any], style: tuple[str, str]) -> str:
    properties = schema.get("properties", {})
    if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
        raise _Unknown
    between, behind_key = style
    parts = [f"{_literal(json.dumps(name) + behind_key)} {_value(of, style)}" for name, of in properties.items()]
    return f"({_literal('{')} {f' {_literal(between)} '.join(parts)} {_literal('}')})"


def _array(schema: dict[str, Any], style: tuple[str, str]) -> str:
    least, most, first = schema.get("minItems", 0), schema.get("maxItems"), schema.get("prefixItems")
    between = _literal(style[0])
    if first is not None:
        if not least == most == len(first):
            raise _Unknown
        items = f" {between} ".join(_value(of, style) for of in first)
        return f'("[" {items} "]")'
    item = _value(schema["items"], style)
    if most == 0:
        return '"[]"'
    more = _times(f"({between} {item})", max(least, 1) - 1, None if most is None else most - 1)
    some = f'"[" {item} {more} "]"'
    return f"({some})" if least else f'("[]" | {some})'


def _string(schema: dict[str, Any], style: tuple[str, str]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", _STRING_MOST)
    quote = _literal('"')
    if "pattern" in schema:  # of schemas.LINE: it begins with something to be seen
        return f"({quote} {_VISIBLE} {_times(_CHARACTER, 0, _STRING_MOST - 1)} {quote})"
    return f"({quote} {_times(_CHARACTER, least, most)} {quote})"


def _integer(schema: dict[str, Any], style: tuple[str, str]) -> str:
    sign = "" if schema.get("minimum", -1) >= 0 else '"-"? '
    digits = len(str(int(max(abs(schema.get("minimum", 0)), abs(schema.get("maximum", 10**_DIGITS))))))
    return f"({sign}{_whole(digits)})"


def _number(schema: dict[str, Any], style: tuple[str, str]) -> str:
    low, high = (schema.get(f"{end}imum", schema.get(f"exclusive{end.title()}imum")) for end in ("min", "max"))
    sign = "" if low is not None and low >= 0 else '"-"? '
    known = [abs(v) for v in (low, high) if v is not None]
    digits = len(str(int(max(known)))) if len(known) == 2 else _DIGITS
    step = schema.get("multipleOf")
    decimals = max(round(-math.log10(step)), 0) if step else _DECIMALS
    fraction = f' ("." [0-9]{{1,{decimals}}})?' if decimals else ""
    return f"({sign}{_whole(digits)}{fraction})"


def _whole(digits: int) -> str:
    return f'("0" | [1-9] {_times("[0-9]", 0, digits - 1)})'


def _times(part: str, least: int, most: int | None) -> str:
    if most == 0:
        return ""
    return f"{part}{{{least},{'' if most is None else most}}}"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
