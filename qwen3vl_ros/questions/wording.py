"""Sentences that say what was found and measured, in English and Chinese; and whether another's sentence says the same.

One `Said` is what an answer has to say, whatever the words. Knows nothing of how it was measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwen3vl_ros.questions.aliases import in_chinese
from qwen3vl_ros.questions.understand import QUANTITIES, RELATIONS, Understood

_EN = {
    "left of": "to the left of",
    "right of": "to the right of",
    "next to": "next to",
    "height": "tall",
    "width": "wide",
    "length": "long",
    "size": "long, wide and high",
}
_ZH = {
    "left of": "左边",
    "right of": "右边",
    "in front of": "前面",
    "behind": "后面",
    "above": "上方",
    "below": "下方",
    "on": "上面",
    "in": "里面",
    "next to": "旁边",
    "between": "之间",
    "height": "高",
    "width": "宽",
    "length": "长",
    "size": "长、宽、高",
}
_PLACES_EN = {"top side": "far side", "bottom side": "near side"}
_PLACES_ZH = {
    "top left corner": "左上角",
    "top right corner": "右上角",
    "bottom left corner": "左下角",
    "bottom right corner": "右下角",
    "middle": "中间",
    "left side": "左侧",
    "right side": "右侧",
    "top side": "远端",
    "bottom side": "近端",
}
_VIEWS = {"en": {"robot": "seen from the robot"}, "zh": {"robot": "从机器人看"}}
# What a reason of an UNKNOWN is about -> how Chinese says it; the first that occurs in the reason.
_REASONS_ZH = (
    ("image shows them the other way", "图像中的顺序与测得的顺序相反（{reason}）"),
    ("is its front", "不知道哪一面是它的正面"),
    ("too close to tell", "相差太小，测不出来（{reason}）"),
    ("no inside", "没有测到它的内部"),
    ("robot's base", "不知道机器人底座在哪里"),
    ("not measured", "看到了，但没有测到（{reason}）"),
    ("nothing known is called", "没有找到"),
)


@dataclass(frozen=True)
class Said:
    """What is to be said. kind: "yes_no", "which", "number", "count", "exists", "place" or "absent", "ambiguous", "blind".

    truth: None for unknown. names: of what answers, or of the things that a name fits. numbers_m: metres, the main one first.
    place: a place of geometry's on `support`, or "on"/"in". far_m: how far away, None where it was not measured. reason: why not.
    """

    kind: str
    truth: bool | None = None
    names: tuple[str, ...] = ()
    numbers_m: tuple[float, ...] = ()
    count: int = 0
    place: str = ""
    support: str = ""
    far_m: float | None = None
    reason: str = ""
    view: str = ""


def metres(value: float) -> str:
    return f"{value:.2f} m" if value >= 0.995 else f"{100 * value:.1f} cm"


def sentence(language: str, asked: Understood, said: Said) -> str:
    """The answer to a question in words; language: "en" or "zh"."""
    text = (_chinese if language == "zh" else _english)(asked, said)
    view = _VIEWS[language].get(said.view, "")
    if not view:
        return text
    return f"{text[:-1]}, {view}." if language == "en" else f"{view}，{text}"


def line(asked: Understood, said: Said) -> str:
    """The value of a fact as a prompt has it (questions.tell.fact_line)."""
    if said.kind in ("yes_no", "exists"):
        return {True: "true", False: "false", None: "unknown"}[said.truth]
    if said.kind == "count":
        return str(said.count)
    if said.kind == "which":
        return ", ".join(said.names) or "nothing"
    if said.kind == "number" and said.numbers_m:
        return (
            f"{said.numbers_m[0]:.3f} m"
            if asked.ask != "size"
            else " x ".join(f"{n:.3f}" for n in said.numbers_m) + " m"
        )
    if said.kind == "place" and said.place:
        return f"{said.place} {said.support}" if said.place in ("on", "in") else f"{said.place} of the {said.support}"
    return "unknown"


# -- English -------------------------------------------------------------------------------------------------------------------


def _english(asked: Understood, said: Said) -> str:
    ask, find = asked.ask, asked.find
    a, b = _the(find[0]) if find else "", _the(find[-1]) if find else ""
    words = _EN.get(ask, ask)
    if said.kind == "absent":
        return f"I do not see {_listed([_a(n) for n in said.names], 'or')}."
    if said.kind == "ambiguous":
        which = "; ".join(said.names)
        return f"{said.count} things here could be {a if said.support == '' else _the(said.support)}: {which}. Which one do you mean?"
    if said.kind == "blind":
        return f"I cannot measure that: {said.reason}."
    if said.kind == "yes_no":
        if ask == "between":
            b = f"{_the(find[1])} and {_the(find[2])}"
        if ask == "fits":
            into = "between the jaws of the gripper" if find[-1] == "gripper" else f"into {b}"
            body = {
                True: f"Yes, {a} fits {into}",
                False: f"No, {a} does not fit {into}",
                None: f"I cannot tell whether {a} fits {into}",
            }[said.truth]
        else:
            state = {
                True: f"Yes, {a} is {words} {b}",
                False: f"No, {a} is not {words} {b}",
                None: f"I cannot tell whether {a} is {words} {b}",
            }
            body = state[said.truth]
        return body + (f": {said.reason}" if said.reason else "") + "."
    if said.kind == "exists":
        return f"Yes, there is {_a(find[0])}." if said.truth else f"No, there is no {find[0]}."
    if said.kind == "count":
        return f"There {'is' if said.count == 1 else 'are'} {said.count or 'no'} {find[0] if said.count == 1 else _plural(find[0])}."
    if said.kind == "number":
        if not said.numbers_m:
            about = (
                f"how far {a} is" + (f" from {b}" if len(find) > 1 else "")
                if ask == "distance"
                else f"how large {a} is"
            )
            return f"I cannot tell {about}: {said.reason}."
        if ask == "distance":
            return f"{_upper(a)} is {metres(said.numbers_m[0])} " + (f"from {b}." if len(find) > 1 else "away.")
        if ask == "size":
            long, wide, high = map(metres, said.numbers_m[:3])
            return f"{_upper(a)} is {long} long, {wide} wide and {high} tall."
        return f"{_upper(a)} is {metres(said.numbers_m[0])} {words}."
    if said.kind == "which":
        return _english_which(asked, said)
    if not said.place:
        if said.far_m is not None:
            return f"{_upper(a)} is {metres(said.far_m)} away, but I cannot tell what it stands on: {said.reason}."
        return f"I see {a}, but I cannot tell where it is: {said.reason}."
    at = (
        f"{said.place} {_the(said.support)}"
        if said.place in ("on", "in")
        else f"{'in' if said.place == 'middle' else 'at'} the {_PLACES_EN.get(said.place, said.place)} of {_the(said.support)}"
    )
    return f"{_upper(a)} is {at}" + (f", {metres(said.far_m)} away" if said.far_m is not None else "") + "."


def _english_which(asked: Understood, said: Said) -> str:
    ask, find, names = asked.ask, asked.find, list(said.names)
    if ask in ("nearest", "farthest", "leftmost", "rightmost"):
        most = {"nearest": "nearest to", "farthest": "farthest from"}.get(ask, f"the {ask}")
        to = (
            (_the(find[1]) if len(find) > 1 else "the robot" if said.view == "robot" else "the camera")
            if ask in ("nearest", "farthest")
            else ""
        )
        if not names:
            return f"I cannot tell which {find[0]} is {f'{most} {to}'.strip()}: {said.reason}."
        far = f", {metres(said.far_m)} away" if said.far_m is not None else ""
        return f"{_upper(_the(names[0]))} is {f'{most} {to}'.strip()}{far}."
    if ask == "list":
        return f"I see {_listed([_a(n) for n in names])}." if names else "I see nothing that I look for."
    at = f"{_EN.get(ask, ask)} " + (f"{_the(find[1])} and {_the(find[2])}" if ask == "between" else _the(find[-1]))
    unsure = f" I cannot tell of {_listed([_the(n) for n in said.reason.split('; ')])}." if said.reason else ""
    if not names:
        what = "Nothing that I see" if find[0] in ("object", "物体") else f"No {find[0]}"
        return f"{what} is {at}.{unsure}"
    return f"{_upper(_listed([_a(n) for n in names]))} {'are' if len(names) > 1 else 'is'} {at}.{unsure}"


def _the(name: str) -> str:
    return name if re.search(r" level \d+$", name) else f"the {name}"


def _a(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plural(name: str) -> str:
    return name + ("es" if name.endswith(("s", "x", "sh", "ch")) else "s")


def _listed(names: list[str], joint: str = "and") -> str:
    return f"{', '.join(names[:-1])} {joint} {names[-1]}" if len(names) > 1 else "".join(names)


# -- Chinese -------------------------------------------------------------------------------------------------------------------


def metres_zh(value: float) -> str:
    return f"{value:.2f}米" if value >= 0.995 else f"{100 * value:.1f}厘米"


def _chinese(asked: Understood, said: Said) -> str:
    ask, find = asked.ask, tuple(in_chinese(n) for n in asked.find)
    a, b = (find[0], find[-1]) if find else ("", "")
    words, names = _ZH.get(ask, ""), [in_chinese(n) for n in said.names]
    reason = _reason_zh(said.reason)
    if said.kind == "absent":
        return f"没有看到{'或'.join(names)}。"
    if said.kind == "ambiguous":
        return f"有{said.count}个都可能是{in_chinese(said.support) or a}：{'；'.join(names)}。您指的是哪一个？"
    if said.kind == "blind":
        return f"无法测量：{reason}。"
    if said.kind == "yes_no":
        b = f"{find[1]}和{find[2]}" if ask == "between" else b
        if ask == "fits":
            into = "夹爪" if asked.find[-1] == "gripper" else b
            body = {
                True: f"可以，{a}能放进{into}",
                False: f"不行，{a}放不进{into}",
                None: f"无法确定{a}能不能放进{into}",
            }[said.truth]
        else:
            body = {
                True: f"是的，{a}在{b}{words}",
                False: f"不，{a}不在{b}{words}",
                None: f"无法确定{a}是不是在{b}{words}",
            }[said.truth]
        return body + (f"：{reason}" if said.reason and said.truth is None else "") + "。"
    if said.kind == "exists":
        return f"有，看到了{a}。" if said.truth else f"没有看到{a}。"
    if said.kind == "count":
        return f"有{said.count}个{a}。" if said.count else f"没有{a}。"
    if said.kind == "number":
        if not said.numbers_m:
            about = (
                f"{a}离{b}有多远"
                if ask == "distance" and len(find) > 1
                else f"{a}有多远"
                if ask == "distance"
                else f"{a}有多大"
            )
            return f"无法确定{about}：{reason}。"
        if ask == "distance":
            return (
                f"{a}离{b}{metres_zh(said.numbers_m[0])}。"
                if len(find) > 1
                else f"{a}离{'机器人' if said.view == 'robot' else '相机'}{metres_zh(said.numbers_m[0])}。"
            )
        if ask == "size":
            long, wide, high = map(metres_zh, said.numbers_m[:3])
            return f"{a}长{long}、宽{wide}、高{high}。"
        return f"{a}{words}{metres_zh(said.numbers_m[0])}。"
    if said.kind == "which":
        return _chinese_which(ask, asked.find, find, names, said, reason)
    if not said.place:
        if said.far_m is not None:
            return f"{a}离相机{metres_zh(said.far_m)}，但无法确定它放在什么上面：{reason}。"
        return f"看到了{a}，但无法确定它在哪里：{reason}。"
    far = f"，离相机{metres_zh(said.far_m)}" if said.far_m is not None else ""
    support = in_chinese(said.support)
    if said.place in ("on", "in"):
        return f"{a}在{support}{'上' if said.place == 'on' else '里'}{far}。"
    return f"{support}上有{a}，位于{_PLACES_ZH[said.place]}{far}。"


def _chinese_which(
    ask: str, asked: tuple[str, ...], find: tuple[str, ...], names: list[str], said: Said, reason: str
) -> str:
    b = f"{find[1]}和{find[2]}" if ask == "between" and len(find) > 2 else find[-1]
    if ask in ("nearest", "farthest"):
        to = find[1] if len(find) > 1 else "机器人" if said.view == "robot" else "相机"
        most = f"离{to}最{'近' if ask == 'nearest' else '远'}"
        far = f"，距离{metres_zh(said.far_m)}" if said.far_m is not None else ""
        return f"{names[0]}{most}{far}。" if names else f"无法确定哪个{find[0]}{most}：{reason}。"
    if ask in ("leftmost", "rightmost"):
        side = "左" if ask == "leftmost" else "右"
        return f"最{side}边的是{names[0]}。" if names else f"无法确定最{side}边的是哪个：{reason}。"
    if ask == "list":
        return f"看到了{'、'.join(names)}。" if names else "没有看到要找的东西。"
    unsure = f"无法确定的有：{said.reason.replace('; ', '、')}。" if said.reason else ""
    nothing = "什么也没有" if asked[0] in ("物体", "object") else f"没有{find[0]}"
    return (f"{b}{_ZH[ask]}有{'、'.join(names)}。" if names else f"{b}{_ZH[ask]}{nothing}。") + unsure


def _reason_zh(reason: str) -> str:
    return next((words.format(reason=reason) for sign, words in _REASONS_ZH if sign in reason), reason)


# -- whether somebody else's sentence says the same ----------------------------------------------------------------------------

_NUMBER = re.compile(
    r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)\s*(mm|cm|dm|m|millimet(?:re|er)s?|centimet(?:re|er)s?|met(?:re|er)s?|毫米|厘米|公分|米)(?![\w]*/)"
)
_UNITS = {
    "mm": 1e-3,
    "millim": 1e-3,
    "毫": 1e-3,
    "cm": 1e-2,
    "centim": 1e-2,
    "厘": 1e-2,
    "公": 1e-2,
    "dm": 0.1,
    "m": 1.0,
    "met": 1.0,
    "米": 1.0,
}
_YES = re.compile(r"^\W*(?:yes|是的|是，|是。|对|可以|能|有，|有。|有(?=.))", re.IGNORECASE)
_NO = re.compile(r"^\W*(?:no\b|不|没|nothing|none)", re.IGNORECASE)
_UNSURE = re.compile(
    r"cannot tell|can't tell|can not tell|unknown|not sure|unclear|cannot (?:say|know|determine)|无法|不能确定|不确定|未知|不知道",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:not|n't|no)\b|不在|放不|没有", re.IGNORECASE)


def contradiction(text: str, asked: Understood, said: Said, others: tuple[str, ...] = ()) -> tuple[bool, str]:
    """(whether a sentence says what was measured, how it contradicts that). ("", False and "") is a sentence that cannot be judged.

    others: names of known things that are not the answer.
    """
    told = [
        float(n) * next(f for u, f in _UNITS.items() if unit.lower().startswith(u)) for n, unit in _NUMBER.findall(text)
    ]
    known = [*said.numbers_m, *([said.far_m] if said.far_m is not None else [])]
    wrong = next((n for n in told if not any(abs(n - k) <= max(0.006, 0.02 * k) for k in known)), None)
    if wrong is not None and said.kind in ("number", "place", "which"):
        return False, f"it says {metres(wrong)}, measured was {metres(known[0]) if known else 'nothing'}"
    if said.kind == "place" and said.far_m is not None and not told:
        return False, ""  # true, but it leaves out the metres that were measured
    unsure = bool(_UNSURE.search(text))
    if said.kind in ("yes_no", "exists"):
        if said.truth is None:
            yes_no = bool(_YES.search(text) or _NO.search(text)) and not unsure
            return unsure, "it decides what cannot be told" if yes_no else ""
        if unsure:
            return False, "it is unsure of what was measured"
        yes, no = bool(_YES.search(text)), bool(_NO.search(text))
        if yes == no or yes != (not _NEGATION.search(text)):
            return False, ""
        return (
            (yes == said.truth),
            ""
            if yes == said.truth
            else f"it says {'yes' if yes else 'no'}, measured was {'yes' if said.truth else 'no'}",
        )
    if said.kind == "number":
        if not said.numbers_m:
            return unsure, "it has a number where none was measured" if told else ""
        return bool(told) and not unsure, ""
    if said.kind == "count":
        found = re.search(r"\d+", text)
        if not found:
            return False, ""
        return int(found[0]) == said.count, "" if int(
            found[0]
        ) == said.count else f"it says {found[0]}, {said.count} were found"
    if said.kind == "which":
        mentioned = [n for n in said.names if _mentions(text, n)]
        false = [n for n in others if _mentions(text, n) and not any(n in name for name in (*said.names, *asked.find))]
        if false:
            return False, f"it names {false[0]}, which is not so"
        return len(mentioned) == len(said.names) and bool(said.names), ""
    if said.kind == "place" and said.place:
        words = (
            (said.support, in_chinese(said.support))
            if said.place in ("on", "in")
            else (said.place, _PLACES_EN.get(said.place, said.place), _PLACES_ZH[said.place])
        )
        return any(_mentions(text, w) for w in words), ""
    return False, ""


def _mentions(text: str, name: str) -> bool:
    return name.lower() in text.lower()


assert set(_ZH) >= set(RELATIONS) and set(QUANTITIES) >= {"height", "width", "length", "size"}
