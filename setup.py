"""pip installation without ROS: `pip install .` gives the command `qwen3vl`; the nodes need a sourced ROS 2.

In a ROS workspace colcon builds the package by CMakeLists.txt and does not read this file. Version,
description and requirements are read from where they are declared.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE_XML = (ROOT / "package.xml").read_text()


def from_package_xml(tag):
    return re.search(rf"<{tag}>(.*?)</{tag}>", PACKAGE_XML, re.DOTALL).group(1).strip()


def requirements(name):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def shared(*patterns):
    """data_files entries under share/qwen3vl_ros, as colcon installs them."""
    files = sorted(path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())
    folders = {path.parent for path in files}
    return [
        (f"share/qwen3vl_ros/{folder}", [str(path) for path in files if path.parent == folder])
        for folder in sorted(folders)
    ]


setup(
    name="qwen3vl_ros",
    version=from_package_xml("version"),
    description=from_package_xml("description"),
    license=from_package_xml("license"),
    python_requires=">=3.10",
    packages=find_packages(include=["qwen3vl_ros", "qwen3vl_ros.*"]),
    install_requires=requirements("runtime"),
    extras_require={
        "sim": requirements("sim"),
        "reference": ["torch>=2.6", *requirements("reference")],
        "model": ["torch>=2.9", *requirements("model")],  # the first with Muon
        "test": requirements("sim") + requirements("test"),
    },
    data_files=shared("config/*", "launch/*.py", "model/embedded/*"),
    entry_points={
        "console_scripts": [
            "perception = qwen3vl_ros.node.perception.main:main",
            "qwen3vl = qwen3vl_ros.cli:main",
            "sim_camera = qwen3vl_ros.node.sim_camera:main",
        ]
    },
)
