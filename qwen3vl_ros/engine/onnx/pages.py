"""Weights in large pages of memory: a decoder on a CPU reads all of them for each token, and pages of 4 KiB slow that down.

Processors fetch ahead within a page, and translate an address for each: weights in pages of 2 MiB were read 1.1 to 1.7 times as fast.
The kernel makes large pages of memory that is asked for so (transparent_hugepage: madvise, as Ubuntu and Debian set it), and ONNX
Runtime does not ask. So what a session allocated is found in /proc/self/maps and collapsed after it was loaded, beside what the process
does: a busy machine with scattered memory takes minutes. Where it is not possible (another system, Linux before 6.1) nothing changes.
Knows nothing of sessions and weights.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from typing import Iterator

import numpy as np

_MAPS = Path("/proc/self/maps")
_SMALL, _LARGE = 1 << 12, 1 << 21  # bytes of a page, and of one that is made of many
_LEAST = 256 << 20  # bytes, below which it gains nothing that anybody would notice
_FULL = 0.75  # of a large page that is in use already: the rest of it will take memory
_HUGEPAGE, _COLLAPSE = 14, 25  # of madvise
_RUN = 16 << 20  # bytes asked for at once: each call waits for all cores, and cannot be broken off
_TRIES = 3  # the kernel is asked again where it found no room at once

Region = tuple[int, int]  # of addresses: from, to


class LargePages(threading.Thread):
    """Puts what was allocated between `before`, from regions(), and now into large pages; start() it, and stop() it early.

    made: bytes so far.
    """

    def __init__(self, before: list[Region], least: int = _LEAST):
        super().__init__(name="large_pages", daemon=True)
        self.made, self._stopped = 0, threading.Event()
        self._new = [region for region in regions() if region not in before]
        if sum(end - begin for begin, end in self._new) < least:
            self._new = []

    def stop(self) -> None:
        """Returns at once; the memory may be given back meanwhile, since it is neither read nor written here."""
        self._stopped.set()

    def run(self) -> None:
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        for begin, end in self._new:
            used = np.zeros((end - begin) // _SMALL, np.uint8)
            if libc.mincore(begin, end - begin, used.ctypes.data):
                continue
            full = (used & 1).reshape(-1, _LARGE // _SMALL).mean(1) >= _FULL
            for first, behind in _runs(full):
                place, size = begin + first * _LARGE, (behind - first) * _LARGE
                if self._stopped.is_set() or libc.madvise(place, size, _HUGEPAGE):  # which a kernel may not know
                    return
                self.made += size * any(libc.madvise(place, size, _COLLAPSE) == 0 for _ in range(_TRIES))


def regions() -> list[Region]:
    """The process's own memory of at least a large page, no file's."""
    found = []
    try:
        lines = _MAPS.read_text().splitlines() if sys.platform == "linux" else ()
    except OSError:
        return []
    for line in lines:
        addresses, access, _, _, inode, *name = line.split(maxsplit=5)
        begin, end = (int(address, 16) for address in addresses.split("-"))
        begin, end = -(-begin // _LARGE) * _LARGE, end // _LARGE * _LARGE
        if access == "rw-p" and inode == "0" and not name and end > begin:
            found.append((begin, end))
    return found


def _runs(full: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and behind last of neighbours that are True, no longer than _RUN."""
    edges = np.flatnonzero(np.diff(full.astype(np.int8), prepend=0, append=0)).tolist()
    for first, behind in zip(edges[::2], edges[1::2]):
        for start in range(first, behind, _RUN // _LARGE):
            yield start, min(start + _RUN // _LARGE, behind)
