"""When a generation has to stop: somebody cancels it from another thread, or its time is up.

Knows nothing of engines, and nothing of what is generated.
"""

from __future__ import annotations

import copy
import time


class Control:
    """Stops a generation from another thread: cancel(), or a deadline in seconds from now. Safe to share."""

    def __init__(self, deadline_s: float | None = None):
        self._reasons: list[str] = []  # of cancels, the first counts
        self.deadline_monotonic_s = None if deadline_s is None else time.monotonic() + deadline_s

    def within(self, seconds: float) -> Control:
        """This control with a deadline so many seconds from now, unless it has one; a cancel of either is one of both."""
        if self.deadline_monotonic_s is not None:
            return self
        bounded = copy.copy(self)
        bounded.deadline_monotonic_s = time.monotonic() + seconds
        return bounded

    def cancel(self, reason: str = "cancelled by the caller") -> None:
        """Ask the running generation to stop after the current token; the first reason stays."""
        if not self._reasons:
            self._reasons.append(reason)

    @property
    def reason(self) -> str:
        """Of the first cancel; empty without one."""
        return self._reasons[0] if self._reasons else ""

    @property
    def cancelled(self) -> bool:
        return bool(self._reasons)

    @property
    def expired(self) -> bool:
        return self.deadline_monotonic_s is not None and time.monotonic() >= self.deadline_monotonic_s

    @property
    def interruption(self) -> str:
        """The finish_reason of a generation that has to stop now, "cancelled" or "deadline"; "" to go on."""
        return "cancelled" if self.cancelled else "deadline" if self.expired else ""
