"""Pictures, depth and calibrations on disk: one reader, which says what is wrong with a file."""

import cv2
import numpy as np
import pytest

from qwen3vl_ros.files import read_depth_m, read_intrinsics, read_rgb
from qwen3vl_ros.types import Frame, InvalidInput

K = [[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]]
CALIBRATION = """\
image_width: 320
image_height: 240
distortion_model: {model}
camera_matrix: {{rows: 3, cols: 3, data: [300, 0, 159.5, 0, 300, 119.5, 0, 0, 1]}}
distortion_coefficients: {{rows: 1, cols: 5, data: {d}}}
projection_matrix: {{rows: 3, cols: 4, data: [280, 0, 150, 0, 0, 290, 110, 0, 0, 0, 1, 0]}}
"""


@pytest.fixture
def calibration(tmp_path):
    def write(model="plumb_bob", d="[0.1, -0.2, 0, 0, 0]", text=CALIBRATION):
        path = tmp_path / "camera.yaml"
        path.write_text(text.format(model=model, d=d))
        return path

    return write


@pytest.mark.parametrize(
    "model, d, expected",
    [
        ("plumb_bob", "[0.1, -0.2, 0, 0, 0]", ("plumb_bob", 5)),
        ("fisheye", "[0.1, 0.1, 0.1, 0.1]", ("equidistant", 4)),
        ("rational_polynomial", "[1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]", ("rational_polynomial", 8)),
        ("plumb_bob", "[]", ("plumb_bob", 0)),
        ("", "null", ("plumb_bob", 0)),
    ],
)
def test_lenses_of_files_are_those_of_messages(calibration, model, d, expected):
    got, distortion, name = read_intrinsics(calibration(model, d), (320, 240))
    assert np.allclose(got, K) and (name, 0 if distortion is None else len(distortion)) == expected
    Frame(0, "camera", np.zeros((240, 320, 3), np.uint8), None, got, distortion, name)


def test_rectified_pictures_have_the_projection_of_the_file(calibration):
    got, distortion, _ = read_intrinsics(calibration(), (320, 240), rectified=True)
    assert np.allclose(got, [[280, 0, 150], [0, 290, 110], [0, 0, 1]]) and distortion is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("just words", "cannot be read"),
        ("[1, 2", "cannot be read"),
        ("image_width: 320\nimage_height: 240\ncamera_matrix: [1, 2]", "cannot be read"),
        ("width: 320\nheight: 240\nk: [1, 2, 3]", "cannot be read"),
        ("width: wide\nheight: 240\nk: [300, 0, 1, 0, 300, 1, 0, 0, 1]", "cannot be read"),
        ("width: 320\nheight: 240\nk: [300, 0, 1.0e+9, 0, 300, 1, 0, 0, 1]", "no lens makes"),
        ("width: 320\nheight: 240\nk: [.nan, 0, 1, 0, 300, 1, 0, 0, 1]", "finite"),
        ("width: 320\nheight: 240\nk: [300, 0, 1, 0, 300, 1, 0, 0, 1]\nd: [1, 2, 3]", "3 plumb_bob coefficients"),
        (
            "width: 320\nheight: 240\nk: [300, 0, 1, 0, 300, 1, 0, 0, 1]\nd: [1, 2, 3, 4]\ndistortion_model: odd",
            "model 'odd'",
        ),
        ("width: 640\nheight: 480\nk: [300, 0, 1, 0, 300, 1, 0, 0, 1]", "for 640x480 .* has 320x240"),
        ("width: 320\nheight: 240\nk: [0, 0, 0, 0, 0, 0, 0, 0, 0]", "not calibrated"),
    ],
)
def test_what_is_no_calibration_is_refused_with_its_file(calibration, text, words):
    path = calibration(text=text)
    with pytest.raises(InvalidInput, match=words) as refused:
        read_intrinsics(path, (320, 240))
    assert str(path) in str(refused.value)


def test_depth_is_millimetres_of_a_png_or_metres_of_an_array(tmp_path):
    millimetres = np.array([[740, 0], [65_535, 1]], np.uint16)
    cv2.imwrite(str(tmp_path / "d.png"), millimetres)
    np.save(tmp_path / "d.npy", (millimetres / 1000).astype(np.float64))
    for name in ("d.png", "d.npy"):
        got = read_depth_m(tmp_path / name)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, millimetres / 1000, atol=1e-6)


def _huge_array(path):
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (1_000_000, 1_000_000)}
        )


@pytest.mark.parametrize(
    "write, words",
    [
        (lambda p: p.write_bytes(b""), "cannot be read as .npy"),
        (lambda p: np.save(p, np.ones((3, 4, 5))), "HxW floats"),
        (lambda p: np.save(p, np.ones((3, 4), int)), "HxW floats"),
        (lambda p: np.save(p, np.array([{}]), allow_pickle=True), "cannot be read as .npy"),
        (lambda p: (np.save(p, np.ones((30, 40))), p.write_bytes(p.read_bytes()[:-50])), "cannot be read as .npy"),
        (_huge_array, "cannot be read as .npy|max_image_pixels"),
    ],
)
def test_what_is_no_depth_is_refused_before_it_takes_memory(tmp_path, write, words):
    path = tmp_path / "d.npy"
    write(path)
    with pytest.raises(InvalidInput, match=words):
        read_depth_m(path)


def test_an_array_of_more_pixels_than_allowed_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.ones((30, 40), np.float32))
    with pytest.raises(InvalidInput, match="40x30 pixels, more than the 1199"):
        read_depth_m(tmp_path / "d.npy", max_pixels=1199)


def test_a_picture_that_is_a_folder_or_may_not_be_read_is_no_traceback(tmp_path):
    for reader in (read_rgb, read_depth_m):
        with pytest.raises(InvalidInput, match="does not exist or is no file"):
            reader(tmp_path)
