"""The engine's thread: calls before the stream, answered exactly once; nothing old is published; death is
loud.
"""

import threading
import time

import pytest

from qwen3vl_ros.node.perception.agenda import Agenda, Asked, Call, Watch
from qwen3vl_ros.node.perception.engine_thread import EngineThread
from qwen3vl_ros.node.perception.mailbox import Mailbox
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import Cancelled, InvalidInput, PerceptionError, StaleFrame

CUBE, MUG = Asked(Detect(("cube",)), 1), Asked(Detect(("mug",)), 2)


PATIENCE_S = 90.0  # for what must come; what must not be waited for takes ten minutes


def until(condition, timeout_s=PATIENCE_S):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "condition not reached in time"
        time.sleep(0.002)


class Rig:
    """An engine's thread whose jobs are scripted: `behave(job, control)` runs in place of the engine."""

    def __init__(self, behave=lambda job, control: None, load=lambda: "owner", ages=None, cameras=("",), free=None):
        self.done, self.deaths, self.freed = [], [], []
        self.behave, self.ages = behave, ages or {}
        changed = threading.Condition(threading.RLock())
        self.mailboxes = {name: Mailbox(0.02, False, changed=changed) for name in cameras}
        self.mailbox = self.mailboxes[cameras[0]]
        self.agenda = Agenda(self.mailboxes, lambda stamp: self.ages.get(stamp, 0.0), lambda camera: 0.5)
        self.thread = EngineThread(
            load, self._perform, free or self.freed.append, self.agenda, changed, self.deaths.append
        )

    def _perform(self, owner, job, control):
        self.behave(job, control)
        if job.watch:
            with self.thread.publishing:
                if self.thread.is_current(job.watch):
                    self.done.append((job.snapshot.stamp_ns, job.asked))
        return job.asked

    def stream(self, asked, camera="", **how):
        if asked is None:
            self.thread.unwatch(camera, "stream")
        else:
            self.thread.watch(Watch(camera, "stream", asked, **how))

    def ask(self, timeout_s=PATIENCE_S, asked=CUBE, camera=""):
        """The answers that the caller gets, in a list that should come to hold one."""
        answers = []
        self.thread.submit(Call(camera, asked, timeout_s, lambda result, error: answers.append((result, error))))
        return answers


@pytest.fixture
def rig():
    made = []

    def make(*args, **kwargs):
        made.append(Rig(*args, **kwargs))
        return made[-1]

    yield make
    for r in made:
        assert r.thread.stop(PATIENCE_S)


def token_by_token(seconds=600.0):
    """Behave like an engine so slow that nobody can wait for it, which looks at its control between tokens."""

    def behave(job, control):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if control.cancelled:
                raise Cancelled(control.reason)
            if control.expired:
                return
            time.sleep(0.002)

    return behave


def test_the_stream_answers_the_newest_image_and_drops_old_ones(rig):
    r = rig(ages={1: 9.0})
    r.stream(CUBE)
    r.mailbox.put_image(1, "old")
    until(lambda: r.agenda.stale[""] == 1)
    r.mailbox.put_image(2, "new")
    until(lambda: r.done)
    assert r.done == [(2, CUBE)]


def test_a_call_stops_the_stream_between_tokens_and_the_stream_goes_on_after(rig):
    slow = token_by_token()
    r = rig(lambda job, control: slow(job, control) if job.snapshot.stamp_ns == 1 and not job.call else None)
    r.stream(CUBE)
    r.mailbox.put_image(1, "x")
    until(lambda: r.thread.busy)
    answers = r.ask(asked=MUG)
    until(lambda: answers)
    assert answers == [(MUG, None)] and r.agenda.preempted[""] == 1
    r.mailbox.put_image(2, "y")
    until(lambda: r.done)
    assert r.done == [(2, CUBE)]


def test_a_call_whose_image_comes_while_another_camera_s_stream_runs_stops_it_then(rig):
    slow = token_by_token()
    r = rig(lambda job, control: None if job.call else slow(job, control), cameras=("front", "wrist"))
    r.stream(CUBE, "front")
    r.mailboxes["front"].put_image(1, "x")
    until(lambda: r.thread.busy)
    answers, looked = r.ask(asked=MUG, camera="wrist"), r.ask(timeout_s=0.05, camera="wrist")
    until(lambda: looked)  # whoever watches over calls has seen to this one, too
    assert r.thread.busy and not answers, "nothing is gained by stopping for a camera that shows nothing"
    r.mailboxes["wrist"].put_image(2, "y")
    until(lambda: answers)
    assert answers == [(MUG, None)] and r.agenda.preempted == {"front": 1}


def test_a_second_look_stops_the_stream_when_its_image_comes(rig):
    slow = token_by_token()
    r = rig(lambda job, control: None if job.watch.alarm else slow(job, control), cameras=("front", "wrist"))
    r.thread.watch(Watch("wrist", "fire", MUG, period_s=100.0, alarm=True))
    r.mailboxes["wrist"].put_image(1, "x")
    until(lambda: r.done)
    r.stream(CUBE, "front")
    r.mailboxes["front"].put_image(2, "y")
    until(lambda: r.thread.busy)
    r.thread.look_again("wrist", "fire")
    r.mailboxes["wrist"].put_image(3, "z")
    until(lambda: len(r.done) == 2)
    assert r.done == [(1, MUG), (3, MUG)]


def test_a_new_prompt_cancels_the_answer_in_flight_and_nothing_old_is_published(rig):
    started = threading.Event()

    def deaf(job, control):  # an engine that answers in full although it was cancelled
        if job.asked == CUBE:
            started.set()
            until(lambda: control.cancelled)

    r = rig(deaf)
    r.stream(CUBE)
    r.mailbox.put_image(1, "x")
    assert started.wait(PATIENCE_S)
    r.stream(MUG)
    r.mailbox.put_image(2, "y")
    until(lambda: r.done)
    assert r.done == [(2, MUG)]


def test_a_new_prompt_of_one_camera_leaves_the_answer_of_another_alone(rig):
    release = threading.Event()
    r = rig(
        lambda job, control: release.wait(PATIENCE_S) and control.cancelled and pytest.fail("it was cancelled"),
        cameras="ab",
    )
    r.stream(CUBE, "a")
    r.mailboxes["a"].put_image(1, "x")
    until(lambda: r.thread.busy)
    r.stream(MUG, "b")
    r.stream(None, "b")
    release.set()
    until(lambda: r.done)
    assert r.done == [(1, CUBE)] and r.deaths == []


def test_pausing_stops_the_stream_but_not_calls(rig):
    r = rig()
    r.stream(CUBE)
    r.stream(None)
    r.mailbox.put_image(1, "x")
    answers = r.ask()
    until(lambda: answers)
    assert answers == [(CUBE, None)] and r.done == []


def test_a_call_waits_for_a_fresh_image(rig):
    r = rig(ages={1: 9.0})
    r.mailbox.put_image(1, "old")
    answers, looked = r.ask(), r.ask(timeout_s=0.05)
    until(lambda: looked)
    assert not answers
    r.mailbox.put_image(2, "new")
    until(lambda: answers)
    assert answers == [(CUBE, None)]


def test_a_call_without_images_is_told_so_at_its_deadline(rig):
    answers = rig().ask(timeout_s=0.1)
    until(lambda: answers)
    result, error = answers[0]
    assert result is None and isinstance(error, StaleFrame) and "none was received" in str(error)


def test_a_call_to_an_engine_that_does_not_stop_is_answered_all_the_same(rig):
    release = threading.Event()
    r = rig(lambda job, control: release.wait(600))
    r.mailbox.put_image(1, "x")
    answers = r.ask(timeout_s=0.1)
    until(lambda: answers)
    assert "did not stop" in str(answers[0][1])
    release.set()
    until(lambda: not r.thread.busy)
    assert len(answers) == 1


def test_a_call_behind_an_engine_that_does_not_stop_is_answered_at_its_deadline(rig):
    release = threading.Event()
    r = rig(lambda job, control: release.wait(600))
    r.mailbox.put_image(1, "x")
    first = r.ask()
    until(lambda: r.thread.busy)
    second = r.ask(timeout_s=0.1, asked=MUG)
    until(lambda: second)
    assert "while the engine was busy" in str(second[0][1]) and not first
    release.set()
    until(lambda: first)
    assert first == [(CUBE, None)] and len(second) == 1


def test_cancel_all_answers_running_and_waiting_calls_once(rig):
    r = rig(token_by_token())
    r.mailbox.put_image(1, "x")
    running = r.ask()
    until(lambda: r.thread.busy)
    waiting = r.ask(asked=MUG)
    r.thread.cancel_all("deactivated")
    assert r.thread.wait_idle(PATIENCE_S)
    assert [str(a[0][1]) for a in (running, waiting)] == ["deactivated", "deactivated"]
    assert len(running) == len(waiting) == 1


def test_calls_are_served_in_order(rig):
    order = []
    r = rig(lambda job, control: order.append(job.asked))
    first, second = r.ask(asked=CUBE), r.ask(asked=MUG)
    r.mailbox.put_image(1, "x")
    until(lambda: first and second)
    assert order == [CUBE, MUG]


def test_a_refused_call_is_never_answered_by_the_thread(rig):
    r = rig()
    r.mailbox.put_image(1, "x")
    answers = []
    with pytest.raises(InvalidInput, match="timeout"):
        r.thread.submit(Call("", CUBE, float("nan"), lambda *said: answers.append(said)))
    later = r.ask()
    until(lambda: later)
    assert answers == []


def test_three_thousand_calls_from_many_threads_are_each_settled_once_by_two_threads(rig):
    """Served, refused or late: in every order that threads meet in."""
    r = rig(lambda job, control: time.sleep(0.0005))
    stop, answered, refused = threading.Event(), [], []
    before = threading.active_count()

    def shoot():
        stamp = 0
        while not stop.wait(0.002):
            r.mailbox.put_image(stamp := stamp + 1, "x")

    def ask(start):
        for i in range(start, start + 500):
            try:
                r.thread.submit(Call("", CUBE, 0.02, lambda result, error, i=i: answered.append(i)))
            except PerceptionError:
                refused.append(i)
            time.sleep(0.0001)

    helpers = [threading.Thread(target=ask, args=(i * 500,)) for i in range(6)] + [threading.Thread(target=shoot)]
    for helper in helpers:
        helper.start()
    most = [threading.active_count()]
    while any(helper.is_alive() for helper in helpers[:-1]):
        most.append(threading.active_count())
        time.sleep(0.01)
    until(lambda: len(answered) + len(refused) >= 3000)
    stop.set()
    assert sorted(answered + refused) == list(range(3000))
    assert max(most) <= before + len(helpers)


def test_stop_frees_the_engine_while_generating_and_refuses_later_calls():
    r = Rig(token_by_token())
    r.stream(CUBE)
    r.mailbox.put_image(1, "x")
    until(lambda: r.thread.busy)
    assert r.thread.stop(PATIENCE_S)
    assert r.freed == ["owner"] and r.deaths == []
    with pytest.raises(Cancelled, match="stopping"):
        r.ask()


def test_a_defect_ends_the_thread_loudly_and_answers_everybody():
    def explode(job, control):
        raise ZeroDivisionError("defect")

    r = Rig(explode)
    waiting = r.ask()
    r.mailbox.put_image(1, "x")
    until(lambda: r.deaths)
    assert isinstance(r.deaths[0], ZeroDivisionError)
    until(lambda: not r.thread.alive)
    assert "ZeroDivisionError" in str(waiting[0][1]) and r.freed == ["owner"]
    with pytest.raises(Cancelled):
        r.ask()


def test_a_defect_in_an_answer_ends_the_threads_as_loudly():
    r = Rig()
    waiting = r.ask()
    r.thread.submit(Call("", CUBE, 0.05, lambda result, error: 1 / 0))
    until(lambda: r.deaths)
    assert isinstance(r.deaths[0], ZeroDivisionError) and "ZeroDivisionError" in str(waiting[0][1])
    assert r.thread.stop(PATIENCE_S) and r.freed == ["owner"]


def test_an_engine_that_cannot_be_freed_is_as_loud():
    def refuse(owner):
        raise RuntimeError("the device hangs")

    r = Rig(free=refuse)
    assert r.thread.stop(PATIENCE_S)
    assert [str(error) for error in r.deaths] == ["the device hangs"]


def test_a_failed_load_is_kept_for_whoever_waits():
    def load():
        raise MemoryError("too big")

    r = Rig(load=load)
    assert r.thread.loaded.wait(PATIENCE_S)
    assert isinstance(r.thread.load_error, MemoryError) and r.thread.stop(PATIENCE_S) and r.freed == []


def test_a_hundred_engines_leave_no_thread_behind():
    before = threading.active_count()
    for _ in range(100):
        r = Rig()
        r.stream(CUBE)
        r.mailbox.put_image(1, "x")
        assert r.thread.stop(PATIENCE_S)
    for _ in range(10):
        r = Rig(load=lambda: 1 / 0)
        assert r.thread.loaded.wait(PATIENCE_S)
    until(lambda: threading.active_count() <= before)  # what others had left behind may end meanwhile
