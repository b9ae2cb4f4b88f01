"""What spatial statements are made of: things, surfaces and where they are seen from, as plain values.

A `Thing` is points that were seen and points that were completed, whether they come from a depth image, from a tracker or
from a simulator that knows them exactly. `Body` is a thing or a surface made ready for many questions: a hull of few
points in a level frame. Knows nothing of images, models or relations. All of one layout's values are in one frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from qwen3vl_ros.geometry.hulls import centroid, extreme_points, outline, without_strays
from qwen3vl_ros.types import InvalidInput

_NEARLY_VERTICAL = math.cos(math.radians(15.0))
_GUESSED = 0.1  # a completed end may be off by this share of what was added to the seen one
_MOSTLY_GUESSED = 0.5  # the same where more was added than seen
_NO_POINTS = np.empty((0, 3))


@dataclass(frozen=True, eq=False)
class Inside:
    """The room in a thing: rim_m Kx3, the outline of its opening; depth_m from there to the inner floor, as far as seen."""

    rim_m: np.ndarray
    depth_m: float


@dataclass(frozen=True, eq=False)
class Thing:
    """One object. Points Nx3 metres. Raises InvalidInput where a value is no number or nothing was seen.

    seen_m: measured points (of exact geometry: all vertices). completed_m: points assumed on its unseen side and at the
    foot on which it stands.   frame_T_box: 4x4, centre and axes of its box; size_m its full extents.
    sigma_m: standard deviation of where its surface is, measured.   edge_m: how much less is known sideways, where readings
    are missing around it.   spread_m: standard deviation of its position over the last looks, 0 where there was one.
    stamp_ns: capture time of the last look.
    inside: its room, None where none was measured.   front: unit vector out of its front, None where it has none known.
    """

    id: str
    label: str
    seen_m: np.ndarray
    frame_T_box: np.ndarray
    size_m: np.ndarray
    completed_m: np.ndarray = field(default_factory=lambda: _NO_POINTS)
    sigma_m: float = 0.0
    spread_m: float = 0.0
    stamp_ns: int = 0
    inside: Inside | None = None
    front: np.ndarray | None = None
    edge_m: float = 0.0

    def __post_init__(self):
        _check_points(f"Thing.seen_m of {self.id!r}", self.seen_m, least=1)
        _check_points(f"Thing.completed_m of {self.id!r}", self.completed_m, least=0)
        if np.shape(self.frame_T_box) != (4, 4) or np.shape(self.size_m) != (3,) or not np.min(self.size_m) > 0:
            raise InvalidInput(f"Thing {self.id!r} needs a 4x4 frame_T_box and a size_m of three lengths above 0 m")
        if not all(value >= 0 for value in (self.sigma_m, self.spread_m, self.edge_m)):
            raise InvalidInput(
                f"Thing {self.id!r} has a negative or unknown sigma_m, spread_m or edge_m; give metres, 0 if exact"
            )

    def moved(self, new_T_old: np.ndarray, stamp_ns: int | None = None, spread_m: float | None = None) -> Thing:
        """The same thing after a rigid motion, 4x4: in another frame, or where a tracker says that it is now."""
        turn, shift = np.asarray(new_T_old, float)[:3, :3], np.asarray(new_T_old, float)[:3, 3]
        inside = self.inside and replace(self.inside, rim_m=self.inside.rim_m @ turn.T + shift)
        return replace(
            self,
            seen_m=self.seen_m @ turn.T + shift,
            completed_m=self.completed_m @ turn.T + shift,
            frame_T_box=new_T_old @ self.frame_T_box,
            inside=inside,
            front=None if self.front is None else turn @ self.front,
            stamp_ns=self.stamp_ns if stamp_ns is None else stamp_ns,
            spread_m=self.spread_m if spread_m is None else spread_m,
        )


@dataclass(frozen=True, eq=False)
class Surface:
    """Something flat that things may stand on. outline_m Kx3: its convex border. normal: unit vector, upwards.

    clear_m: height of the free room above it, infinite where nothing is above. level: its number in a shelf, counted
    from below, 0 for none: a thing is in a level and on a table. The other fields as in Thing.
    """

    id: str
    label: str
    outline_m: np.ndarray
    normal: np.ndarray
    sigma_m: float = 0.0
    clear_m: float = math.inf
    level: int = 0
    spread_m: float = 0.0
    stamp_ns: int = 0
    edge_m: float = 0.0

    def __post_init__(self):
        _check_points(f"Surface.outline_m of {self.id!r}", self.outline_m, least=3)
        if not abs(np.linalg.norm(self.normal) - 1) < 1e-6:
            raise InvalidInput(f"Surface {self.id!r} needs a normal of length 1, upwards")


def _check_points(name: str, points: np.ndarray, least: int) -> None:
    if np.ndim(points) != 2 or np.shape(points)[1] != 3 or len(points) < least or not np.isfinite(points).all():
        raise InvalidInput(f"{name} must be finite points Nx3 with N >= {least}, got shape {np.shape(points)}")


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """From where a scene is seen. frame_T_camera 4x4, optical frame. up: unit vector against gravity, None if unknown.

    frame_T_robot: 4x4 pose of the robot's base (x forward, y left, z up), None if unknown.
    """

    frame_T_camera: np.ndarray
    up: np.ndarray | None = None
    frame_T_robot: np.ndarray | None = None

    def __post_init__(self):
        for name in ("frame_T_camera", "frame_T_robot"):
            value = getattr(self, name)
            if value is not None and (np.shape(value) != (4, 4) or not np.isfinite(value).all()):
                raise InvalidInput(f"Viewpoint.{name} must be a finite 4x4 pose, got shape {np.shape(value)}")
        if self.up is not None:
            if np.shape(self.up) != (3,) or not np.linalg.norm(self.up) > 0:
                raise InvalidInput(f"Viewpoint.up must be a vector of three numbers that is not 0, got {self.up}")
            object.__setattr__(self, "up", np.asarray(self.up, float) / np.linalg.norm(self.up))

    def forward(self) -> np.ndarray:
        """The camera's forward made level: its optical axis, or within 15 degrees of the vertical what is up in the image.

        A camera that looks straight up has the world's forward at the lower border of its image.
        """
        axis, image_up = self.frame_T_camera[:3, 2], -self.frame_T_camera[:3, 1]
        lean = float(axis @ self.up)
        if abs(lean) > _NEARLY_VERTICAL:
            return level(image_up if lean < 0 else -image_up, self.up)
        return level(axis, self.up)


def level(vector: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Unit vector of the part of `vector` that is at right angles to `up`."""
    flat = vector - (vector @ up) * up
    return flat / np.linalg.norm(flat)


class End(NamedTuple):
    """Where a body ends along a direction, metres; its standard deviation; whether that end was seen."""

    at: float
    sigma_m: float
    seen: bool


@dataclass(frozen=True, eq=False)
class Body:
    """A thing or surface in a level frame (z up), made by `body_of`. name: what reasons call it. points: all, Nx3."""

    name: str
    thing: Thing | Surface
    points: np.ndarray
    hull: np.ndarray
    hull_seen: np.ndarray  # which of the hull's points were seen
    centre: np.ndarray
    size_m: np.ndarray
    rim: np.ndarray | None = None  # Kx3, of its inside
    normal: np.ndarray | None = None  # of a surface

    def moved(self, new_T_old: np.ndarray, thing: Thing) -> Body:
        """The body after a rigid motion in the level frame; thing: the same thing there."""
        turn, shift = new_T_old[:3, :3], new_T_old[:3, 3]
        return replace(
            self,
            thing=thing,
            points=self.points @ turn.T + shift,
            hull=self.hull @ turn.T + shift,
            centre=turn @ self.centre + shift,
            rim=None if self.rim is None else self.rim @ turn.T + shift,
        )

    @property
    def sigma_m(self) -> float:
        """Standard deviation of where it is sideways, metres."""
        return math.sqrt(self.thing.sigma_m**2 + self.thing.spread_m**2 + self.thing.edge_m**2)

    def sigma_along(self, direction: np.ndarray) -> float:
        """Standard deviation of its ends along a unit vector; upright ends do not hang on its edges in the image."""
        edge = self.thing.edge_m * math.hypot(*direction[:2])
        return math.sqrt(self.thing.sigma_m**2 + self.thing.spread_m**2 + edge**2)

    def span(self, direction: np.ndarray) -> tuple[End, End]:
        """Its two ends along a unit vector, over seen and completed points."""
        along = self.hull @ direction
        seen = along[self.hull_seen]
        sigma, height, ends = self.sigma_along(direction), float(np.ptp(seen)), []
        for whole, visible in ((along.min(), seen.min()), (along.max(), seen.max())):
            added = abs(float(whole - visible))
            guess = added * (_GUESSED if added <= height else _MOSTLY_GUESSED)
            ends.append(End(float(whole), math.hypot(sigma, guess), added <= 2 * sigma + 1e-9))
        return ends[0], ends[1]

    def width_m(self, direction: np.ndarray) -> float:
        along = self.hull @ direction
        return float(along.max() - along.min())

    @cached_property
    def outline(self) -> np.ndarray:
        """Convex outline in plan, Kx2."""
        return outline(self.hull[:, :2])

    @cached_property
    def foot(self) -> np.ndarray:
        """Convex outline in plan of its lowest quarter, Kx2."""
        low, high = self.hull[:, 2].min(), self.hull[:, 2].max()
        return outline(self.points[self.points[:, 2] <= low + 0.25 * (high - low) + 1e-9, :2])

    @cached_property
    def foot_centre(self) -> np.ndarray:
        return centroid(self.foot)


def body_of(thing: Thing | Surface, level_R_frame: np.ndarray, name: str) -> Body:
    """The body of a thing or surface; level_R_frame: 3x3, rows the axes of the level frame."""
    if isinstance(thing, Surface):
        corners = thing.outline_m @ level_R_frame.T
        size = np.maximum(np.ptp(corners, axis=0), 1e-6)
        normal = level_R_frame @ thing.normal
        centre = np.append(centroid(outline(corners[:, :2])), corners[:, 2].mean())
        return Body(name, thing, corners, corners, np.ones(len(corners), bool), centre, size, normal=normal)
    seen = np.asarray(thing.seen_m, float) @ level_R_frame.T
    if thing.sigma_m > 0:  # measured: some readings lie beside the thing
        seen = without_strays(seen)
    completed = np.asarray(thing.completed_m, float) @ level_R_frame.T
    seen_hull, completed_hull = extreme_points(seen), extreme_points(completed)
    hull_seen = np.arange(len(seen_hull) + len(completed_hull)) < len(seen_hull)
    centre = level_R_frame @ np.asarray(thing.frame_T_box, float)[:3, 3]
    size = _upright_size(level_R_frame @ np.asarray(thing.frame_T_box, float)[:3, :3], np.asarray(thing.size_m, float))
    rim = None if thing.inside is None else thing.inside.rim_m @ level_R_frame.T
    return Body(
        name,
        thing,
        np.concatenate((seen, completed)),
        np.concatenate((seen_hull, completed_hull)),
        hull_seen,
        centre,
        size,
        rim,
    )


def _upright_size(axes: np.ndarray, size_m: np.ndarray) -> np.ndarray:
    """(length, width, height): the side that stands most upright is the height, the longer of the others the length."""
    upright = int(np.abs(axes[2]).argmax())
    return np.array((*sorted(np.delete(size_m, upright), reverse=True), size_m[upright]))
