"""Recordings with any fault a test asks for, written as a recorder writes them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
K = np.array(((300.0, 0, 79.5), (0, 300.0, 59.5), (0, 0, 1)))
START_NS, STEP_NS = 1_700_000_000_000_000_000, 33_000_000
IMAGE, COMPRESSED, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"


def picture(i: int) -> np.ndarray:
    """160x120; its number is its first pixel."""
    rgb = np.full((120, 160, 3), (40, 90, 160), np.uint8)
    rgb[30:80, 10 + i % 100 : 50 + i % 100] = (220, 40, 30)
    rgb[0, 0] = i
    return rgb


def number_of(rgb: np.ndarray) -> int:
    return int(rgb[0, 0, 0])


def depth_mm(i: int) -> np.ndarray:
    """Its number is its first reading less 500 mm."""
    depth = np.full((120, 160), 800, np.uint16)
    depth[0, 0] = 500 + i
    return depth


def header(stamp_ns: int, frame: str = "optical"):
    stamp = T["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return T["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def image(stamp_ns: int, pixels: np.ndarray, encoding: str, frame: str = "optical"):
    pixels = np.ascontiguousarray(pixels)
    data = pixels.view(np.uint8).reshape(-1)
    return T[IMAGE](header(stamp_ns, frame), *pixels.shape[:2], encoding, 0, pixels.strides[0], data)


def compressed(stamp_ns: int, data: bytes, kind: str, frame: str = "optical"):
    return T[COMPRESSED](header(stamp_ns, frame), kind, np.frombuffer(data, np.uint8))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def info(stamp_ns: int, K=K, d=(0.0,) * 5, P=None, model: str = "plumb_bob", size_px=(160, 120)):
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    P = np.zeros(12) if P is None else np.asarray(P, float).ravel()
    K, R = np.asarray(K, float).ravel(), np.eye(3).ravel()
    return T[INFO](header(stamp_ns), size_px[1], size_px[0], model, np.array(d, float), K, R, P, 0, 0, roi)


def stamp_of(i: int) -> int:
    return START_NS + i * STEP_NS


def camera(
    count: int, lost_depth=(), depth_frame: str = "optical", depth_late_ns: int = 0, calibration=info, step_ns=STEP_NS
):
    """(topic, logged_ns, message) of a camera: colour, depth and calibration of each capture."""
    for i in range(count):
        ns = START_NS + i * step_ns
        yield "/color/image_raw", ns, image(ns, picture(i), "rgb8")
        if calibration:
            yield "/color/camera_info", ns, calibration(ns)
        if i not in lost_depth:
            ns += depth_late_ns
            yield "/depth/image_raw", ns, image(ns, depth_mm(i), "16UC1", depth_frame)


def write(path: Path, messages, plugin: str = "mcap", compress: str = "") -> Path:
    """The bag's folder; compress: "", "file", "message" or, of mcap, "storage"."""
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[plugin.upper()])
    if compress:
        writer.set_compression(CompressionMode[compress.upper()], CompressionFormat.ZSTD)
    with writer as bag:
        connections = {}
        for topic, logged_ns, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=STORE)
            bag.write(connections[topic], logged_ns, STORE.serialize_cdr(message, kind))
    return path


def storage(path: Path) -> Path:
    """The one file that holds the messages of a bag."""
    return next(p for p in path.iterdir() if p.name != "metadata.yaml")
