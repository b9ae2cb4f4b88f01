"""Questions in words: the answer as it is written, and the facts that it rests on beside it. About the camera, or about a picture
or a short video of one's own.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Mapping

import viser

from qwen3vl_ros.action import Ask
from qwen3vl_ros.msg import Fact
from qwen3vl_ros.types import PerceptionError
from qwen3vl_ros.web import html
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.panels.camera import CameraPanel
from qwen3vl_ros.web.robot import Robot
from qwen3vl_ros.web.uploads import MOST_MB, pictures_of, thumbnail_html

_VERDICTS = {Fact.UNKNOWN: ("unknown", "#888"), Fact.FALSE: ("false", "#e53935"), Fact.TRUE: ("true", "#43a047")}
_NAMES = ("OK", "NOT_FOUND", "AMBIGUOUS", "STALE", "NO_DEPTH", "TF", "TIMEOUT", "CANCELLED", "ERROR")
_CODES = {getattr(Ask.Result, name): name for name in _NAMES}
_KEPT = 6
_NAME = 80  # characters of a file's name


@dataclass
class Turn:
    """A question and what came of it so far."""

    question: str
    about: str
    answer: str = ""
    result: Any = None
    error: str = ""


@dataclass
class Asker:
    """What one browser asks about and with."""

    session: str
    pictures: list[Any] = field(default_factory=list)
    about: str = ""


class AskPanel(Panel):
    """Everybody sees the last questions and their answers; the line and the picture are one's own."""

    period_s = 0.1

    def __init__(self, server: viser.ViserServer, robot: Robot, picture: CameraPanel):
        self._robot, self._picture = robot, picture
        self._turns: deque[Turn] = deque(maxlen=_KEPT)
        self._changed = threading.Event()
        self._folder = server.gui.add_folder("Ask")
        with self._folder:
            self._said = server.gui.add_html(html.block("answers"), order=9)

    def join(self, client: viser.ClientHandle) -> None:
        asker = Asker(f"page-{secrets.token_hex(6)}")
        with self._folder:
            with client.gui.add_form(None, order=1) as form:
                line = client.gui.add_text("question", "", hint="Where is the mug? - 杯子在哪里？", order=1)
                client.gui.add_button("Ask", order=2).on_click(lambda _: self._ask(asker, line.value))
            form.on_submit(lambda _: self._ask(asker, line.value))
            about = client.gui.add_html("", order=3, visible=False)
            upload = client.gui.add_upload_button(
                "Picture or video", hint=f"up to {MOST_MB} MB; asked about in place of the camera",
                mime_type="image/*,video/*", order=4,
            )  # fmt: skip
            back = client.gui.add_button("Back to the camera", order=5, visible=False)

        def given(_: Any) -> None:
            name = upload.value.name[:_NAME]
            try:
                asker.pictures = pictures_of(name, upload.value.content)
            except PerceptionError as error:
                client.add_notification("This file cannot be asked about", str(error), color="red")
                return
            asker.about = name
            about.content = html.block("given", thumbnail_html(asker.pictures), html.text(asker.about))
            about.visible = back.visible = True

        def returned(_: Any) -> None:
            asker.pictures, asker.about, about.visible, back.visible = [], "", False, False

        upload.on_upload(given)
        back.on_click(returned)

    def update(self) -> None:
        if self._changed.is_set():
            self._changed.clear()
            self._said.content = html.block("answers", *(_shown(turn) for turn in reversed(self._turns)))

    def _ask(self, asker: Asker, question: str) -> None:
        if not question.strip():
            return
        goal = Ask.Goal(question=question, session=asker.session, measure=True, images=asker.pictures)
        if not asker.pictures and self._picture.camera.name:
            goal.cameras = [self._picture.camera.name]
        turn = Turn(question, asker.about or self._picture.camera.name)
        self._turns.append(turn)
        self._changed.set()

        def part(offset: int, delta: str) -> None:
            turn.answer = turn.answer[:offset].ljust(offset, "…") + delta
            self._changed.set()

        try:
            turn.result = self._robot.ask(goal, part)
            turn.answer = turn.result.answer
        except PerceptionError as error:
            turn.error = str(error)
        self._changed.set()


def _shown(turn: Turn) -> str:
    about = f' <span style="color:#888">({html.text(turn.about)})</span>' if turn.about else ""
    parts = [f"<b>{html.text(turn.question)}</b>{about}", f'<div class="answer">{html.text(turn.answer)}</div>']
    if (result := turn.result) is not None:
        if result.code != Ask.Result.OK:
            parts.append(html.note(f"{_CODES.get(result.code, result.code)} {result.message}", "#e53935"))
        if result.disagreement:
            parts.append(html.note(f"the model said: {result.model_answer} ({result.disagreement})", "#ef6c00"))
        names = {
            d.id: d.results[0].hypothesis.class_id for of in result.detections_2d for d in of.detections if d.results
        }
        parts.append(facts_html(result.facts, names))
    elif not turn.error:
        parts.append(html.note("…"))
    if turn.error:
        parts.append(html.note(turn.error, "#e53935"))
    return f'<div class="turn" style="margin-bottom:8px">{"".join(parts)}</div>'


def facts_html(facts: Any, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """A line a fact: what was stated, whether it holds, by how much. names: of things, by the ids that facts have for them."""
    rows = []
    for fact in facts:
        verdict, colour = _VERDICTS.get(fact.verdict, ("?", "#888"))
        values = ", ".join(f"{q.name} {q.value:.3f} {q.unit}".strip() for q in fact.values)
        margin = f"margin {fact.margin:+.3f} m" if fact.margin == fact.margin else ""
        rows.append((
            html.text(f"{fact.relation}({', '.join(f'{names[a]} {a}' if a in names else a for a in fact.arguments)})"),
            f'<span style="color:{colour}">{verdict}</span>',
            html.text("; ".join(filter(None, (values, margin, fact.reason if fact.verdict == Fact.UNKNOWN else "")))),
        ))  # fmt: skip
    return f'<div class="facts" style="font-size:12px;opacity:0.75">{html.table(rows)}</div>' if rows else ""
