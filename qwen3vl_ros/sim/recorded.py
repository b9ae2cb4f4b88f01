"""What a recording gives: pictures with the depth that was recorded with them, and an account of what it could not give."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np

from qwen3vl_ros.calibration import why_unregistered
from qwen3vl_ros.config import Config
from qwen3vl_ros.types import Frame, InvalidInput

_REGISTERED_NS = round(Config.sync_slop * 1e9)
_SAID = 5  # losses that are told one by one; further ones are only counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Depth:
    """A depth picture as it was recorded: its own stamp, frame and size, whether or not they are the colour picture's.

    metres: HxW float32, NaN or 0 = no reading.
    """

    stamp_ns: int
    frame_id: str
    metres: np.ndarray


@dataclass(frozen=True, eq=False)
class Recorded:
    """One picture and the depth recorded with it. frame.depth_m is set where the node would take it, live."""

    frame: Frame
    depth: Depth | None = None

    @classmethod
    def of(cls, frame: Frame, depth: Depth | None) -> tuple[Recorded, str]:
        """The two together, and why the depth is not registered to the picture; empty where it is or there is none."""
        if depth is None:
            return cls(frame), ""
        height, width = depth.metres.shape
        fault = why_unregistered((width, height), depth.frame_id, frame.size_px, frame.frame_id)
        if not fault and abs(depth.stamp_ns - frame.stamp_ns) <= _REGISTERED_NS:
            frame = replace(frame, depth_m=depth.metres)
        return cls(frame, depth), fault

    def later(self, by_ns: int) -> Recorded:
        """The same with other stamps."""
        if by_ns == 0:
            return self
        depth = None if self.depth is None else replace(self.depth, stamp_ns=self.depth.stamp_ns + by_ns)
        return Recorded(replace(self.frame, stamp_ns=self.frame.stamp_ns + by_ns), depth)


class Losses:
    """Counts what cannot be read and tells the first few; without `tell` the first one raises InvalidInput."""

    def __init__(self, tell: Callable[[str], None] | None):
        self._tell, self._count, self._summed = tell, 0, 0
        self._said: set[str] = set()

    def lose(self, reason: str) -> None:
        """A piece of the recording is left out."""
        if self._tell is None:
            raise InvalidInput(reason)
        self._count += 1
        if len(self._said) < _SAID:
            self.note(reason)

    def warn(self, reason: str) -> None:
        """The recording is damaged, and how to repair it; what is left out because of it is lost one by one."""
        if self._tell is None:
            raise InvalidInput(reason)
        self.note(reason)

    def note(self, what: str) -> None:
        """Something to know, said once; nothing is missing that was recorded."""
        if what not in self._said:
            self._said.add(what)
            (self._tell or log.warning)(what)

    def sum_up(self, path) -> None:
        """At the end of a round; a round that lost the same is not told again."""
        if self._count and self._count != self._summed:
            self._tell(f"{path} could not be played whole; pieces left out: {self._count}")
        self._summed, self._count = self._count, 0
