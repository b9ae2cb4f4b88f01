"""What is drawn is where it is: in the image, through the lens, from any frame, and never outside or over the input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.draw import draw_scene, put_text, text_size
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import (
    Detection2D,
    Detection3D,
    Frame,
    Generation,
    GraspTarget,
    InvalidInput,
    Point2D,
    Scene,
)

K = np.array([[600.0, 0, 319.5], [0, 600, 239.5], [0, 0, 1]])
SAID = Generation("", (), None, (), "stop")
GREY = np.full((480, 640, 3), 128, np.uint8)


def pose(x=0.0, y=0.0, z=1.0, turn_rad=0.0) -> np.ndarray:
    T = np.eye(4)
    T[:2, :2] = ((np.cos(turn_rad), -np.sin(turn_rad)), (np.sin(turn_rad), np.cos(turn_rad)))
    T[:3, 3] = x, y, z
    return T


def frame(rgb=GREY, **kwargs) -> Frame:
    return Frame(0, "camera", rgb, **{"K": K} | kwargs)


def scene(**kwargs) -> Scene:
    return Scene(0, "camera", Detect(("cube",)), SAID, **kwargs)


def cube(T, size=0.1, frame_id="camera", id="1") -> Detection3D:
    return Detection3D(id, "cube", 0.9, frame_id, T, np.full(3, size))


def grasp(T, frame_id="camera", feasible=True, **kwargs) -> GraspTarget:
    values = {"width_m": 0.06, "approach_m": 0.1, "quality": 0.5} | kwargs
    return GraspTarget("1", "cube", frame_id, T, feasible=feasible, reason="" if feasible else "too wide", **values)


def changed(image, rgb=GREY) -> np.ndarray:
    """HxW of bool: pixels that differ from the photograph."""
    return (image != rgb).any(2)


def extent(mask) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return columns[0], rows[0], columns[-1], rows[-1]


def test_nothing_seen_changes_nothing():
    image = draw_scene(frame(), scene())
    assert np.array_equal(image, GREY) and image is not GREY


def test_the_photograph_itself_is_not_drawn_on():
    rgb = GREY.copy()
    draw_scene(frame(rgb), scene(detections_2d=(Detection2D("cube", (100, 100, 200, 200), 0.9),)), caption="hello")
    assert np.array_equal(rgb, GREY)


def test_box_is_drawn_where_it_is():
    mask = changed(draw_scene(frame(), scene(detections_2d=(Detection2D("cube", (100, 150, 220, 260), 0.9),))))
    assert (
        mask[150:260, 100].all() and mask[150:260, 219].all() and mask[150, 100:220].all() and mask[259, 100:220].all()
    )
    assert mask[200:210, 150:160].all(), "lightly filled"
    assert extent(mask)[0] >= 95 and extent(mask)[3] <= 285


def test_wireframe_is_the_projection_of_the_box():
    T, size = pose(0.05, -0.02, 0.9, 0.4), 0.12
    mask = changed(draw_scene(frame(), scene(detections_3d=(cube(T, size),))))
    corners = np.array(np.meshgrid(*[(-size / 2, size / 2)] * 3)).reshape(3, -1).T @ T[:3, :3].T + T[:3, 3]
    pixels = corners[:, :2] / corners[:, 2:] * 600 + K[:2, 2]
    for a in range(8):
        for b in range(a):
            if np.isclose(np.linalg.norm(corners[a] - corners[b]), size):
                for point in pixels[a] + np.linspace(0, 1, 20)[:, None] * (pixels[b] - pixels[a]):
                    x, y = np.round(point).astype(int)
                    assert mask[y - 1 : y + 2, x - 1 : x + 2].any()
    x0, y0, x1, y1 = extent(mask)
    assert x0 > pixels[:, 0].min() - 5 and y0 > pixels[:, 1].min() - 30 and y1 < pixels[:, 1].max() + 30


@given(st.floats(-3.1, 3.1), st.floats(-2, 2), st.floats(-2, 2))
@settings(deadline=None, max_examples=25)
def test_the_frame_of_the_results_does_not_matter(turn, x, y):
    world_T_camera = pose(x, y, 0.3, turn)
    T = pose(0.05, 0.02, 0.8, 0.7)
    here = draw_scene(frame(), scene(detections_3d=(cube(T),), grasps=(grasp(T),)))
    placed = frame(target_T_camera=world_T_camera, target_frame="world")
    there = draw_scene(
        placed,
        scene(
            detections_3d=(cube(world_T_camera @ T, frame_id="world"),),
            grasps=(grasp(world_T_camera @ T, frame_id="world"),),
        ),
    )
    assert (changed(here, there).mean()) < 1e-3


def test_unknown_frames_are_refused():
    for known in (frame(), frame(target_T_camera=np.eye(4), target_frame="world")):
        with pytest.raises(InvalidInput, match="in frame 'map'.*'camera'"):
            draw_scene(known, scene(detections_3d=(cube(pose(), frame_id="map"),)))


def test_the_lens_bends_what_is_drawn():
    T, d = pose(0.45, 0.35, 1.0), np.array([-0.3, 0.1, 0, 0, 0])
    mask = changed(draw_scene(frame(distortion=d), scene(detections_3d=(cube(T, 0.02),))))
    ray = np.array((0.45, 0.35))
    r2 = ray @ ray
    expected = ray * (1 - 0.3 * r2 + 0.1 * r2 * r2) * 600 + K[:2, 2]
    x, y = np.round(expected).astype(int)
    straight = np.round(ray * 600 + K[:2, 2]).astype(int)
    assert mask[y - 8 : y + 9, x - 8 : x + 9].any()
    assert not mask[straight[1] - 8 : straight[1] + 9, straight[0] - 8 : straight[0] + 9].any()


def test_nothing_folds_back_through_a_strong_lens():
    """Far outside the view a distortion polynomial returns into the image."""
    T = pose(30.0, 0, 1.0)
    mask = changed(draw_scene(frame(distortion=np.array([-0.4, 0.1, 0, 0, 0])), scene(detections_3d=(cube(T, 5.0),))))
    chip_row = mask.any(1).sum()
    assert chip_row < 40, "only the label may be seen"


def test_grasp_shows_width_side_and_approach():
    T = pose(0, 0, 0.8)
    T[:3, 1], T[:3, 2] = (1, 0, 0), (0, 1, 0)  # closing to the right, approach downwards in the image
    T[:3, 0] = np.cross(T[:3, 1], T[:3, 2])
    mask = changed(draw_scene(frame(), scene(grasps=(grasp(T, width_m=0.08, approach_m=0.1),))))
    x0, y0, x1, y1 = extent(mask)
    assert abs((x1 - x0) - 0.08 / 0.8 * 600) < 10, "as wide as the opening"
    assert abs(y1 - 239.5) < 6, "fingertips at the grasp"
    assert abs((y1 - y0) - (0.1 + 0.045) / 0.8 * 600) < 12, "as long as fingers and approach"


def test_feasible_and_infeasible_grasps_differ():
    good, bad = (draw_scene(frame(), scene(grasps=(grasp(pose(0, 0, 0.8), feasible=f),))) for f in (True, False))
    green, red = (good[..., 1] > 220) & (good[..., 0] < 120), (bad[..., 0] > 220) & (bad[..., 1] < 120)
    assert green.sum() > 20 and red.sum() > 20


def test_without_intrinsics_only_the_image_is_drawn_on():
    flat = frame(K=None)
    assert np.array_equal(draw_scene(flat, scene(detections_3d=(cube(pose()),), grasps=(grasp(pose()),))), GREY)
    box = (Detection2D("cube", (100, 100, 200, 200), 0.9, "1"),)
    assert changed(draw_scene(flat, scene(detections_2d=box, detections_3d=(cube(pose()),)))).any()


def test_every_target_has_its_colour():
    boxes = tuple(Detection2D(label, (100 + 150 * i, 200, 200 + 150 * i, 300), 0.9) for i, label in enumerate("abc"))
    image = draw_scene(frame(), Scene(0, "camera", Detect(("a", "b", "c")), SAID, boxes))
    colours = {tuple(image[250, 100 + 150 * i].tolist()) for i in range(3)}
    assert len(colours) == 3


def test_labels_do_not_cover_each_other():
    boxes = tuple(Detection2D(f"object {i}", (300, 200, 360, 260), 0.5 + i / 100, str(i)) for i in range(4))
    one = changed(draw_scene(frame(), scene(detections_2d=boxes[:1]))).sum()
    four = changed(draw_scene(frame(), scene(detections_2d=boxes))).sum()
    chip = one - 62 * 62
    assert four - one > 2.5 * chip


def test_caption_is_at_the_bottom():
    mask = changed(draw_scene(frame(), scene(), caption="2 objects · 0.4 s"))
    assert mask[460:].mean() > 0.98 and not mask[:440].any()


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 900, 3), (16, 16, 3), (1080, 1920, 3)])
def test_any_image_size(shape):
    rgb = np.zeros(shape, np.uint8)
    h, w = shape[:2]
    s = scene(
        detections_2d=(Detection2D("a rather long label, 杯子 été", (0, 0, w, h), float("nan")),),
        points=(Point2D("p", (w / 2, h / 2)),),
        detections_3d=(cube(pose()),),
        grasps=(grasp(pose()),),
    )
    assert draw_scene(frame(rgb), s, caption="c").shape == shape


numbers = st.floats(-50, 50)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(numbers, numbers, numbers),
    st.floats(0, 20),
    st.floats(-4, 4),
    st.sampled_from([None, (-0.3, 0.1, 0, 0, 0)]),
)
def test_things_anywhere_in_space_can_be_drawn(place, size, turn, distortion):
    """Behind the camera, around it, across its near plane, at infinity: nothing fails."""
    T = pose(*place, turn)
    f = frame(np.zeros((48, 64, 3), np.uint8), distortion=None if distortion is None else np.array(distortion))
    assert draw_scene(f, scene(detections_3d=(cube(T, size),), grasps=(grasp(T, width_m=size),))).shape == (48, 64, 3)


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="this OpenCV has no font with Chinese characters")
def test_chinese_labels_are_drawn_as_chinese():
    pictures = {}
    for text in ("??", "杯子", "盒子"):
        pictures[text] = np.zeros((40, 80, 3), np.uint8)
        put_text(pictures[text], text, (5, 30), 0.5, (255, 255, 255))
        width, height, base = text_size(text, 0.5)
        assert (
            pictures[text].any()
            and pictures[text][: 30 - height - 2].max() == pictures[text][30 + base + 2 :].max() == 0
        )
        assert pictures[text][:, 5 + width + 2 :].max() == 0
    assert (pictures["杯子"] != pictures["盒子"]).any() and (pictures["杯子"] != pictures["??"]).any()
