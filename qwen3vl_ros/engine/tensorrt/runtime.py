"""The TensorRT runtime (`Runtime` in base.py) on the engines of a bundle, through cuda-python: no torch, no copies of
the cache.

Everything a pass reads or writes has its address before the first pass. The cache's outputs are its inputs' memory;
all small inputs travel in one transfer and so do the tokens chosen; logits stay on the GPU until asked for. Each
length of a step has its own execution context and is captured once as a CUDA graph: transfer, network and transfer
back are then one launch. The modules `tensorrt` and `tensorrt_rtx` are alike here and imported only when a bundle is
loaded. Knows no text, stopping or drafts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from qwen3vl_ros.engine.network import graph
from qwen3vl_ros.engine.network.sequence import TokenSequence, visual_places
from qwen3vl_ros.engine.tensorrt.bundle import PARTS, Bundle, engine_name, read_bundle
from qwen3vl_ros.engine.tensorrt.cuda import Cuda, import_or_refuse
from qwen3vl_ros.engine.tensorrt.passes import Contexts, Part, Pass, chunks, lay_out
from qwen3vl_ros.types import EngineError, InvalidInput

# -- features --------------------------------------------------------------------------------------------------------


class DeviceFeatures:
    """Features of some images, which stay on the GPU: merged count x hidden, behind it deep D x count x hidden."""

    def __init__(self, cuda: Cuda, count: int, row_bytes: int, deep: int):
        self.count, self.row_bytes, self.layers, self._cuda = count, row_bytes, deep + 1, cuda
        self._address = cuda.allocate(count * row_bytes * self.layers)

    def layer(self, index: int) -> int:
        """Address of the merged features (0), or of those for decoder layer index - 1."""
        return self._address + index * self.count * self.row_bytes

    def __del__(self):
        if hasattr(self, "_address"):
            self._cuda.free(self._address)


class TensorrtScores:
    """What one pass said (base.Scores). The logits hold until the next pass."""

    def __init__(self, tokens: np.ndarray, logprobs: np.ndarray, read_logits: Callable[[], np.ndarray]):
        self._tokens, self._logprobs, self._read = tokens, logprobs, read_logits

    def best(self) -> tuple[list[int], list[float]]:
        return self._tokens.tolist(), self._logprobs.tolist()

    def logits(self) -> np.ndarray:
        return self._read()


# -- the runtime -----------------------------------------------------------------------------------------------------


class TensorrtRuntime(TokenSequence):
    """One sequence on the engines of a bundle, on the GPU `device`.

    warm: run and capture every length of a step now (seconds; at the first start ever, as long as compiling takes), so
    that no answer waits for it.
    Raises WrongModel for a damaged bundle, EngineError for one of another module, version or GPU, naming the command
    that builds a fitting one; OutOfMemory.
    """

    def __init__(self, bundle: Bundle | Path | str, device: int = 0, warm: bool = True):
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        self._trt = import_or_refuse(self.bundle.module, f"install {self.bundle.module} {self.bundle.version}")
        self._cuda = Cuda(device)
        files = self.bundle.require(self.bundle.module, self._trt.__version__, self._cuda.sm)
        self.sizes, self.dtype, self.limits = self.bundle.sizes, self.bundle.dtype, self.bundle.limits
        super().__init__(self.limits.cache_slots)
        self.longest_step = self.limits.draft
        self._passes = 0
        self._open({part: self._load(files[part]) for part in PARTS})
        if warm:
            self._capture_steps()

    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> DeviceFeatures:
        vision, frames = self.sizes.vision, [h * w for count, h, w in np.asarray(grid).tolist() for _ in range(count)]
        feeds = graph.vision_feeds(self.sizes, pixels, grid)
        self.bundle.require_patches(frames)
        self._cuda.use()
        features = DeviceFeatures(self._cuda, sum(frames) // vision.merge**2, self._row_bytes, len(vision.deepstack))
        done = 0
        for feed, patches in zip(feeds, frames):
            self.between_layers()
            outputs, _ = lay_out(graph.vision_values(self.sizes)[1], self.dtype, {"V": patches // vision.merge**2})
            inputs, _ = lay_out(graph.vision_values(self.sizes)[0], self.dtype, {"N": patches})
            Pass(self._vision, self._seeing, inputs, outputs, {}).run(feed)
            rows = patches // vision.merge**2
            for layer in range(features.layers):
                source = self._vision.outputs + (
                    outputs["merged"].offset
                    if layer == 0
                    else outputs["deep"].offset + (layer - 1) * rows * self._row_bytes
                )
                self._cuda.copy(
                    features.layer(layer) + done * self._row_bytes, source, rows * self._row_bytes, "DeviceToDevice"
                )
            done += rows
        return features

    def prefill(
        self,
        ids: Sequence[int],
        features: DeviceFeatures | None = None,
        positions: np.ndarray | None = None,
        keep: int = 1,
    ) -> TensorrtScores:
        if not 0 <= keep <= min(len(ids), self.limits.draft):
            raise InvalidInput(
                f"keep {keep} does not fit {len(ids)} tokens on engines that give the scores of at "
                f"most {self.limits.draft}"
            )
        seen = 0 if features is None else features.count
        visual = visual_places(ids, (self.sizes.image_id, self.sizes.video_id), seen)
        positions, before = self._places(len(ids), positions), self.length
        rows = np.zeros(len(ids), np.int64)
        rows[visual] = 1 + np.arange(seen)
        self._cuda.use()
        self._place_features(features)
        try:
            for part in chunks(len(ids), self.limits.prefill):
                self.between_layers()
                scores = self._prompt(ids[part], positions[:, part], rows[part], seen + 1, max(keep, 1), keep)
        except BaseException:
            self.rollback(self.length - before)
            raise
        return scores

    def step(self, token_ids: Sequence[int]) -> TensorrtScores:
        count = len(token_ids)
        if count > self.longest_step:
            raise InvalidInput(
                f"a step of {count} tokens exceeds the {self.longest_step} that the engines were "
                f"built for; build with a longer --draft: {self.bundle.rebuild_command(draft=count)}"
            )
        positions = self._places(count)
        self._cuda.use()
        if count not in self._steps:
            self._steps[count] = self._pass(self._decoder.context(0, one_shape=True), count, count, 1, captured=True)
        scores = self._run(self._steps[count], self._feeds(token_ids, positions, count), count)
        self._append(positions)
        return scores

    def close(self) -> None:
        """Keep what was compiled for the next start, and free the GPU's memory."""
        self._contexts.keep_compiled()
        self._steps, self._vision, self._decoder, self._seeing, self._prompts = {}, None, None, None, {}
        self._cuda.close()

    # -- inside --

    def _capture_steps(self) -> None:
        for count in range(1, self.longest_step + 1):
            for _ in range(2):  # the second run captures
                self.step([0] * count)
                self.rollback(count)
        self._contexts.keep_compiled()

    def _load(self, file: Path) -> Any:
        runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.WARNING))
        # Mapped: read into memory, gigabytes would stand there twice.
        engine = runtime.deserialize_cuda_engine(np.memmap(file, np.uint8, "r"))
        if engine is None:
            raise EngineError(
                f"{self._trt.__name__} {self._trt.__version__} cannot load {file}; its reason is in "
                f"the log above. Build again: {self.bundle.rebuild_command()}"
            )
        return engine

    def _open(self, engines: dict[str, Any]) -> None:
        cuda, sizes, limits = self._cuda, self.sizes, self.limits
        text, deep = sizes.text, len(sizes.vision.deepstack)
        self._row_bytes = text.hidden * graph.HOST_DTYPES[self.dtype].itemsize
        scratch = max(engine.device_memory_size_v2 for engine in engines.values())
        rows = (limits.max_visual + 1) * self._row_bytes
        cache = {
            v.name: lay_out([v], self.dtype, {"S": limits.cache_slots})[1]
            for v in graph.decoder_values(sizes)[0]
            if v.name.startswith(("keys_", "values_"))
        }
        addresses = {
            name: cuda.allocate(size) for name, size in {"features": rows, "deep": deep * rows, **cache}.items()
        }
        self._contexts = Contexts(cuda, self._trt, scratch, self._cache_file())
        self._zeroes = cuda.allocate(max(deep, 1) * self._row_bytes)
        addresses |= {f"{name}_out": addresses[name] for name in cache}
        most = {"N": limits.max_patches, "V": limits.max_patches // sizes.vision.merge**2}
        vision = [lay_out(values, self.dtype, most)[1] for values in graph.vision_values(sizes)]
        decoder = [
            lay_out(values, self.dtype, {"Q": limits.prefill, "S": limits.cache_slots, "K": limits.draft})[1]
            for values in (self._fed, self._given)
        ]
        self._vision = Part(cuda, self._contexts, engines["vision"], *vision, {})
        self._decoder = Part(cuda, self._contexts, engines["decoder"], *decoder, addresses)
        self._seeing, self._prompts = self._vision.context(0), {p: self._decoder.context(p) for p in (0, 1)}
        self._steps: dict[int, Pass] = {}

    def _cache_file(self) -> Path:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen3vl_ros"
        return caches / f"{self.bundle.engines[engine_name('decoder', self._cuda.sm)]['sha256'][:24]}.kernels"

    @property
    def _fed(self) -> list[graph.Value]:
        """Inputs of the decoder that the host writes at every pass."""
        fixed = ("features", "deep", "keys_", "values_")
        return [v for v in graph.decoder_values(self.sizes)[0] if not v.name.startswith(fixed)]

    @property
    def _given(self) -> list[graph.Value]:
        """Outputs of the decoder but the cache; those that go to the host first."""
        given = {v.name: v for v in graph.decoder_values(self.sizes)[1]}
        return [given[name] for name in ("token", "logprob", "logits")]

    def _pass(self, context: Any, count: int, keep: int, rows: int, captured: bool = False) -> Pass:
        dimensions = {"Q": count, "K": keep, "S": self.limits.cache_slots}
        inputs, outputs = (lay_out(values, self.dtype, dimensions)[0] for values in (self._fed, self._given))
        hidden, deep = self.sizes.text.hidden, len(self.sizes.vision.deepstack)
        # Without features the only row is row 0 of each layer: they stand together, where the last prompt's do not.
        elsewhere = {"features": self._zeroes, "deep": self._zeroes} if rows == 1 else {}
        return Pass(
            self._decoder,
            context,
            inputs,
            outputs,
            {"features": (rows, hidden), "deep": (deep, rows, hidden)},
            ("token", "logprob"),
            captured,
            elsewhere,
        )

    def _feeds(self, ids: Sequence[int], positions: np.ndarray, keep: int) -> dict[str, np.ndarray]:
        return graph.decoder_feeds(
            self.sizes.text,
            ids,
            positions,
            start=self.length,
            span=self.limits.cache_slots,
            keep=keep,
            dtype=self.dtype,
        )

    def _prompt(
        self, ids: Sequence[int], positions: np.ndarray, rows: np.ndarray, row_count: int, computed: int, keep: int
    ) -> TensorrtScores:
        computed = min(computed, len(ids))
        context = self._prompts[int(len(ids) > self.limits.draft)]
        feeds = self._feeds(ids, positions, computed) | {"rows": rows}
        scores = self._run(self._pass(context, len(ids), computed, row_count), feeds, keep)
        self._append(positions)
        return scores

    def _run(self, work: Pass, feeds: dict[str, np.ndarray], keep: int) -> TensorrtScores:
        given = work.run(feeds)
        self._passes += 1
        number, count, address = self._passes, len(given["token"]), work.address_of("logits")

        def read() -> np.ndarray:
            if number != self._passes:
                raise EngineError("the logits of a pass are gone after the next one; read them before")
            logits = np.empty((count, self.sizes.text.vocabulary), np.float32)
            self._cuda.copy(logits.ctypes.data, address, logits.nbytes, "DeviceToHost")
            self._cuda.wait()
            return logits[count - keep :]

        return TensorrtScores(given["token"][count - keep :], given["logprob"][count - keep :], read)

    def _place_features(self, features: DeviceFeatures | None) -> None:
        """Row 0 of what the decoder reads stays zero; the features follow it."""
        if features is None:
            return
        if features.count > self.limits.max_visual:
            raise InvalidInput(
                f"{features.count} visual tokens exceed the {self.limits.max_visual} that the "
                "engines were built for; build again: "
                f"{self.bundle.rebuild_command(max_visual=features.count)}"
            )
        fixed, size = self._decoder.fixed, features.count * self._row_bytes
        for layer in range(features.layers):
            start = fixed["features"] if layer == 0 else fixed["deep"] + (layer - 1) * (size + self._row_bytes)
            self._cuda.call("cudaMemsetAsync", start, 0, self._row_bytes, self._cuda.stream)
            self._cuda.copy(start + self._row_bytes, features.layer(layer), size, "DeviceToDevice")
