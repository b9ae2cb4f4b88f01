"""What is done next: calls, alarms, frames and cameras, told by a clock that only the test moves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.node.perception.agenda import CALLS_BEFORE_ALARM, Agenda, Asked, Call, Job, TooManyCalls, Watch
from qwen3vl_ros.node.perception.mailbox import Mailbox
from qwen3vl_ros.questions import Ask, Detect
from qwen3vl_ros.types import Cancelled, InvalidInput, StaleFrame
from qwen3vl_ros.zoom import Zoom

CUBE, MUG = Asked(Detect(("cube",)), 1), Asked(Detect(("mug",)), 2)
FIRE, GAUGE, VALVE = (Asked(Ask(question), i) for i, question in enumerate(("fire?", "pressure?", "open?"), 3))


class Desk:
    """An agenda over cameras whose clock and pictures are the test's. A picture is its stamp, in nanoseconds."""

    def __init__(self, *cameras, queue=64, longest_s=100.0, depth=()):
        self.s = 2e6
        self.boxes = {name: Mailbox(0.02, name in depth, lambda: self.s) for name in cameras or ("",)}
        self.agenda = Agenda(
            self.boxes,
            lambda stamp: self.s - stamp / 1e9,
            lambda camera: 0.5,
            lambda: queue,
            lambda: longest_s,
            lambda: self.s,
        )

    def shoot(self, *cameras, age_s=0.0):
        for camera in cameras or self.boxes:
            stamp = int((self.s - age_s) * 1e9)
            self.boxes[camera].put_image(stamp, stamp)

    def watch(self, name="stream", asked=CUBE, camera="", **how):
        watch = Watch(camera, name, asked, **how)
        self.agenda.watch(watch)
        return watch

    def call(self, asked=MUG, timeout_s=5.0, camera=""):
        call = Call(camera, asked, timeout_s, None)
        self.agenda.call(call)
        return call

    def job(self, took_s=0.01):
        """The next job, carried out: "call", the watch's name, or None."""
        job = self.agenda.next()
        if job is None:
            return None
        self.s += took_s
        self.agenda.done(job, completed=True)
        return "call" if job.call else job.watch.name

    def jobs(self, count, took_s=0.01):
        """As many jobs, with a new picture of every camera before each."""
        done = []
        for _ in range(count):
            self.s += 0.033
            self.shoot()
            done.append(self.job(took_s))
        return done


def test_nothing_to_do_is_no_job():
    desk = Desk()
    assert desk.job() is None and desk.agenda.seconds_until_due() is None
    desk.shoot()
    assert desk.job() is None, "a picture that nobody asks about is left alone"


def test_a_stream_answers_every_frame_once_and_the_newest_wins():
    desk = Desk()
    desk.watch()
    desk.shoot()
    desk.s += 0.033
    desk.shoot()
    job = desk.agenda.next()
    assert job.snapshot.image == int(desk.s * 1e9) and job.asked == CUBE and job.call is None
    desk.agenda.done(job, completed=True)
    assert desk.job() is None


def test_an_old_frame_is_dropped_and_counted():
    desk = Desk()
    desk.watch()
    desk.shoot(age_s=0.6)
    assert desk.job() is None and desk.agenda.stale[""] == 1
    assert desk.job() is None and desk.agenda.stale[""] == 1, "once"


# -- calls ------------------------------------------------------------------------------------------


def test_calls_go_before_the_stream_in_their_order():
    desk = Desk()
    desk.watch()
    calls = [desk.call(), desk.call(CUBE), desk.call()]
    desk.shoot()
    assert [desk.agenda.next().call for _ in range(3)] == calls
    assert desk.job() == "stream", "the frame was not taken by those who called"


def test_a_call_stops_the_stream_and_no_other_call():
    desk = Desk()
    desk.watch()
    desk.shoot()
    running = desk.agenda.next()
    assert desk.agenda.preempts(running) == ""
    desk.call()
    assert desk.agenda.preempts(running) == "a call took over"
    desk.agenda.done(running, completed=False)
    served = desk.agenda.next()
    desk.call()
    assert served.call and desk.agenda.preempts(served) == ""


def test_a_stopped_stream_goes_on_with_the_next_frame():
    desk = Desk()
    desk.watch()
    desk.shoot()
    desk.agenda.done(desk.agenda.next(), completed=False)
    assert desk.job() is None
    desk.s += 0.033
    desk.shoot()
    assert desk.job() == "stream"


def test_a_call_waits_for_a_fresh_frame_and_stops_the_stream_only_when_it_came():
    desk = Desk("front", "wrist")
    desk.watch(camera="front")
    desk.shoot("front")
    running = desk.agenda.next()
    desk.call(camera="wrist")
    assert desk.agenda.preempts(running) == "" and desk.agenda.next() is None
    desk.shoot("wrist", age_s=0.6)
    assert desk.agenda.preempts(running) == ""
    desk.s += 0.033
    desk.shoot("wrist")
    assert desk.agenda.preempts(running) == "a call took over"
    assert desk.agenda.next().camera == "wrist"


def test_a_call_to_a_stalled_camera_holds_up_nobody():
    desk = Desk("front", "wrist")
    desk.watch(camera="front")
    desk.call(camera="wrist")
    later = desk.call(camera="front")
    desk.shoot("front")
    assert desk.agenda.next().call is later
    assert desk.job() == "stream"


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan, math.inf, -math.inf, 100.1, 1e300])
def test_a_timeout_that_nobody_can_keep_is_refused(timeout_s):
    desk = Desk()
    with pytest.raises(InvalidInput, match=r"timeout .*no more than 100 \(parameter request_timeout_max\)"):
        desk.call(timeout_s=timeout_s)
    desk.shoot()
    assert desk.job() is None and desk.agenda.seconds_to_deadline() is None


def test_a_full_queue_refuses_by_name_and_has_room_again_after_a_turn():
    desk = Desk(queue=3)
    for _ in range(3):
        desk.call()
    with pytest.raises(TooManyCalls, match=r"3 calls wait .*request_queue.* later"):
        desk.call()
    desk.shoot()
    assert desk.job() == "call"
    desk.call()


def test_the_calls_of_a_stalled_camera_leave_room_for_those_of_another():
    desk = Desk("front", "wrist", queue=3)
    for _ in range(3):
        desk.call(camera="wrist")
    desk.call(camera="front")
    desk.shoot("front")
    assert desk.job() == "call"


def test_one_camera_s_many_calls_do_not_put_off_another_s():
    desk = Desk("front", "wrist")
    for _ in range(10):
        desk.call(camera="front")
    one = desk.call(camera="wrist")
    desk.shoot()
    assert one in [desk.agenda.next().call for _ in range(2)]


def test_a_camera_that_is_not_there_is_refused_by_name():
    desk = Desk("front", "wrist")
    with pytest.raises(InvalidInput, match="camera 'rear' is unknown; the cameras are front, wrist"):
        desk.call(camera="rear")
    with pytest.raises(InvalidInput, match="camera 'rear' is unknown"):
        desk.watch(camera="rear")


def test_a_late_call_is_handed_out_once_with_the_reason():
    desk = Desk("front", "wrist")
    never, old, busy = (desk.call(timeout_s=1.0, camera=c) for c in ("front", "wrist", "wrist"))
    longer = desk.call(timeout_s=2.0, camera="front")
    desk.shoot("wrist")
    assert desk.agenda.seconds_to_deadline() == pytest.approx(1.0)
    desk.s += 1.0
    late = dict(desk.agenda.late_calls())
    assert set(late) == {never, old, busy} and desk.agenda.late_calls() == []
    assert isinstance(late[never], StaleFrame) and "none was received" in str(late[never])
    assert isinstance(late[old], StaleFrame) and "the newest is 1.0 s old" in str(late[old])
    assert desk.agenda.seconds_to_deadline() == pytest.approx(1.0)
    desk.shoot("front")
    desk.s += 1.0
    desk.shoot("front")
    [(call, error)] = desk.agenda.late_calls()
    assert call is longer and isinstance(error, Cancelled) and "the engine was busy" in str(error)


def test_a_late_call_is_not_begun():
    desk = Desk()
    desk.call(timeout_s=1.0)
    desk.s += 1.0
    desk.shoot()
    assert desk.job() is None


def test_clearing_hands_back_who_waits_and_wants_nothing_more():
    desk = Desk()
    desk.watch()
    calls = [desk.call(), desk.call()]
    desk.shoot()
    assert desk.agenda.clear() == calls and desk.job() is None and desk.agenda.clear() == []


# -- watches ----------------------------------------------------------------------------------------


def test_everything_due_is_asked_of_one_frame_before_the_next_is_taken():
    desk = Desk()
    desk.watch()
    desk.watch("gauge", GAUGE, priority=1)
    desk.watch("valve", VALVE, period_s=10.0)
    seen = []
    for _ in range(5):
        desk.s += 0.033
        desk.shoot()
        job = desk.agenda.next()
        seen.append((job.watch.name, job.snapshot.image))
        desk.agenda.done(job, completed=True)
    names, images = zip(*seen)
    assert names == ("gauge", "stream", "valve", "gauge", "stream"), "the valve is not due again for ten seconds"
    assert images[0] == images[1] == images[2] != images[3] == images[4]


def test_a_frame_that_took_long_is_still_asked_everything():
    """Or what comes last would be asked of no frame at all."""
    desk = Desk()
    for name, asked in (("gauge", GAUGE), ("stream", CUBE), ("valve", VALVE)):
        desk.watch(name, asked)
    desk.shoot()
    assert [desk.job(took_s=2.0) for _ in range(3)] == ["gauge", "stream", "valve"]


def test_a_call_ends_a_frame_and_what_was_not_asked_of_it_goes_first_in_the_next():
    desk = Desk()
    desk.watch()
    desk.watch("gauge", GAUGE)
    desk.shoot()
    assert desk.job() == "stream"
    desk.call()
    assert desk.jobs(3) == ["call", "gauge", "stream"]


def test_a_period_is_kept_and_the_wait_for_it_is_told():
    desk = Desk()
    desk.watch("gauge", GAUGE, period_s=5.0)
    desk.shoot()
    assert desk.job(took_s=1.0) == "gauge"
    desk.shoot()
    assert desk.job() is None and desk.agenda.seconds_until_due() == pytest.approx(4.0)
    desk.s += 4.0
    desk.shoot()
    assert desk.job() == "gauge"


def test_what_was_stopped_stays_due():
    desk = Desk()
    desk.watch("gauge", GAUGE, period_s=5.0)
    desk.shoot()
    desk.agenda.done(desk.agenda.next(), completed=False)
    assert desk.jobs(2) == ["gauge", None]


def test_the_same_question_again_keeps_its_period_and_another_is_asked_at_once():
    desk = Desk()
    desk.watch("gauge", GAUGE, period_s=5.0)
    assert desk.jobs(1) == ["gauge"]
    desk.watch("gauge", GAUGE, period_s=5.0, answer_s=3.0)
    assert desk.jobs(1) == [None]
    desk.watch("gauge", VALVE, period_s=5.0)
    assert desk.jobs(1) == ["gauge"]
    desk.agenda.unwatch("", "gauge")
    desk.s += 5.0
    assert desk.jobs(1) == [None]


def test_an_answer_is_wanted_as_long_as_its_question_stands():
    desk = Desk()
    watch = desk.watch()
    assert desk.agenda.is_watched(watch)
    desk.watch(answer_s=3.0)
    assert desk.agenda.is_watched(watch), "another deadline is not another question"
    desk.watch(asked=MUG)
    assert not desk.agenda.is_watched(watch)
    desk.agenda.unwatch("", "stream")
    assert not desk.agenda.is_watched(watch)


@pytest.mark.parametrize("period_s", [-1.0, math.nan, math.inf])
def test_a_period_that_is_none_is_refused(period_s):
    with pytest.raises(InvalidInput, match="period"):
        Watch("", "gauge", GAUGE, period_s=period_s)


# -- alarms -----------------------------------------------------------------------------------------


def test_an_alarm_waits_for_a_bounded_number_of_calls_only():
    desk = Desk()
    desk.watch("fire", FIRE, alarm=True)
    desk.watch()
    for _ in range(20):
        desk.call()
    done = desk.jobs(12)
    assert done == (["call"] * CALLS_BEFORE_ALARM + ["fire"]) * 3, "and the stream waits for its turn"


def test_each_of_several_alarms_has_its_turn_among_calls():
    desk = Desk("front", "wrist")
    desk.watch("fire", FIRE, "front", alarm=True)
    desk.watch("valve", VALVE, "wrist", alarm=True)
    for _ in range(60):
        desk.call(camera="front")
    done = desk.jobs(40)
    for name in ("fire", "valve"):
        turns = [i for i, what in enumerate(done) if what == name]
        assert turns and max(b - a for a, b in zip(turns, turns[1:])) <= CALLS_BEFORE_ALARM + 2


def test_an_alarm_of_a_stalled_camera_holds_up_no_call():
    desk = Desk("front", "wrist")
    desk.watch("fire", FIRE, "wrist", alarm=True)
    for _ in range(8):
        desk.call(camera="front")
        desk.shoot("front")
        assert desk.job() == "call"
    desk.shoot("wrist")
    desk.call(camera="front")
    assert desk.job() == "fire", "at once when it is back"


def test_an_alarm_that_runs_is_not_stopped_by_a_call():
    desk = Desk()
    desk.watch("fire", FIRE, alarm=True)
    desk.shoot()
    running = desk.agenda.next()
    desk.call()
    assert running.watch.name == "fire" and desk.agenda.preempts(running) == ""


def test_an_alarm_that_is_not_due_takes_no_turn_from_calls():
    desk = Desk()
    desk.watch("fire", FIRE, period_s=100.0, alarm=True)
    assert desk.jobs(1) == ["fire"]
    for _ in range(8):
        desk.call()
    assert desk.jobs(8) == ["call"] * 8


def test_a_second_look_goes_before_calls_and_stops_the_stream_once_its_frame_is_there():
    desk = Desk("front", "wrist")
    desk.watch("fire", FIRE, "wrist", period_s=100.0, alarm=True)
    desk.watch("stream", CUBE, "front")
    desk.shoot("wrist")
    assert desk.job() == "fire"
    desk.agenda.look_again("wrist", "fire")
    desk.shoot("front")
    running = desk.agenda.next()
    assert running.watch.name == "stream" and desk.agenda.preempts(running) == "", "the same frame tells nothing new"
    desk.s += 0.033
    desk.shoot("wrist")
    assert desk.agenda.preempts(running) == "an alarm looks again"
    desk.agenda.done(running, completed=False)
    desk.call(camera="front")
    desk.shoot("front")
    assert [desk.job(), desk.job()] == ["fire", "call"]
    assert desk.jobs(1) == ["stream"], "one look was asked for"


@pytest.mark.parametrize("camera, name", [("", "stream"), ("", "smoke"), ("wrist", "fire")])
def test_only_an_alarm_looks_again(camera, name):
    desk = Desk()
    desk.watch()
    desk.watch("fire", FIRE, alarm=True)
    with pytest.raises(InvalidInput, match=f"no alarm '{name}'"):
        desk.agenda.look_again(camera, name)


# -- cameras ----------------------------------------------------------------------------------------


def test_cameras_take_turns_a_frame_each():
    desk = Desk("front", "wrist", "rear")
    for camera in desk.boxes:
        desk.watch(camera, CUBE, camera)
    desk.watch("gauge", GAUGE, "rear", priority=-1)
    done = desk.jobs(400)
    assert [done.count(name) for name in ("front", "wrist", "rear", "gauge")] == [100] * 4


def test_a_stalled_camera_leaves_its_share_to_the_others_and_has_no_more_when_it_is_back():
    desk = Desk("front", "wrist")
    for camera in desk.boxes:
        desk.watch(camera, CUBE, camera)
    for _ in range(50):
        desk.s += 0.033
        desk.shoot("front")
        assert desk.job() == "front"
    assert desk.jobs(10).count("wrist") == 5


def test_the_wait_is_that_of_the_pictures_somebody_asks_about():
    desk = Desk("front", "wrist", depth=["wrist"])
    desk.watch(camera="front")
    desk.shoot("wrist")  # waits for its depth
    assert desk.agenda.seconds_until_due() is None
    desk.call(camera="wrist")
    assert 0 < desk.agenda.seconds_until_due() <= 0.2


# -- clocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-1e6, -3600.0, -1.0, 1.0, 3600.0, 1e6])
def test_a_clock_that_jumps_neither_starves_nor_floods(jump_s):
    desk = Desk()
    desk.watch("gauge", GAUGE, period_s=10.0)
    desk.watch()
    desk.jobs(20)
    desk.s += jump_s
    done = desk.jobs(200)  # 10 ms a job and 33 ms a frame: about 8.6 s
    assert 1 <= done.count("gauge") <= 2 and done.count("stream") >= 190


@given(
    jumps=st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=8),
    periods=st.lists(st.floats(0.0, 1e4), min_size=1, max_size=4),
)
def test_whatever_the_clock_does_each_frame_is_asked_a_question_once_at_most_and_every_watch_is_asked(jumps, periods):
    desk = Desk("front", "wrist")
    asked = set()
    for i, period_s in enumerate(periods):
        desk.watch(f"w{i}", CUBE, ("front", "wrist")[i % 2], period_s=period_s, alarm=i == 2)
    for jump_s in jumps:
        desk.s += jump_s
        for box in desk.boxes.values():
            box.restart()  # as the node does when its clock goes back
        desk.call(camera="front", timeout_s=50.0)
        seen = set()
        for _ in range(30):
            desk.s += 0.033
            desk.shoot()
            if job := desk.agenda.next():
                desk.agenda.done(job, completed=True)
                if job.watch:
                    assert (job.watch.name, job.snapshot) not in seen
                    seen.add((job.watch.name, job.snapshot))
                    asked.add(job.watch.name)
        desk.agenda.late_calls()
    assert asked == {f"w{i}" for i in range(len(periods))}


@given(st.lists(st.sampled_from(["call", "front", "wrist", "turn"]), max_size=60))
def test_every_call_is_served_or_late_exactly_once(events):
    desk = Desk("front", "wrist", queue=5)
    desk.watch(camera="front")
    waiting, settled = [], []
    for event in events:
        desk.s += 0.7
        settled += [call for call, _ in desk.agenda.late_calls()]
        if event == "call":
            try:
                waiting.append(desk.call(timeout_s=3.0, camera="front"))
            except TooManyCalls:
                assert len(waiting) - len(settled) >= 5
        elif event == "turn":
            if (job := desk.agenda.next()) and job.call:
                settled.append(job.call)
        else:
            desk.shoot(event)
    desk.s += 10.0
    settled += [call for call, _ in desk.agenda.late_calls()]
    assert sorted(map(id, settled)) == sorted(map(id, waiting))


def test_what_is_behind_its_schedule_is_told_with_how_late_it_is():
    desk = Desk()
    desk.watch("fast", GAUGE, period_s=1.0, alarm=True)
    desk.watch("slow", VALVE, period_s=60.0)
    desk.watch()
    assert desk.agenda.behind() == {}, "nothing was asked yet"
    desk.jobs(3)
    assert desk.agenda.behind() == {}
    desk.s += 10.0
    late = desk.agenda.behind()
    assert list(late) == ["fast"] and late["fast"] == pytest.approx(9.0, abs=0.2)
    desk.jobs(1)
    assert desk.agenda.behind() == {}
    assert set(desk.agenda.watched) == {("", "fast"), ("", "slow"), ("", "stream")}


def test_due_points_go_before_the_stream_and_the_stream_has_its_turn_on_the_same_frame():
    desk = Desk()
    desk.watch()
    desk.watch("gauge", GAUGE, period_s=0.2, priority=500, alarm=True)
    desk.shoot()
    assert [desk.job(), desk.job(), desk.job()] == ["gauge", "stream", None]


# -- what an engine may see already ------------------------------------------------------------------------------------


def looking(*cameras, silent_after_s=math.inf):
    """Pictures of each camera every 0.1 s, answers of 0.25 s: (desk, a job that begins now, with a picture of now).
    silent_after_s: the first camera's last picture."""
    desk, job, end_s = Desk(*cameras), None, 0.0
    for camera in desk.boxes:
        desk.watch(camera=camera)
    for tick in range(400):
        sending = list(desk.boxes)[tick * 0.05 > silent_after_s :]
        if tick % 2 == 0:
            desk.shoot(*sending)
        if job and desk.s >= end_s - 1e-6:
            desk.agenda.done(job, completed=True)
            job = None
        if job is None and (job := desk.agenda.next()):
            end_s = desk.s + 0.25
            if tick >= 100 and tick % 2 == 0:
                return desk, job
        desk.s += 0.05
    raise AssertionError("no job began with a picture of its own time")


def pass_time(desk, seconds, *cameras):
    """A picture of these cameras, or of all, every 0.1 s."""
    for _ in range(round(seconds / 0.1)):
        desk.s += 0.1
        desk.shoot(*cameras)


def test_the_picture_before_the_end_of_an_answer_is_known_ahead_and_none_earlier():
    """Of a quarter of a second's answer: the picture of 0.1 s will be replaced, that of 0.2 s will be taken."""
    desk, job = looking()
    assert desk.agenda.upcoming(job) is None, "its own picture"
    pass_time(desk, 0.1)
    assert desk.agenda.upcoming(job) is None
    desk.s += 0.06
    assert desk.agenda.upcoming(job) is None, "the next one is expected before the end"
    desk.s -= 0.06
    pass_time(desk, 0.1)
    ahead = desk.agenda.upcoming(job)
    desk.s += 0.05
    desk.agenda.done(job, completed=True)
    following = desk.agenda.next()
    assert (following.snapshot, following.asked) == (ahead.snapshot, ahead.asked)


def test_a_guess_takes_nothing_and_a_newer_picture_is_taken_as_ever():
    desk, job = looking()
    pass_time(desk, 0.2)
    ahead = desk.agenda.upcoming(job)
    assert desk.agenda.upcoming(job).snapshot is ahead.snapshot
    pass_time(desk, 0.1)  # it took longer than the last one
    desk.agenda.done(job, completed=True)
    assert desk.agenda.next().snapshot.stamp_ns > ahead.snapshot.stamp_ns


def test_nothing_is_known_ahead_of_a_first_answer_or_a_first_picture():
    desk = Desk()
    desk.watch()
    desk.shoot()
    first = desk.agenda.next()
    pass_time(desk, 0.1)
    assert desk.agenda.upcoming(first) is None, "how long an answer takes is not known"
    desk, job = looking()
    desk.boxes[""].clear()
    pass_time(desk, 0.1)
    assert desk.agenda.upcoming(job) is None, "one picture has no rhythm"


def test_nothing_is_known_ahead_of_what_goes_first():
    desk, job = looking()
    pass_time(desk, 0.2)
    assert desk.agenda.upcoming(job)
    call = desk.call()
    assert desk.agenda.upcoming(job) is None, "a call takes the newest picture of its own time"
    desk.agenda.drop(call)
    assert desk.agenda.upcoming(Job("", job.snapshot, CUBE, call=call)) is None, "how long a call takes nobody knows"
    desk.watch("fire", FIRE, alarm=True)
    desk.agenda.look_again("", "fire")
    assert desk.agenda.upcoming(job) is None, "a second look"


@pytest.mark.parametrize(
    "asked",
    [Asked(CUBE.question, 1, Zoom(parts=2)), Asked(CUBE.question, 1, about="gauge 3")],
    ids=["parts", "a point"],
)
def test_only_a_whole_picture_is_known_ahead(asked):
    desk, job = looking()
    pass_time(desk, 0.2)
    assert desk.agenda.upcoming(job)
    desk.watch("other", asked, priority=1)
    desk.agenda._opened.asked.add("other")
    assert desk.agenda.upcoming(job) is None


def test_another_question_about_the_same_picture_needs_no_look():
    desk, job = looking()
    desk.watch("fire", FIRE)
    pass_time(desk, 0.2)
    assert desk.agenda.upcoming(job) is None


def test_of_several_cameras_the_one_whose_turn_it_is_is_known_ahead():
    desk, job = looking("left", "right")
    other = {"left": "right", "right": "left"}[job.camera]
    pass_time(desk, 0.2)
    ahead = desk.agenda.upcoming(job)
    assert ahead.camera == other
    desk.agenda.done(job, completed=True)
    assert desk.agenda.next().snapshot is ahead.snapshot


def test_a_camera_that_fell_silent_keeps_nobody_from_looking():
    desk, job = looking("left", "right", silent_after_s=2.0)
    assert job.camera == "right" and desk.boxes["left"].next_in_s() == math.inf
    pass_time(desk, 0.2, "right")
    assert desk.agenda.upcoming(job).camera == "right"


def test_when_the_next_picture_is_expected():
    desk = Desk()
    box = desk.boxes[""]
    assert box.next_in_s() == math.inf
    for passed_s, left_s in ((0.0, 0.0), (0.1, 0.1), (0.1, 0.1), (0.4, 0.1)):
        desk.s += passed_s
        desk.shoot()
        assert box.next_in_s() == pytest.approx(left_s, abs=1e-6)
    for passed_s, left_s in ((0.06, 0.04), (0.06, 0.0), (0.5, 0.0), (1.0, math.inf)):
        desk.s += passed_s
        assert box.next_in_s() == pytest.approx(left_s, abs=1e-6)
