"""What contacts and quality know: noise, corners, levers, and that more of what is good is never worse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qwen3vl_ros.grasping.contacts import contact_tilt
from qwen3vl_ros.grasping.quality import antipodality, bite, share_that_holds, steadiness


def wall(slope_deg: float, noise_m: float = 0.0, seed: int = 0):
    """Points of a face 22 mm across and 20 mm high whose normal is turned in the plane by an angle: x, y (outward), z."""
    x, z = (of.ravel() for of in np.meshgrid(np.linspace(-0.011, 0.011, 23), np.linspace(0.0, 0.02, 21)))
    y = 0.03 + math.tan(math.radians(slope_deg)) * x
    return x, y + np.random.default_rng(seed).normal(0, noise_m, x.shape), z


@pytest.mark.parametrize("slope", (0, 10, 20, 35))
def test_a_face_has_the_slope_it_has(slope):
    assert math.degrees(contact_tilt(*wall(slope), 0.02)) == pytest.approx(slope, abs=3)


@pytest.mark.parametrize("seed", range(8))
def test_noise_makes_no_corner_of_a_face_held_squarely(seed):
    assert math.degrees(contact_tilt(*wall(0, 0.0015, seed), 0.02, 0.0015)) < 15


def test_a_corner_stays_a_corner_under_noise():
    x, y, z = wall(0, 0.0005)
    assert math.degrees(contact_tilt(x, y - 0.7 * np.abs(x), z, 0.02, 0.0005)) > 25


def test_quality_grows_with_what_is_good():
    assert antipodality(0.0, 0.5) == 1.0 > antipodality(0.2, 0.5) > antipodality(0.4, 0.5) > 0
    assert bite(0.002) < bite(0.008) < bite(0.02) == 1.0
    assert 0 < share_that_holds(0.2) < share_that_holds(0.6) < share_that_holds(0.9) < 1


def test_a_heavy_lever_is_held_worse_about_every_axis():
    contact = dict(span_m=0.02, depth_m=0.015, friction=0.5, force_n=40.0)
    for axis in np.eye(3):
        light, heavy = (steadiness(torque * axis, **contact) for torque in (0.02, 1.0))
        assert light == 1.0 and heavy < 0.6
