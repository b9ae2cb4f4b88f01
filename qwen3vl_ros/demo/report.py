"""The demo's log of frames and answers, scene by scene; what a person reads meanwhile, and at the end.

A scene lasts as long as two frames in a row have an object in common (same name, same size). Knows nothing of
ROS.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Sequence

from qwen3vl_ros.demo.score import RULE, FrameScore, Heard, Tally, TruthObject, score_answer
from qwen3vl_ros.types import InvalidInput


@dataclass
class SceneLog:
    """One table-top: what stands on it, and the answers about it. prompts: those asked, in order."""

    number: int
    first_stamp_ns: int
    objects: tuple[str, ...]
    tally: Tally = field(default_factory=Tally)
    prompts: list[tuple[str, ...]] = field(default_factory=list)


class Log:
    """Every frame's truth and every answer, scored as they come in."""

    def __init__(self) -> None:
        self.total = Tally()
        self.scenes: list[SceneLog] = []
        self.unscored = 0
        self.scored: list[tuple[Heard, FrameScore]] = []
        self._truth: dict[int, tuple[SceneLog, tuple[TruthObject, ...]]] = {}
        self._objects: set = set()

    def add_truth(self, stamp_ns: int, truths: Sequence[TruthObject]) -> bool:
        """The truth of the image with that stamp; returns whether a new scene begins with it."""
        objects = {(t.label, t.size_m) for t in truths}
        new = not self.scenes or bool(objects) and not objects & self._objects
        self._objects = objects or self._objects
        if new:
            self.scenes.append(SceneLog(len(self.scenes) + 1, stamp_ns, tuple(t.label for t in truths)))
        self._truth[stamp_ns] = (self.scenes[-1], tuple(truths))
        return new

    def add_answer(self, answer: Heard) -> FrameScore | None:
        """Score an answer; None, and counted as unscored, when the truth of its image was never received."""
        if answer.stamp_ns not in self._truth:
            self.unscored += 1
            return None
        scene, truths = self._truth[answer.stamp_ns]
        score = score_answer(answer, truths)
        for tally in (scene.tally, self.total):
            tally.add(answer, score)
        if answer.prompt not in scene.prompts:
            scene.prompts.append(answer.prompt)
        self.scored.append((answer, score))
        return score

    @property
    def frames(self) -> int:
        """Camera frames whose truth was received."""
        return len(self._truth)

    def truth_of(self, stamp_ns: int) -> tuple[TruthObject, ...]:
        return self._truth[stamp_ns][1]

    def scene_of(self, stamp_ns: int) -> SceneLog:
        return self._truth[stamp_ns][0]

    def answer_log(self) -> list[dict]:
        """Every scored answer in the model's own words, and what came of it."""
        return [
            {
                "stamp_ns": a.stamp_ns,
                "scene": self.scene_of(a.stamp_ns).number,
                "prompt": list(a.prompt),
                "text": a.text,
                "finish_reason": a.finish_reason,
                "error": a.error,
                "found": len(s.matches),
                "wanted": len(s.wanted),
                "wrong": len(s.wrong),
                "latency_s": round(a.latency_s, 4),
                "engine_s": round(a.engine_s, 4),
                "tokens": a.tokens,
                "grasps": [
                    {
                        "label": g.label,
                        "feasible": g.feasible,
                        "quality": round(g.quality, 3),
                        "reason": g.reason,
                    }
                    for g in a.grasps
                ],
            }
            for a, s in self.scored
        ]

    def figures(self) -> dict:
        """The totals and, under "scenes", the same for each scene."""
        return {
            "frames": self.frames,
            **self.total.summary(),
            "unscored": self.unscored,
            "scenes": [
                {
                    "scene": s.number,
                    "objects": list(s.objects),
                    "prompts": [list(p) for p in s.prompts],
                    **s.tally.summary(),
                }
                for s in self.scenes
            ],
        }


class StatusLine:
    """One line that is written over on a terminal; elsewhere only `say` prints, and `show` now and then."""

    PERIOD_S = 5.0

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._shown_s = 0.0
        self.said: list[str] = []

    def show(self, text: str) -> None:
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif time.monotonic() - self._shown_s >= self.PERIOD_S:
            self._shown_s = time.monotonic()
            print(text, flush=True)

    def say(self, text: str) -> None:
        self.clear()
        self._shown_s = time.monotonic()
        self.said.append(text)
        print(text, flush=True)

    def clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", flush=True)


def scene_line(scene: SceneLog) -> str:
    """One line about a scene that is over."""
    tally = scene.tally
    return (
        f"scene {scene.number}: {tally.answers} answers, "
        f"{tally.right} of {tally.wanted} found, {tally.wrong} wrong, "
        f"{tally.feasible} of {tally.grasp_targets} grasps feasible  ({', '.join(scene.objects)})"
    )


COLUMNS = ("scene", "answers", "found", "wrong", "mean IoU", "3D error", "grasps", "latency", "on the table")


def table(log: Log) -> str:
    """One row a scene and one for all; a dash where nothing was measured."""
    rows = [COLUMNS]
    for scene in log.scenes:
        asked = [" + ".join(p) for p in scene.prompts if len(p) == 1]
        note = f"  (asked for: {', '.join(asked)})" if asked else ""
        rows.append(_row(str(scene.number), scene.tally, ", ".join(scene.objects) + note))
    rows.append(_row("all", log.total, f"{len(log.scenes)} scenes, {log.frames} camera frames"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    lines = ["  ".join([*(cell.rjust(w) for cell, w in zip(row, widths)), row[-1]]) for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.insert(len(lines) - 1, lines[1])
    return "\n".join(lines)


def _row(name: str, tally: Tally, note: str) -> tuple[str, ...]:
    figures = tally.summary()

    def show(key: str, text: str) -> str:
        return "-" if figures[key] is None else text.format(figures[key])

    return (
        name,
        str(tally.answers),
        f"{tally.right}/{tally.wanted}",
        str(tally.wrong),
        show("mean_iou", "{:.2f}"),
        show("centre_error_mm_median", "{:.1f} mm"),
        f"{tally.feasible}/{tally.grasp_targets}",
        show("latency_ms_p50", "{:.0f} ms"),
        note,
    )


def write_transcript(readme: Path, lines: Sequence[str]) -> None:
    """Replace what stands between a page's marks <!-- demo output -->. Raises InvalidInput without them."""
    parts = re.split(r"(<!-- /?demo output -->\n)", readme.read_text())
    if len(parts) != 5:
        raise InvalidInput(
            f"{readme} must hold one line <!-- demo output --> and after it one line <!-- /demo output -->"
        )
    parts[2] = "".join(f"    {line}".rstrip() + "\n" for line in ("$ make demo", *lines))
    readme.write_text("".join(parts))


LEGEND = (
    "found: objects found of those that should be, over all answers; wrong: boxes of nothing asked for;\n"
    "3D error: median distance of the box's centre from the truth; grasps: feasible of all;\n"
    "latency: median, from the image's stamp to publishing.\n" + RULE
)
