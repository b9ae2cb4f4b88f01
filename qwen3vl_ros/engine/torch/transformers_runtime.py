"""The reference runtime (`Runtime` in base.py): Qwen3-VL of Hugging Face `transformers`, any size, dense, MoE or FP8.

Knows no text and no answers. Preparation and positions are ours (prepare.py), because the library's processor needs
torchvision.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Sequence

import numpy as np
import torch
import transformers
from transformers import DynamicCache, Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.network.sequence import TokenSequence, visual_places
from qwen3vl_ros.engine.torch.device import memory_errors
from qwen3vl_ros.engine.torch.runtime import TorchScores
from qwen3vl_ros.types import EngineError, WrongModel

_CLASSES = {c.__name__: c for c in (Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration)}
_OLDEST = (5, 4)  # of transformers; before, image positions were computed from other arguments
_LONGEST_STEP = 512  # its masks grow with the square of this; no draft is longer


def require_version() -> None:
    """Raises EngineError for a version of transformers that is too old."""
    if tuple(map(int, transformers.__version__.split(".")[:2])) < _OLDEST:
        raise EngineError(
            f"transformers {transformers.__version__} is too old; pip install 'transformers>="
            f"{_OLDEST[0]}.{_OLDEST[1]},<6'"
        )


class TransformersRuntime(TokenSequence):
    """One sequence of at most `capacity` tokens; its cache grows as it is used."""

    def __init__(self, model: Qwen3VLForConditionalGeneration | Qwen3VLMoeForConditionalGeneration, capacity: int):
        super().__init__(capacity)
        self.model, self.longest_step = model, _LONGEST_STEP
        self._visual_ids = (model.config.image_token_id, model.config.video_token_id)
        self._cache = DynamicCache(config=model.config.get_text_config())

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor]]:
        visual, device = self.model.model.visual, self.model.device
        with self._interruptible(visual.blocks):
            seen = visual(
                torch.from_numpy(pixels).to(device, visual.dtype),
                grid_thw=torch.from_numpy(np.asarray(grid, np.int64)).to(device),
                return_dict=True,
            )
        return seen.pooler_output, seen.deepstack_features

    @torch.inference_mode()
    def prefill(
        self,
        ids: Sequence[int],
        features: tuple[torch.Tensor, list[torch.Tensor]] | None = None,
        positions: np.ndarray | None = None,
        keep: int = 1,
    ) -> TorchScores:
        places = visual_places(ids, self._visual_ids, 0 if features is None else len(features[0]))
        positions = self._places(len(ids), positions)
        visual = {}
        embedded = self._embedded(ids)
        if features is not None:
            mask = torch.zeros(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
            mask[0, torch.from_numpy(places)] = True
            embedded[mask] = features[0].to(embedded.dtype)
            visual = {"visual_pos_masks": mask, "deepstack_visual_embeds": features[1]}
        with self._interruptible(self.model.model.language_model.layers):
            return self._pass(embedded, positions, keep, **visual)

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> TorchScores:
        return self._pass(self._embedded(token_ids), self._places(len(token_ids)), len(token_ids))

    def rollback(self, count: int) -> None:
        super().rollback(count)
        self._trim()

    def close(self) -> None:
        device = self.model.device
        self.model = self._cache = None
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _embedded(self, ids: Sequence[int]) -> torch.Tensor:
        table = self.model.get_input_embeddings()
        return table(torch.tensor([ids], device=self.model.device)).clone()

    def _pass(self, embedded: torch.Tensor, positions: np.ndarray, keep: int, **visual) -> TorchScores:
        places = torch.from_numpy(np.ascontiguousarray(positions))[:, None].to(embedded.device)
        try:
            out = self.model.model.language_model(
                inputs_embeds=embedded, position_ids=places, past_key_values=self._cache, use_cache=True, **visual
            )
            self._append(positions)
        finally:
            self._trim()  # a pass that was cut short has filled the first layers only
        hidden = out.last_hidden_state[0]
        return TorchScores(self.model.lm_head(hidden[len(hidden) - keep :]))

    def _trim(self) -> None:
        for layer in self._cache.layers:
            extra = layer.get_seq_length() - self.length
            if extra > 0:
                layer.crop(-extra)

    @contextmanager
    def _interruptible(self, layers):
        handles = [layer.register_forward_pre_hook(lambda *_: self.between_layers()) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def load_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype):
    """The library's model with the checkpoint's weights. Raises WrongModel, OutOfMemory, EngineError."""
    transformers.logging.disable_progress_bar()
    try:
        with memory_errors(f"loading {checkpoint.path}", device):
            model, report = _CLASSES[checkpoint.architecture].from_pretrained(
                checkpoint.path,
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported, and refused below in our words
                output_loading_info=True,
                **({"device_map": {"": device}} if checkpoint.quantization else {}),
            )
            missing, mismatched = sorted(report["missing_keys"]), sorted(map(str, report["mismatched_keys"]))
            if missing or mismatched:
                count, what = (len(missing), "are missing") if missing else (len(mismatched), "have another shape")
                raise WrongModel(
                    f"{checkpoint.path}: {count} weights {what} ({(missing or mismatched)[0]}, …); "
                    "config.json and weights do not belong together: copy both from the same model"
                )
            return model.eval().requires_grad_(False).to(device)
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise EngineError(
            f"transformers {transformers.__version__} cannot load {checkpoint.path}: "
            f"{type(error).__name__}: {error}; check the checkpoint, or update transformers"
        ) from error
