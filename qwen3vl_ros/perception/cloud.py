"""One frame's depth as geometry, each part computed at most once and only when somebody asks.

Rays through the (undistorted) pixels, which readings are valid, points of a window, the support planes, what is
known to be empty. Everything is in the camera's optical frame. Knows nothing of boxes, labels, models or grippers.
A frame without usable depth is not an error here: `SceneCloud.reason` says what is missing and what to do.

Source of the plane search: Fischler and Bolles, "Random sample consensus", CACM 1981.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.types import Frame

_THINNED_POINTS = 5000
_HYPOTHESES = 256
_SCREENED_POINTS = 1000
_MAX_PLANES = 3
_MIN_PLANE_SHARE = 0.06
_COS_UPRIGHT = float(np.cos(np.deg2rad(15.0)))
_TOLERANCE_FLOOR_M = 0.002
_MAX_SPREAD = 0.55
_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane seen from its upper side: height of p = normal . p + offset_m, positive towards the camera.

    tolerance_m: points at 1 m range (or nearer) this close belong to it; it grows with the square of the range, as
    the noise of stereo depth does. noise_m: standard deviation of its readings, robust, likewise. share: part of the
    frame's valid readings that lie on it.
    """

    normal: np.ndarray
    offset_m: float
    tolerance_m: float
    noise_m: float
    share: float

    def height_m(self, points_m: np.ndarray) -> np.ndarray:
        """Signed distance of points (..., 3) from the plane."""
        return points_m @ self.normal.astype(points_m.dtype) + points_m.dtype.type(self.offset_m)

    def tolerance_at(self, depth_m: np.ndarray) -> np.ndarray:
        """The tolerance for readings at these depths."""
        return self.tolerance_m * _noise_growth(depth_m)


class SceneCloud:
    """The depth of one frame. Make it with `SceneCloud.of(frame, config)`; nothing is computed until it is read."""

    def __init__(self, frame: Frame, config: LiftConfig):
        self.frame, self.config = frame, config
        self.reason = _why_no_depth(frame)
        self.frame_id = frame.frame_id if frame.target_T_camera is None else frame.target_frame
        self.frame_T_camera = np.eye(4) if frame.target_T_camera is None else np.asarray(frame.target_T_camera, float)

    @classmethod
    def of(cls, frame: Frame, config: LiftConfig) -> SceneCloud:
        """The cloud of a frame; check `reason` (empty when 3D is possible) before asking for points."""
        return cls(frame, config)

    @property
    def usable(self) -> bool:
        return not self.reason

    @cached_property
    def rays(self) -> np.ndarray:
        """HxWx2 float32: x/z and y/z of every pixel, distortion removed; NaN where the lens model has no ray."""
        frame = self.frame
        return ray_table(frame.K, frame.distortion, frame.distortion_model, frame.size_px)

    @cached_property
    def valid(self) -> np.ndarray:
        """HxW bool: a finite reading within [min_depth, max_depth] on a pixel that has a ray."""
        depth_m = self.frame.depth_m
        inside = (depth_m >= self.config.min_depth) & (depth_m <= self.config.max_depth)  # False for NaN
        return inside & np.isfinite(self.rays[..., 0])

    @cached_property
    def points_m(self) -> np.ndarray:
        """HxWx3 float32, the organised cloud; NaN where there is no reading."""
        height, width = self.frame.depth_m.shape
        return self.window_points_m(slice(0, height), slice(0, width))

    def window_points_m(self, rows: slice, columns: slice) -> np.ndarray:
        """The organised points of a window of the image; NaN where there is no reading."""
        z = np.where(self.valid[rows, columns], self.frame.depth_m[rows, columns], np.nan).astype(np.float32)
        rays = self.rays[rows, columns]
        return np.dstack((rays[..., 0] * z, rays[..., 1] * z, z))

    @cached_property
    def thinned_m(self) -> np.ndarray:
        """About 5000 valid points on a regular grid over the image, Nx3 float32."""
        height, width = self.frame.depth_m.shape
        step = max(1, int(np.ceil(np.sqrt(height * width / _THINNED_POINTS))))
        grid = slice(step // 2, height, step), slice(step // 2, width, step)
        return self.window_points_m(*grid)[self.valid[grid]]

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """Planes things may stand on, largest first; level ones only when `frame.up_camera` is known."""
        up = self.frame.up_camera
        return find_planes(self.thinned_m, self.config.plane_tolerance, None if up is None else np.asarray(up, float))

    @property
    def plane(self) -> Plane | None:
        """The support plane: the largest candidate, None when there is none."""
        return self.planes[0] if self.planes else None

    @cached_property
    def up(self) -> np.ndarray:
        """Unit vector that stands for "up": the support plane's normal, else frame.up_camera, else towards the camera."""
        if self.plane is not None:
            return self.plane.normal
        if self.frame.up_camera is not None:
            return np.asarray(self.frame.up_camera, float) / np.linalg.norm(self.frame.up_camera)
        return np.array((0.0, 0.0, -1.0))

    def project_px(self, points_m: np.ndarray) -> np.ndarray:
        """Nx2 pixels (first pixel's centre at 0, 0) of camera-frame points Nx3; NaN behind the camera."""
        return project_px(points_m, self.frame.K, self.frame.distortion, self.frame.distortion_model)

    def look_behind(self, points_m: np.ndarray) -> np.ndarray:
        """Measured depth minus the depth of each camera-frame point, Nx3 -> N metres; NaN where nothing is known.

        Positive: the camera saw past the point, so the point is empty space. Negative: something hides it.
        """
        points_m = np.asarray(points_m, float)
        pixels = self.project_px(points_m)
        height, width = self.frame.depth_m.shape
        result = np.full(len(points_m), np.nan)
        inside = np.all((pixels > -0.5) & (pixels < (width - 0.5, height - 0.5)), axis=1)  # False for NaN
        column, row = np.rint(pixels[inside]).astype(np.int32).T
        depth_m = np.where(self.valid[row, column], self.frame.depth_m[row, column], np.nan)
        result[inside] = depth_m - points_m[inside, 2]
        return result


def _why_no_depth(frame: Frame) -> str:
    if frame.depth_m is None:
        return "no depth image came with this frame; publish one and remap depth/image_raw to it"
    if frame.K is None:
        return "no camera intrinsics came with this frame; publish camera_info of the colour camera"
    height, width = frame.depth_m.shape
    if (width, height) != frame.size_px:
        return (f"depth is {width}x{height} but colour is {frame.size_px[0]}x{frame.size_px[1]}: depth is not registered "
                "to colour; publish depth registered to colour (for example aligned_depth_to_color)")
    return lens_fault(frame)


# -- the lens ------------------------------------------------------------------------------------------------------

def lens_fault(frame: Frame) -> str:
    """What is wrong with the frame's distortion, empty if nothing is."""
    model, count = frame.distortion_model, 0 if frame.distortion is None else np.size(frame.distortion)
    if count and model not in _COEFFICIENTS:
        return f"distortion model {model!r} is unknown; publish one of {', '.join(_COEFFICIENTS)}"
    if count and count not in _COEFFICIENTS[model]:
        expected = " or ".join(map(str, _COEFFICIENTS[model]))
        return f"distortion model {model} needs {expected} coefficients, camera_info has {count}; correct camera_info"
    return ""


def ray_table(K: np.ndarray, distortion: np.ndarray | None, model: str, size_px: tuple[int, int]) -> np.ndarray:
    """HxWx2 float32 of x/z, y/z for every pixel. The last tables are kept: cameras rarely change."""
    d = b"" if distortion is None else np.asarray(distortion, np.float64).tobytes()
    return _ray_table(np.asarray(K, np.float64).tobytes(), d, model, tuple(size_px))


@lru_cache(maxsize=4)
def _ray_table(k: bytes, d: bytes, model: str, size_px: tuple[int, int]) -> np.ndarray:
    K, distortion = np.frombuffer(k).reshape(3, 3), np.frombuffer(d)
    u, v = np.meshgrid(np.arange(size_px[0], dtype=np.float64), np.arange(size_px[1], dtype=np.float64))
    rays = pixel_rays(np.stack((u.ravel(), v.ravel()), 1), K, distortion, model).astype(np.float32)
    rays = rays.reshape(size_px[1], size_px[0], 2)
    rays.setflags(write=False)
    return rays


def pixel_rays(pixels: np.ndarray, K: np.ndarray, distortion: np.ndarray | None, model: str = "plumb_bob") -> np.ndarray:
    """Nx2 of x/z, y/z through pixels Nx2, distortion removed; NaN where the lens model has no ray."""
    if distortion is None or not np.any(distortion):
        y = (pixels[:, 1] - K[1, 2]) / K[1, 1]
        return np.stack(((pixels[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0], y), 1)
    distortion = np.asarray(distortion, np.float64)
    rays = _undistort(np.ascontiguousarray(pixels[:, None], np.float64), np.asarray(K, np.float64), distortion, model)[:, 0]
    # A lens model is a polynomial: beyond its range it folds back and the inverse is no ray of this pixel.
    back = project_px(np.column_stack((rays, np.ones(len(rays)))), K, distortion, model)
    rays[~(np.abs(back - pixels).max(1) < 0.5)] = np.nan
    return rays


def _undistort(pixels: np.ndarray, K: np.ndarray, distortion: np.ndarray, model: str) -> np.ndarray:
    if model == "equidistant":
        return cv2.fisheye.undistortPoints(pixels, K, distortion)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-8)
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4; version 5 took the criteria into undistortPoints
        return cv2.undistortPointsIter(pixels, K, distortion, None, None, criteria)
    return cv2.undistortPoints(pixels, K, distortion, criteria=criteria)


def project_px(points_m: np.ndarray, K: np.ndarray, distortion: np.ndarray | None = None,
               model: str = "plumb_bob") -> np.ndarray:
    """Nx2 pixels of camera-frame points Nx3, by the whole lens model; NaN for points behind the camera."""
    points_m = np.asarray(points_m, np.float64).reshape(-1, 3)
    if distortion is None or not np.any(distortion):
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (points_m[:, :2] / points_m[:, 2:]) @ np.asarray(K, float)[:2, :2].T + np.asarray(K, float)[:2, 2]
    elif len(points_m):
        lens = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
        zero = np.zeros(3)
        pixels = lens(points_m[:, None], zero, zero, np.asarray(K, float), np.asarray(distortion, float))[0][:, 0]
    else:
        pixels = np.empty((0, 2))
    pixels[~(points_m[:, 2] > 1e-6)] = np.nan
    return pixels


# -- the support ---------------------------------------------------------------------------------------------------

def _noise_growth(depth_m):
    return np.maximum(1.0, np.square(depth_m))


def find_planes(points_m: np.ndarray, tolerance_m: float, up: np.ndarray | None = None) -> tuple[Plane, ...]:
    """The largest planes of points Nx3, largest first, each turned towards the camera at the origin.

    up: only planes within 15 degrees of level, if given. Deterministic: the same points give the same planes.
    """
    rng = np.random.default_rng(0)
    planes: list[Plane] = []
    rest = points_m
    while len(planes) < _MAX_PLANES and len(rest) >= max(50, _MIN_PLANE_SHARE * len(points_m)):
        found = _best_plane(rest, tolerance_m, up, rng)
        if found is None:
            break
        normal, offset, tolerance, noise = found
        heights = rest @ normal.astype(np.float32) + np.float32(offset)
        # What follows must not be the fringe of this plane once more.
        on_it = np.abs(heights) < 2.0 * tolerance * _noise_growth(rest[:, 2])
        share = on_it.sum() / len(points_m)
        if share < _MIN_PLANE_SHARE:
            break
        planes.append(Plane(normal, offset, tolerance, noise, float(share)))
        rest = rest[~on_it]
    return tuple(sorted(planes, key=lambda plane: -plane.share))


def _best_plane(points_m, tolerance_m, up, rng) -> tuple[np.ndarray, float, float, float] | None:
    screened = points_m[rng.integers(0, len(points_m), min(len(points_m), _SCREENED_POINTS))]
    corners = screened[rng.integers(0, len(screened), (_HYPOTHESES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-9
    if up is not None:
        usable &= np.abs(normals @ up.astype(np.float32)) > _COS_UPRIGHT * lengths
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = -np.einsum("ij,ij->i", normals, corners[usable, 0])
    counts = (np.abs(screened @ normals.T + offsets) < tolerance_m * _noise_growth(screened[:, 2:])).sum(0)
    best = int(counts.argmax())
    normal, offset, sigma = normals[best].astype(float), float(offsets[best]), tolerance_m
    growth = _noise_growth(points_m[:, 2])
    for _ in range(3):
        heights = points_m @ normal.astype(np.float32) + np.float32(offset)
        near = np.abs(heights) < max(min(3.0 * sigma, tolerance_m), _TOLERANCE_FLOOR_M) * growth
        if near.sum() < 3:
            return None
        inliers = points_m[near].astype(float)
        centre = inliers.mean(0)
        normal = np.linalg.eigh(np.cov((inliers - centre).T))[1][:, 0]
        offset = -float(normal @ centre)
        sigma = 1.4826 * float(np.median(np.abs(inliers @ normal + offset) / growth[near]))
    if sigma > _MAX_SPREAD * tolerance_m:  # as many points at the border of the slab as in it: clutter, no surface
        return None
    if offset < 0:
        normal, offset = -normal, -offset
    if up is not None and normal @ up < _COS_UPRIGHT:
        return None
    return normal, offset, float(np.clip(4.0 * sigma, min(_TOLERANCE_FLOOR_M, tolerance_m), tolerance_m)), sigma
