"""`make live`: the simulated camera, the perception node and the page, in one command, each a process of its own.

The page answers at once; the node's model is loaded meanwhile. Status 0: stopped. 1: a process died. 2: bad arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Sequence

import yaml

from qwen3vl_ros.demo.graph import own_graph
from qwen3vl_ros.demo.processes import Children
from qwen3vl_ros.domain import domain_of
from qwen3vl_ros.sim.panel import Panel
from qwen3vl_ros.sim.shots import WORLD_FRAME
from qwen3vl_ros.threads import settle
from qwen3vl_ros.types import InvalidInput, PerceptionError
from qwen3vl_ros.web.__main__ import options, run, stopped_by_signals

TABLE, PANEL = "table", "panel"  # the cameras


def main(args: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    given = _options(args)
    settle()
    stop = stopped_by_signals()
    try:
        domain = os.environ.get("ROS_DOMAIN_ID")
        own_graph(domain_of(domain) if domain else None)
        with tempfile.TemporaryDirectory(prefix="qwen3vl_live_") as folder, Children(Path(folder)) as children:
            _start(children, given, Path(folder))
            print(f"live: ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}, this machine only; logs in {folder}", flush=True)
            threading.Thread(target=_watch, args=(children, stop), daemon=True).start()
            status = run(given, [TABLE, PANEL], stop)
            children.check()
            return status
    except InvalidInput as error:
        print(f"live: {error}", file=sys.stderr)
        return 2
    except PerceptionError as error:
        print(f"live: {error}", file=sys.stderr)
        return 1


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make live", description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options(parser)
    parser.add_argument("--model", default="", help="checkpoint directory or hub id; empty is the embedded model")
    parser.add_argument("--device", default="", help="auto, cpu, cuda or cuda:N; empty is the node's default")
    parser.add_argument("--targets", nargs="+", default=[], metavar="PHRASE", help="what to look for at first")
    parser.add_argument("--rate", type=float, default=12.0, help="camera frames a second")
    parser.add_argument("--scene-seconds", type=float, default=60.0, help="another table-top after this long; 0: never")
    parser.add_argument(
        "--motion", choices=("static", "one_moving", "all_moving"), default="one_moving", help="what moves"
    )
    parser.add_argument("--seed", type=int, default=13, help="of the first scene")
    return parser.parse_args(args)


def _start(children: Children, given: argparse.Namespace, folder: Path) -> None:
    """One node with two cameras: a table-top, and a plant panel with an alarm that rises and clears."""
    table = {"rate": given.rate, "scene_every": given.scene_seconds, "motion": given.motion, "seed": given.seed}
    panel = {"panel": "true", "width": 960, "height": 720, "rate": 2.0}
    for name, scene in ((TABLE, table), (PANEL, panel)):
        frame = {"frame": f"{name}_color_optical_frame"}
        children.start(name, _command("qwen3vl_ros.node.sim_camera", f"{given.namespace}/{name}", **frame, **scene))
    points = folder / "points.yaml"
    points.write_text(_points(), encoding="utf-8")
    node = {"model": given.model, "device": given.device, "target_frame": WORLD_FRAME, "max_age": 5.0}
    node |= {"cameras": f"[{TABLE}, {PANEL}]", "inspection.file": points, "inspection.directory": folder / "inspection"}
    node |= {f"camera.{PANEL}.{name}": "false" for name in ("enabled", "use_depth")}
    if given.targets:
        node["targets"] = json.dumps(given.targets, ensure_ascii=False)
    children.start("node", _command("qwen3vl_ros.node.perception.main", given.namespace, **node))


def _points() -> str:
    """The plant panel's points that the embedded model can read, of the camera that shows it."""
    whole = yaml.safe_load(Panel().inspection_yaml())["points"]
    kept = {name: point | {"camera": PANEL} for name, point in whole.items() if point["kind"] in ("gauge", "presence")}
    return yaml.safe_dump({"points": kept}, allow_unicode=True)


def _command(module: str, namespace: str, **parameters: Any) -> list[str]:
    command = [sys.executable, "-m", module, "--ros-args", "-r", f"__ns:=/{namespace}"]
    for name, value in parameters.items():
        if value != "":
            command += ["-p", f"{name}:={value}"]
    return command


def _watch(children: Children, stop: threading.Event) -> None:
    """Until a process has died, which ends the others."""
    while not stop.wait(0.5):
        try:
            children.check()
        except PerceptionError:
            stop.set()


if __name__ == "__main__":
    sys.exit(main())
