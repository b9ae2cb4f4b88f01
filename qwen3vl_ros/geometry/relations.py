"""The margin of every spatial relation and the value of every quantity, on bodies in a level frame (z up).

One function a relation, each a line of docs/spatial.md. A margin is positive where the statement holds, in metres, with
its standard deviation. Knows nothing of names, thresholds or verdicts: those are facts.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from qwen3vl_ros.geometry.hulls import (
    Closest,
    apart,
    centroid,
    closest_points,
    depth_inside,
    middle_closest_points,
    near,
    outline,
    outward,
)
from qwen3vl_ros.geometry.things import Body, Surface
from qwen3vl_ros.types import Quantity

CONTACT_M = 0.01  # two surfaces this close touch
_NEXT_M = 0.05
_CORRIDOR_M = 0.10
_UP = np.array((0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Margin:
    """How far a statement is from turning over, metres; sigma_m its standard deviation; reason: what was measured.

    seen: whether it rests on measured surface alone. values: the main number first.
    """

    margin_m: float
    sigma_m: float
    reason: str
    seen: bool = True
    values: tuple[Quantity, ...] = ()


def cm(metres: float) -> str:
    return f"{100 * metres:.1f} cm"


# -- orders ------------------------------------------------------------------------------------------------------


def before(a: Body, b: Body, d: np.ndarray, by_middles: bool = True) -> Margin:
    """A before B along the unit vector d: by the room between them, or by the order of their middles if that is clearer."""
    (a_low, a_high), (b_low, b_high) = a.span(d), b.span(d)
    gap, middles = b_low.at - a_high.at, float((b.centre - a.centre) @ d)
    values = (Quantity("gap", gap), Quantity("middles", middles))
    margin = middles - min(a_high.at - a_low.at, b_high.at - b_low.at) / 2
    if gap >= margin or not by_middles:
        return Margin(gap, math.hypot(a_high.sigma_m, b_low.sigma_m), "", a_high.seen and b_low.seen, values)
    ends = (a_low, a_high, b_low, b_high)
    sigma = math.sqrt(sum(end.sigma_m**2 for end in ends)) / 2
    return Margin(margin, sigma, "", all(end.seen for end in ends), values)


def order_in_image(a: Body, b: Body, eye: np.ndarray, axis: np.ndarray, right: np.ndarray) -> float:
    """How far B's centre lies to the right of A's in the image, in focal lengths; NaN behind the camera."""
    (depth_a, depth_b) = ((body.centre - eye) @ axis for body in (a, b))
    if min(depth_a, depth_b) <= 0:
        return math.nan
    return float((b.centre - eye) @ right / depth_b - (a.centre - eye) @ right / depth_a)


# -- contacts ----------------------------------------------------------------------------------------------------


def on(a: Body, b: Body) -> Margin:
    """A stands on B: its lower end meets B's top under it, and the middle of its footprint is over B."""
    gap, sigma, seen = _gap_above(a, b)
    over = float(depth_inside(b.outline, a.centre[:2])[0])
    if over < CONTACT_M - abs(gap):
        sigma = math.hypot(a.sigma_m, b.sigma_m)
    if over < 0:
        reason = f"the middle of {a.name} is {cm(-over)} beside {b.name}"
    elif abs(gap) < CONTACT_M:
        reason = f"the foot of {a.name} is within {cm(abs(gap))} of the top of {b.name}"
    else:
        reason = f"the foot of {a.name} is {cm(abs(gap))} {'above' if gap > 0 else 'below'} the top of {b.name} there"
    return Margin(min(CONTACT_M - abs(gap), over), sigma, reason, seen, (Quantity("gap", gap), Quantity("over", over)))


def _gap_above(a: Body, b: Body) -> tuple[float, float, bool]:
    """How far A's lower end is above the top of B under it, metres; its sigma; whether both were seen."""
    up = _UP if b.normal is None else b.normal
    foot, _ = a.span(up)
    if b.normal is not None:
        return foot.at - float(b.hull[0] @ up), math.hypot(foot.sigma_m, b.sigma_along(up)), foot.seen
    _, top = b.span(up)
    under = b.points[near(a.outline, b.points[:, :2], CONTACT_M), 2]
    under = under[under < a.centre[2]]  # higher ones are B's walls around A, or A's own that were taken for B's
    height = min(top.at, float(np.percentile(under, 95))) if len(under) >= 20 else top.at
    if b.rim is not None and float(depth_inside(outline(b.rim[:, :2]), a.foot_centre)[0]) > 0:
        # What reaches into an opening stands on the floor in there, even where its sides are over the rim.
        floor = float(b.rim[:, 2].mean()) - b.thing.inside.depth_m
        if abs(foot.at - floor) < abs(foot.at - height):
            return foot.at - floor, math.hypot(foot.sigma_m, b.sigma_along(up)), foot.seen
    return foot.at - height, math.hypot(foot.sigma_m, top.sigma_m), foot.seen and top.seen


def within(a: Body, b: Body) -> Margin:
    """A is in B: its lower end between the inner floor and the rim, the middle of its lowest quarter within the rim."""
    foot, _ = a.span(_UP)
    border = outline(b.rim[:, :2]) if b.rim is not None else b.outline
    middle = float(depth_inside(border, a.foot_centre)[0])
    if isinstance(b.thing, Surface):  # a level: its room reaches up to what is above it
        floor = foot.at - _gap_above(a, b)[0]
        rim = floor + b.thing.clear_m
    else:
        floor, rim = b.span(_UP)[0].at, float(b.rim[:, 2].mean())
    below_rim, above_floor = rim - foot.at, foot.at - floor + CONTACT_M
    if middle < 0:
        reason = f"the foot of {a.name} is {cm(-middle)} beside the opening of {b.name}"
    elif below_rim < 0:
        reason = f"the foot of {a.name} is {cm(-below_rim)} above the rim of {b.name}"
    elif above_floor < 0:
        reason = f"the foot of {a.name} is {cm(-above_floor)} below the floor of {b.name}"
    else:
        reason = f"the foot of {a.name} is {cm(min(below_rim, middle))} inside the rim of {b.name}"
    margin = min(below_rim, above_floor, middle)
    sigma = math.hypot(a.sigma_m, b.sigma_m) if margin == middle else math.hypot(foot.sigma_m, b.sigma_along(_UP))
    values = (Quantity("below rim", below_rim),) if math.isfinite(below_rim) else ()
    return Margin(margin, sigma, reason, foot.seen, values)


def beside_all_of(a: Body, b: Body) -> Margin:
    """Of a B without a measured inside one can only say that A's foot is over it, or beside it and so not in it."""
    middle = float(depth_inside(b.outline, a.foot_centre)[0])
    return Margin(middle, math.hypot(a.sigma_m, b.sigma_m), f"the foot of {a.name} is {cm(-middle)} beside {b.name}")


# -- neighbours --------------------------------------------------------------------------------------------------


def next_to(a: Body, b: Body, others: Sequence[Body]) -> Margin:
    """A beside B, no farther off than a quarter of their sizes (at least 5 cm), with nothing between."""
    nearest = closest_points(a.hull, b.hull)
    gap, sigma, seen = nearest.distance_m, math.hypot(a.sigma_m, b.sigma_m), _both_seen(a, b, nearest)
    reach = max(_NEXT_M, (a.size_m.max() + b.size_m.max()) / 4)
    margin, reason = reach - gap, f"{a.name} and {b.name} are {cm(gap)} apart, next to means less than {cm(reach)}"
    beside = apart(a.outline, b.outline)
    if CONTACT_M + beside < margin:
        margin = CONTACT_M + beside
        if beside < 0:
            reason = f"{a.name} and {b.name} overlap by {cm(-beside)} seen from above, they are not side by side"
    others = [o for o in others if _may_be_between(o, a, b, margin)] if gap > 0 else []
    line = middle_closest_points(a.hull, b.hull, a.centre, b.centre) if others else nearest
    for other in others:
        room = _room_beside(line, other)
        if room < margin:
            margin += min(1.0, gap / CONTACT_M) * (room - margin)  # things that touch have nothing between them
            reason = f"{other.name} is {'in the way' if room < 0 else f'{cm(room)} off the line'} between {a.name} and {b.name}"
    return Margin(margin, sigma, reason, seen, (Quantity("surface", gap),))


def _may_be_between(other: Body, a: Body, b: Body, enough_m: float) -> bool:
    """Whether another thing can be as near as enough_m to any line between two, by their boxes."""
    reach, middle = max(np.linalg.norm(a.size_m), np.linalg.norm(b.size_m)), (a.centre + b.centre) / 2
    reach += np.linalg.norm(a.centre - b.centre) + np.linalg.norm(other.size_m)
    return bool(np.linalg.norm(other.centre - middle) - reach / 2 <= enough_m)


def _room_beside(gap: Closest, other: Body) -> float:
    """How far another thing stays off the line that spans a gap; negative where it crosses it: how far aside, or past an end,
    it would have to go."""
    beside = closest_points(np.stack((gap.on_a, gap.on_b)), other.hull).distance_m
    if beside > 0:
        return beside
    along = (gap.on_b - gap.on_a) / max(gap.distance_m, 1e-9)
    reach, across = (other.hull - gap.on_a) @ along, _laid_across(other.hull - gap.on_a, along)
    aside = max(0.0, float(depth_inside(outline(across), np.zeros(2))[0]))
    return -min(aside, max(0.0, float(reach.max())), max(0.0, gap.distance_m - float(reach.min())))


def _laid_across(points: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Nx3 as they lie across a unit vector, Nx2; the axes there are any."""
    first = np.cross(direction, np.eye(3)[np.abs(direction).argmin()])
    first /= np.linalg.norm(first)
    return np.stack((points @ first, points @ np.cross(direction, first)), 1)


def between(a: Body, b: Body, c: Body) -> Margin:
    """A in the corridor from B to C: between their middles, no farther aside than half the widest (at least 5 cm).

    Side by side, heights do not count, as things of unequal height stand on one table; one above the other, they do.
    """
    d, to_a = c.centre - b.centre, a.centre - b.centre
    stacked = _stacked(d)
    d, to_a = d * (1, 1, stacked), to_a * (1, 1, stacked)
    length = float(np.linalg.norm(d))
    if length < 1e-9:
        return Margin(-_CORRIDOR_M / 2, a.sigma_m, f"{b.name} and {c.name} are in one place: nothing is between them")
    (a_low, a_high), (b_low, b_high), (c_low, c_high) = (body.span(_UP) for body in (a, b, c))
    raised = max(0.0, a_low.at - max(b_high.at, c_high.at), min(b_low.at, c_low.at) - a_high.at)
    share = float(to_a @ d) / length**2
    aside = float(np.linalg.norm(to_a - share * d))
    widest = stacked * max(_narrowest(body.outline) for body in (a, b, c))
    if stacked < 1:
        widest += (1 - stacked) * max(body.width_m(_across(d)) for body in (a, b, c))
    corridor = max(_CORRIDOR_M, widest) / 2
    offset = math.hypot(aside, (1 - stacked) * raised)
    margin = min(share * length, (1 - share) * length, corridor - offset)
    if not 0 <= share <= 1:
        end = b if share < 0 else c
        reason = f"{a.name} lies {cm(-min(share, 1 - share) * length)} beyond the middle of {end.name}"
    else:
        reason = f"{a.name} is {cm(offset)} off the line from {b.name} to {c.name}, up to {cm(corridor)} is between"
    if length < CONTACT_M:  # the nearer they are to one place, the less can their direction say
        margin = -_CORRIDOR_M / 2 + length / CONTACT_M * (margin + _CORRIDOR_M / 2)
    sigma = math.hypot(a.sigma_m, (b.sigma_m + c.sigma_m) / 2)
    return Margin(float(margin), sigma, reason, True, (Quantity("aside", offset),))


def _stacked(d: np.ndarray) -> float:
    """1 where d goes upwards more than aside, 0 where it is flatter, and a slope from one to the other: 40 to 50 degrees."""
    elevation = math.degrees(math.atan2(abs(float(d[2])), math.hypot(*d[:2])))
    return min(1.0, max(0.0, (elevation - 40.0) / 10.0))


def closest(a: Body, origin: Body, others: Sequence[Body], farthest: bool) -> Margin:
    """A nearer to the origin than all others, or farther, from surface to surface."""
    mine = closest_points(a.hull, origin.hull).distance_m
    theirs = [closest_points(other.hull, origin.hull).distance_m for other in others]
    best = theirs.index(max(theirs) if farthest else min(theirs))
    rival, lead = others[best], theirs[best] - mine
    reason = f"{a.name} is {cm(mine)} from {origin.name}, {cm(abs(lead))} {'nearer' if lead > 0 else 'farther'} than {rival.name}"
    values = (Quantity("surface", mine), Quantity("runner-up", theirs[best]))
    sigma = math.sqrt(a.sigma_m**2 + rival.sigma_m**2 + origin.sigma_m**2)
    return Margin(-lead if farthest else lead, sigma, reason, True, values)


def _across(direction: np.ndarray) -> np.ndarray:
    """The level unit vector at right angles to a direction that is not upright."""
    across = np.cross(direction, _UP)
    return across / np.linalg.norm(across)


def _both_seen(a: Body, b: Body, nearest: Closest) -> bool:
    """Whether the nearest points of two bodies lie on what was seen of them."""
    return bool(a.hull_seen[nearest.corners_a].all() and b.hull_seen[nearest.corners_b].all())


# -- quantities --------------------------------------------------------------------------------------------------


def distance(a: Body, b: Body) -> Margin:
    """From surface to surface, 0 where they overlap, and from centre to centre."""
    nearest = closest_points(a.hull, b.hull)
    gap = nearest.distance_m
    middles = float(np.linalg.norm(a.centre - b.centre))
    reason = f"{a.name} is {cm(gap)} from {b.name} surface to surface, {cm(middles)} from centre to centre"
    values = (Quantity("surface", gap), Quantity("centre", middles))
    return Margin(math.nan, math.hypot(a.sigma_m, b.sigma_m), reason, _both_seen(a, b, nearest), values)


def size(a: Body) -> Margin:
    """Length, width and height of its box."""
    length, width, height = (float(s) for s in a.size_m)
    low, high = a.span(_UP)
    reason = f"{a.name} is {cm(length)} long, {cm(width)} wide and {cm(height)} high"
    values = (Quantity("length", length), Quantity("width", width), Quantity("height", height))
    return Margin(math.nan, math.sqrt(2) * a.sigma_m, reason, low.seen and high.seen, values)


def fits_opening(a: Body, opening_m: float) -> Margin:
    """A between jaws that open this far: its narrowest level side."""
    narrowest = _narrowest(a.outline)
    reason = f"the narrowest side of {a.name} is {cm(narrowest)}, the gripper opens {cm(opening_m)}"
    return Margin(opening_m - narrowest, math.sqrt(2) * a.sigma_m, reason, True, (Quantity("narrowest", narrowest),))


def fits_inside(a: Body, b: Body) -> Margin:
    """A in B's opening, turned as it fits best about the vertical, and under what is above B."""
    border = outline(b.rim[:, :2]) if b.rim is not None else b.outline
    normal, room = outward(border - centroid(border))
    own = a.outline - centroid(a.outline)
    best = -math.inf
    for angle in np.arange(36) * np.pi / 18:
        turn = np.array(((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))))
        best = max(best, float((room - (own @ turn.T @ normal.T).max(0)).min()))
    clear = b.thing.clear_m - a.width_m(_UP) if isinstance(b.thing, Surface) else math.inf
    margin = min(best, clear)
    tight = "height" if clear < best else "width"
    words = f"with {cm(margin)} to spare" if margin >= 0 else f"but for {cm(-margin)}"
    reason = f"{a.name} fits {'into' if b.rim is not None else 'on'} {b.name} in {tight} {words}"
    return Margin(
        margin, math.hypot(math.sqrt(2) * a.sigma_m, b.sigma_m), reason, True, (Quantity("to spare", margin),)
    )


def _narrowest(polygon: np.ndarray) -> float:
    """Least width of a convex outline; it is always at right angles to one of its sides."""
    normal, _ = outward(polygon)
    return float(np.ptp(polygon @ normal.T, axis=0).min()) if len(normal) else 0.0
