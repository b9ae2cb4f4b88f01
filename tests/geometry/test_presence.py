"""What stands somewhere is told by depth alone: from noisy pictures, whatever a model boxes in them."""

from dataclasses import replace

import numpy as np
import pytest

from qwen3vl_ros.config import Config
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.observed import layout_of
from qwen3vl_ros.geometry.presence import another_scene, changed, presence
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, ShelfSpec
from qwen3vl_ros.types import Detection2D, Frame

BOX = ObjectSpec("box", "red", (0.08, 0.045, 0.05), (-0.08, -0.05, 0.025), 0.3)
BOWL = ObjectSpec("bowl", "blue", (0.14, 0.14, 0.06), (0.13, -0.06, 0.03), 0.0)
VIEW = CameraSpec((0.1, -0.75, 0.62), (0.0, 0.02, 0.10))


@pytest.fixture(scope="module")
def camera():
    with SimCamera(quality="fast") as camera:
        yield camera


def cloud_of(camera, *objects, shelf=None, view=VIEW, seed=1):
    seen = camera.render(SceneSpec(0, objects, camera=view, shelf=shelf))
    frame = Frame(
        stamp_ns=seed,
        frame_id="camera",
        rgb=seen.rgb,
        depth_m=noisy_depth(seen.depth_m, seen.K, seed),
        K=seen.K,
        target_T_camera=seen.world_T_camera,
        target_frame="world",
        up_camera=seen.world_T_camera[2, :3],
    )
    return SceneCloud.of(frame, Config().lift), seen


def measured(camera, *objects, **scene):
    """The things and surfaces of a picture with true boxes."""
    cloud, seen = cloud_of(camera, *objects, **scene)
    boxes = [Detection2D(t.label, t.box_xyxy_px, 0.9, str(k)) for k, t in enumerate(seen.truths)]
    named, lifted, _ = Perception(None, Config()).place(cloud.frame, "test", boxes)
    return layout_of(cloud, lifted.detections, shelf="shelf")


def moved(thing, x=0.0, y=0.0, turn_deg=0.0):
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    pose, about = np.eye(4), thing.frame_T_box[:3, 3]
    pose[:2, :2] = ((c, -s), (s, c))
    pose[:3, 3] = about + (x, y, 0) - pose[:3, :3] @ about
    return thing.moved(pose)


def test_what_stands_where_it_stood_is_there_and_what_was_taken_is_gone(camera):
    box, bowl = measured(camera, BOX, BOWL).things
    without, _ = cloud_of(camera, BOWL, seed=2)
    assert presence(without, box).is_gone and not presence(without, box).is_there
    assert presence(without, bowl).is_there
    again, _ = cloud_of(camera, BOX, BOWL, seed=3)
    assert presence(again, box).is_there and not presence(again, box).is_gone


@pytest.mark.parametrize("turn_deg", [0.0, 45.0, 90.0, 180.0])
def test_what_was_put_down_is_there_from_whichever_side_it_is_seen(camera, turn_deg):
    box, _ = measured(camera, BOX, BOWL).things
    before, _ = cloud_of(camera, BOWL, seed=2)
    put = replace(BOX, position_m=(0.02, 0.08, 0.025), yaw_rad=BOX.yaw_rad + np.radians(turn_deg))
    now, _ = cloud_of(camera, put, BOWL, seed=3)
    there = moved(box, 0.10, 0.13, turn_deg)
    assert presence(now, there, before).is_there
    fallen, _ = cloud_of(camera, replace(put, position_m=(0.02, 0.14, 0.025)), BOWL, seed=4)
    assert not presence(fallen, there, before).is_there


def test_what_stood_there_before_is_none_that_was_put_there(camera):
    box, bowl = measured(camera, BOX, BOWL).things
    before, _ = cloud_of(camera, BOX, BOWL, seed=2)
    now, _ = cloud_of(camera, BOX, BOWL, seed=3)
    assert presence(now, box).is_there and not presence(now, box, before).is_there


def test_what_is_hidden_is_neither_there_nor_gone(camera):
    box, _ = measured(camera, BOX, BOWL).things
    screen = ObjectSpec("box", "green", (0.30, 0.02, 0.25), (-0.05, -0.25, 0.125), 0.0)
    told = presence(cloud_of(camera, BOX, BOWL, screen, seed=2)[0], box)
    assert not told.is_there and not told.is_gone and told.hidden > 100


def test_a_board_stays_known_behind_what_was_put_on_it(camera):
    shelf = ShelfSpec((-0.01, 0.19), -1.45, (0.36, 0.24), 2, 0.23, (0.62, 0.47, 0.31))
    (level,) = [s for s in measured(camera, BOX, shelf=shelf).surfaces if s.level == 2]
    on_it = replace(BOX, size_m=(0.16, 0.10, 0.08), position_m=(-0.01, 0.17, shelf.board_top_m(2) + 0.04))
    assert presence(cloud_of(camera, on_it, shelf=shelf, seed=2)[0], level).is_there
    assert presence(cloud_of(camera, BOX, seed=3)[0], level).is_gone


def test_another_place_is_told_from_a_thing_that_moved(camera):
    here, _ = cloud_of(camera, BOX, BOWL)
    less, _ = cloud_of(camera, BOWL, seed=2)
    aside, _ = cloud_of(camera, BOX, BOWL, view=CameraSpec((-0.3, -0.70, 0.65), (0.0, 0.02, 0.10)), seed=3)
    assert not another_scene(here, less) and not another_scene(here, aside)
    cupboard = ObjectSpec("box", "white", (0.9, 0.3, 0.5), (0.0, 0.1, 0.25), 0.0)
    assert another_scene(here, cloud_of(camera, cupboard, seed=4)[0])
    assert changed(here, less) and not changed(here, cloud_of(camera, BOX, BOWL, seed=5)[0])
