"""What a camera without hardware shows next, and when: of the simulation, or of a recording.

The settings are those of node/sim_camera.py, by their names. Knows no ROS, and no clock but the one it is asked by.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

from qwen3vl_ros.sim.camera import SimCameraError
from qwen3vl_ros.sim.panel import Panel
from qwen3vl_ros.sim.recorded import Depth
from qwen3vl_ros.sim.replay import ReplaySource
from qwen3vl_ros.sim.stream import SimStream
from qwen3vl_ros.types import Frame, PerceptionError

WORLD_FRAME, CAMERA_FRAME = "world", "camera_color_optical_frame"
SIMULATED_HZ = 10.0
PANEL_HZ = 4.0


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture to publish. due_s: when, after the first. truths: of the simulation only.

    depth: what is published beside it, in its own frame and as much later than the picture as it was. values: of the panel's
    instruments.
    """

    due_s: float
    frame: Frame
    depth: Depth | None = None
    truths: tuple = ()
    values: dict[str, float] | None = None


def panel(p: dict[str, Any], elapsed_s: Callable[[], float], say: Callable[[str], None]) -> Iterator[Shot]:
    """The plant panel, without end; values: what its instruments show."""
    rate_hz, wall = p["rate"] or PANEL_HZ, Panel(p["seed"], p["width"], p["height"])
    say(f"simulated plant panel, {p['width']}x{p['height']} at {rate_hz:g} Hz")
    k = 0
    while True:
        view = wall.frame_at(k / rate_hz)
        yield Shot(k / rate_hz, Frame(0, p["frame"], view.rgb), values=view.values)
        k = max(k + 1, math.ceil(elapsed_s() * rate_hz))


def simulated(p: dict[str, Any], elapsed_s: Callable[[], float], say: Callable[[str], None]) -> Iterator[Shot]:
    """Without end. elapsed_s(): seconds since the first shot, by the camera's clock."""
    if p["panel"]:
        yield from panel(p, elapsed_s, say)
    rate_hz = p["rate"] or SIMULATED_HZ
    try:
        stream = SimStream(
            p["seed"],
            p["motion"],
            p["scene_every"] or None,
            p["objects"] or None,
            rate_hz,
            gauge=p["gauge"],
            wide=p["wide"],
            depth_noise=p["depth_noise"],
            width=p["width"],
            height=p["height"],
            fovy_deg=p["fovy_deg"],
            quality=p["quality"],
        )
    except SimCameraError as error:
        raise PerceptionError(f"the simulated camera cannot draw here: {error}") from error
    with stream:
        say(f"simulated camera, {p['width']}x{p['height']} at {rate_hz:g} Hz")
        stream.frame_at(0.0)  # the first picture has the shaders to wait for: before the clock starts
        k, drawings_s = 0, deque(maxlen=5)
        while True:
            t_s, begun_s = k / rate_hz, time.monotonic()
            view, _ = stream.frame_at(t_s)
            drawings_s.append(time.monotonic() - begun_s)
            pose = {"target_T_camera": view.world_T_camera, "target_frame": WORLD_FRAME}
            frame = Frame(0, p["frame"], view.rgb, view.depth_m, view.K, **pose)
            yield Shot(t_s, frame, Depth(0, p["frame"], view.depth_m), view.truths)
            # The next that can be drawn by its time, if drawing takes as long as it usually does: a process
            # that was stopped while it drew would be silent as long again.
            k = max(k + 1, math.ceil((elapsed_s() + statistics.median(drawings_s)) * rate_hz))


def recorded(p: dict[str, Any], say: Callable[[str], None], lost: Callable[[str], None]) -> Iterator[Shot]:
    """As recorded, due by the stamps. lost: as of ReplaySource."""
    source = ReplaySource(
        p["source"],
        None,
        p["loop"],
        image_topic=p["image_topic"] or None,
        depth_topic=p["depth_topic"] or None,
        camera_info_topic=p["camera_info_topic"] or None,
        rectification=p["rectification"],
        max_pixels=p["max_image_pixels"],
        lost=lost,
    )
    say(f"playing {source.path}")
    first_ns = None
    for picture in source.recorded():
        frame = picture.frame
        first_ns = frame.stamp_ns if first_ns is None else first_ns
        yield Shot((frame.stamp_ns - first_ns) / 1e9, frame, picture.depth)
