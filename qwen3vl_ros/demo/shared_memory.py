"""Frees the shared memory of processes that were killed: with config/fastdds.xml Fast DDS reserves 64 MiB for
each participant, and nobody takes it back when its owner dies without leaving the graph.

A living owner holds an flock on its segment's file `<segment>_el`, by which `fastdds shm clean` tells, too.
Knows nothing of ROS; where there is no /dev/shm there is nothing to free.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

FOLDER = Path("/dev/shm")
_LOCK = re.compile(r"fastdds_[0-9a-f]{16}_el")
# An owner makes its lock file and locks it microseconds later; in between it must not be taken for dead.
_LOCKED_AFTER_S = 0.05


def free_abandoned() -> list[str]:
    """Remove the segments of this user that no living process owns; returns their names."""
    locks = [path for path in FOLDER.glob("fastdds_*_el") if _LOCK.fullmatch(path.name)]
    if locks:
        time.sleep(_LOCKED_AFTER_S)
    return [path.name.removesuffix("_el") for path in locks if _freed(path)]


def _freed(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except (FileNotFoundError, PermissionError):
        return False  # its owner has just left in order, or is another user
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def freed_at_the_end() -> Iterator[None]:
    """free_abandoned() on leaving, however."""
    try:
        yield
    finally:
        free_abandoned()
