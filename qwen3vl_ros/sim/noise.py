"""The embedded camera's picture as a real depth camera gives it. Knows nothing of what the picture shows."""

from __future__ import annotations

import numpy as np

from qwen3vl_ros.sim.camera import SimView
from qwen3vl_ros.types import Frame


def noisy_frame(view: SimView, noise: float, seed: int, known_up: bool = True) -> Frame:
    """A frame of the picture, in the world frame, whose depth has noise and whole millimetres.

    noise: standard deviation of the depth at 1 m, metres; it grows with the square of the range, as stereo's does.
    known_up: whether the frame says what is against gravity. A view without colours gives a black frame.
    """
    rng = np.random.default_rng(seed)
    depth_m = view.depth_m + rng.normal(size=view.depth_m.shape) * noise * view.depth_m**2
    depth_m = np.where(view.depth_m > 0, np.round(depth_m, 3), 0).astype(np.float32)
    return Frame(
        stamp_ns=1,
        frame_id="camera",
        rgb=np.zeros((*depth_m.shape, 3), np.uint8) if view.rgb is None else view.rgb,
        depth_m=depth_m,
        K=view.K,
        target_T_camera=view.world_T_camera,
        target_frame="world",
        up_camera=view.world_T_camera[2, :3] if known_up else None,
    )
