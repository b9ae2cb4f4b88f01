"""The tools over the Model Context Protocol, on standard input and output or on HTTP of this machine alone.

Knows the protocol and nothing of ROS: what a tool does is the Robot's. Source: modelcontextprotocol.io, 2025-11-25 and 2026-07-28.
"""

from __future__ import annotations

import base64
import functools
import logging
import socket
import sys
import threading
from contextlib import closing
from typing import Any

import anyio
import anyio.to_thread
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from qwen3vl_ros.tools.catalogue import INSTRUCTIONS, TOOLS, Tool, as_text, visible
from qwen3vl_ros.tools.robot import Caller, Robot, Told
from qwen3vl_ros.types import InvalidInput, PerceptionError

LOOPBACK = "127.0.0.1"
_log = logging.getLogger(__name__)


def listed(tool: Tool) -> types.Tool:
    """A tool as the protocol describes it."""
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments,
        output_schema=tool.result,
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.read_only,
            open_world_hint=False,
        ),
    )


def content(told: Told) -> types.CallToolResult:
    """Data as structure and as text, pictures as images."""
    images = [
        types.ImageContent(type="image", data=base64.b64encode(jpeg).decode(), mime_type="image/jpeg")
        for jpeg in told.pictures
    ]
    text = [types.TextContent(type="text", text=as_text(told.data))]
    return types.CallToolResult(content=[*text, *images], structured_content=dict(told.data))


def failed(message: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=message)], is_error=True)


class Tools:
    """Answers the protocol's requests by a Robot's calls, each on a thread of its own."""

    def __init__(self, robot: Robot):
        self._robot = robot
        # However many calls wait, there is a thread to cancel on.
        self._for_calls, self._to_cancel = anyio.CapacityLimiter(32), anyio.CapacityLimiter(4)

    async def list(self, context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[listed(tool) for tool in TOOLS.values()])

    async def call(self, context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        """On a thread of its own. Who cancels the request, or goes away, cancels what it asked for."""
        name, gone, said = params.name, threading.Event(), []
        caller = Caller(gone.is_set, said.append)
        work = functools.partial(self._robot.call, name, params.arguments or {}, caller)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._report, context.session, said)
            try:
                limiter = self._to_cancel if name == "cancel" else self._for_calls
                result = content(await anyio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True))
            except PerceptionError as error:
                result = failed(str(error))
            except Exception:  # a defect: told without its insides, which are in the log
                _log.exception("tool %r failed", name)
                result = failed(f"{name} failed by a defect of this server; its log says more")
            finally:
                gone.set()
                tasks.cancel_scope.cancel()
        return result

    @staticmethod
    async def _report(session: Any, said: list[str]) -> None:
        """Tells the newest of what was said, as progress."""
        told = 0
        while True:
            if told < len(said):
                told = len(said)
                await session.report_progress(float(told), message=visible(said[-1]))
            await anyio.sleep(0.1)


def server_of(robot: Robot, version: str = "") -> Server:
    tools = Tools(robot)
    return Server(
        "qwen3vl_ros", version=version, instructions=INSTRUCTIONS, on_list_tools=tools.list, on_call_tool=tools.call
    )


def serve_stdio(robot: Robot) -> None:
    """Until standard input ends."""
    server = server_of(robot)

    async def run() -> None:
        async with stdio_server() as streams:
            await server.run(*streams, server.create_initialization_options())

    anyio.run(run)


def serve_http(robot: Robot, port: int) -> None:
    """On this machine's loopback, until interrupted. Raises InvalidInput where the port is taken."""
    with closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise InvalidInput(f"--port {port} cannot be had ({error.strerror}); give another, or 0 for any") from error
        app = server_of(robot).streamable_http_app(host=LOOPBACK)
        print(f"tools at http://{LOOPBACK}:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listening])
