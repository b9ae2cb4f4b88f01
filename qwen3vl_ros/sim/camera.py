"""The embedded RGB-D camera: a `SceneSpec` in, a picture with depth and its whole truth out.

Composes the renderer's passes with soft shadows, and adds boxes, visibility and poses. Knows nothing of ROS or of
the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Mapping, Sequence

import cv2
import numpy as np

from qwen3vl_ros.sim.furniture import box_corners, shelf_parts, sign_parts
from qwen3vl_ros.sim.renderer import ROOM, TABLE, Renderer, SimCameraError
from qwen3vl_ros.sim.shading import LAMP_MAP_HALF_M, LAMP_MAP_HALF_SHELF_M, contact_shade, lamp_pose, lit_fraction
from qwen3vl_ros.sim.shapes import Mesh, Part, build_meshes
from qwen3vl_ros.sim.specs import FOVY_DEG, SceneSpec
from qwen3vl_ros.sim.truth import (
    GaugeTruth,
    LevelTruth,
    ObjectTruth,
    SignTruth,
    foot_size_m,
    footprint_m,
    gauge_truth,
    hull_on_table_m,
    scene_truths,
    shelf_truths,
    sign_truth,
    world_T_foot,
    world_T_object,
)
from qwen3vl_ros.types import InvalidInput

__all__ = ["GaugeTruth", "LevelTruth", "ObjectTruth", "SignTruth", "SimCamera", "SimCameraError", "SimView"]

_CONTACT_STRENGTH = 0.55
_SAMPLES = {"default": 4, "fast": 2}


@dataclass(frozen=True)
class SimView:
    """One picture and its truth.

    rgb: HxWx3 uint8. depth_m: HxW float32, distance along the optical axis, 0 where nothing was measured.
    K: 3x3, whole numbers are pixel centres. world_T_camera: 4x4, ROS optical frame (x right, y down, z forward).
    segmentation: HxW int16, index of the object, -1 elsewhere; dial, shelf and sign follow the objects in this order.
    """

    rgb: np.ndarray | None
    depth_m: np.ndarray | None
    K: np.ndarray
    world_T_camera: np.ndarray
    segmentation: np.ndarray
    truths: tuple[ObjectTruth, ...]
    gauge: GaugeTruth | None = None
    levels: tuple[LevelTruth, ...] = ()
    sign: SignTruth | None = None


class SimCamera:
    """Draws scenes. Use it as a context manager and only from the thread that made it.

    quality: "default" for pictures to look at, "fast" for training data (less antialiasing). robot: meshes, in metres, of what
    `render` is to draw beside the scene.
    """

    def __init__(
        self,
        width: int = 640,
        height: int = 480,
        fovy_deg: float = FOVY_DEG,
        quality: str = "default",
        robot: Mapping[str, Mesh] = MappingProxyType({}),
    ):
        if not (16 <= width <= 4096 and 16 <= height <= 4096):
            raise InvalidInput(f"SimCamera size is {width}x{height}; each side must be 16 to 4096 px")
        if not 5.0 <= fovy_deg <= 120.0:
            raise InvalidInput(f"SimCamera.fovy_deg is {fovy_deg}; it must be 5 to 120 degrees")
        if quality not in _SAMPLES:
            raise InvalidInput(f"SimCamera.quality is {quality!r}; it must be one of {', '.join(_SAMPLES)}")
        self.width, self.height, self.fovy_deg = int(width), int(height), float(fovy_deg)
        focal = self.height / 2 / np.tan(np.deg2rad(fovy_deg) / 2)
        self.K = np.array(((focal, 0, (self.width - 1) / 2), (0, focal, (self.height - 1) / 2), (0, 0, 1.0)))
        self._samples = _SAMPLES[quality]
        self._meshes, self._assets = build_meshes() | dict(robot), {}
        self._renderer = self._new_renderer()

    def __enter__(self) -> SimCamera:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context; the camera can draw no more."""
        self._renderer.close()

    def render(
        self,
        spec: SceneSpec,
        world_T_camera: np.ndarray | None = None,
        *,
        rgb: bool = True,
        depth: bool = True,
        robot: Sequence[Part] = (),
    ) -> SimView:
        """Draw the scene from its own camera, or from world_T_camera (4x4, ROS optical frame) when given. robot: where the parts of
        the robot are; they hide and shade what is behind them, and are no objects of the truth.
        """
        if self._renderer.closed:
            raise SimCameraError("this SimCamera was closed; make a new one")
        pose = spec.camera.world_T_camera() if world_T_camera is None else np.asarray(world_T_camera, float)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise InvalidInput(f"world_T_camera must be a finite 4x4 matrix, got shape {pose.shape}")
        unknown = {thing.asset for thing in spec.objects if thing.asset} - self._assets.keys()
        if unknown:
            self._load_household(unknown)
        draw = self._renderer
        draw.begin(spec, robot)
        lamp_T = lamp_pose(spec.light.direction)
        half_m = LAMP_MAP_HALF_M if spec.shelf is None else LAMP_MAP_HALF_SHELF_M
        lamp_depth_m = draw.draw_lamp_depth(lamp_T, half_m) if rgb else None
        draw.aim(pose)
        labels, depth_m = draw.draw_labels(depth or rgb)
        colour = self._shaded(spec, pose, labels, depth_m, lamp_T, lamp_depth_m, half_m) if rgb else None
        labels[labels >= TABLE] = -1
        truths = scene_truths(spec, self._meshes, labels, self.K, pose)
        return SimView(
            colour,
            depth_m if depth else None,
            self.K.copy(),
            pose.copy(),
            labels,
            truths,
            gauge_truth(spec, self.K, pose) if spec.gauge is not None else None,
            shelf_truths(spec.shelf, self.K, pose, labels.shape) if spec.shelf is not None else (),
            sign_truth(spec, self.K, pose) if spec.sign is not None else None,
        )

    def _new_renderer(self) -> Renderer:
        return Renderer(self.width, self.height, self.fovy_deg, self._samples, self._meshes, self._assets)

    def _load_household(self, needed: set[str]) -> None:
        """The assets are big, so only a camera that meets one pays for them."""
        from qwen3vl_ros.sim.household import LARGEST_M, catalogue

        small = catalogue()
        self._assets = small if needed <= small.keys() else catalogue(LARGEST_M)
        self._meshes |= {name: asset.outline for name, asset in self._assets.items()}
        self._renderer.close()
        self._renderer = self._new_renderer()

    def _shaded(self, spec, pose, labels, depth_m, lamp_T, lamp_depth_m, half_m) -> np.ndarray:
        without, everything = self._renderer.draw_colour(spec, key=False), self._renderer.draw_colour(spec, key=True)
        on_thing = (labels >= 0) & (labels != TABLE) & (labels != ROOM)
        lit = lit_fraction(depth_m, self.K, pose, lamp_depth_m, lamp_T, on_thing, half_m)
        footprints = [footprint_m(self._meshes[o.mesh], world_T_object(o), o.size_m) for o in spec.objects]
        if spec.gauge is not None:
            footprints.append(footprint_m(self._meshes["cube"], world_T_foot(spec.gauge), foot_size_m(spec.gauge)))
        parts = shelf_parts(spec.shelf) if spec.shelf is not None else []
        parts += sign_parts(spec.sign) if spec.sign is not None else []
        footprints += [hull_on_table_m(box_corners(part)) for part in parts]
        shade = contact_shade(footprints, self.K, pose, labels.shape)
        shade[labels != TABLE] = 0.0
        shade = 1.0 - np.float32(_CONTACT_STRENGTH) * shade
        picture = cv2.subtract(everything, without)
        picture = cv2.multiply(picture, cv2.merge([lit] * 3), dtype=cv2.CV_32F)
        picture += cv2.multiply(without, cv2.merge([shade] * 3), dtype=cv2.CV_32F)
        return cv2.convertScaleAbs(picture)
