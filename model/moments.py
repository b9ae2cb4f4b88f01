"""The same place at other times: things gone or moved, and the arm in the view. Knows nothing of pictures' meaning or of questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qwen3vl_ros.sim.arm import REST, Arm, furnish
from qwen3vl_ros.sim.faults import Unreachable
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.shapes import Part
from qwen3vl_ros.sim.specs import SceneSpec
from qwen3vl_ros.sim.workcell import base_beside

_GONE, _MOVED = 0.3, 0.25  # of the things on which nothing stands
_WITH_ARM = 0.3  # of the wider world's views
_APART_M = 0.02
_REACH_M = 0.30  # of the hand, from the table's middle


def without(spec: SceneSpec, gone: int) -> SceneSpec:
    """The scene without one object, on which nothing stands."""
    kept = [t for i, t in enumerate(spec.objects) if i != gone]
    return replace(
        spec, objects=tuple(replace(t, on=t.on - 1) if t.on is not None and t.on > gone else t for t in kept)
    )


def changed(spec: SceneSpec, rng: np.random.Generator) -> SceneSpec:
    """The same place later: some things are gone, some stand elsewhere on the table; one thing at least is left."""
    for i in reversed(range(len(spec.objects))):
        if any(t.on == i for t in spec.objects):
            continue
        chance = rng.random()
        if chance < _GONE and len(spec.objects) > 1:
            spec = without(spec, i)
        elif chance < _GONE + _MOVED:
            spec = _elsewhere(spec, i, rng)
    return spec


def _elsewhere(spec: SceneSpec, i: int, rng: np.random.Generator) -> SceneSpec:
    thing, reach = spec.objects[i], [np.hypot(*t.size_m[:2]) / 2 for t in spec.objects]
    taken = [(t.position_m[:2], reach[k]) for k, t in enumerate(spec.objects) if k != i]
    if spec.shelf is not None:
        taken.append((spec.shelf.position_m, np.hypot(*spec.shelf.size_m) / 2))
    if spec.gauge is not None:
        taken.append((spec.gauge.position_m[:2], spec.gauge.radius_m))
    if spec.sign is not None:
        taken.append((spec.sign.position_m[:2], spec.sign.size_m[0] / 2))
    for _ in range(30):
        xy = rng.uniform(-0.22, 0.22, 2)
        if all(np.hypot(*(xy - at)) > r + reach[i] + _APART_M for at, r in taken):
            there = replace(
                thing,
                position_m=(*map(float, xy), thing.size_m[2] / 2),
                yaw_rad=float(rng.uniform(-np.pi, np.pi)),
                on=None,
                level=0,
            )
            return replace(spec, objects=(*spec.objects[:i], there, *spec.objects[i + 1 :]))
    return spec


class ArmInView:
    """The simulated arm beside a scene's table, at rest or with its hand somewhere above it: for the camera alone."""

    def __init__(self):
        world = PhysicalWorld(SceneSpec(0, ()), lambda build: furnish(build, np.eye(4)))
        self._arm = Arm(world)
        self.shapes = self._arm.shapes()

    def parts(self, spec: SceneSpec, rng: np.random.Generator) -> list[Part]:
        """What SimCamera.render draws of it; nothing in most views."""
        if rng.random() > _WITH_ARM:
            return []
        base = base_beside(spec)
        self._arm.stand(self._posture(np.linalg.inv(base), rng))
        return [part._replace(pose=base @ part.pose) for part in self._arm.parts()]

    def _posture(self, base_T_world: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < 0.4:
            return REST + rng.normal(0, 0.05, 7)
        for _ in range(5):
            turn, hand = rng.uniform(-np.pi, np.pi), np.eye(4)  # from above
            hand[:3, :3] = (np.cos(turn), np.sin(turn), 0), (np.sin(turn), -np.cos(turn), 0), (0, 0, -1)
            hand[:3, 3] = (*rng.uniform(-_REACH_M, _REACH_M, 2), rng.uniform(0.04, 0.40))
            try:
                return self._arm.reach(base_T_world @ hand, 0.05)
            except Unreachable:
                continue
        return REST
