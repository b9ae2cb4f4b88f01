"""Pictures, depth and camera calibrations on disk -> the arrays of a Frame: the only readers; and how a file is replaced whole.
Knows no ROS and no model.

Calibrations are YAML as ROS's camera_calibration writes them, or as `ros2 topic echo --once camera_info` prints them.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator

import cv2
import numpy as np
import yaml

from qwen3vl_ros.calibration import intrinsics_of
from qwen3vl_ros.codec import MAX_PIXELS, check_size, decode_grey16, decode_rgb
from qwen3vl_ros.types import InvalidInput, OutOfResources


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """HxWx3 uint8 RGB of an image file, as the sensor saw it (EXIF rotation is not applied)."""
    return decode_rgb(_bytes_of(path, "image"), f"image {path}", max_pixels)


def read_depth_m(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """HxW float32 metres from a 16-bit PNG in millimetres (0 = no reading), or a .npy of floats in metres."""
    path = _existing(path, "depth")
    if path.suffix.lower() == ".npy":
        return _npy_m(path, max_pixels)
    millimetres = decode_grey16(_bytes_of(path, "depth"), f"depth {path}", max_pixels)
    return millimetres.astype(np.float32) * np.float32(0.001)


def _npy_m(path: Path, max_pixels: int) -> np.ndarray:
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)  # which reads no more than the header
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"depth {path} cannot be read as .npy: {error}") from error
    if stored.ndim != 2 or stored.dtype.kind != "f":
        raise InvalidInput(
            f"depth {path} is {stored.dtype} {stored.shape}; it must be HxW floats in metres: divide millimetres by 1000"
        )
    check_size(stored.shape[1], stored.shape[0], f"depth {path}", max_pixels)
    with np.errstate(over="ignore"):  # what no float32 holds is no distance
        return np.array(stored, np.float32)


def read_intrinsics(
    path: Path, size_px: tuple[int, int], rectified: bool = False
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """(K 3x3, distortion coefficients or None, distortion model) of a calibration file for pictures of size_px.

    rectified: as in intrinsics_of. Raises InvalidInput naming what is missing, or the other size it is for.
    """
    info = _camera_info(_existing(path, "camera info"))
    if (info.width, info.height) != tuple(size_px):
        raise InvalidInput(
            f"camera info {path} is for {info.width}x{info.height} pixels and the picture has "
            f"{size_px[0]}x{size_px[1]}; give the calibration of this resolution"
        )
    return intrinsics_of(info, size_px, rectified, name=f"camera info {path}")


def _camera_info(path: Path) -> SimpleNamespace:
    """The fields of a sensor_msgs/CameraInfo."""
    try:
        data = next(d for d in yaml.safe_load_all(path.read_text()) if d is not None)
        if "camera_matrix" in data:
            size = data["image_width"], data["image_height"]
            k, p, d = (
                (data.get(name) or {}).get("data")
                for name in ("camera_matrix", "projection_matrix", "distortion_coefficients")
            )
        else:
            size, k, p, d = (data["width"], data["height"]), data["k"], data.get("p"), data.get("d")
        return SimpleNamespace(
            width=int(size[0]),
            height=int(size[1]),
            k=np.array(k, float).reshape(9),
            p=np.zeros(12) if p is None else np.array(p, float).reshape(12),
            d=np.array([] if d is None else d, float).reshape(-1),
            distortion_model=str(data.get("distortion_model") or ""),
            binning_x=0,
            binning_y=0,
            roi=SimpleNamespace(width=0, height=0),
        )
    except (OSError, yaml.YAMLError, StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"camera info {path} cannot be read ({type(error).__name__}: {error}); it must be YAML with "
            "image_width, image_height and camera_matrix.data (9 numbers), as camera_calibration writes "
            "it, or the output of `ros2 topic echo --once camera_info`"
        ) from error


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write: at the end it takes the place of `path`, after an error it is gone."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """The file, or as it was before: never a part of it. Raises OSError."""
    with replaced_whole(path) as unfinished:
        unfinished.write_bytes(data)


def copy_whole(source: Path, target: Path) -> None:
    """The copy, or what was there before: never a part of it. Raises OSError."""
    with replaced_whole(target) as unfinished:
        shutil.copyfile(source, unfinished)


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises OutOfResources where the disk of `folder`, which exists, has less room than `what` needs."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise OutOfResources(
            f"out of disk space: {what} needs {needed_bytes / 1e6:.0f} MB and the disk of {folder} has "
            f"{free_bytes / 1e6:.0f} MB free; free some, or give a directory on another disk"
        )


def write_picture(path: Path, rgb: np.ndarray, options: tuple[int, ...] = ()) -> None:
    """An image file, its kind by its ending, HxWx3 uint8 RGB. Raises OSError."""
    write_whole(path, cv2.imencode(path.suffix, rgb[..., ::-1], options)[1].tobytes())


def _existing(path: Path, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"{what} {path} does not exist or is no file")
    return path


def _bytes_of(path: Path, what: str) -> bytes:
    try:
        return _existing(path, what).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{what} {path} cannot be read: {error.strerror}") from error
