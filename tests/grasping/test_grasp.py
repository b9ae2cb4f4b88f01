"""Grasp targets: conventions, laws, refusals, and whether a gripper could really do it in scenes whose truth
is known.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import depth_scenes as ds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.config import GripperConfig, LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.grasping import grasps, judge
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.types import Detection2D, Detection3D, GraspTarget

GRIPPER = GripperConfig()
few = settings(max_examples=12, deadline=None, derandomize=True)


def plan(scene: ds.Scene, gripper: GripperConfig = GRIPPER, only: int | None = 0, **changes) -> list[GraspTarget]:
    """Grasps of the scene's solids, or of one of them."""
    cloud = SceneCloud.of(scene.frame(**changes), LiftConfig())
    wanted = range(len(scene.solids)) if only is None else [only]
    lifted = lift_boxes(cloud, [Detection2D("thing", scene.box_px(i), 0.9, str(i)) for i in wanted])
    assert not lifted.refusals, lifted.refusals
    return list(plan_grasps(cloud, lifted.detections, gripper))


def in_world(scene: ds.Scene, target: GraspTarget) -> np.ndarray:
    return scene.world_T_camera @ target.frame_T_gripper


def closing_angle_deg(world_T_gripper: np.ndarray, yaw: float) -> float:
    """Between the closing axis and a horizontal direction, without sign."""
    return float(np.degrees(np.arccos(min(1.0, abs(world_T_gripper[:2, 1] @ (math.cos(yaw), math.sin(yaw)))))))


def jaw_volume(width_m: float, gripper: GripperConfig, step: float = 0.002) -> np.ndarray:
    """Points filling both open fingers, in the gripper frame."""
    inner = width_m / 2 + gripper.clearance
    x = np.arange(-gripper.finger_width / 2, gripper.finger_width / 2 + 1e-9, step)
    y = np.arange(inner, inner + gripper.finger_thickness, step)
    z = np.arange(-gripper.finger_length, 1e-9, step)
    finger = np.stack(np.meshgrid(x, y, z), -1).reshape(-1, 3)
    return np.concatenate((finger, finger * (1, -1, 1)))


def inside(solid: ds.Solid, world_points: np.ndarray, margin: float = 0.0005) -> np.ndarray:
    local = (world_points - solid.world_T_solid[:3, 3]) @ solid.world_T_solid[:3, :3]
    half = np.asarray(solid.size_m) / 2 - margin
    if solid.kind == "ball":
        return np.linalg.norm(local, axis=1) < half[0]
    flat = (
        np.linalg.norm(local[:, :2], axis=1) < half[0]
        if solid.kind == "cylinder"
        else (np.abs(local[:, :2]) < half[:2]).all(1)
    )
    return flat & (np.abs(local[:, 2]) < half[2])


# -- conventions ---------------------------------------------------------------------------------------------

CUBE = ds.box((0.05, 0.05, 0.05), (0.02, -0.01), yaw=0.4)


def test_plus_z_goes_down_into_the_table_and_plus_y_closes_on_the_sides():
    scene = ds.Scene([CUBE])
    (target,) = plan(scene)
    pose = in_world(scene, target)
    assert target.feasible and target.reason == "" and 0 < target.quality <= 1
    np.testing.assert_allclose(pose[:3, 2], (0, 0, -1), atol=1e-3)
    assert min(closing_angle_deg(pose, 0.4), closing_angle_deg(pose, 0.4 + math.pi / 2)) < 3
    assert target.frame_T_gripper[2, 2] > 0, "the camera looks down too: the approach goes away from it"
    np.testing.assert_allclose(pose[:2, 3], (0.02, -0.01), atol=0.004)
    assert GRIPPER.clearance - 0.001 < pose[2, 3] < 0.05 - 0.003, "fingertips above the table and below the cube's top"
    assert target.width_m == pytest.approx(0.05, abs=0.003)
    assert target.approach_m == GRIPPER.standoff
    pre_grasp = pose[:3, 3] - target.approach_m * pose[:3, 2]
    assert pre_grasp[2] == pytest.approx(pose[2, 3] + GRIPPER.standoff, abs=1e-3), "back along -z is up"


@few
@given(st.floats(-180, 180), st.floats(30, 75), st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_every_pose_is_a_rotation_in_the_target_frame(azimuth, elevation, twist):
    scene = ds.Scene([CUBE, ds.ball(0.05, (-0.1, 0.05))], ds.look_from(elevation, azimuth))
    target_T_camera = ds.pose(cv2.Rodrigues(np.array(twist[:3]))[0], twist[3:])
    there = plan(scene, only=None, target_T_camera=target_T_camera, target_frame="base")
    here = plan(scene, only=None)
    for a, b in zip(there, here, strict=True):
        R = a.frame_T_gripper[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(R) == pytest.approx(1, abs=1e-6), "right-handed"
        np.testing.assert_allclose(a.frame_T_gripper, target_T_camera @ b.frame_T_gripper, atol=1e-6)
        assert (a.frame_id, b.frame_id) == ("base", "camera")


def test_one_target_for_each_measured_detection_in_their_order():
    scene = ds.Scene([CUBE, ds.ball(0.05, (-0.1, 0.05)), ds.cylinder(0.05, 0.09, (0.1, 0.08))])
    assert [t.detection_id for t in plan(scene, only=None)] == ["0", "1", "2"]


def test_a_box_the_model_only_guessed_gets_no_grasp():
    guess = Detection3D("m0", "mug", 0.5, "camera", ds.pose(None, (0, 0, 1)), np.full(3, 0.1), "model")
    assert plan_grasps(SceneCloud.of(ds.Scene([CUBE]).frame(), LiftConfig()), [guess], GRIPPER) == ()


# -- choosing ------------------------------------------------------------------------------------------------


@few
@given(st.floats(-math.pi, math.pi))
def test_the_jaws_turn_with_a_brick_and_take_its_narrow_side(yaw):
    scene = ds.Scene([ds.box((0.14, 0.05, 0.05), yaw=yaw)], ds.look_from(55))
    (target,) = plan(scene)
    assert target.feasible, target.reason
    assert closing_angle_deg(in_world(scene, target), yaw + math.pi / 2) < 4
    assert target.width_m == pytest.approx(0.05, abs=0.004)


def test_the_jaws_close_where_neighbours_leave_room():
    for free_yaw in (0.0, math.pi / 2):
        gap = 0.033
        blocked = np.array((-math.sin(free_yaw), math.cos(free_yaw))) * gap * 1.4
        walls = [ds.box((0.03, 0.03, 0.05), sign * blocked, yaw=free_yaw) for sign in (-1, 1)]
        scene = ds.Scene([ds.box((0.05, 0.05, 0.05), yaw=free_yaw), *walls], ds.look_from(65))
        (target,) = plan(scene)
        assert target.feasible, target.reason
        assert closing_angle_deg(in_world(scene, target), free_yaw) < 5


def test_room_beside_the_jaws_and_a_seen_contact_are_worth_more():
    alone = ds.Scene([CUBE], ds.look_from(60))
    beside = ds.Scene(
        [
            CUBE,
            *(
                ds.box((0.05, 0.05, 0.05), (0.02 + 0.073 * math.cos(a), -0.01 + 0.073 * math.sin(a)), yaw=0.4)
                for a in 0.4 + np.arange(4) * math.pi / 2
            ),
        ],
        ds.look_from(60),
    )
    free, tight = plan(alone)[0], plan(beside)[0]
    assert free.feasible and free.quality > (tight.quality if tight.feasible else 0.0)


def test_no_plane_and_no_gravity_approaches_along_the_view():
    scene = ds.Scene([ds.ball(0.06)], ds.look_from(30), table=False)
    (target,) = plan(scene)
    centre = scene.camera_T_solid()[:3, 3]
    assert target.feasible, target.reason
    assert target.frame_T_gripper[:3, 2] @ centre / np.linalg.norm(centre) > 0.999


def test_gravity_is_down_where_no_plane_is_seen():
    scene = ds.Scene([ds.box((0.05, 0.05, 0.12), yaw=0.3)], ds.look_from(30), table=False)
    up = np.linalg.inv(scene.world_T_camera)[:3, 2]
    (target,) = plan(scene, up_camera=up)
    assert target.feasible, target.reason
    assert target.frame_T_gripper[:3, 2] @ up == pytest.approx(-1, abs=1e-6)


# -- refusals ------------------------------------------------------------------------------------------------


def refusal(scene, gripper=GRIPPER) -> GraspTarget:
    (target,) = plan(scene, gripper)
    assert not target.feasible and target.quality == 0 and target.reason
    R = target.frame_T_gripper[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
    return target


def test_too_wide_names_both_widths():
    reason = refusal(ds.Scene([ds.box((0.12, 0.12, 0.06), yaw=0.3)])).reason
    assert "exceeds the gripper's 0.085 m" in reason
    measured = float(reason.split("width ")[1].split(" m")[0])
    assert measured == pytest.approx(0.12, abs=0.006)


def test_the_width_limit_is_the_configured_one():
    scene = ds.Scene([CUBE])
    assert plan(scene)[0].feasible
    assert "exceeds the gripper's 0.040 m" in refusal(scene, replace(GRIPPER, max_width=0.04)).reason


def test_too_flat_for_the_fingertips():
    target = refusal(ds.Scene([ds.box((0.08, 0.04, 0.006), yaw=0.2)], ds.look_from(60, distance_m=0.5)))
    assert "too flat" in target.reason and "0.003 m are needed" in target.reason


def test_no_room_for_fingers():
    ring = [ds.box((0.04, 0.16, 0.05), (sign * 0.055, 0)) for sign in (-1, 1)]
    ring += [ds.box((0.05, 0.04, 0.05), (0, sign * 0.055)) for sign in (-1, 1)]
    target = refusal(ds.Scene([ds.box((0.05, 0.05, 0.05)), *ring], ds.look_from(75)))
    assert "free space" in target.reason or "would touch" in target.reason


def test_a_finger_on_a_slope_slips():
    scene = ds.Scene([ds.ball(0.07)], ds.look_from(60))
    short = replace(GRIPPER, finger_length=0.02)  # the palm meets the top long before the fingertips pass the equator
    assert "friction" in refusal(scene, short).reason
    assert plan(scene, replace(short, friction=2.0))[0].feasible


@pytest.mark.parametrize("max_tilt_deg", (0.0, 30.0))
def test_the_approach_leans_no_farther_than_allowed(max_tilt_deg):
    gripper = replace(GRIPPER, max_tilt_deg=max_tilt_deg, palm_width=0.09)
    # A tall wall close behind the cube: straight down the palm would hit it.
    scene = ds.Scene([ds.box((0.04, 0.04, 0.04)), ds.box((0.3, 0.02, 0.2), (0, 0.033))], ds.look_from(50))
    (target,) = plan(scene, gripper)
    tilt = math.degrees(math.acos(-in_world(scene, target)[2, 2]))
    assert tilt < max_tilt_deg + 0.1
    assert target.feasible == (max_tilt_deg > 0), target.reason
    if target.feasible:
        assert tilt > 5
        volume = (
            jaw_volume(target.width_m, gripper) @ in_world(scene, target)[:3, :3].T + in_world(scene, target)[:3, 3]
        )
        assert volume[:, 2].min() > 0 and not any(inside(s, volume).any() for s in scene.solids)
    else:
        assert "palm" in target.reason


# -- would a gripper do it? ----------------------------------------------------------------------------------


def test_jaws_stay_clear_of_exact_solids_in_clutter():
    collisions, tried = [], 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        solids, taken = [], []
        while len(solids) < 6:
            at, yaw = rng.uniform(-0.14, 0.14, 2), rng.uniform(0, 3)
            if any(np.linalg.norm(at - other) < 0.085 for other in taken):
                continue
            taken.append(at)
            size = rng.uniform(0.03, 0.06, 3)
            solids.append(
                (ds.box(size, at, yaw), ds.ball(size[0], at), ds.cylinder(size[0], 0.02 + size[1], at))[seed % 3]
            )
        scene = ds.Scene(solids, ds.look_from(rng.uniform(40, 75), rng.uniform(-180, 180), 0.65))
        for target in plan(scene, only=None):
            if not target.feasible:
                continue
            tried += 1
            pose = in_world(scene, target)
            volume = jaw_volume(target.width_m, GRIPPER) @ pose[:3, :3].T + pose[:3, 3]
            if volume[:, 2].min() < 0 or any(inside(s, volume).any() for s in solids):
                collisions.append((seed, target.detection_id))
    assert tried > 50 and len(collisions) <= 0.05 * tried, collisions


def surface(mesh, size_m, rng, count=20000) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals spread evenly over a unit mesh scaled to size_m."""
    corners = (mesh.vertices * size_m)[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    u = rng.random((count, 2))
    u[u.sum(1) > 1] = 1 - u[u.sum(1) > 1]
    points = (
        corners[face, 0]
        + u[:, :1] * (corners[face, 1] - corners[face, 0])
        + u[:, 1:] * (corners[face, 2] - corners[face, 0])
    )
    return points, normals[face] / area[face, None]


def what_is_wrong(target: GraspTarget, own: int, surfaces, table_up, table_point) -> str:
    """Why the grasp fails on true surfaces (index -> points, normals in the camera frame), empty if it does
    not.
    """
    R, origin = target.frame_T_gripper[:3, :3], target.frame_T_gripper[:3, 3]
    inner = target.width_m / 2 + GRIPPER.clearance
    for index, (points, normals) in surfaces.items():
        local = (points - origin) @ R
        x, y, z = np.abs(local[:, 0]), np.abs(local[:, 1]), local[:, 2]
        beside = (x < GRIPPER.finger_width / 2) & (z < 0) & (z > -GRIPPER.finger_length)
        if (beside & (y > inner) & (y < inner + GRIPPER.finger_thickness)).any():
            return f"a finger is in object {index}"
        if (
            (z < -GRIPPER.finger_length)
            & (z > -GRIPPER.finger_length - 0.03)
            & (x < GRIPPER.palm_width / 2)
            & (y < GRIPPER.max_width / 2 + GRIPPER.finger_thickness)
        ).any():
            return f"the palm is in object {index}"
        if index != own:
            continue
        held = beside & (y < inner)
        if held.sum() < 10:
            return "nothing between the fingers"
        along, facing = local[held, 1], (normals[held] @ R)[:, 1]
        for side in (-1, 1):
            first = side * along > (side * along).max() - 0.0005
            if side * np.median(facing[first]) < math.cos(math.atan(GRIPPER.friction)) - 0.05:
                return "a contact outside the friction cone"
    return "" if (origin - table_point) @ table_up > 0.001 else "fingertips in the table"


def test_feasible_grasps_hold_on_the_true_surfaces_of_the_embedded_scenes():
    pytest.importorskip("mujoco")
    from qwen3vl_ros.sim.camera import SimCamera, SimCameraError
    from qwen3vl_ros.sim.scenes import sample_scene
    from qwen3vl_ros.sim.shapes import build_meshes

    meshes, rng = build_meshes(), np.random.default_rng(0)
    wrong, feasible, total, kinds = [], 0, 0, set()
    try:
        camera = SimCamera(quality="fast")
    except SimCameraError as error:
        pytest.skip(str(error))
    with camera:
        for seed in range(700, 720):
            view = camera.render(sample_scene(seed), rgb=False)
            frame = ds.Frame(0, "camera", np.zeros((*view.depth_m.shape, 3), np.uint8), view.depth_m, view.K)
            cloud = SceneCloud.of(frame, LiftConfig())
            seen = [t for t in view.truths if t.fully_in_view and t.visibility >= 0.5]
            lifted = lift_boxes(cloud, [Detection2D(t.label, t.box_xyxy_px, 0.9, str(t.index)) for t in seen])
            surfaces = {}
            for t in view.truths:
                points, normals = surface(meshes[t.kind], t.size_m, rng)
                R = t.camera_T_object[:3, :3]
                surfaces[t.index] = points @ R.T + t.camera_T_object[:3, 3], normals @ R.T
            first = view.truths[0]
            up = first.camera_T_object[:3, 2]
            foot = first.camera_T_object[:3, 3] - up * first.size_m[2] / 2
            for target in plan_grasps(cloud, lifted.detections, GRIPPER):
                total += 1
                if target.feasible:
                    feasible += 1
                    kinds.add(view.truths[int(target.detection_id)].kind)
                    fault = what_is_wrong(target, int(target.detection_id), surfaces, up, foot)
                    wrong += [(seed, target.detection_id, target.label, fault)] if fault else []
    assert kinds == {"cube", "ball", "cylinder", "mug", "bowl"}, "bowls are wider than the gripper: held by the rim"
    assert feasible >= 0.9 * total > 40
    assert len(wrong) <= 0.05 * feasible, wrong


def test_no_place_that_was_left_out_is_better_than_the_best(monkeypatch):
    judged = []

    def spy(cloud, site, poses, gripper, best):
        judged.append((cloud, site, poses, judge.judge(cloud, site, poses, gripper, best)))
        return judged[-1][-1]

    monkeypatch.setattr(grasps, "judge", spy)
    solids = [
        CUBE,
        ds.ball(0.05, (-0.1, 0.05)),
        ds.cylinder(0.05, 0.09, (0.1, 0.08)),
        ds.box((0.14, 0.05, 0.05), (0, 0.13)),
    ]
    plan(ds.Scene(solids, ds.look_from(50)), only=None)
    assert sum(len(poses) for *_, poses, _ in judged) > sum(len(found) for *_, found in judged) > 0, (
        "some were left out"
    )
    for cloud, site, poses, found in (one for one in judged if len(one[2])):
        alone = [judge.judge(cloud, site, poses[k : k + 1], GRIPPER)[0] for k in range(len(poses))]
        assert max(j.rating for j in found) == pytest.approx(max(j.rating for j in alone), abs=1e-9)


# -- whatever the camera sends -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of a file that another test left open
def test_no_depth_image_breaks_lifting_or_grasping(seed):
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(2, 200)), int(rng.integers(2, 260))
    slope = 0.5 + np.linspace(0, 1, height)[:, None] + np.zeros((height, width))
    depth_m = (
        np.full((height, width), rng.uniform(0.2, 3)),
        rng.uniform(0, 3, (height, width)),
        slope,
        np.zeros((height, width)),
        rng.integers(1, 5, (height, width)) / 2,
        1 + 0.0005 * rng.normal(size=(height, width)),
    )[rng.integers(6)].astype(np.float32)
    for _ in range(rng.integers(6)):
        y, x = rng.integers(height), rng.integers(width)
        patch = np.s_[y : y + rng.integers(1, 60), x : x + rng.integers(1, 60)]
        depth_m[patch] = rng.choice((np.nan, 0, np.inf, -1, rng.uniform(0.2, 3)))
    if rng.random() < 0.3:
        depth_m[rng.random(depth_m.shape) < rng.random()] = np.nan
    up = rng.normal(size=3)
    frame = ds.Frame(
        0,
        "camera",
        np.zeros((height, width, 3), np.uint8),
        depth_m,
        ds.intrinsics(width, height, rng.uniform(0.4, 3)),
        distortion=None if rng.random() < 0.8 else rng.normal(size=5) * 0.2,
        up_camera=up / np.linalg.norm(up) if rng.random() < 0.3 else None,
    )
    corners = np.sort(rng.uniform(-0.2, 1.2, (4, 2, 2)), axis=1) * (width, height)
    detections = [Detection2D("x", tuple(c.ravel()), rng.random(), str(k)) for k, c in enumerate(corners)]
    cloud = SceneCloud.of(frame, LiftConfig(min_points=int(rng.choice((4, 40)))))
    lifted = lift_boxes(cloud, detections)
    assert sorted([d.id for d in lifted.detections] + [r.id for r in lifted.refusals]) == ["0", "1", "2", "3"]
    for found in lifted.detections:
        assert np.isfinite(found.frame_T_box).all() and (found.size_m > 0).all() and np.isfinite(found.size_m).all()
        assert 0 <= found.support <= 1 and 0 <= found.score <= 1
        assert np.linalg.det(found.frame_T_box[:3, :3]) == pytest.approx(1, abs=1e-5)
    for target in plan_grasps(cloud, lifted.detections, GRIPPER):
        assert np.isfinite(target.frame_T_gripper).all() and np.isfinite(target.width_m)
        assert np.linalg.det(target.frame_T_gripper[:3, :3]) == pytest.approx(1, abs=1e-5)
        assert 0 <= target.quality <= 1 and target.feasible == (not target.reason)
        assert not target.feasible or target.width_m + 2 * GRIPPER.clearance <= GRIPPER.max_width


def test_what_two_fingers_cannot_carry_is_refused_with_its_assumed_mass():
    scene = ds.Scene([ds.box((0.07, 0.20, 0.20))], ds.look_from(50))
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D("safe", scene.box_px(0), 0.9, "0")]).detections
    assert plan_grasps(cloud, lifted, GripperConfig())[0].feasible
    (target,) = plan_grasps(cloud, lifted, GripperConfig(density=4000.0))
    assert not target.feasible and "too heavy" in target.reason and "gripper.density 4000" in target.reason


@pytest.mark.parametrize("thorough", (False, True))
def test_a_side_that_was_not_seen_makes_a_grasp_worth_less_and_is_named_where_it_is_refused(thorough):
    bar = ds.box((0.24, 0.05, 0.06))
    scene = ds.Scene([bar], ds.look_from(50))
    x0, y0, x1, y1 = scene.box_px(0)
    cut = scene.depth_m.copy()
    cut[:, int(x0 + 0.4 * (x1 - x0)) : int(x1) + 40] = 0.0  # no readings on most of it
    heavy = GripperConfig(density=4000.0)
    quality = []
    for depth_m in (scene.depth_m, cut):
        cloud = SceneCloud.of(scene.frame(depth_m=depth_m), LiftConfig())
        lifted = lift_boxes(cloud, [Detection2D("bar", (x0, y0, x1, y1), 0.9, "0")]).detections
        quality.append(plan_grasps(cloud, lifted, heavy, thorough=thorough)[0].quality)
        wide = plan_grasps(cloud, lifted, GripperConfig(max_width=0.03), thorough=thorough)[0]
        assert ("a side is missing" in wide.reason) == (depth_m is cut), wide.reason
    assert quality[1] < quality[0] - 0.1
