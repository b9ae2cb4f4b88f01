"""The wider world against geometry it did not compute itself: what stands where, what a level, a dial and a sign show."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.furniture import PANEL_M, box_corners, level_space, shelf_parts, world_T_shelf
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.shapes import build_meshes
from qwen3vl_ros.sim.specs import GaugeSpec, ObjectSpec, ShelfSpec, SignSpec
from qwen3vl_ros.sim.stream import SimStream
from qwen3vl_ros.sim.textures import sign_face
from qwen3vl_ros.sim.truth import project, world_T_object
from qwen3vl_ros.sim.wide import sample_close_up
from qwen3vl_ros.types import InvalidInput

SEEDS = range(60)
MESHES = build_meshes()


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(seed, wide=True) for seed in SEEDS]


@pytest.fixture(scope="module")
def pictures(scenes):
    with SimCamera(320, 240, quality="fast") as camera:
        return [(spec, camera.render(spec)) for spec in scenes]


def placed(thing):
    return MESHES[thing.kind].vertices * thing.size_m @ world_T_object(thing)[:3, :3].T + thing.position_m


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_wide_scene_is_repeatable_and_stands_on_what_it_says(seed):
    scene = sample_scene(seed, wide=True)
    assert scene == sample_scene(seed, wide=True) and scene.objects
    for thing in scene.objects:
        points = placed(thing)
        bottom = points[:, 2].min()
        if thing.level:
            inside = (points - (*scene.shelf.position_m, 0)) @ world_T_shelf(scene.shelf)[:3, :3]
            assert bottom == pytest.approx(scene.shelf.board_top_m(thing.level), abs=1e-6)
            assert (np.abs(inside[:, 1]) < scene.shelf.size_m[0] / 2 - PANEL_M).all()
            assert (np.abs(inside[:, 0]) < scene.shelf.size_m[1] / 2 + 1e-6).all()
            assert points[:, 2].max() < scene.shelf.board_top_m(thing.level) + scene.shelf.room_m(thing.level)
        elif thing.on is None:
            assert bottom == pytest.approx(0, abs=1e-9)
        else:
            below = scene.objects[thing.on]
            top = below.position_m[2] + below.size_m[2] / 2
            expected = {"tray": 0.25, "bowl": 0.17}.get(below.kind)
            floor = top if expected is None else expected * below.size_m[2]
            assert -1e-9 <= bottom - floor < 0.004
            assert np.linalg.norm(np.subtract(thing.position_m, below.position_m)[:2]) < max(below.size_m[:2]) / 2


def test_nothing_touches_its_neighbour(scenes):
    for scene in scenes:
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                if (a.on, a.level) != (b.on, b.level):
                    continue
                hulls = [cv2.convexHull(placed(t)[:, :2].astype(np.float32)) for t in (a, b)]
                assert cv2.intersectConvexConvex(*hulls)[0] == 0, (scene.seed, a.label, b.label)


def test_the_sampler_reaches_all_of_the_wider_world():
    scenes = [sample_scene(seed, wide=True) for seed in range(400)]
    things = [o for s in scenes for o in s.objects]
    assert {"box", "tray", "mug", "bowl", "cube", "ball", "cylinder"} == {o.kind for o in things}
    assert {s.shelf.levels for s in scenes if s.shelf} == {2, 3}
    assert {o.level for o in things} >= {0, 1, 2, 3} and any(o.on is not None for o in things)
    dials = [s.gauge for s in scenes if s.gauge]
    assert {g.unit for g in dials} > {"MPa", "bar"} and any(g.zones for g in dials) and any(g.inner[0] for g in dials)
    assert len({s.sign.text for s in scenes if s.sign}) > 8
    boxes = [o.size_m for o in things if o.kind == "box"]
    assert min(max(size) / min(size) for size in boxes) > 1.25, "a box is no cube"


def test_a_scene_of_a_seed_stays_what_it_was_unless_the_wider_world_is_asked_for():
    plain = sample_scene(7)
    assert plain.shelf is None and plain.sign is None and all(o.on is None and not o.level for o in plain.objects)
    assert [o.label for o in plain.objects] == [o.label for o in sample_scene(7, wide=False).objects]
    # Written down when the wider world came.
    assert sample_scene(0).objects[0].label == "white cube" and sample_scene(12, gauge=True).gauge.value == 98.0
    assert sample_scene(0).camera.eye_m == pytest.approx((-0.499658597502, 0.151498867061, 0.547566411898))


def test_boxes_and_visibility_are_those_of_the_segmentation(pictures):
    for spec, view in pictures:
        assert [t.index for t in view.truths] == list(range(spec.sign_index + (spec.sign is not None)))
        for truth in view.truths:
            rows, columns = np.nonzero(view.segmentation == truth.index)
            if len(rows):
                assert truth.box_xyxy_px == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                visible, outline = np.array(truth.box_xyxy_px), np.array(truth.amodal_box_xyxy_px)
                assert (visible[:2] >= outline[:2] - 0.7).all() and (visible[2:] <= outline[2:] + 0.7).all()


def test_truth_says_what_a_thing_stands_on(pictures):
    for spec, view in pictures:
        for thing, truth in zip(spec.objects, view.truths):
            assert (truth.on, truth.level, truth.kind) == (thing.on, thing.level, thing.kind)


def test_a_thing_on_a_level_is_seen_within_the_level(pictures):
    seen = 0
    for spec, view in pictures:
        for thing, truth in zip(spec.objects, view.truths):
            if not thing.level or truth.visibility < 0.5:
                continue
            level = view.levels[thing.level - 1]
            assert level.level == thing.level
            x0, y0, x1, y1 = truth.box_xyxy_px
            lx0, ly0, lx1, ly1 = level.box_xyxy_px
            assert lx0 - 2 <= x0 and ly0 - 2 <= y0 and x1 <= lx1 + 2 and y1 <= ly1 + 2
            local = np.linalg.inv(level.camera_T_space) @ truth.camera_T_object[:, 3]
            assert (np.abs(local[:3]) < np.array(level.size_m) / 2).all()
            seen += 1
    assert seen > 5


def test_levels_are_a_hand_apart_and_do_not_overlap_in_space():
    shelf = ShelfSpec((0.1, -0.1), 0.4, (0.4, 0.2), 3, 0.23, (0.7, 0.5, 0.3))
    spaces = [box_corners(level_space(shelf, level)) for level in (1, 2, 3)]
    for lower, upper in zip(spaces, spaces[1:]):
        assert upper[:, 2].min() - lower[:, 2].max() == pytest.approx(0.012), "a board lies between"
        assert upper[:, 2].min() - lower[:, 2].min() >= 0.22
    parts = np.concatenate([box_corners(p) for p in shelf_parts(shelf)])
    assert parts[:, 2].max() == pytest.approx(shelf.height_m) and parts[:, 2].min() > 0 - 1e-9


def test_key_points_of_a_dial_lie_on_its_face_and_the_needle(pictures):
    with SimCamera(640, 480) as camera:
        for seed in range(12):
            spec = sample_close_up(seed)
            if spec.gauge is None:
                continue
            dark = replace(spec, gauge=replace(spec.gauge, needle_colour="black", face="white", zones=()))
            view = camera.render(dark)
            centre, tip = (np.array(view.gauge.points_px[n]) for n in ("centre", "tip"))
            for share in (0.3, 0.5, 0.8):
                x, y = (centre + share * (tip - centre)).astype(int)
                around = view.rgb[y - 12 : y + 13, x - 12 : x + 13].mean(-1)
                assert view.rgb[y, x].mean() < 0.75 * np.percentile(around, 90), "dark on a light face"
            for name in ("first", "last"):
                x, y = (int(v) for v in view.gauge.points_px[name])
                assert view.segmentation[y, x] == view.gauge.index


def test_the_zone_of_a_dial_is_where_its_needle_stands():
    dial = GaugeSpec((0, 0, 0.1), 0, 0, 0.07, 0, 2.5, "MPa", 1.8, zones=((0, 1.1, "green"), (1.6, 2.5, "red")))
    assert dial.zone == "red"
    assert [replace(dial, value=v).zone for v in (0.0, 1.1, 1.3, 1.6, 2.5)] == ["green", "green", "", "red", "red"]


def test_the_corners_of_a_sign_frame_its_letters(pictures):
    seen = 0
    for spec, view in pictures:
        truth = view.truths[spec.sign_index] if spec.sign else None
        if truth is None or truth.visibility < 0.99 or not truth.fully_in_view:
            continue
        inside = np.zeros(view.segmentation.shape, np.uint8)
        cv2.fillConvexPoly(inside, np.round(view.sign.corners_px).astype(np.int32), 1)
        assert (view.segmentation == spec.sign_index)[inside > 0].mean() > 0.93
        ys, xs = view.sign.corners_px[:, 1], view.sign.corners_px[:, 0]
        assert xs[0] < xs[1] and xs[3] < xs[2] and ys[0] < ys[3] and ys[1] < ys[2], "upper left first, clockwise"
        seen += 1
    assert seen > 5


def test_a_sign_is_painted_in_its_colours_and_fills_its_plate():
    face = sign_face(SignSpec((0, 0, 0.1), 0, 0, (0.15, 0.09), "EXIT", "green", "white"))
    ink = (face > 200).all(-1)
    columns = np.flatnonzero(ink[60:-60].any(0))
    assert 0.08 < ink.mean() < 0.5 and np.ptp(columns) > 0.7 * face.shape[1]


def test_project_puts_a_point_where_the_camera_draws_it(pictures):
    for spec, view in pictures[:20]:
        centres = np.array([o.position_m for o in spec.objects])
        for (u, v), truth in zip(project(centres, view.K, view.world_T_camera), view.truths):
            x0, y0, x1, y1 = truth.amodal_box_xyxy_px
            assert not truth.fully_in_view or (x0 < u < x1 and y0 < v < y1)


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: ShelfSpec((0, 0), 0, (0.4, 0.2), 4, 0.23, (1, 1, 1)), "levels is 4.*2 or 3"),
        (lambda: ShelfSpec((0, 0), 0, (0.4, 0.2), 2, 0.15, (1, 1, 1)), "0.15.*at least 0.22"),
        (lambda: SignSpec((0, 0, 0), 0, 0, (0.1, 0.06), ""), "1 to 12 characters"),
        (lambda: SignSpec((0, 0, 0), 0, 0, (0.1, 0.06), "EXIT", "pink"), "'pink'.*red, green"),
        (lambda: GaugeSpec((0, 0, 0), 0, 0, 0.1, 0, 5, "bar", 1, zones=((4, 6, "red"),)), "4..6 'red'"),
        (lambda: GaugeSpec((0, 0, 0), 0, 0, 0.1, 0, 5, "bar", 1, zones=((3, 4, "pink"),)), "'pink'.*green, yellow"),
        (lambda: ObjectSpec("sofa", "red", (1, 1, 1), (0, 0, 0), 0), "'sofa'.*box, tray"),
        (lambda: sample_scene(1, 3, wide=True), "leave n_objects"),
        (lambda: sample_scene(1, gauge=True, wide=True), "leave n_objects"),
        (lambda: SimStream(1, n_objects=2, wide=True), "leave n_objects"),
    ],
)
def test_bad_arguments_are_named(build, said):
    with pytest.raises(InvalidInput, match=said):
        build()
