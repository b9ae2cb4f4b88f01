"""What things stand on: flat surfaces with a measured outline, the highest one under a thing, places on them in words.

Works on points and values. Knows nothing of labels, models or relations.
"""

from __future__ import annotations

import numpy as np

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
