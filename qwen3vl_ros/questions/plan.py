"""What an instruction in words tells an arm to do: steps to pick, place and look, or a question back. No picture.

Which things are meant is looked up later, in a picture. Knows nothing of pictures or arms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Sequence

from qwen3vl_ros.questions import phrases
from qwen3vl_ros.questions.base import Question
from qwen3vl_ros.types import Answer, Generation, InvalidInput, MalformedAnswer, View, quoted

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
        if fault := next(filter(None, map(_fault, steps)), ""):
            raise MalformedAnswer(fault, text)
        if bool(steps) == bool(question):
            raise MalformedAnswer(f"a plan has steps or a question back, one of them: {text[:80]!r}", text)
        return Answer(value=Planned(steps, question))

    @staticmethod
    def checked(steps: Sequence[Step]) -> tuple[Step, ...]:
        """Steps that somebody wrote by hand. Raises InvalidInput for what is none."""
        if not 0 < len(steps) <= MAX_STEPS:
            raise InvalidInput(f"a plan has 1 to {MAX_STEPS} steps, not {len(steps)}")
        for number, step in enumerate(steps):
            if fault := _fault(step):
                raise InvalidInput(f"step {number}: {fault}")
            phrases.checked_targets([name for name in (step.object, step.reference) if name], f"step {number}")
        return tuple(steps)


def _fault(step: Step) -> str:
    """Why a step is not whole, empty if it is."""
    placed = step.action == "place"
    if step.action not in ACTIONS:
        return f"action {quoted(step.action)} is unknown; known are {', '.join(ACTIONS)}"
    if not step.object:
        return f"{step.action} names no object"
    if placed and step.relation not in PLACES:
        return f"relation {quoted(step.relation)} is unknown; known are {', '.join(PLACES)}"
    if step.relation and not placed:
        return f"{step.action} has relation {quoted(step.relation)}; only place has one"
    if placed and not step.reference and step.relation != "back":
        return f"{step.relation} names no reference"
    return ""
