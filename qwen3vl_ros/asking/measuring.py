"""From what a question asks to facts, and from facts to what is to be said: the one place where the words of questions meet the
relations of geometry. Knows no model and no pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Callable, Sequence

from qwen3vl_ros.asking.finding import ANYTHING, Found, canonical
from qwen3vl_ros.asking.outcome import Code
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.layout import Layout, same_name
from qwen3vl_ros.geometry.supports import PLACES
from qwen3vl_ros.geometry.things import Surface, Thing
from qwen3vl_ros.questions.understand import QUANTITIES, RELATIONS, Understood
from qwen3vl_ros.questions.wording import Said, metres
from qwen3vl_ros.types import Fact, InvalidInput, Verdict

# What questions call it -> what geometry calls it.
RELATION = {name: name.replace(" ", "_") for name in RELATIONS}
_SIZES = {"height": (2,), "width": (1,), "length": (0,), "size": (0, 1, 2)}
_MEASURED = {*RELATIONS, *QUANTITIES, "list", "where", "count", "exists", "leftmost", "rightmost"}
_OTHERS_MATTER = {"where", "next to", "nearest", "farthest", "list", "leftmost", "rightmost"}
_ARITY = {"between": (3,), "nearest": (1, 2), "farthest": (1, 2), "distance": (1, 2)} | {
    ask: (2,) for ask in (*(r for r in RELATIONS if r != "between"), "fits")
}
_TRUTH = {Verdict.TRUE: True, Verdict.FALSE: False, Verdict.UNKNOWN: None}


@dataclass(frozen=True, eq=False)
class Conclusion:
    """What is to be said, its code, and the facts that it rests on, the main one first."""

    said: Said
    facts: tuple[Fact, ...] = ()
    code: Code = Code.OK


def is_measured(asked: Understood) -> bool:
    """Whether facts answer it, and not looking alone."""
    return asked.ask in _MEASURED


def is_whole(asked: Understood) -> bool:
    """Whether a question names as many things as what it asks needs."""
    return len(asked.find) in _ARITY.get(asked.ask, (1,)) and all(name.strip() for name in asked.find)


def to_find(asked: Understood) -> tuple[str, ...]:
    """The names that must be looked for; of a view, the thing that it is of."""
    names = [name for name in asked.find if name not in ANYTHING]
    return (*names, *([asked.view.removeprefix("object:")] if asked.view.startswith("object:") else []))


def needs_everything(asked: Understood) -> bool:
    """Whether things that the question does not name count for it."""
    return asked.ask in _OTHERS_MATTER or any(name in ANYTHING for name in asked.find)


def conclude(asked: Understood, found: Found) -> Conclusion:
    """What the layout of a picture says to a question. Raises InvalidInput for what cannot be asked of any."""
    layout = found.layout
    asked = asked._replace(find=tuple(canonical(name) for name in asked.find))
    missing = [n for n in to_find(asked) if not _is_there(layout, n)]
    if missing and asked.ask not in ("exists", "count"):
        told = tuple(facts.measure(layout, "exists", (n,)) for n in missing)
        return Conclusion(Said("absent", names=tuple(missing)), told, Code.NOT_FOUND)
    one_each = asked.find[1:] if asked.several else asked.find
    for name in one_each if asked.ask not in ("exists", "count", "list") else ():
        fitting = [t for t in layout.fitting(name) if isinstance(t, Thing)]
        if (
            len(fitting) > 1
            and name not in ANYTHING
            and asked.ask not in ("nearest", "farthest", "leftmost", "rightmost")
        ):
            descriptions = tuple(_described(layout, t, fitting) for t in fitting)
            told = (facts.measure(layout, "count", (name,)),)
            return Conclusion(
                Said("ambiguous", names=descriptions, count=len(fitting), support=name), told, Code.AMBIGUOUS
            )
    view = asked.view or "viewer"
    conclusion = _KINDS.get(asked.ask, _relation)(asked, layout, view)
    return replace(conclusion, said=replace(conclusion.said, view=view))


def _is_there(layout: Layout, name: str) -> bool:
    """Seen, measured or not; what geometry finds by itself needs no finding."""
    if not facts.things_named("distance", (name,)):
        return True
    (bare,) = facts.things_named("distance", (name,))
    return bool(layout.fitting(bare)) or any(r.id == bare or same_name(r.label, bare) for r in layout.refused)


def _described(layout: Layout, thing: Thing, among: Sequence[Thing]) -> str:
    """Its id, and where it is among those that it could be taken for."""
    far = facts.measure(layout, "distance", (thing.id,))
    left = all(
        facts.measure(layout, "left_of", (thing.id, o.id)).verdict is Verdict.TRUE for o in among if o is not thing
    )
    right = all(
        facts.measure(layout, "right_of", (thing.id, o.id)).verdict is Verdict.TRUE for o in among if o is not thing
    )
    side = " (left)" if left else " (right)" if right else ""
    return f"{thing.id}{side}" + (f", {metres(far.value)}" if not math.isnan(far.value) else "")


def _things(layout: Layout, name: str, but: Sequence[str] = ()) -> list[Thing]:
    """The things that a name fits, all for "object", but for those of other names."""
    others = [t for other in but for t in layout.fitting(other)]
    fitting = layout.things if name in ANYTHING else layout.fitting(name)
    return [t for t in fitting if isinstance(t, Thing) and t not in others]


# -- a conclusion a kind of question -------------------------------------------------------------------------------------------


def _relation(asked: Understood, layout: Layout, view: str) -> Conclusion:
    relation, a = RELATION[asked.ask], asked.find[0]
    if a in ANYTHING or (asked.several and len(layout.fitting(a)) > 1):
        return _which_related(asked, layout, view)
    if len({name.casefold() for name in asked.find}) < len(asked.find):
        raise InvalidInput(f"{', '.join(asked.find)}: the same thing twice; name different things")
    fact = facts.measure(layout, relation, asked.find, view)
    return Conclusion(Said("yes_no", _TRUTH[fact.verdict], reason=_why(fact)), (fact,))


def _why(fact: Fact) -> str:
    """The reason as a sentence has it: why it cannot be told; else how clear it is."""
    if fact.verdict is Verdict.UNKNOWN:
        return fact.reason
    gap = next((q.value for q in fact.values if q.name == "gap"), math.nan)
    return (
        f"{metres(gap)} of room between them"
        if fact.verdict is Verdict.TRUE and gap > 0.005 and fact.relation != "on"
        else ""
    )


def _which_related(asked: Understood, layout: Layout, view: str) -> Conclusion:
    """All that stand in the relation."""
    relation, (a, *rest) = RELATION[asked.ask], asked.find
    told = [facts.measure(layout, relation, (t.id, *rest), view) for t in _things(layout, a, rest)]
    told.sort(key=lambda f: -f.margin_m if not math.isnan(f.margin_m) else 0.0)
    true, unsure = ([f for f in told if f.verdict is v] for v in (Verdict.TRUE, Verdict.UNKNOWN))
    reason = "; ".join(_label(layout, f.arguments[0]) for f in unsure)
    said = Said("which", names=tuple(_label(layout, f.arguments[0]) for f in true), reason=reason)
    return Conclusion(said, (*true, *unsure, *(f for f in told if f.verdict is Verdict.FALSE)))


def _label(layout: Layout, name: str) -> str:
    return next((t.label for t in layout.fitting(name)), name)


def _closest(asked: Understood, layout: Layout, view: str) -> Conclusion:
    a, *rest = asked.find
    things = _things(layout, a, rest)
    told = [
        facts.which(layout, asked.ask, t.id, *rest, view=view)
        if a not in ANYTHING
        else facts.measure(layout, asked.ask, (t.id, *rest), view)
        for t in things
    ]
    if a not in ANYTHING and things:
        told = [facts.which(layout, asked.ask, a, *rest, view=view)]
    best = next((f for f in told if f.verdict is Verdict.TRUE), None)
    if best is None:
        unknown = next((f for f in told if f.verdict is Verdict.UNKNOWN), None)
        reason = unknown.reason if unknown else "nothing that could be measured is there"
        return Conclusion(Said("which", reason=reason), tuple(told), Code.OK if told else Code.NOT_FOUND)
    far = facts.measure(layout, "distance", (best.arguments[0], *rest), view)
    said = Said("which", names=(_label(layout, best.arguments[0]),), numbers_m=(far.value,), far_m=far.value)
    return Conclusion(said, (best, far))


def _extreme(asked: Understood, layout: Layout, view: str) -> Conclusion:
    relation = "left_of" if asked.ask == "leftmost" else "right_of"
    things = _things(layout, asked.find[0])
    of = {t.id: [facts.measure(layout, relation, (t.id, o.id), view) for o in things if o is not t] for t in things}
    for name, told in of.items():
        if all(f.verdict is Verdict.TRUE for f in told):
            return Conclusion(Said("which", names=(_label(layout, name),)), tuple(told))
    unsure = [f for told in of.values() if all(f.verdict is not Verdict.FALSE for f in told) for f in told]
    first = next((f for f in unsure if f.verdict is Verdict.UNKNOWN), None)
    reason = first.reason if first else "nothing that could be measured is there"
    return Conclusion(Said("which", reason=reason), tuple(unsure), Code.OK if things else Code.NOT_FOUND)


def _distance(asked: Understood, layout: Layout, view: str) -> Conclusion:
    fact = facts.measure(layout, "distance", asked.find, view)
    numbers = tuple(q.value for q in fact.values)[:1]
    return Conclusion(Said("number", numbers_m=numbers, reason="" if numbers else fact.reason), (fact,))


def _size(asked: Understood, layout: Layout, view: str) -> Conclusion:
    fact = facts.measure(layout, "size", asked.find)
    numbers = tuple(fact.values[k].value for k in _SIZES[asked.ask]) if fact.values else ()
    return Conclusion(Said("number", numbers_m=numbers, reason="" if numbers else fact.reason), (fact,))


def _fits(asked: Understood, layout: Layout, view: str) -> Conclusion:
    fact = facts.measure(layout, "fits", asked.find)
    reason = (
        f"{metres(abs(fact.margin_m))} {'to spare' if fact.margin_m > 0 else 'too large'}"
        if fact.verdict is not Verdict.UNKNOWN
        else fact.reason
    )
    return Conclusion(Said("yes_no", _TRUTH[fact.verdict], reason=reason), (fact,))


def _count(asked: Understood, layout: Layout, view: str) -> Conclusion:
    name = asked.find[0]
    if name in ANYTHING:
        labels = [t.label for t in layout.things] + [r.label for r in layout.refused]
        told = tuple(facts.measure(layout, "count", (label,)) for label in dict.fromkeys(labels))
        return Conclusion(Said("count", count=len(labels)), told)
    fact = facts.measure(layout, "count", (name,))
    return Conclusion(Said("count", count=int(fact.value)), (fact,))


def _exists(asked: Understood, layout: Layout, view: str) -> Conclusion:
    fact = facts.measure(layout, "exists", asked.find[:1])
    return Conclusion(Said("exists", fact.verdict is Verdict.TRUE), (fact,))


def _list(asked: Understood, layout: Layout, view: str) -> Conclusion:
    labels = [t.label for t in layout.things] + [r.label for r in layout.refused]
    told = tuple(facts.measure(layout, "count", (label,)) for label in dict.fromkeys(labels))
    return Conclusion(Said("which", names=tuple(labels)), told)


def _where(asked: Understood, layout: Layout, view: str) -> Conclusion:
    """In what, or on what, and where on that; and how far away. Of several things: of the one that is nearest first."""
    things = [t for t in layout.fitting(asked.find[0]) if isinstance(t, Thing)]
    if not things:
        fact = facts.measure(layout, "distance", asked.find, view)
        return Conclusion(Said("place", reason=fact.reason), (fact,))
    thing = min(things, key=lambda t: facts.measure(layout, "distance", (t.id,), view).value)
    far = facts.measure(layout, "distance", (thing.id,), view)
    far_m = None if math.isnan(far.value) else far.value
    numbers = () if far_m is None else (far_m,)
    for other in (*layout.things, *layout.surfaces):
        if other is not thing and (isinstance(other, Thing) or other.level):
            inside = facts.measure(layout, "in", (thing.id, other.id), view)
            if inside.verdict is Verdict.TRUE:
                return Conclusion(
                    Said("place", place="in", support=other.label, far_m=far_m, numbers_m=numbers), (inside, far)
                )
    on = facts.stands_on(layout, thing.id)
    if on.verdict is not Verdict.TRUE:
        return Conclusion(Said("place", far_m=far_m, numbers_m=numbers, reason=on.reason), (on, far))
    support = layout.fitting(on.arguments[1])[0]
    at = _place_on(layout, thing.id, support.id, view) if isinstance(support, Surface) and not support.level else None
    if at is None:
        return Conclusion(Said("place", place="on", support=support.label, far_m=far_m, numbers_m=numbers), (on, far))
    said = Said("place", place=at.arguments[2], support=support.label, far_m=far_m, numbers_m=numbers)
    return Conclusion(said, (at, on, far))


def _place_on(layout: Layout, name: str, support: str, view: str) -> Fact | None:
    """The narrowest place that it is at for certain: a corner before a side."""
    for places in (list(PLACES)[:5], list(PLACES)[5:]):
        told = [facts.measure(layout, "at", (name, support, place), view) for place in places]
        true = [f for f in told if f.verdict is Verdict.TRUE]
        if true:
            return max(true, key=lambda f: f.margin_m)
    return None


_KINDS: dict[str, Callable[[Understood, Layout, str], Conclusion]] = {
    "nearest": _closest,
    "farthest": _closest,
    "leftmost": _extreme,
    "rightmost": _extreme,
    "distance": _distance,
    **{ask: _size for ask in _SIZES},
    "fits": _fits,
    "count": _count,
    "exists": _exists,
    "list": _list,
    "where": _where,
}
