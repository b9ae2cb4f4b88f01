"""What an arm does with a grasp and a place: approach, close, lift; carry, set down, let go, withdraw.

Every move is planned before anything moves; what fails afterwards fails honestly, because contact decides. Knows nothing
of pictures, plans or ROS.
"""

from __future__ import annotations

from typing import Callable

import numpy as np

from qwen3vl_ros.sim.arm import OPEN_M, REST, Arm, unreachable
from qwen3vl_ros.sim.faults import ArmError, Collision, Slipped, Unreachable

LIFT_M = 0.10
_CLEAR_M = 0.02  # of what carries it, before it is drawn out from under a board
_TOUCHED_DOWN_M = 0.008  # nearer than this to where it should be let go, what stops the thing is what it is put on
_POSTURES, _WAYS = 40, 4  # of the arm for one pose of the hand: looked at, and for which a way there is sought
RELEASE_M = 0.016  # farther apart, to let go: places are tried with jaws that stand so (grasping/placing.py)
_UP = np.array((0.0, 0.0, 1.0))
_HALF_TURN = np.diag((-1.0, -1.0, 1.0, 1.0))  # about the approach: the same jaws


class PickPlace:
    """Picks and places with one arm; `held` is the object in its jaws, None for none."""

    def __init__(self, arm: Arm):
        self.arm = arm
        self.held: int | None = None
        # Joint angles when the jaws closed, and would have in the last pick that could be done.
        self._taken = self.would_take = REST
        # How the hand was turned about its approach then: either way the jaws are the same, but what they hold is on the other side.
        self._turned = self.would_turn = np.eye(4)
        self.phase: Callable[[str], None] = lambda _: None  # told what begins: approaching, closing, lifting, ...

    def pick(
        self, world_T_gripper: np.ndarray, width_m: float, approach_m: float = 0.10, opening_m: float = OPEN_M
    ) -> None:
        """Take what is between the fingertips at world_T_gripper, and lift it. Raises Unreachable, Collision, Slipped."""
        arm = self.arm
        if self.held is not None:
            raise ArmError("the gripper holds something already; place it first")
        arm.open(opening_m)
        path, line, self._turned = self._approach(world_T_gripper, width_m, approach_m, REST, takes=True)
        self._taken = line[-1]
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
        self._carry_off(world_T_gripper, approach_m, line)
        if not self.keeps():
            self.lost()
            raise Slipped("it slipped out of the jaws when it was lifted")

    def place(self, world_T_gripper: np.ndarray, approach_m: float = 0.10) -> None:
        """Carry what is held to world_T_gripper, let go and withdraw. Raises Unreachable, Collision, Slipped."""
        arm = self.arm
        if self.held is None:
            raise ArmError("the gripper holds nothing; pick something first")
        width = arm.opening_m()
        held, turned = frozenset((self.held,)), (self._turned,)
        path, line, _ = self._approach(world_T_gripper, width, approach_m, self._taken, held, turns=turned)
        self.phase("carrying")
        arm.follow(path)
        if not self.keeps():
            self.lost()
            raise Slipped("it was lost on the way")
        self.phase("lowering")
        try:
            arm.slide(line, approach_m)
        except Collision:
            if arm.hits() or np.linalg.norm(arm.gripper()[:3, 3] - world_T_gripper[:3, 3]) > _TOUCHED_DOWN_M:
                raise
            arm.stop()  # it stands on what carries it a little earlier than it should
        self.phase("opening")
        arm.open(min(OPEN_M, width + RELEASE_M))
        self.held = None
        self.phase("withdrawing")
        self._withdraw(world_T_gripper, approach_m)
        self.rest()

    def why_not_pick(
        self, world_T_gripper: np.ndarray, width_m: float, approach_m: float, opening_m: float = OPEN_M
    ) -> str:
        """Why `pick` could not be done from here; "" where it could. Nothing moves."""
        self.arm.would_open(opening_m)
        try:
            _, line, self.would_turn = self._approach(world_T_gripper, width_m, approach_m, REST, takes=True)
            self.would_take = line[-1]
            return ""
        except ArmError as why:
            return str(why)
        finally:
            self.arm.would_open(None)

    def why_not_place(
        self,
        index: int | None,
        grasp: tuple[np.ndarray, float],
        world_T_gripper,
        approach_m: float,
        taken=REST,
        turned=np.eye(4),
    ) -> str:
        """Why `place` could not be done from here with object `index` held as by grasp (world_T_gripper, width_m), which stands where it
        would be taken, the arm at `taken` (7) and the hand turned so (4x4, as `would_turn`); "" where it could. Nothing moves.
        """
        self.arm.would_grip(index, grasp[0] @ turned, grasp[1])
        self.arm.would_open(grasp[1])
        try:
            held = frozenset(() if index is None else (index,))
            self._approach(world_T_gripper, grasp[1], approach_m, taken, held, turns=(turned,))
            return ""
        except ArmError as why:
            return str(why)
        finally:
            self.arm.grip(self.held)
            self.arm.would_open(None)

    def rest(self) -> None:
        """Back to where the arm hides nothing; it stays where it is if no way leads there."""
        arm = self.arm
        try:
            arm.follow(arm.ways.way(arm.joints(), REST))
        except (Unreachable, Collision):
            self._lift(LIFT_M)
            arm.follow(arm.ways.way(arm.joints(), REST))

    def keeps(self) -> bool:
        """Whether both pads touch what was taken, some time in a tenth of a second: a pad may lift off for an instant."""
        for _ in range(6):
            if self.arm.holds(self.held):
                return True
            self.arm.world.step(0.02)
        return False

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

    def _approach(
        self,
        world_T_gripper,
        width_m,
        approach_m,
        near_q,
        allowed: frozenset[int] = frozenset(),
        takes: bool = False,
        turns=(np.eye(4), _HALF_TURN),
    ):
        """(joint angles to the pre-grasp, joint angles of the straight way in, which of the turns of the hand it is). Jaws may close from
        either side; what they hold has one. near_q: postures nearest to that are tried first. takes: what is there is lifted, too.
        """
        arm, ways, fault, sought = self.arm, self.arm.ways, unreachable(world_T_gripper), 0
        back, near = -approach_m * world_T_gripper[:3, 2], allowed | arm.near(world_T_gripper[:3, 3])
        ends = [(turn, q) for turn in turns for q in arm.reaches(world_T_gripper @ turn, width_m, near_q)]
        ends.sort(key=lambda end: float(np.abs(end[1] - near_q).max()))
        for turn, q in ends[:_POSTURES]:
            pose = world_T_gripper @ turn
            try:
                if hit := ways.blocked(q, near):
                    raise Collision(f"at the end of the approach, {hit}")
                line = arm.line(q, pose, back, width_m)[::-1]  # where it is narrowest is looked at first
                if hit := next(filter(None, (ways.blocked(at, near) for at in line[-3::-2])), ""):
                    raise Collision(f"on the approach, {hit}")
                if takes and not self._ways_off(q, pose, width_m, approach_m, near):
                    raise Unreachable("from there the arm can neither lift what it holds nor draw it out")
                sought += 1
                return ways.way(arm.joints(), line[0], allowed), line, turn
            except (Unreachable, Collision) as error:
                fault = error
            if sought == _WAYS:
                break
        raise fault

    def _withdraw(self, world_T_gripper, approach_m) -> None:
        self._straight(-approach_m * world_T_gripper[:3, 2])

    def _carry_off(self, world_T_gripper: np.ndarray, approach_m: float, came: list[np.ndarray]) -> None:
        """Up; or, under a board, a little up and back the way the hand came; where the arm as it stands can do neither, along the joint
        angles by which it came.
        """
        arm = self.arm
        near = frozenset((self.held,)) | arm.near(world_T_gripper[:3, 3])
        lines = self._ways_off(arm.joints(), arm.gripper(), arm.opening_m(), approach_m, near)
        for line, shift in lines:
            arm.slide(line, float(np.linalg.norm(shift)))
        if not lines:
            arm.slide(came[::-1], approach_m)

    def _ways_off(
        self, q, pose, opening_m, approach_m, allowed: frozenset[int]
    ) -> list[tuple[list[np.ndarray], np.ndarray]]:
        """(joint angles, shift) of the straight moves that take up what stands there, the arm at q; none where the arm cannot."""
        up, out = LIFT_M * _UP, (_CLEAR_M * _UP, -approach_m * pose[:3, 2])
        for shifts in ((up,), out):
            at, there, lines = q, pose.copy(), []
            try:
                for shift in shifts:
                    lines.append((self.arm.line(at, there, shift, opening_m), shift))
                    at = lines[-1][0][-1]
                    there[:3, 3] += shift
            except Unreachable:
                continue
            if not any(self.arm.ways.blocked(at, allowed) for line, _ in lines for at in line[2::2]):
                return lines
        return []

    def _lift(self, height_m: float) -> None:
        self._straight(height_m * _UP)

    def _straight(self, shift_m: np.ndarray) -> None:
        arm, opening = self.arm, self.arm.opening_m()
        arm.slide(arm.line(arm.joints(), arm.gripper(), shift_m, opening), float(np.linalg.norm(shift_m)))
