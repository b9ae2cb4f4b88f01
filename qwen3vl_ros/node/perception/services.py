"""The services of the cameras: ~/set_prompt and ~/enable change what the stream does, ~/detect is one call, ~/track says where
something is that is followed.

They refuse, by name, what cannot be done; what is asked for is carried out by the channels and the engine's thread. Where
cameras have names, each has all three under its own, and ~/detect takes any camera.
"""

from __future__ import annotations

import functools
from typing import Mapping

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_srvs.srv import SetBool

from qwen3vl_ros.node import messages
from qwen3vl_ros.node.perception import asking, instructing
from qwen3vl_ros.node.perception.agenda import Asked, Call
from qwen3vl_ros.node.perception.channel import Channel
from qwen3vl_ros.node.perception.publishers import Reply
from qwen3vl_ros.questions import phrases
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.srv import Detect, SetPrompt, Track
from qwen3vl_ros.types import InvalidInput, PerceptionError, quoted
from qwen3vl_ros.zoom import WHOLE, Zoom

NAMES = ("set_prompt", "enable", "detect", "track", *asking.NAMES, *instructing.NAMES)
# A request that DDS throws away has no answer: thousands at once are kept until they are answered or refused.
CALLS = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)


class NotReady(PerceptionError):
    """The node's lifecycle state does not allow what was asked."""


class Services:
    """Of a PerceptionNode, from its making to close(). pending: calls that were not answered yet."""

    def __init__(self, node, channels: Mapping[str, Channel]):
        self._node, self._channels = node, channels
        self._detecting = 0
        for channel in channels.values():
            set_prompt, enable = (functools.partial(f, channel) for f in (self._on_set_prompt, self._on_enable))
            node.create_service(SetPrompt, f"{channel.own}set_prompt", set_prompt)
            node.create_service(SetBool, f"{channel.own}enable", enable)
            self._offer_detect(f"{channel.own}detect", channel)
        if "" not in channels:
            self._offer_detect("~/detect", None)
        node.create_service(Track, "~/track", self._on_track)
        any_channel = functools.partial(self._channel, None)
        self._asking = asking.Asking(node, channels, self._needs_active, any_channel, CALLS)
        self._instructing = instructing.Instructing(
            node, channels, self._needs_active, any_channel, self._asking, CALLS
        )

    @property
    def pending(self) -> int:
        return self._detecting + self._asking.pending + self._instructing.pending

    def close(self) -> None:
        """What rclpy does not end with the node."""
        self._asking.close()
        self._instructing.close()

    def stop(self, reason: str) -> None:
        """End what goes on by itself: an instruction that is being carried out."""
        self._instructing.stop(reason)

    def forget(self) -> None:
        """The engine is another: what was said to the last one is not known to it."""
        self._asking.forget()

    def _offer_detect(self, name: str, own: Channel | None) -> None:
        # A call waits for the engine without holding up anything else, hence a group of its own.
        group, on_detect = ReentrantCallbackGroup(), functools.partial(self._on_detect, own)
        self._node.create_service(Detect, name, on_detect, qos_profile=CALLS, callback_group=group)

    # -- the stream --------------------------------------------------------------------------------

    def _on_set_prompt(self, channel: Channel, asked, response):
        targets = tuple(asked.targets)
        try:
            self._needs("configured", self._node.configured)
            channel.check_prompt(targets)
        except PerceptionError as error:
            response.success, response.message, response.prompt_id = False, str(error), channel.prompt_id
            return response
        channel.targets, channel.prompt_id = targets, self._node.next_prompt_id()
        self._node.stream(channel)
        response.success, response.prompt_id = True, channel.prompt_id
        response.message = f"looking for {', '.join(targets)}" if targets else "the stream is paused"
        of_camera = f" of {channel.name}" if channel.name else ""
        self._node.get_logger().info(f"prompt {channel.prompt_id}{of_camera}: {response.message}")
        return response

    def _on_enable(self, channel: Channel, asked, response):
        try:
            self._needs("configured", self._node.configured)
        except PerceptionError as error:
            response.success, response.message = False, str(error)
            return response
        channel.enabled = asked.data
        self._node.stream(channel)
        response.success, response.message = True, "the stream is " + ("on" if asked.data else "off")
        return response

    def _needs(self, state: str, reached: bool) -> None:
        if not reached:
            raise NotReady(f"the node is {self._node.health.state}, not {state}; use its lifecycle transitions first")

    def _needs_active(self) -> None:
        self._needs("active", self._node.engine_thread is not None and self._node.active)

    # -- calls -------------------------------------------------------------------------------------

    async def _on_detect(self, own: Channel | None, asked, response):
        error, reply = None, None
        self._detecting += 1
        try:
            with survivable("while taking a call"):
                waiting = self._call(own, asked)
            reply = await waiting
        except PerceptionError as refused:
            error = refused
        finally:
            self._detecting -= 1
        if reply:
            for name in ("detections_2d", "detections_3d", "grasp_targets", "text", "generation"):
                if (
                    said := getattr(reply, name)
                ) is not None:  # None is no message: the middleware would end the process
                    setattr(response, name, said)
            error = reply.error
        response.success, response.message = error is None, _describe(error) if error else reply.summary
        return response

    def _call(self, own: Channel | None, asked) -> Future:
        """A future of a Reply. Raises PerceptionError when the call cannot even wait."""
        self._needs_active()
        channel = self._channel(own, asked.camera)
        question, zoom, prompt_id = channel.question(asked.targets, asked.task), _zoom(asked), channel.prompt_id
        if zoom != WHOLE or asked.targets or (asked.task and asked.task != channel.config().task):
            prompt_id = 0  # not the stream's
        future = Future(executor=self._node.executor)
        # A coroutine waiting for a future does not wake the executor by itself; a callback on that future
        # does.
        future.add_done_callback(lambda _: None)

        def answer(reply: Reply | None, error: Exception | None) -> None:
            future.set_exception(error) if error else future.set_result(reply)

        timeout_s = self._node.config.request_timeout if asked.timeout == 0 else asked.timeout
        self._node.engine_thread.submit(Call(channel.name, Asked(question, prompt_id, zoom), timeout_s, answer))
        return future

    def _channel(self, own: Channel | None, camera: str) -> Channel:
        """The camera that is meant. own: whose service was called. Raises InvalidInput."""
        names = ", ".join(self._channels)
        if camera and camera not in self._channels:
            known = f"the cameras are {names}" if names else "this node's one camera has no name; leave it empty"
            raise InvalidInput(f"camera {quoted(camera)} is unknown; {known}")
        if own is not None and camera and camera != own.name:
            raise InvalidInput(f"camera {quoted(camera)} has a service of its own; this is that of {own.name!r}")
        if own is None and not camera and len(self._channels) > 1:
            raise InvalidInput(f"camera is empty and there are several; name one of {names}")
        return self._channels[camera] if camera else own or next(iter(self._channels.values()))

    # -- what is followed --------------------------------------------------------------------------

    def _on_track(self, asked, response):
        following, target = self._node.following, asked.target.strip()
        try:
            self._needs("configured", following is not None)
            following.ask()
            if not target:
                raise InvalidInput("target is empty; give an id or a phrase")
            found = following.world.find(target)
            if not found:
                raise InvalidInput(self._why_unknown(following, target))
        except PerceptionError as error:
            response.success, response.message = False, _describe(error)
            return response
        now_ns = self._node.get_clock().now().nanoseconds
        best = found[0].at(now_ns)
        header = messages.header_of(now_ns, best.frame_id)
        response.success, response.fitting, response.header = True, len(found), header
        unseen_s = max(now_ns - best.seen_ns, 0) / 1e9
        response.track = messages.track_state(
            best.id, best.label, best.state, best.score, unseen_s, best.position_m, best.velocity_m_s, best.spread_m
        )
        response.detection = messages.known_box(header, best)
        response.age, response.tracks = best.age_s(now_ns), ["/".join(track).lstrip("/") for track in best.tracks]
        response.message = f"{best.label} {best.id} is {best.state}" + (
            "" if best.tracks else ", where it was seen last"
        )
        return response

    @staticmethod
    def _why_unknown(following, target: str) -> str:
        known = following.world.objects
        if not known:
            return (
                "nothing with a place was followed yet; ask again in a moment, and see /diagnostics for missing depth"
            )
        return (
            f"nothing known is called {quoted(target)}; there are {', '.join(f'{o.label} {o.id}' for o in known[:10])}"
        )


def _zoom(asked) -> Zoom:
    """Raises InvalidInput."""
    at, region = asked.region, None
    if at.width or at.height:
        region = (at.x_offset, at.y_offset, at.x_offset + at.width, at.y_offset + at.height)
    return Zoom(region, phrases.checked_targets(asked.around, "around") if asked.around else (), asked.parts or 1)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
