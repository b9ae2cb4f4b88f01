"""What the camera's stream looks for: a line to type into, and what the node made of it."""

from __future__ import annotations

import re
from typing import Any

import viser

from qwen3vl_ros.types import PerceptionError
from qwen3vl_ros.web import html
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.panels.camera import CameraPanel
from qwen3vl_ros.web.robot import Robot

_BETWEEN = re.compile(r"[,，、;；\n]")


class LookForPanel(Panel):
    """Everybody sees what is looked for; what one is typing is one's own."""

    def __init__(self, server: viser.ViserServer, robot: Robot, picture: CameraPanel):
        self._robot, self._picture = robot, picture
        self._folder = server.gui.add_folder("Look for")
        with self._folder:
            self._said = server.gui.add_html(html.block("looking"), order=2)

    def join(self, client: viser.ClientHandle) -> None:
        with self._folder, client.gui.add_form(None, order=1) as form:
            line = client.gui.add_text("things", "", hint="red mug, bowl - 红色的杯子, 碗", order=1)
            client.gui.add_button("Look for", order=2).on_click(lambda _: self._set(line.value))
        form.on_submit(lambda _: self._set(line.value))

    def _set(self, words: str) -> None:
        targets = [phrase for part in _BETWEEN.split(words) if (phrase := part.strip())]
        camera = self._picture.camera.name
        try:
            number = self._robot.look_for(camera, targets)
        except PerceptionError as error:
            return self._say(html.note(f"refused: {error}", "#e53935"))
        wanted = ", ".join(targets) or "nothing: the stream rests"
        self._say(html.text(f"prompt {number}: {wanted}"))

    def _say(self, words: Any) -> None:
        self._said.content = html.block("looking", words)
