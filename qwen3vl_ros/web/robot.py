"""The node as the page knows it: what it said last, and what can be asked of it. All over topics, services and actions of ours.

Messages wait here as bytes and are decoded when a panel takes them: of a picture that nobody looks at, nothing is read.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Sequence

import numpy as np
from action_msgs.srv import CancelGoal
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2DArray, Detection3DArray

from qwen3vl_ros.action import Ask, FollowInstruction
from qwen3vl_ros.convert import stamp_in
from qwen3vl_ros.msg import EventArray, Generation, GraspTargetArray, Plan, Reading, TrackStates
from qwen3vl_ros.node.client import LATCHED, NEWEST, RELIABLE, Client, NoReply, decoded
from qwen3vl_ros.srv import AlarmCommand, SetPrompt
from qwen3vl_ros.types import PerceptionError

CALL_S, ASK_S, FOLLOW_S = 30.0, 120.0, 3600.0
IMAGES, MOST_BYTES = 40, 96_000_000  # that wait for the boxes found in them: more than a second of a usual camera's
_ASK = "perception/ask"
_FOLLOW = "perception/follow_instruction"
_STOP = f"{_FOLLOW}/_action/cancel_goal"  # of every action; a request that names no goal means all of them


class Heard:
    """What came on a topic and was not taken yet: the newest `kept` messages, of no more than MOST_BYTES but for the newest itself. For
    one reader.
    """

    def __init__(self, kind: type, kept: int):
        self._kind, self._cdrs = kind, deque(maxlen=kept)

    def put(self, cdr: bytes) -> None:
        while len(self._cdrs) > 1 and (len(self._cdrs) + 1) * len(cdr) > MOST_BYTES:
            self._taken()
        self._cdrs.append(cdr)

    def forget(self) -> None:
        """All of it."""
        self._cdrs.clear()

    def take(self) -> Iterator[Any]:
        """All of it, the oldest first."""
        while (cdr := self._taken()) is not None:
            yield decoded(cdr, self._kind)

    def at(self, stamp_ns: int) -> Any | None:
        """The one whose header has that stamp; what is older is gone then. The kind must begin with a header."""
        while (cdr := self._taken()) is not None:
            if (stamp := stamp_in(cdr)) == stamp_ns:
                return decoded(cdr, self._kind)
            if stamp > stamp_ns:
                self._cdrs.appendleft(cdr)
                break
        return None

    @property
    def last_stamp_ns(self) -> int:
        """Of the newest that waits, 0 where none does."""
        with contextlib.suppress(IndexError):
            return stamp_in(self._cdrs[-1])
        return 0

    def newest(self) -> Any | None:
        """The newest, if it was not taken; what is older is gone then."""
        last = None
        while (cdr := self._taken()) is not None:
            last = cdr
        return None if last is None else decoded(last, self._kind)

    def _taken(self) -> bytes | None:
        """The oldest, which is no longer here: another thread puts, and may take the oldest away."""
        with contextlib.suppress(IndexError):
            return self._cdrs.popleft()
        return None


@dataclass(frozen=True)
class Camera:
    """One camera's topics. name: empty for the camera without one."""

    name: str
    image: Heard
    depth: Heard
    info: Heard
    tracks_2d: Heard
    tracks_3d: Heard
    detections_2d: Heard
    detections_3d: Heard
    grasps: Heard
    generation: Heard
    states: Heard = field(repr=False)


class Robot:
    """In the graph from its making to close(). cameras: names as in the node's parameter `cameras`; none is the unnamed one."""

    def __init__(self, namespace: str, cameras: Sequence[str] = ()):
        self._client = Client("page", namespace)
        self._transforms = self._client.transforms()
        self.cameras = {name: self._camera(name) for name in cameras or ("",)}
        self.diagnostics = self._hear("/diagnostics", DiagnosticArray, 20)
        self.readings = self._hear("perception/readings", Reading, 500)
        self.plan = self._hear("perception/plan", Plan, 1, LATCHED)
        self.alarms = self._hear("perception/alarms", EventArray, 1, LATCHED)
        for name in self.cameras:
            self._client.use(_of(name, "set_prompt"), SetPrompt)
        self._client.use("perception/alarm_command", AlarmCommand)
        self._client.use_action(_ASK, Ask)
        self._client.use_action(_FOLLOW, FollowInstruction)
        self._client.use(_STOP, CancelGoal)
        self._client.spin_alone()

    def close(self) -> None:
        """Leave the graph."""
        self._client.close()

    def _camera(self, name: str) -> Camera:
        own = f"{name}/" if name else ""
        return Camera(
            name,
            self._hear(f"{own}image_raw", Image, IMAGES, NEWEST),
            self._hear(f"{own}depth/image_raw", Image, 1, NEWEST),
            self._hear(f"{own}camera_info", CameraInfo, 1, NEWEST),
            self._hear(_of(name, "tracks_2d"), Detection2DArray, 1),
            self._hear(_of(name, "tracks_3d"), Detection3DArray, 1),
            self._hear(_of(name, "detections_2d"), Detection2DArray, 1),
            self._hear(_of(name, "detections_3d"), Detection3DArray, 1),
            self._hear(_of(name, "grasp_targets"), GraspTargetArray, 1),
            self._hear(_of(name, "generation"), Generation, 20),
            self._hear(_of(name, "track_states"), TrackStates, 1),
        )

    def _hear(self, topic: str, kind: type, kept: int, qos=RELIABLE) -> Heard:
        heard = Heard(kind, kept)
        self._client.subscribe(topic, kind, heard.put, qos)
        return heard

    # -- what can be asked; from any thread --------------------------------------------------------

    @property
    def is_there(self) -> bool:
        """Whether a node answers."""
        return any(self._client.is_offered(_of(name, "set_prompt")) for name in self.cameras)

    def pose(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """target_T_source at that time, 4x4. Raises PerceptionError where it is not known."""
        return self._transforms.lookup(target, source, stamp_ns)

    def look_for(self, camera: str, targets: Sequence[str]) -> int:
        """The prompt id of what a camera's stream looks for from now on. Raises PerceptionError where it is refused."""
        reply = self._call(_of(camera, "set_prompt"), SetPrompt.Request(targets=list(targets)))
        if not reply.success:
            raise PerceptionError(reply.message)
        return reply.prompt_id

    def ask(self, goal: Ask.Goal, on_part: Callable[[int, str], None]) -> Ask.Result:
        """The answer to a question. on_part(offset, delta): gets its parts as they come. Raises PerceptionError where nobody answers."""
        if not self._client.acts(_ASK):
            raise PerceptionError("nobody answers questions now: is the node there, and is it active?")
        told = lambda feedback: on_part(feedback.offset, feedback.delta)
        return self._client.ask_for(_ASK, goal, ASK_S, told)

    def follow(self, goal: FollowInstruction.Goal, on_part: Callable[[Any], None]) -> FollowInstruction.Result:
        """What came of an instruction or of an approved plan. on_part: gets the feedback. Raises NoReply."""
        if not self._client.acts(_FOLLOW):
            raise PerceptionError("nobody follows instructions now: is the node there, and is it active?")
        return self._client.ask_for(_FOLLOW, goal, FOLLOW_S, on_part)

    def stop(self) -> bool:
        """Cancel every instruction, whoever gave it; whether there was one. Raises NoReply."""
        return bool(self._call(_STOP, CancelGoal.Request()).goals_canceling)

    def command_alarm(self, name: str, command: int, duration_s: float, operator: str) -> Any:
        """The alarm as it stands then. Raises PerceptionError where it is refused."""
        request = AlarmCommand.Request(name=name, command=command, duration=duration_s, operator_name=operator)
        reply = self._call("perception/alarm_command", request)
        if not reply.success:
            raise PerceptionError(reply.message)
        return reply.event

    def _call(self, service: str, request: Any) -> Any:
        """The response. Raises NoReply, soon where nobody offers the service."""
        if not self._client.find(lambda: self._client.is_offered(service)):
            raise NoReply(f"nobody answers on {self._client.full_name(service)}: is the node there, and is it active?")
        return self._client.call(service, request, CALL_S)


def _of(camera: str, name: str) -> str:
    """A name of the node's, of one of its cameras."""
    return f"perception/{camera}/{name}" if camera else f"perception/{name}"
