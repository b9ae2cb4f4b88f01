"""Entry point of the perception node: spin on one thread, watch for the end on the main one, leave with an
honest status.

The main thread only waits, so that SIGINT and SIGTERM are seen at once in every state: while generating,
while a model loads, while nothing happens. Status 0: asked to stop. 1: a defect, or a failed autostart. 2:
what it was started with cannot be: parameters, a ROS domain, security.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Callable

import numpy.ma  # noqa: F401  # NumPy opens its files at first use, which may be when no descriptor is left
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import Engine
from qwen3vl_ros.node.joining import joining
from qwen3vl_ros.node.perception.node import STOP_PATIENCE_S, PerceptionNode
from qwen3vl_ros.node.signals import StopSignals
from qwen3vl_ros.resources import told
from qwen3vl_ros.types import PerceptionError

# The engine's thread computes in Python, too; the default of 5 ms would be added to the age of arriving
# images.
SWITCH_INTERVAL_S = 0.001
ANSWERS_PATIENCE_S = 2.0
PAUSE_S = 0.1  # before the next message is taken where there was no memory for the last


def main(args: list[str] | None = None, engine_loader: Callable[[Config], Engine] | None = None) -> int:
    """Run the node until it is told to stop; returns the exit status. engine_loader: as load_tested_engine."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(name)s: %(message)s")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        with joining():
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            asked = StopSignals()
            node = PerceptionNode(engine_loader or _load_engine)
    except PerceptionError as error:
        print(f"perception: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    status, spinning = _run(node, asked)
    _leave(node)
    if node.engine_thread_alive or spinning:
        # Loading a model cannot be interrupted, and ending Python under native code that runs crashes it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _load_engine(config: Config) -> Engine:
    from qwen3vl_ros.loading import load_tested_engine  # takes seconds: the node answers meanwhile

    return load_tested_engine(config)


def _run(node: PerceptionNode, asked: StopSignals) -> tuple[int, bool]:
    """(exit status, whether the executor's thread is stuck)."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    enough = Future(executor=executor)
    spinning = threading.Thread(target=_spin, args=(executor, enough, node), name="executor", daemon=True)
    spinning.start()
    threading.Thread(target=_forward, args=(asked, node), name="stopping", daemon=True).start()
    failed = node.config.autostart and not _autostart(node)
    while not (failed or asked.wait(0.1) or node.ended.is_set()):
        pass
    node.stop()
    _let_calls_be_answered(node)
    enough.set_result(None)
    spinning.join(STOP_PATIENCE_S)
    if not spinning.is_alive():
        executor.shutdown()
    return int(bool(node.failure) or (failed and not asked.is_set())), spinning.is_alive()


def _spin(executor: SingleThreadedExecutor, enough: Future, node: PerceptionNode) -> None:
    while True:
        try:
            return executor.spin_until_future_complete(enough)
        except ExternalShutdownException:
            return node.ended.set()
        except Exception as error:
            if (named := told(error, "while taking a message")) is error:
                return node.die(error)
            node.ran_out(named)
            time.sleep(PAUSE_S)


def _forward(asked: StopSignals, node: PerceptionNode) -> None:
    asked.wait()
    node.stop()


def _autostart(node: PerceptionNode) -> bool:
    """Configure and activate; False if either failed, which the node has said why."""
    for transition in (node.trigger_configure, node.trigger_activate):
        if node.stopping.is_set() or transition() != TransitionCallbackReturn.SUCCESS:
            return False
    return True


def _let_calls_be_answered(node: PerceptionNode) -> None:
    end = time.monotonic() + ANSWERS_PATIENCE_S
    while node.pending_calls and time.monotonic() < end:
        time.sleep(0.01)


def _leave(node: PerceptionNode) -> None:
    """Through the states to the end, so that whoever watches the lifecycle sees it."""
    if node.health.state in ("unconfigured", "inactive", "active"):
        node.trigger_shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
