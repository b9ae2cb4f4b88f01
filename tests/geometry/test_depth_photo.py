"""Lifting on a real RGB-D photograph: the Middlebury motorcycle that scikit-image ships (stereo depth, 7 %
holes).

Boxes were drawn by hand. What is true is computed from the depth itself in the plainest way, pixel extent x
range / focal length, so that the checks do not lean on the code under test.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from qwen3vl_ros.config import GripperConfig, LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lens import project_px
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.types import Detection2D, Frame

FOCAL_PX, CX, CY, DOFFS_PX, BASELINE_M = 994.978, 311.193, 254.877, 31.086, 0.193001
BOXES_PX = {
    "motorcycle": (92, 45, 685, 452),
    "rear wheel": (118, 238, 290, 400),
    "front wheel": (510, 262, 685, 452),
    "headlight": (505, 122, 560, 188),
    "carton on the shelf": (525, 30, 615, 101),
    "carton on the floor": (613, 183, 684, 290),
    "bare floor": (10, 420, 150, 495),
}


@pytest.fixture(scope="module")
def frame() -> Frame:
    package = importlib.util.find_spec("skimage")
    if package is None:
        pytest.skip("scikit-image is not installed: the photograph comes with it (pip install scikit-image)")
    data = Path(package.origin).parent / "data"
    if not (data / "motorcycle_disp.npz").exists():
        pytest.skip(f"this scikit-image ships no motorcycle_disp.npz in {data}")
    rgb = cv2.cvtColor(cv2.imread(str(data / "motorcycle_left.png")), cv2.COLOR_BGR2RGB)
    disparity_px = np.load(data / "motorcycle_disp.npz")["arr_0"]  # inf where stereo found nothing
    depth_m = (FOCAL_PX * BASELINE_M / (disparity_px + DOFFS_PX)).astype(np.float32)
    K = np.array(((FOCAL_PX, 0, CX), (0, FOCAL_PX, CY), (0, 0, 1.0)))
    return Frame(0, "camera", rgb, depth_m, K)


@pytest.fixture(scope="module")
def cloud(frame) -> SceneCloud:
    return SceneCloud.of(frame, LiftConfig())


@pytest.fixture(scope="module")
def lifted(cloud):
    return lift_boxes(cloud, [Detection2D(name, tuple(map(float, box)), 0.9, name) for name, box in BOXES_PX.items()])


def find(lifted, name):
    return next(d for d in lifted.detections if d.label == name)


def middle_depth_m(frame, box) -> float:
    x0, y0, x1, y1 = box
    window = frame.depth_m[(3 * y0 + y1) // 4 : (y0 + 3 * y1) // 4, (3 * x0 + x1) // 4 : (x0 + 3 * x1) // 4]
    return float(np.median(window[window > 0]))


def test_the_garage_floor_is_the_support(cloud, frame):
    plane = cloud.plane
    assert plane is not None
    strip = cloud.window_points_m(slice(440, 495), slice(150, 480))  # bare concrete in front of the motorcycle
    heights = np.abs(plane.height_m(strip[np.isfinite(strip[..., 2])]))
    assert np.median(heights) < 0.01 and np.percentile(heights, 95) < 0.03
    assert np.degrees(np.arccos(-plane.normal[1])) < 25, "the photographer held the camera about level"


def test_everything_but_the_bare_floor_is_lifted(lifted):
    assert [r.label for r in lifted.refusals] == ["bare floor"], lifted.refusals
    assert len(lifted.detections) == len(BOXES_PX) - 1


@pytest.mark.parametrize("name", ("carton on the shelf", "carton on the floor"))
def test_size_agrees_with_pixels_times_range(lifted, frame, name):
    x0, y0, x1, y1 = BOXES_PX[name]
    scale = middle_depth_m(frame, BOXES_PX[name]) / FOCAL_PX
    found = find(lifted, name)
    flat, upright = max(found.size_m[:2]), found.size_m[2]
    assert flat == pytest.approx((x1 - x0) * scale, rel=0.25)
    assert upright == pytest.approx((y1 - y0) * scale, rel=0.25)
    assert found.frame_T_box[2, 3] == pytest.approx(middle_depth_m(frame, BOXES_PX[name]), abs=0.15)


@pytest.mark.parametrize("name", ("motorcycle", "rear wheel", "headlight", "carton on the shelf"))
def test_the_3d_box_projects_onto_the_2d_box(lifted, frame, name):
    found = find(lifted, name)
    corners = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * found.size_m
    pixels = project_px(corners @ found.frame_T_box[:3, :3].T + found.frame_T_box[:3, 3], frame.K) + 0.5
    low, high = pixels.min(0), pixels.max(0)
    box = np.array(BOXES_PX[name], float)
    overlap = np.prod(np.maximum(np.minimum(high, box[2:]) - np.maximum(low, box[:2]), 0))
    union = np.prod(high - low) + np.prod(box[2:] - box[:2]) - overlap
    assert overlap / union > 0.6


def test_the_motorcycle_stands_on_the_floor(lifted, cloud, frame):
    found = find(lifted, "motorcycle")
    bottom = found.frame_T_box[:3, 3] - found.frame_T_box[:3, 2] * found.size_m[2] / 2
    assert abs(cloud.plane.height_m(bottom)) < 0.02
    x0, _, x1, _ = BOXES_PX["motorcycle"]
    length = (x1 - x0) * middle_depth_m(frame, BOXES_PX["motorcycle"]) / FOCAL_PX
    assert found.size_m[:2].max() == pytest.approx(length, rel=0.12)
    assert find(lifted, "front wheel").frame_T_box[2, 3] < find(lifted, "rear wheel").frame_T_box[2, 3]


def test_a_motorcycle_is_not_for_this_gripper(lifted, cloud):
    for target in plan_grasps(cloud, [find(lifted, "motorcycle")], GripperConfig()):
        R = target.frame_T_gripper[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
        assert target.feasible or target.reason


def test_a_photo_with_depth_of_another_size_is_refused(frame):
    small = Frame(0, "camera", frame.rgb, np.ascontiguousarray(frame.depth_m[::2, ::2]), frame.K)
    refused = lift_boxes(SceneCloud.of(small, LiftConfig()), [Detection2D("motorcycle", (92, 45, 685, 452))]).refusals
    assert "371x250" in refused[0].reason and "741x500" in refused[0].reason
