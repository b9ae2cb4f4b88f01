"""Memory that was allocated stands in large pages afterwards, holds what it held, and takes hardly more room."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from qwen3vl_ros.engine.onnx import pages
from qwen3vl_ros.engine.onnx.pages import large_pages

SIZE = 48 << 20


def kernel_makes_them() -> bool:
    """Asked with memory of our own: a container may forbid what the kernel could."""
    with large_pages(least=0) as made:
        memory = anonymous(8 << 20)
        np.frombuffer(memory, np.uint8).fill(1)
    return bool(made)


def anonymous(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def field(name: str) -> int:
    """Bytes, of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


needs_them = pytest.mark.skipif(not kernel_makes_them(), reason="this kernel makes no large pages when asked")


@needs_them
def test_what_was_filled_is_in_large_pages_and_unchanged_and_what_was_not_takes_no_memory():
    numbers = np.random.default_rng(0).integers(0, 1 << 60, SIZE // 8)
    before = field("AnonHugePages")
    with large_pages(least=SIZE) as made:
        memory = anonymous(2 * SIZE)
        held = np.frombuffer(memory, np.int64)
        held[: len(numbers)] = numbers
        resident = field("Rss")
    assert made[0] >= 0.9 * SIZE
    assert 0.9 * SIZE <= field("AnonHugePages") - before <= 1.1 * SIZE
    assert field("Rss") - resident < 8 << 20
    np.testing.assert_array_equal(held[: len(numbers)], numbers)


def test_little_memory_and_memory_of_before_are_left_alone():
    memory = anonymous(SIZE)
    np.frombuffer(memory, np.uint8).fill(1)
    before = field("AnonHugePages")
    with large_pages(least=SIZE) as made:
        pass
    assert made == [] and field("AnonHugePages") <= before


def test_nothing_happens_where_the_system_tells_of_no_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "_MAPS", tmp_path / "none")
    with large_pages(least=0) as made:
        memory = anonymous(SIZE)
        np.frombuffer(memory, np.uint8).fill(1)
    assert made == []


@needs_them
def test_time_that_is_up_ends_it():
    with large_pages(least=0, budget_s=-1.0) as made:
        memory = anonymous(SIZE)
        np.frombuffer(memory, np.uint8).fill(1)
    assert made == []
