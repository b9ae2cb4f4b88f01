"""One Perception for several cameras: ids are an object's alone, tracks and drafts a camera's alone."""

import itertools

import numpy as np
import pytest

from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import Frame, Generation

MUGS = Detect(("mug",))
SAID = '[{"bbox_2d": [250, 250, 750, 750], "label": "mug"}]'


class Engine:
    """Sees a mug in the middle of everything, and remembers whose picture it was."""

    def __init__(self):
        self.streams = []

    def generate(self, prompt, limits, control=None, on_text=None):
        self.streams.append(prompt.stream)
        return Generation(SAID, (), None, (), "stop")


@pytest.fixture
def perception():
    return Perception(Engine())


def frame(stamp_s=0.0):
    return Frame(int(stamp_s * 1e9), "optical", np.zeros((60, 80, 3), np.uint8))


def ids(perception, camera="", stamp_s=0.0, prompt_id=1):
    scene = perception.look(frame(stamp_s), MUGS, prompt_id=prompt_id, camera=camera)
    return [d.id for d in scene.detections_2d]


@pytest.mark.parametrize("prompt_id", [0, 1])
def test_two_cameras_in_one_frame_give_their_objects_ids_of_their_own(perception, prompt_id):
    front, wrist = (ids(perception, name, 0.0, prompt_id) for name in ("front", "wrist"))
    assert front != wrist
    assert ids(perception, "front", 0.1, prompt_id) == front and ids(perception, "wrist", 0.1, prompt_id) == wrist


def test_twenty_cameras_do_not_push_each_other_s_tracks_out(perception):
    first = [ids(perception, f"camera{i}") for i in range(20)]
    assert [ids(perception, f"camera{i}", 0.1) for i in range(20)] == first


def test_several_share_their_ids_where_they_are_told_to(perception):
    shared = itertools.count(1)
    one, after = Perception(Engine(), ids=shared), Perception(Engine(), ids=shared)
    assert ids(one) != ids(after) and ids(perception) == ["1"]


def test_drafts_are_kept_by_camera_and_by_frame_where_there_is_one_camera(perception):
    for camera in ("front", "wrist", ""):
        ids(perception, camera)
    assert perception.engine.streams == ["front", "wrist", "optical"]


def test_grasps_are_planned_only_where_they_are_wanted(perception):
    K = np.array(((60.0, 0, 39.5), (0, 60.0, 29.5), (0, 0, 1)))
    depth_m = np.full((60, 80), 0.8, np.float32)
    depth_m[20:40, 30:50] = 0.74
    seen = Frame(1, "optical", np.zeros((60, 80, 3), np.uint8), depth_m, K)
    said = perception.generate(seen, MUGS)
    with_grasps, without = (perception.interpret(seen, MUGS, said, grasps=wanted) for wanted in (True, False))
    assert len(with_grasps.grasps) == len(with_grasps.detections_3d) == 1
    assert without.grasps == () and len(without.detections_3d) == 1


def test_what_is_measured_is_told_to_the_world_under_the_ids_of_the_answer():
    from qwen3vl_ros.tracking.world import World

    depth_m = np.full((120, 160), 0.8, np.float32)
    depth_m[40:80, 50:110] = 0.72
    K = np.array([[300.0, 0, 79.5], [0, 300.0, 59.5], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, 3] = 1.0, 2.0, 3.0
    rgb = np.zeros((120, 160, 3), np.uint8)
    world = World()
    perception = Perception(Engine(), world=world)
    scene = perception.look(Frame(7, "optical", rgb, depth_m, K, target_T_camera=pose, target_frame="base"), MUGS)
    (seen,), (known,) = scene.detections_3d, world.objects
    assert (known.id, known.label, known.seen_ns, known.frame_id) == (seen.id, "mug", 7, "base")
    assert np.allclose(known.frame_T_box, seen.frame_T_box) and known.position_m[2] > 3.7
    assert known.thing.seen_m.mean(0) == pytest.approx(known.position_m, abs=0.08) and known.thing.sigma_m > 0
