"""Rewrites an exported graph for TensorRT: one precision for all weights, or FP8 and INT4 for the decoder's.

Quantised are weights alone, round to nearest, without calibration data: a linear's weight becomes FP8 E4M3 with a
scale for each output, or INT4 with a scale for each 128 inputs, behind a DequantizeLinear, so that the engine's
kernels read the small numbers and compute in 16 bits. Embedding, head, norms, biases and the whole vision tower keep
16 bits.

Source: ONNX DequantizeLinear-21 (block_size), arXiv 2209.05433 (FP8 E4M3). Knows no TensorRT.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from qwen3vl_ros.types import EngineError

BLOCK = 128  # inputs that share one INT4 scale
_ARRAYS = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
_COMPUTE = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_normal)  # below, float16 loses digits of the scale itself
_WEIGHTS_FILE = "{name}.weights"
_ALIGNED = 4096


def compute_dtype(precision: str) -> str:
    """What a precision computes in: "bfloat16" for bf16, "float16" for the others."""
    return "bfloat16" if precision == "bf16" else "float16"


def rewrite(model: onnx.ModelProto, weights: Path, out: Path, precision: str) -> dict[str, int]:
    """Write the graph and its changed weights as `out`; bytes of weights by type, e.g. {"FLOAT16": 10, "INT4": 3}.

    model: of networks.py, made in compute_dtype(precision); changed in place. weights: the directory its external
    data is in; unchanged weights stay there and are linked, unless a copy stands beside `out` (onnxruntime refuses
    links).
    """
    graph, compute = model.graph, _COMPUTE[compute_dtype(precision)]
    _merge_casts(graph, compute)
    linears = _decoder_linears(graph) if precision in ("fp8", "int4") else {}
    quantizers = {"fp8": _to_fp8, "int4": _to_int4}
    kept, nodes, sizes = [], [], Counter()
    own = out.with_name(_WEIGHTS_FILE.format(name=out.stem))
    with own.open("wb") as stream:
        for tensor in graph.initializer:
            if tensor.name in linears:
                parts, node = _quantized(tensor, _read(tensor, weights), quantizers[precision], compute, stream)
                nodes.append(node)
            elif tensor.data_type in _ARRAYS and tensor.data_type != compute and _is_external(tensor):
                converted = _as_compute(tensor.name, _read(tensor, weights), compute)
                parts = [_store(tensor.name, converted, compute, stream)]
            else:
                parts = [tensor]
                if _is_external(tensor):
                    _link(weights / _external(tensor)["location"], out.parent)
            kept += parts
            for part in parts:
                sizes[TensorProto.DataType.Name(part.data_type)] += _bytes_of(part)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    out.write_bytes(model.SerializeToString())
    return dict(sizes)


# -- the graph -------------------------------------------------------------------------------------------------------


def _merge_casts(graph: onnx.GraphProto, compute: int) -> None:
    """Take out casts of weights to the precision that the weights are about to have anyway."""
    weights = {t.name for t in graph.initializer if t.data_type in _ARRAYS and _is_external(t)}
    merged = {
        n.output[0]: n.input[0]
        for n in graph.node
        if n.op_type == "Cast" and n.input[0] in weights and n.attribute[0].i == compute
    }
    left = [n for n in graph.node if n.output[0] not in merged]
    for node in left:
        for index, name in enumerate(node.input):
            node.input[index] = merged.get(name, name)
    del graph.node[:]
    graph.node.extend(left)


def _decoder_linears(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    weights = {t.name for t in graph.initializer if t.name.startswith("model.language_model.layers.")}
    linears = {n.input[1]: n for n in graph.node if n.op_type == "Gemm" and n.input[1] in weights}
    if not linears:
        raise EngineError("the graph has no linear layers of a decoder to quantise; export it again with this version")
    return linears


def _quantized(tensor: TensorProto, array: np.ndarray, quantize, compute: int, stream: BinaryIO):
    """The small weight under a new name with its scale, and the node that makes the old name of them."""
    quantized = quantize(tensor.name, array.astype(np.float32), _ARRAYS[compute])
    small = _store(f"{tensor.name}.quantized", quantized.data, quantized.kind, stream, shape=array.shape)
    scale = _store(f"{tensor.name}.scale", quantized.scale, compute, stream)
    node = helper.make_node(
        "DequantizeLinear",
        [small.name, scale.name],
        [tensor.name],
        name=f"{tensor.name}/dequantize",
        **quantized.attributes,
    )
    return [small, scale], node


# -- numbers ---------------------------------------------------------------------------------------------------------


class Quantized(NamedTuple):
    """data: as ONNX stores it. attributes: of DequantizeLinear."""

    data: np.ndarray
    scale: np.ndarray
    kind: int
    attributes: dict[str, int]


def _to_fp8(name: str, weight: np.ndarray, scale_type: np.dtype) -> Quantized:
    """weight: outputs x inputs float32; one scale for each output."""
    most = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
    scale = _scales(np.abs(weight).max(1), most, scale_type)
    data = np.clip(weight / scale.astype(np.float32)[:, None], -most, most).astype(ml_dtypes.float8_e4m3fn)
    return Quantized(data, scale, TensorProto.FLOAT8E4M3FN, {"axis": 0})


def _to_int4(name: str, weight: np.ndarray, scale_type: np.dtype) -> Quantized:
    """weight: outputs x inputs float32; one scale for each output and block of inputs. Two numbers a byte, low
    first."""
    rows, columns = weight.shape
    if columns % BLOCK:
        raise EngineError(
            f"weight {name} has {columns} inputs and INT4 needs a multiple of {BLOCK}; build this "
            "model with --precision fp8 or fp16"
        )
    blocks = weight.reshape(rows, columns // BLOCK, BLOCK)
    scale = _scales(np.abs(blocks).max(2), 7, scale_type)
    whole = np.clip(np.rint(blocks / scale.astype(np.float32)[..., None]), -8, 7).astype(np.int8).reshape(-1, 2) & 0xF
    packed = (whole[:, 0] | whole[:, 1] << 4).astype(np.uint8)
    return Quantized(packed, scale, TensorProto.INT4, {"axis": 1, "block_size": BLOCK})


def _scales(largest: np.ndarray, most: float, dtype: np.dtype) -> np.ndarray:
    return np.maximum(largest / most, _SMALLEST_SCALE).astype(dtype)


def _as_compute(name: str, array: np.ndarray, compute: int) -> np.ndarray:
    converted = array.astype(_ARRAYS[compute])
    if not np.isfinite(converted.astype(np.float32)).all():
        raise EngineError(
            f"weight {name} has values that {TensorProto.DataType.Name(compute)} cannot hold; build "
            "with --precision bf16"
        )
    return converted


# -- external data ---------------------------------------------------------------------------------------------------


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _external(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _read(tensor: TensorProto, directory: Path) -> np.ndarray:
    """A weight as it stands in its file, mapped and not loaded."""
    place = _external(tensor)
    return np.memmap(
        directory / place["location"], _ARRAYS[tensor.data_type], "r", int(place["offset"]), tuple(tensor.dims)
    )


def _store(
    name: str, array: np.ndarray, kind: int, stream: BinaryIO, shape: tuple[int, ...] | None = None
) -> TensorProto:
    stream.write(bytes(-stream.tell() % _ALIGNED))
    offset = stream.tell()
    array = np.ascontiguousarray(array)
    stream.write(memoryview(array.view(np.uint8)).cast("B"))
    tensor = TensorProto(name=name, data_type=kind, dims=shape or array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", Path(stream.name).name), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _bytes_of(tensor: TensorProto) -> int:
    if _is_external(tensor):
        return int(_external(tensor)["length"])
    return prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _link(target: Path, directory: Path) -> None:
    link = directory / target.name
    if not link.exists():
        link.symlink_to(target.resolve())
