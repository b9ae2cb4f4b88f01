"""One run of the demo: the camera and the node as processes, driven and measured over topics and services.

Knows ROS only through the observer, which is imported when a run starts.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np

from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.demo.output import RESULTS, Output
from qwen3vl_ros.demo.pictures import Gallery
from qwen3vl_ros.demo.processes import Children, Interrupts, node_command, tail
from qwen3vl_ros.demo.reading import answer_of_ask, fact_line
from qwen3vl_ros.demo.recording import Recording
from qwen3vl_ros.demo.report import LEGEND, Log, StatusLine, scene_line, table, write_transcript
from qwen3vl_ros.demo.score import RULE, Heard, TruthObject
from qwen3vl_ros.demo.shared_memory import freed_at_the_end
from qwen3vl_ros.files import write_whole
from qwen3vl_ros.questions.aliases import in_chinese
from qwen3vl_ros.types import Frame, PerceptionError

CAMERA_PATIENCE_S = 90.0  # the first picture may wait for shaders to compile
NODE_PATIENCE_S = 1800.0  # a large model may come over the network
LAST_ANSWER_S = 8.0  # after the camera's time is over, for the answer in flight
OBEYED = ("instructions", "executed", "verified", "false_success")  # of the arm, in the last line
FIRST_ANSWER_S = 60.0  # a slow machine may need more than the camera's time for the first one
NODE_MODULE, CAMERA_MODULE = "qwen3vl_ros.node.perception.main", "qwen3vl_ros.node.sim_camera"


class Demo:
    """One run: start, drive, report."""

    def __init__(self, options: argparse.Namespace, output: Output, interrupts: Interrupts):
        self.options, self._output, self.out, self._interrupts = options, output, output.work, interrupts
        self.log, self.gallery = Log(), Gallery()
        self._status = StatusLine()
        self._first_ns = self._last_ns = self._scene_ns = 0
        self._node_peak_mb: float | None = None
        self._plan: list[tuple[float, Callable[[TruthObject, float], None]]] = []
        self._restore_s: float | None = None
        self._asked_twice = False
        self._looks: list[dict[str, Any]] = []
        self._asked: list[dict[str, Any]] = []
        self._truths: tuple[TruthObject, ...] = ()
        self._last_answer, self._arrived = "no answer yet", 0
        self._unwritten: list[str] = []
        self._inspected: dict[str, Any] = {}
        self._obeyed: dict[str, Any] = {}

    def run(self) -> int:
        """Start, drive, stop; then write and print. Raises PerceptionError when a process died."""
        try:
            from qwen3vl_ros.demo.observer import Observer, message_definition
        except ImportError as error:
            raise PerceptionError(
                f"{error}. The demo needs ROS 2 and the built interfaces: run `make demo`, or "
                "`source scripts/env.sh` first"
            ) from error
        with (
            Recording(self.out / "demo.mcap", message_definition) as recording,
            freed_at_the_end(),
            Children(self.out) as children,
        ):
            self._children = children
            self._observer = Observer(
                recording,
                self.options.targets,
                self._on_image,
                self._on_truth,
                self._on_answer,
                self._on_wait,
            )
            try:
                self._start()
                self._drive()
            finally:
                self._status.clear()
                self._observer.close()
        self._inspect()
        self._do_as_told()
        self._interrupts.let_through()
        if recording.failure:
            self._unwritten.append(f"demo.mcap ({recording.failure})")
        return self._report(recording.counts)

    # -- start -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """The node first, until it is active; then the camera, so that all its time is seen."""
        o, model = self.options, self.options.model or "the embedded model"
        self._status.say(
            f"ROS domain {os.environ['ROS_DOMAIN_ID']}, this machine only; looking for {', '.join(o.targets)}"
        )
        self._children.start("node", node_command(NODE_MODULE, model=o.model, device=o.device, targets=o.targets))
        waited_s = self._wait("node", f"loading {model}", self._observer.is_active, NODE_PATIENCE_S)
        self._observer.spin(2.0, lambda: "engine" in self._observer.health)
        # Without the reasons, which are in results.json.
        engine = self._observer.health.get("engine", model).split(" (")[0].replace(f"{Path.cwd()}{os.sep}", "")
        self._status.say(f"perception node: active after {waited_s:.1f} s, {engine}")
        self._children.start(
            "camera",
            node_command(
                CAMERA_MODULE,
                seed=o.seed,
                rate=o.rate,
                motion=o.motion,
                scene_every=o.scene_seconds,
                objects=o.objects,
            ),
        )
        self._wait("camera", "starting the simulated camera", lambda: self._last_ns > 0, CAMERA_PATIENCE_S)
        self._status.say(
            f"simulated camera: {o.rate:g} Hz for {o.seconds:g} s, another table-top every {o.scene_seconds:g} s"
        )

    def _wait(self, name: str, doing: str, done: Callable[[], bool | None], patience_s: float) -> float:
        """Until done(), showing the seconds; returns them. Raises PerceptionError with the end of the log."""
        started = time.monotonic()
        while not done():
            waited_s = time.monotonic() - started
            self._status.show(f"{doing} ... {waited_s:.0f} s")
            self._observer.spin(0.1)
            if waited_s > patience_s:
                log = self._children.log_path(name)
                raise PerceptionError(f"{doing} took more than {patience_s:.0f} s. End of {log}:\n{tail(log)}")
        return time.monotonic() - started

    # -- drive -----------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        """Camera time passes; a third on, one object is asked for by ~/set_prompt, later by ~/detect, and at last in words by ~/ask."""
        seconds = self.options.seconds
        self._plan = [
            (seconds / 3, self._ask_for_one),
            (seconds * 2 / 3, self._look_once),
            (seconds * 0.85, self._ask_where),
        ]
        began_s = time.monotonic()
        while self._camera_s < seconds or self._still_nothing and time.monotonic() - began_s < seconds + FIRST_ANSWER_S:
            if (
                not self._still_nothing
            ):  # what is asked for goes before the stream, which would never get there on a slow machine
                self._keep_to_plan(self._camera_s)
            self._next_frame()
            self._status.show(f"  {self._camera_s:5.1f} s  {self._last_answer}")
        if not self._asked and (chosen := self._choice()):  # a slow machine had no time for it
            self._ask_where(chosen, self._camera_s)
        arrived = self._arrived
        self._observer.spin(LAST_ANSWER_S, lambda: self._arrived > arrived)
        self._observer.spin(0.3)  # its pictures are published last
        self._observer.flush()
        self._node_peak_mb = self._children.peak_memory_mb("node")
        if self.log.scenes:
            self._status.say(scene_line(self.log.scenes[-1]))

    def _keep_to_plan(self, now_s: float) -> None:
        targets, scene_seconds = self.options.targets, self.options.scene_seconds
        if self._plan and now_s >= (due_s := self._plan[0][0]):
            # Early in a table-top, so that what is asked for stays on it; but not much later than planned.
            if self._scene_s < 0.4 * scene_seconds or now_s > due_s + 0.5 * scene_seconds:
                if chosen := self._choice():
                    self._plan.pop(0)[1](chosen, now_s)
        if self._restore_s is not None:
            answered = any(answer.prompt != tuple(targets) and score.wanted for answer, score in self.log.scored)
            if now_s >= self._restore_s + (0 if answered else scene_seconds):
                self._restore_s = None
                self._observer.set_prompt(targets)
                self._status.say(f"  {now_s:5.1f} s  ~/set_prompt: back to {', '.join(targets)}")
                if not answered and not self._asked_twice:  # a slow machine answered on the next table-top alone
                    self._asked_twice = True
                    self._plan.insert(0, (now_s, self._ask_for_one))

    def _next_frame(self) -> None:
        seen_ns, started = self._last_ns, time.monotonic()
        while not self._observer.spin(0.25, lambda: self._last_ns > seen_ns):
            if time.monotonic() - started > CAMERA_PATIENCE_S:
                log = self._children.log_path("camera")
                raise PerceptionError(
                    f"the camera fell silent for {CAMERA_PATIENCE_S:.0f} s. End of {log}:\n{tail(log)}"
                )

    def _choice(self) -> TruthObject | None:
        """The most visible object on the table whose name is its alone."""
        truths = self._truths
        names = [t.label for t in truths]
        alone = [t for t in truths if names.count(t.label) == 1]
        return max(alone, key=lambda t: t.visible, default=None)

    def _ask_for_one(self, chosen: TruthObject, now_s: float) -> None:
        """Change the stream's prompt to one description, for most of this table-top's time."""
        phrase = f"the {chosen.label}"
        prompt_id = self._observer.set_prompt([phrase])
        self._status.say(f'  {now_s:5.1f} s  ~/set_prompt "{phrase}": answers carry prompt id {prompt_id} from now on')
        scene_seconds = self.options.scene_seconds
        self._restore_s = now_s + max(0.8 * (scene_seconds - self._scene_s), 0.2 * scene_seconds)

    def _look_once(self, chosen: TruthObject, now_s: float) -> None:
        """One call of ~/detect, ahead of the stream."""
        phrase, started = f"the {chosen.label}", time.monotonic()
        answer, message = self._observer.detect([phrase])
        took_ms = 1000 * (time.monotonic() - started)
        where = [f"{np.linalg.norm(d.frame_T_box[:3, 3]):.2f} m away" for d in answer.detections_3d[:1]]
        where += ["a feasible grasp" if any(g.feasible for g in answer.grasps) else "no feasible grasp"] * bool(
            answer.grasps
        )
        self._looks.append(
            {
                "targets": [phrase],
                "success": not answer.error,
                "message": message,
                "took_ms": round(took_ms),
                "detections": len(answer.detections_2d),
            }
        )
        self._status.say(f'  {now_s:5.1f} s  ~/detect "{phrase}": {"; ".join([message, *where])}; {took_ms:.0f} ms')

    def _ask_where(self, chosen: TruthObject, now_s: float) -> None:
        """Where it is, through ~/ask, in English and in Chinese: a cup, if there is one, which the model calls a mug."""
        labels = [t.label for t in self._truths]
        mugs = [label for label in labels if label.split()[-1] == "mug"]
        name = "cup" if len(mugs) == 1 else chosen.label
        for question in (f"Where is the {name}?", f"{'杯子' if name == 'cup' else in_chinese(name)}在哪里？"):
            started = time.monotonic()
            for _ in range(8):
                result, seen = self._observer.ask(question)
                if result.code != result.STALE:  # on a busy machine depth may come too late for its picture
                    break
            took_ms = 1000 * (time.monotonic() - started)
            facts = ", ".join(map(fact_line, result.facts))
            self._asked.append(
                {
                    "question": question,
                    "answer": result.answer,
                    "code": result.code,
                    "message": result.message,
                    "visible": self._visible(name, result),
                    "facts": facts,
                    "took_ms": round(took_ms),
                }
            )
            self._status.say(f"  {now_s:5.1f} s  ~/ask {question}  {result.answer}  [{facts}]; {took_ms:.0f} ms")
            if seen is not None:
                self.gallery.add_asked(seen, answer_of_ask(result, name), f"{question}  {result.answer}")

    def _visible(self, name: str, result: Any) -> list[float] | None:
        """Visible shares of what was asked for in the picture that was answered; None where its truth is not known."""
        stamps = [stamp_ns(array.header) for array in result.detections_2d[:1]]
        try:
            truths = self.log.truth_of(stamps[0])
        except (IndexError, KeyError):
            return None
        return [t.visible for t in truths if (t.label.split()[-1] == "mug" if name == "cup" else t.label == name)]

    # -- what arrives ----------------------------------------------------------------------------------------

    @property
    def _camera_s(self) -> float:
        return (self._last_ns - self._first_ns) / 1e9

    @property
    def _scene_s(self) -> float:
        return (self._last_ns - self._scene_ns) / 1e9

    @property
    def _still_nothing(self) -> bool:
        """No answer counts yet: a run measures at least one, however slow the machine is."""
        return not self.log.total.answers

    @property
    def _measured_s(self) -> float:
        """Camera time from the first truth to the last picture that counts."""
        last_ns = max((answer.stamp_ns for answer, _ in self.log.scored), default=self._first_ns)
        return max(min(self._camera_s, self.options.seconds), (last_ns - self._first_ns) / 1e9)

    def _on_wait(self) -> None:
        self._interrupts.check()
        self._children.check()

    def _on_image(self, stamp_ns: int, rgb: np.ndarray) -> None:
        self.gallery.add_live(stamp_ns, rgb)

    def _on_truth(self, stamp_ns: int, truths: tuple[TruthObject, ...]) -> None:
        self._first_ns = self._first_ns or stamp_ns
        self._last_ns, self._truths = stamp_ns, truths
        if self._camera_s > self.options.seconds and not self._still_nothing:
            return  # the camera runs on while the last answer is awaited
        if self.log.add_truth(stamp_ns, truths):
            self._scene_ns = stamp_ns
            if len(self.log.scenes) > 1:
                self._status.say(scene_line(self.log.scenes[-2]))

    def _on_answer(self, answer: Heard, frame: Frame | None) -> None:
        self._arrived += 1
        # The clock starts with the first truth that came: DDS may bring the images a second earlier.
        late = answer.stamp_ns - self._first_ns > self.options.seconds * 1e9 and not self._still_nothing
        if not self._first_ns or answer.stamp_ns < self._first_ns or late:
            return
        score = self.log.add_answer(answer)
        if score is None:
            return
        self._last_answer = (
            f"answer {self.log.total.answers}: {len(score.matches)} of {len(score.wanted)} found, "
            f"{answer.latency_s * 1000:.0f} ms after its image"
        )
        if frame is not None:
            self.gallery.add_answer(self.log.scene_of(answer.stamp_ns).number, answer, score, frame)

    def _inspect(self) -> None:
        """A dial on a plant panel passes its red line."""
        o = self.options
        if o.panel_seconds > 0:
            from qwen3vl_ros.demo.panel import watch_panel

            self._inspected = watch_panel(self.out, o.panel_seconds, o.model, o.device, self._status.say, lambda: None)

    def _do_as_told(self) -> None:
        """An arm carries out two orders."""
        if self.options.arm:
            from qwen3vl_ros.demo.arm import carry_out_orders

            self._status.say("simulated arm: two orders in words, each step seen to be done or not done")
            self._obeyed = carry_out_orders(self.out, self.options.model, self.options.device, self._status.say)

    # -- report ----------------------------------------------------------------------------------------------

    def _report(self, recorded: dict[str, int]) -> int:
        o, health, figures = self.options, self._observer.health, self.log.figures()
        scenes = figures.pop("scenes")
        figures.update(
            frames=self._observer.images,
            camera_s=round(self._measured_s, 1),
            dropped=int(health.get("dropped: stale", 0)),
            passed_over=int(health.get("dropped: replaced by a newer", 0)),
            node_peak_memory_mb=self._node_peak_mb,
        )
        figures.update({name: self._obeyed[name] for name in OBEYED if name in self._obeyed})
        print("writing the video and the pictures ...", flush=True)
        results = {
            **figures,
            "rule": RULE,
            "model": o.model or "embedded",
            "engine": health.get("engine", ""),
            "options": vars(o),
            "scenes": scenes,
            "detect_calls": self._looks,
            "questions": self._asked,
            "inspection": self._inspected,
            "arm": self._obeyed,
            "recorded": recorded,
            "diagnostics": health,
            "answer_log": self.log.answer_log(),
        }
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        self._write(RESULTS, lambda path: write_whole(path, text.encode()))
        self._write("annotated.mp4", self.gallery.write_video)
        self._write("asked.png", self.gallery.write_asked)
        pictures = self._write("pictures", lambda path: self.gallery.write_pictures(path.parent)) or []
        print(f"\n{table(self.log)}\n\n{LEGEND}\n")
        rate_hz = figures["answers"] / max(figures["camera_s"], 1e-9)
        closing = (
            f"{figures['answers']} answers in {figures['camera_s']:g} s of camera time, "
            f"{rate_hz:.1f} a second, each for the newest image when it began;\n"
            f"{figures['passed_over']} images came and went while the model was busy, "
            f"{figures['dropped']} were dropped as too old. This machine: {os.cpu_count()} CPU cores."
        )
        if self._node_peak_mb:
            closing += f"\nThe node with its model took at most {self._node_peak_mb:.0f} MB of memory."
        print(closing)
        if self._unwritten:
            print(
                f"not written into {self.out}/: {', '.join(self._unwritten)}; free some space, or name another: --output"
            )
        else:
            self._output.finish()
            more = "".join(f", {name}" for name in ("asked.png", "arm.mp4") if (self._output.folder / name).exists())
            print(
                f"in {self._output.folder}/: annotated.mp4, demo.mcap (for Foxglove), results.json{more}"
                + "".join(f", {p.name}" for p in pictures)
            )
        if not figures["answers"]:
            print("no answer came: is the model too slow here? See node.log, or give it more --seconds")
        elif not self.log.total.right:
            print("nothing was detected; the model's own words are in results.json, the node's in node.log")
        if o.readme and self.log.total.right:
            write_transcript(
                Path(o.readme),
                "\n".join([*self._status.said, "", table(self.log), "", LEGEND, "", closing]).splitlines(),
            )
            self.gallery.write_poster(Path(o.readme).parent / "docs" / "demo.png")
        print("demo: " + json.dumps(figures), flush=True)
        return 0 if self.log.total.right and not self._unwritten else 1

    def _write(self, name: str, write: Callable[[Path], Any]) -> Any:
        """What write(path) returns; None where the disk did not take it, which the end of the report says."""
        try:
            return write(self.out / name)
        except OSError as error:
            self._unwritten.append(f"{name} ({error.strerror or error})")
            return None
