"""The part of ROS's environment that a process and its children share: a domain, this machine alone, room for images."""

from __future__ import annotations

import os
from pathlib import Path

import qwen3vl_ros


def own_graph(domain: int | None) -> None:
    """Before ROS is joined: a ROS domain that stays on this machine, by default one of its own, and room for images."""
    # Linux keeps ports of domains 0 to 101 free of its ephemeral ones.
    os.environ["ROS_DOMAIN_ID"] = str(domain if domain is not None else 1 + os.getpid() % 100)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    shares = [Path(prefix) / "share" / "qwen3vl_ros" for prefix in prefixes]
    for root in (Path(qwen3vl_ros.__file__).resolve().parents[1], *shares):
        if (profile := root / "config" / "fastdds.xml").is_file():
            os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(profile))
