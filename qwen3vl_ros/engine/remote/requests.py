"""Requests to one server: an answer streamed, asked again only where no byte of one came, and without what it refuses.

Knows no prompts and no limits; what went wrong is named by faults.py, an answer is read by stream.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, Awaitable, Callable, TypeVar

import httpx

from qwen3vl_ros.engine.remote.events import EventReader, Told
from qwen3vl_ros.engine.remote.faults import Again, Faults, beginning
from qwen3vl_ros.engine.remote.grammar import GUIDES
from qwen3vl_ros.engine.remote.stream import StreamedAnswer
from qwen3vl_ros.types import EngineError, EngineUnavailable, InvalidInput

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.1  # doubled by each attempt, times a random 0.5 … 1.5
_LONGEST_PAUSE_S = 2.0  # between attempts at a server that is loading
_ERROR_BYTES = 1 << 16


class _Refused(Exception):
    """An error of the server before its answer. by_request: its status says that the request is to blame."""

    def __init__(self, error: Exception, by_request: bool):
        super().__init__(str(error))
        self.error, self.by_request = error, by_request


class Requests:
    """retries: how many further attempts were made. failure: of the last attempt of the call that runs, if it may be made
    again. Used in one event loop."""

    def __init__(self, client: httpx.AsyncClient, faults: Faults):
        self.retries = 0
        self.failure: EngineError | None = None
        self._client, self._faults = client, faults
        # What servers may refuse without being useless.
        self._optional: dict[str, Any] = {"logprobs": True, "stream_options": {"include_usage": True}}
        self._worked = self._plain_tried = False

    async def repeated(
        self, call: Callable[[], Awaitable[T]], deadline_s: float, attempts: int, patient: bool = False
    ) -> T:
        """`call`, again where it raises Again, with exponential backoff and jitter and never past the deadline. patient:
        a server that is loading is asked until then, however often."""
        attempt = waited = 0
        while True:
            try:
                return await call()
            except Again as again:
                self.failure, cause = again.error, again.__cause__
                loading, after_s = patient and again.loading, again.after_s
            attempt, waited = attempt + (not loading), waited + loading
            if attempt >= attempts:
                raise self.failure from cause
            backoff_s = _FIRST_BACKOFF_S * 2 ** min(attempt + waited - 1, 10) * random.uniform(0.5, 1.5)
            pause_s = max(after_s, min(backoff_s, _LONGEST_PAUSE_S) if loading else backoff_s)
            if time.monotonic() + pause_s >= deadline_s:
                raise EngineUnavailable(f"{self.failure}; the deadline leaves no time for another attempt") from cause
            self.retries += 1
            await asyncio.sleep(pause_s)

    async def stream(self, body: dict, answer: StreamedAnswer) -> None:
        """One request; again without the optional fields that the server names in its refusal, and, as long as nothing
        has worked, once without all of them: a server may fail at what it does not know."""
        try:
            return await self._request(body, answer)
        except _Refused as refused:
            unwanted = [name for name in self._optional if refused.by_request and name in str(refused.error)]
            if not unwanted and (self._worked or self._plain_tried or not self._optional):
                raise refused.error from refused.__cause__
        optional, self._plain_tried = self._optional, self._plain_tried or not unwanted
        self._optional = {name: value for name, value in optional.items() if unwanted and name not in unwanted}
        try:
            await self.stream(body, answer)
        except BaseException:
            if not unwanted:  # they were not to blame
                self._optional = optional
            raise

    async def _request(self, body: dict, answer: StreamedAnswer) -> None:
        """Raises _Refused for an error of the server before its answer, for which a field may be to blame."""
        content = json.dumps(body | self._optional).encode()
        try:
            async with self._client.stream(
                "POST", "chat/completions", content=content, headers={"Content-Type": "application/json"}
            ) as response:
                if response.status_code == 200:
                    await self._read(response, answer)
                    self._worked = True
                    return
                refused = await beginning(response, _ERROR_BYTES)
        except httpx.HTTPError as error:
            raise self._faults.lost(error, answer.tokens, safe=not answer.received) from error
        except Told as error:
            told = self._faults.told(error, answer.tokens)
            settled = answer.tokens or isinstance(told, Again) or self._faults.about_length(told)
            raise (told if settled else _Refused(told, False)) from None
        refusal = self._faults.refusal(response, refused, bool(GUIDES & body.keys()))
        if isinstance(refusal, InvalidInput):
            raise refusal
        about_fields = response.status_code in (400, 422, 500, 501) and not self._faults.about_length(refusal)
        raise _Refused(refusal, response.status_code < 500) if about_fields else refusal

    async def _read(self, response: httpx.Response, answer: StreamedAnswer) -> None:
        kind = response.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "text/event-stream":
            answer.received = True
            raise self._faults.no_stream(kind, await beginning(response, _ERROR_BYTES))
        reader = EventReader()
        try:
            async for received in response.aiter_bytes():
                answer.received = True
                if await self._take(reader.feed(received), answer):
                    return
        except httpx.HTTPError:
            if reader.stray and not answer.finish_reason:  # it said why
                raise self._faults.stray(reader.stray, answer.tokens) from None
            raise
        if await self._take(reader.end(), answer) or answer.finish_reason:
            return
        if reader.stray:
            raise self._faults.stray(reader.stray, answer.tokens)
        answer.close()

    async def _take(self, events: list[str], answer: StreamedAnswer) -> bool:
        """Whether the answer is complete."""
        for event in events:
            answer.add(event)
            if answer.complete:
                return True
            await asyncio.sleep(0)  # many may have come at once; a cancel is heard between them
        return False
