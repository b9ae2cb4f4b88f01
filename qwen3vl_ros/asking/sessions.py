"""What was said before in each session, within a limit of memory: idle ones end, and the one used longest ago goes first.

Knows nothing of models, measuring or ROS. Not thread-safe: the thread that asks owns it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Callable, Sequence

import numpy as np

from qwen3vl_ros.engine.base import Turn
from qwen3vl_ros.questions.understand import Understood

MAX_TURNS = 6  # what is told to the model again; older ones are forgotten
MAX_NAME_CHARS = 200


@dataclass(eq=False)
class Session:
    """One conversation. before: what the last question was understood to ask; question: its words."""

    turns: list[Turn] = field(default_factory=list)
    before: Understood | None = None
    question: str = ""
    used_s: float = 0.0

    def add(self, question: str, images: Sequence[np.ndarray], answer: str, understood: Understood | None) -> None:
        """A question and its answer."""
        self.turns += [Turn("user", question, images), Turn("assistant", answer)]
        del self.turns[: -2 * MAX_TURNS]
        self.before, self.question = understood or self.before, question

    @property
    def nbytes(self) -> int:
        """Of its pictures and words, about."""
        return 1024 + sum(4 * len(turn.text) + sum(image.nbytes for image in turn.images) for turn in self.turns)


class Sessions:
    """Sessions by name. idle_s, max_bytes: now, of one left alone and of all together."""

    def __init__(
        self, idle_s: Callable[[], float], max_bytes: Callable[[], int], now_s: Callable[[], float] = time.monotonic
    ):
        self._idle_s, self._max_bytes, self._now_s = idle_s, max_bytes, now_s
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def nbytes(self) -> int:
        return sum(session.nbytes for session in self._open.values())

    def get(self, name: str) -> Session:
        """The session of that name, a new one where there is none or it ended; an empty name is a new one every time."""
        now_s = self._now_s()
        self._open = {n: s for n, s in self._open.items() if now_s - s.used_s <= self._idle_s()}
        session = self._open.get(name) or Session()
        session.used_s = now_s
        return session

    def keep(self, name: str, session: Session) -> None:
        """Have it for the next turn, and let go of what is too much: others first, then its own oldest turns."""
        if not name:
            return
        session.used_s = self._now_s()
        self._open.pop(name, None)
        self._open[name] = session  # the newest last
        while self.nbytes > self._max_bytes() and len(self._open) > 1:
            del self._open[next(iter(self._open))]
        while session.turns and self.nbytes > self._max_bytes():
            del session.turns[:2]
        if self.nbytes > self._max_bytes():
            del self._open[name]
