"""One thing that is followed: its labels, the answers about it, its trail; where it was, whether it is gone, what is said of it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Hashable

import numpy as np

from qwen3vl_ros.tracking.advance import COVERED
from qwen3vl_ros.tracking.followed import Followed
from qwen3vl_ros.tracking.glimpse import Glimpse
from qwen3vl_ros.tracking.identity import MAX_GAP_NS, MAX_MISSED
from qwen3vl_ros.tracking.track import COASTING, FRESH, LOST, OCCLUDED, UNCERTAIN, Track
from qwen3vl_ros.tracking.trail import Was, at, velocity_m_s, was_in
from qwen3vl_ros.types import Detection3D

MIN_UNSEEN_NS = 2_000_000_000  # missed in many answers, and not seen for this long: it is gone
MISSED_BLIND = 2  # missed answers that suffice where the pictures lost it too
LEAST_SPREAD_M = 0.005


@dataclass(eq=False)
class Tracked:
    """labels: {prompt: what it calls it}, newest last. seen_ns: capture of the last answer that saw it; missed: answers to its
    prompts since. trail: where it was, in order of stamps; empty while it waits for the picture of its first answer. base_m: how far
    it went before the answer that `followed` began with. solid: its 3D box, measured when it had gone solid_travel_m. surprise_m: how
    far answers were from where it was thought to be, root mean square.
    """

    id: str
    labels: dict[Hashable, str]
    score: float
    seen_ns: int
    followed: Followed
    colours: np.ndarray | None = None
    missed: int = 0
    uncertain: bool = False
    coasting_since_ns: int | None = None
    trail: deque[Was] = field(default_factory=deque)
    base_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    solid: Detection3D | None = None
    solid_travel_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    surprise_m: float = 2 * LEAST_SPREAD_M

    @property
    def label(self) -> str:
        return next(reversed(self.labels.values()))

    def adrift_s(self, stamp_ns: int) -> float:
        """How long the pictures had lost it at a stamp, seconds."""
        since_ns = self.coasting_since_ns
        return 0.0 if since_ns is None else max((stamp_ns - since_ns) / 1e9, 0.0)

    def where(self, stamp_ns: int) -> Was:
        """Where it was at a stamp; what waits for the picture of its answer is where that said."""
        return at(self.trail, stamp_ns) if self.trail else was_in(self.followed, self.base_m, self.followed.key)

    def remember(self, now: Glimpse, for_ns: int) -> None:
        """Take where it is now into its trail, which is kept for so long."""
        if self.followed.following:
            self.coasting_since_ns = None
        elif self.coasting_since_ns is None:
            self.coasting_since_ns = now.stamp_ns
        if self.trail[-1].stamp_ns < now.stamp_ns:  # else its answer has just arrived here
            self.trail.append(was_in(self.followed, self.base_m, now))
        while now.stamp_ns - self.trail[0].stamp_ns > for_ns:
            self.trail.popleft()

    def place(self, stamp_ns: int, solid: Detection3D) -> None:
        """Its 3D box as it was measured in the picture of this stamp."""
        travel_m = self.where(stamp_ns).travel_m
        if self.solid is not None and self.solid.frame_id == solid.frame_id:
            expected = self.solid.frame_T_box[:3, 3] + travel_m - self.solid_travel_m
            off_m = float(np.linalg.norm(solid.frame_T_box[:3, 3] - expected))
            self.surprise_m = max(math.sqrt(0.7 * self.surprise_m**2 + 0.3 * off_m**2), LEAST_SPREAD_M)
        self.solid, self.solid_travel_m = solid, travel_m

    def expired(self, now_ns: int) -> bool:
        unseen_ns = now_ns - self.seen_ns
        limit = MAX_MISSED if self.followed.following else MISSED_BLIND
        return unseen_ns > MAX_GAP_NS or (self.missed > limit and unseen_ns >= MIN_UNSEEN_NS)

    def lost(self, stamp_ns: int) -> Track:
        """What is said of it at last."""
        box = _whole_box(self.followed.box, self.followed.key)
        return Track(self.id, self.label, box, 0.0, LOST, stamp_ns, self.seen_ns, self.followed.frame_id)

    def track(self, now: Glimpse) -> Track:
        """What is said of it in the newest picture."""
        f, coasting_s = self.followed, self.adrift_s(now.stamp_ns)
        state = OCCLUDED if f.covered >= COVERED else FRESH if f.following else COASTING
        score = self.score * 0.5**coasting_s * (1.0 - self.missed / (MAX_MISSED + 1 + self.missed))
        position_m, velocity, spread_m, solid = None, None, math.nan, None
        if f.front.known:
            position_m, velocity = f.centre_m, velocity_m_s(self.trail)
            if self.solid is not None and self.solid.frame_id == f.frame_id:
                pose = self.solid.frame_T_box.copy()
                pose[:3, 3] += self.base_m + f.moved_m - self.solid_travel_m
                solid, position_m = replace(self.solid, frame_T_box=pose, label=self.label, score=score), pose[:3, 3]
            blind_m = (LEAST_SPREAD_M + 0.5 * math.hypot(*velocity)) * coasting_s
            spread_m = math.hypot(self.surprise_m, blind_m)
        return Track(
            self.id,
            self.label,
            _whole_box(f.box, now),
            score,
            UNCERTAIN if self.uncertain else state,
            now.stamp_ns,
            self.seen_ns,
            f.frame_id,
            position_m,
            velocity,
            spread_m,
            solid,
        )


def _whole_box(box: np.ndarray, glimpse: Glimpse) -> tuple[float, float, float, float]:
    """A box of small pixels in those of the picture, cut at its border."""
    (height, width), (sx, sy) = glimpse.grey.shape, glimpse.scale.tolist()
    x0, y0, x1, y1 = box.tolist()
    x0, x1 = (min(max(x, 0.0), width) * sx for x in (x0, x1))
    y0, y1 = (min(max(y, 0.0), height) * sy for y in (y0, y1))
    return x0, y0, x1, y1
