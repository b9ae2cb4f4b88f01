"""Each quick way of computing something gives what the plain way gives."""

import math

import cv2
import numpy as np
import pytest

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.foreground import surface_normals, touching_patches, window_of
from qwen3vl_ros.geometry.order_statistics import median, order_statistics
from qwen3vl_ros.geometry.revolution import _all_above
from qwen3vl_ros.grasping.judge import _counts
from qwen3vl_ros.types import Frame

K = np.array(((200.0, 0, 79.5), (0, 200.0, 59.5), (0, 0, 1)))
BOX = (30, 20, 130, 100)


def cloud_of(depth_m, distortion=None) -> SceneCloud:
    frame = Frame(0, "camera", np.zeros((*depth_m.shape, 3), np.uint8), depth_m.astype(np.float32), K, distortion)
    return SceneCloud.of(frame, LiftConfig())


def surface(rng, holes: float = 0.1) -> np.ndarray:
    """A wavy surface, 120x160, with holes."""
    v, u = np.indices((120, 160)) / 20.0
    depth_m = 0.8 + 0.02 * np.sin(u + rng.uniform(0, 6)) * np.cos(v)
    return np.where(rng.random(depth_m.shape) < holes, 0.0, depth_m)


@pytest.mark.parametrize("seed", range(8))
def test_patches_are_those_of_the_graph_of_neighbours(seed):
    rng = np.random.default_rng(seed)
    depth_m = surface(rng, holes=0.35)
    if seed % 2:  # a step that parts what the mask alone would join
        depth_m[:, 80:] += 0.1
    window = window_of(cloud_of(depth_m), BOX)
    mask = window.valid & (rng.random(window.valid.shape) < 0.8)
    patches, count = touching_patches(window, mask, 0.02)
    label = np.zeros(mask.shape, int)  # plainly: flood from each pixel in turn
    z, found = window.depth_m, 0
    for start in zip(*np.nonzero(mask)):
        if label[start]:
            continue
        found, todo = found + 1, [start]
        label[start] = found
        while todo:
            r, c = todo.pop()
            for near in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if all(0 <= a < n for a, n in zip(near, mask.shape)) and mask[near] and not label[near]:
                    if abs(math.log(z[near] / z[r, c])) < math.log1p(0.02):
                        label[near] = found
                        todo.append(near)
    assert count == found + 1 and (patches == label).all()


def test_normals_are_those_of_means_around_each_pixel():
    rng = np.random.default_rng(3)
    window = window_of(cloud_of(surface(rng)), BOX)
    mask = window.valid & (rng.random(window.valid.shape) < 0.9)
    pixels = np.flatnonzero(mask)[::7]
    normals = surface_normals(window.points_m, mask, pixels, noise_m=0.0)
    reach = min(max(1, round(0.03 * math.sqrt(mask.sum()))), 5)

    def mean(r, c):
        rows, columns = slice(max(0, r - 1), r + 2), slice(max(0, c - 1), c + 2)
        return window.points_m[rows, columns][mask[rows, columns]].astype(float).mean(0)

    def end(r, c, here):
        inside = 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c]
        return mean(r, c) if inside else here

    for pixel, normal in zip(pixels, normals):
        r, c = divmod(int(pixel), mask.shape[1])
        here = mean(r, c)
        down = end(r + reach, c, here) - end(r - reach, c, here)
        across = end(r, c + reach, here) - end(r, c - reach, here)
        plain = np.cross(down, across)
        if (length := np.linalg.norm(plain)) > 1e-7:
            assert normal == pytest.approx(plain / length, abs=2e-3)
        else:
            assert np.isnan(normal).all() or length > 0


@pytest.mark.parametrize("distortion", [None, (0.08, -0.05, 0.001, -0.002, 0.01)])
def test_points_above_a_height_are_those_of_the_whole_window(distortion):
    rng = np.random.default_rng(5)
    cloud = cloud_of(surface(rng), None if distortion is None else np.array(distortion))
    up = np.array((0.1, -0.6, -0.79))
    up /= np.linalg.norm(up)
    rows, columns = slice(11, 97, 3), slice(20, 151, 2)
    row, column, points = cloud.points_above(rows, columns, up, -0.62)
    whole = cloud.window_points_m(rows, columns)
    wanted = whole.astype(float) @ up >= -0.62
    v, u = np.nonzero(wanted)
    assert 10 < wanted.sum() < 0.9 * wanted.size
    assert (row == 11 + 3 * v).all() and (column == 20 + 2 * u).all()
    assert points == pytest.approx(whole[wanted], abs=1e-6)


def test_projection_is_that_of_opencv_and_nothing_is_seen_behind_the_camera():
    rng = np.random.default_rng(6)
    points = rng.uniform((-1, -1, 0.2), (1, 1, 3), (50, 3))
    cloud = cloud_of(surface(rng))
    plain = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, None)[0][:, 0]
    assert cloud.project_px(points) == pytest.approx(plain, abs=1e-6)
    assert np.isnan(cloud.project_px(points * (1, 1, -1))).all() and cloud.project_px(np.empty((0, 3))).shape == (0, 2)


def test_the_least_eigenvalue_is_compared_as_numpy_would_compare_it():
    rng = np.random.default_rng(7)
    for _ in range(300):
        a = rng.normal(size=(3, rng.integers(1, 6)))
        matrix = a @ a.T
        least = np.linalg.eigvalsh(matrix)[0]
        for bound in (least - 1e-6, least + 1e-6, rng.uniform(-1, 2)):
            assert _all_above(matrix, bound) == (least > bound), (matrix, bound)


@pytest.mark.parametrize("count", [1, 2, 9, 100])
def test_medians_and_percentiles_are_those_of_the_sorted_values(count):
    values = np.random.default_rng(count).normal(size=count).astype(np.float32)
    ordered = sorted(values.tolist())
    assert median(values) == pytest.approx(float(np.median(values)))
    for percents in ((50,), (0.5,), (100,), (2, 98), (0, 50, 100)):
        expected = [ordered[round(p / 100 * (count - 1))] for p in percents]
        assert order_statistics(values, *percents) == expected
    assert values.tolist() != ordered or count < 3  # they are left as they were


def test_counts_of_rows_are_numpys():
    some = np.random.default_rng(8).random((6, 400)) < 0.3
    assert _counts(some) == some.sum(1).tolist() and _counts(some[:, :0]) == [0] * 6
