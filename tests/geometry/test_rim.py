"""What a depth camera loses at the edges of things is given back to them: their outline, their middle, no more than that."""

from __future__ import annotations

import math

import numpy as np
import pytest
from depth_scenes import Scene, Solid, cylinder, intrinsics, look_from, pose, turn_x, turn_z
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.rim import lost_rim
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.types import Detection2D

SHAPE = 60, 80


def ring(radius_px, lost_px, centre=(30, 40)):
    """A disk and what is beside it, with lost pixels on both sides of its edge."""
    row, column = np.indices(SHAPE)
    away = np.hypot(row - centre[0], column - centre[1])
    return away < radius_px - lost_px, away > radius_px + lost_px, away


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.003, 0.003), st.floats(-0.003, 0.003), st.floats(0.3, 2.0), st.integers(8, 20))
def test_the_depth_of_a_plane_goes_on_to_its_edge(slope_u, slope_v, z, radius):
    row, column = np.indices(SHAPE)
    depth = 1 / np.maximum(1 / z + slope_u * (column - 40) + slope_v * (row - 30), 0.1)
    own, others, away = ring(radius, 1.5)
    at, found = lost_rim(own, others, np.where(own, depth, 9.0).astype(np.float32))
    assert len(at)
    # Ridge and float32 apart, the plane itself; and the edge is in the middle of what was lost.
    assert np.allclose(found, depth.ravel()[at], rtol=0.02)
    assert np.abs(away.ravel()[at] - radius).max() < 2.0
    assert abs(away.ravel()[at].max() - radius) < 1.1
    lost = ~(own | others) & (away < radius - 0.8)
    assert np.isin(np.flatnonzero(lost), at).mean() > 0.9


def test_nothing_is_added_where_nothing_is_lost_or_nothing_is_seen_beside():
    own, others, _ = ring(15, 0.0)
    assert not len(lost_rim(own, ~own, np.ones(SHAPE, np.float32))[0])
    assert not len(lost_rim(own, np.zeros(SHAPE, bool), np.ones(SHAPE, np.float32))[0])


def errors_m(make, elevation, seeds, noise=1.0):
    """How far the lifted centre is from the true one away from the camera, on average, and each extent's errors."""
    away, sizes = [], []
    for seed in seeds:
        solid = make(seed)
        scene = Scene([solid], look_from(elevation, distance_m=0.75), K=intrinsics(640, 480), size_px=(640, 480))
        depth = noisy_depth(scene.depth_m, scene.K, seed, noise)
        frame = scene.frame(depth_m=depth, up_camera=scene.world_T_camera[2, :3])
        (found,) = lift_boxes(
            SceneCloud.of(frame, LiftConfig()), [Detection2D("thing", scene.box_px(), 0.9, "0")]
        ).detections
        camera_T_box = found.frame_T_box
        in_world = scene.world_T_camera @ camera_T_box
        sight = solid.world_T_solid[:2, 3] - scene.world_T_camera[:2, 3]
        away.append(float((in_world[:2, 3] - solid.world_T_solid[:2, 3]) @ sight / np.linalg.norm(sight)))
        sizes.append(np.sort(found.size_m) - np.sort(solid.size_m))
    return float(np.mean(away)), np.median(np.abs(sizes), 0)


@pytest.mark.parametrize("elevation", [38, 55, 70])
def test_a_brick_is_not_nearer_than_it_is(elevation):
    def brick(seed):
        return Solid("box", (0.12, 0.07, 0.05), pose(turn_z(0.7 * seed), (0, 0, 0.025)))

    away, size = errors_m(brick, elevation, range(8))
    assert abs(away) < 0.003
    assert size.max() < 0.006


def test_a_lying_can_reaches_as_far_behind_its_axis_as_before_it():
    def can(seed):
        return Solid("cylinder", (0.066, 0.066, 0.11), pose(turn_z(0.5 * seed) @ turn_x(math.pi / 2), (0, 0, 0.033)))

    away, size = errors_m(can, 45, range(8))
    assert abs(away) < 0.004
    assert size[0] < 0.006


def test_standing_cans_stay_round():
    away, size = errors_m(lambda seed: cylinder(0.07, 0.10), 50, range(6))
    assert abs(away) < 0.004 and size.max() < 0.008
