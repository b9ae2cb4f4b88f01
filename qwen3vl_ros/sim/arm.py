"""A Franka Panda with a Robotiq 2F-85 in the physical world: where it can reach, how it gets there, what its jaws hold.

The robot's meshes and masses are those of the package gym-hil, read where they are installed. The gripper's frame is that of GraspTarget: origin between the fingertips, +z the approach, +y the closing
direction. Knows nothing of pictures or ROS.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Sequence

import mujoco
import numpy as np

from qwen3vl_ros.sim.faults import ArmError, Collision, Unreachable
from qwen3vl_ros.sim.panda import postures
from qwen3vl_ros.sim.physics import STEP_S, PhysicalWorld
from qwen3vl_ros.sim.shapes import Mesh, Part
from qwen3vl_ros.sim.ways import Ways

REST = np.array((0.0, -0.95, 0.0, -2.75, 0.0, 1.85, 0.785))
OPEN_M = 0.085
# The 2F-85's pads swing on a parallelogram: how far the fingertips lie beyond the site `pinch`, by the jaws' opening, and
# the command that opens them so far. Measured on the model itself, unloaded.
_OPENING_M = np.array((0.0, 0.0096, 0.0246, 0.0462, 0.0668, 0.0848))
_TIP_M = np.array((0.0176, 0.0179, 0.0174, 0.0150, 0.0107, 0.0047))
_COMMAND = np.array((255.0, 220.0, 180.0, 120.0, 60.0, 0.0))
# How far its drivers have turned then; of the other joints springs turn with them and followers against.
_DRIVEN_M, _DRIVEN_RAD = (
    np.array((0.0, 0.0106, 0.0319, 0.0533, 0.0748, 0.0851)),
    np.array((0.797, 0.684, 0.503, 0.316, 0.112, 0.003)),
)
_JAW_JOINTS = {"driver": 1.0, "spring_link": 1.0, "follower": -1.0}
_SPEED_RAD_S, _CARRYING_RAD_S, _STRAIGHT_M_S = 1.5, 1.0, 0.15
_GENTLY = 1.3  # times as long as at full speed: it starts and stops without a jerk
_STRAIGHT_STEP_M = 0.01  # between the poses of a straight move
_ARRIVED_RAD = 0.004
# By how much a joint lags on a straight line where something is in the way, beyond what it lags by its speed.
_HELD_UP_RAD, _LAG_S = 0.05, 0.08
_BESIDE_M = 0.012  # from where the fingers close, so far outside rays begin
_DIFFERENT_RAD = 0.25  # between postures that are worth trying each
_LAST_RAD = np.linspace(-2.85, 2.85, 58)  # the last joint's angles that are tried for a pose: whole turns of the elbow
_FOLLOWED_RAD = np.linspace(-0.2, 0.2, 9)  # and how far it may turn from one pose of a line to the next
_TURNED_RAD = 0.35  # any joint, from one pose of a line to the next; more is a turn to another posture
_KP, _KV = (4500, 4500, 3500, 3500, 2000, 2000, 2000), (220, 220, 160, 160, 50, 50, 50)
_PAINT = (0.86, 0.87, 0.88), (0.16, 0.16, 0.17)  # of links, of pads
_TORQUE_NM = (87, 87, 87, 87, 12, 12, 12)


def furnish(build: mujoco.MjSpec, world_T_base: np.ndarray) -> None:
    """Stand the arm at world_T_base (4x4). Of its meshes only those that touch are kept, and drawn."""
    found = find_spec("gym_hil")
    if found is None or not found.submodule_search_locations:
        raise ArmError("the simulated arm needs the robot's description: pip install --no-deps gym-hil")
    folder = Path(next(iter(found.submodule_search_locations))) / "assets"
    robot = mujoco.MjSpec.from_file(str(folder / "panda.xml"))
    for geom in list(robot.geoms):
        if not (geom.contype or geom.conaffinity):
            robot.delete(geom)
    touching = {geom.meshname for geom in robot.geoms}
    for mesh in [m for m in robot.meshes if m.name not in touching]:
        robot.delete(mesh)
    for sensor in list(robot.sensors):
        robot.delete(sensor)
    for k, motor in enumerate(robot.actuators[:7]):
        motor.set_to_position(kp=_KP[k], kv=_KV[k])
        motor.ctrlrange, motor.forcerange = (-4.0, 4.0), (-_TORQUE_NM[k], _TORQUE_NM[k])
        motor.ctrllimited = motor.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    for body in robot.bodies[1:]:
        body.gravcomp = 1.0
    turn = np.empty(4)
    mujoco.mju_mat2Quat(turn, np.ascontiguousarray(world_T_base[:3, :3]).ravel())
    frame = build.worldbody.add_frame(pos=world_T_base[:3, 3], quat=turn)
    build.attach(robot, frame=frame, prefix="arm/")


class Arm:
    """The arm of a PhysicalWorld that was furnished with it. Moves let the world's time pass, and raise ArmError.

    each_step: called after every hundredth of a second of a move; what it raises ends the move. jaws_move: the jaws are on their
    way, and nobody knows what they hold if they stop now.
    """

    def __init__(self, world: PhysicalWorld, seed: int = 0):
        self.world, model = world, world.model
        joints = [model.joint(f"arm/joint{k}") for k in range(1, 8)]
        self._q = np.array([j.qposadr[0] for j in joints])
        self._dof = np.array([j.dofadr[0] for j in joints])
        self._range = np.array([j.range for j in joints])
        self._motors = [model.actuator(f"arm/actuator{k}").id for k in range(1, 8)]
        self._jaws = model.actuator("arm/fingers_actuator").id
        jaws = [
            (model.joint(f"arm/{side}_{name}_joint").qposadr[0], sign)
            for side in ("right", "left")
            for name, sign in _JAW_JOINTS.items()
        ]
        self._jaw_q, self._jaw_sign = (np.array(of) for of in zip(*jaws))
        self._pinch = model.site("arm/pinch").id
        self._rng = np.random.default_rng(seed)
        self.each_step: Callable[[], None] = lambda: None
        self.jaws_move = False
        names = [model.body(b).name for b in range(model.nbody)]
        self._mine = np.array([names[b].startswith("arm/") for b in model.geom_bodyid])
        self.stand(REST)
        self._base_T_world = np.linalg.inv(self.link(0))
        self._pinch_T_link7 = np.linalg.inv(self._site()) @ self.link(7)
        self.ways = Ways(world, self._q, self._range, self._pinch, REST, self._rng)

    def stand(self, q: np.ndarray) -> None:
        """Be at joint angles q (7) at once, the jaws open, without a motion."""
        data = self.world.data
        data.qpos[self._q] = data.ctrl[self._motors] = q
        data.ctrl[self._jaws] = 0.0
        mujoco.mj_forward(self.world.model, data)

    # -- what it knows of itself ------------------------------------------------------------------------------------
    def joints(self) -> np.ndarray:
        """7 joint angles, radians."""
        return self.world.data.qpos[self._q].copy()

    def opening_m(self) -> float:
        """Distance between the pads."""
        pads = [self._pad_face(side) for side in ("right", "left")]
        return float(max(0.0, pads[0] - pads[1]))

    def _pad_face(self, side: str) -> float:
        """Where a pad's inner face is along the closing axis."""
        model, data = self.world.model, self.world.data
        pad = model.geom(f"arm/{side}_pad1").id
        closing = data.site_xmat[self._pinch].reshape(3, 3)[:, 1]
        half = float(np.abs(data.geom_xmat[pad].reshape(3, 3).T @ closing) @ model.geom_size[pad])
        at = float((data.geom_xpos[pad] - data.site_xpos[self._pinch]) @ closing)
        return at - half if side == "right" else at + half

    def gripper(self) -> np.ndarray:
        """world_T_gripper, 4x4, at the present opening."""
        return self._site() @ _beyond_pinch(self.opening_m())

    def _site(self) -> np.ndarray:
        """world_T_pinch, 4x4."""
        data, pose = self.world.data, np.eye(4)
        pose[:3, :3], pose[:3, 3] = data.site_xmat[self._pinch].reshape(3, 3), data.site_xpos[self._pinch]
        return pose

    def link(self, number: int) -> np.ndarray:
        """world_T_link, 4x4; links are numbered from the base, 0 to 7."""
        body, pose = self.world.data.body(f"arm/link{number}"), np.eye(4)
        pose[:3, :3], pose[:3, 3] = body.xmat.reshape(3, 3), body.xpos
        return pose

    def shapes(self) -> dict[str, Mesh]:
        """What `parts` are drawn with, in metres: the convex pieces that touch things."""
        return {f"arm/{g}": _shape_of(self.world.model, g) for g in np.flatnonzero(self._mine)}

    def parts(self) -> list[Part]:
        """Where its parts are in the world now."""
        data, placed = self.world.data, []
        for geom in np.flatnonzero(self._mine):
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom]
            placed.append(Part(f"arm/{geom}", pose, _PAINT[self.world.model.geom(geom).name != ""]))
        return placed

    def touched(self) -> set[int]:
        """Objects that both pads touch."""
        model, data, by_side = self.world.model, self.world.data, {"right": set(), "left": set()}
        for contact in data.contact[: data.ncon]:
            names = [model.body(model.geom_bodyid[g]).name for g in contact.geom]
            for one, other in (names, names[::-1]):
                if other.startswith("object") and one.endswith(("_pad", "_follower", "_silicone_pad")):
                    by_side["right" if "right" in one else "left"].add(int(other.removeprefix("object")))
        return by_side["right"] & by_side["left"]

    def hits(self) -> set[str]:
        """Names of bodies that the arm touches now, what both pads touch aside."""
        model, held, found = self.world.model, {f"object{k}" for k in self.touched()}, set()
        for contact in self.world.data.contact[: self.world.data.ncon]:
            mine = [bool(self._mine[g]) for g in contact.geom]
            if mine[0] != mine[1]:
                found.add(model.body(model.geom_bodyid[contact.geom[mine.index(False)]]).name)
        return found - held

    # -- where it can go --------------------------------------------------------------------------------------------
    def reach(self, world_T_gripper: np.ndarray, opening_m: float, near: np.ndarray = REST) -> np.ndarray:
        """Joint angles (7) that bring the fingertips there, the nearest to `near`. Raises Unreachable."""
        for q in self.reaches(world_T_gripper, opening_m, near):
            return q
        raise unreachable(world_T_gripper)

    def reaches(self, world_T_gripper: np.ndarray, opening_m: float, near: np.ndarray = REST) -> list[np.ndarray]:
        """All joint angles that bring the fingertips there and differ, the elbow here and there, nearest to `near` first: where one
        hits something another may pass.
        """
        found = _nearest(self._postures(world_T_gripper, opening_m, _LAST_RAD), near)
        alike = np.abs(found[:, None] - found).max(2) <= _DIFFERENT_RAD
        kept = np.zeros(len(found), bool)
        for k in range(len(found)):
            kept[k] = not (alike[k] & kept).any()
        return list(found[kept])

    def _postures(self, world_T_gripper: np.ndarray, opening_m: float, last_rad: np.ndarray) -> np.ndarray:
        world_T_pinch = world_T_gripper @ np.linalg.inv(_beyond_pinch(opening_m))
        return postures(self._base_T_world @ world_T_pinch @ self._pinch_T_link7, last_rad, self._range)

    def between(self, world_T_gripper: np.ndarray, width_m: float) -> int | None:
        """The object that jaws there, width_m apart, would close on: the one that most rays from finger to finger meet first."""
        model, data, votes = self.world.model, self.world.data, Counter()
        half, geom = width_m / 2 + _BESIDE_M, np.zeros(1, np.int32)
        for across, behind, side in itertools.product((-0.006, 0.0, 0.006), (0.002, 0.008, 0.016), (-1.0, 1.0)):
            start = world_T_gripper[:3, :3] @ (across, side * half, -behind) + world_T_gripper[:3, 3]
            way = -side * world_T_gripper[:3, 1]
            far = mujoco.mj_ray(model, data, start, way, None, 1, -1, geom)
            body = model.body(model.geom_bodyid[geom[0]]).name if 0 <= far < 2 * half else ""
            if body.startswith("object"):
                votes[int(body.removeprefix("object"))] += 1
        return votes.most_common(1)[0][0] if votes else None

    def line(
        self, q: np.ndarray, world_T_gripper: np.ndarray, shift_m: np.ndarray, opening_m: float
    ) -> list[np.ndarray]:
        """Joint angles along a straight move of the gripper by shift_m (3, world) from world_T_gripper, where q is."""
        steps = max(1, int(np.ceil(np.linalg.norm(shift_m) / _STRAIGHT_STEP_M)))
        path = [q]
        for k in range(1, steps + 1):
            pose = world_T_gripper.copy()
            pose[:3, 3] += shift_m * k / steps
            q = next(iter(_nearest(self._postures(pose, opening_m, path[-1][6] + _FOLLOWED_RAD), path[-1])), None)
            if q is None:
                raise unreachable(pose)
            if np.abs(q - path[-1]).max() > _TURNED_RAD:
                raise Unreachable("the arm cannot follow the straight line to there without turning over")
            path.append(q)
        return path

    def near(self, point_m: np.ndarray, reach_m: float = 0.09) -> frozenset[int]:
        """Objects whose middle is that near to a point of the world: what fingers may touch when they go there."""
        model, data = self.world.model, self.world.data
        found = set()
        for body in range(model.nbody):
            name = model.body(body).name
            if name.startswith("object") and np.linalg.norm(data.xpos[body] - point_m) < reach_m:
                found.add(int(name.removeprefix("object")))
        return frozenset(found)

    # -- how it moves -----------------------------------------------------------------------------------------------
    def follow(self, path: Sequence[np.ndarray]) -> None:
        """Drive along joint angles, at rest at each, then wait until it is there; slower with what it holds. Raises Collision where it is
        held up.
        """
        speed = _SPEED_RAD_S if self.ways.holding is None else _CARRYING_RAD_S
        for goal in path:
            self._glide([goal], speed, math.inf)
        self._arrive()

    def _glide(self, path: Sequence[np.ndarray], speed_rad_s: float, lag_rad: float) -> None:
        """Along joint angles without a stop, faster and slower gently. Raises Collision, and pushes no more, where a joint lags by lag_rad."""
        data = self.world.data
        points = np.array([data.ctrl[self._motors], *path])
        turned = np.cumsum([0.0, *np.abs(np.diff(points, axis=0)).max(1)])
        steps = max(2, round(_GENTLY * turned[-1] / speed_rad_s / 0.01))
        for s in np.arange(1, steps + 1) / steps:
            at = s * s * (3 - 2 * s) * turned[-1]
            data.ctrl[self._motors] = [np.interp(at, turned, joint) for joint in points.T]
            self._pass(0.01)
            if np.abs(self.joints() - data.ctrl[self._motors]).max() > lag_rad:
                self.stop()
                raise Collision("the arm is held up by something and does not get there")

    def _arrive(self) -> None:
        for _ in range(60):
            if np.abs(self.joints() - self.world.data.ctrl[self._motors]).max() < _ARRIVED_RAD:
                return
            self._pass(0.02)
        raise Collision("the arm is held up by something and does not get there")

    def slide(self, path: Sequence[np.ndarray], length_m: float) -> None:
        """Follow the joint angles of a straight line of this length."""
        turn = sum(float(np.abs(b - a).max()) for a, b in zip(path, path[1:]))
        seconds = max(0.1, length_m / _STRAIGHT_M_S)
        speed = max(0.05, turn / seconds)
        self._glide(path[1:], speed, _HELD_UP_RAD + _LAG_S * speed)
        self._arrive()

    def open(self, opening_m: float) -> None:
        self.ways.holding = None
        self.jaws_move = True
        self.world.data.ctrl[self._jaws] = np.interp(opening_m, _OPENING_M, _COMMAND)
        for _ in range(40):
            self._pass(0.01)
        self.jaws_move = False

    def close(self) -> float:
        """Close until the pads stand still; the opening that is left, metres."""
        self.jaws_move = True
        self.world.data.ctrl[self._jaws] = _COMMAND[0]
        before = self.opening_m()
        for _ in range(60):
            self._pass(0.02)
            now = self.opening_m()
            if abs(now - before) < 1e-5 and _ > 10:
                break
            before = now
        self.jaws_move = False
        return self.opening_m()

    def let_slip(self) -> None:
        """The jaws give way; whatever they hold falls."""
        self.world.data.ctrl[self._jaws] = _COMMAND[-1]

    def stop(self) -> None:
        """Stand still where it is."""
        self.world.data.ctrl[self._motors] = self.joints()
        self._pass(0.05)

    def holds(self, index: int) -> bool:
        """Whether both pads touch the object now."""
        return index in self.touched()

    def grip(self, index: int | None) -> None:
        """From here on the object counts as part of the hand where ways are looked for; None: nothing."""
        self.ways.holding = None
        if index is not None:
            self.ways.holding = index, np.linalg.inv(self._site()) @ self.world.pose(index)

    def would_open(self, opening_m: float | None) -> None:
        """From here on the jaws count as open so far where ways are looked for; None: as they are."""
        turned = None if opening_m is None else self._jaw_sign * np.interp(opening_m, _DRIVEN_M, _DRIVEN_RAD)
        self.ways.jaws = None if turned is None else (self._jaw_q, turned)

    def would_grip(self, index: int | None, world_T_gripper: np.ndarray, opening_m: float) -> None:
        """As `grip`, if the fingertips were at world_T_gripper: for what is only thought of."""
        self.ways.holding = None
        if index is not None:
            pinch = world_T_gripper @ np.linalg.inv(_beyond_pinch(opening_m))
            self.ways.holding = index, np.linalg.inv(pinch) @ self.world.pose(index)

    def _pass(self, seconds: float) -> None:
        self.world.step(max(seconds, STEP_S))
        self.each_step()


def _shape_of(model: mujoco.MjModel, geom: int) -> Mesh:
    """A geom's convex hull, or its box, every face with a normal of its own."""
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX:
        half = model.geom_size[geom]
        corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
        sides = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
        faces = np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))])
    else:
        mesh = model.geom_dataid[geom]
        start = model.mesh_vertadr[mesh]
        corners = model.mesh_vert[start : start + model.mesh_vertnum[mesh]].astype(float)
        graph = model.mesh_graph[model.mesh_graphadr[mesh] :]  # counts, edges, then the hull's faces
        vertices, count = int(graph[0]), int(graph[1])
        faces = graph[2 + 3 * vertices + 3 * count :][: 3 * count].reshape(-1, 3)
    triangles = corners[faces]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    size = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles, normals = triangles[size[:, 0] > 1e-12], (normals / np.maximum(size, 1e-12))[size[:, 0] > 1e-12]
    return Mesh(triangles.reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3), np.repeat(normals, 3, 0))


def unreachable(world_T_gripper: np.ndarray) -> Unreachable:
    x, y, z = world_T_gripper[:3, 3]
    return Unreachable(f"no joint angles bring the gripper to ({x:.3f}, {y:.3f}, {z:.3f}) m from its direction")


def _nearest(found: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Joint angles Kx7, those first from which the longest turn to `near` is the shortest."""
    return found[np.argsort(np.abs(found - near).max(1), kind="stable")]


def _beyond_pinch(opening_m: float) -> np.ndarray:
    """pinch_T_fingertips, 4x4."""
    pose = np.eye(4)
    pose[2, 3] = np.interp(opening_m, _OPENING_M, _TIP_M)
    return pose
