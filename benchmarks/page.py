"""How many pictures with boxes reach a browser's screen?

A headless Chromium, which draws the 3D scene by the CPU, looks at the live page. A picture counts when the browser has decoded it and
draws a frame with it (pictures_per_s; with boxes on it: boxed_per_s; longest_gap_s between two). Beside it what the node publishes
meanwhile (tracks_per_s) and the camera (camera_per_s). page_cpu_share is the page's process alone, of a core. The camera sends one
simulated scene with a clock's hand that moves, and the node has an engine that knows the answer (benchmarks/node_overhead.py), so
that the machine has time for a browser; with --live all is as `make live` starts it, renderer and embedded model too. The last line is JSON.

    make bench BENCH=page [ARGS="--seconds 10 --rate 15"]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import node_overhead
import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2DArray

from qwen3vl_ros.node import messages
from qwen3vl_ros.node.client import NEWEST, RELIABLE, Client

CHROMIUM = ("chromium-headless-shell", "chromium", "google-chrome")
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage")
CAMERA = "table"  # of `make live`
OBJECTS = 3
# A picture counts when it is there as the browser draws a frame; of two within a frame one is seen.
COUNT = """(seconds) => new Promise((done) => {
    const shown = {pictures: 0, boxed: 0, frames: 0, gap: 0};
    const begun = performance.now();
    let loaded = '', last = '', at = begun;
    document.addEventListener('load', (e) => {
        if (e.target.matches('img[src^=blob]')) loaded = e.target.src;
    }, true);
    const frame = (now) => {
        shown.frames++;
        if (loaded !== last) {
            shown.pictures++;
            shown.boxed += document.querySelector('.boxes rect') ? 1 : 0;
            shown.gap = Math.max(shown.gap, now - at);
            last = loaded;
            at = now;
        }
        if (now - begun < 1000 * seconds) requestAnimationFrame(frame);
        else done({...shown, gap: Math.max(shown.gap, now - at), seconds: (now - begun) / 1000});
    };
    requestAnimationFrame(frame);
})"""


class Started:
    """Processes that end with it. log: of each, by its name."""

    def __init__(self, folder: Path):
        self.folder, self._children = folder, []

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_) -> None:
        for child in reversed(self._children):
            child.terminate()
        for child in self._children:
            child.wait(60)

    def start(self, name: str, *command: str, until: str = "") -> tuple[int, str]:
        """Its process id, and what it has said once it has said `until`."""
        path = self.folder / f"{name}.log"
        with open(path, "wb") as log:
            child = subprocess.Popen([sys.executable, *command], stdout=log, stderr=subprocess.STDOUT)
        self._children.append(child)
        end = time.monotonic() + 120
        while until not in (said := path.read_text()):
            if child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the {name} did not start:\n{said[-3000:]}")
            time.sleep(0.1)
        return child.pid, said


def start_live(started: Started, rate_hz: float) -> tuple[int, str]:
    """`make live`; the pid of the page and its address."""
    given = ("--table", "--rate", str(rate_hz), "--port", "0")
    pid, said = started.start("live", "-m", "qwen3vl_ros.web.live", *given, until="page: http")
    return pid, address(said)


def start_still(started: Started, rate_hz: float) -> tuple[int, str]:
    """One scene again and again, a node that knows its objects, and the page."""
    answer = node_overhead.scene(started.folder, OBJECTS, seed=7)
    (started.folder / "answer.txt").write_text(json.dumps(answer))
    role = (node_overhead.__file__, "--folder", str(started.folder), "--role")
    started.start("perception", *role, "perception", until="active: ")
    pid, said = started.start("page", "-m", "qwen3vl_ros.web", "--port", "0", until="page: http")
    started.start("camera", __file__, "--rate", str(rate_hz), "--camera", str(started.folder))
    return pid, address(said)


def camera(folder: Path, rate_hz: float) -> None:
    """Publishes the scene until SIGTERM, no picture as the one before: a browser does not load what it shows already."""
    rclpy.init()
    data = dict(np.load(folder / "scene.npz"))
    node = rclpy.create_node("benchmark_camera", namespace="qwen3vl")
    image, depth, info = (
        node.create_publisher(kind, topic, qos_profile_sensor_data)
        for kind, topic in ((Image, "image_raw"), (Image, "depth/image_raw"), (CameraInfo, "camera_info"))
    )
    header = messages.header_of(0, node_overhead.FRAME)
    metres, size = messages.image(header, data["depth_m"].astype(np.float32)), data["rgb"].shape[1::-1]
    intrinsics = messages.camera_info(header, data["K"], size)
    start, number = time.monotonic(), 0
    while rclpy.ok():
        number += 1
        time.sleep(max(0.0, start + number / rate_hz - time.monotonic()))
        rgb = data["rgb"].copy()
        at = 4 * number % (size[0] - 8)
        rgb[:8, at : at + 8] = 255
        header.stamp = node.get_clock().now().to_msg()
        info.publish(intrinsics)
        image.publish(messages.image(header, rgb))
        depth.publish(metres)


def address(said: str) -> str:
    return said.partition("page: ")[2].split()[0]


class Published:
    """What the camera and the node say, counted by topic."""

    def __init__(self, camera: str):
        own = f"{camera}/" if camera else ""
        self.counts = {"camera": 0, "tracks": 0, "answers": 0}
        self._client = Client("benchmark_page", "qwen3vl")
        self._count("camera", f"{own}camera_info", CameraInfo, NEWEST)
        self._count("tracks", f"perception/{own}tracks_2d", Detection2DArray)
        self._count("answers", f"perception/{own}detections_2d", Detection2DArray)
        self._client.spin_alone()

    def _count(self, name: str, topic: str, kind: type, qos=RELIABLE) -> None:
        def arrived(_: bytes) -> None:
            self.counts[name] += 1

        self._client.subscribe(topic, kind, arrived, qos)

    def close(self) -> None:
        self._client.close()


def cpu_s(pid: int) -> float:
    """Of a process, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(url: str, pid: int, camera: str, seconds: float) -> dict:
    """What Chromium shows of the page, once boxes are on it, and what was published meanwhile."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise RuntimeError(f"none of {', '.join(CHROMIUM)} is here: apt-get install chromium-headless-shell")
    published = Published(camera)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_selector(".boxes rect", state="attached", timeout=120_000)
        page.wait_for_timeout(3000)  # the scene and its first cloud are made
        before, spent_s, begun_s = dict(published.counts), cpu_s(pid), time.monotonic()
        shown = page.evaluate(COUNT, seconds)
        spent_s, passed_s = cpu_s(pid) - spent_s, time.monotonic() - begun_s
        counts = {name: (count - before[name]) / passed_s for name, count in published.counts.items()}
        browser.close()
    published.close()
    return {
        "pictures_per_s": round(shown["pictures"] / shown["seconds"], 2),
        "boxed_per_s": round(shown["boxed"] / shown["seconds"], 2),
        "longest_gap_s": round(shown["gap"] / 1000, 3),
        "frames_per_s": round(shown["frames"] / shown["seconds"], 2),
        **{f"{name}_per_s": round(count, 2) for name, count in counts.items()},
        "page_cpu_share": round(spent_s / passed_s, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="that are counted")
    parser.add_argument("--rate", type=float, default=15.0, help="pictures a second of the camera")
    parser.add_argument("--live", action="store_true", help="`make live` as it is, with its renderer and its model")
    parser.add_argument("--camera", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.camera:
        camera(Path(given.camera), given.rate)
        return 0
    load = os.getloadavg()[0]
    os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 2))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with tempfile.TemporaryDirectory() as folder, Started(Path(folder)) as started:
        if given.live:
            pid, url = start_live(started, given.rate)
        else:
            pid, url = start_still(started, given.rate)
        figures = watched(url, pid, CAMERA if given.live else "", given.seconds)
    for name, value in figures.items():
        print(f"{name:>16}  {value:g}")
    print(json.dumps({**figures, "cores": os.cpu_count(), "load_before": round(load, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
