"""Why nobody may say of a thing that was put down that it lies as it was told to: by a picture of before and one of after.

Facts say where it is; these say on what. What it was put on was measured when the place was chosen, and may have been more than one thing:
a tray's floor is hardly above the table, and what stands on a tray may be taken for its top. So what was seen under a thing before it came
there has to be level with what it was told to be put on, and of its colour; and what lies there now has to have the thing's own.
Knows nothing of models, motions or ROS.
"""

from __future__ import annotations

import numpy as np

from qwen3vl_ros.asking.colours import of_another, of_its_own
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.hulls import depth_inside, outline
from qwen3vl_ros.geometry.presence import presence
from qwen3vl_ros.geometry.relations import cm
from qwen3vl_ros.geometry.things import Surface, Thing
from qwen3vl_ros.grasping.placing import FLAT_M, uneven_m

_RIM_M = 0.004  # of a footprint, where readings may be of what is beside it
_AROUND_M = (-0.025, -_RIM_M)  # about a footprint, how far inside it
_LEAST = 20  # readings that must tell
_SHADES = 30.0  # of 255: so much more or less light falls on a thing that nobody touched
_HARDLY, _AMONG, _MOST = 0.1, 0.25, 0.6  # shares of what is seen under a thing, or of it
_ON_IT_M = 0.012
_TOP_PERCENT, _TOP_M = 98, 0.006  # what stands is as high as it was, within that
_ALL, _SUNK_M = 0.9, 0.008  # of what has come, over its carrier; how deep it is in an opening at least
# About a thing: where other things may have been taken instead, how far aside it may have been pushed, and how much of it may not have been
# seen; readings that others may have, of as many of its own.
_ABOUT_M, _ASIDE_M, _UNSEEN_M, _FEW = 0.12, 0.25, 0.03, 0.15


def doubt(
    before: SceneCloud | None, now: SceneCloud | None, lying: Thing, carrier: Thing | Surface | None, level_R_frame
) -> str:
    """What speaks against a thing (lying: as it is now) resting on its carrier and nothing else, and against its being what it is called;
    "" where nothing does, or nobody can tell. before: when it was not there yet.
    """
    if before is None or not before.usable or now is None:
        return ""
    if _has_another_colour(now, before, lying):
        return f"what lies there has another colour than the {lying.label}"
    under, pixels = _readings(before, lying, level_R_frame, _RIM_M, np.inf)
    if len(under) < _LEAST:
        return ""
    if isinstance(carrier, Thing) and carrier.inside is None:
        other = _shown(before, carrier.label)[pixels]
        if other.mean() > _MOST:
            return f"what it was put on has another colour than the {carrier.label}"
        own = of_its_own(before.frame.rgb, carrier.label)
        about, around = _readings(before, lying, level_R_frame, -_ABOUT_M, 0.0)
        step_m = (
            float(np.median(under[:, 2]) - np.median(about[own[around], 2])) if own[around].sum() >= _LEAST else 0.0
        )
        if own[pixels].mean() < _HARDLY and abs(step_m) > FLAT_M:  # else it may be painted so
            return f"what is under it is {cm(abs(step_m))} {'above' if step_m > 0 else 'below'} the {carrier.label} and not of its colour"
    if isinstance(carrier, Surface):
        above = _above(under, carrier, level_R_frame)
        top_m = float(_above(lying.seen_m @ level_R_frame.T, carrier, level_R_frame).max())
        if np.mean((above > FLAT_M) & (above < top_m)) > _AMONG:
            return f"something stood there before it was put on the {carrier.label}"
        flat = above[np.abs(above) < FLAT_M]
        if len(flat) >= _LEAST and abs(off := float(np.median(flat))) > uneven_m(before, lying.frame_T_box[:3, 3]):
            return f"what is under it is {cm(abs(off))} {'above' if off > 0 else 'below'} the {carrier.label}, and may be another thing"
    return ""


def leans(before: SceneCloud | None, now: SceneCloud | None, lies: Thing, rest: Thing, up: np.ndarray) -> str:
    """What speaks against a thing (lies: where it is now) standing as it was put (rest), or lying flat: the top of what has come there is
    higher or lower. "" where nothing does, or nobody can tell.
    """
    if not _both_tell(before, now):
        return ""
    come = _new_in(now, before, lies.frame_T_box[:3, 3], float(np.linalg.norm(rest.size_m)) / 2 + _UNSEEN_M)
    if len(come) < _LEAST:
        return ""
    off_m, astray_m = _top_off_m(now, come @ up, rest, up)
    if astray_m <= 0:
        return ""
    return f"its top is {cm(abs(off_m))} {'higher' if off_m > 0 else 'lower'} than where the {rest.label} stands as it was put"


def come_onto(
    before: SceneCloud | None, now: SceneCloud | None, rest: Thing, carrier: Thing | Surface, level_R_frame
) -> Thing | None:
    """The thing (rest: as it was put) where it lies now on its carrier or in its opening, wherever it has rolled there: where what has come
    there is of its size and colours and lies as deep as it would. None where nothing has, or nobody can tell.
    """
    if not _both_tell(before, now):
        return None
    inside = None if isinstance(carrier, Surface) else carrier.inside
    of = carrier.outline_m if isinstance(carrier, Surface) else carrier.seen_m if inside is None else inside.rim_m
    border, longest = of @ level_R_frame.T, float(max(rest.size_m))
    reach_m = float(np.linalg.norm(np.ptp(border[:, :2], axis=0))) / 2 + longest
    come = _new_in(now, before, of.mean(0), reach_m) @ level_R_frame.T
    own = np.concatenate((rest.seen_m, rest.completed_m)) @ level_R_frame.T
    come = come[np.abs(come[:, 2] - own[:, 2].min()) < longest + _UNSEEN_M]
    if len(come) < 2 * _LEAST or np.mean(depth_inside(outline(border[:, :2]), come[:, :2]) > -_RIM_M) < _ALL:
        return None
    spread = np.ptp(np.percentile(come[:, :2], (2, 98), axis=0), axis=0)
    *_, column, row = _behind(now, come @ level_R_frame)
    if spread.max() > longest + _UNSEEN_M or _shown(now, rest.label)[row, column].mean() > _AMONG:
        return None
    if inside is None:
        if _top_off_m(now, come[:, 2], rest, level_R_frame[2])[1] > 0:
            return None
    elif np.percentile(come[:, 2], _TOP_PERCENT) > border[:, 2].mean() + min(rest.size_m) - _SUNK_M:
        return None
    aside = np.eye(4)
    aside[:3, 3] = (*(np.median(come, 0) - np.median(rest.seen_m @ level_R_frame.T, 0))[:2], 0.0) @ level_R_frame
    return rest.moved(aside)


def _top_off_m(now: SceneCloud, heights_m: np.ndarray, rest: Thing, up: np.ndarray) -> tuple[float, float]:
    """How much higher the top of what has come (its heights) is than that of a thing as it was put, and how far that is from what it would be
    standing or lying on another side, beyond what noise does: 0 or less for such.
    """
    own = np.concatenate((rest.seen_m, rest.completed_m)) @ up
    off_m = float(np.percentile(heights_m, _TOP_PERCENT) - np.percentile(own, _TOP_PERCENT))
    away_m = float(np.linalg.norm(rest.frame_T_box[:3, 3] - now.frame_T_camera[:3, 3]))
    fallen = np.append(np.asarray(rest.size_m) - np.ptp(own), 0.0)
    return off_m, float(np.abs(off_m - fallen).min()) - _TOP_M - 2 * now.noise_per_m2 * away_m**2


def stands_off(cloud: SceneCloud, thing: Thing, carrier: Surface, level_R_frame) -> bool:
    """Whether what is seen about the foot of a thing lies flat on its carrier and is another surface, as a tray's floor is."""
    about, _ = _readings(cloud, thing, level_R_frame, *_AROUND_M)
    above = _above(about, carrier, level_R_frame)
    flat = above[np.abs(above) < FLAT_M]
    return len(flat) >= _LEAST and abs(float(np.median(flat))) > uneven_m(cloud, thing.frame_T_box[:3, 3])


def took_another(before: SceneCloud | None, now: SceneCloud | None, stood: Thing) -> str:
    """What speaks against its being the thing it is called that was taken (stood: as it stood before): of what is gone from where it stood,
    most had another colour. "" where nothing does, or nobody can tell.
    """
    if not _both_tell(before, now):
        return ""
    another = _has_another_colour(before, now, stood)
    return f"what was taken has another colour than the {stood.label}" if another else ""


def only_it_went(before: SceneCloud | None, now: SceneCloud | None, stood: Thing) -> bool:
    """Whether of all that stood about a thing nothing but it is gone, and nothing has come near there: then it was not pushed aside, and
    what jaws took there is the thing, however wide it is.
    """
    if not _both_tell(before, now):
        return False
    at = stood.frame_T_box[:3, 3]
    gone, come = _new_in(before, now, at, _ABOUT_M), _new_in(now, before, at, _ASIDE_M)
    box_T_frame = np.linalg.inv(stood.frame_T_box)
    local = gone @ box_T_frame[:3, :3].T + box_T_frame[:3, 3]
    own = (np.abs(local) < np.asarray(stood.size_m) / 2 + _UNSEEN_M).all(1)
    few = _FEW * np.count_nonzero(own)
    return bool(np.count_nonzero(own) >= _LEAST and np.count_nonzero(~own) < few and len(come) < few)


def stood_there(before: SceneCloud, now: SceneCloud, thing: Thing) -> bool:
    """Whether an earlier picture shows what stands in this one, at the same place and of the same colours."""
    if not presence(before, thing).is_there:
        return False
    _, was, *at_before = _behind(before, thing.seen_m)
    _, is_now, *at_now = _behind(now, thing.seen_m)
    with np.errstate(invalid="ignore"):
        both = (np.abs(was) < _ON_IT_M) & (np.abs(is_now) < _ON_IT_M)
    if np.count_nonzero(both) < _LEAST:
        return False
    shown = [
        cloud.frame.rgb[row[both], column[both]].astype(float)
        for cloud, (column, row) in ((before, at_before), (now, at_now))
    ]
    return float(np.median(np.abs(shown[0] - shown[1]).max(1))) < _SHADES


def _both_tell(before: SceneCloud | None, now: SceneCloud | None) -> bool:
    return before is not None and now is not None and before.usable and now.usable


def _new_in(cloud: SceneCloud, other: SceneCloud, at: np.ndarray, reach_m: float) -> np.ndarray:
    """Readings of a picture no farther from a point, Nx3, at which another one sees past."""
    points = cloud.points_m.reshape(-1, 3)
    camera = (at - cloud.frame_T_camera[:3, 3]) @ cloud.frame_T_camera[:3, :3]
    with np.errstate(invalid="ignore"):
        points = points[((points - camera.astype(np.float32)) ** 2).sum(1) < reach_m**2].astype(float)
    points = points @ cloud.frame_T_camera[:3, :3].T + cloud.frame_T_camera[:3, 3]
    away_m, behind, *_ = _behind(other, points)
    with np.errstate(invalid="ignore"):
        return points[behind > _ON_IT_M + 2 * cloud.noise_per_m2 * away_m**2]


def _has_another_colour(cloud: SceneCloud, other: SceneCloud, thing: Thing) -> bool:
    """Whether what a picture shows of a thing, where another one sees past it, has mostly another colour than its name says."""
    away_m, behind, column, row = _behind(cloud, thing.seen_m)
    tolerance = _ON_IT_M + 2 * cloud.noise_per_m2 * away_m**2
    with np.errstate(invalid="ignore"):
        alone = (np.abs(behind) < tolerance) & (_behind(other, thing.seen_m)[1] > tolerance)
    if np.count_nonzero(alone) < _LEAST:
        return False
    return float(_shown(cloud, thing.label)[row[alone], column[alone]].mean()) > _MOST


def _behind(cloud: SceneCloud, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of points Nx3 of the frame: their depth, how far the camera saw behind them (NaN: nobody knows), columns and rows of their pixels."""
    camera_T_frame = np.linalg.inv(cloud.frame_T_camera)
    local = points_m @ camera_T_frame[:3, :3].T + camera_T_frame[:3, 3]
    column, row = np.rint(np.nan_to_num(cloud.project_px(local), nan=-1.0)).astype(int).T
    return local[:, 2], cloud.look_behind(local), column, row


def _shown(cloud: SceneCloud, name: str) -> np.ndarray:
    return of_another(cloud.frame.rgb, (0, 0, *cloud.frame.size_px), name)


def _above(points: np.ndarray, surface: Surface, level_R_frame) -> np.ndarray:
    """How far points Nx3 of the level frame are above a surface."""
    return points @ (level_R_frame @ surface.normal) - float((surface.outline_m @ surface.normal).mean())


def _readings(
    cloud: SceneCloud, thing: Thing, level_R_frame, least_m: float, most_m: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Readings so far inside a thing's footprint (outside: negative), Nx3 in the level frame, and their pixels (rows, columns)."""
    own = np.concatenate((thing.seen_m, thing.completed_m)) @ level_R_frame.T
    foot = outline(own[:, :2])
    beyond = foot.mean(0) + (foot - foot.mean(0)) * (
        1 + max(0.0, -least_m) / max(1e-3, float(np.ptp(foot, axis=0).min() / 2))
    )
    camera_T_frame = np.linalg.inv(cloud.frame_T_camera)
    corners = (
        np.array([(*xy, z) for xy in beyond for z in (own[:, 2].min() - _ON_IT_M, own[:, 2].max())]) @ level_R_frame
    )
    shown = cloud.project_px(corners @ camera_T_frame[:3, :3].T + camera_T_frame[:3, 3])
    height, width = cloud.frame.depth_m.shape
    if not np.isfinite(shown).all():
        return np.empty((0, 3)), (np.empty(0, int), np.empty(0, int))
    low = np.clip(np.floor(shown.min(0)).astype(int), 0, (width, height))
    high = np.clip(np.ceil(shown.max(0)).astype(int) + 1, 0, (width, height))
    points = cloud.window_points_m(slice(low[1], high[1]), slice(low[0], high[0])).reshape(-1, 3).astype(float)
    level_T_camera = level_R_frame @ cloud.frame_T_camera[:3, :3]
    points = points @ level_T_camera.T + level_R_frame @ cloud.frame_T_camera[:3, 3]
    seen = np.flatnonzero(np.isfinite(points[:, 2]))
    inside_m = depth_inside(foot, points[seen, :2])
    seen = seen[(inside_m > least_m) & (inside_m < most_m)]
    row, column = np.divmod(seen, max(1, high[0] - low[0]))
    return points[seen], (row + low[1], column + low[0])
