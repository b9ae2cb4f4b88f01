"""Bytes of a stream -> the data of its events, and the errors that a server tells in it.

Knows nothing of answers. Everything malformed is an EngineError that shows what was received.

Source: server-sent events (WHATWG HTML, 9.2); error objects as vLLM, SGLang, llama.cpp and OpenAI write them.
"""

from __future__ import annotations

import json
import re
from typing import Any

from qwen3vl_ros.types import EngineError

_LONGEST_EVENT = 4 << 20  # bytes
_LONGEST_STRAY = 2000
_BOM = b"\xef\xbb\xbf"
_NEWLINE = re.compile(rb"\r\n|\r|\n")


class Told(EngineError):
    """The server reports an error in its own words. body: its error object, or text."""

    def __init__(self, body: Any):
        super().__init__(f"the server failed while answering: {(error_message(body) or str(body))[:500]}")
        self.body = body


class EventReader:
    """Bytes of a text/event-stream, in any pieces, -> the data of every whole event. An error that is told in a field or an
    event of that name is data too, as an error object.

    stray: what came since the last event and is no field that the standard knows, which it says to ignore; a server that
    breaks off may have said there why.
    """

    def __init__(self):
        self.stray = ""
        self._start = b""  # what may be a part of a byte order mark
        self._begun = False
        self._rest = bytearray()
        self._ends_in_cr = False
        self._event, self._data, self._error = "", [], []
        self._size = 0

    def feed(self, received: bytes) -> list[str]:
        """The data of the events that `received` completes. Raises EngineError for what is no event
        stream."""
        if not self._begun:
            self._start += received
            if len(self._start) < len(_BOM) and _BOM.startswith(self._start):
                return []
            received, self._begun = self._start.removeprefix(_BOM), True
        if not received:
            return []
        if self._ends_in_cr:
            received = received.removeprefix(b"\n")
        self._ends_in_cr = received.endswith(b"\r")
        *lines, rest = _NEWLINE.split(received)
        events = []
        for line in lines:
            events += self._line(bytes(self._rest + line))
            self._rest.clear()
        self._rest += rest
        self._bound(len(self._rest))
        return events

    def end(self) -> list[str]:
        """The data of the last event, which the end of the stream completes; the standard would drop it."""
        return self._line(bytes(self._rest)) + self._line(b"") if self._begun else []

    def _bound(self, size: int) -> None:
        if size > _LONGEST_EVENT:
            raise EngineError(
                f"the server sent a line or an event of more than {_LONGEST_EVENT} bytes; it is no stream of an answer"
            )

    def _line(self, line: bytes) -> list[str]:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise EngineError(
                f"the server's answer is not UTF-8: {line[:80]!r}; something between here and the model changes it"
            ) from None
        if not text:
            return self._dispatched()
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        self._size += len(line)
        self._bound(self._size)
        if name == "data":
            self._data.append(value)
        elif name == "error":
            self._error.append(value)
        elif name == "event":
            self._event = value
        elif name not in ("", "id", "retry"):
            self.stray = f"{self.stray}\n{text}".strip()[-_LONGEST_STRAY:]
        return []

    def _dispatched(self) -> list[str]:
        event, data, error = self._event, "\n".join(self._data), "\n".join(self._error)
        self._event, self._data, self._error, self._size = "", [], [], 0
        if error or (event == "error" and data):
            return [_as_error(error or data)]
        if not data:
            return []
        self.stray = ""
        return [data]


def error_message(body: Any) -> str:
    """The words of a server's error object, in any of the forms in use; empty if it is none."""
    if not isinstance(body, dict):
        return ""
    if body.get("object") == "error":
        return str(body.get("message") or "an error without a message")
    error = body.get("error") or body.get("detail")
    if isinstance(error, dict):
        error = error.get("message") or json.dumps(error)
    return error if isinstance(error, str) else json.dumps(error) if error else ""


def _as_error(text: str) -> str:
    """An error that was told as text, or as an object, as the data of an event with an error object."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    return text if error_message(body) else json.dumps({"error": body or text})
