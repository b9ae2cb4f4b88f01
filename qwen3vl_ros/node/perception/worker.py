"""The one thread that owns the engine: it loads it, serves calls before the stream, and frees it.

Three verbs on one noun: wait for a task, perform it, until stopped. A call stops the stream's generation at
its next token; a call is answered exactly once, whatever happens. Knows no ROS and no messages: what a task
means is the `perform` function it is given, a capture is whatever the mailbox holds.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Callable

from qwen3vl_ros.control import Control
from qwen3vl_ros.node.perception.mailbox import Mailbox, Snapshot
from qwen3vl_ros.questions import Question
from qwen3vl_ros.types import Cancelled, StaleFrame

# An engine looks at its deadline between tokens; past this much more it is stuck and the caller is told so.
ENGINE_GRACE_S = 0.5


@dataclass(frozen=True)
class Asked:
    """A question, and the number that its answers carry."""

    question: Question
    prompt_id: int = 0


class Call:
    """A request that somebody waits for: `answer(result, error)` is called exactly once, from any thread."""

    def __init__(self, asked: Asked, timeout_s: float, answer: Callable[[Any, Exception | None], None]):
        self.asked, self.timeout_s = asked, timeout_s
        self.control = Control(timeout_s)
        self._answer, self._answered, self._lock = answer, False, threading.Lock()
        self._watchdog = threading.Timer(timeout_s + ENGINE_GRACE_S, self._expire)
        self._watchdog.daemon = True
        self._watchdog.start()

    def finish(self, result: Any = None, error: Exception | None = None) -> None:
        """Answer, unless that was done before."""
        with self._lock:
            if self._answered:
                return
            self._answered = True
        self._watchdog.cancel()
        self._answer(result, error)

    @property
    def answered(self) -> bool:
        return self._answered

    def _expire(self) -> None:
        self.control.cancel("its deadline passed")
        self.finish(error=Cancelled(f"the deadline of {self.timeout_s:g} s passed and the engine did not stop"))


@dataclass(eq=False)
class Task:
    """One run of the engine: a call's, or the stream's when call is None."""

    snapshot: Snapshot
    asked: Asked
    control: Control
    call: Call | None = None


@dataclass(eq=False)
class Stream:
    """What to ask of every newest image; None pauses. deadline_s: of one answer."""

    asked: Asked | None = None
    deadline_s: float = 30.0


@dataclass
class Counts:
    """What happened to images and answers since the worker was made."""

    stale: int = 0
    preempted: int = 0


class Worker:
    """Runs `perform(owner, task)` on its own thread; `owner` is what `load()` returned there.

    age_s(stamp_ns): age of a capture by the node's clock. max_age_s(): the present limit. on_death(error):
    called from the thread when anything but a PerceptionError escapes; the worker has then answered every
    call and ended.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        perform: Callable[[Any, Task], None],
        free: Callable[[Any], None],
        mailbox: Mailbox,
        age_s: Callable[[int], float],
        max_age_s: Callable[[], float],
        on_death: Callable[[BaseException], None],
    ):
        self._load, self._perform, self._free = load, perform, free
        self.mailbox, self._age_s, self._max_age_s, self._on_death = mailbox, age_s, max_age_s, on_death
        self.counts = Counts()
        self.publishing = threading.Lock()
        self.loaded = threading.Event()
        self.load_error: BaseException | None = None
        self._changed = mailbox.changed
        self._stream, self._calls, self._current, self._stopping = Stream(), [], None, False
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    # -- from other threads ------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy(self) -> bool:
        return self._current is not None

    def stream(self, asked: Asked | None, deadline_s: float = 30.0) -> None:
        """Ask `asked` of the newest images from now on; None pauses. An answer in flight to another is
        cancelled.

        When this returns, nothing made for another question will be published.
        """
        with self.publishing, self._changed:
            old = self._stream.asked
            self._stream.asked, self._stream.deadline_s = asked, deadline_s
            if self._current and self._current.call is None and asked != old:
                self._current.control.cancel("the prompt changed" if asked else "the stream was paused")
            self._changed.notify_all()

    def is_current(self, task: Task) -> bool:
        """Whether the stream's task is still wanted. Hold `publishing` from asking this to the end of
        publishing.
        """
        return not self._stopping and task.asked == self._stream.asked

    def submit(self, call: Call) -> None:
        """Serve `call` before the stream."""
        with self._changed:
            if self._stopping or not self.alive:
                call.finish(error=Cancelled("the node is stopping"))
                return
            self._calls.append(call)
            if self._current and self._current.call is None and not self._current.control.cancelled:
                self.counts.preempted += 1
                self._current.control.cancel("a call took over")
            self._changed.notify_all()

    def cancel_all(self, reason: str) -> None:
        """Pause the stream, stop what runs, answer every call with Cancelled(reason)."""
        with self.publishing, self._changed:
            self._stream.asked = None
            calls, self._calls = self._calls, []
            if self._current:
                self._current.control.cancel(reason)
                if self._current.call:
                    calls.append(self._current.call)
            self._changed.notify_all()
        for call in calls:
            call.control.cancel(reason)
            call.finish(error=Cancelled(reason))

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether the thread stopped working on a task within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._current is None, timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End the thread and free the engine; False if it did not end in time (a load cannot be interrupted)."""
        with self._changed:
            self._stopping = True
        self.cancel_all("the node is stopping")
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- on the thread -----------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            owner = self._load()
        except BaseException as error:  # reported by whoever waits for `loaded`, never lost
            self.load_error = error
            self.loaded.set()
            return
        self.loaded.set()
        try:
            while (task := self._next()) is not None:
                try:
                    self._perform(owner, task)
                except BaseException as error:
                    if task.call:
                        task.call.finish(error=Cancelled(_obituary(error)))
                    raise
                finally:
                    with self._changed:
                        self._current = None
                        self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            self.cancel_all(_obituary(error))
            self._on_death(error)
        finally:
            try:
                self._free(owner)
            except BaseException as error:
                self._on_death(error)

    def _next(self) -> Task | None:
        """Wait for the next task, calls first; None when stopped."""
        with self._changed:
            while not self._stopping:
                task, wait_s = self._next_call()
                if task is None and not self._calls:
                    task, wait_s = self._next_of_stream()
                if task is not None:
                    self._current = task
                    return task
                self._changed.wait(wait_s)
            return None

    def _next_call(self) -> tuple[Task | None, float | None]:
        while self._calls:
            call = self._calls[0]
            snapshot = self.mailbox.newest()
            age_s = None if snapshot is None else self._age_s(snapshot.stamp_ns)
            if call.answered:
                self._calls.pop(0)
            elif call.control.expired:
                self._calls.pop(0)
                call.finish(
                    error=StaleFrame(
                        f"no image newer than max_age ({self._max_age_s():g} s) came within "
                        f"{call.timeout_s:g} s: "
                        + ("none was received" if age_s is None else f"the newest is {age_s:.1f} s old")
                    )
                )
            elif age_s is not None and age_s <= self._max_age_s():
                self._calls.pop(0)
                return Task(snapshot, call.asked, call.control, call), None
            else:
                due_s = self.mailbox.seconds_until_due()
                left_s = max(0.0, call.control.deadline_monotonic_s - time.monotonic())
                return None, left_s if due_s is None else min(due_s, left_s)
        return None, None

    def _next_of_stream(self) -> tuple[Task | None, float | None]:
        if self._stream.asked is None:
            return None, None
        while (snapshot := self.mailbox.take()) is not None:
            if self._age_s(snapshot.stamp_ns) <= self._max_age_s():
                return Task(snapshot, self._stream.asked, Control(self._stream.deadline_s)), None
            self.counts.stale += 1
        return None, self.mailbox.seconds_until_due()


def _obituary(error: BaseException) -> str:
    return f"the engine's thread failed: {type(error).__name__}: {error}"
