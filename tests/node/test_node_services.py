"""Prompts and calls: no answer under an old prompt, no call without an answer, calls before the stream."""

from collections import Counter

import pytest
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import START_PATIENCE_S, FakeCamera, until

from qwen3vl_ros.srv import Detect


@pytest.fixture(scope="module")
def running(shared_graph):
    """A node whose engine takes ten minutes unless it is asked for a mug; the camera streams."""
    process = shared_graph.start_node("quick_for_mugs")
    camera = FakeCamera(shared_graph).matched().stream(20)
    heard = shared_graph.results()
    yield shared_graph, process, heard
    camera.stop()


@pytest.fixture
def busy(running):
    """The engine is in the middle of a slow answer for cubes."""
    graph, process, heard = running
    assert graph.set_prompt("cube").success
    graph.diagnosed(lambda s, v: "cube" in v["prompt"])
    return graph, process, heard


def test_a_new_prompt_cancels_the_answer_in_flight_and_every_answer_names_its_prompt(busy):
    graph, _, heard = busy
    response = graph.set_prompt("mug", "the blue bowl")
    assert response.success and response.prompt_id > 0
    before = len(heard["generation"])
    said = until(lambda: heard["generation"][before:], what="an answer to the new prompt")[0]
    assert said.prompt_id == response.prompt_id and "mug, the blue bowl" in said.prompt
    # Nothing of the old prompt after the response, however often it is changed.
    for targets in (("cube",), ("mug",), ("cube",), ("mug", "cup")):
        latest = graph.set_prompt(*targets)
        after = len(heard["generation"])
        if "mug" in targets:
            until(lambda: len(heard["generation"]) > after + 1)
            assert {m.prompt_id for m in heard["generation"][after + 1 :]} == {latest.prompt_id}
            targets_ids = {m.prompt_id for m in heard["grasp_targets"][-2:]}
            assert targets_ids == {latest.prompt_id}


@pytest.mark.parametrize(
    "targets, words", [(["mug", " "], "empty phrase"), (['a "quoted" mug'], "quote"), (["x" * 500], "characters")]
)
def test_a_prompt_that_cannot_be_asked_is_refused_and_the_old_one_stays(running, targets, words):
    graph, _, heard = running
    kept = graph.set_prompt("mug")
    refused = graph.set_prompt(*targets)
    assert not refused.success and words in refused.message and refused.prompt_id == kept.prompt_id
    before = len(heard["generation"])
    assert until(lambda: heard["generation"][before + 1 :])[0].prompt_id == kept.prompt_id


def test_empty_targets_pause_the_stream_but_not_detect(running):
    graph, _, heard = running
    assert graph.set_prompt().success
    before = len(heard["generation"])
    future = graph.detect(["mug"])
    until(future.done)
    assert future.result().success, future.result().message
    refused = graph.detect()
    until(refused.done)
    assert not refused.result().success and "targets is empty" in refused.result().message
    assert len(heard["generation"]) == before, "a paused stream publishes nothing, and a call answers only its caller"
    graph.set_prompt("mug")
    until(lambda: len(heard["generation"]) > before, what="the stream again")


def test_enable_stops_and_starts_the_stream_while_calls_work(running):
    graph, _, heard = running
    graph.set_prompt("mug")
    until(lambda: len(heard["generation"]) > 2)
    assert graph.enable(False).success
    before = len(heard["generation"])
    future = graph.detect(["mug"])
    until(future.done)
    assert future.result().success
    graph.diagnosed(lambda s, v: v["enabled"] == "False")
    assert len(heard["generation"]) <= before + 1
    assert graph.enable(True).success
    before = len(heard["generation"])
    until(lambda: len(heard["generation"]) > before + 1, what="the stream again")


def test_a_call_goes_before_the_stream_between_tokens(busy):
    graph, _, _ = busy
    future = graph.detect(["mug"], 5.0)
    until(future.done)
    assert future.result().success, future.result().message


def test_a_call_that_takes_too_long_is_answered_at_its_deadline_with_what_there_is(busy):
    graph, _, _ = busy
    # Long enough for a busy machine to have begun.
    future = graph.detect(["cube"], 3.0)
    until(future.done)
    response = future.result()
    assert not response.success and "deadline of 3 s" in response.message
    assert response.generation.finish_reason == "deadline"


def test_a_deadline_before_anything_could_be_read_is_told_as_a_deadline(graph):
    graph.start_node("never_done", enabled=False)
    camera = FakeCamera(graph).matched().stream(20)
    future = graph.detect(["cube"], 3.0)
    until(future.done)
    camera.stop()
    response = future.result()
    assert not response.success and response.message.startswith("Cancelled: the deadline of 3 s passed")
    assert "max_new_tokens" not in response.message + response.generation.error
    assert response.generation.finish_reason == "deadline" and "DeadlinePassed" in response.generation.error


def test_a_wrong_timeout_is_refused(running):
    future = running[0].detect(["mug"], -1.0)
    until(future.done)
    assert not future.result().success and "timeout -1.0" in future.result().message


def test_many_calls_at_once_are_all_answered_in_order(busy):
    graph, _, _ = busy
    done = []
    futures = [graph.detect(["mug"], 10.0) for _ in range(10)]
    for i, future in enumerate(futures):
        future.add_done_callback(lambda f, i=i: done.append(i))
    until(lambda: len(done) == 10, what="ten answers")
    assert done == sorted(done) and all(f.result().success for f in futures)


def test_a_call_without_a_camera_is_answered_at_its_deadline(graph):
    graph.start_node("instant")
    future = graph.detect(["cube"], 0.4)
    until(future.done)
    assert not future.result().success and "none was received" in future.result().message


def test_a_call_about_a_picture_that_cannot_be_read_is_refused_and_ends_nothing(graph):
    process = graph.start_node("instant", enabled=False)

    def spoil(image, depth, info):
        image.encoding = "nonsense"

    camera = FakeCamera(graph).matched().stream(20, edit=spoil)
    future = graph.detect(["cube"], 5.0)
    until(future.done, what="a refusal")
    camera.stop()
    assert not future.result().success and "nonsense" in future.result().message
    assert future.result().generation.text == "" and process.popen.poll() is None


def test_a_call_to_an_engine_that_does_not_listen_is_answered_at_its_deadline(graph):
    graph.start_node("deaf", enabled=False)
    camera = FakeCamera(graph).matched().stream(20)
    future = graph.detect(["cube"], 0.5)
    until(future.done)
    assert not future.result().success and "deadline of 0.5 s" in future.result().message
    camera.stop()


def test_deactivating_answers_the_calls_in_flight(graph):
    graph.start_node("slow", enabled=False)
    camera = FakeCamera(graph).matched().stream(20)
    futures = [graph.detect(["cube"]) for _ in range(3)]
    graph.diagnosed(lambda s, v: int(v["images"]) > 3)
    assert graph.transition("deactivate", 5)
    until(lambda: all(f.done() for f in futures), 2, "all three answers")
    assert all(not f.result().success and "deactivated" in f.result().message for f in futures)
    camera.stop()


@pytest.mark.parametrize("engine", ["instant", "slow"])
def test_two_thousand_calls_at_once_are_each_answered_or_refused_without_a_thread_more(graph, engine):
    process = graph.start_node(engine, enabled=False)
    camera = FakeCamera(graph).matched().stream(10)
    client = graph.node.create_client(
        Detect,
        "/qwen3vl/perception/detect",
        qos_profile=QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE),
    )
    assert client.wait_for_service(START_PATIENCE_S)
    first = client.call_async(Detect.Request(timeout=5.0))
    until(first.done, what="a first answer, so that every thread there is has started")
    threads, seen = process.threads(), []
    futures = [client.call_async(Detect.Request(timeout=1.0)) for _ in range(2000)]
    until(lambda: seen.append(process.threads()) or all(f.done() for f in futures), 120, "2000 replies")
    camera.stop()
    messages = Counter("" if f.result().success else f.result().message.split(":")[0] for f in futures)
    assert set(messages) <= {"", "TooManyCalls", "Cancelled", "StaleFrame"}
    if engine == "slow":
        assert messages["TooManyCalls"] > 1000
        assert "request_queue" in next(f.result().message for f in futures if "TooMany" in f.result().message)
    assert max(seen) < threads + 5, f"{threads} threads became {max(seen)}; DDS may start one of its own, calls none"
    assert process.popen.poll() is None
