"""How the node is: model, rates, latencies, drafts, drops; and that it is not there."""

from __future__ import annotations

from typing import Any

import viser

from qwen3vl_ros.web import html
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.panels.camera import CameraPanel
from qwen3vl_ros.web.robot import Robot

_LEVELS = (("OK", "#43a047"), ("WARN", "#ef6c00"), ("ERROR", "#e53935"), ("STALE", "#ef6c00"))
_SHOWN = ("state", "engine", "input rate", "answer rate", "latency p50", "latency p95", "last error")


class EnginePanel(Panel):
    period_s = 1.0

    def __init__(self, server: viser.ViserServer, robot: Robot, picture: CameraPanel):
        self._robot, self._picture = robot, picture
        self._statuses: dict[str, Any] = {}
        self._drafted = self._accepted = self._tokens = self._passes = 0
        self._text = ""
        with server.gui.add_folder("Engine", order=11, expand_by_default=False):
            self._said = server.gui.add_html(html.block("engine", html.note("waiting for the node")))

    def update(self) -> None:
        for message in self._robot.diagnostics.take():
            self._statuses.update((s.name, s) for s in message.status if s.hardware_id == "qwen3vl_ros")
        for said in self._picture.camera.generation.take():
            self._drafted, self._accepted = self._drafted + said.drafted_tokens, self._accepted + said.accepted_tokens
            self._tokens, self._passes = self._tokens + said.tokens, self._passes + said.forward_passes
            self._text = said.error or said.text
        if not self._robot.is_there:
            parts = [html.note("the node does not answer; the page goes on when it is back", "#e53935")]
        else:
            parts = [self._status(status) for status in self._statuses.values()]
        rows = [("drafts", html.text(f"{self._accepted} of {self._drafted} tokens stood; {self._tokens} tokens in {self._passes} passes")),
                ("last words", html.text(self._text[:300]))]  # fmt: skip
        self._said.content = html.block("engine", *parts, html.table(rows))

    @staticmethod
    def _status(status: Any) -> str:
        level, colour = _LEVELS[min(status.level[0], 3)]
        values = {v.key: v.value for v in status.values}
        drops = {k.removeprefix("dropped: "): v for k, v in values.items() if k.startswith("dropped: ") and v != "0"}
        rows = [(html.text(key), html.text(values[key])) for key in _SHOWN if key in values]
        rows.append(("dropped", html.text(", ".join(f"{v} {k}" for k, v in drops.items()) or "none")))
        return (
            f'<b style="color:{colour}">{level}</b> {html.text(f"{status.name}: {status.message}")}{html.table(rows)}'
        )
