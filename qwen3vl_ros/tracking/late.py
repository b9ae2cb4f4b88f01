"""A late answer on its way to now: each of its boxes is followed from its own picture through those since, and takes its thing's place.

Knows nothing of ids, labels or matching.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from qwen3vl_ros.boxes import iou
from qwen3vl_ros.tracking.advance import REGAIN_M
from qwen3vl_ros.tracking.followed import HARDLY_COVERED, Followed
from qwen3vl_ros.tracking.glimpse import Glimpse
from qwen3vl_ros.tracking.tracked import Tracked
from qwen3vl_ros.tracking.trail import VELOCITY_NS, Was, at, velocity_m_s, was_in

KNOWN_SHARE = 0.5  # of a box: where it was known to be, the rest is what the answer says; each has errors of its own
SAME_BOX = 0.5  # overlap (IoU) from which on they differ by their errors alone
STRIDE_NS = 160_000_000  # longest jump from picture to picture while an answer is followed to now


def strides(start: Glimpse, since: Sequence[Glimpse]) -> list[Glimpse]:
    """As few of the pictures as lead to the last one without a longer jump than STRIDE_NS where there is one between."""
    path, last = [], start
    for g, following in zip(since, (*since[1:], None)):
        if following is None or following.stamp_ns - last.stamp_ns > STRIDE_NS:
            path.append(g)
            last = g
    return path


@dataclass(eq=False)
class Route:
    """An answer's box on its way from its picture to now."""

    thing: Tracked
    given: Followed
    was: Was | None
    base_m: np.ndarray
    passed: list[Was]

    @classmethod
    def start(cls, thing: Tracked, given: Followed, then: Glimpse) -> Route:
        was = at(thing.trail, then.stamp_ns) if thing.trail else None
        if was is not None:
            if was.following and was.covered <= HARDLY_COVERED and iou(given.box, was.box) > SAME_BOX:
                given.believe(was.box, KNOWN_SHARE)
            given.rate_m_s = velocity_m_s(
                [w for w in thing.trail if abs(w.stamp_ns - then.stamp_ns) <= VELOCITY_NS // 3]
            )
        route = cls(thing, given, was, np.zeros(3) if was is None else was.travel_m, [])
        route.pass_by(then)
        return route

    def pass_by(self, now: Glimpse) -> None:
        self.passed.append(was_in(self.given, self.base_m, now))

    def arrive(self) -> None:
        """Take the thing's place, or, where it was lost on the way and the thing was not, correct the thing by what it said."""
        thing, old = self.thing, self.thing.followed
        if self.was is not None and old.following and not self.given.following:
            old.correct(self.passed[0].box - self.was.box)
            return
        since_ns = self.passed[0].stamp_ns
        thing.trail = deque((*(w for w in thing.trail if w.stamp_ns < since_ns), *self.passed))
        thing.followed, thing.base_m = self.given, self.base_m


def part_of(box: np.ndarray, was: Was) -> bool:
    """Whether a box is what is to be seen of a thing that something partly hides: no reason to shrink it."""
    if was.covered <= HARDLY_COVERED:
        return False
    overlap = np.clip(np.minimum(box[2:], was.box[2:]) - np.maximum(box[:2], was.box[:2]), 0.0, None).prod()
    area, whole = (box[2:] - box[:2]).prod(), (was.box[2:] - was.box[:2]).prod()
    return overlap > 0.85 * area and area < 0.9 * whole


def shows_another(given: Followed, was: Was) -> bool:
    """Whether the pixels of a box are of something else, before the thing that it names: nothing to follow that by."""
    apart_m = float(np.linalg.norm(given.centre_m - was.centre_m))
    return was.covered > HARDLY_COVERED and apart_m > max(REGAIN_M, 0.5 * given.size_m)
