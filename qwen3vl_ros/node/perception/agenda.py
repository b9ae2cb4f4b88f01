"""What the one engine does next: calls, which somebody waits for, and watches, the standing questions of cameras.

Pure decisions over mailboxes and a clock: no threads, no ROS, no engine. The rules:

- a call goes before the watches, and stops a watch that runs (`preempts`); those of one camera are served in their order,
  and cameras take turns;
- an alarm's watch is not stopped by a call, and waits for CALLS_BEFORE_ALARM of them at most; for none where it asked
  for a second look;
- a frame is taken once, and everything due is asked of it before the next is taken: the engine has then seen it once.
  A call ends that, because the engine has seen another picture since;
- cameras take turns, a frame each; one without a fresh frame is passed over, and holds nobody up;
- a watch is due again `period_s` after it was asked. A clock that jumps forward makes it due once, one that jumps back
  makes it due now.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Container, Mapping

from qwen3vl_ros.node.perception.mailbox import Mailbox, Snapshot
from qwen3vl_ros.questions import Question
from qwen3vl_ros.types import Cancelled, InvalidInput, PerceptionError, StaleFrame
from qwen3vl_ros.zoom import WHOLE, Zoom

CALLS_BEFORE_ALARM = 3


class TooManyCalls(PerceptionError):
    """As many calls wait as may; the same call may be served later."""


@dataclass(frozen=True)
class Asked:
    """A question, the number that its answers carry, and what of the picture it is asked of. about: the inspected point or
    watch that it belongs to, "" for none.
    """

    question: Question
    prompt_id: int = 0
    zoom: Zoom = WHOLE
    about: str = ""


@dataclass(eq=False)
class Call:
    """A question that somebody waits for. answer(result, error): how to tell them; the agenda never does.

    deadline_s: by the agenda's clock, set when it is added. also: further cameras that it asks of. newer_than_ns: a capture that is
    not newer will not do. pictured: False where it brings its own pictures. perform: how it is done, where a question is not all; as
    EngineThread's. asked: None with that.
    """

    camera: str
    asked: Asked | None
    timeout_s: float
    answer: Callable[[Any, Exception | None], None]
    deadline_s: float = math.inf
    also: tuple[str, ...] = ()
    newer_than_ns: int = 0
    pictured: bool = True
    perform: Callable[[Any, Any, Any], Any] | None = None


@dataclass(frozen=True)
class Watch:
    """A standing question: asked of the camera's newest frame, every `period_s` (0: of every frame there is time for).

    priority: the higher goes first among those that are due of one frame. answer_s: the longest one answer may take.
    """

    camera: str
    name: str
    asked: Asked
    period_s: float = 0.0
    priority: int = 0
    alarm: bool = False
    answer_s: float = 30.0

    def __post_init__(self):
        if not 0 <= self.period_s < math.inf:
            raise InvalidInput(f"the watch {self.name!r} has period {self.period_s}: it must be 0 or more seconds")


@dataclass(frozen=True, eq=False)
class Job:
    """One run of the engine: `asked` of one capture, for a call or for a watch. snapshot: None for a call with its own pictures.
    also: captures of its further cameras."""

    camera: str
    snapshot: Snapshot | None
    asked: Asked | None
    call: Call | None = None
    watch: Watch | None = None
    also: tuple[Snapshot, ...] = ()


@dataclass(eq=False)
class _Standing:
    """A watch and its history. begun_s: when its last job began; asked_s: when the last one that was completed did, took_s:
    how long that was. job: number of its last one. passed_over: calls served while it was due.
    """

    watch: Watch
    begun_s: float = 0.0
    asked_s: float | None = None
    took_s: float = math.inf
    job: int = 0
    passed_over: int = 0
    second_look: bool = False

    def seconds_left(self, now_s: float) -> float:
        """Until it is due; 0 if it is."""
        asked_s, period_s = self.asked_s, self.watch.period_s
        if self.second_look or asked_s is None or not asked_s <= now_s < asked_s + period_s:
            return 0.0
        return asked_s + period_s - now_s


@dataclass(eq=False)
class _Opened:
    """The frame whose questions are being asked, and the watches that were asked of it."""

    camera: str
    snapshot: Snapshot
    asked: set[str] = field(default_factory=set)


class Agenda:
    """Not thread-safe: hold one lock around every method, the mailboxes' own.

    cameras: the mailbox of each. age_s(stamp_ns): age of a capture by the node's clock. max_age_s(camera): a capture
    that is older is of no use. longest_queue(): how many calls may wait at each. longest_timeout_s(): that a
    call may name. now_s: any clock.
    stale, preempted: how often that happened, by camera.
    """

    def __init__(
        self,
        cameras: Mapping[str, Mailbox],
        age_s: Callable[[int], float],
        max_age_s: Callable[[str], float],
        longest_queue: Callable[[], int] = lambda: 64,
        longest_timeout_s: Callable[[], float] = lambda: 3600.0,
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._cameras, self._age_s, self._max_age_s = cameras, age_s, max_age_s
        self._longest_queue, self._longest_timeout_s, self._now_s = longest_queue, longest_timeout_s, now_s
        self.stale: Counter[str] = Counter()
        self.preempted: Counter[str] = Counter()
        self._calls: list[Call] = []
        self._standing: dict[tuple[str, str], _Standing] = {}
        self._opened: _Opened | None = None
        self._taken_ns: dict[str, int] = {}
        self._jobs = itertools.count(1)
        self._called: Counter[str] = Counter()  # number of the last job, by camera: a call's, a frame's
        self._served: Counter[str] = Counter()

    # -- what is wanted ----------------------------------------------------------------------------

    def call(self, call: Call) -> None:
        """Serve it before the watches. Raises InvalidInput for a timeout nobody can keep or an unknown camera, and
        TooManyCalls.
        """
        for camera in (call.camera, *call.also):
            self._check_camera(camera)
        longest_s = self._longest_timeout_s()
        if not 0 < call.timeout_s <= longest_s:
            raise InvalidInput(
                f"timeout {call.timeout_s} must be a number of seconds above 0 and no more than {longest_s:g} "
                "(parameter request_timeout_max)"
            )
        waiting = sum(other.camera == call.camera for other in self._calls)
        if waiting >= self._longest_queue():  # of this camera, or one that stands still would refuse the others' calls
            raise TooManyCalls(f"{waiting} calls wait already (parameter request_queue); call again later")
        call.deadline_s = self._now_s() + call.timeout_s
        self._calls.append(call)

    def drop(self, call: Call) -> None:
        """Serve it no more, if it still waits."""
        if call in self._calls:
            self._calls.remove(call)

    def watch(self, watch: Watch) -> None:
        """Ask it from now on, in place of the one of the same camera and name; the same question keeps its history.

        Raises InvalidInput for an unknown camera.
        """
        self._check_camera(watch.camera)
        old = self._standing.get((watch.camera, watch.name))
        if old and old.watch.asked == watch.asked:
            old.watch = watch
        else:
            self._standing[watch.camera, watch.name] = _Standing(watch)

    def unwatch(self, camera: str, name: str) -> None:
        """Ask it no more."""
        self._standing.pop((camera, name), None)

    def look_again(self, camera: str, name: str) -> None:
        """An alarm's watch wants a second look, of the next frame and before everything that waits."""
        standing = self._standing.get((camera, name))
        if standing is None or not standing.watch.alarm:
            raise InvalidInput(f"camera {camera!r} has no alarm {name!r} that could look again")
        standing.second_look = True

    @property
    def looks_again(self) -> bool:
        """Whether an alarm still waits for its second look."""
        return any(standing.second_look for standing in self._standing.values())

    def is_watched(self, watch: Watch) -> bool:
        """Whether this very question is still asked under its name."""
        standing = self._standing.get((watch.camera, watch.name))
        return standing is not None and standing.watch.asked == watch.asked

    @property
    def watched(self) -> tuple[tuple[str, str], ...]:
        """(camera, name) of every watch."""
        return tuple(self._standing)

    def behind(self) -> dict[str, float]:
        """Seconds that each watch with a period is late by, those only that are by more than their period; "camera: name"."""
        now_s, late = self._now_s(), {}
        for (camera, name), s in self._standing.items():
            period_s = s.watch.period_s
            if period_s and s.asked_s is not None and now_s - s.asked_s > 2 * period_s:
                late[f"{camera}: {name}" if camera else name] = now_s - s.asked_s - period_s
        return late

    def clear(self) -> list[Call]:
        """Want nothing any more; the calls that waited."""
        calls, self._calls = self._calls, []
        self._standing.clear()
        self._taken_ns.clear()
        self._opened = None
        return calls

    def _check_camera(self, camera: str) -> None:
        if camera not in self._cameras:
            raise InvalidInput(f"camera {camera!r} is unknown; the cameras are {', '.join(self._cameras)}")

    # -- what is done ------------------------------------------------------------------------------

    def next(self) -> Job | None:
        """The next job, now: it has begun. None if there is nothing to do; then see `seconds_until_due`."""
        now_s = self._now_s()
        return self._alarm_job(now_s) or self._call_job(now_s) or self._watch_job(now_s)

    def done(self, job: Job, completed: bool) -> None:
        """`job` has ended; not completed: what it asked stays due, of a later frame."""
        standing = job.watch and self._standing.get((job.camera, job.watch.name))
        if completed and standing and standing.watch.asked == job.asked:
            standing.asked_s, standing.took_s = standing.begun_s, self._now_s() - standing.begun_s
        if self._opened and not self._due(self._opened.camera, self._now_s(), self._opened.asked):
            self._opened = None

    def preempts(self, running: Job) -> str:
        """Why `running` should stop at its next token; empty if it should not."""
        if running.watch is None or running.watch.alarm:
            return ""
        if any(s.second_look and self._has_new(s.watch.camera) for s in self._standing.values()):
            return "an alarm looks again"
        return "a call took over" if any(self._captures(call) is not None for call in self._calls) else ""

    def upcoming(self, running: Job) -> Job | None:
        """What a watch that runs will be followed by, so that an engine may see its picture already: another picture, whole, and
        the one that will be taken. So there is none where its camera is expected to send a newer one first: that would be seen for nothing. The end of what
        runs is guessed from its last time. A guess, and nothing is taken: `next` decides as ever.
        """
        standing, now_s = running.watch and self._standing.get((running.camera, running.watch.name)), self._now_s()
        if standing is None or self._calls or self.looks_again:
            return None  # what goes first takes the newest picture of its own time
        left_s = max(0.0, standing.begun_s + standing.took_s - now_s)
        if self._opened and self._due(self._opened.camera, now_s + left_s, self._opened.asked):
            return None  # of the same picture
        for camera in sorted(self._cameras, key=self._served.__getitem__):
            asked_now = {running.watch.name} if camera == running.camera and running.watch.period_s else ()
            if (due := self._due(camera, now_s + left_s, asked_now)) is None:
                continue
            if self._cameras[camera].next_in_s() < left_s:
                return None
            if self._has_new(camera):
                asked = due.watch.asked
                whole = asked.question.pictured and asked.zoom == WHOLE and not asked.about
                return Job(camera, self._fresh(camera), asked, watch=due.watch) if whole else None
        return None

    def late_calls(self) -> list[tuple[Call, PerceptionError]]:
        """Takes out the calls whose deadline passed while they waited; with what to tell them."""
        now_s = self._now_s()
        late = [(call, self._why_late(call, i)) for i, call in enumerate(self._calls) if now_s >= call.deadline_s]
        if late:
            self._calls = [call for call in self._calls if now_s < call.deadline_s]
        return late

    def seconds_to_deadline(self) -> float | None:
        """Until the first waiting call is late; None if none waits."""
        if not self._calls:
            return None
        return max(0.0, min(call.deadline_s for call in self._calls) - self._now_s())

    def seconds_until_due(self) -> float | None:
        """How long nothing can be done unless something arrives; None if for ever."""
        now_s = self._now_s()
        wanted, waits = {camera for call in self._calls for camera in (call.camera, *call.also)}, []
        for standing in self._standing.values():
            left_s = standing.seconds_left(now_s)
            if left_s > 0:
                waits.append(left_s)
            else:
                wanted.add(standing.watch.camera)
        waits += [s for s in (self._cameras[camera].seconds_until_due() for camera in wanted) if s is not None]
        return min(waits, default=None)

    # -- what is next ------------------------------------------------------------------------------

    def _alarm_job(self, now_s: float) -> Job | None:
        """Of an alarm that waits for no call any more."""
        waiting = [
            s
            for s in self._standing.values()
            if s.watch.alarm and (s.second_look or (s.passed_over >= CALLS_BEFORE_ALARM and not s.seconds_left(now_s)))
        ]
        for standing in sorted(waiting, key=lambda s: (not s.second_look, -s.passed_over, -s.watch.priority)):
            opened, camera = self._opened, standing.watch.camera
            fits = opened and opened.camera == camera and standing.watch.name not in opened.asked
            if fits or (self._has_new(camera) and self._open(camera)):
                return self._ask(standing, now_s)
        return None

    def _call_job(self, now_s: float) -> Job | None:
        firsts: dict[str, Call] = {}
        for call in self._calls:
            if now_s < call.deadline_s:
                firsts.setdefault(call.camera, call)
        for camera in sorted(firsts, key=self._called.__getitem__):
            call = firsts[camera]
            if (captures := self._captures(call)) is not None:
                self._calls.remove(call)
                self._called[camera] = next(self._jobs)
                self._opened = None
                for standing in self._standing.values():
                    standing.passed_over += standing.watch.alarm and not standing.seconds_left(now_s)
                return Job(camera, captures[0] if captures else None, call.asked, call=call, also=captures[1:])
        return None

    def _captures(self, call: Call) -> tuple[Snapshot, ...] | None:
        """The newest capture of each camera of a call; None where one has none that will do."""
        if not call.pictured:
            return ()
        captures = tuple(self._fresh(camera) for camera in (call.camera, *call.also))
        return captures if all(c is not None and c.stamp_ns > call.newer_than_ns for c in captures) else None

    def _watch_job(self, now_s: float) -> Job | None:
        if self._opened and (due := self._due(self._opened.camera, now_s, self._opened.asked)):
            return self._ask(due, now_s)
        self._opened = None
        for camera in sorted(self._cameras, key=self._served.__getitem__):
            due = self._due(camera, now_s)
            if due and self._open(camera):
                return self._ask(due, now_s)
        return None

    def _due(self, camera: str, now_s: float, but: Container[str] = ()) -> _Standing | None:
        """The camera's first due watch: of the highest priority, the one that was asked longest ago."""
        due = [
            s
            for s in self._standing.values()
            if s.watch.camera == camera and s.watch.name not in but and not s.seconds_left(now_s)
        ]
        return min(due, key=lambda s: (-s.watch.priority, s.job), default=None)

    def _ask(self, standing: _Standing, now_s: float) -> Job:
        watch, opened = standing.watch, self._opened
        opened.asked.add(watch.name)
        standing.begun_s, standing.job, standing.passed_over, standing.second_look = now_s, next(self._jobs), 0, False
        return Job(watch.camera, opened.snapshot, watch.asked, watch=watch)

    # -- frames ------------------------------------------------------------------------------------

    def _fresh(self, camera: str) -> Snapshot | None:
        """The camera's newest capture, if it is of use."""
        snapshot = self._cameras[camera].newest()
        return snapshot if snapshot and self._age_s(snapshot.stamp_ns) <= self._max_age_s(camera) else None

    def _has_new(self, camera: str) -> bool:
        """Whether there is a fresh frame that was not taken yet."""
        snapshot = self._fresh(camera)
        return snapshot is not None and snapshot.stamp_ns != self._taken_ns.get(camera)

    def _open(self, camera: str) -> bool:
        """Take the camera's newest frame; False if there is none of use."""
        snapshot = self._cameras[camera].take()
        if snapshot is None:
            return False
        self._taken_ns[camera] = snapshot.stamp_ns
        if self._age_s(snapshot.stamp_ns) > self._max_age_s(camera):
            self.stale[camera] += 1
            return False
        self._opened = _Opened(camera, snapshot)
        self._served[camera] = next(self._jobs)
        return True

    def _why_late(self, call: Call, before: int) -> PerceptionError:
        max_age_s, late = self._max_age_s(call.camera), []
        for camera in (call.camera, *call.also) if call.pictured else ():
            newest, max_age_s = self._cameras[camera].newest(), self._max_age_s(camera)
            age_s = None if newest is None else self._age_s(newest.stamp_ns)
            of = f" of {camera}" if call.also else ""
            if age_s is None:
                late.append((max_age_s, f"none{of} was received"))
            elif age_s > max_age_s:
                late.append((max_age_s, f"the newest{of} is {age_s:.1f} s old"))
            elif newest.stamp_ns <= call.newer_than_ns:
                late.append((max_age_s, f"none{of} is newer than was asked for"))
        if not late:
            return Cancelled(
                f"the deadline of {call.timeout_s:g} s passed while the engine was busy; {before} calls were before it"
            )
        return StaleFrame(
            f"no image newer than max_age ({late[0][0]:g} s) came within {call.timeout_s:g} s: {late[0][1]}"
        )
