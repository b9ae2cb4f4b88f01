"""Depth images of exact solids by ray casting, for tests of geometry: every pixel's truth is known in closed
form.

Solids stand in a world frame (z up, the table is z = 0); `Scene.frame()` looks at them with any camera.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qwen3vl_ros.geometry.lens import ray_table
from qwen3vl_ros.types import Frame

WIDTH, HEIGHT = 320, 240


def intrinsics(width: int = WIDTH, height: int = HEIGHT, focal: float = 0.96) -> np.ndarray:
    """Square pixels, focal length in image widths, principal point in the middle."""
    f = focal * width
    return np.array(((f, 0, (width - 1) / 2), (0, f, (height - 1) / 2), (0, 0, 1.0)))


def pose(rotation: np.ndarray | None = None, position=(0.0, 0.0, 0.0)) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = np.eye(3) if rotation is None else rotation
    out[:3, 3] = position
    return out


def turn_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array(((c, -s, 0), (s, c, 0), (0, 0, 1.0)))


def turn_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array(((1.0, 0, 0), (0, c, -s), (0, s, c)))


def look_from(
    elevation_deg: float,
    azimuth_deg: float = -90.0,
    distance_m: float = 0.7,
    target=(0, 0, 0.03),
    roll_deg: float = 0.0,
) -> np.ndarray:
    """world_T_camera (x right, y down, z forward) that looks at target."""
    e, a = np.deg2rad((elevation_deg, azimuth_deg))
    eye = np.asarray(target, float) + distance_m * np.array((np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)))
    forward = (np.asarray(target, float) - eye) / distance_m
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack((right, np.cross(forward, right), forward), 1) @ turn_z(np.deg2rad(roll_deg))
    return pose(rotation, eye)


@dataclass(frozen=True, eq=False)
class Solid:
    """kind: "box", "ball" or "cylinder" (upright in its own frame); size_m: full extents."""

    kind: str
    size_m: tuple[float, float, float]
    world_T_solid: np.ndarray

    def depths(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Ray parameter of the first hit of origin + t ray, HxW, inf where there is none. All in the solid's
        frame.
        """
        half = np.asarray(self.size_m) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "ball":
                return _quadratic((rays**2).sum(-1), rays @ origin, origin @ origin - half[0] ** 2)
            low, high = (-half - origin) / rays, (half - origin) / rays
            near, far = np.minimum(low, high), np.maximum(low, high)
            if self.kind == "box":
                t, end = near.max(-1), far.min(-1)
                return np.where((t < end) & (t > 0), t, np.inf)
            o, r = origin[:2], rays[..., :2]
            side = _quadratic((r**2).sum(-1), r @ o, o @ o - half[0] ** 2)
            side = np.where(np.abs(origin[2] + side * rays[..., 2]) <= half[2], side, np.inf)
            cap = near[..., 2]
            on_cap = np.linalg.norm(o + cap[..., None] * r, axis=-1) <= half[0]
            return np.minimum(side, np.where(on_cap & (cap > 0), cap, np.inf))


def _quadratic(a, b, c):
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root >= 0) & (t > 0), t, np.inf)


def box(size_m, position=(0, 0), yaw=0.0, bottom=0.0) -> Solid:
    return Solid("box", tuple(size_m), pose(turn_z(yaw), (*position, bottom + size_m[2] / 2)))


def ball(diameter_m, position=(0, 0), bottom=0.0) -> Solid:
    return Solid("ball", (diameter_m,) * 3, pose(None, (*position, bottom + diameter_m / 2)))


def cylinder(diameter_m, height_m, position=(0, 0), bottom=0.0) -> Solid:
    return Solid("cylinder", (diameter_m, diameter_m, height_m), pose(None, (*position, bottom + height_m / 2)))


@dataclass(eq=False)
class Scene:
    """Solids, with or without a table at z = 0, and a camera."""

    solids: list[Solid]
    world_T_camera: np.ndarray = field(default_factory=lambda: look_from(45))
    table: bool = True
    K: np.ndarray = field(default_factory=intrinsics)
    size_px: tuple[int, int] = (WIDTH, HEIGHT)
    distortion: np.ndarray | None = None
    distortion_model: str = "plumb_bob"
    noise: float = 0.0

    def __post_init__(self):
        rays = ray_table(self.K, self.distortion, self.distortion_model, self.size_px).astype(float)
        rays = np.dstack((rays, np.ones(rays.shape[:2])))
        layers = []
        for solid in self.solids:
            solid_T_camera = np.linalg.inv(solid.world_T_solid) @ self.world_T_camera
            layers.append(solid.depths(solid_T_camera[:3, 3], rays @ solid_T_camera[:3, :3].T))
        world_rays = rays @ self.world_T_camera[:3, :3].T
        with np.errstate(divide="ignore"):
            table = np.where(world_rays[..., 2] < 0, -self.world_T_camera[2, 3] / world_rays[..., 2], np.inf)
        layers.append(table if self.table else np.full(table.shape, np.inf))
        layers = np.stack(layers)
        self.labels = layers.argmin(0)
        depth = layers.min(0)
        self.labels[~np.isfinite(depth) | (depth > 5)] = len(self.solids)
        depth = np.where(depth < 5, depth, 0.0)
        if self.noise:
            depth = depth + np.random.default_rng(0).normal(size=depth.shape) * self.noise * depth**2
        self.depth_m = depth.astype(np.float32)

    def frame(self, **changes) -> Frame:
        width, height = self.size_px
        values = dict(
            stamp_ns=1,
            frame_id="camera",
            rgb=np.zeros((height, width, 3), np.uint8),
            depth_m=self.depth_m,
            K=self.K,
            distortion=self.distortion,
            distortion_model=self.distortion_model,
        )
        return Frame(**{**values, **changes})

    def box_px(self, index: int = 0) -> tuple[float, float, float, float]:
        """The box around the visible pixels of one solid."""
        rows, columns = np.nonzero(self.labels == index)
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)

    def camera_T_solid(self, index: int = 0) -> np.ndarray:
        return np.linalg.inv(self.world_T_camera) @ self.solids[index].world_T_solid
