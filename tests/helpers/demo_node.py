"""The perception node for tests of the demo: an engine that knows what the camera will show, or fails.

The oracle draws the demo's scenes itself, recognises the image among them and says the truth in the model's
format.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time

import cv2
import numpy as np
from scripted_node import Instant, said

from qwen3vl_ros.node.perception.main import main
from qwen3vl_ros.questions.aliases import in_chinese
from qwen3vl_ros.sim.stream import SimStream


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    return cv2.resize(rgb, (40, 30), interpolation=cv2.INTER_AREA).astype(np.int16)


class Oracle(Instant):
    def __init__(self, config):
        super().__init__(config)
        o = json.loads(os.environ["DEMO_OPTIONS"])
        assert o["motion"] == "static", "the oracle knows one picture a scene"
        scenes = int(o["seconds"] / o["scene_seconds"]) + 6  # the demo may go on a little for a call in flight
        with SimStream(o["seed"], "static", o["scene_seconds"], o["objects"] or None) as stream:
            views = [stream.frame_at(i * o["scene_seconds"])[0] for i in range(scenes)]
        self.known = [(thumbnail(view.rgb), view.truths) for view in views]

    def generate(self, prompt, limits, control=None, on_text=None):
        if not prompt.images:  # it only sees
            return said("", prompt=prompt.text)
        rgb = prompt.images[0]
        seen = thumbnail(rgb)
        truths = min(self.known, key=lambda known: np.abs(known[0] - seen).mean())[1]
        phrases = [p.strip() for p in re.search(r'"([^"]*)"', prompt.text)[1].split(",")]
        scale = 1000 / np.array((rgb.shape[1], rgb.shape[0]) * 2)
        found = [
            {"bbox_2d": np.round(t.box_xyxy_px * scale).astype(int).tolist(), "label": phrase}
            for phrase in phrases
            for t in truths
            if phrase.removeprefix("the ") in (t.kind, t.label, in_chinese(t.kind), in_chinese(t.label))
            and t.visibility >= 0.4
        ]
        return said(f"```json\n{json.dumps(found)}\n```", prompt=prompt.text)


class Blind(Instant):
    def generate(self, prompt, limits, control=None, on_text=None):
        return said("[]", prompt=prompt.text)


class Slow(Blind):
    """Longer over an answer than the demo's camera time and its wait for the last one together."""

    def generate(self, prompt, limits, control=None, on_text=None):
        time.sleep(12.0)
        return super().generate(prompt, limits, control)


class Crashing(Blind):
    """Two answers, then the process is gone, as when the system runs out of memory."""

    def generate(self, prompt, limits, control=None, on_text=None):
        self.calls += 1
        if self.calls > 2:
            print("the last words of the node", flush=True)
            os._exit(9)
        return super().generate(prompt, limits, control)


ENGINES = {"oracle": Oracle, "blind": Blind, "slow": Slow, "crashing": Crashing}

if __name__ == "__main__":
    sys.exit(main(None, engine_loader=ENGINES[os.environ["DEMO_ENGINE"]]))
