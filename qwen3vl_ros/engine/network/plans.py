"""What follows from sizes and positions alone, in NumPy, for every runtime: where the position table is read, and how far
queries and keys are turned.

Knows no weights and no runtime. Source: Qwen3-VL technical report (arXiv 2511.21631).
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from qwen3vl_ros.engine.network.sizes import TextSizes, VisionSizes

_VISION_ROPE_THETA = 10000.0


class VisionPlan(NamedTuple):
    """What the vision tower needs beside the N patches of some images and clips.

    corners: N x 4 int64, rows of the position table to mix for each patch; weights: N x 4 float32, how much of each.
    cos, sin: N x head_dim float32. lengths: patches of each frame; a patch sees the patches of its own frame.
    """

    corners: np.ndarray
    weights: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    lengths: tuple[int, ...]


def plan_vision(sizes: VisionSizes, grid: Sequence[Sequence[int]]) -> VisionPlan:
    """grid: (frames, rows, columns) in patches, one for each image or clip."""
    frames = [(height, width) for count, height, width in grid for _ in range(count)]
    parts = [_frame(sizes, height, width) for height, width in frames]
    return VisionPlan(*(np.concatenate(column) for column in zip(*parts)), tuple(h * w for h, w in frames))


def _frame(sizes: VisionSizes, height: int, width: int) -> tuple[np.ndarray, ...]:
    row, column = _merge_order(height, width, sizes.merge)
    (row_low, row_share), (column_low, column_share) = (
        _split(index, size, sizes.table_side) for index, size in ((row, height), (column, width))
    )
    last = sizes.table_side - 1
    row_of = np.minimum(np.stack((row_low, row_low, row_low + 1, row_low + 1), 1), last)
    column_of = np.minimum(np.stack((column_low, column_low + 1, column_low, column_low + 1), 1), last)
    weights = np.repeat(np.stack((1 - row_share, row_share), 1), 2, axis=1) * np.tile(
        np.stack((1 - column_share, column_share), 1), 2
    )
    quarter = sizes.hidden // sizes.heads // 4
    speed = _speeds(_VISION_ROPE_THETA, quarter)
    angles = np.tile(np.concatenate((row[:, None] * speed, column[:, None] * speed), 1, dtype=np.float32), 2)
    return row_of * sizes.table_side + column_of, weights, np.cos(angles), np.sin(angles)


def _merge_order(height: int, width: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each patch of a frame, in the order they stand: merge x merge neighbours together."""
    block = (height // merge, merge, width // merge, merge)
    places = np.indices((height, width)).reshape(2, *block)
    row, column = places.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    return row, column


def _split(index: np.ndarray, size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Place of `index` of `size` on a table of `side` entries, corners on corners: the entry before it, and the rest."""
    place = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    low = np.floor(place)
    return low.astype(np.int64), place - low


def rotary_angles(sizes: TextSizes, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, Q x head_dim float32, of positions 3 x Q (time, row, column).

    Interleaved: frequencies go time, row, column, time, ... until row and column have had their share.
    """
    half = np.arange(sizes.head_dim // 2)
    axis = np.where(half < 3 * np.array(sizes.rope_section)[half % 3], half % 3, 0)
    angles = np.tile(positions[axis].T.astype(np.float32) * _speeds(sizes.rope_theta, len(half)), 2)
    return np.cos(angles), np.sin(angles)


def _speeds(theta: float, count: int) -> np.ndarray:
    """In float32, as the reference has it."""
    return np.float32(theta) ** -(np.arange(count, dtype=np.float32) / np.float32(count))
