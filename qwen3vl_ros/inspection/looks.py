"""One look at a point: what is asked of the model, and what model and code see together in its part of the picture.

Knows nothing of time and of ROS; what a look amounts to is judged in `readings`.
"""

from __future__ import annotations

import math
import re
from typing import Any, Sequence

import cv2
import numpy as np

from qwen3vl_ros.inspection import dial
from qwen3vl_ros.inspection.points import Point
from qwen3vl_ros.inspection.readings import Reason, Seen
from qwen3vl_ros.pipeline import Look
from qwen3vl_ros.questions import Ask, Detect, Dial, Gauge, Holds, Question, ReadText
from qwen3vl_ros.questions.dial import DialSeen
from qwen3vl_ros.types import Frame, MalformedAnswer, NotFound, PerceptionError, View
from qwen3vl_ros.zoom import WHOLE, Zoom

_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
_YES = re.compile(r"\W*(yes|yeah|true|there (is|are)\b(?! (no|not|none)\b)|是|有|对|在)", re.IGNORECASE)
_NO = re.compile(
    r"\W*(no\b|not\b|none|false|nothing|there (is|are) (no|not|none)\b|there (isn't|aren't)|否|没|不|无)", re.IGNORECASE
)
_MOVED = 0.02  # of the picture's width
_OVEREXPOSED, _GLARE = 250, 0.12
# How much of what is around it a model is shown of a dial, times its region: cut at its rim, the embedded model took one dial in three
# for another, with its case and a strip of wall one in ten. A second look is another picture.
_SURROUNDINGS, _SURROUNDINGS_AGAIN = 1.5, 1.2
_POINTS_OFF_DEG = 30.0  # of the sweep: so far the model's points of the scale may be from what the file says


def question_of(point: Point) -> Question:
    """What the model is asked of its part of the picture."""
    if point.kind == "gauge":
        return Dial()
    if point.kind in ("display", "text"):
        return ReadText()
    if point.kind in ("count", "presence"):
        return Detect((point.look_for,))
    return Ask(_yes_or_no_asked(point.question))


def _yes_or_no_asked(question: str) -> str:
    """The question with what it wants to hear, in its language, unless it says so itself."""
    question = question[:1].upper() + question[1:]
    if "yes" in question.lower() or "是或否" in question:
        return question
    chinese = any("\u4e00" <= c <= "\u9fff" for c in question)
    return f"{question}请回答是或否。" if chinese else f"{question} Answer yes or no."


def zoom_of(point: Point, size_px: tuple[int, int]) -> Zoom:
    """Where it is asked, of a picture of that size."""
    if point.roi_xyxy_px is not None:
        return Zoom(grown(point.roi_xyxy_px, _SURROUNDINGS, size_px) if point.kind == "gauge" else point.roi_xyxy_px)
    if point.look_for and point.kind not in ("count", "presence"):
        return Zoom(around=(point.look_for,))
    return WHOLE


def another_look(point: Point, rgb: np.ndarray, seen: Seen) -> tuple[Question, Zoom]:
    """What a model that contradicts the measurement is asked then: in other words, of another part."""
    height, width = rgb.shape[:2]
    return Gauge(), Zoom(grown(seen.box_xyxy_px, _SURROUNDINGS_AGAIN, (width, height)))


def grown(roi: Sequence[float], factor: float, size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """A region enlarged about its middle, as far as the picture goes."""
    x0, y0, x1, y1 = roi
    dx, dy, (w, h) = (factor - 1) * (x1 - x0) / 2, (factor - 1) * (y1 - y0) / 2, size_px
    return max(0, int(x0 - dx)), max(0, int(y0 - dy)), min(w, int(x1 + dx)), min(h, int(y1 + dy))


def moved(roi, shift: np.ndarray) -> tuple[int, int, int, int]:
    corners = (
        np.array([(roi[0], roi[1], 1), (roi[2], roi[1], 1), (roi[0], roi[3], 1), (roi[2], roi[3], 1)], float) @ shift.T
    )
    return tuple(int(v) for v in (*corners.min(0), *corners.max(0)))


def seen(point: Point, rgb: np.ndarray, looks: Sequence[Look], error: PerceptionError | None = None) -> Seen:
    """What the looks show. rgb: the whole picture, HxWx3. error: why the model was not heard, or not in all."""
    if isinstance(error, NotFound):
        return Seen(trouble=Reason.NOT_VISIBLE, message=str(error))
    if not looks:
        return Seen(trouble=Reason.UNREADABLE, message=str(error or "the model did not answer"))
    if len(looks) > 1:
        said = f"{len(looks)} things fit {point.look_for!r}; say which one by a roi"
        return Seen(trouble=Reason.NOT_VISIBLE, message=said)
    look = looks[0]
    box = point.roi_xyxy_px or look.view.region_xyxy_px
    if point.kind == "gauge":
        box = point.roi_xyxy_px or look.view.region_xyxy_px or (0, 0, *look.view.size_px)
        return _gauge(point, rgb, box, said_of_dial(point, look))
    try:
        value = question_of(point).read(look.generation, (look.view,))
    except PerceptionError as malformed:
        value, error = None, malformed
    if value is None:
        return Seen(trouble=Reason.UNREADABLE, message=str(error), box_xyxy_px=box)
    if point.kind in ("count", "presence"):
        found = [d for d in value.detections]
        count = float(len(found)) if point.kind == "count" else float(bool(found))
        return Seen(
            count, 0.0, text=", ".join(d.label for d in found), box_xyxy_px=found[0].box_xyxy_px if found else box
        )
    if point.kind == "state":
        answer = yes_or_no(str(value.value))
        if answer is None:
            said = f"the answer is neither yes nor no: {str(value.value)[:80]!r}"
            return Seen(trouble=Reason.UNREADABLE, message=said, text=str(value.value)[:200], box_xyxy_px=box)
        return Seen(float(answer), 0.0, text=str(value.value)[:200], box_xyxy_px=box)
    lines = [d.label for d in sorted(value.detections, key=lambda d: (round(d.box_xyxy_px[1] / 8), d.box_xyxy_px[0]))]
    text = " ".join(lines)
    if point.kind == "text":
        trouble = Reason.NONE if text else Reason.UNREADABLE
        return Seen(text=text, trouble=trouble, message="" if text else "no text can be read there", box_xyxy_px=box)
    numbers = _NUMBER.findall(text)
    if len(numbers) != 1:
        said = f"a display shows one number; {len(numbers)} are read there: {text[:80]!r}"
        return Seen(trouble=Reason.UNREADABLE, message=said, text=text, box_xyxy_px=box)
    decimals = len(numbers[0].replace(",", ".").partition(".")[2])
    return Seen(float(numbers[0].replace(",", ".")), 0.3 * 10**-decimals, text=text, box_xyxy_px=box)


def held_in(point: Point, frames: Sequence[Frame]) -> Holds:
    """In which of the pictures, oldest first, what is watched for holds."""
    return Holds(point.question, tuple((f.stamp_ns - frames[0].stamp_ns) / 1e9 for f in frames))


def view_of(point: Point, size_px: tuple[int, int]) -> View:
    """The one part of a picture of that size at which a point with a region, or none, is looked at."""
    return zoom_of(point, size_px).views(size_px)[0]


def held(point: Point, holds: bool | None) -> Seen:
    """Of one picture, by what `Holds` says of it."""
    if holds is None:
        return Seen(trouble=Reason.UNREADABLE, message="the model cannot tell", box_xyxy_px=point.roi_xyxy_px)
    return Seen(float(holds), 0.0, text="yes" if holds else "no", box_xyxy_px=point.roi_xyxy_px)


def yes_or_no(text: str) -> bool | None:
    """What an answer to a yes-or-no question says, whatever its words; None where it says neither."""
    if _NO.match(text):
        return False
    return True if _YES.match(text) else None


def said_of_dial(point: Point, look: Look) -> dict[str, Any]:
    """What a model says of a dial's face, as fields of `Seen`; as much of it as there is, since large ones may leave points out."""
    try:
        try:
            said = Dial().read(look.generation, (look.view,)).value
        except MalformedAnswer:
            said = Gauge().read(look.generation, (look.view,)).value
    except PerceptionError as malformed:
        return {"message": f"{type(malformed).__name__}: {malformed}"[:200]}
    words = {"model_value": said.value, "unit_seen": said.unit, "message": ""}
    share = dial.share_of(said.points_px, point.sweep_deg, _POINTS_OFF_DEG) if isinstance(said, DialSeen) else math.nan
    return words | {"pointed": _value_at(point, share)}


def needs_model(point: Point) -> bool:
    """Whether a look asks the model: not where nothing it could say would count."""
    return not (point.kind == "gauge" and point.check == "geometry" and point.roi_xyxy_px)


def measured(point: Point, rgb: np.ndarray) -> Seen:
    """What code alone sees of a dial whose region is known."""
    return _gauge(point, rgb, point.roi_xyxy_px, {"message": ""})


def _gauge(point: Point, rgb: np.ndarray, box: Sequence[float], words: dict[str, Any]) -> Seen:
    try:
        needle = dial.measure(rgb, box, point.sweep_deg)
    except dial.Unreadable as unreadable:
        part = rgb[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
        white = float((part.min(2) >= _OVEREXPOSED).mean()) if part.size else 0.0
        glare = f"; {white:.0%} of it are overexposed" if white > _GLARE else ""
        return Seen(trouble=Reason.UNREADABLE, box_xyxy_px=box, **{**words, "message": f"{unreadable}{glare}"})
    shares, values = zip(*point.scale)
    steepest = max((b - a) / (t - s) for s, t, a, b in zip(shares, shares[1:], values, values[1:]))
    value = _value_at(point, needle.fraction)
    return Seen(value, needle.sigma * steepest, colour=needle.colour, box_xyxy_px=box, **words)


def _value_at(point: Point, share: float) -> float:
    """The value at a share of the sweep; beyond either end as its last division goes on."""
    shares, values = zip(*point.scale)
    slope = (
        (values[-1] - values[-2]) / (shares[-1] - shares[-2])
        if share > 1
        else (values[1] - values[0]) / (shares[1] - shares[0])
    )
    return float(np.interp(share, shares, values)) + slope * (max(share - 1, 0) + min(share, 0))


# -- the reference picture ---------------------------------------------------------------------------------------------


class Reference:
    """How the camera saw the place when its points were written down."""

    def __init__(self, rgb: np.ndarray):
        self._detector = cv2.ORB_create(800)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
        self.size_px = rgb.shape[1], rgb.shape[0]
        self._grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        self._points, self._words = self._detector.detectAndCompute(self._grey, None)

    def shift(self, rgb: np.ndarray) -> tuple[np.ndarray | None, str]:
        """(2x3 from the reference's pixels to this picture's, why it counts as moved); (None, "") where it did not move, and
        (None, why) where the place cannot be found again."""
        if (rgb.shape[1], rgb.shape[0]) != self.size_px:
            return (
                None,
                f"the picture has {rgb.shape[1]}x{rgb.shape[0]} pixels, the reference {self.size_px[0]}x{self.size_px[1]}",
            )
        points, words = self._detector.detectAndCompute(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), None)
        if words is None or self._words is None:
            return None, "the picture shows nothing to compare with the reference"
        pairs = self._matcher.match(self._words, words)
        if len(pairs) < 12:
            return None, "the picture does not show the place of the reference"
        before = np.array([self._points[m.queryIdx].pt for m in pairs])
        after = np.array([points[m.trainIdx].pt for m in pairs])
        shift, inliers = cv2.estimateAffinePartial2D(before, after, ransacReprojThreshold=3.0)
        if shift is None or inliers.sum() < max(10, 0.25 * len(pairs)):
            return None, "the picture does not show the place of the reference"
        kept = inliers[:, 0].astype(bool)
        far = float(np.median(np.linalg.norm(after[kept] - before[kept], axis=1)))
        if far <= _MOVED * self.size_px[0]:
            return None, ""
        return shift, f"the camera moved: the place is {far:.0f} px from where the reference shows it"


def changed(reference: np.ndarray, rgb: np.ndarray) -> tuple[float, tuple[int, int, int, int] | None]:
    """(share of the picture that differs from the reference, box of the largest difference); light and noise left aside."""
    small = [
        cv2.GaussianBlur(cv2.resize(p, (320, 240), interpolation=cv2.INTER_AREA), (0, 0), 1.2) for p in (reference, rgb)
    ]
    a, b = (cv2.cvtColor(p, cv2.COLOR_RGB2LAB).astype(np.float32) for p in small)
    apart = a - b
    apart[..., 0] -= cv2.GaussianBlur(apart[..., 0], (0, 0), 40)  # what the whole room's light did
    apart[..., 0] *= 0.5
    mask = (np.linalg.norm(apart, axis=2) > 14).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    share = float(mask.mean())
    if count < 2:
        return share, None
    x, y, w, h, _ = max(stats[1:], key=lambda row: row[4])
    sx, sy = rgb.shape[1] / 320, rgb.shape[0] / 240
    return share, (int(x * sx), int(y * sy), int((x + w) * sx), int((y + h) * sy))
