"""Write a checkpoint's vision.onnx and decoder.onnx; the weights stay where they are, in its *.safetensors.

    python model/export_onnx.py MODEL [--out DIR] [--dtype float32|float16|bfloat16] [--decomposed] [--slots S]

The graphs are built operator by operator from config.json and the safetensors headers, to the contract in
qwen3vl_ros/engine/network/graph.py and with the arithmetic of engine/network.py. Their initializers point into the weight
files beside them, so a graph has some 100 kB and stays valid when only the values of weights change. For the embedded
model, after training it or changing this file:

    python model/export_onnx.py model/embedded

Opset 24 with TensorScatter and Attention on a static cache; --decomposed keeps to opset 18 for runtimes that have
neither (TensorRT before 10.15). --slots fixes the length of the cache, which TensorRT's own cache layer asks for. The
largest errors against torch are measured and written to manifest.json; --no-parity needs onnx alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from math import prod
from pathlib import Path
from typing import Any, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from onnx import TensorProto, helper

from qwen3vl_ros.engine.checkpoint import Checkpoint, find_checkpoint
from qwen3vl_ros.engine.network.graph import (
    COMPUTE,
    DECODER,
    FORMAT,
    MANIFEST,
    OLDER,
    VISION,
    Value,
    decoder_values,
    file_sha256,
    layout_sha256,
    safetensors_header,
    vision_values,
)
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.types import InvalidInput, PerceptionError, WrongModel

OPSETS = {"attention": 24, "decomposed": 18}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
}
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_BUNDLED = ("*.json", "*.jinja", "*.txt")  # of a checkpoint, beside the weights
_VISION_EPS = 1e-6
_EXACT_GELU, _TANH_GELU = "none", "tanh"


class Weights:
    """Where each weight of a checkpoint stands: file, offset, type and shape. Reads headers only."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._places: dict[str, tuple[str, int, int, str, tuple[int, ...]]] = {}
        for file in checkpoint.weight_files:
            header, data = safetensors_header(file)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                self._places[name] = file.name, data + begin, end - begin, entry["dtype"], tuple(entry["shape"])

    def tensor(self, name: str, shape: Sequence[int]) -> tuple[TensorProto, str]:
        """An initializer without data, and its precision. Raises WrongModel if the weight is missing or another one."""
        if name not in self._places:
            raise WrongModel(
                f"{self.checkpoint.path} has no weight {name}; finish the download, or copy config.json "
                "and weights from the same model"
            )
        file, offset, length, stored, found = self._places[name]
        if stored not in _STORED:
            raise WrongModel(
                f"{self.checkpoint.path}: weight {name} is stored as {stored}, and this export reads "
                f"{', '.join(_STORED)}; use the unquantised checkpoint"
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
    """A graph in the making. Values are named by strings; `op` adds a node and returns its output."""

    def __init__(self, weights: Weights, dtype: str, variant: str):
        self.dtype, self.variant = dtype, variant
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._cast: dict[tuple[str, str], str] = {}
        self._scope = ""

    @property
    def decomposed(self) -> bool:
        return self.variant == "decomposed"

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

    def linear(self, x: str, name: str, rows: int, columns: int, bias: bool = False) -> str:
        """x: any x columns -> any x rows."""
        terms = (x, self.weight(f"{name}.weight", rows, columns))
        return self.op("Gemm", *terms, *((self.weight(f"{name}.bias", rows),) if bias else ()), transB=1)

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
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            producer_name="qwen3vl_ros",
            ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
        )

    # -- what both halves are made of; each a method of network.py --

    def rotate(self, x: str, cos: str, sin: str) -> str:
        """x: 1 x heads x Q x head_dim; cos, sin: as prepared by `angles`."""
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


# -- vision ----------------------------------------------------------------------------------------------------------


def vision_model(sizes: Sizes, weights: Weights, dtype: str, variant: str) -> onnx.ModelProto:
    """Patches of one frame -> merged and DeepStack features."""
    vision, b = sizes.vision, Builder(weights, dtype, variant)
    root = "model.visual"
    b.scope("patches")
    patches = b.cast("patches", "float32", dtype)
    x = b.linear(patches, f"{root}.patch_embed.proj", vision.hidden, vision.patch_values, bias=True)
    table, stored = b.stored(f"{root}.pos_embed.weight", vision.table_side**2, vision.hidden)
    # The table's values are mixed in float32, as the reference does.
    corners = b.cast(b.op("Gather", table, "corners"), stored, "float32")
    places = b.op("MatMul", b.op("Unsqueeze", "weights", b.integers(1)), corners)
    x = b.op("Add", x, b.cast(b.op("Squeeze", places, b.integers(1)), "float32", dtype))
    angles = b.angles(vision.hidden // vision.heads, "float32")
    deep = {}
    for index in range(vision.depth):
        b.scope(f"block_{index}")
        x = _vision_block(b, sizes, f"{root}.blocks.{index}", x, angles)
        if index in vision.deepstack:
            which = vision.deepstack.index(index)
            b.scope(f"deep_{which}")
            tokens = _merger(b, sizes, f"{root}.deepstack_merger_list.{which}", x, norm_after_merging=True)
            deep[which] = b.op("Unsqueeze", tokens, b.integers(0))
    b.scope("merger")
    _merger(b, sizes, f"{root}.merger", x, norm_after_merging=False, outputs=("merged",))
    b.op("Concat", *(deep[which] for which in sorted(deep)), axis=0, outputs=("deep",))
    return b.model("vision", *vision_values(sizes))


def _vision_block(b: Builder, sizes: Sizes, name: str, x: str, angles: tuple[str, str]) -> str:
    vision = sizes.vision
    hidden, heads, head_dim = vision.hidden, vision.heads, vision.hidden // vision.heads
    qkv = b.linear(_layer_norm(b, x, f"{name}.norm1", hidden), f"{name}.attn.qkv", 3 * hidden, hidden, bias=True)
    qkv = b.op("Transpose", b.reshape(qkv, -1, 3, heads, head_dim), perm=(1, 2, 0, 3))
    q, k, v = b.op("Split", qkv, axis=0, num_outputs=3, outputs=3)
    # Angles of far patches need more digits than half precision has.
    q, k = (b.cast(b.rotate(b.cast(t, b.dtype, "float32"), *angles), "float32", b.dtype) for t in (q, k))
    seen = b.attention(q, k, v, heads, heads, head_dim)
    x = b.op("Add", x, b.linear(seen, f"{name}.attn.proj", hidden, hidden, bias=True))
    n = _layer_norm(b, x, f"{name}.norm2", hidden)
    inner = _gelu(b, b.linear(n, f"{name}.mlp.linear_fc1", vision.inner, hidden, bias=True), _TANH_GELU)
    return b.op("Add", x, b.linear(inner, f"{name}.mlp.linear_fc2", hidden, vision.inner, bias=True))


def _merger(b: Builder, sizes: Sizes, name: str, x: str, norm_after_merging: bool, outputs: Any = 1) -> str:
    vision = sizes.vision
    merged = vision.hidden * vision.merge**2
    if norm_after_merging:
        x = _layer_norm(b, b.reshape(x, -1, merged), f"{name}.norm", merged)
    else:
        x = b.reshape(_layer_norm(b, x, f"{name}.norm", vision.hidden), -1, merged)
    x = _gelu(b, b.linear(x, f"{name}.linear_fc1", merged, merged, bias=True), _EXACT_GELU)
    return b.op(
        "Gemm",
        x,
        b.weight(f"{name}.linear_fc2.weight", vision.out, merged),
        b.weight(f"{name}.linear_fc2.bias", vision.out),
        transB=1,
        outputs=outputs,
    )


def _layer_norm(b: Builder, x: str, name: str, size: int) -> str:
    return b.op(
        "LayerNormalization",
        x,
        b.weight(f"{name}.weight", size),
        b.weight(f"{name}.bias", size),
        axis=-1,
        epsilon=_VISION_EPS,
    )


def _gelu(b: Builder, x: str, approximate: str) -> str:
    if not b.decomposed:
        return b.op("Gelu", x, approximate=approximate)
    half, one = b.scalar(0.5, b.dtype), b.scalar(1, b.dtype)
    if approximate == _TANH_GELU:
        cube = b.op("Mul", b.op("Mul", x, x), x)
        inner = b.op("Add", x, b.op("Mul", cube, b.scalar(0.044715, b.dtype)))
        turn = b.op("Tanh", b.op("Mul", inner, b.scalar((2 / np.pi) ** 0.5, b.dtype)))
    else:
        turn = b.op("Erf", b.op("Mul", x, b.scalar(0.5**0.5, b.dtype)))
    return b.op("Mul", b.op("Mul", x, half), b.op("Add", turn, one))


# -- decoder ---------------------------------------------------------------------------------------------------------


def decoder_model(sizes: Sizes, weights: Weights, dtype: str, variant: str, slots: int = 0) -> onnx.ModelProto:
    """Q tokens over a static cache -> scores of those asked for, and the cache with their keys and values.

    slots: of the cache; 0: each pass decides.
    """
    text, b = sizes.text, Builder(weights, dtype, variant)
    root = "model.language_model"
    b.scope("tokens")
    table, stored = b.stored(f"{root}.embed_tokens.weight", text.vocabulary, text.hidden)
    # Gathered as stored: a whole table in another precision would be kept beside the head's.
    x = b.cast(b.op("Gather", table, "ids"), stored, dtype)
    visual = b.op("Unsqueeze", b.op("Greater", "rows", b.integers(0)), b.integers(1))
    x = b.op("Where", visual, b.op("Gather", "features", "rows"), x)
    angles = b.angles(text.head_dim, dtype)
    places = _places(b, sizes) if b.decomposed else ""
    count = len(sizes.vision.deepstack)
    added = [b.op("Gather", "deep", "rows", axis=1)] if count else []
    if count > 1:
        added = b.op("Split", added[0], axis=0, num_outputs=count, outputs=count)
    for index in range(text.layers):
        b.scope(f"layer_{index}")
        x = _text_layer(b, sizes, index, f"{root}.layers.{index}", x, angles, places)
        if index < count:
            x = b.op("Add", x, b.op("Squeeze", added[index], b.integers(0)))
    b.scope("head")
    x = _rms_norm(b, b.op("Gather", x, "last"), f"{root}.norm.weight", text.hidden, text.norm_eps)
    logits = b.linear(x, f"{root}.embed_tokens" if text.tied else "lm_head", text.vocabulary, text.hidden)
    b.op("Cast", logits, to=TensorProto.FLOAT, outputs=("logits",))
    b.op("ArgMax", "logits", axis=-1, keepdims=0, outputs=("token",))
    best = b.op("ReduceMax", "logits", b.integers(-1), keepdims=1)
    total = b.op("ReduceSum", b.op("Exp", b.op("Sub", "logits", best)), b.integers(-1), keepdims=0)
    b.op("Neg", b.op("Log", total), outputs=("logprob",))
    return b.model("decoder", *decoder_values(sizes, slots or "S"))


def _text_layer(b: Builder, sizes: Sizes, index: int, name: str, x: str, angles: tuple[str, str], places: str) -> str:
    text = sizes.text
    hidden, head_dim = text.hidden, text.head_dim
    queries, pairs = text.heads * head_dim, text.kv_heads * head_dim
    n = _rms_norm(b, x, f"{name}.input_layernorm.weight", hidden, text.norm_eps)
    heads = {}
    for part, rows in (("q", queries), ("k", pairs), ("v", pairs)):
        t = b.reshape(b.linear(n, f"{name}.self_attn.{part}_proj", rows, hidden), 1, -1, rows // head_dim, head_dim)
        if part != "v":
            t = _rms_norm(b, t, f"{name}.self_attn.{part}_norm.weight", head_dim, text.norm_eps)
        t = b.op("Transpose", t, perm=(0, 2, 1, 3))
        heads[part] = t if part == "v" else b.rotate(t, *angles)
    keys, values = (
        _written(b, f"{cache}_{index}", heads[part], places) for cache, part in (("keys", "k"), ("values", "v"))
    )
    seen = b.attention(heads["q"], keys, values, text.heads, text.kv_heads, head_dim, mask="mask")
    x = b.op("Add", x, b.linear(seen, f"{name}.self_attn.o_proj", hidden, queries))
    n = _rms_norm(b, x, f"{name}.post_attention_layernorm.weight", hidden, text.norm_eps)
    gate, up = (b.linear(n, f"{name}.mlp.{part}_proj", text.inner, hidden) for part in ("gate", "up"))
    inner = b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up)
    return b.op("Add", x, b.linear(inner, f"{name}.mlp.down_proj", hidden, text.inner))


def _places(b: Builder, sizes: Sizes) -> str:
    """1 x kv_heads x Q x head_dim: the slot of each number that a pass writes."""
    text = sizes.text
    count = b.op("Squeeze", b.op("Shape", "ids"), b.integers(0))
    zero, one = (b.op("Squeeze", b.integers(value), b.integers(0)) for value in (0, 1))
    slots = b.op("Add", b.op("Range", zero, count, one), "write")
    shape = b.op("Concat", b.integers(1, text.kv_heads), b.op("Shape", "ids"), b.integers(text.head_dim), axis=0)
    return b.op("Expand", b.reshape(slots, 1, 1, -1, 1), shape)


def _written(b: Builder, cache: str, update: str, places: str) -> str:
    out = (f"{cache}_out",)
    if b.decomposed:
        return b.op("ScatterElements", cache, places, update, axis=2, outputs=out)
    return b.op("TensorScatter", cache, update, "write", axis=2, mode="linear", outputs=out)


def _rms_norm(b: Builder, x: str, name: str, size: int, eps: float) -> str:
    weight = b.weight(name, size)
    if not b.decomposed:
        return b.op("RMSNormalization", x, weight, axis=-1, epsilon=eps)
    wide = b.cast(x, b.dtype, "float32")
    mean = b.op("ReduceMean", b.op("Mul", wide, wide), b.integers(-1), keepdims=1)
    size_of_one = b.op("Div", wide, b.op("Sqrt", b.op("Add", mean, b.scalar(eps))))
    return b.op("Mul", weight, b.cast(size_of_one, "float32", b.dtype))


# -- files -----------------------------------------------------------------------------------------------------------


def export(
    checkpoint: Checkpoint,
    out: Path,
    dtype: str = "float32",
    variant: str = "attention",
    slots: int = 0,
    measure: bool = True,
) -> dict[str, Any]:
    """Write both graphs and the manifest into `out`; returns the manifest.

    A directory other than the checkpoint's gets copies of its files: graphs reach no weights outside.
    measure: compare with torch. Raises WrongModel for a checkpoint that is not the one config.json describes.
    """
    sizes, weights = Sizes.read(checkpoint.config), Weights(checkpoint)
    inside = out.resolve() == checkpoint.path.resolve()
    links = [f for f in checkpoint.weight_files if f.is_symlink() or f.stat().st_nlink > 1]
    if not 0 <= slots <= checkpoint.max_positions:
        raise InvalidInput(
            f"--slots {slots} is no length of a cache: give 1 to {checkpoint.max_positions}, the positions of "
            f"{checkpoint.path}, or 0 where each pass decides"
        )
    if not inside and _holds_another(out, checkpoint):
        raise InvalidInput(
            f"--out {out} holds another model, or what is left of an export that was broken off; give a new directory"
        )
    if inside and links:
        raise InvalidInput(
            f"{links[0]} is a link, and ONNX reads no weights through links; give another directory "
            "with --out, which gets a copy"
        )
    models = {
        VISION: vision_model(sizes, weights, dtype, variant),
        DECODER: decoder_model(sizes, weights, dtype, variant, slots),
    }
    if variant != "decomposed":
        models |= {
            OLDER[VISION]: vision_model(sizes, weights, dtype, "decomposed"),
            OLDER[DECODER]: decoder_model(sizes, weights, dtype, "decomposed", slots),
        }
    if not inside:
        bundle(checkpoint, out)
    for name, model in models.items():
        temporary = out / f".{name}"
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(temporary), full_check=True)
        temporary.replace(out / name)
    manifest = out / MANIFEST
    everything = json.loads(manifest.read_text()) if manifest.is_file() else {}
    files = [f.name for f in checkpoint.weight_files]
    everything["onnx"] = written = {
        "format": FORMAT,
        "dtype": dtype,
        "opset": OPSETS[variant],
        "variant": variant,
        "slots": slots,
        "sha256": {name: file_sha256(out / name) for name in ("config.json", *models)},
        "layout_sha256": {name: layout_sha256(out / name) for name in files},
        "weights_sha256": {name: file_sha256(out / name) for name in files},
        "shapes": {
            name: {
                side: {v.name: [v.dtype, *v.shape] for v in values} for side, values in zip(("inputs", "outputs"), ends)
            }
            for name, ends in ((VISION, vision_values(sizes)), (DECODER, decoder_values(sizes, slots or "S")))
        },
        "max_positions": checkpoint.max_positions,
        "parity": None,
    }
    manifest.write_text(json.dumps(everything, indent=1) + "\n")
    if measure:
        written["parity"] = parity(checkpoint, out)
        manifest.write_text(json.dumps(everything, indent=1) + "\n")
    return written


def _holds_another(out: Path, checkpoint: Checkpoint) -> bool:
    """Whether `out` has a model that no earlier export of this checkpoint put there."""
    config = out / "config.json"
    return config.is_file() and (
        not (out / MANIFEST).is_file() or file_sha256(config) != file_sha256(checkpoint.path / "config.json")
    )


def parity(checkpoint: Checkpoint, directory: Path) -> dict[str, float]:
    """Largest errors against torch in float32, relative to the largest number: two images and a prompt, then steps.

    Needs torch, onnxruntime, and memory for the network twice. Raises EngineError in bfloat16.
    """
    import torch

    from qwen3vl_ros.engine.onnx.runtime import OnnxRuntime
    from qwen3vl_ros.engine.prompt.prepare import mrope_positions
    from qwen3vl_ros.engine.torch.network import Network
    from qwen3vl_ros.engine.torch.runtime import TorchRuntime

    sizes, rng = Sizes.read(checkpoint.config), np.random.default_rng(0)
    grid = np.array([(1, 4, 6), (1, 8, 2)]) * (1, sizes.vision.merge, sizes.vision.merge)
    pixels = rng.uniform(-1, 1, (int(grid.prod(1).sum()), sizes.vision.patch_values)).astype(np.float32)
    ids = rng.integers(0, min(sizes.image_id, sizes.video_id), 64)
    ids[4:28] = ids[30:46] = sizes.image_id
    positions = mrope_positions(ids == sizes.image_id, grid, sizes.vision.merge)
    found = []
    for runtime in (TorchRuntime(Network.load(checkpoint, "cpu", torch.float32), 128), OnnxRuntime(directory, 128)):
        seen = runtime.encode(pixels, grid)
        merged, deep = (seen.features[1:], seen.deep[:, 1:]) if hasattr(seen, "features") else seen
        logits = [
            runtime.prefill(ids, seen, positions, keep=8).logits(),
            runtime.step([5, 6, 7]).logits(),
            runtime.step([8]).logits(),
        ]
        found.append((merged, np.stack([np.asarray(d) for d in deep]), np.concatenate(logits)))
        runtime.close()
    return {
        name: float(np.abs(np.float32(ours) - np.float32(theirs)).max() / np.abs(np.float32(theirs)).max())
        for name, theirs, ours in zip(("vision", "deep", "logits"), *found)
    }


def bundle(checkpoint: Checkpoint, out: Path) -> None:
    """Copies of all files of a checkpoint in `out`: ONNX refuses links, hard or soft, to external data."""
    out.mkdir(parents=True, exist_ok=True)
    for file in (f for pattern in _BUNDLED for f in sorted(checkpoint.path.glob(pattern)) if f.name != MANIFEST):
        shutil.copyfile(file, out / file.name)
    for file in checkpoint.weight_files:
        if not (out / file.name).is_file() or file_sha256(out / file.name) != file_sha256(file):
            shutil.copyfile(file, out / file.name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="directory of a checkpoint, or a hub id")
    parser.add_argument("--out", type=Path, help="where to write (default: beside the weights)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="what the graphs compute in (default: float32, for CPUs)",
    )
    parser.add_argument("--decomposed", action="store_true", help="no Attention and TensorScatter operators")
    parser.add_argument("--no-parity", action="store_true", help="do not compare with torch")
    parser.add_argument("--slots", type=int, default=0, help="length of the cache (default: each pass decides)")
    options = parser.parse_args(arguments)
    try:
        checkpoint = find_checkpoint(options.model)
        out = options.out or checkpoint.path
        written = export(
            checkpoint,
            out,
            options.dtype,
            "decomposed" if options.decomposed else "attention",
            options.slots,
            measure=not options.no_parity and options.dtype != "bfloat16",
        )
    except ImportError as error:
        print(
            f"{error}: comparing with torch needs torch and onnxruntime; install them, or add --no-parity",
            file=sys.stderr,
        )
        return 1
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 1
    for name in (VISION, DECODER):
        print(f"{out / name}: {(out / name).stat().st_size / 1e3:.0f} kB, opset {written['opset']}, {written['dtype']}")
    errors = ", ".join(f"{name} {error:.1e}" for name, error in (written["parity"] or {}).items())
    print(f"relative errors against torch: {errors or 'not measured'}")
    print(f"weights stay in {', '.join(written['layout_sha256'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
