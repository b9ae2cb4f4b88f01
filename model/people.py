"""Questions about a view as people ask them, with answers in sentences; places, dials and signs; and the mixture of all questions.

A question is asked only when its answer is beyond doubt in the picture. Knows nothing of tokens.
"""

from __future__ import annotations

import json

import numpy as np
from orders import CORNERS, level_name
from outside import THINGS
from sayings import Sayings, sentence
from targets import coordinates
from tasks import ENGLISH, LANGUAGES, Asker, Language, Question, fenced

from qwen3vl_ros.questions import Detect, Dial, Put, ReadText
from qwen3vl_ros.sim.scenes import COLOURS

_KEYS = {id(language): key for key, language in LANGUAGES.items()}
# As facts name a relation -> as Asker.relation does.
SEEN_RELATIONS = {
    "left of": "to the left of",
    "right of": "to the right of",
    "in front of": "in front of",
    "behind": "behind",
}


class WideAsker(Asker):
    """Asks what Asker asks, and what people ask. held_out: in the sentence forms of the evaluation alone."""

    def __init__(
        self, sample, rng: np.random.Generator, language: Language = ENGLISH, wide=None, held_out: bool = False
    ):
        super().__init__(sample, rng, language, wide)
        self.held_out = held_out

    @property
    def sayings(self) -> Sayings:
        return Sayings(self.rng, _KEYS[id(self.language)], self.held_out)

    # -- places ------------------------------------------------------------------------------------------------

    def level(self) -> Question | None:
        """Where a level of the shelf is; nothing where there is no such shelf or level."""
        key, shelves = _KEYS[id(self.language)], [i for i in self.seen if self.thing(i).kind == "shelf"]
        if (not shelves and "shelf" in self.doubtful) or (not self.sample.levels and self.rng.random() < 0.7):
            return None
        word = int(self.rng.integers(1, 6))
        count = len(self.sample.levels)
        level = {4: count, 5: 1}.get(word, word)
        box = self.sample.levels[level - 1] if 0 < level <= count else ()
        if box is None:  # cut by the border
            return None
        if box and not shelves:
            return None
        name = level_name(key, word)
        if key == "en":
            ordinal = name.split()[0]
            name = str(
                self.rng.choice(
                    [name, f"the {name}", f"{ordinal} shelf level", f"{ordinal} level of the rack"],
                    p=(0.5, 0.2, 0.2, 0.1),
                )
            )
        elif self.rng.random() < 0.4:
            name = name.replace("架子", "架子的")
        rows = [self._box_row(box, name)] if box else []
        # What the name fits is no thing of its own, but the decoder does well to look at the shelf.
        mentions = ((name, None if box else ()),)
        return Question(
            "place", Detect((name,)).prompt(), fenced(rows), tuple(shelves[:1]) if box else (), (name,), mentions
        )

    def located_on(self) -> Question | None:
        """A thing by what it stands on or in: the red mug on the tray, the cube on the second level of the shelf."""
        i = self._one([i for i in self.named if self.thing(i).on is not None or self.thing(i).level])
        if i is None:
            return None
        kind = self.thing(i).kind
        relation, place, index = self._stands(i)
        if place is None or kind in self.doubtful or self.name(i) in self.doubtful:
            return None
        name = kind if self.rng.random() < 0.6 else self.name(i)
        fitting = [k for k in self.matching(name) if self._same_place(k, i)]
        if fitting != [i]:
            return None
        if _KEYS[id(self.language)] == "en":
            target = f"{self.language.article}{name} {relation} the {place}"
        else:
            target = f"{place}{self.language.words[relation] if index is not None else '的'}的{self.language.name(name)}".replace(
                "的的", "的"
            )
        mentions = ((self.language.name(name), (i,)),) if self.language.name(name) in target else ()
        return self._located("locate_on", (target,), [(i, name)], mentions)

    def put_place(self) -> Question | None:
        """Boxes of what to take and of the level it goes to."""
        levels = [n for n, box in enumerate(self.sample.levels) if box is not None]
        unique, shelves = self.unique(), [i for i in self.seen if self.thing(i).kind == "shelf"]
        if not levels or not unique or not shelves:
            return None
        key, a, n = _KEYS[id(self.language)], int(self.rng.choice(unique)), int(self.rng.choice(levels))
        word = 4 if n + 1 == len(self.sample.levels) and self.rng.random() < 0.5 else n + 1
        place, name = level_name(key, word), self.language.name(self.name(a))
        rows = [self._box_row(self.thing(a).box_xyxy_px, "pick"), self._box_row(self.sample.levels[n], "place")]
        prompt = Put(name, "on", place, key).prompt()
        return Question("put_place", prompt, fenced(rows), (a, shelves[0]), (), ((name, (a,)),))

    def _box_row(self, box_px, label: str) -> str:
        h, w = self.sample.labels.shape
        numbers = ", ".join(str(int(round(v))) for v in coordinates(box_px, (w, h)))
        return f'{{"bbox_2d": [{numbers}], "label": "{label}"}}'

    def _stands(self, i: int) -> tuple[str, str | None, int | None]:
        """(relation, name of what it stands on or in, its index or None for a level)."""
        thing = self.thing(i)
        if thing.level:
            return "on", level_name(_KEYS[id(self.language)], thing.level), None
        if thing.on is None or thing.on not in self.named:
            return "on", None, None
        below = self.thing(thing.on)
        relation = "in" if below.kind == "bowl" else "on"
        names = [self.name(k) for k in range(len(self.sample.things)) if self.thing(k).visibility > 0]
        name = below.kind if [n.split()[-1] for n in names].count(below.kind) == 1 else self.name(thing.on)
        return relation, self.language.name(name) if names.count(self.name(thing.on)) == 1 else None, thing.on

    def _same_place(self, k: int, i: int) -> bool:
        return (self.thing(k).on, self.thing(k).level) == (self.thing(i).on, self.thing(i).level)

    def unknown_names(self) -> Question:
        """Categories of which some are words it does not know: there is nothing of them, whatever else is found."""
        strange = [str(x) for x in self.rng.permutation(THINGS[_KEYS[id(self.language)]])[: self.rng.integers(1, 3)]]
        known = [str(k) for k in self.rng.permutation(self.kinds)[: self.rng.integers(0, 3)]]
        known = [k for k in known if k not in self.doubtful]
        targets = [str(t) for t in self.rng.permutation([*strange, *map(self.language.name, known)])]
        items = [(i, self.thing(i).kind) for i in self.seen if self.thing(i).kind in known]
        mentions = {self.language.name(k): self.mention(k)[0] for k in known}
        return self._located("categories", tuple(targets), items, tuple(mentions[t] for t in targets if t in mentions))

    def other_names(self) -> Question | None:
        """Where a thing is that people call otherwise; it is labelled as they call it."""
        pool = sorted({self.name(i) for i in self.named} | {self.thing(i).kind for i in self.seen})
        phrase = str(self.rng.choice(pool)) if pool and self.rng.random() < 0.8 else self.absent_phrase()
        if phrase in self.doubtful:
            return None
        named, speaker = self.language.name(phrase), self.sayings.speaker
        called = next((c for c in (speaker.called(named) for _ in range(8)) if c != named), None)
        if called is None:
            return None
        rows = [(*self.thing(i).box_xyxy_px, i) for i in self.matching(phrase)]
        rows = [self._box_row(row[:4], called) for row in sorted(rows)]
        fitting = self.left_to_right(self.matching(phrase))
        return Question("locate", Detect((called,)).prompt(), fenced(rows), fitting, (called,), ((called, fitting),))

    # -- dials and signs ---------------------------------------------------------------------------------------

    def dial_face(self) -> Question | None:
        if self.dial is None or "points_px" not in self.sample.gauge:
            return None
        g, (h, w) = self.sample.gauge, self.sample.labels.shape
        said = dict(value=rounded(g), unit=g["unit"], minimum=number(g["minimum"]), maximum=number(g["maximum"]))
        said |= dict(zone=g.get("zone") or "none")
        for name, point in g["points_px"].items():
            said[name] = [int(round(v)) for v in coordinates((*point, *point), (w, h))[:2]]
        prompt = Dial().prompt()
        return Question(
            "dial", prompt, json.dumps(said, ensure_ascii=False), (self.dial,), mentions=((prompt, (self.dial,)),)
        )

    def written(self) -> Question | None:
        """All text: that of signs; none where there is no sign. A dial's numbers are not asked for with it."""
        signs = [i for i in self.seen if self.thing(i).kind == "sign"]
        if "sign" in self.doubtful or self.gauges or (not signs and self.rng.random() < 0.9):
            return None
        rows = []
        for i in signs:
            if self.thing(i).visibility < 0.9 or not self.thing(i).whole:
                return None
            row = self._box_row(self.thing(i).box_xyxy_px, self.sample.signs[i]["text"])
            rows.append(row.replace('"label"', '"text_content"'))
        prompt = ReadText().prompt()
        return Question("sign", prompt, fenced(rows), tuple(signs), mentions=((prompt, tuple(signs)),) if signs else ())

    # -- as people ask -----------------------------------------------------------------------------------------

    def people(self) -> Question | None:
        """One of the questions that looking answers, in anybody's words."""
        kinds = ["list", "where", "count", "exists", "compare", "compare", "nearest", "nearest_to", "what_at", "colour"]
        kinds += ["reading"] * 3 if self.dial is not None else []
        kinds += ["text"] * 3 if self.sample.signs else []
        return self.asked(str(self.rng.choice(kinds)))

    def asked(self, kind: str) -> Question | None:
        found = getattr(self, f"_{kind}")()
        if found is None:
            return None
        ask, names, said, things = found
        saying = self.sayings
        key, called = _KEYS[id(self.language)], [self.language.name(n) for n in names]
        slots = (
            dict(zip(("a", "b"), called))
            if kind not in ("nearest_to", "what_at")
            else dict(b=called[-1])
            if called
            else {}
        )
        if kind in ("compare", "what_at"):
            slots["rel"] = ask
        text = saying.speaker.form(kind, **slots)
        answer = sentence(key, kind, ask, called or [self.language.name("object")], said)
        # The names as they were said, and what they fit, as far as the sentence still holds them.
        mentions, at = [], 0
        for slot, name in sorted(saying.speaker.said.items(), key=lambda item: text.find(item[1])):
            known = dict(zip(("a", "b"), names)).get(slot) if kind not in ("nearest_to", "what_at") else names[-1]
            if known and known not in self.doubtful and (start := text.find(name, at)) >= 0:
                mentions.append((name, self.left_to_right(self.matching(known))))
                at = start + len(name)
        if kind in ("reading", "text"):  # the whole question is what a dial or a sign is looked up for
            mentions = [(text, things)]
        return Question(kind, text, answer, things, tuple(called), tuple(mentions), loose=True)

    def _one(self, among: list[int]) -> int | None:
        return int(self.rng.choice(among)) if among else None

    def _list(self):
        if self.doubtful - {"gauge", "sign", "shelf"} or not self.named:
            return None
        shown = self.left_to_right(self.named)
        return ("list", [], [self.language.name(self.name(i)) for i in shown], shown) if len(shown) <= 5 else None

    def _where(self):
        i = self._one(self.unique())
        if i is None:
            return None
        relation, place, _ = self._stands(i)
        if place is not None and self.thing(i).kind != "tray":
            said = (relation, place)
        elif self.thing(i).on is not None or self.thing(i).level or (area := self.area(i)) is None:
            return None
        else:
            said = ("picture", area)
        return "where", [self.name(i)], said, (i,)

    def area(self, i: int) -> str | None:
        """The part of the picture it is in, one of orders.CORNERS; None where that is not plain."""
        h, w = self.sample.labels.shape
        x0, y0, x1, y1 = self.thing(i).box_xyxy_px
        across, down = (x0 + x1) / 2 / w, (y0 + y1) / 2 / h
        side = "left" if across < 0.36 else "right" if across > 0.64 else "" if 0.42 < across < 0.58 else None
        height = "top" if down < 0.4 else "bottom" if down > 0.62 else "" if 0.44 < down < 0.58 else None
        if side is None or height is None or (height and not side):
            return None
        area = f"{height} {side} corner" if height else f"{side} side" if side else "middle"
        return area if area in CORNERS else None

    def _count(self):
        phrase = str(self.rng.choice(self.kinds))
        if self.named and self.rng.random() < 0.5:
            i = self._one(self.named)
            phrase = self.thing(i).kind if self.rng.random() < 0.6 else self.name(i)
        if phrase in self.doubtful:
            return None
        found = self.left_to_right(self.matching(phrase))
        return "count", [phrase], str(len(found)), ()

    def _exists(self):
        yes = self.rng.random() < 0.5 and self.named
        i = self._one(self.named)
        phrase = self.name(i) if yes else self.absent_phrase()
        if self.rng.random() < 0.3:
            phrase = str(self.rng.choice([*self.kinds, "shelf", "sign", "gauge"]))
        if phrase in self.doubtful:
            return None
        return "exists", [phrase], bool(self.matching(phrase)), ()

    def _compare(self):
        unique = self.unique()
        if self.rng.random() < 0.4:
            return self._compare_support(unique)
        pair = self._unique_pair()
        if pair is None:
            return None
        holds = self.relation(*pair)
        relation = str(self.rng.choice(list(SEEN_RELATIONS)))
        truth = holds[SEEN_RELATIONS[relation]]
        return None if truth is None else (relation, [self.name(i) for i in pair], truth, ())

    def _compare_support(self, unique: list[int]):
        below = [i for i in unique if self.thing(i).kind in ("tray", "box", "cube", "bowl")]
        b = self._one(below)
        others = [i for i in unique if i != b and self.thing(i).kind != "tray"]
        if b is None or not others:
            return None
        on = [i for i in others if self.thing(i).on == b]
        a = self._one(on if on and self.rng.random() < 0.6 else others)
        relation = "in" if self.thing(b).kind == "bowl" else "on"
        return relation, [self.name(a), self.name(b)], self.thing(a).on == b, ()

    def _what_at(self):
        unique = self.unique()
        below = [i for i in unique if self.thing(i).kind in ("tray", "box", "cube", "bowl")]
        used = [i for i in below if any(self.thing(k).on == i for k in self.named)]
        b = self._one(used if used and self.rng.random() < 0.75 else below)
        if b is None or self.doubtful - {"gauge", "sign", "shelf"}:
            return None
        on = self.left_to_right([i for i in self.named if self.thing(i).on == b])
        if not on and self.rng.random() < 0.5:
            return None
        relation = "in" if self.thing(b).kind == "bowl" else "on"
        return relation, ["object", self.name(b)], [self.language.name(self.name(i)) for i in on], on

    def _nearest(self):
        found = dict(self.extreme(self.named)).get("nearest") if not self.doubtful else None
        if found is None or found not in self.unique():
            return None
        return "nearest", [], self.language.name(self.name(found)), (found,)

    def _nearest_to(self):
        unique = self.unique()
        if len(unique) != len(self.named) or len(unique) < 3 or self.doubtful:
            return None
        b = int(self.rng.choice(unique))
        away = {
            i: float(np.linalg.norm(np.subtract(self.thing(i).world_m, self.thing(b).world_m)))
            for i in unique
            if i != b
        }
        ranked = sorted(away, key=away.get)
        if away[ranked[1]] - away[ranked[0]] < 0.03:
            return None
        return "nearest", ["object", self.name(b)], self.language.name(self.name(ranked[0])), (ranked[0],)

    def _colour(self):
        kinds = [self.thing(i).kind for i in self.named]
        i = self._one([i for i in self.unique() if kinds.count(self.thing(i).kind) == 1])
        if i is None or self.thing(i).kind in self.doubtful:
            return None
        return "colour", [self.thing(i).kind], self.language.name(self.thing(i).colour), (i,)

    def _reading(self):
        if self.dial is None:
            return None
        g = self.sample.gauge
        return "reading", ["gauge"], (f"{rounded(g)} {g['unit']}", g.get("zone", "")), (self.dial,)

    def _text(self):
        signs = [
            i
            for i in self.seen
            if self.thing(i).kind == "sign" and self.thing(i).visibility > 0.9 and self.thing(i).whole
        ]
        return ("text", ["sign"], self.sample.signs[signs[0]]["text"], (signs[0],)) if signs else None

    # -- without a picture, or with one that does not matter ----------------------------------------------------

    def beyond(self) -> Question:
        return self.sayings.beyond(pictured=bool(self.rng.random() < 0.85))

    def unmeasured(self) -> Question:
        return self.sayings.unmeasured(pictured=bool(self.rng.random() < 0.85))

    def understand(self) -> Question:
        return self.sayings.understand()

    def plan(self) -> Question:
        return self.sayings.plan()

    def tell(self) -> Question:
        return self.sayings.tell()

    def ask(self, wide: bool = True) -> Question | None:
        """One question of `SHARES`; None where the kind does not apply."""
        if not wide:
            return super().ask()
        return getattr(self, str(self.rng.choice(_NAMES, p=_WEIGHTS)))()


# How often each is tried, beside the questions of tasks.py.
SHARES = dict(
    categories=40,
    phrases=8,
    absent=6,
    locate=8,
    locate_twins=7,
    locate_extreme=6,
    locate_relation=10,
    points=6,
    count=6,
    exists=5,
    compare=7,
    nearest=6,
    pick_place=6,
    unknown_names=4,
    other_names=5,
    level=11,
    located_on=11,
    put_place=5,
    dial_face=14,
    written=8,
    people=56,
    beyond=12,
    unmeasured=5,
    understand=14,
    plan=9,
    tell=13,
)
_NAMES = list(SHARES)
_WEIGHTS = np.array(list(SHARES.values())) / sum(SHARES.values())


def rounded(dial: dict) -> float | int:
    """A dial's value with as many decimals as a hundredth of its range has."""
    step = (dial["maximum"] - dial["minimum"]) / 100
    return number(round(dial["value"], 3 if step < 0.02 else 2 if step < 0.1 else 1 if step < 1 else 0))


def number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


assert set(COLOURS) <= set(LANGUAGES["zh"].words)
