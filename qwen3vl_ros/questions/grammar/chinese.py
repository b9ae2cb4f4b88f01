"""The Chinese half of the grammar: from "请问红色的杯子离托盘有多远？" to ("distance", 红色的杯子, 托盘).

Politeness is taken off both ends, then the question's kind is told by its frame, and what is left over must be names of things.
Knows no pictures and no models.
"""

from __future__ import annotations

import re
from contextlib import suppress

from qwen3vl_ros.questions.understand import Understood

THING = "物体"
_SIDE = r"(?:边儿?|侧|面|方|手边|手侧)?"
_RELATIONS = {
    "left of": rf"左{_SIDE}",
    "right of": rf"右{_SIDE}",
    "in front of": r"(?:正)?前(?:边|面|方|头)?|跟前",
    "behind": r"(?:正)?(?:后|背后|后背)(?:边|面|方|头)?",
    "next to": r"旁边?|边上|旁侧|附近|隔壁|一旁|近旁",
    "between": r"(?:之间|中间|当中)",
    "above": r"(?:正)?上方|上空",
    "below": r"(?:正)?下(?:边|面|方|头)|底下|之下",
    "in": r"里(?:边|面|头)?|内部?|当中|之内|中",
    "on": r"(?:之)?上(?:边|面|头)?|顶上|顶部",
}
_REL = "(?:" + "|".join(f"(?P<r{i}>{form})" for i, form in enumerate(_RELATIONS.values())) + ")"
_IN = r"(?:位于|处于|处在|摆放在|放置在|摆在|放在|站在|立在|躺在|搁在|待在|在)"
_WHAT = r"(?:什么|啥|哪个|哪些|哪几个|哪一个|哪件|哪样|哪只|谁)"
_HAVE = r"(?:都)?(?:有|是|放着|摆着|站着|立着|摆了|放了|存在|躺着)"
_MEASURE_WORD = r"(?:个|只|件|样|些|块|张|台|种|位|本|瓶)"
_POLITE = re.compile(
    r"^(?:(?:这里|那里)(?=有|是|能|可以)|麻烦问一下|麻烦问下|问一下|嘿|哎|请问一下|请问|请|麻烦你?|劳驾|你好|您好|喂|帮我|帮忙|给我|跟我|告诉我|说说看?|说一下|说说|看一下|看看|看一看|查一下|查看一下|检查一下|检查|确认一下|量一下|量一量|测一下|测量一下|测量"
    r"|我想知道|想知道|我想问|我想|你知道|你知不知道|知道|你能不能|您能不能|能不能请你|你能|您能|可以|能否|可否|能不能(?=告诉|帮|说|看|找)|你觉得|你看|我觉得|我认为|是不是真的|说|那么|那|现在|机器人|好的|嗯|能(?=读|找|看|数|测|告诉|说)|给出)[，,：:]?"
)
_AFTER = re.compile(
    r"(?:[，,]?(?:吗|(?<![什怎多])么|呢|啊|呀|吧|哦|嘛|对吗|对吧|对不对|是吗|是吧|是不是|好吗|行吗|可以吗|谢谢|一下|现在|准确地说|到底|究竟|请告诉我|告诉我))$"
)
_HERE_IN = r"(?:(?:在)?(?:这张|这幅|这个)?(?:画面|图片|照片|图像|图|镜头|视野|场景|桌子|桌面|桌|台面|台子)(?:里面|里边|里|中|内|上面|上边|上|当中)?)"
_ARTICLE = re.compile(
    r"^(?:(?:那|这|某|其|一)(?:一)?(?:个|只|件|张|块|台|些|种|样|本|瓶)?|这些|那些|任何|所有的?|全部的?|我的|你的)"
)
_PRONOUN = re.compile(r"^(?:它|它们|他|她|这个|那个|这|那|此物|这东西|那东西)$")
_ANY = re.compile(
    rf"^(?:的)?(?:{_WHAT}|别的|其他|其它|任何|所有|全部)?(?:的)?(?:{_MEASURE_WORD})?(?:物体|东西|物品|物件|事物)?$"
)
_OTHER_WORDS = re.compile(
    r"什么|哪|谁|多少|多[高宽长大远]|是|吗|呢|怎|为什么|在|有|和|与|跟|或|不|能|会|比|离|距|几|，|,|。|？|请|我|你|最|近|远|从|到|给|把|放|找|看"
)
_CAMERA = re.compile(r"^(?:我们?|你们?|您|这里|相机|摄像头|摄像机|镜头|观察者|自己)$")
_ROBOT = re.compile(r"^(?:机器人|机械臂|机器臂|底座|基座)(?:的)?(?:底座|基座)?$")
_GRIPPER = re.compile(r"夹爪|夹子|夹具|机械手|手爪|爪子")
_MANY = r"(?:多少|几)"
_SIZES = {"height": ("高", "高度"), "width": ("宽", "宽度"), "length": ("长", "长度"), "size": ("大", "尺寸|大小|体积")}
_UNIT = r"(?:厘米|公分|毫米|米|公尺|cm|mm|m)"
_POINT = r"(?:的)?(?:角度|视角|观点|位置|方向|立场|那边|那里|这边|视野)"


def without_view(question: str) -> tuple[str, str]:
    """As grammar.without_view."""
    for pattern in (
        rf"[，,]?\s*(?:站在|从|由|以|按照?)(?P<o>[^，,。？?从以到]+?)(?:{_POINT})(?:来|上|上来|去|为准)?(?:看过?去?|看来|来看|观察|来说|说|讲)?[，,]?",
        r"[，,]?\s*(?:从|由)(?P<o>[^，,。？?从以]+?)(?:来|那里|这里|那边)?(?:看过去|看来|看去|来看|看)[，,]?",
        r"[，,]?\s*(?:对|对于|就)(?P<o>[^，,。？?从以对]+?)(?:来说|而言|来讲)[，,]?(?!.*(?:太|够|大|小|放|装))",
    ):
        if found := re.search(pattern, question):
            return f"{question[: found.start()]}{question[found.end() :]}", _view(found["o"])
    if own := re.search(rf"(?P<o>[^，,。？?在]+?)(?:自己|自身|本身)(?:的)?(?P<r>[左右前后]{_SIDE})", question):
        return f"{question[: own.start()]}{own['o']}的{own['r']}{question[own.end() :]}", _view(own["o"])
    return question, ""


def _view(owner: str) -> str:
    owner = re.sub(r"的$", "", owner.strip())
    if _CAMERA.match(owner):
        return "viewer"
    return "robot" if _ROBOT.match(owner) else f"object:{_ARTICLE.sub('', owner)}"


def read(question: str, before: Understood | None = None) -> Understood | None:
    """As grammar.understood, the view already taken off."""
    text = re.sub(r"\s+", "", question).strip('？?。.！!…“”"，,')
    again = re.fullmatch(r"(?:那么?|还有|那|至于)?[，,]?(?P<a>.+?)呢", text)
    while (shorter := _AFTER.sub("", _POLITE.sub("", text))) != text and shorter:
        text = shorter
    if again and before is not None and not re.search("什么|哪|多|几|吗", again["a"]):
        with suppress(_NoName):
            return before._replace(find=(_name(again["a"]), *before.find[1:]))
    for reader in (_list, _closest, _extreme, _distance, _size, _look, _where, _count, _related, _fits, _exists):
        with suppress(_NoName):
            if (told := reader(text)) is not None:
                return _resolved(told, before)
    return None


class _NoName(Exception):
    """Something that should be the name of a thing is none."""


def _name(text: str, any_is: str | None = None) -> str:
    """The name of a thing without its article; any_is as in english."""
    text = text.strip("，, ")
    if any_is is not None and (not text or _ANY.match(text)):
        return any_is
    if _PRONOUN.match(text):
        return "它"
    if level := re.fullmatch(r"(?P<s>[^第]+?)(?:的)?(?:第)(?P<n>[一二三四五12345])(?:层|格|级)", text):
        return f"{_name(level['s'])} level {'一二三四五'.find(level['n']) + 1 or level['n']}"
    bare = _ARTICLE.sub("", text)
    bare = re.sub(r"的$", "", bare)
    if not bare or len(bare) > 16 or _OTHER_WORDS.search(bare):
        raise _NoName
    return bare


def _resolved(told: Understood, before: Understood | None) -> Understood:
    if "它" not in told.find:
        return told
    if before is None or not before.find or before.find[0] == THING:
        raise _NoName
    return told._replace(find=tuple(before.find[0] if name == "它" else name for name in told.find))


# -- the kinds of questions, each a Understood or None where it is not one of them ---------------------------------------------


def _distance(text: str) -> Understood | None:
    far = rf"(?:有|是|相距|相隔|隔着?|大概|大约|差)*(?:多远|多近|{_MANY}{_UNIT}|多少距离|(?:的)?距离(?:是|有)?(?:多少|多远|多大|几{_UNIT})?{_UNIT}?|(?:的)?间距(?:是|有)?(?:多少|多大)?)"
    for pattern in (
        rf"(?P<a>.+?)(?:离|距离|距|到|至)(?P<b>.+?)(?:之间)?{far}",
        rf"(?:从|由)?(?P<a>.+?)(?:和|与|跟|同|到|至)(?P<b>.+?)(?:之间)?(?:的)?{far}",
    ):
        if (found := re.fullmatch(pattern, text)) and found["b"] not in ("", "有"):
            with suppress(_NoName):
                return _between_two(found["a"], found["b"])
    if found := re.fullmatch(rf"(?:到|离)?(?P<a>.+?)(?:的)?{far}", text):
        return Understood("distance", (_name(found["a"]),))
    return None


def _between_two(a: str, b: str) -> Understood:
    for one, other in ((a, b), (b, a)):
        if _CAMERA.match(other):
            return Understood("distance", (_name(one),))
        if _ROBOT.match(other):
            return Understood("distance", (_name(one),), "robot")
    return Understood("distance", (_name(a), _name(b)))


def _size(text: str) -> Understood | None:
    for ask, (word, noun) in _SIZES.items():
        for pattern in (
            rf"(?:桌子?上的?)?(?P<a>.+?)(?:大概|大约|到底|究竟)?(?:有|是)?多{word}",
            rf"(?P<a>.+?)(?:有|是)?{_MANY}{_UNIT}{word}",
            rf"(?P<a>.+?){word}{_MANY}(?:{_UNIT})?",
            rf"(?P<a>.+?)(?:的)?(?:{noun})(?:是|有)?(?:多少|多{word}|什么|几{_UNIT})?(?:{_UNIT})?",
            rf"(?:多{word})(?:的)?(?P<a>.+)",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(_NoName):
                    return Understood(ask, (_name(re.sub(rf"^{_HERE_IN}的?", "", found["a"]) or found["a"]),))
    return None


def _fits(text: str) -> Understood | None:
    can = r"(?:能不能够?|可不可以|是不是能|是否能够?|是否可以|能否|能够|可以|能|会不会|可|够不够)"
    put = r"(?:放得进|装得进|塞得进|放得下|装得下|放得到|放不放得进|装不装得下|放进去?|放入|装进|装入|塞进|塞入|放到|放在|放|装|进入|进)"
    end = r"(?:里面|里边|里头|里|中|内|去|当中)*"
    for pattern in (
        rf"(?:把)?(?P<a>.+?){can}{put}(?P<b>.+?){end}",
        rf"{can}(?:把)(?P<a>.+?){put}(?P<b>.+?){end}",
        rf"(?P<a>.+?)(?:放得进|装得进|塞得进|放得下|放不放得进|装不装得进)(?P<b>.+?){end}",
        rf"(?P<b>.+?){end}{can}?(?:装得下|放得下|容得下|装不装得下|放不放得下|容纳得下|容纳|装下|放下|放进|装进|装|放)(?P<a>.+)",
        rf"(?P<b>.+?)(?:够不够大|够大|足够大)[，,]?(?:{can})?(?:放得?下?|装得?下?|容纳)(?P<a>.+)",
        rf"(?P<b>.*(?:夹爪|夹子|机械手|机器人|爪子).*?){can}?(?:抓得住|夹得住|夹住|抓住|抓起|抓得起|抓|夹|握住)(?P<a>.+)",
        r"(?P<a>.+?)(?:对|对于)(?P<b>.+?)(?:来说|而言)(?:是不是|是否)?(?:太|过)(?:大|宽|长|高)(?:了)?",
    ):
        if found := re.fullmatch(pattern, text):
            try:
                a, b = (
                    _name(found["a"]),
                    "gripper" if _GRIPPER.search(found["b"]) or _ROBOT.match(found["b"]) else _name(found["b"]),
                )
            except _NoName:
                continue
            return Understood("fits", (a, b))
    return None


def _closest(text: str) -> Understood | None:
    for ask, word in (("nearest", "近|靠近|接近"), ("farthest", "远")):
        to = r"(?:(?:离|距离|距|跟|和|与)(?P<b>.+?))"
        which = rf"(?P<a>(?:{_WHAT})(?:{_MEASURE_WORD})?[^离距跟和与最]*?)"
        for pattern in (
            rf"{which}{to}?(?:是)?最(?:{word})(?:的)?",
            rf"{to}?最(?:{word})(?:的)?(?P<a>[^是]*?)(?:是|有)?(?:{_WHAT})?(?:{_MEASURE_WORD})?(?:物体|东西|物品)?",
            rf"(?:找到?|指出|说出)?{to}最(?:{word})(?:的)?(?P<a>.*)",
            rf"最(?:靠近|接近)(?P<b>.+?)(?:的)?(?P<a>[^是的]*?)(?:是)(?:{_WHAT})(?:{_MEASURE_WORD})?(?:物体|东西|物品)?",
        ):
            if found := re.fullmatch(pattern, text):
                groups = found.groupdict()
                a = re.sub(rf"^(?:{_WHAT})(?:{_MEASURE_WORD})?", "", groups["a"] or "")
                with suppress(_NoName):
                    a, b = _name(a, THING), groups.get("b")
                    if b is None or _CAMERA.match(b):
                        return Understood(ask, (a,))
                    return Understood(ask, (a,), "robot") if _ROBOT.match(b) else Understood(ask, (a, _name(b)))
    return None


def _extreme(text: str) -> Understood | None:
    for ask, side in (("leftmost", "左"), ("rightmost", "右")):
        most = rf"(?:最(?:靠)?{side}{_SIDE})"
        for pattern in (
            rf"(?P<a>(?:{_WHAT})(?:{_MEASURE_WORD})?[^最]*?)(?:在|位于|是)?{most}(?:的)?",
            rf"{most}(?:的)?(?P<a>[^是]*?)(?:是|有)?(?:{_WHAT})?(?:{_MEASURE_WORD})?(?:物体|东西|物品)?",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(_NoName):
                    return Understood(
                        ask, (_name(re.sub(rf"^(?:{_WHAT})(?:{_MEASURE_WORD})?", "", found["a"]), THING),)
                    )
    return None


def _look(text: str) -> Understood | None:
    """What looking answers: colours, dials, words."""
    for pattern in (
        r"(?P<a>.+?)(?:是|有|属于)?(?:什么|啥|哪种|哪个|何种)(?:样的)?(?:颜色|色)(?:的)?",
        r"(?P<a>.+?)的颜色(?:是)?(?:什么|啥|哪种)?",
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(_NoName):
                return Understood("colour", (_name(re.sub(rf"^{_HERE_IN}的?", "", found["a"]) or found["a"]),))
    gauge = r"(?P<a>[^，]*?(?:仪表盘?|压力表|表盘|温度计|显示屏|表))"
    sign = r"(?P<a>[^，]*?(?:标牌|牌子|标志|告示|标签|招牌|海报))"
    for ask, thing in (("reading", gauge), ("text", sign)):
        for pattern in (
            rf"{thing}(?:上)?(?:面)?(?:显示)?(?:的)?(?:读数|示数|数值|数字|数|指数|值)(?:是|为)?(?:多少|几|什么)?",
            rf"{thing}(?:上|上面)?(?:显示|指示|指着|指向|指到|写着|写了|写的是|写|印着|说|是|显示的是|显示着|的是)(?:了|着)?(?:多少|什么|几|啥)(?:字|内容|读数|数字|数)?",
            rf"(?:读|念|读出|读一下|念一下|读一读)(?:出|一下)?{thing}(?:上)?(?:的)?(?:字|内容|读数|示数|文字)?",
            rf"{thing}(?:上|上面)?(?:的|有|是)*(?:什么|哪些)?(?:字|文字|内容|读数)(?:是)?(?:什么|哪些)?",
            rf"{thing}(?:的)?(?:指针|示针)?(?:指)?(?:在|到|着|向)*(?:哪里|哪儿|哪|什么位置)"
            if ask == "reading"
            else "(?!)(?P<a>)",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(_NoName):
                    return Understood(ask, (_name(re.sub(rf"^{_HERE_IN}的?", "", found["a"]) or found["a"]),))
    return None


def _where(text: str) -> Understood | None:
    bare = _without_here(text)
    where = r"(?:哪里|哪儿|哪边|哪个位置|哪个地方|哪块|哪|什么地方|什么位置|何处|什么方位|哪个方位)"
    for pattern in (
        rf"(?P<a>.+?)(?:现在|被|都|到底|究竟)*(?:{_IN}|放|去|跑)(?:了|到|在)?(?:桌子上的?|桌上的?|桌子的?)?{where}(?:了)?",
        rf"{where}(?:能|可以)?(?:有|找到|看到|看见|是)(?P<a>.+)",
        rf"(?:{_IN})?{where}(?:能|可以)(?:找到|看到|看见)(?P<a>.+)",
        r"(?:我)?(?:在|要|想|需要)?(?:找到|找出|找|指出|定位|寻找|指一下|指给我看)(?:一下|找)?(?P<a>.+?)(?:在哪里|的位置)?",
        r"(?P<a>.+?)(?:的|所在的?)(?:位置|方位|地方|坐标)(?:是|在)?(?:哪里|哪儿|哪|什么|多少)?",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(_NoName):
                return Understood(
                    "where", (_name(found["a"]),), several=bool(re.match(r"(?:这些|那些|所有|全部)", found["a"]))
                )
    return None


def _without_here(text: str) -> str:
    """Without 桌子上, 画面中 before or after."""
    return re.sub(rf"^{_HERE_IN}(?:的)?(?=.)", "", text)


def _related(text: str) -> Understood | None:
    """A relation of two things, or of whatever stands in it."""
    truly = r"(?:真的|确实|现在)?"
    is_in = rf"(?:是不是|是否|到底|应该|会|是)*{truly}(?:不是)?{_IN}(?:不在|没在)?"
    text = re.sub(r"^(?:你)?(?:能|可以)?(?:看到|看见)(?:了)?(?=.+(?:什么|哪|啥))", "", text)
    things = rf"(?:{_WHAT}|几{_MEASURE_WORD})(?:{_MEASURE_WORD})?(?:东西|物体|物品)?"
    for pattern, several in (
        (rf"(?P<a>{things}|有什么(?:东西|物体)?)(?:是)?{_IN}(?P<b>.+?)(?:的)?{_REL}", True),
        (
            rf"(?:{_IN})?(?P<b>.+?)(?:的)?{_REL}(?:的)?(?P<a>[^的有是放摆]*?)(?:都)?{_HAVE}(?:{things}|没有)?(?P<x>)",
            True,
        ),
        (rf"(?:{_IN})?(?P<b>.+?)(?:的)?{_REL}(?:有没有|有没|有|是否有)(?P<a>.+)", None),
        (rf"(?:列出|说出|指出|找出)(?:所有|全部)?(?:{_IN})?(?P<b>.+?)(?:的)?{_REL}(?:的)?(?P<a>.+)", True),
        (rf"(?P<a>.+?){is_in}(?P<b>.+?)(?:的)?{_REL}", False),
        (rf"(?P<b>.+?)(?:的)?{_REL}(?:的)?(?:那个)?(?:是不是|是)(?P<a>[^什哪谁啥]+)", False),
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(_NoName):
                return _related_of(found, several)
    return None


def _related_of(found: re.Match, several: bool | None) -> Understood:
    relation = next(name for i, name in enumerate(_RELATIONS) if found[f"r{i}"])
    b = found["b"]
    if several is None and re.fullmatch(_HERE_IN, b):
        raise _NoName  # 桌子上有没有杯子 asks for a cup
    pair = re.split(r"(?:和|与|跟|同|、)", b, maxsplit=1)
    if relation in ("between", "in") and len(pair) == 2:
        relation, others = "between", tuple(map(_name, pair))
    else:
        others = (_name(b),)
    if relation == "between" and len(others) != 2:
        raise _NoName
    a = found["a"]
    if several is None:
        a = re.sub(rf"^(?:一)?(?:{_MEASURE_WORD})?", "", a)
        return Understood(relation, (_name(a, THING), *others), several=True)
    a = re.sub(r"^有什么", "什么", a)
    return Understood(relation, (_name(a, THING if several else None), *others), several=several)


def _count(text: str) -> Understood | None:
    bare = _without_here(text)
    for pattern in (
        rf"(?:一共|总共|共)?(?:能)?(?:有|看到|看见|放着|摆着)?(?:了)?{_MANY}(?:{_MEASURE_WORD})(?P<a>.*)",
        rf"(?P<a>.+?)(?:一共|总共|共)?(?:有|能看到)?{_MANY}(?:{_MEASURE_WORD})",
        r"(?:数一?数|数出|统计|清点)(?:一下)?(?:有)?(?:多少个?|几个)?(?P<a>.+?)(?:的)?(?:数量|个数|有几个|有多少个?)?",
        r"(?P<a>.+?)(?:的)?(?:数量|个数|数目)(?:是)?(?:多少|几)?",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(_NoName):
                return Understood("count", (_name(_without_here(found["a"]), THING),), several=True)
    return None


def _exists(text: str) -> Understood | None:
    bare = _without_here(text)
    see = r"(?:(?:你)?(?:能不能|能|可以)?(?:看见|看到|看得到|看得见|见到|找到))"
    for pattern in (
        rf"(?:这里|那里|我们)?(?:是不是|是否|到底)?(?:还)?(?:有没有|有无|存在|存不存在|有){_MEASURE_WORD}?(?P<a>.+)",
        rf"{see}(?:了)?{_MEASURE_WORD}?(?P<a>.+?)(?:了)?(?:没有)?",
        r"(?P<a>.+?)(?:存在|在场|在这里|在不在|在)",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(_NoName):
                if re.match(_WHAT, found["a"]):
                    return None
                return Understood(
                    "exists", (_name(re.sub(rf"^一?{_MEASURE_WORD}", "", _without_here(found["a"]))),), several=True
                )
    return None


def _list(text: str) -> Understood | None:
    what = rf"(?:{_WHAT})(?:{_MEASURE_WORD})?(?:物体|东西|物品)?"
    if re.fullmatch(
        rf"(?:{_HERE_IN}|这里|那里)?(?:都|你)?(?:有|是|能)?(?:看见|看到|看得到|放着|摆着|放了|有)?(?:了)?(?:些)?{what}"
        rf"|(?:描述|列出|说出|列举|介绍)(?:一下)?(?:所有|全部)?(?:{_HERE_IN})?(?:的)?(?:所有|全部)?(?:物体|东西|物品|内容)?",
        text,
    ):
        return Understood("list", (THING,), several=True)
    return None
