"""Coordinates of an answer -> pixels of the whole picture and metres of the camera's frame.

Coordinates are 0..1000 of what the model was shown, whatever the network saw, and become pixels in one place, `_to_px`.
Knows nothing of JSON, engines, depth or ROS.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from qwen3vl_ros.questions.parsing.candidates import Candidate, Candidates
from qwen3vl_ros.questions.parsing.repeats import without_repeats
from qwen3vl_ros.questions.parsing.scores import TokenLogprobs, box_score
from qwen3vl_ros.types import Answer, Detection2D, MalformedAnswer, ModelBox3D, Point2D, View

FULL_SCALE = 1000.0
_SLACK = 50.0  # this far outside 0..1000 is a slip at the border, farther is another scale
_POINT_EXTENT = 100.0  # a point has no size of its own: a tenth of the image
_ANGLE_EXTENT = 0.5  # of pi: a quarter turn
_ABSURD = 1e9
_LEAST_EXTENT = 1e-3  # of a box, in thousandths of the image: less is a slip, and no area to compute with
_NEAREST_M, _FARTHEST_M, _LEAST_SIZE_M = 0.001, 1000.0, 0.0001


class Placed:
    """Candidates -> values in pixels and metres."""

    def __init__(self, collected: Candidates, logprobs: TokenLogprobs, view: View):
        self.wanted, self.logprobs = collected.wanted, logprobs
        self.origin_px, self.shown_px = view.origin_px, view.shown_px
        self.reasons, self.mended = collected.reasons, collected.mended
        self.candidates, self.notes = collected.found, collected.notes

    def answer(self) -> Answer:
        finite = self._finite(self.candidates)
        candidates = without_repeats(finite)
        repeats = len(finite) - len(candidates)
        if repeats:
            self.mended["said again"] += repeats
        detections, points, boxes_3d = [], [], []
        if 9 not in self.wanted.numbers:  # those are metres
            candidates = self._of_our_scale(candidates)
        for c in candidates:
            if c.shape.kind == "box":
                detections += self._box(c)
            elif c.shape.kind == "box_3d":
                boxes_3d += self._box_3d(c)
            else:
                points += self._point(c)
        dropped = sum(self.reasons.values())
        if dropped and not (detections or points or boxes_3d) and not self.wanted.prose:
            raise MalformedAnswer(
                f"none of the {dropped} objects in the answer could be used ({'; '.join(self.notes())})",
                self.logprobs.text,
                dropped,
            )
        return Answer(tuple(detections), tuple(points), tuple(boxes_3d), dropped, repeats, self.notes())

    def _finite(self, candidates: list[Candidate]) -> list[Candidate]:
        kept = [c for c in candidates if all(abs(v) < _ABSURD for v in c.values)]
        if len(kept) < len(candidates):
            self.reasons["coordinates that are not finite"] += len(candidates) - len(kept)
        return kept

    def _of_our_scale(self, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates on the 0..1000 scale. Raises MalformedAnswer if the answer is on another one.

        A wrong scale makes every box wrong, also those that happen to lie below 1000, and a robot acts on them; so
        only a slip is forgiven: one object far outside among at least three, with numbers that are no pixels either.
        """
        if not candidates:
            return candidates
        off = [c for c in candidates if not all(-_SLACK <= v <= FULL_SCALE + _SLACK for v in c.values)]
        values = [v for c in candidates for v in c.values]
        unit = all(0.0 <= v <= 1.0 for v in values) and any(0.0 < v < 1.0 for v in values)
        as_pixels = any(all(-_SLACK <= v <= 1.05 * self.shown_px[i % 2] for i, v in enumerate(c.values)) for c in off)
        if not (unit or off) or (off and len(off) == 1 and len(candidates) >= 3 and not as_pixels):
            if off:
                self.reasons["coordinates far outside 0..1000"] += 1
            return [c for c in candidates if c not in off]
        if self.wanted.prose:
            self.reasons["coordinates on another scale than 0..1000"] += len(candidates)
            return []
        what = "0..1" if unit else "up to %g" % max(v for c in off for v in c.values)
        raise MalformedAnswer(
            f"coordinates are on another scale than 0..1000 ({what}, in {len(off) or len(candidates)} of "
            f"{len(candidates)} objects, image {self.shown_px[0]}x{self.shown_px[1]}); check that the checkpoint is a "
            "Qwen3-VL and what the server does to images",
            self.logprobs.text,
            len(candidates),
        )

    def _to_px(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """x, y, x, y … in 0..1000 -> pixels of the whole picture, inside what was shown."""
        if any(not 0.0 <= v <= FULL_SCALE for v in values):
            self.mended["coordinate just outside 0..1000, clamped"] += 1
        return tuple(
            self.origin_px[i % 2] + min(max(v / FULL_SCALE, 0.0), 1.0) * self.shown_px[i % 2]
            for i, v in enumerate(values)
        )

    def _box(self, c: Candidate) -> list[Detection2D]:
        corners = self._corners(c)
        x1, y1, x2, y2 = self._to_px(corners)
        width, height = corners[2] - corners[0], corners[3] - corners[1]
        if not (x2 > x1 and y2 > y1 and min(width, height) > _LEAST_EXTENT):
            self.reasons["box without area inside the image"] += 1
            return []
        return [Detection2D(c.label, (x1, y1, x2, y2), self._score(c, (width, height, width, height)))]

    def _point(self, c: Candidate) -> list[Point2D]:
        if c.shape.kind == "point":
            return [Point2D(c.label, self._to_px(c.values), self._score(c, (_POINT_EXTENT, _POINT_EXTENT)))]
        self.mended["box where a point was asked, its centre taken"] += 1
        x1, y1, x2, y2 = self._corners(c)
        center_px = self._to_px(((x1 + x2) / 2, (y1 + y2) / 2))
        return [Point2D(c.label, center_px, self._score(c, (x2 - x1, y2 - y1, x2 - x1, y2 - y1)))]

    def _corners(self, c: Candidate) -> tuple[float, float, float, float]:
        xa, ya, xb, yb = c.values
        if xa > xb or ya > yb:
            self.mended["corners in reverse order, swapped"] += 1
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)

    def _box_3d(self, c: Candidate) -> list[ModelBox3D]:
        center, size, angles = (np.asarray(c.values[i : i + 3]) for i in (0, 3, 6))
        if not (np.all(np.abs(center) < _FARTHEST_M) and center[2] >= _NEAREST_M):
            self.reasons["3D box not in front of the camera"] += 1
        elif not (np.all(size >= _LEAST_SIZE_M) and np.all(size < _FARTHEST_M)):
            self.reasons["3D box without volume, or of no size that things have"] += 1
        elif np.any(np.abs(angles) > 2.0):
            self.reasons["3D box whose angles are not in units of pi"] += 1
        else:
            score = self._score(c, (*size, *size, *(_ANGLE_EXTENT,) * 3))
            return [ModelBox3D(c.label, center, size, rotation_of_angles(angles), score)]
        return []

    def _score(self, c: Candidate, extents: Sequence[float]) -> float:
        return box_score(self.logprobs, c.shape.numbers, extents, c.label_span)


def rotation_of_angles(angles_pi: np.ndarray) -> np.ndarray:
    """3x3 R = Rz Ry Rx from rotations about the camera's X, Y, Z, which Qwen3-VL gives in units of pi rad."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.pi * np.asarray(angles_pi)), np.sin(np.pi * np.asarray(angles_pi))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def angles_of(rotation: np.ndarray) -> tuple[float, float, float]:
    """The rotations about X, Y, Z in units of pi rad whose `rotation_of_angles` is this 3x3 matrix; Y's within a quarter turn."""
    about_y = np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0]))
    if np.hypot(rotation[0, 0], rotation[1, 0]) < 1e-9:  # only the sum of X and Z is left: all of it about X
        about_x, about_z = np.arctan2(-rotation[1, 2], rotation[1, 1]), 0.0
    else:
        about_x, about_z = np.arctan2(rotation[2, 1], rotation[2, 2]), np.arctan2(rotation[1, 0], rotation[0, 0])
    return float(about_x / np.pi), float(about_y / np.pi), float(about_z / np.pi)
