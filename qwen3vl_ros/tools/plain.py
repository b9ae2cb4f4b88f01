"""Messages as plain data, in the shape of the catalogue's results. By their fields alone: imports no ROS."""

from __future__ import annotations

import math
from typing import Any, Iterable

Plain = dict[str, Any]

_VERDICTS = ("UNKNOWN", "FALSE", "TRUE")
_CODES = ("OK", "NOT_FOUND", "AMBIGUOUS", "STALE", "NO_DEPTH", "TF", "TIMEOUT", "CANCELLED", "ERROR")
_QUALITIES = ("GOOD", "UNCERTAIN", "BAD")
_REASONS = (
    "",
    "UNREADABLE",
    "NOT_VISIBLE",
    "OCCLUDED",
    "OUT_OF_RANGE",
    "IMPLAUSIBLE",
    "UNIT_MISMATCH",
    "DISAGREE",
    "MOVED",
    "STALE",
)
_STATUSES = ("OPEN", "RUNNING", "DONE", "FAILED")
# Of FollowInstruction.
ENDS = (
    "OK",
    "NOT_FOUND",
    "AMBIGUOUS",
    "STALE",
    "TF",
    "PRECONDITION",
    "EXECUTION",
    "POSTCONDITION",
    "TIMEOUT",
    "CANCELLED",
    "REJECTED",
    "BUSY",
    "ERROR",
)
_KINDS = ("ALARM", "WATCH", "ANOMALY")
_STATES = ("NORMAL", "PENDING", "ACTIVE", "CLEARING")


def number(value: float) -> float | None:
    """None where nothing was measured, since JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def seconds(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec / 1e9


def scene(camera: str, flat: Any, solid: Any, grasps: Any = None) -> Plain:
    """Of a Detection2DArray and a Detection3DArray of one picture, with a GraspTargetArray if there is one."""
    return {
        "camera": camera,
        "stamp_s": seconds(flat.header.stamp),
        "frame": solid.header.frame_id or flat.header.frame_id,
        "objects": list(_objects(flat, solid, grasps)),
    }


def _objects(flat: Any, solid: Any, grasps: Any) -> Iterable[Plain]:
    """What has a box in the picture first, then what has one in space alone."""
    boxes = {d.id: d for d in solid.detections}
    held = {g.detection_id: g for g in grasps.targets} if grasps is not None else {}
    for d in flat.detections:
        yield _object(d, box(d.bbox), boxes.pop(d.id, None), held.get(d.id))
    for d in boxes.values():
        yield _object(d, None, d, held.get(d.id))


def _object(named: Any, box_xyxy_px: list[float] | None, solid: Any, grasp: Any) -> Plain:
    best = named.results[0].hypothesis
    space = {"position_m": None, "orientation_xyzw": None, "size_m": None}
    if solid is not None:
        space = pose(solid.bbox.center) | {"size_m": vector(solid.bbox.size)}
    return {
        "id": named.id,
        "label": best.class_id,
        "score": number(best.score),
        "box_xyxy_px": box_xyxy_px,
        **space,
        "grasp": None if grasp is None else _grasp(grasp),
    }


def _grasp(g: Any) -> Plain:
    return pose(g.pose) | {
        "feasible": g.feasible,
        "reason": g.reason,
        "width_m": g.width,
        "opening_m": g.opening,
        "approach_m": g.approach_distance,
        "quality": g.quality,
    }


def lines(text: Any) -> list[Plain]:
    """Of a TextArray."""
    return [
        {"text": line.text, "language": line.language, "translation": line.translation, "box_xyxy_px": box(line.bbox)}
        for line in text.lines
    ]


def fact(f: Any) -> Plain:
    return {
        "relation": f.relation,
        "arguments": list(f.arguments),
        "view": f.view,
        "verdict": _VERDICTS[f.verdict],
        "values": [{"name": q.name, "value": number(q.value), "unit": q.unit} for q in f.values],
        "margin_m": number(f.margin),
        "sigma_m": number(f.sigma),
        "surface": f.surface,
        "age_s": f.age,
        "reason": f.reason,
    }


def answer(result: Any) -> Plain:
    """Of an Ask.Result, without its boxes."""
    return {
        "code": _CODES[result.code],
        "answer": result.answer,
        "message": result.message,
        "facts": list(map(fact, result.facts)),
        "model_answer": result.model_answer,
        "disagreement": result.disagreement,
    }


def reading(r: Any) -> Plain:
    return {
        "point": r.point,
        "camera": r.camera,
        "kind": r.kind,
        "quantity": r.quantity,
        "value": number(r.value),
        "uncertainty": number(r.uncertainty),
        "unit": r.unit,
        "zone": r.zone,
        "text": r.text,
        "quality": _QUALITIES[r.quality],
        "reason": _REASONS[r.reason],
        "message": r.message,
        "limit": number(r.limit),
        "stamp_s": seconds(r.header.stamp),
        "box_xyxy_px": box(r.bbox) if r.bbox.size_x > 0 else None,
    }


def alarm(event: Any) -> Plain:
    return {
        "id": event.id,
        "name": event.name,
        "kind": _KINDS[event.kind],
        "state": _STATES[event.after],
        "severity": event.severity,
        "value": number(event.value),
        "peak": number(event.peak),
        "limit": number(event.limit),
        "unit": event.unit,
        "acknowledged": event.acknowledged,
        "latched": event.latched,
        "shelved": event.shelved,
        "onset_s": seconds(event.onset),
        "message": event.message,
    }


def place_search(reply: Any) -> Plain:
    """Of a FindPlace.Response."""
    return {
        "stamp_s": seconds(reply.header.stamp),
        "frame": reply.header.frame_id,
        "target": _object(reply.target, None, reply.target, None),
        "grasps": list(map(_grasp, reply.grasps)),
        "places": list(map(_place, reply.places)),
        "message": reply.message,
    }


def _place(p: Any) -> Plain:
    return pose(p.box.center) | {
        "support": p.support_id,
        "release": pose(p.release),
        "grasp": p.grasp,
        "approach_m": p.approach_distance,
        "room_m": p.room,
        "quality": p.quality,
        "feasible": p.feasible,
        "reason": p.reason,
        "facts": list(map(fact, p.facts)),
    }


def plan(result: Any) -> Plain:
    """Of a FollowInstruction.Result."""
    p = result.plan
    return {
        "code": ENDS[result.code],
        "message": result.message,
        "plan_id": p.plan_id,
        "revision": p.revision,
        "instruction": p.instruction,
        "executable": p.executable,
        "question": p.question,
        "frame": p.header.frame_id,
        "steps": list(map(_step, p.steps)),
    }


def _step(s: Any) -> Plain:
    return {
        "action": s.action,
        "object": s.object,
        "relation": s.relation,
        "reference": s.reference,
        "target": _object(s.target, None, s.target, None) if s.target.id else None,
        "status": _STATUSES[s.status],
        "message": s.message,
    }


def in_words(plan: Any) -> str:
    """A Plan's steps, as a person reads them before he approves."""
    steps = [
        " ".join(f"{i}. {s.action} {s.object} {s.relation} {s.reference}".split()) for i, s in enumerate(plan.steps, 1)
    ]
    said = " ".join(plan.instruction.split())
    return "\n".join([f"Plan {plan.plan_id}, revision {plan.revision}: {said}", *steps])


def box(bbox: Any) -> list[float]:
    """x0, y0, x1, y1 of a BoundingBox2D."""
    centre, half_x, half_y = bbox.center.position, bbox.size_x / 2, bbox.size_y / 2
    return [round(v, 2) for v in (centre.x - half_x, centre.y - half_y, centre.x + half_x, centre.y + half_y)]


def vector(v: Any) -> list[float]:
    return [v.x, v.y, v.z]


def pose(p: Any) -> Plain:
    o = p.orientation
    return {"position_m": vector(p.position), "orientation_xyzw": [o.x, o.y, o.z, o.w]}
