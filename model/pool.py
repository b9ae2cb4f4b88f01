"""What the frozen tower has seen, kept to be asked about again. Knows nothing of questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch


class Pool:
    """Views that the frozen tower has seen, the last `most` of them, kept to be asked about again; and those of one place in groups."""

    def __init__(self, most: int):
        self.most, self.views, self.places = most, [], []

    def __len__(self) -> int:
        return len(self.views)

    def add(self, merged, deep, samples, owner, moments: int = 0) -> None:
        """moments: the first half of these views are of places, so many of each in a row; 0: none are."""
        new = [
            (m, d, replace(s, rgb=None), o)  # questions need no pixels
            for m, d, s, o in zip(merged, zip(*deep), samples, owner)
        ]
        self.views = [*self.views, *new][-self.most :]
        if moments:
            groups = [new[k * moments : (k + 1) * moments] for k in range(len(new) // (2 * moments))]
            self.places = [*self.places, *groups][-self.most // 8 :]

    def draw(self, count: int, rng: np.random.Generator, moments: int = 0) -> tuple:
        """merged count,N,D, the DeepStack features, the samples and the owners of random views. moments: the first half of them are
        of places, so many of each in a row, as far as there are such.
        """
        fitting = [place for place in self.places if len(place) >= moments] if moments else []
        chosen = []
        for _ in range(count // (2 * moments) if fitting else 0):
            place = fitting[int(rng.integers(len(fitting)))]
            chosen += [place[int(k)] for k in rng.permutation(len(place))[:moments]]
        chosen += [self.views[int(i)] for i in rng.integers(len(self.views), size=count - len(chosen))]
        merged, deep, samples, owner = zip(*chosen)
        return torch.stack(merged), [torch.stack(d) for d in zip(*deep)], list(samples), torch.stack(owner)
