"""Who is who among followed things: the cheapest pairs, and what is nearly as cheap is said to be uncertain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.tracking.identity import Look, colours_of, costs, match

COSTS = st.integers(1, 5).flatmap(
    lambda n: st.integers(1, 5).flatmap(
        lambda m: st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0, 1.7, np.inf]), min_size=n * m, max_size=n * m).map(
            lambda values: np.array(values).reshape(n, m)
        )
    )
)


@settings(max_examples=300, deadline=None)
@given(COSTS)
def test_pairs_are_possible_single_and_no_exchange_is_cheaper(cost):
    pairs, doubtful = match(cost)
    assert len(set(pairs.values())) == len(pairs)
    assert all(np.isfinite(cost[i, j]) for i, j in pairs.items())
    for a, j in pairs.items():
        for b, k in pairs.items():
            assert cost[a, k] + cost[b, j] >= cost[a, j] + cost[b, k] - 1e-6
    for i in set(range(cost.shape[0])) - set(pairs):  # what is left over fits nothing that is left over
        assert not np.isfinite(np.delete(cost[i], list(pairs.values()))).any()
    assert doubtful <= set(range(cost.shape[1]))


@pytest.mark.parametrize(
    "name, cost, doubtful",
    [
        ("clear", [[0.1, 2.0], [2.0, 0.1]], set()),
        ("crossed, nearly equal", [[0.5, 0.55], [0.55, 0.5]], {0, 1}),
        ("one seen, two could be meant", [[0.5, 0.6]], {0, 1}),
        ("one seen, another is unlikely", [[0.2, 1.5]], set()),
        ("impossible otherwise", [[0.5, np.inf], [np.inf, 0.5]], set()),
        ("a third is clear", [[0.5, 0.5, 3.0], [0.5, 0.5, 3.0], [3.0, 3.0, 0.1]], {0, 1}),
    ],
)
def test_what_could_be_meant_otherwise_is_uncertain(name, cost, doubtful):
    assert match(np.array(cost))[1] == doubtful, name


def look(label="mug", box=(100, 100, 150, 150), point=(0.0, 0.0, 1.0), colours=None, adrift_s=0.0):
    return Look(label, box, np.array(point, float), 0.08, colours, adrift_s)


def test_the_same_in_every_respect_costs_nothing_and_the_farther_the_more():
    assert costs([look()], [look()])[0, 0] == pytest.approx(0.0)
    near, far = (costs([look()], [look(point=(x, 0.0, 1.0))])[0, 0] for x in (0.02, 0.1))
    assert 0 < near < far < np.inf
    assert costs([look()], [look(point=(0.6, 0.0, 1.0))])[0, 0] == np.inf


def test_another_label_needs_the_same_place_and_an_unknown_depth_is_no_evidence():
    assert np.isfinite(costs([look("cup")], [look("mug")])[0, 0])
    assert costs([look("cup")], [look("mug", (130, 100, 180, 150))])[0, 0] == np.inf
    assert costs([look()], [look(point=(np.nan,) * 3)])[0, 0] == pytest.approx(0.0)


def test_a_thing_that_nobody_followed_may_have_gone_farther():
    away = (200, 100, 250, 150)
    assert costs([look()], [look(box=away)])[0, 0] == np.inf
    assert np.isfinite(costs([look()], [look(box=away, adrift_s=1.0)])[0, 0])


def test_colours_tell_red_from_blue_and_an_empty_box_tells_nothing():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :100], picture[:, 100:] = (200, 20, 20), (20, 20, 200)
    red, blue = colours_of(picture, (10, 10, 80, 80)), colours_of(picture, (110, 10, 190, 80))
    assert costs([look(colours=red)], [look(colours=blue)])[0, 0] > 0.9
    assert costs([look(colours=red)], [look(colours=colours_of(picture, (30, 20, 90, 90)))])[0, 0] == pytest.approx(
        0, abs=0.01
    )
    for box in ((50, 50, 50, 50), (300, 10, 400, 90), (-50, -50, -10, -10)):
        assert colours_of(picture, box) is None
