"""The whole thing as shipped: the simulated camera, the node, the embedded model, no remaps and no
parameters.
"""

from pathlib import Path

import numpy as np
import pytest
from ros_graph import OK, PATIENT, START_PATIENCE_S, until
from sensor_msgs.msg import RegionOfInterest
from vision_msgs.msg import Detection2DArray

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.msg import Generation, TextArray

SEEDS = {"front": 21, "wrist": 35}
MODEL = Path(__file__).parents[2] / "model" / "embedded"


def iou(a, b) -> float:
    """Of two vision_msgs/BoundingBox2D."""

    def corners(box):
        p = box.center.position
        return p.x - box.size_x / 2, p.y - box.size_y / 2, p.x + box.size_x / 2, p.y + box.size_y / 2

    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = corners(a), corners(b)
    overlap = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
    return overlap / (a.size_x * a.size_y + b.size_x * b.size_y - overlap)


def overlaps(found, objects) -> np.ndarray:
    """The best overlap of each object with what was found."""
    return np.array([max((iou(d.bbox, t.bbox) for d in found.detections), default=0.0) for t in objects])


def start_node(graph, **parameters):
    arguments = [a for name, value in parameters.items() for a in ("-p", f"{name}:={value}")]
    return graph.start("-m", "qwen3vl_ros.node.perception.main", "--ros-args", *PATIENT, *arguments, name="perception")


def start_camera(graph, namespace="/qwen3vl", **parameters):
    given = {"scene_every": 0.0, "objects": 3, **parameters}
    arguments = [a for name, value in given.items() for a in ("-p", f"{name}:={value}")]
    remap = ("-r", f"__ns:={namespace}")
    return graph.start("-m", "qwen3vl_ros.node.sim_camera", "--ros-args", *remap, *arguments, name="camera")


@pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="model/embedded is not there yet")
def test_the_embedded_model_finds_the_objects_of_the_simulated_camera(graph):
    node = start_node(graph, diagnostics_period=0.5, max_age=60.0)
    camera = start_camera(graph, seed=21, rate=5.0)
    node.logged("active: ", START_PATIENCE_S)
    heard = graph.results()
    truth = graph.listen("/qwen3vl/sim_camera/ground_truth_2d", Detection2DArray)
    said = until(lambda: heard["generation"], START_PATIENCE_S, "an answer of the model")[0]
    assert said.error == "" and said.tokens > 0 and said.mean_logprob < 0 and said.prefill_s > 0
    later = until(lambda: heard["generation"][3:], START_PATIENCE_S, "more answers")[-1]
    assert later.tokens == said.tokens and 10 * later.forward_passes < later.tokens, "the scene stands still"
    assert later.accepted_tokens > 0 and later.reused_tokens > 0
    # Of the first answers one of the two topics may have been heard before the other was.
    pairs = lambda: ((g, m) for g in heard["generation"] for m in heard["detections_2d"] if m.header == g.header)
    said, found = until(lambda: next(pairs(), None), what="an answer and its words")
    objects = until(lambda: truth)[-1].detections  # the scene stands still
    best = overlaps(found, objects)
    assert np.mean(best > 0.5) >= 0.5, (said.text, best)
    until(lambda: [m for m in heard["detections_3d"] if m.detections], START_PATIENCE_S, "3D boxes")
    status = graph.diagnosed(
        lambda s, v: s.level == OK and int(v["answers"]) > 1, START_PATIENCE_S, "OK with the real engine"
    )
    assert "onnxruntime" in {v.key: v.value for v in status.values}["engine"]
    assert all(stamp_ns(m.header) for m in heard["grasp_targets"])
    for process in (node, camera):
        process.interrupt()
    assert (node.status(), camera.status()) == (0, 0)


@pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="model/embedded is not there yet")
def test_the_embedded_model_finds_the_objects_of_two_cameras_and_keeps_their_drafts_apart(graph):
    """Both stand still and send the same frame_id; one engine answers them in turn."""
    node = start_node(graph, max_age=60.0, cameras="[front, wrist]")
    cameras = [start_camera(graph, f"/qwen3vl/{name}", seed=seed, rate=3.0) for name, seed in SEEDS.items()]
    node.logged("active: /qwen3vl/wrist", START_PATIENCE_S)
    heard = {name: graph.results(f"/qwen3vl/perception/{name}") for name in SEEDS}
    truths = {name: graph.listen(f"/qwen3vl/{name}/sim_camera/ground_truth_2d", Detection2DArray) for name in SEEDS}
    for name in SEEDS:
        said = until(lambda: heard[name]["generation"][3:], START_PATIENCE_S, f"answers for {name}")[-1]
        assert 10 * said.forward_passes < said.tokens, "its own last answer is the draft, not the other camera's"
        found = until(lambda: [m for m in heard[name]["detections_2d"] if m.header == said.header])[0]
        best = overlaps(found, until(lambda: truths[name])[-1].detections)
        assert np.mean(best > 0.5) >= 0.5, (name, said.text, best)
    ids = {name: {d.id for m in heard[name]["detections_2d"] for d in m.detections} for name in SEEDS}
    assert ids["front"] and ids["wrist"] and not ids["front"] & ids["wrist"]
    for process in (node, *cameras):
        process.interrupt()
    assert [process.status() for process in (node, *cameras)] == [0, 0, 0]


@pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="model/embedded is not there yet")
def test_a_call_looks_at_a_part_of_the_image_and_says_where_things_are_in_all_of_it(graph):
    node = start_node(graph, enabled="false", max_age=60.0)
    camera = start_camera(graph, seed=21, rate=5.0)
    node.logged("active: ", START_PATIENCE_S)
    said = graph.listen("/qwen3vl/sim_camera/ground_truth_2d", Detection2DArray)
    truth = until(lambda: said, START_PATIENCE_S)[-1].detections

    def asked(**zoom):
        future = graph.detect([label], START_PATIENCE_S, **zoom)
        until(future.done, START_PATIENCE_S, "a reply")
        return future.result()

    target = next(
        t
        for t in truth
        if sum(o.results[0].hypothesis.class_id == t.results[0].hypothesis.class_id for o in truth) == 1
    )
    label, at = target.results[0].hypothesis.class_id, target.bbox
    x, y = (int(at.center.position.x - at.size_x), int(at.center.position.y - at.size_y))
    region = RegionOfInterest(
        x_offset=max(x, 0), y_offset=max(y, 0), width=int(2 * at.size_x), height=int(2 * at.size_y)
    )
    for zoom in ({"region": region}, {"around": [label]}, {"parts": 2}):
        reply = asked(**zoom)
        assert reply.success, reply.message
        assert max(iou(d.bbox, at) for d in reply.detections_2d.detections) > 0.5, zoom
    for refused, words in (
        ({"parts": 9}, "parts"),
        ({"around": ["sofa"]}, "NotFound"),
        ({"region": region, "parts": 2}, "only one"),
    ):
        reply = asked(**refused)
        assert not reply.success and words in reply.message
    for process in (node, camera):
        process.interrupt()


@pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="model/embedded is not there yet")
def test_the_embedded_model_reads_text_or_says_that_its_answer_is_none_and_goes_on_finding_things(graph):
    """It hardly reads words: what it says in place of lines is an error on ~/generation, and no text."""
    node = start_node(graph, diagnostics_period=0.5, max_age=60.0, task="read_text", translate_to="zh")
    start_camera(graph, seed=21, rate=5.0)
    node.logged("active: ", START_PATIENCE_S)
    text, words = (
        graph.listen(f"/qwen3vl/perception/{n}", k) for n, k in (("text", TextArray), ("generation", Generation))
    )
    answers = until(lambda: words[3:], START_PATIENCE_S, "answers of the model")
    until(
        lambda: len(text) >= sum(not m.error for m in answers) - 1,
        START_PATIENCE_S,
        "the lines of each answer that could be read",
    )
    assert all(m.error.startswith("MalformedAnswer") for m in answers if m.error), [m.error for m in answers]
    assert all(line.translation or m.note for m in text for line in m.lines)
    future = graph.detect(["cube", "ball", "cylinder", "mug", "bowl"], START_PATIENCE_S, task="detect")
    until(future.done, START_PATIENCE_S, "a reply")
    assert future.result().success and future.result().detections_2d.detections, future.result().message


def test_a_picture_is_seen_while_the_answer_to_the_one_before_is_said(graph):
    """With pictures that come more seldom than an answer takes; each answer is of the newest picture all the same."""
    pytest.importorskip("torch")
    words = ["cube", "ball", "cylinder", "mug", "bowl"]
    graph.start_node("ahead", max_age=30.0, targets=words, ready=False).logged("active: ", START_PATIENCE_S)
    start_camera(graph, seed=21, rate=1.0, motion="all_moving")
    heard = graph.results()
    graph.diagnosed(
        lambda status, values: int(values["seen ahead"].split()[0]) >= 2,
        240,
        "two pictures that were seen ahead and asked about",
    )
    assert not any(said.error for said in heard["generation"])
    stamps = [stamp_ns(said.header) for said in heard["generation"]]
    assert stamps == sorted(set(stamps)), "no picture is answered twice, and none after a newer one"
