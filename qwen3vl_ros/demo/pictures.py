"""The demo's video and pictures, from the frames and answers a subscriber received. Knows nothing of ROS.

The video runs in camera time and hides nothing: on the left the camera, live; on the right the newest answer
that had been published by then, on the frame it was made for. Pictures show each scene's best answer, drawn
at twice the camera's size so that lines are crisp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterable, Iterator

import cv2
import imageio_ffmpeg
import numpy as np

from qwen3vl_ros.demo.score import FrameScore, Heard
from qwen3vl_ros.draw import draw_scene
from qwen3vl_ros.files import write_picture
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import Frame, Generation, Scene

VIDEO_HZ = 10
STRIP_PX = 56
_PANEL_PX = (640, 480)
_BACKGROUND, _BRIGHT, _DIM = (22, 24, 28), (236, 236, 236), (150, 156, 164)
_SMALL = (cv2.IMWRITE_PNG_COMPRESSION, 9)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A drawn answer, when it was published, and two lines about it."""

    published_ns: int
    jpeg: bytes
    lines: tuple[str, str]


@dataclass(frozen=True, eq=False)
class _Best:
    merit: tuple
    frame: Frame
    answer: Heard


class Gallery:
    """Collects what the video and the pictures are made of; everything is kept compressed."""

    def __init__(self) -> None:
        self._live: list[tuple[int, bytes]] = []
        self._drawn: list[_Drawn] = []
        self._best: dict[int, _Best] = {}
        self._asked: list[tuple[_Best, str]] = []

    def add_live(self, stamp_ns: int, rgb: np.ndarray) -> None:
        """A camera frame for the video's left side."""
        self._live.append((stamp_ns, jpeg(fitted(rgb))))

    def add_answer(self, scene: int, answer: Heard, score: FrameScore, frame: Frame) -> None:
        """An answer with the frame it was made from; the best one of each scene becomes a picture."""
        drawn = draw_scene(frame, _scene(answer, frame))
        found = f"{len(score.matches)} of {len(score.wanted)} found" + (
            f", {len(score.wrong)} wrong" if score.wrong else ""
        )
        feasible = sum(g.feasible for g in answer.grasps)
        grasps = f"{feasible} of {len(answer.grasps)} grasps"
        first = f"answer {answer.latency_s * 1000:.0f} ms after its image:  {found},  {grasps}"
        second = f"unreadable: {answer.error}" if answer.error else "asked for: " + ", ".join(answer.prompt)
        self._drawn.append(_Drawn(answer.stamp_ns + int(answer.latency_s * 1e9), jpeg(fitted(drawn)), (first, second)))
        merit = (
            len(score.matches) - 2 * len(score.wrong) - score.missed,
            feasible,
            float(np.mean([m.iou for m in score.matches])) if score.matches else 0.0,
        )
        if score.matches and (scene not in self._best or merit > self._best[scene].merit):
            self._best[scene] = _Best(merit, frame, answer)

    def write_video(self, path: Path) -> int:
        """H.264 that browsers play; returns how many frames it has; 0, and no file, without a camera. Raises OSError, and
        leaves no half of a file."""
        size = (2 * _PANEL_PX[0], _PANEL_PX[1] + STRIP_PX)
        return encode_video(path, size, VIDEO_HZ, self._pages()) if self._live else 0

    def _pages(self) -> Iterator[np.ndarray]:
        start, end = self._live[0][0], self._live[-1][0]
        drawn = sorted(self._drawn, key=lambda d: d.published_ns)
        live = shown = -1
        left, right = _blank(), _blank()
        for now in range(start, end + 1, 1_000_000_000 // VIDEO_HZ):
            while live + 1 < len(self._live) and self._live[live + 1][0] <= now:
                live += 1
                left = None
            while shown + 1 < len(drawn) and drawn[shown + 1].published_ns <= now:
                shown += 1
                right = None
            left = decoded_picture(self._live[live][1]) if left is None else left
            right = decoded_picture(drawn[shown].jpeg) if right is None else right
            lines = drawn[shown].lines if shown >= 0 else ("no answer yet", "")
            yield _page(left, right, (now - start) / 1e9, lines)

    def write_pictures(self, folder: Path, most: int = 4) -> list[Path]:
        """scene_<number>.png of the scenes with the best answers, best first; none if nothing was right."""
        paths = []
        for number, best in self._ranked()[:most]:
            paths.append(folder / f"scene_{number}.png")
            write_picture(paths[-1], _enlarged(best), _SMALL)
        return paths

    def add_asked(self, frame: Frame, boxes: Heard, line: str) -> None:
        """A question with its answer, and the frame that it was asked of, for `write_asked`."""
        self._asked.append((_Best((), frame, boxes), line))

    def write_asked(self, path: Path) -> bool:
        """Each question with its answer on the frame that it was asked of, side by side; False if nothing was asked."""
        if self._asked:
            drawn = [_enlarged(best, caption=line) for best, line in self._asked]
            size = tuple(int(side / len(drawn) ** 0.5) for side in drawn[0].shape[1::-1])
            write_picture(
                path, np.hstack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in drawn]), _SMALL
            )
        return bool(self._asked)

    def write_poster(self, path: Path) -> bool:
        """The two best scenes side by side in one PNG, for a page; False if nothing was ever right."""
        halves = [
            cv2.resize(_enlarged(best), _PANEL_PX, interpolation=cv2.INTER_AREA) for _, best in self._ranked()[:2]
        ]
        if halves:
            gap = np.full((_PANEL_PX[1], 8, 3), 255, np.uint8)
            write_picture(path, np.hstack([halves[0], *(part for half in halves[1:] for part in (gap, half))]), _SMALL)
        return bool(halves)

    def _ranked(self) -> list[tuple[int, _Best]]:
        return sorted(self._best.items(), key=lambda item: item[1].merit, reverse=True)


def _scene(answer: Heard, frame: Frame) -> Scene:
    said = Generation(answer.text, (), None, (), answer.finish_reason)
    return Scene(
        answer.stamp_ns,
        frame.frame_id,
        Detect(answer.prompt),
        said,
        answer.detections_2d,
        detections_3d=answer.detections_3d,
        grasps=answer.grasps,
    )


def _enlarged(best: _Best, scale: int = 2, caption: str = "") -> np.ndarray:
    """The best answer drawn on its frame at `scale` times the size."""
    frame, answer = best.frame, best.answer
    size = (frame.rgb.shape[1] * scale, frame.rgb.shape[0] * scale)
    K = frame.K
    if K is not None:
        # The principal point counts from the first pixel's centre, the image's size from its corner.
        K = np.diag((scale, scale, 1.0)) @ (K + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]) - [
            [0, 0, 0.5],
            [0, 0, 0.5],
            [0, 0, 0],
        ]
    big = replace(frame, rgb=cv2.resize(frame.rgb, size, interpolation=cv2.INTER_CUBIC), K=K)
    boxes = tuple(replace(d, box_xyxy_px=tuple(scale * v for v in d.box_xyxy_px)) for d in answer.detections_2d)
    return draw_scene(big, _scene(replace(answer, detections_2d=boxes), big), caption=caption)


def _page(left: np.ndarray, right: np.ndarray, t_s: float, lines: tuple[str, str]) -> np.ndarray:
    width, height = _PANEL_PX
    page = np.full((height + STRIP_PX, 2 * width, 3), _BACKGROUND, np.uint8)
    page[STRIP_PX:, :width], page[STRIP_PX:, width:] = left, right
    page[STRIP_PX:, width - 1 : width + 1] = _BACKGROUND
    for x, (first, second) in ((0, (f"camera, live   {t_s:4.1f} s", "")), (width, lines)):
        cv2.putText(page, _short(first), (x + 12, 23), _FONT, 0.5, _BRIGHT, 1, cv2.LINE_AA)
        cv2.putText(page, _short(second), (x + 12, 44), _FONT, 0.45, _DIM, 1, cv2.LINE_AA)
    return page


def _short(text: str, most: int = 78) -> str:
    text = " ".join(text.split()).encode("ascii", "replace").decode()
    return text if len(text) <= most else text[: most - 3] + "..."


def fitted(rgb: np.ndarray) -> np.ndarray:
    """The picture in a panel, its shape kept, the rest dark."""
    width, height = _PANEL_PX
    if rgb.shape[:2] == (height, width):
        return rgb
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(rgb, (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale)), interpolation=how)
    panel = _blank()
    y, x = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    panel[y : y + small.shape[0], x : x + small.shape[1]] = small
    return panel


def _blank() -> np.ndarray:
    return np.full((_PANEL_PX[1], _PANEL_PX[0], 3), _BACKGROUND, np.uint8)


def jpeg(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def decoded_picture(jpeg: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def encode_video(path: Path, size_px: tuple[int, int], hz: int, pages: Iterable[np.ndarray]) -> int:
    """Write HxWx3 uint8 RGB pages as H.264 that browsers play; returns how many. Raises OSError, and leaves no half of a file."""
    try:
        writer, count = _writer(path, size_px, hz), 0
        for count, page in enumerate(pages, 1):
            writer.send(page)
        writer.close()
        _check_video(path, count)
        return count
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _writer(path: Path, size_px: tuple[int, int], hz: int):
    writer = imageio_ffmpeg.write_frames(
        str(path),
        size_px,
        fps=hz,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        output_params=["-preset", "veryfast", "-crf", "23", "-movflags", "+faststart"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    return writer


def _check_video(path: Path, frames: int) -> None:
    """ffmpeg's status is lost on the way, and half a video looks like a whole one in a listing."""
    written = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))
    if written != frames:
        path.unlink(missing_ok=True)
        raise OSError(f"ffmpeg wrote {written} of {frames} frames: is the disk full?")
