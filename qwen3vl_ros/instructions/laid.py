"""What earlier steps of a plan put down, and whether it still lies there when the plan has ended: a later motion may have pushed it.

Told by depth alone (geometry/presence.py): what is hidden by then is no reason to doubt. Knows nothing of models, motions or ROS.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Sequence

import numpy as np

from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.presence import presence
from qwen3vl_ros.geometry.things import Surface, Thing
from qwen3vl_ros.questions.plan import Step

# About where a thing should lie, where it may lie as well: from the middle outwards, level; so far it may be, and so far it is looked for.
ASIDE_M = 0.021
_STEPS_M = sorted(itertools.product(np.arange(-4, 5) * 0.009, repeat=2), key=lambda at: math.hypot(*at))


def aside(thing: Thing, level_R_frame: np.ndarray, farthest_m: float = ASIDE_M):
    """The thing as it would lie a little aside, and how far aside that is; the nearest first."""
    for x, y in (at for at in _STEPS_M if math.hypot(*at) <= farthest_m):
        pose = np.eye(4)
        pose[:3, 3] = (x, y, 0.0) @ level_R_frame
        yield thing.moved(pose), math.hypot(x, y)


@dataclass
class Laid:
    """By the number of its step: what was told, what lies there, and what it was put on or beside. Given in the order of the steps."""

    _known: dict[int, tuple[Step, Thing, tuple[Thing | Surface, ...], np.ndarray]] = field(default_factory=dict)

    def taken(self, told: Step) -> None:
        """A thing is taken: whatever was told of it, and of what was put on or beside it, need not stay so."""
        moved = {told.object}
        while more := {s.object for s, *_ in self._known.values() if s.reference in moved} - moved:
            moved |= more
        self._known = {k: known for k, known in self._known.items() if known[0].object not in moved}

    def put(self, number: int, told: Step, lies: Thing, around: Sequence[Thing | Surface], level_R_frame) -> None:
        things = tuple(t for t in around if isinstance(t, Thing))
        self._known[number] = (told, lies, things, level_R_frame)

    def before(self, last: int) -> list[int]:
        """The steps of which anything is known, but the last, which was just looked at."""
        return [k for k in self._known if k != last]

    def undone(self, cloud: SceneCloud | None, last: int) -> dict[int, str]:
        """What is seen to be no longer so, by the number of its step; last: as of `before`."""
        found = {}
        for number in self.before(last):
            told, lies, around, level_R_frame = self._known[number]
            if gone := [t for t in (lies, *around) if _is_gone(cloud, t, level_R_frame)]:
                name = told.object if gone[0] is lies else gone[0].label
                found[number] = f"a later motion has moved the {name}: it is no longer where it was when this was done"
        return found


def _is_gone(cloud: SceneCloud | None, thing: Thing, level_R_frame: np.ndarray) -> bool:
    return presence(cloud, thing).is_gone and not any(
        presence(cloud, moved).is_there for moved, _ in aside(thing, level_R_frame)
    )
