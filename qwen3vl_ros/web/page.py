"""The page: its panels, where they stand, and the one thread that keeps them up to date.

Every browser sees the same page, as every operator of a control room sees the same screens; what somebody is typing, and what is
said to them, is theirs.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Callable

import viser

from qwen3vl_ros.types import PerceptionError
from qwen3vl_ros.web.panels.ask import AskPanel
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.panels.camera import CameraPanel
from qwen3vl_ros.web.panels.do import DoPanel
from qwen3vl_ros.web.panels.engine import EnginePanel
from qwen3vl_ros.web.panels.look_for import LookForPanel
from qwen3vl_ros.web.panels.space import SpacePanel
from qwen3vl_ros.web.panels.watch import WatchPanel
from qwen3vl_ros.web.robot import Robot

_CAMERA_PX, _CONTROLS_PX = 480, 400
_SAY_AGAIN_S = 10.0
_log = logging.getLogger(__name__)


class Page:
    """Shown from its making; run() keeps it up to date."""

    def __init__(self, server: viser.ViserServer, robot: Robot):
        self._server = server
        server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True, control_width="large")
        left = server.gui.add_panel()
        camera = left.add_tab("Camera")
        with camera:
            picture = CameraPanel(server, robot)
            watch, engine = WatchPanel(server, robot), EnginePanel(server, robot, picture)
        do = DoPanel(server, robot, picture)
        with camera:
            space = SpacePanel(server, robot, picture, do)
        look_for, ask = LookForPanel(server, robot, picture), AskPanel(server, robot, picture)
        self._panels: tuple[Panel, ...] = (picture, space, do, look_for, ask, watch, engine)
        left.dock_left()
        left.set_width(_CAMERA_PX)
        server.gui.main_panel.dock_right()
        server.gui.main_panel.set_width(_CONTROLS_PX)
        server.on_client_connect(self._join)

    def _join(self, client: viser.ClientHandle) -> None:
        for panel in self._panels:
            panel.join(client)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Until is_over(). What is wrong with a message or a frame is said now and then, and costs one update of one panel."""
        due, told = dict.fromkeys(self._panels, 0.0), dict.fromkeys(self._panels, -math.inf)
        while not is_over():
            time.sleep(max(0.0, min(due.values()) - time.monotonic()))
            now = time.monotonic()
            for panel in [p for p, at in due.items() if at <= now]:
                due[panel] = now + panel.period_s
                try:
                    panel.update()
                except PerceptionError as error:
                    if now - told[panel] > _SAY_AGAIN_S:
                        told[panel] = now
                        _log.warning("%s: %s", type(panel).__name__, error)
