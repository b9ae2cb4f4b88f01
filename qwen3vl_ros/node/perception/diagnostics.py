"""What the node says about its health: counters, rates, percentiles, and the rules that make them OK, WARN,
ERROR or STALE.

Pure data and rules; `messages.py` turns the status into diagnostic_msgs. Thread-safe, fixed memory.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Callable

import numpy as np

STALE_AFTER_S = 2.0  # an active node without images for longer is stale
RECENT_S = 5.0  # a problem older than this no longer colours the level
LONGEST_TEXT = 1000  # characters; what others send must not fill /diagnostics


class Level(IntEnum):
    """As diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Status:
    level: Level
    message: str
    values: tuple[tuple[str, str], ...]


class Health:
    """Everything /diagnostics tells of a camera and the engine, or of one of the two where there are several cameras.
    Times are monotonic seconds unless named otherwise.
    """

    def __init__(
        self, monotonic_s: Callable[[], float] = time.monotonic, of_camera: bool = True, of_engine: bool = True
    ):
        self._now, self._of_camera, self._of_engine = monotonic_s, of_camera, of_engine
        self._lock = threading.Lock()
        self.state = "unconfigured"
        self.engine = ""
        self._facts: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._images: deque[float] = deque(maxlen=120)
        self._answers: deque[float] = deque(maxlen=120)
        self._latencies_s: deque[float] = deque(maxlen=500)
        self._overheads_s: deque[float] = deque(maxlen=500)
        self._problems: dict[str, tuple[Level, str, float | None]] = {}
        self._last_error = ("", 0.0)
        self._active_since: float | None = None

    # -- what happens ------------------------------------------------------------------------------

    def enter(self, state: str) -> None:
        """A lifecycle state or transition was entered."""
        with self._lock:
            self.state = state
            self._active_since = self._now() if state == "active" else None
            if state == "active":
                self._images.clear()
                self._answers.clear()
            if state == "unconfigured":
                self._problems = {k: v for k, v in self._problems.items() if k == "configure"}

    def image_arrived(self) -> None:
        with self._lock:
            self._images.append(self._now())

    def answered(self, latency_s: float, engine_s: float) -> None:
        """An answer for the stream was published, latency_s after its image's stamp, engine_s of it in the
        engine.
        """
        with self._lock:
            self._answers.append(self._now())
            self._latencies_s.append(latency_s)
            self._overheads_s.append(latency_s - engine_s)
            self._counts["answers"] += 1

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self._counts[what] += by

    def fact(self, name: str, value: object) -> None:
        """A value to show as it is; it replaces the last one of that name."""
        with self._lock:
            self._facts[name] = _cut(str(value))

    def problem(self, topic: str, level: Level, message: str, lasting: bool = False) -> None:
        """Something is wrong with `topic`: until `well(topic)`, or for RECENT_S if it is not lasting."""
        with self._lock:
            self._problems[topic] = (level, _cut(message), None if lasting else self._now())

    def failed(self, topic: str, level: Level, message: str, lasting: bool = False) -> None:
        """A problem that is also the last error."""
        self.problem(topic, level, message, lasting)
        with self._lock:
            self._last_error = (_cut(message), self._now())

    def well(self, *topics: str) -> None:
        with self._lock:
            for topic in topics:
                self._problems.pop(topic, None)

    # -- what it amounts to ------------------------------------------------------------------------

    def status(self, counters: dict[str, int] | None = None) -> Status:
        """The present level, one line that says why, and every figure. counters: counts kept elsewhere."""
        with self._lock:
            now = self._now()
            self._problems = {k: v for k, v in self._problems.items() if v[2] is None or now - v[2] <= RECENT_S}
            level, message = self._judge(now)
            values = [("state", self.state)]
            if self._of_engine:
                values.append(("engine", self.engine))
            if self._of_camera:
                values += self._camera_values(now)
            values += [(name, str(n)) for name, n in ({**self._counts, **(counters or {})}).items()]
            values += list(self._facts.items())
            values += [(f"problem: {topic}", text) for topic, (_, text, _) in sorted(self._problems.items())]
            error, at = self._last_error
            values.append(("last error", f"{error} ({now - at:.0f} s ago)" if error else "none"))
            return Status(level, message, tuple(values))

    def _camera_values(self, now: float) -> list[tuple[str, str]]:
        age_s = now - self._images[-1] if self._images else None
        values = [
            ("last image", "none" if age_s is None else f"{age_s:.2f} s ago"),
            ("input rate", f"{_rate_hz(self._images, now):.1f} Hz"),
            ("answer rate", f"{_rate_hz(self._answers, now):.1f} Hz"),
        ]
        for name, series in (("latency", self._latencies_s), ("overhead", self._overheads_s)):
            for share in (50, 95):
                text = f"{1000 * float(np.percentile(series, share)):.1f} ms" if series else "none"
                values.append((f"{name} p{share}", text))
        return values

    def _judge(self, now: float) -> tuple[Level, str]:
        worst = max(self._problems.values(), key=lambda p: p[0], default=None)
        if worst and worst[0] is Level.ERROR:
            return worst[0], worst[1]
        if self._of_camera and self._active_since is not None:
            silent_s = now - max(self._active_since, self._images[-1] if self._images else 0.0)
            if silent_s > STALE_AFTER_S:
                why = "" if not worst else f"; {worst[1]}"
                return Level.STALE, f"no image for {silent_s:.1f} s{why}"
        return (worst[0], worst[1]) if worst else (Level.OK, self.state)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"


def _rate_hz(times: deque[float], now: float) -> float:
    recent = [t for t in times if now - t <= 5.0]
    if len(recent) < 2:
        return 0.0
    # The silence since the last one counts, so that a stopped stream falls to zero instead of freezing.
    return (len(recent) - 1) / max(recent[-1] - recent[0], now - recent[0] - 1.0, 1e-6)
