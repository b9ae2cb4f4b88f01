"""One frame's depth as geometry, each part computed at most once and only when somebody asks.

Rays through the pixels, which readings are valid, points of a window, the support planes, what is known to be
empty. Everything is in the camera's optical frame. Knows nothing of boxes, labels, models or grippers. A
frame without usable depth is no error here: `SceneCloud.reason` says what is missing and what to do.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.lens import lens_fault, project_px, ray_table
from qwen3vl_ros.geometry.planes import Plane, find_planes
from qwen3vl_ros.types import Frame

_THINNED_POINTS = 5000
_LAG_PX = 3  # matching windows overlap: nearer readings err alike


class SceneCloud:
    """The depth of one frame, made with `SceneCloud.of(frame, config)`; computed when it is read."""

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
        """HxWx2 float32: x/z and y/z of every pixel, distortion removed; NaN where the lens has no ray."""
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
        """Unit vector against gravity: the support's normal, else frame.up_camera, else to the camera."""
        if self.plane is not None:
            return self.plane.normal
        if self.frame.up_camera is not None:
            return np.asarray(self.frame.up_camera, float) / np.linalg.norm(self.frame.up_camera)
        return np.array((0.0, 0.0, -1.0))

    def project_px(self, points_m: np.ndarray) -> np.ndarray:
        """Nx2 pixels (first pixel's centre at 0, 0) of camera-frame points Nx3; NaN behind the camera."""
        return project_px(points_m, self.frame.K, self.frame.distortion, self.frame.distortion_model)

    def look_behind(self, points_m: np.ndarray) -> np.ndarray:
        """Measured depth minus the depth of camera-frame points Nx3, N metres; NaN where nothing is known.

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

    def noise_m(self, points_m: np.ndarray) -> float:
        """Standard deviation of the depth around camera-frame points Nx3: what does not follow the local surface.

        Residuals of straight lines through three readings, along rows and columns and far enough apart to err on their own.
        NaN where fewer than ten of the points have such neighbours.
        """
        pixels = self.project_px(points_m)
        column, row = np.rint(pixels[np.isfinite(pixels[:, 0])]).astype(np.int32).T
        height, width = self.frame.depth_m.shape
        apart = _LAG_PX
        inside = (row >= apart) & (row < height - apart) & (column >= apart) & (column < width - apart)
        row, column = row[inside], column[inside]
        depth_m = np.where(self.valid, self.frame.depth_m, np.nan)
        residuals = [
            depth_m[row + down, column + right] - 2 * depth_m[row, column] + depth_m[row - down, column - right]
            for down, right in ((0, apart), (apart, 0))
        ]
        residuals = np.concatenate(residuals) / np.sqrt(6)
        residuals = residuals[np.isfinite(residuals)]
        return 1.4826 * float(np.median(np.abs(residuals))) if len(residuals) >= 10 else float("nan")


def _why_no_depth(frame: Frame) -> str:
    if frame.depth_m is None:
        return "no depth image came with this frame; publish one and remap depth/image_raw to it, or give --depth"
    if frame.K is None:
        return "no camera intrinsics came with this frame; publish camera_info of the colour camera"
    height, width = frame.depth_m.shape
    if (width, height) != frame.size_px:
        return (
            f"depth is {width}x{height} but colour is {frame.size_px[0]}x{frame.size_px[1]}: depth is not "
            "registered to colour; publish depth registered to colour (for example aligned_depth_to_color)"
        )
    return lens_fault(frame)
