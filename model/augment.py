"""Views at the model's input size: cropped, mirrored, repainted, with labels that stay true to the pixels.

Knows nothing of files, prompts or networks.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from samples import INPUT_SIZE, Sample, pointed

from qwen3vl_ros import zoom


def _moved(written: dict[int, dict], shift, scale) -> dict[int, dict]:
    """Dials or signs with their points moved, then scaled, as the image was."""
    moved = {}
    for k, entry in written.items():
        points = {
            n: tuple(float(v) for v in (np.array(p) + shift) * scale) for n, p in entry.get("points_px", {}).items()
        }
        moved[k] = entry | pointed(points) if points else entry
    return moved


def _levels_in(levels, x0: float, y0: float, w: float, h: float):
    """The boxes of the shelf's levels in a crop; None for one that is cut."""
    moved = []
    for box in levels:
        if box is not None:
            box = box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0
            box = box if box[0] > -2 and box[1] > -2 and box[2] < w + 2 and box[3] < h + 2 else None
        moved.append(box and tuple(float(v) for v in np.clip(box, 0, (w, h, w, h))))
    return tuple(moved)


def _scaled(levels, sx: float, sy: float):
    return tuple(box and (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy) for box in levels)


def _mirrored(sample: Sample) -> Sample:
    w = sample.labels.shape[1]
    things = tuple(
        replace(t, span_m=((-t.span_m[0][1], -t.span_m[0][0]), *t.span_m[1:])) if t.span_m else t for t in sample.things
    )
    levels = tuple(box and (w - box[2], box[1], w - box[0], box[3]) for box in sample.levels)
    return replace(sample, rgb=sample.rgb[:, ::-1], labels=sample.labels[:, ::-1], things=things, levels=levels)


def pixel_counts(sample: Sample) -> list[int]:
    """Visible pixels of each thing."""
    return [int(np.count_nonzero(sample.labels == k)) for k in range(len(sample.things))]


def measured(sample: Sample, whole_px: list[int]) -> Sample:
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
    counts = pixel_counts(sample)
    written = [*sample.dials, *sample.signs]
    if (part := _looked_at(sample, written, rng)) is not None:
        sample = _cut(sample, *part)
    elif rng.random() < 0.95:
        # Crop and zoom: objects seen larger, cut by the border, and never again at the same place.
        near = written and rng.random() < 0.3  # the dial or the sign large and whole
        scale = rng.uniform(0.45, 0.9) if near else rng.uniform(0.62 if rng.random() < 0.5 else 0.92, 1.0)
        stretch = np.exp(rng.uniform(-0.08, 0.08))
        cw, ch = min(w, int(w * scale * stretch)), min(h, int(h * scale / stretch))
        low, high = (0, 0), (w - cw, h - ch)
        if near:
            ys, xs = np.nonzero(sample.labels == written[rng.integers(len(written))])
            if len(xs):
                low = max(0, xs.max() + 3 - cw), max(0, ys.max() + 3 - ch)
                high = max(low[0], min(high[0], xs.min() - 2)), max(low[1], min(high[1], ys.min() - 2))
        x0, y0 = min(rng.integers(low[0], high[0] + 1), w - cw), min(rng.integers(low[1], high[1] + 1), h - ch)
        sample = _cut(sample, x0, y0, cw, ch)
    if not written and rng.random() < 0.5:  # a mirrored dial would read wrong
        sample = _mirrored(sample)
    sample = measured(sample, counts)
    return _resized(replace(sample, rgb=repaint(_resize(sample.rgb, size), rng)), size)


def _looked_at(sample: Sample, written: list[int], rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """x0, y0, width and height of a part as a closer look takes it: around a dial or a sign, now and then around another thing."""
    if rng.random() > (0.35 if written else 0.12):
        return None
    seen = [k for k in written or range(len(sample.things)) if sample.things[k].visibility > 0.6]
    if not seen:
        return None
    h, w = sample.labels.shape
    margin = float(rng.uniform(1.05, 2.0) if written else rng.uniform(1.4, 4.0))
    x0, y0, x1, y1 = zoom.around(sample.things[int(rng.choice(seen))].box_xyxy_px, (w, h), margin).region_xyxy_px
    dx, dy = (int(side * rng.uniform(-0.1, 0.1)) for side in (x1 - x0, y1 - y0))
    x0, y0 = min(max(0, x0 + dx), w - (x1 - x0)), min(max(0, y0 + dy), h - (y1 - y0))
    return x0, y0, x1 - x0 - max(0, dx), y1 - y0 - max(0, dy)


def _cut(sample: Sample, x0: int, y0: int, w: int, h: int) -> Sample:
    return replace(
        sample,
        rgb=sample.rgb[y0 : y0 + h, x0 : x0 + w],
        labels=sample.labels[y0 : y0 + h, x0 : x0 + w],
        dials=_moved(sample.dials, (-x0, -y0), 1),
        signs=_moved(sample.signs, (-x0, -y0), 1),
        levels=_levels_in(sample.levels, x0, y0, w, h),
    )


def plain(sample: Sample, size: tuple[int, int] = INPUT_SIZE) -> Sample:
    """The whole view at the model's input size, as the processor would show it."""
    sample = measured(sample, pixel_counts(sample))
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
    dials, levels = _moved(sample.dials, 0, (sx, sy)), _scaled(sample.levels, sx, sy)
    signs = _moved(sample.signs, 0, (sx, sy))
    return replace(sample, labels=labels, things=things, dials=dials, signs=signs, levels=levels)


def repaint(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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
