"""Camera messages become arrays by what they say of themselves, and refuse by name what they cannot be."""

from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.convert import depth_of, intrinsics_of, quaternion_of, rgb_of, rotation_of
from qwen3vl_ros.types import InvalidInput

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def image(pixels, encoding, pad=0, big=False):
    """A sensor_msgs/Image with `pad` bytes after every row."""
    if big:
        pixels = pixels.byteswap()
    rows = [row.tobytes() + b"\xee" * pad for row in pixels]
    return Message(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=len(rows[0]),
        data=b"".join(rows),
    )


ALPHA = np.full((5, 7, 1), 9, np.uint8)


@pytest.mark.parametrize("pad", [0, 6])
@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, ALPHA])),
        ("bgra8", np.dstack([RGB[..., ::-1], ALPHA])),
        ("8UC3", RGB[..., ::-1]),
    ],
)
def test_every_colour_layout_is_the_same_picture(encoding, pixels, pad):
    assert np.array_equal(rgb_of(image(np.ascontiguousarray(pixels), encoding, pad)), RGB)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_is_grey_in_all_channels(encoding):
    assert np.array_equal(rgb_of(image(RGB[..., 0], encoding)), np.repeat(RGB[..., :1], 3, 2))


@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bit_grey_keeps_its_high_byte(big):
    grey = RGB[..., 0].astype(np.uint16) * 256 + 7
    assert np.array_equal(rgb_of(image(grey, "mono16", big=big))[..., 1], RGB[..., 0])


def test_rgb_is_a_view_of_the_message():
    message = image(RGB, "rgb8")
    message.data = bytearray(message.data)
    assert np.shares_memory(rgb_of(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pad", [0, 4])
def test_depth_units_follow_the_encoding(pad, big):
    millimetres = np.array([[740, 0], [65535, 1]], np.uint16)
    expected = millimetres.astype(np.float64) / 1000
    for encoding in ("16UC1", "mono16"):
        assert np.allclose(depth_of(image(millimetres, encoding, pad, big)), expected, atol=1e-6)
    metres = np.array([[0.74, np.nan], [65.535, 0.0]], np.float32)
    got = depth_of(image(metres, "32FC1", pad, big))
    assert got.dtype == np.float32 and np.array_equal(got, metres, equal_nan=True)


@pytest.mark.parametrize(
    "name, message, reader, words",
    [
        ("unknown colour", image(RGB[..., 0], "bayer_rggb8"), rgb_of, "bayer_rggb8.*cv_bridge"),
        ("depth as colour", image(RGB[..., 0].astype(np.float32), "32FC1"), rgb_of, "32FC1"),
        ("colour as depth", image(RGB, "rgb8"), depth_of, "16UC1.*32FC1"),
        ("short buffer", Message(**{**vars(image(RGB, "rgb8")), "data": b"123"}), rgb_of, "buffer holds 3"),
        ("short step", Message(**{**vars(image(RGB, "rgb8")), "step": 3}), rgb_of, "step 3"),
        (
            "odd step",
            Message(**{**vars(image(RGB[..., 0].astype(np.uint16), "16UC1")), "step": 15, "data": bytes(99)}),
            depth_of,
            "step 15",
        ),
        ("empty", Message(**{**vars(image(RGB, "rgb8")), "height": 0}), rgb_of, "7x0"),
        ("not a jpeg", Message(format="jpeg", data=b"no"), rgb_of, "JPEG or PNG"),
        ("empty jpeg", Message(format="jpeg", data=b""), rgb_of, "JPEG or PNG"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(name, message, reader, words):
    with pytest.raises(InvalidInput, match=words):
        reader(message)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images_are_decoded_to_rgb(extension):
    flat = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    data = cv2.imencode(extension, flat[..., ::-1])[1].tobytes()
    got = rgb_of(Message(format=extension[1:], data=data))
    assert np.abs(got.astype(int) - flat).max() <= 4


def info(**changes):
    base = dict(
        width=640,
        height=480,
        k=[600.0, 0, 319.5, 0, 600.0, 239.5, 0, 0, 1],
        d=[],
        distortion_model="plumb_bob",
        binning_x=0,
        binning_y=0,
        roi=Message(x_offset=0, y_offset=0, width=0, height=0),
    )
    return Message(**{**base, **changes})


def test_intrinsics_of_the_same_size_are_untouched():
    K, distortion, model = intrinsics_of(info(d=[0.0] * 5), (640, 480))
    assert np.allclose(K, np.array(info().k).reshape(3, 3)) and distortion is None and model == "plumb_bob"


def test_a_smaller_image_scales_intrinsics_about_the_corner_of_the_image():
    K, *_ = intrinsics_of(info(), (320, 240))
    assert np.allclose(K, [[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]])


def test_region_and_binning_are_applied():
    roi = Message(x_offset=100, y_offset=40, width=320, height=240)
    K, *_ = intrinsics_of(info(roi=roi, binning_x=2, binning_y=2), (160, 120))
    assert np.allclose(K, [[300, 0, (319.5 - 100 + 0.5) / 2 - 0.5], [0, 300, (239.5 - 40 + 0.5) / 2 - 0.5], [0, 0, 1]])


@pytest.mark.parametrize(
    "model, n, full", [("plumb_bob", 5, 5), ("plumb_bob", 4, 5), ("rational_polynomial", 8, 8), ("equidistant", 4, 4)]
)
def test_distortion_is_kept(model, n, full):
    _, distortion, name = intrinsics_of(info(d=[0.1] * n, distortion_model=model), (640, 480))
    assert name == model and len(distortion) == full and np.allclose(distortion[:n], 0.1)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(k=[0.0] * 9), "zeros.*not calibrated"),
        (dict(k=[-1.0, 0, 3, 0, 1, 3, 0, 0, 1]), "positive"),
        (dict(k=[float("nan")] * 9), "finite"),
        (dict(width=640, height=640), "640x640 but the image is 640x480"),
        (dict(d=[0.1] * 3), "3 plumb_bob"),
        (dict(d=[0.1] * 4, distortion_model="mystery"), "mystery"),
    ],
)
def test_what_is_no_calibration_of_the_image_is_refused_by_name(changes, words):
    with pytest.raises(InvalidInput, match=words):
        intrinsics_of(info(**changes), (640, 480))


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.05))
def test_quaternions_and_rotations_are_inverse(q):
    q = np.array(q) / np.linalg.norm(q)
    R = rotation_of(tuple(q))
    assert np.allclose(R @ R.T, np.eye(3), atol=1e-9) and np.isclose(np.linalg.det(R), 1)
    assert np.allclose(rotation_of(quaternion_of(R)), R, atol=1e-9)


def test_a_zero_quaternion_is_no_rotation():
    with pytest.raises(InvalidInput, match="length 0"):
        rotation_of((0, 0, 0, 0))
