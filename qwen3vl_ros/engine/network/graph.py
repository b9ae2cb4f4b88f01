"""What the exported graphs look like from outside, and the host's side of running them: names, shapes, feeds, manifest.

`qwen3vl export` writes `vision.onnx` (one frame) and `decoder.onnx` (one pass over a static cache) to this
contract, and every runtime that reads them fills their inputs here. Needs NumPy alone: no torch, no onnx, no runtime.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from qwen3vl_ros.engine.network.plans import VisionPlan, plan_vision, rotary_angles
from qwen3vl_ros.engine.network.sizes import Sizes, TextSizes, VisionSizes
from qwen3vl_ros.types import InvalidInput, ModelNotFound, WrongModel

VISION, DECODER, MANIFEST = "vision.onnx", "decoder.onnx", "manifest.json"
# The same in operators of opset 18, for ONNX Runtimes before 1.25: Python 3.10 gets no later one.
OLDER = {VISION: "vision.opset18.onnx", DECODER: "decoder.opset18.onnx"}
FORMAT = 1
COMPUTE = "compute"  # stands for the precision a graph was exported in
# NumPy has no bfloat16, so the host holds its bits.
HOST_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "int64": np.dtype(np.int64),
}
# The lowest finite number, and not -inf: a row of -inf alone would turn into "not a number".
_HIDDEN = {"float32": np.finfo(np.float32).min, "float16": np.finfo(np.float16).min, "bfloat16": 0xFF7F}


# -- names and shapes ------------------------------------------------------------------------------------------------


class Value(NamedTuple):
    """An input or output. dtype: "float32", "int64" or COMPUTE. shape: numbers, and letters for what a pass decides."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def vision_values(sizes: Sizes) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Inputs and outputs of vision.onnx: N patches of ONE frame -> V visual tokens.

    patches: as prepare.py orders them. corners, weights, cos, sin: of plans.VisionPlan. merged: V x hidden; deep: for
    each of the first D decoder layers.
    """
    vision = sizes.vision
    head_dim = vision.hidden // vision.heads
    return (
        (
            Value("patches", "float32", ("N", vision.patch_values)),
            Value("corners", "int64", ("N", 4)),
            Value("weights", "float32", ("N", 4)),
            Value("cos", "float32", ("N", head_dim)),
            Value("sin", "float32", ("N", head_dim)),
        ),
        (Value("merged", COMPUTE, ("V", vision.out)), Value("deep", COMPUTE, (len(vision.deepstack), "V", vision.out))),
    )


def decoder_values(sizes: Sizes, slots: int | str = "S") -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Inputs and outputs of decoder.onnx: Q tokens of one sequence, whose cache has S slots.

    ids: tokens. rows: 0 for a text token, r for row r of `features` in its place; row 0 of features and deep is zero.
    cos, sin: of plans.rotary_angles. write: the cache slot of the first token; write + Q <= S. mask: what is added to
    the scores of slots; one that a token must not see has the lowest number. last: which tokens' scores are wanted (K).
    keys_i, values_i: the cache of layer i; keys_i_out may be the same memory. logits: K x vocabulary; token: the most
    likely next one; logprob: its natural log-probability. slots: how many there always are, where a runtime (TensorRT)
    has to know it.
    """
    text, deep = sizes.text, len(sizes.vision.deepstack)
    room = (1, text.kv_heads, slots, text.head_dim)
    cache = [Value(f"{part}_{layer}", COMPUTE, room) for layer in range(text.layers) for part in ("keys", "values")]
    return (
        (
            Value("ids", "int64", ("Q",)),
            Value("rows", "int64", ("Q",)),
            Value("features", COMPUTE, ("R", text.hidden)),
            Value("deep", COMPUTE, (deep, "R", text.hidden)),
            Value("cos", "float32", ("Q", text.head_dim)),
            Value("sin", "float32", ("Q", text.head_dim)),
            Value("write", "int64", (1,)),
            Value("mask", COMPUTE, (1, 1, "Q", slots)),
            Value("last", "int64", ("K",)),
            *cache,
        ),
        (
            Value("logits", "float32", ("K", text.vocabulary)),
            Value("token", "int64", ("K",)),
            Value("logprob", "float32", ("K",)),
            *(v._replace(name=f"{v.name}_out") for v in cache),
        ),
    )


# -- feeds -----------------------------------------------------------------------------------------------------------


class VisualRows(NamedTuple):
    """Features of some images as the decoder takes them. features: R x hidden, deep: D x R x hidden; row 0 is zero."""

    features: np.ndarray
    deep: np.ndarray

    @property
    def count(self) -> int:
        """Visual tokens."""
        return len(self.features) - 1


def no_rows(sizes: Sizes, dtype: str) -> VisualRows:
    """For a pass of text alone."""
    return join_frames(sizes, [], dtype)


def join_frames(sizes: Sizes, frames: Sequence[tuple[np.ndarray, np.ndarray]], dtype: str) -> VisualRows:
    """merged and deep of each frame -> what the decoder takes."""
    hidden, deep = sizes.text.hidden, len(sizes.vision.deepstack)
    zero = np.zeros((deep, 1, hidden), HOST_DTYPES[dtype])
    return VisualRows(
        np.concatenate([np.zeros((1, hidden), HOST_DTYPES[dtype]), *(m for m, _ in frames)]),
        np.concatenate([zero, *(d for _, d in frames)], axis=1),
    )


def vision_feeds(sizes: Sizes, pixels: np.ndarray, grid: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of vision.onnx for each frame of `grid` (M x 3: frames, rows, columns of patches).

    pixels: N x patch_values float32. Raises InvalidInput unless they are as many patches as the grid has.
    """
    rows = [tuple(row) for row in np.asarray(grid).tolist()]
    needed = sum(count * height * width for count, height, width in rows)
    if needed != len(pixels):
        raise InvalidInput(
            f"a grid of {rows} needs {needed} patches, got {len(pixels)}; pass pixels and grid of the same images"
        )
    return _frames(sizes.vision, np.ascontiguousarray(pixels, np.float32), rows)


def _frames(
    sizes: VisionSizes, pixels: np.ndarray, grid: list[tuple[int, int, int]]
) -> Iterator[dict[str, np.ndarray]]:
    done = 0
    for count, height, width in grid:
        plan = _frame_plan(sizes, height, width)
        for _ in range(count):
            yield {
                "patches": pixels[done : done + height * width],
                "corners": plan.corners,
                "weights": plan.weights,
                "cos": plan.cos,
                "sin": plan.sin,
            }
            done += height * width


@lru_cache(maxsize=8)
def _frame_plan(sizes: VisionSizes, height: int, width: int) -> VisionPlan:
    plan = plan_vision(sizes, [(1, height, width)])
    return plan._replace(weights=plan.weights.astype(np.float32))


def decoder_feeds(
    sizes: TextSizes,
    ids: Sequence[int],
    positions: np.ndarray,
    *,
    start: int,
    span: int,
    keep: int,
    dtype: str,
    visual: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Inputs of decoder.onnx but the visual rows and the cache, for tokens that follow `start` others in the cache.

    positions: 3 x Q. span: slots of the cache (S). keep: scores of so many last tokens are wanted. visual: indices into
    `ids` of the visual tokens, in the order of the visual rows.
    """
    ids = np.asarray(ids, np.int64)
    cos, sin = rotary_angles(sizes, positions)
    rows = np.zeros(len(ids), np.int64)
    if visual is not None:
        rows[visual] = 1 + np.arange(len(visual))
    # Row i shows slots 0 to start + i: the same edge, one further to the right in each row.
    edge = _edge(span, dtype)[span - 1 - start :]
    mask = as_strided(edge, (1, 1, len(ids), span), (0, 0, -edge.itemsize, edge.itemsize), writeable=False)
    return {
        "ids": ids,
        "rows": rows,
        "cos": cos,
        "sin": sin,
        "write": np.array([start], np.int64),
        "mask": np.ascontiguousarray(mask),
        "last": np.arange(len(ids) - keep, len(ids), dtype=np.int64),
    }


@lru_cache(maxsize=8)
def _edge(span: int, dtype: str) -> np.ndarray:
    """`span` slots that are seen, and as many that are hidden."""
    edge = np.zeros(2 * span, HOST_DTYPES[dtype])
    edge[span:] = _HIDDEN[dtype]
    return edge


# -- manifest --------------------------------------------------------------------------------------------------------


def changed_weights(directory: Path) -> list[str]:
    """Names of weight files that are not, to the last bit, those that the graphs were exported with. Reads them whole."""
    try:
        known = json.loads((directory / MANIFEST).read_text())["onnx"].get("weights_sha256", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [n for n, digest in known.items() if not (directory / n).is_file() or file_sha256(directory / n) != digest]


def export_command(directory: Path | str) -> str:
    """What the user runs to write the graphs."""
    return f"qwen3vl export {typed(str(directory))}"


def typed(model: str) -> str:
    """A model's path, or a bundle's origin, in a command; the embedded model's is quoted as it is told."""
    return model if model == "''" else shlex.quote(model)


@dataclass(frozen=True)
class Graphs:
    """Exported graphs in a directory, found to belong to its config.json and weights.

    dtype: the precision they compute in. opset: of ONNX. variant: "attention", or "decomposed" for runtimes without
    the Attention and TensorScatter operators. slots: of the cache, 0 if each pass decides. parity: the largest relative
    errors measured at export, if they were. few_bits: whether linears round their inputs to 8 bits.
    """

    directory: Path
    sizes: Sizes
    dtype: str
    opset: int
    variant: str
    slots: int
    parity: dict[str, float] | None
    few_bits: bool

    @staticmethod
    def read(directory: Path | str) -> Graphs:
        """Raises ModelNotFound if there are no graphs, WrongModel if a file is not the one they were exported with.

        Of the weights only their layout counts: the graphs point into those files, so new values need no new export.
        """
        directory = Path(directory)
        again = f"export the graphs again: {export_command(directory)}"
        missing = [n for n in (MANIFEST, VISION, DECODER, "config.json") if not (directory / n).is_file()]
        if missing:
            raise ModelNotFound(f"{directory} has no {', '.join(missing)}; {again}")
        try:
            everything = json.loads((directory / MANIFEST).read_text())
            manifest = everything["onnx"]
            found = manifest["format"]
            if found != FORMAT:
                raise WrongModel(f"{directory / MANIFEST} has format {found}, and this version reads {FORMAT}; {again}")
            if manifest["dtype"] not in HOST_DTYPES or not isinstance(manifest["slots"], int) or manifest["slots"] < 0:
                raise ValueError(f"dtype {manifest['dtype']!r}, slots {manifest['slots']!r}")
            files = {**manifest["sha256"], **manifest["layout_sha256"]}
            for name in files:
                if not (directory / name).is_file():
                    raise ModelNotFound(f"{directory} has no {name}, which its graphs read; {again}")
                digest = layout_sha256 if name in manifest["layout_sha256"] else file_sha256
                if digest(directory / name) != files[name]:
                    raise WrongModel(
                        f"{directory / name} is not the file that the graphs beside it were exported with "
                        f"({MANIFEST}); {again}"
                    )
            return Graphs(
                directory,
                Sizes.read(json.loads((directory / "config.json").read_text())),
                manifest["dtype"],
                manifest["opset"],
                manifest["variant"],
                manifest["slots"],
                manifest["parity"],
                manifest.get("weights") is not None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WrongModel(f"{directory / MANIFEST} cannot be read ({error!r}); {again}") from error


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def layout_sha256(path: Path) -> str:
    """Digest of a safetensors header: names, types, shapes and places of the weights, not their values."""
    with path.open("rb") as stream:
        size = stream.read(8)
        return hashlib.sha256(size + stream.read(int.from_bytes(size, "little"))).hexdigest()


def safetensors_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """name -> {dtype, shape, data_offsets}, and where in the file those offsets count from."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size
