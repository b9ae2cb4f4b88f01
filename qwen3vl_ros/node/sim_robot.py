"""A robot for those who have none: a simulated arm on a table, the camera that looks at it, and the action `execute_step`.

Publishes image_raw, depth/image_raw and camera_info (sensor-data QoS), overview/image_raw (arm and table from a second
viewpoint, while somebody subscribes), joint_states, /tf and /tf_static, /clock, and the simulation's truth on ~/ground_truth_3d:
poses of objects in frame `world`. Serves check_reach beside the action, and ~/reset, which arranges the world anew; ~/move is a
hand that puts an object elsewhere. Its time is the simulation's, which runs as fast as the clock on the wall where the machine is fast
enough and slower where it is not: start the other nodes with use_sim_time.

The arm fails as arms fail (unreachable, collision, slipped), and parameter `fault` makes it.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from typing import Callable

import numpy as np
from geometry_msgs.msg import TransformStamped
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3D, Detection3DArray

from qwen3vl_ros import types
from qwen3vl_ros.action import ExecuteStep
from qwen3vl_ros.node import messages
from qwen3vl_ros.node.plan_messages import matrix_of_pose
from qwen3vl_ros.node.playing import run
from qwen3vl_ros.node.signals import StopSignals
from qwen3vl_ros.sim.arm import OPEN_M
from qwen3vl_ros.sim.shots import CAMERA_FRAME, WORLD_FRAME
from qwen3vl_ros.sim.workcell import FAULTS, Ending, Report, Workcell, base_beside, scene_of
from qwen3vl_ros.srv import CheckReach

BASE_FRAME = "arm_link0"
PARAMETERS = {
    # name: (default, doc)
    "scene": ("bench", "bench, always the same table with a shelf; or wide, the scene of `seed` among endlessly many."),
    "seed": (0, "Which of the wide scenes."),
    "rate": (5.0, "Pictures a second, of the simulation's."),
    "pace": (1.0, "How many times as fast as real time the simulation runs at most; slower where the machine is."),
    "width": (640, "Width of the pictures, pixels."),
    "height": (480, "Height of the pictures, pixels."),
    "depth_noise": (True, "Depth with a real camera's noise, steps and holes; false gives exact depth."),
    "fault": (
        "",
        "What goes wrong from now on: slip (the jaws give way), unreachable, collision, silent (a step is never answered), dead (the "
        "action goes away), frozen (the camera shows one picture for ever), blind (its depth stops); empty: nothing.",
    ),
}
STATE_PERIOD_S, CLOCK_PERIOD_S, OVERVIEW_PERIOD_S = 0.04, 0.02, 0.2


class SimRobotNode(Node):
    """Node `sim_robot`. play() runs until `stop` is set; all of the world is its thread's, messages arrive on another."""

    def __init__(self, **kwargs):
        super().__init__("sim_robot", **{"namespace": "qwen3vl", **kwargs})
        self.settings = {name: self._declared(name, default, doc) for name, (default, doc) in PARAMETERS.items()}
        for name, least, most in (("rate", 0.1, 60.0), ("pace", 0.05, 100.0)):
            if not least <= self.settings[name] <= most:
                raise types.InvalidInput(
                    f"parameter {name} is {self.settings[name]:g}; it must be {least:g} to {most:g}"
                )
        self._check_fault(self.settings["fault"])
        self.add_on_set_parameters_callback(self._on_parameters)
        self._image = self.create_publisher(Image, "image_raw", qos_profile_sensor_data)
        self._depth = self.create_publisher(Image, "depth/image_raw", qos_profile_sensor_data)
        self._info = self.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
        self._overview = self.create_publisher(Image, "overview/image_raw", qos_profile_sensor_data)
        self._joints = self.create_publisher(JointState, "joint_states", 10)
        self._clock_out = self.create_publisher(Clock, "/clock", QoSProfile(depth=1))
        self._tf = self.create_publisher(TFMessage, "/tf", 100)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static_tf = self.create_publisher(TFMessage, "/tf_static", latched)
        self._truth = self.create_publisher(Detection3DArray, "~/ground_truth_3d", 10)
        self._wanted: tuple[object, Callable[[Report], None]] | None = None  # a goal that waits for the world's thread
        self._calls: deque[tuple[Callable[[], object], Callable[[object], None]]] = (
            deque()
        )  # and what services wait for
        aside = ReentrantCallbackGroup()
        self.create_service(CheckReach, "check_reach", self._on_check, callback_group=aside)
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=aside)
        self.create_subscription(Detection3D, "~/move", self._on_move, 10)
        self._goal = None
        self._server: ActionServer | None = None
        self._began_ns = time.time_ns()

    def _declared(self, name: str, default, doc: str):
        numeric = isinstance(default, float)
        described = ParameterDescriptor(description=doc, read_only=name != "fault", dynamic_typing=numeric)
        value = self.declare_parameter(name, default, described).value
        if numeric and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise types.InvalidInput(f"parameter {name} = {value!r} must be a number")
        return float(value) if numeric else value

    @staticmethod
    def _check_fault(fault: str) -> None:
        if fault not in FAULTS:
            raise types.InvalidInput(
                f"parameter fault is {fault!r}; it must be empty or one of {', '.join(FAULTS[1:])}"
            )

    def _on_parameters(self, changed) -> SetParametersResult:
        for parameter in changed:
            if parameter.name == "fault":
                try:
                    self._check_fault(parameter.value)
                except types.InvalidInput as error:
                    return SetParametersResult(successful=False, reason=str(error))
                self.settings["fault"] = parameter.value
        return SetParametersResult(successful=True)

    # -- the world's thread --------------------------------------------------------------------------------------------

    def play(self, stop: StopSignals) -> None:
        """Let the world run until `stop` is set."""
        spec = scene_of(self.settings["scene"], self.settings["seed"])
        size = self.settings["width"], self.settings["height"]
        with Workcell(spec, base_beside(spec), *size, self.settings["depth_noise"]) as cell:
            self._cell, self._frozen = cell, None
            self._due_s = dict(clock=0.0, state=0.0, picture=0.0, overview=0.0)
            self._wall_s, self._world_s = time.monotonic(), cell.time_s
            cell.tick = self._tick
            cell.cancelled = lambda: stop.is_set() or self._server is None or self._goal.is_cancel_requested
            cell.phase = lambda state: self._goal and self._goal.publish_feedback(ExecuteStep.Feedback(state=state))
            self._tell_fixed()
            self.get_logger().info(
                f"simulated arm, scene {self.settings['scene']}: {', '.join(o.label for o in spec.objects)}"
                + (f", a shelf of {spec.shelf.levels} levels" if spec.shelf else "")
            )
            while not stop.is_set():
                self._offer()
                if self._wanted is not None:
                    self._work()
                while self._calls:
                    do, answer = self._calls.popleft()
                    answer(do())
                cell.idle()

    def _offer(self) -> None:
        """Serve the action, but where it shall be dead; what is asked of the dead is never answered."""
        dead = self.settings["fault"] == "dead"
        if self._server is None and not dead:
            self._server = ActionServer(
                self,
                ExecuteStep,
                "execute_step",
                execute_callback=self._on_step,
                goal_callback=lambda _: GoalResponse.ACCEPT,  # what is wrong with a goal, its result says in words
                cancel_callback=lambda _: CancelResponse.ACCEPT,
                callback_group=ReentrantCallbackGroup(),
            )
        elif self._server is not None and dead:
            self._server.destroy()
            self._server = None

    def _work(self) -> None:
        """The step that is waited for."""
        (goal, answer), self._wanted = self._wanted, None
        self._goal, asked, server = goal, goal.request, self._server
        try:
            report = self._done(asked)
        except types.PerceptionError as error:
            report = Report(Ending.REJECTED, str(error), False, self._cell.holding, self._cell.arm.opening_m())
        self._goal = None
        if self.settings["fault"] != "silent" and self._server is server:
            answer(report)
        self.get_logger().info(f"{asked.action} {asked.target.id}: {report.ending.name} {report.message}")

    def _done(self, asked) -> Report:
        cell = self._cell
        pose = asked.grasp.pose if asked.action == "pick" else asked.place.release
        if asked.action not in ("pick", "place"):
            raise types.InvalidInput(f"action {types.quoted(asked.action)} is unknown; this arm can pick and place")
        world_T_gripper = self._world_T(asked.header.frame_id) @ matrix_of_pose(pose, f"the {asked.action}'s pose")
        approach_m = _near(asked.grasp if asked.action == "pick" else asked.place)
        if asked.action == "pick":
            return cell.pick(world_T_gripper, _width(asked.grasp), approach_m, asked.grasp.opening)
        return cell.place(world_T_gripper, approach_m)

    def _checked(self, asked: CheckReach.Request) -> CheckReach.Response:
        cell = self._cell
        told = CheckReach.Response(success=True, holding=cell.holding)
        if not asked.grasps:
            return told
        try:
            if cell.holding:
                raise types.InvalidInput("the gripper holds something; it must be put down before anything is taken")
            world_T = self._world_T(asked.header.frame_id)
            grasps = [
                (world_T @ matrix_of_pose(g.pose, "a grasp's pose"), _width(g), _near(g), g.opening)
                for g in asked.grasps
            ]
            places = [(p.grasp, world_T @ matrix_of_pose(p.release, "a place's pose"), _near(p)) for p in asked.places]
            if any(grasp >= len(grasps) for grasp, *_ in places):
                raise types.InvalidInput(f"a place names a grasp that is not among the {len(grasps)} given")
            told.refused = list(cell.check(grasps, places, asked.enough))
        except types.PerceptionError as why:
            told.success, told.message = False, str(why)
        return told

    def _moved(self, asked: Detection3D) -> None:
        try:
            pose = self._world_T(asked.header.frame_id) @ matrix_of_pose(asked.bbox.center, "bbox.center")
            self._cell.move(asked.id, pose)
        except types.PerceptionError as why:
            self.get_logger().error(f"{self.resolve_topic_name('~/move')}: {why}")

    def _world_T(self, frame_id: str) -> np.ndarray:
        known = {WORLD_FRAME: np.eye(4), BASE_FRAME: self._cell.world_T_base}
        if frame_id.lstrip("/") not in known:
            raise types.InvalidInput(
                f"frame {types.quoted(frame_id)} is unknown to this arm; known are {', '.join(known)}"
            )
        return known[frame_id.lstrip("/")]

    # -- what is told as time passes -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        """After every little while of the world's: what is due, and not faster than it should."""
        self._cell.fault = self.settings["fault"]
        if self._cell.fault == "dead":
            self._offer()
        for name, period_s, tell in (
            ("clock", CLOCK_PERIOD_S, self._tell_clock),
            ("state", STATE_PERIOD_S, self._tell_state),
            ("picture", 1.0 / self.settings["rate"], self._tell_picture),
            ("overview", OVERVIEW_PERIOD_S, self._tell_overview),
        ):
            if self._cell.time_s >= self._due_s[name]:
                self._due_s[name] = max(self._due_s[name] + period_s, self._cell.time_s)
                tell()
        ahead_s = (self._cell.time_s - self._world_s) / self.settings["pace"] - (time.monotonic() - self._wall_s)
        if ahead_s > 0:
            time.sleep(ahead_s)
        else:  # what is lost is lost
            self._wall_s, self._world_s = time.monotonic(), self._cell.time_s

    def _stamp_ns(self) -> int:
        return self._began_ns + round(self._cell.time_s * 1e9)

    def _tell_clock(self) -> None:
        self._clock_out.publish(Clock(clock=messages.header_of(self._stamp_ns(), "").stamp))

    def _tell_fixed(self) -> None:
        poses = {BASE_FRAME: self._cell.world_T_base, CAMERA_FRAME: self._cell.world.spec().camera.world_T_camera()}
        self._static_tf.publish(self._transforms(poses))

    def _transforms(self, poses: dict[str, np.ndarray]) -> TFMessage:
        header = messages.header_of(self._stamp_ns(), WORLD_FRAME)
        return TFMessage(
            transforms=[
                TransformStamped(header=header, child_frame_id=name, transform=messages.transform_msg(pose))
                for name, pose in poses.items()
            ]
        )

    def _tell_state(self) -> None:
        arm = self._cell.arm
        joints = JointState(header=messages.header_of(self._stamp_ns(), ""))
        joints.name = [*(f"joint{k}" for k in range(1, 8)), "finger_opening"]
        joints.position = [*map(float, arm.joints()), arm.opening_m()]
        self._joints.publish(joints)
        self._tf.publish(
            self._transforms({f"arm_link{k}": arm.link(k) for k in range(1, 8)} | {"gripper": arm.gripper()})
        )

    def _tell_picture(self) -> None:
        if self.settings["fault"] != "frozen" or self._frozen is None:
            self._frozen = self._cell.look()
        view, depth_m = self._frozen
        header = messages.header_of(self._stamp_ns(), CAMERA_FRAME)
        self._info.publish(messages.camera_info(header, view.K, (view.rgb.shape[1], view.rgb.shape[0])))
        if self.settings["fault"] != "blind":
            self._depth.publish(messages.image(header, depth_m.astype(np.float32, copy=False)))
        self._image.publish(messages.image(header, view.rgb))
        truth = messages.header_of(self._stamp_ns(), WORLD_FRAME)
        boxes = [
            types.Detection3D(str(k), o.label, 1.0, WORLD_FRAME, self._cell.world.pose(k), np.asarray(o.size_m, float))
            for k, o in enumerate(self._cell.world.spec().objects)
        ]
        self._truth.publish(messages.detections_3d(truth, boxes))

    def _tell_overview(self) -> None:
        if self._overview.get_subscription_count():
            header = messages.header_of(self._stamp_ns(), "overview_optical_frame")
            self._overview.publish(messages.image(header, self._cell.overview()))

    # -- the executor's thread -----------------------------------------------------------------------------------------

    async def _on_check(self, asked: CheckReach.Request, _) -> CheckReach.Response:
        return await self._between_motions(lambda: self._checked(asked))

    async def _on_reset(self, *_) -> Trigger.Response:
        await self._between_motions(lambda: self._cell.reset())
        return Trigger.Response(success=True, message="everything is where it was at first, the arm at rest")

    def _on_move(self, asked: Detection3D) -> None:
        self._between_motions(lambda: self._moved(asked))

    def _between_motions(self, do: Callable[[], object]) -> Future:
        """What the world's thread makes of `do`, once no motion is under way."""
        waits = Future(executor=self.executor)
        waits.add_done_callback(lambda _: None)
        self._calls.append((do, waits.set_result))
        return waits

    async def _on_step(self, goal):
        waits = Future(executor=self.executor)
        waits.add_done_callback(lambda _: None)  # without one the coroutine that waits would not be resumed
        if self._wanted is not None or self._goal is not None:
            busy = "the arm is carrying out another step"
            result = ExecuteStep.Result(code=ExecuteStep.Result.REJECTED, message=busy, opening=math.nan)
        else:
            self._wanted = goal, waits.set_result
            report = await waits
            result = ExecuteStep.Result(
                code=int(report.ending),
                message=report.message,
                retry=report.retry,
                holding=report.holding,
                opening=report.opening_m,
            )
        if result.code == ExecuteStep.Result.OK:
            goal.succeed()
        elif result.code == ExecuteStep.Result.CANCELLED:
            goal.canceled()
        else:
            goal.abort()
        return result


def _near(way) -> float:
    """The approach distance of a grasp or place, metres."""
    if not 0.01 <= way.approach_distance <= 0.3:
        raise types.InvalidInput(f"approach_distance is {way.approach_distance:g} m; this arm can do 0.01 to 0.3")
    return way.approach_distance


def _width(grasp) -> float:
    """Of a grasp, metres."""
    if not 0 <= grasp.width <= OPEN_M:
        raise types.InvalidInput(f"the grasp's width is {grasp.width:g} m; this gripper opens {OPEN_M:g}")
    return grasp.width


def main(args: list[str] | None = None) -> int:
    """Run until told to stop; returns the exit status."""
    return run(SimRobotNode, "sim_robot", args)


if __name__ == "__main__":
    sys.exit(main())
