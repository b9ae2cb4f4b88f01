"""What a question in words asks for: the things to find, and the relation or quantity that is asked of them. No picture.

The relations and quantities are those that geometry measures, and what looking answers. Knows nothing of pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Sequence

from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.types import Answer, Generation, MalformedAnswer, View

RELATIONS = ("left of", "right of", "in front of", "behind", "above", "below", "on", "in", "next to", "between")
QUANTITIES = ("nearest", "farthest", "distance", "height", "width", "length", "size", "fits")
LOOKS = ("list", "where", "count", "exists", "leftmost", "rightmost", "colour", "reading", "text")
ASKS = (*RELATIONS, *QUANTITIES, *LOOKS, "unknown")
INSTRUCTION = (
    'Turn the question about a scene into JSON. "ask": what is asked, one of: '
    + ", ".join(ASKS)
    + '. "find": the things to look for, as the question names them, without articles; "object" or "物体" stands for any thing. '
    'Where the question cannot be answered by looking and measuring, "ask" is unknown and "find" empty. '
    "A pronoun means what was asked before.\n"
)
BEFORE, ASKED = "Asked before: ", "Question: "


class Understood(NamedTuple):
    """ask: one of ASKS. find: phrases, the subject first. view: whose left and front the question names, "viewer", "robot" or
    "object:<phrase>"; empty where it does not say. several: it asks of all that the subject fits, or of any."""

    ask: str
    find: tuple[str, ...]
    view: str = ""
    several: bool = False


@dataclass(frozen=True)
class Understand(Question):
    """What does `question` ask for? before: the question it follows on from. Answer.value is an Understood."""

    question: str
    before: str = ""
    name: ClassVar[str] = "understand"
    pictured: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "question", phrases.checked_question(self.question))
        if self.before:
            object.__setattr__(self, "before", phrases.checked_question(self.before))

    def prompt(self) -> str:
        before = f"{BEFORE}{self.before}\n" if self.before else ""
        return f"{INSTRUCTION}{before}{ASKED}{self.question}"

    def schema(self) -> dict[str, Any]:
        phrase = {"type": "string", "minLength": 1, "maxLength": 200}
        return {
            "type": "object",
            "properties": {
                "ask": {"type": "string", "enum": list(ASKS)},
                "find": {"type": "array", "items": phrase, "maxItems": 4},
            },
            "required": ["ask", "find"],
            "additionalProperties": False,
        }

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        text = said.text.strip()
        try:
            found = json.loads(text[text.index("{") : text.rindex("}") + 1])
            ask, find = found["ask"], found["find"]
        except (ValueError, KeyError, TypeError):
            raise MalformedAnswer(f'the answer is no JSON object with "ask" and "find": {text[:80]!r}', text) from None
        if ask not in ASKS or not isinstance(find, list) or not all(isinstance(f, str) and f.strip() for f in find):
            raise MalformedAnswer(f'"ask" must be one of {", ".join(ASKS)} and "find" phrases: {text[:80]!r}', text)
        return Answer(value=Understood(ask, tuple(f.strip() for f in find)))
