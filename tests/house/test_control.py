"""What ends a generation: a cancel from any thread, the caller's own deadline, or the one it is given."""

from __future__ import annotations

import threading

import pytest

from qwen3vl_ros.control import Control


def test_a_control_goes_on_until_it_is_cancelled_and_keeps_the_first_reason():
    control = Control()
    assert (control.interruption, control.reason, control.cancelled, control.expired) == ("", "", False, False)
    control.cancel("a new prompt")
    control.cancel("too late")
    assert (control.interruption, control.reason, control.cancelled) == ("cancelled", "a new prompt", True)


@pytest.mark.parametrize("own, given, expired", [(None, 0.0, True), (3600.0, 0.0, False), (0.0, 3600.0, True)])
def test_a_deadline_of_its_own_goes_before_the_one_it_is_given(own, given, expired):
    control = Control(own).within(given)
    assert control.expired is expired and control.interruption == ("deadline" if expired else "")
    assert control.within(0.0).expired is expired, "given once, it stays"


def test_a_control_does_not_get_the_deadline_that_was_given_to_one_call():
    control = Control()
    assert control.within(0.0).expired and not control.expired and control.deadline_monotonic_s is None


def test_a_cancel_reaches_every_call_under_way_and_goes_before_a_deadline():
    control = Control()
    calls = [control.within(3600.0), control.within(0.0)]
    thread = threading.Thread(target=control.cancel, args=("enough",))
    thread.start()
    thread.join()
    assert [(call.interruption, call.reason) for call in calls] == [("cancelled", "enough")] * 2
    calls[0].cancel("later")
    assert control.reason == "enough"
