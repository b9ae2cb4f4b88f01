"""One dial after another, each alone in a picture: tilted, lit unevenly, noisy, blurred, some under glare or half covered.

Faces as of the simulated dial, and others: partial arcs, uneven divisions, marks between stops. What is shown is a function of the
seed alone, and the truth comes with it. Knows nothing of how dials are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from qwen3vl_ros.sim.scenes import dial_value
from qwen3vl_ros.sim.specs import GAUGE_SCALES, MORE_GAUGE_SCALES, GaugeSpec
from qwen3vl_ros.sim.textures import gauge_face
from qwen3vl_ros.sim.wide import repaint_dial

SIZE_PX = (640, 480)
_FACE_PX, _RIM = 480, 0.90
MAX_TILT_DEG = 45.0


@dataclass(frozen=True, eq=False)
class DialView:
    """rgb: 480x640x3 uint8. box_xyxy_px: of the case. value in unit. scale: (share of the sweep, value) of its marks;
    sweep_deg: from the first to the last.

    known: whether the scale is one that the embedded model was trained on. glare, covered: what spoils the view.
    """

    rgb: np.ndarray
    box_xyxy_px: tuple[float, float, float, float]
    value: float
    unit: str
    scale: tuple[tuple[float, float], ...]
    sweep_deg: float
    known: bool
    tilt_deg: float
    glare: bool = False
    covered: bool = False

    @property
    def span(self) -> float:
        return self.scale[-1][1] - self.scale[0][1]


def sample_dial(seed: int, fraction: float | None = None, clear: bool = False, uncommon: float = 0.25) -> DialView:
    """The dial of a seed. fraction: where its needle stands, by chance without. clear: neither glare nor cover. uncommon: share of
    faces with another sweep or uneven divisions."""
    rng = np.random.default_rng([0xD1A1, int(seed)])
    if rng.random() < uncommon:
        face, value, unit, scale, sweep = _uncommon_face(rng, fraction)
        known = False
    else:
        face, value, unit, scale, known = _common_face(rng, fraction)
        sweep = 270.0
    tilt = float(rng.uniform(0, MAX_TILT_DEG))
    to_picture = _projection(rng, tilt)
    picture = _wall(rng)
    case, mask = _case(rng, face)
    cover = cv2.warpPerspective(mask, to_picture, SIZE_PX, flags=cv2.INTER_LINEAR)
    shown = cv2.warpPerspective(case, to_picture, SIZE_PX, flags=cv2.INTER_AREA)
    alpha = (cover.astype(np.float32) / 255)[..., None]
    picture = shown * alpha + picture * (1 - alpha)
    ys, xs = np.nonzero(cover > 127)
    box = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
    glare, covered = bool(rng.random() < 0.15), bool(rng.random() < 0.08)
    if clear:
        glare = covered = False
    picture = _lit(rng, picture)
    if glare:
        picture = _glared(rng, picture, box)
    if covered:
        picture = _covered(rng, picture, box)
    blur = float(rng.uniform(0.3, 1.3))
    noisy = cv2.GaussianBlur(picture, (0, 0), blur) + rng.uniform(1, 7) * rng.standard_normal(picture.shape)
    return DialView(
        np.clip(noisy, 0, 255).astype(np.uint8), box, value, unit, scale, sweep, known, tilt, glare, covered
    )


def _common_face(rng: np.random.Generator, fraction: float | None):
    dial = repaint_dial(GaugeSpec((0, 0, 0), 0.0, 0.0, 0.1, 0.0, 1.0, "bar", 0.0), rng)
    low, high = dial.minimum, dial.maximum
    value = dial_value(rng, low, high) if fraction is None else low + fraction * (high - low)
    dial = replace(dial, value=float(value))
    known = (dial.unit, low, high) in GAUGE_SCALES
    return gauge_face(dial, _FACE_PX), float(value), dial.unit, ((0.0, low), (1.0, high)), known


def paint_face(
    scale: tuple[tuple[float, float], ...],
    fraction: float,
    unit: str,
    start_deg: float = 135.0,
    sweep_deg: float = 270.0,
    minors: int = 5,
    needle: str = "black",
) -> np.ndarray:
    """A face of any sweep: labelled marks at `scale`'s shares, `minors` steps in each division; angles clockwise from the right.

    fraction: where the needle stands, also outside 0..1. _FACE_PX square, RGB uint8.
    """
    big = 2 * _FACE_PX
    image, c, ink = np.full((big, big, 3), (245, 245, 240), np.uint8), big / 2, (28, 28, 32)

    def at(share: float, radius: float) -> tuple[int, int]:
        angle = np.deg2rad(start_deg + share * sweep_deg)
        return round(c + radius * c * np.cos(angle)), round(c + radius * c * np.sin(angle))

    thick = round(big / 70)
    for (share, value), following in zip(scale, (*scale[1:], None)):
        cv2.line(image, at(share, 0.76), at(share, 0.90), ink, thick, cv2.LINE_AA)
        text = f"{value:g}"
        height = 0.075 * big
        size = height / cv2.getTextSize("0", cv2.FONT_HERSHEY_SIMPLEX, 1.0, 3)[0][1]
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 7)
        x, y = at(share, 0.58)
        cv2.putText(image, text, (x - w // 2, y + h // 2), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 7, cv2.LINE_AA)
        for k in range(1, minors) if following else ():
            part = share + (following[0] - share) * k / minors
            cv2.line(image, at(part, 0.83), at(part, 0.90), ink, max(thick // 2, 3), cv2.LINE_AA)
    cv2.putText(
        image, unit, (round(0.42 * big), round(0.33 * big)), cv2.FONT_HERSHEY_SIMPLEX, big / 520, ink, 6, cv2.LINE_AA
    )
    tip, tail = np.array(at(fraction, 0.80)), np.array(at(fraction, -0.18))
    side = (tip - tail)[::-1] * (1, -1) / np.linalg.norm(tip - tail) * 0.034 * c
    blade = np.round([tail + side, tail - side, tip - side * 0.35, tip + side * 0.35]).astype(np.int32)
    cv2.fillPoly(image, [blade], ink if needle == "black" else (196, 30, 28), cv2.LINE_AA)
    cv2.circle(image, (round(c), round(c)), round(0.085 * c), ink, -1, cv2.LINE_AA)
    return cv2.resize(image, (_FACE_PX, _FACE_PX), interpolation=cv2.INTER_AREA)


def _uncommon_face(rng: np.random.Generator, fraction: float | None):
    unit, low, high = (GAUGE_SCALES + MORE_GAUGE_SCALES)[rng.integers(len(GAUGE_SCALES + MORE_GAUGE_SCALES))]
    sweep = float(rng.choice((90.0, 120.0, 180.0, 240.0, 300.0)))
    middle = -90.0 + rng.uniform(-10, 10) * (sweep < 200)  # where the arc's middle is: above
    shares = np.linspace(0, 1, int(rng.integers(4, 7)) if sweep > 130 else 4)
    values = low + shares * (high - low)
    if rng.random() < 0.4:  # the first division is as long as two others
        shares = np.concatenate([[0.0], np.linspace(2 / (len(shares) + 0), 1, len(shares) - 1)])
    scale = tuple((float(s), float(round(v, 4))) for s, v in zip(shares, values))
    fraction = float(rng.uniform(0.03, 0.97)) if fraction is None else fraction
    value = float(np.interp(fraction, *zip(*scale)))
    needle = str(rng.choice(["black", "red"]))
    painted = paint_face(scale, fraction, unit, middle - sweep / 2, sweep, int(rng.integers(4, 6)), needle)
    return painted, value, unit, scale, sweep


def _case(rng: np.random.Generator, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face in its case, and the case's outline as a mask."""
    side = round(_FACE_PX / _RIM)
    case, c = np.zeros((side, side, 3), np.uint8), side // 2
    case[:] = ((30, 32, 36), (205, 205, 200), (40, 70, 140), (150, 30, 28))[rng.choice(4, p=(0.5, 0.2, 0.15, 0.15))]
    inside = np.zeros((side, side), np.uint8)
    cv2.circle(inside, (c, c), _FACE_PX // 2 - 1, 255, -1)
    padded = np.zeros_like(case)
    edge = (side - _FACE_PX) // 2
    padded[edge : edge + _FACE_PX, edge : edge + _FACE_PX] = face
    case[inside > 0] = padded[inside > 0]
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (c, c), c - 1, 255, -1, cv2.LINE_AA)
    return case, mask


def _projection(rng: np.random.Generator, tilt_deg: float) -> np.ndarray:
    """3x3 from the case's pixels to the picture's, through a pinhole."""
    side = round(_FACE_PX / _RIM)
    about, roll = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(-8, 8))
    axis = np.array((np.cos(about), np.sin(about), 0.0)) * np.deg2rad(tilt_deg)
    turn = cv2.Rodrigues(axis)[0] @ cv2.Rodrigues(np.array((0, 0, roll)))[0]
    distance, diameter = rng.uniform(4, 12), rng.uniform(150, 400)
    focal = diameter / 2 * distance
    where = np.array(SIZE_PX) / 2 + rng.uniform(-1, 1, 2) * np.maximum(np.array(SIZE_PX) / 2 - diameter * 0.62, 0)
    k = np.array(((focal, 0, where[0]), (0, focal, where[1]), (0, 0, 1.0)))
    plane = np.column_stack([turn[:, 0], turn[:, 1], (0, 0, distance)])
    to_plane = np.array(((2 / side, 0, -1), (0, 2 / side, -1), (0, 0, 1.0)))
    return k @ plane @ to_plane


def _wall(rng: np.random.Generator) -> np.ndarray:
    w, h = SIZE_PX
    wall = np.empty((h, w, 3), np.float32)
    wall[:] = rng.uniform(50, 210) + rng.uniform(-25, 25, 3)
    for sigma, strength in ((2, 8), (12, 40), (50, 160)):
        wall += cv2.GaussianBlur(rng.standard_normal((h, w)).astype(np.float32), (0, 0), sigma)[..., None] * strength
    for _ in range(int(rng.integers(0, 4))):  # pipes and edges behind
        a, b = rng.uniform(0, 1, 2) * SIZE_PX, rng.uniform(0, 1, 2) * SIZE_PX
        colour = tuple(float(v) for v in rng.uniform(30, 220, 3))
        cv2.line(wall, tuple(map(int, a)), tuple(map(int, b)), colour, int(rng.integers(4, 40)), cv2.LINE_AA)
    return np.clip(wall, 0, 255)


def _lit(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    h, w = picture.shape[:2]
    way, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    y, x = np.linspace(-0.5, 0.5, h)[:, None], np.linspace(-0.5, 0.5, w)[None]
    light = rng.uniform(0.5, 1.05) * (1 + strength * (np.cos(way) * x + np.sin(way) * y))
    return picture * light[..., None] * (1 + rng.uniform(-0.04, 0.04, 3))


def _glared(rng: np.random.Generator, picture: np.ndarray, box) -> np.ndarray:
    """A lamp mirrored in the glass."""
    x0, y0, x1, y1 = box
    centre = rng.uniform((x0 * 0.8 + x1 * 0.2, y0 * 0.8 + y1 * 0.2), (x0 * 0.2 + x1 * 0.8, y0 * 0.2 + y1 * 0.8))
    glow = np.zeros(picture.shape[:2], np.float32)
    axes = rng.uniform(0.08, 0.3, 2) * (x1 - x0)
    cv2.ellipse(
        glow, tuple(map(int, centre)), tuple(map(int, axes)), float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA
    )
    glow = cv2.GaussianBlur(glow, (0, 0), 0.06 * (x1 - x0)) * rng.uniform(0.7, 1.6)
    glow = np.clip(glow, 0, 1)[..., None]
    return picture * (1 - glow) + 262 * glow


def _covered(rng: np.random.Generator, picture: np.ndarray, box) -> np.ndarray:
    """A bar, or something large, before the face."""
    x0, y0, x1, y1 = box
    middle, way = (
        np.array(((x0 + x1) / 2, (y0 + y1) / 2)) + rng.uniform(-0.3, 0.3, 2) * (x1 - x0),
        rng.uniform(0, np.pi),
    )
    along = np.array((np.cos(way), np.sin(way))) * 2 * (x1 - x0)
    colour = tuple(float(v) for v in rng.uniform(40, 210, 3))
    covered = picture.astype(np.float32).copy()
    cv2.line(
        covered,
        tuple(map(int, middle - along)),
        tuple(map(int, middle + along)),
        colour,
        int(rng.uniform(0.12, 0.4) * (x1 - x0)),
        cv2.LINE_AA,
    )
    return covered
