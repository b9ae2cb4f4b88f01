"""Poses of the jaws in an object's local frame, many at once, and points as the jaws see them."""

from __future__ import annotations

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

    def and_also(self, others: Poses) -> Poses:
        return Poses(
            np.concatenate((self.local_R_jaws, others.local_R_jaws)),
            np.concatenate((self.at_m, others.at_m)),
            np.concatenate((self.width_m, others.width_m)),
        )


def upright_axes(yaw_rad: np.ndarray) -> np.ndarray:
    """local_R_jaws Kx3x3 straight down, closing along these horizontal directions."""
    c, s, axes = np.cos(yaw_rad), np.sin(yaw_rad), np.zeros((len(yaw_rad), 3, 3))
    axes[:, 0, 0], axes[:, 1, 0] = s, -c
    axes[:, 0, 1], axes[:, 1, 1] = c, s
    axes[:, 2, 2] = 1.0
    return axes


def in_jaws(
    points_m: np.ndarray, local_R_jaws: np.ndarray, at_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Local points Nx3 across, along the closing direction and against the approach of K poses, KxN float32 each."""
    turns = local_R_jaws.transpose(2, 0, 1)  # axis, pose, component
    shift = np.einsum("aki,ki->ak", turns, at_m).astype(np.float32)[..., None]
    plan = np.ascontiguousarray(points_m.T, np.float32)
    seen = (turns.reshape(-1, 3).astype(np.float32) @ plan).reshape(3, len(at_m), len(points_m))
    seen -= shift
    return seen[0], seen[1], seen[2]
