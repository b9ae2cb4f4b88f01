"""Questions about space in their common forms, read without a model: English and Chinese.

A sentence is read only where every word of it is accounted for; for all else the answer is None, and a model has to read it.
What "from the robot's point of view" says of the view is read in any sentence. Knows no pictures and no models.
"""

from __future__ import annotations

from qwen3vl_ros.questions.grammar import chinese, english
from qwen3vl_ros.questions.parsing.wanted import is_chinese
from qwen3vl_ros.questions.understand import Understood


def language_of(text: str) -> str:
    """ "zh" where there is a Chinese character, else "en"."""
    return "zh" if is_chinese(text) else "en"


def without_view(question: str) -> tuple[str, str]:
    """(the question without what it says of whose left and front it means, that view); the view is empty where it says nothing."""
    return (chinese if language_of(question) == "zh" else english).without_view(question)


def understood(question: str, before: Understood | None = None) -> Understood | None:
    """What the question asks, None where the grammar does not read it. before: what the one before asked, for "it" and "and the
    bowl?"."""
    grammar = chinese if language_of(question) == "zh" else english
    rest, view = grammar.without_view(question)
    read = grammar.read(rest, before)
    return read and read._replace(view=view or read.view)
