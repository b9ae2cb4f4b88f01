"""Where boxes went from one picture to the next: sparse optical flow. Knows pixels and depth; nothing of ids, labels, answers.

Points in the box, followed there and back by pyramidal Lucas-Kanade (forward-backward error: Kalal, Mikolajczyk, Matas, ICPR
2010). With depth they become points in space, and the median of their ways is the thing's; without, the similarity that most of
them agree on moves the box. Both lead from the picture in which the box was given, so that errors of single steps do not add up.
"""

from __future__ import annotations

from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.tracking.glimpse import Front, Glimpse, corners, median, standing_out

MIN_POINTS = 4  # fewer agreeing ones and the box is not followed
MAX_RETURN_PX = 1.0  # forward-backward error, small pixels
MAX_RESIDUAL_PX = 1.5
DEPTH_GATE_M = (
    0.03  # a point's depth changes by less from one picture to the next, beyond what the camera's own motion explains
)
DEPTH_GATE_SHARE = 0.02  # and this share of its depth: sensors get worse with distance
SAME_WAY_M = 0.012  # points of one thing went the same way, within this
RATE_S = 0.08  # a thing's own motion is averaged over about this
COAST_S = 2.0  # what is out of sight slows down: nobody knows better
STILL_M_S = 0.02  # slower than this and it is taken to stand still when it is out of sight
REGAIN_M = 0.04  # what was lost is found again this near to where it should be
COVERED = 0.5  # share of the box behind something nearer, from which on it is occluded
HARDLY_COVERED = 0.1
FIT_NS = 60_000_000
FIT = 0.12  # of its size: the outline that depth shows differs by less from the one expected
_LK = dict(
    winSize=(11, 11),
    maxLevel=2,
    criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 7, 0.03),
    flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
)


class Followed:
    """One box, from the picture in which it was given (the key) to the newest one that `advance` was given.

    box: xyxy, small pixels (edges). following: whether points carry it now; else it goes on as the camera's motion and its own last
    one explain. covered: share of the box behind something nearer, 0..1. quality: share of the points that still agree. moved_m: how
    far it went since it was given, 3 metres in `frame_id`. rate_m_s, rate_px_s: its own motion, 3 metres a second; 2 small pixels a
    second where there is no depth.
    """

    def __init__(self, glimpse: Glimpse, box):
        self.frame_id, self.covered, self.moved_m = glimpse.frame_id, 0.0, np.zeros(3)
        self.rate_px_s, self.rate_m_s = np.zeros(2), np.zeros(3)
        self.front, self.fitted_ns = Front(), glimpse.stamp_ns
        self.set_key(glimpse, np.asarray(box, float))
        self.margin = np.zeros(4)  # the box beside the outline that depth shows
        outline = _outline_near(self, glimpse, 0.1, 2 * FIT) if self.front.mask is not None else None
        self.margin = None if outline is None else self.box - outline

    def set_key(self, glimpse: Glimpse, box: np.ndarray) -> None:
        """From now on the box is followed from here; how far it has moved is kept."""
        self.key, self.key_box, self.box = glimpse, box, box
        self.front = Front.of(glimpse, box, self.front.behind)
        self.picked_pixels = self.key_pixels = self.pixels = corners(glimpse, box, self.front.mask)
        self.picked_m = self.key_m = self.points_m = glimpse.points_m(self.pixels)
        self.moved_at_key_m = self.moved_m
        self.quality, self.following = 1.0, len(self.pixels) >= MIN_POINTS

    def in_space(self, glimpse: Glimpse) -> bool:
        """Whether depth can carry it to this picture."""
        return self.front.known and glimpse.nearest_m is not None and glimpse.frame_id == self.frame_id

    @property
    def since_key_m(self) -> np.ndarray:
        return self.moved_m - self.moved_at_key_m

    @property
    def centre_m(self) -> np.ndarray:
        """Middle of the seen surface now, 3 metres in `frame_id`; NaN without depth."""
        return self.front.centre_m + self.since_key_m

    def correct(self, off: np.ndarray) -> None:
        """The box was off by this much: xyxy, small pixels."""
        self.key_box, self.box = self.key_box + off, self.box + off

    def settle_in_space(self, moved: np.ndarray, points_m: np.ndarray, good: np.ndarray, dt_s: float) -> bool:
        """Take where the flow led its points: Nx2 small pixels, Nx3 metres, which to trust. Whether enough of them agree."""
        way_m, keep = _common_way(points_m - self.key_m, good)
        if way_m is None:
            return False
        moved_m = self.moved_at_key_m + way_m
        if self.covered < HARDLY_COVERED:  # points at the edge of what comes before it are dragged along
            self.rate_m_s = _blend(self.rate_m_s, (moved_m - self.moved_m) / dt_s, dt_s)
        self.moved_m = moved_m
        self.keep(keep, moved, points_m)
        return True

    def settle_in_picture(self, moved: np.ndarray, points_m: np.ndarray, good: np.ndarray, dt_s: float) -> bool:
        """The same without depth: from the key or, where it looks too different by now, from the last picture."""
        for box, pixels in ((self.key_box, self.key_pixels), (self.box, self.pixels)):
            transform, keep = _similarity(pixels, moved, good)
            if transform is not None:
                break
        else:
            return False
        box = _moved_box(box, transform)
        self.rate_px_s = _blend(self.rate_px_s, (box - self.box).reshape(2, 2).mean(0) / dt_s, dt_s)
        self.box = box
        self.keep(keep, moved, points_m)
        return True

    def keep(self, which: np.ndarray, pixels: np.ndarray, points_m: np.ndarray) -> None:
        self.key_pixels, self.key_m = self.key_pixels[which], self.key_m[which]
        self.pixels, self.points_m = pixels[which], points_m[which]
        self.following, self.quality = True, len(which) / max(len(self.picked_pixels), 1)

    def coast(self, now: Glimpse, dt_s: float) -> None:
        """No point carries it: it goes on as it went."""
        if not self.in_space(now):
            self.box = self.box + np.tile(self.rate_px_s * dt_s, 2)
        elif self.rate_m_s @ self.rate_m_s > STILL_M_S**2:
            self.moved_m = self.moved_m + self.rate_m_s * dt_s
        slower = np.exp(-dt_s / COAST_S)
        self.rate_m_s, self.rate_px_s = self.rate_m_s * slower, self.rate_px_s * slower
        self.following, self.quality = False, 0.0

    def look_around(self, now: Glimpse) -> None:
        """How much of it something nearer hides; fresh points where too few are left."""
        self.covered = 0.0
        if self.in_space(now):
            front_m = now.depth_of_m(self.centre_m) + self.front.near_m - self.key.depth_of_m(self.front.centre_m)
            inside = now.nearest_m[now.window(self.box)]
            hidden = inside < front_m - DEPTH_GATE_M - DEPTH_GATE_SHARE * front_m
            self.covered = float(np.count_nonzero(hidden) / max(hidden.size, 1))
        if self.following and self.quality < 0.5 and self.covered < HARDLY_COVERED:
            self.set_key(now, self.box)


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
    for f in sorted(due, key=lambda f: f.fitted_ns)[
        : max(1, len(followed) // 4)
    ]:  # in turn: no picture has to wait for all
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
    moved, good = _flow(before, now, start, start + step)
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
    moved, good = _flow(f.key, now, starts, guesses)
    points_m = now.points_m(moved)
    if f.in_space(now):
        way_m, keep = _common_way(points_m - key_m, good)
        if way_m is None or len(keep) < 0.4 * len(starts) or np.linalg.norm(way_m - f.since_key_m) > REGAIN_M:
            return False
        before_m, before_box, f.moved_m = f.moved_m, f.box, f.moved_at_key_m + way_m
        _move_boxes([f], now)
        if _same_place(f.box, taken):
            f.moved_m, f.box = before_m, before_box
            return False
    else:
        transform, keep = _similarity(starts, moved, good)
        if transform is None or len(keep) < 0.4 * len(starts):
            return False
        box = _moved_box(f.key_box, transform)
        if np.abs(box - f.box).reshape(2, 2).mean(0).max() > 0.5 * (f.box[2:] - f.box[:2]).max():
            return False
        if _same_place(box, taken):
            return False
        f.box = box
    f.key_pixels, f.key_m = starts, key_m
    f.keep(keep, moved, points_m)
    return True


def _fit(f: Followed, now: Glimpse) -> None:
    """Draw a followed box to the outline that depth shows now: the view of a thing changes as it or the camera turns."""
    f.fitted_ns = now.stamp_ns
    outline = _outline_near(f, now, 0.1, FIT, whole=True)
    if outline is not None:
        f.correct(0.5 * (outline + f.margin - f.box))


def _find_by_depth(f: Followed, now: Glimpse, taken: Sequence[np.ndarray]) -> None:
    """Take a lost box for found where something of its size and depth stands near where it should be, and nothing else is known."""
    outline = _outline_near(f, now, 0.7, 2 * FIT)
    if outline is None or _same_place(outline + f.margin, taken):
        return
    box = outline + f.margin
    step_m = Front.of(now, box, f.front.behind).centre_m - f.centre_m
    speed = float(np.linalg.norm(f.rate_m_s))
    along_m = (
        abs(step_m @ f.rate_m_s) / speed if speed > STILL_M_S else 0.0
    )  # how far it got is known worse than its way
    if np.linalg.norm(step_m) - along_m < REGAIN_M and along_m < REGAIN_M + 0.25 * speed:
        f.moved_m = f.moved_m + step_m
        f.set_key(now, box)


def _outline_near(f: Followed, now: Glimpse, search: float, tolerance: float, whole: bool = False) -> np.ndarray | None:
    """Outline (xyxy, small pixels) of what stands out of the surface behind f at its depth, within `search` of its size, and is of
    its size within `tolerance`; None where there is no such thing, or, if it must be `whole`, something nearer is beside it."""
    x0, y0, x1, y1 = expected = f.box - f.margin
    size = np.array((x1 - x0, y1 - y0))
    w, h = np.ceil(search * size) + 2.0
    rows, columns = now.window(np.array((x0 - w, y0 - h, x1 + w, y1 + h)))
    nearer_m = now.depth_of_m(f.centre_m) - f.key.depth_of_m(f.front.centre_m)
    z = now.nearest_m[rows, columns]
    near_m, far_m = f.front.near_m + nearer_m - DEPTH_GATE_M, f.front.far_m + nearer_m + DEPTH_GATE_M
    mask = (z > near_m) & (z < far_m)
    if not mask.any() or (whole and np.count_nonzero(z <= near_m) > 0.02 * z.size):
        return None
    mask &= standing_out(now, rows, columns, f.front.behind)
    _, _, stats, middles = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    fits = np.abs(stats[1:, 2:4] - size).max(1) < tolerance * size.max() + 1.0
    if not fits.any():
        return None
    apart = np.abs(middles[1:] + (columns.start, rows.start) - (expected[:2] + expected[2:]) / 2).max(1)
    x, y, w, h, _ = stats[1 + int(np.where(fits, apart, np.inf).argmin())]
    if np.count_nonzero(z[y : y + h, x : x + w] <= near_m) > HARDLY_COVERED * w * h:
        return None
    x, y = x + columns.start, y + rows.start
    return np.array((x, y, x + w, y + h), float)


def _same_place(box: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether a box is most of another one: two things are not in one place."""
    for other in others:
        overlap = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0.0, None).prod()
        if overlap > 0.6 * max((box[2:] - box[:2]).prod(), (other[2:] - other[:2]).prod()):
            return True
    return False


def _flow(before: Glimpse, now: Glimpse, starts: np.ndarray, guesses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels Nx2 of one picture are in another, and which of them lead back to where they came from."""
    later = _as_bright(now, before)
    p = starts.astype(np.float32)
    moved, there, _ = cv2.calcOpticalFlowPyrLK(before.grey, later, p, guesses.astype(np.float32), **_LK)
    back, here, _ = cv2.calcOpticalFlowPyrLK(later, before.grey, moved, p.copy(), **{**_LK, "maxLevel": 1})
    height, width = now.grey.shape
    good = (there[:, 0] & here[:, 0]).astype(bool) & (np.abs(back - p).max(1) < MAX_RETURN_PX)
    good &= ((moved >= 0) & (moved < (width, height))).all(1)
    return moved.astype(float), good


def _as_bright(now: Glimpse, before: Glimpse) -> np.ndarray:
    """The greys as they would be in the light and exposure of the picture before: flow assumes that they do not change."""
    (mean, deviation), (wanted, spread) = now.brightness, before.brightness
    gain = spread / deviation
    if abs(gain - 1.0) < 0.04 and abs(mean - wanted) < 4.0:
        return now.grey
    return cv2.convertScaleAbs(now.grey, alpha=gain, beta=wanted - gain * mean)


def _common_way(ways_m: np.ndarray, good: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Median of most points' ways (3 metres) and the indices of the points that agree; None where too few do."""
    usable = np.flatnonzero(good & (ways_m[:, 2] == ways_m[:, 2]))
    if len(usable) < MIN_POINTS:
        return None, usable
    ways_m = ways_m[usable]
    off = ways_m - median(ways_m)
    off = np.sqrt((off * off).sum(1))
    agree = off < min(max(SAME_WAY_M, 2.0 * np.sort(off)[len(off) // 2]), 3 * SAME_WAY_M)
    if np.count_nonzero(agree) < max(MIN_POINTS, 0.4 * len(usable)):
        return None, usable
    return median(ways_m[agree]), usable[agree]


def _similarity(before: np.ndarray, now: np.ndarray, good: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """2x3 similarity that most of the good points agree on and the indices of those; None where too few do."""
    usable = np.flatnonzero(good)
    if len(usable) < MIN_POINTS:
        return None, usable
    transform, inliers = cv2.estimateAffinePartial2D(
        before[usable],
        now[usable],
        method=cv2.RANSAC,
        ransacReprojThreshold=MAX_RESIDUAL_PX,
        maxIters=100,
        confidence=0.99,
    )
    keep = usable[np.flatnonzero(inliers)]
    if transform is None or len(keep) < max(MIN_POINTS, 0.4 * len(usable)):
        return None, keep
    return (transform, keep) if 0.4 < np.hypot(*transform[:, 0]) < 2.5 else (None, keep)


def _moved_box(box: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """An upright box under a similarity: its middle moves, its sides are scaled."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    middle = transform[:, :2] @ (middle - 0.5) + transform[:, 2] + 0.5  # edges are centres + 0.5
    half = half * np.hypot(*transform[:, 0])
    return np.concatenate((middle - half, middle + half))


def _blend(old: np.ndarray, new: np.ndarray, dt_s: float) -> np.ndarray:
    return old + (1.0 - np.exp(-dt_s / RATE_S)) * (new - old)
