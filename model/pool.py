"""What the frozen tower has seen, kept to be asked about again. Knows nothing of questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch


class Pool:
    """Views that the frozen tower has seen, the last `most` of them, kept to be asked about again."""

    def __init__(self, most: int):
        self.most, self.views = most, []

    def __len__(self) -> int:
        return len(self.views)

    def add(self, merged, deep, samples, owner) -> None:
        new = [
            (m, d, replace(s, rgb=None), o)  # questions need no pixels
            for m, d, s, o in zip(merged, zip(*deep), samples, owner)
        ]
        self.views = [*self.views, *new][-self.most :]

    def draw(self, count: int, rng: np.random.Generator) -> tuple:
        """merged count,N,D, the DeepStack features, the samples and the owners of random views."""
        chosen = [self.views[int(i)] for i in rng.integers(len(self.views), size=count)]
        merged, deep, samples, owner = zip(*chosen)
        return torch.stack(merged), [torch.stack(d) for d in zip(*deep)], list(samples), torch.stack(owner)
