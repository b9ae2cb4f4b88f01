"""What a process can run out of, and go on: memory, threads, descriptors, disk. Tells such an error from a defect.

A job that could not be done for lack of something is refused with OutOfResources, the next may succeed; an error that is
none of these is a defect, and goes its way. Knows nothing of what the process does.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import Iterator

from qwen3vl_ros.types import OutOfResources

_BY_NUMBER = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "file descriptors (ulimit -n)",
    errno.ENFILE: "file descriptors (fs.file-max)",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk quota",
    errno.EFBIG: "room in a file (ulimit -f)",
}
_OPENCV_NO_MEMORY = -4  # cv2.Error.StsNoMem
_MOST_CHARACTERS = 200


def exhausted(error: BaseException) -> str:
    """What ran out, in words; empty if `error` says nothing of the kind."""
    if isinstance(error, MemoryError) or getattr(error, "code", None) == _OPENCV_NO_MEMORY:
        return "memory"
    if isinstance(error, OSError):
        return _BY_NUMBER.get(error.errno, "")
    # Python's own words; it has no class and no number for it.
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "threads (ulimit -u) or memory for one"
    return ""


def told(error: BaseException, doing: str) -> BaseException:
    """OutOfResources where something ran out while `doing`, else the error itself."""
    if what := exhausted(error):
        said = str(error)[:_MOST_CHARACTERS] or type(error).__name__
        return OutOfResources(f"out of {what} {doing} ({said}); free some, or allow the process more")
    return error


@contextmanager
def survivable(doing: str) -> Iterator[None]:
    """Raises OutOfResources for what ran out inside; every other error goes on as it is."""
    try:
        yield
    except Exception as error:
        if (named := told(error, doing)) is error:
            raise
        raise named from error
