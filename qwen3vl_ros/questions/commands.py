"""`qwen3vl read`: what the package makes of an answer that stands in a file. Needs no model, no picture and no GPU."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from typing import Any

from qwen3vl_ros.questions import LOOKING_FOR, Ask, Question, ReadText
from qwen3vl_ros.questions.parsing.places import angles_of
from qwen3vl_ros.types import Answer, Generation, InvalidInput, MalformedAnswer, View

MALFORMED = 3  # exit status


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser of `qwen3vl`."""
    command = commands.add_parser(
        "read",
        help="what an answer in a file says: objects, nothing, or malformed",
        description="Reads a model's answer as the node would, and prints one JSON object: status (objects, nothing or "
        "malformed), objects (label, box_xyxy_px, point_xy_px, box_3d or text), dropped, notes.",
        epilog="Exit status: 0 read (even 'nothing'), 3 malformed, 2 bad input. box_3d: centre and size in metres of the camera "
        "frame, then rotations about X, Y and Z in units of pi, as the model writes them.",
    )
    command.add_argument("file", metavar="FILE", help="the answer's text, UTF-8; - reads standard input")
    command.add_argument("--question", choices=[*LOOKING_FOR, ReadText.name, Ask.name], default="detect")
    command.add_argument("--targets", nargs="+", default=[], metavar="TARGET", help="what was looked for")
    command.add_argument(
        "--size", default="1000x1000", metavar="WxH", help="of the picture in pixels (default: 1000x1000)"
    )
    command.set_defaults(run=_read)


def _read(arguments: argparse.Namespace) -> int:
    question = _question(arguments.question, tuple(arguments.targets))
    view, text = View(_size_px(arguments.size)), _text(arguments.file)
    try:
        answer = question.read(Generation(text, (), None, (), "stop"), (view,))
    except MalformedAnswer as error:
        _print({"status": "malformed", "objects": [], "dropped": error.dropped, "notes": [str(error)]})
        return MALFORMED
    objects = _objects(answer, question)
    said = {"answer": answer.value} if isinstance(question, Ask) else {}
    status = "objects" if objects else "nothing"
    _print({"status": status, **said, "objects": objects, "dropped": answer.dropped, "notes": list(answer.notes)})
    return 0


def _question(name: str, targets: tuple[str, ...]) -> Question:
    if name in LOOKING_FOR:
        return LOOKING_FOR[name](targets)
    if targets:
        raise InvalidInput(f"--targets {' '.join(targets)}: --question {name} looks for none; leave them out")
    return ReadText() if name == ReadText.name else Ask("?")


def _size_px(written: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,5})[xX×]([1-9]\d{0,5})", written)
    if match is None:
        raise InvalidInput(f"--size {written!r} must be WIDTHxHEIGHT in pixels, e.g. 640x480")
    return int(match[1]), int(match[2])


def _text(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                data = file.read()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(
            f"{name} cannot be read: {error.strerror}; give a file with the answer's text, or -"
        ) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not UTF-8 text; give the answer as the model wrote it") from None


def _objects(answer: Answer, question: Question) -> list[dict[str, Any]]:
    text = isinstance(question, ReadText)
    boxes = [
        {
            "label": d.label,
            **({"text": d.label} if text else {}),
            "box_xyxy_px": list(d.box_xyxy_px),
            "score": _score(d.score),
        }
        for d in answer.detections
    ]
    points = [{"label": p.label, "point_xy_px": list(p.xy_px), "score": _score(p.score)} for p in answer.points]
    boxes_3d = [
        {
            "label": b.label,
            "box_3d": [*b.center_m.tolist(), *b.size_m.tolist(), *angles_of(b.rotation)],
            "score": _score(b.score),
        }
        for b in answer.boxes_3d
    ]
    return boxes + points + boxes_3d


def _score(score: float) -> float | None:
    return None if math.isnan(score) else score


def _print(said: dict[str, Any]) -> None:
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(said, indent=2, ensure_ascii=not unicode, allow_nan=False))
