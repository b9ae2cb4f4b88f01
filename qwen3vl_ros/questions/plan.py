"""What an instruction in words tells an arm to do: steps to pick, place and look, or a question back. No picture.

Which things are meant is looked up later, in a picture. Knows nothing of pictures or arms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Sequence

from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.types import Answer, Generation, MalformedAnswer, View

ACTIONS = ("pick", "place", "look")
# "back" is where the thing was before it was picked.
PLACES = ("on", "in", "next to", "left of", "right of", "in front of", "behind", "back")
MAX_STEPS = 6
INSTRUCTION = (
    'Turn the instruction for a robot arm into JSON. "steps": in their order, each with "action" (pick, place or look), "object", '
    'and for place "relation" (on, in, next to, left of, right of, in front of, behind, back) and "reference", else both empty. '
    'Name things as the instruction does, without articles; a pronoun means what was named before. "question": empty, or what '
    "to ask back where two of the seen things fit, none does, or an arm cannot do it; then there are no steps.\n"
)
SEEN, TOLD = "Seen: ", "Instruction: "


class Step(NamedTuple):
    """action: one of ACTIONS. relation: one of PLACES for place, else "". reference: a phrase, "" for back and others."""

    action: str
    object: str
    relation: str = ""
    reference: str = ""


class Planned(NamedTuple):
    """steps: empty where `question` is not."""

    steps: tuple[Step, ...]
    question: str = ""


@dataclass(frozen=True)
class Plan(Question):
    """Which steps does `instruction` tell? seen: names of what is there, () for not known. Answer.value is a Planned."""

    instruction: str
    seen: tuple[str, ...] = ()
    name: ClassVar[str] = "plan"
    pictured: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "instruction", phrases.checked_question(self.instruction))
        if self.seen:
            object.__setattr__(self, "seen", phrases.checked_targets(self.seen, self.name))

    def prompt(self) -> str:
        seen = f"{SEEN}{phrases.as_list(self.seen)}\n" if self.seen else ""
        return f"{INSTRUCTION}{seen}{TOLD}{self.instruction}"

    def schema(self) -> dict[str, Any]:
        text = {"type": "string", "maxLength": 200}
        step = {
            "action": {"type": "string", "enum": list(ACTIONS)},
            "object": text,
            "relation": {"type": "string", "enum": ["", *PLACES]},
            "reference": text,
        }
        each = {"type": "object", "properties": step, "required": list(step), "additionalProperties": False}
        return {
            "type": "object",
            "properties": {"steps": {"type": "array", "items": each, "maxItems": MAX_STEPS}, "question": text},
            "required": ["steps", "question"],
            "additionalProperties": False,
        }

    def read(self, said: Generation, views: Sequence[View]) -> Answer:
        text = said.text.strip()
        try:
            found = json.loads(text[text.index("{") : text.rindex("}") + 1])
            steps = tuple(Step(*(str(s[key]).strip() for key in Step._fields)) for s in found["steps"])
            question = str(found["question"]).strip()
        except (ValueError, KeyError, TypeError):
            raise MalformedAnswer(
                f'the answer is no JSON object with "steps" and "question": {text[:80]!r}', text
            ) from None
        for step in steps:
            placed = step.action == "place"
            if step.action not in ACTIONS or not step.object or (step.relation in PLACES) != placed:
                raise MalformedAnswer(f"a step is not whole: {step}", text)
        if bool(steps) == bool(question):
            raise MalformedAnswer(f"a plan has steps or a question back, one of them: {text[:80]!r}", text)
        return Answer(value=Planned(steps, question))
