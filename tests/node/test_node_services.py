"""Prompts and calls: no answer under an old prompt, no call without an answer, calls before the stream."""

from collections import Counter

import pytest
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import PATIENCE_S, START_PATIENCE_S, FakeCamera, until

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.srv import Detect


@pytest.fixture(scope="module")
def running(shared_graph):
    """A node whose engine takes ten minutes unless it is asked for a mug; the camera streams."""
    process = shared_graph.start_node("quick_for_mugs")
    camera = FakeCamera(shared_graph).matched().stream(20)
    heard = shared_graph.results()
    yield shared_graph, process, heard
    camera.stop()


def now_ns(graph) -> int:
    return graph.node.get_clock().now().nanoseconds


def of_images_since(said: list, since_ns: int) -> list:
    """Answers to images that are newer: what was published before may be heard later than that its prompt is over."""
    return [m for m in said if stamp_ns(m.header) > since_ns]


def ten_more_images(graph) -> None:
    """Wait until the node has had them, about which it may have said something."""
    had = lambda v: int(v["images"])
    first = next(v for v in graph.diagnosed(lambda s, v: had(v) > 0).values if v.key == "images")
    graph.diagnosed(lambda s, v: had(v) > int(first.value) + 10)


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
    since_ns = now_ns(graph)
    said = until(lambda: of_images_since(heard["generation"], since_ns), what="an answer to the new prompt")[0]
    assert said.prompt_id == response.prompt_id and "mug, the blue bowl" in said.prompt
    # Nothing of the old prompt after the response, however often it is changed.
    for targets in (("cube",), ("mug",), ("cube",), ("mug", "cup")):
        latest = graph.set_prompt(*targets)
        since_ns = now_ns(graph)
        if "mug" in targets:
            for topic in ("generation", "grasp_targets"):
                until(lambda: len(of_images_since(heard[topic], since_ns)) > 1, what=topic)
                assert {m.prompt_id for m in of_images_since(heard[topic], since_ns)} == {latest.prompt_id}


@pytest.mark.parametrize(
    "targets, words", [(["mug", " "], "empty phrase"), (['a "quoted" mug'], "quote"), (["x" * 500], "characters")]
)
def test_a_prompt_that_cannot_be_asked_is_refused_and_the_old_one_stays(running, targets, words):
    graph, _, heard = running
    kept = graph.set_prompt("mug")
    refused = graph.set_prompt(*targets)
    assert not refused.success and words in refused.message and refused.prompt_id == kept.prompt_id
    since_ns = now_ns(graph)
    assert until(lambda: of_images_since(heard["generation"], since_ns))[0].prompt_id == kept.prompt_id


def test_empty_targets_pause_the_stream_but_not_detect(running):
    graph, _, heard = running
    assert graph.set_prompt("mug").success and graph.set_prompt().success
    since_ns = now_ns(graph)
    future = graph.detect(["mug"])
    until(future.done)
    assert future.result().success, future.result().message
    refused = graph.detect()
    until(refused.done)
    assert not refused.result().success and "targets is empty" in refused.result().message
    ten_more_images(graph)
    said = of_images_since(heard["generation"], since_ns)
    assert not said, "a paused stream publishes nothing, and a call answers only its caller"
    graph.set_prompt("mug")
    until(lambda: of_images_since(heard["generation"], since_ns), what="the stream again")


def test_enable_stops_and_starts_the_stream_while_calls_work(running):
    graph, _, heard = running
    graph.set_prompt("mug")
    until(lambda: len(heard["generation"]) > 2)
    assert graph.enable(False).success
    since_ns = now_ns(graph)
    future = graph.detect(["mug"])
    until(future.done)
    assert future.result().success
    graph.diagnosed(lambda s, v: v["enabled"] == "False")
    ten_more_images(graph)
    assert not of_images_since(heard["generation"], since_ns)
    assert graph.enable(True).success
    until(lambda: len(of_images_since(heard["generation"], since_ns)) > 1, what="the stream again")


def test_a_call_goes_before_the_stream_between_tokens(busy):
    graph, _, _ = busy
    future = graph.detect(["mug"])
    until(future.done)
    assert future.result().success, future.result().message


def late(graph, begun):
    """The answer to a call that is late: the first one that says that the engine had begun, for which a busy machine takes longer."""
    for timeout_s in (1.0, 4.0, 16.0, 64.0):
        future = graph.detect(["cube"], timeout_s)
        until(future.done, 2 * PATIENCE_S)
        response = future.result()
        if begun(response):
            break
    assert not response.success and f"deadline of {timeout_s:g} s" in response.message
    return response


def test_a_call_that_takes_too_long_is_answered_at_its_deadline_with_what_there_is(busy):
    graph, _, _ = busy
    response = late(graph, lambda r: r.generation.finish_reason == "deadline")
    assert response.generation.finish_reason == "deadline"


def test_a_deadline_before_anything_could_be_read_is_told_as_a_deadline(graph):
    graph.start_node("never_done", enabled=False)
    camera = FakeCamera(graph).matched().stream(20)
    response = late(graph, lambda r: r.generation.finish_reason == "deadline")
    camera.stop()
    assert response.message.startswith("Cancelled: the deadline of ")
    assert "max_new_tokens" not in response.message + response.generation.error
    assert response.generation.finish_reason == "deadline" and "DeadlinePassed" in response.generation.error


def test_a_wrong_timeout_is_refused(running):
    future = running[0].detect(["mug"], -1.0)
    until(future.done)
    assert not future.result().success and "timeout -1.0" in future.result().message


def test_many_calls_at_once_are_all_answered_in_order(busy):
    graph, _, _ = busy
    done, futures = [], []

    def ask():
        """Where answers are heard, so that none is before all are waited for."""
        futures.extend(graph.detect(["mug"]) for _ in range(10))
        for i, future in enumerate(futures):
            future.add_done_callback(lambda f, i=i: done.append(i))

    graph.detect(["mug"])  # the client is there
    graph.node.executor.create_task(ask)
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
    future = graph.detect(["cube"])
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
    graph.start_node("quick_for_mugs", enabled=False)  # ten minutes, whoever waits for it
    camera = FakeCamera(graph).matched().stream(20)
    futures = [graph.detect(["cube"]) for _ in range(3)]
    graph.diagnosed(lambda s, v: int(v["images"]) > 3)
    assert graph.transition("deactivate")
    until(lambda: all(f.done() for f in futures), what="all three answers")
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
    first = client.call_async(Detect.Request(timeout=60.0))
    until(first.done, what="a first answer, so that every thread there is has started")
    threads, seen = process.threads(), []
    futures = [client.call_async(Detect.Request(timeout=1.0)) for _ in range(2000)]
    until(
        lambda: seen.append(process.threads()) or all(f.done() for f in futures), 3 * START_PATIENCE_S, "2000 replies"
    )
    camera.stop()
    messages = Counter("" if f.result().success else f.result().message.split(":")[0] for f in futures)
    assert set(messages) <= {"", "TooManyCalls", "Cancelled", "StaleFrame"}
    if engine == "slow":
        assert messages["TooManyCalls"] > 100, "sixty-four may wait, and are late after a second"
        assert "request_queue" in next(f.result().message for f in futures if "TooMany" in f.result().message)
    assert max(seen) < threads + 5, f"{threads} threads became {max(seen)}; DDS may start one of its own, calls none"
    assert process.popen.poll() is None
