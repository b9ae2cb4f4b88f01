"""A camera's calibration -> K, distortion and lens model of the pictures at hand, or why it is none of theirs.

Takes a sensor_msgs/CameraInfo by its fields alone (files.py makes the same fields of a YAML file), so it imports no
ROS. Source: sensor_msgs/CameraInfo, image_geometry.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from qwen3vl_ros.types import DISTORTION_LENGTHS, InvalidInput, pinhole_fault, quoted

_LENS_NAMES = {
    **dict.fromkeys(("", "plumb_bob", "radtan", "brown_conrady"), "plumb_bob"),
    "rational_polynomial": "rational_polynomial",
    **dict.fromkeys(("equidistant", "equi", "fisheye", "kannala_brandt", "kannala_brandt4"), "equidistant"),
}
# A word of its own: /direct/image_raw is not rectified.
_RECTIFIED_TOPIC = re.compile(r"((?<![A-Za-z])r|R)ect(if(y|ied))?(?![a-z])")


def is_rectified(rectification: str, topic: str) -> bool:
    """Whether images are rectified by parameter `rectification`; "auto" goes by the topic's name (image_rect)."""
    return rectification == "rectified" or (rectification == "auto" and bool(_RECTIFIED_TOPIC.search(topic)))


def intrinsics_of(
    message: Any, size_px: tuple[int, int], rectified: bool = False, name: str = "camera_info"
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """(K 3x3, distortion coefficients or None, distortion model) for an image of size_px, from a CameraInfo.

    Of rectified images K is the left of P, and there is no distortion. Region of interest, binning and a proportional
    resize are applied to K. Raises InvalidInput, which calls the message `name`, when it is no calibration of such
    an image.
    """
    matrix = np.array(message.p, float).reshape(3, 4)[:, :3] if rectified else np.array(message.k, float).reshape(3, 3)
    if not matrix.any():
        of = "P of zeros, but the images are rectified (parameter rectification)" if rectified else "K of zeros"
        raise InvalidInput(f"{name} has {of}: the camera is not calibrated; publish its calibration")
    K = _fitted(matrix, message, size_px, name)
    if fault := pinhole_fault(K, size_px):
        raise InvalidInput(f"{name} has {fault}; publish the calibration of this camera")
    return (K, None, "plumb_bob") if rectified else (K, *_lens_of(message, name))


def why_unregistered(depth_size_px: tuple[int, int], depth_frame: str, size_px: tuple[int, int], frame: str) -> str:
    """Why depth is not that of an image's pixels; empty if it may be. A frame without a name is not compared."""
    if depth_size_px != size_px:
        what = "{}x{} but the image is {}x{}".format(*depth_size_px, *size_px)
    elif depth_frame and frame and depth_frame != frame:
        what = f"in frame {quoted(depth_frame)} but the image in {quoted(frame)}"
    else:
        return ""
    return f"depth is {what}: it is not registered; publish depth aligned to colour (RealSense: align_depth.enable)"


def _fitted(K: np.ndarray, message: Any, size_px: tuple[int, int], name: str) -> np.ndarray:
    """K for pictures of size_px, which may be a region, binned or resized."""
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
            f"{name} is for {width:g}x{height:g} but the image is {size_px[0]}x{size_px[1]}, "
            "another shape; publish the camera_info of this image"
        )
    return _scaled(K, *scale)


def _lens_of(message: Any, name: str) -> tuple[np.ndarray | None, str]:
    """(coefficients or None, model): the names drivers use are ours, and a list is as long as its last coefficient
    that is not zero needs. A "plumb_bob" of more than five is rational, as image_geometry takes it.
    """
    given = np.array(message.d, float)
    if not given.any():
        return None, "plumb_bob"
    lens = _LENS_NAMES.get(re.sub(r"[\s-]+", "_", message.distortion_model.strip().lower()))
    if lens is None:
        raise InvalidInput(
            f"{name} has distortion model {quoted(message.distortion_model)}; known are "
            f"{', '.join(DISTORTION_LENGTHS)}: publish rectified images instead"
        )
    used = int(np.flatnonzero(given)[-1]) + 1
    models = ("plumb_bob", "rational_polynomial") if lens == "plumb_bob" else (lens,)
    lengths = {n: model for model in models for n in DISTORTION_LENGTHS[model]}
    fitting = [n for n in lengths if used <= n <= max(len(given), min(lengths))]
    if len(given) < min(lengths) or not fitting or not np.all(np.isfinite(given)):
        raise InvalidInput(
            f"{name} has {len(given)} {lens} coefficients; it needs {' or '.join(map(str, lengths))} finite ones"
        )
    model = lengths[fitting[0]]
    full = max(DISTORTION_LENGTHS["plumb_bob"]) if model == "plumb_bob" else fitting[0]
    return np.pad(given[:used], (0, full - used)), model


def _shifted(K: np.ndarray, x_px: float, y_px: float) -> np.ndarray:
    return K - np.array([[0, 0, x_px], [0, 0, y_px], [0, 0, 0]])


def _scaled(K: np.ndarray, x: float, y: float) -> np.ndarray:
    # Principal points count from the first pixel's centre, sizes from its corner.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    back = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    with np.errstate(invalid="ignore"):  # whether K is finite is asked of the result
        return back @ np.diag([x, y, 1.0]) @ half @ K
