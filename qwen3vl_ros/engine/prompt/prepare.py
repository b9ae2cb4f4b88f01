"""From a prompt with its images to what every runtime reads: token ids, patches, their grid, and M-RoPE positions.

Needs neither torch nor transformers; equal to the official processor, and a test says so. Knows nothing of runtimes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen3vl_ros.engine.base import Clip, Prompt
from qwen3vl_ros.engine.checkpoint import read_json
from qwen3vl_ros.engine.prompt.pixels import PixelRule
from qwen3vl_ros.engine.prompt.tokens import IMAGE, VIDEO, ChatTokens, ClipTokens, Message
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

_FEWEST_TOKENS = 64  # of an image that was made smaller to fit; below it is no picture any more
_MOST_TOLD = 16  # sizes that the log hears of
_log = logging.getLogger(__name__)


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
    """Tokenizer, template and pixel rules of one checkpoint.

    min_area, max_area: pixels; other than 0 they replace the checkpoint's limits. With a max_area of 0 images are made
    smaller where a prompt would not fit. most_area: of an image, whatever the other limits.
    """

    def __init__(self, directory: Path, min_area: int = 0, max_area: int = 0, most_area: int = 0):
        self._directory, self._areas = Path(directory), (min_area, max_area)
        self.tokens = ChatTokens(self._directory)
        self.rule = PixelRule.read(self._directory, min_area, max_area)
        self._refuse_other_config()
        if most_area:
            self.rule = self.rule.within(most_area)
        self._video_rule: PixelRule | None = None
        self._told: set[tuple[int, ...]] = set()

    def _refuse_other_config(self) -> None:
        """config.json tells too which tokens stand for pictures, and how many there can be."""
        path = self._directory / "config.json"
        config = read_json(path)
        for name, pad, own in (
            ("image_token_id", IMAGE, self.tokens.image_id),
            ("video_token_id", VIDEO, self.tokens.video_id),
        ):
            if config.get(name, own) != own:
                raise WrongModel(
                    f"{name} in {path} is {config[name]!r}, and {pad} in {self._directory / 'tokenizer.json'} is {own}; copy both "
                    "from the same model"
                )
        most = (config.get("text_config") or {}).get("max_position_embeddings")
        least = self.rule.min_area // self.rule.token_side**2
        if type(most) is int and 0 < most < least:
            raise InvalidInput(
                f"no image may be smaller than {self.rule.min_area} pixels, which are {least} tokens, and the model holds {most}; "
                f"lower generation.min_pixels where it is set, or restore the model's own preprocessor_config.json in {self._directory}"
            )

    def __call__(self, prompt: Prompt, capacity: int = 0, answer: int = 0) -> Prepared:
        """capacity: tokens of a sequence, 0 for any number; answer: of these, kept free where images can be made smaller
        for it. A prompt that does not fit is refused before a pixel of it is computed.

        Raises InvalidInput for what the model cannot be shown, EngineError for what does not fit, WrongModel for a damaged
        checkpoint.
        """
        rule = self.rule
        ids = self._ids(prompt, rule)
        if 0 < capacity < len(ids) + answer and not self._areas[1]:
            rule = self._smaller(prompt, ids, capacity - answer)
            ids = self._ids(prompt, rule)
        visual = (ids == self.tokens.image_id) | (ids == self.tokens.video_id)
        if 0 < capacity <= len(ids):
            raise EngineError(
                f"the prompt takes {len(ids)} tokens ({int(visual.sum())} of them visual) and "
                f"the model holds {capacity}; shorten the text, lower "
                "generation.max_pixels or send fewer images"
            )
        seen = []
        for turn in prompt.turns:
            seen += [rule.patches([image]) for image in turn.images]
            if turn.clip is not None:
                seen.append(self._of_clips().clip_patches(turn.clip.pictures))
        patches, grids = zip(*seen) if seen else ((), ())
        pixels = np.concatenate(patches) if patches else np.empty((0, 3 * rule.temporal * rule.patch**2), np.float32)
        grid = np.concatenate(grids) if grids else np.empty((0, 3), np.int64)
        return Prepared(ids, mrope_positions(visual, grid, rule.merge), pixels, grid, int(visual.sum()))

    def _ids(self, prompt: Prompt, rule: PixelRule) -> np.ndarray:
        """The prompt's tokens, which the sizes of its images decide and not their pixels."""
        chat = []
        for turn in prompt.turns:
            tokens = [rule.tokens(image.shape[1], image.shape[0]) for image in turn.images]
            clip = None
            if turn.clip is not None:
                pictures = turn.clip.pictures
                height, width = pictures[0].shape[:2]
                clip = ClipTokens(self._frame_times_s(turn.clip), self._of_clips().tokens(width, height, len(pictures)))
            chat.append(Message(turn.role, turn.text, tokens, clip))
        return np.array(self.tokens.encode(chat, prompt.text_first), np.int64)

    def _smaller(self, prompt: Prompt, ids: np.ndarray, room: int) -> PixelRule:
        """A rule by which the images share what the rest of the prompt leaves of `room` tokens; ours if that is too little."""
        rule = self.rule
        images = [image for turn in prompt.turns for image in turn.images]
        counts = [rule.tokens(image.shape[1], image.shape[0]) for image in images]
        left = room - (len(ids) - sum(counts))
        each = left // max(len(images), 1)
        if not images or each < _FEWEST_TOKENS:
            return rule
        smaller = rule.within(each * rule.token_side**2)
        for image in images:
            (height, width), told = image.shape[:2], (*image.shape[:2], len(images))
            before, after = rule.resized(width, height), smaller.resized(width, height)
            if before != after and told not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add(told)
                _log.warning(
                    "an image of %dx%d is shown to the model as %dx%d, because %d of them would not fit beside the text: "
                    "generation.max_pixels is 0, so automatic; set it to choose",
                    *(width, height, *after, len(images)),
                )
        return smaller

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
