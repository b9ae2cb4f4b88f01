"""What contacts and quality know: noise, corners, levers, and that more of what is good is never worse."""

from __future__ import annotations

import math

import depth_scenes as ds
import numpy as np
import pytest

from qwen3vl_ros.config import GripperConfig, LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.grasping.contacts import contact_tilt
from qwen3vl_ros.grasping.judge import judge, on_average
from qwen3vl_ros.grasping.poses import ERRORS, Poses, missed, upright_axes
from qwen3vl_ros.grasping.quality import antipodality, bite, contact_area, share_that_holds, steadiness
from qwen3vl_ros.grasping.site import site_of
from qwen3vl_ros.types import Detection2D


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
    assert 0 < contact_area(2e-5) < contact_area(6e-5) < contact_area(1.2e-4) < contact_area(3e-4) == 1.0
    assert 0 < share_that_holds(0.2) < share_that_holds(0.6) < share_that_holds(0.9) < 1


def test_a_heavy_lever_is_held_worse_about_every_axis():
    contact = dict(span_m=0.02, depth_m=0.015, friction=0.5, force_n=40.0)
    for axis in np.eye(3):
        light, heavy = (steadiness(torque * axis, **contact) for torque in (0.02, 1.0))
        assert light == 1.0 and heavy < 0.6


# -- on average ------------------------------------------------------------------------------------------------------------


def test_a_hold_that_an_arm_misses_easily_is_worth_less_than_one_in_the_middle():
    scene = ds.Scene([ds.box((0.05, 0.05, 0.05))], ds.look_from(60))
    cloud = SceneCloud.of(scene.frame(), LiftConfig())
    (found,) = lift_boxes(cloud, [Detection2D("cube", scene.box_px(0), 0.9, "0")]).detections
    gripper = GripperConfig()
    site = site_of(cloud, found, [], gripper)
    axes = upright_axes(np.full(2, site.box_yaw_rad))
    at_m = np.tile((*site.middle_xy_m, 0.02), (2, 1))
    at_m[1] += 0.029 * axes[1, :, 0]  # seven of the finger's 22 mm are on the cube
    both = judge(cloud, site, Poses(axes, at_m, np.full(2, 0.05)), gripper, best=2)
    assert not any(j.fault for j in both)
    middle, corner = on_average(cloud, site, both, gripper)
    assert middle.rating > 0.9 * both[0].rating
    assert corner.rating < 0.8 * both[1].rating, "three millimetres farther there is nothing to hold"


def test_an_arm_errs_to_both_sides_and_by_as_much_as_it_says():
    poses = Poses(upright_axes(np.array((0.0, 0.7))), np.array(((0.0, 0, 0), (1.0, 2, 3))), np.array((0.03, 0.05)))
    tried = missed(poses)
    assert len(tried) == 2 * ERRORS and (tried.width_m == np.repeat(poses.width_m, ERRORS)).all()
    for k in range(2):
        own = tried[k * ERRORS : (k + 1) * ERRORS]
        np.testing.assert_allclose(
            own.local_R_jaws.transpose(0, 2, 1) @ own.local_R_jaws, np.tile(np.eye(3), (ERRORS, 1, 1)), atol=1e-12
        )
        aside = (own.at_m - poses.at_m[k]) @ poses.local_R_jaws[k]
        assert sorted({round(1e3 * v) for v in aside[:, 0]}) == [-3, 0, 3] and np.abs(aside[:, 1]).max() < 1e-9
        turned = np.degrees(np.arccos((np.trace(poses.local_R_jaws[k].T @ own.local_R_jaws, axis1=1, axis2=2) - 1) / 2))
        assert np.rint(turned).tolist() == [0, 0, 5, 5, 5, 5]


def test_quality_grows_with_the_rating_and_an_average_that_is_high_is_nearly_sure():
    for averaged in (False, True):
        shares = [share_that_holds(r, averaged) for r in np.linspace(0, 1, 11)]
        assert shares == sorted(shares) and 0 < shares[0] < 0.5 and shares[-1] < 1
    assert share_that_holds(0.7, averaged=True) > 0.97
