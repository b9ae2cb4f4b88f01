"""Reads the JSON-like text of a language model in one pass: objects, their fields, and where each stands in the text.

`json` reads all or nothing and forgets positions; here a broken place costs the object it stands in and no other, and
every number keeps its characters, so that it can be traced to the tokens that said it. On valid JSON the strings,
numbers and objects are those of `json.loads`. Knows nothing of boxes, labels or images.

Linear in the length of the text: no part of it is read more than a fixed number of times, and nothing recurses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from qwen3vl_ros.questions.parsing.tokens import Number, Token, numbers_in, tokens_of

EMPTY_WORDS = {"null", "none", "nil", "undefined"}
_NUMBERS_ONLY = re.compile(r"(?=\D{0,8}\d)[\s\d.,+\-eE\[\]()]+")
_INNERMOST = re.compile(r"[^\[\]()]+")
_OPENING, _CLOSING = ("[", "("), ("]", ")")
_BETWEEN = " \t\r\n\u00a0\"'"


class Text(NamedTuple):
    """A string and the half-open range of its characters."""

    value: str
    start: int
    end: int


class Numbers(list):
    """The `Number`s of one innermost list. sound: nothing but numbers stood there, and the list came to its end."""

    sound = True


@dataclass(eq=False, slots=True)
class Field:
    """`key: value`, the value being numbers (`groups`, one for each innermost list), text, or neither.

    kind: "numbers"; "text"; "empty" ([], null, none without quotes, ""); "open" (an object or list of objects
    follows); "bad".
    texts: of a list of strings, None for a null among them; () for a single string, which is `text` like the first of these.
    start, end: characters of the value. cut: the whole text ended inside the value.
    """

    key: str
    key_start: int
    kind: str = "bad"
    groups: list[Numbers] = field(default_factory=list)
    text: str = ""
    texts: tuple[Text | None, ...] = ()
    start: int = 0
    end: int = 0
    cut: bool = False


@dataclass(eq=False, slots=True)
class Object:
    """What stood between one pair of braces, or, with `braced` False, outside of any.

    start, end: its characters. parent: the enclosing object; within: its field that this one is (part of) the value of.
    """

    start: int
    end: int
    braced: bool = True
    closed: bool = False
    fields: list[Field] = field(default_factory=list)
    children: int = 0
    parent: Object | None = None
    within: Field | None = None


@dataclass(eq=False)
class Reading:
    """objects: in the order they begin. bare: lists of numbers that are no field's value, innermost lists only.

    rows: of lists that are no field's value and hold as many strings as lists of numbers, in turn: each pair of them.
    """

    objects: list[Object]
    bare: list[Numbers] = field(default_factory=list)
    rows: list[tuple[Text, Numbers]] = field(default_factory=list)


def read(text: str, start: int = 0) -> Reading:
    """Everything readable in text[start:]. Never raises, whatever the text is."""
    return _Reader(text, start).run()


class _Reader:
    def __init__(self, text: str, start: int):
        self.text = text
        self.tokens = tokens_of(text, start)
        self.at = 0
        self.root = Object(start, len(text), braced=False)
        self.reading = Reading([])
        self.stack = [self.root]

    def run(self) -> Reading:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token.kind in _OPENING:
                self._bare_list(token)
            elif token.kind in ("string", "word") and self._is_key():
                self._field()
            else:
                if token.kind == "{":
                    self._open(token)
                elif token.kind == "}":
                    self._close(token)
                self.at += 1
        self.reading.objects += [o for o in (self.root,) if o.fields]
        self.reading.objects.sort(key=lambda o: o.fields[0].key_start if o.fields and not o.braced else o.start)
        return self.reading

    def _open(self, brace: Token) -> None:
        parent = self.stack[-1]
        if parent.braced and not parent.fields and not parent.children:
            return  # nothing but fields can follow a brace, so one of the two is stray
        parent.children += 1
        last = parent.fields[-1] if parent.fields else None
        within = last if last and last.kind == "open" else None
        child = Object(brace.start, len(self.text), parent=parent, within=within)
        self.reading.objects.append(child)
        self.stack.append(child)

    def _close(self, brace: Token) -> None:
        if len(self.stack) > 1:
            closing = self.stack.pop()
            closing.closed, closing.end = True, brace.end
        elif self.root.fields:  # the brace of an object whose opening brace is missing
            self.root.closed, self.root.end = True, brace.end
            self.reading.objects.append(self.root)
            self.root = Object(brace.end, len(self.text), braced=False)
            self.stack = [self.root]

    def _kind(self, offset: int = 0) -> str:
        i = self.at + offset
        return self.tokens[i].kind if i < len(self.tokens) else ""

    def _is_key(self) -> bool:
        """Whether the token here is a key: a colon follows, or it is a quoted one whose colon was lost."""
        following = self._kind(1)
        if following in (":", "="):
            return True
        return self._kind() == "string" and len(self.stack) > 1 and following in ("[", "string", "number")

    def _bare_list(self, opening: Token) -> None:
        parts = self._list(Field("", opening.start))
        self.reading.rows += parts.rows()
        if not parts.texts:
            self.reading.bare += [group for group in parts.groups if group and group.sound]

    def _field(self) -> None:
        key = self.tokens[self.at]
        self.at += 1
        while self._kind() in (":", "="):
            self.at += 1
        f = Field(key.value, key.start)
        self.stack[-1].fields.append(f)
        if self.at >= len(self.tokens):
            f.start = f.end = len(self.text)
            f.cut = True
            return
        value = self.tokens[self.at]
        f.start, f.end = value.start, value.end
        if value.kind in _OPENING or value.kind == "number":
            self._list(f).into(f, objects_follow=self._kind() == "{")
            if value.kind == "number" and f.groups and f.groups[-1]:
                f.text = self.text[f.start : f.groups[-1][-1].end]
        elif value.kind == "{":
            f.kind = "open"
        elif value.kind in ("string", "broken"):
            self._string(f, value)
            self.at += 1
        elif value.kind == "word":
            self._bare_text(f)

    def _string(self, f: Field, string: Token) -> None:
        f.text, f.cut = string.value, string.kind == "broken"
        if _NUMBERS_ONLY.fullmatch(string.value):  # "[1, 2, 3, 4]" or "12": numbers in quotes
            f.groups = lists_in(self.text, f.start, f.end)
            f.kind = "numbers"
        else:
            f.kind = "text" if string.value.strip() else "empty"

    def _bare_text(self, f: Field) -> None:
        """A value without quotes: the words up to the next structure or the end of the line."""
        begin = end = f.start
        while self._kind() in ("word", "number") and self._kind(1) not in (":", "="):
            if "\n" in self.text[end : self.tokens[self.at].start]:
                break
            end = self.tokens[self.at].end
            self.at += 1
        f.end = end
        f.text = self.text[begin:end]
        f.kind = "bad" if not f.text else "empty" if f.text.lower() in EMPTY_WORDS else "text"
        f.cut = self.at >= len(self.tokens)

    def _list(self, f: Field) -> _ListParts:
        """What the list that begins here holds, up to its end or to whatever shows that its end is missing."""
        parts = _ListParts(self.text)
        while not parts.ended:
            if self.at >= len(self.tokens):
                f.cut = True
                break
            token = self.tokens[self.at]
            if token.kind in ("{", "}") or (token.kind in ("string", "word") and self._kind(1) in (":", "=")):
                break
            self.at += 1
            f.end = token.end
            parts.take(token)
        parts.finish(cut=f.cut)
        return parts


class _ListParts:
    """The innermost lists of numbers, or the strings, of a list that is being read."""

    def __init__(self, text: str):
        self._text = text
        self.groups: list[Numbers] = []
        self.texts: list[Text | None] = []
        self.ended = False
        self._group = Numbers()
        self._depth = self._deepest = 0
        self._before: Token | None = None
        self._nulls = False

    def take(self, token: Token) -> None:
        before, self._before = self._before, token
        about_numbers = before is not None and (self._group or token.kind == "number")
        if about_numbers and self._text[before.end : token.start].strip(_BETWEEN):
            self._group.sound = False  # 10%, 1;2 or 90°: not the numbers we take them for
        if token.kind == "number":
            self._group.append(Number(token.value, token.start, token.end))
        elif token.kind in _OPENING:
            self._end_group()
            self._depth += 1
            self._deepest = max(self._deepest, self._depth)
        elif token.kind in _CLOSING:
            self._close(empty=before is not None and before.kind in _OPENING)
        elif token.kind in ("string", "broken"):
            self._string(token)
        elif token.kind == "word" and token.value.lower() in EMPTY_WORDS and not self._group:
            self._nulls = True
            self.groups.append(Numbers())
            self.texts.append(None)
        elif token.kind != ",":
            self._group.sound = False

    def finish(self, cut: bool) -> None:
        """To be called once, behind the last token. cut: the whole text ended in the list."""
        if cut and self._group and (self._depth > 0 or len(self._group) > 1):
            self._group.sound = False
        self._end_group()
        if self._nulls and self._deepest < 2:  # a null for a number, where null for a list would be an empty one
            for group in self.groups:
                group.sound = False

    def into(self, f: Field, objects_follow: bool) -> None:
        """Make what was read the value of f."""
        texts = [text for text in self.texts if text is not None]
        numbers = any(self.groups)
        if texts and not numbers:
            f.kind, f.texts = "text", tuple(self.texts)
            f.text, f.start, f.end = texts[0]
        elif numbers and not texts and any(group and group.sound for group in self.groups):
            f.kind, f.groups = "numbers", self.groups
        elif not numbers and not texts and objects_follow and not self.ended:
            f.kind = "open"
        elif not self.groups and not texts:
            f.kind = "empty" if self.ended else "bad"
        elif not numbers and not texts and all(group.sound for group in self.groups):
            f.kind = "empty"  # [[]] or [[], []]

    def rows(self) -> list[tuple[Text, Numbers]]:
        """Each string with its list of numbers, where they stand in turn: [["mug", [1, 2]], ["cube", [3, 4]]]."""
        if not self.texts or len(self.texts) != len(self.groups) or None in self.texts:
            return []
        pairs = list(zip(self.texts, self.groups))
        if not all(group and group.sound for _, group in pairs):
            return []
        starts = [start for text, group in pairs for start in sorted((text.start, group[0].start))]
        return pairs if starts == sorted(starts) else []

    def _string(self, token: Token) -> None:
        if not _NUMBERS_ONLY.fullmatch(token.value):
            self.texts.append(Text(token.value, token.start, token.end))
            return
        if token.value.lstrip()[:1] in _OPENING:
            self._end_group()
            self.groups += lists_in(self._text, token.start, token.end)
        else:
            self._group += numbers_in(self._text, token.start, token.end)

    def _close(self, empty: bool) -> None:
        self._end_group()
        if empty and self._depth > 1:
            self.groups.append(Numbers())
        self._depth -= 1
        self.ended = self._depth <= 0

    def _end_group(self) -> None:
        if self._group or not self._group.sound:
            self.groups.append(self._group)
        self._group = Numbers()


def lists_in(text: str, begin: int, end: int) -> list[Numbers]:
    """The innermost lists of numbers in text[begin:end], which holds nothing else."""
    parts = [numbers_in(text, m.start(), m.end()) for m in _INNERMOST.finditer(text, begin, end)]
    return [Numbers(part) for part in parts if part]
