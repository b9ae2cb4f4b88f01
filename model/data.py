"""Training data of the embedded model: rendered views with exact labels, in shards; and augmentation that keeps them true.

Scenes come from `qwen3vl_ros.sim`, the very generator the demo uses. Knows nothing of prompts or networks.

    python model/data.py render --out DATA --split train --scenes 20000     # resumable: finished shards are kept
    python model/data.py sheet --out DATA --split train                     # sheet.png: samples with labels drawn

Seeds: each split owns a range that the others, the demo (below 1,000,000) and model/evaluate.py never touch.
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from qwen3vl_ros.sim.scenes import COLOURS, GAUGE_SCALES, KINDS, SceneSpec, dial_value, sample_scene
from qwen3vl_ros.sim.specs import FOVY_DEG
from qwen3vl_ros.sim.textures import GAUGE_TEXTURE_PX, NEEDLE_REACH, gauge_face, needle_angle_rad
from qwen3vl_ros.sim.truth import face_side_m, world_T_dial

SPLIT_SEEDS = {"train": 1_000_000, "val": 2_000_000, "test": 3_000_000}
SEEDS_PER_SPLIT = 1_000_000
SHARD_VIEWS = 250
VIEW_SIZE = (448, 336)  # larger than the model's input, so that crops stay sharp
INPUT_SIZE = (320, 224)  # what the processor makes of a 640x480 image
GAUGE_EVERY = 6  # every sixth scene has a dial

KIND_IDS = {kind: i + 1 for i, kind in enumerate((*KINDS, "gauge"))}  # 0 is background
COLOUR_IDS = {colour: i + 1 for i, colour in enumerate(COLOURS)}  # 0 is no colour


@dataclass(frozen=True)
class Thing:
    """One visible object of a view; box in pixels of that view, of its visible part.

    visibility: visible share of the whole silhouette. forward_m: distance ahead of the camera along the ground;
    world_m: centre. Both are untouched by crops and mirroring.
    """

    kind: str
    colour: str
    box_xyxy_px: tuple[float, float, float, float]
    visibility: float
    forward_m: float
    range_m: float
    world_m: tuple[float, float, float]
    whole: bool


@dataclass(frozen=True, eq=False)
class Sample:
    """rgb HxWx3 uint8, labels HxW int16 (index into things, -1 none), things, and what the dials among them say.

    dials: {value, minimum, maximum, unit} by index; and tip_px, where the needle ends in rgb, if that is known.
    """

    rgb: np.ndarray
    labels: np.ndarray
    things: tuple[Thing, ...]
    dials: dict[int, dict]

    @property
    def gauge(self) -> dict | None:
        return next(iter(self.dials.values()), None)


def sample_of(view) -> Sample:
    """What the labels need to know of a rendered sim.camera.View."""
    forward = view.world_T_camera[:3, 2] * (1, 1, 0)
    forward /= np.linalg.norm(forward)
    eye = view.world_T_camera[:3, 3]
    things = []
    for truth in sorted(view.truths, key=lambda t: t.index):
        world = (view.world_T_camera @ truth.camera_T_object)[:3, 3]
        things.append(
            Thing(
                truth.kind,
                truth.colour or "",
                tuple(map(float, truth.box_xyxy_px)),
                float(truth.visibility),
                float((world - eye) @ forward),
                float(np.linalg.norm(world - eye)),
                tuple(map(float, world)),
                bool(truth.fully_in_view),
            )
        )
    gauge = view.gauge and {k: getattr(view.gauge, k) for k in ("value", "minimum", "maximum", "unit")}
    return Sample(view.rgb, view.segmentation, tuple(things), {view.gauge.index: gauge} if gauge else {})


def scene_of(seed: int) -> SceneSpec:
    """The scene of a seed, in every split and in model/evaluate.py."""
    return sample_scene(seed, gauge=seed % GAUGE_EVERY == 0)


def stamp_of(first_seed: int, quality: str) -> str:
    """What a shard was made of: it tells shards of other scenes or another rendering, which must not mix, from ours."""
    return f"{quality} {hashlib.sha256(repr(scene_of(first_seed)).encode()).hexdigest()[:16]}"


def render_shard(camera, seeds, path: Path, quality: str) -> None:
    arrays, metas = {}, []
    for i, seed in enumerate(seeds):
        sample = sample_of(camera.render(scene_of(seed), depth=False))
        picture = cv2.imencode(".jpg", sample.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 97])[1]
        labels = cv2.imencode(".png", (sample.labels + 1).astype(np.uint8))[1]
        arrays |= {f"rgb{i}": picture.ravel(), f"labels{i}": labels.ravel()}
        metas.append(dict(seed=seed, things=[asdict(t) for t in sample.things], gauge=sample.gauge))
    temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez(
        temporary,
        metas=np.frombuffer(json.dumps(metas).encode(), np.uint8),
        stamp=stamp_of(seeds[0], quality),
        **arrays,
    )
    temporary.rename(path)  # a shard exists whole or not at all


def render(out: Path, split: str, scenes: int, quality: str) -> None:
    from qwen3vl_ros.sim.camera import SimCamera

    out.mkdir(parents=True, exist_ok=True)
    started, done = time.time(), 0
    with SimCamera(*VIEW_SIZE, quality=quality) as camera:
        for shard in range((scenes + SHARD_VIEWS - 1) // SHARD_VIEWS):
            path, first = out / f"{split}_{shard:05d}.npz", SPLIT_SEEDS[split] + shard * SHARD_VIEWS
            if path.exists():
                with opened(path) as done_before:
                    if str(done_before["stamp"]) != stamp_of(first, quality):
                        raise ValueError(
                            f"{path} is not of this rendering (--quality {quality}); give another --out, or delete it"
                        )
                continue
            render_shard(camera, range(first, first + SHARD_VIEWS), path, quality)
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
        self._dials: list[int] = []
        self._faces: dict[int, Face] = {}
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
                    self._items.append((shard[f"rgb{i}"], shard[f"labels{i}"], meta))
            self._loaded.add(path.name)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> Sample:
        picture, labels, meta = self._items[i]
        rgb = cv2.imdecode(picture, cv2.IMREAD_COLOR)[..., ::-1]
        labels = cv2.imdecode(labels, cv2.IMREAD_GRAYSCALE).astype(np.int16) - 1
        things = tuple(Thing(**t) for t in meta["things"])
        sample = Sample(rgb, labels, things, {})
        if not meta["gauge"]:
            return sample
        if i not in self._faces:
            self._faces[i] = Face(sample, sample_scene(meta["seed"], gauge=True))
        return replace(sample, dials={self._faces[i].index: meta["gauge"] | dict(tip_px=_tip_px(self._faces[i].scene))})

    def draw(self, rng: np.random.Generator, dial_share: float = 0.0) -> Sample:
        """A random view, one with a dial in at least `dial_share` of all; each time the dial reads something else."""
        among = self._dials if self._dials and rng.random() < dial_share else range(len(self))
        return self._with_new_reading(among[int(rng.integers(len(among)))], rng)

    def _with_new_reading(self, i: int, rng: np.random.Generator) -> Sample:
        sample = self[i]
        return self._faces[i].with_new_reading(sample, rng) if sample.dials else sample

    def mosaic(self, rng: np.random.Generator, size: tuple[int, int] = INPUT_SIZE) -> Sample:
        """Six dials side by side, each near the size it has in a view, and nothing else labelled.

        A dial stands in every sixth view: too few to learn to read from.
        """
        if not self._dials:
            raise ValueError("no view has a dial; render more than a handful of scenes")
        w, h = size
        side = w * 3 // 10
        rgb, labels = np.full((h, w, 3), rng.integers(30, 220, 3), np.uint8), np.full((h, w), -1, np.int16)
        left, top, things, dials = rng.integers(0, w - 3 * side + 1), rng.integers(0, h - 2 * side + 1), [], {}
        for n in range(6):
            whole = self._with_new_reading(self._dials[int(rng.integers(len(self._dials)))], rng)
            ((index, dial),) = whole.dials.items()
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
            tip = zoom * (np.array(dial["tip_px"]) - corner) + (x0, y0)
            things.append(whole.things[index])
            dials[n] = dial | dict(tip_px=(float(tip[0]), float(tip[1])))
        sample = Sample(_repaint(rgb, rng), labels, tuple(things), dials)
        return _measured(sample, _counts(sample))


def _image_H_face(scene: SceneSpec) -> np.ndarray:
    """3x3 homography: pixel edges of the whole view from places on the dial's face, 0..1 to its right and down."""
    w, h = VIEW_SIZE
    focal = h / 2 / np.tan(np.deg2rad(FOVY_DEG) / 2)
    k = np.array(((focal, 0, w / 2), (0, focal, h / 2), (0, 0, 1.0)))
    face = np.linalg.inv(scene.camera.world_T_camera()) @ world_T_dial(scene.gauge)
    side = face_side_m(scene.gauge)
    x, y = face[:3, 0] * side, -face[:3, 1] * side
    return k @ np.stack([x, y, face[:3, 3] - (x + y) / 2], 1)


def _tip_px(scene: SceneSpec) -> tuple[float, float]:
    angle = needle_angle_rad(scene.gauge.needle_fraction)
    u, v, s = _image_H_face(scene) @ (0.5 + NEEDLE_REACH / 2 * np.cos(angle), 0.5 - NEEDLE_REACH / 2 * np.sin(angle), 1)
    return float(u / s), float(v / s)


class Face:
    """A rendered dial's face, to be painted anew: rendering costs a hundred times as much, and a dial that always reads the
    same in one scene is learned by heart."""

    def __init__(self, sample: Sample, scene: SceneSpec):
        self.scene, self.index = scene, next(k for k, t in enumerate(sample.things) if t.kind == "gauge")
        mine = sample.labels == self.index
        ys, xs = np.nonzero(mine)
        self._window = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        self._size = int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
        # Pixel edges to centres, on both sides; the texture at nearly the size it has in the view, so that no line aliases.
        self._texture = 160
        centres = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1)))
        window_T_view = np.array(((1, 0, -xs.min()), (0, 1, -ys.min()), (0, 0, 1.0)))
        to_view = _image_H_face(scene) @ np.diag((1 / self._texture, 1 / self._texture, 1))
        self._window_H_texture = window_T_view @ centres @ to_view @ np.linalg.inv(centres)
        disc = cv2.circle(
            np.zeros((GAUGE_TEXTURE_PX,) * 2, np.uint8),
            (GAUGE_TEXTURE_PX // 2,) * 2,
            GAUGE_TEXTURE_PX // 2 - 4,
            255,
            -1,
        )
        mask = (self._seen(disc) > 250) & mine[self._window]
        self._mask = mask[..., None]
        # The light on the old face, smoothed: all that the new one takes over from it.
        blur = lambda x: cv2.GaussianBlur(x * self._mask.astype(np.float32), (0, 0), 6.0)  # noqa: E731
        light = blur(sample.rgb[self._window].astype(np.float32)) / np.maximum(
            blur(self._seen(gauge_face(scene.gauge))), 1.0
        )
        self._light = light.astype(np.float16)

    def _seen(self, face: np.ndarray) -> np.ndarray:
        face = cv2.resize(face, (self._texture,) * 2, interpolation=cv2.INTER_AREA)
        return cv2.warpPerspective(face, self._window_H_texture, self._size).astype(np.float32)

    def with_new_reading(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The whole view this face is in, with another scale, value and needle on it."""
        unit, low, high = GAUGE_SCALES[rng.integers(len(GAUGE_SCALES))]
        value = dial_value(rng, low, high)
        new = replace(
            self.scene.gauge,
            unit=unit,
            minimum=low,
            maximum=high,
            value=value,
            needle_colour=str(rng.choice(["red", "black"])),
        )
        painted = np.clip(self._seen(gauge_face(new)) * self._light, 0, 255)
        rgb = sample.rgb.copy()
        rgb[self._window] = np.where(self._mask, painted, rgb[self._window])
        return replace(
            sample,
            rgb=rgb,
            dials={
                self.index: dict(
                    value=value, minimum=low, maximum=high, unit=unit, tip_px=_tip_px(replace(self.scene, gauge=new))
                )
            },
        )


def _moved(dials: dict[int, dict], shift, scale) -> dict[int, dict]:
    """The dials with their tips moved, then scaled, as the image was."""
    return {
        k: d | dict(tip_px=tuple(float(v) for v in (np.array(d["tip_px"]) + shift) * scale)) if "tip_px" in d else d
        for k, d in dials.items()
    }


def _counts(sample: Sample) -> list[int]:
    """Visible pixels of each thing."""
    return [int(np.count_nonzero(sample.labels == k)) for k in range(len(sample.things))]


def _measured(sample: Sample, whole_px: list[int]) -> Sample:
    """Boxes and visibilities from the label image; `whole_px`: pixels each thing has in the uncropped view."""
    things = []
    for k, thing in enumerate(sample.things):
        mine = sample.labels == k
        x, y = np.flatnonzero(mine.any(0)), np.flatnonzero(mine.any(1))
        if not len(x):
            things.append(replace(thing, visibility=0.0, whole=False))
            continue
        share = np.count_nonzero(mine) / whole_px[k]
        things.append(
            replace(
                thing,
                visibility=thing.visibility * share,
                whole=thing.whole and share > 0.999,
                box_xyxy_px=(float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)),
            )
        )
    return replace(sample, things=tuple(things))


def augment(sample: Sample, rng: np.random.Generator, size: tuple[int, int] = INPUT_SIZE) -> Sample:
    """A crop, perhaps mirrored and repainted, at the model's input size; labels stay true to the pixels."""
    h, w = sample.labels.shape
    counts = _counts(sample)
    rgb, labels, dials = sample.rgb, sample.labels, sample.dials
    if rng.random() < 0.95:  # crop and zoom: objects seen larger, cut by the border, and never again at the same place
        near = dials and rng.random() < 0.3  # the dial large and whole
        scale = rng.uniform(0.45, 0.9) if near else rng.uniform(0.62 if rng.random() < 0.5 else 0.92, 1.0)
        stretch = np.exp(rng.uniform(-0.08, 0.08))
        cw, ch = min(w, int(w * scale * stretch)), min(h, int(h * scale / stretch))
        low, high = (0, 0), (w - cw, h - ch)
        if near:
            ys, xs = np.nonzero(labels == next(iter(dials)))
            low = max(0, xs.max() + 3 - cw), max(0, ys.max() + 3 - ch)
            high = max(low[0], min(high[0], xs.min() - 2)), max(low[1], min(high[1], ys.min() - 2))
        x0, y0 = min(rng.integers(low[0], high[0] + 1), w - cw), min(rng.integers(low[1], high[1] + 1), h - ch)
        rgb, labels = rgb[y0 : y0 + ch, x0 : x0 + cw], labels[y0 : y0 + ch, x0 : x0 + cw]
        dials = _moved(dials, (-x0, -y0), 1)
    if not dials and rng.random() < 0.5:  # a mirrored dial would read wrong
        rgb, labels = rgb[:, ::-1], labels[:, ::-1]
    sample = _measured(replace(sample, rgb=rgb, labels=labels, dials=dials), counts)
    return _resized(replace(sample, rgb=_repaint(_resize(rgb, size), rng)), size)


def plain(sample: Sample, size: tuple[int, int] = INPUT_SIZE) -> Sample:
    """The whole view at the model's input size, as the processor would show it."""
    sample = _measured(sample, _counts(sample))
    return _resized(replace(sample, rgb=_resize(sample.rgb, size)), size)


def _resize(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrink = rgb.shape[1] > size[0]
    return cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)


def _resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """Boxes and labels brought to `size`; boxes are scaled, not re-measured, to keep their sub-pixel truth."""
    h, w = sample.labels.shape
    sx, sy = size[0] / w, size[1] / h
    things = tuple(
        replace(
            t, box_xyxy_px=(t.box_xyxy_px[0] * sx, t.box_xyxy_px[1] * sy, t.box_xyxy_px[2] * sx, t.box_xyxy_px[3] * sy)
        )
        for t in sample.things
    )
    labels = cv2.resize(np.ascontiguousarray(sample.labels), size, interpolation=cv2.INTER_NEAREST)
    return replace(sample, labels=labels, things=things, dials=_moved(sample.dials, 0, (sx, sy)))


def _repaint(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, white balance, gamma, blur and noise; mild in hue, because colours carry names."""
    if rng.random() < 0.8:
        x = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.25, 0.25))
        x = (x - 0.5) * rng.uniform(0.85, 1.15) + 0.5 + rng.uniform(-0.04, 0.06)
        table = (np.clip(x * rng.uniform(0.94, 1.06, 3), 0, 1) * 255 + 0.5).astype(np.uint8)
        rgb = cv2.LUT(rgb, table[None])
    if rng.random() < 0.2:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.3, 0.9))
    if rng.random() < 0.4:
        cv2.setRNGSeed(int(rng.integers(2**31)))
        noise = cv2.randn(np.empty(rgb.shape, np.int16), 0, float(rng.uniform(1.3, 7.5)))
        rgb = cv2.add(rgb, noise, dtype=cv2.CV_8U)
    return rgb


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
            x, y = (round(v) for v in dial["tip_px"])
            cv2.circle(picture, (x, y), 3, (0, 255, 255), 1)
            x, y = (round(v) for v in sample.things[k].box_xyxy_px[::3])
            cv2.putText(
                picture,
                "{value:g} of {minimum:g}..{maximum:g} {unit}".format(**dial),
                (x, y - 4),
                0,
                0.33,
                (255, 255, 0),
                1,
            )
        cells.append(picture)
    rows = [np.hstack(cells[i : i + 4]) for i in range(0, 16, 4)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("render", "sheet"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--split", choices=tuple(SPLIT_SEEDS), default="train")
    parser.add_argument("--scenes", type=int, default=20000, help=f"rounded up to whole shards of {SHARD_VIEWS}")
    parser.add_argument("--quality", default="default", choices=("default", "fast"), help="rendering quality")
    args = parser.parse_args(argv)
    if not 0 < args.scenes <= SEEDS_PER_SPLIT:
        parser.error(f"--scenes {args.scenes} must be 1 to {SEEDS_PER_SPLIT}, the seeds a split owns")
    try:
        if args.action == "render":
            render(args.out, args.split, args.scenes, args.quality)
        else:
            sheet(args.out, args.split, args.out / "sheet.png")
            print(args.out / "sheet.png")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
