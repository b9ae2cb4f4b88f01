"""The demo end to end: real processes, real DDS, real files; and nothing left behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import cv2
import foxglove
import psutil
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from qwen3vl_ros.asking import Code
from qwen3vl_ros.demo.shared_memory import free_abandoned

HELPERS = Path(__file__).parents[1] / "helpers"
PROMISED = (
    "frames",
    "answers",
    "precision_2d",
    "recall_2d",
    "mean_iou",
    "centre_error_mm_median",
    "grasp_targets",
    "feasible",
    "latency_ms_p50",
    "latency_ms_p95",
    "overhead_ms_p50",
    "dropped",
    "node_peak_memory_mb",
    "malformed",
)


class Run:
    """A demo in its own process, whose descendants are known by a mark in their environment."""

    def __init__(self, folder: Path, engine: str, *arguments: str):
        from ros_graph import claim_domain

        domain, self.lock = claim_domain()
        self.mark, self.out = uuid.uuid4().hex, folder / "out"
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        command = [
            sys.executable,
            "-u",
            str(HELPERS / "demo_with_engine.py"),
            engine,
            "--domain",
            str(domain),
            "--output",
            str(self.out),
            "--panel-seconds=0",
            "--no-arm",
            "--motion",
            "static",
            *arguments,
        ]
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.popen = subprocess.Popen(
                command, stdout=stdout, stderr=stderr, env={**os.environ, "DEMO_MARK": self.mark}
            )

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def printed(self, text: str) -> None:
        self.until(lambda: text in self.stdout, f"{text!r} on stdout")

    def until(self, condition, what: str, timeout_s: float = 400.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.popen.poll() is None, f"the demo ended without {what}:\n{self.stdout}\n{self.stderr}"
            assert time.monotonic() < end, f"{what} did not come within {timeout_s:g} s:\n{self.stdout}\n{self.stderr}"
            time.sleep(0.02)

    def status(self) -> int:
        return self.popen.wait(600)

    def figures(self) -> dict:
        last = self.stdout.strip().splitlines()[-1]
        assert last.startswith("demo: "), f"{self.stdout}\n{self.stderr}"
        return json.loads(last.removeprefix("demo: "))

    def processes(self) -> list[psutil.Process]:
        """The demo and all it started that still run."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DEMO_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue  # it ended while we looked, or is not ours to look at
        return found

    def child(self, module: str) -> psutil.Process:
        return next(p for p in self.processes() if module in p.cmdline())

    def close(self) -> None:
        for process in self.processes():
            process.kill()
        self.popen.wait(60)
        free_abandoned()
        self.lock.close()


@pytest.fixture
def demo(tmp_path):
    runs = []

    def start(engine: str, *arguments: str) -> Run:
        runs.append(Run(tmp_path, engine, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    """A run of 6 s over three scenes with an engine that is right."""
    run = Run(tmp_path_factory.mktemp("demo"), "oracle", "--seconds", "6", "--scene-seconds", "2")
    try:
        run.exit_status = run.status()
        run.left = [p.cmdline() for p in run.processes()]
        yield run
    finally:
        run.close()


def test_what_is_right_is_counted_as_right(good_run):
    assert good_run.exit_status == 0, f"{good_run.stdout}\n{good_run.stderr}"
    figures = good_run.figures()
    assert [key for key in PROMISED if key not in figures] == []
    assert figures["recall_2d"] == 1.0 and figures["precision_2d"] == 1.0 and figures["mean_iou"] > 0.9
    assert figures["centre_error_mm_median"] < 10
    # As many as a camera of 8 Hz gives in 6 s are not asked for: a busy machine must not fail this.
    assert figures["frames"] >= 2 and figures["answers"] >= 2 and figures["malformed"] == 0
    assert 0 < figures["overhead_ms_p50"] <= figures["latency_ms_p50"] <= figures["latency_ms_p95"]
    assert figures["grasp_targets"] >= figures["feasible"] >= 0 and figures["grasp_targets"] > 0


def test_the_services_are_used_and_shown(good_run):
    assert '~/set_prompt "the ' in good_run.stdout and "~/set_prompt: back to cube" in good_run.stdout
    assert '~/detect "the ' in good_run.stdout
    results = json.loads((good_run.out / "results.json").read_text())
    assert [call["success"] for call in results["detect_calls"]] == [True]
    english, chinese = results["questions"]
    assert english["question"].startswith("Where is the ") and "在哪里" in chinese["question"]
    for asked in (english, chinese):
        # On a busy machine another table-top may lie there meanwhile: then it is not found, and only then.
        right = {Code.OK, Code.NOT_FOUND, Code.AMBIGUOUS}
        if asked["visible"] == []:
            right = {Code.NOT_FOUND}
        elif asked["visible"] and len(asked["visible"]) == 1 and asked["visible"][0] >= 0.5:
            right = {Code.OK}
        if asked["code"] == Code.STALE:  # eight times in a row
            assert "depth image" in asked["message"], asked
        else:
            assert asked["code"] in right and asked["facts"], asked
        assert f"~/ask {asked['question']}  {asked['answer']}" in good_run.stdout
    assert chinese["answer"].endswith("。") and english["answer"].endswith(".")
    # Each question on the picture it was asked of, side by side; one alone where the other had none.
    assert cv2.imread(str(good_run.out / "asked.png")).shape in ((678, 1810, 3), (960, 1280, 3))
    assert any(len(answer["prompt"]) == 1 and answer["wanted"] == 1 for answer in results["answer_log"])


def test_the_rule_and_a_row_for_each_scene_are_printed(good_run):
    assert "at least 50% visible" in good_run.stdout
    scenes = json.loads((good_run.out / "results.json").read_text())["scenes"]
    assert len(scenes) >= 3 and sum(s["answers"] for s in scenes) == good_run.figures()["answers"]
    for scene in scenes:
        assert ", ".join(scene["objects"]) in good_run.stdout


def test_the_video_plays_and_the_pictures_open(good_run):
    video = cv2.VideoCapture(str(good_run.out / "annotated.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) >= 2  # of as long as the camera was heard
    fourcc = int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    assert fourcc in ("h264", "avc1")
    shown, picture = video.read()
    assert shown and picture.shape == (536, 1280, 3)
    pictures = [cv2.imread(str(p)) for p in good_run.out.glob("scene_*.png")]
    assert pictures and all(p.shape == (960, 1280, 3) for p in pictures)


def test_the_recording_holds_every_answer_with_its_image(good_run):
    stamps, topics = {}, set()
    with open(good_run.out / "demo.mcap", "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for _, channel, _, message in reader.iter_decoded_messages():
            topics.add(channel.topic)
            if hasattr(message, "header"):
                stamps.setdefault(channel.topic, set()).add((message.header.stamp.sec, message.header.stamp.nanosec))
    expected = {
        f"/qwen3vl/{name}"
        for name in (
            "image_raw/compressed",
            "depth/image_raw/compressedDepth",
            "camera_info",
            "perception/detections_2d",
            "perception/detections_3d",
            "perception/grasp_targets",
            "perception/grasp_poses",
            "perception/generation",
            "perception/markers",
            "perception/annotated_image/compressed",
            "sim_camera/ground_truth_2d",
            "sim_camera/ground_truth_3d",
        )
    }
    assert expected | {"/tf_static", "/diagnostics"} <= topics
    answered, images, depths = (
        stamps[f"/qwen3vl/{name}"]
        for name in ("perception/generation", "image_raw/compressed", "depth/image_raw/compressedDepth")
    )
    assert len(answered) >= good_run.figures()["answers"]
    # Images are best effort: the node may have met the camera earlier, and a starved machine loses most.
    assert answered & images
    assert depths and depths <= answered, "one a second, of what was answered"
    assert images & stamps["/qwen3vl/sim_camera/ground_truth_2d"]


def test_the_recording_is_small_and_the_foxglove_layout_shows_what_is_in_it(good_run):
    recording = good_run.out / "demo.mcap"
    with open(recording, "rb") as file:
        summary = make_reader(file).get_summary()
    assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}
    assert recording.stat().st_size < 1e6 + 25e6 * good_run.figures()["camera_s"] / 30
    recorded = {c.topic: summary.schemas[c.schema_id].name for c in summary.channels.values()}
    shown = foxglove.shown(in_demo=True)
    assert foxglove.ONLY_LIVE < {topic for _, topic, _ in shown}
    for panel, topic, field in shown:
        if topic not in foxglove.ONLY_LIVE:
            assert topic in recorded, f"{panel} shows {topic}"
            foxglove.check(panel, recorded[topic], field)


def test_nothing_is_left_running(good_run):
    assert good_run.left == []


@pytest.mark.parametrize("engine", ["blind", "slow"])
def test_seeing_nothing_is_a_failure_with_figures(demo, engine):
    """However slow the machine or the model: a run measures at least one answer."""
    run = demo(engine, "--seconds", "2", "--scene-seconds", "2")
    assert run.status() == 1
    assert run.figures()["answers"] >= 1 and run.figures()["camera_s"] >= 2.0
    assert run.figures()["recall_2d"] == 0.0 and run.figures()["precision_2d"] is None
    assert "nothing was detected" in run.stdout and (run.out / "annotated.mp4").stat().st_size > 0


def test_a_node_that_dies_is_reported_with_its_last_words(demo):
    run = demo("crashing", "--seconds", "30")
    assert run.status() == 1
    assert "node ended unexpectedly (exit status 9)" in run.stderr and "the last words of the node" in run.stderr
    assert run.processes() == []


def test_a_model_that_is_not_there_is_reported_in_the_nodes_words(tmp_path, demo):
    run = demo("missing_model", "--seconds", "30")
    assert run.status() == 1 and "node ended unexpectedly" in run.stderr and "missing_model" in run.stderr
    assert run.processes() == []


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupt_ends_everything(demo, number, status):
    run = demo("blind", "--seconds", "60")
    run.printed("simulated camera: ")
    assert len(run.processes()) == 3
    run.popen.send_signal(number)
    assert run.status() == status, run.stderr
    assert run.processes() == [] and "interrupted" in run.stderr
    with open(run.out / "demo.mcap", "rb") as file:
        assert make_reader(file).get_summary().statistics.message_count > 0


def test_a_killed_demo_takes_its_processes_along(demo):
    run = demo("blind", "--seconds", "60")
    run.printed("simulated camera: ")
    run.popen.kill()
    run.popen.wait(60)
    end = time.monotonic() + 200
    while (left := run.processes()) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == [], [p.cmdline() for p in left]


def test_a_camera_that_dies_is_reported(demo):
    run = demo("blind", "--seconds", "60")
    run.printed("simulated camera: ")
    run.child("qwen3vl_ros.node.sim_camera").kill()
    assert run.status() == 1 and "camera ended unexpectedly (killed by SIGKILL)" in run.stderr
    assert run.processes() == []
