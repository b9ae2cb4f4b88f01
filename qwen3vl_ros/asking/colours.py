"""Whether what was boxed can have the colour that its name says: the model names, the picture is measured.

Only what is clear counts: most of the middle of a box strongly coloured, far around the circle of hues from the colour that is named, and hardly
any of that. Light and cameras shift hues, so red, orange and yellow are not told apart here, nor white from grey. Knows no models.
"""

from __future__ import annotations

import re
from typing import Sequence

import cv2
import numpy as np

# Degrees around the circle of hues; None: no hue at all.
_HUES = {
    r"red|红": 0.0,
    r"orange|橙|橘": 28.0,
    r"yellow|黄": 52.0,
    r"green|绿": 120.0,
    r"blue|蓝": 220.0,
    r"purple|violet|紫": 280.0,
    r"black|white|gr[ae]y|silver|黑|白|灰|银": None,
}
# Right before the thing itself: green tea need not be green, nor its box.
_WORD = re.compile(
    "|".join(rf"(?P<c{i}>\b(?:{of})(?= [\w-]+$)|(?:{of})色的?(?=[^的 ]+$))" for i, of in enumerate(_HUES)), re.I
)
_STRONG, _VIVID = 0.35, 0.6  # saturation: that has a hue, that no grey has
_LIGHT = 0.2  # value below which no colour is seen
_FAR_DEG = 60.0
_MOST, _HARDLY = 0.6, 0.1  # shares of the middle of a box
_LEAST_PX = 30


def contradicts(rgb: np.ndarray, box_xyxy_px: Sequence[float], name: str) -> bool:
    """Whether the middle of a box in a picture (hxwx3 uint8, RGB) clearly has another colour than a name says of the thing.
    False where the name says none, or where too little is seen.
    """
    said = _WORD.search(name.strip())
    if said is None:
        return False
    hue_deg = list(_HUES.values())[int(said.lastgroup[1:])]
    x0, y0, x1, y1 = box_xyxy_px
    rows, columns = (
        slice(max(0, round(a + (b - a) / 4)), max(0, round(b - (b - a) / 4))) for a, b in ((y0, y1), (x0, x1))
    )
    middle = np.ascontiguousarray(rgb[rows, columns])
    if middle.shape[0] * middle.shape[1] < _LEAST_PX:
        return False
    hue, saturation, value = cv2.split(cv2.cvtColor(middle.astype(np.float32) / 255, cv2.COLOR_RGB2HSV))
    seen = value > _LIGHT
    if hue_deg is None:
        return float((seen & (saturation > _VIVID)).mean()) > 0.8
    off = np.abs((hue - hue_deg + 180) % 360 - 180)
    far = seen & (saturation > _STRONG) & (off > _FAR_DEG)
    near = seen & (saturation > _STRONG / 2) & (off < _FAR_DEG)
    return float(far.mean()) > _MOST and float(near.mean()) < _HARDLY
