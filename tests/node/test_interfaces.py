"""The interfaces on the wire are the real ones, by type hash: vision_msgs 4 and tf2_msgs; ours are built."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory
from rclpy.type_support import check_for_type_support

# Hashes of the interfaces that ROS 2 distributions ship; the hash covers field names, types and their order.
RELEASED = {
    "vision_msgs/msg/Point2D": "eab0e83f44ab4de92ceaf76dd7d0e7638f2bdd1d16ffbe16c7a136c48e407247",
    "vision_msgs/msg/Pose2D": "b0b5d1d7b4c20dd4fcde3ed1d4b289a919290572007d67a97043814db25d3648",
    "vision_msgs/msg/BoundingBox2D": "008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f",
    "vision_msgs/msg/BoundingBox3D": "bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698",
    "vision_msgs/msg/ObjectHypothesis": "51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
    "vision_msgs/msg/ObjectHypothesisWithPose": "41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
    "vision_msgs/msg/Detection2D": "0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea",
    "vision_msgs/msg/Detection2DArray": "214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "vision_msgs/msg/Detection3D": "ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
    "vision_msgs/msg/Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "vision_msgs/msg/LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "vision_msgs/msg/VisionInfo": "95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
}
ROOT = Path(__file__).resolve().parents[2]
OURS = sorted(f"{p.parent.name}/{p.stem}" for folder in ("msg", "srv") for p in (ROOT / folder).glob("*.*"))


@pytest.mark.parametrize("name", RELEASED)
def test_type_hash_is_the_released_one(name):
    package, kind, interface = name.split("/")
    description = Path(get_package_share_directory(package), kind, f"{interface}.json")
    if not description.is_file():
        pytest.skip("this distribution is older than type hashes (Iron)")
    hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(description.read_text())["type_hashes"]}
    assert hashes[name] == f"RIHS01_{RELEASED[name]}"


@pytest.mark.parametrize("name", RELEASED)
def test_released_interface_has_type_support(name):
    package, kind, interface = name.split("/")
    check_for_type_support(getattr(importlib.import_module(f"{package}.{kind}"), interface))


@pytest.mark.parametrize("name", OURS)
def test_our_interface_is_built_with_the_fields_of_its_file(name):
    kind, interface = name.split("/")
    built = getattr(importlib.import_module(f"qwen3vl_ros.{kind}"), interface)
    check_for_type_support(built)
    parts = [built] if kind == "msg" else [built.Request, built.Response]
    sections = (ROOT / kind / f"{interface}.{kind}").read_text().split("\n---\n")
    for part, section in zip(parts, sections, strict=True):
        lines = [line.split("#")[0].split() for line in section.splitlines()]
        fields = [words[1] for words in lines if len(words) == 2 and "=" not in words[1]]
        assert list(part.get_fields_and_field_types()) == fields
