"""Slanting sheets and ridges on tapers are no places for flat fingers; walls, lids' knobs and plain boxes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import depth_scenes as ds
import numpy as np
import pytest

from qwen3vl_ros.config import GripperConfig, LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.grasping.slips import on_a_ridge, on_a_sheet
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.types import Detection2D, GraspTarget

STEPS = 160


@dataclass(frozen=True, eq=False)
class Relief(ds.Solid):
    """What stands on the table under a surface z = height(x, y) within its extents; the solid's frame is in its middle."""

    height: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x, y: 0 * x

    def depths(self, origin, rays):
        half = np.asarray(self.size_m) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (-half - origin) / rays, (half - origin) / rays
        start, end = np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)
        found = np.full(start.shape, np.inf)
        hits = start < end
        start, end, rays = start[hits], end[hits], rays[hits]
        t = start[:, None] + (end - start)[:, None] * np.linspace(0, 1, STEPS)
        x, y, z = (origin[k] + t * rays[:, k, None] for k in range(3))
        below = z + half[2] <= self.height(x, y)
        first = below.argmax(1)
        found[hits] = np.where(below.any(1), t[np.arange(len(t)), first], np.inf)
        return found


def relief(size_m, height, yaw=0.0) -> Relief:
    return Relief("relief", size_m, ds.pose(ds.turn_z(yaw), (0, 0, size_m[2] / 2)), height)


def carton(x, y):
    """54 mm wide, 143 mm high: over 112 mm a roof that ends in a fin of 2 mm."""
    side = np.abs(y)
    roof = np.where(side < 0.0015, 0.143, 0.129 - (side - 0.0015) * 0.7)
    return np.where((side < 0.027) & (np.abs(x) < 0.027), roof, 0.0)


def planned(solid, elevation=45.0, seed=0) -> tuple[ds.Scene, GraspTarget]:
    camera = ds.look_from(elevation, 25.0 + 40 * seed, 0.8)
    scene = ds.Scene([solid], camera, K=ds.intrinsics(640, 480), size_px=(640, 480))
    frame = scene.frame(depth_m=noisy_depth(scene.depth_m, scene.K, seed, 1.0), up_camera=scene.world_T_camera[2, :3])
    cloud = SceneCloud.of(frame, LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D("thing", scene.box_px(0), 0.9, "0")])
    (grasp,) = plan_grasps(cloud, lifted.detections, GripperConfig())
    return scene, grasp


@pytest.mark.parametrize("seed", range(4))
def test_a_carton_is_held_below_its_roof(seed):
    scene, grasp = planned(relief((0.06, 0.06, 0.145), carton), 35.0, seed)
    assert grasp.feasible, grasp.reason
    tip = (scene.world_T_camera @ grasp.frame_T_gripper)[2, 3]
    assert tip < 0.118, f"{grasp.width_m:.3f} m wide at {tip:.3f} m"


def test_contacts_that_face_each_other_are_no_sheet():
    # Rim of a plate: one finger's contact ends where the other's begins.
    assert "face each other" in on_a_sheet((0.006, 0.004), (0.0095, 0.0058), (0.0117, 0.0068), 0.016)
    assert not on_a_sheet((0.001, 0.001), (0.006, 0.007), (0.012, 0.013), 0.016), "a bar"
    assert not on_a_sheet((0.000, 0.012), (0.004, 0.019), (0.012, 0.026), 0.014), "the wall of a bowl is steep"
    assert not on_a_sheet((0.000, 0.027), (0.012, 0.029), (0.026, 0.031), 0.070), (
        "a box whose far side was seen from above"
    )
    assert not on_a_sheet((0.010, 0.010), (0.011, 0.011), (0.012, 0.012), 0.020), "a top alone, level"


def ridge(slope: float, width_m: float, step_m: float = 0.0):
    """Points of a ridge with sides below the fingertips that run out by `slope` a metre, after a step."""
    z = np.repeat(np.linspace(0.012, -0.02, 65), 2)
    side = np.tile((-1.0, 1.0), 65)
    return side * (width_m / 2 + np.maximum(-z, 0) * slope + (z < 0) * step_m), z


@pytest.mark.parametrize(
    ("slope", "step_m", "slips"), ((1.2, 0.0, True), (1.6, 0.0, True), (0.1, 0.0, False), (0.0, 0.012, False))
)
def test_a_ridge_slips_where_its_sides_run_out_steadily(slope, step_m, slips):
    y, z = ridge(slope, 0.009, step_m)
    assert bool(on_a_ridge(y, z, np.ones(len(y), bool), 0.009)) is slips
    one_side = y * np.where(y < 0, 1.0, 0.0) + np.where(y < 0, 0.0, 0.0045)
    assert not on_a_ridge(one_side, z, np.ones(len(y), bool), 0.009), "on the other side it is a wall"
    assert not on_a_ridge(y[:4], z[:4], np.ones(4, bool), 0.009), "nothing is known below"
