"""Balls and bowls stay whole in a stereo camera's depth, whose holes lie along every edge and cut a bowl's two walls apart."""

from __future__ import annotations

import numpy as np
import pytest

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import Detection2D, Frame

SCENES = range(28000, 28036)


@pytest.fixture(scope="module")
def size_errors() -> dict[str, list[float]]:
    """By kind: how far the worst extent of each lifted thing is off, as a share of its largest; 2D boxes are off by 2 px."""
    pytest.importorskip("mujoco")
    from qwen3vl_ros.sim.camera import SimCamera

    found: dict[str, list[float]] = {"ball": [], "bowl": [], "cube": []}
    with SimCamera(640, 480, quality="fast") as camera:
        for seed in SCENES:
            rng, view = np.random.default_rng(seed), camera.render(sample_scene(seed), rgb=False)
            pose = view.world_T_camera
            frame = Frame(
                1,
                "camera",
                np.zeros((480, 640, 3), np.uint8),
                noisy_depth(view.depth_m, view.K, seed),
                view.K,
                target_T_camera=pose,
                target_frame="world",
                up_camera=pose[2, :3],
            )
            seen = [t for t in view.truths if t.kind in found and t.visibility >= 0.8 and t.fully_in_view]
            boxes = [Detection2D(t.label, t.box_xyxy_px + rng.normal(0, 2, 4), 0.9, str(t.index)) for t in seen]
            lifted = {d.id: d for d in lift_boxes(SceneCloud.of(frame, LiftConfig()), boxes).detections}
            for t in seen:
                off = np.abs(np.sort(lifted[str(t.index)].size_m) - np.sort(t.size_m)).max() / max(t.size_m)
                found[t.kind].append(float(off))
    return found


@pytest.mark.parametrize("kind, at_least", [("ball", 8), ("bowl", 6), ("cube", 8)])
def test_their_extents_are_those_of_the_whole_thing(size_errors, kind, at_least):
    errors = size_errors[kind]
    assert len(errors) >= at_least
    assert np.median(errors) < 0.06 and sum(off > 0.2 for off in errors) <= len(errors) // 20
