"""The lens: pixels to rays and back, by the distortion models of sensor_msgs/CameraInfo.

Whole numbers are pixel centres, as in K. Knows nothing of depth.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from qwen3vl_ros.types import DISTORTION_LENGTHS, Frame, quoted


def lens_fault(frame: Frame) -> str:
    """What is wrong with the frame's distortion, empty if nothing is."""
    model, count = frame.distortion_model, 0 if frame.distortion is None else np.size(frame.distortion)
    if count and model not in DISTORTION_LENGTHS:
        return f"distortion model {quoted(model)} is unknown; publish one of {', '.join(DISTORTION_LENGTHS)}"
    if count and not np.all(np.isfinite(frame.distortion)):
        return f"distortion model {model} has coefficients that are not finite; correct camera_info"
    if count and count not in DISTORTION_LENGTHS[model]:
        expected = " or ".join(map(str, DISTORTION_LENGTHS[model]))
        return f"distortion model {model} needs {expected} coefficients, not {count}; correct camera_info"
    return ""


def ray_table(K: np.ndarray, distortion: np.ndarray | None, model: str, size_px: tuple[int, int]) -> np.ndarray:
    """HxWx2 float32 of x/z, y/z for every pixel. The last tables are kept: cameras rarely change."""
    return direction_table(K, distortion, model, size_px)[..., :2]


def direction_table(K: np.ndarray, distortion: np.ndarray | None, model: str, size_px: tuple[int, int]) -> np.ndarray:
    """HxWx3 float32 of x/z, y/z, 1 for every pixel: times its depth they are its point."""
    return _tables(*_key(K, distortion, model, size_px))[0]


def blind_pixels(
    K: np.ndarray, distortion: np.ndarray | None, model: str, size_px: tuple[int, int]
) -> np.ndarray | None:
    """HxW bool: pixels that the lens has no ray for; None where every pixel has one."""
    return _tables(*_key(K, distortion, model, size_px))[1]


def _key(K, distortion, model, size_px):
    d = b"" if distortion is None else np.asarray(distortion, np.float64).tobytes()
    return np.asarray(K, np.float64).tobytes(), d, model, tuple(size_px)


@lru_cache(maxsize=4)
def _tables(k: bytes, d: bytes, model: str, size_px: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    K, distortion = np.frombuffer(k).reshape(3, 3), np.frombuffer(d)
    u, v = np.meshgrid(np.arange(size_px[0], dtype=np.float64), np.arange(size_px[1], dtype=np.float64))
    rays = pixel_rays(np.stack((u.ravel(), v.ravel()), 1), K, distortion, model).astype(np.float32)
    directions = cv2.merge((*rays.T.reshape(2, size_px[1], size_px[0]), np.ones(size_px[::-1], np.float32)))
    directions.setflags(write=False)
    blind = np.isnan(directions[..., 0])
    return directions, blind if blind.any() else None


def pixel_rays(
    pixels: np.ndarray, K: np.ndarray, distortion: np.ndarray | None, model: str = "plumb_bob"
) -> np.ndarray:
    """Nx2 of x/z, y/z through pixels Nx2, distortion removed; NaN where the lens model has no ray."""
    if distortion is None or not np.any(distortion):
        y = (pixels[:, 1] - K[1, 2]) / K[1, 1]
        return np.stack(((pixels[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0], y), 1)
    distortion = np.asarray(distortion, np.float64)
    rays = _undistort(np.ascontiguousarray(pixels[:, None], np.float64), np.asarray(K, np.float64), distortion, model)[
        :, 0
    ]
    # A lens model is a polynomial: beyond its range it folds back and the inverse is no ray of this pixel.
    back = project_px(np.column_stack((rays, np.ones(len(rays)))), K, distortion, model)
    with np.errstate(invalid="ignore"):  # inf - inf, where the polynomial ran away
        rays[~(np.abs(back - pixels).max(1) < 0.5)] = np.nan
    return rays


def _undistort(pixels: np.ndarray, K: np.ndarray, distortion: np.ndarray, model: str) -> np.ndarray:
    if model == "equidistant":
        return cv2.fisheye.undistortPoints(pixels, K, distortion)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-8)
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4; version 5 took the criteria into undistortPoints
        return cv2.undistortPointsIter(pixels, K, distortion, None, None, criteria)
    return cv2.undistortPoints(pixels, K, distortion, criteria=criteria)


def project_px(
    points_m: np.ndarray, K: np.ndarray, distortion: np.ndarray | None = None, model: str = "plumb_bob"
) -> np.ndarray:
    """Nx2 pixels of camera-frame points Nx3, by the whole lens model; NaN for points behind the camera."""
    points_m = np.asarray(points_m, np.float64).reshape(-1, 3)
    if distortion is None or not np.any(distortion):
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (np.asarray(K, float)[:2] @ points_m.T / points_m[:, 2]).T
    elif len(points_m):
        lens = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
        zero = np.zeros(3)
        pixels = lens(points_m[:, None], zero, zero, np.asarray(K, float), np.asarray(distortion, float))[0][:, 0]
    else:
        pixels = np.empty((0, 2))
    pixels[~(points_m[:, 2] > 1e-6)] = np.nan
    return pixels
