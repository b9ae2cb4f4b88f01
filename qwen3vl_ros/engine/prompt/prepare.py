"""From a prompt with its images to what every runtime reads: token ids, patches, their grid, and M-RoPE positions.

Needs neither torch nor transformers; equal to the official processor, and a test says so. Knows nothing of runtimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen3vl_ros.engine.base import Clip, Prompt
from qwen3vl_ros.engine.prompt.pixels import PixelRule
from qwen3vl_ros.engine.prompt.tokens import ChatTokens, ClipTokens, Message


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

    def __call__(self, prompt: Prompt) -> Prepared:
        """Raises InvalidInput for what the model cannot be shown, WrongModel for a damaged checkpoint."""
        rule, patches, grids, chat = self.rule, [], [], []
        for turn in prompt.turns:
            seen = [rule.patches([image]) for image in turn.images]
            if turn.clip is not None:
                seen.append(self._of_clips().clip_patches(turn.clip.pictures))
            tokens = [int(grid[0, 1] * grid[0, 2]) // rule.merge**2 for _, grid in seen]  # of a frame
            clip = ClipTokens(self._frame_times_s(turn.clip), tokens.pop()) if turn.clip is not None else None
            chat.append(Message(turn.role, turn.text, tokens, clip))
            patches += [p for p, _ in seen]
            grids += [g for _, g in seen]
        pixels = np.concatenate(patches) if patches else np.empty((0, 3 * rule.temporal * rule.patch**2), np.float32)
        grid = np.concatenate(grids) if grids else np.empty((0, 3), np.int64)
        ids = np.array(self.tokens.encode(chat, prompt.text_first), np.int64)
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
