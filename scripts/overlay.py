"""Writes ROS packages for vision_msgs and tf2_msgs where the ROS installation has none.

Knows the field names and types of those interfaces (vision_msgs 4.x), nothing else. Field names and types are
what a RIHS01 type hash covers, so equal hashes (tests/ros/test_interfaces.py) prove equal types on the wire.
"""

from __future__ import annotations

from pathlib import Path

HEADER = "std_msgs/Header header"

INTERFACES: dict[str, dict[str, list[str]]] = {
    "vision_msgs": {
        "Point2D": ["float64 x", "float64 y"],
        "Pose2D": ["vision_msgs/Point2D position", "float64 theta"],
        "BoundingBox2D": ["vision_msgs/Pose2D center", "float64 size_x", "float64 size_y"],
        "BoundingBox3D": ["geometry_msgs/Pose center", "geometry_msgs/Vector3 size"],
        "ObjectHypothesis": ["string class_id", "float64 score"],
        "ObjectHypothesisWithPose": [
            "vision_msgs/ObjectHypothesis hypothesis",
            "geometry_msgs/PoseWithCovariance pose",
        ],
        "Detection2D": [
            HEADER,
            "vision_msgs/ObjectHypothesisWithPose[] results",
            "vision_msgs/BoundingBox2D bbox",
            "string id",
        ],
        "Detection2DArray": [HEADER, "vision_msgs/Detection2D[] detections"],
        "Detection3D": [
            HEADER,
            "vision_msgs/ObjectHypothesisWithPose[] results",
            "vision_msgs/BoundingBox3D bbox",
            "string id",
        ],
        "Detection3DArray": [HEADER, "vision_msgs/Detection3D[] detections"],
        "VisionClass": ["uint16 class_id", "string class_name"],
        "LabelInfo": [HEADER, "vision_msgs/VisionClass[] class_map", "float32 threshold"],
        "VisionInfo": [HEADER, "string method", "string database_location", "int32 database_version"],
    },
    "tf2_msgs": {
        "TFMessage": ["geometry_msgs/TransformStamped[] transforms"],
    },
}

PACKAGE_XML = """<?xml version="1.0"?>
<package format="3">
  <name>{name}</name>
  <version>0.0.0</version>
  <description>{name} by its field table, for a ROS installation without it.</description>
  <maintainer email="qwen3vl-ros@users.noreply.github.com">qwen3vl_ros maintainers</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
{depends}
  <exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""

CMAKELISTS = """cmake_minimum_required(VERSION 3.16)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
{find}
rosidl_generate_interfaces(${{PROJECT_NAME}}
  {files}
  DEPENDENCIES {depends}
)
ament_export_dependencies(rosidl_default_runtime)
ament_package()
"""


def write_package(name: str, source_dir: Path) -> Path:
    """Writes the sources of interface package `name` under `source_dir` and returns its folder.

    A file whose text is already right is left alone, so that an incremental build has nothing to do.
    """
    messages = INTERFACES[name]
    fields = [field for message in messages.values() for field in message]
    depends = sorted({field.split("/")[0] for field in fields if "/" in field} - {name})
    texts = {f"msg/{message}.msg": "\n".join(lines) + "\n" for message, lines in messages.items()}
    texts["CMakeLists.txt"] = CMAKELISTS.format(
        name=name,
        find="\n".join(f"find_package({depend} REQUIRED)" for depend in depends),
        files="\n  ".join(sorted(texts)),
        depends=" ".join(depends),
    )
    texts["package.xml"] = PACKAGE_XML.format(
        name=name, depends="\n".join(f"  <depend>{depend}</depend>" for depend in depends)
    )
    package_dir = source_dir / name
    for relative, text in texts.items():
        path = package_dir / relative
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return package_dir
