"""`qwen3vl read` as a user types it: one JSON object, and an exit status that scripts can go by."""

import io
import json
import os
import subprocess
import sys

import pytest
from answers import A, B

from qwen3vl_ros.cli import main


def run(capsys, *arguments):
    status = main(["read", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "answer.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


BOX, POINT = (
    {"label": "mug", "box_xyxy_px": [64.0, 96.0, 192.0, 192.0], "score": None},
    {
        "label": "mug",
        "point_xy_px": [64.0, 96.0],
        "score": None,
    },
)
LINE = {"label": "EXIT", "text": "EXIT", "box_xyxy_px": [64.0, 96.0, 192.0, 192.0], "score": None}
SAID = {
    "detect": (f"[{A}]", ["--targets", "mug", "red cube"], "objects", [BOX]),
    "detect, nothing": ("[]", ["--targets", "mug"], "nothing", []),
    "point": (
        '[{"point_2d": [100, 200], "label": "mug"}]',
        ["--question", "point", "--targets", "mug"],
        "objects",
        [POINT],
    ),
    "read_text": (A.replace('label": "mug', 'text_content": "EXIT'), ["--question", "read_text"], "objects", [LINE]),
    "ask": (f"The left one: {A}", ["--question", "ask"], "objects", [BOX]),
    "ask, words alone": ("The left one.", ["--question", "ask"], "nothing", []),
}


@pytest.mark.parametrize("text, arguments, status, objects", SAID.values(), ids=SAID.keys())
def test_an_answer_is_one_json_object(capsys, written, text, arguments, status, objects):
    code, printed, err = run(capsys, written(text), "--size", "640x480", *arguments)
    assert (code, err) == (0, "")
    assert (printed["status"], printed["objects"], printed["dropped"], printed["notes"]) == (status, objects, 0, [])
    assert printed.get("answer") == (text if "ask" in arguments else None)


def test_a_3d_box_is_as_the_model_writes_it(capsys, written):
    numbers = [0.1, -0.2, 1.5, 0.4, 0.2, 0.1, 0.0, 0.25, -0.5]
    path = written(json.dumps([{"bbox_3d": numbers, "label": "car"}]))
    code, printed, _ = run(capsys, path, "--question", "detect_3d", "--targets", "car", "--size", "640x480")
    assert code == 0 and printed["objects"][0]["label"] == "car"
    assert printed["objects"][0]["box_3d"] == pytest.approx(numbers)


def test_what_is_lost_and_mended_is_told(capsys, written):
    path = written(f'[{A}, {{"bbox_2d": [300, 400, 100, 250]}}, {{"bbox_2d": [1, 2], "label": "mug"}}]')
    code, printed, _ = run(capsys, path, "--targets", "mug", "--size", "640x480")
    assert (code, printed["dropped"], len(printed["objects"])) == (0, 1, 2)
    assert any("swapped" in note for note in printed["notes"]) and any("2 numbers" in note for note in printed["notes"])


@pytest.mark.parametrize(
    "text", ["", "The mug is on the table.", f"[{B[:30]}", '{"tool": "zoom", "bbox_2d": [1, 2, 3, 4]}']
)
def test_a_malformed_answer_says_why_and_exits_with_3(capsys, written, text):
    code, printed, err = run(capsys, written(text), "--targets", "mug", "--size", "640x480")
    assert (code, printed["status"], printed["objects"], err) == (3, "malformed", [], "")
    assert len(printed["notes"]) == 1 and printed["notes"][0]


BAD = {
    "no such file": (["/nowhere/answer.txt", "--targets", "mug"], "cannot be read"),
    "a folder": (["/", "--targets", "mug"], "cannot be read"),
    "no targets": (["FILE"], "targets is empty"),
    "targets for a reading": (["FILE", "--question", "read_text", "--targets", "mug"], "leave them out"),
    "a target that is none": (["FILE", "--targets", 'a "mug"'], "quotation mark"),
    "size in words": (["FILE", "--targets", "mug", "--size", "large"], "WIDTHxHEIGHT"),
    "size of nothing": (["FILE", "--targets", "mug", "--size", "0x480"], "WIDTHxHEIGHT"),
    "half a size": (["FILE", "--targets", "mug", "--size", "640"], "WIDTHxHEIGHT"),
}


@pytest.mark.parametrize("arguments, reason", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_with_2(capsys, written, arguments, reason):
    path = str(written("[]"))
    code, printed, err = run(capsys, *[path if a == "FILE" else a for a in arguments])
    assert (code, printed) == (2, None) and reason in err


def test_bytes_that_are_no_text_are_refused(capsys, written):
    code, printed, err = run(capsys, written(b"\xff\xfe\x00mug"), "--targets", "mug")
    assert (code, printed) == (2, None) and "UTF-8" in err


def test_standard_input_is_read_and_a_byte_order_mark_is_no_text(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\ufeff[{A}]".encode())))
    code, printed, _ = run(capsys, "-", "--targets", "mug", "--size", "640x480")
    assert (code, printed["objects"]) == (0, [BOX])


def test_it_needs_no_model_and_prints_chinese_to_any_terminal():
    answer = '[{"bbox_2d": [1, 2, 300, 400], "label": "杯子"}]'
    done = subprocess.run(
        [sys.executable, "-m", "qwen3vl_ros.cli", "read", "-", "--targets", "杯子"],
        input=answer.encode(),
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["objects"][0]["label"] == "杯子"
