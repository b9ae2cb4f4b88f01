"""Things that touch are told apart by depth, normals or colour; where nothing tells them apart, by their boxes."""

from __future__ import annotations

import depth_scenes as ds
import numpy as np
import pytest

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.types import Detection2D

YAW = 0.5
ALONG = ds.turn_z(YAW)[:2, 0]
K = ds.intrinsics(640, 480, 0.9)


def seen(solids, noise=0.0, elevation=50.0, azimuth=-90.0):
    return ds.Scene(solids, ds.look_from(elevation, azimuth), K=K, size_px=(640, 480), noise=noise)


def picture(scene, tones):
    rgb = np.array([*tones, (200, 200, 195)], float)[scene.labels] + np.random.default_rng(1).normal(
        0, 4, (480, 640, 3)
    )
    return np.clip(rgb, 0, 255).astype(np.uint8)


BROWN, BLUE = (150, 110, 80), (70, 120, 160)


def lifted(scene, tones, of=(0, 1)):
    cloud = SceneCloud.of(scene.frame(rgb=picture(scene, tones)), LiftConfig())
    result = lift_boxes(cloud, [Detection2D("thing", scene.box_px(k), 0.9, str(k)) for k in of])
    assert not result.refusals
    return {int(d.id): d for d in result.detections}, cloud


def errors_mm(scene, found):
    centre = [
        np.linalg.norm((scene.world_T_camera @ d.frame_T_box)[:3, 3] - scene.solids[k].world_T_solid[:3, 3])
        for k, d in found.items()
    ]
    size = [np.abs(np.sort(d.size_m) - np.sort(scene.solids[k].size_m)).max() for k, d in found.items()]
    return 1e3 * max(centre), 1e3 * max(size)


def twins(length=0.06):
    return [ds.box((length, 0.08, 0.05), side * (length + 0.0005) / 2 * ALONG, YAW) for side in (-1, 1)]


@pytest.mark.parametrize("noise", (0.0, 0.0035))
def test_boxes_side_by_side_as_high_as_each_other_are_parted_by_colour(noise):
    scene = seen(twins(), noise)
    centre, size = errors_mm(scene, lifted(scene, (BROWN, BLUE))[0])
    assert centre < 5 and size < 7


@pytest.mark.parametrize("noise", (0.0, 0.0035))
@pytest.mark.parametrize("azimuth", (-90, 100, 150))
def test_a_low_box_against_a_tall_one_is_parted_by_the_crease_between_them(noise, azimuth):
    solids = [ds.box((0.06, 0.08, 0.04), -0.06 * ALONG, YAW), ds.box((0.0595, 0.08, 0.12), (0, 0), YAW)]
    scene = seen(solids, noise, azimuth=azimuth)
    centre, size = errors_mm(scene, lifted(scene, (BROWN, BROWN))[0])
    assert centre < 6 and size < 10


@pytest.mark.parametrize("tones", ((BROWN, BROWN), (BROWN, BLUE)))
def test_round_things_that_touch_stay_round(tones):
    scene = seen([ds.cylinder(0.07, 0.09, -0.0375 * ALONG), ds.cylinder(0.08, 0.10, 0.038 * ALONG)], 0.0035)
    centre, size = errors_mm(scene, lifted(scene, tones)[0])
    assert centre < 6 and size < 9


def test_where_nothing_tells_them_apart_the_boxes_do():
    scene = seen(twins())
    centre, _ = errors_mm(scene, lifted(scene, (BROWN, BROWN))[0])
    assert centre < 25  # half a brick: no seam is seen, the boxes overlap


def test_a_neighbour_that_was_not_asked_for_is_not_taken_along():
    scene = seen(twins())
    centre, size = errors_mm(scene, lifted(scene, (BROWN, BLUE), of=(0,))[0])
    assert centre < 5 and size < 7


def test_a_printed_label_does_not_part_a_carton():
    scene = seen([ds.box((0.10, 0.07, 0.12), (0, 0), YAW)])
    rgb = picture(scene, (BROWN,))
    x0, y0, x1, y1 = (int(v) for v in scene.box_px(0))
    rgb[y0 + 30 : y1 - 50, x0 + 20 : (x0 + x1) // 2] = (240, 240, 60)
    alone = lift_boxes(SceneCloud.of(scene.frame(), LiftConfig()), [Detection2D("a", scene.box_px(0), 0.9, "0")])
    # Half of the box is another detection's: a label that was detected by itself.
    label = (x0 + 20.0, y0 + 30.0, (x0 + x1) / 2, y1 - 50.0)
    cloud = SceneCloud.of(scene.frame(rgb=rgb), LiftConfig())
    both = lift_boxes(cloud, [Detection2D("carton", scene.box_px(0), 0.9, "0"), Detection2D("label", label, 0.9, "1")])
    carton = next(d for d in both.detections if d.id == "0")
    assert np.linalg.norm((carton.frame_T_box - alone.detections[0].frame_T_box)[:3, 3]) < 0.01


@pytest.mark.parametrize("azimuth", range(-180, 180, 45))
def test_no_pixel_serves_two_things(azimuth):
    scene = seen(twins(), azimuth=azimuth)
    found, cloud = lifted(scene, (BROWN, BROWN))
    pixels = [{tuple(p) for p in np.rint(cloud.project_px(d.points_camera_m)).astype(int)} for d in found.values()]
    assert not pixels[0] & pixels[1]


def test_one_thing_under_two_names_is_lifted_whole_twice():
    scene = seen([ds.box((0.10, 0.07, 0.08), (0, 0), YAW)])
    x0, y0, x1, y1 = scene.box_px(0)
    cloud = SceneCloud.of(scene.frame(rgb=picture(scene, (BROWN,))), LiftConfig())
    boxes = [
        Detection2D("box", (x0, y0, x1, y1), 0.9, "0"),
        Detection2D("carton", (x0 + 2, y0 - 1, x1, y1 + 2), 0.9, "1"),
    ]
    a, b = lift_boxes(cloud, boxes).detections
    assert np.abs(a.size_m - b.size_m).max() < 0.003 and np.linalg.norm((a.frame_T_box - b.frame_T_box)[:3, 3]) < 0.003


def test_a_thing_on_another_stays_on_it():
    scene = seen([ds.box((0.14, 0.12, 0.05), (0, 0), YAW), ds.box((0.05, 0.05, 0.06), (0.02, 0.01), YAW, bottom=0.05)])
    found, _ = lifted(scene, (BROWN, BLUE))
    centre, size = errors_mm(scene, found)
    assert centre < 3 and size < 5
