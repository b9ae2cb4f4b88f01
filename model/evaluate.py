"""Evaluate a checkpoint on scenes nobody trained on, through the package's own pipeline.

    python model/evaluate.py --scenes 300 --seed 0 [--language zh] [--model DIR] [--engine auto] [--failures DIR]

Each scene is rendered as the sim camera does (640x480), and each kind of question that applies to it is asked once; then as many
scenes of the wider world (evaluate_wide.py). Prints a table with 95 % intervals, and as its last line one JSON object. Seeds are
4,000,000 + --seed and on, of the wider world 5,000,000: outside every split.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from data import KIND_IDS, sample_of, scene_of
from evaluate_wide import ROWS, WideEvaluation
from tasks import LANGUAGES, Asker, Language, Question

from qwen3vl_ros import questions
from qwen3vl_ros.config import Config
from qwen3vl_ros.demo.score import Heard, TruthObject, iou_matrix, score_answer
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Ask, Detect, Point
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import COLOURS, KINDS
from qwen3vl_ros.types import Frame, MalformedAnswer, PerceptionError, Scene

FIRST_SEED = 4_000_000
# What is asked of each scene, as far as it applies, and the row of the table that it counts in.
QUESTIONS = dict(
    locate="locate",
    absent="absent",
    points="point",
    count="count",
    compare="relation",
    nearest="relation",
    gauge="gauge",
    pick_place="pick_place",
    locate_extreme="locate",
    locate_relation="locate",
    phrases="phrases",
    exists="exists",
)


@dataclass
class Tally:
    """Right answers of each kind, one entry an answer, and the measurements beside them."""

    right: dict[str, list[float]] = field(default_factory=dict)
    ious: list[float] = field(default_factory=list)
    gauge_errors: list[float] = field(default_factory=list)
    scores: list[tuple[float, bool]] = field(default_factory=list)
    malformed: int = 0
    answers: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, kind: str, right: bool) -> bool:
        self.right.setdefault(kind, []).append(float(right))
        return right


class Evaluation:
    """Asks and judges. failures: folder that gets a picture of each wrong answer, and what was said, or None."""

    def __init__(self, perception: Perception, language: Language, failures: Path | None):
        self.perception, self.language, self.failures, self.tally = perception, language, failures, Tally()
        say = language.name
        self.words = {
            "count": {str(n) for n in range(100)},
            "exists": {say("yes"), say("no")},
            "relation": {say("yes"), say("no"), *(say(f"{colour} {kind}") for colour in COLOURS for kind in KINDS)},
        }
        if failures is not None:
            failures.mkdir(parents=True, exist_ok=True)
            (failures / "answers.txt").write_text("")

    def scene(self, view, seed: int) -> None:
        frame = Frame(0, "camera", view.rgb, view.depth_m, view.K)
        self._detect(frame, view, seed)
        asker, questions = self.questions(view, seed)
        for name, question in questions.items():
            scene = self._run(frame, self._asked(question))
            row = "absent" if name == "points" and not question.things else QUESTIONS[name]
            if not self.tally.add(row, scene is not None and self._right(question, scene, asker)):
                self._show(
                    frame,
                    scene,
                    f"{name}_{seed}",
                    f"{question.prompt} -> {question.answer}",
                    [asker.thing(i).box_xyxy_px for i in question.things],
                )

    def questions(self, view, seed: int) -> tuple[Asker, dict[str, Question]]:
        """What is asked of this scene beside its objects."""
        asker = Asker(sample_of(view), np.random.default_rng([0xE7A1, seed]), self.language)
        tried = {name: [getattr(asker, name)() for _ in range(8)] for name in QUESTIONS}
        fit = {name: [q for q in of if q and (name != "gauge" or q.kind == "gauge")] for name, of in tried.items()}
        return asker, {name: of[0] for name, of in fit.items() if of}

    def _run(self, frame: Frame, asked: questions.Question) -> Scene | None:
        started = time.perf_counter()
        self.tally.answers += 1
        try:
            scene = self.perception.look(frame, asked)
            self.tally.malformed += bool(scene.dropped or scene.truncated)
            return scene
        except MalformedAnswer:
            self.tally.malformed += 1
            return None
        finally:
            self.tally.seconds.append(time.perf_counter() - started)

    @staticmethod
    def _asked(question: Question) -> questions.Question:
        if question.kind in ("locate", "locate_relation", "absent", "categories"):
            return Detect(question.targets)
        if question.kind == "point":
            return Point(question.targets)
        return Ask(question.prompt)

    def _detect(self, frame: Frame, view, seed: int) -> None:
        """All objects of all kinds: recall, precision, IoU, and whether the score knows."""
        kinds = tuple(map(self.language.name, KIND_IDS))
        scene = self._run(frame, Detect(kinds))
        truths = [
            TruthObject(self.language.name(t.kind), t.box_xyxy_px, t.visibility, tuple(t.camera_T_object[:3, 3]))
            for t in view.truths
        ]
        found = scene.detections_2d if scene else ()
        score = score_answer(Heard(0, kinds, found), truths)
        for _ in score.wanted:
            self.tally.add("recall_50", False)
        for k in range(len(score.matches)):
            self.tally.right["recall_50"][-1 - k] = 1.0
        matched = {m.detection for m in score.matches}
        for i, d in enumerate(found):
            if i in matched or i in score.wrong:
                self.tally.add("precision_50", i in matched)
                self.tally.scores.append((d.score, i in matched))
        self.tally.ious += [m.iou for m in score.matches]
        if score.missed or score.wrong:
            self._show(
                frame, scene, f"detect_{seed}", ", ".join(t.label for t in truths), [t.box_xyxy_px for t in truths]
            )

    def _right(self, q: Question, scene: Scene, asker: Asker) -> bool:
        sample, said = asker.sample, scene.text.strip()
        if q.kind in ("absent", "locate", "locate_relation", "categories"):
            iou = iou_matrix(
                [d.box_xyxy_px for d in scene.detections_2d], [sample.things[i].box_xyxy_px for i in q.things]
            )
            if q.kind == "categories":  # several names, so a box must have the right one
                names = [self.language.name(asker.name(i)) for i in q.things]
                iou *= np.array([[d.label == name for name in names] for d in scene.detections_2d], float).reshape(
                    iou.shape
                )
            return len(scene.detections_2d) == len(q.things) and bool((iou.max(0, initial=0) >= 0.5).all())
        if q.kind == "point":
            if len(scene.points) != len(q.things):
                return False
            h, w = sample.labels.shape
            hit = {int(sample.labels[min(int(p.xy_px[1]), h - 1), min(int(p.xy_px[0]), w - 1)]) for p in scene.points}
            return hit == set(q.things)
        if q.kind == "pick_place":
            try:
                read = self.perception.interpret(
                    Frame(0, "camera", sample.rgb), Detect(("pick", "place")), scene.generation
                )
            except MalformedAnswer:
                self.tally.malformed += 1
                return False
            boxes = {d.label: d.box_xyxy_px for d in read.detections_2d}
            return set(boxes) == {"pick", "place"} and all(
                iou_matrix([boxes[role]], [sample.things[i].box_xyxy_px])[0, 0] >= 0.5
                for role, i in zip(("pick", "place"), q.things)
            )
        if q.kind == "gauge":
            try:
                value, unit = (json.loads(said)[k] for k in ("value", "unit"))
                error = (
                    abs(float(value) - sample.gauge["value"])
                    / (sample.gauge["maximum"] - sample.gauge["minimum"])
                    * 100
                )
            except (ValueError, KeyError, TypeError):
                self.tally.malformed += 1
                self.tally.gauge_errors.append(100.0)
                return False
            self.tally.gauge_errors.append(min(error, 100.0))
            return error <= 5 and unit == sample.gauge["unit"]
        said = said.rstrip(".。").lower()
        self.tally.malformed += said not in self.words[q.kind]
        return said == q.answer

    def note(self, row: str, text: str) -> None:
        """A wrong answer without a picture."""
        if self.failures is not None:
            with (self.failures / "answers.txt").open("a", encoding="utf-8") as file:
                print(row, text, sep="\n    ", file=file)

    def _show(self, frame: Frame, scene: Scene | None, name: str, truth: str, truth_boxes: list) -> None:
        """The truth in green, what was said in red."""
        if self.failures is None:
            return
        picture = frame.rgb[..., ::-1].copy()
        for box in truth_boxes:
            x0, y0, x1, y1 = map(round, box)
            cv2.rectangle(picture, (x0, y0), (x1, y1), (0, 200, 0), 1)
        for p in scene.points if scene else ():
            cv2.circle(picture, tuple(map(round, p.xy_px)), 4, (0, 0, 255), 2)
        for d in scene.detections_2d if scene else ():
            x0, y0, x1, y1 = map(round, d.box_xyxy_px)
            cv2.rectangle(picture, (x0, y0), (x1, y1), (0, 0, 255), 2)
            cv2.putText(picture, f"{d.label} {d.score:.2f}", (x0, max(12, y0 - 4)), 0, 0.5, (0, 0, 255), 1)
        lines = [line.replace("\n", " ") for line in (truth, scene.text if scene else "malformed")]
        for i, line in enumerate(lines):
            cv2.putText(picture, line[:110], (4, 462 + 14 * i), 0, 0.33, (255, 255, 255), 1)
        cv2.imwrite(str(self.failures / f"{name}.png"), picture)
        with (self.failures / "answers.txt").open("a", encoding="utf-8") as file:  # OpenCV's font has no Chinese
            print(name, *lines, sep="\n    ", file=file)


def auroc(scores: list[tuple[float, bool]]) -> float:
    """Chance that a right box scores above a wrong one; NaN when there are not both."""
    right = np.array([s for s, ok in scores if ok and not math.isnan(s)])
    wrong = np.array([s for s, ok in scores if not ok and not math.isnan(s)])
    if not len(right) or not len(wrong):
        return float("nan")
    return float((right[:, None] > wrong).mean() + 0.5 * (right[:, None] == wrong).mean())


def wilson(values: list[float]) -> tuple[float, float]:
    """95 % interval of a share."""
    n, p, z = len(values), float(np.mean(values)), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


_KEYS = dict(places="places_50", facts="facts_said", answers_known="answers_known", dial_points="dial_points")


def report(tally: Tally, scenes: int) -> dict[str, float | int | None]:
    """Print the table; return the figures of the last line. A figure without a single answer is null."""
    share = {
        name: tally.right.get(name, [])
        for name in (
            "recall_50",
            "precision_50",
            "locate",
            "phrases",
            "absent",
            "point",
            "count",
            "exists",
            "relation",
            "pick_place",
            "gauge",
            *ROWS,
        )
    }
    print(f"{'measure':<22}{'value':>8}   95 % interval    answers")
    for name, values in share.items():
        if values:
            low, high = wilson(values)
            print(f"{name:<22}{np.mean(values):8.3f}   {low:.3f} … {high:.3f}   {len(values):6d}")
    rng = np.random.default_rng(0)
    for name, values, reduce in (
        ("mean IoU of matches", tally.ious, np.mean),
        ("gauge error, % median", tally.gauge_errors, np.median),
    ):
        if values:
            drawn = reduce(rng.choice(values, (1000, len(values))), axis=1)
            print(
                f"{name:<22}{reduce(values):8.3f}   {np.percentile(drawn, 2.5):.3f} … {np.percentile(drawn, 97.5):.3f}   {len(values):6d}"
            )
    area = auroc(tally.scores)
    print(f"{'AUROC of the score':<22}{area:8.3f}{'':20}{len(tally.scores):6d}")
    print(f"{'malformed answers':<22}{tally.malformed:8d}{'':20}{tally.answers:6d}")
    print(f"median time of an answer, geometry included: {np.median(tally.seconds) * 1000:.0f} ms")

    def mean(name: str) -> float | None:
        return round(float(np.mean(share[name])), 4) if share[name] else None

    return dict(
        recall_50=mean("recall_50"),
        precision_50=mean("precision_50"),
        mean_iou=round(float(np.mean(tally.ious)), 4) if tally.ious else None,
        locate_50=mean("locate"),
        absent_ok=mean("absent"),
        point_inside=mean("point"),
        count_exact=mean("count"),
        relation_ok=mean("relation"),
        gauge_error_median=round(float(np.median(tally.gauge_errors)), 3) if tally.gauge_errors else None,
        pick_place_50=mean("pick_place"),
        malformed=round(tally.malformed / max(tally.answers, 1), 5),
        score_auroc=None if math.isnan(area) else round(area, 4),
        scenes=scenes,
        **{_KEYS.get(row, f"{row}_ok"): mean(row) for row in ROWS},
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="first scene; two runs with far seeds share no scene")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="of names and questions")
    parser.add_argument("--model", default="", help="checkpoint; empty = the embedded model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument(
        "--failures", type=Path, help="folder for a picture of each wrong answer; answers.txt there says what was said"
    )
    args = parser.parse_args(argv)
    if args.failures and args.failures.exists() and not args.failures.is_dir():
        parser.error(f"--failures {args.failures} is a file; give a folder, which will be made if there is none")
    if args.scenes < 1 or not 0 <= args.seed < 1_000_000:
        parser.error(f"--scenes {args.scenes} must be 1 or more and --seed {args.seed} 0 to 999999")
    try:
        engine = load_tested_engine(Config(model=args.model, engine=args.engine))
    except PerceptionError as error:
        parser.error(str(error))
    print(f"{engine.info.model}: {engine.info.runtime}, {engine.info.dtype} on {engine.info.device}")
    evaluation = Evaluation(Perception(engine), LANGUAGES[args.language], args.failures)
    with SimCamera() as camera:
        for i in range(args.scenes):
            seed = FIRST_SEED + args.seed + i
            evaluation.scene(camera.render(scene_of(seed)), seed)
            if (i + 1) % 25 == 0:
                print(f"{i + 1} of {args.scenes} scenes", file=sys.stderr, flush=True)
        wide = WideEvaluation(evaluation.perception, LANGUAGES[args.language], evaluation.tally, evaluation.note)
        for i in range(args.scenes):
            spec, seed = wide.spec(args.seed + i), args.seed + i
            others = [camera.render(other, depth=False) for other in wide.later(spec, seed)]
            wide.scene(camera.render(spec), seed, others)
            if (i + 1) % 25 == 0:
                print(f"{i + 1} of {args.scenes} wide scenes", file=sys.stderr, flush=True)
    engine.close()
    print(json.dumps(report(evaluation.tally, args.scenes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
