"""Answers that will not end well: one of nothing but "!", and one that goes round in circles.

Each guard is fed token by token. Knows nothing of networks and of what an answer means.
"""

from __future__ import annotations

from qwen3vl_ros.types import EngineError


class GarbageGuard:
    """Notices an answer of nothing but "!", which is token 0 of Qwen's tokenizer: what a broken FP8 build says."""

    TOKENS = 24  # of nothing else, from the beginning of the answer

    def __init__(self):
        self._count = 0

    def add(self, piece: bytes) -> None:
        """Take the next token. Raises EngineError when the answer is garbage."""
        if self._count < 0:
            return
        self._count = self._count + 1 if piece and not piece.strip(b"!") else -1
        if self._count >= self.TOKENS:
            raise EngineError(
                f'the model says nothing but "!" ({self._count} tokens of it): its weights do not fit the '
                "precision they run in, as in a broken FP8 build; use another build of the model, or "
                "dtype bfloat16 or float32"
            )


class RepeatGuard:
    """Notices an answer that goes round in circles: whole objects `{...}`, or a few tokens for long ("!!!!")."""

    LONGEST_OBJECT_CYCLE = 3  # objects: a, a, a … or a, b, a, b …
    LONGEST_TOKEN_CYCLE = 8  # tokens in one turn
    TOKENS_IN_CYCLES = 48  # this many tokens of nothing else

    def __init__(self, object_limit: int):
        self._object_limit = object_limit
        self._objects: list[bytes] = []
        self._open: list[bytes] | None = None
        self._token_ids: list[int] = []
        self._runs = [0] * (self.LONGEST_TOKEN_CYCLE + 1)

    def add(self, token_id: int, piece: bytes) -> str:
        """Take the next token; "repeat" when the answer should stop, else ""."""
        return "repeat" if self._token_cycle(token_id) or self._object_cycle(piece) else ""

    def _token_cycle(self, token_id: int) -> bool:
        history = self._token_ids
        for period in range(1, min(self.LONGEST_TOKEN_CYCLE, len(history)) + 1):
            self._runs[period] = self._runs[period] + 1 if history[-period] == token_id else 0
        history.append(token_id)
        return max(self._runs) >= self.TOKENS_IN_CYCLES

    def _object_cycle(self, piece: bytes) -> bool:
        for part in _split_keeping(piece, b"{}"):
            if part == b"{":
                self._open = []
            elif part == b"}" and self._open is not None:
                self._objects.append(b"".join(b"".join(self._open).split()))
                self._open = None
                if self._objects_repeat():
                    return True
            elif self._open is not None:
                self._open.append(part)
        return False

    def _objects_repeat(self) -> bool:
        objects, turns = self._objects, self._object_limit
        return any(
            len(objects) >= period * turns and objects[-period * turns :] == objects[-period:] * turns
            for period in range(1, self.LONGEST_OBJECT_CYCLE + 1)
        )


def _split_keeping(piece: bytes, separators: bytes) -> list[bytes]:
    if not any(s in piece for s in separators):
        return [piece]
    parts = [b""]
    for byte in piece:
        if byte in separators:
            parts += [bytes([byte]), b""]
        else:
            parts[-1] += bytes([byte])
    return parts
