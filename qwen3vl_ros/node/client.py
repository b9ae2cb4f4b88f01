"""A ROS node that looks at the graph from outside: messages as the bytes they came in, and services that answer in time.

The only way by which the front ends (demo, web) reach ROS. Either its owner spins it, slice by slice, and everything happens on
the owner's thread; or `spin_alone` gives it a thread, and messages arrive on that one. Knows no topic and no service itself.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions

from qwen3vl_ros.node.goals import result_of, send_goal
from qwen3vl_ros.node.joining import FOUND_S, joining
from qwen3vl_ros.node.perception.tf import BufferedTransforms, StaticTransforms, transforms_for
from qwen3vl_ros.types import PerceptionError

RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Deeper than sensor data's 5: the frame that is answered must not be one this process was too busy to take.
IMAGES = QoSProfile(depth=40, reliability=ReliabilityPolicy.BEST_EFFORT)
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
SLICE_S = 0.05
CANCEL_S = 5.0  # for the result of a goal that was cancelled
GONE_S = 3.0  # that a server is not seen before it is held to have gone
SETTLES_S = 0.3  # a server that was just found may not have found us, and its reply is lost
BACK_S = 2.0  # the same for one who has long been in the graph: whom he looks for may be starting anew


class NoReply(PerceptionError):
    """A service did not answer in time."""


def decoded(cdr: bytes, kind: type) -> Any:
    """The message of type `kind` that a subscription gave as bytes."""
    return deserialize_message(cdr, kind)


def type_name(kind: type) -> str:
    """`pkg/msg/Name` of a message's class."""
    return "/".join((kind.__module__.split(".")[0], "msg", kind.__name__))


def encoded(message: Any) -> bytes:
    """The bytes that `decoded` reads."""
    return serialize_message(message)


class Client:
    """In the graph from its making to close(); making it may raise what `joining` raises. on_wait(): called in every slice of waiting; what it raises ends it."""

    def __init__(self, name: str, namespace: str = "qwen3vl", on_wait: Callable[[], None] = lambda: None):
        self._context, self._on_wait = Context(), on_wait
        with joining():
            rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
            self._node = Node(name, namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._joined_s = time.monotonic()
        self._closing, self._asking, self._asked_less = False, 0, threading.Condition()
        self._used: set[str] = set()
        self._services: dict[str, Any] = {}
        self._actions: dict[str, ActionClient] = {}
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def close(self) -> None:
        """Leave the graph. What waits in other threads ends, and goals are cancelled before."""
        self._closing = True
        with self._asked_less:
            self._asked_less.wait_for(lambda: not self._asking, 2 * CANCEL_S)
        self._executor.shutdown()
        if self._thread:
            self._thread.join()
        for client in self._actions.values():
            client.destroy()
        self._node.destroy_node()
        self._context.try_shutdown()

    # -- what is heard and asked -------------------------------------------------------------------

    def subscribe(
        self, topic: str, kind: type, arrived: Callable[[bytes], None], qos: QoSProfile = RELIABLE
    ) -> tuple[str, str]:
        """Have every message of a topic, serialised. Returns the topic's full name and its type, `pkg/msg/Name`."""
        name = self.full_name(topic)
        self._node.create_subscription(kind, name, arrived, qos, raw=True)
        return name, type_name(kind)

    def full_name(self, topic: str) -> str:
        """A topic's name with its namespace."""
        return self._node.resolve_topic_name(topic)

    def transforms(self) -> StaticTransforms | BufferedTransforms:
        """Where frames are, from now on; asked from any thread but the one that takes what arrives."""
        return transforms_for(self._node)

    def use(self, service: str, kind: type) -> None:
        """Look for a service from now on, so that `call` finds it."""
        self._services[service] = self._node.create_client(kind, service)

    def is_offered(self, service: str) -> bool:
        """Whether somebody answers it now."""
        return self._services[service].service_is_ready()

    def types_of(self, topic: str) -> set[str]:
        """What is published under a topic's full name, `pkg/msg/Name`; empty where nobody is known to."""
        return {info.topic_type for info in self._node.get_publishers_info_by_topic(topic)}

    def call(self, service: str, request: Any, timeout_s: float, cancelled: Callable[[], bool] = lambda: False) -> Any:
        """The response. Raises NoReply, also where the caller no longer waits."""
        with self._in_flight():
            self._settle(service)
            future = self._services[service].call_async(request)
            self.spin(timeout_s, lambda: future.done() or self._closing or cancelled())
            if not future.done():
                self._services[service].remove_pending_request(future)
                raise NoReply(f"the service {service} did not answer within {timeout_s:g} s")
            return future.result()

    def use_action(self, name: str, kind: type) -> None:
        """Look for an action from now on, so that `ask_for` finds it."""
        self._actions[name] = ActionClient(self._node, kind, name)

    def acts(self, name: str) -> bool:
        """Whether somebody serves the action now."""
        return self._actions[name].server_is_ready()

    def ask_for(
        self,
        action: str,
        goal: Any,
        timeout_s: float,
        on_feedback: Callable[[Any], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:
        """The result of a goal. cancelled(): once it is true the goal is cancelled; what the server made of it is the result.

        Raises NoReply, also where the server has gone; the goal is then cancelled. So it is when the client is closed.
        """
        with self._in_flight():
            return self._ask_for(action, goal, timeout_s, on_feedback, lambda: self._closing or cancelled())

    def _ask_for(
        self,
        action: str,
        goal: Any,
        timeout_s: float,
        on_feedback: Callable[[Any], None] | None,
        cancelled: Callable[[], bool],
    ) -> Any:
        client, end, there_s = self._actions[action], time.monotonic() + timeout_s, time.monotonic()

        def gone() -> bool:
            nonlocal there_s
            now = time.monotonic()
            if client.server_is_ready():
                there_s = now
            return now - there_s > GONE_S

        def finish(future: Any, until: float, stopped: Callable[[], bool] = lambda: False) -> Any:
            self.spin(max(0.0, until - time.monotonic()), lambda: future.done() or stopped())
            return future.result() if future.done() else None

        if not self.spin(timeout_s, lambda: client.server_is_ready() or cancelled()) or cancelled():
            raise NoReply(f"the action {action} is not offered")
        self._settle(action)
        told = on_feedback and (lambda message: on_feedback(message.feedback))
        handle = finish(send_goal(self._node, client, goal, told), end)
        if handle is None:
            raise NoReply(f"the action {action} did not take the goal within {timeout_s:g} s")
        if not handle.accepted:
            raise NoReply(f"the action {action} did not accept the goal")
        waiting = result_of(self._node, handle)
        if (answer := finish(waiting, end, lambda: cancelled() or gone())) is None:
            handle.cancel_goal_async()
            if gone():
                raise NoReply(f"the action {action} has gone while its answer was waited for")
            if not cancelled() or (answer := finish(waiting, time.monotonic() + CANCEL_S)) is None:
                raise NoReply(f"the action {action} did not answer within {timeout_s:g} s")
        return answer.result

    def _settle(self, name: str) -> None:
        """Before the first request to a server that may have been found just now."""
        if name not in self._used and time.monotonic() - self._joined_s < FOUND_S:
            self.spin(SETTLES_S)
        self._used.add(name)

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        with self._asked_less:
            self._asking += 1
        try:
            yield
        finally:
            with self._asked_less:
                self._asking -= 1
                self._asked_less.notify_all()

    # -- time passes -------------------------------------------------------------------------------

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let that time pass and take what arrives; returns at once, and True, when until() is.

        Raises what a callback raised, also on the client's own thread.
        """
        end = time.monotonic() + seconds
        while not until():
            if self._failure:
                raise self._failure
            if time.monotonic() >= end:
                return False
            self._on_wait()
            if self._thread:
                time.sleep(0.002)
            else:
                # Always the same timeout: with another one rclpy forgets what else was ready, and the topics that
                # were subscribed to last may never have their turn.
                self._executor.spin_once(SLICE_S)
        return True

    def find(self, there: Callable[[], bool], stopped: Callable[[], bool] = lambda: False) -> bool:
        """Whether there() is true, for which the graph gets the time that it needs; stopped(): nobody waits any more."""
        age_s = time.monotonic() - self._joined_s
        self.spin(max(BACK_S, FOUND_S - age_s), lambda: there() or self._closing or stopped())
        return there()

    def spin_alone(self) -> Client:
        """Take what arrives on a thread of its own from now on."""
        self._thread = threading.Thread(target=self._spin, name=f"{self._node.get_name()} spins", daemon=True)
        self._thread.start()
        return self

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except (ExternalShutdownException, ShutdownException):
            pass  # close()
        except BaseException as error:  # told to whoever waits next
            self._failure = error
