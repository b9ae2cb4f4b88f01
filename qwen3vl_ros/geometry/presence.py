"""Whether what was measured once is where it was, or where it should be by now: by the depth of a newer picture alone.

A box that a model draws may be missing, or be of something else; depth cannot be talked round. Where a thing stands, every ray to one of its
points ends in its box, from whichever side it is seen; where it does not, rays go past. Knows nothing of models and relations.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import cv2
import numpy as np

from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.shape import level_axes
from qwen3vl_ros.geometry.things import Surface, Thing

_LEAST = 20  # points that must tell
_MOST = 600  # points that are looked at
_SURE = 0.7  # of those that tell, to believe them
_SURFACE_M = 0.02  # between the points of a surface
_FIXED_M = 0.006  # what an edge or the pose of a camera adds to the depth's noise
_NEAR_M = 2.0
_SCENE_M, _SCENE_SHARE = 0.03, 0.5  # by how much, and in how much of a picture, a scene may have changed


class Presence(NamedTuple):
    """Counts of points: that ended where they should, that the camera sees past, that something nearer hides."""

    there: int
    gone: int
    hidden: int

    @property
    def is_there(self) -> bool:
        told = self.there + self.gone
        return told >= max(_LEAST, self.hidden / 4) and self.there > _SURE * told

    @property
    def is_gone(self) -> bool:
        told = self.there + self.gone
        return told >= max(_LEAST, self.hidden / 4) and self.gone > _SURE * told


UNTOLD = Presence(0, 0, 0)


def presence(cloud: SceneCloud | None, what: Thing | Surface, before: SceneCloud | None = None) -> Presence:
    """Of a thing or surface in cloud.frame_id, as it was measured or moved to where it should be.

    before: an earlier picture, of when it was not there: only those points count past which the camera saw then.
    """
    if cloud is None or not cloud.usable or (before is not None and not before.usable):
        return UNTOLD
    if isinstance(what, Surface):
        return _counted(*_ends(cloud, _spread(what), None))
    points = np.concatenate((what.seen_m, what.completed_m)) if len(what.completed_m) else what.seen_m
    points = points[:: max(1, len(points) // _MOST)]
    ends = _ends(cloud, points, what)
    if before is not None:
        could_tell = _ends(before, points, what)[1]
        ends = tuple(e & could_tell for e in ends)
    return _counted(*ends)


def another_scene(before: SceneCloud, now: SceneCloud) -> bool:
    """Whether a picture shows so little of what one before it showed that it cannot be of the same place."""
    if not (before.usable and now.usable):
        return False
    points = _moved(np.linalg.inv(now.frame_T_camera) @ before.frame_T_camera, before.thinned_m.astype(float))
    behind = now.look_behind(points[points[:, 2] > 0])
    told = behind[np.isfinite(behind)]
    tolerance_m = _SCENE_M * max(1.0, float(np.median(points[:, 2]))) if len(points) else _SCENE_M
    return len(told) > _LEAST and float(np.mean(np.abs(told) < tolerance_m)) < _SCENE_SHARE


def changed(before: SceneCloud, now: SceneCloud) -> bool:
    """Whether anything near in the view of a camera that stands still is nearer or farther than it was."""
    if not (before.usable and now.usable) or before.depth_m.shape != now.depth_m.shape:
        return False
    with np.errstate(invalid="ignore"):
        near = np.maximum(now.depth_m, before.depth_m) < _NEAR_M  # farther off, noise alone changes as much
        other = near & (np.abs(now.depth_m - before.depth_m) > _SCENE_M * np.maximum(1.0, before.depth_m))
    return int(cv2.erode(other.astype(np.uint8), np.ones((5, 5), np.uint8)).sum()) > _LEAST


def _counted(there: np.ndarray, gone: np.ndarray, hidden: np.ndarray) -> Presence:
    return Presence(*(int(np.count_nonzero(k)) for k in (there, gone, hidden)))


def _ends(cloud: SceneCloud, points_m: np.ndarray, thing: Thing | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the rays to points Nx3 of the frame: which end at the thing (without one: at the point), behind it, before it."""
    local = _moved(np.linalg.inv(cloud.frame_T_camera), np.asarray(points_m, float))
    behind = cloud.look_behind(local)
    known = np.isfinite(behind)
    tolerance = _FIXED_M + 2 * cloud.noise_per_m2 * local[:, 2] ** 2
    with np.errstate(invalid="ignore"):
        past, before = known & (behind > tolerance), known & (behind < -tolerance)
    if thing is None:
        return known & ~past & ~before, past, before
    ends = _moved(cloud.frame_T_camera, local * ((local[:, 2] + np.where(known, behind, 0.0)) / local[:, 2])[:, None])
    box_T_frame = np.linalg.inv(thing.frame_T_box)
    inside = (np.abs(_moved(box_T_frame, ends)) < np.asarray(thing.size_m) / 2 + tolerance[:, None]).all(1)
    up = cloud.frame_T_camera[:3, :3] @ cloud.up
    # What carries a thing begins where its box ends: there, a ray tells nothing.
    low = float((_corners(thing) @ up).min()) + 1.5 * tolerance
    raised = (ends @ up > low) & (points_m @ up > low)
    return known & inside & raised, known & past & ~(inside & raised) & (points_m @ up > low), before & ~inside


def _spread(surface: Surface) -> np.ndarray:
    """Points all over a surface, Nx3."""
    axes = level_axes(surface.normal)
    plan, height = surface.outline_m @ axes[:2].T, float((surface.outline_m @ axes[2]).mean())
    grids = [np.arange(a, b, _SURFACE_M) for a, b in zip(plan.min(0), plan.max(0))]
    spots = np.array(list(itertools.product(*grids)))
    border = cv2.convexHull(plan.astype(np.float32))
    spots = spots[[cv2.pointPolygonTest(border, tuple(map(float, s)), False) > 0 for s in spots]]
    return np.column_stack((spots, np.full(len(spots), height))) @ axes


def _corners(thing: Thing) -> np.ndarray:
    unit = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    return _moved(np.asarray(thing.frame_T_box, float), unit * thing.size_m)


def _moved(new_T_old: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    return points_m @ new_T_old[:3, :3].T + new_T_old[:3, 3]
