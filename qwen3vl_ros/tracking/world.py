"""What is known of the things around, from all cameras, in one frame: where they are, how they move, how old that is.

Tracks of two cameras that are in one place under one label are one object; a thing that was lost and is seen again where it was is
the same object. Where two could be meant, none is joined. What nobody sees any more is remembered as it was last. Knows nothing of
pictures, of models or of ROS. May be used from several threads.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Sequence

import numpy as np

from qwen3vl_ros.geometry.layout import same_name
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.tracking.tracks import COASTING, FRESH, LOST, OCCLUDED, UNCERTAIN, Track

JOIN_M = 0.05  # tracks of one label this near are one object, or within half its size
MEMORY_NS = 600_000_000_000  # what nobody saw for longer is forgotten
MAX_AHEAD_S = 0.5  # a velocity says nothing about later
PATH_STEP_NS = 100_000_000
DRIFT_M_S = 0.01  # what nobody sees may have moved by this a second, for all one knows
_BEST_FIRST = (FRESH, UNCERTAIN, COASTING, OCCLUDED, LOST)


@dataclass(frozen=True, eq=False)
class WorldObject:
    """One object as of stamp_ns, the last picture that showed it or was used to follow it.

    id: of the first track that showed it. labels: what it was called, newest first. state: as of a Track; lost: remembered only.
    position_m: 3 metres in frame_id, the middle of its box, or of its seen surface where frame_T_box is None because none was ever
    measured. spread_m: one deviation of the position. seen_ns: capture of the last answer that saw it. tracks: (camera, id) that
    show it now. thing: its points moved to where it is, None until `World.look` gave them.
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
    thing: Thing | None = None

    @property
    def label(self) -> str:
        return self.labels[0]

    def age_s(self, now_ns: int) -> float:
        """Since it was seen or followed last."""
        return max(now_ns - self.stamp_ns, 0) / 1e9

    def at(self, now_ns: int) -> WorldObject:
        """Where it should be at a time after the last picture: gone on at its speed for MAX_AHEAD_S at most, spread accordingly."""
        age_s = self.age_s(now_ns)
        ahead_m = self.velocity_m_s * min(age_s, MAX_AHEAD_S) if self.state in (FRESH, UNCERTAIN) else np.zeros(3)
        unsure_m = DRIFT_M_S * age_s + 0.5 * float(np.linalg.norm(self.velocity_m_s)) * age_s
        return _moved(self, ahead_m, math.hypot(self.spread_m, unsure_m))


@dataclass(eq=False)
class _Kept:
    now: WorldObject
    members: dict[tuple[str, str], Track] = field(default_factory=dict)
    things: dict[tuple[str, str], Thing] = field(default_factory=dict)  # as they were measured
    path: deque = field(default_factory=lambda: deque(maxlen=600))  # (stamp_ns, position_m)


class World:
    """Give it the tracks of each picture, of any camera; ask it for objects."""

    def __init__(self):
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []

    # -- what comes in -------------------------------------------------------------------------------------------------

    def update(self, camera: str, tracks: Sequence[Track]) -> None:
        """The tracks of a camera's newest picture, all of them: those that are lost say so, those without depth are left out."""
        with self._lock:
            for track in tracks:
                self._take((camera, track.id), track)
            if tracks:
                newest_ns = max(t.stamp_ns for t in tracks)
                self._kept = [k for k in self._kept if k.members or newest_ns - k.now.stamp_ns <= MEMORY_NS]

    def look(self, camera: str, things: Sequence[Thing]) -> None:
        """What was measured of the tracks that have these ids, at the stamps of their last looks."""
        with self._lock:
            for thing in things:
                for kept in self._kept:
                    track = kept.members.get((camera, thing.id))
                    if track is not None and track.solid is not None:
                        kept.things = {(camera, thing.id): thing}
                        kept.now = _object(kept)

    def restart(self) -> None:
        """Forget everything: the clock jumped, or the frame is another."""
        with self._lock:
            self._kept = []

    def _take(self, key: tuple[str, str], track: Track) -> None:
        kept = next((k for k in self._kept if key in k.members), None)
        if track.state == LOST or track.position_m is None:
            if kept is not None:
                del kept.members[key]
                kept.now = _object(kept) if kept.members else replace(kept.now, state=LOST, score=0.0, tracks=())
            return
        if kept is not None and len(kept.members) > 1 and not _one_place(kept.now, track, 2.0):
            del kept.members[key]  # they were two things after all
            kept.now, kept = _object(kept), None
        if kept is None:
            kept = self._meant(key[0], track)
        if kept is None:
            kept = _Kept(_as_object(key, track))
            self._kept.append(kept)
        kept.members[key] = track
        kept.now = _object(kept)
        if not kept.path or track.stamp_ns - kept.path[-1][0] >= PATH_STEP_NS:
            kept.path.append((track.stamp_ns, kept.now.position_m))

    def _meant(self, camera: str, track: Track) -> _Kept | None:
        """The object that a new track shows; None where it is a new one, or where two could be meant."""
        possible = [
            k
            for k in self._kept
            if not any(c == camera for c, _ in k.members)
            and any(same_name(label, track.label) for label in k.now.labels)
            and _one_place(k.now, track, 1.0)
        ]
        return possible[0] if len(possible) == 1 else None

    # -- what can be asked ---------------------------------------------------------------------------------------------

    @property
    def objects(self) -> tuple[WorldObject, ...]:
        with self._lock:
            return tuple(k.now for k in self._kept)

    def find(self, name: str) -> tuple[WorldObject, ...]:
        """The object of that id, or that a track of that id shows, else all that were called so; best first."""
        name = name.strip()
        everything = self.objects
        found = [o for o in everything if o.id == name] or [o for o in everything if name in (i for _, i in o.tracks)]
        found = found or [o for o in everything if any(same_name(label, name) for label in o.labels)]
        return tuple(sorted(found, key=lambda o: (_BEST_FIRST.index(o.state), -_known(o.score), -o.seen_ns)))

    def stale(self, now_ns: int, after_s: float) -> tuple[WorldObject, ...]:
        """What no answer saw for longer than after_s."""
        return tuple(o for o in self.objects if now_ns - o.seen_ns > after_s * 1e9)

    def moved(self, since_ns: int, by_m: float = 0.02) -> tuple[WorldObject, ...]:
        """What is now farther than by_m, and than twice its spread, from where it was at a time, or when first seen after it."""
        with self._lock:
            result = []
            for k in self._kept:
                before = [p for stamp_ns, p in k.path if stamp_ns <= since_ns]
                then_m = before[-1] if before else k.path[0][1]
                if np.linalg.norm(k.now.position_m - then_m) > max(by_m, 2 * k.now.spread_m):
                    result.append(k.now)
            return tuple(result)

    def things(self) -> tuple[Thing, ...]:
        """Everything that was measured, moved to where it is, under the objects' ids: for `geometry.layout.Layout`."""
        return tuple(replace(o.thing, id=o.id) for o in self.objects if o.thing is not None)


def _object(kept: _Kept) -> WorldObject:
    """What the best of its tracks says, under its own id."""
    key, track = min(
        kept.members.items(), key=lambda kt: (_BEST_FIRST.index(kt[1].state), _known(kt[1].spread_m, math.inf))
    )
    new = _as_object(key, track)
    labels = dict.fromkeys((track.label, *(t.label for t in kept.members.values()), *kept.now.labels))
    seen_ns = max(t.seen_ns for t in kept.members.values())
    thing = None
    for looked, was in kept.things.items():
        member = kept.members.get(looked)
        if member is not None and member.solid is not None:
            now_T_then = np.eye(4)
            now_T_then[:3, 3] = member.solid.frame_T_box[:3, 3] - was.frame_T_box[:3, 3]
            thing = was.moved(now_T_then, spread_m=member.spread_m)
    return replace(
        new, id=kept.now.id, labels=tuple(labels)[:8], seen_ns=seen_ns, tracks=tuple(kept.members), thing=thing
    )


def _as_object(key: tuple[str, str], track: Track) -> WorldObject:
    solid = track.solid
    return WorldObject(
        track.id,
        (track.label,),
        track.state,
        track.score,
        track.stamp_ns,
        track.seen_ns,
        track.frame_id,
        track.position_m,
        track.velocity_m_s,
        track.spread_m,
        None if solid is None else solid.frame_T_box,
        None if solid is None else solid.size_m,
        (key,),
    )


def _one_place(known: WorldObject, track: Track, factor: float) -> bool:
    if known.frame_id != track.frame_id:
        return False
    size_m = 0.0 if known.size_m is None else float(np.max(known.size_m))
    reach_m = max(JOIN_M, 0.5 * size_m, 3 * known.spread_m)
    return float(np.linalg.norm(known.position_m - track.position_m)) < factor * reach_m


def _moved(known: WorldObject, by_m: np.ndarray, spread_m: float) -> WorldObject:
    pose = None
    if known.frame_T_box is not None:
        pose = known.frame_T_box.copy()
        pose[:3, 3] += by_m
    thing, shift = known.thing, np.eye(4)
    if thing is not None:
        shift[:3, 3] = by_m
        thing = thing.moved(shift, spread_m=spread_m)
    return replace(known, position_m=known.position_m + by_m, frame_T_box=pose, spread_m=spread_m, thing=thing)


def _known(value: float, otherwise: float = 0.0) -> float:
    return otherwise if math.isnan(value) else value
