"""Tells how far a TensorRT build has come, which takes from seconds to minutes. Knows nothing of what is built."""

from __future__ import annotations

import threading
import time
from types import ModuleType
from typing import Any, Callable

_HEARTBEAT_S = 10.0  # most time without a line


def progress_monitor(trt: ModuleType, title: str, say: Callable[[str], None]) -> Any:
    """A progress monitor and context manager: a line at each tenth of the work, and one every few seconds without."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, list] = {}  # name -> [parent, steps, done]
            self._lock, self._ended = threading.Lock(), threading.Event()
            self._started = self._said = time.monotonic()
            self._tenth, self._phase = 0, "starting"
            self._heart = threading.Thread(target=self._beat, daemon=True)

        def __enter__(self):
            say(f"{title}: building")
            self._heart.start()
            return self

        def __exit__(self, *error):
            self._ended.set()
            self._heart.join()

        def phase_start(self, name, parent, steps):
            with self._lock:
                self._phases[name] = [parent, max(steps, 1), 0]
                self._phase = name

        def step_complete(self, name, step):
            with self._lock:
                self._phases[name][2] = step + 1
                if int(self.share() * 10) > self._tenth:
                    self._tell()
            return True  # False would cancel

        def phase_finish(self, name):
            with self._lock:
                self._phases.pop(name, None)
                self._phase = next(reversed(self._phases), "compiling and writing")

        def share(self) -> float:
            """Of the work, by steps; phases inside a step count as its part."""
            done = {name: phase[2] / phase[1] for name, phase in self._phases.items()}
            for name, (parent, _, _) in reversed(list(self._phases.items())):
                if parent in done:
                    done[parent] = min(1.0, done[parent] + done[name] / self._phases[parent][1])
            return max((done[n] for n, p in self._phases.items() if p[0] not in self._phases), default=0.0)

        def _tell(self):
            self._tenth, self._said = max(self._tenth, int(self.share() * 10)), time.monotonic()
            say(f"{title}: {self._tenth * 10} %, {self._phase.lower()} ({self._said - self._started:.0f} s)")

        def _beat(self):
            while not self._ended.wait(1.0):
                with self._lock:
                    if time.monotonic() - self._said >= _HEARTBEAT_S:
                        self._tell()

    return Monitor()
