"""An alarm rises on evidence, falls on evidence, and forgets nothing that an operator has to know."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.inspection.alarms import Alarm, AlarmRule, AlarmState, State
from qwen3vl_ros.types import InvalidInput

SECOND_NS = 1_000_000_000
HIGH = AlarmRule("high", above=1.6, deadband=0.1, on_delay_s=2.0, off_delay_s=3.0, stale_after_s=5.0)


def states(rule: AlarmRule, looks: list[tuple[float, float]], alarm: Alarm | None = None) -> list[str]:
    """The state after each (time in s, value)."""
    alarm = alarm or Alarm(rule)
    out = []
    for at_s, value in looks:
        alarm.observe(round(at_s * SECOND_NS), value)
        out.append(alarm.now.state.value)
    return out


P, A, C, N = "pending", "active", "clearing", "normal"
LIVES = {
    "rises after its delay, clears after its delay": (
        [(0, 1.0), (1, 1.7), (2, 1.7), (3, 1.7), (4, 1.4), (5, 1.4), (7, 1.4)],
        [N, P, P, A, C, C, N],
    ),
    "over before its delay": ([(0, 1.7), (1, 1.7), (1.5, 1.4), (9, 1.4)], [P, P, N, N]),
    "one wild look is no alarm, however long the silence after it": ([(0, 1.7), (100, 1.4)], [P, N]),
    "a look within the deadband neither ends nor proves": (
        [(0, 1.7), (1, 1.55), (2, 1.55), (3, 1.55), (4, 1.7)],
        [P, P, P, P, A],
    ),
    "back beyond while clearing": ([(0, 1.7), (2, 1.7), (3, 1.4), (4, 1.7), (5, 1.4), (8, 1.4)], [P, A, C, A, C, N]),
    "within the deadband an active alarm stays": ([(0, 1.7), (2, 1.7), (3, 1.55), (9, 1.55)], [P, A, A, A]),
    "within the deadband clearing goes on, and ends by a look that proves it": (
        [(0, 1.7), (2, 1.7), (3, 1.4), (5, 1.55), (7, 1.55), (8, 1.4)],
        [P, A, C, C, C, N],
    ),
    "a gap longer than stale_after freezes the timer": ([(0, 1.7), (60, 1.7), (61, 1.7), (62, 1.7)], [P, P, P, A]),
    "a gap never clears": ([(0, 1.7), (2, 1.7), (3, 1.4), (600, 1.4), (602, 1.4), (604, 1.4)], [P, A, C, C, C, N]),
    "looks out of order are ignored": ([(4, 1.7), (3, 1.4), (6, 1.7)], [P, P, A]),
    "a source that began anew starts its evidence again": (
        [(100, 1.7), (101, 1.7), (1, 1.7), (2, 1.7), (3.5, 1.7)],
        [P, P, P, P, A],
    ),
    "exactly at the limit is inside it": ([(0, 1.6), (5, 1.6)], [N, N]),
}


@pytest.mark.parametrize("looks, wanted", LIVES.values(), ids=LIVES.keys())
def test_the_life_of_an_alarm(looks, wanted):
    assert states(HIGH, looks) == wanted
    mirrored = AlarmRule("low", below=-1.6, deadband=0.1, on_delay_s=2.0, off_delay_s=3.0, stale_after_s=5.0)
    assert states(mirrored, [(t, -v) for t, v in looks]) == wanted, "below is above mirrored"


def test_noise_about_the_limit_is_one_event():
    alarm, changes = Alarm(HIGH), []
    for i in range(200):
        changes += alarm.observe(i * SECOND_NS, 1.6 + 0.04 * math.sin(2.1 * i) + 0.03)
    assert [(c.before.value, c.after.value) for c in changes] == [(N, P), (P, A)]


def test_without_delays_two_looks_raise_and_two_clear():
    rule = AlarmRule("quick", above=1.0)
    assert states(rule, [(0, 2), (0.1, 2), (0.2, 0), (0.3, 0)]) == [P, A, C, N]
    single = AlarmRule("at once", above=1.0, min_observations=1)
    changes = Alarm(single).observe(7, 2.0)
    assert [(c.before, c.after, c.stamp_ns) for c in changes] == [
        (State.NORMAL, State.PENDING, 7),
        (State.PENDING, State.ACTIVE, 7),
    ]


def test_a_latched_alarm_stays_until_it_is_reset_after_its_cause_is_gone():
    alarm = Alarm(AlarmRule("latched", above=1.0, latch=True))
    states(alarm.rule, [(0, 2), (1, 2)], alarm)
    with pytest.raises(InvalidInput, match="can be reset when its value is back"):
        alarm.reset(2 * SECOND_NS)
    assert states(alarm.rule, [(2, 0), (3, 0)], alarm)[-1] == N
    assert alarm.raised and not alarm.now.acknowledged
    alarm.acknowledge()
    assert alarm.raised, "to have seen it is not to have ended it"
    assert alarm.reset(4 * SECOND_NS).reason == "reset" and not alarm.raised
    assert alarm.reset(5 * SECOND_NS) is None


def test_a_new_rise_asks_for_a_new_acknowledgement_and_a_return_while_clearing_does_not():
    alarm = Alarm(AlarmRule("high", above=1.0))
    states(alarm.rule, [(0, 2), (1, 2)], alarm)
    alarm.acknowledge()
    states(alarm.rule, [(2, 0), (3, 2)], alarm)
    assert alarm.now.state is State.ACTIVE and alarm.now.acknowledged
    states(alarm.rule, [(4, 0), (5, 0), (6, 2), (7, 2)], alarm)
    assert alarm.now.state is State.ACTIVE and not alarm.now.acknowledged


def test_a_shelved_alarm_is_silent_and_goes_on():
    alarm = Alarm(AlarmRule("high", above=1.0))
    alarm.shelve(10 * SECOND_NS)
    states(alarm.rule, [(0, 2), (1, 2)], alarm)
    assert alarm.raised and not alarm.announced(2 * SECOND_NS) and alarm.announced(10 * SECOND_NS)
    alarm.shelve(0)
    assert alarm.announced(2 * SECOND_NS)


def test_the_peak_is_the_worst_value_since_it_rose():
    alarm = Alarm(AlarmRule("low", below=0.0))
    states(alarm.rule, [(0, -1), (1, -2), (2, -5), (3, -3)], alarm)
    assert alarm.now.peak == -5


BAD_RULES = {
    "no limit": dict(),
    "two limits": dict(above=2.0, below=1.0),
    "a limit that is no number": dict(above=math.nan),
    "negative deadband": dict(above=1.0, deadband=-0.1),
    "endless delay": dict(above=1.0, on_delay_s=math.inf),
    "no observation needed": dict(above=1.0, min_observations=0),
    "stale at once": dict(above=1.0, stale_after_s=0.0),
    "no severity": dict(above=1.0, severity=0),
}


@pytest.mark.parametrize("fields", BAD_RULES.values(), ids=BAD_RULES.keys())
def test_an_impossible_rule_is_refused_by_name(fields):
    with pytest.raises(InvalidInput, match="alarm 'x'"):
        AlarmRule("x", **fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_could_not_be_read_is_no_observation(value):
    with pytest.raises(InvalidInput, match="no observation"):
        Alarm(HIGH).observe(0, value)


RULES = st.builds(
    AlarmRule,
    st.just("any"),
    above=st.just(0.0),
    deadband=st.sampled_from([0.0, 0.5]),
    on_delay_s=st.sampled_from([0.0, 1.0, 3.0]),
    off_delay_s=st.sampled_from([0.0, 1.0, 3.0]),
    min_observations=st.integers(1, 3),
    stale_after_s=st.sampled_from([2.0, 100.0]),
    latch=st.booleans(),
)
LOOKS = st.lists(st.tuples(st.integers(-2, 4), st.sampled_from([-1.0, -0.4, -0.1, 0.0, 0.2, 1.0])), max_size=40)
ALLOWED = {(N, P), (P, A), (P, N), (A, C), (C, A), (C, N)}


@settings(max_examples=400, deadline=None)
@given(RULES, LOOKS)
def test_no_sequence_clears_without_evidence_chatters_faster_than_its_delays_or_loses_a_latch(rule, steps):
    alarm, at_s, changes, rose, began_anew = Alarm(rule), 0, [], False, False
    for step_s, value in steps:
        at_s += step_s
        last_ns = alarm.now.last_look_ns
        began_anew |= last_ns is not None and at_s < last_ns / SECOND_NS - rule.stale_after_s
        found = alarm.observe(at_s * SECOND_NS, value)
        for c in found:
            assert (c.before.value, c.after.value) in ALLOWED
            if c.after is State.ACTIVE:
                assert rule.beyond(value)
            if c.after in (State.CLEARING, State.NORMAL):
                assert rule.inside(value)
        rose |= any(c.before is State.PENDING and c.after is State.ACTIVE for c in found)
        changes += found
        assert alarm.now.latched == (rose and rule.latch), "nothing but a reset ends a latch"
    settled = [
        c
        for c in changes
        if c.after is State.ACTIVE
        and c.before is State.PENDING
        or c.before is State.CLEARING
        and c.after is State.NORMAL
    ]
    for first, second in zip(settled, settled[1:]):
        delay_s = rule.off_delay_s if second.after is State.NORMAL else rule.on_delay_s
        assert began_anew or (second.stamp_ns - first.stamp_ns) / SECOND_NS >= delay_s


@settings(max_examples=100, deadline=None)
@given(RULES, LOOKS, st.integers(0, 40))
def test_a_restart_in_between_changes_nothing(rule, steps, cut):
    whole, parted, at_s = Alarm(rule), Alarm(rule), 0
    for i, (step_s, value) in enumerate(steps):
        at_s += step_s
        if i == cut:
            parted = Alarm(rule, AlarmState.from_json(json.loads(json.dumps(parted.now.as_json()))))
        assert whole.observe(at_s * SECOND_NS, value) == parted.observe(at_s * SECOND_NS, value)
    assert json.dumps(whole.now.as_json()) == json.dumps(parted.now.as_json())


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"state": "on fire", "peak": None},
        {"state": "normal", "peak": "high"},
        {"state": "normal", "peak": None, "colour": "red"},
    ],
)
def test_a_saved_state_that_nobody_wrote_is_refused(saved):
    with pytest.raises(InvalidInput, match="delete it to begin anew"):
        AlarmState.from_json(saved)
