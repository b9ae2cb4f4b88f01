"""What stands on what: ray-cast solids on boxes, trays, shelves and in open boxes, and the wider embedded world."""

from __future__ import annotations

import math

import depth_scenes as ds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.facts import measure, stands_on
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.observed import layout_of, levels_of
from qwen3vl_ros.geometry.opening import opening
from qwen3vl_ros.types import Detection2D, Verdict

few = settings(max_examples=20, deadline=None, derandomize=True)
UP = np.array((0.0, 0.0, 1.0))


def lifted(scene: ds.Scene, *indices: int, known_up: bool = False, **changes):
    """(cloud, {index: detection}) of some solids, lifted together from the boxes around their visible pixels."""
    up = scene.world_T_camera[2, :3] if known_up else None
    frame = scene.frame(target_T_camera=scene.world_T_camera, target_frame="world", up_camera=up, **changes)
    cloud = SceneCloud.of(frame, LiftConfig())
    found = lift_boxes(cloud, [Detection2D(f"thing {i}", scene.box_px(i), 0.9, str(i)) for i in indices])
    assert not found.refusals, found.refusals
    return cloud, {int(d.id): d for d in found.detections}


def bottom_m(detection) -> float:
    return float(detection.frame_T_box[2, 3] - detection.size_m[2] / 2)


def top_m(detection) -> float:
    return float(detection.frame_T_box[2, 3] + detection.size_m[2] / 2)


def walls(size_m, thickness: float, position=(0, 0), bottom: float = 0.0) -> list[ds.Solid]:
    """An open box of five solids: its floor and four walls."""
    x, y, z = size_m
    sides = [ds.box((x, y, thickness), position, bottom=bottom)]
    for sign in (-1, 1):
        at_x, at_y = sign * (x - thickness) / 2, sign * (y - thickness) / 2
        sides.append(ds.box((thickness, y, z), (position[0] + at_x, position[1]), bottom=bottom))
        sides.append(ds.box((x, thickness, z), (position[0], position[1] + at_y), bottom=bottom))
    return sides


def as_one(scene: ds.Scene, first: int, last: int) -> ds.Scene:
    """The scene with solids first..last counted as the first: one thing of several parts."""
    scene.labels[(scene.labels >= first) & (scene.labels <= last)] = first
    return scene


# -- a thing stands on the highest surface under it --------------------------------------------------------------------

CARRIED = {
    "10 cm on a box of 5 cm": (ds.box((0.06, 0.06, 0.10), bottom=0.05, yaw=0.3), ds.box((0.16, 0.14, 0.05), yaw=0.1)),
    "a can on a box of 3 cm": (ds.cylinder(0.066, 0.12, bottom=0.03), ds.box((0.14, 0.14, 0.03), yaw=0.5)),
    "a ball on a box of 4 cm": (ds.ball(0.07, bottom=0.04), ds.box((0.15, 0.12, 0.04))),
    "a flat box on a book": (ds.box((0.08, 0.05, 0.02), bottom=0.025, yaw=1.0), ds.box((0.2, 0.15, 0.025))),
    "a tower on a puck": (ds.box((0.04, 0.04, 0.15), bottom=0.03), ds.cylinder(0.12, 0.03)),
}


@pytest.mark.parametrize("known_up", (False, True))
@pytest.mark.parametrize("elevation_deg", (25, 40, 60))
@pytest.mark.parametrize("name", CARRIED)
def test_a_thing_ends_where_what_carries_it_begins(name, elevation_deg, known_up):
    upper, lower = CARRIED[name]
    scene = ds.Scene([upper, lower], ds.look_from(elevation_deg, distance_m=0.7))
    _, alone = lifted(scene, 0, known_up=known_up)
    cloud, both = lifted(scene, 0, 1, known_up=known_up)
    height = lower.size_m[2]
    for found in (alone[0], both[0]):
        assert bottom_m(found) == pytest.approx(height, abs=0.004), "though it is seen below 0.4 of its height"
        assert np.linalg.norm(found.frame_T_box[:3, 3] - upper.world_T_solid[:3, 3]) < 0.006
    assert top_m(both[1]) == pytest.approx(height, abs=0.004), "what it carries is not its own"
    layout = layout_of(cloud, list(both.values()))
    assert stands_on(layout, "0").arguments[1] == "1" and stands_on(layout, "1").arguments[1] == "table"
    assert measure(layout, "on", ("0", "table")).verdict is Verdict.FALSE


FLUSH = {
    "two boxes of one size": (ds.box((0.08, 0.08, 0.10), bottom=0.05, yaw=0.3), ds.box((0.08, 0.08, 0.05), yaw=0.3)),
    "a board on a post": (ds.box((0.12, 0.10, 0.03), bottom=0.08, yaw=0.3), ds.cylinder(0.05, 0.08)),
    "a tall can on a puck": (ds.cylinder(0.07, 0.14, bottom=0.04), ds.cylinder(0.07, 0.04)),
}


@pytest.mark.parametrize("roll_deg", (0, 90, 180, -90))
@pytest.mark.parametrize("elevation_deg", (20, 40))
@pytest.mark.parametrize("name", FLUSH)
def test_a_thing_that_hides_the_top_of_its_support_ends_there_too(name, elevation_deg, roll_deg):
    upper, lower = FLUSH[name]
    camera = ds.look_from(elevation_deg, distance_m=0.75, roll_deg=roll_deg)
    cloud, found = lifted(ds.Scene([upper, lower], camera), 0, 1)
    height = lower.size_m[2]
    assert bottom_m(found[0]) == pytest.approx(height, abs=0.006)
    assert top_m(found[1]) < height + 0.01, "of the lower one some may be missing, which is hidden"
    assert stands_on(layout_of(cloud, list(found.values())), "0").arguments[1] == "1"


@pytest.mark.parametrize("noise", (0.001, 0.003))
def test_noise_of_a_depth_camera_does_not_move_a_thing_to_the_table(noise):
    for name, (upper, lower) in CARRIED.items():
        scene = ds.Scene([upper, lower], ds.look_from(40, distance_m=0.7), noise=noise)
        _, found = lifted(scene, 0, 1)
        assert bottom_m(found[0]) == pytest.approx(lower.size_m[2], abs=0.008), name


def test_three_things_stand_one_on_the_other():
    solids = [ds.ball(0.05, bottom=0.10), ds.box((0.09, 0.09, 0.06), bottom=0.04, yaw=0.4), ds.box((0.18, 0.16, 0.04))]
    cloud, found = lifted(ds.Scene(solids, ds.look_from(45)), 0, 1, 2)
    for k, height in enumerate((0.10, 0.04, 0.0)):
        assert bottom_m(found[k]) == pytest.approx(height, abs=0.004), k
    layout = layout_of(cloud, list(found.values()))
    assert [stands_on(layout, str(k)).arguments[1] for k in range(3)] == ["1", "2", "table"]


BESIDE = {
    "behind a box that it touches": [ds.box((0.12, 0.06, 0.05), (0, -0.063))],
    "behind a box with a gap": [ds.box((0.12, 0.06, 0.05), (0, -0.09))],
    "between two boxes of one height": [ds.box((0.06, 0.06, 0.05), (-0.07, 0)), ds.box((0.06, 0.06, 0.05), (0.07, 0))],
    "in front of a box": [ds.box((0.12, 0.06, 0.05), (0, 0.07))],
    "in the corner of three boxes": [ds.box((0.06, 0.06, 0.05), xy) for xy in ((-0.07, 0), (0.07, 0), (0.07, 0.07))],
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_boxes_still_stands_on_the_table(name):
    for elevation_deg in (30, 50):
        scene = ds.Scene([ds.cylinder(0.06, 0.12), *BESIDE[name]], ds.look_from(elevation_deg))
        _, found = lifted(scene, *range(len(scene.solids)))
        assert bottom_m(found[0]) == pytest.approx(0, abs=0.004)
        assert np.linalg.norm(found[0].frame_T_box[:3, 3] - (0, 0, 0.06)) < 0.01


@few
@given(st.floats(0.02, 0.12), st.floats(0.03, 0.12), st.floats(-180, 180), st.floats(30, 60))
def test_raising_what_carries_a_thing_raises_the_thing(height, own, azimuth, elevation):
    solids = [ds.box((0.05, 0.05, own), bottom=height, yaw=0.3), ds.box((0.15, 0.13, height), yaw=0.1)]
    _, found = lifted(ds.Scene(solids, ds.look_from(elevation, azimuth, 0.8)), 0)
    assert bottom_m(found[0]) == pytest.approx(height, abs=0.005)
    assert top_m(found[0]) == pytest.approx(height + own, abs=0.005)


# -- trays, open boxes, shelves -----------------------------------------------------------------------------------------


def test_a_thing_on_a_tray_stands_on_its_floor_not_on_its_rim():
    solids = [ds.box((0.06, 0.05, 0.07), (0.03, 0.01), bottom=0.006, yaw=0.5), *walls((0.26, 0.2, 0.025), 0.006)]
    scene = as_one(ds.Scene(solids, ds.look_from(45)), 1, 5)
    cloud, found = lifted(scene, 0, 1, known_up=True)
    assert bottom_m(found[0]) == pytest.approx(0.006, abs=0.003)
    assert top_m(found[1]) == pytest.approx(0.025, abs=0.004)
    layout = layout_of(cloud, list(found.values()))
    assert measure(layout, "in", ("0", "1")).verdict is Verdict.TRUE
    assert measure(layout, "in", ("1", "0")).verdict is not Verdict.TRUE


def test_a_ball_in_an_open_box_reaches_to_its_floor():
    solids = [ds.ball(0.06, bottom=0.01), *walls((0.16, 0.14, 0.07), 0.01)]
    scene = as_one(ds.Scene(solids, ds.look_from(65)), 1, 5)
    cloud, found = lifted(scene, 0, 1, known_up=True)
    assert bottom_m(found[0]) == pytest.approx(0.01, abs=0.004)
    layout = layout_of(cloud, list(found.values()))
    fact = measure(layout, "in", ("0", "1"))
    assert fact.verdict is Verdict.TRUE and fact.surface == "completed"


def opening_of(solids, elevation_deg: float):
    """The opening that a camera at this elevation sees in a thing of several solids."""
    scene = as_one(ds.Scene(solids, ds.look_from(elevation_deg), table=False), 0, len(solids) - 1)
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    points = cloud.points_m[scene.labels == 0].astype(float)
    world = points @ scene.world_T_camera[:3, :3].T + scene.world_T_camera[:3, 3]
    return opening(world, scene.world_T_camera[:3, 3], cloud.noise_m(points))


def test_an_opening_is_measured_by_what_is_seen_through_it():
    hollow = opening_of(walls((0.16, 0.12, 0.08), 0.008), 60)
    assert hollow.rim_m == pytest.approx(0.08, abs=0.002) and hollow.floor_m == pytest.approx(0.008, abs=0.004)
    np.testing.assert_allclose(np.ptp(hollow.border, axis=0), (0.16, 0.12), atol=0.006)
    assert hollow.takes(np.zeros(2)) and not hollow.takes(np.array((0.1, 0)))


CLOSED = {
    "a cube": [ds.box((0.08, 0.08, 0.08), yaw=0.3)],
    "a can": [ds.cylinder(0.07, 0.12)],
    "a ball": [ds.ball(0.08)],
    "a step": [ds.box((0.1, 0.05, 0.1)), ds.box((0.1, 0.05, 0.05), (0, -0.05))],
    "a box with a knob": [ds.box((0.12, 0.12, 0.08)), ds.ball(0.03, bottom=0.08)],
    "an open box from too low to see into": walls((0.16, 0.12, 0.08), 0.008),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("elevation_deg", (3, 45, 70))
def test_what_is_closed_has_no_opening(name, elevation_deg):
    if "open" not in name or elevation_deg == 3:
        assert opening_of(CLOSED[name], elevation_deg) is None


def shelf_scene(levels: int, spacing: float, *things: ds.Solid, elevation_deg: float = 20) -> ds.Scene:
    """Things and, after them as one thing, a shelf of boards and two sides on the table."""
    boards = [ds.box((0.4, 0.22, 0.012), bottom=0.008 + k * spacing) for k in range(levels)]
    sides = [ds.box((0.012, 0.22, levels * spacing), (sign * 0.2, 0)) for sign in (-1, 1)]
    solids = [*things, *boards, *sides]
    camera = ds.look_from(elevation_deg, distance_m=1.3, target=(0, 0, levels * spacing / 2))
    return as_one(ds.Scene(solids, camera), len(things), len(solids) - 1)


@pytest.mark.parametrize("levels, spacing, elevation_deg", ((2, 0.24, 20), (2, 0.30, 30), (3, 0.22, 28)))
def test_the_levels_of_a_shelf_are_counted_from_below(levels, spacing, elevation_deg):
    cloud, found = lifted(shelf_scene(levels, spacing, elevation_deg=elevation_deg), 0, known_up=True)
    boards = levels_of(cloud, found[0])
    assert [b.label for b in boards] == [f"thing 0 level {k + 1}" for k in range(levels)]
    heights = [float(b.outline_m[:, 2].mean()) for b in boards]
    np.testing.assert_allclose(heights, 0.02 + spacing * np.arange(levels), atol=0.004)
    assert [b.level for b in boards] == list(range(1, levels + 1))
    np.testing.assert_allclose([b.clear_m for b in boards], [spacing - 0.01] * (levels - 1) + [math.inf], atol=0.005)


@pytest.mark.parametrize("level", (1, 2))
@pytest.mark.parametrize("height", (0.06, 0.18))
def test_a_thing_on_a_level_stands_there_and_on_no_other(level, height):
    thing = ds.box((0.07, 0.07, height), (0.05, -0.02), yaw=0.3, bottom=0.02 + 0.28 * (level - 1))
    cloud, found = lifted(shelf_scene(2, 0.28, thing), 0, 1, known_up=True)
    assert bottom_m(found[0]) == pytest.approx(thing.world_T_solid[2, 3] - height / 2, abs=0.005)
    layout = layout_of(cloud, list(found.values()))
    verdicts = [measure(layout, "in", ("0", f"thing 1 level {k}")).verdict for k in (1, 2)]
    assert verdicts == [Verdict.TRUE if k == level else Verdict.FALSE for k in (1, 2)]
    assert stands_on(layout, "0").arguments[1] == f"1/level {level}"


@pytest.mark.parametrize("lowest", (0.2, 0.3))
def test_levels_with_room_for_a_hidden_one_below_get_no_numbers(lowest):
    boards = [ds.box((0.4, 0.22, 0.012), bottom=lowest + k * 0.26) for k in range(2)]
    sides = [ds.box((0.012, 0.22, lowest + 0.4), (sign * 0.2, 0)) for sign in (-1, 1)]
    scene = ds.Scene([*boards, *sides], ds.look_from(25, distance_m=1.4, target=(0, 0, 0.3)))
    cloud, found = lifted(as_one(scene, 0, 3), 0, known_up=True)
    assert levels_of(cloud, found[0]) == ()


def test_solid_things_have_no_levels():
    for solid in (ds.box((0.3, 0.2, 0.3)), ds.cylinder(0.2, 0.3), ds.ball(0.2)):
        cloud, found = lifted(ds.Scene([solid], ds.look_from(40, distance_m=1.2)), 0)
        assert levels_of(cloud, found[0]) == ()


# -- the table -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", (0.0, 0.001, 0.004))
@pytest.mark.parametrize("elevation_deg", (25, 40, 60))
def test_a_far_wall_and_floor_do_not_tilt_the_table(noise, elevation_deg):
    room = [
        ds.box((1.2, 0.9, 0.03), bottom=-0.03),
        ds.Solid("box", (8.0, 0.02, 8.0), ds.pose(None, (0, 3.0, 0))),
        ds.box((8.0, 8.0, 0.02), bottom=-0.74),
    ]
    scene = ds.Scene(room, ds.look_from(elevation_deg, distance_m=0.9), table=False, noise=noise)
    for up in (None, scene.world_T_camera[2, :3]):
        plane = SceneCloud.of(scene.frame(up_camera=up), LiftConfig()).plane
        assert plane is not None and plane.normal @ scene.world_T_camera[2, :3] > math.cos(math.radians(0.5))
        assert plane.offset_m == pytest.approx(scene.world_T_camera[2, 3], abs=0.004)


def test_the_noise_of_a_surface_is_the_noise_that_was_put_there():
    for noise in (0.0005, 0.002, 0.005):
        scene = ds.Scene([ds.box((0.2, 0.2, 0.1), yaw=0.3)], ds.look_from(40), noise=noise)
        cloud = SceneCloud.of(scene.frame(), LiftConfig())
        points = cloud.points_m[scene.labels == 0]
        assert cloud.noise_m(points) == pytest.approx(noise * np.median(points[:, 2]) ** 2, rel=0.2)
    assert math.isnan(cloud.noise_m(points[:3])), "three readings say nothing about noise"
