"""The official processor where torchvision is missing: its own code, with torch's resize, which torchvision calls."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as smart_resize_video

from qwen3vl_ros.engine.base import Prompt, Turn
from qwen3vl_ros.engine.checkpoint import read_json


def resize(pictures: np.ndarray, height: int, width: int) -> torch.Tensor:
    """TxCxHxW uint8, as torchvision's bicubic with antialiasing gives it."""
    return F.interpolate(
        torch.from_numpy(np.ascontiguousarray(pictures)),
        (height, width),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )


class OfficialImages(Qwen2VLImageProcessorPil):
    """The image processor of `transformers` with the resize of its default backend."""

    def resize(self, image, size, resample, factor, **kwargs):
        new = smart_resize(
            *image.shape[-2:], factor=factor, min_pixels=size.shortest_edge, max_pixels=size.longest_edge
        )
        return resize(image[None], *new)[0].numpy()


def official_clip(directory: Path, pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixel_values_videos, video_grid_thw) of one clip."""
    rule = read_json(directory / "video_preprocessor_config.json")
    frames = np.stack(pictures).transpose(0, 3, 1, 2)
    height, width = smart_resize_video(
        len(frames),
        *frames.shape[-2:],
        temporal_factor=rule["temporal_patch_size"],
        factor=rule["patch_size"] * rule["merge_size"],
        min_pixels=rule["size"]["shortest_edge"],
        max_pixels=rule["size"]["longest_edge"],
    )
    mean, std = (torch.tensor(rule[name]).view(3, 1, 1) * 255 for name in ("image_mean", "image_std"))
    values = (resize(frames, height, width).float() - mean) / std
    patches, *grid = Qwen3VLVideoProcessor.patchify(
        None, values[None], rule["patch_size"], rule["merge_size"], rule["temporal_patch_size"]
    )
    return patches[0], torch.tensor([grid])


def _message(turn: Turn, text_first: bool) -> dict:
    if turn.role == "assistant":
        return {"role": turn.role, "content": turn.text}
    seen = [{"type": "image"}] * len(turn.images) + [{"type": "video"}] * bool(turn.clip)
    text = [{"type": "text", "text": turn.text}]
    return {"role": turn.role, "content": text + seen if text_first else seen + text}


@lru_cache(4)
def _tokenizer(directory: Path):
    return AutoTokenizer.from_pretrained(directory)


def official_inputs(directory: Path, prompt: Prompt) -> dict[str, torch.Tensor]:
    """Everything the official processor gives the model for a chat; images before the clip of each turn."""
    tokenizer = _tokenizer(directory)
    processor = object.__new__(Qwen3VLProcessor)
    processor.tokenizer, processor.image_token, processor.video_token = tokenizer, "<|image_pad|>", "<|video_pad|>"
    processor.vision_start_token, processor.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    processor.image_processor = SimpleNamespace(merge_size=2)
    processor.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    images = [rgb for turn in prompt.turns for rgb in turn.images]
    clips = [(turn.clip.pictures, turn.clip.times_s) for turn in prompt.turns if turn.clip]
    text = tokenizer.apply_chat_template(
        [_message(turn, prompt.text_first) for turn in prompt.turns], add_generation_prompt=True, tokenize=False
    )
    found: dict[str, torch.Tensor] = {}
    expanded: list[list[str]] = [[], []]
    if images:
        found |= dict(OfficialImages.from_pretrained(directory)(list(images), return_tensors="pt"))
        expanded[0] = [processor.replace_image_token(found, i) for i in range(len(images))]
    if clips:
        patches, grids = zip(*(official_clip(directory, pictures) for pictures, _ in clips))
        found |= {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.cat(grids)}
        # Times become frame numbers of a very fast camera.
        metadata = [SimpleNamespace(fps=1000.0, frames_indices=[t * 1000.0 for t in times_s]) for _, times_s in clips]
        expanded[1] = [
            processor.replace_video_token(found | {"video_metadata": metadata}, i) for i in range(len(clips))
        ]
    (text,), _ = processor.get_text_with_replacements([text], *expanded)
    ids = tokenizer(text, return_tensors="pt").input_ids
    kinds = sum(
        k * (ids == tokenizer.convert_tokens_to_ids(t)).int() for k, t in ((1, "<|image_pad|>"), (2, "<|video_pad|>"))
    )
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds, **found}
