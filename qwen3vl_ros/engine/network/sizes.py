"""What shapes the network: the numbers of config.json, read in one place and refused where nothing here computes them.

Needs no torch: every runtime reads its sizes from here.
Source: Qwen3-VL technical report (arXiv 2511.21631) and the published dense checkpoints, 2B to 32B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from qwen3vl_ros.types import WrongModel


@dataclass(frozen=True)
class VisionSizes:
    """The vision tower, as in config.json's vision_config."""

    depth: int
    hidden: int
    inner: int  # of each block's MLP
    heads: int
    patch_values: int  # numbers in one patch: channels x frames x patch x patch
    merge: int  # merge x merge patches become one visual token
    out: int  # the decoder's hidden size
    table_side: int  # the learned position table is table_side x table_side
    deepstack: tuple[int, ...]  # blocks whose output also reaches the first decoder layers


@dataclass(frozen=True)
class TextSizes:
    """The decoder, as in config.json's text_config."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope_section: tuple[int, int, int]  # of head_dim / 2 frequencies, how many turn with time, row and column
    tied: bool  # the head is the embedding table


@dataclass(frozen=True)
class Sizes:
    """Everything that shapes the network. `read` is the one place where config.json is understood."""

    vision: VisionSizes
    text: TextSizes
    image_id: int
    video_id: int

    @staticmethod
    def read(config: dict[str, Any]) -> Sizes:
        """From a parsed config.json. Raises WrongModel for what this network does not compute."""
        try:
            text, vision = config["text_config"], config["vision_config"]
            # Written as rope_scaling + rope_theta by the original checkpoints, as rope_parameters since transformers 5.
            rope = text.get("rope_parameters") or {"rope_theta": text["rope_theta"], **(text.get("rope_scaling") or {})}
            _refuse(config, text, vision, rope)
            heads, hidden = text["num_attention_heads"], text["hidden_size"]
            found = Sizes(
                VisionSizes(
                    vision["depth"],
                    vision["hidden_size"],
                    vision["intermediate_size"],
                    vision["num_heads"],
                    vision.get("in_channels", 3) * vision["temporal_patch_size"] * vision["patch_size"] ** 2,
                    vision["spatial_merge_size"],
                    vision["out_hidden_size"],
                    round(vision["num_position_embeddings"] ** 0.5),
                    tuple(vision["deepstack_visual_indexes"]),
                ),
                TextSizes(
                    text["vocab_size"],
                    hidden,
                    text["intermediate_size"],
                    text["num_hidden_layers"],
                    heads,
                    text.get("num_key_value_heads") or heads,
                    text.get("head_dim") or hidden // heads,
                    text["rms_norm_eps"],
                    rope["rope_theta"],
                    tuple(rope["mrope_section"]),
                    bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
                ),
                config["image_token_id"],
                config["video_token_id"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise WrongModel(f"config.json has no usable {error}; restore the model's own file") from error
        except (ValueError, OverflowError) as error:
            raise WrongModel(
                f"config.json holds an impossible number ({error}); restore the model's own file"
            ) from error
        if wrong := _impossible(found):
            raise WrongModel(f"config.json is damaged: {wrong}; restore the model's own file")
        return found


METHOD = "matmulnbits"  # quant_method of checkpoints whose linears are ONNX Runtime's, in few bits (qwen3vl export)


def _experts(config: dict[str, Any], text: dict[str, Any]) -> Any:
    """As published (num_experts), as transformers 5 writes it, or as the architecture says."""
    some = any("Moe" in str(name) for name in config.get("architectures") or ())
    return text.get("num_experts") or text.get("num_local_experts") or ("some" if some else 0)


def _refuse(config: dict[str, Any], text: dict[str, Any], vision: dict[str, Any], rope: dict[str, Any]) -> None:
    method = (config.get("quantization_config") or {}).get("quant_method", "")
    for what, found, wanted in (
        ("text_config.num_experts", _experts(config, text), 0),
        ("quantization_config", "" if method == METHOD else method, ""),
        ("text_config.attention_bias", bool(text.get("attention_bias")), False),
        ("text_config.hidden_act", text.get("hidden_act", "silu"), "silu"),
        ("vision_config.hidden_act", vision.get("hidden_act"), "gelu_pytorch_tanh"),
        ("the rotary embedding's rope_type", rope.get("rope_type", "default"), "default"),
        ("the rotary embedding's mrope_interleaved", rope.get("mrope_interleaved", True), True),
    ):
        if found != wanted:
            raise WrongModel(
                f"{what} is {found!r} in config.json and this network computes only {wanted!r}, as in the "
                "published dense Qwen3-VL; use the transformers runtime or a server for this model, or take a plain one"
            )


def _impossible(sizes: Sizes) -> str:
    """What no network can be made of, in words; "" of a possible one."""
    text, vision = sizes.text, sizes.vision
    for part, name, value in [(p, *item) for p in ("vision", "text") for item in vars(getattr(sizes, p)).items()]:
        if name in ("norm_eps", "rope_theta"):
            good = type(value) in (int, float) and 0 < value < math.inf
        else:
            several = isinstance(value, tuple)
            good = name == "tied" or all(type(n) is int and n >= (not several) for n in (value if several else [value]))
        if not good:
            return f"{part}_config's {name} is {value!r}"
    ids = sizes.image_id, sizes.video_id
    for what, holds in (
        ("heads that share no key-value heads evenly", text.heads % text.kv_heads == 0),
        ("an mrope_section that is not half of head_dim", 2 * sum(text.rope_section) == text.head_dim),
        ("an mrope_section of other than three parts", len(text.rope_section) == 3),
        ("a tower whose hidden_size is no multiple of its heads", vision.hidden % vision.heads == 0),
        ("a tower whose out_hidden_size is not the decoder's hidden_size", vision.out == text.hidden),
        ("deepstack_visual_indexes of blocks that it lacks", max(vision.deepstack, default=-1) < vision.depth),
        ("picture tokens outside the vocabulary", all(type(i) is int and 0 <= i < text.vocabulary for i in ids)),
    ):
        if not holds:
            return f"it tells of {what}"
    return ""
