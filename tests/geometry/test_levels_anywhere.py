"""The levels of a shelf that nobody boxed are found by their surfaces, nothing else is taken for them, and a table reaches to its corners."""

import numpy as np
import pytest

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.observed import layout_of, levels_anywhere, surfaces_of
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, ShelfSpec, TableSpec
from qwen3vl_ros.types import Frame

CAMERA = CameraSpec((0.0, -0.90, 0.68), (0.0, 0.0, 0.14))
THINGS = (
    ObjectSpec("box", "red", (0.13, 0.09, 0.06), (-0.2, -0.15, 0.03), 0.2),
    ObjectSpec("tray", "white", (0.28, 0.20, 0.022), (0.12, -0.2, 0.011), 0.1),
)


@pytest.fixture(scope="module")
def camera():
    with SimCamera(quality="fast") as camera:
        yield camera


def cloud_of(camera, shelf, view=CAMERA, table=TableSpec(), things=THINGS):
    seen = camera.render(SceneSpec(0, things, camera=view, shelf=shelf, table=table))
    depth_m, pose = noisy_depth(seen.depth_m, seen.K, 5), seen.world_T_camera
    frame = Frame(
        stamp_ns=1,
        frame_id="camera",
        rgb=seen.rgb,
        depth_m=depth_m,
        K=seen.K,
        target_T_camera=pose,
        target_frame="world",
        up_camera=pose[2, :3],
    )
    return SceneCloud.of(frame, LiftConfig())


@pytest.mark.parametrize("levels", [2, 3])
def test_levels_are_numbered_from_below_at_their_heights(camera, levels):
    shelf = ShelfSpec((0.0, 0.15), -np.pi / 2, (0.40, 0.22), levels, 0.22, (0.6, 0.5, 0.4))
    found = levels_anywhere(cloud_of(camera, shelf), "shelf")
    seen = [k for k in range(1, levels + 1) if shelf.board_top_m(k) < CAMERA.eye_m[2] - 0.05]
    assert [s.level for s in found] == seen and found[1].id == "shelf/level 2"
    assert [s.outline_m[:, 2].mean() for s in found] == pytest.approx([shelf.board_top_m(k) for k in seen], abs=0.006)


def test_boxes_and_trays_are_no_shelf(camera):
    assert levels_anywhere(cloud_of(camera, None), "shelf") == ()


def test_a_layout_has_them_only_where_a_shelf_is_spoken_of(camera):
    shelf = ShelfSpec((0.0, 0.15), -np.pi / 2, (0.40, 0.22), 2, 0.22, (0.6, 0.5, 0.4))
    cloud = cloud_of(camera, shelf)
    assert [s.level for s in layout_of(cloud, (), shelf="架子").surfaces if s.level] == [1, 2]
    assert not [s for s in layout_of(cloud, ()).surfaces if s.level]


@pytest.mark.parametrize("yaw_rad", [0.0, 0.4, np.pi / 4])
@pytest.mark.parametrize("eye_m", [(0.0, -0.95, 0.75), (0.4, -0.8, 0.9)])
def test_a_table_is_measured_to_its_corners(camera, yaw_rad, eye_m):
    """Thirds of it are what "the left side" and "the top right corner" mean."""
    table = TableSpec(half_size_m=(0.40, 0.30), yaw_rad=yaw_rad)
    cloud = cloud_of(camera, None, CameraSpec(eye_m, (0.0, 0.0, 0.0)), table, ())
    (border,) = (
        s.outline_m[:, :2] for s in surfaces_of(cloud) if abs(s.outline_m[:, 2].mean()) < 0.01
    )  # not the floor
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    corners = np.array([(x, y) for x in (-0.4, 0.4) for y in (-0.3, 0.3)]) @ ((c, s), (-s, c))
    for turn in np.arange(0, np.pi, np.pi / 8):
        axis = np.cos(turn), np.sin(turn)
        for end in (np.min, np.max):
            assert end(border @ axis) == pytest.approx(end(corners @ axis), abs=0.03)
