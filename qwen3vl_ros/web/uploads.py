"""A file that somebody gave, as the pictures that ~/ask takes: a photo as it is, a short video as pictures of it in their order."""

from __future__ import annotations

import base64
import contextlib
import itertools
import tempfile
from typing import Iterator, Sequence

import cv2
import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from qwen3vl_ros.codec import MAX_PIXELS, check_size, decode_rgb
from qwen3vl_ros.types import InvalidInput

MOST_MB, MOST_PICTURES, LONGEST_S = 40, 8, 60.0
WIDEST_PX, FASTEST_HZ = 1280, 240.0


def pictures_of(name: str, content: bytes) -> list[Image]:
    """One of a picture, up to eight of a video, evenly over its length. Raises InvalidInput for what is neither, and too large."""
    if len(content) > MOST_MB * 1_000_000:
        raise InvalidInput(f"{name} has {len(content) / 1e6:.0f} MB, more than {MOST_MB}; give a smaller one")
    try:
        return [_message(decode_rgb(content, name), 0.0)]
    except InvalidInput as error:
        if not (stills := _stills(name, content)):
            raise InvalidInput(f"{name} is no picture and no video that can be read here: {error}") from error
        return [_message(rgb, at_s) for at_s, rgb in stills]


def thumbnail_html(pictures: Sequence[Image]) -> str:
    """The pictures in a row, small."""
    shown = []
    for message in pictures:
        rgb = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        width = min(max(1, 72 * message.width // message.height), 288)
        small = cv2.resize(rgb, (width, 72), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
        shown.append(f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" style="margin-right:3px">')
    return f"<div>{''.join(shown)}</div>"


def _stills(name: str, content: bytes) -> list[tuple[float, np.ndarray]]:
    """Seconds into the video, and the picture there; empty where OpenCV reads none."""
    with tempfile.NamedTemporaryFile(suffix=".video") as file:  # OpenCV reads videos by name alone
        file.write(content)
        file.flush()
        with _opened(file.name) as video:
            size_px = [int(video.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
            if min(size_px) > 0:
                check_size(*size_px, name, MAX_PIXELS)
            said = video.get(cv2.CAP_PROP_FPS)
            rate = said if 0 < said <= FASTEST_HZ else 25.0
            most = round(LONGEST_S * rate)
            # What a browser or a screen recorded says no length, and some say a wrong one: the pictures are counted.
            count = sum(1 for _ in itertools.islice(iter(video.grab, False), most + 1))
        if count > most:
            raise InvalidInput(f"{name} lasts longer than {LONGEST_S:.0f} s; cut it shorter")
        wanted = set(np.linspace(0, max(count - 1, 0), MOST_PICTURES).round().astype(int).tolist())
        stills = []
        with _opened(file.name) as video:
            for at in range(count):
                if not video.grab():
                    break
                read, bgr = video.retrieve() if at in wanted else (False, None)
                if read:
                    stills.append((at / rate, _shrunk(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))))
    return stills


@contextlib.contextmanager
def _opened(path: str) -> Iterator[cv2.VideoCapture]:
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        yield video
    finally:
        video.release()


def _shrunk(rgb: np.ndarray) -> np.ndarray:
    """No side longer than WIDEST_PX."""
    height, width = rgb.shape[:2]
    scale = WIDEST_PX / max(height, width)
    if scale >= 1:
        return rgb
    small = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)


def _message(rgb: np.ndarray, at_s: float) -> Image:
    rgb = _shrunk(rgb)
    height, width = rgb.shape[:2]
    header = Header(frame_id="given")
    header.stamp.sec, header.stamp.nanosec = divmod(round(at_s * 1e9), 1_000_000_000)
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = np.ascontiguousarray(rgb).tobytes()
    return message
