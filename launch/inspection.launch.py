"""Starts the perception node with an inspection file, and with use_sim_panel:=true (the default) the simulated plant panel.

    ros2 launch qwen3vl_ros inspection.launch.py
    ros2 launch qwen3vl_ros inspection.launch.py use_sim_panel:=false file:=/plant/points.yaml directory:=/var/lib/inspection

docs/inspection.md says how to write points, and what comes of them.
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
    "file": (
        os.path.join(SHARE, "config", "inspection.yaml"),
        "Inspection file; the default is the simulated panel's.",
    ),
    "directory": (
        os.path.join(os.path.expanduser("~"), ".ros", "qwen3vl_inspection"),
        "Folder for evidence, journal, reports and the state of alarms; empty keeps nothing.",
    ),
    "model": ("", "Checkpoint directory or hub id; empty is the embedded model."),
    "stream": ("false", "Also run the detection stream."),
    "use_depth": ("false", "Wait for depth images; the panel has none."),
}


def generate_launch_description():
    arguments = [DeclareLaunchArgument(n, default_value=v, description=d) for n, (v, d) in ARGUMENTS.items()]
    panel = DeclareLaunchArgument(
        "use_sim_panel",
        default_value="true",
        choices=["true", "false"],
        description="Also start the simulated plant panel.",
    )
    given = LaunchConfiguration
    perception = Node(
        package="qwen3vl_ros",
        executable="perception",
        name="perception",
        namespace=given("namespace"),
        parameters=[
            os.path.join(SHARE, "config", "perception.yaml"),
            {
                "model": ParameterValue(given("model"), value_type=str),
                "enabled": ParameterValue(given("stream"), value_type=bool),
                "use_depth": ParameterValue(given("use_depth"), value_type=bool),
                "inspection.file": ParameterValue(given("file"), value_type=str),
                "inspection.directory": ParameterValue(given("directory"), value_type=str),
            },
        ],
        output="screen",
        sigterm_timeout="15",
        on_exit=Shutdown(),
    )
    camera = Node(
        package="qwen3vl_ros",
        executable="sim_camera",
        name="sim_camera",
        namespace=given("namespace"),
        parameters=[{"panel": True, "width": 960, "height": 720}],
        condition=IfCondition(given("use_sim_panel")),
        output="screen",
    )
    profile = EnvironmentVariable(
        "FASTDDS_DEFAULT_PROFILES_FILE", default_value=os.path.join(SHARE, "config", "fastdds.xml")
    )
    return LaunchDescription(
        [*arguments, panel, SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile), perception, camera]
    )
