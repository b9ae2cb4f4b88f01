"""The physical world is the scene that the camera draws: what stands stands still, what is hollow takes things in."""

import numpy as np
import pytest

from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.shapes import build_meshes, solid_parts
from qwen3vl_ros.sim.specs import KINDS, CameraSpec, ObjectSpec, SceneSpec
from qwen3vl_ros.types import InvalidInput

LOW = {"cube": 0.05, "ball": 0.05, "cylinder": 0.08, "mug": 0.09, "bowl": 0.05}


def standing(kind, xy=(0.0, 0.0), size=None, z=None):
    size = size or (0.12, 0.12, 0.05) if kind == "bowl" else size or (LOW[kind], LOW[kind], LOW[kind])
    return ObjectSpec(kind, "red", size, (*xy, size[2] / 2 if z is None else z), 0.3)


@pytest.mark.parametrize("seed", range(5_100_000, 5_100_012))
def test_a_scene_stands_still_as_it_was_drawn(seed):
    spec = sample_scene(seed, wide=True)
    world = PhysicalWorld(spec)
    world.settle()
    for index, thing in enumerate(spec.objects):
        if thing.on is None:  # what lies in a bowl is placed by eye, and sinks to its floor
            assert np.linalg.norm(world.pose(index)[:3, 3] - thing.position_m) < 0.003, thing.label
            assert world.pose(index)[2, 2] > 0.999, thing.label


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_let_go_above_the_table_falls_to_rest_on_it(kind):
    world = PhysicalWorld(SceneSpec(0, (standing(kind, z=0.15),)))
    world.settle(longest_s=4.0)
    lowest = (build_meshes()[kind].vertices * world.spec().objects[0].size_m) @ world.pose(0)[:3, :3].T
    assert abs(lowest[:, 2].min() + world.pose(0)[2, 3]) < 0.004
    assert abs(world.pose(0)[0, 3]) < 0.1


@pytest.mark.parametrize("hollow, size", [("bowl", (0.14, 0.14, 0.06)), ("mug", (0.109, 0.08, 0.09))])
def test_a_ball_over_a_hollow_thing_comes_to_rest_inside_it(hollow, size):
    holder = ObjectSpec(hollow, "blue", size, (0, 0, size[2] / 2), 0.0)
    body_x = 0.0 if hollow == "bowl" else -0.5 * (size[0] - size[1])  # the handle makes the box longer on one side
    ball = ObjectSpec("ball", "red", (0.03,) * 3, (body_x, 0, size[2] + 0.05), 0.0)
    world = PhysicalWorld(SceneSpec(0, (holder, ball)))
    world.settle(longest_s=4.0)
    assert world.pose(1)[2, 3] < 0.7 * size[2], "it did not enter"
    assert np.hypot(world.pose(1)[0, 3] - body_x, world.pose(1)[1, 3]) < 0.45 * size[1]


def test_the_scene_as_it_is_now_can_be_drawn_and_says_where_things_are():
    tall = ObjectSpec("box", "green", (0.03, 0.03, 0.12), (0, 0, 0.06), 0.0)
    world = PhysicalWorld(SceneSpec(0, (tall,), camera=CameraSpec((0.0, -0.5, 0.4), (0, 0, 0))))
    lying = np.eye(4)
    lying[:3, :3], lying[:3, 3] = ((1, 0, 0), (0, 0, -1), (0, 1, 0)), (0.05, 0.0, 0.02)
    world.move(0, lying)
    world.settle()
    now = world.spec().objects[0]
    assert abs(now.pose()[2, 2]) < 0.1 and abs(now.position_m[2] - 0.015) < 0.003
    with pytest.raises(InvalidInput, match="no object 3"):
        world.move(3, lying)


@pytest.mark.parametrize("kind", ["cube", "ball", "cylinder", "mug", "bowl", "box", "tray"])
def test_the_pieces_of_a_kind_fill_what_its_mesh_encloses(kind):
    mesh = build_meshes()[kind]
    pieces = np.concatenate(solid_parts(kind, mesh))
    assert np.abs(pieces.min(0) - mesh.vertices.min(0)).max() < 0.03
    assert np.abs(pieces.max(0) - mesh.vertices.max(0)).max() < 0.03
