"""Plans, their steps, grasps and places to ROS messages and back. Units and frames as in docs/interfaces.md."""

from __future__ import annotations

import math

import numpy as np
from geometry_msgs.msg import Pose
from std_msgs.msg import Header

from qwen3vl_ros import types
from qwen3vl_ros.convert import rotation_of_quaternion
from qwen3vl_ros.instructions.plans import Plan, PlanStep
from qwen3vl_ros.msg import GraspTarget, PlaceTarget
from qwen3vl_ros.msg import Plan as PlanMessage
from qwen3vl_ros.msg import PlanStep as StepMessage
from qwen3vl_ros.node import messages
from qwen3vl_ros.questions.plan import Step

_STATUS = {
    "": StepMessage.OPEN,
    "running": StepMessage.RUNNING,
    "done": StepMessage.DONE,
    "failed": StepMessage.FAILED,
}
_READERS = {"rules": PlanMessage.RULES, "model": PlanMessage.MODEL, "client": PlanMessage.CLIENT}


def plan(told: Plan, camera: str) -> PlanMessage:
    """All of it, poses in told.frame_id."""
    header = messages.header_of(told.stamp_ns, told.frame_id)
    return PlanMessage(
        header=header,
        camera=camera,
        plan_id=told.plan_id,
        revision=told.revision,
        instruction=told.instruction,
        understood_by=PlanMessage.NOBODY if told.lacks == "unread" else _READERS[told.understood_by],
        steps=[_step(header, s) for s in told.steps],
        question=told.question,
        executable=told.executable,
    )


def _step(header: Header, step: PlanStep) -> StepMessage:
    message = StepMessage(
        **step.told._asdict(),
        grasps=messages.grasp_targets(header, step.grasps, 0).targets,
        before=[messages.fact(f) for f in step.before],
        after=[messages.fact(f) for f in step.after],
        status=_STATUS[step.status],
        message=step.message,
    )
    if step.target is not None:
        message.target = target(header, step.target)
        message.places = [place(p, step.target) for p in step.places]
    return message


def told_step(message: StepMessage) -> Step:
    """The words of a step; whatever is measured in the message is not read."""
    return Step(*(getattr(message, name).strip() for name in Step._fields))


def target(header: Header, detection: types.Detection3D):
    return messages.detections_3d(header, [detection]).detections[0]


def place(told: types.PlaceTarget, thing: types.Detection3D) -> PlaceTarget:
    """thing: what is put there."""
    message = PlaceTarget(
        detection_id=told.detection_id,
        support_id=told.support_id,
        release=messages.pose_of(told.frame_T_gripper),
        grasp=told.grasp,
        approach_distance=float(told.approach_m),
        room=float(told.room_m),
        quality=float(told.quality),
        feasible=bool(told.feasible),
        reason=told.reason,
        facts=[messages.fact(f) for f in told.facts],
    )
    message.box.center = messages.pose_of(told.frame_T_box)
    message.box.size.x, message.box.size.y, message.box.size.z = map(float, thing.size_m)
    return message


def matrix_of_pose(pose: Pose, name: str) -> np.ndarray:
    """A pose as a 4x4 transform. Raises InvalidInput, by `name`, for what is none."""
    matrix = np.eye(4)
    o, p = pose.orientation, pose.position
    try:
        matrix[:3, :3] = rotation_of_quaternion((o.x, o.y, o.z, o.w))
    except types.InvalidInput as error:
        raise types.InvalidInput(f"{name}: {error}") from None
    matrix[:3, 3] = p.x, p.y, p.z
    if not np.isfinite(matrix).all():
        raise types.InvalidInput(f"{name} has a position that is not finite")
    return matrix


def read_grasp(message: GraspTarget, frame_id: str, label: str) -> types.GraspTarget:
    """A grasp that somebody gives. Raises InvalidInput for what is none."""
    pose = matrix_of_pose(message.pose, "grasp.pose")
    opening_m = message.opening or float("nan")  # a grasp that says nothing of it
    if not (
        0 < message.width < 1 and 0 <= message.approach_distance < 2 and (0 < opening_m < 1 or math.isnan(opening_m))
    ):
        raise types.InvalidInput(
            f"grasp has width {message.width:g} m, opening {message.opening:g} m and approach_distance {message.approach_distance:g} m; "
            "the first two must be 0 to 1, the third 0 to 2"
        )
    return types.GraspTarget(
        message.detection_id,
        label,
        frame_id,
        pose,
        message.width,
        message.approach_distance,
        1.0,
        True,
        "",
        opening_m,
    )
