"""ROS domains: which numbers are one. Knows no ROS."""

from __future__ import annotations

from qwen3vl_ros.types import InvalidInput

DOMAINS = range(233)  # DDS's ports of the last end at 65410; of the next they would be above 65535


def domain_of(text: str, name: str = "ROS_DOMAIN_ID") -> int:
    """The number. Raises InvalidInput for what is none: Fast DDS would end the process, or take another domain."""
    if text.isascii() and text.isdigit() and int(text) in DOMAINS:
        return int(text)
    raise InvalidInput(f"{name} {text!r} is no ROS domain; it must be a whole number from 0 to {DOMAINS[-1]}")
