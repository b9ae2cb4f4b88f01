"""`python -m qwen3vl_ros.web`, `ros2 run qwen3vl_ros page`: the page of a node that runs somewhere.

Topics are remapped as of any ROS program: --ros-args -r image_raw:=/camera/color/image_raw.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import Callable, Sequence

from qwen3vl_ros.threads import settle
from qwen3vl_ros.types import InvalidInput, PerceptionError

PORT = 7860


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What the page can be told, here and by `make live`."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 opens the page to the network, for anybody who can reach it",
    )
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--namespace", default="qwen3vl", help="of the node")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status: 2 bad arguments, 1 no ROS graph."""
    args = list(sys.argv[1:] if args is None else args)
    own = args[: args.index("--ros-args")] if "--ros-args" in args else args
    parser = options(argparse.ArgumentParser(prog="page", description=__doc__))
    parser.add_argument("--cameras", default="", help="as the node's parameter cameras, separated by commas")
    given = parser.parse_args(own)
    logging.basicConfig(level=logging.WARNING, format="page: %(message)s")
    stop = Stop()
    settle()
    try:
        return run(given, [name for part in given.cameras.split(",") if (name := part.strip())], stop)
    except InvalidInput as error:
        print(f"page: {error}", file=sys.stderr)
        return 2
    except PerceptionError as error:
        print(f"page: {error}", file=sys.stderr)
        return 1


class Stop:
    """Whether to stop: by SIGINT and SIGTERM from its making on, or by set(). A threading.Event would not do: a handler that sets one
    while its own thread waits for it may wait for ever.
    """

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.set())

    def set(self) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


def run(given: argparse.Namespace, cameras: Sequence[str], is_over: Callable[[], bool]) -> int:
    """Serve until is_over()."""
    try:
        from qwen3vl_ros.web.server import serve
    except ModuleNotFoundError as error:
        raise PerceptionError(
            f"{error.name} is not installed; pip install 'qwen3vl_ros[web]', or `make live`"
        ) from None
    from qwen3vl_ros.web.page import Page
    from qwen3vl_ros.web.robot import Robot
    from qwen3vl_ros.web.uploads import MOST_MB

    server = serve(given.host, given.port, "qwen3vl_ros", MOST_MB)
    robot = Robot(given.namespace, cameras)
    try:
        page = Page(server, robot)
        print(
            f"page: http://{'localhost' if given.host in ('127.0.0.1', '::1') else given.host}:{server.get_port()}",
            flush=True,
        )
        page.run(is_over)
    finally:
        robot.close()
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
