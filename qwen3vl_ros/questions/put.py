"""What to take and where to put it: the boxes of an object and of the thing it goes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

from qwen3vl_ros.questions import phrases, schemas
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.questions.parsing.objects import read_objects
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, InvalidInput, View

ROLES = ("pick", "place")
# How each language says a relation between two names.
RELATIONS = {
    "en": {
        relation: f" {relation} the "
        for relation in ("in", "on", "next to", "to the left of", "to the right of", "in front of", "behind")
    },
    "zh": {
        "in": "里面",
        "on": "上面",
        "next to": "旁边",
        "to the left of": "左边",
        "to the right of": "右边",
        "in front of": "前面",
        "behind": "后面",
    },
}
TEMPLATES = {
    "en": "Put the {thing}{relation}{reference}. Report the bbox coordinates of the object to pick and of the place "
    "to put it in JSON format.",
    "zh": "把{thing}放在{reference}{relation}。请以JSON格式报告要抓取的物体和放置位置的bbox坐标。",
}


@dataclass(frozen=True)
class Put(Question):
    """Put `thing` in `relation` to `reference`. Two detections, labelled "pick" and "place".

    thing, reference: phrases in the question's language; relation: in English, one of `RELATIONS`.
    """

    thing: str
    relation: str
    reference: str
    language: str = "en"
    name: ClassVar[str] = "put"

    def __post_init__(self):
        if self.language not in TEMPLATES:
            raise InvalidInput(f"Put.language {self.language!r} is not one of {', '.join(TEMPLATES)}")
        if self.relation not in RELATIONS[self.language]:
            raise InvalidInput(f"Put.relation {self.relation!r} is not one of {', '.join(RELATIONS['en'])}")
        for field in ("thing", "reference"):
            (phrase,) = phrases.checked_targets((getattr(self, field),), self.name)
            object.__setattr__(self, field, phrase)

    def prompt(self) -> str:
        relation = RELATIONS[self.language][self.relation]
        return TEMPLATES[self.language].format(thing=self.thing, relation=relation, reference=self.reference)

    def schema(self) -> dict[str, Any]:
        return schemas.objects("bbox_2d", schemas.BOX, "label", {"type": "string", "enum": list(ROLES)})

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        return read_objects(said, Wanted((4,), ROLES), views[0])
