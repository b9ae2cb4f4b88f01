"""What the objects of an answer are called.

A label is never guessed: of several it is the one that stands with its object; of several languages the one that fits a
target or is the request's; where lists of boxes and labels have unequal lengths, the boxes stay without. Knows nothing of
coordinates.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Sequence

from qwen3vl_ros.questions.parsing import keys
from qwen3vl_ros.questions.parsing.fields import Field, Text
from qwen3vl_ros.questions.parsing.shapes import is_geometry
from qwen3vl_ros.questions.parsing.tolerant_json import Object
from qwen3vl_ros.questions.parsing.wanted import Wanted, is_chinese

MAX_CHARS = 1000
_PLACEHOLDER = re.compile(r"(?:point|object|label|category|bbox|box)?[ _]?\d*", re.IGNORECASE)
_TWO_NAMES = re.compile(
    r"\s*[/|()（）\[\]【】]\s*|\s+[-–—]\s+|(?<=[\u3400-\u9fff])\s+(?=[A-Za-z])|(?<=[A-Za-z])\s+(?=[\u3400-\u9fff])"
)
_SEVERAL_NAMES = re.compile(r"\s*[,，、;；]\s*|\s+and\s+|和")


@dataclass(frozen=True, eq=False)
class Name:
    """text: what the object is called, "" where it stays unnamed. span: its characters in the answer, if it was said there.

    said: the label as it was said, where `text` is the target that it names.
    """

    text: str
    span: tuple[int, int] | None = None
    said: str = ""


UNNAMED = Name("")


@dataclass(frozen=True, eq=False)
class Said:
    """What one field, or an object that is its value, says of names. language: as in `keys.named_by`.

    texts: one for each object where they were `listed`, else one for all. cut: the answer ended inside.
    """

    language: str
    texts: tuple[Text | None, ...]
    listed: bool = False
    cut: bool = False


class Labels:
    """The names that objects of one answer say. objects: all of them. mended: counts what could not be told."""

    def __init__(self, objects: Sequence[Object], wanted: Wanted, mended: Counter[str]):
        self._wanted, self._mended = wanted, mended
        self._inside: dict[int, list[Object]] = {}
        for obj in objects:
            if obj.within is not None and keys.named_by(obj.within.key, wanted.label_keys) and self._only_names(obj):
                self._inside.setdefault(id(obj.within), []).append(obj)
        self._names = {id(obj) for inside in self._inside.values() for obj in inside}

    def is_name(self, obj: Object) -> bool:
        """Whether the object is the value of another one's label: {"label": {"zh": "杯子", "en": "mug"}}."""
        return id(obj) in self._names

    def fields(self, obj: Object) -> list[list[Field]]:
        """The fields that say the object's name: those under its best label key, then those of each language."""
        by_key: dict[str, list[Field]] = {}
        ranked: list[tuple[int, Field]] = []
        for f in obj.fields:
            if (named := self._named(f)) and not (f.kind == "numbers" and is_geometry(f)):
                if named[1]:
                    by_key.setdefault(keys.plain(f.key), []).append(f)
                else:
                    ranked.append((self._wanted.label_keys.index(named[0]), f))
        first = min((rank for rank, _ in ranked), default=0)
        best = [f for rank, f in ranked if rank == first]
        languages = [] if self._wanted.labels == "text" else list(by_key.values())
        return [best] * bool(best) + languages

    def said(self, fields: Sequence[Field]) -> list[Said]:
        """What an object's fields, one under each key, say of its name."""
        return [
            Said(s.language or self._named(f)[1], s.texts, s.listed, s.cut) for f in fields for s in self._said_by(f)
        ]

    def names(self, said: Sequence[Said], n: int) -> list[Name | None]:
        """The names of n objects that stand together; None where nothing is said of one, UNNAMED where it cannot be told."""
        if not said:
            return [None] * n
        said = [self._split(s, n) for s in said]
        if n == 1 and len(said) == 1 and said[0].listed and len(said[0].texts) > 1:
            said = self._translations(said[0])
        unequal = next((s for s in said if s.listed and len(s.texts) != n), None)
        if unequal is not None:
            self._mended[f"{len(unequal.texts)} labels for {n} objects, none of them taken"] += 1
            return [UNNAMED] * n
        return [self._best([(s.language, s.texts[i if s.listed else 0], s.cut) for s in said]) for i in range(n)]

    # -- what was said ------------------------------------------------------------------------------------------------

    def _only_names(self, obj: Object) -> bool:
        return not obj.children and not any(map(is_geometry, obj.fields)) and any(map(self._named, obj.fields))

    def _named(self, f: Field) -> tuple[str, str] | None:
        """As keys.named_by. An object is a name where it holds names alone, a language's code where text follows."""
        named = keys.named_by(f.key, self._wanted.label_keys)
        if named is None or f.kind in ("empty", "bad") or (f.kind == "open" and id(f) not in self._inside):
            return None
        return named if named[0] or f.kind == "text" else None

    def _said_by(self, f: Field) -> list[Said]:
        if f.kind == "open":
            return self._said_inside(self._inside.get(id(f), []))
        if f.texts:
            return [Said("", f.texts, listed=True, cut=f.cut)]
        if f.kind == "empty" or not f.text.strip():
            return []
        return [Said("", (Text(f.text, f.start, f.end),), cut=f.cut)]

    def _said_inside(self, inside: list[Object]) -> list[Said]:
        """Names in objects: of one in several languages, or of a list of one object each."""
        each = [self.said([f for f in obj.fields if self._named(f) and f.kind != "open"]) for obj in inside]
        if len(each) == 1:
            return each[0]
        best = [self._best([(s.language, s.texts[0], s.cut) for s in said]) for said in each]
        texts = tuple(Text(name.said, *name.span) if name and name.span else None for name in best)
        return [Said("", texts, listed=True)] if texts else []

    def _split(self, s: Said, n: int) -> Said:
        """One text that names n targets is as good as a list of them."""
        if s.listed or n < 2 or s.texts[0] is None:
            return s
        text = s.texts[0]
        parts = _SEVERAL_NAMES.split(text.value)
        if len(parts) != n or not all(self._wanted.target(part) for part in parts):
            return s
        return Said(s.language, tuple(Text(part, text.start, text.end) for part in parts), listed=True)

    def _translations(self, s: Said) -> list[Said]:
        """A list of names for one object: the same name in English and in Chinese; else it cannot be told which."""
        chinese = {is_chinese(text.value): text for text in s.texts if text is not None}
        if len(s.texts) != 2 or len(chinese) != 2:
            return [s]
        return [Said("zh" if which else "en", (text,)) for which, text in chinese.items()]

    # -- which of it is the label -------------------------------------------------------------------------------------

    def _best(self, options: Sequence[tuple[str, Text | None, bool]]) -> Name | None:
        """Of (language, text, cut): the one that fits a target, or is in the request's language, or is said first."""
        names = [(language, name) for language, text, cut in options if text and (name := self._name(text, cut))]
        fitting = next((name for _, name in names if self._wanted.target(name.text)), None)
        asked = next((name for language, name in names if language and language == self._wanted.language), None)
        return fitting or asked or (names[0][1] if names else None)

    def _name(self, text: Text, cut: bool) -> Name | None:
        """The name that a text is; None when it is none, or is cut and could be several targets."""
        label, span, targets = _clean(text.value), (text.start, text.end), self._wanted.targets
        if not label:
            return None
        if self._wanted.labels == "text":
            return None if cut else Name(label, span)
        if cut:
            whole = [t for t in targets if t.lower().startswith(label.strip("` ").lower())]
            return Name(whole[0], span) if len(whole) == 1 else None
        if len(targets) == 1 and _PLACEHOLDER.fullmatch(label):
            return Name(targets[0], span)
        return Name(self._wanted.target(label) or self._in_two_languages(label) or label, span, label)

    def _in_two_languages(self, label: str) -> str | None:
        """The target in "杯子 (mug)": one name beside the same in another script."""
        parts = [part for part in _TWO_NAMES.split(label) if part]
        if len(parts) != 2 or is_chinese(parts[0]) == is_chinese(parts[1]):
            return None
        return next((target for part in parts if (target := self._wanted.target(part))), None)


def _clean(label: str) -> str:
    """One line of printable characters, which UTF-8 can always encode, cut where nobody would read on."""
    printable = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in label)
    return " ".join(printable.split())[:MAX_CHARS]
