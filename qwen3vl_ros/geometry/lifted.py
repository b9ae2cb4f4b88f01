"""What lifting gives: 3D boxes, and a reason for each detection that has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.types import Detection3D, Refusal


@dataclass(frozen=True)
class Lifted:
    """Boxes in the order of the detections they came from, and why the others have none."""

    detections: tuple[Detection3D, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def finite_or_reason(result: Detection3D | str) -> Detection3D | str:
    """The box, or why not even a finite one came out: nobody may be sent to a place that is no number."""
    if isinstance(result, str) or (np.isfinite(result.frame_T_box).all() and np.isfinite(result.size_m).all()):
        return result
    return "its pose or size is not finite: the depth, the calibration or the pose of the camera is not of this picture"
