"""Qwen3-VL in PyTorch, written once and to be read: the vision tower, the decoder, and how their weights are loaded.

Top to bottom: the vision tower, the decoder with its key-value cache, the whole (`Network`),
loading. One sequence at a time, so no batch dimension anywhere: N patches, V visual tokens, Q tokens of this pass,
S cache slots.

Source: Qwen3-VL technical report (arXiv 2511.21631) and the published dense checkpoints, 2B to 32B; `transformers` is
the reference its tests compare with and is not imported. Knows no pixels, no text and no answers.
"""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.network.plans import VisionPlan
from qwen3vl_ros.engine.network.sizes import Sizes, TextSizes, VisionSizes
from qwen3vl_ros.types import WrongModel

# -- vision ----------------------------------------------------------------------------------------------------------


class Features(NamedTuple):
    """What the vision tower saw. merged: V x hidden. deep: one V x hidden for each of the first decoder layers."""

    merged: Tensor
    deep: tuple[Tensor, ...]


def on_device(plan: VisionPlan, device: torch.device) -> VisionPlan:
    """The plan with tensors for arrays."""
    return VisionPlan(*(torch.from_numpy(array).to(device) for array in plan[:4]), plan.lengths)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: dimension i turns together with i + half."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class VisionBlock(nn.Module):
    def __init__(self, sizes: VisionSizes):
        super().__init__()
        self.heads = sizes.heads
        self.norm1 = nn.LayerNorm(sizes.hidden, eps=1e-6)
        self.qkv = nn.Linear(sizes.hidden, 3 * sizes.hidden)
        self.proj = nn.Linear(sizes.hidden, sizes.hidden)
        self.norm2 = nn.LayerNorm(sizes.hidden, eps=1e-6)
        self.fc1 = nn.Linear(sizes.hidden, sizes.inner)
        self.fc2 = nn.Linear(sizes.inner, sizes.hidden)

    def forward(self, x: Tensor, plan: VisionPlan) -> Tensor:
        x = x + self.proj(self._attend(self.norm1(x), plan))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))

    def _attend(self, x: Tensor, plan: VisionPlan) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        # Angles of far patches need more digits than half precision has.
        q, k = (_rotate(t.float(), plan.cos, plan.sin).to(x.dtype) for t in (q, k))
        frames = zip(*(t[None].split(plan.lengths, dim=2) for t in (q, k, v)))
        seen = torch.cat([F.scaled_dot_product_attention(*frame) for frame in frames], 2)
        return seen[0].transpose(0, 1).reshape(x.shape)


class Merger(nn.Module):
    """merge x merge neighbouring patches -> one visual token of the decoder's size."""

    def __init__(self, sizes: VisionSizes, norm_after_merging: bool):
        super().__init__()
        self.merged = sizes.hidden * sizes.merge**2
        self.norm = nn.LayerNorm(self.merged if norm_after_merging else sizes.hidden, eps=1e-6)
        self.fc1 = nn.Linear(self.merged, self.merged)
        self.fc2 = nn.Linear(self.merged, sizes.out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.reshape(-1, *self.norm.normalized_shape)).reshape(-1, self.merged)
        return self.fc2(F.gelu(self.fc1(x)))


class VisionTower(nn.Module):
    def __init__(self, sizes: VisionSizes):
        super().__init__()
        self.sizes = sizes
        self.patch = nn.Linear(sizes.patch_values, sizes.hidden)
        self.places = nn.Embedding(sizes.table_side**2, sizes.hidden)
        self.blocks = nn.ModuleList(VisionBlock(sizes) for _ in range(sizes.depth))
        self.merger = Merger(sizes, norm_after_merging=False)
        self.deep_mergers = nn.ModuleList(Merger(sizes, norm_after_merging=True) for _ in sizes.deepstack)

    def forward(self, patches: Tensor, plan: VisionPlan, between: Callable[[], None] = lambda: None) -> Features:
        """patches: N x patch_values. `between` is called before each block and may raise."""
        x = self.patch(patches)
        # The table's values are mixed in float32, as the reference does.
        x = x + (self.places(plan.corners) * plan.weights[..., None]).sum(1).to(x.dtype)
        deep = {}
        for index, block in enumerate(self.blocks):
            between()
            x = block(x, plan)
            if index in self.sizes.deepstack:
                which = self.sizes.deepstack.index(index)
                deep[which] = self.deep_mergers[which](x)
        return Features(self.merger(x), tuple(deep[which] for which in sorted(deep)))


# -- text ------------------------------------------------------------------------------------------------------------


class Cache(NamedTuple):
    """Keys and values of one sequence, each layers x kv_heads x S x head_dim, allocated once and written in place."""

    keys: Tensor
    values: Tensor

    @staticmethod
    def allocate(sizes: TextSizes, slots: int, device: torch.device, dtype: torch.dtype) -> Cache:
        shape = (sizes.layers, sizes.kv_heads, slots, sizes.head_dim)
        return Cache(*(torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)))


class TextPlan(NamedTuple):
    """What all layers of one pass share.

    cos, turned: Q x 1 x head_dim; turned is the sine, negative in its first half, so that a rotation is a roll and two products.
    slots: Q, where in the cache this pass writes. span: how many slots it looks at. mask: Q * heads / kv_heads x span, added to the
    scores, a row for each query of the heads that share a key (None: all are seen, or, if causal, query i sees slots 0 to i).
    """

    cos: Tensor
    turned: Tensor
    slots: Tensor
    span: int
    mask: Tensor | None
    causal: bool


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class TextLayer(nn.Module):
    def __init__(self, sizes: TextSizes):
        super().__init__()
        self.sizes = sizes
        queries, pairs = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        self.norm1 = RmsNorm(sizes.hidden, sizes.norm_eps)
        # One matrix each for what reads the same input: decoding at batch 1 waits for kernels and memory only.
        self.qkv = nn.Linear(sizes.hidden, queries + 2 * pairs, bias=False)
        self.q_norm = RmsNorm(sizes.head_dim, sizes.norm_eps)
        self.k_norm = RmsNorm(sizes.head_dim, sizes.norm_eps)
        self.out = nn.Linear(queries, sizes.hidden, bias=False)
        self.norm2 = RmsNorm(sizes.hidden, sizes.norm_eps)
        self.gate_up = nn.Linear(sizes.hidden, 2 * sizes.inner, bias=False)
        self.down = nn.Linear(sizes.inner, sizes.hidden, bias=False)

    def forward(self, x: Tensor, plan: TextPlan, keys: Tensor, values: Tensor) -> Tensor:
        x = x + self.out(self._attend(self.norm1(x), plan, keys, values))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def _attend(self, x: Tensor, plan: TextPlan, keys: Tensor, values: Tensor) -> Tensor:
        s, q_count = self.sizes, len(x)
        q, k, v = self.qkv(x).view(q_count, -1, s.head_dim).split((s.heads, s.kv_heads, s.kv_heads), 1)
        q, k = (
            torch.addcmul(y * plan.cos, y.roll(s.head_dim // 2, -1), plan.turned)
            for y in (self.q_norm(q), self.k_norm(k))
        )
        keys.index_copy_(1, plan.slots, k.transpose(0, 1))
        values.index_copy_(1, plan.slots, v.transpose(0, 1))
        k, v = keys[None, :, : plan.span], values[None, :, : plan.span]
        if plan.causal:
            seen = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None], k, v, is_causal=True, enable_gqa=s.heads != s.kv_heads
            )
            return seen[0].transpose(0, 1).reshape(q_count, -1)
        # Heads that share a key stand as queries of one head: no kernel takes both a mask and shared keys.
        q = q.reshape(q_count, s.kv_heads, -1, s.head_dim).transpose(0, 1).reshape(1, s.kv_heads, -1, s.head_dim)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=plan.mask)
        # Each of torch's attention kernels lays its result out in an order of its own: a view would hold for some.
        return seen.reshape(s.kv_heads, q_count, -1).transpose(0, 1).reshape(q_count, -1)


class Decoder(nn.Module):
    def __init__(self, sizes: TextSizes):
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.layers = nn.ModuleList(TextLayer(sizes) for _ in range(sizes.layers))
        self.norm = RmsNorm(sizes.hidden, sizes.norm_eps)
        self.head = None if sizes.tied else nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)

    def plan(
        self, cos: Tensor, sin: Tensor, slots: Tensor, span: int, *, whole: bool = False, causal: bool = False
    ) -> TextPlan:
        """cos, sin: of plans.rotary_angles. whole: every query sees the whole span; causal: the cache was empty."""
        dtype, sizes, mask = self.norm.weight.dtype, self.sizes, None
        if not whole and not causal:
            hidden = (
                torch.arange(span, device=slots.device)
                > slots.repeat_interleave(sizes.heads // sizes.kv_heads)[:, None]
            )
            mask = torch.zeros(hidden.shape, dtype=dtype, device=slots.device).masked_fill(hidden, -torch.inf)
        first, second = sin[:, None].to(dtype).chunk(2, -1)
        return TextPlan(cos[:, None].to(dtype), torch.cat((-first, second), -1), slots, span, mask, causal)

    def forward(
        self,
        ids: Tensor,
        plan: TextPlan,
        cache: Cache,
        *,
        keep: int = 1,
        visual: Tensor | None = None,
        features: Features | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Logits, keep x vocabulary, of the last `keep` of the Q tokens `ids`; the cache takes keys and values of all.

        visual: indices into `ids` where the visual tokens stand, in the order of `features`.
        """
        x = self.embedding(ids)
        if features is not None:
            x = x.index_copy(0, visual, features.merged)
        for index, layer in enumerate(self.layers):
            between()
            x = layer(x, plan, cache.keys[index], cache.values[index])
            if features is not None and index < len(features.deep):
                x = x.index_add(0, visual, features.deep[index])
        head = self.embedding if self.head is None else self.head
        return F.linear(self.norm(x[len(x) - keep :]), head.weight)


# -- the whole, and its weights --------------------------------------------------------------------------------------


class Network(nn.Module):
    """Vision tower and decoder with the weights of one checkpoint."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.vision = VisionTower(sizes.vision)
        self.text = Decoder(sizes.text)

    @staticmethod
    def load(checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype) -> Network:
        """Read the safetensors weight by weight; no more memory than the network and one tensor.

        Raises WrongModel if a weight is missing, has another shape, or has no place in the network.
        """
        with torch.device("meta"):
            network = Network(Sizes.read(checkpoint.config))
        network.to(dtype).to_empty(device=device)
        own, filled = dict(network.named_parameters()), {}
        for name, weight in _weights(checkpoint):
            target, part = _place(name, network.sizes.text)
            if target == "text.head.weight" and network.sizes.text.tied:
                continue  # some files hold the tied table twice
            if target not in own:
                raise WrongModel(
                    f"{checkpoint.path}: weight {name} has no place in the network that config.json "
                    "describes; copy both from the same model"
                )
            room = own[target].data if part is None else own[target].data[part]
            if weight.numel() != room.numel() or weight.shape[0] != room.shape[0]:
                raise WrongModel(
                    f"{checkpoint.path}: weight {name} is {tuple(weight.shape)} and config.json asks for "
                    f"{tuple(room.shape)}; copy both from the same model"
                )
            room.copy_(weight.reshape(room.shape))
            filled[target] = filled.get(target, 0) + room.numel()
        missing = sorted(n for n, p in own.items() if filled.get(n, 0) != p.numel())
        if missing:
            raise WrongModel(
                f"{checkpoint.path}: {len(missing)} weights are missing or incomplete ({missing[0]}, …); "
                "finish the download, or copy config.json and weights from the same model"
            )
        return network.eval().requires_grad_(False)


_RENAMED = (
    ("model.visual.patch_embed.proj.", "vision.patch."),
    ("model.visual.pos_embed.", "vision.places."),
    ("model.visual.deepstack_merger_list.", "vision.deep_mergers."),
    ("model.visual.", "vision."),
    ("model.language_model.embed_tokens.", "text.embedding."),
    ("model.language_model.", "text."),
    ("lm_head.", "text.head."),
    (".linear_fc", ".fc"),
    (".attn.", "."),
    (".mlp.", "."),
    (".self_attn.", "."),
    (".input_layernorm.", ".norm1."),
    (".post_attention_layernorm.", ".norm2."),
    (".o_proj.", ".out."),
    (".down_proj.", ".down."),
)


def _place(name: str, sizes: TextSizes) -> tuple[str, slice | None]:
    """The parameter a published weight goes to, and which of its rows (None: all)."""
    queries, pairs = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    rows = {
        "q_proj": ("qkv", 0, queries),
        "k_proj": ("qkv", queries, pairs),
        "v_proj": ("qkv", queries + pairs, pairs),
        "gate_proj": ("gate_up", 0, sizes.inner),
        "up_proj": ("gate_up", sizes.inner, sizes.inner),
    }
    for published, ours in _RENAMED:
        name = name.replace(published, ours)
    for published, (ours, first, count) in rows.items():
        if f".{published}." in name:
            return name.replace(published, ours), slice(first, first + count)
    return name, None


def _weights(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in checkpoint.weight_files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name)
