"""What the objects of an answer should look like: the one thing a question tells the parsers."""

from __future__ import annotations

from dataclasses import dataclass

LABEL_KEYS = (
    "label",
    "name",
    "class",
    "classname",
    "category",
    "categoryname",
    "object",
    "objectname",
    "target",
    "ref",
    "phrase",
    "text",
    "textcontent",
    "description",
    "type",
    "title",
)
TEXT_KEYS = ("textcontent", "text", "content", "transcription", "value", "label")


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
