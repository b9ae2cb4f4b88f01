"""From images, clips and a prompt to what every runtime reads: token ids, patches, their grid, and M-RoPE positions.

Needs neither torch nor transformers; equal to the official processor, and a test says so. Knows nothing of runtimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np

from qwen3vl_ros.engine.prompt.pixels import PixelRule
from qwen3vl_ros.engine.prompt.tokens import ChatTokens, ClipTokens
from qwen3vl_ros.types import InvalidInput


@dataclass(frozen=True)
class Clip:
    """Pictures of one camera in order, each HxWx3 uint8 RGB, and the time of each in seconds from the clip's start."""

    pictures: Sequence[np.ndarray]
    times_s: Sequence[float]

    def __post_init__(self):
        if len(self.pictures) != len(self.times_s):
            raise InvalidInput(
                f"a clip of {len(self.pictures)} pictures has {len(self.times_s)} times; give one for each picture"
            )
        if any(late < early for early, late in zip(self.times_s, self.times_s[1:])):
            raise InvalidInput(
                f"the times of a clip run backwards ({list(self.times_s)[:8]}, …); sort its pictures by time"
            )


@dataclass(frozen=True)
class Prepared:
    """A prompt of Q tokens and the N patches of its images and clips, in the order in which they stand in the prompt.

    ids: Q int64. positions: 3xQ int64 (time, row, column). pixels: N x patch_values float32. grid: M x 3 int64 (frames,
    rows, columns of patches). Without images pixels and grid are empty.
    """

    ids: np.ndarray
    positions: np.ndarray
    pixels: np.ndarray
    grid: np.ndarray
    visual_tokens: int


class Preparation:
    """Tokenizer, template and pixel rules of one checkpoint. Areas other than 0 replace the checkpoint's limits."""

    def __init__(self, directory: Path, min_area: int = 0, max_area: int = 0):
        self._directory, self._areas = Path(directory), (min_area, max_area)
        self.tokens = ChatTokens(self._directory)
        self.rule = PixelRule.read(self._directory, min_area, max_area)
        self._video_rule: PixelRule | None = None

    def __call__(
        self, prompt: str, images: Sequence[np.ndarray] = (), clips: Sequence[Clip] = (), text_first: bool = False
    ) -> Prepared:
        """One user message: images, then clips, then `prompt`; or `prompt` first.

        Raises InvalidInput and, where there are clips but no rule for them, WrongModel.
        """
        rule = self.rule
        parts = [rule.patches(images)] if images else []
        parts += [self._of_clips().clip_patches(clip.pictures) for clip in clips]
        values = 3 * rule.temporal * rule.patch**2
        pixels = np.concatenate([p for p, _ in parts]) if parts else np.empty((0, values), np.float32)
        grid = np.concatenate([g for _, g in parts]) if parts else np.empty((0, 3), np.int64)
        per_frame = (grid[:, 1] * grid[:, 2] // rule.merge**2).tolist()
        in_clips = [ClipTokens(self._frame_times_s(c), n) for c, n in zip(clips, per_frame[len(images) :])]
        ids = np.array(self.tokens.encode(prompt, per_frame[: len(images)], in_clips, text_first), np.int64)
        visual = (ids == self.tokens.image_id) | (ids == self.tokens.video_id)
        return Prepared(ids, mrope_positions(visual, grid, rule.merge), pixels, grid, int(visual.sum()))

    def _of_clips(self) -> PixelRule:
        if self._video_rule is None:
            self._video_rule = PixelRule.read_video(self._directory, *self._areas)
        return self._video_rule

    def _frame_times_s(self, clip: Clip) -> tuple[float, ...]:
        """A frame's time is the mean of its first and last picture's."""
        n = self._of_clips().temporal
        times_s = [*clip.times_s, *[clip.times_s[-1]] * (-len(clip.times_s) % n)]
        return tuple((times_s[i] + times_s[i + n - 1]) / 2 for i in range(0, len(times_s), n))


def mrope_positions(visual: np.ndarray, grid: np.ndarray, merge: int) -> np.ndarray:
    """3 x Q positions (time, row, column) of a prompt.

    visual: Q bool, where visual tokens stand. grid: M x 3 as in `Prepared`. Text counts up on all axes alike; a frame
    stands at one time, spreads over rows and columns from there, and the text behind it goes on after its longer side.
    """
    where = np.flatnonzero(visual)
    positions = np.empty((3, len(visual)), np.int64)
    done = seen = now = 0
    for frames, rows, columns in (np.asarray(grid) // (1, merge, merge)).tolist():
        for _ in range(frames):
            start, count = int(where[seen]), rows * columns
            positions[:, done:start] = now + np.arange(start - done)
            now += start - done
            positions[0, start : start + count] = now
            positions[1, start : start + count] = now + np.repeat(np.arange(rows), columns)
            positions[2, start : start + count] = now + np.tile(np.arange(columns), rows)
            now += max(rows, columns)
            done, seen = start + count, seen + count
    positions[:, done:] = now + np.arange(len(visual) - done)
    return positions
