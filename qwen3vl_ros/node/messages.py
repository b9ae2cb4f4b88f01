"""Our types to ROS messages, and the few camera messages we make. Units and frames as in docs/interfaces.md."""

from __future__ import annotations

from typing import Iterable, Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseArray, Transform, TransformStamped, Vector3
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import ColorRGBA, Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3D, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

from qwen3vl_ros import types
from qwen3vl_ros.convert import quaternion_of
from qwen3vl_ros.msg import (
    Fact,
    Generation,
    GraspTarget,
    GraspTargetArray,
    Quantity,
    TextArray,
    TextLine,
    TrackState,
    TrackStates,
)
from qwen3vl_ros.node.perception.diagnostics import Status
from qwen3vl_ros.tracking.objects import WorldObject
from qwen3vl_ros.tracking.track import COASTING, FRESH, LOST, OCCLUDED, UNCERTAIN, Track

_STATES = {
    FRESH: TrackState.FRESH,
    COASTING: TrackState.COASTING,
    OCCLUDED: TrackState.OCCLUDED,
    UNCERTAIN: TrackState.UNCERTAIN,
    LOST: TrackState.LOST,
}
_GREEN, _RED, _WHITE = (0.1, 0.8, 0.2), (0.9, 0.2, 0.1), (1.0, 1.0, 1.0)


def header_of(stamp_ns: int, frame_id: str) -> Header:
    header = Header(frame_id=frame_id.lstrip("/"))  # tf2 refuses the slash of ROS 1 names
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return header


def pose_of(matrix: np.ndarray) -> Pose:
    """A 4x4 rigid transform as a pose, metres."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = map(float, matrix[:3, 3])
    o = pose.orientation
    o.x, o.y, o.z, o.w = quaternion_of(matrix[:3, :3])
    return pose


def transform_msg(matrix: np.ndarray) -> Transform:
    pose = pose_of(matrix)
    p = pose.position
    return Transform(translation=Vector3(x=p.x, y=p.y, z=p.z), rotation=pose.orientation)


def _hypothesis(label: str, score: float) -> ObjectHypothesisWithPose:
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = label, float(score)
    return hypothesis


def detections_2d(
    header: Header, detections: Iterable[types.Detection2D], points: Iterable[types.Point2D] = ()
) -> Detection2DArray:
    """Boxes as centre and size in pixels; a point is a box of size 0."""
    boxes = [(d.label, d.score, d.id, d.box_xyxy_px) for d in detections]
    boxes += [(p.label, p.score, "", (*p.xy_px, *p.xy_px)) for p in points]
    array = Detection2DArray(header=header)
    for label, score, name, (x1, y1, x2, y2) in boxes:
        message = Detection2D(header=header, id=name, results=[_hypothesis(label, score)])
        _set_box(message.bbox, (x1, y1, x2, y2))
        array.detections.append(message)
    return array


def _set_box(bbox, box_xyxy_px) -> None:
    x1, y1, x2, y2 = box_xyxy_px
    bbox.center.position.x, bbox.center.position.y = float(x1 + x2) / 2, float(y1 + y2) / 2
    bbox.size_x, bbox.size_y = float(x2 - x1), float(y2 - y1)


def text_array(header: Header, text: types.Text) -> TextArray:
    """The lines of one image, pixels."""
    array = TextArray(header=header, translate_to=text.translate_to, note=text.note)
    for line in text.lines:
        message = TextLine(
            text=line.text, language=line.language, translation=line.translation, score=float(line.score)
        )
        _set_box(message.bbox, line.box_xyxy_px)
        array.lines.append(message)
    return array


def detections_3d(header: Header, detections: Iterable[types.Detection3D]) -> Detection3DArray:
    """Oriented boxes, metres, in header.frame_id."""
    array = Detection3DArray(header=header)
    for d in detections:
        message = Detection3D(header=header, id=d.id, results=[_hypothesis(d.label, d.score)])
        message.bbox.center = message.results[0].pose.pose = pose_of(d.frame_T_box)
        size = message.bbox.size
        size.x, size.y, size.z = map(float, d.size_m)
        array.detections.append(message)
    return array


def track_state(
    id: str, label: str, state: str, score: float, unseen_s: float, position_m=None, velocity_m_s=None, spread_m=0.0
) -> TrackState:
    """position_m: None where it is not known."""
    message = TrackState(id=id, class_id=label, state=_STATES[state], score=float(score), unseen=float(unseen_s))
    message.has_position = position_m is not None
    if position_m is not None:
        message.position.x, message.position.y, message.position.z = map(float, position_m)
        message.velocity.x, message.velocity.y, message.velocity.z = map(float, velocity_m_s)
        message.spread = float(spread_m)
    return message


def track_states(header: Header, frame_3d: str, tracks: Iterable[Track]) -> TrackStates:
    """Positions in frame_3d; those known in another frame are left out."""
    array = TrackStates(header=header, frame_3d=frame_3d)
    for t in tracks:
        position_m = t.position_m if t.frame_id.lstrip("/") == frame_3d else None
        unseen_s = max(t.stamp_ns - t.seen_ns, 0) / 1e9
        array.tracks.append(
            track_state(t.id, t.label, t.state, t.score, unseen_s, position_m, t.velocity_m_s, t.spread_m)
        )
    return array


def known_box(header: Header, known: WorldObject) -> Detection3D:
    """Its 3D box in header.frame_id; of size 0 and with the frame's axes where none was ever measured."""
    message = Detection3D(header=header, id=known.id, results=[_hypothesis(known.label, known.score)])
    pose = np.eye(4)
    pose[:3, 3] = known.position_m
    message.bbox.center = pose_of(pose if known.frame_T_box is None else known.frame_T_box)
    message.results[0].pose.pose = message.bbox.center
    size = message.bbox.size
    size.x, size.y, size.z = (0.0, 0.0, 0.0) if known.size_m is None else map(float, known.size_m)
    return message


def object_frames(header: Header, tracks: Iterable[Track]) -> TFMessage:
    """A frame object_<id> for each: its box's, or without one at its middle with the axes of header.frame_id."""
    message = TFMessage()
    for t in tracks:
        pose = np.eye(4)
        pose[:3, 3] = t.position_m
        pose = pose if t.solid is None else t.solid.frame_T_box
        message.transforms.append(
            TransformStamped(header=header, child_frame_id=f"object_{t.id}", transform=transform_msg(pose))
        )
    return message


_VERDICTS = {types.Verdict.TRUE: Fact.TRUE, types.Verdict.FALSE: Fact.FALSE, types.Verdict.UNKNOWN: Fact.UNKNOWN}


def fact(told: types.Fact) -> Fact:
    """A measured statement."""
    message = Fact(
        relation=told.relation,
        arguments=list(told.arguments),
        view=told.view,
        verdict=_VERDICTS[told.verdict],
        margin=float(told.margin_m),
        sigma=float(told.sigma_m),
        values=[Quantity(name=q.name, value=float(q.value), unit=q.unit) for q in told.values],
        surface=told.surface,
        age=float(told.age_s),
        reason=told.reason,
    )
    message.stamp = header_of(told.stamp_ns, "").stamp
    return message


def asked_fact(message: Fact) -> types.Fact:
    """What somebody wants to know; whatever else the message holds is not read."""
    return types.Fact(message.relation, tuple(message.arguments), message.view or "viewer")


def grasp_targets(header: Header, grasps: Iterable[types.GraspTarget], prompt_id: int) -> GraspTargetArray:
    return GraspTargetArray(
        header=header,
        prompt_id=prompt_id,
        targets=[
            GraspTarget(
                detection_id=g.detection_id,
                class_id=g.label,
                pose=pose_of(g.frame_T_gripper),
                width=float(g.width_m),
                opening=float(g.opening_m),
                approach_distance=float(g.approach_m),
                quality=float(g.quality),
                feasible=bool(g.feasible),
                reason=g.reason,
            )
            for g in grasps
        ],
    )


def grasp_poses(header: Header, grasps: Iterable[types.GraspTarget]) -> PoseArray:
    """The feasible ones, best first."""
    feasible = sorted((g for g in grasps if g.feasible), key=lambda g: -g.quality)
    return PoseArray(header=header, poses=[pose_of(g.frame_T_gripper) for g in feasible])


def generation(
    header: Header, said: types.Generation, prompt_id: int, geometry_s: float = 0.0, dropped: int = 0, error: str = ""
) -> Generation:
    """latency_s is left for whoever publishes it."""
    mean = float(np.mean(said.logprobs)) if said.logprobs is not None and len(said.logprobs) else float("nan")
    return Generation(
        header=header,
        prompt_id=prompt_id,
        prompt=said.prompt,
        text=said.text,
        reasoning=said.reasoning,
        finish_reason=said.finish_reason,
        tokens=said.generated_tokens or len(said.token_ids),
        prompt_tokens=said.prompt_tokens,
        forward_passes=said.forward_passes,
        drafted_tokens=said.drafted_tokens,
        accepted_tokens=said.accepted_tokens,
        reused_tokens=said.reused_tokens,
        mean_logprob=mean,
        preprocess_s=float(said.preprocess_s),
        prefill_s=float(said.prefill_s),
        decode_s=float(said.decode_s),
        geometry_s=float(geometry_s),
        dropped_objects=dropped,
        error=error,
    )


def markers(
    header: Header, boxes: Iterable[types.Detection3D], grasps: Iterable[types.GraspTarget], finger_length_m: float
) -> MarkerArray:
    """Boxes, labels and grippers for RViz; the first marker removes those of the answer before."""
    array = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])

    def add(space: str, kind: int, pose: Pose, colour, alpha: float, scale) -> Marker:
        marker = Marker(
            header=header,
            ns=space,
            id=len(array.markers),
            type=kind,
            action=Marker.ADD,
            pose=pose,
            color=ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=alpha),
            scale=Vector3(x=float(scale[0]), y=float(scale[1]), z=float(scale[2])),
        )
        array.markers.append(marker)
        return marker

    for box in boxes:
        pose = pose_of(box.frame_T_box)
        add("boxes", Marker.CUBE, pose, _GREEN, 0.35, box.size_m)
        add("labels", Marker.TEXT_VIEW_FACING, pose, _WHITE, 1.0, (0, 0, 0.025)).text = f"{box.label} {box.score:.2f}"
    for grasp in grasps:
        half, length = grasp.width_m / 2, finger_length_m
        outline = [
            (0, -half, 0),
            (0, -half, -length),
            (0, -half, -length),
            (0, half, -length),
            (0, half, -length),
            (0, half, 0),
            (0, 0, -length),
            (0, 0, -length - grasp.approach_m),
        ]
        colour = _GREEN if grasp.feasible else _RED
        jaws = add("grasps", Marker.LINE_LIST, pose_of(grasp.frame_T_gripper), colour, 1.0, (0.004, 0, 0))
        jaws.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in outline]
    return array


def image(header: Header, pixels: np.ndarray) -> Image:
    """rgb8 of HxWx3 uint8, 32FC1 of HxW float32 metres, 16UC1 of HxW uint16 millimetres."""
    encoding = {np.dtype(np.uint8): "rgb8", np.dtype(np.float32): "32FC1", np.dtype(np.uint16): "16UC1"}[pixels.dtype]
    pixels = np.ascontiguousarray(pixels)
    message = Image(
        header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels.strides[0]
    )
    message.data = pixels.tobytes()  # bytes are taken as they are; a list or an array would be checked item by item
    return message


def camera_info(
    header: Header,
    K: np.ndarray,
    size_px: tuple[int, int],
    distortion: np.ndarray | None = None,
    model: str = "plumb_bob",
) -> CameraInfo:
    P = np.zeros((3, 4))
    P[:, :3] = K
    return CameraInfo(
        header=header,
        width=size_px[0],
        height=size_px[1],
        distortion_model=model,
        d=[0.0] * 5 if distortion is None else [float(v) for v in distortion],
        k=[float(v) for v in K.ravel()],
        r=np.eye(3).ravel().tolist(),
        p=P.ravel().tolist(),
    )


def diagnostics(header: Header, statuses: Mapping[str, Status], hardware_id: str) -> DiagnosticArray:
    """Each status under its name."""
    return DiagnosticArray(
        header=header,
        status=[
            DiagnosticStatus(
                level=bytes([status.level]),
                name=name,
                message=status.message,
                hardware_id=hardware_id,
                values=[KeyValue(key=key, value=value) for key, value in status.values],
            )
            for name, status in statuses.items()
        ],
    )
