"""The ONNX Runtime runtime (`Runtime` in base.py) on the exported graphs of graph.py: a CPU, or a GPU where its
provider is installed.

Passes write the cache in place: the same memory is bound as its input and its output. Knows no text, no stopping and
no drafts, and needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import onnxruntime as ort

from qwen3vl_ros.engine import graph
from qwen3vl_ros.engine.graph import Graphs, VisualRows
from qwen3vl_ros.engine.sequence import Sequence as TokenSequence
from qwen3vl_ros.engine.sequence import visual_places
from qwen3vl_ros.types import EngineError, InvalidInput

_BUCKET = 256  # slots; a pass reads the whole cache, so it is only as long as the sequence needs
_NEEDED = "1.25"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxScores:
    """What one pass of decoder.onnx said; see base.Scores."""

    def __init__(self, logits: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray):
        self._logits, self._tokens, self._logprobs = logits, tokens, logprobs

    def best(self) -> tuple[list[int], list[float]]:
        return self._tokens.tolist(), self._logprobs.tolist()

    def logits(self) -> np.ndarray:
        return self._logits


class OnnxRuntime:
    """One sequence of at most `capacity` tokens on the graphs in `directory`.

    device: "cpu", "cuda" or "cuda:N"; one that is not there is an error and never another one. threads: of one pass.
    Raises ModelNotFound without graphs, WrongModel if they are not those of the checkpoint, EngineError.
    """

    def __init__(self, directory: Path | str, capacity: int, device: str = "cpu", threads: int = 0):
        self.graphs = Graphs.read(directory)
        self.sizes, self.dtype, self.capacity, self.longest_step = self.graphs.sizes, self.graphs.dtype, capacity, capacity
        self.between_layers: Callable[[], None] = lambda: None
        if 0 < self.graphs.slots < capacity:
            raise EngineError(f"the graphs in {directory} have a cache of {self.graphs.slots} slots, and {capacity} were "
                              f"asked for; export them with more: {graph.export_command(directory)} --slots {capacity}")
        if self.dtype == "bfloat16":
            raise EngineError(f"the graphs in {directory} compute in bfloat16, which ONNX Runtime hardly does; export them "
                              f"in another precision: {graph.export_command(directory)} --dtype float16")
        self._device, self._device_id, self._provider = _provider(device)
        self._vision, self._decoder = (self._session(name, threads) for name in (graph.VISION, graph.DECODER))
        self._no_rows = graph.no_rows(self.sizes, self.dtype)
        self._sequence = TokenSequence(capacity)
        self._span = 0
        self._cache: dict[str, ort.OrtValue] = {}
        self._grow(1)

    @property
    def length(self) -> int:
        return len(self._sequence)

    @property
    def next_position(self) -> int:
        return self._sequence.next_position

    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> VisualRows:
        frames = []
        for feeds in graph.vision_feeds(self.sizes, pixels, grid):
            self.between_layers()
            frames.append(self._vision.run(("merged", "deep"), feeds))
        return graph.join_frames(self.sizes, frames, self.dtype)

    def prefill(self, ids: Sequence[int], features: VisualRows | None = None, positions: np.ndarray | None = None,
                keep: int = 1) -> OnnxScores:
        if not 0 <= keep <= len(ids):
            raise InvalidInput(f"keep {keep} does not fit {len(ids)} tokens")
        visual = visual_places(ids, (self.sizes.image_id, self.sizes.video_id), 0 if features is None else features.count)
        positions = self._sequence.places(len(ids), positions)
        self.between_layers()
        return self._pass(ids, positions, keep, features or self._no_rows, visual)

    def step(self, token_ids: Sequence[int]) -> OnnxScores:
        return self._pass(token_ids, self._sequence.places(len(token_ids)), len(token_ids), self._no_rows)

    def rollback(self, count: int) -> None:
        self._sequence.rollback(count)

    def close(self) -> None:
        self._vision = self._decoder = None
        self._cache = {}

    def _pass(self, ids: Sequence[int], positions: np.ndarray, keep: int, rows: VisualRows,
              visual: np.ndarray | None = None) -> OnnxScores:
        self._grow(self.length + len(ids))
        feeds = graph.decoder_feeds(self.sizes.text, ids, positions, start=self.length, span=self._span, keep=keep,
                                    dtype=self.dtype, visual=visual)
        binding = self._decoder.io_binding()
        for name, array in {**feeds, **rows._asdict()}.items():
            binding.bind_cpu_input(name, array)
        for name, value in self._cache.items():
            binding.bind_ortvalue_input(name, value)
        for name in ("logits", "token", "logprob"):
            binding.bind_output(name, "cpu")
        for name, value in self._cache.items():
            binding.bind_ortvalue_output(f"{name}_out", value)
        self._decoder.run_with_iobinding(binding)
        self._sequence.append(positions)
        return OnnxScores(*(value.numpy() for value in binding.get_outputs()[:3]))

    def _grow(self, needed: int) -> None:
        """Room for `needed` tokens in the cache."""
        if needed <= self._span:
            return
        before, wanted = self._span, min(self.capacity, -(-needed // _BUCKET) * _BUCKET)
        self._span = self.graphs.slots or wanted
        text = self.sizes.text
        for name in [f"{part}_{layer}" for layer in range(text.layers) for part in ("keys", "values")]:
            room = np.zeros((1, text.kv_heads, self._span, text.head_dim), graph.HOST_DTYPES[self.dtype])
            if before:
                room[:, :, :before] = self._cache[name].numpy()
            self._cache[name] = ort.OrtValue.ortvalue_from_numpy(room, self._device, self._device_id)

    def _session(self, name: str, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            return ort.InferenceSession(self.graphs.directory / name, options, [self._provider])
        except Exception as error:  # its errors have no common base but this
            raise EngineError(f"onnxruntime {ort.__version__} cannot load {self.graphs.directory / name}: {error}; opset "
                              f"{self.graphs.opset} needs onnxruntime {_NEEDED} or later: "
                              f"pip install 'onnxruntime>={_NEEDED}'") from error


def _provider(device: str) -> tuple[str, int, Any]:
    """ONNX Runtime's words for a device: kind, number, provider. Raises EngineError if it is not there."""
    kind, _, number = device.partition(":")
    if kind not in _PROVIDERS or (number and not number.isdigit()):
        raise EngineError(f"device {device!r} is unknown to the runtime 'onnxruntime'; use cpu, cuda or cuda:N")
    provider, number = _PROVIDERS[kind], int(number or 0)
    if provider not in ort.get_available_providers():
        raise EngineError(f"device {device!r} was asked for, but this onnxruntime {ort.__version__} has no {provider}; "
                          "install onnxruntime-gpu in place of onnxruntime, or set device to cpu")
    return kind, number, provider if kind == "cpu" else (provider, {"device_id": number})
