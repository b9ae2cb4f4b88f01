"""The English half of the grammar: from "Could you tell me how far the red mug is from the tray?" to ("distance", mug, tray).

Politeness is taken off both ends, then the question's kind is told by its frame ("how far …", "where …", a relation in the middle),
and what is left over must be names of things. Knows no pictures and no models.
"""

from __future__ import annotations

import re
from contextlib import suppress

from qwen3vl_ros.questions.understand import Understood

THING = "object"
_RELATIONS = {
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
_POSTURE = r"(?:standing|lying|sitting|resting|placed|located|positioned|situated|put|found|kept|stored)"
_STANDS = r"(?:stands?|lies?|sits?|rests?|is|are|was|were|hangs?)"
_REL = re.compile(
    rf"\b(?:{_POSTURE} )?(?:(?:directly|right|just|exactly|immediately) )?(?:"
    + "|".join(f"(?P<r{i}>{form})" for i, form in enumerate(_RELATIONS.values()))
    + r")\b"
)
_POLITE = re.compile(
    r"^(?:tell me(?=,)|please|hey|hello|hi|okay|ok|so|now|well|robot|and|excuse me|(?:can|could|would|will) you(?: please| kindly)?(?= (?!see|spot|detect)\w)"
    r"|(?:please )?(?:tell|say|show|explain)(?: to)?(?: me| us)?(?= (?:if|whether|where|how|what|which|whose|when|the (?:distance|colou?r|number|position|height|width|length|size|reading)))"
    r"|(?:do|would) you (?:know|happen to know|say|think)|i (?:want|need|would like|'d like) to know|i wonder|i am wondering|i'm wondering"
    r"|(?:please )?(?:find out|check|confirm|verify|make sure|see|work out|look)(?= (?:if|whether|that|how|where|what|which))|let me know|(?:have you )?any idea|say"
    r"|i(?:'d| would) like (?:you )?to (?:know|tell me|find out|say|measure)|(?:can|could) i (?:know|ask)|may i (?:know|ask)|i(?:'m| am) (?:asking|curious)"
    r"|is it (?:true|right|correct|so|the case|fair to say|correct to say) that|am i right that|are you sure(?: that)?|does it (?:seem|appear|look)(?: like)?(?: that)?|do you see (?=whether|if|that)|would you say that|do you think|i (?:think|believe) (?:that )?"
    r"|if|whether|that)\s*[,:]?\s+"
)
_AFTER = re.compile(
    r"(?:,\s*(?:isn't it|is it|is it not|doesn't it|don't you|yes or no|true or false|would you say)|(?:\s*,)?\s+(?:please|(?:is that |am i )?(?:right|correct|true)|is that so|or not|now|right now|currently|at the moment|exactly|here|at all|for me"
    r"|then|thanks|thank you|in (?:metres|meters|centimetres|centimeters|cm|millimetres|mm|inches)))$"
)
_PERSONAL = re.compile(
    r"(?<=\w) (?:do|does|did|can|could|would|will|should|must|might|may|have|has) (?:you|we|i|one|they|somebody|someone)(?: (?:have|need|want|like|be able))?(?: to)?"
    r"(?: (?:say|think|guess|see|find|count|notice|detect|spot|make out|believe|reckon|suppose|measure|estimate|judge|expect|got|get|go|going|reach|travel|move|walk|look|recognise|recognize|identify|consider))?(?: that)?\b"
)
# Words that say nothing of a scene: what consists of them alone may stand before or after a question.
_EMPTY_WORDS = frozenset(
    "i you we me us my your he was am is were be been would could can may might do does did shall should will like love want need wish wonder"
    " wondering curious interested know tell told say see find out to if whether that for in of please just only quickly kindly really so good"
    " nice great help robot hello hi hey dear buddy friend about question questions a an one more thing let let's think guess mind sorry pardon"
    " excuse have has got any some idea clue hint ask asking explain answer check checking sure able possible it there now today again here"
    " thanks thank right correct true okay ok well then also actually exactly roughly approximately about precisely maybe perhaps tell's don't i'd"
    " i'm i've you'd what's and but or report us back give quick first next by way moment minute second chance looking at with this everything"
    " from standing here interest interests remind trying figure work as far can't cannot anyone someone somebody possibly up use your eyes look opinion view mean".split()
)
_OPENERS = re.compile(
    r"\b(?:how|where|whereabouts|what|which|who|is there|are there|is the|are the|is an?|is it|is my|is this|does|do you see|can you see|count|list|find|locate|measure|the)\b"
)
_PLACE = r"(?:on|in|at|of) (?:the|this|that|my|your|our) (?:table|desk|table ?top|image|picture|photo|view|scene|frame|world|room)"
_IN_SIGHT = re.compile(rf"\s+(?:{_PLACE}|in sight|anywhere|somewhere|in front of (?:you|us|me)|out there|around)$")
_ARTICLE = re.compile(r"^(?:(?:the|a|an|any|some|this|that|these|those|my|your|our|one|single)\s+)+")
_PRONOUN = re.compile(r"^(?:it|that|this|that one|this one|the same|the same one|they|them|he|she)$")
_OTHER_WORDS = re.compile(
    r"\b(?:is|are|was|were|be|do|does|did|has|have|will|would|could|should|what|which|who|whom|whose|where|when|why|how|that|and|or|not|no|than|if"
    r"|from|to|at|as|so|but|then|because|there|most|all|every|each|between|me|you|us|we|they|them|i|far|away|apart|much|many"
    r"|colou?r|position|location|whereabouts|distance|height|width|length|size|number|count|reading|fits?|go|goes|put|room|space|enough|possible)\b"
)
_ANY = re.compile(
    r"^(?:(?:any|some|no|every|all|the|other)\s*)?(?:objects?|things?|items?|something|anything|everything|thing|ones?|stuff)$"
)
_HERE = re.compile(
    r"^(?:the |your |this )?(?:camera|viewer|lens|you|us|me|here|my position|where you are|where i am|yourself|picture|image)$"
)
_ROBOT = re.compile(r"^(?:the |your |this )?(?:robot|base|robot base|robot's base|arm)$")
_LENGTH = r"(?:centimet(?:re|er)s?|millimet(?:re|er)s?|met(?:re|er)s?|inches|cm|mm)"
_GET = (
    r"(?:(?:what (?:is|was|are|would be|would you say is|do you think is)|measure|determine|estimate|calculate|compute|find(?: out)?|give(?: me)?|get(?: me)?"
    r"|tell(?: me)?|report|state|say|name|show(?: me)?|work out|i need(?: to know)?|i want|let me have|can i have|could i have|do you know) )?"
)
_THINK = r"(?:(?:would|do|can|could|did|will) (?:you|we|i|one) (?:say|think|reckon|estimate|measure|believe|guess|suppose|judge|expect|make)(?: that)?)"
_ADJECTIVES = {
    "height": r"tall|high|height",
    "width": r"wide|broad|width|breadth|thick",
    "length": r"long|length",
    "size": r"big|large|size|dimensions?",
}


def without_view(question: str) -> tuple[str, str]:
    """As grammar.without_view."""
    owner = r"(?P<o>[^,?.]+?)"
    for pattern in (
        rf"[,\s]*\b(?:as )?seen (?:from|by) {owner}(?:'s? (?:side|place|position|point of view|perspective|view))?(?=[,?.!]|$)",
        rf"[,\s]*\bfrom (?:the )?(?:point of view|perspective|viewpoint|side|position|eyes) of {owner}(?=[,?.!]|$)",
        rf"[,\s]*\b(?:from|in) {owner} ?(?:'s?)? (?:own )?(?:point of view|perspective|viewpoint|frame|view)(?=[,?.!\s]|$)",
        rf"[,\s]*\bfrom where {owner} (?:stands?|sits?|lies?|looks?|is|am|are)(?=[,?.!]|$)",
    ):
        if found := re.search(pattern, question, re.IGNORECASE):
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
    if _HERE.match(owner) or owner in ("my", "your", "our", "i", "the camera", "the viewer", "here"):
        return "viewer"
    return "robot" if _ROBOT.match(owner) else f"object:{_ARTICLE.sub('', owner)}"


def read(question: str, before: Understood | None = None) -> Understood | None:
    """As grammar.understood, the view already taken off."""
    text = " ".join(question.lower().replace("’", "'").split()).strip(' ?!.…"')
    text = re.sub(r"\b(where|what|who|how|that|there|it)'s\b", r"\1 is", text)
    follows = re.match(r"(?:[\w ]{1,12}, )?(?:and|then|what about|how about)\b", text)
    while (shorter := _AFTER.sub("", _POLITE.sub("", text))) != text:
        text = shorter
    for candidate in _candidates(text):
        for reader in (_distance, _size, _fits, _closest, _extreme, _look, _count, _where, _related, _exists, _list):
            with suppress(_NoName):
                if (told := reader(candidate)) is not None:
                    return _resolved(told, before)
    if before is not None and follows:
        if re.fullmatch(r"where(?: exactly| is that)?", text):
            return Understood("where", before.find[:1])
        with suppress(_NoName):
            return before._replace(find=(_name(re.sub(r"^(?:what|how) about ", "", text)), *before.find[1:]))
    return None


def _candidates(text: str) -> list[str]:
    """The text, and what is left of it without a beginning and an end that say nothing of a scene."""
    words = text.split()
    starts = [0] + [len(text[: found.start()].split()) for found in _OPENERS.finditer(text) if found.start()]
    starts = [k for k in starts if all(w.strip(",.:;!?") in _EMPTY_WORDS for w in words[:k])]
    ends = [len(words)]
    while ends[-1] > 2 and words[ends[-1] - 1].strip(",.:;!?") in _EMPTY_WORDS:
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
    return " ".join(_PERSONAL.sub(" ", text).split())


class _NoName(Exception):
    """Something that should be the name of a thing is none."""


def _name(text: str, any_is: str | None = None) -> str:
    """The name of a thing without its article. any_is: what "anything" and "object" stand for, None: they are no name here."""
    text = text.strip(" ,")
    if any_is is not None and (not text or _ANY.match(text)):
        return any_is
    if _PRONOUN.match(text):
        return "it"
    text = _ARTICLE.sub("", text)
    text = re.sub(r"(?:'s|')$", "", text)
    level = re.fullmatch(
        r"(?:(?:the )?(\w+)(?:st|nd|rd|th)? (?:level|shelf|board|tier) of (?:the )?(.+)|(.+) level (\d+))", text
    )
    if level and (told := _level(level)):
        return told
    if (
        not text
        or len(text.split()) > 6
        or _OTHER_WORDS.search(text)
        or _REL.search(f" {text} ")
        or not re.search(r"\w", text)
    ):
        raise _NoName
    return text


_ORDINALS = {w: i + 1 for i, w in enumerate(("first", "second", "third", "fourth", "fifth"))} | {
    "bottom": 1,
    "lowest": 1,
}


def _level(found: re.Match) -> str:
    if found[4]:
        return f"{_ARTICLE.sub('', found[3])} level {found[4]}"
    number = _ORDINALS.get(found[1]) or (int(digits[0]) if (digits := re.match(r"\d+", found[1])) else None)
    return f"{found[2]} level {number}" if number else ""


def _resolved(told: Understood, before: Understood | None) -> Understood:
    """With what "it" means: the thing that the question before was about."""
    if "it" not in told.find:
        return told
    if before is None or not before.find or before.find[0] == THING:
        raise _NoName
    return told._replace(find=tuple(before.find[0] if name == "it" else name for name in told.find))


def _singular(name: str) -> str:
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


def _plural(name: str) -> bool:
    return _singular(name) != name


# -- the kinds of questions, each a Understood or None where it is not one of them ---------------------------------------------


def _distance(text: str) -> Understood | None:
    is_ = rf"(?: (?:{_THINK}|is|are|was|stands?|lies?|sits?|would be|do i have to reach|does|do|might|would|should))(?! you | i )"
    far = r"(?:far|close|near|distant)(?: away| apart| off)?"
    end = r"(?: (?:stand|lie|sit|be|away|apart|off|located|placed|standing|lying|situated))*"
    for pattern in (
        r"how far (?:is it|is the way|do i (?:go|have to go|move|have to move)|would i go) from (?P<a>.+?) to (?P<b>.+)",
        rf"{_GET}how {far}{is_} (?!it to)(?P<a>.+?){end} (?:from|to|and) (?P<b>.+)",
        rf"{_GET}how {far} (?P<a>.+?){is_}{end} (?:from|to) (?P<b>.+)",
        rf"{_GET}how {far} (?:from|to) (?P<b>.+?){is_} (?P<a>.+?){end}",
        rf"{_GET}how {far} (?:are|is) (?P<a>.+?) and (?P<b>.+?)(?: apart)?(?: from (?:each other|one another))?",
        rf"{_GET}how far (?P<a>.+?) and (?P<b>.+?) are(?: apart)?(?: from (?:each other|one another))?",
        rf"(?:{_GET}|how (?:large|big|wide|long) is )(?:the )?(?:\w+ )?(?:distance|gap|space|way|separation)(?: there| that)?(?: is| in {_LENGTH})? (?:between|from|of|separating) (?P<a>.+?) (?:and|to|from) (?P<b>.+)",
        rf"(?:how many {_LENGTH}|(?:how much|what) (?:space|room|distance))(?: (?:is it|are there|is there|are|is|lies?|separates?|do you measure))? (?:between |from )?(?P<a>.+?) (?:and|to|from) (?P<b>.+)",
        rf"at (?:what|which) distance (?:from|to) (?P<b>.+?){is_} (?P<a>.+?){end}",
        rf"at (?:what|which) distance{is_} (?P<a>.+?){end} from (?P<b>.+)",
        r"(?P<a>.+?) and (?P<b>.+?),? how far (?:apart )?(?:are they|is that)(?: apart)?",
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(_NoName):
                return _between_two(found["a"], found["b"])
    for pattern in (
        r"how far(?: away)? (?:is it to|do i have to (?:reach|go) (?:for|to)) (?P<a>.+)",
        rf"{_GET}how {far}{is_} (?P<a>.+?){end}",
        rf"{_GET}how {far} (?P<a>.+?){is_}{end}",
        rf"{_GET}(?:the )?(?:\w+ )?distance (?:to|of) (?P<a>.+)",
        rf"how many {_LENGTH}(?: away)? (?:is it|is|are|away is)(?: to| away from)? (?P<a>(?!it to).+?)(?: away)?",
        rf"(?:at|in) (?:what|which) distance{is_} (?P<a>.+?){end}",
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(_NoName):
                return Understood("distance", (_name(found["a"]),))
    return None


def _between_two(a: str, b: str) -> Understood:
    for one, other in ((a, b), (b, a)):
        if _HERE.match(other.strip()):
            return Understood("distance", (_name(one),))
        if _ROBOT.match(other.strip()):
            return Understood("distance", (_name(one),), "robot")
    return Understood("distance", (_name(a), _name(b)))


def _size(text: str) -> Understood | None:
    for ask, words in _ADJECTIVES.items():
        noun = rf"(?:(?:exact|total|overall|approximate|measured|actual) )?(?:{words})(?: in {_LENGTH})?"
        for pattern in (
            rf"{_GET}how (?:many {_LENGTH} |much )?(?:{words})(?: in {_LENGTH})? (?:{_THINK}|is|are|was|would|might|may|could|can|does|do|will) (?P<a>(?!you )(?!i ).+?)(?: (?:is|are|be|stand|look|seem|get|measure|come|reach))?",
            rf"{_GET}how (?:many {_LENGTH} |much )?(?:{words}) (?P<a>.+?) (?:is|are|stands|measures)",
            rf"{_GET}(?:the )?{noun} of (?P<a>.+)",
            rf"{_GET}(?P<a>.+?)'s? {noun}",
            rf"(?:what|which|of what|of which) {noun} (?:does|do|is|are|has|have) (?P<a>.+?)(?: have| of)?",
            rf"(?P<a>.+?) (?:is|has|measures) (?:how|what) (?:many {_LENGTH} )?(?:{words})",
            rf"how many {_LENGTH}(?: (?:is|are|does|do))? (?P<a>.+?) (?:measure )?(?:in )?(?:{words})",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(_NoName):
                    return Understood(ask, (_name(_IN_SIGHT.sub("", found["a"])),))
    return None


def _fits(text: str) -> Understood | None:
    into = r"(?:in(?:to|side)?(?: of)?|within|on(?:to)?|through|between)"
    for pattern in (
        rf"(?:is it possible to|is there a way to|do i manage to|can one|may i|might i|should i be able to) (?:put|place|fit|get|squeeze|stow|store) (?P<a>.+?) {into} (?P<b>.+)",
        rf"(?:does|do|will|would|can|could|might|may|should|is|are) (?P<a>.+?)(?: (?:able|going|likely|possible) to)? (?:fit|go|be put|be placed|have room|get|be stowed|be stored|find room|find space)(?: well| right)? {into} (?P<b>.+)",
        rf"(?P<a>.+?) (?:fits?|would fit|will fit|can go|could go|goes|would go|will go|can fit|could fit) {into} (?P<b>.+)",
        r"(?:does|do|will|would|can|could|might|is|are) (?P<b>.+?)(?: able to)? (?:hold|take|contain|accommodate|receive|fit) (?P<a>.+)",
        rf"(?:would|will|could|should) there be (?:enough )?(?:room|space) for (?P<a>.+?) {into} (?P<b>.+)",
        rf"is there (?:enough )?(?:room|space) for (?P<a>.+?) {into} (?P<b>.+)",
        r"(?:is|are) (?P<b>.+?) (?:big|large|wide|roomy) enough (?:for|to (?:hold|take|contain|fit|accommodate|put in|receive)) (?P<a>.+)",
        r"(?:is|are) (?P<a>.+?) too (?:big|large|wide|tall|long) (?:for|to fit (?:in|into)) (?P<b>.+)",
        rf"(?:is|are) (?P<a>.+?) (?:small|narrow|thin) enough (?:for|to fit {into}|to go {into}) (?P<b>.+)",
        rf"(?:can|could) (?:i|we|you|one) (?:put|place|fit|get) (?P<a>.+?) {into} (?P<b>.+)",
        r"(?:does|do) (?P<b>.+?) have (?:enough )?(?:room|space) for (?P<a>.+)",
        rf"is there (?:enough |still )?(?:room|space) {into} (?P<b>.+?) for (?P<a>.+)",
        r"is (?P<a>.+?) (?:of )?(?:the right|the correct|a good|a fitting) size (?:for|to fit in(?:to)?) (?P<b>.+)",
        rf"(?:can|could|will|would|may|might|do|am|are) (?:i|we|you|one)(?: be)?(?: able to| manage to)? (?:put|place|fit|get|squeeze|drop|lay|store|stow|insert|slide|set) (?P<a>.+?) {into} (?P<b>.+)",
        rf"(?:try to |put |place |fit |fitting |putting |placing )(?P<a>.+?) {into} (?P<b>.+?)(?:,? (?:is that|would that be|would it be|is it) possible|,? does it fit|,? would it fit|,? works?)",
        r"(?:can|could) (?P<b>(?:the |your )?(?:gripper|hand|robot|arm)) (?:grasp|grip|grab|hold|take|pick up) (?P<a>.+)",
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(_NoName):
                b = _name(found["b"])
                return Understood(
                    "fits",
                    (
                        _name(found["a"]),
                        "gripper" if re.fullmatch(r"(?:robot(?:'s)? ?)?(?:gripper|hand|arm|jaws|fingers)?", b) else b,
                    ),
                )
    return None


def _closest(text: str) -> Understood | None:
    for ask, words in (
        ("nearest", r"(?:nearest|closest)"),
        ("farthest", r"(?:farthest|furthest|most distant)(?: away)?"),
    ):
        to = r"(?: (?:to|from|by) (?P<b>.+))?"
        for pattern in (
            rf"(?:what|which)(?P<a>(?: of)?(?: [\w -]+?)??) (?:is|are|stands?|lies?)(?: the)? {words}(?: one)?(?P<c> [\w -]+?)??{to}",
            rf"(?:what|which) (?P<a>.+?) (?:do|can) you see {words}{to}|what (?:do|can) you see (?:the )?{words}{to.replace('<b>', '<b2>')}",
            rf"(?:find|name|show me|show|locate|give me)? ?the {words}(?P<a> [\w -]+?)??{to}",
            rf"(?:find|name|show me|show|locate|give me)? ?the (?P<a>[\w -]+?) (?:that is )?(?:the )?{words}{to}",
            rf"what is the {words}(?P<a> [\w -]+?)??{to}",
        ):
            if found := re.fullmatch(pattern, text):
                groups = found.groupdict()
                a = re.sub(r"^\s*of\s+", "", groups.get("a") or "").strip() or (groups.get("c") or "")
                with suppress(_NoName):
                    return _closest_to(ask, _singular(_name(_one(a), THING)), groups.get("b") or groups.get("b2"))
    return None


def _one(text: str) -> str:
    return re.sub(r"^(?:the )?(?:one|ones)$", "", text.strip())


def _closest_to(ask: str, a: str, b: str | None) -> Understood:
    if b is None or _HERE.match(b):
        return Understood(ask, (a,))
    return Understood(ask, (a,), "robot") if _ROBOT.match(b) else Understood(ask, (a, _name(b)))


def _extreme(text: str) -> Understood | None:
    for side in ("left", "right"):
        most = rf"(?:{side}[- ]?most|(?:furthest|farthest|most)(?: to)?(?: the)? {side})"
        for pattern in (
            rf"(?:what|which)(?P<a> [\w -]+?)?? (?:is|are|stands?|lies?)(?: the)? {most}(?: one)?",
            rf"what is the {most}(?P<a> [\w -]+?)??",
            rf"(?:find|name|show me|show|locate)? ?the {most}(?P<a> [\w -]+?)??",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(_NoName):
                    return Understood(f"{side}most", (_singular(_name(_one(found["a"] or ""), THING)),))
    return None


def _look(text: str) -> Understood | None:
    """What looking answers: colours, dials, words."""
    for pattern in (
        r"(?:what|which) colou?r (?:is|are|has|does) (?P<a>.+?)(?: have| has)?",
        r"(?:what is |name )?the colou?r of (?P<a>.+)",
        r"(?:of|in) (?:what|which) colou?r is (?P<a>.+)",
        r"(?:do you see )?(?:what|which) colou?r (?P<a>.+?) (?:is|has)",
        r"(?:what is |name |tell me )?(?P<a>.+?)'s? colou?r",
        r"(?P<a>.+?) (?:is|has) (?:what|which) colou?r",
        r"(?:what|which) colou?r (?:would you say|would you call|do you see on|does one see on|is the paint of) (?P<a>.+?)(?: (?:is|has))?",
        r"is (?P<a>.+?) \w+ or (?:what|which) colou?r is it",
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(_NoName):
                return Understood("colour", (_name(_IN_SIGHT.sub("", found["a"])),))
    gauge = r"(?P<a>(?:the |this |that )?(?:[\w -]+ )?(?:gauge|dial|meter|manometer|thermometer|display))"
    sign = r"(?P<a>(?:the |this |that )?(?:[\w -]+ )?(?:sign|label|plate|notice|poster))"
    for ask, thing in (("reading", gauge), ("text", sign)):
        for pattern in (
            rf"(?:what|which|how much)(?: [\w]+)? does {thing} (?:read|show|say|indicate|display)",
            rf"(?:what is |give me |tell me )?the (?:reading|value|text|words?|writing|number) (?:of|on) {thing}",
            rf"read {thing}(?: aloud)?",
            rf"what {thing} (?:reads|says|shows|indicates)",
            rf"what (?:is|does it say|do you read|can you read|can i read|text is|word is|words are|number is) ?(?:written |printed )?on {thing}",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(_NoName):
                    return Understood(ask, (_name(found["a"]),))
    return None


def _count(text: str) -> Understood | None:
    there = r"(?: (?:are there|is there|are there any|do you see|can you see|do we have|have we got|are|are visible|can be seen|exist|there are|you see|i see|can i see|stand|lie|in (?:total|all)|altogether|in view))*"
    bare = _IN_SIGHT.sub("", text)
    for pattern in (
        rf"how many (?:of (?:the )?)?(?P<a>.+?){there}",
        r"count (?:all )?(?:the |of the )?(?P<a>.+)",
        rf"{_GET}(?:the |what )?(?:total )?(?:number|count|amount) of (?P<a>.+?){there}",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(_NoName):
                return Understood("count", (_singular(_name(found["a"], THING)),), several=True)
    return None


def _where(text: str) -> Understood | None:
    bare = _IN_SIGHT.sub("", text)
    for pattern in (
        rf"where(?: exactly)?(?: {_PLACE})? (?:is|are|did i (?:put|leave)|can i find|can you see|do you see|do i find|is it that|stands?|lies?) (?P<a>.+?)(?: (?:{_POSTURE}|hiding|hidden|to be found|at|to be seen))?(?: is| are)?",
        rf"where (?P<a>.+?) (?:is|are|stands?|lies?)(?: {_POSTURE})?",
        rf"where(?:abouts)?(?: exactly| precisely)?(?: {_PLACE})? (?:{_THINK}|(?:might|could|should|would|does|do|has|have|must|may|did|can)(?: (?:i|one|we|you) (?:have to |need to |must )?(?:look for|search for|search|reach for|find|see|spot|get|go for|expect|put|leave))?) (?P<a>(?!you )(?!i ).+?)(?: (?:is|are|be|stand|lie|sit|rest|gone|go|got to|(?:been |be )?(?:put|placed|left|found|hidden|moved|located|seen)))?",
        r"whereabouts (?:is|are) (?P<a>.+)",
        r"(?P<a>.+?)(?: is|,) where(?: is it)?",
        r"(?:have you seen|help me find|help me to find|point out|point me to|direct me to|spot|detect|pinpoint) (?P<a>.+)",
        rf"(?:at|in|on|)\s?(?:what|which) (?:part|corner|side|area|region|end|place|spot|position|location)(?: {_PLACE}| of \w+)? (?:is|are|does|do|holds|can i find|do i find|stands) (?P<a>.+?)(?: (?:in|at|on|stand|lie|sit))?",
        r"(?:what is |tell me |give me )?(?P<a>.+?)'s? (?:position|location|place|whereabouts)",
        r"(?:i am looking for|i'm looking for|i need|i want|find|locate|show me|point to|look for|search for|find me) (?P<a>.+?)(?:, where is (?:it|that))?",
        rf"{_GET}the (?:exact |precise )?(?:position|location|place|whereabouts|spot) of (?P<a>.+)",
        r"(?:in|at) (?:what|which) (?:place|position|location|spot) is (?P<a>.+)",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(_NoName):
                name = _name(found["a"])
                if re.match(r"(?:an?|any) ", found["a"]):
                    return Understood("exists", (name,), several=True)
                several = _plural(name) and name != "it"
                return Understood("where", (_singular(name) if several else name,), several=several)
    return None


def _related(text: str) -> Understood | None:
    """A relation in the middle: asked of two things, or of whatever stands in it."""
    bare = _IN_SIGHT.sub("", text) if len(_REL.findall(text)) > 1 else text
    for found in _REL.finditer(bare):
        told = _related_at(bare[: found.start()].strip(), _relation(found), bare[found.end() :].strip())
        if told is not None:
            return told
    return None


def _relation(found: re.Match) -> str:
    return next(name for i, name in enumerate(_RELATIONS) if found[f"r{i}"])


def _related_at(left: str, relation: str, right: str) -> Understood | None:
    if not left or not right:
        return None
    try:
        others = tuple(map(_name, right.split(" and ", 1))) if relation == "between" else (_name(right),)
    except _NoName:
        return None
    if relation == "between" and len(others) != 2:
        return None
    here = _IN_SIGHT.fullmatch(f" {relation} {right}")
    if here and re.match(r"(?:is|are|does|do|can|could)(?: you see)? (?:there|a|an|any)\b|any\b", left):
        return None  # "is there a mug on the table?" asks for a mug
    stands = rf"(?:{_STANDS}|(?:do|can|could) (?:you|we|i|one) (?:see|find|spot|notice|detect|make out)|can you (?:see|find)|have we got|do we have|you see|(?:that |which )(?:is|are|stands?|lies?))"
    left = re.sub(r"^(?:isn't|aren't|isn’t)\b", "is", left)
    if here and not re.search("table|desk", right) and re.match("what|which|who|name|list|show|tell", left):
        return Understood("list", (THING,), several=True)
    for pattern, several in (
        (
            rf"(?:what|who|which)(?: else)?(?P<a>(?: kinds? of| of)?(?: (?!do |can |could )[\w -]+?)?) {stands}(?: (?:there|standing|lying|placed|located|sitting))*",
            True,
        ),
        (r"(?:is|are) there (?P<a>(?:some|any|every)thing|(?:any|some)(?: other)? (?:objects?|things?|items?))", True),
        (r"(?:is|are) (?P<a>something|anything)", True),
        (rf"(?:list|name|show|show me|find|tell me|say)(?: all)?(?: the)?(?P<a> (?!what)[\w -]+?)(?: {stands})?", True),
        (rf"(?:list|name|show|show me|tell me|say)(?P<a>) what {_STANDS}", True),
        (r"(?:is|are) there (?P<a>.+)", None),
        (
            rf"(?:can you see|do you see|do i find|can i find|is it (?:the case )?that) (?P<a>.+?)(?: {_STANDS}| really)*",
            False,
        ),
        (
            rf"(?:is|are|was|were|does|do|has|have) (?!you |i |we )(?P<a>.+?)(?: (?:{_STANDS}|really|actually|indeed|been|{_POSTURE}|stand|lie|sit|rest|hang|somewhere|anywhere|found))*",
            False,
        ),
        (rf"(?P<a>.+?) {_STANDS}(?: really)?", False),
    ):
        if found := re.fullmatch(pattern, left):
            try:
                name = _name(_one(found["a"]), THING if several else None)
            except _NoName:
                continue
            if several is False and re.match(r"(?:an?|any|some|one) ", found["a"]):
                several = None  # any one will do
            return Understood(
                relation,
                (_singular(name) if several or several is None else name, *others),
                several=several is not False,
            )
    return None


def _exists(text: str) -> Understood | None:
    bare = _IN_SIGHT.sub("", text)
    for pattern in (
        r"(?:is|are) there (?:(?:a|an|any|some) )?(?P<a>.+)",
        r"(?:do|can|could) you (?:see|find|spot|detect) (?:a|an|any|some) (?P<a>.+)",
        r"(?:do we have|have we got|does the \w+ show|do you have) (?:a|an|any|some) (?P<a>.+)",
        r"is (?P<a>(?:a|an|any) .+?)(?: (?:in|on) the \w+)?(?: there| visible| present| to be seen| around)?",
        r"there is (?:a|an) (?P<a>.+)",
        r"(?:can|could) (?:a|an|any) (?P<a>.+?) be (?:seen|found|spotted)",
        r"(?:does|do) (?:a|an|any) (?P<a>.+?) (?:exist|stand|lie)(?: there)?",
        r"(?:are|is) (?P<a>(?:any|some) .+?)(?: there| visible| present| around)?",
        r"(?:have you got|has anybody put|do you spot|do you notice|did you see|have you seen) (?:a|an|any|some) (?P<a>.+)",
        r"any (?P<a>.+)",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(_NoName):
                return Understood("exists", (_singular(_name(found["a"])),), several=True)
    found = re.fullmatch(r"(?:can|do) you (?:see|find|spot) (?:the|my|that) (?P<a>.+)", bare)
    return Understood("where", (_name(found["a"]),)) if found else None


def _list(text: str) -> Understood | None:
    bare = _IN_SIGHT.sub("", text)
    things = r"(?:the )?(?:objects?|things?|items?|everything|what)"
    if re.fullmatch(
        rf"what(?: else)?(?: objects| things| items)? (?:is|are|do you see|can you see|is there|are there|have we got|do we have|lies|stands|is lying|you see|is visible)(?: there)?"
        rf"|(?:list|name|describe|show|show me|tell me)(?: all)?(?: of)? ?(?:{things}|the (?:scene|image|picture|photo|table|view))?(?: is| are)?(?: there)?(?: you see| is there)?"
        r"|which (?:objects|things|items) (?:are there|do you see|can you see|are)",
        bare,
    ):
        return Understood("list", (THING,), several=True)
    return None
