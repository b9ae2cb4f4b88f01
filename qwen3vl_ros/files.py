"""Pictures, depth and camera calibrations on disk -> the arrays of a Frame. Knows no ROS and no model.

Calibrations are YAML as ROS's camera_calibration writes them, or as `ros2 topic echo --once camera_info` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from qwen3vl_ros.types import InvalidInput


@dataclass(frozen=True, eq=False)
class CameraInfo:
    """A calibration; the fields of Frame, and the image size it was made for."""

    size_px: tuple[int, int]
    K: np.ndarray
    distortion: np.ndarray | None
    distortion_model: str


def read_rgb(path: Path) -> np.ndarray:
    """HxWx3 uint8 RGB of an image file, as the sensor saw it (EXIF rotation is not applied)."""
    bgr = cv2.imread(str(_existing(path, "image")), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise InvalidInput(f"image {path} cannot be decoded; give a PNG, JPEG or other picture OpenCV reads")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_depth_m(path: Path) -> np.ndarray:
    """HxW float32 metres from a 16-bit PNG in millimetres (0 = no reading), or a .npy of floats in metres."""
    path = _existing(path, "depth")
    if path.suffix.lower() == ".npy":
        try:
            depth = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"depth {path} cannot be read as .npy: {error}") from error
        if depth.ndim != 2 or depth.dtype.kind != "f":
            raise InvalidInput(
                f"depth {path} is {depth.dtype} {depth.shape}; it must be HxW floats in metres: divide "
                "millimetres by 1000"
            )
        return depth.astype(np.float32)
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        what = "cannot be decoded" if raw is None else f"is {raw.dtype} {raw.shape}"
        raise InvalidInput(f"depth {path} {what}; it must be a 16-bit grey PNG in millimetres, or a .npy in metres")
    return raw.astype(np.float32) * np.float32(0.001)


def read_camera_info(path: Path) -> CameraInfo:
    """A calibration file. Raises InvalidInput naming what is missing."""
    path = _existing(path, "camera info")
    try:
        data = next(d for d in yaml.safe_load_all(path.read_text()) if d is not None)
        if "camera_matrix" in data:
            size = int(data["image_width"]), int(data["image_height"])
            k, d = data["camera_matrix"]["data"], (data.get("distortion_coefficients") or {}).get("data")
        else:
            size, k, d = (int(data["width"]), int(data["height"])), data["k"], data.get("d")
        K, distortion = np.array(k, float).reshape(3, 3), np.array(d or [], float)
    except (yaml.YAMLError, StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"camera info {path} cannot be read ({type(error).__name__}: {error}); it must be YAML with "
            "image_width, image_height and camera_matrix.data (9 numbers), as camera_calibration writes "
            "it, or the output of `ros2 topic echo --once camera_info`"
        ) from error
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise InvalidInput(
            f"camera info {path} has K = {K.tolist()}; the camera is not calibrated: its focal lengths must be positive"
        )
    model = str(data.get("distortion_model") or "plumb_bob")
    return CameraInfo(size, K, distortion if distortion.any() else None, model)


def _existing(path: Path, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"{what} {path} does not exist or is no file")
    return path
