"""The tools through the protocol's own client, over stdio and HTTP, against the node as shipped: simulated camera, embedded model, DDS."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path

import anyio
import cv2
import httpx
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import until
from vision_msgs.msg import Detection2DArray, Detection3DArray

pytest.importorskip("mcp")
from mcp import Client, StdioServerParameters

from qwen3vl_ros.msg import EventArray
from qwen3vl_ros.tools.catalogue import DATA, TOOLS

POINTS = """
points:
  {label}_there:
    kind: presence
    look_for: {label}
    states: [there, gone]
    alarms:
      seen: {{when: there, on_delay: 0, off_delay: 1, severity: 700}}
    period: 1
"""
NODE = "/qwen3vl/perception"


def command(*arguments: str) -> list[str]:
    return ["-m", "qwen3vl_ros.cli", "mcp", *arguments]


def over_http(graph, *arguments: str) -> tuple[str, object]:
    """The address of a server of this graph, and its process."""
    server = graph.start(*command("--http", "--port", "0", *arguments), name="mcp")
    return re.search(r"http://127\.0\.0\.1:\d+/mcp", server.logged("tools at http"))[0], server


def over_stdio(graph, *arguments: str) -> StdioServerParameters:
    env = {**os.environ, "ROS_DOMAIN_ID": str(graph.domain)}
    return StdioServerParameters(command=sys.executable, args=command(*arguments), env=env)


def with_client(server, use, **options):
    """What use(client) returns."""

    async def run():
        async with Client(server, read_timeout_seconds=60, **options) as client:
            return await use(client)

    return anyio.run(run)


def call(server, name: str, arguments: dict | None = None, **options):
    return with_client(server, lambda client: client.call_tool(name, arguments or {}), **options)


def picture(result) -> np.ndarray:
    (image,) = [c for c in result.content if c.type == "image"]
    assert image.mime_type == "image/jpeg"
    return cv2.imdecode(np.frombuffer(base64.b64decode(image.data), np.uint8), cv2.IMREAD_COLOR)


def said(result) -> str:
    return " ".join(c.text for c in result.content if c.type == "text")


# -- the node as shipped -----------------------------------------------------------------------------------------


class Shipped:
    """The node with the embedded model, looking at a table-top that stands still; what lies there."""

    def __init__(self, graph, folder: Path):
        self.graph = graph
        camera = (
            "-r",
            "__ns:=/qwen3vl",
            "-p",
            "scene_every:=0.0",
            "-p",
            "objects:=3",
            "-p",
            "seed:=21",
            "-p",
            "rate:=5.0",
        )
        graph.start("-m", "qwen3vl_ros.node.sim_camera", "--ros-args", *camera, name="camera")
        flat = graph.listen("/qwen3vl/sim_camera/ground_truth_2d", Detection2DArray)
        solid = graph.listen("/qwen3vl/sim_camera/ground_truth_3d", Detection3DArray)
        self.flat = until(lambda: flat, 60, "the truth")[-1].detections
        self.solid = until(lambda: solid, 60)[-1].detections
        kinds = [d.results[0].hypothesis.class_id for d in self.flat]
        self.at = next(i for i, k in enumerate(kinds) if kinds.count(k) == 1)
        self.label = kinds[self.at]
        points = folder / "points.yaml"
        points.write_text(POINTS.format(label=self.label.split()[-1]))
        node = (
            "-p",
            f"inspection.file:={points}",
            "-p",
            "max_age:=5.0",
            "-p",
            "enabled:=false",
            "-p",
            "diagnostics_period:=0.5",
        )
        graph.start("-m", "qwen3vl_ros.node.perception.main", "--ros-args", *node, name="perception").logged(
            "active: ", 90
        )
        self.http, self.server = over_http(graph)

    @property
    def box_xyxy_px(self) -> np.ndarray:
        box = self.flat[self.at].bbox
        half = np.array([box.size_x, box.size_y]) / 2
        centre = np.array([box.center.position.x, box.center.position.y])
        return np.concatenate((centre - half, centre + half))

    @property
    def position_m(self) -> np.ndarray:
        p = self.solid[self.at].bbox.center.position
        return np.array([p.x, p.y, p.z])


@pytest.fixture(scope="module")
def shipped(shared_graph, tmp_path_factory):
    return Shipped(shared_graph, tmp_path_factory.mktemp("points"))


def overlap(a, b) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = np.prod(np.maximum(high - low, 0))
    return common / (np.prod(np.subtract(a[2:], a[:2])) + np.prod(np.subtract(b[2:], b[:2])) - common)


def check_detect(result, shipped) -> None:
    assert not result.is_error, said(result)
    found = [o for o in result.structured_content["objects"] if overlap(o["box_xyxy_px"], shipped.box_xyxy_px) > 0.5]
    assert found, result.structured_content
    assert np.linalg.norm(np.subtract(found[0]["position_m"], shipped.position_m)) < 0.05
    assert found[0]["grasp"]["feasible"] in (True, False) and found[0]["label"] == shipped.label
    assert json.loads(said(result)) == result.structured_content
    shown = picture(result)
    assert shown.shape == (480, 640, 3)
    x0, y0, x1, y1 = np.round(found[0]["box_xyxy_px"]).astype(int)
    edge = shown[y0 : y1 + 1, x0 - 2 : x0 + 3].reshape(-1, 5, 3).astype(int)
    assert np.ptp(edge.mean(0), axis=0).max() > 40, "its box is drawn"


def test_over_stdio_a_host_finds_the_tools_and_sees_what_the_robot_sees(shipped):
    async def use(client):
        return (
            await client.list_tools(),
            client.instructions,
            await client.call_tool("detect", {"targets": [shipped.label]}),
        )

    listed, instructions, detected = with_client(over_stdio(shipped.graph), use)
    assert [t.name for t in listed.tools] == list(TOOLS)
    for tool in listed.tools:
        mine = TOOLS[tool.name]
        assert (tool.input_schema, tool.output_schema) == (mine.arguments, mine.result)
        assert (
            tool.annotations.read_only_hint is mine.read_only and tool.annotations.destructive_hint is mine.destructive
        )
    assert DATA in instructions
    check_detect(detected, shipped)


def test_over_http_it_detects_measures_asks_reads_and_lists_alarms(shipped):
    kind = shipped.label.split()[-1]

    async def use(client):
        await client.list_tools()  # from now on the client itself holds results to their schemas
        return {
            "detect": await client.call_tool("detect", {"targets": [shipped.label]}),
            "measure": await client.call_tool(
                "measure",
                {"facts": [{"relation": "distance", "arguments": [shipped.label]},
                           {"relation": "exists", "arguments": ["banana"]}], "picture": False},
            ),
            "ask": await client.call_tool("ask", {"question": f"Where is the {shipped.label}?"}),
            "readings": await client.call_tool("readings", {"points": [f"{kind}_there"]}),
        }  # fmt: skip

    got = with_client(shipped.http, use)
    check_detect(got["detect"], shipped)
    distance, banana = got["measure"].structured_content["facts"]
    assert distance["verdict"] == "TRUE" and banana["verdict"] == "FALSE"
    nearest = np.linalg.norm(shipped.position_m)
    assert abs(distance["values"][0]["value"] - nearest) < 0.15 and distance["values"][0]["unit"] == "m"
    assert not [c for c in got["measure"].content if c.type == "image"]
    asked = got["ask"].structured_content
    assert asked["code"] == "OK" and asked["facts"] and picture(got["ask"]).shape == (480, 640, 3)
    (reading,) = got["readings"].structured_content["readings"]
    assert (reading["quality"], reading["text"], reading["value"]) == ("GOOD", "there", 1.0)
    heard = shipped.graph.listen(
        f"{NODE}/alarms", EventArray, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    until(lambda: heard and heard[-1].events, 60, "the alarm, on the topic")
    (alarm,) = call(shipped.http, "alarms").structured_content["alarms"]
    assert (alarm["name"], alarm["state"], alarm["severity"]) == (f"{kind}_there/seen", "ACTIVE", 700)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("detect", {"targets": 5}, "argument targets: 5 is not of type 'array'"),
        ("detect", {"targets": ["mug"], "camera": "wrist", "picture": False}, "camera 'wrist' is unknown"),
        ("detect", {"task": "read_text", "targets": ["mug"]}, "read_text"),
        ("measure", {"facts": [{"relation": "left_of", "arguments": ["mug"]}]}, "left_of takes 2 arguments, got 1"),
        ("ask", {"question": " "}, "question"),
        ("readings", {"points": ["chimney"]}, "chimney"),
        ("fly", {}, "there is no tool 'fly'; there are detect"),
        ("follow", {"plan_id": 1, "revision": 1}, "make one with plan"),
    ],
)
def test_what_is_wrong_is_a_sentence_and_no_trace(shipped, mode, name, arguments, words):
    result = call(shipped.http, name, arguments, mode=mode)
    assert result.is_error and words in said(result), said(result)
    assert not re.search(r"Traceback|Error executing|pydantic|[a-z]+\.py", said(result))


def test_another_site_in_the_same_browser_reaches_nothing(shipped):
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        headers = {"Accept": "application/json, text/event-stream", **header}
        assert httpx.post(shipped.http, json=asked, headers=headers).status_code in (403, 421)
    hosts = {c.laddr.ip for c in psutil.Process(shipped.server.popen.pid).net_connections("tcp")
             if c.status == "LISTEN"}  # fmt: skip
    assert hosts == {"127.0.0.1"}


def test_where_no_node_is_it_says_so_and_a_taken_port_too(shipped):
    lost = call(over_stdio(shipped.graph, "--namespace", "elsewhere"), "detect", {"targets": ["mug"], "picture": False})
    assert lost.is_error and "nobody answers as /elsewhere/perception in ROS domain" in said(lost)
    port = shipped.http.split(":")[2].split("/")[0]
    second = shipped.graph.start(*command("--http", "--port", port), name="second")
    assert second.status() == 2 and f"--port {port} cannot be had" in second.log and "Traceback" not in second.log


# -- the arm -------------------------------------------------------------------------------------------------------


class Arm:
    """A server of ~/follow_instruction that plans one step at once and then moves until it is told to stop, or for `moves_s`."""

    def __init__(self, graph, moves_s: float = 60.0):
        self.moves_s, self.goals, self.moving, self.cancelled = moves_s, [], threading.Event(), threading.Event()
        self.node = graph.node
        self._plan = self.node.create_publisher(
            Plan, f"{NODE}/plan", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        )
        self._server = ActionServer(
            self.node,
            FollowInstruction,
            f"{NODE}/follow_instruction",
            execute_callback=self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=self._cancel,
            callback_group=ReentrantCallbackGroup(),
        )

    def _cancel(self, goal) -> CancelResponse:
        self.cancelled.set()
        return CancelResponse.ACCEPT
