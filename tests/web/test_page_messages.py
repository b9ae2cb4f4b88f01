"""What others may publish, each message as wrong as its type allows, and what a browser may send: the page says so and goes on."""

from __future__ import annotations

import contextlib
import math
import threading

import numpy as np
import pytest

pytest.importorskip("viser")

import msgspec
import viser
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose
from ros_graph import until
from sensor_msgs.msg import CameraInfo, Image
from viser._messages import FileTransferPart, FileTransferStartUpload, GuiUpdateMessage, ViewerCameraMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3D, Detection3DArray, ObjectHypothesisWithPose
from websockets.sync.client import connect

from qwen3vl_ros.msg import (
    Event,
    EventArray,
    Fact,
    Generation,
    GraspTarget,
    GraspTargetArray,
    PlaceTarget,
    Plan,
    PlanStep,
    Reading,
    TrackState,
    TrackStates,
)
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.client import encoded
from qwen3vl_ros.types import PerceptionError
from qwen3vl_ros.web.page import Page
from qwen3vl_ros.web.robot import Robot
from qwen3vl_ros.web.server import serve

NAN, LARGE = math.nan, 1e300
LOOKS = ViewerCameraMessage(
    wxyz=(1.0, 0.0, 0.0, 0.0), position=(0.0, 0.0, 1.0), fov=1.0, near=0.1, far=10.0, image_height=600,
    image_width=800, look_at=(0.0, 0.0, 0.0), up_direction=(0.0, 0.0, 1.0),
)  # fmt: skip


class Browser:
    """Takes all that comes, and sends what it is told to."""

    def __init__(self, port: int):
        self._socket = connect(
            f"ws://localhost:{port}", subprotocols=[f"viser-v{viser.__version__}"], compression=None, max_size=None
        )
        threading.Thread(target=self._take, daemon=True).start()
        self.send(LOOKS)

    def send(self, message) -> None:
        self._socket.send(msgspec.msgpack.encode(message.as_serializable_dict()))

    def _take(self) -> None:
        with contextlib.suppress(Exception):
            for _ in self._socket:
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def shown(shared_graph):
    """The page's parts without its thread: server, robot, page, browser."""
    import os

    os.environ["ROS_DOMAIN_ID"] = str(shared_graph.domain)
    server, robot = serve("127.0.0.1", 0, "a test", most_mb=1), Robot("wrong", ["one", "two"])
    page = Page(server, robot)
    browser = Browser(server.get_port())
    until(server.get_clients, what="the browser")
    yield server, robot, page, browser
    browser.close()
    robot.close()
    server.stop()


def pose(x: float, w: float) -> Pose:
    wrong = Pose()
    wrong.position.x, wrong.orientation.w = x, w
    return wrong


def wrong_messages() -> dict[str, list]:
    """By the name of what hears them, of a camera's or of the robot's."""
    header = messages.header_of(1, "camera")
    rgb = np.full((48, 64, 3), 90, np.uint8)
    best = ObjectHypothesisWithPose()
    best.hypothesis.class_id = "\x00\u202e" + "w" * 100_000
    cut = messages.image(header, rgb)
    cut.data = cut.data[:100]
    images = [
        Image(),
        cut,
        Image(header=header, width=1 << 31, height=1 << 31, encoding="rgb8", step=3),
        Image(header=header, width=4, height=4, encoding="no such encoding", step=12, data=bytes(48)),
        messages.image(header, np.full((1, 1, 3), 9, np.uint8)),
        messages.image(header, rgb),
    ]
    depth = np.full((48, 64), NAN, np.float32)
    flat = [Detection2D(id=name, results=[best] * bool(name)) for name in ("", "\x00", "9" * 5000, "x", "x")]
    solid = [Detection3D(id=d.id, results=d.results) for d in flat]
    for d, wrong in zip(flat, (NAN, LARGE, -LARGE, -1.0, math.inf)):
        d.bbox.center.position.x = d.bbox.size_x = wrong
    for d, wrong in zip(solid, (NAN, LARGE, 0.0, -1.0, math.inf)):
        d.bbox.center, d.bbox.size.x = pose(wrong, 0.0 if wrong == 0 else 1.0), wrong
    grasps = [GraspTarget(pose=pose(w, w), width=w, approach_distance=w, feasible=True) for w in (NAN, LARGE, 0.0)]
    place = PlaceTarget(release=pose(NAN, 0.0))
    step = PlanStep(action=best.hypothesis.class_id, grasps=grasps, places=[place], status=200)
    step.before = [Fact(verdict=200, margin=NAN)]
    event = Event(name="", after=250, value=LARGE, limit=NAN, unit="1")
    return {
        "image": images,
        "depth": [Image(), messages.image(header, depth), messages.image(header, np.float32(depth * 0 + LARGE))],
        "info": [CameraInfo(), CameraInfo(header=header, k=[NAN] * 9, width=64, height=48)],
        "tracks_2d": [Detection2DArray(header=header, detections=flat)],
        "detections_2d": [Detection2DArray(), Detection2DArray(header=header, detections=flat * 300)],
        "tracks_3d": [Detection3DArray(header=header, detections=solid[:k]) for k in range(6)],
        "detections_3d": [Detection3DArray(header=header, detections=solid)],
        "grasps": [GraspTargetArray(header=header, targets=[g]) for g in grasps],
        "generation": [Generation(error="\x00" * 10_000, tokens=0xFFFFFFFF)],
        "states": [TrackStates(tracks=[TrackState(id="x", state=200)] * 2)],
        "diagnostics": [
            DiagnosticArray(status=[DiagnosticStatus(hardware_id="qwen3vl_ros", level=b"\xff")]),
            DiagnosticArray(
                status=[DiagnosticStatus(hardware_id="qwen3vl_ros", values=[KeyValue(key="dropped: ")] * 3)]
            ),
        ],
        "readings": [
            Reading(point="p" * 10_000, value=v, limit=-v, unit="1", quality=99) for v in (NAN, LARGE, -LARGE, 5.0)
        ],
        "plan": [
            Plan(header=header, plan_id=1, executable=True),
            Plan(header=header, plan_id=2, executable=True, steps=[step] * 20, question="?" * 10_000),
        ],
        "alarms": [EventArray(events=[event] * 3), EventArray(), EventArray(events=[event])],
    }


def test_no_message_ends_the_page(shown):
    server, robot, page, _ = shown
    camera = robot.cameras["one"]
    said = []
    for name, wrong in wrong_messages().items():
        for message in wrong:
            getattr(camera, name, None) or getattr(robot, name)  # it is heard
            (getattr(camera, name, None) or getattr(robot, name)).put(encoded(message))
            camera.image.put(encoded(wrong_messages()["image"][-1]))
            for panel in page._panels:
                panel.period_s = 0.0
                try:
                    panel.update()
                except PerceptionError as error:  # which the page's thread logs
                    said.append(str(error))
    assert said, "wrong pictures are told of"
    assert server.get_clients()


def test_what_a_browser_says_of_a_control_that_has_no_such_value_ends_nothing(shown):
    server, robot, page, browser = shown
    choice = next(h for h in server.gui._gui_input_handle_from_uuid.values() if hasattr(h, "options"))
    browser.send(GuiUpdateMessage(uuid=choice._impl.uuid, updates={"value": "no such camera"}))
    until(lambda: choice.value == "no such camera", what="the browser's word")
    for panel in page._panels:
        with contextlib.suppress(PerceptionError):
            panel.update()
    assert page._panels[0].camera is robot.cameras["one"]
    choice.value = "one"


def test_a_file_is_refused_by_the_size_it_says_and_no_more_of_it_is_kept(shown):
    server, _, _, browser = shown
    (client,) = server.get_clients().values()
    button = next(
        h for h in client.gui._gui_input_handle_from_uuid.values() if isinstance(h, viser.GuiUploadButtonHandle)
    )
    kept = client.gui._current_file_upload_states

    def begin(name: str, size: int, uuid: str = button._impl.uuid, parts: int = 2) -> None:
        browser.send(FileTransferStartUpload(uuid, name, name, "video/mp4", parts, size))

    def part(name: str, number: int, size: int) -> None:
        browser.send(FileTransferPart(button._impl.uuid, name, number, bytes(size)))

    begin("large", 2_000_000)
    begin("small", 1000)
    until(lambda: list(kept) == ["small"], what="the file that is taken")
    begin("second", 1000)
    until(lambda: list(kept) == ["second"], what="one file at a time")
    part("second", 0, 500_000)  # it was said to be smaller
    until(lambda: not kept, what="the end of a file that is larger than it said")
    other = next(uuid for uuid, h in client.gui._gui_input_handle_from_uuid.items() if h is not button)
    begin("elsewhere", 3, other, 1)
    begin("whole", 3, parts=1)
    part("whole", 0, 3)
    until(lambda: button.value.name == "whole", what="a file that is as it said")
    assert button.value.content == bytes(3) and not kept
