"""~/measure and ~/ask: questions whose answers rest on facts. Each is one call of the agenda, made on the engine's thread.

The executor's thread only takes goals and hands out what comes of them; feedback leaves on the engine's thread, between two tokens.
Sessions belong to that thread too.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Callable, Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future

from qwen3vl_ros.action import Ask
from qwen3vl_ros.asking import Asker, Code, Measurement, Outcome, Sessions, Shot
from qwen3vl_ros.asking.sessions import MAX_NAME_CHARS
from qwen3vl_ros.control import Control
from qwen3vl_ros.convert import frame_id_of, rgb_of, stamp_ns
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.perception.agenda import Call, Job
from qwen3vl_ros.node.perception.channel import Channel
from qwen3vl_ros.node.perception.mailbox import Snapshot
from qwen3vl_ros.node.perception.tf import TransformUnavailable
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import phrases
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.srv import Measure
from qwen3vl_ros.tracking.track import FRESH
from qwen3vl_ros.types import Cancelled, DeadlinePassed, Frame, InvalidInput, PerceptionError, StaleFrame, quoted

NAMES = ("measure", "ask")
MAX_IMAGES, MAX_FACTS = 16, 256
FOLLOWED_NS = 200_000_000  # a track this far from a picture's stamp was followed to it
SEEN_NS = 2_000_000_000  # what no answer saw for longer is looked for again
STILL_M_S = 0.03
FEEDBACK_S = 0.05  # parts of an answer that come faster go out together


def serve_action(node, kind, name: str, do, cancel) -> ActionServer:
    """An action that takes every goal: what is wrong with one, its result says in words."""
    return ActionServer(
        node,
        kind,
        name,
        execute_callback=do,
        goal_callback=lambda _: GoalResponse.ACCEPT,
        cancel_callback=cancel,
        callback_group=ReentrantCallbackGroup(),
        result_timeout=int(node.config.ask.result_timeout),
    )


class Asking:
    """Of a PerceptionNode, from its making to close(). needs_active(): raises PerceptionError where no call may be made. channel_of:
    the Channel that a name of a camera means, for a service of all cameras. pending: goals and calls that were not answered yet.
    """

    def __init__(
        self,
        node,
        channels: Mapping[str, Channel],
        needs_active: Callable[[], None],
        channel_of: Callable[[str], Channel],
        qos,
    ):
        self._node, self._channels = node, channels
        self._needs_active, self._channel_of = needs_active, channel_of
        self._sessions = self._new_sessions()
        self._calls: dict[bytes, Call] = {}  # of goals, by their id
        self.pending = 0
        group = ReentrantCallbackGroup()
        node.create_service(Measure, "~/measure", self._on_measure, qos_profile=qos, callback_group=group)
        self._server = serve_action(node, Ask, "~/ask", self._on_ask, self._on_cancel)

    def close(self) -> None:
        self._server.destroy()

    def forget(self) -> None:
        """End all sessions: the engine is another."""
        self._sessions = self._new_sessions()

    def _new_sessions(self) -> Sessions:
        return Sessions(
            lambda: self._node.config.ask.session_timeout, lambda: int(self._node.config.ask.session_memory * 2**20)
        )

    # -- ~/measure -------------------------------------------------------------------------------------------------------

    async def _on_measure(self, asked, response):
        error, result = None, None
        self.pending += 1
        try:
            with survivable("while taking a call"):
                call, future = self._measure_call(asked)
                self._node.engine_thread.submit(call)
            result = await future
        except PerceptionError as refused:
            error = refused
        finally:
            self.pending -= 1
        response.success, response.message = error is None, f"{type(error).__name__}: {error}" if error else ""
        if result is not None:
            frame, told = result
            config = self._channel_of(asked.camera).config()
            header, header_3d = headers_of(frame, config.target_frame)
            response.facts = [messages.fact(f) for f in told.facts]
            response.detections_2d = messages.detections_2d(header, told.detections_2d)
            response.detections_3d = messages.detections_3d(header_3d, in_frame(told.detections_3d, header_3d))
        return response

    def _measure_call(self, asked) -> tuple[Call, Future]:
        self._needs_active()
        channel = self._channel_of(asked.camera)
        if not asked.facts:
            raise InvalidInput("facts is empty; ask for at least one, its relation and its arguments")
        if len(asked.facts) > MAX_FACTS:
            raise InvalidInput(f"{len(asked.facts)} facts were asked, more than {MAX_FACTS}; ask for fewer at a time")
        wanted = [messages.asked_fact(f) for f in asked.facts]
        future, answer = self.future()

        def perform(perception: Perception, job: Job, control: Control) -> tuple[Frame, Measurement]:
            with survivable("while measuring"):
                shot = self.shot(channel, job.snapshot)
                perception.config = channel.config()
                return shot.frame, Asker(perception).measure(shot, wanted, control)

        call = Call(
            channel.name,
            None,
            self.timeout_s(asked.timeout),
            answer,
            newer_than_ns=nanoseconds(asked.newer_than),
            perform=told_errors(perform),
        )
        return call, future

    # -- ~/ask -----------------------------------------------------------------------------------------------------------

    def _on_cancel(self, goal) -> CancelResponse:
        call, thread = self._calls.get(bytes(goal.goal_id.uuid)), self._node.engine_thread
        if call is not None and thread is not None:
            thread.cancel(call, "the goal was cancelled")
        return CancelResponse.ACCEPT

    async def _on_ask(self, goal):
        error, result, call, key = None, None, None, bytes(goal.goal_id.uuid)
        self.pending += 1
        try:
            if goal.is_cancel_requested:
                raise Cancelled("the goal was cancelled")
            with survivable("while taking a goal"):
                call, future = self._ask_call(goal)
                self._calls[key] = call
                self._node.engine_thread.submit(call)
            result = await future
        except PerceptionError as refused:
            error = refused
        finally:
            self.pending -= 1
            self._calls.pop(key, None)
        message = self._result(*result) if result is not None else _failed(error, call, goal.is_cancel_requested)
        if goal.is_cancel_requested and result is None:
            goal.canceled()
        elif message.code in (Ask.Result.OK, Ask.Result.NOT_FOUND, Ask.Result.AMBIGUOUS, Ask.Result.NO_DEPTH):
            goal.succeed()
        else:
            goal.abort()
        return message

    def _ask_call(self, goal) -> tuple[Call, Future]:
        self._needs_active()
        request = goal.request
        question = phrases.checked_question(request.question)
        if request.images and request.cameras:
            raise InvalidInput(
                "cameras and images are both given; name cameras for their newest pictures, or give pictures"
            )
        if len(request.images) > MAX_IMAGES:
            raise InvalidInput(f"{len(request.images)} images were given, more than {MAX_IMAGES}; give fewer")
        if len(request.session) > MAX_NAME_CHARS:
            raise InvalidInput(f"session has {len(request.session)} characters, more than {MAX_NAME_CHARS}; shorten it")
        view = _checked_view(request.view)
        names = list(dict.fromkeys(request.cameras)) or [""]
        own = [next(iter(self._channels.values()))] if request.images else [self._channel_of(name) for name in names]
        future, answer = self.future()
        feedback = _Feedback(goal)

        def perform(perception: Perception, job: Job, control: Control) -> tuple[Sequence[Shot], Outcome]:
            with survivable("while answering"):
                perception.config = own[0].config()
                if request.images:
                    shots = [_given(image, perception.config.max_image_pixels) for image in request.images]
                else:
                    shots = [self.shot(c, s) for c, s in zip(own, (job.snapshot, *job.also))]
                session = self._sessions.get(request.session)
                outcome = Asker(perception).ask(shots, question, session, view, request.measure, control, feedback.add)
                feedback.flush()
                self._sessions.keep(request.session, session)
                return shots, outcome

        call = Call(
            own[0].name,
            None,
            self.timeout_s(request.timeout),
            answer,
            also=tuple(c.name for c in own[1:]),
            pictured=not request.images,
            perform=told_errors(perform),
        )
        return call, future

    def _result(self, shots: Sequence[Shot], outcome: Outcome) -> Ask.Result:
        result = Ask.Result(
            code=int(outcome.code),
            message=outcome.message,
            answer=outcome.answer,
            understood_by=int(outcome.understood_by),
            asked=outcome.asked,
            find=list(outcome.find),
            worded_by=int(outcome.worded_by),
            model_answer=outcome.model_answer,
            disagreement=outcome.disagreement,
            facts=[messages.fact(f) for f in outcome.facts],
        )
        for shot, flat, solid in zip(shots, outcome.detections_2d, outcome.detections_3d):
            channel = self._channels.get(shot.camera)
            header, header_3d = headers_of(shot.frame, channel.config().target_frame if channel else "")
            result.detections_2d.append(messages.detections_2d(header, flat))
            result.detections_3d.append(messages.detections_3d(header_3d, in_frame(solid, header_3d)))
        if outcome.generation is not None:
            header, _ = headers_of(shots[0].frame, "")
            result.generation = messages.generation(header, outcome.generation, 0)
        return result

    # -- parts of both ---------------------------------------------------------------------------------------------------

    def future(self) -> tuple[Future, Callable[[Any, Exception | None], None]]:
        """A future that wakes the executor, and what answers it from any thread."""
        future = Future(executor=self._node.executor)
        future.add_done_callback(lambda _: None)  # without one the coroutine that waits would not be resumed

        def answer(result: Any, error: Exception | None) -> None:
            if error is None and isinstance(result, PerceptionError):
                error = result
            future.set_exception(error) if error else future.set_result(result)

        return future, answer

    def timeout_s(self, asked_s: float) -> float:
        return self._node.config.request_timeout if asked_s == 0 else asked_s

    def shot(self, channel: Channel, snapshot: Snapshot) -> Shot:
        """A capture with what is known beside it. The engine's thread."""
        camera, config = channel.camera, channel.config()
        if camera is None:
            raise Cancelled("the node was deactivated")
        frame, lacks = camera.frame_of(snapshot, self._node.transforms)
        no_pose = bool(config.target_frame) and frame.target_T_camera is None
        stale = channel.mailbox.had_depth and (snapshot.depth is None or camera.depth_is_frozen)
        now_ns = self._node.get_clock().now().nanoseconds
        known, answered = self._known(channel, frame)
        return Shot(
            frame,
            channel.name,
            lacks,
            stale,
            no_pose,
            known,
            answered,
            max(now_ns, frame.stamp_ns),
            self.robot_at(frame.target_frame or frame.frame_id, frame.stamp_ns),
        )

    def _known(self, channel: Channel, frame: Frame) -> tuple[tuple[Thing, ...], tuple[str, ...]]:
        """What this camera shows that need not be looked for again: seen by the stream's last answer, followed to this picture, and
        standing still; and the phrases of the stream, where that is all that it saw.
        """
        following, (stamp_ns, targets, ids) = self._node.following, channel.answered
        if following is None:
            return (), ()
        following.ask()
        frame_id, known = frame.target_frame or frame.frame_id, {}
        for o in following.world.objects:
            here = [name for camera, name in o.tracks if camera == channel.name]
            late_ns = frame.stamp_ns - o.stamp_ns
            fresh = o.state == FRESH and o.frame_id == frame_id and abs(late_ns) <= FOLLOWED_NS
            still = float(np.linalg.norm(o.velocity_m_s)) < STILL_M_S and 0 <= frame.stamp_ns - o.seen_ns <= SEEN_NS
            if here and fresh and still and o.thing is not None:
                known |= {name: replace(o.thing, id=name) for name in here}
        whole = 0 <= frame.stamp_ns - stamp_ns <= SEEN_NS and targets == channel.targets and ids <= known.keys()
        return tuple(known.values()), targets if whole and ids else ()

    def robot_at(self, result_frame: str, stamp_ns: int):
        """Pose of the robot's base in the frame of the results, 4x4, None where nobody knows it."""
        robot, transforms = self._node.config.robot_frame.lstrip("/"), self._node.transforms
        if not robot or transforms is None:
            return None
        try:
            return transforms.lookup(result_frame, robot, stamp_ns)
        except TransformUnavailable:
            return None


class _Feedback:
    """Parts of an answer on their way out, with where each begins; small ones together. The engine's thread."""

    def __init__(self, goal):
        self._goal, self._offset, self._waiting, self._sent_s = goal, 0, "", 0.0

    def add(self, text: str) -> None:
        self._waiting += text
        if time.monotonic() - self._sent_s >= FEEDBACK_S:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._goal.publish_feedback(Ask.Feedback(offset=self._offset, delta=self._waiting))
            self._offset, self._waiting, self._sent_s = self._offset + len(self._waiting), "", time.monotonic()


def told_errors(perform: Callable[[Perception, Job, Control], Any]) -> Callable[[Perception, Job, Control], Any]:
    """What goes wrong as expected is the call's answer; anything else is a defect, and escapes."""

    def told(perception: Perception, job: Job, control: Control) -> Any:
        try:
            return perform(perception, job, control)
        except Cancelled:
            raise
        except PerceptionError as error:
            return error

    return told


def _failed(error: PerceptionError, call: Call | None, cancelled: bool) -> Ask.Result:
    if cancelled:
        code = Code.CANCELLED
    elif isinstance(error, StaleFrame):
        code = Code.STALE
    elif isinstance(error, DeadlinePassed) or (call is not None and time.monotonic() >= call.deadline_s):
        code = Code.TIMEOUT
    else:
        code = Code.CANCELLED if isinstance(error, Cancelled) else Code.ERROR
    return Ask.Result(code=int(code), message=f"{type(error).__name__}: {error}")


def _given(image, max_pixels: int) -> Shot:
    frame = Frame(stamp_ns(image.header), frame_id_of(image.header), rgb_of(image, max_pixels))
    return Shot(frame, "given", "a picture that was given has no depth; ask of a camera to have things measured")


def _checked_view(view: str) -> str:
    view = view.strip()
    if view not in ("", "viewer", "robot") and not (view.startswith("object:") and view != "object:"):
        raise InvalidInput(f"view {quoted(view)} is unknown; known are viewer, robot and object:<id>")
    return view


def headers_of(frame: Frame, target_frame: str):
    """Of 2D results, and of 3D ones."""
    return (messages.header_of(frame.stamp_ns, name) for name in (frame.frame_id, target_frame or frame.frame_id))


def in_frame(detections, header):
    """3D that is not in the promised frame is left out, never relabelled."""
    return [d for d in detections if d.frame_id.lstrip("/") == header.frame_id]


def nanoseconds(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


assert all(getattr(Ask.Result, code.name) == code for code in Code)
