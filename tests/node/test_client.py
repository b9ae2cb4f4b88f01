"""The client that front ends reach ROS by: bytes that are heard, services that answer, and those that do not."""

import threading

import pytest
from rclpy.action import ActionServer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from ros_graph import PATIENCE_S, until
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from qwen3vl_ros.action import FollowInstruction
from qwen3vl_ros.node.client import LATCHED, Client, NoReply, decoded


@pytest.fixture
def make(graph, monkeypatch):
    """Clients in the test's graph."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(graph.domain))
    made = []

    def client(**how):
        made.append(Client("outsider", **how))
        return made[-1]

    yield client
    for client in made:
        client.close()


def test_messages_are_heard_as_bytes_that_can_be_decoded(graph, make):
    client, heard = make(), []
    assert client.subscribe("told", Header, heard.append) == ("/qwen3vl/told", "std_msgs/msg/Header")
    publisher = graph.node.create_publisher(Header, "/qwen3vl/told", 10)
    assert client.spin(PATIENCE_S, publisher.get_subscription_count)
    publisher.publish(Header(frame_id="from far"))
    assert client.spin(PATIENCE_S, lambda: heard) and isinstance(heard[0], bytes)
    assert decoded(heard[0], Header).frame_id == "from far"


def test_what_was_said_before_is_heard_where_it_is_kept(graph, make):
    publisher = graph.node.create_publisher(Header, "/kept", LATCHED)
    publisher.publish(Header(frame_id="earlier"))
    client, heard = make(), []
    client.subscribe("/kept", Header, heard.append, LATCHED)
    assert client.spin(PATIENCE_S, lambda: heard)


def test_a_service_answers_and_one_that_nobody_offers_is_told_of(graph, make):
    def echo(asked, response):
        response.success, response.message = asked.data, "heard"
        return response

    graph.node.create_service(SetBool, "/qwen3vl/echo", echo)
    client = make()
    client.use("echo", SetBool)
    client.use("nobody", SetBool)
    assert client.spin(PATIENCE_S, lambda: client.is_offered("echo")) and not client.is_offered("nobody")
    reply = client.call("echo", SetBool.Request(data=True), PATIENCE_S)
    assert reply.success and reply.message == "heard"
    with pytest.raises(NoReply, match="nobody did not answer within 0.1 s"):
        client.call("nobody", SetBool.Request(), 0.1)


def test_whoever_waits_for_a_server_that_goes_away_is_told(graph, make):
    goals, over = [], Future()

    async def follow(goal):
        goals.append(goal)
        await over  # it never ends

    server = ActionServer(
        graph.node, FollowInstruction, "/qwen3vl/follow", follow, callback_group=ReentrantCallbackGroup()
    )
    client = make().spin_alone()
    client.use_action("follow", FollowInstruction)
    assert client.spin(PATIENCE_S, lambda: client.acts("follow"))
    threading.Thread(target=lambda: until(lambda: goals) and server.destroy()).start()
    with pytest.raises(NoReply, match="follow has gone while its answer was waited for"):
        client.ask_for("follow", FollowInstruction.Goal(), 60.0)


def test_waiting_calls_its_owner_who_may_end_it(make):
    def enough():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(on_wait=enough).spin(60.0)


def test_a_client_with_a_thread_of_its_own_hears_while_nobody_spins_and_answers_any_thread(graph, make):
    client, heard = make(), []
    client.subscribe("told", Header, heard.append)
    graph.node.create_service(SetBool, "/qwen3vl/echo", lambda asked, response: response)
    client.use("echo", SetBool)
    client.spin_alone()
    publisher = graph.node.create_publisher(Header, "/qwen3vl/told", 10)
    until(lambda: publisher.publish(Header()) or heard, what="a message while nobody spins")
    until(lambda: client.is_offered("echo"))
    replies = []
    asking = [
        threading.Thread(target=lambda: replies.append(client.call("echo", SetBool.Request(), PATIENCE_S)))
        for _ in "ab"
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(PATIENCE_S)
    assert len(replies) == 2
    before = threading.active_count()
    client.close()
    assert threading.active_count() == before - 1


@pytest.mark.parametrize("alone", [False, True])
def test_what_a_callback_raises_is_raised_where_somebody_waits(graph, make, alone):
    client = make()
    client.subscribe("told", Header, lambda cdr: 1 / 0)
    if alone:
        client.spin_alone()
    publisher = graph.node.create_publisher(Header, "/qwen3vl/told", 10)
    with pytest.raises(ZeroDivisionError):
        client.spin(PATIENCE_S, lambda: publisher.publish(Header()))
