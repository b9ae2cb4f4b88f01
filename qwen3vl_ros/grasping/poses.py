"""Poses of the jaws in an object's local frame, many at once: points as the jaws see them, and where an arm ends up instead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Poses:
    """K poses of the jaws. local_R_jaws Kx3x3, columns: across the fingers, the closing direction, against the approach.

    at_m Kx3: between the fingertips. width_m K: of what is between them, more or less.
    """

    local_R_jaws: np.ndarray
    at_m: np.ndarray
    width_m: np.ndarray

    def __len__(self) -> int:
        return len(self.at_m)

    def __getitem__(self, those) -> Poses:
        return Poses(self.local_R_jaws[those], self.at_m[those], self.width_m[those])


def upright_axes(yaw_rad: np.ndarray) -> np.ndarray:
    """local_R_jaws Kx3x3 straight down, closing along these horizontal directions."""
    c, s, axes = np.cos(yaw_rad), np.sin(yaw_rad), np.zeros((len(yaw_rad), 3, 3))
    axes[:, 0, 0], axes[:, 1, 0] = s, -c
    axes[:, 0, 1], axes[:, 1, 1] = c, s
    axes[:, 2, 2] = 1.0
    return axes


def by_turns(kinds: np.ndarray) -> np.ndarray:
    """Indices of things that are in order, so that the first of each kind come first, then the second of each."""
    by_kind = np.argsort(kinds, kind="stable")
    ordered = kinds[by_kind]
    rank = np.empty(len(kinds), int)
    rank[by_kind] = np.arange(len(kinds)) - np.searchsorted(ordered, ordered)
    return np.argsort(rank, kind="stable")


def in_jaws(
    points_m: np.ndarray, local_R_jaws: np.ndarray, at_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Local points Nx3 across, along the closing direction and against the approach of K poses, KxN float32 each."""
    jaws_T_local = np.empty((3, len(at_m), 4), np.float32)  # axis, pose, component
    turns = local_R_jaws.transpose(2, 0, 1)
    jaws_T_local[..., :3], jaws_T_local[..., 3] = turns, -np.einsum("aki,ki->ak", turns, at_m)
    points = np.ones((4, len(points_m)), np.float32)
    points[:3] = points_m.T
    x, y, z = (jaws_T_local.reshape(-1, 4) @ points).reshape(3, len(at_m), len(points_m))
    return x, y, z


# What an arm and a calibration err by: metres across the fingers and against the approach, and turns about the approach and about
# the fingers' width.
_SHIFT_M, _TURN = 0.003, math.radians(5.0)
_ERRORS = (
    (_SHIFT_M, 0.0, 0.0, 0.0),
    (-_SHIFT_M, 0.0, 0.0, 0.0),
    (0.0, 0.0, _TURN, 0.0),
    (0.0, 0.0, -_TURN, 0.0),
    (0.0, _SHIFT_M, 0.0, _TURN),
    (0.0, _SHIFT_M, 0.0, -_TURN),
)
ERRORS = len(_ERRORS)


def missed(poses: Poses) -> Poses:
    """The poses that an arm reaches when it errs: ERRORS of each, one pose's after another's."""
    axes, at_m = [], []
    for across, back, yaw, roll in _ERRORS:
        c, s, b, t = math.cos(yaw), math.sin(yaw), math.cos(roll), math.sin(roll)
        turn = np.array(((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))) @ np.array(
            ((1.0, 0.0, 0.0), (0.0, b, -t), (0.0, t, b))
        )
        axes.append(poses.local_R_jaws @ turn)
        at_m.append(poses.at_m + across * poses.local_R_jaws[:, :, 0] + back * poses.local_R_jaws[:, :, 2])
    return Poses(
        np.stack(axes, 1).reshape(-1, 3, 3), np.stack(at_m, 1).reshape(-1, 3), np.repeat(poses.width_m, ERRORS)
    )
