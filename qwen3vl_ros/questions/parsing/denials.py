"""Whether prose clearly says "there is nothing of that here". Anything less clear is not a refusal.

Reading a broken answer as "saw nothing" would tell a planner that the table is free, so the text must be short, begin
with a denial, deny everything that was asked for, take nothing back, and not complain of a missing image.
Knows English and Chinese, the languages the model answers in.
"""

from __future__ import annotations

import re

from qwen3vl_ros.questions.parsing.wanted import Wanted

_MAX_CHARS = 300
_PICTURE = r"(?:image|picture|photo|scene)"
_DENIAL = re.compile(
    r"(?:sorry,? |unfortunately,? )?(?:"
    r"there (?:is|are|was|were) (?:no|not any|zero|0|none)\b|there (?:isn't|aren't) any\b"
    r"|(?:i|we) (?:can ?not|can't|could not|couldn't|do not|don't|did not|didn't) "
    r"(?:see|find|locate|detect|identify|spot) any\b"
    r"|(?:i|we) (?:see|found|find|detect|detected) no\b"
    r"|no\b.{1,120}\b(?:found|detected|visible|present|seen|exists?|matche[sd]|identified|located"
    rf"|in (?:the|this) {_PICTURE})\b|no [^,.;:!?]{{1,60}}[.!]?$"
    rf"|(?:the|this) {_PICTURE} (?:(?:does not|doesn't) (?:contain|show|include|have) any|(?:contains|shows|has|includes) no)\b"
    r"|(?:抱歉|很抱歉|对不起)?[，,]?\s*(?:在?(?:这张|该|此|本)?(?:图|图片|图像|图中|画面)(?:中|里|上)?)?并?"
    r"(?:没有|未|无|找不到|不存在|看不到|不包含)"
    r")",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?:null|none|nothing)(?: (?:found|detected|visible|present|matches))?\s*[.!]?", re.IGNORECASE)
_GENERIC = re.compile(
    r"\b(?:objects?|instances?|items?|match(?:es)?|targets?|text|words?|letters?|writing|results?)\b"
    r"|物体|目标|对象|文字|文本|符合|匹配|实例",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:but|however|except|although|though|only|instead|apart from|other than|unless|doubt|besides"
    r"|aside|problem|need|reason|question|wait|sure|certain)\b|但|不过|除了|只有|然而|尽管",
    re.IGNORECASE,
)
_PARTLY = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|front|behind|near|beside|next to|corner|background|foreground"
    r"|more|other|another)\b|左|右|前|后|旁|其他",
    re.IGNORECASE,
)
_NO_IMAGE = re.compile(
    r"\b(?:no|any) (?:images?|pictures?|photos?|input)\b"
    r"|\b(?:provide|attach|upload|send|share) (?:the|an|a|your)\b|没有(?:提供|收到|上传)|未(?:提供|收到|上传)",
    re.IGNORECASE,
)


def denies_all(text: str, wanted: Wanted) -> bool:
    """Whether `text`, which holds no object, says that nothing of what was asked for is in the image."""
    said = " ".join(text.strip().strip("`").split())
    if said.lower().startswith("json "):
        said = said[5:].strip()
    if not said or len(said) > _MAX_CHARS or re.search(r"[\[\]{}()]|\d\d", said):
        return False
    if _BARE.fullmatch(said):
        return True
    first, *rest = [s for s in re.split(r"(?<=[.!?。！？])\s*", said) if s]
    if not _DENIAL.match(first) or _TAKEN_BACK.search(said) or _NO_IMAGE.search(said):
        return False
    targets = wanted.targets
    named = [t for t in targets if _mentions(first, t)]
    beyond = first.lower()
    for target in named:
        beyond = beyond.replace(_core(target), "")
    if _PARTLY.search(beyond):  # nothing on the left is not nothing
        return False
    if any(_mentions(sentence, t) for t in targets for sentence in rest):
        return False
    return bool(_GENERIC.search(first) and not named) or (len(named) == len(targets) > 0)


def _mentions(sentence: str, target: str) -> bool:
    """Whether the sentence names the target, in singular or plural, with or without its article."""
    return _core(target) in sentence.lower()


def _core(target: str) -> str:
    return re.sub(r"^(?:the|a|an) ", "", target.lower())
