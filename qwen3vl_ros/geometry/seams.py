"""Where one surface is two things that touch: the plane between them.

Touching things hang together in depth. Two convex things have a plane between them, upright where both stand on one support. Each
plane is worth what the 2D boxes say of either side of it, and the seam that is seen along it: a concave crease (two things meet in
one, the edges of one thing are convex), a small step in depth, or an edge in colour. The mean over the whole of a seam is what counts,
so a printed label is none. Where nothing is seen along any plane and only boxes differ, they decide; without a second box nothing
is cut. Knows nothing of shapes or grippers.

Source of the cue: Stein et al., "Object partitioning using local convexity", CVPR 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator

import cv2
import numpy as np

_ANGLES = 24  # directions of upright planes
_BIN_M = 0.002
_PIXELS = 4000  # that are looked at
_LEAST_SHARE = 0.03  # of a surface that must speak for another thing
_OTHERS_SHARE = 0.12  # of it that only another box shows: then the boxes decide, seam or none
_LEAST_SEAM = 0.30  # strength of a seam, 0..1, to be one
_SEAM_WORTH = 0.6  # beside the share of the surface that lies on its box's side
_ALONE = 0.5  # worth of being in one box and not in the other, beside being in its middle
_STACKED = 0.1  # so much better a level plane must agree with the boxes
_UNCOVERED = 0.12  # of its box's extent: what leaves more than that of a side uncovered was a part of the thing
_KEPT = 0.5  # of what its box claims that a thing keeps at least
_NESTED = 0.5  # worth of lying all in the other's box
_LEAST_PIXELS = 6.0  # of a seam
_ACROSS = np.array((1, 2, 1)) / 2  # bins that are one seam
_SMOOTH_PX, _ASIDE_PX = 5, 4
_SHARPEST = math.sin(math.radians(45.0))  # a crease of so much is full evidence
_LAB_STEP = 14.0  # so is such a step in colour
_STEP_M = 0.006


def parted(window, mask: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The part of a coherent surface (hxw bool in a foreground.Window) that is the thing in the window's box.

    up: unit vector in the camera frame.
    """
    strength = plan = None
    for other, known in _others(window, mask):
        worth = claim(window, other)
        own = np.count_nonzero(mask)
        if np.count_nonzero(mask & (worth < 0)) < _LEAST_SHARE * own:
            continue
        if strength is None:
            smooth = _smoothed(window.points_m, mask)
            strength, plan = _seam_strength(window, mask, smooth), _level(smooth, up)
        alone, only_its = (np.count_nonzero(mask & (side * worth >= _ALONE)) for side in (1, -1))
        sure = (
            known and only_its > _OTHERS_SHARE * own and alone > _LEAST_SHARE * own
        )  # else it is the other's altogether
        left = _cut(mask, plan, worth, strength, 0.0 if sure else _LEAST_SEAM)
        if left.any() and (gaps(window, left) - np.maximum(gaps(window, mask), 0) < _UNCOVERED).all():
            mask = left  # it still reaches every side of its box that it reached
    return mask


def _others(window, mask: np.ndarray) -> Iterator[tuple[tuple[float, float, float, float], bool]]:
    """Boxes of what else the surface may be: of known things, and of what goes on outside all boxes, on each side of the window's."""
    x0, y0, x1, y1 = window.box_xyxy_px
    alone = mask.copy()
    alone[window.inside] = False
    for box in window.others_px:
        part = window.pixels_between(*box)
        if mask[part].any():
            yield box, True
        alone[part] = False
    far = 1e4
    for beside in ((-far, -far, x0, far), (x1, -far, far, far), (-far, -far, far, y0), (-far, y1, far, far)):
        if np.count_nonzero(alone[window.pixels_between(*beside)]) >= _LEAST_SHARE * np.count_nonzero(mask):
            yield beside, False


def claim(window, other_px) -> np.ndarray:
    """hxw: how much rather a pixel is the thing's than the other's, by their boxes alone: positive the thing's, negative the other's.

    Where they overlap, the one that lies in the other has more of a claim: it is what one looks at there.
    """
    own, other = window.worth_inside, worth_inside(window, other_px)
    (a0, b0, a1, b1), (c0, d0, c1, d1) = window.box_xyxy_px, other_px
    common = max(0.0, min(a1, c1) - max(a0, c0)) * max(0.0, min(b1, d1) - max(b0, d0))
    nested = common / ((a1 - a0) * (b1 - b0)) - common / ((c1 - c0) * (d1 - d0))
    return own - other + np.where((own > 0) & (other > 0), _NESTED * nested, 0.0)


def gaps(window, mask: np.ndarray) -> np.ndarray:
    """How far a mask stays behind each side of the box (x0, y0, x1, y1), as a share of the box's extent."""
    x0, y0, x1, y1 = window.box_xyxy_px
    left, top, right, bottom = window.extents_px(mask)
    return np.array((left - x0, top - y0, x1 - right, y1 - bottom)) / np.array((x1 - x0, y1 - y0) * 2)


def worth_inside(window, box_px) -> np.ndarray:
    """hxw: 0 outside a box; inside as much as being there is worth, the more the nearer to its middle."""
    x0, y0, x1, y1 = box_px
    off = []
    for pixels, low, high in ((window.rows, y0, y1), (window.columns, x0, x1)):
        at = (np.arange(pixels.start, pixels.stop, pixels.step) + 0.5 - (low + high) / 2) / (high - low)
        off.append(np.where(np.abs(at) <= 0.5, np.exp(-6.0 * at * at), 0.0))
    middle = off[0][:, None] * off[1]
    return np.where(middle > 0, _ALONE + middle * (1 - _ALONE), 0.0)


def _level(points_m: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Points hxwx3 in a frame whose z is up."""
    across = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    across /= np.linalg.norm(across)
    return points_m @ np.stack((across, np.cross(up, across), up), 1).astype(np.float32)


def _cut(mask: np.ndarray, plan: np.ndarray, worth: np.ndarray, strength: np.ndarray, least_seam: float) -> np.ndarray:
    """The mask on the thing's side of the best upright plane; all of it where none is better than no plane, or a level one agrees
    better with the boxes: then one stands on the other.
    """
    pixels = np.flatnonzero(mask)
    some = pixels[:: max(1, len(pixels) // _PIXELS)]
    points, value, seam = plan.reshape(-1, 3)[some], worth.ravel()[some], strength.ravel()[some]
    given = value, seam, np.maximum(value, 0)
    level = _best_plane(points, np.array(((0.0, 0.0, 1.0),)), *given, least_seam)
    angles, best = np.arange(_ANGLES) * math.pi / _ANGLES, None
    for _ in range(2):  # roughly, and exactly
        normals = np.stack((np.cos(angles), np.sin(angles), np.zeros_like(angles)), 1)
        best = _best_plane(points, normals, *given, least_seam)
        if best is None:
            return mask
        angles = math.atan2(best.normal[1], best.normal[0]) + np.linspace(-1, 1, 7) * math.pi / _ANGLES
    if level is not None and level.gain > best.gain + _STACKED and level.score > best.score:
        return mask
    return mask & ((plan @ best.normal.astype(np.float32) - np.float32(best.at_m)) * best.side < 0)


@dataclass(frozen=True, eq=False)
class _Plane:
    """Points with (normal . p - at_m) side < 0 are the thing. gain: share of worth that is on the right side beyond no plane's."""

    score: float
    gain: float
    normal: np.ndarray
    at_m: float
    side: float


def _best_plane(points, normals, value, seam, claim, least_seam: float) -> _Plane | None:
    total, best = float(np.abs(value).sum()), None
    none = float(value.sum()) / total  # all of it is the thing
    for normal in normals:
        at = points @ normal.astype(np.float32)
        bins = ((at - at.min()) * np.float32(1 / _BIN_M)).astype(np.intp)
        last = max(int(bins.max()) + 1, len(_ACROSS))
        count, values, seams, claims = (np.bincount(bins, of, last) for of in (None, value, seam, claim))
        near, along = (np.convolve(of, _ACROSS, "same") for of in (count, seams))
        line = np.where(near >= _LEAST_PIXELS, along / np.maximum(near, 1), 0.0)
        below, claimed = (np.cumsum(of) - of / 2 for of in (values, claims))  # planes through the middle of each bin
        for side, own, kept in ((1.0, below, claimed), (-1.0, values.sum() - below, claims.sum() - claimed)):
            gain = (2 * own - values.sum()) / total - none
            score = gain + _SEAM_WORTH * line
            score[(line < least_seam) | (gain <= 0) | (kept <= _KEPT * claims.sum())] = -np.inf
            k = int(score.argmax())
            if score[k] > (0.0 if best is None else best.score):
                best = _Plane(float(score[k]), float(gain[k]), normal, float(at.min()) + (k + 0.5) * _BIN_M, side)
    return best


def _smoothed(points_m: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """hxwx3: means of the mask's points around each pixel."""
    kernel = dict(ddepth=-1, ksize=(_SMOOTH_PX, _SMOOTH_PX), normalize=False, borderType=cv2.BORDER_CONSTANT)
    weight = cv2.boxFilter(mask.astype(np.float32), **kernel)
    sums = cv2.boxFilter(cv2.copyTo(points_m, mask.view(np.uint8)), **kernel)
    return cv2.divide(sums, cv2.merge((np.maximum(weight, 1),) * 3))


def _seam_strength(window, mask: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """hxw, 0..1: how clearly a seam runs through each pixel of the mask. smooth: its points."""
    seams, edges = _creases(window, cv2.copyTo(smooth, mask.view(np.uint8), np.full_like(smooth, np.nan)))
    inner = cv2.erode(
        mask.view(np.uint8), np.ones((3, 3), np.uint8), iterations=2, borderValue=1
    )  # its outline is no seam
    return np.where(inner, np.maximum(seams, _colour_edges(window) * (1 - edges)), 0.0)


def _creases(window, smooth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of a concave crease or a step there is at each pixel, and of a convex edge: light changes there."""
    aside, shape = _ASIDE_PX, smooth.shape[:2]
    with np.errstate(invalid="ignore", divide="ignore"):
        across, down = (_difference(smooth, axis, aside) for axis in (1, 0))
        normal = np.cross(down, across)  # towards the camera
        normal /= np.linalg.norm(normal, axis=2, keepdims=True)
        seams, edges = np.zeros((2, *shape), np.float32)
        for axis in (0, 1):
            between, turn = (_difference(of, axis, aside) for of in (smooth, normal))
            length = np.linalg.norm(between, axis=2)
            convex = (between * turn).sum(2) / (2 * _SHARPEST * length)  # the normals lean away from each other
            seams, edges = np.fmax(seams, np.clip(-convex, 0, 1)), np.fmax(edges, np.clip(convex, 0, 1))
            z = window.points_m[..., 2]
            here = np.abs(_difference(z, axis, 1))
            beside = np.fmax(*(np.roll(here, by, axis) for by in (2, -2)))  # as slanted as that, it is no step
            noise = 4 * window.cloud.noise_per_m2 * np.square(z)
            seams = np.fmax(seams, np.clip((here - beside - noise) / _STEP_M, 0, 1))
    return seams, edges


def _difference(values: np.ndarray, axis: int, apart: int) -> np.ndarray:
    """values `apart` further on less those as far back, NaN at the border."""
    result = np.full_like(values, np.nan)
    whole = [slice(None)] * values.ndim
    ahead, back, here = whole.copy(), whole.copy(), whole.copy()
    ahead[axis], back[axis], here[axis] = slice(2 * apart, None), slice(None, -2 * apart), slice(apart, -apart)
    result[tuple(here)] = values[tuple(ahead)] - values[tuple(back)]
    return result


def _colour_edges(window) -> np.ndarray:
    """Steps in colour, where neighbours on either side of them are alike among themselves."""
    rgb = np.ascontiguousarray(window.cloud.frame.rgb[window.rows, window.columns])
    lab = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), (0, 0), 1.0).astype(np.float32)
    edge = np.zeros(lab.shape[:2], np.float32)
    for axis in (0, 1):
        step = np.linalg.norm(_difference(lab, axis, 2), axis=2)
        edge = np.fmax(edge, np.clip(step / _LAB_STEP - 0.3, 0, 1))
    return edge
