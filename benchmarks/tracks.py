"""Boxes at the camera's rate from answers that come late and seldom: ours, beside holding the last box and beside ByteTrack.

Courses of the embedded camera are recorded first, with their truth; then answers of an oracle and of the embedded model are handed
to each tracker `lag` seconds after their picture was taken, `rate` times a second. Figures: mean IoU with the truth at every frame of
what is to be seen and was ever in an answer by then, HOTA and IDF1 by trackeval, changes of id that nothing marked as uncertain, and
the processor's milliseconds a frame. ByteTrack (Roboflow trackers) is fed as answers come and its boxes are held in between. The last
line is JSON; its figures are means over the courses, 1 s late, once a second, of the oracle's answers unless their name says otherwise.

    make bench BENCH=tracks [ARGS="--courses twins fast --oracle-only"]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from qwen3vl_ros.sim.courses import COURSES, DURATION_S, Course
from qwen3vl_ros.threads import settle
from qwen3vl_ros.tracking.track import LOST, OCCLUDED, UNCERTAIN
from qwen3vl_ros.tracking.tracks import Tracks
from qwen3vl_ros.types import Detection2D, Frame, PerceptionError

HZ = 30
LAGS_S, RATES_HZ = (0.1, 0.5, 1.0, 2.0), (2.0, 1.0, 0.5)
EVERY = int(HZ / max(RATES_HZ))  # pictures between two that are ever asked about
SEEN, ANSWERED = 0.5, 0.25  # visible shares from which on a box is wanted, and is in the oracle's answer


@dataclass(eq=False)
class Recording:
    """A course as it was drawn. truths: of each picture, {object: (label, outline's box, visible part's box, visible share)}."""

    frames: list[Frame] = field(default_factory=list)
    truths: list[dict] = field(default_factory=list)


@dataclass(eq=False)
class Run:
    """What a tracker said of each picture: {id: box}, and which ids it marked as uncertain; its processor milliseconds."""

    boxes: list[dict[str, np.ndarray]] = field(default_factory=list)
    uncertain: list[set[str]] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    catch_up_ms: list[float] = field(default_factory=list)


def record(camera, course: Course) -> Recording:
    """Draw a course at 30 Hz. TF is the truth, or stands still where the course says that nobody knows."""
    recording, rng, first = Recording(), np.random.default_rng(0), None
    for i in range(int(DURATION_S * HZ)):
        view = camera.render(course.scene_at(i / HZ))
        first = view.world_T_camera if first is None else first
        depth_m = view.depth_m
        if course.depth_noise_m:
            depth_m = depth_m + course.depth_noise_m * depth_m**2 * rng.standard_normal(depth_m.shape, np.float32)
            depth_m[rng.random(depth_m.shape, np.float32) < 0.03] = 0.0
        pose = view.world_T_camera if course.pose_known else first
        recording.frames.append(
            Frame(round(1e9 * i / HZ), "camera", view.rgb, depth_m, view.K, target_T_camera=pose, target_frame="world")
        )
        recording.truths.append(
            {t.index: (t.label, np.array(t.amodal_box_xyxy_px), t.box_xyxy_px, t.visibility) for t in view.truths}
        )
    return recording


def oracle_answers(recording: Recording) -> dict[int, tuple[Detection2D, ...]]:
    return {
        k: tuple(
            Detection2D(label, box, 0.9) for label, _, box, share in recording.truths[k].values() if share > ANSWERED
        )
        for k in range(0, len(recording.frames), EVERY)
    }


def model_answers(recording: Recording, engine) -> dict[int, tuple[Detection2D, ...]]:
    """What the embedded model says of the pictures it could be asked about."""
    from qwen3vl_ros.pipeline import Perception
    from qwen3vl_ros.questions import Detect

    question = Detect(tuple(dict.fromkeys(label for label, *_ in recording.truths[0].values())))
    answers = {}
    for k in range(0, len(recording.frames), EVERY):
        frame = recording.frames[k]
        try:
            answers[k] = Perception(engine).look(Frame(frame.stamp_ns, "camera", frame.rgb), question).detections_2d
        except PerceptionError as error:
            print(f"   no answer to picture {k}: {error}")
            answers[k] = ()
    return answers


# -- the trackers ----------------------------------------------------------------------------------------------------


def arrivals(answers: dict, lag_s: float, rate_hz: float) -> dict[int, int]:
    """{picture at which an answer arrives: picture that it is about}."""
    every, late = round(HZ / rate_hz), round(lag_s * HZ)
    return {k + late: k for k in answers if k % every == 0}


def run_ours(recording: Recording, answers: dict, lag_s: float, rate_hz: float) -> Run:
    run, tracks, due = Run(), Tracks(), arrivals(answers, lag_s, rate_hz)
    for k, frame in enumerate(recording.frames):
        if k in due:
            tracks.assign(recording.frames[due[k]], "bench", answers[due[k]])
            started = time.thread_time()
            tracks.catch_up()
            run.catch_up_ms.append(1e3 * (time.thread_time() - started))
        started = time.thread_time()
        said = tracks.step(frame)
        run.step_ms.append(1e3 * (time.thread_time() - started))
        run.boxes.append({t.id: np.array(t.box_xyxy_px) for t in said if t.state not in (LOST, OCCLUDED)})
        run.uncertain.append({t.id for t in said if t.state == UNCERTAIN})
    return run


def run_held(recording: Recording, answers: dict, lag_s: float, rate_hz: float) -> Run:
    """The last answer's boxes, with the ids that answers alone give."""
    from qwen3vl_ros.tracking.identity import TrackIds

    run, ids, due, now = Run(), TrackIds(), arrivals(answers, lag_s, rate_hz), {}
    for k in range(len(recording.frames)):
        if k in due:
            named = ids.assign(recording.frames[due[k]].stamp_ns, "bench", answers[due[k]])
            now = {d.id: np.array(d.box_xyxy_px) for d in named}
        run.boxes.append(now)
        run.uncertain.append(set())
    return run


def run_byte_track(recording: Recording, answers: dict, lag_s: float, rate_hz: float) -> Run:
    import supervision as sv
    from trackers import ByteTrackTracker

    tracker = ByteTrackTracker(frame_rate=rate_hz, minimum_consecutive_frames=1, track_activation_threshold=0.25)
    run, due, now = Run(), arrivals(answers, lag_s, rate_hz), {}
    for k in range(len(recording.frames)):
        if k in due and answers[due[k]]:
            boxes = np.array([d.box_xyxy_px for d in answers[due[k]]], np.float32)
            named = tracker.update(
                sv.Detections(boxes, confidence=np.full(len(boxes), 0.9), class_id=np.zeros(len(boxes), int))
            )
            now = {str(i): box for i, box in zip(named.tracker_id, named.xyxy) if i >= 0}
        run.boxes.append(now)
        run.uncertain.append(set())
    return run


# -- the judging -----------------------------------------------------------------------------------------------------


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """NxM overlaps of boxes Nx4 and Mx4."""
    a, b = a.reshape(-1, 1, 4), b.reshape(1, -1, 4)
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    return overlap / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap)


def judge(recording: Recording, answers: dict, run: Run, lag_s: float, rate_hz: float) -> dict:
    """Mean IoU, HOTA, IDF1, unmarked changes of id, share of boxes marked uncertain."""
    from scipy.optimize import linear_sum_assignment
    from trackeval.metrics import HOTA, Identity

    due, known, owner = arrivals(answers, lag_s, rate_hz), set(), {}
    overlaps, swaps, frames, numbers, found, visible = [], 0, [], {}, 0, 0
    for k, (truth, said, doubted) in enumerate(zip(recording.truths, run.boxes, run.uncertain)):
        if k in due and answers[due[k]]:
            table = ious(
                np.array([t[2] for t in recording.truths[due[k]].values()]),
                np.array([d.box_xyxy_px for d in answers[due[k]]]),
            )
            known |= {i for i, best in zip(recording.truths[due[k]], table.max(1)) if best >= 0.5}
        wanted = [i for i in truth if i in known and truth[i][3] > SEEN]
        found += len(wanted)
        visible += sum(t[3] > SEEN for t in truth.values()) if k >= min(due) else 0
        hidden = [i for i in truth if i not in wanted]
        ids = list(said)
        table = ious(np.array([truth[i][1] for i in (*wanted, *hidden)]), np.array([said[i] for i in ids]))
        if ids and hidden:  # a box of what is hardly to be seen is neither right nor wrong
            best = table.argmax(0)
            keep = [j for j in range(len(ids)) if best[j] < len(wanted) or table[best[j], j] < 0.5]
            ids, table = [ids[j] for j in keep], table[:, keep]
        table = table[: len(wanted)]
        rows, columns = linear_sum_assignment(-table)
        overlaps += [0.0] * (len(wanted) - len(rows)) + [float(v) for v in table[rows, columns]]
        for i, j in zip(rows, columns):
            if table[i, j] >= 0.5:
                swaps += owner.get(wanted[i], ids[j]) != ids[j] and ids[j] not in doubted
                owner[wanted[i]] = ids[j]
        frames.append((np.array(wanted, int), np.array([numbers.setdefault(i, len(numbers)) for i in ids], int), table))
    boxes = sum(len(said) for said in run.boxes)
    data = {
        "num_timesteps": len(frames),
        "num_gt_ids": max(map(len, recording.truths)),
        "num_tracker_ids": len(numbers),
        "num_gt_dets": sum(len(f[0]) for f in frames),
        "num_tracker_dets": sum(len(f[1]) for f in frames),
        "gt_ids": [f[0] for f in frames],
        "tracker_ids": [f[1] for f in frames],
        "similarity_scores": [f[2] for f in frames],
    }
    return {
        "iou": float(np.mean(overlaps)) if overlaps else float("nan"),
        "hota": float(np.mean(HOTA().eval_sequence(data)["HOTA"])),
        "idf1": float(Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False}).eval_sequence(data)["IDF1"]),
        "found": found / max(visible, 1),
        "swaps": swaps,
        "uncertain": sum(map(len, run.uncertain)) / max(boxes, 1),
        "step_ms": float(np.median(run.step_ms)) if run.step_ms else float("nan"),
        "catch_up_ms": float(np.median(run.catch_up_ms)) if run.catch_up_ms else float("nan"),
    }


TRACKERS = {"ours": run_ours, "hold": run_held, "bytetrack": run_byte_track}


def measure(recording: Recording, name: str, source: str, answers: dict) -> dict:
    """{(source, course, lag, rate, tracker): figures}, printed as they come."""
    results = {}
    for lag_s in LAGS_S:
        for rate_hz in RATES_HZ:
            row = {}
            for tracker, run in TRACKERS.items():
                row[tracker] = judge(recording, answers, run(recording, answers, lag_s, rate_hz), lag_s, rate_hz)
                results[source, name, lag_s, rate_hz, tracker] = row[tracker]
            ours = row["ours"]
            print(
                f"{source:8}{name:11}{lag_s:5.1f}{rate_hz:6.1f}   "
                + "   ".join(f"{row[t]['iou']:6.3f}{row[t]['hota']:6.3f}{row[t]['idf1']:6.3f}" for t in TRACKERS)
                + f"   {ours['swaps']:5d}{ours['uncertain']:10.3f}{ours['step_ms']:8.2f}{ours['catch_up_ms']:9.2f}",
                flush=True,
            )
    return results


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [s.split(":", 1)[1].strip() for s in info.read_text().splitlines() if s.startswith("model name")]
        if info.exists()
        else []
    )
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} logical cores{load}; "
        f"Python {platform.python_version()}, NumPy {np.__version__}, OpenCV {cv2.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--courses", nargs="+", choices=COURSES, default=list(COURSES))
    parser.add_argument("--oracle-only", action="store_true", help="leave the embedded model out")
    options = parser.parse_args()
    try:
        import trackers  # noqa: F401
        import trackeval  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed; `make bench BENCH=tracks` installs it") from None
    from qwen3vl_ros.engine import load_engine
    from qwen3vl_ros.sim.camera import SimCamera

    how = settle()
    engine = None if options.oracle_only else load_engine()
    print(f"hardware: {hardware()}\nthreads: {how}\n")
    print(
        f"{'':30}   "
        + "   ".join(f"{t + ': IoU HOTA IDF1':18}" for t in TRACKERS)
        + "   swaps uncertain ms/frame catch-up"
    )
    results: dict = {}
    with SimCamera(640, 480, quality="fast") as camera:
        for name in options.courses:
            recording = record(camera, COURSES[name])
            results |= measure(recording, name, "oracle", oracle_answers(recording))
            if engine is not None:
                results |= measure(recording, name, "model", model_answers(recording, engine))

    def mean(figure: str, tracker: str = "ours", source: str = "oracle") -> float:
        chosen = [
            r[figure] for (s, _, lag, rate, t), r in results.items() if (s, lag, rate, t) == (source, 1.0, 1.0, tracker)
        ]
        return round(float(np.mean(chosen)), 4) if chosen else float("nan")

    ours = [r for (s, *_, t), r in results.items() if t == "ours" and s == "oracle"]
    ten = [r["step_ms"] for (_, c, *_, t), r in results.items() if t == "ours" and c in ("orbit", "noise")]
    summary = {
        "iou_1s": mean("iou"),
        "iou_1s_hold": mean("iou", "hold"),
        "iou_1s_peer": mean("iou", "bytetrack"),
        "hota": mean("hota"),
        "hota_hold": mean("hota", "hold"),
        "hota_peer": mean("hota", "bytetrack"),
        "idf1": mean("idf1"),
        "idf1_peer": mean("idf1", "bytetrack"),
        "swaps": sum(r["swaps"] for r in ours),
        "uncertain": round(float(np.mean([r["uncertain"] for r in ours])), 4),
        "ms_per_frame": round(float(np.median(ten)), 2) if ten else None,
        "catch_up_ms": mean("catch_up_ms"),
    }
    if engine is not None:
        summary |= {
            "model_iou_1s": mean("iou", "ours", "model"),
            "model_iou_1s_hold": mean("iou", "hold", "model"),
            "model_found": mean("found", "ours", "model"),
            "model_hota": mean("hota", "ours", "model"),
            "model_hota_peer": mean("hota", "bytetrack", "model"),
        }
    print(json.dumps(summary | {"hardware": hardware()}))


if __name__ == "__main__":
    main()
