"""Table-top scenes as plain data: what stands where, how it is lit and from where it is seen.

A scene is numbers in a world frame whose z axis points up and whose origin is the middle of the table top. Knows
nothing of MuJoCo, images or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from qwen3vl_ros.types import InvalidInput

KINDS: tuple[str, ...] = ("cube", "ball", "cylinder", "mug", "bowl")
MORE_KINDS: tuple[str, ...] = ("box", "tray")  # of the wider world: a box is no cube

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

MORE_TABLE_TEXTURES: tuple[str, ...] = ("cork", "concrete", "checked", "striped")  # of the wider world

# Pleasant tints, each used with any texture: woods, greys, and a few muted colours. Linear rgb in 0..1.
TABLE_TINTS: tuple[tuple[float, float, float], ...] = (
    (0.76, 0.60, 0.43),
    (0.62, 0.45, 0.31),
    (0.85, 0.76, 0.63),
    (0.45, 0.33, 0.25),
    (0.78, 0.78, 0.76),
    (0.55, 0.56, 0.58),
    (0.36, 0.38, 0.41),
    (0.90, 0.88, 0.84),
    (0.56, 0.64, 0.62),
    (0.63, 0.68, 0.75),
    (0.72, 0.66, 0.70),
    (0.48, 0.55, 0.47),
)

# (unit, minimum, maximum) of dials one meets in a plant.
GAUGE_SCALES: tuple[tuple[str, float, float], ...] = (
    ("bar", 0.0, 10.0),
    ("bar", 0.0, 6.0),
    ("bar", 0.0, 16.0),
    ("psi", 0.0, 100.0),
    ("psi", 0.0, 160.0),
    ("°C", 0.0, 100.0),
    ("°C", 0.0, 120.0),
    ("°C", -20.0, 60.0),
    ("kPa", 0.0, 400.0),
    ("%", 0.0, 100.0),
    ("V", 0.0, 12.0),
    ("A", 0.0, 20.0),
)

# What the wider world's dials show besides.
MORE_GAUGE_SCALES: tuple[tuple[str, float, float], ...] = (
    ("MPa", 0.0, 2.5),
    ("MPa", 0.0, 1.6),
    ("MPa", 0.0, 1.0),
    ("MPa", 0.0, 4.0),
    ("bar", 0.0, 4.0),
    ("bar", 0.0, 25.0),
    ("L/min", 0.0, 10.0),
    ("L/min", 0.0, 50.0),
    ("L/min", 0.0, 100.0),
    ("A", 0.0, 5.0),
    ("A", 0.0, 100.0),
    ("%RH", 0.0, 100.0),
    ("psi", 0.0, 30.0),
    ("kPa", 0.0, 100.0),
)
ZONES: tuple[str, ...] = ("green", "yellow", "red")
BAR_IN_PSI = 14.504

SIGN_WORDS: tuple[str, ...] = (
    *("EXIT", "STOP", "OPEN", "CLOSED", "DANGER", "HOT", "COLD", "ON", "OFF", "PUSH", "PULL", "TOOLS", "PARTS"),
    *("PUMP", "VALVE", "GAS", "WATER", "OIL", "AIR", "EMPTY", "FULL", "READY", "WAIT", "SAFE"),
)
SIGN_TEXTS: tuple[str, ...] = SIGN_WORDS + tuple(str(n) for n in range(1, 21))

GAUGE_SWEEP_RAD = np.deg2rad(270.0)

SHELF_BASE_M, SHELF_BOARD_M, SHELF_TOP_M = (
    0.02,
    0.012,
    0.11,
)  # lowest board's top, thickness, panels above the top board

FOVY_DEG = 42.5  # vertical field of view of the embedded camera, and of the views that scenes are arranged for


@dataclass(frozen=True)
class ObjectSpec:
    """One object standing on the table.

    size_m: full extents (x, y, z) of its box in its own frame, z up; a mug's x includes the handle.
    position_m: centre of that box in the world. yaw_rad: turn about world z. rgb: linear colour in 0..1,
    near COLOURS[colour]; `colour` is the name a person would give it. asset: name of a household object
    (`household.catalogue`); then `kind` is what a person calls it and `colour` is empty. on: index of the object
    it stands on or in, None where that is the table or, with `level` above 0, that level of the shelf.
    """

    kind: str
    colour: str
    size_m: tuple[float, float, float]
    position_m: tuple[float, float, float]
    yaw_rad: float
    rgb: tuple[float, float, float] | None = None
    asset: str | None = None
    on: int | None = None
    level: int = 0

    def __post_init__(self) -> None:
        if self.asset is None:
            self._check_primitive()
        if len(self.size_m) != 3 or not all(np.isfinite(s) and s > 0 for s in self.size_m):
            raise InvalidInput(f"ObjectSpec.size_m is {self.size_m}; it must be three lengths above 0 m")

    def _check_primitive(self) -> None:
        if self.kind not in KINDS + MORE_KINDS:
            raise InvalidInput(f"ObjectSpec.kind is {self.kind!r}; it must be one of {', '.join(KINDS + MORE_KINDS)}")
        if self.colour not in COLOURS:
            raise InvalidInput(f"ObjectSpec.colour is {self.colour!r}; it must be one of {', '.join(COLOURS)}")
        if self.rgb is None:
            object.__setattr__(self, "rgb", COLOURS[self.colour])

    @property
    def label(self) -> str:
        return f"{self.colour} {self.kind}".strip()

    @property
    def mesh(self) -> str:
        """Name of its mesh: the kind's, or the asset's."""
        return self.asset or self.kind

    def pose(self) -> np.ndarray:
        """4x4 pose of its box in the world."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        pose = np.eye(4)
        pose[:2, :2] = ((c, -s), (s, c))
        pose[:3, 3] = self.position_m
        return pose


@dataclass(frozen=True)
class MovedObject(ObjectSpec):
    """An object that physics has moved: it may lie or hang in any direction. rotation: 3x3, rows; yaw_rad is not used."""

    rotation: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    def pose(self) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.rotation, self.position_m
        return pose


@dataclass(frozen=True)
class GaugeSpec:
    """A round dial that stands on the table.

    position_m: centre of the dial face in the world. yaw_rad: direction the face looks at, about world z from
    +x. tilt_rad: how far the face leans back (0: upright). radius_m includes the rim. The needle sweeps
    270 degrees clockwise, from lower left (minimum) to lower right (maximum). zones: (from, to, one of ZONES) in the
    dial's unit, painted as arcs. inner: (unit, maximum) of a second scale from 0 inside the first, "" for none.
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
    zones: tuple[tuple[float, float, str], ...] = ()
    inner: tuple[str, float] = ("", 0.0)

    def __post_init__(self) -> None:
        if not self.minimum < self.maximum:
            raise InvalidInput(f"GaugeSpec scale is {self.minimum}..{self.maximum}; minimum must be below maximum")
        if not self.minimum <= self.value <= self.maximum:
            raise InvalidInput(f"GaugeSpec.value {self.value} is outside its scale {self.minimum}..{self.maximum}")
        if not self.radius_m > 0:
            raise InvalidInput(f"GaugeSpec.radius_m is {self.radius_m}; it must be above 0 m")
        for low, high, colour in self.zones:
            if not self.minimum <= low < high <= self.maximum or colour not in ZONES:
                raise InvalidInput(
                    f"GaugeSpec.zones has {low}..{high} {colour!r}; a zone lies on the scale, in one of {', '.join(ZONES)}"
                )

    @property
    def needle_fraction(self) -> float:
        """0 at the minimum, 1 at the maximum."""
        return (self.value - self.minimum) / (self.maximum - self.minimum)

    @property
    def zone(self) -> str:
        """Colour of the zone the needle is in, "" outside all; a limit belongs to the zone that begins there."""
        inside = [colour for low, high, colour in self.zones if low <= self.value <= high]
        return inside[-1] if inside else ""


@dataclass(frozen=True)
class ShelfSpec:
    """An open shelf that stands on the table: two side panels and a board a level, open to the front and the back.

    position_m: centre of its footprint on the table. yaw_rad: direction its front looks at, about world z from +x.
    size_m: width, depth. spacing_m: from board top to board top. Level 1 is the lowest board, 2 cm above the table.
    """

    position_m: tuple[float, float]
    yaw_rad: float
    size_m: tuple[float, float]
    levels: int
    spacing_m: float
    rgb: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.levels not in (2, 3):
            raise InvalidInput(f"ShelfSpec.levels is {self.levels}; it must be 2 or 3")
        if self.spacing_m < 0.22:
            raise InvalidInput(f"ShelfSpec.spacing_m is {self.spacing_m}; a hand needs at least 0.22 m")

    def board_top_m(self, level: int) -> float:
        """Height of a level's board above the table; level counts from 1."""
        return SHELF_BASE_M + (level - 1) * self.spacing_m

    def room_m(self, level: int) -> float:
        """Clear height above a level's board: below the next board, or up to the side panels' ends."""
        return self.spacing_m - SHELF_BOARD_M if level < self.levels else SHELF_TOP_M

    @property
    def height_m(self) -> float:
        return self.board_top_m(self.levels) + SHELF_TOP_M


@dataclass(frozen=True)
class SignSpec:
    """A plate with a word or a number that stands on the table.

    position_m: centre of the plate's face. yaw_rad, tilt_rad: as of GaugeSpec. size_m: width, height.
    colour: of the plate, one of COLOURS; ink is white or black.
    """

    position_m: tuple[float, float, float]
    yaw_rad: float
    tilt_rad: float
    size_m: tuple[float, float]
    text: str
    colour: str = "white"
    ink: str = "black"

    def __post_init__(self) -> None:
        if not self.text or len(self.text) > 12:
            raise InvalidInput(f"SignSpec.text is {self.text!r}; it must be 1 to 12 characters")
        if self.colour not in COLOURS or self.ink not in ("black", "white"):
            raise InvalidInput(
                f"SignSpec is {self.ink!r} on {self.colour!r}; black or white on one of {', '.join(COLOURS)}"
            )


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
    shelf: ShelfSpec | None = None
    sign: SignSpec | None = None

    @property
    def shelf_index(self) -> int:
        """Number of the shelf in pictures and truths: after the objects and the dial."""
        return len(self.objects) + (self.gauge is not None)

    @property
    def sign_index(self) -> int:
        return self.shelf_index + (self.shelf is not None)

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
