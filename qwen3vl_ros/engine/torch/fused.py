"""A step of one token in six kernels a layer, written in Triton, where `network.py` takes twenty-two.

At batch 1 a GPU waits for memory, and between kernels for nothing at all: so each matrix is read once, by a kernel that
also does what stands before it (norm) and behind it (gate, residual), and attention is split over the cache, because the
key heads alone would leave most of the GPU idle. Sums are in float32. What it computes is what `Decoder` computes; a step
of several tokens stays there. Knows no graphs and no sequence.

Source of the split attention: Flash-Decoding (Dao et al. 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
import triton.language.extra.cuda as tl_cuda
from torch import Tensor

from qwen3vl_ros.engine.torch.network import Cache, Decoder
from qwen3vl_ros.types import EngineError

_SPLITS = 16  # of the span: 8 key heads make 128 blocks, about one for each multiprocessor of a large GPU
_SLOTS = 32  # that a block of attention looks at at once
_WORDS = 1024  # of the vocabulary, in one block's search for the best


class Tile(NamedTuple):
    """How a block reads a matrix: rows it makes, columns at once, warps, and how many reads are under way (1: one)."""

    rows: int
    columns: int
    warps: int
    stages: int = 1


# The first is taken where nothing can be measured.
_TILES = (
    Tile(4, 512, 4),
    Tile(2, 1024, 4),
    Tile(1, 2048, 4),
    Tile(4, 512, 4, 4),
    Tile(2, 1024, 4, 4),
    Tile(8, 512, 8, 3),
)


@triton.jit
def _begin(OVERLAP: tl.constexpr):
    """With OVERLAP (programmatic dependent launch) the next kernel may be started from here on, and this one waits for the one
    before only here: between kernels the GPU does not run dry."""
    if OVERLAP:
        tl_cuda.gdc_launch_dependents()
        tl_cuda.gdc_wait()


@triton.jit
def _project(
    x,
    norm,
    weight,
    residual,
    out,
    N,
    eps,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    NORMED: tl.constexpr,
    GATED: tl.constexpr,
    ADDED: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """out[n] = weight[n] . x. NORMED: of the RMS norm of x; GATED: silu of it, times row N + n; ADDED: plus residual[n]."""
    _begin(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    up = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for first in tl.range(0, K, COLUMNS, num_stages=STAGES):
        at = first + column
        inside = at < K
        place = row[:, None] * K + at[None, :]
        there = (row[:, None] < N) & inside[None, :]
        w = tl.load(weight + place, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32)
        if GATED:
            u = tl.load(weight + N * K + place, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if NORMED:
            # The norm's scale is one number for all columns: it can come behind the sum.
            squares += value * value
            value *= tl.load(norm + at, mask=inside, other=0.0).to(tl.float32)
        total += w * value[None, :]
        if GATED:
            up += u * value[None, :]
    result = tl.sum(total, 1)
    scale = 1.0
    if NORMED:
        scale = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        result *= scale
    if GATED:
        result = result / (1.0 + tl.exp(-result)) * (tl.sum(up, 1) * scale)
    if ADDED:
        result += tl.load(residual + row, mask=row < N, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=row < N)


@triton.jit
def _turned(vector, norm, inputs, eps, there, D: tl.constexpr):
    """Rows of D numbers behind `vector`, normed and turned by the angles in `inputs`, rounded as the cache is."""
    d = tl.arange(0, D)
    partner = (d + D // 2) % D
    cos = tl.load(inputs + 2 + d).to(tl.float32)
    sin = tl.load(inputs + 2 + D + d).to(tl.float32) * tl.where(d < D // 2, -1.0, 1.0)
    own = tl.load(vector + d[None, :], mask=there, other=0.0).to(tl.float32)
    other = tl.load(vector + partner[None, :], mask=there, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(own * own, 1) / D + eps)[:, None]
    own *= scale * tl.load(norm + d).to(tl.float32)[None, :]
    other *= scale * tl.load(norm + partner).to(tl.float32)[None, :]
    return own * cos[None, :] + other * sin[None, :]


@triton.jit
def _attend(
    qkv,
    inputs,
    q_norm,
    k_norm,
    keys,
    values,
    parts,
    sums,
    slots,
    share,
    eps,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    SLOTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One key head and one part of the span: `share` slots. The block whose part has the token's own slot writes the cache."""
    _begin(OVERLAP)
    head, split = tl.program_id(0), tl.program_id(1)
    kind: tl.constexpr = keys.dtype.element_ty
    slot = tl.load(inputs + 1).to(tl.int32)
    d, g = tl.arange(0, D), tl.arange(0, 16)  # a product of matrices has at least sixteen rows
    mine = (g < GROUP)[:, None]
    q = _turned(qkv + (head * GROUP + g)[:, None] * D, q_norm, inputs, eps, mine, D).to(kind)
    one = tl.arange(0, 1)
    new_key = _turned(qkv + (HEADS + head + one)[:, None] * D, k_norm, inputs, eps, (one < 1)[:, None], D).to(kind)
    new_value = tl.load(qkv + (HEADS + PAIRS + head + one)[:, None] * D + d[None, :])
    first = split * share
    keys += head * slots * D
    values += head * slots * D
    if (first <= slot) & (slot < first + share):
        tl.store(keys + (slot + one)[:, None] * D + d[None, :], new_key)
        tl.store(values + (slot + one)[:, None] * D + d[None, :], new_value)
    top = tl.full([16], -1e30, tl.float32)
    total = tl.zeros([16], tl.float32)
    seen = tl.zeros([16, D], tl.float32)
    for begin in range(first, tl.minimum(first + share, slot + 1), SLOTS):
        at = begin + tl.arange(0, SLOTS)
        before, own = (at < slot)[:, None], (at == slot)[:, None]
        k = tl.load(keys + at[:, None] * D + d[None, :], mask=before, other=0.0)
        v = tl.load(values + at[:, None] * D + d[None, :], mask=before, other=0.0)
        k, v = tl.where(own, new_key, k), tl.where(own, new_value, v)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * (D**-0.5)
        score = tl.where((at <= slot)[None, :], score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        fade = tl.exp(top - higher)
        total = total * fade + tl.sum(weight, 1)
        seen = seen * fade[:, None] + tl.dot(weight.to(kind), v, input_precision="ieee")
        top = higher
    place = (head * GROUP + g) * SPLITS + split
    tl.store(parts + place[:, None] * D + d[None, :], seen, mask=mine)
    tl.store(sums + 2 * place, top, mask=g < GROUP)
    tl.store(sums + 2 * place + 1, total, mask=g < GROUP)


@triton.jit
def _join(parts, sums, out, D: tl.constexpr, SPLITS: tl.constexpr, OVERLAP: tl.constexpr):
    """The parts of one head's attention, weighted."""
    _begin(OVERLAP)
    head, d, s = tl.program_id(0), tl.arange(0, D), tl.arange(0, SPLITS)
    place = head * SPLITS + s
    top = tl.load(sums + 2 * place)
    weight = tl.exp(top - tl.max(top, 0))
    total = tl.sum(tl.load(sums + 2 * place + 1) * weight, 0)
    seen = tl.sum(tl.load(parts + place[:, None] * D + d[None, :]) * weight[:, None], 0) / total
    tl.store(out + head * D + d, seen.to(out.dtype.element_ty))


@triton.jit
def _search(logits, parts, N, WORDS: tl.constexpr, OVERLAP: tl.constexpr):
    """Of one part of the vocabulary: the largest logit, whose it is, and the sum of exponentials relative to it."""
    _begin(OVERLAP)
    at = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    logit = tl.load(logits + at, mask=at < N, other=-1e30).to(tl.float32)
    top = tl.max(logit, 0)
    part = parts + 3 * tl.program_id(0)
    tl.store(part, top)
    tl.store(part + 1, (tl.program_id(0) * WORDS + tl.argmax(logit, 0)).to(tl.float32))
    tl.store(part + 2, tl.sum(tl.exp(logit - top), 0))


@triton.jit
def _choose(parts, best, count, PARTS: tl.constexpr, OVERLAP: tl.constexpr):
    """The best of all parts, and its log-probability."""
    _begin(OVERLAP)
    at = tl.arange(0, PARTS)
    top = tl.load(parts + 3 * at, mask=at < count, other=-1e30)
    token = tl.load(parts + 3 * at + 1, mask=at < count, other=0.0)
    total = tl.load(parts + 3 * at + 2, mask=at < count, other=0.0)
    whole = tl.max(top, 0)
    tl.store(best, tl.max(tl.where(at == tl.argmax(top, 0), token, 0.0), 0).to(tl.float64))
    tl.store(best + 1, -tl.log(tl.sum(total * tl.exp(top - whole), 0)).to(tl.float64))


class FusedStep:
    """One token through a decoder. Tiles are chosen by measurement when it is made, on the GPU's own memory.

    overlap: kernels begin while those before end, on a GPU that can (compute capability 9.0). tiles: those of another one of
    the same model, which are not measured again.
    Raises EngineError for sizes that it does not compute.
    """

    def __init__(self, text: Decoder, overlap: bool = False, tiles: dict[torch.Size, Tile] | None = None):
        sizes = text.sizes
        group = sizes.heads // sizes.kv_heads
        if sizes.head_dim not in (16, 32, 64, 128, 256) or group > 16:
            raise EngineError(f"no fused step has heads of {sizes.head_dim} numbers, {group} to a key head")
        self._text, self.tiles = text, {} if tiles is None else tiles
        self._launch = {"OVERLAP": True, "launch_pdl": True} if overlap else {"OVERLAP": False}
        layer, head = text.layers[0], text.embedding if text.head is None else text.head
        self._head = head.weight
        if self._head.is_cuda and not self.tiles:
            for weight, gated in (
                (layer.qkv.weight, False),
                (layer.out.weight, False),
                (layer.gate_up.weight, True),
                (layer.down.weight, False),
                (self._head, False),
            ):
                self.tiles[weight.shape] = self._fastest(weight, gated)

    def __call__(self, inputs: Tensor, cache: Cache, span: int) -> tuple[Tensor, Tensor]:
        """Logits, 1 x vocabulary, and 2 x 1: the best id and its log-probability, as float64.

        inputs: 1 x (2 + 2 head_dim) float64: id, slot, cosines, sines. span: slots to look at, beyond the token's own.
        """
        text, sizes = self._text, self._text.sizes
        new = self._head.new_empty
        qkv = new((sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim)
        attended, inner = new(sizes.heads * sizes.head_dim), new(sizes.inner)
        parts = new(sizes.heads * _SPLITS * sizes.head_dim, dtype=torch.float32)
        sums = new(sizes.heads * _SPLITS * 2, dtype=torch.float32)
        share = -(-span // (_SPLITS * _SLOTS)) * _SLOTS
        x = text.embedding(inputs[0, :1].long())[0]
        for layer, keys, values in zip(text.layers, cache.keys, cache.values):
            self._run(qkv, x, layer.qkv.weight, norm=layer.norm1.weight)
            _attend[sizes.kv_heads, _SPLITS](
                qkv,
                inputs,
                layer.q_norm.weight,
                layer.k_norm.weight,
                keys,
                values,
                parts,
                sums,
                keys.shape[1],
                share,
                sizes.norm_eps,
                HEADS=sizes.heads,
                PAIRS=sizes.kv_heads,
                GROUP=sizes.heads // sizes.kv_heads,
                D=sizes.head_dim,
                SPLITS=_SPLITS,
                SLOTS=_SLOTS,
                num_stages=2,  # more would not fit a small GPU in float32
                **self._launch,
            )
            _join[(sizes.heads,)](parts, sums, attended, D=sizes.head_dim, SPLITS=_SPLITS, **self._launch)
            y = self._run(new(sizes.hidden), attended, layer.out.weight, residual=x)
            self._run(inner, y, layer.gate_up.weight, norm=layer.norm2.weight, gated=True)
            x = self._run(new(sizes.hidden), inner, layer.down.weight, residual=y)
        logits = self._run(new(1, sizes.vocabulary), x, self._head, norm=text.norm.weight)
        count = triton.cdiv(sizes.vocabulary, _WORDS)
        parts, best = new(3 * count, dtype=torch.float32), new(2, 1, dtype=torch.float64)
        _search[(count,)](logits, parts, sizes.vocabulary, WORDS=_WORDS, **self._launch)
        _choose[(1,)](parts, best, count, PARTS=triton.next_power_of_2(count), **self._launch)
        return logits, best

    def _run(
        self,
        out: Tensor,
        x: Tensor,
        weight: Tensor,
        *,
        norm: Tensor | None = None,
        residual: Tensor | None = None,
        gated: bool = False,
        tile: Tile | None = None,
    ) -> Tensor:
        tile = tile or self.tiles.get(weight.shape, _TILES[0])
        _project[(triton.cdiv(out.numel(), tile.rows),)](
            x,
            x if norm is None else norm,
            weight,
            x if residual is None else residual,
            out,
            out.numel(),
            self._text.sizes.norm_eps,
            K=weight.shape[1],
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            STAGES=tile.stages,
            NORMED=norm is not None,
            GATED=gated,
            ADDED=residual is not None,
            **self._launch,
            num_warps=tile.warps,
        )
        return out

    def _fastest(self, weight: Tensor, gated: bool) -> Tile:
        x = torch.ones(weight.shape[1], device=weight.device, dtype=weight.dtype)
        out = x.new_empty(weight.shape[0] // (2 if gated else 1))
        times = {}
        for tile in _TILES:
            try:
                times[tile] = triton.testing.do_bench(
                    lambda tile=tile: self._run(out, x, weight, gated=gated, tile=tile), warmup=2, rep=10
                )
            except triton.runtime.errors.OutOfResources:  # a small GPU
                continue
        return min(times, key=times.get, default=_TILES[0])
