"""A camera stream over changing table-top scenes: what `SimCamera` would see at a time t.

A function of (seed, t) alone, so that a test, a benchmark and a demo can all ask for the same picture. Knows
nothing of ROS or of clocks: the caller decides when to ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qwen3vl_ros.sim.camera import SimCamera, SimView
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec
from qwen3vl_ros.types import InvalidInput

MOTIONS = ("static", "one_moving", "all_moving")
_SLIDE_HZ, _ORBIT_HZ = 0.20, 0.12
_SLIDE_MAX_M, _ORBIT_RAD = 0.12, np.deg2rad(9.0)
_TABLE_REACH_M = 0.30


class SimStream:
    """The embedded camera as a stream.

    seed: of the first scene; scene k has seed + k. motion: "static", "one_moving" (one object slides to and fro) or
    "all_moving" (the camera orbits gently, so everything moves in the picture). scene_every_s: how long a scene
    lasts, None for one scene forever. n_objects: 1 to 6 or None for a random number. rate_hz: of `frames`.
    gauge, household, wide: as of sample_scene. depth_noise: depth as a
    real camera measures it (`depth_noise`), anew at each t. camera: arguments of SimCamera. Use it as a context manager and from one thread.
    """

    def __init__(
        self,
        seed: int = 0,
        motion: str = "static",
        scene_every_s: float | None = 4.0,
        n_objects: int | None = None,
        rate_hz: float = 10.0,
        *,
        gauge: bool = False,
        household: bool = False,
        wide: bool = False,
        depth_noise: bool = False,
        **camera,
    ):
        if motion not in MOTIONS:
            raise InvalidInput(f"SimStream.motion is {motion!r}; it must be one of {', '.join(MOTIONS)}")
        if scene_every_s is not None and not scene_every_s > 0:
            raise InvalidInput(f"SimStream.scene_every_s is {scene_every_s}; it must be above 0 s, or None")
        if not 0 < rate_hz <= 1000:
            raise InvalidInput(f"SimStream.rate_hz is {rate_hz}; it must be above 0 and at most 1000 Hz")
        self.seed, self.motion, self.scene_every_s = int(seed), motion, scene_every_s
        self.n_objects, self.rate_hz = n_objects, float(rate_hz)
        self.gauge, self.household, self.wide, self.depth_noise = gauge, household, wide, depth_noise
        self._base: SceneSpec | None = None
        self._last: tuple[SceneSpec, SimView] | None = None
        self._slide: tuple[int, np.ndarray] | None = None
        self._index = -1
        self.scene_at(0.0)  # bad arguments fail here, before OpenGL is touched
        self.camera = SimCamera(**camera)

    def __enter__(self) -> SimStream:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.camera.close()

    def scene_at(self, t_s: float) -> SceneSpec:
        """The scene at t_s >= 0 seconds."""
        if not (np.isfinite(t_s) and t_s >= 0):
            raise InvalidInput(f"t_s is {t_s}; it must be a finite time at or after 0 s")
        index = 0 if self.scene_every_s is None else int(t_s // self.scene_every_s)
        if index != self._index:
            self._base, self._index = self._sample(index), index
            self._slide = _longest_slide(self._base) if self.motion == "one_moving" else None
        since = t_s - index * (self.scene_every_s or 0.0)
        if self.motion == "one_moving":
            return _slid(self._base, *self._slide, since)
        return _orbited(self._base, since) if self.motion == "all_moving" else self._base

    def _sample(self, index: int) -> SceneSpec:
        return sample_scene(self.seed + index, self.n_objects, self.gauge, self.household, self.wide)

    def frame_at(self, t_s: float) -> tuple[SimView, SceneSpec]:
        """The picture with its truth, and the scene, at t_s >= 0 seconds."""
        spec = self.scene_at(t_s)
        if self._last is None or self._last[0] != spec:  # a camera over a still scene need not draw it again
            self._last = spec, self.camera.render(spec)
        view = self._last[1]
        if self.depth_noise:
            view = replace(view, depth_m=noisy_depth(view.depth_m, view.K, [self.seed & 0xFFFFFFFF, round(t_s * 1e6)]))
        return view, spec

    def frames(self, duration_s: float | None = None) -> Iterator[tuple[float, SimView, SceneSpec]]:
        """(t_s, view, scene) at rate_hz, as fast as they are asked for; without end where duration_s is None."""
        i = 0
        while duration_s is None or i / self.rate_hz < duration_s:
            yield (i / self.rate_hz, *self.frame_at(i / self.rate_hz))
            i += 1


def _footprint_radius_m(thing: ObjectSpec) -> float:
    x, y, _ = thing.size_m
    return float(np.hypot(x, y) / 2 if thing.asset or thing.kind in ("cube", "mug", "box", "tray") else x / 2)


def _longest_slide(scene: SceneSpec) -> tuple[int, np.ndarray]:
    """(object, displacement in the table's plane): the object that can go farthest without touching another."""
    circles = [(np.array(o.position_m[:2]), _footprint_radius_m(o)) for o in scene.objects]
    if scene.gauge is not None:
        circles.append((np.array(scene.gauge.position_m[:2]), scene.gauge.radius_m + 0.01))
    best = (0, np.zeros(2))
    for i in range(len(scene.objects)):
        start, radius = circles[i]
        for angle in np.arange(16) * np.pi / 8:
            direction = np.array((np.cos(angle), np.sin(angle)))
            for length in np.arange(_SLIDE_MAX_M, 0.0, -0.01):
                path = start + np.linspace(0, length, 13)[:, None] * direction
                free = all(
                    np.linalg.norm(path - c, axis=1).min() > r + radius + 0.005
                    for j, (c, r) in enumerate(circles)
                    if j != i
                )
                # Towards the middle it stays in view.
                if free and np.linalg.norm(path[-1]) < max(np.linalg.norm(start), 0.5 * _TABLE_REACH_M):
                    if length > np.linalg.norm(best[1]) + 1e-9:
                        best = (i, length * direction)
                    break
    return best


def _slid(scene: SceneSpec, index: int, displacement: np.ndarray, since_s: float) -> SceneSpec:
    share = 0.5 - 0.5 * np.cos(2 * np.pi * _SLIDE_HZ * since_s)
    thing = scene.objects[index]
    x, y = np.array(thing.position_m[:2]) + share * displacement
    moved = replace(thing, position_m=(float(x), float(y), thing.position_m[2]))
    return replace(scene, objects=(*scene.objects[:index], moved, *scene.objects[index + 1 :]))


def _orbited(scene: SceneSpec, since_s: float) -> SceneSpec:
    turn = _ORBIT_RAD * np.sin(2 * np.pi * _ORBIT_HZ * since_s)
    c, s = np.cos(turn), np.sin(turn)
    eye, target = np.array(scene.camera.eye_m), np.array(scene.camera.look_at_m)
    offset = np.array(((c, -s, 0), (s, c, 0), (0, 0, 1.0))) @ (eye - target)
    return scene.with_camera(
        CameraSpec(tuple(map(float, target + offset)), scene.camera.look_at_m, scene.camera.roll_rad)
    )
