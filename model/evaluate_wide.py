"""The rows of the evaluation that speak of the wider world: places, people's words, orders, facts, dials, signs, and not knowing.

Sentence forms, words and seeds are those that training never sees. Knows nothing of the table: model/evaluate.py prints it.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
from data import sample_of, scene_of
from frames import statement
from moments import without
from people import WideAsker, rounded
from sayings import Sayings
from tasks import LANGUAGES, Language, Question

from qwen3vl_ros import zoom
from qwen3vl_ros.demo.score import iou_matrix
from qwen3vl_ros.engine.base import Limits, Prompt
from qwen3vl_ros.questions import Ask, Detect, Dial, ReadText, admissions
from qwen3vl_ros.types import Frame, MalformedAnswer, PerceptionError

FIRST_SEED = 5_000_000
ROWS = (
    *("places", "parse", "plan", "facts", "wordings", "abstain", "answers_known", "frames"),
    *("dial_points", "zone", "scale", "sign"),
)
_POINT_SHARE = 0.05  # of the dial's diameter


class WideEvaluation:
    """Asks and judges one wide scene after another. tally: evaluate.Tally; show(row, wrong): told of each wrong answer."""

    def __init__(self, perception, language: Language, tally, show=lambda row, text: None):
        self.perception, self.language, self.tally, self.show = perception, language, tally, show
        self.key = next(k for k, of in LANGUAGES.items() if of is language)

    @staticmethod
    def spec(seed: int):
        return scene_of(FIRST_SEED + seed, "wide")

    def scene(self, view, seed: int, others=()) -> None:
        """view: of spec(seed). others: the same place at other times, as `later` has them."""
        rng = np.random.default_rng([0xE7A2, seed])
        sample = sample_of(view, wide=True)
        asker = WideAsker(sample, rng, self.language, held_out=True)
        frame = Frame(0, "camera", view.rgb, view.depth_m, view.K)
        self._places(frame, asker)
        self._people(frame, asker)
        self._text(Sayings(rng, self.key, held_out=True))
        if others:
            self._frames([view, *others], rng)
        for index in (*sample.dials, *sample.signs):
            if sample.things[index].visibility > 0.9 and sample.things[index].whole:
                self._zoomed(view.rgb, sample, index)

    @staticmethod
    def later(spec, seed: int) -> list:
        """The same place twice more: with one thing gone, and with one somewhere else."""
        rng = np.random.default_rng([0xE7A3, seed])
        bearing = {thing.on for thing in spec.objects}
        free = [i for i, thing in enumerate(spec.objects) if i not in bearing]
        if not free or len(spec.objects) < 2:
            return []
        gone, moved = (int(i) for i in rng.choice(free, 2))
        scenes = [without(spec, gone)]
        if moved != gone:  # to where the other was, on the table
            where = spec.objects[gone]
            place = (*where.position_m[:2], spec.objects[moved].size_m[2] / 2)
            if where.on is None and not where.level:
                there = replace(spec.objects[moved], position_m=place, on=None, level=0)
                objects = tuple(there if i == moved else t for i, t in enumerate(spec.objects))
                scenes.append(without(replace(spec, objects=objects), gone))
        return scenes

    def _frames(self, views, rng: np.random.Generator) -> None:
        order = [views[int(i)] for i in rng.permutation(len(views))]
        askers = [WideAsker(sample_of(v, wide=True), rng, self.language, held_out=True) for v in order]
        for _ in range(12):
            question = statement(askers, rng, held_out=True)
            if question is not None:
                break
        else:
            return
        said = self._generate(question.prompt, tuple(v.rgb for v in order))
        truth = json.loads(question.answer)
        try:
            found = json.loads(said or "[]")
        except ValueError:
            found = []
        for i, holds in enumerate(truth):
            self.tally.add("frames", isinstance(found, list) and len(found) == len(truth) and found[i] == holds)
        if found != truth:
            self.show("frames", f"{question.prompt} -> {question.answer}\n    said: {said}")

    def _places(self, frame: Frame, asker: WideAsker) -> None:
        for name in ("level", "located_on", "locate"):
            for _ in range(12):
                question = getattr(asker, name)()
                if (
                    question
                    and (name != "locate" or question.targets[0].split()[-1] in self._new_kinds())
                    and "[]" not in question.answer
                ):
                    break
            else:
                continue
            scene = self._look(frame, Detect(question.targets))
            h, w = asker.sample.labels.shape
            rows = json.loads(question.answer.strip("`json\n"))
            truth = [np.array(row["bbox_2d"]) * np.array([w, h, w, h]) / 1000 for row in rows]
            found = [d.box_xyxy_px for d in scene.detections_2d] if scene else []
            ok = len(found) == len(truth) and bool((iou_matrix(found, truth).max(0, initial=0) >= 0.5).all())
            self._judge("places", ok, question, scene and scene.text)

    def _new_kinds(self) -> tuple[str, ...]:
        return tuple(map(self.language.name, ("box", "tray", "shelf", "sign")))

    def _people(self, frame: Frame, asker: WideAsker) -> None:
        asked = 0
        for _ in range(20):
            question = asker.people()
            if question is None:
                continue
            said = self._said(frame, question)
            self._judge("wordings", said is not None and same(question, said, asker), question, said)
            self.tally.add("answers_known", said is not None and not admissions.admits(said))
            asked += 1
            if asked == 3:
                break
        for _ in range(2):
            question = asker.sayings.beyond(pictured=True)
            said = self._said(frame, question)
            self._judge("abstain", said == question.answer, question, said)

    def _text(self, sayings: Sayings) -> None:
        for row, ask in (("parse", sayings.understand), ("plan", sayings.plan), ("facts", sayings.tell)):
            for _ in range(2):
                question = ask()
                said = self._generate(question.prompt, ())
                ok = said is not None and (
                    said == question.answer or (row != "facts" and _equal(said, question.answer))
                )
                self._judge(row, ok, question, said)

    def _zoomed(self, rgb: np.ndarray, sample, index: int) -> None:
        h, w = rgb.shape[:2]
        view = zoom.around(sample.things[index].box_xyxy_px, (w, h))
        frame, (x0, y0, x1, y1) = Frame(0, "camera", zoom.shown(rgb, view)), view.region_xyxy_px
        if index in sample.signs:
            scene = self._look(frame, ReadText())
            found = [d.label for d in scene.detections_2d] if scene else []
            self.tally.add("sign", found == [sample.signs[index]["text"]])
            return
        said = self._generate(Dial().prompt(), (frame.rgb,))
        g, shown = sample.dials[index], {}
        try:
            shown = json.loads(said or "")
            points = {n: np.array(shown[n], float) / 1000 * (x1 - x0, y1 - y0) + (x0, y0) for n in g["points_px"]}
        except (ValueError, KeyError, TypeError):
            points = {}
        bx0, by0, bx1, by1 = sample.things[index].box_xyxy_px
        limit = _POINT_SHARE * max(bx1 - bx0, by1 - by0)
        for name, at in g["points_px"].items():
            self.tally.add("dial_points", name in points and bool(np.linalg.norm(points[name] - at) <= limit))
        self.tally.add("zone", isinstance(shown, dict) and shown.get("zone") == (g["zone"] or "none"))
        scale = tuple(shown.get(k) for k in ("unit", "minimum", "maximum")) if isinstance(shown, dict) else ()
        right = self.tally.add("scale", scale == (g["unit"], g["minimum"], g["maximum"]))
        if not right:
            self.show("scale", f"{g['unit']} {g['minimum']}..{g['maximum']} {rounded(g)} {g['zone']} -> {said}")

    def _judge(self, row: str, ok: bool, question: Question, said: str | None) -> None:
        if not self.tally.add(row, ok):
            self.show(row, f"{question.prompt} -> {question.answer}\n    said: {said}")

    def _look(self, frame: Frame, question):
        self.tally.answers += 1
        try:
            return self.perception.look(frame, question)
        except MalformedAnswer:
            self.tally.malformed += 1
            return None

    def _said(self, frame: Frame, question: Question) -> str | None:
        return self._generate(Ask(question.prompt).prompt(), (frame.rgb,))

    def _generate(self, text: str, images) -> str | None:
        """What is said to a prompt; None where it did not come to an end."""
        self.tally.answers += 1
        limits = replace(Limits.of(self.perception.config.generation), max_new_tokens=256)
        try:
            generation = self.perception.engine.generate(Prompt(text, images), limits)
        except PerceptionError:
            self.tally.malformed += 1
            return None
        return generation.text.strip()


def _equal(said: str, answer: str) -> bool:
    try:
        return json.loads(said) == json.loads(answer)
    except ValueError:
        return False


def same(question: Question, said: str, asker: WideAsker) -> bool:
    """Whether an answer in words says the same: things listed in any order, a reading within 5 % of the range."""
    if said == question.answer:
        return True
    if question.kind in ("list", "what_at"):
        return _parts(said) == _parts(question.answer)
    if question.kind == "reading":
        g = asker.sample.gauge
        found = re.search(r"(-?\d+(?:\.\d+)?) (\S+?)(?:[.。，]$|[,，。] ?|$)", said)
        near = found and abs(float(found[1]) - g["value"]) <= 0.05 * (g["maximum"] - g["minimum"])
        zones = [re.sub(r"-?\d+(?:\.\d+)?", "", text) for text in (said, question.answer)]
        return bool(near) and zones[0] == zones[1]
    return False


def _parts(text: str) -> list[str]:
    return sorted(
        re.split(
            r", | and |、|和|There is |有|在|(?<=[a-z]) is | are ",
            text.rstrip(".。").lower().replace("the ", "").replace("an ", "a ").replace("a ", ""),
        )
    )
