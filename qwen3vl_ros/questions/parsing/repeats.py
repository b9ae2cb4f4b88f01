"""The same object said again is one: word for word, or moved by a thousandth or two.

Neighbours stay two: what is merged lies at one place and is mostly the same area, whatever its size.
"""

from __future__ import annotations

from typing import Sequence

from qwen3vl_ros.boxes import iou
from qwen3vl_ros.questions.parsing.candidates import Candidate
from qwen3vl_ros.questions.parsing.wanted import core

_SHIFT = 2.0  # thousandths of the picture
_SHIFT_M = 0.002
_LEAST_OVERLAP = 0.5


def without_repeats(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, each thing once, as it was said first. Their coordinates must be finite."""
    kept: list[Candidate] = []
    cells: dict[tuple, list[tuple[float, ...]]] = {}
    for candidate in candidates:
        kind, shift = candidate.shape.kind, _SHIFT_M if candidate.shape.kind == "box_3d" else _SHIFT
        place = _ordered(candidate)
        # What is the same begins in the same cell or in one beside it.
        name, column, row = core(candidate.label), int(place[0] // (2 * shift)), int(place[1] // (2 * shift))
        around = [(kind, name, column + dx, row + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        if not any(_same(place, other, shift) for cell in around for other in cells.get(cell, ())):
            kept.append(candidate)
        # What was said again may be said again from there: a loop that drifts stays one thing.
        cells.setdefault((kind, name, column, row), []).append(place)
    return kept


def _ordered(candidate: Candidate) -> tuple[float, ...]:
    """The coordinates, of a box with its lesser corner first."""
    values = candidate.values
    if len(values) != 4:
        return values
    xa, ya, xb, yb = values
    return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)


def _same(a: tuple[float, ...], b: tuple[float, ...], shift: float) -> bool:
    if a == b:
        return True
    if any(abs(p - q) > shift + 1e-9 for p, q in zip(a, b)):
        return False
    if len(a) == 9:  # centre, size, angles
        return all(abs(a[i] - b[i]) <= _LEAST_OVERLAP * min(a[i + 3], b[i + 3]) for i in range(3))
    return len(a) == 2 or iou(a, b) >= _LEAST_OVERLAP
