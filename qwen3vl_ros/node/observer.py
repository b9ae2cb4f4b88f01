"""What a subscriber sees of the perception node: answers put together by stamp, the camera's truth, and a recording.

Used by the demo as a process of its own, over the same topics and services as anybody's code. Subscriptions are raw:
bytes go to the recording as they came, and only what is looked at is decoded.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from qwen3vl_ros.demo.recording import Recording, installed_text
from qwen3vl_ros.demo.score import Answer, TruthObject
from qwen3vl_ros.msg import Generation, GraspTargetArray
from qwen3vl_ros.node.convert import rgb_of, stamp_ns, transform_of
from qwen3vl_ros.srv import Detect, SetPrompt
from qwen3vl_ros.types import Detection2D, Detection3D, GraspTarget
