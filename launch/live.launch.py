"""Starts perception.launch.py and the live page of its node, http://localhost:7860; the simulated camera, too, unless there is another.

    ros2 launch qwen3vl_ros live.launch.py
    ros2 launch qwen3vl_ros live.launch.py use_sim_camera:=false target_frame:=base_link \
        input_image_topic:=/camera/camera/color/image_raw input_depth_topic:=/camera/camera/aligned_depth_to_color/image_raw \
        input_camera_info_topic:=/camera/camera/color/camera_info
    ros2 launch qwen3vl_ros live.launch.py host:=0.0.0.0          # for everybody who can reach this machine

All arguments of perception.launch.py are arguments of this file. The page needs viser: pip install viser.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

from launch import LaunchDescription
from qwen3vl_ros.node.launching import remappings, separated

PERCEPTION = os.path.join(get_package_share_directory("qwen3vl_ros"), "launch", "perception.launch.py")
TOPICS = {
    "image_raw": "input_image_topic",
    "depth/image_raw": "input_depth_topic",
    "camera_info": "input_camera_info_topic",
}


def generate_launch_description():
    use_sim_camera = LaunchConfiguration("use_sim_camera")
    return LaunchDescription(
        [
            DeclareLaunchArgument("host", default_value="127.0.0.1", description="Address that the page listens on."),
            DeclareLaunchArgument("port", default_value="7860", description="Its port."),
            DeclareLaunchArgument("use_sim_camera", default_value="true", choices=["true", "false"]),
            DeclareLaunchArgument(
                "target_frame",
                default_value=PythonExpression(["'world' if '", use_sim_camera, "' == 'true' else ''"]),
                description="Frame of the 3D scene; the default is the simulated camera's world.",
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(PERCEPTION)),
            OpaqueFunction(function=start_page),
        ]
    )


def start_page(context):
    def given(name):
        return LaunchConfiguration(name).perform(context)

    topics = {topic: (argument, given(argument)) for topic, argument in TOPICS.items()}
    return [
        Node(
            package="qwen3vl_ros",
            executable="page",
            name="page",
            namespace=given("namespace"),
            arguments=["--host", given("host"), "--port", given("port"), "--cameras", given("cameras")],
            remappings=remappings(topics, separated(given("cameras"))),
            output="screen",
        )
    ]
