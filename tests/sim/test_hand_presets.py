"""Each preset of config/ is a hand that plans for itself and holds what it plans, in the physical world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from qwen3vl_ros.config import Config, LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.sim.camera import SimCamera, SimCameraError
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.hand import FreeHand, furnish_hand
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import Detection2D, Frame

PRESETS = sorted((Path(__file__).parents[2] / "config").glob("gripper_*.yaml"))


@pytest.fixture(scope="module")
def camera():
    try:
        with SimCamera(quality="fast") as camera:
            yield camera
    except SimCameraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_preset_holds_what_it_plans(preset, camera):
    (node,) = yaml.safe_load(preset.read_text()).values()
    gripper = replace(Config().gripper, **node["ros__parameters"]["gripper"])
    tried = held = 0
    for seed in range(300, 305):
        spec = sample_scene(seed, n_objects=2)
        world = PhysicalWorld(spec, furnish_hand(gripper, 0.8))
        hand = FreeHand(world, gripper, len(spec.objects))
        world.settle(longest_s=1.5)
        hand.keep()
        view = camera.render(world.spec(), rgb=False)
        depth_m = noisy_depth(view.depth_m, view.K, seed)
        frame = Frame(
            1,
            "camera",
            np.zeros((*depth_m.shape, 3), np.uint8),
            depth_m,
            view.K,
            target_T_camera=view.world_T_camera,
            target_frame="world",
        )
        cloud = SceneCloud.of(frame, LiftConfig())
        seen = [t for t in view.truths if t.visibility > 0.6 and t.fully_in_view]
        lifted = lift_boxes(cloud, [Detection2D(t.label, t.box_xyxy_px, 0.9, str(t.index)) for t in seen])
        for grasp in plan_grasps(cloud, lifted.detections, gripper):
            if grasp.feasible:
                tried += 1
                held += hand.grasp(
                    grasp.frame_T_gripper, grasp.width_m, grasp.opening_m, grasp.approach_m, int(grasp.detection_id)
                ).held
    assert tried >= 6 and held >= 0.8 * tried, (held, tried)
