"""The prompt of each task, word for word as Qwen3-VL was trained on it. Knows nothing of answers, images or engines.

Source: the prompts of the Qwen3-VL notebooks and technical report. Phrases come from topics and services, so they are
checked before they enter a prompt: a quote, a line break or a chat marker in a phrase would write a prompt of its own.
"""

from __future__ import annotations

import re
import unicodedata

from qwen3vl_ros.types import InvalidInput, Request, Task

MAX_TARGETS = 100
MAX_TARGET_CHARS = 200
MAX_QUESTION_CHARS = 4000

_QUOTES = '"“”„«»'
_SEPARATORS = ",;，、；"
_CHAT_MARKER = re.compile(r"<\|")


def prompt_for(request: Request) -> str:
    """The text that follows the image.

    DETECT has two prompts. One target that describes (it has a space, or the Chinese attributive 的: "the red mug",
    "红色的杯子") is located by description; one plain word, and always several targets, go as categories.
    Raises InvalidInput for a phrase or question that cannot stand in a prompt.
    """
    if request.task is Task.ASK:
        return _checked_question(request.question)
    if request.task is Task.READ_TEXT:
        return "Spotting all the text in the image with line-level, and output in JSON format."
    targets = _checked_targets(request.targets)
    if request.task is Task.DETECT:
        if is_description(targets):
            return (
                f'Locate every object that matches the description "{targets[0]}" in the image. '
                "Report bbox coordinates in JSON format."
            )
        return (
            f'Locate every instance that belongs to the following categories: "{_as_list(targets)}". '
            "Report bbox coordinates in JSON format."
        )
    if request.task is Task.POINT:
        return f"Locate {_as_list(targets)} in this image. Output the point coordinates in JSON format."
    each = targets[0] if len(targets) == 1 else "object"
    return (
        f"Find all {_as_list(targets)} in this image. For each {each}, provide its 3D bounding box. The output "
        'format required is JSON: [{"bbox_3d":[x_center, y_center, z_center, x_size, y_size, z_size, roll, pitch, '
        'yaw],"label":"category"}].'
    )


def is_description(targets: tuple[str, ...]) -> bool:
    """Whether DETECT asks by description rather than by category."""
    return len(targets) == 1 and (" " in targets[0] or "的" in targets[0])


def _checked_targets(targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets without doubles, inner white space single. Raises InvalidInput."""
    if len(targets) > MAX_TARGETS:
        raise InvalidInput(f"{len(targets)} targets are more than {MAX_TARGETS}; ask in several requests")
    for target in targets:
        shown = repr(target[:60])
        if len(target) > MAX_TARGET_CHARS:
            raise InvalidInput(f"target {shown} has {len(target)} characters, more than {MAX_TARGET_CHARS}; shorten it")
        quote = next((c for c in target if c in _QUOTES), None)
        if quote:
            raise InvalidInput(
                f"target {shown} holds the quotation mark {quote}, which ends a phrase in the prompt; leave it out"
            )
        _refuse_control(target, f"target {shown}", allowed="")
    return tuple(dict.fromkeys(re.sub(r"\s+", " ", target) for target in targets))


def _checked_question(question: str) -> str:
    if len(question) > MAX_QUESTION_CHARS:
        raise InvalidInput(f"the question has {len(question)} characters, more than {MAX_QUESTION_CHARS}; shorten it")
    _refuse_control(question, "the question", allowed="\n\t")
    return question.strip()


def _refuse_control(text: str, name: str, allowed: str) -> None:
    for c in text:
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in allowed:
            raise InvalidInput(f"{name} holds the control character U+{ord(c):04X}; write it in one line of plain text")
    if _CHAT_MARKER.search(text):
        raise InvalidInput(f"{name} holds '<|', which begins a marker of the chat template; leave it out")


def _as_list(targets: tuple[str, ...]) -> str:
    """The targets between commas. A comma inside one would make two of it, unless it is the only one, described."""
    if not is_description(targets):
        for target in targets:
            if any(c in _SEPARATORS for c in target):
                raise InvalidInput(f"target {target[:60]!r} holds a separator; pass its parts as separate targets")
    return ", ".join(targets)
