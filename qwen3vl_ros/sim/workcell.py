"""A simulated workcell: a table, an arm that picks and places, a camera that looks at it, and one that looks at both.

Everything happens in the world's time, on the thread that made it; how fast that runs beside the clock on the wall is its owner's
business. It fails as arms fail, and can be told to. Knows nothing of pictures' meaning, plans or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Callable, Sequence

import numpy as np

from qwen3vl_ros.sim.arm import OPEN_M, Arm, furnish
from qwen3vl_ros.sim.camera import SimCamera, SimView
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.faults import ArmError, Collision, Slipped, Unreachable
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.pick_place import PickPlace
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, ShelfSpec, look_at
from qwen3vl_ros.sim.wide import sample_wide_scene
from qwen3vl_ros.types import Cancelled, InvalidInput, quoted

# What the arm can be told to fail with: the jaws give way on the way up, nothing can be reached, something is in the way, a goal is
# never answered, the executor goes away, the camera shows one picture for ever, its depth stops while its colours go on.
FAULTS = ("", "slip", "unreachable", "collision", "silent", "dead", "frozen", "blind")
_IDLE_S = 0.02
_ASIDE_M = 2.0  # how far a hand puts things, along each axis


class Ending(IntEnum):
    """How a motion ended; the codes of action/ExecuteStep.action."""

    OK = 0
    UNREACHABLE = 1
    COLLISION = 2
    SLIPPED = 3
    REJECTED = 4
    CANCELLED = 5
    ERROR = 6


@dataclass(frozen=True)
class Report:
    """Of one motion. retry: another grasp or place may do. opening_m: between the fingertips now."""

    ending: Ending
    message: str
    retry: bool
    holding: bool
    opening_m: float


class Workcell:
    """The scene with an arm at world_T_base (4x4) and a camera of that size. Use it as a context manager, from one thread.

    noise: of the depth; a number is its seed. tick(): called after every hundredth of a second or two of the world; `cancelled` ends
    a motion. phase(state): told how a motion goes on. fault: one of FAULTS.
    """

    def __init__(
        self, spec: SceneSpec, world_T_base: np.ndarray, width: int = 640, height: int = 480, noise: bool | int = True
    ):
        self.world_T_base = world_T_base
        self.world = PhysicalWorld(spec, lambda build: furnish(build, world_T_base))
        self.arm = Arm(self.world)
        self._hand = PickPlace(self.arm)
        self._camera = SimCamera(width, height, quality="fast", robot=self.arm.shapes())
        self._noise, self._looks = noise, 0
        self.tick: Callable[[], None] = lambda: None
        self._hand.phase = lambda state: self.phase(state)
        self.phase: Callable[[str], None] = lambda _: None
        self.cancelled: Callable[[], bool] = lambda: False
        self.fault = ""
        self.world.settle()
        self._start = self.world.state()

    def reset(self) -> None:
        """Everything as it was at first: things where the scene has them, the arm at rest, its jaws open and empty. Time goes on."""
        self._hand.lost()
        self.world.restore(self._start)

    def move(self, name: str, world_T_thing: np.ndarray) -> None:
        """A hand puts an object, by its label or number, elsewhere, also one that the jaws hold. Raises InvalidInput."""
        labels = [o.label for o in self.world.spec().objects]
        numbers = [k for k, label in enumerate(labels) if name in (label, str(k))]
        if len(numbers) != 1:
            raise InvalidInput(
                f"{quoted(name)} is not the label or number of one object; there are {', '.join(labels)}"
            )
        if not np.abs(world_T_thing[:3, 3]).max() < _ASIDE_M:
            raise InvalidInput(f"the {name} would lie more than {_ASIDE_M:g} m away; no hand reaches there")
        self.world.move(*numbers, world_T_thing)
        if self.holding and not self._hand.keeps():
            self._hand.lost()

    def __enter__(self) -> Workcell:
        return self

    def __exit__(self, *_) -> None:
        self._camera.close()

    # -- time and pictures ---------------------------------------------------------------------------------------------
    @property
    def time_s(self) -> float:
        return self.world.time_s

    def idle(self) -> None:
        """Let a little of the world's time pass."""
        self.world.step(_IDLE_S)
        self.tick()

    def look(self) -> tuple[SimView, np.ndarray]:
        """What the camera sees now with its truth, and the depth as it measures it."""
        self._looks += 1
        view = self._camera.render(self.world.spec(), robot=self.arm.parts())
        return view, noisy_depth(
            view.depth_m, view.K, 1000 * int(self._noise) + self._looks
        ) if self._noise else view.depth_m

    def overview(self) -> np.ndarray:
        """HxWx3 uint8, table and arm from a second viewpoint."""
        return self._camera.render(self.world.spec(), self._overview_pose(), depth=False, robot=self.arm.parts()).rgb

    def _overview_pose(self) -> np.ndarray:
        """From across the table, opposite the arm and on the camera's side of it."""
        across = -self.world_T_base[:3, 3] / np.linalg.norm(self.world_T_base[:3, 3])
        eye = np.array(self.world.spec().camera.eye_m)
        beside = eye - (eye @ across) * across
        beside *= 0.9 / max(1e-6, float(np.linalg.norm(beside[:2])))
        return look_at((*(0.75 * across[:2] + beside[:2]), 0.75), (*(-0.15 * across[:2]), 0.15))

    # -- what could be done ----------------------------------------------------------------------------------------------
    def check(
        self,
        grasps: Sequence[tuple[np.ndarray, float, float, float]],
        places: Sequence[tuple[int, np.ndarray, float]] = (),
        enough: int = 0,
    ) -> tuple[str, ...]:
        """Why not, of each place, without places of each grasp; "" where it could be done. Nothing moves.

        grasps: (world_T_gripper, width_m, approach_m, opening_m). places: (number of its grasp, world_T_gripper, approach_m). enough: how
        many that could be done end the search; 0 for none.
        """
        told: list[str] = []
        picked: dict[int, tuple[str, np.ndarray, np.ndarray]] = {}
        for grasp, *place in places or [(k,) for k in range(len(grasps))]:
            pose, width_m, approach_m, opening_m = grasps[grasp]
            if grasp not in picked:
                why = self._hand.why_not_pick(pose, width_m, approach_m, _opened(opening_m))
                picked[grasp] = why, self._hand.would_take, self._hand.would_turn
            why, taken, turned = picked[grasp]
            if place and not why:
                why = self._hand.why_not_place(self.arm.between(pose, width_m), (pose, width_m), *place, taken, turned)
            told.append(why)
            if told.count("") == enough > 0:
                break
        return tuple(told)

    # -- motions -------------------------------------------------------------------------------------------------------
    @property
    def holding(self) -> bool:
        return self._hand.held is not None

    def pick(self, world_T_gripper: np.ndarray, width_m: float, approach_m: float, opening_m: float) -> Report:
        """Take what is between the fingertips at world_T_gripper, lift it and carry it out of the camera's way."""
        if self.holding:
            return self._report(Ending.REJECTED, "the gripper holds something already; it must be put down first")
        opening_m = _opened(opening_m)
        return self._move(lambda: self._hand.pick(world_T_gripper, width_m, approach_m, opening_m), approach_m)

    def place(self, world_T_gripper: np.ndarray, approach_m: float) -> Report:
        """Put down what is held, the gripper at world_T_gripper, let go and withdraw."""
        if not self.holding:
            return self._report(Ending.REJECTED, "the gripper holds nothing; something must be picked first")
        return self._move(lambda: self._hand.place(world_T_gripper, approach_m), approach_m)

    def _move(self, motion: Callable[[], None], approach_m: float) -> Report:
        told = {"unreachable": Unreachable("it was told to fail"), "collision": Collision("it was told to fail")}
        self.arm.each_step = self._step
        try:
            if self.fault in told:
                raise told[self.fault]
            motion()
            ending, message = Ending.OK, ""
        except Cancelled as why:
            self.arm.each_step = self.tick  # what follows is how it ends, and is not cancelled again
            self.arm.stop()
            ending, message = Ending.CANCELLED, str(why)
        except ArmError as why:
            kinds = {Unreachable: Ending.UNREACHABLE, Collision: Ending.COLLISION, Slipped: Ending.SLIPPED}
            ending, message = kinds.get(type(why), Ending.ERROR), str(why)
        self.arm.each_step = self.tick
        if ending in (Ending.OK, Ending.UNREACHABLE):
            self._rest()
        else:
            self._hand.back_off(approach_m)
        self.arm.each_step = lambda: None
        if self.holding and not self._hand.keeps():
            self._hand.lost()
            if ending is Ending.OK:
                ending, message = Ending.SLIPPED, "it slipped out of the jaws on the way"
        return self._report(ending, message)

    def _rest(self) -> None:
        try:
            self._hand.rest()
        except ArmError:
            pass  # the next picture shows where it stands

    def _step(self) -> None:
        if self.fault == "slip" and self.holding:
            self.arm.let_slip()
        self.tick()
        if self.cancelled() and not self.arm.jaws_move:
            raise Cancelled("the motion was cancelled")

    def _report(self, ending: Ending, message: str) -> Report:
        retry = ending in (Ending.UNREACHABLE, Ending.COLLISION, Ending.SLIPPED)
        return Report(ending, message, retry, self.holding, self.arm.opening_m())


def _opened(opening_m: float) -> float:
    """How far the jaws open for a grasp that says so; 0 or NaN: as far as they can."""
    return OPEN_M if not opening_m > 0 else min(opening_m, OPEN_M)


def bench_scene() -> SceneSpec:
    """A table with a shelf of two levels and things to take and to put them on, in and beside."""
    objects = (
        ObjectSpec("box", "red", (0.06, 0.045, 0.05), (-0.14, -0.13, 0.025), 0.3),
        ObjectSpec("bowl", "blue", (0.14, 0.14, 0.06), (0.17, -0.12, 0.03), 0.0),
        ObjectSpec("ball", "yellow", (0.05,) * 3, (0.03, -0.20, 0.025), 0.0),
        ObjectSpec("cube", "green", (0.045,) * 3, (-0.02, -0.08, 0.0225), 0.5),
    )
    shelf = ShelfSpec((-0.01, 0.19), -1.45, (0.36, 0.24), 2, 0.23, (0.62, 0.47, 0.31))
    camera = CameraSpec((0.15, -0.66, 0.62), (0.0, 0.02, 0.10))
    return SceneSpec(0, objects, camera=camera, shelf=shelf)


def scene_of(name: str, seed: int) -> SceneSpec:
    """bench: always the same table. wide: one of the wider world's scenes, without end. Raises InvalidInput."""
    if name == "bench":
        return bench_scene()
    if name == "wide":
        return sample_wide_scene(seed)
    raise InvalidInput(f"scene {name!r} is unknown; known are bench and wide")


def base_beside(spec: SceneSpec, aside_m: float = 0.40, forth_m: float = 0.10) -> np.ndarray:
    """world_T_base, 4x4: to the left of the table's middle as the camera sees it and a little farther, the arm looking across."""
    forward = spec.camera.world_T_camera()[:2, 2]
    forward = forward / np.linalg.norm(forward)
    left, base = np.array((-forward[1], forward[0])), np.eye(4)
    base[:2, 3], base[:2, 0], base[:2, 1] = aside_m * left + forth_m * forward, -left, (left[1], -left[0])
    return base
