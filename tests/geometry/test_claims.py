"""A surface that two boxes show is one object's: an occluder never stands for what it hides."""

from __future__ import annotations

import depth_scenes as ds
import numpy as np

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.types import Detection2D

# A camera that looks along y: the first stands before the second and hides its middle.
FRONT = ds.box((0.05, 0.04, 0.10), (0.0, -0.08))
BEHIND = ds.box((0.11, 0.04, 0.11), (0.0, 0.04))


def lifted(order):
    scene = ds.Scene([FRONT, BEHIND], ds.look_from(30, -90))
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    result = lift_boxes(cloud, [Detection2D("thing", scene.box_px(i), 0.9, str(i)) for i in order])
    world = {d.id: (scene.world_T_camera @ d.frame_T_box)[:3, 3] for d in result.detections}
    return world, {r.id: r.reason for r in result.refusals}


def test_what_is_hidden_is_not_where_its_occluder_is():
    for order in ((0, 1), (1, 0)):
        world, refused = lifted(order)
        assert np.linalg.norm(world["0"][:2] - (0.0, -0.08)) < 0.01
        assert "1" in refused or np.linalg.norm(world["1"][:2] - (0.0, 0.04)) < 0.03, world


def test_a_box_whose_surface_is_all_anothers_is_refused_with_that_reason():
    scene = ds.Scene([FRONT], ds.look_from(30, -90))
    own = np.array(scene.box_px(0))
    wide = own + (-80, -10, 80, 10)
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    result = lift_boxes(cloud, [Detection2D("a", tuple(own), 0.9, "a"), Detection2D("b", tuple(wide), 0.9, "b")])
    assert [d.id for d in result.detections] == ["a"]
    (refusal,) = result.refusals
    assert refusal.reason.startswith("mostly hidden: ")
