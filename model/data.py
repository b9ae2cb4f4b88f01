"""Training data of the embedded model: rendered views with exact labels, in shards.

    python model/data.py render --out DATA --split train --scenes 20000     # resumable: finished shards are kept
    python model/data.py sheet --out DATA --split train                     # sheet.png: samples with labels drawn

Splits: train and val are plain table-tops, wide and wideval the wider world, later and laterval places of it at several times,
close and closeval dials and signs seen closely.
Knows nothing of prompts or networks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from augment import augment, measured, pixel_counts, plain, repaint
from faces import Face, Plate
from moments import ArmInView
from samples import (
    COLOUR_IDS,
    INPUT_SIZE,
    KIND_IDS,
    MOMENTS,
    SEEDS_PER_SPLIT,
    SPLIT_SEEDS,
    VIEW_SIZE,
    WIDE_KIND_IDS,
    Sample,
    Thing,
    pointed,
    sample_of,
    scene_of,
    split_of,
)

__all__ = [
    "COLOUR_IDS",
    "INPUT_SIZE",
    "KIND_IDS",
    "SEEDS_PER_SPLIT",
    "SPLIT_SEEDS",
    "VIEW_SIZE",
    "WIDE_KIND_IDS",
    "Mixture",
    "Sample",
    "Thing",
    "Views",
    "augment",
    "plain",
    "sample_of",
    "scene_of",
]

SHARD_VIEWS = 250
PLAIN = ("train", "val", "test")  # splits that are not of the wider world
WITH_ARM = "wide", "later"  # how splits begin in whose views the arm may stand


def stamp_of(first_seed: int, quality: str) -> str:
    """What a shard was made of: it tells shards of other scenes or another rendering, which must not mix, from ours."""
    split = split_of(first_seed)
    scene = hashlib.sha256(repr(scene_of(first_seed, split)).encode()).hexdigest()[:16]
    return f"{quality} {'arm ' if split.startswith(WITH_ARM) else ''}{scene}"


def render_shard(camera, seeds, path: Path, quality: str, arm: ArmInView | None = None) -> None:
    arrays, metas = {}, []
    for i, seed in enumerate(seeds):
        split = split_of(seed)
        spec = scene_of(seed, split)
        robot = arm.parts(spec, np.random.default_rng([0xA3, seed])) if arm else ()
        sample = sample_of(camera.render(spec, depth=False, robot=robot), split not in PLAIN)
        picture = cv2.imencode(".jpg", sample.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 97])[1]
        labels = cv2.imencode(".png", (sample.labels + 1).astype(np.uint8))[1]
        arrays |= {f"rgb{i}": picture.ravel(), f"labels{i}": labels.ravel()}
        sign = next(iter(sample.signs.values()), None)
        things = [asdict(t) for t in sample.things]
        metas.append(dict(seed=seed, things=things, gauge=sample.gauge, sign=sign, levels=sample.levels))
    temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez(
        temporary,
        metas=np.frombuffer(json.dumps(metas).encode(), np.uint8),
        stamp=stamp_of(seeds[0], quality),
        **arrays,
    )
    temporary.rename(path)  # a shard exists whole or not at all


def render(out: Path, split: str, scenes: int, quality: str, share: int = 0, processes: int = 1) -> None:
    """The shards of a split that fall to one of so many processes."""
    from qwen3vl_ros.sim.camera import SimCamera

    out.mkdir(parents=True, exist_ok=True)
    started, done = time.time(), 0
    arm = ArmInView() if split.startswith(WITH_ARM) else None
    with SimCamera(*VIEW_SIZE, quality=quality, robot=arm.shapes if arm else {}) as camera:
        for shard in range(share, (scenes + SHARD_VIEWS - 1) // SHARD_VIEWS, processes):
            path, first = out / f"{split}_{shard:05d}.npz", SPLIT_SEEDS[split] + shard * SHARD_VIEWS
            if path.exists():
                with opened(path) as done_before:
                    if str(done_before["stamp"]) != stamp_of(first, quality):
                        raise ValueError(
                            f"{path} is not of this rendering (--quality {quality}); give another --out, or delete it"
                        )
                continue
            render_shard(camera, range(first, first + SHARD_VIEWS), path, quality, arm)
            done += SHARD_VIEWS
            print(f"{path.name}: {done / (time.time() - started):.1f} views/s", flush=True)


@contextmanager
def opened(path: Path):
    """A shard's arrays. Raises ValueError for one that was cut short, or whose scenes are drawn otherwise today."""
    with path.open("rb") as file:  # np.load would leave a file that it refuses open
        try:
            shard = np.load(file)
            first, stamp = json.loads(shard["metas"].tobytes())[0]["seed"], str(shard["stamp"])
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path} is no whole shard of this program ({error}); delete it and render again"
            ) from None
        if stamp != stamp_of(first, stamp.split()[0]):
            raise ValueError(f"{path} shows other scenes than qwen3vl_ros.sim draws now; delete it and render again")
        yield shard


class Views:
    """The views of a split, decoded on demand; the compressed bytes stay in memory."""

    def __init__(self, folder: Path, split: str, limit: int | None = None):
        self._folder, self._split, self._limit = folder, split, limit
        self._loaded: set[str] = set()
        self._items: list[tuple[bytes, bytes, dict]] = []
        self._dials: list[int] = []  # views with a dial, and with a sign
        self._signs: list[int] = []
        self._faces: dict[int, Face] = {}
        self._plates: dict[int, Plate] = {}
        self.refresh()
        if not self._items:
            raise FileNotFoundError(
                f"no {split} shards in {folder}; make them with: python model/data.py render "
                f"--out {folder} --split {split}"
            )

    def refresh(self) -> None:
        """Take in shards that were finished since the last call, so that training can start while rendering goes on."""
        for path in sorted(self._folder.glob(f"{self._split}_*.npz")):
            if (
                path.name in self._loaded
                or path.name.endswith(".tmp.npz")
                or (self._limit and len(self) >= self._limit)
            ):
                continue
            with opened(path) as shard:
                for i, meta in enumerate(json.loads(shard["metas"].tobytes())):
                    if meta["gauge"]:
                        self._dials.append(len(self))
                    if meta.get("sign"):
                        self._signs.append(len(self))
                    self._items.append((shard[f"rgb{i}"], shard[f"labels{i}"], meta))
            self._loaded.add(path.name)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> Sample:
        picture, labels, meta = self._items[i]
        rgb = cv2.imdecode(picture, cv2.IMREAD_COLOR)[..., ::-1]
        labels = cv2.imdecode(labels, cv2.IMREAD_GRAYSCALE).astype(np.int16) - 1
        things = tuple(Thing(**t | dict(span_m=tuple(map(tuple, t["span_m"])))) for t in meta["things"])
        labels[labels >= len(things)] = -1  # mixtures of two numbers, where a GPU's driver smooths edges all the same
        levels = tuple(box and tuple(box) for box in meta["levels"])
        sample = Sample(rgb, labels, things, {}, {}, levels, split_of(meta["seed"]) not in PLAIN)
        if meta["gauge"]:
            index = next(k for k, t in enumerate(things) if t.kind == "gauge")
            points = {n: tuple(p) for n, p in meta["gauge"]["points_px"].items()}
            sample = replace(sample, dials={index: meta["gauge"] | pointed(points)})
        if meta["sign"]:
            sample = replace(sample, signs={next(k for k, t in enumerate(things) if t.kind == "sign"): meta["sign"]})
        for kind, written, faces, make in (
            ("gauge", sample.dials, self._faces, Face),
            ("sign", sample.signs, self._plates, Plate),
        ):
            if written and i not in faces and any((labels == k).sum() > 60 for k in written):
                faces[i] = make(sample, scene_of(meta["seed"], split_of(meta["seed"])))
        if i in self._plates:
            ((k, sign),) = sample.signs.items()
            sample = replace(sample, signs={k: sign | pointed(self._plates[i].letters_px(sign["text"]))})
        return sample

    def draw(self, rng: np.random.Generator, dial_share: float = 0.0) -> Sample:
        """A random view, one with a dial in at least `dial_share` of all; each time dial and sign say something else."""
        among = self._dials if self._dials and rng.random() < dial_share else range(len(self))
        return self._said_anew(among[int(rng.integers(len(among)))], rng)

    def moments(self, count: int, rng: np.random.Generator) -> list[Sample]:
        """So many views of one place of `later`; what dial and sign say changes from one to the next as well."""
        first = int(rng.integers(len(self) // MOMENTS)) * MOMENTS
        return [self._said_anew(first + int(rng.integers(MOMENTS)), rng) for _ in range(count)]

    def _said_anew(self, i: int, rng: np.random.Generator) -> Sample:
        sample = self[i]
        if i in self._faces:
            sample = self._faces[i].with_new_reading(sample, rng)
        return self._plates[i].with_new_text(sample, rng) if i in self._plates else sample

    def mosaic(self, rng: np.random.Generator, size: tuple[int, int] = INPUT_SIZE) -> Sample:
        """Six dials, or six signs, side by side, each near the size it has in a view, and nothing else labelled.

        A dial stands in every sixth view: too few to learn to read from.
        """
        if not self._dials:
            raise ValueError("no view has a dial; render more than a handful of scenes")
        w, h = size
        side, of_signs = w * 3 // 10, bool(self._signs) and rng.random() < 0.5
        rgb, labels = np.full((h, w, 3), rng.integers(30, 220, 3), np.uint8), np.full((h, w), -1, np.int16)
        left, top, things, written = rng.integers(0, w - 3 * side + 1), rng.integers(0, h - 2 * side + 1), [], {}
        for n in range(6):
            whole = self._whole(self._signs if of_signs else self._dials, rng)
            ((index, shows),) = (whole.signs if of_signs else whole.dials).items()
            ys, xs = np.nonzero(whole.labels == index)
            zoom = side / (rng.uniform(1.0, 1.4) * max(np.ptp(xs), np.ptp(ys)))
            corner = np.array((xs.min() + xs.max(), ys.min() + ys.max())) / 2 + rng.uniform(-4, 4, 2) - side / zoom / 2
            image = np.array(((zoom, 0, -zoom * corner[0]), (0, zoom, -zoom * corner[1])))
            x0, y0 = int(left + n % 3 * side), int(top + n // 3 * side)
            cell = np.s_[y0 : y0 + side, x0 : x0 + side]
            rgb[cell] = cv2.warpAffine(whole.rgb, image, (side, side), borderMode=cv2.BORDER_REPLICATE)
            labels[cell] = np.where(
                cv2.warpAffine((whole.labels == index).astype(np.uint8), image, (side, side), flags=cv2.INTER_NEAREST),
                n,
                -1,
            )
            things.append(whole.things[index])
            points = {m: tuple(zoom * (np.array(p) - corner) + (x0, y0)) for m, p in shows.get("points_px", {}).items()}
            written[n] = shows | pointed({m: (float(x), float(y)) for m, (x, y) in points.items()})
        dials, signs = ({}, written) if of_signs else (written, {})
        sample = Sample(repaint(rgb, rng), labels, tuple(things), dials, signs)
        return measured(sample, pixel_counts(sample))

    def _whole(self, among: list[int], rng: np.random.Generator) -> Sample:
        """One of these views, of which a good part of the dial and of the sign is seen."""
        for _ in range(20):
            sample = self._said_anew(among[int(rng.integers(len(among)))], rng)
            if all(sample.things[k].visibility > 0.8 for k in (*sample.dials, *sample.signs)):
                break
        return sample


class Mixture:
    """Views of several splits, drawn in shares."""

    def __init__(self, folder: Path, shares: dict[str, float]):
        self.views = {split: Views(folder, split) for split, share in shares.items() if share > 0}
        total = sum(shares.values())
        self._mosaics: list[Sample] = []
        self._splits, self._shares = list(self.views), [shares[split] / total for split in self.views]

    def refresh(self) -> None:
        for views in self.views.values():
            views.refresh()

    def draw(self, rng: np.random.Generator, dial_share: float = 0.0) -> Sample:
        return self.views[str(rng.choice(self._splits, p=self._shares))].draw(rng, dial_share)

    def moments(self, count: int, rng: np.random.Generator) -> list[Sample]:
        """Views of one place at different times; none where no split has such."""
        return self.views["later"].moments(count, rng) if "later" in self.views else []

    def mosaic(self, rng: np.random.Generator, reuse: int = 5) -> Sample:
        """A mosaic, drawn anew one time in `reuse`, or one of the last 200 repainted: making one costs as much as ten views."""
        if len(self._mosaics) >= 20 and rng.random() > 1 / reuse:
            known = self._mosaics[int(rng.integers(len(self._mosaics)))]
            return replace(known, rgb=repaint(known.rgb, rng))
        among = [s for s in self._splits if s != "close" or len(self._splits) == 1]
        made = self.views[str(rng.choice(among))].mosaic(rng)
        self._mosaics = [*self._mosaics[-199:], made]
        return made


def sheet(folder: Path, split: str, path: Path) -> None:
    """Sixteen samples, labels drawn on them: two columns as rendered, one augmented as in training, one of mosaics."""
    views, rng, cells = Views(folder, split, limit=SHARD_VIEWS), np.random.default_rng(0), []
    for i in range(16):
        sample = plain(views[i * 6]) if i % 4 < 2 else augment(views.draw(rng), rng) if i % 4 < 3 else views.mosaic(rng)
        picture = sample.rgb.copy()
        for t in sample.things:
            x0, y0, x1, y1 = (round(v) for v in t.box_xyxy_px)
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), (0, 255, 0) if t.visibility >= 0.5 else (255, 160, 0), 1)
            cv2.putText(picture, f"{t.colour} {t.kind} {t.visibility:.2f}", (x0, y0 + 9), 0, 0.33, (255, 0, 255), 1)
        for k, dial in sample.dials.items():
            x, y = (round(v) for v in sample.things[k].box_xyxy_px[::3])
            for px in dial["points_px"].values():
                cv2.circle(picture, tuple(map(round, px)), 2, (0, 255, 255), -1)
            cv2.putText(
                picture,
                "{zone} {value:g} of {minimum:g}..{maximum:g} {unit}".format(**dial),
                (x, y - 4),
                0,
                0.33,
                (255, 255, 0),
                1,
            )
        for box in sample.levels:
            if box is not None:
                cv2.rectangle(picture, *((round(box[j]), round(box[j + 1])) for j in (0, 2)), (80, 80, 255), 1)
        for k, sign in sample.signs.items():
            at = tuple(round(v) for v in sample.things[k].box_xyxy_px[::3])
            cv2.putText(picture, sign["text"], at, 0, 0.4, (255, 255, 0), 1)
        cells.append(picture)
    rows = [np.hstack(cells[i : i + 4]) for i in range(0, 16, 4)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("render", "sheet"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--split", choices=tuple(SPLIT_SEEDS), default="train")
    parser.add_argument("--scenes", type=int, default=20000, help=f"rounded up to whole shards of {SHARD_VIEWS}")
    parser.add_argument("--processes", type=int, default=1, help="that render, each its shards")
    parser.add_argument("--quality", default="default", choices=("default", "fast"), help="rendering quality")
    args = parser.parse_args(argv)
    if not 0 < args.scenes <= SEEDS_PER_SPLIT:
        parser.error(f"--scenes {args.scenes} must be 1 to {SEEDS_PER_SPLIT}, the seeds a split owns")
    if args.processes < 1:
        parser.error(f"--processes {args.processes} must be 1 or more")
    try:
        if args.action == "render":
            given = args.out, args.split, args.scenes, args.quality
            if args.processes == 1:
                render(*given)
            else:
                with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
                    shares = [pool.submit(render, *given, share, args.processes) for share in range(args.processes)]
                    for share in shares:
                        share.result()
        else:
            sheet(args.out, args.split, args.out / "sheet.png")
            print(args.out / "sheet.png")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
