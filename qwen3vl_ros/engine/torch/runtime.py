"""The PyTorch runtime (`Runtime` in base.py) on `network.py`: a CPU, or a CUDA GPU with its steps as captured graphs.

The cache is allocated once; passes write it in place. On a GPU each length of a step is captured once as a CUDA graph,
the choice of the best token included, because at batch 1 launching kernels takes longer than computing them. Knows no
text, no stopping and no drafts: that is decoding/'s. After `fuse`, a step of one token is computed by fused.py's kernels.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Callable, Sequence

import numpy as np
import torch

from qwen3vl_ros.engine.network.plans import VisionPlan, plan_vision, rotary_angles
from qwen3vl_ros.engine.network.sequence import TokenSequence, visual_places
from qwen3vl_ros.engine.torch.network import Cache, Decoder, Features, Network, on_device
from qwen3vl_ros.types import EngineError, InvalidInput

if TYPE_CHECKING:
    from qwen3vl_ros.engine.torch.fused import FusedStep

_PLANS_KEPT = 8
_LONGEST_GRAPH = 32  # tokens of a step on a GPU
_FUSED_ERROR = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}  # of the largest logit
_CAPTURING = threading.Lock()  # what any thread of the process asks of the GPU meanwhile may end a capture
_SPAN_STEP = 512  # a graph looks at a multiple of this many slots, masked: few graphs, little read for nothing


class TorchScores:
    """Logits that stay on their device (see base.Scores); those of a captured step hold until the next step."""

    def __init__(self, logits: torch.Tensor, best: torch.Tensor | None = None):
        self._logits, self._best = logits, _best(logits) if best is None else best

    def best(self) -> tuple[list[int], list[float]]:
        ids, logprobs = self._best.tolist()
        return [int(i) for i in ids], logprobs

    def logits(self) -> np.ndarray:
        return self._logits.float().cpu().numpy()


def _best(logits: torch.Tensor) -> torch.Tensor:
    """2 x k: ids and log-probabilities, in one tensor for one transfer; ids are exact in float64."""
    logits = logits.float()
    top, ids = logits.max(-1)
    return torch.stack((ids.double(), (top - logits.logsumexp(-1)).double()))


def _new_pool(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


class TorchRuntime(TokenSequence):
    """One sequence of at most `capacity` tokens, on the network's device."""

    def __init__(self, network: Network, capacity: int):
        super().__init__(capacity)
        weight = network.text.norm.weight
        self.network, self.device, self.dtype = network, weight.device, weight.dtype
        self._cache = Cache.allocate(network.sizes.text, capacity, self.device, self.dtype)
        self._plans: dict[tuple, VisionPlan] = {}
        self._plans_ahead: dict[
            tuple, VisionPlan
        ] = {}  # memory is a stream's: shared ones might be freed under the other's kernels
        self._ahead: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None
        self._captures = self.device.type == "cuda"
        self.longest_step = _LONGEST_GRAPH if self._captures else capacity
        self._steps: dict[tuple[int, int], _CapturedStep] = {}
        self._forget_steps()
        self._fused: FusedStep | None = None

    def _forget_steps(self) -> None:
        """No captured steps, and another memory pool for those to come.

        All graphs share one pool: each alone would keep the memory of its intermediate results. But a pool ends with its last graph,
        and where anything that was allocated during a capture outlives that (cuBLAS's workspace does, made by a process's
        first capture), torch refuses to capture into it again: "use_count > 0 INTERNAL ASSERT FAILED". So does a capture that fails.
        """
        self._steps.clear()
        self._pool = _new_pool(self.device)

    @torch.inference_mode()
    def fuse(self, overlap: bool = False, tiles: dict | None = None) -> float:
        """Compile the fused kernels for steps of one token and prove on a few tokens that they compute the same; seconds
        that it took. The sequence must be empty, and is so afterwards. overlap, tiles: of FusedStep.

        Raises ImportError without Triton, EngineError where the kernels do not fit the model or compute something else, and
        whatever Triton raises; the runtime then goes on without them.
        """
        from qwen3vl_ros.engine.torch.fused import FusedStep

        started = time.perf_counter()
        sizes = self.network.sizes
        fused, visual = FusedStep(self.network.text, overlap, tiles), (sizes.image_id, sizes.video_id)
        words = [i for i in range(min(sizes.text.vocabulary, 80)) if i not in visual]
        try:
            self.prefill(words[: self.capacity // 2])
            logits = []
            for way in (None, fused):
                self._fused = way
                self._forget_steps()
                logits.append(self.step(words[:1]).logits())
                self.rollback(1)
            error = float(np.abs(logits[1] - logits[0]).max() / np.abs(logits[0]).max())
            if not error <= _FUSED_ERROR[self.dtype]:
                raise EngineError(f"the fused step's logits are off by {error:.1%} of the largest")
        except BaseException:
            self._fused = None
            raise
        finally:
            self._forget_steps()
            self.rollback(self.length)
        return time.perf_counter() - started

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> Features:
        return self._see(pixels, grid, self._plans, self.between_layers)

    @torch.inference_mode()
    def encode_ahead(self, pixels: np.ndarray, grid: np.ndarray, between: Callable[[], None]) -> Callable[[], Features]:
        """See RuntimeAhead. On a GPU kernels are queued on a stream of its own, and the sequence's stream waits for them when it takes
        the features. No step is captured meanwhile."""
        if self.device.type != "cuda":
            features = self._see(pixels, grid, self._plans_ahead, between)
            return lambda: features
        with ExitStack() as stack:
            stack.enter_context(_CAPTURING)
            stack.enter_context(torch.cuda.device(self.device))  # each thread has one of its own
            if self._ahead is None:
                self._ahead = torch.cuda.Stream(), torch.cuda.Event()
            stream, seen = self._ahead
            stack.enter_context(torch.cuda.stream(stream))
            features = self._see(pixels, grid, self._plans_ahead, between)
            seen.record()

        @torch.inference_mode()
        def take() -> Features:
            ours = torch.cuda.current_stream(self.device)
            ours.wait_event(seen)
            for tensor in (features.merged, *features.deep):
                tensor.record_stream(ours)  # not to be written over while a pass reads it
            return features

        return take

    def _see(
        self, pixels: np.ndarray, grid: np.ndarray, plans: dict[tuple, VisionPlan], between: Callable[[], None]
    ) -> Features:
        key = tuple(map(tuple, np.asarray(grid).tolist()))
        if sum(t * h * w for t, h, w in key) != len(pixels):
            raise InvalidInput(
                f"a grid of {key} needs {sum(t * h * w for t, h, w in key)} patches, got {len(pixels)}; "
                "pass pixels and grid of the same images"
            )
        if key not in plans:
            while len(plans) >= _PLANS_KEPT:
                del plans[next(iter(plans))]
            plans[key] = on_device(plan_vision(self.network.sizes.vision, key), self.device)
        patches = torch.from_numpy(pixels).to(self.device, self.dtype)
        return self.network.vision(patches, plans[key], between)

    @torch.inference_mode()
    def prefill(
        self, ids: Sequence[int], features: Features | None = None, positions: np.ndarray | None = None, keep: int = 1
    ) -> TorchScores:
        if not 0 <= keep <= len(ids):
            raise InvalidInput(f"keep {keep} does not fit {len(ids)} tokens")
        sizes, seen = self.network.sizes, 0 if features is None else len(features.merged)
        visual = visual_places(ids, (sizes.image_id, sizes.video_id), seen)
        positions = self._places(len(ids), positions)
        return self._pass(
            ids,
            positions,
            keep,
            visual=torch.from_numpy(visual).to(self.device) if seen else None,
            features=features,
            between=self.between_layers,
        )

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> TorchScores:
        positions = self._places(len(token_ids))
        fused = self._fused is not None and len(token_ids) == 1
        if not fused and (not self._captures or len(token_ids) > self.longest_step):
            return self._pass(token_ids, positions, len(token_ids))
        angles = rotary_angles(self.network.text.sizes, positions)
        try:
            scores = self._captured(len(token_ids)).run(token_ids, self.length, *angles)
        except BaseException:
            self._forget_steps()  # a capture may have failed, and its pool with it
            raise
        self._append(positions)
        return scores

    def _captured(self, count: int) -> _CapturedStep:
        span = min(self.capacity, -(-(self.length + count) // _SPAN_STEP) * _SPAN_STEP)
        if (count, span) not in self._steps:
            fused = self._fused if count == 1 else None
            self._steps[count, span] = _CapturedStep(self.network.text, self._cache, count, span, self._pool, fused)
        return self._steps[count, span]

    def _pass(self, ids: Sequence[int], positions: np.ndarray, keep: int, **prompt) -> TorchScores:
        text, count, before = self.network.text, len(ids), self.length
        angles = [torch.from_numpy(a).to(self.device) for a in rotary_angles(text.sizes, positions)]
        slots = torch.arange(before, before + count, device=self.device)
        plan = text.plan(*angles, slots, before + count, whole=count == 1, causal=count > 1 and not before)
        ids = torch.from_numpy(np.asarray(ids, np.int64)).to(self.device)
        logits = text(ids, plan, self._cache, keep=keep, **prompt)
        self._append(positions)
        return TorchScores(logits)

    def close(self) -> None:
        self.network = self._cache = self._fused = self._ahead = None
        self._steps.clear()


class _CapturedStep:
    """A step of `count` tokens that looks at the first `span` slots, with its inputs at fixed addresses.

    All inputs of a token stand in one row of one float64 tensor (id, slot, cos, sin), so that a step needs one transfer.
    """

    def __init__(
        self,
        text: Decoder,
        cache: Cache,
        count: int,
        span: int,
        pool: tuple[int, int] | None = None,
        fused: FusedStep | None = None,
    ):
        self._text, self._cache, self._span, self._pool, self._fused = text, cache, span, pool, fused
        device, on_gpu = cache.keys.device, cache.keys.is_cuda
        self._host = torch.empty(count, 2 + 2 * text.sizes.head_dim, dtype=torch.float64, pin_memory=on_gpu)
        self._inputs = torch.empty_like(self._host, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: tuple[torch.Tensor, torch.Tensor] | None = None

    def run(self, ids: Sequence[int], first_slot: int, cos: np.ndarray, sin: np.ndarray) -> TorchScores:
        row = self._host.numpy()
        row[:, 0], row[:, 1] = ids, np.arange(first_slot, first_slot + len(row))
        row[:, 2 : 2 + cos.shape[1]], row[:, 2 + cos.shape[1] :] = cos, sin
        self._inputs.copy_(self._host, non_blocking=True)
        if not self._inputs.is_cuda:
            return TorchScores(*self._compute())
        if self._graph is None:
            self._capture()
        self._graph.replay()
        return TorchScores(*self._outputs)

    def _compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._fused is not None:
            return self._fused(self._inputs, self._cache, self._span)
        ids, slots = self._inputs[:, :2].long().unbind(1)
        cos, sin = self._inputs[:, 2:].float().chunk(2, 1)
        plan = self._text.plan(cos, sin, slots.contiguous(), self._span)
        logits = self._text(ids, plan, self._cache, keep=len(ids))
        return logits, _best(logits)

    def _capture(self) -> None:
        # The warm-up writes the cache where the replay will write the same again.
        with _CAPTURING:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._compute()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                self._outputs = self._compute()
        self._graph = graph
