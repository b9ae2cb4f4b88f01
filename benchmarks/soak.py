"""Does the node keep its memory for an hour? Three calls of ~/detect a second, over real DDS, with the embedded model.

Two processes: this one publishes a simulated scene (640x480 RGB and depth at 10 Hz) and calls; the other is the perception
node as it is shipped, its stream off so that every answer is a call's. Calls ask for one kind after another, every tenth for
something that nobody asked for before, every hundredth for what is refused. Every ten seconds the node's memory, descriptors
and threads are read from /proc. The last line is JSON: lost counts calls without any reply; rss_slope_mb_h is the slope of a
straight line through the node's resident memory after the first ten minutes (the first half of a run shorter than twenty),
rss_range_mb its highest value less its lowest; fds and threads are those at the end, *_grown what they gained over that time.
Status 0: nothing was lost, memory stayed within 10 MB, no descriptor and no thread came to stay.

    make bench BENCH=soak [ARGS="--minutes 20"]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image

from qwen3vl_ros.node import messages
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.srv import Detect

SIZE, FRAME, CAMERA_HZ = (640, 480), "camera_color_optical_frame", 10.0
WARM_S, SAMPLE_S, FLAT_MB = 600.0, 10.0, 10.0
START_S, REPLY_S = 120.0, 60.0
KINDS = ("cube", "ball", "cylinder", "mug", "bowl")


class Caller(Node):
    """The camera and the caller. Counts replies by how they went."""

    def __init__(self, seed: int):
        super().__init__("soak", namespace="qwen3vl")
        with SimCamera(*SIZE) as camera:
            view = camera.render(sample_scene(seed, n_objects=4))
        header = messages.header_of(0, FRAME)
        kinds = (("image_raw", Image), ("depth/image_raw", Image), ("camera_info", CameraInfo))
        publishers = [self.create_publisher(kind, topic, qos_profile_sensor_data) for topic, kind in kinds]
        shots = (
            messages.image(header, view.rgb),
            messages.image(header, view.depth_m.astype(np.float32)),
            messages.camera_info(header, view.K, SIZE),
        )
        self._shots = list(zip(publishers, shots))
        self._detect = self.create_client(Detect, "perception/detect")
        self.calls, self.right, self.refused, self.failed = 0, 0, 0, 0
        self._waiting: dict[Future, float] = {}
        self.create_timer(1 / CAMERA_HZ, self._shoot)

    def _shoot(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for publisher, message in self._shots:
            message.header.stamp = stamp
            publisher.publish(message)

    def start_calling(self, rate_hz: float) -> None:
        self.create_timer(1 / rate_hz, self._call)

    def _call(self) -> None:
        self.calls += 1
        targets = [KINDS[self.calls % len(KINDS)]]
        if self.calls % 10 == 0:
            targets = [f"mug number {self.calls}"]
        if self.calls % 100 == 0:
            targets = [" "]
        future = self._detect.call_async(Detect.Request(targets=targets, timeout=REPLY_S / 2))
        self._waiting[future] = time.monotonic()
        future.add_done_callback(self._answered)

    def _answered(self, future: Future) -> None:
        self._waiting.pop(future, None)
        reply = future.result()
        self.right += reply.success
        self.refused += reply.message.startswith("InvalidInput")
        self.failed += not (reply.success or reply.message.startswith("InvalidInput"))

    @property
    def lost(self) -> int:
        """Calls that nobody answered in twice their own time."""
        return sum(time.monotonic() - asked > REPLY_S for asked in list(self._waiting.values()))

    @property
    def waiting(self) -> int:
        return len(self._waiting)


def sample(pid: int) -> dict[str, float]:
    """What the process has now; memory in 10^6 bytes. shared_mb: of it, Fast DDS's segments, whose size is fixed."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    return {
        "s": time.monotonic(),
        "rss_mb": int(status["VmRSS"]) * 1024 / 1e6,
        "shared_mb": int(status["RssShmem"]) * 1024 / 1e6,
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
    }


def soak(caller: Caller, pid: int, minutes: float, rate_hz: float) -> list[dict[str, float]]:
    """Calls for so long; the samples of the node."""
    caller.start_calling(rate_hz)
    start, taken = time.monotonic(), []
    while time.monotonic() - start < 60 * minutes:
        taken.append(sample(pid))
        if len(taken) % 6 == 1:
            now = taken[-1]
            print(
                f"{(now['s'] - start) / 60:5.1f} min  {caller.calls} calls  {caller.right} answered  {caller.failed} failed  "
                f"{now['rss_mb']:.1f} MB (shared {now['shared_mb']:.1f})  {now['fds']} fds  {now['threads']} threads",
                flush=True,
            )
        time.sleep(SAMPLE_S)
    return taken


def figures(caller: Caller, taken: list[dict[str, float]]) -> dict:
    seconds = taken[-1]["s"] - taken[0]["s"]
    warm_s = min(WARM_S, seconds / 2)
    steady = [s for s in taken if s["s"] - taken[0]["s"] >= warm_s]
    hours = np.array([s["s"] for s in steady]) / 3600
    rss = np.array([s["rss_mb"] for s in steady])
    return {
        "hours": round(seconds / 3600, 3),
        "calls": caller.calls,
        "lost": caller.lost,
        "rss_slope_mb_h": round(float(np.polyfit(hours - hours[0], rss, 1)[0]), 2),
        "fds": steady[-1]["fds"],
        "threads": steady[-1]["threads"],
        "answered": caller.right,
        "refused": caller.refused,
        "failed": caller.failed,
        "rss_mb": round(float(rss[-1]), 1),
        "rss_range_mb": round(float(np.ptp(rss)), 1),
        "fds_grown": steady[-1]["fds"] - steady[0]["fds"],
        "threads_grown": steady[-1]["threads"] - steady[0]["threads"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of calling")
    parser.add_argument("--rate", type=float, default=3.0, help="calls a second")
    parser.add_argument("--seed", type=int, default=7, help="of the scene")
    given = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init()
    caller = Caller(given.seed)
    executor = SingleThreadedExecutor()
    executor.add_node(caller)
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            executor.spin_once(0.1)

    spinning = threading.Thread(target=spin)
    spinning.start()
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        command = [sys.executable, "-m", "qwen3vl_ros.node.perception.main", "--ros-args", "-p", "enabled:=false"]
        node = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + START_S
            while "active: " not in (said := Path(log.name).read_text()):
                if node.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the node did not start:\n{said[-3000:]}")
                time.sleep(0.1)
            taken = soak(caller, node.pid, given.minutes, given.rate)
            result = figures(caller, taken)
        except (OSError, KeyError):
            raise RuntimeError(f"the node ended:\n{Path(log.name).read_text()[-3000:]}") from None
        finally:
            node.terminate()
            node.wait(30)
            over.set()
            spinning.join()
            executor.shutdown()
            caller.destroy_node()
            rclpy.try_shutdown()
    print(json.dumps(result))
    steady = result["rss_range_mb"] <= FLAT_MB and result["fds_grown"] <= 0 and result["threads_grown"] <= 0
    return 0 if steady and not result["lost"] else 1


if __name__ == "__main__":
    sys.exit(main())
