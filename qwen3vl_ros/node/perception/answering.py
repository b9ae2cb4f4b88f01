"""One job of the engine, whole: capture -> frame -> generation -> scene -> messages, and every way it can fail.

Runs on the engine's thread alone. Errors this package raises on purpose are counted, logged and published
here; any other escapes, and ends the process.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Mapping

from qwen3vl_ros.control import Control
from qwen3vl_ros.convert import frame_id_of, rgb_of, stamp_ns
from qwen3vl_ros.engine.base import Prompt, Upcoming
from qwen3vl_ros.inspection.inspector import Outcome
from qwen3vl_ros.node.perception.agenda import Call, Job
from qwen3vl_ros.node.perception.channel import Channel
from qwen3vl_ros.node.perception.diagnostics import Health, Level
from qwen3vl_ros.node.perception.engine_thread import EngineThread
from qwen3vl_ros.node.perception.inspecting import Inspecting
from qwen3vl_ros.node.perception.publishers import Reply
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.text import text_of
from qwen3vl_ros.types import (
    Cancelled,
    DeadlinePassed,
    Frame,
    Generation,
    InvalidInput,
    MalformedAnswer,
    NotFound,
    OutOfResources,
    PerceptionError,
    Scene,
)
from qwen3vl_ros.zoom import joined

_GRASPS = 5  # of an object, in the answer to a call


class Answering:
    """`perform` for an EngineThread. health: the engine's. age_s(stamp_ns): by the node's clock."""

    def __init__(
        self,
        node,
        channels: Mapping[str, Channel],
        health: Health,
        age_s: Callable[[int], float],
        inspecting: Inspecting,
    ):
        self._inspecting = inspecting
        self._log, self._channels, self._engine_health, self._age_s = node.get_logger(), channels, health, age_s

    def connect(self, thread: EngineThread, transforms) -> None:
        """Before the first job; transforms may be None without a target_frame."""
        self._thread, self._transforms = thread, transforms

    def perform(self, perception: Perception, job: Job, control: Control) -> Any:
        """The answer of one job, published if it is the stream's; what a look came to, of an inspected point. The configuration of
        its beginning holds to its end.
        """
        if job.call and job.call.perform:
            return job.call.perform(perception, job, control)
        channel = self._channels[job.camera]
        camera, out, config = channel.camera, channel.out, channel.config()
        if camera is None:  # deactivated since the job was taken
            raise Cancelled("the node was deactivated")
        perception.config = config
        if job.asked.about:
            try:
                return self._look(perception, job, control)
            except Cancelled:
                raise
            except PerceptionError as error:
                self._report_error(channel.health, error)
                raise Cancelled(f"{type(error).__name__}: {error}") from error
        generation, question, prompt_id, zoom = None, job.asked.question, job.asked.prompt_id, job.asked.zoom
        try:
            with survivable("while answering"):
                frame, no_3d = camera.frame_of(job.snapshot, self._transforms)
                self._report_3d(channel.health, no_3d)
                self._inspecting.picture(job, frame)
                looks = perception.ask(frame, question, control, camera=job.camera, zoom=zoom)
                generation = joined([look.generation for look in looks])
                # The stream's own answers come too often for more than the first search.
                called = job.call is not None
                grasps = called or out.grasps_wanted
                most = _GRASPS if called else 1
                scene = perception.interpret(frame, question, looks, prompt_id, job.camera, zoom, grasps, called, most)
                if question.reads_text:
                    text = text_of(perception, frame, scene, control, job.camera)
                    self._report_translation(channel.health, text.note)
                    reply = out.read(scene, text, frame, config)
                else:
                    reply = out.reply(scene, frame, config, no_3d, grasps)
            self._report_scene(channel.health, scene)
        except Cancelled:
            raise
        except PerceptionError as error:
            self._report_error(channel.health, error)
            reply = out.failed(job.snapshot.image.header, prompt_id, generation, error)
        if job.call:
            self._finish(job.call, reply, generation)
        else:
            self._publish(job, reply, generation)
        return reply

    def upcoming_of(self, perception: Perception) -> Upcoming:
        """What its engine is told: the prompt that the job which runs will probably be followed by."""

        def upcoming() -> Callable[[], Prompt] | None:
            job = self._thread.upcoming()
            return job and partial(self._prompt_of, perception, job)

        return upcoming

    def _prompt_of(self, perception: Perception, job: Job) -> Prompt:
        """On a thread of the engine's."""
        image = job.snapshot.image
        rgb = rgb_of(image, self._channels[job.camera].config().max_image_pixels)
        frame = Frame(job.snapshot.stamp_ns, frame_id_of(image.header), rgb)
        return perception.prompt(frame, job.asked.question, job.camera)

    def _look(self, perception: Perception, job: Job, control: Control) -> Outcome:
        """At an inspected point."""
        channel = self._channels[job.camera]
        with survivable("while looking at a point"):
            frame, _ = channel.camera.frame_of(job.snapshot, self._transforms)
            self._inspecting.picture(job, frame)
            outcome = self._inspecting.look(perception, job, frame, control)
        if outcome.error is not None and not isinstance(outcome.error, NotFound):
            self._report_error(channel.health, outcome.error)
        else:
            channel.health.well("image")
            self._engine_health.well("engine")
        return outcome

    def _finish(self, call: Call, reply: Reply, generation: Generation | None) -> None:
        if reply.generation:
            reply.generation.latency_s = self._age_s(stamp_ns(reply.header))
        if (
            generation
            and generation.finish_reason == "deadline"
            and isinstance(reply.error, (DeadlinePassed, type(None)))
        ):
            read = reply.summary or "nothing could be read"
            reply.error = Cancelled(f"the deadline of {call.timeout_s:g} s passed; {read} until then")

    def _publish(self, job: Job, reply: Reply, generation: Generation | None) -> None:
        channel = self._channels[job.camera]
        with self._thread.publishing:
            if not self._thread.is_current(job.watch):
                return
            try:
                with survivable("while publishing an answer"):
                    channel.out.publish(reply, self._age_s(job.snapshot.stamp_ns))
            except OutOfResources as error:
                return self._report_error(channel.health, error)
        if reply.error is None:
            ids = frozenset(d.id for d in reply.scene.detections_2d)
            channel.answered = reply.scene.stamp_ns, job.asked.question.targets, ids
            channel.health.answered(reply.generation.latency_s, generation.total_s)

    # -- what diagnostics and the log are told -----------------------------------------------------

    def _report_3d(self, health: Health, reason: str) -> None:
        if reason:
            health.problem("3D", Level.WARN, f"no measured 3D: {reason}")
            self._log.warning(f"no measured 3D: {reason}", throttle_duration_sec=5.0)
        else:
            health.well("3D")

    def _report_translation(self, health: Health, note: str) -> None:
        if note:
            health.count("text not translated")
            health.problem("translation", Level.WARN, note)
            self._log.warning(note, throttle_duration_sec=5.0)
        else:
            health.well("translation")

    def _report_scene(self, health: Health, scene: Scene) -> None:
        health.well("image", "answer")
        self._engine_health.well("engine")
        if scene.truncated:
            health.count(f"cut short: {scene.generation.finish_reason}")
            health.problem(
                "length",
                Level.WARN,
                f"the answer was cut short after {len(scene.generation.token_ids)} tokens "
                f"({scene.generation.finish_reason}); see generation.* in the parameters",
            )
        if scene.dropped:
            health.count("unreadable objects", scene.dropped)

    def _report_error(self, health: Health, error: PerceptionError) -> None:
        kind = type(error).__name__
        about, level = "engine", Level.ERROR
        if isinstance(error, (InvalidInput, MalformedAnswer, DeadlinePassed)):
            about, level = "image" if isinstance(error, InvalidInput) else "answer", Level.WARN
        health.count("malformed" if isinstance(error, MalformedAnswer) else kind)
        where = self._engine_health if about == "engine" else health
        where.failed(about, level, f"{kind}: {error}", lasting=level is Level.ERROR)
        self._log.error(f"{kind}: {error}", throttle_duration_sec=2.0)
