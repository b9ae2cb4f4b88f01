"""The `Engine` protocol over a server: any OpenAI-compatible chat-completions API (vLLM, SGLang, TensorRT
Edge-LLM, …).

Streams, so that cancel and deadline end an answer within a chunk. access.py guards the way there, models.py finds the model,
requests.py asks and asks again, events.py and stream.py read the answer, faults.py names what went wrong. Knows nothing of
coordinates.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import queue
import threading
import time
from typing import Any, Awaitable, Callable, Iterator, TypeVar
from urllib.parse import urlsplit

import httpx

from qwen3vl_ros.config import RemoteConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import EngineInfo, Limits, Prompt
from qwen3vl_ros.engine.remote.access import CircuitBreaker, api_key, base_url, image_folder, image_urls, tls_context
from qwen3vl_ros.engine.remote.faults import Faults
from qwen3vl_ros.engine.remote.grammar import guidance
from qwen3vl_ros.engine.remote.models import loaded, served_models, tried
from qwen3vl_ros.engine.remote.requests import Requests
from qwen3vl_ros.engine.remote.stream import StreamedAnswer
from qwen3vl_ros.types import EngineError, EngineUnavailable, Generation, InvalidInput, ModelNotFound

T = TypeVar("T")
_log = logging.getLogger(__name__)

_POLL_S = 0.02  # how soon a cancel is seen while the server is silent
_AFTER_END_S = 1.0  # for the counts that follow an answer's end


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
        self._logprobs, self._self_test, self._patient = "unknown", "off", False
        self._client: httpx.AsyncClient | None = None
        self._loop = asyncio.new_event_loop()
        # A thread of its own: the caller's may have a loop. A daemon: it must not keep a process alive.
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-engine", daemon=True)
        self._thread.start()
        try:
            self._client = self._call(self._connect)
            self._requests = Requests(self._client, self._faults)
            self._model = self._call(self._find_model)
            # Whether thoughts come before the answer, in its own text. A name only guesses; an answer shows it.
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
        self.info = dataclasses.replace(self._describe(), thinking=self.info.thinking)

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
        if said.reasoning or answer.thinks is not None:  # the server may take the thoughts apart
            self._learned(thinking=bool(said.reasoning))
        if relay:
            relay.rest()
        if prompt.schema is not None:
            self._faults.refuse_unguided(said, answer.trailing_space)
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
            "remote_retries": str(self._requests.retries),
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

        async def patiently(ask: Callable[..., Awaitable[T]], *arguments: str) -> T:
            async def call() -> T:
                left_s = max(deadline_s - time.monotonic(), 0.001)
                try:
                    return await asyncio.wait_for(ask(self._client, self._faults, *arguments), left_s)
                except asyncio.TimeoutError:
                    raise EngineUnavailable(
                        f"{self._url} did not come to an end of its answer within remote.start_timeout = "
                        f"{self._remote.start_timeout:g} s; check that remote.url is the base of an OpenAI-compatible API"
                    ) from None

            return await self._requests.repeated(call, deadline_s, self._remote.retries + 1, patient=True)

        wanted = self._remote.model
        try:
            served = await patiently(served_models)
        except ModelNotFound as error:
            if not wanted:
                raise ModelNotFound(f"{self._url} lists no models, so remote.model must name it: {error}") from error
            served = {wanted: ""}
        await patiently(loaded)
        names = ", ".join(served) or "none"
        if not wanted and len(served) != 1:
            raise ModelNotFound(f"remote.model is empty and {self._url} serves {len(served)} models: {names}; name one")
        if wanted and served and wanted not in served:  # an alias, or one that a wildcard stands for
            await patiently(tried, wanted, names)
            _log.warning(
                f"{self._url} does not list remote.model = {wanted!r} (it lists: {names}), but answers to that name"
            )
        model = wanted or next(iter(served))
        self._owner = served.get(model) or next(iter(served.values()), "")
        return model

    def _learned(self, thinking: bool) -> None:
        if thinking != self.info.thinking:
            self.info = dataclasses.replace(self.info, thinking=thinking)

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
            body |= guidance(prompt.schema, self._owner, bool(self._thinks))
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
        self._requests.failure = None
        deadline_s = control.deadline_monotonic_s
        asking = self._requests.repeated(
            lambda: self._requests.stream(body, answer), deadline_s, attempts, self._patient
        )
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
            failed = self._requests.failure
        if failed is not None:
            raise failed
        return reason
