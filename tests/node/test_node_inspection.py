"""Inspection over DDS, as shipped: the simulated plant panel, the node, the embedded model, config/inspection.yaml shortened."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlparse

from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import until
from test_node_embedded import MODEL, start_camera, start_node  # noqa: F401

from qwen3vl_ros.msg import Event, EventArray, Reading
from qwen3vl_ros.node.perception.inspecting import EVENTS
from qwen3vl_ros.sim.panel import Panel
from qwen3vl_ros.srv import AlarmCommand, Inspect, Report, SetWatch

NODE = "/qwen3vl/perception"
PATIENCE_S = 240.0  # of a machine that does other things as well
POINTS = """points:
  boiler_pressure:
    kind: gauge
    quantity: pressure
    unit: MPa
    range: [0, 2.5]
    sweep: 270
    check: geometry
    roi: {roi}
    zones: {{red: [1.6, 2.5]}}
    alarms:
      high: {{above: {limit}, deadband: 0.05, severity: 800, latch: true, max_gap: 120}}
    period: 0.5
"""


def write(path: Path, limit: float) -> Path:
    path.write_text(POINTS.format(roi=list(Panel().rois_xyxy_px["boiler_pressure"]), limit=limit))
    return path


def test_a_dial_that_passes_its_limit_is_read_raises_an_alarm_and_is_reported(graph, tmp_path):
    points, kept = write(tmp_path / "points.yaml", 0.9), tmp_path / "kept"
    node = start_node(
        graph,
        enabled="false",
        use_depth="false",
        max_age=20.0,
        diagnostics_period=0.5,
        **{"inspection.file": points, "inspection.directory": kept, "inspection.after": 0.0},
    )
    start_camera(graph, panel="true", width=960, height=720, rate=2.0)
    # The pressure is beyond the limit from the start: its alarm has risen before anybody listens, as on a slow machine.
    node.logged("boiler_pressure/high: pending -> active", PATIENCE_S)
    readings, events = graph.listen(f"{NODE}/readings", Reading), graph.listen(f"{NODE}/events", Event, EVENTS)
    truths = graph.listen("/qwen3vl/sim_camera/ground_truth_readings", Reading)

    def pairs():
        """Readings with the truth of their images."""
        said = {(t.header.stamp.sec, t.header.stamp.nanosec): t for t in truths if t.point == "boiler_pressure"}
        stamps = [(r, said.get((r.header.stamp.sec, r.header.stamp.nanosec))) for r in readings]
        return [(r, t) for r, t in stamps if t and r.quality == Reading.GOOD]

    read, true = until(pairs, PATIENCE_S, "a reading")[0]
    assert abs(read.value - true.value) < 0.05 and read.uncertainty < 0.05
    assert (read.unit, read.kind, read.quantity) == ("MPa", "gauge", "pressure") and read.bbox.size_x > 100

    rise = until(lambda: [e for e in events if e.after == Event.ACTIVE], PATIENCE_S, "the alarm that rose before")[0]
    assert [(e.before, e.after) for e in events[:2]] == [(Event.NORMAL, Event.PENDING), (Event.PENDING, Event.ACTIVE)]
    assert rise.name == "boiler_pressure/high" and rise.severity == 800 and rise.latched and not rise.acknowledged
    evidence = json.loads(Path(urlparse(rise.evidence_uri).path).read_text())
    assert evidence["pictures"] and all(
        (Path(urlparse(rise.evidence_uri).path).parent / p["file"]).is_file() for p in evidence["pictures"]
    )
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    alarms = graph.listen(f"{NODE}/alarms", EventArray, latched)
    until(
        lambda: [a for a in alarms if [e.id for e in a.events] == [rise.id]],
        PATIENCE_S,
        "the list, also for who comes late",
    )

    command = AlarmCommand.Request(
        name="boiler_pressure/high", command=AlarmCommand.Request.ACKNOWLEDGE, operator_name="anna"
    )
    done = graph.call(AlarmCommand, f"{NODE}/alarm_command", command, PATIENCE_S)
    assert done.success and done.event.acknowledged and "anna" in done.event.message
    refused = graph.call(AlarmCommand, f"{NODE}/alarm_command", AlarmCommand.Request(name="no/such"), PATIENCE_S)
    assert not refused.success and "boiler_pressure/high" in refused.message

    looked = graph.call(
        Inspect, f"{NODE}/inspect", Inspect.Request(points=["boiler_pressure"], timeout=200.0), PATIENCE_S
    )
    assert looked.success and looked.readings[0].point == "boiler_pressure", looked.message
    assert "no point" in graph.call(Inspect, f"{NODE}/inspect", Inspect.Request(points=["x"]), PATIENCE_S).message

    # another limit, without a restart; and nonsense, which changes nothing
    before = len(readings)
    write(points, 2.4)
    node.logged("inspection file read again", PATIENCE_S)
    until(lambda: [r for r in readings[before:] if r.limit == 2.4], PATIENCE_S, "the new limit")
    points.write_text("points: {boiler: {kind: gouge}}")
    node.logged("the old points stay", PATIENCE_S)

    watch = SetWatch.Request(name="lamp", question="Is there a red ball?", period=0.5)
    assert graph.call(SetWatch, f"{NODE}/set_watch", watch, PATIENCE_S).success
    until(
        lambda: [r for r in readings if r.point == "lamp" and r.quality == Reading.GOOD],
        PATIENCE_S,
        "an answer of the watch",
    )
    for bad, words in (
        (SetWatch.Request(name="a b", question="x?"), "name"),
        (SetWatch.Request(name="nobody"), "no watch"),
    ):
        reply = graph.call(SetWatch, f"{NODE}/set_watch", bad, PATIENCE_S)
        assert not reply.success and words in reply.message
    assert graph.call(SetWatch, f"{NODE}/set_watch", SetWatch.Request(name="lamp"), PATIENCE_S).success

    report = graph.call(Report, f"{NODE}/report", Report.Request(), PATIENCE_S)
    assert report.success, report.message
    folder = Path(urlparse(report.uri).path)
    told = json.loads((folder / "report.json").read_text())
    assert told["points"]["boiler_pressure"]["looks"] > 1 and told["events"][0]["name"] == "boiler_pressure/high"
    assert {p.name for p in folder.iterdir()} == {"report.md", "readings.csv", "report.json"}
    node.interrupt()
    assert node.status() == 0


def test_an_inspection_file_that_is_none_leaves_the_node_unconfigured_and_says_the_line(graph, tmp_path):
    path = tmp_path / "points.yaml"
    path.write_text("points:\n  a: {kind: gauge, look_for: gauge, unit: furlong, range: [0, 1]}\n")
    node = start_node(graph, **{"inspection.file": path})
    node.logged(f"{path}:2:", PATIENCE_S)
