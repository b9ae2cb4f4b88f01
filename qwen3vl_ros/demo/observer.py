"""What a subscriber sees of the perception node: answers put together by stamp, the truth, and a recording.

Used by the demo from a process of its own, over the same topics and services as anybody's code. Bytes go to the
recording as they came, and only what is looked at is decoded. One thread, that of `spin`, makes all calls.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Any, Callable, Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from qwen3vl_ros.action import Ask
from qwen3vl_ros.convert import rgb_of, stamp_in, stamp_ns
from qwen3vl_ros.demo.compression import Compression, suffix_of
from qwen3vl_ros.demo.reading import answer_of, frame_of, truths_of
from qwen3vl_ros.demo.recording import Recording, installed_text
from qwen3vl_ros.demo.score import Heard, TruthObject
from qwen3vl_ros.msg import Generation, GraspTargetArray
from qwen3vl_ros.node.client import IMAGES, LATCHED, RELIABLE, Client, NoReply, decoded, encoded, type_name
from qwen3vl_ros.srv import Detect, SetPrompt
from qwen3vl_ros.types import Frame, PerceptionError

PARTS = ("generation", "detections_2d", "detections_3d", "grasp_targets")
KEPT_BYTES = 300_000_000  # pictures wait here until their answer comes
LIVE_PERIOD_NS = 95_000_000  # on_image gets about ten a second, whatever the camera's rate


def message_definition(type_name: str) -> str:
    """The installed .msg text of `pkg/msg/Name`."""
    return installed_text(type_name, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))


class Observer:
    """Subscribed from its making to close().

    prompt: the phrases the node was started with. on_image(stamp_ns, rgb), on_truth(stamp_ns, objects),
    on_answer(answer, frame): frame has colour and intrinsics, and is None if that image was not received
    here. on_wait(): called at least ten times a second while spinning; what it raises ends the spinning.
    images: how many were received. health: the values of the node's last /diagnostics, by key.
    """

    def __init__(
        self,
        recording: Recording,
        prompt: Sequence[str],
        on_image: Callable[[int, np.ndarray], None],
        on_truth: Callable[[int, tuple[TruthObject, ...]], None],
        on_answer: Callable[[Heard, Frame | None], None],
        on_wait: Callable[[], None],
        namespace: str = "qwen3vl",
    ):
        self._client = Client("observer", namespace, on_wait)
        self._recording = recording
        self._on_image, self._on_truth, self._on_answer = on_image, on_truth, on_answer
        self._first_prompt, self._prompts, self._prompt_changing = tuple(prompt), {}, False
        self._frames, self._kept_bytes, self._last_live_ns = OrderedDict(), 0, 0
        self._parts: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._truths: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self.images = 0
        self.health: dict[str, str] = {}
        for topic, kind in (("image_raw", Image), ("depth/image_raw", Image), ("camera_info", CameraInfo)):
            self._keep(topic, kind)
        for topic, kind in zip(PARTS, (Generation, Detection2DArray, Detection3DArray, GraspTargetArray)):
            self._record(f"perception/{topic}", kind, look=lambda m, topic=topic: self._part_arrived(topic, m))
        for topic, kind in (("grasp_poses", PoseArray), ("markers", MarkerArray)):
            self._record(f"perception/{topic}", kind)
        self._record_compressed("perception/annotated_image")
        self._record("/diagnostics", DiagnosticArray, look=self._on_diagnostics)
        self._record("/tf_static", TFMessage, LATCHED)
        self._record("/tf", TFMessage)
        for topic, kind in (("ground_truth_2d", Detection2DArray), ("ground_truth_3d", Detection3DArray)):
            self._record(f"sim_camera/{topic}", kind, look=lambda m, topic=topic: self._truth_arrived(topic, m))
        for name, kind in (("get_state", GetState), ("set_prompt", SetPrompt), ("detect", Detect)):
            self._client.use(f"perception/{name}", kind)
        self._client.use_action("perception/ask", Ask)

    def close(self) -> None:
        """Leave the graph."""
        self._client.close()

    # -- time passes -----------------------------------------------------------------------------------------

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Take what arrives for that long; returns at once, and True, when until() is."""
        return self._client.spin(seconds, until)

    def flush(self) -> None:
        """Hand out answers of which parts never came."""
        for stamp in [s for s, parts in self._parts.items() if "generation" in parts]:
            self._hand_out(stamp)

    # -- services --------------------------------------------------------------------------------------------

    def is_active(self) -> bool | None:
        """Whether the node's lifecycle state is active; None while nobody answers."""
        if not self._client.is_offered("perception/get_state"):
            return None
        try:
            state = self._client.call("perception/get_state", GetState.Request(), 2.0).current_state
            return state.id == State.PRIMARY_STATE_ACTIVE
        except NoReply:
            return None

    def set_prompt(self, targets: Sequence[str], timeout_s: float = 10.0) -> int:
        """The prompt id of the new targets. Raises PerceptionError with the node's message if it refuses."""
        self._prompt_changing = True  # its first answer may come before the reply that says its id
        try:
            reply = self._client.call("perception/set_prompt", SetPrompt.Request(targets=list(targets)), timeout_s)
        finally:
            self._prompt_changing = False
        if not reply.success:
            raise PerceptionError(f"~/set_prompt {list(targets)} was refused: {reply.message}")
        self._prompts[reply.prompt_id] = tuple(targets)
        for stamp in list(self._parts):
            self._complete(stamp)
        return reply.prompt_id

    def detect(self, targets: Sequence[str], timeout_s: float = 20.0) -> tuple[Heard, str]:
        """One look through ~/detect: the answer, its `error` set when it failed, and the node's message."""
        asked = Detect.Request(targets=list(targets), timeout=timeout_s)
        reply = self._client.call("perception/detect", asked, timeout_s + 5.0)
        parts = {name: getattr(reply, name) for name in PARTS}
        answer = answer_of(parts, tuple(targets), "" if reply.success else reply.message)
        return answer, reply.message

    def ask(self, question: str, timeout_s: float = 20.0) -> tuple[Ask.Result, Frame | None]:
        """The answer to a question in words through ~/ask, and its picture if that was received here."""
        goal = Ask.Goal(question=question, timeout=timeout_s)
        result = self._client.ask_for("perception/ask", goal, timeout_s + 5.0)
        stamps = [stamp_ns(array.header) for array in result.detections_2d[:1]]
        return result, self._frame(self._frames.get(stamps[0], {})) if stamps else None

    # -- arrivals --------------------------------------------------------------------------------------------

    def _record(self, topic: str, kind: type, qos=RELIABLE, look: Callable[[Any], None] | None = None) -> None:
        def arrived(cdr: bytes) -> None:
            self._recording.write(name, cdr, time.time_ns())
            if look is not None:
                look(decoded(cdr, kind))

        name = self._hear(topic, kind, arrived, qos)

    def _record_compressed(self, topic: str) -> None:
        keep = self._compressing(topic, Image)
        self._client.subscribe(topic, Image, lambda cdr: keep(cdr, time.time_ns()))

    def _compressing(self, topic: str, kind: type) -> Callable[[bytes, int], None]:
        """What puts messages of a topic into the recording: pictures smaller, under the name of what they then are."""
        name = self._client.full_name(topic)
        if kind is not Image:
            self._recording.open_topic(name, type_name(kind))
            return lambda cdr, received_ns: self._recording.write(name, cdr, received_ns)
        compression, name = Compression(), name + suffix_of("depth" in topic)
        self._recording.open_topic(name, type_name(CompressedImage))

        def keep(cdr: bytes, received_ns: int) -> None:
            if (smaller := compression.compressed(decoded(cdr, Image))) is not None:
                self._recording.write(name, encoded(smaller), received_ns)

        return keep

    def _keep(self, topic: str, kind: type) -> None:
        """Pictures are recorded only if they are answered: all of them would be gigabytes."""

        def arrived(cdr: bytes) -> None:
            stamp = stamp_in(cdr)
            self._frames.setdefault(stamp, {})[topic] = (keep, cdr, time.time_ns())
            self._kept_bytes += len(cdr)
            while self._kept_bytes > KEPT_BYTES:
                _, oldest = self._frames.popitem(last=False)
                self._kept_bytes -= sum(len(cdr) for _, cdr, _ in oldest.values())
            if topic == "image_raw":
                self.images += 1
                if stamp - self._last_live_ns >= LIVE_PERIOD_NS:
                    self._last_live_ns = stamp
                    self._on_image(stamp, rgb_of(decoded(cdr, Image)))

        keep = self._compressing(topic, kind)
        self._client.subscribe(topic, kind, arrived, IMAGES)

    def _hear(self, topic: str, kind: type, arrived: Callable[[bytes], None], qos) -> str:
        name, named = self._client.subscribe(topic, kind, arrived, qos)
        self._recording.open_topic(name, named)
        return name

    def _part_arrived(self, part: str, message: Any) -> None:
        stamp = stamp_ns(message.header)
        self._parts.setdefault(stamp, {})[part] = message
        self._complete(stamp)

    def _complete(self, stamp: int) -> None:
        parts = self._parts[stamp]
        generation = parts.get("generation")
        # An answer that could not be used comes as its generation alone.
        if generation is not None and (generation.error or len(parts) == len(PARTS)):
            if not (self._prompt_changing and generation.prompt_id not in self._prompts):
                self._hand_out(stamp)

    def _hand_out(self, stamp: int) -> None:
        parts, frame = self._parts.pop(stamp), None
        generation = parts["generation"]
        if pictures := self._frames.get(stamp):
            for keep, cdr, received_ns in pictures.values():
                keep(cdr, received_ns)
            frame = self._frame(pictures)
        self._on_answer(answer_of(parts, self._prompts.get(generation.prompt_id, self._first_prompt)), frame)

    @staticmethod
    def _frame(pictures: dict[str, tuple[Callable, bytes, int]]) -> Frame | None:
        seen = {topic: cdr for topic, (_, cdr, _) in pictures.items()}
        if "image_raw" not in seen:
            return None
        info = decoded(seen["camera_info"], CameraInfo) if "camera_info" in seen else None
        return frame_of(decoded(seen["image_raw"], Image), info)

    def _truth_arrived(self, part: str, message: Any) -> None:
        stamp = stamp_ns(message.header)
        both = self._truths.setdefault(stamp, {})
        both[part] = message
        if len(both) == 2:
            del self._truths[stamp]
            self._on_truth(stamp, truths_of(both["ground_truth_2d"], both["ground_truth_3d"]))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id == "qwen3vl_ros":
                self.health = {
                    "level": ("OK", "WARN", "ERROR", "STALE")[status.level[0]],
                    "message": status.message,
                    **{value.key: value.value for value in status.values},
                }
