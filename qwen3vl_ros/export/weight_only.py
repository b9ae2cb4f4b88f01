"""A checkpoint's linears in 4 and 8 bits for ONNX Runtime, written tensor by tensor as another checkpoint.

Round to nearest, symmetric, without calibration data. In 4 bits, which the decoder's linears may take: one scale for each block of
inputs, by ONNX Runtime's own quantiser, for MatMulNBits. In 8 bits, the vision tower's and the head's at least: one scale for
each output, for products of int8 matrices, which processors have instructions for. Embeddings are looked up as they were stored;
norms and biases are kept in float32. Nothing larger than one weight in 8 bits is in memory. Source: onnxruntime, contrib operators
MatMulNBits and MatMulIntegerToFloat.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, Sequence

import ml_dtypes
import numpy as np
import onnx

from qwen3vl_ros.engine.checkpoint import Checkpoint, small_files
from qwen3vl_ros.engine.network.graph import safetensors_header
from qwen3vl_ros.engine.network.sizes import METHOD, Sizes
from qwen3vl_ros.export.networks import decoder_model, vision_model
from qwen3vl_ros.export.operators import INT8, JOIN, PACKED, SCALES, Weights
from qwen3vl_ros.export.scheme import NBits, Scheme
from qwen3vl_ros.files import copy_whole, replaced_whole, require_room, write_whole
from qwen3vl_ros.types import InvalidInput, WrongModel

_ARRAYS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_SLICE = 1 << 24  # numbers of a weight that are quantised at a time
_TABLES = ("embed_tokens.weight", "pos_embed.weight")  # looked up: as they are stored


class _Wanted:
    """In the place of a checkpoint's weights: notes which tensors the graphs ask for."""

    def __init__(self):
        self.shapes: dict[str, tuple[int, ...]] = {}

    def tensor(self, name: str, shape: Sequence[int]) -> tuple[onnx.TensorProto, str]:
        self.shapes[name] = tuple(shape)
        return onnx.TensorProto(name=name), "float32"


def write_quantized(
    checkpoint: Checkpoint, out: Path, scheme: Scheme, say: Callable[[str], None] = print
) -> Checkpoint:
    """The checkpoint with its linears quantised, in `out`. Raises InvalidInput for one that is quantised already, or for a
    directory that holds another model."""
    if checkpoint.quantization:
        raise InvalidInput(
            f"{checkpoint.path} holds {checkpoint.weight_kind} weights already; give the unquantised model"
        )
    if out.resolve() == checkpoint.path.resolve():
        raise InvalidInput(f"--out {out} is the model itself; weights in few bits need a directory of their own")
    out.mkdir(parents=True, exist_ok=True)
    if (out / "model.safetensors").exists() and not _is_ours(out, checkpoint):
        raise InvalidInput(f"--out {out} holds another model; give a new directory")
    source, wanted = Weights(checkpoint), _Wanted()
    sizes = Sizes.read(checkpoint.config)
    for build in (vision_model, decoder_model):
        build(sizes, wanted, "float32", "attention", nbits=scheme.of)
    config = checkpoint.config | {
        "quantization_config": {"quant_method": METHOD, "parameters": checkpoint.parameters} | scheme.as_dict()
    }
    entries = [_entry(source, name, shape) for name, shape in wanted.shapes.items()]
    require_room(out, sum(_bytes(*entry[1:]) for entry in entries), f"{checkpoint.path} in few bits")
    for file in small_files(checkpoint.path):
        if file.name not in ("manifest.json", "config.json", "model.safetensors.index.json"):
            copy_whole(file, out / file.name)
    with replaced_whole(out / "model.safetensors") as unfinished, unfinished.open("wb") as stream:
        _write_header(stream, entries)
        for i, (name, dtype, shape) in enumerate(entries):
            if not name.endswith(SCALES):
                _write(stream, checkpoint.path, source, name, dtype, shape, scheme)
            if i % 100 == 99:
                say(f"{i + 1} of {len(entries)} tensors, {stream.tell() / 1e9:.2f} GB")
    write_whole(out / "config.json", (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    files = (out / "model.safetensors",)
    return Checkpoint(out, config, checkpoint.architecture, files, checkpoint.parameters, METHOD)


def _is_ours(out: Path, checkpoint: Checkpoint) -> bool:
    """Whether `out` is what an earlier export of a model of the same shape left."""
    try:
        found = json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    made = found.pop("quantization_config", {}).get("quant_method")
    return made == METHOD and found == {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}


def _entry(source: Weights, name: str, shape: tuple[int, ...]) -> tuple[str, str, tuple[int, ...]]:
    """Name, safetensors type and shape of a tensor as it will be stored."""
    if name.endswith((PACKED, INT8)):
        return name, "U8" if name.endswith(PACKED) else "I8", shape
    stored = source.place(name).stored if name.endswith(_TABLES) else "F32"
    return name, stored, shape


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    return prod(shape) * {"U8": 1, "I8": 1, "F32": 4}.get(dtype, 2)


def _write_header(stream: BinaryIO, entries: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, dtype, shape in entries:
        begin, end = end, end + _bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)


def _write(
    stream: BinaryIO, folder: Path, source: Weights, name: str, dtype: str, shape: tuple[int, ...], scheme: Scheme
) -> None:
    if dtype in _ARRAYS:
        for part in _rows(folder, source, name):
            stream.write(np.ascontiguousarray(part, _ARRAYS[dtype]).tobytes())
        return
    if dtype == "I8":
        linear, done = name.removesuffix(INT8), 0
        whole, scale = np.empty(shape, np.int8), np.empty(shape[1], np.float32)
        within, dot, last = linear.rpartition(".")
        names = [f"{within}{dot}{word}.weight" for word in last.split(JOIN)]
        for part in (part for weight in names for part in _rows(folder, source, weight)):
            rows = slice(done, done := done + len(part))
            whole[:, rows], scale[rows] = in_int8(_finite(part, linear))
        stream.write(memoryview(whole).cast("B"))
        stream.write(scale.tobytes())  # its scales are the next entry
        return
    linear = name.removesuffix(PACKED)
    scales = []
    for part in _rows(folder, source, f"{linear}.weight"):
        packed, scale = quantized(_finite(part, linear), scheme.of(linear))
        stream.write(packed.tobytes())
        scales.append(scale)
    stream.write(np.concatenate(scales).tobytes())  # its scales are the next entry


def _finite(part: np.ndarray, name: str) -> np.ndarray:
    """Rows of a weight in float32. Raises WrongModel where one is no number: rounding would make one of it."""
    values = np.asarray(part, np.float32)
    if not np.isfinite(values).all():
        raise WrongModel(f"weight {name} holds what is no number; download the weights again")
    return values


def quantized(weight: np.ndarray, how: NBits) -> tuple[np.ndarray, np.ndarray]:
    """weight: outputs x inputs float32 -> outputs x blocks x bytes uint8, outputs x blocks float32, by onnxruntime's own
    quantiser."""
    from onnxruntime.capi import _pybind_state as library

    rows, columns = weight.shape
    blocks = -(-columns // how.block)
    packed = np.zeros((rows, blocks, how.block * how.bits // 8), np.uint8)
    scale = np.zeros((rows, blocks), np.float32)
    zero = np.zeros((rows, -(-blocks * how.bits // 8)), np.uint8)
    across = np.zeros((blocks * how.block, rows), np.float32)
    across[:columns] = weight.T
    quantize = {4: library.quantize_matmul_4bits, 8: library.quantize_matmul_8bits}[how.bits]
    quantize(packed, across, scale, zero, how.block, rows, columns, True)
    return packed, scale


def in_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """weight: outputs x inputs float32 -> inputs x outputs int8, and a scale for each output."""
    scale = np.maximum(np.abs(weight).max(1), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(weight / scale[:, None]).astype(np.int8).T, scale


def _rows(folder: Path, source: Weights, name: str) -> Iterator[np.ndarray]:
    """A weight, mapped and not loaded, outputs x the rest, some rows at a time."""
    place = source.place(name)
    shape = (place.shape[0], prod(place.shape[1:]))
    mapped = np.memmap(folder / place.file, _ARRAYS[place.stored], "r", place.offset, shape)
    step = max(_SLICE // max(shape[1], 1), 1)
    for begin in range(0, shape[0], step):
        yield mapped[begin : begin + step]


def decoder_bytes(path: Path) -> int:
    """Bytes of weights that one token reads of the decoder written here: all but tables and the tower."""
    header, _ = safetensors_header(path / "model.safetensors")
    decoder = [e for n, e in header.items() if not n.startswith("model.visual.") and not n.endswith(_TABLES)]
    return sum(e["data_offsets"][1] - e["data_offsets"][0] for e in decoder)
