"""Encoded pictures -> pixels: the one decoder of messages, files and recordings.

The header tells the size, so a picture that is too large, cut short or of another kind is refused before anything is
decoded, whatever this version of OpenCV would make of it. Pixels stay as the sensor saw them: EXIF orientation is never
applied. Knows no messages and no files. Sources: PNG (W3C), JPEG (ITU T.81), TIFF 6.0, WebP (RFC 9649).
"""

from __future__ import annotations

import re
from struct import error as StructError
from struct import unpack_from

import cv2
import numpy as np

from qwen3vl_ros.config import Config
from qwen3vl_ros.resources import exhausted
from qwen3vl_ros.types import InvalidInput

MAX_PIXELS = Config.max_image_pixels
_PNG = b"\x89PNG\r\n\x1a\n"
# What starts a JPEG segment, also after entropy-coded data: neither a stuffed byte nor a restart.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_JPEG_END, _JPEG_BARE = 0xD9, (0x01, 0xD8)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class _CutShort(Exception):
    """The data ends before the picture does."""


def decode_rgb(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """HxWx3 uint8 RGB of a JPEG, PNG, BMP, TIFF or WebP. name: what to call it in an InvalidInput."""
    return cv2.cvtColor(
        _decoded(data, name, max_pixels, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB
    )


def decode_grey16(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """HxW uint16 of a grey 16-bit PNG or TIFF, as depth is kept. Raises InvalidInput for any other picture."""
    picture = _decoded(data, name, max_pixels, cv2.IMREAD_UNCHANGED)  # which does not turn either
    if picture.dtype != np.uint16 or picture.ndim != 2:
        raise InvalidInput(f"{name} is {picture.dtype} {picture.shape}; it must be a 16-bit grey PNG in millimetres")
    return picture


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raises InvalidInput for a picture of no pixels or of more than max_pixels."""
    if width < 1 or height < 1:
        raise InvalidInput(f"{name} has size {width}x{height}; the camera published an empty image")
    if width * height > max_pixels:
        raise InvalidInput(
            f"{name} has {width}x{height} pixels, more than the {max_pixels} of parameter max_image_pixels; publish "
            "a smaller one, or raise the parameter"
        )


def _decoded(data: bytes, name: str, max_pixels: int, flags: int) -> np.ndarray:
    data = bytes(data)
    try:
        width, height = _size_px(data)
    except (_CutShort, StructError):
        raise InvalidInput(f"{name} is cut short: its {len(data)} bytes end before the picture does") from None
    except ValueError:
        raise InvalidInput(f"{name} ({len(data)} bytes) cannot be decoded; it must be JPEG or PNG") from None
    check_size(width, height, name, max_pixels)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if exhausted(error):
            raise
        raise InvalidInput(f"{name} cannot be decoded: {error.err or error}") from error
    if picture is None or picture.shape[:2] != (height, width):
        raise InvalidInput(
            f"{name} cannot be decoded; its header is that of a {width}x{height} picture, the rest is damaged"
        )
    return picture


def _size_px(data: bytes) -> tuple[int, int]:
    """(width, height) by the header. Raises ValueError for an unknown kind, _CutShort or struct.error."""
    if data.startswith(_PNG):
        return _png_size_px(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size_px(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff_size_px(data)
    if data.startswith(b"BM"):
        width, height = unpack_from("<ii", data, 18)
        return width, abs(height)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size_px(data)
    raise ValueError


def _png_size_px(data: bytes) -> tuple[int, int]:
    size, at = unpack_from(">II", data, 16), len(_PNG)
    while (kind := data[at + 4 : at + 8]) != b"IEND":
        if not kind.isalpha():  # the end, or the zeros of a file that was never written
            raise _CutShort
        at += 12 + unpack_from(">I", data, at)[0]
    if at + 12 > len(data):
        raise _CutShort
    return size


def _jpeg_size_px(data: bytes) -> tuple[int, int]:
    size, at = None, 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _JPEG_END and size:
            return size
        if marker in _JPEG_BARE:
            continue
        length = unpack_from(">H", data, at)[0]
        if marker in _JPEG_FRAMES:
            height, width = unpack_from(">HH", data, at + 3)
            size = width, height
        at += length
    raise _CutShort


def _tiff_size_px(data: bytes) -> tuple[int, int]:
    order = "<" if data.startswith(b"II") else ">"
    first = unpack_from(order + "I", data, 4)[0]
    values = {}
    for i in range(unpack_from(order + "H", data, first)[0]):
        at = first + 2 + 12 * i
        tag, kind = unpack_from(order + "HH", data, at)
        values[tag] = unpack_from(order + ("H" if kind == 3 else "I"), data, at + 8)[0]
    if not {256, 257} <= values.keys():
        raise ValueError
    return values[256], values[257]


def _webp_size_px(data: bytes) -> tuple[int, int]:
    if unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise _CutShort
    kind = data[12:16]
    if kind == b"VP8X":
        return tuple(int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    if kind == b"VP8L":
        bits = unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return tuple(side & 0x3FFF for side in unpack_from("<HH", data, 26))
