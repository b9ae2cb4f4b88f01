"""Phrases and questions that may stand in a prompt.

They come from topics, services and command lines: a quote, a line break or a chat marker in one would write a prompt of its
own. Knows nothing of answers, images or engines.

The prompts beside this file are word for word those Qwen3-VL was trained on (its notebooks and technical report).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Iterable

from qwen3vl_ros.types import InvalidInput

MAX_TARGETS = 100
MAX_TARGET_CHARS = 200
MAX_QUESTION_CHARS = 4000

_QUOTES = '"“”„«»'
_SEPARATORS = ",;，、；"
_CHAT_MARKER = re.compile(r"<\|")


def checked_targets(targets: Iterable[str], task: str) -> tuple[str, ...]:
    """The targets without doubles, inner white space single. Raises InvalidInput."""
    targets = tuple(t.strip() for t in targets)
    if not targets:
        raise InvalidInput(f"targets is empty; {task!r} needs at least one phrase")
    if len(targets) > MAX_TARGETS:
        raise InvalidInput(f"{len(targets)} targets are more than {MAX_TARGETS}; ask in several requests")
    for target in targets:
        _check_target(target)
    targets = tuple(dict.fromkeys(re.sub(r"\s+", " ", target) for target in targets))
    # A comma inside a target would make two of it, unless it is the only one, described.
    if not is_description(targets):
        for target in targets:
            if any(c in _SEPARATORS for c in target):
                raise InvalidInput(f"target {target[:60]!r} holds a separator; pass its parts as separate targets")
    return targets


def _check_target(target: str) -> None:
    shown = repr(target[:60])
    if not target:
        raise InvalidInput("targets holds an empty phrase; leave it out or name an object")
    if len(target) > MAX_TARGET_CHARS:
        raise InvalidInput(f"target {shown} has {len(target)} characters, more than {MAX_TARGET_CHARS}; shorten it")
    quote = next((c for c in target if c in _QUOTES), None)
    if quote:
        raise InvalidInput(
            f"target {shown} holds the quotation mark {quote}, which ends a phrase in the prompt; leave it out"
        )
    refuse_control(target, f"target {shown}", allowed="")


def is_description(targets: tuple[str, ...]) -> bool:
    """Whether a target describes rather than names a category: it is the only one and has a space, or the Chinese
    attributive 的 ("the red mug", "红色的杯子")."""
    return len(targets) == 1 and (" " in targets[0] or "的" in targets[0])


def as_list(targets: tuple[str, ...]) -> str:
    """Checked targets as a prompt enumerates them."""
    return ", ".join(targets)


def checked_question(question: str) -> str:
    """The question without white space around it. Raises InvalidInput."""
    if not question.strip():
        raise InvalidInput("the question is empty; 'ask' needs a question")
    if len(question) > MAX_QUESTION_CHARS:
        raise InvalidInput(f"the question has {len(question)} characters, more than {MAX_QUESTION_CHARS}; shorten it")
    refuse_control(question, "the question", allowed="\n\t")
    return question.strip()


def refuse_control(text: str, name: str, allowed: str) -> None:
    """Raises InvalidInput for a control character that is not `allowed`, or the beginning of a chat marker."""
    for c in text:
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in allowed:
            raise InvalidInput(f"{name} holds the control character U+{ord(c):04X}; write it in one line of plain text")
    if _CHAT_MARKER.search(text):
        raise InvalidInput(f"{name} holds '<|', which begins a marker of the chat template; leave it out")
