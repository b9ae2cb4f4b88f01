"""A real DDS graph for tests: child processes, a camera made of numbers, and waiting on conditions instead of
sleeping.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as PythonParameter
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.demo.shared_memory import free_abandoned
from qwen3vl_ros.msg import Generation, GraspTargetArray
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.client import SETTLES_S
from qwen3vl_ros.srv import Detect, SetPrompt

HERE = Path(__file__).parent
OPTICAL = "camera_color_optical_frame"
WIDTH, HEIGHT, FOCAL = 160, 120, 300.0
K = np.array([[FOCAL, 0, 79.5], [0, FOCAL, 59.5], [0, 0, 1.0]])
TABLE_M, CUBE_M = 0.80, 0.06
RESULTS = {
    "detections_2d": Detection2DArray,
    "detections_3d": Detection3DArray,
    "grasp_targets": GraspTargetArray,
    "grasp_poses": PoseArray,
    "generation": Generation,
}
NEEDED_MIB = 12 * 64  # config/fastdds.xml's segment for each of more processes than any test has
# For what has no limit of its own: a busy machine takes a minute to start a process, and nobody waits longer than for what comes.
PATIENCE_S, START_PATIENCE_S = 90.0, 240.0
# What the node gives answers and calls that name no time of their own, for the same reason.
PATIENT = ("-p", "request_timeout:=300.0", "-p", "generation.deadline:=600.0")
OK, WARN, ERROR, STALE = b"\x00", b"\x01", b"\x02", b"\x03"


def picture(shade: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, depth_m) of a camera that looks straight down on a cube on a table; `shade` tells pictures apart."""
    rgb = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    depth = np.full((HEIGHT, WIDTH), TABLE_M, np.float32)
    rgb[48:72, 68:92] = (220, 30, 30)
    depth[48:72, 68:92] = TABLE_M - CUBE_M
    rgb[0, 0] = shade
    return rgb, depth


def until(condition, timeout_s: float = PATIENCE_S, what: str = "the condition"):
    """Wait for a true value and return it."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.005)
    return value


def lacking_room(free_mib: float) -> str:
    """Why the tests cannot start with so much of /dev/shm; empty if they can."""
    if free_mib >= NEEDED_MIB:
        return ""
    return (
        f"/dev/shm has {free_mib:.0f} MiB free and the ROS tests need {NEEDED_MIB}: 64 MiB for each "
        "process (config/fastdds.xml). `fastdds shm clean` frees what killed processes left; a container "
        "gets more by --shm-size 1g or --ipc host"
    )


def claim_domain():
    """A domain id nobody else on this machine uses: (id, open lock file). Closing the file gives it back."""
    folder = Path("/tmp/qwen3vl_ros_domains")
    folder.mkdir(exist_ok=True)
    ids = list(range(10, 100))  # above about 101 the ports meet the ephemeral ones
    random.shuffle(ids)
    for number in ids:
        lock = open(folder / str(number), "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number, lock
        except BlockingIOError:
            lock.close()
    raise RuntimeError("all domain ids are taken; are old tests still running?")


class Process:
    """A child process with its output."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]):
        self.log_path = log
        with open(log, "wb") as out:
            self.popen = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def logged(self, text: str, timeout_s: float = START_PATIENCE_S) -> str:
        """The log, once it holds the text; fails at once if the process ends before."""
        try:
            until(lambda: text in self.log or self.popen.poll() is not None, timeout_s, f"log line {text!r}")
            assert text in self.log, f"the process ended with status {self.popen.poll()} without {text!r}"
        except AssertionError as error:
            raise AssertionError(f"{error}; the log:\n{self.log[-4000:]}") from None
        return self.log

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.popen.send_signal(number)

    def status(self, timeout_s: float = START_PATIENCE_S) -> int:
        """Exit status, once the process has ended."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the process did not end within {timeout_s:g} s; the log:\n{self.log[-4000:]}"
            ) from None

    def rss_mib(self) -> float:
        return psutil.Process(self.popen.pid).memory_info().rss / 2**20

    def threads(self) -> int:
        return psutil.Process(self.popen.pid).num_threads()

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(10)

    def end(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for the end, once interrupted. Killed, a process leaves its shared memory behind: only at last."""
        try:
            self.popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()


class Graph:
    """One domain with a node of our own that records what others say. Close it."""

    def __init__(self, folder: Path):
        self.folder, self.processes, self.messages = folder, [], defaultdict(list)
        self.domain, self._lock_file = claim_domain()
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = Node("observer", context=self.context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._clients = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.messages["/diagnostics"].append, 50)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass  # close() ends the context

    def close(self):
        for process in self.processes:
            process.interrupt()
        for process in self.processes:
            process.end()
        self.context.try_shutdown()
        self._thread.join(5)
        self.node.destroy_node()
        free_abandoned()
        self._lock_file.close()

    # -- processes ---------------------------------------------------------------------------------

    def start(self, *command: str, name: str = "process", env: dict[str, str] | None = None) -> Process:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain), "PYTHONUNBUFFERED": "1", **(env or {})}
        process = Process([sys.executable, *command], self.folder / f"{name}_{len(self.processes)}.log", environment)
        self.processes.append(process)
        return process

    def start_node(
        self,
        engine: str = "instant",
        *ros_args: str,
        ready: bool = True,
        env: dict[str, str] | None = None,
        **parameters,
    ) -> Process:
        """The perception node with a scripted engine; parameters by their names, with __ for a dot. Its pictures may be old and
        its answers late, as a busy machine makes them: a test of what is too old or too late says what that is.
        """
        arguments = ["--ros-args", "-p", "max_age:=30.0", *PATIENT, *ros_args]  # the last one counts
        for name, value in {"diagnostics_period": 0.2, "targets": ["cube"], **parameters}.items():
            if value is None:  # not given at all
                continue
            text = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
            arguments += ["-p", f"{name.replace('__', '.')}:={text}"]
        process = self.start(str(HERE / "scripted_node.py"), engine, *arguments, name="perception", env=env)
        if ready:
            process.logged("active: ")
        return process

    # -- listening ---------------------------------------------------------------------------------

    def listen(self, topic: str, kind, qos=10) -> list:
        """All messages of a topic from now on, in a list that grows."""
        heard = self.messages[topic]
        self.node.create_subscription(kind, topic, heard.append, qos)
        until(lambda: self.node.count_publishers(topic), START_PATIENCE_S, f"a publisher of {topic}")
        return heard

    def results(self, prefix: str = "/qwen3vl/perception") -> dict[str, list]:
        """Every result topic of the node, recorded."""
        return {name: self.listen(f"{prefix}/{name}", kind) for name, kind in RESULTS.items()}

    def diagnosed(self, condition, timeout_s: float = PATIENCE_S, what: str = "the diagnosis", ever: bool = False):
        """The first /diagnostics status from now on (or ever) for which condition(status, values) is true."""
        seen = self.messages["/diagnostics"]
        start = 0 if ever else len(seen)

        def found():
            for message in seen[start:]:
                for status in message.status:
                    try:
                        if condition(status, {v.key: v.value for v in status.values}):
                            return status
                    except KeyError:  # of a state that has no such figure yet
                        continue

        try:
            return until(found, timeout_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; last: {seen[-1].status if seen else 'nothing'}") from None

    # -- calling -----------------------------------------------------------------------------------

    def ask(self, kind, name: str, request=None):
        """A future of the response."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, name)
            assert client.wait_for_service(START_PATIENCE_S), f"no service {name}"
            time.sleep(SETTLES_S)
        assert client.wait_for_service(START_PATIENCE_S), f"no service {name}"
        return client.call_async(request or kind.Request())

    def call(self, kind, name: str, request=None, timeout_s: float = PATIENCE_S):
        future = self.ask(kind, name, request)
        until(future.done, timeout_s, f"a response of {name}")
        return future.result()

    def detect(self, targets=(), timeout: float = 0.0, name: str = "/qwen3vl/perception/detect", **fields):
        return self.ask(Detect, name, Detect.Request(targets=list(targets), timeout=timeout, **fields))

    def set_prompt(self, *targets: str, prefix: str = "/qwen3vl/perception"):
        return self.call(SetPrompt, f"{prefix}/set_prompt", SetPrompt.Request(targets=list(targets)))

    def enable(self, on: bool, prefix: str = "/qwen3vl/perception"):
        return self.call(SetBool, f"{prefix}/enable", SetBool.Request(data=on))

    def transition(self, name: str, timeout_s: float = PATIENCE_S) -> bool:
        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(ChangeState, "/qwen3vl/perception/change_state", request, timeout_s).success

    def state(self) -> str:
        return self.call(GetState, "/qwen3vl/perception/get_state").current_state.label

    def set_parameter(self, name: str, value):
        parameter = PythonParameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[Parameter(name=name, value=parameter.value)])
        return self.call(SetParameters, "/qwen3vl/perception/set_parameters", request).results[0]

    def get_parameter(self, name: str):
        response = self.call(GetParameters, "/qwen3vl/perception/get_parameters", GetParameters.Request(names=[name]))
        return parameter_value_to_python(response.values[0])


class FakeCamera:
    """Publishes picture() with any fault a test asks for."""

    def __init__(
        self,
        graph: Graph,
        qos=qos_profile_sensor_data,
        namespace: str = "/qwen3vl",
        depth: bool = True,
        info: bool = True,
    ):
        self.graph, self.node = graph, graph.node
        self.image = self.node.create_publisher(Image, f"{namespace}/image_raw", qos)
        self.depth = self.node.create_publisher(Image, f"{namespace}/depth/image_raw", qos) if depth else None
        self.info = self.node.create_publisher(CameraInfo, f"{namespace}/camera_info", qos) if info else None
        self._stop, self._thread, self._shot_s = threading.Event(), None, 0.0

    def matched(self) -> FakeCamera:
        """Wait until the node has found our topics."""
        for publisher in filter(None, (self.image, self.depth, self.info)):
            until(publisher.get_subscription_count, START_PATIENCE_S, f"a subscriber of {publisher.topic_name}")
        return self

    def shoot(
        self,
        shade: int = 90,
        age_s: float = 0.0,
        rgb=None,
        depth_m=None,
        info_K=K,
        frame: str = OPTICAL,
        edit=None,
        apart_s: float = 0.025,
        stamp: int | None = None,
    ) -> int:
        """One capture; returns its stamp in nanoseconds: the given one, or now less age_s. edit(image, depth, info) may change
        the messages.

        apart_s: from the one before. Within sync_slop (0.02 s) an image may be paired with another's depth.
        """
        time.sleep(max(0.0, self._shot_s + apart_s - time.monotonic()))
        self._shot_s = time.monotonic()
        if stamp is None:
            stamp = self.node.get_clock().now().nanoseconds - int(age_s * 1e9)
        colour, metres = picture(shade)
        rgb, depth_m = colour if rgb is None else rgb, metres if depth_m is None else depth_m
        header = messages.header_of(stamp, frame)
        parts = [
            messages.image(header, rgb),
            messages.image(messages.header_of(stamp, frame), depth_m),
            messages.camera_info(header, np.asarray(info_K, float), (rgb.shape[1], rgb.shape[0])),
        ]
        if edit:
            edit(*parts)
        for publisher, message in zip((self.info, self.image, self.depth), (parts[2], parts[0], parts[1])):
            if publisher is not None:
                publisher.publish(message)
        return stamp

    def answered(self, heard: dict[str, list], solid: bool = False, **how) -> dict:
        """A capture's answer, {topic: message} of all topics heard; with a 3D box if `solid`.

        Shoots again every half second: a busy machine loses images, and depth that comes late leaves 2D alone.
        """
        stamps, shot_s = set(), 0.0

        def answer():
            nonlocal shot_s
            if time.monotonic() - shot_s > 0.5:
                stamps.add(self.shoot(**how))
                shot_s = time.monotonic()
            said = {name: {stamp_ns(m.header): m for m in messages[-50:]} for name, messages in heard.items()}
            whole = (
                {name: of[stamp] for name, of in said.items()}
                for stamp in sorted(stamps)
                if all(stamp in of for of in said.values())
            )
            return next((a for a in whole if a["detections_3d"].detections or not solid), None)

        return until(answer, what="an answer with a 3D box" if solid else "an answer")

    def stream(self, rate_hz: float = 20.0, **how) -> FakeCamera:
        """Shoot until stop()."""

        def run():
            while not self._stop.wait(1 / rate_hz):
                self.shoot(**how)

        self._stop.clear()
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(PATIENCE_S)
            self._thread = None

    def unplug(self) -> None:
        self.stop()
        for publisher in filter(None, (self.image, self.depth, self.info)):
            self.node.destroy_publisher(publisher)


def publish_static(graph: Graph, parent: str, child: str, parent_T_child: np.ndarray):
    """A latched /tf_static; keep what it returns."""
    publisher = graph.node.create_publisher(
        TFMessage, "/tf_static", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    stamped = TransformStamped(child_frame_id=child, transform=messages.transform_msg(parent_T_child))
    stamped.header.frame_id = parent
    publisher.publish(TFMessage(transforms=[stamped]))
    return publisher
