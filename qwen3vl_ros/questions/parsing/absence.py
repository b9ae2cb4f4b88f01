"""Whether a label or a field of an object says that the object is not there: "no mug", "杯子：无", `"present": false`.

Such an object is an absence, whatever box stands beside it. Things whose names hold a denial stay things: those asked for
("the mug without a handle", "不锈钢杯"), signs that forbid, and what a language builds with "no" or 无 (无线鼠标).
"""

from __future__ import annotations

import re

from qwen3vl_ros.questions.parsing import keys
from qwen3vl_ros.questions.parsing.denials import MARK, NOT_SEEN, SEEN
from qwen3vl_ros.questions.parsing.fields import Field
from qwen3vl_ros.questions.parsing.wanted import Wanted

DENIES, UNCLEAR, NAMES = "denies", "unclear", "names"

_THING = (
    r"(?:objects?|instances?|items?|match(?:es|ing objects?)?|targets?|results?|detections?|things?|thing|one|text)"
)
_THING_ZH = r"(?:任何|什么|相关|符合|匹配|条件|要求|的|此|该|这个|个|类|物体|物品|目标|对象|东西|实例|结果|文字)*"
_NOTHING = re.compile(
    rf"(?:none|nothing|nowhere|null|nil|absent|non-?existent|not {SEEN}|does(?: not|n't) exist|not applicable"
    rf"|(?:none|nothing|(?:no|zero|0)(?: such)? {_THING})(?: (?:is|are|was|were))?(?: {SEEN})*)"
    rf"|(?:并?没有|未|没|无|无法|不能|找不到|看不[到见]|不存在|不可见)(?:找到|检测到|检测出|发现|见到?|识别到?|看到|出现|定位)?{_THING_ZH}"
)
_NO = re.compile(r"no|false|n/?a|否|不")
_SIGN = re.compile(
    r"(?:smoking|parking|swimming|fishing|diving|running|stopping|standing|littering|trespassing|loitering|entering|eating"
    r"|drinking|climbing|camping|cycling|skating|dumping|hunting|overtaking|passing|photography|entry|exit|access"
    r"|admittance|u[- ]?turn|left turn|right turn|food|pets|dogs|open flames?|naked flames?)\b"
    r"|.*\b(?:sign|symbol|sticker|notice|poster|placard|logo|label|tag|board|zone|button|icon|pictogram)s?$|[\d.#]"
)
_PLAIN_ADJECTIVE = (
    r"(?:red|green|blue|yellow|black|white|gr[ae]y|brown|orange|purple|pink|silver|gold(?:en)?|dark|light|big|large|small"
    r"|tiny|new|old|other|such|more|visible|clear|single|further|additional|any|the|an?|of|or|and|nor)"
)
_TAIL = rf"(?: (?:is|are|was|were|can be|could be|to be))?(?:,? {SEEN})*"
_MARKS = rf"(?:(?:{_PLAIN_ADJECTIVE} )*{MARK}(?:,|/| and| or| nor)? ?)+"
_DENIED_TARGET = re.compile(
    rf"(?:no|zero|0|not|not an?|not the|without|without an?|absence of|absent|missing|non-?existent|neither) {_MARKS}{_TAIL}"
)
_SENTENCE = re.compile(
    r"there (?:is|are|was|were)(?: not?|n't| none| zero)\b|(?:i |we )?(?:can ?not|can't|could not|couldn't|unable to|failed to|"
    r"do not|don't|did not|didn't) (?:see|find|locate|detect|identify|spot)\b|(?:the |this )?(?:image|picture|photo|scene) "
    r"(?:does not|doesn't|contains no|shows no|has no)\b|none of the\b|neither\b|no .{1,80}?\b(?:found|detected|visible|present|seen)$"
)
_DENIED_SUBJECT = re.compile(
    rf".{{1,80}}?(?:[\s:,;(\[-]+(?:{NOT_SEEN}|none|null|nothing|absent|non-?existent)|\s*[:(\[]\s*(?:no|n/?a|missing|false|0))[\s)\]]*"
)
_DENIED_SUBJECT_ZH = re.compile(
    rf"(?:.{{1,40}}?[\s:：,，(（【\[-]+(?:无|没有|否|缺失)|{MARK}\s*(?:无|没有|缺失)"
    r"|.{1,40}?[\s:：,，(（【\[-]*(?:不存在|不可见|未(?:被)?(?:找到|检测到?|发现|出现|见|识别)|没(?:有)?(?:找到|看到|出现|检测到)|"
    r"找不到|看不[到见]|不在(?:图|画面|照片)\S{0,3}))[\s)）】\]]*"
)
_NEVER_A_NAME_ZH = re.compile(
    r"(?:图中|图片中|画面中|这里)?(?:并)?(?:未(?:能)?(?:找到|检测到|检测出|发现|见|识别|看到|出现)|没有?(?:找到|看到|发现|检测到|见到)|"
    r"找不到|看不[到见]|不存在|无法(?:找到|看到|检测|识别|定位))"
)
_WITHOUT_ZH = re.compile(r"(?:图中|图片中|画面中|这里)?(没有|没|无|不是|非)(?:任何|什么|这个|该|此)*\s*(.+)")
_PLAIN_MODIFIER_ZH = re.compile(r".*色|[红蓝绿黄黑白灰紫橙粉银金大小新旧]+|其他|别|更多")
_HAS_DENIAL_OR_STATE = re.compile(
    r"\b(?:no|not|non|none|nothing|nowhere|null|nil|without|absent|absence|missing|non-?existent|zero|0|neither|unable|failed|can ?not|"
    r"n/?a|false)\b|n't\b|没|无|未|不|非|否|缺失"
)
_HAS_DENIAL = re.compile(r"\b(?:no|not|non|without)\b|没|无|未|不|非")


def is_nothing(text: str) -> bool:
    """Whether the text is a word for nothing: "none", "not found", "没有"."""
    return _NOTHING.fullmatch(_plain(text)) is not None


def of_label(label: str, wanted: Wanted) -> str:
    """DENIES: there is no such thing. NAMES: it is what something is called. UNCLEAR: it may be either ("no lid mug")."""
    said = _plain(wanted.marked(label))
    if re.fullmatch(MARK, said) or not _HAS_DENIAL_OR_STATE.search(said):
        return NAMES
    if _NOTHING.fullmatch(said) or _NO.fullmatch(said) or _DENIED_TARGET.fullmatch(said):
        return DENIES
    if _SENTENCE.match(said) or _DENIED_SUBJECT.fullmatch(said) or _DENIED_SUBJECT_ZH.fullmatch(said):
        return DENIES
    if _NEVER_A_NAME_ZH.match(said):
        return DENIES
    if said.startswith(("no ", "zero ")):
        return _of_no(said.partition(" ")[2], wanted)
    without = _WITHOUT_ZH.fullmatch(said)
    return _of_without_zh(*without.groups(), wanted) if without else NAMES


def _of_no(what: str, wanted: Wanted) -> str:
    """ "no WHAT", where WHAT is not simply a target."""
    if _SIGN.match(what) or any(_HAS_DENIAL.search(t.lower()) for t in wanted.targets):
        return NAMES
    if re.search(rf"{MARK}$", what):
        return UNCLEAR
    return DENIES


def _of_without_zh(word: str, what: str, wanted: Wanted) -> str:
    """没有WHAT, 无WHAT, 不是WHAT."""
    if re.fullmatch(rf"(?:{MARK}[和、,，或与及]?)+|{_THING_ZH}", what):
        return DENIES
    modifier, of, head = what.rpartition("的")
    if of and re.fullmatch(MARK, head) and _PLAIN_MODIFIER_ZH.fullmatch(modifier):
        return DENIES
    if of or word not in ("没有", "没") or any(_HAS_DENIAL.search(t) for t in wanted.targets):
        return NAMES
    return DENIES


def of_field(f: Field) -> bool:
    """Whether a field beside the label says so: `"absent": true`, `"present": false`, `"count": 0`, `"status": "not found"`."""
    how = keys.denied_by(f.key)
    if not how or f.kind not in ("text", "numbers"):
        return False
    if f.kind == "numbers":
        number = f.groups[0][0].value if f.groups and f.groups[0] else None
        return how != "words" and number is not None and (number == 0) == (how != "true")
    said = _plain(f.text)
    if how == "true":
        return said in ("true", "yes", "是", "对")
    return (
        is_nothing(said)
        or (how != "words" and said in ("false", "no", "否", "不", "不是", "zero"))
        or said == "missing"
    )


def of_value(f: Field) -> bool:
    """Whether the value that stands for a target's place denies it: {"mug": "not found"}, {"mug": false}."""
    if f.kind == "numbers":
        return sum(map(len, f.groups)) == 1 and f.groups[0][0].value == 0
    return f.kind == "text" and (is_nothing(f.text) or _NO.fullmatch(_plain(f.text)) is not None)


def _plain(text: str) -> str:
    said = " ".join(text.lower().replace("’", "'").split())
    return said.strip(" .!。！\"'`“”")
