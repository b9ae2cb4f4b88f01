"""How people tell an arm what to do, and the steps they mean, in English and Chinese.

An order is one to three clauses; each takes a thing and puts it somewhere, takes it, puts it back, or looks. Clauses of `HELD_OUT`
are asked by model/evaluate.py alone. Knows nothing of pictures or tokens.
"""

from __future__ import annotations

import numpy as np
from wordings import Speaker

from qwen3vl_ros.questions.plan import Plan, Planned, Step

# {a} what is taken, {w} where it goes (a place of PLACES below, which holds {b}), {it} a pronoun.
CLAUSES = {
    "en": {
        "put": (
            "put the {a} {w}",
            "place the {a} {w}",
            "move the {a} {w}",
            "take the {a} and put it {w}",
            "pick up the {a} and place it {w}",
            "set the {a} {w}",
            "grab the {a} and set it {w}",
            "bring the {a} {w}",
            "pick the {a} up and put it {w}",
            "get the {a} and put it {w}",
            "lay the {a} {w}",
            "I want the {a} {w}",
            "the {a} goes {w}",
            "take the {a}, then place it {w}",
            "lift the {a} and set it down {w}",
            "drop the {a} {w}",
            "carry the {a} {w}",
            "leave the {a} {w}",
            "transfer the {a} {w}",
            "shift the {a} {w}",
            "stow the {a} {w}",
            "lay the {a} down {w}",
            "fetch the {a} and put it {w}",
            "grasp the {a} and bring it {w}",
            "lift the {a} and carry it {w}",
            "take the {a} and leave it {w}",
            "pick up the {a}, move it and place it {w}",
            "I need the {a} {w}",
            "the {a} belongs {w}",
            "the {a} should be {w}",
            "the {a} should go {w}",
            "let us have the {a} {w}",
            "see that the {a} is {w}",
            "make sure that the {a} is {w}",
        ),
        "put_it": (
            "put it {w}",
            "place it {w}",
            "move it {w}",
            "set it down {w}",
            "bring it {w}",
            "lay it {w}",
            "drop it {w}",
            "set it {w}",
            "leave it {w}",
            "carry it {w}",
            "transfer it {w}",
            "shift it {w}",
            "take it and put it {w}",
            "pick it up and place it {w}",
            "lift it and leave it {w}",
            "it goes {w}",
        ),
        "pick": (
            "pick up the {a}",
            "take the {a}",
            "grab the {a}",
            "lift the {a}",
            "pick the {a} up",
            "get the {a}",
            "grasp the {a}",
            "get hold of the {a}",
            "fetch the {a}",
            "hold the {a}",
            "pick the {a}",
            "raise the {a}",
            "lift up the {a}",
            "lift the {a} up",
            "take up the {a}",
            "seize the {a}",
            "pick out the {a}",
            "I need the {a} in the gripper",
            "have the {a} in the gripper",
        ),
        "back": (
            "put it back",
            "bring it back",
            "put it back where it was",
            "return it",
            "set it back",
            "place it back",
            "put it where it was",
            "put it back where you found it",
            "return it to where it was",
            "take it back",
            "set it back where it stood",
            "carry it back",
            "put it down where it was",
        ),
        "look": (
            "look at the {a}",
            "have a look at the {a}",
            "check the {a}",
            "show me the {a}",
            "find the {a}",
            "look for the {a}",
            "look where the {a} is",
            "inspect the {a}",
            "examine the {a}",
            "see the {a}",
            "see where the {a} is",
            "check where the {a} is",
            "look again at the {a}",
            "watch the {a}",
            "search for the {a}",
            "locate the {a}",
            "point the camera at the {a}",
        ),
    },
    "zh": {
        "put": (
            "把{a}放到{w}",
            "将{a}放到{w}",
            "把{a}放在{w}",
            "拿起{a}放到{w}",
            "拿起{a}，放到{w}",
            "把{a}移到{w}",
            "拿{a}放在{w}",
            "把{a}拿到{w}",
            "取{a}放到{w}",
            "抓起{a}，把它放到{w}",
            "拿起图中的{a}，放到{w}",
            "拿起画面中{a}，放在{w}",
            "把{a}搬到{w}",
            "先拿{a}，再放到{w}",
            "将{a}移动到{w}",
            "把{a}挪到{w}",
            "将{a}搬到{w}",
            "把{a}送到{w}",
            "{a}放到{w}",
            "{a}要放在{w}",
            "让{a}到{w}",
            "取来{a}，放在{w}",
            "夹起{a}，放到{w}",
            "夹住{a}移到{w}",
            "把{a}拿起来放到{w}",
            "拿{a}，然后放到{w}",
            "抓取{a}，放在{w}",
            "将{a}拿起，放到{w}",
            "把{a}抓起来，移到{w}",
            "拿住{a}，再把它放到{w}",
        ),
        "put_it": (
            "把它放到{w}",
            "将它放在{w}",
            "放到{w}",
            "把它移到{w}",
            "把它放在{w}",
            "把它挪到{w}",
            "将它移动到{w}",
            "把它搬到{w}",
            "将它放到{w}",
            "放在{w}",
            "移到{w}",
            "把它送到{w}",
            "拿起它放到{w}",
        ),
        "pick": (
            "拿起{a}",
            "抓住{a}",
            "把{a}拿起来",
            "取{a}",
            "拿{a}",
            "抓起{a}",
            "把{a}抓起来",
            "举起{a}",
            "夹起{a}",
            "夹住{a}",
            "拿住{a}",
            "把{a}取来",
            "将{a}拿起来",
            "把{a}夹起来",
            "抓取{a}",
            "把{a}举起来",
            "将{a}抓住",
            "把{a}抓住",
        ),
        "back": (
            "把它放回去",
            "放回原处",
            "把它放回原来的地方",
            "放回去",
            "把它放回原位",
            "放回原位",
            "将它放回去",
            "把它送回去",
            "把它放到原来的位置",
            "放到原来的地方",
            "将它送回原位",
        ),
        "look": (
            "看看{a}",
            "看一下{a}",
            "检查{a}",
            "找一下{a}",
            "找到{a}",
            "看{a}",
            "检查一下{a}",
            "看一看{a}",
            "去看看{a}",
            "观察{a}",
            "查看{a}",
            "找{a}",
            "找找{a}",
            "去找{a}",
            "看清{a}",
            "去检查{a}",
        ),
    },
}
HELD_OUT = {
    "en": {
        "put": (
            "I want you to put the {a} {w}",
            "take hold of the {a} and move it {w}",
            "get the {a} and bring it {w}",
        ),
        "put_it": ("get it {w}", "move it and set it {w}"),
        "pick": ("get the {a} up", "take hold of the {a}"),
        "back": ("move it back", "put it back in its place"),
        "look": ("take a look at the {a}", "go and check the {a}"),
    },
    "zh": {
        "put": ("请你把{a}放到{w}", "抓住{a}，移到{w}", "先抓起{a}，再把它放在{w}"),
        "put_it": ("再将它移到{w}", "然后把它拿到{w}"),
        "pick": ("先抓住{a}", "请把{a}拿起"),
        "back": ("将它放回原处", "再放回原来的地方"),
        "look": ("先看一下{a}", "请检查{a}"),
    },
}
# Where things go: (relation, reference) as a plan says it, and how people say it.
ORDINALS = {
    "en": ("first", "second", "third", "top", "bottom"),
    "zh": ("第一层", "第二层", "第三层", "最上层", "最下层"),
}
CORNERS = {
    "top left corner": ("左上角",),
    "top right corner": ("右上角",),
    "bottom left corner": ("左下角",),
    "bottom right corner": ("右下角",),
    "left side": ("左边", "左侧"),
    "right side": ("右边", "右侧"),
    "middle": ("中间", "中央"),
}
_JOINTS = {
    "en": (", then ", " and then ", ". Then ", "; after that ", ", and after that ", ", next "),
    "zh": ("，然后", "，再", "。然后", "，接着", "，之后", "，最后"),
}
# What an order begins with; with those of _ASKED it is a question.
_ASKED = ("can you ", "could you ", "would you ", "will you ", "can you please ")
_TOLD = {
    "en": ("I need you to ", "I would like you to ", "you should ", "you have to ", "go on and ", "next, ", "just "),
    "zh": ("帮我", "帮忙", "麻烦你", "我要你", "你来", "现在"),
}
_VERBLESS = ("I ", "The ", "Let ")  # orders that no such opener goes with
NOT_FOR_ARMS = {"en": "That is nothing an arm can do.", "zh": "机械臂做不到这件事。"}


def level_name(language: str, level: int) -> str:
    """The name of a shelf level: 1 to 3 counted from below, 4 the top, 5 the bottom one."""
    word = ORDINALS[language][level - 1]
    return f"{word} level of the shelf" if language == "en" else f"架子{word}"


def corner_name(language: str, corner: str) -> str:
    return f"{corner} of the table" if language == "en" else f"桌子{CORNERS[corner][0]}"


class Orders:
    """Invents orders. names(rng): a random name of a thing, as the model calls it in the language."""

    def __init__(self, rng: np.random.Generator, language: str, name, held_out: bool = False):
        self.rng, self.language, self._name = rng, language, name
        self.speaker = Speaker(rng, language, held_out)
        self._clauses = (HELD_OUT if held_out else CLAUSES)[language]
        self.choose = self.speaker.choose

    def order(self) -> tuple[Plan, Planned]:
        """An order and the plan it means."""
        steps, said, it, in_hand = [], [], "", False
        for _ in range(int(self.rng.choice((1, 2, 3), p=(0.55, 0.35, 0.1)))):
            options = ["put_it"] * 5 + ["back"] * 2 if it else []
            options = options if in_hand else options + ["put"] * 5 + ["pick", "look"]
            kind = self.choose(options)
            clause, meant, it = self._clause(kind, it, in_hand)
            in_hand = meant[-1].action == "pick"
            steps += meant
            said.append(clause)
        text = said[0]
        for clause in said[1:]:
            joint = self.choose(_JOINTS[self.language])
            clause = clause.removeprefix("先").removeprefix("再").removeprefix("然后")
            text += joint + clause
        if self.language == "en":
            text = ("First " + text) if len(said) > 1 and self.rng.random() < 0.2 else text[0].upper() + text[1:]
        return self._finished(self._begun(text)), Planned(tuple(steps))

    def _begun(self, text: str) -> str:
        """An order with something before it, in a quarter of those that are not held out."""
        if self.speaker.held_out or self.rng.random() >= 0.25 or text.startswith(("First", "先", *_VERBLESS)):
            return text
        if self.language == "zh":
            return self.choose(_TOLD["zh"]) + text
        opener = self.choose((*_ASKED, *_TOLD["en"]))
        end = "?" if opener in _ASKED and ". " not in text else ""
        return opener[0].upper() + opener[1:] + text[0].lower() + text[1:] + end

    def question_back(self, colours: list[str], name_of) -> tuple[Plan, Planned]:
        """An order for a thing of which two or none are seen. name_of(english) is what the language calls it."""
        kind = self.choose(("mug", "box", "cube", "ball", "cylinder", "bowl"))
        others = [str(c) for c in self.rng.permutation(colours)]
        seen = [
            name_of(f"{c} {k}")
            for c, k in zip(
                others[2:],
                self.rng.permutation([k for k in ("mug", "box", "cube", "ball", "bowl") if k != kind])[
                    : self.rng.integers(1, 4)
                ],
            )
        ]
        two = self.rng.random() < 0.5
        fitting = [name_of(f"{others[0]} {kind}"), name_of(f"{others[1]} {kind}")] if two else []
        seen = [str(s) for s in self.rng.permutation(seen + fitting)]
        fitting = [s for s in seen if s in fitting]
        named = name_of(kind)
        clause = self.choose(self._clauses[self.choose(("put", "pick"))])
        where = self._place()[0]
        text = clause.format(a=self.speaker.called(named), w=where)
        if self.language == "en":
            text = self._begun(text[0].upper() + text[1:])
            back = f"Which {named}: the {fitting[0]} or the {fitting[1]}?" if two else f"I see no {named}."
        else:
            text = self._begun(text)
            back = f"哪个{named}：{fitting[0]}还是{fitting[1]}？" if two else f"我没有看到{named}。"
        return self._finished(text, tuple(seen)), Planned((), back)

    def with_seen(self, plan: tuple[Plan, Planned], name) -> tuple[Plan, Planned]:
        """The same order with what is seen beside it: what the order names, each once, and other things."""
        order, planned = plan
        named = [s.object for s in planned.steps]
        seen = list(dict.fromkeys([*named, name(), name()]))
        return Plan(order.instruction, tuple(str(s) for s in self.rng.permutation(seen))), planned

    def _finished(self, text: str, seen: tuple[str, ...] = ()) -> Plan:
        end = "" if text.endswith("?") else "." if self.language == "en" else "。"
        return Plan(self.speaker.politely(self.speaker._grammar(text + end)), seen)

    def _clause(self, kind: str, it: str, in_hand: bool) -> tuple[str, list[Step], str]:
        """(what is said, the steps, what a pronoun means afterwards). it: what one means now."""
        template, a = self.choose(self._clauses[kind]), self._name()
        where, relation, reference = self._place()
        text = template.format(a=self.speaker.called(a), w=where)
        if kind == "put":
            return text, [Step("pick", a), Step("place", a, relation, reference)], a
        if kind == "pick":
            return text, [Step("pick", a)], a
        if kind == "look":
            return text, [Step("look", a)], a
        place = Step("place", it, "back") if kind == "back" else Step("place", it, relation, reference)
        return text, [place] if in_hand else [Step("pick", it), place], it

    def _place(self) -> tuple[str, str, str]:
        """(as people say it, relation, reference)."""
        en, draw = self.language == "en", self.rng.random()
        b = self._name()
        called = self.speaker.called(b)
        if draw < 0.25:
            level = int(self.rng.integers(1, 6))
            reference, word = level_name(self.language, level), ORDINALS[self.language][level - 1]
            said = (
                self.choose(
                    (
                        "on the {o} level of the shelf",
                        "on the {o} shelf level",
                        "onto the {o} level of the rack",
                        "on the shelf's {o} level",
                        "to the {o} level of the shelf",
                    )
                ).format(o=word)
                if en
                else self.choose(("架子{o}", "架子的{o}", "架子{o}上", "货架{o}", "架子的{o}上")).format(o=word)
            )
            return said, "on", reference
        if draw < 0.4:
            corner = self.choose(tuple(CORNERS))
            reference = corner_name(self.language, corner)
            said = (
                self.choose(
                    (
                        "in the {c} of the table",
                        "to the {c} of the table",
                        "at the {c} of the desk",
                        "on the {c} of the table",
                    )
                ).format(c=corner)
                if en
                else self.choose(("桌子{c}", "桌子的{c}", "桌面{c}", "桌子{c}的地方")).format(
                    c=self.choose(CORNERS[corner])
                )
            )
            return said, "on", reference
        if draw < 0.5:
            said = (
                self.choose(
                    ("in the free space next to the {b}", "where there is room next to the {b}", "next to the {b}")
                )
                if en
                else self.choose(("{b}旁边的空地", "{b}旁边的空位", "{b}旁边"))
            )
            return said.format(b=called), "next to", b
        if draw < 0.68:
            b = self._name(("tray", "tray", "box"))
            called = self.speaker.called(b)
            return (
                (
                    self.choose(("on the {b}", "onto the {b}", "on top of the {b}"))
                    if en
                    else self.choose(("{b}上", "{b}上面"))
                ).format(b=called),
                "on",
                b,
            )
        if draw < 0.82:
            b = self._name(("bowl", "bowl", "mug"))
            called = self.speaker.called(b)
            return (
                (
                    self.choose(("in the {b}", "into the {b}", "inside the {b}"))
                    if en
                    else self.choose(("{b}里", "{b}里面", "{b}中"))
                ).format(b=called),
                "in",
                b,
            )
        relation = self.choose(("left of", "right of", "in front of", "behind"))
        words = {
            "left of": ("to the left of", "left of"),
            "right of": ("to the right of", "right of"),
            "in front of": ("in front of",),
            "behind": ("behind",),
        }
        chinese = {
            "left of": ("左边", "左侧"),
            "right of": ("右边", "右侧"),
            "in front of": ("前面",),
            "behind": ("后面",),
        }
        return (
            (
                f"{self.choose(words[relation])} the {called}"
                if en
                else called + self.choose(("", "的")) + self.choose(chinese[relation])
            ),
            relation,
            b,
        )
