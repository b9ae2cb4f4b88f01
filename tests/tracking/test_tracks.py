"""Track ids: the same object keeps its id, another one never gets it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.questions import Detect, ReadText
from qwen3vl_ros.tracking.identity import MAX_GAP_NS, MAX_MISSED, TrackIds
from qwen3vl_ros.types import Detection2D

MUGS = (1, Detect(("mug", "cube")))
SECOND_NS = 1_000_000_000


def seen(*objects):
    """Detections of (label, x, y), 100 px wide and 80 high."""
    return tuple(Detection2D(label, (x, y, x + 100.0, y + 80.0), 0.5) for label, x, y in objects)


def ids(tracks, stamp_s, detections, request=MUGS):
    return [d.id for d in tracks.assign(int(stamp_s * SECOND_NS), request, detections)]


def test_a_still_scene_keeps_its_ids_in_any_order():
    tracks = TrackIds()
    scene = seen(("mug", 0, 0), ("mug", 200, 0), ("cube", 0, 200))
    assert ids(tracks, 0, scene) == ["1", "2", "3"]
    assert ids(tracks, 1, scene[::-1]) == ["3", "2", "1"]
    assert ids(tracks, 2, scene[1:]) == ["2", "3"]


def test_everything_else_of_a_detection_is_left_alone():
    (before,) = seen(("mug", 3, 4))
    (after,) = TrackIds().assign(0, MUGS, (before,))
    assert (after.label, after.box_xyxy_px, after.score) == (before.label, before.box_xyxy_px, before.score)


def test_a_moving_object_keeps_its_id_and_passes_another():
    tracks = TrackIds()
    assert ids(tracks, 0, seen(("mug", 0, 0), ("cube", 300, 0))) == ["1", "2"]
    for step in range(1, 11):
        assert ids(tracks, step, seen(("mug", 60.0 * step, 0), ("cube", 300, 0))) == ["1", "2"]


def test_between_two_slow_answers_a_near_miss_is_the_same_but_a_far_one_is_not():
    tracks = TrackIds()
    assert ids(tracks, 0, seen(("mug", 0, 0))) == ["1"]
    assert ids(tracks, 1, seen(("mug", 110, 0))) == ["1"]
    assert ids(tracks, 2, seen(("mug", 500, 0))) == ["2"]


def test_a_renamed_object_in_its_place_is_the_same_but_another_thing_beside_it_is_not():
    tracks = TrackIds()
    assert ids(tracks, 0, seen(("mug", 0, 0))) == ["1"]
    assert ids(tracks, 1, seen(("red mug", 4, 2))) == ["1"]
    assert ids(tracks, 2, seen(("cube", 50, 0))) == ["2"]


def test_swapped_labels_of_neighbours_do_not_swap_ids():
    tracks = TrackIds()
    assert ids(tracks, 0, seen(("mug", 0, 0), ("cube", 90, 0))) == ["1", "2"]
    assert ids(tracks, 1, seen(("cube", 92, 0), ("mug", 2, 0))) == ["2", "1"]


def test_an_object_comes_back_after_a_few_answers_without_it_and_not_after_more():
    tracks = TrackIds()
    assert ids(tracks, 0, seen(("mug", 0, 0))) == ["1"]
    for step in range(MAX_MISSED):
        assert ids(tracks, 0.1 * (step + 1), ()) == []
    assert ids(tracks, 1, seen(("mug", 0, 0))) == ["1"]
    for step in range(MAX_MISSED + 1):
        assert ids(tracks, 1 + 0.1 * (step + 1), ()) == []
    assert ids(tracks, 2, seen(("mug", 0, 0))) == ["2"]


def test_an_object_unseen_for_long_is_another_one():
    tracks = TrackIds()
    assert ids(tracks, 0, seen(("mug", 0, 0))) == ["1"]
    assert ids(tracks, MAX_GAP_NS / SECOND_NS + 1, seen(("mug", 0, 0))) == ["2"]


def test_a_new_prompt_starts_afresh_and_a_request_in_between_disturbs_nothing():
    tracks = TrackIds()
    scene = seen(("mug", 0, 0))
    assert ids(tracks, 0, scene) == ["1"]
    assert ids(tracks, 1, scene, (7, Detect(("mug",)))) == ["2"]
    assert ids(tracks, 1, scene, ReadText()) == ["3"]
    assert ids(tracks, 2, scene) == ["1"]
    assert ids(tracks, 3, scene, (2, Detect(("mug", "cube")))) == ["4"]


def test_many_one_shot_prompts_do_not_grow_without_bound():
    tracks = TrackIds()
    for i in range(200):
        ids(tracks, i, seen(("mug", 0, 0)), (i, Detect(("mug",))))
    assert len(tracks._prompts) <= 10


def test_a_late_answer_takes_ids_but_does_not_move_the_tracks():
    tracks = TrackIds()
    for x in (0, 60, 120):
        assert ids(tracks, x / 60, seen(("mug", x, 0))) == ["1"]
    assert ids(tracks, 0.5, seen(("mug", 30, 0))) == ["1"]
    assert ids(tracks, 3, seen(("mug", 200, 0))) == ["1"]  # near 120, far from 30
    for _ in range(3 * MAX_MISSED):
        assert ids(tracks, 0.1, ()) == []  # late and empty: no evidence that it left since
    assert ids(tracks, 4, seen(("mug", 200, 0))) == ["1"]


def test_a_clock_that_jumped_back_starts_afresh():
    tracks = TrackIds()
    assert ids(tracks, 1000, seen(("mug", 0, 0))) == ["1"]
    assert ids(tracks, 5, seen(("mug", 0, 0))) == ["2"]
    assert ids(tracks, 6, seen(("mug", 0, 0))) == ["2"]


BOX = st.tuples(st.integers(0, 400), st.integers(0, 300), st.sampled_from([0, 1, 20, 200]), st.sampled_from([0, 1, 30]))
ANSWERS = st.lists(
    st.tuples(
        st.integers(-3 * SECOND_NS, 20 * SECOND_NS),
        st.integers(0, 2),
        st.lists(st.tuples(st.sampled_from(["mug", "cube", ""]), BOX), max_size=6),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(ANSWERS)
def test_ids_are_distinct_in_an_answer_and_belong_to_one_prompt_for_ever(answers):
    tracks, owner, newest = TrackIds(), {}, 0
    for stamp_ns, prompt_id, objects in answers:
        detections = tuple(Detection2D(label, (x, y, x + w, y + h)) for label, (x, y, w, h) in objects)
        given_ids = [int(d.id) for d in tracks.assign(stamp_ns, (prompt_id, Detect(("mug",))), detections)]
        assert len(set(given_ids)) == len(detections)
        for i in given_ids:
            assert owner.setdefault(i, prompt_id) == prompt_id
        fresh = sorted(i for i in given_ids if i > newest)
        assert fresh == list(range(newest + 1, newest + 1 + len(fresh)))  # counted up, none left out
        newest += len(fresh)


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(5)), st.lists(st.integers(-20, 20), min_size=10, max_size=10))
def test_the_order_of_detections_does_not_matter(order, shifts):
    scene = [("mug", 150 * i, 0) for i in range(5)]
    moved = seen(*[(label, x + dx, y + dy) for (label, x, y), dx, dy in zip(scene, shifts[:5], shifts[5:])])
    tracks = TrackIds()
    first = ids(tracks, 0, seen(*scene))
    assert ids(tracks, 1, [moved[i] for i in order]) == [first[i] for i in order]


def test_an_overlap_beats_a_near_miss():
    tracks = TrackIds()
    assert ids(tracks, 0, seen(("mug", 0, 0), ("mug", 120, 0))) == ["1", "2"]
    assert ids(tracks, 1, seen(("mug", 105, 0))) == ["2"]
