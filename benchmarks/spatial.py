"""How often are spatial facts right? Measured from noisy depth, against the meshes that the pictures are drawn from.

Scenes of the wider embedded world at 640x480, true 2D boxes of all objects and shelves that are at least 0.8 visible, depth as a
small stereo camera gives it (noise, steps, holes at edges: sim/depth_noise.py). Every relation is asked of every pair (triple, single)
of things; a statement counts where the exact layout decides it. decided: of statements whose true margin is over 2 cm (of `on`,
where 1 cm is all there is, of the true ones). confident_wrong: decided wrongly with |margin| > 3 sigma.

Then the whole path (questions.py): questions in held-out words to sentences with numbers, beside the model's own words without measuring.
The last line is JSON.

    make bench BENCH=spatial [ARGS="--scenes 40 --asked 20" or "--full"]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import defaultdict
from typing import Iterator

import numpy as np
import questions as questions_in_words

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.facts import measure
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.observed import layout_of
from qwen3vl_ros.sim.camera import SimCamera, SimView
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.layouts import exact_layout
from qwen3vl_ros.sim.wide import sample_wide_scene
from qwen3vl_ros.threads import settle
from qwen3vl_ros.types import Detection2D, Fact, Frame, Verdict

PAIRS = ("left_of", "right_of", "in_front_of", "behind", "above", "below", "on", "in", "next_to", "distance")
ALONE = ("nearest", "farthest", "distance")
DECIDED = (Verdict.TRUE, Verdict.FALSE)


def measured(view: SimView, seed: int) -> Layout:
    """What lifting makes of the view."""
    seen = [t for t in view.truths if t.kind not in ("sign", "gauge") and t.visibility >= 0.8]
    seen = [t for t in seen if t.fully_in_view or t.kind == "shelf"]
    depth_m = noisy_depth(view.depth_m, view.K, seed)
    frame = Frame(
        stamp_ns=1,
        frame_id="camera",
        rgb=np.zeros((*depth_m.shape, 3), np.uint8),
        depth_m=depth_m,
        K=view.K,
        target_T_camera=view.world_T_camera,
        target_frame="world",
        up_camera=view.world_T_camera[2, :3],
    )
    cloud = SceneCloud.of(frame, LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D(t.label, t.box_xyxy_px, 0.9, str(t.index)) for t in seen])
    return layout_of(cloud, lifted.detections, lifted.refusals)


def questions(layout: Layout, truth: Layout, objects: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Everything that can be asked of the things that both layouts know."""
    names = [t.id for t in layout.things if int(t.id) < objects]
    known = {s.id for s in truth.surfaces}
    surfaces = [s.id for s in layout.surfaces if s.id in known]
    yield from ((relation, (a,)) for relation in ALONE for a in names)
    yield from (("on", (a, s)) for a in names for s in surfaces)
    yield from (("in", (a, s)) for a in names for s in surfaces if s != "table")
    yield from ((relation, pair) for relation in PAIRS for pair in itertools.permutations(names, 2))
    yield from (("between", abc) for abc in itertools.permutations(names, 3) if abc[1] < abc[2])


def clear(relation: str, truth: Fact) -> bool:
    """Whether a statement is one that should be decided."""
    return truth.verdict is Verdict.TRUE if relation == "on" else abs(truth.margin_m) > 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--asked", type=int, default=60, help="scenes that questions in words are asked of, four each")
    parser.add_argument("--full", action="store_true", help="400 scenes, 300 of them asked of")
    parser.add_argument("--first", type=int, default=8000, help="seed of the first scene")
    arguments = parser.parse_args()
    if arguments.full:
        arguments.scenes, arguments.asked = 400, 300
    settle()
    pairs, costs_ms = defaultdict(list), []
    with SimCamera(quality="fast") as camera:
        for seed in range(arguments.first, arguments.first + arguments.scenes):
            spec = sample_wide_scene(seed)
            view = camera.render(spec, rgb=False)
            layout = measured(view, seed)
            truth = exact_layout(spec, view.world_T_camera, [int(t.id) for t in layout.things])
            for question in questions(layout, truth, len(spec.objects)):
                started = time.perf_counter()
                fact = measure(layout, *question)
                costs_ms.append(1e3 * (time.perf_counter() - started))
                pairs[question[0]].append((fact, measure(truth, *question)))
    figures = report(pairs, costs_ms)
    print(json.dumps(figures | questions_in_words.run(arguments.asked, arguments.first + 10000)))


def report(pairs: dict[str, list[tuple[Fact, Fact]]], costs_ms: list[float]) -> dict[str, float | int]:
    errors = [abs(fact.value - truth.value) for fact, truth in pairs.pop("distance")]
    print("| relation | statements | decided | right | wrong with confidence |\n|---|---|---|---|---|")
    everything = [("all", [pair for of_one in pairs.values() for pair in of_one])]
    for relation, asked in (*pairs.items(), *everything):
        known = [(fact, truth) for fact, truth in asked if truth.verdict in DECIDED]
        judged = [(fact, fact.verdict is truth.verdict) for fact, truth in known if fact.verdict in DECIDED]
        should = [fact.verdict in DECIDED for fact, truth in known if clear(fact.relation, truth)]
        wrong = sum(not right and abs(fact.margin_m) > 3 * fact.sigma_m for fact, right in judged)
        accuracy = float(np.mean([right for _, right in judged]))
        print(f"| `{relation}` | {len(known)} | {np.mean(should):.3f} | {accuracy:.4f} | {wrong} |")
    print(
        f"distance: median error {1e3 * np.median(errors):.1f} mm, 95 % within {1e3 * np.percentile(errors, 95):.1f} mm"
    )
    return {
        "decided": round(float(np.mean(should)), 4),
        "accuracy": round(accuracy, 5),
        "confident_wrong": wrong,
        "statements": len(known),
        "distance_error_mm_median": round(1e3 * float(np.median(errors)), 2),
        "fact_ms_p50": round(float(np.median(costs_ms)), 3),
    }


if __name__ == "__main__":
    main()
