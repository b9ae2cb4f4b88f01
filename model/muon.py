"""Muon, the matrices of one shape together: on a GPU a step of this small network waits for its thousands of kernels."""

from __future__ import annotations

import torch


class Muon(torch.optim.Muon):
    """torch.optim.Muon with the same result and a tenth of its kernels."""

    @torch.no_grad()
    def step(self, closure=None) -> None:
        alike: dict[tuple, list] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((tuple(p.shape), group["lr"], group["weight_decay"]), []).append((p, group))
        for (shape, rate, decay), members in alike.items():
            params, group = [p for p, _ in members], members[0][1]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
            kept, grads = [self.state[p]["momentum_buffer"] for p in params], [p.grad for p in params]
            torch._foreach_lerp_(kept, grads, 1 - group["momentum"])
            update = torch.stack(grads).lerp(torch.stack(kept), group["momentum"])
            scale = 0.2 * max(shape) ** 0.5  # match_rms_adamw
            torch._foreach_mul_(params, 1 - rate * decay)
            torch._foreach_add_(
                params, list(_orthogonal(update, group).to(params[0].dtype).unbind()), alpha=-rate * scale
            )


def _orthogonal(update: torch.Tensor, group: dict) -> torch.Tensor:
    """K matrices -> near the nearest matrices whose singular values are one, by Newton and Schulz's iteration."""
    a, b, c = group["ns_coefficients"]
    tall = update.shape[1] > update.shape[2]
    x = (update.mT if tall else update).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
