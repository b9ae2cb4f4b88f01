"""Pictures painted with numpy and OpenCV: tinted table tops, the face of a dial gauge and the plate of a sign.

Knows nothing of MuJoCo. Table textures are light greys that tile seamlessly and are tinted when drawn.
"""

from __future__ import annotations

import cv2
import numpy as np

from qwen3vl_ros.sim.specs import BAR_IN_PSI, COLOURS, GAUGE_SWEEP_RAD, GaugeSpec, SignSpec
from qwen3vl_ros.types import InvalidInput

TABLE_TEXTURE_PX = 512
GAUGE_TEXTURE_PX = 384
SIGN_TEXTURE_PX = (320, 192)
NEEDLE_REACH = 0.80  # from the middle of the face, in halves of its side
MARK_REACH = 0.83  # of the middle of a labelled mark

_INK = {"red": (200, 20, 20), "black": (25, 25, 28)}
_ZONE = {"green": (40, 165, 60), "yellow": (240, 200, 30), "red": (215, 30, 25)}
_FACE = {"white": (248, 248, 246), "cream": (246, 238, 214)}


def _noise(rng: np.random.Generator, cells_x: int, cells_y: int, size: int) -> np.ndarray:
    """Smooth tileable noise in -1..1 with the given number of cells across the picture."""
    grid = np.pad(rng.uniform(-1, 1, (cells_y, cells_x)), 2, mode="wrap").astype(np.float32)
    big = cv2.resize(grid, None, fx=size / cells_x, fy=size / cells_y, interpolation=cv2.INTER_CUBIC)
    y, x = round(2 * size / cells_y), round(2 * size / cells_x)
    return big[y : y + size, x : x + size]


def table_texture(name: str) -> np.ndarray:
    """TABLE_TEXTURE_PX square, RGB uint8, tileable, mean near 235 so that the tint decides the colour."""
    n = TABLE_TEXTURE_PX
    rng = np.random.default_rng([7, *name.encode()])
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n
    tone = np.zeros((n, n), np.float32)
    if name == "plain":
        tone += 0.01 * _noise(rng, 64, 64, n)
    elif name in ("oak", "planks"):
        warp = 0.35 * _noise(rng, 2, 4, n) + 0.12 * _noise(rng, 4, 8, n)
        rings = np.sin(2 * np.pi * (9 * y + warp))
        fibre = _noise(rng, 8, 256, n) + 0.6 * _noise(rng, 16, 512, n)
        tone += 0.05 * rings + 0.05 * fibre + 0.05 * _noise(rng, 2, 16, n)
        if name == "planks":
            board = (y * 4).astype(int)
            tone += np.array([0.05, -0.07, 0.02, -0.02], np.float32)[board]
            seam = np.minimum(y * 4 % 1, 1 - y * 4 % 1)
            tone -= 0.35 * np.exp(-((seam / 0.012) ** 2))
            shift = np.array([0.1, 0.6, 0.35, 0.85], np.float32)[board]
            joint = np.abs((x - shift + 0.5) % 1 - 0.5)
            tone -= 0.30 * np.exp(-((joint / 0.003) ** 2))
    elif name == "linen":
        tone += 0.045 * np.sin(2 * np.pi * 96 * x) + 0.045 * np.sin(2 * np.pi * 96 * y)
        tone += 0.05 * _noise(rng, 256, 32, n) * _noise(rng, 32, 256, n) + 0.03 * _noise(rng, 6, 6, n)
    elif name == "speckle":
        spots = _noise(rng, 170, 170, n)
        tone += 0.03 * _noise(rng, 32, 32, n) - 0.16 * (spots > 0.75) + 0.05 * (spots < -0.8)
    elif name == "brushed":
        tone += 0.06 * _noise(rng, 4, 512, n) + 0.04 * _noise(rng, 2, 128, n) + 0.03 * _noise(rng, 2, 3, n)
    elif name == "marble":
        cloud = sum(_noise(rng, 3 * 2**k, 3 * 2**k, n) / 2**k for k in range(5))
        vein = np.abs(np.sin(2 * np.pi * (x + y) + 2.2 * cloud))
        tone += 0.05 * cloud - 0.20 * np.exp(-((vein / 0.10) ** 2))
    elif name == "cork":
        grain = _noise(rng, 120, 120, n) + 0.6 * _noise(rng, 48, 48, n)
        tone += 0.05 * grain - 0.12 * (grain > 1.0)
    elif name == "concrete":
        tone += sum(0.035 * _noise(rng, 4 * 3**k, 4 * 3**k, n) for k in range(4))
    elif name == "checked":
        tone += np.where(((x * 8).astype(int) + (y * 8).astype(int)) % 2, 0.04, -0.14) + 0.02 * _noise(rng, 128, 128, n)
    elif name == "striped":
        tone += np.where((x * 12 % 1) < 0.5, 0.04, -0.10) + 0.015 * _noise(rng, 64, 64, n)
    elif name == "tiles":
        seam = np.minimum.reduce([x * 6 % 1, 1 - x * 6 % 1, y * 6 % 1, 1 - y * 6 % 1])
        cell = rng.uniform(-0.05, 0.05, (6, 6)).astype(np.float32)
        tone += cell[(y * 6).astype(int), (x * 6).astype(int)] + 0.015 * _noise(rng, 48, 48, n)
        tone -= 0.25 * np.exp(-((seam / 0.02) ** 2))
    else:
        raise InvalidInput(f"table texture {name!r} is unknown; see scenes.TABLE_TEXTURES")
    grey = np.clip(0.90 + tone, 0, 1)
    return np.repeat((255 * grey[..., None]).astype(np.uint8), 3, axis=2)


def needle_angle_rad(fraction: float) -> float:
    """Direction of the needle, counter-clockwise from the dial's right: 225 deg at 0, -45 deg at 1."""
    return float(np.deg2rad(225.0) - fraction * GAUGE_SWEEP_RAD)


def gauge_face(gauge: GaugeSpec, side_px: int = GAUGE_TEXTURE_PX) -> np.ndarray:
    """side_px square, RGB uint8, upright: zones, ticks, numbers, unit and the needle at its value."""
    big = 2 * side_px
    wide, thin = (max(1, round(n * side_px / GAUGE_TEXTURE_PX)) for n in (12, 5))
    c, r = big / 2, big / 2
    image = np.empty((big, big, 3), np.uint8)
    image[:] = _FACE[gauge.face]
    ink = _INK["black"]

    def at(fraction: float, radius: float) -> tuple[int, int]:
        a = needle_angle_rad(fraction)
        return round(c + radius * r * np.cos(a)), round(c - radius * r * np.sin(a))

    span = gauge.maximum - gauge.minimum
    for low, high, colour in gauge.zones:
        edges = np.linspace((low - gauge.minimum) / span, (high - gauge.minimum) / span, 48)
        arc = [at(f, 0.975) for f in edges] + [at(f, 0.885) for f in edges[::-1]]
        cv2.fillPoly(image, [np.array(arc, np.int32)], _ZONE[colour], cv2.LINE_AA)
    intervals, minors = scale_steps(gauge.minimum, gauge.maximum)
    ticks = intervals * minors
    for i in range(ticks + 1):
        major = i % minors == 0
        cv2.line(
            image,
            at(i / ticks, 0.76 if major else 0.83),
            at(i / ticks, 0.90),
            ink,
            wide if major else thin,
            cv2.LINE_AA,
        )
    for i in range(intervals + 1):
        _text(image, f"{gauge.minimum + span * i / intervals:g}", at(i / intervals, 0.57), 0.085 * big, ink)
    _text(image, gauge.unit, (round(c), round(c + 0.60 * r)), 0.088 * big, ink)
    if gauge.inner[0]:
        _inner_scale(image, gauge, at)
    red = gauge.needle_colour == "red"
    a = needle_angle_rad(gauge.needle_fraction)
    side = np.array((np.sin(a), np.cos(a)))
    tip, tail = np.array(at(gauge.needle_fraction, NEEDLE_REACH)), np.array(at(gauge.needle_fraction, -0.18))
    width = 0.036 * r
    blade = np.round([tail + side * width, tail - side * width, tip - side * 0.35 * width, tip + side * 0.35 * width])
    cv2.fillPoly(image, [blade.astype(np.int32)], _INK["red" if red else "black"], cv2.LINE_AA)
    cv2.circle(image, (round(c), round(c)), round(0.085 * r), ink, -1, cv2.LINE_AA)
    return cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA)


def _inner_scale(image: np.ndarray, gauge: GaugeSpec, at) -> None:
    """The second scale of a dual face, small and blue; its unit stands above the middle."""
    unit, maximum = gauge.inner
    ink, big = (30, 60, 150), image.shape[0]
    intervals, _ = scale_steps(0.0, maximum)
    whole = (gauge.maximum - gauge.minimum) * (BAR_IN_PSI if unit == "psi" else 1 / BAR_IN_PSI)
    for i in range(intervals + 1):
        share = maximum * i / intervals / whole
        cv2.line(image, at(share, 0.40), at(share, 0.46), ink, max(1, round(5 * big / 768)), cv2.LINE_AA)
        _text(image, f"{maximum * i / intervals:g}", at(share, 0.31), 0.045 * big, ink)
    _text(image, unit, (big // 2, round(0.64 * big)), 0.05 * big, ink)


def sign_face(sign: SignSpec) -> np.ndarray:
    """SIGN_TEXTURE_PX, RGB uint8, upright: the text as large as the plate allows, inside a border."""
    width, height = (2 * n for n in SIGN_TEXTURE_PX)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = 255 * np.asarray(COLOURS[sign.colour])
    ink = (25, 25, 28) if sign.ink == "black" else (248, 248, 246)
    cv2.rectangle(image, (14, 14), (width - 15, height - 15), ink, 8)
    scale, thickness, (left, base) = _sign_layout(sign.text)
    cv2.putText(image, sign.text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)
    return cv2.resize(image, SIGN_TEXTURE_PX, interpolation=cv2.INTER_AREA)


def sign_letters(text: str) -> list[tuple[str, float, float]]:
    """Each character of a sign's text with its centre on the plate, 0..1 to the right and down."""
    scale, thickness, (left, base) = _sign_layout(text)
    width, height = (2 * n for n in SIGN_TEXTURE_PX)
    ends = [cv2.getTextSize(text[:n], cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0] for n in range(len(text) + 1)]
    tall = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][1]
    return [(c, (left + (ends[n] + ends[n + 1]) / 2) / width, (base - tall / 2) / height) for n, c in enumerate(text)]


def _sign_layout(text: str) -> tuple[float, int, tuple[int, int]]:
    """Scale and thickness of the font, and where the text begins: left, base line."""
    width, height = (2 * n for n in SIGN_TEXTURE_PX)
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 12)
    scale = min((width - 90) / w, (height - 110) / h)
    thickness = max(10, round(4.5 * scale))
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    return scale, thickness, (round((width - w) / 2), round((height + h) / 2))


def scale_steps(minimum: float, maximum: float) -> tuple[int, int]:
    """(labelled intervals, small ticks in each) with round labels; an even count, so that the middle has one."""
    for intervals in (6, 4, 8, 10):
        step = (maximum - minimum) / intervals
        mantissa = step / 10 ** np.floor(np.log10(step))
        for round_step, minors in ((1, 5), (2, 4), (2.5, 5), (4, 4), (5, 5)):
            if abs(mantissa - round_step) < 1e-6:
                return intervals, minors
    return 4, 5


def _text(image: np.ndarray, text: str, centre_px: tuple[int, int], height_px: float, ink) -> None:
    degree = text.startswith("°")  # OpenCV's stroke fonts have no degree sign: draw it as a ring
    text = text.lstrip("°")
    # OpenCV 4 and 5 draw this font in different sizes: the height decides.
    scale = height_px / cv2.getTextSize("0", cv2.FONT_HERSHEY_SIMPLEX, 1.0, 3)[0][1]
    thickness = max(2, round(0.115 * height_px))
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    ring = round(0.22 * h) if degree else 0
    x, y = round(centre_px[0] - w / 2 + 1.5 * ring), round(centre_px[1] + h / 2)
    if degree:
        cv2.circle(image, (x - 2 * ring, y - h + ring), ring, ink, max(2, thickness // 2), cv2.LINE_AA)
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)
