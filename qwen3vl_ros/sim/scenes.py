"""Table-top scenes as plain data, and the seeded sampler that invents them.

Knows nothing of MuJoCo, images or ROS: a scene is numbers in a world frame whose z axis points up and
whose origin is the middle of the table top. `camera.py` draws it; the training data of the embedded model
and the demo come from this one sampler, so both see the same world.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..types import InvalidInput

KINDS: tuple[str, ...] = ("cube", "ball", "cylinder", "mug", "bowl")

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.08, 0.09),
    "green": (0.10, 0.58, 0.18),
    "blue": (0.09, 0.27, 0.80),
    "yellow": (0.96, 0.80, 0.08),
    "orange": (0.96, 0.45, 0.05),
    "purple": (0.48, 0.16, 0.64),
    "white": (0.92, 0.92, 0.90),
    "black": (0.07, 0.07, 0.08),
}

TABLE_TEXTURES: tuple[str, ...] = ("plain", "oak", "planks", "linen", "speckle", "brushed", "marble", "tiles")

# Pleasant tints, each used with any texture: woods, greys, and a few muted colours. Linear rgb in 0..1.
TABLE_TINTS: tuple[tuple[float, float, float], ...] = (
    (0.76, 0.60, 0.43), (0.62, 0.45, 0.31), (0.85, 0.76, 0.63), (0.45, 0.33, 0.25),
    (0.78, 0.78, 0.76), (0.55, 0.56, 0.58), (0.36, 0.38, 0.41), (0.90, 0.88, 0.84),
    (0.56, 0.64, 0.62), (0.63, 0.68, 0.75), (0.72, 0.66, 0.70), (0.48, 0.55, 0.47),
)

# (unit, minimum, maximum) of dials one meets in a plant.
GAUGE_SCALES: tuple[tuple[str, float, float], ...] = (
    ("bar", 0.0, 10.0), ("bar", 0.0, 6.0), ("bar", 0.0, 16.0), ("psi", 0.0, 100.0), ("psi", 0.0, 160.0),
    ("°C", 0.0, 100.0), ("°C", 0.0, 120.0), ("°C", -20.0, 60.0), ("kPa", 0.0, 400.0), ("%", 0.0, 100.0),
    ("V", 0.0, 12.0), ("A", 0.0, 20.0),
)

GAUGE_SWEEP_RAD = np.deg2rad(270.0)

_NOMINAL_FOVY_RAD = np.deg2rad(42.5)
_NOMINAL_ASPECT = 4.0 / 3.0
_WORK_AREA_HALF_M = (0.225, 0.175)
_MUG_HANDLE_RATIO = 1.36  # overall length over body diameter; the mug mesh is built to it


@dataclass(frozen=True)
class ObjectSpec:
    """One object standing on the table.

    size_m: full extents (x, y, z) of its box in its own frame, z up; a mug's x includes the handle.
    position_m: centre of that box in the world. yaw_rad: turn about world z. rgb: linear colour in 0..1,
    near COLOURS[colour]; `colour` is the name a person would give it.
    """

    kind: str
    colour: str
    size_m: tuple[float, float, float]
    position_m: tuple[float, float, float]
    yaw_rad: float
    rgb: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"ObjectSpec.kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if self.colour not in COLOURS:
            raise InvalidInput(f"ObjectSpec.colour is {self.colour!r}; it must be one of {', '.join(COLOURS)}")
        if len(self.size_m) != 3 or not all(np.isfinite(s) and s > 0 for s in self.size_m):
            raise InvalidInput(f"ObjectSpec.size_m is {self.size_m}; it must be three lengths above 0 m")
        if self.rgb is None:
            object.__setattr__(self, "rgb", COLOURS[self.colour])

    @property
    def label(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class GaugeSpec:
    """A round dial that stands on the table.

    position_m: centre of the dial face in the world. yaw_rad: direction the face looks at, about world z from
    +x. tilt_rad: how far the face leans back (0: upright). radius_m includes the rim. The needle sweeps
    270 degrees clockwise, from lower left (minimum) to lower right (maximum).
    """

    position_m: tuple[float, float, float]
    yaw_rad: float
    tilt_rad: float
    radius_m: float
    minimum: float
    maximum: float
    unit: str
    value: float
    colour: str = "black"
    needle_colour: str = "red"
    face: str = "white"

    def __post_init__(self) -> None:
        if not self.minimum < self.maximum:
            raise InvalidInput(f"GaugeSpec scale is {self.minimum}..{self.maximum}; minimum must be below maximum")
        if not self.minimum <= self.value <= self.maximum:
            raise InvalidInput(f"GaugeSpec.value {self.value} is outside its scale {self.minimum}..{self.maximum}")
        if not self.radius_m > 0:
            raise InvalidInput(f"GaugeSpec.radius_m is {self.radius_m}; it must be above 0 m")

    @property
    def needle_fraction(self) -> float:
        """0 at the minimum, 1 at the maximum."""
        return (self.value - self.minimum) / (self.maximum - self.minimum)


@dataclass(frozen=True)
class TableSpec:
    """texture: one of TABLE_TEXTURES, tinted by rgb; turned by yaw_rad; scale: texture tiles per metre."""

    texture: str = "oak"
    rgb: tuple[float, float, float] = TABLE_TINTS[0]
    yaw_rad: float = 0.0
    tiles_per_m: float = 1.4
    half_size_m: tuple[float, float] = (0.62, 0.50)


@dataclass(frozen=True)
class LightSpec:
    """One key light that casts shadows, a weaker fill from the camera's side and an ambient term.

    direction: from the light into the scene, world frame, unit length.
    """

    direction: tuple[float, float, float] = (0.3, 0.3, -0.9)
    intensity: float = 0.62
    ambient: float = 0.32
    fill: float = 0.16
    warmth: float = 0.0


@dataclass(frozen=True)
class CameraSpec:
    """eye_m and look_at_m in the world; roll_rad about the optical axis."""

    eye_m: tuple[float, float, float]
    look_at_m: tuple[float, float, float]
    roll_rad: float = 0.0

    def world_T_camera(self) -> np.ndarray:
        """4x4 pose of the camera's ROS optical frame (x right, y down, z forward)."""
        return look_at(self.eye_m, self.look_at_m, self.roll_rad)


@dataclass(frozen=True)
class SceneSpec:
    """Everything that decides a picture, except the camera's resolution."""

    seed: int
    objects: tuple[ObjectSpec, ...]
    gauge: GaugeSpec | None = None
    table: TableSpec = field(default_factory=TableSpec)
    light: LightSpec = field(default_factory=LightSpec)
    camera: CameraSpec = CameraSpec((0.0, -0.45, 0.45), (0.0, 0.0, 0.03))
    background_rgb: tuple[float, float, float] = (0.70, 0.74, 0.78)

    def with_camera(self, camera: CameraSpec) -> SceneSpec:
        return replace(self, camera=camera)


def look_at(eye_m, target_m, roll_rad: float = 0.0) -> np.ndarray:
    """world_T_camera (4x4, ROS optical frame) of a camera at eye_m that looks at target_m, world z up."""
    eye, target = np.asarray(eye_m, float), np.asarray(target_m, float)
    forward = target - eye
    distance = np.linalg.norm(forward)
    if distance < 1e-6:
        raise InvalidInput(f"camera eye {tuple(eye)} and look-at point coincide; move one of them")
    forward /= distance
    right = np.cross(forward, (0.0, 0.0, 1.0))
    if np.linalg.norm(right) < 1e-6:  # straight down: any horizontal right will do
        right = np.array((1.0, 0.0, 0.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    pose = np.eye(4)
    pose[:3, 0] = c * right + s * down
    pose[:3, 1] = -s * right + c * down
    pose[:3, 2] = forward
    pose[:3, 3] = eye
    return pose


def sample_scene(seed: int, n_objects: int | None = None, gauge: bool = False) -> SceneSpec:
    """A scene that depends on its arguments alone.

    n_objects: 1 to 6, or None for a random number of them. gauge: also stand a dial on the table.
    """
    if n_objects is not None and not 1 <= n_objects <= 6:
        raise InvalidInput(f"n_objects is {n_objects}; a scene holds 1 to 6 objects")
    rng = np.random.default_rng([0x51C3, int(seed), int(gauge)])
    count = int(rng.integers(1, 7)) if n_objects is None else int(n_objects)
    while True:
        camera = _sample_camera(rng, gauge)
        dial = _sample_gauge(rng, camera) if gauge else None
        if gauge and dial is None:
            continue
        objects = _sample_objects(rng, count, camera, dial)
        if objects is not None:
            break
    return SceneSpec(int(seed), objects, dial, _sample_table(rng), _sample_light(rng, camera), camera,
                     _sample_background(rng))


def _sample_camera(rng: np.random.Generator, gauge: bool) -> CameraSpec:
    # A dial that stands upright cannot be read from far above.
    elevation = np.deg2rad(rng.uniform(28, 48) if gauge else rng.uniform(30, 75))
    distance = rng.uniform(0.45, 0.75)
    azimuth = rng.uniform(-np.pi, np.pi)
    target = np.array((*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.01, 0.05)))
    offset = distance * np.array((np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
                                  np.sin(elevation)))
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
    # Two decimals of the range: what a person can read, and what an answer can say exactly.
    value = low + np.round(rng.uniform(0, 1), 2) * (high - low)
    return GaugeSpec(tuple(map(float, position)), float(towards + np.deg2rad(rng.uniform(-25, 25))), float(tilt),
                     float(radius), low, high, unit, float(np.round(value, 4)),
                     colour=str(rng.choice(["black", "white", "blue", "red"], p=[0.5, 0.2, 0.15, 0.15])),
                     needle_colour=str(rng.choice(["red", "black"])),
                     face="white" if rng.random() < 0.85 else "cream")


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
        return d * _MUG_HANDLE_RATIO, d, float(rng.uniform(0.08, 0.11))
    d = float(rng.uniform(0.10, 0.15))
    return d, d, float(rng.uniform(0.04, 0.06))


def _sample_objects(rng, count, camera, dial) -> tuple[ObjectSpec, ...] | None:
    """Objects that do not touch, or None where `count` of them found no room in this view."""
    placed: list[ObjectSpec] = []
    keep_out = [(np.array(dial.position_m[:2]), dial.radius_m + 0.005)] if dial else []
    spread = rng.uniform(0.55, 0.8) if rng.random() < 0.3 else 1.0  # some scenes are crowded
    for kind, colour in _sample_names(rng, count):
        cut = rng.random() < 0.05
        for _ in range(120):
            size = _sample_size(rng, kind)
            yaw = float(rng.uniform(-np.pi, np.pi))
            xy = rng.uniform(-1, 1, 2) * _WORK_AREA_HALF_M * (1.7 if cut else spread)
            position = (float(xy[0]), float(xy[1]), size[2] / 2)
            reach = np.hypot(size[0], size[1]) / 2 if kind in ("cube", "mug") else size[0] / 2
            if any(np.linalg.norm(xy - other) < reach + r + 0.004 for other, r in keep_out):
                continue
            margin = _margin(camera, _box_corners(position, size, yaw))
            if not (-0.07 < margin < 0.0 if cut else margin > 0.004):
                continue
            if dial and _hides_dial(camera, dial, position, size):
                continue
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
    return TableSpec(texture, tuple(float(v) for v in np.clip(rgb, 0, 0.97)), float(rng.uniform(-np.pi, np.pi)),
                     float(rng.uniform(1.0, 2.2)))


def _sample_light(rng: np.random.Generator, camera: CameraSpec) -> LightSpec:
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(42, 80))
    direction = (-np.cos(elevation) * np.cos(azimuth), -np.cos(elevation) * np.sin(azimuth), -np.sin(elevation))
    return LightSpec(tuple(float(v) for v in direction), float(rng.uniform(0.50, 0.80)),
                     float(rng.uniform(0.30, 0.46)), float(rng.uniform(0.10, 0.26)), float(rng.uniform(-1, 1)))


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
