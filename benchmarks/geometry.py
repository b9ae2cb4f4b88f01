"""What does geometry cost? Reading a 50-object answer, lifting and grasping an object, each beside a plain
peer.

Peers in the same run, on the same input, on the same single thread: `json.loads` of the same text for
reading; Open3D alone (segment_plane, cluster_dbscan, get_minimal_oriented_bounding_box) for lifting; for
grasping a bare collision check of one gripper pose against the scene's points, the least any planner must do,
and no planner of grasps. Scenes come from the embedded camera at 640x480, with MuJoCo absent from ray-cast
solids. Accuracy of both lifters is printed as well: a fast wrong box is no bargain. The last line is JSON.

    make bench BENCH=geometry [ARGS="--scenes 40"]
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # of Open3D, the peer; ours are set as the node sets them

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from qwen3vl_ros.config import GripperConfig, LiftConfig  # noqa: E402
from qwen3vl_ros.geometry.cloud import SceneCloud  # noqa: E402
from qwen3vl_ros.geometry.lift import lift_boxes  # noqa: E402
from qwen3vl_ros.grasping.grasps import plan_grasps  # noqa: E402
from qwen3vl_ros.questions import Detect  # noqa: E402
from qwen3vl_ros.threads import settle  # noqa: E402
from qwen3vl_ros.types import Detection2D, Frame, Generation, View  # noqa: E402

SIZE = 640, 480
TARGETS = ("cube", "ball", "cylinder", "mug", "bowl")


@dataclass
class Timer:
    """Wall and processor milliseconds of calls of one kind, each divided by the objects the call handled."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def __call__(self, function, *args, objects: int = 1):
        wall, cpu = time.perf_counter(), time.thread_time()
        result = function(*args)
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        self.wall_ms += [1e3 * wall / objects] * objects
        self.cpu_ms += [1e3 * cpu / objects] * objects
        return result

    @property
    def p50(self) -> float:
        return float(np.median(self.wall_ms))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.wall_ms, 95))

    @property
    def cpu(self) -> float:
        return float(np.median(self.cpu_ms))


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame, ground-truth 2D boxes, and the true centres (camera frame) of the objects in them."""

    frame: Frame
    detections: tuple[Detection2D, ...]
    centres_m: np.ndarray


def embedded_samples(count: int) -> list[Sample]:
    """Scenes of the embedded camera, objects fully in view."""
    from qwen3vl_ros.sim.camera import SimCamera
    from qwen3vl_ros.sim.scenes import sample_scene

    samples = []
    with SimCamera(*SIZE, quality="fast") as camera:
        for seed in range(900, 900 + count):
            view = camera.render(sample_scene(seed))
            seen = [t for t in view.truths if t.fully_in_view and t.visibility >= 0.9]
            if seen:
                samples.append(
                    Sample(
                        Frame(0, "camera", view.rgb, view.depth_m, view.K),
                        tuple(Detection2D(t.label, t.box_xyxy_px, 0.9, str(t.index)) for t in seen),
                        np.array([t.camera_T_object[:3, 3] for t in seen]),
                    )
                )
    return samples


def solid_samples(count: int) -> list[Sample]:
    """Balls on a plane seen from 50 degrees, for machines without MuJoCo."""
    rays = np.dstack(
        (
            *np.meshgrid((np.arange(SIZE[0]) - 319.5) / 617, (np.arange(SIZE[1]) - 239.5) / 617),
            np.ones(SIZE[::-1]),
        )
    )
    up = np.array((0.0, -np.sin(np.deg2rad(50)), -np.cos(np.deg2rad(50))))
    samples = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        depth, labels = -0.5 / np.minimum(rays @ up, -1e-6), np.full(SIZE[::-1], -1)
        centres = []
        for k, angle in enumerate(rng.uniform(0, 1) + np.arange(4) * 1.57):
            radius = rng.uniform(0.025, 0.04)
            across = np.cross(up, (1.0, 0, 0))
            centre = np.array((0, 0, 0.65)) + 0.12 * (np.cos(angle) * np.array((1.0, 0, 0)) + np.sin(angle) * across)
            centre += (radius - 0.5 - centre @ up) * up
            a, b, c = (rays**2).sum(-1), rays @ centre, centre @ centre - radius**2
            with np.errstate(invalid="ignore"):
                t = (b - np.sqrt(b * b - a * c)) / a
            hit = t < depth  # False for NaN
            depth[hit], labels[hit] = t[hit], k
            centres.append(centre)
        boxes = []
        for k in range(4):
            row, column = np.nonzero(labels == k)
            boxes.append(Detection2D("ball", (column.min(), row.min(), column.max() + 1, row.max() + 1), 0.9, str(k)))
        K = np.array(((617, 0, 319.5), (0, 617, 239.5), (0, 0, 1.0)))
        samples.append(
            Sample(
                Frame(0, "camera", np.zeros((*SIZE[::-1], 3), np.uint8), depth.astype(np.float32), K),
                tuple(boxes),
                np.array(centres),
            )
        )
    return samples


# -- the peers -----------------------------------------------------------------------------------------------


def open3d_plane(frame: Frame):
    """Support plane of the thinned cloud as (a, b, c, d)."""
    import open3d as o3d

    points = organised(frame)[::4, ::4].reshape(-1, 3)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points[points[:, 2] > 0].astype(float)))
    return np.asarray(cloud.segment_plane(0.008, 3, 256)[0])


def organised(frame: Frame) -> np.ndarray:
    v, u = np.indices(frame.depth_m.shape, np.float32)
    K = frame.K.astype(np.float32)
    return np.dstack(((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u))) * frame.depth_m[..., None]


def open3d_lift(points: np.ndarray, plane: np.ndarray, box_px) -> np.ndarray | None:
    """Centre of the minimal oriented box around the largest cluster above the plane; None without one."""
    import open3d as o3d

    x0, y0, x1, y1 = (int(v) for v in box_px)
    inside = points[y0:y1, x0:x1].reshape(-1, 3).astype(float)
    inside = inside[(inside[:, 2] > 0) & (np.abs(inside @ plane[:3] + plane[3]) > 0.008)]
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(inside)).voxel_down_sample(0.004)
    if len(cloud.points) < 10:
        return None
    labels = np.asarray(cloud.cluster_dbscan(0.01, 8))
    if labels.max() < 0:
        return None
    largest = np.flatnonzero(labels == np.bincount(labels[labels >= 0]).argmax())
    return np.asarray(cloud.select_by_index(largest).get_minimal_oriented_bounding_box(robust=True).center)


def bare_collision_check(cloud: SceneCloud, detection, gripper: GripperConfig) -> int:
    """Points of the thinned scene inside two fingers at the object's centre."""
    R, centre = detection.frame_T_box[:3, :3], detection.frame_T_box[:3, 3]
    local = np.abs((cloud.thinned_m - centre) @ R)
    inner = detection.size_m[1] / 2 + gripper.clearance
    return int(
        (
            (local[:, 0] < gripper.finger_width / 2)
            & (local[:, 1] > inner)
            & (local[:, 1] < inner + gripper.finger_thickness)
        ).sum()
    )


# -- the measurements ----------------------------------------------------------------------------------------


def measure_reading(rounds: int) -> tuple[Timer, Timer]:
    rng = np.random.default_rng(0)
    objects = []
    for k in range(50):
        x, y = rng.integers(0, 900, 2)
        w, h = rng.integers(20, 100, 2)
        objects.append({"bbox_2d": [int(x), int(y), int(x + w), int(y + h)], "label": TARGETS[k % 5]})
    body = json.dumps(objects)
    text = f"```json\n{body}\n```"
    ends = tuple(range(3, len(text), 3)) + (len(text),)
    logprobs = rng.uniform(-0.5, 0, len(ends)).astype(np.float32)
    generation = Generation(text, tuple(range(len(ends))), logprobs, ends, "stop")
    question = Detect(TARGETS)
    ours, peer = Timer(), Timer()
    for _ in range(rounds):
        answer = ours(question.read, generation, (View(SIZE),))
        peer(json.loads, body)
    if len(answer.detections) != 50:
        raise SystemExit(f"the reader found {len(answer.detections)} of 50 objects: no figure is worth printing")
    return ours, peer


def measure_geometry(samples: list[Sample], rounds: int) -> dict:
    import open3d as o3d

    o3d.utility.set_verbosity_level(o3d.utility.VerbosityLevel.Error)  # it warns of its own boxes on flat clusters
    config, gripper = LiftConfig(), GripperConfig()
    timers = {name: Timer() for name in ("scene", "lift", "grasp", "peer scene", "peer lift", "peer grasp")}
    errors, peer_errors, feasible, targets = [], [], 0, 0
    for round_ in range(rounds + 1):  # the first round warms up and is thrown away
        if round_ == 1:
            timers = {name: Timer() for name in timers}
            errors, peer_errors, feasible, targets = [], [], 0, 0
        for sample in samples:
            n = len(sample.detections)
            cloud = SceneCloud.of(sample.frame, config)
            timers["scene"](lambda: (cloud.depth_m, cloud.planes))
            lifted = timers["lift"](lift_boxes, cloud, sample.detections, objects=n)
            grasps = timers["grasp"](
                plan_grasps, cloud, lifted.detections, gripper, False, objects=max(1, len(lifted.detections))
            )
            feasible, targets = feasible + sum(g.feasible for g in grasps), targets + len(grasps)
            truth = dict(zip((d.id for d in sample.detections), sample.centres_m))
            errors += [float(np.linalg.norm(d.frame_T_box[:3, 3] - truth[d.id])) for d in lifted.detections]
            if round_ != rounds:  # the peers are slow and steady: once is enough
                continue
            points, plane = timers["peer scene"](lambda: (organised(sample.frame), open3d_plane(sample.frame)))
            for detection in sample.detections:
                centre = timers["peer lift"](open3d_lift, points, plane, detection.box_xyxy_px)
                if centre is not None:
                    peer_errors.append(float(np.linalg.norm(centre - truth[detection.id])))
            for found in lifted.detections:
                timers["peer grasp"](bare_collision_check, cloud, found, gripper)
    return dict(timers=timers, errors=errors, peer_errors=peer_errors, feasible=feasible, targets=targets)


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} logical cores, "
        f"1 thread used{load}; Python {platform.python_version()}, NumPy {np.__version__}, "
        f"OpenCV {cv2.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        import open3d as o3d
    except ImportError as error:
        raise SystemExit(
            f"the peer of lifting is Open3D, and it cannot be imported: {error}; make bench installs it"
        ) from None
    settle()
    try:
        samples, source = embedded_samples(options.scenes), "embedded camera"
    except (ImportError, RuntimeError) as error:
        samples, source = solid_samples(options.scenes), f"ray-cast balls ({error})"
    reading, json_only = measure_reading(100)
    result = measure_geometry(samples, options.rounds)
    t = result["timers"]
    print(f"hardware: {hardware()}; Open3D {o3d.__version__}")
    print(
        f"input: {len(samples)} scenes of the {source}, 640x480, "
        f"{sum(len(s.detections) for s in samples)} objects with "
        f"ground-truth boxes, {options.rounds} rounds\n"
    )
    print(
        f"{'milliseconds':28}{'p50':>8}{'p95':>8}{'cpu p50':>9}   "
        f"{'peer':28}{'p50':>8}{'p95':>8}{'cpu p50':>9}{'ratio':>9}"
    )
    rows = (
        ("read a 50-object answer", reading, "json.loads of its JSON alone", json_only),
        ("cloud and planes, a frame", t["scene"], "Open3D segment_plane", t["peer scene"]),
        ("lift, an object", t["lift"], "Open3D dbscan + minimal box", t["peer lift"]),
        ("grasp, an object of a stream", t["grasp"], "one pose's collision check", t["peer grasp"]),
    )
    keys = ("parse_50", "scene", "lift", "grasp")
    for name, ours, peer_name, peer in rows:
        print(
            f"{name:28}{ours.p50:8.2f}{ours.p95:8.2f}{ours.cpu:9.2f}   "
            f"{peer_name:28}{peer.p50:8.2f}{peer.p95:8.2f}"
            f"{peer.cpu:9.2f}{ours.cpu / peer.cpu:9.2f}"
        )
    print(
        "cpu: the thread's processor time, which a busy machine does not stretch as it does p50 and p95; "
        "ratio: of these"
    )
    mm, peer_mm = (1e3 * np.percentile(result[key], (50, 90)) for key in ("errors", "peer_errors"))
    print(f"\n{'centre error, mm':28}{'p50':>8}{'p90':>8}")
    print(f"{'ours':28}{mm[0]:8.1f}{mm[1]:8.1f}\n{'Open3D alone':28}{peer_mm[0]:8.1f}{peer_mm[1]:8.1f}")
    print(f"feasible grasps: {result['feasible']} of {result['targets']}\n")
    print(
        json.dumps(
            {
                "parse_50_ms": round(reading.p50, 3),
                "parse_50_ms_p95": round(reading.p95, 3),
                "parse_50_cpu_ms": round(reading.cpu, 3),
                "json_loads_ms": round(json_only.p50, 3),
                "scene_ms": round(t["scene"].p50, 3),
                "scene_ms_p95": round(t["scene"].p95, 3),
                "scene_cpu_ms": round(t["scene"].cpu, 3),
                "open3d_scene_ms": round(t["peer scene"].p50, 3),
                "lift_ms_per_object": round(t["lift"].p50, 3),
                "lift_ms_per_object_p95": round(t["lift"].p95, 3),
                "lift_cpu_ms_per_object": round(t["lift"].cpu, 3),
                "open3d_lift_ms_per_object": round(t["peer lift"].p50, 3),
                "open3d_lift_cpu_ms_per_object": round(t["peer lift"].cpu, 3),
                "grasp_ms_per_object": round(t["grasp"].p50, 3),
                "grasp_ms_per_object_p95": round(t["grasp"].p95, 3),
                "grasp_cpu_ms_per_object": round(t["grasp"].cpu, 3),
                "collision_check_ms": round(t["peer grasp"].p50, 4),
                "centre_error_mm_median": round(float(mm[0]), 2),
                "centre_error_mm_p90": round(float(mm[1]), 2),
                "open3d_centre_error_mm_median": round(float(peer_mm[0]), 2),
                **{f"{key}_ratio": round(ours.cpu / peer.cpu, 4) for key, (_, ours, _, peer) in zip(keys, rows)},
                "feasible": result["feasible"],
                "targets": result["targets"],
                "objects": sum(len(s.detections) for s in samples),
                "scenes": source,
                "hardware": hardware(),
            }
        )
    )


if __name__ == "__main__":
    main()
