"""Whether prose clearly says "there is nothing of that here". Anything less clear is not a refusal.

Reading a broken answer as "saw nothing" would tell a planner that the table is free, so the text must be short, begin
with a denial, deny everything that was asked for, take nothing back, and not complain of a missing image. What is asked
for may hold a denial itself ("no smoking sign", "不锈钢杯"), so targets are marked before anything is looked for
(`Wanted.marked`). Knows English and Chinese, the languages the model answers in.
"""

from __future__ import annotations

import re

from qwen3vl_ros.questions.parsing.wanted import Wanted

_MAX_CHARS = 300
MARK = "[\ue000-\uf8ff]"  # stands for a target
_PICTURE = r"(?:image|picture|photo|photograph|scene|frame|view)"
_GENERIC_WORD = (
    r"(?:objects?|instances?|items?|match(?:es)?|targets?|categor(?:y|ies)|things?|detections?"
    r"|texts?|words?|letters?|writing|results?|these|those|them)"
)
SEEN = (
    r"(?:found|detected|visible|present|seen|shown|depicted|identified|located|available|there|here|exist(?:s|ent)?|matched"
    rf"|(?:with)?in (?:the|this) (?:given |provided )?{_PICTURE})"
)
_SEEN_OF_NO = (
    r"found|detected|visible|present|seen|shown|exists?|match(?:e[sd])?|identified|located|depicted"
    rf"|(?:with)?in (?:the|this) {_PICTURE}"
)
_NOT = r"(?: not|n't)"
NOT_SEEN = (
    rf"(?:(?:(?:is|are|was|were){_NOT}|can ?not be|can't be|could{_NOT} be)(?: (?:been|be|any|clearly|currently))* {SEEN}"
    rf"|(?:does|do|did){_NOT} (?:exist|appear)|(?:is|are) (?:absent|missing|nowhere to be (?:seen|found))(?= ?(?:[.!]|$| from the))|not {SEEN})"
)
_FIND = r"(?:see|find|locate|detect|identify|spot|recognize)"
_ANY = rf"(?: (?:any|an?|the|either)\b| {MARK})"
_OPENING = re.compile(
    rf"^(?:(?:i'm sorry|i am sorry|sorry|apologies|unfortunately|(?:in|based on) (?:the|this) {_PICTURE})(?:,? but\b|,)? )+"
)
_SUBJECT = rf"(?:(?:the|an?|any|both|and|or|nor|either|requested|specified|{_GENERIC_WORD}|{MARK})[ ,]*)+"
_SHOW = r"(?:contain|show|include|have|depict|feature|display)"
_VERB = r"\b(?:is|are|was|were|has|have|can|could|will|would)\b"
_IN_PICTURE_ZH = r"(?:在?(?:这张|该|此|本|这幅|这个)?(?:图片?|图像|照片|画面|场景)(?:中|里|上|内)?)?"
_NONE_ZH = (
    r"(?:没有|没(?=[看找发检见])|未(?=[找检发见识看能出包显])|无(?:法|任何|符合|匹配)|无(?=\s*[\ue000-\uf8ff物目对文])"
    r"|找不到|不存在|看不[到见]|不包?含)"
)
_NOT_THERE_ZH = (
    r"(?:不存在|不可见|未(?:被)?(?:找到|检测|发现|出现)|没有(?:出现|找到|检测|被)|没(?:找到|看到)|找不到|看不[到见]"
    r"|不在(?:这张|该|此)?(?:图|照片|画面))"
)
_DENIALS = (
    # there is no mug
    r"there (?:is|are|was|were|seems? to be|appears? to be) (?:no|not any|not an?|zero|0|none|neither)\b",
    r"there (?:is|are|was|were)n't (?:any|an?)\b",
    r"there (?:does|do)(?: not|n't) (?:seem|appear) to be (?:any|an?)\b",
    # I cannot see a mug
    rf"(?:i|we) (?:can ?not|can't|(?:could|do|did){_NOT}|(?:am|was|were) (?:unable|not able) to) {_FIND}{_ANY}",
    r"(?:i|we) (?:see|saw|found|find|detect|detected) no(?:ne)?\b",
    rf"(?:unable|failed) to {_FIND}{_ANY}",
    # no mug was found; no mug
    rf"no (?:.{{1,120}} )?(?:{_SEEN_OF_NO})\b",
    rf"no (?:(?!{_VERB})[^,.;:!?]){{1,60}}[.!]?$",
    # the image does not contain a mug
    rf"(?:it|(?:the|this) {_PICTURE}) does{_NOT} (?:seem to |appear to )?{_SHOW}{_ANY}",
    rf"(?:the|this) {_PICTURE} (?:contains|shows|has|includes|depicts) (?:no|neither)\b",
    # none of the objects is visible; neither a mug nor a cube is there
    rf"none of .{{1,100}}?\b(?:(?:is|are|was|were|can be|could be|has been|have been) )?{SEEN}\b",
    rf"neither\b.{{1,120}}\b(?:{SEEN}|appears?)\b",
    # the mug is not visible; mug: not found
    rf"{_SUBJECT} ?[:,(-]* ?{NOT_SEEN}",
    # 图中没有杯子; 杯子不在图中
    rf"(?:抱歉|很抱歉|对不起)?[，,]?\s*{_IN_PICTURE_ZH}[，,]?(?:并|都|均|也|似乎|好像)?{_NONE_ZH}",
    rf"[“\"]?{MARK}(?:[”\"和、，,与或及\s]+{MARK})*[”\"]?\s*(?:并|都|均|也)?{_NOT_THERE_ZH}",
)
_DENIAL = re.compile("|".join(_DENIALS))
_BARE = re.compile(
    r"(?:null|none|nothing|nowhere)(?: of (?:them|these|those))?(?: (?:found|detected|visible|present|matches))?"
    r"|not (?:found|present|visible|detected)|(?:都|并)?没有|无|未找到|未检测到|未发现|没有找到|没找到|找不到|不存在"
)
_GENERIC = re.compile(rf"\b{_GENERIC_WORD}\b|物体|目标|对象|文字|文本|符合|匹配|实例")
_TAKEN_BACK = re.compile(
    r"\b(?:but|however|except|although|though|only|instead|apart from|other than|unless|doubt|besides|because|if"
    r"|aside|problem|need|reason|question|wait|sure|certain)\b|但|不过|除了|只有|然而|尽管|因为|如果"
)
_PARTLY = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|front|behind|near|beside|next to|corner|background|foreground"
    r"|more|other|another|with|whose|whole|entire|full|fully|complete|completely|clearly|all|every)\b|左|右|前|后|旁|其他"
)
# What is said to be there, in the same breath as another is denied.
_THERE = re.compile(
    rf"(?:^|\band\b|[,;]) ?(?:the |an? )?{MARK}[ a-z]{{0,20}}? (?:is|are|was|were|lies|stands|sits)\b"
    rf"(?! (?:not|absent|missing|nowhere|{SEEN})\b|n't)|{MARK}在(?!(?:这张|该|此)?(?:图|画面|照片))|(?<!没)有(?:一个|个)?{MARK}"
)
# mug: none, cube: not found
_LINES = re.compile(
    rf"(?:[-*• ]*{MARK} ?[:：=-] ?(?:none|null|nothing|no|{NOT_SEEN}|absent|无|没有|未找到|未检测到|不存在)[,;.，。； ]*)+"
)
_NO_IMAGE = re.compile(
    r"\b(?:no|any) (?:images?|pictures?|photos?|input)\b"
    r"|\b(?:provide|attach|upload|send|share) (?:the|an|a|your)\b|没有(?:提供|收到|上传)|未(?:提供|收到|上传)"
)
_ANY_DENIAL = re.compile(r"\b(?:no|not|none|nothing|cannot|without|unable)\b|n't\b|没有|未|无|不")
# A word before a target that leaves it whole: "no red mug" does not deny every mug.
_WORD_BEFORE = re.compile(rf"([a-z]+|[的色])[ \"'“‘]*(?={MARK})")
_LEAVES_WHOLE = set(
    "no any a an the of or and nor not zero single such visible identifiable either neither both each for called named as "
    "contain contains show shows include includes have has depict depicts feature display see saw find found locate detect "
    "category categories class phrase description term label word type kind detected identify spot recognize object objects item items instance instances matching labeled labelled is are".split()
)


def denies_all(text: str, wanted: Wanted) -> bool:
    """Whether `text`, which holds no object, says that nothing of what was asked for is in the image."""
    said = " ".join(re.sub(r"</?\w+>", " ", text).split()).strip('`"*_#> ')
    said = re.sub(r"^(?:json |(?:final )?answer ?: ?)", "", said, flags=re.IGNORECASE).strip("*_ ")
    if not said or len(said) > _MAX_CHARS or re.search(r"[\[\]{}()]|\d\d", said):
        return False
    said = _OPENING.sub("", wanted.marked(said.replace("’", "'")), count=1)
    if _BARE.fullmatch(said.rstrip(" .!。！")):
        return True
    if _LINES.fullmatch(said) and all(mark in said for mark in wanted.marks):
        return True
    first, *rest = [s for s in re.split(r"(?<=[.!?。！？])\s*", said) if s]
    if not _DENIAL.match(first) or any(against.search(said) for against in (_TAKEN_BACK, _THERE, _NO_IMAGE)):
        return False
    if _PARTLY.search(first) or not all(word in _LEAVES_WHOLE for word in _WORD_BEFORE.findall(first)):
        return False  # nothing on the left, and no red one, is not nothing
    named = {mark for mark in wanted.marks if mark in first}
    if any(mark in sentence for mark in wanted.marks for sentence in rest):
        return False
    return bool(_GENERIC.search(first) and not named) or len(named) == len(wanted.targets) > 0


def denies_something(prose: str, wanted: Wanted) -> bool:
    """Whether there is any word of denial in the prose, targets apart."""
    return _ANY_DENIAL.search(wanted.marked(prose.replace("’", "'"))) is not None
