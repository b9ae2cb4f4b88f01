"""Questions about a view and their true answers, in the prompts and formats of the package (perception/prompts.py).

Everything comes from the renderer's truth: boxes and masks in the image, distances in the world. A question is asked only
when its answer is beyond doubt (margins below). Knows nothing of tokens. model/evaluate.py asks the same questions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from data import COLOUR_IDS, Sample, Thing
from qwen3vl_ros.perception.prompts import prompt_for
from qwen3vl_ros.sim.scenes import COLOURS, KINDS
from qwen3vl_ros.types import Request, Task
from targets import MIN_VISIBILITY, coordinates

SIDE_MARGIN = 0.05      # of the image width, between centres, to be left or right of
DEPTH_MARGIN_M = 0.05   # along the ground, to be in front or behind
GAUGE_PROMPT = "What does the gauge read? Answer in JSON format with value and unit."
PLURAL = {kind: kind + "s" for kind in KINDS}


@dataclass(frozen=True)
class Question:
    """kind: the task's name in the evaluation table. things: indices the answer means, in its order.

    mentions: the names in the prompt, in its order, each with the things it fits; None where something half hidden leaves
    that open. What a reader of the prompt should look up before it answers.
    """

    kind: str
    prompt: str
    answer: str
    things: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()
    mentions: tuple[tuple[str, tuple[int, ...] | None], ...] = ()


def box_list(sample: Sample, items: list[tuple[int, str]]) -> tuple[str, tuple[int, ...]]:
    """The answer with the boxes of (thing, label), and the things in its order: from left to right, so that there is
    one right answer."""
    h, w = sample.labels.shape
    rows = sorted((*(int(round(v)) for v in coordinates(sample.things[i].box_xyxy_px, (w, h))), label, i) for i, label in items)
    return (fenced([f'{{"bbox_2d": [{a}, {b}, {c}, {d}], "label": "{label}"}}' for a, b, c, d, label, _ in rows]),
            tuple(row[-1] for row in rows))


def point_list(sample: Sample, items: list[tuple[int, str]]) -> tuple[str, tuple[int, ...]]:
    """As box_list, with a point on each thing."""
    h, w = sample.labels.shape
    rows = sorted((*(int(round(v)) for v in coordinates(point_inside(sample, i) * 2, (w, h))[:2]), label, i) for i, label in items)
    return (fenced([f'{{"point_2d": [{x}, {y}], "label": "{label}"}}' for x, y, label, _ in rows]), tuple(row[-1] for row in rows))


def fenced(rows: list[str]) -> str:
    return "```json\n[\n\t" + ",\n\t".join(rows) + "\n]\n```" if rows else "```json\n[]\n```"


def point_inside(sample: Sample, index: int) -> tuple[float, float]:
    """The centre of the visible pixels, or the visible pixel nearest to it."""
    ys, xs = np.nonzero(sample.labels == index)
    x, y = xs.mean(), ys.mean()
    at = ((xs - x) ** 2 + (ys - y) ** 2).argmin()
    return float(xs[at] + 0.5), float(ys[at] + 0.5)


class Asker:
    """Asks random questions about one sample. rng decides; the sample decides what is true."""

    def __init__(self, sample: Sample, rng: np.random.Generator):
        self.sample, self.rng = sample, rng
        self.named = [i for i, t in enumerate(sample.things)
                      if t.kind != "gauge" and t.visibility >= MIN_VISIBILITY and (sample.labels == i).any()]
        # Something seen less than that could be meant or not: no count, yes or no hangs on it.
        self.doubtful = {self.name(i) for i, t in enumerate(sample.things)
                         if t.kind != "gauge" and i not in self.named and t.visibility > 0}
        self.doubtful |= {d.split()[1] for d in self.doubtful}
        self.dial = next((i for i, t in enumerate(sample.things) if t.kind == "gauge" and t.visibility > 0.85), None)

    # -- small truths ------------------------------------------------------------------------------------------

    def thing(self, i: int) -> Thing:
        return self.sample.things[i]

    def name(self, i: int) -> str:
        return f"{self.sample.things[i].colour} {self.sample.things[i].kind}"

    def centre_x(self, i: int) -> float:
        x0, _, x1, _ = self.thing(i).box_xyxy_px
        return (x0 + x1) / 2 / self.sample.labels.shape[1]

    def matching(self, phrase: str) -> list[int]:
        words = phrase.split()
        return [i for i in self.named if self.thing(i).kind == words[-1] and (len(words) == 1 or self.thing(i).colour == words[0])]

    def mention(self, *names: str) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
        return tuple((n, None if n in self.doubtful else (self.dial,) if n == "gauge" and self.dial is not None
                      else tuple(sorted(self.matching(n), key=lambda i: self.thing(i).box_xyxy_px[0]))) for n in names)

    def unique(self) -> list[int]:
        """Things whose colour and kind no other thing has, seen or half hidden."""
        names = [self.name(i) for i, t in enumerate(self.sample.things) if t.kind != "gauge" and t.visibility > 0]
        return [i for i in self.named if names.count(self.name(i)) == 1]

    def absent_phrase(self) -> str:
        while True:
            phrase = f"{self.rng.choice(list(COLOURS))} {self.rng.choice(KINDS)}"
            if not self.matching(phrase) and phrase not in self.doubtful:
                return phrase

    def relation(self, a: int, b: int) -> dict[str, bool | None]:
        """Which of left, right, front, behind holds of a against b; None where it is too close to say."""
        dx = self.centre_x(a) - self.centre_x(b)
        dz = self.thing(a).forward_m - self.thing(b).forward_m
        side = None if abs(dx) < SIDE_MARGIN else dx < 0
        front = None if abs(dz) < DEPTH_MARGIN_M else dz < 0
        flip = lambda v: None if v is None else not v  # noqa: E731
        return {"to the left of": side, "to the right of": flip(side), "in front of": front, "behind": flip(front)}

    def extreme(self, among: list[int]) -> list[tuple[str, int]]:
        """("leftmost", i) and the like, where one stands out."""
        out = []
        for word, key, margin in (("leftmost", self.centre_x, SIDE_MARGIN), ("rightmost", lambda i: -self.centre_x(i), SIDE_MARGIN),
                                  ("nearest", lambda i: self.thing(i).range_m, DEPTH_MARGIN_M),
                                  ("farthest", lambda i: -self.thing(i).range_m, DEPTH_MARGIN_M)):
            ranked = sorted(among, key=key)
            if len(ranked) > 1 and key(ranked[1]) - key(ranked[0]) > margin:
                out.append((word, ranked[0]))
        return out

    # -- questions ---------------------------------------------------------------------------------------------

    def categories(self) -> Question:
        if self.rng.random() < 0.3:
            targets = list(KINDS)
        else:
            targets = [str(k) for k in self.rng.permutation(KINDS)[:self.rng.integers(1, 5)]]
        items = [(i, self.thing(i).kind) for i in self.named if self.thing(i).kind in targets]
        return self._boxes("categories", targets, items)

    def phrases(self) -> Question | None:
        pool = sorted({self.name(i) for i in self.named})
        targets = [str(p) for p in self.rng.permutation(pool)[:self.rng.integers(1, 4)]] if pool else []
        while len(targets) < 2 or self.rng.random() < 0.3:
            targets.append(self.absent_phrase())
        targets = list(dict.fromkeys(targets))[:5]
        self.rng.shuffle(targets)
        items = [(i, self.name(i)) for i in self.named if self.name(i) in targets]
        return self._boxes("categories", targets, items) if len(targets) > 1 else None

    def absent(self) -> Question | None:
        seen = {self.thing(i).kind for i in self.named} | self.doubtful
        kinds = [k for k in KINDS if k not in seen]
        if kinds and self.rng.random() < 0.5:
            targets = [str(k) for k in self.rng.permutation(kinds)[:self.rng.integers(1, len(kinds) + 1)]]
        else:
            targets = list(dict.fromkeys(self.absent_phrase() for _ in range(self.rng.integers(1, 3))))
        return self._boxes("absent", targets, [])

    def locate(self) -> Question | None:
        names = sorted({self.name(i) for i in self.named})
        if not names:
            return None
        phrase = str(self.rng.choice(names))
        article = "the " if self.rng.random() < 0.4 else ""
        return self._boxes("locate", [article + phrase], [(i, phrase) for i in self.matching(phrase)])

    def locate_twins(self) -> Question | None:
        """Several things of one colour and kind: rarer than one, and else the first one would pass for all."""
        names = [self.name(i) for i in self.named]
        names = sorted({n for n in names if names.count(n) > 1})
        if not names:
            return None
        phrase = str(self.rng.choice(names))
        return self._boxes("locate", [phrase], [(i, phrase) for i in self.matching(phrase)])

    def locate_extreme(self) -> Question | None:
        kind = str(self.rng.choice(KINDS))
        if kind in self.doubtful:
            return None
        found = self.extreme(self.matching(kind))
        if not found:
            return None
        word, i = found[self.rng.integers(len(found))]
        return self._boxes("locate_relation", [f"the {word} {kind}"], [(i, f"{word} {kind}")], self.mention(kind))

    def locate_relation(self) -> Question | None:
        anchors = self.unique()
        if len(self.named) < 2 or not anchors:
            return None
        b = int(self.rng.choice(anchors))
        kinds = sorted({self.thing(i).kind for i in self.named if i != b} - self.doubtful)
        if not kinds:
            return None
        kind, words = str(self.rng.choice(kinds)), str(self.rng.choice(["to the left of", "to the right of", "in front of", "behind"]))
        holds = {i: self.relation(i, b)[words] for i in self.matching(kind) if i != b}
        right = [i for i, v in holds.items() if v]
        if len(right) != 1 or None in holds.values():
            return None
        return self._boxes("locate_relation", [f"the {kind} {words} the {self.name(b)}"], [(right[0], kind)],
                           self.mention(kind, self.name(b)))

    def points(self) -> Question | None:
        pool = sorted({self.name(i) for i in self.named} | {self.thing(i).kind for i in self.named})
        if not pool:
            return None
        phrase = str(self.rng.choice(pool)) if self.rng.random() < 0.85 else self.absent_phrase()
        items = [(i, phrase) for i in self.matching(phrase)]
        prompt = prompt_for(Request((phrase,), Task.POINT))
        return Question("point", prompt, *point_list(self.sample, items), (phrase,), self.mention(phrase))

    def count(self) -> Question | None:
        if self.rng.random() < 0.25:
            if self.doubtful:
                return None
            return Question("count", "How many objects are there in the image? Answer with a number.", str(len(self.named)),
                            mentions=(("objects", tuple(sorted(self.named, key=lambda i: self.thing(i).box_xyxy_px[0]))),))
        phrase = str(self.rng.choice(KINDS)) if self.rng.random() < 0.7 or not self.named else self.name(int(self.rng.choice(self.named)))
        if phrase in self.doubtful:
            return None
        words = phrase.split()
        plural = " ".join([*words[:-1], PLURAL[words[-1]]])
        return Question("count", f"How many {plural} are there in the image? Answer with a number.", str(len(self.matching(phrase))),
                        mentions=((plural, self.mention(phrase)[0][1]),))

    def exists(self) -> Question | None:
        yes = self.rng.random() < 0.5 and self.named
        phrase = self.name(int(self.rng.choice(self.named))) if yes else self.absent_phrase()
        return Question("exists", f"Is there a {phrase} in the image? Answer yes or no.", "yes" if yes else "no",
                        mentions=self.mention(phrase))

    def compare(self) -> Question | None:
        pair = self._unique_pair()
        if pair is None:
            return None
        a, b = pair
        relation = {k: v for k, v in self.relation(a, b).items() if v is not None}
        if not relation:
            return None
        words = str(self.rng.choice(sorted(relation)))
        return Question("relation", f"Is the {self.name(a)} {words} the {self.name(b)}? Answer yes or no.",
                        "yes" if relation[words] else "no", mentions=self.mention(self.name(a), self.name(b)))

    def nearest(self) -> Question | None:
        unique = self.unique()
        if len(unique) != len(self.named) or len(unique) < 2 or self.doubtful:
            return None
        if self.rng.random() < 0.5:
            found = self.extreme(self.named)
            if not found:
                return None
            word, i = found[self.rng.integers(len(found))]
            place = {"nearest": "nearest to the camera", "farthest": "farthest from the camera"}.get(word, word)
            return Question("relation", f"Which object is {place}?", self.name(i), (i,))
        if len(unique) < 3:
            return None
        b = int(self.rng.choice(unique))
        distance = {i: float(np.linalg.norm(np.subtract(self.thing(i).world_m, self.thing(b).world_m))) for i in unique if i != b}
        ranked = sorted(distance, key=distance.get)
        if distance[ranked[1]] - distance[ranked[0]] < DEPTH_MARGIN_M / 2:
            return None
        return Question("relation", f"Which object is nearest to the {self.name(b)}?", self.name(ranked[0]), (ranked[0],),
                        mentions=self.mention(self.name(b)))

    def pick_place(self) -> Question | None:
        pair = self._unique_pair()
        if pair is None:
            return None
        a, b = pair
        words = "in" if self.thing(b).kind in ("bowl", "mug") else str(self.rng.choice(["next to", "to the left of", "to the right of"]))
        prompt = (f"Put the {self.name(a)} {words} the {self.name(b)}. Report the bbox coordinates of the object to pick and "
                  "of the place to put it in JSON format.")
        h, w = self.sample.labels.shape
        rows = []
        for i, role in ((a, "pick"), (b, "place")):
            box = ", ".join(str(int(round(v))) for v in coordinates(self.thing(i).box_xyxy_px, (w, h)))
            rows.append(f'{{"bbox_2d": [{box}], "label": "{role}"}}')
        return Question("pick_place", prompt, fenced(rows), (a, b), mentions=self.mention(self.name(a), self.name(b)))

    def gauge(self) -> Question | None:
        if self.dial is None:
            return None
        if self.rng.random() < 0.3:
            return self._boxes("locate", ["gauge"], [(self.dial, "gauge")], self.mention("gauge"))
        g = self.sample.gauge
        step = (g["maximum"] - g["minimum"]) / 100
        value = f"{g['value']:.{2 if step < 0.1 else 1 if step < 1 else 0}f}"
        said = json.dumps({"value": float(value) if "." in value else int(value), "unit": g["unit"]}, ensure_ascii=False)
        return Question("gauge", GAUGE_PROMPT, said, (self.dial,), mentions=((GAUGE_PROMPT, (self.dial,)),))

    def _boxes(self, kind: str, targets: list[str], items: list[tuple[int, str]], mentions=None) -> Question:
        prompt = prompt_for(Request(tuple(targets)))
        return Question(kind, prompt, *box_list(self.sample, items), tuple(targets),
                        self.mention(*(t.removeprefix("the ") for t in targets)) if mentions is None else mentions)

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


_SHARES = dict(categories=24, phrases=12, absent=8, locate=12, locate_twins=10, locate_extreme=3, locate_relation=5, points=8,
               count=9, exists=8, compare=11, nearest=10, pick_place=9)
MIXTURE = {k: v / sum(_SHARES.values()) for k, v in _SHARES.items()}

# Literal parts of the prompts: one token each in the tokenizer, so that a question costs a few tokens.
_LITERALS = [
    'Locate every instance that belongs to the following categories: "', '". Report bbox coordinates in JSON format.',
    'Locate every object that matches the description "', '" in the image. Report bbox coordinates in JSON format.',
    "Locate ", " in this image. Output the point coordinates in JSON format.",
    "How many ", " are there in the image? Answer with a number.", "Is there a ", " in the image? Answer yes or no.",
    "Is the ", "? Answer yes or no.", "Which object is ", "Put the ",
    ". Report the bbox coordinates of the object to pick and of the place to put it in JSON format.",
    GAUGE_PROMPT,
    " to the left of the ", " to the right of the ", " in front of the ", " behind the ", " next to the ", " in the ",
    " to the camera", " from the camera", "nearest to the "]
_STRUCTURE = ['```json\n[\n\t{"bbox_2d": [', '```json\n[\n\t{"point_2d": [', '], "label": "', '"},\n\t{"bbox_2d": [',
              '"},\n\t{"point_2d": [', '"}\n]\n```', "```json\n[]\n```", ", ", '{"value": ', ', "unit": "', '"}']
WORDS = [*KINDS, *PLURAL.values(), *COLOURS, "gauge", "leftmost", "rightmost", "nearest", "farthest", "pick", "place", "yes",
         "no", "objects", "bar", "psi", "°C", "kPa", "%", "the"]
PHRASES = tuple(_STRUCTURE + _LITERALS)
assert COLOUR_IDS.keys() == COLOURS.keys()
