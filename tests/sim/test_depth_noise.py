"""The simulated depth camera errs as real ones do: by the square of the distance, in steps, with holes where they have them."""

import numpy as np
import pytest

from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.depth_noise import BASELINE_M, DISPARITY_STEP_PX, noisy_depth, sigma_m
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.stream import SimStream

K = np.array(((600.0, 0, 159.5), (0, 600.0, 119.5), (0, 0, 1)))


def wall(distance_m):
    return np.full((240, 320), distance_m, np.float32)


@pytest.mark.parametrize("distance_m", [0.4, 0.8, 1.6])
def test_noise_grows_with_the_square_of_the_distance(distance_m):
    noisy = noisy_depth(wall(distance_m), K, 1)
    error = (noisy - distance_m)[noisy > 0]
    step_m = distance_m**2 * DISPARITY_STEP_PX / (600 * BASELINE_M)
    assert error.std() == pytest.approx(np.hypot(sigma_m(distance_m, 600.0), step_m / np.sqrt(12)), rel=0.08)
    assert abs(error.mean()) < sigma_m(distance_m, 600.0) / 10


def test_depth_comes_in_steps_of_disparity():
    noisy = noisy_depth(wall(0.8), K, 2)
    steps = 600 * BASELINE_M / noisy[noisy > 0] / DISPARITY_STEP_PX
    assert np.abs(steps - np.round(steps)).max() < 0.01


def test_the_same_seed_gives_the_same_picture_and_another_another():
    first, again, other = (noisy_depth(wall(1.0), K, seed) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).mean() > 0.5


def test_holes_lie_beside_edges_and_where_a_surface_is_seen_at_a_grazing_angle():
    step = wall(1.0)
    step[:, 160:] = 0.7
    lost = noisy_depth(step, K, 5) == 0
    assert lost[:, 156:162].mean() > 0.3 and lost[:, :150].mean() < 0.01 and lost[:, 170:].mean() < 0.01
    # A floor 10 cm below the camera: the farther, the flatter the ray meets it.
    v = np.arange(240, dtype=np.float32)[:, None]
    floor = np.repeat(0.1 * 600 / (v - 119.5 + 1e-6), 320, 1).astype(np.float32)
    floor[(floor <= 0) | (floor > 3)] = 0.0
    lost = (noisy_depth(floor, K, 6) == 0) & (floor > 0)
    assert lost[145:150].mean() > 0.6 > 0.45 > lost[225:].mean()


def test_what_was_not_measured_stays_so_and_nothing_is_negative_or_not_finite():
    exact = wall(1.0)
    exact[::7] = 0.0
    noisy = noisy_depth(exact, K, 7)
    assert (noisy[::7] == 0).all() and np.isfinite(noisy).all() and noisy.min() == 0 and noisy.dtype == np.float32


def test_the_library_measures_exactly_unless_noise_is_asked_for():
    with SimCamera(160, 120) as camera, SimStream(3, scene_every_s=None, width=160, height=120) as plain:
        exact = camera.render(sample_scene(3)).depth_m
        assert (plain.frame_at(0.0)[0].depth_m == exact).all()
    with SimStream(3, scene_every_s=None, depth_noise=True, width=160, height=120) as noisy:
        one, again, later = (noisy.frame_at(t)[0].depth_m for t in (0.0, 0.0, 0.1))
    assert (one == again).all() and (one != later).mean() > 0.5 and (one != exact).mean() > 0.5
