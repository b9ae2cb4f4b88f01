"""Reads the JSON-like text of a language model in one pass: objects, their fields, and where each stands in the text.

`json` reads all or nothing and forgets positions; here a broken place costs the object it stands in and no other, and
every number keeps its characters, so that it can be traced to the tokens that said it. On valid JSON the strings,
numbers and objects are those of `json.loads`. Knows nothing of boxes, labels or images.

Linear in the length of the text: no part of it is read more than a fixed number of times, and nothing recurses.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple


class Number(NamedTuple):
    """A number and the half-open range of characters it was written in."""

    value: float
    start: int
    end: int


@dataclass(eq=False, slots=True)
class Field:
    """`key: value`, the value being numbers (`groups`, one for each innermost list), text, or neither.

    kind: "numbers"; "text"; "empty" ([], null, none without quotes, ""); "open" (an object or list of objects
    follows); "bad".
    start, end: characters of the value. cut: the whole text ended inside the value.
    """

    key: str
    key_start: int
    kind: str = "bad"
    groups: list[list[Number]] = field(default_factory=list)
    text: str = ""
    start: int = 0
    end: int = 0
    cut: bool = False


@dataclass(eq=False, slots=True)
class Object:
    """What stood between one pair of braces, or, with `braced` False, outside of any.

    parent: the enclosing object; within: its field that this one is (part of) the value of.
    """

    start: int
    braced: bool = True
    closed: bool = False
    fields: list[Field] = field(default_factory=list)
    children: int = 0
    parent: Object | None = None
    within: Field | None = None


@dataclass(eq=False)
class Reading:
    """objects: in the order they begin. bare: lists of numbers that are no field's value, innermost lists only."""

    objects: list[Object]
    bare: list[list[Number]]


NUMBER = re.compile(r"[-+−]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_TOKEN = re.compile(
    r"""(?P<punct>[\[\](){}:=,])|(?P<quote>["'])|(?P<word>[^\W\d]\w*)"""
    rf"|(?P<number>{NUMBER.pattern})"
)
_NUMBERS_ONLY = re.compile(r"(?=\D{0,8}\d)[\s\d.,+\-eE\[\]()]+")
EMPTY_WORDS = {"null", "none", "nil", "undefined"}
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


def read(text: str, start: int = 0) -> Reading:
    """Everything readable in text[start:]. Never raises, whatever the text is."""
    return _Reader(text, start).run()


class _Reader:
    def __init__(self, text: str, start: int):
        self.text = text
        self.tokens = self._tokens(start)
        self.at = 0
        self.root = Object(start, braced=False)
        self.reading = Reading([], [])
        self.stack = [self.root]

    def run(self) -> Reading:
        kinds, n = self.tokens, len(self.tokens)
        while self.at < n:
            kind, begin, end, value = kinds[self.at]
            if kind == "{":
                self._open(begin)
            elif kind == "}":
                self._close()
            elif kind in "[(":
                self.reading.bare += self._numbers(Field("", begin)).groups
                continue
            elif kind in ("string", "word") and self._is_key():
                self._field()
                continue
            self.at += 1
        self.reading.objects += [o for o in (self.root,) if o.fields]
        self.reading.objects.sort(key=lambda o: o.fields[0].key_start if o.fields and not o.braced else o.start)
        return self.reading

    def _open(self, begin: int) -> None:
        parent = self.stack[-1]
        if parent.braced and not parent.fields and not parent.children:
            return  # nothing but fields can follow a brace, so one of the two is stray
        parent.children += 1
        last = parent.fields[-1] if parent.fields else None
        child = Object(begin, parent=parent, within=last if last and last.kind == "open" else None)
        self.reading.objects.append(child)
        self.stack.append(child)

    def _close(self) -> None:
        if len(self.stack) > 1:
            self.stack.pop().closed = True
        elif self.root.fields:  # the brace of an object whose opening brace is missing
            self.root.closed = True
            self.reading.objects.append(self.root)
            self.root = Object(self.tokens[self.at][2], braced=False)
            self.stack = [self.root]

    def _kind(self, offset: int = 0) -> str:
        i = self.at + offset
        return self.tokens[i][0] if i < len(self.tokens) else ""

    def _is_key(self) -> bool:
        """Whether the token here is a key: a colon follows, or it is a quoted one whose colon was lost."""
        following = self._kind(1)
        if following in (":", "="):
            return True
        return self._kind() == "string" and len(self.stack) > 1 and following in ("[", "string", "number")

    def _field(self) -> None:
        _, begin, _, key = self.tokens[self.at]
        self.at += 1
        while self._kind() in (":", "="):
            self.at += 1
        f = Field(key, begin)
        self.stack[-1].fields.append(f)
        if self.at >= len(self.tokens):
            f.start = f.end = len(self.text)
            f.cut = True
            return
        kind, f.start, f.end, value = self.tokens[self.at]
        if kind in ("[", "(", "number"):
            self._numbers(f)
            if kind == "number" and f.groups:
                f.text = self.text[f.start : f.groups[-1][-1].end]
        elif kind == "{":
            f.kind = "open"
        elif kind in ("string", "broken"):
            self._text(f, value)
            f.cut = kind == "broken"
            self.at += 1
        elif kind == "word":
            self._bare_text(f)

    def _text(self, f: Field, value: str) -> None:
        if _NUMBERS_ONLY.fullmatch(value):  # "[1, 2, 3, 4]" or "12": numbers in quotes
            found = self._numbers_in(f.start, f.end)
            f.groups = [found]
            f.kind = "numbers"
        else:
            f.kind = "text" if value.strip() else "empty"
        f.text = value

    def _bare_text(self, f: Field) -> None:
        """A value without quotes: the words up to the next structure or the end of the line."""
        begin = end = f.start
        while self._kind() in ("word", "number") and self._kind(1) not in (":", "="):
            if "\n" in self.text[end : self.tokens[self.at][1]]:
                break
            end = self.tokens[self.at][2]
            self.at += 1
        f.end = end
        f.text = self.text[begin:end]
        f.kind = "bad" if not f.text else "empty" if f.text.lower() in EMPTY_WORDS else "text"
        f.cut = self.at >= len(self.tokens)

    def _numbers(self, f: Field) -> Field:
        """Read a list of numbers into f, up to its end or to whatever shows that its end is missing."""
        depth, group, texts, bad, before = 0, [], [], False, None
        while True:
            if self.at >= len(self.tokens):
                f.cut = True
                break
            kind, begin, end, value = self.tokens[self.at]
            if kind in ("{", "}"):
                break
            if kind in ("string", "word") and self._kind(1) in (":", "="):
                break
            self.at += 1
            f.end = end
            if before is not None and self.text[before:begin].strip(" \t\r\n\u00a0\"'"):
                bad = True  # 10%, 1;2 or 90°: not the numbers we take them for
            before = end
            if kind == "number":
                group.append(Number(value, begin, end))
            elif kind in ("[", "("):
                depth += 1
            elif kind in ("]", ")"):
                depth -= 1
            elif kind in ("string", "broken") and _NUMBERS_ONLY.fullmatch(value):
                group += self._numbers_in(begin, end)
            elif kind in ("string", "broken"):
                texts.append((value, begin, end))
            elif kind != ",":
                bad = True
            if kind in ("[", "(", "]", ")") and group:
                f.groups.append(group)
                group = []
            if depth <= 0 and kind in ("]", ")"):
                break
        if group:
            f.groups.append(group)
        f.kind = self._kind_of_list(f, texts, bad, closed=depth <= 0 and not f.cut)
        if f.kind == "text":
            f.text, f.start, f.end = texts[0]
        return f

    def _kind_of_list(self, f: Field, texts: list, bad: bool, closed: bool) -> str:
        if bad or (texts and f.groups):
            f.groups = []
            return "bad"
        if f.groups:
            return "numbers"
        if texts:
            return "text"
        if closed:
            return "empty"
        return "open" if self._kind() == "{" else "bad"

    def _numbers_in(self, begin: int, end: int) -> list[Number]:
        return [Number(_float(m.group()), m.start(), m.end()) for m in NUMBER.finditer(self.text, begin, end)]

    def _tokens(self, at: int) -> list[tuple[str, int, int, object]]:
        """(kind, start, end, value); the kind of punctuation is the character itself, strings exclude their quotes."""
        text, tokens = self.text, []
        while (match := _TOKEN.search(text, at)) is not None:
            begin, at = match.span()
            kind = match.lastgroup
            if kind == "punct":
                tokens.append((match.group(), begin, at, None))
            elif kind == "number":
                tokens.append(("number", begin, at, _float(match.group())))
            elif kind == "word":
                tokens.append(("word", begin, at, match.group()))
            else:
                found = self._string(begin)
                if found is not None:
                    kind, end, at = found
                    tokens.append((kind, begin + 1, end, unescaped(text[begin + 1 : end], text[begin])))
        return tokens

    def _string(self, opening: int) -> tuple[str, int, int] | None:
        """(kind, end of content, where to go on) of the string that opens here; None for a stray quote.

        A quote inside the string that no structure follows belongs to the string; one that begins a key shows that
        the string's own closing quote is missing.
        """
        text, quote = self.text, self.text[opening]
        if opening and not (text[opening - 1].isspace() or text[opening - 1] in "[]{}(),:=\"'`"):
            return None
        at = opening + 1
        in_key_place = text[max(0, opening - 40) : opening].rstrip()[-1:] in ("{", ",")
        for passed in range(_MAX_INNER_QUOTES + 1):
            at = _BODY[quote].match(text, at).end()
            if at >= len(text) or text[at] != quote:
                return None if _STRUCTURE.search(text, opening + 1) else ("broken", len(text), len(text))
            if _KEY_AHEAD[quote].match(text, at) and text[opening + 1 : at].rstrip()[-1:] in (",", "{"):
                content = text[opening + 1 : at]
                if passed == 0 and (_UNFINISHED_KEY.match(content) or not re.search(r"\w", content)):
                    return None
                end = opening + 1 + len(content.rstrip(" \t\r\n,{}[]\\"))
                return "string", end, end
            if _AFTER_STRING.match(text, at + 1) or (passed == 0 and in_key_place and _AFTER_KEY.match(text, at + 1)):
                if quote == "'" and _KEY_AHEAD['"'].search(text, opening + 1, at):
                    return None  # apostrophes around JSON, not a string
                return "string", at, at + 1
            if at == opening + 1:
                return None
            at += 1
        return None


def _float(written: str) -> float:
    return float(written.replace("−", "-"))


def unescaped(raw: str, quote: str = '"') -> str:
    """The characters that a string literal stands for; a broken escape stands for itself."""
    if "\\" not in raw:
        return raw
    try:
        return json.loads(
            '"' + raw.replace("\\'", "'").replace('"', '\\"') + '"' if quote == "'" else f'"{raw}"', strict=False
        )
    except json.JSONDecodeError:
        return raw.replace("\\" + quote, quote)
