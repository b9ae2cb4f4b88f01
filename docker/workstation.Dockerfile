# The node on a workstation: any ROS distribution, a model on a CPU, an NVIDIA GPU or a server.
#
#   docker build -f docker/workstation.Dockerfile -t qwen3vl_ros .
#   docker run --rm --gpus all --network host --ipc host qwen3vl_ros model:=Qwen/Qwen3-VL-2B-Instruct
#
# Without --gpus the same image computes on the CPU. EXTRAS: sim (the simulated camera), reference (PyTorch), model (export).
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base

ARG EXTRAS=sim,reference,model
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY . /ws/src/qwen3vl_ros
WORKDIR /ws
# Which versions a distribution has changes under us; what we pin ourselves is in requirements/lock.txt.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-pip libegl1 libopengl0 libgl1-mesa-dri \
 && rosdep update --rosdistro "${ROS_DISTRO}" \
 && rosdep install --from-paths src --ignore-src -y \
 && rm -rf /var/lib/apt/lists/*
# --system-site-packages: it has to see rclpy. torch's default build brings its own CUDA.
RUN python3 -m venv --system-site-packages /ws/venv \
 && /ws/venv/bin/pip install --no-cache-dir "/ws/src/qwen3vl_ros[${EXTRAS}]" \
 && . "/opt/ros/${ROS_DISTRO}/setup.bash" \
 && . /ws/venv/bin/activate \
 && colcon build --packages-select qwen3vl_ros --cmake-args -DPython3_EXECUTABLE=/ws/venv/bin/python

COPY docker/entrypoint.sh /entrypoint.sh
RUN chmod 755 /entrypoint.sh && useradd --uid 1001 --create-home robot && chown -R robot /ws
USER 1001
ENV FASTDDS_DEFAULT_PROFILES_FILE=/ws/install/qwen3vl_ros/share/qwen3vl_ros/config/fastdds.xml
ENTRYPOINT ["/entrypoint.sh"]
CMD ["use_sim_camera:=true"]
