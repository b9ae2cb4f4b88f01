"""A goal whose answer comes sooner than rclpy has noted that it was asked for is heard all the same."""

import re
import threading
import time
from pathlib import Path

import pytest
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_graph import START_PATIENCE_S, until

from qwen3vl_ros.action import Ask
from qwen3vl_ros.node.goals import result_of, send_goal

ROOT = Path(__file__).resolve().parents[2]


class NotedLate(dict):
    """What a client notes of a goal that was sent, while others have the processor."""

    def __setitem__(self, key, value):
        time.sleep(0.1)
        super().__setitem__(key, value)


@pytest.fixture(scope="module")
def client(shared_graph):
    """Of an action that is served at once, by somebody with a thread of his own."""
    server = Node("quick", context=shared_graph.context)
    executor = SingleThreadedExecutor(context=shared_graph.context)
    executor.add_node(server)

    def do(goal):
        goal.publish_feedback(Ask.Feedback(delta="begun"))
        goal.succeed()
        return Ask.Result(answer=goal.request.question)

    action = ActionServer(server, Ask, "quick", do)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    made = ActionClient(shared_graph.node, Ask, "quick")
    assert made.wait_for_server(START_PATIENCE_S)
    yield made
    executor.shutdown()
    thread.join()
    made.destroy()
    action.destroy()
    server.destroy_node()


@pytest.mark.parametrize("noted", ["_feedback_callbacks", "_pending_goal_requests", "_pending_result_requests"])
def test_an_answer_is_heard_that_comes_before_its_question_was_noted(client, shared_graph, monkeypatch, noted):
    monkeypatch.setattr(client, noted, NotedLate())
    for question in "abc":
        heard = []
        sent = send_goal(shared_graph.node, client, Ask.Goal(question=question), heard.append)
        until(sent.done, what="an answer to the goal")
        result = result_of(shared_graph.node, sent.result())
        until(result.done, what="the result")
        assert result.result().result.answer == question


def test_a_goal_that_no_message_can_hold_is_told_to_whoever_sent_it(client, shared_graph):
    sent = send_goal(shared_graph.node, client, Ask.Goal(question="\ud800"))
    until(sent.done, what="an answer to the goal")
    with pytest.raises(UnicodeEncodeError):
        sent.result()
    until(send_goal(shared_graph.node, client, Ask.Goal(question="and now")).done, what="the next goal's")


def test_nobody_asks_for_goals_and_results_in_another_way():
    files = [f for folder in ("qwen3vl_ros", "tests", "benchmarks") for f in (ROOT / folder).rglob("*.py")]
    asks = re.compile(r"\.(send_goal|send_goal_async|get_result|get_result_async)\(")
    assert {f.name for f in files if asks.search(f.read_text())} == {"goals.py"}
