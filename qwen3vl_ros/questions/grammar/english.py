"""The English half of the grammar: from "Could you tell me how far the red mug is from the tray?" to ("distance", mug, tray).

Politeness is taken off both ends, then the question's kind is told by its frame ("how far …", "where …", a relation in the middle),
and what is left over must be names of things. Knows no pictures and no models.
"""

from __future__ import annotations

import re
from contextlib import suppress

from qwen3vl_ros.questions.grammar.english_kinds import READERS
from qwen3vl_ros.questions.grammar.english_words import (
    AFTER,
    ARTICLE,
    EMPTY_WORDS,
    HERE_WORDS,
    OPENERS,
    PERSONAL,
    POLITE,
    REL,
    ROBOT,
    THING,
    NoName,
    thing_named,
)
from qwen3vl_ros.questions.understand import Understood

NAMES_SOMETHING = re.compile(rf"\b(?:the|not|no|never|without|except|if|my|your|its?|those|these)\b|{REL.pattern}")
NOBODY = re.compile(
    r"(?:the|an?|this|that)?\s*(?:\w+ )?(?:full|plain|clear|open|current|present|whole|entire|live|same)?", re.I
)


def without_view(question: str) -> tuple[str, str]:
    """As grammar.without_view."""
    owner = r"(?P<o>[^,?.]+?)"
    for pattern in (
        rf"[,\s]*\b(?:as )?seen (?:from|by) {owner}(?:'s? (?:side|place|position|point of view|perspective|view))?(?=[,?.!]|$)",
        rf"[,\s]*\bfrom (?:the )?(?:point of view|perspective|viewpoint|side|position|eyes) of {owner}(?=[,?.!]|$)",
        rf"[,\s]*\b(?:from|in) {owner} ?(?:'s?)? (?:own )?(?:point of view|perspective|viewpoint|frame|view)(?=[,?.!\s]|$)",
        rf"[,\s]*\bfrom where {owner} (?:stands?|sits?|lies?|looks?|is|am|are)(?=[,?.!]|$)",
    ):
        found = re.search(pattern, question, re.IGNORECASE)
        if found and not NOBODY.fullmatch(found["o"]):  # "in the view" is nobody's
            rest = (question[: found.start()] + " " + question[found.end() :]).strip(" ,")
            return rest, _view(found["o"])
    # "to the mug's left", "on its own left": the thing's own sides.
    own = re.search(
        r"\b(?:to|on|at) (?P<o>the [\w -]+?'s?|its|their|your|my) (?:own )?(?P<s>left|right)(?P<h>[- ]hand)?(?: side)?\b(?! of)",
        question,
        re.I,
    )
    if own and own["o"].lower() not in ("the",):
        name = re.sub(r"'s?$", "", {"its": "it", "their": "it"}.get(own["o"].lower(), own["o"]))
        return f"{question[: own.start()]}{own['s']} of {name}{question[own.end() :]}", _view(name)
    return question, ""


def _view(owner: str) -> str:
    owner = re.sub(r"'s?$", "", owner.strip().lower())
    if HERE_WORDS.match(owner) or owner in ("my", "your", "our", "i", "the camera", "the viewer", "here"):
        return "viewer"
    return "robot" if ROBOT.match(owner) else f"object:{ARTICLE.sub('', owner)}"


def read(question: str, before: Understood | None = None) -> Understood | None:
    """As grammar.understood, the view already taken off."""
    text = " ".join(question.lower().replace("’", "'").split()).strip(' ?!.…"')
    text = re.sub(r"\b(where|what|who|how|that|there|it)'s\b", r"\1 is", text)
    follows = re.match(r"(?:[\w ]{1,12}, )?(?:and|then|what about|how about)\b", text)
    while (shorter := AFTER.sub("", POLITE.sub("", text))) != text:
        text = shorter
    for candidate in _candidates(text):
        for reader in READERS:
            with suppress(NoName):
                if (told := reader(candidate)) is not None:
                    return _resolved(told, before)
    if before is not None and follows:
        if re.fullmatch(r"where(?: exactly| is that)?", text):
            return Understood("where", before.find[:1])
        with suppress(NoName):
            return before._replace(find=(thing_named(re.sub(r"^(?:what|how) about ", "", text)), *before.find[1:]))
    return None


def _candidates(text: str) -> list[str]:
    """The text, and what is left of it without a beginning and an end that say nothing of a scene."""
    words = text.split()
    starts = [0] + [len(text[: found.start()].split()) for found in OPENERS.finditer(text) if found.start()]
    starts = [k for k in starts if all(w.strip(",.:;!?") in EMPTY_WORDS for w in words[:k])]
    preface, colon, _ = text.rpartition(": ")
    if colon and not NAMES_SOMETHING.search(preface):  # "Quick measurement: how wide is the box?"
        starts.append(len(preface.split()))
    ends = [len(words)]
    while ends[-1] > 2 and words[ends[-1] - 1].strip(",.:;!?") in EMPTY_WORDS:
        ends.append(ends[-1] - 1)
    ends = [
        ends[0],
        *(
            k
            for k in ends[1:]
            if words[k - 1].endswith((",", ".", ";", "?"))
            or words[k] in ("please", "now", "then", "exactly", "roughly")
        ),
    ]
    plain = [" ".join(words[a:b]).rstrip(" ,.;:?!") for a in starts for b in ends if b - a >= 2]
    return list(dict.fromkeys(other for text in plain for other in (text, _in_order(text), _impersonal(text))))


def _in_order(text: str) -> str:
    """ "The mug, where is it?" and "The mug: how tall?" as "where is the mug?", "how tall is the mug?"."""
    parts = [part for part in re.split(r"\s*[,.;:?!]\s+|\s+[-–—]\s+", text) if part]
    if len(parts) != 2:
        return text
    for named, question in (parts, reversed(parts)):
        found = re.fullmatch(r"(?:.*?\b)??(?P<a>(?:the|a|an|my|your|this|that|those|these|from|between) .+)", named)
        name = found["a"] if found else named
        if len(name.split()) > 9 or re.match(r"(?:how|where|what|which|is|does)\b", name):
            continue
        if re.search(r"\b(?:it|that|they|them|this)\b", question):
            return re.sub(r"\b(?:it|that|they|them|this)\b", re.sub(r"^(?:a|an) ", "the ", name), question, count=1)
        if re.fullmatch(r"how (?:\w+)(?: in \w+)?|where(?: exactly)?|what colou?r", question):
            return f"{question} is {re.sub(r'^(?:a|an) ', 'the ', name)}"
        if re.fullmatch(r"how (?:far(?: apart| is it)?|much (?:space|room))|what distance|(?:the )?distance", question):
            return f"how far is it {name if name.startswith('from') else f'from {name}'}"
        if re.fullmatch(r"how many(?: of them)?(?: are there| are they)?", question):
            return f"how many {name}"
    return text


def _impersonal(text: str) -> str:
    """Without "can you see", "would you say", "do I have to go" and the like."""
    return " ".join(PERSONAL.sub(" ", text).split())


def _resolved(told: Understood, before: Understood | None) -> Understood:
    """With what "it" means: the thing that the question before was about."""
    if "it" not in told.find:
        return told
    if before is None or not before.find or before.find[0] == THING:
        raise NoName
    return told._replace(find=tuple(before.find[0] if name == "it" else name for name in told.find))
