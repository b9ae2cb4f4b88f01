"""Looking closely: which parts of a picture a question is asked of, and one answer of what was said to each.

A network sees every picture at a size of its own, so a thing of twenty pixels in a large one is lost; a part is shown at full
resolution. Knows nothing of engines and of what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np

from qwen3vl_ros.types import Answer, Detection2D, Generation, InvalidInput, Point2D, View

MOST_PARTS = 6  # a side
MOST_AROUND = 6
_LEAST_SHOWN_PX = 640  # the longer side
_MARGIN, _NARROWEST, _OVERLAP = 1.25, 0.1, 0.2
_SAME_IOU, _SAME_POINT = 0.4, 0.02
_EDGE = 0.01  # of a part's side: what comes so near to its edge was cut by it


@dataclass(frozen=True)
class Zoom:
    """What of a picture a question looks at: all of it, or one of these three. Valid once made, or InvalidInput.

    region_xyxy_px: this part; shown is the part of the picture's own shape around it, since networks know pictures of that shape.
    What has its middle outside is left out.   around: phrases; the parts around what a first look finds of them.
    parts: the whole picture, and then parts x parts of it, which finds what is small.
    """

    region_xyxy_px: tuple[int, int, int, int] | None = None
    around: tuple[str, ...] = ()
    parts: int = 1

    def __post_init__(self):
        if (self.region_xyxy_px is not None) + bool(self.around) + (self.parts != 1) > 1:
            raise InvalidInput("a zoom takes a region, what to look around, or a number of parts, and only one of them")
        if not 1 <= self.parts <= MOST_PARTS:
            raise InvalidInput(f"a zoom of {self.parts} parts a side must have 1 to {MOST_PARTS}")

    def views(self, size_px: tuple[int, int], found: Sequence[Detection2D] = ()) -> tuple[View, ...]:
        """What to show, in order. found: of what it looks around. Raises InvalidInput for a region outside the picture."""
        if self.around:
            surest = sorted(found, key=lambda d: -np.nan_to_num(d.score))[:MOST_AROUND]
            return tuple(around(d.box_xyxy_px, size_px) for d in surest)
        if self.region_xyxy_px is not None:
            return (around(View(size_px, self.region_xyxy_px).region_xyxy_px, size_px, margin=1.0),)
        return (View(size_px), *grid(size_px, self.parts)) if self.parts > 1 else (View(size_px),)

    def keeps(self, xy_px: Sequence[float]) -> bool:
        """Whether something with its middle there is wanted."""
        x0, y0, x1, y1 = self.region_xyxy_px or (-np.inf, -np.inf, np.inf, np.inf)
        return bool(x0 <= xy_px[0] <= x1 and y0 <= xy_px[1] <= y1)


WHOLE = Zoom()


def around(box_xyxy_px: Sequence[float], size_px: tuple[int, int], margin: float = _MARGIN) -> View:
    """The part, of the picture's own shape, that shows a box with a margin around it; never less than a tenth of the picture's
    width, because nothing is to be seen in a few pixels.
    """
    (w, h), (x0, y0, x1, y1) = size_px, box_xyxy_px
    width = min(w, max(margin * max(x1 - x0, (y1 - y0) * w / h), _NARROWEST * w))
    height = width * h / w
    left = float(np.clip((x0 + x1 - width) / 2, 0, w - width))
    top = float(np.clip((y0 + y1 - height) / 2, 0, h - height))
    right, bottom = min(w, int(np.ceil(left + width))), min(h, int(np.ceil(top + height)))
    return View(size_px, (int(left), int(top), right, bottom))


def grid(size_px: tuple[int, int], side: int) -> tuple[View, ...]:
    """side x side parts of the picture's own shape that cover it; neighbours overlap by a fifth."""
    share = 1 / (side - _OVERLAP * (side - 1))
    spans = [[(i * share * (1 - _OVERLAP), i * share * (1 - _OVERLAP) + share) for i in range(side)] for _ in size_px]
    xs, ys = ([(int(a * n), min(n, round(b * n))) for a, b in span] for n, span in zip(size_px, spans))
    return tuple(View(size_px, (x0, y0, x1, y1)) for y0, y1 in ys for x0, x1 in xs)


def shown(rgb: np.ndarray, view: View) -> np.ndarray:
    """What a model is shown of a picture: HxWx3 uint8. Small parts are enlarged here, because networks enlarge small pictures to
    other grids than those that they shrink large ones to, and small ones know the latter only.
    """
    if view.region_xyxy_px is None:
        return rgb
    (x0, y0, x1, y1), (w, h) = view.region_xyxy_px, view.size_px
    part = np.ascontiguousarray(rgb[y0:y1, x0:x1])
    scale = _LEAST_SHOWN_PX / max(w, h)
    if max(x1 - x0, y1 - y0) >= _LEAST_SHOWN_PX or scale * min(w, h) < 1:
        return part
    return cv2.resize(part, (round(scale * w), round(scale * h)), interpolation=cv2.INTER_CUBIC)


def joined(said: Sequence[Generation]) -> Generation:
    """All that was said, one after the other; it ended as the first that did not end by itself."""
    if len(said) == 1:
        return said[0]
    text, ids, ends, logprobs = "", [], [], []
    for one in said:
        begin = len(text) + bool(text)
        text = f"{text}\n{one.text}" if text else one.text
        ids += one.token_ids
        ends += [begin + end for end in one.token_ends]
        logprobs.append(one.logprobs)
    sums = ("prompt_tokens", "generated_tokens", "forward_passes", "preprocess_s", "prefill_s", "decode_s")
    sums += ("drafted_tokens", "accepted_tokens", "reused_tokens")
    return Generation(
        text,
        tuple(ids),
        None if any(one is None for one in logprobs) else np.concatenate(logprobs).astype(np.float32),
        tuple(ends),
        next((one.finish_reason for one in said if one.finish_reason != "stop"), "stop"),
        reasoning="\n".join(filter(None, (one.reasoning for one in said))),
        prompt=said[0].prompt,
        **{name: sum(getattr(one, name) for one in said) for name in sums},
    )


def merged(answers: Sequence[Answer], views: Sequence[View], zoom: Zoom = WHOLE) -> Answer:
    """One answer of all, with what the zoom keeps. A thing seen in several views is taken from the closest that shows it whole; `value` is the first's."""
    if views == (View(views[0].size_px),):
        return answers[0]
    closest = sorted(zip(answers, views), key=lambda pair: pair[1].shown_px[0])
    detections: list[Detection2D] = []
    points: list[Point2D] = []
    for answer, view in closest:
        detections += [
            d
            for d in answer.detections
            if zoom.keeps(_middle(d.box_xyxy_px))
            and (len(views) == 1 or not _cut(d.box_xyxy_px, view))
            and not any(_same(d, other) for other in detections)
        ]
        near_px = _SAME_POINT * max(view.size_px)
        points += [
            p
            for p in answer.points
            if zoom.keeps(p.xy_px)
            and not any(p.label == q.label and np.hypot(*np.subtract(p.xy_px, q.xy_px)) <= near_px for q in points)
        ]
    return Answer(
        tuple(detections),
        tuple(points),
        answers[0].boxes_3d,
        sum(a.dropped for a in answers),
        sum(a.repeats for a in answers),
        tuple(note for a in answers for note in a.notes),
        answers[0].value,
    )


def _middle(box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _cut(box, view: View) -> bool:
    """Whether the box ends at an edge of the view that is none of the picture: there is more of the thing outside."""
    (w, h), (x, y), (shown_w, shown_h) = view.size_px, view.origin_px, view.shown_px
    slack_x, slack_y = _EDGE * shown_w, _EDGE * shown_h
    return (
        (x > 0 and box[0] < x + slack_x)
        or (y > 0 and box[1] < y + slack_y)
        or (x + shown_w < w and box[2] > x + shown_w - slack_x)
        or (y + shown_h < h and box[3] > y + shown_h - slack_y)
    )


def _same(one: Detection2D, other: Detection2D) -> bool:
    a, b = np.array(one.box_xyxy_px), np.array(other.box_xyxy_px)
    inner = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner
    return one.label == other.label and inner >= _SAME_IOU * union
