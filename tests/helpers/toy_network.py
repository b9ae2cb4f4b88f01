"""A network that is a function from the tokens so far to the next one, behind the functions that loop.py asks for."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Limits
from qwen3vl_ros.engine.decoding.loop import decode

END = 0


class ToyScores:
    """Each chosen token with a logit of its own, so that log-probabilities can be told apart."""

    def __init__(self, token_ids: list[int], vocabulary: int):
        self._logits = np.zeros((len(token_ids), vocabulary), np.float32)
        self._logits[np.arange(len(token_ids)), token_ids] = 3 + np.array(token_ids) / vocabulary

    def best(self) -> tuple[list[int], list[float]]:
        ids = self._logits.argmax(-1)
        return ids.tolist(), (self._logits.max(-1) - np.log(np.exp(self._logits).sum(-1))).tolist()

    def logits(self) -> np.ndarray:
        return self._logits


class Toy:
    """next_token(answer so far) -> token. Counts what it is asked, and refuses what a runtime would.

    each_pass(n): called inside the n-th pass, from 0.
    """

    def __init__(
        self,
        next_token: Callable[[tuple[int, ...]], int],
        longest_step: int = 10_000,
        vocabulary: int = 256,
        each_pass: Callable[[int], None] = lambda n: None,
    ):
        self._next_token, self._vocabulary, self._each_pass = next_token, vocabulary, each_pass
        self.longest_step = longest_step
        self.cache: list[int] = []
        self.passes: list[int] = []  # tokens fed in each
        self.rollbacks: list[int] = []

    @classmethod
    def saying(cls, token_ids: Sequence[int], **options) -> Toy:
        """Says these tokens and ends; after any other beginning, something else."""
        script = [*token_ids, END]

        def next_token(said: tuple[int, ...]) -> int:
            if list(said) == script[: len(said)] and len(said) < len(script):
                return script[len(said)]
            return 1 + hash(said) % 9

        return cls(next_token, **options)

    def prefill(self, draft: Sequence[int]) -> ToyScores:
        assert not self.passes and len(draft) < self.longest_step
        return self._pass(draft, len(draft) + 1)

    def step(self, token_ids: Sequence[int]) -> ToyScores:
        assert 1 <= len(token_ids) <= self.longest_step
        return self._pass(token_ids, len(token_ids))

    def rollback(self, count: int) -> None:
        assert 0 < count <= len(self.cache)
        self.rollbacks.append(count)
        del self.cache[len(self.cache) - count :]

    def _pass(self, token_ids: Sequence[int], rows: int) -> ToyScores:
        self._each_pass(len(self.passes))
        self.cache += token_ids
        self.passes.append(len(token_ids))
        first = len(self.cache) - rows + 1
        return ToyScores([self._next_token(tuple(self.cache[: first + i])) for i in range(rows)], self._vocabulary)

    def decode(
        self,
        drafter=None,
        *,
        control: Control | None = None,
        max_new_tokens: int = 10_000,
        repeat_limit: int = 100,
        deadline_s: float = 3600.0,
        bytes_of=lambda token: bytes([token]),
        **options,
    ):
        return decode(
            self.prefill,
            self.step,
            self.rollback,
            stop_ids=[END],
            bytes_of=bytes_of,
            drafter=drafter,
            longest_step=self.longest_step,
            control=control or Control(),
            limits=Limits(max_new_tokens, deadline_s, repeat_limit),
            **options,
        )
