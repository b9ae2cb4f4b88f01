"""A streamed answer of an OpenAI-compatible server: events -> text, log-probabilities and why it ended.

Knows no sockets, no images and no retries. Everything malformed is an EngineError that shows what was
received.

Source: `chat.completion.chunk` of OpenAI's API, with the reasoning fields of vLLM and SGLang (`reasoning_content`,
`reasoning`).
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, Callable

import numpy as np

from qwen3vl_ros.engine.decoding.guards import GarbageGuard, RepeatGuard
from qwen3vl_ros.engine.decoding.transcript import THINK_CLOSE, TextStream, transcribe
from qwen3vl_ros.engine.remote.events import Told, error_message
from qwen3vl_ros.types import EngineError, EngineUnavailable, Generation

UNKNOWN_TOKEN = -1  # token id: the protocol gives tokens as text
_FINISH = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "length": "length",
    "max_tokens": "length",
    "repetition": "repeat",
}
_NO_REASON = ("", "null", "none", "undefined")
_JSON_TEXT = "utf-16-le"  # how JSON cuts text: between two surrogates of a character, too
_REPLACEMENT = "\ufffd".encode()
_LONGEST_CHARACTER = 4  # bytes of UTF-8


class StreamedAnswer:
    """What came so far of one answer. finish_reason is empty until the server, a limit or the repeat guard
    ends it.

    complete: no more is to be read. received: bytes of the answer came, so that it may not be asked for
    again. first_text_s: when the first token came, on time.perf_counter()'s clock.

    thinks: whether the model writes its thoughts, up to </think>, before the answer and into the same text, unless the
    server takes them apart; None as long as nobody knows. on_text: as in Engine.generate, but called by whoever calls
    `add` and `generation`.
    """

    def __init__(
        self,
        max_new_tokens: int,
        repeat_limit: int,
        thinks: bool | None = None,
        on_text: Callable[[str], None] | None = None,
    ):
        self.thinks = thinks
        self.finish_reason = ""
        self.complete = False
        self.received = False
        self.tokens = 0
        self.first_text_s: float | None = None
        self._odd_reason = ""
        self._max_new_tokens = max_new_tokens
        self._repeats, self._garbage = RepeatGuard(repeat_limit), GarbageGuard()
        self._ids: dict[bytes, int] = {}
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._said: list[tuple[bytes, float]] = []
        self._gives_logprobs = True
        self._usage: dict[str, Any] = {}
        self._on_text = on_text
        self._text: TextStream | None = None
        self._opened: bool | None = None  # whether the content begins with thoughts, as soon as that is known
        self._waiting = ""  # content, until then
        if on_text and thinks is False:  # what was handed out cannot become a thought any more
            self._open(False)

    def add(self, data: str) -> None:
        """Take the data of the next event. Raises EngineError if it is malformed or reports an error."""
        if data.strip() == "[DONE]":
            self._judge_odd_reason()
            if not self.finish_reason:
                raise EngineError(f"the server ended the stream after {self.tokens} tokens without a finish_reason")
            self.complete = True
            return
        if not data.strip():
            return
        chunk = _object(data)
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices[:1]):
            raise EngineError(f"the server's event has no list of choices: {data[:120]!r}")
        if choices:
            self._take(choices[0], data)

    def _take(self, choice: dict, data: str) -> None:
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise EngineError(f"the server's event has a delta that is no object: {data[:120]!r}")
        content = delta.get("content") or ""
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if not (isinstance(content, str) and isinstance(reasoning, str)):
            raise EngineError(f"the server's event has text that is no string: {data[:120]!r}")
        self._content.append(content)
        self._reasoning.append(reasoning)
        self._hand_out(content, reasoning)
        said = _said(choice.get("logprobs"))
        if content and not said:
            self._gives_logprobs = False
        if not reasoning:
            self._said += said
        if content or reasoning:
            self.first_text_s = self.first_text_s or time.perf_counter()
            self._count([piece for piece, _ in said] or [(reasoning + content).encode("utf-8", "replace")])
        self._end_by(choice.get("finish_reason"), goes_on=bool(content or reasoning))

    def _end_by(self, reason: Any, goes_on: bool) -> None:
        """An unknown reason ends nothing as long as more of the answer comes."""
        if goes_on:
            self._odd_reason = ""
        if self.complete or not isinstance(reason, str) or reason.strip().lower() in _NO_REASON:
            return
        known = _FINISH.get(reason.strip().lower(), "")
        self.finish_reason = known or self.finish_reason
        self._odd_reason = "" if known else reason

    def close(self) -> None:
        """The stream has ended. Raises EngineError for an answer that was ended by what is no answer, EngineUnavailable
        for one that was not ended at all."""
        self._judge_odd_reason()
        if not self.finish_reason:
            raise EngineUnavailable(
                f"the server ended its answer after {self.tokens} tokens without saying why; see the server's log"
            )

    def _judge_odd_reason(self) -> None:
        if self.finish_reason or not self._odd_reason:
            return
        why = "see the server's log"
        if "call" in self._odd_reason:
            why = "its parser of tool calls took the answer for one: serve the model without that"
        raise EngineError(
            f"the server ended the answer after {self.tokens} tokens with finish_reason "
            f"{self._odd_reason[:40]!r}, which is no answer; {why}"
        )

    def _hand_out(self, content: str, reasoning: str) -> None:
        if self._opened is None:
            self._waiting += content
            if THINK_CLOSE in self._waiting or reasoning.strip():
                self._open(not reasoning.strip())
        elif self._text:
            self._text.add(content.encode(_JSON_TEXT, "surrogatepass"))

    def _open(self, thinking: bool) -> None:
        self._opened = thinking
        if self._on_text:
            self._text = TextStream(self._on_text, thinking, _JSON_TEXT)
            self._text.add(self._waiting.encode(_JSON_TEXT, "surrogatepass"))
        self._waiting = ""

    def _count(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.tokens += 1
            self._garbage.add(piece)
            if self._repeats.add(self._ids.setdefault(piece, len(self._ids)), piece):
                self.finish_reason, self.complete = "repeat", True
        if self.tokens > self._max_new_tokens and not self.complete:
            self.finish_reason, self.complete = "length", True  # a server that ignores max_tokens

    @property
    def trailing_space(self) -> int:
        """Characters of white space at the end of what came."""
        text = "".join(self._content)
        return len(text) - len(text.rstrip())

    def generation(self, finish_reason: str, prompt: str, times_s: tuple[float, float, float]) -> Generation:
        """The answer so far, at its end. times_s: preprocess, prefill, decode.

        forward_passes is 0, because servers do not tell; token ids are UNKNOWN_TOKEN.
        """
        text, reasoning = _well_formed("".join(self._content)), _well_formed("".join(self._reasoning)).strip()
        if self._opened is None:
            self._open(bool(self.thinks) and finish_reason != "stop")
        if self._text:
            self._text.add(b"", last=True)
        if self._opened:
            self.thinks = True
        elif text and finish_reason == "stop":  # whatever was thought before: a whole answer without thoughts in it
            self.thinks = False
        aligned = _aligned(text.encode(), self._said) if self._gives_logprobs and self._said else None
        pieces, logprobs = aligned or ([text.encode()], None)
        said = transcribe(pieces, self._opened)
        count, ends = 0, ()
        if logprobs is not None:
            count, ends = said.last_token - said.first_token, tuple(said.token_ends)
            logprobs = np.array(logprobs[said.first_token : said.last_token], np.float32)
        return Generation(
            said.text,
            (UNKNOWN_TOKEN,) * count,
            logprobs,
            ends,
            finish_reason,
            reasoning or said.reasoning,
            prompt,
            _count_of(self._usage, "prompt_tokens"),
            _count_of(self._usage, "completion_tokens") or self.tokens,
            0,
            *times_s,
        )


def _object(data: str) -> dict:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise EngineError(f"the server's event is no JSON: {data[:120]!r}") from None
    if not isinstance(chunk, dict):
        raise EngineError(f"the server's event is no JSON object: {data[:120]!r}")
    if error_message(chunk):
        raise Told(chunk)
    return chunk


def _said(logprobs: Any) -> list[tuple[bytes, float]]:
    """(bytes, log-probability) of each token of a chunk; empty when one of them cannot be read."""
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    said = []
    for entry in entries if isinstance(entries, list) else ():
        value, token = (entry.get("logprob"), entry.get("token")) if isinstance(entry, dict) else (None, None)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return []
        if not isinstance(token, str):
            return []
        raw = entry.get("bytes")
        if not (isinstance(raw, list) and all(isinstance(b, int) and 0 <= b < 256 for b in raw)):
            raw = token.encode("utf-8", "replace")
        said.append((bytes(raw), float(value)))
    return said


def _aligned(text: bytes, said: list[tuple[bytes, float]]) -> tuple[list[bytes], list[float]] | None:
    """(bytes, log-probabilities) of the tokens of `text`, whose pieces together are `text`; None if they do
    not fit it.

    Tokens that are no text (the end of the turn) are left out. Where tokens hold part of a character, some
    servers give U+FFFD instead of the bytes: what is missing then belongs to the last of them.
    """
    pieces: list[bytes] = []
    logprobs: list[float] = []
    broken: list[float] = []
    position = 0

    def mend(end: int) -> None:
        if broken and end > position:
            pieces.extend([b""] * (len(broken) - 1) + [text[position:end]])
            logprobs.extend(broken)
        broken.clear()

    for piece, logprob in said:
        start = text.find(piece, position, position + len(piece) + _LONGEST_CHARACTER * len(broken))
        if piece and start >= 0:
            mend(start)
            pieces.append(piece)
            logprobs.append(logprob)
            position = start + len(piece)
        elif _REPLACEMENT in piece:
            broken.append(logprob)
    if broken:
        mend(len(text))
        position = len(text)
    return (pieces, logprobs) if b"".join(pieces) == text else None


def _well_formed(text: str) -> str:
    """Surrogate pairs, which JSON may spread over two events, made one character; lone ones replaced."""
    return text.encode(_JSON_TEXT, "surrogatepass").decode(_JSON_TEXT, "replace")


def _count_of(usage: dict, name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
