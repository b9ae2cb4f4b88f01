"""What an arm does with a grasp and a place: approach, close, lift; carry, set down, let go, withdraw.

Every move is planned before anything moves; what fails afterwards fails honestly, because contact decides. Knows nothing
of pictures, plans or ROS.
"""

from __future__ import annotations

import itertools
from typing import Callable

import numpy as np

from qwen3vl_ros.sim.arm import OPEN_M, REST, Arm, ArmError, Collision, Unreachable, unreachable

LIFT_M = 0.10
_CLEAR_M = 0.02  # of what carries it, before it is drawn out from under a board
_POSTURES = 5  # of the arm that are tried for one pose of the hand
_UP = np.array((0.0, 0.0, 1.0))
_HALF_TURN = np.diag((-1.0, -1.0, 1.0, 1.0))  # about the approach: the same jaws


class Slipped(ArmError):
    """The jaws closed, or moved, and hold nothing."""


class PickPlace:
    """Picks and places with one arm; `held` is the object in its jaws, None for none."""

    def __init__(self, arm: Arm):
        self.arm = arm
        self.held: int | None = None
        self._taken: np.ndarray | None = None
        self.phase: Callable[[str], None] = lambda _: None  # told what begins: approaching, closing, lifting, ...

    def pick(
        self, world_T_gripper: np.ndarray, width_m: float, approach_m: float = 0.10, opening_m: float = OPEN_M
    ) -> None:
        """Take what is between the fingertips at world_T_gripper, and lift it. Raises Unreachable, Collision, Slipped."""
        arm = self.arm
        if self.held is not None:
            raise ArmError("the gripper holds something already; place it first")
        arm.open(opening_m)
        path, line = self._approach(world_T_gripper, width_m, approach_m)
        self._taken = line[0]
        self.phase("approaching")
        arm.follow(path)
        arm.slide(line, approach_m)
        self.phase("closing")
        arm.close()
        touched = arm.touched()
        if len(touched) != 1:
            self._withdraw(world_T_gripper, approach_m)
            raise Slipped("the jaws closed on nothing" if not touched else "the jaws closed on more than one thing")
        self.held = touched.pop()
        arm.grip(self.held)
        self.phase("lifting")
        self._carry_off(world_T_gripper, approach_m)
        if not arm.holds(self.held):
            self.lost()
            raise Slipped("it slipped out of the jaws when it was lifted")

    def place(self, world_T_gripper: np.ndarray, approach_m: float = 0.10) -> None:
        """Carry what is held to world_T_gripper, let go and withdraw. Raises Unreachable, Collision, Slipped."""
        arm = self.arm
        if self.held is None:
            raise ArmError("the gripper holds nothing; pick something first")
        width = arm.opening_m()
        path, line = self._approach(world_T_gripper, width, approach_m, frozenset((self.held,)))
        self.phase("carrying")
        arm.follow(path)
        if not arm.holds(self.held):
            self.lost()
            raise Slipped("it was lost on the way")
        self.phase("lowering")
        arm.slide(line, approach_m)
        self.phase("opening")
        arm.open(min(OPEN_M, width + 0.03))
        self.held = None
        self.phase("withdrawing")
        self._withdraw(world_T_gripper, approach_m)
        self.rest()

    def rest(self) -> None:
        """Back to where the arm hides nothing; it stays where it is if no way leads there."""
        arm = self.arm
        try:
            arm.follow(arm.way(arm.joints(), REST))
        except (Unreachable, Collision):
            self._lift(LIFT_M)
            arm.follow(arm.way(arm.joints(), REST))

    def lost(self) -> None:
        """The jaws no longer hold what they held."""
        self.held = None
        self.arm.grip(None)

    def back_off(self, approach_m: float = 0.10) -> None:
        """From wherever a move was ended, back the way the gripper looks and to rest, with what it holds; where no way leads there it
        stays.
        """
        if self.held is None:
            self.arm.open(OPEN_M)
        for retreat in (lambda: self._withdraw(self.arm.gripper(), approach_m), self.rest):
            try:
                retreat()
            except ArmError:
                pass  # the next picture shows where it stands

    def _approach(self, world_T_gripper, width_m, approach_m, allowed: frozenset[int] = frozenset()):
        """(joint angles to the pre-grasp, joint angles of the straight way in). Jaws may close from either side."""
        arm, fault = self.arm, None
        back = -approach_m * world_T_gripper[:3, 2]
        for pose in (world_T_gripper, world_T_gripper @ _HALF_TURN):
            before = pose.copy()
            before[:3, 3] += back
            for q in itertools.chain(
                self._as_taken(before, width_m), itertools.islice(arm.reaches(before, width_m), _POSTURES)
            ):
                try:
                    line = arm.line(q, before, -back, width_m)
                    for at in (line[-1], *line[2:-1:3]):
                        if hit := arm.blocked(at, allowed | arm.near(pose[:3, 3])):
                            raise Collision(f"at the end of the approach, {hit}")
                    return arm.way(arm.joints(), q, allowed), line
                except (Unreachable, Collision) as error:
                    fault = error
        raise fault or unreachable(world_T_gripper)

    def _as_taken(self, world_T_gripper: np.ndarray, width_m: float) -> list[np.ndarray]:
        """The posture in which the last thing was taken, for where it is put back."""
        try:
            return [] if self._taken is None else [self.arm.reach(world_T_gripper, width_m, self._taken)]
        except Unreachable:
            return []

    def _withdraw(self, world_T_gripper, approach_m) -> None:
        self._straight(-approach_m * world_T_gripper[:3, 2])

    def _carry_off(self, world_T_gripper: np.ndarray, approach_m: float) -> None:
        """Up; or, under a board, a little up and back the way the hand came."""
        out = (_CLEAR_M * _UP, -approach_m * world_T_gripper[:3, 2])
        arm, opening = self.arm, self.arm.opening_m()
        for shifts in ((LIFT_M * _UP,), out):
            q, pose, lines = arm.joints(), arm.gripper(), []
            try:
                for shift in shifts:
                    lines.append(arm.line(q, pose, shift, opening))
                    q, pose = lines[-1][-1], pose.copy()
                    pose[:3, 3] += shift
            except Unreachable:
                continue
            allowed = frozenset((self.held,)) | arm.near(world_T_gripper[:3, 3])
            if not any(arm.blocked(at, allowed) for line in lines for at in line[2::2]):
                for line, shift in zip(lines, shifts):
                    arm.slide(line, float(np.linalg.norm(shift)))
                return
        self._lift(LIFT_M)

    def _lift(self, height_m: float) -> None:
        self._straight(height_m * _UP)

    def _straight(self, shift_m: np.ndarray) -> None:
        arm, opening = self.arm, self.arm.opening_m()
        arm.slide(arm.line(arm.joints(), arm.gripper(), shift_m, opening), float(np.linalg.norm(shift_m)))
