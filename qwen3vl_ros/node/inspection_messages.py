"""Readings and events as messages. Knows nothing of who sends them."""

from __future__ import annotations

import math
from typing import Iterable, Sequence

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.time import Time
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D

from qwen3vl_ros import msg
from qwen3vl_ros.inspection.alarms import State
from qwen3vl_ros.inspection.inspector import Event
from qwen3vl_ros.inspection.readings import Reading
from qwen3vl_ros.node.messages import header_of

_STATES = {state: number for number, state in enumerate((State.NORMAL, State.PENDING, State.ACTIVE, State.CLEARING))}
_KINDS = {"alarm": msg.Event.ALARM, "watch": msg.Event.WATCH, "anomaly": msg.Event.ANOMALY}


def reading(of: Reading) -> msg.Reading:
    low, high = (v if math.isfinite(v) else math.nan for v in of.point.range)
    return msg.Reading(
        header=header_of(of.stamp_ns, of.frame_id),
        point=of.point.name,
        camera=of.point.camera,
        kind=of.point.kind,
        quantity=of.point.quantity,
        value=of.value,
        uncertainty=of.uncertainty,
        unit=of.point.unit,
        unit_seen=of.unit_seen,
        scale_minimum=low,
        scale_maximum=high,
        zone=of.zone,
        text=of.text,
        quality=int(of.quality),
        reason=int(of.reason),
        message=of.message,
        measured_value=of.measured,
        model_value=of.model_value,
        limit=float(of.limit),
        looks=of.looks,
        bbox=_box(of.box_xyxy_px),
        evidence_uri=of.evidence_uri,
    )


def event(of: Event) -> msg.Event:
    return msg.Event(
        header=header_of(of.stamp_ns, of.frame_id),
        id=of.id,
        name=of.name,
        kind=_KINDS[of.kind],
        point=of.point,
        camera=of.camera,
        before=_STATES[of.before],
        after=_STATES[of.after],
        severity=of.rule.severity,
        value=of.value,
        peak=of.peak,
        limit=of.limit,
        unit=of.unit,
        acknowledged=of.acknowledged,
        latched=of.latched,
        shelved=of.shelved,
        onset=Time(nanoseconds=max(of.onset_ns, 0)).to_msg(),
        message=of.message,
        evidence_uri=of.evidence_uri,
    )


def events(header: Header, of: Iterable[Event]) -> msg.EventArray:
    return msg.EventArray(header=header, events=[event(e) for e in of])


def path(frame_id: str, poses: Sequence[tuple[int, Sequence[float]]]) -> Path:
    """poses: (stamp_ns, metres in frame_id), the newest last."""
    message = Path(header=header_of(poses[-1][0], frame_id))
    for stamp_ns, xyz in poses:
        stamped = PoseStamped(header=header_of(stamp_ns, frame_id))
        at = stamped.pose.position
        at.x, at.y, at.z = map(float, xyz)
        stamped.pose.orientation.w = 1.0
        message.poses.append(stamped)
    return message


def _box(box_xyxy_px: Sequence[float] | None) -> BoundingBox2D:
    box = BoundingBox2D()
    if box_xyxy_px is not None:
        x0, y0, x1, y1 = map(float, box_xyxy_px)
        box.center.position.x, box.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        box.size_x, box.size_y = x1 - x0, y1 - y0
    return box
