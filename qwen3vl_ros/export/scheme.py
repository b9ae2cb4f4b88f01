"""How many bits the weights of a checkpoint's linears get, and how ONNX Runtime computes with them. Needs nothing installed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from qwen3vl_ros.types import WrongModel

BITS = {"int4": 4, "int8": 8}  # of the decoder's linears, by the name of the precision


class NBits(NamedTuple):
    """How a linear's weight is stored and computed: bits of a number, inputs that share a scale, and the accuracy level of
    MatMulNBits (4: in int8). block 0: each output has one scale, and the product is one of int8 matrices."""

    bits: int
    block: int
    level: int


@dataclass(frozen=True)
class Scheme:
    """Bits of the decoder's linears (4 or 8), the head's and the vision tower's (8). block, level: of a 4-bit linear, inputs
    that share a scale and the accuracy level of MatMulNBits; 4 computes in int8."""

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
        return NBits(bits, self.block, self.level) if bits == 4 else NBits(bits, 0, 0)

    @staticmethod
    def read(config: dict[str, Any]) -> Scheme:
        """Of a checkpoint that was exported with one, from its config.json. Raises WrongModel."""
        stored = config["quantization_config"]
        try:
            return Scheme(**{f.name: int(stored[f.name]) for f in fields(Scheme)})
        except (KeyError, TypeError, ValueError) as error:
            raise WrongModel(
                f"quantization_config of config.json has no usable {error}; export from the original model again"
            ) from error

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
