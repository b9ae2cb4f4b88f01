"""What config/foxglove.json shows: the topics and fields of its panels, and whether a panel can show a type."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

LAYOUT = Path(__file__).parents[2] / "config" / "foxglove.json"
# Of the inspection file, which the recorded part of the demo has none of.
ONLY_LIVE = {"/qwen3vl/perception/readings", "/qwen3vl/perception/alarms"}
TYPES = {
    "Image": {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"},
    "3D": {"visualization_msgs/msg/MarkerArray", "geometry_msgs/msg/PoseArray", "sensor_msgs/msg/CameraInfo"},
    "DiagnosticSummary": {"diagnostic_msgs/msg/DiagnosticArray"},
}


def shown(in_demo: bool) -> list[tuple[str, str, str]]:
    """(panel, topic, field) of the panels that are laid out, with the camera's tab of demo.mcap or of live use."""
    layout = json.loads(LAYOUT.read_text())
    panels, left = [], [layout["layout"]]
    while left:
        at = left.pop()
        if isinstance(at, dict):
            left += [at["first"], at["second"]]
        elif at.startswith("Tab!"):
            tabs = layout["configById"][at]["tabs"]
            other = "live" if in_demo else "demo.mcap"
            left += [tab["layout"] for tab in tabs if tab["title"] != other]
        else:
            panels.append(at)
    assert len(panels) == len(set(panels)), "a panel is laid out once"
    return [(panel, *_split(path)) for panel in panels for path in _paths(panel, layout["configById"][panel])]


def _paths(panel: str, config: dict) -> list[str]:
    kind = panel.split("!")[0]
    if kind == "Image":
        return [config["imageMode"]["imageTopic"], config["imageMode"]["calibrationTopic"], *config["topics"]]
    if kind == "3D":
        return list(config["topics"])
    if kind == "Plot":
        return [series["value"] for series in config["paths"]]
    return [config["topicToRender"] if kind == "DiagnosticSummary" else config["topicPath"]]


def _split(path: str) -> tuple[str, str]:
    topic, _, field = path.partition(".")
    return topic, field


def check(panel: str, type_name: str, field: str) -> None:
    """That the panel can show a message of that type, and that it has the field."""
    kind = panel.split("!")[0]
    assert type_name in TYPES.get(kind, {type_name}), f"{panel} cannot show {type_name}"
    if field:
        package, _, name = type_name.split("/")
        message = getattr(importlib.import_module(f"{package}.msg"), name)
        assert message.get_fields_and_field_types().get(field) in ("double", "float"), f"{panel} plots {field}"
