"""What does the node itself cost? Image stamp to published answer, the engine's time taken out, beside a bare
subscriber.

Three processes over real DDS: a camera (640x480 RGB and depth at 30 Hz, a simulated scene drawn before the
clock starts), the perception node with an engine that answers at once, and a bare rclpy subscriber of the
same images that only notes when they arrive. Two passes: the model saw nothing, which is the node alone
(p50_ms, p95_ms), and it named the scene's objects at their true boxes, so that reading, lifting and grasping
are paid for as well (objects_p50_ms, objects_p95_ms; benchmarks/geometry.py takes that part to pieces). With
--page both are run again with the live page open and one browser on it (page_p50_ms, page_objects_p50_ms, …; page_cpu is
the share of one core that the page's process took); somebody listens to grasps and tracks in all passes then, because the
node makes them for whoever does, be it a planner or the page. The last line is JSON.

    make bench BENCH=node_overhead [ARGS="--seconds 20 --objects 3 --page"]
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
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection3DArray

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.node import messages

SIZE = 640, 480
FRAME = "camera_color_optical_frame"


def scene(folder: Path, objects: int, seed: int) -> list[dict]:
    """Draws a scene into folder/scene.npz; returns the answer a perfect model would give for it."""
    from qwen3vl_ros.sim.camera import SimCamera
    from qwen3vl_ros.sim.scenes import sample_scene

    with SimCamera(*SIZE) as camera:
        view = camera.render(sample_scene(seed, n_objects=max(1, objects)))
    np.savez(folder / "scene.npz", rgb=view.rgb, depth_m=view.depth_m, K=view.K)
    scale = 1000 / np.array([*SIZE, *SIZE])
    return [
        {"bbox_2d": [round(v) for v in np.array(t.box_xyxy_px) * scale], "label": t.label}
        for t in view.truths[:objects]
    ]


def camera(folder: Path, rate_hz: float, count: int, subscribers: int) -> None:
    """Publishes the scene, once so many subscribe; writes how many pictures went out and how fast."""
    data = np.load(folder / "scene.npz")
    node = Node("benchmark_camera", namespace="qwen3vl")
    image, depth, info = (
        node.create_publisher(kind, topic, qos_profile_sensor_data)
        for kind, topic in ((Image, "image_raw"), (Image, "depth/image_raw"), (CameraInfo, "camera_info"))
    )
    header = messages.header_of(0, FRAME)
    rgb, metres = messages.image(header, data["rgb"]), messages.image(header, data["depth_m"].astype(np.float32))
    K = messages.camera_info(header, data["K"], SIZE)
    end = time.monotonic() + 60
    while image.get_subscription_count() < subscribers or depth.get_subscription_count() < subscribers:
        if time.monotonic() > end:
            raise RuntimeError("nobody subscribed within 60 s; see the logs of the other processes")
        time.sleep(0.05)
    start = time.monotonic()
    for i in range(count):
        time.sleep(max(0.0, start + i / rate_hz - time.monotonic()))
        header.stamp = node.get_clock().now().to_msg()
        info.publish(K)
        image.publish(rgb)
        depth.publish(metres)
    spent = time.monotonic() - start
    (folder / "camera.json").write_text(json.dumps({"sent": count, "hz": (count - 1) / spent}))
    time.sleep(1.0)  # what is in flight arrives


def bare(folder: Path) -> None:
    """The peer: subscribes to the same images and notes how old each is in its callback."""
    node = Node("benchmark_bare", namespace="qwen3vl")
    ages_ms: list[float] = []

    def on_image(message: Image) -> None:
        ages_ms.append((node.get_clock().now().nanoseconds - stamp_ns(message.header)) / 1e6)

    node.create_subscription(Image, "image_raw", on_image, qos_profile_sensor_data)
    node.create_subscription(Image, "depth/image_raw", lambda _: None, qos_profile_sensor_data)
    try:
        rclpy.spin(node)
    except rclpy.executors.ExternalShutdownException:
        pass  # the parent's SIGTERM says when it is over
    (folder / "bare.json").write_text(json.dumps(ages_ms))


def perception(folder: Path) -> int:
    """The product, with an engine that knows the answer."""
    from qwen3vl_ros.engine.base import EngineInfo
    from qwen3vl_ros.node.perception.main import main as run
    from qwen3vl_ros.types import Generation

    text = (folder / "answer.txt").read_text()
    ends = tuple(min(e, len(text)) for e in range(4, len(text) + 4, 4))

    class Instant:
        info = EngineInfo("instant", "the truth", "none", "cpu", "none", 0, False, "a benchmark")

        def generate(self, prompt, limits, control=None, on_text=None):
            return Generation(text, tuple(range(len(ends))), np.full(len(ends), -0.1, np.float32), ends, "stop")

        def status(self):
            return {}

        def close(self):
            pass

    return run([sys.argv[0], "--ros-args", "-p", "diagnostics_period:=0.5"], engine_loader=lambda config: Instant())


class OpenPage:
    """The live page and a browser on it, while it is entered."""

    def __init__(self, folder: Path):
        self._folder, self._children = folder, []

    def __enter__(self) -> OpenPage:
        words = self._start("page", "-m", "qwen3vl_ros.web", "--port", "0")
        port = words.rsplit(":", 1)[1].strip()
        self._start("viewer", str(Path(__file__).with_name("page_viewer.py")), port)
        return self

    def __exit__(self, *_) -> None:
        for child in reversed(self._children):
            child.terminate()
            child.wait(20)

    def _start(self, name: str, *command: str) -> str:
        """Start it; its line that says that it is ready."""
        with open(self._folder / f"{name}.log", "wb") as log:
            child = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=log, text=True)
        self._children.append(child)
        for line in child.stdout:
            if line.startswith(("page: http", "watching")):
                return line
        raise RuntimeError(f"the {name} ended:\n{(self._folder / f'{name}.log').read_text()[-3000:]}")

    def cpu_s(self) -> float:
        """Of the page's process, so far."""
        fields = Path(f"/proc/{self._children[0].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(
    answer: list[dict],
    seconds: float,
    rate_hz: float,
    folder: Path,
    listened: bool = False,
    page: OpenPage | None = None,
) -> dict:
    """One pass; times in milliseconds, the first second left out. listened: to grasps and tracks, too."""
    from qwen3vl_ros.msg import Generation, GraspTargetArray

    (folder / "answer.txt").write_text(json.dumps(answer))
    me = [sys.executable, __file__, "--folder", str(folder)]
    latencies_ms, geometry_ms, last = [], [], {}
    node = Node("benchmark_parent")

    def on_answer(m: Generation) -> None:
        latencies_ms.append((m.latency_s - m.preprocess_s - m.prefill_s - m.decode_s) * 1e3)
        geometry_ms.append(m.geometry_s * 1e3)

    def on_diagnostics(m: DiagnosticArray) -> None:
        last.update({v.key: v.value for v in m.status[0].values})

    node.create_subscription(Generation, "/qwen3vl/perception/generation", on_answer, 10)
    node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    if listened:
        for topic, kind in (("grasp_targets", GraspTargetArray), ("tracks_3d", Detection3DArray)):
            node.create_subscription(kind, f"/qwen3vl/perception/{topic}", lambda _: None, 10, raw=True)
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            executor.spin_once(0.1)

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    children = []
    try:
        for role in ("perception", "bare"):
            with open(folder / f"{role}.log", "wb") as log:
                children.append(subprocess.Popen([*me, "--role", role], stdout=log, stderr=subprocess.STDOUT))
        end = time.monotonic() + 60
        while not node.count_publishers("/qwen3vl/perception/generation"):
            if time.monotonic() > end:
                raise RuntimeError(f"the node did not start:\n{(folder / 'perception.log').read_text()[-3000:]}")
            time.sleep(0.05)
        count = round((seconds + 1) * rate_hz)
        shoot = [*me, "--role", "camera", "--rate", str(rate_hz), "--count", str(count)]
        spent_s, begun_s = page.cpu_s() if page else 0.0, time.monotonic()
        shooting = subprocess.run([*shoot, "--subscribers", "3" if page else "2"])
        page_cpu = (page.cpu_s() - spent_s) / (time.monotonic() - begun_s) if page else None
        if shooting.returncode:
            raise RuntimeError((folder / "perception.log").read_text()[-3000:])
        time.sleep(0.7)  # one more diagnosis
    finally:
        for child in children:
            child.terminate()
        try:
            for child in children:
                child.wait(20)
        finally:
            for child in children:
                child.kill()
            over.set()
            listening.join()
            executor.shutdown()
            node.destroy_node()
    shot = json.loads((folder / "camera.json").read_text())
    bare_ms = json.loads((folder / "bare.json").read_text())
    skip = round(rate_hz)
    if min(len(latencies_ms), len(bare_ms)) < 2 * skip:
        raise RuntimeError(
            f"{len(latencies_ms)} answers and {len(bare_ms)} images for the bare subscriber are too few to "
            f"measure; the node's diagnostics: {last}; its log:\n" + (folder / "perception.log").read_text()[-3000:]
        )
    node_p50, node_p95 = np.percentile(latencies_ms[skip:], (50, 95))
    bare_p50, bare_p95 = np.percentile(bare_ms[skip:], (50, 95))
    return {
        "p50_ms": round(node_p50, 2),
        "p95_ms": round(node_p95, 2),
        "bare_p50_ms": round(bare_p50, 2),
        "bare_p95_ms": round(bare_p95, 2),
        "camera_hz": round(shot["hz"], 2),
        "received": int(last["images"]),
        "sent": shot["sent"],
        "dropped_stale": int(last["dropped: stale"]),
        "answers": len(latencies_ms),
        "replaced": int(last["dropped: replaced by a newer"]),
        "bare_received": len(bare_ms),
        "geometry_p50_ms": round(float(np.median(geometry_ms)), 2),
        "objects": len(answer),
        **({"cpu": round(page_cpu, 3)} if page else {}),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each pass")
    parser.add_argument("--rate", type=float, default=30.0, help="pictures a second")
    parser.add_argument("--objects", type=int, default=1, help="in the scene and in the second pass's answer, 1 to 6")
    parser.add_argument("--seed", type=int, default=7, help="of the scene")
    parser.add_argument("--page", action="store_true", help="both passes again, with the live page open")
    for hidden in ("--role", "--folder", "--count", "--subscribers"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "perception":
        return perception(Path(given.folder))
    os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 2))
    rclpy.init()
    if given.role == "camera":
        camera(Path(given.folder), given.rate, int(given.count), int(given.subscribers))
        return 0
    if given.role == "bare":
        bare(Path(given.folder))
        return 0
    profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE", "(not set: frames will be lost)")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"FASTDDS_DEFAULT_PROFILES_FILE={profile}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        answer = scene(Path(folder), given.objects, given.seed)
        for each in ([], answer):
            rows.append(measure(each, given.seconds, given.rate, Path(folder), given.page))
        if given.page:
            with OpenPage(Path(folder)) as page:
                for each in ([], answer):
                    rows.append(measure(each, given.seconds, given.rate, Path(folder), True, page))
    columns = (
        "answer",
        "node p50",
        "p95",
        "bare p50",
        "p95",
        "p50 - bare",
        "p95 - bare",
        "geometry p50",
        "received",
        "answers",
    )
    print("".join(f"{name:>13}" for name in columns) + "   (ms)")
    for r in rows:
        figures = (
            r["p50_ms"],
            r["p95_ms"],
            r["bare_p50_ms"],
            r["bare_p95_ms"],
            r["p50_ms"] - r["bare_p50_ms"],
            r["p95_ms"] - r["bare_p95_ms"],
            r["geometry_p50_ms"],
        )
        print(
            f"{r['objects']:>5} objects"
            + "".join(f"{v:>13.1f}" for v in figures)
            + f"{r['received']:>8}/{r['sent']:<4}{r['answers']:>13}"
            + (f"   with the page open, which takes {100 * r['cpu']:.0f} % of a core" if "cpu" in r else "")
        )
    kept = ("p50_ms", "p95_ms", "bare_p50_ms", "bare_p95_ms", "geometry_p50_ms", "received", "sent", "answers", "cpu")
    extra = {
        f"{prefix}{k}": row[k]
        for prefix, row in zip(("objects_", "page_", "page_objects_"), rows[1:])
        for k in kept
        if k in row
    }
    print(json.dumps({**rows[0], **extra, "objects": rows[1]["objects"]}))
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
