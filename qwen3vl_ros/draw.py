"""Draws a Scene on its image: 2D boxes, points, 3D wireframes, grasp jaws. For annotated images, the demo and the CLI.

OpenCV and our types only; knows no ROS and no model. 3D results that were given in the target frame are brought back
to the camera through `frame.target_T_camera`, and projected by the camera's whole lens model.
"""

from __future__ import annotations

import logging
import unicodedata
import zlib
from functools import lru_cache

import cv2
import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.geometry.cloud import lens_fault, project_px
from qwen3vl_ros.types import Detection3D, Frame, GraspTarget, InvalidInput, Scene

# Colours that stay apart from each other and from table tops; one a target, in the order they were asked for.
_PALETTE = (
    (255, 179, 0),
    (0, 176, 255),
    (118, 255, 3),
    (255, 82, 130),
    (186, 104, 255),
    (29, 233, 182),
    (255, 138, 80),
    (120, 144, 255),
    (255, 241, 118),
    (0, 229, 255),
)
_FEASIBLE, _INFEASIBLE = (64, 255, 120), (255, 90, 80)
_INK = (16, 18, 22)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_log = logging.getLogger(__name__)
_SUBPIXEL_BITS = 4
_NEAR_M = 0.02
# Corners of a unit box, and its edges as pairs of them; the first four edges are the top.
_CORNERS = np.array([(x, y, z) for z in (0.5, -0.5) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))


def draw_scene(frame: Frame, scene: Scene, gripper: GripperConfig | None = None, caption: str = "") -> np.ndarray:
    """`frame.rgb` with everything in `scene` drawn on it: a new HxWx3 uint8 RGB image of the same size.

    Without `frame.K` nothing that has only a place in space is drawn. caption: lines at the bottom.
    Raises InvalidInput if a result is in a frame this Frame knows no way to.
    """
    canvas = _Canvas(frame)
    colour_of = _Colours(scene)
    distance_m = {}
    for d in scene.detections_3d:
        distance_m[d.id] = float(np.linalg.norm(_camera_T(frame, d.frame_id, d.frame_T_box)[:3, 3]))
    solid = {d.id for d in scene.detections_3d} if canvas.projects else set()
    for d in scene.detections_2d:
        canvas.box(d.box_xyxy_px, colour_of[d.label], filled=d.id not in solid)
    if canvas.projects:
        for d in sorted(scene.detections_3d, key=lambda d: -distance_m[d.id]):
            canvas.wireframe(_camera_T(frame, d.frame_id, d.frame_T_box), d, colour_of[d.label])
        for g in sorted(scene.grasps, key=lambda g: g.feasible):
            canvas.grasp(_camera_T(frame, g.frame_id, g.frame_T_gripper), g, gripper or GripperConfig())
    for p in scene.points:
        canvas.cross(p.xy_px, colour_of[p.label])
    # Text last, so that nothing crosses it, and beside the things themselves: a grasp comes from above.
    chips = _chips(canvas, frame, scene, distance_m)
    canvas.keep_clear([box for _, _, box in chips])
    for text, label, box in chips:
        canvas.chip(text, box, colour_of[label], below=bool(scene.grasps))
    if caption:
        canvas.caption(caption)
    return canvas.image


def _chips(canvas: _Canvas, frame: Frame, scene: Scene, distance_m: dict[str, float]):
    """(text, label, box around all that is drawn of it) of every object and point."""
    outlines = {}
    if canvas.projects:
        outlines = {d.id: canvas.outline(_camera_T(frame, d.frame_id, d.frame_T_box), d) for d in scene.detections_3d}
    chips = []
    for d in scene.detections_2d:
        box = np.array(d.box_xyxy_px, float)
        if (outline := outlines.pop(d.id, None)) is not None:
            box = np.concatenate((np.minimum(box[:2], outline[:2]), np.maximum(box[2:], outline[2:])))
        far = f"  {distance_m[d.id]:.2f} m" if d.id in distance_m else ""
        chips.append((_label(d.label, d.score) + far, d.label, box))
    for d in scene.detections_3d:
        if outlines.get(d.id) is not None:
            chips.append((f"{_label(d.label, d.score)}  {distance_m[d.id]:.2f} m", d.label, outlines[d.id]))
    for p in scene.points:
        (x, y), r = p.xy_px, 10
        chips.append((_label(p.label, p.score), p.label, np.array((x - r, y - r, x + r, y + r))))
    return chips


def _label(label: str, score: float) -> str:
    return label if np.isnan(score) else f"{label} {score:.2f}"


def _camera_T(frame: Frame, frame_id: str, frame_T_thing: np.ndarray) -> np.ndarray:
    """Pose in the camera frame of something given in the camera's or the target frame."""
    if frame_id == frame.frame_id:
        return np.asarray(frame_T_thing, float)
    if frame.target_T_camera is not None and frame_id == frame.target_frame:
        return np.linalg.inv(frame.target_T_camera) @ frame_T_thing
    known = f"{frame.frame_id!r}" + (f" or {frame.target_frame!r}" if frame.target_T_camera is not None else "")
    raise InvalidInput(
        f"a result is in frame {frame_id!r}, but this image knows only {known}; draw a scene on the "
        "frame it was made from"
    )


class _Colours:
    """A colour a label: by its place among the targets, else by its name."""

    def __init__(self, scene: Scene):
        self._place = {t: i for i, t in enumerate(scene.question.targets)}

    def __getitem__(self, label: str) -> tuple[int, int, int]:
        place = self._place.get(label, zlib.crc32(label.encode()))
        return _PALETTE[place % len(_PALETTE)]


class _Canvas:
    """An image being drawn on. Pixels as in types.py; sizes grow with the image."""

    def __init__(self, frame: Frame):
        self.image = np.ascontiguousarray(frame.rgb).copy()
        self._frame = frame
        self._height, self._width = self.image.shape[:2]
        self._unit = max(1.0, min(self._width, self._height) / 480)
        self._chips: list[tuple[int, int, int, int]] = []
        self._clear: list[tuple[int, int, int, int]] = []
        self.projects = frame.K is not None and not lens_fault(frame)
        if self.projects:
            corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (self._width, self._height)
            rays = (corners - frame.K[:2, 2]) / np.diag(frame.K)[:2]
            # A lens polynomial folds back outside the picture: what lies far outside must not be projected.
            self._reach = 1.3 * float(np.hypot(*rays.T).max()) if np.any(frame.distortion) else np.inf

    def box(self, box_xyxy_px, colour, filled: bool) -> None:
        """A thin rectangle with strong corners, lightly filled where no 3D box will say more."""
        x0, y0, x1, y1 = np.asarray(box_xyxy_px, float) - 0.5
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        if filled:
            self._blend(corners, colour, 0.14)
        self._lines([np.vstack((corners, corners[:1]))], colour, 1)
        reach = min(0.25 * min(x1 - x0, y1 - y0), 14 * self._unit)
        for corner, before, after in zip(corners, np.roll(corners, 1, 0), np.roll(corners, -1, 0)):
            arms = [
                corner + reach * (other - corner) / max(np.linalg.norm(other - corner), 1e-9)
                for other in (before, after)
            ]
            self._lines([np.array([arms[0], corner, arms[1]])], colour, 2.5)

    def cross(self, xy_px, colour) -> None:
        """A ring around a dot."""
        centre = np.asarray(xy_px, float) - 0.5
        for radius, ink, width in ((8, _INK, 4), (8, colour, 2), (2, colour, 3)):
            self._circle(centre, radius * self._unit, ink, width)

    def wireframe(self, camera_T_box: np.ndarray, detection: Detection3D, colour) -> None:
        """The box's twelve edges: those of hidden faces thin, the others strong."""
        corners = self._box_corners(camera_T_box, detection)
        outward = camera_T_box[:3, :3].T  # rows: the box's axes in the camera frame
        seen = set()
        for axis in range(3):
            for side in (0.5, -0.5):
                middle = camera_T_box[:3, 3] + side * detection.size_m[axis] * outward[axis]
                if np.dot(middle, np.sign(side) * outward[axis]) < 0:
                    seen |= {frozenset(e) for e in _EDGES if all(_CORNERS[c, axis] == side for c in e)}
        for strong in (False, True):
            edges = [e for e in _EDGES if (frozenset(e) in seen) == strong]
            paths = [self._project_segment(corners[a], corners[b]) for a, b in edges]
            faint = tuple(int(0.45 * c + 40) for c in colour)
            self._lines(paths, colour if strong else faint, 1.8 if strong else 1, halo=strong)

    def outline(self, camera_T_box: np.ndarray, detection: Detection3D) -> np.ndarray | None:
        """The 2D box (xyxy) around a 3D box's corners, None if one lies behind the camera."""
        corners = self._box_corners(camera_T_box, detection)
        if corners[:, 2].min() < _NEAR_M:
            return None
        pixels = self._project(corners)
        return np.concatenate((pixels.min(0), pixels.max(0)))

    def grasp(self, camera_T_gripper: np.ndarray, grasp: GraspTarget, gripper: GripperConfig) -> None:
        """Two fingers at the needed opening, the palm bar, and the arrow the gripper comes along."""
        half, palm = grasp.width_m / 2, -gripper.finger_length
        start = palm - max(grasp.approach_m, 0.03)
        local = np.array([(0, -half, 0), (0, -half, palm), (0, half, palm), (0, half, 0), (0, 0, start), (0, 0, palm)])
        points = local @ camera_T_gripper[:3, :3].T + camera_T_gripper[:3, 3]
        colour = _FEASIBLE if grasp.feasible else _INFEASIBLE
        jaws = [self._project_segment(points[i], points[i + 1]) for i in range(3)]
        shaft = self._project_segment(points[4], points[5])
        width = 3.0 if grasp.feasible else 1.5
        self._lines([shaft], colour, width * 0.7, halo=True)
        self._lines(jaws, colour, width, halo=True)
        if len(shaft) > 1:
            self._arrow_head(shaft[0], shaft[-1], colour)
        if not grasp.feasible:
            self._strike(self._project(points[:4]), colour)

    def keep_clear(self, boxes_xyxy_px: list[np.ndarray]) -> None:
        """Boxes that chips should not cover."""
        self._clear = [tuple(np.asarray(b).round().astype(int)) for b in boxes_xyxy_px]

    def chip(self, text: str, box_xyxy_px, colour, below: bool) -> None:
        """Dark text on the colour, above or below the box or inside it, where it covers least."""
        scale = 0.42 * self._unit
        w, h, base = text_size(text, scale)
        pad = round(3 * self._unit)
        w, h = w + 2 * pad, h + base + pad
        limit = 4 * max(self._width, self._height)
        x0, y0, x1, y1 = (round(float(np.clip(v, -limit, limit))) for v in box_xyxy_px)
        middle = (x0 + x1 - w) // 2
        rows = [y1 + 2, y0 - h - 2] if below else [y0 - h, y1]
        places = [(x, y) for y in rows for x in (x0, x1 - w, middle)] + [(x0, y0), (x0, y1 - h)]
        places += [(x0, rows[0] + k * h) for k in (-2, -1, 1, 2)]
        right, bottom = max(self._width - w, 0), max(self._height - h, 0)
        fitted = [(min(max(x, 0), right), min(max(y, 0), bottom)) for x, y in places]
        cost = [8 * _overlap(x, y, w, h, self._chips) + _overlap(x, y, w, h, self._clear) for x, y in fitted]
        x, y = fitted[int(np.argmin(cost))]
        self._chips.append((x, y, x + w, y + h))
        region = self.image[y : y + h, x : x + w]
        region[:] = (0.12 * region + 0.88 * np.array(colour)).astype(np.uint8)
        put_text(self.image, text, (x + pad, y + h - base), scale, _INK)

    def caption(self, text: str) -> None:
        """White lines on a dark strip along the lower edge."""
        scale, gap, lines = 0.42 * self._unit, round(6 * self._unit), text.splitlines()
        sizes = [text_size(line, scale) for line in lines]
        strip = self.image[max(self._height - sum(h + base + gap for _, h, base in sizes) - gap, 0) :]
        strip[:] = (0.35 * strip).astype(np.uint8)
        bottom = self._height - gap // 2
        for line, (_, h, base) in zip(reversed(lines), reversed(sizes)):
            put_text(self.image, line, (round(8 * self._unit), bottom - base), scale, (235, 235, 235))
            bottom -= h + base + gap

    # -- parts ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _box_corners(camera_T_box: np.ndarray, detection: Detection3D) -> np.ndarray:
        return (_CORNERS * detection.size_m) @ camera_T_box[:3, :3].T + camera_T_box[:3, 3]

    def _project(self, points_m: np.ndarray) -> np.ndarray:
        return project_px(points_m, self._frame.K, self._frame.distortion, self._frame.distortion_model)

    def _project_segment(self, a_m: np.ndarray, b_m: np.ndarray) -> np.ndarray:
        """Pixels along a segment in space: what of it lies before the camera, curved as the lens bends it."""
        if max(a_m[2], b_m[2]) <= _NEAR_M:
            return np.empty((0, 2))
        if min(a_m[2], b_m[2]) < _NEAR_M:
            cut = a_m + (b_m - a_m) * (_NEAR_M - a_m[2]) / (b_m[2] - a_m[2])
            a_m, b_m = (cut, b_m) if a_m[2] < _NEAR_M else (a_m, cut)
        steps = 2 if np.isinf(self._reach) else 12
        points = a_m + np.linspace(0, 1, steps)[:, None] * (b_m - a_m)
        inside = np.hypot(points[:, 0], points[:, 1]) < self._reach * points[:, 2]
        return self._project(points[inside])

    def _lines(self, paths: list[np.ndarray], colour, width: float, halo: bool = False) -> None:
        paths = [self._fixed(p) for p in paths if len(p) > 1]
        thickness = max(1, round(width * self._unit))
        if halo:
            cv2.polylines(
                self.image, paths, False, _INK, thickness + max(2, round(1.5 * self._unit)), cv2.LINE_AA, _SUBPIXEL_BITS
            )
        cv2.polylines(self.image, paths, False, colour, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def _circle(self, centre, radius: float, colour, width: float) -> None:
        x, y = self._fixed(centre[None])[0].tolist()
        cv2.circle(
            self.image,
            (x, y),
            round(radius * 2**_SUBPIXEL_BITS),
            colour,
            max(1, round(width * self._unit)),
            cv2.LINE_AA,
            _SUBPIXEL_BITS,
        )

    def _arrow_head(self, tail: np.ndarray, tip: np.ndarray, colour) -> None:
        along = tip - tail
        length = float(np.linalg.norm(along))
        if length < 1:
            return
        along = along / length * min(9 * self._unit, 0.6 * length)
        across = np.array((-along[1], along[0])) * 0.55
        head = np.array([tip, tip - along + across, tip - along - across])
        cv2.fillConvexPoly(self.image, self._fixed(head), colour, cv2.LINE_AA, _SUBPIXEL_BITS)

    def _strike(self, jaws_px: np.ndarray, colour) -> None:
        if np.isfinite(jaws_px).all():
            middle, r = jaws_px.mean(0), 6 * self._unit
            arms = [np.array([middle - d, middle + d]) for d in (np.array((r, r)), np.array((r, -r)))]
            self._lines(arms, colour, 2, halo=True)

    def _blend(self, corners, colour, opacity: float) -> None:
        (x0, y0), (x1, y1) = np.clip(np.round(corners[[0, 2]]).astype(int), 0, (self._width, self._height))
        region = self.image[y0:y1, x0:x1]
        if region.size:
            tint = np.broadcast_to(np.array(colour, np.uint8), region.shape)
            region[:] = cv2.addWeighted(region, 1 - opacity, tint, opacity, 0)

    def _fixed(self, pixels: np.ndarray) -> np.ndarray:
        """Fixed-point pixels for OpenCV, kept within what its 32 bits and its patience hold."""
        limit = 8 * max(self._width, self._height)
        return np.round(np.clip(pixels, -limit, limit) * 2**_SUBPIXEL_BITS).astype(np.int32)


def text_size(text: str, scale: float) -> tuple[int, int, int]:
    """(width, height above the baseline, height below it) of a line, pixels. scale: of OpenCV's font, 0.42 is about 10 px high."""
    thickness = max(1, round(scale / 0.42))
    if text.isascii() or not _has_unicode():
        (w, h), base = cv2.getTextSize(_ascii(text), _FONT, scale, thickness)
        return w, h, base
    _, _, w, h = cv2.getTextSize((1 << 15, 1 << 15), text, (0, 0), cv2.FontFace("uni"), _pixels(scale))
    return w + 2, round(0.8 * h), max(1, round(0.25 * h))


def put_text(image: np.ndarray, text: str, place_px: tuple[int, int], scale: float, colour) -> None:
    """A line whose baseline begins at place_px; Chinese as Chinese where OpenCV brings the font (5 does)."""
    thickness = max(1, round(scale / 0.42))
    if text.isascii() or not _has_unicode():
        cv2.putText(image, _ascii(text), place_px, _FONT, scale, colour, thickness, cv2.LINE_AA)
        return
    drawn = np.ascontiguousarray(image)  # it draws on nothing else
    cv2.putText(drawn, text, place_px, tuple(map(int, colour)), cv2.FontFace("uni"), _pixels(scale))
    if drawn is not image:
        image[:] = drawn


def _pixels(scale: float) -> int:
    return max(8, round(33 * scale))


@lru_cache(maxsize=1)
def _has_unicode() -> bool:
    if not hasattr(cv2, "FontFace"):
        _log.warning(
            "OpenCV %s has no font with Chinese characters, they are drawn as ?; version 5 has one", cv2.__version__
        )
        return False
    return True


def _overlap(x: int, y: int, w: int, h: int, boxes) -> int:
    """How many pixels of the boxes (xyxy) a rectangle covers."""
    return sum(max(0, min(x + w, c) - max(x, a)) * max(0, min(y + h, d) - max(y, b)) for a, b, c, d in boxes)


def _ascii(text: str) -> str:
    """OpenCV's old font has no other characters: accents are dropped, the rest becomes a question mark."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "replace").decode() if not text.isascii() else text
