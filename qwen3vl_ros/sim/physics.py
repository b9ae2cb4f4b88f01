"""Table-top scenes as a physical world: what the camera draws, with weight and contact, in MuJoCo.

A `PhysicalWorld` begins as a SceneSpec and is one again at any time (`spec`), so that the same camera and the same truth
serve both. The shapes are convex pieces of the meshes that are drawn; what is hollow is hollow here too. Knows nothing of
pictures, OpenGL or ROS.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Callable

import mujoco
import numpy as np

from qwen3vl_ros.sim.furniture import shelf_parts, sign_parts
from qwen3vl_ros.sim.household import solid_of
from qwen3vl_ros.sim.shapes import Mesh, build_meshes, solid_parts
from qwen3vl_ros.sim.specs import MovedObject, ObjectSpec, SceneSpec
from qwen3vl_ros.sim.truth import dial_size_m, foot_size_m, world_T_case, world_T_foot
from qwen3vl_ros.types import InvalidInput

STEP_S = 0.002
_ARENA_BYTES = 1 << 27  # hollow things on a tray touch in hundreds of places
_TABLE_M = 0.035  # thickness of the table's top
_DENSITY = {"mug": 1200.0, "bowl": 1200.0, "tray": 700.0}  # kg/m3: pottery, plywood; all else like wood
_WOOD = 500.0
# Rolling friction as of a ball on cloth or rough wood: the scenes' balls lie still.
_CONTACT = dict(friction=(0.7, 0.01, 0.002), condim=6, solref=(0.004, 1.0), solimp=(0.95, 0.99, 0.001, 0.5, 2.0))
_BOX, _MESH = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_MESH


class PhysicalWorld:
    """The scene's objects fall, slide and are held. One thread at a time.

    furnish: adds to the model before it is compiled, e.g. an arm (`sim.arm.furnish`). model, data: MuJoCo's own.
    """

    def __init__(self, spec: SceneSpec, furnish: Callable[[mujoco.MjSpec], None] | None = None):
        self._spec = spec
        build = mujoco.MjSpec()
        build.memory = _ARENA_BYTES
        build.option.timestep = STEP_S
        build.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        build.option.noslip_iterations = 5
        build.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        build.option.impratio = 10.0
        _add_furniture(build, spec)
        for index, thing in enumerate(spec.objects):
            _add_object(build, thing, index)
        if furnish is not None:
            furnish(build)
        self.model = build.compile()
        self.data = mujoco.MjData(self.model)
        self._bodies = [self.model.body(f"object{k}").id for k in range(len(spec.objects))]
        for thing, body in zip(spec.objects, self._bodies):
            self.put(body, thing.pose())
        mujoco.mj_forward(self.model, self.data)

    @property
    def count(self) -> int:
        """How many objects there are; they are numbered from 0."""
        return len(self._bodies)

    @property
    def time_s(self) -> float:
        return float(self.data.time)

    def step(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / STEP_S))):
            mujoco.mj_step(self.model, self.data)

    def settle(self, longest_s: float = 3.0, still_m_s: float = 0.003) -> None:
        """Let go until nothing moves faster than still_m_s, or longest_s have passed."""
        end = self.time_s + longest_s
        self.step(0.1)
        while self.time_s < end and self._fastest() > still_m_s:
            self.step(0.05)

    def _fastest(self) -> float:
        speeds = [np.linalg.norm(self.data.cvel[b][3:]) for b in self._bodies]
        return max(speeds, default=0.0)

    def pose(self, index: int) -> np.ndarray:
        """4x4 pose of an object's box in the world."""
        body, pose = self._bodies[index], np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.data.xmat[body].reshape(3, 3), self.data.xpos[body]
        return pose

    def put(self, body: int, world_T_thing: np.ndarray) -> None:
        """Set a free body down somewhere, at rest."""
        joint = self.model.body_jntadr[body]
        at, speed = self.model.jnt_qposadr[joint], self.model.jnt_dofadr[joint]
        turn = np.empty(4)
        mujoco.mju_mat2Quat(turn, np.ascontiguousarray(world_T_thing[:3, :3]).ravel())
        self.data.qpos[at : at + 7] = (*world_T_thing[:3, 3], *turn)
        self.data.qvel[speed : speed + 6] = 0.0

    def move(self, index: int, world_T_thing: np.ndarray) -> None:
        """An unseen hand puts an object elsewhere."""
        if not 0 <= index < len(self._bodies):
            raise InvalidInput(f"there is no object {index}; the scene has {len(self._bodies)}")
        self.put(self._bodies[index], world_T_thing)
        mujoco.mj_forward(self.model, self.data)

    def state(self) -> tuple[np.ndarray, ...]:
        """All that moves, and what drives it."""
        data = self.data
        return tuple(a.copy() for a in (data.qpos, data.qvel, data.act, data.ctrl, data.qacc_warmstart))

    def restore(self, state: tuple[np.ndarray, ...]) -> None:
        """All as it was at `state`; time goes on."""
        data = self.data
        for mine, kept in zip((data.qpos, data.qvel, data.act, data.ctrl, data.qacc_warmstart), state):
            mine[:] = kept
        mujoco.mj_forward(self.model, data)

    def spec(self) -> SceneSpec:
        """The scene as it is now."""
        objects = tuple(_moved(thing, self.pose(k)) for k, thing in enumerate(self._spec.objects))
        return replace(self._spec, objects=objects)


def _moved(thing: ObjectSpec, pose: np.ndarray) -> MovedObject:
    rotation = tuple(tuple(map(float, row)) for row in pose[:3, :3])
    at = tuple(map(float, pose[:3, 3]))
    return MovedObject(
        thing.kind,
        thing.colour,
        thing.size_m,
        at,
        float(np.arctan2(pose[1, 0], pose[0, 0])),
        thing.rgb,
        thing.asset,
        None,
        0,
        rotation,
    )


@lru_cache(maxsize=1)
def _meshes() -> dict[str, Mesh]:
    return build_meshes()


def _fixed(build: mujoco.MjSpec, name: str, pose: np.ndarray, half, kind=_BOX) -> None:
    geom = build.worldbody.add_geom(name=name, type=kind, size=half, pos=pose[:3, 3], **_CONTACT)
    turn = np.empty(4)
    mujoco.mju_mat2Quat(turn, np.ascontiguousarray(pose[:3, :3]).ravel())
    geom.quat = turn


def _add_furniture(build: mujoco.MjSpec, spec: SceneSpec) -> None:
    c, s = np.cos(spec.table.yaw_rad), np.sin(spec.table.yaw_rad)
    table = np.array(((c, -s, 0, 0), (s, c, 0, 0), (0, 0, 1, -_TABLE_M / 2), (0, 0, 0, 1.0)))
    _fixed(build, "table", table, (*spec.table.half_size_m, _TABLE_M / 2))
    if spec.shelf is not None:
        for k, (pose, size) in enumerate(shelf_parts(spec.shelf)):
            _fixed(build, f"shelf{k}", pose, np.asarray(size) / 2)
    if spec.sign is not None:
        for k, (pose, size) in enumerate(sign_parts(spec.sign)):
            _fixed(build, f"sign{k}", pose, np.asarray(size) / 2)
    if spec.gauge is not None:
        size = dial_size_m(spec.gauge)
        drum = (size[0] / 2, size[2] / 2, 0.0)
        _fixed(build, "dial", world_T_case(spec.gauge), drum, mujoco.mjtGeom.mjGEOM_CYLINDER)
        _fixed(build, "foot", world_T_foot(spec.gauge), np.asarray(foot_size_m(spec.gauge)) / 2)


def _add_object(build: mujoco.MjSpec, thing: ObjectSpec, index: int) -> None:
    body = build.worldbody.add_body(name=f"object{index}")
    body.add_freejoint()
    size = np.asarray(thing.size_m)
    look = dict(density=_DENSITY.get(thing.kind, _WOOD), **_CONTACT)
    if thing.asset is None and thing.kind in ("cube", "box"):
        body.add_geom(type=_BOX, size=size / 2, **look)
    elif thing.asset is None and thing.kind == "ball" and np.ptp(size) < 1e-6:
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=(size[0] / 2, 0, 0), **look)
    elif thing.asset is None and thing.kind == "cylinder" and abs(size[0] - size[1]) < 1e-6:
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(size[0] / 2, size[2] / 2, 0), **look)
    else:
        parts = solid_of(thing.asset) if thing.asset else solid_parts(thing.kind, _meshes()[thing.kind])
        for k, part in enumerate(parts):
            name = f"object{index}/{k}"
            piece = build.add_mesh(name=name)
            piece.uservert = (part * size).ravel()
            piece.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
            body.add_geom(type=_MESH, meshname=name, **look)
