"""The `Engine` protocol over a server: any OpenAI-compatible chat-completions API (vLLM, SGLang, TensorRT
Edge-LLM, …).

Streams, so that cancel and deadline end an answer within a chunk; asks again only where no byte of an answer
came. access.py guards the way there, stream.py reads the answer, faults.py names what went wrong. Knows nothing of
coordinates.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import queue
import random
import threading
import time
from typing import Any, Awaitable, Callable, Iterator, TypeVar
from urllib.parse import urlsplit

import httpx

from qwen3vl_ros.config import RemoteConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import EngineInfo, Limits, Prompt
from qwen3vl_ros.engine.remote.access import CircuitBreaker, api_key, base_url, image_folder, image_urls, tls_context
from qwen3vl_ros.engine.remote.faults import Again, Faults
from qwen3vl_ros.engine.remote.models import loaded, served_models, tried
from qwen3vl_ros.engine.remote.stream import EventReader, StreamedAnswer, Told
from qwen3vl_ros.types import EngineError, EngineUnavailable, Generation, InvalidInput, ModelNotFound

T = TypeVar("T")
_log = logging.getLogger(__name__)

_POLL_S = 0.02  # how soon a cancel is seen while the server is silent
_FIRST_BACKOFF_S = 0.1  # doubled by each attempt, times a random 0.5 … 1.5
_AFTER_END_S = 1.0  # for the counts that follow an answer's end
_ERROR_BYTES = 1 << 16
_LONGEST_PAUSE_S = 2.0  # between attempts at a server that is loading


class _Refused(Exception):
    """An error of the server before its answer. by_request: its status says that the request is to blame."""

    def __init__(self, error: Exception, by_request: bool):
        super().__init__(str(error))
        self.error, self.by_request = error, by_request


class _Relay:
    """Brings the parts of an answer from the loop's thread to the caller's, whose `on_text` may then do what it likes."""

    def __init__(self, on_text: Callable[[str], None]):
        self._on_text = on_text
        self._parts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.put = self._parts.put

    def until_done(self, future: concurrent.futures.Future) -> None:
        future.add_done_callback(lambda _: self.put(None))
        while (part := self._parts.get()) is not None:
            self._on_text(part)

    def rest(self) -> None:
        while not self._parts.empty():
            self._on_text(self._parts.get())


class RemoteEngine:
    """A model behind a server (see engine/base.py). `health` is the circuit breaker, `status()` is for
    diagnostics."""

    info: EngineInfo

    def __init__(self, remote: RemoteConfig, max_pixels: int = 0):
        """Connects and finds the model. max_pixels: larger images are made smaller first; 0 for never.

        Raises InvalidInput for parameters that cannot be, EngineUnavailable, ModelNotFound naming the models
        served, or another EngineError.
        """
        self.health = CircuitBreaker()
        self._remote, self._max_pixels = remote, max_pixels
        self._url = base_url(remote.url)
        self._key = api_key(remote.api_key_env, self._url)
        self._faults = Faults(self._url, self._key, remote.timeout)
        self._folder = image_folder(remote)
        self._verify = tls_context(remote.ca_file)
        # What servers may refuse without being useless.
        self._optional: dict[str, Any] = {"logprobs": True, "stream_options": {"include_usage": True}}
        self._logprobs, self._self_test, self._retries = "unknown", "off", 0
        self._failure: EngineError | None = None
        self._worked = self._plain_tried = self._patient = False
        self._client: httpx.AsyncClient | None = None
        self._loop = asyncio.new_event_loop()
        # A thread of its own: the caller's may have a loop. A daemon: it must not keep a process alive.
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-engine", daemon=True)
        self._thread.start()
        try:
            self._client = self._call(self._connect)
            self._model = self._call(self._find_model)
            # Whether thoughts come before the answer, in its own text: by the model's name, else by its first answer.
            self._thinks = True if "thinking" in self._model.lower() else None
            self.info = self._describe()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """While this lasts, a server that says that it is loading is asked again until a request's deadline."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def self_tested(self, result: str) -> None:
        """What a test of the server's coordinates found, for `info` and `status`."""
        self._self_test = result
        self.info = self._describe()

    def generate(
        self,
        prompt: Prompt,
        limits: Limits,
        control: Control | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """See Engine.generate. The prompt's `stream` is for engines that keep drafts, and images always come first. Until
        the first answer has shown whether the model thinks before it answers, on_text waits for the end of the answer or
        of its thoughts.

        Raises InvalidInput for a clip, and EngineUnavailable while the server cannot be reached (at once while
        `health` is open). Other EngineErrors repeat until something is changed.
        """
        if self._client is None:
            raise EngineError("this engine was closed; make a new one")
        started = time.perf_counter()
        if any(turn.clip for turn in prompt.turns):
            raise InvalidInput(
                "the engine 'remote' cannot send a clip: the servers' API has no pictures with times; send the clip's "
                "pictures as images, or run the model here (engine torch, onnxruntime, tensorrt or transformers)"
            )
        control = (control or Control()).within(limits.deadline_s)
        relay = _Relay(on_text) if on_text else None
        answer = StreamedAnswer(limits.max_new_tokens, limits.repeat_limit, self._thinks, relay and relay.put)
        if self.health.state == "open":
            raise EngineUnavailable(
                f"{self._url} is not asked for another {self.health.wait_s:.1f} s after "
                f"{self.health.failures} failures, the last: {self.health.last_error}"
            )
        images = [rgb for turn in prompt.turns for rgb in turn.images]
        with image_urls(images, self._folder, self._max_pixels) as urls:
            body = self._body(prompt, iter(urls), limits)
            asked = time.perf_counter()
            reason = control.interruption or self._call(self._watched, body, answer, control, relay=relay)
        ended = time.perf_counter()
        prefilled = answer.first_text_s or ended
        times_s = asked - started, prefilled - asked, ended - prefilled
        said = answer.generation(reason, prompt.text, times_s)
        self._thinks = answer.thinks
        if relay:
            relay.rest()
        if said.text:
            self._logprobs = "no" if said.logprobs is None else "yes"
        elif reason == "stop" and said.reasoning:
            raise EngineError(
                f"{self._url} gave its whole answer as reasoning ({said.reasoning[:80]!r}): its reasoning parser takes the "
                "answer for thoughts; serve the model without one (vLLM, SGLang: no --reasoning-parser)"
            )
        return said

    def status(self) -> dict[str, str]:
        """For diagnostics, from any thread: the breaker and its last error, the self-test, what the server
        offers."""
        health = self.health
        return {
            "remote_url": self._url,
            "remote_model": self._model,
            "circuit": health.state,
            "failures_in_a_row": str(health.failures),
            "last_remote_error": health.last_error,
            "remote_retries": str(self._retries),
            "self_test": self._self_test,
            "logprobs": self._logprobs,
        }

    def close(self) -> None:
        """Close the connections; the engine cannot be used afterwards."""
        client, self._client = self._client, None
        if self._loop.is_closed():
            return
        self._call(self._wind_up, client)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _wind_up(self, client: httpx.AsyncClient | None) -> None:
        """Ends what still runs, so that nothing of it is found, and complained of, later."""
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if client is not None:
            await client.aclose()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _call(self, function: Callable[..., Awaitable[T]], *arguments: Any, relay: _Relay | None = None) -> T:
        """The result of a coroutine in the loop's thread; what interrupts the wait ends it there too."""
        future = asyncio.run_coroutine_threadsafe(function(*arguments), self._loop)
        try:
            if relay is not None:
                relay.until_done(future)
            return future.result()
        finally:
            future.cancel()

    # -- start -----------------------------------------------------------------------------------------------

    async def _connect(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx.Timeout(self._remote.timeout, connect=self._remote.connect_timeout)
        # A proxy of the environment would read what is not encrypted.
        return httpx.AsyncClient(
            base_url=self._url + "/",
            headers=headers,
            timeout=timeout,
            verify=self._verify,
            trust_env=self._url.startswith("https://"),
        )

    async def _find_model(self) -> str:
        """The model's name, once the server has loaded it."""
        deadline_s = time.monotonic() + self._remote.start_timeout
        attempts, wanted = self._remote.retries + 1, self._remote.model
        try:
            served = await self._repeated(lambda: served_models(self._client, self._faults), deadline_s, attempts, True)
        except ModelNotFound as error:
            if not wanted:
                raise ModelNotFound(f"{self._url} lists no models, so remote.model must name it: {error}") from error
            served = [wanted]
        await self._repeated(lambda: loaded(self._client, self._faults), deadline_s, attempts, True)
        names = ", ".join(served) or "none"
        if not wanted and len(served) != 1:
            raise ModelNotFound(f"remote.model is empty and {self._url} serves {len(served)} models: {names}; name one")
        if wanted and served and wanted not in served:  # an alias, or one that a wildcard stands for
            await self._repeated(lambda: tried(self._client, self._faults, wanted, names), deadline_s, attempts, True)
            _log.warning(
                f"{self._url} does not list remote.model = {wanted!r} (it lists: {names}), but answers to that name"
            )
        return wanted or served[0]

    def _describe(self) -> EngineInfo:
        why = [
            f"remote.url names {self._url}",
            f"images as {self._remote.image_transport} PNG",
            f"self-test {self._self_test}",
        ]
        return EngineInfo(
            runtime="remote",
            model=self._model,
            architecture="as served",
            device=urlsplit(self._url).netloc,
            dtype="as served",
            parameters=0,
            thinking=bool(self._thinks),
            why="; ".join(why),
        )

    # -- one answer ------------------------------------------------------------------------------------------

    def _body(self, prompt: Prompt, urls: Iterator[str], limits: Limits) -> dict[str, Any]:
        """urls: of the images of all turns, in their order."""
        messages = []
        for turn in prompt.turns:
            content: Any = turn.text
            if turn.role == "user":
                shown = [{"type": "image_url", "image_url": {"url": next(urls)}} for _ in turn.images]
                content = [*shown, {"type": "text", "text": turn.text}]
            messages.append({"role": turn.role, "content": content})
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "temperature": 0,
            "max_tokens": limits.max_new_tokens,
        }
        if prompt.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": prompt.schema, "strict": True},
            }
        return body

    async def _watched(self, body: dict, answer: StreamedAnswer, control: Control) -> str:
        """Why the answer ended. The breaker hears how it went: a refusal is an answer, silence and nonsense
        are none."""
        since = time.monotonic()
        try:
            reason = await self._answer(body, answer, control)
        except EngineError as error:
            if isinstance(error, EngineUnavailable) or answer.received:
                self.health.failed(error)
            else:
                self.health.succeeded()
            raise
        if answer.received:
            self.health.succeeded()
        elif reason == "deadline" and time.monotonic() - since >= self._remote.connect_timeout:
            self.health.failed(EngineUnavailable(f"{self._url} sent nothing before the deadline"))
        return reason

    async def _answer(self, body: dict, answer: StreamedAnswer, control: Control) -> str:
        attempts = 1 if self.health.state == "half-open" else self._remote.retries + 1
        self._failure = None
        deadline_s = control.deadline_monotonic_s
        asking = self._repeated(lambda: self._stream(body, answer), deadline_s, attempts, self._patient)
        work = asyncio.ensure_future(asking)
        reason, end_s = "", float("inf")
        try:
            while not work.done():
                now = time.monotonic()
                if answer.finish_reason:
                    end_s = min(end_s, now + _AFTER_END_S)
                else:
                    reason = control.interruption
                if reason or now >= end_s:
                    break
                await asyncio.wait({work}, timeout=min(_POLL_S, max(deadline_s - now, 0.001)))
        finally:
            work.cancel()
            await asyncio.wait({work})
        failed = None if work.cancelled() else work.exception()
        if answer.finish_reason:
            return answer.finish_reason
        if failed is None and reason == "deadline" and not answer.received:
            failed = self._failure
        if failed is not None:
            raise failed
        return reason

    async def _repeated(
        self, call: Callable[[], Awaitable[T]], deadline_s: float, attempts: int, patient: bool = False
    ) -> T:
        """`call`, again where it raises Again, with exponential backoff and jitter and never past the deadline. patient:
        a server that is loading is asked until then, however often."""
        attempt = waited = 0
        while True:
            try:
                return await call()
            except Again as again:
                self._failure, cause = again.error, again.__cause__
                loading, after_s = patient and again.loading, again.after_s
            attempt, waited = attempt + (not loading), waited + loading
            if attempt >= attempts:
                raise self._failure from cause
            backoff_s = _FIRST_BACKOFF_S * 2 ** min(attempt + waited - 1, 10) * random.uniform(0.5, 1.5)
            pause_s = max(after_s, min(backoff_s, _LONGEST_PAUSE_S) if loading else backoff_s)
            if time.monotonic() + pause_s >= deadline_s:
                raise EngineUnavailable(f"{self._failure}; the deadline leaves no time for another attempt") from cause
            self._retries += 1
            await asyncio.sleep(pause_s)

    async def _stream(self, body: dict, answer: StreamedAnswer) -> None:
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
            await self._stream(body, answer)
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
                refused = await _beginning(response)
        except httpx.HTTPError as error:
            raise self._faults.lost(error, answer.tokens, safe=not answer.received) from error
        except Told as error:
            told = self._faults.told(error, answer.tokens)
            settled = answer.tokens or isinstance(told, Again) or self._faults.about_length(told)
            raise (told if settled else _Refused(told, False)) from None
        refusal = self._faults.refusal(response, refused, "response_format" in body)
        about_fields = response.status_code in (400, 422, 500, 501) and not self._faults.about_length(refusal)
        raise _Refused(refusal, response.status_code < 500) if about_fields else refusal

    async def _read(self, response: httpx.Response, answer: StreamedAnswer) -> None:
        kind = response.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "text/event-stream":
            answer.received = True
            raise self._faults.no_stream(kind, await _beginning(response))
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


async def _beginning(response: httpx.Response) -> bytes:
    """The first _ERROR_BYTES of a body."""
    raw = b""
    async for received in response.aiter_bytes():
        raw += received
        if len(raw) >= _ERROR_BYTES:
            break
    return raw
