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
from typing import Any

import anyio
import anyio.to_thread
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from qwen3vl_ros.tools.catalogue import INSTRUCTIONS, TOOLS, Tool, as_text, visible
from qwen3vl_ros.tools.robot import Caller, Robot, Told
from qwen3vl_ros.types import InvalidInput, PerceptionError

LOOPBACK = "127.0.0.1"
_log = logging.getLogger(__name__)


class NotApproved(PerceptionError):
    """Nobody said yes to what moves the arm."""


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
            idempotent_hint=tool.read_only or tool.idempotent,
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
    """Answers the protocol's requests by a Robot's calls, each on a thread of its own.

    approval: "person", who is asked through the client before anything moves, or "host", which asks for itself.
    """

    def __init__(self, robot: Robot, approval: str):
        self._robot, self._approval = robot, approval
        # However many calls wait, there is a thread to cancel on.
        self._for_calls, self._to_cancel = anyio.CapacityLimiter(32), anyio.CapacityLimiter(4)

    async def list(self, context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[listed(tool) for tool in TOOLS.values()])

    async def call(
        self, context: Any, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        name, arguments = params.name, params.arguments or {}
        try:
            if name in TOOLS and TOOLS[name].approved and self._approval == "person":
                plan = TOOLS[name].check(arguments)
                shown = await anyio.to_thread.run_sync(
                    self._robot.plan_in_words, plan["plan_id"], plan["revision"], limiter=self._to_cancel
                )
                answer = await approval(context, params, shown)
                if isinstance(answer, types.InputRequiredResult):
                    return answer
            return content(await self._perform(context, name, arguments))
        except PerceptionError as error:
            return failed(str(error))
        except MCPError:
            raise
        except Exception:  # a defect: told without its insides, which are in the log
            _log.exception("tool %r failed", name)
            return failed(f"{name} failed by a defect of this server; its log says more")

    async def _perform(self, context: Any, name: str, arguments: dict[str, Any]) -> Told:
        """On a thread of its own. Who cancels the request, or goes away, cancels what it asked for."""
        gone, said = threading.Event(), []
        approves = lambda plan: True  # by the person who was asked, or by the host
        work = functools.partial(self._robot.call, name, arguments, Caller(gone.is_set, said.append, approves))
        limiter = self._to_cancel if name == "cancel" else self._for_calls
        failure = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._report, context.session, said)
            try:
                told = await anyio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
            except Exception as error:  # as it is, and not in a group of one
                failure = error
            finally:
                gone.set()
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return told

    @staticmethod
    async def _report(session: Any, said: list[str]) -> None:
        """Tells the newest of what was said, as progress."""
        told = 0
        while True:
            if told < len(said):
                told = len(said)
                await session.report_progress(float(told), message=visible(said[-1]))
            await anyio.sleep(0.1)


_FORM = {
    "type": "object",
    "properties": {
        "approve": {"type": "boolean", "title": "Move the arm", "description": "yes: the plan is carried out"}
    },
    "required": ["approve"],
}
_ASKED = "approval"


async def approval(context: Any, params: types.CallToolRequestParams, plan: str) -> types.InputRequiredResult | None:
    """None once the person at the client has approved. Raises NotApproved.

    The newer protocol has no requests of a server: there the call ends with the question, and comes again with the answer.
    """
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        raise NotApproved(
            "nothing moved: a person must approve the plan, and this client has no way to ask one (elicitation). Where the client "
            "itself asks before a destructive tool, start the server with --approval host"
        )
    message = f"{plan}\n\nShall the arm do this?"
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        answer = await context.session.elicit_form(message, _FORM, context.request_id)
    elif (answer := (params.input_responses or {}).get(_ASKED)) is None:
        form = types.ElicitRequestFormParams(message=message, requested_schema=_FORM)
        return types.InputRequiredResult(input_requests={_ASKED: types.ElicitRequest(params=form)})
    if answer.action != "accept" or (answer.content or {}).get("approve") is not True:
        raise NotApproved("nothing moved: the person who was asked did not approve the plan")
    return None


def server_of(robot: Robot, approval: str) -> Server:
    tools = Tools(robot, approval)
    return Server("qwen3vl_ros", instructions=INSTRUCTIONS, on_list_tools=tools.list, on_call_tool=tools.call)


def serve_stdio(robot: Robot, approval: str) -> None:
    """Until standard input ends."""
    server = server_of(robot, approval)

    async def run() -> None:
        async with stdio_server() as streams:
            await server.run(*streams, server.create_initialization_options())

    anyio.run(run)


def listen(port: int) -> socket.socket:
    """A socket of this machine's loopback; port 0: any. Raises InvalidInput where the port is taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise InvalidInput(f"--port {port} cannot be had ({error.strerror}); give another, or 0 for any") from error
    return listening


def serve_http(robot: Robot, approval: str, listening: socket.socket) -> None:
    """Until interrupted."""
    app = server_of(robot, approval).streamable_http_app(host=LOOPBACK)
    print(f"tools at http://{LOOPBACK}:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])
