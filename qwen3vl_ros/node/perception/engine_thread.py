"""The thread that owns the engine: it loads it, takes one job after another, and frees it.

It only performs. What is next, the agenda decides; what a job means is the `perform` function it is given. A second
thread watches over calls: their deadlines, and whether a job that runs should make room. However many calls there are,
these two threads are all, and each call is answered exactly once. Knows no ROS and no messages.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from qwen3vl_ros.control import Control
from qwen3vl_ros.node.perception.agenda import Agenda, Call, Job, Watch
from qwen3vl_ros.types import Cancelled

# An engine looks at its deadline between tokens; past this much more it is stuck and the caller is told so.
ENGINE_GRACE_S = 0.5


class EngineThread:
    """Runs `perform(owner, job, control)` for every job; `owner` is what `load()` returned on the thread.

    What perform returns is the answer of the job's call; it raises Cancelled where there is none. changed: the condition
    that guards the agenda and its mailboxes. on_death(error): called when anything but Cancelled escapes in one of the
    threads; every call is then answered and both have ended or will. Raises RuntimeError where no thread can be started.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        perform: Callable[[Any, Job, Control], Any],
        free: Callable[[Any], None],
        agenda: Agenda,
        changed: threading.Condition,
        on_death: Callable[[BaseException], None],
    ):
        self._load, self._perform, self._free, self._on_death = load, perform, free, on_death
        self._agenda, self._changed = agenda, changed
        self.publishing = threading.Lock()
        self.loaded = threading.Event()
        self.load_error: BaseException | None = None
        self._running: Job | None = None
        self._looked_ahead: Job | None = None  # the job during which that was done
        self._control = Control()
        self._open: set[Call] = set()
        self._called = threading.Event()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._main, name="engine", daemon=True),
            threading.Thread(target=self._watch_over_calls, name="deadlines", daemon=True),
        ]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:  # no more threads: one without the other is of no use
            self._stopping = True
            raise

    # -- from other threads ------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the engine's thread still runs."""
        return self._threads[0].is_alive()

    @property
    def busy(self) -> bool:
        """Whether a job is being done."""
        return self._running is not None

    def watch(self, watch: Watch) -> None:
        """Ask it from now on. When this returns, no answer to another question of its name will be published."""
        with self.publishing, self._changed:
            if not self._stopping:
                self._agenda.watch(watch)
                self._drop_unwanted("the prompt changed")

    def unwatch(self, camera: str, name: str) -> None:
        """Ask it no more. When this returns, nothing of it will be published."""
        with self.publishing, self._changed:
            self._agenda.unwatch(camera, name)
            self._drop_unwanted("the stream was paused")

    def watched(self, prefix: str) -> set[tuple[str, str]]:
        """(camera, name) of the watches whose name begins so."""
        with self._changed:
            return {key for key in self._agenda.watched if key[1].startswith(prefix)}

    def behind(self) -> dict[str, float]:
        """As Agenda.behind."""
        with self._changed:
            return self._agenda.behind()

    def look_again(self, camera: str, name: str) -> None:
        """As Agenda.look_again."""
        with self._changed:
            self._agenda.look_again(camera, name)
            self._called.set()
            self._changed.notify_all()

    def _drop_unwanted(self, reason: str) -> None:
        if self._running and self._running.watch and not self._agenda.is_watched(self._running.watch):
            self._control.cancel(reason)
        self._changed.notify_all()

    def is_current(self, watch: Watch) -> bool:
        """Whether its answers are still wanted. Hold `publishing` from asking this to the end of publishing."""
        with self._changed:
            return not self._stopping and self._agenda.is_watched(watch)

    def submit(self, call: Call) -> None:
        """Have it served before the watches. Raises as Agenda.call; Cancelled when stopping."""
        with self._changed:
            if self._stopping:
                raise Cancelled("the node is stopping")
            self._agenda.call(call)
            self._open.add(call)
            self._called.set()
            self._changed.notify_all()

    def cancel(self, call: Call, reason: str) -> None:
        """Answer one call with Cancelled(reason): at once where it waits, after the current token where it runs."""
        with self._changed:
            if call not in self._open:
                return
            if self._running and self._running.call is call:
                return self._control.cancel(reason)
            self._agenda.drop(call)
        self._answer(call, error=Cancelled(reason))

    def cancel_all(self, reason: str) -> None:
        """Ask nothing any more, stop what runs, answer every call with Cancelled(reason)."""
        with self.publishing, self._changed:
            self._agenda.clear()
            self._control.cancel(reason)
            calls = sorted(self._open, key=lambda call: call.deadline_s)
            self._changed.notify_all()
        for call in calls:
            self._answer(call, error=Cancelled(reason))

    def wait_idle(self, timeout_s: float) -> bool:
        """Whether the job that ran ended within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running is None, timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End the threads and free the engine; False if that took too long (a load cannot be interrupted)."""
        with self._changed:
            self._stopping = True
        self.cancel_all("the node is stopping")
        self._called.set()
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _answer(self, call: Call, result: Any = None, error: Exception | None = None) -> None:
        """Whoever takes the call out of the open ones answers it; nobody else can."""
        with self._changed:
            if call not in self._open:
                return
            self._open.discard(call)
        call.answer(result, error)

    # -- the engine's thread -----------------------------------------------------------------------

    def _main(self) -> None:
        try:
            owner = self._load()
        except BaseException as error:  # reported by whoever waits for `loaded`, never lost
            self.load_error = error
            self._end("the model could not be loaded")
            self.loaded.set()
            return
        self.loaded.set()
        try:
            while (job := self._next()) is not None:
                self._do(owner, job)
        except BaseException as error:
            self._end(_obituary(error))
            self._on_death(error)
        finally:
            try:
                self._free(owner)
            except BaseException as error:
                self._on_death(error)

    def _next(self) -> Job | None:
        """Wait for the next job; None when stopped."""
        with self._changed:
            while not self._stopping:
                if job := self._agenda.next():
                    left_s = job.watch.answer_s if job.watch else job.call.deadline_s - time.monotonic()
                    self._running, self._control = job, Control(left_s)
                    return job
                self._changed.wait(self._agenda.seconds_until_due())
            return None

    def _do(self, owner: Any, job: Job) -> None:
        result, error = None, None
        try:
            result = self._perform(owner, job, self._control)
        except Cancelled as cancelled:
            error = cancelled
        except BaseException as defect:
            error = Cancelled(_obituary(defect))
            raise
        finally:
            if job.call:
                self._answer(job.call, result, error)
            with self._changed:
                self._running = self._looked_ahead = None
                self._agenda.done(job, completed=error is None)
                self._changed.notify_all()

    def _end(self, reason: str) -> None:
        with self._changed:
            self._stopping = True
        self._called.set()
        self.cancel_all(reason)

    def upcoming(self) -> Job | None:
        """As Agenda.upcoming, of the job that runs; once for each, since a guess that was wrong costs as much as it can save."""
        with self._changed:
            if self._running is None or self._running is self._looked_ahead or self._control.interruption:
                return None
            if job := self._agenda.upcoming(self._running):
                self._looked_ahead = self._running
            return job

    # -- the calls' thread -------------------------------------------------------------------------

    def _watch_over_calls(self) -> None:
        try:
            while self._called.wait() and not self._stopping:
                with self._changed:
                    late = self._late()
                    self._make_room()
                    if not late:
                        self._wait()
                for call, error in late:
                    self._answer(call, error=error)
        except BaseException as error:
            self._end(_obituary(error))
            self._on_death(error)

    def _late(self) -> list[tuple[Call, Exception]]:
        late = self._agenda.late_calls()
        call = self._running and self._running.call
        if call in self._open and time.monotonic() >= call.deadline_s + ENGINE_GRACE_S:
            self._control.cancel("its deadline passed")
            message = f"the deadline of {call.timeout_s:g} s passed and the engine did not stop"
            late.append((call, Cancelled(message)))
        return late

    def _make_room(self) -> None:
        if self._running and not self._control.cancelled and (reason := self._agenda.preempts(self._running)):
            self._agenda.preempted[self._running.camera] += 1
            self._control.cancel(reason)

    def _wait(self) -> None:
        """Until something arrives or a deadline passes; outside, and for nothing that arrives, where nobody waits."""
        if self._stopping:
            return
        if not self._open and not self._agenda.looks_again:
            self._called.clear()
            return
        waits = [] if (left_s := self._agenda.seconds_to_deadline()) is None else [left_s]
        if self._running and self._running.call in self._open:
            waits.append(self._running.call.deadline_s + ENGINE_GRACE_S - time.monotonic())
        self._changed.wait(max(0.0, min(waits)) if waits else None)


def _obituary(error: BaseException) -> str:
    return f"the engine's thread failed: {type(error).__name__}: {error}"
