"""Grasps and places in MoveIt's messages, where moveit_msgs is installed (docs/planners.md).

Our poses are of a frame between the fingertips; MoveIt's name the link that the hand is mounted on. A `Tool` says where the one is in the
other and how joints open the jaws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Pose, PoseStamped, Vector3Stamped
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from qwen3vl_ros.convert import rotation_of_quaternion
from qwen3vl_ros.msg import GraspTarget, PlaceTarget
from qwen3vl_ros.node.messages import pose_of
from qwen3vl_ros.types import InvalidInput

RETREAT_M = 0.10  # up, with what was taken


@dataclass(frozen=True)
class Tool:
    """A parallel-jaw hand as MoveIt knows it. link: its parent link. link_T_tip: 4x4, the frame between the fingertips in that link, +z
    the approach, +y the closing direction; of jaws that swing, at the width that is usual. joints: that open the jaws. per_metre: what
    each of them moves for a metre of opening. max_width_m: how far they open, 0 where nobody says. force_n: 0 for the controller's own.
    """

    link: str
    link_T_tip: np.ndarray
    joints: tuple[str, ...]
    per_metre: tuple[float, ...]
    force_n: float = 0.0
    max_width_m: float = 0.0
    allowed: tuple[str, ...] = ()

    def __post_init__(self):
        tip = np.asarray(self.link_T_tip, float)
        if tip.shape != (4, 4) or not np.allclose(tip[:3, :3] @ tip[:3, :3].T, np.eye(3), atol=1e-3):
            raise InvalidInput("Tool.link_T_tip must be a 4x4 transform, the fingertips' frame in the link")
        if not self.joints or len(self.joints) != len(self.per_metre):
            raise InvalidInput(
                f"Tool has {len(self.joints)} joints and {len(self.per_metre)} ratios; give one ratio for each of at least one joint"
            )

    def link_pose(self, tip_pose: np.ndarray) -> np.ndarray:
        """Where the link is when the fingertips are at tip_pose; 4x4, in its frame."""
        return tip_pose @ np.linalg.inv(self.link_T_tip)

    def posture(self, opening_m: float) -> JointTrajectory:
        """The joints at an opening."""
        positions = [float(r * opening_m) for r in self.per_metre]
        effort = [float(self.force_n)] * len(self.joints) if self.force_n > 0 else []
        point = JointTrajectoryPoint(positions=positions, effort=effort, time_from_start=Duration(sec=1))
        return JointTrajectory(joint_names=list(self.joints), points=[point])


# The Franka hand in the frames of its description: fingers close along the hand's y.
FRANKA_HAND = Tool(
    "panda_hand",
    np.array(((1.0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0.1034), (0, 0, 0, 1))),
    ("panda_finger_joint1", "panda_finger_joint2"),
    (0.5, 0.5),
    40.0,
    0.08,
)


def matrix_of(pose: Pose) -> np.ndarray:
    """A pose as a 4x4 transform. Raises InvalidInput where its quaternion is none."""
    o, p, matrix = pose.orientation, pose.position, np.eye(4)
    matrix[:3, :3] = rotation_of_quaternion((o.x, o.y, o.z, o.w))
    matrix[:3, 3] = p.x, p.y, p.z
    return matrix


def grasp(header: Header, target: GraspTarget, tool: Tool = FRANKA_HAND):
    """The moveit_msgs/Grasp of a GraspTarget. header: of what holds the target. Raises InvalidInput for an infeasible one."""
    from moveit_msgs.msg import Grasp

    if not target.feasible:
        raise InvalidInput(f"grasp of {target.class_id!r} is not feasible: {target.reason}")
    tip = matrix_of(target.pose)
    opening = max(target.opening, target.width)
    message = Grasp(id=target.detection_id, grasp_quality=float(target.quality))
    message.pre_grasp_posture = tool.posture(min(opening, tool.max_width_m or opening))
    message.grasp_posture = tool.posture(0.0)  # force ends the closing, not a position
    message.grasp_pose = _stamped(header, tool.link_pose(tip))
    message.pre_grasp_approach = _along(header, tip[:3, 2], target.approach_distance)
    message.post_grasp_retreat = _along(header, np.array((0.0, 0.0, 1.0)), RETREAT_M)
    message.post_place_retreat = _along(header, -tip[:3, 2], target.approach_distance)
    message.max_contact_force = float(tool.force_n)
    message.allowed_touch_objects = [target.detection_id, *tool.allowed]
    return message


def place_location(header: Header, target: PlaceTarget, opening_m: float, tool: Tool = FRANKA_HAND):
    """The moveit_msgs/PlaceLocation of a PlaceTarget: of the hand, so a Place goal needs `place_eef: true`. opening_m: of the jaws when
    they let go. Raises InvalidInput for an infeasible one.
    """
    from moveit_msgs.msg import PlaceLocation

    if not target.feasible:
        raise InvalidInput(f"place for {target.detection_id!r} is not feasible: {target.reason}")
    tip = matrix_of(target.release)
    message = PlaceLocation(id=target.detection_id, quality=float(target.quality))
    message.post_place_posture = tool.posture(min(opening_m, tool.max_width_m or opening_m))
    message.place_pose = _stamped(header, tool.link_pose(tip))
    message.pre_place_approach = _along(header, tip[:3, 2], target.approach_distance)
    message.post_place_retreat = _along(header, -tip[:3, 2], target.approach_distance)
    message.allowed_touch_objects = [target.detection_id, target.support_id, *tool.allowed]
    return message


def _stamped(header: Header, pose: np.ndarray) -> PoseStamped:
    return PoseStamped(header=header, pose=pose_of(pose))


def _along(header: Header, direction: np.ndarray, distance_m: float):
    """A straight move of the hand; at least half of it must be possible."""
    from moveit_msgs.msg import GripperTranslation

    vector = Vector3Stamped(header=header)
    vector.vector.x, vector.vector.y, vector.vector.z = map(float, direction)
    return GripperTranslation(direction=vector, desired_distance=float(distance_m), min_distance=float(distance_m) / 2)
