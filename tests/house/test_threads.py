"""Threads of BLAS, OpenCV and the runtimes: decided in one place, at run time, and said."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3vl_ros import threads

pytest.importorskip("threadpoolctl")
ROOT = Path(__file__).resolve().parents[2]
USER = """
import json, sys
import numpy as np  # a user's program, before it knows of us
np.ones((300, 300)) @ np.ones((300, 300))
{ours}
import cv2, threadpoolctl
blas = {{p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"}}
from qwen3vl_ros import threads
print(json.dumps({{"blas": sorted(blas), "opencv": cv2.getNumThreads(), "said": threads.settle()}}))
"""
WAYS = {
    "an engine": "from qwen3vl_ros.engine import load_engine; load_engine().close()",
    "a perception": "from qwen3vl_ros.pipeline import Perception; Perception(None)",
    "by itself": "from qwen3vl_ros import threads; threads.settle()",
}


def user(ours: str, **environment: str) -> dict:
    kept = {k: v for k, v in os.environ.items() if k not in (*threads.BLAS_VARIABLES, "OMP_NUM_THREADS")}
    run = subprocess.run(
        [sys.executable, "-c", USER.format(ours=ours)], env=kept | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("way", WAYS)
def test_whoever_imported_numpy_first_computes_with_one_thread_too(way):
    seen = user(WAYS[way])
    assert (seen["blas"], seen["opencv"]) == ([1], 1) and seen["said"].startswith("BLAS 1 (")
    assert f"{threads.cores()} cores" in seen["said"]


def test_numbers_in_the_environment_are_the_user_s_word():
    seen = user(WAYS["an engine"], OPENBLAS_NUM_THREADS="2")
    number = min(2, threads.cores())
    assert seen["blas"] == [number] and f"{number} (" in seen["said"] and "by OPENBLAS_NUM_THREADS" in seen["said"]


def test_what_cannot_be_decided_is_said():
    script = "import sys; sys.modules['threadpoolctl'] = None\nfrom qwen3vl_ros import threads; print(threads.settle())"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "threadpoolctl is not installed" in told and "OpenCV 1" in told


@pytest.mark.parametrize("quota, expected", [("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), ("", 6)])
def test_cores_are_those_that_the_process_may_use(monkeypatch, tmp_path, quota, expected):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert threads.cores() == expected


@pytest.mark.parametrize("cores, small, large", [(1, 1, 1), (2, 1, 2), (4, 1, 3), (16, 1, 15)])
def test_a_large_model_has_the_cores_that_are_left_and_a_small_one_one(monkeypatch, cores, small, large):
    monkeypatch.setattr(threads, "cores", lambda: cores)
    assert threads.of_model(threads.SMALL_MODEL - 1)[0] == small
    number, why = threads.of_model(threads.SMALL_MODEL)
    assert number == large and str(number) in why


def test_nobody_else_decides():
    """Benchmarks run as the node runs; the peers' own pools and children that are told to differ apart."""
    pins = re.compile(r"OPENBLAS_NUM_THREADS\"?\]? ?=|cv2\.setNumThreads|setdefault\(\"(OPENBLAS|OMP)")
    files = [*ROOT.glob("qwen3vl_ros/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    found = [str(f.relative_to(ROOT)) for f in files if pins.search(f.read_text())]
    assert sorted(found) == ["benchmarks/contention.py", "qwen3vl_ros/threads.py"]
