"""The demo on disks that are full, cannot be written or are another demo's: a clear line, and earlier results stay."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ros_graph import claim_domain
from small_disk import disk, fill

from qwen3vl_ros.demo.output import FILES, RESULTS, Output
from qwen3vl_ros.demo.pictures import Gallery
from qwen3vl_ros.demo.recording import Recording
from qwen3vl_ros.demo.shared_memory import free_abandoned
from qwen3vl_ros.files import write_picture, write_whole
from qwen3vl_ros.types import InvalidInput

HELPERS = Path(__file__).parents[1] / "helpers"


def demo(out: Path, engine: str = "oracle", seconds: str = "3") -> subprocess.CompletedProcess:
    domain, lock = claim_domain()
    command = [
        sys.executable,
        str(HELPERS / "demo_with_engine.py"),
        engine,
        "--domain",
        str(domain),
        "--output",
        str(out),
    ]
    command += ["--panel-seconds", "0", "--no-arm", "--motion", "static", "--seconds", seconds, "--scene-seconds", "2"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=600)
    finally:
        free_abandoned()
        lock.close()


def earlier_results(folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    was = {name: f"the {name} of before".encode() for name in (*FILES, "scene_7.png", "mine.txt")}
    for name, data in was.items():
        (folder / name).write_bytes(data)
    return was


def left_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- the folder ------------------------------------------------------------------------------------------------------


def test_earlier_results_stay_until_the_new_ones_are_whole(tmp_path):
    was = earlier_results(tmp_path)
    with Output(tmp_path) as output:
        (output.work / RESULTS).write_text("new")
        assert left_in(tmp_path) == was
        output.finish()
    now = left_in(tmp_path)
    assert now.pop("mine.txt") == was["mine.txt"], "what is not the demo's is not touched"
    assert now == {RESULTS: b"new", "node.log": b""} and not (tmp_path / "unfinished").exists()


def test_a_run_that_did_not_finish_leaves_the_earlier_results_and_the_next_clears_up_after_it(tmp_path):
    was = earlier_results(tmp_path)
    with Output(tmp_path) as output:
        (output.work / "demo.mcap").write_text("half of it")
    assert left_in(tmp_path) == was
    with Output(tmp_path) as output:
        assert left_in(output.work) == {"node.log": b""}


def test_a_second_demo_in_the_same_folder_is_refused_by_name(tmp_path):
    with Output(tmp_path), pytest.raises(InvalidInput, match="another demo is writing .* --output"):
        Output(tmp_path)
    with Output(tmp_path):
        pass  # the first has ended


def refused(out: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "qwen3vl_ros.demo", "--output", str(out)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_demo_where_another_runs_says_so_in_one_line(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert "another demo is writing" in refused(tmp_path)
    os.close(folder)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with disk(tmp_path / "disk", "ro") as folder:
        assert f"{folder}/out cannot be written (Read-only file system)" in refused(folder / "out")
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(tmp_path / "file" / "out")
    assert "cannot be written" in refused(tmp_path / "file")


@pytest.mark.parametrize("domain", ["233", "-1", "kitchen"])
def test_a_domain_that_is_none_is_said(domain, tmp_path):
    command = [sys.executable, "-m", "qwen3vl_ros.demo", "--output", str(tmp_path / "out"), f"--domain={domain}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and f"domain '{domain}' is no ROS domain" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# -- a full disk -----------------------------------------------------------------------------------------------------


def test_a_demo_on_a_full_disk_runs_to_its_end_and_says_what_was_not_written(tmp_path):
    with disk(tmp_path / "disk", "size=600k") as folder:
        was = earlier_results(folder)
        done = demo(folder)
        assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stderr
        assert (
            "mean IoU" in done.stdout and json.loads(done.stdout.splitlines()[-1].removeprefix("demo: "))["answers"] > 0
        )
        said = next(line for line in done.stdout.splitlines() if line.startswith("not written into"))
        # Of a busy machine's few answers the recording may have room; its own full disk is below.
        assert "(No space left on device)" in said and "--output" in said
        assert left_in(folder) == was


def test_a_recording_on_a_full_disk_ends_and_leaves_nothing(tmp_path):
    with disk(tmp_path / "disk", "size=64k") as folder:
        with Recording(folder / "demo.mcap", lambda name: "string data") as recording:
            recording.open_topic("/a", "std_msgs/msg/String")
            for _ in range(60):
                recording.write("/a", os.urandom(1 << 20), 1)
        assert recording.failure == "No space left on device" and list(folder.iterdir()) == []
        assert 0 < recording.counts["/a"] < 60


def test_a_recording_whose_end_alone_does_not_fit_is_told_too(tmp_path):
    with disk(tmp_path / "disk", "size=64k") as folder:
        with Recording(folder / "demo.mcap", lambda name: "string data") as recording:
            recording.open_topic("/a", "std_msgs/msg/String")
            recording.write("/a", b"0000", 1)
            fill(folder)
        assert recording.failure == "No space left on device"


def test_a_video_that_does_not_fit_is_an_error_and_no_half_file(tmp_path):
    gallery, random = Gallery(), np.random.default_rng(0)
    for i in range(30):
        gallery.add_live(i * 100_000_000, random.integers(0, 255, (480, 640, 3), np.uint8))
    with disk(tmp_path / "disk", "size=64k") as folder:
        with pytest.raises(OSError):
            gallery.write_video(folder / "annotated.mp4")
        assert not (folder / "annotated.mp4").exists()
    assert gallery.write_video(tmp_path / "annotated.mp4") == 30


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_whole(path, bytes(1 << 20)),
        lambda path: write_picture(path, np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)),
    ],
    ids=["bytes", "a picture"],
)
def test_a_file_that_does_not_fit_is_as_it_was(tmp_path, write):
    with disk(tmp_path / "disk", "size=64k") as folder:
        path = folder / "file.png"
        path.write_bytes(b"before")
        with pytest.raises(OSError):
            write(path)
        assert left_in(folder) == {"file.png": b"before"}
