"""SIGINT and SIGTERM to wait on; being asked again after a second ends the process at once."""

from __future__ import annotations

import os
import select
import signal
import time


class StopSignals:
    """Made on the main thread; once one has come, `wait` returns at once in every thread.

    A pipe and no threading.Event: a handler runs in the middle of whatever the main thread does, and while that is
    inside Event.wait() it may hold the very lock that Event.set() needs, and would wait for itself for ever.
    """

    def __init__(self):
        self._first_s = 0.0
        self._came, come = os.pipe()
        os.set_blocking(come, False)
        signal.set_wakeup_fd(come, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on)

    def _on(self, number: int, _) -> None:
        now_s = time.monotonic()
        if self._first_s and now_s - self._first_s > 1.0:
            os._exit(128 + number)
        self._first_s = self._first_s or now_s

    def is_set(self) -> bool:
        """Whether one has come."""
        return self.wait(0)

    def wait(self, timeout_s: float | None = None) -> bool:
        """True as soon as one has come, False after timeout_s."""
        return bool(select.select([self._came], [], [], timeout_s)[0])
