"""Everyday words for the same thing: where nothing is called a cup, it is looked for as a mug.

A model knows its own words. Each row is one thing, its names in both languages. Knows nothing of models.
"""

from __future__ import annotations

import re

_SAME = (
    ("mug", "cup", "coffee cup", "coffee mug", "teacup", "beaker"),
    ("box", "carton", "package", "case", "parcel", "crate"),
    ("cube", "block", "dice", "die", "brick"),
    ("ball", "sphere", "globe"),
    ("cylinder", "can", "tin", "tube", "drum"),
    ("bowl", "dish", "basin"),
    ("tray", "platter", "plate"),
    ("gauge", "dial", "meter", "pressure gauge", "manometer"),
    ("shelf", "rack", "bookshelf", "shelves"),
    ("sign", "notice", "label"),
    ("杯子", "水杯", "茶杯", "马克杯", "咖啡杯", "杯"),
    ("盒子", "箱子", "纸盒", "盒", "箱", "纸箱", "包裹"),
    ("立方体", "方块", "积木", "正方体", "骰子"),
    ("球", "圆球", "小球", "球体", "皮球"),
    ("圆柱体", "圆柱", "罐子", "罐头", "罐", "圆筒"),
    ("碗", "小碗", "饭碗", "大碗"),
    ("托盘", "盘子", "盘", "端盘"),
    ("仪表", "压力表", "表盘", "表", "仪表盘"),
    ("架子", "货架", "置物架", "书架"),
    ("标牌", "牌子", "标志", "标签"),
)
_MOVABLE = 7  # the first rows of each language are of things that are taken and put somewhere
_THINGS = {ascii_: [row for row in _SAME if row[0].isascii() is ascii_][:_MOVABLE] for ascii_ in (True, False)}
# Nouns of things; not of the furniture that orders mention in passing, nor of signs.
EVERYDAY = tuple(
    sorted(
        (n for rows in _THINGS.values() for row in rows for n in row if len(n) > 1 or n in "杯盒箱球碗盘罐"),
        key=len,
        reverse=True,
    )
)
# The first words of rows that mean the same, and colours: for sentences in Chinese about things that were found under an English name.
_CHINESE = dict(
    zip(
        (
            "mug",
            "box",
            "cube",
            "ball",
            "cylinder",
            "bowl",
            "tray",
            "gauge",
            "shelf",
            "sign",
            "table",
            "gripper",
            "object",
        ),
        ("杯子", "盒子", "立方体", "球", "圆柱体", "碗", "托盘", "仪表", "架子", "标牌", "桌子", "夹爪", "物体"),
    )
)
COLOURS = dict(
    zip(
        ("red", "green", "blue", "yellow", "orange", "purple", "white", "black", "grey", "pink", "brown"),
        ("红色", "绿色", "蓝色", "黄色", "橙色", "紫色", "白色", "黑色", "灰色", "粉色", "棕色"),
    )
)
COLOURS_ZH = "红绿蓝黄橙紫白黑灰粉棕"


def other_names(phrase: str) -> tuple[str, ...]:
    """The phrase with its noun exchanged for words of the same meaning, the commonest first; () where none is known."""
    head, noun = _split(phrase)
    for row in _SAME:
        if noun in row:
            return tuple(f"{head}{name}" for name in row if f"{head}{name}" != phrase)
    return (f"{head}{noun}",) if f"{head}{noun}" != phrase else ()


def in_chinese(name: str) -> str:
    """An everyday name as Chinese says it; any other stays as it is."""
    if level := re.fullmatch(r"(.+) level (\d+)", name):
        return f"{in_chinese(level[1])}第{level[2]}层"
    *colours, noun = name.lower().split(" ")
    if noun not in _CHINESE or any(c not in COLOURS for c in colours):
        return name
    return "".join(f"{COLOURS[c]}的" for c in colours) + _CHINESE[noun]


def in_english(name: str) -> str:
    """An everyday Chinese name as English says it; any other stays as it is."""
    head, noun = _split(name)
    nouns = {zh: en for en, zh in _CHINESE.items()}
    colours = {f"{zh}的": en for en, zh in COLOURS.items()}
    noun = next((row[0] for row in _SAME if noun in row), noun)
    if noun not in nouns or (head and head not in colours):
        return name
    return f"{colours[head]} {nouns[noun]}" if head else nouns[noun]


def common(noun: str) -> str:
    """The commonest word for what a noun means."""
    return next((row[0] for row in _SAME if noun in row), noun)


def rivals(phrase: str) -> tuple[str, ...]:
    """The phrase with its noun exchanged for those of other everyday things, in its language."""
    head, noun = _split(phrase)
    return tuple(f"{head}{row[0]}" for row in _THINGS[phrase.isascii()] if noun not in row)


def same_thing(a: str, b: str) -> bool:
    """Whether two phrases are one, but for the word that they use."""
    return a.casefold() == b.casefold() or b.casefold() in (name.casefold() for name in other_names(a))


def _split(phrase: str) -> tuple[str, str]:
    """What comes before the noun, as it stands before any noun, and the noun."""
    if short := re.fullmatch(rf"([{COLOURS_ZH}])(?!色)的?(.+)", phrase):
        return f"{short[1]}色的", short[2]
    if long := re.fullmatch(rf"([{COLOURS_ZH}]色)的?(.+)", phrase):
        return f"{long[1]}的", long[2]
    nouns = sorted((n for row in _SAME for n in row), key=len, reverse=True)
    noun = next((n for n in nouns if phrase.lower().endswith(" " + n)), None)
    return (phrase[: -len(noun)], phrase[-len(noun) :].lower()) if noun else ("", phrase.lower())
