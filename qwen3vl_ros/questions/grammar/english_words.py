"""The words of the English grammar, and what makes a name of some: articles taken off, no word in it that a sentence is made of."""

from __future__ import annotations

import re

THING = "object"
RELATIONS = {
    "left of": r"(?:further |farther |more )?(?:(?:to|on|at) )?(?:the )?left(?:[- ]hand)?(?: side)? of|left from",
    "right of": r"(?:further |farther |more )?(?:(?:to|on|at) )?(?:the )?right(?:[- ]hand)?(?: side)? of|right from",
    "in front of": r"in front of|before",
    "behind": r"behind|(?:at|in) (?:the )?(?:back|rear) of|beyond",
    "above": r"above|over|higher (?:up )?than",
    "below": r"below|under(?:neath)?|beneath|lower (?:down )?than",
    "on": r"on(?:to)?(?: the)? top of|atop|upon|on",
    "in": r"inside(?: of)?|within|into|in",
    "next to": r"next to|beside|besides|close to|near(?: to)?|adjacent to|alongside|by|at the side of",
    "between": r"(?:in )?between",
}
POSTURE = r"(?:standing|lying|sitting|resting|placed|located|positioned|situated|put|found|kept|stored)"
STANDS = r"(?:stands?|lies?|sits?|rests?|is|are|was|were|hangs?)"
REL = re.compile(
    rf"\b(?:{POSTURE} )?(?:(?:directly|right|just|exactly|immediately) )?(?:"
    + "|".join(f"(?P<r{i}>{form})" for i, form in enumerate(RELATIONS.values()))
    + r")\b"
)
POLITE = re.compile(
    r"^(?:tell me(?=,)|please|hey|hello|hi|okay|ok|so|now|well|robot|and|excuse me|(?:can|could|would|will) you(?: please| kindly)?(?= (?!see|spot|detect)\w)"
    r"|(?:please )?(?:tell|say|show|explain)(?: to)?(?: me| us)?(?= (?:if|whether|where|how|what|which|whose|when|(?:on|in|at|by) (?:what|which)|the (?:distance|colou?r|number|position|height|width|length|size|reading)))"
    r"|(?:do|would) you (?:know|happen to know|say|think)|i (?:want|need|would like|'d like) to know|i wonder|i am wondering|i'm wondering"
    r"|(?:please )?(?:find out|check|confirm|verify|make sure|see|work out|look)(?= (?:if|whether|that|how|where|what|which))|let me know|(?:have you )?any idea|say"
    r"|i(?:'d| would) like (?:you )?to (?:know|tell me|find out|say|measure)|(?:can|could) i (?:know|ask)|may i (?:know|ask)|i(?:'m| am) (?:asking|curious)"
    r"|is it (?:true|right|correct|so|the case|fair to say|correct to say) that|am i right that|are you sure(?: that)?|does it (?:seem|appear|look)(?: like)?(?: that)?|do you see (?=whether|if|that)|would you say that|do you think|i (?:think|believe) (?:that )?"
    r"|if|whether|that)\s*[,:]?\s+"
)
AFTER = re.compile(
    r"(?:,\s*(?:isn't it|is it|is it not|doesn't it|don't you|yes or no|true or false|would you say)|(?:\s*,)?\s+(?:please|(?:is that |am i )?(?:right|correct|true)|is that so|or not|now|right now|currently|at the moment|exactly|here|at all|for me"
    r"|then|thanks|thank you|in (?:metres|meters|centimetres|centimeters|cm|millimetres|mm|inches)))$"
)
PERSONAL = re.compile(
    r"(?<=\w) (?:do|does|did|can|could|would|will|should|must|might|may|have|has) (?:you|we|i|one|they|somebody|someone|(?:the|this|that|your) (?:picture|image|photo|scene|view|frame|camera))(?: (?:have|need|want|like|be able))?(?: to)?"
    r"(?: (?:say|think|guess|see|find|show|contain|count|notice|detect|spot|make out|believe|reckon|suppose|measure|estimate|judge|expect|got|get|go|going|reach|travel|move|walk|look|recognise|recognize|identify|consider))?(?: that)?\b"
)
# Words that say nothing of a scene: what consists of them alone may stand before or after a question.
EMPTY_WORDS = frozenset(
    "i you we me us my your he was am is were be been would could can may might do does did shall should will like love want need wish wonder"
    " wondering curious interested know tell told say see find out to if whether that for in of please just only quickly kindly really so good"
    " nice great help robot hello hi hey dear buddy friend about question questions a an one more thing let let's think guess mind sorry pardon"
    " excuse have has got any some idea clue hint ask asking explain answer check checking sure able possible it there now today again here"
    " thanks thank right correct true okay ok well then also actually exactly roughly approximately about precisely maybe perhaps tell's don't i'd"
    " i'm i've you'd what's and but or report us back give quick first next by way moment minute second chance looking at with this everything"
    " from standing here interest interests remind trying figure work as far can't cannot anyone someone somebody possibly up use your eyes look opinion view mean".split()
)
OPENERS = re.compile(
    r"\b(?:how|where|whereabouts|(?:on|in|at) (?:what|which)|what|which|who|is there|are there|is the|are the|is an?|is it|is my|is this|does|do you see|can you see|count|list|find|locate|measure|the)\b"
)
PLACE = r"(?:on|in|at|of) (?:the|this|that|my|your|our) (?:(?:current|present|whole|entire|live|same) )?(?:table|desk|table ?top|image|picture|photo|view|scene|frame|world|room)"
IN_SIGHT = re.compile(
    rf"\s+(?:{PLACE}|in (?:(?:full|plain|clear|open) )?(?:sight|view)|anywhere|somewhere|in front of (?:you|us|me)|out there|around)$"
)
ARTICLE = re.compile(r"^(?:(?:the|a|an|any|some|this|that|these|those|my|your|our|one|single)\s+)+")
PRONOUN = re.compile(r"^(?:it|that|this|that one|this one|the same|the same one|they|them|he|she)$")
OTHER_WORDS = re.compile(
    r"\b(?:is|are|was|were|be|do|does|did|has|have|will|would|could|should|what|which|who|whom|whose|where|when|why|how|that|and|or|not|no|than|if"
    r"|from|to|at|as|so|but|then|because|there|most|all|every|each|between|me|you|us|we|they|them|i|far|away|apart|much|many"
    r"|colou?r|position|location|whereabouts|distance|height|width|length|size|number|count|reading|fits?|go|goes|put|room|space|enough|possible)\b"
)
# In no name either: when, how surely, and an article after something that does not belong to the name ("separate the ball").
NOT_NAMED = re.compile(
    r"[,;:?!]|n't\b|\b(?:ago|still|yet|already|again|today|yesterday|roughly|approximately|exactly|here|about|abouts|hiding|hidden)\b"
    r"|^(?!.*\b(?:with|of)\b).+ (?:the|an?)\b"
)
ANYTHING = re.compile(
    r"^(?:(?:any|some|no|every|all|the|other)\s*)?(?:objects?|things?|items?|something|anything|everything|thing|ones?|stuff)$"
)
HERE_WORDS = re.compile(
    r"^(?:the |your |this )?(?:camera|viewer|lens|you|us|me|here|my position|where you are|where i am|yourself|picture|image)$"
)
ROBOT = re.compile(r"^(?:the |your |this )?(?:robot|base|robot base|robot's base|arm)$")
LENGTH = r"(?:centimet(?:re|er)s?|millimet(?:re|er)s?|met(?:re|er)s?|inches|cm|mm)"
GET = (
    r"(?:(?:what (?:is|was|are|would be|would you say is|do you think is)|measure|determine|estimate|calculate|compute|find(?: out)?|give(?: me)?|get(?: me)?"
    r"|tell(?: me)?|report|state|say|name|show(?: me)?|work out|i need(?: to know)?|i want|let me have|can i have|could i have|do you know) )?"
)
THINK = r"(?:(?:would|do|can|could|did|will) (?:you|we|i|one) (?:say|think|reckon|estimate|measure|believe|guess|suppose|judge|expect|make)(?: that)?)"
ADJECTIVES = {
    "height": r"tall|high|height",
    "width": r"wide|broad|width|breadth|thick",
    "length": r"long|length",
    "size": r"big|large|size|dimensions?",
}


class NoName(Exception):
    """Something that should be the name of a thing is none."""


def thing_named(text: str, any_is: str | None = None) -> str:
    """The name of a thing without its article. any_is: what "anything" and "object" stand for, None: they are no name here."""
    text = text.strip(" ,")
    if any_is is not None and (not text or ANYTHING.match(text)):
        return any_is
    if PRONOUN.match(text):
        return "it"
    text = ARTICLE.sub("", text)
    text = re.sub(r"(?:'s|')$", "", text)
    level = re.fullmatch(
        r"(?:(?:the )?(\w+)(?:st|nd|rd|th)? (?:level|shelf|board|tier) of (?:the )?(.+)|(.+) level (\d+))", text
    )
    if level and (told := level_named(level)):
        return told
    if (
        not text
        or len(text.split()) > 6
        or OTHER_WORDS.search(text)
        or NOT_NAMED.search(text)
        or REL.search(f" {text} ")
        or not re.search(r"\w", text)
    ):
        raise NoName
    return text


ORDINALS = {w: i + 1 for i, w in enumerate(("first", "second", "third", "fourth", "fifth"))} | {
    "bottom": 1,
    "lowest": 1,
}


def level_named(found: re.Match) -> str:
    if found[4]:
        return f"{ARTICLE.sub('', found[3])} level {found[4]}"
    number = ORDINALS.get(found[1]) or (int(digits[0]) if (digits := re.match(r"\d+", found[1])) else None)
    return f"{found[2]} level {number}" if number else ""


def singular(name: str) -> str:
    """Of the last word; a guess that leaves what it does not know."""
    head, _, last = name.rpartition(" ")
    for ending, instead in (
        ("shelves", "shelf"),
        ("boxes", "box"),
        ("dishes", "dish"),
        ("ies", "y"),
        ("people", "person"),
        ("dice", "dice"),
    ):
        if last.endswith(ending):
            last = last[: -len(ending)] + instead
            break
    else:
        if last.endswith("s") and not last.endswith(("ss", "us", "is")):
            last = last[:-1]
    return f"{head} {last}".strip()


def plural(name: str) -> bool:
    return singular(name) != name
