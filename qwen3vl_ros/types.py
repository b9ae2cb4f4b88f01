"""The values that flow through the package, and the errors that stop them.

Frame -> Question -> Generation -> Answer -> Detection2D[] -> Detection3D[] -> GraspTarget[] -> Scene. Plain data over NumPy;
knows nothing of ROS, of torch or of any model.

Conventions: `a_T_b` is the 4x4 rigid transform that takes coordinates in frame b to frame a. The camera frame is the
ROS optical frame (x right, y down, z forward). Pixels are of the original image, the centre of the first pixel
at (0, 0) for K and the corner of the image at (0, 0) for boxes, x to the right and y down; boxes are xyxy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np


class PerceptionError(Exception):
    """Base of every error this package raises on purpose; anything else is a defect and ends the process."""


class InvalidInput(PerceptionError, ValueError):
    """An argument, file, message or parameter breaks a rule; the message names the input, the rule and the way out."""


class StaleFrame(PerceptionError):
    """The newest frame is older than the caller allows."""


class EngineError(PerceptionError):
    """The engine could not be loaded or failed while running."""


class ModelNotFound(EngineError):
    """The model directory or hub id does not exist or cannot be reached."""


class WrongModel(EngineError):
    """The directory holds something that is not a Qwen3-VL, or lacks files it needs."""


class EngineUnavailable(EngineError):
    """The server that runs the model cannot be reached or is overloaded; the same call may succeed later."""


class OutOfMemory(EngineError):
    """The model or its cache does not fit the device."""


class OutOfResources(PerceptionError):
    """The process ran out of memory, threads, descriptors or disk. It goes on; the same may succeed later."""


class NotFound(PerceptionError):
    """What was to be looked at closely is not in the picture, so nothing was asked of it."""


class Cancelled(PerceptionError):
    """The caller, a request of higher priority or a new prompt stopped the generation."""


class DeadlinePassed(PerceptionError):
    """The time for an answer ran out before anything could be read of it; nothing is wrong with what was said."""


class MalformedAnswer(PerceptionError):
    """The answer could not be read at all, which is not the same as "saw nothing".

    text: the raw answer. dropped: how many objects were begun and could not be saved.
    """

    def __init__(self, message: str, text: str = "", dropped: int = 0):
        super().__init__(message)
        self.text, self.dropped = text, dropped


def quoted(text: object, limit: int = 80) -> str:
    """Text of others as an error may show it: in quotes, control characters escaped, and cut."""
    text = str(text)
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}... ({len(text)} characters)"


# Lens model -> how many coefficients it may have, as OpenCV counts them; shorter lists are filled with zeros.
DISTORTION_LENGTHS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
_STEEPEST_RAY, _LONGEST_LENS = 100.0, 1e6


def pinhole_fault(K: np.ndarray, size_px: tuple[int, int]) -> str:
    """Why K (3x3) cannot be that of a camera with such pictures (width, height); empty if it can."""
    K = np.asarray(K, float)
    shown = np.array2string(K, precision=4, separator=", ").replace("\n", "")
    if not np.all(np.isfinite(K)) or K[0, 0] <= 0 or K[1, 1] <= 0:
        return f"K = {shown}: focal lengths must be finite and positive"
    if np.any(K[2] != (0, 0, 1)) or K[1, 0] != 0:
        return f"K = {shown}: it must be fx s cx, 0 fy cy, 0 0 1"
    size, focal, centre = np.array(size_px), K[(0, 1), (0, 1)], K[:2, 2]
    steepest = (np.maximum(np.abs(centre), np.abs(size - centre)) + abs(K[0, 1])) / focal
    if np.any(steepest > _STEEPEST_RAY) or np.any(focal > _LONGEST_LENS * size):
        return f"K = {shown}: no lens makes pictures of {size_px[0]}x{size_px[1]} pixels like that"
    return ""


@dataclass(frozen=True, eq=False)
class Frame:
    """Everything that is true at one capture time. Raises InvalidInput for wrong shapes or types.

    stamp_ns: capture time, nanoseconds of the camera's clock.    frame_id: the camera's optical frame.
    rgb: HxWx3 uint8.   depth_m: HxW float32 metres, registered to rgb; NaN or 0 = no reading.
    K: 3x3 intrinsics of rgb.   distortion: plumb_bob (k1 k2 p1 p2 k3), 8 rational or 4 equidistant coefficients.
    distortion_model: "plumb_bob", "rational_polynomial" or "equidistant" (as in sensor_msgs/CameraInfo).
    target_T_camera: pose of the camera in `target_frame` at capture; None leaves results in the camera's frame.
    up_camera: unit vector against gravity in the camera frame, None if unknown (then the support plane decides).
    """

    stamp_ns: int
    frame_id: str
    rgb: np.ndarray
    depth_m: np.ndarray | None = None
    K: np.ndarray | None = None
    distortion: np.ndarray | None = None
    distortion_model: str = "plumb_bob"
    target_T_camera: np.ndarray | None = None
    target_frame: str = ""
    up_camera: np.ndarray | None = None

    def __post_init__(self):
        rgb = self.rgb
        if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            what = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise InvalidInput(f"Frame.rgb must be HxWx3 uint8, got {what}; convert the image to 8-bit RGB first")
        if min(rgb.shape[:2]) < 1:
            raise InvalidInput(f"Frame.rgb is empty, shape {rgb.shape}; pass a decoded image")
        depth = self.depth_m
        if depth is not None and (not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype.kind != "f"):
            what = f"{depth.dtype} {depth.shape}" if isinstance(depth, np.ndarray) else type(depth).__name__
            raise InvalidInput(f"Frame.depth_m must be HxW float metres, got {what}; divide 16UC1 images by 1000")
        for name, shape in (("K", (3, 3)), ("target_T_camera", (4, 4)), ("up_camera", (3,))):
            value = getattr(self, name)
            if value is not None and (np.shape(value) != shape or not np.all(np.isfinite(value))):
                raise InvalidInput(f"Frame.{name} must be a finite {shape} array, got shape {np.shape(value)}")
        if self.K is not None and (fault := pinhole_fault(self.K, self.size_px)):
            raise InvalidInput(
                f"Frame.{fault}; the camera is not calibrated: publish a real CameraInfo, or pass K=None and do "
                "without 3D"
            )
        if self.target_T_camera is not None and not self.target_frame:
            raise InvalidInput("Frame.target_T_camera is set but target_frame is empty; name the frame it leads to")

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the colour image."""
        return self.rgb.shape[1], self.rgb.shape[0]


@dataclass(frozen=True)
class View:
    """What of a picture the model was shown: coordinates 0..1000 of it become pixels of the whole picture.

    size_px: (width, height) of the whole picture. region_xyxy_px: the part that was shown, None for all of it.
    """

    size_px: tuple[int, int]
    region_xyxy_px: tuple[int, int, int, int] | None = None

    def __post_init__(self):
        x0, y0, x1, y1 = self.region_xyxy_px or (0, 0, *self.size_px)
        width, height = self.size_px
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise InvalidInput(
                f"View.region_xyxy_px {self.region_xyxy_px} must have an area inside the picture of {width}x{height} pixels"
            )

    @property
    def origin_px(self) -> tuple[int, int]:
        return self.region_xyxy_px[:2] if self.region_xyxy_px else (0, 0)

    @property
    def shown_px(self) -> tuple[int, int]:
        """(width, height) of the part that was shown."""
        if self.region_xyxy_px is None:
            return self.size_px
        x0, y0, x1, y1 = self.region_xyxy_px
        return x1 - x0, y1 - y0


@dataclass(frozen=True)
class TextLine:
    """One line of text in the image, as written; box and score as in Detection2D. language: BCP-47, see text.language_of.
    translation: empty where there is none.
    """

    text: str
    box_xyxy_px: tuple[float, float, float, float]
    language: str
    score: float = float("nan")
    translation: str = ""


@dataclass(frozen=True)
class Text:
    """All text of one image. translate_to: the language that was asked for, BCP-47; empty: none was. note: why translations are
    missing; empty: none is. No lines: it was looked for and there is none.
    """

    lines: tuple[TextLine, ...] = ()
    translate_to: str = ""
    note: str = ""


FINISH_REASONS = ("stop", "length", "deadline", "cancelled", "repeat")


@dataclass(frozen=True, eq=False)
class Generation:
    """What the engine said. text excludes the <think> part, which is in `reasoning`.

    token_ids, logprobs (natural log, float32) and token_ends belong together, one entry a token OF `text`:
    token i ends at character token_ends[i] of `text`. logprobs is None when the engine cannot give them.
    forward_passes counts language-model passes, the prefill included. drafted_tokens went through the network before they
    were chosen, accepted_tokens of them are in the answer; reused_tokens of the prompt were not read again, because they
    began the prompt before as well. Times in seconds.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: np.ndarray | None
    token_ends: tuple[int, ...]
    finish_reason: str
    reasoning: str = ""
    prompt: str = ""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    forward_passes: int = 0
    preprocess_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reused_tokens: int = 0

    def __post_init__(self):
        if self.finish_reason not in FINISH_REASONS:
            raise ValueError(f"finish_reason {self.finish_reason!r} is not one of {FINISH_REASONS}")
        n = len(self.token_ids)
        if len(self.token_ends) != n or (self.logprobs is not None and len(self.logprobs) != n):
            raise ValueError(f"{n} tokens but {len(self.token_ends)} ends")

    @property
    def total_s(self) -> float:
        return self.preprocess_s + self.prefill_s + self.decode_s


@dataclass(frozen=True, eq=False)
class Detection2D:
    """One object in the image. box_xyxy_px inside [0,W]x[0,H]. score in 0..1, NaN when nothing was measured."""

    label: str
    box_xyxy_px: tuple[float, float, float, float]
    score: float = float("nan")
    id: str = ""


@dataclass(frozen=True, eq=False)
class Point2D:
    """One point in the image, pixels; score as in Detection2D."""

    label: str
    xy_px: tuple[float, float]
    score: float = float("nan")


@dataclass(frozen=True, eq=False)
class ModelBox3D:
    """A 3D box as the model itself gave it: camera frame, metres, R = Rz Ry Rx. Before any depth is looked at."""

    label: str
    center_m: np.ndarray
    size_m: np.ndarray
    rotation: np.ndarray
    score: float = float("nan")


@dataclass(frozen=True, eq=False)
class Answer:
    """What an answer says. All empty means "looked and saw nothing".

    dropped: objects that were begun and could not be read. repeats: of an object at the same place, said once here. notes: what
    was mended or dropped, for logs. value: what the question makes of it beside objects (Ask: the text, Gauge: a Reading).
    """

    detections: tuple[Detection2D, ...] = ()
    points: tuple[Point2D, ...] = ()
    boxes_3d: tuple[ModelBox3D, ...] = ()
    dropped: int = 0
    repeats: int = 0
    notes: tuple[str, ...] = ()
    value: Any = None


@dataclass(frozen=True, eq=False)
class Detection3D:
    """An oriented 3D box in `frame_id`: frame_T_box 4x4 (box centre and axes), size_m full extents along its axes.

    source: "depth" (lifted from measured depth) or "model" (the model's own guess).
    support: share of the box's foreground pixels that agree with it, 0..1 (0 for "model").
    points_camera_m: Nx3 float32 points of the object in the camera frame; empty for "model".
    hidden_camera_m: Nx3 float32 points that symmetry puts on its unseen side, camera frame; assumed, not measured.
    edge_m: how far its 2D box reaches beyond the pixels that were measured of it, metres: so much may be missing sideways.
    angular: near 1 where its upright sides meet at right angles, near 0 where it is round; NaN where too little of them was seen.
    """

    id: str
    label: str
    score: float
    frame_id: str
    frame_T_box: np.ndarray
    size_m: np.ndarray
    source: str = "depth"
    support: float = 0.0
    points_camera_m: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.float32))
    hidden_camera_m: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.float32))
    edge_m: float = 0.0
    angular: float = math.nan


@dataclass(frozen=True)
class Refusal:
    """Why one detection has no 3D box."""

    id: str
    label: str
    reason: str


@dataclass(frozen=True, eq=False)
class GraspTarget:
    """A parallel-jaw grasp in `frame_id`. frame_T_gripper: origin between the fingertips, +z approach, +y closing.

    width_m: opening needed at the object. approach_m: way back along -z to the pre-grasp. quality 0..1.
    An infeasible target keeps the best pose that was tried and says why in `reason`.
    opening_m: what to open to before the approach, as wide as the room beside the object allows; NaN where nobody said.
    """

    detection_id: str
    label: str
    frame_id: str
    frame_T_gripper: np.ndarray
    width_m: float
    approach_m: float
    quality: float
    feasible: bool
    reason: str = ""
    opening_m: float = math.nan


@dataclass(frozen=True, eq=False)
class PlaceTarget:
    """Where an object can rest, in `frame_id`. frame_T_box: 4x4, the object's box at rest; frame_T_gripper: the release, with
    the grasp that was given.

    support_id: the thing or surface that will carry it.   approach_m: way back along the gripper's -z.   room_m: free space
    around the object at rest.   facts: what will hold of it there, measured on the place.   An infeasible target keeps the
    best place that was tried, where there was one, and says why in `reason`.
    """

    detection_id: str
    support_id: str
    frame_id: str
    frame_T_box: np.ndarray
    frame_T_gripper: np.ndarray
    grasp: int
    approach_m: float
    room_m: float
    quality: float
    feasible: bool
    reason: str = ""
    facts: tuple[Fact, ...] = ()


class Verdict(str, Enum):
    """What is known of a statement. UNKNOWN is an answer: it was looked at and cannot be told, see Fact.reason."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Quantity:
    """One number of a fact: what it is ("surface", "length", "count"), its value and unit ("m", "" for a number)."""

    name: str
    value: float
    unit: str = "m"


@dataclass(frozen=True)
class Fact:
    """A spatial statement, asked (only the first three fields) or measured. docs/spatial.md has every definition.

    relation: "left_of", "on", "distance" ...   arguments: ids or labels as they were asked.   view: whose left and front
    is meant, "viewer", "robot" or "object:<id>"; "gravity" for above, below, on, in; empty where it does not matter.
    verdict: of a quantity TRUE means that it was measured.   margin_m: how far the statement is from turning over,
    negative where it does not hold; NaN where it has none.   sigma_m: its standard deviation.   values: what was measured,
    the main number first.   surface: "seen", or "completed" where the verdict rests on a side that nobody has seen.
    stamp_ns: capture time of the oldest look it rests on; age_s: how old that was.   reason: in words.
    """

    relation: str
    arguments: tuple[str, ...] = ()
    view: str = "viewer"
    verdict: Verdict = Verdict.UNKNOWN
    margin_m: float = float("nan")
    sigma_m: float = float("nan")
    values: tuple[Quantity, ...] = ()
    surface: str = "seen"
    stamp_ns: int = 0
    age_s: float = 0.0
    reason: str = "not measured yet"

    @property
    def value(self) -> float:
        """The main number, NaN where there is none."""
        return self.values[0].value if self.values else float("nan")

    @property
    def unit(self) -> str:
        return self.values[0].unit if self.values else ""


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything one answer says about one frame; stamp and frame are those of the image.

    question: the questions.Question that was asked. value: what it makes of the answer beside objects. prompt_id: the
    caller's number of the question, untouched. views: what the model was shown, one after the other; `generation` is what it
    said to all of them. An empty `detections_2d` means "looked and saw nothing". dropped: objects in
    the answer that could not be read. truncated: the answer ended before the model was done. refusals: detections without
    a 3D box, and why.
    """

    stamp_ns: int
    frame_id: str
    question: Any
    generation: Generation
    detections_2d: tuple[Detection2D, ...] = ()
    points: tuple[Point2D, ...] = ()
    detections_3d: tuple[Detection3D, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    grasps: tuple[GraspTarget, ...] = ()
    value: Any = None
    dropped: int = 0
    geometry_s: float = 0.0
    prompt_id: int = 0
    views: tuple[View, ...] = ()

    @property
    def truncated(self) -> bool:
        return self.generation.finish_reason != "stop"

    @property
    def text(self) -> str:
        """The answer in the model's own words."""
        return self.generation.text
