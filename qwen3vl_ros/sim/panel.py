"""A plant panel to inspect: dials, a lamp, a display and a sign on a wall, whose values follow a seeded process.

Painted and seen through a perspective, with uneven light and a camera's noise. What it shows is a function of (seed, t) alone, and the
truth comes with it. The pressure passes its red line of 1.6 MPa once in every CYCLE_S, stays at 1.8 MPa, and comes back. Knows nothing of
ROS and of how it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from qwen3vl_ros.sim.specs import GaugeSpec, SignSpec
from qwen3vl_ros.sim.textures import gauge_face, sign_face
from qwen3vl_ros.types import InvalidInput

CYCLE_S = 40.0
RISES_S, HIGH_S, FALLS_S = 5.0, 8.0, 20.0  # in a cycle: the pressure begins to rise, is at 1.8 MPa, begins to fall
LAMP_S = (14.0, 28.0)  # in a cycle: the lamp is green, the valve open
WALL_PX = (1600, 1200)
_DIALS = {
    # name: centre on the wall, radius, face
    "boiler_pressure": (
        (330, 330),
        230,
        GaugeSpec(
            (0, 0, 0),
            0,
            0,
            0.1,
            0.0,
            2.5,
            "MPa",
            0.0,
            needle_colour="black",
            zones=((0.0, 1.3, "green"), (1.3, 1.6, "yellow"), (1.6, 2.5, "red")),
        ),
    ),
    "oil_temperature": ((870, 330), 230, GaugeSpec((0, 0, 0), 0, 0, 0.1, 0.0, 120.0, "°C", 0.0, needle_colour="red")),
    "line_pressure": (
        (330, 880),
        230,
        GaugeSpec((0, 0, 0), 0, 0, 0.1, 0.0, 10.0, "bar", 0.0, needle_colour="red", inner=("psi", 120.0)),
    ),
}
_LAMP, _LAMP_RADIUS = (1290, 300), 90
_DISPLAY, _SIGN = (620, 980, 1020, 1130), (1130, 840, 1530, 1080)
_NOISE = 2.0


_YAML = """# The points of the simulated plant panel (launch/inspection.launch.py); docs/inspection.md has the format.
# Written by `python -m qwen3vl_ros.sim.panel`. roi: x0, y0, x1, y1 in pixels of the picture.
points:
  boiler_pressure:
    kind: gauge
    quantity: pressure
    unit: MPa
    range: [0, 2.5]
    sweep: 270              # degrees from the first mark to the last: says when a part of the scale is hidden
    check: geometry         # the embedded model does not know this scale; a larger one does, then leave this out
    roi: {boiler_pressure}
    zones:
      green: [0, 1.3]
      yellow: [1.3, 1.6]
      red: [1.6, 2.5]
    alarms:
      high: {{above: 1.6, deadband: 0.05, on_delay: 2, off_delay: 2, severity: 800, latch: true}}
    max_rate: 0.5           # MPa a second
    period: 1
    stale_after: 10
  oil_temperature:
    kind: gauge
    quantity: oil temperature
    unit: Cel
    range: [0, 120]
    roi: {oil_temperature}
    alarms:
      high: {{above: 100, deadband: 3, on_delay: 5, off_delay: 5, severity: 500}}
    period: 2
  line_pressure:
    kind: gauge
    quantity: line pressure
    unit: bar               # the outer scale; the inner one is in psi
    range: [0, 10]
    roi: {line_pressure}
    alarms:
      low: {{below: 1, deadband: 0.3, on_delay: 5, off_delay: 5, severity: 600}}
    period: 2
  valve:
    kind: presence
    quantity: drain valve
    look_for: green ball    # the lamp: green while the valve is open
    states: [open, closed]
    roi: {valve}
    alarms:
      opened: {{when: open, on_delay: 2, off_delay: 2, severity: 300}}
    period: 1
  flow_display:
    kind: display           # text is beyond the embedded model: UNREADABLE until a larger one runs
    quantity: flow
    unit: L/min
    range: [0, 100]
    roi: {flow_display}
    period: 10
  sign:
    kind: text
    roi: {sign}
    period: 10
"""


@dataclass(frozen=True, eq=False)
class PanelView:
    """rgb: HxWx3 uint8. values: of each instrument, in its unit; the lamp's is 1 for green. rois_xyxy_px: where each is."""

    rgb: np.ndarray
    values: dict[str, float]
    rois_xyxy_px: dict[str, tuple[int, int, int, int]]


class Panel:
    """seed: of the camera's place, the light and the process. shift_px: how far the camera has been turned since."""

    def __init__(self, seed: int = 0, width: int = 960, height: int = 720, shift_px: tuple[float, float] = (0.0, 0.0)):
        if not (320 <= width <= 4096 and 240 <= height <= 4096):
            raise InvalidInput(f"Panel size is {width}x{height}; it must be 320x240 to 4096x4096 px")
        self.seed, self.size_px = int(seed), (int(width), int(height))
        rng = np.random.default_rng([0x9A7E1, self.seed & 0xFFFFFFFF])
        w, h = self.size_px
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
        lean = rng.uniform(0.0, 0.06, (4, 2)) * (1, 1)
        seen = (0.02 + 0.96 * corners + lean * np.where(corners > 0.5, -1, 1)) * (w, h) + shift_px
        self.wall_to_picture = cv2.getPerspectiveTransform(
            (corners * WALL_PX).astype(np.float32), seen.astype(np.float32)
        )
        y, x = np.linspace(0, 1, h, dtype=np.float32)[:, None], np.linspace(0, 1, w, dtype=np.float32)[None]
        turn = rng.uniform(0, 2 * np.pi)
        self._light = (0.92 + 0.14 * (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5)))[..., None]
        self._wall = self._bare_wall(rng)
        self._phases = rng.uniform(0, 2 * np.pi, (len(_DIALS) + 1, 3))

    def values_at(self, t_s: float) -> dict[str, float]:
        """What every instrument shows at t_s >= 0."""
        if not (np.isfinite(t_s) and t_s >= 0):
            raise InvalidInput(f"t_s is {t_s}; it must be a finite time at or after 0 s")
        at = t_s % CYCLE_S
        drift = [
            float(np.mean([np.sin(2 * np.pi * t_s / period + phase) for period, phase in zip((41.0, 17.0, 7.3), p)]))
            for p in self._phases
        ]
        rise = np.interp(at, (0, RISES_S, HIGH_S, FALLS_S, FALLS_S + 3.0, CYCLE_S), (0, 0, 1, 1, 0, 0))
        return {
            "boiler_pressure": float(1.1 + 0.7 * rise + 0.02 * (1 - rise) * drift[0]),
            "oil_temperature": 62.0 + 14.0 * drift[1],
            "line_pressure": 4.2 + 1.1 * drift[2],
            "valve": float(LAMP_S[0] <= at < LAMP_S[1]),
            "flow_display": round(37.5 + 6.0 * drift[3], 1),
        }

    def frame_at(self, t_s: float) -> PanelView:
        values = self.values_at(t_s)
        wall = self._wall.copy()
        for name, (centre, radius, face) in _DIALS.items():
            self._dial(wall, centre, radius, replace(face, value=min(max(values[name], face.minimum), face.maximum)))
        self._lamp(wall, bool(values["valve"]))
        x0, y0, x1, y1 = _DISPLAY
        cv2.rectangle(wall, (x0, y0), (x1, y1), (225, 228, 220), -1)
        cv2.rectangle(wall, (x0, y0), (x1, y1), (30, 32, 34), 8)
        cv2.putText(
            wall,
            f"{values['flow_display']:.1f}",
            (x0 + 60, y1 - 35),
            cv2.FONT_HERSHEY_SIMPLEX,
            3.2,
            (20, 20, 24),
            12,
            cv2.LINE_AA,
        )
        seen = cv2.warpPerspective(
            wall, self.wall_to_picture, self.size_px, flags=cv2.INTER_AREA, borderValue=(96, 102, 108)
        )
        rng = np.random.default_rng([self.seed & 0xFFFFFFFF, round(t_s * 1e6)])
        noisy = cv2.GaussianBlur(seen, (0, 0), 0.6).astype(np.float32) * self._light
        noisy += _NOISE * rng.standard_normal(seen.shape, np.float32)
        return PanelView(np.clip(noisy, 0, 255).astype(np.uint8), values, self.rois_xyxy_px)

    @property
    def rois_xyxy_px(self) -> dict[str, tuple[int, int, int, int]]:
        places = {
            name: (x - 1.12 * r, y - 1.12 * r, x + 1.12 * r, y + 1.12 * r) for name, ((x, y), r, _) in _DIALS.items()
        }
        (x, y), r = _LAMP, 3.2 * _LAMP_RADIUS
        places |= {"valve": (x - r, y - r, x + r, y + r)}
        places |= {"flow_display": (_DISPLAY[0] - 40, _DISPLAY[1] - 60, _DISPLAY[2] + 40, _DISPLAY[3] + 60)}
        places |= {"sign": (_SIGN[0] - 30, _SIGN[1] - 40, _SIGN[2] + 30, _SIGN[3] + 40)}
        return {name: self._in_picture(place) for name, place in places.items()}

    def _in_picture(self, place) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = place
        corners = np.array([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]], np.float32)
        at = cv2.perspectiveTransform(corners, self.wall_to_picture)[0]
        low, high = np.clip(at.min(0), 0, self.size_px), np.clip(at.max(0), 0, self.size_px)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def inspection_yaml(self) -> str:
        """The inspection file of this panel, as config/inspection.yaml has it."""
        rois = {name: "[" + ", ".join(map(str, roi)) + "]" for name, roi in self.rois_xyxy_px.items()}
        return _YAML.format(**rois)

    @staticmethod
    def _bare_wall(rng: np.random.Generator) -> np.ndarray:
        w, h = WALL_PX
        wall = np.empty((h, w, 3), np.float32)
        wall[:] = np.array((148, 158, 166)) + rng.uniform(-12, 12, 3)
        wall += cv2.GaussianBlur(rng.standard_normal((h, w, 1)).astype(np.float32), (0, 0), 3)[..., None] * 12
        wall = np.clip(wall, 0, 255).astype(np.uint8)
        for x, y in ((25, 25), (w - 25, 25), (25, h - 25), (w - 25, h - 25)):
            cv2.circle(wall, (x, y), 12, (70, 74, 78), -1, cv2.LINE_AA)
        cv2.line(wall, (1130, 500), (1500, 560), (84, 88, 92), 26, cv2.LINE_AA)  # a pipe
        cv2.line(wall, (1290, 390), (1290, 530), (84, 88, 92), 26, cv2.LINE_AA)
        x0, y0, x1, y1 = _SIGN
        wall[y0:y1, x0:x1] = cv2.resize(
            sign_face(SignSpec((0, 0, 0), 0, 0, (0.2, 0.12), "DANGER", "yellow", "black")), (x1 - x0, y1 - y0)
        )
        return wall

    @staticmethod
    def _dial(wall: np.ndarray, centre, radius: int, face: GaugeSpec) -> None:
        x, y = centre
        cv2.circle(wall, (x + 8, y + 10), radius, (96, 102, 108), -1, cv2.LINE_AA)
        cv2.circle(wall, (x, y), radius, (28, 30, 33), -1, cv2.LINE_AA)
        inner = round(0.90 * radius)
        painted = gauge_face(face, 2 * inner)
        mask = np.zeros((2 * inner, 2 * inner), np.uint8)
        cv2.circle(mask, (inner, inner), inner - 1, 255, -1)
        part = wall[y - inner : y + inner, x - inner : x + inner]
        part[mask > 0] = painted[mask > 0]

    @staticmethod
    def _lamp(wall: np.ndarray, on: bool) -> None:
        """A ball with light and shade, green or red."""
        (cx, cy), r = _LAMP, _LAMP_RADIUS
        y, x = np.mgrid[-r : r + 1, -r : r + 1] / r
        inside = x**2 + y**2 < 1
        z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
        shade = 0.35 + 0.65 * np.clip(-0.35 * x - 0.5 * y + 0.78 * z, 0, 1)
        shine = np.clip(-0.35 * x - 0.5 * y + 0.78 * z, 0, 1) ** 40
        rgb = np.array((38, 150, 60) if on else (200, 32, 30), float)
        ball = np.clip(shade[..., None] * rgb + 160 * shine[..., None], 0, 255)
        part = wall[cy - r : cy + r + 1, cx - r : cx + r + 1]
        part[inside] = ball[inside].astype(np.uint8)


if __name__ == "__main__":
    print(Panel().inspection_yaml(), end="")
