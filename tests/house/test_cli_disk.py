"""The command line on a full disk: one line, and files as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_disk import disk, fill


def qwen3vl(*arguments: str, stdout=subprocess.PIPE) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "qwen3vl_ros.cli", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=240)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8))
    return path


def test_output_on_a_full_disk_is_said_and_the_picture_of_before_stays(photo, tmp_path):
    with disk(tmp_path / "disk", "size=64k") as folder:
        out = folder / "found.png"
        out.write_bytes(b"before")
        done = qwen3vl("detect", str(photo), "cube", "--output", str(out))
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"--output {out} could not be written: No space left on device" in done.stderr
        assert [p.read_bytes() for p in folder.iterdir()] == [b"before"]


def test_a_sample_that_does_not_fit_is_one_line(tmp_path):
    with disk(tmp_path / "disk", "size=64k") as folder:
        fill(folder)
        done = qwen3vl("sample", str(folder / "pictures"))
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "No space left on device" in done.stderr


def test_standard_output_on_a_full_disk_is_an_error():
    with Path("/dev/full").open("w") as full:
        done = qwen3vl("doctor", "--quick", stdout=full)
    assert done.returncode == 2 and "No space left on device" in done.stderr and "Traceback" not in done.stderr
