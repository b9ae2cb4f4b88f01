"""From single looks at a point to readings one can trust: model and measurement compared, several looks compared.

A look is one frame's evidence (`Seen`). A reading says how good it is and why: what cannot be read is BAD and NaN, never the last
good value. Source of the qualities: OPC 10000-8 (Good, Uncertain, Bad with a null value). Knows nothing of pictures,
of models, of clocks and of ROS.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, replace
from enum import IntEnum

from qwen3vl_ros.inspection import units
from qwen3vl_ros.inspection.alarms import AlarmRule
from qwen3vl_ros.inspection.points import Point

AGREE = 0.10  # of the range: so far a model's own value may be from the measured one
LOOKS_TO_ACCEPT = 3  # that agree with each other, of a value that came too fast
_SAME = 0.02  # of the range: looks that agree
_BEYOND = 0.012  # of the range: so far outside the first and last mark a needle is out of range
_STEADY, _SHAKES = 5, 0.012  # looks that tell shaking, and how wide it must be, of the range
_TOO_VAGUE = 0.05  # of the range: a measurement with such a standard deviation is none


class Quality(IntEnum):
    """As in msg/Reading."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2


class Reason(IntEnum):
    """As in msg/Reading."""

    NONE = 0
    UNREADABLE = 1
    NOT_VISIBLE = 2
    OCCLUDED = 3
    OUT_OF_RANGE = 4
    IMPLAUSIBLE = 5
    UNIT_MISMATCH = 6
    DISAGREE = 7
    MOVED = 8
    STALE = 9


@dataclass(frozen=True)
class Seen:
    """What one look at a point saw, before it is judged. Values are in the point's unit unless named otherwise.

    measured, sigma: by code, NaN where it could not. model_value in unit_seen, as the model said it; pointed: what its key points of the
    dial show on the point's scale, NaN without. text: words. trouble: why
    there is less than there should be. box_xyxy_px: of the face in the picture. moved: the camera stands otherwise than in the
    reference picture. colour: of the zone at the needle's tip.
    """

    measured: float = math.nan
    sigma: float = math.nan
    model_value: float = math.nan
    unit_seen: str = ""
    pointed: float = math.nan
    text: str = ""
    trouble: Reason = Reason.NONE
    message: str = ""
    box_xyxy_px: tuple[float, float, float, float] | None = None
    moved: bool = False
    colour: str = ""


def said_value(point: Point, seen: Seen) -> float:
    """The model's own value in the point's unit, NaN where it named none, or a unit of something else."""
    same = units.converted(seen.model_value, units.code_of(seen.unit_seen), point.unit)
    return math.nan if same is None else same


def agree(point: Point, seen: Seen) -> bool:
    """Whether what the model says of a face bears out what was measured there: a unit of its kind, and its value or its points."""
    own = said_value(point, seen)
    near = max(AGREE * point.span, 3 * seen.sigma)
    return math.isfinite(own) and any(abs(value - seen.measured) <= near for value in (own, seen.pointed))


def contradicted(point: Point, seen: Seen) -> bool:
    """Whether a dial was measured and the model has to bear it out, and does not."""
    measured = point.kind == "gauge" and point.check == "model" and seen.trouble is Reason.NONE
    return measured and math.isfinite(seen.measured) and not agree(point, seen)


@dataclass(frozen=True)
class Reading:
    """As msg/Reading, which has the fields' meanings; times are nanoseconds of the image's stamp."""

    point: Point
    stamp_ns: int
    frame_id: str = ""
    value: float = math.nan
    uncertainty: float = math.nan
    zone: str = ""
    text: str = ""
    quality: Quality = Quality.BAD
    reason: Reason = Reason.NONE
    message: str = ""
    measured: float = math.nan
    model_value: float = math.nan
    unit_seen: str = ""
    looks: int = 1
    box_xyxy_px: tuple[float, float, float, float] | None = None
    evidence_uri: str = ""

    @property
    def limit(self) -> float:
        """Of the nearest alarm."""
        limits = [rule.above if rule.above is not None else rule.below for rule in self.point.alarms]
        known = self.value if math.isfinite(self.value) else math.inf
        return min(limits, key=lambda limit: abs(limit - known), default=math.nan)

    def evidence_for(self, rule: AlarmRule) -> float | None:
        """The value that an alarm may take for an observation, None where this look proves nothing.

        A needle beyond the end of its scale is at least there: it counts on that side. Where model and measurement differ, the
        more careful of the two counts if both lie on the same side of the limit.
        """
        low, high = self.point.range
        if self.quality is Quality.GOOD:
            return self.value
        if self.reason is Reason.OUT_OF_RANGE and math.isfinite(self.measured):
            over = self.measured >= high
            return (high if over else low) if over == (rule.above is not None) else None
        if self.reason is Reason.DISAGREE:
            both = self.measured, self.model_value
            if all(map(rule.beyond, both)):
                return min(both) if rule.above is not None else max(both)
            if all(map(rule.inside, both)):
                return max(both) if rule.above is not None else min(both)
        return None


class Readings:
    """The readings of one point, one look after another."""

    def __init__(self, point: Point):
        self.point = point
        self._accepted: tuple[int, float] | None = None  # stamp and value of the last one that was believed
        self._recent: deque[tuple[int, float]] = deque(maxlen=_STEADY)
        self._doubted: list[tuple[int, float]] = []
        self._same = 0

    def judge(self, stamp_ns: int, frame_id: str, seen: Seen) -> Reading:
        """The reading that this look, and those before it, amount to."""
        point = self.point
        reading = Reading(
            point,
            stamp_ns,
            frame_id,
            text=seen.text,
            measured=seen.measured,
            unit_seen=seen.unit_seen,
            box_xyxy_px=seen.box_xyxy_px,
        )
        if self._accepted and stamp_ns < self._accepted[0]:  # the pictures began anew
            self._accepted = None
            self._recent.clear()
            self._doubted.clear()
        if seen.trouble is not Reason.NONE:
            return self._bad(reading, seen.trouble, seen.message)
        if point.kind == "text":
            return replace(reading, quality=Quality.GOOD, message=seen.message)
        if not math.isfinite(seen.measured):
            return self._bad(reading, Reason.UNREADABLE, seen.message or "nothing could be read")
        low, high = point.range
        slack = _BEYOND * point.span
        if point.kind == "gauge" and seen.sigma > _TOO_VAGUE * point.span:
            return self._bad(reading, Reason.UNREADABLE, f"the needle is too uncertain, {seen.sigma:.2g} {point.unit}")
        outside = not low - slack <= seen.measured <= high + slack
        if outside or any(abs(seen.measured - stop) <= max(slack, 2 * seen.sigma) for stop in point.stops):
            where = "at its stop" if not outside else "beyond the scale's end"
            return self._bad(reading, Reason.OUT_OF_RANGE, f"the needle is {where} ({low:g} to {high:g} {point.unit})")
        value = min(max(seen.measured, low), high)
        reading, said = self._compared(replace(reading, value=value, uncertainty=seen.sigma), seen)
        if reading.quality is Quality.BAD:
            return reading
        if reading.reason is Reason.DISAGREE:
            return self._told(reading, seen)
        if too_fast := self._implausible(stamp_ns, value):
            return self._bad(reading, Reason.IMPLAUSIBLE, too_fast)
        reading = self._averaged(reading)
        if seen.moved:
            reading = replace(reading, quality=Quality.UNCERTAIN, reason=Reason.MOVED, message=seen.message or said)
        return self._told(reading, seen)

    def stale(self, last: Reading, age_s: float) -> Reading:
        """What is known when no look has come for so long."""
        said = f"the last look was {age_s:.0f} s ago, more than stale_after {self.point.stale_after_s:g} s"
        usable = last.quality is Quality.GOOD
        nothing = {} if usable else {"value": math.nan, "uncertainty": math.nan}
        return replace(
            last, quality=Quality.UNCERTAIN if usable else Quality.BAD, reason=Reason.STALE, message=said, **nothing
        )

    # -- one look ----------------------------------------------------------------------------------

    def _compared(self, reading: Reading, seen: Seen) -> tuple[Reading, str]:
        """With what the model says: GOOD, UNCERTAIN with both, or BAD for another unit."""
        point, reading = self.point, replace(reading, quality=Quality.GOOD)
        if point.kind != "gauge":
            return reading, seen.message
        own = said_value(point, seen)
        reading = replace(reading, model_value=own)
        if point.check == "geometry":
            return reading, "by geometry alone (check: geometry)"
        if agree(point, seen):
            return replace(reading, message=seen.message), seen.message
        uncertain = replace(reading, quality=Quality.UNCERTAIN, reason=Reason.DISAGREE)
        if not math.isfinite(seen.model_value):
            said = f"measured {reading.value:.4g} {point.unit}, but the model named no value: {seen.message}"
        elif not math.isfinite(own):
            said = f"the model reads {seen.unit_seen!r} on the face where {point.unit} is expected; see unit and check"
            return self._bad(reading, Reason.UNIT_MISMATCH, said), said
        else:
            said = f"measured {reading.value:.4g}, but the model says {own:.4g} {point.unit}"
        return replace(uncertain, message=said), said

    def _implausible(self, stamp_ns: int, value: float) -> str:
        """Why the value cannot be believed yet, "" if it can. A change is believed once LOOKS_TO_ACCEPT looks agree."""
        before, rate = self._accepted, self.point.max_rate
        if before is not None and math.isfinite(rate):
            elapsed_s = max((stamp_ns - before[0]) / 1e9, 1e-3)
            allowed = rate * elapsed_s + _SAME * self.point.span
            if abs(value - before[1]) > allowed:
                near = max(_SAME * self.point.span, rate * elapsed_s / 2)
                self._doubted = [d for d in self._doubted if abs(d[1] - value) <= near] + [(stamp_ns, value)]
                if len(self._doubted) < LOOKS_TO_ACCEPT:
                    return (
                        f"{before[1]:.4g} to {value:.4g} {self.point.unit} in {elapsed_s:.2g} s is faster than max_rate "
                        f"{rate:g}; look {len(self._doubted)} of {LOOKS_TO_ACCEPT} that have to agree"
                    )
                self._recent.clear()
        self._doubted = []
        self._accepted = stamp_ns, value
        return ""

    def _averaged(self, reading: Reading) -> Reading:
        """The mean of the last looks while the needle shakes to and fro; the value itself while it goes anywhere."""
        agreeing = [v for _, v in self._recent if abs(v - reading.value) <= _SAME * self.point.span]
        self._recent.append((reading.stamp_ns, reading.value))
        values = [v for _, v in self._recent]
        steps = [b - a for a, b in zip(values, values[1:])]
        turns = sum(a * b < 0 for a, b in zip(steps, steps[1:]))
        if len(values) == _STEADY and turns >= 2 and statistics.pstdev(values) > _SHAKES * self.point.span:
            spread = statistics.stdev(values)
            said = f"the needle shakes by {spread:.2g} {self.point.unit}; the mean of {_STEADY} looks"
            own = reading.uncertainty if math.isfinite(reading.uncertainty) else 0.0
            return replace(
                reading,
                value=statistics.fmean(values),
                uncertainty=math.hypot(own, spread),
                looks=_STEADY,
                message=said,
            )
        return replace(reading, looks=1 + len(agreeing))

    def _told(self, reading: Reading, seen: Seen) -> Reading:
        """With its zone and its words."""
        point = self.point
        zone = point.zone_of(reading.value)
        if not zone and not point.zones:
            zone = seen.colour
        if zone and seen.colour and point.zones and zone != seen.colour and zone in ("red", "yellow", "green"):
            note = f"the face shows {seen.colour} where the file has {zone}"
            reading = replace(reading, message=f"{reading.message}; {note}" if reading.message else note)
        text = reading.text
        if point.kind in ("state", "presence"):
            text = point.states[0 if reading.value > 0.5 else 1]
        return replace(reading, zone=zone, text=text)

    def _bad(self, reading: Reading, reason: Reason, message: str) -> Reading:
        return replace(
            reading, value=math.nan, uncertainty=math.nan, quality=Quality.BAD, reason=reason, message=message, zone=""
        )
