"""Which seen thing is which known one. Knows boxes, labels, colours and places; nothing of pictures or of time between answers.

`TrackIds` names the detections of answers that stand alone: greedy, the most similar pair first. Two boxes are similar by their
overlap; with the same label a smaller overlap will do, or, since a slow model skips frames in which things move, a near miss.
`match` decides between things that are followed from picture to picture (tracks.py): overlap, distance in space and colours make a
cost, the cheapest pairs are taken, and where another pairing would cost nearly the same, the tracks in it are named as uncertain.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Hashable, Iterator, Sequence

import cv2
import numpy as np

from qwen3vl_ros.types import Detection2D

MAX_MISSED = 5  # answers in a row without the object, after which it is forgotten
MAX_GAP_NS = 10_000_000_000  # an object unseen for longer is another one
_MAX_PROMPTS = 8
_NEARLY_EQUAL = 0.25  # costs (below) that differ by less do not decide
_LEAST_SIZE_M = 0.04
_MAX_APART = 4.0  # sizes; what is farther away is another thing
_IOU_OTHER_LABEL = 0.6  # models rename things; only a box in nearly the same place is the same thing then


@dataclass(eq=False)
class _Track:
    id: str
    label: str
    box: tuple[float, float, float, float]
    stamp_ns: int
    missed: int = 0


class TrackIds:
    """Ids count up from "1" and are never used twice. Each prompt has its own tracks: a new one starts afresh, and a
    request in between does not disturb the stream.

    ids: where the numbers come from; shared by all that must not give the same one twice.
    """

    def __init__(self, ids: Iterator[int] | None = None):
        self._ids = count(1) if ids is None else ids
        self._prompts: OrderedDict[Hashable, list[_Track]] = OrderedDict()

    def assign(self, stamp_ns: int, prompt: Hashable, detections: Sequence[Detection2D]) -> tuple[Detection2D, ...]:
        """The detections with their ids, in the same order. Call it for empty answers too, or objects never leave.

        prompt: what was asked, and by whom. stamp_ns: capture time of the image. An answer older than the last one takes ids but does not move the tracks;
        a clock that jumped back by more than MAX_GAP_NS (a bag that loops) starts them afresh.
        """
        tracks = self._prompts.pop(prompt, [])
        tracks = [t for t in tracks if abs(stamp_ns - t.stamp_ns) <= MAX_GAP_NS]
        matched = _match(tracks, detections)
        seen, named = set(), []
        for i, detection in enumerate(detections):
            track = matched.get(i)
            if track is None:
                track = _Track(str(next(self._ids)), detection.label, detection.box_xyxy_px, stamp_ns)
                tracks.append(track)
            elif stamp_ns >= track.stamp_ns:
                track.label, track.box, track.stamp_ns = detection.label, detection.box_xyxy_px, stamp_ns
            seen.add(track.id)
            named.append(replace(detection, id=track.id))
        for track in tracks:
            if track.id in seen:
                track.missed = 0
            elif stamp_ns > track.stamp_ns:
                track.missed += 1
        self._prompts[prompt] = [t for t in tracks if t.missed <= MAX_MISSED]
        while len(self._prompts) > _MAX_PROMPTS:
            self._prompts.popitem(last=False)
        return tuple(named)


def _match(tracks: Sequence[_Track], detections: Sequence[Detection2D]) -> dict[int, _Track]:
    """{detection: track}, each at most once."""
    if not tracks or not detections:
        return {}
    similarity = _similarity(tracks, detections)
    matched, used = {}, set()
    for flat in np.argsort(-similarity, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(tracks))
        if similarity[i, j] <= 0.0:
            break
        if i not in matched and j not in used:
            matched[i] = tracks[j]
            used.add(j)
    return matched


def _similarity(tracks: Sequence[_Track], detections: Sequence[Detection2D]) -> np.ndarray:
    """detections x tracks; 0 = certainly different. Any overlap of a label's own box beats a near miss."""
    iou, nearness = _alike([d.box_xyxy_px for d in detections], [t.box for t in tracks])
    same = np.array([[d.label == t.label for t in tracks] for d in detections])
    return np.where(same, np.where(iou > 0.0, 1.0 + iou, nearness), np.where(iou >= _IOU_OTHER_LABEL, iou, 0.0))


def _alike(boxes: Sequence, others: Sequence, reach: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Overlap (IoU) and nearness of boxes of about one size (1: same middle, 0: `reach` of a box's diagonals apart or farther)."""
    a, b = np.array(boxes, np.float64)[:, None], np.array(others, np.float64)[None]
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0, None).prod(-1)
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    iou = overlap / np.maximum(size_a.prod(-1) + size_b.prod(-1) - overlap, 1e-9)
    distance = np.linalg.norm(a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:], axis=-1) / 2.0
    nearness = 1.0 - distance / np.maximum(reach * np.linalg.norm((size_a + size_b) / 2.0, axis=-1), 1e-9)
    near = (nearness > 0.0) & (np.minimum(size_a, size_b).prod(-1) > 0.25 * np.maximum(size_a, size_b).prod(-1))
    return iou, np.where(near, nearness, 0.0)


# -- things that are followed ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Look:
    """What a thing looked like and where it was, at one capture.

    label: of the prompt in question, "" if that prompt never named it. point_m: middle of its seen surface, 3 metres, NaN without
    depth. size_m: its larger side. colours: a histogram of `colours_of`, None if unknown. adrift_s: for how long nobody has seen
    where it went.
    """

    label: str
    box_xyxy_px: tuple[float, float, float, float]
    point_m: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))
    size_m: float = float("nan")
    colours: np.ndarray | None = None
    adrift_s: float = 0.0


def colours_of(rgb: np.ndarray, box_xyxy_px) -> np.ndarray | None:
    """Histogram of hue and saturation in the middle of a box of an HxWx3 uint8 picture; None where the box is empty."""
    x0, y0, x1, y1 = (float(v) for v in box_xyxy_px)
    inset_x, inset_y = 0.2 * (x1 - x0), 0.2 * (y1 - y0)
    patch = rgb[
        max(int(y0 + inset_y), 0) : max(int(y1 - inset_y), 0), max(int(x0 + inset_x), 0) : max(int(x1 - inset_x), 0)
    ]
    if patch.size == 0:
        return None
    step = max(1, min(patch.shape[:2]) // 32)
    hsv = cv2.cvtColor(np.ascontiguousarray(patch[::step, ::step]), cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [0, 1], None, [12, 4], [0, 180, 0, 256])
    return cv2.normalize(histogram, None, 1.0, 0.0, cv2.NORM_L1)


def costs(seen: Sequence[Look], known: Sequence[Look]) -> np.ndarray:
    """seen x known: 0 = the same in every respect, inf = certainly another thing."""
    reach = 1.0 + np.minimum([k.adrift_s for k in known], 2.0)
    iou, nearness = _alike([s.box_xyxy_px for s in seen], [k.box_xyxy_px for k in known], reach)
    result = 1.0 - iou
    for i, s in enumerate(seen):
        for j, k in enumerate(known):
            possible = (iou[i, j] > 0 or nearness[i, j] > 0) if s.label == k.label else iou[i, j] >= _IOU_OTHER_LABEL
            if not possible:
                result[i, j] = np.inf
                continue
            apart_m = float(np.linalg.norm(s.point_m - k.point_m))
            if np.isfinite(apart_m):
                size_m = max(np.nanmax((s.size_m, k.size_m, _LEAST_SIZE_M)), _LEAST_SIZE_M)
                result[i, j] += min(apart_m / size_m, 2.0) if apart_m < _MAX_APART * size_m * reach[j] else np.inf
            if s.colours is not None and k.colours is not None:
                result[i, j] += cv2.compareHist(s.colours, k.colours, cv2.HISTCMP_BHATTACHARYYA)
    return result


def match(cost: np.ndarray) -> tuple[dict[int, int], set[int]]:
    """{seen: known} of the cheapest pairs, and the known ones of which another could be meant as well."""
    pairs: dict[int, int] = {}
    for flat in np.argsort(cost, axis=None, kind="stable"):
        i, j = divmod(int(flat), cost.shape[1])
        if not np.isfinite(cost[i, j]):
            break
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    while (exchange := _better_exchange(cost, pairs)) is not None:
        a, b = exchange
        pairs[a], pairs[b] = pairs[b], pairs[a]
    return pairs, _uncertain(cost, pairs)


def _better_exchange(cost: np.ndarray, pairs: dict[int, int]) -> tuple[int, int] | None:
    for a in pairs:
        for b in pairs:
            if a < b and cost[a, pairs[b]] + cost[b, pairs[a]] < cost[a, pairs[a]] + cost[b, pairs[b]] - 1e-9:
                return a, b
    return None


def _uncertain(cost: np.ndarray, pairs: dict[int, int]) -> set[int]:
    doubtful: set[int] = set()
    for a, j in pairs.items():
        for k in range(cost.shape[1]):  # a thing that was not seen could be meant
            if k not in pairs.values() and cost[a, k] - cost[a, j] < _NEARLY_EQUAL:
                doubtful |= {j, k}
        for b, k in pairs.items():  # two could be meant the other way round
            if a < b and cost[a, k] + cost[b, j] - cost[a, j] - cost[b, k] < _NEARLY_EQUAL:
                doubtful |= {j, k}
    return doubtful
