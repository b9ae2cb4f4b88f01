"""The PyTorch runtime (`Runtime` in base.py) on `network.py`: a CPU, or any device torch has.

The cache is allocated once; passes write it in place. Knows no text, no stopping and no drafts: that is decode.py's.
"""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
import torch

from qwen3vl_ros.engine.network import Cache, Features, Network, on_device
from qwen3vl_ros.engine.plans import VisionPlan, plan_vision, rotary_angles
from qwen3vl_ros.engine.sequence import Sequence as TokenSequence
from qwen3vl_ros.engine.sequence import visual_places
from qwen3vl_ros.types import InvalidInput

_PLANS_KEPT = 8


class TorchScores:
    """Logits that stay on their device; see base.Scores."""

    def __init__(self, logits: torch.Tensor):
        self._logits = logits

    def best(self) -> tuple[list[int], list[float]]:
        logits = self._logits.float()
        top, ids = logits.max(-1)
        # One transfer for both; token ids are exact in float64.
        both = torch.stack((ids.double(), (top - logits.logsumexp(-1)).double())).tolist()
        return [int(i) for i in both[0]], both[1]

    def logits(self) -> np.ndarray:
        return self._logits.float().cpu().numpy()


class TorchRuntime:
    """One sequence of at most `capacity` tokens, on the network's device."""

    def __init__(self, network: Network, capacity: int):
        weight = network.text.norm.weight
        self.network, self.capacity, self.device, self.dtype = network, capacity, weight.device, weight.dtype
        self.between_layers: Callable[[], None] = lambda: None
        self._cache = Cache.allocate(network.sizes.text, capacity, self.device, self.dtype)
        self._plans: dict[tuple, VisionPlan] = {}
        self._sequence = TokenSequence(capacity)
        self.longest_step = capacity

    @property
    def length(self) -> int:
        return len(self._sequence)

    @property
    def next_position(self) -> int:
        return self._sequence.next_position

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> Features:
        key = tuple(map(tuple, np.asarray(grid).tolist()))
        if sum(t * h * w for t, h, w in key) != len(pixels):
            raise InvalidInput(f"a grid of {key} needs {sum(t * h * w for t, h, w in key)} patches, got {len(pixels)}; "
                               "pass pixels and grid of the same images")
        if key not in self._plans:
            while len(self._plans) >= _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = on_device(plan_vision(self.network.sizes.vision, key), self.device)
        patches = torch.from_numpy(pixels).to(self.device, self.dtype)
        return self.network.vision(patches, self._plans[key], self.between_layers)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], features: Features | None = None, positions: np.ndarray | None = None,
                keep: int = 1) -> TorchScores:
        if not 0 <= keep <= len(ids):
            raise InvalidInput(f"keep {keep} does not fit {len(ids)} tokens")
        sizes, seen = self.network.sizes, 0 if features is None else len(features.merged)
        visual = visual_places(ids, (sizes.image_id, sizes.video_id), seen)
        positions = self._sequence.places(len(ids), positions)
        return self._pass(ids, positions, keep, visual=torch.from_numpy(visual).to(self.device) if seen else None,
                          features=features, between=self.between_layers)

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> TorchScores:
        return self._pass(token_ids, self._sequence.places(len(token_ids)), len(token_ids))

    def rollback(self, count: int) -> None:
        self._sequence.rollback(count)

    def _pass(self, ids: Sequence[int], positions: np.ndarray, keep: int, **prompt) -> TorchScores:
        text, count, before = self.network.text, len(ids), self.length
        angles = [torch.from_numpy(a).to(self.device) for a in rotary_angles(text.sizes, positions)]
        slots = torch.arange(before, before + count, device=self.device)
        plan = text.plan(*angles, slots, before + count, whole=count == 1, causal=count > 1 and not before)
        ids = torch.from_numpy(np.asarray(ids, np.int64)).to(self.device)
        logits = text(ids, plan, self._cache, keep=keep, **prompt)
        self._sequence.append(positions)
        return TorchScores(logits)

    def close(self) -> None:
        self.network = self._cache = None
