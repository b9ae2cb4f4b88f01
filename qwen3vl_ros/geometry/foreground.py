"""Which pixels of a 2D box are the object: the coherent piece of surface that the box is about.

Depth readings in and around the box become patches whose neighbours touch in space; what lies on the support
is taken away first, and the patch that fills the box best around its centre wins. So neither the background
seen through the box nor an occluder that cuts its border is taken for the object. Knows nothing of shapes,
poses or grippers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from qwen3vl_ros.boxes import iou
from qwen3vl_ros.geometry.cloud import Plane, SceneCloud, pixels_between
from qwen3vl_ros.geometry.seams import claim, gaps, parted, worth_inside

_WINDOW_PIXELS = 16000
_MARGIN = 0.2
_MIN_MARGIN_PX = 4
_FRAGMENT_SHARE = 0.02
_HOLE, _HOLE_READ = 2.5, 0.3  # so many gaps wide a hole may be, so much surface in it, that still cuts one thing in two
_SHORT, _REACHED = 0.10, 0.08  # shares of a box's extent: a side that is missing, and one that is not
_GOES_ON = 12.0  # how much less a patch is worth that goes on outside the window, by the share of its border it crosses
_NEAR = 6.5  # so many gaps from the rest of a thing may lie what its box says to be part of it
_APART = 0.7  # of what was read between two pieces: so much of the support, and they are two things
_NEARER = 0.01  # of the distance: so much nearer is in front
_SURFACE = 8  # pixels that hang together; fewer are readings that a camera makes up at edges
_SMOOTHING = 5  # pixels across that are averaged
_QUIET_M = 0.0003  # noise that needs no smoothing
SMOOTHED = 0.4  # of the noise that is left in Window.smoothed
_MIN_BOX_SHARE = 0.02
_CROSS = np.array(((0, 1, 0), (1, 0, 1), (0, 1, 0)), np.uint8)
SAME = 0.7  # intersection over union of two boxes: more, and they are one thing under two names
_OWN_SHARE = 0.85  # of its pixels inside the box: less, and it is not the object alone


@dataclass(frozen=True, eq=False)
class Window:
    """The part of the cloud around a 2D box, cut out once for all that is asked about the box.

    points_m: hxwx3 organised points (NaN = no reading); rows, columns: their pixels in the image, step apart. inside: rows
    and columns of the window that the box covers. box_xyxy_px: the box, cut at the image's border. others_px: the boxes of other
    things that reach into it; not of the same thing under another name.
    """

    cloud: SceneCloud
    points_m: np.ndarray
    rows: slice
    columns: slice
    step: int
    inside: tuple[slice, slice]
    box_xyxy_px: tuple[float, float, float, float]
    others_px: tuple[tuple[float, float, float, float], ...] = ()

    @cached_property
    def depth_m(self) -> np.ndarray:
        """hxw: the points' depths by themselves."""
        return cv2.extractChannel(self.points_m, 2)

    @cached_property
    def valid(self) -> np.ndarray:
        """hxw bool: where there is a reading."""
        return np.isfinite(self.depth_m)

    @cached_property
    def jumps(self) -> tuple[np.ndarray, np.ndarray]:
        """hx(w-1) and (h-1)xw: logarithm of the ratio of neighbours' depths, along rows and along columns; NaN unknown."""
        log_z = np.log(self.depth_m)
        return np.abs(log_z[:, 1:] - log_z[:, :-1]), np.abs(log_z[1:] - log_z[:-1])

    @cached_property
    def centrality(self) -> np.ndarray:
        """Weight of each pixel of the box, 1 in its middle and falling to its border."""
        x0, y0, x1, y1 = self.box_xyxy_px
        u, v = (np.arange(s.start, s.stop, self.step) + 0.5 for s in (self.columns, self.rows))
        off_x, off_y = (u - (x0 + x1) / 2) / (x1 - x0), (v - (y0 + y1) / 2) / (y1 - y0)
        rows, columns = self.inside
        return np.exp(-6.0 * np.square(off_y[rows]))[:, None] * np.exp(-6.0 * np.square(off_x[columns]))

    @cached_property
    def worth_inside(self) -> np.ndarray:
        """hxw: see seams.worth_inside, of its own box."""
        return worth_inside(self, self.box_xyxy_px)

    def smoothed(self, mask: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
        """The points of a mask with the noise that the scene shows averaged away, not across jumps; points_m elsewhere.

        mask: hxw, of a part of the window that holds all of it and what is `around` it; hxwx3 of the same part.
        """
        points_m, z = self.points_m[part], self.depth_m[part]
        noise_m = self.cloud.noise_per_m2 * cv2.mean(z, mask.view(np.uint8))[0] ** 2
        if noise_m < _QUIET_M:
            return points_m
        smooth = cv2.bilateralFilter(np.where(mask, z, 0).astype(np.float32), _SMOOTHING, 3 * noise_m, 2.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(mask & (np.abs(smooth - z) < 4 * noise_m), smooth / z, 1.0)
        return cv2.multiply(points_m, cv2.merge((share.astype(np.float32),) * 3))

    def extents_px(self, mask: np.ndarray) -> tuple[int, int, int, int]:
        """The bounds x0, y0, x1, y1 in the image of a mask (hxw) of the window."""
        column, row, width, height = cv2.boundingRect(mask.view(np.uint8))
        left, top = column * self.step + self.columns.start, row * self.step + self.rows.start
        return left, top, left + width * self.step, top + height * self.step

    def rays(self, part: tuple[slice, slice], pixels: np.ndarray) -> np.ndarray:
        """Where N pixels look, given by flat indices into a part of the window: Nx3 with z 1."""
        rows, columns = (
            np.arange(of.start, of.stop, self.step)[cut] for of, cut in zip((self.rows, self.columns), part)
        )
        row, column = np.divmod(pixels, len(columns))
        return self.cloud.directions[rows[row], columns[column]]

    def pixels_between(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """The rows and columns of the window whose pixel centres lie between these image coordinates."""
        return pixels_between(self.rows, y0, y1), pixels_between(self.columns, x0, x1)


def window_of(cloud: SceneCloud, box_xyxy_px, others_px=()) -> Window | str:
    """The window around a 2D box, or why there is nothing to see in it. others_px: the boxes of other things."""
    height, width = cloud.frame.depth_m.shape
    x0, y0, x1, y1 = box_xyxy_px
    x0, x1 = min(max(x0, 0), width), min(max(x1, 0), width)
    y0, y1 = min(max(y0, 0), height), min(max(y1, 0), height)
    if not (x1 - x0 >= 1 and y1 - y0 >= 1):
        return f"the box covers no pixel of the {width}x{height} image"
    margin_x, margin_y = (max(_MIN_MARGIN_PX, _MARGIN * side) for side in (x1 - x0, y1 - y0))
    left, right = int(max(0, x0 - margin_x)), int(min(width, math.ceil(x1 + margin_x)))
    top, bottom = int(max(0, y0 - margin_y)), int(min(height, math.ceil(y1 + margin_y)))
    step = max(1, math.ceil(math.sqrt((right - left) * (bottom - top) / _WINDOW_PIXELS)))
    rows, columns = slice(top, bottom, step), slice(left, right, step)
    inside = pixels_between(rows, y0, y1), pixels_between(columns, x0, x1)
    others = (tuple(min(max(at, 0), end) for at, end in zip(o, (width, height) * 2)) for o in others_px)
    others = (o for o in others if left < o[2] > o[0] < right and top < o[3] > o[1] < bottom)
    others = tuple(tuple(map(float, o)) for o in others if iou(o, box_xyxy_px) < SAME)
    window = Window(cloud, cloud.window_points_m(rows, columns), rows, columns, step, inside, (x0, y0, x1, y1), others)
    readings = np.count_nonzero(window.valid[inside]) * step**2
    if readings < cloud.config.min_points:
        whole = window.valid[inside].size * step**2
        return (
            f"no depth in the box: {readings} of {whole} pixels have a reading between "
            f"{cloud.config.min_depth:g} and {cloud.config.max_depth:g} m, {cloud.config.min_points} are needed"
        )
    return window


@dataclass(frozen=True, eq=False)
class Foreground:
    """The object's pixels in its window and what else that holds.

    mask: hxw, the object. standing: hxw, above the support (all readings when there is none). cut: the object's surface
    goes on outside the box, so the box is where it ends. height_m: hxw over the support, None when there is none.
    """

    window: Window
    mask: np.ndarray
    standing: np.ndarray
    cut: bool
    height_m: np.ndarray | None = None

    @cached_property
    def points_m(self) -> np.ndarray:
        """Nx3, the object's points in the order of its pixels."""
        return chosen(self.window.points_m, self.mask)


def foreground(window: Window, plane: Plane | None) -> Foreground | str:
    """The object in the box, or the reason why there is none. plane: what it stands on, if that is known."""
    config, points, step, inside = window.cloud.config, window.points_m, window.step, window.inside
    standing, needed, height_m = window.valid, config.min_points, None
    if plane is not None:
        height_m = plane.height_m(points)
        with np.errstate(invalid="ignore"):
            standing = height_m > plane.tolerance_at(window.depth_m)  # False for NaN
        above = np.count_nonzero(standing[inside]) * step**2
        if above < needed:
            return (
                "nothing in the box stands out from the support plane: "
                f"{above} of {np.count_nonzero(window.valid[inside]) * step**2} readings are more than "
                f"{1e3 * plane.tolerance_m:.1f} mm above it, "
                f"{needed} are needed"
            )
    pitch = step / float(min(window.cloud.frame.K[0, 0], window.cloud.frame.K[1, 1]))
    for tightness in (1.0, 0.5, 0.25):
        patches, count = touching_patches(window, standing, max(tightness * config.cluster_gap, 3.0 * pitch))
        mask, share_inside = _patch_of_the_box(window, patches, count)
        if share_inside > _OWN_SHARE:
            break
    if share_inside <= _OWN_SHARE or window.others_px:
        up = window.cloud.up if plane is None else plane.normal
        mask = parted(window, mask, up)
        share_inside = np.count_nonzero(mask[inside]) / max(1, np.count_nonzero(mask))
    if share_inside <= _OWN_SHARE:  # it still runs far out of the box: the box knows better where it ends
        mask = within(mask, inside)
    x0, y0, x1, y1 = window.box_xyxy_px
    margin_x, margin_y = (max(_MIN_MARGIN_PX, _MARGIN * side) / 2 for side in (x1 - x0, y1 - y0))
    mask = within(mask, window.pixels_between(x0 - margin_x, y0 - margin_y, x1 + margin_x, y1 + margin_y))
    found, whole = np.count_nonzero(mask) * step**2, mask[inside].size * step**2
    if found < max(needed, _MIN_BOX_SHARE * whole):
        return (
            f"too few points on the object: {found} of the box's {whole} pixels hang together, "
            f"{max(needed, math.ceil(_MIN_BOX_SHARE * whole))} are needed (lift.min_points, 2 % of the box)"
        )
    return Foreground(window, mask, standing, share_inside <= _OWN_SHARE, height_m)


def touching_patches(window: Window, mask: np.ndarray, reach: float) -> tuple[np.ndarray, int]:
    """Label the pixels of `mask` (hxw) so that neighbours whose depths differ by less than reach, as a share of the nearer
    one's, have the same label. Returns labels (hxw int32, 0 outside the mask) and their number.
    """
    column, row, w, h = cv2.boundingRect(mask.view(np.uint8))
    patches = np.zeros(mask.shape, np.int32)
    if not w:
        return patches, 1
    part, mask = np.s_[row : row + h, column : column + w], mask[row : row + h, column : column + w]
    across, down = window.jumps
    across, down = across[row : row + h, column : column + w - 1], down[row : row + h - 1, column : column + w]
    largest = np.float32(math.log1p(reach))
    beside, below = mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]
    with np.errstate(invalid="ignore"):
        touch_beside, touch_below = beside & (across < largest), below & (down < largest)
    if all(np.count_nonzero(a) == np.count_nonzero(b) for a, b in ((beside, touch_beside), (below, touch_below))):
        count, patches[part] = cv2.connectedComponents(mask.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
        return patches, count
    # Pixels at even places, the links between them at odd ones: components of this picture are those of the graph.
    graph = np.zeros((2 * h - 1, 2 * w - 1), np.uint8)
    graph[::2, ::2], graph[::2, 1::2], graph[1::2, ::2] = mask, touch_beside, touch_below
    count, labels = cv2.connectedComponents(graph, connectivity=4, ltype=cv2.CV_32S)
    patches[part] = labels[::2, ::2]
    return patches, count


def _patch_of_the_box(window: Window, patches: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Mask of the patch that the box is about, with the fragments of the same object that something cut off.

    And the share of the patch that lies in the box: much less than 1 when it has grown into something else.
    """
    labels = patches.astype(np.intp)  # as bincount takes them
    sizes = np.bincount(labels.ravel(), minlength=count)
    in_box = labels[window.inside].ravel()
    inside = np.bincount(in_box, minlength=count)
    central = np.bincount(in_box, window.centrality.ravel(), minlength=count)
    share_inside = inside / np.maximum(sizes, 1)
    ring = np.concatenate([patches[side] for side in _open_sides(window)] or [np.zeros(1, patches.dtype)])
    goes_on = np.bincount(ring, minlength=count) / max(1, sum(patches.shape))  # farther than the window shows
    worth = central * np.square(share_inside) / (1 + _GOES_ON * goes_on)
    worth[0] = 0.0
    best = int(worth.argmax())
    mask = patches == best
    large = (inside >= max(float(_SURFACE), _FRAGMENT_SHARE * inside[best])) & (share_inside > _OWN_SHARE)
    large[[0, best]] = False
    if large.any():
        hangs_together = sizes >= _SURFACE
        hangs_together[0] = True  # the support
        surface, own, rest = window.valid & hangs_together[patches], _rim(mask), mask | large[patches]
        for k in sorted(np.flatnonzero(large), key=lambda k: -sizes[k]):
            piece = patches == k
            its = _rim(piece)
            if _one_thing(window, own, its, surface) or _completes(window, mask, piece, rest, own, its, patches == 0):
                mask = mask | piece
                own = _rim(mask)
    return mask, float(share_inside[best])


def _open_sides(window: Window) -> list:
    """Indices of the first and last rows and columns of a window beyond which the image goes on."""
    height, width = window.cloud.frame.depth_m.shape
    (top, bottom), (left, right) = ((of.start, of.stop) for of in (window.rows, window.columns))
    sides = (top > 0, np.s_[0]), (bottom < height, np.s_[-1]), (left > 0, np.s_[:, 0]), (right < width, np.s_[:, -1])
    return [at for is_open, at in sides if is_open]


def _completes(window: Window, mask, piece, rest, own: np.ndarray, its: np.ndarray, support: np.ndarray) -> bool:
    """Whether a piece is the rest of a thing because the box says so: it reaches a side of the box that the mask does not, itself or on the
    way there with the rest of the pieces, as a handle with a hole in it, no other box claims it, and it is near, as a pan's handle beyond the rim, or only what is nearer is seen between, which cuts the thing in two.
    own, its: flat indices of their rims. support: hxw, what things stand on; where it is seen between, they are two.
    """
    before, after = gaps(window, mask), gaps(window, mask | piece)
    short = (before > _SHORT) & (after < before / 2)
    if not (short & (after < _REACHED)).any() and not (short & (gaps(window, rest) < _REACHED)).any():
        return False
    if any(claim(window, other)[piece].mean() < 0 for other in window.others_px):
        return False
    body, other = (np.take(window.points_m.reshape(-1, 3), at, 0) for at in (own, its))
    apart = np.square(other).sum(1)[:, None] + np.square(body).sum(1) - 2 * other @ body.T
    a, b = np.unravel_index(int(apart.argmin()), apart.shape)
    between = _between(its[a], own[b], mask.shape[1])
    if not len(between[0]):
        return False
    reach = _NEAR * window.cloud.config.cluster_gap * float(np.median(other[:, 2]))
    if apart[a, b] < reach**2 and float((support & window.valid)[between].mean()) < _APART:
        return True
    z = window.depth_m[between]
    expected = np.linspace(other[a, 2], body[b, 2], len(z) + 2)[1:-1]
    with np.errstate(invalid="ignore"):
        nearer = z < expected * (1 - _NEARER)
    return float((nearer | np.isnan(z)).mean()) > 1 - _HOLE_READ and float(nearer.mean()) > 0.5


def _one_thing(window: Window, own: np.ndarray, its: np.ndarray, surface: np.ndarray) -> bool:
    """Whether two pieces of surface, given by the flat indices of their rims, belong together: they touch in space, or go on at the
    same depth beyond a hole, as the two walls of a bowl do at the ends of its rim. surface: hxw, where something was seen.
    """
    gap, points = window.cloud.config.cluster_gap, window.points_m.reshape(-1, 3)
    body, other = np.take(points, own, 0), np.take(points, its, 0)
    apart = np.square(other).sum(1)[:, None] + np.square(body).sum(1) - 2 * other @ body.T
    reach = gap * float(np.median(other[:, 2]))
    if apart.min() < reach**2:
        return True
    jump = np.abs(np.log(other[:, 2])[:, None] - np.log(body[:, 2]))
    a, b = np.unravel_index(int(np.where(jump < gap, apart, np.inf).argmin()), apart.shape)
    return bool(jump[a, b] < gap and apart[a, b] < (_HOLE * reach) ** 2) and _hole_between(surface, its[a], own[b])


def _hole_between(surface: np.ndarray, a: int, b: int) -> bool:
    """Whether nearly no surface was seen between two pixels (flat indices): a hole in one surface, and not a gap."""
    between = _between(a, b, surface.shape[1])
    return len(between[0]) > 0 and float(surface[between].mean()) < _HOLE_READ


def _between(a: int, b: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels between two flat indices."""
    (row_a, column_a), (row_b, column_b) = (divmod(int(k), width) for k in (a, b))
    steps = np.linspace(0, 1, max(abs(row_a - row_b), abs(column_a - column_b)) + 1)[1:-1]
    rows, columns = np.rint(row_a + steps * (row_b - row_a)), np.rint(column_a + steps * (column_b - column_a))
    return rows.astype(int), columns.astype(int)


def _rim(mask: np.ndarray) -> np.ndarray:
    """Flat indices of pixels on the border of a mask, at most about 300."""
    inner = cv2.erode(mask.view(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    rim = np.flatnonzero(mask & (inner == 0))
    return rim[:: max(1, len(rim) // 300)]


def within(mask: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
    """The mask without what lies outside some of its rows and columns."""
    kept = np.zeros_like(mask)
    kept[part] = mask[part]
    return kept


def chosen(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """values[mask] of hxwxk values, Nxk; NumPy's own way takes ten times as long."""
    return values.reshape(-1, values.shape[-1]).take(mask.ravel().nonzero()[0], 0)


def moved(points_m: np.ndarray, new_T_old: np.ndarray) -> np.ndarray:
    """Points Nx3 in another frame; new_T_old: 4x4, or a 3x3 rotation for directions."""
    return cv2.transform(points_m[:, None], new_T_old[:3])[:, 0]


def inverse_of(a_T_b: np.ndarray) -> np.ndarray:
    """The 4x4 pose the other way round; NumPy's own inverse is of any matrix, and takes three times as long."""
    inverse = np.eye(4)
    inverse[:3, :3] = a_T_b[:3, :3].T
    inverse[:3, 3] = -a_T_b[:3, 3] @ a_T_b[:3, :3]
    return inverse


def around(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns that a mask reaches over, and as many beside them as smoothing looks at."""
    column, row, width, height = cv2.boundingRect(mask.view(np.uint8))
    reach = _SMOOTHING // 2
    return slice(max(0, row - reach), row + height + reach), slice(max(0, column - reach), column + width + reach)


def without_flying(mask: np.ndarray) -> np.ndarray:
    """The mask without pixels that have fewer than two neighbours in it: readings between two surfaces."""
    own, neighbours = mask.view(np.uint8), np.zeros(mask.shape, np.uint8)
    neighbours[1:] += own[:-1]
    neighbours[:-1] += own[1:]
    neighbours[:, 1:] += own[:, :-1]
    neighbours[:, :-1] += own[:, 1:]
    kept = mask & (neighbours >= 2)
    return kept if np.count_nonzero(kept) * 2 > np.count_nonzero(mask) else mask


def surface_normals(points_m: np.ndarray, mask: np.ndarray, pixels: np.ndarray, noise_m: float = 0.0) -> np.ndarray:
    """Unit normals towards the camera, Nx3, of organised points hxwx3 in `mask` (hxw); NaN where they cannot be told.

    pixels: N flat indices of the pixels that are asked for. noise_m: standard deviation of the depth; the more of it, the
    wider the neighbourhood.
    """
    side = math.sqrt(max(np.count_nonzero(mask), 1))
    share = 0.03 + min(0.02, 20.0 * max(0.0, noise_m - 0.0005))
    reach, kernel = min(max(round(share * side), 1), 5), (5, 5) if noise_m > 0.0002 else (3, 3)
    shown = mask.view(np.uint8)
    filled = cv2.copyTo(cv2.merge((points_m, shown.astype(np.float32))), shown)
    filled, shown = (cv2.copyMakeBorder(of, *(reach,) * 4, cv2.BORDER_CONSTANT) for of in (filled, shown))
    sums = cv2.boxFilter(filled, -1, kernel, normalize=False, borderType=cv2.BORDER_CONSTANT)
    width = shown.shape[1]
    here = pixels + pixels // mask.shape[1] * (2 * reach) + reach * (width + 1)
    at = here + np.array(((0,), (reach,), (-reach,), (reach * width,), (-reach * width,)))
    at = np.where(shown.ravel().take(at) > 0, at, here)  # the middle where an end is not the object's
    gathered = np.ascontiguousarray(
        sums.reshape(-1, 4).take(at, 0).transpose(2, 0, 1)
    )  # NumPy is slow along axes of three
    _, right, left, below, above = (gathered[:3] / gathered[3]).swapaxes(0, 1)
    (ax, ay, az), (bx, by, bz) = below - above, right - left  # y then x: out of the surface, towards the camera
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    length, normal = np.sqrt(x * x + y * y + z * z), np.empty((len(x), 3), np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        for k, of in enumerate((x, y, z)):
            np.divide(of, length, out=normal[:, k])
    return normal
