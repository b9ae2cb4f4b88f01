"""Recordings as a stream of frames: an image folder, a video file, or a rosbag2 (directory, .mcap or .db3).

Bags are read by `rosbags`, so no ROS is needed. Knows nothing of clocks: it yields frames with their stamps, and who
plays them keeps the time.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import yaml

from qwen3vl_ros import convert
from qwen3vl_ros.types import InvalidInput

_IMAGES = (".png", ".jpg", ".jpeg")
_VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
_BAGS = (".mcap", ".db3")
_FOLDER_RATE_HZ = 30.0
_SYNC_SLOP_NS = 50_000_000
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One recorded picture. rgb: HxWx3 uint8. depth_m: HxW float32, NaN or 0 = no reading. K: 3x3.

    distortion: coefficients of distortion_model (as in sensor_msgs/CameraInfo), None for rectified pictures.
    """

    stamp_ns: int
    frame_id: str
    rgb: np.ndarray
    depth_m: np.ndarray | None = None
    K: np.ndarray | None = None
    distortion: np.ndarray | None = None
    distortion_model: str = "plumb_bob"


class ReplaySource:
    """Iterate over it for RecordedFrames, in the order they were recorded.

    path: a folder of PNG or JPEG pictures (itself or its `rgb/`, with an optional `depth/` of 16-bit PNG in millimetres
    or .npy in metres under the same names, and an optional `camera_info.yaml`), a video file, or a rosbag2.
    rate_hz: None keeps the recorded stamps (a folder's names where they are times, else 30 Hz); a number stamps the
    frames at that rate instead. loop: start again at the end, with stamps that go on rising.
    image_topic, depth_topic, camera_info_topic: for bags; None chooses, and says so when there are several.

    Raises InvalidInput here for what is missing, and while iterating for what cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        rate_hz: float | None = None,
        loop: bool = False,
        *,
        image_topic: str | None = None,
        depth_topic: str | None = None,
        camera_info_topic: str | None = None,
    ):
        self.path = Path(path).expanduser()
        if rate_hz is not None and not 0 < rate_hz <= 1000:
            raise InvalidInput(f"rate_hz is {rate_hz}; it must be above 0 and at most 1000 Hz, or None")
        if not self.path.exists():
            raise InvalidInput(f"recording {self.path} does not exist")
        self.rate_hz, self.loop = rate_hz, loop
        self._topics = (image_topic, depth_topic, camera_info_topic)
        suffix = self.path.suffix.lower()
        if suffix in _BAGS or (self.path / "metadata.yaml").is_file():
            self._read = self._bag_frames
            self._check_bag()
        elif any(self._topics):
            raise InvalidInput(f"{self.path} is no rosbag2, so it has no topics to choose; leave them out")
        elif self.path.is_dir():
            self._pictures = _list_pictures(self.path)
            self._read = self._folder_frames
        elif suffix in _VIDEOS:
            self._read = self._video_frames
        elif suffix == ".bag":
            raise InvalidInput(
                f"{self.path} is a ROS 1 bag; convert it with `rosbags-convert --src {self.path.name} --dst NEW_FOLDER`"
            )
        else:
            raise InvalidInput(
                f"{self.path} is not a recording known here: give a folder of {', '.join(_IMAGES)}, a "
                f"video ({', '.join(_VIDEOS)}) or a rosbag2 (folder, {', '.join(_BAGS)})"
            )

    def __iter__(self) -> Iterator[RecordedFrame]:
        offset_ns = count = 0
        while True:
            first_ns = last_ns = None
            step_ns = round(1e9 / _FOLDER_RATE_HZ)
            for frame in self._read():
                if first_ns is None:
                    first_ns = frame.stamp_ns
                else:
                    step_ns = frame.stamp_ns - last_ns
                last_ns = frame.stamp_ns
                stamp_ns = last_ns + offset_ns if self.rate_hz is None else round(count * 1e9 / self.rate_hz)
                count += 1
                yield replace(frame, stamp_ns=stamp_ns)
            if first_ns is None:
                raise InvalidInput(f"{self.path} holds no picture that can be played")
            if not self.loop:
                return
            offset_ns += last_ns + step_ns - first_ns

    # -- folder and video ---------------------------------------------------------------------------------

    def _folder_frames(self) -> Iterator[RecordedFrame]:
        stamps = _stamps_in_names(self._pictures)
        depth_folder = _beside(self._pictures[0].parent, self.path, "depth")
        info = _beside(self._pictures[0].parent, self.path, "camera_info.yaml")
        K, distortion, model, size = _read_camera_info(info) if info else (None, None, "plumb_bob", None)
        for stamp_ns, path in zip(stamps, self._pictures):
            rgb = _read_rgb(path)
            if size is not None and size != (rgb.shape[1], rgb.shape[0]):
                raise InvalidInput(
                    f"{info} is for {size[0]}x{size[1]} but {path} has {rgb.shape[1]}x{rgb.shape[0]}; "
                    "give the calibration of these pictures"
                )
            depth_m = _read_depth(depth_folder, path, rgb.shape[:2]) if depth_folder else None
            yield RecordedFrame(stamp_ns, "camera", rgb, depth_m, K, distortion, model)

    def _video_frames(self) -> Iterator[RecordedFrame]:
        capture = cv2.VideoCapture(str(self.path))
        try:
            if not capture.isOpened():
                raise InvalidInput(
                    f"video {self.path} cannot be opened; it is damaged or its codec is not in OpenCV: "
                    "re-encode it as H.264 MP4"
                )
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if np.isfinite(fps) and fps > 0 else _FOLDER_RATE_HZ
            i = 0
            while True:
                good, bgr = capture.read()
                if not good:
                    break
                yield RecordedFrame(round(i * 1e9 / fps), "camera", cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
                i += 1
        finally:
            capture.release()

    # -- rosbag2 ------------------------------------------------------------------------------------------

    def _open_bag(self):
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise InvalidInput(f"{self.path} is a rosbag2, which needs `pip install rosbags`: {error}") from error
        return AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))

    def _check_bag(self) -> None:
        from rosbags.highlevel import AnyReaderError

        try:
            with self._open_bag() as reader:
                self._chosen = self._choose(reader)
        except (AnyReaderError, OSError, ValueError, KeyError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"rosbag2 {self.path} cannot be read: {error}") from error

    def _choose(self, reader) -> tuple[str, str | None, str | None]:
        """Topics of image, depth and camera_info; the last two None where the bag has none."""
        types = {c.topic: c.msgtype for c in reader.connections}
        for name, wanted in zip(("image_topic", "depth_topic", "camera_info_topic"), self._topics):
            if wanted is not None and wanted not in types:
                raise InvalidInput(f"{name} {wanted!r} is not in {self.path}; it has {_names(types)}")
        depth_topics, image_topics = [], []
        for topic, kind in types.items():
            if kind in _IMAGE_TYPES:
                first = self._first(reader, topic)
                if first is not None:
                    (depth_topics if _is_depth(first) else image_topics).append(topic)
        image, depth, info = self._topics
        image = image or self._only("image_topic", "picture", image_topics, types)
        if image is None:
            raise InvalidInput(f"{self.path} has no colour pictures; it has {_names(types)}")
        if types[image] not in _IMAGE_TYPES:
            raise InvalidInput(
                f"image_topic {image!r} is a {types[image]}; it must be one of {', '.join(_IMAGE_TYPES)}"
            )
        depth = depth or self._only("depth_topic", "depth", depth_topics, types)
        infos = [t for t, kind in types.items() if kind == _INFO_TYPE]
        # The convention of ROS drivers: camera_info is published beside the image.
        beside = [t for t in infos if t.rsplit("/", 1)[0] in (image.rsplit("/", n)[0] for n in (1, 2))]
        info = info or self._only("camera_info_topic", "calibration", beside or infos, types)
        return image, depth, info

    def _only(self, argument: str, what: str, topics: list[str], types: dict[str, str]) -> str | None:
        # A raw and a compressed copy of one stream are one stream; the raw one decodes faster.
        plain = [t for t in topics if not any(t.startswith(other + "/") for other in topics)]
        if len(plain) > 1:
            several = _names({t: types[t] for t in plain})
            raise InvalidInput(f"{self.path} has several {what} topics, {several}; name one with {argument}")
        return plain[0] if plain else None

    def _first(self, reader, topic: str):
        connections = [c for c in reader.connections if c.topic == topic]
        for connection, _, raw in reader.messages(connections):
            return reader.deserialize(raw, connection.msgtype)
        return None

    def _bag_frames(self) -> Iterator[RecordedFrame]:
        image_topic, depth_topic, info_topic = self._chosen
        with self._open_bag() as reader:
            info = self._first(reader, info_topic) if info_topic else None
            waiting: deque = deque()
            depths: deque = deque(maxlen=64)

            def frame_of(image) -> RecordedFrame:
                stamp_ns = convert.stamp_ns(image.header)
                rgb = np.ascontiguousarray(convert.rgb_of(image))
                near = min(depths, key=lambda d: abs(d[0] - stamp_ns), default=None)
                depth_m = None
                if near is not None and abs(near[0] - stamp_ns) <= _SYNC_SLOP_NS:
                    depth_m = _depth_of(near[1], convert)
                if info is None:
                    return RecordedFrame(stamp_ns, image.header.frame_id, rgb, depth_m)
                K, distortion, model = convert.intrinsics_of(info, (rgb.shape[1], rgb.shape[0]))
                return RecordedFrame(stamp_ns, image.header.frame_id, rgb, depth_m, K, distortion, model)

            wanted = [c for c in reader.connections if c.topic in (image_topic, depth_topic, info_topic)]
            for connection, logged_ns, raw in reader.messages(wanted):
                message = reader.deserialize(raw, connection.msgtype)
                if connection.topic == image_topic:
                    waiting.append((logged_ns, message))
                elif connection.topic == depth_topic:
                    depths.append((convert.stamp_ns(message.header), message))
                else:
                    info = message
                # A picture waits until its depth has come, or is too late to come.
                while waiting and (
                    depth_topic is None
                    or logged_ns - waiting[0][0] > 2 * _SYNC_SLOP_NS
                    or any(d[0] >= convert.stamp_ns(waiting[0][1].header) for d in depths)
                ):
                    yield frame_of(waiting.popleft()[1])
            while waiting:
                yield frame_of(waiting.popleft()[1])


def _names(types: dict[str, str]) -> str:
    return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(types.items())) or "nothing"


def _is_depth(message) -> bool:
    if hasattr(message, "format"):
        return "compressedDepth" in message.format
    return message.encoding in ("16UC1", "32FC1", "mono16")


def _depth_of(message, convert) -> np.ndarray:
    if not hasattr(message, "format"):
        return convert.depth_of(message)
    # compressed_depth_image_transport: 12 bytes of header, then a PNG of 16-bit millimetres.
    if not message.format.startswith("16UC1"):
        raise InvalidInput(f"compressed depth of format {message.format!r} cannot be read; record 16UC1, or raw depth")
    picture = cv2.imdecode(np.asarray(message.data, np.uint8)[12:], cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint16 or picture.ndim != 2:
        raise InvalidInput("compressed depth picture is not a 16-bit PNG behind its 12-byte header")
    return picture.astype(np.float32) * np.float32(0.001)


def _list_pictures(folder: Path) -> list[Path]:
    for candidate in (folder, folder / "rgb"):
        found = [p for p in candidate.iterdir() if p.suffix.lower() in _IMAGES] if candidate.is_dir() else []
        if found:
            return sorted(found, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
    raise InvalidInput(f"folder {folder} has no pictures, nor has its rgb/; put {', '.join(_IMAGES)} there")


def _beside(pictures: Path, root: Path, name: str) -> Path | None:
    """A companion of the pictures: in the recording's folder, or next to a folder that is named as pictures are."""
    siblings = pictures.name.lower() in ("rgb", "color", "colour", "image", "images")
    for candidate in (root / name, pictures.parent / name if siblings else root / name):
        if candidate.exists():
            return candidate
    return None


def _stamps_in_names(pictures: list[Path]) -> list[int]:
    """Nanoseconds from names like 1305031102.175304 (seconds) or 16 to 19 digits (ns); else 30 Hz from 0."""
    names = [p.stem for p in pictures]
    if all(re.fullmatch(r"\d{9,10}\.\d+", n) for n in names):
        stamps = [int(n.split(".")[0]) * 10**9 + int(n.split(".")[1].ljust(9, "0")[:9]) for n in names]
    elif all(re.fullmatch(r"\d{16,19}", n) for n in names):
        stamps = [int(n) for n in names]
    else:
        stamps = [round(i * 1e9 / _FOLDER_RATE_HZ) for i in range(len(names))]
    return stamps


def _read_rgb(path: Path) -> np.ndarray:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise InvalidInput(f"picture {path} cannot be read; it is damaged or not what its name says")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _read_depth(folder: Path, picture: Path, shape: tuple[int, int]) -> np.ndarray:
    png, npy = folder / f"{picture.stem}.png", folder / f"{picture.stem}.npy"
    if png.is_file():
        raw = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
        if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
            raise InvalidInput(f"depth {png} must be a 16-bit grey PNG in millimetres")
        depth_m = raw.astype(np.float32) * np.float32(0.001)
    elif npy.is_file():
        try:
            depth_m = np.load(npy, allow_pickle=False)
        except (ValueError, OSError) as error:
            raise InvalidInput(f"depth {npy} cannot be read: {error}") from error
        if depth_m.ndim != 2 or not np.issubdtype(depth_m.dtype, np.floating):
            raise InvalidInput(
                f"depth {npy} has shape {depth_m.shape} of {depth_m.dtype}; it must be HxW floats in metres"
            )
        depth_m = depth_m.astype(np.float32)
    else:
        raise InvalidInput(
            f"picture {picture} has no depth: neither {png} nor {npy} exists; add it or move {folder} away"
        )
    if depth_m.shape != shape:
        raise InvalidInput(
            f"depth of {picture} is {depth_m.shape[1]}x{depth_m.shape[0]}, the picture "
            f"{shape[1]}x{shape[0]}; depth must be registered to the picture"
        )
    return depth_m


def _read_camera_info(path: Path):
    """(K, distortion, model, (width, height)) of a calibration file as ROS's camera_calibration writes it."""
    try:
        data = yaml.safe_load(path.read_text())
        K = np.array(data["camera_matrix"]["data"], float).reshape(3, 3)
        size = (int(data["image_width"]), int(data["image_height"]))
        d = np.array(data.get("distortion_coefficients", {}).get("data", []), float)
        model = str(data.get("distortion_model", "plumb_bob"))
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"calibration {path} cannot be read ({type(error).__name__}: {error}); it must be a "
            "camera_info YAML with image_width, image_height and camera_matrix.data of 9 "
            "numbers"
        ) from error
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise InvalidInput(f"calibration {path} has K = {K.tolist()}; focal lengths must be finite and positive")
    return K, (d if d.any() else None), model, size
