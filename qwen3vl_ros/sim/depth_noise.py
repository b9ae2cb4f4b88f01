"""What a real stereo depth camera makes of an exact depth picture: noise, steps and holes.

Disparity is what such a camera measures, so depth errs and steps with the square of the distance; it sees nothing where the
two views differ (at the edges of nearer things) and little where a surface is seen at a grazing angle. The figures are those
of a small active stereo camera (baseline 5 cm, subpixel noise of a tenth of a pixel). Knows nothing of scenes or rendering.
Source: Nguyen, Izadi, Lovell, "Modeling Kinect sensor noise for improved 3D reconstruction and tracking", 3DIMPVT 2012, for
the growth with distance and angle.
"""

from __future__ import annotations

import cv2
import numpy as np

BASELINE_M = 0.05
DISPARITY_SIGMA_PX = 0.10
DISPARITY_STEP_PX = 1 / 32
_EDGE_JUMP = 0.03  # of the distance, between neighbours
_EDGE_HOLES, _STRAY_HOLES = 0.7, 0.0015  # shares of pixels lost beside an edge, and anywhere
_GRAZING_COS = 0.28  # of the angle between ray and normal: below it the surface gets lost
_CORRELATION_PX = 0.8  # matching windows overlap, so neighbours err alike


def sigma_m(depth_m, focal_px: float):
    """Standard deviation of the depth, metres, at a distance."""
    return np.square(depth_m) * (DISPARITY_SIGMA_PX / (focal_px * BASELINE_M))


def noisy_depth(depth_m: np.ndarray, k: np.ndarray, seed, scale: float = 1.0) -> np.ndarray:
    """HxW float32 metres along the optical axis, 0 where nothing is measured, as such a camera would report it.

    depth_m: exact, 0 for nothing. k: 3x3. seed: of numpy's generators; the same one gives the same picture. scale: of the noise.
    """
    rng, focal = np.random.default_rng(seed), float(k[0, 0])
    seen = depth_m > 0
    disparity = focal * BASELINE_M / np.where(seen, depth_m, 1.0)
    error = rng.standard_normal(depth_m.shape, np.float32)
    error = cv2.GaussianBlur(error, (0, 0), _CORRELATION_PX)
    disparity += error * np.float32(scale * DISPARITY_SIGMA_PX / error.std())
    steps = np.maximum(np.round(disparity / DISPARITY_STEP_PX), 1.0)
    noisy = (focal * BASELINE_M / DISPARITY_STEP_PX / steps).astype(np.float32)
    chance = rng.random(depth_m.shape, np.float32)
    lost = chance < _STRAY_HOLES
    lost |= _beside_edges(depth_m) & (chance < _EDGE_HOLES)
    cosine = _facing(depth_m, k)
    lost |= (cosine < _GRAZING_COS) & (chance > cosine / np.float32(_GRAZING_COS))
    noisy[lost | ~seen] = 0.0
    return noisy


def _beside_edges(depth_m: np.ndarray) -> np.ndarray:
    """Where a neighbour within two pixels is much nearer or farther, three to the left of a nearer thing."""
    near = cv2.erode(depth_m, np.ones((3, 3), np.uint8))
    far = cv2.dilate(depth_m, np.ones((3, 3), np.uint8))
    jump = ((far - near) > _EDGE_JUMP * np.maximum(near, 0.05)).astype(np.uint8)
    return cv2.dilate(jump, np.ones((2, 4), np.uint8), anchor=(1, 0)).astype(bool)


def _facing(depth_m: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Cosine of the angle between the ray and the surface's normal, 0..1; 1 across edges, which have holes of their own."""
    height, width = depth_m.shape
    z = cv2.GaussianBlur(depth_m, (0, 0), 1.0)
    dx, dy = (cv2.Sobel(z, cv2.CV_32F, *order, ksize=3) / 8 for order in ((1, 0), (0, 1)))
    x = ((np.arange(width, dtype=np.float32) - np.float32(k[0, 2])) / np.float32(k[0, 0]))[None, :]
    y = ((np.arange(height, dtype=np.float32) - np.float32(k[1, 2])) / np.float32(k[1, 1]))[:, None]
    # The plane z(u, v) through a pixel has the normal (fx dx, fy dy, -(z + (u - cx) dx + (v - cy) dy)).
    nx, ny = dx * np.float32(k[0, 0]), dy * np.float32(k[1, 1])
    nz = -(z + x * nx + y * ny)
    along = -(nx * x + ny * y + nz) / np.sqrt((nx * nx + ny * ny + nz * nz) * (x * x + y * y + 1) + 1e-12)
    return np.where(_beside_edges(depth_m), np.float32(1.0), np.clip(along, 0.0, 1.0))
