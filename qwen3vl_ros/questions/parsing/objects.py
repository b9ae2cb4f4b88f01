"""The model's answer -> boxes, points, lines of text and 3D boxes.

Every complete object is saved and everything lost is counted: a broken answer is never an empty one. Knows nothing of
engines, depth or ROS.

Source: the answer formats of the Qwen3-VL notebooks and the malformations reported in its issues.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwen3vl_ros.questions.parsing.candidates import Candidates
from qwen3vl_ros.questions.parsing.denials import denies_all
from qwen3vl_ros.questions.parsing.places import Placed
from qwen3vl_ros.questions.parsing.scores import TokenLogprobs
from qwen3vl_ros.questions.parsing.tolerant_json import read
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, MalformedAnswer, View

# Same length each, so that characters keep their places.
_REPAIRS = (
    (r"\"", ' "'),
    (r"\n", "  "),
    ("&quot;", '"     '),
    ("“", '"'),
    ("”", '"'),
    ("‘", "'"),
    ("’", "'"),
    ("：", ":"),
    ("，", ","),
    ("［", "["),
    ("］", "]"),
    ("【", "["),
    ("】", "]"),
    ("｛", "{"),
    ("｝", "}"),
)
_END_OF_TURN = re.compile(r"<\|(?:im_end|im_start|endoftext)\|>")


def read_objects(generation: Generation, wanted: Wanted, view: View) -> Answer:
    """Read the objects of an answer about what `view` shows.

    Raises MalformedAnswer when nothing can be read, or when the coordinates are of another scale. Prose (wanted.prose) is
    text first: it is Answer.value, the boxes and points it holds are returned, and it is malformed only when it says nothing.
    """
    start, end = _answer_span(generation.text)
    text = generation.text[:end]
    if wanted.prose and not _garbage(text[start:]):
        collected = Candidates(text, wanted)
        collected.take(read(text, start))
    else:
        collected = _collect(text, start, generation, wanted)
    answer = Placed(collected, TokenLogprobs.of(generation), view).answer()
    return replace(answer, value=text[start:].strip()) if wanted.prose else answer


def _collect(text: str, start: int, generation: Generation, wanted: Wanted) -> Candidates:
    """The candidates in text[start:]. Raises MalformedAnswer if there are none and it does not say "nothing"."""
    for attempt in dict.fromkeys((text, _repaired(text))):
        reading = read(attempt, start)
        collected = Candidates(attempt, wanted)
        collected.take(reading)
        if not collected.found and not collected.dropped and not collected.absent:
            collected.take_bare(reading)
        if collected.found:
            return collected
    if collected.dropped:
        why = f"none of the {collected.dropped} objects in the answer could be read ({'; '.join(collected.notes())})"
    elif collected.absent or _says_nothing(text[start:], generation, wanted):
        return collected
    else:
        why = _garbage(text[start:]) or "the answer holds no object and does not say that there is none"
    raise MalformedAnswer(
        f"{why}: {text[start : start + 80]!r}; {_way_out(generation)}", generation.text, collected.dropped
    )


def _way_out(generation: Generation) -> str:
    if generation.finish_reason in ("length", "deadline"):
        return (
            f"it was cut short ({generation.finish_reason}): raise generation.max_new_tokens or "
            "generation.deadline, or ask for less"
        )
    return "see ~/generation for the whole text, and check the checkpoint and its precision if this repeats"


def _garbage(text: str) -> str:
    """Why the text says nothing at all, or an empty string."""
    said = "".join(text.split())
    if not said:
        return "the answer is empty"
    if len(said) >= 4 and not said[0].isalnum() and said == said[0] * len(said):
        return "the answer is one character repeated, as broken low-precision weights give it"
    return ""


def _says_nothing(text: str, generation: Generation, wanted: Wanted) -> bool:
    """Whether the text, in which no object was begun, clearly says that there is none."""
    empty = re.compile(r"(?:`{3})?(?:json)?(?:\[\]|\{\})[.;]?(?:`{3})?", re.IGNORECASE)
    if any(empty.fullmatch("".join(part.split())) for part in (text, *text.splitlines())):
        return True
    return generation.finish_reason == "stop" and denies_all(text, wanted)


def _answer_span(text: str) -> tuple[int, int]:
    """Where the answer begins, if remains of a <think> part stand before it, and where its turn ends. Neither the
    reasoning nor a next turn that the model imagines is ever read."""
    closing, opening = text.rfind("</think>"), text.find("<think>")
    start = closing + len("</think>") if closing >= 0 else 0
    if closing < opening and not text[:opening].strip():
        start = len(text)
    end = _END_OF_TURN.search(text, start)
    return start, end.start() if end else len(text)


def _repaired(text: str) -> str:
    """The text with escaped and typographic quotes and brackets made plain, every character in its place."""
    for broken, plain in _REPAIRS:
        text = text.replace(broken, plain)
    return text
