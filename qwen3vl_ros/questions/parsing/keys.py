"""What the keys of an answer's objects mean: coordinates of which form, names in which language, statements of absence.

Models write one thing under many keys, in English and Chinese. Knows nothing of values.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Forms of coordinates. A PLACE says where something is, and its numbers say in which form; an OUTLINE is never an object.
BOX, POINT, KEYPOINT, PLACE, OUTLINE = "box", "point", "keypoint", "place", "outline"
_FORMS = {
    BOX: r"(?:bbox|box|boundingbox|bndbox|rect|rectangle)(?:e?s)?(?:[23]d)?(?:e?s)?(?:xyxy)?|xyxy|(?:边界|检测|包围)?框",
    POINT: r"point(?:s)?(?:2d)?(?:s)?|(?:cent(?:er|re)|centroid)(?:point)?(?:s)?(?:2d)?|中心点?|点",
    KEYPOINT: r"(?:key|land|corner)(?:point|mark)(?:s)?(?:2d)?(?:s)?|corner(?:s)?|关键点",
    PLACE: r"(?:coordinate|coord|location|position)(?:s)?(?:[23]d)?(?:xyxy)?|坐标|位置",
    OUTLINE: r"(?:polygon|segmentation|segment|mask|contour|outline|quad|quadrilateral|vert(?:ex|ice)|poly|rle)(?:s)?|轮廓|多边形",
}
_FORMS = {form: re.compile(pattern) for form, pattern in _FORMS.items()}

# Keys of two opposite corners, each with its pair of numbers.
OPPOSITE_CORNERS = (
    *(("topleft", "bottomright"), ("lefttop", "rightbottom"), ("upperleft", "lowerright"), ("tl", "br")),
    *(("min", "max"), ("start", "end"), ("左上", "右下"), ("左上角", "右下角")),
)
_CORNERS = {key for pair in OPPOSITE_CORNERS for key in pair}

_LANGUAGES = {
    "en": "en|eng|enus|engb|english|英文名?|英语",
    "zh": "zh|zho|cn|ch|chs|cht|zhcn|zhtw|zhhans|zhhant|chinese|中文名?|汉语",
    "other": "ja|jp|japanese|ko|kr|korean|fr|french|de|german|es|spanish|it|pt|ru|russian|ar|vi|th",
}
_LANGUAGE = {code: re.compile(pattern) for code, pattern in _LANGUAGES.items()}

_TRUE_DENIES = {
    "absent",
    "isabsent",
    "missing",
    "ismissing",
    "notfound",
    "notpresent",
    "notvisible",
    "notdetected",
    "不存在",
}
_FALSE_DENIES = {
    *(
        "present",
        "exist",
        "exists",
        "existing",
        "found",
        "visible",
        "detected",
        "inimage",
        "inpicture",
        "match",
        "matches",
    ),
    *("ispresent", "isfound", "isvisible", "isdetected", "ismatch", "存在", "是否存在", "可见", "是否可见", "检测到"),
}
# What holds all objects of an answer: {"objects": "none"} says that there are none, {"detail": "Not Found"} does not.
_ALL = {
    *(
        "object",
        "objects",
        "detection",
        "detections",
        "instance",
        "instances",
        "item",
        "items",
        "match",
        "matches",
        "target",
    ),
    *("targets", "result", "results", "answer", "output", "response", "结果", "物体", "目标"),
}
_ZERO_DENIES = {"count", "num", "number", "quantity", "数量", "个数"}
_WORD_DENIES = {"status", "state", "presence", "existence", "availability", "状态"}


@lru_cache(maxsize=1024)
def indexed(key: str) -> tuple[str, str]:
    """(key without case, separators and trailing index, that index): "BBox_2D-3" -> ("bbox2d", "3")."""
    key = re.sub(r"[\W_]", "", key[:48].lower())
    match = re.fullmatch(r"(.*?(?:[23]d)?)(\d*)", key)
    return match.group(1), match.group(2)


def plain(key: str) -> str:
    """The key without case, separators and trailing index."""
    return indexed(key)[0]


@lru_cache(maxsize=1024)
def form_of(key: str) -> str:
    """The form of coordinates that the key names, "" where it names none."""
    if plain(key) in _CORNERS:
        return OUTLINE
    return next((form for form, pattern in _FORMS.items() if pattern.fullmatch(plain(key))), "")


@lru_cache(maxsize=4096)
def named_by(key: str, label_keys: tuple[str, ...]) -> tuple[str, str] | None:
    """(label key, language) where the key is one of `label_keys`, in the plural, or of a language ("name_en"); else None.

    language: "en", "zh", "other", or "" where the key says none. A language alone ("zh") is the label key "".
    """
    key = plain(key)
    singular = next((k for k in label_keys if key in _plurals(k)), None)
    if singular is not None:
        return singular, ""
    for code, language in _LANGUAGE.items():
        if language.fullmatch(key):
            return "", code
        for label_key in label_keys:
            before, after = key.removesuffix(label_key), key.removeprefix(label_key)
            if any(part != key and language.fullmatch(part) for part in (before, after)):
                return label_key, code
    return None


def _plurals(word: str) -> tuple[str, ...]:
    ending = f"{word[:-1]}ies" if word.endswith("y") else f"{word}es"
    return word, f"{word}s", ending


@lru_cache(maxsize=1024)
def denied_by(key: str) -> str:
    """What value under the key says that the object is not there: "true", "false", "zero", "words"; "" for none."""
    key = plain(key)
    kinds = {"true": _TRUE_DENIES, "false": _FALSE_DENIES, "zero": _ZERO_DENIES, "words": _WORD_DENIES}
    return next((kind for kind, names in kinds.items() if key in names), "")


def holds_all(key: str) -> bool:
    """Whether the value under the key is all that an answer found."""
    return plain(key) in _ALL
