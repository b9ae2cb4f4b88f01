"""Where two fingers fit from above: an exhaustive search over height maps.

The object and everything else become height maps in a local frame (z up). For each closing direction and each
depth of the fingertips, every line of the turned map is cut into runs of the object; a run, or several with
the hollow between them, is a place for the jaws if both fingers and the palm find free columns. A free column
is free all the way up, so the straight approach is free as well. Knows nothing of cameras, labels or quality:
`grasp.py` judges the places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig

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
    floor: tuple[float, float, float] | None,
    gripper: GripperConfig,
) -> Terrain:
    """Height maps of local points, Nx3 of the object and Mx3 of the rest, as wide as the gripper needs.

    centre: (x, y) of the maps' middle.
    floor: (a, b, c) of a support whose height is a x + b y + c, None if there is none.
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
    if floor is not None:
        offsets = (np.arange(cells, dtype=np.float32) - cells // 2) * cell
        support = floor[0] * (centre[0] + offsets)[None] + floor[1] * (centre[1] + offsets)[:, None] + floor[2]
        others = np.maximum(others, support.astype(np.float32))
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
    tips = np.unique(np.linspace(lowest_tip_m, max(lowest_tip_m, top_m - _BITE_M), _LEVELS))
    # Only lines over the object matter, and what is beside them as far as a finger reaches.
    lines = (
        _cells(ground.radius_m, ground.cell_m) + 1 + _half(gripper.finger_width + 2 * gripper.clearance, ground.cell_m)
    )
    turned = _turned(cv2.merge((ground.object_m, ground.others_m)), yaws_rad, lines)
    own, others = turned[..., 0], turned[..., 1]
    solid = (own[:, None] > tips[:, None, None]).view(np.uint8)
    obstacle = (others[:, None] > (tips - gripper.clearance + 1e-6)[:, None, None]).view(np.uint8)
    places, slices, failures = _search(
        solid, obstacle, _palms(ground, gripper, tips, yaws_rad), tips, ground.cell_m, gripper, yaws_rad
    )
    reach = max(float(np.count_nonzero(ground.object_m > _EMPTY)) ** 0.5 * ground.cell_m / 2, ground.cell_m)
    off_centre, chosen = np.hypot(places.across_m, places.along_m) / reach, []
    for centring in _CENTRINGS:
        worth = places.face - centring * off_centre + 0.3 * places.room
        order = np.argsort(-worth, kind="stable")
        _, first = np.unique(slices[order], return_index=True)
        # The best of every slice; then by turns from each depth, since only the points tell how deep a wall can be held.
        best = order[np.sort(first)]
        level = slices[best] % len(tips)
        turn = np.array([np.count_nonzero(level[:k] == level[k]) for k in range(len(best))], int)
        chosen.append(best[np.argsort(turn, kind="stable")])
    chosen = np.stack(chosen, 1).ravel()
    chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])][:keep]
    return Places(*(getattr(places, f.name)[chosen] for f in fields(Places))), failures


def _turned(maps: np.ndarray, yaws_rad: np.ndarray, lines: int) -> np.ndarray:
    """The maps (size x size x channels) with rows across and columns along each closing direction: the middle row and
    `lines` on either side.
    """
    size = maps.shape[0]
    middle, lines = size // 2, min(lines, size // 2)
    turned = np.empty((len(yaws_rad), 2 * lines + 1, *maps.shape[1:]), np.float32)
    for out, yaw in zip(turned, yaws_rad):
        c, s = math.cos(yaw), math.sin(yaw)
        matrix = np.array(((c, -s, middle * (1 - c) + s * lines), (s, c, middle * (1 - s) - c * lines)))
        cv2.warpAffine(
            maps,
            matrix,
            (size, 2 * lines + 1),
            dst=out,
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(_EMPTY,) * 4,
        )
    return turned


def _cells(length_m: float, cell_m: float) -> int:
    return int(np.ceil(length_m / cell_m - 1e-6))


def _half(length_m: float, cell_m: float) -> int:
    """Cells on either side of the middle one that a length centred on it reaches into."""
    return _cells(length_m / 2, cell_m)


class _Counts:
    """How many cells are set in rectangles of stacked pictures, slices x rows x columns (uint8, 0 or 1)."""

    def __init__(self, pictures: np.ndarray):
        self.slices, self.rows, self.columns = pictures.shape
        self.total = cv2.integral(pictures.reshape(-1, self.columns)).ravel()

    def __call__(self, slices, rows, columns) -> np.ndarray:
        """rows, columns: (first, one past the last), cut at the picture's border."""
        top, bottom = (np.clip(row, 0, self.rows) + slices * self.rows for row in rows)
        left, right = (np.clip(column, 0, self.columns) for column in columns)
        top, bottom = top * (self.columns + 1), bottom * (self.columns + 1)
        take = self.total.take
        return take(bottom + right) - take(bottom + left) - take(top + right) + take(top + left)


def _palms(ground: Terrain, gripper: GripperConfig, tips: np.ndarray, yaws_rad: np.ndarray) -> _Counts | None:
    """Cells that are too high to be under the palm, for each direction and depth; None if none is."""
    highest, limits = (
        np.maximum(ground.object_m, ground.others_m),
        tips + gripper.finger_length - gripper.clearance + 1e-6,
    )
    if highest.max() <= limits[0]:
        return None
    turned = _turned(highest[..., None], yaws_rad, highest.shape[0] // 2)[..., 0]
    return _Counts((turned[:, None] > limits[:, None, None]).view(np.uint8).reshape(-1, *turned.shape[1:]))


def _search(solid, obstacle, palms, tips, cell, gripper, yaws_rad) -> tuple[Places, np.ndarray, Failures]:
    """All places in the pictures (directions x depths x rows x columns), the slice each is from, and the failures."""
    rows, columns = solid.shape[2:]
    solid, obstacle, failures = solid.reshape(-1, rows, columns), obstacle.reshape(-1, rows, columns), Failures()
    solid_in, filled_in = _Counts(solid), _Counts(solid | obstacle)
    # Only lines through the object itself: beside it a finger would hold no more than a corner.
    finger = _half(gripper.finger_width, cell)
    spread = cv2.dilate(solid.reshape(-1, columns), np.ones((2 * finger + 1, 1), np.uint8), borderValue=0)
    strip = np.zeros((len(spread), columns + 2), np.int8)
    strip[:, 1:-1] = spread
    strip[~solid.reshape(-1, columns).any(1)] = 0
    edges = np.flatnonzero(strip[:, 1:] != strip[:, :-1])  # a start and an end in turns
    line, start, end = edges[::2] // (columns + 1), edges[::2] % (columns + 1), edges[1::2] % (columns + 1)
    found = []
    for lag in range(min(3, len(line))):  # one run, two runs and the hollow between them, three
        same = line[: len(line) - lag] == line[lag:]
        found.append((line[: len(line) - lag][same], start[: len(line) - lag][same], end[lag:][same]))
    k, s, e = (np.concatenate(part) for part in zip(*found)) if found else np.empty((3, 0), int)
    k, r = k // rows, k % rows
    k, r, s, e = _those(solid_in(k, (r, r + 1), (s, e)) > 0, k, r, s, e)
    width = (e - s) * cell
    narrow = width + 2 * gripper.clearance <= gripper.max_width + cell  # judge.py measures the width exactly
    failures.too_wide = len(narrow) - np.count_nonzero(narrow)
    if len(k):
        least = int(width.argmin())
        failures.narrowest = tuple(float(of[least]) for of in _local(k, r, s, e, rows, columns, cell, tips, yaws_rad))
    k, r, s, e = _those(narrow, k, r, s, e)
    gap, thickness = _cells(gripper.clearance, cell), _cells(gripper.finger_thickness, cell)
    beside = _half(gripper.finger_width + 2 * gripper.clearance, cell)

    def free(extra):  # both fingers' columns, and so much more beside them
        reach, band = gap + thickness + _cells(extra, cell), (r - beside, r + beside + 1)
        return filled_in(k, band, (s - reach, s - gap)) + filled_in(k, band, (e + gap, e + reach)) == 0

    has_room = free(0.0)
    failures.no_room = len(has_room) - np.count_nonzero(has_room)
    k, r, s, e = _those(has_room, k, r, s, e)
    if palms is not None:
        middle, line = (s + e - 1) // 2, r - rows // 2 + palms.rows // 2
        across = _half(gripper.palm_width + 2 * gripper.clearance, cell)
        along = _half(gripper.palm_length + 2 * gripper.clearance, cell)
        palm_free = palms(k, (line - across, line + across + 1), (middle - along, middle + along + 1)) == 0
        failures.palm = len(palm_free) - np.count_nonzero(palm_free)
        k, r, s, e = _those(palm_free, k, r, s, e)
    room = np.zeros(len(k))
    for extra in _ROOM_M:
        room[free(extra)] = extra / _ROOM_M[-1]
    inside, pad = np.minimum(1, e - s - 1), (r - finger, r + finger + 1)
    face = solid_in(k, pad, (s + inside, s + inside + 1)) + solid_in(k, pad, (e - 1 - inside, e - inside))
    width, yaw, across, along, tip = _local(k, r, s, e, rows, columns, cell, tips, yaws_rad)
    return Places(yaw, across, along, tip, width, room, face / (4.0 * finger + 2.0)), k, failures


def _those(wanted: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    kept = np.flatnonzero(wanted)
    return tuple(v.take(kept) for v in values)


def _local(k, r, s, e, rows, columns, cell, tips, yaws_rad):
    """Width, closing direction, position across and along it, and fingertips' height of runs s..e in row r of slice k."""
    along = ((s + e - 1) / 2 - columns // 2) * cell
    return (e - s) * cell, yaws_rad[k // len(tips)], (r - rows // 2) * cell, along, tips[k % len(tips)]
