"""The next prompt, prepared and its pictures seen while the answer to this one is being said.

On a GPU the three hardly need the same thing: preparing pixels is a processor's work, a step of decoding waits for memory, and seeing
computes. Whoever owns the engine says what will be asked next; a thread sees it, one prompt ahead at most, and the next
prompt, if it is that one, finds both done. Nothing else changes: what was looked at for nothing is dropped, and what failed is done
again by the prompt itself. Knows no CUDA: that is the runtime's `encode_ahead`.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Callable

import numpy as np

from qwen3vl_ros.engine.base import Prompt, RuntimeAhead, Upcoming
from qwen3vl_ros.engine.prompt.prepare import Prepared
from qwen3vl_ros.types import PerceptionError

_WATCH_S = 0.02
_log = logging.getLogger(__name__)


class _Dropped(Exception):
    """Nobody wants it any more."""


class _Look:
    """One prompt ahead. prompt: None until it is made. features: what `encode_ahead` returned."""

    def __init__(self, answer: int):
        self.answer = answer
        self.prompt: Prompt | None = None
        self.prepared: Future[Prepared] = Future()
        self.features: Future[Callable[[], Any]] = Future()
        self._dropped = threading.Event()

    def drop(self) -> None:
        self._dropped.set()

    def keep_on(self) -> None:
        if self._dropped.is_set():
            raise _Dropped

    def is_of(self, prompt: Prompt, answer: int) -> bool:
        """Whether that prompt is prepared alike."""
        ours = self.prompt
        return (
            ours is not None
            and answer == self.answer
            and ours.text_first == prompt.text_first
            and len(ours.turns) == len(prompt.turns)
            and all(
                a.text == b.text
                and a.clip is b.clip
                and len(a.images) == len(b.images)
                and all(map(np.array_equal, a.images, b.images))
                for a, b in zip(ours.turns, prompt.turns)
            )
        )


class SeeingAhead:
    """Of one engine; all but its own thread's work is done on the engine's.

    prepare(prompt, answer): as Preparation, with room for an answer of so many tokens. begun, used: prompts looked at, and
    those of them that were asked. off: why it looks at nothing any more, "" while it does.
    """

    def __init__(self, runtime: RuntimeAhead, prepare: Callable[[Prompt, int], Prepared]):
        self._runtime, self._prepare = runtime, prepare
        self._thread = ThreadPoolExecutor(1, "seeing ahead")
        self._look: _Look | None = None
        self.begun = self.used = 0
        self.off = ""

    def poll(self, upcoming: Upcoming, answer: int) -> None:
        """Between two passes: begin with what will be asked next, if that is known now, in place of what was thought before."""
        if self.off or (make := upcoming()) is None:
            return
        self.drop()
        self._look = look = _Look(answer)
        self.begun += 1
        self._thread.submit(self._see, look, make)

    def take(self, prompt: Prompt, answer: int, interrupted: Callable[[], Any]) -> tuple[Prepared, Callable] | None:
        """What was looked at, if it is this prompt: prepared, and `features`; else None, and it is dropped."""
        look, self._look = self._look, None
        if look is None:
            return None
        if look.is_of(prompt, answer):
            while not wait((look.prepared,), _WATCH_S).done and not interrupted():
                pass
            if look.prepared.done() and look.prepared.exception() is None:
                return look.prepared.result(), lambda: self._taken(look)
        look.drop()
        return None

    def _taken(self, look: _Look) -> Any:
        """The features, on the stream of whoever asks; None where they could not be had. Raises what `between_layers` does."""
        try:
            while not wait((look.features,), _WATCH_S).done:
                self._runtime.between_layers()
        except BaseException:
            look.drop()
            raise
        if look.features.exception() is not None:
            return None
        self.used += 1
        return look.features.result()()

    def drop(self) -> None:
        """Forget what was looked at; what is being looked at ends at its next layer."""
        if self._look is not None:
            self._look.drop()
        self._look = None

    def status(self) -> str:
        """What came of it, in words."""
        return f"off: {self.off}" if self.off else f"{self.used} prompts of {self.begun} that were looked at"

    def close(self) -> None:
        """Returns when nothing is being looked at any more."""
        self.drop()
        self._thread.shutdown()

    # -- on its own thread -------------------------------------------------------------------------

    def _see(self, look: _Look, make: Callable[[], Prompt]) -> None:
        try:
            if self.off:  # since it was begun
                look.drop()
            look.keep_on()
            look.prompt = make()
            prepared = self._prepare(look.prompt, look.answer)
            look.prepared.set_result(prepared)
            if len(prepared.grid):
                look.features.set_result(self._runtime.encode_ahead(prepared.pixels, prepared.grid, look.keep_on))
        except BaseException as error:
            # What is wrong with a prompt, whoever asks it is told.
            if not isinstance(error, _Dropped if look.prepared.done() else (_Dropped, PerceptionError)):
                self.off = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                _log.warning("no picture is seen ahead any more, and answers take longer for it: %s", self.off)
            for waited in (look.prepared, look.features):
                if not waited.done():
                    waited.set_exception(error)
