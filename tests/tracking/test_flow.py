"""Flow: boxes go where their pixels go, with depth and without, whatever the light."""

import numpy as np
import pytest
from cards import Card, Cards, iou, sliding, still
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.tracking.advance import advance
from qwen3vl_ros.tracking.followed import Followed
from qwen3vl_ros.tracking.glimpse import Front, Glimpse, same_view
from qwen3vl_ros.types import Frame


def follow(scene, times, boxes=None):
    """Followed boxes of all cards from the first of the times to the last."""
    glimpses = [Glimpse.of(scene.frame(t)) for t in times]
    followed = [Followed(glimpses[0], box) for box in boxes or [scene.box(c, times[0]) for c in scene.cards]]
    for before, now in zip(glimpses, glimpses[1:]):
        advance(followed, before, now)
    return followed


@pytest.mark.parametrize("depth", [True, False])
def test_a_still_picture_leaves_the_boxes_where_they_are(depth):
    scene = Cards([Card("a", still(-0.15, 0.0)), Card("b", still(0.15, 0.05), seed=2)], depth=depth)
    for f, card in zip(follow(scene, np.arange(10) / 30), scene.cards):
        assert np.abs(f.box - scene.box(card, 0.0)).max() < 0.5 and f.following


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.6, 0.6), st.floats(-0.4, 0.4), st.floats(-0.25, 0.25), st.booleans())
def test_a_box_goes_with_its_thing_to_all_sides_and_in_depth(x, y, z, depth):
    scene = Cards([Card("a", sliding(0.0, 0.0, 0.8, x, y, z))], depth=depth)
    (f,) = follow(scene, np.arange(8) / 30)
    assert f.following and iou(f.box, scene.box(scene.cards[0], 7 / 30)) > 0.85


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(-0.3, 0.3))
def test_with_depth_how_far_it_went_is_measured_in_metres(x, z):
    scene = Cards([Card("a", sliding(0.0, 0.0, 0.8, x, 0.0, z))])
    (f,) = follow(scene, np.arange(8) / 30)
    assert np.allclose(f.moved_m, np.array((x, 0.0, z)) * 7 / 30, atol=0.006)


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.2, 0.2), st.booleans())
def test_there_and_back_is_where_it_began(x, depth):
    scene = Cards([Card("a", lambda t: (x * np.sin(t), 0.0, 0.8))], depth=depth)
    (f,) = follow(scene, np.linspace(0, np.pi, 20))
    assert iou(f.box, scene.box(scene.cards[0], 0.0)) > 0.9


@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize("light", [(0.5, 0.0), (1.0, 40.0), (1.4, -20.0), (0.6, 60.0)])
def test_a_jump_of_the_exposure_moves_nothing(light, depth):
    scene = Cards(
        [Card("a", sliding(-0.1, 0.0, 0.8, 0.3))], depth=depth, light=lambda t: light if t > 0.1 else (1.0, 0.0)
    )
    (f,) = follow(scene, np.arange(8) / 30)
    assert f.following and iou(f.box, scene.box(scene.cards[0], 7 / 30)) > 0.85


def test_boxes_of_things_that_stand_still_follow_from_the_pose_of_the_camera_alone():
    """Nothing can be followed in a grey picture; where the camera went says where things are now."""
    scene = Cards([Card("a", still(0.0, 0.0, 0.8))], camera=lambda t: (0.3 * t, 0.0, 0.2 * t))
    before, now = scene.frame(0.0), scene.frame(0.5)
    blank = Frame(
        now.stamp_ns,
        "camera",
        np.full_like(now.rgb, 90),
        now.depth_m,
        now.K,
        None,
        "plumb_bob",
        now.target_T_camera,
        "world",
    )
    first, second = Glimpse.of(before), Glimpse.of(blank)
    f = Followed(first, scene.box(scene.cards[0], 0.0))
    advance([f], first, second)
    assert iou(f.box, scene.box(scene.cards[0], 0.5)) > 0.9


def test_what_passes_before_a_thing_does_not_take_its_box_along():
    mug, hand = Card("mug", still(0.0, 0.0, 0.9)), Card("hand", sliding(-0.4, 0.0, 0.6, 0.5), (0.14, 0.3), seed=5)
    scene = Cards([mug, hand])
    glimpses = [Glimpse.of(scene.frame(k / 30)) for k in range(48)]
    f = Followed(glimpses[0], scene.box(mug, 0.0))
    covered = []
    for before, now in zip(glimpses, glimpses[1:]):
        advance([f], before, now)
        covered.append(f.covered)
    assert max(covered) > 0.9 and covered[0] == covered[-1] == 0.0
    assert f.following and iou(f.box, scene.box(mug, 0.0)) > 0.9


@pytest.mark.parametrize(
    "name, box",
    [
        ("no area", (50, 50, 50, 50)),
        ("one pixel", (50, 50, 51, 51)),
        ("a line", (10, 60, 300, 61)),
        ("the whole picture", (0, 0, 320, 240)),
        ("at the border", (310, 230, 320, 240)),
        ("outside", (400, 300, 500, 400)),
        ("half outside", (-40, -40, 40, 40)),
    ],
)
@pytest.mark.parametrize("depth", [True, False])
def test_a_strange_box_is_followed_or_not_but_never_fails(name, box, depth):
    scene = Cards([Card("a", sliding(0.0, 0.0, 0.8, 0.3))], depth=depth)
    (f,) = follow(scene, np.arange(6) / 30, [box])
    assert np.isfinite(f.box).all(), name


@pytest.mark.parametrize("shape", [(240, 320), (480, 640), (360, 640), (101, 57), (3, 3), (1, 1)])
def test_a_glimpse_of_any_picture_is_small_and_keeps_its_lens(shape):
    K = np.array(((500.0, 0, shape[1] / 2 - 0.5), (0, 500.0, shape[0] / 2 - 0.5), (0, 0, 1)))
    glimpse = Glimpse.of(Frame(1, "camera", np.zeros((*shape, 3), np.uint8), np.ones(shape, np.float32), K))
    height, width = glimpse.grey.shape
    assert width <= 320 and np.allclose(glimpse.scale, (shape[1] / width, shape[0] / height))
    assert np.allclose(glimpse.K[:2, 2], (width / 2 - 0.5, height / 2 - 0.5))  # the middle stays the middle


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(5, 310), st.floats(5, 230)), min_size=1, max_size=9))
def test_pixels_become_points_and_pixels_again(pixels):
    glimpse = Glimpse.of(Cards([], camera=lambda t: (0.1, -0.2, 0.3)).frame(0.0))
    pixels = np.array(pixels)
    back, z = glimpse.project_px(glimpse.points_m(pixels))
    assert np.allclose(back, pixels, atol=1e-6) and np.allclose(z, 0.9)


def test_missing_depth_is_unknown_and_never_a_place():
    scene = Cards([Card("a", still(0.0, 0.0, 0.8))])
    frame = scene.frame(0.0)
    for hole in (0.0, np.nan):
        depth_m = frame.depth_m.copy()
        depth_m[:] = hole
        glimpse = Glimpse.of(Frame(1, "camera", frame.rgb, depth_m, frame.K))
        assert np.isnan(glimpse.points_m(np.array(((100.0, 100.0),)))).all()
        assert not Front.of(glimpse, scene.box(scene.cards[0], 0.0)).known
        f = Followed(glimpse, scene.box(scene.cards[0], 0.0))
        assert f.following and np.isnan(f.centre_m).all()


def test_what_stands_out_is_the_card_and_not_the_wall_or_a_neighbour():
    card, neighbour = Card("a", still(0.0, 0.0, 0.8)), Card("b", still(0.1, 0.0, 1.0), seed=3)
    scene = Cards([card, neighbour])
    box = scene.box(card, 0.0) + (-5, -5, 12, 5)
    front = Front.of(Glimpse.of(scene.frame(0.0)), box)
    assert abs(front.centre_m[2] - 0.8) < 0.01
    share = front.mask.sum() / front.mask.size
    true = np.prod(scene.box(card, 0.0)[2:] - scene.box(card, 0.0)[:2]) / front.mask.size
    assert abs(share - true) < 0.15


def test_a_cut_looks_different_and_a_shift_or_another_light_does_not():
    scene = Cards([Card("a", still(0.0, 0.0, 0.8))], camera=lambda t: (0.05 * t, 0.0, 0.0))
    dark = Cards([Card("a", still(0.0, 0.0, 0.8))], light=lambda t: (0.5, 10.0))
    other = Cards([Card("a", still(0.1, 0.0, 0.8), seed=9)], wall_seed=7)
    here = Glimpse.of(scene.frame(0.0))
    assert same_view(here, Glimpse.of(scene.frame(1.0))) > 0.6
    assert same_view(here, Glimpse.of(dark.frame(0.0))) > 0.9
    assert same_view(here, Glimpse.of(other.frame(0.0))) < 0.4
