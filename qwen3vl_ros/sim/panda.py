"""Where a Franka Panda's seven joints must stand for its last link to be somewhere: all answers, in closed form.

One joint more than a pose has dimensions: for each angle of the last joint there are up to four postures (after He and Liu, "Analytical
inverse kinematics for Franka Emika Panda", 2021). A search that starts from a guess finds one posture or none; here nothing is guessed, so
"no joint angles" means that there are none. Knows nothing of grippers, worlds or collisions.
"""

from __future__ import annotations

import math

import numpy as np

SHOULDER_M, _UPPER_M, _FORE_M, _ELBOW_M, _WRIST_M = 0.333, 0.316, 0.384, 0.0825, 0.088
_L1, _L2 = math.hypot(_UPPER_M, _ELBOW_M), math.hypot(_FORE_M, _ELBOW_M)
_BENT = math.atan2(_UPPER_M, _ELBOW_M) + math.atan2(_FORE_M, _ELBOW_M) - 2 * math.pi
_AT_WRIST = math.atan2(_ELBOW_M, _FORE_M)
_X90 = np.array(((1.0, 0, 0), (0, 0, -1), (0, 1, 0)))


def postures(base_T_link7: np.ndarray, last_rad: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Joint angles Kx7 within limits (7x2) that bring link 7 to base_T_link7 (4x4), of last joints' angles N; K at most 4 N."""
    last = np.asarray(last_rad, float)
    r6 = base_T_link7[:3, :3] @ _about_z(-last) @ _X90.T
    wrist = base_T_link7[:3, 3] - _WRIST_M * r6[:, :, 0]
    to_shoulder = np.array((0.0, 0.0, SHOULDER_M)) - wrist
    far = np.linalg.norm(to_shoulder, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # what is out of reach becomes NaN, and is left out at the end
        q4 = np.arccos((_L1**2 + _L2**2 - far**2) / (2 * _L1 * _L2)) + _BENT
        leans = (
            np.arccos((_L2**2 + far**2 - _L1**2) / (2 * _L2 * far)) + _AT_WRIST
        )  # the forearm, from the way to the shoulder
        towards = np.einsum("nij,ni->nj", r6, to_shoulder / far[:, None])  # in link 6
        swing = np.arccos(-np.cos(leans) / np.hypot(towards[:, 0], towards[:, 1]))
    middle = np.arctan2(towards[:, 1], towards[:, 0])
    found = []
    for turned in (middle + swing, middle - swing):
        z5 = np.cos(turned)[:, None] * r6[:, :, 0] + np.sin(turned)[:, None] * r6[:, :, 1]
        r5 = _frame(np.cross(-r6[:, :, 2], z5), -r6[:, :, 2], z5)
        up = to_shoulder - np.sum(to_shoulder * z5, 1, keepdims=True) * z5
        x4 = up / np.linalg.norm(up, axis=1, keepdims=True)
        r4 = _frame(x4, z5, np.cross(x4, z5))
        q6 = _turn(_X90.T @ r5.transpose(0, 2, 1) @ r6)
        q5 = _turn(_X90 @ r4.transpose(0, 2, 1) @ r5)
        r3 = r4 @ _about_z(-q4) @ _X90.T  # turns about z, y and z
        for side in (1.0, -1.0):
            q2 = side * np.arccos(np.clip(r3[:, 2, 2], -1.0, 1.0))
            q1 = np.arctan2(side * r3[:, 1, 2], side * r3[:, 0, 2])
            q3 = np.arctan2(side * r3[:, 2, 1], -side * r3[:, 2, 0])
            found.append(np.column_stack((q1, q2, q3, q4, q5, q6, last)))
    q = np.concatenate(found)
    q[:, 5] = np.where(q[:, 5] < limits[5, 0], q[:, 5] + 2 * math.pi, q[:, 5])
    return q[((q > limits[:, 0]) & (q < limits[:, 1])).all(1)]


def _about_z(angles: np.ndarray) -> np.ndarray:
    turns = np.zeros((len(angles), 3, 3))
    turns[:, 0, 0] = turns[:, 1, 1] = np.cos(angles)
    turns[:, 1, 0] = np.sin(angles)
    turns[:, 0, 1] = -turns[:, 1, 0]
    turns[:, 2, 2] = 1.0
    return turns


def _turn(about_z: np.ndarray) -> np.ndarray:
    return np.arctan2(about_z[:, 1, 0], about_z[:, 0, 0])


def _frame(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.stack((x, y, z), axis=-1)
