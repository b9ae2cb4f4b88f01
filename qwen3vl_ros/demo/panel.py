"""The demo's plant panel: a dial passes its red line and comes back, and the alarm's life is printed as it is heard.

A node and a camera of their own, in the namespace `plant`, after those of the table-tops have ended.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, Callable

from qwen3vl_ros.demo.processes import Children, node_command
from qwen3vl_ros.sim.panel import Panel
from qwen3vl_ros.types import PerceptionError

NAMESPACE, ALARM = "plant", "boiler_pressure/high"
LOAD_PATIENCE_S = 300.0
_STATES = ("normal", "pending", "active", "clearing")
_ONLY = ("boiler_pressure",)  # of the panel's points: the alarm's life is short, and looks should be many


def watch_panel(
    out: Path, seconds: float, model: str, device: str, say: Callable[[str], None], on_wait: Callable[[], None]
) -> dict[str, Any]:
    """What was heard: the steps of the alarm and the readings at them. Raises PerceptionError where a process dies or nothing comes.

    seconds: how long the panel is watched at most. out: gets inspection/, with evidence, journal and logs.
    """
    from qwen3vl_ros.msg import Event, Reading
    from qwen3vl_ros.node.client import LATCHED, Client, decoded

    folder = out / "inspection"
    folder.mkdir(parents=True, exist_ok=True)
    points = folder / "points.yaml"
    points.write_text(_points(), encoding="utf-8")
    steps: list[dict[str, Any]] = []
    readings: list[Any] = []
    with Children(folder) as children:
        client = Client("demo_panel", NAMESPACE, lambda: (children.check(), on_wait()) and None)
        try:
            client.subscribe("perception/readings", Reading, lambda m: readings.append(decoded(m, Reading)))
            heard = functools.partial(_heard, readings, steps, say)
            client.subscribe(
                "perception/events", Event, lambda m: heard(decoded(m, Event)), LATCHED
            )  # each is said once
            node = {"model": model, "device": device, "enabled": False, "use_depth": False, "max_age": 5.0}
            node |= {"inspection.file": points, "inspection.directory": folder}
            children.start("panel_node", node_command("qwen3vl_ros.node.perception.main", NAMESPACE, **node))
            children.start(
                "panel_camera",
                node_command("qwen3vl_ros.node.sim_camera", NAMESPACE, panel=True, width=960, height=720),
            )
            if not client.spin(LOAD_PATIENCE_S, lambda: bool(readings)):
                raise PerceptionError(
                    f"no reading of the panel came within {LOAD_PATIENCE_S:.0f} s; see {children.log_path('panel_node')}"
                )
            say(f"plant panel: the pressure is {_shown(readings[0])}; an alarm is due above 1.6 MPa for 2 s")
            began = time.monotonic()
            client.spin(seconds, lambda: any(s["step"] == "clearing -> normal" for s in steps))
            watched_s = time.monotonic() - began
        finally:
            client.close()
    if not steps:
        say(f"  no alarm rose within {watched_s:.0f} s; is the machine too slow? give it more --panel-seconds")
    good = sum(r.quality == 0 for r in readings)
    return {"readings": len(readings), "good": good, "watched_s": round(watched_s, 1), "steps": steps}


def _heard(readings: list[Any], steps: list[dict[str, Any]], say: Callable[[str], None], event: Any) -> None:
    step = f"{_STATES[event.before]} -> {_STATES[event.after]}"
    steps.append(
        {
            "name": event.name,
            "step": step,
            "value": event.value,
            "message": event.message,
            "evidence": event.evidence_uri,
        }
    )
    say(f"  {event.name}: {step:18} {event.message}")
    if step == "pending -> active":
        say(f"  压力表指针超过红色警戒线，数值为{event.value:.1f}MPa")


def _shown(reading: Any) -> str:
    return f"{reading.value:.2f} ± {reading.uncertainty:.3f} {reading.unit}" + (
        f" in the {reading.zone} zone" if reading.zone else ""
    )


def _points() -> str:
    """The panel's own file without the other points."""
    import yaml

    whole = yaml.safe_load(Panel().inspection_yaml())
    kept = {name: point | {"period": 0.5} for name, point in whole["points"].items() if name in _ONLY}
    return yaml.safe_dump({"points": kept}, allow_unicode=True)
