"""The tracked things of one camera: every picture moves them, every answer corrects them where they were at its capture.

Pictures come at the camera's rate, answers late and seldom. An answer is matched with where the things were in *its* picture, then
followed through the pictures since, which are kept small for three seconds. Things outlive prompts; labels belong to prompts.
Knows nothing of ROS, of models or of other cameras. May be used from two threads: `step` from one, `assign` and `place` from another.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Hashable, Iterator, Sequence

import numpy as np

from qwen3vl_ros.tracking.flow import COVERED, HARDLY_COVERED, REGAIN_M, Followed, advance
from qwen3vl_ros.tracking.glimpse import Glimpse, same_view
from qwen3vl_ros.tracking.identity import MAX_GAP_NS, MAX_MISSED, Look, TrackIds, colours_of, costs, match
from qwen3vl_ros.types import Detection2D, Detection3D, Frame

HISTORY_NS = 3_000_000_000
STRIDE_NS = 160_000_000  # longest jump from picture to picture while an answer is followed to now
AHEAD_NS = 500_000_000  # an answer may be here before its picture was stepped
RESTART_NS = (
    1_000_000_000  # stamps that jump back by more are another time (a bag that loops), by less a picture out of order
)
MIN_UNSEEN_NS = 2_000_000_000  # missed in many answers, and not seen for this long: it is gone
MISSED_BLIND = 2  # missed answers that suffice where the pictures lost it too
SAME_VIEW = 0.4  # pictures less alike are of another scene, if most things are lost in the second as well
MEETING = 0.5  # share of the smaller box that two things of one look have in common
VELOCITY_NS = 500_000_000  # of its way is a velocity measured on
_LEAST_SPREAD_M = 0.005

FRESH, COASTING, OCCLUDED, UNCERTAIN, LOST = STATES = ("fresh", "coasting", "occluded", "uncertain", "lost")


@dataclass(frozen=True, eq=False)
class Track:
    """One thing in one picture.

    state: fresh (its points are followed), coasting (they are lost: moved as it went last), occluded (something nearer is before
    it), uncertain (another could be meant by its id), lost (said once, then never again). score: the answer's, halved each second
    of coasting. seen_ns: capture of the last answer that saw it. position_m, velocity_m_s: 3 metres (a second) in frame_id, None
    without depth; spread_m: their uncertainty, one deviation. solid: its 3D box moved to this picture, None where none was measured.
    """

    id: str
    label: str
    box_xyxy_px: tuple[float, float, float, float]
    score: float
    state: str
    stamp_ns: int
    seen_ns: int
    frame_id: str = ""
    position_m: np.ndarray | None = None
    velocity_m_s: np.ndarray | None = None
    spread_m: float = float("nan")
    solid: Detection3D | None = None


@dataclass(eq=False)
class _Thing:
    """What is kept of one thing. trail: where it was, in order of stamps; seen: answers that saw it, newest last."""

    id: str
    labels: dict[Hashable, str]
    score: float
    seen_ns: int
    followed: Followed
    colours: np.ndarray | None = None
    missed: int = 0
    uncertain: bool = False
    coasting_since_ns: int | None = None
    trail: deque = field(default_factory=deque)
    base_m: np.ndarray = field(
        default_factory=lambda: np.zeros(3)
    )  # how far it went before the answer that is followed
    solid: Detection3D | None = None
    solid_travel_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    surprise_m: float = 2 * _LEAST_SPREAD_M  # how far answers were from where it was thought to be, root mean square

    @property
    def label(self) -> str:
        return next(reversed(self.labels.values()))

    def adrift_s(self, stamp_ns: int) -> float:
        """How long the pictures had lost it at a stamp, seconds."""
        since_ns = self.coasting_since_ns
        return 0.0 if since_ns is None else max((stamp_ns - since_ns) / 1e9, 0.0)


@dataclass(frozen=True, eq=False)
class _Was:
    """Where a thing was in one picture: its box in small pixels, how far it had gone, the middle of what was seen of it.

    covered: the share of the box that something nearer hid, or that was outside the picture.
    """

    stamp_ns: int
    box: np.ndarray
    travel_m: np.ndarray
    centre_m: np.ndarray
    covered: float
    following: bool


class Tracks:
    """ids: where their numbers come from, one source for all cameras of a process, so that none is given twice."""

    def __init__(self, ids: Iterator[int] | None = None):
        self._ids = count(1) if ids is None else ids
        self._alone = TrackIds(self._ids)
        self._lock = threading.Lock()
        self._things: list[_Thing] = []
        self._lost: list[Track] = []
        self._history: deque[Glimpse] = deque()
        self._pending: list[tuple[Glimpse, list[tuple[_Thing, Followed]]]] = []
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
                if same_view(before, now) < SAME_VIEW and not any(
                    t.followed.following for t in self._things if t.trail
                ):
                    self._restart(now.stamp_ns)
            self._history.append(now)
            while now.stamp_ns - self._history[0].stamp_ns > HISTORY_NS:
                self._history.popleft()
            self._catch_up()
            for thing in self._followed:
                self._remember(thing, now)
            self._mark_meetings()
            self._expire(now)
            gone, self._lost = self._lost, []
            return (*(_track(t, now) for t in self._followed), *gone)

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
    def _followed(self) -> list[_Thing]:
        """Those that have a place in the newest picture; the others wait for the picture of their answer."""
        return [t for t in self._things if t.trail]

    def _restart(self, stamp_ns: int) -> None:
        self._lose(self._things, stamp_ns)
        self._things, self._pending = [], []
        self._history.clear()
        self.restarts += 1

    def _lose(self, things: Sequence[_Thing], stamp_ns: int) -> None:
        for t in things:
            box = _whole_box(t.followed.box, t.followed.key)
            self._lost.append(Track(t.id, t.label, box, 0.0, LOST, stamp_ns, t.seen_ns, t.followed.frame_id))

    def _mark_meetings(self) -> None:
        """Things of one look that meet in the picture, and not only there as far as one knows, may be taken for one another."""
        alike: dict[str, list[_Thing]] = {}
        for thing in self._followed:
            for other in alike.setdefault(thing.label, []):
                if _meet(thing.followed, other.followed):
                    thing.uncertain = other.uncertain = True
            alike[thing.label].append(thing)

    def _expire(self, now: Glimpse) -> None:
        gone = [t for t in self._things if _expired(t, now.stamp_ns)]
        self._lose(gone, now.stamp_ns)
        self._things = [t for t in self._things if t not in gone]

    def _remember(self, thing: _Thing, now: Glimpse) -> None:
        if thing.followed.following:
            thing.coasting_since_ns = None
        elif thing.coasting_since_ns is None:
            thing.coasting_since_ns = now.stamp_ns
        if thing.trail[-1].stamp_ns < now.stamp_ns:  # else its answer has just arrived here
            thing.trail.append(_was(thing.followed, thing.base_m, now))
        while now.stamp_ns - thing.trail[0].stamp_ns > HISTORY_NS:
            thing.trail.popleft()

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
            Look(d.label, d.box_xyxy_px, f.centre_m, _size_m(f), colours_of(rgb, d.box_xyxy_px))
            for d, f in zip(detections, given)
        ]
        known = list(self._things)
        was = [_where(t, then.stamp_ns) for t in known]
        pairs, doubtful = {}, set()
        if seen and known:
            looks = [
                Look(
                    t.labels.get(prompt, ""),
                    tuple(w.box / shrink),
                    w.centre_m,
                    _size_m(t.followed),
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
                thing = _Thing(str(next(self._ids)), {}, d.score, then.stamp_ns, f)
                self._things.append(thing)
            thing.labels.pop(prompt, None)
            thing.labels[prompt] = d.label
            thing.score, thing.colours, thing.missed = d.score, seen[i].colours, 0
            thing.seen_ns = max(thing.seen_ns, then.stamp_ns)
            things.append(thing)
            if i not in pairs or not (_part_of(f.box, was[pairs[i]]) or _shows_another(f, was[pairs[i]])):
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
                thing = by_id.get(solid.id)
                if thing is None or solid.source != "depth":
                    continue
                travel_m = _where(thing, stamp_ns).travel_m
                if thing.solid is not None and thing.solid.frame_id == solid.frame_id:
                    expected = thing.solid.frame_T_box[:3, 3] + travel_m - thing.solid_travel_m
                    off_m = float(np.linalg.norm(solid.frame_T_box[:3, 3] - expected))
                    mean = math.sqrt(0.7 * thing.surprise_m**2 + 0.3 * off_m**2)
                    thing.surprise_m = max(mean, _LEAST_SPREAD_M)
                thing.solid, thing.solid_travel_m = solid, travel_m

    def catch_up(self) -> None:
        """Follow the answers that came since the last picture to that picture; `step` does it too."""
        with self._lock:
            self._catch_up()

    def _catch_up(self) -> None:
        newest_ns = self._history[-1].stamp_ns if self._history else 0
        due = [entry for entry in self._pending if entry[0].stamp_ns <= newest_ns]
        self._pending = [entry for entry in self._pending if entry[0].stamp_ns > newest_ns]
        for then, joined in due:
            path = _strides(then, [g for g in self._history if g.stamp_ns > then.stamp_ns])
            routes = [_Route.start(thing, given, then) for thing, given in joined]
            for before, now in zip((then, *path), path):
                advance([r.given for r in routes], before, now)
                for r in routes:
                    r.pass_by(now)
            for r in routes:
                r.arrive()


def _strides(start: Glimpse, since: Sequence[Glimpse]) -> list[Glimpse]:
    """As few of the pictures as lead to the last one without a longer jump than STRIDE_NS where there is one between."""
    path, last = [], start
    for g, following in zip(since, (*since[1:], None)):
        if following is None or following.stamp_ns - last.stamp_ns > STRIDE_NS:
            path.append(g)
            last = g
    return path


@dataclass(eq=False)
class _Route:
    """An answer's box on its way from its picture to now."""

    thing: _Thing
    given: Followed
    was: _Was | None
    base_m: np.ndarray
    passed: list[_Was]

    @classmethod
    def start(cls, thing: _Thing, given: Followed, then: Glimpse) -> _Route:
        was = _at(thing.trail, then.stamp_ns) if thing.trail else None
        if was is not None:
            given.rate_m_s = _velocity_m_s(
                [w for w in thing.trail if abs(w.stamp_ns - then.stamp_ns) <= VELOCITY_NS // 3]
            )
        route = cls(thing, given, was, np.zeros(3) if was is None else was.travel_m, [])
        route.pass_by(then)
        return route

    def pass_by(self, now: Glimpse) -> None:
        self.passed.append(_was(self.given, self.base_m, now))

    def arrive(self) -> None:
        """Take the thing's place, or, where it was lost on the way and the thing was not, correct the thing by what it said."""
        thing, old = self.thing, self.thing.followed
        if self.was is not None and old.following and not self.given.following:
            old.correct(self.passed[0].box - self.was.box)
            return
        since_ns = self.passed[0].stamp_ns
        thing.trail = deque((*(w for w in thing.trail if w.stamp_ns < since_ns), *self.passed))
        thing.followed, thing.base_m = self.given, self.base_m


def _was(f: Followed, base_m: np.ndarray, now: Glimpse) -> _Was:
    covered = max(f.covered, 1.0 - _share_in_picture(f.box, now))
    return _Was(now.stamp_ns, f.box, base_m + f.moved_m, f.centre_m, covered, f.following)


def _share_in_picture(box: np.ndarray, glimpse: Glimpse) -> float:
    height, width = glimpse.grey.shape
    x0, y0, x1, y1 = box.tolist()
    inside = max(min(x1, width) - max(x0, 0), 0) * max(min(y1, height) - max(y0, 0), 0)
    return inside / max((x1 - x0) * (y1 - y0), 1e-9)


def _part_of(box: np.ndarray, was: _Was) -> bool:
    """Whether a box is what is to be seen of a thing that something partly hides: no reason to shrink it."""
    if was.covered <= HARDLY_COVERED:
        return False
    overlap = np.clip(np.minimum(box[2:], was.box[2:]) - np.maximum(box[:2], was.box[:2]), 0.0, None).prod()
    area, whole = (box[2:] - box[:2]).prod(), (was.box[2:] - was.box[:2]).prod()
    return overlap > 0.85 * area and area < 0.9 * whole


def _meet(a: Followed, b: Followed) -> bool:
    """Whether two boxes share much of the picture, and depth does not keep them apart."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box.tolist(), b.box.tolist()
    shared = max(min(ax1, bx1) - max(ax0, bx0), 0.0) * max(min(ay1, by1) - max(ay0, by0), 0.0)
    if shared <= MEETING * min((ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0)):
        return False
    return not float(np.linalg.norm(a.centre_m - b.centre_m)) > 0.5 * max(_size_m(a), _size_m(b))  # NaN: nobody knows


def _shows_another(given: Followed, was: _Was) -> bool:
    """Whether the pixels of a box are of something else, before the thing that it names: nothing to follow that by."""
    apart_m = float(np.linalg.norm(given.centre_m - was.centre_m))
    return was.covered > HARDLY_COVERED and apart_m > max(REGAIN_M, 0.5 * _size_m(given))


def _where(thing: _Thing, stamp_ns: int) -> _Was:
    """Where it was at a stamp; what waits for the picture of its answer is where that said."""
    return _at(thing.trail, stamp_ns) if thing.trail else _was(thing.followed, thing.base_m, thing.followed.key)


def _at(trail: deque, stamp_ns: int) -> _Was:
    """Where a thing was at a stamp, between the two nearest pictures."""
    stamps = [w.stamp_ns for w in trail]
    i = int(np.searchsorted(stamps, stamp_ns))
    if i == len(trail) or stamps[i] == stamp_ns or i == 0:
        return trail[min(i, len(trail) - 1)]
    a, b = trail[i - 1], trail[i]
    t = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
    mix = lambda x, y: (1 - t) * x + t * y
    return _Was(
        stamp_ns,
        mix(a.box, b.box),
        mix(a.travel_m, b.travel_m),
        mix(a.centre_m, b.centre_m),
        mix(a.covered, b.covered),
        a.following and b.following,
    )


def _size_m(f: Followed) -> float:
    """The larger side of the box at the distance of what is seen in it; NaN without depth."""
    if not f.front.known:
        return float("nan")
    z = f.key.depth_of_m(f.front.centre_m)
    return float((f.key_box[2:] - f.key_box[:2]).max() * z / f.key.K[0, 0])


def _expired(thing: _Thing, now_ns: int) -> bool:
    unseen_ns = now_ns - thing.seen_ns
    limit = MAX_MISSED if thing.followed.following else MISSED_BLIND
    return unseen_ns > MAX_GAP_NS or (thing.missed > limit and unseen_ns >= MIN_UNSEEN_NS)


def _track(thing: _Thing, now: Glimpse) -> Track:
    f, coasting_s = thing.followed, thing.adrift_s(now.stamp_ns)
    state = OCCLUDED if f.covered >= COVERED else FRESH if f.following else COASTING
    score = thing.score * 0.5**coasting_s * (1.0 - thing.missed / (MAX_MISSED + 1 + thing.missed))
    position_m, velocity_m_s, spread_m, solid = None, None, math.nan, None
    if f.front.known:
        position_m, velocity_m_s = f.centre_m, _velocity_m_s(thing.trail)
        if thing.solid is not None and thing.solid.frame_id == f.frame_id:
            pose = thing.solid.frame_T_box.copy()
            pose[:3, 3] += thing.base_m + f.moved_m - thing.solid_travel_m
            solid, position_m = replace(thing.solid, frame_T_box=pose, label=thing.label, score=score), pose[:3, 3]
        blind_m = (_LEAST_SPREAD_M + 0.5 * math.hypot(*velocity_m_s)) * coasting_s
        spread_m = math.hypot(thing.surprise_m, blind_m)
    return Track(
        thing.id,
        thing.label,
        _whole_box(f.box, now),
        score,
        UNCERTAIN if thing.uncertain else state,
        now.stamp_ns,
        thing.seen_ns,
        f.frame_id,
        position_m,
        velocity_m_s,
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


def _velocity_m_s(trail: Sequence[_Was]) -> np.ndarray:
    """Slope of the way along the last VELOCITY_NS of a trail, 3 metres a second."""
    since_ns, recent = trail[-1].stamp_ns - VELOCITY_NS, []
    for was in reversed(trail):
        if was.stamp_ns < since_ns:
            break
        recent.append(was)
    recent = recent[::2]  # every second picture tells as much
    if len(recent) < 2:
        return np.zeros(3)
    t = np.array([w.stamp_ns - recent[0].stamp_ns for w in recent]) / 1e9
    t -= t.sum() / len(t)
    return t @ np.array([w.travel_m for w in recent]) / float(t @ t)
