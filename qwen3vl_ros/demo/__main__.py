"""`python -m qwen3vl_ros.demo`: the simulated camera and the perception node, measured from a third process.

Starts both on a ROS domain of its own, drives them over several table-tops, changes the prompt and asks for a
single look on the way, and compares every answer with the truth of its own image. Then a plant panel is watched, and
a simulated arm carries out orders in words. Writes videos, pictures, results.json and demo.mcap. Status 0: something was detected. 1: nothing was, or a process died. 2: bad
arguments. 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys
from typing import Sequence

from qwen3vl_ros.config import Config
from qwen3vl_ros.demo.graph import own_graph
from qwen3vl_ros.demo.output import Output
from qwen3vl_ros.demo.processes import Interrupts
from qwen3vl_ros.demo.run import Demo
from qwen3vl_ros.domain import domain_of
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.threads import settle
from qwen3vl_ros.types import InvalidInput, PerceptionError


def main(args: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    options = _options(args)
    settle()
    own_graph(options.domain)
    interrupts = Interrupts()
    try:
        with Output(options.output) as output, survivable("in the demo"):
            return Demo(options, output, interrupts).run()
    except InvalidInput as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except PerceptionError as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; every process was stopped", file=sys.stderr)
        return 130


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_ros.demo",
        description=__doc__.split("\n\n")[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=_positive, default=30.0, help="camera time")
    parser.add_argument("--scene-seconds", type=_positive, default=5.0, help="another table-top after this long")
    parser.add_argument("--rate", type=_positive, default=8.0, help="camera frames a second")
    parser.add_argument(
        "--motion",
        choices=("static", "one_moving", "all_moving"),
        default="one_moving",
        help="what moves: nothing, one object, or the camera",
    )
    parser.add_argument(
        "--objects", type=int, choices=range(7), default=0, help="objects in a scene, 0 leaves it to chance"
    )
    parser.add_argument(
        "--seed", type=_demo_seed, default=13, help="of the first scene; training uses 1,000,000 and above"
    )
    parser.add_argument(
        "--targets", nargs="+", default=list(Config().targets), help="what to look for", metavar="PHRASE"
    )
    parser.add_argument(
        "--panel-seconds",
        type=float,
        default=45.0,
        help="then a plant panel is watched for so long at most; 0 leaves it out",
    )
    parser.add_argument("--no-arm", dest="arm", action="store_false", help="leave out the arm that carries out orders")
    parser.add_argument("--model", default="", help="checkpoint directory or hub id; empty is the embedded model")
    parser.add_argument("--device", default="", help="auto, cpu, cuda or cuda:N; empty is the node's default")
    parser.add_argument("--output", default="demo_output", help="folder for everything written")
    parser.add_argument(
        "--readme", default="", help="also write this run into README.md's marks and docs/demo.png beside it"
    )
    parser.add_argument("--domain", type=_domain, default=None, help="ROS_DOMAIN_ID; by default one of its own")
    return parser.parse_args(args)


def _demo_seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} must be 0 to 999999: from 1000000 on the embedded model was trained")
    return value


def _domain(text: str) -> int:
    try:
        return domain_of(text, "domain")
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
