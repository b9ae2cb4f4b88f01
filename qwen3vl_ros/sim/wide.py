"""The seeded sampler of the wider world: boxes, a tray, a shelf, a sign, dials with zones, and things on and in things.

`sample_scene` keeps inventing the plain table-top of the same seed; this one adds to it. Knows nothing of MuJoCo,
images or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from qwen3vl_ros.sim import scenes
from qwen3vl_ros.sim.furniture import PANEL_M, box_corners, shelf_parts, sign_parts, world_T_shelf
from qwen3vl_ros.sim.specs import (
    BAR_IN_PSI,
    COLOURS,
    GAUGE_SCALES,
    KINDS,
    MORE_GAUGE_SCALES,
    MORE_TABLE_TEXTURES,
    SIGN_TEXTS,
    SIGN_WORDS,
    TABLE_TEXTURES,
    CameraSpec,
    GaugeSpec,
    LightSpec,
    ObjectSpec,
    SceneSpec,
    ShelfSpec,
    SignSpec,
    TableSpec,
)

BOWL_FLOOR = 0.17  # height of a bowl's inner floor over its own
TRAY_FLOOR = 0.25
_SMALL_M = (0.035, 0.05)  # side of what stands in a bowl or on a box
_WOODS = ((0.72, 0.55, 0.36), (0.55, 0.38, 0.24), (0.85, 0.83, 0.80), (0.35, 0.30, 0.28), (0.62, 0.64, 0.66))
_TRIES = 60


@dataclass
class _Bench:
    """What is placed already, while a scene is being made. taken: (xy, radius) of circles on the table."""

    rng: np.random.Generator
    camera: CameraSpec
    objects: list[ObjectSpec] = field(default_factory=list)
    taken: list[tuple[np.ndarray, float]] = field(default_factory=list)

    def free(self, xy: np.ndarray, reach: float) -> bool:
        return all(np.linalg.norm(xy - other) > reach + r + 0.006 for other, r in self.taken)

    def seen(self, points_m, margin: float = 0.004) -> bool:
        return scenes._margin(self.camera, np.asarray(points_m)) > margin

    def towards(self) -> np.ndarray:
        """Unit vector on the table from what the camera looks at to the camera."""
        way = np.subtract(self.camera.eye_m, self.camera.look_at_m)[:2]
        return way / np.linalg.norm(way)

    def spot(self, forth: tuple[float, float], aside: float) -> np.ndarray:
        """A random place on the table: metres towards the camera, and to either side."""
        near = self.towards()
        return near * self.rng.uniform(*forth) + np.array((-near[1], near[0])) * self.rng.uniform(-aside, aside)


def sample_wide_scene(seed: int) -> SceneSpec:
    """A scene of the wider world that depends on its seed alone."""
    rng = np.random.default_rng([0x51C3, int(seed), 7])
    while True:
        with_shelf, with_dial = rng.random() < 0.36, rng.random() < 0.28
        with_sign = rng.random() < (0.35 if with_dial else 0.25)
        levels = int(rng.choice((2, 3), p=(0.65, 0.35))) if with_shelf else 0
        bench = _Bench(rng, _camera(rng, levels, with_dial or with_sign))
        shelf = _shelf(bench, levels) if with_shelf else None
        dial = _dial(bench) if with_dial else None
        sign = _sign(bench) if with_sign else None
        if any(wanted and it is None for wanted, it in ((with_shelf, shelf), (with_dial, dial), (with_sign, sign))):
            continue
        if shelf is not None:
            _fill_shelf(bench, shelf)
        if rng.random() < 0.4:
            _tray(bench)
        if rng.random() < 0.5:
            _stack(bench)
        wanted = int(rng.integers(0 if bench.objects else 1, 4 if shelf or dial else 6))
        for _ in range(wanted):
            _stand(bench, dial)
        if bench.objects:
            break
    return SceneSpec(
        int(seed), tuple(bench.objects), dial, _table(rng), _light(rng), bench.camera, _background(rng), shelf, sign
    )


def sample_close_up(seed: int) -> SceneSpec:
    """A dial or a sign that fills much of the picture, as a look at a part of a larger picture shows it."""
    rng = np.random.default_rng([0x51C3, int(seed), 8])
    share, elevation = rng.uniform(0.34, 0.82), np.deg2rad(rng.uniform(4, 42))
    azimuth, aim = rng.uniform(-np.pi, np.pi), rng.uniform(-0.02, 0.02, 3)
    yaw, tilt = azimuth + np.deg2rad(rng.uniform(-30, 30)), float(np.deg2rad(rng.uniform(3, 35)))
    dial = sign = None
    if rng.random() < 0.6:
        radius = float(rng.uniform(0.055, 0.09))
        height = radius * float(np.cos(tilt)) + 0.014
        case = str(rng.choice(["black", "white", "blue", "red"], p=[0.5, 0.2, 0.15, 0.15]))
        dial = repaint_dial(GaugeSpec((0, 0, height), float(yaw), tilt, radius, 0.0, 1.0, "bar", 0.0, case), rng)
        extent = 2 * radius
    else:
        width = float(rng.uniform(0.10, 0.17))
        height = 0.3 * width * float(np.cos(tilt)) + 0.008
        sign = _worded(rng, (0, 0, height), float(yaw), tilt, (width, 0.6 * width))
        extent = 0.75 * width
    distance = extent / (share * 2 * np.tan(scenes._NOMINAL_FOVY_RAD / 2))
    target = np.array((0, 0, height)) + aim * extent * 5
    way = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    roll = float(np.deg2rad(np.clip(rng.normal(0, 3), -8, 8)))
    camera = CameraSpec(
        tuple(map(float, target + max(distance, 0.16) * np.array(way))), tuple(map(float, target)), roll
    )
    bench = _Bench(rng, camera, taken=[(np.zeros(2), 0.1)])
    for _ in range(int(rng.integers(0, 3))):
        name = _name(bench, (*KINDS, "box"))
        size, xy = _size(rng, name[0]), bench.spot((-0.35, -0.02), 0.25)
        if bench.free(xy, _reach(name[0], size)):
            bench.taken.append((xy, _reach(name[0], size)))
            bench.objects.append(_object(bench, name, size, (*xy, size[2] / 2), float(rng.uniform(-np.pi, np.pi))))
    return SceneSpec(
        int(seed), tuple(bench.objects), dial, _table(rng), _light(rng), camera, _background(rng), None, sign
    )


def _camera(rng: np.random.Generator, levels: int, upright: bool) -> CameraSpec:
    if levels:
        elevation, distance = np.deg2rad(rng.uniform(14, 32)), rng.uniform(0.78, 1.0) + 0.22 * (levels - 2)
        height = 0.10 + 0.09 * (levels - 2)
    else:
        elevation = np.deg2rad(rng.uniform(24, 48) if upright else rng.uniform(26, 75))
        distance, height = rng.uniform(0.48, 0.85), 0.03
    azimuth = rng.uniform(-np.pi, np.pi)
    target = np.array((*rng.uniform(-0.03, 0.03, 2), height + rng.uniform(-0.02, 0.02)))
    way = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    eye = target + distance * np.array(way)
    return CameraSpec(
        tuple(map(float, eye)), tuple(map(float, target)), float(np.deg2rad(np.clip(rng.normal(0, 2), -5, 5)))
    )


def _shelf(bench: _Bench, levels: int) -> ShelfSpec | None:
    rng = bench.rng
    for _ in range(_TRIES):
        size = float(rng.uniform(0.30, 0.46)), float(rng.uniform(0.18, 0.26))
        xy = bench.spot((-0.26, -0.12), 0.10)
        yaw = np.arctan2(*bench.towards()[::-1]) + np.deg2rad(rng.uniform(-18, 18))
        wood = np.array(_WOODS[rng.integers(len(_WOODS))]) * rng.uniform(0.85, 1.1)
        shelf = ShelfSpec(
            tuple(map(float, xy)),
            float(yaw),
            size,
            levels,
            float(rng.uniform(0.22, 0.25)),
            tuple(map(float, np.clip(wood, 0, 0.95))),
        )
        if bench.seen(np.concatenate([box_corners(p) for p in shelf_parts(shelf)]), -0.03):
            along = np.array((-np.sin(yaw), np.cos(yaw)))
            for share in (-0.5, -0.25, 0, 0.25, 0.5):
                bench.taken.append((xy + along * share * size[0], size[1] * 0.62))
            return shelf
    return None


def _fill_shelf(bench: _Bench, shelf: ShelfSpec) -> None:
    pose, (width, depth) = world_T_shelf(shelf), shelf.size_m
    for level in range(1, shelf.levels + 1):
        along: list[tuple[float, float]] = []
        for _ in range(int(bench.rng.choice((0, 1, 2), p=(0.35, 0.4, 0.25)))):
            name = _name(bench, (*KINDS, "box"))
            size, yaw = _size(bench.rng, name[0]), float(bench.rng.uniform(-np.pi, np.pi))
            reach = _reach(name[0], size)
            room = width / 2 - PANEL_M - reach - 0.004
            if reach > depth / 2 or size[2] > shelf.room_m(level) - 0.02 or room < 0:
                continue
            at = float(bench.rng.uniform(-room, room))
            if any(abs(at - other) < reach + r + 0.006 for other, r in along):
                continue
            spare = depth / 2 - reach
            local = (bench.rng.uniform(-spare, spare), at, shelf.board_top_m(level) + size[2] / 2)
            thing = _object(bench, name, size, pose[:3, :3] @ local + pose[:3, 3], yaw, level=level)
            if bench.seen(scenes._box_corners(thing.position_m, size, yaw)):
                bench.objects.append(thing)
                along.append((at, reach))


def _dial(bench: _Bench) -> GaugeSpec | None:
    rng = bench.rng
    radius, tilt = float(rng.uniform(0.055, 0.09)), float(np.deg2rad(rng.uniform(3, 35)))
    for _ in range(_TRIES):
        xy = bench.spot((-0.10, 0.16), 0.20)
        position = (*map(float, xy), radius * float(np.cos(tilt)) + 0.014)
        if bench.free(xy, radius + 0.012) and bench.seen(scenes._box_corners(position, (2 * radius,) * 3, 0.0), 0.02):
            break
    else:
        return None
    bench.taken.append((xy, radius + 0.012))
    towards = np.arctan2(*np.subtract(bench.camera.eye_m[:2], xy)[::-1])
    yaw = float(towards + np.deg2rad(rng.uniform(-28, 28)))
    colour = str(rng.choice(["black", "white", "blue", "red"], p=[0.5, 0.2, 0.15, 0.15]))
    return repaint_dial(GaugeSpec(position, yaw, tilt, radius, 0.0, 1.0, "bar", 0.0, colour), rng)


def repaint_dial(dial: GaugeSpec, rng: np.random.Generator) -> GaugeSpec:
    """The same case with another face: scale, zones, perhaps a second scale, needle and value."""
    scales = GAUGE_SCALES + MORE_GAUGE_SCALES
    unit, low, high = scales[rng.integers(len(scales))]
    zones, span = (), high - low
    if rng.random() < 0.65:
        red = 0.64 if (unit, high) == ("MPa", 2.5) and rng.random() < 0.7 else float(rng.integers(11, 19)) / 20
        cuts = [round(low + share * span, 4) for share in (0.0, red - 0.2, red, 1.0)]
        zones = ((cuts[2], high, "red"),)
        if rng.random() < 0.7:
            zones = ((cuts[0] if rng.random() < 0.5 else round(low + 0.2 * span, 4), cuts[1], "green"), *zones)
            if rng.random() < 0.7:
                zones = (zones[0], (cuts[1], cuts[2], "yellow"), zones[1])
    inner = ("", 0.0)
    if unit in ("bar", "psi") and rng.random() < 0.5:
        whole = high * (BAR_IN_PSI if unit == "bar" else 1 / BAR_IN_PSI)
        other = [m for u, n, m in scales if u == {"bar": "psi", "psi": "bar"}[unit] and n == 0 and m <= whole]
        inner = ("psi" if unit == "bar" else "bar", max(other)) if other else inner
    return replace(
        dial,
        unit=unit,
        minimum=low,
        maximum=high,
        value=scenes.dial_value(rng, low, high),
        needle_colour=str(rng.choice(["red", "black"], p=[0.3, 0.7] if zones else [0.5, 0.5])),
        face="white" if rng.random() < 0.8 else "cream",
        zones=zones,
        inner=inner,
    )


def _sign(bench: _Bench) -> SignSpec | None:
    rng = bench.rng
    width = float(rng.uniform(0.10, 0.17))
    size = width, 0.6 * width
    tilt = float(np.deg2rad(rng.uniform(4, 30)))
    for _ in range(_TRIES):
        xy = bench.spot((-0.14, 0.16), 0.22)
        towards = np.arctan2(*np.subtract(bench.camera.eye_m[:2], xy)[::-1])
        height = size[1] / 2 * float(np.cos(tilt)) + 0.008
        yaw = float(towards + np.deg2rad(rng.uniform(-28, 28)))
        sign = _worded(rng, (*map(float, xy), height), yaw, tilt, size)
        if bench.free(xy, size[0] / 2) and bench.seen(np.concatenate([box_corners(p) for p in sign_parts(sign)]), 0.01):
            bench.taken.append((xy, size[0] / 2))
            return sign
    return None


def _worded(rng: np.random.Generator, position_m, yaw: float, tilt: float, size_m) -> SignSpec:
    colour, text = str(rng.choice(list(COLOURS))), str(rng.choice(SIGN_WORDS if rng.random() < 0.65 else SIGN_TEXTS))
    ink = "black" if colour in ("white", "yellow", "orange") else "white"
    return SignSpec(position_m, yaw, tilt, size_m, text, colour, ink)


def _tray(bench: _Bench) -> None:
    """A tray, and up to two things on it."""
    rng, name = bench.rng, _name(bench, ("tray",))
    size = float(rng.uniform(0.20, 0.29)), float(rng.uniform(0.15, 0.21)), float(rng.uniform(0.018, 0.026))
    for _ in range(_TRIES):
        xy, yaw = bench.spot((-0.12, 0.16), 0.18), float(rng.uniform(-np.pi, np.pi))
        reach = 0.5 * float(np.hypot(*size[:2])) * 0.94
        position = (*map(float, xy), size[2] / 2)
        if bench.free(xy, reach) and bench.seen(scenes._box_corners(position, size, yaw), -0.02):
            break
    else:
        return
    tray = _object(bench, name, size, position, yaw)
    bench.taken.append((xy, reach))
    bench.objects.append(tray)
    index, inside = len(bench.objects) - 1, []
    turn = np.array(((np.cos(yaw), -np.sin(yaw)), (np.sin(yaw), np.cos(yaw))))
    for _ in range(int(rng.choice((0, 1, 2), p=(0.35, 0.45, 0.2)))):
        name = _name(bench, (*KINDS, "box"))
        thing = _size(rng, name[0])
        reach = _reach(name[0], thing)
        room = np.array(size[:2]) / 2 * 0.92 - reach
        if (room < 0).any():
            continue
        at = rng.uniform(-room, room)
        if all(np.linalg.norm(at - other) > reach + r + 0.004 for other, r in inside):
            place = (*(xy + turn @ at), TRAY_FLOOR * size[2] + thing[2] / 2)
            bench.objects.append(_object(bench, name, thing, place, float(rng.uniform(-np.pi, np.pi)), on=index))
            inside.append((at, reach))


def _stack(bench: _Bench) -> None:
    """A bowl with something small in it, or a box or a cube with something small on it."""
    rng = bench.rng
    below = _name(bench, ("bowl", "box", "cube"))
    size = _size(rng, below[0])
    if below[0] == "box":
        size = float(rng.uniform(0.09, 0.13)), float(rng.uniform(0.065, 0.09)), float(rng.uniform(0.035, 0.06))
    place = _free_place(bench, below[0], size)
    if place is None:
        return
    bench.objects.append(_object(bench, below, size, *place))
    index, side = len(bench.objects) - 1, float(rng.uniform(*_SMALL_M))
    kinds = ("ball", "cube") if below[0] == "bowl" else ("cube", "cylinder", "box", "mug")
    name = _name(bench, kinds)
    small = {
        "ball": (side,) * 3,
        "cube": (side * 0.8 if below[0] == "bowl" else side,) * 3,
        "cylinder": (side * 0.9, side * 0.9, side * 1.5),
        "box": (side * 1.3, side * 0.8, side * 0.8),
        "mug": (side * scenes.MUG_HANDLE_RATIO, side, side * 1.1),
    }[name[0]]
    (x, y, _), yaw = place[0], float(rng.uniform(-np.pi, np.pi))
    floor = size[2] * (BOWL_FLOOR if below[0] == "bowl" else 1.0) + (0.003 if below[0] == "bowl" else 0.0)
    thing = _object(bench, name, small, (x, y, floor + small[2] / 2), yaw, on=index)
    bench.objects.append(thing)


def _stand(bench: _Bench, dial: GaugeSpec | None) -> None:
    """One more thing on the table."""
    name = _name(bench, (*KINDS, "box", "box"))
    size = _size(bench.rng, name[0])
    place = _free_place(bench, name[0], size, dial)
    if place is not None:
        bench.objects.append(_object(bench, name, size, *place))


def _free_place(bench: _Bench, kind: str, size, dial: GaugeSpec | None = None):
    """(position, yaw) on the table where a thing touches nothing, is seen and hides no dial; None where none is found."""
    reach, (forth, aside) = _reach(kind, size), ((-0.18, 0.24), 0.26)
    for _ in range(_TRIES):
        xy, yaw = bench.spot(forth, aside), float(bench.rng.uniform(-np.pi, np.pi))
        position = (*map(float, xy), size[2] / 2)
        if not bench.free(xy, reach) or not bench.seen(scenes._box_corners(position, size, yaw)):
            continue
        if dial is not None and scenes._hides_dial(bench.camera, dial, position, size):
            continue
        bench.taken.append((xy, reach))
        return position, yaw
    return None


def _name(bench: _Bench, kinds: tuple[str, ...]) -> tuple[str, str]:
    """(kind, colour), seldom one that is there already."""
    there = {(o.kind, o.colour) for o in bench.objects}
    for _ in range(8):
        pair = str(bench.rng.choice(kinds)), str(bench.rng.choice(list(COLOURS)))
        if pair not in there or bench.rng.random() < 0.1:
            break
    return pair


def _size(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
    if kind != "box":
        return scenes._sample_size(rng, kind)
    long = float(rng.uniform(0.07, 0.13))
    sides = [long, float(long * rng.uniform(0.4, 0.65)), float(long * rng.uniform(0.4, 0.7))]
    order = (0, 1, 2) if rng.random() < 0.7 else (1, 2, 0)
    x, y, z = (max(sides[i], 0.03) for i in order)
    return x, y, z


def _reach(kind: str, size) -> float:
    return float(np.hypot(size[0], size[1]) / 2 if kind in ("cube", "box", "mug", "tray") else size[0] / 2)


def _object(bench: _Bench, name: tuple[str, str], size, position, yaw: float, on=None, level: int = 0) -> ObjectSpec:
    kind, colour = name
    return ObjectSpec(
        kind,
        colour,
        tuple(size),
        tuple(map(float, position)),
        yaw,
        scenes._shade(bench.rng, colour),
        on=on,
        level=level,
    )


def _table(rng: np.random.Generator) -> TableSpec:
    table = scenes._sample_table(rng)
    textures = TABLE_TEXTURES + MORE_TABLE_TEXTURES
    rgb = np.array(table.rgb)
    if rng.random() < 0.3:  # a painted table
        rgb = np.clip(rng.uniform(0.25, 0.85) + rng.uniform(-0.16, 0.16, 3), 0.05, 0.95)
    half = (float(rng.uniform(0.5, 0.7)), float(rng.uniform(0.42, 0.56)))
    return replace(table, texture=str(rng.choice(textures)), rgb=tuple(map(float, rgb)), half_size_m=half)


def _light(rng: np.random.Generator) -> LightSpec:
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(35, 85))
    way = (-np.cos(elevation) * np.cos(azimuth), -np.cos(elevation) * np.sin(azimuth), -np.sin(elevation))
    key, ambient, fill, warmth = (rng.uniform(*r) for r in ((0.35, 0.88), (0.24, 0.52), (0.08, 0.30), (-1.5, 1.5)))
    return LightSpec(tuple(map(float, way)), float(key), float(ambient), float(fill), float(warmth))


def _background(rng: np.random.Generator) -> tuple[float, float, float]:
    spread = 0.08 if rng.random() < 0.6 else 0.25
    return tuple(float(v) for v in np.clip(rng.uniform(0.2, 0.9) + rng.uniform(-spread, spread, 3), 0.02, 1))
