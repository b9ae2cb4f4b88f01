"""What the node says: one answer as the set of its messages, published together; pictures only while somebody
looks.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from qwen3vl_ros import types
from qwen3vl_ros.config import Config
from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.draw import draw_scene
from qwen3vl_ros.msg import Generation, GraspTargetArray, TextArray, TrackStates
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.perception.diagnostics import Status
from qwen3vl_ros.tracking.track import LOST, Track
from qwen3vl_ros.types import Detection2D, Frame, Scene

RESULTS = {
    "detections_2d": Detection2DArray,
    "detections_3d": Detection3DArray,
    "grasp_targets": GraspTargetArray,
    "grasp_poses": PoseArray,
    "text": TextArray,
    "generation": Generation,
}
TRACKS = {"tracks_2d": Detection2DArray, "tracks_3d": Detection3DArray, "track_states": TrackStates}
PICTURES = {"annotated_image": Image, "markers": MarkerArray}
SHOW_GRASPS = ("grasp_targets", "grasp_poses", *PICTURES)


@dataclass(eq=False)
class Reply:
    """One answer as messages; None are those that it says nothing of: grasps nobody wanted, things where text was read, text
    where things were looked for. error: why it could not be used; then only `generation` is published, if there is one.
    """

    header: Header
    detections_2d: Detection2DArray | None = None
    detections_3d: Detection3DArray | None = None
    grasp_targets: GraspTargetArray | None = None
    grasp_poses: PoseArray | None = None
    text: TextArray | None = None
    generation: Generation | None = None
    error: types.PerceptionError | None = None
    scene: Scene | None = None
    frame: Frame | None = None
    config: Config | None = None
    summary: str = ""


class Publishers:
    """Of one camera; made on configure, closed on cleanup. `publish` is called from the engine's thread only, `publish_tracks` from
    that of the tracks.

    prefix: of the topics, "~/" or "~/front/".
    """

    def __init__(self, node, prefix: str = "~/"):
        self._node = node
        self._publishers = {
            name: node.create_publisher(kind, prefix + name, 30 if name in TRACKS else 10)  # tracks: of one second
            for name, kind in {**RESULTS, **TRACKS, **PICTURES}.items()
        }
        self._tf = node.create_publisher(TFMessage, "/tf", 100)

    def close(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._node.destroy_publisher(self._tf)

    @property
    def tracks_wanted(self) -> bool:
        """Whether somebody subscribes to the tracks."""
        return any(self._publishers[name].get_subscription_count() for name in TRACKS)

    def publish_tracks(self, frame: Frame, tracks: Sequence[Track], config: Config) -> None:
        """Where everything is in one image. 3D that is not in the promised frame is left out, never relabelled."""
        header = messages.header_of(frame.stamp_ns, frame.frame_id)
        header_3d = messages.header_of(frame.stamp_ns, config.target_frame or frame.frame_id)
        now = [t for t in tracks if t.state != LOST]
        placed = [t for t in now if t.position_m is not None and t.frame_id.lstrip("/") == header_3d.frame_id]
        boxes = [Detection2D(t.label, t.box_xyxy_px, t.score, t.id) for t in now]
        said = {
            "tracks_2d": messages.detections_2d(header, boxes),
            "tracks_3d": messages.detections_3d(header_3d, [t.solid for t in placed if t.solid is not None]),
            "track_states": messages.track_states(header, header_3d.frame_id, tracks),
        }
        for name, message in said.items():
            self._publishers[name].publish(message)
        if config.publish_tf and placed:
            self._tf.publish(messages.object_frames(header_3d, placed))

    @property
    def grasps_wanted(self) -> bool:
        """Whether somebody subscribes to what shows grasps."""
        return any(self._publishers[name].get_subscription_count() for name in SHOW_GRASPS)

    def reply(self, scene: Scene, frame: Frame, config: Config, no_3d: str, grasped: bool = True) -> Reply:
        """All messages of a scene. 3D that is not in the promised frame is left out, never relabelled. grasped: whether grasps
        were looked for.
        """
        header = messages.header_of(scene.stamp_ns, scene.frame_id)
        header_3d = messages.header_of(scene.stamp_ns, config.target_frame or scene.frame_id)
        boxes = [d for d in scene.detections_3d if d.frame_id == header_3d.frame_id]
        grasps = [g for g in scene.grasps if g.frame_id == header_3d.frame_id]
        prompt_id = scene.prompt_id
        return Reply(
            header,
            messages.detections_2d(header, scene.detections_2d, scene.points),
            messages.detections_3d(header_3d, boxes),
            messages.grasp_targets(header_3d, grasps, prompt_id) if grasped else None,
            messages.grasp_poses(header_3d, grasps) if grasped else None,
            generation=messages.generation(header, scene.generation, prompt_id, scene.geometry_s, scene.dropped),
            scene=scene,
            frame=frame,
            config=config,
            summary=_summary(scene, len(boxes), no_3d),
        )

    def read(self, scene: Scene, text: types.Text, frame: Frame, config: Config) -> Reply:
        """All messages of a scene whose text was read."""
        header = messages.header_of(scene.stamp_ns, scene.frame_id)
        count = len(text.lines)
        found = f"{count} line{'s' * (count != 1)} of text" if count else "looked and saw no text"
        return Reply(
            header,
            text=messages.text_array(header, text),
            generation=messages.generation(header, scene.generation, scene.prompt_id, scene.geometry_s, scene.dropped),
            scene=scene,
            frame=frame,
            config=config,
            summary=_with_dropped(f"{found}; {text.note}" if text.note else found, scene),
        )

    def failed(
        self, header: Header, prompt_id: int, generation: types.Generation | None, error: types.PerceptionError
    ) -> Reply:
        """The answer that could not be used: the model's words if it said any, and the error."""
        header = messages.header_of(stamp_ns(header), header.frame_id)
        said = (
            None
            if generation is None
            else messages.generation(
                header,
                generation,
                prompt_id,
                dropped=getattr(error, "dropped", 0),
                error=f"{type(error).__name__}: {error}",
            )
        )
        return Reply(
            header,
            Detection2DArray(header=header),
            Detection3DArray(header=header),
            GraspTargetArray(header=header, prompt_id=prompt_id),
            PoseArray(header=header),
            generation=said,
            error=error,
        )

    def publish(self, reply: Reply, latency_s: float) -> None:
        """latency_s: age of the image now."""
        if reply.generation is not None:
            reply.generation.latency_s = latency_s
        names = ("generation",) if reply.error else tuple(RESULTS)
        for name in names:
            if (message := getattr(reply, name)) is not None:
                self._publishers[name].publish(message)
        if not reply.error:
            self._publish_pictures(reply)

    def _publish_pictures(self, reply: Reply) -> None:
        if reply.detections_3d is not None and self._publishers["markers"].get_subscription_count():
            header = reply.detections_3d.header
            self._publishers["markers"].publish(
                messages.markers(
                    header,
                    [d for d in reply.scene.detections_3d if d.frame_id == header.frame_id],
                    [g for g in reply.scene.grasps if g.frame_id == header.frame_id],
                    reply.config.gripper.finger_length,
                )
            )
        if self._publishers["annotated_image"].get_subscription_count():
            self._publishers["annotated_image"].publish(
                messages.image(reply.header, draw_scene(reply.frame, reply.scene, reply.config.gripper))
            )


class DiagnosticsPublisher:
    """/diagnostics, from any thread, in every state."""

    def __init__(self, node):
        self._node, self._lock = node, threading.Lock()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self, statuses: Mapping[str, Status]) -> None:
        """A status a camera, by its name; that of the node itself, or of the camera without a name, is under ""."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        node = self._node.get_fully_qualified_name().lstrip("/")
        named = {f"{node}: {part}" if part else node: status for part, status in statuses.items()}
        with self._lock:
            self._publisher.publish(messages.diagnostics(header, named, hardware_id="qwen3vl_ros"))


def _summary(scene: Scene, boxes: int, no_3d: str) -> str:
    """One line for a person: what was found, and why not more."""
    found = len(scene.detections_2d) + len(scene.points)
    text = f"{found} objects, {boxes} with a 3D box" if found or boxes else "looked and saw nothing"
    reasons = [no_3d] if no_3d else [f"{r.label}: {r.reason}" for r in scene.refusals]
    for reason, times in list(Counter(reasons).items())[:3]:
        text += f"; {reason}" + (f" ({times} times)" if times > 1 else "")
    return _with_dropped(text, scene)


def _with_dropped(text: str, scene: Scene) -> str:
    return text + (f"; {scene.dropped} unreadable objects left out" if scene.dropped else "")
