"""Which of two objects a surface belongs to where the boxes of both would take it.

A box over a partly hidden thing also shows what hides it, often nearer to its middle than the thing itself. Who the surface
fits has it: the object whose 2D box is what the surface fills. The other is looked for again in what is left, so an
occluder never stands for what it hides. Knows nothing of shapes or supports.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Callable, Sequence

import cv2
import numpy as np

from qwen3vl_ros.boxes import common_area, iou
from qwen3vl_ros.geometry.foreground import SAME, Foreground, Window
from qwen3vl_ros.geometry.seams import claim

_SHARED = 0.3  # of the smaller object's pixels: so many in both are a claim of both
_FITS = 0.6  # intersection over union of the surface's extents and the 2D box: more, and the surface is the box's own
_BETTER = 0.1
_PART = 0.9  # of the smaller of two boxes that lies in the other: a part of it, where no seam parts their surfaces
_CUT_FITS = 0.5  # at most, where the surface goes on outside the box
_WITHIN = 0.8  # of a box that lies in another: more, and what was boxed is seen in front of that, as a spoon in a mug


def settle_claims(
    founds: Sequence[Foreground | None], again: Callable[[int, Window], Foreground | str]
) -> dict[int, Foreground | str]:
    """What those objects are whose surface is another's: found again without that, or the reason why nothing is left.

    founds: each object's pixels, None where it has none. again(k, window): looks for object k in a window.
    """
    changed: dict[int, Foreground | str] = {}
    whole = {k: _fit(found) for k, found in enumerate(founds) if found is not None}
    fits = {k: min(fit, _CUT_FITS) if founds[k].cut else fit for k, fit in whole.items()}
    poor = [k for k in sorted(fits, key=fits.get) if fits[k] < _FITS]
    for k in poor:
        found, window = founds[k], founds[k].window
        taken = np.zeros(found.mask.shape, bool)
        for other in (j for j in fits if j != k and fits[j] > fits[k] + _BETTER and _meet(founds[j].window, window)):
            if whole[k] >= _FITS and _within(window.box_xyxy_px, founds[other].window.box_xyxy_px) > _WITHIN:
                continue
            own = _seen_in(founds[other], window)
            least = min(np.count_nonzero(found.mask), np.count_nonzero(own))
            if least and np.count_nonzero(own & found.mask) >= _SHARED * least:
                taken |= own
        if not taken.any():
            continue
        taken = cv2.dilate(taken.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        share = np.count_nonzero(taken[window.inside] & window.valid[window.inside]) / taken[window.inside].size
        left = replace(window, points_m=np.where(taken[..., None], np.float32(np.nan), window.points_m))
        readings, needed = np.count_nonzero(left.valid[left.inside]) * left.step**2, window.cloud.config.min_points
        rest = again(k, left) if readings >= needed else f"{readings} readings are too few, {needed} are needed"
        if isinstance(rest, str):
            rest = f"mostly hidden: {100 * share:.0f} % of its box is another object's surface; of what is left, {rest}"
        changed[k] = rest
    return changed


def each_once(founds: Sequence[Foreground | None]) -> list[np.ndarray | None]:
    """Masks of objects' pixels in their windows of which no pixel is in two: it goes to the one whose box claims it more.

    A part that was detected beside its whole, a wheel of a bicycle, shares its pixels with that.
    """
    masks = [None if found is None else found.mask for found in founds]
    for k, j in combinations([k for k, found in enumerate(founds) if found is not None], 2):
        window, other = founds[k].window, founds[j].window
        boxes = window.box_xyxy_px, other.box_xyxy_px
        if not 0 < iou(*boxes) < SAME or _is_part(*boxes):
            continue
        shared = masks[k] & _seen_in(replace(founds[j], mask=masks[j]), window)
        if shared.any():
            lost = shared & (claim(window, other.box_xyxy_px) < 0)
            masks[k] = masks[k] & ~lost
            masks[j] = masks[j] & ~_seen_in(replace(founds[k], mask=shared & ~lost), other)
    return masks


def _is_part(a, b) -> bool:
    """Whether one of two boxes lies in the other."""
    return max(_within(a, b), _within(b, a)) > _PART


def _within(a, b) -> float:
    """The share of one box that lies in another."""
    return common_area(a, b) / ((a[2] - a[0]) * (a[3] - a[1]))


def _fit(found: Foreground) -> float:
    """Intersection over union of the 2D box and the extents of the object's pixels."""
    return iou(found.window.extents_px(found.mask), found.window.box_xyxy_px)


def _meet(a: Window, b: Window) -> bool:
    return all(
        max(one.start, other.start) < min(one.stop, other.stop)
        for one, other in ((a.rows, b.rows), (a.columns, b.columns))
    )


def _seen_in(found: Foreground, window: Window) -> np.ndarray:
    """The pixels of an object in another's window, hxw bool."""
    pixels = [np.arange(of.start, of.stop, of.step) for of in (window.rows, window.columns)]
    own = (found.window.rows, found.window.columns)
    at = [np.rint((p - of.start) / found.window.step).astype(int) for p, of in zip(pixels, own)]
    inside = [(a >= 0) & (a < n) for a, n in zip(at, found.mask.shape)]
    seen = np.zeros((len(pixels[0]), len(pixels[1])), bool)
    seen[np.ix_(*inside)] = found.mask[np.ix_(*(a[i] for a, i in zip(at, inside)))]
    return seen
