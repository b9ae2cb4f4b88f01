"""From the tokens of an answer to its text: where the <think> part ends, and which token ends at which character.

Knows bytes and characters, no tokenizer and no network.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

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
