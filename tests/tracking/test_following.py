"""The tracked things of one camera: late answers, cuts, loops, clocks, prompts, light, a moving camera, and who is who."""

import itertools
import threading

import numpy as np
import pytest
from cards import Card, Cards, iou, sliding, still

from qwen3vl_ros.tracking.track import COASTING, FRESH, LOST, OCCLUDED, UNCERTAIN
from qwen3vl_ros.tracking.tracks import Tracks
from qwen3vl_ros.types import Detection2D, Detection3D, Frame

HZ = 30
MUG, BOX = Card("mug", still(-0.12, 0.0, 0.8)), Card("box", still(0.12, 0.13, 0.9), seed=2)


def play(tracks, scene, start_s, end_s, answers=(), prompt="first", hz=HZ, labels=()):
    """Pictures from start to end; answers: (arrives at, about the picture of) seconds. The last picture's tracks and all."""
    said, answers = [], sorted(answers)
    for k in range(round(start_s * hz), round(end_s * hz)):
        while answers and answers[0][0] <= k / hz + 1e-9:
            about = answers.pop(0)[1]
            tracks.assign(scene.frame(about), prompt, scene.answer(about, *labels))
        said.append(tracks.step(scene.frame(k / hz)))
    return said


def named(said, label):
    (track,) = [t for t in said if t.label == label]
    return track


def overlap(track, scene, card, t_s):
    return iou(track.box_xyxy_px, scene.box(card, t_s))


# -- answers that come late --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize("lag_s", [0.1, 0.5, 1.0, 2.0])
def test_a_late_answer_is_joined_where_the_thing_was_and_moved_to_where_it_is(lag_s, depth):
    mug = Card("mug", sliding(-0.15, 0.0, 0.8, 0.12))
    scene, tracks = Cards([mug, BOX], depth=depth), Tracks()
    said = play(tracks, scene, 0.0, lag_s + 0.2, [(lag_s, 0.0)])
    now_s = lag_s + 0.2 - 1 / HZ
    assert overlap(named(said[-1], "mug"), scene, mug, now_s) > 0.85
    assert overlap(named(said[-1], "box"), scene, BOX, now_s) > 0.9
    assert {t.state for t in said[-1]} == {FRESH}


def test_every_answer_gives_a_thing_the_id_it_had_and_the_ids_are_those_of_the_detections():
    mug = Card("mug", sliding(-0.15, 0.0, 0.8, 0.1))
    scene, tracks = Cards([mug, BOX]), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.0)])
    named_ids = [d.id for d in tracks.assign(scene.frame(0.5), "first", scene.answer(0.5))]
    assert named_ids == ["1", "2"]
    assert [d.id for d in tracks.assign(scene.frame(0.8), "first", scene.answer(0.8)[::-1])] == ["2", "1"]
    assert {t.id: t.label for t in tracks.step(scene.frame(1.0))} == {"1": "mug", "2": "box"}


def test_an_answer_about_a_picture_that_was_never_stepped_is_joined_as_well():
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 1.0)
    tracks.assign(scene.frame(0.512), "first", scene.answer(0.512))
    assert overlap(named(tracks.step(scene.frame(1.0)), "mug"), scene, MUG, 1.0) > 0.9


def test_an_answer_older_than_all_that_is_remembered_takes_ids_and_moves_nothing():
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 5.0, [(4.0, 3.5)], hz=10)
    before = tracks.step(scene.frame(5.0))
    (old,) = tracks.assign(scene.frame(0.5), "first", scene.answer(0.5))
    after = tracks.step(scene.frame(5.1))
    assert old.id not in {t.id for t in after} and [t.id for t in after] == [t.id for t in before]


def test_an_answer_before_any_picture_is_named_all_the_same():
    scene, tracks = Cards([MUG, BOX]), Tracks()
    assert [d.id for d in tracks.assign(scene.frame(0.0), "first", scene.answer(0.0))] == ["1", "2"]
    assert tracks.step(scene.frame(0.1)) == ()


def test_an_answer_that_is_here_before_its_picture_waits_for_it():
    mug = Card("mug", sliding(-0.15, 0.0, 0.8, 0.2))
    scene, tracks = Cards([mug]), Tracks()
    play(tracks, scene, 0.0, 0.5)
    (first,) = tracks.assign(scene.frame(0.6), "first", scene.answer(0.6))
    (second,) = tracks.assign(scene.frame(0.6), "another", scene.answer(0.6))
    assert first.id == second.id == "1" and tracks.step(scene.frame(0.55)) == ()
    assert overlap(named(tracks.step(scene.frame(0.65)), "mug"), scene, mug, 0.65) > 0.85


def test_after_a_stop_ids_are_given_by_answers_alone_and_none_twice():
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 0.5, [(0.3, 0.1)])
    tracks.stop()
    ids = [tracks.assign(scene.frame(t), "first", scene.answer(t))[0].id for t in (0.5, 1.0)]
    assert ids == ["2", "2"] and tracks.step(scene.frame(1.1)) == ()


def test_the_box_of_what_is_partly_hidden_does_not_shrink_the_thing():
    mug, hand = Card("mug", still(0.0, 0.0, 0.9)), Card("hand", sliding(-0.25, 0.0, 0.6, 0.2), (0.14, 0.3), seed=5)
    scene, tracks = Cards([mug, hand]), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.3, 0.0)], labels=("mug",))
    x0, y0, x1, y1 = scene.box(mug, 0.0)
    edge = scene.box(hand, 0.9)[2]
    assert x0 + 5 < edge < x1 - 5
    visible = Detection2D("mug", (float(edge), float(y0), float(x1), float(y1)), 0.8)
    (seen,) = tracks.assign(scene.frame(0.9), "first", (visible,))
    after = named(tracks.step(scene.frame(1.0)), "mug")
    assert after.id == seen.id == "1" and iou(after.box_xyxy_px, (x0, y0, x1, y1)) > 0.9


# -- time and pictures that jump ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [True, False])
def test_a_cut_loses_everything_at_once_and_no_box_is_carried_onto_the_new_scene(depth):
    scene, tracks = Cards([MUG, BOX], depth=depth), Tracks()
    other = Cards([Card("cup", still(0.0, -0.1, 0.7), seed=8)], depth=depth, wall_seed=7)
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    cut = tracks.step(other.frame(1.0))
    assert [(t.id, t.state, t.score) for t in cut] == [("1", LOST, 0.0), ("2", LOST, 0.0)]
    assert tracks.step(other.frame(1.1)) == ()  # said once
    tracks.assign(scene.frame(0.9), "first", scene.answer(0.9))  # late, about the scene before
    assert tracks.step(other.frame(1.2)) == ()
    (cup,) = tracks.assign(other.frame(1.2), "first", other.answer(1.2))
    assert int(cup.id) > 2 and [t.id for t in tracks.step(other.frame(1.3))] == [cup.id]


@pytest.mark.parametrize("depth", [True, False])
def test_a_cut_to_a_scene_where_one_thing_has_its_like_is_a_cut(depth):
    cup = Card("cup", still(0.0, -0.1, 0.7), seed=8)
    scene, tracks = Cards([MUG, BOX, cup], depth=depth), Tracks()
    other = Cards([MUG], depth=depth, wall_seed=7)
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    assert [(t.id, t.state) for t in tracks.step(other.frame(1.0))] == [("1", LOST), ("2", LOST), ("3", LOST)]
    assert tracks.restarts == 1


@pytest.mark.parametrize("back_s", [0.6, 1.5, 20.0])
def test_a_clock_that_jumped_back_begins_anew_and_no_id_is_used_twice(back_s):
    scene, tracks = Cards([MUG, BOX], start_ns=100_000_000_000), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    scene.start_ns -= round(back_s * 1e9)
    assert {t.state for t in tracks.step(scene.frame(1.0))} == {LOST}
    ids = [d.id for d in tracks.assign(scene.frame(1.0), "first", scene.answer(1.0))]
    assert ids == ["3", "4"] and tracks.restarts == 1


def test_a_picture_out_of_order_has_no_tracks_and_disturbs_none():
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    assert tracks.step(scene.frame(0.7)) is None
    assert tracks.step(scene.frame(1.0 - 1 / HZ)) is None  # the same picture again
    assert overlap(named(tracks.step(scene.frame(1.0)), "mug"), scene, MUG, 1.0) > 0.9


def test_a_clock_that_jumped_far_ahead_forgets_what_nobody_saw_since():
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    assert [t.state for t in tracks.step(scene.frame(60.0))] == [LOST]


@pytest.mark.parametrize("every", [2, 5, 9])
@pytest.mark.parametrize("depth", [True, False])
def test_dropped_pictures_make_longer_steps_and_lose_nothing(every, depth):
    mug = Card("mug", sliding(-0.1, 0.0, 0.8, 0.12))
    scene, tracks = Cards([mug, BOX], depth=depth), Tracks()
    said = play(tracks, scene, 0.0, 2.0, [(0.7, 0.4)], hz=HZ / every)
    last_s = (round(2.0 * HZ / every) - 1) * every / HZ
    assert overlap(named(said[-1], "mug"), scene, mug, last_s) > 0.8


@pytest.mark.parametrize("depth", [True, False])
def test_the_exposure_may_jump_between_answer_and_now(depth):
    mug = Card("mug", sliding(-0.1, 0.0, 0.8, 0.12))
    scene, tracks = (
        Cards([mug, BOX], depth=depth, light=lambda t: (0.45, 5.0) if 0.5 < t < 1.1 else (1.0, 0.0)),
        Tracks(),
    )
    said = play(tracks, scene, 0.0, 1.5, [(0.8, 0.2)])
    assert overlap(named(said[-1], "mug"), scene, mug, 1.5 - 1 / HZ) > 0.8 and tracks.restarts == 0


def test_a_camera_that_moves_itself_leaves_still_things_where_they_are():
    scene = Cards([MUG, BOX], camera=lambda t: (0.15 * np.sin(3 * t), 0.05 * t, 0.1 * t))
    said = play(Tracks(), scene, 0.0, 2.0, [(1.0, 0.2), (1.8, 1.0)])
    mug = named(said[-1], "mug")
    assert mug.frame_id == "world" and np.allclose(mug.position_m, (-0.12, 0.0, 0.8), atol=0.02)
    assert np.linalg.norm(mug.velocity_m_s) < 0.03
    assert overlap(mug, scene, MUG, 2.0 - 1 / HZ) > 0.9


def test_without_a_pose_or_depth_there_is_no_place_but_a_box():
    flat = play(Tracks(), Cards([MUG], depth=False), 0.0, 1.0, [(0.5, 0.2)])[-1]
    assert (flat[0].position_m, flat[0].velocity_m_s, flat[0].solid) == (None, None, None) and np.isnan(
        flat[0].spread_m
    )
    unposed = play(Tracks(), Cards([MUG], known_pose=False), 0.0, 1.0, [(0.5, 0.2)])[-1]
    assert unposed[0].frame_id == "camera" and unposed[0].position_m[2] == pytest.approx(0.8, abs=0.01)


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_things_outlive_a_change_of_the_prompt_and_get_the_new_prompts_label():
    scene, tracks = Cards([MUG, BOX]), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    red = tuple(Detection2D(f"red {d.label}", d.box_xyxy_px, d.score) for d in scene.answer(0.9))
    assert [d.id for d in tracks.assign(scene.frame(0.9), "second", red)] == ["1", "2"]
    assert [t.label for t in tracks.step(scene.frame(1.0))] == ["red mug", "red box"]


def test_what_another_prompt_does_not_ask_for_is_not_missed_by_its_answers():
    scene, tracks = Cards([MUG, BOX]), Tracks()
    play(tracks, scene, 0.0, 0.5, [(0.3, 0.1)])
    for k in range(10):
        tracks.assign(scene.frame(0.4), "second", scene.answer(0.4, "box"))
    said = play(tracks, scene, 0.5, 4.0, hz=10)
    assert [t.label for t in said[-1]] == ["mug", "box"] and named(said[-1], "mug").score == pytest.approx(0.8)


def test_another_thing_of_another_prompt_is_a_new_one():
    scene, tracks = Cards([MUG, BOX]), Tracks()
    play(tracks, scene, 0.0, 0.5, [(0.3, 0.1)], labels=("mug",))
    (box,) = tracks.assign(scene.frame(0.4), "second", scene.answer(0.4, "box"))
    assert box.id == "2" and len(tracks.step(scene.frame(0.5))) == 2


# -- coming and going --------------------------------------------------------------------------------------------------


def test_a_thing_that_is_hidden_says_so_keeps_its_id_and_is_not_missed():
    mug = Card("mug", still(0.0, 0.0, 0.9))
    hand = Card("hand", lambda t: (-0.4 + 0.8 * min(t, 0.5) + max(0.0, 0.8 * (t - 2.5)), 0.0, 0.6), (0.14, 0.3), seed=5)
    scene, tracks = Cards([mug, hand]), Tracks()
    play(tracks, scene, 0.0, 0.2, [(0.15, 0.0)], labels=("mug",))
    hidden = play(tracks, scene, 0.2, 2.4)
    assert {named(s, "mug").state for s in hidden[15:]} == {OCCLUDED}
    for k in range(10):
        tracks.assign(scene.frame(2.0), "first", ())
    after = named(play(tracks, scene, 2.4, 4.0)[-1], "mug")
    assert (after.id, after.state) == ("1", FRESH) and overlap(after, scene, mug, 4.0) > 0.9


def test_a_thing_that_was_taken_away_is_lost_after_answers_and_seconds_and_not_after_one_of_them():
    mug = Card("mug", lambda t: (-0.12, 0.0, 0.8) if t < 1.0 else (-5.0, 0.0, 0.8))
    scene, tracks = Cards([mug, BOX]), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    for k in range(10):  # many answers within a moment
        tracks.step(scene.frame(1.0 + 0.02 * k))
        tracks.assign(scene.frame(1.0 + 0.02 * k), "first", scene.answer(1.0, "box"))
    coasting = named(tracks.step(scene.frame(1.3)), "mug")
    assert coasting.state == COASTING and coasting.score < 0.5
    later = play(tracks, scene, 1.4, 4.0)
    assert [t.label for t in later[-1]] == ["box"]
    assert sum(t.state == LOST for s in later for t in s) == 1  # said once

    waiting = Tracks()
    play(waiting, scene, 0.0, 1.0, [(0.5, 0.2)])
    quiet = play(waiting, scene, 1.0, 5.0, hz=10)  # seconds, but no answer: nobody says that it is gone
    assert {t.label for t in quiet[-1]} == {"mug", "box"} and LOST not in {t.state for t in quiet[-1]}


def test_coasting_halves_the_score_every_second():
    mug = Card("mug", lambda t: (-0.12, 0.0, 0.8) if t < 1.0 else (-5.0, 0.0, 0.8))
    scene, tracks = Cards([mug, BOX]), Tracks()
    play(tracks, scene, 0.0, 1.0, [(0.5, 0.2)])
    scores = [named(s, "mug").score for s in play(tracks, scene, 1.0, 3.2)]
    assert scores[0] == pytest.approx(0.8) and scores[31] == pytest.approx(0.4, rel=0.05)
    assert scores[61] == pytest.approx(0.2, rel=0.05)
    assert named(tracks.step(scene.frame(3.3)), "box").score == pytest.approx(0.8)


def test_an_empty_answer_is_evidence_and_no_answer_is_none():
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 0.5, [(0.3, 0.1)])
    tracks.assign(scene.frame(0.4), "first", ())
    assert named(tracks.step(scene.frame(0.5)), "mug").score < 0.8


# -- who is who --------------------------------------------------------------------------------------------------------


def test_twins_that_pass_each_other_in_depth_keep_their_ids():
    near, far = Card("cup", sliding(-0.2, 0.0, 0.7, 0.2)), Card("cup", sliding(0.2, 0.0, 0.95, -0.2))
    scene, tracks = Cards([near, far]), Tracks()
    answers = [(t + 0.5, t) for t in np.arange(0.0, 2.0, 0.5)]
    said = play(tracks, scene, 0.0, 2.0, answers)
    by_id = {t.id: t for t in said[-1] if t.state != LOST}
    assert set(by_id) == {"1", "2"}
    assert overlap(by_id["1"], scene, near, 2.0) > 0.7 and overlap(by_id["2"], scene, far, 2.0) > 0.7


@pytest.mark.parametrize("depth", [True, False])
def test_ids_of_twins_that_meet_are_marked_uncertain_wherever_they_could_be_exchanged(depth):
    a, b = Card("cup", sliding(-0.2, 0.0, 0.8, 0.2)), Card("cup", sliding(0.2, 0.0, 0.8, -0.2))
    scene, tracks = Cards([a, b], depth=depth), Tracks()
    said = play(tracks, scene, 0.0, 1.4, [(0.5, 0.0), (0.8, 0.5)])
    owner = {}
    for k, state in enumerate(said[16:], 16):
        for card in (a, b):
            best = max(state, key=lambda t: overlap(t, scene, card, k / HZ), default=None)
            if best and overlap(best, scene, card, k / HZ) > 0.5:
                known = owner.setdefault(id(card), best.id)
                assert known == best.id or best.state == UNCERTAIN, k / HZ
    assert {t.state for t in said[30]} == {UNCERTAIN}  # they are in one place


def test_one_answer_for_two_twins_in_one_place_marks_both_uncertain_and_a_clear_one_clears_them():
    left, right = Card("cup", still(-0.03, 0.0, 0.8)), Card("cup", still(0.03, 0.0, 0.8))
    scene, tracks = Cards([left, right], depth=False), Tracks()
    play(tracks, scene, 0.0, 0.5, [(0.3, 0.1)])
    middle = Detection2D("cup", tuple(float(v) for v in (scene.box(left, 0) + scene.box(right, 0)) / 2), 0.8)
    tracks.assign(scene.frame(0.4), "first", (middle,))
    assert [t.state for t in tracks.step(scene.frame(0.5))] == [UNCERTAIN, UNCERTAIN]
    tracks.assign(scene.frame(0.5), "first", scene.answer(0.5))
    assert {t.id for t in tracks.step(scene.frame(0.6))} == {"1", "2"}


def test_cameras_that_share_a_counter_never_give_the_same_id():
    ids = itertools.count(1)
    scene, front, wrist = Cards([MUG, BOX]), Tracks(ids), Tracks(ids)
    for tracks in (front, wrist):
        play(tracks, scene, 0.0, 0.5, [(0.3, 0.1)])
    seen = [
        d.id for tracks in (front, wrist, front) for d in tracks.assign(scene.frame(0.4), "first", scene.answer(0.4))
    ]
    assert seen == ["1", "2", "3", "4", "1", "2"]


# -- in space ----------------------------------------------------------------------------------------------------------


def solid(id, label, x, y, z, frame_id="world"):
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return Detection3D(id, label, 0.7, frame_id, pose, np.array((0.12, 0.1, 0.05)), "depth", 0.9)


def test_a_measured_box_goes_with_its_thing_and_its_speed_is_known():
    mug = Card("mug", sliding(-0.15, 0.0, 0.8, 0.12))
    scene, tracks = Cards([mug]), Tracks()
    play(tracks, scene, 0.0, 0.9)
    tracks.assign(scene.frame(0.0), "first", scene.answer(0.0))
    tracks.place(scene.stamp_ns(0.0), [solid("1", "mug", -0.15, 0.0, 0.82), solid("7", "unknown", 0, 0, 1)])
    (track,) = play(tracks, scene, 0.9, 1.8)[-1]
    assert np.allclose(track.solid.frame_T_box[:3, 3], (-0.15 + 0.12 * 1.8, 0.0, 0.82), atol=0.02)
    assert np.allclose(track.velocity_m_s, (0.12, 0.0, 0.0), atol=0.02)
    assert np.allclose(track.position_m, track.solid.frame_T_box[:3, 3]) and track.spread_m >= 0.005


def test_answers_that_disagree_widen_the_spread():
    scene = Cards([MUG])
    spreads = []
    for off in (0.0, 0.04):
        tracks = Tracks()
        play(tracks, scene, 0.0, 0.5)
        for k in range(4):
            tracks.assign(scene.frame(0.1 * k), "first", scene.answer(0.1 * k))
            tracks.place(scene.stamp_ns(0.1 * k), [solid("1", "mug", -0.12 + off * (k % 2), 0.0, 0.8)])
        spreads.append(tracks.step(scene.frame(0.6))[0].spread_m)
    assert spreads[0] < 0.015 < 0.02 < spreads[1]


def test_a_box_that_only_the_model_guessed_is_not_taken_for_a_place():
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 0.5)
    tracks.assign(scene.frame(0.2), "first", scene.answer(0.2))
    guess = solid("1", "mug", 0.0, 0.0, 2.0)
    tracks.place(scene.stamp_ns(0.2), [Detection3D("1", "mug", 0.7, "world", guess.frame_T_box, guess.size_m, "model")])
    assert tracks.step(scene.frame(0.6))[0].solid is None


def test_pictures_and_answers_may_come_from_two_threads():
    scene, tracks, errors = Cards([MUG, BOX]), Tracks(), []
    frames = [scene.frame(k / HZ) for k in range(60)]
    about = threading.Event()

    def answers():
        try:
            for k in range(0, 50, 5):
                about.wait(90.0)
                named_ids = tracks.assign(frames[k], "first", scene.answer(k / HZ))
                tracks.place(frames[k].stamp_ns, [solid(d.id, d.label, 0, 0, 0.8) for d in named_ids])
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=answers)
    thread.start()
    for k, frame in enumerate(frames):
        tracks.step(frame)
        about.set() if k > 5 else None
    thread.join()
    assert not errors and {t.label for t in tracks.step(scene.frame(2.1))} == {"mug", "box"}


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 6, 6), (0, 0, 320, 240), (319, 239, 320, 240)])
def test_an_answer_with_a_strange_box_is_named_like_any_other(box):
    scene, tracks = Cards([MUG]), Tracks()
    play(tracks, scene, 0.0, 0.5)
    (d,) = tracks.assign(scene.frame(0.3), "first", (Detection2D("thing", tuple(map(float, box))),))
    (track,) = play(tracks, scene, 0.5, 1.0)[-1]
    assert d.id == track.id == "1" and np.isnan(track.score)
    assert 0 <= track.box_xyxy_px[0] <= track.box_xyxy_px[2] <= 320


def test_depth_or_pictures_may_change_their_size_or_go_away_in_the_middle():
    scene, tracks = Cards([MUG, BOX]), Tracks()
    play(tracks, scene, 0.0, 0.5, [(0.3, 0.1)])
    whole = scene.frame(0.5)
    tracks.step(Frame(whole.stamp_ns, "camera", whole.rgb))  # neither depth nor lens nor pose
    assert {t.label for t in tracks.step(scene.frame(0.55))} == {"mug", "box"}
    half = scene.frame(0.6)
    small = Frame(half.stamp_ns, "camera", np.ascontiguousarray(half.rgb[::2, ::2]))
    assert {t.state for t in tracks.step(small)} == {LOST}  # the camera is in another mode
    late = tracks.assign(scene.frame(0.5), "first", scene.answer(0.5))
    assert [d.id for d in late] == ["3", "4"] and tracks.step(scene.frame(0.7)) == ()


def test_answers_with_errors_of_their_own_are_averaged_where_the_thing_was_followed_between():
    scene = Cards([Card("a", still(-0.1, 0.0))])
    truth, tracks, off = scene.box(scene.cards[0], 0.0), Tracks(), []
    for k in range(60):
        off += [float(np.abs(np.array(t.box_xyxy_px) - truth).max()) for t in tracks.step(scene.frame(k / HZ))]
        if k % 10 == 0:  # too narrow by as much as it is too wide the next time
            wrong = truth + (-4.0 if k % 20 else 4.0) * np.array((1, 0, -1, 0))
            tracks.assign(scene.frame(k / HZ), "first", (Detection2D("a", tuple(wrong), 0.8),))
    assert off[0] == pytest.approx(4.0, abs=0.5) and max(off[25:]) < 3.0


@pytest.mark.parametrize("hz, about_s", [(1, 2.5), (0.5, 3.0), (2, 2.75)])
def test_an_answer_between_pictures_that_come_seldom_is_joined_as_well(hz, about_s):
    scene, tracks = Cards([MUG, BOX]), Tracks()
    last_s = 4.0
    play(tracks, scene, 0.0, last_s + 0.5 / hz, [(1 / hz, 0.0)], hz=hz)
    (mug, _) = tracks.assign(scene.frame(about_s), "first", scene.answer(about_s))
    said = tracks.step(scene.frame(last_s + 1 / hz))
    assert mug.label == "mug" and overlap(named(said, "mug"), scene, MUG, last_s + 1 / hz) > 0.85
