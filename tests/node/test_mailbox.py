"""The mailbox pairs by stamp, keeps the newest, waits no longer than it should and never grows."""

import pytest

from qwen3vl_ros.node.perception.mailbox import Mailbox

MS = 1_000_000
PERIOD = 33 * MS


class Clock:
    def __init__(self):
        self.s = 100.0

    def __call__(self):
        return self.s


@pytest.fixture
def clock():
    return Clock()


def filled(clock, slop_s=0.02, depth=True):
    """A mailbox that has seen one second of a healthy camera, everything taken."""
    box = Mailbox(slop_s, depth, clock)
    for i in range(30):
        clock.s += 0.033
        box.put_image(i * PERIOD, f"rgb{i}")
        box.put_info(i * PERIOD, f"info{i}")
        if depth:
            box.put_depth(i * PERIOD, f"depth{i}")
    box.take()
    return box


def test_image_and_depth_of_one_stamp_belong_together_in_either_order(clock):
    box = filled(clock)
    box.put_depth(30 * PERIOD, "d30")
    assert box.take() is None
    box.put_info(30 * PERIOD, "i30")
    box.put_image(30 * PERIOD, "r30")
    snapshot = box.take()
    assert (snapshot.image, snapshot.depth, snapshot.info) == ("r30", "d30", "i30")
    assert box.take() is None
    assert box.newest() is snapshot


def test_newest_complete_wins_and_the_replaced_are_counted(clock):
    box = filled(clock)
    before = box.superseded
    for i in (30, 31, 32):
        box.put_image(i * PERIOD, f"r{i}")
        box.put_info(i * PERIOD, f"i{i}")
        box.put_depth(i * PERIOD, f"d{i}")
    assert box.take().image == "r32"
    assert box.superseded - before == 2


def test_a_waiting_newer_image_does_not_hide_a_complete_older_one(clock):
    box = filled(clock)
    box.put_image(30 * PERIOD, "r30")
    box.put_info(30 * PERIOD, "i30")
    box.put_image(31 * PERIOD, "r31")
    box.put_depth(30 * PERIOD, "d30")
    assert box.take().image == "r30"
    box.put_info(31 * PERIOD, "i31")
    box.put_depth(31 * PERIOD + 15 * MS, "d31")
    snapshot = box.take()
    assert (snapshot.image, snapshot.depth) == ("r31", "d31")


def test_the_depth_before_is_not_taken_while_the_own_one_is_on_its_way(clock):
    """At 100 Hz the depth before lies within the slop; the pair is still of one capture."""
    box = Mailbox(0.02, True, clock)
    for i in range(50):
        clock.s += 0.01
        box.put_image(i * 10 * MS, i)
        if i > 20:
            assert box.take() is None
        box.put_depth(i * 10 * MS, i)
        snapshot = box.take()
        assert snapshot.image == snapshot.depth == i


def test_depth_stamped_a_little_before_its_image_is_taken_at_once(clock):
    box = Mailbox(0.02, True, clock)
    for i in range(1, 30):
        clock.s += 0.033
        box.put_image(i * PERIOD, i)
        box.put_depth(i * PERIOD - 8 * MS, i)
        if i > 2:  # by then the period is known
            assert box.take().depth == i


def test_depth_outside_the_slop_is_not_paired_and_the_reason_has_the_gap(clock):
    box = filled(clock)
    box.put_image(30 * PERIOD, "r30")
    box.put_info(30 * PERIOD, "i30")
    box.put_depth(30 * PERIOD + 21 * MS, "late")
    assert box.take() is None
    clock.s += box.seconds_until_due() + 1e-6
    snapshot = box.take()
    assert snapshot.depth is None
    assert "21 ms" in snapshot.depth_reason and "sync_slop" in snapshot.depth_reason


@pytest.mark.parametrize("period_ms, longest_s", [(33, 0.1), (200, 0.22)])
def test_an_image_waits_for_its_depth_at_most_slop_plus_one_period(clock, period_ms, longest_s):
    box = Mailbox(0.02, True, clock)
    for i in range(10):
        box.put_image(i * period_ms * MS, i)
        box.put_depth(i * period_ms * MS, i)
    box.put_image(10 * period_ms * MS, "alone")
    box.take()
    assert 0.02 < box.seconds_until_due() <= longest_s + 1e-9
    clock.s += longest_s + 1e-6
    assert box.take().image == "alone"


def test_depth_that_always_comes_late_is_waited_for_as_long_as_it_takes(clock):
    box = Mailbox(0.02, True, clock)
    taken = []
    for i in range(60):
        clock.s += 0.033
        box.put_image(i * PERIOD, i)
        if i >= 4:
            box.put_depth((i - 4) * PERIOD, i - 4)
        snapshot = box.take()
        if snapshot:
            taken.append(snapshot)
    assert all(s.depth == s.image for s in taken[-20:])
    assert len(taken) >= 50


@pytest.mark.parametrize("age_on_arrival_s", [0.0, 0.15, 0.6])
def test_nobody_waits_for_depth_until_the_image_is_too_old(clock, age_on_arrival_s):
    """Depth once came 0.4 s late, so it may be worth waiting for, but not past the age at which an image is dropped."""
    started = clock.s
    box = Mailbox(0.02, True, clock, lambda stamp_ns: 0.3 - (clock.s - started - stamp_ns / 1e9))
    box.put_image(0, "first")
    clock.s += 0.4
    box.put_depth(0, "late")
    assert box.take().depth == "late"
    arrival_s = clock.s + 1.0
    stamp_ns = int((arrival_s - started - age_on_arrival_s) * 1e9)
    clock.s = arrival_s
    box.put_depth(stamp_ns - 900 * MS, "out of step")
    box.put_image(stamp_ns, "second")
    assert (
        box.seconds_until_due() is None
        if age_on_arrival_s > 0.3
        else (box.seconds_until_due() == pytest.approx(0.3 - age_on_arrival_s, abs=1e-6))
    )
    clock.s += max(0.0, 0.3 - age_on_arrival_s) + 1e-6
    snapshot = box.take()
    assert snapshot.image == "second" and "sync_slop" in snapshot.depth_reason


def test_a_fast_camera_whose_depth_is_out_of_step_is_heard_all_the_same(clock):
    """More images than the mailbox holds arrive while one waits."""
    box, taken = Mailbox(0.02, True, clock), []
    for i in range(400):
        clock.s += 0.005
        box.put_image(i * 5 * MS, i)
        if i % 20 == 0:
            box.put_depth(i * 5 * MS - 900 * MS, i)
        taken += filter(None, [box.take()])
    assert len(taken) > 300 and box.superseded + len(taken) + len(box._pending) == 400


def test_no_depth_publisher_means_no_waiting(clock):
    box = Mailbox(0.02, True, clock)
    clock.s += 1.5
    box.put_image(0, "r")
    snapshot = box.take()
    assert snapshot.image == "r" and snapshot.depth is None
    assert "no depth image has been received" in snapshot.depth_reason


def test_depth_that_stopped_while_images_went_on_is_not_waited_for_and_says_since_when(clock):
    box = filled(clock)
    for i in range(30, 121):
        clock.s += 0.033
        box.put_image(i * PERIOD, f"r{i}")
    assert "stopped 3.0 s ago" in box.take().depth_reason


def test_after_a_pause_of_the_whole_camera_depth_is_waited_for_once(clock):
    box = filled(clock)
    clock.s += 6.0  # a machine that is busy elsewhere
    box.put_image(200 * PERIOD, "r")
    assert box.take() is None
    box.put_info(200 * PERIOD, "i")
    box.put_depth(200 * PERIOD, "d")
    assert box.take().depth == "d"
    clock.s += 6.0
    box.put_image(400 * PERIOD, "r")
    clock.s += 0.7
    assert "stopped 6.7 s ago" in box.take().depth_reason


def test_without_depth_an_image_is_complete_at_once(clock):
    box = Mailbox(0.02, False, clock)
    box.put_image(5, "r")
    snapshot = box.take()
    assert snapshot.depth is None and "use_depth" in snapshot.depth_reason
    assert "no camera_info has been received" in snapshot.info_reason


def test_intrinsics_that_change_belong_to_the_image_of_their_stamp(clock):
    box = filled(clock, depth=False)
    box.put_image(30 * PERIOD, "r30")
    assert box.take() is None, "camera_info comes in step, so its own is awaited"
    box.put_info(30 * PERIOD, "zoomed")
    assert box.take().info == "zoomed"


def test_intrinsics_sent_once_hold_for_every_image(clock):
    box = Mailbox(0.02, False, clock)
    box.put_info(7, "once")
    for i in range(1, 100):
        clock.s += 0.033
        box.put_image(i * PERIOD, i)
        assert box.take().info == "once"


def test_a_camera_unplugged_and_back_starts_again_even_with_an_older_clock(clock):
    box = filled(clock)
    clock.s += 60
    taken = []
    for i in range(5):
        clock.s += 0.033
        box.put_image(i * PERIOD, f"r{i}")
        box.put_info(i * PERIOD, f"i{i}")
        box.put_depth(i * PERIOD, f"d{i}")
        taken.append(box.take())
    assert [(s.image, s.depth, s.info) for s in taken[1:]] == [(f"r{i}", f"d{i}", f"i{i}") for i in range(1, 5)]
    assert taken[0].image == "r0" and taken[0].depth is None, "nobody waits for depth that was gone for a minute"


def test_a_source_that_starts_again_at_once_has_a_reason_for_the_depth_it_lacks(clock):
    box = filled(clock)
    box.put_image(0, "again")
    clock.s += 1
    assert "no depth image" in box.take().depth_reason


def test_a_late_packet_does_not_go_back_in_time(clock):
    box = filled(clock, depth=False)
    box.put_image(28 * PERIOD, "late")
    clock.s += 1
    assert box.take() is None


def test_a_healthy_camera_leaves_only_the_present_capture_in_memory(clock):
    box = filled(clock)
    assert len(box._depth.recent) <= 2 and not box._pending


def test_a_burst_is_held_in_fixed_memory(clock):
    box = Mailbox(0.02, True, clock)
    for i in range(2_000):
        box.put_image(i * MS, i)
        box.put_info(i * MS, i)
        box.put_depth(i * MS + 300 * MS, i)
    held = sum(len(v) for v in (box._pending, box._arrivals, box._depth.recent, box._info.recent))
    assert held < 100
    clock.s += 5
    assert box.take().image == 1_999


def test_after_a_jump_of_the_clock_nothing_of_before_is_left_but_the_calibration(clock):
    box = filled(clock)
    box.put_image(30 * PERIOD, "waiting for its depth")
    box.restart()
    assert box.newest() is None and box.take() is None
    box.put_image(0, "r0 of the second round")
    clock.s += 0.6
    snapshot = box.take()
    assert (snapshot.image, snapshot.depth, snapshot.info) == ("r0 of the second round", None, "info29")


def test_a_source_that_starts_again_keeps_a_calibration_that_was_said_once(clock):
    box = Mailbox(0.02, False, clock)
    box.put_info(0, "once")
    for round_of in range(3):
        for i in range(40):
            clock.s += 0.033
            box.put_image((100 + i) * PERIOD, f"{round_of} {i}")
            snapshot = box.take()
            assert (snapshot.image, snapshot.info) == (f"{round_of} {i}", "once")
