"""Starts a simulated robot and the perception node: give an instruction in words, see the plan, have it carried out.

    ros2 launch qwen3vl_ros pick_place.launch.py
    ros2 action send_goal -f /qwen3vl/perception/follow_instruction qwen3vl_ros/action/FollowInstruction \
      "{instruction: 'put the yellow ball into the blue bowl', execute: true}"

With use_sim_robot:=false the robot is yours: its camera publishes, and a planner serves execute_step (docs/planners.md).
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = get_package_share_directory("qwen3vl_ros")
ARGUMENTS = {
    "namespace": ("qwen3vl", "Namespace of nodes and topics."),
    "params_file": (os.path.join(SHARE, "config", "perception.yaml"), "Parameter file of the perception node."),
    "model": ("", "Checkpoint directory or hub id; empty is the embedded model."),
    "target_frame": ("world", "Frame of plans and of everything the arm is told; by TF at capture."),
    "robot_frame": ("arm_link0", "The robot's base, whose moving makes a picture useless for a motion."),
    "stream": ("false", "Also run the detection stream."),
    "scene": ("bench", "Of the simulation: bench, or wide with a seed."),
    "seed": ("0", "Which of the wide scenes."),
    "pace": ("1.0", "How many times as fast as real time the simulation runs at most."),
}


def generate_launch_description():
    arguments = [DeclareLaunchArgument(n, default_value=v, description=d) for n, (v, d) in ARGUMENTS.items()]
    sim = DeclareLaunchArgument(
        "use_sim_robot",
        default_value="true",
        choices=["true", "false"],
        description="Also start the simulated robot; its clock is then the nodes' clock.",
    )
    given = LaunchConfiguration
    perception = Node(
        package="qwen3vl_ros",
        executable="perception",
        name="perception",
        namespace=given("namespace"),
        parameters=[
            given("params_file"),
            {
                "model": ParameterValue(given("model"), value_type=str),
                "enabled": ParameterValue(given("stream"), value_type=bool),
                "target_frame": ParameterValue(given("target_frame"), value_type=str),
                "robot_frame": ParameterValue(given("robot_frame"), value_type=str),
                "use_sim_time": ParameterValue(given("use_sim_robot"), value_type=bool),
            },
        ],
        output="screen",
        sigterm_timeout="15",
        on_exit=Shutdown(),
    )
    robot = Node(
        package="qwen3vl_ros",
        executable="sim_robot",
        name="sim_robot",
        namespace=given("namespace"),
        parameters=[
            {
                "scene": ParameterValue(given("scene"), value_type=str),
                "seed": ParameterValue(given("seed"), value_type=int),
                "pace": ParameterValue(given("pace"), value_type=float),
            }
        ],
        condition=IfCondition(given("use_sim_robot")),
        output="screen",
        sigterm_timeout="15",
        on_exit=Shutdown(),
    )
    profile = EnvironmentVariable(
        "FASTDDS_DEFAULT_PROFILES_FILE", default_value=os.path.join(SHARE, "config", "fastdds.xml")
    )
    return LaunchDescription(
        [*arguments, sim, SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile), robot, perception]
    )
