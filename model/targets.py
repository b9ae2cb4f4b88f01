"""Dense targets for the vision tower: what each merged token should know about the object it lies on.

The tower learns to see as a small detector first, which converges much faster on a CPU than learning through words.
The box is learned as a soft distribution over a hundred places along each axis, the two digits that matter of what the
language side will have to say, so that reading a box is pointing at a token and copying. Dropped at export.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from data import COLOUR_IDS, KIND_IDS, WIDE_KIND_IDS, Sample
from torch import nn

from qwen3vl_ros.sim.scenes import GAUGE_SCALES, KINDS
from qwen3vl_ros.sim.specs import MORE_GAUGE_SCALES, MORE_KINDS, SIGN_TEXTS, ZONES

MIN_VISIBILITY = 0.4  # less of an object than this is not expected to be named
PLACE_SIGMA = 7.0  # softness of the places, in thousandths of the image
READING_SIGMA = 12.0  # softness of the dial's reading, in thousandths of its range
NAMES = len(COLOUR_IDS) * len(KINDS)
SCALES = GAUGE_SCALES + MORE_GAUGE_SCALES
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
MARKS = ("centre", "first", "last")  # of a dial, beside the needle's tip

_BINS = np.arange(0, 1000, 10) + 5.0


def coordinates(box_xyxy_px, size_px) -> np.ndarray:
    """The box in thousandths of the image, 0..999, as the model says it."""
    scale = np.array([1000 / size_px[0], 1000 / size_px[1]] * 2)
    return np.clip(np.asarray(box_xyxy_px) * scale, 0, 999)


def places_of(value: np.ndarray, sigma: float = PLACE_SIGMA) -> np.ndarray:
    """K coordinates in thousandths -> K,100 distributions over the places of an axis."""
    weight = np.exp(-0.5 * ((_BINS - np.asarray(value)[:, None]) / sigma) ** 2) + 1e-12
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def shown_by(dial: dict) -> tuple[int, np.ndarray]:
    """A dial's scale, as an index into SCALES, and the distribution (100) of where the needle stands in its range."""
    fraction = (dial["value"] - dial["minimum"]) / (dial["maximum"] - dial["minimum"])
    return (
        SCALES.index((dial["unit"], dial["minimum"], dial["maximum"])),
        places_of([1000 * fraction], READING_SIGMA)[0],
    )


def zone_of(dial: dict) -> int:
    """The zone the needle is in: 0 for none, else 1 and on as in ZONES."""
    return 1 + ZONES.index(dial["zone"]) if dial.get("zone") else 0


def name_of(thing) -> int:
    """Kind and colour as one number; 0 for what has no name of both."""
    colour = COLOUR_IDS.get(thing.colour, 0) - 1
    if thing.kind in KINDS:
        return 1 + colour * len(KINDS) + KINDS.index(thing.kind)
    return 1 + NAMES + colour * len(MORE_KINDS) + MORE_KINDS.index(thing.kind) if thing.kind in MORE_KINDS else 0


def dense_targets(sample: Sample, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """Per merged token (N = rows*columns): kind, colour, name (0 none), anchor (holds the box centre), box 0..1, places.

    name: colour and kind as one. places: N,4,100 float, the distribution of each coordinate. Of a dial: scale, an index into
    SCALES or -1; reading N,100, where the needle stands in its range; tip N,2,100, where it ends in the image; marks N,3,2,100,
    where MARKS are; zone (zone_of). word: index into SIGN_TEXTS of what a sign says, or -1;
    letters N,36: which characters of it lie on this token.
    owner: N, index of the thing, or -1; once: N, one over the number of its tokens. A mosaic has more in it than is
    labelled: kind is -1 there, of all tokens.
    """
    rows, columns = grid
    h, w = sample.labels.shape
    count = len(sample.things)
    cells = sample.labels[::2, ::2].reshape(rows, h // rows // 2, columns, w // columns // 2).transpose(0, 2, 1, 3)
    cells = cells.reshape(rows * columns, -1)
    n, area = cells.shape
    share = np.zeros((n, count + 1))
    np.add.at(share, (np.repeat(np.arange(n), area), cells.ravel() + 1), 1.0 / area)
    share = share[:, 1:]
    named = np.array([t.visibility >= MIN_VISIBILITY for t in sample.things], bool)
    share[:, ~named] = 0
    out = dict(
        kind=np.zeros(n, np.int64),
        colour=np.zeros(n, np.int64),
        anchor=np.zeros(n, np.float32),
        box=np.zeros((n, 4), np.float32),
        places=np.zeros((n, 4, 100), np.float32),
        name=np.zeros(n, np.int64),
        scale=np.full(n, -1, np.int64),
        reading=np.zeros((n, 100), np.float32),
        tip=np.zeros((n, 2, 100), np.float32),
        marks=np.zeros((n, len(MARKS), 2, 100), np.float32),
        zone=np.zeros(n, np.int64),
        word=np.full(n, -1, np.int64),
        letters=np.zeros((n, len(LETTERS)), np.float32),
        once=np.zeros(n, np.float32),
    )
    owner = np.full(n, -1)
    if count:
        best = share.argmax(1)
        owner = np.where(share[np.arange(n), best] >= 0.15, best, -1)
    # The shelf first: what stands in its middle is what one sees there.
    for k in sorted(range(count), key=lambda k: sample.things[k].kind != "shelf"):
        thing = sample.things[k]
        if not named[k]:
            continue
        x0, y0, x1, y1 = thing.box_xyxy_px
        anchor = min(int((y0 + y1) / 2 / h * rows), rows - 1) * columns + min(
            int((x0 + x1) / 2 / w * columns), columns - 1
        )
        if thing.kind != "shelf" or owner[anchor] in (-1, k):
            owner[anchor] = k
            out["anchor"][anchor] = 1
    for k, thing in enumerate(sample.things):
        mine = owner == k
        if not mine.any():
            continue
        value = coordinates(thing.box_xyxy_px, (w, h))
        out["kind"][mine] = WIDE_KIND_IDS[thing.kind]
        out["colour"][mine] = COLOUR_IDS.get(thing.colour, 0)
        out["once"][mine] = 1 / mine.sum()
        out["box"][mine] = value / 1000
        out["places"][mine] = places_of(value)
        out["name"][mine] = name_of(thing)
        if k in sample.signs and thing.visibility > 0.8:
            out["word"][mine] = SIGN_TEXTS.index(sample.signs[k]["text"])
            for name, (x, y) in sample.signs[k].get("points_px", {}).items():
                row, column = int(y / h * rows), int(x / w * columns)
                if 0 <= row < rows and 0 <= column < columns:
                    out["letters"][row * columns + column, LETTERS.index(name[-1])] = 1
        elif "tip_px" in (g := sample.dials.get(k, {})):
            out["scale"][mine], out["reading"][mine] = shown_by(g)
            out["tip"][mine] = places_of(coordinates(g["tip_px"] * 2, (w, h))[:2])
            out["zone"][mine] = zone_of(g)
            for m, mark in enumerate(MARKS):
                out["marks"][mine, m] = places_of(coordinates(g["points_px"][mark] * 2, (w, h))[:2])
    if len(sample.dials) > 1 or len(sample.signs) > 1:
        out["kind"][:] = -1
        out["name"][:] = 0
    out["owner"] = owner
    return out


class DenseHead(nn.Module):
    """One linear layer on the merged features, so that what it learns is there for the language side to copy.

    `wide` says what the wider world adds to each part, so that the heads of a checkpoint without it still fit.
    """

    def __init__(self, width: int):
        super().__init__()
        self.sizes = dict(
            kind=len(KIND_IDS) + 1,
            colour=len(COLOUR_IDS) + 1,
            anchor=1,
            box=4,
            places=400,
            name=NAMES + 1,
            scale=len(GAUGE_SCALES),
            reading=100,
            tip=200,
        )
        self.more = dict(
            kind=len(WIDE_KIND_IDS) - len(KIND_IDS),
            name=len(COLOUR_IDS) * len(MORE_KINDS),
            scale=len(MORE_GAUGE_SCALES),
            marks=200 * len(MARKS),
            zone=len(ZONES) + 1,
            word=len(SIGN_TEXTS),
            letters=len(LETTERS),
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(self.sizes.values()))
        self.wide = nn.Linear(width, sum(self.more.values()))

    def forward(self, merged: torch.Tensor) -> dict[str, torch.Tensor]:
        merged = self.norm(merged.float())
        parts = dict(zip(self.sizes, self.out(merged).split(list(self.sizes.values()), -1)))
        more = dict(zip(self.more, self.wide(merged).split(list(self.more.values()), -1)))
        return {k: torch.cat([x[k] for x in (parts, more) if k in x], -1) for k in parts | more}


def dense_loss(
    said: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum, and its parts for the log."""
    mine, labelled, dial = truth["kind"] > 0, truth["kind"] >= 0, truth["scale"] >= 0

    def of_dials(part: str, *shape: int, known: torch.Tensor = dial) -> torch.Tensor:
        both = (x[part][known].view(shape) if shape else x[part][known] for x in (said, truth))
        return F.cross_entropy(*both) if known.any() else torch.zeros(())

    def once_a_thing(part: str) -> torch.Tensor:
        """Small things are the ones that are mistaken, and have few tokens: counted by tokens they hardly count."""
        named = truth[part] > 0
        weight = truth["once"][named]
        return (
            F.cross_entropy(said[part][named], truth[part][named], reduction="none") * weight
        ).sum() / weight.sum().clamp(min=1)

    parts = dict(
        kind=F.cross_entropy(said["kind"][labelled], truth["kind"][labelled]),
        colour=F.cross_entropy(said["colour"][mine], truth["colour"][mine]),
        # Most tokens are background: without a term of their own the kinds of the few others are learned late.
        shape=once_a_thing("kind"),
        anchor=F.binary_cross_entropy_with_logits(
            said["anchor"][..., 0][labelled], truth["anchor"][labelled], pos_weight=torch.tensor(4.0)
        ),
    )
    # Tokens at the centre matter more: they are the ones the language side will point at.
    weight = 1 + 3 * truth["anchor"][mine]
    weight = weight / weight.sum()
    places = said["places"][mine].view(-1, 4, 100).log_softmax(-1)
    parts["places"] = (-(places * truth["places"][mine]).sum(-1).mean(1) * weight).sum()
    parts["box"] = (
        F.smooth_l1_loss(said["box"][mine], truth["box"][mine], reduction="none", beta=0.02).mean(1) * weight
    ).sum()
    # Colour and kind as one thing: read apart, a red cube and a green ball add up to a red ball.
    parts |= dict(
        name=once_a_thing("name"),
        scale=of_dials("scale"),
        reading=of_dials("reading"),
        tip=of_dials("tip", -1, 100),
        marks=of_dials("marks", -1, 100),
        zone=of_dials("zone"),
        word=of_dials("word", known=truth["word"] >= 0),
        letters=_letters_loss(said["letters"], truth),
    )
    weights = dict(
        kind=1.5,
        shape=3.0,
        colour=0.5,
        anchor=1.0,
        places=0.7,
        box=10.0,
        name=1.2,
        scale=1.0,
        reading=0.5,
        tip=0.3,
        marks=0.3,
        zone=0.5,
        word=0.7,
        letters=6.0,
    )
    return sum(weights[k] * v for k, v in parts.items()), {k: v.detach() for k, v in parts.items()}


def _letters_loss(said: torch.Tensor, truth: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the tokens of signs whose letters are known; a letter is one among three dozen, so it weighs more than its absence."""
    signs = (truth["word"] >= 0) & truth["letters"].any(-1)
    if not signs.any():
        return torch.zeros(())
    weight = 1 + 12 * truth["letters"][signs]
    each = F.binary_cross_entropy_with_logits(said[signs], truth["letters"][signs], reduction="none")
    return (each * weight).sum() / weight.sum()


@torch.no_grad()
def dense_score(said: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """On anchor tokens: share with IoU >= 0.5 by the box head and by the places, mean IoU, kind, colour and name right; on
    tokens of dials, the share of right scales and how far off the reading is, as a share of the range, median."""
    at = truth["anchor"] > 0
    box = truth["box"][at]
    by_place = said["places"][at].float().view(-1, 4, 100).softmax(-1) @ torch.from_numpy(_BINS).to(box) / 1000
    found = (said["anchor"][..., 0] > 0) & (said["kind"].argmax(-1) > 0)
    dial = truth["scale"] >= 0
    reading = (said["reading"][dial].argmax(-1) - truth["reading"][dial].argmax(-1)).abs().float()
    scores = (
        dict(
            reading_off=float(reading.median()) / 100,
            scale=float((said["scale"][dial].argmax(-1) == truth["scale"][dial]).float().mean()),
            zone=float((said["zone"][dial].argmax(-1) == truth["zone"][dial]).float().mean()),
        )
        if dial.any()
        else {}
    )
    signs = truth["word"] >= 0
    if signs.any():
        there = truth["letters"][signs] > 0
        if there.any():
            scores["letters"] = float((said["letters"][signs] > 0)[there].float().mean())
        scores["word"] = float((said["word"][signs].argmax(-1) == truth["word"][signs]).float().mean())
    return scores | dict(
        iou=float(iou(said["box"][at].float(), box).mean()),
        iou_places=float(iou(by_place, box).mean()),
        hit=float((iou(by_place, box) > 0.5).float().mean()),
        kind=float((said["kind"][at].argmax(-1) == truth["kind"][at]).float().mean()),
        colour=float((said["colour"][at].argmax(-1) == truth["colour"][at]).float().mean()),
        name=float((said["name"][at].argmax(-1) == truth["name"][at])[truth["name"][at] > 0].float().mean()),
        anchor_recall=float(found[at].float().mean()),
        anchor_precision=float(at[found].float().mean()) if found.any() else 0.0,
    )


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Row-wise IoU of xyxy boxes."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    area = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1) + (b[:, 2:] - b[:, :2]).clamp(min=0).prod(1)
    return inter / (area - inter).clamp(min=1e-9)
