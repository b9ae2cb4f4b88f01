"""Starts the perception node, and with use_sim_camera:=true the simulated RGB-D camera beside it, or one for each of its
cameras.

    ros2 launch qwen3vl_ros perception.launch.py use_sim_camera:=true
    ros2 launch qwen3vl_ros perception.launch.py cameras:=front,wrist input_image_topic:=/front/color,/wrist/color
    ros2 launch qwen3vl_ros perception.launch.py --show-args

An argument left empty leaves the value of the parameter file as it is. A parameter file that is not there is refused; one
that is of another node, and an argument that is misspelt, are warnings.
"""

import os
from typing import List

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription, logging
from qwen3vl_ros.config import parameters
from qwen3vl_ros.node.launching import check_parameter_file, misspelt, remappings, separated

SHARE = get_package_share_directory("qwen3vl_ros")
# Described where they are declared (qwen3vl_ros/config.py).
NODE_PARAMETERS = {
    p.name: p
    for p in parameters()
    if p.name in ("model", "device", "engine", "target_frame", "image_transport", "autostart")
}
TOPICS = {
    "input_image_topic": ("image_raw", "Topic of the colour images, without /compressed."),
    "input_depth_topic": ("depth/image_raw", "Topic of the depth images, aligned to the colour images."),
    "input_camera_info_topic": ("camera_info", "Topic of the colour camera's intrinsics."),
}


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument("namespace", default_value="qwen3vl", description="Namespace of nodes and topics."),
        DeclareLaunchArgument(
            "params_file",
            default_value=os.path.join(SHARE, "config", "perception.yaml"),
            description="Parameter file of the node.",
        ),
        DeclareLaunchArgument(
            "use_sim_camera",
            default_value="false",
            choices=["true", "false"],
            description="Also start the simulated RGB-D camera: image_raw, depth/image_raw, camera_info.",
        ),
    ]
    arguments.append(
        DeclareLaunchArgument(
            "cameras",
            default_value="",
            description="Names of several cameras, separated by commas; the topics below are then given so, too.",
        )
    )
    for name, (node_topic, description) in TOPICS.items():
        arguments.append(
            DeclareLaunchArgument(name, default_value="", description=f"{description} Empty: <namespace>/{node_topic}.")
        )
    for name, parameter in NODE_PARAMETERS.items():
        arguments.append(DeclareLaunchArgument(name, default_value="", description=parameter.doc))

    profile = EnvironmentVariable(
        "FASTDDS_DEFAULT_PROFILES_FILE", default_value=os.path.join(SHARE, "config", "fastdds.xml")
    )
    return LaunchDescription(
        [
            *arguments,
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile),
            OpaqueFunction(function=start_perception),  # first: what it refuses starts nothing
            OpaqueFunction(function=start_sim_cameras),
        ]
    )


def start_sim_cameras(context):
    if LaunchConfiguration("use_sim_camera").perform(context) != "true":
        return []
    cameras = separated(LaunchConfiguration("cameras").perform(context)) or [""]
    return [sim_camera(context, name, index) for index, name in enumerate(cameras)]


def sim_camera(context, name, index):
    """The simulated camera of one of the node's cameras, which shows another table than those of the others."""
    namespace = LaunchConfiguration("namespace").perform(context)
    own = {"frame": f"{name}_color_optical_frame", "seed": 1000 * index} if name else {}
    return Node(
        package="qwen3vl_ros",
        executable="sim_camera",
        name="sim_camera",
        namespace=f"{namespace}/{name}" if name else namespace,
        parameters=[own] if own else [],
        output="screen",
    )


def start_perception(context):
    given = {
        name: LaunchConfiguration(name).perform(context)
        for name in (*NODE_PARAMETERS, *TOPICS, "params_file", "namespace", "cameras")
    }
    warnings = misspelt(context.launch_configurations, (*given, "use_sim_camera"))
    if given["params_file"]:
        node = f"/{given['namespace'].strip('/')}/perception".replace("//", "/")
        warnings.append(check_parameter_file(given["params_file"], node))
    for warning in filter(None, warnings):
        logging.get_logger("perception.launch.py").warning(warning)
    # Values stay of the declared type: without value_type a model called "8" would become a number.
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=type(parameter.default))
        for name, parameter in NODE_PARAMETERS.items()
        if given[name]
    }
    if cameras := separated(given["cameras"]):
        overrides["cameras"] = ParameterValue(cameras, value_type=List[str])
    return [
        Node(
            package="qwen3vl_ros",
            executable="perception",
            name="perception",
            namespace=given["namespace"],
            parameters=[*filter(None, [given["params_file"]]), *filter(None, [overrides])],
            remappings=remappings({topic: (name, given[name]) for name, (topic, _) in TOPICS.items()}, cameras),
            output="screen",
            sigterm_timeout="15",  # calls in flight are answered and the model freed before it ends
            on_exit=Shutdown(),
        )
    ]
