"""Recordings as a stream of frames: an image folder, a video file, or a rosbag2 (directory, .mcap or .db3).

Knows nothing of clocks: it yields frames with their stamps, and who plays them keeps the time. What is on disk is read
by files.py and bags.py alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import cv2
import numpy as np

from qwen3vl_ros.codec import MAX_PIXELS, check_size
from qwen3vl_ros.files import read_depth_m, read_intrinsics, read_rgb
from qwen3vl_ros.sim.bag_pictures import choose_topics, pictures
from qwen3vl_ros.sim.bags import SUFFIXES, Bag, is_bag
from qwen3vl_ros.sim.recorded import Depth, Losses, Recorded
from qwen3vl_ros.types import Frame, InvalidInput

_IMAGES = (".png", ".jpg", ".jpeg")
_VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
_FOLDER_RATE_HZ = 30.0
_NO_LENS = (None, None, "plumb_bob")


class ReplaySource:
    """Iterate over it for Frames, in the order they were recorded; `recorded()` has their depth as it was recorded.

    path: a folder of PNG or JPEG pictures (itself or its `rgb/`, with an optional `depth/` of 16-bit PNG in millimetres
    or .npy in metres under the same names, and an optional `camera_info.yaml`), a video file, or a rosbag2.
    rate_hz: None keeps the recorded stamps (a folder's names where they are times, else 30 Hz); a number stamps the
    frames at that rate instead. loop: start again at the end, with stamps that go on rising.
    image_topic, depth_topic, camera_info_topic: for bags; None chooses, and says so when there are several.
    rectification, max_pixels: as the node's parameters `rectification` and `max_image_pixels`.
    lost(reason): is told of what cannot be read, which is then left out and counted; None raises InvalidInput for it.

    Raises InvalidInput here for what is missing. A camera without a calibration gives frames without K.
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
        rectification: str = "auto",
        max_pixels: int = MAX_PIXELS,
        lost: Callable[[str], None] | None = None,
    ):
        self.path = Path(path).expanduser()
        if rate_hz is not None and not 0 < rate_hz <= 1000:
            raise InvalidInput(f"rate_hz is {rate_hz}; it must be above 0 and at most 1000 Hz, or None")
        if not self.path.exists():
            raise InvalidInput(f"recording {self.path} does not exist")
        self.rate_hz, self.loop = rate_hz, loop
        self._rectification, self._max_pixels, self._losses = rectification, max_pixels, Losses(lost)
        topics = (image_topic, depth_topic, camera_info_topic)
        suffix = self.path.suffix.lower()
        if is_bag(self.path):
            self._read = self._bag
            with Bag(self.path, self._losses) as bag:
                self._chosen = choose_topics(bag, *topics)
        elif any(topics):
            raise InvalidInput(f"{self.path} is no rosbag2, so it has no topics to choose; leave them out")
        elif self.path.is_dir():
            self._pictures = _list_pictures(self.path)
            self._read = self._folder
        elif suffix in _VIDEOS:
            self._read = self._video
        elif suffix == ".bag":
            raise InvalidInput(
                f"{self.path} is a ROS 1 bag; convert it with `rosbags-convert --src {self.path.name} --dst NEW_FOLDER`"
            )
        else:
            raise InvalidInput(
                f"{self.path} is not a recording known here: give a folder of {', '.join(_IMAGES)}, a "
                f"video ({', '.join(_VIDEOS)}) or a rosbag2 (folder, {', '.join(SUFFIXES)})"
            )

    def __iter__(self) -> Iterator[Frame]:
        for recorded in self.recorded():
            yield recorded.frame

    def recorded(self) -> Iterator[Recorded]:
        """Every picture once, or without end where loop is set."""
        offset_ns = count = 0
        while True:
            first_ns = last_ns = None
            step_ns = round(1e9 / _FOLDER_RATE_HZ)
            for recorded in self._read():
                stamp_ns = recorded.frame.stamp_ns
                if first_ns is None:
                    first_ns = stamp_ns
                else:
                    step_ns = stamp_ns - last_ns
                last_ns = stamp_ns
                played_ns = last_ns + offset_ns if self.rate_hz is None else round(count * 1e9 / self.rate_hz)
                count += 1
                yield recorded.later(played_ns - stamp_ns)
            self._losses.sum_up(self.path)
            if first_ns is None:
                raise InvalidInput(f"{self.path} holds no picture that can be played")
            if not self.loop:
                return
            offset_ns += last_ns + step_ns - first_ns

    # -- folder and video ---------------------------------------------------------------------------------

    def _folder(self) -> Iterator[Recorded]:
        stamps = _stamps_in_names(self._pictures)
        depth_folder = _beside(self._pictures[0].parent, self.path, "depth")
        info = _beside(self._pictures[0].parent, self.path, "camera_info.yaml")
        lenses: dict[tuple[int, int], tuple] = {}
        for stamp_ns, path in zip(stamps, self._pictures):
            try:
                rgb = read_rgb(path, self._max_pixels)
            except InvalidInput as error:
                self._losses.lose(f"picture {path} cannot be read: {error}; record it again, or delete it")
                continue
            size_px = rgb.shape[1], rgb.shape[0]
            if size_px not in lenses:
                lenses[size_px] = self._lens(info, size_px)
            depth_m = self._depth_of(depth_folder, path)
            depth = None if depth_m is None else Depth(stamp_ns, "camera", depth_m)
            recorded, fault = Recorded.of(Frame(stamp_ns, "camera", rgb, None, *lenses[size_px]), depth)
            if fault:
                self._losses.lose(f"depth of {path}: {fault}")
            yield recorded

    def _lens(self, info: Path | None, size_px: tuple[int, int]) -> tuple:
        if info is not None:
            try:
                return read_intrinsics(info, size_px, self._rectification == "rectified")
            except InvalidInput as error:
                self._losses.lose(f"{error}; without it there is no 3D, the pictures play as 2D")
        return _NO_LENS

    def _depth_of(self, folder: Path | None, picture: Path) -> np.ndarray | None:
        if folder is None:
            return None
        png, npy = folder / f"{picture.stem}.png", folder / f"{picture.stem}.npy"
        try:
            return read_depth_m(npy if npy.is_file() and not png.is_file() else png, self._max_pixels)
        except InvalidInput as error:
            what = str(error) if png.is_file() or npy.is_file() else f"neither {png} nor {npy} exists"
            self._losses.lose(f"picture {picture} has no depth: {what}; add it or move {folder} away")
            return None

    def _video(self) -> Iterator[Recorded]:
        capture = cv2.VideoCapture(str(self.path))
        try:
            if not capture.isOpened():
                raise InvalidInput(
                    f"video {self.path} cannot be opened; it is damaged or its codec is not in OpenCV: "
                    f"re-encode it as H.264 MP4 (`ffmpeg -i {self.path} mended.mp4`)"
                )
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # pixels as the sensor saw them
            size_px = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            check_size(*size_px, f"video {self.path}", self._max_pixels)
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if np.isfinite(fps) and fps > 0 else _FOLDER_RATE_HZ
            promised, count, last_ns = capture.get(cv2.CAP_PROP_FRAME_COUNT), 0, -1
            while True:
                good, bgr = capture.read()
                if not good:
                    break
                stamp_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                if stamp_ns <= last_ns:  # a container without times
                    stamp_ns = last_ns + round(1e9 / fps)
                yield Recorded(Frame(stamp_ns, "camera", cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))
                count, last_ns = count + 1, stamp_ns
            if count < 0.98 * promised - 1:  # some containers only estimate
                self._losses.note(
                    f"video {self.path} is cut off or damaged: {count} of {promised:.0f} pictures could be read; "
                    f"`ffmpeg -i {self.path} -c copy mended{self.path.suffix}` repairs what can be repaired"
                )
        finally:
            capture.release()

    def _bag(self) -> Iterator[Recorded]:
        with Bag(self.path, self._losses) as bag:
            yield from pictures(bag, self._chosen, self._rectification, self._max_pixels, self._losses)


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
