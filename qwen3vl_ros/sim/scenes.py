"""The seeded sampler that invents table-top scenes.

The training data of the embedded model and the demo come from this one sampler, so both see the same world. Knows
nothing of MuJoCo, images or ROS.
"""

from __future__ import annotations

import numpy as np

from qwen3vl_ros.sim.shapes import MUG_HANDLE_RATIO
from qwen3vl_ros.sim.specs import (
    COLOURS,
    FOVY_DEG,
    GAUGE_SCALES,
    KINDS,
    TABLE_TEXTURES,
    TABLE_TINTS,
    CameraSpec,
    GaugeSpec,
    LightSpec,
    ObjectSpec,
    SceneSpec,
    TableSpec,
    look_at,
)
from qwen3vl_ros.types import InvalidInput

__all__ = [
    "COLOURS",
    "GAUGE_SCALES",
    "KINDS",
    "CameraSpec",
    "GaugeSpec",
    "LightSpec",
    "ObjectSpec",
    "SceneSpec",
    "TableSpec",
    "dial_value",
    "look_at",
    "sample_scene",
]

_NOMINAL_FOVY_RAD = np.deg2rad(FOVY_DEG)
_NOMINAL_ASPECT = 4.0 / 3.0
_WORK_AREA_HALF_M = (0.225, 0.175)


def sample_scene(
    seed: int, n_objects: int | None = None, gauge: bool = False, household: bool = False, wide: bool = False
) -> SceneSpec:
    """A scene that depends on its arguments alone.

    n_objects: 1 to 6, or None for a random number of them. gauge: also stand a dial on the table.
    household: most objects are textured ones of the installed asset package (InvalidInput where there is none).
    wide: a scene of the wider world (`sim.wide`), which decides by itself what is in it.
    """
    if wide:
        from qwen3vl_ros.sim.wide import sample_wide_scene

        if n_objects is not None or gauge or household:
            raise InvalidInput("a wide scene decides by itself what is in it; leave n_objects, gauge and household out")
        return sample_wide_scene(seed)
    if n_objects is not None and not 1 <= n_objects <= 6:
        raise InvalidInput(f"n_objects is {n_objects}; a scene holds 1 to 6 objects")
    rng = np.random.default_rng([0x51C3, int(seed), int(gauge)] + [1] * household)
    assets = {}
    if household:
        from qwen3vl_ros.sim.household import catalogue

        assets = {a.name: a for a in catalogue().values()}
    count = int(rng.integers(1, 7)) if n_objects is None else int(n_objects)
    while True:
        camera = _sample_camera(rng, gauge)
        dial = _sample_gauge(rng, camera) if gauge else None
        if gauge and dial is None:
            continue
        objects = _sample_objects(rng, count, camera, dial, assets)
        if objects is not None:
            break
    return SceneSpec(
        int(seed), objects, dial, _sample_table(rng), _sample_light(rng, camera), camera, _sample_background(rng)
    )


def _sample_camera(rng: np.random.Generator, gauge: bool) -> CameraSpec:
    # A dial that stands upright cannot be read from far above.
    elevation = np.deg2rad(rng.uniform(28, 48) if gauge else rng.uniform(30, 75))
    distance = rng.uniform(0.45, 0.75)
    azimuth = rng.uniform(-np.pi, np.pi)
    target = np.array((*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.01, 0.05)))
    offset = distance * np.array(
        (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    )
    roll = np.deg2rad(np.clip(rng.normal(0, 2.0), -5, 5))
    return CameraSpec(tuple(target + offset), tuple(target), float(roll))


def _sample_gauge(rng: np.random.Generator, camera: CameraSpec) -> GaugeSpec | None:
    unit, low, high = GAUGE_SCALES[rng.integers(len(GAUGE_SCALES))]
    radius = rng.uniform(0.055, 0.085)
    tilt = np.deg2rad(rng.uniform(5, 35))
    for _ in range(50):
        xy = rng.uniform(-1, 1, 2) * (0.17, 0.12)
        position = (*xy, radius * np.cos(tilt) + 0.014)
        if _margin(camera, _box_corners(position, (2 * radius,) * 3, 0.0)) > 0.02:
            break
    else:
        return None
    towards = np.arctan2(camera.eye_m[1] - xy[1], camera.eye_m[0] - xy[0])
    value = dial_value(rng, low, high)
    return GaugeSpec(
        tuple(map(float, position)),
        float(towards + np.deg2rad(rng.uniform(-25, 25))),
        float(tilt),
        float(radius),
        low,
        high,
        unit,
        value,
        colour=str(rng.choice(["black", "white", "blue", "red"], p=[0.5, 0.2, 0.15, 0.15])),
        needle_colour=str(rng.choice(["red", "black"])),
        face="white" if rng.random() < 0.85 else "cream",
    )


def dial_value(rng: np.random.Generator, low: float, high: float) -> float:
    """Two decimals of the range: what a person can read, and what an answer can say exactly."""
    return float(np.round(low + np.round(rng.uniform(0, 1), 2) * (high - low), 4))


def _sample_names(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    names = list(COLOURS)
    pairs: list[tuple[str, str]] = []
    twins_allowed = rng.random() < 0.15
    favourite = KINDS[rng.integers(len(KINDS))] if rng.random() < 0.35 else None
    while len(pairs) < count:
        if twins_allowed and pairs and rng.random() < 0.5:
            pairs.append(pairs[rng.integers(len(pairs))])
            continue
        kind = favourite if favourite and rng.random() < 0.6 else KINDS[rng.integers(len(KINDS))]
        pair = (kind, names[rng.integers(len(names))])
        if pair not in pairs:
            pairs.append(pair)
    return pairs


def _sample_size(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
    if kind == "cube":
        return (float(rng.uniform(0.045, 0.08)),) * 3
    if kind == "ball":
        return (float(rng.uniform(0.05, 0.08)),) * 3
    if kind == "cylinder":
        d = float(rng.uniform(0.04, 0.07))
        return d, d, float(rng.uniform(0.06, 0.12))
    if kind == "mug":
        d = float(rng.uniform(0.07, 0.09))
        return d * MUG_HANDLE_RATIO, d, float(rng.uniform(0.08, 0.11))
    d = float(rng.uniform(0.10, 0.15))
    return d, d, float(rng.uniform(0.04, 0.06))


def _sample_objects(rng, count, camera, dial, assets) -> tuple[ObjectSpec, ...] | None:
    """Objects that do not touch, or None where `count` of them found no room in this view."""
    placed: list[ObjectSpec] = []
    keep_out = [(np.array(dial.position_m[:2]), dial.radius_m + 0.005)] if dial else []
    spread = rng.uniform(0.55, 0.8) if rng.random() < 0.3 else 1.0  # some scenes are crowded
    chosen = _sample_names(rng, count)
    if assets:  # without repetition: one asset is one thing
        names = rng.permutation([*assets, *[None] * (len(assets) // 4)])[:count]
        chosen = [(a, "") if a is not None else pair for a, pair in zip(names, chosen)]
    for kind, colour in chosen:
        cut = rng.random() < 0.05
        for _ in range(120):
            size = assets[kind].size_m if kind in assets else _sample_size(rng, kind)
            yaw = float(rng.uniform(-np.pi, np.pi))
            xy = rng.uniform(-1, 1, 2) * _WORK_AREA_HALF_M * (1.7 if cut else spread)
            position = (float(xy[0]), float(xy[1]), size[2] / 2)
            reach = np.hypot(size[0], size[1]) / 2 if kind in ("cube", "mug", *assets) else size[0] / 2
            if any(np.linalg.norm(xy - other) < reach + r + 0.004 for other, r in keep_out):
                continue
            margin = _margin(camera, _box_corners(position, size, yaw))
            if not (-0.07 < margin < 0.0 if cut else margin > 0.004):
                continue
            if dial and _hides_dial(camera, dial, position, size):
                continue
            if kind in assets:
                placed.append(ObjectSpec(assets[kind].label, "", size, position, yaw, (1.0, 1.0, 1.0), kind))
            else:
                placed.append(ObjectSpec(kind, colour, size, position, yaw, _shade(rng, colour)))
            keep_out.append((xy, reach))
            break
        else:
            return None
    return tuple(placed)


def _shade(rng: np.random.Generator, colour: str) -> tuple[float, float, float]:
    """A slightly different paint of the same name."""
    rgb = np.array(COLOURS[colour]) * rng.uniform(0.88, 1.06) + rng.uniform(-0.025, 0.025, 3)
    return tuple(float(v) for v in np.clip(rgb, 0.03, 0.98))


def _sample_table(rng: np.random.Generator) -> TableSpec:
    rgb = np.array(TABLE_TINTS[rng.integers(len(TABLE_TINTS))]) * rng.uniform(0.85, 1.1)
    texture = TABLE_TEXTURES[rng.integers(len(TABLE_TEXTURES))]
    return TableSpec(
        texture,
        tuple(float(v) for v in np.clip(rgb, 0, 0.97)),
        float(rng.uniform(-np.pi, np.pi)),
        float(rng.uniform(1.0, 2.2)),
    )


def _sample_light(rng: np.random.Generator, camera: CameraSpec) -> LightSpec:
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(42, 80))
    direction = (-np.cos(elevation) * np.cos(azimuth), -np.cos(elevation) * np.sin(azimuth), -np.sin(elevation))
    return LightSpec(
        tuple(float(v) for v in direction),
        float(rng.uniform(0.50, 0.80)),
        float(rng.uniform(0.30, 0.46)),
        float(rng.uniform(0.10, 0.26)),
        float(rng.uniform(-1, 1)),
    )


def _sample_background(rng: np.random.Generator) -> tuple[float, float, float]:
    grey = rng.uniform(0.35, 0.85)
    return tuple(float(v) for v in np.clip(grey + rng.uniform(-0.08, 0.08, 3), 0, 1))


def _box_corners(position_m, size_m, yaw_rad: float) -> np.ndarray:
    unit = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return (unit * size_m) @ np.array(((c, s, 0), (-s, c, 0), (0, 0, 1.0))) + position_m


def _project_nominal(camera: CameraSpec, points_m: np.ndarray) -> np.ndarray:
    """Nx2 image coordinates in units of the image height, origin in the centre of a 4:3 picture."""
    pose = camera.world_T_camera()
    local = (points_m - pose[:3, 3]) @ pose[:3, :3]
    return local[:, :2] / local[:, 2:] / (2 * np.tan(_NOMINAL_FOVY_RAD / 2))


def _margin(camera: CameraSpec, points_m: np.ndarray) -> float:
    """Smallest distance from the points to the border, in image heights; negative outside."""
    xy = np.abs(_project_nominal(camera, np.asarray(points_m)))
    return float(min(_NOMINAL_ASPECT / 2 - xy[:, 0].max(), 0.5 - xy[:, 1].max()))


def _hides_dial(camera: CameraSpec, dial: GaugeSpec, position_m, size_m) -> bool:
    """Whether an object nearer than the dial covers a good part of its face."""
    eye = np.array(camera.eye_m)
    if np.linalg.norm(eye - position_m) > np.linalg.norm(eye - np.array(dial.position_m)):
        return False
    points = _project_nominal(camera, _box_corners(position_m, size_m, 0.0))
    face = _project_nominal(camera, np.array([dial.position_m]))[0]
    radius = dial.radius_m / np.linalg.norm(eye - np.array(dial.position_m)) / (2 * np.tan(_NOMINAL_FOVY_RAD / 2))
    gap = np.maximum(np.maximum(points.min(0) - face, face - points.max(0)), 0)
    return bool(np.linalg.norm(gap) < 0.7 * radius)
