"""Questions about a view and their true answers, in the prompts and formats of the package (qwen3vl_ros.questions).

Everything comes from the renderer's truth: boxes and masks in the image, distances in the world. A question is asked only
when its answer is beyond doubt (margins below), in English or Chinese. Knows nothing of tokens. model/evaluate.py asks the
same questions.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
from data import COLOUR_IDS, KIND_IDS, WIDE_KIND_IDS, Sample, Thing
from targets import MIN_VISIBILITY, coordinates

from qwen3vl_ros.questions import Detect, Point, gauge, put
from qwen3vl_ros.sim.scenes import COLOURS, KINDS
from qwen3vl_ros.sim.specs import MORE_KINDS

SIDE_MARGIN = 0.05  # of the image width, between centres, to be left or right of
DEPTH_MARGIN_M = 0.05  # along the ground, to be in front or behind
TOLD_APART_M = 0.012  # by which a relation of facts.py must hold in the world as well
FIXTURES = ("gauge", "shelf", "sign")
SIDES = ("to the left of", "to the right of")
RELATIONS = (*SIDES, "in front of", "behind")


@dataclass(frozen=True)
class Language:
    """How a language calls things and asks for them. Between functions, names and relations are English: "red mug", "behind".

    words: what it calls them, where that is not the English. joint: between the words of a name. The rest: descriptions and
    questions, with {a} and {b} for names and {relation} for how a stands to b.
    """

    words: dict[str, str]
    joint: str
    article: str
    plural: str
    described: str
    count: str
    exists: str
    compare: str
    which: dict[str, str]
    nearest: str
    put: str
    gauge: str

    def name(self, phrase: str) -> str:
        return self.joint.join(self.words.get(word, word) for word in phrase.split())

    def fill(self, template: str, a: str, b: str = "", relation: str = "") -> str:
        said = template.format(a=self.name(a), b=self.name(b), relation=self.words.get(relation, relation))
        return re.sub(r"\ba (?=[aeiou])", "an ", said)  # an orange cube

    def literals(self) -> list[str]:
        """Its words and what stands between them in its questions."""
        templates = [
            self.described,
            self.count,
            self.exists,
            self.compare,
            *self.which.values(),
            self.nearest,
            self.put,
            self.gauge,
        ]
        between = [piece for template in templates for piece in re.split(r"\{\w+\}", template) if piece]
        return list(dict.fromkeys([*between, *self.words.values()]))


ENGLISH = Language(
    words={relation: f" {relation} the " for relation in (*RELATIONS, "in", "next to", "on")},
    joint=" ",
    article="the ",
    plural="s",
    described="{a}{relation}{b}",
    count="How many {a} are there in the image? Answer with a number.",
    exists="Is there a {a} in the image? Answer yes or no.",
    compare="Is the {a}{relation}{b}? Answer yes or no.",
    which=dict(
        leftmost="Which object is leftmost?",
        rightmost="Which object is rightmost?",
        nearest="Which object is nearest to the camera?",
        farthest="Which object is farthest from the camera?",
    ),
    nearest="Which object is nearest to the {a}?",
    put=put.TEMPLATES["en"].format(thing="{a}", relation="{relation}", reference="{b}"),
    gauge=gauge.PROMPTS["en"],
)
CHINESE = Language(
    words={
        "cube": "立方体",
        "ball": "球",
        "cylinder": "圆柱体",
        "mug": "杯子",
        "bowl": "碗",
        "gauge": "仪表",
        "box": "盒子",
        "tray": "托盘",
        "shelf": "架子",
        "sign": "标牌",
        "table": "桌子",
        "object": "物体",
        "red": "红色",
        "green": "绿色",
        "blue": "蓝色",
        "yellow": "黄色",
        "orange": "橙色",
        "purple": "紫色",
        "white": "白色",
        "black": "黑色",
        "leftmost": "最左边",
        "rightmost": "最右边",
        "nearest": "离相机最近",
        "farthest": "离相机最远",
        "to the left of": "左边",
        "to the right of": "右边",
        "in front of": "前面",
        "behind": "后面",
        "in": "里面",
        "next to": "旁边",
        "on": "上面",
        "yes": "是",
        "no": "否",
    },
    joint="的",
    article="",
    plural="",
    described="{b}{relation}的{a}",
    count="图中有多少个{a}？请用数字回答。",
    exists="图中有{a}吗？请回答是或否。",
    compare="{a}在{b}{relation}吗？请回答是或否。",
    which=dict(
        leftmost="哪个物体在最左边？",
        rightmost="哪个物体在最右边？",
        nearest="哪个物体离相机最近？",
        farthest="哪个物体离相机最远？",
    ),
    nearest="哪个物体离{a}最近？",
    put=put.TEMPLATES["zh"].format(thing="{a}", relation="{relation}", reference="{b}"),
    gauge=gauge.PROMPTS["zh"],
)
LANGUAGES = dict(en=ENGLISH, zh=CHINESE)


@dataclass(frozen=True)
class Question:
    """kind: the task's name in the evaluation table. things: indices the answer means, in its order.

    mentions: the names in the prompt, in its order, each with the things it fits; None where something half hidden leaves
    that open. What a reader of the prompt should look up before it answers. pictured: the picture stands before the prompt.
    loose: a mention that the prompt no longer holds, as in a plural, is left out.
    """

    kind: str
    prompt: str
    answer: str
    things: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()
    mentions: tuple[tuple[str, tuple[int, ...] | None], ...] = ()
    pictured: bool = True
    loose: bool = False


def box_list(sample: Sample, items: list[tuple[int, str]]) -> tuple[str, tuple[int, ...]]:
    """The answer with the boxes of (thing, label), and the things in its order: from left to right, so that there is
    one right answer."""
    h, w = sample.labels.shape
    rows = sorted(
        (*(int(round(v)) for v in coordinates(sample.things[i].box_xyxy_px, (w, h))), label, i) for i, label in items
    )
    return (
        fenced([f'{{"bbox_2d": [{a}, {b}, {c}, {d}], "label": "{label}"}}' for a, b, c, d, label, _ in rows]),
        tuple(row[-1] for row in rows),
    )


def point_list(sample: Sample, items: list[tuple[int, str]]) -> tuple[str, tuple[int, ...]]:
    """As box_list, with a point on each thing."""
    h, w = sample.labels.shape
    rows = sorted(
        (*(int(round(v)) for v in coordinates(point_inside(sample, i) * 2, (w, h))[:2]), label, i) for i, label in items
    )
    return (
        fenced([f'{{"point_2d": [{x}, {y}], "label": "{label}"}}' for x, y, label, _ in rows]),
        tuple(row[-1] for row in rows),
    )


def fenced(rows: list[str]) -> str:
    return "```json\n[\n\t" + ",\n\t".join(rows) + "\n]\n```" if rows else "```json\n[]\n```"


def point_inside(sample: Sample, index: int) -> tuple[float, float]:
    """The centre of the visible pixels, or the visible pixel nearest to it."""
    ys, xs = np.nonzero(sample.labels == index)
    x, y = xs.mean(), ys.mean()
    at = ((xs - x) ** 2 + (ys - y) ** 2).argmin()
    return float(xs[at] + 0.5), float(ys[at] + 0.5)


class Asker:
    """Asks random questions about one sample. rng decides; the sample decides what is true.

    wide: speak of the wider world's kinds, also where there are none; None where the sample is of it.
    """

    def __init__(
        self, sample: Sample, rng: np.random.Generator, language: Language = ENGLISH, wide: bool | None = None
    ):
        self.sample, self.rng, self.language = sample, rng, language
        self.wide = sample.wide if wide is None else wide
        self.kinds = (*KINDS, *MORE_KINDS) if self.wide else KINDS
        seen = [i for i, t in enumerate(sample.things) if t.visibility >= MIN_VISIBILITY and (sample.labels == i).any()]
        self.named = [i for i in seen if self.thing(i).kind not in FIXTURES]
        self.seen = seen
        self.gauges = [i for i in seen if self.thing(i).kind == "gauge"]
        # Something seen less than that could be meant or not: no count, yes or no hangs on it.
        hidden = [i for i, t in enumerate(sample.things) if i not in seen and t.visibility > 0]
        self.doubtful = {self.thing(i).kind for i in hidden} | {self.name(i) for i in hidden}
        self.dial = next((i for i in self.gauges if self.thing(i).visibility > 0.85), None)

    # -- small truths ------------------------------------------------------------------------------------------

    def thing(self, i: int) -> Thing:
        return self.sample.things[i]

    def name(self, i: int) -> str:
        thing = self.sample.things[i]
        return thing.kind if thing.kind in FIXTURES else f"{thing.colour} {thing.kind}"

    def centre_x(self, i: int) -> float:
        x0, _, x1, _ = self.thing(i).box_xyxy_px
        return (x0 + x1) / 2 / self.sample.labels.shape[1]

    def matching(self, phrase: str) -> list[int]:
        words = phrase.split()
        return [
            i
            for i in self.seen
            if self.thing(i).kind == words[-1] and (len(words) == 1 or self.thing(i).colour == words[0])
        ]

    def mention(self, *names: str) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
        """Names as the prompt says them, with what they fit."""
        return tuple(
            (self.language.name(n), None if n in self.doubtful else self.left_to_right(self.matching(n))) for n in names
        )

    def left_to_right(self, things: list[int]) -> tuple[int, ...]:
        return tuple(sorted(things, key=lambda i: self.thing(i).box_xyxy_px[0]))

    def unique(self) -> list[int]:
        """Things whose colour and kind no other thing has, seen or half hidden."""
        names = [self.name(i) for i, t in enumerate(self.sample.things) if t.kind not in FIXTURES and t.visibility > 0]
        return [i for i in self.named if names.count(self.name(i)) == 1]

    def is_absent(self, phrase: str) -> bool:
        return not self.matching(phrase) and phrase not in self.doubtful

    def absent_phrase(self) -> str:
        while True:
            phrase = f"{self.rng.choice(list(COLOURS))} {self.rng.choice(self.kinds)}"
            if self.is_absent(phrase):
                return phrase

    def relation(self, a: int, b: int) -> dict[str, bool | None]:
        """Which of left, right, front, behind holds of a against b; None where it is too close to say."""
        dx = self.centre_x(a) - self.centre_x(b)
        dz = self.thing(a).forward_m - self.thing(b).forward_m
        side = self._agreed(None if abs(dx) < SIDE_MARGIN else dx < 0, 0, a, b)
        front = self._agreed(None if abs(dz) < DEPTH_MARGIN_M else dz < 0, 1, a, b)
        flip = lambda v: None if v is None else not v  # noqa: E731
        return {"to the left of": side, "to the right of": flip(side), "in front of": front, "behind": flip(front)}

    def _agreed(self, less: bool | None, axis: int, a: int, b: int) -> bool | None:
        """`less`, as the picture or the centres have it, where the measured extents along the axis say so too."""
        (a0, a1), (b0, b1) = self.thing(a).span_m[axis], self.thing(b).span_m[axis]
        overlap = min(a1 - a0, b1 - b0) / 2
        centres = (b0 + b1 - a0 - a1) / 2
        margin = max(b0 - a1, centres - overlap) if less else max(a0 - b1, -centres - overlap)
        return less if less is not None and margin > TOLD_APART_M else None

    def extreme(self, among: list[int]) -> list[tuple[str, int]]:
        """("leftmost", i) and the like, where one stands out."""
        out = []
        for word, key, margin in (
            ("leftmost", self.centre_x, SIDE_MARGIN),
            ("rightmost", lambda i: -self.centre_x(i), SIDE_MARGIN),
            ("nearest", lambda i: self.thing(i).range_m, DEPTH_MARGIN_M),
            ("farthest", lambda i: -self.thing(i).range_m, DEPTH_MARGIN_M),
        ):
            ranked = sorted(among, key=key)
            if len(ranked) > 1 and key(ranked[1]) - key(ranked[0]) > margin:
                out.append((word, ranked[0]))
        return out

    # -- questions ---------------------------------------------------------------------------------------------

    def categories(self) -> Question:
        kinds = tuple(WIDE_KIND_IDS if self.wide else KIND_IDS)
        if self.rng.random() < 0.3:
            targets = list(kinds[: self.rng.integers(len(self.kinds), len(kinds) + 1)])
        else:
            targets = [str(k) for k in self.rng.permutation(kinds)[: self.rng.integers(1, 5)]]
        items = [(i, self.thing(i).kind) for i in self.seen if self.thing(i).kind in targets]
        return self._boxes("categories", targets, items)

    def phrases(self) -> Question | None:
        pool = sorted({self.name(i) for i in self.named})
        targets = [str(p) for p in self.rng.permutation(pool)[: self.rng.integers(1, 4)]] if pool else []
        while len(targets) < 2 or self.rng.random() < 0.3:
            targets.append(self.absent_phrase())
        targets = list(dict.fromkeys(targets))[:5]
        self.rng.shuffle(targets)
        items = [(i, self.name(i)) for i in self.named if self.name(i) in targets]
        return self._boxes("categories", targets, items) if len(targets) > 1 else None

    def absent(self) -> Question | None:
        kinds = [k for k in (WIDE_KIND_IDS if self.wide else KIND_IDS) if self.is_absent(k)]
        if kinds and self.rng.random() < 0.5:
            targets = [str(k) for k in self.rng.permutation(kinds)[: self.rng.integers(1, len(kinds) + 1)]]
        else:
            targets = list(dict.fromkeys(self.absent_phrase() for _ in range(self.rng.integers(1, 3))))
        return self._boxes("absent", targets, [])

    def locate(self) -> Question | None:
        names = sorted({self.name(i) for i in self.named})
        if not names:
            return None
        phrase = str(self.rng.choice(names))
        return self._boxes(
            "locate",
            [phrase],
            [(i, phrase) for i in self.matching(phrase)],
            article=self.language.article if self.rng.random() < 0.4 else "",
        )

    def locate_twins(self) -> Question | None:
        """Several things of one colour and kind: rarer than one, and else the first one would pass for all."""
        names = [self.name(i) for i in self.named]
        names = sorted({n for n in names if names.count(n) > 1})
        if not names:
            return None
        phrase = str(self.rng.choice(names))
        return self._boxes("locate", [phrase], [(i, phrase) for i in self.matching(phrase)])

    def locate_extreme(self) -> Question | None:
        kind = str(self.rng.choice(self.kinds))
        if kind in self.doubtful:
            return None
        found = self.extreme(self.matching(kind))
        if not found:
            return None
        word, i = found[self.rng.integers(len(found))]
        return self._boxes(
            "locate_relation", [f"{word} {kind}"], [(i, f"{word} {kind}")], (kind,), self.language.article
        )

    def locate_relation(self) -> Question | None:
        anchors = self.unique()
        if len(self.named) < 2 or not anchors:
            return None
        b = int(self.rng.choice(anchors))
        kinds = sorted({self.thing(i).kind for i in self.named if i != b} - self.doubtful)
        if not kinds:
            return None
        kind, words = str(self.rng.choice(kinds)), str(self.rng.choice(RELATIONS))
        holds = {i: self.relation(i, b)[words] for i in self.matching(kind) if i != b}
        right = [i for i, v in holds.items() if v]
        if len(right) != 1 or None in holds.values():
            return None
        target = self.language.article + self.language.fill(self.language.described, kind, self.name(b), words)
        mentions = sorted(self.mention(kind, self.name(b)), key=lambda m: target.index(m[0]))
        return self._located("locate_relation", (target,), [(right[0], kind)], tuple(mentions))

    def points(self) -> Question | None:
        pool = sorted({self.name(i) for i in self.named} | {self.thing(i).kind for i in self.seen})
        if not pool:
            return None
        phrase = str(self.rng.choice(pool)) if self.rng.random() < 0.85 else self.absent_phrase()
        said = self.language.name(phrase)
        items = [(i, said) for i in self.matching(phrase)]
        prompt = Point((said,)).prompt()
        return Question("point", prompt, *point_list(self.sample, items), (said,), self.mention(phrase))

    def count(self) -> Question | None:
        if self.rng.random() < 0.25:
            phrase, found = "object", self.named
        else:
            phrase = (
                str(self.rng.choice(self.kinds))
                if self.rng.random() < 0.7 or not self.named
                else self.name(int(self.rng.choice(self.named)))
            )
            found = self.matching(phrase)
        if phrase in self.doubtful or (phrase == "object" and self.doubtful):
            return None
        plural = phrase + self.language.plural
        return Question(
            "count",
            self.language.fill(self.language.count, plural),
            str(len(found)),
            mentions=((self.language.name(plural), self.left_to_right(found)),),
        )

    def exists(self) -> Question | None:
        yes = self.rng.random() < 0.5 and self.named
        phrase = self.name(int(self.rng.choice(self.named))) if yes else self.absent_phrase()
        if self.rng.random() < 0.1 and "gauge" not in self.doubtful:
            phrase, yes = "gauge", self.gauges
        return self._said("exists", self.language.exists, "yes" if yes else "no", phrase)

    def compare(self) -> Question | None:
        pair = self._unique_pair()
        if pair is None:
            return None
        a, b = pair
        relation = {k: v for k, v in self.relation(a, b).items() if v is not None}
        if not relation:
            return None
        words = str(self.rng.choice(sorted(relation)))
        return self._said(
            "relation", self.language.compare, "yes" if relation[words] else "no", self.name(a), self.name(b), words
        )

    def nearest(self) -> Question | None:
        unique = self.unique()
        if len(unique) != len(self.named) or len(unique) < 2 or self.doubtful:
            return None
        if self.rng.random() < 0.5:
            found = self.extreme(self.named)
            if not found:
                return None
            word, i = found[self.rng.integers(len(found))]
            return self._said("relation", self.language.which[word], self.name(i), things=(i,))
        if len(unique) < 3:
            return None
        b = int(self.rng.choice(unique))
        distance = {
            i: float(np.linalg.norm(np.subtract(self.thing(i).world_m, self.thing(b).world_m)))
            for i in unique
            if i != b
        }
        ranked = sorted(distance, key=distance.get)
        if distance[ranked[1]] - distance[ranked[0]] < DEPTH_MARGIN_M / 2:
            return None
        return self._said("relation", self.language.nearest, self.name(ranked[0]), self.name(b), things=(ranked[0],))

    def pick_place(self) -> Question | None:
        pair = self._unique_pair()
        if pair is None:
            return None
        a, b = pair
        words = "in" if self.thing(b).kind in ("bowl", "mug") else str(self.rng.choice(["next to", *SIDES]))
        h, w = self.sample.labels.shape
        rows = []
        for i, role in ((a, "pick"), (b, "place")):
            box = ", ".join(str(int(round(v))) for v in coordinates(self.thing(i).box_xyxy_px, (w, h)))
            rows.append(f'{{"bbox_2d": [{box}], "label": "{role}"}}')
        names = self.name(a), self.name(b)
        return Question(
            "pick_place",
            self.language.fill(self.language.put, *names, words),
            fenced(rows),
            (a, b),
            mentions=self.mention(*names),
        )

    def gauge(self) -> Question | None:
        if self.dial is None:
            return None
        if self.rng.random() < 0.3:
            return self._boxes("locate", ["gauge"], [(self.dial, "gauge")])
        g = self.sample.gauge
        step = (g["maximum"] - g["minimum"]) / 100
        value = f"{g['value']:.{2 if step < 0.1 else 1 if step < 1 else 0}f}"
        said = json.dumps(
            {"value": float(value) if "." in value else int(value), "unit": g["unit"]}, ensure_ascii=False
        )
        prompt = self.language.gauge
        return Question("gauge", prompt, said, (self.dial,), mentions=((prompt, (self.dial,)),))

    def _boxes(
        self,
        kind: str,
        names: list[str],
        items: list[tuple[int, str]],
        mentioned: tuple[str, ...] = (),
        article: str = "",
    ) -> Question:
        """Where names are; mentioned: what to look up, the names themselves if empty."""
        return self._located(
            kind, tuple(article + self.language.name(n) for n in names), items, self.mention(*(mentioned or names))
        )

    def _located(self, kind: str, targets: tuple[str, ...], items: list[tuple[int, str]], mentions) -> Question:
        answer = box_list(self.sample, [(i, self.language.name(label)) for i, label in items])
        return Question(kind, Detect(targets).prompt(), *answer, targets, mentions)

    def _said(
        self,
        kind: str,
        template: str,
        answer: str,
        a: str = "",
        b: str = "",
        relation: str = "",
        things: tuple[int, ...] = (),
    ) -> Question:
        """A question of a template, answered by a name, yes or no."""
        return Question(
            kind,
            self.language.fill(template, a, b, relation),
            self.language.name(answer),
            things,
            mentions=self.mention(*filter(None, (a, b))),
        )

    def _unique_pair(self) -> tuple[int, int] | None:
        unique = self.unique()
        if len(unique) < 2:
            return None
        a, b = self.rng.permutation(unique)[:2]
        return int(a), int(b)

    def ask(self) -> Question | None:
        """One question, the kinds drawn in proportion to their importance; None where the kind does not apply."""
        names, weights = zip(*MIXTURE.items())
        return getattr(self, str(self.rng.choice(names, p=weights)))()


_SHARES = dict(
    categories=24,
    phrases=12,
    absent=8,
    locate=12,
    locate_twins=10,
    locate_extreme=3,
    locate_relation=9,
    points=8,
    count=9,
    exists=8,
    compare=11,
    nearest=10,
    pick_place=9,
)
MIXTURE = {k: v / sum(_SHARES.values()) for k, v in _SHARES.items()}

# One token each in the tokenizer, so that a question costs a few.
_LITERALS = [
    'Locate every instance that belongs to the following categories: "',
    '". Report bbox coordinates in JSON format.',
    'Locate every object that matches the description "',
    '" in the image. Report bbox coordinates in JSON format.',
    "Locate ",
    " in this image. Output the point coordinates in JSON format.",
    *ENGLISH.literals(),
    *CHINESE.literals(),
]
_STRUCTURE = [
    '```json\n[\n\t{"bbox_2d": [',
    '```json\n[\n\t{"point_2d": [',
    '], "label": "',
    '"},\n\t{"bbox_2d": [',
    '"},\n\t{"point_2d": [',
    '"}\n]\n```',
    "```json\n[]\n```",
    ", ",
    '{"value": ',
    ', "unit": "',
    '"}',
]
WORDS = [
    *KINDS,
    *(kind + "s" for kind in KINDS),
    *COLOURS,
    "gauge",
    "leftmost",
    "rightmost",
    "nearest",
    "farthest",
    "pick",
    "place",
    "yes",
    "no",
    "objects",
    "bar",
    "psi",
    "°C",
    "kPa",
    "%",
    "the",
]
PHRASES = tuple(dict.fromkeys(_STRUCTURE + _LITERALS))  # of the plain table-top; vocabulary.py has the wider world's
assert COLOUR_IDS.keys() == COLOURS.keys()
