"""Dials and signs painted anew on their rendered views: rendering costs a hundred times as much, and a dial that always reads
the same in one scene is learned by heart. Knows nothing of files, prompts or networks.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from samples import VIEW_SIZE, Sample, pointed

from qwen3vl_ros.sim.furniture import world_T_sign
from qwen3vl_ros.sim.scenes import GAUGE_SCALES, SceneSpec, dial_value
from qwen3vl_ros.sim.specs import COLOURS, FOVY_DEG, SIGN_TEXTS, SIGN_WORDS
from qwen3vl_ros.sim.textures import (
    GAUGE_TEXTURE_PX,
    MARK_REACH,
    NEEDLE_REACH,
    gauge_face,
    needle_angle_rad,
    sign_face,
    sign_letters,
)
from qwen3vl_ros.sim.truth import face_side_m, world_T_dial
from qwen3vl_ros.sim.wide import repaint_dial


def image_H_face(scene: SceneSpec, pose: np.ndarray, size_m: tuple[float, float]) -> np.ndarray:
    """3x3 homography: pixel edges of the whole view from places on a face, 0..1 to its right and down."""
    w, h = VIEW_SIZE
    focal = h / 2 / np.tan(np.deg2rad(FOVY_DEG) / 2)
    k = np.array(((focal, 0, w / 2), (0, focal, h / 2), (0, 0, 1.0)))
    face = np.linalg.inv(scene.camera.world_T_camera()) @ pose
    x, y = face[:3, 0] * size_m[0], -face[:3, 1] * size_m[1]
    return k @ np.stack([x, y, face[:3, 3] - (x + y) / 2], 1)


class _Surface:
    """A flat picture in a rendered view: where it is seen and how it is lit, so that another can take its place.

    opaque: HxW uint8, 255 where the picture may be replaced. old: HxWx3 uint8, as it was rendered.
    """

    def __init__(self, sample: Sample, index: int, homography: np.ndarray, old: np.ndarray, opaque: np.ndarray):
        self.index = index
        mine = sample.labels == index
        ys, xs = np.nonzero(mine)
        self._window = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        self._size = int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
        # The texture at nearly the size it has in the view, so that no line aliases.
        width = int(np.clip(1.3 * max(self._size), 96, 320)) if max(self._size) > 125 else 160
        self.texture_px = width, round(width * old.shape[0] / old.shape[1])
        # Pixel edges to centres, on both sides.
        centres = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1)))
        window_T_view = np.array(((1, 0, -xs.min()), (0, 1, -ys.min()), (0, 0, 1.0)))
        to_view = homography @ np.diag((1 / self.texture_px[0], 1 / self.texture_px[1], 1))
        self._window_H_texture = window_T_view @ centres @ to_view @ np.linalg.inv(centres)
        mask = (self._seen(opaque) > 250) & mine[self._window]
        self._mask = mask[..., None]
        # The light on the old face, smoothed: all that the new one takes over from it.
        blur = lambda x: cv2.GaussianBlur(x * self._mask.astype(np.float32), (0, 0), 6.0)  # noqa: E731
        light = blur(sample.rgb[self._window].astype(np.float32)) / np.maximum(blur(self._seen(old)), 1.0)
        small = max(1, self._size[0] // 4), max(1, self._size[1] // 4)  # smooth as it is, a quarter of it says all
        self._light = cv2.resize(light, small, interpolation=cv2.INTER_AREA).astype(np.float16)

    def _seen(self, face: np.ndarray) -> np.ndarray:
        face = cv2.resize(face, self.texture_px, interpolation=cv2.INTER_AREA)
        return cv2.warpPerspective(face, self._window_H_texture, self._size).astype(np.float32)

    def paint(self, rgb: np.ndarray, face: np.ndarray) -> np.ndarray:
        """A copy of the whole view with another face."""
        light = cv2.resize(self._light.astype(np.float32), self._size, interpolation=cv2.INTER_LINEAR)
        painted = np.clip(self._seen(face) * light, 0, 255)
        rgb = rgb.copy()
        rgb[self._window] = np.where(self._mask, painted, rgb[self._window])
        return rgb


class Face:
    """A rendered dial's face, to be painted anew."""

    def __init__(self, sample: Sample, scene: SceneSpec):
        self.scene, self.index = scene, next(k for k, t in enumerate(sample.things) if t.kind == "gauge")
        size = GAUGE_TEXTURE_PX
        disc = cv2.circle(np.zeros((size, size), np.uint8), (size // 2,) * 2, size // 2 - 4, 255, -1)
        side = face_side_m(scene.gauge)
        self._homography = image_H_face(scene, world_T_dial(scene.gauge), (side, side))
        self._surface = _Surface(sample, self.index, self._homography, gauge_face(scene.gauge), disc)

    def with_new_reading(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The whole view this face is in, with another scale, value and needle on it; in the wider world, other zones too."""
        if sample.wide:
            new = repaint_dial(self.scene.gauge, rng)
        else:
            unit, low, high = GAUGE_SCALES[rng.integers(len(GAUGE_SCALES))]
            value, needle = dial_value(rng, low, high), str(rng.choice(["red", "black"]))
            new = replace(self.scene.gauge, unit=unit, minimum=low, maximum=high, value=value, needle_colour=needle)
        dial = dict(value=new.value, minimum=new.minimum, maximum=new.maximum, unit=new.unit, zone=new.zone)
        dial |= pointed(self._points_px(new.needle_fraction))
        return replace(
            sample,
            rgb=self._surface.paint(sample.rgb, gauge_face(new, self._surface.texture_px[0])),
            dials={self.index: dial},
        )

    def _points_px(self, fraction: float) -> dict[str, tuple[float, float]]:
        points = {}
        for name, reach, at in (
            ("centre", 0, 0),
            ("tip", NEEDLE_REACH, fraction),
            ("first", MARK_REACH, 0),
            ("last", MARK_REACH, 1),
        ):
            angle = needle_angle_rad(at)
            u, v, s = self._homography @ (0.5 + reach / 2 * np.cos(angle), 0.5 - reach / 2 * np.sin(angle), 1)
            points[name] = float(u / s), float(v / s)
        return points


class Plate:
    """A rendered sign's plate, to be worded anew."""

    def __init__(self, sample: Sample, scene: SceneSpec):
        self.scene, self.index = scene, next(k for k, t in enumerate(sample.things) if t.kind == "sign")
        sign, old = scene.sign, sign_face(scene.sign)
        self._inked = np.full(old.shape[:2], 255, np.uint8)
        self._homography = image_H_face(scene, world_T_sign(sign), sign.size_m)
        self._surface = _Surface(sample, self.index, self._homography, old, self._inked)

    def with_new_text(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The whole view this plate is in, with another word on it, in another colour now and then."""
        text = str(rng.choice(SIGN_WORDS if rng.random() < 0.65 else SIGN_TEXTS))
        new, things = replace(self.scene.sign, text=text), list(sample.things)
        if rng.random() < 0.5:
            colour = str(rng.choice(list(COLOURS)))
            new = replace(new, colour=colour, ink="black" if colour in ("white", "yellow", "orange") else "white")
        things[self.index] = replace(things[self.index], colour=new.colour)
        rgb = self._surface.paint(sample.rgb, sign_face(new))
        signs = {self.index: dict(text=text, points_px=self.letters_px(text))}
        return replace(sample, rgb=rgb, things=tuple(things), signs=signs)

    def letters_px(self, text: str) -> dict[str, tuple[float, float]]:
        """Where each character is in the whole view, by its number and itself: "0E", "1X"."""
        places = {}
        for n, (character, x, y) in enumerate(sign_letters(text)):
            u, v, s = self._homography @ (x, y, 1)
            places[f"{n}{character}"] = float(u / s), float(v / s)
        return places
