"""How many small things does the model miss in a whole picture, and how many with a zoom?

Things of 14 to 24 px in 640x480 pictures of the embedded world, seen from afar, seeds that training never sees. A miss: no box of
the asked label with IoU 0.5. region: a part of 160x120 px somewhere around the thing, as who knows roughly where to look would
give it. parts: the whole picture and 3x3 or 4x4 parts of it, for who does not. false: boxes on nothing of that label (IoU 0.3), a look.
The last line is JSON.

    make bench BENCH=zoom [ARGS="--scenes 100"]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from qwen3vl_ros.config import Config
from qwen3vl_ros.demo.score import iou_matrix
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.far import small_things
from qwen3vl_ros.types import Frame, MalformedAnswer
from qwen3vl_ros.zoom import WHOLE, Zoom, around

FIRST_SEED = 7_300_000
NAMES = ("whole", "region", "parts 3", "parts 4")


def zooms(box, size_px, rng: np.random.Generator) -> tuple[Zoom, ...]:
    middle = np.add(box[:2], box[2:]) / 2 + rng.uniform(-30, 30, 2)
    region = around((*middle - 60, *middle + 60), size_px, 1.0).region_xyxy_px
    return WHOLE, Zoom(region), Zoom(parts=3), Zoom(parts=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    scenes = parser.parse_args().scenes
    perception, rng = Perception(load_tested_engine(Config())), np.random.default_rng(24)
    missed, wrong, seconds, count = {n: 0 for n in NAMES}, {n: 0 for n in NAMES}, {n: 0.0 for n in NAMES}, 0
    with SimCamera() as camera:
        for rgb, label, box in small_things(camera, range(FIRST_SEED, FIRST_SEED + scenes)):
            count += 1
            for name, zoom in zip(NAMES, zooms(box, (camera.width, camera.height), rng)):
                started = time.perf_counter()
                try:
                    found = perception.look(Frame(0, "camera", rgb), Detect((label,)), zoom=zoom).detections_2d
                except MalformedAnswer:
                    found = ()
                seconds[name] += time.perf_counter() - started
                iou = iou_matrix([d.box_xyxy_px for d in found], [box])
                missed[name] += not bool((iou >= 0.5).any())
                wrong[name] += int((iou.max(1, initial=0) < 0.3).sum())
    print(f"{count} things of 14 to 24 px in {scenes} scenes\n{'':10}{'missed':>8}{'false':>8}{'s a look':>10}")
    for name in NAMES:
        print(f"{name:10}{missed[name] / count:8.2f}{wrong[name] / count:8.2f}{seconds[name] / count:10.3f}")
    keys = {name.replace(" ", "_"): round(missed[name] / count, 3) for name in NAMES}
    print(json.dumps({"things": count, "missed": keys, "halved": missed["region"] <= missed["whole"] / 2}))


if __name__ == "__main__":
    main()
