"""The reference runtime: Qwen3-VL of Hugging Face `transformers`, any size, dense or MoE, on a CPU or a CUDA device.

Gives `decode.py` one forward pass at a time; knows no answers and no boxes. Image preparation and tokenizer are ours
(pixels.py, tokens.py), because the library's processor needs torchvision.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from typing import Sequence

import numpy as np
import torch
import transformers
from transformers import DynamicCache, Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import EngineInfo
from qwen3vl_ros.engine.checkpoint import Checkpoint
from qwen3vl_ros.engine.decode import Choice, Interrupted, Limits, decode, transcribe
from qwen3vl_ros.engine.device import (choose_device, choose_dtype, memory_errors, refuse_quantization,
                                       require_memory)
from qwen3vl_ros.engine.pixels import PixelRule
from qwen3vl_ros.engine.tokens import ChatTokens
from qwen3vl_ros.types import Control, EngineError, Generation, WrongModel

_CLASSES = {c.__name__: c for c in (Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration)}
_CPU_THREADS = torch.get_num_threads()  # torch's own choice, before anybody changed it
_OLDEST = (5, 4)  # of transformers; before, image positions were computed from other arguments
_SMALL_MODEL = 100_000_000  # weights; below, a second thread costs more than it gives


class TransformersEngine:
    """One loaded model (see engine/base.py). `generation` holds the live limits; assign it between two calls."""

    info: EngineInfo

    def __init__(self, checkpoint: Checkpoint, config: Config):
        if tuple(map(int, transformers.__version__.split(".")[:2])) < _OLDEST:
            raise EngineError(f"transformers {transformers.__version__} is too old; pip install 'transformers>="
                              f"{_OLDEST[0]}.{_OLDEST[1]},<6'")
        self.generation = config.generation
        device, why_device = choose_device(config.device)
        dtype, why_dtype = choose_dtype(config.dtype, device)
        refuse_quantization(checkpoint, device)
        self._pixels = PixelRule.read(checkpoint.path, config.generation.min_pixels, config.generation.max_pixels)
        self._tokens = ChatTokens(checkpoint.path)
        require_memory(checkpoint, device, dtype)
        self._device, self._max_positions = device, checkpoint.max_positions
        self._model = _load(checkpoint, device, dtype)
        small = checkpoint.parameters < _SMALL_MODEL
        self._threads = 1 if small and device.type == "cpu" else _CPU_THREADS
        why = [f"transformers {transformers.__version__}, the only runtime of this version", why_device, why_dtype]
        if device.type == "cpu":
            why.append(f"{self._threads} CPU thread{'s' * (self._threads > 1)}" + " (small model)" * small)
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        self.info = EngineInfo("transformers", str(checkpoint.path), checkpoint.architecture, f"{device}{name}",
                               str(dtype).removeprefix("torch."), checkpoint.parameters, self._tokens.thinking,
                               "; ".join(why))

    def warm_up(self) -> None:
        """Answer two tokens about a grey image: proves that the model runs and its memory suffices."""
        limits = self.generation
        self.generation = dataclasses.replace(limits, max_new_tokens=2, deadline=3600.0)
        try:
            self.generate([np.full((64, 64, 3), 128, np.uint8)], "?")
        finally:
            self.generation = limits

    def generate(self, images: Sequence[np.ndarray], prompt: str, control: Control | None = None) -> Generation:
        """See Engine.generate. The deadline is the control's own, or `generation.deadline` where it has none."""
        if self._model is None:
            raise EngineError("this engine was closed; load a new one")
        started = time.perf_counter()
        control = control or Control()
        deadline = control.deadline_monotonic_s
        if deadline is None:
            deadline = time.monotonic() + self.generation.deadline
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # per calling thread: the worker is not the thread that loaded
        with torch.inference_mode(), memory_errors(f"answering with {len(images)} images", self._device):
            forward = self._prepare(images, prompt)
            length = forward.ids.shape[1]
            room = self._max_positions - length
            if room < 1:
                raise EngineError(f"the prompt takes {length} tokens ({forward.image_tokens} of them visual) and the "
                                  f"model holds {self._max_positions}; lower generation.max_pixels or send fewer "
                                  "images")
            limits = Limits(min(self.generation.max_new_tokens, room), deadline, self.generation.repeat_limit)
            preprocess_s = time.perf_counter() - started
            forward.interrupt_when(lambda: limits.interruption(control))
            run = decode(forward.prefill, forward.step, stop_ids=self._tokens.stop_ids,
                         bytes_of=self._tokens.bytes_of, limits=limits, control=control)
        said = transcribe(run.pieces, self._tokens.thinking)
        tokens = slice(said.first_token, said.last_token)
        return Generation(said.text, tuple(run.token_ids[tokens]), np.array(run.logprobs[tokens], np.float32),
                          tuple(said.token_ends), run.finish_reason, said.reasoning, prompt, length,
                          len(run.token_ids), run.forward_passes, preprocess_s, run.prefill_s, run.decode_s)

    def close(self) -> None:
        """Free the device's memory; the engine cannot be used afterwards."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _prepare(self, images: Sequence[np.ndarray], prompt: str) -> _Forward:
        pixels = grid = None
        counts: list[int] = []
        if images:
            patches, grids = self._pixels.patches(images)
            counts = (grids.prod(axis=1) // self._pixels.merge**2).tolist()
            pixels = torch.from_numpy(patches).to(self._device, self._model.dtype)
            grid = torch.from_numpy(grids).to(self._device)
        ids = torch.tensor([self._tokens.encode(prompt, counts)], device=self._device)
        return _Forward(self._model, ids, (ids == self._tokens.image_id).int(), pixels, grid, sum(counts))


class _Forward:
    """The forward passes of one answer: the prompt, its key-value cache and positions."""

    def __init__(self, model, ids: torch.Tensor, image_mask: torch.Tensor, pixels: torch.Tensor | None,
                 grid: torch.Tensor | None, image_tokens: int):
        self._model, self._inner, self._text = model, model.model, model.model.language_model
        self.ids, self._mask, self._pixels, self._grid, self.image_tokens = ids, image_mask, pixels, grid, image_tokens
        self._cache = DynamicCache(config=model.config.get_text_config())
        self._check = lambda: ""
        self._position: torch.Tensor | None = None

    def interrupt_when(self, check) -> None:
        """`check() -> str`: a reason ends the prompt's pass between two layers."""
        self._check = check

    def prefill(self) -> Choice:
        """The pass over the prompt and its images."""
        positions, delta = self._inner.get_rope_index(self.ids, mm_token_type_ids=self._mask, image_grid_thw=self._grid)
        self._position = torch.full((3, 1, 1), self.ids.shape[1], device=self.ids.device) + delta
        with self._interruptible():
            out = self._model(input_ids=self.ids, pixel_values=self._pixels, image_grid_thw=self._grid,
                              mm_token_type_ids=self._mask, position_ids=positions, past_key_values=self._cache,
                              use_cache=True, logits_to_keep=1)
        return _choose(out.logits[0, -1])

    def step(self, token_id: int) -> Choice:
        """The pass over one new token."""
        out = self._text(input_ids=self.ids.new_tensor([[token_id]]), position_ids=self._position,
                         past_key_values=self._cache, use_cache=True)
        self._position = self._position + 1
        return _choose(self._model.lm_head(out.last_hidden_state[0, -1]))

    @contextmanager
    def _interruptible(self):
        def check(*_):
            if self._check():
                raise Interrupted

        layers = [*self._inner.visual.blocks, *self._text.layers]
        handles = [layer.register_forward_pre_hook(check) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _choose(logits: torch.Tensor) -> Choice:
    logits = logits.float()
    best = logits.argmax()
    # One transfer for both; token ids are exact in float64.
    token_id, logprob = torch.stack((best.double(), (logits[best] - logits.logsumexp(0)).double())).tolist()
    if logprob != logprob:
        raise EngineError("the model's output is not a number: its weights are damaged, or the precision overflows; "
                          "use dtype bfloat16 or float32, and check the checkpoint")
    return Choice(int(token_id), logprob)


def _load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype):
    transformers.logging.disable_progress_bar()
    try:
        with memory_errors(f"loading {checkpoint.path}", device):
            model, report = _CLASSES[checkpoint.architecture].from_pretrained(
                checkpoint.path, dtype=dtype, attn_implementation="sdpa", local_files_only=True,
                ignore_mismatched_sizes=True,  # reported, and refused below in our words
                output_loading_info=True, **({"device_map": {"": device}} if checkpoint.quantization else {}))
            missing, mismatched = sorted(report["missing_keys"]), sorted(map(str, report["mismatched_keys"]))
            if missing or mismatched:
                count, what = (len(missing), "are missing") if missing else (len(mismatched), "have another shape")
                raise WrongModel(f"{checkpoint.path}: {count} weights {what} ({(missing or mismatched)[0]}, …); "
                                 "config.json and weights do not belong together: copy both from the same model")
            return model.eval().requires_grad_(False).to(device)
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise EngineError(f"transformers {transformers.__version__} cannot load {checkpoint.path}: "
                          f"{type(error).__name__}: {error}; check the checkpoint, or update transformers") from error
