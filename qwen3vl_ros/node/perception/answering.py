"""One task of the engine's thread, whole: capture -> frame -> generation -> scene -> messages, and every way
it can fail.

Runs on the engine's thread alone. Errors this package raises on purpose are counted, logged and published
here; any other escapes, and ends the process.
"""

from __future__ import annotations

from typing import Callable

from qwen3vl_ros.config import Config
from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.node.perception.camera import Camera
from qwen3vl_ros.node.perception.diagnostics import Health, Level
from qwen3vl_ros.node.perception.publishers import Publishers, Reply
from qwen3vl_ros.node.perception.worker import Call, Task, Worker
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.types import Cancelled, Generation, InvalidInput, MalformedAnswer, PerceptionError, Scene


class Answering:
    """`perform` for a Worker. camera is None while the node is not active. age_s(stamp_ns): by the node's
    clock.
    """

    def __init__(self, node, health: Health, config: Callable[[], Config], age_s: Callable[[int], float]):
        self._log, self._health, self._config, self._age_s = node.get_logger(), health, config, age_s
        self.camera: Camera | None = None

    def connect(self, worker: Worker, publishers: Publishers, transforms) -> None:
        """Before the first task; transforms may be None without a target_frame."""
        self._worker, self._out, self._transforms = worker, publishers, transforms

    def perform(self, perception: Perception, task: Task) -> None:
        """Answer one task. The configuration of its beginning holds to its end."""
        camera, config = self.camera, self._config()
        if camera is None:  # deactivated since the task was taken, which answered its call
            return
        perception.config = config
        generation = None
        try:
            frame, no_3d = camera.frame_of(task.snapshot, self._transforms)
            self._report_3d(no_3d)
            generation = perception.generate(frame, task.asked.question, task.control)
            scene = perception.interpret(frame, task.asked.question, generation, task.asked.prompt_id)
            reply = self._out.reply(scene, frame, config, no_3d)
            self._report_scene(scene)
        except Cancelled as error:
            if task.call:
                task.call.finish(error=error)
            return
        except PerceptionError as error:
            self._report_error(error)
            reply = self._out.failed(task.snapshot.image.header, task.asked.prompt_id, generation, error)
        if task.call:
            self._answer_call(task.call, reply, generation)
        else:
            self._publish(task, reply, generation)

    def _answer_call(self, call: Call, reply: Reply, generation: Generation | None) -> None:
        if reply.generation:
            reply.generation.latency_s = self._age_s(stamp_ns(reply.header))
        if reply.error is None and generation.finish_reason == "deadline":
            reply.error = Cancelled(f"the deadline of {call.timeout_s:g} s passed; {reply.summary} until then")
        call.finish(reply)

    def _publish(self, task: Task, reply: Reply, generation: Generation | None) -> None:
        with self._worker.publishing:
            if not self._worker.is_current(task):
                return
            self._out.publish(reply, self._age_s(task.snapshot.stamp_ns))
        if reply.error is None:
            self._health.answered(reply.generation.latency_s, generation.total_s)

    # -- what diagnostics and the log are told -----------------------------------------------------

    def _report_3d(self, reason: str) -> None:
        if reason:
            self._health.problem("3D", Level.WARN, f"no measured 3D: {reason}")
            self._log.warning(f"no measured 3D: {reason}", throttle_duration_sec=5.0)
        else:
            self._health.well("3D")

    def _report_scene(self, scene: Scene) -> None:
        self._health.well("image", "answer", "engine")
        if scene.truncated:
            self._health.count(f"cut short: {scene.generation.finish_reason}")
            self._health.problem(
                "length",
                Level.WARN,
                f"the answer was cut short after {len(scene.generation.token_ids)} tokens "
                f"({scene.generation.finish_reason}); see generation.* in the parameters",
            )
        if scene.dropped:
            self._health.count("unreadable objects", scene.dropped)

    def _report_error(self, error: PerceptionError) -> None:
        kind = type(error).__name__
        about, level = "engine", Level.ERROR
        if isinstance(error, (InvalidInput, MalformedAnswer)):
            about, level = "image" if isinstance(error, InvalidInput) else "answer", Level.WARN
        self._health.count("malformed" if isinstance(error, MalformedAnswer) else kind)
        self._health.failed(about, level, f"{kind}: {error}", lasting=level is Level.ERROR)
        self._log.error(f"{kind}: {error}", throttle_duration_sec=2.0)
