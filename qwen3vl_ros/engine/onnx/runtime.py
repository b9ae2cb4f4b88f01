"""The ONNX Runtime runtime (`Runtime` in base.py) on the exported graphs of graph.py: a CPU, or a GPU where its
provider is installed.

Passes write the cache in place: the same memory is bound as its input and its output. Knows no text, no stopping and
no drafts, and needs no torch.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import onnxruntime as ort

from qwen3vl_ros.engine.network import graph
from qwen3vl_ros.engine.network.graph import Graphs, VisualRows
from qwen3vl_ros.engine.network.sequence import TokenSequence, visual_places
from qwen3vl_ros.engine.onnx.pages import LargePages, regions
from qwen3vl_ros.types import EngineError, InvalidInput

_BUCKET = 256  # slots; a pass reads the whole cache, so it is only as long as the sequence needs
_KEPT = 16  # tokens; steps of up to so many keep what they bound
_MOST_LOGITS = 1 << 22  # of a step: a longer draft would take more memory than it saves time
_WATCH_S = 0.02
_VERSION = tuple(map(int, ort.__version__.split(".")[:2]))
_OPSET_24, _SPINS_BRIEFLY = _VERSION >= (1, 25), _VERSION >= (1, 32)
_SPIN_US = "50"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxScores:
    """What one pass of decoder.onnx said; see base.Scores."""

    def __init__(self, logits: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray):
        self._logits, self._tokens, self._logprobs = logits, tokens, logprobs

    def best(self) -> tuple[list[int], list[float]]:
        return self._tokens.tolist(), self._logprobs.tolist()

    def logits(self) -> np.ndarray:
        return self._logits


class _Pass:
    """Inputs and outputs of decoder.onnx, bound to memory that stays; the cache is both."""

    def __init__(
        self,
        decoder: ort.InferenceSession,
        feeds: dict[str, np.ndarray],
        rows: VisualRows,
        cache: dict[str, ort.OrtValue],
        vocabulary: int,
    ):
        keep = len(feeds["last"])
        self._feeds = {name: np.array(array) for name, array in feeds.items()}
        self._rows = {name: np.ascontiguousarray(array) for name, array in rows._asdict().items()}
        self._scores = (np.empty((keep, vocabulary), np.float32), np.empty(keep, np.int64), np.empty(keep, np.float32))
        self.binding = decoder.io_binding()
        for name, array in (self._feeds | self._rows).items():
            self.binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in zip(("logits", "token", "logprob"), self._scores):
            self.binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, value in cache.items():
            self.binding.bind_ortvalue_input(name, value)
            self.binding.bind_ortvalue_output(f"{name}_out", value)

    def write(self, feeds: dict[str, np.ndarray]) -> None:
        """Feeds of another pass of the same shapes."""
        for name, array in self._feeds.items():
            array[...] = feeds[name]

    def said(self, keep: int) -> OnnxScores:
        """What the pass said, the first `keep`; the next one writes over it here and not there."""
        return OnnxScores(*(array[:keep].copy() for array in self._scores))


class OnnxRuntime(TokenSequence):
    """One sequence of at most `capacity` tokens on the graphs in `directory`.

    device: "cpu", "cuda" or "cuda:N"; one that is not there is an error and never another one. threads: of one pass
    on a CPU; 0: as many as it has cores.

    Raises ModelNotFound without graphs, WrongModel if they are not those of the checkpoint, EngineError.
    """

    def __init__(self, directory: Path | str, capacity: int, device: str = "cpu", threads: int = 0):
        super().__init__(capacity)
        self.graphs = Graphs.read(directory)
        self.sizes, self.dtype = self.graphs.sizes, self.graphs.dtype
        self.longest_step = min(capacity, max(_MOST_LOGITS // self.sizes.text.vocabulary, 1))
        if 0 < self.graphs.slots < capacity:
            raise EngineError(
                f"the graphs in {directory} have a cache of {self.graphs.slots} slots, and {capacity} "
                "were asked for; export them with more: "
                f"{graph.export_command(directory)} --slots {capacity}"
            )
        if self.dtype == "bfloat16":
            raise EngineError(
                f"the graphs in {directory} compute in bfloat16, which ONNX Runtime hardly does; export "
                f"them in another precision: {graph.export_command(directory)} --dtype float16"
            )
        self._device, self._device_id, self._provider = _provider(device)
        names = (graph.VISION, graph.DECODER)
        if not _OPSET_24 and self.graphs.opset == 24:
            names = [graph.OLDER[name] for name in names]
        before = regions()
        self._vision, self._decoder = (self._session(name, threads) for name in names)
        self.large_pages = LargePages(before)
        if self._device == "cpu":
            self.large_pages.start()
        self._steps: dict[int, _Pass] = {}
        self._no_rows = graph.no_rows(self.sizes, self.dtype)
        # Kept, because a busy machine takes milliseconds to start a thread.
        self._watcher = ThreadPoolExecutor(1, "between_layers")
        self._span = 0
        self._room = self.graphs.slots or capacity + 1  # slots at most
        self._cache: dict[str, ort.OrtValue] = {}
        self._grow(1)

    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> VisualRows:
        frames = []
        for feeds in graph.vision_feeds(self.sizes, pixels, grid):
            frames.append(self._watched(lambda options: self._see(feeds, options)))
        return graph.join_frames(self.sizes, frames, self.dtype)

    def _see(self, feeds: dict[str, np.ndarray], options: ort.RunOptions) -> Any:
        if self._provider == _PROVIDERS["cpu"]:  # its activations are not kept beside those of what follows
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return self._vision.run(("merged", "deep"), feeds, options)

    def prefill(
        self, ids: Sequence[int], features: VisualRows | None = None, positions: np.ndarray | None = None, keep: int = 1
    ) -> OnnxScores:
        if not 0 <= keep <= len(ids):
            raise InvalidInput(f"keep {keep} does not fit {len(ids)} tokens")
        seen = 0 if features is None else features.count
        visual = visual_places(ids, (self.sizes.image_id, self.sizes.video_id), seen)
        positions = self._places(len(ids), positions)
        # At least one: reductions over nothing get the wrong shape.
        bound = self._bound(ids, positions, max(keep, 1), features or self._no_rows, visual)
        self._watched(lambda options: self._decoder.run_with_iobinding(bound.binding, options))
        self._append(positions)
        return bound.said(keep)

    def step(self, token_ids: Sequence[int]) -> OnnxScores:
        count, positions = len(token_ids), self._places(len(token_ids))
        if count == 1 and self.graphs.few_bits and self.length + 1 < self._room:
            # A pass over one token sums in another order than one over several, and what differs in the last digit may be
            # rounded to another number of 8 bits: a draft would change the answer. The second token's place is written over.
            token_ids, positions = [*token_ids, *token_ids], np.repeat(positions, 2, 1)
        bound = self._bound(token_ids, positions, len(token_ids), self._no_rows)
        _run(lambda options: self._decoder.run_with_iobinding(bound.binding, options))
        self._append(positions[:, :count])
        return bound.said(count)

    def close(self) -> None:
        self.large_pages.stop()
        self._vision = self._decoder = None
        self._cache, self._steps = {}, {}
        self._watcher.shutdown(wait=False)

    def _bound(
        self, ids: Sequence[int], positions: np.ndarray, keep: int, rows: VisualRows, visual: np.ndarray | None = None
    ) -> _Pass:
        """A pass that is ready to run; that of the last step of as many tokens, if there was one."""
        self._grow(self.length + len(ids))
        feeds = graph.decoder_feeds(
            self.sizes.text,
            ids,
            positions,
            start=self.length,
            span=self._span,
            keep=keep,
            dtype=self.dtype,
            visual=visual,
        )
        stepping = rows is self._no_rows and keep == len(ids) <= _KEPT
        if stepping and keep in self._steps:
            self._steps[keep].write(feeds)
            return self._steps[keep]
        bound = _Pass(self._decoder, feeds, rows, self._cache, self.sizes.text.vocabulary)
        if stepping:
            self._steps[keep] = bound
        return bound

    def _grow(self, needed: int) -> None:
        """Room for `needed` tokens in the cache."""
        if needed <= self._span:
            return
        before, wanted = self._span, min(self._room, -(-needed // _BUCKET) * _BUCKET)
        self._span = self.graphs.slots or wanted
        text = self.sizes.text
        self._steps.clear()
        for name in [f"{part}_{layer}" for layer in range(text.layers) for part in ("keys", "values")]:
            room = np.zeros((1, text.kv_heads, self._span, text.head_dim), graph.HOST_DTYPES[self.dtype])
            if before:
                room[:, :, :before] = self._cache[name].numpy()
            self._cache[name] = ort.OrtValue.ortvalue_from_numpy(room, self._device, self._device_id)

    def _watched(self, run: Callable[[ort.RunOptions], Any]) -> Any:
        """Call the graph and end it early if `between_layers` raises meanwhile; raises what it raised."""
        self.between_layers()
        options, done = ort.RunOptions(), threading.Event()
        watch = self._watcher.submit(self._watch, options, done)
        try:
            return _run(run, options)
        except EngineError:
            done.set()
            if stopped := watch.result():
                raise stopped
            raise
        finally:
            done.set()

    def _watch(self, options: ort.RunOptions, done: threading.Event) -> Exception | None:
        while not done.wait(_WATCH_S):
            try:
                self.between_layers()
            except Exception as error:  # for the caller's thread to raise
                options.terminate = True
                return error
        return None

    def _session(self, name: str, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait by spinning take the cores from the rest of the robot, and here also from the next pass: they wait
        # so for the next operator alone, where ONNX Runtime knows for how long.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(_SPINS_BRIEFLY)))
        options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
        # Weights stored in 16 bits are cast once, at load, however large: the head's would be at every token.
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(1 << 40))
        try:
            return ort.InferenceSession(self.graphs.directory / name, options, [self._provider])
        except Exception as error:  # its errors have no common base but this
            raise EngineError(
                f"onnxruntime {ort.__version__} cannot load {self.graphs.directory / name}: {error}; export "
                f"the graphs again: {graph.export_command(self.graphs.directory)}, or update onnxruntime"
            ) from error


def _run(run: Callable[[ort.RunOptions | None], Any], options: ort.RunOptions | None = None) -> Any:
    try:
        return run(options)
    except Exception as error:  # its errors have no common base but this
        raise EngineError(f"onnxruntime {ort.__version__} failed in a pass: {error}") from error


def _provider(device: str) -> tuple[str, int, Any]:
    """ONNX Runtime's words for a device: kind, number, provider. Raises EngineError if it is not there."""
    kind, _, number = device.partition(":")
    if kind not in _PROVIDERS or (number and not number.isdigit()):
        raise EngineError(f"device {device!r} is unknown to the runtime 'onnxruntime'; use cpu, cuda or cuda:N")
    provider, number = _PROVIDERS[kind], int(number or 0)
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"device {device!r} was asked for, but this onnxruntime {ort.__version__} has no {provider}; "
            "install onnxruntime-gpu in place of onnxruntime, or set device to cpu"
        )
    return kind, number, provider if kind == "cpu" else (provider, {"device_id": number})
