"""A drawn world for trackers: textured cards in front of a textured wall, seen by a pinhole camera that may move.

Every card faces the camera; what is true is known exactly. Draws a picture in a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from qwen3vl_ros.types import Detection2D, Frame

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
K = np.array(((FOCAL, 0, 159.5), (0, FOCAL, 119.5), (0, 0, 1.0)))
WALL_M = 1.2


def texture(seed: int, shape=(120, 120)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(30, 226, (9, 9, 3), np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.GaussianBlur(coarse, (0, 0), 1.0)


@dataclass
class Card:
    """way(t_s) -> x, y, z of its middle, metres, in the world (the camera's frame at its start)."""

    label: str
    way: callable
    size_m: tuple[float, float] = (0.12, 0.10)
    seed: int = 1


@dataclass
class Cards:
    """camera(t_s) -> x, y, z of the camera. known_pose: whether frames say so. depth, light: as of the frames."""

    cards: list[Card]
    camera: callable = lambda t: (0.0, 0.0, 0.0)
    known_pose: bool = True
    depth: bool = True
    light: callable = lambda t: (1.0, 0.0)
    wall_seed: int = 100
    start_ns: int = 1_000_000_000
    _textures: dict = field(default_factory=dict)

    def box(self, card: Card, t_s: float) -> np.ndarray:
        """Its outline in the picture, xyxy edges, not cut."""
        x, y, z = np.subtract(card.way(t_s), self.camera(t_s))
        u, v = FOCAL * x / z + 160.0, FOCAL * y / z + 120.0
        w, h = np.multiply(card.size_m, FOCAL / z / 2)
        return np.array((u - w, v - h, u + w, v + h))

    def stamp_ns(self, t_s: float) -> int:
        return self.start_ns + round(1e9 * t_s)

    def frame(self, t_s: float) -> Frame:
        rgb, depth_m = self._wall(t_s)
        for card in sorted(self.cards, key=lambda c: -c.way(t_s)[2]):
            self._draw(rgb, depth_m, self.box(card, t_s), texture(card.seed), card.way(t_s)[2] - self.camera(t_s)[2])
        gain, offset = self.light(t_s)
        rgb = np.clip(rgb * gain + offset, 0, 255).astype(np.uint8)
        what = {}
        if self.depth:
            what |= {"depth_m": depth_m, "K": K}
        if self.known_pose:
            pose = np.eye(4)
            pose[:3, 3] = self.camera(t_s)
            what |= {"target_T_camera": pose, "target_frame": "world"}
        return Frame(self.stamp_ns(t_s), "camera", rgb, **what)

    def _wall(self, t_s: float):
        big = self._textures.setdefault(self.wall_seed, texture(self.wall_seed, (720, 960)))
        x, y, z = self.camera(t_s)
        scale = FOCAL / (WALL_M - z)
        shift = np.array(((scale / FOCAL * WALL_M, 0, -320 - x * scale), (0, scale / FOCAL * WALL_M, -240 - y * scale)))
        rgb = cv2.warpAffine(big, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        return rgb, np.full((HEIGHT, WIDTH), WALL_M - z, np.float32)

    @staticmethod
    def _draw(rgb, depth_m, box, picture, z):
        x0, y0, x1, y1 = box
        h, w = picture.shape[:2]
        fit = np.array((((x1 - x0) / w, 0, x0), (0, (y1 - y0) / h, y0)))
        fit[:, 2] += 0.5 * (fit[(0, 1), (0, 1)] - 1)
        drawn = cv2.warpAffine(picture, fit, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        corners = np.rint(box).astype(int)
        mask[max(corners[1], 0) : max(corners[3], 0), max(corners[0], 0) : max(corners[2], 0)] = 1
        rgb[mask == 1], depth_m[mask == 1] = drawn[mask == 1], z

    def answer(self, t_s: float, *labels: str) -> tuple[Detection2D, ...]:
        """What an oracle says of the picture: the boxes of all cards, or of those with the labels."""
        limits = (WIDTH, HEIGHT, WIDTH, HEIGHT)
        return tuple(
            Detection2D(c.label, tuple(float(v) for v in np.clip(self.box(c, t_s), 0, limits)), 0.8)
            for c in self.cards
            if not labels or c.label in labels
        )


def still(x: float, y: float, z: float = 0.9):
    return lambda t: (x, y, z)


def sliding(x: float, y: float, z: float, speed_x: float, speed_y: float = 0.0, speed_z: float = 0.0):
    return lambda t: (x + speed_x * t, y + speed_y * t, z + speed_z * t)


def iou(a, b) -> float:
    a, b = np.asarray(a, float), np.asarray(b, float)
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap))
