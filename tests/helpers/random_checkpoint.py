"""Checkpoints with random weights at small sizes, in the published layouts, as the export and its runtimes read them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import torch
from safetensors.torch import save_file

from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.export.networks import decoder_model, vision_model

IMAGE, VIDEO = 300, 301
# Attention heads and rotary sections as in the published sizes; the rest narrow, and few layers.
# hidden, layers, heads, kv heads, head dim, tied; vision hidden, heads; rotary sections
LAYOUTS = {
    "small": (96, 3, 4, 2, 16, True, 32, 2, [4, 2, 2]),
    "2B": (512, 2, 16, 8, 128, True, 256, 4, [24, 20, 20]),
    "8B": (576, 2, 32, 8, 128, False, 288, 4, [24, 20, 20]),
}


def config_of(layout: str) -> dict:
    hidden, layers, heads, kv_heads, head_dim, tied, vision, vision_heads, section = LAYOUTS[layout]
    return dict(
        architectures=["Qwen3VLForConditionalGeneration"],
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        tie_word_embeddings=tied,
        text_config=dict(
            vocab_size=320,
            hidden_size=hidden,
            intermediate_size=160,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            rope_theta=5000000,
            rope_scaling=dict(mrope_section=section, mrope_interleaved=True, rope_type="default"),
        ),
        vision_config=dict(
            depth=3,
            hidden_size=vision,
            intermediate_size=144,
            num_heads=vision_heads,
            in_channels=3,
            patch_size=16,
            temporal_patch_size=2,
            spatial_merge_size=2,
            out_hidden_size=hidden,
            num_position_embeddings=64,
            hidden_act="gelu_pytorch_tanh",
            deepstack_visual_indexes=[0, 2],
        ),
    )


class Names:
    """In the place of the export's Weights: notes every weight that a network has."""

    def __init__(self):
        self.shapes: dict[str, tuple[int, ...]] = {}

    def tensor(self, name, shape):
        self.shapes[name] = tuple(shape)
        return onnx.TensorProto(name=name), "float32"


def write_checkpoint(directory: Path, layout: str, stored=torch.float16, files: int = 1) -> Checkpoint:
    """Random weights under their published names; activations keep the size of one, every norm and bias counts."""
    directory.mkdir(parents=True, exist_ok=True)
    config, names = config_of(layout), Names()
    (directory / "config.json").write_text(json.dumps(config))
    for build in (vision_model, decoder_model):
        build(Sizes.read(config), names, "float32", "attention")
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in names.shapes.items():
        weight = torch.empty(shape).uniform_(-1, 1, generator=generator)
        if len(shape) == 1:
            weight = 0.2 * weight + float(name.endswith("weight"))
        else:
            weight *= 0.3 if "embed" in name and "patch" not in name else 2 * shape[1] ** -0.5
        weights[name] = weight.to(stored)
    paths = [
        directory / (f"model-{i}-of-{files}.safetensors" if files > 1 else "model.safetensors") for i in range(files)
    ]
    for index, path in enumerate(paths):
        save_file({name: weights[name] for name in sorted(weights)[index::files]}, path)
    return Checkpoint(
        directory, config, config["architectures"][0], tuple(paths), sum(w.numel() for w in weights.values()), ""
    )
