"""Inspection in the node: points become watches of the agenda, looks become messages; the services that operators call.

What a look is and what follows from it, `inspection` decides. Looks run on the engine's thread, services and the timer on the
executor's.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path
from typing import Mapping

from nav_msgs.msg import Path as PathMessage
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from qwen3vl_ros import msg
from qwen3vl_ros.convert import frame_id_of, rgb_of
from qwen3vl_ros.inspection import looks
from qwen3vl_ros.inspection.alarms import AlarmRule, State
from qwen3vl_ros.inspection.inspector import APART_S, EVENT, WINDOW, Inspector, Outcome
from qwen3vl_ros.inspection.points import Point, read_points
from qwen3vl_ros.inspection.readings import Reason
from qwen3vl_ros.inspection.recorder import Recorder
from qwen3vl_ros.inspection.report import write_report
from qwen3vl_ros.node import inspection_messages as as_message
from qwen3vl_ros.node.messages import header_of
from qwen3vl_ros.node.perception.agenda import Asked, Call, Job, Watch
from qwen3vl_ros.node.perception.channel import Channel
from qwen3vl_ros.node.perception.diagnostics import Level
from qwen3vl_ros.node.perception.mailbox import Snapshot
from qwen3vl_ros.node.perception.services import CALLS, NotReady
from qwen3vl_ros.questions import phrases
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.srv import AlarmCommand, Inspect, Report, SetWatch
from qwen3vl_ros.types import Frame, InvalidInput, PerceptionError, quoted

NAMES = ("inspect", "set_watch", "alarm_command", "report", "readings", "events", "alarms", "path")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Each is said once, and some as soon as the node is active: whoever subscribes a moment later, or again, may ask for the last ones.
EVENTS = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICK_S = 1.0
MOST_PATHS, LONGEST_PATH = 64, 2000
_ABOUT = "inspect: "
_COMMANDS = {
    AlarmCommand.Request.ACKNOWLEDGE: "acknowledge",
    AlarmCommand.Request.SHELVE: "shelve",
    AlarmCommand.Request.UNSHELVE: "unshelve",
    AlarmCommand.Request.RESET: "reset",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_STEP_M = 0.02  # of a path


class Inspecting:
    """Of a PerceptionNode, from its making to its end. inspector: from configure to cleanup."""

    def __init__(self, node, channels: Mapping[str, Channel]):
        self._node, self._channels = node, channels
        self.inspector: Inspector | None = None
        self._publishers: dict[str, object] = {}
        self._paths: dict[str, deque] = {}
        # Of cameras with a question that is watched: a picture a second, whether or not the engine had time for it.
        self._recent: dict[str, deque[Snapshot]] = {}
        self._modified_ns, self._counts = 0, Counter()
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        group = ReentrantCallbackGroup()
        node.create_service(Inspect, "~/inspect", self._on_inspect, qos_profile=CALLS, callback_group=group)
        for kind, name in ((SetWatch, "set_watch"), (AlarmCommand, "alarm_command"), (Report, "report")):
            node.create_service(kind, f"~/{name}", functools.partial(self._serve, getattr(self, f"_on_{name}")))
        node.create_timer(TICK_S, self._tick, clock=self._clock)

    # -- lifecycle -------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Raises InvalidInput for an inspection file that is none."""
        config = self._node.config.inspection
        directory = Path(config.directory).expanduser() if config.directory else None
        recorder = Recorder(directory, config.quota * 10**6)
        points = self._read(Path(config.file).expanduser()) if config.file else ()
        self.inspector = Inspector(points, recorder, config.before, config.after, config.together)
        make = self._node.create_publisher
        self._publishers = {
            "readings": make(msg.Reading, "~/readings", 50),
            "events": make(msg.Event, "~/events", EVENTS),
            "alarms": make(msg.EventArray, "~/alarms", LATCHED),
        }

    def close(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers, self.inspector, self._paths = {}, None, {}

    def watch_all(self) -> None:
        """Have the agenda ask about every point; when the node becomes active, and when the points change."""
        inspector, thread = self.inspector, self._node.engine_thread
        if inspector is None or thread is None or not self._node.active:
            return
        wanted = {(self._camera(p.camera).name, _ABOUT + p.name): p for p in map(inspector.point, inspector.names)}
        asked = {camera for (camera, _), p in wanted.items() if inspector.is_watch(p.name)}
        self._recent = {camera: self._recent.get(camera) or deque(maxlen=WINDOW) for camera in asked}
        for camera, name in thread.watched(_ABOUT) - set(wanted):
            thread.unwatch(camera, name)
        for (camera, name), point in wanted.items():
            thread.watch(self._watch(camera, name, point))
        self._tell_alarms()

    def _watch(self, camera: str, name: str, point: Point) -> Watch:
        priority = max((rule.severity for rule in point.alarms), default=1)
        answer_s = self._channels[camera].config().generation.deadline
        return Watch(camera, name, self._asked(point), point.period_s, priority, bool(point.alarms), answer_s)

    @staticmethod
    def _asked(point: Point) -> Asked:
        return Asked(looks.question_of(point), about=point.name)

    def _camera(self, name: str) -> Channel:
        """Raises InvalidInput."""
        if name in self._channels:
            return self._channels[name]
        if not name and len(self._channels) == 1:
            return next(iter(self._channels.values()))
        known = ", ".join(self._channels) if "" not in self._channels else "one without a name; leave camera out"
        raise InvalidInput(f"camera {quoted(name)} is unknown; the cameras are {known}")

    def _read(self, path: Path) -> tuple[Point, ...]:
        """Raises InvalidInput."""
        points = read_points(path)
        for point in points:
            try:
                self._camera(point.camera)
            except InvalidInput as error:
                raise InvalidInput(f"{path}: point {point.name!r}: {error}") from None
        self._modified_ns = path.stat().st_mtime_ns
        return points

    # -- every image, from the executor's thread -----------------------------------------------------------

    def offer(self, camera: str, snapshot: Snapshot) -> None:
        """Every image of a camera; returns at once."""
        recent = self._recent.get(camera)
        if recent is None:
            return
        if recent and snapshot.stamp_ns < recent[-1].stamp_ns:  # they began anew
            recent.clear()
        if not recent or snapshot.stamp_ns - recent[-1].stamp_ns >= APART_S * 1e9:
            recent.append(snapshot)

    # -- looks, on the engine's thread ---------------------------------------------------------------------

    def picture(self, job: Job, frame: Frame) -> None:
        """Every frame that is taken, for the seconds before and after events."""
        if self.inspector is not None:
            self.inspector.picture(job.camera, frame)

    def look(self, perception, job: Job, frame: Frame, control) -> Outcome:
        """One look for a watch or a call; what it says is published, if it is still wanted."""
        inspector = self.inspector
        if inspector is None:
            raise InvalidInput("the node is not configured")
        before = self._before(job) if inspector.is_watch(job.asked.about) else ()
        outcome = inspector.look(perception, job.asked.about, frame, control, before)
        thread = self._node.engine_thread
        with thread.publishing:
            if job.watch is None or thread.is_current(job.watch):
                self._publish(outcome)
        reading = outcome.reading
        self._counts[f"readings: {reading.quality.name.lower()}"] += 1
        begun = any(event.after is State.PENDING for event in outcome.events)
        if job.watch and job.watch.alarm and (begun or reading.reason is Reason.IMPLAUSIBLE):
            thread.look_again(job.camera, job.watch.name)
        return outcome

    def _before(self, job: Job) -> list[Frame]:
        """The pictures of the last seconds before a job's own, oldest first."""
        most = self._channels[job.camera].config().max_image_pixels
        earlier = [s for s in tuple(self._recent.get(job.camera, ())) if s.stamp_ns < job.snapshot.stamp_ns]
        return [Frame(s.stamp_ns, frame_id_of(s.image.header), rgb_of(s.image, most)) for s in earlier]

    def _publish(self, outcome: Outcome) -> None:
        if not self._publishers:
            return
        self._publishers["readings"].publish(as_message.reading(outcome.reading))
        for event in outcome.events:
            self._publishers["events"].publish(as_message.event(event))
            self._node.get_logger().info(f"{event.name}: {event.before.value} -> {event.after.value}, {event.message}")
        if outcome.events:
            self._tell_alarms()

    def _tell_alarms(self) -> None:
        if self._publishers:
            now_ns = self._now_ns()
            self._publishers["alarms"].publish(as_message.events(header_of(now_ns, ""), self.inspector.active(now_ns)))

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    # -- once a second -------------------------------------------------------------------------------------

    def _tick(self) -> None:
        inspector, health = self.inspector, self._node.health
        if inspector is None:
            return
        self._reload_if_changed()
        if not self._node.active:
            return
        for reading in inspector.stale(self._now_ns()):
            self._publishers["readings"].publish(as_message.reading(reading))
        self._follow_paths()
        trouble = inspector.recorder.trouble
        if trouble:
            health.problem("evidence", Level.WARN, trouble)
        else:
            health.well("evidence")

    def report_health(self, behind: Mapping[str, float]) -> None:
        """What /diagnostics tells of inspection. behind: seconds that watches are late by."""
        health, inspector = self._node.health, self.inspector
        if inspector is None:
            return
        for name, count in self._counts.items():
            health.fact(name, count)
        health.fact("evidence lost", inspector.recorder.lost)
        late = sorted(((s, n) for n, s in behind.items()), reverse=True)
        said = ", ".join(f"{name.replace(_ABOUT, '')} by {s:.1f} s" for s, name in late[:10])
        health.fact("behind schedule", said or "none")
        if late:
            health.problem(
                "schedule", Level.WARN, f"{len(late)} watches are behind schedule: {said}; give them longer periods"
            )

    def _reload_if_changed(self) -> None:
        config = self._node.config.inspection
        if not config.file:
            return
        path = Path(config.file).expanduser()
        try:
            modified_ns = path.stat().st_mtime_ns
        except OSError:
            return  # an editor replaces it; what is loaded stays
        if modified_ns == self._modified_ns:
            return
        self._modified_ns = modified_ns
        try:
            self.inspector.reload(self._read(path))
        except PerceptionError as error:
            self._node.get_logger().error(f"the inspection file was not taken, the old points stay: {error}")
            self._node.health.failed("inspection file", Level.WARN, str(error), lasting=True)
            return
        self._node.health.well("inspection file")
        self._node.get_logger().info(f"inspection file read again: {len(self.inspector.points)} points")
        self.watch_all()

    def _follow_paths(self) -> None:
        wanted, following = self._node.config.inspection.paths, self._node.following
        if not wanted or following is None:
            return
        following.ask()
        for known in following.world.objects:
            if (
                known.label not in wanted
                or known.state == "lost"
                or len(self._paths) >= MOST_PATHS
                and known.id not in self._paths
            ):
                continue
            path = self._paths.setdefault(known.id, deque(maxlen=LONGEST_PATH))
            at = [float(v) for v in known.position_m]
            if path and (
                known.stamp_ns <= path[-1][0] or sum((a - b) ** 2 for a, b in zip(at, path[-1][1])) < _STEP_M**2
            ):
                continue
            path.append((known.stamp_ns, at))
            self.inspector.recorder.write(
                "path", known.stamp_ns, {"id": known.id, "label": known.label, "frame_id": known.frame_id, "xyz_m": at}
            )
            topic = f"path/{re.sub('[^A-Za-z0-9_]', '_', known.id)}"
            if topic not in self._publishers:
                name = topic if topic[5].isalpha() else f"path/id_{topic[5:]}"
                self._publishers[topic] = self._node.create_publisher(PathMessage, f"~/{name}", LATCHED)
            self._publishers[topic].publish(as_message.path(known.frame_id, list(path)))

    # -- services ------------------------------------------------------------------------------------------

    def _serve(self, handler, asked, response):
        try:
            if self.inspector is None:
                raise NotReady("the node is not configured; use its lifecycle transitions first")
            with survivable("while serving a call"):
                handler(asked, response)
            response.success = True
        except PerceptionError as error:
            response.success, response.message = False, f"{type(error).__name__}: {error}"
        return response

    def _on_set_watch(self, asked, response) -> None:
        name, inspector = asked.name.strip(), self.inspector
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"name {name!r:.80} must be a letter and then letters, digits or _")
        if not asked.question.strip() and not asked.anomaly:
            inspector.unwatch(name)
            response.message = f"{name} is watched no more"
        else:
            inspector.watch(self._watched(name, asked), asked.anomaly)
            response.message = f"watching {name}"
        self.watch_all()

    def _watched(self, name: str, asked) -> Point:
        """Raises InvalidInput."""
        region, at = None, asked.region
        if at.width or at.height:
            region = (at.x_offset, at.y_offset, at.x_offset + at.width, at.y_offset + at.height)
        period_s = asked.period or 1.0
        if not 0.05 <= period_s <= 86400:
            raise InvalidInput(f"period {asked.period} must be 0.05 to 86400 s, or 0 for 1 s")
        question = "does it look as it did?" if asked.anomaly else phrases.checked_question(asked.question)
        camera = self._camera(asked.camera)
        rule = AlarmRule(
            EVENT,
            above=0.004 if asked.anomaly else 0.5,
            on_delay_s=asked.on_delay,
            off_delay_s=asked.off_delay,
            stale_after_s=max(10.0, 5 * period_s),
            severity=asked.severity or 500,
            latch=asked.latch,
        )
        point = Point(name, "state", camera.name, name, "", region, question, alarms=(rule,), period_s=period_s)
        return replace(point, kind="anomaly") if asked.anomaly else point

    def _on_alarm_command(self, asked, response) -> None:
        if asked.command not in _COMMANDS:
            raise InvalidInput(
                f"command {asked.command} must be one of {', '.join(f'{k} ({v})' for k, v in _COMMANDS.items())}"
            )
        operator = asked.operator_name.strip()[:100]
        event = self.inspector.command(asked.name, _COMMANDS[asked.command], self._now_ns(), asked.duration, operator)
        response.event, response.message = as_message.event(event), event.message
        self._publishers["events"].publish(response.event)
        self._tell_alarms()

    def _on_report(self, asked, response) -> None:
        directory = self.inspector.recorder.directory
        if directory is None:
            raise InvalidInput("nothing is kept that could be reported; set the parameter inspection.directory")
        for name in asked.points:
            self.inspector.point(name)
        start_ns, end_ns = (t.sec * 10**9 + t.nanosec for t in (asked.start, asked.end))
        folder = write_report(directory, start_ns, end_ns or None, list(asked.points))
        response.uri, response.message = folder.absolute().as_uri(), f"written to {folder}"

    async def _on_inspect(self, asked, response):
        failed = ""
        try:
            if self.inspector is None or self._node.engine_thread is None or not self._node.active:
                raise NotReady("the node is not active; use its lifecycle transitions first")
            names = list(dict.fromkeys(asked.points)) or list(self.inspector.names)
            waiting = [(name, self._call(self.inspector.point(name), asked.timeout)) for name in names]
            for name, future in waiting:
                try:
                    response.readings.append(as_message.reading((await future).reading))
                except PerceptionError as error:
                    failed = failed or f"{name}: {type(error).__name__}: {error}"
        except PerceptionError as error:
            failed = f"{type(error).__name__}: {error}"
        response.success, response.message = not failed, failed or f"{len(response.readings)} points were looked at"
        return response

    def _call(self, point: Point, timeout_s: float) -> Future:
        """A future of an Outcome. Raises PerceptionError when the call cannot even wait."""
        future = Future(executor=self._node.executor)
        future.add_done_callback(lambda _: None)  # wakes the executor

        def answer(outcome: Outcome | None, error: Exception | None) -> None:
            future.set_exception(error) if error else future.set_result(outcome)

        timeout_s = timeout_s or self._node.config.request_timeout
        self._node.engine_thread.submit(Call(self._camera(point.camera).name, self._asked(point), timeout_s, answer))
        return future
