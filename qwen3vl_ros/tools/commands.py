"""`qwen3vl tools` prints the tools, `qwen3vl mcp` serves them. Needs ROS and the protocol's SDK where it serves, and not before."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys

from qwen3vl_ros.tools.catalogue import openai_functions
from qwen3vl_ros.types import InvalidInput, PerceptionError


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the commands to the parser of `qwen3vl`."""
    tools = commands.add_parser(
        "tools",
        help="the node's services as OpenAI functions: JSON for the field `tools` of a request",
        description="Prints a JSON array for the field `tools` of a Chat Completions request. qwen3vl_ros.tools.robot.Robot "
        "carries the calls out (docs/tools.md).",
    )
    tools.set_defaults(run=_tools)
    mcp = commands.add_parser(
        "mcp",
        help="serve the node's services as tools of the Model Context Protocol",
        description="Serves on standard input and output, as hosts start it, or with --http on this machine's loopback at "
        "http://127.0.0.1:PORT/mcp. A perception node answers, in the ROS domain that ROS_DOMAIN_ID names.",
    )
    mcp.add_argument("--http", action="store_true", help="streamable HTTP instead of standard input and output")
    mcp.add_argument("--port", type=int, default=8765, help="of HTTP (default: 8765; 0: any that is free)")
    mcp.add_argument("--namespace", default="qwen3vl", help="of the perception node (default: qwen3vl)")
    mcp.add_argument("--node", default="perception", help="its name (default: perception)")
    mcp.add_argument(
        "--approval",
        choices=["person", "host"],
        default="person",
        help="who is asked before the arm moves: the person at the client (default), or the host asks for itself",
    )
    mcp.set_defaults(run=_mcp)


def _tools(arguments: argparse.Namespace) -> int:
    print(json.dumps(openai_functions(), indent=2, ensure_ascii=False))
    return 0


def _mcp(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.port <= 65535:
        raise InvalidInput(f"--port {arguments.port} must be 0 to 65535")
    try:
        from qwen3vl_ros.tools.robot import Robot
    except ImportError as error:
        raise PerceptionError(
            f"{error}. `qwen3vl mcp` needs ROS 2 and the built interfaces: source the workspace"
        ) from error
    try:
        from qwen3vl_ros.tools.server import listen, serve_http, serve_stdio
    except ImportError as error:
        raise PerceptionError(
            f"{error}. `qwen3vl mcp` needs the SDK: pip install 'mcp>=2.3,<3', or the extra mcp"
        ) from error
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s", force=True)
    listening = listen(arguments.port) if arguments.http else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # through the end below: what moves is told to stop
    robot = Robot(arguments.namespace, arguments.node)
    try:
        if listening:
            serve_http(robot, arguments.approval, listening)
        else:
            serve_stdio(robot, arguments.approval)
    finally:
        robot.close()
    return 0
