"""What is inspected: the readings with a plot each, and the alarms, which somebody acknowledges or shelves here."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import viser

from qwen3vl_ros.msg import Event, Reading
from qwen3vl_ros.srv import AlarmCommand
from qwen3vl_ros.types import PerceptionError
from qwen3vl_ros.web import html
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.robot import Robot

SHELVED_S = 600.0
_STATES = {Event.NORMAL: "normal", Event.PENDING: "pending", Event.ACTIVE: "ACTIVE", Event.CLEARING: "clearing"}
_QUALITY = {Reading.GOOD: "#43a047", Reading.UNCERTAIN: "#ef6c00", Reading.BAD: "#e53935"}
_BECAUSE = ("UNREADABLE", "NOT_VISIBLE", "OCCLUDED", "OUT_OF_RANGE", "IMPLAUSIBLE", "UNIT_MISMATCH", "MOVED", "STALE")
_REASONS = {getattr(Reading, name): name.lower().replace("_", " ") for name in _BECAUSE}
_KINDS = {"acknowledge": AlarmCommand.Request.ACKNOWLEDGE, "shelve": AlarmCommand.Request.SHELVE,
          "unshelve": AlarmCommand.Request.UNSHELVE, "reset": AlarmCommand.Request.RESET}  # fmt: skip


@dataclass
class Point:
    """A point of inspection: its last reading, and its values for the plot."""

    reading: Any = None
    values: deque = field(default_factory=lambda: deque(maxlen=120))


class WatchPanel(Panel):
    def __init__(self, server: viser.ViserServer, robot: Robot):
        self._server, self._robot = server, robot
        self._points: dict[str, Point] = {}
        self._alarms: dict[str, Alarm] = {}
        self._folder = server.gui.add_folder("Watch", order=10)
        with self._folder:
            self._said = server.gui.add_html(html.block("readings", html.note("no readings")), order=1)

    def update(self) -> None:
        if (alarms := self._robot.alarms.newest()) is not None:
            self._show_alarms(alarms.events)
        changed = False
        for reading in self._robot.readings.take():
            point, changed = self._points.setdefault(reading.point, Point()), True
            point.reading = reading
            point.values.append(reading.value)
        if changed:
            rows = [_row(name, point) for name, point in self._points.items()]
            self._said.content = html.block("readings", html.table(rows))

    def _show_alarms(self, events: Any) -> None:
        raised = {event.name: event for event in events}
        for gone in self._alarms.keys() - raised.keys():
            self._alarms.pop(gone).close()
        for place, (name, event) in enumerate(raised.items()):
            if name not in self._alarms:
                with self._folder:
                    self._alarms[name] = Alarm(self._server, self._robot, name, 10 + place)
            self._alarms[name].show(event)


class Alarm:
    """One that is raised or not acknowledged, with what can be done about it."""

    def __init__(self, server: viser.ViserServer, robot: Robot, name: str, order: float):
        self._robot, self._name = robot, name
        self._said = server.gui.add_html("", order=order)
        self._actions = server.gui.add_button_group("", tuple(_KINDS), order=order + 0.5)
        self._actions.on_click(self._command)

    def close(self) -> None:
        self._said.remove()
        self._actions.remove()

    def show(self, event: Any) -> None:
        colour = "#e53935" if event.after == Event.ACTIVE and not event.shelved else "#ef6c00"
        marks = ["acknowledged" if event.acknowledged else "not acknowledged"]
        marks += [name for name in ("latched", "shelved") if getattr(event, name)]
        value = "" if math.isnan(event.value) else f" {event.value:.4g} {_unit(event.unit)}"
        limit = "" if math.isnan(event.limit) else f" (limit {event.limit:.4g})"
        head = f'<b style="color:{colour}">{_STATES.get(event.after, "?")}</b> {html.text(event.name + value + limit)}'
        self._said.content = html.block("alarm", head, html.note(f"{event.message} {', '.join(marks)}"))

    def _command(self, click: Any) -> None:
        word = click.target.value
        try:
            self._robot.command_alarm(
                self._name, _KINDS[word], SHELVED_S if word == "shelve" else 0.0, f"page, browser {click.client_id}"
            )
        except PerceptionError as error:
            click.client.add_notification(f"{word}: refused", str(error), color="red")


def _unit(ucum: str) -> str:
    """UCUM's code as people write it."""
    return {"1": "", "Cel": "°C", "[degF]": "°F"}.get(ucum, ucum.strip("[]"))


def _row(name: str, point: Point) -> tuple[str, ...]:
    reading = point.reading
    known = not math.isnan(reading.value)
    number = f"{reading.value:.4g} {_unit(reading.unit)}" if known else _REASONS.get(reading.reason, "")
    value = reading.text or number
    colour = _QUALITY.get(reading.quality, "#888")
    zone = f" {reading.zone}" if reading.zone else ""
    return (
        html.text(name),
        f'<b style="color:{colour}">{html.text(value + zone)}</b>',
        html.line_svg(point.values, reading.limit),
    )
