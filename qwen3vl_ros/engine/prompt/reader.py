"""Reads a prompt into a runtime's cache, and leaves there what stands there already.

What a prompt and the one before have in common at the beginning is not read again: the words before an image from frame
to frame, the image too where only the question behind it is another, and a chat where it goes on, its answers with it.
Knows no tensors and no text.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from qwen3vl_ros.engine.base import Runtime, Scores
from qwen3vl_ros.engine.prompt.prepare import Preparation, Prepared


class _Image(NamedTuple):
    """What the vision tower sees of an image: N x patch_values float32, and (frames, rows, columns) of patches."""

    patches: np.ndarray
    grid: tuple[int, int, int]

    def equals(self, other: _Image) -> bool:
        """Value for value; piece by piece, because two pictures of a camera differ in their first."""
        a, b = self.patches, other.patches
        return self.grid == other.grid and all(
            np.array_equal(a[i : i + 64], b[i : i + 64]) for i in range(0, len(a), 64)
        )


class PromptReader:
    """Brings a prompt into a runtime's cache, and leaves there what stands there already.

    reused: how many tokens of the last prompt read were left.
    """

    def __init__(self, runtime: Runtime, preparation: Preparation):
        self._runtime, self._merge = runtime, preparation.rule.merge
        self._visual_ids = (preparation.tokens.image_id, preparation.tokens.video_id)
        # A row for each token of the prompt and its answer in the cache, with all that the network can tell it by: id, position (3),
        # and the number of the image a visual token is of.
        self._rows = np.empty((0, 5), np.int64)
        self._images: dict[int, _Image] = {}  # that prompt's, by number
        self._numbers = count(1)
        self._seen: tuple[tuple[int, ...], Any] = ((), None)  # numbers of the images last encoded, and their features
        self.reused = 0

    def read(
        self, prepared: Prepared, draft: Sequence[int] = (), seen_ahead: Callable[[], Any] = lambda: None
    ) -> Scores:
        """The pass over the part of the prompt that is new, and over a draft behind it; scores of the prompt's last
        token and of the draft's. seen_ahead: gives the features of all its images where they were seen already, else None."""
        runtime = self._runtime
        images = self._numbered(prepared)
        rows = self._rows_of(prepared, [*images])
        self.reused = self._common(rows)
        runtime.rollback(runtime.length - self.reused)
        self._rows, self._images = rows[: self.reused], images
        features = self._features({n: images[n] for n in images if n in rows[self.reused :, 4]}, seen_ahead)
        behind = prepared.positions[:, -1].max() + 1 + np.arange(len(draft))
        positions = np.concatenate([prepared.positions[:, self.reused :], np.broadcast_to(behind, (3, len(draft)))], 1)
        scores = runtime.prefill([*prepared.ids[self.reused :].tolist(), *draft], features, positions, 1 + len(draft))
        self._rows = rows
        return scores

    def answered(self, token_ids: Sequence[int]) -> None:
        """The answer to the prompt last read: what of it stands in the cache begins the history of the next turn."""
        ids = np.array(token_ids[: self._runtime.length - len(self._rows)], np.int64)
        if len(ids):
            positions = self._rows[-1, 1:4].max() + 1 + np.arange(len(ids))
            rows = np.column_stack((ids, *[positions] * 3, np.zeros_like(ids)))
            self._rows = np.concatenate((self._rows, rows))

    def _numbered(self, prepared: Prepared) -> dict[int, _Image]:
        """The prompt's images by number: the old number for an image of the last prompt, else a new one."""
        ends = np.cumsum(prepared.grid.prod(1))
        images = map(_Image, np.split(prepared.pixels, ends[:-1]), map(tuple, prepared.grid.tolist()))
        known, numbered = dict(self._images), {}
        for image in images:
            number = next((n for n, old in known.items() if old.equals(image)), None) or next(self._numbers)
            known.pop(number, None)  # the same picture twice in a prompt is two images
            numbered[number] = image
        return numbered

    def _rows_of(self, prepared: Prepared, numbers: list[int]) -> np.ndarray:
        image = np.zeros(len(prepared.ids), np.int64)
        image[np.isin(prepared.ids, self._visual_ids)] = np.repeat(numbers, prepared.grid.prod(1) // self._merge**2)
        return np.column_stack((prepared.ids, prepared.positions.T, image))

    def _common(self, rows: np.ndarray) -> int:
        """How many rows the cache holds already; never all, because the last one's scores are wanted, and no part of an
        image, because its features go in whole."""
        held = min(len(self._rows), self._runtime.length, len(rows) - 1)
        differs = (rows[:held] != self._rows[:held]).any(1)
        same = int(differs.argmax()) if differs.any() else held
        split = np.intersect1d(rows[:same, 4], rows[same:, 4])
        return min([same, *(int((rows[:, 4] == number).argmax()) for number in split if number)])

    def _features(self, images: dict[int, _Image], seen_ahead: Callable[[], Any]) -> Any:
        numbers = tuple(images)
        if not numbers:
            return None
        if numbers != self._seen[0]:
            self._seen = ((), None)  # the old ones' memory is free for the new
            features = seen_ahead() if len(images) == len(self._images) else None
            if features is None:
                pixels = np.concatenate([image.patches for image in images.values()])
                grid = np.array([image.grid for image in images.values()], np.int64)
                features = self._runtime.encode(pixels, grid)
            self._seen = numbers, features
        return self._seen[1]
