"""From the tokens of an answer to its text: where the <think> part ends, which token ends at which character, and the text
while it grows.

Knows bytes and characters, no tokenizer and no network.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Callable

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Transcript:
    """What the tokens say: the answer, the tokens of it, and the reasoning before it (see types.Generation)."""

    text: str
    reasoning: str
    first_token: int
    last_token: int
    token_ends: list[int]


def transcribe(pieces: list[bytes], thinking: bool) -> Transcript:
    """Text of the answer and where in it each token ends; tokens [first_token, last_token) are those of the answer.

    thinking: the prompt opened a <think> part. Surrounding white space and the <think> part belong to no token of
    the answer. A character whose bytes are spread over tokens ends with the last of them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    parts, unfinished = [], []  # unfinished: whether a token ends within a character
    for piece in pieces:
        parts.append(decoder.decode(piece))
        unfinished.append(bool(decoder.getstate()[0]))
    if parts:
        parts[-1] += decoder.decode(b"", final=True)
    raw = "".join(parts)
    start, reasoning = _answer_start(raw, thinking)
    text = raw[start:]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    ends: list[int] = []
    first = last = position = 0
    for index, part in enumerate(parts):
        begin, position = position, position + len(part)
        if position > start and begin < start + len(text):
            if not ends:
                first = _start_of_character(parts, unfinished, index)
                ends += [0] * (index - first)
            last = index + 1
            ends.append(min(position - start, len(text)))
        elif ends and begin < start + len(text):
            last = index + 1
            ends.append(ends[-1])
    return Transcript(text, reasoning, first, last, ends)


def _start_of_character(parts: list[str], unfinished: list[bool], index: int) -> int:
    """The token that gave the first bytes to the character which token `index` completes."""
    while index > 0 and unfinished[index - 1]:
        index -= 1
        if parts[index]:  # it ended another character before
            break
    return index


def _answer_start(raw: str, thinking: bool) -> tuple[int, str]:
    """Where the answer begins in `raw`, and the reasoning before it."""
    opened = raw.lstrip().startswith(THINK_OPEN)
    if not (thinking or opened):
        return 0, ""
    reasoning, closed, _ = raw.partition(THINK_CLOSE)
    start = len(reasoning) + len(closed)
    return start, reasoning.strip().removeprefix(THINK_OPEN).strip()


class TextStream:
    """Hands out the text of an answer while its bytes come: the parts together are the text that `transcribe` finds.

    So a part has no half of a character, nothing of the <think> part and no white space around the answer: what may
    still become one of these waits for the bytes behind it. encoding: of the bytes, which may be cut anywhere.
    """

    def __init__(self, on_text: Callable[[str], None], thinking: bool, encoding: str = "utf-8"):
        self._on_text = on_text
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._thinks: bool | None = thinking or None  # None: not known yet
        self._begun = False
        self._held = ""

    def add(self, piece: bytes, last: bool = False) -> None:
        """Take the next bytes of the answer; with the last ones, what waits is handed out or left out."""
        held = self._held + self._decoder.decode(piece, last)
        if self._thinks is None:
            begin = held.lstrip()
            if not begin.startswith(THINK_OPEN) and THINK_OPEN.startswith(begin) and not last:
                self._held = held
                return
            self._thinks = begin.startswith(THINK_OPEN)
        if self._thinks:
            _, closed, answer = held.partition(THINK_CLOSE)
            if not closed:
                self._held = held[1 - len(THINK_CLOSE) :]
                return
            held, self._thinks = answer, False
        text = held.rstrip() if self._begun else held.strip()
        self._held = held[len(held.rstrip()) :]
        if text:
            self._begun = True
            self._on_text(text)
