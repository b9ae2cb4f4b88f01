"""How right the answers were: detections of one image against the renderer's truth of the same stamp.

The rule, stated in every report (RULE): an object counts for recall if at least half of it is visible and the
prompt names it, by kind ("cube") or by colour and kind ("red cube"). A detection is right if it says such a
name of an object and their boxes overlap with IoU >= 0.5, each object being found once. Detections of objects
that are less than half visible are neither right nor wrong. Knows nothing of ROS, of models or of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable, Sequence

import numpy as np

from qwen3vl_ros.types import Detection2D, Detection3D, GraspTarget

MIN_VISIBLE = 0.5
MIN_IOU = 0.5
RULE = (
    f"Counted for recall: objects at least {MIN_VISIBLE:.0%} visible whose kind, or colour and kind, is in "
    "the prompt.\n"
    f"Right: same name and IoU >= {MIN_IOU}; each object is found once. Detections of objects less than "
    f"{MIN_VISIBLE:.0%} visible count neither way."
)


@dataclass(frozen=True, eq=False)
class TruthObject:
    """One object as the renderer knows it.

    box_xyxy_px: around its visible pixels. center_m: in the camera's optical frame. visible: share of its outline
    that is seen, 0..1. label: "red cube", the colour first and the kind last.
    """

    label: str
    box_xyxy_px: tuple[float, float, float, float]
    visible: float
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def is_named(self, phrase: str) -> bool:
        """Whether a phrase of the prompt or a label means this object (also "the red cube", "cubes")."""
        words = [w for w in phrase.lower().split() if w not in ("a", "an", "the")]
        own = self.label.lower().split()
        return words in (own, own[-1:], [*own[:-1], own[-1] + "s"], [own[-1] + "s"])


@dataclass(frozen=True, eq=False)
class Heard:
    """One answer of the node as its subscribers saw it; every part carries the stamp of the image.

    prompt: the phrases asked for. Times in seconds; latency_s is from the image's stamp to publishing,
    engine_s the model's share of it. error: why the answer could not be used, else empty. finish_reason as in
    Generation.msg.
    """

    stamp_ns: int
    prompt: tuple[str, ...]
    detections_2d: tuple[Detection2D, ...] = ()
    detections_3d: tuple[Detection3D, ...] = ()
    grasps: tuple[GraspTarget, ...] = ()
    text: str = ""
    tokens: int = 0
    finish_reason: str = "stop"
    error: str = ""
    latency_s: float = float("nan")
    engine_s: float = float("nan")
    dropped_objects: int = 0


@dataclass(frozen=True, eq=False)
class Match:
    """A right detection: indices into answer and truth, IoU, and the 3D centre's error (NaN: no 3D box)."""

    detection: int
    truth: int
    iou: float
    center_error_m: float = float("nan")


@dataclass(frozen=True, eq=False)
class FrameScore:
    """One answer against its truth. wanted: truths that count; wrong: detections of nothing named so."""

    matches: tuple[Match, ...]
    wanted: tuple[int, ...]
    wrong: tuple[int, ...]

    @property
    def missed(self) -> int:
        return len(self.wanted) - len(self.matches)


def iou_matrix(a_xyxy: Sequence, b_xyxy: Sequence) -> np.ndarray:
    """Intersection over union of every box of a (N) with every box of b (M): NxM; 0 for empty boxes."""
    a, b = np.reshape(a_xyxy, (-1, 1, 4)).astype(float), np.reshape(b_xyxy, (1, -1, 4)).astype(float)
    overlap = np.prod(np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None), -1)
    union = np.prod(a[..., 2:] - a[..., :2], -1) + np.prod(b[..., 2:] - b[..., :2], -1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def score_answer(answer: Heard, truths: Sequence[TruthObject]) -> FrameScore:
    """Match an answer's detections to the truth of its own image, best overlaps first (RULE)."""
    named = [any(t.is_named(p) for p in answer.prompt) for t in truths]
    counted = [n and t.visible >= MIN_VISIBLE for n, t in zip(named, truths)]
    found = answer.detections_2d
    iou = iou_matrix([d.box_xyxy_px for d in found], [t.box_xyxy_px for t in truths])
    iou *= np.array([[t.is_named(d.label) for t in truths] for d in found], float).reshape(iou.shape)
    matches, free_d, free_t = [], set(range(len(found))), set(range(len(truths)))
    # An object that counts goes before a hidden one that overlaps as much: the hidden one is only an excuse.
    order = sorted(zip(*np.nonzero(iou >= MIN_IOU)), key=lambda p: (not counted[p[1]], -iou[p]))
    centers = {d.id: d.frame_T_box[:3, 3] for d in answer.detections_3d}
    for i, j in order:
        if i not in free_d or j not in free_t:
            continue
        free_d.discard(i), free_t.discard(j)
        if counted[j]:
            center = centers.get(found[i].id)
            error = float("nan") if center is None else float(np.linalg.norm(center - truths[j].center_m))
            matches.append(Match(int(i), int(j), float(iou[i, j]), error))
    return FrameScore(tuple(matches), tuple(j for j, c in enumerate(counted) if c), tuple(sorted(free_d)))


@dataclass
class Tally:
    """Figures of many answers. add() them, then read summary()."""

    answers: int = 0
    right: int = 0
    wrong: int = 0
    wanted: int = 0
    malformed: int = 0
    truncated: int = 0
    dropped_objects: int = 0
    grasp_targets: int = 0
    feasible: int = 0
    lifted: int = 0
    detections: int = 0
    ious: list[float] = field(default_factory=list)
    center_errors_m: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    overheads_s: list[float] = field(default_factory=list)

    def add(self, answer: Heard, score: FrameScore) -> None:
        """Count one answer; one that could not be read has found nothing."""
        self.answers += 1
        self.malformed += bool(answer.error)
        self.truncated += answer.finish_reason != "stop"
        self.dropped_objects += answer.dropped_objects
        self.detections += len(answer.detections_2d)
        self.lifted += len(answer.detections_3d)
        self.grasp_targets += len(answer.grasps)
        self.feasible += sum(g.feasible for g in answer.grasps)
        self.right += len(score.matches)
        self.wrong += len(score.wrong)
        self.wanted += len(score.wanted)
        self.ious += [m.iou for m in score.matches]
        self.center_errors_m += [m.center_error_m for m in score.matches if np.isfinite(m.center_error_m)]
        self.latencies_s.append(answer.latency_s)
        self.overheads_s.append(answer.latency_s - answer.engine_s)

    def summary(self) -> dict[str, float | int | None]:
        """The figures under their published names; None where nothing was measured."""
        return {
            "answers": self.answers,
            "precision_2d": _ratio(self.right, self.right + self.wrong),
            "recall_2d": _ratio(self.right, self.wanted),
            "mean_iou": _rounded(np.mean, self.ious, 3),
            "centre_error_mm_median": _rounded(np.median, [1e3 * e for e in self.center_errors_m], 1),
            "objects_wanted": self.wanted,
            "detections": self.detections,
            "boxes_3d": self.lifted,
            "grasp_targets": self.grasp_targets,
            "feasible": self.feasible,
            "latency_ms_p50": _rounded(_percentile(50), [1e3 * t for t in self.latencies_s], 1),
            "latency_ms_p95": _rounded(_percentile(95), [1e3 * t for t in self.latencies_s], 1),
            "overhead_ms_p50": _rounded(_percentile(50), [1e3 * t for t in self.overheads_s], 1),
            "malformed": self.malformed,
            "truncated": self.truncated,
            "dropped_objects": self.dropped_objects,
        }


def _percentile(q: float):
    return lambda values: np.percentile(values, q)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def _rounded(statistic, values: Iterable[float], digits: int) -> float | None:
    values = [v for v in values if np.isfinite(v)]
    return round(float(statistic(values)), digits) if values else None
