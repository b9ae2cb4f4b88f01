"""The model's answer -> boxes, points, lines of text and 3D boxes.

Every complete object is saved and everything lost is counted: a broken answer is never an empty one. Knows nothing of
engines, depth or ROS.

Source: the answer formats of the Qwen3-VL notebooks and the malformations reported in its issues.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwen3vl_ros.questions.parsing import absence
from qwen3vl_ros.questions.parsing.candidates import Candidates
from qwen3vl_ros.questions.parsing.denials import denies_all
from qwen3vl_ros.questions.parsing.markup import objects_of
from qwen3vl_ros.questions.parsing.places import Placed
from qwen3vl_ros.questions.parsing.scores import TokenLogprobs
from qwen3vl_ros.questions.parsing.tokens import repaired
from qwen3vl_ros.questions.parsing.tolerant_json import Parsed, read
from qwen3vl_ros.questions.parsing.tool_calls import ToolCall, without_calls
from qwen3vl_ros.questions.parsing.wanted import Wanted
from qwen3vl_ros.types import Answer, Generation, MalformedAnswer, View

_END_OF_TURN = re.compile(r"<\|(?:im_end|im_start|endoftext)\|>")
_EMPTY_LIST = re.compile(r"(?:`{3})?(?:json)?(?:\[\]|\{\})[.;]?(?:`{3})?", re.IGNORECASE)
_LIST_OF_STRINGS = re.compile(r"\[((?:[^\"\[\]{}]*\"[^\"\[\]{}]*\")+)[^\"\[\]{}]*\]")


def read_objects(generation: Generation, wanted: Wanted, view: View) -> Answer:
    """Read the objects of an answer about what `view` shows.

    Raises MalformedAnswer when nothing can be read, when the answer only calls a tool, or when the coordinates are of
    another scale. Prose (wanted.prose) is text first: it is Answer.value, the boxes and points it holds are returned, and it is
    malformed only when it says nothing.
    """
    start, end = _answer_span(generation.text)
    text = generation.text[:end]
    if wanted.prose:
        collected = _collect_from_prose(text, start, generation, wanted)
    else:
        collected = _collect(text, start, generation, wanted)
    answer = Placed(collected, TokenLogprobs.of(generation), view).answer()
    return replace(answer, value=text[start:].strip()) if wanted.prose else answer


def _collect_from_prose(text: str, start: int, generation: Generation, wanted: Wanted) -> Candidates:
    if why := _garbage(text[start:]):
        raise _malformed(why, text, start, generation)
    collected, _, calls, cleaned = _take(text, start, wanted)
    if calls and not re.search(r"\w", cleaned[start:]):
        raise _malformed(_only_calls(calls), text, start, generation)
    return collected


def _collect(text: str, start: int, generation: Generation, wanted: Wanted) -> Candidates:
    """The candidates in text[start:]. Raises MalformedAnswer if there are none and it does not say "nothing"."""
    for attempt in dict.fromkeys((text, repaired(text))):
        collected, reading, calls, _ = _take(attempt, start, wanted)
        if not collected.found and not collected.dropped and not collected.absent:
            collected.take_bare(reading)
        if collected.found:
            return collected
    if calls:
        why = _only_calls(calls)
    elif collected.dropped:
        why = f"none of the {collected.dropped} objects in the answer could be read ({'; '.join(collected.notes())})"
    elif collected.absent or _says_nothing(text[start:], generation, wanted):
        return collected
    else:
        why = _garbage(text[start:]) or "the answer holds no object and does not say that there is none"
    raise _malformed(why, text, start, generation, collected.dropped)


def _take(text: str, start: int, wanted: Wanted) -> tuple[Candidates, Parsed, list[ToolCall], str]:
    """What objects text[start:] holds once calls of tools are taken out; and the text without what was read as markup."""
    text, calls, reading = without_calls(text, start, wanted)
    rest, marked_up = objects_of(text, start)
    if rest != text:
        text, reading = rest, read(rest, start)
    collected = Candidates(text, wanted)
    if calls:
        collected.mended["call of a tool, which is no answer"] += len(calls)
    collected.take(reading.objects + marked_up)
    return collected, reading, calls, text


def _only_calls(calls: list[ToolCall]) -> str:
    name = next((call.name for call in calls if call.name), "")
    return f"the answer calls a tool{f' ({name})' if name else ''} and does not say what is there"


def _malformed(why: str, text: str, start: int, generation: Generation, dropped: int = 0) -> MalformedAnswer:
    return MalformedAnswer(
        f"{why}: {text[start : start + 80]!r}; {_way_out(generation.finish_reason)}", generation.text, dropped
    )


def _way_out(finish_reason: str) -> str:
    if finish_reason == "length":
        return "it was cut short (length): raise generation.max_new_tokens, or ask for less"
    if finish_reason == "deadline":
        return "its deadline passed before it was complete: raise the call's timeout or generation.deadline, or ask for less"
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
    if any(_EMPTY_LIST.fullmatch("".join(part.split())) for part in (text, *text.splitlines())):
        return True
    if generation.finish_reason != "stop":
        return False
    strings = _LIST_OF_STRINGS.fullmatch(re.sub(r"^```(?:json)?|```$", "", text.strip()).strip())
    if strings and wanted.labels == "phrase":
        labels = re.findall(r"\"([^\"]*)\"", strings[1])
        return all(absence.of_label(label, wanted) == absence.DENIES for label in labels)
    return denies_all(text, wanted)


def _answer_span(text: str) -> tuple[int, int]:
    """Where the answer begins, if remains of a <think> part stand before it, and where its turn ends. Neither the
    reasoning nor a next turn that the model imagines is ever read."""
    closing, opening = text.rfind("</think>"), text.find("<think>")
    start = closing + len("</think>") if closing >= 0 else 0
    if closing < opening and not text[:opening].strip():
        start = len(text)
    end = _END_OF_TURN.search(text, start)
    return start, end.start() if end else len(text)
