"""The kinds of English questions: each reader tells its own by the frame of the sentence, or returns None. Knows nothing of politeness."""

from __future__ import annotations

import re
from contextlib import suppress

from qwen3vl_ros.questions.grammar.english_words import (
    ADJECTIVES,
    GET,
    HERE_WORDS,
    IN_SIGHT,
    LENGTH,
    PLACE,
    POSTURE,
    REL,
    RELATIONS,
    ROBOT,
    STANDS,
    THING,
    THINK,
    NoName,
    plural,
    singular,
    thing_named,
)
from qwen3vl_ros.questions.understand import Understood


def distance(text: str) -> Understood | None:
    is_ = rf"(?: (?:{THINK}|is|are|was|stands?|lies?|sits?|would be|do i have to reach|does|do|might|would|should))(?! you | i )"
    far = r"(?:far|close|near|distant)(?: away| apart| off)?"
    end = r"(?: (?:stand|lie|sit|be|away|apart|off|located|placed|standing|lying|situated))*"
    for pattern in (
        r"how far (?:is it|is the way|do i (?:go|have to go|move|have to move)|would i go) from (?P<a>.+?) to (?P<b>.+)",
        rf"{GET}how {far}{is_} (?!it to)(?P<a>.+?){end} (?:from|to|and) (?P<b>.+)",
        rf"{GET}how {far} (?P<a>.+?){is_}{end} (?:from|to) (?P<b>.+)",
        rf"{GET}how {far} (?:from|to) (?P<b>.+?){is_} (?P<a>.+?){end}",
        rf"{GET}how {far} (?:are|is) (?P<a>.+?) and (?P<b>.+?)(?: apart)?(?: from (?:each other|one another))?",
        rf"{GET}how far (?P<a>.+?) and (?P<b>.+?) are(?: apart)?(?: from (?:each other|one another))?",
        rf"(?:{GET}|how (?:large|big|wide|long) is )(?:the )?(?:\w+ )?(?:distance|gap|space|way|separation)(?: there| that)?(?: is| in {LENGTH})? (?:between|from|of|separating) (?P<a>.+?) (?:and|to|from) (?P<b>.+)",
        rf"(?:how many {LENGTH}|(?:how much|what) (?:space|room|distance))(?: (?:is it|are there|is there|are|is|lies?|separates?|do you measure))? (?:between |from )?(?P<a>.+?) (?:and|to|from) (?P<b>.+)",
        rf"at (?:what|which) distance (?:from|to) (?P<b>.+?){is_} (?P<a>.+?){end}",
        rf"at (?:what|which) distance{is_} (?P<a>.+?){end} from (?P<b>.+)",
        r"(?P<a>.+?) and (?P<b>.+?),? how far (?:apart )?(?:are they|is that)(?: apart)?",
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(NoName):
                return _between_two(found["a"], found["b"])
    for pattern in (
        r"how far(?: away)? (?:is it to|do i have to (?:reach|go) (?:for|to)) (?P<a>.+)",
        rf"{GET}how {far}{is_} (?P<a>.+?){end}",
        rf"{GET}how {far} (?P<a>.+?){is_}{end}",
        rf"{GET}(?:the )?(?:\w+ )?distance (?:to|of) (?P<a>.+)",
        rf"how many {LENGTH}(?: away)? (?:is it|is|are|away is)(?: to| away from)? (?P<a>(?!it to).+?)(?: away)?",
        rf"(?:at|in) (?:what|which) distance{is_} (?P<a>.+?){end}",
    ):
        if found := re.fullmatch(pattern, text):
            with suppress(NoName):
                return Understood("distance", (thing_named(found["a"]),))
    return None


def _between_two(a: str, b: str) -> Understood:
    for one, other in ((a, b), (b, a)):
        if HERE_WORDS.match(other.strip()):
            return Understood("distance", (thing_named(one),))
        if ROBOT.match(other.strip()):
            return Understood("distance", (thing_named(one),), "robot")
    return Understood("distance", (thing_named(a), thing_named(b)))


def size(text: str) -> Understood | None:
    for ask, words in ADJECTIVES.items():
        noun = rf"(?:(?:exact|total|overall|approximate|measured|actual) )?(?:{words})(?: in {LENGTH})?"
        for pattern in (
            rf"{GET}how (?:many {LENGTH} |much )?(?:{words})(?: in {LENGTH})? (?:{THINK}|is|are|was|would|might|may|could|can|does|do|will) (?P<a>(?!you )(?!i ).+?)(?: (?:is|are|be|stand|look|seem|get|measure|come|reach))?",
            rf"{GET}how (?:many {LENGTH} |much )?(?:{words}) (?P<a>.+?) (?:is|are|stands|measures)",
            rf"{GET}(?:the )?{noun} of (?P<a>.+)",
            rf"{GET}(?P<a>.+?)'s? {noun}",
            rf"(?:what|which|of what|of which) {noun} (?:does|do|is|are|has|have) (?P<a>.+?)(?: have| of)?",
            rf"(?P<a>.+?) (?:is|has|measures) (?:how|what) (?:many {LENGTH} )?(?:{words})",
            rf"how many {LENGTH}(?: (?:is|are|does|do))? (?P<a>.+?) (?:measure )?(?:in )?(?:{words})",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(NoName):
                    return Understood(ask, (thing_named(IN_SIGHT.sub("", found["a"])),))
    return None


def fits(text: str) -> Understood | None:
    into = r"(?:in(?:to|side)?(?: of)?|within|on(?:to)?|through|between)"
    for pattern in (
        rf"(?:is it possible to|is there a way to|do i manage to|can one|may i|might i|should i be able to) (?:put|place|fit|get|squeeze|stow|store) (?P<a>.+?) {into} (?P<b>.+)",
        rf"(?:does|do|will|would|can|could|might|may|should|is|are) (?P<a>.+?)(?: (?:able|going|likely|possible) to)? (?:fit|go|be put|be placed|have room|get|be stowed|be stored|find room|find space)(?: well| right)? {into} (?P<b>.+)",
        rf"(?P<a>.+?) (?:fits?|would fit|will fit|can go|could go|goes|would go|will go|can fit|could fit) {into} (?P<b>.+)",
        r"(?:does|do|will|would|can|could|might|is|are) (?P<b>.+?)(?: able to)? (?:hold|take|accommodate|receive|fit) (?P<a>.+)",
        r"(?:will|would|can|could|might|is|are) (?P<b>.+?)(?: able to)? contain (?P<a>.+)",
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
            with suppress(NoName):
                b = thing_named(found["b"])
                return Understood(
                    "fits",
                    (
                        thing_named(found["a"]),
                        "gripper" if re.fullmatch(r"(?:robot(?:'s)? ?)?(?:gripper|hand|arm|jaws|fingers)?", b) else b,
                    ),
                )
    return None


def closest(text: str) -> Understood | None:
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
                with suppress(NoName):
                    return _closest_to(ask, singular(thing_named(_one(a), THING)), groups.get("b") or groups.get("b2"))
    return None


def _one(text: str) -> str:
    return re.sub(r"^(?:the )?(?:one|ones)$", "", text.strip())


def _closest_to(ask: str, a: str, b: str | None) -> Understood:
    if b is None or HERE_WORDS.match(b):
        return Understood(ask, (a,))
    return Understood(ask, (a,), "robot") if ROBOT.match(b) else Understood(ask, (a, thing_named(b)))


def extreme(text: str) -> Understood | None:
    for side in ("left", "right"):
        most = rf"(?:{side}[- ]?most|(?:furthest|farthest|most)(?: to)?(?: the)? {side})"
        for pattern in (
            rf"(?:what|which)(?P<a> [\w -]+?)?? (?:is|are|stands?|lies?)(?: the)? {most}(?: one)?",
            rf"what is the {most}(?P<a> [\w -]+?)??",
            rf"(?:find|name|show me|show|locate)? ?the {most}(?P<a> [\w -]+?)??",
        ):
            if found := re.fullmatch(pattern, text):
                with suppress(NoName):
                    return Understood(f"{side}most", (singular(thing_named(_one(found["a"] or ""), THING)),))
    return None


def look(text: str) -> Understood | None:
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
            with suppress(NoName):
                return Understood("colour", (thing_named(IN_SIGHT.sub("", found["a"])),))
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
                with suppress(NoName):
                    return Understood(ask, (thing_named(found["a"]),))
    return None


def count(text: str) -> Understood | None:
    there = r"(?: (?:are there|is there|are there any|do you see|can you see|do we have|have we got|are|are visible|can be seen|exist|there are|you see|i see|can i see|stand|lie|in (?:total|all)|altogether|in view))*"
    bare = IN_SIGHT.sub("", text)
    for pattern in (
        rf"how many (?:of (?:the )?)?(?P<a>.+?){there}",
        r"count (?:all )?(?:the |of the )?(?P<a>.+)",
        rf"{GET}(?:the |what )?(?:total )?(?:number|count|amount) of (?P<a>.+?){there}",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(NoName):
                return Understood("count", (singular(thing_named(found["a"], THING)),), several=True)
    return None


def where(text: str) -> Understood | None:
    bare = IN_SIGHT.sub("", text)
    for pattern in (
        rf"where(?: exactly)?(?: {PLACE})? (?:is|are|did i (?:put|leave)|can i find|can you see|do you see|do i find|is it that|stands?|lies?) (?P<a>.+?)(?: (?:{POSTURE}|hiding|hidden|to be found|at|to be seen))?(?: is| are)?",
        rf"where (?P<a>.+?) (?:is|are|stands?|lies?)(?: {POSTURE})?",
        rf"where(?:abouts)?(?: exactly| precisely)?(?: {PLACE})? (?:{THINK}|(?:might|could|should|would|does|do|has|have|must|may|did|can)(?: (?:i|one|we|you) (?:have to |need to |must )?(?:look for|search for|search|reach for|find|see|spot|get|go for|expect|put|leave))?) (?P<a>(?!you )(?!i ).+?)(?: (?:is|are|be|stand|lie|sit|rest|gone|go|got to|(?:been |be )?(?:put|placed|left|found|hidden|moved|located|seen)))?",
        r"whereabouts (?:is|are) (?P<a>.+)",
        r"(?P<a>.+?)(?: is|,) where(?: is it)?",
        r"(?:have you seen|help me find|help me to find|point out|point me to|direct me to|spot|detect|pinpoint) (?P<a>.+)",
        rf"(?:at|in|on|)\s?(?:what|which) (?:part|corner|side|area|region|end|place|spot|position|location)(?: {PLACE}| of \w+)? (?:is|are|does|do|holds|can i find|do i find|stands) (?P<a>.+?)(?: (?:in|at|on|stand|lie|sit))?",
        r"(?:at|in|on) (?:what|which) (?:part|corner|side|area|region|end|place|spot|position) (?P<a>.+?) (?:is|are|stands|lies|sits)",
        r"(?:what is |tell me |give me )?(?P<a>.+?)'s? (?:position|location|place|whereabouts)",
        r"(?:i am looking for|i'm looking for|i need|i want|find|locate|show me|point to|look for|search for|find me) (?P<a>.+?)(?:, where is (?:it|that))?",
        rf"{GET}the (?:exact |precise )?(?:position|location|place|whereabouts|spot) of (?P<a>.+)",
        r"(?:in|at) (?:what|which) (?:place|position|location|spot) is (?P<a>.+)",
    ):
        if found := re.fullmatch(pattern, bare):
            with suppress(NoName):
                name = thing_named(found["a"])
                if re.match(r"(?:an?|any) ", found["a"]):
                    return Understood("exists", (name,), several=True)
                several = plural(name) and name != "it"
                return Understood("where", (singular(name) if several else name,), several=several)
    return None


def related(text: str) -> Understood | None:
    """A relation in the middle: asked of two things, or of whatever stands in it."""
    if holds := re.fullmatch(r"(?:does|do) (?P<b>.+?) contain (?P<a>.+)", text):
        text = f"is {holds['a']} in {holds['b']}"
    bare = IN_SIGHT.sub("", text) if len(REL.findall(text)) > 1 else text
    for found in REL.finditer(bare):
        told = _related_at(bare[: found.start()].strip(), _relation(found), bare[found.end() :].strip())
        if told is not None:
            return told
    return None


def _relation(found: re.Match) -> str:
    return next(name for i, name in enumerate(RELATIONS) if found[f"r{i}"])


def _related_at(left: str, relation: str, right: str) -> Understood | None:
    if not left or not right:
        return None
    try:
        others = tuple(map(thing_named, right.split(" and ", 1))) if relation == "between" else (thing_named(right),)
    except NoName:
        return None
    if relation == "between" and len(others) != 2:
        return None
    here = IN_SIGHT.fullmatch(f" {relation} {right}")
    if here and re.match(r"(?:is|are|does|do|can|could)(?: you see)? (?:there|a|an|any)\b|any\b", left):
        return None  # "is there a mug on the table?" asks for a mug
    stands = rf"(?:{STANDS}|(?:do|can|could) (?:you|we|i|one) (?:see|find|spot|notice|detect|make out)|can you (?:see|find)|have we got|do we have|you see|(?:that |which )(?:is|are|stands?|lies?))"
    left = re.sub(r"^(?:isn't|aren't|isn’t)\b", "is", left)
    listed = re.match("what|which|who|name|list|show|tell", left) and not re.search(
        r"\b(?:the|an?|where|how)\b|:", left
    )
    if here and listed and not re.search("table|desk", right):
        return Understood("list", (THING,), several=True)
    for pattern, several in (
        (
            rf"(?:what|who|which)(?: else)?(?P<a>(?: kinds? of| of)?(?: (?!do |can |could )[\w -]+?)?) {stands}(?: (?:there|standing|lying|placed|located|sitting))*",
            True,
        ),
        (r"(?:is|are) there (?P<a>(?:some|any|every)thing|(?:any|some)(?: other)? (?:objects?|things?|items?))", True),
        (r"(?:is|are) (?P<a>something|anything)", True),
        (rf"(?:list|name|show|show me|find|tell me|say)(?: all)?(?: the)?(?P<a> (?!what)[\w -]+?)(?: {stands})?", True),
        (rf"(?:list|name|show|show me|tell me|say)(?P<a>) what {STANDS}", True),
        (r"(?:is|are) there (?P<a>.+)", None),
        (
            rf"(?:can you see|do you see|do i find|can i find|is it (?:the case )?that) (?P<a>.+?)(?: {STANDS}| really)*",
            False,
        ),
        (
            rf"(?:is|are|was|were|does|do|has|have) (?!you |i |we )(?P<a>.+?)(?: (?:{STANDS}|really|actually|indeed|been|{POSTURE}|stand|lie|sit|rest|hang|somewhere|anywhere|found))*",
            False,
        ),
        (rf"(?P<a>.+?) {STANDS}(?: really)?", False),
    ):
        if found := re.fullmatch(pattern, left):
            try:
                name = thing_named(_one(found["a"]), THING if several else None)
            except NoName:
                continue
            if several is False and re.match(r"(?:an?|any|some|one) ", found["a"]):
                several = None  # any one will do
            return Understood(
                relation,
                (singular(name) if several or several is None else name, *others),
                several=several is not False,
            )
    return None


def exists(text: str) -> Understood | None:
    bare = IN_SIGHT.sub("", text)
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
            with suppress(NoName):
                return Understood("exists", (singular(thing_named(found["a"])),), several=True)
    found = re.fullmatch(r"(?:can|do) you (?:see|find|spot) (?:the|my|that) (?P<a>.+)", bare)
    return Understood("where", (thing_named(found["a"]),)) if found else None


def list_(text: str) -> Understood | None:
    bare = IN_SIGHT.sub("", text)
    things = r"(?:the )?(?:objects?|things?|items?|everything|what)"
    if re.fullmatch(
        rf"what(?: else)?(?: objects| things| items)? (?:is|are|do you see|can you see|is there|are there|have we got|do we have|lies|stands|is lying|you see|is visible)(?: there)?"
        rf"|(?:list|name|describe|show|show me|tell me)(?: all)?(?: of)? ?(?:{things}|the (?:scene|image|picture|photo|table|view))?(?: is| are)?(?: there)?(?: you see| is there)?"
        r"|which (?:objects|things|items) (?:are there|do you see|can you see|are)",
        bare,
    ):
        return Understood("list", (THING,), several=True)
    return None


READERS = (distance, size, fits, closest, extreme, look, count, where, related, exists, list_)
