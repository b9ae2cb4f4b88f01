"""Whether what was boxed can have the colour that its name says, and what in a box has another: the model names, the picture is measured.

Only what is clear counts: strong colours far around the circle of hues from the one that is named. Light and cameras shift hues, so red,
orange and yellow are not told apart here, nor grey from black and white; only these two are. Knows no models.
"""

from __future__ import annotations

import re
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.questions.others import parted

# Degrees around the circle of hues; where it has none, which lightness nothing of that name has: dark, light, or none for grey.
_HUES = {
    r"red|红": 0.0,
    r"orange|橙|橘": 28.0,
    r"yellow|黄": 52.0,
    r"green|绿": 120.0,
    r"blue|蓝": 220.0,
    r"purple|violet|紫": 280.0,
    r"black|黑": "light",
    r"white|白": "dark",
    r"gr[ae]y|silver|灰|银": "",
}
# Right before the thing itself: green tea need not be green, nor its box.
_WORD = re.compile(
    "|".join(rf"(?P<c{i}>\b(?:{of})(?= [\w-]+$)|(?:{of})色的?(?=[^的 ]+$))" for i, of in enumerate(_HUES)), re.I
)
_STRONG, _VIVID, _PALE = 0.35, 0.6, 0.2  # saturation: that has a hue, that no grey has, that something white has
_BRIGHT, _DARK = 0.36, 0.15  # values that nothing black has, and nothing white where anything is seen
_LIGHT = 0.2  # value below which no colour is seen
_FAR_DEG, _OWN_DEG = 60.0, 25.0
_MOST, _HARDLY = 0.6, 0.1  # shares of the middle of a box
_LEAST_PX = 30
_UNSAID = object()


def contradicts(rgb: np.ndarray, box_xyxy_px: Sequence[float], name: str) -> bool:
    """Whether the middle of a box in a picture (hxwx3 uint8, RGB) clearly has another colour than a name says of the thing.
    False where the name says none, or where too little is seen.
    """
    if (hue_deg := _hue_of(name)) is _UNSAID:
        return False
    x0, y0, x1, y1 = box_xyxy_px
    middle = rgb[_between(y0 + (y1 - y0) / 4, y1 - (y1 - y0) / 4), _between(x0 + (x1 - x0) / 4, x1 - (x1 - x0) / 4)]
    if middle.shape[0] * middle.shape[1] < _LEAST_PX:
        return False
    far, near = _far_and_near(middle, hue_deg)
    if isinstance(hue_deg, str):
        return float(far.mean()) > 0.8
    return float(far.mean()) > _MOST and float(near.mean()) < _HARDLY


def of_another(rgb: np.ndarray, box_xyxy_px: Sequence[float], name: str) -> np.ndarray:
    """hxw bool: the pixels of a box that clearly have another colour than a name says of the thing; none where the name says none."""
    other = np.zeros(rgb.shape[:2], bool)
    if (hue_deg := _hue_of(name)) is not _UNSAID:
        x0, y0, x1, y1 = box_xyxy_px
        part = _between(y0, y1), _between(x0, x1)
        if rgb[part].size:
            far = _far_and_near(rgb[part], hue_deg)[0].astype(np.uint8)
            other[part] = cv2.morphologyEx(far, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return other


def of_its_own(rgb: np.ndarray, name: str) -> np.ndarray:
    """hxw bool: the pixels of a picture that clearly have the colour that a name says of its thing; none where it says none, or grey."""
    hue_deg = _hue_of(name)
    if hue_deg is _UNSAID or hue_deg == "":
        return np.zeros(rgb.shape[:2], bool)
    off, saturation, light = _off(rgb, 0.0 if isinstance(hue_deg, str) else hue_deg)
    if isinstance(hue_deg, str):
        value = rgb.max(-1) / 255
        return value < _DARK if hue_deg == "light" else (value > _BRIGHT) & (saturation < _PALE)
    return light & (saturation > _STRONG) & (off < _OWN_DEG)


def _hue_of(name: str):
    """Of the colour that a name says of its thing: degrees, for one without a hue what it is not, _UNSAID for none."""
    said = _WORD.search(parted(name.strip())[0])
    return _UNSAID if said is None else list(_HUES.values())[int(said.lastgroup[1:])]


def _between(low: float, high: float) -> slice:
    return slice(max(0, round(low)), max(0, round(high)))


def _far_and_near(rgb: np.ndarray, hue_deg: float | str) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels clearly have another colour than that hue, and which have it; hxw bool each."""
    off, saturation, light = _off(rgb, 0.0 if isinstance(hue_deg, str) else hue_deg)
    if isinstance(hue_deg, str):
        far = light & (saturation > _VIVID)
        value = rgb.max(-1) / 255
        far |= value > _BRIGHT if hue_deg == "light" else value < _DARK if hue_deg == "dark" else False
        return far, ~far
    return light & (saturation > _STRONG) & (off > _FAR_DEG), light & (saturation > _STRONG / 2) & (off < _FAR_DEG)


def _off(rgb: np.ndarray, hue_deg: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far the pixels' hues are from one, degrees, how saturated they are, and which are light enough to have one; hxw each."""
    values = cv2.cvtColor(np.ascontiguousarray(rgb).astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hue, saturation, value = cv2.split(values)
    return np.abs((hue - hue_deg + 180) % 360 - 180), saturation, value > _LIGHT
