"""The decode loop: which token comes next, and when to stop. One loop for every runtime.

A runtime gives three functions, `prefill(draft)`, `step(token_ids)` and `rollback(count)` (see base.Runtime); everything
else (greedy or sampled choice, drafts and their verification, stop tokens, limits, cancel, deadline, log-probabilities)
is here; guards.py notices answers that go wrong, transcript.py says what the tokens say. Knows no tensors and no images.

A draft is a guess at the next tokens. It goes through the network behind the token it should follow, in one pass; the
scores then say how much of it the model would have said itself, and the rest is taken back. So a draft changes the
number of passes and never the answer: every token is chosen from the scores behind its own predecessors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Iterable, NamedTuple, Protocol, Sequence

import numpy as np

from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Limits, Scores
from qwen3vl_ros.engine.decoding.guards import GarbageGuard, RepeatGuard
from qwen3vl_ros.types import EngineError


class Choice(NamedTuple):
    """The next token, and the natural log-probability the network itself gives it, before any mask or temperature."""

    token_id: int
    logprob: float


class Interrupted(Exception):
    """Raised inside `prefill` or `step` by a runtime that noticed `Control` in the middle of a forward pass."""


class Drafter(Protocol):
    """Guesses how one answer goes on (drafts.py)."""

    def propose(self, token_ids: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow the answer so far; [] for no idea."""

    def judged(self, proposed: Sequence[int], accepted: int) -> None:
        """The model agreed with the first `accepted` of what was last proposed, and not with the next."""


class Constraint(Protocol):
    """What the answer may be, token by token: a grammar, a schema. One object for one answer."""

    def forced(self) -> list[int]:
        """Tokens that must come next; they are taken without asking the model and cost no pass. [] for a choice."""

    def allowed(self) -> np.ndarray:
        """Bool by token id: what may come next. Ids beyond its end may not. A finished answer allows a stop token."""

    def accept(self, token_ids: Sequence[int]) -> None:
        """The answer went on with these tokens; nothing accepted is ever taken back."""


@dataclass(frozen=True)
class Sampling:
    """Chance instead of the most likely token. temperature 0 is greedy; top_k 0 and top_p 1 keep every token.

    presence_penalty is taken off the logit of every token the answer already has. The same seed gives the same answer,
    with drafts or without.
    """

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    presence_penalty: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if not (self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise ValueError(f"{self} is impossible: temperature and top_k are at least 0, top_p in (0, 1]")

    def pick(self, logits: np.ndarray, said: Iterable[int], chance: float) -> int:
        """The token of a row of logits for a number drawn from [0, 1)."""
        logits = logits.astype(np.float64)
        logits[list(set(said))] -= self.presence_penalty
        if not self.temperature:
            return int(logits.argmax())
        ids = np.argsort(-logits, kind="stable")[: self.top_k or None]
        share = np.exp((logits[ids] - logits[ids[0]]) / self.temperature)
        mass = np.cumsum(share / share.sum())
        kept = mass[: int(np.searchsorted(mass, self.top_p)) + 1]
        return int(ids[np.searchsorted(kept, chance * kept[-1], side="right")])


@dataclass(frozen=True)
class Decoded:
    """The tokens of an answer without the end token, and how they came about. Times in seconds.

    drafted: tokens that went through the network before they were chosen, forced ones among them; accepted: those of
    them that are in the answer.
    """

    token_ids: list[int]
    logprobs: list[float]
    pieces: list[bytes]
    finish_reason: str
    forward_passes: int
    prefill_s: float
    decode_s: float
    drafted: int = 0
    accepted: int = 0


def decode(
    prefill: Callable[[Sequence[int]], Scores],
    step: Callable[[Sequence[int]], Scores],
    rollback: Callable[[int], None],
    *,
    stop_ids: Iterable[int],
    bytes_of: Callable[[int], bytes],
    limits: Limits,
    control: Control,
    longest_step: int = 1,
    drafter: Drafter | None = None,
    constraint: Constraint | None = None,
    sampling: Sampling | None = None,
    on_bytes: Callable[[bytes], None] | None = None,
) -> Decoded:
    """Decode until the model ends its answer or a limit does.

    prefill(draft): the pass over the prompt and a draft behind it; scores of the prompt's last token and of the
    draft's. on_bytes: called after each pass with the bytes of the tokens it gave; what it raises comes out of here.
    Raises EngineError where the network's output is no number, or garbage.
    """
    control = control.within(limits.deadline_s)
    answer = _Answer(frozenset(stop_ids), bytes_of, limits, control)
    chooser = _Chooser(sampling, constraint, answer.token_ids)
    passes = drafted = accepted = 0
    started = prefilled = time.perf_counter()
    reason = control.interruption
    try:
        while not reason:
            most = max(0, min(longest_step, limits.max_new_tokens - len(answer.token_ids)) - 1)
            forced = chooser.forced[:most]
            guess = []
            if drafter is not None and len(forced) == len(chooser.forced):
                guess = drafter.propose([*answer.token_ids, *forced], most - len(forced))
            draft = [*forced, *guess]
            chooser.look(step([answer.token_ids[-1], *draft]) if passes else prefill(draft))
            passes += 1
            if passes == 1:
                prefilled = time.perf_counter()
            agreed, reason = answer.take(chooser, draft)
            drafted, accepted = drafted + len(draft), accepted + agreed
            if guess:
                drafter.judged(guess, max(0, agreed - len(forced)))
            if agreed < len(draft):
                rollback(len(draft) - agreed)
            if on_bytes is not None:
                on_bytes(answer.news())
                reason = reason or control.interruption
    except Interrupted:
        reason = control.interruption
    ended = time.perf_counter()
    prefill_s = prefilled - started if passes else ended - started
    return Decoded(
        answer.token_ids,
        answer.logprobs,
        answer.pieces,
        reason,
        passes,
        prefill_s,
        ended - started - prefill_s,
        drafted,
        accepted,
    )


class _Answer:
    """The answer so far, and everything that may end it."""

    def __init__(self, stop_ids: frozenset[int], bytes_of: Callable[[int], bytes], limits: Limits, control: Control):
        self._stop_ids, self._bytes_of, self._limits, self._control = stop_ids, bytes_of, limits, control
        self._repeat, self._garbage = RepeatGuard(limits.repeat_limit), GarbageGuard()
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.pieces: list[bytes] = []
        self._told = 0

    def news(self) -> bytes:
        """What the tokens say that came since it was last asked for."""
        told, self._told = self._told, len(self.pieces)
        return b"".join(self.pieces[told:])

    def take(self, chooser: _Chooser, draft: Sequence[int]) -> tuple[int, str]:
        """Take what the scores of a pass say: the draft as far as they agree, and the token after it.

        Returns how many tokens of the draft are now in the answer, and why the answer ends, "" if it does not.
        """
        for row, guess in enumerate([*draft, None]):
            token_id, logprob = chooser.choose(row)
            if token_id in self._stop_ids:
                return row, "stop"
            reason = self._add(token_id, logprob)
            chooser.said(token_id)
            if not reason and chooser.forced and chooser.forced[0] in self._stop_ids:
                reason = "stop"
            if reason or token_id != guess:
                return row + (token_id == guess), reason
        raise AssertionError("no token equals None")

    def _add(self, token_id: int, logprob: float) -> str:
        piece = self._bytes_of(token_id)
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.pieces.append(piece)
        self._garbage.add(piece)
        return (
            self._repeat.add(token_id, piece)
            or ("length" if len(self.token_ids) >= self._limits.max_new_tokens else "")
            or self._control.interruption
        )


class _Chooser:
    """From scores to tokens: the most likely one, or one by chance, among those a constraint allows.

    One number is drawn for each token that is really chosen, so chance is the same with drafts and without.
    """

    def __init__(self, sampling: Sampling | None, constraint: Constraint | None, answer_ids: list[int]):
        self._sampling, self._constraint, self._answer_ids = sampling, constraint, answer_ids
        self._chance = np.random.default_rng(sampling.seed) if sampling else None
        self.forced = list(constraint.forced()) if constraint else []

    def look(self, scores: Scores) -> None:
        """The scores of the pass that `choose` reads the rows of."""
        self._scores, self._best, self._logits = scores, scores.best(), None

    def choose(self, row: int) -> Choice:
        choice = Choice(self._best[0][row], self._best[1][row])
        if not self._may_say(choice.token_id):
            if self._logits is None:  # a large vocabulary's are slow to fetch, and mostly not needed
                self._logits = self._scores.logits()
            logits = self._logits[row]
            token_id = self.forced[0] if self.forced else self._among_allowed(logits)
            top = float(logits.max())
            choice = Choice(token_id, float(logits[token_id]) - top - float(np.log(np.exp(logits - top).sum())))
        if choice.logprob != choice.logprob:
            raise EngineError(
                "the model's output is not a number: its weights are damaged, or the precision overflows; "
                "use dtype bfloat16 or float32, and check the checkpoint"
            )
        return choice

    def said(self, token_id: int) -> None:
        """The answer went on with this token."""
        if self._constraint is None:
            return
        self._constraint.accept([token_id])
        # Asked again only when used up: what is forced does not change while it is being said.
        self.forced = self.forced[1:] or list(self._constraint.forced())

    def _may_say(self, best: int) -> bool:
        """Whether the most likely token is the choice, without a look at the others."""
        if self._sampling is not None:
            return False
        if self.forced:
            return best == self.forced[0]
        allowed = None if self._constraint is None else self._constraint.allowed()
        return allowed is None or (best < len(allowed) and bool(allowed[best]))

    def _among_allowed(self, logits: np.ndarray) -> int:
        if self._constraint is not None:
            allowed = self._constraint.allowed()[: len(logits)]
            if not allowed.any():
                raise EngineError(
                    "the schema allows no token after this beginning of an answer; simplify the schema, or "
                    "ask without one"
                )
            logits = np.where(allowed, logits[: len(allowed)], -np.inf)
        if self._sampling is None:
            return int(logits.argmax())
        return self._sampling.pick(logits, self._answer_ids, float(self._chance.random()))
