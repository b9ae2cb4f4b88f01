"""Where a box went from one picture to the next: sparse optical flow. Knows pixels and depth; nothing of ids, labels, answers.

Corners in the box, followed there and back by pyramidal Lucas-Kanade, and the similarity that most of them agree on
(forward-backward error: Kalal, Mikolajczyk, Matas, ICPR 2010). The similarity leads from the picture in which the box was given,
so that errors of single steps do not add up. Depth, where there is any, drops points that slid onto something nearer or farther.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.types import Frame

WIDTH_PX = 320  # of the small pictures
GRID = 5  # cells a side of a box; the best pixel of each is followed
MIN_TEXTURE = 4e-5  # of a pixel worth following: an edge of 5 grey levels
MIN_POINTS = 4  # fewer agreeing ones and the box is not followed
MAX_RETURN_PX = 1.0  # forward-backward error, small pixels
MAX_RESIDUAL_PX = 1.5
DEPTH_GATE_M = (
    0.03  # a point's depth changes by less from one picture to the next, beyond what the camera's own motion explains
)
DEPTH_GATE_SHARE = 0.02  # and this share of its depth: sensors get worse with distance
SIDE_POINTS = 8  # of what stands in a box, for each of its sides
FRONT_POINTS = 60  # of what stands in a box, kept to see how the box changes with the view
SAME_SHIFT_M = 0.012  # points of one thing went the same way, within this
STILL_M_S = 0.02  # slower than this and it is taken to stand still when it is out of sight
RATE_S = 0.08  # its own motion is averaged over about this
COAST_S = 1.0  # what is out of sight slows down: nobody knows better
REGAIN_M = 0.05  # what was lost is found again this near to where it should be
COVERED = 0.5  # share of the box behind something nearer, from which on it is occluded
_LK = dict(winSize=(17, 17), maxLevel=3, criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 0.03))


@dataclass(frozen=True, eq=False)
class Glimpse:
    """A small copy of a frame: all that is kept of it.

    grey: hxw uint8. depth_m: hxw float32, 0 = no reading, None without depth. K: 3x3 of the small picture, None if unknown.
    frame_T_camera: 4x4, identity where `frame_id` is the camera's own. scale: whole pixels per small pixel (x, y).
    """

    stamp_ns: int
    grey: np.ndarray
    scale: np.ndarray
    frame_id: str = ""
    frame_T_camera: np.ndarray | None = None
    depth_m: np.ndarray | None = None
    K: np.ndarray | None = None

    @classmethod
    def of(cls, frame: Frame) -> Glimpse:
        """The glimpse of a frame; its depth is left out where it does not fit the picture."""
        width, height = frame.size_px
        small = (width, height) if width <= WIDTH_PX else (WIDTH_PX, max(1, round(WIDTH_PX * height / width)))
        grey = cv2.cvtColor(cv2.resize(frame.rgb, small, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        scale = np.array((width / small[0], height / small[1]))
        depth_m = K = None
        if frame.K is not None:
            K = np.array(frame.K, float)
            K[:2, 2] += 0.5  # pixel centres become edges, scaled, and back
            K[:2] /= scale[:, None]
            K[:2, 2] -= 0.5
            if frame.depth_m is not None and frame.depth_m.shape == (height, width):
                depth_m = cv2.resize(np.asarray(frame.depth_m, np.float32), small, interpolation=cv2.INTER_NEAREST)
                cv2.patchNaNs(depth_m, 0.0)
        known = frame.target_T_camera is not None
        pose = np.asarray(frame.target_T_camera, float) if known else np.eye(4)
        return cls(frame.stamp_ns, grey, scale, frame.target_frame if known else frame.frame_id, pose, depth_m, K)

    @cached_property
    def nearest_m(self) -> np.ndarray | None:
        """hxw: the nearest reading around each pixel, inf without one: a point on an outline belongs to what is in front."""
        if self.depth_m is None:
            return None
        return cv2.erode(np.where(self.depth_m > 0.0, self.depth_m, np.float32(np.inf)), np.ones((3, 3), np.uint8))

    @cached_property
    def texture(self) -> np.ndarray:
        """hxw: how well a pixel can be followed: best corners, then edges."""
        corner = cv2.cornerMinEigenVal(self.grey, 5)
        gx, gy = cv2.Sobel(self.grey, cv2.CV_32F, 1, 0), cv2.Sobel(self.grey, cv2.CV_32F, 0, 1)
        return corner + 1e-6 * cv2.magnitude(gx, gy)

    @cached_property
    def brightness(self) -> tuple[float, float]:
        """Mean and standard deviation of the greys."""
        mean, deviation = cv2.meanStdDev(self.grey)
        return float(mean[0, 0]), max(float(deviation[0, 0]), 1.0)

    @cached_property
    def thumbnail(self) -> np.ndarray:
        return cv2.resize(self.grey, (32, 24), interpolation=cv2.INTER_AREA)

    def points_m(self, pixels: np.ndarray) -> np.ndarray:
        """Nx3 in `frame_id` of small pixels Nx2; NaN without depth."""
        if self.nearest_m is None:
            return np.full((len(pixels), 3), np.nan)
        z = self._at(pixels)
        local = np.empty((len(pixels), 3))
        local[:, :2] = (pixels - self.K[:2, 2]) / self.K[(0, 1), (0, 1)] * z[:, None]
        local[:, 2] = z
        return local @ self.frame_T_camera[:3, :3].T + self.frame_T_camera[:3, 3]

    def _at(self, pixels: np.ndarray) -> np.ndarray:
        height, width = self.grey.shape
        column, row = np.rint(pixels).astype(np.intp).T
        z = self.nearest_m[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)].astype(float)
        z[~np.isfinite(z)] = np.nan
        return z

    def project_px(self, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nx2 small pixels and N depths in metres of Nx3 points in `frame_id`; NaN behind the camera."""
        local = (points_m - self.frame_T_camera[:3, 3]) @ self.frame_T_camera[:3, :3]
        z = np.where(local[:, 2] > 1e-3, local[:, 2], np.nan)
        return local[:, :2] / z[:, None] * self.K[(0, 1), (0, 1)] + self.K[:2, 2], z


def same_view(before: Glimpse, now: Glimpse) -> float:
    """How alike two pictures are, -1..1, whatever their brightness and a shift of up to an eighth: low across a cut."""
    height, width = before.thumbnail.shape
    middle = before.thumbnail[height // 8 : -height // 8, width // 8 : -width // 8]
    return float(cv2.matchTemplate(now.thumbnail, middle, cv2.TM_CCOEFF_NORMED).max())


class Followed:
    """One box, from the picture in which it was given (the key) to the newest one that `advance` was given.

    box: xyxy, small pixels (edges). following: whether points carry it now; else it is moved by what is known of the camera's
    motion and its own. covered: share of the box behind something nearer, 0..1. quality: share of the points that still agree.
    moved_m: how far it went since it was given, 3 metres in `frame_id`; NaN without depth. rate_m_s, rate_px_s: its own motion,
    3 metres and 2 small pixels a second, beside what the camera's motion explains.
    """

    def __init__(self, glimpse: Glimpse, box):
        self.frame_id, self.covered, self.moved_m = glimpse.frame_id, 0.0, np.zeros(3)
        self.rate_px_s, self.rate_m_s = np.zeros(2), np.zeros(3)
        self.set_key(glimpse, np.asarray(box, float))

    def set_key(self, glimpse: Glimpse, box: np.ndarray) -> None:
        """From now on the box is followed from here; how far it has moved is kept."""
        self.key, self.key_box, self.box = glimpse, box, box
        front = Front.of(glimpse, box)
        self.key_pixels = self.pixels = corners(glimpse, box, front.mask)
        self.key_m = self.points_m = glimpse.points_m(self.pixels)
        self.front_m, self.sides_m, self.sides_px = front.points_m, front.sides_m, front.sides_px
        self.moved_at_key_m = self.moved_m
        self.quality, self.following = 1.0, len(self.pixels) >= MIN_POINTS
        self._picked = max(len(self.pixels), 1)

    def in_space(self, now: Glimpse) -> bool:
        """Whether depth can carry it to this picture."""
        return len(self.front_m) > 0 and now.nearest_m is not None and now.frame_id == self.frame_id

    @property
    def since_key_m(self) -> np.ndarray:
        return self.moved_m - self.moved_at_key_m

    @property
    def centre_m(self) -> np.ndarray:
        """Middle of the seen surface now, 3 metres in `frame_id`; NaN without depth."""
        return _median(self.front_m) + self.since_key_m

    def settle(self, before: Glimpse, now: Glimpse, moved: np.ndarray, good: np.ndarray) -> bool:
        """Take what the flow found: `moved` pixels Nx2 of our points, which of them came back. Whether it is still followed."""
        dt_s = max((now.stamp_ns - before.stamp_ns) / 1e9, 1e-3)
        fresh = 1.0 - np.exp(-dt_s / RATE_S)
        if self.in_space(now):
            points_m = now.points_m(moved)
            shift_m, keep = _common_shift(points_m - self.key_m, good & _same_depth(self.points_m, points_m, now), now)
            if shift_m is None:
                return False
            moved_m = self.moved_at_key_m + shift_m
            if self.covered < 0.1:  # points at the edge of what comes before it are dragged along
                self.rate_m_s = self.rate_m_s + fresh * ((moved_m - self.moved_m) / dt_s - self.rate_m_s)
            self.moved_m, self.key_m, self.points_m = moved_m, self.key_m[keep], points_m[keep]
            box = self.box_in_space(now)
        else:
            box, keep = _moved_together(self, moved, good)
            if box is None:
                return False
            rate = (box - self.box).reshape(2, 2).mean(0) / dt_s
            self.rate_px_s = self.rate_px_s + fresh * (rate - self.rate_px_s)
            self.key_m, self.points_m = self.key_m[keep], self.points_m[keep]
        self.key_pixels, self.pixels = self.key_pixels[keep], moved[keep]
        self.box, self.following, self.quality = box, True, len(keep) / self._picked
        self.covered = covered(self, now)
        if self.quality < 0.5 and self.covered < 0.1:
            self.set_key(now, box)
        return True

    def box_in_space(self, now: Glimpse) -> np.ndarray:
        """The box that what was seen of the thing has in this picture, after it moved as a whole."""
        pixels, _ = now.project_px(self.sides_m.reshape(-1, 3) + self.since_key_m)
        shifts = np.median(pixels.reshape(4, -1, 2) - self.sides_px, axis=1)
        box = self.key_box + shifts[(0, 1, 2, 3), (0, 1, 0, 1)]
        return box if np.isfinite(box).all() else self.box

    def correct(self, off: np.ndarray) -> None:
        """The box was off by this much: xyxy, small pixels."""
        self.key_box, self.box = self.key_box + off, self.box + off

    def coast(self, before: Glimpse, now: Glimpse) -> None:
        """No point carries it: it goes on as it went."""
        dt_s = (now.stamp_ns - before.stamp_ns) / 1e9
        if self.in_space(now):
            if np.linalg.norm(self.rate_m_s) > STILL_M_S:
                self.moved_m = self.moved_m + self.rate_m_s * dt_s
            self.box = self.box_in_space(now)
        else:
            self.box = self.box + np.tile(self.rate_px_s * dt_s, 2)
        self.rate_m_s, self.rate_px_s = (rate * np.exp(-dt_s / COAST_S) for rate in (self.rate_m_s, self.rate_px_s))
        self.following, self.quality = False, 0.0
        self.covered = covered(self, now)

    def foresee_px(self, before: Glimpse, now: Glimpse) -> np.ndarray:
        """Nx2: where its points should be in the next picture."""
        dt_s = (now.stamp_ns - before.stamp_ns) / 1e9
        if not self.in_space(now):
            return self.pixels + self.rate_px_s * dt_s
        there, here = now.project_px(self.points_m + self.rate_m_s * dt_s)[0], before.project_px(self.points_m)[0]
        return self.pixels + np.nan_to_num(there - here)


def advance(followed: Sequence[Followed], before: Glimpse, now: Glimpse) -> None:
    """Bring all boxes from one picture to a later one. What lost its points is looked for where it should be."""
    live = [f for f in followed if f.following]
    lost = [f for f in followed if not f.following]
    if live:
        starts = [f.pixels for f in live]
        guesses = [f.foresee_px(before, now) for f in live]
        moved, good = _flow(before, now, np.concatenate(starts), np.concatenate(guesses))
        ends = np.cumsum([len(p) for p in starts])[:-1]
        for f, m, g in zip(live, np.split(moved, ends), np.split(good, ends)):
            if not f.settle(before, now, m, g):
                f.coast(before, now)
    for f in lost:
        f.coast(before, now)
        if f.covered < COVERED and not _look_for(f, now) and f.covered < 0.1 and f.in_space(now):
            _look_for_something_there(f, now)


def _look_for(f: Followed, now: Glimpse) -> bool:
    """Find the box again by what it looked like when it was given; whether that was possible."""
    starts = corners(f.key, f.key_box, Front.of(f.key, f.key_box).mask)
    if len(starts) < MIN_POINTS or now.frame_id != f.frame_id:
        return False
    key_m = f.key.points_m(starts)
    guesses = starts + (f.box - f.key_box).reshape(2, 2).mean(0)
    if f.in_space(now):
        guesses = np.where(np.isfinite(key_m[:, 2:]), now.project_px(key_m + f.since_key_m)[0], guesses)
    moved, good = _flow(f.key, now, starts, guesses)
    points_m = now.points_m(moved)
    if f.in_space(now):
        shift_m, keep = _common_shift(points_m - key_m, good, now)
        if shift_m is None or len(keep) < 0.4 * len(starts) or np.linalg.norm(shift_m - f.since_key_m) > REGAIN_M:
            return False
        f.moved_m = f.moved_at_key_m + shift_m
        f.box = f.box_in_space(now)
    else:
        transform, keep = _similarity(starts, moved, good)
        if transform is None or len(keep) < 0.4 * len(starts):
            return False
        box = _moved_box(f.key_box, transform)
        if np.abs(box - f.box).reshape(2, 2).mean(0).max() > 0.5 * (f.box[2:] - f.box[:2]).max():
            return False
        f.box = box
    f.key_pixels, f.pixels, f.key_m, f.points_m = starts[keep], moved[keep], key_m[keep], points_m[keep]
    f.following, f.quality = True, len(keep) / len(starts)
    return True


def _look_for_something_there(f: Followed, now: Glimpse) -> None:
    """Take it for found where something of its size stands near where it should be, by depth."""
    offset = f.box - f.key_box
    expected = np.median(f.sides_px, axis=1)[(0, 1, 2, 3), (0, 1, 0, 1)] + offset
    size = expected[2:] - expected[:2]
    rows, columns = _window(now.grey.shape, f.box + np.concatenate((-0.7 * size, 0.7 * size)))
    z = now.project_px(f.front_m + f.since_key_m)[1]
    mask = _standing_out(now, rows, columns, (np.nanmin(z) - 0.01, np.nanmax(z) + 0.01))
    if mask is None:
        return
    count, _, stats, middles = cv2.connectedComponentsWithStats(mask)
    fits = np.abs(stats[1:, 2:4] + 0.0 - size).max(1) < 0.25 * size.max()
    if not fits.any():
        return
    apart = np.linalg.norm(middles[1:] + (columns.start, rows.start) - expected.reshape(2, 2).mean(0), axis=1)
    best = 1 + int(np.where(fits, apart, np.inf).argmin())
    x, y, w, h, _ = stats[best]
    off = np.array((x, y, x + w - 1, y + h - 1)) + np.tile((columns.start, rows.start), 2) - expected
    front = Front.of(now, f.box + off)
    step_m = _median(front.points_m) - f.centre_m if len(front.points_m) else np.full(3, np.nan)
    if np.linalg.norm(step_m) < REGAIN_M + 0.5 * np.linalg.norm(f.rate_m_s):
        f.moved_m = f.moved_m + step_m
        f.set_key(now, f.box + off)


@dataclass(frozen=True, eq=False)
class Front:
    """What stands in a box before the surface around it, by depth.

    mask: uint8 of the box's pixels, None where depth shows no such thing. points_m: up to FRONT_POINTS x 3 of it in the glimpse's
    frame. sides_m, sides_px: 4 x SIDE_POINTS x 3 and x 2, what of it is farthest left, up, right and down.
    """

    mask: np.ndarray | None = None
    points_m: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    sides_m: np.ndarray | None = None
    sides_px: np.ndarray | None = None

    @classmethod
    def of(cls, glimpse: Glimpse, box: np.ndarray) -> Front:
        if glimpse.nearest_m is None:
            return cls()
        rows, columns = _window(glimpse.grey.shape, box)
        mask = _standing_out(glimpse, rows, columns)
        v, u = np.nonzero(np.isfinite(glimpse.nearest_m[rows, columns]) if mask is None else mask)
        if len(v) < SIDE_POINTS:
            return cls(mask)
        pixels = np.column_stack((columns.start + u, rows.start + v)).astype(float)
        ends = np.argpartition(pixels, (SIDE_POINTS - 1, -SIDE_POINTS), axis=0)
        sides_px = pixels[np.stack((ends[:SIDE_POINTS], ends[-SIDE_POINTS:])).transpose(0, 2, 1).reshape(4, -1)]
        sides_m = glimpse.points_m(sides_px.reshape(-1, 2)).reshape(4, -1, 3)
        return cls(mask, glimpse.points_m(pixels[:: max(1, len(v) // FRONT_POINTS)]), sides_m, sides_px)

    @property
    def box(self) -> np.ndarray:
        """xyxy around it, small pixels."""
        return np.median(self.sides_px, axis=1)[(0, 1, 2, 3), (0, 1, 0, 1)]


def corners(glimpse: Glimpse, box: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Up to GRID * GRID small pixels (Nx2) worth following in a box, spread over what `mask` (of the box) leaves."""
    rows, columns = _window(glimpse.grey.shape, box)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    if min(h, w) < 3:
        return np.empty((0, 2))
    strength = glimpse.texture[rows, columns]
    if mask is not None:
        strength = strength * mask
    cells = min(GRID, h // 2, w // 2)
    down, across = -(-h // cells), -(-w // cells)  # a cell's size, rounded up
    padded = np.zeros((cells * down, cells * across), np.float32)
    padded[:h, :w] = strength
    flat = padded.reshape(cells, down, cells, across).swapaxes(1, 2).reshape(cells, cells, -1)
    best, peak = flat.argmax(-1), flat.max(-1)
    i, j = np.nonzero(peak > max(MIN_TEXTURE, 0.001 * peak.max()))
    y, x = np.divmod(best[i, j], across)
    return np.column_stack((columns.start + j * across + x, rows.start + i * down + y)).astype(float)


def _standing_out(
    glimpse: Glimpse, rows: slice, columns: slice, range_m: tuple[float, float] | None = None
) -> np.ndarray | None:
    """uint8 mask of the window's pixels in front of the surface around it; None where depth shows no such thing.

    The inverse depth of a plane is affine in the pixels: one is fitted to what surrounds the window.
    """
    height, width = glimpse.grey.shape
    h, w = rows.stop - rows.start, columns.stop - columns.start
    wide = slice(max(rows.start - h // 4 - 2, 0), min(rows.stop + h // 4 + 2, height))
    high = slice(max(columns.start - w // 4 - 2, 0), min(columns.stop + w // 4 + 2, width))
    near = glimpse.nearest_m[wide, high]
    inverse = np.where(np.isfinite(near), 1.0 / near, np.nan)
    inside = np.zeros(near.shape, bool)
    inside[rows.start - wide.start : rows.stop - wide.start, columns.start - high.start : columns.stop - high.start] = (
        True
    )
    v, u = np.nonzero(~inside & np.isfinite(inverse))
    if min(h, w) == 0 or len(v) < 20:
        return None
    step = max(1, len(v) // 200)
    plane, spread = _plane_of_most(u[::step], v[::step], inverse[v[::step], u[::step]])
    v, u = np.indices(inside.shape)
    off = inverse - (plane[0] * u + plane[1] * v + plane[2])
    with np.errstate(invalid="ignore"):
        out = (off > np.maximum(3 * spread, 0.008 * inverse**2))[inside].reshape(h, w)
    z = glimpse.nearest_m[rows, columns]
    if range_m is None:
        if out.mean() < 0.15:
            return None
        middle = float(np.median(z[out]))
        reach = max(0.03, 0.75 * max(h, w) * middle / glimpse.K[0, 0])
        range_m = middle - reach, middle + reach
    return (out & (z > range_m[0]) & (z < range_m[1])).view(np.uint8)


def _plane_of_most(u: np.ndarray, v: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients of u, v and 1 of the plane through most of the samples, and how far those lie from it, 1/m."""
    A = np.column_stack((u, v, np.ones(len(u))))
    triples = np.random.default_rng(0).integers(0, len(u), (40, 3))
    solvable = np.abs(np.linalg.det(A[triples])) > 1.0
    if not solvable.any():
        return np.array((0.0, 0.0, float(np.median(inverse)))), 1e-3
    planes = np.linalg.solve(A[triples[solvable]], inverse[triples[solvable]][..., None])[..., 0]
    off = np.abs(planes @ A.T - inverse)
    tolerance = 0.005 * np.median(inverse) ** 2
    best = off[(off < tolerance).sum(1).argmax()]
    near = best < 2 * tolerance
    plane, *_ = np.linalg.lstsq(A[near], inverse[near], rcond=None)
    return plane, 1.5 * float(np.median(np.abs(inverse[near] - A[near] @ plane)))


def _flow(before: Glimpse, now: Glimpse, starts: np.ndarray, guesses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels Nx2 of one picture are in another, and which of them lead back to where they came from."""
    later = _as_bright(now, before)
    p, g = starts.astype(np.float32), guesses.astype(np.float32)
    moved, there, _ = cv2.calcOpticalFlowPyrLK(before.grey, later, p, g, flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **_LK)
    back, here, _ = cv2.calcOpticalFlowPyrLK(
        later, before.grey, moved, p.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **_LK
    )
    good = (there[:, 0] == 1) & (here[:, 0] == 1) & (np.abs(back - p).max(1) < MAX_RETURN_PX)
    height, width = now.grey.shape
    good &= np.all((moved >= 0) & (moved < (width, height)), axis=1)
    return moved.astype(float), good


def _as_bright(now: Glimpse, before: Glimpse) -> np.ndarray:
    """The greys as they would be in the light and exposure of the picture before: flow assumes that they do not change."""
    (mean, deviation), (wanted, spread) = now.brightness, before.brightness
    gain = spread / deviation
    if abs(gain - 1.0) < 0.04 and abs(mean - wanted) < 4.0:
        return now.grey
    return cv2.convertScaleAbs(now.grey, alpha=gain, beta=wanted - gain * mean)


def _common_shift(shifts_m: np.ndarray, good: np.ndarray, now: Glimpse) -> tuple[np.ndarray | None, np.ndarray]:
    """Median of most points' shifts (3 metres) and the indices of the points that agree; None where too few do."""
    usable = np.flatnonzero(good & np.isfinite(shifts_m[:, 2]))
    if len(usable) < MIN_POINTS:
        return None, usable
    shifts_m = shifts_m[usable]
    off = np.linalg.norm(shifts_m - np.median(shifts_m, axis=0), axis=1)
    agree = off < max(SAME_SHIFT_M, 2.0 * float(np.median(off)))
    agree &= off < 3 * SAME_SHIFT_M
    if agree.sum() < max(MIN_POINTS, 0.4 * len(usable)):
        return None, usable
    return np.median(shifts_m[agree], axis=0), usable[agree]


def _moved_together(f: Followed, moved: np.ndarray, good: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The box that the points lead to, from the key or, where it looks too different by now, from the last picture."""
    for box, pixels in ((f.key_box, f.key_pixels), (f.box, f.pixels)):
        transform, keep = _similarity(pixels, moved, good)
        if transform is not None:
            return _moved_box(box, transform), keep
    return None, keep


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


def _same_depth(before_m: np.ndarray, now_m: np.ndarray, now: Glimpse) -> np.ndarray:
    """Which points (Nx3 in the target frame) did not jump to something nearer or farther; where depth is unknown, none did."""
    if now.K is None:
        return np.ones(len(now_m), bool)
    z = (now_m - now.frame_T_camera[:3, 3]) @ now.frame_T_camera[:3, 2]
    expected = (before_m - now.frame_T_camera[:3, 3]) @ now.frame_T_camera[:3, 2]
    with np.errstate(invalid="ignore"):
        return ~(np.abs(z - expected) > DEPTH_GATE_M + DEPTH_GATE_SHARE * z)


def covered(followed: Followed, now: Glimpse) -> float:
    """Share of the box that something nearer hides, 0 where depth is unknown."""
    if not followed.in_space(now):
        return 0.0
    z = now.project_px(followed.front_m + followed.since_key_m)[1]
    front = float(np.percentile(z, 5)) if np.isfinite(z).all() else 0.0
    inside = now.nearest_m[_window(now.grey.shape, followed.box)]
    return float((inside < front - DEPTH_GATE_M - DEPTH_GATE_SHARE * front).mean()) if inside.size else 0.0


def _window(shape, box: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of whole small pixels in a box, cut at the picture's border."""
    x0, y0, x1, y1 = np.rint(box).astype(int)
    height, width = shape
    return slice(min(max(y0, 0), height), min(max(y1, 0), height)), slice(
        min(max(x0, 0), width), min(max(x1, 0), width)
    )


def _median(points_m: np.ndarray) -> np.ndarray:
    known = points_m[np.isfinite(points_m[:, 2])]
    return np.median(known, axis=0) if len(known) else np.full(3, np.nan)
