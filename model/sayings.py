"""Questions without a picture and their true answers: what a sentence asks for, what an order means, what facts say.

Things and facts are invented, so there is no end of them. Knows nothing of pictures or tokens.
"""

from __future__ import annotations

import json

import numpy as np
from orders import CORNERS, NOT_FOR_ARMS, Orders, corner_name, level_name
from outside import outside
from tasks import LANGUAGES, Question
from wordings import Speaker

from qwen3vl_ros.questions import admissions
from qwen3vl_ros.questions.plan import Plan, Planned
from qwen3vl_ros.questions.tell import Tell, fact_line
from qwen3vl_ros.questions.understand import Understand
from qwen3vl_ros.sim.scenes import COLOURS, GAUGE_SCALES, KINDS
from qwen3vl_ros.sim.specs import MORE_GAUGE_SCALES, SIGN_TEXTS, ZONES

RELATED = ("left of", "right of", "in front of", "behind", "on", "in", "next to", "above", "below")
# A relation and a size as an answer says them.
SAID = {
    "en": {
        "left of": "to the left of",
        "right of": "to the right of",
        "in front of": "in front of",
        "behind": "behind",
        "on": "on",
        "in": "in",
        "next to": "next to",
        "above": "above",
        "below": "below",
        "height": "tall",
        "width": "wide",
        "length": "long",
        "size": "large",
    },
    "zh": {
        "left of": "左边",
        "right of": "右边",
        "in front of": "前面",
        "behind": "后面",
        "on": "上面",
        "in": "里面",
        "next to": "旁边",
        "above": "上方",
        "below": "下方",
        "height": "高",
        "width": "宽",
        "length": "长",
        "size": "大",
    },
}
ZONES_SAID = {"en": dict(zip(ZONES, ZONES)), "zh": dict(green="绿色", yellow="黄色", red="红色")}
AREAS = (*CORNERS, "far side", "near side")
AREAS_SAID = {"zh": {c: w[0] for c, w in CORNERS.items()} | {"far side": "远处", "near side": "近处"}}


def plural(word: str) -> str:
    return word + ("es" if word.endswith(("x", "sh")) else "s")


def an(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def listed(language: str, names: list[str], article: str = "the ") -> str:
    """Names one after another, as a sentence has them."""
    if language == "zh":
        return "、".join(names[:-1]) + "和" + names[-1] if len(names) > 1 else names[0]
    names = [an(n) if article == "a" else article + n for n in names]
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


class Sayings:
    """Invents sentences in one language. held_out: with the forms of the evaluation alone."""

    def __init__(self, rng: np.random.Generator, language: str, held_out: bool = False):
        self.rng, self.language, self.held_out = rng, language, held_out
        self.words, self.speaker = LANGUAGES[language], Speaker(rng, language, held_out)
        self.orders = Orders(rng, language, self.name, held_out)
        self.choose = self.speaker.choose

    def name(self, kinds: tuple[str, ...] = (*KINDS, "box", "box", "tray", "mug"), bare: float = 0.25) -> str:
        """A thing, as the model calls it."""
        kind = self.choose(kinds)
        return self.words.name(kind if self.rng.random() < bare else f"{self.choose(tuple(COLOURS))} {kind}")

    def place(self) -> str:
        """Something that things stand on or in."""
        if self.rng.random() < 0.4:
            return level_name(self.language, int(self.rng.integers(1, 6)))
        return self.name(("tray", "tray", "shelf", "box", "bowl"), 0.6)

    # -- what a sentence asks for ------------------------------------------------------------------------------

    def understand(self) -> Question:
        draw, before = self.rng.random(), ""
        if draw < 0.12:
            text, ask, find = (
                outside(self.rng, self.language, [self.name() for _ in range(2)], self.held_out),
                "unknown",
                [],
            )
            text = self.speaker.politely(text)
        elif draw < 0.27:
            before, text, ask, find = self._follow_up()
        else:
            text, ask, find = self.asked(self.choose(KINDS_ASKED))
        answer = json.dumps({"ask": ask, "find": find}, ensure_ascii=False)
        return Question("parse", Understand(text, before).prompt(), answer, pictured=False)

    def asked(self, kind: str) -> tuple[str, str, list[str]]:
        """(sentence, what it asks, what it speaks of) of a kind of wordings.FORMS."""
        a, b, thing = self.name(), self.name(), self.words.name("object")
        while b == a:
            b = self.name()
        form = self.speaker.form
        if kind == "list":
            return form(kind), "list", [thing]
        if kind in ("where", "exists", "distance_to"):
            ask = "distance" if kind == "distance_to" else kind
            return form(kind, a=a), ask, [a]
        if kind == "count":
            a = self.name(bare=0.7)
            return form(kind, a=a), "count", [a]
        if kind == "compare":
            relation = self.choose(RELATED)
            b = self.place() if relation == "on" and self.rng.random() < 0.5 else b
            return form(kind, a=a, b=b, rel=relation), relation, [a, b]
        if kind == "what_at":
            relation = self.choose((*RELATED, "on", "on", "in"))
            b = self.place() if relation == "on" and self.rng.random() < 0.6 else b
            return form(kind, b=b, rel=relation), relation, [thing, b]
        if kind == "nearest":
            return form(kind), "nearest", [thing]
        if kind == "nearest_to":
            return form(kind, b=b), "nearest", [thing, b]
        if kind in ("distance", "fits"):
            return form(kind, a=a, b=b), kind, [a, b]
        if kind == "colour":
            a = self.name(bare=1.0)
            return form(kind, a=a), "colour", [a]
        if kind == "size":
            size = self.choose(("height", "height", "width", "length", "size"))
            return form(kind, a=a, adj=size), size, [a]
        return form(kind), kind, [self.words.name("gauge" if kind == "reading" else "sign")]

    def _follow_up(self) -> tuple[str, str, str, list[str]]:
        """(question before, sentence, what it asks, what it speaks of)."""
        if self.rng.random() < 0.25:
            before, ask, find = self.asked(self.choose(("where", "exists", "distance_to", "size")))
            a = self.name()
            return before, self.speaker.form("again", True, a=a), ask, [a, *find[1:]]
        before, _, find = self.asked(self.choose(("where", "exists", "distance_to", "size", "compare", "fits")))
        kind, a = (
            self.choose(("where", "colour", "size", "size", "distance_to", "distance", "compare", "fits")),
            find[0],
        )
        if kind == "compare":
            relation, b = self.choose(RELATED), self.name()
            return before, self.speaker.form(kind, True, b=b, rel=relation), relation, [a, b]
        if kind == "size":
            size = self.choose(("height", "width", "length", "size"))
            return before, self.speaker.form(kind, True, adj=size), size, [a]
        if kind in ("distance", "fits"):
            b = self.name()
            return before, self.speaker.form(kind, True, b=b), kind, [a, b]
        return before, self.speaker.form(kind, True), "distance" if kind == "distance_to" else kind, [a]

    # -- what an order means -----------------------------------------------------------------------------------

    def plan(self) -> Question:
        draw = self.rng.random()
        if draw < 0.08:
            text = self.speaker.politely(
                outside(self.rng, self.language, [self.name() for _ in range(2)], self.held_out)
            )
            order = Plan(text), Planned((), NOT_FOR_ARMS[self.language])
        elif draw < (0.28 if self.held_out else 0.36):
            order = self.orders.question_back(list(COLOURS), self.words.name)
        else:
            order = self.orders.order()
            order = self.orders.with_seen(order, self.name) if self.rng.random() < 0.3 else order
        plan, planned = order
        said = dict(steps=[s._asdict() for s in planned.steps], question=planned.question)
        return Question("plan", plan.prompt(), json.dumps(said, ensure_ascii=False), pictured=False)

    # -- what facts say ----------------------------------------------------------------------------------------

    def tell(self) -> Question:
        kind = self.choose(KINDS_ASKED)
        text, ask, find = self.asked(kind)
        line, answer = self._fact(kind, ask, find)
        lines = [line]
        # Facts about something else; in training more of them, and more alike, than the evaluation has.
        shares = (0.5, 0.3, 0.2) if self.held_out else (0.25, 0.3, 0.3, 0.15)
        for _ in range(int(self.rng.choice(len(shares), p=shares))):
            other = kind if not self.held_out and self.rng.random() < 0.3 else self.choose(KINDS_ASKED)
            _, ask2, find2 = self.asked(other)
            if (ask2, find2) != (ask, find):
                lines.append(self._fact(other, ask2, find2)[0])
        lines = [str(x) for x in self.rng.permutation(list(dict.fromkeys(lines)))]
        return Question("facts", Tell(text, tuple(lines)).prompt(), answer, pictured=False)

    def _fact(self, kind: str, ask: str, find: list[str]) -> tuple[str, str]:
        """(the line, the sentence that says it)."""
        value, said = self._value(kind, ask)
        return fact_line(ask, find, value), sentence(self.language, kind, ask, find, said)

    def _value(self, kind: str, ask: str):
        """(as the line has it, as `sentence` takes it)."""
        rng = self.rng
        if kind != "list" and kind not in ("count", "exists", "reading", "text", "what_at") and rng.random() < 0.12:
            return "unknown", None
        if kind in ("compare", "exists", "fits"):
            truth = bool(rng.random() < 0.5)
            return ("true" if truth else "false"), truth
        if kind in ("distance", "distance_to", "size"):
            metres = rng.uniform(0.02, 1.6) if ask == "distance" else rng.uniform(0.03, 0.5)
            number = f"{metres:.{2 if rng.random() < 0.4 else 3}f} m"
            spread = f" ± {rng.uniform(0.001, 0.02):.3f} m" if rng.random() < 0.4 else ""
            return number + spread, number
        if kind == "count":
            number = str(rng.integers(0, 7))
            return number, number
        if kind in ("list", "what_at"):
            names = list(
                dict.fromkeys(self.name(bare=0.1) for _ in range(rng.integers(0 if kind == "what_at" else 1, 4)))
            )
            return ", ".join(names) or "nothing", names
        if kind in ("nearest", "nearest_to"):
            name = self.name(bare=0.1)
            return name, name
        if kind == "colour":
            colour = self.choose(tuple(COLOURS))
            return colour, self.words.name(colour)
        if kind == "where":
            if rng.random() < 0.35:
                at = "on", self.place()
                return f"{at[0]} {at[1]}", at
            area = self.choose(AREAS)
            return f"{area} of the table", ("area", area)
        if kind == "reading":
            unit, low, high = self.choose(GAUGE_SCALES + MORE_GAUGE_SCALES)
            number = f"{low + round(float(rng.uniform()), 2) * (high - low):.4g} {unit}"
            zone = self.choose(("", *ZONES))
            return number + (f", {zone} zone" if zone else ""), (number, zone)
        word = self.choose(SIGN_TEXTS)
        return word, word

    # -- what lies outside -------------------------------------------------------------------------------------

    def beyond(self, pictured: bool) -> Question:
        text = self.speaker.politely(outside(self.rng, self.language, [self.name() for _ in range(2)], self.held_out))
        return Question("abstain", text, admissions.BEYOND[self.language], pictured=pictured)

    def unmeasured(self, pictured: bool) -> Question:
        """A length asked for with no fact at hand."""
        text, _, _ = self.asked(self.choose(("distance", "distance_to", "size", "fits")))
        return Question("unmeasured", text, admissions.UNMEASURED[self.language], pictured=pictured)


KINDS_ASKED = (
    *("list", "where", "count", "exists", "compare", "compare", "nearest", "nearest_to", "what_at", "what_at"),
    *("distance", "distance_to", "colour", "size", "size", "fits", "reading", "text"),
)


def sentence(language: str, kind: str, ask: str, find: list[str], said) -> str:
    """The answer in words to a question of a kind. said: what was found or measured, None for unknown."""
    return (_english if language == "en" else _chinese)(kind, ask, find, said)


def _english(kind: str, ask: str, find: list[str], said) -> str:
    a, b, words = find[0], find[-1], SAID["en"]
    if said is None:
        about = {
            "compare": f"whether the {a} is {words.get(ask, '')} the {b}",
            "fits": f"whether the {a} fits into the {b}",
            "distance": f"how far the {a} is from the {b}",
            "distance_to": f"how far away the {a} is",
            "size": f"how {words.get(ask, '')} the {a} is",
            "colour": f"what colour the {a} is",
            "where": f"where the {a} is",
            "nearest": "which object is nearest to the camera",
            "nearest_to": f"which object is nearest to the {b}",
        }[kind]
        return f"I cannot tell {about}."
    if kind == "compare":
        return f"Yes, the {a} is {words[ask]} the {b}." if said else f"No, the {a} is not {words[ask]} the {b}."
    if kind == "fits":
        return f"Yes, the {a} fits into the {b}." if said else f"No, the {a} does not fit into the {b}."
    if kind == "exists":
        return f"Yes, there is {an(a)}." if said else f"No, there is no {a}."
    if kind == "distance":
        return f"The {a} is {said} from the {b}."
    if kind == "distance_to":
        return f"The {a} is {said} away."
    if kind == "size":
        return f"The {a} is {said} {words[ask]}."
    if kind == "count":
        return (
            f"There are {said} {plural(a)}."
            if int(said) > 1
            else f"There is 1 {a}."
            if said == "1"
            else f"There is no {a}."
        )
    if kind == "list":
        return f"There is {listed('en', said, 'a')}." if said else "There is nothing."
    if kind == "what_at":
        if not said:
            return f"Nothing is {words[ask]} the {b}."
        names = listed("en", said)
        return f"{names[0].upper()}{names[1:]} {'are' if len(said) > 1 else 'is'} {words[ask]} the {b}."
    if kind == "nearest":
        return f"The {said} is nearest to the camera."
    if kind == "nearest_to":
        return f"The {said} is nearest to the {b}."
    if kind == "colour":
        return f"The {a} is {said}."
    if kind == "where":
        at, place = said
        if at in ("on", "in"):
            return f"The {a} is {at} the {place}."
        return f"The {a} is {'in' if place == 'middle' else 'at'} the {place} of the {'picture' if at == 'picture' else 'table'}."
    if kind == "reading":
        return f"The gauge reads {said[0]}" + (f", in the {said[1]} zone." if said[1] else ".")
    return f'The sign says "{said}".'


def _chinese(kind: str, ask: str, find: list[str], said) -> str:
    a, b, words = find[0], find[-1], SAID["zh"]
    if said is None:
        about = {
            "compare": f"{a}是不是在{b}{words.get(ask, '')}",
            "fits": f"{a}能不能放进{b}",
            "distance": f"{a}离{b}有多远",
            "distance_to": f"{a}有多远",
            "size": f"{a}有多{words.get(ask, '')}",
            "colour": f"{a}是什么颜色",
            "where": f"{a}在哪里",
            "nearest": "哪个物体离相机最近",
            "nearest_to": f"哪个物体离{b}最近",
        }[kind]
        return f"无法确定{about}。"
    if kind == "compare":
        return f"是的，{a}在{b}{words[ask]}。" if said else f"不，{a}不在{b}{words[ask]}。"
    if kind == "fits":
        return f"是的，{a}能放进{b}。" if said else f"不，{a}放不进{b}。"
    if kind == "exists":
        return f"有，有{a}。" if said else f"没有，没有{a}。"
    if kind == "distance":
        return f"{a}离{b}{said}。"
    if kind == "distance_to":
        return f"{a}的距离是{said}。"
    if kind == "size":
        return f"{a}{words[ask]}{said}。"
    if kind == "count":
        return f"有{said}个{a}。" if said != "0" else f"没有{a}。"
    if kind == "list":
        return f"有{listed('zh', said)}。" if said else "什么也没有。"
    if kind == "what_at":
        return f"{b}{words[ask]}有{listed('zh', said)}。" if said else f"{b}{words[ask]}什么也没有。"
    if kind == "nearest":
        return f"{said}离相机最近。"
    if kind == "nearest_to":
        return f"{said}离{b}最近。"
    if kind == "colour":
        return f"{a}是{said}的。"
    if kind == "where":
        at, place = said
        if at in ("on", "in"):
            return f"{a}在{place}{words[at] if at == 'in' else '上'}。"
        return f"{a}在{'画面' if at == 'picture' else '桌子'}的{AREAS_SAID['zh'][place]}。"
    if kind == "reading":
        return f"仪表的读数是{said[0]}" + (f"，在{ZONES_SAID['zh'][said[1]]}区。" if said[1] else "。")
    return f"标牌上写着“{said}”。"


assert corner_name("en", "middle") == "middle of the table"
