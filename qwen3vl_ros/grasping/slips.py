"""Where two flat fingers slip off though each contact alone looks well: a sheet that slants, a ridge on a taper.

The limits are from executed grasps (benchmarks/grasp_physics.py, tuning seeds): rims of plates and ridges of cartons failed, walls
of bowls and pans, which are steeper, and knobs on lids, which end in a step, held. All in the jaws' frame (judge.py), metres.
Knows nothing of sites or scenes.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

_SHARED_M = 0.0035  # height that the contacts of a sheet have in common at most
_APART_M = 0.0022  # and by how much one is above the other at least
_SLANT, _SHEET_M = 0.6, 0.04  # height of all of it as a share of its width, and the width: a sheet has no more
RIDGE_M = 0.020  # no ridge is wider
# So far below the fingertips a slope has run out by so much, at least and at most.
_BELOW = (0.004, 0.0015, 0.009), (0.008, 0.005, 0.018)
_FEW = 10  # points tell nothing


def on_a_sheet(lows: Sequence[float], middles: Sequence[float], highs: Sequence[float], width_m: float) -> str:
    """Why nothing holds where each contact is on the other half of one slanting sheet, as the rim of a plate; empty where not.

    lows, middles, highs: heights of the two contacts: the least, the median and the greatest of each.
    """
    apart, height = abs(middles[0] - middles[1]), max(highs) - min(lows)
    if width_m > _SHEET_M or height > _SLANT * width_m:
        return ""
    if min(highs) - max(lows) > _SHARED_M or apart < _APART_M:
        return ""
    return f"the contacts do not face each other: one is {apart:.3f} m above the other, on a sheet that slants too little to be held"


def on_a_ridge(y: np.ndarray, z: np.ndarray, across: np.ndarray, width_m: float) -> str:
    """Why nothing holds on a narrow top whose sides run out steadily below the fingertips, as that of a carton; empty where not.

    y, z: of the object's points, along the closing direction and against the approach. across: which are within the fingers' width.
    """
    near = across & (z <= 0) & (z > -_BELOW[-1][0]) & (np.abs(y) < width_m / 2 + 2 * _BELOW[-1][2])
    y, z = y[near], z[near]
    for depth, least, most in _BELOW:
        there = np.sort(y[z > -depth])
        if len(there) < _FEW:
            return ""
        strays = len(there) // 50
        if not least < min(-float(there[strays]), float(there[-1 - strays])) - width_m / 2 < most:
            return ""
    return "the fingertips would be on slopes that run out below them, and slip off"
