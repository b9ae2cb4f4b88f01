"""The fields of JSON-like text, and the lists that are their values: of numbers, of lists of numbers, of strings.

What is broken in a list costs the innermost one it stands in and no other. Knows nothing of objects and of what keys mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from qwen3vl_ros.questions.parsing.tokens import Number, Token, numbers_in

EMPTY_WORDS = {"null", "none", "nil", "undefined"}
NUMBERS_ONLY = re.compile(r"(?=\D{0,8}\d)[\s\d.,+\-eE\[\]()]+")
_INNERMOST = re.compile(r"[^\[\]()]+")
OPENING, CLOSING = ("[", "("), ("]", ")")
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


class ListParts:
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
        elif token.kind in OPENING:
            self._end_group()
            self._depth += 1
            self._deepest = max(self._deepest, self._depth)
        elif token.kind in CLOSING:
            self._close(empty=before is not None and before.kind in OPENING)
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
        """Make what was read the value of f. objects_follow: a brace stands behind the last token."""
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
        if not NUMBERS_ONLY.fullmatch(token.value):
            self.texts.append(Text(token.value, token.start, token.end))
            return
        if token.value.lstrip()[:1] in OPENING:
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
