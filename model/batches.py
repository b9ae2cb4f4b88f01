"""What a training step needs, drawn, augmented, labelled and asked about: arrays alone, so that other processes can make them
while the network computes. Knows nothing of networks."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from alone import PackedAlone
from data import Mixture, augment
from frames import PackedFrames
from settings import Settings
from targets import dense_targets
from text import PackedText
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

REFRESH_EVERY = 20  # batches between looks for shards that were finished meanwhile


class Batches(IterableDataset):
    """Endless batches of one phase, `share` pictures each that are asked about, and some that are only seen.

    images B,H,W,3 uint8; truth: of targets.dense_targets, B,... each; in the joint phase text, alone and frames too: what the loss
    of PackedText, PackedAlone and PackedFrames needs. frames_of: how many pictures a question of `frames` is about, 0 for none.
    """

    def __init__(self, views: Mixture, packer: PackedText, settings: Settings, phase: str, workers: int, seed: tuple):
        self.views, self.packer, self.settings, self.phase, self.seed = views, packer, settings, phase, seed
        self.share, self.mosaics = settings.batch // workers, settings.mosaics // workers
        self.seen_only = settings.seen_only // workers if phase == "joint" else 0
        self.alone = PackedAlone(packer, settings.alone_rows // workers)
        self.frames = {n: PackedFrames(packer, n) for n in (2, 3, 4)}

    def samples(self, rng: np.random.Generator, count: int, moments: int = 0) -> list:
        """Views at the model's size. moments: in half of them, one place stands in so many that follow each other."""
        of_places = []
        for _ in range(count // (2 * moments) if moments else 0):
            seed, alike = int(rng.integers(1 << 62)), rng.random() < 0.6  # the camera stands still, or it does not
            for k, view in enumerate(self.views.moments(moments, rng)):
                of_places.append(augment(view, np.random.default_rng(seed if alike else [seed, k])))
        return of_places + self._others(rng, count - len(of_places))

    def _others(self, rng: np.random.Generator, count: int) -> list:
        return [augment(self.views.draw(rng, self.settings.dial_share), rng) for _ in range(count)]

    def draw(self, rng: np.random.Generator) -> dict:
        of = 0
        if self.phase == "joint" and self.settings.frames_every and rng.random() < 1 / self.settings.frames_every:
            of = int(rng.integers(2, 5))
        asked = self.samples(rng, self.share, of)
        unasked = [self.views.mosaic(rng) for _ in range(self.mosaics)] + self.samples(rng, self.seen_only)
        batch = collate(asked + unasked, self.packer.grid) | dict(frames_of=of)
        if self.phase == "joint":
            batch["text"] = self.packer.pack_all(asked, rng)
            batch["alone"] = self.alone.pack(rng) if self.alone.rows else {}
            if of:
                batch["frames"] = self.frames[of].pack_all(asked, rng)
        return batch

    def __iter__(self):
        worker = get_worker_info()
        if worker:
            cv2.setNumThreads(0)
        rng = np.random.default_rng([*self.seed, worker.id + 1 if worker else 0])
        while True:
            for _ in range(REFRESH_EVERY):
                yield self.draw(rng)
            self.views.refresh()


def collate(samples, grid) -> dict:
    targets = [dense_targets(s, grid) for s in samples]
    truth = {k: np.stack([t[k] for t in targets]) for k in targets[0]}
    return dict(images=np.stack([s.rgb for s in samples]), truth=truth)


def stream(batches: Batches, loaders: int):
    """The batches as tensors, made by so many other processes, or by this one."""
    options = dict(prefetch_factor=4, pin_memory=torch.cuda.is_available()) if loaders else {}
    return iter(DataLoader(batches, batch_size=None, num_workers=loaders, **options))


def on(device: str, part):
    """Arrays or tensors, in dictionaries, as tensors of a device."""
    if isinstance(part, dict):
        return {k: on(device, v) for k, v in part.items()}
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(part)
    return part.to(device, non_blocking=True) if isinstance(part, torch.Tensor) else part
