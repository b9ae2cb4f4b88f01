"""The network as two ONNX graphs, operator by operator, from config.json and the headers of the weight files.

To the contract in engine/network/graph.py and with the arithmetic of engine/torch/network.py, whose functions these
mirror. Opset 24 with TensorScatter and Attention on a static cache, or decomposed to opset 18 for runtimes that have
neither (TensorRT before 10.15, ONNX Runtime before 1.25).
"""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import onnx
from onnx import TensorProto

from qwen3vl_ros.engine.network.graph import decoder_values, vision_values
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.export.operators import Builder, Weights
from qwen3vl_ros.export.scheme import NBits

_VISION_EPS = 1e-6
_EXACT_GELU, _TANH_GELU = "none", "tanh"

# -- vision ----------------------------------------------------------------------------------------------------------


def vision_model(
    sizes: Sizes, weights: Weights, dtype: str, variant: str, nbits: Callable[[str], NBits] | None = None
) -> onnx.ModelProto:
    """Patches of one frame -> merged and DeepStack features. nbits: as of Builder."""
    vision, b = sizes.vision, Builder(weights, dtype, variant, nbits)
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
    if b.few_bits and not b.decomposed:
        q, k, v = b.op("Split", b.reshape(qkv, 1, -1, 3 * hidden), axis=-1, num_outputs=3, outputs=3)
        q, k = (b.rotate(t, *angles, heads=heads) for t in (q, k))
        seen = b.attention_over_all(q, k, v, heads, head_dim)
    else:
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
    return b.linear(x, f"{name}.linear_fc2", vision.out, merged, bias=True, outputs=outputs)


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


def decoder_model(
    sizes: Sizes,
    weights: Weights,
    dtype: str,
    variant: str,
    slots: int = 0,
    nbits: Callable[[str], NBits] | None = None,
) -> onnx.ModelProto:
    """Q tokens over a static cache -> scores of those asked for, and the cache with their keys and values.

    slots: of the cache; 0: each pass decides. nbits: as of Builder.
    """
    text, b = sizes.text, Builder(weights, dtype, variant, nbits)
    root = "model.language_model"
    b.scope("tokens")
    table, stored = b.stored(f"{root}.embed_tokens.weight", text.vocabulary, text.hidden)
    # Gathered as stored: a whole table in another precision would be kept beside the head's.
    x = b.cast(b.op("Gather", table, "ids"), stored, dtype)
    visual = b.op("Unsqueeze", b.op("Greater", "rows", b.integers(0)), b.integers(1))
    x = b.op("Where", visual, b.op("Gather", "features", "rows"), x)
    angles = b.angles(text.head_dim, dtype)
    places = _places(b, sizes) if b.decomposed else ""
    lengths = _lengths(b) if nbits and not b.decomposed else ()
    count = len(sizes.vision.deepstack)
    added = [b.op("Gather", "deep", "rows", axis=1)] if count else []
    if count > 1:
        added = b.op("Split", added[0], axis=0, num_outputs=count, outputs=count)
    for index in range(text.layers):
        b.scope(f"layer_{index}")
        x = _text_layer(b, sizes, index, f"{root}.layers.{index}", x, angles, places, lengths)
        if index < count:
            x = b.op("Add", x, b.op("Squeeze", added[index], b.integers(0)))
    b.scope("head")
    x = _rms_norm(b, b.op("Gather", x, "last"), f"{root}.norm.weight", text.hidden, text.norm_eps)
    head = f"{root}.embed_tokens" if text.tied else "lm_head", text.vocabulary, text.hidden
    if nbits:  # which compute in float32: a cast to what they are is a copy
        b.linear(x, *head, outputs=("logits",))
    else:
        b.op("Cast", b.linear(x, *head), to=TensorProto.FLOAT, outputs=("logits",))
    b.op("ArgMax", "logits", axis=-1, keepdims=0, outputs=("token",))
    if nbits:
        # ONNX Runtime's softmax is one pass over a row: 0.1 ms for a vocabulary of Qwen's, its ReduceLogSumExp 0.8.
        shares = b.op("Softmax", "logits", axis=-1)
        b.op("Log", b.op("ReduceMax", shares, b.integers(-1), keepdims=0), outputs=("logprob",))
    else:
        best = b.op("ReduceMax", "logits", b.integers(-1), keepdims=1)
        total = b.op("ReduceSum", b.op("Exp", b.op("Sub", "logits", best)), b.integers(-1), keepdims=0)
        b.op("Neg", b.op("Log", total), outputs=("logprob",))
    return b.model("decoder", *decoder_values(sizes, slots or "S"))


def _text_layer(
    b: Builder,
    sizes: Sizes,
    index: int,
    name: str,
    x: str,
    angles: tuple[str, str],
    places: str,
    lengths: tuple[str, ...],
) -> str:
    text = sizes.text
    hidden, head_dim = text.hidden, text.head_dim
    queries, pairs = text.heads * head_dim, text.kv_heads * head_dim
    n = _rms_norm(b, x, f"{name}.input_layernorm.weight", hidden, text.norm_eps)
    heads, counts = {}, (queries, pairs, pairs)
    made = b.linears(n, f"{name}.self_attn", ("q_proj", "k_proj", "v_proj"), counts, hidden)
    for part, rows, t in zip("qkv", counts, made):
        if part != "v":
            t = b.reshape(t, 1, -1, rows // head_dim, head_dim)
            t = _rms_norm(b, t, f"{name}.self_attn.{part}_norm.weight", head_dim, text.norm_eps)
        if lengths:  # tokens first and heads second, as the linears have it
            t = b.reshape(t, 1, -1, rows)
            heads[part] = t if part == "v" else b.rotate(t, *angles, heads=rows // head_dim)
        else:
            t = b.op("Transpose", b.reshape(t, 1, -1, rows // head_dim, head_dim), perm=(0, 2, 1, 3))
            heads[part] = t if part == "v" else b.rotate(t, *angles)
    if lengths:
        seen = b.attention_over_cache(*heads.values(), str(index), lengths, text.heads, text.kv_heads, head_dim)
    else:
        keys, values = (
            _written(b, f"{cache}_{index}", heads[part], places) for cache, part in (("keys", "k"), ("values", "v"))
        )
        seen = b.attention(heads["q"], keys, values, text.heads, text.kv_heads, head_dim, mask="mask")
    x = b.op("Add", x, b.linear(seen, f"{name}.self_attn.o_proj", hidden, queries))
    n = _rms_norm(b, x, f"{name}.post_attention_layernorm.weight", hidden, text.norm_eps)
    gate, up = b.linears(n, f"{name}.mlp", ("gate_proj", "up_proj"), (text.inner, text.inner), hidden)
    inner = b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up)
    return b.op("Add", x, b.linear(inner, f"{name}.mlp.down_proj", hidden, text.inner))


def _lengths(b: Builder) -> tuple[str, str]:
    """Tokens in the cache behind a pass, int32: less one, 1; and as they are, without dimensions."""
    total = b.op("Add", "write", b.op("Shape", "ids"))
    less, whole = (b.cast(t, "int64", "int32") for t in (b.op("Sub", total, b.integers(1)), total))
    return less, b.op("Squeeze", whole, b.integers(0))


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
