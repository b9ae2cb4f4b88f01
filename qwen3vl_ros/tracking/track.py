"""What is said of one followed thing in one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.types import Detection3D

FRESH, COASTING, OCCLUDED, UNCERTAIN, LOST = STATES = ("fresh", "coasting", "occluded", "uncertain", "lost")


@dataclass(frozen=True, eq=False)
class Track:
    """One thing in one picture.

    state: fresh (its points are followed), coasting (they are lost: moved as it went last), occluded (something nearer is before
    it), uncertain (another could be meant by its id), lost (said once, then never again). score: the answer's, halved each second
    of coasting. seen_ns: capture of the last answer that saw it. position_m, velocity_m_s: 3 metres (a second) in frame_id, None
    without depth; spread_m: their uncertainty, one deviation. solid: its 3D box moved to this picture, None where none was measured.
    """

    id: str
    label: str
    box_xyxy_px: tuple[float, float, float, float]
    score: float
    state: str
    stamp_ns: int
    seen_ns: int
    frame_id: str = ""
    position_m: np.ndarray | None = None
    velocity_m_s: np.ndarray | None = None
    spread_m: float = float("nan")
    solid: Detection3D | None = None
