"""What the tokenizer has a token for: the literal parts of prompts and answers, and the words that people use in them.

Words that no form uses, like those of questions beyond the embedded world, are spelt in letters. Knows nothing of pictures.
"""

from __future__ import annotations

import itertools
import re

from orders import _JOINTS, CLAUSES, CORNERS, NOT_FOR_ARMS, ORDINALS
from outside import ABOUT_THINGS, SENTENCES
from sayings import AREAS, SAID, ZONES_SAID
from tasks import WORDS
from wordings import _AFTER, _BEFORE, SAID_RELATIONS, SIZES, SYNONYMS, corpus

from qwen3vl_ros.questions import admissions, dial, holds, plan, tell, understand
from qwen3vl_ros.questions.read_text import ReadText
from qwen3vl_ros.sim.specs import COLOURS, GAUGE_SCALES, KINDS, MORE_GAUGE_SCALES, MORE_KINDS, SIGN_WORDS

# One token each: prompts, and what stands between the words of answers.
LITERALS = (
    understand.INSTRUCTION,
    understand.BEFORE,
    tell.INSTRUCTION,
    plan.INSTRUCTION,
    plan.SEEN,
    plan.TOLD,
    dial.PROMPT,
    holds.TAKEN,
    holds.ASKED,
    '["',
    '"]',
    ReadText().prompt(),
    "Question: ",
    '{"ask": "',
    '", "find": ["',
    '", "find": []}',
    '", "',
    '"]}',
    '{"steps": [{"action": "',
    '"}, {"action": "',
    '", "relation": "", "reference": ""}, {"action": "',
    '", "relation": "", "reference": ""}], "question": ""}',
    '", "object": "',
    '", "relation": "',
    '", "reference": "',
    '"}], "question": ""}',
    '{"steps": [], "question": "',
    '], "text_content": "',
    '", "minimum": ',
    ', "maximum": ',
    ', "zone": "',
    '", "centre": [',
    '], "tip": [',
    '], "first": [',
    '], "last": [',
    "]}",
    ") = ",
    " (",
    "; ",
    "- ",
    " ± ",
    *admissions.BEYOND.values(),
    *admissions.UNMEASURED.values(),
    *NOT_FOR_ARMS.values(),
    'The sign says "',
    "The gauge reads ",
    "仪表的读数是",
    "标牌上写着“",
    "I cannot tell ",
    "无法确定",
    "Yes, ",
    "No, ",
    "是的，",
    "没有，",
)
_ANSWERS = (
    "whether how what where which far away is are not there no nothing of from to at in on the and a an in zone fits fit "
    "into does tall wide long large nearest camera table picture side corner middle first second third top bottom level "
    "shelf says reads cannot tell Which Nothing The There see I green yellow red true false unknown none nothing look pick place "
    "back front behind left right above below next between text reading list count exists distance height width length "
    "size colour farthest leftmost rightmost object objects item things where boxes trays signs shelves gauges"
)
_CHINESE_ANSWERS = "有没有在离最近的距离是的不能放进画面桌子架子第一二三最上下层上面里旁方左右前后高宽长大什么也哪个还是我看到区绿黄红读数写着确定"


def words() -> list[str]:
    """English words, beyond those of tasks.WORDS; each only where no letter stands beside it."""
    texts = [
        *corpus(),
        *_flat(SYNONYMS["en"].values()),
        *_flat(SAID_RELATIONS["en"].values()),
        *_flat(SIZES["en"].values()),
        *_flat(CLAUSES["en"].values()),
        *_BEFORE["en"],
        *_AFTER["en"],
        *_JOINTS["en"],
        *ORDINALS["en"],
        *CORNERS,
        *AREAS,
        *SAID["en"].values(),
        *ABOUT_THINGS["en"],
        *understand.ASKS,
        *SIGN_WORDS,
        *itertools.chain(MORE_KINDS, KINDS, COLOURS),
        *(unit for unit, _, _ in GAUGE_SCALES + MORE_GAUGE_SCALES),
        _ANSWERS,
        "shows onto level rack where room free space its dice dishes please thanks First after that",
    ]
    # Words that begin a sentence in one form and stand within one in another.
    found = {w for text in texts for w in re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", "", text))}
    openers = {w[0].lower() + w[1:] for w in found} | {w.capitalize() for w in _openers()}
    seldom = [w for text in SENTENCES["en"] for w in re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", "", text))]
    often = {w for w in seldom if seldom.count(w) >= 3}
    ascii_words = {
        w for w in WORDS if w.isascii()
    }  # byte-level decoding takes the degree sign of an added token for a byte
    return sorted((found | openers | often | ascii_words) - {"a", "I", "A", "V", "L"})


def _openers() -> set[str]:
    """Words that come first in a form; orders begin with any of theirs."""
    texts = [*corpus(), *_flat(CLAUSES["en"].values()), *_BEFORE["en"]]
    return {m[0].lower() for t in texts if (m := re.match(r"[A-Za-z]+", t))}


def characters() -> list[str]:
    """Chinese characters and marks, one token each where no longer literal has them."""
    texts = [
        *corpus(),
        *_flat(SYNONYMS["zh"].values()),
        *SYNONYMS["zh"],
        *_flat(SAID_RELATIONS["zh"].values()),
        *_flat(SIZES["zh"].values()),
        *_flat(CLAUSES["zh"].values()),
        *_BEFORE["zh"],
        *_AFTER["zh"],
        *_JOINTS["zh"],
        *ORDINALS["zh"],
        *_flat(CORNERS.values()),
        *SAID["zh"].values(),
        *ZONES_SAID["zh"].values(),
        *ABOUT_THINGS["zh"],
        _CHINESE_ANSWERS,
        "近远处区红橙黄绿蓝紫白黑色，。？：、“”；货搁",
    ]
    seldom = "".join(SENTENCES["zh"])
    found = {c for text in texts for c in text if ord(c) > 0x2000}
    return sorted(found | {c for c in seldom if seldom.count(c) >= 3 and ord(c) > 0x2000})


def _flat(groups) -> list[str]:
    return [text for group in groups for text in group]
