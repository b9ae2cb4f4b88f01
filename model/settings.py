"""Everything that decides a training run, and how a command changes it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run. Steps are optimiser steps; batch is images a step over all workers."""

    seed: int = 0
    batch: int = 16
    vision_steps: int = 2400
    language_steps: int = 300
    joint_steps: int = 17000
    vision_rate: float = 1e-3
    language_rate: float = 2e-3
    joint_rate: float = 1e-3
    warmup_steps: int = 150
    tower_share: float = 0.7  # of the joint rate, for the tower, which has learned already
    decay_share: float = 0.5  # the last share of each phase, in which the rate falls to a fiftieth
    weight_decay: float = 0.03
    clip: float = 1.0
    pack_tokens: int = 384  # question-answer tokens an image
    chinese_share: float = 0.4  # of the questions: things look the same in every language, only the words are new
    plain_share: float = 0.35  # of the views, by their split (data.py)
    wide_share: float = 0.45
    close_share: float = 0.2
    later_share: float = 0.0  # one view at a time; groups of them are drawn beside that
    dense_weight_joint: float = 1.0
    mosaics: int = 4  # of dials or signs, seen by the tower beside each batch
    frames_every: int = 2  # steps between questions about several of the batch's pictures at once; 0 for none
    seen_only: int = (
        0  # views that the tower sees beside each batch and nobody is asked about: a third of the cost of others
    )
    dial_share: float = 0.3  # of the views are drawn among those with a dial; of the others a sixth has one too
    alone_rows: int = 40  # of questions without a picture, beside each batch; 0: they stand among the others
    alone_weight: float = 0.7
    pool_views: int = 2400  # kept as features while the tower is frozen: seeing again costs more than asking again
    pool_reuse: int = 6  # steps for each batch of new images then

    def __post_init__(self):
        for f in fields(self):
            value, of = getattr(self, f.name), {"int": int, "float": (int, float)}[f.type]
            if isinstance(value, bool) or not isinstance(value, of) or not 0 <= value < math.inf:
                raise ValueError(f"setting {f.name} = {value!r} must be a number of 0 or more, of type {f.type}")
            if f.name.endswith("_share") and value > 1:
                raise ValueError(f"setting {f.name} = {value!r} is a share: 0 to 1")
            if f.name in ("batch", "warmup_steps", "pool_views", "pool_reuse") and value == 0:
                raise ValueError(f"setting {f.name} must be 1 or more")

    def splits(self) -> dict[str, float]:
        """Shares of the splits that views are drawn from."""
        shares = dict(train=self.plain_share, wide=self.wide_share, close=self.close_share, later=self.later_share)
        return {split: share for split, share in shares.items() if share > 0}

    def phase(self, step: int) -> tuple[str, int, int, float]:
        """(name, step within the phase, its steps, its peak rate)."""
        for name in ("vision", "language", "joint"):
            steps = getattr(self, f"{name}_steps")
            if step < steps:
                return name, step, steps, getattr(self, f"{name}_rate")
            step -= steps
        return "done", 0, 0, 0.0

    def rate(self, step: int, spent: float = 0.0) -> float:
        """Warm-up, plateau, linear decay: a phase can be lengthened while it stands on its plateau.

        spent: share of the time that the run has, where that decides how far a phase has come."""
        name, at, steps, peak = self.phase(step)
        fall, left = max(1, int(self.decay_share * steps)), min(steps - at, (1 - spent) * steps)
        return peak * min(1.0, (at + 1) / self.warmup_steps, max(0.02, left / fall))


def chosen_settings(run: Path, changes: str) -> Settings:
    """Those the run was last trained with, or the defaults, with changes, a JSON object. Raises ValueError."""
    try:
        changed = json.loads(changes)
    except json.JSONDecodeError as error:
        raise ValueError(f"--set {changes!r} is no JSON: {error}") from None
    known = [f.name for f in fields(Settings)]
    if not isinstance(changed, dict) or (unknown := sorted(changed.keys() - known)):
        raise ValueError(
            f"--set {changes!r} must be a JSON object of settings"
            + (f"; there is no {', '.join(unknown)}, only {', '.join(known)}" if isinstance(changed, dict) else "")
        )
    saved = {}
    if (run / "last.pt").exists():
        saved = torch.load(run / "last.pt", map_location="cpu", weights_only=True, mmap=True)["settings"]
        saved = {k: v for k, v in saved.items() if k in known}
        for k, v in changed.items():
            if v != saved.get(k, v):
                print(f"{k}: {saved[k]} until now, {v} from here on", flush=True)
    return Settings(**saved | changed)
