"""The demo's parts that need no ROS: scoring, the MCAP file, and children that never outlive it."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import Namespace

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.typesys import Stores, get_typestore

from qwen3vl_ros.demo.output import Output
from qwen3vl_ros.demo.pictures import STRIP_PX, Gallery
from qwen3vl_ros.demo.processes import ChildDied, Children
from qwen3vl_ros.demo.recording import Recording, dependencies, full_definition, installed_text
from qwen3vl_ros.demo.report import Log, table, write_transcript
from qwen3vl_ros.demo.run import Demo
from qwen3vl_ros.demo.score import Heard, Tally, TruthObject, iou_matrix, score_answer
from qwen3vl_ros.types import Detection2D, Detection3D, Frame, GraspTarget, InvalidInput

CUBE = TruthObject("red cube", (100, 100, 200, 200), 1.0, (0.0, 0.0, 0.5))
MUG = TruthObject("blue mug", (300, 100, 400, 220), 0.9, (0.1, 0.0, 0.6))
HIDDEN = TruthObject("green cube", (210, 100, 260, 150), 0.3, (0.05, 0.0, 0.7))


def saw(label, box, id=""):
    return Detection2D(label, box, 0.9, id)


def answer(*detections, prompt=("cube", "mug"), **more):
    return Heard(1, prompt, tuple(detections), **more)


# -- which name means which object ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phrase, meant",
    [
        ("cube", True),
        ("red cube", True),
        ("the red cube", True),
        ("Cubes", True),
        ("red cubes", True),
        ("blue cube", False),
        ("mug", False),
        ("red", False),
        ("red cube left of the mug", False),
        ("", False),
    ],
)
def test_a_phrase_names_an_object_by_kind_or_by_colour_and_kind(phrase, meant):
    assert CUBE.is_named(phrase) is meant


# -- the rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, given, right, wrong, wanted",
    [
        ("both found", answer(saw("cube", (101, 101, 199, 199)), saw("mug", (300, 100, 400, 220))), 2, 0, 2),
        ("nothing said", answer(), 0, 0, 2),
        ("right place, wrong name", answer(saw("mug", (100, 100, 200, 200))), 0, 1, 2),
        ("right name, too far", answer(saw("cube", (160, 100, 260, 200))), 0, 1, 2),
        (
            "one object said twice",
            answer(saw("cube", (100, 100, 200, 200)), saw("cube", (102, 100, 200, 200))),
            1,
            1,
            2,
        ),
        ("a hidden object is an excuse, not a find", answer(saw("cube", (210, 100, 260, 150))), 0, 0, 2),
        (
            "only what the prompt names is wanted",
            answer(saw("red cube", (100, 100, 200, 200)), prompt=("red cube",)),
            1,
            0,
            1,
        ),
        (
            "an unnamed kind is not wanted",
            answer(saw("ball", (300, 100, 400, 220)), prompt=("ball",)),
            0,
            1,
            0,
        ),
        ("an unreadable answer found nothing", answer(error="MalformedAnswer: !!!!"), 0, 0, 2),
        ("an empty box is a miss", answer(saw("cube", (150, 150, 150, 150))), 0, 1, 2),
    ],
)
def test_matching(name, given, right, wrong, wanted):
    score = score_answer(given, (CUBE, MUG, HIDDEN))
    assert (len(score.matches), len(score.wrong), len(score.wanted)) == (right, wrong, wanted), name
    assert score.missed == wanted - right


def test_the_best_overlap_wins_whatever_the_order():
    near, far = saw("cube", (102, 102, 200, 200)), saw("cube", (120, 100, 220, 200))
    for order in ((near, far), (far, near)):
        score = score_answer(answer(*order), (CUBE,))
        assert order[score.matches[0].detection] is near


def test_no_truth_and_no_answer_is_fine():
    score = score_answer(answer(), ())
    assert (score.matches, score.wanted, score.wrong) == ((), (), ())


def test_iou_of_known_boxes():
    assert iou_matrix([(0, 0, 2, 2)], [(1, 0, 3, 2), (5, 5, 6, 6), (0, 0, 2, 2), (0, 0, 0, 0)]) == pytest.approx(
        np.array([[1 / 3, 0, 1, 0]])
    )


def test_the_centre_error_is_that_of_the_detection_with_the_same_id():
    pose = np.eye(4)
    pose[:3, 3] = (0.003, 0.0, 0.504)
    lifted = Detection3D("7", "cube", 0.9, "camera", pose, np.full(3, 0.05))
    other = Detection3D("8", "cube", 0.9, "camera", np.eye(4), np.full(3, 0.05))
    match = score_answer(answer(saw("cube", CUBE.box_xyxy_px, "7"), detections_3d=(other, lifted)), (CUBE,)).matches[0]
    assert match.center_error_m == pytest.approx(0.005)


def test_the_summary_adds_up():
    grasp = GraspTarget("1", "cube", "camera", np.eye(4), 0.05, 0.1, 0.8, True)
    refused = GraspTarget("2", "mug", "camera", np.eye(4), 0.12, 0.1, 0.0, False, "too wide")
    good = answer(
        saw("cube", CUBE.box_xyxy_px),
        saw("ball", (0, 0, 9, 9)),
        grasps=(grasp, refused),
        latency_s=0.30,
        engine_s=0.28,
    )
    bad = answer(error="MalformedAnswer: no list", latency_s=0.50, engine_s=0.46, finish_reason="length")
    tally = Tally()
    for given in (good, bad):
        tally.add(given, score_answer(given, (CUBE, MUG)))
    figures = tally.summary()
    assert figures["answers"] == 2 and figures["malformed"] == 1 and figures["truncated"] == 1
    assert figures["precision_2d"] == 0.5 and figures["recall_2d"] == 0.25 and figures["mean_iou"] == 1.0
    assert (figures["grasp_targets"], figures["feasible"]) == (2, 1)
    assert figures["latency_ms_p50"] == 400.0 and figures["overhead_ms_p50"] == 30.0
    assert figures["centre_error_mm_median"] is None


def test_figures_of_nothing_are_absent_not_zero():
    assert Tally().summary()["precision_2d"] is None and Tally().summary()["latency_ms_p50"] is None


# -- the log, scene by scene ---------------------------------------------------------------------------------


def test_a_scene_lasts_while_an_object_stays():
    log = Log()
    begun = [
        log.add_truth(stamp, truths)
        for stamp, truths in enumerate(((CUBE, MUG), (CUBE,), (), (CUBE, MUG), (HIDDEN,), (HIDDEN, CUBE)))
    ]
    assert begun == [True, False, False, False, True, False]
    assert [scene.objects for scene in log.scenes] == [("red cube", "blue mug"), ("green cube",)]


def test_answers_belong_to_the_scene_of_their_image_however_late_they_come():
    log = Log()
    log.add_truth(1, (CUBE, MUG))
    log.add_truth(2, (HIDDEN,))
    late = log.add_answer(Heard(1, ("cube",), (saw("cube", CUBE.box_xyxy_px),), latency_s=0.5, engine_s=0.4))
    assert len(late.matches) == 1 and [s.tally.answers for s in log.scenes] == [1, 0]
    assert log.add_answer(Heard(99, ("cube",))) is None and log.figures()["unscored"] == 1
    assert log.total.answers == sum(s["answers"] for s in log.figures()["scenes"]) == 1


def test_the_table_has_a_dash_where_nothing_was_measured():
    log = Log()
    log.add_truth(1, (CUBE,))
    row = next(line for line in table(log).splitlines() if "red cube" in line)
    assert row.split()[:7] == ["1", "0", "0/0", "0", "-", "-", "0/0"]


def test_the_clock_starts_with_the_first_truth(tmp_path):
    demo = Demo(Namespace(seconds=2.0), Output(tmp_path), interrupts=None)
    second = 1_000_000_000
    demo._on_answer(Heard(5 * second, ("cube",)), None)  # the truth of its image was sent before anyone listened
    demo._on_truth(6 * second, (CUBE,))
    for at in (5, 6, 9):
        demo._on_answer(Heard(at * second, ("cube",)), None)
    assert demo.log.total.answers == 1 and demo.log.unscored == 0
    demo._on_answer(Heard(7 * second, ("cube",)), None)  # a truth lost on the way is another matter
    assert demo.log.total.answers == demo.log.unscored == 1


def test_a_transcript_replaces_only_what_is_between_the_marks(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n\n<!-- demo output -->\nold\n<!-- /demo output -->\nafter\n")
    for lines in (["x"], ["one", "", "two"]):
        write_transcript(page, lines)
    assert page.read_text() == (
        "before\n\n<!-- demo output -->\n    $ make demo\n    one\n\n    two\n<!-- /demo output -->\nafter\n"
    )
    page.write_text("no marks")
    with pytest.raises(InvalidInput, match="README.md must hold one line"):
        write_transcript(page, ["x"])


# -- pictures ------------------------------------------------------------------------------------------------


def gallery_of(latency_s: float) -> Gallery:
    """Two seconds of a grey camera; the image of 0.5 s was bright, and its answer came latency_s later."""
    gallery, start = Gallery(), 10**12
    for i in range(21):
        gallery.add_live(start + i * 10**8, np.full((480, 640, 3), 60, np.uint8))
    seen = Frame(start + 5 * 10**8, "camera", np.full((480, 640, 3), 200, np.uint8), K=np.diag((600.0, 600.0, 1.0)))
    right = Heard(seen.stamp_ns, ("cube",), (saw("cube", CUBE.box_xyxy_px),), latency_s=latency_s, engine_s=0.1)
    gallery.add_answer(1, right, score_answer(right, (CUBE,)), seen)
    return gallery


def test_the_video_shows_an_answer_when_it_was_published_and_not_before(tmp_path):
    assert gallery_of(latency_s=0.7).write_video(tmp_path / "x.mp4") == 21
    video, brightness = cv2.VideoCapture(str(tmp_path / "x.mp4")), []
    while True:
        more, picture = video.read()
        if not more:
            break
        brightness.append(picture[STRIP_PX + 300 :, 1000:].mean())
    assert [b > 100 for b in brightness] == [t >= 12 for t in range(21)]


def test_a_video_of_nothing_is_no_file(tmp_path):
    assert Gallery().write_video(tmp_path / "x.mp4") == 0 and not (tmp_path / "x.mp4").exists()


def test_pictures_are_of_right_answers_only(tmp_path):
    gallery = gallery_of(0.1)
    wrong = answer(saw("cube", (0, 0, 50, 50)), latency_s=0.1)
    gallery.add_answer(2, wrong, score_answer(wrong, (CUBE,)), Frame(1, "camera", np.zeros((480, 640, 3), np.uint8)))
    assert [p.name for p in gallery.write_pictures(tmp_path)] == ["scene_1.png"]
    assert gallery.write_poster(tmp_path / "poster.png") and cv2.imread(str(tmp_path / "poster.png")).shape == (
        480,
        640,
        3,
    )
    assert not Gallery().write_poster(tmp_path / "none.png") and not (tmp_path / "none.png").exists()


# -- the MCAP file -------------------------------------------------------------------------------------------

TEXTS = {
    "demo_msgs/msg/Pair": "# two\nstd_msgs/Header header\nItem[<=4] items\nstring<=8 name\nuint8 MAX=3\n",
    "demo_msgs/msg/Item": "geometry_msgs/Point at\nfloat64[3] size  # m\n",
    "std_msgs/msg/Header": "builtin_interfaces/Time stamp\nstring frame_id\n",
    "builtin_interfaces/msg/Time": "int32 sec\nuint32 nanosec\n",
    "geometry_msgs/msg/Point": "float64 x\nfloat64 y\nfloat64 z\n",
}


def test_definitions_bring_everything_they_need():
    assert dependencies("demo_msgs", TEXTS["demo_msgs/msg/Pair"]) == [
        "std_msgs/msg/Header",
        "demo_msgs/msg/Item",
    ]
    text = full_definition("demo_msgs/msg/Pair", TEXTS.__getitem__)
    assert text.startswith("# two\n") and [f"MSG: {n.replace('/msg/', '/')}\n" in text for n in TEXTS] == [
        False,
        True,
        True,
        True,
        True,
    ]


def test_a_missing_definition_says_what_to_do(tmp_path):
    with pytest.raises(InvalidInput, match="no_msgs/msg/Thing.*source the workspace"):
        installed_text("no_msgs/msg/Thing", [str(tmp_path)])


def test_the_recording_reads_back_with_another_library(tmp_path):
    store = get_typestore(Stores.ROS2_HUMBLE)
    header, time_type = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    with Recording(tmp_path / "x.mcap", TEXTS.__getitem__) as recording:
        recording.open_topic("/header", "std_msgs/msg/Header")
        recording.open_topic("/silent", "geometry_msgs/msg/Point")
        for i in range(3):
            message = header(time_type(i, 500), f"camera_{i}")
            recording.write("/header", bytes(store.serialize_cdr(message, "std_msgs/msg/Header")), i * 10**9 + 500)
        assert recording.counts == {"/header": 3, "/silent": 0}
    with open(tmp_path / "x.mcap", "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert {c.topic: summary.schemas[c.schema_id].name for c in summary.channels.values()} == {
            "/header": "std_msgs/msg/Header",
            "/silent": "geometry_msgs/msg/Point",
        }
        read = [(m.log_time, d.frame_id, d.stamp.sec) for _, _, m, d in reader.iter_decoded_messages()]
    assert read == [(500, "camera_0", 0), (10**9 + 500, "camera_1", 1), (2 * 10**9 + 500, "camera_2", 2)]


# -- children ------------------------------------------------------------------------------------------------


def lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


SLEEPER = "import signal, time\nprint('ready')\ntime.sleep(600)"
STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready')\ntime.sleep(600)"
)
PARENT = (
    "import subprocess, sys, time\n"
    "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('ready', c.pid)\ntime.sleep(600)"
)


def ready(children, name):
    wait_until(lambda: "ready" in children.log_path(name).read_text())


@pytest.mark.parametrize("program", [SLEEPER, STUBBORN], ids=["polite", "stubborn"])
def test_leaving_stops_every_child(tmp_path, program):
    with Children(tmp_path, patience_s=0.5) as children:
        pid = children.start("child", [sys.executable, "-c", program])
        ready(children, "child")
        children.check()
    assert not lives(pid)


def test_leaving_stops_what_a_child_started(tmp_path):
    with pytest.raises(KeyboardInterrupt), Children(tmp_path, patience_s=2.0) as children:
        children.start("child", [sys.executable, "-c", PARENT])
        ready(children, "child")
        grandchild = int(children.log_path("child").read_text().split()[1])
        assert lives(grandchild)
        raise KeyboardInterrupt
    assert not lives(grandchild)


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(tmp_path):
    with Children(tmp_path) as children:
        children.start("camera", [sys.executable, "-c", "print('no lens'); raise SystemExit(3)"])
        with pytest.raises(ChildDied, match=r"(?s)camera ended unexpectedly \(exit status 3\).*no lens"):
            wait_until(lambda: children.check())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent-death signal is Linux's")
def test_children_do_not_outlive_a_killed_demo(tmp_path):
    program = (
        f"import sys, time\nfrom pathlib import Path\nfrom qwen3vl_ros.demo.processes import Children\n"
        f"c = Children(Path({str(tmp_path)!r}))\n"
        f"print(c.start('child', [sys.executable, '-c', {SLEEPER!r}]), flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as demo:
        try:
            pid = int(demo.stdout.readline())
            wait_until(lambda: "ready" in (tmp_path / "child.log").read_text())
            assert lives(pid)
        finally:
            demo.kill()
    wait_until(lambda: not lives(pid))
