"""Stops a generation from another thread. Knows nothing of engines, and nothing of what is generated."""

from __future__ import annotations

import threading
import time


class Control:
    """Stops a generation from another thread: cancel(), or a deadline in seconds from now. Safe to share."""

    def __init__(self, deadline_s: float | None = None):
        self._event = threading.Event()
        self.reason = ""
        self.deadline_monotonic_s = None if deadline_s is None else time.monotonic() + deadline_s

    def cancel(self, reason: str = "cancelled by the caller") -> None:
        """Ask the running generation to stop after the current token; the first reason stays."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    @property
    def expired(self) -> bool:
        return self.deadline_monotonic_s is not None and time.monotonic() >= self.deadline_monotonic_s
