"""The life of one alarm: what a plant's operator may rely on when looks are few, noisy and sometimes missing.

A pure state machine over dated observations: no clock, no threads, no ROS. An alarm rises only on evidence and falls only on
evidence: time without usable observations counts for nothing, in either direction.

    NORMAL ─ beyond the limit ─► PENDING ─ on_delay and min_observations ─► ACTIVE
       ▲ ◄─ back inside ─────────┘                                            │ back inside
       └── off_delay and min_observations ─ CLEARING ◄────────────────────────┘
                                               └─ beyond again ─► ACTIVE

Acknowledged, latched and shelved are flags beside the state. Source: OPC 10000-9 (limit alarms: deadband, on and off delay,
latching with an explicit reset, shelving); Prometheus (`for`, `keep_firing_for`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from qwen3vl_ros.types import InvalidInput


class State(str, Enum):
    NORMAL = "normal"
    PENDING = "pending"
    ACTIVE = "active"
    CLEARING = "clearing"


@dataclass(frozen=True)
class AlarmRule:
    """When a value is alarming. Exactly one of above and below, in the unit of the value.

    deadband: how far the value has to come back inside the limit before it counts as back, same unit. on_delay_s,
    off_delay_s: observed time beyond and inside before the alarm rises and clears. min_observations: the least number of
    looks behind either. stale_after_s: two looks farther apart than this prove nothing about the time between them.
    severity: 1 (information) to 1000 (danger), as in OPC. latch: once risen it stays until it is reset.
    """

    name: str
    above: float | None = None
    below: float | None = None
    deadband: float = 0.0
    on_delay_s: float = 0.0
    off_delay_s: float = 0.0
    min_observations: int = 2
    stale_after_s: float = 30.0
    severity: int = 500
    latch: bool = False

    def __post_init__(self):
        def refuse(what: str) -> None:
            raise InvalidInput(f"alarm {self.name!r}: {what}")

        limits = [v for v in (self.above, self.below) if v is not None]
        if not self.name.strip():
            raise InvalidInput("an alarm has no name; give it one that tells it from the others of its point")
        if len(limits) != 1 or not math.isfinite(limits[0]):
            refuse("give exactly one finite limit, `above` or `below`; a band is two alarms")
        for field, low in (("deadband", 0.0), ("on_delay_s", 0.0), ("off_delay_s", 0.0)):
            if not (math.isfinite(getattr(self, field)) and getattr(self, field) >= low):
                refuse(f"{field} {getattr(self, field)} must be a finite number, {low:g} or more")
        if not (math.isfinite(self.stale_after_s) and self.stale_after_s > 0):
            refuse(f"stale_after_s {self.stale_after_s} must be a finite number of seconds above 0")
        if self.min_observations < 1:
            refuse(f"min_observations {self.min_observations} must be 1 or more")
        if not 1 <= self.severity <= 1000:
            refuse(f"severity {self.severity} must be 1 to 1000")

    def beyond(self, value: float) -> bool:
        return value > self.above if self.above is not None else value < self.below

    def inside(self, value: float) -> bool:
        """Back by the whole deadband; between the limit and here a value is neither."""
        return value <= self.above - self.deadband if self.above is not None else value >= self.below + self.deadband


@dataclass(frozen=True)
class Transition:
    """A change of state, or of a flag, at the stamp of the observation or command that made it."""

    stamp_ns: int
    before: State
    after: State
    reason: str
    value: float = math.nan


@dataclass(frozen=True)
class AlarmState:
    """Everything that has to survive a restart; `Alarm` goes on from it.

    evidence_s, looks: time and observations towards the next change. peak: the farthest value beyond the limit since it
    rose. acknowledged: an operator has seen this rise. latched: it rose and was not reset. shelved_until_ns: silent until
    then, 0 when it is not shelved.
    """

    state: State = State.NORMAL
    evidence_s: float = 0.0
    looks: int = 0
    last_look_ns: int | None = None
    since_ns: int = 0
    peak: float = math.nan
    acknowledged: bool = True
    latched: bool = False
    shelved_until_ns: int = 0

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "state": self.state.value, "peak": None if math.isnan(self.peak) else self.peak}

    @staticmethod
    def from_json(saved: dict[str, Any]) -> AlarmState:
        """Raises InvalidInput for what `as_json` never wrote."""
        try:
            peak = math.nan if saved["peak"] is None else float(saved["peak"])
            return AlarmState(**{**saved, "state": State(saved["state"]), "peak": peak})
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"a saved alarm cannot be read ({type(error).__name__}: {error}); delete it to begin anew"
            )


class Alarm:
    """One rule followed through dated observations. Not thread-safe."""

    def __init__(self, rule: AlarmRule, state: AlarmState | None = None):
        self.rule, self.now = rule, state or AlarmState()

    @property
    def raised(self) -> bool:
        """Whether operators should know of it: risen and not yet cleared, or latched."""
        return self.now.state in (State.ACTIVE, State.CLEARING) or self.now.latched

    def announced(self, stamp_ns: int) -> bool:
        """Raised, and not shelved at that time."""
        return self.raised and stamp_ns >= self.now.shelved_until_ns

    def observe(self, stamp_ns: int, value: float) -> tuple[Transition, ...]:
        """One usable look; the changes it makes, in order. Raises InvalidInput for a value that is not finite.

        Looks that could not be read are evidence of nothing: leave them out. A look older than the last one changes nothing,
        unless it is older by more than stale_after_s: then the source began anew, and evidence starts again; the state stays.
        """
        if not math.isfinite(value):
            raise InvalidInput(f"alarm {self.rule.name!r}: value {value} is no observation; leave unreadable looks out")
        step_s = 0.0 if self.now.last_look_ns is None else (stamp_ns - self.now.last_look_ns) / 1e9
        if -self.rule.stale_after_s <= step_s < 0:
            return ()
        if step_s < 0:
            self._set(evidence_s=0.0, looks=0)
        if abs(step_s) > self.rule.stale_after_s:
            step_s = 0.0  # nothing is known of the time between
        self._set(last_look_ns=stamp_ns)
        beyond, inside = self.rule.beyond(value), self.rule.inside(value)
        if self.now.state in (State.ACTIVE, State.CLEARING) and beyond:
            worst = max if self.rule.above is not None else min
            self._set(peak=worst(self.now.peak, value))
        changes = []
        if self.now.state is State.NORMAL and beyond:
            changes.append(self._enter(State.PENDING, stamp_ns, "beyond its limit", value))
            step_s = 0.0
        elif self.now.state is State.ACTIVE and inside:
            changes.append(self._enter(State.CLEARING, stamp_ns, "back inside its limit", value))
            step_s = 0.0
        if self.now.state is State.PENDING:
            if inside:
                changes.append(self._enter(State.NORMAL, stamp_ns, "back before its delay", value))
            elif self._enough(step_s, beyond, self.rule.on_delay_s):
                changes.append(self._enter(State.ACTIVE, stamp_ns, f"beyond for {self.now.evidence_s:g} s", value))
                self._set(acknowledged=False, latched=self.rule.latch, peak=value)
        elif self.now.state is State.CLEARING:
            if beyond:
                changes.append(self._enter(State.ACTIVE, stamp_ns, "beyond again", value))
            elif self._enough(step_s, inside, self.rule.off_delay_s):
                changes.append(self._enter(State.NORMAL, stamp_ns, f"inside for {self.now.evidence_s:g} s", value))
        return tuple(changes)

    def acknowledge(self) -> None:
        self._set(acknowledged=True)

    def reset(self, stamp_ns: int) -> Transition | None:
        """Let a latched alarm go, once its cause is gone. Raises InvalidInput while it is not."""
        if self.now.state is not State.NORMAL:
            raise InvalidInput(
                f"alarm {self.rule.name!r} is {self.now.state.value}: it can be reset when its value is back; shelve it to "
                "silence it until then"
            )
        if not self.now.latched:
            return None
        self._set(latched=False, acknowledged=True)
        return Transition(stamp_ns, State.NORMAL, State.NORMAL, "reset")

    def shelve(self, until_ns: int) -> None:
        """Silent until then; its state goes on, and 0 ends it."""
        self._set(shelved_until_ns=max(0, until_ns))

    def _enough(self, step_s: float, proves: bool, delay_s: float) -> bool:
        """Add a look and the time before it. A look within the deadband lets time pass and proves nothing itself."""
        self._set(evidence_s=self.now.evidence_s + step_s, looks=self.now.looks + proves)
        return proves and self.now.looks >= self.rule.min_observations and self.now.evidence_s >= delay_s

    def _enter(self, state: State, stamp_ns: int, reason: str, value: float) -> Transition:
        before = self.now.state
        self._set(state=state, since_ns=stamp_ns, evidence_s=0.0, looks=0)
        return Transition(stamp_ns, before, state, reason, value)

    def _set(self, **changes: Any) -> None:
        self.now = replace(self.now, **changes)
