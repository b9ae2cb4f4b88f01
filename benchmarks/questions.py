"""The whole path of a spatial question: words in, a sentence with right numbers out. Part of benchmarks/spatial.py.

Scenes of the plain embedded world at 640x480 with a stereo camera's depth noise, the embedded model, questions in the wordings that
training never sees (model/wordings.py), English and Chinese in turn. Judged against the scene's exact layout. answers_ok: of all
questions. answers_ok_grounded: of those that were understood and whose things were found at the right places.

other_words.jsonl: questions and what they ask for, written by somebody who knew neither the grammar nor what the model was taught.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tasks import LANGUAGES
from wordings import Speaker

from qwen3vl_ros.asking import Asker, Code, Outcome, Shot
from qwen3vl_ros.asking.measuring import RELATION
from qwen3vl_ros.asking.outcome import Who
from qwen3vl_ros.boxes import iou
from qwen3vl_ros.config import Config
from qwen3vl_ros.geometry.facts import measure
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import grammar
from qwen3vl_ros.sim.camera import SimCamera, SimView
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.layouts import exact_layout
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import Frame, PerceptionError, Verdict

RELATED = ("left of", "right of", "in front of", "behind", "next to", "on", "above")
KINDS = (
    "compare",
    "compare",
    "compare",
    "distance",
    "distance_to",
    "size",
    "where",
    "exists",
    "count",
    "nearest",
    "absent",
)
SIZE_OF = {"height": 2, "width": 1, "length": 0}
LENGTH_M = 0.012  # a length or distance is right within this, or 5 %


class Asked(NamedTuple):
    """language, question and what is true of it: ask, what it speaks of, the phrases and the indices of the things."""

    language: str
    question: str
    ask: str
    phrases: tuple[str, ...]
    things: tuple[str, ...]


def ask_one(rng: np.random.Generator, view: SimView, truth: Layout, language: str) -> Asked | None:
    """A question in a held-out wording about things whose name is theirs alone; None where the scene has none for it."""
    seen = [
        t
        for t in view.truths
        if t.visibility >= 0.8 and t.fully_in_view and str(t.index) in {x.id for x in truth.things}
    ]
    alone = [t for t in seen if sum(o.label == t.label for o in view.truths) == 1]
    speaker, words = Speaker(rng, language, True), LANGUAGES[language]
    kind = str(rng.choice(KINDS))
    if kind == "absent":
        missing = [k for k in ("cube", "ball", "cylinder", "mug", "bowl") if all(t.kind != k for t in view.truths)]
        if not missing:
            return None
        name = words.name(str(rng.choice(missing)))
        return Asked(language, speaker.form("where", a=name), "absent", (name,), ())
    if kind in ("exists", "count"):
        noun = str(rng.choice([t.kind for t in view.truths] or ["cube"]))
        if any(t.kind == noun and not 0.6 <= t.visibility for t in view.truths):
            return None
        name = words.name(noun)
        return Asked(
            language,
            speaker.form(kind, a=name),
            kind,
            (name,),
            tuple(str(t.index) for t in view.truths if t.kind == noun),
        )
    if kind == "nearest":
        return Asked(language, speaker.form(kind), kind, (), tuple(t.id for t in truth.things))
    if len(alone) < 2:
        return None
    a, b = rng.choice(len(alone), 2, replace=False)
    a, b = alone[a], alone[b]
    names, ids = (words.name(a.label), words.name(b.label)), (str(a.index), str(b.index))
    if kind == "compare":
        relation = str(rng.choice(RELATED))
        return Asked(language, speaker.form(kind, a=names[0], b=names[1], rel=relation), relation, names, ids)
    if kind == "distance":
        return Asked(language, speaker.form(kind, a=names[0], b=names[1]), kind, names, ids)
    if kind == "size":
        size = str(rng.choice(list(SIZE_OF)))
        return Asked(language, speaker.form(kind, a=names[0], adj=size), size, names[:1], ids[:1])
    return Asked(
        language, speaker.form(kind, a=names[0]), "where" if kind == "where" else "distance", names[:1], ids[:1]
    )


def judged(asked: Asked, told: Outcome, truth: Layout) -> bool | None:
    """Whether the sentence is right; None where the exact layout does not decide it. An honest "cannot tell" is not right."""
    answer, zh = told.answer, asked.language == "zh"
    if asked.ask == "absent":
        return told.code is Code.NOT_FOUND and not any(told.detections_2d)
    if asked.ask == "exists":
        return answer.startswith("有" if zh else "Yes") == bool(asked.things)
    if asked.ask == "count":
        return str(len(asked.things)) in re.findall(r"\d+", answer)
    if asked.ask in RELATION:
        fact = measure(truth, RELATION[asked.ask], asked.things)
        if fact.verdict is Verdict.UNKNOWN or abs(fact.margin_m) < 0.02:
            return None
        yes = answer.startswith("是" if zh else "Yes")
        no = answer.startswith("不" if zh else "No")
        return yes != no and yes == (fact.verdict is Verdict.TRUE)
    if asked.ask == "nearest":
        facts = [measure(truth, "nearest", (name,)) for name in asked.things]
        best = next((f for f in facts if f.verdict is Verdict.TRUE and not abs(f.margin_m) < 0.02), None)
        if best is None:
            return None
        label = next(t.label for t in truth.things if t.id == best.arguments[0])
        kind = label.split()[-1]
        return any(word in answer for word in (kind, LANGUAGES[asked.language].name(kind)))
    if asked.ask == "where":
        far_m = measure(truth, "distance", asked.things).value
        on = measure(truth, "on", (*asked.things, "table")).verdict is Verdict.TRUE
        return on == (("桌" if zh else "table") in answer) and _says(answer, far_m)
    if asked.ask == "distance":
        return _says(answer, measure(truth, "distance", asked.things).value)
    return _says(answer, measure(truth, "size", asked.things).values[SIZE_OF[asked.ask]].value)


def _says(answer: str, metres: float) -> bool:
    """Whether a sentence's only length is this one."""
    found = re.findall(r"(\d+(?:\.\d+)?)\s*(cm|m|厘米|米)", answer)
    lengths = [float(n) * (0.01 if unit in ("cm", "厘米") else 1.0) for n, unit in found]
    return bool(lengths) and all(abs(n - metres) <= max(LENGTH_M, 0.05 * metres) for n in lengths)


def understood(asked: Asked, told: Outcome) -> bool:
    want = {"absent": "where"}.get(asked.ask, asked.ask)
    return told.asked == want and len(told.find) >= len(asked.phrases)


def grounded(asked: Asked, told: Outcome, view: SimView) -> bool:
    """Whether each thing that the question names was found where it is, once, and nothing else was taken for it."""
    boxes = [d for array in told.detections_2d for d in array]
    if asked.ask == "absent":
        return not boxes
    truths = {str(t.index): t.box_xyxy_px for t in view.truths}
    return all(any(iou(d.box_xyxy_px, truths[name]) > 0.5 for d in boxes) for name in asked.things) and (
        asked.ask == "nearest" or len(boxes) >= len(asked.things)
    )


def answered(asker: Asker, shot: Shot, question: str, **how) -> Outcome:
    """The answer; where the model says nothing that can be read, an empty one, which is never right."""
    try:
        return asker.ask([shot], question, **how)
    except PerceptionError:
        return Outcome("", Code.ERROR, detections_2d=((),), detections_3d=((),))


def other_words(asker: Asker) -> dict[str, float]:
    """How many questions in other people's words are understood as they are meant, and how many otherwise; the rest is not."""
    lines = (Path(__file__).parent / "other_words.jsonl").read_text().splitlines()
    counts: dict[str, Counter] = {"en": Counter(), "zh": Counter()}
    for line in map(json.loads, lines):
        asked, by, _ = asker.understood(line["question"])
        meant = (line["ask"], [name.lower() for name in line["find"]]) if line["ask"] != "unknown" else None
        read = asked and (asked.ask, [name.lower() for name in asked.find])
        of = counts[grammar.language_of(line["question"])]
        of.update(
            asked=1, right=int(read == meant), otherwise=int(bool(read) and read != meant), rules=int(by is Who.RULES)
        )
    print("\nIn other people's words:")
    for language, of in counts.items():
        print(
            f"{language}: {of['right']} of {of['asked']} as meant, {of['otherwise']} otherwise; {of['rules']} read by the grammar"
        )
    return {f"other_words_{language}": round(of["right"] / of["asked"], 4) for language, of in counts.items()}


def run(scenes: int, first: int, per_scene: int = 4) -> dict[str, float | int | None]:
    """Figures of so many scenes; words_only_accuracy: of the same questions to the model without measuring, each second scene."""
    engine = load_tested_engine(Config())
    asker = Asker(Perception(engine, Config()))
    counts: Counter[str] = Counter()
    by_kind: dict[str, Counter] = {}
    waits_ms = []
    with SimCamera(640, 480, quality="fast") as camera:
        for seed in range(first, first + scenes):
            rng, spec = np.random.default_rng(seed), sample_scene(seed)
            view = camera.render(spec)
            depth_m = noisy_depth(view.depth_m, view.K, seed)
            truth = exact_layout(spec, view.world_T_camera, [t.index for t in view.truths if t.visibility >= 0.5])
            shot = Shot(Frame(1, "camera", view.rgb, depth_m, view.K))
            for k in range(per_scene):
                asked = ask_one(rng, view, truth, ("en", "zh")[k % 2])
                if asked is None:
                    continue
                started = time.perf_counter()
                told = answered(asker, shot, asked.question)
                waits_ms.append(1e3 * (time.perf_counter() - started))
                right = judged(asked, told, truth)
                if right is None:
                    counts["undecidable"] += 1
                    continue
                good = int(understood(asked, told) and grounded(asked, told, view))
                counts.update(
                    asked=1, right=right, good=good, good_right=good and right, understood=understood(asked, told)
                )
                kind = by_kind.setdefault(f"{asked.language} {asked.ask}", Counter())
                kind.update(asked=1, right=right, good=good, good_right=good and right)
                if seed % 2 == 0:
                    words = answered(asker, shot, asked.question, measure=False)
                    counts.update(words=1, words_right=bool(judged(asked, words, truth)))
    others = other_words(asker)
    engine.close()
    print("\n| question | asked | understood and found | right of those | right of all |\n|---|---|---|---|---|")
    for name, kind in sorted(by_kind.items()):
        of_good = f"{kind['good_right'] / kind['good']:.3f}" if kind["good"] else ""
        print(f"| {name} | {kind['asked']} | {kind['good']} | {of_good} | {kind['right'] / kind['asked']:.3f} |")

    def share(part: str, whole: str) -> float | None:
        return round(counts[part] / counts[whole], 4) if counts[whole] else None

    return {
        "questions": counts["asked"],
        "understood": share("understood", "asked"),
        "words_only_accuracy": share("words_right", "words"),
        "answers_ok": share("right", "asked"),
        "answers_ok_grounded": share("good_right", "good"),
        "latency_ms_p50": round(float(np.median(waits_ms)), 1) if waits_ms else math.nan,
    } | others


if __name__ == "__main__":
    print(json.dumps(run(60, 18000)))
