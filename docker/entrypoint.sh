#!/bin/bash
# Starts perception.launch.py with the arguments of `docker run`; exec, so that SIGTERM reaches the launch.
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /ws/venv/bin/activate
source /ws/install/setup.bash
exec ros2 launch qwen3vl_ros perception.launch.py "$@"
