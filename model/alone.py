"""Questions without a picture, packed into rows of their own: what a sentence asks for, what an order means, what facts say.

Rows without the picture's prefix cost a third less a token, and there is no end of invented questions to fill them with. Knows nothing of
pictures.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from embedded import Batched
from sayings import Sayings
from text import PackedText, padded

ROW = 160  # tokens; longer questions, one plan in a thousand, are left out
# How often each is asked; beyond and unmeasured are asked about pictures as well (people.SHARES).
SHARES = dict(understand=9, plan=15, tell=26, beyond=3, unmeasured=1)
KINDS = "parse", "plan", "facts", "abstain", "unmeasured"  # of the questions that these make
_NAMES, _WEIGHTS = list(SHARES), np.array(list(SHARES.values())) / sum(SHARES.values())


class PackedAlone:
    """rows x ROW tokens of questions, each of which sees itself alone, at positions that begin with it."""

    def __init__(self, packer: PackedText, rows: int, held_out: bool = False):
        self.packer, self.rows, self.held_out = packer, rows, held_out

    def _question(self, rng: np.random.Generator):
        language = "zh" if rng.random() < self.packer.chinese_share else "en"
        sayings, name = Sayings(rng, language, self.held_out), str(rng.choice(_NAMES, p=_WEIGHTS))
        return getattr(sayings, name)(pictured=False) if name in ("beyond", "unmeasured") else getattr(sayings, name)()

    def pack(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """ids R,T, positions R,T, question R,T (its number in all, -1 padding), weights R,T; kind of each question, an index into
        KINDS."""
        rows, kinds = [], []
        for _ in range(self.rows):
            ids, positions, numbers, weights, misses = [], [], [], [], 0
            while misses < 3 and len(ids) < ROW - 16:
                question = self._question(rng)
                tokens, weight, _, _ = self.packer.pair(question)
                if len(ids) + len(tokens) > ROW:
                    misses += 1
                    continue
                ids += tokens
                positions += range(len(tokens))
                numbers += [len(kinds)] * len(tokens)
                weights += weight
                kinds.append(question.kind)
            fills = (ids, self.packer.pad), (positions, 0), (numbers, -1), (weights, 0.0)
            rows.append([padded(values, ROW, fill) for values, fill in fills])
        ids, positions, numbers, weights = (np.stack(x) for x in zip(*rows))
        kinds = np.array([KINDS.index(kind) for kind in kinds])
        return dict(ids=ids, positions=positions, numbers=numbers, weights=weights.astype(np.float32), kinds=kinds)

    @staticmethod
    def read(net: Batched, ids: torch.Tensor, positions: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Hidden states R,T,D."""
        causal = torch.ones(ROW, ROW, dtype=torch.bool, device=ids.device).tril()
        seen = (numbers[:, None] == numbers[..., None]) & causal
        mask = torch.zeros(seen.shape, device=ids.device).masked_fill(~seen, -1e4)[:, None]
        nothing = torch.zeros(len(ids), 0, net.model.config.text_config.hidden_size, device=ids.device)
        return net.read(nothing, [], ids, positions.expand(3, -1, -1), mask, slice(0, 0))

    def loss(self, net: Batched, packed: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted cross-entropy of the answers; and the share of whole answers right, token by token, of the first three kinds, NaN
        for one that was not asked.

        packed: tensors of `pack`."""
        ids, positions, numbers, weights, kinds = packed.values()
        hidden = self.read(net, ids, positions, numbers)
        at = weights[:, 1:] > 0
        logits = F.linear(hidden[:, :-1][at], net.model.lm_head.weight).float()
        target, weight = ids[:, 1:][at], weights[:, 1:][at]
        loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        wrong = torch.zeros(len(kinds), dtype=torch.bool, device=ids.device)
        wrong[numbers[:, 1:][at][logits.argmax(-1) != target]] = True
        shares = {f"{kind}_whole": 1 - wrong[kinds == KINDS.index(kind)].float().mean() for kind in KINDS[:3]}
        return loss, dict(alone=loss.detach()) | shares
