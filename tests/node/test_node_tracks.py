"""Tracks over a real graph: every image has them at its own stamp, under the ids of the answers, however slow the model is."""

import time

import numpy as np
import pytest
from ros_graph import CUBE_M, OPTICAL, PATIENCE_S, TABLE_M, FakeCamera, picture, publish_static, until
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.msg import TrackState, TrackStates
from qwen3vl_ros.srv import Track

NODE = "/qwen3vl/perception"
TRACKS = {"tracks_2d": Detection2DArray, "tracks_3d": Detection3DArray, "track_states": TrackStates}
SPEED_PX_S, START_PX = 12.0, -30.0
AHEAD = 4  # images on the way, below what any queue holds


def cube_at(x_px: float):
    """picture() with its cube so many pixels to the right."""
    rgb, depth_m = picture()
    return np.roll(rgb, round(x_px), axis=1), np.roll(depth_m, round(x_px), axis=1)


def slide(
    camera, states: list, images: int, rate_hz: int = 30, began_ns: int | None = None, enough=lambda: True
) -> dict[int, float]:
    """Images of the cube that moves to the right, so many a second by their stamps: {stamp: its middle, pixels}. They come as fast
    as that, or, where the last few have no tracks yet, later: a busy machine makes it slower, and nothing else.

    began_ns: the first stamp, now if left out. enough: whether no more images are needed, once there are so many.
    """
    shot: dict[int, float] = {}
    first, k, end_s = len(states), 0, time.monotonic() + 2 * PATIENCE_S
    began_ns = camera.node.get_clock().now().nanoseconds if began_ns is None else began_ns
    while k < images or not enough():
        assert time.monotonic() < end_s or k < images, "enough images: not in time"
        x_px = min(START_PX + SPEED_PX_S * k / rate_hz, -START_PX)
        rgb, depth_m = cube_at(x_px)
        until(lambda: len(shot) - (len(states) - first) < AHEAD, what="the tracks of the images before")
        stamp = camera.shoot(rgb=rgb, depth_m=depth_m, apart_s=1 / rate_hz, stamp=began_ns + k * 10**9 // rate_hz)
        shot[stamp], k = 80.0 + round(x_px), k + 1
    return shot


def track(graph, target):
    return graph.call(Track, f"{NODE}/track", Track.Request(target=target))


@pytest.fixture
def following(graph):
    """A node whose engine takes a second to answer, a camera, and those who listen to the tracks."""
    graph.start_node("watchful", image_qos="reliable", max_age=60.0)
    camera = FakeCamera(graph, qos=50).matched()
    heard = {name: graph.listen(f"{NODE}/{name}", kind, 200) for name, kind in TRACKS.items()}
    heard["detections_2d"] = graph.listen(f"{NODE}/detections_2d", Detection2DArray)
    begun(camera, heard)
    return graph, camera, heard


def begun(camera, heard) -> None:
    """Wait until the node follows: everything it will say of the images so far has been said."""
    seen = lambda stamp: all(any(stamp_ns(m.header) == stamp for m in heard[name]) for name in TRACKS)
    shoot = lambda: camera.shoot(**dict(zip(("rgb", "depth_m"), cube_at(START_PX))))
    until(lambda: shoot() and heard["track_states"], what="tracks")
    last = shoot()
    until(lambda: seen(last), what="the tracks of the last image")


def stamps(heard: list, since: int) -> list[int]:
    return [s for m in heard if (s := stamp_ns(m.header)) >= since]


@pytest.mark.parametrize("rate_hz", [30, 60])
def test_every_image_has_its_tracks_while_the_model_answers_once_a_second(following, rate_hz):
    graph, camera, heard = following
    shot = slide(camera, heard["track_states"], 4 * rate_hz, rate_hz)
    first, last = min(shot), max(shot)
    for name in TRACKS:
        until(lambda: stamps(heard[name], last), what=f"{name} of the last image")
        assert stamps(heard[name], first) == list(shot), f"{name}: not one for each image, in order"
    until(lambda: len(stamps(heard["detections_2d"], 0)) >= 2, what="the answers of the model, meanwhile")
    assert graph.diagnosed(lambda s, v: v["dropped: not followed"] == "0" and "BLAS" in v["threads"])


def test_every_image_has_its_tracks_however_long_the_model_takes(graph, tmp_path, monkeypatch):
    """The model holds its answer back until sixty images were followed, then answers about the first of them."""
    gate = tmp_path / "gate"
    monkeypatch.setenv("GATE", str(gate))
    graph.start_node("gated", image_qos="reliable", max_age=60.0, generation__deadline=3600.0)
    camera = FakeCamera(graph, qos=50).matched()
    heard = {name: graph.listen(f"{NODE}/{name}", kind, 200) for name, kind in TRACKS.items()}
    answers = graph.listen(f"{NODE}/detections_2d", Detection2DArray)
    begun(camera, heard)
    shot = slide(camera, heard["track_states"], 60)
    for name in TRACKS:
        until(lambda: stamps(heard[name], max(shot)), what=f"{name} of the last image")
        assert stamps(heard[name], min(shot)) == list(shot)
    assert not answers and not heard["tracks_2d"][-1].detections  # nobody knows of anything yet
    gate.touch()
    until(lambda: answers, what="the answer")
    assert stamp_ns(answers[0].header) <= min(shot)  # it is about an image of before them
    x_px = START_PX + SPEED_PX_S * 60 / 30
    rgb, depth_m = cube_at(x_px)
    stamp = camera.shoot(rgb=rgb, depth_m=depth_m, stamp=max(shot) + 10**9 // 30)
    until(lambda: stamps(heard["tracks_2d"], stamp), what="the tracks of the last image")
    (message,) = [m for m in heard["tracks_2d"] if stamp_ns(m.header) == stamp]
    assert [d.bbox.center.position.x for d in message.detections] == pytest.approx([80.0 + round(x_px)], abs=2.5)
    assert [d.id for d in message.detections] == [d.id for d in answers[0].detections]


def test_a_source_that_loops_loses_its_tracks_and_begins_anew_in_every_round(following):
    """As a bag that is played with --loop and without a clock: the same images with the same stamps over and over."""
    graph, camera, heard = following
    tracks, states = heard["tracks_2d"], heard["track_states"]
    ids, began_ns, shot = [], camera.node.get_clock().now().nanoseconds, []
    for _ in range(3):
        first, said, answers = len(tracks), len(states), len(heard["detections_2d"])
        sure = lambda: tracks[-1].detections and len(heard["detections_2d"]) > answers + 1
        places = slide(camera, states, 30, began_ns=began_ns, enough=sure)
        shot += places
        until(lambda: len(states) - said == len(tracks) - first == len(places), what="the tracks of all images")
        if ids:  # nothing of the round before is where it was
            assert not tracks[first].detections
            assert [s.id for s in states[said].tracks if s.state == TrackState.LOST] == ids[-1:]
        seen = [(stamp_ns(m.header), d) for m in tracks[first:] for d in m.detections]
        ids += dict.fromkeys(d.id for _, d in seen)
        assert all(d.bbox.center.position.x == pytest.approx(places[stamp], abs=2.5) for stamp, d in seen)
        assert track(graph, "cube").track.id == ids[-1]
    assert len(ids) == len(
        set(ids)
    )  # never the same, and one in each round: an answer of the round before may come in between once
    assert 3 <= len(ids) <= 4
    for name in TRACKS:
        assert stamps(heard[name], began_ns) == shot, f"{name}: not one for each image, in order"


def test_tracks_have_the_ids_of_the_detections_and_follow_what_moves(following):
    graph, camera, heard = following
    shot = slide(camera, heard["track_states"], 120)
    until(lambda: stamp_ns(heard["track_states"][-1].header) == max(shot), what="the tracks of the last image")
    (answered,) = {d.id for m in heard["detections_2d"] for d in m.detections}
    for message in heard["tracks_2d"][-30:]:
        (seen,) = message.detections
        assert seen.id == answered and seen.results[0].hypothesis.class_id == "cube"
        assert message.header.frame_id == OPTICAL
        assert seen.bbox.center.position.x == pytest.approx(shot[stamp_ns(message.header)], abs=2.5)
    (solid,) = heard["tracks_3d"][-1].detections
    assert solid.id == answered and solid.bbox.center.position.z == pytest.approx(TABLE_M - CUBE_M / 2, abs=0.01)
    (state,) = heard["track_states"][-1].tracks
    assert (state.id, state.class_id, state.state, state.has_position) == (answered, "cube", TrackState.FRESH, True)
    seen_s = [(max(shot) - stamp) / 1e9 for stamp in stamps(heard["detections_2d"], 0)]
    assert any(state.unseen == pytest.approx(s, abs=1e-3) for s in seen_s) and 0 < state.spread < 0.05
    assert state.velocity.x == pytest.approx(SPEED_PX_S / 300 * (TABLE_M - CUBE_M), abs=0.012)


def test_where_something_is_now_can_be_asked_by_phrase_and_by_id(following):
    graph, camera, heard = following
    shot = slide(camera, heard["track_states"], 75)
    found = until(
        lambda: (
            camera.shoot(**dict(zip(("rgb", "depth_m"), cube_at(0.0)))) and (r := track(graph, " Cube ")).success and r
        )
    )
    began_s = (graph.node.get_clock().now().nanoseconds - min(shot)) / 1e9
    assert found.fitting == 1 and found.header.frame_id == OPTICAL and 0 <= found.age < began_s
    assert found.detection.bbox.center.position == found.track.position and found.detection.bbox.size.z > 0.02
    assert found.tracks == [found.track.id] and found.detection.id == found.track.id
    assert track(graph, found.track.id).track.class_id == "cube"
    for target, why in (("unicorn", "unicorn"), ("", "empty"), ("   ", "empty"), ("99999", "99999")):
        refused = track(graph, target)
        assert not refused.success and why in refused.message, target


def test_what_is_gone_is_said_once_and_remembered(following):
    graph, camera, heard = following
    slide(camera, heard["track_states"], 75)
    before = until(lambda: (r := track(graph, "cube")).success and r)
    bare = np.full_like(picture()[0], 200)
    flat = np.full_like(picture()[1], TABLE_M)
    bare[:3, :3] = (220, 30, 30)  # the engine looks for red: far from where the cube was
    lost = lambda: [s for m in heard["track_states"] for s in m.tracks if s.state == TrackState.LOST]
    until(lambda: camera.shoot(rgb=bare, depth_m=flat) and lost(), what="the loss")
    assert [s.id for s in lost()].count(before.track.id) == 1
    after = track(graph, before.track.id)
    assert after.success and after.track.state == TrackState.LOST and after.tracks == []
    assert after.detection.bbox.center.position.x == pytest.approx(before.detection.bbox.center.position.x, abs=0.05)


def test_each_object_has_a_frame_where_that_is_wanted(graph):
    graph.start_node("instant", publish_tf=True)
    camera, heard = FakeCamera(graph).matched(), graph.listen("/tf", TFMessage, 50)
    middle_m = TABLE_M - CUBE_M / 2  # of its box; until there is one, its place is that of the surface that was seen
    near = lambda message: abs(message.transforms[0].transform.translation.z - middle_m) < 0.015
    until(lambda: camera.shoot() and any(map(near, heard)), what="a frame in the middle of the cube")
    (stamped,) = heard[-1].transforms
    assert stamped.header.frame_id == OPTICAL and stamped.child_frame_id.startswith("object_")


def test_nothing_is_followed_that_nobody_wants(graph):
    graph.start_node("instant", track="never")
    camera = FakeCamera(graph).matched()
    states, answers = graph.listen(f"{NODE}/track_states", TrackStates), graph.results()
    until(lambda: camera.shoot() and len(answers["generation"]) >= 3, what="answers")
    assert not states
    told = track(graph, "cube")  # the world knows what answers saw
    assert told.success and told.detection.bbox.size.z > 0.02 and told.track.velocity.x == 0.0
    assert graph.set_parameter("track", "wanted").successful  # live
    until(lambda: camera.shoot() and states, what="tracks")


def test_what_two_cameras_see_in_one_place_is_one_object(graph):
    pose = np.eye(4)
    pose[:3, 3] = 0.3, 0.2, 1.0
    kept = publish_static(graph, "base", OPTICAL, pose)
    graph.start_node("instant", cameras=["front", "wrist"], target_frame="base", track="always")
    cameras = [FakeCamera(graph, namespace=f"/qwen3vl/{name}").matched() for name in ("front", "wrist")]
    both = until(
        lambda: (
            [c.shoot() for c in cameras]
            and (r := track(graph, "cube")).success
            and len(r.tracks) == 2
            and r.detection.bbox.size.z > 0  # measured, and not only followed
            and r
        ),
        what="one object of two cameras",
    )
    assert both.fitting == 1 and both.header.frame_id == "base" and kept
    assert sorted(t.partition("/")[0] for t in both.tracks) == ["front", "wrist"]
    p = both.detection.bbox.center.position
    assert (p.x, p.y, p.z) == pytest.approx((0.3, 0.2, 1.0 + TABLE_M - CUBE_M / 2), abs=0.015)


def test_the_thread_ends_with_cleanup_and_begins_with_configure(graph):
    process = graph.start_node("instant", track="always", autostart=True)
    camera = FakeCamera(graph).matched()
    until(lambda: camera.shoot() and track(graph, "cube").success, what="a track")
    assert graph.transition("deactivate") and graph.transition("cleanup")
    refused = track(graph, "cube")
    assert not refused.success and "configure" in refused.message
    threads = process.threads()
    assert graph.transition("configure", 60.0) and process.threads() > threads
    assert graph.transition("activate")
    until(lambda: camera.shoot() and track(graph, "cube").success, what="a track again")


def test_what_was_seen_is_known_though_nothing_is_followed_and_the_camera_stands_still(graph):
    pose = np.eye(4)
    pose[:3, 3] = 0.3, 0.2, 1.0
    kept = publish_static(graph, "base", OPTICAL, pose)
    graph.start_node(
        "instant", cameras=["front", "wrist"], target_frame="base", track="never", enabled=False, max_age=60.0
    )
    cameras = [FakeCamera(graph, namespace=f"/qwen3vl/{name}").matched() for name in ("front", "wrist")]
    assert not track(graph, "cube").success and kept
    for name, camera in zip(("front", "wrist"), cameras):

        def answered():
            camera.shoot()
            future = graph.detect(("cube",), camera=name)
            until(lambda: camera.shoot() and future.done(), what="an answer")
            return future.result().detections_3d.detections

        until(answered, what="a 3D box")
    told = track(graph, "cube")
    assert told.success and told.fitting == 1 and sorted(t.partition("/")[0] for t in told.tracks) == ["front", "wrist"]
    p = told.detection.bbox.center.position
    assert (p.x, p.y, p.z) == pytest.approx((0.3, 0.2, 1.0 + TABLE_M - CUBE_M / 2), abs=0.015)
    later = until(lambda: (r := track(graph, "cube")).age > told.age and r.track.state == TrackState.COASTING and r)
    assert later.track.spread > told.track.spread and later.track.unseen == pytest.approx(later.age)
