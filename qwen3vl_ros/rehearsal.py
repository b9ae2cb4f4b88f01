"""Instructions tried out in one process: a simulated table, a camera that looks at it and an arm that does what plans say.

The eyes and the hands that a `Performer` needs, over one physical world, in its time. Depth has a camera's noise, contact decides, and
where the robot fails it says so. Knows nothing of ROS.
"""

from __future__ import annotations

import math

import numpy as np

from qwen3vl_ros.asking.finding import Shot
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.perform import Done
from qwen3vl_ros.instructions.plans import PlanStep
from qwen3vl_ros.sim.arm import OPEN_M, Arm, ArmError, furnish
from qwen3vl_ros.sim.camera import SimCamera, SimView
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.pick_place import PickPlace
from qwen3vl_ros.sim.specs import SceneSpec
from qwen3vl_ros.types import Cancelled, DeadlinePassed, Frame, GraspTarget, PlaceTarget


class Rehearsal:
    """A world with an arm at world_T_base (4x4) and a camera: an `Executor`, whose pictures are of now. One thread at a time.

    noise: of the depth, a seed; None for exact depth. seen: what `see` drew last, with its truth. All poses are of the frame `world`.
    """

    def __init__(self, spec: SceneSpec, camera: SimCamera, world_T_base: np.ndarray, noise: int | None = 0):
        self.world = PhysicalWorld(spec, lambda build: furnish(build, world_T_base))
        self.hand = PickPlace(Arm(self.world))
        self._camera, self._noise, self._looks = camera, noise, 0
        self.seen: SimView | None = None
        self.world.settle()

    def see(self) -> Shot:
        """A picture of the table once nothing moves any more."""
        self.world.settle(longest_s=1.0)
        self._looks += 1
        self.seen = seen = self._camera.render(self.world.spec())
        depth_m = seen.depth_m
        if self._noise is not None:
            depth_m = noisy_depth(depth_m, seen.K, 1000 * self._noise + self._looks)
        return Shot(
            Frame(
                stamp_ns=int(1e9 * self.world.time_s) + self._looks,
                frame_id="camera",
                rgb=seen.rgb,
                depth_m=depth_m,
                K=seen.K,
                target_T_camera=seen.world_T_camera,
                target_frame="world",
                up_camera=seen.world_T_camera[2, :3],
            )
        )

    def pick(self, step: PlanStep, grasp: GraspTarget, control: Control) -> Done:
        opening_m = OPEN_M if math.isnan(grasp.opening_m) else min(grasp.opening_m, OPEN_M)
        pose, width_m = grasp.frame_T_gripper, grasp.width_m
        return self._move(control, lambda: self.hand.pick(pose, width_m, grasp.approach_m, opening_m))

    def place(self, step: PlanStep, place: PlaceTarget, control: Control) -> Done:
        return self._move(control, lambda: self.hand.place(place.frame_T_gripper, place.approach_m))

    def _move(self, control: Control, move) -> Done:
        def go_on():
            if control.cancelled:
                raise Cancelled(control.reason)
            if control.expired:
                raise DeadlinePassed("the time for the instruction was over while the arm moved")

        arm = self.hand.arm
        arm.each_step = go_on
        try:
            move()
        except ArmError as error:
            return Done(False, str(error), True, arm.opening_m())
        finally:
            arm.each_step = lambda: None
        return Done(True, "", False, arm.opening_m())
