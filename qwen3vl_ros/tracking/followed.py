"""One box on its way from the picture in which it was given. Knows its points, its depth and its own motion; nothing of others.

With depth its points are points in space, and the median of their ways is the thing's; without, the similarity that most of them
agree on moves the box. Both lead from the picture in which the box was given, so that errors of single steps do not add up.
"""

from __future__ import annotations

import numpy as np

from qwen3vl_ros.tracking.flow import MIN_POINTS, common_way, moved_box, similarity
from qwen3vl_ros.tracking.glimpse import Front, Glimpse, corners, outline_near

DEPTH_GATE_M = 0.03  # depth changes by less from picture to picture, beyond what the camera's own motion explains
DEPTH_GATE_SHARE = 0.02  # and this share of it: sensors get worse with distance
RATE_S = 0.08  # a thing's own motion is averaged over about this
COAST_S = 2.0  # what is out of sight slows down: nobody knows better
STILL_M_S = 0.02  # slower than this and it is taken to stand still when it is out of sight
HARDLY_COVERED = 0.1  # share of the box behind something nearer
FIT = 0.12  # of its size: the outline that depth shows differs by less from the one expected


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
        outline = self.outline_in(glimpse, 0.1, 2 * FIT) if self.front.mask is not None else None
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

    @property
    def size_m(self) -> float:
        """The larger side of the box at the distance of what is seen in it; NaN without depth."""
        if not self.front.known:
            return float("nan")
        z = self.key.depth_of_m(self.front.centre_m)
        return float((self.key_box[2:] - self.key_box[:2]).max() * z / self.key.K[0, 0])

    def farther_m(self, now: Glimpse) -> float:
        """By how much it is deeper in this picture than in the key, along the optical axes; metres."""
        return now.depth_of_m(self.centre_m) - self.key.depth_of_m(self.front.centre_m)

    def outline_in(self, now: Glimpse, search: float, tolerance: float, whole: bool = False) -> np.ndarray | None:
        """Where its outline is by depth, see `glimpse.outline_near`."""
        farther_m = self.farther_m(now)
        depths_m = self.front.near_m + farther_m - DEPTH_GATE_M, self.front.far_m + farther_m + DEPTH_GATE_M
        return outline_near(now, self.box - self.margin, depths_m, self.front.behind, search, tolerance, whole)

    def correct(self, off: np.ndarray) -> None:
        """The box was off by this much: xyxy, small pixels."""
        self.key_box, self.box = self.key_box + off, self.box + off

    def believe(self, box: np.ndarray, share: float) -> None:
        """It was given with an error, and so was another box of it in the same picture, which has this share of the truth."""
        off = share * (box - self.box)
        self.correct(off)
        if self.margin is not None:
            self.margin = self.margin + off

    def settle_in_space(self, moved: np.ndarray, points_m: np.ndarray, good: np.ndarray, dt_s: float) -> bool:
        """Take where the flow led its points: Nx2 small pixels, Nx3 metres, which to trust. Whether enough of them agree."""
        way_m, keep = common_way(points_m - self.key_m, good)
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
            transform, keep = similarity(pixels, moved, good)
            if transform is not None:
                break
        else:
            return False
        box = moved_box(box, transform)
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
            front_m = self.front.near_m + self.farther_m(now)
            inside = now.nearest_m[now.window(self.box)]
            hidden = inside < front_m - DEPTH_GATE_M - DEPTH_GATE_SHARE * front_m
            self.covered = float(np.count_nonzero(hidden) / max(hidden.size, 1))
        if self.following and self.quality < 0.5 and self.covered < HARDLY_COVERED:
            self.set_key(now, self.box)


def _blend(old: np.ndarray, new: np.ndarray, dt_s: float) -> np.ndarray:
    return old + (1.0 - np.exp(-dt_s / RATE_S)) * (new - old)
