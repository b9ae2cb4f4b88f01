"""Orders in their common forms, read without a model: from "拿起红色的盒子，放到架子第二层" to a pick and a place.

An order is read only where every clause of it is; for all else the answer is None, and a model has to read it. Places on a shelf or a
table get one name a language ("second level of the shelf", 架子第二层). Knows no pictures, no arms and no models.
"""

from __future__ import annotations

import re
from typing import Sequence

from qwen3vl_ros.questions.parsing.wanted import is_chinese
from qwen3vl_ros.questions.plan import MAX_STEPS, Planned, Step

ORDINALS = ("first", "second", "third", "fourth", "fifth")
ORDINALS_ZH = ("第一层", "第二层", "第三层", "第四层", "第五层")
DIGITS = str.maketrans("12345", "一二三四五")
CORNERS = {
    "top left corner": "左上角",
    "top right corner": "右上角",
    "bottom left corner": "左下角",
    "bottom right corner": "右下角",
    "left side": "左边",
    "right side": "右边",
    "middle": "中间",
}

# -- English --------------------------------------------------------------------------------------------------------------
_PICK = r"pick(?: up)?|take(?: hold of)?|grab(?: hold of)?|lift(?: up)?|get(?: hold of)?|grasp|fetch|seize|hold"
_PUT = r"put|place|move|set(?: down)?|bring|lay|drop|transfer|carry|stack|return|i want|i need"
_LOOK = r"look (?:at|for)|(?:have|take) a look at|check|find|show me|inspect|examine|locate|look where"
_VERB = rf"(?:{_PICK}|{_PUT}|{_LOOK})"
_THEN = re.compile(
    rf"\s*[,;.]?\s*(?:and (?:then|after that|afterwards)|and|then|after that|afterwards|next|finally|lastly)\s*,?\s+(?=(?:please )?{_VERB}\b)"
    rf"|\s*[,;.]\s+(?=(?:please )?{_VERB}\b)"
)
_POLITE = re.compile(
    r"^(?:please|first(?:ly)?|now|well|so|ok|okay|robot|hey|hello|hi|kindly|then|next|tell me|excuse me|could you|can you|would you|will you|i(?:'d| would) like you to|i want you to"
    r"|you should|go and|let's|try to)\b[ ,]*"
)
_CLAUSE = re.compile(rf"(?:(?P<look>{_LOOK})|(?P<pick>{_PICK})|(?P<put>{_PUT})) (?P<rest>.+)")
_GOES = re.compile(r"(?P<rest>.+?) (?:goes|belongs|should (?:be|go)|has to (?:be|go)|must (?:be|go)) (?P<where>.+)")
_WHERE = re.compile(
    r"\b(?:(?:in(?:to)? the )?(?:free |empty )?(?:space|room|spot|place) |where there is (?:room|space) )?(?:"
    r"(?P<left>(?:to|on|at) the left(?:[- ]hand)?(?: side)? of|left of)|(?P<right>(?:to|on|at) the right(?:[- ]hand)?(?: side)? of|right of)"
    r"|(?P<front>in front of)|(?P<behind>behind|in back of)|(?P<next>next to|beside|close to|near(?: to)?|by|alongside)"
    r"|(?P<in>inside(?: of)?|into|in)|(?P<on>on top of|on ?to|on|at|to))\b "
)
_RELATION = {
    "left": "left of",
    "right": "right of",
    "front": "in front of",
    "behind": "behind",
    "next": "next to",
    "in": "in",
    "on": "on",
}
_BACK = re.compile(r"^(?:(?P<a>.*?) )?back(?: (?:where it (?:was|came from)|(?:in|to) its (?:old )?place|again))?$")
_LEVELS = {
    name: k
    for k, names in enumerate(
        ("first 1st one 1", "second 2nd two 2", "third 3rd three 3", "fourth 4th four 4", "fifth 5th five 5"), 1
    )
    for name in names.split()
}
_SHELF = r"(?:shelf|rack|shelves|bookshelf)"
_ORDINAL = r"(?P<o>first|second|third|fourth|fifth|1st|2nd|3rd|4th|5th|top|upper|highest|bottom|lowest|lower|middle)"
_LEVEL = re.compile(
    rf"(?:{_ORDINAL} (?:shelf )?(?:level|board|tier|layer)(?: (?:of|on|in) the {_SHELF})?|{_SHELF}'s {_ORDINAL.replace('<o>', '<p>')} (?:level|board|tier|layer)"
    rf"|{_ORDINAL.replace('<o>', '<q>')} {_SHELF}|(?:level|tier|board) (?P<n>[1-5]|one|two|three|four|five)(?: of the {_SHELF})?)"
)
_CORNER = re.compile(
    r"(?P<c>(?:top|upper|far|bottom|lower|near)[ -](?:left|right)(?:[- ]hand)? corner|(?:left|right)(?:[- ]hand)? side|middle|centre|center)"
    r"(?: (?:of|on) the (?:table|desk|table ?top))?"
)
# What things are put into.
_HOLLOW = re.compile(r"(?:bowl|mug|cup|basket|bin|pot|pan|box|crate|carton|碗|杯|盒|箱|篮|桶|锅)(?:子)?$")
# Says nothing that is needed: there is one thing of that name, wherever it stands, or a question.
_FROM = re.compile(r" (?:out of|off(?: of)?|from|away from)(?: the)? .+$")
_NO_NAME = re.compile(
    r"\b(?:and|or|then|not|if|it|them|do|does|is|are|when|until|while|you|me|everything|all|both|each|every|anything|something|nothing|some|any"
    r"|few|bit|cm|mm|inch(?:es)?|centimet(?:er|re)s?|millimet(?:er|re)s?|metres?|meters?|degrees?|(?:left|right)$|up|down|out|off|away|from|between)\b"
)
_ARTICLE = re.compile(r"^(?:(?:the|a|an|that|this|my|your|one) )+")
_IT = re.compile(r"^(?:it|them|that|this|the same(?: one)?)?$")


def planned(order: str, before: Sequence[Step] = ()) -> Planned | None:
    """The steps an order tells; None where it is not read. before: steps of the order before it, of which "it" may speak."""
    steps: list[Step] = []
    clauses = _chinese(order) if is_chinese(order) else _english(order)
    it, in_hand = before[-1].object if before else "", ""
    hollow = next((n for s in reversed(before) for n in (s.reference, s.object) if _HOLLOW.search(n)), "")
    for clause in clauses or ((None, "", "", ""),):
        action, name, relation, reference = clause
        name = name or it
        if action is None or not name or (action == "place" and not relation):
            return None
        if action == "place" and relation != "back" and not reference:  # into it: into what was spoken of last
            reference = hollow if relation == "in" and hollow and not _HOLLOW.search(it) else it
        if reference == name or (action == "place" and relation != "back" and not reference):
            return None
        if action == "place" and in_hand != name:
            steps.append(Step("pick", name))
        steps.append(Step(action, name, relation, reference))
        hollow = next((n for n in (name, reference) if _HOLLOW.search(n)), hollow)
        it, in_hand = name, name if action == "pick" else "" if action == "place" else in_hand
    return Planned(tuple(steps)) if 0 < len(steps) <= MAX_STEPS else None


def _english(order: str):
    text = " ".join(order.lower().replace("’", "'").split()).strip(" .!?")
    text = re.sub(r"\bgo and (?=\w)", "", re.sub(r",? (?:please|for me|now|thanks|thank you)$", "", text))
    clauses = []
    for part in _THEN.split(text):
        while (shorter := _POLITE.sub("", part)) != part:
            part = shorter
        if not part:
            continue
        if goes := _GOES.fullmatch(part):
            clauses.append(_put_english(f"{goes['rest']} {goes['where']}"))
            continue
        found = _CLAUSE.fullmatch(part)
        if found is None:
            return None
        rest = re.sub(r"^(?:up|down) ", "", found["rest"])
        if found["look"]:
            clauses.append(("look", _thing_english(re.sub(r" is$", "", rest)), "", ""))
        elif found["put"] or (found["pick"] and _BACK.fullmatch(rest)):
            home = found["put"] == "return" and not _WHERE.search(f" {rest}")
            clauses.append(_put_english(f"{rest} back" if home else rest))
        else:
            clauses.append(("pick", _thing_english(re.sub(r" (?:up|off|out)$", "", _FROM.sub("", rest))), "", ""))
    return None if any(c is None or (c[0] != "place" and c[1] is None) for c in clauses) else clauses


def _put_english(rest: str):
    if back := _BACK.fullmatch(rest):
        name = _thing_english(back["a"] or "")
        return None if name is None else ("place", name, "back", "")
    for found in _WHERE.finditer(f" {rest}"):
        name = _thing_english(_FROM.sub("", re.sub(r" (?:up|down|over)$", "", f" {rest}"[: found.start()].strip())))
        reference = _ARTICLE.sub("", f" {rest}"[found.end() :].strip())
        relation = _RELATION[found.lastgroup]
        if name is None or not reference:
            continue
        if relation in ("left of", "right of") and re.fullmatch("table|desk|table ?top", reference):
            relation, reference = "on", f"{relation[:-3]} side"  # a table's own side
        if level := _LEVEL.fullmatch(reference):
            return "place", name, "on", _level_english(next(filter(None, level.groups())))
        if corner := _CORNER.fullmatch(reference):
            word = re.sub(r"[- ]hand", "", corner["c"]).replace("-", " ")
            word = re.sub("upper|far", "top", re.sub("lower|near", "bottom", word)).replace("centre", "middle")
            return "place", name, "on", f"{word.replace('center', 'middle')} of the table"
        if (reference := _thing_english(reference)) is None:
            return None  # "" is it
        if relation == "on" and found["on"] in ("at", "to"):
            relation = "next to"
        return "place", name, relation, reference
    return None


def _level_english(word: str) -> str:
    word = {"upper": "top", "highest": "top", "lower": "bottom", "lowest": "bottom"}.get(word, word)
    number = _LEVELS.get(word, 0)
    return f"{ORDINALS[number - 1] if number else word} level of the shelf"


def _thing_english(text: str) -> str | None:
    """A name without its article, "" for a pronoun, None for what is no name."""
    text = text.strip(" ,")
    text = re.sub(r" (?:in|on|of) the (?:picture|image|scene|photo|view|table)$", "", text)
    if _IT.match(text):
        return ""
    name = _ARTICLE.sub("", text)
    return None if not name or _NO_NAME.search(name) or len(name.split()) > 5 else name


# -- Chinese --------------------------------------------------------------------------------------------------------------
_ZH_POLITE = re.compile(
    r"^(?:请问(?:一下)?|请你?|麻烦(?:问一下|你)?|劳驾|嘿|喂|你好|帮我|帮忙|给我|你|能不能|能否|可以|可不可以|先|首先|机器人|现在|我要你?|我想让你|再|然后|接着|之后|最后|并且?|随后|接下来)+"
)
_ZH_SPLIT = re.compile(r"[，,。；;、]|(?<=.)(?=然后|接着|之后|最后|随后|接下来|再(?=把|将|放|拿|移))")
_ZH_PICK = r"拿起|抓起|抓住|拿住|夹起|夹住|取出|取下|取|举起|抬起|捡起|拿"
_ZH_PUT = r"放回到|放到|放在|放进|放入|放上|移动到|移到|移至|拿到|搬到|搬至|搁到|搁在|摆到|摆在|置于|挪到|送到|叠在|叠到|叠放在|堆在|堆到|放"
_ZH_LOOK = r"看看|看一下|看一看|检查一下|检查|查看|找一下|找到|找|看"
_ZH_BACK = r"放回(?:去|原处|原位|原来的(?:地方|位置))?|归位|拿回去"
_ZH_FORMS = (
    (re.compile(rf"(?:把|将)?(?P<a>.*?)(?:{_ZH_BACK})"), "back"),
    (re.compile(r"(?:把|将)(?P<a>.+?)(?:放|丢|装|倒)(?P<w>进去|到里面)"), "put"),
    (re.compile(rf"(?:把|将)(?P<a>.+?)(?:{_ZH_PICK})?(?:起来)?(?:并|再)?(?:{_ZH_PUT})(?P<w>.+)"), "put"),
    (re.compile(rf"(?:{_ZH_PICK})(?P<a>.+?)(?:并|再)?(?:{_ZH_PUT})(?P<w>.+)"), "put"),
    (re.compile(rf"(?P<a>)(?:{_ZH_PUT})(?P<w>.+)"), "put"),
    (re.compile(rf"(?:把|将)(?P<a>.+?)(?:{_ZH_PICK})(?:来|起来)?"), "pick"),
    (re.compile(rf"(?:{_ZH_PICK})(?P<a>.+?)(?:来|起来)?"), "pick"),
    (re.compile(rf"(?:{_ZH_LOOK})(?P<a>.+?)(?:在哪里?|在哪儿)?"), "look"),
)
_ZH_WHERE = (
    ("left of", r"(?:的)?左(?:边|侧|面|方)"),
    ("right of", r"(?:的)?右(?:边|侧|面|方)"),
    ("in front of", r"(?:的)?前(?:边|面|方)"),
    ("behind", r"(?:的)?后(?:边|面|方)|(?:的)?背后"),
    ("next to", r"(?:的)?(?:旁边|边上|附近|旁)(?:的)?(?:空地|空位|空处|地方)?"),
    ("in", r"(?:的)?(?:里面|里边|里|之中|中|内)"),
    ("on", r"(?:的)?(?:上面|上边|顶上|上)"),
)
_ZH_SHELF = r"(?:架子|货架|书架|置物架)"
_ZH_LEVEL = re.compile(
    rf"(?:{_ZH_SHELF}(?:上)?(?:的)?)?(?P<o>第[一二三四五1-5]层|最上层|最上面一层|顶层|上层|最下层|最下面一层|底层|下层|中间(?:那|的|那一|的一|一)?层|中层)(?:上面?|里面?)?"
)
_ZH_CORNER = re.compile(
    r"(?:桌子|桌面|桌)(?:上)?(?:的)?(?P<c>[左右][上下]角|左边|左侧|右边|右侧|中间|中央|正中)(?:的地方|上)?"
)
_ZH_IT = re.compile(r"^(?:它|它们|这个|那个|其|)(?:的)?$")

_ZH_NO_NAME = re.compile(
    "把|将|放|拿|然后|或|和|不|吗|什么|哪|如果|直到|你|我|所有|全部|每|任何|都|一点|厘米|毫米|公分|[往向朝从].+"
    "|^(?:[左右前后][边侧面方]|旁边|里面?|上面?|去|来)$"
)


def _chinese(order: str):
    text = re.sub(r"\s+", "", order).strip("。！!？?，, ")
    clauses = []
    for part in filter(None, _ZH_SPLIT.split(text)):
        part = _ZH_POLITE.sub("", re.sub(r"(?:吧|吗|一下|好吗|谢谢|可以吗)+$", "", part))
        if part and (clause := _clause_chinese(part)) is None:
            return None
        elif part:
            clauses.append(clause)
    return clauses


def _clause_chinese(part: str):
    for form, kind in _ZH_FORMS:
        if (found := form.fullmatch(part)) is None or (name := _thing_chinese(found["a"])) is None:
            continue
        if kind != "put":
            return ("place", name, "back", "") if kind == "back" else (kind, name, "", "")
        if where := _where_chinese(found["w"]):
            return "place", name, *where
    return None


def _where_chinese(text: str) -> tuple[str, str] | None:
    text = re.sub(r"(?<=[里上中内边侧面角层方])[去来]$", "", text)
    if level := _ZH_LEVEL.fullmatch(text):
        word = level["o"].translate(DIGITS)
        named = (("中", "中间层"), ("上|顶", "最上层"), ("下|底", "最下层"))
        return "on", f"架子{next((name for way, name in named if re.search(way, word)), word)}"
    if corner := _ZH_CORNER.fullmatch(text):
        word = corner["c"].replace("侧", "边").replace("中央", "中间").replace("正中", "中间")
        return "on", f"桌子{word}"
    for relation, words in _ZH_WHERE:
        if (found := re.fullmatch(rf"(?P<b>.*?)(?:{words})", text)) and (
            name := _thing_chinese(found["b"])
        ) is not None:
            return relation, name
    if text in ("进去", "到里面"):
        return "in", ""
    name = _thing_chinese(text)
    return None if name is None else ("on", name)


def _thing_chinese(text: str) -> str | None:
    """As _thing_english."""
    text = re.sub(r"(?:从|由).+(?:里面?|中|上面?|内)?$", "", text)
    text = re.sub(r"^(?:图中|画面中|图里|画面里|图片中|桌上|桌子上|眼前)(?:的)?", "", text)
    text = re.sub(r"^(?:那|这|一)(?:个|只|件|块)", "", text)
    if _ZH_IT.match(text):
        return ""
    return None if _ZH_NO_NAME.search(text) or len(text) > 12 else text
