"""Memory that was allocated stands in large pages afterwards, holds what it held, and takes hardly more room."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from qwen3vl_ros.engine.onnx import pages
from qwen3vl_ros.engine.onnx.pages import LargePages, regions

SIZE = 48 << 20


def anonymous(size: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def enlarged(before, least: int = 0) -> int:
    work = LargePages(before, least)
    work.start()
    work.join()
    return work.made


def kernel_makes_them() -> bool:
    """Asked with memory of our own: a container may forbid what the kernel could."""
    before, memory = regions(), anonymous(8 << 20)
    memory.fill(1)
    return bool(enlarged(before))


def field(name: str) -> int:
    """Bytes, of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


needs_them = pytest.mark.skipif(not kernel_makes_them(), reason="this kernel makes no large pages when asked")


@needs_them
def test_what_was_filled_is_in_large_pages_and_unchanged_and_what_was_not_takes_no_memory():
    numbers = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    large, before = field("AnonHugePages"), regions()
    held = anonymous(2 * SIZE)
    held[:SIZE] = numbers
    resident = field("Rss")
    assert enlarged(before, least=SIZE) >= 0.9 * SIZE
    assert 0.9 * SIZE <= field("AnonHugePages") - large <= 1.1 * SIZE
    assert field("Rss") - resident < 8 << 20
    np.testing.assert_array_equal(held[:SIZE], numbers)


def test_little_memory_and_memory_of_before_are_left_alone():
    before, memory = regions(), anonymous(SIZE)
    memory.fill(1)
    assert enlarged(before, least=1 << 40) == 0
    large = field("AnonHugePages")
    assert enlarged(regions()) == 0 and field("AnonHugePages") <= large


def test_nothing_happens_where_the_system_tells_of_no_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "_MAPS", tmp_path / "none")
    before, memory = regions(), anonymous(SIZE)
    memory.fill(1)
    assert before == [] and enlarged(before) == 0


def test_it_ends_when_told_and_where_the_memory_is_gone():
    before, memory = regions(), mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes(SIZE))
    stopped, late = LargePages(before), LargePages(before)
    stopped.stop()
    memory.close()
    for work in (stopped, late):
        work.start()
        work.join()
    assert stopped.made == 0
