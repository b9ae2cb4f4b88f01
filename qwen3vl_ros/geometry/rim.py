"""The outline of a thing where its readings fail: a depth camera loses a pixel or two on either side of every edge.

Without them a thing is too small, and too near, since the far edge of a top is where a pixel shows most. A lost pixel is the
thing's where it is nearer to its readings than to others; its depth goes on as theirs do around it. Knows nothing of shapes
or cameras.
"""

from __future__ import annotations

import cv2
import numpy as np

_LOST_PX = 2.5  # so far from a reading of its own a lost pixel may be
_GAP_PX = 12.0  # and so wide may be what was lost: more, and there was nothing to be seen beside the thing
_AROUND = 5  # pixels to either side that say how the depth goes on
_LEAST = 10  # of them that must be known
_BEND = 0.15  # of the depth around it: where it would be farther from that, nobody knows
_RIDGE = 4.0  # keeps slopes small where few pixels tell them


def lost_rim(own: np.ndarray, others: np.ndarray, depth_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the pixels that a thing has lost at its outline, and their depths in metres.

    own, others: hxw bool, where there are readings of the thing and of anything else. depth_m: hxw.
    """
    nothing = ~(own | others)
    to_own = cv2.distanceTransform((~own).view(np.uint8), cv2.DIST_L2, 3)
    lost = nothing & (to_own <= _LOST_PX)
    if not lost.any():
        return np.empty(0, np.intp), np.empty(0, np.float32)
    to_others = cv2.distanceTransform((~others).view(np.uint8), cv2.DIST_L2, 3)
    # What the depth's inverse does in the picture is linear on any plane.
    weight = own.astype(np.float32)
    inverse = np.zeros_like(weight)
    np.divide(1.0, depth_m, out=inverse, where=own)
    step = np.arange(-_AROUND, _AROUND + 1, dtype=np.float32)
    powers = np.ones_like(step), step, step * step

    def moment(of, u, v):
        return cv2.sepFilter2D(of, cv2.CV_32F, powers[u], powers[v], borderType=cv2.BORDER_CONSTANT).ravel()

    at = np.flatnonzero(lost & (to_own <= to_others) & (to_own + to_others <= _GAP_PX))
    n, u, v, uu, uv, vv = (
        moment(weight, *of).take(at).astype(float) for of in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
    )
    enough = n >= _LEAST
    at = at[enough]
    n, u, v, uu, uv, vv = (of[enough] for of in (n, u, v, uu, uv, vv))
    q, qu, qv = (moment(inverse, *of).take(at).astype(float) for of in ((0, 0), (1, 0), (0, 1)))
    # About the middle of the known ones.
    mu, mv, mq = u / n, v / n, q / n
    suu, svv, suv = uu - n * mu * mu + _RIDGE, vv - n * mv * mv + _RIDGE, uv - n * mu * mv
    squ, sqv = qu - q * mu, qv - q * mv
    determinant = suu * svv - suv * suv
    du, dv = (squ * svv - sqv * suv) / determinant, (sqv * suu - squ * suv) / determinant
    found = mq - du * mu - dv * mv
    near = np.abs(found - mq) < _BEND * mq
    return at[near], (1.0 / found[near]).astype(np.float32)
