"""One evaluator for every spatial statement: names and a relation in, a Fact out that says TRUE, FALSE or UNKNOWN.

`relations.py` measures margins; here names become things, margins meet their thresholds, and whatever cannot be told gets a
reason. The definitions are in docs/spatial.md. Knows nothing of images, models or ROS: a `Layout` is plain values.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np

from qwen3vl_ros.geometry import relations
from qwen3vl_ros.geometry.hulls import depth_inside
from qwen3vl_ros.geometry.layout import CannotTell, Layout, same_name
from qwen3vl_ros.geometry.relations import Margin, cm
from qwen3vl_ros.geometry.supports import PLACES, place_margin
from qwen3vl_ros.geometry.things import Body, Surface, Thing
from qwen3vl_ros.types import Fact, InvalidInput, Quantity, Verdict, quoted

# Of a surface's extent, standard deviation of the lines between its thirds: 95 in 100 are off by less than 0.031.
_BORDER_SHARE = 0.0155
_ORDER_M = 0.01
_LEVEL = re.compile(r"(.+) level \d+", re.IGNORECASE)
_FOUND_BY_GEOMETRY = re.compile(r"table|surface \d+|gripper", re.IGNORECASE)


@dataclass(frozen=True)
class _Kind:
    """arguments: how many, at least and at most.   view: "any" where left and front matter, else what the fact says."""

    arguments: tuple[int, int]
    view: str = ""
    level: bool = True  # it needs to know what is up


# Axis of the order, whether A and B change places, what it is called and what its opposite is called.
_ORDERS = {
    "left_of": ("right", False, "to the left of", "to the right of"),
    "right_of": ("right", True, "to the right of", "to the left of"),
    "in_front_of": ("forward", False, "in front of", "behind"),
    "behind": ("forward", True, "behind", "in front of"),
    "above": ("up", True, "above", "below"),
    "below": ("up", False, "below", "above"),
}
RELATIONS: dict[str, _Kind] = {
    **{name: _Kind((2, 2), "gravity" if order[0] == "up" else "any") for name, order in _ORDERS.items()},
    "on": _Kind((2, 2), "gravity"),
    "in": _Kind((2, 2), "gravity"),
    "at": _Kind((3, 3), "any"),
    "next_to": _Kind((2, 2)),
    "between": _Kind((3, 3)),
    "nearest": _Kind((1, 2), "any", level=False),
    "farthest": _Kind((1, 2), "any", level=False),
    "distance": _Kind((1, 2), "any", level=False),
    "size": _Kind((1, 1)),
    "fits": _Kind((2, 2)),
    "count": _Kind((1, 1), level=False),
    "exists": _Kind((1, 1), level=False),
    "holding": _Kind((0, 1), level=False),
}


def measure(layout: Layout, relation: str, arguments: Sequence[str] = (), view: str = "viewer") -> Fact:
    """The fact that `relation` holds of `arguments`, ids or labels; docs/spatial.md says what each relation means.

    view: "viewer", "robot" or "object:<id>"; it counts only where left, front or a point to measure from is meant.
    Raises InvalidInput for an unknown relation, view or place, a wrong number of arguments, and the same thing twice.
    Whatever is not known about the scene makes the fact UNKNOWN, with the reason in words.
    """
    arguments = tuple(arguments)
    kind = check(relation, arguments, view)
    asked = Fact(relation, arguments, view if kind.view == "any" else kind.view)
    return _told(layout, asked, layout.things)


def which(layout: Layout, relation: str, phrase: str, to: str | None = None, view: str = "viewer") -> Fact:
    """The nearest or farthest of the things that a phrase fits; the fact's first argument is the winner's id.

    to: what they are measured from; None: the camera or the robot, as the view says.
    """
    if relation not in ("nearest", "farthest"):
        raise InvalidInput(f"which({relation!r}): only nearest and farthest choose among things")
    rest = () if to is None else (to,)
    check(relation, (phrase, *rest), view)
    fitting = [t for t in layout.fitting(phrase) if isinstance(t, Thing)]
    facts = [_told(layout, Fact(relation, (t.id, *rest), view), fitting) for t in fitting]
    return max(facts, key=standing) if facts else measure(layout, relation, (phrase, *rest), view)


def stands_on(layout: Layout, name: str) -> Fact:
    """The best "on" fact of a thing: its second argument is the id of the surface or thing that carries it."""
    others = [t.id for t in (*layout.surfaces, *layout.things) if t not in layout.fitting(name)]
    facts = [measure(layout, "on", (name, other)) for other in others]
    return max(facts, key=standing, default=Fact("on", (name, ""), "gravity", reason="nothing else is known"))


def where_on(layout: Layout, name: str, support: str, view: str = "viewer") -> Fact:
    """The "at" fact that says best where on a support a thing is: its third argument is the place in words."""
    return max((measure(layout, "at", (name, support, place), view) for place in PLACES), key=standing)


def things_named(relation: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """What must be found in a picture to measure a statement: each name once, a shelf for its levels.

    Not the place of "at", nor the gripper, nor what geometry finds by itself: the table and other planes.
    """
    names = [name.strip() for name in (arguments[:2] if relation == "at" else arguments)]
    names = [match.group(1) if (match := _LEVEL.fullmatch(name)) else name for name in names]
    return tuple(dict.fromkeys(name for name in names if not _FOUND_BY_GEOMETRY.fullmatch(name)))


def check(relation: str, arguments: Sequence[str], view: str) -> _Kind:
    """What is known of a relation. Raises InvalidInput for what cannot be asked of any scene."""
    arguments = tuple(arguments)
    kind = RELATIONS.get(relation)
    if kind is None:
        raise InvalidInput(f"relation {quoted(relation)} is unknown; known are {', '.join(RELATIONS)}")
    least, most = kind.arguments
    if not least <= len(arguments) <= most:
        wanted = f"{least}" if least == most else f"{least} or {most}"
        raise InvalidInput(
            f"{relation} takes {wanted} arguments, got {len(arguments)}: {', '.join(arguments) or 'none'}"
        )
    if any(not isinstance(a, str) or not a.strip() for a in arguments):
        raise InvalidInput(f"{relation} was asked of an empty name; give an id or a label")
    if view not in ("viewer", "robot") and not (view.startswith("object:") and view != "object:"):
        if not (view == kind.view == "gravity" or view == kind.view == ""):
            raise InvalidInput(f"view {quoted(view)} is unknown; known are viewer, robot and object:<id>")
    if relation == "at" and arguments[2] not in PLACES:
        raise InvalidInput(f"place {quoted(arguments[2])} is unknown; known are {', '.join(PLACES)}")
    return Fact(relation, arguments, view if kind.view == "any" else kind.view)


def _told(layout: Layout, asked: Fact, candidates: Sequence[Thing]) -> Fact:
    """The fact as measured, or UNKNOWN with the reason why it cannot be told."""
    try:
        if RELATIONS[asked.relation].level and layout.viewpoint.up is None:
            raise CannotTell("nobody knows what is up: neither gravity nor a support plane was measured")
        verdict, margin = _ask(layout, asked, candidates)
    except CannotTell as why:
        return replace(asked, reason=f"{why}", stamp_ns=layout.now_ns)
    stamp_ns = min((t.stamp_ns for name in asked.arguments for t in layout.fitting(name)), default=layout.now_ns)
    return replace(
        asked,
        verdict=verdict,
        margin_m=float(margin.margin_m),
        sigma_m=float(margin.sigma_m),
        values=margin.values,
        surface="seen" if margin.seen else "completed",
        stamp_ns=stamp_ns,
        age_s=(layout.now_ns - stamp_ns) / 1e9,
        reason=margin.reason,
    )


def _ask(layout: Layout, asked: Fact, candidates: Sequence[Thing]) -> tuple[Verdict, Margin]:
    relation, arguments = asked.relation, asked.arguments
    if relation in _ORDERS:
        return _order(layout, asked)
    if relation in ("nearest", "farthest"):
        return _closest(layout, asked, candidates)
    if relation == "between":
        return _contact(relations.between(*layout.different(arguments)))
    if relation == "distance":
        return Verdict.TRUE, relations.distance(layout.body(arguments[0]), layout.origin(asked))
    if relation == "size":
        return Verdict.TRUE, relations.size(layout.body(arguments[0]))
    others = {"on": _on, "in": _in, "at": _at, "next_to": _next_to, "fits": _fits, "count": _count, "exists": _exists}
    return (others | {"holding": _holding})[relation](layout, asked)


def _order(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    axis, swapped, words, opposite = _ORDERS[asked.relation]
    a, b = layout.different(asked.arguments)
    directions = layout.directions("viewer" if axis == "up" else asked.view)
    first, second = (b, a) if swapped else (a, b)
    margin = relations.before(first, second, directions[axis], by_middles=axis != "up")
    against = relations.before(second, first, directions[axis], by_middles=axis != "up")
    enough, enough_against = (max(_ORDER_M, 2 * m.sigma_m) for m in (margin, against))
    if margin.margin_m > enough:
        verdict, reason = Verdict.TRUE, _ordered(a, b, margin, words)
    elif against.margin_m > enough_against:
        verdict, reason = Verdict.FALSE, _ordered(a, b, against, opposite)
    else:
        verdict, reason = Verdict.UNKNOWN, _unordered(a, b, margin, against, words, enough)
    margin = replace(margin, reason=reason)
    if axis == "right" and asked.view == "viewer" and verdict is not Verdict.UNKNOWN:
        return _agreeing(layout, first, second, verdict, margin, directions["right"])
    return verdict, margin


def _agreeing(layout: Layout, first: Body, second: Body, verdict: Verdict, margin: Margin, right: np.ndarray):
    """The verdict, unless the picture shows the two in the other order: then it depends on what one means."""
    eye, axis = (layout.level_R_frame @ np.asarray(layout.viewpoint.frame_T_camera, float)[:3, k] for k in (3, 2))
    shift = relations.order_in_image(first, second, eye, axis, right)
    if math.isnan(shift) or (shift > 0) == (verdict is Verdict.TRUE):
        return verdict, margin
    values = (*margin.values, Quantity("image", shift, ""))
    reason = f"{margin.reason}, but the image shows them the other way round, by {abs(shift):.3f} focal lengths"
    return Verdict.UNKNOWN, replace(margin, values=values, reason=reason)


def _on(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    a, b = layout.different(asked.arguments)
    if layout.held and a.thing.id == layout.held:
        return Verdict.FALSE, Margin(math.nan, math.nan, f"{a.name} is in the gripper, and so on nothing")
    return _contact(relations.on(a, b))


def _in(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    a, b = layout.different(asked.arguments)
    if b.rim is not None or (isinstance(b.thing, Surface) and b.thing.level > 0):
        return _contact(relations.within(a, b))
    verdict, margin = _contact(relations.beside_all_of(a, b))
    if verdict is Verdict.FALSE:
        return verdict, margin
    raise CannotTell(f"no inside of {b.name} was measured")


def _at(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    a, b = layout.different(asked.arguments[:2])
    directions = layout.directions(asked.view)
    margin = float(
        place_margin(b.outline, a.centre[:2], asked.arguments[2], directions["right"], directions["forward"])
    )
    words = (
        f"the middle of {a.name} is {cm(abs(margin))} {'inside' if margin > 0 else 'outside'} the {asked.arguments[2]}"
    )
    # What hides a border, or its angle, moves the thirds of a surface that is seen in part.
    unseen = _BORDER_SHARE * float(np.ptp(b.outline, axis=0).max()) if b.sigma_m > 0 else 0.0
    sigma = math.hypot(a.sigma_m, b.sigma_m, unseen)
    return _contact(Margin(margin, sigma, f"{words} of {b.name}"), at_least=_ORDER_M)


def _next_to(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    a, b = layout.different(asked.arguments)
    others = [layout.body_of(t) for t in layout.things if t not in (a.thing, b.thing)]
    others = [o for o in others if not (_houses(o, a) or _houses(o, b))]  # a shelf is not between what stands in it
    return _contact(relations.next_to(a, b, others))


def _houses(o: Body, a: Body) -> bool:
    """Whether o is around a, or under it: the middle of a's foot is over o's outline and not below o."""
    over = depth_inside(o.outline, a.foot_centre)[0] > 0
    return bool(over) and float(a.hull[:, 2].min()) > float(o.hull[:, 2].min()) + 0.01


def _closest(layout: Layout, asked: Fact, candidates: Sequence[Thing]) -> tuple[Verdict, Margin]:
    a, origin = layout.body(asked.arguments[0]), layout.origin(asked)
    others = [layout.body_of(t) for t in candidates if t not in (a.thing, origin.thing)]
    if not others:
        return Verdict.TRUE, Margin(math.nan, math.nan, f"{a.name} is the only one known")
    return _contact(relations.closest(a, origin, others, asked.relation == "farthest"), at_least=_ORDER_M)


def _fits(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    a = layout.body(asked.arguments[0])
    if same_name(asked.arguments[1], "gripper"):
        if layout.gripper_opening_m is None:
            raise CannotTell("nobody knows how far the gripper opens")
        return _contact(relations.fits_opening(a, layout.gripper_opening_m))
    a, b = layout.different(asked.arguments)
    if b.rim is None and not isinstance(b.thing, Surface):
        raise CannotTell(f"no inside of {b.name} was measured")
    return _contact(relations.fits_inside(a, b))


def _named(layout: Layout, phrase: str) -> tuple[int, bool]:
    """How many things, measured or only seen, a phrase fits; and whether somebody looked for it."""
    found = len(layout.fitting(phrase)) + sum(r.id == phrase or same_name(r.label, phrase) for r in layout.refused)
    return found, found > 0 or any(same_name(phrase, other) for other in layout.looked_for or ())


def _count(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    found, looked = _named(layout, asked.arguments[0])
    if not looked:
        raise CannotTell(f"nobody looked for {asked.arguments[0]!r}")
    values = (Quantity("count", float(found), ""),)
    return Verdict.TRUE, Margin(math.nan, math.nan, f"{found} of {asked.arguments[0]!r} seen", True, values)


def _exists(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    found, looked = _named(layout, asked.arguments[0])
    if not looked:
        raise CannotTell(f"nobody looked for {asked.arguments[0]!r}")
    reason = f"{found} of {asked.arguments[0]!r} seen" if found else f"looked for {asked.arguments[0]!r} and saw none"
    return Verdict.TRUE if found else Verdict.FALSE, Margin(math.nan, math.nan, reason)


def _holding(layout: Layout, asked: Fact) -> tuple[Verdict, Margin]:
    if layout.held is None:
        raise CannotTell("nobody says what the gripper holds")
    right = bool(layout.held) if not asked.arguments else layout.body(asked.arguments[0]).thing.id == layout.held
    what = layout.body(layout.held).name if layout.held and layout.fitting(layout.held) else layout.held or "nothing"
    return Verdict.TRUE if right else Verdict.FALSE, Margin(math.nan, math.nan, f"the gripper holds {what}")


def _contact(margin: Margin, at_least: float = 0.0) -> tuple[Verdict, Margin]:
    """The verdict of a margin that decides both ways, and the margin with what is missing in its reason."""
    enough = max(at_least, 2 * margin.sigma_m)
    if margin.margin_m > enough:
        return Verdict.TRUE, margin
    if margin.margin_m < -enough:
        return Verdict.FALSE, margin
    return Verdict.UNKNOWN, replace(margin, reason=f"{margin.reason}; {_too_close(margin.margin_m, enough)}")


def _too_close(margin_m: float, enough_m: float) -> str:
    return f"too close to tell: the margin is {cm(margin_m)}, more than {cm(enough_m)} would decide"


def _ordered(a: Body, b: Body, margin: Margin, words: str) -> str:
    gap, middles = (value.value for value in margin.values)
    if gap >= 0:
        return f"{a.name} is {words} {b.name}, {cm(gap)} of room between them"
    return f"the middle of {a.name} is {cm(middles)} {words} that of {b.name}, though they overlap by {cm(-gap)}"


def _unordered(a: Body, b: Body, margin: Margin, against: Margin, words: str, enough_m: float) -> str:
    gap = max(margin, against, key=lambda m: m.margin_m).values[0].value
    state = f"only {cm(gap)} of room between them" if gap >= 0 else f"they overlap by {cm(-gap)} along that direction"
    return f"{a.name} and {b.name}, {words}: {state}; {_too_close(margin.margin_m, enough_m)}"


def standing(fact: Fact) -> tuple[bool, bool, float]:
    """Order of facts: what holds before what may hold before what does not, the clearest first."""
    margin = -math.inf if math.isnan(fact.margin_m) else fact.margin_m
    return fact.verdict is Verdict.TRUE, fact.verdict is Verdict.UNKNOWN, margin
