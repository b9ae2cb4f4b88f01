"""How a simulated arm fails. Knows nothing of what it was doing."""

from qwen3vl_ros.types import PerceptionError


class ArmError(PerceptionError):
    """The arm cannot be had, or cannot do what was asked; the message says why."""


class Unreachable(ArmError):
    """No joint angles bring the gripper there, or no way leads there."""


class Collision(ArmError):
    """Where it shall go, the arm would touch what it may not."""


class Slipped(ArmError):
    """The jaws closed, or moved, and hold nothing."""
