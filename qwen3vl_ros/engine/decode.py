"""The decode loop: which token comes next, when to stop, and what the tokens say. One loop for every runtime.

A runtime gives two functions, `prefill() -> Choice` and `step(token_id) -> Choice`; everything else (stop tokens,
limits, cancel, deadline, repetition, log-probabilities, text and character offsets, the <think> part) is here.
Knows no tensors, no images and no boxes.
"""

from __future__ import annotations

import codecs
import time
from dataclasses import dataclass
from typing import Callable, Iterable, NamedTuple

from qwen3vl_ros.types import Control

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class Choice(NamedTuple):
    """The most likely next token and its natural log-probability."""

    token_id: int
    logprob: float


class Interrupted(Exception):
    """Raised inside `prefill` or `step` by a runtime that noticed `Control` in the middle of a forward pass."""


@dataclass(frozen=True)
class Limits:
    """When to stop. deadline_monotonic_s on time.monotonic()'s clock; repeat_limit as in GenerationConfig."""

    max_new_tokens: int
    deadline_monotonic_s: float
    repeat_limit: int

    def interruption(self, control: Control) -> str:
        """"cancelled", "deadline", or "" to go on."""
        if control.cancelled:
            return "cancelled"
        return "deadline" if time.monotonic() >= self.deadline_monotonic_s else ""


@dataclass(frozen=True)
class Decoded:
    """The tokens of an answer without the end token, and how they came about. Times in seconds."""

    token_ids: list[int]
    logprobs: list[float]
    pieces: list[bytes]
    finish_reason: str
    forward_passes: int
    prefill_s: float
    decode_s: float


def decode(prefill: Callable[[], Choice], step: Callable[[int], Choice], *, stop_ids: Iterable[int],
           bytes_of: Callable[[int], bytes], limits: Limits, control: Control) -> Decoded:
    """Greedy decoding until the model ends its answer or a limit does."""
    stop_ids = frozenset(stop_ids)
    guard = RepeatGuard(limits.repeat_limit)
    token_ids: list[int] = []
    logprobs: list[float] = []
    pieces: list[bytes] = []
    passes = 0
    started = prefilled = time.perf_counter()
    reason = limits.interruption(control)
    try:
        if not reason:
            choice = prefill()
            passes = 1
            prefilled = time.perf_counter()
        while not reason:
            token_id, logprob = choice
            if token_id in stop_ids:
                reason = "stop"
                break
            piece = bytes_of(token_id)
            token_ids.append(token_id)
            logprobs.append(logprob)
            pieces.append(piece)
            reason = (guard.add(token_id, piece) or ("length" if len(token_ids) >= limits.max_new_tokens else "")
                      or limits.interruption(control))
            if not reason:
                choice = step(token_id)
                passes += 1
    except Interrupted:
        reason = limits.interruption(control)
    ended = time.perf_counter()
    prefill_s = prefilled - started if passes else ended - started
    return Decoded(token_ids, logprobs, pieces, reason, passes, prefill_s, ended - started - prefill_s)


class RepeatGuard:
    """Notices an answer that goes round in circles: whole objects `{...}`, or a few tokens for long ("!!!!")."""

    LONGEST_OBJECT_CYCLE = 3   # objects: a, a, a … or a, b, a, b …
    LONGEST_TOKEN_CYCLE = 8    # tokens in one turn
    TOKENS_IN_CYCLES = 48      # this many tokens of nothing else

    def __init__(self, object_limit: int):
        self._object_limit = object_limit
        self._objects: list[bytes] = []
        self._open: list[bytes] | None = None
        self._token_ids: list[int] = []
        self._runs = [0] * (self.LONGEST_TOKEN_CYCLE + 1)

    def add(self, token_id: int, piece: bytes) -> str:
        """Take the next token; "repeat" when the answer should stop, else ""."""
        return "repeat" if self._token_cycle(token_id) or self._object_cycle(piece) else ""

    def _token_cycle(self, token_id: int) -> bool:
        history = self._token_ids
        for period in range(1, min(self.LONGEST_TOKEN_CYCLE, len(history)) + 1):
            self._runs[period] = self._runs[period] + 1 if history[-period] == token_id else 0
        history.append(token_id)
        return max(self._runs) >= self.TOKENS_IN_CYCLES

    def _object_cycle(self, piece: bytes) -> bool:
        for part in _split_keeping(piece, b"{}"):
            if part == b"{":
                self._open = []
            elif part == b"}" and self._open is not None:
                self._objects.append(b"".join(b"".join(self._open).split()))
                self._open = None
                if self._objects_repeat():
                    return True
            elif self._open is not None:
                self._open.append(part)
        return False

    def _objects_repeat(self) -> bool:
        objects, turns = self._objects, self._object_limit
        return any(len(objects) >= period * turns
                   and objects[-period * turns:] == objects[-period:] * turns
                   for period in range(1, self.LONGEST_OBJECT_CYCLE + 1))


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
    parts = [decoder.decode(piece) for piece in pieces]
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
                first = _start_of_character(pieces, parts, index)
                ends += [0] * (index - first)
            last = index + 1
            ends.append(min(position - start, len(text)))
        elif ends and begin < start + len(text):
            last = index + 1
            ends.append(ends[-1])
    return Transcript(text, reasoning, first, last, ends)


def _start_of_character(pieces: list[bytes], parts: list[str], index: int) -> int:
    """The first token that gave bytes, but no whole character, to the character that token `index` completes."""
    while index > 0 and pieces[index - 1] and not parts[index - 1]:
        index -= 1
    return index


def _answer_start(raw: str, thinking: bool) -> tuple[int, str]:
    """Where the answer begins in `raw`, and the reasoning before it."""
    opened = raw.lstrip().startswith(THINK_OPEN)
    if not (thinking or opened):
        return 0, ""
    reasoning, closed, _ = raw.partition(THINK_CLOSE)
    start = len(reasoning) + len(closed)
    return start, reasoning.strip().removeprefix(THINK_OPEN).strip()


def _split_keeping(piece: bytes, separators: bytes) -> list[bytes]:
    if not any(s in piece for s in separators):
        return [piece]
    parts = [b""]
    for byte in piece:
        if byte in separators:
            parts += [bytes([byte]), b""]
        else:
            parts[-1] += bytes([byte])
    return parts
