"""Laws and cases of depth lifting, on ray-cast solids whose truth is exact, and on the embedded camera."""

from __future__ import annotations

import dataclasses
import math

import cv2
import depth_scenes as ds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud, pixels_between
from qwen3vl_ros.geometry.hulls import depth_inside, outline, signed_area
from qwen3vl_ros.geometry.lens import pixel_rays, project_px, ray_table
from qwen3vl_ros.geometry.lift import lift_boxes, trust
from qwen3vl_ros.geometry.model_boxes import place_model_boxes
from qwen3vl_ros.types import Detection2D, Detection3D, InvalidInput, ModelBox3D

CONFIG = LiftConfig()
few = settings(max_examples=20, deadline=None, derandomize=True)
metres = st.floats(-0.08, 0.08)
angles = st.floats(-math.pi, math.pi)


def lift(frame, *boxes_px, score=0.8, config=CONFIG):
    detections = [Detection2D(f"thing {i}", b, score, str(i)) for i, b in enumerate(boxes_px)]
    return lift_boxes(SceneCloud.of(frame, config), detections)


def lift_one(scene: ds.Scene, index: int = 0, **changes) -> Detection3D:
    lifted = lift(scene.frame(**changes), scene.box_px(index))
    assert not lifted.refusals, lifted.refusals
    return lifted.detections[0]


def why_not(frame, box_px=(100.0, 80.0, 200.0, 160.0), **kwargs) -> str:
    lifted = lift(frame, box_px, **kwargs)
    assert not lifted.detections and len(lifted.refusals) == 1
    return lifted.refusals[0].reason


def centre_error(found: Detection3D, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found.frame_T_box[:3, 3] - truth[:3, 3]))


def axis_angle_deg(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest angle between an axis of one box and the nearest axis of the other: boxes have no front."""
    cosines = np.abs(found[:3, :3].T @ truth[:3, :3]).max(1)
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))


def assert_rigid(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(matrix[3], (0, 0, 0, 1))


# -- the whole object from its visible side ------------------------------------------------------------------

SOLIDS = {
    "cube": ds.box((0.06, 0.06, 0.06), yaw=0.4),
    "brick": ds.box((0.12, 0.05, 0.04), yaw=-0.7),
    "flat box, 6 mm": ds.box((0.10, 0.06, 0.006), yaw=0.2),
    "upright plate, 8 mm": ds.box((0.10, 0.008, 0.09), yaw=0.5),
    "tower": ds.box((0.04, 0.04, 0.15), yaw=1.0),
    "ball": ds.ball(0.07),
    "can": ds.cylinder(0.066, 0.115),
    "puck": ds.cylinder(0.08, 0.02),
}


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("elevation_deg", (30, 50, 75))
def test_a_solid_on_a_table_is_lifted_whole(name, elevation_deg):
    scene = ds.Scene([SOLIDS[name]], ds.look_from(elevation_deg, distance_m=0.6))
    found, truth = lift_one(scene), scene.camera_T_solid()
    assert_rigid(found.frame_T_box)
    assert centre_error(found, truth) < 0.004
    np.testing.assert_allclose(np.sort(found.size_m), np.sort(scene.solids[0].size_m), atol=0.005)
    up = truth[:3, 2]
    assert found.frame_T_box[:3, 2] @ up == pytest.approx(1, abs=1e-4), "z is the support's normal"
    if scene.solids[0].kind == "box":
        assert axis_angle_deg(found.frame_T_box, truth) < 3
    assert found.support > 0.9 and found.source == "depth" and found.id == "0"


@pytest.mark.parametrize("solid", (ds.ball(0.08), ds.cylinder(0.07, 0.12)), ids=("ball", "can"))
def test_the_far_side_of_a_round_thing_is_completed_at_grazing_view(solid):
    scene = ds.Scene([solid], ds.look_from(8, distance_m=0.6))
    visible = lift_one(scene)
    toward_camera = np.linalg.norm(np.median(visible.points_camera_m, 0)) - np.linalg.norm(
        scene.camera_T_solid()[:3, 3]
    )
    assert toward_camera < -0.01, "the visible points alone lie too near: without completion this test would fail"
    assert centre_error(visible, scene.camera_T_solid()) < 0.004


def test_two_sides_of_a_box_give_the_whole_of_it():
    scene = ds.Scene([ds.box((0.10, 0.07, 0.30), yaw=0.6)], ds.look_from(1, distance_m=0.7, target=(0, 0, 0.15)))
    found = lift_one(scene)
    assert axis_angle_deg(found.frame_T_box, scene.camera_T_solid()) < 3
    assert centre_error(found, scene.camera_T_solid()) < 0.006


def test_a_thing_on_another_does_not_reach_down_to_the_table():
    scene = ds.Scene([ds.box((0.05, 0.05, 0.05), bottom=0.06, yaw=0.3), ds.box((0.11, 0.11, 0.06))], ds.look_from(35))
    found = lift_one(scene)
    assert centre_error(found, scene.camera_T_solid()) < 0.006
    assert found.size_m[2] == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(
    "size_m, tilt", (((0.10, 0.07, 0.05), 0.5), ((0.12, 0.08, 0.02), 0.9), ((0.15, 0.03, 0.03), 0.3))
)
def test_a_tilted_box_in_the_air_keeps_its_tilt(size_m, tilt):
    pose = ds.pose(ds.turn_z(0.5) @ ds.turn_x(tilt), (0, 0, 0.05))
    scene = ds.Scene([ds.Solid("box", size_m, pose)], ds.look_from(40, distance_m=0.5), table=False)
    found = lift_one(scene)
    assert axis_angle_deg(found.frame_T_box, scene.camera_T_solid()) < 5
    assert centre_error(found, scene.camera_T_solid()) < 0.006
    np.testing.assert_allclose(np.sort(found.size_m), np.sort(size_m), atol=0.008)


def test_a_ball_in_the_air_is_a_whole_ball():
    scene = ds.Scene([ds.ball(0.09)], ds.look_from(20, distance_m=0.5), table=False)
    found = lift_one(scene)
    assert centre_error(found, scene.camera_T_solid()) < 0.003
    np.testing.assert_allclose(found.size_m, 0.09, atol=0.004)


def test_gravity_makes_the_box_upright_where_no_plane_is_seen():
    scene = ds.Scene([ds.box((0.05, 0.05, 0.2), yaw=0.4)], ds.look_from(20, target=(0, 0, 0.1)), table=False)
    up = np.linalg.inv(scene.world_T_camera)[:3, 2]
    found = lift_one(scene, up_camera=up)
    assert found.frame_T_box[:3, 2] @ up == pytest.approx(1, abs=1e-6)
    assert centre_error(found, scene.camera_T_solid()) < 0.006


def test_a_wall_behind_the_table_is_not_the_support():
    wall = ds.Solid("box", (6.0, 0.02, 6.0), ds.pose(None, (0, 0.35, 0)))
    scene = ds.Scene([ds.box((0.06, 0.06, 0.09), yaw=0.4), wall], ds.look_from(12, distance_m=0.6))
    assert centre_error(lift_one(scene), scene.camera_T_solid()) < 0.004


# -- laws ----------------------------------------------------------------------------------------------------


@few
@given(metres, metres, st.sampled_from(sorted(SOLIDS)))
def test_moving_the_object_moves_the_box(dx, dy, name):
    solid = SOLIDS[name]
    moved = ds.Solid(solid.kind, solid.size_m, ds.pose(None, (dx, dy, 0)) @ solid.world_T_solid)
    a, b = (ds.Scene([s], ds.look_from(50, distance_m=0.75)) for s in (solid, moved))
    shift = a.world_T_camera[:3, :3] @ (lift_one(b).frame_T_box[:3, 3] - lift_one(a).frame_T_box[:3, 3])
    np.testing.assert_allclose(shift, (dx, dy, 0), atol=0.004)


@few
@given(angles, st.sampled_from(("cube", "brick", "tower")))
def test_turning_the_object_turns_the_box(yaw, name):
    solid = SOLIDS[name]
    turned = ds.Solid(solid.kind, solid.size_m, ds.pose(ds.turn_z(yaw)) @ solid.world_T_solid)
    scene = ds.Scene([turned], ds.look_from(50, distance_m=0.6))
    found = lift_one(scene)
    assert axis_angle_deg(found.frame_T_box, scene.camera_T_solid()) < 3
    assert centre_error(found, scene.camera_T_solid()) < 0.004


@few
@given(st.floats(-180, 180), st.floats(30, 75), st.floats(-40, 40), st.floats(0.45, 0.9))
def test_the_box_stays_where_it_is_when_the_camera_moves(azimuth, elevation, roll, distance):
    scene = ds.Scene([SOLIDS["brick"]], ds.look_from(elevation, azimuth, distance, roll_deg=roll))
    found = scene.world_T_camera @ lift_one(scene).frame_T_box
    np.testing.assert_allclose(found[:3, 3], scene.solids[0].world_T_solid[:3, 3], atol=0.005)
    assert axis_angle_deg(found, scene.solids[0].world_T_solid) < 3


@few
@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_results_are_in_the_target_frame(twist):
    scene = ds.Scene([SOLIDS["brick"]])
    target_T_camera = ds.pose(cv2.Rodrigues(np.array(twist[:3]))[0], twist[3:])
    in_camera, in_target = (
        lift_one(scene),
        lift_one(scene, target_T_camera=target_T_camera, target_frame="base"),
    )
    np.testing.assert_allclose(in_target.frame_T_box, target_T_camera @ in_camera.frame_T_box, atol=1e-9)
    np.testing.assert_array_equal(in_target.size_m, in_camera.size_m)
    np.testing.assert_array_equal(in_target.points_camera_m, in_camera.points_camera_m)
    assert (in_camera.frame_id, in_target.frame_id) == ("camera", "base")


@few
@given(st.floats(0.6, 2.5))
def test_a_larger_world_gives_larger_boxes(scale):
    def at(s):
        return ds.Scene(
            [ds.box(np.array((0.12, 0.07, 0.06)) * s, yaw=0.3)],
            ds.look_from(45, distance_m=0.7 * s, target=(0, 0, 0.03 * s)),
        )

    small, large = lift_one(at(1.0)), lift_one(at(scale))
    np.testing.assert_allclose(large.frame_T_box[:3, 3], scale * small.frame_T_box[:3, 3], atol=0.006 * scale)
    np.testing.assert_allclose(large.size_m, scale * small.size_m, atol=0.008 * scale)


def test_same_input_same_output():
    scene = ds.Scene([SOLIDS["brick"]], noise=0.002)
    np.testing.assert_array_equal(lift_one(scene).frame_T_box, lift_one(scene).frame_T_box)


# -- bad depth, clutter --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", (np.nan, 0.0, np.inf, -1.0, 60.0))
def test_missing_readings_change_nothing_but_the_support(value):
    scene = ds.Scene([SOLIDS["cube"]])
    whole = lift_one(scene)
    holes = np.random.default_rng(3).random(scene.depth_m.shape) < 0.3
    depth_m = np.where(holes, np.float32(value), scene.depth_m)
    found = lift_one(scene, depth_m=depth_m)
    assert centre_error(found, scene.camera_T_solid()) < 0.005
    assert found.support < whole.support - 0.15
    assert found.score < whole.score


@pytest.mark.parametrize("noise", (0.001, 0.003))
def test_noise_of_a_depth_camera_is_borne(noise):
    for name, solid in SOLIDS.items():
        if solid.size_m[2] > 0.03:  # what is flatter drowns
            scene = ds.Scene([solid], ds.look_from(50, distance_m=0.6), noise=noise)
            assert centre_error(lift_one(scene), scene.camera_T_solid()) < 0.012, name


def test_an_occluder_across_the_border_is_not_the_object():
    scene = ds.Scene([ds.box((0.09, 0.09, 0.09), yaw=0.2), ds.cylinder(0.03, 0.12, (-0.04, -0.09))], ds.look_from(35))
    x0, y0, x1, y1 = scene.box_px(0)
    column = np.flatnonzero((scene.labels[int(y0) : int(y1), int(x0) : int(x1)] == 1).any(0))
    assert len(column) > 5, "the occluder stands in the box, and nearer than the object"
    found = lift_one(scene)
    assert centre_error(found, scene.camera_T_solid(0)) < 0.012
    assert centre_error(found, scene.camera_T_solid(1)) > 0.05


def test_background_in_the_box_is_not_the_object():
    post = ds.cylinder(0.02, 0.16)
    block = ds.box((0.5, 0.1, 0.25), (0, 0.4))
    scene = ds.Scene([post, block], ds.look_from(15, distance_m=0.6, target=(0, 0, 0.08)))
    x0, y0, x1, y1 = scene.box_px(0)
    wide = (x0 - 25, y0 - 5, x1 + 25, y1 + 5)  # a sloppy box, most of it background
    lifted = lift(scene.frame(), wide)
    assert centre_error(lifted.detections[0], scene.camera_T_solid(0)) < 0.01


def test_neighbours_keep_to_themselves():
    scene = ds.Scene(
        [
            ds.box((0.05, 0.05, 0.05), (-0.03, 0)),
            ds.ball(0.05, (0.03, 0)),
            ds.cylinder(0.04, 0.09, (0, 0.06)),
        ],
        ds.look_from(50, distance_m=0.5),
    )
    lifted = lift(scene.frame(), *(scene.box_px(i) for i in range(3)))
    for i, found in enumerate(lifted.detections):
        assert centre_error(found, scene.camera_T_solid(i)) < 0.006, i
    assert [d.id for d in lifted.detections] == ["0", "1", "2"]


@pytest.mark.parametrize("jitter", (-0.08, 0.08, 0.15))
def test_a_box_that_is_a_little_off_still_finds_the_object(jitter):
    scene = ds.Scene([SOLIDS["cube"]], ds.look_from(50, distance_m=0.6))
    x0, y0, x1, y1 = scene.box_px()
    dx, dy = jitter * (x1 - x0), jitter * (y1 - y0)
    for moved in ((x0 - dx, y0 - dy, x1 + dx, y1 + dy), (x0 + dx, y0, x1 + dx, y1)):
        assert centre_error(lift(scene.frame(), moved).detections[0], scene.camera_T_solid()) < 0.006


# -- the lens ------------------------------------------------------------------------------------------------

LENSES = {
    "plumb_bob": np.array((-0.28, 0.09, 0.001, -0.0015, 0.0)),
    "rational_polynomial": np.array((0.5, -0.2, 0.001, 0.0008, 0.05, 0.8, -0.1, 0.02)),
    "equidistant": np.array((0.08, -0.03, 0.01, -0.002)),
}


@pytest.mark.parametrize("model", LENSES)
def test_distortion_is_respected(model):
    K, lens = ds.intrinsics(focal=0.6), LENSES[model]
    scene = ds.Scene(
        [ds.box((0.06, 0.06, 0.06), (0.25, 0.10), yaw=0.4)],
        ds.look_from(50, distance_m=0.5),
        K=K,
        distortion=lens,
        distortion_model=model,
    )
    truth = scene.camera_T_solid()
    assert centre_error(lift_one(scene), truth) < 0.004
    ignored = lift(scene.frame(distortion=None), scene.box_px())
    assert not ignored.detections or centre_error(ignored.detections[0], truth) > 0.01, "the lens must matter here"


def test_a_parcel_that_fills_the_picture_is_not_its_own_support():
    scene = ds.Scene([ds.box((0.30, 0.22, 0.15), yaw=0.2)], ds.look_from(80, distance_m=0.62))
    found = lift_one(scene)
    assert (scene.labels == 0).mean() > 0.25
    assert centre_error(found, scene.camera_T_solid()) < 0.01


@pytest.mark.parametrize("model", LENSES)
def test_every_ray_leads_back_to_its_pixel(model):
    K, lens = ds.intrinsics(focal=0.6), LENSES[model]
    rays = ray_table(K, lens, model, (ds.WIDTH, ds.HEIGHT)).astype(float)
    points = np.dstack((rays, np.ones(rays.shape[:2]))).reshape(-1, 3)
    known = np.isfinite(points[:, 0])
    assert known.mean() > 0.9
    zero = np.zeros(3)
    lens_of = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    pixels = lens_of(points[known, None], zero, zero, K, lens)[0][:, 0]
    v, u = np.divmod(np.flatnonzero(known), ds.WIDTH)
    np.testing.assert_allclose(pixels, np.stack((u, v), 1), atol=0.02)


@pytest.mark.parametrize("skew", [0.0, 3.0])
def test_the_points_of_a_window_are_its_rays_times_its_depth(skew):
    frame = ds.Scene([ds.box((0.05, 0.05, 0.05))]).frame()
    frame = dataclasses.replace(frame, K=frame.K + np.array(((0, skew, 0), (0, 0, 0), (0, 0, 0))))
    cloud, window = SceneCloud.of(frame, CONFIG), (slice(31, 200, 3), slice(50, 301, 2))
    rays = ray_table(frame.K, None, "plumb_bob", frame.size_px)
    whole = np.dstack((rays, np.ones(rays.shape[:2]))) * cloud.depth_m[..., None]
    np.testing.assert_allclose(cloud.window_points_m(*window), whole[window], atol=1e-6)


def test_an_outline_of_many_points_is_that_of_all_of_them():
    rng = np.random.default_rng(3)
    angle = rng.uniform(0, 2 * np.pi, 4000)
    square, ring = rng.uniform(-1, 1, (4000, 2)), np.stack((np.cos(angle), np.sin(angle)), 1)
    for points in (square, ring, rng.normal(size=(4000, 2)), square * (1, 0), np.concatenate((square, ring * 1.2))):
        border = outline(points)
        expected = cv2.convexHull(points.astype(np.float32))[:, 0]
        assert signed_area(border) == pytest.approx(abs(signed_area(expected)), abs=1e-5)
        assert depth_inside(border, points).min() > -1e-5


def test_a_pixel_beyond_the_lens_has_no_ray():
    lens = np.array((-0.4, 0.0, 0, 0, 0.0))  # folds back: no point of the world reaches the corners
    rays = pixel_rays(np.array(((0.0, 0.0), (159.5, 119.5))), ds.intrinsics(focal=0.35), lens)
    assert np.isnan(rays[0]).all() and np.allclose(rays[1], 0, atol=1e-9)


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(project_px(np.array(((0, 0, -1.0), (0, 0, 0))), ds.intrinsics())).all()


# -- refusals ------------------------------------------------------------------------------------------------


def test_without_depth_or_intrinsics_every_detection_is_told_why():
    scene = ds.Scene([SOLIDS["cube"]])
    lifted = lift(scene.frame(depth_m=None), (1, 2, 30, 40), (5, 5, 50, 50))
    assert len(lifted.refusals) == 2 and lifted.refusals[1].id == "1" and lifted.refusals[1].label == "thing 1"
    assert "no depth image" in lifted.refusals[0].reason
    assert "camera_info" in why_not(scene.frame(K=None))


def test_unregistered_depth_names_both_sizes_and_the_way_out():
    scene = ds.Scene([SOLIDS["cube"]])
    reason = why_not(scene.frame(depth_m=scene.depth_m[::2, ::2]))
    for part in ("160x120", "320x240", "aligned_depth_to_color"):
        assert part in reason


@pytest.mark.parametrize(
    "changes, part",
    (
        (dict(distortion=np.ones(3)), "coefficients"),
        (dict(distortion=np.ones(5), distortion_model="kannala"), "kannala"),
    ),
)
def test_a_lens_that_cannot_be_used_is_named(changes, part):
    assert part in why_not(ds.Scene([SOLIDS["cube"]]).frame(**changes))


def test_too_little_depth_says_how_much():
    scene = ds.Scene([SOLIDS["cube"]])
    box_px = scene.box_px()
    assert "0 of" in why_not(scene.frame(depth_m=np.full_like(scene.depth_m, np.nan)), box_px)
    assert "between 0.1 and 10 m" in why_not(scene.frame(depth_m=scene.depth_m * 0), box_px)
    far = LiftConfig(min_depth=5.0)
    assert "between 5 and" in why_not(scene.frame(), box_px, config=far)


def test_an_empty_table_is_not_an_object():
    scene = ds.Scene([SOLIDS["cube"]])
    assert "stands out from the support plane" in why_not(scene.frame(), (5, 150, 80, 230))


BEYOND = 1e9


@pytest.mark.parametrize(
    "other",
    (
        (0.0, 0.0, math.inf, math.inf),
        (-math.inf, -math.inf, math.inf, math.inf),
        (math.nan, 0.0, 50.0, 50.0),
        (-BEYOND, -BEYOND, BEYOND, BEYOND),
        (150.0, 150.0, 150.0, 150.0),
        (200.0, 200.0, 100.0, 100.0),
    ),
    ids=("to infinity", "infinite", "no number", "far beyond the image", "no area", "corners in reverse"),
)
def test_whatever_the_other_box_is_a_thing_is_lifted_or_refused_with_a_reason(other):
    scene = ds.Scene([SOLIDS["cube"]])
    lifted = lift(scene.frame(), scene.box_px(), other)
    assert len(lifted.detections) + len(lifted.refusals) == 2 and all(r.reason for r in lifted.refusals)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 4), st.floats(-60, 60), st.floats(-60, 60))
def test_pixels_between_two_coordinates_are_those_whose_centres_are(start, count, step, low, high):
    pixels = slice(start, start + count, step)
    centres = np.arange(start, start + count, step) + 0.5
    found = np.zeros(len(centres), bool)
    found[pixels_between(pixels, low, high)] = True
    np.testing.assert_array_equal(found, (centres > low) & (centres < high))


def test_a_box_outside_the_image_is_refused():
    assert "covers no pixel" in why_not(ds.Scene([SOLIDS["cube"]]).frame(), (400.0, 10.0, 450.0, 60.0))


def test_too_few_points_are_refused_by_the_configured_limit():
    scene = ds.Scene([SOLIDS["cube"]])
    assert "are needed" in why_not(scene.frame(), scene.box_px(), config=LiftConfig(min_points=100000))


# -- score ---------------------------------------------------------------------------------------------------


def test_the_score_is_the_detections_times_the_trust_in_its_support():
    scene = ds.Scene([SOLIDS["cube"]])
    found = lift(scene.frame(), scene.box_px(), score=0.5).detections[0]
    assert found.score == pytest.approx(0.5 * trust(found.support))
    unscored = lift(scene.frame(), scene.box_px(), score=float("nan")).detections[0]
    assert unscored.score == pytest.approx(trust(found.support))


@given(st.floats(0, 1), st.floats(0, 1))
def test_trust_grows_with_support(a, b):
    low, high = sorted((a, b))
    assert 0 <= trust(low) <= trust(high) <= 1
    assert trust(0) == 0 and trust(1) == 1


# -- the model's own boxes -----------------------------------------------------------------------------------


def model_box(centre=(0.1, -0.05, 1.0), size=(0.1, 0.2, 0.3)) -> ModelBox3D:
    return ModelBox3D("mug", np.array(centre), np.array(size), ds.turn_x(0.3), 0.7)


def test_without_intrinsics_a_model_box_stays_as_it_is():
    frame = ds.Scene([SOLIDS["cube"]]).frame(K=None, depth_m=None)
    (placed,) = place_model_boxes(frame, [model_box()]).detections
    np.testing.assert_allclose(placed.frame_T_box, ds.pose(ds.turn_x(0.3), (0.1, -0.05, 1.0)))
    assert (placed.source, placed.id, placed.support, placed.score, placed.label) == (
        "model",
        "m0",
        0.0,
        0.7,
        "mug",
    )
    assert len(placed.points_camera_m) == 0


def test_a_camera_with_the_assumed_lens_changes_nothing():
    half = np.array((ds.WIDTH, ds.HEIGHT)) / 2
    focal = half / math.tan(math.radians(30))
    K = np.array(((focal[0], 0, half[0] - 0.5), (0, focal[1], half[1] - 0.5), (0, 0, 1.0)))
    (placed,) = place_model_boxes(ds.Scene([SOLIDS["cube"]]).frame(K=K, depth_m=None), [model_box()]).detections
    np.testing.assert_allclose(placed.frame_T_box[:3, 3], (0.1, -0.05, 1.0), atol=1e-9)


@pytest.mark.parametrize("focal", (0.6, 1.4))
def test_the_true_lens_keeps_the_pixel_and_the_size(focal):
    K = ds.intrinsics(focal=focal)
    (placed,) = place_model_boxes(ds.Scene([SOLIDS["cube"]]).frame(K=K, depth_m=None), [model_box()]).detections
    half = np.array((ds.WIDTH, ds.HEIGHT)) / 2
    expected = half - 0.5 + half / math.tan(math.radians(30)) * (0.1, -0.05)
    np.testing.assert_allclose(project_px(placed.frame_T_box[:3, 3], K)[0], expected, atol=1e-6)
    np.testing.assert_array_equal(placed.size_m, (0.1, 0.2, 0.3))
    longer = focal * ds.WIDTH / math.sqrt(np.prod(half / math.tan(math.radians(30))))
    assert placed.frame_T_box[2, 3] == pytest.approx(longer), "a longer lens puts the same picture farther away"


def test_measured_depth_corrects_range_and_size():
    scene = ds.Scene([ds.ball(0.10)], ds.look_from(45))
    truth = scene.camera_T_solid()
    u, v = project_px(truth[:3, 3], scene.K)[0]
    half = np.array((ds.WIDTH, ds.HEIGHT)) / 2
    ray = np.append((np.array((u, v)) + 0.5 - half) * math.tan(math.radians(30)) / half, 1.0)
    guess = ModelBox3D("ball", 1.7 * ray, np.full(3, 0.1 * 1.7 / truth[2, 3]), np.eye(3))
    (placed,) = place_model_boxes(scene.frame(), [guess]).detections
    (bare,) = place_model_boxes(scene.frame(depth_m=None), [guess]).detections
    error = np.linalg.norm(placed.frame_T_box[:3, 3] - truth[:3, 3])
    assert error < 0.02 < np.linalg.norm(bare.frame_T_box[:3, 3] - truth[:3, 3])
    ratio = placed.size_m[0] / guess.size_m[0]
    assert placed.frame_T_box[2, 3] / bare.frame_T_box[2, 3] == pytest.approx(ratio), "range and size go together"


def test_model_boxes_go_to_the_target_frame():
    target_T_camera = ds.pose(ds.turn_z(1.0), (1, 2, 3))
    frame = ds.Scene([SOLIDS["cube"]]).frame(K=None, depth_m=None, target_T_camera=target_T_camera, target_frame="base")
    first, second = place_model_boxes(frame, [model_box(), model_box()]).detections
    np.testing.assert_allclose(first.frame_T_box[:3, 3], (target_T_camera @ (0.1, -0.05, 1.0, 1))[:3])
    assert first.frame_id == "base" and second.id == "m1"


STRONG = dict(
    K=np.array(((320.0, 0, 320), (0, 320, 240), (0, 0, 1))),
    distortion=np.array((-0.35, 0.12, 0, 0, -0.02)),
    distortion_model="plumb_bob",
)


def blank(size_px=(640, 480), **changes) -> ds.Frame:
    rgb = np.zeros((size_px[1], size_px[0], 3), np.uint8)
    return ds.Frame(0, "camera", rgb, np.full(rgb.shape[:2], 1.0, np.float32), **{**STRONG, **changes})


@pytest.mark.parametrize(
    "lens",
    [
        {},
        dict(distortion=np.array((-0.9, 0.2, 0, 0, 0.1))),
        dict(distortion_model="rational_polynomial", distortion=np.array((-1.5, 0.8, 0, 0, -0.1, 0.2, 0, 0))),
        dict(distortion_model="equidistant", distortion=np.array((-0.4, 0.2, -0.1, 0.01))),
        dict(distortion=np.full(5, 1e200)),
        dict(distortion=np.array((0, 0, 50.0, 50.0, 0))),
    ],
    ids=lambda lens: str(lens.get("distortion_model", "")) + str(lens.get("distortion", "as in the field")),
)
@pytest.mark.parametrize("depth", [True, False])
def test_a_model_box_has_a_finite_place_or_a_reason_whatever_the_lens(lens, depth):
    frame = blank(**lens) if depth else blank_without_depth(**lens)
    boxes = [model_box(centre) for centre in ((0.5, 0.5, 1.0), (0.02, 0.01, 0.5), (3.0, -3.0, 0.2), (0.1, 0, -1.0))]
    placed = place_model_boxes(frame, boxes)
    assert len(placed.detections) + len(placed.refusals) == len(boxes)
    for found in placed.detections:
        assert np.isfinite(found.frame_T_box).all() and np.isfinite(found.size_m).all()
    for refusal in placed.refusals:
        assert refusal.label == "mug" and ("no ray" in refusal.reason or "not finite" in refusal.reason)


def blank_without_depth(**lens) -> ds.Frame:
    return ds.Frame(0, "camera", np.zeros((480, 640, 3), np.uint8), None, **{**STRONG, **lens})


def test_a_pixel_without_a_ray_is_a_reason_that_names_it():
    """(0.5, 0.5, 1.0) is at (874, 655) px of 640x480 for the field of view that the model assumes."""
    placed = place_model_boxes(blank(), [model_box((0.5, 0.5, 1.0), (0.5, 0.5, 0.9))])
    assert not placed.detections and "no ray through (596.6, 447.3) px" in placed.refusals[0].reason


@pytest.mark.parametrize("value", [1e308, -1e308, 1e160, 5e-324])
@pytest.mark.parametrize("field", ["centre x", "centre z", "size"])
def test_numbers_that_no_object_has_are_finite_or_a_reason(field, value):
    centre = {"centre x": (value, 0.0, 1.0), "centre z": (0.1, 0.0, abs(value))}.get(field, (0.1, 0.0, 1.0))
    box = model_box(centre, (abs(value),) * 3 if field == "size" else (0.1, 0.2, 0.3))
    for frame in (blank(), blank(distortion=None), blank_without_depth()):
        placed = place_model_boxes(frame, [box])
        assert len(placed.detections) + len(placed.refusals) == 1
        for found in placed.detections:
            assert np.isfinite(found.frame_T_box).all() and np.isfinite(found.size_m).all()


@pytest.mark.parametrize(
    "K",
    [
        [[320.0, 0, 1e9], [0, 320, 240], [0, 0, 1]],
        [[320.0, 0, 320], [0, 320, -1e12], [0, 0, 1]],
        [[1e-6, 0, 320], [0, 320, 240], [0, 0, 1]],
        [[1e15, 0, 320], [0, 1e15, 240], [0, 0, 1]],
        [[320.0, 0, 320], [0, 320, 240], [0, 0, 0]],
        [[320.0, 1e8, 320], [0, 320, 240], [0, 0, 1]],
        [[-320.0, 0, 320], [0, 320, 240], [0, 0, 1]],
    ],
    ids=str,
)
def test_a_frame_refuses_intrinsics_that_no_camera_has(K):
    with pytest.raises(InvalidInput, match="Frame.K = .*not calibrated"):
        blank(K=np.array(K))


@pytest.mark.parametrize(
    "lens, words",
    [
        (dict(distortion=np.array((np.nan, 0, 0, 0, 0))), "not finite"),
        (dict(distortion=np.full(4, np.inf), distortion_model="equidistant"), "not finite"),
        (dict(distortion=np.ones(6)), "coefficients"),
        (dict(distortion=np.ones(5), distortion_model="x" * 10_000), "10000 characters"),
    ],
)
def test_a_lens_that_is_none_leaves_no_box_and_says_why(lens, words):
    assert words in why_not(blank(**lens))


# -- the embedded camera -------------------------------------------------------------------------------------


def test_the_embedded_cameras_objects_are_lifted_within_centimetres():
    """The accuracy that the package promises, with ground-truth 2D boxes as input."""
    pytest.importorskip("mujoco")
    from qwen3vl_ros.sim.camera import SimCamera, SimCameraError
    from qwen3vl_ros.sim.scenes import sample_scene

    errors, kinds, refusals = [], set(), []
    try:
        camera = SimCamera(quality="fast")
    except SimCameraError as error:
        pytest.skip(str(error))
    with camera:
        for seed in range(500, 530):
            view = camera.render(sample_scene(seed), rgb=False)
            rgb = np.zeros((*view.depth_m.shape, 3), np.uint8)
            frame = ds.Frame(0, "camera", rgb, view.depth_m, view.K)
            seen = [t for t in view.truths if t.fully_in_view and t.visibility >= 0.9]
            lifted = lift(frame, *(t.box_xyxy_px for t in seen))
            refusals += lifted.refusals
            for found in lifted.detections:
                truth = seen[int(found.id)]
                kinds.add(truth.kind)
                errors.append(centre_error(found, truth.camera_T_object))
    assert not refusals and len(errors) > 60 and kinds == {"cube", "ball", "cylinder", "mug", "bowl"}
    assert np.median(errors) <= 0.010 and np.percentile(errors, 90) <= 0.025
