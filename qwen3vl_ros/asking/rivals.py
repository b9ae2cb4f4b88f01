"""What in a picture has the colour that a phrase names: where to look closer, and what may be meant instead of what was boxed.

A model that does not see the blue box may box the blue cube beside it. Colour and depth show both, and which of them has the form. Asked
for one name a model is suggestible, so it is also let choose among names: what it then calls otherwise, in more than one look, is another
thing. Knows no models.
"""

from __future__ import annotations

from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.asking import shapes
from qwen3vl_ros.asking.colours import of_its_own
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.questions.aliases import COLOURS, common
from qwen3vl_ros.questions.others import plain_words
from qwen3vl_ros.types import Detection2D, Detection3D

_LEAST_PX, _LARGEST_M = 100, 0.35  # what is smaller in a picture, or larger in the world, is nothing to take
_MOST = 4
_SURE = 0.6  # mean score of looks that call a thing otherwise
_MEASURED = {"box", "cube"}
_STEP = 0.02  # from pixel to pixel, of their distance: there one thing ends and another begins behind it


def pieces(
    cloud: SceneCloud, name: str, but: Sequence[Sequence[float]] = ()
) -> list[tuple[float, float, float, float]]:
    """Boxes, in pixels, of pieces of the picture of the colour that a name says, the largest first; none where it says none. but: boxes in
    whose middle none lies.
    """
    if not cloud.usable:
        return []
    own, depth_m = of_its_own(cloud.frame.rgb, name), cloud.depth_m
    if not own.any():
        return []
    with np.errstate(invalid="ignore"):
        for axis in (0, 1):
            own &= ~(np.abs(np.diff(depth_m, axis=axis, append=np.nan)) > _STEP * depth_m)
    own = cv2.morphologyEx(own.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, marks, stats, middles = cv2.connectedComponentsWithStats(own, connectivity=4)
    found = []
    for k in sorted(range(1, count), key=lambda k: -stats[k, cv2.CC_STAT_AREA]):
        x, y, w, h, area = (int(v) for v in stats[k])
        if area < _LEAST_PX:
            break
        away_m = float(np.nanmedian(depth_m[marks == k]))
        if not max(w, h) * away_m / cloud.frame.K[0, 0] < _LARGEST_M:
            continue
        if not any(b[0] < middles[k][0] < b[2] and b[1] < middles[k][1] < b[3] for b in but):
            found.append((float(x), float(y), float(x + w), float(y + h)))
    return found[:_MOST]


def called_otherwise(name: str, chosen: Sequence[Detection2D]) -> bool:
    """Whether what was asked for as `name` is called otherwise where looks could choose among names: all of them say another colour, or all
    another noun, and surely. Box or cube is for `outdone` to tell: their sides are measured.
    """
    colour, noun = _words(name)
    colours, nouns = zip(*(_words(c.label) for c in chosen)) if chosen else ((), ())
    if len(chosen) < 2:
        return False
    if colour and len(set(colours)) == 1 and colours[0] not in ("", colour):
        return True
    sure = float(np.nan_to_num([c.score for c in chosen], nan=1.0).mean()) > _SURE
    return sure and len(set(nouns)) == 1 and nouns[0] != noun and {nouns[0], noun} != _MEASURED


def _words(name: str) -> tuple[str, str]:
    """Colour and noun of an everyday name, in English."""
    *head, noun = plain_words(name)
    return " ".join(w for w in head if w in COLOURS), common(noun)


def outdone(cloud: SceneCloud, seen: Detection3D, box_px: Sequence[float]) -> bool:
    """Whether something else of its colour clearly has the form that the name of what was boxed (box_px) says, and this has not."""
    if not any(doubts := shapes.doubtful(seen)):
        return False
    for box in pieces(cloud, seen.label, (box_px,)):
        (solid,) = lift_boxes(cloud, (Detection2D(seen.label, box, 0.5),)).detections or (None,)
        if solid is not None and any(d and t for d, t in zip(doubts, shapes.typical(solid))):
            return True
    return False
