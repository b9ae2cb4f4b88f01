"""Encoded pictures: as the sensor saw them, within the limit, whole or refused before they are decoded."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros import codec
from qwen3vl_ros.codec import decode_grey16, decode_rgb
from qwen3vl_ros.types import InvalidInput

# The left half is red, the upper half is bright: turned or mirrored in any way, it is another picture.
SCENE = np.zeros((24, 40, 3), np.uint8)
SCENE[:, :20, 0], SCENE[:, 20:, 2] = 200, 200
SCENE[:12] += 50


def encoded(kind: str, picture=SCENE, *options) -> bytes:
    return cv2.imencode(kind, picture[..., ::-1] if picture.ndim == 3 else picture, options)[1].tobytes()


def with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    """An APP1 segment after the start, big-endian TIFF with one entry; a thumbnail may follow it."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0) + thumbnail
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_size(width: int, height: int) -> bytes:
    """A whole PNG whose header promises what its few bytes do not hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_every_kind_comes_back_as_rgb(kind):
    got = decode_rgb(encoded(kind), "picture")
    assert got.shape == SCENE.shape and got.dtype == np.uint8 and np.abs(got.astype(int) - SCENE).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_orientation_turns_a_picture(orientation):
    plain = encoded(".jpg")
    assert np.array_equal(decode_rgb(with_exif(plain, orientation), "picture"), decode_rgb(plain, "picture"))


def test_the_orientation_of_a_png_turns_nothing_either():
    whole = encoded(".png")
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    at = 8 + 25  # after IHDR
    turned = whole[:at] + png_chunk(b"eXIf", exif) + whole[at:]
    assert np.array_equal(decode_rgb(turned, "picture"), SCENE)


PROGRESSIVE = encoded(".jpg", SCENE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = encoded(".jpg", SCENE, cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
NOISE = encoded(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), cv2.IMWRITE_JPEG_QUALITY, 100)
WHOLE = {
    "baseline": encoded(".jpg"),
    "progressive": PROGRESSIVE,
    "restart markers": RESTARTS,
    "stuffed bytes": NOISE,
    "a whole thumbnail inside": with_exif(encoded(".jpg"), 1, encoded(".jpg", SCENE[::4, ::4])),
    "grey": encoded(".jpg", SCENE[..., 0]),
    "png": encoded(".png"),
    "grey png": encoded(".png", SCENE[..., 0]),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_picture_cut_short_is_refused_before_decoding(data, share, monkeypatch):
    assert decode_rgb(data, "picture").ndim == 3
    monkeypatch.setattr(codec.cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InvalidInput, match="cut short"):
        decode_rgb(data[: int(share * len(data))], "picture")


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_the_zeros_of_a_file_that_was_never_written_are_cut_short_too(data, monkeypatch):
    monkeypatch.setattr(codec.cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InvalidInput, match="cut short"):
        decode_rgb(data[: len(data) // 2] + bytes(len(data)), "picture")


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_what_a_driver_pads_after_the_end_does_no_harm(data):
    assert np.array_equal(decode_rgb(data + bytes(4096), "picture"), decode_rgb(data, "picture"))


def webp_of_size(width: int, height: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<IB", 10, 0) + bytes(3) + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_of_size(width: int, height: int) -> bytes:
    whole = encoded(".jpg")
    at = whole.index(b"\xff\xc0")
    return whole[: at + 5] + struct.pack(">HH", height, width) + whole[at + 9 :]


TOO_LARGE = {
    "png": png_of_size(30_000, 30_000),
    "png as wide as it may be": png_of_size(2**31 - 1, 1_000),
    "jpeg": jpeg_of_size(60_000, 60_000),
    "webp": webp_of_size(16_000, 16_000),
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 40_000, -40_000) + bytes(60),
    "tiff": b"II*\0" + struct.pack("<IHHHIIHHII", 8, 2, 256, 4, 1, 50_000, 257, 4, 1, 50_000) + bytes(8),
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE)
def test_the_size_is_read_before_memory_is_asked_for(data, monkeypatch):
    monkeypatch.setattr(codec.cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InvalidInput, match="0x.*max_image_pixels|7x1000 pixels.*max_image_pixels"):
        decode_rgb(data, "picture")


def test_the_limit_is_the_callers():
    with pytest.raises(InvalidInput, match="40x24 pixels, more than the 959 of"):
        decode_rgb(encoded(".png"), "picture", max_pixels=959)
    assert decode_rgb(encoded(".png"), "picture", max_pixels=960).shape == SCENE.shape


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture at all", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF1234WEBP", b"II*\0", bytes(99)],
)
def test_what_is_no_picture_is_refused_by_name(data):
    with pytest.raises(InvalidInput, match="the name of it"):
        decode_rgb(data, "the name of it")


def test_depth_is_sixteen_bits_of_grey_and_nothing_else():
    depth = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 60
    assert np.array_equal(decode_grey16(encoded(".png", depth), "depth"), depth)
    for other in (SCENE, SCENE[..., 0], np.dstack([depth] * 3)):
        with pytest.raises(InvalidInput, match="16-bit grey"):
            decode_grey16(encoded(".png", other), "depth")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(WHOLE.values())), st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_a_picture_or_a_reason(data, at, damage):
    at %= len(data)
    try:
        got = decode_rgb(data[:at] + damage + data[at + len(damage) :], "picture", max_pixels=10**6)
    except InvalidInput as error:
        assert "picture" in str(error)
    else:
        assert got.ndim == 3 and got.dtype == np.uint8
