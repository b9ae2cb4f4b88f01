"""Reads the JSON-like text of a language model in one pass: objects, their fields, and where each stands in the text.

`json` reads all or nothing and forgets positions; here a broken place costs the object it stands in and no other, and
every number keeps its characters, so that it can be traced to the tokens that said it. On valid JSON the strings,
numbers and objects are those of `json.loads`. Knows nothing of boxes, labels or images.

Linear in the length of the text: no part of it is read more than a fixed number of times, and nothing recurses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qwen3vl_ros.questions.parsing.fields import (
    EMPTY_WORDS,
    NUMBERS_ONLY,
    OPENING,
    Field,
    ListParts,
    Numbers,
    Text,
    lists_in,
)
from qwen3vl_ros.questions.parsing.tokens import Token, tokens_of


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
class Parsed:
    """objects: in the order they begin. bare: lists of numbers that are no field's value, innermost lists only.

    rows: of lists that are no field's value and hold as many strings as lists of numbers, in turn: each pair of them.
    """

    objects: list[Object]
    bare: list[Numbers] = field(default_factory=list)
    rows: list[tuple[Text, Numbers]] = field(default_factory=list)


def read(text: str, start: int = 0) -> Parsed:
    """Everything readable in text[start:]. Never raises, whatever the text is."""
    return _Reader(text, start).run()


class _Reader:
    def __init__(self, text: str, start: int):
        self.text = text
        self.tokens = tokens_of(text, start)
        self.at = 0
        self.root = Object(start, len(text), braced=False)
        self.reading = Parsed([])
        self.stack = [self.root]

    def run(self) -> Parsed:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token.kind in OPENING:
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
        if value.kind in OPENING or value.kind == "number":
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
        if NUMBERS_ONLY.fullmatch(string.value):  # "[1, 2, 3, 4]" or "12": numbers in quotes
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

    def _list(self, f: Field) -> ListParts:
        """What the list that begins here holds, up to its end or to whatever shows that its end is missing."""
        parts = ListParts(self.text)
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
