"""A surface that two boxes show is one object's: an occluder never stands for what it hides."""

from __future__ import annotations

import depth_scenes as ds
import numpy as np
import pytest

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


# -- pieces of one thing ------------------------------------------------------------------------------------------------------------


def length_of(scene, depth_m, box):
    result = lift_boxes(SceneCloud.of(scene.frame(depth_m=depth_m), LiftConfig()), [Detection2D("pan", box, 0.9, "0")])
    return float(result.detections[0].size_m.max())


def test_a_hole_in_the_readings_does_not_cut_a_thing_in_two():
    scene = ds.Scene([ds.box((0.24, 0.04, 0.03))], ds.look_from(50, -90))
    rows, columns = scene.depth_m.shape
    x = (np.arange(columns) - scene.K[0, 2]) / scene.K[0, 0] * 0.7  # the thing lies across the view, 0.7 m away
    strip = (x > 0.02) & (x < 0.045)
    holed = scene.depth_m.copy()
    holed[:, strip] = np.nan
    whole = length_of(scene, scene.depth_m, scene.box_px(0))
    assert abs(length_of(scene, holed, scene.box_px(0)) - whole) < 0.01


def test_two_things_with_the_table_seen_between_them_stay_two():
    near, far = ds.box((0.12, 0.04, 0.03), (-0.06, 0)), ds.box((0.09, 0.04, 0.03), (0.07, 0))
    scene = ds.Scene([near, far], ds.look_from(50, -90))
    corners = np.array([scene.box_px(k) for k in (0, 1)])
    both = tuple((*corners[:, :2].min(0), *corners[:, 2:].max(0)))
    assert length_of(scene, scene.depth_m, both) < 0.15


def with_handle(body, handle, lost, distance_m):
    """A thing of a body and a handle in the air to its right, whose depth is lost from x to x, metres; the box around all, and how long it is."""
    scene = ds.Scene([body, *(ds.box(*of) for of in handle)], ds.look_from(50, -90, distance_m, (0.05, 0, 0)))
    corners = np.array([scene.box_px(k) for k in range(len(scene.solids))])
    both = tuple((*corners[:, :2].min(0), *corners[:, 2:].max(0)))
    camera_T_world, depth_m = np.linalg.inv(scene.world_T_camera), scene.depth_m.copy()
    for ends in lost:
        of = np.array([(x, 0.0, 0.03) for x in ends]) @ camera_T_world[:3, :3].T + camera_T_world[:3, 3]
        start, end = (of @ scene.K.T)[:, 0] / of[:, 2]
        rows = slice(int(both[1]) - 12, int(both[3]) + 12)
        depth_m[rows, int(start) : int(np.ceil(end))] = np.nan
    return length_of(scene, depth_m, both)


def test_a_handle_with_a_hole_in_it_is_all_of_the_handle():
    pan, handle = (
        ds.cylinder(0.14, 0.04),
        [((0.07, 0.02, 0.012), (0.12, 0), 0, 0.03), ((0.03, 0.02, 0.012), (0.20, 0), 0, 0.03)],
    )
    assert abs(with_handle(pan, handle, [(0.060, 0.10), (0.15, 0.19)], 0.7) - 0.285) < 0.015


def test_a_ladle_whose_neck_was_lost_keeps_its_handle():
    handle = [((0.06, 0.02, 0.012), (0.115, 0), 0, 0.035), ((0.03, 0.02, 0.012), (0.19, 0), 0, 0.035)]
    ladle = ds.cylinder(0.07, 0.05)
    assert abs(with_handle(ladle, handle, [(0.026, 0.088), (0.142, 0.176)], 0.75) - 0.24) < 0.015


def test_a_brush_in_three_pieces_is_one():
    brush = ds.box((0.08, 0.05, 0.04))
    handle = [((0.06, 0.02, 0.012), (0.11, 0), 0, 0.03), ((0.03, 0.02, 0.012), (0.18, 0), 0, 0.03)]
    assert abs(with_handle(brush, handle, [(0.030, 0.085), (0.139, 0.166)], 0.8) - 0.235) < 0.015


@pytest.mark.parametrize("detected", (False, True))
def test_what_something_nearer_cuts_in_two_is_joined(detected):
    bar, can = ds.box((0.30, 0.04, 0.04)), ds.cylinder(0.06, 0.14, (0.0, -0.10))
    scene = ds.Scene([bar, can], ds.look_from(25, -90))
    order = (0, 1) if detected else (0,)
    result = lift_boxes(SceneCloud.of(scene.frame(), LiftConfig()), [thing(scene, k) for k in order])
    assert abs(float(result.detections[0].size_m.max()) - 0.30) < 0.01, result


def test_two_things_either_side_of_one_in_front_stay_two():
    left, right = ds.box((0.08, 0.04, 0.04), (-0.09, 0)), ds.box((0.08, 0.04, 0.04), (0.09, 0))
    scene = ds.Scene([left, right, ds.cylinder(0.12, 0.14, (0.0, -0.10))], ds.look_from(25, -90))
    result = lift_boxes(SceneCloud.of(scene.frame(), LiftConfig()), [thing(scene, k) for k in (0, 1, 2)])
    assert [d.size_m[:2].max() < 0.13 for d in result.detections] == [True] * 3


def test_a_thing_hardly_seen_behind_one_that_nobody_asked_for_is_refused_as_mostly_hidden():
    behind, front = ds.box((0.20, 0.04, 0.10), (0.0, 0.10)), ds.box((0.12, 0.04, 0.25), (0.0, -0.06))
    alone = ds.Scene([behind], ds.look_from(25, -90))
    scene = ds.Scene([behind, front], ds.look_from(25, -90))
    result = lift_boxes(SceneCloud.of(scene.frame(), LiftConfig()), [Detection2D("thing", alone.box_px(0), 0.9, "0")])
    assert not result.detections
    assert result.refusals[0].reason.startswith("mostly hidden: ")


def thing(scene, k):
    return Detection2D("thing", scene.box_px(k), 0.9, str(k))
