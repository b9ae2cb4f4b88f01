"""The world of tracked objects: joined from cameras, remembered, asked by id, by phrase, by age and by movement."""

from dataclasses import replace

import numpy as np
import pytest

from qwen3vl_ros.geometry.facts import measure
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.things import Thing, Viewpoint
from qwen3vl_ros.tracking.track import COASTING, FRESH, LOST, OCCLUDED, UNCERTAIN, Track
from qwen3vl_ros.tracking.world import MAX_OBJECTS, MEMORY_NS, UNMADE_LOOKS, World
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


def solid(id, label="mug", at=(0.0, 0.0, 0.0), frame="world", source="depth"):
    return Detection3D(id, label, 0.8, frame, pose(*at), np.array((0.08, 0.08, 0.1)), source)


def measured(d):
    return thing(d.id, d.label, *d.frame_T_box[:3, 3])


def look(world, *solids, camera="front", prompt="mugs", t_s=1.0):
    world.look(camera, prompt, round(t_s * S), solids, measured)


def test_facts_are_measured_on_things_moved_to_where_they_are():
    world = World()
    world.update("front", [track("1", "mug", (0.0, 0, 0.05)), track("2", "box", (0.3, 0, 0.05))])
    look(world, solid("1", "mug", (0.0, 0, 0.05)), solid("2", "box", (0.3, 0, 0.05)))
    viewer = Viewpoint(np.array(((1.0, 0, 0, 0), (0, 0, 1, -1), (0, -1, 0, 0), (0, 0, 0, 1))), np.array((0, 0, 1.0)))
    told = lambda: measure(Layout(world.things(), viewer), "left_of", ("mug", "box")).verdict
    assert told() is Verdict.TRUE
    world.update("front", [track("1", "mug", (0.6, 0, 0.05), 2.0), track("2", "box", (0.3, 0, 0.05), 2.0)])
    assert told() is Verdict.FALSE
    assert {t.id for t in world.things()} == {"1", "2"}
    (mug,) = world.find("mug")
    assert mug.thing.seen_m.mean(0) == pytest.approx((0.6, 0, 0.05)) and mug.thing.stamp_ns == S
    ahead = replace(mug, velocity_m_s=np.array((0.1, 0, 0))).at(round(2.2 * S))
    assert ahead.thing.seen_m.mean(0) == pytest.approx((0.62, 0, 0.05)) and ahead.thing.spread_m > mug.spread_m


def test_what_an_answer_measured_is_known_without_being_followed():
    world = World()
    look(world, solid("1", at=(0.1, 0.2, 0.3)), solid("2", source="model"), t_s=3.0)
    (mug,) = world.find("mug")
    assert (mug.id, mug.state, mug.seen_ns, mug.frame_id, mug.tracks) == ("1", FRESH, 3 * S, "world", (("front", "1"),))
    assert mug.thing.seen_m.mean(0) == pytest.approx((0.1, 0.2, 0.3)) and mug.size_m == pytest.approx((0.08, 0.08, 0.1))
    later = mug.at(8 * S)
    assert later.state == COASTING and later.age_s(8 * S) == 5.0 and later.spread_m > mug.spread_m > 0
    assert [o.id for o in world.recent(8 * S, 6.0)] == ["1"] and world.recent(8 * S, 4.0) == ()
    assert world.recent(8 * S, 6.0, "base") == () and len(world.recent(8 * S, 6.0, "world")) == 1


def test_what_an_answer_to_the_same_prompt_sees_no_more_is_only_remembered():
    world = World()
    look(world, solid("1"))
    look(world, prompt="bowls", t_s=2.0)  # it did not look for it
    look(world, camera="wrist", t_s=2.0)
    look(world, t_s=0.5)  # an older picture
    assert world.find("mug")[0].state == FRESH
    look(world, t_s=3.0)
    (gone,) = world.objects
    assert (gone.state, gone.tracks, gone.stamp_ns) == (LOST, (), S) and gone.thing is not None
    assert world.recent(3 * S, 60.0) == ()
    look(world, solid("4", at=(0.01, 0, 0)), t_s=4.0)
    (back,) = world.objects
    assert (back.id, back.state, back.tracks) == ("1", FRESH, (("front", "4"),))


def test_answers_to_two_prompts_about_one_thing_are_one_object():
    world = World()
    look(world, solid("1"))
    look(world, solid("2", at=(0.01, 0, 0)), prompt="mugs and bowls", t_s=2.0)
    look(world, solid("3", "bowl", (0.01, 0, 0)), prompt="mugs and bowls", t_s=2.0)
    assert [(o.id, o.label, o.stamp_ns) for o in world.objects] == [("1", "mug", 2 * S), ("3", "bowl", 2 * S)]
    assert world.find("mug")[0].position_m[0] == 0.01


def test_things_of_one_answer_are_never_one_object():
    world = World()
    look(world, solid("1"), solid("2", at=(0.01, 0, 0)))
    assert len(world.objects) == 2


def test_what_is_followed_takes_the_place_of_what_answers_alone_told():
    world = World()
    look(world, solid("1"))
    world.update("front", [track("7", at=(0.01, 0, 0), t_s=2.0)])
    (mug,) = world.objects
    assert (mug.id, mug.tracks, mug.stamp_ns) == ("1", (("front", "7"),), 2 * S)
    look(world, t_s=3.0)  # what is followed says itself when it is lost
    assert world.objects[0].state == FRESH
    look(world, solid("7", at=(0.5, 0, 0)), t_s=1.5)  # nor does an answer about an older picture move it
    assert world.objects[0].position_m[0] == 0.01 and world.objects[0].thing is not None
    world.leave("front")
    (mug,) = world.objects
    assert (mug.state, mug.tracks, mug.stamp_ns) == (LOST, (), 2 * S)


def test_of_two_cameras_the_one_that_looks_now_is_believed():
    world = World()
    look(world, solid("1"), t_s=1.0)
    world.update("wrist", [track("2", at=(0.03, 0, 0), t_s=9.0, spread=0.02)])
    (mug,) = world.objects
    assert mug.position_m[0] == 0.03 and mug.stamp_ns == 9 * S


def test_the_depth_of_few_pictures_is_kept_and_points_are_worked_out_once():
    world, made = World(), []

    def slow(d):
        made.append(d.id)
        return measured(d)

    for k in range(20):
        world.look("front", k, (k + 1) * S, [solid(str(k), at=(k, 0, 0))], lambda d: slow(d))
    assert made == [str(k) for k in range(20 - UNMADE_LOOKS)]
    assert len(world.things()) == len(world.things()) == 20 == len(made)


def test_a_world_of_very_many_things_forgets_the_oldest():
    world = World()
    for k in range(MAX_OBJECTS + 7):
        look(world, solid(str(k), at=(k, 0, 0)), prompt=k, t_s=1 + k)
    assert len(world.objects) == MAX_OBJECTS and world.find("0") == () and world.find(str(MAX_OBJECTS + 6))
    look(world, solid("later"), t_s=1 + MAX_OBJECTS + MEMORY_NS / S + 60)
    assert [o.id for o in world.objects] == ["later"]


def test_what_has_no_depth_is_not_in_the_world_and_restart_forgets_all():
    world = World()
    flat = Track("1", "mug", (0, 0, 9, 9), 0.8, FRESH, S, S)
    world.update("front", [flat, track("2", solid=False)])
    (one,) = world.objects
    assert (one.id, one.frame_T_box, one.size_m, one.thing) == ("2", None, None, None)
    world.update("front", [lost("7", 2.0)])  # never heard of
    world.restart()
    assert world.objects == ()


def test_what_a_camera_saw_before_its_source_began_again_is_forgotten_and_nothing_else():
    """A bag that loops: stamps go back, and the answer about the last picture of the round before comes late."""
    world = World()
    world.update("front", [track("1", t_s=9.0), track("2", "box", (1, 0, 0), t_s=9.0), lost("0", 9.0)])
    world.update("wrist", [track("3", "box", (1, 0, 0), t_s=9.0), track("4", "tray", (3, 0, 0), t_s=9.0)])
    world.update("front", [lost("1", 2.0), lost("2", 2.0)])
    assert {o.tracks for o in world.objects} == {(("wrist", "3"),), (("wrist", "4"),)}
    look(world, solid("5"), t_s=9.1)  # of the round that is over
    assert not world.find("mug")
    world.update("front", [], 2.1 * S)
    look(world, solid("6"), t_s=2.1)
    (mug,) = world.find("mug")
    assert (mug.id, mug.state) == ("6", FRESH)


def test_a_camera_that_saw_nothing_for_long_is_believed_when_it_does():
    world = World()
    world.update("front", [track("1")])
    for t_s in range(2, 60):
        world.update("front", [], t_s * S)
    look(world, solid("2", at=(1, 0, 0)), t_s=59.0)
    assert {o.id for o in world.objects} == {"1", "2"}
