"""Nothing phones anywhere and nothing is written behind the user's back: traced below Python, where native libraries work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOKS_UP = "import socket\ntry: socket.getaddrinfo('telemetry.example', 443)\nexcept OSError: pass\n"
CONNECTS = (
    "import socket\ns = socket.socket()\ns.settimeout(0.01)\ntry: s.connect(('127.0.0.1', 9))\nexcept OSError: pass\n"
)


@pytest.fixture(scope="module")
def tracer(tmp_path_factory):
    library = tmp_path_factory.mktemp("trace") / "network_trace.so"
    source = ROOT / "tests" / "helpers" / "network_trace.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


@pytest.fixture
def traced(tracer, tmp_path):
    """Run Python in an empty home; returns (its output, the lines of the trace, the files it left in its home)."""

    def run(*arguments: str, **environment: str):
        home, trace = tmp_path / "home", tmp_path / "trace.txt"
        home.mkdir()
        variables = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k and not k.startswith("XDG_")}
        variables |= {"HOME": str(home), "LD_PRELOAD": str(tracer), "NETWORK_TRACE": str(trace)} | environment
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=variables, cwd=tmp_path, timeout=240
        )
        lines = trace.read_text().splitlines() if trace.exists() else []
        return done, lines, sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())

    return run


@pytest.mark.parametrize("code, seen", [(LOOKS_UP, "lookup telemetry.example"), (CONNECTS, "connect 127.0.0.1")])
def test_the_trace_sees_what_it_should(traced, code, seen):
    _, lines, _ = traced("-c", code)
    assert seen in lines


def test_one_look_with_the_embedded_model_reaches_nobody_and_leaves_nothing(traced, tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((96, 128, 3), 128, np.uint8))
    done, lines, files = traced("-m", "qwen3vl_ros.cli", "detect", "grey.png", "cube", "--json", PYTHONPATH=paths())
    assert done.returncode == 0, done.stderr
    assert (lines, files) == ([], [])


def test_doctor_reaches_nobody_and_leaves_nothing(traced):
    done, lines, files = traced("-m", "qwen3vl_ros.cli", "doctor", PYTHONPATH=paths())
    assert done.returncode == 0, done.stdout + done.stderr
    assert (lines, files) == ([], [])


def test_a_users_own_word_on_telemetry_is_kept(traced):
    code = "import os, qwen3vl_ros; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    assert traced("-c", code, PYTHONPATH=paths(), ORT_DISABLE_TELEMETRY="0")[0].stdout.split() == ["0", "1"]


def paths() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
