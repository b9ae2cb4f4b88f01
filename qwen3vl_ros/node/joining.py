"""Joining the ROS graph: what the middleware refuses at the start is one line, whoever starts. Every process of ours joins so."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterator

from rclpy._rclpy_pybind11 import RCLError, RCLInvalidROSArgsError, RMWError, UnknownROSArgsError

from qwen3vl_ros.domain import domain_of
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.types import PerceptionError

# For others to be found in the graph. Where a busy machine loses their first announcements, DDS repeats them every 3 s.
FOUND_S = 10.0
_NO_SECURITY = "security libraries"  # Fast DDS built without its plugins


class CannotJoin(PerceptionError):
    """The middleware refused the process."""


@contextmanager
def joining() -> Iterator[None]:
    """Around rclpy.init and the making of a node. Raises InvalidInput, CannotJoin, OutOfResources."""
    if domain := os.environ.get("ROS_DOMAIN_ID"):
        domain_of(domain)
    try:
        with survivable("while joining the ROS graph"):
            yield
    except (RCLError, RMWError, RCLInvalidROSArgsError, UnknownROSArgsError) as error:
        said = " ".join(str(error).split())
        if _NO_SECURITY in said:
            raise CannotJoin(
                "ROS_SECURITY_ENABLE is set and this build of Fast DDS has no security plugins (that of the Python wheels "
                "has none); use a ROS distribution, or unset it: docs/security.md"
            ) from error
        raise CannotJoin(f"the ROS graph cannot be joined: {said}") from error
