"""ROS messages back to our types, as a subscriber reads them. By their fields alone: imports no ROS."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from qwen3vl_ros.calibration import intrinsics_of
from qwen3vl_ros.convert import pose_matrix, rgb_of, stamp_ns
from qwen3vl_ros.demo.score import Heard, TruthObject
from qwen3vl_ros.types import Detection2D, Detection3D, Frame, GraspTarget


def answer_of(parts: Mapping[str, Any], prompt: tuple[str, ...], error: str = "") -> Heard:
    """An Heard from its messages by topic. `generation` must be there; what else is missing stays empty."""
    said = parts["generation"]
    return Heard(
        stamp_ns=stamp_ns(said.header),
        prompt=prompt,
        detections_2d=tuple(map(detection_2d_of, _items(parts, "detections_2d", "detections"))),
        detections_3d=tuple(map(detection_3d_of, _items(parts, "detections_3d", "detections"))),
        grasps=_grasps_of(parts["grasp_targets"]) if "grasp_targets" in parts else (),
        text=said.text,
        tokens=said.tokens,
        finish_reason=said.finish_reason,
        error=error or said.error,
        latency_s=said.latency_s,
        engine_s=said.preprocess_s + said.prefill_s + said.decode_s,
        dropped_objects=said.dropped_objects,
    )


def answer_of_ask(result: Any, name: str) -> Heard:
    """The boxes that an answer of ~/ask rests on, of its first picture. name: what was asked for."""
    flat, solid = result.detections_2d[0].detections, result.detections_3d[0].detections
    return Heard(
        stamp_ns(result.detections_2d[0].header),
        (name,),
        tuple(map(detection_2d_of, flat)),
        tuple(map(detection_3d_of, solid)),
    )


def fact_line(fact: Any) -> str:
    """A qwen3vl_ros/Fact in short: "on(7, table) TRUE", "distance(7) 0.539 m"."""
    verdict = ("UNKNOWN", "FALSE", "TRUE")[fact.verdict]
    value = (
        f"{fact.values[0].value:.3f} {fact.values[0].unit}"
        if fact.relation in ("distance", "size") and fact.values
        else verdict
    )
    return f"{fact.relation}({', '.join(fact.arguments)}) {value}"


def truths_of(boxes: Any, poses: Any) -> tuple[TruthObject, ...]:
    """The simulated camera's truth from its two arrays, which hold the same objects in the same order."""
    objects = []
    for box, pose in zip(boxes.detections, poses.detections):
        seen, solid = detection_2d_of(box), detection_3d_of(pose)
        center_m = tuple(solid.frame_T_box[:3, 3])
        # The score is the visible share of the object.
        objects.append(TruthObject(seen.label, seen.box_xyxy_px, seen.score, center_m, tuple(solid.size_m)))
    return tuple(objects)


def detection_2d_of(message: Any) -> Detection2D:
    """Of a vision_msgs/Detection2D."""
    centre, half_x, half_y = message.bbox.center.position, message.bbox.size_x / 2, message.bbox.size_y / 2
    box = (centre.x - half_x, centre.y - half_y, centre.x + half_x, centre.y + half_y)
    best = message.results[0].hypothesis
    return Detection2D(best.class_id, box, best.score, message.id)


def detection_3d_of(message: Any) -> Detection3D:
    """Of a vision_msgs/Detection3D."""
    best, size = message.results[0].hypothesis, message.bbox.size
    pose, size_m = pose_matrix(message.bbox.center), np.array((size.x, size.y, size.z))
    return Detection3D(message.id, best.class_id, best.score, message.header.frame_id, pose, size_m)


def _grasps_of(array: Any) -> tuple[GraspTarget, ...]:
    return tuple(
        GraspTarget(m.detection_id, m.class_id, array.header.frame_id, pose_matrix(m.pose), m.width,
                    m.approach_distance, m.quality, m.feasible, m.reason, m.opening) for m in array.targets)  # fmt: skip


def frame_of(image: Any, info: Any | None) -> Frame:
    """Colour and, with a CameraInfo, intrinsics."""
    rgb, lens = rgb_of(image), {}
    if info is not None:
        K, distortion, model = intrinsics_of(info, (rgb.shape[1], rgb.shape[0]))
        lens = {"K": K, "distortion": distortion, "distortion_model": model}
    return Frame(stamp_ns(image.header), image.header.frame_id, rgb, **lens)


def _items(parts: Mapping[str, Any], topic: str, field: str) -> list:
    return getattr(parts[topic], field) if topic in parts else []
