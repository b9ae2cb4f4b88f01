"""A view and what is true of it: the things in it, the shelf's levels, what dials and signs say; and which seed shows what.

Scenes come from `qwen3vl_ros.sim`, the very generator the demo uses. Knows nothing of files, prompts or networks.

Seeds: each split owns a range that the others, the demo (below 1,000,000) and model/evaluate.py never touch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from moments import changed

from qwen3vl_ros.sim.scenes import COLOURS, KINDS, SceneSpec, sample_scene
from qwen3vl_ros.sim.specs import MORE_KINDS
from qwen3vl_ros.sim.wide import sample_close_up

SPLIT_SEEDS = {
    "train": 1_000_000,
    "val": 2_000_000,
    "test": 3_000_000,
    "wide": 6_000_000,
    "wideval": 7_000_000,
    "close": 8_000_000,
    "closeval": 9_000_000,
    "later": 10_000_000,
    "laterval": 11_000_000,
}
SEEDS_PER_SPLIT = 1_000_000
MOMENTS = 5  # of each place of `later`, one after another
VIEW_SIZE = (448, 336)  # larger than the model's input, so that crops stay sharp
INPUT_SIZE = (320, 224)  # what the processor makes of a 640x480 image
GAUGE_EVERY = 6  # every sixth plain scene has a dial

KIND_IDS = {kind: i + 1 for i, kind in enumerate((*KINDS, "gauge"))}  # 0 is background
WIDE_KIND_IDS = KIND_IDS | {kind: i + 1 + len(KIND_IDS) for i, kind in enumerate((*MORE_KINDS, "shelf", "sign"))}
COLOUR_IDS = {colour: i + 1 for i, colour in enumerate(COLOURS)}  # 0 is no colour
_ROUND = ("ball", "cylinder", "bowl")


@dataclass(frozen=True)
class Thing:
    """One visible object of a view; box in pixels of that view, of its visible part.

    visibility: visible share of the whole silhouette. forward_m: distance ahead of the camera along the ground;
    world_m: centre; span_m: least and greatest extent to the viewer's right, forth and up. They are untouched by crops;
    mirroring turns the first of the spans. on, level: what it stands on, as of sim.specs.ObjectSpec.
    """

    kind: str
    colour: str
    box_xyxy_px: tuple[float, float, float, float]
    visibility: float
    forward_m: float
    range_m: float
    world_m: tuple[float, float, float]
    whole: bool
    span_m: tuple[tuple[float, float], ...] = ()
    on: int | None = None
    level: int = 0


@dataclass(frozen=True, eq=False)
class Sample:
    """rgb HxWx3 uint8, labels HxW int16 (index into things, -1 none), things, and what the dials among them say.

    dials: {value, minimum, maximum, unit, zone} by index; and points_px: where centre, tip, first and last mark are in rgb, with
    tip_px among them by a name of its own, if that is known. signs: {text, and points_px: where its characters are, as of
    faces.Plate.letters_px, if that is known} by index. levels: boxes in rgb of the spaces of the
    shelf's levels from below, None for one that is cut by the border. wide: of the wider world.
    """

    rgb: np.ndarray
    labels: np.ndarray
    things: tuple[Thing, ...]
    dials: dict[int, dict]
    signs: dict[int, dict] | None = None
    levels: tuple[tuple[float, float, float, float] | None, ...] = ()
    wide: bool = False

    @property
    def gauge(self) -> dict | None:
        return next(iter(self.dials.values()), None)


def sample_of(view, wide: bool = False) -> Sample:
    """What the labels need to know of a rendered sim.camera.View."""
    forward = view.world_T_camera[:3, 2] * (1, 1, 0)
    forward /= np.linalg.norm(forward)
    axes = np.stack([np.cross(forward, (0, 0, 1.0)), forward, (0, 0, 1.0)])
    eye = view.world_T_camera[:3, 3]
    things = []
    for truth in sorted(view.truths, key=lambda t: t.index):
        pose = view.world_T_camera @ truth.camera_T_object
        world = pose[:3, 3]
        half = np.abs(axes @ pose[:3, :3]) @ (np.array(truth.size_m) / 2)
        if truth.kind in _ROUND:
            half[:2] = truth.size_m[0] / 2
        middle = axes @ (world - eye)
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
                tuple((float(m - h), float(m + h)) for m, h in zip(middle, half)),
                truth.on,
                truth.level,
            )
        )
    g = view.gauge
    dial = g and dict(value=g.value, minimum=g.minimum, maximum=g.maximum, unit=g.unit, zone=g.zone)
    return Sample(
        view.rgb,
        view.segmentation,
        tuple(things),
        {g.index: dial | pointed(g.points_px)} if g else {},
        {view.sign.index: dict(text=view.sign.text)} if view.sign else {},
        tuple(level.box_xyxy_px if level.fully_in_view else None for level in view.levels),
        wide,
    )


def pointed(points_px: dict[str, tuple[float, float]]) -> dict:
    """What the entry of a dial or a sign holds of its points."""
    return dict(points_px=points_px) | (dict(tip_px=points_px["tip"]) if "tip" in points_px else {})


def scene_of(seed: int, split: str = "train") -> SceneSpec:
    """The scene of a seed: plain table-tops, in their splits and in model/evaluate.py; the wider world, a place of it at several times;
    or close-ups."""
    if split.startswith("close"):
        return sample_close_up(seed)
    if split.startswith("later"):  # the seeds of a place are its moments; it is as it was invented at the first
        place = sample_scene(seed - seed % MOMENTS, wide=True)
        return changed(place, np.random.default_rng([0x1A7E, seed])) if seed % MOMENTS else place
    if split.startswith("wide"):
        return sample_scene(seed, wide=True)
    return sample_scene(seed, gauge=seed % GAUGE_EVERY == 0)


def split_of(seed: int) -> str:
    return next(s for s, first in SPLIT_SEEDS.items() if first <= seed < first + SEEDS_PER_SPLIT)
