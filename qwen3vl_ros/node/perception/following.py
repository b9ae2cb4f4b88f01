"""The thread that follows what was found from image to image, for all cameras, and says where it is in each.

Images wait for it in a short queue; it holds up neither their callbacks nor the engine. While nobody wants tracks it does nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import Callable, Iterator, Mapping

from qwen3vl_ros.node.perception.camera import QUEUE
from qwen3vl_ros.node.perception.channel import Channel
from qwen3vl_ros.node.perception.diagnostics import Level
from qwen3vl_ros.node.perception.mailbox import Snapshot
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.tracking.tracks import Tracks
from qwen3vl_ros.tracking.world import World
from qwen3vl_ros.types import PerceptionError

ASKED_S = 10.0  # a call for tracks wants them for this long
LOOK_S = 0.25  # between two looks at who subscribes


class Following:
    """From configure to cleanup. tracks: of each camera, for `Perception`. world: what they see together.

    ids: where objects get theirs from. on_death(error): called from the thread when anything escapes.
    """

    def __init__(self, channels: Mapping[str, Channel], ids: Iterator[int], on_death: Callable[[BaseException], None]):
        self.tracks = {name: Tracks(ids) for name in channels}
        self.world = World()
        self.dropped: Counter[str] = Counter()
        self._channels, self._on_death, self._transforms = channels, on_death, None
        self._queue: deque[tuple[str, Snapshot]] = deque()
        self._came = threading.Condition()
        self._wanted: dict[str, tuple[bool, float]] = {}  # and when that was found
        self._asked_until_s, self._stopping = 0.0, False
        self._thread = threading.Thread(target=self._main, name="tracks", daemon=True)

    def start(self, transforms) -> None:
        """transforms may be None without a target_frame."""
        self._transforms = transforms
        self._thread.start()

    def stop(self) -> None:
        with self._came:
            self._stopping = True
            self._came.notify_all()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def restart(self) -> None:
        """The clock jumped back: nothing of before is true of what comes."""
        with self._came:
            self._queue.clear()
        for tracks in self.tracks.values():
            tracks.forget()
        self.world.restart()

    def ask(self) -> None:
        """Somebody called for tracks."""
        self._asked_until_s = time.monotonic() + ASKED_S

    def offer(self, camera: str, snapshot: Snapshot) -> None:
        """Every image; returns at once."""
        if not self._is_wanted(camera):
            return
        with self._came:
            if len(self._queue) >= QUEUE * len(self._channels):
                oldest, _ = self._queue.popleft()
                self.dropped[oldest] += 1
            self._queue.append((camera, snapshot))
            self._came.notify()

    def _is_wanted(self, camera: str) -> bool:
        now_s = time.monotonic()
        wanted, looked_s = self._wanted.get(camera, (False, -LOOK_S))
        if now_s - looked_s < LOOK_S:
            return wanted
        channel = self._channels[camera]
        config, out = channel.config(), channel.out
        now_wanted = config.track == "always" or (
            config.track == "wanted"
            and (now_s < self._asked_until_s or config.publish_tf or (out is not None and out.tracks_wanted))
        )
        if wanted and not now_wanted:
            self.tracks[camera].stop()
            self.world.leave(camera)
        self._wanted[camera] = now_wanted, now_s
        return now_wanted

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while (taken := self._next()) is not None:
                self._follow(*taken)
        except BaseException as error:
            self._on_death(error)

    def _next(self) -> tuple[str, Snapshot] | None:
        with self._came:
            while not self._stopping:
                if self._queue:
                    return self._queue.popleft()
                self._came.wait()
            return None

    def _follow(self, name: str, snapshot: Snapshot) -> None:
        channel = self._channels[name]
        camera, out, config = channel.camera, channel.out, channel.config()
        if camera is None or out is None:  # deactivated since it came
            return
        try:
            with survivable("while following an image"):
                frame, _ = camera.frame_of(snapshot, self._transforms)
                tracks = self.tracks[name].step(frame)
                if tracks is None:
                    return
                self.world.update(name, tracks, frame.stamp_ns)
                out.publish_tracks(frame, tracks, config)
        except PerceptionError as error:  # an image that cannot be read, or something ran out
            channel.health.problem("tracks", Level.WARN, f"an image was not followed: {error}")
