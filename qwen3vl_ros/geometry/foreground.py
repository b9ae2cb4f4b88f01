"""Which pixels of a 2D box are the object: the coherent piece of surface that the box is about.

Depth readings in and around the box become patches whose neighbours touch in space; what lies on the support
is taken away first, and the patch that fills the box best around its centre wins. So neither the background
seen through the box nor an occluder that cuts its border is taken for the object. Knows nothing of shapes,
poses or grippers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from qwen3vl_ros.geometry.cloud import Plane, SceneCloud

_WINDOW_PIXELS = 16000
_MARGIN = 0.2
_MIN_MARGIN_PX = 4
_FRAGMENT_SHARE = 0.02
_MIN_BOX_SHARE = 0.02
_OWN_SHARE = 0.85  # of its pixels inside the box: less, and it is not the object alone


@dataclass(frozen=True, eq=False)
class Foreground:
    """The object's pixels in a window of the image and what else the box holds.

    points_m: hxwx3 organised points of the window (NaN = no reading); mask: hxw, the object; rows, columns:
    the image pixels of the window (step apart). box: hxw, inside the 2D box. standing: hxw, above the support
    (all valid readings when there is none). cut: the object's surface goes on outside the box, so the box is
    where it ends.
    """

    points_m: np.ndarray
    mask: np.ndarray
    rows: slice
    columns: slice
    step: int
    box: np.ndarray
    standing: np.ndarray
    cut: bool


def foreground(cloud: SceneCloud, box_xyxy_px, plane: Plane | None) -> Foreground | str:
    """The object in the box, or the reason why there is none. plane: what it stands on, if that is known."""
    height, width = cloud.frame.depth_m.shape
    x0, y0, x1, y1 = box_xyxy_px
    x0, x1 = np.clip((x0, x1), 0, width)
    y0, y1 = np.clip((y0, y1), 0, height)
    if not (x1 - x0 >= 1 and y1 - y0 >= 1):
        return f"the box covers no pixel of the {width}x{height} image"
    margin_x, margin_y = (max(_MIN_MARGIN_PX, _MARGIN * side) for side in (x1 - x0, y1 - y0))
    left, right = int(max(0, x0 - margin_x)), int(min(width, np.ceil(x1 + margin_x)))
    top, bottom = int(max(0, y0 - margin_y)), int(min(height, np.ceil(y1 + margin_y)))
    step = max(1, int(np.ceil(np.sqrt((right - left) * (bottom - top) / _WINDOW_PIXELS))))
    rows, columns = slice(top, bottom, step), slice(left, right, step)
    points = cloud.window_points_m(rows, columns)
    u, v = np.arange(left, right, step) + 0.5, np.arange(top, bottom, step) + 0.5
    box = ((v > y0) & (v < y1))[:, None] & ((u > x0) & (u < x1))[None]
    valid = np.isfinite(points[..., 2])
    readings, needed = int((valid & box).sum()) * step**2, cloud.config.min_points
    if readings < needed:
        return (
            f"no depth in the box: {readings} of {int(box.sum()) * step**2} pixels have a reading between "
            f"{cloud.config.min_depth:g} and {cloud.config.max_depth:g} m, {needed} are needed"
        )
    standing = valid
    if plane is not None:
        with np.errstate(invalid="ignore"):
            standing = plane.height_m(points) > plane.tolerance_at(points[..., 2])  # False for NaN
        if (standing & box).sum() * step**2 < needed:
            return (
                "nothing in the box stands out from the support plane: "
                f"{int((standing & box).sum()) * step**2} of {readings} readings are more than "
                f"{1e3 * plane.tolerance_m:.1f} mm above it, "
                f"{needed} are needed"
            )
    focal = float(min(cloud.frame.K[0, 0], cloud.frame.K[1, 1]))
    for tightness in (1.0, 0.5, 0.25):
        gap = tightness * cloud.config.cluster_gap
        patches, count = touching_patches(points, standing, gap, step / focal)
        mask, share_inside = _patch_of_the_box(
            points, patches, count, box, u, v, (x0, y0, x1, y1), cloud.config.cluster_gap
        )
        if share_inside > _OWN_SHARE:
            break
    else:
        mask &= box  # it still runs far out of the box: the box knows better where it ends
    mask &= (
        ((v > y0 - margin_y / 2) & (v < y1 + margin_y / 2))[:, None] & (u > x0 - margin_x / 2) & (u < x1 + margin_x / 2)
    )
    found, whole = int(mask.sum()) * step**2, int(box.sum()) * step**2
    if found < max(needed, _MIN_BOX_SHARE * whole):
        return (
            f"too few points on the object: {found} of the box's {whole} pixels hang together, "
            f"{max(needed, math.ceil(_MIN_BOX_SHARE * whole))} are needed (lift.min_points, 2 % of the box)"
        )
    return Foreground(points, mask, rows, columns, step, box, standing, share_inside <= _OWN_SHARE)


def touching_patches(points_m: np.ndarray, mask: np.ndarray, gap_m: float, pitch: float) -> tuple[np.ndarray, int]:
    """Label the pixels of `mask` (hxw) so that neighbours closer than gap_m (at 1 m range) share a label.

    points_m hxwx3; pitch: pixel spacing at 1 m range. Returns labels (hxw int32, 0 outside the mask) and
    their number.
    """
    h, w = mask.shape
    # Pixels at even places, the links between them at odd ones: components of this picture are those of the
    # graph.
    graph = np.zeros((2 * h - 1, 2 * w - 1), np.uint8)
    graph[::2, ::2] = mask
    reach = max(gap_m, 3.0 * pitch)
    with np.errstate(invalid="ignore"):
        for a, b, links in (
            (np.s_[:, :-1], np.s_[:, 1:], graph[::2, 1::2]),
            (np.s_[:-1], np.s_[1:], graph[1::2, ::2]),
        ):
            z = np.minimum(points_m[a][..., 2], points_m[b][..., 2])
            far2 = np.square(points_m[a] - points_m[b]).sum(-1)
            links[:] = mask[a] & mask[b] & (far2 < np.square(reach * z))
    count, labels = cv2.connectedComponents(graph, connectivity=4, ltype=cv2.CV_32S)
    return labels[::2, ::2], count


def _patch_of_the_box(points, patches, count, box, u, v, box_px, gap_m) -> tuple[np.ndarray, float]:
    """Mask of the patch that the box is about, with the fragments of the same object that something cut off.

    And the share of the patch that lies in the box: much less than 1 when it has grown into something else.
    """
    sizes = np.bincount(patches.ravel(), minlength=count).astype(float)
    inside = np.bincount(patches[box], minlength=count).astype(float)
    x0, y0, x1, y1 = box_px
    off_centre = np.square((v - (y0 + y1) / 2) / (y1 - y0))[:, None] + np.square((u - (x0 + x1) / 2) / (x1 - x0))[None]
    central = np.bincount(patches.ravel(), np.where(box, np.exp(-6.0 * off_centre), 0.0).ravel(), minlength=count)
    share_inside = inside / np.maximum(sizes, 1)
    worth = central * np.square(share_inside)
    worth[0] = 0.0
    best = int(worth.argmax())
    mask = patches == best
    fragments = [
        k
        for k in np.flatnonzero(inside >= max(8.0, _FRAGMENT_SHARE * inside[best]))
        if k not in (0, best) and share_inside[k] > _OWN_SHARE
    ]
    if fragments:
        body = _thin(points[mask], 300)
        for k in fragments:
            piece = patches == k
            other = _thin(points[piece], 150)
            nearest = np.square(other[:, None] - body[None]).sum(-1).min()
            if nearest < np.square(gap_m * float(np.median(other[:, 2]))):
                mask |= piece
    return mask, float(share_inside[best])


def _thin(points: np.ndarray, count: int) -> np.ndarray:
    return points[:: max(1, len(points) // count)]


def without_flying(mask: np.ndarray) -> np.ndarray:
    """The mask without pixels that have fewer than two neighbours in it: readings between two surfaces."""
    neighbours = cv2.filter2D(
        mask.astype(np.uint8),
        -1,
        np.array(((0, 1, 0), (1, 0, 1), (0, 1, 0)), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
    )
    kept = mask & (neighbours >= 2)
    return kept if kept.sum() * 2 > mask.sum() else mask


def surface_normals(points_m: np.ndarray, mask: np.ndarray, noise_m: float = 0.0) -> np.ndarray:
    """Unit normals towards the camera of organised points hxwx3 in `mask`; NaN where they cannot be told.

    noise_m: standard deviation of the depth; the more of it, the wider the neighbourhood.
    """
    side = math.sqrt(max(int(mask.sum()), 1))
    share = 0.03 + min(0.02, 20.0 * max(0.0, noise_m - 0.0005))
    reach, kernel = int(np.clip(round(share * side), 1, 5)), (5, 5) if noise_m > 0.0002 else (3, 3)
    weight = cv2.boxFilter(mask.astype(np.float32), -1, kernel, normalize=False, borderType=cv2.BORDER_CONSTANT)
    filled = np.where(mask[..., None], points_m, 0).astype(np.float32)
    mean = cv2.boxFilter(filled, -1, kernel, normalize=False, borderType=cv2.BORDER_CONSTANT)
    mean /= np.where(weight > 0, weight, np.nan)[..., None]
    mean[~mask] = np.nan
    slopes = []
    for axis in (1, 0):
        ahead, back = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        to, of = [slice(None)] * 2, [slice(None)] * 2
        to[axis], of[axis] = slice(None, -reach), slice(reach, None)
        ahead[tuple(to)], back[tuple(of)] = mean[tuple(of)], mean[tuple(to)]
        slope = ahead - back
        slope = np.where(np.isnan(slope), ahead - mean, slope)
        slopes.append(np.where(np.isnan(slope), mean - back, slope))
    normal = np.cross(slopes[1], slopes[0])  # image y then x: out of the surface, towards the camera
    with np.errstate(invalid="ignore"):
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return normal
