"""What a subscriber sees of the perception node: answers put together by stamp, the camera's truth, and a recording.

Used by the demo from a process of its own, over the same topics and services as anybody's code. Subscriptions are raw:
bytes go to the recording as they came, and only what is looked at is decoded. One thread: `spin_some` calls back.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Any, Callable, Sequence

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from qwen3vl_ros.demo.recording import Recording
from qwen3vl_ros.demo.score import Answer, TruthObject
from qwen3vl_ros.msg import Generation, GraspTargetArray
from qwen3vl_ros.node.convert import intrinsics_of, rgb_of, rotation_of, stamp_ns
from qwen3vl_ros.srv import Detect, SetPrompt
from qwen3vl_ros.types import Detection2D, Detection3D, Frame, GraspTarget, PerceptionError

RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Deeper than sensor data's 5: a frame the node answered must not be the one this process was too busy to take.
IMAGES = QoSProfile(depth=15, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)

KEPT_FRAMES = 150       # images wait here until their answer comes
LIVE_PERIOD_NS = 95_000_000  # on_image gets about ten a second


class Observer:
    """Subscribed from its making to close().

    on_image(stamp_ns, rgb): about ten images a second, whatever the camera's rate. on_truth(stamp_ns, objects).
    on_answer(answer, frame): an answer, and the Frame (colour and intrinsics) it was made from, None if that
    image was not received. prompt: the phrases the node was started with.
    """

    def __init__(self, recording: Recording, prompt: Sequence[str], on_image: Callable[[int, np.ndarray], None],
                 on_truth: Callable[[int, tuple[TruthObject, ...]], None],
                 on_answer: Callable[[Answer, Frame | None], None], namespace: str = "qwen3vl"):
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("demo_observer", namespace=namespace)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._recording = recording
        self._on_image, self._on_truth, self._on_answer = on_image, on_truth, on_answer
        self._prompts: dict[int, tuple[str, ...]] = {}
        self._first_prompt = tuple(prompt)
        self._kept: dict[str, OrderedDict[int, tuple[bytes, int]]] = {}
        self._parts: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._last_live_ns = 0
        self.images = 0
        self.health: dict[str, str] = {}
        for topic, kind in (("image_raw", Image), ("depth/image_raw", Image), ("camera_info", CameraInfo)):
            self._keep(topic, kind)
        for topic, kind in (("generation", Generation), ("detections_2d", Detection2DArray),
                            ("detections_3d", Detection3DArray), ("grasp_targets", GraspTargetArray)):
            self._subscribe(f"perception/{topic}", kind, RELIABLE, self._part(topic))
        self._subscribe("perception/grasp_poses", PoseArray, RELIABLE)
        self._subscribe("perception/markers", MarkerArray, RELIABLE)
        self._subscribe("perception/annotated_image", Image, RELIABLE)
        self._subscribe("/diagnostics", DiagnosticArray, RELIABLE, self._on_diagnostics)
        self._subscribe("/tf_static", TFMessage, LATCHED)
        self._subscribe(TRUTH_2D, Detection2DArray, RELIABLE, self._truth_part(0))
        self._subscribe(TRUTH_3D, Detection3DArray, RELIABLE, self._truth_part(1))
        self._state = self._node.create_client(GetState, "perception/get_state")
        self._set_prompt = self._node.create_client(SetPrompt, "perception/set_prompt")
        self._detect = self._node.create_client(Detect, "perception/detect")

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()
