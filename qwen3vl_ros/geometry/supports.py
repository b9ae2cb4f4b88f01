"""What things stand on: flat surfaces with a measured outline, the highest one under a thing, places on them in words.

Works on points and values. Knows nothing of labels, models or relations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qwen3vl_ros.geometry.foreground import Foreground, chosen, surface_normals
from qwen3vl_ros.geometry.hulls import depth_inside, near, outline
from qwen3vl_ros.geometry.planes import Plane
from qwen3vl_ros.geometry.shape import level_axes

_COS_LEVEL = float(np.cos(np.deg2rad(25.0)))
_MIN_PATCH_PX = 25
_MAX_PATCHES = 6
_LOWER_SHARE = 0.05  # of a thing, seen under its own footprint and below its support: then it has none there
_DEEPER_SHARE = 0.3  # of a thing anywhere below the surface: then that is a part of the thing
_BEYOND_SHARE = 0.25  # of a support that lies outside the footprint of what stands on it
_TOUCHING_M, _MIN_TOUCHING_PX = 0.012, 5
_OUTSIDE = 0.25  # of a footprint's width: so far its middle may lie outside what is seen of its support
_FILLS = 0.7  # of the box's sides that a thing spans above what carries it

# A place in words -> where it is from left (-1) to right and from near (-1) to far; None: anywhere.
PLACES: dict[str, tuple[int | None, int | None]] = {
    "top left corner": (-1, 1),
    "top right corner": (1, 1),
    "bottom left corner": (-1, -1),
    "bottom right corner": (1, -1),
    "middle": (0, 0),
    "left side": (-1, None),
    "right side": (1, None),
    "top side": (None, 1),
    "bottom side": (None, -1),
}


def place_margin(border: np.ndarray, point_xy: np.ndarray, place: str, right: np.ndarray, forward: np.ndarray) -> float:
    """Signed distance of a point from the border of a place on a support, metres, positive inside.

    border Kx2: the support's outline in plan. It is cut into thirds along right and forward (unit vectors, level); top is
    far. Raises KeyError for a place that PLACES does not have.
    """
    margin = np.inf
    for wanted, axis in zip(PLACES[place], (right[:2], forward[:2])):
        if wanted is None:
            continue
        along, at = border @ axis, float(point_xy @ axis)
        low, high = along.min() + np.ptp(along) / 3, along.max() - np.ptp(along) / 3
        margin = min(margin, {-1: low - at, 0: min(at - low, high - at), 1: at - high}[wanted])
    return float(margin)


@dataclass(frozen=True, eq=False)
class LevelPatch:
    """A flat level piece of surface in a window of the image. plane: its own; mask hxw: its pixels."""

    plane: Plane
    mask: np.ndarray


def level_patches(points_m: np.ndarray, standing: np.ndarray, plane: Plane) -> list[LevelPatch]:
    """The level surfaces above a plane among organised points hxwx3, the highest first.

    standing: hxw, the readings above the plane. The patches are parallel to the plane and as noisy as it is.
    """
    pixels = np.flatnonzero(standing)
    normals = surface_normals(points_m, standing, pixels, plane.noise_m)
    flat = np.zeros(standing.shape, bool)
    with np.errstate(invalid="ignore"):
        flat.ravel()[pixels] = normals @ plane.normal.astype(np.float32) > _COS_LEVEL
    heights = plane.height_m(points_m)
    tolerance = plane.tolerance_at(points_m[..., 2])
    patches = []
    while len(patches) < _MAX_PATCHES and np.count_nonzero(flat) >= _MIN_PATCH_PX:
        bins = np.round(heights[flat] / plane.tolerance_m).astype(int)
        most = int(np.bincount(bins).argmax())
        about = flat & (np.abs(heights - most * plane.tolerance_m) < 1.5 * tolerance)
        height = float(np.median(heights[about]))
        mask = flat & (np.abs(heights - height) < tolerance)
        if mask.sum() < _MIN_PATCH_PX:
            break
        patches.append(LevelPatch(replace(plane, offset_m=plane.offset_m - height), mask))
        flat &= np.abs(heights - height) >= 2 * tolerance
    return sorted(patches, key=lambda patch: patch.plane.offset_m)


def carries(patch: LevelPatch, found: Foreground, below: Foreground) -> bool:
    """Whether a thing stands on a level patch of its window, and the patch is no part of it.

    found: the thing's pixels when only what is above the patch counts; below: when all above the lower plane does. The
    thing must span its 2D box above the patch and have little of itself below it; the patch must reach under the middle
    of its footprint, and out of that footprint: an inner floor does not.
    """
    window = below.window
    for axis in (0, 1):
        spanned, whole = np.flatnonzero(found.mask.any(1 - axis)), window.inside[axis]
        if np.ptp(spanned) < _FILLS * (whole.stop - whole.start - 1):
            return False
    axes = level_axes(patch.plane.normal)[:2]
    surface = chosen(window.points_m, patch.mask) @ axes.T
    footprint = outline(found.points_m @ axes.T)
    middle = (footprint.min(0) + footprint.max(0)) / 2
    if float(depth_inside(outline(surface), middle)[0]) < -_OUTSIDE * np.ptp(footprint, axis=0).min():
        return False
    own = chosen(window.points_m[window.inside], below.mask[window.inside])
    deeper = own[patch.plane.height_m(own) < -2 * patch.plane.tolerance_at(own[:, 2])]
    if len(deeper) > _DEEPER_SHARE * len(own) or near(footprint, deeper @ axes.T, 0.0).sum() > _LOWER_SHARE * len(own):
        return False
    beyond = ~near(footprint, surface, 0.0)
    touching = beyond & near(footprint, surface, _TOUCHING_M)
    return beyond.mean() > _BEYOND_SHARE and touching.sum() >= _MIN_TOUCHING_PX
