"""What several looks at one picture box becomes one answer: what most of them agree on, each thing once, under one name.

Knows nothing of models and geometry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np

from qwen3vl_ros.boxes import iou
from qwen3vl_ros.geometry.layout import same_name
from qwen3vl_ros.types import Detection2D

AGREE_IOU = 0.5  # two boxes show one thing
_TWICE_IOU = 0.75  # under two names


def agreed(seen: list[Detection2D], closer: Sequence[list[Detection2D]]) -> list[Detection2D]:
    """Of what several looks at a part of the picture box, the one thing that most of them box, and most surely; its box is the median.
    What only one of them boxes is none.
    """
    groups: list[list[tuple[int, Detection2D]]] = []
    for box, look in sorted(
        ((d, k) for k, look in enumerate((seen, *closer)) for d in look), key=lambda t: -np.nan_to_num(t[0].score)
    ):
        group = next((g for g in groups if iou(g[0][1].box_xyxy_px, box.box_xyxy_px) > AGREE_IOU), None)
        if group is None:
            groups.append(group := [])
        if all(k != look for k, _ in group):
            group.append((look, box))
    groups = [g for g in groups if len(g) > 1]
    if not groups:
        return []
    best = max(groups, key=lambda g: sum(np.nan_to_num(d.score, nan=0.5) for _, d in g))
    middle = np.median([d.box_xyxy_px for _, d in best], 0)
    return [replace(best[0][1], box_xyxy_px=tuple(map(float, middle)))]


def once(found: list[Detection2D]) -> list[Detection2D]:
    """What several looks led to, each thing once."""
    kept: list[Detection2D] = []
    for box in sorted(found, key=lambda d: -np.nan_to_num(d.score)):
        if all(iou(box.box_xyxy_px, other.box_xyxy_px) < AGREE_IOU for other in kept):
            kept.append(box)
    return kept


def one_name_each(boxes: list[Detection2D]) -> list[Detection2D]:
    """One thing found under two names goes by the one that says more: "the mug" beside "the red mug" is another."""
    kept: list[Detection2D] = []
    for box in sorted(boxes, key=lambda d: -len(d.label)):
        if not any(
            iou(box.box_xyxy_px, other.box_xyxy_px) > _TWICE_IOU and not same_name(box.label, other.label)
            for other in kept
        ):
            kept.append(box)
    return [b for b in boxes if b in kept]
