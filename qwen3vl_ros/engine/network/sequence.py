"""The tokens a runtime has in its cache: how many, and at which position the next one stands after each of them.

The part of `Runtime` (base.py) that is the same for all: checks, positions, taking back. Knows no cache.
"""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from qwen3vl_ros.types import EngineError, InvalidInput


class TokenSequence:
    """A sequence of at most `capacity` tokens: the base of every runtime."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.between_layers: Callable[[], None] = lambda: None
        # Of the token behind the first n, for each n, so that any rollback finds its place.
        self._next_positions = [0]

    @property
    def length(self) -> int:
        return len(self._next_positions) - 1

    @property
    def next_position(self) -> int:
        """The position of the next text token on all three axes."""
        return self._next_positions[-1]

    def _places(self, count: int, positions: np.ndarray | None = None) -> np.ndarray:
        """3 x count absolute positions of the next tokens: those given, or those of text that goes on.

        Raises InvalidInput for positions of another shape, EngineError if the cache is too small.
        """
        if not count:
            raise InvalidInput("a pass needs at least one token")
        if self.length + count > self.capacity:
            raise EngineError(
                f"{self.length} + {count} tokens do not fit a cache of {self.capacity}; shorten the prompt "
                "or the answer, or load the model with a larger cache"
            )
        if positions is None:
            return np.broadcast_to(self.next_position + np.arange(count), (3, count))
        if positions.shape != (3, count):
            raise InvalidInput(f"positions {positions.shape} do not fit {count} tokens; give 3 x {count}")
        return positions

    def _append(self, positions: np.ndarray) -> None:
        """Count the tokens of a pass that has succeeded."""
        self._next_positions += np.maximum.accumulate(np.maximum(positions.max(0) + 1, self.next_position)).tolist()

    def rollback(self, count: int) -> None:
        """Forget the last `count` tokens."""
        if not 0 <= count <= self.length:
            raise InvalidInput(f"cannot take back {count} of {self.length} tokens")
        del self._next_positions[len(self._next_positions) - count :]


def visual_places(ids: Sequence[int], visual_ids: tuple[int, int], seen: int) -> np.ndarray:
    """Indices into `ids` of its visual tokens. Raises InvalidInput unless there are as many as features (`seen`)."""
    places = np.flatnonzero(np.isin(ids, visual_ids))
    if len(places) != seen:
        raise InvalidInput(
            f"the prompt has {len(places)} visual tokens and the features are of {seen}; pass the "
            "features of the images in these ids"
        )
    return places
