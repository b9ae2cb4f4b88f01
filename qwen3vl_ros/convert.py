"""Camera messages to our types: pixels as NumPy views, depth in metres by its encoding, intrinsics checked.

Takes sensor_msgs Image, CompressedImage and CameraInfo by their fields alone, so it imports no ROS and is
tested without one. Exotic encodings go to the distribution's cv_bridge where there is one. Source:
sensor_msgs' image_encodings and CameraInfo definitions.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np

from qwen3vl_ros.types import InvalidInput

# encoding -> (dtype, channels, OpenCV's code to RGB or None)
_COLOUR = {
    "rgb8": (np.uint8, 3, None),
    "bgr8": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "8UC4": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
}
# encoding -> (dtype, metres per unit), REP 118
_DEPTH = {"16UC1": (np.uint16, 0.001), "mono16": (np.uint16, 0.001), "32FC1": (np.float32, 1.0)}
_DISTORTION_TERMS = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}


def rgb_of(message: Any) -> np.ndarray:
    """HxWx3 uint8 of an Image or CompressedImage; a read-only view of the message where nothing must change.

    Raises InvalidInput for an unknown encoding or a buffer that does not fit its size.
    """
    if hasattr(message, "format"):
        return _decode(message)
    if message.encoding not in _COLOUR:
        return _through_cv_bridge(message)
    dtype, channels, to_rgb = _COLOUR[message.encoding]
    pixels = _view(message, dtype, channels, "image")
    if dtype is np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if to_rgb is None else cv2.cvtColor(pixels, to_rgb)


def depth_of(message: Any) -> np.ndarray:
    """HxW float32 metres of a depth Image: 16UC1 is millimetres, 32FC1 metres. No reading is NaN or 0."""
    if message.encoding not in _DEPTH:
        raise InvalidInput(
            f"depth image has encoding {message.encoding!r}; depth is 16UC1 (millimetres) or 32FC1 "
            "(metres): point depth/image_raw at the registered depth image"
        )
    dtype, metres = _DEPTH[message.encoding]
    depth = _view(message, dtype, 1, "depth image")
    return depth if dtype is np.float32 else np.multiply(depth, np.float32(metres), dtype=np.float32)


def _view(message: Any, dtype: type, channels: int, name: str) -> np.ndarray:
    """HxW or HxWxC over message.data in the machine's byte order."""
    itemsize = np.dtype(dtype).itemsize
    height, width, step = message.height, message.width, message.step
    row = width * channels * itemsize
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1:
        raise InvalidInput(f"{name} has size {width}x{height}; the camera published an empty image")
    if step < row or data.size < step * (height - 1) + row:
        raise InvalidInput(
            f"{name} says {width}x{height} {message.encoding} with step {step}, but a row needs {row} "
            f"bytes and its buffer holds {data.size}; fix the camera driver"
        )
    shape = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, itemsize) if channels == 1 else (step, itemsize * channels, itemsize)
    swapped = itemsize > 1 and bool(message.is_bigendian) != (sys.byteorder == "big")
    if step % itemsize:
        raise InvalidInput(
            f"{name} has step {step}, which is not a multiple of {itemsize} bytes; fix the camera driver"
        )
    element = np.dtype(dtype).newbyteorder() if swapped else np.dtype(dtype)
    view = np.ndarray(shape, element, data.data, 0, strides)
    return view.astype(dtype) if swapped else view


def _decode(message: Any) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR) if len(message.data) else None
    if picture is None:
        raise InvalidInput(
            f"compressed image ({message.format!r}, {len(message.data)} bytes) cannot be decoded; it must "
            "be JPEG or PNG"
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _through_cv_bridge(message: Any) -> np.ndarray:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        raise InvalidInput(
            f"image encoding {message.encoding!r} needs cv_bridge, which is not installed; without it "
            f"these work: {', '.join(_COLOUR)}"
        ) from None
    try:
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except CvBridgeError as error:
        raise InvalidInput(
            f"image encoding {message.encoding!r}: cv_bridge says {error}; use one of {', '.join(_COLOUR)}"
        ) from error


def intrinsics_of(message: Any, size_px: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None, str]:
    """(K 3x3, distortion coefficients or None, distortion model) for an image of size_px, from a CameraInfo.

    Region of interest, binning and a proportional resize are applied to K. Raises InvalidInput when the
    message is not a calibration of such an image.
    """
    K = np.array(message.k, float).reshape(3, 3)
    if not K.any():
        raise InvalidInput("camera_info has K of zeros: the camera is not calibrated; publish its calibration")
    if not np.all(np.isfinite(K)) or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise InvalidInput(f"camera_info has K = {np.round(K, 3).tolist()}: focal lengths must be finite and positive")
    width, height = message.width or size_px[0], message.height or size_px[1]
    roi = message.roi
    if roi.width and roi.height:
        K = _shifted(K, roi.x_offset, roi.y_offset)
        width, height = roi.width, roi.height
    bins = max(1, message.binning_x), max(1, message.binning_y)
    K = _scaled(K, 1 / bins[0], 1 / bins[1])
    width, height = width / bins[0], height / bins[1]
    scale = size_px[0] / width, size_px[1] / height
    # A resize rounds to whole pixels, hence the tolerance of one.
    if abs(scale[0] * height - size_px[1]) > 1 and abs(scale[1] * width - size_px[0]) > 1:
        raise InvalidInput(
            f"camera_info is for {width:g}x{height:g} but the image is {size_px[0]}x{size_px[1]}, "
            "another shape; publish the camera_info of this image"
        )
    K = _scaled(K, *scale)
    coefficients = np.array(message.d, float)
    if not coefficients.any():
        return K, None, "plumb_bob"
    model = message.distortion_model or "plumb_bob"
    terms = _DISTORTION_TERMS.get(model)
    if terms is None:
        raise InvalidInput(
            f"camera_info has distortion model {model!r}; known are {', '.join(_DISTORTION_TERMS)}: "
            "publish rectified images instead"
        )
    if len(coefficients) not in terms or not np.all(np.isfinite(coefficients)):
        raise InvalidInput(
            f"camera_info has {len(coefficients)} {model} coefficients; it needs "
            f"{' or '.join(map(str, terms))} finite ones"
        )
    return K, np.pad(coefficients, (0, terms[-1] - len(coefficients))), model


def _shifted(K: np.ndarray, x_px: float, y_px: float) -> np.ndarray:
    return K - np.array([[0, 0, x_px], [0, 0, y_px], [0, 0, 0]])


def _scaled(K: np.ndarray, x: float, y: float) -> np.ndarray:
    # Principal points count from the first pixel's centre, sizes from its corner.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    back = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    return back @ np.diag([x, y, 1.0]) @ half @ K


def stamp_ns(header: Any) -> int:
    """Nanoseconds of a std_msgs/Header's stamp."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def matrix_of(transform: Any) -> np.ndarray:
    """4x4 of a geometry_msgs/Transform. Raises InvalidInput for a rotation that is none."""
    t, q = transform.translation, transform.rotation
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_of((q.x, q.y, q.z, q.w))
    matrix[:3, 3] = t.x, t.y, t.z
    if not np.all(np.isfinite(matrix)):
        raise InvalidInput("transform has a translation that is not finite")
    return matrix


def rotation_of(xyzw: tuple[float, float, float, float]) -> np.ndarray:
    """3x3 of a quaternion (x, y, z, w) of about unit length."""
    q = np.asarray(xyzw, float)
    norm = np.linalg.norm(q)
    if not abs(norm - 1.0) < 0.1:
        raise InvalidInput(f"quaternion {tuple(xyzw)} has length {norm:.3g}; a rotation has 1")
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """(x, y, z, w), w >= 0, of a 3x3 rotation (Shepperd's method: divide by the largest component)."""
    m = np.asarray(rotation, float)
    squares = np.array(
        [
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m[0, 0] + m[1, 1] + m[2, 2],
        ]
    )
    k = int(np.argmax(squares))
    s = 2.0 * np.sqrt(squares[k])
    rows = (
        (s / 4, (m[0, 1] + m[1, 0]) / s, (m[0, 2] + m[2, 0]) / s, (m[2, 1] - m[1, 2]) / s),
        ((m[0, 1] + m[1, 0]) / s, s / 4, (m[1, 2] + m[2, 1]) / s, (m[0, 2] - m[2, 0]) / s),
        ((m[0, 2] + m[2, 0]) / s, (m[1, 2] + m[2, 1]) / s, s / 4, (m[1, 0] - m[0, 1]) / s),
        ((m[2, 1] - m[1, 2]) / s, (m[0, 2] - m[2, 0]) / s, (m[1, 0] - m[0, 1]) / s, s / 4),
    )
    q = np.array(rows[k])
    q = q / np.linalg.norm(q) * (1.0 if q[3] >= 0 else -1.0)
    return tuple(float(v) for v in q)
