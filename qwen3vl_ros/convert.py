"""Messages to our types: pixels as NumPy views, depth in metres by its encoding, poses as matrices.

Takes sensor_msgs Image and CompressedImage by their fields alone, so it imports no ROS and is tested without
one. Whatever is wrong with a message, or whatever foreign code raises on it, is InvalidInput. Rare encodings go to
the distribution's cv_bridge where there is one. Source: sensor_msgs' image_encodings,
compressed_depth_image_transport.
"""

from __future__ import annotations

import sys
from struct import unpack_from
from typing import Any

import cv2
import numpy as np

from qwen3vl_ros.codec import MAX_PIXELS, check_size, decode_grey16, decode_rgb
from qwen3vl_ros.resources import exhausted
from qwen3vl_ros.types import InvalidInput, quoted

# encoding -> (dtype, channels, OpenCV's code to RGB or None). OpenCV names a Bayer pattern by its second row.
_COLOUR = {
    "rgb8": (np.uint8, 3, None),
    "bgr8": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "rgb16": (np.uint16, 3, None),
    "bgr16": (np.uint16, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (np.uint16, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (np.uint16, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "8UC4": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    **{name: (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY) for name in ("yuv422", "uyvy")},
    **{name: (np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2) for name in ("yuv422_yuy2", "yuyv")},
    **{
        f"bayer_{pattern}{8 * np.dtype(dtype).itemsize}": (dtype, 1, code)
        for dtype in (np.uint8, np.uint16)
        for pattern, code in {
            "rggb": cv2.COLOR_BayerBG2RGB,
            "bggr": cv2.COLOR_BayerRG2RGB,
            "gbrg": cv2.COLOR_BayerGR2RGB,
            "grbg": cv2.COLOR_BayerGB2RGB,
        }.items()
    },
}
# A plane of luma, then one of chroma with half as many rows.
_TWO_PLANES = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_NV24 = "nv24"  # the same with all of the chroma, which OpenCV has no code for: BT.601, studio range
_BT601 = 255 * np.linalg.inv(
    np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
)
# encoding -> (dtype, metres per unit), REP 118
_DEPTH = {"16UC1": (np.uint16, 0.001), "mono16": (np.uint16, 0.001), "32FC1": (np.float32, 1.0)}


def rgb_of(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """HxWx3 uint8 of an Image or CompressedImage; a read-only view of the message where nothing must change.

    Raises InvalidInput for an unknown encoding, a buffer that does not fit its size, a picture cut short, or one of
    more than max_pixels.
    """
    if hasattr(message, "format"):
        return decode_rgb(message.data, f"compressed image ({quoted(message.format)})", max_pixels)
    check_size(message.width, message.height, "image", max_pixels)
    if message.encoding in _TWO_PLANES:
        return _converted(_luma_and_chroma(message), _TWO_PLANES[message.encoding], message)
    if message.encoding == _NV24:
        return _from_nv24(message)
    if message.encoding not in _COLOUR:
        return _through_cv_bridge(message)
    dtype, channels, to_rgb = _COLOUR[message.encoding]
    pixels = _view(message, dtype, channels, "image")
    if dtype is np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if to_rgb is None else _converted(pixels, to_rgb, message)


def is_depth(message: Any) -> bool:
    """Whether an Image or CompressedImage is depth by what it says of itself."""
    kind = message.format if hasattr(message, "format") else message.encoding
    return "compressedDepth" in kind or kind.split(";")[0].strip() in _DEPTH


def depth_of(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """HxW float32 metres of a depth Image or CompressedImage: 16UC1 is millimetres, 32FC1 metres.

    No reading is NaN or 0. Compressed depth is a PNG, bare (image_transport's `compressed`) or after the 12 bytes of
    `compressedDepth`.
    """
    if hasattr(message, "format"):
        return _compressed_depth(message, max_pixels)
    if message.encoding not in _DEPTH:
        raise InvalidInput(
            f"depth image has encoding {quoted(message.encoding)}; depth is 16UC1 (millimetres) or 32FC1 "
            "(metres): point depth/image_raw at the registered depth image"
        )
    check_size(message.width, message.height, "depth image", max_pixels)
    dtype, metres = _DEPTH[message.encoding]
    depth = _view(message, dtype, 1, "depth image")
    return depth if dtype is np.float32 else np.multiply(depth, np.float32(metres), dtype=np.float32)


def _compressed_depth(message: Any, max_pixels: int) -> np.ndarray:
    name, data = f"compressed depth ({quoted(message.format)})", bytes(message.data)
    kind = message.format.split(";")[0].strip()
    with_header = "compressedDepth" in message.format
    if kind not in _DEPTH or "rvl" in message.format.lower() or (kind == "32FC1" and not with_header):
        raise InvalidInput(f"{name} cannot be read; publish it as PNG (png_level instead of rvl), or raw")
    if with_header and len(data) < 12:
        raise InvalidInput(f"{name} is cut short: it has {len(data)} bytes")
    stored = decode_grey16(data[12:] if with_header else data, name, max_pixels)
    if kind != "32FC1":
        return np.multiply(stored, np.float32(0.001), dtype=np.float32)
    # Inverse depth in steps: the header holds a format and the two numbers that undo it.
    _, a, b = unpack_from("<iff", data)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        depth = np.float32(a) / (stored.astype(np.float32) - np.float32(b))
    return np.where((stored > 0) & np.isfinite(depth), depth, np.float32(np.nan)).astype(np.float32)


def _view(message: Any, dtype: type, channels: int, name: str, rows: int = 0) -> np.ndarray:
    """HxW or HxWxC over message.data in the machine's byte order. rows: where it has more than the image is high."""
    itemsize = np.dtype(dtype).itemsize
    height, width, step = rows or message.height, message.width, message.step
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


def _luma_and_chroma(message: Any) -> np.ndarray:
    if message.width % 2 or message.height % 2:
        raise InvalidInput(f"{message.encoding} image is {message.width}x{message.height}; both must be even")
    return np.ascontiguousarray(_view(message, np.uint8, 1, "image", rows=message.height * 3 // 2))


def _from_nv24(message: Any) -> np.ndarray:
    height, width = message.height, message.width
    planes = _view(message, np.uint8, 1, "image", rows=3 * height)
    if message.step != width:
        raise InvalidInput(f"nv24 image has step {message.step} for {width} pixels; rows must not be padded")
    yuv = np.dstack((planes[:height], planes[height:].reshape(height, width, 2)))
    return cv2.transform(yuv, np.column_stack((_BT601, -_BT601 @ (16, 128, 128))))


def _converted(pixels: np.ndarray, code: int, message: Any) -> np.ndarray:
    try:
        return cv2.cvtColor(pixels, code)
    except cv2.error as error:
        if exhausted(error):
            raise
        size = f"{message.width}x{message.height}"
        raise InvalidInput(f"{message.encoding} image of {size} cannot be converted: {error.err or error}") from error


def _through_cv_bridge(message: Any) -> np.ndarray:
    encoding, known = quoted(message.encoding), ", ".join((*_COLOUR, *_TWO_PLANES, _NV24))
    try:
        from cv_bridge import CvBridge

        pixels = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except ImportError:
        raise InvalidInput(
            f"image encoding {encoding} needs cv_bridge, which is not installed; without it these work: {known}"
        ) from None
    except Exception as error:  # it lets through whatever OpenCV, NumPy or Boost raise
        if exhausted(error):
            raise
        raise InvalidInput(
            f"image encoding {encoding}: cv_bridge says {quoted(error, 300)}; use one of {known}"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape != (message.height, message.width, 3):
        raise InvalidInput(
            f"image encoding {encoding}: cv_bridge made {pixels.dtype} {pixels.shape} of it; use one of {known}"
        )
    return pixels


def stamp_ns(header: Any) -> int:
    """Nanoseconds of a std_msgs/Header's stamp."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def stamp_in(cdr: bytes) -> int:
    """Nanoseconds of the header's stamp that a serialised message begins with."""
    # Four bytes of encapsulation, whose second says the byte order; then the header's first fields.
    sec, nanosec = unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return sec * 1_000_000_000 + nanosec


def frame_id_of(header: Any) -> str:
    """A std_msgs/Header's frame, without the leading slash of ROS 1 names, which tf2 refuses."""
    return header.frame_id.lstrip("/")


def matrix_of(transform: Any) -> np.ndarray:
    """4x4 of a geometry_msgs/Transform. Raises InvalidInput for a rotation that is none."""
    t, q = transform.translation, transform.rotation
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_of_quaternion((q.x, q.y, q.z, q.w))
    matrix[:3, 3] = t.x, t.y, t.z
    if not np.all(np.isfinite(matrix)):
        raise InvalidInput("transform has a translation that is not finite")
    return matrix


def pose_matrix(pose: Any) -> np.ndarray:
    """4x4 of a geometry_msgs/Pose."""
    matrix, o = np.eye(4), pose.orientation
    matrix[:3, :3] = rotation_of_quaternion((o.x, o.y, o.z, o.w))
    matrix[:3, 3] = pose.position.x, pose.position.y, pose.position.z
    return matrix


def rotation_of_quaternion(xyzw: tuple[float, float, float, float]) -> np.ndarray:
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
