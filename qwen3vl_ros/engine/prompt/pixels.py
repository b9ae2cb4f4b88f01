"""From images and clips to the patches Qwen3-VL's vision tower reads. NumPy only; knows no tokens and no weights.

The rule is that of the checkpoint's preprocessor_config.json (clips: video_preprocessor_config.json): both sides rounded
to a multiple of patch x merge, the area kept between two limits, bicubic with antialiasing, then normalised and cut into
patches in merge order.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np

from qwen3vl_ros.engine.checkpoint import read_json
from qwen3vl_ros.engine.prompt.resample import resize_bicubic
from qwen3vl_ros.types import InvalidInput, WrongModel

MAX_ASPECT = 200.0


@dataclass(frozen=True)
class PixelRule:
    """How a checkpoint wants its images, or its clips. Areas in pixels after resizing; a clip's over all its pictures."""

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
        return PixelRule._read(directory, "preprocessor_config.json", "image_processor", min_area, max_area)

    @staticmethod
    def read_video(directory: Path, min_area: int = 0, max_area: int = 0) -> PixelRule:
        """The rule for clips, from video_preprocessor_config.json or processor_config.json; InvalidInput without."""
        name = "video_preprocessor_config.json"
        if not any((directory / file).is_file() for file in (name, "processor_config.json")):
            raise InvalidInput(
                f"the model in {directory} cannot be shown a clip, because it has no {name}; send the clip's pictures as "
                "images, or use a model that has this file"
            )
        return PixelRule._read(directory, name, "video_processor", min_area, max_area)

    @staticmethod
    def _read(directory: Path, name: str, part: str, min_area: int, max_area: int) -> PixelRule:
        path = directory / name
        if path.is_file():
            values = read_json(path)
        else:
            path = directory / "processor_config.json"
            values = read_json(path).get(part) or {}
        size = values.get("size") or {}
        try:
            rule = PixelRule(
                patch=int(values["patch_size"]),
                merge=int(values["merge_size"]),
                temporal=int(values["temporal_patch_size"]),
                min_area=min_area or int(size.get("shortest_edge") or values["min_pixels"]),
                max_area=max_area or int(size.get("longest_edge") or values["max_pixels"]),
                mean=tuple(map(float, values["image_mean"])),
                std=tuple(map(float, values["image_std"])),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise WrongModel(f"{path} has no usable {error}; restore the model's own file") from error
        numbers = (*rule.mean, *rule.std)
        if (
            min(rule.patch, rule.merge, rule.temporal) < 1
            or len(rule.mean) != 3
            or len(rule.std) != 3
            or not (all(map(math.isfinite, numbers)) and min(rule.std) > 0)
        ):
            raise WrongModel(f"{path} asks for impossible pictures ({rule}); restore the model's own file")
        rule._refuse_other_patches(directory, path)
        if not 0 < rule.min_area <= rule.max_area or rule.max_area < rule.token_side**2:
            raise InvalidInput(
                f"image area limits {rule.min_area} to {rule.max_area} pixels are impossible (from "
                f"{path} and generation.min_pixels, generation.max_pixels): the smallest must not exceed the "
                f"largest, and one visual token takes {rule.token_side**2} pixels"
            )
        return rule

    def _refuse_other_patches(self, directory: Path, path: Path) -> None:
        """The tower reads patches of one shape, which config.json tells, too."""
        vision = read_json(directory / "config.json").get("vision_config") or {}
        wanted = tuple(vision.get(name) for name in ("patch_size", "spatial_merge_size", "temporal_patch_size"))
        if wanted != (self.patch, self.merge, self.temporal):
            raise WrongModel(
                f"{path} cuts pictures by patch, merge and frames into {self.patch}, {self.merge}, {self.temporal}, and "
                f"config.json is for {', '.join(map(str, wanted))}; copy both from the same model"
            )

    @property
    def token_side(self) -> int:
        """Side of the square that one visual token sees, pixels."""
        return self.patch * self.merge

    def resized(self, width: int, height: int, pictures: int | None = None) -> tuple[int, int]:
        """(width, height) an image is resized to, or each of the pictures of a clip.

        Raises InvalidInput for a strip thinner than 1:200.
        """
        side, counted = self.token_side, 1
        exact = 1 if pictures is None else pictures
        if pictures is not None:
            counted = round(pictures / self.temporal) * self.temporal
            if min(width, height) < side:
                grow = max(side / height, side / width)
                width, height = int(width * grow), int(height * grow)
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise InvalidInput(f"image {width}x{height} is thinner than 1:{MAX_ASPECT:.0f}; crop it")
        new = [round(n / side) * side for n in (width, height)]
        if counted * new[0] * new[1] > self.max_area:
            shrink = math.sqrt(exact * width * height / self.max_area)
            new = [max(side, math.floor(n / shrink / side) * side) for n in (width, height)]
        elif counted * new[0] * new[1] < self.min_area:
            grow = math.sqrt(self.min_area / (exact * width * height))
            new = [math.ceil(n * grow / side) * side for n in (width, height)]
        return new[0], new[1]

    def tokens(self, width: int, height: int, pictures: int | None = None) -> int:
        """Visual tokens of an image, or of a frame of a clip of so many pictures. Raises as `resized`."""
        if pictures is not None:
            self._refuse_short(pictures)
        new = self.resized(width, height, pictures)
        return new[0] * new[1] // self.token_side**2

    def within(self, area: int) -> PixelRule:
        """The rule with images of at most `area` pixels, one visual token at least."""
        most = max(min(self.max_area, area), self.token_side**2)
        return dataclasses.replace(self, min_area=min(self.min_area, most), max_area=most)

    def _refuse_short(self, pictures: int) -> None:
        if pictures < self.temporal:
            raise InvalidInput(
                f"a clip of {pictures} pictures is no clip: it needs {self.temporal}; send an image instead"
            )

    def patches(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(Nx(3*temporal*patch*patch) float32, Mx3 int64 grid of t, h, w patches) of M images, each HxWx3 uint8 RGB."""
        flat, grids = zip(*(self._patches(image) for image in images))
        return np.concatenate(flat), np.stack(grids)

    def clip_patches(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(Nx(3*temporal*patch*patch) float32, 1x3 int64 grid) of a clip of pictures of one size, each HxWx3 uint8 RGB.

        The last picture is repeated until `temporal` of them make the last frame.
        """
        self._refuse_short(len(pictures))
        size = self.resized(pictures[0].shape[1], pictures[0].shape[0], len(pictures))
        missing = -len(pictures) % self.temporal
        values = np.stack([self._values(picture, size) for picture in pictures])
        values = np.concatenate([values, np.repeat(values[-1:], missing, 0)])
        return self._cut(values.reshape(-1, self.temporal, *values.shape[1:]))

    def _patches(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = self._values(image, self.resized(image.shape[1], image.shape[0]))
        flat, grid = self._cut(np.broadcast_to(values, (1, self.temporal, *values.shape)))
        return flat, grid[0]

    def _values(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        scale = 1.0 / (255.0 * np.array(self.std, np.float32))
        offset = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        return resize_bicubic(image, *size) * scale.astype(np.float32) - offset

    def _cut(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames x temporal x H x W x 3 -> its patches, frame by frame, and their grid."""
        frames, temporal, height, width, _ = values.shape
        p, m = self.patch, self.merge
        rows, columns = height // p, width // p
        blocks = values.reshape(frames, temporal, rows // m, m, p, columns // m, m, p, 3)
        flat = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(frames * rows * columns, -1)
        return flat, np.array([[frames, rows, columns]], np.int64)
