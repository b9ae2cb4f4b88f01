"""What is known of the things around, from all cameras, in one frame: where they are, how they move, how old that is.

It is told of every answer (`look`) and, where a camera is followed, of every picture (`update`). Tracks of two cameras that are in
one place under one label are one object; a thing that was lost and is seen again where it was is the same object. Where two could
be meant, none is joined. What nobody sees any more is remembered as it was last. Knows nothing of pictures, of models or of ROS.
May be used from several threads.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Callable, Hashable, Sequence

import numpy as np

from qwen3vl_ros.geometry.layout import same_name
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.tracking.objects import MAX_AHEAD_S, Look, WorldObject
from qwen3vl_ros.tracking.track import COASTING, FRESH, LOST, OCCLUDED, UNCERTAIN, Track
from qwen3vl_ros.tracking.tracks import AHEAD_NS
from qwen3vl_ros.types import Detection3D

JOIN_M = 0.05  # tracks of one label this near are one object, or within half its size
MEMORY_NS = 600_000_000_000  # what nobody saw for longer is forgotten
MAX_OBJECTS = 200  # of more, those seen longest ago are forgotten
SEEN_SPREAD_M = 0.01  # of what one answer measured
UNMADE_LOOKS = 4  # answers whose depth is kept for things that nobody asked for yet
PATH_STEP_NS = 100_000_000
_BEST_FIRST = (FRESH, UNCERTAIN, COASTING, OCCLUDED, LOST)
_NO_WAY_M = np.zeros(3)
_FOLLOWED = object()


@dataclass(eq=False)
class _Kept:
    now: WorldObject
    members: dict[tuple[str, str], Track] = field(default_factory=dict)
    looks: dict[tuple[str, str], Look] = field(default_factory=dict)
    path: deque = field(default_factory=lambda: deque(maxlen=600))  # (stamp_ns, position_m)


class World:
    """Give it every answer and the tracks of each picture, of any camera; ask it for objects."""

    def __init__(self):
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []
        self._followed_ns: dict[str, int] = {}  # the newest picture of each followed camera
        self._asked: dict[tuple[str, str], Hashable] = {}  # what only answers tell of -> the prompt that found it

    # -- what comes in -------------------------------------------------------------------------------------------------

    def update(self, camera: str, tracks: Sequence[Track], stamp_ns: int | None = None) -> None:
        """The tracks of a camera's newest picture, all of them: those that are lost say so, those without depth are left out.
        stamp_ns: of the picture; the tracks' own where left out.

        Where the picture is older than the one before, its source began again, as a bag that loops: what only this camera
        saw is forgotten, because nobody has seen it yet.
        """
        if stamp_ns is None:
            stamp_ns = max(t.stamp_ns for t in tracks)
        with self._lock:
            if stamp_ns < self._followed_ns.get(camera, stamp_ns):
                self._begin_again(camera, stamp_ns)
            self._followed_ns[camera] = stamp_ns
            for track in tracks:
                self._asked.pop((camera, track.id), None)
                self._take((camera, track.id), track)
            self._forget(stamp_ns)

    def look(
        self,
        camera: str,
        prompt: Hashable,
        stamp_ns: int,
        solids: Sequence[Detection3D],
        measured: Callable[[Detection3D], Thing],
    ) -> None:
        """An answer about a camera's picture, with the ids that its tracks have. Call it for empty ones too.

        prompt: what was asked, and by whom. stamp_ns: capture of the picture. solids: what has a 3D box; those that nobody measured
        are left out. measured(solid): its points and noise, called only when somebody asks for them.

        A camera that nobody follows is known by its answers alone: there, what an answer to the same prompt no longer sees is lost.
        An answer about a picture far ahead of the newest that was followed is of a round that is over, and tells nothing.
        """
        with self._lock:
            if stamp_ns > self._followed_ns.get(camera, stamp_ns) + AHEAD_NS:
                return
            seen = {(camera, s.id): Look(s, stamp_ns, measured) for s in solids if s.source == "depth"}
            for key, look in seen.items():
                kept = self._holder(key)
                if kept is None or (key in self._asked and stamp_ns >= kept.members[key].stamp_ns):
                    self._asked[key] = prompt
                    self._take(key, _as_track(look), prompt)
                    kept = self._holder(key)
                if key not in kept.looks or stamp_ns >= kept.looks[key].stamp_ns:
                    kept.looks[key] = look
                    kept.now = _object(kept)
            for key, asked in list(self._asked.items()):
                if key[0] == camera and asked == prompt and key not in seen:
                    if (kept := self._holder(key)) is None or stamp_ns > kept.members[key].stamp_ns:
                        self._leave(key)
            if seen:
                self._forget(stamp_ns)
                self._bound_looks()

    def leave(self, camera: str) -> None:
        """Nobody follows this camera any more: what it alone shows is remembered as it was last."""
        with self._lock:
            self._followed_ns.pop(camera, None)
            for key in [key for kept in self._kept for key in kept.members if key[0] == camera]:
                self._leave(key)

    def restart(self) -> None:
        """Forget everything: the clock jumped, or the frame is another."""
        with self._lock:
            self._kept, self._asked, self._followed_ns = [], {}, {}

    def _begin_again(self, camera: str, stamp_ns: int) -> None:
        for key in [key for kept in self._kept for key in kept.members if key[0] == camera]:
            self._leave(key)
        self._kept = [k for k in self._kept if k.members or k.now.stamp_ns <= stamp_ns]

    def _holder(self, key: tuple[str, str]) -> _Kept | None:
        return next((k for k in self._kept if key in k.members), None)

    def _leave(self, key: tuple[str, str]) -> None:
        self._asked.pop(key, None)
        if (kept := self._holder(key)) is not None:
            del kept.members[key]
            kept.looks.pop(key, None)
            kept.now = _object(kept) if kept.members else replace(kept.now, state=LOST, score=0.0, tracks=())

    def _take(self, key: tuple[str, str], track: Track, prompt: Hashable = _FOLLOWED) -> None:
        if track.state == LOST or track.position_m is None:
            return self._leave(key)
        kept = self._holder(key)
        if kept is not None and len(kept.members) > 1 and not _one_place(kept.now, track, 2.0):
            del kept.members[key]  # they were two things after all
            kept.now, kept = _object(kept), None
        if kept is None:
            kept = self._meant(key[0], track, prompt)
        if kept is None:
            kept = _Kept(_as_object(key, track))
            self._kept.append(kept)
        kept.members[key] = track
        if prompt is _FOLLOWED:  # it takes the place of what answers alone told of it
            for other in [m for m in kept.members if m[0] == key[0] and m in self._asked]:
                self._asked.pop(other), kept.members.pop(other)
        kept.now = _object(kept)
        if not kept.path or track.stamp_ns - kept.path[-1][0] >= PATH_STEP_NS:
            kept.path.append((track.stamp_ns, kept.now.position_m))

    def _forget(self, newest_ns: int) -> None:
        """What is too old, and of too many the oldest."""
        kept = [k for k in self._kept if newest_ns - k.now.stamp_ns <= MEMORY_NS]
        if len(kept) > MAX_OBJECTS:
            kept = sorted(kept, key=lambda k: k.now.stamp_ns)[-MAX_OBJECTS:]
        if len(kept) < len(self._kept):
            self._kept = kept
            members = {key for k in kept for key in k.members}
            self._asked = {key: asked for key, asked in self._asked.items() if key in members}

    def _bound_looks(self) -> None:
        """Work out the things of the oldest answers, so that the depth of few pictures is kept."""
        looks = [look for k in self._kept for look in k.looks.values() if look.measured is not None]
        answers = list({id(look.measured): look.measured for look in sorted(looks, key=lambda look: -look.stamp_ns)})
        for look in looks:
            if id(look.measured) in answers[UNMADE_LOOKS:]:
                look.thing

    def _meant(self, camera: str, track: Track, prompt: Hashable) -> _Kept | None:
        """The object that a new track shows; None where it is a new one, or where two could be meant."""
        possible = [
            k
            for k in self._kept
            if not any(c == camera and self._differs((c, i), prompt) for c, i in k.members)
            and any(same_name(label, track.label) for label in k.now.labels)
            and _one_place(k.now, track, 1.0)
        ]
        return possible[0] if len(possible) == 1 else None

    def _differs(self, member: tuple[str, str], prompt: Hashable) -> bool:
        """Whether a new track of its camera shows another thing for certain: answers to two prompts may show the same."""
        return member not in self._asked or self._asked[member] == prompt

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

    def recent(self, now_ns: int, within_s: float, frame_id: str | None = None) -> tuple[WorldObject, ...]:
        """What was seen or followed within the last within_s, moved to now. frame_id: only what is known in that frame."""
        return tuple(
            o.at(now_ns)
            for o in self.objects
            if o.state != LOST and o.age_s(now_ns) <= within_s and frame_id in (None, o.frame_id)
        )

    def things(self) -> tuple[Thing, ...]:
        """Everything that was measured, the remembered too, moved to where it is: for `geometry.layout.Layout`."""
        return tuple(o.thing for o in self.objects if o.look is not None)


def _object(kept: _Kept) -> WorldObject:
    """What the best of its newest tracks says, under its own id."""
    newest_ns = max(t.stamp_ns for t in kept.members.values())
    late_s = lambda t: (newest_ns - t.stamp_ns) / 1e9
    key, track = min(
        kept.members.items(),
        key=lambda kt: (
            late_s(kt[1]) > MAX_AHEAD_S,
            kt[1].solid is None,
            _BEST_FIRST.index(kt[1].state),
            _known(kt[1].spread_m, math.inf),
            late_s(kt[1]),
        ),
    )
    new = _as_object(key, track)
    labels = dict.fromkeys((track.label, *(t.label for t in kept.members.values()), *kept.now.labels))
    seen_ns = max(t.seen_ns for t in kept.members.values())
    look, way_m = kept.now.look, kept.now.since_look_m
    looks = [k for k in kept.looks if k in kept.members and kept.members[k].solid is not None]
    if looks:
        latest = max(looks, key=lambda k: kept.looks[k].stamp_ns)
        look = kept.looks[latest]
        way_m = kept.members[latest].solid.frame_T_box[:3, 3] - look.solid.frame_T_box[:3, 3]
    return replace(
        new,
        id=kept.now.id,
        labels=tuple(labels)[:8],
        seen_ns=seen_ns,
        tracks=tuple(kept.members),
        look=look,
        since_look_m=way_m,
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


def _as_track(look: Look) -> Track:
    """What one answer alone says of a thing."""
    solid = look.solid
    return Track(
        solid.id,
        solid.label,
        (math.nan,) * 4,
        solid.score,
        FRESH,
        look.stamp_ns,
        look.stamp_ns,
        solid.frame_id,
        solid.frame_T_box[:3, 3],
        _NO_WAY_M,
        SEEN_SPREAD_M,
        solid,
    )


def _one_place(known: WorldObject, track: Track, factor: float) -> bool:
    if known.frame_id != track.frame_id:
        return False
    size_m = 0.0 if known.size_m is None else float(np.max(known.size_m))
    reach_m = max(JOIN_M, 0.5 * size_m, 3 * known.spread_m)
    return float(np.linalg.norm(known.position_m - track.position_m)) < factor * reach_m


def _known(value: float, otherwise: float = 0.0) -> float:
    return otherwise if math.isnan(value) else value
