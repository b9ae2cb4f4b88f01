"""Courses that a tracker has to run: scenes as functions of time, each with one difficulty.

A course is a function of t alone, so that a benchmark can record it before anything is timed. Knows nothing of OpenGL,
of trackers or of ROS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, TableSpec

DURATION_S = 6.0

_TABLE = TableSpec("oak", yaw_rad=0.3)
_ABOVE = CameraSpec((0.0, -0.48, 0.42), (0.0, -0.01, 0.03))
_LOW = CameraSpec((0.0, -0.66, 0.25), (0.0, 0.0, 0.04))


@dataclass(frozen=True)
class Course:
    """scene_at(t_s): what stands where, and the camera. pose_known: whether TF would know how the camera moves; where it
    does not, TF says that it stands as at the start. depth_noise_m: deviation of a reading at 1 m; grows with the square of it.
    """

    name: str
    scene_at: Callable[[float], SceneSpec]
    pose_known: bool = True
    depth_noise_m: float = 0.0


def _thing(kind: str, colour: str, x: float, y: float, size=None, yaw: float = 0.0) -> ObjectSpec:
    default = {
        "cube": (0.055, 0.055, 0.055),
        "ball": (0.06, 0.06, 0.06),
        "cylinder": (0.05, 0.05, 0.09),
        "mug": (0.104, 0.08, 0.09),
        "bowl": (0.12, 0.12, 0.05),
    }
    size = size or default[kind]
    return ObjectSpec(kind, colour, size, (x, y, size[2] / 2), yaw)


TEN = (
    _thing("mug", "blue", -0.20, -0.08, yaw=0.6),
    _thing("cube", "red", -0.10, -0.12, yaw=0.4),
    _thing("ball", "green", 0.00, -0.10),
    _thing("cylinder", "yellow", 0.09, -0.12),
    _thing("bowl", "white", 0.21, -0.08),
    _thing("cube", "purple", -0.18, 0.08, yaw=1.0),
    _thing("mug", "orange", -0.07, 0.06, yaw=-0.9),
    _thing("ball", "black", 0.04, 0.07),
    _thing("cylinder", "red", 0.12, 0.10),
    _thing("cube", "green", 0.22, 0.10, yaw=0.2),
)


def _orbit(t_s: float) -> SceneSpec:
    turn = np.deg2rad(9.0) * np.sin(2 * np.pi * 0.12 * t_s)
    c, s = np.cos(turn), np.sin(turn)
    x, y, z = _ABOVE.eye_m
    return SceneSpec(0, TEN, table=_TABLE, camera=replace(_ABOVE, eye_m=(c * x - s * y, s * x + c * y, z)))


def _fast(t_s: float) -> SceneSpec:
    x = 0.18 * np.sin(2 * np.pi * 0.5 * t_s)  # 0.57 m/s at its fastest
    return SceneSpec(1, (_thing("mug", "red", float(x), -0.12, yaw=0.5), *TEN[5:9]), table=_TABLE, camera=_ABOVE)


def _twins(t_s: float) -> SceneSpec:
    x = float(0.17 * np.cos(2 * np.pi * 0.25 * t_s))
    twins = _thing("cube", "blue", x, -0.045, yaw=0.3), _thing("cube", "blue", -x, 0.045, yaw=0.3)
    return SceneSpec(2, (*twins, _thing("bowl", "white", 0.0, 0.17)), table=_TABLE, camera=_LOW)


def _occlusion(t_s: float) -> SceneSpec:
    """A board passes before a mug, which is hidden for about a second; a ball rolls behind a post."""
    board = _thing("cube", "white", float(0.02 - 0.06 * t_s), -0.20, size=(0.15, 0.01, 0.17))
    post = _thing("cube", "black", 0.13, 0.08, size=(0.06, 0.02, 0.13))
    ball = _thing("ball", "orange", float(0.25 - 0.06 * t_s), 0.15)
    mug, cylinder = _thing("mug", "red", -0.16, -0.08, yaw=0.5), _thing("cylinder", "green", 0.30, 0.10)
    return SceneSpec(3, (mug, ball, cylinder, post, board), table=_TABLE, camera=_LOW)


def _shake(t_s: float) -> SceneSpec:
    angles = [np.sin(2 * np.pi * f * t_s + p) for f, p in ((2.1, 0.0), (3.3, 1.0), (5.2, 2.0), (2.7, 0.5), (4.1, 1.7))]
    eye = np.array(_ABOVE.eye_m) + 0.004 * np.array(angles[:3])
    look = np.array(_ABOVE.look_at_m) + 0.008 * np.array((angles[3], angles[4], 0.0))
    camera = CameraSpec(tuple(map(float, eye)), tuple(map(float, look)), float(np.deg2rad(0.7) * angles[1]))
    return SceneSpec(4, TEN[:6], table=_TABLE, camera=camera)


COURSES: dict[str, Course] = {
    course.name: course
    for course in (
        Course("orbit", _orbit),
        Course("fast", _fast),
        Course("twins", _twins),
        Course("occlusion", _occlusion),
        Course("shake", _shake, pose_known=False),
        Course("noise", _orbit, depth_noise_m=0.006),
    )
}
