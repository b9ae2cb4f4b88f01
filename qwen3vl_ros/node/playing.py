"""The life of a process that stands for hardware: a node that plays in the main thread until it is told to stop."""

from __future__ import annotations

import sys
import threading
from typing import Callable, Protocol

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions

from qwen3vl_ros.node.joining import joining
from qwen3vl_ros.node.signals import StopSignals
from qwen3vl_ros.threads import settle
from qwen3vl_ros.types import PerceptionError


class Playing(Protocol):
    """A node that publishes until `stop` is set or it has nothing more to show."""

    def play(self, stop: StopSignals) -> None: ...


def run(make: Callable[[], Playing], name: str, args: list[str] | None) -> int:
    """Play until told to stop or until it ends; returns the exit status. name: who complains of what is wrong."""
    spinning = None
    settle()
    try:
        with joining():
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            stop = StopSignals()
            node = make()
        spinning = threading.Thread(target=_spin, args=(node,), daemon=True)
        spinning.start()
        node.play(stop)
        return 0
    except (PerceptionError, ParameterException, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
        if spinning:
            spinning.join(5.0)  # Python must not end while it is inside the middleware


def _spin(node: Playing) -> None:
    """Parameters, actions and the clock need an executor."""
    try:
        rclpy.spin(node)
    except ExternalShutdownException:
        pass  # `run` ends the context when playing is over
