"""The unseen side by hypothesis: which one is taken, and when none is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.geometry.completion import axis_of_revolution, completed

EYE = np.array((0.0, -0.6, 0.5))


def cone(length=0.16, wide=0.04, narrow=0.015, rows=50, turns=90):
    """A lying tapered bottle along x on z = 0, points and normals, Nx3."""
    t, a = (of.ravel() for of in np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 2 * np.pi, turns, endpoint=False)))
    radius = wide + (narrow - wide) * t
    points = np.stack((length * (t - 0.5), radius * np.cos(a), wide + radius * np.sin(a)), 1)
    slope = (wide - narrow) / length
    normals = np.stack((np.full(len(t), slope), np.cos(a), np.sin(a)), 1)
    return points, normals / np.linalg.norm(normals, axis=1)[:, None]


def seen_of(points, normals, eye=EYE):
    facing = np.einsum("ij,ij->i", normals, eye - points) > 0
    return points[facing], normals[facing]


def past(points, surface, eye=EYE):
    """look_behind by the nearest point of a surface in direction; NaN where no ray meets it: then the table is seen."""
    ray = (points - eye) / np.linalg.norm(points - eye, axis=1)[:, None]
    own = (surface - eye) / np.linalg.norm(surface - eye, axis=1)[:, None]
    nearest = (ray @ own.T).argmax(1)
    hit = np.einsum("ij,ij->i", ray, own[nearest]) > np.cos(0.006)
    depth = np.where(hit, np.linalg.norm(surface - eye, axis=1)[nearest], np.inf)
    return np.where(np.isfinite(depth), depth - np.linalg.norm(points - eye, axis=1), 0.2)


def box_of(points):
    low, high = points.min(0), points.max(0)
    pose = np.eye(4)
    pose[:3, 3] = (low + high) / 2
    return pose, high - low


def test_a_lying_bottle_is_not_turned_end_for_end():
    points, normals = cone()
    seen, facing = seen_of(points, normals)
    hidden = completed(seen, seen, facing, *box_of(points), lambda p: past(p, seen))
    assert len(hidden) > 100
    apart = np.sqrt(((hidden[::5, None] - points[None]) ** 2).sum(-1)).min(1)
    assert np.percentile(apart, 90) < 0.006, "half a turn would put the wide end on the neck, 25 mm off"
    assert (hidden[:, 1] > 0.01).any(), "the far side is filled"


def test_a_brick_has_all_its_sides():
    u, v = (of.ravel() for of in np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40)))
    half = np.array((0.04, 0.03, 0.025))
    top = np.stack((u * half[0], v * half[1], np.full(u.size, 2 * half[2])), 1)
    front = np.stack((u * half[0], np.full(u.size, -half[1]), half[2] * (1 + v)), 1)
    seen = np.concatenate((top, front))
    normals = np.repeat(np.array(((0.0, 0, 1), (0, -1, 0))), len(u), 0)
    pose = np.eye(4)
    pose[2, 3] = half[2]
    hidden = completed(seen, seen, normals, pose, 2 * half, lambda p: past(p, seen))
    for axis, side in ((0, 1), (0, -1), (1, 1)):
        on_it = np.abs(hidden[:, axis] - side * half[axis]) < 0.002
        assert np.ptp(hidden[on_it, 2]) > 0.04, (axis, side)


def test_where_everything_beside_it_was_seen_empty_nothing_is_assumed():
    points, normals = cone()
    seen, facing = seen_of(points, normals)
    assert not len(completed(seen, seen, facing, *box_of(points), lambda p: np.full(len(p), 0.05)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(0.0, 0.0008))
def test_the_axis_turns_with_the_thing(twist, noise):
    points, normals = cone()
    rng = np.random.default_rng(0)
    keep = (normals @ np.array((0.1, -0.7, 0.7)) > 0).nonzero()[0]
    turn = cv2.Rodrigues(np.array(twist))[0]
    some = points[keep] @ turn.T + rng.normal(0, noise, (len(keep), 3))
    found = axis_of_revolution(some, normals[keep] @ turn.T)
    assert found is not None
    point, direction = found
    assert abs(direction @ turn[:, 0]) > 0.99
    off = turn @ np.array((0.0, 0.0, 0.04)) - point
    assert np.linalg.norm(off - (off @ direction) * direction) < 0.004


@pytest.mark.parametrize("faces", (1, 2, 3))
def test_flat_sides_have_no_axis(faces):
    rng = np.random.default_rng(1)
    points, normals = [], []
    for axis in range(faces):
        face = rng.uniform(-0.04, 0.04, (300, 3))
        face[:, axis] = 0.04
        points.append(face)
        normals.append(np.tile(np.eye(3)[axis], (300, 1)))
    assert axis_of_revolution(np.concatenate(points), np.concatenate(normals)) is None
