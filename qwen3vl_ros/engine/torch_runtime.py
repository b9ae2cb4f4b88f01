"""The PyTorch runtime: one sequence on `network.py`, fed and taken back token by token.

`encode` sees, `prefill` reads the prompt, `step` reads one or more new tokens, `rollback` forgets the last ones. The
cache is allocated once; passes write it in place. Knows no text, no stopping and no drafts: that is decode.py's.
"""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
import torch

from qwen3vl_ros.engine.network import Cache, Features, Network, VisionPlan, plan_vision
from qwen3vl_ros.types import EngineError, InvalidInput

_PLANS_KEPT = 8


class TorchRuntime:
    """One sequence of at most `capacity` tokens, on the network's device.

    between_layers: called before each layer of `encode` and `prefill`; what it raises ends the pass, and the sequence is
    as it was before the pass.
    """

    def __init__(self, network: Network, capacity: int):
        weight = network.text.norm.weight
        self.network, self.capacity, self.device, self.dtype = network, capacity, weight.device, weight.dtype
        self.between_layers: Callable[[], None] = lambda: None
        self._cache = Cache.allocate(network.sizes.text, capacity, self.device, self.dtype)
        self._plans: dict[tuple, VisionPlan] = {}
        # After n tokens the next one stands at position next[n]; kept for each n so that any rollback finds its place.
        self._next = [0]

    @property
    def length(self) -> int:
        """Tokens in the sequence."""
        return len(self._next) - 1

    @property
    def next_position(self) -> int:
        """The position of the next text token on all three axes."""
        return self._next[-1]

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray, grid: np.ndarray) -> Features:
        """Features of images and clips: pixels N x patch_values, grid M x 3 (frames, rows, columns of patches)."""
        key = tuple(map(tuple, np.asarray(grid).tolist()))
        if sum(t * h * w for t, h, w in key) != len(pixels):
            raise InvalidInput(f"a grid of {key} needs {sum(t * h * w for t, h, w in key)} patches, got {len(pixels)}; "
                               "pass pixels and grid of the same images")
        if key not in self._plans:
            while len(self._plans) >= _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan_vision(self.network.sizes.vision, key, self.device)
        patches = torch.from_numpy(pixels).to(self.device, self.dtype)
        return self.network.vision(patches, self._plans[key], self.between_layers)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], features: Features | None = None, positions: np.ndarray | None = None,
                keep: int = 1) -> torch.Tensor:
        """Append a prompt, or a part of one, and return the logits of its last `keep` tokens, keep x vocabulary.

        features: of the visual tokens in `ids`. positions: 3 x len(ids), absolute (engine/prepare.py); without them the
        tokens are text and go on from the last position.
        """
        ids = np.asarray(ids, np.int64)
        if positions is None:
            positions = np.broadcast_to(self.next_position + np.arange(len(ids)), (3, len(ids)))
        sizes = self.network.sizes
        visual = np.flatnonzero((ids == sizes.image_id) | (ids == sizes.video_id))
        seen = 0 if features is None else len(features.merged)
        if len(visual) != seen:
            raise InvalidInput(f"the prompt has {len(visual)} visual tokens and the features are of {seen}; pass the "
                               "features of the images in these ids")
        if positions.shape != (3, len(ids)) or not 0 <= keep <= len(ids):
            raise InvalidInput(f"positions {positions.shape} or keep {keep} do not fit {len(ids)} tokens")
        slots = self._slots(len(ids))
        after = np.maximum.accumulate(np.maximum(positions.max(0) + 1, self.next_position))
        visual = torch.from_numpy(visual).to(self.device) if seen else None
        logits = self._pass(torch.from_numpy(ids), torch.from_numpy(np.ascontiguousarray(positions)), slots, keep,
                            visual=visual, features=features, between=self.between_layers)
        self._next += after.tolist()
        return logits

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Append k text tokens, a sampled one and drafts behind it; the logits after each, k x vocabulary."""
        ids = torch.as_tensor(token_ids, dtype=torch.int64)
        slots = self._slots(len(ids))
        positions = (self.next_position + torch.arange(len(ids))).expand(3, -1)
        logits = self._pass(ids, positions, slots, len(ids))
        self._next += range(self.next_position + 1, self.next_position + 1 + len(ids))
        return logits

    def rollback(self, count: int) -> None:
        """Forget the last `count` tokens."""
        if not 0 <= count <= self.length:
            raise InvalidInput(f"cannot take back {count} of {self.length} tokens")
        del self._next[len(self._next) - count:]

    def _slots(self, count: int) -> torch.Tensor:
        if not count:
            raise InvalidInput("a pass needs at least one token")
        if self.length + count > self.capacity:
            raise EngineError(f"{self.length} + {count} tokens do not fit a cache of {self.capacity}; shorten the prompt "
                              "or the answer, or load the model with a larger cache")
        return torch.arange(self.length, self.length + count, device=self.device)

    def _pass(self, ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, keep: int,
              **prompt) -> torch.Tensor:
        count, span = len(ids), self.length + len(ids)
        plan = self.network.text.plan(positions.to(self.device), slots, span, whole=count == 1,
                                      causal=count > 1 and span == count)
        return self.network.text(ids.to(self.device), plan, self._cache, keep=keep, **prompt)
