# The node on a Jetson with JetPack 7 (Ubuntu 24.04, Thor): ROS Jazzy, engines of TensorRT, no PyTorch.
#
#   docker build -f docker/jetson.Dockerfile -t qwen3vl_ros:jetson .
#   docker run --rm --runtime nvidia --network host --ipc host -v $PWD/bundle:/bundle qwen3vl_ros:jetson model:=/bundle
#
# The bundle is built where it runs, in this image:
#   docker run --rm --runtime nvidia -v $PWD:/models --entrypoint qwen3vl qwen3vl_ros:jetson \
#       build /models/Qwen3-VL-2B-Instruct --out /models/bundle --module tensorrt --sm current --precision int4
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

ARG ROS_APT_SOURCE=1.1.0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 ROS_DISTRO=jazzy
# python3-libnvinfer is TensorRT, from the CUDA repository that the image is set up with; 10.15 is the first that will do.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && curl -fsSL -o /tmp/ros.deb "https://github.com/ros-infrastructure/ros-apt-source/releases/download/${ROS_APT_SOURCE}/ros2-apt-source_${ROS_APT_SOURCE}.noble_all.deb" \
 && apt-get install -y --no-install-recommends /tmp/ros.deb \
 && apt-get update \
 && apt-get install -y --no-install-recommends ros-jazzy-ros-base python3-colcon-common-extensions python3-rosdep \
    python3-venv python3-pip python3-libnvinfer build-essential cmake \
 && python3 -c 'import tensorrt; v = tensorrt.__version__; assert tuple(map(int, v.split(".")[:2])) >= (10, 15), v' \
 && rm -rf /var/lib/apt/lists/* /tmp/ros.deb
COPY . /ws/src/qwen3vl_ros
WORKDIR /ws
RUN apt-get update \
 && rosdep init && rosdep update --rosdistro jazzy \
 && rosdep install --from-paths src --ignore-src -y \
 && rm -rf /var/lib/apt/lists/*
# onnx and ml_dtypes write the graphs that the engines are built from; torch is not among what `model` needs for that.
RUN python3 -m venv --system-site-packages /ws/venv \
 && /ws/venv/bin/pip install --no-cache-dir /ws/src/qwen3vl_ros "onnx>=1.20,<2" "ml_dtypes>=0.5,<1" "cuda-python>=13,<14" \
 && . /opt/ros/jazzy/setup.bash \
 && . /ws/venv/bin/activate \
 && colcon build --packages-select qwen3vl_ros --cmake-args -DPython3_EXECUTABLE=/ws/venv/bin/python

COPY docker/entrypoint.sh /entrypoint.sh
RUN chmod 755 /entrypoint.sh && useradd --uid 1001 --create-home robot && chown -R robot /ws
USER 1001
ENV PATH=/ws/venv/bin:$PATH \
    FASTDDS_DEFAULT_PROFILES_FILE=/ws/install/qwen3vl_ros/share/qwen3vl_ros/config/fastdds.xml
ENTRYPOINT ["/entrypoint.sh"]
CMD ["engine:=tensorrt"]
