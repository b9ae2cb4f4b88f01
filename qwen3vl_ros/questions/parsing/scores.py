"""How sure the model was of what it said: a score in 0..1 from the log-probabilities of an object's own tokens.

Knows characters, tokens and numbers; nothing of images or labels' meaning.

    score = (p_1 · … · p_n)^(1/n) · p_label
    p_k     = product over the digits of number k of p(digit)^w,  w = min(1, 2 · place / extent)
    p_label = the least sure token of the label

A doubtful units digit is no doubt about the object: one step in a digit moves an edge by `place`, and once that is
half the object's extent along the axis the boxes stop matching at IoU 0.5, so that digit counts in full, and lesser
ones in proportion. In a simulation of digit-by-digit greedy answers (Gaussian edges, ambiguous between two objects, 4,000
boxes) this ranks right boxes above wrong ones with AUROC 0.80 and is calibrated within 0.08, where the mean over all
digits gives 0.74, fixed weights by place 0.75 and the weakest weighted digit 0.78. The geometric mean over the
numbers keeps that ranking and only sets the scale. The label takes its weakest token, so that a long label or line of
text is not doubted for its length.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from qwen3vl_ros.questions.parsing.tokens import Number
from qwen3vl_ros.types import Generation


@dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """The log-probabilities of a generation, by character of its text."""

    text: str
    ends: tuple[int, ...]
    values: list[float] | None

    @classmethod
    def of(cls, generation: Generation) -> TokenLogprobs:
        logprobs = generation.logprobs
        if logprobs is not None:
            logprobs = np.minimum(np.asarray(logprobs, np.float64), 0.0).tolist()
        return cls(generation.text, tuple(generation.token_ends), logprobs)

    def tokens(self, start: int, end: int) -> range:
        """The tokens that hold text[start:end]; empty when the engine did not say."""
        first = bisect_right(self.ends, start)
        return range(first, min(bisect_left(self.ends, end) + 1, len(self.ends)))


def box_score(
    logprobs: TokenLogprobs, numbers: Sequence[Number], extents: Sequence[float], label_span: tuple[int, int] | None
) -> float:
    """Score of an object in 0..1, NaN when the engine gives no log-probabilities.

    numbers: the object's coordinates. extents: for each, the object's size along its axis, in the number's own unit.
    label_span: characters of the label, None when the answer has none.
    """
    if logprobs.values is None:
        return math.nan
    total = 0.0
    for number, extent in zip(numbers, extents):
        previous = -1
        for at, place in _digit_places(logprobs.text[number.start : number.end], number.start):
            token = bisect_right(logprobs.ends, at)
            if token >= len(logprobs.ends):
                return math.nan
            if token != previous:  # a token of several digits counts as the first of them
                total += min(1.0, 2.0 * place / max(extent, 1e-9)) * logprobs.values[token]
                previous = token
    score = math.exp(total / len(numbers))
    if label_span is not None and (label := logprobs.tokens(*label_span)):
        score *= math.exp(min(logprobs.values[token] for token in label))
    return score


def _digit_places(written: str, start: int) -> list[tuple[int, float]]:
    """(character, place value) of each digit, the leading one first; the sign counts like the leading digit."""
    if written.isdigit():
        return [(start + i, 10.0 ** (len(written) - 1 - i)) for i in range(len(written))]
    mantissa = written.lower().partition("e")[0]
    point = mantissa.find(".")
    point = len(mantissa) if point < 0 else point
    places = [
        (start + i, 10.0 ** (point - 1 - i if i < point else point - i)) for i, c in enumerate(mantissa) if c.isdigit()
    ]
    if mantissa[0] in "+-":
        places.insert(0, (start, places[0][1]))
    return places
