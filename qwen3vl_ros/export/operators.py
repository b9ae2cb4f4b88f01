"""An ONNX graph in the making: operators by name, weights as references into the checkpoint's files.

Two variants of every operator that is new: as ONNX has it since opset 24, or decomposed into what opset 18 has. Knows
no network.
"""

from __future__ import annotations

from math import prod
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.network.graph import COMPUTE, Value, safetensors_header
from qwen3vl_ros.export.scheme import NBits
from qwen3vl_ros.types import WrongModel

OPSETS = {"attention": 24, "decomposed": 18}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
}
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "U8": "uint8", "I8": "int8"}
_CONTRIB = "com.microsoft"
# In the place of .weight, of a linear in few bits: blocks for MatMulNBits, or an int8 matrix inputs x outputs.
PACKED, INT8, SCALES = ".packed", ".int8", ".scales"
JOIN = "+"  # between the last words of names of linears that are stored as one matrix
_INT8_MOST, _MIDDLE = 127.0, np.uint8(128)


class Place(NamedTuple):
    """Where a weight stands, in bytes from the beginning of a file; stored: its type as safetensors calls it."""

    file: str
    offset: int
    length: int
    stored: str
    shape: tuple[int, ...]


class Weights:
    """Where each weight of a checkpoint stands: file, offset, type and shape. Reads headers only."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._places: dict[str, Place] = {}
        for file in checkpoint.weight_files:
            header, data = safetensors_header(file)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                shape = tuple(entry["shape"])
                self._places[name] = Place(file.name, data + begin, end - begin, entry["dtype"], shape)

    def place(self, name: str) -> Place:
        """Where a weight stands. Raises WrongModel if it is missing."""
        if name not in self._places:
            raise WrongModel(
                f"{self.checkpoint.path} has no weight {name}; finish the download, or copy config.json "
                "and weights from the same model"
            )
        return self._places[name]

    def tensor(self, name: str, shape: Sequence[int]) -> tuple[TensorProto, str]:
        """An initializer without data, and its precision. Raises WrongModel if the weight is missing or another one."""
        file, offset, length, stored, found = self.place(name)
        # Whole numbers are weights of linears in few bits alone, which have names of their own.
        if stored not in _STORED or (stored in ("I8", "U8") and not name.endswith((PACKED, INT8))):
            raise WrongModel(
                f"{self.checkpoint.path}: weight {name} is stored as {stored}, and this export reads F32, F16 and BF16; use the "
                "unquantised checkpoint"
            )
        # A convolution over whole patches is a matrix with more dimensions.
        if prod(found) != prod(shape) or found[0] != shape[0]:
            raise WrongModel(
                f"{self.checkpoint.path}: weight {name} is {found} and config.json asks for "
                f"{tuple(shape)}; copy both from the same model"
            )
        tensor = TensorProto(
            name=name, data_type=_TYPES[_STORED[stored]], dims=shape, data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", file), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor, _STORED[stored]


class Builder:
    """A graph in the making. Values are named by strings; `op` adds a node and returns its output.

    nbits: of the linear of a name, where linears are stored in few bits.
    """

    def __init__(self, weights: Weights, dtype: str, variant: str, nbits: Callable[[str], NBits] | None = None):
        self.dtype, self.variant, self._nbits = dtype, variant, nbits
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._cast: dict[tuple[str, str], str] = {}
        self._int8: dict[str, tuple[str, str]] = {}
        self._scope = ""

    @property
    def decomposed(self) -> bool:
        return self.variant == "decomposed"

    @property
    def few_bits(self) -> bool:
        return self._nbits is not None

    def scope(self, name: str) -> None:
        """Where in the network the next nodes stand; part of their names."""
        self._scope = name

    def op(self, kind: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes) -> Any:
        """Output of a new node, or a list of them. outputs: how many, or their names."""
        node = f"{self._scope}/{kind}_{len(self._nodes)}"
        names = outputs
        if isinstance(outputs, int):
            names = [node] if outputs == 1 else [f"{node}.{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, name=node, **attributes))
        return names[0] if len(names) == 1 else list(names)

    def integers(self, *values: int) -> str:
        """A constant of int64."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float, dtype: str = "float32") -> str:
        constant = self._constant(np.float32(value))
        return constant if dtype == "float32" else self.cast(constant, "float32", dtype)

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{array.dtype}_{array.tolist()}".replace(" ", "")
        if name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def cast(self, value: str, source: str, target: str) -> str:
        if source == target:
            return value
        key = value, target
        if key not in self._cast:
            self._cast[key] = self.op("Cast", value, to=_TYPES[target])
        return self._cast[key]

    def stored(self, name: str, *shape: int) -> tuple[str, str]:
        """A weight as it stands in its file, and its precision."""
        tensor, dtype = self._weights.tensor(name, shape)
        self._initializers.setdefault(name, tensor)
        return name, dtype

    def weight(self, name: str, *shape: int) -> str:
        """A weight in the graph's precision."""
        return self.cast(*self.stored(name, *shape), self.dtype)

    def linear(self, x: str, name: str, rows: int, columns: int, bias: bool = False, outputs: Any = 1) -> str:
        """x: any x columns -> any x rows."""
        added = (self.weight(f"{name}.bias", rows),) if bias else ()
        how = self._nbits(name) if self._nbits else None
        if how is None:
            return self.op("Gemm", x, self.weight(f"{name}.weight", rows, columns), *added, transB=1, outputs=outputs)
        if not how.block:
            return self._linear_of_int8(x, name, rows, columns, added, outputs)
        blocks = -(-columns // how.block)
        packed, _ = self.stored(f"{name}{PACKED}", rows, blocks, how.block * how.bits // 8)
        scales, _ = self.stored(f"{name}{SCALES}", rows, blocks)
        attributes = {"K": columns, "N": rows, "bits": how.bits, "block_size": how.block, "accuracy_level": how.level}
        unused = ("", "")  # zero points: the numbers are symmetric; an order of the inputs
        inputs = (x, packed, scales, *((*unused, *added) if added else ()))
        return self.op("MatMulNBits", *inputs, domain=_CONTRIB, outputs=outputs, **attributes)

    def linears(self, x: str, name: str, parts: Sequence[str], rows: Sequence[int], columns: int) -> list[str]:
        """Linears name.part of the same x, as `linear`; those of int8 in one product, which threads share once."""
        together = f"{name}.{JOIN.join(parts)}"
        how = self._nbits(together) if self._nbits else None
        if how is None or how.block:
            return [self.linear(x, f"{name}.{part}", count, columns) for part, count in zip(parts, rows)]
        y = self.linear(x, together, sum(rows), columns)
        return self.op("Split", y, self.integers(*rows), axis=-1, outputs=len(rows))

    def _linear_of_int8(self, x: str, name: str, rows: int, columns: int, added: Sequence[str], outputs: Any) -> str:
        """The product of int8 matrices: weights with a scale for each output, inputs with one for each row of x, so that no
        token changes what another one gets, nor how many a pass has."""
        numbers, largest = self._in_int8(x)
        weight, _ = self.stored(f"{name}{INT8}", columns, rows)
        scales, _ = self.stored(f"{name}{SCALES}", rows)
        one, middle, zero = self.scalar(1 / _INT8_MOST), self._constant(_MIDDLE), self._constant(np.int8(0))
        y = self.op("MatMulIntegerToFloat", numbers, weight, one, scales, middle, zero, domain=_CONTRIB)
        if not added:
            return self.op("Mul", y, largest, outputs=outputs)
        return self.op("Add", self.op("Mul", y, largest), *added, outputs=outputs)

    def _in_int8(self, x: str) -> tuple[str, str]:
        """x, with a scale for each row, around 128, and the rows' largest sizes. A row of zeros becomes anything times zero."""
        if x not in self._int8:
            largest = self.op("ReduceMax", self.op("Abs", x), self.integers(-1), keepdims=1)
            share = self.op("Div", x, largest)
            self._int8[x] = (
                self.op("QuantizeLinear", share, self.scalar(1 / _INT8_MOST), self._constant(_MIDDLE)),
                largest,
            )
        return self._int8[x]

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.integers(*shape))

    def model(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> onnx.ModelProto:
        """The graph, with what was computed under the outputs' names."""
        ends = [
            [
                helper.make_tensor_value_info(v.name, _TYPES[self.dtype if v.dtype == COMPUTE else v.dtype], v.shape)
                for v in values
            ]
            for values in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, name, *ends, initializer=list(self._initializers.values()))
        opset = OPSETS[self.variant]
        contrib = [helper.make_opsetid(_CONTRIB, 1)] if self._nbits else []
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), *contrib],
            producer_name="qwen3vl_ros",
            ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
        )

    # -- what both halves are made of; each a method of engine/torch/network.py --

    def rotate(self, x: str, cos: str, sin: str, heads: int = 0) -> str:
        """x: 1 x heads x Q x head_dim, or with `heads` 1 x Q x (heads * head_dim); cos, sin: as prepared by `angles`."""
        if heads:
            return self.op("RotaryEmbedding", x, cos, sin, num_heads=heads)
        if not self.decomposed:
            return self.op("RotaryEmbedding", x, cos, sin)
        first, second = self.op("Split", x, axis=-1, num_outputs=2, outputs=2)
        turned = self.op("Concat", self.op("Neg", second), first, axis=-1)
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", turned, sin))

    def angles(self, head_dim: int, dtype: str) -> tuple[str, str]:
        """The inputs cos and sin, Q x head_dim, for `rotate`."""
        prepared = []
        for name in ("cos", "sin"):
            angle = name
            if not self.decomposed:  # the operator takes one half; both are alike
                angle = self.op("Slice", angle, self.integers(0), self.integers(head_dim // 2), self.integers(1))
            prepared.append(self.cast(self.op("Unsqueeze", angle, self.integers(0)), "float32", dtype))
        return prepared[0], prepared[1]

    def attention_over_all(self, q: str, k: str, v: str, heads: int, head_dim: int) -> str:
        """ONNX Runtime's own operator, which never holds the scores of all pairs. Each 1 x N x (heads * head_dim) -> N x the same."""
        numbers = {"num_heads": heads, "scale": head_dim**-0.5}
        return self.reshape(self.op("MultiHeadAttention", q, k, v, domain=_CONTRIB, **numbers), -1, heads * head_dim)

    def attention_over_cache(
        self, q: str, k: str, v: str, layer: str, lengths: Sequence[str], heads: int, kv_heads: int, head_dim: int
    ) -> str:
        """Write k and v into a layer's cache, and see what is there: ONNX Runtime's own operator, which reads no further than
        the cache is filled. q: 1 x Q x (heads * head_dim), k and v: 1 x Q x (kv_heads * head_dim) -> Q x (heads * head_dim)."""
        cache = f"keys_{layer}", f"values_{layer}"
        numbers = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": head_dim**-0.5}
        seen = f"{self._scope}/seen"
        outputs = (seen, *(f"{name}_out" for name in cache))
        self.op("GroupQueryAttention", q, k, v, *cache, *lengths, outputs=outputs, domain=_CONTRIB, **numbers)
        return self.reshape(seen, -1, heads * head_dim)

    def attention(self, q: str, k: str, v: str, heads: int, kv_heads: int, head_dim: int, mask: str = "") -> str:
        """q: 1 x heads x Q x head_dim, k and v: 1 x kv_heads x S x head_dim -> Q x (heads * head_dim)."""
        scale = head_dim**-0.5
        if self.decomposed:
            groups = heads // kv_heads
            q = self.reshape(self.op("Mul", q, self.scalar(scale, self.dtype)), kv_heads, groups, -1, head_dim)
            k, v = (self.op("Unsqueeze", self.op("Squeeze", x, self.integers(0)), self.integers(1)) for x in (k, v))
            scores = self.op("MatMul", q, self.op("Transpose", k, perm=(0, 1, 3, 2)))
            if mask:
                scores = self.op("Add", scores, mask)
            seen = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
            seen = self.reshape(seen, 1, heads, -1, head_dim)
        else:
            seen = self.op("Attention", q, k, v, *((mask,) if mask else ()), scale=scale)
        return self.reshape(self.op("Transpose", seen, perm=(0, 2, 1, 3)), -1, heads * head_dim)
