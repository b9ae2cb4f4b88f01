"""The world of tracked objects: joined from cameras, remembered, asked by id, by phrase, by age and by movement."""

import numpy as np
import pytest

from qwen3vl_ros.geometry.facts import measure
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.things import Thing, Viewpoint
from qwen3vl_ros.tracking.tracks import COASTING, FRESH, LOST, OCCLUDED, UNCERTAIN, Track
from qwen3vl_ros.tracking.world import MEMORY_NS, World
from qwen3vl_ros.types import Detection3D, Verdict

S = 1_000_000_000


def pose(x, y, z):
    result = np.eye(4)
    result[:3, 3] = x, y, z
    return result


def track(
    id,
    label="mug",
    at=(0.0, 0.0, 0.0),
    t_s=1.0,
    state=FRESH,
    seen_s=None,
    speed=(0.0, 0.0, 0.0),
    spread=0.005,
    frame="world",
    solid=True,
    score=0.8,
):
    at = np.array(at, float)
    box = Detection3D(id, label, score, frame, pose(*at), np.array((0.08, 0.08, 0.1))) if solid else None
    seen_ns = round((t_s if seen_s is None else seen_s) * S)
    return Track(
        id, label, (0, 0, 9, 9), score, state, round(t_s * S), seen_ns, frame, at, np.array(speed), spread, box
    )


def lost(id, t_s, label="mug"):
    return Track(id, label, (0, 0, 9, 9), 0.0, LOST, round(t_s * S), 0, "world")


def thing(id, label, x, y, z):
    corners = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) * (0.04, 0.04, 0.05)
    return Thing(id, label, corners + (x, y, z), pose(x, y, z), np.array((0.08, 0.08, 0.1)), stamp_ns=S)


def test_what_two_cameras_see_in_one_place_is_one_object_under_the_first_id():
    world = World()
    world.update("front", [track("1"), track("2", "box", (0.3, 0, 0))])
    world.update("wrist", [track("3", at=(0.02, 0, 0)), track("4", "box", (0.31, 0.01, 0))])
    assert [(o.id, o.tracks) for o in world.objects] == [
        ("1", (("front", "1"), ("wrist", "3"))),
        ("2", (("front", "2"), ("wrist", "4"))),
    ]
    assert [o.id for o in world.find("3")] == ["1"]


@pytest.mark.parametrize(
    "name, other",
    [
        ("another label", track("3", "bowl", (0.01, 0, 0))),
        ("too far", track("3", at=(0.2, 0, 0))),
        ("another frame", track("3", frame="camera")),
    ],
)
def test_what_differs_is_not_joined(name, other):
    world = World()
    world.update("front", [track("1")])
    world.update("wrist", [other])
    assert len(world.objects) == 2, name


def test_where_two_could_be_meant_none_is_joined():
    world = World()
    world.update("front", [track("1"), track("2", at=(0.05, 0, 0))])
    world.update("wrist", [track("3", at=(0.025, 0, 0))])
    assert len(world.objects) == 3


def test_tracks_of_one_camera_are_never_one_object():
    world = World()
    world.update("front", [track("1"), track("2", at=(0.01, 0, 0))])
    assert len(world.objects) == 2


def test_what_drifts_apart_was_two_things():
    world = World()
    world.update("front", [track("1")])
    world.update("wrist", [track("3", at=(0.02, 0, 0))])
    world.update("wrist", [track("3", at=(0.4, 0, 0), t_s=2.0)])
    assert sorted(o.id for o in world.objects) == ["1", "3"]


def test_a_lost_object_is_remembered_and_known_again_where_it_was():
    world = World()
    world.update("front", [track("1", at=(0.1, 0.2, 0.3))])
    world.update("front", [lost("1", 2.0)])
    (remembered,) = world.find("mug")
    assert (remembered.state, remembered.score, remembered.tracks) == (LOST, 0.0, ())
    assert np.allclose(remembered.position_m, (0.1, 0.2, 0.3)) and remembered.age_s(5 * S) == 4.0
    world.update("front", [track("8", at=(0.11, 0.2, 0.3), t_s=5.0)])
    (again,) = world.find("mug")
    assert (again.id, again.state, again.tracks) == ("1", FRESH, (("front", "8"),))


def test_what_nobody_saw_for_very_long_is_forgotten():
    world = World()
    world.update("front", [track("1"), track("2", "box", (1, 0, 0))])
    world.update("front", [lost("1", 2.0), track("2", "box", (1, 0, 0), t_s=2.0)])
    world.update("front", [track("2", "box", (1, 0, 0), t_s=2.0 + MEMORY_NS / S)])
    assert [o.id for o in world.objects] == ["2"]


def test_the_best_comes_first_and_an_id_means_one():
    world = World()
    states = [COASTING, LOST, FRESH, OCCLUDED, UNCERTAIN]
    tracks = [track(str(i), at=(i, 0, 0), state=s) for i, s in enumerate(states) if s != LOST]
    world.update("front", tracks + [track("1", at=(1, 0, 0))])
    world.update("front", [lost("1", 2.0)])
    assert [o.state for o in world.find(" MUG ")] == [FRESH, UNCERTAIN, COASTING, OCCLUDED, LOST]
    assert [o.id for o in world.find("3")] == ["3"] and world.find("nothing of the kind") == ()


def test_the_better_of_two_cameras_says_where_it_is():
    world = World()
    world.update("front", [track("1", state=OCCLUDED)])
    world.update("wrist", [track("3", at=(0.03, 0, 0))])
    (one,) = world.objects
    assert one.state == FRESH and one.position_m[0] == 0.03
    world.update("wrist", [track("3", at=(0.03, 0, 0), state=COASTING, t_s=2.0)])
    world.update("front", [track("1", at=(0.01, 0, 0), t_s=2.0)])
    assert world.objects[0].position_m[0] == 0.01


def test_where_it_is_now_goes_on_at_its_speed_for_a_moment_and_the_spread_grows():
    world = World()
    world.update("front", [track("1", speed=(0.2, 0, 0))])
    (one,) = world.objects
    assert np.allclose(one.at(round(1.3 * S)).position_m, (0.06, 0, 0))
    assert np.allclose(one.at(9 * S).position_m, (0.1, 0, 0))  # not for ever
    spreads = [one.at(round(t * S)).spread_m for t in (1.0, 1.2, 2.0, 5.0)]
    assert spreads == sorted(spreads) and spreads[0] == pytest.approx(0.005)
    assert one.at(round(1.3 * S)).frame_T_box[0, 3] == pytest.approx(0.06)
    assert one.at(0).position_m[0] == 0.0  # a time before the picture


def test_what_moved_can_be_asked_for():
    world = World()
    for k in range(11):
        world.update(
            "front", [track("1", at=(0.01 * k, 0, 0), t_s=1 + 0.1 * k), track("2", "box", (1, 0, 0), 1 + 0.1 * k)]
        )
    assert [o.id for o in world.moved(since_ns=round(1.0 * S))] == ["1"]
    assert world.moved(since_ns=round(1.95 * S)) == () and world.moved(round(1.0 * S), by_m=0.5) == ()


def test_what_no_answer_saw_for_long_can_be_asked_for():
    world = World()
    world.update("front", [track("1", t_s=9.0, seen_s=8.5), track("2", "box", (1, 0, 0), 9.0, seen_s=2.0)])
    assert [o.id for o in world.stale(9 * S, after_s=3.0)] == ["2"]


def test_facts_are_measured_on_things_moved_to_where_they_are():
    world = World()
    world.update("front", [track("1", "mug", (0.0, 0, 0.05)), track("2", "box", (0.3, 0, 0.05))])
    world.look("front", [thing("1", "mug", 0.0, 0, 0.05), thing("2", "box", 0.3, 0, 0.05), thing("9", "cup", 0, 0, 0)])
    viewer = Viewpoint(np.array(((1.0, 0, 0, 0), (0, 0, 1, -1), (0, -1, 0, 0), (0, 0, 0, 1))), np.array((0, 0, 1.0)))
    told = lambda: measure(Layout(world.things(), viewer), "left_of", ("mug", "box")).verdict
    assert told() is Verdict.TRUE
    world.update("front", [track("1", "mug", (0.6, 0, 0.05), 2.0), track("2", "box", (0.3, 0, 0.05), 2.0)])
    assert told() is Verdict.FALSE
    assert {t.id for t in world.things()} == {"1", "2"}


def test_what_has_no_depth_is_not_in_the_world_and_restart_forgets_all():
    world = World()
    flat = Track("1", "mug", (0, 0, 9, 9), 0.8, FRESH, S, S)
    world.update("front", [flat, track("2", solid=False)])
    (one,) = world.objects
    assert (one.id, one.frame_T_box, one.size_m, one.thing) == ("2", None, None, None)
    world.update("front", [lost("7", 2.0)])  # never heard of
    world.restart()
    assert world.objects == ()
