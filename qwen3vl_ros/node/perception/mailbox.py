"""The one-slot mailbox between a camera and a slower reader: images meet their depth and intrinsics, the
newest wins.

Messages are opaque: anything with a capture stamp. Knows no ROS, no pixels and no thread but the lock it
offers; time comes in as two clocks, capture stamps (the camera's) and arrival times (monotonic).

An image is *complete* when its companions are in, or when waiting for them stopped being reasonable: at most
the slop plus one period of the companion (0.1 s if that is longer, for busy machines; more if the companion
lagged lately), never until it is too old to be used, and not at all while none has come for a second. A newer
complete image never waits for an older one. Every buffer has a fixed length.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable

from qwen3vl_ros.tracking.tracks import RESTART_NS

ALIVE_S = 1.0  # a companion silent for longer is gone, and nobody waits for it,
SLOW_S = 5.0  # but one that is slow by nature: silent for twice as long as between its last two, or for this long
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.1, 0.5
FIRST_PERIOD_S = 0.1  # until two stamps have told the real one


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One capture: the image and what belongs to its stamp, as messages. A reason explains each absence."""

    stamp_ns: int
    image: Any
    depth: Any | None
    info: Any | None
    depth_reason: str
    info_reason: str


class _Companion:
    """The recent messages of one stream that accompanies the images."""

    def __init__(self, name: str, tolerance_ns: int, opened_s: float):
        self.name, self.tolerance_ns, self._opened_s = name, tolerance_ns, opened_s
        self._lags_s: deque[float] = deque(maxlen=10)
        self.arrived_s: float | None = None
        self._gap_s = 0.0  # between the last two arrivals
        self.paused_s = 0.0  # between the last two images: while the camera pauses, what accompanies it does not stop
        self.last: Any | None = None
        self.forget()

    def forget(self) -> None:
        """Stamps of two runs must not meet; `last` stays, for what is true of every run."""
        self.recent: deque[tuple[int, Any]] = deque(maxlen=16)
        self._stamps: deque[int] = deque(maxlen=16)

    def forget_before(self, stamp_ns: int) -> None:
        """Images only get newer: what is too old for this one is of no use, but for the last."""
        while len(self.recent) > 1 and self.recent[0][0] < stamp_ns - self.tolerance_ns:
            self.recent.popleft()

    def put(self, stamp_ns: int, message: Any, now_s: float, image_arrival_s: Callable[[int, int], float | None]):
        if self._stamps and stamp_ns < self._stamps[-1] - RESTART_NS:
            self.forget()
        self.recent.append((stamp_ns, message))
        self.last = message
        self._stamps.append(stamp_ns)
        self._gap_s = 0.0 if self.arrived_s is None else now_s - self.arrived_s
        self.arrived_s = now_s
        image_s = image_arrival_s(stamp_ns, self.tolerance_ns)
        if image_s is not None:
            self._lags_s.append(max(0.0, now_s - image_s))

    def match(self, stamp_ns: int) -> tuple[Any | None, bool]:
        """The nearest message within the tolerance, and whether the next one would be nearer still."""
        best = min(self.recent, key=lambda entry: abs(entry[0] - stamp_ns), default=None)
        if best is None or abs(best[0] - stamp_ns) > self.tolerance_ns:
            return None, True
        if len(self._stamps) < 2:  # the period is not known yet
            return best[1], best[0] < stamp_ns
        return best[1], abs(max(self._stamps) + self._period_ns() - stamp_ns) < abs(best[0] - stamp_ns)

    def alive(self, now_s: float) -> bool:
        silent_s = now_s - (self._opened_s if self.arrived_s is None else self.arrived_s)
        return silent_s <= max(ALIVE_S, min(2 * self._gap_s, SLOW_S), self.paused_s + LONGEST_WAIT_S)

    def _period_ns(self) -> float:
        stamps = sorted(self._stamps)
        steps = [b - a for a, b in zip(stamps, stamps[1:]) if b > a]
        return statistics.median(steps) if steps else FIRST_PERIOD_S * 1e9

    def wait_s(self) -> float:
        wait_s = max((self.tolerance_ns + self._period_ns()) / 1e9, SHORTEST_WAIT_S)
        return min(wait_s + max(self._lags_s, default=0.0), LONGEST_WAIT_S)

    def absence(self, stamp_ns: int, now_s: float) -> str:
        if self.arrived_s is None or not self._stamps:
            return f"no {self.name} has been received"
        if not self.alive(now_s):
            return f"{self.name} stopped {now_s - self.arrived_s:.1f} s ago"
        gap_ns = min(abs(stamp - stamp_ns) for stamp in self._stamps)
        return (
            f"the nearest {self.name} is {gap_ns / 1e6:.0f} ms away from the image, more than sync_slop "
            f"({self.tolerance_ns / 1e6:.0f} ms); synchronise the camera or raise sync_slop"
        )


class Mailbox:
    """Stores only the newest complete capture. `changed` guards it and is notified on every arrival; several
    mailboxes may share it.

    patience_s(stamp_ns): how long a capture may still wait before it is of no use. each(snapshot): called with every image in its
    order, as complete as it became, whether anybody takes it or not; it must return at once.
    superseded: images that were replaced before anybody took them, which is normal when the reader is slower.
    """

    def __init__(
        self,
        sync_slop_s: float = 0.02,
        expects_depth: bool = True,
        monotonic_s: Callable[[], float] = time.monotonic,
        patience_s: Callable[[int], float] = lambda stamp_ns: math.inf,
        changed: threading.Condition | None = None,
        each: Callable[[Snapshot], None] | None = None,
    ):
        self._each = each
        self.changed = changed or threading.Condition(threading.RLock())
        self._slop_ns, self._expects_depth = int(sync_slop_s * 1e9), expects_depth
        self._monotonic_s, self._patience_s = monotonic_s, patience_s
        self.superseded = 0
        self.images = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything, as after a reconnect."""
        with self.changed:
            now_s = self._monotonic_s()
            self._depth = _Companion("depth image", self._slop_ns, now_s) if self._expects_depth else None
            self._info = _Companion("camera_info", 0, now_s)
            self._info_in_step = False
            self._restart_images()

    def restart(self) -> None:
        """Forget every stamp, as when the clock jumps back. The calibration stays: one that is said only once
        is true of the next run, too.
        """
        with self.changed:
            self._restart_images()
            for companion in filter(None, (self._depth, self._info)):
                companion.forget()

    def _restart_images(self) -> None:
        self._pending: deque[tuple[int, Any, float]] = deque(maxlen=16)
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=32)
        self._slot: Snapshot | None = None
        self._newest: Snapshot | None = None

    @property
    def had_depth(self) -> bool:
        """Whether a depth image was ever received."""
        return self._depth is not None and self._depth.last is not None

    # -- the camera's side -------------------------------------------------------------------------

    def put_image(self, stamp_ns: int, message: Any) -> None:
        with self.changed:
            newest_ns = self._arrivals[-1][0] if self._arrivals else stamp_ns
            self.images += 1
            if stamp_ns < newest_ns - RESTART_NS:
                self.restart()
            elif stamp_ns < newest_ns:
                self.superseded += 1
                return
            now_s = self._monotonic_s()
            for companion in filter(None, (self._depth, self._info)):
                companion.paused_s = now_s - self._arrivals[-1][1] if self._arrivals else 0.0
            self._pending.append((stamp_ns, message, now_s))
            self._arrivals.append((stamp_ns, now_s))
            self._settle()
            self.changed.notify_all()

    def put_depth(self, stamp_ns: int, message: Any) -> None:
        if self._depth is None:
            return
        with self.changed:
            self._depth.put(stamp_ns, message, self._monotonic_s(), self._image_arrival_s)
            self._settle()
            self.changed.notify_all()

    def put_info(self, stamp_ns: int, message: Any) -> None:
        with self.changed:
            self._info.put(stamp_ns, message, self._monotonic_s(), self._image_arrival_s)
            # A driver that stamps intrinsics like images means them for that image; a latched one does not.
            self._info_in_step = self._image_arrival_s(stamp_ns, 0) is not None or (
                self._info_in_step and bool(self._arrivals) and stamp_ns > self._arrivals[-1][0]
            )
            self._settle()
            self.changed.notify_all()

    def _image_arrival_s(self, stamp_ns: int, tolerance_ns: int) -> float | None:
        near = [(abs(image_ns - stamp_ns), arrival_s) for image_ns, arrival_s in self._arrivals]
        gap_ns, arrival_s = min(near, default=(None, None))
        return arrival_s if gap_ns is not None and gap_ns <= tolerance_ns else None

    # -- the reader's side -------------------------------------------------------------------------

    def take(self) -> Snapshot | None:
        """The newest complete capture, once; None if there is none that was not taken yet."""
        with self.changed:
            self._settle()
            snapshot, self._slot = self._slot, None
            return snapshot

    def newest(self) -> Snapshot | None:
        """The newest complete capture, whether taken or not."""
        with self.changed:
            self._settle()
            return self._newest

    def next_in_s(self) -> float:
        """When the next image is expected, by the rhythm of the last ones: 0 where it is late or the rhythm is not known yet,
        inf where none comes any more.
        """
        with self.changed:
            arrivals = [arrived_s for _, arrived_s in self._arrivals]
            if len(arrivals) < 2:
                return 0.0 if arrivals else math.inf
            period_s = statistics.median(b - a for a, b in zip(arrivals, arrivals[1:]))
            left_s = arrivals[-1] + period_s - self._monotonic_s()
            return math.inf if left_s < -max(period_s, ALIVE_S) else max(0.0, left_s)

    def seconds_until_due(self) -> float | None:
        """Time until the oldest waiting image waits no longer; None when none waits."""
        with self.changed:
            return max(0.0, self._left_s(0, self._monotonic_s())) if self._pending else None

    def _left_s(self, index: int, now_s: float) -> float:
        """How long a waiting image goes on waiting; the oldest not at all where the next would push it out."""
        if index == 0 and len(self._pending) == self._pending.maxlen:
            return 0.0
        stamp_ns, _, arrived_s = self._pending[index]
        waits = [
            c.wait_s()
            for c in (self._depth, self._info if self._info_in_step else None)
            if c is not None and c.alive(now_s)
        ]
        return min(arrived_s + max(waits, default=0.0) - now_s, self._patience_s(stamp_ns))

    def _settle(self) -> None:
        """Move the newest complete image into the slot; it supersedes every older one."""
        now_s = self._monotonic_s()
        for index in range(len(self._pending) - 1, -1, -1):
            stamp_ns, image, _ = self._pending[index]
            better_to_come = self._depth.match(stamp_ns)[1] if self._depth else False
            info, _ = self._info.match(stamp_ns)
            waiting = (better_to_come and self._depth.alive(now_s)) or (
                info is None and self._info_in_step and self._info.alive(now_s)
            )
            if waiting and self._left_s(index, now_s) > 0:
                continue
            self.superseded += index + (self._slot is not None)
            done = [self._pending.popleft() for _ in range(index + 1)]
            if self._each:
                for older in done[:-1]:
                    self._each(self._snapshot(older[0], older[1], now_s))
            self._slot = self._newest = self._snapshot(stamp_ns, image, now_s)
            if self._each:
                self._each(self._slot)
            for companion in filter(None, (self._depth, self._info)):
                companion.forget_before(stamp_ns)
            return

    def _snapshot(self, stamp_ns: int, image: Any, now_s: float) -> Snapshot:
        """The image with what there is of its companions."""
        depth = self._depth.match(stamp_ns)[0] if self._depth else None
        info = self._info.match(stamp_ns)[0]
        if info is None:
            earlier = max(self._info.recent, key=lambda entry: (entry[0] <= stamp_ns, entry[0]), default=None)
            info = self._info.last if earlier is None else earlier[1]
        no_depth = self._depth.absence(stamp_ns, now_s) if self._depth else "parameter use_depth is false"
        return Snapshot(
            stamp_ns,
            image,
            depth,
            info,
            "" if depth is not None else no_depth,
            "" if info is not None else self._info.absence(stamp_ns, now_s),
        )
