"""What do other processes cost the node? Its answers and their geometry alone, and beside 2 and 4 processes that never rest.

The real node with the embedded model, over real DDS: a picture of a table-top goes out when the answer to the one before has come,
and somebody subscribes to the grasps. Rounds alone, beside 2 and beside 4 take turns, so that what else the machine does meets
all alike; the busy processes are stopped in between. Of each answer:

- processor time: what the node's process used, all threads, from the picture to its answer. cpu_ratio_n = beside n / alone.
- wall time: preparing, prefill, decoding and geometry, as the answer says. After every answer a yardstick is run beside the same
  neighbours: one thread that hashes, for as much processor time as an answer takes alone, and waits for no other thread. It is slowed by its share
  of the cores and by nothing else, whatever runs on the machine. wall_ratio_n = slowdown of the answer / slowdown of the yardstick,
  each beside n / alone: at most 1 where the share explains all.

Medians over all answers. The same node with --blas-threads N (0: as NumPy would choose) shows what is saved. The last line is JSON.

    make bench BENCH=contention [ARGS="--rounds 6 --blas-threads 2"]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from qwen3vl_ros.msg import Generation, GraspTargetArray
from qwen3vl_ros.node import messages
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.threads import BLAS_VARIABLES, cores, settle

NEIGHBOURS = (0, 2, 4)
KINDS = (
    "cube",
    "ball",
    "bowl",
    "cylinder",
    "mug",
)  # all that the scenes hold: a picture without any would have no geometry
FRAME, NODE = "camera_color_optical_frame", "/qwen3vl/perception"
PATIENCE_S, AGAIN_S = 60.0, 2.0
DEPTH_AHEAD_S = 0.05  # at so low a rate the node would take a stream of depth that is late for one that has ended
LEAST_GEOMETRY_S = 0.001  # an answer without depth is none; the cloud of a picture alone takes longer


class Neighbours:
    """Processes that never rest; `busy(n)` lets n of them run."""

    def __init__(self, count: int):
        self._all = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        self.busy(0)

    def busy(self, count: int) -> None:
        for i, process in enumerate(self._all):
            process.send_signal(signal.SIGCONT if i < count else signal.SIGSTOP)

    def close(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()


class Yardstick:
    """One thread's work, of about so many seconds."""

    def __init__(self, seconds: float):
        self._block, self._count = bytes(1 << 16), 1
        while (spent := self._cpu_s()) < seconds / 2:
            self._count = max(self._count + 1, round(self._count * seconds / max(spent, 1e-4)))

    def _cpu_s(self) -> float:
        started = time.thread_time()
        self.wall_s()
        return time.thread_time() - started

    def wall_s(self) -> float:
        started = time.perf_counter()
        digest = hashlib.sha256()
        for _ in range(self._count):
            digest.update(self._block)
        return time.perf_counter() - started


class Robot(Node):
    """The camera, and who listens."""

    def __init__(self, pictures):
        super().__init__("benchmark_robot", namespace="qwen3vl", enable_rosout=False)
        self._pictures, self._answers, self._came = pictures, [], threading.Condition()
        self._image, self._depth, self._info = (
            self.create_publisher(kind, topic, qos_profile_sensor_data)
            for kind, topic in ((Image, "image_raw"), (Image, "depth/image_raw"), (CameraInfo, "camera_info"))
        )
        self.create_subscription(Generation, f"{NODE}/generation", self._on_answer, 10)
        self.create_subscription(GraspTargetArray, f"{NODE}/grasp_targets", lambda _: None, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _on_answer(self, message: Generation) -> None:
        with self._came:
            self._answers.append(message)
            self._came.notify_all()

    @property
    def heard(self) -> bool:
        return all(p.get_subscription_count() for p in (self._image, self._depth, self._info))

    def ask(self, k: int) -> Generation:
        """The answer to picture k."""
        rgb, depth_m, K = self._pictures[k % len(self._pictures)]
        end = time.monotonic() + PATIENCE_S
        with self._came:
            self._answers.clear()
            while not self._answers:
                if time.monotonic() > end:
                    raise RuntimeError(f"no answer within {PATIENCE_S:g} s")
                header = messages.header_of(self.get_clock().now().nanoseconds, FRAME)
                self._info.publish(messages.camera_info(header, K, rgb.shape[1::-1]))
                self._depth.publish(messages.image(header, depth_m))
                time.sleep(DEPTH_AHEAD_S)
                self._image.publish(messages.image(header, rgb))
                self._came.wait(AGAIN_S)  # again, should a message be lost
                self._answers = [a for a in self._answers if a.geometry_s > LEAST_GEOMETRY_S]
            return self._answers[-1]


def wall_s(answer: Generation) -> float:
    return answer.preprocess_s + answer.prefill_s + answer.decode_s + answer.geometry_s


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, all its threads, so far."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total_ns += int((task / "schedstat").read_text().split()[0])
        except OSError:  # a thread that has ended meanwhile
            pass
    return total_ns / 1e9


def draw(count: int, objects: int, seed: int) -> list:
    with SimCamera(640, 480, quality="fast") as camera:
        views = [camera.render(sample_scene(seed + k, n_objects=objects)) for k in range(count)]
    return [(v.rgb, v.depth_m.astype(np.float32), v.K) for v in views]


def start_node(log: Path, domain: str, blas_threads: int | None) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k not in (*BLAS_VARIABLES, "OMP_NUM_THREADS")}
    environment["ROS_DOMAIN_ID"] = domain
    if blas_threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = str(blas_threads or cores())
    command = [sys.executable, "-m", "qwen3vl_ros.node.perception.main", "--ros-args"]
    for parameter in (f"targets:=[{', '.join(KINDS)}]", "max_age:=2.0", "track:=never"):
        command += ["-p", parameter]
    with open(log, "wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)


def measure(robot: Robot, pid: int, neighbours: Neighbours, rounds: int, answers: int) -> dict[int, dict[str, float]]:
    """{neighbours: medians over answers of cpu_ms, wall_ms and yardstick_ms}."""
    spent_s = []
    for k in range(2 * answers):  # warm: threads, caches, drafts
        began_s = cpu_s(pid)
        robot.ask(k)
        spent_s.append(cpu_s(pid) - began_s)
    yardstick = Yardstick(float(np.median(spent_s)))
    seen: dict[int, list[tuple[float, float, float]]] = {n: [] for n in NEIGHBOURS}
    for _ in range(rounds):
        for n in NEIGHBOURS:
            neighbours.busy(n)
            time.sleep(0.3)
            for k in range(answers):
                began_s = cpu_s(pid)
                answered_s = wall_s(robot.ask(k))
                seen[n].append((cpu_s(pid) - began_s, answered_s, yardstick.wall_s()))
    neighbours.busy(0)
    return {
        n: dict(zip(("cpu_ms", "wall_ms", "yardstick_ms"), 1e3 * np.median(values, axis=0)))
        for n, values in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=6, help="of each round")
    parser.add_argument("--objects", type=int, default=5)
    parser.add_argument("--seed", type=int, default=40, help="of the first scene")
    parser.add_argument("--blas-threads", type=int, help="of the node's NumPy; left out: what the node decides")
    given = parser.parse_args()
    settle()
    pictures = draw(given.answers, given.objects, given.seed)
    domain = os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 2))
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "node.log"
        process, neighbours = start_node(log, domain, given.blas_threads), Neighbours(max(NEIGHBOURS))
        try:
            robot, end = Robot(pictures), time.monotonic() + PATIENCE_S
            while not robot.heard:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the node did not start")
                time.sleep(0.1)
            result = measure(robot, process.pid, neighbours, given.rounds, given.answers)
        except RuntimeError as error:
            raise SystemExit(f"{error}; its log:\n{log.read_text()[-3000:]}") from None
        finally:
            neighbours.close()
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()
    rclpy.try_shutdown()
    name = next((s.split(":", 1)[1].strip() for s in open("/proc/cpuinfo") if s.startswith("model name")), "")
    hardware = f"{name or platform.machine()}, {cores()} cores, load average {os.getloadavg()[0]:.1f}"
    blas = "as the node decides" if given.blas_threads is None else f"{given.blas_threads or cores()}"
    print(f"{hardware}; BLAS threads {blas}; {given.rounds} rounds of {given.answers} answers, {given.objects} objects")
    print(f"{'beside':>8}{'cpu ms':>10}{'wall ms':>10}{'yardstick ms':>14}")
    for n, r in result.items():
        print(f"{n:>8}{r['cpu_ms']:>10.1f}{r['wall_ms']:>10.1f}{r['yardstick_ms']:>14.1f}")
    slower = lambda n, key: result[n][key] / result[0][key]
    summary = {f"cpu_ratio_{n}": round(slower(n, "cpu_ms"), 3) for n in NEIGHBOURS[1:]}
    summary |= {f"wall_ratio_{n}": round(slower(n, "wall_ms") / slower(n, "yardstick_ms"), 3) for n in NEIGHBOURS[1:]}
    print(json.dumps(summary | {"cpu_ms": round(result[0]["cpu_ms"], 1), "wall_ms": round(result[0]["wall_ms"], 1)}))


if __name__ == "__main__":
    main()
