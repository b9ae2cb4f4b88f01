"""Names that mean something by what was named before: "the other mug", "the blue one", 另一个. In an order they become names that stand
for themselves: "blue cube", and "mug other than the red mug", which no model is asked for: it is every mug that is not the red one.

Knows nothing of pictures and models.
"""

from __future__ import annotations

import re
from typing import Sequence

from qwen3vl_ros.questions.aliases import COLOURS, COLOURS_ZH, in_english, same_thing
from qwen3vl_ros.questions.parsing.wanted import is_chinese
from qwen3vl_ros.questions.plan import Step

_EN, _ZH = " other than the ", "以外的"
_COLOURS = "|".join((*COLOURS, "violet", "gray", "silver"))
_SIZES = "big|bigger|biggest|large|larger|largest|small|smaller|smallest|little|tall|taller|short|shorter|left|right"
_ADJECTIVES = re.compile(rf"^(?:(?:{_COLOURS}|{_SIZES}) )+|^(?:(?:[{COLOURS_ZH}]色?|[大小高矮]|左边|右边)的?)+", re.I)
_OTHER = re.compile(r"(?:an)?other (?P<en>.+)|另外?(?:一|那|的)?(?:个|只|件|块|的)?(?P<zh>.*)", re.I)
_ONE = re.compile(r"(?P<en>.+) one|(?:那个)?(?P<zh>.*的)(?:那|这)?(?:个|只|件|块)?", re.I)
_WHICH = re.compile(r"(?:(?:first|second|third|last|next|same|right|wrong) )*one", re.I)
_PLACE = re.compile(r".*(?:of the (?:table|shelf)|table|desk|shelf|rack)|(?:桌|架子).*", re.I)


def named_otherwise(kind: str, but: Sequence[str]) -> str:
    """The name of what is of a kind and is none of these."""
    return f"{'、'.join(but)}{_ZH}{kind}" if is_chinese(kind) else f"{kind}{_EN}{' and the '.join(but)}"


def parted(name: str) -> tuple[str, tuple[str, ...]]:
    """The kind that a name of `named_otherwise` says, and what is not meant; any other name, and nothing."""
    if _EN in name:
        kind, but = name.split(_EN, 1)
        return kind, tuple(but.split(" and the "))
    if _ZH in name:
        but, kind = name.split(_ZH, 1)
        return kind, tuple(but.split("、"))
    return name, ()


def plain_words(name: str) -> list[str]:
    """Adjectives and noun of what a name says is meant, as far as they can be in English: red, mug."""
    return in_english(parted(name.strip())[0]).lower().split(" ")


def kind_of(name: str) -> str:
    """What a thing is, whatever its colour and size: "red coffee mug" is a coffee mug."""
    return _ADJECTIVES.sub("", parted(name)[0]) or name


def resolved(steps: Sequence[Step], before: Sequence[Step] = ()) -> tuple[Step, ...] | None:
    """Steps whose every name stands for itself; None where one means what no step names. before: steps of the order before this one,
    for what these leave open.
    """
    references = [s.reference for s in before if s.reference and not _PLACE.fullmatch(s.reference)]
    named: dict[str, list[str]] = {"object": [s.object for s in before], "reference": references}
    meant, said, last = [], "", ""
    for step in steps:
        new = last if step.object == said else _meant(step.object, named["object"], named["reference"])
        if new is None:
            return None
        said, last = step.object, new
        named["object"].append(new)
        reference = step.reference
        if reference and not _PLACE.fullmatch(reference):
            if (reference := _meant(reference, named["reference"], named["object"])) is None:
                return None
            named["reference"].append(reference)
        meant.append(step._replace(object=new, reference=reference))
    return tuple(meant)


def _meant(name: str, alike: Sequence[str], others: Sequence[str]) -> str | None:
    """What a name means after what was named in the same part of steps, and in the other."""
    before = [*others, *alike]
    other = _OTHER.fullmatch(name)
    if other is not None:
        kind = (other["en"] or other["zh"] or "").strip()
        if kind in ("", "one"):
            if not before:
                return None
            kind = kind_of(before[-1])
        elif one := _ONE.fullmatch(kind):  # the other blue one
            if not before:
                return None
            kind = _joined(one, kind_of(before[-1]))
        but = [n for n in dict.fromkeys(before) if not parted(n)[1] and _of_kind(n, kind)]
        return named_otherwise(kind, but) if but else None
    if _WHICH.fullmatch(name):
        return None
    if one := _ONE.fullmatch(name):
        return _joined(one, kind_of(before[-1])) if before else None
    return name


def _joined(one: re.Match, kind: str) -> str:
    return f"{one['en']} {kind}" if one["en"] else f"{one['zh']}{kind}"


def _of_kind(name: str, kind: str) -> bool:
    """Whether what is called so may be what is called that: a red mug is a cup; a mug may be the red one."""
    a, b = kind_of(name), kind_of(kind)
    return same_thing(a, b) or same_thing(in_english(a), in_english(b))
