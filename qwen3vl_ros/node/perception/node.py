"""The lifecycle node `perception`: its transitions, services and parameters.

It decides nothing about pictures: the mailbox pairs, the worker schedules, answering turns one task into
messages, and this file makes and connects them.
"""

from __future__ import annotations

import functools
import threading
import time
import traceback
from typing import Callable

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.task import Future
from std_srvs.srv import SetBool

from qwen3vl_ros import types
from qwen3vl_ros.config import Config
from qwen3vl_ros.node.perception.answering import Answering
from qwen3vl_ros.node.perception.camera import Camera
from qwen3vl_ros.node.perception.diagnostics import Health, Level
from qwen3vl_ros.node.perception.mailbox import Mailbox
from qwen3vl_ros.node.perception.parameters import Parameters
from qwen3vl_ros.node.perception.publishers import DiagnosticsPublisher, Publishers, Reply
from qwen3vl_ros.node.perception.tf import transforms_for
from qwen3vl_ros.node.perception.worker import Asked, Call, Worker
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import LOOKING_FOR
from qwen3vl_ros.srv import Detect, SetPrompt
from qwen3vl_ros.types import Cancelled, InvalidInput, PerceptionError

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)
STOP_PATIENCE_S = 10.0  # for an engine to end its step, in a transition
LAST_PATIENCE_S = 2.0  # the same when the process is to end: launch kills after five
LOAD_REPORT_S = 5.0


class NotReady(PerceptionError):
    """The node's lifecycle state does not allow what was asked."""


def _transition(name: str):
    """rclpy swallows an exception in a transition; a defect must be seen, and end the process."""

    def wrap(method):
        @functools.wraps(method)
        def run(self, state):
            self.health.enter(name)
            try:
                result, settled = method(self)
            except Exception as error:
                self.die(error)
                return ERROR
            self.health.enter(settled)
            self.report()
            return result

        return run

    return wrap


class PerceptionNode(LifecycleNode):
    """engine_loader(config) -> Engine. `failure` is set when the process must end with an error."""

    def __init__(self, engine_loader: Callable[[Config], types.Engine], **kwargs):
        super().__init__("perception", **{"namespace": "qwen3vl", **kwargs})
        self._engine_loader = engine_loader
        self._engine_status: Callable[[], dict[str, str]] = dict
        self.health = Health()
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self.ended = threading.Event()
        self._worker: Worker | None = None
        self._answering: Answering | None = None
        self._camera: Camera | None = None
        self._mailbox = self._transforms = self._out = None
        self._prompt_id, self._pending_calls, self._stale_seen = 0, 0, 0
        self._settings = Parameters(self, lambda: self.health.state in ("unconfigured", "finalized"), self._changed)
        self._targets, self._enabled = self.config.targets, self.config.enabled
        self._diagnostics = DiagnosticsPublisher(self)
        self.create_timer(self.config.diagnostics_period, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        any_step_back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jumps = self.get_clock().create_jump_callback(any_step_back, post_callback=self._clock_jumped)
        # A call waits for the engine without holding up anything else, hence a group of its own.
        self.create_service(Detect, "~/detect", self._on_detect, callback_group=ReentrantCallbackGroup())
        self.create_service(SetPrompt, "~/set_prompt", self._on_set_prompt)
        self.create_service(SetBool, "~/enable", self._on_enable)

    @property
    def config(self) -> Config:
        return self._settings.config

    # -- transitions -------------------------------------------------------------------------------

    @_transition("configuring")
    def on_configure(self):
        config = self.config
        self._targets, self._enabled, self._prompt_id = config.targets, config.enabled, self._prompt_id + 1
        try:
            self._stream_asks()
        except InvalidInput as error:
            return self._not_configured(f"parameter targets: {error}")
        self._mailbox = Mailbox(config.sync_slop, config.use_depth, patience_s=self._patience_s)
        self._stale_seen = 0
        self._answering = Answering(self, self.health, lambda: self.config, self._age_s)
        self._worker = Worker(
            lambda: self._load(config),
            self._answering.perform,
            lambda perception: perception.engine.close(),
            self._mailbox,
            self._age_s,
            lambda: self.config.max_age,
            self.die,
        )
        self.get_logger().info(f"loading the model ({config.model or 'embedded'}, {config.engine}, {config.device})")
        error = self._wait_for_load(config)
        if error is not None:
            if self._worker.loaded.is_set():
                self._worker = None
            if not isinstance(error, PerceptionError):
                raise error
            return self._not_configured(f"the model could not be loaded: {error}")
        self.health.well("configure")
        self.get_logger().info(f"the engine: {self.health.engine}")
        self._out = Publishers(self)
        if config.target_frame:
            self._transforms = transforms_for(self)
            self.health.fact("transforms", self._transforms.name)
        self._answering.connect(self._worker, self._out, self._transforms)
        return SUCCESS, "inactive"

    def _not_configured(self, reason: str):
        self.health.failed("configure", Level.ERROR, reason, lasting=True)
        self.get_logger().error(f"configure failed: {reason}")
        return FAILURE, "unconfigured"

    def _load(self, config: Config) -> Perception:
        engine = self._engine_loader(config)
        self._engine_status = engine.status
        i = engine.info
        self.health.engine = (
            f"{i.runtime}, {i.model}, {i.device}, {i.dtype}, {i.parameters / 1e6:.1f} M weights ({i.why})"
        )
        return Perception(engine, config)

    def _wait_for_load(self, config: Config) -> BaseException | None:
        """Until the engine's thread has loaded, saying so; None or what went wrong."""
        started, said = time.monotonic(), 0.0
        while not self._worker.loaded.wait(0.1):
            if self.stopping.is_set():
                return Cancelled("the node was asked to stop while the model was loading")
            waited = time.monotonic() - started
            if waited - said >= LOAD_REPORT_S:
                said = waited
                self.get_logger().info(f"still loading the model, {waited:.0f} s")
                self.report()
        return self._worker.load_error

    @_transition("activating")
    def on_activate(self):
        self._mailbox.clear()
        self._camera = self._answering.camera = Camera(self, self.config, self._mailbox, self.health)
        self._stream()
        self.get_logger().info(
            f"active: {self._camera.image_topic}, looking for {', '.join(self._targets) or 'nothing'}"
        )
        return SUCCESS, "active"

    @_transition("deactivating")
    def on_deactivate(self):
        self._unsubscribe("the node was deactivated")
        return SUCCESS, "inactive"

    @_transition("cleaning up")
    def on_cleanup(self):
        return (SUCCESS, "unconfigured") if self._free() else (ERROR, "error")

    @_transition("shutting down")
    def on_shutdown(self):
        self._unsubscribe("the node is shutting down", wait=False)
        freed = self._free()
        self.ended.set()
        return (SUCCESS, "finalized") if freed else (ERROR, "error")

    @_transition("error processing")
    def on_error(self):
        self._unsubscribe("the node is in error", wait=False)
        return (SUCCESS, "unconfigured") if self._free() else (FAILURE, "finalized")

    def _unsubscribe(self, reason: str, wait: bool = True) -> None:
        if self._camera:
            self._camera.close()
            self._camera = self._answering.camera = None
        if self._worker:
            self._worker.cancel_all(reason)
            if wait and not self._worker.wait_idle(STOP_PATIENCE_S):
                self.get_logger().warning("the engine has not stopped yet; its answer will be thrown away")

    def _free(self) -> bool:
        """Free the engine and the entities of configure; False if the engine's thread did not end."""
        if self._worker:
            patience_s = LAST_PATIENCE_S if self.stopping.is_set() else STOP_PATIENCE_S
            if not self._worker.loaded.is_set():
                patience_s = 0.2  # a load cannot be interrupted
            if not self._worker.stop(patience_s):
                self.get_logger().warning("the engine did not stop in time; its memory is freed when the process ends")
                return False
        self._worker = self._answering = None
        self._engine_status = dict
        for part in filter(None, (self._out, self._transforms)):
            part.close()
        self._out = self._transforms = None
        return True

    def die(self, error: BaseException) -> None:
        """A defect: say so as loudly as possible, then let main end the process. Any thread."""
        self.failure = error
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.get_logger().fatal(f"defect in the node, the process ends:\n{text}")
        self.health.failed("defect", Level.ERROR, f"{type(error).__name__}: {error}", lasting=True)
        self.report()
        self.ended.set()

    def stop(self) -> None:
        """Called from main on SIGINT and SIGTERM: ends what runs and answers every call; the transitions
        follow.
        """
        self.stopping.set()
        if self._worker:
            self._worker.cancel_all("the node is stopping")

    def destroy_node(self) -> None:
        """Leave the graph now. rclpy's lifecycle state machine would keep the node, and with it the
        middleware's shared memory, which stays behind when the process ends without Python's cleaning up.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    @property
    def engine_thread_alive(self) -> bool:
        return self._worker is not None and self._worker.alive

    @property
    def pending_calls(self) -> int:
        return self._pending_calls

    # -- services and parameters -------------------------------------------------------------------

    def _asked(self, targets: tuple[str, ...], prompt_id: int) -> Asked:
        """Raises InvalidInput for phrases no prompt can hold."""
        return Asked(LOOKING_FOR[self.config.task](tuple(targets)), prompt_id)

    def _stream_asks(self) -> Asked | None:
        """What the stream asks; None without targets."""
        return self._asked(self._targets, self._prompt_id) if self._targets else None

    def _stream(self) -> None:
        """Tell the worker what the stream should do now."""
        if self._worker and self._camera:
            self._worker.stream(self._stream_asks() if self._enabled else None, self.config.generation.deadline)
        self.health.fact("prompt", f"{self._prompt_id}: {', '.join(self._targets) or '(nothing)'}")
        self.health.fact("enabled", self._enabled)

    def _changed(self, config: Config) -> None:
        self._stream()

    def _on_set_prompt(self, asked, response):
        targets = tuple(asked.targets)
        try:
            self._needs("configured", self.health.state not in ("unconfigured", "finalized"))
            if targets:
                self._asked(targets, 0)
        except PerceptionError as error:
            response.success, response.message, response.prompt_id = False, str(error), self._prompt_id
            return response
        self._targets = targets
        self._prompt_id += 1
        self._stream()
        response.success, response.prompt_id = True, self._prompt_id
        response.message = f"looking for {', '.join(targets)}" if targets else "the stream is paused"
        self.get_logger().info(f"prompt {self._prompt_id}: {response.message}")
        return response

    def _on_enable(self, asked, response):
        try:
            self._needs("configured", self.health.state not in ("unconfigured", "finalized"))
        except PerceptionError as error:
            response.success, response.message = False, str(error)
            return response
        self._enabled = asked.data
        self._stream()
        response.success, response.message = True, "the stream is " + ("on" if asked.data else "off")
        return response

    def _needs(self, state: str, reached: bool) -> None:
        if not reached:
            raise NotReady(f"the node is {self.health.state}, not {state}; use its lifecycle transitions first")

    async def _on_detect(self, asked, response):
        error, answer = None, None
        self._pending_calls += 1
        try:
            answer = await self._call(asked)
        except PerceptionError as refused:
            error = refused
        finally:
            self._pending_calls -= 1
        if answer:
            response.detections_2d, response.detections_3d = answer.detections_2d, answer.detections_3d
            response.grasp_targets, response.generation = answer.grasp_targets, answer.generation
            error = answer.error
        response.success, response.message = error is None, _describe(error) if error else answer.summary
        return response

    def _call(self, asked) -> Future:
        """A future of a Reply. Raises PerceptionError when the call cannot even wait."""
        self._needs("active", self._worker is not None and self._camera is not None and not self.stopping.is_set())
        targets, prompt_id = (tuple(asked.targets), 0) if asked.targets else (self._targets, self._prompt_id)
        if not asked.timeout >= 0:
            raise InvalidInput(f"timeout {asked.timeout} must be 0 or more seconds")
        wanted = self._asked(targets, prompt_id)
        future = Future(executor=self.executor)
        # A coroutine waiting for a future does not wake the executor by itself; a callback on that future
        # does.
        future.add_done_callback(lambda _: None)

        def answer(result: Reply | None, error: Exception | None) -> None:
            future.set_exception(error) if error else future.set_result(result)

        self._worker.submit(Call(wanted, min(asked.timeout, 1e6) or self.config.request_timeout, answer))
        return future

    def _clock_jumped(self, jump) -> None:
        """The clock went back, as when a bag starts again: nothing stamped before belongs to what comes now."""
        if self._mailbox:
            self._mailbox.restart()
        if self._transforms:
            self._transforms.clear()
        self.get_logger().info("the clock jumped back: images, depth and transforms of before are forgotten")

    def _age_s(self, stamp_ns: int) -> float:
        return (self.get_clock().now().nanoseconds - stamp_ns) / 1e9

    def _patience_s(self, stamp_ns: int) -> float:
        """A fifth of max_age is left for the engine's thread to take the image."""
        return 0.8 * self.config.max_age - self._age_s(stamp_ns)

    # -- diagnostics -------------------------------------------------------------------------------

    def report(self) -> None:
        """Publish /diagnostics now."""
        counters = {}
        if self._worker:
            counters = {
                "dropped: stale": self._worker.counts.stale,
                "dropped: replaced by a newer": self._mailbox.superseded,
                "cancelled for a call": self._worker.counts.preempted,
                "images": self._mailbox.images,
            }
            self._watch_staleness()
        if self._camera:
            topic = self._camera.image_topic
            self.health.fact("image topic", f"{topic}, {self.count_publishers(topic)} publishers")
        for name, value in self._engine_status().items():
            self.health.fact(name, value)
        self._diagnostics.publish(self.health.verdict(counters))

    def _watch_staleness(self) -> None:
        """Warn while images are dropped for their age."""
        stale = self._worker.counts.stale
        if stale > self._stale_seen:
            self.health.problem(
                "age",
                Level.WARN,
                f"{stale - self._stale_seen} images were older than max_age ({self.config.max_age:g} s) when "
                "their turn came; is the camera's clock right?",
            )
        self._stale_seen = stale


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
