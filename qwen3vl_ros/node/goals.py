"""Requests of an action's client, made on the thread that takes what is answered.

rclpy notes a goal's future after it has sent the goal (and 9.1 notes a second one in its place): made on any other thread, an
answer that is quick enough finds no future, and whoever waits for it waits for ever (ros2/rclpy, issue 1123).
"""

from __future__ import annotations

from typing import Any, Callable

from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.node import Node
from rclpy.task import Future


def send_goal(node: Node, client: ActionClient, goal: Any, on_feedback: Callable[[Any], None] | None = None) -> Future:
    """From any thread: a future of the ClientGoalHandle. node: the client's, and an executor's. on_feedback: given each feedback
    message by the executor.
    """
    return _asked(node, lambda: client.send_goal_async(goal, feedback_callback=on_feedback))


def result_of(node: Node, handle: ClientGoalHandle) -> Future:
    """From any thread: a future of the status and result of a goal that was accepted."""
    return _asked(node, handle.get_result_async)


def _asked(node: Node, ask: Callable[[], Future]) -> Future:
    future = Future()

    async def asked() -> None:
        try:
            future.set_result(await ask())
        except Exception as error:  # is the asker's, not the executor's: text that no message can hold
            future.set_exception(error)

    node.executor.create_task(asked)
    return future
