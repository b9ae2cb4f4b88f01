"""Orders that can be carried out in a drawn scene, and what must be true of the world when they were. Part of benchmarks/pick.py.

Words, scenes and truth come from the simulator alone: what an order means is judged by contacts and by where middles are, never by the
package's own facts. An order is invented only where the arm could do it: somewhere in view there is room for the thing, and the hand,
of 32 ways to be at its middle, has one in which it comes, lifts, carries and comes there, turned by a multiple of 90 degrees, and the
arm touches nothing. What was passed over because the arm could not is counted. That is necessary and not sufficient: a hand at the
middle of a bowl holds nothing. Whether an order that failed could have been carried out at all `feasible` tells, of grasps on the true mesh.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import cv2
import numpy as np
from grasp_physics import antipodal, true_surface
from orders import CLAUSES, HELD_OUT, corner_name, level_name
from tasks import LANGUAGES

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.sim.arm import OPEN_M, Arm
from qwen3vl_ros.sim.camera import SimView
from qwen3vl_ros.sim.furniture import world_T_shelf
from qwen3vl_ros.sim.layouts import exact_thing
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.pick_place import PickPlace
from qwen3vl_ros.sim.specs import ObjectSpec, SceneSpec

# What is asked in turn. "pick" takes a thing and no more, "back" takes it and puts it back.
RELATIONS = (
    *(
        "level",
        "next to",
        "on",
        "left of",
        "corner",
        "in",
        "right of",
        "pick",
        "level",
        "in front of",
        "corner",
        "behind",
    ),
    *("next to", "on", "back"),
)
_WHERE = {
    "en": {
        "level": ("on the {o} level of the shelf", "on the shelf's {o} level", "to the {o} level of the shelf"),
        "corner": ("in the {c} of the table", "to the {c} of the table", "at the {c} of the table"),
        "next to": ("next to the {b}", "in the free space next to the {b}"),
        "on": ("on the {b}", "onto the {b}", "on top of the {b}"),
        "in": ("in the {b}", "into the {b}", "inside the {b}"),
        "left of": ("to the left of the {b}", "left of the {b}"),
        "right of": ("to the right of the {b}", "right of the {b}"),
        "in front of": ("in front of the {b}",),
        "behind": ("behind the {b}",),
    },
    "zh": {
        "level": ("架子{o}", "架子的{o}", "架子{o}上"),
        "corner": ("桌子{c}", "桌子的{c}", "桌面{c}"),
        "next to": ("{b}旁边的空地", "{b}旁边"),
        "on": ("{b}上", "{b}上面"),
        "in": ("{b}里", "{b}里面"),
        "left of": ("{b}左边", "{b}的左侧"),
        "right of": ("{b}右边", "{b}的右侧"),
        "in front of": ("{b}前面",),
        "behind": ("{b}后面",),
    },
}
CORNERS = (
    "top left corner",
    "top right corner",
    "bottom left corner",
    "bottom right corner",
    "left side",
    "right side",
    "middle",
)
# Which third of the table that is, along the viewer's right and forward axes; None: any.
_THIRDS = dict(zip(CORNERS, ((-1, 1), (1, 1), (-1, -1), (1, -1), (-1, None), (1, None), (0, 0))))
_JAWS_M = 0.078  # what is wider in all directions cannot be held
_REACH_M = (0.28, 0.74)  # from the arm's base, level
_HELD_M, _APPROACH_M = 0.05, 0.08  # how wide the jaws are for what could be done, and from how far they come
# For what is feasible: opposed points that are tried, with four leans each; how far open jaws stand from the thing; postures of the arm;
# grasps that the arm can take it with, and spots where it tries to put it.
_PAIRS, _SPARE_M, _POSTURES, _TAKEN, _SPOTS = 120, 0.006, 12, 30, 8
_HAND_M = 0.035  # room around a thing for the fingers
_ABOVE_M = 0.10  # so high must the camera be above a board or a rim for anybody to see what lies there
_SEEN = 0.35  # of a board's top
_FAR_M = 0.30  # what is farther off is no longer beside a thing


class Asked(NamedTuple):
    """text: the order. steps: how a plan should read it. target, reference: numbers of objects; level, corner: where a place has them."""

    language: str
    text: str
    relation: str
    steps: tuple[Step, ...]
    target: int
    reference: int = -1
    level: int = 0
    corner: str = ""
    passed: int = 0  # orders that were passed over before this one, because the arm could not
    spots: tuple[np.ndarray, ...] = ()  # where the middle of its foot could be


class Directions(NamedTuple):
    """The viewer's level directions in the world."""

    right: np.ndarray
    forward: np.ndarray

    @classmethod
    def of(cls, world_T_camera: np.ndarray) -> Directions:
        forward = world_T_camera[:2, 2] / np.linalg.norm(world_T_camera[:2, 2])
        return cls(np.array((forward[1], -forward[0])), forward)

    def towards(self, relation: str) -> np.ndarray:
        return {
            "left of": -self.right,
            "right of": self.right,
            "in front of": -self.forward,
            "behind": self.forward,
        }[relation]


def invent(
    relation: str, language: str, spec: SceneSpec, view: SimView, arm: Arm, rng: np.random.Generator, passed: int = 0
) -> Asked | int:
    """An order of that kind for this scene; how many were passed over, with the `passed` before it, where none can be done."""
    table = _Table(spec, view, arm)
    for target in rng.permutation(table.movable())[:3]:
        wheres = table.wheres(relation, int(target))
        for k in rng.permutation(len(wheres))[:2]:
            reference, level, corner, spots = wheres[k]
            if table.possible(int(target), [spots[i] for i in rng.permutation(len(spots))[:4]]):
                asked = _worded(relation, language, spec, int(target), reference, level, corner, rng)
                pose = arm.world.pose(int(target))
                if relation in ("pick", "back") or placed(asked, arm.world, spec, view, pose):
                    return asked._replace(passed=passed, spots=tuple(spots))
                continue  # it is so already
            passed += 1
    return passed


def feasible(asked: Asked, spec: SceneSpec, view: SimView, arm: Arm, seed: int) -> bool:
    """Whether any of a few hundred grasps that oppose each other on the true mesh could take the thing and put it where it shall go, the
    open hand touching nothing, the thing itself included; turned by any multiple of 45 degrees."""
    return _Table(spec, view, arm).attainable(asked.target, asked.spots, np.random.default_rng((seed, 1)))


def _worded(relation, language, spec, target, reference, level, corner, rng) -> Asked:
    held_out = rng.random() < 0.5
    clauses, words = (HELD_OUT if held_out else CLAUSES)[language], LANGUAGES[language]

    def choose(options):
        return options[int(rng.integers(len(options)))]

    a = words.name(spec.objects[target].label)
    pick = Step("pick", a)
    if relation in ("pick", "back"):
        text, steps = choose(clauses["pick"]).format(a=a), (pick,)
        if relation == "back":
            text += {"en": ", then ", "zh": "，然后"}[language] + choose(clauses["back"]).removeprefix("再")
            steps = (pick, Step("place", a, "back"))
    else:
        b = words.name(spec.objects[reference].label) if reference >= 0 else ""
        o = level_name(language, level).replace("架子", "").split(" level")[0] if level else ""
        c = {"en": corner, "zh": corner_name("zh", corner).removeprefix("桌子")}[language] if corner else ""
        where = choose(_WHERE[language][relation]).format(b=b, o=o, c=c)
        text = choose(clauses["put"]).format(a=a, w=where)
        named = level_name(language, level) if level else corner_name(language, corner) if corner else b
        steps = (pick, Step("place", a, "on" if level or corner else relation, named))
    return Asked(language, text[0].upper() + text[1:], relation, steps, target, reference, level, corner)


class _Table:
    """Where what could be done in a scene, by its numbers. A spot is where the middle of a thing's foot could be, 3 in the world."""

    def __init__(self, spec: SceneSpec, view: SimView, arm: Arm):
        self.spec, self.view, self.arm, self._hand = spec, view, arm, PickPlace(arm)
        self.base = arm.world.data.body("arm/link0").xpos[:2]
        self.directions = Directions.of(view.world_T_camera)
        labels = [t.label for t in view.truths]
        self.alone = [
            t.index
            for t in view.truths
            if t.index < len(spec.objects) and t.visibility > 0.75 and t.fully_in_view and labels.count(t.label) == 1
        ]
        self.carries = {o.on for o in spec.objects if o.on is not None}

    def movable(self) -> list[int]:
        """Objects that jaws can hold, that carry nothing and are in reach."""
        return [
            k
            for k in self.alone
            if k not in self.carries
            and (o := self.spec.objects[k]).kind != "tray"
            and (min(o.size_m[:2]) < _JAWS_M or o.kind in ("mug", "bowl"))
            and self._reached(np.array(o.position_m[:2]))
        ]

    def wheres(self, relation: str, target: int) -> list[tuple[int, int, str, list[np.ndarray]]]:
        """(reference, level, corner, spots) to which the target could go."""
        if relation in ("pick", "back"):
            return [(-1, 0, "", [self._foot(target)])]
        if relation == "level":
            levels = range(1, self.spec.shelf.levels + 1) if self.spec.shelf else ()
            found = [(-1, k, "", self._spots_on(k, target)) for k in levels]
        elif relation == "corner":
            found = [(-1, 0, c, self._spots_in(c, target)) for c in CORNERS]
        else:
            found = [(r, 0, "", self._spots_at(relation, r, target)) for r in self.alone if r != target]
        return [f for f in found if f[3]]

    def possible(self, target: int, spots: list[np.ndarray]) -> bool:
        """Whether the arm can take the thing as it stands, and put it down in the same way on one of the spots, and touch nothing else."""
        world_T_thing, foot = self.arm.world.pose(target), self._foot(target)
        for grip in _hands(world_T_thing):
            if self._hand.why_not_pick(grip, _HELD_M, _APPROACH_M):
                continue
            for spot in spots:
                for turn in np.arange(4) * np.pi / 2:
                    there = _turned(turn, spot + (0, 0, 0.004), foot)
                    if np.allclose(spot, foot) or not self._hand.why_not_place(
                        target, (grip, _HELD_M), there @ grip, _APPROACH_M, turned=self._hand.would_turn
                    ):
                        return True
        return False

    def attainable(self, target: int, spots: Sequence[np.ndarray], rng: np.random.Generator) -> bool:
        taken, foot = 0, self._foot(target)
        few = [spots[i] for i in rng.permutation(len(spots))[:_SPOTS]]
        for pose, width in antipodal(*true_surface(self.spec, target, rng), GripperConfig(), rng, _PAIRS):
            opening = min(OPEN_M, width + 2 * _SPARE_M)
            self.arm.would_open(opening)
            hits = (self.arm.ways.blocked(q) for q in self.arm.reaches(pose, opening)[:_POSTURES])
            free = any(not hit for hit in hits)
            self.arm.would_open(None)
            if not free or self._hand.why_not_pick(pose, width, _APPROACH_M, opening):
                continue
            for spot in few:
                if np.allclose(spot, foot):
                    return True
                for turn in np.arange(8) * np.pi / 4:
                    there = _turned(turn, spot + (0, 0, 0.004), foot)
                    turned = self._hand.would_turn
                    if not self._hand.why_not_place(target, (pose, width), there @ pose, _APPROACH_M, turned=turned):
                        return True
            taken += 1
            if taken == _TAKEN:
                break
        return False

    def _foot(self, target: int) -> np.ndarray:
        thing = self.spec.objects[target]
        return np.array(thing.position_m) - (0, 0, thing.size_m[2] / 2)

    def _spots_on(self, level: int, target: int) -> list[np.ndarray]:
        shelf, thing = self.spec.shelf, self.spec.objects[target]
        top = shelf.board_top_m(level)
        hidden = (
            self.view.world_T_camera[2, 3] < top + _ABOVE_M
            or self.view.levels[level - 1].box_xyxy_px[3] > self.view.K[1, 2] * 2 - 4
        )
        if hidden or thing.level == level or thing.size_m[2] > shelf.room_m(level) - 0.02:
            return []
        pose, (width, depth) = world_T_shelf(shelf), shelf.size_m
        spare = width / 2 - reach(thing) - _HAND_M
        if reach(thing) > depth / 2 or spare < 0:
            return []
        spots = [pose[:2, 3] + pose[:2, 1] * at for at in np.linspace(-spare, spare, 9)]
        return [np.array((*s, top)) for s in spots if self._reached(s) and self._clear(s, target, level)]

    def _seen_of(self, level: int) -> float:
        """The share of a board's top that the camera sees."""
        shelf, pose = self.spec.shelf, world_T_shelf(self.spec.shelf)
        (width, depth), top = shelf.size_m, shelf.board_top_m(level)
        grid = np.stack(np.meshgrid(np.linspace(-0.47, 0.47, 12) * depth, np.linspace(-0.45, 0.45, 20) * width), -1)
        spots = np.column_stack((grid.reshape(-1, 2), np.full(240, top))) @ pose[:3, :3].T + (*pose[:2, 3], 0.0)
        camera = (spots - self.view.world_T_camera[:3, 3]) @ self.view.world_T_camera[:3, :3]
        pixels = (camera @ self.view.K.T)[:, :2] / camera[:, 2:]
        h, w = self.view.segmentation.shape
        at = np.rint(pixels).astype(int)
        within = (at >= 0).all(1) & (at[:, 0] < w) & (at[:, 1] < h)
        depth_m = self.view.depth_m[at[within, 1], at[within, 0]]
        return float(np.count_nonzero(np.abs(depth_m - camera[within, 2]) < 0.01) / len(spots))

    def _spots_in(self, corner: str, target: int) -> list[np.ndarray]:
        border, steps = seen_table(self.spec, self.view), np.arange(-0.6, 0.6, 0.04)
        spots = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        here = np.array(self.spec.objects[target].position_m[:2])
        if in_third(border, here, corner, self.directions) > -0.02 and not self.spec.objects[target].level:
            return []  # it is there already
        inside = [s for s in spots if in_third(border, s, corner, self.directions) > 0.02]
        return [np.array((*s, 0.0)) for s in inside if self._free(s, target)]

    def _spots_at(self, relation: str, reference: int, target: int) -> list[np.ndarray]:
        thing, other = self.spec.objects[target], self.spec.objects[reference]
        at, size = np.array(other.position_m[:2]), np.array(other.size_m)
        low = other.position_m[2] - size[2] / 2
        if thing.on == reference:
            return []
        if relation == "on" and other.kind == "tray":
            room = size[:2] / 2 * 0.9 - reach(thing) - 0.01
            turn = other.pose()[:2, :2]
            if (room < 0).any():
                return []
            grid = [at + turn @ (room * (x, y)) for x in np.linspace(-1, 1, 5) for y in np.linspace(-1, 1, 5)]
            return [
                np.array((*s, low + 0.006)) for s in grid if self._reached(s) and self._clear(s, target, on=reference)
            ]
        if relation == "on":
            flat = thing.kind != "ball" and other.kind in ("box", "cube") and reference not in self.carries
            wide = min(size[:2]) > 0.7 * min(thing.size_m[:2])
            return [np.array((*at, low + size[2]))] if flat and wide and self._reached(at) else []
        if relation == "in":
            opening = {"bowl": 0.86 * size[1], "mug": 0.8 * size[1]}.get(other.kind, 0.0)
            seen_into = self.view.world_T_camera[2, 3] > low + size[2] + _ABOVE_M
            fits = seen_into and 2 * reach(thing) < opening - 0.012
            fits = fits and reference not in self.carries and self._reached(at)
            return [np.array((*at, low + 0.012))] if fits else []
        if other.on is not None or other.level:
            return []
        if relation == "next to":
            ways, gaps = (
                [np.array((math.cos(a), math.sin(a))) for a in np.arange(0, 2 * np.pi, np.pi / 6)],
                (0.03, 0.06),
            )
        else:
            ways, gaps = [self.directions.towards(relation)], (0.03, 0.06, 0.10)
        spots = [at + way * (reach(other) + reach(thing) + gap) for way in ways for gap in gaps]
        return [np.array((*s, 0.0)) for s in spots if self._free(s, target)]

    def _reached(self, spot: np.ndarray) -> bool:
        return bool(_REACH_M[0] < np.linalg.norm(spot - self.base) < _REACH_M[1])

    def _free(self, spot: np.ndarray, target: int) -> bool:
        """On the table, in view and in reach, with room around it."""
        table = self.spec.table
        c, s = np.cos(table.yaw_rad), np.sin(table.yaw_rad)
        own = np.array(((c, s), (-s, c))) @ spot
        if (np.abs(own) > np.array(table.half_size_m) - 0.06).any() or not self._reached(spot):
            return False
        pixel = self.view.K @ (np.linalg.inv(self.view.world_T_camera) @ (*spot, 0.02, 1.0))[:3]
        h, w = self.view.segmentation.shape
        x, y = pixel[:2] / pixel[2]
        if pixel[2] < 0.1 or not (30 < x < w - 30 and 30 < y < h - 30) or self.view.segmentation[int(y), int(x)] >= 0:
            return False
        return self._clear(spot, target)

    def _clear(self, spot: np.ndarray, target: int, level: int = 0, on: int | None = None) -> bool:
        """Whether nothing else on that support stands so near that a hand could not come."""
        own = reach(self.spec.objects[target]) + _HAND_M
        for k, other in enumerate(self.spec.objects):
            if k in (target, on) or other.level != level or (on is not None and other.on != on):
                continue
            if np.linalg.norm(spot - other.position_m[:2]) < own + reach(other):
                return False
        if level or on is not None:
            return True
        if self.spec.shelf is not None:
            pose, (width, depth) = world_T_shelf(self.spec.shelf), self.spec.shelf.size_m
            local = pose[:2, :2].T @ (spot - pose[:2, 3])
            if (np.abs(local) < np.array((depth, width)) / 2 + own).all():
                return False
        fixed = [t for t in (self.spec.gauge, self.spec.sign) if t is not None]
        return all(np.linalg.norm(spot - t.position_m[:2]) > own + 0.09 for t in fixed)


def _turned(turn_rad: float, spot: np.ndarray, foot: np.ndarray) -> np.ndarray:
    """The move that turns a thing about the vertical and brings its foot to a spot, 4x4."""
    there = np.eye(4)
    there[:2, :2] = ((np.cos(turn_rad), -np.sin(turn_rad)), (np.sin(turn_rad), np.cos(turn_rad)))
    there[:3, 3] = spot - there[:3, :3] @ foot
    return there


def _hands(world_T_thing: np.ndarray) -> list[np.ndarray]:
    """Poses of the gripper about the middle of a thing: from above, leaning and level, from all sides; 4x4 each."""
    found, yaw = [], math.atan2(world_T_thing[1, 0], world_T_thing[0, 0])
    for lean in np.radians((0, 35, 70, 88)):
        for way in yaw + np.arange(8) * np.pi / 4:
            approach = np.array((math.sin(lean) * math.cos(way), math.sin(lean) * math.sin(way), -math.cos(lean)))
            closing = np.array((-math.sin(way), math.cos(way), 0.0))
            pose = world_T_thing.copy()
            pose[:3, :3] = np.stack((np.cross(closing, approach), closing, approach), 1)
            found.append(pose)
    return found


def reach(thing: ObjectSpec) -> float:
    """Radius of its footprint."""
    square = thing.kind in ("cube", "box", "mug", "tray")
    return float(np.hypot(*thing.size_m[:2]) / 2 if square else thing.size_m[0] / 2)


def seen_table(spec: SceneSpec, view: SimView) -> np.ndarray:
    """Outline Kx2 of that part of the table which the camera looks at: what is top and left of it is said of a picture."""
    (hx, hy), yaw = spec.table.half_size_m, spec.table.yaw_rad
    turn = np.array(((np.cos(yaw), -np.sin(yaw)), (np.sin(yaw), np.cos(yaw))))
    grid = np.stack(np.meshgrid(np.arange(-hx, hx + 0.005, 0.01), np.arange(-hy, hy + 0.005, 0.01)), -1).reshape(-1, 2)
    spots = grid @ turn.T
    camera = np.column_stack((spots, np.zeros(len(spots)), np.ones(len(spots)))) @ np.linalg.inv(view.world_T_camera).T
    pixels = camera[:, :3] @ view.K.T
    h, w = view.segmentation.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
    within = (pixels[:, 2] > 0.05) & (x > 0) & (x < w) & (y > 0) & (y < h)
    return cv2.convexHull(spots[within].astype(np.float32))[:, 0].astype(float)


def in_third(border: np.ndarray, spot: np.ndarray, corner: str, directions: Directions) -> float:
    """How far a spot is inside the third of the outline that the corner names, metres."""
    margin = math.inf
    for wanted, axis in zip(_THIRDS[corner], directions):
        if wanted is None:
            continue
        along, at = border @ axis, float(spot @ axis)
        low, high = along.min() + np.ptp(along) / 3, along.max() - np.ptp(along) / 3
        margin = min(margin, {-1: low - at, 0: min(at - low, high - at), 1: at - high}[wanted])
    return margin


# -- what is true afterwards ----------------------------------------------------------------------------------------------


def placed(asked: Asked, world: PhysicalWorld, spec: SceneSpec, view: SimView, start: np.ndarray) -> str:
    """Why the target is not where the order wants it in the world as it is; "" where it is. start: its pose before."""
    at, name = world.pose(asked.target)[:3, 3], spec.objects[asked.target].label
    if asked.relation == "back":
        off = float(np.linalg.norm(at - start[:3, 3]))
        return f"the {name} is {100 * off:.0f} cm from where it was" if off > 0.04 else ""
    carriers = _carriers(world, asked.target)
    if asked.level:
        board = f"shelf{asked.level - 1}"
        return "" if board in carriers else f"the {name} rests on {carriers or 'nothing'}, not on {board}"
    directions = Directions.of(view.world_T_camera)
    if asked.corner:
        if "table" not in carriers:
            return f"the {name} rests on {carriers or 'nothing'}, not on the table"
        margin = in_third(seen_table(spec, view), at[:2], asked.corner, directions)
        return "" if margin > 0 else f"the {name} is {-100 * margin:.0f} cm outside the {asked.corner}"
    middle = world.pose(asked.reference)[:3, 3]
    other = f"object{asked.reference}"
    if asked.relation == "on":
        return "" if other in carriers else f"the {name} rests on {carriers or 'nothing'}, not on {other}"
    if asked.relation == "in":
        hollow = exact_thing(world.spec(), asked.reference).inside
        rim = cv2.convexHull(hollow.rim_m[:, :2].astype(np.float32))
        within = cv2.pointPolygonTest(rim, tuple(map(float, at[:2])), False) > 0
        low = exact_thing(world.spec(), asked.target).seen_m[:, 2].min() < hollow.rim_m[:, 2].mean()
        return "" if within and low and other in carriers else f"the {name} is not in {other}"
    offset = at[:2] - middle[:2]
    gap = np.linalg.norm(offset) - reach(spec.objects[asked.target]) - reach(spec.objects[asked.reference])
    if gap > (0.10 if asked.relation == "next to" else _FAR_M):
        return f"the {name} is {100 * gap:.0f} cm off"
    if asked.relation == "next to":
        return "" if not {other} & carriers else f"the {name} rests on {other}"
    way = directions.towards(asked.relation)
    along, across = float(offset @ way), abs(float(offset @ np.array((-way[1], way[0]))))
    return (
        ""
        if along > 0 and across < along
        else f"the {name} is {100 * along:.0f} cm {asked.relation}, {100 * across:.0f} aside"
    )


def _carriers(world: PhysicalWorld, target: int) -> set[str]:
    """What touches an object from below: names of objects and of pieces of furniture."""
    model, data, found = world.model, world.data, set()
    own = model.body(f"object{target}").id
    for contact in data.contact[: data.ncon]:
        bodies = [model.geom_bodyid[g] for g in contact.geom]
        if own not in bodies or contact.dist > 0.001:
            continue
        k = 1 - bodies.index(own)
        below = contact.pos[2] < data.xpos[own][2]
        if below:
            found.add(model.body(bodies[k]).name if bodies[k] else model.geom(contact.geom[k]).name)
    return found


def fallen(world: PhysicalWorld, before: list[np.ndarray], but: int) -> list[int]:
    """Other objects that are more than 3 cm from where they were."""
    return [
        k for k, pose in enumerate(before) if k != but and np.linalg.norm(world.pose(k)[:3, 3] - pose[:3, 3]) > 0.03
    ]


def stand(spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
    """Where a person would bolt the arm down: 4x4, beside the table's middle as the camera sees it, looking across; on the side to which
    a shelf opens, where there is one.
    """
    right, either = Directions.of(spec.camera.world_T_camera()).right, rng.random()
    towards = right @ world_T_shelf(spec.shelf)[:2, 0] if spec.shelf is not None else 0.5 - either
    side = right * (1 if towards > 0 else -1)
    base = np.eye(4)
    base[:2, 3], base[:2, 0], base[:2, 1] = 0.45 * side, -side, (side[1], -side[0])
    return base
