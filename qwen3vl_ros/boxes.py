"""Two-dimensional boxes (x0, y0, x1, y1) beside each other, in any unit. Knows nothing else."""

from __future__ import annotations

from typing import Sequence


def common_area(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that lies in both."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, 0 where there is no area."""
    common = common_area(a, b)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0
