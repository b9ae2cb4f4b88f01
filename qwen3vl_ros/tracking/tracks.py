"""The tracked things of one camera: every picture moves them, every answer corrects them where they were at its capture.

Pictures come at the camera's rate, answers late and seldom. An answer is matched with where the things were in *its* picture, then
followed through the pictures since, which are kept small for three seconds. Things outlive prompts; labels belong to prompts.
Knows nothing of ROS, of models or of other cameras. May be used from two threads: `step` from one, `assign` and `place` from another.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from itertools import count
from typing import Hashable, Iterator, Sequence

import numpy as np

from qwen3vl_ros.tracking.advance import COVERED, advance
from qwen3vl_ros.tracking.followed import Followed
from qwen3vl_ros.tracking.glimpse import Glimpse, same_view
from qwen3vl_ros.tracking.identity import Look, TrackIds, colours_of, costs, match
from qwen3vl_ros.tracking.late import Route, part_of, shows_another, strides
from qwen3vl_ros.tracking.track import Track
from qwen3vl_ros.tracking.tracked import Tracked
from qwen3vl_ros.types import Detection2D, Detection3D, Frame

HISTORY_NS = 3_000_000_000
AHEAD_NS = 500_000_000  # an answer may be here before its picture was stepped
# Stamps that jump back by more are another time (a bag that loops), by less a picture out of order.
RESTART_NS = 500_000_000
SAME_VIEW = 0.4  # pictures less alike are of another scene, if most things are lost in the second as well
MEETING = 0.5  # share of the smaller box that two things of one look have in common


class Tracks:
    """ids: where their numbers come from, one source for all cameras of a process, so that none is given twice."""

    def __init__(self, ids: Iterator[int] | None = None):
        self._ids = count(1) if ids is None else ids
        self._alone = TrackIds(self._ids)
        self._lock = threading.Lock()
        self._things: list[Tracked] = []
        self._lost: list[Track] = []
        self._history: deque[Glimpse] = deque()
        self._pending: list[tuple[Glimpse, list[tuple[Tracked, Followed]]]] = []
        self.restarts = 0  # cuts, clocks that jumped back, pictures of another size

    # -- every picture -------------------------------------------------------------------------------------------------

    def step(self, frame: Frame) -> tuple[Track, ...] | None:
        """Where everything is in this picture; None for one that is older than the last."""
        now = Glimpse.of(frame)
        with self._lock:
            before = self._history[-1] if self._history else None
            if before is not None and 0 <= before.stamp_ns - now.stamp_ns <= RESTART_NS:
                return None
            if before is not None and (now.stamp_ns < before.stamp_ns or now.grey.shape != before.grey.shape):
                self._restart(now.stamp_ns)
                before = None
            if before is not None:
                advance([t.followed for t in self._things if t.trail], before, now)
                held = sum(t.followed.following for t in self._followed)
                # Across a cut some are held all the same, by what stands there in the other scene. In this order: the second is dearer.
                if held <= len(self._followed) / 2 and same_view(before, now) < SAME_VIEW:
                    self._restart(now.stamp_ns)
            self._history.append(now)
            while now.stamp_ns - self._history[0].stamp_ns > HISTORY_NS:
                self._history.popleft()
            self._catch_up()
            for thing in self._followed:
                thing.remember(now, HISTORY_NS)
            self._mark_meetings()
            self._expire(now)
            gone, self._lost = self._lost, []
            return (*(t.track(now) for t in self._followed), *gone)

    def stop(self) -> None:
        """No more pictures for a while: nothing is followed, and ids are given by answers alone until there are."""
        with self._lock:
            self._restart(0)
            self._lost = []

    def forget(self) -> None:
        """As stop, and what answers named so far is named anew: the time of the pictures began again. Ids go on counting."""
        self.stop()
        with self._lock:
            self._alone = TrackIds(self._ids)

    @property
    def _followed(self) -> list[Tracked]:
        """Those that have a place in the newest picture; the others wait for the picture of their answer."""
        return [t for t in self._things if t.trail]

    def _restart(self, stamp_ns: int) -> None:
        self._lost += [t.lost(stamp_ns) for t in self._things]
        self._things, self._pending = [], []
        self._history.clear()
        self.restarts += 1

    def _mark_meetings(self) -> None:
        """Things of one look that meet in the picture, and not only there as far as one knows, may be taken for one another."""
        alike: dict[str, list[Tracked]] = {}
        for thing in self._followed:
            for other in alike.setdefault(thing.label, []):
                if _meet(thing.followed, other.followed):
                    thing.uncertain = other.uncertain = True
            alike[thing.label].append(thing)

    def _expire(self, now: Glimpse) -> None:
        gone = [t for t in self._things if t.expired(now.stamp_ns)]
        self._lost += [t.lost(now.stamp_ns) for t in gone]
        self._things = [t for t in self._things if t not in gone]

    # -- every answer --------------------------------------------------------------------------------------------------

    def assign(self, frame: Frame, prompt: Hashable, detections: Sequence[Detection2D]) -> tuple[Detection2D, ...]:
        """The detections of an answer about `frame` with the ids of what they are, in the same order.

        Call it for empty answers too, or nothing ever leaves. prompt: what was asked, and by whom.
        """
        with self._lock:
            first_ns, last_ns = (self._history[i].stamp_ns for i in (0, -1)) if self._history else (0, -AHEAD_NS)
            if not first_ns <= frame.stamp_ns <= last_ns + AHEAD_NS:
                return self._alone.assign(frame.stamp_ns, prompt, detections)
            then = next((g for g in self._history if g.stamp_ns == frame.stamp_ns), None) or Glimpse.of(frame)
            if then.grey.shape != self._history[-1].grey.shape:
                return self._alone.assign(frame.stamp_ns, prompt, detections)
            return self._join(then, frame.rgb, prompt, detections)

    def _join(self, then: Glimpse, rgb: np.ndarray, prompt, detections) -> tuple[Detection2D, ...]:
        shrink = np.tile(1.0 / then.scale, 2)
        given = [Followed(then, np.array(d.box_xyxy_px) * shrink) for d in detections]
        seen = [
            Look(d.label, d.box_xyxy_px, f.centre_m, f.size_m, colours_of(rgb, d.box_xyxy_px))
            for d, f in zip(detections, given)
        ]
        known = list(self._things)
        was = [t.where(then.stamp_ns) for t in known]
        pairs, doubtful = {}, set()
        if seen and known:
            looks = [
                Look(
                    t.labels.get(prompt, ""),
                    tuple(w.box / shrink),
                    w.centre_m,
                    t.followed.size_m,
                    t.colours,
                    t.adrift_s(then.stamp_ns),
                )
                for t, w in zip(known, was)
            ]
            pairs, doubtful = match(costs(seen, looks))
        things, joined = [], []
        for i, (d, f) in enumerate(zip(detections, given)):
            if i in pairs:
                thing = known[pairs[i]]
                thing.uncertain = pairs[i] in doubtful
            else:
                thing = Tracked(str(next(self._ids)), {}, d.score, then.stamp_ns, f)
                self._things.append(thing)
            thing.labels.pop(prompt, None)
            thing.labels[prompt] = d.label
            thing.score, thing.colours, thing.missed = d.score, seen[i].colours, 0
            thing.seen_ns = max(thing.seen_ns, then.stamp_ns)
            things.append(thing)
            if i not in pairs or not (part_of(f.box, was[pairs[i]]) or shows_another(f, was[pairs[i]])):
                joined.append((thing, f))
        for j, (thing, w) in enumerate(zip(known, was)):
            if (
                j not in pairs.values()
                and prompt in thing.labels
                and then.stamp_ns > thing.seen_ns
                and w.covered < COVERED
            ):
                thing.missed += 1
            if j in doubtful:
                thing.uncertain = True
        self._pending.append((then, joined))
        return tuple(replace(d, id=t.id) for d, t in zip(detections, things))

    def place(self, stamp_ns: int, solids: Sequence[Detection3D]) -> None:
        """The measured 3D boxes of the detections that `assign` named for the picture of this stamp."""
        with self._lock:
            by_id = {t.id: t for t in self._things}
            for solid in solids:
                if solid.id in by_id and solid.source == "depth":
                    by_id[solid.id].place(stamp_ns, solid)

    def catch_up(self) -> None:
        """Follow the answers that came since the last picture to that picture; `step` does it too."""
        with self._lock:
            self._catch_up()

    def _catch_up(self) -> None:
        newest_ns = self._history[-1].stamp_ns if self._history else 0
        due = [entry for entry in self._pending if entry[0].stamp_ns <= newest_ns]
        self._pending = [entry for entry in self._pending if entry[0].stamp_ns > newest_ns]
        for then, joined in due:
            path = strides(then, [g for g in self._history if g.stamp_ns > then.stamp_ns])
            routes = [Route.start(thing, given, then) for thing, given in joined]
            for before, now in zip((then, *path), path):
                advance([r.given for r in routes], before, now)
                for r in routes:
                    r.pass_by(now)
            for r in routes:
                r.arrive()


def _meet(a: Followed, b: Followed) -> bool:
    """Whether two boxes share much of the picture, and depth does not keep them apart."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box.tolist(), b.box.tolist()
    shared = max(min(ax1, bx1) - max(ax0, bx0), 0.0) * max(min(ay1, by1) - max(ay0, by0), 0.0)
    if shared <= MEETING * min((ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0)):
        return False
    return not float(np.linalg.norm(a.centre_m - b.centre_m)) > 0.5 * max(a.size_m, b.size_m)  # NaN: nobody knows
