"""What a simulated arm would touch where it is not yet, and ways there that touch nothing.

The arm is tried in a world of its own: a copy in which only what belongs to the arm can touch anything, with what it holds moved along.
Knows nothing of gripper frames, time or motion.
"""

from __future__ import annotations

import copy

import mujoco
import numpy as np

from qwen3vl_ros.sim.faults import Collision, Unreachable
from qwen3vl_ros.sim.physics import PhysicalWorld

_CHECK_RAD = 0.04  # between the poses of a way that are looked at
_STEP_RAD = 0.25  # of a tree that grows
_GROWN, _GROWN_OFF = 400, 80  # branches of both trees, and where everything is kept off
# Deeper than this is a collision; what is held has slid a little in the jaws, and is set down on what carries it.
_TOUCHES_M, _SETTLES_M = 0.0005, 0.005
_SPARE_M = 0.008  # kept from everything on the way, where that is possible: servos lag, and cut corners
_ARM, _ELSE = 1, 2  # bits of MuJoCo's contact groups


class Ways:
    """Of the arm whose joints are at q_at (7) in qpos; site: of its hand; rest: joint angles 7 at which it touches nothing of itself.

    holding: (number of the object that moves with the hand, site_T_object), None for none. jaws: (where in qpos, joint angles) of jaws that
    stand otherwise than they do, None for as they do. allowed, wherever it is an argument: objects
    that may be touched.
    """

    def __init__(self, world: PhysicalWorld, q_at: np.ndarray, limits: np.ndarray, site: int, rest: np.ndarray, rng):
        self._world, self._q, self._limits, self._site, self._rest, self._rng = world, q_at, limits, site, rest, rng
        model = world.model
        self._model, self._data = copy.copy(model), mujoco.MjData(model)
        self._spare_m = 0.0
        self.holding: tuple[int, np.ndarray] | None = None
        self.jaws: tuple[np.ndarray, np.ndarray] | None = None
        self._held = -1  # its body, as the contact groups have it
        self._names = [model.body(b).name for b in range(model.nbody)]
        of_arm = np.array([name.startswith("arm/") for name in self._names])
        self._mine = of_arm[model.geom_bodyid]
        self._solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        self._base = model.body("arm/link0").id
        hand = model.body("arm/link7").id
        self._hand = np.array([of_arm[b] and b >= hand for b in range(model.nbody)])
        self._group()
        self._usual: set[tuple[int, int]] = set()
        self._usual = {pair for pair in self._contacts(rest) if of_arm[list(pair)].all()}

    def _group(self) -> None:
        """The contact groups: the arm, and what it holds, can touch all; nothing else can touch anything."""
        mine = self._mine | (self._model.geom_bodyid == self._held)
        self._model.geom_contype[:] = np.where(self._solid, np.where(mine, _ARM, _ELSE), 0)
        self._model.geom_conaffinity[:] = np.where(self._solid, np.where(mine, _ARM | _ELSE, _ARM), 0)
        self._model.geom_margin[:] = np.where(mine, _SPARE_M, 0.0)

    def _contacts(self, q: np.ndarray):
        """Pairs of bodies (the arm's first) that the arm at q would have touch each other."""
        model, data = self._model, self._data
        data.qpos[:] = self._world.data.qpos
        data.qpos[self._q] = q
        if self.jaws is not None:
            data.qpos[self.jaws[0]] = self.jaws[1]
        mujoco.mj_kinematics(model, data)
        held = -1 if self.holding is None else model.body(f"object{self.holding[0]}").id
        if held != self._held:
            self._held = held
            self._group()
        if self.holding is not None:
            self._carry(self.site_pose(data) @ self.holding[1])
            mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        for contact in data.contact[: data.ncon]:
            bodies = sorted((int(model.geom_bodyid[g]) for g in contact.geom), key=self._rank)
            near = 0.0 if self._names[bodies[1]].startswith("arm/") else self._spare_m
            if contact.dist < near - (_SETTLES_M if held in bodies and not near else _TOUCHES_M):
                self._touching = contact.geom
                yield tuple(bodies)

    def _rank(self, body: int) -> tuple[int, int]:
        """The arm's bodies first, then what it holds, then all else."""
        return (0 if self._names[body].startswith("arm/") else 1 if body == self._held else 2), body

    def blocked(self, q: np.ndarray, allowed: frozenset[int] = frozenset()) -> str:
        """What the arm at q, with what it holds, would touch: "" for nothing."""
        for one, other in self._contacts(q):
            if one == self._base or (one, other) in self._usual or (self._hand[one] and self._hand[other]):
                continue
            if other == self._held and self._hand[one]:
                continue
            name = self._names[other]
            if name.startswith("object") and other != self._held and int(name.removeprefix("object")) in allowed:
                continue
            if name == "world":
                of_world = next(g for g in self._touching if self._model.geom_bodyid[g] == other)
                name = self._model.geom(of_world).name
            return f"{self._names[one].removeprefix('arm/')} would touch {name.removeprefix('arm/')}"
        return ""

    def site_pose(self, data: mujoco.MjData) -> np.ndarray:
        """world_T_site, 4x4."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = data.site_xmat[self._site].reshape(3, 3), data.site_xpos[self._site]
        return pose

    def _carry(self, pose: np.ndarray) -> None:
        at = self._model.jnt_qposadr[self._model.body_jntadr[self._held]]
        turn = np.empty(4)
        mujoco.mju_mat2Quat(turn, np.ascontiguousarray(pose[:3, :3]).ravel())
        self._data.qpos[at : at + 7] = (*pose[:3, 3], *turn)

    # -- ways -------------------------------------------------------------------------------------------------------
    def clear(self, a: np.ndarray, b: np.ndarray, allowed: frozenset[int] = frozenset()) -> bool:
        """Whether nothing is touched on the straight way from a to b, but for a itself."""
        steps = max(1, int(np.ceil(np.abs(b - a).max() / _CHECK_RAD)))
        order = sorted(
            range(1, steps + 1), key=lambda k: -(k & -k)
        )  # the middle first: most often it is what is in the way
        return all(not self.blocked(a + (b - a) * k / steps, allowed) for k in order)

    def way(self, start: np.ndarray, goal: np.ndarray, allowed: frozenset[int] = frozenset()) -> list[np.ndarray]:
        """Joint angles from start to goal that touch nothing, and come near nothing where that can be: straight, or by RRT-Connect (Kuffner
        and LaValle 2000). Raises Collision, Unreachable.
        """
        if fault := self.blocked(goal, allowed):
            raise Collision(f"where the gripper shall go, {fault}")
        self._spare_m = _SPARE_M
        try:
            near = self.blocked(goal, allowed) or self.blocked(start, allowed)
            if not near and (path := self._sought(start, goal, allowed, _GROWN_OFF)):
                return path
        finally:
            self._spare_m = 0.0
        if path := self._sought(start, goal, allowed, _GROWN):
            return path
        raise Unreachable("no way was found there that touches nothing")

    def _sought(self, start: np.ndarray, goal: np.ndarray, allowed: frozenset[int], most: int) -> list[np.ndarray]:
        """A way, with at most so many branches; empty where none was found."""
        if self.clear(start, goal, allowed):
            return [start, goal]
        for over in (self._rest, 0.5 * (start + goal) + np.array((0, -0.4, 0, -0.2, 0, 0.2, 0))):
            over = np.clip(over, *self._limits.T)
            if self.clear(start, over, allowed) and self.clear(over, goal, allowed):
                return [start, over, goal]
        trees = [[(start, -1)], [(goal, -1)]]
        for _ in range(most):
            grown, other = trees
            added = self._grow(grown, self._rng.uniform(*self._limits.T), allowed, far=False)
            if added is not None and (met := self._grow(other, added, allowed, far=True)) is not None:
                if np.allclose(met, added):
                    a, b = _branch(grown), _branch(other)
                    path = a + b[::-1][1:] if grown[0][0] is start else b + a[::-1][1:]
                    return self._shortened(path, allowed)
            trees.reverse()
        return []

    def _grow(self, tree: list, target: np.ndarray, allowed, far: bool) -> np.ndarray | None:
        nearest = min(range(len(tree)), key=lambda k: np.abs(tree[k][0] - target).sum())
        at, parent = tree[nearest][0], nearest
        while True:
            gap = target - at
            size = np.abs(gap).max()
            step = target if size < _STEP_RAD else at + gap * _STEP_RAD / size
            if not self.clear(at, step, allowed):
                return None if parent == nearest else at
            tree.append((step, parent))
            at, parent = step, len(tree) - 1
            if not far or np.array_equal(step, target):
                return at

    def _shortened(self, path: list[np.ndarray], allowed) -> list[np.ndarray]:
        k = 0
        while k < len(path) - 2:
            for end in range(len(path) - 1, k + 1, -1):
                if self.clear(path[k], path[end], allowed):
                    path = path[: k + 1] + path[end:]
                    break
            k += 1
        return path


def _branch(tree: list) -> list[np.ndarray]:
    """From the root to what was added last."""
    path, k = [], len(tree) - 1
    while k >= 0:
        q, k = tree[k]
        path.append(q)
    return path[::-1]
