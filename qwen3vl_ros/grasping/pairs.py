"""Where two fingers fit from any side: pairs of surface points that face away from each other, and the hand turned about them.

Contact first: the line through two opposed points is the closing axis; so is each axis of the box, from outline to outline, for
sides that are seen edge-on have no points. The approach is turned about it, from as steep as it
can be to as level as `gripper.max_tilt_deg` allows. What the hand would run into there is thrown away by few points, so that
`judge.py` measures the others by all. Finds what columns from above (jaws.py) cannot: side grasps under a shelf, closing axes
that are not level. Knows nothing of cameras, labels or quality.

Source: ten Pas and Platt, "Using geometry to detect grasp poses in 3D point clouds", ISRR 2015 (sampling by surface normals).
"""

from __future__ import annotations

import math

import numpy as np

from qwen3vl_ros.config import GripperConfig
from qwen3vl_ros.grasping.poses import Poses, by_turns, in_jaws
from qwen3vl_ros.grasping.site import Site

_SAMPLES, _CLOUD = 260, 1200  # points that may be a contact, and points that their normals are fitted to
_AROUND_POINTS = 500  # of object and surroundings that stand in the way, each
_AROUND_M, _AROUND_NOISE = 0.007, 3.0  # radius of what a normal is fitted to, metres and noise
_FLAT = 0.12  # least over middle eigenvalue: more, and it is no face
_LEAST_WIDTH_M = 0.004
_COS_OPPOSED = math.cos(math.radians(25.0))
_APART_M, _APART_AXES = 0.012, 4.0  # pairs nearer than this, and closing axes, as parts of a unit vector, are one
_PAIRS, _SPANS = 40, 12
_SLICE_M, _OUTLINED = 0.012, 0.9  # height of a slice, and worth of a span in the middle beside a pair's
_TURNS = np.deg2rad((0.0, -30.0, 30.0, -60.0, 60.0, -90.0, 90.0))
_BEYOND_M = (0.008, 0.018)  # fingertips past the contact
_PALM_OFF_M = 0.003
_STEEP_WORTH = 0.3
_IN_THE_WAY = 1  # thinned points that may be


def opposed_poses(site: Site, gripper: GripperConfig, keep: int) -> Poses:
    """Up to `keep` poses whose fingers close on opposed faces and whose hand is free, as far as thinned points tell."""
    found = zip(_pairs(site, gripper), _spans(site, gripper))
    poses, worth = _turned(site, *(np.concatenate(of) for of in found), gripper)
    order = np.argsort(-worth, kind="stable")
    poses, worth = poses[order], worth[order]
    free = np.flatnonzero(_is_free(site, poses, gripper))
    # By turns from each lean, the best of each first.
    lean = np.rint(np.degrees(np.arccos(np.clip(poses.local_R_jaws[free, 2, 2], -1, 1))) / 30).astype(int)
    return poses[free[by_turns(lean)[:keep]]]


def _normals(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """Some of the object's points, the assumed ones included, that lie on a face; and its unit normals, without sign."""
    cloud = site.points[:: max(1, len(site.points) // _CLOUD)]
    some = site.points[:: max(1, len(site.points) // _SAMPLES)]
    radius = max(_AROUND_M, _AROUND_NOISE * site.noise_m, 2.5 * site.pitch_m)
    squared = (some**2).sum(1)[:, None] + (cloud**2).sum(1) - 2 * some @ cloud.T
    near = (squared < radius * radius).astype(np.float32)
    products = np.einsum("ni,nj->nij", cloud, cloud).reshape(-1, 9)
    sums = near @ np.concatenate((np.ones((len(cloud), 1), np.float32), cloud, products), 1)
    count = np.maximum(sums[:, :1], 1)
    mean = sums[:, 1:4] / count
    spread = (sums[:, 4:] / count).reshape(-1, 3, 3) - np.einsum("ni,nj->nij", mean, mean)
    values, vectors = np.linalg.eigh(spread.astype(float))
    face = (count[:, 0] >= 6) & (values[:, 0] < _FLAT * values[:, 1] + site.noise_m**2)
    return some[face].astype(float), vectors[face, :, 0]


def _pairs(site: Site, gripper: GripperConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Middles Kx3, closing axes Kx3, widths K and worths K of pairs of opposed points that the jaws can take, apart from each other."""
    points, normals = _normals(site)
    points -= site.centre_m
    # Of every two at once: their distance, and how far one lies from the other along the normal of that.
    length2 = np.square(points).sum(1)
    width = np.sqrt(np.maximum(length2[:, None] + length2 - 2 * points @ points.T, 0.0))
    along = np.abs(normals @ points.T - (normals * points).sum(1)[:, None])
    fits = (width > _LEAST_WIDTH_M) & (width + 2 * gripper.clearance < gripper.max_width)
    fits &= np.minimum(along, along.T) > _COS_OPPOSED * width
    first, second = np.nonzero(np.triu(fits, 1))
    if not len(first):
        return np.empty((0, 3)), np.empty((0, 3)), np.empty(0), np.empty(0)
    points += site.centre_m
    width = width[first, second]
    way = (points[second] - points[first]) / width[:, None]
    signs = [np.sign(np.einsum("ij,ij->i", normals[k], way))[:, None] for k in (first, second)]
    closing = signs[0] * normals[first] + signs[1] * normals[second] + way  # the mean of three that err on their own
    closing /= np.linalg.norm(closing, axis=1)[:, None]
    middle = (points[first] + points[second]) / 2
    agree = np.minimum(*(np.abs(np.einsum("ij,ij->i", normals[k], closing)) for k in (first, second)))
    aside = middle - site.centre_m
    aside = np.linalg.norm(aside - np.einsum("ij,ij->i", aside, closing)[:, None] * closing, axis=1)
    worth = agree - aside / site.half_m
    order = np.argsort(-worth, kind="stable")
    longest = np.take_along_axis(closing, np.abs(closing).argmax(1)[:, None], 1)
    axis = closing * np.sign(longest)  # either sign is the same axis
    cells = np.concatenate((np.floor(middle / _APART_M), np.rint(axis * _APART_AXES)), 1)[order].astype(int)
    those = order[np.sort(np.unique(cells, axis=0, return_index=True)[1])][:_PAIRS]
    return middle[those], closing[those], width[those], worth[those]


def _spans(site: Site, gripper: GripperConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As _pairs, from outline to outline of slices as wide as a finger, along the level axes of the object's box."""
    found, step = [], np.array((gripper.finger_width / 2, _SLICE_M))
    for yaw in (site.box_yaw_rad, site.box_yaw_rad + np.pi / 2):
        closing, across = np.array((math.cos(yaw), math.sin(yaw), 0.0)), np.array((-math.sin(yaw), math.cos(yaw), 0.0))
        local = (site.points - site.centre_m) @ np.stack((across, (0.0, 0.0, 1.0), closing), 1)
        slices = np.rint(local[:, :2] / step).astype(int)
        slices -= slices.min(0)
        columns = int(slices[:, 1].max()) + 1
        index = slices[:, 0] * columns + slices[:, 1]
        low, high = np.full(int(index.max()) + 1, np.inf), np.full(int(index.max()) + 1, -np.inf)
        np.minimum.at(low, index, local[:, 2])
        np.maximum.at(high, index, local[:, 2])
        width = high - low
        those = np.flatnonzero((width > _LEAST_WIDTH_M) & (width + 2 * gripper.clearance < gripper.max_width))
        at = np.stack(np.divmod(those, columns), 1) * step + np.rint(local[:, :2] / step).min(0) * step
        middle = site.centre_m + at[:, :1] * across + (low[those] + high[those])[:, None] / 2 * closing
        middle[:, 2] += at[:, 1]
        worth = _OUTLINED - np.linalg.norm(at, axis=1) / site.half_m
        best = np.argsort(-worth, kind="stable")[:_SPANS]
        found.append((middle[best], np.tile(closing, (len(best), 1)), width[those][best], worth[best]))
    return tuple(np.concatenate(of) for of in zip(*found))


def _turned(site: Site, middle, closing, width, worth, gripper: GripperConfig) -> tuple[Poses, np.ndarray]:
    """The hand at each pair with its approach turned about the closing axis and its tips past the contact; and their worths."""
    up = np.array((0.0, 0.0, 1.0)) - closing * closing[:, 2:]
    steep = np.linalg.norm(up, axis=1)
    up[steep < 1e-6] = np.cross(closing[steep < 1e-6], (1.0, 0.0, 0.0))
    up /= np.linalg.norm(up, axis=1)[:, None]
    aside = np.cross(closing, up)
    back = np.cos(_TURNS)[:, None] * up[:, None] + np.sin(_TURNS)[:, None] * aside[:, None]  # pairs x turns x 3
    across = np.cross(closing[:, None], back)
    axes = np.stack((across, np.broadcast_to(closing[:, None], back.shape), back), -1).reshape(-1, 3, 3)
    contacts = Poses(axes, np.repeat(middle, len(_TURNS), 0), np.repeat(width, len(_TURNS)))
    worth = (worth[:, None] + _STEEP_WORTH * back[..., 2]).ravel()
    deepest = gripper.finger_length - _PALM_OFF_M - _height_over(site, contacts, gripper)
    beyond = np.minimum(np.array(_BEYOND_M)[:, None], deepest).ravel()  # the palm does not meet the object
    at_m = np.tile(contacts.at_m, (len(_BEYOND_M), 1)) - beyond[:, None] * np.tile(axes[:, :, 2], (len(_BEYOND_M), 1))
    poses = Poses(np.tile(axes, (len(_BEYOND_M), 1, 1)), at_m, np.tile(contacts.width_m, len(_BEYOND_M)))
    axes, worth = poses.local_R_jaws, np.tile(worth, len(_BEYOND_M))
    allowed = axes[:, 2, 2] > math.cos(math.radians(gripper.max_tilt_deg)) - 1e-3
    allowed = np.flatnonzero(allowed & _above_the_support(site, poses, gripper))
    return poses[allowed], worth[allowed]


def _height_over(site: Site, poses: Poses, gripper: GripperConfig) -> np.ndarray:
    """How far the object goes on from each pose towards the palm, where that would meet it; K."""
    x, y, z = in_jaws(site.points[:: max(1, len(site.points) // _AROUND_POINTS)], poses.local_R_jaws, poses.at_m)
    under = (np.abs(x) < gripper.palm_width / 2) & (np.abs(y) < gripper.palm_length / 2)
    return np.where(under, z, -np.inf).max(1)


def _above_the_support(site: Site, poses: Poses, gripper: GripperConfig) -> np.ndarray:
    if not site.stands:
        return np.ones(len(poses), bool)
    across, along, steep = np.abs(poses.local_R_jaws[:, 2]).T
    half = poses.width_m / 2 + gripper.clearance + gripper.finger_thickness
    finger = across * gripper.finger_width / 2 + along * half
    palm = across * gripper.palm_width / 2 + along * gripper.palm_length / 2 - steep * gripper.finger_length
    return poses.at_m[:, 2] - np.maximum(finger, palm) >= gripper.clearance


def _is_free(site: Site, poses: Poses, gripper: GripperConfig) -> np.ndarray:
    """Whether hardly any of the thinned points are where fingers and palm would be."""
    free = np.ones(len(poses), bool)
    inner = (poses.width_m / 2 + gripper.clearance).astype(np.float32)[:, None]
    for points in (site.points, site.rest):
        x, y, z = in_jaws(points[:: max(1, len(points) // _AROUND_POINTS)], poses.local_R_jaws, poses.at_m)
        x, y = np.abs(x), np.abs(y)
        finger = (y > inner) & (y < inner + gripper.finger_thickness) & (x < gripper.finger_width / 2) & (z > 0)
        palm = (z > gripper.finger_length) & (x < gripper.palm_width / 2) & (y < gripper.palm_length / 2)
        free &= np.count_nonzero(finger | palm, axis=1) <= _IN_THE_WAY
    return free
