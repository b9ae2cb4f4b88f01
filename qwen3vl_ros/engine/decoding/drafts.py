"""Temporal drafts: the answer to the last picture of a camera, tried as the answer to the next one.

Two answers to one prompt differ where the world has changed: a few digits, an object more or less, another order. The
drafter follows the new answer along the old one and proposes what stood behind that place. Which places to trust is
learnt: what changed last time will change again, what stood still will stand.

Where the new answer is in the old one is found as in speech recognition: every place has a cost, of having come there
from its neighbour (a token said again, a digit exchanged, a token put in or left out) or by a jump from anywhere, as
when objects come, go or change places. Knows token ids and which of them are digits, no runtime and no answer format.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Callable, Sequence

import numpy as np

# Costs of one difference between the new answer and the old: small for what motion does, larger for what it does not.
_DIGIT, _TOKEN, _PUT_IN, _LEFT_OUT, _JUMP = 1.0, 3.0, 1.5, 1.5, 4.0
_MOST_LEFT_OUT = 2  # tokens at once; more are a jump
_STEADY = 4  # answers in a row in which a token stayed; more say nothing new
_FADE = 0.8  # of what earlier answers have taught, what is left at the next one
_UNTRIED = 0.95  # chance of a token of which nothing is known
_OWN_WORDS = (4, 3, 2)  # tokens at the end of the answer that are looked for earlier in it, longest first


class Drafts:
    """The last answer of each stream to each prompt, and how well its tokens kept; of at most `most` of them.

    is_digit(token_id): whether it is one that motion changes. pass_cost: what one more drafted token costs, in passes.
    """

    def __init__(self, is_digit: Callable[[int], bool], pass_cost: float, most: int = 64):
        self._is_digit, self._pass_cost, self._most = is_digit, pass_cost, most
        self._memories: OrderedDict[tuple[str, str], Memory] = OrderedDict()

    def drafter(self, stream: str, prompt: str) -> AnswerDrafter:
        """For the next answer of this stream to this prompt; it remembers the answer when that is `finished`."""
        key = stream, prompt
        memory = self._memories.setdefault(key, Memory())
        self._memories.move_to_end(key)
        while len(self._memories) > self._most:
            self._memories.popitem(last=False)
        return AnswerDrafter(memory, self._is_digit, self._pass_cost)


class Memory:
    """token_ids: the last answer. kinds: of each of its tokens, in how many answers in a row it has stood, at most
    _STEADY, counted apart for digits.

    kept, tried: by kind, how many drafted tokens the model agreed with, and how many it judged; older answers count less.
    """

    def __init__(self):
        self.token_ids = np.empty(0, np.int64)
        self.kinds = np.empty(0, np.int64)
        self.kept = np.zeros(2 * (_STEADY + 1))
        self.tried = np.zeros(2 * (_STEADY + 1))


class AnswerDrafter:
    """Drafts of one answer (`Drafter` in loop.py). Deterministic: the same answers before give the same drafts."""

    def __init__(self, memory: Memory, is_digit: Callable[[int], bool], pass_cost: float):
        self._memory, self._is_digit, self._pass_cost = memory, is_digit, pass_cost
        self._old = memory.token_ids
        self._old_digits = memory.kinds > _STEADY
        self._at = 0
        # After the tokens so far, _cost[p] is that of going on with old token p.
        self._cost = np.full(len(self._old) + 1, _JUMP)
        self._cost[0] = 0.0
        self._said: list[int] = []
        self._kinds: list[int] = []
        self._kept, self._tried = _FADE * memory.kept, _FADE * memory.tried
        self._judged_kinds = self._old[:0]

    def propose(self, token_ids: Sequence[int], most: int) -> list[int]:
        """See loop.Drafter. As long as is cheapest, by what is known of each token's chance."""
        self._follow(token_ids)
        self._judged_kinds = self._old[:0]
        if most <= 0:
            return []
        if self._at >= len(self._old):
            return self._own_words(most)
        kinds = self._memory.kinds[self._at : self._at + most]
        reached = np.concatenate(([1.0], np.cumprod(self._chances()[kinds])))
        # Tokens behind the first wrong one are fed for nothing; a draft that is right to its end, and not the last one,
        # asks for another pass; and where passes are limited, each right token is a part of one.
        for_nothing, too_short, progress = np.cumsum(1 - reached), reached.copy(), np.cumsum(reached) / (most + 1)
        if self._at + len(kinds) == len(self._old):
            too_short[-1] = 0.0
        count = int((self._pass_cost * for_nothing + too_short - progress).argmin())
        self._judged_kinds = kinds[:count]
        return self._old[self._at : self._at + count].tolist()

    def judged(self, proposed: Sequence[int], accepted: int) -> None:
        """See loop.Drafter."""
        np.add.at(self._tried, self._judged_kinds[: accepted + 1], 1)
        np.add.at(self._kept, self._judged_kinds[:accepted], 1)

    def finished(self, token_ids: Sequence[int]) -> None:
        """The whole answer, to be the draft of the next one."""
        self._follow(token_ids)
        memory = self._memory
        memory.token_ids, memory.kinds = np.array(self._said, np.int64), np.array(self._kinds, np.int64)
        memory.kept, memory.tried = self._kept, self._tried

    def _chances(self) -> np.ndarray:
        """By kind, that the token stands in this answer too. Of what was not tried yet, that of the kind less steady."""
        chances = np.empty_like(self._kept)
        before = _UNTRIED
        for kind in range(len(chances)):
            if kind == _STEADY + 1:
                before = _UNTRIED
            before = chances[kind] = (self._kept[kind] + before) / (self._tried[kind] + 1.0)
        return chances

    def _follow(self, token_ids: Sequence[int]) -> None:
        """Find the place in the old answer behind the tokens so far."""
        for token in token_ids[len(self._said) :]:
            at, digit = self._at, self._is_digit(token)
            steady = 0
            if at < len(self._old) and self._old[at] == token:
                steady = min(int(self._memory.kinds[at]) % (_STEADY + 1) + 1, _STEADY)
            self._said.append(token)
            self._kinds.append(steady + (_STEADY + 1) * digit)
            if len(self._old):
                self._advance(token, digit)

    def _advance(self, token: int, digit: bool) -> None:
        before = self._cost
        differs = np.where(self._old_digits & digit, _DIGIT, _TOKEN)
        differs[self._old == token] = 0.0
        come = np.minimum(before, before.min() + _JUMP)[:-1]
        for left_out in range(1, min(_MOST_LEFT_OUT, len(come)) + 1):
            come[left_out:] = np.minimum(come[left_out:], before[: -1 - left_out] + left_out * _LEFT_OUT)
        cost = before + _PUT_IN
        cost[1:] = np.minimum(cost[1:], come + differs)
        self._cost = cost - cost.min()
        best = np.flatnonzero(self._cost < 1e-6)
        self._at = int(best[np.abs(best - (self._at + 1)).argmin()])

    def _own_words(self, most: int) -> list[int]:
        """What followed in this answer when its last tokens were said before."""
        said = self._said
        for length in _OWN_WORDS:
            tail = said[-length:]
            for end in range(len(said) - 1, length - 1, -1):
                if said[end - length : end] == tail:
                    return said[end : end + min(most, 8)]
        return []
