"""One object of the world, as one knows it now: where it is, how it moves, how old that is, and what was measured of it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Callable

import numpy as np

from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.tracking.track import COASTING, FRESH, UNCERTAIN
from qwen3vl_ros.types import Detection3D

MAX_AHEAD_S = 0.5  # a velocity says nothing about later
DRIFT_M_S = 0.01  # what nobody sees may have moved by this a second, for all one knows
_NO_WAY_M = np.zeros(3)


@dataclass(eq=False)
class Look:
    """One measured look at one thing. Its points and noise are worked out when somebody asks: most looks nobody asks about.

    solid: its 3D box then. stamp_ns: capture of the picture. measured(solid): the `Thing`; the same function for all of one answer.
    """

    solid: Detection3D
    stamp_ns: int
    measured: Callable[[Detection3D], Thing] | None
    _made: Thing | None = None
    _making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def thing(self) -> Thing:
        with self._making:
            if self._made is None:
                self._made, self.measured = self.measured(self.solid), None  # with it goes the picture's depth
            return self._made


@dataclass(frozen=True, eq=False)
class WorldObject:
    """One object as of stamp_ns, the last picture that showed it or was used to follow it.

    id: of the first track that showed it. labels: what it was called, newest first. state: as of a Track; lost: remembered only.
    position_m: 3 metres in frame_id, the middle of its box, or of its seen surface where frame_T_box is None because none was ever
    measured. spread_m: one deviation of the position. seen_ns: capture of the last answer that saw it. tracks: (camera, id) that
    show it now. look: the newest measured look at it, None where none was measured; since_look_m: how far it went since, 3 metres.
    """

    id: str
    labels: tuple[str, ...]
    state: str
    score: float
    stamp_ns: int
    seen_ns: int
    frame_id: str
    position_m: np.ndarray
    velocity_m_s: np.ndarray
    spread_m: float
    frame_T_box: np.ndarray | None = None
    size_m: np.ndarray | None = None
    tracks: tuple[tuple[str, str], ...] = ()
    look: Look | None = None
    since_look_m: np.ndarray = field(default_factory=lambda: _NO_WAY_M)

    @property
    def label(self) -> str:
        return self.labels[0]

    @cached_property
    def thing(self) -> Thing | None:
        """What was measured of it, moved to where it is, under its id: for `geometry.layout.Layout`. None without a look."""
        if self.look is None:
            return None
        now_T_then = np.eye(4)
        now_T_then[:3, 3] = self.since_look_m
        moved = self.look.thing.moved(now_T_then, spread_m=self.spread_m)
        return replace(moved, id=self.id, label=self.label)

    def age_s(self, now_ns: int) -> float:
        """Since it was seen or followed last."""
        return max(now_ns - self.stamp_ns, 0) / 1e9

    def at(self, now_ns: int) -> WorldObject:
        """Where it should be at a time after the last picture: gone on at its speed for MAX_AHEAD_S at most, spread accordingly;
        later than that it is fresh no more, but coasting.
        """
        age_s = self.age_s(now_ns)
        ahead_m = self.velocity_m_s * min(age_s, MAX_AHEAD_S) if self.state in (FRESH, UNCERTAIN) else _NO_WAY_M
        unsure_m = DRIFT_M_S * age_s + 0.5 * float(np.linalg.norm(self.velocity_m_s)) * age_s
        state = COASTING if self.state == FRESH and age_s > MAX_AHEAD_S else self.state
        return replace(_moved(self, ahead_m), spread_m=math.hypot(self.spread_m, unsure_m), state=state)


def _moved(known: WorldObject, by_m: np.ndarray) -> WorldObject:
    pose = known.frame_T_box
    if pose is not None:
        pose = pose.copy()
        pose[:3, 3] += by_m
    return replace(known, position_m=known.position_m + by_m, frame_T_box=pose, since_look_m=known.since_look_m + by_m)
