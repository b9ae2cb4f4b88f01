"""Instructions tried out in one process: the eyes and hands that a `Performer` needs, over a simulated workcell.

Everything happens in the world's time, as fast as it can be computed. Knows nothing of ROS.
"""

from __future__ import annotations

import time
from dataclasses import replace

from qwen3vl_ros.asking.finding import Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.plans import Done, PlanStep
from qwen3vl_ros.instructions.reach import ENOUGH
from qwen3vl_ros.sim.camera import SimView
from qwen3vl_ros.sim.workcell import Ending, Report, Workcell
from qwen3vl_ros.types import Frame, GraspTarget, PlaceTarget, StaleFrame

NO_SERVER, NO_ANSWER = 7, 8  # of action/ExecuteStep.action: what a client notes


class Rehearsal:
    """An `Executor` whose pictures are of now; poses are of the frame `world`. One thread at a time.

    seen: what the camera drew last, with its truth. patience_s: for an arm that does not answer.
    """

    def __init__(self, cell: Workcell, patience_s: float = 60.0):
        self.cell, self.patience_s = cell, patience_s
        self.seen: SimView | None = None
        self._shot: Shot | None = None
        self._moved = False

    def see(self) -> Shot:
        """A picture once nothing moves any more. Raises StaleFrame where the camera shows what it showed before the last motion."""
        if self.cell.fault == "frozen" and self._shot is not None:
            if self._moved:
                raise StaleFrame("the camera's picture is older than the last motion; it has frozen")
            return self._shot
        self.cell.world.settle(longest_s=1.0)
        self.seen, depth_m = self.cell.look()
        self._shot, self._moved = _shot(self.seen, depth_m, int(1e9 * self.cell.time_s)), False
        if self.cell.fault == "blind":
            frame = replace(self._shot.frame, depth_m=None)
            self._shot = replace(self._shot, frame=frame, lacks="the depth image has stopped", stale=True)
        return self._shot

    def reach(self, step: PlanStep, grasps, places, control: Control) -> tuple[str, ...]:
        ways = [(g.frame_T_gripper, g.width_m, g.approach_m, g.opening_m) for g in grasps]
        ends = [(p.grasp, p.frame_T_gripper, p.approach_m) for p in places]
        return self.cell.check(ways, ends, ENOUGH)

    def pick(self, step: PlanStep, grasp: GraspTarget, control: Control) -> Done:
        pose, opening_m = grasp.frame_T_gripper, grasp.opening_m
        return self._move(control, lambda: self.cell.pick(pose, grasp.width_m, grasp.approach_m, opening_m))

    def place(self, step: PlanStep, place: PlaceTarget, control: Control) -> Done:
        return self._move(control, lambda: self.cell.place(place.frame_T_gripper, place.approach_m))

    def _move(self, control: Control, motion) -> Done:
        if self.cell.fault == "dead":
            return Done(False, "nobody moves the arm any more", code=NO_SERVER)
        if self.cell.fault == "silent":
            return self._unanswered(control)
        self.cell.cancelled = lambda: bool(control.interruption)
        self._moved = True
        told: Report = motion()
        self.cell.cancelled = lambda: False
        ok = told.ending is Ending.OK
        return Done(ok, told.message, told.retry, told.opening_m, told.holding, int(told.ending))

    def _unanswered(self, control: Control) -> Done:
        """What a client makes of a goal that is never answered."""
        end = time.monotonic() + self.patience_s
        while time.monotonic() < end and not control.interruption:
            time.sleep(0.01)
        return Done(False, f"the arm gave no answer within {self.patience_s:g} s", code=NO_ANSWER)


def _shot(seen: SimView, depth_m, stamp_ns: int) -> Shot:
    return Shot(
        Frame(
            stamp_ns=stamp_ns,
            frame_id="camera",
            rgb=seen.rgb,
            depth_m=depth_m,
            K=seen.K,
            target_T_camera=seen.world_T_camera,
            target_frame="world",
            up_camera=seen.world_T_camera[2, :3],
        )
    )
