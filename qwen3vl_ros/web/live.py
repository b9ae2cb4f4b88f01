"""`make live`: a simulated arm and its camera, a plant panel, the perception node and the page, each a process of its own.

The page answers at once; the node's model is loaded meanwhile. Status 0: stopped. 1: a process died. 2: bad arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Sequence

import yaml

from qwen3vl_ros.demo.graph import own_graph
from qwen3vl_ros.demo.processes import Children, node_command
from qwen3vl_ros.domain import domain_of
from qwen3vl_ros.sim.panel import Panel
from qwen3vl_ros.sim.shots import WORLD_FRAME
from qwen3vl_ros.sim.workcell import bench_scene
from qwen3vl_ros.threads import settle
from qwen3vl_ros.types import InvalidInput, PerceptionError
from qwen3vl_ros.web.__main__ import Stop, options, run

TABLE, PANEL = "table", "panel"  # the cameras
ARM_FRAME = "arm_link0"


def main(args: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    given = _options(args)
    settle()
    stop = Stop()
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
    parser.add_argument("--table", action="store_true", help="table-tops, another now and then, in place of the arm")
    parser.add_argument("--rate", type=float, default=10.0, help="camera frames a second")
    parser.add_argument("--seed", type=int, default=13, help="of the first table-top")
    return parser.parse_args(args)


def _start(children: Children, given: argparse.Namespace, folder: Path) -> None:
    """One node with two cameras: one sees the arm's table, the other a plant panel with an alarm that rises and clears."""
    clock = {"use_sim_time": not given.table}  # the arm's world runs as fast as the machine can
    module, scene = "sim_robot", {}
    if given.table:
        module, scene = "sim_camera", {"scene_every": 60.0, "motion": "one_moving", "seed": given.seed}
    command = node_command(f"qwen3vl_ros.node.{module}", given.namespace, rate=given.rate, **scene)
    for topic in ("image_raw", "depth/image_raw", "camera_info"):
        command += ["-r", f"{topic}:={TABLE}/{topic}"]
    children.start(TABLE, command)
    panel = {"panel": True, "width": 960, "height": 720, "rate": 2.0, "frame": f"{PANEL}_color_optical_frame"} | clock
    children.start(PANEL, node_command("qwen3vl_ros.node.sim_camera", f"{given.namespace}/{PANEL}", **panel))
    points = folder / "points.yaml"
    points.write_text(_points(), encoding="utf-8")
    node = {"model": given.model, "device": given.device, "target_frame": WORLD_FRAME, "max_age": 5.0} | clock
    node |= {"cameras": [TABLE, PANEL], "inspection.file": points, "inspection.directory": folder / "inspection"}
    node |= {f"camera.{PANEL}.{name}": False for name in ("enabled", "use_depth")}
    if not given.table:
        node |= {"robot_frame": ARM_FRAME, "targets": [o.label for o in bench_scene().objects]}
    if given.targets:
        node["targets"] = given.targets
    children.start("node", node_command("qwen3vl_ros.node.perception.main", given.namespace, **node))


def _points() -> str:
    """The plant panel's points that the embedded model can read, of the camera that shows it."""
    whole = yaml.safe_load(Panel().inspection_yaml())["points"]
    kept = {name: point | {"camera": PANEL} for name, point in whole.items() if point["kind"] in ("gauge", "presence")}
    return yaml.safe_dump({"points": kept}, allow_unicode=True)


def _watch(children: Children, stop: Stop) -> None:
    """Until a process has died, which ends the others."""
    while not stop():
        time.sleep(0.5)
        try:
            children.check()
        except PerceptionError:
            stop.set()


if __name__ == "__main__":
    sys.exit(main())
