"""Which pixels are an object and what carries it: the highest surface under it, and nothing of what it carries itself.

The table is a plane of the scene; other surfaces (the top of a box, a tray, a level of a shelf) are level patches around
an object's foot, and what is seen in the opening of another object stands inside that. Knows nothing of shapes or poses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.geometry.claims import each_once, settle_claims
from qwen3vl_ros.geometry.cloud import SceneCloud, pixels_between
from qwen3vl_ros.geometry.foreground import Foreground, Window, chosen, foreground, window_of
from qwen3vl_ros.geometry.hulls import depth_inside, near, outline, signed_area, without_strays
from qwen3vl_ros.geometry.opening import opening
from qwen3vl_ros.geometry.order_statistics import order_statistics
from qwen3vl_ros.geometry.planes import Plane
from qwen3vl_ros.geometry.shape import level_axes
from qwen3vl_ros.geometry.supports import LevelPatch, carries, level_patches

_TABLE_SHARE = 0.3
_PARALLEL = math.cos(math.radians(10.0))
FLOATS_ABOVE = 0.4  # of its height: a thing seen no lower than this may stand on another thing
_FLUSH_M = 0.006
_LEAST_LEAN = math.sin(math.radians(15.0))  # of the view against the vertical for a 2D box to show where a thing ends
_UNDER_SHARE = 0.6  # of what is seen of an object that lies under another for it to carry that one
_FLAT_SHARE = 0.5  # of the height of what sticks out of it: a thing so flat beside it
_NEAR_PX = 5.0
_STRAY_SHARE = 0.03  # of an object that may lie outside its 2D box: more is a part of what carries it
_FOOT_ROWS, _PAST_ROWS = 3, 3  # rows of pixels that are its lower end, and rows past that
_PAST_SHARE = 0.9
_SHARED_PX = 20  # pixels that two objects must share for one to be looked for over the other
_SEEN_SHARE, _HIDDEN_SHARE, _IN_FRONT = 0.25, 0.55, 0.02  # of a box; and of the distance
_NARROWER = 0.8  # of the other's outline that an object over it may fill


@dataclass(eq=False)
class Standing:
    """An object's pixels in its 2D box and what carries it; patch: what is seen of that around its foot, if it is no plane."""

    box_xyxy_px: tuple[float, float, float, float]
    found: Foreground
    plane: Plane | None
    patch: LevelPatch | None = None


def standing_objects(cloud: SceneCloud, boxes_px: Sequence[tuple[float, float, float, float]]) -> list[Standing | str]:
    """For each 2D box the object over the highest surface under it, or why there is none."""
    windows = [window_of(cloud, box, [o for j, o in enumerate(boxes_px) if j != k]) for k, box in enumerate(boxes_px)]
    results = [one if isinstance(one, str) else _standing(one, box) for one, box in zip(windows, boxes_px)]
    again: dict[int, Standing | str] = {}

    def found_in(k: int, window: Window) -> Foreground | str:
        again[k] = _standing(window, boxes_px[k])
        return again[k] if isinstance(again[k], str) else again[k].found

    founds = [one.found if isinstance(one, Standing) else None for one in results]
    for k, found in settle_claims(founds, found_in).items():
        results[k] = found if isinstance(found, str) else again[k]
    known = [one for one in results if isinstance(one, Standing)]
    for upper in known:
        touching = [one for one in known if one is not upper and _meet(upper.box_xyxy_px, one.box_xyxy_px)]
        if not touching:
            continue
        own = _widened(upper.found)
        for lower in touching:
            window = lower.found.window
            rest = lower.found.mask & (own[window.rows, window.columns] == 0)
            if np.count_nonzero(rest) * window.step**2 < cloud.config.min_points:
                continue
            if upper.patch is not None:
                if _stands_on(upper, lower):
                    lower.found = replace(lower.found, mask=rest)
            elif not _put_inside(upper, lower, rest):
                _put_on_top(upper, lower)
    masks = each_once([one.found if isinstance(one, Standing) else None for one in results])
    return [one if mask is None else _left(one, mask) for one, mask in zip(results, masks)]


def _left(one: Standing, mask: np.ndarray) -> Standing | str:
    """The object with the pixels that are left to it, or why that is too few."""
    if mask is not one.found.mask:
        left, needed = np.count_nonzero(mask) * one.found.window.step**2, one.found.window.cloud.config.min_points
        if left < needed:
            return f"mostly hidden: of its surface {left} pixels are not another object's, {needed} are needed"
        one.found = replace(one.found, mask=mask)
    return _why_hidden(one.found) or one


def _why_hidden(found: Foreground) -> str:
    """Why an object of which hardly anything is seen behind something nearer is none to be lifted; empty where it may be."""
    window = found.window
    own = found.mask[window.inside]
    seen = np.count_nonzero(own) / own.size
    if seen > _SEEN_SHARE:
        return ""
    near, z = float(np.percentile(found.points_m[:, 2], 10)), window.depth_m[window.inside]
    with np.errstate(invalid="ignore"):
        hidden = np.count_nonzero(~own & (z < near * (1 - _IN_FRONT))) / own.size
    if hidden < _HIDDEN_SHARE:
        return ""
    return f"mostly hidden: {100 * hidden:.0f} % of its box shows what is nearer, {100 * seen:.0f} % the object"


def _standing(window: Window, box_px) -> Standing | str:
    found, plane = _above_a_plane(window)
    if isinstance(found, str):
        return found
    if plane is None or _foot_is_on(plane, found):
        return Standing(box_px, found, plane)
    (top,) = order_statistics(found.height_m[found.mask], 98)
    for patch in level_patches(window.points_m, found.standing, plane):
        if plane.offset_m - patch.plane.offset_m > top - 3 * plane.tolerance_m:
            continue  # its own top
        higher = foreground(window, patch.plane)
        if isinstance(higher, Foreground) and carries(patch, higher, found):
            return Standing(box_px, higher, patch.plane, patch)
    return Standing(box_px, found, plane)


def _foot_is_on(plane: Plane, found: Foreground) -> bool:
    """Whether an object is seen down to the plane, so that no other surface need be looked for."""
    if math.hypot(*plane.normal[:2]) < _LEAST_LEAN:
        return False
    side, window = lower_side(plane), found.window
    if _height_of_foot(found, plane, side) < 2 * plane.tolerance_m:
        return True
    if np.count_nonzero(found.mask) - np.count_nonzero(found.mask[window.inside]) > _STRAY_SHARE * np.count_nonzero(
        found.mask
    ):
        return False
    # What the camera sees past the lower end of all of it is the plane: nothing else is under it.
    mask, points = _upright(found.mask, side), _upright(window.points_m, side)
    last = int(np.flatnonzero(mask.any(1))[-1])
    low = mask[max(0, last - _FOOT_ROWS) : last + 1].any(0)
    past = points[last + 2 : last + 2 + _PAST_ROWS][:, low]
    with np.errstate(invalid="ignore"):
        on_it = np.abs(plane.height_m(past)) < plane.tolerance_at(past[..., 2])
    return len(past) == _PAST_ROWS and np.count_nonzero(on_it) > _PAST_SHARE * on_it.size


def _upright(window: np.ndarray, side: int) -> np.ndarray:
    """A view of a window with the lower side of its box (see lower_side) at the end of the first axis."""
    turned = window if side % 2 else window.swapaxes(0, 1)
    return turned if side >= 2 else turned[::-1]


def _above_a_plane(window: Window) -> tuple[Foreground | str, Plane | None]:
    """The object's pixels over the largest plane that may carry it and is not its own side."""
    first: Foreground | str | None = None
    under: Plane | None = None
    for k, plane in enumerate(window.cloud.planes):
        if _own_side(window, k):
            continue
        if under is not None and abs(under.normal @ plane.normal) > _PARALLEL:
            continue  # another level: whether it carries the thing is seen around the foot
        found = foreground(window, plane)
        if isinstance(found, str):
            first = first or found
            continue
        low, high = order_statistics(found.height_m[found.mask], 2, 98)
        if low < max(3 * plane.tolerance_m, FLOATS_ABOVE * high):
            return found, plane
        if under is None:
            first, under = found, plane
    return (foreground(window, None) if first is None else first), under


def _own_side(window: Window, k: int) -> bool:
    """Whether the k-th plane is the object's side: denser in the box than around it, and no table seen in it."""
    cloud, plane = window.cloud, window.cloud.planes[k]
    valid, on_it = cloud.on_grid[0], cloud.on_grid[1 + k]
    x0, y0, x1, y1 = window.box_xyxy_px
    box = pixels_between(cloud.grid[0], y0, y1), pixels_between(cloud.grid[1], x0, x1)
    inside, on_it_inside = np.count_nonzero(valid[box]), np.count_nonzero(on_it[box])
    outside = np.count_nonzero(valid) - inside
    if not inside or not outside:
        return not outside
    on_it_outside = np.count_nonzero(on_it) - on_it_inside
    denser = on_it_inside / inside > on_it_outside / outside
    return denser and (plane.share < _TABLE_SHARE or on_it_inside > on_it_outside)


def inside_box(pixels, box_px) -> np.ndarray:
    x0, y0, x1, y1 = box_px
    u, v = pixels[:, 0] + 0.5, pixels[:, 1] + 0.5
    return (u > x0) & (u < x1) & (v > y0) & (v < y1)


def _stands_on(upper: Standing, lower: Standing) -> bool:
    """Whether the patch that carries one object is a part of another."""
    surface, window = _in_image(upper.found.window, upper.patch.mask), lower.found.window
    shared = surface[window.rows, window.columns] & lower.found.mask
    return np.count_nonzero(shared) * window.step**2 >= 0.5 * np.count_nonzero(surface)


def _put_inside(upper: Standing, lower: Standing, rest: np.ndarray) -> bool:
    """Whether one object is seen over the rest of a wider one that was taken together with it; then it is no part of that.

    Where the rest has an opening, the one stands on the inner floor. A rest without one must be flat beside it: a mug on a
    tray whose floor is as low as the noise.
    """
    plane = lower.plane
    if plane is None or np.count_nonzero(lower.found.mask) - np.count_nonzero(rest) < _SHARED_PX:
        return False
    axes = level_axes(plane.normal)
    around = without_strays(chosen(lower.found.window.points_m, rest).astype(float) @ axes.T)
    points = upper.found.points_m.astype(float) @ axes.T
    wide, narrow = outline(around[:, :2]), outline(points[:, :2])
    middle = (points[:, :2].min(0) + points[:, :2].max(0)) / 2
    if signed_area(narrow) > _NARROWER * signed_area(wide) or depth_inside(wide, middle)[0] < 0:
        return False
    hollow = opening(around, np.zeros(3), plane.noise_m)
    (low, high), (top,) = order_statistics(points[:, 2], 1, 98), order_statistics(around[:, 2], 98)
    if hollow is None and top + plane.offset_m > _FLAT_SHARE * (high + plane.offset_m):
        return False
    lower.found = replace(lower.found, mask=rest)
    if hollow is not None and low < hollow.rim_m:
        upper.plane = replace(plane, offset_m=-min(hollow.floor_m, low))
    return True


def _put_on_top(upper: Standing, lower: Standing) -> None:
    """Where one object ends above another that lies under its middle, it stands there, though it hides the other's top."""
    plane = upper.plane
    if plane is None or lower.plane is not plane or np.linalg.norm(plane.normal[:2]) < _LEAST_LEAN:
        return
    side = lower_side(plane)
    boxes = lower.box_xyxy_px, upper.box_xyxy_px
    if not all(_further_down(*(box[k] for box in boxes), side) for k in (side % 2, side % 2 + 2)):
        return
    foot, enough = _height_of_foot(upper.found, plane, side), max(3 * plane.tolerance_m, _FLUSH_M)
    if foot < 2 * enough:
        return
    axes = level_axes(plane.normal)[:2]
    above, below = (one.found.points_m @ axes.T for one in (upper, lower))
    middle = (above.min(0) + above.max(0)) / 2
    if depth_inside(outline(below), middle)[0] < 0 and near(outline(above), below, _FLUSH_M).mean() < _UNDER_SHARE:
        return
    heights = [plane.height_m(one.found.window.points_m) for one in (upper, lower)]
    with np.errstate(invalid="ignore"):
        above, below = upper.found.mask & (heights[0] > foot), lower.found.mask & (heights[1] < foot + enough)
    if above.any() and below.any():
        upper.plane, upper.found = replace(plane, offset_m=plane.offset_m - foot), replace(upper.found, mask=above)
        lower.found = replace(lower.found, mask=below)


def _meet(box, other) -> bool:
    """Whether two boxes overlap or nearly do."""
    gaps = (box[0] - other[2], other[0] - box[2], box[1] - other[3], other[1] - box[3])
    return max(gaps) < _NEAR_PX


def lower_side(plane: Plane) -> int:
    """Which side of a box in the image is its lower one: index into (x0, y0, x1, y1). A rolled camera has another."""
    x, y = -plane.normal[:2]
    return (0 if x < 0 else 2) if abs(x) > abs(y) else (1 if y < 0 else 3)


def _further_down(a: float, b: float, side: int) -> bool:
    return a > b if side >= 2 else a < b


def _height_of_foot(found: Foreground, plane: Plane, side: int) -> float:
    """Height of the nearest point along the lower side of the box: there an object ends, whatever its sides run into."""
    own, points = (_upright(of[found.window.inside], side) for of in (found.mask, found.window.points_m))
    rows = np.flatnonzero(own.any(1))
    if not len(rows):
        return math.inf
    line = points[rows[-1]][own[rows[-1]]]
    return float(plane.height_m(line[line[:, 2].argmin()]))


def _widened(found: Foreground) -> np.ndarray:
    """An object's pixels and those beside them in the image, HxW uint8."""
    image, window = _in_image(found.window, found.mask), found.window
    part = np.s_[
        max(0, window.rows.start - 2) : window.rows.stop + 2, max(0, window.columns.start - 2) : window.columns.stop + 2
    ]
    image[part] = cv2.dilate(image[part], np.ones((5, 5), np.uint8))
    return image


def _in_image(window: Window, mask: np.ndarray) -> np.ndarray:
    """A mask of a window as a mask of the whole image, HxW uint8."""
    image = np.zeros(window.cloud.frame.depth_m.shape, np.uint8)
    rows, columns = (slice(s.start, s.stop) for s in (window.rows, window.columns))
    whole = np.repeat(np.repeat(mask, window.step, 0), window.step, 1) if window.step > 1 else mask
    image[rows, columns] = whole[: rows.stop - rows.start, : columns.stop - columns.start]
    return image
