"""The perception node in a process of its own, with an engine that follows a script instead of a model.

usage: scripted_node.py ENGINE [ROS arguments]; ENGINE is a name in ENGINES. Everything but the engine is the
product.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from qwen3vl_ros.engine.base import EngineInfo
from qwen3vl_ros.node.perception.main import main
from qwen3vl_ros.questions import ReadText
from qwen3vl_ros.questions.tell import INSTRUCTION as TELL
from qwen3vl_ros.questions.translate import INSTRUCTION as TRANSLATION
from qwen3vl_ros.questions.understand import INSTRUCTION
from qwen3vl_ros.types import EngineError, Generation, ModelNotFound

TRANSLATE = TRANSLATION.partition("{")[0]

# The cube of ros_graph.picture(), in thousandths of the image.
CUBE = [{"bbox_2d": [425, 400, 575, 600], "label": "cube"}]


def said(text: str, finish: str = "stop", prompt: str = "") -> Generation:
    """`text` as tokens of up to 4 characters, each with probability 0.9."""
    ends = tuple(range(4, len(text) + 4, 4))
    ends = tuple(min(end, len(text)) for end in ends)
    return Generation(
        text,
        tuple(range(len(ends))),
        np.full(len(ends), np.log(0.9), np.float32),
        ends,
        finish,
        prompt=prompt,
        generated_tokens=len(ends),
        prompt_tokens=10,
        forward_passes=len(ends),
        decode_s=1e-4,
    )


class Instant:
    """Sees the cube at once."""

    info = EngineInfo("scripted", "instant", "none", "cpu", "none", 0, False, "a test")

    def __init__(self, config):
        self.calls = 0

    def generate(self, prompt, limits, control=None, on_text=None):
        self.calls += 1
        return said(json.dumps(CUBE), prompt=prompt.text)

    def status(self):
        return {"answers given": str(self.calls)}

    def close(self):
        pass


class Echo(Instant):
    """Sees at once what it is asked for, where the cube is; knows whose pictures it saw."""

    def __init__(self, config):
        super().__init__(config)
        self.streams = Counter()

    def generate(self, prompt, limits, control=None, on_text=None):
        self.streams[prompt.stream] += 1
        quoted = re.search(r'"([^"]*)"', prompt.text)
        phrases = quoted[1].split(", ") if quoted else ["thing"]
        return said(json.dumps([{**CUBE[0], "label": phrase} for phrase in phrases]), prompt=prompt.text)

    def status(self):
        return {f"answers to {stream}": str(count) for stream, count in sorted(self.streams.items())}


class Watchful(Instant):
    """Sees the red thing where it is in the picture, a second later."""

    def may_answer(self, begun_s: float) -> bool:
        return time.monotonic() > begun_s + 1.0

    def generate(self, prompt, limits, control=None, on_text=None):
        begun_s = time.monotonic()
        while not self.may_answer(begun_s) and not control.cancelled:
            time.sleep(0.01)
        if control.cancelled:
            return said("", "cancelled")
        (rgb,) = prompt.images
        row, column = np.nonzero((rgb[..., 0] > 180) & (rgb[..., 1] < 90))
        height, width = rgb.shape[:2]
        box = [
            1000 * float(v) / size
            for v, size in zip((column.min(), row.min(), column.max() + 1, row.max() + 1), (width, height) * 2)
        ]
        return said(json.dumps([{"bbox_2d": [round(v) for v in box], "label": "cube"}]), prompt=prompt.text)


class Gated(Watchful):
    """The same, once the file $GATE is there."""

    def may_answer(self, begun_s: float) -> bool:
        return os.path.exists(os.environ["GATE"])


class Nothing(Instant):
    def generate(self, prompt, limits, control=None, on_text=None):
        return said("[]")


class Slow(Instant):
    """A token every 10 ms for 3 s, looking at its control between tokens, as a real engine does."""

    tokens = 300

    def generate(self, prompt, limits, control=None, on_text=None):
        text = json.dumps(CUBE)
        for i in range(self.tokens):
            if control.cancelled:
                return said(text[:i], "cancelled")
            if control.expired:
                return said(text[:-1], "deadline")
            time.sleep(0.01)
        return said(text)


class NeverDone(Instant):
    """Says the beginning of its first object and no more, until its time is over."""

    def generate(self, prompt, limits, control=None, on_text=None):
        while not (control.cancelled or control.expired):
            time.sleep(0.01)
        return said('[{"bbox_2d": [425, 40', "cancelled" if control.cancelled else "deadline")


class QuickForMugs(Slow):
    """Takes ten minutes unless asked for a mug, so that whoever waits for an answer about anything else is found out."""

    tokens = 60_000

    def generate(self, prompt, limits, control=None, on_text=None):
        if "mug" in prompt.text:
            return Instant.generate(self, prompt, limits)
        return super().generate(prompt, limits, control)


class Deaf(Instant):
    """Computes ten minutes without looking at its control, like a prefill that hangs."""

    def generate(self, prompt, limits, control=None, on_text=None):
        time.sleep(600.0)
        return said(json.dumps(CUBE))


class Failing(Instant):
    """Fails as engines may fail, then recovers."""

    def generate(self, prompt, limits, control=None, on_text=None):
        self.calls += 1
        if self.calls % 4:
            raise EngineError("the device was lost; it is being opened again")
        return said(json.dumps(CUBE))


class Broken(Instant):
    """Has a defect."""

    def generate(self, prompt, limits, control=None, on_text=None):
        raise ZeroDivisionError("a defect in the engine")


class Garbage(Instant):
    def generate(self, prompt, limits, control=None, on_text=None):
        return said("I am sorry, but I cannot help with that {{{")


class Oracle(Instant):
    """Knows what the file in ORACLE says: "boxes": {phrase: [[x0, y0, x1, y1] px]}, or of pictures of one size, {"320x240": {phrase: ...}}; "relabel": what it calls a phrase; "text": of a
    sign, or its lines; "translations": {line: its translation}, or what it says instead of any; "understand", "tell", "free": what it says to those
    prompts, free answers word by word, "pause_s" between two words and "prefill_s" before the first; that one has begun is
    told by a file beside it, .begun.
    """

    def generate(self, prompt, limits, control=None, on_text=None):
        self.calls += 1
        told = json.loads(Path(os.environ["ORACLE"]).read_text())
        if prompt.text.startswith(INSTRUCTION):
            return said(told.get("understand", "} not json"), prompt=prompt.text)
        if prompt.text.startswith(TELL):
            return said(told.get("tell", "的bowl"), prompt=prompt.text)
        if prompt.text == ReadText().prompt():
            lines = [told["text"]] if isinstance(told["text"], str) else told["text"]
            boxes = [[1, 1 + 100 * i, 99, 99 + 100 * i] for i in range(len(lines))]
            written = [{"bbox_2d": box, "text_content": line} for box, line in zip(boxes, lines)]
            return said(json.dumps(written), prompt=prompt.text)
        if prompt.text.startswith(TRANSLATE):
            translations = told.get("translations", {})
            if isinstance(translations, str):
                return said(translations, prompt=prompt.text)
            asked = json.loads(prompt.text.rpartition("\n")[2])
            return said(json.dumps([translations.get(line, "") for line in asked]), prompt=prompt.text)
        quoted = re.search(r'^Locate every .*?"([^"]*)"', prompt.text)
        if quoted is None:
            return self.free(prompt, told, control, on_text)
        height, width = prompt.images[0].shape[:2]
        size = np.array((width, height) * 2)
        boxes = told["boxes"].get(f"{width}x{height}", told["boxes"])
        labels = {phrase: told.get("relabel", {}).get(phrase, phrase) for phrase in quoted[1].split(", ")}
        found = [
            {"bbox_2d": np.round(1000 * np.array(box) / size).astype(int).tolist(), "label": label}
            for label in labels.values()
            for box in boxes.get(label, ())
        ]
        return said(json.dumps(found), prompt=prompt.text)

    def free(self, prompt, told, control, on_text):
        text = (
            told.get("free", "")
            .replace("{history}", str(len(prompt.history)))
            .replace("{images}", str([i.shape[:2] for i in prompt.images]))
        )
        parts = re.findall(r"\S+\s*", text)
        ends = [time.monotonic() + told.get("prefill_s", 0)] + [told.get("pause_s", 0.0)] * len(parts)
        done = ""
        Path(os.environ["ORACLE"]).with_suffix(".begun").touch()
        while time.monotonic() < ends[0]:  # as an engine between two layers
            if control.interruption:
                return said("", control.interruption, prompt.text)
            time.sleep(0.005)
        for part, pause_s in zip(parts, ends[1:]):
            if control.interruption:
                return said(done, control.interruption, prompt.text)
            done += part
            on_text(part)
            time.sleep(pause_s)
        return said(done, prompt=prompt.text)


def with_weights(config):
    """Reads a file and asks for memory and a thread, as every loader does; looks then take 64 MB each."""
    Path(__file__).read_bytes()
    np.ones(64 << 20, np.uint8)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    return Hungry(config)


class Hungry(Instant):
    def generate(self, prompt, limits, control=None, on_text=None):
        np.ones(64 << 20, np.uint8)
        return super().generate(prompt, limits, control)


def slow_load(config):
    for _ in range(6000):
        time.sleep(0.1)
    return Instant(config)


def gated_load(config):
    """Until the file $GATE is there."""
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.01)
    return Instant(config)


def no_model(config):
    raise ModelNotFound(f"model {config.model!r} is not a directory; give a path or a hub id")


def broken_load(config):
    raise KeyError("a defect in the loader")


def load_on_second_try(config):
    """Fails once per process."""
    if not os.environ.pop("TRIED", ""):
        os.environ["TRIED"] = "1"
        raise ModelNotFound("the network is down; try again")
    os.environ["TRIED"] = "1"
    return Instant(config)


def ahead(config):
    """The embedded model on torch, which sees ahead although this is a processor, and says a token in a twentieth of a second."""
    import torch

    from qwen3vl_ros.engine import find_checkpoint
    from qwen3vl_ros.engine.local import LocalEngine
    from qwen3vl_ros.engine.prompt.prepare import Preparation
    from qwen3vl_ros.engine.torch.network import Network
    from qwen3vl_ros.engine.torch.runtime import TorchRuntime

    checkpoint = find_checkpoint("")
    runtime = TorchRuntime(Network.load(checkpoint, "cpu", torch.float32), 900)
    step, info = runtime.step, EngineInfo("torch", "embedded", "", "cpu", "float32", 0, False, "a test")
    runtime.step = lambda ids: (time.sleep(0.05), step(ids))[1]
    return LocalEngine(checkpoint, Preparation(checkpoint.path), runtime, info, pass_cost=100.0, see_ahead=True)


ENGINES = {
    "ahead": ahead,
    "instant": Instant,
    "echo": Echo,
    "watchful": Watchful,
    "gated": Gated,
    "nothing": Nothing,
    "oracle": Oracle,
    "slow": Slow,
    "never_done": NeverDone,
    "quick_for_mugs": QuickForMugs,
    "deaf": Deaf,
    "failing": Failing,
    "broken": Broken,
    "garbage": Garbage,
    "with_weights": with_weights,
    "slow_load": slow_load,
    "gated_load": gated_load,
    "no_model": no_model,
    "broken_load": broken_load,
    "second_try": load_on_second_try,
}

if __name__ == "__main__":
    sys.exit(main([sys.argv[0], *sys.argv[2:]], engine_loader=ENGINES[sys.argv[1]]))
