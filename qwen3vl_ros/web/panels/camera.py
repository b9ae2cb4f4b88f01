"""The camera's picture with boxes, tracks and their labels: the picture goes as JPEG, what is on it as SVG over it, so that any
alphabet can be read and tested. A box is drawn on the picture that it was found in; where no boxes came for STALE_S, pictures are shown
without.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import cv2
import numpy as np
import viser

from qwen3vl_ros.convert import rgb_of, stamp_ns
from qwen3vl_ros.msg import TrackState
from qwen3vl_ros.web import html
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.robot import Camera, Robot

PERIOD_S = 0.04
STALE_S = 1.0
MISSING_S, WAITING = 3, "waiting for the camera"
WIDEST_PX, JPEG = 960, 75
_STATES = {TrackState.COASTING: "coasting", TrackState.OCCLUDED: "occluded", TrackState.UNCERTAIN: "uncertain"}


class CameraPanel(Panel):
    """pictures: the last ones that were shown, HxWx3 by stamp, for whoever needs their colours."""

    period_s = PERIOD_S

    def __init__(self, server: viser.ViserServer, robot: Robot):
        self._server, self._robot = server, robot
        self.pictures: OrderedDict[int, np.ndarray] = OrderedDict()
        self._boxes: Any = None
        self._drawn: Any = None  # the boxes that were shown last
        self._states: dict[str, str] = {}
        self._seen_s = self._boxes_s = self._tracks_s = 0.0
        names = list(robot.cameras)
        self._choice = server.gui.add_dropdown("camera", names, order=0) if len(names) > 1 else None
        self._overlay = server.gui.add_html("", order=1)
        self._picture = server.gui.add_image(np.full((480, 640, 3), 40, np.uint8), order=2, jpeg_quality=JPEG)
        self._said = server.gui.add_html(html.block("seen", html.note(WAITING)), order=3)
        if self._choice:
            self._choice.on_update(lambda _: self._forget())

    @property
    def camera(self) -> Camera:
        """The one that everybody looks at."""
        cameras = self._robot.cameras
        name = self._choice.value if self._choice else ""
        return cameras[name if name in cameras else next(iter(cameras))]  # a browser may say anything

    def _forget(self) -> None:
        self._boxes, self._seen_s = None, time.monotonic()
        self.pictures.clear()
        self._say(html.note(WAITING))

    def update(self) -> None:
        camera = self.camera if self._server.get_clients() else None
        for other in self._robot.cameras.values():
            if other is not camera:
                other.image.forget()  # pictures are large, and nobody looks at these
        if camera is None:
            self._seen_s = time.monotonic()
            return
        if (states := camera.states.newest()) is not None:
            self._states = {s.id: _STATES.get(s.state, "") for s in states.tracks}
        now_s = time.monotonic()
        tracks, found = camera.tracks_2d.newest(), camera.detections_2d.newest()
        if tracks is not None:
            self._boxes, self._boxes_s, self._tracks_s = tracks, now_s, now_s
        elif found is not None and now_s - self._tracks_s > STALE_S:
            self._boxes, self._boxes_s = found, now_s
        elif now_s - self._boxes_s > STALE_S:  # by the page's clock: the stamps' may stand still, or begin anew
            self._boxes = None
        boxes, image, gone = self._boxes, None, True
        if boxes is not None:
            image = camera.image.at(stamp_ns(boxes.header))
            gone = boxes is not self._drawn and camera.image.last_stamp_ns > stamp_ns(boxes.header)
        if image is not None:
            self._drawn = boxes
        elif gone:  # the picture that they were found in does not come any more
            image, boxes = camera.image.newest(), None
        if image is not None:
            self._show(image, boxes)
            self._seen_s = now_s
        elif self.pictures and (missing_s := int(now_s - self._seen_s)) >= MISSING_S:
            self._say(html.note(f"no picture for {missing_s} s: what stands here is the last one", "#ef6c00"))

    def _show(self, image: Any, boxes: Any) -> None:
        rgb, stamp = rgb_of(image), stamp_ns(image.header)
        self.pictures[stamp] = rgb
        while len(self.pictures) > 4:
            self.pictures.popitem(last=False)
        size_px = rgb.shape[1], rgb.shape[0]
        drawn = [] if boxes is None else [self._box(d) for d in boxes.detections]
        if size_px[0] > WIDEST_PX:
            rgb = cv2.resize(rgb, (WIDEST_PX, WIDEST_PX * size_px[1] // size_px[0]), interpolation=cv2.INTER_AREA)
        with self._server.atomic():
            self._picture.image = rgb
            self._overlay.content = html.boxes_svg(size_px, drawn)
        names = ", ".join(label for *_, label, _ in drawn) or "nothing that is looked for"
        self._say(html.text(f"{image.width}x{image.height}, {image.header.frame_id}: {names}"))

    def _say(self, words: str) -> None:
        said = html.block("seen", words)
        if said != self._said.content:
            self._said.content = said

    def _box(self, detection: Any) -> tuple[float, float, float, float, str, str]:
        centre, half_x, half_y = detection.bbox.center.position, detection.bbox.size_x / 2, detection.bbox.size_y / 2
        best = detection.results[0].hypothesis if detection.results else None
        state = self._states.get(detection.id, "")
        label = " ".join(filter(None, (best.class_id if best else "?", detection.id, state)))
        return (
            centre.x - half_x,
            centre.y - half_y,
            centre.x + half_x,
            centre.y + half_y,
            label,
            html.colour_of(detection.id),
        )
