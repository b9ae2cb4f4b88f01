"""Where two fingers fit from above: an exhaustive search over height maps.

The object and everything else become height maps in a local frame (z up). For each closing direction and each
depth of the fingertips, every line of the turned map is cut into runs of the object; a run, or several with
the hollow between them, is a place for the jaws if both fingers and the palm find free columns. A free column
is free all the way up, so the straight approach is free as well. Knows nothing of cameras, labels or quality:
`grasp.py` judges the places.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig

_EMPTY = -1e3
_CELL_M = 0.0025
_MAX_CELLS = 128
_LEVELS = 3
_BITE_M = 0.010
_ROOM_M = (0.0, 0.005, 0.010)  # room beside the fingers that still makes a place better


@dataclass(frozen=True, eq=False)
class Terrain:
    """Height maps around centre_xy_m: rows are y, columns x, `cell_m` apart; -1000 where nothing is.

    object_m: the object, its assumed unseen side included. others_m: everything else.
    """

    centre_xy_m: np.ndarray
    cell_m: float
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
    half = radius + gripper.max_width / 2 + gripper.finger_thickness + 2 * gripper.clearance + _ROOM_M[-1]
    cell = max(_CELL_M, 2 * half / _MAX_CELLS)
    cells = 2 * int(np.ceil(half / cell)) + 1
    # Pixels farther apart than the cells leave holes, a closing fills them.
    own = cv2.morphologyEx(_height_map(object_m, centre, cell, cells), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    others = _height_map(others_m, centre, cell, cells)
    if floor is not None:
        offsets = (np.arange(cells, dtype=np.float32) - cells // 2) * cell
        support = floor[0] * (centre[0] + offsets)[None] + floor[1] * (centre[1] + offsets)[:, None] + floor[2]
        others = np.maximum(others, support.astype(np.float32))
    return Terrain(centre, cell, own, others)


def _height_map(points_m, centre, cell, cells) -> np.ndarray:
    heights = np.full((cells, cells), _EMPTY, np.float32)
    index = np.rint((points_m[:, :2] - centre) / cell).astype(int) + cells // 2
    inside = (index[:, 0] >= 0) & (index[:, 0] < cells) & (index[:, 1] >= 0) & (index[:, 1] < cells)
    order = np.argsort(points_m[inside, 2])  # the last one written, the highest, stays
    column, row = index[inside][order].T
    heights[row, column] = points_m[inside, 2][order]
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
    size = ground.object_m.shape[0]
    own, others, ceiling = (np.empty((len(yaws_rad), size, size), np.float32) for _ in range(3))
    for k, yaw in enumerate(yaws_rad):
        own[k], others[k] = _turned(ground.object_m, yaw), _turned(ground.others_m, yaw)
        ceiling[k] = _palm_ceiling(own[k], others[k], gripper, ground.cell_m)
    # One tall picture, slice below slice, so that every step is one call. What spreads over a slice's border
    # lands where no jaws can be: the object is more than half a gripper away from there.
    solid = (own[:, None] > tips[:, None, None]).reshape(-1, size).view(np.uint8)
    obstacle = (others[:, None] > (tips - gripper.clearance + 1e-6)[:, None, None]).reshape(-1, size).view(np.uint8)
    places, slices, failures = _search(solid, obstacle, ceiling, tips, ground.cell_m, gripper, yaws_rad)
    reach = max(float(np.count_nonzero(ground.object_m > _EMPTY)) ** 0.5 * ground.cell_m / 2, ground.cell_m)
    worth = places.face - 0.7 * np.hypot(places.across_m, places.along_m) / reach + 0.3 * places.room
    order = np.argsort(-worth, kind="stable")
    _, first = np.unique(slices[order], return_index=True)
    # The best of every slice; then by turns from each depth, since only the points tell how deep a wall can
    # be held.
    best = order[np.sort(first)]
    level = slices[best] % len(tips)
    turn = np.array([np.count_nonzero(level[:k] == level[k]) for k in range(len(best))], int)
    chosen = best[np.argsort(turn, kind="stable")[:keep]]
    return Places(*(getattr(places, f.name)[chosen] for f in fields(Places))), failures


def _turned(heights: np.ndarray, yaw: float) -> np.ndarray:
    """The map with rows across and columns along the closing direction."""
    middle = heights.shape[0] // 2
    c, s = np.cos(yaw), np.sin(yaw)
    matrix = np.array(((c, -s, middle * (1 - c + s)), (s, c, middle * (1 - s - c))))
    return cv2.warpAffine(
        heights,
        matrix,
        heights.shape[::-1],
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_EMPTY,
    )


def _cells(length_m: float, cell_m: float) -> int:
    return int(np.ceil(length_m / cell_m - 1e-6))


def _odd(length_m: float, cell_m: float) -> int:
    return 2 * _cells(length_m / 2, cell_m) + 1


def _spread(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return cv2.dilate(
        picture,
        np.ones((rows, columns), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=_EMPTY if picture.dtype == np.float32 else 0,
    )


def _palm_ceiling(own, others, gripper, cell) -> np.ndarray:
    """Highest thing under the palm, for each position of its middle."""
    span = gripper.max_width + 2 * gripper.finger_thickness + 2 * gripper.clearance
    return _spread(np.maximum(own, others), _odd(gripper.palm_width + 2 * gripper.clearance, cell), _odd(span, cell))


class _Counts:
    """How many cells of a picture are set in a stretch of a row."""

    def __init__(self, picture: np.ndarray):
        self.total = cv2.integral(picture)
        self.columns = picture.shape[1]

    def __call__(self, row, start, end) -> np.ndarray:
        start, end = np.clip(start, 0, self.columns), np.clip(end, 0, self.columns)
        return self.total[row + 1, end] - self.total[row, end] - self.total[row + 1, start] + self.total[row, start]


def _search(solid, obstacle, ceiling, tips, cell, gripper, yaws_rad) -> tuple[Places, np.ndarray, Failures]:
    """All places in the stacked pictures, the slice each is from, and the failures."""
    size, failures = solid.shape[1], Failures()
    strip = np.zeros((len(solid), size + 2), np.int8)
    # Only lines through the object itself: beside it a finger would hold no more than a corner.
    strip[:, 1:-1] = _spread(solid, _odd(gripper.finger_width, cell), 1) * solid.any(1)[:, None]
    blocked = _spread(solid | obstacle, _odd(gripper.finger_width + 2 * gripper.clearance, cell), 1)
    edges = np.flatnonzero(strip[:, 1:] != strip[:, :-1])  # a start and an end in turns
    row, start, end = edges[::2] // (size + 1), edges[::2] % (size + 1), edges[1::2] % (size + 1)
    gap, thickness = _cells(gripper.clearance, cell), _cells(gripper.finger_thickness, cell)
    blocked_in, solid_in = _Counts(blocked), _Counts(solid)
    found = []
    for lag in range(min(3, len(row))):  # one run, two runs and the hollow between them, three
        same = row[: len(row) - lag] == row[lag:]
        r, s, e = row[: len(row) - lag][same], start[: len(row) - lag][same], end[lag:][same]
        holds = solid_in(r, s, e) > 0
        found.append(np.stack((r[holds], s[holds], e[holds])))
    r, s, e = np.concatenate(found, 1) if found else np.empty((3, 0), int)
    slices, line = r // size, r % size
    yaw, tip = np.asarray(yaws_rad)[slices // len(tips)], tips[slices % len(tips)]
    width, across, along = (e - s) * cell, (line - size // 2) * cell, ((s + e - 1) / 2 - size // 2) * cell
    narrow = width + 2 * gripper.clearance <= gripper.max_width + cell  # grasp.py measures the width exactly
    room = np.full(len(r), -1.0)
    for extra in _ROOM_M:
        reach = gap + thickness + _cells(extra, cell)
        room[blocked_in(r, s - reach, s - gap) + blocked_in(r, e + gap, e + reach) == 0] = extra / _ROOM_M[-1]
    palm_free = (
        ceiling[slices // len(tips), line, (s + e - 1) // 2] + gripper.clearance <= tip + gripper.finger_length + 1e-6
    )
    failures.too_wide = int((~narrow).sum())
    failures.no_room = int((narrow & (room < 0)).sum())
    failures.palm = int((narrow & (room >= 0) & ~palm_free).sum())
    if len(r):
        k = int(width.argmin())
        failures.narrowest = tuple(float(v[k]) for v in (width, yaw, across, along, tip))
    good = narrow & (room >= 0) & palm_free
    pad_rows = _odd(gripper.finger_width, cell)
    depth = cv2.boxFilter(solid, cv2.CV_16S, (1, pad_rows), normalize=False, borderType=cv2.BORDER_CONSTANT)
    inside = np.minimum(1, e - s - 1)
    face = (depth[r, s + inside] + depth[r, e - 1 - inside]) / (2.0 * pad_rows)
    return Places(*(v[good] for v in (yaw, across, along, tip, width, room, face))), slices[good], failures
