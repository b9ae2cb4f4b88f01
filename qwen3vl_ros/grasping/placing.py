"""Where an object that is held can be put down: free space on a measured surface or in a container, and a hand that fits there.

A place is judged as it will be: the object's measured points are moved there, the facts that were asked for are measured
on them, and the hand that holds it must come and go without touching anything. Grasp and place are chosen as a pair,
since a hand from above cannot enter a lower shelf level. Knows nothing of words, arms or ROS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.hulls import depth_inside, outline
from qwen3vl_ros.geometry.layout import CannotTell, Layout
from qwen3vl_ros.geometry.supports import place_margin
from qwen3vl_ros.geometry.things import Body, Surface
from qwen3vl_ros.types import Detection3D, Fact, GraspTarget, InvalidInput, PlaceTarget, Verdict

_CELL_M = 0.006
_CLEARANCE_M = 0.008  # kept around the object at rest
_FOOT_SHARE = 0.4  # of a foot, about its middle, that must be carried where the rest may hang over
_DROP_M = 0.004  # above the support when the jaws open
# Or, in a container too narrow for the fingers, so far above where it will rest; so deep in its opening, it can only fall inside.
_FALLS_M, _IN_THE_RIM_M = (0.0, 0.02, 0.04, 0.06, 0.08), 0.008
# Of the object, from how it stands now. Half a turn leaves the object as it is and has the hand come from the other side.
_TURNS_DEG = (0.0, 180.0, 90.0, -90.0, 45.0, -45.0, 135.0, -135.0)
_TRIED = 20  # places whose facts are measured, of each turn
_JUDGED = 96  # places for which the hand is tried
_TURNS_FIRST = 2  # turns of one spot that are tried before the next spot
_PALM_M = 0.11  # from the fingers' root to the wrist
_ARM_M, _ARM_RADIUS_M = 0.18, 0.05  # what follows the palm
_BESIDE = ("next_to", "left_of", "right_of", "in_front_of", "behind")
_NEAR_M = 0.02  # the gap to a reference that is best
_SEEN_POINTS = 40000
_THIN_M, _HAND_REACH_M = 0.006, 0.48  # what the hand may touch: one point a cell, as far off as hand and wrist go
_APART_M = 0.04  # between the places of one answer
RELEASE_M = 0.016  # so much farther apart than on the object, jaws let go of it; farther they may wedge in a container
_SKEW = 0.8  # aside, of ahead
_FARTHEST_M = 0.25  # from a reference to the middle of what is left of it, behind it and so on
_DEEP_M = 0.12  # inside a corner or side of a table: how far the table reaches is seen worst
# Margin of a fact that a place must have, even where noise leaves it undecided: as much as things come to rest elsewhere than they were
# to. Less than sure is taken where nothing better can be reached.
_HOLDS_M, _SURE_M = {"in": 0.008, "at": 0.012}, {"in": 0.015, "at": 0.05, "next_to": 0.01}
_HOLDS_ELSE_M = 0.004
_SLIDES_M = 0.015  # what is set down so much higher on a container's wall slides to its floor
_TOP_M, _SMALL = 0.008, 0.25  # how flat a top is; what covers a smaller share of it is no top but stands on it
FLAT_M = 0.012  # what rises less above a surface belongs to it
_EVEN_M, _EVEN_SIGMAS, _EVEN_READINGS = (
    0.004,
    1.1,
    12,
)  # but for what does so all over a footprint, as the floor of a tray does
_TOWARDS = {
    "left_of": ("right", -1),
    "right_of": ("right", 1),
    "in_front_of": ("forward", -1),
    "behind": ("forward", 1),
}


@dataclass(frozen=True, eq=False)
class _Support:
    """Where a thing may rest, level frame: id, height z_m, border Kx2 it must stay in, clear_m of room above.

    top: of another thing, over whose border it may hang. rim_m: height of a container's rim.
    """

    id: str
    z_m: float
    border: np.ndarray
    clear_m: float
    deep: bool = False  # inside a container: what is around is its wall
    top: bool = False
    rim_m: float = -math.inf


def find_places(
    cloud: SceneCloud,
    layout: Layout,
    detection: Detection3D,
    asked: Sequence[Fact],
    grasps: Sequence[GraspTarget],
    gripper: GripperConfig,
    most: int = 4,
    ways: int = 1,
) -> tuple[PlaceTarget, ...]:
    """Places for a lifted object that make every asked fact true, each with one of the grasps that hold it, best first.

    At most `most`, apart from each other, so that an arm that cannot reach one may try the next; a single infeasible one
    with the reason where there is none. ways: with how many of the grasps each; with several, one spot may be meant twice, the object
    turned, because another hand may come there.

    asked: facts whose first argument is the object's id: "on" or "in" a support, "at" a place on it, or "next_to", "left_of",
    "right_of", "in_front_of", "behind" a thing. layout: as `layout_of` gives it for the same cloud, the object among its things.
    grasps: feasible ones of the object as it stands now, best first. Raises InvalidInput for facts that no place can make true.
    """
    asked = tuple(_checked(fact, detection.id) for fact in asked)
    search = _Search(cloud, layout, detection, asked, gripper)
    try:
        supports = search.supports()
    except CannotTell as why:
        return (search.nowhere(f"no place: {why}", grasps),)
    return search.best(supports, [g for g in grasps if g.feasible], grasps, most, ways)


def askew(layout: Layout, asked: Sequence[Fact], frame_T_box: np.ndarray) -> bool:
    """Whether an object, where its box is (4x4), is more aside of a reference than left of it, behind it and so on, or too far off: nobody would
    call it that.
    """
    return _askew(layout, asked, (layout.level_R_frame @ frame_T_box[:3, 3])[:2])


def _aside(layout: Layout, fact: Fact, offset: np.ndarray) -> float:
    """How far aside of the way that a fact means an offset (2, level) is, of how far along it; infinite where it is none."""
    axis, sign = _TOWARDS[fact.relation]
    way = sign * layout.directions(fact.view or "viewer")[axis][:2]
    ahead = float(offset @ way)
    return abs(float(offset @ np.array((-way[1], way[0])))) / ahead if ahead > 0 else math.inf


def _askew(layout: Layout, asked: Sequence[Fact], middle: np.ndarray) -> bool:
    """As `askew`, of an object whose middle is at `middle`, level frame."""
    for fact in asked:
        if fact.relation in _TOWARDS:
            reference = layout.body(fact.arguments[1])
            if -float(depth_inside(reference.outline, middle[None])[0]) > _FARTHEST_M:
                return True
            if _aside(layout, fact, middle - reference.centre[:2]) > _SKEW:
                return True
    return False


def _checked(fact: Fact, name: str) -> Fact:
    facts.check(fact.relation, fact.arguments, fact.view or "viewer")
    if fact.relation not in (*_BESIDE, "on", "in", "at") or fact.arguments[0] != name:
        raise InvalidInput(
            f"{fact.relation}({', '.join(fact.arguments)}) is no place for {name!r}; a place is on, in, at, {', '.join(_BESIDE)}"
        )
    return fact


@dataclass(frozen=True, eq=False)
class _Ground:
    """A support as a map, rows y, columns x: low is the place of cell 0, 0. within: what carries. blocked: where something is.

    heights: of a container's inner surface.
    """

    low: np.ndarray
    within: np.ndarray
    blocked: np.ndarray
    heights: np.ndarray | None


class _Search:
    """One object, one frame, the facts wanted of it. Everything in the layout's level frame, z up."""

    def __init__(self, cloud, layout: Layout, detection, asked, gripper):
        self.cloud, self.layout, self.detection, self.asked, self.gripper = cloud, layout, detection, asked, gripper
        self.thing = next(t for t in layout.things if t.id == detection.id)
        self.body = layout.body_of(self.thing)
        self.level_T_frame = np.eye(4)
        self.level_T_frame[:3, :3] = layout.level_R_frame
        self.level_T_box = self.level_T_frame @ detection.frame_T_box
        self.low_m = float(self.body.hull[:, 2].min())
        self.height_m = float(np.ptp(self.body.hull[:, 2]))
        self.others = [t for t in layout.things if t.id != detection.id]
        self.points = self._scene_points()
        _, one = np.unique(np.floor(self.points / _THIN_M).astype(int) @ (1, 4096, 4096**2), return_index=True)
        self.solid = self.points[one].astype(np.float32)

    def _scene_points(self) -> np.ndarray:
        """What was measured and is not the object, and what is assumed on the unseen sides of other things, Nx3."""
        rows, columns = self.cloud.frame.depth_m.shape
        step = max(1, int(math.sqrt(rows * columns / _SEEN_POINTS)))
        grid = slice(0, rows, step), slice(0, columns, step)
        seen = self.cloud.window_points_m(*grid)[self.cloud.valid[grid]].astype(float)
        level_T_camera = self.level_T_frame @ self.cloud.frame_T_camera
        seen = seen @ level_T_camera[:3, :3].T + level_T_camera[:3, 3]
        local = (seen - self.level_T_box[:3, 3]) @ self.level_T_box[:3, :3]
        own = (np.abs(local) < self.detection.size_m / 2 + 0.006).all(1) & (seen[:, 2] > self.low_m + 0.006)
        hidden = [t.completed_m @ self.layout.level_R_frame.T for t in self.others if len(t.completed_m)]
        return np.concatenate([seen[~own], *hidden])

    # -- where it may be ------------------------------------------------------------------------------------------------
    def supports(self) -> list[_Support]:
        """The surface or inside that the facts name, or the one that carries what they name. Raises CannotTell."""
        for fact in self.asked:
            if fact.relation in ("on", "in", "at"):
                return [self._support(self.layout.body(fact.arguments[1]), fact.relation)]
        reference = self.asked[0].arguments[1]
        carrier = facts.stands_on(self.layout, reference)
        named = carrier.arguments[1] if carrier.verdict is not Verdict.FALSE else ""
        surfaces = [s for s in self.layout.surfaces if s.id == named] or list(self.layout.surfaces[:1])
        if not surfaces:
            raise CannotTell(f"no surface was measured on which {reference!r} stands")
        return [self._support(self.layout.body_of(surfaces[0]), "on")]

    def _support(self, body: Body, relation: str) -> _Support:
        thing = body.thing
        if isinstance(thing, Surface):
            return _Support(thing.id, float(body.hull[:, 2].mean()), body.outline, thing.clear_m)
        if body.rim is not None:
            rim_m = float(body.rim[:, 2].mean())
            border = outline(body.rim[:, :2])
            return _Support(thing.id, rim_m - thing.inside.depth_m, border, math.inf, True, rim_m=rim_m)
        if relation == "in":
            raise CannotTell(f"no inside of {body.name} was measured")
        upper = _top(body.points)
        if len(upper) < 8:
            raise CannotTell(f"{body.name} has no flat top that was seen")
        top = float(np.percentile(upper[:, 2], 99))
        return _Support(thing.id, top, outline(upper[:, :2]), math.inf, top=True)

    # -- free space -----------------------------------------------------------------------------------------------------
    def _maps(self, support: _Support) -> _Ground:
        """What is free on a support, and how high what was measured on it is."""
        beyond = 0.02 + (float(self.body.size_m.max()) if support.top else 0.0)
        low, high = support.border.min(0) - beyond, support.border.max(0) + beyond
        shape = tuple(np.ceil((high - low) / _CELL_M).astype(int)[::-1] + 1)
        within = _filled(shape, low, support.border)
        above = self.points[:, 2] - support.z_m
        tall = min(self.height_m + 0.03, support.clear_m - 0.005)
        at = np.rint((self.points[:, :2] - low) / _CELL_M).astype(int)
        inside = (at >= 0).all(1) & (at[:, 0] < shape[1]) & (at[:, 1] < shape[0]) & (above < tall)
        heights = np.full(shape, -1.0, np.float32)
        order = np.argsort(above[inside])
        heights[at[inside][order, 1], at[inside][order, 0]] = above[inside][order]  # the highest is written last
        blocked = np.zeros(shape, np.uint8)
        if not support.deep:
            seen = (np.abs(heights) < FLAT_M).astype(np.uint8)
            # Where nobody has seen the surface, nobody knows what stands there.
            within &= cv2.morphologyEx(seen, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
            blocked = cv2.morphologyEx((heights > FLAT_M).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        for other in self.others:
            if other.id == support.id or support.id.startswith(f"{other.id}/level"):
                continue
            body = self.layout.body_of(other)
            bottom, top = body.hull[:, 2].min() - support.z_m, body.hull[:, 2].max() - support.z_m
            if top > FLAT_M and bottom < tall:
                blocked |= _filled(shape, low, body.outline)
        heights = np.maximum(heights, 0.0) if support.deep else None
        return _Ground(low, within, blocked, heights)

    def _candidates(self, support: _Support) -> list[tuple[float, np.ndarray]]:
        """(room_m, new_T_old of the object in the level frame), the most promising, spread over the support."""
        ground, centre, found = self._maps(support), self.level_T_box[:2, 3], []
        for degrees in _TURNS_DEG:
            turn = np.eye(4)
            c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            turn[:2, :2] = ((c, -s), (s, c))
            around = (self.body.outline - centre) @ turn[:2, :2].T
            kernel = _kernel(around, 0.0 if support.deep else _CLEARANCE_M)
            carried = _kernel((self._sole() - centre) @ turn[:2, :2].T, 0.0) if support.top else kernel
            fits = cv2.erode(ground.within, carried, borderType=cv2.BORDER_CONSTANT, borderValue=0)
            fits &= cv2.erode(1 - ground.blocked, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
            if not fits.any():
                continue
            room = cv2.distanceTransform(fits, cv2.DIST_L2, 3) * _CELL_M
            lowest = None
            if ground.heights is not None:
                foot = 0.8 * (self.body.foot - self.body.foot_centre) @ turn[:2, :2].T
                lowest = cv2.dilate(ground.heights, _kernel(foot, 0.0))
                fits &= lowest < lowest[fits > 0].min() + _SLIDES_M
            rows, columns = np.nonzero(fits)
            at = ground.low + np.column_stack((columns, rows)) * _CELL_M
            for k in _spread(at, self._promise(at, room[rows, columns], support)):
                new_T_old = turn.copy()
                new_T_old[:2, 3] = at[k] - turn[:2, :2] @ centre
                rest_m = support.z_m + (0.0 if lowest is None else float(lowest[rows[k], columns[k]]))
                new_T_old[2, 3] = rest_m + _DROP_M - self.low_m
                found.append((float(room[rows[k], columns[k]]), new_T_old))
        return found

    def _sole(self) -> np.ndarray:
        """The part of the foot that must be carried, Kx2."""
        middle = self.body.foot_centre
        return middle + _FOOT_SHARE * (self.body.foot - middle)

    def _promise(self, at: np.ndarray, room: np.ndarray, support: _Support) -> np.ndarray:
        """How likely the asked facts hold of places Nx2, before anybody measures: only the order counts."""
        worth = np.minimum(room, 0.03)
        half = 0.5 * float(self.body.size_m[:2].min())
        for fact in self.asked:
            if fact.relation == "at":
                d = self.layout.directions(fact.view or "viewer")
                margin = place_margin(support.border, at, fact.arguments[2], d["right"], d["forward"])
                worth = worth + np.minimum(margin, _DEEP_M)
            if fact.relation in _BESIDE:
                reference = self.layout.body(fact.arguments[1])
                gap = -depth_inside(reference.outline, at) - half
                worth = worth - np.abs(gap - _NEAR_M)
                if fact.relation in _TOWARDS:
                    axis, sign = _TOWARDS[fact.relation]
                    way = sign * self.layout.directions(fact.view or "viewer")[axis][:2]
                    beside = (at - reference.centre[:2]) @ np.array((-way[1], way[0]))
                    ahead = (at - reference.centre[:2]) @ way
                    worth = worth - np.abs(beside) - np.where(ahead > 0, 0.0, 1.0)
        return worth

    # -- judging --------------------------------------------------------------------------------------------------------
    def best(self, supports, grasps: Sequence[GraspTarget], given, most: int, ways: int) -> tuple[PlaceTarget, ...]:
        if not grasps:
            return (self.nowhere("no feasible grasp holds the object, so no place can be chosen for it", given),)
        rated, fault, nearly = [], "its free space is too small for the object", None
        for support in supports:
            if self.height_m + 0.01 > support.clear_m:
                fault = (
                    f"the object is {self.height_m:.3f} m high and the room above {support.id} {support.clear_m:.3f} m"
                )
                continue
            flat = self._flat(support)
            for room_m, new_T_old in self._candidates(support):
                if self._on_something(support, flat, new_T_old):
                    fault = f"something flat lies on {support.id} where it is free"
                    continue
                if _askew(self.layout, self.asked, (new_T_old @ self.level_T_box)[:2, 3]):
                    fault = "its free places are more aside than where it was asked for, or farther off"
                    continue
                measured = self._facts_at(new_T_old)
                worst = min(measured, key=facts.standing, default=None)
                if worst is not None and not _promised(worst):
                    nearly = worst if nearly is None else max(nearly, worst, key=facts.standing)
                    fault = f"of none of its free places it can be said: {nearly.relation} ({nearly.reason})"
                    continue
                rated.append((self._worth(room_m, new_T_old, measured), room_m, support, new_T_old, measured))
        rated = self._in_turn(rated)
        for fall_m in _FALLS_M if any(s.deep for s in supports) else (0.0,):
            chosen, hits = self._chosen(rated, grasps, given, most, ways, fall_m)
            if chosen:
                return chosen
            fault = fault if fall_m or not hits else hits
        if rated:
            _, room_m, support, new_T_old, measured = rated[0]
            ((release, _),) = self._hands(grasps[:1], new_T_old, support)
            index = _index(given, grasps[0])
            return (self._target(support, new_T_old, release, index, room_m, 0.0, fault, measured),)
        return (self.nowhere(f"no place on {', '.join(s.id for s in supports)}: {fault}", given),)

    def _chosen(
        self, rated, grasps: Sequence[GraspTarget], given, most: int, ways: int, fall_m: float
    ) -> tuple[tuple[PlaceTarget, ...], str]:
        """Of rated places those where a hand can come and go, the object let go fall_m above where it will rest; and why others cannot."""
        chosen: list[tuple[int, PlaceTarget]] = []
        spots: list[np.ndarray] = []
        fault = ""
        for worth, room_m, support, new_T_old, measured in rated[:_JUDGED]:
            if not all(_differ(new_T_old, other, self.level_T_box, turned=ways > 1) for other in spots):
                continue
            if fall_m and not self._guided(support, new_T_old, fall_m):
                continue
            fitting = 0
            for grasp, (release, hits) in zip(grasps, self._hands(grasps, new_T_old, support, fall_m)):
                if hits:
                    fault = f"the hand would touch {hits} at each of the best {min(len(rated), _JUDGED)} places"
                    continue
                target = self._target(support, new_T_old, release, _index(given, grasp), room_m, worth, "", measured)
                chosen.append((len(spots) + 2 * fitting, target))
                fitting += 1
                if fitting == ways:
                    break
            if fitting:
                spots.append(new_T_old)
            if len(spots) == most:
                break
        return tuple(target for _, target in sorted(chosen, key=lambda c: c[0])), fault  # neither place nor grasp first

    def _guided(self, support: _Support, new_T_old: np.ndarray, fall_m: float) -> bool:
        """Whether an object that is let go so high above its rest is in the opening already, so that it can only fall inside."""
        low_m = self.low_m + new_T_old[2, 3] + fall_m
        foot = self.body.outline @ new_T_old[:2, :2].T + new_T_old[:2, 3]
        return support.rim_m - low_m > _IN_THE_RIM_M and bool((depth_inside(support.border, foot) > 0).all())

    def _flat(self, support: _Support) -> np.ndarray:
        """What was measured of a surface or lies flat on it, Nx3 from its height; nothing for what is no plane."""
        above = self.points - (0.0, 0.0, support.z_m)
        return above[np.abs(above[:, 2]) < (0.0 if support.deep or support.top else FLAT_M)]

    def _on_something(self, support: _Support, flat: np.ndarray, new_T_old: np.ndarray) -> bool:
        """Whether all under a place is higher than its support, as the floor of a tray is that lies on a table, or lower."""
        foot = self.body.outline @ new_T_old[:2, :2].T + new_T_old[:2, 3]
        near = ((flat[:, :2] > foot.min(0)) & (flat[:, :2] < foot.max(0))).all(1)
        under = flat[near][depth_inside(foot, flat[near, :2]) > 0, 2]
        if len(under) < _EVEN_READINGS:
            return False
        spot = np.linalg.inv(self.level_T_frame[:3, :3]) @ np.append(foot.mean(0), support.z_m)
        return abs(float(np.median(under))) > uneven_m(self.cloud, spot)

    def _facts_at(self, new_T_old: np.ndarray) -> list[Fact]:
        """What was asked, measured with the object moved there."""
        frame = np.linalg.inv(self.level_T_frame) @ new_T_old @ self.level_T_frame
        rest = frame.copy()
        rest[:3, 3] -= np.linalg.inv(self.level_T_frame)[:3, 2] * _DROP_M
        layout = self.layout.with_moved(self.thing, rest)
        return [facts.measure(layout, f.relation, f.arguments, f.view or "viewer") for f in self.asked]

    def _worth(self, room_m: float, new_T_old: np.ndarray, measured: Sequence[Fact]) -> float:
        """0..1: how clear the facts are, how much room there is, how near a reference, and how straight left of it, behind it and so on."""
        clear = [min(1.0, f.margin_m / _clear_m(f)) for f in measured if not math.isnan(f.margin_m)]
        near, straight = 1.0, 1.0
        for fact in measured:
            if fact.relation in _BESIDE:
                offset = (new_T_old @ self.level_T_box)[:2, 3] - self.layout.body(fact.arguments[1]).centre[:2]
                near = max(0.0, 1.0 - max(0.0, float(np.linalg.norm(offset)) - 0.12) / 0.3)
                if fact.relation in _TOWARDS:
                    straight = 1.0 - _aside(self.layout, fact, offset) / _SKEW
        return 0.4 * min(clear, default=1.0) + 0.2 * min(1.0, room_m / 0.03) + 0.2 * near + 0.2 * straight

    def _in_turn(self, rated: list) -> list:
        """Best first, but that a few turns of each spot come before more turns of the best: an arm that cannot reach one way may another."""
        rated.sort(key=lambda r: -r[0])
        at = np.array([(r[3] @ self.level_T_box)[:3, 3] for r in rated]).reshape(-1, 3)
        near = np.linalg.norm(at[:, None] - at, axis=2) < _APART_M
        rank = [int(near[k, :k].sum()) // _TURNS_FIRST + _JUDGED * _doubtful(r[4]) for k, r in enumerate(rated)]
        return [rated[k] for k in np.argsort(rank, kind="stable")]

    def _hands(
        self, grasps: Sequence[GraspTarget], new_T_old: np.ndarray, support, fall_m: float = 0.0
    ) -> list[tuple[np.ndarray, str]]:
        """Of each grasp (release pose in the frame, what the hand would touch on its way there)."""
        new_T_old = new_T_old.copy()
        new_T_old[2, 3] += fall_m
        level_T_gripper = np.array([new_T_old @ self.level_T_frame @ g.frame_T_gripper for g in grasps])
        releases = np.linalg.inv(self.level_T_frame) @ level_T_gripper
        near = self.solid[np.linalg.norm(self.solid - level_T_gripper[:, :3, 3].mean(0), axis=1) < _HAND_REACH_M]
        turns = level_T_gripper[:, :3, :3].transpose(0, 2, 1)
        aside = -np.einsum("gij,gj->gi", turns, level_T_gripper[:, :3, 3])
        x, y, z = (turns.astype(np.float32) @ near.T + aside[:, :, None].astype(np.float32)).transpose(1, 0, 2)
        np.abs(x, out=x)
        np.abs(y, out=y)
        told = []
        for k, grasp in enumerate(grasps):
            hits = ""
            for name, low, high in hand_parts(grasp.width_m + max(RELEASE_M, 2 * self.gripper.clearance), self.gripper):
                beyond = low[2] - self.gripper.standoff  # the way it came
                inside = (x[k] < high[0]) & (y[k] > low[1]) & (y[k] < high[1]) & (z[k] > beyond) & (z[k] < high[2])
                if np.count_nonzero(inside) > 2:
                    above = near[inside, 2].mean() - support.z_m
                    hits = f"something {above:.2f} m above {support.id} with its {name}"
                    break
            told.append((releases[k], hits))
        return told

    def _target(self, support, new_T_old, release, grasp, room_m, quality, reason, measured) -> PlaceTarget:
        frame = np.linalg.inv(self.level_T_frame) @ new_T_old @ self.level_T_frame
        box = frame @ self.detection.frame_T_box
        box[:3, 3] -= np.linalg.inv(self.level_T_frame)[:3, 2] * _DROP_M
        return PlaceTarget(
            self.detection.id,
            support.id,
            self.cloud.frame_id,
            box,
            release,
            grasp,
            self.gripper.standoff,
            room_m,
            quality,
            not reason,
            reason,
            tuple(measured),
        )

    def nowhere(self, reason: str, grasps) -> PlaceTarget:
        pose = self.detection.frame_T_box
        hand = grasps[0].frame_T_gripper if grasps else pose
        return PlaceTarget(
            self.detection.id, "", self.cloud.frame_id, pose, hand, 0, self.gripper.standoff, 0.0, 0.0, False, reason
        )


def uneven_m(cloud: SceneCloud, spot_m: np.ndarray) -> float:
    """How far from a surface many readings about a spot (3, cloud.frame_id) can be while they are of it: cameras bend planes as they are noisy."""
    away_m = float((spot_m - cloud.frame_T_camera[:3, 3]) @ cloud.frame_T_camera[:3, 2])
    return max(_EVEN_M, _EVEN_SIGMAS * cloud.noise_per_m2 * away_m**2)


def _top(points: np.ndarray) -> np.ndarray:
    """The points Kx3 of a thing's top: of its highest part, or, where something small stands on what is wide and was taken for a part of
    it, of the wide one.
    """
    cells, at = np.unique(np.floor(points[:, :2] / 0.01).astype(int), axis=0, return_inverse=True)
    high = np.full(len(cells), -math.inf)
    np.maximum.at(high, at.ravel(), points[:, 2])
    top = float(np.percentile(points[:, 2], 99))
    wide = float(max(high, key=lambda z: np.count_nonzero(np.abs(high - z) < _TOP_M)))
    in_top = np.count_nonzero(high > top - _TOP_M)
    if wide < top - 2 * _TOP_M and in_top < _SMALL * np.count_nonzero(np.abs(high - wide) < _TOP_M):
        top = wide + _TOP_M / 2
    return points[(points[:, 2] > top - _TOP_M) & (points[:, 2] <= top + _TOP_M)]


def _filled(shape: tuple[int, int], low: np.ndarray, border: np.ndarray) -> np.ndarray:
    picture = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(picture, np.rint((border - low) / _CELL_M).astype(np.int32), 1)
    return picture


def _kernel(foot: np.ndarray, clearance_m: float) -> np.ndarray:
    """A convex footprint Kx2 about its origin as a picture, with its clearance."""
    reach = int(np.ceil((np.abs(foot).max() + clearance_m) / _CELL_M)) + 1
    kernel = np.zeros((2 * reach + 1,) * 2, np.uint8)
    cv2.fillConvexPoly(kernel, np.rint(foot / _CELL_M).astype(np.int32) + reach, 1)
    margin = round(clearance_m / _CELL_M)
    return cv2.dilate(kernel, np.ones((2 * margin + 1,) * 2, np.uint8)) if margin else kernel


def _spread(at: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """The best of each 2.5 cm, best first, at most _TRIED."""
    order = np.argsort(-worth, kind="stable")
    _, first = np.unique(np.floor(at[order] / 0.025).astype(int), axis=0, return_index=True)
    return order[np.sort(first)][:_TRIED]


def hand_parts(opening_m: float, gripper: GripperConfig) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Boxes of the hand in its own frame, the jaws opened by opening_m: (name, least corner, greatest corner) of its half at +y, the
    other is its reflection."""
    half, width, inner = gripper.finger_width / 2, gripper.palm_width / 2, opening_m / 2
    outer, root = inner + gripper.finger_thickness, -gripper.finger_length
    span, wrist = gripper.max_width / 2 + gripper.finger_thickness, root - _PALM_M
    return [
        ("finger", np.array((-half, inner, root)), np.array((half, outer, 0.0))),
        ("palm", np.array((-width, -span, wrist)), np.array((width, span, root))),
        (
            "wrist",
            np.array((-_ARM_RADIUS_M, -_ARM_RADIUS_M, wrist - _ARM_M)),
            np.array((_ARM_RADIUS_M, _ARM_RADIUS_M, wrist)),
        ),
    ]


def _index(grasps: Sequence[GraspTarget], grasp: GraspTarget) -> int:
    return next(k for k, g in enumerate(grasps) if g is grasp)


def _differ(a: np.ndarray, b: np.ndarray, level_T_box: np.ndarray, turned: bool) -> bool:
    """Whether two ways to move an object (new_T_old) put it to different places; turned: or turn it otherwise."""
    far = np.linalg.norm(((a - b) @ level_T_box)[:3, 3]) > _APART_M
    return bool(far or (turned and np.abs(a[:2, :2] - b[:2, :2]).max() > 0.1))


def _doubtful(measured: Sequence[Fact]) -> bool:
    return any(f.margin_m < _SURE_M.get(f.relation, _HOLDS_ELSE_M) for f in measured)


def _clear_m(fact: Fact) -> float:
    """The margin with which nobody would doubt a fact."""
    return max(_DEEP_M if fact.relation == "at" else 0.02, 4 * fact.sigma_m)


def _promised(fact: Fact) -> bool:
    """Whether a fact holds of the place itself; noise may still keep a look from telling it."""
    return fact.verdict is not Verdict.FALSE and fact.margin_m > _HOLDS_M.get(fact.relation, _HOLDS_ELSE_M)
