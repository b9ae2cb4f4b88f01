"""All boxes of a camera from one picture to the next: followed by their points, coasting without, found again where they should be.

TF at both stamps predicts; a nearer surface over a box is an occlusion. Knows nothing of ids, labels or answers.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from qwen3vl_ros.tracking.flow import MIN_POINTS, common_way, flow, moved_box, similarity
from qwen3vl_ros.tracking.followed import DEPTH_GATE_M, DEPTH_GATE_SHARE, FIT, HARDLY_COVERED, STILL_M_S, Followed
from qwen3vl_ros.tracking.glimpse import Front, Glimpse

REGAIN_M = 0.04  # what was lost is found again this near to where it should be
COVERED = 0.5  # share of the box behind something nearer, from which on it is occluded
FIT_NS = 60_000_000


def advance(followed: Sequence[Followed], before: Glimpse, now: Glimpse) -> None:
    """Bring all boxes from one picture to a later one. What lost its points is looked for where it should be."""
    dt_s = max((now.stamp_ns - before.stamp_ns) / 1e9, 1e-3)
    live, lost = [f for f in followed if f.following], [f for f in followed if not f.following]
    if live:
        _follow(live, before, now, dt_s)
    for f in lost:
        f.coast(now, dt_s)
    _move_boxes([f for f in followed if f.in_space(now)], now)
    for f in followed:
        f.look_around(now)
    solid = [f for f in followed if f.margin is not None and f.front.mask is not None and f.in_space(now)]
    for f in lost:
        taken = [g.box for g in followed if g.following]
        if f.covered >= COVERED or not _find_by_looks(f, now, taken):
            if f in solid:
                _find_by_depth(f, now, taken)
    due = [f for f in solid if f.following and f.covered < HARDLY_COVERED and now.stamp_ns - f.fitted_ns >= FIT_NS]
    in_turn = max(1, len(followed) // 4)  # no picture has to wait for all
    for f in sorted(due, key=lambda f: f.fitted_ns)[:in_turn]:
        _fit(f, now)


def _follow(live: Sequence[Followed], before: Glimpse, now: Glimpse, dt_s: float) -> None:
    """All points of all boxes in one flow."""
    counts = [len(f.pixels) for f in live]
    start = np.concatenate([f.pixels for f in live])
    points_m = np.concatenate(
        [f.points_m if f.frame_id == now.frame_id else np.full_like(f.points_m, np.nan) for f in live]
    )
    own_m = np.repeat([f.rate_m_s * dt_s for f in live], counts, axis=0)
    there, expected = now.project_px(points_m + own_m)
    step = there - before.project_px(points_m)[0] if before.frame_id == now.frame_id else np.full_like(start, np.nan)
    step = np.where(np.isfinite(step), step, np.repeat([f.rate_px_s * dt_s for f in live], counts, axis=0))
    moved, good = flow(before, now, start, start + step)
    z = now.depths_m(moved)
    with np.errstate(invalid="ignore"):
        good &= ~(np.abs(z - expected) > DEPTH_GATE_M + DEPTH_GATE_SHARE * z)  # unknown depths are no reason to doubt
    points_m, first = now.points_m(moved, z), 0
    for f, count in zip(live, counts):
        part = slice(first, first + count)
        settle = f.settle_in_space if f.in_space(now) else f.settle_in_picture
        if not settle(moved[part], points_m[part], good[part], dt_s):
            f.coast(now, dt_s)
        first += count


def _move_boxes(followed: Sequence[Followed], now: Glimpse) -> None:
    """Give those that moved in space their boxes in this picture: each side goes with what was seen near it."""
    if not followed:
        return
    points_m = np.stack([f.front.sides_m + f.since_key_m for f in followed])
    pixels = now.project_px(points_m.reshape(-1, 3))[0].reshape(len(followed), 4, -1, 2)
    steps = np.sort(pixels - np.stack([f.front.sides_px for f in followed]), axis=2)[:, :, pixels.shape[2] // 2]
    for f, step in zip(followed, steps[:, (0, 1, 2, 3), (0, 1, 0, 1)]):
        if np.isfinite(step).all():
            f.box = f.key_box + step


def _find_by_looks(f: Followed, now: Glimpse, taken: Sequence[np.ndarray]) -> bool:
    """Find a lost box by what it looked like when it was given; whether that was possible. taken: boxes of other things."""
    starts, key_m = f.picked_pixels, f.picked_m
    if len(starts) < MIN_POINTS or now.frame_id != f.frame_id:
        return False
    guesses = starts + (f.box - f.key_box).reshape(2, 2).mean(0)
    if f.in_space(now):
        there = now.project_px(key_m + f.since_key_m)[0]
        guesses = np.where(np.isfinite(there), there, guesses)
    moved, good = flow(f.key, now, starts, guesses)
    points_m = now.points_m(moved)
    if f.in_space(now):
        way_m, keep = common_way(points_m - key_m, good)
        if way_m is None or len(keep) < 0.4 * len(starts) or np.linalg.norm(way_m - f.since_key_m) > REGAIN_M:
            return False
        before_m, before_box, f.moved_m = f.moved_m, f.box, f.moved_at_key_m + way_m
        _move_boxes([f], now)
        if _same_place(f.box, taken):
            f.moved_m, f.box = before_m, before_box
            return False
    else:
        transform, keep = similarity(starts, moved, good)
        if transform is None or len(keep) < 0.4 * len(starts):
            return False
        box = moved_box(f.key_box, transform)
        if np.abs(box - f.box).reshape(2, 2).mean(0).max() > 0.5 * (f.box[2:] - f.box[:2]).max():
            return False
        if _same_place(box, taken):
            return False
        f.box = box
    f.key_pixels, f.key_m = starts, key_m
    f.keep(keep, moved, points_m)
    return True


def _find_by_depth(f: Followed, now: Glimpse, taken: Sequence[np.ndarray]) -> None:
    """Take a lost box for found where something of its size and depth stands near where it should be, and nothing else is known."""
    outline = f.outline_in(now, 0.7, 2 * FIT)
    if outline is None or _same_place(outline + f.margin, taken):
        return
    box = outline + f.margin
    step_m = Front.of(now, box, f.front.behind).centre_m - f.centre_m
    speed = float(np.linalg.norm(f.rate_m_s))
    # How far it got is known worse than its way.
    along_m = abs(step_m @ f.rate_m_s) / speed if speed > STILL_M_S else 0.0
    if np.linalg.norm(step_m) - along_m < REGAIN_M and along_m < REGAIN_M + 0.25 * speed:
        f.moved_m = f.moved_m + step_m
        f.set_key(now, box)


def _fit(f: Followed, now: Glimpse) -> None:
    """Draw a followed box to the outline that depth shows now: the view of a thing changes as it or the camera turns."""
    f.fitted_ns = now.stamp_ns
    outline = f.outline_in(now, 0.1, FIT, whole=True)
    if outline is not None:
        f.correct(0.5 * (outline + f.margin - f.box))


def _same_place(box: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether a box is most of another one: two things are not in one place."""
    for other in others:
        overlap = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0.0, None).prod()
        if overlap > 0.6 * max((box[2:] - box[:2]).prod(), (other[2:] - other[:2]).prod()):
            return True
    return False
