"""The lifecycle node `perception`: its transitions, its parameters, its diagnostics.

It decides nothing about pictures: a channel holds what belongs to a camera, the agenda says what is done next,
answering makes messages of it, and this file makes and connects them.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
import traceback
from pathlib import Path
from typing import Callable

from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from qwen3vl_ros import threads
from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import Engine
from qwen3vl_ros.node.perception import inspecting
from qwen3vl_ros.node.perception.agenda import Agenda
from qwen3vl_ros.node.perception.answering import Answering
from qwen3vl_ros.node.perception.channel import STREAM, Channel, check_names
from qwen3vl_ros.node.perception.diagnostics import Health, Level
from qwen3vl_ros.node.perception.engine_thread import EngineThread
from qwen3vl_ros.node.perception.following import Following
from qwen3vl_ros.node.perception.mailbox import Snapshot
from qwen3vl_ros.node.perception.parameters import Parameters
from qwen3vl_ros.node.perception.publishers import DiagnosticsPublisher
from qwen3vl_ros.node.perception.services import NAMES, Services
from qwen3vl_ros.node.perception.tf import transforms_for
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.resources import survivable, told
from qwen3vl_ros.types import Cancelled, InvalidInput, OutOfResources, PerceptionError

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)
STOP_PATIENCE_S = 10.0  # for an engine to end its step, in a transition
LAST_PATIENCE_S = 2.0  # the same when the process is to end: launch kills after five
LOAD_REPORT_S = 5.0
NAME_CHARACTERS = 48  # of a model, in the log's one line about the engine


def _transition(name: str):
    """rclpy swallows an exception in a transition; a defect must be seen, and end the process."""

    def wrap(method):
        @functools.wraps(method)
        def run(self, state):
            self._enter(name)
            try:
                result, settled = method(self)
            except Exception as error:
                self.die(error)
                return ERROR
            self._enter(settled)
            self.report()
            return result

        return run

    return wrap


class PerceptionNode(LifecycleNode):
    """engine_loader(config) -> Engine. `failure` is set when the process must end with an error."""

    def __init__(self, engine_loader: Callable[[Config], Engine], **kwargs):
        super().__init__("perception", **{"namespace": "qwen3vl", **kwargs})
        self._engine_loader = engine_loader
        self._engine_status: Callable[[], dict[str, str]] = dict
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self.ended = threading.Event()
        self.engine_thread: EngineThread | None = None
        self.following: Following | None = None
        self._agenda: Agenda | None = None
        self._perception: Perception | None = None
        self._engine_line = ""
        self.transforms = None
        self._offered: Services | None = None  # none yet where a wrong parameter ends the start
        self._prompt_ids, self._object_ids = itertools.count(1), itertools.count(1)
        self._settings = Parameters(self, lambda: not self.configured, self._stream_all)
        check_names(self, self.config.cameras, (*NAMES, *inspecting.NAMES))
        self.health = Health(of_camera=not self.config.cameras)
        self._channels: dict[str, Channel] = {}
        for name in self.config.cameras or ("",):
            health = Health(of_engine=False) if name else self.health
            settings = functools.partial(self._settings.of, name)
            self._channels[name] = Channel(self, name, settings, health, self._age_s)
        self._diagnostics = DiagnosticsPublisher(self)
        self.create_timer(self.config.diagnostics_period, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        any_step_back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jumps = self.get_clock().create_jump_callback(any_step_back, post_callback=self._clock_jumped)
        self._offered = Services(self, self._channels)
        self._inspecting = inspecting.Inspecting(self, self._channels)

    @property
    def config(self) -> Config:
        return self._settings.config

    @property
    def configured(self) -> bool:
        """Whether there are parameters in force and, once it is loaded, an engine."""
        return self.health.state not in ("unconfigured", "finalized")

    @property
    def active(self) -> bool:
        """Whether calls may be made."""
        return not self.stopping.is_set() and all(channel.camera for channel in self._channels.values())

    # -- transitions -------------------------------------------------------------------------------

    @_transition("configuring")
    def on_configure(self):
        changed = threading.Condition(threading.RLock())
        following = Following(self._channels, self._object_ids, self.die)
        for channel in self._channels.values():
            try:
                channel.configure(changed, self.next_prompt_id(), functools.partial(self._arrived, following))
            except InvalidInput as error:
                of_camera = f"camera.{channel.name}." if channel.name else ""
                return self._not_configured(f"parameter {of_camera}targets: {error}")
        try:
            self._inspecting.configure()
        except PerceptionError as error:
            return self._not_configured(f"parameter inspection.file: {error}")
        config = self.config
        self._agenda = Agenda(
            {name: channel.mailbox for name, channel in self._channels.items()},
            self._age_s,
            lambda camera: self._settings.of(camera).max_age,
            lambda: self.config.request_queue,
            lambda: self.config.request_timeout_max,
        )
        answering = Answering(self, self._channels, self.health, self._age_s, self._inspecting)
        try:
            with survivable("while starting the engine's threads"):
                self.engine_thread = EngineThread(
                    lambda: self._load(config, following),
                    answering.perform,
                    lambda perception: perception.engine.close(),
                    self._agenda,
                    changed,
                    self.die,
                )
        except OutOfResources as error:
            self._agenda = None
            return self._not_configured(str(error))
        self.get_logger().info(f"loading the model ({config.model or 'embedded'}, {config.engine}, {config.device})")
        error = self._wait_for_load()
        if error is not None:
            if self.engine_thread.loaded.is_set():
                self.engine_thread = self._agenda = None
            if not isinstance(error, PerceptionError):
                raise error
            return self._not_configured(f"the model could not be loaded: {error}")
        self.health.well("configure")
        self.get_logger().info(self._engine_line)
        for channel in self._channels.values():
            channel.open()
        if config.robot_frame or any(channel.config().target_frame for channel in self._channels.values()):
            self.transforms = transforms_for(self)
            self.health.fact("transforms", self.transforms.name)
        answering.connect(self.engine_thread, self.transforms)
        self._perception.engine.upcoming = answering.upcoming_of(self._perception)
        self.following = following
        try:
            with survivable("while starting the thread that follows objects"):
                following.start(self.transforms)
        except OutOfResources as error:
            self._free()
            return self._not_configured(str(error))
        return SUCCESS, "inactive"

    def _not_configured(self, reason: str):
        self.health.failed("configure", Level.ERROR, reason, lasting=True)
        self.get_logger().error(f"configure failed: {reason}")
        return FAILURE, "unconfigured"

    def _arrived(self, following: Following, camera: str, snapshot: Snapshot) -> None:
        """Every image of every camera, for those who want more than the newest."""
        following.offer(camera, snapshot)
        self._inspecting.offer(camera, snapshot)

    def _load(self, config: Config, following: Following) -> Perception:
        engine = self._engine_loader(config)
        self._engine_status = engine.status
        i = engine.info
        size = ", ".join(filter(None, (i.device, i.dtype, i.size)))
        self._engine_line = f"the engine: {i.runtime}, {Path(i.model).name[:NAME_CHARACTERS]}, {size}"
        self.health.engine = f"{i.runtime}, {i.model}, {size} ({i.why})"
        self.health.fact("threads", threads.settle())
        self._perception = Perception(engine, config, self._object_ids, following.tracks, following.world)
        return self._perception

    def _wait_for_load(self) -> BaseException | None:
        """Until the engine's thread has loaded, saying so; None or what went wrong."""
        started, said = time.monotonic(), 0.0
        while not self.engine_thread.loaded.wait(0.1):
            if self.stopping.is_set():
                return Cancelled("the node was asked to stop while the model was loading")
            waited = time.monotonic() - started
            if waited - said >= LOAD_REPORT_S:
                said = waited
                self.get_logger().info(f"still loading the model, {waited:.0f} s")
                self.report()
        error = self.engine_thread.load_error
        return error and told(error, "while loading the model")

    @_transition("activating")
    def on_activate(self):
        for channel in self._channels.values():
            channel.subscribe()
        self._stream_all()
        self._inspecting.watch_all()
        for channel in self._channels.values():
            self.get_logger().info(f"active: {channel.camera.image_topic}, looking for {channel.subject or 'nothing'}")
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

    def _enter(self, state: str) -> None:
        for health in {self.health, *(channel.health for channel in self._channels.values())}:
            health.enter(state)

    def _unsubscribe(self, reason: str, wait: bool = True) -> None:
        self._offered.stop(reason)
        for channel in self._channels.values():
            channel.unsubscribe()
        if self.engine_thread:
            self.engine_thread.cancel_all(reason)
            if wait and not self.engine_thread.wait_idle(STOP_PATIENCE_S):
                self.get_logger().warning("the engine has not stopped yet; its answer will be thrown away")

    def _free(self) -> bool:
        """Free the engine and the entities of configure; False if the engine's thread did not end."""
        if self.engine_thread:
            patience_s = LAST_PATIENCE_S if self.stopping.is_set() else STOP_PATIENCE_S
            if not self.engine_thread.loaded.is_set():
                patience_s = 0.2  # a load cannot be interrupted
            if not self.engine_thread.stop(patience_s):
                self.get_logger().warning("the engine did not stop in time; its memory is freed when the process ends")
                return False
        if self.following:
            self.following.stop()
        self.engine_thread = self._agenda = self._perception = self.following = None
        self._offered.forget()
        self._engine_status = dict
        for channel in self._channels.values():
            channel.close()
        self._inspecting.close()
        if self.transforms:
            self.transforms.close()
        self.transforms = None
        return True

    def die(self, error: BaseException) -> None:
        """A defect: say so as loudly as possible, then let main end the process. Any thread."""
        self.failure = error
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.get_logger().fatal(f"defect in the node, the process ends:\n{text}")
        self.health.failed("defect", Level.ERROR, f"{type(error).__name__}: {error}", lasting=True)
        self.report()
        self.ended.set()

    def ran_out(self, error: BaseException) -> None:
        """Something ran out while a message was taken: it is lost, the next may not be. The executor's thread."""
        self.get_logger().error(str(error), throttle_duration_sec=2.0)
        self.health.failed("resources", Level.ERROR, f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """Called from main on SIGINT and SIGTERM: ends what runs and answers every call; the transitions
        follow.
        """
        self.stopping.set()
        self._offered.stop("the node is stopping")
        if self.engine_thread:
            self.engine_thread.cancel_all("the node is stopping")

    def destroy_node(self) -> None:
        """Leave the graph now. rclpy's lifecycle state machine would keep the node, and with it the
        middleware's shared memory, which stays behind when the process ends without Python's cleaning up.
        """
        if self._offered:
            self._offered.close()
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    @property
    def engine_thread_alive(self) -> bool:
        return self.engine_thread is not None and self.engine_thread.alive

    @property
    def pending_calls(self) -> int:
        return self._offered.pending

    # -- what the streams do -----------------------------------------------------------------------

    def next_prompt_id(self) -> int:
        """No two prompts of the node's life have the same, whatever their cameras."""
        return next(self._prompt_ids)

    def stream(self, channel: Channel) -> None:
        """Have the engine do what the channel says now."""
        if self.engine_thread and channel.camera:
            if watch := channel.watch():
                self.engine_thread.watch(watch)
            else:
                self.engine_thread.unwatch(channel.name, STREAM)

    def _stream_all(self) -> None:
        for channel in self._channels.values():
            self.stream(channel)

    def _clock_jumped(self, jump) -> None:
        """The clock went back, as when a bag starts again: nothing stamped before belongs to what comes now."""
        for channel in self._channels.values():
            if channel.mailbox:
                channel.mailbox.restart()
        if self.transforms:
            self.transforms.clear()
        if self.following:
            self.following.restart()
        if perception := self._perception:
            perception.forget()
        self.get_logger().info("the clock jumped back: images, depth, transforms and tracks of before are forgotten")

    def _age_s(self, stamp_ns: int) -> float:
        return (self.get_clock().now().nanoseconds - stamp_ns) / 1e9

    # -- diagnostics -------------------------------------------------------------------------------

    def report(self) -> None:
        """Publish /diagnostics now."""
        for name, value in self._engine_status().items():
            self.health.fact(name, value)
        if thread := self.engine_thread:
            self._inspecting.report_health(thread.behind())
        statuses = {} if "" in self._channels else {"": self.health.status()}
        dropped = self.following.dropped if self.following else {}
        statuses |= {name: channel.status(self._agenda, dropped) for name, channel in self._channels.items()}
        self._diagnostics.publish(statuses)
