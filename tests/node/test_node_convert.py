"""Camera messages become arrays by what they say of themselves, and refuse by name what they cannot be."""

import struct
import sys
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.calibration import intrinsics_of, is_rectified
from qwen3vl_ros.convert import depth_of, frame_id_of, is_depth, quaternion_of, rgb_of, rotation_of_quaternion
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
        ("unknown colour", image(RGB[..., 0], "bayer_rggb12"), rgb_of, "bayer_rggb12.*cv_bridge"),
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


# A picture that every subsampling keeps: four flat quarters, their borders at even pixels.
QUARTERS = np.zeros((16, 24, 3), np.uint8)
QUARTERS[:8, :12], QUARTERS[:8, 12:] = (200, 40, 40), (40, 190, 60)
QUARTERS[8:, :12], QUARTERS[8:, 12:] = (50, 60, 210), (128, 128, 128)


def yuv_planes():
    """(Y HxW, U HxW, V HxW), BT.601 in studio range, as cameras send it."""
    r, g, b = QUARTERS.astype(float).transpose(2, 0, 1)
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return [np.rint(plane).astype(np.uint8) for plane in (y, u, v)]


def packed(first_is_chroma):
    y, u, v = yuv_planes()
    chroma = np.where(np.arange(24) % 2, v, u)
    return np.dstack((chroma, y) if first_is_chroma else (y, chroma)).reshape(16, 48)


def semi_planar(order):
    y, *uv = yuv_planes()
    chroma = np.dstack([uv["uv".index(c)] for c in order])
    return np.vstack((y, chroma[::2, ::2].reshape(8, 24)))


def nv24():
    y, u, v = yuv_planes()
    return np.vstack((y, np.dstack((u, v)).reshape(32, 24)))


def mosaic(pattern, dtype):
    """The picture as a sensor of this pattern sees it: the letters are the colours of the first 2x2 pixels."""
    seen = np.zeros(QUARTERS.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        rows, columns = slice(i // 2, None, 2), slice(i % 2, None, 2)
        seen[rows, columns] = QUARTERS[rows, columns, "rgb".index(letter)]
    return seen if dtype is np.uint8 else seen.astype(np.uint16) * 256 + 77


FIELD = {
    "yuv422": packed(True),
    "uyvy": packed(True),
    "yuv422_yuy2": packed(False),
    "yuyv": packed(False),
    "nv12": semi_planar("uv"),
    "nv21": semi_planar("vu"),
    "nv24": nv24(),
    "rgb16": QUARTERS.astype(np.uint16) * 256 + 3,
    "bgra16": np.dstack((QUARTERS[..., ::-1], QUARTERS[..., :1])).astype(np.uint16) * 256,
    **{
        f"bayer_{pattern}{bits}": mosaic(pattern, dtype)
        for pattern in ("rggb", "bggr", "gbrg", "grbg")
        for bits, dtype in ((8, np.uint8), (16, np.uint16))
    },
}


@pytest.mark.parametrize("encoding", FIELD)
@pytest.mark.parametrize("big", [False, True])
def test_what_cameras_really_send_needs_no_bridge(encoding, big):
    message = image(np.ascontiguousarray(FIELD[encoding]), encoding, big=big)
    message.height, message.width = 16, 24
    got = rgb_of(message)
    inner = np.zeros((16, 24), bool)  # demosaicking and chroma blur borders
    for rows in (slice(2, 6), slice(10, 14)):
        for columns in (slice(2, 10), slice(14, 22)):
            inner[rows, columns] = True
    assert got.shape == (16, 24, 3) and got.dtype == np.uint8
    assert np.abs(got[inner].astype(int) - QUARTERS[inner]).max() <= 4


@pytest.mark.parametrize("encoding", [e for e in FIELD if "16" not in e and e != "nv24"])
def test_rows_may_be_padded_in_those_too(encoding):
    pixels = np.ascontiguousarray(FIELD[encoding])
    plain, padded = image(pixels, encoding), image(pixels, encoding, pad=8)
    for message in (plain, padded):
        message.height, message.width = 16, 24
    assert np.array_equal(rgb_of(plain), rgb_of(padded))


@pytest.mark.parametrize("encoding", FIELD)
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 4), (2, 2), (5, 5), (3, 2)])
def test_a_size_that_its_encoding_cannot_have_is_refused_and_never_an_exception_of_others(encoding, size):
    width, height = size
    step = width * 8
    message = Message(width=width, height=height, step=step, encoding=encoding, is_bigendian=0, data=bytes(step * 16))
    try:
        assert rgb_of(message).shape == (height, width, 3)
    except InvalidInput as error:
        assert encoding in str(error)


@pytest.mark.parametrize(
    "raised",
    [RuntimeError("boom"), TypeError("no tostring"), KeyError("x"), cv2.error("!_src.empty()"), AttributeError()],
)
def test_whatever_cv_bridge_raises_is_a_reason(monkeypatch, raised):
    class CvBridge:
        def imgmsg_to_cv2(self, message, encoding):
            raise raised

    monkeypatch.setitem(sys.modules, "cv_bridge", Message(CvBridge=CvBridge))
    with pytest.raises(InvalidInput, match="'64FC2': cv_bridge says"):
        rgb_of(image(RGB, "64FC2"))


@pytest.mark.parametrize("made", [RGB[..., 0], RGB.astype(float), RGB[:3], np.empty((0, 0, 3), np.uint8)], ids=str)
def test_whatever_cv_bridge_returns_is_looked_at(monkeypatch, made):
    bridge = Message(imgmsg_to_cv2=lambda message, encoding: made)
    monkeypatch.setitem(sys.modules, "cv_bridge", Message(CvBridge=lambda: bridge))
    with pytest.raises(InvalidInput, match="cv_bridge made"):
        rgb_of(image(RGB, "64FC2"))


@pytest.mark.parametrize("field", ["encoding", "format"])
@pytest.mark.parametrize("reader", [rgb_of, depth_of])
def test_text_of_a_message_is_cut_where_it_is_shown(field, reader):
    long = "x\n" * 500_000
    message = image(RGB, long) if field == "encoding" else Message(format=long, data=b"")
    with pytest.raises(InvalidInput) as refused:
        reader(message)
    assert len(str(refused.value)) < 1200 and "\n" not in str(refused.value) and "1000000" in str(refused.value)


def test_an_image_of_too_many_pixels_is_refused_raw_or_compressed():
    for message, reader in (
        (image(RGB, "rgb8"), rgb_of),
        (image(RGB[..., 0].astype(np.uint16), "16UC1"), depth_of),
        (Message(format="png", data=cv2.imencode(".png", RGB)[1].tobytes()), rgb_of),
    ):
        with pytest.raises(InvalidInput, match="7x5 pixels, more than the 34 of parameter max_image_pixels"):
            reader(message, 34)
        assert reader(message, 35).shape[:2] == (5, 7)


MILLIMETRES = np.array([[740, 0, 12_000], [65_535, 1, 800]], np.uint16)


def compressed_depth(kind, transport, stored=MILLIMETRES, header=b""):
    return Message(format=f"{kind}; {transport}", data=header + cv2.imencode(".png", stored)[1].tobytes())


@pytest.mark.parametrize(
    "transport, header",
    [
        ("compressedDepth", bytes(12)),
        ("compressedDepth png", bytes(12)),
        ("png compressed ", b""),
        ("png compressed", b""),
        ("compressed png", b""),
    ],
)
@pytest.mark.parametrize("kind", ["16UC1", "mono16"])
def test_compressed_depth_is_depth_in_every_way_it_is_written(kind, transport, header):
    message = compressed_depth(kind, transport, header=header)
    assert is_depth(message)
    np.testing.assert_allclose(depth_of(message), MILLIMETRES / 1000, atol=1e-6)


def test_inverse_depth_is_undone():
    """compressedDepth of 32FC1 keeps A / depth + B, as its quantisation makes it."""
    metres = np.array([[0.5, np.nan, 3.0], [1.0, 9.9, 0.8]], np.float32)
    a, b = 100.0 * 101.0, 1.0 - 101.0 * 100.0 / 10.0
    stored = np.nan_to_num(np.rint(a / metres + b)).astype(np.uint16)
    got = depth_of(compressed_depth("32FC1", "compressedDepth png", stored, struct.pack("<iff", 0, a, b)))
    assert np.isnan(got[0, 1]) and np.nanmax(np.abs(got / metres - 1)) < 0.01


@pytest.mark.parametrize(
    "name, message, words",
    [
        ("rvl", Message(format="16UC1; compressedDepth rvl", data=bytes(40)), "rvl"),
        ("floats as a picture", Message(format="32FC1; png compressed", data=bytes(40)), "32FC1"),
        ("colour", Message(format="rgb8; jpeg compressed bgr8", data=bytes(40)), "rgb8"),
        ("no header", Message(format="16UC1; compressedDepth png", data=bytes(5)), "cut short"),
        ("eight bits", compressed_depth("16UC1", "png compressed", MILLIMETRES.astype(np.uint8)), "16-bit"),
        ("cut", Message(format="16UC1; png", data=cv2.imencode(".png", MILLIMETRES)[1].tobytes()[:-20]), "cut short"),
    ],
)
def test_compressed_depth_that_is_none_is_refused_by_name(name, message, words):
    with pytest.raises(InvalidInput, match=words):
        depth_of(message)


def info(**changes):
    base = dict(
        width=640,
        height=480,
        k=[600.0, 0, 319.5, 0, 600.0, 239.5, 0, 0, 1],
        p=[550.0, 0, 310.0, 0, 0, 555.0, 230.0, 0, 0, 0, 1, 0],
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
    "model, given, expected",
    [
        ("plumb_bob", [0.1] * 8, ("rational_polynomial", 8)),  # as image_geometry takes it
        ("plumb_bob", [0.1, 0.2, 0, 0, 0, 0, 0, 0], ("plumb_bob", 5)),
        ("plumb_bob", [0.1] * 5 + [0] * 9, ("plumb_bob", 5)),
        ("Plumb Bob", [0.1] * 5, ("plumb_bob", 5)),
        ("", [0.1] * 5, ("plumb_bob", 5)),
        ("radtan", [0.1] * 4, ("plumb_bob", 5)),
        ("rational_polynomial", [0.1] * 12, ("rational_polynomial", 12)),
        ("rational_polynomial", [0.1] * 14, ("rational_polynomial", 14)),
        ("rational_polynomial", [0.1] * 8 + [0] * 6, ("rational_polynomial", 8)),
        ("rational_polynomial", [0.1] * 6 + [0] * 2, ("rational_polynomial", 8)),
        ("fisheye", [0.1] * 4, ("equidistant", 4)),
        ("equidistant", [0.1] * 4 + [0], ("equidistant", 4)),
        ("Kannala-Brandt4", [0.1, 0, 0, 0], ("equidistant", 4)),
    ],
)
def test_lenses_are_known_by_their_names_and_lengths(model, given, expected):
    _, distortion, name = intrinsics_of(info(d=given, distortion_model=model), (640, 480))
    assert (name, len(distortion)) == expected
    used = [v for v in given if v]
    assert np.allclose(distortion[: len(used)], used) and not np.any(distortion[len(used) :])


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "equidistant", "fish", "", "none"])
def test_no_distortion_is_none_by_any_name(model):
    for coefficients in ([], [0.0] * 5, [0.0] * 14):
        assert intrinsics_of(info(d=coefficients, distortion_model=model), (640, 480))[1] is None


@pytest.mark.parametrize(
    "parameter, topic, expected",
    [
        ("auto", "/camera/image_rect", True),
        ("auto", "/left/image_rect_color", True),
        ("auto", "/camera/color/image_rect_raw", True),
        ("auto", "/rectified/image", True),
        ("auto", "/stereo/imageRectified/compressed", True),
        ("auto", "/camera/image_raw", False),
        ("auto", "/direct/image_raw", False),
        ("auto", "/correct_camera/image", False),
        ("auto", "/rectangles/image", False),
        ("raw", "/camera/image_rect", False),
        ("rectified", "/camera/image_raw", True),
    ],
)
def test_the_topic_or_the_parameter_says_whether_images_are_rectified(parameter, topic, expected):
    assert is_rectified(parameter, topic) is expected


def test_rectified_images_have_the_projection_s_lens_and_no_distortion():
    K, distortion, model = intrinsics_of(info(d=[0.1] * 5), (320, 240), rectified=True)
    assert np.allclose(K, [[275, 0, 154.75], [0, 277.5, 114.75], [0, 0, 1]])
    assert distortion is None and model == "plumb_bob"


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(k=[0.0] * 9), "zeros.*not calibrated"),
        (dict(k=[300.0, 0, 1e9, 0, 300, 240, 0, 0, 1]), "no lens"),
        (dict(k=[300.0, 0, 320, 0, 300, -1e300, 0, 0, 1]), "no lens"),
        (dict(k=[1e-9, 0, 320, 0, 300, 240, 0, 0, 1]), "no lens"),
        (dict(k=[1e12, 0, 320, 0, 1e12, 240, 0, 0, 1]), "no lens"),
        (dict(k=[300.0, 1e9, 320, 0, 300, 240, 0, 0, 1]), "no lens"),
        (dict(k=[300.0, 0, 320, 0, 300, 240, 0, 0, 0]), "0 0 1"),
        (dict(k=[300.0, 0, 320, 5, 300, 240, 0, 0, 1]), "0 fy cy"),
        (dict(k=[float("inf")] * 9), "finite"),
        (dict(binning_x=4_000_000_000), "no lens|another shape"),
        (dict(roi=Message(x_offset=4_000_000_000, y_offset=0, width=640, height=480)), "no lens"),
        (dict(d=[float("nan")] * 5), "finite"),
        (dict(d=[0.1, 0.1, float("inf"), 0, 0], distortion_model="fisheye"), "finite"),
        (dict(d=[0.1] * 6), "6 plumb_bob"),
        (dict(d=[0.1] * 15), "15 plumb_bob"),
        (dict(d=[0.1] * 8, distortion_model="fisheye"), "8 equidistant"),
        (dict(d=[0.1] * 4, distortion_model="m" * 1_000_000), r"mm'\.\.\. \(1000000 char"),
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


@settings(deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.05))
def test_quaternions_and_rotations_are_inverse(q):
    q = np.array(q) / np.linalg.norm(q)
    R = rotation_of_quaternion(tuple(q))
    assert np.allclose(R @ R.T, np.eye(3), atol=1e-9) and np.isclose(np.linalg.det(R), 1)
    assert np.allclose(rotation_of_quaternion(quaternion_of(R)), R, atol=1e-9)


def test_a_zero_quaternion_is_no_rotation():
    with pytest.raises(InvalidInput, match="length 0"):
        rotation_of_quaternion((0, 0, 0, 0))


def test_of_rectified_images_without_a_projection_is_said_what_is_missing():
    with pytest.raises(InvalidInput, match="P of zeros.*rectification"):
        intrinsics_of(info(p=[0.0] * 12), (640, 480), rectified=True)


def test_frames_have_no_leading_slash():
    assert [frame_id_of(Message(frame_id=name)) for name in ("/camera", "camera", "")] == ["camera", "camera", ""]
