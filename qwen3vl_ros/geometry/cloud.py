"""One frame's depth as geometry, each part computed at most once and only when somebody asks.

Rays through the pixels, which readings are valid, points of a window, the support planes, what is known to be
empty. Everything is in the camera's optical frame. Knows nothing of boxes, labels, models or grippers. A
frame without usable depth is no error here: `SceneCloud.reason` says what is missing and what to do.
"""

from __future__ import annotations

import math
from functools import cached_property

import cv2
import numpy as np

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.lens import blind_pixels, direction_table, lens_fault, project_px
from qwen3vl_ros.geometry.order_statistics import median
from qwen3vl_ros.geometry.planes import Plane, find_planes
from qwen3vl_ros.types import Frame

_THINNED_POINTS = 5000
_LAG_PX = 2  # matching windows overlap: nearer readings err alike, farther ones are of another surface
_APART_PX = 3  # the same where a curve is taken out
# Share of residuals that no edge is among, and the mean size of so many of a normal distribution.
_USUAL, _USUAL_MEAN = 0.6, 0.3966


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

    def without(self, pixels: np.ndarray) -> SceneCloud:
        """The same depth with no readings where pixels (HxW bool) says; planes and noise are those of all of it."""
        rest = SceneCloud(self.frame, self.config)
        rest.__dict__.update(planes=self.planes, noise_per_m2=self.noise_per_m2)
        rest.__dict__["depth_m"] = np.where(pixels, np.float32(np.nan), self.depth_m)
        return rest

    @property
    def usable(self) -> bool:
        return not self.reason

    @cached_property
    def directions(self) -> np.ndarray:
        """HxWx3 float32: x/z, y/z, 1 of every pixel, distortion removed; NaN where the lens has no ray."""
        frame = self.frame
        return direction_table(frame.K, frame.distortion, frame.distortion_model, frame.size_px)

    @cached_property
    def depth_m(self) -> np.ndarray:
        """HxW float32: readings within [min_depth, max_depth] on pixels that have a ray, NaN elsewhere."""
        frame = self.frame
        with np.errstate(over="ignore"):
            depth_m = np.ascontiguousarray(frame.depth_m, np.float32)
        kept = cv2.inRange(depth_m, self.config.min_depth, self.config.max_depth)  # 0 for NaN
        blind = blind_pixels(frame.K, frame.distortion, frame.distortion_model, frame.size_px)
        if blind is not None:
            kept[blind] = 0
        cleaned = np.full(depth_m.shape, np.nan, np.float32)
        cv2.copyTo(depth_m, kept, cleaned)
        return cleaned

    @cached_property
    def valid(self) -> np.ndarray:
        """HxW bool: where depth_m has a reading."""
        return np.isfinite(self.depth_m)

    @cached_property
    def points_m(self) -> np.ndarray:
        """HxWx3 float32, the organised cloud; NaN where there is no reading."""
        return self.window_points_m(slice(None), slice(None))

    def window_points_m(self, rows: slice, columns: slice) -> np.ndarray:
        """The organised points of a window of the image, hxwx3 float32; NaN where there is no reading."""
        z = np.ascontiguousarray(self.depth_m[rows, columns])
        if self._straight:
            x, y = self.directions[0, columns, 0], self.directions[rows, 0, 1, None]
        else:
            x, y = cv2.split(np.ascontiguousarray(self.directions[rows, columns]))[:2]
        return cv2.merge((x * z, y * z, z))

    def points_above(self, rows: slice, columns: slice, up: np.ndarray, least_m: float) -> tuple[np.ndarray, ...]:
        """Of a window's readings those with up . p >= least_m: rows and columns in the image, N each, and points Nx3 float32.

        Where few are so high, most of a window is looked at once, and nothing but heights is computed of it.
        """
        if self._straight:
            z = np.ascontiguousarray(self.depth_m[rows, columns])
            x, y = self.directions[0, columns, 0], self.directions[rows, 0, 1]
            a, b, c = (np.float32(of) for of in up)
            height = z * ((b * y + c)[:, None] + a * x)
        else:
            points = self.window_points_m(rows, columns)
            height = points @ up.astype(np.float32)
        with np.errstate(invalid="ignore"):
            found = np.flatnonzero(height >= np.float32(least_m))
        row, column = np.divmod(found, height.shape[1])
        if self._straight:
            z = z.ravel().take(found)
            points = np.stack((x.take(column) * z, y.take(row) * z, z), 1)
        else:
            points = points.reshape(-1, 3).take(found, 0)
        start_row, _, step_row = rows.indices(self.frame.depth_m.shape[0])
        start_column, _, step_column = columns.indices(self.frame.depth_m.shape[1])
        return start_row + row * step_row, start_column + column * step_column, points

    @cached_property
    def _straight(self) -> bool:
        """Whether all pixels of a column, and of a row, look the same way: then nobody need read the whole table."""
        frame = self.frame
        return frame.K[0, 1] == 0 and (frame.distortion is None or not np.any(frame.distortion))

    @cached_property
    def grid(self) -> tuple[slice, slice]:
        """Rows and columns of the pixels of thinned_m: about 5000 on a regular grid over the image."""
        height, width = self.frame.depth_m.shape
        step = max(1, int(np.ceil(np.sqrt(height * width / _THINNED_POINTS))))
        return slice(step // 2, height, step), slice(step // 2, width, step)

    @cached_property
    def _grid_points_m(self) -> np.ndarray:
        return self.window_points_m(*self.grid)

    @cached_property
    def thinned_m(self) -> np.ndarray:
        """About 5000 valid points on a regular grid over the image, Nx3 float32."""
        points = self._grid_points_m.reshape(-1, 3)
        return np.take(points, np.flatnonzero(np.isfinite(points[:, 2])), 0)

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """Planes things may stand on, largest first; level ones only when `frame.up_camera` is known."""
        up = self.frame.up_camera
        return find_planes(self.thinned_m, self.config.plane_tolerance, None if up is None else np.asarray(up, float))

    @cached_property
    def on_grid(self) -> np.ndarray:
        """(1 + planes) x rows x columns of `grid`, bool: where there is a reading, and where it lies on each plane."""
        points = self._grid_points_m
        layers = [np.isfinite(points[..., 2])]
        with np.errstate(invalid="ignore"):
            layers += [np.abs(p.height_m(points)) < p.tolerance_at(points[..., 2]) for p in self.planes]
        return np.stack(layers)

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
        u, v = self.project_px(points_m).T
        height, width = self.frame.depth_m.shape
        outside = ~((u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5))  # NaN is
        with np.errstate(invalid="ignore"):
            pixels = (np.rint(v) * width + np.rint(u)).astype(np.intp)
        pixels[outside] = 0
        result = self.depth_m.ravel().take(pixels) - points_m[:, 2]
        result[outside] = np.nan
        return result

    @cached_property
    def noise_per_m2(self) -> float:
        """What the scene shows of the depth's noise: standard deviation over the square of the range, 1/m; 0 unknown.

        What is left of a curve of the second order through four readings, along rows and columns, each over the square of its own range: a
        table nearby and a wall far off have no range in common. Of these the mean of the smaller ones: many of the others lie across
        edges, and their median would jump, since readings come in steps.
        """
        read = np.flatnonzero(self.on_grid[0])
        read = read[:: max(1, len(read) // 1500)]
        row, column = np.divmod(read, self.on_grid.shape[2])
        row, column = (at * of.step + of.start for at, of in zip((row, column), self.grid))
        height, width = self.frame.depth_m.shape
        inside = (row < height - 3 * _APART_PX) & (column < width - 3 * _APART_PX)
        row, column = row[inside], column[inside]
        residuals = []
        for down, right in ((0, _APART_PX), (_APART_PX, 0)):
            a, b, c, d = (self.depth_m[row + k * down, column + k * right] for k in range(4))
            residuals.append((a - 3 * b + 3 * c - d) / (np.sqrt(20.0) * np.square((b + c) / 2)))
        residuals = np.abs(np.concatenate(residuals))
        residuals = np.sort(residuals[np.isfinite(residuals)])
        few = residuals[: round(_USUAL * len(residuals))]
        return float(few.mean()) / _USUAL_MEAN if len(residuals) >= 10 else 0.0

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
        depth_m = self.depth_m
        residuals = [
            depth_m[row + down, column + right] - 2 * depth_m[row, column] + depth_m[row - down, column - right]
            for down, right in ((0, apart), (apart, 0))
        ]
        residuals = np.concatenate(residuals) / np.sqrt(6)
        residuals = residuals[np.isfinite(residuals)]
        return 1.4826 * median(np.abs(residuals)) if len(residuals) >= 10 else float("nan")


def pixels_between(pixels: slice, low: float, high: float) -> slice:
    """Which of some rows or columns of the image have their centres between two image coordinates."""
    start, step, count = pixels.start + 0.5, pixels.step or 1, len(range(pixels.start, pixels.stop, pixels.step or 1))
    first, past = min(max(-1.0, (low - start) / step), count), min(max(0.0, (high - start) / step), count)  # NaN: none
    return slice(min(math.floor(first) + 1, count), math.ceil(past))


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
