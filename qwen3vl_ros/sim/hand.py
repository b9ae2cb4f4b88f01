"""A parallel hand that flies freely in the physical world: it comes, closes, lifts, shakes and holds, by contact alone.

Its outline is a GripperConfig's: two fingers that move by the same amount, a palm over them. No arm, so what fails is the
grasp. The pose of a grasp is GraspTarget's: origin between the fingertips, +z the approach, +y the closing direction. Knows
nothing of pictures, plans or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import mujoco
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.sim.physics import STEP_S, PhysicalWorld

FORCE_N = 40.0  # of a finger
_LIFT_M, _LIFTED_M, _MOVED_M = 0.12, 0.08, 0.03
_SHAKE_M, _SHAKE_HZ = 0.008, 4.0
_CHATTER_S = 0.02  # for which stiff contacts may open and close again; what is held by nothing falls by 2 mm
_APPROACH_S, _CLOSE_S, _LIFT_S, _SHAKE_S, _HOLD_S = 0.30, 0.50, 0.40, 0.50, 1.0
_HEAVY_KG = 3.0
_PARK_M = np.array((0.0, 0.0, 5.0))
_PAD = dict(condim=4, priority=1, solref=(0.004, 1.0), solimp=(0.95, 0.99, 0.001, 0.5, 2.0))


@dataclass(frozen=True)
class Outcome:
    """held: the asked object was held 1 s after lift and shake, and nothing else moved. fault: empty where held.

    wrong: another object was in the hand instead.
    """

    held: bool
    fault: str = ""
    wrong: bool = False


def finger_reach_m(gripper: GripperConfig, opening_m: float) -> float:
    """From the palm to the fingertips at an opening."""
    return gripper.finger_length + gripper.tip_advance * (1 - min(opening_m, gripper.max_width) / gripper.max_width)


def furnish_hand(gripper: GripperConfig, friction: float) -> Callable[[mujoco.MjSpec], None]:
    """What PhysicalWorld needs to be furnished with the hand; friction: of the pads."""

    def furnish(build: mujoco.MjSpec) -> None:
        base = build.worldbody.add_body(name="hand/base", gravcomp=1.0, mass=0.01, inertia=(1e-4,) * 3)
        for k, axis in enumerate(np.eye(3)):
            base.add_joint(name=f"hand/{'xyz'[k]}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, ref=0.0)
            build.add_actuator(name=f"hand/{'xyz'[k]}", target=f"hand/{'xyz'[k]}", trntype=mujoco.mjtTrn.mjTRN_JOINT)
        hand = base.add_body(name="hand/palm", gravcomp=1.0, mass=_HEAVY_KG, inertia=(0.01,) * 3)
        box = mujoco.mjtGeom.mjGEOM_BOX
        half, length = np.array((gripper.palm_width, gripper.palm_length, 0.06)) / 2, finger_reach_m(gripper, 0.0)
        hand.add_geom(name="hand/palm", type=box, size=half, pos=(0, 0, -length - half[2]), mass=0, **_PAD)
        if gripper.wrist_width > 0:
            half = np.array((gripper.wrist_width, gripper.wrist_length, 0.03)) / 2
            at = (gripper.wrist_offset, 0, -gripper.wrist_behind - gripper.tip_advance - half[2])
            hand.add_geom(name="hand/wrist", type=box, size=half, pos=at, mass=0, **_PAD)
        slope = gripper.tip_advance / (gripper.max_width / 2)
        for k, side in enumerate((-1.0, 1.0)):
            finger = hand.add_body(name=f"hand/finger{k}", gravcomp=1.0, mass=0.1, inertia=(1e-4,) * 3)
            axis = np.array((0.0, side, -slope))
            finger.add_joint(
                name=f"hand/finger{k}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis / np.linalg.norm(axis), damping=180.0,
                limited=mujoco.mjtLimited.mjLIMITED_TRUE,
                range=(0.0, gripper.max_width / 2 * np.hypot(1.0, slope)),
            )  # fmt: skip
            half = np.array((gripper.finger_width, gripper.finger_thickness, length)) / 2
            at = (0.0, side * half[1], -half[2])
            finger.add_geom(
                name=f"hand/pad{k}", type=box, size=half, pos=at, mass=0, friction=(friction, 0.01, 1e-4), **_PAD
            )
            motor = build.add_actuator(
                name=f"hand/finger{k}", target=f"hand/finger{k}", trntype=mujoco.mjtTrn.mjTRN_JOINT
            )
            motor.ctrlrange, motor.ctrllimited = (-2 * FORCE_N, 2 * FORCE_N), mujoco.mjtLimited.mjLIMITED_TRUE
        same = build.add_equality(
            name="hand/same", type=mujoco.mjtEq.mjEQ_JOINT, name1="hand/finger0", name2="hand/finger1"
        )
        same.objtype = mujoco.mjtObj.mjOBJ_JOINT
        same.data[:5] = (0.0, 1.0, 0.0, 0.0, 0.0)

    return furnish


class FreeHand:
    """The hand of a PhysicalWorld that was furnished with it. Each grasp begins from the world as it was at the last `keep`."""

    def __init__(self, world: PhysicalWorld, gripper: GripperConfig, objects: int):
        self.world, self.gripper, self._count = world, gripper, objects
        model = world.model
        self._base = np.array([model.joint(f"hand/{c}").qposadr[0] for c in "xyz"])
        self._base_dof = np.array([model.joint(f"hand/{c}").dofadr[0] for c in "xyz"])
        self._fingers = np.array([model.joint(f"hand/finger{k}").qposadr[0] for k in (0, 1)])
        self._finger_dof = np.array([model.joint(f"hand/finger{k}").dofadr[0] for k in (0, 1)])
        self._drive = np.array([model.actuator(f"hand/{c}").id for c in "xyz"])
        self._motors = np.array([model.actuator(f"hand/finger{k}").id for k in (0, 1)])
        self._palm = model.body("hand/palm").id
        self._sides = [model.body(f"hand/finger{k}").id for k in (0, 1)]
        self._hand = {self._palm, *self._sides}
        self._of_body = {model.body(f"object{k}").id: k for k in range(objects)}
        self._slope = np.hypot(1.0, gripper.tip_advance / (gripper.max_width / 2))
        for k in self._drive:  # stiff servos, critically damped
            model.actuator_gainprm[k, 0], model.actuator_biastype[k] = 3e4, mujoco.mjtBias.mjBIAS_AFFINE
            model.actuator_biasprm[k, :3] = (0.0, -3e4, -2 * np.sqrt(3e4 * (_HEAVY_KG + 0.21)))
        self.park()
        self.keep()

    def park(self) -> None:
        """Out of everybody's way."""
        data = self.world.data
        data.qpos[self._base] = data.ctrl[self._drive] = _PARK_M
        data.ctrl[self._motors] = 0.0
        mujoco.mj_forward(self.world.model, data)

    def keep(self) -> None:
        """Remember the world as it is: each grasp starts from it."""
        data = self.world.data
        self._kept = data.qpos.copy(), data.qvel.copy(), data.act.copy(), data.qacc_warmstart.copy()
        self._poses = [self.world.pose(k) for k in range(self._count)]

    def back(self) -> None:
        """The world as it was kept, the hand parked."""
        data = self.world.data
        mujoco.mj_resetData(self.world.model, data)
        data.qpos[:], data.qvel[:], data.act[:], data.qacc_warmstart[:] = self._kept
        self.park()

    def stand(self, world_T_gripper: np.ndarray, opening_m: float) -> None:
        """Be at a pose with the fingers open, at once. opening_m: between the pads."""
        model, data = self.world.model, self.world.data
        mujoco.mju_mat2Quat(model.body_quat[self._palm], np.ascontiguousarray(world_T_gripper[:3, :3]).ravel())
        data.qpos[self._base] = data.ctrl[self._drive] = world_T_gripper[:3, 3]
        data.qpos[self._fingers] = np.clip(opening_m, 0.0, self.gripper.max_width) / 2 * self._slope
        data.qvel[self._base_dof] = data.qvel[self._finger_dof] = 0.0

    def collides(self, world_T_gripper: np.ndarray, opening_m: float, spare_m: float = 0.0005) -> bool:
        """Whether the hand, standing there, would be in anything."""
        self.stand(world_T_gripper, opening_m)
        data = self.world.data
        mujoco.mj_kinematics(self.world.model, data)
        mujoco.mj_collision(self.world.model, data)
        for contact in data.contact[: data.ncon]:
            bodies = [self.world.model.geom_bodyid[g] for g in contact.geom]
            if (bodies[0] in self._hand) != (bodies[1] in self._hand) and contact.dist < -spare_m:
                return True
        return False

    def grasp(
        self, world_T_gripper: np.ndarray, width_m: float, opening_m: float, standoff_m: float, index: int
    ) -> Outcome:
        """Try a grasp on object `index`. width_m: at the object; the pose is that of the fingertips at this opening."""
        self.back()
        approach, at = world_T_gripper[:3, 2], world_T_gripper[:3, 3].copy()
        # The hand's own frame is that of closed jaws; at width_m the tips are a little behind it.
        at += self._behind(width_m) * approach
        goal, start = world_T_gripper.copy(), world_T_gripper.copy()
        goal[:3, 3], start[:3, 3] = at, at - standoff_m * approach
        if self.collides(start, opening_m):
            return Outcome(False, "in something before the approach")
        self.stand(start, opening_m)
        self._open(opening_m)
        self._move(start[:3, 3], at, _APPROACH_S)
        self._wait(0.04)
        if np.linalg.norm(self.world.data.qpos[self._base] - at) > 0.004:
            return Outcome(False, "held up on the way")
        self.world.data.ctrl[self._motors] = -FORCE_N * self._slope
        self._close()
        self._move(at, at + (0, 0, _LIFT_M), _LIFT_S)
        held = self._held()
        if index not in held:
            if held:
                return Outcome(False, f"lifted object {min(held)} instead", True)
            return Outcome(False, self._moved(index) or "not lifted")
        before = np.linalg.inv(self._hand_pose()) @ self.world.pose(index)
        self._shake(at + (0, 0, _LIFT_M))
        for _ in range(4):
            if index not in self._held():
                return Outcome(False, "dropped")
            self._wait(_HOLD_S / 4)
        if index not in self._held():
            return Outcome(False, "dropped")
        slid = np.linalg.norm((np.linalg.inv(self._hand_pose()) @ self.world.pose(index) - before)[:3, 3])
        if slid > _MOVED_M:
            return Outcome(False, f"slides in the hand ({slid:.3f} m)")
        moved = self._moved(index)
        return Outcome(not moved, moved)

    def _behind(self, width_m: float) -> float:
        return self.gripper.tip_advance * min(width_m, self.gripper.max_width) / self.gripper.max_width

    def _open(self, opening_m: float) -> None:
        """Hold the fingers where they are: springs that act on them alone."""
        self._target = np.clip(opening_m, 0.0, self.gripper.max_width) / 2 * self._slope

    def _steps(self, seconds: float):
        for k in range(max(1, round(seconds / STEP_S))):
            yield (k + 1) * STEP_S / seconds
            mujoco.mj_step(self.world.model, self.world.data)

    def _move(self, start: np.ndarray, end: np.ndarray, seconds: float) -> None:
        data = self.world.data
        opens = np.all(data.ctrl[self._motors] >= 0)
        for s in self._steps(seconds):
            s = s * s * (3 - 2 * s)
            data.ctrl[self._drive] = start + (end - start) * s
            if opens:
                data.ctrl[self._motors] = np.clip(3e3 * (self._target - data.qpos[self._fingers]), 0, FORCE_N)

    def _wait(self, seconds: float) -> None:
        for _ in self._steps(seconds):
            pass

    def _close(self) -> None:
        waited = 0.0
        while waited < _CLOSE_S:
            self._wait(0.05)
            waited += 0.05
            if waited > 0.12 and np.abs(self.world.data.qvel[self._finger_dof]).max() < 0.002:
                break

    def _shake(self, at: np.ndarray) -> None:
        data = self.world.data
        for s in self._steps(_SHAKE_S):
            phase = 2 * np.pi * _SHAKE_HZ * s * _SHAKE_S
            data.ctrl[self._drive] = at + _SHAKE_M * np.sin(phase * np.array((1.0, 1.25, 1.5)))
        data.ctrl[self._drive] = at

    def _held(self) -> set[int]:
        """Objects that are in the air and that the hand touches, now or in the next moment."""
        touched = self._touched()
        for _ in self._steps(_CHATTER_S):
            touched |= self._touched()
        return {k for k in touched if self.world.pose(k)[2, 3] - self._poses[k][2, 3] > _LIFTED_M}

    def _touched(self) -> set[int]:
        model, data, touched = self.world.model, self.world.data, set()
        for contact in data.contact[: data.ncon]:
            bodies = [model.geom_bodyid[g] for g in contact.geom]
            for one, other in (bodies, bodies[::-1]):
                if one in self._hand and other in self._of_body:
                    touched.add(self._of_body[other])
        return touched

    def _moved(self, index: int) -> str:
        for k, before in enumerate(self._poses):
            if k != index and np.linalg.norm(self.world.pose(k)[:3, 3] - before[:3, 3]) > _MOVED_M:
                return f"moved object {k}"
        return ""

    def _hand_pose(self) -> np.ndarray:
        pose, data = np.eye(4), self.world.data
        pose[:3, :3], pose[:3, 3] = data.xmat[self._palm].reshape(3, 3), data.xpos[self._palm]
        return pose
