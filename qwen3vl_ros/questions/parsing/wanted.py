"""What the objects of an answer should look like: the one thing a question tells the parsers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

LABEL_KEYS = (
    *("label", "name", "class", "classname", "category", "categoryname", "object", "objectname", "target", "ref"),
    *("phrase", "text", "textcontent", "description", "type", "title", "alt"),
    *("标签", "名称", "名字", "类别", "物体", "目标", "对象"),
)
TEXT_KEYS = ("textcontent", "text", "content", "transcription", "value", "label", "文本", "文字", "内容")

_ARTICLE = re.compile(r"^(?:the|a|an) ")
_SEPARATORS = re.compile(r"[\s_\-]+")
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_FIRST_MARK = 0xE000  # of Unicode's private use area


@dataclass(frozen=True)
class Wanted:
    """numbers: how many coordinates an object has: 4 a box, 2 a point, 9 a 3D box. targets: what was asked for.

    label_keys: names of the label, best first. labels: "phrase", what an object is called; or "text", a line that is
    written there, which no object may lack and which is never corrected. prose: the answer is words first, and objects
    in it are welcome; else it is objects, or says that there are none.
    """

    numbers: tuple[int, ...]
    targets: tuple[str, ...] = ()
    label_keys: tuple[str, ...] = LABEL_KEYS
    labels: str = "phrase"
    prose: bool = False

    def target(self, said: str) -> str | None:
        """The target that was said, whatever its case, article, hyphens and white space; None where it is none."""
        return self._by_core.get(core(said.strip("\"'`.。 ")))

    def target_ending(self, text: str) -> str | None:
        """The longest target that the text ends with."""
        said = core(text)
        ending = [
            t for name, t in self._by_core.items() if said.endswith(name) and not said[: -len(name)][-1:].isalnum()
        ]
        return max(ending, key=len, default=None)

    @cached_property
    def language(self) -> str:
        """Of the request: "zh" where a target has a Chinese character, else "en"; "" without targets."""
        if not self.targets:
            return ""
        return "zh" if any(is_chinese(t) for t in self.targets) else "en"

    def marked(self, text: str) -> str:
        """The text in lower case, with a character of its own for each target that it names (`mark`).

        What then denies, denies for itself: not as a part of a name, as in "no smoking sign" or "不锈钢杯".
        """
        text = text.lower()
        for pattern, mark in self._patterns:
            text = pattern.sub(mark, text)
        return text

    def mark(self, target: str) -> str:
        return chr(_FIRST_MARK + self.targets.index(target))

    @cached_property
    def marks(self) -> str:
        """The characters that stand for targets in a marked text."""
        return "".join(self.mark(t) for t in self.targets)

    @cached_property
    def _by_core(self) -> dict[str, str]:
        return {core(t): t for t in reversed(self.targets)}

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern, str]]:
        longest_first = sorted(self.targets, key=len, reverse=True)
        return [(_phrase(core(t)), self.mark(t)) for t in longest_first]


def is_chinese(text: str) -> bool:
    """Whether the text has a Chinese character."""
    return _CHINESE.search(text) is not None


@lru_cache(maxsize=1024)
def core(phrase: str) -> str:
    """The phrase without case, article, and what separates its words."""
    words = _SEPARATORS.sub(" ", phrase.lower()).strip()
    return _ARTICLE.sub("", words, count=1) or phrase


def _phrase(words: str) -> re.Pattern:
    """The phrase in a text, in singular or plural; Latin words only as whole ones."""
    ends_latin = words[-1:].isascii() and words[-1:].isalpha()
    stem = words[:-1] if ends_latin and re.search(r"[^s]s$", words) else words
    written = r"[\s_\-]+".join(map(re.escape, stem.split()))
    if ends_latin:
        written += r"(?:e?s)?(?![a-z])"
    if words[:1].isascii() and words[:1].isalpha():
        written = r"(?<![a-z])" + written
    return re.compile(written)
