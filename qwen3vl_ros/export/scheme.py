"""How many bits the weights of a checkpoint's linears get for ONNX Runtime's MatMulNBits. Needs nothing installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class NBits(NamedTuple):
    """How a linear's weight is stored and computed: bits of a number, inputs that share a scale, and the accuracy level of
    MatMulNBits (4: in int8)."""

    bits: int
    block: int
    level: int


@dataclass(frozen=True)
class Scheme:
    """Bits of the decoder's linears, the head's and the vision tower's, and inputs that share a scale. level: of
    MatMulNBits, 4 computes in int8."""

    decoder: int = 4
    head: int = 8
    vision: int = 8
    block: int = 32
    level: int = 4

    def of(self, name: str) -> NBits:
        """For the linear of this name."""
        bits = self.vision if name.startswith("model.visual.") else self.decoder
        if name.endswith("embed_tokens") or name == "lm_head":
            bits = self.head
        return NBits(bits, self.block, self.level)

    def as_dict(self) -> dict[str, int]:
        return {
            "decoder": self.decoder,
            "head": self.head,
            "vision": self.vision,
            "block": self.block,
            "level": self.level,
        }
