"""The embedded Qwen3-VL: its size, its files, and a batched forward pass for training.

The network is `transformers`' own Qwen3VLForConditionalGeneration; only the order of computation differs here: all
images of a batch have one size, so that vision attention runs batched, and several question-answer pairs share one
image prefix. `tests/core/test_embedded.py` holds this pass to the official one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

PATCH, MERGE, TEMPORAL = 16, 2, 2
VOCABULARY = 1280  # the tokenizer's size, rounded up
POINTING_LAYERS = (1, 2)  # after the DeepStack features are in, before the last layer that says the digits


def config(special: dict[str, int]) -> Qwen3VLConfig:
    """special: ids of the special tokens, by their Qwen names."""
    return Qwen3VLConfig(
        text_config=dict(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=5,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=4096,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            rope_parameters=dict(
                rope_type="default", rope_theta=10000.0, mrope_section=[6, 5, 5], mrope_interleaved=True
            ),
            bos_token_id=special["<|endoftext|>"],
            eos_token_id=special["<|im_end|>"],
            pad_token_id=special["<|endoftext|>"],
        ),
        vision_config=dict(
            depth=8,
            hidden_size=192,
            intermediate_size=576,
            num_heads=6,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=TEMPORAL,
            out_hidden_size=256,
            num_position_embeddings=400,
            deepstack_visual_indexes=[1, 3],
            hidden_act="gelu_pytorch_tanh",
        ),
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(special: dict[str, int], seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """A fresh network. Position embeddings start as 2D sin-cos of amplitude 0.5: from noise it hardly learns places."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config(special))
    table = model.model.visual.pos_embed.weight
    side, width = int(len(table) ** 0.5), table.shape[1]
    rates = torch.exp(torch.linspace(0, np.log(30.0), width // 4)) * np.pi
    place = torch.arange(side) / side
    waves = torch.cat([torch.sin(place[:, None] * rates), torch.cos(place[:, None] * rates)], 1)
    with torch.no_grad():
        table.copy_(0.5 * torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], 1))
    return model


class Batched(nn.Module):
    """The forward pass over B images of one size (width, height in pixels) and packed questions."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, size_px: tuple[int, int]):
        super().__init__()
        self.model = model
        columns, rows = size_px[0] // PATCH, size_px[1] // PATCH
        self.grid = rows // MERGE, columns // MERGE  # of merged tokens
        visual = model.model.visual
        # Patches stand in blocks of MERGE x MERGE, as the processor orders them.
        order = (
            np.arange(rows * columns)
            .reshape(rows // MERGE, MERGE, columns // MERGE, MERGE)
            .transpose(0, 2, 1, 3)
            .ravel()
        )
        places = torch.tensor(np.stack([order // columns, order % columns]))
        freqs = places[..., None].float() * visual.rotary_pos_emb.inv_freq
        angles = torch.cat([freqs[0], freqs[1]], -1)
        angles = torch.cat([angles, angles], -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        side = visual.num_grid_per_side
        self.register_buffer("resample", _bilinear(rows, columns, side)[order], persistent=False)

    @property
    def visual_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def see(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """B,H,W,3 uint8 -> merged features B,N,D and the DeepStack features, each B,N,D."""
        visual = self.model.model.visual
        b, h, w, _ = images.shape
        x = images.to(self.cos.dtype) / 127.5 - 1.0
        x = x.view(b, h // 32, 2, 16, w // 32, 2, 16, 3).permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(b, -1, 3 * 256)
        kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)  # both frames of a still image are the same
        x = F.linear(x, kernel, visual.patch_embed.proj.bias) + self.resample @ visual.pos_embed.weight
        deep = []
        for i, block in enumerate(visual.blocks):
            y = block.norm1(x)
            q, k, v = block.attn.qkv(y).view(b, x.shape[1], 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k = _rotate(q, self.cos, self.sin), _rotate(k, self.cos, self.sin)
            y = _attend(q, k, v).transpose(1, 2).reshape(x.shape)
            x = x + block.attn.proj(y)
            x = x + block.mlp(block.norm2(x))
            if i in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(i)]
                deep.append(merger(x).view(b, self.visual_tokens, -1))
        return visual.merger(x).view(b, self.visual_tokens, -1), deep

    def read(
        self, merged, deep, ids, positions, mask, visual: slice | torch.Tensor, looks: list | None = None
    ) -> torch.Tensor:
        """Hidden states B,T,D after the last norm.

        ids B,T with image slots at `visual`, a slice or, for several images, indices; merged and deep have as many tokens;
        positions 3,B,T; mask B,1,T,T additive, or Windows. looks: if given, filled for each of
        POINTING_LAYERS with where its first heads look, log-shares over the image's tokens, B,heads,T,N; and what the
        layer leaves, B,T,D.
        """
        text = self.model.model.language_model
        x = text.embed_tokens(ids)
        if isinstance(visual, slice):
            visual = torch.arange(visual.start, visual.stop, device=ids.device)
        x = x.index_copy(1, visual, merged.to(x.dtype))
        cos, sin = (t[:, None].to(x.dtype) for t in text.rotary_emb(x.float(), positions))
        b, t, _ = x.shape
        for i, layer in enumerate(text.layers):
            att = layer.self_attn
            y = layer.input_layernorm(x)
            q = att.q_norm(att.q_proj(y).view(b, t, -1, att.head_dim)).transpose(1, 2)
            k = att.k_norm(att.k_proj(y).view(b, t, -1, att.head_dim)).transpose(1, 2)
            v = att.v_proj(y).view(b, t, -1, att.head_dim).transpose(1, 2)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            groups = q.shape[1] // k.shape[1]
            if looks is not None and i in POINTING_LAYERS:  # the first head of each key group
                look = (q[:, ::groups].float() @ k[:, :, visual].float().transpose(-1, -2) * att.scaling).log_softmax(
                    -1
                )
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            y = mask.attend(q, k, v) if isinstance(mask, Windows) else _attend(q, k, v, mask)
            x = x + att.o_proj(y.transpose(1, 2).reshape(b, t, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if looks is not None and i in POINTING_LAYERS:
                looks.append((look, x))
            if i < len(deep):
                x = x.index_add(1, visual, deep[i].to(x.dtype))
        return text.norm(x)


class Compiled:
    """A network whose two passes are compiled, for batches that always have the same shape: on a CPU with AMX, where products
    cost little, most of a step goes into what stands between them; compiled it takes two thirds of the time."""

    def __init__(self, net: Batched):
        self.model, self.grid, self.visual_tokens = net.model, net.grid, net.visual_tokens
        self.see, self.read = torch.compile(net.see, dynamic=False), torch.compile(net.read, dynamic=False)


class Windows:
    """Who sees whom in a prefix that is followed by windows of one width, none of which sees another.

    segments: B,T of text.PackedText.pack. Most pairs of a packed sequence see nothing of each other: leaving them out halves the
    time that attention takes on a CPU.
    """

    def __init__(self, segments: torch.Tensor, prefix: int, width: int, alone: int):
        self.prefix, self.width = prefix, width
        b, t = segments.shape
        shape = b, 1, (t - prefix) // width, width
        own = segments[:, prefix:].reshape(b, -1, width)
        within = (own[..., None, :] == own[..., None]) & torch.ones(
            width, width, dtype=torch.bool, device=own.device
        ).tril()
        self.own = _additive(within)[:, None]  # B,1,n,W,W
        self.sees = _additive((own < alone) & (own > 0)).view(*shape, 1)
        self.before = _additive(torch.ones(prefix, prefix, dtype=torch.bool, device=own.device).tril())

    def attend(self, q, k, v) -> torch.Tensor:
        """B,H,T,D each -> B,H,T,D."""
        q, k, p = q.to(v.dtype), k.to(v.dtype), self.prefix
        b, h, t, d = v.shape
        first = _attend(q[:, :, :p], k[:, :, :p], v[:, :, :p], self.before)
        q, scale = q[:, :, p:], d**-0.5
        inside = [x[:, :, p:].reshape(b, h, -1, self.width, d) for x in (k, v)]
        own = (q * scale).reshape(b, h, -1, self.width, d) @ inside[0].transpose(-1, -2) + self.own.to(v.dtype)
        back = ((q * scale) @ k[:, :, :p].transpose(-1, -2)).view(b, h, -1, self.width, p) + self.sees.to(v.dtype)
        shares = torch.cat([back, own], -1).softmax(-1, dtype=v.dtype)
        rest = (shares[..., p:] @ inside[1]).view(b, h, -1, d) + shares[..., :p].reshape(b, h, -1, p) @ v[:, :, :p]
        return torch.cat([first, rest], 2)


def _additive(allowed: torch.Tensor) -> torch.Tensor:
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, -1e4)


def _attend(q, k, v, mask=None) -> torch.Tensor:
    """Two plain products in bfloat16 on a CPU, whose fused kernel takes half as long again at heads this small."""
    mask = None if mask is None else mask.to(v.dtype)
    q, k = q.to(v.dtype), k.to(v.dtype)
    if v.device.type != "cpu" or v.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    shares = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (shares if mask is None else shares + mask).softmax(-1, dtype=v.dtype) @ v


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return (x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin).to(x.dtype)


def _bilinear(rows: int, columns: int, side: int) -> torch.Tensor:
    """rows*columns x side*side weights that resample the square position table, corners aligned."""

    def axis(n: int) -> torch.Tensor:
        at = torch.linspace(0, side - 1, n)
        low = at.floor().long().clamp(max=side - 1)
        high = (low + 1).clamp(max=side - 1)
        weights = torch.zeros(n, side)
        weights[torch.arange(n), low] += 1 - (at - low)
        weights[torch.arange(n), high] += at - low
        return weights

    return torch.einsum("ai,bj->abij", axis(rows), axis(columns)).reshape(rows * columns, side * side)
