"""Stand-ins for MoveIt where it is not installed: its messages by their fields, and its Python API by what a server calls of it.

Messages refuse fields that are not theirs and values of other types, as generated ones do. Written after moveit_msgs 2.6 and the bindings
of moveit_py.
"""

import sys
import threading
import types
from importlib.util import find_spec

from geometry_msgs.msg import Pose, PoseStamped, Vector3Stamped
from shape_msgs.msg import SolidPrimitive
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory


class Message:
    """fields: name -> type, [type] for a sequence of them."""

    fields: dict = {}

    def __init__(self, **values):
        for name, kind in self.fields.items():
            object.__setattr__(self, name, [] if isinstance(kind, list) else kind())
        for name, value in values.items():
            setattr(self, name, value)

    def __setattr__(self, name, value):
        kind = self.fields[name] if name in self.fields else None
        assert kind is not None, f"{type(self).__name__} has no field {name!r}"
        each, (wanted,) = (value, kind) if isinstance(kind, list) else ([value], (kind,))
        assert all(isinstance(v, wanted) for v in each), (
            f"{type(self).__name__}.{name} is no {wanted.__name__}: {value!r}"
        )
        object.__setattr__(self, name, value)


def _message(_name, _constants=(), **fields):
    return type(_name, (Message,), {"fields": fields, **dict(_constants)})


GripperTranslation = _message(
    "GripperTranslation", direction=Vector3Stamped, desired_distance=float, min_distance=float
)
Grasp = _message(
    "Grasp",
    id=str,
    pre_grasp_posture=JointTrajectory,
    grasp_posture=JointTrajectory,
    grasp_pose=PoseStamped,
    grasp_quality=float,
    pre_grasp_approach=GripperTranslation,
    post_grasp_retreat=GripperTranslation,
    post_place_retreat=GripperTranslation,
    max_contact_force=float,
    allowed_touch_objects=[str],
)
PlaceLocation = _message(
    "PlaceLocation",
    id=str,
    post_place_posture=JointTrajectory,
    place_pose=PoseStamped,
    quality=float,
    pre_place_approach=GripperTranslation,
    post_place_retreat=GripperTranslation,
    allowed_touch_objects=[str],
)
_ADD, _REMOVE = b"\x00", b"\x01"
CollisionObject = _message(
    "CollisionObject",
    (("ADD", _ADD), ("REMOVE", _REMOVE)),
    header=Header,
    pose=Pose,
    id=str,
    primitives=[SolidPrimitive],
    primitive_poses=[Pose],
    operation=bytes,
)
AttachedCollisionObject = _message(
    "AttachedCollisionObject", link_name=str, object=CollisionObject, touch_links=[str], detach_posture=JointTrajectory
)
MESSAGES = (GripperTranslation, Grasp, PlaceLocation, CollisionObject, AttachedCollisionObject)


class MoveIt:
    """A robot that goes where it is told, and tells. went: (group, goal). width_m: of what is between the jaws.

    unreachable: numbers of the goals that cannot be planned. slow: motions last until they are stopped.
    """

    def __init__(self, node_name=""):
        self.went, self.attached, self.width_m = [], [], 0.05
        self.unreachable, self.slow = (), False
        self.stopped, self.begun = threading.Event(), threading.Event()
        self.joints = {"panda_finger_joint1": 0.04, "panda_finger_joint2": 0.04}
        self._pushed = None

    def get_planning_component(self, name):
        return Component(self, name)

    def get_planning_scene_monitor(self):
        return self

    def get_trajectory_execution_manager(self):
        return self

    def get_robot_model(self):
        return None

    # the planning scene monitor
    def read_only(self):
        return self

    def __enter__(self):
        return types.SimpleNamespace(current_state=types.SimpleNamespace(joint_positions=dict(self.joints)))

    def __exit__(self, *_):
        return None

    def process_attached_collision_object(self, message):
        self.attached.append(message)

    def process_collision_object(self, message):
        self.attached.append(message)

    # the trajectory execution manager
    def push(self, message):
        self._pushed = message

    def stop_execution(self):
        self.stopped.set()

    def execute_and_wait(self):
        group, goal = self._pushed
        self.begun.set()
        self.went.append((group, goal))
        if self.slow and group != "hand":
            self.stopped.wait(600)
            return Status("PREEMPTED")
        if group == "hand":
            wanted = goal.joint_positions["panda_finger_joint1"]
            held = max(wanted, self.width_m / 2)
            self.joints = dict.fromkeys(self.joints, held)
            return Status("SUCCEEDED" if held == wanted else "ABORTED")
        return Status("SUCCEEDED")


class Status:
    def __init__(self, status):
        self.status = status

    def __bool__(self):
        return self.status == "SUCCEEDED"


class Component:
    def __init__(self, robot, name):
        self._robot, self._name, self._goal, self._plans = robot, name, None, 0

    def set_start_state_to_current_state(self):
        self._goal = None

    def set_goal_state(self, configuration_name=None, robot_state=None, pose_stamped_msg=None, pose_link=None):
        assert (pose_stamped_msg is None) == (pose_link is None)
        self._goal = configuration_name or robot_state or (pose_link, pose_stamped_msg)

    def plan(self, single_plan_parameters=None):
        self._plans += 1
        if self._name != "hand" and self._plans in self._robot.unreachable:
            return None
        trajectory = types.SimpleNamespace(get_robot_trajectory_msg=lambda: (self._name, self._goal))
        return types.SimpleNamespace(trajectory=trajectory)


def install(monkeypatch):
    """Put the stand-ins where the imports look, unless the real messages are there."""
    if find_spec("moveit_msgs") is None:
        messages = types.ModuleType("moveit_msgs.msg")
        for kind in MESSAGES:
            setattr(messages, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, "moveit_msgs", types.ModuleType("moveit_msgs"))
        monkeypatch.setitem(sys.modules, "moveit_msgs.msg", messages)
    planning, core, state = (types.ModuleType(n) for n in ("moveit.planning", "moveit.core", "moveit.core.robot_state"))
    planning.MoveItPy = MoveIt
    planning.PlanRequestParameters = lambda moveit, name: name
    state.RobotState = lambda model: types.SimpleNamespace(joint_positions={})
    for module in (types.ModuleType("moveit"), planning, core, state):
        monkeypatch.setitem(sys.modules, module.__name__, module)
