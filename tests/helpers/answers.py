"""What the tests of answers share: questions, an answer as an engine gives it, and what was read of it in short."""

from __future__ import annotations

import numpy as np

from qwen3vl_ros.questions import Ask, Detect, Detect3D, Point, ReadText
from qwen3vl_ros.types import Generation, MalformedAnswer, View

SIZE = (640, 480)
BOTH = Detect(("mug", "red cube"))
MUG = Detect(("mug",))
POINT = Point(("mug",))
BOX_3D = Detect3D(("car",))
TEXT = ReadText()
ASK = Ask("Which mug is the cleanest?")

A = '{"bbox_2d": [100, 200, 300, 400], "label": "mug"}'
B = '{"bbox_2d": [500, 600, 700, 800], "label": "red cube"}'
A_PX = ("mug", (64.0, 96.0, 192.0, 192.0))
B_PX = ("red cube", (320.0, 288.0, 448.0, 384.0))


def said(text, finish_reason="stop", logprob=-0.1):
    """A generation with a token for each character, as an engine with byte tokens would give it."""
    n = len(text)
    logprobs = None if logprob is None else np.full(n, logprob, np.float32)
    return Generation(text, (0,) * n, logprobs, tuple(range(1, n + 1)), finish_reason)


def boxes(answer):
    return [(d.label, tuple(round(v, 6) for v in d.box_xyxy_px)) for d in answer.detections]


# text, request, finish reason, (label, box) wanted, dropped wanted


def outcome(question, text, finish_reason="stop"):
    """(status, labels) of an answer, as `qwen3vl read` calls them: "objects", "nothing" or "malformed"."""
    try:
        answer = question.read(said(text, finish_reason), (View(SIZE),))
    except MalformedAnswer:
        return "malformed", []
    objects = answer.detections + answer.points + answer.boxes_3d
    return "objects" if objects else "nothing", [o.label for o in objects]
