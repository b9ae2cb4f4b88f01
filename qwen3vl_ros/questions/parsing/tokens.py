"""The words, numbers, strings and punctuation of JSON-like text, and where each stands.

A string whose quotes are broken is read as far as what follows shows where it ends. Knows nothing of objects and lists.
Linear in the length of the text.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from functools import cached_property
from typing import Any, Iterable, NamedTuple

NUMBER = re.compile(r"[-+−]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


class Number(NamedTuple):
    """A number and the half-open range of characters it was written in."""

    value: float
    start: int
    end: int


class Token(NamedTuple):
    """kind: "number", "word", "string", "broken" (a string that never ends), or the punctuation character itself.

    start, end: its characters, of a string without the quotes. value: a number's float, a string's or word's text.
    """

    kind: str
    start: int
    end: int
    value: Any = None


_TOKEN = re.compile(
    r"""(?P<punct>[\[\](){}:=,])|(?P<quote>["'])|(?P<word>[^\W\d]\w*)"""
    rf"|(?P<number>{NUMBER.pattern})"
)
# After a closing quote comes structure, or a comma and then what may follow a comma; or, a comma lost, the next key.
_AFTER_STRING = re.compile(
    r"""\s*(?:[:=}\])]|$|```|\{\s*["']|["'][^\W\d]\w{0,40}["']\s*[:=]"""
    r"""|,\s*(?:["'{\[(\]})\d.-]|$|\w+\s*[:=]"""
    r"""|(?:null|true|false|NaN|Infinity|None|True|False)\b))"""
)
_AFTER_KEY = re.compile(r"""\s*[\["']""")  # a colon lost
_KEY_AHEAD = {q: re.compile(rf"{q}[^\W\d][\w ./-]{{0,40}}{q}\s*[:=]") for q in "\"'"}
_BODY = {q: re.compile(rf"[^{q}\\]*(?:\\.[^{q}\\]*)*", re.DOTALL) for q in "\"'"}
_UNFINISHED_KEY = re.compile(r"\s*\w+\s*[:=]")
_STRUCTURE = re.compile(r"[\[\]{}]")
_MAX_INNER_QUOTES = 4


# Same length each, so that characters keep their places.
_REPAIRS = (
    (r"\"", ' "'),
    (r"\n", "  "),
    ("&quot;", '"     '),
    *((c, '"') for c in "“”「」『』"),
    *((c, "'") for c in "‘’"),
    *zip("：，、［］【】｛｝（）", ":,,[][]{}()"),
)


def repaired(text: str) -> str:
    """The text with escaped and typographic quotes and brackets made plain, every character in its place."""
    for broken, plain in _REPAIRS:
        text = text.replace(broken, plain)
    return text


def tokens_of(text: str, at: int = 0) -> list[Token]:
    """The tokens of text[at:]; characters that belong to none are passed over. Never raises."""
    tokens = []
    for match in _TOKEN.finditer(text, at):
        begin, end = match.span()
        if begin < at:
            continue  # inside the last string, whose end no word and no number reaches across
        kind = match.lastgroup
        if kind == "punct":
            tokens.append(Token(text[begin], begin, end))
        elif kind == "number":
            tokens.append(Token(kind, begin, end, number_of(text[begin:end])))
        elif kind == "word":
            tokens.append(Token(kind, begin, end, text[begin:end]))
        elif (found := _string(text, begin)) is not None:
            kind, end, at = found
            tokens.append(Token(kind, begin + 1, end, unescaped(text[begin + 1 : end], text[begin])))
    return tokens


class Quoted:
    """The characters of text[start:] that stand in quotes: `at in quoted`. Most answers never ask: read when one does."""

    def __init__(self, text: str, start: int):
        self._text, self._start = text, start

    def __contains__(self, at: int) -> bool:
        starts, ends = self._strings
        i = bisect_right(starts, at) - 1
        return i >= 0 and at < ends[i]

    @cached_property
    def _strings(self) -> tuple[list[int], list[int]]:
        strings = [token for token in tokens_of(self._text, self._start) if token.kind == "string"]
        return [s.start for s in strings], [s.end for s in strings]


def numbers_in(text: str, begin: int, end: int) -> list[Number]:
    """The numbers written in text[begin:end]."""
    return [Number(number_of(m.group()), m.start(), m.end()) for m in NUMBER.finditer(text, begin, end)]


def blanked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with spaces for the characters of each (start, end), every other one in its place."""
    parts, at = [], 0
    for start, end in sorted(spans):
        if end > at:
            parts += [text[at:start], " " * (end - max(at, start))]
            at = end
    return "".join([*parts, text[at:]])


def number_of(written: str) -> float:
    return float(written.replace("−", "-"))


def unescaped(raw: str, quote: str = '"') -> str:
    """The characters that a string literal stands for; a broken escape stands for itself."""
    if "\\" not in raw:
        return raw
    literal = raw.replace("\\'", "'").replace('"', '\\"') if quote == "'" else raw
    try:
        return json.loads(f'"{literal}"', strict=False)
    except json.JSONDecodeError:
        return raw.replace("\\" + quote, quote)


def _string(text: str, opening: int) -> tuple[str, int, int] | None:
    """(kind, end of content, where to go on) of the string that opens at `opening`; None for a stray quote.

    A quote inside the string that no structure follows belongs to the string; one that begins a key shows that the
    string's own closing quote is missing.
    """
    quote = text[opening]
    if opening and not (text[opening - 1].isspace() or text[opening - 1] in "[]{}(),:=\"'`"):
        return None
    at = opening + 1
    for inner_quotes in range(_MAX_INNER_QUOTES + 1):
        at = _BODY[quote].match(text, at).end()
        if at >= len(text) or text[at] != quote:
            return None if _STRUCTURE.search(text, opening + 1) else ("broken", len(text), len(text))
        if _begins_a_key(text, opening, at):
            return _without_its_closing_quote(text, opening, at, first=inner_quotes == 0)
        if _AFTER_STRING.match(text, at + 1) or (inner_quotes == 0 and _is_key_without_colon(text, opening, at)):
            json_in_apostrophes = quote == "'" and _KEY_AHEAD['"'].search(text, opening + 1, at)
            return None if json_in_apostrophes else ("string", at, at + 1)
        if at == opening + 1:
            return None
        at += 1
    return None


def _begins_a_key(text: str, opening: int, at: int) -> bool:
    """Whether the quote at `at` opens the key of a next field, so that it cannot close the string before it."""
    return bool(_KEY_AHEAD[text[at]].match(text, at)) and text[opening + 1 : at].rstrip()[-1:] in (",", "{")


def _without_its_closing_quote(text: str, opening: int, at: int, first: bool) -> tuple[str, int, int] | None:
    content = text[opening + 1 : at]
    if first and (_UNFINISHED_KEY.match(content) or not re.search(r"\w", content)):
        return None
    end = opening + 1 + len(content.rstrip(" \t\r\n,{}[]\\"))
    return "string", end, end


def _is_key_without_colon(text: str, opening: int, at: int) -> bool:
    in_key_place = text[max(0, opening - 40) : opening].rstrip()[-1:] in ("{", ",")
    return in_key_place and bool(_AFTER_KEY.match(text, at + 1))
