"""The engine's thread: calls before the stream, answered exactly once; nothing old is published; death is
loud.
"""

import threading
import time

import pytest

from qwen3vl_ros.node.perception.mailbox import Mailbox
from qwen3vl_ros.node.perception.worker import Asked, Call, Worker
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import Cancelled, StaleFrame

CUBE, MUG = Asked(Detect(("cube",)), 1), Asked(Detect(("mug",)), 2)


def until(condition, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "condition not reached in time"
        time.sleep(0.002)


class Rig:
    """A worker whose tasks are scripted: `behave(task)` runs in place of the engine."""

    def __init__(self, behave=lambda task: None, load=lambda: "owner", ages=None):
        self.done, self.deaths, self.freed = [], [], []
        self.mailbox = Mailbox(0.02, False)
        self.behave, self.ages = behave, ages or {}
        self.worker = Worker(
            load,
            self._perform,
            self.freed.append,
            self.mailbox,
            lambda stamp: self.ages.get(stamp, 0.0),
            lambda: 0.5,
            self.deaths.append,
        )

    def _perform(self, owner, task):
        try:
            self.behave(task)
        except Cancelled as error:
            if task.call:
                task.call.finish(error=error)
            return
        with self.worker.publishing:
            if task.call:
                task.call.finish(task.asked)
            elif self.worker.is_current(task):
                self.done.append((task.snapshot.stamp_ns, task.asked))


@pytest.fixture
def rig():
    made = []

    def make(*args, **kwargs):
        made.append(Rig(*args, **kwargs))
        return made[-1]

    yield make
    for r in made:
        assert r.worker.stop(5.0)


def token_by_token(seconds=5.0):
    """Behave like a slow engine that looks at its control between tokens."""

    def behave(task):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if task.control.cancelled:
                raise Cancelled(task.control.reason)
            if task.control.expired:
                return
            time.sleep(0.002)

    return behave


def ask(worker, timeout_s=5.0, request=CUBE):
    answers = []
    call = Call(request, timeout_s, lambda result, error: answers.append((result, error)))
    worker.submit(call)
    return answers


def test_the_stream_answers_the_newest_image_and_drops_old_ones(rig):
    r = rig(ages={1: 9.0})
    r.worker.stream(CUBE)
    r.mailbox.put_image(1, "old")
    until(lambda: r.worker.counts.stale == 1)
    r.mailbox.put_image(2, "new")
    until(lambda: r.done)
    assert r.done == [(2, CUBE)]


def test_a_call_stops_the_stream_between_tokens_and_the_stream_goes_on_after(rig):
    slow = token_by_token()
    r = rig(lambda task: slow(task) if task.snapshot.stamp_ns == 1 and not task.call else None)
    r.worker.stream(CUBE)
    r.mailbox.put_image(1, "x")
    until(lambda: r.worker.busy)
    started = time.monotonic()
    answers = ask(r.worker, request=MUG)
    until(lambda: answers)
    assert time.monotonic() - started < 1.0
    assert answers == [(MUG, None)] and r.worker.counts.preempted == 1
    r.mailbox.put_image(2, "y")
    until(lambda: r.done)
    assert r.done == [(2, CUBE)]


def test_a_new_prompt_cancels_the_answer_in_flight_and_nothing_old_is_published(rig):
    started = threading.Event()

    def deaf(task):  # an engine that answers in full although it was cancelled
        if task.asked == CUBE:
            started.set()
            until(lambda: task.control.cancelled)

    r = rig(deaf)
    r.worker.stream(CUBE)
    r.mailbox.put_image(1, "x")
    assert started.wait(5)
    r.worker.stream(MUG)
    r.mailbox.put_image(2, "y")
    until(lambda: r.done)
    assert r.done == [(2, MUG)]


def test_pausing_stops_the_stream_but_not_calls(rig):
    r = rig()
    r.worker.stream(None)
    r.mailbox.put_image(1, "x")
    answers = ask(r.worker)
    until(lambda: answers)
    assert answers == [(CUBE, None)] and r.done == []


def test_a_call_waits_for_a_fresh_image(rig):
    r = rig(ages={1: 9.0})
    r.mailbox.put_image(1, "old")
    answers = ask(r.worker)
    time.sleep(0.05)
    assert not answers
    r.mailbox.put_image(2, "new")
    until(lambda: answers)
    assert answers == [(CUBE, None)]


def test_a_call_without_images_is_told_so_at_its_deadline(rig):
    answers = ask(rig().worker, timeout_s=0.1)
    until(lambda: answers)
    result, error = answers[0]
    assert result is None and isinstance(error, StaleFrame) and "none was received" in str(error)


def test_a_call_to_an_engine_that_does_not_stop_is_answered_all_the_same(rig):
    release = threading.Event()
    r = rig(lambda task: release.wait(10))
    r.mailbox.put_image(1, "x")
    answers = ask(r.worker, timeout_s=0.1)
    until(lambda: answers)
    assert "did not stop" in str(answers[0][1])
    release.set()
    until(lambda: not r.worker.busy)
    assert len(answers) == 1


def test_cancel_all_answers_running_and_waiting_calls_once(rig):
    r = rig(token_by_token())
    r.mailbox.put_image(1, "x")
    running = ask(r.worker)
    until(lambda: r.worker.busy)
    waiting = ask(r.worker, request=MUG)
    r.worker.cancel_all("deactivated")
    assert r.worker.wait_idle(5.0)
    assert [str(a[0][1]) for a in (running, waiting)] == ["deactivated", "deactivated"]
    assert len(running) == len(waiting) == 1


def test_calls_are_served_in_order(rig):
    order = []
    r = rig(lambda task: order.append(task.asked))
    first, second = ask(r.worker, request=CUBE), ask(r.worker, request=MUG)
    r.mailbox.put_image(1, "x")
    until(lambda: first and second)
    assert order == [CUBE, MUG]


def test_stop_frees_the_engine_while_generating_and_refuses_later_calls():
    r = Rig(token_by_token())
    r.worker.stream(CUBE)
    r.mailbox.put_image(1, "x")
    until(lambda: r.worker.busy)
    assert r.worker.stop(5.0)
    assert r.freed == ["owner"] and r.deaths == []
    assert isinstance(ask(r.worker)[0][1], Cancelled)


def test_a_defect_ends_the_thread_loudly_and_answers_everybody():
    def explode(task):
        raise ZeroDivisionError("defect")

    r = Rig(explode)
    waiting = ask(r.worker)
    r.mailbox.put_image(1, "x")
    until(lambda: r.deaths)
    assert isinstance(r.deaths[0], ZeroDivisionError)
    until(lambda: not r.worker.alive)
    assert "ZeroDivisionError" in str(waiting[0][1]) and r.freed == ["owner"]


def test_an_engine_that_cannot_be_freed_is_as_loud():
    deaths = []

    def refuse(owner):
        raise RuntimeError("the device hangs")

    mailbox = Mailbox(0.02, False)
    worker = Worker(
        lambda: "owner", lambda owner, task: None, refuse, mailbox, lambda stamp: 0.0, lambda: 0.5, deaths.append
    )
    assert worker.stop(5.0)
    assert [str(error) for error in deaths] == ["the device hangs"]


def test_a_failed_load_is_kept_for_whoever_waits():
    def load():
        raise MemoryError("too big")

    r = Rig(load=load)
    assert r.worker.loaded.wait(5)
    assert isinstance(r.worker.load_error, MemoryError) and r.worker.stop(5) and r.freed == []


def test_a_hundred_workers_leave_no_thread_behind():
    before = threading.active_count()
    for _ in range(100):
        r = Rig()
        r.worker.stream(CUBE)
        r.mailbox.put_image(1, "x")
        assert r.worker.stop(5.0)
    assert threading.active_count() == before
