"""Checkpoints of the published sizes with random weights: for timing, where the weights' values do not matter.

Knows the published configurations and nothing of runtimes; the tokenizer and the chat template are the embedded
model's, so its answers have no sense. Source: config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct.
"""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import onnx

from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_json
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.export.networks import decoder_model, vision_model
from qwen3vl_ros.types import InvalidInput

# hidden, inner, layers, heads, tied; vision depth, hidden, inner, DeepStack blocks.
_SIZES = {
    "2B": (2048, 6144, 28, 16, True, 24, 1024, 4096, [5, 11, 17]),
    "4B": (2560, 9728, 36, 32, True, 24, 1024, 4096, [5, 11, 17]),
    "8B": (4096, 12288, 36, 32, False, 27, 1152, 4304, [8, 16, 24]),
    "toy": (256, 768, 4, 4, True, 3, 128, 256, [0, 1]),
}
SIZES = tuple(_SIZES)
COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja")
_SPECIAL = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_PUBLISHED_AREAS = {
    "shortest_edge": 65536,
    "longest_edge": 16777216,
}  # of an image, pixels; the embedded model's is small


def config_of(size: str, layers: int | None = None) -> dict[str, Any]:
    """config.json of a size in SIZES; with `layers`, the decoder cut to so many."""
    hidden, inner, depth, heads, tied, vision_depth, vision_hidden, vision_inner, deep = _SIZES[size]
    vocabulary, head_dim, section = (2048, 64, [12, 10, 10]) if size == "toy" else (151936, 128, [24, 20, 20])
    own = read_json(embedded_model_dir() / "config.json")  # whose tokenizer it gets
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        **{name: own[name] for name in _SPECIAL},
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers or depth,
            "num_attention_heads": heads,
            "num_key_value_heads": 2 if size == "toy" else 8,
            "head_dim": head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e6,
            "attention_bias": False,
            "tie_word_embeddings": tied,
            "rope_scaling": {"rope_type": "default", "mrope_section": section, "mrope_interleaved": True},
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": vision_depth,
            "hidden_size": vision_hidden,
            "intermediate_size": vision_inner,
            "num_heads": 2 if size == "toy" else 16,
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": hidden,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": deep,
            "hidden_act": "gelu_pytorch_tanh",
        },
    }


class _Wanted:
    """Stands for a checkpoint's weights while the graphs are written, and notes which they ask for."""

    def __init__(self):
        self.shapes: dict[str, tuple[int, ...]] = {}

    def tensor(self, name: str, shape: Sequence[int]) -> tuple[onnx.TensorProto, str]:
        self.shapes[name] = tuple(shape)
        return onnx.TensorProto(name=name), "float16"


def write_checkpoint(size: str, directory: Path, layers: int | None = None, seed: int = 0) -> Path:
    """A complete checkpoint with random float16 weights, tensor by tensor; layers: as for `config_of`.

    Raises InvalidInput for a size that is not in SIZES.
    """
    if size not in _SIZES:
        raise InvalidInput(f"there is no published size {size!r}; choose one of {', '.join(SIZES)}")
    config, wanted = config_of(size, layers), _Wanted()
    for write in (vision_model, decoder_model):
        write(Sizes.read(config), wanted, "float16", "attention")
    directory.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(embedded_model_dir() / name, directory / name)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    if size != "toy":
        preprocessor = directory / "preprocessor_config.json"
        rule = json.loads(preprocessor.read_text()) | {"size": _PUBLISHED_AREAS}
        preprocessor.write_text(json.dumps(rule, indent=1))
    header, end = {}, 0
    for name, shape in wanted.shapes.items():
        begin, end = end, end + 2 * prod(shape)
        published = (shape[0], 3, 2, 16, 16) if name.endswith("patch_embed.proj.weight") else shape
        header[name] = {"dtype": "F16", "shape": published, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # One pool of numbers again and again: drawing billions takes minutes, and timing does not see it. Each weight
    # starts elsewhere in it, since TensorRT keeps equal weights once; its length is odd, so that no two rows of the head
    # are alike, of which neither token would be the likelier.
    rng = np.random.default_rng(seed)
    largest = max(prod(shape) for shape in wanted.shapes.values())
    pool = (0.02 * rng.standard_normal(min((1 << 22) + 1, largest), np.float32)).astype(np.float16)
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in wanted.shapes.items():
            count = prod(shape)
            values = (
                np.roll(pool, int(rng.integers(len(pool))))
                if len(shape) > 1
                else np.full(count, 0 if name.endswith("bias") else 1, np.float16)
            )
            for begin in range(0, count, len(values)):
                stream.write(memoryview(values[: count - begin]).cast("B"))
    return directory
