"""When depth counts as frozen, and when a still scene only looks alike."""

from types import SimpleNamespace

import numpy as np
import pytest

from qwen3vl_ros.node.perception.frozen import FrozenDepth

SECOND = 1_000_000_000
RNG = np.random.default_rng(7)
DEPTH = (0.8 + 0.002 * RNG.standard_normal((120, 160))).astype(np.float32)
ROOM = RNG.integers(60, 190, (120, 160, 3)).astype(np.uint8)


def message(depth):
    return SimpleNamespace(data=depth.tobytes(), step=depth.strides[0], height=depth.shape[0])


def moved(picture):
    other = picture.copy()
    other[30:60, 40:80] = 250
    return other


@pytest.mark.parametrize(
    "captures, frozen",
    [
        ([(0, DEPTH, ROOM), (1, DEPTH, moved(ROOM)), (3, DEPTH, moved(ROOM))], [None, 1, 3]),
        ([(0, DEPTH, ROOM), (1, DEPTH + 0.001, moved(ROOM))], [None, None]),
        ([(0, DEPTH, ROOM), (9, DEPTH, ROOM)], [None, None]),
        ([(0, DEPTH, ROOM), (2, DEPTH, moved(ROOM)), (3, DEPTH, ROOM)], [None, 2, None]),
        ([(0, 0 * DEPTH, ROOM), (2, 0 * DEPTH, moved(ROOM))], [None, None]),
        ([(5, DEPTH, ROOM), (1, DEPTH, moved(ROOM)), (2, DEPTH, moved(ROOM))], [None, None, None]),
        ([(0, (1000 * DEPTH).astype(np.uint16), ROOM), (1, (1000 * DEPTH).astype(np.uint16), moved(ROOM))], [None, 1]),
    ],
    ids=["frozen", "alive", "a still scene", "as it was", "no readings at all", "the clock went back", "16UC1"],
)
def test_depth_is_frozen_only_where_the_picture_changed_without_it(captures, frozen):
    watch = FrozenDepth()
    assert [watch.since_s(t * SECOND, message(depth), rgb) for t, depth, rgb in captures] == frozen


def test_noise_of_the_colour_image_is_no_change():
    watch, depth = FrozenDepth(), message(DEPTH)
    for t in range(20):
        noisy = np.clip(ROOM + RNG.normal(0, 6, ROOM.shape), 0, 255).astype(np.uint8)
        assert watch.since_s(t * SECOND, depth, noisy) is None


def test_a_message_that_lies_about_its_size_is_left_to_whoever_reads_it():
    lying = SimpleNamespace(data=b"\x01\x02\x03", step=640, height=480)
    assert FrozenDepth().since_s(0, lying, ROOM) is None
    assert FrozenDepth().since_s(0, SimpleNamespace(data=b"", step=0, height=0), ROOM) is None
