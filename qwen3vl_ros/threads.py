"""How many threads compute: decided here, for the work at hand, for everything in this process.

Our own arrays are small, and so are the embedded model's: more threads gain nothing and, on a machine that has other work, spin
for one another (an answer that takes 100 ms alone took 416 beside two busy processes). So BLAS and OpenCV have one. A large
model's matrix products have the cores that are left. Set when an engine is loaded or a `Perception` is made, hence in every entry
point; whoever uses geometry or tracking alone calls `settle`. At run time and not by environment variables, because those are
read when NumPy is imported, which a user's program may have done before. A library has one number for the whole process, so
it is set once, and not around calls. Knows nothing of models but their size.
"""

from __future__ import annotations

import os
from pathlib import Path

SMALL_MODEL = 100_000_000  # weights; below, a second CPU thread costs more than it gives
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Cores that this process may use: by its affinity and, in a container, its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such limit
        return allowed


def of_model(parameters: int) -> tuple[int, str]:
    """Threads of a model's runtime on the CPU, and why. One core is left for images and tracks where there are more than two."""
    if parameters < SMALL_MODEL:
        return 1, "1 CPU thread (small model)"
    available = cores()
    threads = available - 1 if available > 2 else available
    return threads, f"{threads} CPU thread{'s' * (threads > 1)} of {available}"


def settle() -> str:
    """Give BLAS and OpenCV one thread each, and say what they have. A number of BLAS threads in the environment is left as it is.

    torch's own BLAS is that of a model's matrix products, and left out.
    """
    import cv2  # here, because a command may need neither

    cv2.setNumThreads(1)
    return f"{_settle_blas()}; OpenCV {cv2.getNumThreads()}; {cores()} cores"


def _settle_blas() -> str:
    import numpy  # noqa: F401  # its BLAS is to be loaded

    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return "BLAS as it is: threadpoolctl is not installed (pip install threadpoolctl)"
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    ours = [library for library in found if "torch" not in Path(library.filepath).parts]
    asked = next((name for name in BLAS_VARIABLES if os.environ.get(name)), "")
    for library in ours:
        if not asked:
            library.set_num_threads(1)
    numbers = (
        ", ".join(f"{library.num_threads} ({library.internal_api})" for library in ours) or "unknown to threadpoolctl"
    )
    return f"BLAS {numbers}" + f", by {asked}" * bool(asked)
