"""From an image to the patches Qwen3-VL's vision tower reads. NumPy and Pillow only; knows no tokens and no weights.

The rule is that of the checkpoint's preprocessor_config.json: both sides rounded to a multiple of patch x merge, the
area kept between two limits, bicubic with antialiasing, then normalised and cut into patches in merge order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

from qwen3vl_ros.engine.checkpoint import read_json
from qwen3vl_ros.types import InvalidInput, WrongModel

MAX_ASPECT = 200.0


@dataclass(frozen=True)
class PixelRule:
    """How a checkpoint wants its images; areas in pixels after resizing."""

    patch: int
    merge: int
    temporal: int
    min_area: int
    max_area: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def read(directory: Path, min_area: int = 0, max_area: int = 0) -> PixelRule:
        """From preprocessor_config.json (or processor_config.json); areas other than 0 replace the file's."""
        path = directory / "preprocessor_config.json"
        if path.is_file():
            values = read_json(path)
        else:
            path = directory / "processor_config.json"
            values = read_json(path).get("image_processor") or {}
        size = values.get("size") or {}
        try:
            rule = PixelRule(
                patch=int(values["patch_size"]), merge=int(values["merge_size"]),
                temporal=int(values["temporal_patch_size"]),
                min_area=min_area or int(size.get("shortest_edge") or values["min_pixels"]),
                max_area=max_area or int(size.get("longest_edge") or values["max_pixels"]),
                mean=tuple(map(float, values["image_mean"])), std=tuple(map(float, values["image_std"])))
        except (KeyError, TypeError, ValueError) as error:
            raise WrongModel(f"{path} has no usable {error}; restore the model's own file") from error
        if not 0 < rule.min_area <= rule.max_area or rule.max_area < rule.token_side**2:
            raise InvalidInput(f"image area limits {rule.min_area} to {rule.max_area} pixels are impossible (from "
                               f"{path} and generation.min_pixels, generation.max_pixels): the smallest must not exceed the "
                               f"largest, and one visual token takes {rule.token_side**2} pixels")
        return rule

    @property
    def token_side(self) -> int:
        """Side of the square that one visual token sees, pixels."""
        return self.patch * self.merge

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) an image is resized to. Raises InvalidInput for a strip thinner than 1:200."""
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise InvalidInput(f"image {width}x{height} is thinner than 1:{MAX_ASPECT:.0f}; crop it")
        side = self.token_side
        new = [round(n / side) * side for n in (width, height)]
        if new[0] * new[1] > self.max_area:
            shrink = math.sqrt(width * height / self.max_area)
            new = [max(side, math.floor(n / shrink / side) * side) for n in (width, height)]
        elif new[0] * new[1] < self.min_area:
            grow = math.sqrt(self.min_area / (width * height))
            new = [math.ceil(n * grow / side) * side for n in (width, height)]
        return new[0], new[1]

    def patches(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(Nx(3*temporal*patch*patch) float32, Mx3 int64 grid of t, h, w patches) of M images, each HxWx3 uint8 RGB."""
        flat, grids = zip(*(self._patches(image) for image in images))
        return np.concatenate(flat), np.array(grids, np.int64)

    def _patches(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InvalidInput(f"an image must be HxWx3 uint8 RGB, got {what}; convert it first")
        if 0 in image.shape:
            raise InvalidInput(f"an image is empty, shape {image.shape}; pass a decoded image")
        width, height = self.resized(image.shape[1], image.shape[0])
        if (height, width) != image.shape[:2]:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        scale = 1.0 / (255.0 * np.array(self.std, np.float32))
        offset = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        values = image * scale.astype(np.float32) - offset
        p, m = self.patch, self.merge
        rows, columns = height // p, width // p
        blocks = values.reshape(rows // m, m, p, columns // m, m, p, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        blocks = np.repeat(blocks[:, :, :, :, :, None], self.temporal, axis=5)
        return blocks.reshape(rows * columns, -1), (1, rows, columns)
