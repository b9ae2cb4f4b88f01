"""Facts measured from a stereo camera's depth against exact truth, on scenes of the embedded world: a promise in numbers.

Each statement is measured twice: from what lifting makes of the picture, and from the meshes that the picture was drawn of.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

pytest.importorskip("mujoco")

from qwen3vl_ros.config import LiftConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.facts import measure
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.observed import layout_of
from qwen3vl_ros.sim.camera import SimCamera, SimCameraError, SimView
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.layouts import exact_layout
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.wide import sample_wide_scene
from qwen3vl_ros.types import Detection2D, Frame, Verdict

SCENES = [(sample_scene, seed) for seed in range(9000, 9012)] + [
    (sample_wide_scene, seed) for seed in range(9000, 9028)
]
PAIRS = ("left_of", "right_of", "in_front_of", "behind", "above", "below", "on", "in", "next_to", "distance")
ALONE = ("nearest", "farthest", "size", "distance")
DECIDED = (Verdict.TRUE, Verdict.FALSE)


def measured_layout(view: SimView, seed: int) -> Layout:
    """What lifting makes of the view with true 2D boxes, of objects and shelves that are seen well."""
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


@pytest.fixture(scope="module")
def statements():
    """{relation: [(measured, true)]} over all scenes, between all things that are seen well."""
    found = defaultdict(list)
    try:
        camera = SimCamera(quality="fast")
    except SimCameraError as error:
        pytest.skip(str(error))
    with camera:
        for sample, seed in SCENES:
            spec = sample(seed)
            view = camera.render(spec, rgb=False)
            layout = measured_layout(view, seed)
            truth = exact_layout(spec, view.world_T_camera, [int(t.id) for t in layout.things])
            names = [t.id for t in layout.things if int(t.id) < len(spec.objects)]
            shared = [s.id for s in layout.surfaces if s.id in {t.id for t in truth.surfaces}]
            asked = [(relation, (a,)) for relation in ALONE for a in names]
            asked += [("on", (a, s)) for a in names for s in shared]
            asked += [("in", (a, s)) for a in names for s in shared if s != "table"]
            asked += [(relation, (a, b)) for relation in PAIRS for a in names for b in names if a != b]
            asked += [("between", (a, b, c)) for a in names for b in names for c in names if b < c and a not in (b, c)]
            for question in asked:
                found[question[0]].append((measure(layout, *question), measure(truth, *question)))
    return found


@pytest.mark.parametrize(
    "relation", [r for r in dict.fromkeys((*PAIRS, *ALONE, "between")) if r not in ("size", "distance")]
)
def test_what_is_decided_is_true_and_what_is_clear_is_decided(statements, relation):
    known = [(fact, truth) for fact, truth in statements[relation] if truth.verdict in DECIDED]
    decided = [fact.verdict is truth.verdict for fact, truth in known if fact.verdict in DECIDED]
    clear = [fact.verdict in DECIDED for fact, truth in known if abs(truth.margin_m) > 0.02]
    if relation == "on":  # whatever stands exactly has a margin of 1 cm
        clear = [fact.verdict in DECIDED for fact, truth in known if truth.verdict is Verdict.TRUE]
    assert len(clear) >= 20, "the world shows too few of it to say anything"
    assert np.mean(decided) >= 0.98
    assert np.mean(clear) >= 0.85


def test_wrong_with_confidence_is_rare(statements):
    judged = [pair for pairs in statements.values() for pair in pairs if pair[1].verdict in DECIDED]
    wrong = [
        (fact.relation, fact.reason, truth.reason)
        for fact, truth in judged
        if fact.verdict in DECIDED and fact.verdict is not truth.verdict and abs(fact.margin_m) > 3 * fact.sigma_m
    ]
    assert len(judged) >= 2000
    assert len(wrong) <= 0.002 * len(judged), wrong


def test_distances_and_sizes_are_right_within_millimetres(statements):
    errors = [abs(fact.value - truth.value) for fact, truth in statements["distance"]]
    assert np.median(errors) <= 0.004 and np.percentile(errors, 90) <= 0.02
    sizes = [
        [abs(a.value - b.value) for a, b in zip(fact.values, truth.values, strict=True)]
        for fact, truth in statements["size"]
    ]
    assert np.median(sizes) <= 0.003


def test_the_scenes_show_things_on_things_and_in_things(statements):
    true = Counter(t.relation for pairs in statements.values() for _, t in pairs if t.verdict is Verdict.TRUE)
    on_things = [t for _, t in statements["on"] if t.verdict is Verdict.TRUE and t.arguments[1] != "table"]
    assert len(on_things) >= 10 and true["in"] >= 8 and true["next_to"] >= 20 and true["between"] >= 10
