"""Where two fingers fit from above: an exhaustive search over height maps.

The object and everything else become height maps in a local frame (z up). For each closing direction and each
depth of the fingertips, every line of the turned map is cut into runs of the object; a run, or several with
the hollow between them, is a place for the jaws if both fingers and the palm find free columns. A free column
is free all the way up, so the straight approach is free as well. Knows nothing of cameras, labels or quality:
`judge.py` judges the places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.grasping.poses import Poses, by_turns, upright_axes

_EMPTY = -1e3
_CELL_M = 0.0025
_MAX_CELLS = 128
_LEVELS = 3
_BITE_M = 0.010
_CENTRINGS = (0.7, 2.0)  # how much a place loses at the border of the object
_ROOM_M = (0.0, 0.005, 0.010)  # room beside the fingers that still makes a place better


@dataclass(frozen=True, eq=False)
class Terrain:
    """Height maps around centre_xy_m: rows are y, columns x, `cell_m` apart; -1000 where nothing is.

    object_m: the object, its assumed unseen side included. others_m: everything else. radius_m: of the object.
    """

    centre_xy_m: np.ndarray
    cell_m: float
    radius_m: float
    object_m: np.ndarray
    others_m: np.ndarray


@dataclass(frozen=True, eq=False)
class Places:
    """Jaw places found, best first, one entry an array row. Heights and positions are local, metres.

    across_m, along_m: position of the jaws' middle from the terrain's centre, across and along the closing
    direction yaw_rad. tip_m: height of the fingertips. room: 0..1, how much room the fingers have to spare.
    """

    yaw_rad: np.ndarray
    across_m: np.ndarray
    along_m: np.ndarray
    tip_m: np.ndarray
    width_m: np.ndarray
    room: np.ndarray
    face: np.ndarray

    def poses(self, middle_xy_m: np.ndarray) -> Poses:
        """The places as poses in the local frame; middle_xy_m: the terrain's centre."""
        axes = upright_axes(self.yaw_rad)
        at_m = self.along_m[:, None] * axes[:, :, 1] - self.across_m[:, None] * axes[:, :, 0]
        at_m[:, :2] += middle_xy_m
        at_m[:, 2] = self.tip_m
        return Poses(axes, at_m, self.width_m)


@dataclass
class Failures:
    """Why places were none: how many of each; the narrowest place as (width, yaw, across, along, tip)."""

    too_wide: int = 0
    no_room: int = 0
    palm: int = 0
    narrowest: tuple[float, ...] | None = None


def terrain(
    object_m: np.ndarray,
    others_m: np.ndarray,
    centre: np.ndarray,
    stands: bool,
    gripper: GripperConfig,
) -> Terrain:
    """Height maps of local points, Nx3 of the object and Mx3 of the rest, as wide as the gripper needs.

    centre: (x, y) of the maps' middle. stands: whether there is a support at z = 0.
    """
    radius = float(np.hypot(object_m[:, 0] - centre[0], object_m[:, 1] - centre[1]).max())
    beside = max(
        gripper.max_width / 2 + gripper.finger_thickness + gripper.clearance + _ROOM_M[-1], gripper.palm_length / 2
    )
    half = radius + beside + gripper.clearance
    cell = max(_CELL_M, 2 * half / _MAX_CELLS)
    cells = 2 * int(np.ceil(half / cell)) + 1
    # Pixels farther apart than the cells leave holes, a closing fills them.
    own = cv2.morphologyEx(_height_map(object_m, centre, cell, cells), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    others = _height_map(others_m, centre, cell, cells)
    if stands:
        others = np.maximum(others, np.float32(0.0))
    return Terrain(centre, cell, radius, own, others)


def _height_map(points_m, centre, cell, cells) -> np.ndarray:
    heights = np.full((cells, cells), _EMPTY, np.float32)
    column, row = (np.rint((points_m[:, k] - centre[k]) / cell).astype(np.intp) + cells // 2 for k in (0, 1))
    inside = np.flatnonzero((column >= 0) & (column < cells) & (row >= 0) & (row < cells))
    np.maximum.at(heights.ravel(), row[inside] * cells + column[inside], points_m[inside, 2].astype(np.float32))
    return heights


def find_places(
    ground: Terrain,
    gripper: GripperConfig,
    top_m: float,
    lowest_tip_m: float,
    yaws_rad: np.ndarray,
    keep: int,
) -> tuple[Places, Failures]:
    """Up to `keep` places, best first, the best of every direction and depth; and why the others failed.

    lowest_tip_m: fingertips stay at or above this height. yaws_rad: closing directions to try, in the local
    frame.
    """
    highest_tip_m = top_m - _BITE_M
    tips = (
        np.array((lowest_tip_m,))
        if highest_tip_m <= lowest_tip_m
        else lowest_tip_m + np.arange(_LEVELS) * ((highest_tip_m - lowest_tip_m) / (_LEVELS - 1))
    )
    places, slices, failures = _search(ground, tips, yaws_rad, gripper)
    reach = max(float(np.count_nonzero(ground.object_m > _EMPTY)) ** 0.5 * ground.cell_m / 2, ground.cell_m)
    off_centre, chosen = np.hypot(places.across_m, places.along_m) / reach, []
    for centring in _CENTRINGS:
        worth = places.face - centring * off_centre + 0.3 * places.room
        order = np.argsort(-worth, kind="stable")
        # The best of every slice; then by turns from each depth, since only the points tell how deep a wall can be held.
        first = np.full(len(yaws_rad) * len(tips), len(order))
        first[slices[order][::-1]] = np.arange(len(order))[::-1]  # the last one written stays
        best = order[np.sort(first[first < len(order)])]
        chosen.append(best[by_turns(slices[best] % len(tips))])
    chosen = np.stack(chosen, 1).ravel()
    chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])][:keep]
    return Places(*(getattr(places, f.name)[chosen] for f in fields(Places))), failures


def _search(ground: Terrain, tips, yaws_rad, gripper: GripperConfig) -> tuple[Places, np.ndarray, Failures]:
    """All places for each closing direction and depth, a slice each; the slice each place is from; the failures."""
    cell = ground.cell_m
    finger, beside = _half(gripper.finger_width, cell), _half(gripper.finger_width + 2 * gripper.clearance, cell)
    middle, core = ground.object_m.shape[0] // 2, _cells(ground.radius_m, cell) + 1
    core = min(core, middle)
    lines, aside = min(core + beside, middle), middle - core
    # How many depths of the fingertips are below the object, and below anything: that is all one need know of a cell.
    under_object = _levels(ground.object_m, tips)
    under_anything = np.maximum(under_object, _levels(ground.others_m, tips - gripper.clearance + 1e-6))
    turned = _turned(under_object | under_anything << 4, yaws_rad, lines)[:, None]
    depth = np.arange(len(tips), dtype=np.uint8)[:, None, None]
    solid = ((turned[..., aside : aside + 2 * core + 1] & 15) > depth).view(np.uint8)
    filled_in = _Counts((turned >> 4 > depth).view(np.uint8))
    solid_in = _Counts(solid)
    k, r, s, e = _runs(solid.reshape(-1, *solid.shape[2:]), finger, solid_in)
    k, r, s, e = _those(solid_in(k, (r, r + 1), (s, e)) > 0, k, r, s, e)

    def local(k, r, s, e):
        """Width, closing direction, position across and along it, and fingertips' height of columns s..e of line r."""
        along = ((s + e - 1) / 2 - core) * cell
        return (e - s) * cell, yaws_rad[k // len(tips)], (r - lines) * cell, along, tips[k % len(tips)]

    def free(extra_m, k, r, s, e):
        """Whether both fingers have their columns for themselves, and so much more beside them."""
        gap, reach = _cells(gripper.clearance, cell), _cells(gripper.finger_thickness, cell) + _cells(extra_m, cell)
        band, left, right = (r - beside, r + beside + 1), s + aside - gap, e + aside + gap
        return filled_in(k, band, (left - reach, left)) + filled_in(k, band, (right, right + reach)) == 0

    failures, width = Failures(), (e - s) * cell
    if len(k):
        least = int(width.argmin())
        failures.narrowest = tuple(float(v[0]) for v in local(*(v[least : least + 1] for v in (k, r, s, e))))
    narrow = width + 2 * gripper.clearance <= gripper.max_width + cell  # judge.py measures the width exactly
    failures.too_wide, (k, r, s, e) = len(k) - np.count_nonzero(narrow), _those(narrow, k, r, s, e)
    has_room = free(0.0, k, r, s, e)
    failures.no_room, (k, r, s, e) = len(k) - np.count_nonzero(has_room), _those(has_room, k, r, s, e)
    palm_free = _palm_is_free(ground, tips, yaws_rad, gripper, k, r - lines, (s + e - 1) // 2 - core)
    failures.palm, (k, r, s, e) = len(k) - np.count_nonzero(palm_free), _those(palm_free, k, r, s, e)
    room = np.zeros(len(k))
    roomy = np.arange(len(k))
    for extra_m in _ROOM_M[1:]:  # what lacks room for less lacks it for more
        (roomy,) = _those(free(extra_m, *_those_at(roomy, k, r, s, e)), roomy)
        room[roomy] = extra_m / _ROOM_M[-1]
    inside, pad = np.minimum(1, e - s - 1), (r - finger, r + finger + 1)
    face = solid_in(k, pad, (s + inside, s + inside + 1)) + solid_in(k, pad, (e - 1 - inside, e - inside))
    width, yaw, across, along, tip = local(k, r, s, e)
    return Places(yaw, across, along, tip, width, room, face / (4.0 * finger + 2.0)), k, failures


def _runs(solid: np.ndarray, finger: int, solid_in: _Counts) -> tuple[np.ndarray, ...]:
    """Slice, line, first column and one past the last of what two fingers could close on in slices x lines x columns."""
    slices, lines, columns = solid.shape
    # Only lines through the object itself: beside it a finger would hold no more than a corner.
    strip = np.zeros((slices * lines, columns + 2), np.uint8)
    strip[:, 1:-1] = cv2.dilate(solid.reshape(-1, columns), np.ones((2 * finger + 1, 1), np.uint8), borderValue=0)
    strip[~solid_in.lines_set] = 0
    edges = np.flatnonzero(strip[:, 1:] != strip[:, :-1])  # a start and an end in turns
    line, column = np.divmod(edges, columns + 1)
    line, start, end = line[::2], column[::2], column[1::2]
    found = []
    for lag in range(3):  # one run, two runs and the hollow between them, three
        first, last = np.s_[: max(0, len(line) - lag)], np.s_[lag:]
        same = line[first] == line[last]
        found.append((line[first][same], start[first][same], end[last][same]))
    line, start, end = (np.concatenate(part) for part in zip(*found))
    return (*np.divmod(line, lines), start, end)


class _Counts:
    """How many cells are set in rectangles of stacked pictures, directions x depths x rows x columns (uint8, 0 or 1)."""

    def __init__(self, pictures: np.ndarray):
        self.rows, self.columns = pictures.shape[-2:]
        self.total = cv2.integral(pictures.reshape(-1, self.columns))

    @property
    def lines_set(self) -> np.ndarray:
        """Whether a line of the pictures has any cell set, all lines below one another."""
        return self.total[1:, -1] != self.total[:-1, -1]

    def __call__(self, slices, rows, columns) -> np.ndarray:
        """rows, columns: (first, one past the last) of each rectangle, inside the pictures."""
        top, bottom = ((slices * self.rows + row) * (self.columns + 1) for row in rows)
        left, right = columns
        at = self.total.ravel().take
        return at(bottom + right) - at(bottom + left) - at(top + right) + at(top + left)


def _palm_is_free(ground: Terrain, tips, yaws_rad, gripper: GripperConfig, k, across, along) -> np.ndarray:
    """Whether nothing is too high to be under the palm of each place; across, along: its cells from the middle."""
    highest, limits = (
        np.maximum(ground.object_m, ground.others_m),
        tips + gripper.finger_length - gripper.clearance + 1e-6,
    )
    if highest.max() <= limits[0]:
        return np.ones(len(k), bool)
    half_across = _half(gripper.palm_width + 2 * gripper.clearance, ground.cell_m)
    half_along = _half(gripper.palm_length + 2 * gripper.clearance, ground.cell_m)
    middle = highest.shape[0] // 2
    lines = min(middle, _cells(ground.radius_m, ground.cell_m) + 1 + half_across)
    turned = _turned(_levels(highest, limits), yaws_rad, lines)[:, None]
    too_high = _Counts((turned > np.arange(len(tips), dtype=np.uint8)[:, None, None]).view(np.uint8))
    spans = (
        (np.maximum(at + centre - half, 0), np.minimum(at + centre + half, 2 * centre) + 1)
        for at, half, centre in ((across, half_across, lines), (along, half_along, middle))
    )
    return too_high(k, *spans) == 0


def _levels(heights_m: np.ndarray, limits_m: np.ndarray) -> np.ndarray:
    """How many of a few limits each cell of a height map is above, uint8."""
    return (heights_m > limits_m[:, None, None]).view(np.uint8).sum(0, dtype=np.uint8)


def _turned(cells: np.ndarray, yaws_rad: np.ndarray, lines: int) -> np.ndarray:
    """A map (size x size, uint8) with rows across and columns along each closing direction, directions x rows x size: the
    middle row and `lines` on either side.
    """
    size = cells.shape[0]
    middle = size // 2
    turned = np.empty((len(yaws_rad), 2 * lines + 1, size), np.uint8)
    for out, yaw in zip(turned, yaws_rad):
        c, s = math.cos(yaw), math.sin(yaw)
        matrix = np.array(((c, -s, middle * (1 - c) + s * lines), (s, c, middle * (1 - s) - c * lines)))
        cv2.warpAffine(cells, matrix, (size, 2 * lines + 1), dst=out, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return turned


def _those(wanted: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    return _those_at(np.flatnonzero(wanted), *values)


def _those_at(indices: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(v.take(indices) for v in values)


def _cells(length_m: float, cell_m: float) -> int:
    return math.ceil(length_m / cell_m - 1e-6)


def _half(length_m: float, cell_m: float) -> int:
    """Cells on either side of the middle one that a length centred on it reaches into."""
    return _cells(length_m / 2, cell_m)
