"""Looks at points, judges them, follows their alarms, and keeps the evidence: inspection whole, without ROS.

    frame ─► look (model + code) ─► reading ─► alarms ─► events ─► evidence, journal, state

A question that is watched and an anomaly are points too, whose one alarm is the event. Times are image stamps; `stale` alone is
asked by a clock. Knows nothing of ROS, of agendas and of threads but its own lock.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import Any, Iterable, Sequence

import numpy as np

from qwen3vl_ros.inspection import looks
from qwen3vl_ros.inspection.alarms import Alarm, AlarmRule, AlarmState, State, Transition
from qwen3vl_ros.inspection.points import Point
from qwen3vl_ros.inspection.readings import Quality, Reading, Readings, Reason, Seen, agree, contradicted
from qwen3vl_ros.inspection.recorder import Buffer, Kept, Recorder, encoded, utc
from qwen3vl_ros.pipeline import Look, Perception
from qwen3vl_ros.types import Cancelled, Frame, InvalidInput, PerceptionError, StaleFrame

_SECOND = 10**9
Said = tuple[tuple[str, str], ...]  # (prompt, answer) of each time the model was asked
_REJECTED_EVERY_S = 60.0
EVENT = "event"  # the one alarm of a watch
WINDOW = 4  # pictures of a watch's window, the newest among them; more make a model's sense of the present worse
APART_S = 0.9  # between two pictures of a window at least


@dataclass(frozen=True)
class Event:
    """As msg/Event. kind: "alarm", "watch" or "anomaly". point: its name. rule: the alarm's."""

    id: str
    name: str
    kind: str
    point: str
    camera: str
    frame_id: str
    stamp_ns: int
    before: State
    after: State
    rule: AlarmRule
    unit: str
    value: float
    peak: float
    acknowledged: bool
    latched: bool
    shelved: bool
    onset_ns: int
    message: str
    evidence_uri: str = ""

    @property
    def limit(self) -> float:
        limit = self.rule.above if self.rule.above is not None else self.rule.below
        return limit if self.kind == "alarm" else math.nan

    def as_json(self) -> dict[str, Any]:
        told = {k: v for k, v in vars(self).items() if k not in ("rule", "stamp_ns")}
        told["source"] = told.pop("kind")
        return told | {
            "before": self.before.value,
            "after": self.after.value,
            "severity": self.rule.severity,
            "limit": self.limit,
            "onset": utc(self.onset_ns) if self.onset_ns else "",
        }


@dataclass(eq=False)
class _Followed:
    """One alarm, and the occurrence it is in. until_ns: pictures up to there belong to its evidence."""

    alarm: Alarm
    id: str = ""
    onset_ns: int = 0
    evidence_uri: str = ""
    frame_id: str = ""
    onset: list[tuple[str, Kept]] = field(default_factory=list)
    until_ns: int = 0


@dataclass(eq=False)
class _Inspected:
    """A point with its history. normal: of an anomaly, how it should look; None until the first look."""

    point: Point
    kind: str
    readings: Readings
    alarms: dict[str, _Followed]
    last: Reading | None = None
    told_stale: bool = False
    reference: looks.Reference | None = None
    normal: np.ndarray | None = None
    rejected_ns: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What one look came to. error: what kept the model from answering, for whoever reports health."""

    reading: Reading
    events: tuple[Event, ...]
    error: PerceptionError | None = None


class Inspector:
    """points: of the file. pre_s, post_s: seconds of pictures kept before and after an event rises. together: whether the model is shown
    the pictures of a watch's window in one prompt, or each by itself. Any thread."""

    def __init__(
        self,
        points: Iterable[Point],
        recorder: Recorder,
        pre_s: float = 5.0,
        post_s: float = 5.0,
        together: bool = False,
    ):
        self.recorder, self._post_s, self._together = recorder, post_s, together
        self._buffer, self._lock = Buffer(pre_s), threading.RLock()
        self._inspected: dict[str, _Inspected] = {}
        self._saved = recorder.read_state()
        self.points: tuple[Point, ...] = ()
        self.reload(points)

    # -- what is inspected -----------------------------------------------------------------------------

    def reload(self, points: Iterable[Point]) -> None:
        """These points from now on. One that stays as it was keeps its history; an alarm that stays keeps its state; watches stay."""
        points = tuple(points)
        with self._lock:
            watches = {name: i for name, i in self._inspected.items() if i.kind != "alarm"}
            for point in points:
                if point.name in watches:
                    raise InvalidInput(f"point {point.name!r} has the name of a watch; give one of them another")
            old, self._inspected = self._inspected, dict(watches)
            for point in points:
                before = old.get(point.name)
                if before and before.point == point:
                    self._inspected[point.name] = before
                else:
                    self._inspected[point.name] = self._made(point, "alarm", before)
            self.points = points
            self._save()

    def watch(self, point: Point, anomaly: bool = False) -> None:
        """Watch a question, or what differs from the next picture. Raises InvalidInput for the name of a point."""
        with self._lock:
            if any(point.name == p.name for p in self.points):
                raise InvalidInput(f"{point.name!r} is a point of the inspection file; give the watch another name")
            self._inspected[point.name] = self._made(point, "anomaly" if anomaly else "watch", None)

    def unwatch(self, name: str) -> None:
        """Raises InvalidInput for a name that is no watch's."""
        with self._lock:
            if name not in self._inspected or self._inspected[name].kind == "alarm":
                known = ", ".join(n for n, i in self._inspected.items() if i.kind != "alarm") or "none"
                raise InvalidInput(f"no watch is called {name!r}; there are: {known}")
            del self._inspected[name]
            self._save()

    def point(self, name: str) -> Point:
        """Raises InvalidInput."""
        with self._lock:
            if name not in self._inspected:
                raise InvalidInput(f"no point is called {name!r}; there are: {', '.join(self._inspected) or 'none'}")
            return self._inspected[name].point

    @property
    def names(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._inspected)

    def _made(self, point: Point, kind: str, before: _Inspected | None) -> _Inspected:
        alarms = {}
        for rule in point.alarms:
            kept = before.alarms.get(rule.name) if before else None
            if kept:
                kept.alarm.rule = rule
            alarms[rule.name] = kept or self._restored(point, rule)
        reference = None
        if point.reference is not None:
            from qwen3vl_ros.files import read_rgb

            reference = looks.Reference(read_rgb(point.reference))
        return _Inspected(point, kind, Readings(point), alarms, reference=reference)

    def _restored(self, point: Point, rule: AlarmRule) -> _Followed:
        try:
            saved = self._saved["alarms"][f"{point.name}/{rule.name}"]
            return _Followed(
                Alarm(rule, AlarmState.from_json(saved["state"])),
                str(saved["id"]),
                int(saved["onset_ns"]),
                str(saved["uri"]),
            )
        except (InvalidInput, KeyError, TypeError, ValueError):
            return _Followed(Alarm(rule))

    # -- looking -----------------------------------------------------------------------------------------

    def look(
        self, perception: Perception, name: str, frame: Frame, control=None, before: Sequence[Frame] = ()
    ) -> Outcome:
        """Look at a point in a frame. before: frames of the last seconds, oldest first: a watch judges those since its last look, too,
        so that nothing happens unseen between two looks. Raises Cancelled, and InvalidInput for a point that is there no more."""
        with self._lock:
            inspected = self._inspected.get(name)
            if inspected is None:
                raise InvalidInput(f"point {name!r} is not inspected any more")
        window = _window(before, frame) if inspected.kind == "watch" else []
        frames = [*_since(inspected.last, window), frame]
        if inspected.kind == "watch" and self._together:
            seen = self._seen_together(perception, inspected, [*window, frame], control)[-len(frames) :]
        else:
            seen = [self._seen(perception, inspected, each, control) for each in frames]
        with self._lock:
            outcomes = [self._judged(inspected, each, *what) for each, what in zip(frames, seen)]
        return Outcome(outcomes[-1].reading, tuple(e for o in outcomes for e in o.events), outcomes[-1].error)

    def is_watch(self, name: str) -> bool:
        """Whether it is a question in words, of which pictures between two looks count."""
        with self._lock:
            return name in self._inspected and self._inspected[name].kind == "watch"

    def _seen_together(
        self, perception: Perception, of: _Inspected, frames: Sequence[Frame], control
    ) -> list[tuple[Seen, PerceptionError | None, Said]]:
        """What one prompt with all pictures says of each."""
        question, view = looks.held_in(of.point, frames), looks.view_of(of.point, frames[-1].size_px)
        try:
            said = perception.ask_together(
                frames, question, control, camera=f"{of.point.camera} {of.point.name}", view=view
            )
            words = ((said.prompt, said.text),)
            return [(looks.held(of.point, held), None, words) for held in question.read(said, (view,)).value]
        except (Cancelled, StaleFrame):
            raise
        except PerceptionError as failed:
            nothing = Seen(trouble=Reason.UNREADABLE, message=f"{type(failed).__name__}: {failed}"[:200])
            return [(nothing, failed, ())] * len(frames)

    def _seen(
        self, perception: Perception, of: _Inspected, frame: Frame, control
    ) -> tuple[Seen, PerceptionError | None, Said]:
        point, shift, moved = of.point, None, ""
        if of.kind == "anomaly":
            return self._difference(of, frame), None, ()
        if of.reference is not None:
            shift, moved = of.reference.shift(frame.rgb)
            if moved and shift is None:
                return Seen(trouble=Reason.MOVED, message=moved, moved=True), None, ()
        answers, error = (), None
        roi = point.roi_xyxy_px
        if roi is not None and shift is not None:
            width, height = frame.size_px
            x0, y0, x1, y1 = looks.moved(roi, shift)
            roi = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
            if roi[2] - roi[0] < 8 or roi[3] - roi[1] < 8:
                return (
                    Seen(trouble=Reason.MOVED, message=f"{moved}; the point is out of the picture", moved=True),
                    None,
                    (),
                )
            point = replace(point, roi_xyxy_px=roi)
        if not looks.needs_model(point):
            return _as_moved(looks.measured(point, frame.rgb), moved), None, ()
        try:
            answers = perception.ask(
                frame,
                looks.question_of(point),
                control,
                camera=f"{point.camera} {point.name}",
                zoom=looks.zoom_of(point, frame.size_px),
            )
        except (Cancelled, StaleFrame):
            raise
        except PerceptionError as failed:
            error = failed
        seen = looks.seen(point, frame.rgb, answers, error)
        if contradicted(point, seen):
            seen, answers = self._seen_again(perception, point, frame, control, seen, answers)
        return _as_moved(seen, moved), error, tuple((look.generation.prompt, look.generation.text) for look in answers)

    @staticmethod
    def _seen_again(
        perception: Perception, point: Point, frame: Frame, control, first: Seen, answers: tuple[Look, ...]
    ) -> tuple[Seen, tuple[Look, ...]]:
        """With what the model says at a second look, if it bears the measurement out then; as at the first, if not."""
        question, zoom = looks.another_look(point, frame.rgb, first)
        try:
            more = perception.ask(frame, question, control, camera=f"{point.camera} {point.name} again", zoom=zoom)
        except (Cancelled, StaleFrame):
            raise
        except PerceptionError:
            return first, answers
        second = replace(first, **{"pointed": math.nan} | looks.said_of_dial(point, more[0]))
        if not agree(point, second):
            return first, (*answers, *more)
        at_first = f"{first.model_value:.4g} {first.unit_seen}" if math.isfinite(first.model_value) else "no value"
        return replace(second, message=f"the model agreed at a second look; at first it said {at_first}"), (
            *answers,
            *more,
        )

    def _difference(self, of: _Inspected, frame: Frame) -> Seen:
        x0, y0, x1, y1 = of.point.roi_xyxy_px or (0, 0, *frame.size_px)
        part = np.ascontiguousarray(frame.rgb[y0:y1, x0:x1])
        if not part.size:
            return Seen(trouble=Reason.NOT_VISIBLE, message="the region lies outside the picture")
        if of.normal is None or of.normal.shape != part.shape:
            of.normal = part
        share, box = looks.changed(of.normal, part)
        if box:
            box = (box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0)
        return Seen(share, 0.0, text=f"{share:.1%} of it differs from normal", box_xyxy_px=box)

    def _judged(
        self, of: _Inspected, frame: Frame, seen: Seen, error: PerceptionError | None, said: Said = ()
    ) -> Outcome:
        reading = of.readings.judge(frame.stamp_ns, frame.frame_id, seen)
        pictures = _Pictures(of.point.camera, frame, reading.box_xyxy_px, said)
        if reading.reason in (Reason.IMPLAUSIBLE, Reason.DISAGREE, Reason.UNIT_MISMATCH):
            reading = replace(reading, evidence_uri=self._rejected(of, reading, pictures))
        events = []
        for name, followed in of.alarms.items():
            value = reading.evidence_for(followed.alarm.rule)
            if value is None:
                continue
            followed.frame_id = frame.frame_id
            for change in followed.alarm.observe(frame.stamp_ns, value):
                events.append(self._event(of, name, followed, change, reading, pictures))
        of.last, of.told_stale = reading, False
        self._journal(reading)
        for event in events:
            self.recorder.write("event", event.stamp_ns, event.as_json())
        if events:
            self._save()
        return Outcome(reading, tuple(events), error)

    def _event(
        self, of: _Inspected, name: str, followed: _Followed, change: Transition, reading: Reading, pictures: _Pictures
    ) -> Event:
        full = f"{of.point.name}/{name}" if of.kind == "alarm" else of.point.name
        if change.after is State.PENDING:
            followed.id, followed.onset_ns = f"{full}@{utc(change.stamp_ns)}", change.stamp_ns
            followed.evidence_uri, followed.onset = "", pictures.named("onset")
        event = self._told(
            of,
            name,
            followed,
            change.stamp_ns,
            change.before,
            change.after,
            change.value,
            self._words(of, reading, change),
        )
        if change.after is State.ACTIVE and change.before is State.PENDING:
            before = [("before", kept) for kept in self._buffer.before(of.point.camera, followed.onset_ns)]
            kept = [*before, *followed.onset, *pictures.named("confirmed")]
            followed.evidence_uri = self.recorder.keep(
                full, change.stamp_ns, event.as_json() | pictures.told(reading), kept
            )
            followed.until_ns, followed.onset = change.stamp_ns + round(self._post_s * _SECOND), []
            lost = (
                ""
                if followed.evidence_uri or self.recorder.directory is None
                else f"; no evidence: {self.recorder.trouble}"
            )
            event = replace(event, evidence_uri=followed.evidence_uri, message=event.message + lost)
        elif change.after is State.NORMAL and change.before is State.CLEARING:
            for label, kept in pictures.named("end"):
                self.recorder.add(followed.evidence_uri, label, kept)
            self.recorder.write_mcap(followed.evidence_uri)
        return event

    def _told(
        self,
        of: _Inspected,
        name: str,
        followed: _Followed,
        stamp_ns: int,
        before: State,
        after: State,
        value: float,
        message: str,
    ) -> Event:
        now, rule = followed.alarm.now, followed.alarm.rule
        return Event(
            followed.id,
            f"{of.point.name}/{name}" if of.kind == "alarm" else of.point.name,
            of.kind,
            of.point.name,
            of.point.camera,
            followed.frame_id,
            stamp_ns,
            before,
            after,
            rule,
            of.point.unit,
            value,
            now.peak,
            now.acknowledged,
            now.latched,
            stamp_ns < now.shelved_until_ns,
            followed.onset_ns,
            message,
            followed.evidence_uri,
        )

    @staticmethod
    def _words(of: _Inspected, reading: Reading, change: Transition) -> str:
        point = of.point
        if of.kind == "watch":
            return f"{point.question} {reading.text}: {change.reason}"
        if point.kind in ("state", "presence"):
            return f"{point.quantity} is {reading.text}: {change.reason}"
        zone = f", in the {reading.zone} zone" if reading.zone else ""
        unit = "" if point.unit == "1" else f" {point.unit}"
        return f"{point.quantity} {change.value:.4g}{unit}{zone}: {change.reason}"

    def _rejected(self, of: _Inspected, reading: Reading, pictures: _Pictures) -> str:
        """Evidence of a reading that was not believed, once a minute."""
        if of.rejected_ns is not None and 0 <= reading.stamp_ns - of.rejected_ns < _REJECTED_EVERY_S * _SECOND:
            return ""
        of.rejected_ns = reading.stamp_ns
        name = f"{of.point.name}_{reading.reason.name.lower()}"
        return self.recorder.keep(name, reading.stamp_ns, pictures.told(reading), pictures.named("rejected"))

    # -- every picture, and time ---------------------------------------------------------------------------

    def picture(self, camera: str, frame: Frame) -> None:
        """A picture of a camera, for the seconds before and after events; one a second is kept."""
        with self._lock:
            kept = self._buffer.add(camera, frame.stamp_ns, frame.frame_id, frame.rgb)
            for of in self._inspected.values() if kept else ():
                for followed in of.alarms.values() if of.point.camera == camera else ():
                    if followed.until_ns and frame.stamp_ns <= followed.until_ns:
                        self.recorder.add(followed.evidence_uri, "after", kept)
                    elif followed.until_ns:
                        followed.until_ns = 0
                        self.recorder.write_mcap(followed.evidence_uri)

    def stale(self, now_ns: int) -> tuple[Reading, ...]:
        """Of the points without a look for longer than stale_after, by a clock; each is told once."""
        told = []
        with self._lock:
            for of in self._inspected.values():
                if of.last is None or of.told_stale:
                    continue
                age_s = (now_ns - of.last.stamp_ns) / _SECOND
                if age_s > of.point.stale_after_s:
                    of.told_stale = True
                    told.append(of.readings.stale(of.last, age_s))
        for reading in told:
            self._journal(reading)
        return tuple(told)

    # -- what operators do ---------------------------------------------------------------------------------

    def active(self, now_ns: int) -> tuple[Event, ...]:
        """What is raised, or not acknowledged yet, the gravest first."""
        with self._lock:
            found = [
                self._told(
                    of,
                    name,
                    f,
                    f.alarm.now.since_ns or now_ns,
                    f.alarm.now.state,
                    f.alarm.now.state,
                    f.alarm.now.peak,
                    "",
                )
                for of in self._inspected.values()
                for name, f in of.alarms.items()
                if f.alarm.raised or not f.alarm.now.acknowledged
            ]
        found = [
            replace(event, shelved=now_ns < self._alarm(event.name)[2].alarm.now.shelved_until_ns) for event in found
        ]
        return tuple(sorted(found, key=lambda e: (-e.rule.severity, e.name)))

    def command(self, name: str, command: str, now_ns: int, duration_s: float = 0.0, operator: str = "") -> Event:
        """acknowledge, shelve, unshelve or reset. Raises InvalidInput."""
        with self._lock:
            of, alarm, followed = self._alarm(name)
            state = followed.alarm.now.state
            if command == "acknowledge":
                followed.alarm.acknowledge()
            elif command == "shelve":
                if not (math.isfinite(duration_s) and 0 < duration_s <= 7 * 86400):
                    raise InvalidInput(
                        f"duration {duration_s} s must be above 0 and at most a week; an alarm is not shelved for good"
                    )
                followed.alarm.shelve(now_ns + round(duration_s * _SECOND))
            elif command == "unshelve":
                followed.alarm.shelve(0)
            elif command == "reset":
                followed.alarm.reset(now_ns)
            else:
                raise InvalidInput(f"command {command!r} must be acknowledge, shelve, unshelve or reset")
            by = f" by {operator}" if operator else ""
            event = self._told(of, alarm, followed, now_ns, state, followed.alarm.now.state, math.nan, f"{command}{by}")
            self.recorder.write("event", now_ns, event.as_json())
            self._save()
            return event

    def _alarm(self, name: str) -> tuple[_Inspected, str, _Followed]:
        point, _, alarm = name.partition("/")
        of = self._inspected.get(point)
        if of is None or (alarm or EVENT) not in of.alarms:
            known = [
                f"{i.point.name}/{a}" if i.kind == "alarm" else i.point.name
                for i in self._inspected.values()
                for a in i.alarms
            ]
            raise InvalidInput(f"no alarm is called {name!r}; there are: {', '.join(known) or 'none'}")
        return of, alarm or EVENT, of.alarms[alarm or EVENT]

    # -- disk ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.recorder.save_state(
            {
                "alarms": {
                    f"{of.point.name}/{name}": {
                        "state": f.alarm.now.as_json(),
                        "id": f.id,
                        "onset_ns": f.onset_ns,
                        "uri": f.evidence_uri,
                    }
                    for of in self._inspected.values()
                    for name, f in of.alarms.items()
                }
            }
        )

    def _journal(self, reading: Reading) -> None:
        self.recorder.write("reading", reading.stamp_ns, _journaled(reading))


def _as_moved(seen: Seen, moved: str) -> Seen:
    """The same, told that the camera moved, if it did."""
    return replace(seen, moved=True, message=f"{moved}; {seen.message}" if seen.message else moved) if moved else seen


def _window(before: Sequence[Frame], frame: Frame) -> list[Frame]:
    """Of the frames before one, oldest first, the last that are apart from it."""
    return [f for f in before if f.stamp_ns <= frame.stamp_ns - APART_S * _SECOND][1 - WINDOW :]


def _since(last: Reading | None, window: Sequence[Frame]) -> list[Frame]:
    """Those of a window since the last look; none at the first, for what was before is not watched."""
    return [f for f in window if f.stamp_ns >= last.stamp_ns + APART_S * _SECOND] if last else []


class _Pictures:
    """The frame and its crop, encoded only when somebody keeps them."""

    def __init__(self, camera: str, frame: Frame, box: Sequence[float] | None, said: Said):
        self._camera, self._frame, self._box, self._said = camera, frame, box, said

    def told(self, reading: Reading) -> dict[str, Any]:
        """What evidence says of the look: the reading, and what the model was asked and said."""
        return {"reading": _journaled(reading), "asked": [{"prompt": p, "answer": a} for p, a in self._said]}

    def named(self, label: str) -> list[tuple[str, Kept]]:
        frame, found = self._frame, [(label, self._frame.rgb)]
        if self._box is not None:
            x0, y0, x1, y1 = (max(0, int(v)) for v in self._box)
            crop = frame.rgb[y0:y1, x0:x1]
            if crop.size:
                found.append((f"{label}-crop", np.ascontiguousarray(crop)))
        return [(name, Kept(frame.stamp_ns, self._camera, frame.frame_id, encoded(rgb))) for name, rgb in found]


def _journaled(reading: Reading) -> dict[str, Any]:
    """A reading as the journal and evidence have it."""
    return {
        "point": reading.point.name,
        "camera": reading.point.camera,
        "quantity": reading.point.quantity,
        "value": reading.value,
        "uncertainty": reading.uncertainty,
        "unit": reading.point.unit,
        "zone": reading.zone,
        "text": reading.text,
        "quality": Quality(reading.quality).name,
        "reason": Reason(reading.reason).name,
        "message": reading.message,
        "measured": reading.measured,
        "model_value": reading.model_value,
        "unit_seen": reading.unit_seen,
        "looks": reading.looks,
        "evidence_uri": reading.evidence_uri,
    }
