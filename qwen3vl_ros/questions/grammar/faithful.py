"""Whether the steps that a model read are what an order says: whoever reads wrongly carries out another order, and truly reports it done.

What steps cannot express (a condition, a denial, a choice, a number of things, a place between two) is read by nobody; and every colour,
everyday thing and level that the order names must be in the steps, as must a word for each place of theirs be in the order. Knows no models.
"""

from __future__ import annotations

import re
from typing import Sequence

from qwen3vl_ros.questions.aliases import COLOURS, COLOURS_ZH, EVERYDAY, common
from qwen3vl_ros.questions.grammar.orders import DIGITS
from qwen3vl_ros.questions.plan import Step

_CANNOT_BE_SAID = re.compile(
    r"\b(?:not|never|cannot|\w+n't|without|unless|if|whether|when(?:ever)?|until|while|except|but|or|either|neither|nor|between|both|all (?:the|of|my)|everything"
    r"|every|each|anything|anywhere|instead|swap|exchange|avoid|two|three|four|several|some)\b"
    r"|不(?!锈钢)|别(?!的)|勿|没|如果|要是|假如|除非|除了|或|还是|之间|所有|全部|都|每|交换|互换|两[个只件块]|几[个只件块]|一些",
    re.I,
)
_SAID_IN_PASSING = re.compile(
    r"\blevel (?:one|two|three|four|five)\b|\bif (?:possible|you (?:please|can|could|will|would|do(?:n't| not) mind))\b|如果(?:可以|方便|行)(?:的话)?",
    re.I,
)
_PLACED = {
    "left of": r"\bleft\b|左",
    "right of": r"\bright\b|右",
    "in front of": r"\bfront\b|\bbefore\b|前",
    "behind": r"\bbehind\b|\bback of\b|\brear\b|后|背",
    "next to": r"\bnext\b|\bbeside|\bnear|\bclose\b|\bby\b|\bat\b|\balongside\b|\badjacent\b|旁|附近|边|靠|挨",
    "in": r"\bin|里|内|中|进|入",
    "on": r"\bon|\btop\b|\bat\b|\bto\b|\bstack|上|到|叠|堆|[层角]",
    "back": r"\bback\b|\breturn|\breplace|\brestore|回|归|原",
}
_ORDINAL = re.compile(
    r"\b(?:first|second|third|fourth|fifth|top|bottom|middle)(?= (?:shelf|level|board|tier|layer)\b)|第[一二三四五1-5](?=层)",
    re.I,
)
_COLOUR = re.compile(rf"\b(?:{'|'.join(COLOURS)})\b|[{COLOURS_ZH}](?=色|[^\W\d_])", re.I)
_THING = re.compile(
    "|".join(
        (r"\b(?:" + "|".join(n for n in EVERYDAY if n.isascii()) + r")\b", *(n for n in EVERYDAY if not n.isascii()))
    ),
    re.I,
)


def expressible(order: str) -> bool:
    """Whether steps could say what an order says."""
    return not _CANNOT_BE_SAID.search(_SAID_IN_PASSING.sub("", order))


def faithful(order: str, steps: Sequence[Step]) -> bool:
    """Whether steps that were read in an order leave out nothing that it names, and add nothing that it does not."""
    names = [n for s in steps for n in (s.object, s.reference) if n]
    if any(s.relation and not re.search(_word_for(s), order, re.I) for s in steps):
        return False
    said = " ".join(names)
    for pattern in (_COLOUR, _THING, _ORDINAL):
        told = {common(w.lower()).translate(DIGITS) for w in pattern.findall(order)}
        if not told <= {common(w.lower()).translate(DIGITS) for w in pattern.findall(said)} | _words(said):
            return False
    return True


def _word_for(step: Step) -> str:
    """What an order says, at least, that places a thing so; a table's own sides are said in many ways, but left and right in these."""
    if re.search("of the table$|^桌子", step.reference):
        return next(
            (
                _PLACED[f"{way} of"]
                for way, in_ in (("left", "left|左"), ("right", "right|右"))
                if re.search(in_, step.reference)
            ),
            "",
        )
    return _PLACED[step.relation]


def _words(said: str) -> set[str]:
    """What else a name may be made of: "架子第二层" has 第二 in it, however it is written."""
    return set(re.findall(r"\w+", said.lower())) | {f"第{c}" for c in re.findall(r"第(.)", said)}
