"""Gives a detection the id that the same object had in the answers before. Knows boxes and labels, not pixels.

Greedy: the most similar pair first. Two boxes are similar by their overlap; with the same label a smaller overlap will
do, or, since a slow model skips frames in which things move, a near miss.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Hashable, Iterator, Sequence

import numpy as np

from qwen3vl_ros.types import Detection2D

MAX_MISSED = 5  # answers in a row without the object, after which it is forgotten
MAX_GAP_NS = 10_000_000_000  # an object unseen for longer is another one
_MAX_PROMPTS = 8
_IOU_OTHER_LABEL = 0.6  # models rename things; only a box in nearly the same place is the same thing then


@dataclass(eq=False)
class _Track:
    id: str
    label: str
    box: tuple[float, float, float, float]
    stamp_ns: int
    missed: int = 0


class TrackIds:
    """Ids count up from "1" and are never used twice; where several of these share `ids`, not by two of them either. Each
    prompt has its own tracks: a new one starts afresh, and a request in between does not disturb the stream."""

    def __init__(self, ids: Iterator[int] | None = None):
        self._ids = ids or itertools.count(1)
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
    a = np.array([d.box_xyxy_px for d in detections], np.float64)[:, None]
    b = np.array([t.box for t in tracks], np.float64)[None]
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0, None).prod(-1)
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    iou = overlap / np.maximum(size_a.prod(-1) + size_b.prod(-1) - overlap, 1e-9)
    distance = np.linalg.norm(a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:], axis=-1) / 2.0
    nearness = 1.0 - distance / np.maximum(np.linalg.norm((size_a + size_b) / 2.0, axis=-1), 1e-9)
    same = np.array([[d.label == t.label for t in tracks] for d in detections])
    near = (nearness > 0.0) & (np.minimum(size_a, size_b).prod(-1) > 0.25 * np.maximum(size_a, size_b).prod(-1))
    return np.where(
        same, np.where(iou > 0.0, 1.0 + iou, np.where(near, nearness, 0.0)), np.where(iou >= _IOU_OTHER_LABEL, iou, 0.0)
    )
